"""Another cohort with the columns, levels, tasks and classes of the one that models were trained on.

Everything goes by name. What the other cohort lacks is not measured there, what only it has is left out, and whatever
did not fit is told in words, since it decides what a score on that cohort means.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from model.cohorts.cohort import Cohort, Floats, Modality, make_cohort, text
from model.cohorts.values import as_number
from model.trained.new_rows import as_level
from tim_search.types import BadInput, Task, some

#: A column's unit is doubted where half of the other cohort's values lie outside of these quantiles of its own, told
#: from so many values on.
_USUAL, _FEWEST = (0.025, 0.975), 20
#: Samples of a sequence whose unit is looked at.
_LOOKED_AT = 2000

Tell = Callable[[str], None]


def aligned(ours: Cohort, theirs: Cohort) -> tuple[Cohort, list[str]]:
    """The other cohort as models of ours read and judge it, and what did not fit, in words.

    A sample in which nothing that the models read was measured has no prediction, and is left out.

    Args:
        ours: that the models were trained on, with the input columns of the search.
        theirs: with columns and tasks of the same names.

    Raises:
        BadInput: it is the same cohort, or has no column or no label in common with ours.
    """
    if theirs.fingerprint == ours.fingerprint:
        raise BadInput(
            f"--on: expected another cohort, got {theirs.name} itself, whose patients the models were trained on. Its "
            "test patients are read by tim-search confirm without --on."
        )
    notes: list[str] = []
    modalities = {name: _modality(modality, theirs, notes.append) for name, modality in ours.modalities.items()}
    measured = np.asarray(np.stack([each.present for each in modalities.values()]).any(axis=0), bool)
    if not measured.any():
        names = [column for modality in ours.modalities.values() for column in modality.inputs]
        raise BadInput(
            f"--on: expected input columns of the search with values, got none in {theirs.name}. Name its columns as "
            f"they are here: {some(names, 20)}."
        )
    labels = {
        name: values
        for name, task in ours.tasks.items()
        if task.kind != "clustering" and (values := _labels(task, ours, theirs, notes.append)) is not None
    }
    if not any(np.isfinite(values[measured]).any() for values in labels.values()):
        tasks = [name for name, task in ours.tasks.items() if task.kind != "clustering"]
        raise BadInput(
            f"--on: expected labels of the search's tasks, got none in {theirs.name}. Its tasks have to have the names "
            f"and kinds that they have here: {some(tasks, 20)}."
        )
    if not measured.all():
        notes.append("Samples in which no input of the models was measured are left out.")
    if _same_rows(ours.modalities, modalities):
        notes.append(
            "Some samples have the very values of training samples: are they the same patients? Then the scores are "
            "too good."
        )
    tasks_here = [task for name, task in ours.tasks.items() if name in labels or task.kind == "clustering"]
    cohort = make_cohort(
        theirs.name,
        theirs.sample_ids[measured],
        theirs.patient_ids[theirs.patients[measured]],
        [modality.take(measured) for modality in modalities.values()],
        tasks_here,
        {name: values[measured] for name, values in labels.items()},
        classes={name: ours.classes[name] for name in labels if name in ours.classes},
    )
    return cohort, notes


# Inputs ---------------------------------------------------------------------------------------------------------------


def _modality(ours: Modality, theirs: Cohort, tell: Tell) -> Modality:
    """The other cohort's values of one of our modalities."""
    same = theirs.modalities.get(ours.name)
    if ours.kind != "vector" and same is not None and _alike(ours, same):
        for place, column in enumerate(ours.columns):
            _doubt_unit(f"channel {column}", _some_rows(ours)[..., place], _some_rows(same)[..., place], tell)
        return same  # it may be larger than memory
    values = np.full((len(theirs), *ours.values.shape[1:]), np.nan, ours.values.dtype)
    if ours.kind == "image":
        tell(f"{ours.name}: {theirs.name} lacks images of {' x '.join(map(str, values.shape[1:]))}; taken as absent.")
    lacking = []
    for place, column in enumerate(ours.columns):
        source = _with_column(theirs, ours, column)
        if source is None or (ours.kind == "vector" and _unmeasured(source, column)):
            lacking.append(column)
        elif ours.kind == "vector":
            values[:, place] = _column(ours, source, column, tell)
        else:
            _channel(ours, source, place, values, tell)
    if lacking:
        which = "all its columns" if len(lacking) == len(ours.columns) else some(lacking, 10)
        tell(f"{ours.name}: {theirs.name} lacks {which}; taken as not measured.")
    present = np.asarray(~np.isnan(values).reshape(len(values), -1).all(axis=1), bool)
    return Modality(ours.name, ours.kind, ours.columns, values, ours.levels, present)


