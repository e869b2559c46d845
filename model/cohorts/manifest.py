"""What a cohort is, in counts and shares: the part of a report that says on whom a search rests.

Aggregates only: no value of a patient, no id. Torch is not needed here.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from model.cohorts.cohort import Bools, Cohort, Modality, matches
from model.cohorts.stored import parts
from tim_search.types import Task

#: Version of the record.
FORMAT = 1


def describe(cohort: Cohort) -> dict[str, Any]:
    """A cohort as a search over its tasks sees it, as plain JSON.

    Keys: format, name, fingerprint, description (texts of the cohort's `info`), filters (list of name and count, from
    `info["counts"]`), samples, patients, parts (list: part, samples, patients; the test part and each fold), modalities
    (list: name, kind, columns, categorical, absent (samples without the modality), missing (share of values not
    measured where the modality is there), column_missing (column -> samples without a value); of a sequence steps (of
    the longest) and mean_steps (with anything measured, where the modality is there); of an image shape), dropped
    (list: modality, column, by (tasks that exclude it)), tasks (see `_task`), overlaps.
    """
    info = dict(cohort.info)
    counts = info.pop("counts", {})
    return {
        "format": FORMAT,
        "name": cohort.name,
        "fingerprint": cohort.fingerprint,
        "description": {str(key): value for key, value in info.items() if isinstance(value, str)},
        "filters": [[str(name), int(count)] for name, count in counts.items() if isinstance(count, int)]
        if isinstance(counts, dict)
        else [],
        "samples": len(cohort),
        "patients": len(np.unique(cohort.patients)),
        "parts": [
            {"part": part, "samples": int(rows.sum()), "patients": len(np.unique(cohort.patients[rows]))}
            for part, rows in _parts(cohort).items()
        ],
        "modalities": [_modality(modality) for modality in cohort.modalities.values()],
        "dropped": [
            {"modality": modality, "column": column, "by": _excluded_by(cohort, modality, column)}
            for modality, column in cohort.dropped
        ],
        "tasks": [_task(cohort, task) for task in cohort.tasks.values()],
        "overlaps": [list(pair) for pair in cohort.overlaps],
    }


def _parts(cohort: Cohort) -> dict[str, Bools]:
    split = cohort.split
    return {"test": split.test, **{f"fold {fold}": split.validation(fold) for fold in range(split.n_folds)}}


def _modality(modality: Modality) -> dict[str, Any]:
    there = modality.present
    values = modality.take(there).values
    # Of a sequence, a channel is missing where no step has a value; of an image there is one channel, its pixels.
    rest = tuple(axis for axis in range(1, values.ndim) if axis != values.ndim - 1 or modality.kind == "image")
    per_column = np.zeros(len(modality.inputs), np.int64)
    n_unknown = n_steps = 0
    for _, part in parts(values):
        unknown = np.isnan(part)
        without = unknown.all(axis=rest) if rest else unknown
        per_column += without.sum(axis=0)
        n_unknown += int(unknown.sum())
        n_steps += int((~unknown.all(axis=2)).sum()) if modality.kind == "sequence" else 0
    shape: dict[str, Any] = {"shape": list(values.shape[1:])} if modality.kind == "image" else {}
    if modality.kind == "sequence":
        shape = {"steps": values.shape[1], "mean_steps": n_steps / max(1, len(values))}
    size = math.prod(values.shape)
    return {
        "name": modality.name,
        "kind": modality.kind,
        "columns": len(modality.inputs),
        "categorical": len(modality.levels),
        "absent": int((~there).sum()),
        "missing": n_unknown / size if size else 0.0,
        "column_missing": {
            column: int(count) for column, count in zip(modality.inputs, per_column.tolist(), strict=True)
        },
        **shape,
    }


def _excluded_by(cohort: Cohort, modality: str, column: str) -> list[str]:
    """The tasks whose `excludes` name the column."""
    gone = {modality: Modality(modality, "vector", (column,), np.empty((0, 1)), {}, np.empty(0, bool))}
    return [task.name for task in cohort.tasks.values() if any(matches(gone, pattern) for pattern in task.excludes)]


def _task(cohort: Cohort, task: Task) -> dict[str, Any]:
    """Keys: name, kind, metric, department, excludes; and where it has labels: labelled, classes (list of name and
    count; of a multilabel task the positives of each label, and known: the samples that carry each label) or mean and
    sd (of a regression, over all labelled samples), parts (list: part, labelled, positive (of a binary task, else
    None)).
    """
    record: dict[str, Any] = {
        "name": task.name,
        "kind": task.kind,
        "metric": task.metric,
        "department": task.department,
        "excludes": list(task.excludes),
    }
    if task.name not in cohort.labels:
        return {**record, "clusters": task.n_outputs}
    labels = cohort.labels[task.name]
    labelled = ~np.isnan(labels).reshape(len(labels), -1).all(axis=1)
    record["labelled"] = int(labelled.sum())
    if task.kind == "regression":
        values = labels[labelled]
        record |= {"mean": float(values.mean()), "sd": float(values.std())} if len(values) else {}
    elif task.kind == "multilabel":
        positive = np.nansum(labels, axis=0)
        record["classes"] = [
            [name, int(count)] for name, count in zip(cohort.classes[task.name], positive.tolist(), strict=True)
        ]
        record["known"] = (~np.isnan(labels)).sum(axis=0).tolist()
    else:
        names = cohort.classes[task.name]
        counts = np.bincount(labels[labelled].astype(int), minlength=len(names))
        record["classes"] = [[name, int(count)] for name, count in zip(names, counts.tolist(), strict=True)]
    record["parts"] = [
        {
            "part": part,
            "labelled": int((labelled & rows).sum()),
            "positive": int((labels[rows] == 1).sum()) if task.kind == "binary" else None,
        }
        for part, rows in _parts(cohort).items()
    ]
    return record
