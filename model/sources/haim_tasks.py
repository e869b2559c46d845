"""The tasks of the M3H paper (section 4.2) from the outcomes of HAIM's table and the diagnoses of MIMIC-IV."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from model.cohorts import checks, overlaps
from model.cohorts.cohort import make_split, patient_codes
from model.sources.haim_tables import PATHOLOGIES, Tell, mimic_file, readable
from tim_search.types import BadInput, Task

#: Inputs that pathology may not have.
RADIOLOGY = "n_rad_*"

#: Hours within which a death counts for mortality_48h.
HORIZON = 48
CLUSTERS = 15


@dataclass(frozen=True)
class Code:
    """A row of the table of diagnoses: a code of MIMIC-IV (without dot) that starts like `prefix` means the task."""

    task: str
    department: str
    version: int
    prefix: str


def diagnosis_table() -> pd.DataFrame:
    """The table of codes, to review: task, department, diagnosis, icd_version, prefix, title, source (all text)."""
    with (files("model") / "sources" / "files" / "haim" / "tasks.csv").open("rb") as stream:
        return pd.read_csv(stream, dtype=str, keep_default_na=False)


def codes() -> tuple[Code, ...]:
    """The rows of `diagnosis_table`."""
    rows = diagnosis_table().to_dict("records")
    return tuple(Code(r["task"], r["department"], int(r["icd_version"]), r["prefix"]) for r in rows)


def make_labels(
    frame: pd.DataFrame, mimic: Path | None, tell: Tell
) -> tuple[dict[str, Task], dict[str, NDArray[np.float64]], dict[str, tuple[str, ...]], str]:
    """Tasks and float64 (n,) labels, NaN where there is none."""
    positive = np.stack([frame[name].to_numpy() == 1 for name in PATHOLOGIES], axis=1)
    pathology = np.where(positive.sum(axis=1) == 1, positive.argmax(axis=1).astype(np.float64), np.nan)
    hours = frame["img_length_of_stay"].to_numpy(np.float64)
    hours = np.where(np.isfinite(hours) & (hours >= 0), hours, np.nan)
    died = frame["death_status"].to_numpy(np.float64)
    # HAIM's definition: who left alive within the 48 hours is neither dead nor known to have lived through them.
    soon = np.where(hours < HORIZON, np.where(died == 1, 1.0, np.nan), 0.0)
    soon[np.isnan(hours) | np.isnan(died)] = np.nan
    tasks = [
        Task("pathology", "multiclass", len(PATHOLOGIES), department="Thoracic testing", excludes=(RADIOLOGY,)),
        Task("length_of_stay", "regression", department="Hospital operations"),
        Task("mortality_48h", "binary", department="Hospital operations"),
    ]
    labels = {"pathology": pathology, "length_of_stay": hours / 24, "mortality_48h": soon}
    note = "none: no MIMIC-IV folder was named, so there are no diagnoses"
    if mimic is not None:
        diagnosed, note = _diagnoses(frame, mimic, tell)
        departments = {code.task: code.department for code in codes()}
        tasks += [Task(name, "binary", department=departments[name]) for name in diagnosed]
        labels |= diagnosed
    tasks.append(Task("phenotype", "clustering", CLUSTERS, department="Patient phenotyping"))
    return {task.name: task for task in tasks}, labels, {"pathology": PATHOLOGIES}, note


def _diagnoses(frame: pd.DataFrame, mimic: Path, tell: Tell) -> tuple[dict[str, NDArray[np.float64]], str]:
    """Labels of the diagnoses: 1 where the admission's discharge record holds a code of the task, else 0."""
    path = mimic_file(mimic, "diagnoses_icd")
    if path is None:
        raise BadInput(
            f"{mimic}: expected hosp/diagnoses_icd.csv.gz of MIMIC-IV (or the same without hosp/ or .gz), there is "
            "none. Name the folder of MIMIC-IV that holds it, or leave --mimic out and do without diagnoses."
        )
    wanted = pd.Index(frame["hadm_id"].unique())
    by_version = {version: [code for code in codes() if code.version == version] for version in (9, 10)}
    recorded: set[float] = set()
    has: dict[str, set[float]] = {code.task: set() for code in codes()}
    n_rows = 0
    # As text: the leading zero of 0389 is part of the code, and a code may be padded with spaces.
    kinds = {"hadm_id": np.float64, "icd_code": str, "icd_version": np.float64}
    with (
        readable(path, "hadm_id, icd_code and icd_version"),
        pd.read_csv(
            path, usecols=list(kinds), dtype=kinds, keep_default_na=False, na_values=[""], chunksize=500_000
        ) as parts,
    ):
        for whole in parts:
            part = whole[whole["hadm_id"].isin(wanted)]
            recorded |= set(part["hadm_id"].tolist())
            for version, listed in by_version.items():
                # One text is two things: E030 is a thyroid disease in ICD-10 and an activity in ICD-9.
                rows = part[part["icd_version"] == version].dropna(subset="icd_code")
                text = rows["icd_code"].str.strip().str.replace(".", "", regex=False).str.upper()
                of_code = {str(given): set(admissions) for given, admissions in rows["hadm_id"].groupby(text)}
                for code in listed:
                    for given, admissions in of_code.items():
                        if given.startswith(code.prefix):
                            has[code.task] |= admissions
            n_rows += len(part)
            tell("reading diagnoses", n_rows, None)
    hadm = frame["hadm_id"]
    known_of = hadm.isin(list(recorded)).to_numpy()
    labels = {
        task: np.where(known_of, hadm.isin(list(admissions)).to_numpy(np.float64), np.nan)
        for task, admissions in has.items()
    }
    return labels, f"{len(recorded)} of {len(wanted)} admissions have a discharge record, {n_rows} codes in all"


