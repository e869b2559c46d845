"""The labels of a cohort folder: tasks of cohort.yaml and their label columns, read and checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from model.cohorts.cohort import examples
from model.cohorts.folder_reader import (
    DESCRIPTION,
    TASK,
    Reader,
    Samples,
    classes_of,
    column_of,
    fields_of,
    is_number,
    is_text,
    kind_of,
    named,
    not_numbers,
    numbers,
    texts,
)
from tim_search.types import ALLOWED, KINDS, METRICS, Task, near

#: Clusters of a clustering task that does not say.
CLUSTERS = 15
#: Most of them: each is an output of the networks.
MOST_CLUSTERS = 1000


def read_tasks(
    reader: Reader, spec: Mapping[str, Any], samples: Samples | None
) -> tuple[dict[str, Task], dict[str, NDArray[np.float64]], dict[str, tuple[str, ...]]]:
    """Tasks, labels and class names by task; a finding for everything that cannot be used."""
    tasks: dict[str, Task] = {}
    labels: dict[str, NDArray[np.float64]] = {}
    classes: dict[str, tuple[str, ...]] = {}
    for name, entry in named(reader, spec, "tasks").items():
        place = f"{DESCRIPTION}: tasks.{name}"
        fields = fields_of(reader, entry, place, TASK)
        kind = fields.get("kind")
        if kind not in KINDS:
            if kind is not None:
                problem = f"expected one of {', '.join(KINDS)}; given {kind}.{near(kind, KINDS)}"
                reader.error(f"{place}.kind", problem, "Name one of them.")
            continue
        metric = fields.get("metric", METRICS[kind])
        if metric not in ALLOWED[kind]:
            allowed = " or ".join(ALLOWED[kind])
            problem = f"a {kind} task is scored by {allowed}; given {metric}.{near(metric, ALLOWED[kind])}"
            reader.error(f"{place}.metric", problem, f"Name one of them; without the key it is {METRICS[kind]}.")
        excludes = texts(reader, fields.get("excludes", []), f"{place}.excludes")
        n_outputs = 1
        if kind == "clustering":
            for key in ("label", "classes"):
                if key in fields:
                    reader.error(f"{place}.{key}", f"a clustering task has no {key}.", "Remove the key.")
            n_outputs = fields.get("clusters", CLUSTERS)
            if not 2 <= n_outputs <= MOST_CLUSTERS:
                problem = f"expected 2 to {MOST_CLUSTERS}, given {n_outputs}."
                reader.error(f"{place}.clusters", problem, "Name how many.")
        else:
            for key in ("clusters",) if kind != "regression" else ("clusters", "classes"):
                if key in fields:
                    reader.error(f"{place}.{key}", f"a {kind} task has no {key}.", "Remove the key.")
            coded = _label(reader, place, name, kind, fields, samples)
            if coded is not None:
                labels[name], classes[name] = coded
                n_outputs = 1 if kind in ("binary", "regression") else len(classes[name])
        tasks[name] = Task(name, kind, n_outputs, metric, fields.get("department", ""), excludes)
    return tasks, labels, {name: names for name, names in classes.items() if names}


def _label(
    reader: Reader, place: str, name: str, kind: str, fields: Mapping[str, Any], samples: Samples | None
) -> tuple[NDArray[np.float64], tuple[str, ...]] | None:
    """The label array of a task and its class names (() for regression); None with a finding."""
    columns = fields.get("label", name)
    if kind == "multilabel":
        if not isinstance(columns, list) or len(columns) < 2 or not all(isinstance(c, str) for c in columns):
            problem = f"a multilabel task names two or more label columns; given {kind_of(columns)}."
            reader.error(f"{place}.label", problem, "Write `label: [first, second]`.")
            return None
    elif not isinstance(columns, str):
        reader.error(
            f"{place}.label", f"expected the name of one column; given {kind_of(columns)}.", "Name one column."
        )
        return None
    names = texts(reader, fields.get("classes", []), f"{place}.classes")
    table = reader.table(samples.file, DESCRIPTION) if samples is not None else None
    if samples is None or table is None:
        return None
    arrays = []
    for column in columns if kind == "multilabel" else [columns]:
        array = column_of(reader, table, samples.file, column, f"{place}.label")
        if array is None:
            return None
        samples.label_columns.add(column)
        arrays.append((f"{samples.file}: column {column}", array))
    if kind == "regression":
        values = _label_numbers(reader, *arrays[0])
        return None if values is None else (values, ())
    if kind == "multiclass":
        return classes_of(reader, *arrays[0], names, place)
    if kind == "binary":
        return _binary(reader, *arrays[0], names, place)
    if names and len(names) != len(columns):
        reader.error(f"{place}.classes", f"{len(columns)} label columns, {len(names)} names.", "Name each column.")
        return None
    parts = [_binary(reader, at, array, (), place) for at, array in arrays]
    stacked = [part[0] for part in parts if part is not None]
    return (np.stack(stacked, axis=1), names or tuple(columns)) if len(stacked) == len(parts) else None


def _label_numbers(reader: Reader, place: str, array: pa.ChunkedArray) -> NDArray[np.float64] | None:
    if not is_number(array.type):
        _, fix = not_numbers(array.type, place.rpartition(" ")[2])
        problem = f"expected numbers as labels of this kind of task, given {array.type}."
        reader.error(place, problem, f"{fix.removesuffix('.')}, or choose another kind of task.")
        return None
    values = numbers(array).astype(np.float64)
    if np.isinf(values).any():
        count = int(np.isinf(values).sum())
        reader.error(place, f"{count} labels are infinite.", "Use NaN for a missing label; check logs of zero.")
        return None
    return values


def _binary(
    reader: Reader, place: str, array: pa.ChunkedArray, names: tuple[str, ...], task: str
) -> tuple[NDArray[np.float64], tuple[str, ...]] | None:
    if is_text(array.type) or names:
        coded = classes_of(reader, place, array, names, task)
        if coded is None:
            return None
        levels = coded[1]
        if len(levels) > 2:
            problem = f"expected two classes (and null for no label), given {examples(np.array(levels, dtype=object))}."
            reader.error(place, problem, "Use kind: multiclass, or merge the classes.")
            return None
        if not names and len(levels) == 2:
            problem = f"{levels[1]} is taken as the positive class, being the last by alphabet."
            fix = f"Say which: `classes: [{levels[1]}, {levels[0]}]` or the reverse, negative first."
            reader.warn(f"{task}.classes", problem, fix)
        return coded
    values = _label_numbers(reader, place, array)
    if values is None:
        return None
    strange = np.setdiff1d(values[~np.isnan(values)], [0, 1])
    if len(strange):
        problem = f"expected 0, 1 and NaN (no label), given also {examples(strange)}."
        reader.error(place, problem, "Uncertain or missing is NaN; other codings need `classes: [negative, positive]`.")
        return None
    return values, ("0", "1")


def read_overlaps(reader: Reader, spec: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The declared pairs of nested or near-identical targets."""
    tasks, pairs = spec.get("tasks", {}), []
    strangers: dict[str, list[int]] = {}
    for index, pair in enumerate(spec.get("overlaps", [])):
        place = f"{DESCRIPTION}: overlaps[{index}]"
        two = isinstance(pair, list) and len(pair) == 2 and all(isinstance(name, str) for name in pair)
        if not two or pair[0] == pair[1]:
            reader.error(place, f"expected two different tasks, given {kind_of(pair)}.", "Write `- [first, second]`.")
            continue
        unknown = [name for name in pair if name not in tasks]
        for name in unknown:
            strangers.setdefault(str(name), []).append(index)
        if not unknown:
            pairs.append((pair[0], pair[1]))
    # A task that was taken out may have left many pairs behind.
    for name, places in strangers.items():
        where = f"overlaps[{places[0]}]" if len(places) == 1 else f"overlaps: {len(places)} pairs"
        fix = f"Name tasks of this cohort; if {name} was left out, remove {'its line' if len(places) == 1 else 'them'}."
        reader.error(f"{DESCRIPTION}: {where}", f"{name} is not a task.{near(name, tasks)}", fix)
    return pairs
