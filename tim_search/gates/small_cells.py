"""Counts of few patients, hidden: what `small_cells` of a search file keeps out of everything that is written.

A count from 1 to N - 1 becomes the text "<N". A count that would give such a one away, because both add up to a known
number, becomes "≈200": rounded to a multiple of ten that is no smaller than N. What is hidden already stays hidden, so
that a page may be written of a record that was; a larger N then hides more of it.
"""

from __future__ import annotations

import functools
import itertools
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from tim_search.gates import suppression
from tim_search.gates.suppression import Ints, Table

#: A count, or what stands for one that is hidden.
Count: TypeAlias = int | str
#: How counts of one table are told.
Shower: TypeAlias = Callable[[Any], Count]


def count(value: Count, small: int) -> Count:
    """A count as it may be told."""
    if isinstance(value, str):
        return f"<{max(small, _number(value))}" if _number(value) < small or value.startswith("<") else value
    return f"<{small}" if 0 < value < small else value


def near(value: Count, small: int, coarser: int = 1) -> Count:
    """A count that must not be told exactly; 0 is, as everywhere. The steps are `coarser` times as wide."""
    if isinstance(value, str) or value < small or not small:
        return count(value, small)
    step = _step(small) * coarser
    return f"≈{max(round(value / step) * step, small):,}"


def interval(value: int, show: Shower) -> tuple[int, int]:
    """The least and the largest count that is told as this one is."""
    shown = show(value)
    least = largest = value
    while least > 0 and show(least - 1) == shown:
        least -= 1
    while isinstance(shown, str) and show(largest + 1) == shown:
        largest += 1
    return least, largest


def blurred(value: float, spread: float, n: int, small: int) -> float:
    """A mean over n patients, rounded so that a few of them, `spread` away from the others, do not show in it."""
    if not small or not n or not spread or not math.isfinite(value):
        return value
    step = 10.0 ** math.ceil(math.log10(2 * small * spread / n))
    return round(round(value / step) * step, 12)


def few(values: Iterable[Count], small: int) -> bool:
    """Whether any of the counts is of few patients, or hidden already."""
    return any(isinstance(value, str) or 0 < value < small for value in values)


def grouped(value: Count) -> str:
    """For a table: thousands are grouped."""
    return value if isinstance(value, str) else f"{value:,}"


def rounded(value: int, small: int) -> int:
    """A count to be drawn: a multiple, where small counts are hidden."""
    return round(value / _step(small)) * _step(small) if small else value


def of_cohort(cohort: Mapping[str, Any], small: int) -> dict[str, Any]:
    """The record of a cohort (`model.cohorts.manifest.describe`) without counts below `small`; same keys.

    Beside counts, a share that would give one away becomes None, a mean over few patients is left out, and other means
    are rounded so that a few patients do not show in them. Where rounding leaves no doubt of a hidden count
    (`suppression`), the steps grow; where that does not help either, the counts by part of the split are left out, as
    they are of parts that hold little more than a few patients.
    """
    if not small:
        return dict(cohort)
    n = cohort["samples"]
    filters = [value for _, value in cohort["filters"]]
    # What a filter took away is a count too.
    taken = [abs(a - b) for a, b in itertools.pairwise(filters)] if not few(filters, 0) else filters
    filtered = _shower([*filters, *taken], small, n, lambda: _of_filters(filters, n))
    of_parts = {key: [part[key] for part in cohort["parts"]] for key in ("samples", "patients")}
    split: Shower | None = functools.partial(count, small=small)
    every_part = [*of_parts["samples"], *of_parts["patients"]]
    if few(every_part, 0):
        split = _again(every_part, small, n)
    elif few(every_part, small):
        split = _in_least_steps(small, [_of_parts(values) for values in of_parts.values()], [n, cohort["patients"]])
    parts = cohort["parts"] if split else []
    by_part = [part["samples"] for part in parts]
    if any(isinstance(size, int) and size < _FEWEST * small for size in by_part):
        by_part = []
    return {
        **cohort,
        "samples": count(n, small),
        "patients": count(cohort["patients"], small),
        "filters": [[name, filtered(value)] for name, value in cohort["filters"]],
        "parts": [{**part, **{key: split(part[key]) for key in ("samples", "patients")}} for part in parts if split],
        "modalities": [_modality(modality, n, small) for modality in cohort["modalities"]],
        "tasks": [_task(task, n, by_part, small) for task in cohort["tasks"]],
    }


