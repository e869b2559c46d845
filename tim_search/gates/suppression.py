"""Whether a count that is hidden could be had from those that are told beside it.

Counts of one table add up: the parts of a split to all samples, the classes of a task to the labelled ones. Who knows
the sums and the intervals that rounded counts stand for can narrow a hidden one down. It stays hidden if moving a
patient or two from one cell of the table to others changes it and nothing that is told.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
#: (value,) -> the least and the largest count that is told in the same way.
Interval = Callable[[int], tuple[int, int]]

_PAIRS = 60_000  # moves of two patients that are looked at, of more a fixed sample


def open_to_doubt(cells: Ints, visible: Ints, intervals: Sequence[tuple[int, int]], secret: Ints, small: int) -> bool:
    """Whether every count from 1 to `small` - 1 could also be another one of these.

    Args:
        cells: (A,) the counts of a table that everything else is a sum of.
        visible: (T, A) coefficients; row t tells that visible[t] @ cells lies in intervals[t].
        intervals: (least, largest) of each row.
        secret: (S, A) coefficients of the sums that must not be known where they are small.
        small: below which a count is hidden.
    """
    values = secret @ cells
    hidden = (values > 0) & (values < small)
    if not hidden.any():
        return True
    steps = _steps(len(cells))
    sums, least, largest = visible @ cells, *np.array(intervals, np.int64).reshape(-1, 2).T
    pending = hidden.copy()
    for moves in (steps, _pairs(steps)):
        now = sums + moves @ visible.T
        possible = ((now >= least) & (now <= largest)).all(axis=1) & (cells + moves >= 0).all(axis=1)
        others = values + moves[possible] @ secret.T
        pending &= ~((others != values) & (others > 0) & (others < small)).any(axis=0)
        if not pending.any():
            return True
    return False


def _steps(n: int) -> Ints:
    """(V, n): a patient comes to a cell, leaves one, or goes from one to another."""
    unit = np.eye(n, dtype=np.int64)
    across = [unit[i] - unit[j] for i, j in itertools.permutations(range(n), 2)]
    return np.concatenate([unit, -unit, np.array(across, np.int64).reshape(-1, n)])


def _pairs(steps: Ints) -> Ints:
    """(V, n): two of these steps together."""
    first, second = np.triu_indices(len(steps))
    if len(first) > _PAIRS:
        chosen = np.random.default_rng(0).choice(len(first), _PAIRS, replace=False)
        first, second = first[chosen], second[chosen]
    return np.unique(steps[first] + steps[second], axis=0)