def scorable(
    frame: pd.DataFrame,
    tasks: Mapping[str, Task],
    labels: Mapping[str, NDArray[np.float64]],
    classes: Mapping[str, tuple[str, ...]],
) -> tuple[dict[str, Task], dict[str, NDArray[np.float64]], dict[str, str], list[str]]:
    """The tasks that every fold can score, why the others are left out, and the stratum of each sample."""
    stratum = _stratum(tasks, labels)
    patients, ids = patient_codes(frame["subject_id"].to_numpy(np.int64))
    if len(ids) < 10:
        raise BadInput(f"embeddings: {len(ids)} patients are too few for 5 folds and a test part; 10 are needed.")
    split = make_split(patients, ids, stratum)
    left_out: dict[str, str] = {}
    for finding in checks.label_findings(tasks, labels, classes, split):
        if finding.severity == "error":
            left_out.setdefault(finding.place.removeprefix("tasks."), finding.problem)
    rest = {name: task for name, task in tasks.items() if name not in left_out}
    return rest, {name: labels[name] for name in labels if name in rest}, left_out, stratum


def _stratum(tasks: Mapping[str, Task], labels: Mapping[str, NDArray[np.float64]]) -> list[str]:
    """The rarest outcome a sample has, of the rarest half: every part of the split gets its share of those."""
    binary = sorted((n for n in labels if tasks[n].kind == "binary"), key=lambda n: (np.nansum(labels[n]), n))
    rare = binary[: max(1, len(binary) // 2)]
    stratum = np.full(len(labels["pathology"]), "none", dtype=object)
    for name in reversed(rare):
        stratum[labels[name] == 1] = name
    return stratum.tolist()


def overlaps_of(
    tasks: Mapping[str, Task], labels: Mapping[str, NDArray[np.float64]], classes: Mapping[str, tuple[str, ...]]
) -> dict[tuple[str, str], str]:
    """Pairs of tasks that are one outcome read twice, in part: by their codes, or by their labels."""
    pairs: dict[tuple[str, str], str] = {}
    listed = [code for code in codes() if code.task in tasks]
    for a in listed:
        for b in listed:
            if (
                a.task < b.task
                and a.version == b.version
                and (a.prefix.startswith(b.prefix) or b.prefix.startswith(a.prefix))
            ):
                pairs.setdefault((a.task, b.task), f"both hold ICD-{a.version} {max(a.prefix, b.prefix, key=len)}")
    return pairs | {
        pair: why for pair, why in overlaps.overlapping(tasks, labels, classes).items() if pair not in pairs
    }
