"""Targets that are one outcome read twice: nested, near-identical, or one a relabelling of the other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from model.cohorts.cohort import Bools
from tim_search.types import Finding, Task

#: Two targets are called nested when this share of the positives of one are positives of the other.
NESTED = 0.95
#: ... and when the other's prevalence does not make that likely by itself.
NESTED_PREVALENCE = 0.8
#: Two numeric targets are called near-identical from this absolute correlation on.
CORRELATED = 0.9
#: A numeric target is called a relabelling of a binary one from this AUROC on (or 1 minus it).
SEPARATES = 0.98
#: Two classes are called strongly overlapping from this correlation (phi) on.
OVERLAPPING = 0.8
#: Pairs of targets with fewer samples (or positives) in common are not judged.
FEWEST = 20


def overlap_warnings(
    tasks: Mapping[str, Task],
    labels: Mapping[str, NDArray[np.float64]],
    classes: Mapping[str, tuple[str, ...]],
    declared: Iterable[tuple[str, str]],
) -> list[Finding]:
    """Pairs of targets that are nested or near-identical and not declared as overlaps.

    A gain between such a pair is one outcome read twice, not transfer, so it must be flagged.
    """
    listed = {(min(a, b), max(a, b)) for a, b in declared}
    reasons = overlapping(tasks, labels, classes)
    fix = "List the pair under `overlaps`, so that heatmaps hatch it and discoveries leave it out; or drop one task."
    return [
        Finding(f"tasks.{a} and tasks.{b}", f"{reason}.", fix, "warning")
        for (a, b), reason in sorted(reasons.items())
        if (a, b) not in listed
    ]


def overlapping(
    tasks: Mapping[str, Task], labels: Mapping[str, NDArray[np.float64]], classes: Mapping[str, tuple[str, ...]]
) -> dict[tuple[str, str], str]:
    """Pairs of tasks, names sorted, whose targets are nested or near-identical, each with the reason."""
    reasons: dict[tuple[str, str], str] = {}
    for a, b, reason in (*_nested(tasks, labels, classes), *_numeric(tasks, labels, classes)):
        reasons.setdefault((min(a, b), max(a, b)), reason)
    return reasons


def overlap_matrix(
    tasks: Mapping[str, Task], labels: Mapping[str, NDArray[np.float64]], classes: Mapping[str, tuple[str, ...]]
) -> tuple[tuple[str, ...], NDArray[np.float64]]:
    """How much two targets are one, for every pair with labels: (M names, float64 (M, M) from 0 to 1).

    Between classes the correlation phi of the closest pair of them, between numbers the correlation of values or ranks,
    between a class and a number 2 AUROC - 1; each as a magnitude. NaN where too few samples have both labels.
    """
    names = tuple(labels)
    matrix = np.full((len(names), len(names)), np.nan)
    np.fill_diagonal(matrix, 1.0)
    place = {name: index for index, name in enumerate(names)}
    likeness = [(a, b, phi) for a, b, phi, _ in _phi(list(indicators(tasks, labels, classes)))]
    likeness += [(a, b, value) for a, b, value, _ in _pairs(tasks, labels, classes)]
    for a, b, value in likeness:
        i, j = place[a], place[b]
        matrix[i, j] = matrix[j, i] = np.fmax(matrix[i, j], value)
    return names, matrix


def indicators(
    tasks: Mapping[str, Task], labels: Mapping[str, NDArray[np.float64]], classes: Mapping[str, tuple[str, ...]]
) -> Iterator[tuple[str, str, Bools, Bools]]:
    """(task, what is positive, positive (n,), labelled (n,)) of each class of each classification task."""
    for name, label in labels.items():
        kind, names = tasks[name].kind, classes.get(name, ())
        if kind == "binary":
            yield name, name, label == 1, ~np.isnan(label)
        elif kind == "multiclass":
            for code, level in enumerate(names):
                yield name, f"class {level} of {name}", label == code, ~np.isnan(label)
        elif kind == "multilabel":
            for column, level in zip(label.T, names, strict=True):
                yield name, f"label {level} of {name}", column == 1, ~np.isnan(column)


def _nested(
    tasks: Mapping[str, Task], labels: Mapping[str, NDArray[np.float64]], classes: Mapping[str, tuple[str, ...]]
) -> Iterator[tuple[str, str, str]]:
    rows = list(indicators(tasks, labels, classes))
    if not rows:
        return
    positive = np.array([row[2] for row in rows], np.float32)
    labelled = np.array([row[3] for row in rows], np.float32)
    # both[a, b]: samples where a and b are positive; of[a, b]: where a is positive and b is labelled.
    both, of, common = positive @ positive.T, positive @ labelled.T, labelled @ labelled.T
    share = both / np.maximum(of, 1)
    prevalence = of.T / np.maximum(common, 1)
    # A pair that shares few of the positives (one task is labelled elsewhere) is not one outcome read twice.
    nested = (
        (of >= FEWEST)
        & (2 * of >= positive.sum(axis=1, keepdims=True))
        & (share >= NESTED)
        & (prevalence <= NESTED_PREVALENCE)
    )
    for a, b in np.argwhere(nested).tolist():
        if rows[a][0] != rows[b][0]:
            yield rows[a][0], rows[b][0], f"{share[a, b]:.0%} of {rows[a][1]} is also {rows[b][1]}"
    for a_task, b_task, phi, reason in _phi(rows):
        if phi >= OVERLAPPING:
            yield a_task, b_task, reason


def _phi(rows: list[tuple[str, str, Bools, Bools]]) -> Iterator[tuple[str, str, float, str]]:
    """(task, task, |phi|, in words) of every two classes of different tasks that enough samples are labelled for."""
    if not rows:
        return
    positive = np.array([row[2] for row in rows], np.float64)
    labelled = np.array([row[3] for row in rows], np.float64)
    both, of, n = positive @ positive.T, positive @ labelled.T, labelled @ labelled.T
    spread = of * (n - of) * of.T * (n - of.T)
    phi = np.abs(n * both - of * of.T) / np.sqrt(np.where(spread > 0, spread, 1.0))
    enough = (spread > 0) & (np.minimum(of, n - of) >= FEWEST) & (np.minimum(of.T, n - of.T) >= FEWEST)
    for a, b in np.argwhere(np.triu(enough, 1)).tolist():
        if rows[a][0] != rows[b][0]:
            value = float(phi[a, b])
            yield rows[a][0], rows[b][0], value, f"{rows[a][1]} and {rows[b][1]} correlate by {value:.2f}"


def _numeric(
    tasks: Mapping[str, Task], labels: Mapping[str, NDArray[np.float64]], classes: Mapping[str, tuple[str, ...]]
) -> Iterator[tuple[str, str, str]]:
    for a, b, value, reason in _pairs(tasks, labels, classes):
        if value > (CORRELATED if tasks[b].kind == "regression" else 2 * SEPARATES - 1):
            yield a, b, reason


def _pairs(
    tasks: Mapping[str, Task], labels: Mapping[str, NDArray[np.float64]], classes: Mapping[str, tuple[str, ...]]
) -> Iterator[tuple[str, str, float, str]]:
    """(number, other target, how much they are one, in words) of every number with every other target."""
    numeric = [name for name in labels if tasks[name].kind == "regression"]
    of_classes = list(indicators(tasks, labels, classes))
    for index, a in enumerate(numeric):
        for b in numeric[:index]:
            both = ~np.isnan(labels[a]) & ~np.isnan(labels[b])
            x, y = labels[a][both], labels[b][both]
            if both.sum() >= FEWEST and x.std() > 0 and y.std() > 0:
                of_values = float(np.corrcoef(x, y)[0, 1])
                of_ranks = float(np.corrcoef(_ranks(x), _ranks(y))[0, 1])
                better = max(of_values, of_ranks, key=abs)
                how = "the targets" if better == of_values else "the ranks of the targets"
                yield a, b, abs(better), f"{how} correlate by {better:.2f}"
        for task, what, positive, labelled in of_classes:
            both = ~np.isnan(labels[a]) & labelled
            high = positive[both]
            n_pos, n_neg = int(high.sum()), int((~high).sum())
            if min(n_pos, n_neg) >= FEWEST:
                area = (_ranks(labels[a][both])[high].sum() - n_pos * (n_pos + 1) / 2) / (n_pos * n_neg)
                whose = f"the two classes of {task}" if tasks[task].kind == "binary" else f"{what} from the others"
                yield a, task, abs(2 * area - 1), f"{a} tells {whose} apart (AUROC {area:.3f})"


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ranks from 1; equal values share their mean rank."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[place]
