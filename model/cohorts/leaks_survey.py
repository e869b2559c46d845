"""A cohort's training rows as columns side by side, and how much each column tells by itself of each target."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.cohorts.cohort import Bools, Cohort, Modality, excluded
from model.cohorts.overlaps import FEWEST, indicators
from model.cohorts.stored import parts

#: Ranges that the values of a column are cut into, of equal counts; the code after the last means "not measured".
BINS = 64
#: Rows that a range must have, where its mean is asked.
ROWS_A_RANGE = 20
_COLUMNS = 256  # of a block


@dataclass(frozen=True)
class Target:
    """One thing to tell: a class against the others, or a number. float64 (n,) values, NaN = no label.

    `task` is empty where it is no task's, but a column beside the inputs that tells how long the stay was.
    """

    task: str
    what: str
    values: NDArray[np.float64]
    numeric: bool

    @property
    def measure(self) -> str:
        """How is said how well it is told."""
        return "R2" if self.numeric else "AUROC"


@dataclass(frozen=True, eq=False)
class Survey:
    """What columns tell, of n training rows, p columns and t targets.

    Attributes:
        rows: int64 (n,), of the cohort.
        fold: int8 (n,), the validation fold of each row.
        names: p pairs (modality, column).
        nominal: bool (p,); the values are codes of levels.
        codes: uint8 (n, p); the range of each value, or its level; `BINS` where it is not measured.
        targets: what may be told.
        alone: float64 (t, p); AUROC or R2 of the column by itself, in any order of its values.
        gaps: float64 (t, p); the same of whether it was measured.
        allowed: bool (t, p); the target's task does not exclude the column.
    """

    rows: NDArray[np.int64]
    fold: NDArray[np.int8]
    names: tuple[tuple[str, str], ...]
    nominal: Bools
    codes: NDArray[np.uint8]
    targets: tuple[Target, ...]
    alone: NDArray[np.float64]
    gaps: NDArray[np.float64]
    allowed: Bools

    def named(self, column: int) -> str:
        """`modality.column`."""
        return ".".join(self.names[column])

    def most_told(self, columns: Sequence[int]) -> int | None:
        """The target that these columns tell most of, one by one; None where every task excludes them."""
        numeric = np.array([target.numeric for target in self.targets], bool)[:, None]
        scale = np.where(numeric, np.sqrt(self.alone[:, columns]), 2 * self.alone[:, columns] - 1)
        scale = np.where(self.allowed[:, columns], scale, -1.0)
        return None if not scale.size or scale.max() < 0 else int(scale.max(axis=1).argmax())


def survey(cohort: Cohort, rows: NDArray[np.int64], ends: Mapping[str, NDArray[np.float64]]) -> Survey:
    """How much every column of vectors, and every mean over time of sequences, tells of every target.

    Args:
        rows: of training patients.
        ends: column -> float64 (N,) of all samples: how long the stay was, where that is neither input nor target.
    """
    lengths = (Target("", name, values[rows], numeric=True) for name, values in ends.items())
    stays = [
        target for target in lengths if (~np.isnan(target.values)).sum() >= FEWEST and np.nanstd(target.values) > 0
    ]
    targets = (*_targets(cohort, rows), *stays)
    fold = cohort.split.fold[rows]
    names: list[tuple[str, str]] = []
    nominal: list[bool] = []
    coded = [np.zeros((len(rows), 0), np.uint8)]
    strength = [np.zeros((2, len(targets), 0))]
    for modality, columns, block in blocks(cohort, rows):
        codes = ranges(block)
        levels = [len(modality.levels.get(name, ())) for name in columns]
        for index, n_levels in enumerate(levels):
            if 0 < n_levels <= BINS:
                codes[:, index] = np.where(np.isnan(block[:, index]), BINS, np.nan_to_num(block[:, index]))
        absent = np.isnan(block)
        tells = _Teller(block, codes, fold % 2 == 0)
        of_block = np.zeros((2, len(targets), len(columns)))
        for index, target in enumerate(targets):
            numeric, values = target.numeric, target.values
            of_block[0, index] = tells.number(values) if numeric else tells.a_class(target)
            of_block[1, index] = squared(absent * 1.0, values) if numeric else _gap_areas(absent, values)
        for index, n_levels in enumerate(levels):
            if n_levels > BINS:  # as they are: ranges of them would be levels that stand together by chance
                for strengths, target in zip(of_block[0], targets, strict=True):
                    strengths[index] = _by_level(block[:, index], target, fold % 2 == 0)
        names += [(modality.name, column) for column in columns]
        nominal += [n_levels > 0 for n_levels in levels]
        coded.append(codes)
        strength.append(of_block)
    out = {name: excluded(cohort.modalities, cohort.tasks[name].excludes) for name in {t.task for t in targets} - {""}}
    alone, gaps = np.concatenate(strength, axis=2)
    allowed = np.array([[name not in out.get(t.task, ()) for name in names] for t in targets], bool).reshape(
        alone.shape
    )
    codes = np.concatenate(coded, axis=1)
    return Survey(rows, fold, tuple(names), np.array(nominal, bool), codes, targets, alone, gaps, allowed)


def _targets(cohort: Cohort, rows: NDArray[np.int64]) -> Iterator[Target]:
    """Every class and every number of the tasks that has enough labels in these rows."""
    labels = {name: label[rows] for name, label in cohort.labels.items()}
    for task, what, positive, labelled in indicators(cohort.tasks, labels, cohort.classes):
        if min((positive & labelled).sum(), (~positive & labelled).sum()) >= FEWEST:
            yield Target(task, what, np.where(labelled, positive.astype(np.float64), np.nan), numeric=False)
    for name, label in labels.items():
        if cohort.tasks[name].kind == "regression" and (~np.isnan(label)).sum() >= FEWEST and np.nanstd(label) > 0:
            yield Target(name, name, label, numeric=True)


def blocks(cohort: Cohort, rows: NDArray[np.int64]) -> Iterator[tuple[Modality, tuple[str, ...], NDArray[np.float64]]]:
    """(modality, column names, float64 values (rows, columns)) of vectors, and of sequences their mean over time."""
    for modality in cohort.modalities.values():
        if modality.kind == "image":
            continue
        chosen = modality.take(rows).values
        for start in range(0, len(modality.columns), _COLUMNS):
            at = slice(start, start + _COLUMNS)
            if modality.kind == "sequence":
                values = np.zeros((len(rows), len(modality.columns[at])))
                for place, part in parts(chosen):
                    values[place] = _mean_of_steps(part[..., at].astype(np.float64))
            else:
                values = chosen[:][:, at].astype(np.float64)
            yield modality, modality.columns[at], values


def _mean_of_steps(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """float64 (n, p) of (n, T, p): the mean of the measured values, NaN where there is none."""
    measured = ~np.isnan(values)
    total = np.where(measured, values, 0.0).sum(axis=1)
    return np.where(measured.any(axis=1), total / np.maximum(measured.sum(axis=1), 1), np.nan)


def ranges(block: NDArray[np.float64]) -> NDArray[np.uint8]:
    """uint8 (n, p): the range of each value among the column's quantiles, 0 to 63; 64 = not measured."""
    ordered = np.sort(block, axis=0)  # NaN last
    count = (~np.isnan(block)).sum(axis=0)
    codes = np.zeros(block.shape, np.uint8)
    for step in range(1, BINS):
        edge = np.take_along_axis(ordered, np.maximum(step * count // BINS - 1, 0)[None, :], axis=0)
        codes += block > edge
    codes[np.isnan(block)] = BINS
    return codes


class _Teller:
    """How much the columns of one block tell: in the order of their values, and in the best order of their ranges.

    The best order is learnt on one half of the folds and judged on the other, so that columns of many values and
    targets of few cases look no better than they are.
    """

    def __init__(self, block: NDArray[np.float64], codes: NDArray[np.uint8], half: Bools) -> None:
        self._block, self._half = block, half
        self._codes = codes.astype(np.int64)
        self._place = self._codes + np.arange(block.shape[1]) * (BINS + 1)
        self._ranks = np.where(self._codes < BINS, self._codes, np.nan)

    def _sums(self, rows: Bools, weights: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
        """float64 (p, BINS): how many of these rows, or the sum of their weights, each range of each column has."""
        width = self._codes.shape[1]
        repeated = None if weights is None else np.repeat(weights[rows], width)
        sums = np.bincount(self._place[rows].ravel(), repeated, minlength=width * (BINS + 1))
        return sums.reshape(width, -1)[:, :BINS].astype(np.float64)

    def _coarse(self, count: NDArray[np.float64], n: int) -> NDArray[np.int64]:
        """int64 (p, BINS): the range that each range joins, where rows are too few for 64; a few values stay apart."""
        most = max(2, n // ROWS_A_RANGE)
        few = (count > 0).sum(axis=1, keepdims=True) <= most
        return np.where(few | (most >= BINS), np.arange(BINS), np.arange(BINS) * most // BINS)

    def a_class(self, target: Target) -> NDArray[np.float64]:
        """AUROC (p,) for a class; 0 where too few rows are measured."""
        counts = [
            [self._sums((target.values == value) & (self._half == half)) for half in (True, False)] for value in (1, 0)
        ]
        (pos_a, pos_b), (neg_a, neg_b) = counts
        straight, n_pos, n_neg = _area(pos_a + pos_b, neg_a + neg_b)
        straight = np.maximum(straight, 1 - straight)
        n = int((~np.isnan(target.values)).sum()) // 2
        joins = self._coarse(pos_a + pos_b + neg_a + neg_b, n)
        pos_a, pos_b, neg_a, neg_b = (_joined(sums, joins) for sums in (pos_a, pos_b, neg_a, neg_b))
        share = (pos_a + pos_b).sum() / max((pos_a + pos_b + neg_a + neg_b).sum(), 1)
        bent = []
        for (p, q), judged in (((pos_a, neg_a), (pos_b, neg_b)), ((pos_b, neg_b), (pos_a, neg_a))):
            order = np.argsort((p + share) / (p + q + 1), axis=1, kind="stable")
            bent.append(_area(*(np.take_along_axis(counted, order, axis=1) for counted in judged))[0])
        return np.where(np.minimum(n_pos, n_neg) >= FEWEST, np.maximum(straight, np.mean(bent, axis=0)), 0.0)

    def number(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """R2 (p,) for a number: of the line through values or ranks, or of the means of the ranges, the best."""
        of_target = ranges(values[:, None])[:, 0].astype(np.float64)
        of_ranks = squared(self._ranks, np.where(np.isnan(values), np.nan, of_target))
        straight = np.maximum(squared(self._block, values), of_ranks)
        labelled = ~np.isnan(values)
        n = int(labelled.sum()) // 2
        halves = [
            [self._sums(labelled & (self._half == half), weights) for weights in (None, values, values**2)]
            for half in (True, False)
        ]
        joins = self._coarse(halves[0][0] + halves[1][0], n)
        halves = [[_joined(sums, joins) for sums in half] for half in halves]
        bent = []
        for (count_a, sum_a, _), (count_b, sum_b, square_b) in (halves, halves[::-1]):
            mean = (sum_a + values[labelled].mean()) / (count_a + 1)
            error = square_b.sum(axis=1) - 2 * (mean * sum_b).sum(axis=1) + (mean**2 * count_b).sum(axis=1)
            n_b = np.maximum(count_b.sum(axis=1), 1)
            spread = square_b.sum(axis=1) - sum_b.sum(axis=1) ** 2 / n_b
            bent.append(np.where((n_b >= FEWEST) & (spread > 0), 1 - error / np.where(spread > 0, spread, 1.0), 0.0))
        return np.maximum(straight, np.mean(bent, axis=0))


def _joined(sums: NDArray[np.float64], joins: NDArray[np.int64]) -> NDArray[np.float64]:
    """The sums (p, BINS) of ranges, added up where ranges join."""
    joined = np.zeros_like(sums)
    np.add.at(joined, (np.arange(len(sums))[:, None], joins), sums)
    return joined


def _area(positive: NDArray[np.float64], negative: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
    """AUROC (p,) of counts (p, ranges) in rising order of what is said, and how many are positive and negative."""
    below = np.cumsum(negative, axis=1) - negative / 2
    n_pos, n_neg = positive.sum(axis=1), negative.sum(axis=1)
    return (positive * below).sum(axis=1) / np.maximum(n_pos * n_neg, 1), n_pos, n_neg


def squared(block: NDArray[np.float64], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Squared correlation (p,) over the rows where both are measured; 0 where they are too few."""
    both = ~np.isnan(block) & ~np.isnan(values)[:, None]
    count = np.maximum(both.sum(axis=0), 1)
    x, y = np.where(both, block, 0.0), np.where(both, np.nan_to_num(values)[:, None], 0.0)
    x = np.where(both, x - x.sum(axis=0) / count, 0.0)
    y = np.where(both, y - y.sum(axis=0) / count, 0.0)
    spread = (x**2).sum(axis=0) * (y**2).sum(axis=0)
    square = (x * y).sum(axis=0) ** 2 / np.where(spread > 0, spread, 1.0)
    return np.where((count >= FEWEST) & (spread > 0), square, 0.0)


def _gap_areas(gaps: Bools, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """AUROC (p,) of "not measured" for a class, the better direction."""
    positive, negative = values == 1, values == 0
    return 0.5 + np.abs(gaps[positive].mean(axis=0) - gaps[negative].mean(axis=0)) / 2


def _by_level(column: NDArray[np.float64], target: Target, half: Bools) -> float:
    """How much a column of many levels tells: the target's mean by level, learnt on one half, judged on the other."""
    both = ~np.isnan(column) & ~np.isnan(target.values)
    if both.sum() < 2 * FEWEST:
        return 0.0
    level, values, first = column[both].astype(np.int64), target.values[both], half[both]
    halves = []
    for learn in (first, ~first):
        size, total = (np.bincount(level[learn], w, minlength=level.max() + 1) for w in (None, values[learn]))
        mean = ((total + values.mean()) / (size + 1))[level[~learn]]
        held = values[~learn]
        halves.append(score(mean, held, target.numeric))
    return float(np.mean(halves))


def score(outputs: NDArray[np.float64], values: NDArray[np.float64], numeric: bool) -> float:
    """R2 of a number, AUROC of a class (0.5 where one class is all there is)."""
    if numeric:
        spread = float(((values - values.mean()) ** 2).sum()) if len(values) else 0.0
        return 1 - float(((values - outputs) ** 2).sum()) / spread if spread > 0 else 0.0
    n_pos = int(values.sum())
    if not 0 < n_pos < len(values):
        return 0.5
    _, place, counts = np.unique(outputs, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[place]
    return float((ranks[values == 1].sum() - n_pos * (n_pos + 1) / 2) / (n_pos * (len(values) - n_pos)))
