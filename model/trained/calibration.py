"""How well predictions fit a cohort they were not made for: recalibration, net benefit, each under many weightings.

Source of the formulas: Cox, Biometrika 1958;45:562-565 (recalibration of probabilities by logistic regression); Van
Calster et al., BMC Medicine 2019;17:230 (the intercept with the slope held at 1, and the slope); Vickers and Elkin,
Medical Decision Making 2006;26:565-574 (net benefit).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit

Array = NDArray[np.float64]

#: Probabilities are kept this far from 0 and 1, where a logit has no end.
_EDGE = 1e-7
#: Newton's steps double the digits: after one as short as this nothing is left to move.
_MOST_STEPS, _CLOSE = 50, 1e-5
#: Numbers of a matrix of weightings by rows that are worked on at once: a bound on memory.
_AT_ONCE = 4_000_000


def of_risks(risk: Array, hit: Array, weights: Array) -> tuple[Array, Array]:
    """(intercept, slope) of predicted risks under R weightings, float64 (R,) each; NaN where there is none.

    The slope is that of a logistic regression of the outcome on the logit of the risk: 1 is right, below 1 the risks
    are too extreme. The intercept is that of the same regression with the slope held at 1: 0 is right, above 0 the
    risks are too low.

    Args:
        risk: float64 (n,), probabilities.
        hit: float64 (n,), 0 or 1.
        weights: float64 (R, n), the first row that of the whole cohort.
    """
    score = logit(np.clip(risk, _EDGE, 1 - _EDGE))
    intercept, slope = np.full(len(weights), np.nan), np.full(len(weights), np.nan)
    right = np.array([[0.0, 1.0]])
    starts = [_logistic(score, hit, weights[:1], right, free) for free in (1, 2)]
    large, both = (start if np.isfinite(start).all() else right for start in starts)
    size = max(1, _AT_ONCE // max(1, len(risk)))
    for first in range(0, len(weights), size):
        part = slice(first, first + size)
        slope[part] = _logistic(score, hit, weights[part], both, free=2)[:, 1]
        intercept[part] = _logistic(score, hit, weights[part], large, free=1)[:, 0]
    return intercept, slope


def _logistic(score: Array, hit: Array, weights: Array, start: Array, free: int) -> Array:
    """(R, 2) intercept and slope by Newton's steps from `start` (1, 2), of which the first `free` move.

    NaN where the steps do not end: one outcome only, equal scores, or outcomes that a score parts without an error.
    """
    at = np.repeat(start, len(weights), axis=0)
    moving = np.ones(len(weights), bool)
    for _ in range(_MOST_STEPS):
        rows = np.flatnonzero(moving)
        here = weights[rows]
        chance = expit(at[rows, :1] + at[rows, 1:] * score)
        error, spread = here * (hit - chance), here * chance * (1 - chance)
        gradient = np.stack([error.sum(1), error @ score], axis=1)[:, :free]
        sums = [spread.sum(1), spread @ score, spread @ score**2]
        curvature = np.stack([np.stack(sums[:2], axis=1), np.stack(sums[1:], axis=1)], axis=1)[:, :free, :free]
        scale = np.trace(curvature, axis1=1, axis2=2)
        flat = ~(np.linalg.det(curvature) > 1e-10 * scale**free)
        curvature[flat] = np.eye(free)
        step = np.linalg.solve(curvature, gradient[:, :, None])[:, :, 0]
        at[rows, :free] += np.clip(step, -2.0, 2.0)
        at[rows[flat]] = np.nan
        moving[rows] = ~flat & (np.abs(step).max(axis=1) > _CLOSE)
        if not moving.any():
            return at
    at[moving] = np.nan
    return at


def of_values(predicted: Array, observed: Array, weights: Array) -> tuple[Array, Array]:
    """(intercept, slope) of predicted values under R weightings, float64 (R,) each; NaN where there is none.

    The slope is that of a linear regression of what was observed on what was predicted: 1 is right. The intercept is
    the mean of observed - predicted, in the unit of the labels: 0 is right, above 0 the predictions are too low.

    Args:
        predicted, observed: float64 (n,).
        weights: float64 (R, n).
    """
    total = weights.sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean_x, mean_y = weights @ predicted / total, weights @ observed / total
        spread = weights @ predicted**2 / total - mean_x**2
        together = weights @ (predicted * observed) / total - mean_x * mean_y
        slope = np.where(spread > 1e-12 * np.maximum(1.0, mean_x**2), together / spread, np.nan)
    return mean_y - mean_x, slope


def net_benefit(risk: Array, hit: Array, thresholds: Array) -> tuple[Array, Array, NDArray[np.int64]]:
    """(net benefit of treating who is at or above each threshold, that of treating all, the counts behind the first).

    Net benefit: true positives - false positives x t / (1 - t), a patient; that of treating nobody is 0.

    Args:
        risk: float64 (n,), probabilities.
        hit: float64 (n,), 0 or 1.
        thresholds: float64 (T,), above 0 and below 1.

    Returns:
        float64 (T,) twice, and int64 (T, 4): true and false positives, false and true negatives.
    """
    n, positive = len(hit), int(hit.sum())
    above = risk >= thresholds[:, None]
    true, false = (above & (hit == 1)).sum(axis=1), (above & (hit == 0)).sum(axis=1)
    odds = thresholds / (1 - thresholds)
    counts = np.stack([true, false, positive - true, n - positive - false], axis=1)
    share = positive / n
    return true / n - false / n * odds, share - (1 - share) * odds, counts
