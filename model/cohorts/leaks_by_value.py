"""Leaks that values tell: copies of a target, values that are certain of it, absences, predictions, lengths of stay."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from model.cohorts.cohort import Cohort, Modality
from model.cohorts.column_names import STAY, late
from model.cohorts.leaks_reference import Suspicion
from model.cohorts.leaks_survey import BINS, Survey, Target, blocks, ranges
from tim_search.types import some

#: An input whose AUROC (in any order of its values) or R2 for a target is above this is a copy of it, or nearly.
COPY = 0.98
#: A value of few that a number decides but for this share of the doubt about it is read from the number.
READ = 0.15
#: A value of an input that so many samples have, with the same outcome in this share of them, says the outcome ...
SAYS, SAYS_FEWEST = 0.99, 50
#: ... unless the outcome is that common anyway.
COMMON = 0.8
#: A value at which so many cases were to be expected, and hardly any is, rules the outcome out; told where the column
#: adds this much to a model of the other inputs, for some values do belong to the healthy.
RULED_OUT, RULED_OUT_RATE, RULED_OUT_GAINS = 20, 0.003, 0.04
#: Inputs with at most so many values are looked at value by value.
MOST_VALUES = 10
#: Whether a column was measured may tell this much of a target by itself: AUROC, and R2 of a number.
TELLING_AREA, TELLING_R2 = 0.7, 0.1
#: An input that explains so much of the length of the stay was most likely counted or summed over it.
STAY_R2 = 0.4
#: A share that tells an outcome this well, and is as large as the outcome is frequent, is a prediction of it.
PREDICTS, CALIBRATED, SLOPE = 0.65, 0.05, (0.75, 1.33)
#: ... that is worth a word where it adds this much to a model of the other inputs.
GAINS = 0.02
#: Columns named in a message.
_NAMED = 3
_FIX = "Remove what is known only with the outcome, or list it in `excludes` of {}."


def suspicions(cohort: Cohort, view: Survey) -> Iterator[Suspicion]:
    """Inputs that are copies of a target, nearly say it, predict it, or whose absence tells of it."""
    of_task = np.array([bool(target.task) for target in view.targets], bool)[:, None]
    copied = (view.alone > COPY) & view.allowed & of_task
    read, certain, predictions = _by_values(cohort, view, copied)
    yield from _copies(view, copied, read)
    for (task, is_sure), sayings in certain.items():
        problem = f"{some([words for words, _, _ in sayings], _NAMED)}."
        columns = tuple(dict.fromkeys(column for _, column, _ in sayings))
        least = -np.inf if is_sure else RULED_OUT_GAINS
        yield Suspicion(f"tasks.{task}", problem, _FIX.format(task), columns, sayings[0][2], least=least)
    for index, column, words in predictions:
        place = f"modalities.{view.named(column)}"
        fix = "Remove it, unless who predicted knew no more than the inputs and will do so for every new patient."
        yield Suspicion(place, words, fix, (column,), index, least=GAINS)
    yield from _stays(view, copied)
    yield from _silent(view)


def _copies(view: Survey, copied: NDArray[np.bool_], read: Sequence[tuple[int, int]]) -> Iterator[Suspicion]:
    """Inputs that tell a target by themselves, and those of few values that a number decides."""
    by_columns: dict[tuple[str, tuple[int, ...]], list[int]] = {}
    for index in range(len(view.targets)):
        if columns := tuple(np.flatnonzero(copied[index]).tolist()):
            by_columns.setdefault((view.targets[index].task, columns), []).append(index)
    for (task, columns), indices in by_columns.items():
        what = view.targets[indices[0]].what if len(indices) == 1 else f"{len(indices)} classes of {task}"
        problem = f"{_list(view, indices[0], columns, view.alone)} by itself tells {what}: a copy, or nearly."
        yield Suspicion(f"tasks.{task}", problem, _FIX.format(task), columns, indices[0])
    by_target: dict[int, list[int]] = {}
    for index, column in read:
        by_target.setdefault(index, []).append(column)
    for index, several in by_target.items():
        task = view.targets[index].task
        named = some([view.named(column) for column in several], _NAMED)
        problem = f"{named}: its values are ranges of {task}, hardly ever another: it is read from it."
        yield Suspicion(f"tasks.{task}", problem, _FIX.format(task), tuple(several), index)


def _stays(view: Survey, copied: NDArray[np.bool_]) -> Iterator[Suspicion]:
    for index, target in enumerate(view.targets):
        if target.numeric and (not target.task or late(target.task) == STAY):
            columns = np.flatnonzero((view.alone[index] > STAY_R2) & view.allowed[index] & ~copied[index]).tolist()
            if columns:
                named = _list(view, index, columns, view.alone)
                problem = f"{named} tells how long the stay was: known at its end only?"
                fix = "Remove what is counted or summed over the stay"
                fix += f", or list it in `excludes` of {target.task}." if target.task else "."
                place = f"tasks.{target.task}" if target.task else f"samples.{target.what}"
                yield Suspicion(place, problem, fix, tuple(columns), index)


def _silent(view: Survey) -> Iterator[Suspicion]:
    fix = "If it was measured, or not, because of what came later, leave it out or fill its gaps with one value."
    for index, target in enumerate(view.targets):
        if not target.task:
            continue
        least = TELLING_R2 if target.numeric else TELLING_AREA
        columns = tuple(np.flatnonzero((view.gaps[index] > least) & view.allowed[index]).tolist())
        if columns:
            problem = f"whether {_list(view, index, columns, view.gaps)} was measured tells {target.what} by itself."
            yield Suspicion(f"tasks.{target.task}", problem, fix, columns, index, fact=True)


def _by_values(
    cohort: Cohort, view: Survey, copied: NDArray[np.bool_]
) -> tuple[list[tuple[int, int]], dict[tuple[str, bool], list[tuple[str, int, int]]], list[tuple[int, int, str]]]:
    """What takes the values themselves.

    Returns:
        (target, column) that is read from a number; (task, whether of it or of its
        absence) -> (words, column, target) of values that are certain;
        (target, column, words) of predictions.
    """
    read: list[tuple[int, int]] = []
    certain: dict[tuple[str, bool], list[tuple[str, int, int]]] = {}
    predictions: list[tuple[int, int, str]] = []
    of_targets = [_indicators(target) if target.numeric else None for target in view.targets]
    at = 0
    for modality, names, block in blocks(cohort, view.rows):
        for column, values in enumerate(block.T, start=at):
            levels = np.unique(values[~np.isnan(values)])
            few = len(levels) <= MOST_VALUES
            whole = 100.0 if not few and levels[-1] > 1 else 1.0
            share = not few and not view.nominal[column] and levels[0] >= 0 and levels[-1] <= whole
            for index, target in enumerate(view.targets) if few or share else ():
                if not target.task or not view.allowed[index, column] or copied[index, column]:
                    continue
                bins, words = of_targets[index], ""
                if few and bins is not None and _read_from(values, levels, bins):
                    read.append((index, column))
                elif few and not target.numeric:
                    words, is_sure = _says(modality, names[column - at], values, target)
                    if words:
                        certain.setdefault((target.task, is_sure), []).append((words, column, index))
                elif share and not target.numeric and view.alone[index, column] >= PREDICTS:
                    words = _predicts(values / whole, target)
                    predictions += [(index, column, words)] if words else []
        at += len(names)
    best = {column: max(view.alone[i, c] for i, c, _ in predictions if c == column) for _, column, _ in predictions}
    return read, certain, [item for item in predictions if view.alone[item[:2]] == best[item[1]]]


def _indicators(target: Target) -> NDArray[np.float32]:
    """float32 (64, n): which range of a number's values each row lies in; none where it has no label."""
    return (ranges(target.values[:, None])[:, 0] == np.arange(BINS)[:, None]).astype(np.float32)


