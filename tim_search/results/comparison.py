"""Two finished searches side by side: two networks on one cohort, two cohorts, or two settings.

Their scores do not compare, since contexts differ; what compares is how each ranks the helpers of a source task. Where
both trained all the same subsets in the same blocks of one split, differing in network or settings alone, a difference
of two TIM scores is a TIM score of the differences, and has an interval of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tim_search.gates.plain import number
from tim_search.ledger.table import less
from tim_search.results.opened import SearchResults
from tim_search.results.training_length import training_length
from tim_search.tim import scores as tim
from tim_search.tim.agreement import Agreement, rank_agreement
from tim_search.tim.result import TimResult
from tim_search.types import BadInput, control, overlap_mask


@dataclass(frozen=True, eq=False)
class Comparison:
    """TIM scores of two searches over the tasks they share.

    Attributes:
        names: of the searches, told apart where they are equal.
        tasks: M shared tasks, in the order of the first search.
        estimate: float64 (2, M, M), row = source task; NaN where not estimable.
        certain: bool (2, M, M), whether the interval excludes zero.
        discovery: bool (2, M, M), whether the effect is a discovery of its search (see `TimResult.rejected`).
        agreement: of the ranks, row by row; pairs of overlapping targets take no part.
        same_sign: share of the cells certain in both that have one sign; NaN where there is none.
        change: float64 (3, M, M) TIM score of the second search less that of the first, and the ends of its 95 %
            interval; NaN where the two are not paired.
        notes: what the reader must know, in words.
    """

    names: tuple[str, str]
    tasks: tuple[str, ...]
    estimate: NDArray[np.float64]
    certain: NDArray[np.bool_]
    discovery: NDArray[np.bool_]
    agreement: Agreement
    same_sign: float
    change: NDArray[np.float64]
    notes: tuple[str, ...]

    def record(self) -> dict[str, Any]:
        """Plain values, as JSON can hold them."""
        m = range(len(self.tasks))
        return {
            "searches": list(self.names),
            "tasks": list(self.tasks),
            "agreement": number(self.agreement.mean),
            "chance": number(self.agreement.chance),
            "same_sign": number(self.same_sign),
            "rows": {name: number(value) for name, value in zip(self.tasks, self.agreement.rows, strict=True)},
            "cells": [
                {
                    "source": self.tasks[i],
                    "task": self.tasks[j],
                    "first": number(self.estimate[0, i, j]),
                    "second": number(self.estimate[1, i, j]),
                    "change": [number(value) for value in self.change[:, i, j]],
                    "certain": self.certain[:, i, j].tolist(),
                    "discovery": self.discovery[:, i, j].tolist(),
                }
                for i in m
                for j in m
                if i != j
            ],
            "notes": list(self.notes),
        }


def compare(first: SearchResults, second: SearchResults) -> Comparison:
    """Lay two searches side by side.

    Raises:
        BadInput: fewer than three tasks in common, or nothing trained yet.
    """
    ours, theirs = first.tim(), second.tim()
    left_out = {ours.control, theirs.control}
    tasks = tuple(name for name in ours.tasks if name in theirs.tasks and name not in left_out)
    if len(tasks) < 3:
        raise BadInput(
            f"compare: expected at least three tasks in common, {first.folder} and {second.folder} share "
            f"{', '.join(tasks) or 'none'}. Name two searches over the same tasks."
        )
    a, b = first.manifest, second.manifest
    names = (a.name, b.name) if a.name != b.name else (str(first.folder), str(second.folder))
    parts = [_part(result, tasks) for result in (ours, theirs)]
    estimate, certain, discovery = (np.stack(each) for each in zip(*parts, strict=True))
    overlapping = overlap_mask(tasks, (*a.overlaps, *b.overlaps))
    both = certain.all(0) & ~overlapping & ~np.eye(len(tasks), dtype=bool)
    same = np.sign(estimate[0]) == np.sign(estimate[1])
    notes = _notes(first, second)
    if ours.label != theirs.label:
        notes.insert(0, f"The scores are not the same quantity: {ours.label} against {theirs.label}.")
    agreement = rank_agreement(estimate[0], estimate[1], overlapping)
    same_sign = float(same[both].mean()) if both.any() else np.nan
    change = _changes(first, second, ours, theirs, tasks)
    return Comparison(names, tasks, estimate, certain, discovery, agreement, same_sign, change, tuple(notes))


def _changes(
    first: SearchResults, second: SearchResults, ours: TimResult, theirs: TimResult, tasks: Sequence[str]
) -> NDArray[np.float64]:
    """See `Comparison.change`. A block has the same patients in both searches, and the same bootstrap weights."""
    a, b = first.manifest, second.manifest
    alike = (a.context.cohort, a.context.columns, a.context.split, a.blocks, set(first.tasks)) == (
        b.context.cohort, b.context.columns, b.context.split, b.blocks, set(second.tasks),
    )  # fmt: skip
    methods = {ours.method, theirs.method, *ours.methods, *theirs.methods}
    whole = ours.label == theirs.label and methods in ({"exact"}, {"restricted"})
    if not (alike and whole):
        return np.full((3, len(tasks), len(tasks)), np.nan)
    table = less(second.table, first.table)
    result = tim.from_table(table, ours.method, size=ours.size, overlaps=a.overlaps, control=a.control)
    at = np.ix_(*[[result.tasks.index(name) for name in tasks]] * 2)
    return np.stack([np.asarray(values, float)[at] for values in (result.estimate, result.low, result.high)])


def _notes(first: SearchResults, second: SearchResults) -> list[str]:
    """In what the two searches differ, and what that means for whoever compares them."""
    a, b = first.manifest, second.manifest
    notes = []
    if a.context.cohort != b.context.cohort:
        if control.joined_only_one(a.context, b.context, a.control, b.control):
            notes.append(
                f"The cohort is the same; the negative control {a.control or b.control} joined in one search only, so "
                "that its subsets have one more task to hold."
            )
        else:
            notes.append("The cohorts differ: what is compared is two populations as well.")
    elif (a.context.columns, a.context.split) != (b.context.columns, b.context.split):
        notes.append("The input columns or the split differ.")
    if a.context.network != b.context.network:
        notes.append(f"The networks differ: {a.context.network} against {b.context.network}.")
    ours, theirs = training_length(first), training_length(second)
    if ours != theirs:
        notes.append(
            f"The trainings differ in length: {ours} against {theirs}. What a task gives to another depends on how "
            "long networks train, so a difference between the searches may be no more than that."
        )
    notes += [
        f"{results.folder}: the network has not learnt {', '.join(results.not_learnt)}, so nothing is found there."
        for results in (first, second)
        if results.not_learnt
    ]
    return notes


def _part(
    result: TimResult, tasks: tuple[str, ...]
) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_]]:
    """Scores, whether their intervals exclude zero, and discoveries (M, M) of the tasks in common."""
    at = np.ix_(*[[result.tasks.index(name) for name in tasks]] * 2)
    estimate = np.asarray(result.estimate, float)[at]
    certain = (np.asarray(result.low) > 0) | (np.asarray(result.high) < 0)
    return estimate, certain[at], np.asarray(result.rejected, bool)[at]
