"""Counts of few patients, hidden: what `small_cells` of a search file keeps out of everything that is written.

A count from 1 to N - 1 becomes the text "<N". A count that would give such a one away, because both add up to a known
number, becomes "≈200": rounded to a multiple of ten that is no smaller than N. What is hidden already stays hidden, so
that a page may be written of a record that was; a larger N then hides more of it.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

#: A count, or what stands for one that is hidden.
Count: TypeAlias = int | str


def count(value: Count, small: int) -> Count:
    """A count as it may be told."""
    if isinstance(value, str):
        return f"<{max(small, _number(value))}" if _number(value) < small or value.startswith("<") else value
    return f"<{small}" if 0 < value < small else value


def near(value: Count, small: int) -> Count:
    """A count that must not be told exactly; 0 is, as everywhere."""
    if isinstance(value, str) or value < small or not small:
        return count(value, small)
    step = _step(small)
    return f"≈{max(round(value / step) * step, small):,}"


def few(values: Iterable[Count], small: int) -> bool:
    """Whether any of the counts is of few patients, or hidden already."""
    return any(isinstance(value, str) or 0 < value < small for value in values)


def told(value: Count) -> str:
    """For a table: thousands are grouped."""
    return value if isinstance(value, str) else f"{value:,}"


def rounded(value: int, small: int) -> int:
    """A count to be drawn: a multiple, where small counts are hidden."""
    return round(value / _step(small)) * _step(small) if small else value


def of_cohort(cohort: Mapping[str, Any], small: int) -> dict[str, Any]:
    """The record of a cohort (`model.cohorts.manifest.describe`) without counts below `small`; same keys.

    Beside counts, a share that would give one away becomes None, and a mean over few patients is left out.
    """
    if not small:
        return dict(cohort)
    n = cohort["samples"]
    left = [value for _, value in cohort["filters"]]
    # What a filter took away is a count too.
    taken = [abs(a - b) for a, b in itertools.pairwise(left)] if not few(left, 0) else left
    filtered = near if few([*left, *taken], small) else count
    of_parts = [part[key] for part in cohort["parts"] for key in ("samples", "patients")]
    split = near if few(of_parts, small) else count
    return {
        **cohort,
        "samples": count(n, small),
        "patients": count(cohort["patients"], small),
        "filters": [[name, filtered(value, small)] for name, value in cohort["filters"]],
        "parts": [
            {**part, "samples": split(part["samples"], small), "patients": split(part["patients"], small)}
            for part in cohort["parts"]
        ],
        "modalities": [_modality(one, n, small) for one in cohort["modalities"]],
        "tasks": [_task(one, n, small) for one in cohort["tasks"]],
    }


def of_training(training: Mapping[str, Any], small: int) -> dict[str, Any]:
    """What a model keeps of its training rows (`deployed.train`), every count of labels and of inputs rounded."""
    if not small:
        return dict(training)
    return {
        **{key: count(training[key], small) for key in ("rows", "patients")},
        "stopping": near(training.get("stopping", 0), small),
        "labels": {
            name: {key: near(value, small) for key, value in counts.items()}
            for name, counts in training["labels"].items()
        },
        "present": {name: near(value, small) for name, value in training["present"].items()},
    }


def _modality(one: Mapping[str, Any], n: Count, small: int) -> dict[str, Any]:
    absent, missing = one["absent"], one["column_missing"]
    there = _minus(n, absent)
    show = near if few([absent, there], small) else count
    # As telling as how many lack a value is how many have one, where that can be had.
    known = not isinstance(show(absent, small), str)
    columns = {name: few([value, *([_minus(there, value)] if known else [])], small) for name, value in missing.items()}
    return {
        **one,
        "absent": show(absent, small),
        "missing": None if any(columns.values()) else one["missing"],
        "column_missing": {
            name: (near if columns[name] else count)(value, small) for name, value in missing.items()
        },
    }  # fmt: skip


def _task(one: Mapping[str, Any], n: Count, small: int) -> dict[str, Any]:
    if "labelled" not in one:
        return dict(one)
    labelled, parts = one["labelled"], one["parts"]
    counts = [value for _, value in one.get("classes", [])]
    # Of a multilabel task a share is one of the samples that carry the label: what is left of it, and of the task.
    known = one.get("known", [])
    counts += [_minus(of, value) for of, value in zip(known, counts, strict=bool(known))]
    counts += [_minus(labelled, of) for of in known]
    of_parts = [part["labelled"] for part in parts]
    for part in parts:
        if part["positive"] is not None:
            of_parts += [part["positive"], _minus(part["labelled"], part["positive"])]
    # One hidden count of a task could be had from its others and their sum.
    show = near if few([labelled, _minus(n, labelled), *counts, *of_parts], small) else count
    found = {
        **one,
        "labelled": show(labelled, small),
        "parts": [
            {
                **part,
                "labelled": show(part["labelled"], small),
                "positive": None if part["positive"] is None else show(part["positive"], small),
            }
            for part in parts
        ],
    }
    if "classes" in one:
        found["classes"] = [[name, show(value, small)] for name, value in one["classes"]]
    if "known" in one:
        found["known"] = [show(value, small) for value in known]
    if few([labelled], small):
        found = {key: value for key, value in found.items() if key not in ("mean", "sd")}
    return found


def _minus(whole: Count, part: Count) -> Count:
    """The rest; hidden where either is."""
    if isinstance(whole, str) or isinstance(part, str):
        return whole if isinstance(whole, str) else part
    return whole - part


def _number(text: str) -> int:
    return int(re.sub(r"\D", "", text))


def _step(small: int) -> int:
    return 10 * -(-small // 10)