def _read_from(values: NDArray[np.float64], levels: NDArray[np.float64], bins: NDArray[np.float32]) -> bool:
    """Whether each value of a column belongs to ranges of a number that have no other."""
    measured = ~np.isnan(values)
    rows = bins[:, measured]
    if len(levels) < 2 or rows.sum() < 20 * BINS:
        return False
    counts = rows @ (values[measured, None] == levels).astype(np.float32)
    n = counts.sum()
    doubt = 1 - counts.sum(axis=0).max() / n
    return bool(doubt >= 0.05 and 1 - counts.max(axis=1).sum() / n <= READ * doubt)


def _says(modality: Modality, name: str, column: NDArray[np.float64], target: Target) -> tuple[str, bool]:
    """The value of a column that is nearly certain of a class, or of its absence, in words (empty: none); and which."""
    both = ~np.isnan(column) & ~np.isnan(target.values)
    rate = target.values[both].mean() if both.any() else 1.0
    for value in np.unique(column[both]) if rate <= COMMON else ():
        here = both & (column == value)
        share, n = target.values[here].mean(), int(here.sum())
        never = n * rate >= RULED_OUT and share <= RULED_OUT_RATE
        if never or (n >= SAYS_FEWEST and share >= SAYS):
            shown = modality.levels[name][int(value)] if name in modality.levels else f"{value:g}"
            return f"of {n} samples with {modality.name}.{name} = {shown}, {share:.0%} are {target.what}", not never
    return "", True


def _predicts(shares: NDArray[np.float64], target: Target) -> str:
    """In words, that a column of shares is a prediction of a class or of its contrary; empty where it is none."""
    both = ~np.isnan(shares) & ~np.isnan(target.values)
    for what, predicted in ((target.what, shares[both]), (f"not {target.what}", 1 - shares[both])):
        values = target.values[both] if what == target.what else 1 - target.values[both]
        rate = values.mean()
        spread = predicted.var()
        slope = np.mean((predicted - predicted.mean()) * (values - rate)) / spread if spread > 0 else 0.0
        off = abs(predicted.mean() - rate)
        if SLOPE[0] <= slope <= SLOPE[1] and off <= CALIBRATED and off <= rate * (1 - rate):
            return (
                f"lies between 0 and 1 and is as large as {what} is frequent (mean {predicted.mean():.2f}, "
                f"{rate:.0%} of the samples): somebody's prediction of it?"
            )
    return ""


def _list(view: Survey, target: int, columns: Sequence[int], table: NDArray[np.float64]) -> str:
    """`labs.x (AUROC 0.991)`, or the strongest few and how many there are."""
    # Columns that tell equally much are mostly one measurement in several forms: one of them is enough.
    distinct = list({round(float(table[target, column]), 6): column for column in reversed(columns)}.values())
    shown = sorted(distinct, key=lambda column: -table[target, column])[:_NAMED]
    measure = view.targets[target].measure
    named = ", ".join(f"{view.named(column)} ({measure} {table[target, column]:.3f})" for column in shown)
    return named if len(columns) == len(shown) else f"{named} or one of {len(columns) - len(shown)} more"
