"""Counts of a search's trainings where small ones are hidden: each follows from what the record of its cohort tells.

A count that is rounded by itself, beside a record that rounds others, can give a hidden one away: 990 training rows,
rounded to 980, where 991 to 998 would be 1,000, tell that of 1,000 samples ten are test samples. What is computed from
the record alone (`small_cells.of_cohort`) tells nothing that the record does not. The price: "≈" then means about.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from tim_search.gates.small_cells import Count, near

#: Where the record leaves the counts by part of the split out.
HIDDEN = "hidden"


def of_training(
    training: Mapping[str, Any], record: Mapping[str, Any], small: int, stop_share: float
) -> dict[str, Any]:
    """What a model keeps of its training rows (`final_training.train`), with counts that may be told.

    Args:
        training: exact.
        record: of its cohort, without counts below `small`.
        small: 0 hides nothing.
        stop_share: the share of the rows that chose the epoch.
    """
    if not small:
        return dict(training)
    rows, patients = (_rest(record[key], _test(record, key), small) for key in ("samples", "patients"))
    absent = {modality["name"]: modality["absent"] for modality in record["modalities"]}
    return {
        "rows": rows,
        "patients": patients,
        "stopping": _share_of(rows, stop_share, small) if training["stopping"] else 0,
        "labels": {name: labels_of(name, counts, record, small) for name, counts in training["labels"].items()},
        "present": {name: _present(rows, absent[name], record["samples"], small) for name in training["present"]},
    }


def labels_of(name: str, counts: Mapping[str, int], record: Mapping[str, Any], small: int) -> dict[str, Count]:
    """`final_training.label_counts` of a task's training rows, with counts that may be told; see `of_training`."""
    if not small:
        return dict(counts)
    task = _task(record, name)
    test = task["parts"][0] if task["parts"] else {"labelled": None, "positive": None}
    shown = {"rows": _rest(task["labelled"], test["labelled"], small)}
    if "positive" in counts:
        shown["positive"] = _rest(task["classes"][1][1], test["positive"], small)
    return shown


def of_test(name: str, exact: int, record: Mapping[str, Any], small: int) -> Count:
    """How many test samples a task is judged on."""
    if not small:
        return exact
    task = _task(record, name)
    if "labelled" not in task:
        test = _test(record, "samples")
    else:
        test = task["parts"][0]["labelled"] if task["parts"] else None
    return HIDDEN if test is None else test


def of_extension(row: Mapping[str, Any], name: str, record: Mapping[str, Any], small: int) -> dict[str, Any]:
    """A row of `extending.Reached` whose rows and patients are about as many as the record lets expect."""
    if not small:
        return dict(row)
    task = _task(record, name)
    held_out = {"test", f"fold {row['fold']}"}
    labelled = _about(task["labelled"])
    labelled -= sum(_about(part["labelled"]) for part in task["parts"] if part["part"] in held_out)
    rows = max(1, round(row["share"] * max(0, labelled)))
    by_sample = _about(record["patients"]) / max(1, _about(record["samples"]))
    return {**row, "rows": rows, "patients": max(1, round(rows * by_sample))}


def _rest(whole: Count, part: Count | None, small: int) -> Count:
    """What is left of a whole without a part."""
    if isinstance(whole, int) and isinstance(part, int):
        return whole - part
    if isinstance(whole, str) and whole.startswith("<"):
        return whole
    return HIDDEN if part is None else near(max(1, _about(whole) - _about(part)), small)


def _share_of(whole: Count, share: float, small: int) -> Count:
    return whole if whole == HIDDEN else near(round(_about(whole) * share), small)


def _present(rows: Count, absent: Count, samples: Count, small: int) -> Count:
    """How many training rows have a modality, as many as in proportion to all samples."""
    if absent == 0:
        return rows
    return _share_of(rows, 1 - _about(absent) / max(1, _about(samples)), small)


def _about(value: Count) -> int:
    """A count as it may be told, as a number."""
    if isinstance(value, int):
        return value
    number = int(re.sub(r"\D", "", value))
    return number // 2 if value.startswith("<") else number


def _task(record: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    task: Mapping[str, Any] = next(task for task in record["tasks"] if task["name"] == name)
    return task


def _test(record: Mapping[str, Any], key: str) -> Count | None:
    """Samples or patients of the test part."""
    return record["parts"][0][key] if record["parts"] else None
