"""Samples: a subject at a prediction time, with the labels of all tasks that are asked then, and their split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from model.cohorts import checks, overlaps
from model.cohorts.cohort import Split, examples, make_split, patient_codes, split_of
from model.cohorts.folder_labels import read_overlaps, read_tasks
from model.cohorts.folder_reader import Reader
from model.cohorts.folder_reader import Samples as Rows
from model.sources.events.description import yaml_of
from model.sources.events.labels import DECLARED, Labels
from model.sources.events.shards import Events, Int64s
from tim_search.gates.files import open_regular
from tim_search.gates.texts import for_terminal
from tim_search.types import BadInput, Task, some

#: The samples' file, and the columns of it that are no labels.
FILE = "samples.parquet"
SAMPLE, SUBJECT, TIME = "sample_id", "subject_id", "prediction_time"
#: Parts of metadata/subject_splits.parquet: who trains, and who is left for the confirmation.
TRAINING, HELD_OUT = ("train", "tuning"), "held_out"

_LEAST = 10  # patients, for five folds and a test part


@dataclass(frozen=True, eq=False)
class Samples:
    """The samples of a cohort, ascending by subject and time.

    Attributes:
        ids: (n,) texts, `SUBJECT-TIME`.
        subjects: int64 (n,).
        times: int64 (n,), microseconds since 1970.
        split: of the subjects.
        tasks: by name, those that can be learnt and scored.
        labels, classes: by task, as a `Cohort` has them.
        entries: what cohort.yaml says of each task; `label` names columns of samples.parquet.
        overlaps: pairs of tasks that are one outcome read twice, and why.
        left_out: tasks that cannot be scored, and why.
        counts: rows after each step, by its words.
    """

    ids: NDArray[Any]
    subjects: Int64s
    times: Int64s
    split: Split
    tasks: Mapping[str, Task]
    labels: Mapping[str, NDArray[np.float64]]
    classes: Mapping[str, tuple[str, ...]]
    entries: Mapping[str, Any]
    overlaps: Mapping[tuple[str, str], str]
    left_out: Mapping[str, str]
    counts: Mapping[str, int]

    def __len__(self) -> int:
        return len(self.ids)


def make_samples(labels: Sequence[Labels], tasks: Path, events: Events, out: Path, meds_split: bool) -> Samples:
    """The samples of all tasks; writes samples.parquet and split.parquet into the folder `out`.

    Args:
        labels: of the tasks.
        tasks: the folder that may hold tasks.yaml.
        meds_split: whether the subjects' parts are those of metadata/subject_splits.parquet; else they are dealt out.

    Raises:
        BadInput: a task has two labels at one time; tasks.yaml or the split cannot be used; no task can be scored.
    """
    frame, counts = _joined(labels, events)
    entries, declared = _entries(labels, tasks)
    left_out: dict[str, str] = {}
    for name, entry in list(entries.items()):
        columns = [entry["label"]] if isinstance(entry.get("label"), str) and entry["label"] in frame else []
        if entry.get("kind") != "clustering" and columns and frame[columns[0]].nunique() < 2:
            alike = "all its labels are the same" if frame[columns[0]].notna().any() else "nobody has a label"
            left_out[name] = f"{alike}."
            del entries[name]
    subjects = frame[SUBJECT].to_numpy(np.int64)
    _write(frame, out)
    reader = Reader(out)
    rows = Rows(FILE, SAMPLE, SUBJECT, frame[SAMPLE].to_numpy(object), pd.Index(frame[SAMPLE]), subjects)
    if not entries:
        raise _nothing_left(left_out)
    readable, values, classes = read_tasks(reader, {"tasks": entries}, rows)
    pairs = read_overlaps(reader, {"tasks": {**entries, **left_out}, "overlaps": declared})
    if errors := [finding for finding in reader.findings if finding.severity == "error"]:
        lines = "\n".join(f"  {finding}" for finding in errors)
        raise BadInput(f"{for_terminal(tasks)}: the tasks cannot be used:\n{lines}")
    split = _split(subjects, readable, values, events, meds_split)
    for finding in checks.label_findings(readable, values, classes, split):
        if finding.severity == "error":
            left_out.setdefault(finding.place.removeprefix("tasks."), finding.problem)
    names = [name for name in readable if name not in left_out]
    if not any(name in values for name in names):
        raise _nothing_left(left_out)
    asked = np.any([~np.isnan(values[name]).reshape(len(frame), -1).all(axis=1) for name in names if name in values], 0)
    frame = frame[asked].reset_index(drop=True)
    values = {name: values[name][asked] for name in names if name in values}
    twins = overlaps.overlapping({name: readable[name] for name in names}, values, classes)
    twins |= {pair: "declared" for pair in pairs if pair[0] in names and pair[1] in names}
    counts["of a task that can be scored"] = len(frame)
    samples = Samples(
        frame[SAMPLE].to_numpy(object),
        subjects[asked],
        frame[TIME].to_numpy(np.int64),
        _part(split, asked),
        {name: readable[name] for name in names},
        values,
        {name: classes[name] for name in classes if name in names},
        {name: entries[name] for name in names},
        twins,
        left_out,
        counts,
    )
    _write(frame, out)
    _write_split(samples, out)
    return samples


def _nothing_left(left_out: Mapping[str, str]) -> BadInput:
    lines = "\n".join(f"  {name}: {why}" for name, why in left_out.items())
    return BadInput(f"No task can be learnt and scored. Widen their definitions, or take more subjects:\n{lines}")


def _joined(labels: Sequence[Labels], events: Events) -> tuple[pd.DataFrame, dict[str, int]]:
    """A row a subject and time, a column a task's labels, NaN or None where it is not asked; and counts of rows."""
    if reserved := {SAMPLE, SUBJECT, TIME, "subject", "moment"} & {task.name for task in labels}:
        raise BadInput(f"A task may not be called {some(sorted(reserved))}. Rename its file.")
    counts = {"labels": sum(len(task.rows) for task in labels)}
    if without := sum(task.without for task in labels):
        counts["rows without a subject, a time or a label"] = without
    keyed = []
    for task in labels:
        rows = task.rows.drop_duplicates()
        twice = rows[rows.duplicated(["subject", "moment"])]
        if len(twice):
            first = twice[["subject", "moment"]].iloc[0]  # without the label, which would make them float64
            raise BadInput(
                f"Task {task.name}: expected one label of a subject at a time, got two that differ (subject "
                f"{first['subject']} at {_stamps(np.array([first['moment']], np.int64))[0]}"
                f"{f', and {len(twice) - 1} more' if len(twice) > 1 else ''}). Mend the labels."
            )
        rows = rows[np.isin(rows["subject"], events.subjects)]
        column = rows.rename(columns={"label": task.name}).set_index(["subject", "moment"])[task.name]
        keyed.append(column)
    counts["labels of subjects with events"] = sum(map(len, keyed))
    frame = pd.concat(keyed, axis=1).sort_index().reset_index()
    if frame.empty:
        raise BadInput(
            f"{for_terminal(events.root)}: expected labels of its subjects, got none. See that label tables have rows, "
            "that their subject_id is the events', and that the configs' codes are those of metadata/codes.parquet."
        )
    subjects, times = frame["subject"].to_numpy(np.int64), frame["moment"].to_numpy(np.int64)
    ids = [f"{subject}-{stamp}" for subject, stamp in zip(subjects.tolist(), _stamps(times), strict=True)]
    head = pd.DataFrame({SAMPLE: np.array(ids, object), SUBJECT: subjects, TIME: times})
    counts["samples: a subject at a time"] = len(frame)
    return pd.concat([head, frame.drop(columns=["subject", "moment"])], axis=1), counts


