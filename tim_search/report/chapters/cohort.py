"""The cohort's record as the report shows it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from tim_search.gates import small_cells

#: Columns of a modality whose missing values are listed one by one; the fullest are left out first.
_COLUMNS_SHOWN = 40


def cohort(record: Mapping[str, Any], small: int) -> dict[str, Any]:
    """The cohort's record as it is shown: without counts below `small`, and with the shares that may be told."""
    hidden = small_cells.of_cohort(record, small)
    n = hidden["samples"]
    modalities = []
    for modality in hidden["modalities"]:
        missing = sorted(modality["column_missing"].items(), key=lambda item: -_size(item[1]))
        modalities.append(
            {
                **modality,
                "absent_share": _share(modality["absent"], n),
                "columns_shown": [
                    {"name": name, "missing": value, "share": _share(value, n)}
                    for name, value in missing[:_COLUMNS_SHOWN]
                ],
                "columns_left_out": max(len(missing) - _COLUMNS_SHOWN, 0),
            }
        )
    return {**hidden, "modalities": modalities, "tasks": [_task(task, n) for task in hidden["tasks"]]}


def _task(task: Mapping[str, Any], n: small_cells.Count) -> dict[str, Any]:
    if "labelled" not in task:
        return dict(task)
    labelled, classes = task["labelled"], task.get("classes", [])
    present = _share(labelled, n)
    # Of a multilabel task a share is one of the samples that carry the label.
    carrying = task.get("known", [labelled] * len(classes))
    return {
        **task,
        "missing_share": None if present is None else 1 - present,
        "classes": [
            {"name": name, "count": value, "share": _share(value, of)}
            for (name, value), of in zip(classes, carrying, strict=True)
        ],
        "values": (task["mean"], task["sd"]) if "mean" in task else None,
    }


def _share(value: small_cells.Count, of: small_cells.Count) -> float | None:
    """None where a count is hidden."""
    return None if isinstance(value, str) or isinstance(of, str) else value / max(of, 1)


def _size(value: small_cells.Count) -> int:
    return value if isinstance(value, int) else int(re.sub(r"\D", "", value))