def _shower(values: Sequence[Count], small: int, n: Count, tables: Callable[[], list[Table]]) -> Shower:
    """How to tell counts that belong together: exactly, or where one is small in the least steps that leave doubt."""
    if few(values, 0):
        return _again(values, small, n)
    if not few(values, small):
        return functools.partial(count, small=small)
    return _in_least_steps(small, tables(), [n]) or (lambda value: f"<{small}" if value else 0)


def _again(values: Sequence[Count], small: int, n: Count) -> Shower:
    """How to tell counts of which some were hidden before, of n samples: as they stand, where they are hidden enough.

    Where they are not, nobody can try the steps of rounding here, for what was hidden is not known. So of each count
    only the side of the limit is told, which leaves every sum open, if the samples are enough for it.
    """
    if all(count(value, small) == value for value in values):
        return functools.partial(count, small=small)
    if isinstance(n, str) or n > small * (len(values) + 1):
        return functools.partial(_side, small=small)
    return lambda value: "≥1" if value else 0


def _side(value: Count, small: int) -> Count:
    """On which side of the limit a count lies; 0 is told."""
    shown = count(value, small)
    return shown if shown == 0 or (isinstance(shown, str) and shown.startswith("<")) else f"≥{small}"


def _in_least_steps(small: int, tables: Sequence[Table] | None, sizes: Iterable[Count]) -> Shower | None:
    """The finest way to tell counts that leaves the small ones in doubt; None where none does, or without tables.

    Which way was taken is seen, and tells of the counts by which it was chosen. So the choice is made by the `sizes`
    that are told exactly, as far as it can be: first come ways that tell all counts that are short of a size by less
    than `small` as one. By the hidden counts only what is left is chosen (`suppression`).
    """
    ways = [functools.partial(near, small=small, coarser=coarser) for coarser in (1, 2, 5, 10)]
    exact = [size for size in sizes if isinstance(size, int) and size >= small]
    ways.sort(key=lambda way: sum(way(size - small + 1) != way(size - 1) for size in exact))
    if tables is None:
        return None
    plain: Shower = functools.partial(count, small=small)

    def told_by(way: Shower) -> suppression.Interval:
        return functools.cache(lambda value: interval(value, way))

    place = suppression.first_in_doubt(tables, [told_by(way) for way in ways], told_by(plain), small)
    return None if place is None else ways[place]


def _of_filters(filters: Sequence[Any], n: Count) -> list[Table]:
    """What each filter took away and what is left, which is told exactly where it is the samples."""
    if isinstance(n, str) or any(a < b for a, b in itertools.pairwise(filters)):
        return []
    cells = np.array([*(a - b for a, b in itertools.pairwise(filters)), filters[-1]], np.int64)
    left = np.triu(np.ones((len(cells), len(cells)), np.int64))
    each = np.eye(len(cells), dtype=np.int64)
    return [Table(cells, left, each[-1:] if filters[-1] == n else each[:0], each)]


def _of_parts(parts: Sequence[Any]) -> Table:
    """Parts of a whole that is told exactly."""
    each = np.eye(len(parts), dtype=np.int64)
    return Table(np.array(parts, np.int64), each, np.ones((1, len(parts)), np.int64), each)


