"""What is wrong with a cohort's content: labels a task cannot be learnt or scored from, features, twin targets.

Every function collects all of its findings. Errors are what no search could use; warnings are what a person should
look at. The form of the files is checked where they are read (`model/folder.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from model.cohort import Bools, Modality, Split
from tim_search.types import Finding, Task

#: Two targets are called nested when this share of the positives of one are positives of the other.
NESTED = 0.95
#: ... and when the other's prevalence does not make that likely by itself.
NESTED_PREVALENCE = 0.8
#: Two numeric targets are called near-identical from this absolute correlation on.
CORRELATED = 0.9
#: A numeric target is called a relabelling of a binary one from this AUROC on (or 1 minus it).
SEPARATES = 0.98
#: Pairs of targets with fewer samples (or positives) in common are not judged.
FEWEST = 20


def label_findings(
    tasks: Mapping[str, Task],
    labels: Mapping[str, NDArray[np.float64]],
    classes: Mapping[str, tuple[str, ...]],
    split: Split,
) -> list[Finding]:
    """Tasks that have nothing to learn or to score: one class, no labels, or neither in a fold or the test part."""
    findings: list[Finding] = []
    parts = [(f"fold {fold}", split.validation(fold)) for fold in range(split.n_folds)] + [
        ("the test part", split.test)
    ]
    for name, label in labels.items():
        task, place = tasks[name], f"tasks.{name}"
        columns = label.reshape(len(label), -1)
        problem = _poor(task, columns)
        if problem:
            fix = "Mend the label column or leave the task out."
            findings.append(Finding(place, f"over the whole cohort {problem}.", fix))
            continue
        for part, rows in parts:
            problem = _poor(task, columns[rows])
            if problem:
                fix = "Give it more labels, stratify the split on it (`stratify`), or leave the task out."
                findings.append(Finding(place, f"in {part} {problem}, so it cannot be scored there.", fix))
                continue
            absent = _absent(task, columns[rows], classes.get(name, ()))
            if absent:
                fix = "The mean over the classes leaves them out there; merge rare classes if that is not wanted."
                findings.append(Finding(place, f"{part} has no sample of {absent}.", fix, "warning"))
    return findings


def feature_warnings(modalities: Mapping[str, Modality]) -> list[Finding]:
    """Columns that can teach nothing: never measured, or the same value wherever they are measured."""
    findings = []
    for modality in modalities.values():
        if not modality.present.any():
            fix = "Remove the modality, or check that its ids are those of the samples."
            findings.append(Finding(f"modalities.{modality.name}", "no sample has it.", fix, "warning"))
            continue
        if modality.kind == "image":
            continue
        low, high = column_ranges(modality)
        for name, least, most in zip(modality.columns, low, high, strict=True):
            place = f"modalities.{modality.name}.{name}"
            if np.isnan(least):
                findings.append(Finding(place, "is never measured (all NaN).", "Remove the column.", "warning"))
            elif least == most:
                problem = f"is the same ({least:g}) wherever it is measured."
                fix = "It is used only as whether it was measured; remove it if that is not wanted."
                findings.append(Finding(place, problem, fix, "warning"))
    return findings


def column_ranges(modality: Modality) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Smallest and largest measured value of each column, float64 (p,); NaN where it is never measured."""
    flat = modality.values.reshape(-1, modality.values.shape[-1])
    low = np.fmin.reduce(flat, axis=0, initial=np.nan).astype(np.float64)
    high = np.fmax.reduce(flat, axis=0, initial=np.nan).astype(np.float64)
    return low, high


