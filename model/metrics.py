"""Scores, higher is better, under many weightings of the rows at once.

Every function takes weights (R, n): row 0 is usually all ones (the score itself) and the others are patient-bootstrap
counts, so one sort serves the score and all its replicates. With unit weights the results equal scikit-learn's.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tim_search.types import Kind

Array = NDArray[np.float64]


def auroc(labels: Array, scores: Array, weights: Array) -> Array:
    """Weighted area under the ROC curve, ties counted half.

    Args:
        labels: (n,) 0 or 1.
        scores: (n,) larger means more likely 1.
        weights: (R, n), at least 0.

    Returns:
        (R,); NaN where a weighting leaves one class only.
    """
    order = np.argsort(scores, kind="stable")
    ranked = scores[order]
    starts = np.flatnonzero(np.r_[True, ranked[1:] != ranked[:-1]]) if len(ranked) else np.zeros(0, dtype=np.intp)
    if not len(starts):
        return np.full(len(weights), np.nan)
    positive = labels[order] > 0.5
    sorted_weights = weights[:, order]
    good = sorted_weights * positive
    bad = sorted_weights - good
    if len(starts) < len(ranked):  # equal scores form one step
        good = np.add.reduceat(good, starts, axis=1)
        bad = np.add.reduceat(bad, starts, axis=1)
    below = np.cumsum(bad, axis=1)
    wins = np.einsum("rn,rn->r", good, below - bad / 2)
    pairs = good.sum(1) * below[:, -1]
    return np.divide(wins, pairs, out=np.full(len(weights), np.nan), where=pairs > 0)


def macro_auroc(labels: Array, scores: Array, weights: Array) -> Array:
    """Mean over the classes of one-vs-rest AUROC (M3H paper, section 3.2).

    Args:
        labels: (n,) class numbers 0 to C - 1.
        scores: (n, C) class probabilities.
        weights: (R, n).

    Returns:
        (R,); the mean is over the classes the weighting leaves with both sides, NaN where there is none.
    """
    each = np.stack([auroc((labels == c).astype(np.float64), scores[:, c], weights) for c in range(scores.shape[1])])
    usable = np.isfinite(each)
    total, count = np.where(usable, each, 0.0).sum(0), usable.sum(0)
    return np.divide(total, count, out=np.full(len(weights), np.nan), where=count > 0)


def r2(labels: Array, scores: Array, weights: Array) -> Array:
    """Weighted coefficient of determination; (n,), (n,) and (R, n) to (R,); NaN where the labels do not vary."""
    total = weights.sum(1)
    mean = np.divide(weights @ labels, total, out=np.zeros_like(total), where=total > 0)
    spread = np.einsum("rn,rn->r", weights, (labels - mean[:, None]) ** 2)
    rest = weights @ (labels - scores) ** 2
    return np.divide(spread - rest, spread, out=np.full(len(weights), np.nan), where=spread > 1e-12 * total)


def supervised(kind: Kind, labels: Array, logits: Array, weights: Array) -> Array:
    """The metric of a problem class from a network's outputs.

    Args:
        labels: (n,) 0 or 1, class numbers, or values.
        logits: (n, C): any increasing function of the probability in column 0 (binary), one logit a class
            (multiclass), the value in column 0, on the labels' scale (regression).
        weights: (R, n).

    Returns:
        (R,)
    """
    if kind == "binary":
        return auroc(labels, logits[:, 0], weights)
    if kind == "regression":
        return r2(labels, logits[:, 0], weights)
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return macro_auroc(labels, shifted / shifted.sum(axis=1, keepdims=True), weights)