def _modality(modality: Mapping[str, Any], n: Count, small: int) -> dict[str, Any]:
    absent, missing = modality["absent"], modality["column_missing"]
    there = _minus(n, absent)
    show = _shower([absent, there], small, n, lambda: [_of_parts([absent, there])])
    # As telling as how many lack a value is how many have one, where that can be had.
    absent_shown = not isinstance(show(absent), str)
    columns = {
        name: _shower(
            [value, *([_minus(there, value)] if absent_shown else [])],
            small,
            there if absent_shown else n,
            lambda value=value: [_of_parts([value, there - value])] if absent_shown else [],  # type: ignore[misc]
        )(value)
        for name, value in missing.items()
    }
    hidden = not absent_shown or any(isinstance(value, str) for value in columns.values())
    # A share of exact counts is no news; of hidden ones it would tell them, since it has as many digits as it needs.
    shares = {"missing": None if hidden else modality["missing"]}
    if "mean_steps" in modality:
        rows = there if isinstance(there, int) else 0
        shares["mean_steps"] = None if hidden or not rows else blurred(modality["mean_steps"], 1.0, rows, small)
    return {**modality, "absent": show(absent), **shares, "column_missing": columns}


def _task(task: Mapping[str, Any], n: Count, part_sizes: Sequence[Count], small: int) -> dict[str, Any]:
    if "labelled" not in task:
        return dict(task)
    labelled, parts = task["labelled"], task["parts"] if part_sizes else []
    task = {**task, "parts": parts}
    counts = [value for _, value in task.get("classes", [])]
    # Of a multilabel task a share is one of the samples that carry the label: what is left of it, and of the task.
    carrying = task.get("known", [])
    rests = [_minus(of, value) for of, value in zip(carrying, counts, strict=bool(carrying))]
    rests += [_minus(labelled, of) for of in carrying]
    of_parts = [part["labelled"] for part in parts]
    # A size that is hidden already tells nothing more of what was told beside it.
    without = [size - of for size, of in zip(part_sizes, of_parts, strict=False) if type(size) is type(of) is int]
    for part in parts:
        if part["positive"] is not None:
            rests += [_minus(part["labelled"], part["positive"])]
            of_parts += [part["positive"]]
    # One hidden count of a task could be had from its others and their sum.
    every = [labelled, _minus(n, labelled), *counts, *carrying, *rests, *of_parts, *without]
    show: Shower = functools.partial(count, small=small)
    if few([*every, *part_sizes, n], 0):
        show = _again(every, small, n)
        if any(show(value) != value for value in every):
            parts, task = [], {**task, "parts": []}
    elif few(every, small):
        enough = isinstance(n, int) and n >= _FEWEST * small
        fine = _in_least_steps(small, _of_task(task, n, part_sizes), [n, *part_sizes]) if enough else None
        if fine is None and enough:
            parts, task = [], {**task, "parts": []}
            fine = _in_least_steps(small, _of_task(task, n, ()), [n])
        show = fine or (lambda value: f"<{small}" if value else 0)
    shown = {
        **task,
        "labelled": show(labelled),
        "parts": [
            {
                **part,
                "labelled": show(part["labelled"]),
                "positive": None if part["positive"] is None else show(part["positive"]),
            }
            for part in parts
        ],
    }
    if "classes" in task:
        shown["classes"] = [[name, show(value)] for name, value in task["classes"]]
    if "known" in task:
        shown["known"] = [show(value) for value in carrying]
    if "mean" in task:
        # The digits of a mean tell by how many it was divided.
        del shown["mean"], shown["sd"]
        if isinstance(shown["labelled"], int) and shown["labelled"]:
            shown |= {key: blurred(task[key], task["sd"], shown["labelled"], small) for key in ("mean", "sd")}
    return shown


def _minus(whole: Count, part: Count) -> Count:
    """The rest; hidden where either is."""
    if isinstance(whole, str) or isinstance(part, str):
        return whole if isinstance(whole, str) else part
    return whole - part


