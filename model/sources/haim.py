"""HAIM-MIMIC-MM from the user's own credentialed files to a cohort folder.

The embedding table `cxr_ic_fusion_1103.csv` (PhysioNet, haim-multimodal 1.0.1; Soenksen et al., npj Digit Med
2022;5:149) has one row a chest image: 4,845 features of 11 sources in 4 modalities. Patients come from HAIM's key file,
diagnoses from MIMIC-IV's diagnoses_icd; the tasks are those of the M3H paper (section 4.2). Nothing of it is shipped.
docs/haim.md says what was decided and why.

The table is read twice and in pieces: once for ids and outcomes, which fit memory, once for the features of the rows
that stay, which go to NumPy files piece by piece and are mapped from there on.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from model.cohorts.folder_reader import DESCRIPTION, FORMAT
from model.cohorts.folder_writer import check_free
from model.sources import haim_features, haim_tables, haim_tasks
from model.sources.haim_tables import PATHOLOGIES, Source, Tell
from model.sources.haim_tasks import RADIOLOGY
from tim_search.gates.files import new_folder
from tim_search.types import Task

#: Columns of the table that are never an input, and why.
CLOSED: Mapping[str, str] = {
    "discharge_location": "where the patient went in the end; DIED is the outcome itself",
    "img_length_of_stay": "hours from the image to the discharge: the target of length_of_stay and mortality_48h",
    "death_status": "1 where discharge_location is DIED: the target of mortality_48h",
    "split": "a split by image, not by patient; the cohort has one by patient",
    **dict.fromkeys(PATHOLOGIES, "the target of pathology"),
    "Fracture": "read off the radiology report, as the targets of pathology are",
    "Lung Lesion": "read off the radiology report, as the targets of pathology are",
    "No Finding": "read off the radiology report: positive where no pathology is",
    "Pleural Effusion": "read off the radiology report, as the targets of pathology are",
    "Pleural Other": "read off the radiology report, as the targets of pathology are",
    "Support Devices": "read off the radiology report, as the targets of pathology are",
    "PerformedProcedureStepDescription": "describes the image, no feature of HAIM",
    "ViewPosition": "describes the image, no feature of HAIM",
    "img_charttime": "a date, shifted by patient",
    "img_deltacharttime": "hours from admission to the image, no feature of HAIM",
}
#: ... and why pathology may not have RADIOLOGY.
RADIOLOGY_WHY = "the pathology labels were read off the radiology reports these embed"

#: What a search over the published table can be compared with.
PUBLISHED: Mapping[str, str] = {
    "rows of the embedding table (PhysioNet)": "45,050",
    "HAIM, Soenksen 2022": "34,537 samples of 7,279 stays of 6,485 patients",
    "M3H, section 4": "12,586 samples of 5,178 stays; 10,025 to train, 2,561 to test",
}


@dataclass(frozen=True)
class _Content:
    """What the folder tells of its samples, in the order of `frame`'s rows; `make_labels` and `scorable` say what."""

    frame: pd.DataFrame
    sources: Sequence[Source]
    grouped: bool
    tasks: Mapping[str, Task]
    labels: Mapping[str, NDArray[np.float64]]
    classes: Mapping[str, tuple[str, ...]]
    stratum: Sequence[str]

    @cached_property
    def overlaps(self) -> dict[tuple[str, str], str]:
        return haim_tasks.overlaps_of(self.tasks, self.labels, self.classes)


def build(
    embeddings: Path,
    out: Path,
    *,
    keys: Path | None = None,
    mimic: Path | None = None,
    grouped: bool = False,
    tell: Tell = lambda *_: None,
) -> dict[str, Any]:
    """Write the cohort folder; it appears whole or not at all.

    Args:
        embeddings: `cxr_ic_fusion_1103.csv`, also compressed.
        out: a new or empty folder.
        keys: `haim_mimiciv_key_ids.csv`; default: looked for beside the embeddings and in `mimic`.
        mimic: folder of MIMIC-IV with hosp/diagnoses_icd.csv.gz and hosp/admissions.csv.gz (or core/, or flat, or not
            compressed). Without it the cohort has no diagnoses and no hospital-acquired infection.
        grouped: the paper's 4 modalities instead of one for each of the 11 sources. A sample then lacks a modality only
            where it lacks all of its sources, and what it lacks within one is HAIM's filler.

    Returns:
        the manifest, also written as manifest.json: rows, stays and patients after each filter, absent sources,
        labels and positives of each task, columns closed and why.

    Raises:
        BadInput: a file is not there, is not what it should be, or does not fit the others.
    """
    check_free(out)
    names = haim_tables.header(embeddings)
    sources = haim_tables.sources_of(embeddings, names)
    key_file = haim_tables.key_file_of(embeddings, keys, mimic)
    table, steps, key_note = haim_tables.read_rows(embeddings, key_file, tell)
    frame = table[table["kept"]].reset_index(drop=True)
    admissions = haim_tables.admissions_fit(frame, mimic, key_file)
    tasks, labels, classes, of_diagnoses = haim_tasks.make_labels(frame, mimic, tell)
    tasks, labels, left_out, stratum = haim_tasks.scorable(frame, tasks, labels, classes)
    content = _Content(frame, sources, grouped, tasks, labels, classes, stratum)
    with new_folder(out, "Name a folder on a disk with room.") as folder:
        (folder / "modalities").mkdir()
        absent = haim_features.write_features(
            embeddings, sources, table["kept"].to_numpy(), frame, grouped, folder, tell
        )
        manifest = {
            "files": haim_tables.file_sizes(embeddings, key_file, mimic),
            "keys": key_note,
            "admissions": admissions,
            "diagnoses": of_diagnoses,
            "steps": steps,
            "sources": {source.prefix: _count_source(source, absent[source.prefix]) for source in sources},
            "tasks": {name: _count(frame, labels[name], classes.get(name)) for name in labels},
            "left_out": left_out,
            "views": _views(frame, labels),
            "published": dict(PUBLISHED),
            "closed": _closed(names, tasks),
            "overlaps": [{"tasks": list(pair), "why": why} for pair, why in content.overlaps.items()],
        }
        _describe(folder, content, _write_samples(folder, content), {step["what"]: step["rows"] for step in steps})
        (folder / "manifest.json").write_text(json.dumps(manifest, indent=2, ensure_ascii=False), encoding="utf-8")
    return manifest


