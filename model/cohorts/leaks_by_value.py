"""Leaks that values tell: inputs that are a copy of a target, say it where they are absent, or compute it together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.cohorts.checks import warning
from model.cohorts.cohort import Bools, Cohort, Modality, excluded
from model.cohorts.column_names import SCORES, words
from model.cohorts.overlaps import FEWEST, indicators
from tim_search.types import Finding, some

#: An input whose AUROC (of either direction) or R2 for a target is above this is a copy of it, or nearly.
COPY = 0.98
#: A value of an input that so many samples have, with the same outcome in this share of them, says the outcome ...
SAYS, SAYS_FEWEST = 0.99, 50
#: ... unless the outcome is that common anyway.
COMMON = 0.8
#: Inputs with at most so many values are looked at value by value.
MOST_VALUES = 10
#: Whether a column was measured may tell this much of a target by itself: AUROC, and R2 of a number.
TELLING_AREA, TELLING_R2 = 0.7, 0.1
#: A number that all inputs together predict this well, and no single one nearly as well, is computed from them ...
JOINT_R2, JOINT_AHEAD = 0.75, 0.2
#: ... and one with the name of a severity score is where they predict it this well.
SCORE_R2 = 0.5
#: Columns that the joint prediction is given, the strongest first.
MOST_JOINT = 96
#: Columns named in a message.
_NAMED = 3
_BINS = 64
_RANGES, _RIDGE = 8, 5.0
_COLUMNS = 256  # of a block


@dataclass(frozen=True)
class Target:
    """One thing to tell: a class against the others, or a number. float64 (n,) values, NaN = no label."""

    task: str
    what: str
    values: NDArray[np.float64]
    numeric: bool


@dataclass(frozen=True)
class _Hit:
    """How much an input tells of a target: AUROC of the better direction, or R2."""

    column: str
    value: float


def targets_of(cohort: Cohort, rows: NDArray[np.int64]) -> Iterator[Target]:
    """Every class and every number of the tasks that has enough labels in these rows."""
    labels = {name: label[rows] for name, label in cohort.labels.items()}
    for task, what, positive, labelled in indicators(cohort.tasks, labels, cohort.classes):
        if min((positive & labelled).sum(), (~positive & labelled).sum()) >= FEWEST:
            yield Target(task, what, np.where(labelled, positive.astype(np.float64), np.nan), numeric=False)
    for name, label in labels.items():
        if cohort.tasks[name].kind == "regression" and (~np.isnan(label)).sum() >= FEWEST and np.nanstd(label) > 0:
            yield Target(name, name, label, numeric=True)


def telling(cohort: Cohort, rows: NDArray[np.int64], targets: list[Target]) -> Iterator[Finding]:
    """Warnings of inputs that are copies of a target, nearly say it, or whose absence tells of it."""
    copies: dict[tuple[str, str], list[_Hit]] = {}
    silent: dict[tuple[str, str, bool], list[_Hit]] = {}
    certain: dict[str, list[str]] = {}
    dropped = {
        name: excluded(cohort.modalities, cohort.tasks[name].excludes) for name in {target.task for target in targets}
    }
    for modality, names, block in _blocks(cohort, rows):
        codes = _codes(block)
        gaps = np.isnan(block)
        few = [index for index in range(len(names)) if len(np.unique(block[~gaps[:, index], index])) <= MOST_VALUES]
        nominal = [index for index, name in enumerate(names) if name in modality.levels]
        for target in targets:
            allowed = [(modality.name, name) not in dropped[target.task] for name in names]
            strength = _fits(block, codes, target.values) if target.numeric else _areas(codes, target)
            for index in nominal:
                strength[index] = max(strength[index], _by_level(block[:, index], target))
            for index in few if not target.numeric else ():
                says = "" if strength[index] > COPY else _says(modality, names[index], block[:, index], target)
                if says and allowed[index]:
                    certain.setdefault(target.task, []).append(says)
            absence = _squared(gaps.astype(np.float64), target.values) if target.numeric else _gap_areas(gaps, target)
            least = TELLING_R2 if target.numeric else TELLING_AREA
            for index in np.flatnonzero(allowed & ((strength > COPY) | (absence > least))).tolist():
                column = f"{modality.name}.{names[index]}"
                if strength[index] > COPY:
                    copies.setdefault((target.task, target.what), []).append(_Hit(column, strength[index]))
                if absence[index] > least:
                    key = target.task, target.what, target.numeric
                    silent.setdefault(key, []).append(_Hit(column, absence[index]))
    yield from _told(cohort, copies, certain, silent)


def _told(
    cohort: Cohort,
    copies: Mapping[tuple[str, str], list[_Hit]],
    certain: Mapping[str, list[str]],
    silent: Mapping[tuple[str, str, bool], list[_Hit]],
) -> Iterator[Finding]:
    """Warnings by (task, what is told of it) of copies, by task of values that say it, and of telling absences."""
    by_columns: dict[tuple[str, str], list[str]] = {}
    for (task, what), hits in copies.items():
        measure = "R2" if cohort.tasks[task].kind == "regression" else "AUROC"
        by_columns.setdefault((task, _list(hits, measure)), []).append(what)
    fix = "Remove what is known only with the outcome, or list it in `excludes` of {}."
    for (task, columns), whats in by_columns.items():
        what = whats[0] if len(whats) == 1 else f"{len(whats)} classes of {task}"
        yield warning(f"tasks.{task}", f"{columns} by itself tells {what}: a copy, or nearly.", fix.format(task))
    for task, sayings in certain.items():
        yield warning(f"tasks.{task}", f"{some(sayings, _NAMED)}.", fix.format(task))
    fix = "If it was measured, or not, because of what came later, leave it out or fill its gaps with one value."
    for (task, what, numeric), hits in silent.items():
        problem = f"whether {_list(hits, 'R2' if numeric else 'AUROC')} was measured tells {what} by itself."
        yield warning(f"tasks.{task}", problem, fix)


def _blocks(cohort: Cohort, rows: NDArray[np.int64]) -> Iterator[tuple[Modality, tuple[str, ...], NDArray[np.float64]]]:
    """(modality, column names, float64 values (rows, columns)) of vectors, and of sequences their mean over time."""
    for modality in cohort.modalities.values():
        if modality.kind == "image":
            continue
        for start in range(0, len(modality.columns), _COLUMNS):
            at = slice(start, start + _COLUMNS)
            values = modality.values[rows, ..., at].astype(np.float64)
            if modality.kind == "sequence":
                measured = ~np.isnan(values)
                total = np.where(measured, values, 0.0).sum(axis=1)
                values = np.where(measured.any(axis=1), total / np.maximum(measured.sum(axis=1), 1), np.nan)
            yield modality, modality.columns[at], values


def _codes(block: NDArray[np.float64]) -> NDArray[np.int64]:
    """int64 (n, p): the bin of each value among the column's quantiles, 0 to 63; 64 = not measured."""
    ordered = np.sort(block, axis=0)  # NaN last
    count = (~np.isnan(block)).sum(axis=0)
    codes = np.zeros(block.shape, np.int64)
    for step in range(1, _BINS):
        edge = np.take_along_axis(ordered, np.maximum(step * count // _BINS - 1, 0)[None, :], axis=0)
        codes += block > edge
    codes[np.isnan(block)] = _BINS
    return codes


def _counts(codes: NDArray[np.int64], rows: Bools) -> NDArray[np.int64]:
    """int64 (p, bins): how many of these rows fall into each bin of each column."""
    width = codes.shape[1]
    place = codes[rows] + np.arange(width) * (_BINS + 1)
    return np.bincount(place.ravel(), minlength=width * (_BINS + 1)).reshape(width, -1)[:, :_BINS]


def _areas(codes: NDArray[np.int64], target: Target) -> NDArray[np.float64]:
    """AUROC (p,) of each column for a class, the better direction; 0 where too few rows are measured."""
    positive, negative = _counts(codes, target.values == 1), _counts(codes, target.values == 0)
    below = np.cumsum(negative, axis=1) - negative / 2
    n_pos, n_neg = positive.sum(axis=1), negative.sum(axis=1)
    area = (positive * below).sum(axis=1) / np.maximum(n_pos * n_neg, 1)
    return np.where(np.minimum(n_pos, n_neg) >= FEWEST, np.maximum(area, 1 - area), 0.0)


def _fits(block: NDArray[np.float64], codes: NDArray[np.int64], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """R2 (p,) of the line through a number, of values or of their ranks, the better."""
    ranks = np.where(codes < _BINS, codes, np.nan)
    of_target = _codes(values[:, None])[:, 0].astype(np.float64)
    return np.maximum(_squared(block, values), _squared(ranks, np.where(np.isnan(values), np.nan, of_target)))


def _squared(block: NDArray[np.float64], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Squared correlation (p,) over the rows where both are measured; 0 where they are too few."""
    both = ~np.isnan(block) & ~np.isnan(values)[:, None]
    count = np.maximum(both.sum(axis=0), 1)
    x, y = np.where(both, block, 0.0), np.where(both, np.nan_to_num(values)[:, None], 0.0)
    x = np.where(both, x - x.sum(axis=0) / count, 0.0)
    y = np.where(both, y - y.sum(axis=0) / count, 0.0)
    spread = (x**2).sum(axis=0) * (y**2).sum(axis=0)
    square = (x * y).sum(axis=0) ** 2 / np.where(spread > 0, spread, 1.0)
    return np.where((count >= FEWEST) & (spread > 0), square, 0.0)


def _by_level(column: NDArray[np.float64], target: Target) -> float:
    """How much the levels of a categorical column tell: AUROC or R2 of the target's mean by level."""
    both = ~np.isnan(column) & ~np.isnan(target.values)
    levels, values = column[both].astype(np.int64), target.values[both]
    if len(values) < 2 * FEWEST:
        return 0.0
    size = np.bincount(levels)
    mean = (np.bincount(levels, values) / np.maximum(size, 1))[levels]
    if target.numeric:
        spread = float(((values - values.mean()) ** 2).sum())
        return 1 - float(((values - mean) ** 2).sum()) / spread if spread > 0 else 0.0
    return float(_areas(_codes(mean[:, None]), Target("", "", values, False))[0])


def _says(modality: Modality, name: str, column: NDArray[np.float64], target: Target) -> str:
    """The value of an input with which the outcome is nearly certain, in words; empty where there is none."""
    both = ~np.isnan(column) & ~np.isnan(target.values)
    if not both.any() or target.values[both].mean() > COMMON:
        return ""
    for value in np.unique(column[both]):
        here = both & (column == value)
        share = target.values[here].mean()
        if here.sum() >= SAYS_FEWEST and share >= SAYS:
            shown = modality.levels[name][int(value)] if name in modality.levels else f"{value:g}"
            return f"of {int(here.sum())} samples with {modality.name}.{name} = {shown}, {share:.0%} are {target.what}"
    return ""


def _gap_areas(gaps: Bools, target: Target) -> NDArray[np.float64]:
    """AUROC (p,) of "not measured" for a class, the better direction."""
    positive, negative = target.values == 1, target.values == 0
    return 0.5 + np.abs(gaps[positive].mean(axis=0) - gaps[negative].mean(axis=0)) / 2


def computed(cohort: Cohort, rows: NDArray[np.int64], targets: list[Target]) -> Iterator[Finding]:
    """Numbers that the inputs determine together, as a severity score is computed from what was measured."""
    numbers = [target for target in targets if target.numeric and (~np.isnan(target.values)).sum() >= 10 * FEWEST]
    if not numbers:
        return
    names: list[tuple[str, str]] = []
    coded: list[NDArray[np.int64]] = []
    alone: list[list[NDArray[np.float64]]] = [[] for _ in numbers]
    for modality, columns, block in _blocks(cohort, rows):
        codes = _codes(block)
        names += [(modality.name, column) for column in columns]
        coded.append(codes)
        for target, fits in zip(numbers, alone, strict=True):
            fits.append(_fits(block, codes, target.values))
    held = cohort.split.fold[rows] == 0
    every = np.concatenate(coded, axis=1)
    for target, fits in zip(numbers, alone, strict=True):
        single = np.concatenate(fits)
        dropped = excluded(cohort.modalities, cohort.tasks[target.task].excludes)
        single[[name in dropped for name in names]] = 0.0
        best = np.argsort(-single, kind="stable")[:MOST_JOINT]
        together, most = _additive(every[:, best], target.values, held), float(single.max())
        if together >= JOINT_R2 and together - most >= JOINT_AHEAD:
            why = f"no single input explains more than {most:.2f}"
        elif together >= SCORE_R2 and any(SCORES.fullmatch(part) for part in words(target.task)):
            why = "it has the name of a score that is computed from such measurements"
        else:
            continue
        problem = f"the inputs together predict it with R2 {together:.2f}, and {why}: it looks computed from them."
        fix = "Use it as an auxiliary task only, or leave it out: learning it is learning a formula."
        yield warning(f"tasks.{target.task}", problem, fix)


def _additive(codes: NDArray[np.int64], values: NDArray[np.float64], held: Bools) -> float:
    """R2, on the held-out rows, of points for the range of each input, added up: the form that severity scores have.

    Ridge regression on the inputs cut into eight ranges and "not measured"; 0 where the rows are too few.
    """
    labelled = ~np.isnan(values)
    learn, judge = labelled & ~held, labelled & held
    if judge.sum() < FEWEST or values[judge].std() == 0:
        return 0.0
    ranges = np.where(codes == _BINS, _RANGES, codes * _RANGES // _BINS)
    points = (ranges[:, :, None] == np.arange(_RANGES + 1)).reshape(len(codes), -1).astype(np.float32)
    mean = values[learn].mean()
    square = (points[learn].T @ points[learn]).astype(np.float64)
    square[np.diag_indices_from(square)] += _RIDGE
    weights = np.linalg.solve(square, points[learn].T @ (values[learn] - mean))
    error = values[judge] - mean - points[judge] @ weights
    return 1 - float((error**2).sum() / ((values[judge] - values[judge].mean()) ** 2).sum())


def _list(hits: list[_Hit], measure: str) -> str:
    """`labs.x (AUROC 0.991)`, or the strongest few and how many there are."""
    # Columns that tell equally much are mostly one measurement in several forms: one of them is enough.
    distinct = list({round(hit.value, 6): hit for hit in reversed(hits)}.values())
    shown = sorted(distinct, key=lambda hit: -hit.value)[:_NAMED]
    named = ", ".join(f"{hit.column} ({measure} {hit.value:.3f})" for hit in shown)
    return named if len(hits) == len(shown) else f"{named} or one of {len(hits) - len(shown)} more"