_DIGITS = 40  # of the longest count that is a text


def _number(text: str) -> int:
    """The number in a count that is a text; 0, which is hidden like one, where a file of others holds none."""
    return int(re.sub(r"\D", "", text[:_DIGITS]) or 0)


def _step(small: int) -> int:
    return 10 * -(-small // 10)


#: Times the limit that samples, or those of each part, have to be for counts of a task to be told of them. In fewer
#: almost every count is small, and that a way to tell them was refused would tell which. A size is told anyway.
_FEWEST = 4
#: Cells of a table, with which all moves of two patients are looked at in little time.
_MOST_CELLS = 120


def _of_task(task: Mapping[str, Any], n: Any, part_sizes: Sequence[Any]) -> list[Table] | None:
    """The tables of a task's counts and of the sizes of the parts; None where they do not add up, or are too many."""
    classes, carrying = [value for _, value in task.get("classes", [])], task.get("known", [])
    parts = task["parts"] or [{"labelled": task["labelled"], "positive": None}]
    sizes = list(part_sizes) if task["parts"] else [n]
    labelled = [part["labelled"] for part in parts]
    positive = [part["positive"] for part in parts]
    if sum(labelled) != task["labelled"] or sum(sizes) != n:
        return None  # no split: nothing can be said of such parts
    by_part = None not in positive and len(classes) == 2 and sum(positive) == classes[1]
    if by_part:
        grid = [[of - yes, yes] for of, yes in zip(labelled, positive, strict=True)]
    elif classes and not carrying and sum(classes) == task["labelled"]:
        grid = _spread(labelled, classes)
    else:
        grid = [[of] for of in labelled]
    # (P, K + 1): patients of each part by class, the last column those without a label.
    table = np.array([[*row, size - sum(row)] for row, size in zip(grid, sizes, strict=True)], np.int64)
    if (table < 0).any() or table.size > _MOST_CELLS:
        return None
    whole, inner = np.ones_like(table), np.ones_like(table)
    inner[:, -1] = 0
    of_part = [np.eye(len(table), dtype=np.int64)[:, [row]] for row in range(len(table))]
    of_class = [np.eye(table.shape[1], dtype=np.int64)[[column]] for column in range(table.shape[1])]
    visible = [inner, *(whole * column for column in of_class[:-1]), *(inner * row for row in of_part)]
    visible += [row * of_class[1] for row in of_part] if by_part else []
    secret = [*visible, *((whole - inner) * row for row in of_part), whole - inner]
    secret += [row * of_class[0] for row in of_part] if by_part else []
    tables = [_masked(table, visible, [whole * row for row in of_part], secret)]
    for yes, of in zip(classes, carrying, strict=bool(carrying)):
        cells = np.array([[yes, of - yes, task["labelled"] - of, n - task["labelled"]]])
        sums = [np.array([mask]) for mask in ((1, 0, 0, 0), (1, 1, 0, 0), (1, 1, 1, 0))]
        rests = [np.array([mask]) for mask in ((0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1))]
        tables += [_masked(cells, sums, [np.ones((1, 4), np.int64)], [*sums[:2], *rests])]
    return tables


def _masked(cells: Ints, *masks: Sequence[Ints]) -> Table:
    """The table of cells (P, K) with masks (P, K) of sums that are told, that are told exactly, and that are secret."""
    return Table(cells.ravel(), *(np.asarray(each, np.int64).reshape(len(each), cells.size) for each in masks))


def _spread(rows: Sequence[int], columns: Sequence[int]) -> list[list[int]]:
    """One of the tables that have these sums of rows and columns; which one tells nobody anything."""
    left = list(columns)
    grid = []
    for total in rows:
        taken = []
        for place, value in enumerate(left):
            taken.append(min(total, value))
            total -= taken[-1]
            left[place] -= taken[-1]
        grid.append(taken)
    return grid
