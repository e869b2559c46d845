"""The paired comparison of two models on the test patients."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Array: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True)
class Contrast:
    """Mean difference of two models' test scores, with a 95 % interval and a two-sided p-value; NaN where unknown."""

    value: float
    low: float
    high: float
    p_value: float


UNKNOWN = Contrast(math.nan, math.nan, math.nan, math.nan)


def contrast(ours: Array, theirs: Array, confidence: float = 0.95) -> Contrast:
    """Paired comparison of two models.

    A bootstrap over patients and seeds at once: draw r takes the r-th patient weighting, which both models share, and
    as many seeds as there are, with replacement. A handful of seeds drawn from itself varies too little: what the draw
    of seeds adds to draw r is therefore widened by sqrt(S / (S - 1)), the bias of a variance of S values, and by the
    ratio of Student's quantile with S - 1 degrees of freedom to the normal one. The interval is that of the
    percentiles; the p-value is twice the smaller share of draws on either side of zero, a draw counted extra on each
    side so that it is never 0. One seed shows the patients' part alone.

    Args:
        ours, theirs: float64 (S, 1 + R), a row a seed: the score, then the score under each weighting. A weighting that
            leaves no score (NaN) in any row is passed over.
        confidence: of the interval.
    """
    if not len(ours):
        return UNKNOWN
    difference = ours - theirs
    draws = difference[:, 1:][:, np.isfinite(difference[:, 1:]).all(axis=0)]
    value = float(difference[:, 0].mean())
    n_seeds, n_draws = draws.shape
    if n_draws < 2:
        return Contrast(value, math.nan, math.nan, math.nan)
    dice = np.random.default_rng(n_draws)
    seeds = dice.integers(0, n_seeds, (n_seeds, n_draws))
    patients = draws.mean(axis=0)
    drawn = patients
    if n_seeds > 1:
        upper = (1 + confidence) / 2
        widened = math.sqrt(n_seeds / (n_seeds - 1)) * stats.t.ppf(upper, n_seeds - 1) / stats.norm.ppf(upper)
        drawn = patients + widened * (np.take_along_axis(draws, seeds, axis=0).mean(axis=0) - patients)
    low, high = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2])
    tail = min((drawn <= 0).sum(), (drawn >= 0).sum())
    return Contrast(value, float(low), float(high), min(1.0, 2.0 * (1 + tail) / (1 + n_draws)))
