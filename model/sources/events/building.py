"""From a MEDS folder and a folder of tasks to a cohort folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from model.cohorts.folder_reader import DESCRIPTION, FORMAT
from model.cohorts.folder_writer import check_free
from model.sources.events import features, references
from model.sources.events.description import Description, Reference, Sequence, Static, Vector, read_description
from model.sources.events.labels import Labels, read_labels
from model.sources.events.samples import FILE, SAMPLE, SUBJECT, Samples, make_samples
from model.sources.events.shards import Events, open_events
from model.sources.events.vocabulary import Vocabulary, matching, survey
from model.sources.events.writing import Count, Made, write_inputs
from model.sources.haim_tables import Tell
from tim_search.gates.files import new_folder
from tim_search.gates.texts import for_terminal
from tim_search.types import counted, some

#: Texts of so many characters on average may be notes.
_NOTE = 100


def build(
    data: Path,
    tasks: Path,
    out: Path,
    *,
    features_file: Path | None = None,
    meds_split: bool = False,
    tell: Tell = lambda *_: None,
) -> dict[str, Any]:
    """Write the cohort folder; it appears whole or not at all.

    Args:
        data: a MEDS folder.
        tasks: a folder of ACES configs, MEDS label tables (see `labels.read_labels`) and labels files (`stay_labels`).
        out: a new or empty folder.
        features_file: what to make of the events; the defaults of `description.Description` without one.
        meds_split: whether the test part is the held-out part of metadata/subject_splits.parquet.
        tell: is told what is being done, how many of how many.

    Returns:
        the manifest, also written as manifest.json: events, steps (rows after each), tasks, left_out, doubts, codes,
        modalities.

    Raises:
        BadInput: the folder is no MEDS folder, a task or the description cannot be used, or no task can be scored.
    """
    from model.sources.events.stay_labels import expanded

    check_free(out)
    description = read_description(features_file)
    with open_events(data) as events, expanded(tasks, events, lambda words: tell(words, 0, None)) as folder:
        labels = read_labels(folder, events, lambda words: tell(words, 0, None))
        return write(events, labels, folder, out, description, meds_split=meds_split, tell=tell)


def write(
    events: Events,
    labels: list[Labels],
    tasks: Path,
    out: Path,
    description: Description,
    *,
    meds_split: bool = False,
    tell: Tell = lambda *_: None,
) -> dict[str, Any]:
    """`build` for labels that are there already; `tasks` is the folder that may hold tasks.yaml."""
    quoted = [it for it in description.modalities if isinstance(it, Reference)]
    references.check_columns(quoted, events)
    with new_folder(out, "Name a folder on a disk with room.") as folder:
        (folder / "modalities").mkdir()
        samples = make_samples(labels, tasks, events, folder, meds_split)
        before = [task.name for task in labels if task.before]
        # The last moment a sample may see.
        last = samples.times - (0 if description.at_prediction and not before else 1)
        vocabulary = survey(events, samples, last, description, tell)
        inputs = [it for it in description.modalities if not isinstance(it, Reference)]
        modalities = [(it, features.signals_of(it, description, vocabulary, events)) for it in inputs]
        count = write_inputs(events, samples, last, description, vocabulary, modalities, folder, tell)
        _describe(folder, events, samples, modalities)
        doubts = [*_doubts(vocabulary, modalities, quoted, count, events, len(samples)), *_moments(before, description)]
        manifest = _manifest(events, labels, samples, vocabulary, modalities, count, doubts)
        text = json.dumps(manifest, indent=2, ensure_ascii=False)
        (folder / "manifest.json").write_text(text, encoding="utf-8")
    return manifest


def _describe(folder: Path, events: Events, samples: Samples, inputs: list[Made]) -> None:
    """Write cohort.yaml."""
    from tim_search.gates import yaml

    modalities: dict[str, Any] = {}
    for modality, of in inputs:
        if isinstance(modality, Static):
            levels: list[Mapping[str, Any]] = [*([{}] if modality.age else []), *of.levels]
            named = {name: list(its) for name, its in zip(of.columns, levels, strict=True) if its}
            modalities[of.name] = {"file": f"modalities/{of.name}.parquet"} | ({"levels": named} if named else {})
        else:
            kind = {"kind": "sequence"} if isinstance(modality, Sequence) else {}
            modalities[of.name] = {**kind, "file": f"modalities/{of.name}.npy", "columns": list(of.columns)}
    named_set = str(events.about.get("dataset_name") or events.root.resolve().name)
    info = {"description": f"made of the events of {named_set}: one sample a subject at a prediction time"}
    info |= {key: str(events.about[key]) for key in ("dataset_version", "license") if events.about.get(key)}
    description = {
        "format": FORMAT,
        "name": for_terminal(named_set),
        "info": {**info, "counts": dict(samples.counts)},
        "samples": FILE,
        "sample_id": SAMPLE,
        "patient_id": SUBJECT,
        "split": {"file": "split.parquet"},
        "modalities": modalities,
        "tasks": dict(samples.entries),
        "overlaps": [list(pair) for pair in sorted(samples.overlaps)],
    }
    (folder / DESCRIPTION).write_text(yaml.dump(description, width=110), encoding="utf-8")


def _moments(before: list[str], description: Description) -> list[str]:
    """What was decided about events at the prediction time itself."""
    if before:
        return [f"Events at the prediction time itself are no inputs: they belong to the outcome of {some(before)}."]
    return [] if description.at_prediction else ["Events at the prediction time itself are no inputs, as you asked."]


def _doubts(
    vocabulary: Vocabulary, inputs: list[Made], references_of: list[Reference], count: Count, events: Events, n: int
) -> list[str]:
    """What a person should know of the inputs, as sentences."""
    codes, doubts = vocabulary.codes, []
    common = codes["subjects"] >= 0.1 * vocabulary.subjects
    later = codes.index[codes["later"]]
    if len(later):
        used = [it.name for it, _ in inputs if isinstance(it, Vector) and it.coded_later]
        where = f"They are inputs of {some(used)}, as you asked." if used else "No inputs unless `coded_later: true`."
        codes_later = f"{counted(len(later), 'code')} ({_few(later)})"
        doubts.append(f"Given after the fact or stamped at the discharge: {codes_later}. {where}")
    by_day = sorted({it for _, of in inputs for it in of.signal} & set(codes.index[codes["by_day"]]))
    if by_day:
        doubts.append(
            f"Stamped with a day and no time, so counted from the end of it: {counted(len(by_day), 'code')} "
            f"({_few(by_day)})."
        )
    quoted = np.zeros(len(codes), bool)
    for reference in references_of:
        quoted |= matching(reference.codes, codes.index, events.engine)
    notes = codes.index[(codes["text"] >= _NOTE) & common & ~quoted]
    if len(notes):
        doubts.append(f"{_few(notes)} hold long texts: name them in a modality of the kind text to embed them.")
    if count.earlier:
        doubts.append(f"{count.earlier:,} of {n:,} samples have events of an earlier hospital stay among their inputs.")
    if count.over_89:
        doubts.append(
            f"Taken as {features.OVER_89:.0f} years: {counted(count.over_89, 'age')} over {features.OLDEST:.0f}, which "
            "stands for over 89."
        )
    doubts += [
        f"modalities.{name}: {far:,} values are too far out for a measurement and are not measured."
        for name, far in count.far.items()
        if far
    ]
    if events.shared:
        doubts.append(f"{events.shared:,} subjects lie in several shards, which MEDS does not allow; they were joined.")
    if events.zoned:
        doubts.append("The events' times have a time zone: hours and days are those of UTC.")
    return doubts + [line for _, of in inputs if (line := features.unseen(of, vocabulary))]


def _few(codes: Any) -> str:
    return some([for_terminal(code, most=60) for code in codes], 3)


def _manifest(
    events: Events,
    labels: list[Labels],
    samples: Samples,
    vocabulary: Vocabulary,
    modalities: list[Made],
    count: Count,
    doubts: list[str],
) -> dict[str, Any]:
    tasks: dict[str, Any] = {name: {"kind": task.kind} for name, task in samples.tasks.items()}
    for name, values in samples.labels.items():
        labelled = ~np.isnan(values).reshape(len(values), -1).all(axis=1)
        patients = len(np.unique(samples.subjects[labelled]))
        tasks[name] |= {"labelled": int(labelled.sum()), "patients": patients}
        if samples.tasks[name].kind == "binary":
            tasks[name]["positives"] = int(np.nansum(values))
    return {
        "events": {
            "data": str(events.about.get("dataset_name") or events.root.name),
            "shards": len(events.files),
            "subjects": len(events.subjects),
            "events": int(events.counts.sum()),
        },
        "steps": [{"what": what, "rows": rows} for what, rows in samples.counts.items()],
        "labels": {task.name: {"rows": len(task.rows), "without": task.without} for task in labels},
        "tasks": tasks,
        "left_out": dict(samples.left_out),
        "overlaps": [{"tasks": list(pair), "why": why} for pair, why in samples.overlaps.items()],
        "doubts": doubts,
        "modalities": {of.name: {"columns": len(of.columns), "codes": sorted(of.signal)} for _, of in modalities},
        "references": count.references,
        "codes": {
            "training subjects": vocabulary.subjects,
            "seen": len(vocabulary.codes),
            "stamped at the discharge": sorted(vocabulary.codes.index[vocabulary.codes["later"]]),
            "stamped with a day": sorted(vocabulary.codes.index[vocabulary.codes["by_day"]]),
        },
    }