def overlap_warnings(
    tasks: Mapping[str, Task],
    labels: Mapping[str, NDArray[np.float64]],
    classes: Mapping[str, tuple[str, ...]],
    declared: Iterable[tuple[str, str]],
) -> list[Finding]:
    """Pairs of targets that are nested or near-identical and not declared as overlaps.

    A gain between such a pair is one outcome read twice, not transfer, so it must be flagged.
    """
    known = {(min(a, b), max(a, b)) for a, b in declared}
    reasons = overlapping(tasks, labels, classes)
    fix = "List the pair under `overlaps`, so that heatmaps hatch it and discoveries leave it out; or drop one task."
    return [
        Finding(f"tasks.{a} and tasks.{b}", f"{reason}.", fix, "warning")
        for (a, b), reason in sorted(reasons.items())
        if (a, b) not in known
    ]


def overlapping(
    tasks: Mapping[str, Task], labels: Mapping[str, NDArray[np.float64]], classes: Mapping[str, tuple[str, ...]]
) -> dict[tuple[str, str], str]:
    """Pairs of tasks, names sorted, whose targets are nested or near-identical, each with the reason."""
    reasons: dict[tuple[str, str], str] = {}
    for a, b, reason in (*_nested(tasks, labels, classes), *_numeric(tasks, labels)):
        reasons.setdefault((min(a, b), max(a, b)), reason)
    return reasons


def _poor(task: Task, columns: NDArray[np.float64]) -> str:
    """Why these labels cannot teach or score the task; empty where they can."""
    labelled = ~np.isnan(columns)
    if not labelled.any():
        return "it has no label"
    varied = [len(np.unique(column[known])) > 1 for column, known in zip(columns.T, labelled.T, strict=True)]
    if any(varied):
        return ""
    if task.kind == "multilabel":
        return "none of its label columns has both classes"
    only = columns[labelled][0]
    return f"all its labels are the same ({only:g})"


def _absent(task: Task, columns: NDArray[np.float64], names: tuple[str, ...]) -> str:
    if task.kind == "multiclass":
        present = set(np.unique(columns[~np.isnan(columns)]).astype(int).tolist())
        return ", ".join(f"class {name}" for code, name in enumerate(names) if code not in present)
    if task.kind == "multilabel":
        missing = [name for name, column in zip(names, columns.T, strict=True) if not (column == 1).any()]
        return ", ".join(f"a positive {name}" for name in missing)
    return ""


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
    found = (
        (of >= FEWEST)
        & (2 * of >= positive.sum(axis=1, keepdims=True))
        & (share >= NESTED)
        & (prevalence <= NESTED_PREVALENCE)
    )
    for a, b in np.argwhere(found).tolist():
        if rows[a][0] != rows[b][0]:
            yield rows[a][0], rows[b][0], f"{share[a, b]:.0%} of {rows[a][1]} is also {rows[b][1]}"


def _numeric(tasks: Mapping[str, Task], labels: Mapping[str, NDArray[np.float64]]) -> Iterator[tuple[str, str, str]]:
    numeric = [name for name in labels if tasks[name].kind == "regression"]
    binary = [name for name in labels if tasks[name].kind == "binary"]
    for index, a in enumerate(numeric):
        for b in numeric[:index]:
            known = ~np.isnan(labels[a]) & ~np.isnan(labels[b])
            x, y = labels[a][known], labels[b][known]
            if known.sum() >= FEWEST and x.std() > 0 and y.std() > 0:
                correlation = float(np.corrcoef(x, y)[0, 1])
                if abs(correlation) > CORRELATED:
                    yield a, b, f"the targets correlate by {correlation:.2f}"
        for b in binary:
            known = ~np.isnan(labels[a]) & ~np.isnan(labels[b])
            positive = labels[b][known] == 1
            n_pos, n_neg = int(positive.sum()), int((~positive).sum())
            if min(n_pos, n_neg) >= FEWEST:
                _, place, counts = np.unique(labels[a][known], return_inverse=True, return_counts=True)
                ranks = (np.cumsum(counts) - (counts - 1) / 2)[place]  # equal values share their mean rank
                area = (ranks[positive].sum() - n_pos * (n_pos + 1) / 2) / (n_pos * n_neg)
                if max(area, 1 - area) > SEPARATES:
                    yield a, b, f"{a} tells the two classes of {b} apart (AUROC {area:.3f})"