def _unmeasured(vector: Modality, column: str) -> bool:
    return bool(np.isnan(vector.table[:, vector.columns.index(column)]).all())


def _alike(ours: Modality, theirs: Modality) -> bool:
    shapes = (ours.values.shape[1:], theirs.values.shape[1:])
    return (ours.kind, ours.columns, shapes[0]) == (theirs.kind, theirs.columns, shapes[1])


def _some_rows(modality: Modality) -> Floats:
    """The values of so many samples that a unit can be told."""
    return modality.values[np.arange(min(len(modality.values), _LOOKED_AT))]


def _with_column(theirs: Cohort, ours: Modality, column: str) -> Modality | None:
    """The modality of the same kind that has the column: the one of the same name, else the only one."""
    having = [other for other in theirs.modalities.values() if other.kind == ours.kind and column in other.columns]
    named = [other for other in having if other.name == ours.name]
    return (named or having)[0] if named or len(having) == 1 else None


def _column(ours: Modality, source: Modality, column: str, tell: Tell) -> NDArray[np.float64]:
    """float64 (n,): numbers, or the codes that the levels have here."""
    given = np.asarray(source.table[:, source.columns.index(column)], np.float64)
    levels = source.levels.get(column)
    here = ours.levels.get(column)
    if here is None and levels is None:
        _doubt_unit(f"column {column}", ours.table[:, ours.columns.index(column)], given, tell)
        return given
    if here is None:
        assert levels is not None
        numbers = np.array([np.nan if (number := as_number(level)) is None else number for level in levels])
        if np.isnan(numbers).any():
            tell(
                f"column {column}: expected numbers, has {some(list(levels), 5)}; such cells are taken as not measured."
            )
        return _recoded(given, numbers)
    if levels is None:
        distinct = np.unique(given[np.isfinite(given)])
        levels, given = tuple(map(text, distinct.tolist())), _codes_in(given, distinct)
    code = {level: number for number, level in enumerate(here)}
    codes = [code.get(level, code.get(as_level(level))) for level in levels]
    carried = set(given[np.isfinite(given)].astype(int).tolist())
    if new := [level for number, level in enumerate(levels) if codes[number] is None and number in carried]:
        tell(f"column {column}: the models do not know the levels {some(new, 5)}; taken as not measured.")
    return _recoded(given, np.array([np.nan if number is None else number for number in codes]))


def _codes_in(values: NDArray[np.float64], distinct: NDArray[np.float64]) -> NDArray[np.float64]:
    """The place of each value among the sorted distinct ones, NaN where it is NaN."""
    return np.where(np.isfinite(values), np.searchsorted(distinct, values), np.nan)


def _recoded(codes: NDArray[np.float64], meaning: NDArray[np.float64]) -> NDArray[np.float64]:
    """What each code means; NaN stays."""
    values = np.full(len(codes), np.nan)
    there = np.isfinite(codes)
    values[there] = meaning[codes[there].astype(int)]
    return values


