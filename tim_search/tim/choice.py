"""Which kind of score a table of scores gives, and whether what was asked for can be given."""

from __future__ import annotations

from math import comb
from typing import NamedTuple, get_args

import numpy as np
from numpy.typing import ArrayLike

from tim_search.ledger.table import ScoreTable
from tim_search.tim.estimators import Array
from tim_search.tim.row import Mask, Method
from tim_search.types import BadInput

METHODS: tuple[Method, ...] = get_args(Method)

#: A set of subsets is taken for size-restricted when uniform sampling would miss all larger ones with less chance.
UNLIKELY = 0.01


class Choice(NamedTuple):
    """Method and largest subset size of method "auto", with notes on what is not used.

    `lost` are the places of the sources without an exact score among sources that have one: their rows are sampled.
    """

    method: Method
    size: int | None = None
    notes: tuple[str, ...] = ()
    lost: tuple[int, ...] = ()


def choose(table: ScoreTable) -> Choice:
    """What method "auto" takes."""
    m = len(table.tasks)
    sizes = table.membership.sum(axis=1)
    answered = table.trained.all(axis=1) if table.blocks else np.zeros(len(sizes), bool)
    n_all = 2**m - 1
    if int(answered.sum()) == n_all:
        lost = tuple(
            i for i in range(m) if not np.isfinite(table.scores[table.membership[:, i], :, i]).all(axis=0).any()
        )
        if len(lost) < m:
            return Choice("exact", lost=lost)
        return Choice("blup", notes=("No block has all subsets: failed trainings leave no exact score.",))

    full = complete_up_to(table)
    trained = table.trained.any(axis=1) if table.blocks else answered
    largest = int(sizes[trained].max(initial=0))
    n_trained = int(trained.sum())
    if 2 <= full == largest:
        return Choice("restricted", full)
    small = (sum(comb(m, k) for k in range(1, largest + 1)) / n_all) ** n_trained
    if m > 2 and n_trained and small < UNLIKELY:
        size = max(full, 2)
        larger = int((sizes[trained] > size).sum())
        unused = (f"{larger} larger subsets were trained and are not used here.",) if larger else ()
        return Choice("restricted", size, unused)
    return Choice("blup")


def complete_up_to(table: ScoreTable) -> int:
    """The largest k for which every subset of at most k tasks has its final answer in every block."""
    m = len(table.tasks)
    answered = table.trained.all(axis=1) if table.blocks else np.zeros(len(table.membership), bool)
    counts = np.bincount(table.membership.sum(axis=1)[answered], minlength=m + 1)
    full = 0
    while full < m and counts[full + 1] == comb(m, full + 1):
        full += 1
    return full


def checked_arrays(membership: ArrayLike, scores: ArrayLike) -> tuple[Mask, Array]:
    members, values = np.asarray(membership), np.asarray(scores, float)
    if members.ndim != 2 or not members.shape[1] or members.shape != values.shape:
        raise BadInput(
            "membership and scores must both have shape (subsets, tasks), with a task at least; got "
            f"{members.shape} and {values.shape}."
        )
    if members.dtype != bool:
        if not np.isin(members, (0, 1)).all():
            raise BadInput("membership must be bool, or 0 and 1; it holds other values.")
        members = members.astype(bool)
    if np.isinf(values).any():
        raise BadInput(f"{int(np.isinf(values).sum())} scores are infinite. Give NaN for a score that is missing.")
    if (np.isfinite(values) & ~members).any():
        row, column = np.argwhere(np.isfinite(values) & ~members)[0]
        raise BadInput(f"Row {row} scores task {column}, which is not in its subset; such scores must be NaN.")
    return members, values


def checked_options(
    table: ScoreTable, method: Method, size: int | None, confidence: float, fdr: float, interactions: bool
) -> int | None:
    """The largest subset size of a restricted or deployable score, None for the others."""
    if method not in METHODS:
        raise BadInput(f"method: got {method!r}; allowed are {', '.join(METHODS)} (and auto for a search).")
    if not table.tasks:
        raise BadInput("A TIM matrix needs at least one task; got none.")
    for name, value in (("confidence", confidence), ("fdr", fdr)):
        if not 0 < value < 1:
            raise BadInput(f"{name} must lie between 0 and 1; got {value}.")
    if interactions and method not in ("exact", "blup"):
        raise BadInput(f"Second-order scores come with method exact or blup; got {method}.")
    if method != "restricted" and size is None:
        return None
    if method not in ("restricted", "blup"):
        raise BadInput(f"size: a largest subset size goes with method restricted or blup; got method {method}.")
    m = len(table.tasks)
    if size is None:
        size = int(table.membership.sum(axis=1).max(initial=2))
    if not 2 <= size <= m:
        raise BadInput(f"size: a restricted score needs a largest subset size from 2 to {m}, the tasks; got {size}.")
    return size