def _stamps(times: Int64s) -> list[str]:
    """Times as texts, to the second where all are."""
    moments = times.astype("datetime64[us]")
    return [str(it) for it in (moments.astype("datetime64[s]") if (times % 1_000_000 == 0).all() else moments)]


def _entries(labels: Sequence[Labels], tasks: Path) -> tuple[dict[str, Any], list[Any]]:
    """What cohort.yaml says of each task, and the overlaps that are declared."""
    path = tasks / DECLARED
    content = yaml_of(path) or {} if path.is_file() else {}
    parts = content if isinstance(content, dict) else {"": content}
    declared, pairs = parts.get("tasks") or {}, parts.get("overlaps") or []
    right = isinstance(declared, dict) and all(isinstance(entry, dict) for entry in declared.values())
    if not parts.keys() <= {"tasks", "overlaps"} or not right or not isinstance(pairs, list):
        raise BadInput(
            f"{for_terminal(path)}: expected `tasks` and `overlaps` as cohort.yaml has them (docs/cohorts.md), got "
            f"something else. Mend it."
        )
    merged: dict[str, Any] = {}
    tables = {task.name: dict(task.entry) for task in labels}
    parted = {part for entry in declared.values() for part in _listed(entry.get("label"))}
    for name in [*tables, *(name for name in declared if name not in tables)]:
        if name in tables and name in parted and name not in declared:
            continue  # a label of another task
        entry = {**tables.get(name, {}), **declared.get(name, {})}
        if entry.get("kind") != "clustering":
            entry.setdefault("label", name)
        merged[str(name)] = entry
    return merged, pairs


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _split(
    subjects: Int64s,
    tasks: Mapping[str, Task],
    labels: Mapping[str, NDArray[np.float64]],
    events: Events,
    meds_split: bool,
) -> Split:
    """The split of the samples: dealt out by stratum and hash, or the held-out part as MEDS has it."""
    codes, ids = patient_codes(subjects)
    if len(ids) < _LEAST:
        raise BadInput(
            f"{len(ids)} subjects have labels, too few for five folds and a test part; {_LEAST} are needed. Widen the "
            "tasks' definitions, or take more subjects."
        )
    strata = _strata(codes, tasks, labels)
    if not meds_split:
        return make_split(codes, ids, strata)
    parts = _meds_parts(events)
    lacking = [subject for subject in ids.tolist() if subject not in parts]
    if lacking:
        raise BadInput(
            f"--split meds: {len(lacking)} subjects are in no part of metadata/subject_splits.parquet (e.g. "
            f"{examples(np.array(lacking))}). Add them, or leave the option out."
        )
    test = np.array([parts[subject] == HELD_OUT for subject in subjects.tolist()])
    if test.all() or not test.any():
        raise BadInput(
            f"--split meds: expected subjects with labels in {HELD_OUT} and in {' or '.join(TRAINING)}, got only one "
            "of the two. Leave the option out."
        )
    return make_split(codes, ids, strata, test=test)


