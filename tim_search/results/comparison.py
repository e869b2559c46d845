"""Two finished searches side by side: two networks on one cohort, two cohorts, or two settings.

Their scores do not compare, since contexts differ; what compares is how each ranks the helpers of a source task.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tim_search.gates.plain import number
from tim_search.results.opened import SearchResults
from tim_search.tim.agreement import Agreement, rank_agreement
from tim_search.tim.result import TimResult
from tim_search.types import BadInput, overlap_mask


@dataclass(frozen=True, eq=False)
class Comparison:
    """TIM scores of two searches over the tasks they share.

    Attributes:
        names: of the searches, told apart where they are equal.
        tasks: M shared tasks, in the order of the first search.
        estimate: float64 (2, M, M), row = source task; NaN where not estimable.
        certain: bool (2, M, M), whether the interval excludes zero.
        agreement: of the ranks, row by row; pairs of overlapping targets take no part.
        same_sign: share of the cells certain in both that have one sign; NaN where there is none.
        notes: what the reader must know, in words.
    """

    names: tuple[str, str]
    tasks: tuple[str, ...]
    estimate: NDArray[np.float64]
    certain: NDArray[np.bool_]
    agreement: Agreement
    same_sign: float
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
                    "certain": [bool(self.certain[0, i, j]), bool(self.certain[1, i, j])],
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
    estimate, certain = (np.stack(each) for each in zip(*parts, strict=True))
    overlapping = overlap_mask(tasks, (*a.overlaps, *b.overlaps))
    both = certain.all(0) & ~overlapping & ~np.eye(len(tasks), dtype=bool)
    same = np.sign(estimate[0]) == np.sign(estimate[1])
    notes = []
    if a.context.cohort != b.context.cohort:
        notes.append("The cohorts differ: what is compared is two populations as well.")
    elif (a.context.columns, a.context.split) != (b.context.columns, b.context.split):
        notes.append("The input columns or the split differ.")
    if ours.label != theirs.label:
        notes.append(f"The scores are not the same quantity: {ours.label} against {theirs.label}.")
    if a.context.network != b.context.network:
        notes.append(f"The networks differ: {a.context.network} against {b.context.network}.")
    agreement = rank_agreement(estimate[0], estimate[1], overlapping)
    return Comparison(
        names, tasks, estimate, certain, agreement, float(same[both].mean()) if both.any() else np.nan, tuple(notes)
    )


def _part(result: TimResult, tasks: tuple[str, ...]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    at = np.ix_(*[[result.tasks.index(name) for name in tasks]] * 2)
    estimate = np.asarray(result.estimate, float)[at]
    return estimate, ((np.asarray(result.low) > 0) | (np.asarray(result.high) < 0))[at]
