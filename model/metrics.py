"""Scores, higher is better, under many weightings of the rows at once.

Every function takes weights (R, n): row 0 is usually all ones (the score itself) and the others are patient-bootstrap
counts, so one sort serves the score and all its replicates. Under every weighting the results equal scikit-learn's with
`sample_weight`; where scikit-learn has no answer, or one that says nothing (one class only), they are NaN.
`tim_search.types.ALLOWED` says which metrics a task of each problem class may be searched by.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from tim_search.types import ALLOWED, METRICS, Kind

Array = NDArray[np.float64]

#: Weights that the pooled cells of a multilabel task are given in one go: (weightings, rows x labels) of them are as
#: many times the memory of the rows' own as there are labels.
_BLOCK = 1 << 22


def auroc(labels: Array, scores: Array, weights: Array) -> Array:
    """Weighted area under the ROC curve, ties counted half.

    Args:
        labels: (n,) 0 or 1.
        scores: (n,) larger means more likely 1.
        weights: (R, n), at least 0.

    Returns:
        (R,); NaN where a weighting leaves one class only.
    """
    return _area(*_steps(labels, scores, weights))


def auprc(labels: Array, scores: Array, weights: Array) -> Array:
    """Weighted average precision: the area under the precision-recall curve without interpolation, ties one step.

    (n,), (n,) and (R, n) to (R,); NaN where a weighting leaves one class only. Chance is the share of the positives.
    """
    return _precision(*_steps(labels, scores, weights))


def _steps(labels: Array, scores: Array, weights: Array) -> tuple[Array, Array]:
    """Weight of the positives and of the negatives at each distinct score, ascending; each (R, distinct scores)."""
    order = np.argsort(scores, kind="stable")
    ranked = scores[order]
    starts = np.flatnonzero(np.r_[True, ranked[1:] != ranked[:-1]]) if len(ranked) else np.zeros(0, dtype=np.intp)
    positive = labels[order] > 0.5
    sorted_weights = weights[:, order]
    good = sorted_weights * positive
    bad = sorted_weights - good
    if len(starts) < len(ranked):  # equal scores form one step
        good = np.add.reduceat(good, starts, axis=1)
        bad = np.add.reduceat(bad, starts, axis=1)
    return good, bad


def _area(good: Array, bad: Array) -> Array:
    """AUROC (R,) of `_steps`."""
    below = np.cumsum(bad, axis=1)
    wins = np.einsum("rn,rn->r", good, below - bad / 2)
    return _ratio(wins, good.sum(1) * bad.sum(1))


def _precision(good: Array, bad: Array) -> Array:
    """Average precision (R,) of `_steps`."""
    found, wrong = np.cumsum(good[:, ::-1], axis=1), np.cumsum(bad[:, ::-1], axis=1)
    said = found + wrong
    precision = np.divide(found, said, out=np.zeros_like(said), where=said > 0)
    total, rest = good.sum(1), bad.sum(1)
    return _ratio(np.einsum("rn,rn->r", good[:, ::-1], precision), np.where(rest > 0, total, 0.0))


def _ratio(above: Array, below: Array) -> Array:
    """`above / below`, NaN where `below` is not positive."""
    return np.divide(above, below, out=np.full(above.shape, np.nan), where=below > 0)


def _mean(each: Array) -> Array:
    """Mean (R,) over the first axis of (k, R), of the defined values; NaN where there is none."""
    usable = np.isfinite(each)
    return _ratio(np.where(usable, each, 0.0).sum(0), usable.sum(0).astype(np.float64))


def macro_auroc(labels: Array, scores: Array, weights: Array) -> Array:
    """Mean over the classes of one-vs-rest AUROC (M3H paper, section 3.2).

    Args:
        labels: (n,) class numbers 0 to C - 1.
        scores: (n, C) class probabilities.
        weights: (R, n).

    Returns:
        (R,); the mean is over the classes the weighting leaves with both sides, NaN where there is none.
    """
    return _mean(
        np.stack([auroc((labels == c).astype(np.float64), scores[:, c], weights) for c in range(scores.shape[1])])
    )


def _f1(labels: Array, scores: Array, weights: Array) -> tuple[Array, Array]:
    """(macro, micro) F1 of the likeliest classes; see `macro_f1` and `micro_f1`."""
    names = np.arange(scores.shape[1])
    said = (scores.argmax(axis=1)[:, None] == names).astype(np.float64)
    true = (labels[:, None] == names).astype(np.float64)
    hit = weights @ (said * true)
    return _mean(_ratio(2 * hit, weights @ said + weights @ true).T), _ratio(hit.sum(1), weights.sum(1))


def macro_f1(labels: Array, scores: Array, weights: Array) -> Array:
    """Mean of the classes' F1, each row said to be of its likeliest class.

    Args:
        labels: (n,) class numbers 0 to C - 1.
        scores: (n, C) larger means likelier: logits or probabilities. Of equal ones the first class is said.
        weights: (R, n).

    Returns:
        (R,); the mean is over the classes that are true or said of some row the weighting leaves, NaN without rows.
    """
    return _f1(labels, scores, weights)[0]


def micro_f1(labels: Array, scores: Array, weights: Array) -> Array:
    """F1 over all classes pooled, which of one class a row is the share of rows rightly said; as `macro_f1`."""
    return _f1(labels, scores, weights)[1]


def labels_auroc(labels: Array, scores: Array, weights: Array) -> Array:
    """Mean over the labels of a multilabel task of their AUROC.

    Args:
        labels: (n, L) 0, 1, or NaN where the row does not carry the label.
        scores: (n, L) larger means more likely 1.
        weights: (R, n).

    Returns:
        (R,); the mean is over the labels the weighting leaves with both classes, NaN where there is none.
    """
    known = ~np.isnan(labels)
    each = [auroc(labels[rows, index], scores[rows, index], weights[:, rows]) for index, rows in enumerate(known.T)]
    return _mean(np.stack(each))


def pooled_auroc(labels: Array, scores: Array, weights: Array) -> Array:
    """AUROC over all known cells of a multilabel task as if they were rows of one; arguments as `labels_auroc`."""
    row, column = np.nonzero(~np.isnan(labels))
    size = max(1, _BLOCK // max(1, len(row)))
    parts = [
        auroc(labels[row, column], scores[row, column], weights[start : start + size, row])
        for start in range(0, len(weights), size)
    ]
    return np.concatenate(parts)


def r2(labels: Array, scores: Array, weights: Array) -> Array:
    """Weighted coefficient of determination; (n,), (n,) and (R, n) to (R,); NaN where the labels do not vary."""
    total = weights.sum(1)
    mean = np.divide(weights @ labels, total, out=np.zeros_like(total), where=total > 0)
    spread = np.einsum("rn,rn->r", weights, (labels - mean[:, None]) ** 2)
    rest = weights @ (labels - scores) ** 2
    return np.divide(spread - rest, spread, out=np.full(len(weights), np.nan), where=spread > 1e-12 * total)


def every(kind: Kind, labels: Array, logits: Array, weights: Array, names: Iterable[str] = ()) -> dict[str, Array]:
    """The metrics of a problem class from a network's outputs.

    Args:
        labels: (n,) 0 or 1, class numbers, or values; (n, L) of 0, 1 and NaN (no label) of a multilabel task.
        logits: (n, C): any increasing function of the probability in column 0 (binary), one logit a class
            (multiclass), the value in column 0, on the labels' scale (regression); (n, L): one logit a label
            (multilabel), or any increasing function of its probability that is the same for all.
        weights: (R, n).
        names: which of `ALLOWED[kind]`; all of them where none is named.

    Returns:
        (R,) by name, in the order of `ALLOWED[kind]`; NaN where a weighting leaves nothing to tell apart.

    Raises:
        ValueError: a name that is no metric of the kind, or a kind without labels.
    """
    wanted = set(names) or set(ALLOWED[kind])
    if kind == "clustering" or not wanted <= set(ALLOWED[kind]):
        raise ValueError(f"a {kind} task is not scored by {', '.join(sorted(wanted))} from labels")
    found: dict[str, Array] = {}
    if kind == "binary":
        steps = _steps(labels, logits[:, 0], weights)
        found = {"auroc": _area(*steps)} if "auroc" in wanted else {}
        found |= {"auprc": _precision(*steps)} if "auprc" in wanted else {}
    elif kind == "regression":
        found = {"r2": r2(labels, logits[:, 0], weights)}
    elif kind == "multilabel":
        found = {"macro_auroc": labels_auroc(labels, logits, weights)} if "macro_auroc" in wanted else {}
        found |= {"micro_auroc": pooled_auroc(labels, logits, weights)} if "micro_auroc" in wanted else {}
    else:
        if "macro_auroc" in wanted:
            shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
            found["macro_auroc"] = macro_auroc(labels, shifted / shifted.sum(axis=1, keepdims=True), weights)
        if wanted & {"macro_f1", "micro_f1"}:
            found["macro_f1"], found["micro_f1"] = _f1(labels, logits, weights)
    return {name: found[name] for name in ALLOWED[kind] if name in wanted}


def score(metric: str, kind: Kind, labels: Array, logits: Array, weights: Array) -> Array:
    """One metric (R,) of a problem class from a network's outputs; arguments and errors as of `every`."""
    return every(kind, labels, logits, weights, (metric,))[metric]


def supervised(kind: Kind, labels: Array, logits: Array, weights: Array) -> Array:
    """The default metric (R,) of a problem class from a network's outputs; arguments as of `every`."""
    return score(METRICS[kind], kind, labels, logits, weights)