def _count_source(source: Source, absent: int) -> dict[str, Any]:
    return {"content": source.content, "modality": source.modality, "width": source.width, "absent": absent}


def _closed(columns: Sequence[str], tasks: Mapping[str, Task]) -> dict[str, str]:
    """The columns of the table that are no inputs, or not for a task, and why."""
    closed = {column: why for column, why in CLOSED.items() if column in columns}
    return closed | ({RADIOLOGY: f"for pathology: {RADIOLOGY_WHY}"} if "pathology" in tasks else {})


def _count(frame: pd.DataFrame, label: NDArray[np.float64], classes: Sequence[str] | None) -> dict[str, Any]:
    rows = frame[~np.isnan(label)]
    count: dict[str, Any] = {"labelled": len(rows), **haim_tables.people(rows)}
    if classes:
        count["classes"] = {name: int((label == code).sum()) for code, name in enumerate(classes)}
    elif set(np.unique(label[~np.isnan(label)])) <= {0.0, 1.0}:
        count["positives"] = int(np.nansum(label))
    else:
        count["mean"] = round(float(np.nanmean(label)), 3)
    return count


def _views(frame: pd.DataFrame, labels: Mapping[str, NDArray[np.float64]]) -> list[dict[str, Any]]:
    """Counts of samples under filters one could think of: no published one leads to the papers' numbers."""
    everything = np.ones(len(frame), bool)
    for label in labels.values():
        everything &= ~np.isnan(label)
    filters = {
        "a single positive pathology": ~np.isnan(labels["pathology"]) if "pathology" in labels else None,
        "labelled for mortality_48h": ~np.isnan(labels["mortality_48h"]) if "mortality_48h" in labels else None,
        "labelled for every task": everything,
        "the first image of each admission": ~frame["hadm_id"].duplicated().to_numpy(),
    }
    return [haim_tables.step(what, frame[rows]) for what, rows in filters.items() if rows is not None]


def _write_samples(folder: Path, content: _Content) -> dict[str, Any]:
    """Write samples.parquet; returns the tasks' entries of cohort.yaml, which name its columns."""
    frame = content.frame
    ids = {"haim_id": frame["haim_id"], "hadm_id": frame["hadm_id"], "patient_id": frame["subject_id"]}
    samples: dict[str, pa.Array] = {"sample_id": pa.array(frame["img_id"])}
    samples |= {name: pa.array(values.to_numpy(np.int64)) for name, values in ids.items()}
    samples["stratum"] = pa.array(content.stratum)
    entries: dict[str, Any] = {}
    for task in content.tasks.values():
        entry: dict[str, Any] = {"kind": task.kind}
        if task.kind == "clustering":
            entry["clusters"] = task.n_outputs
        else:
            entry["label"] = f"label_{task.name}"
            label, names = content.labels[task.name], content.classes.get(task.name)
            if names:
                given = [None if np.isnan(code) else names[int(code)] for code in label]
                samples[entry["label"]] = pa.array(given, pa.string())
                entry["classes"] = list(names)
            else:
                samples[entry["label"]] = pa.array(label, from_pandas=True)
        entry["department"] = task.department
        excludes = [pattern for pattern in task.excludes if any(s.prefix == "n_rad" for s in content.sources)]
        entries[task.name] = entry | ({"excludes": excludes} if excludes else {})
    pq.write_table(pa.table(samples), folder / "samples.parquet")
    return entries


def _describe(folder: Path, content: _Content, tasks: Mapping[str, Any], counts: Mapping[str, int]) -> None:
    """Write cohort.yaml."""
    from tim_search.gates import yaml

    modalities: dict[str, Any] = {}
    for name, members in haim_features.modalities_of(content.sources, content.grouped).items():
        if members[0].prefix == "de":
            modalities[name] = {"file": f"modalities/{name}.parquet"}
        else:
            columns = [column for source in members for column in haim_tables.columns_of(source)]
            chosen = {"columns": columns} if len(members) > 1 else {"prefix": f"{members[0].prefix}_"}
            modalities[name] = {"file": f"modalities/{name}.npy", **chosen}
    description = {
        "format": FORMAT,
        "name": "haim-mimic-mm",
        "info": {
            "description": "HAIM-MIMIC-MM: one sample a chest image, all that was known at its time",
            "citation": "Soenksen et al., npj Digit Med 2022;5:149; Johnson et al., Sci Data 2023;10:1",
            "licence": "PhysioNet Credentialed Health Data License; not to be passed on",
            "counts": dict(counts),
        },
        "sample_id": "sample_id",
        "patient_id": "patient_id",
        "stratify": "stratum",
        "modalities": modalities,
        "tasks": dict(tasks),
        "overlaps": [list(pair) for pair in sorted(content.overlaps)],
    }
    (folder / DESCRIPTION).write_text(yaml.dump(description, width=110), encoding="utf-8")
