"""How far two maps of tasks by tasks rank the others alike: TIM scores beside the attention the network pays.

The M3H paper offers both as explanations of a combination. They answer different questions: a TIM score says how the
source's metric changes, attention how much the source's token draws on the other's. Nothing forces them to agree.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

#: Permutations behind `Agreement.chance`, and the fewest others that a row can be ranked by.
PERMUTATIONS = 2000
_FEWEST = 3


@dataclass(frozen=True, eq=False)
class Agreement:
    """Rank agreement of two maps, row by row.

    Attributes:
        rows: float64 (M,): Spearman's correlation of each source's row; NaN with fewer than three others to rank.
        mean: their mean; NaN without rows.
        chance: share of random orders of the others, within rows, whose mean is at least as far from 0.
    """

    rows: NDArray[np.float64]
    mean: float
    chance: float


def rank_agreement(
    own: NDArray[np.float64], other: NDArray[np.float64], leave_out: NDArray[np.bool_] | None = None
) -> Agreement:
    """Compare two float (M, M) maps; the diagonal, NaN in either and `leave_out` (bool (M, M)) take no part."""
    m = len(own)
    used = np.isfinite(own) & np.isfinite(other) & ~np.eye(m, dtype=bool)
    if leave_out is not None:
        used &= ~leave_out
    rows = np.full(m, np.nan)
    drawn: list[NDArray[np.float64]] = []
    rng = np.random.default_rng(0)
    for i in range(m):
        first, second = _standard(own[i, used[i]]), _standard(other[i, used[i]])
        if len(first) < _FEWEST or not first.any() or not second.any():
            continue
        rows[i] = first @ second
        orders = rng.permuted(np.tile(second, (PERMUTATIONS, 1)), axis=1)
        drawn.append(orders @ first)
    if not drawn:
        return Agreement(rows, np.nan, np.nan)
    mean = float(np.nanmean(rows))
    null = np.mean(drawn, axis=0)
    # The order that was found is one of the possible ones.
    chance = (1 + int((np.abs(null) >= abs(mean) - 1e-12).sum())) / (1 + PERMUTATIONS)
    return Agreement(rows, mean, chance)


def _standard(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ranks with mean 0 and length 1; zeros where all are equal."""
    ranks = rankdata(values) - (len(values) + 1) / 2
    length = float(np.sqrt(ranks @ ranks))
    return np.asarray(ranks / length) if length else np.zeros(len(values))
