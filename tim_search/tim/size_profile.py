"""TIM by how many other tasks are trained along."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import comb

import numpy as np
from numpy.typing import NDArray

from tim_search.ledger.table import ScoreTable
from tim_search.tim.coded import block_offsets
from tim_search.tim.estimators import Array
from tim_search.tim.row import Mask, mean, variance_of_mean


@dataclass(frozen=True, eq=False)
class SizeProfile:
    """TIM as a function of how many other tasks are trained along: mean difference over S of one size.

    Attributes:
        sizes: int64 (M - 1,), |S| = 0 .. M - 2.
        estimate, se: float64 (M - 1, M, M); NaN where no subset tells, `se` also where it is not scored.
        n_with, n_without: int64 (M - 1, M, M) scored subsets behind either mean.
    """

    tasks: tuple[str, ...]
    sizes: NDArray[np.int64]
    estimate: Array = field(repr=False)
    se: Array = field(repr=False)
    n_with: NDArray[np.int64] = field(repr=False)
    n_without: NDArray[np.int64] = field(repr=False)


def size_profile(table: ScoreTable) -> SizeProfile:
    """Difference of the mean score of i over subsets with and without j, within each size |S| of the rest.

    Exact where all subsets of the two sizes were trained; from a sample unbiased but rough, since within one size the
    other tasks are not balanced. `se` holds the drawing of subsets (none where all were trained) and, from two blocks
    on, the differences between blocks.
    """
    m, blocks = len(table.tasks), len(table.blocks)
    shape = (max(m - 1, 0), m, m)
    value, se = np.full(shape, np.nan), np.full(shape, np.nan)
    n_with, n_without = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    every = np.array([comb(m - 2, s) for s in range(m - 1)])[:, None] if m > 1 else np.zeros((0, 1))
    for i in range(m if blocks else 0):
        rows = table.membership[:, i] & np.isfinite(table.scores[:, :, i]).any(axis=1)
        y = table.scores[rows, :, i]
        scored = np.isfinite(y)
        sliced = blocks > 1 and bool((scored.sum(axis=1) == 1).all())
        # Sliced blocks share no subset, so their levels are scored no better than by their means.
        y = y - (mean(y.T) if sliced else block_offsets(y))
        members = np.delete(table.membership[rows], i, axis=1)
        at_size = members.sum(axis=1) == np.arange(m)[:, None]
        others = [j for j in range(m) if j != i]
        difference, drawn, counts = _by_size(mean(y), members, at_size)
        n_with[:, i, others], n_without[:, i, others] = counts
        complete = (counts[0] == every) & (counts[1] == every)
        variance = np.where(complete, 0.0, drawn)
        if blocks > 1:
            each = np.stack([_by_size(y[:, b], members, at_size)[0] for b in range(blocks)])
            between = variance_of_mean(each)
            # The spread between slices holds the drawing of subsets as well: adding both would count it twice.
            variance = np.fmax(variance, between) if sliced else variance + between
        else:
            variance[complete] = np.nan
        value[:, i, others], se[:, i, others] = difference, np.sqrt(variance)
    return SizeProfile(table.tasks, np.arange(shape[0]), value, se, n_with, n_without)


def _by_size(y: Array, members: Mask, at_size: Mask) -> tuple[Array, Array, NDArray[np.int64]]:
    """Difference of means, its sampling variance (M - 1, q) and the two counts (2, M - 1, q), by size of the rest."""
    scored = np.isfinite(y)
    parts = []
    for inside, layer in ((members, at_size[1:]), (~members, at_size[:-1])):
        use = (layer & scored).astype(float)
        count = use @ inside
        with np.errstate(divide="ignore", invalid="ignore"):
            average = use @ (inside * np.nan_to_num(y)[:, None]) / count
            square = use @ (inside * np.nan_to_num(y)[:, None] ** 2) / count - average**2
            variance = np.maximum(square, 0.0) / (count - 1)
        variance[count < 2] = np.nan
        parts.append((average, variance, count.astype(np.int64)))
    (a, var_a, n_a), (b, var_b, n_b) = parts
    return a - b, var_a + var_b, np.stack([n_a, n_b])