def _channel(ours: Modality, source: Modality, place: int, values: Floats, tell: Tell) -> None:
    """Fill in one channel of a sequence, as many steps as the models read."""
    column = ours.columns[place]
    given = source.values[np.arange(len(values))][:, :, source.columns.index(column)]
    steps = min(values.shape[1], given.shape[1])
    if np.isfinite(given[:, steps:]).any():
        tell(f"{ours.name}: {column} goes on after the {steps} steps that the models read; the rest is left out.")
    values[:, :steps, place] = given[:, :steps]
    _doubt_unit(f"channel {column}", _some_rows(ours)[:, :, place], given, tell)


def _doubt_unit(what: str, ours: Floats, theirs: Floats, tell: Tell) -> None:
    """Tell where half of the other cohort's values lie outside of what is usual here."""
    here, there = ours[np.isfinite(ours)], theirs[np.isfinite(theirs)]
    if min(len(here), len(there)) < _FEWEST:
        return
    low, high = np.quantile(here, _USUAL)
    middle, usual = float(np.median(there)), float(np.median(here))
    if not low <= middle <= high:
        # Two digits of a ratio tell of no patient.
        ratio = f" (about {middle / usual:.2g} times as large as here)" if usual and middle / usual > 0 else ""
        side = "below" if middle < low else "above"
        tell(f"{what}: most values lie {side} nearly all values here{ratio}; is it in another unit?")


def _same_rows(ours: Mapping[str, Modality], theirs: Mapping[str, Modality]) -> bool:
    """Whether a sample of theirs has the very values of one of ours in several columns of numbers."""

    def rows(modalities: Mapping[str, Modality]) -> NDArray[np.float32]:
        columns = [
            np.asarray(modality.table[:, place], np.float32)
            for modality in modalities.values()
            if modality.kind == "vector"
            for place, name in enumerate(modality.columns)
            if name not in modality.levels
        ]
        return np.stack(columns, axis=1) if columns else np.zeros((0, 0), np.float32)

    def keys(values: NDArray[np.float32]) -> set[bytes]:
        # Rows of few numbers, or of small whole ones, are equal by chance.
        telling = np.isfinite(values).sum(axis=1) >= 5
        telling &= (np.isfinite(values) & (np.abs(values) > 20)).sum(axis=1) >= 3
        return {row.tobytes() for row in np.nan_to_num(values[telling], nan=-1e30)}

    return not keys(rows(ours)).isdisjoint(keys(rows(theirs)))


# Labels ---------------------------------------------------------------------------------------------------------------


def _labels(task: Task, ours: Cohort, theirs: Cohort, tell: Tell) -> NDArray[np.float64] | None:
    """Labels of one of our tasks, coded as here; None where the other cohort has no such task."""
    other = theirs.tasks.get(task.name)
    if other is None or other.kind != task.kind:
        what = "has no such task" if other is None else f"has a {other.kind} task of that name"
        tell(f"task {task.name}: {theirs.name} {what}; not judged there.")
        return None
    given = theirs.labels[task.name]
    if task.kind == "regression":
        _doubt_unit(f"labels of {task.name}", ours.labels[task.name], given, tell)
        return given
    here, names = ours.classes[task.name], theirs.classes[task.name]
    if task.kind == "multilabel":
        if lacking := [name for name in here if name not in names]:
            tell(f"task {task.name}: {theirs.name} lacks the labels {some(lacking, 5)}.")
        columns = [given[:, names.index(name)] if name in names else np.full(len(given), np.nan) for name in here]
        return np.stack(columns, axis=1)
    if task.kind == "binary" and not set(names) & set(here):
        tell(f"task {task.name}: taken as negative and positive: {', '.join(names)} (here {', '.join(here)}).")
        return given
    return _classes(task, here, names, given, tell)


def _classes(
    task: Task, here: Sequence[str], names: Sequence[str], given: NDArray[np.float64], tell: Tell
) -> NDArray[np.float64]:
    """Codes of classes by their names here; NaN for a class that is not here."""
    if new := [name for name in names if name not in here]:
        tell(f"task {task.name}: the models do not know the classes {some(new, 5)}; such samples carry no label.")
    return _recoded(given, np.array([here.index(name) if name in here else np.nan for name in names], float))