def _meds_parts(events: Events) -> dict[int, str]:
    """The part of each subject in metadata/subject_splits.parquet."""
    path = events.root / "metadata" / "subject_splits.parquet"
    try:
        with open_regular(path) as file:
            table = pq.read_table(file, columns=["subject_id", "split"])
        parts = dict(zip(table["subject_id"].to_pylist(), table["split"].to_pylist(), strict=True))
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        raise BadInput(
            f"--split meds: expected {for_terminal(path)} with subject_id and split, it cannot be read. Write it, or "
            "leave the option out."
        ) from error
    strange = sorted({str(part) for part in parts.values()} - {*TRAINING, HELD_OUT})
    if strange:
        raise BadInput(
            f"{for_terminal(path)}: expected the parts {', '.join(TRAINING)} and {HELD_OUT}, got also {some(strange)}. "
            "Rename them, or leave --split out."
        )
    return parts


def _strata(codes: Int64s, tasks: Mapping[str, Task], labels: Mapping[str, NDArray[np.float64]]) -> list[str]:
    """The rarest outcome that the subject of a sample ever has; where he has none, the rarest task that asks him."""
    n = len(codes)
    asked = {name: ~np.isnan(label).reshape(n, -1).all(axis=1) for name, label in labels.items()}
    positive = {name: labels[name] == 1 for name in labels if tasks[name].kind == "binary"}
    stratum = np.full(int(codes.max()) + 1, "", dtype=object)
    for rows, word in ((asked, "asked "), (positive, "")):
        for name in sorted(
            rows, key=lambda name, of=rows: (-int(of[name].sum()), name)
        ):  # the rarest has the last word
            stratum[codes[rows[name]]] = word + name
    return stratum[codes].tolist()


def _part(split: Split, rows: NDArray[np.bool_]) -> Split:
    return split_of(split.test[rows], split.fold[rows], split.n_folds)


def _write(frame: pd.DataFrame, out: Path) -> None:
    columns: dict[str, pa.Array] = {
        SAMPLE: pa.array(frame[SAMPLE], pa.string()),
        SUBJECT: pa.array(frame[SUBJECT].to_numpy(np.int64)),
        TIME: pa.array(frame[TIME].to_numpy(np.int64)).cast(pa.timestamp("us")),
    }
    for name in frame.columns[3:]:
        columns[name] = pa.array(frame[name], from_pandas=True)
    pq.write_table(pa.table(columns), out / FILE)


def _write_split(samples: Samples, out: Path) -> None:
    table = {
        SAMPLE: pa.array(samples.ids, pa.string()),
        "part": pa.array(np.where(samples.split.test, "test", "train")),
        "fold": pa.array(samples.split.fold),
    }
    pq.write_table(pa.table(table), out / "split.parquet")
