"""What is wrong with a cohort's content: labels a task cannot be learnt or scored from, features, twin targets.

Every function collects all of its findings. Errors are what no search could use; warnings are what a person should
look at. The form of the files is checked where they are read (`model/cohorts/folder.py`).
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.cohorts.cohort import Bools, Modality, Split, text
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
#: More columns than this with the same fault are told in one line.
MOST_NAMED = 5
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
        fixed = _fixed(task, columns, classes.get(name, ()))
        for label_name, value in fixed.items():
            problem = (
                f"label {label_name} is {value:g} wherever it is known."
                if value == value
                else (f"label {label_name} is known nowhere.")
            )
            fix = f"It teaches nothing and {task.metric} leaves it out; remove it if that is not wanted."
            if task.metric == "micro_auroc":
                fix = f"It still counts for {task.metric}, which pools all labels; remove it if that is not wanted."
            findings.append(Finding(place, problem, fix, "warning"))
        poor: dict[str, list[str]] = {}
        for part, rows in parts:
            problem = _poor(task, columns[rows])
            if problem:
                poor.setdefault(problem, []).append(part)
                continue
            absent = _absent(task, columns[rows], classes.get(name, ()), fixed)
            if absent:
                fix = "The mean over the classes leaves them out there; merge rare classes if that is not wanted."
                findings.append(Finding(place, f"{part} has no sample of {absent}.", fix, "warning"))
        for problem, where in poor.items():
            told = " and ".join(filter(None, [", ".join(where[:-1]), where[-1]]))
            fix = "Give it more labels, stratify the split on it (`stratify`), or leave the task out."
            findings.append(Finding(place, f"in {told} {problem}, so it cannot be scored there.", fix))
    return findings


def empty_samples(modalities: Mapping[str, Modality], ids: NDArray[Any]) -> list[Finding]:
    """An error where samples have no modality at all: no network could say anything of them."""
    nothing = ids[~np.any([modality.present for modality in modalities.values()], axis=0)] if modalities else ids[:0]
    if not len(nothing):
        return []
    shown = ", ".join(text(value) for value in nothing[:MOST_NAMED].tolist()) + (", ..." * (len(nothing) > MOST_NAMED))
    count = "1 sample has" if len(nothing) == 1 else f"{len(nothing)} samples have"
    problem = f"{count} no modality at all (e.g. {shown})."
    return [Finding("modalities", problem, "Leave such samples out, or add the modality that was measured of them.")]


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
        never = [name for name, least in zip(modality.columns, low, strict=True) if np.isnan(least)]
        fixed = [
            (name, f"{least:g}") for name, least, most in zip(modality.columns, low, high, strict=True) if least == most
        ]
        findings += _named(modality.name, never, "never measured (all NaN)", "Remove it.")
        for value in dict.fromkeys(value for _, value in fixed):
            columns = [name for name, of in fixed if of == value]
            problem = f"the same ({value}) wherever measured"
            fix = "It is used only as whether it was measured; remove it if that is not wanted."
            findings += _named(modality.name, columns, problem, fix)
    return findings


def _named(modality: str, columns: list[str], problem: str, fix: str) -> list[Finding]:
    """One warning a column, or one for all of them where they are many."""
    if len(columns) > MOST_NAMED:
        listed = ", ".join(columns[:MOST_NAMED])
        whole = f"{len(columns)} columns are each {problem}: {listed}, ..."
        return [Finding(f"modalities.{modality}", whole, fix, "warning")]
    return [Finding(f"modalities.{modality}.{column}", f"is {problem}.", fix, "warning") for column in columns]


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
    found = [(a, b, phi) for a, b, phi, _ in _phi(list(indicators(tasks, labels, classes)))]
    found += [(a, b, value) for a, b, value, _ in _pairs(tasks, labels, classes)]
    for a, b, value in found:
        i, j = place[a], place[b]
        matrix[i, j] = matrix[j, i] = np.fmax(matrix[i, j], value)
    return names, matrix


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


def _fixed(task: Task, columns: NDArray[np.float64], names: tuple[str, ...]) -> dict[str, float]:
    """The labels of a multilabel task that never vary, each with its only value (NaN: never known)."""
    if task.kind != "multilabel":
        return {}
    found = {name: np.unique(column[~np.isnan(column)]) for name, column in zip(names, columns.T, strict=True)}
    return {name: float(values[0]) if len(values) else np.nan for name, values in found.items() if len(values) < 2}


def _absent(task: Task, columns: NDArray[np.float64], names: tuple[str, ...], told: Container[str] = ()) -> str:
    """What a part of the cohort has no sample of, labels that are `told` of already left out."""
    if task.kind == "multiclass":
        present = set(np.unique(columns[~np.isnan(columns)]).astype(int).tolist())
        return ", ".join(f"class {name}" for code, name in enumerate(names) if code not in present)
    if task.kind == "multilabel":
        positive = {name: (column == 1).any() for name, column in zip(names, columns.T, strict=True)}
        missing = [name for name, some in positive.items() if not some and name not in told]
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
    for one, other, phi, reason in _phi(rows):
        if phi >= OVERLAPPING:
            yield one, other, reason


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
            known = ~np.isnan(labels[a]) & ~np.isnan(labels[b])
            x, y = labels[a][known], labels[b][known]
            if known.sum() >= FEWEST and x.std() > 0 and y.std() > 0:
                of_values = float(np.corrcoef(x, y)[0, 1])
                of_ranks = float(np.corrcoef(_ranks(x), _ranks(y))[0, 1])
                better = max(of_values, of_ranks, key=abs)
                how = "the targets" if better == of_values else "the ranks of the targets"
                yield a, b, abs(better), f"{how} correlate by {better:.2f}"
        for task, what, positive, labelled in of_classes:
            known = ~np.isnan(labels[a]) & labelled
            high = positive[known]
            n_pos, n_neg = int(high.sum()), int((~high).sum())
            if min(n_pos, n_neg) >= FEWEST:
                area = (_ranks(labels[a][known])[high].sum() - n_pos * (n_pos + 1) / 2) / (n_pos * n_neg)
                whose = f"the two classes of {task}" if tasks[task].kind == "binary" else f"{what} from the others"
                yield a, task, abs(2 * area - 1), f"{a} tells {whose} apart (AUROC {area:.3f})"


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ranks from 1; equal values share their mean rank."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[place]
