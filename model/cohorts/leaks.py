"""Leaks: inputs that give a target away, by their values, their absence, their names, or all together.

Every function looks at the training patients only, at up to `MOST_ROWS` samples of them, and returns warnings: each may
have a good reason, and a person has to know it. What a task excludes is not held against it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.cohorts import leaks_by_value
from model.cohorts.checks import warning
from model.cohorts.cohort import Bools, Cohort, Modality
from model.cohorts.column_names import late
from tim_search.types import Finding, some

#: A row of inputs that this share of the patients has in common, and so many of them, may stand for "absent".
FILLER_SHARE, FILLER_FEWEST = 0.01, 5
#: Rows of fewer inputs may be equal by chance.
FEWEST_INPUTS = 8
#: Where half of the columns or more have at most so many values, patients have equal rows by chance, and a share of the
#: samples below this one has equal labels too.
FEW_VALUES, BY_CHANCE = 10, 1e-3
#: A modality that more than this share of the samples lack is worth a word.
MOSTLY_ABSENT = 0.5
#: Samples looked at.
MOST_ROWS = 5000
#: Samples or columns named in a message.
_NAMED = 3
_ROWS = 2048  # of a block


def findings(cohort: Cohort) -> list[Finding]:
    """All warnings about leaks of a cohort."""
    rows = _sample(cohort)
    targets = list(leaks_by_value.targets_of(cohort, rows))
    return [
        *_late_names(cohort.modalities),
        *_absent(cohort),
        *_repeated(cohort),
        *leaks_by_value.telling(cohort, rows, targets),
        *leaks_by_value.computed(cohort, rows, targets),
    ]


def other_patients(column: str, values: Sequence[Any], cohort: Cohort) -> Iterator[Finding]:
    """Whether a column that has the name of a patient id is it: it has fewer values, and some are on both sides."""
    keys, of_sample = np.unique(np.array([str(value) for value in values], object).astype(str), return_inverse=True)
    given = np.array([value is not None and value == value for value in values])
    n_patients = len(cohort.patient_ids)
    straddling = _mixed(of_sample[given], cohort.split.test[given])
    if len(keys) < n_patients and straddling:
        problem = f"has the name of a patient id and {len(keys)} values, the patient id has {n_patients}"
        fix = f"If it tells patients apart, write `patient_id: {column}`: one patient is on both sides otherwise."
        yield warning(f"samples.{column}", f"{problem}; {straddling} samples share one across the split.", fix)


def _sample(cohort: Cohort) -> NDArray[np.int64]:
    """Rows of training patients, sorted; the same ones every time."""
    rows = np.flatnonzero(~cohort.split.test)
    if len(rows) > MOST_ROWS:
        rows = np.sort(np.random.default_rng(0).choice(rows, MOST_ROWS, replace=False))
    return rows


def _late_names(modalities: Mapping[str, Modality]) -> Iterator[Finding]:
    for modality in modalities.values():
        by_meaning: dict[str, list[str]] = {}
        for column in modality.inputs:
            what = late(column)
            if what:
                by_meaning.setdefault(what, []).append(column)
        for what, columns in by_meaning.items():
            place = f"modalities.{modality.name}.{columns[0]}" if len(columns) == 1 else f"modalities.{modality.name}"
            whose = "its name says" if len(columns) == 1 else f"the names of {some(columns, _NAMED)} say"
            fix = "Remove it unless it was known at the moment of prediction."
            yield warning(place, f"{whose} {what}, which comes after the prediction.", fix)


def _absent(cohort: Cohort) -> Iterator[Finding]:
    for modality in cohort.modalities.values():
        here = modality.present
        if here.any() and 1 - here.mean() > MOSTLY_ABSENT:
            fix = "Fine if so it is; else check that its ids are those of the samples."
            yield warning(f"modalities.{modality.name}", f"{1 - here.mean():.0%} of the samples lack it.", fix)
        parts = [("the test part", cohort.split.test)]
        parts += [(f"fold {fold}", cohort.split.validation(fold)) for fold in range(cohort.split.n_folds)]
        for part, rows in parts if here.any() else []:
            if not here[rows].any():
                fix = "Stratify the split on whether it is there, or leave the modality out."
                yield warning(f"modalities.{modality.name}", f"no sample of {part} has it.", fix)


def _repeated(cohort: Cohort) -> Iterator[Finding]:
    """Samples with the very same inputs, and rows of a modality that look like a filler."""
    whole = np.zeros(len(cohort), np.int64)
    measured = np.zeros(len(cohort), np.int64)
    for modality in cohort.modalities.values():
        marks = _marks(modality)
        measured += _measured(modality)
        whole = np.array([hash(pair) for pair in zip(whole.tolist(), marks.tolist(), strict=True)], np.int64)
        if modality.kind == "vector" and len(modality.columns) >= FEWEST_INPUTS:
            yield from _fillers(cohort, modality, marks)
    same = "inputs"
    if coarse := _coarse(*cohort.modalities.values()):
        same = "inputs and labels"
        labels = np.column_stack([np.zeros(len(cohort)), *cohort.labels.values()])
        pairs = zip(whole.tolist(), labels, strict=True)
        whole = np.array([hash((mark, row.tobytes())) for mark, row in pairs], np.int64)
    rows = np.flatnonzero(measured >= FEWEST_INPUTS)
    _, group, size = np.unique(whole[rows], return_inverse=True, return_counts=True)
    again = size[group] > 1
    if not again.any() or (coarse and again.sum() < BY_CHANCE * len(cohort)):
        return
    rows, group = rows[again], group[again]
    n_strangers, n_straddling = _mixed(group, cohort.patients[rows]), _mixed(group, cohort.split.test[rows])
    example = ", ".join(str(key) for key in cohort.sample_ids[rows[group == group[0]]][:_NAMED].tolist())
    problem = f"{len(rows)} samples have exactly the {same} of another one (e.g. {example})"
    fix = "Keep one of each."
    if n_strangers:
        problem += f", {n_strangers} of them of another patient"
        fix = "Check that the patient id is one of patients, not of stays; then keep one of each."
    if n_straddling:
        problem += f", {n_straddling} with one on the other side of the split"
    yield warning("samples", f"{problem}.", fix)


def _coarse(*modalities: Modality) -> bool:
    """Whether most columns have few values (a list of comorbidities): many patients then have equal rows by chance."""
    if any(modality.kind != "vector" for modality in modalities):
        return False
    counts = []
    for modality in modalities:
        rows = np.flatnonzero(modality.present)
        sample = modality.values[rows[:: max(1, len(rows) // 500)]]
        counts += [len(np.unique(column[~np.isnan(column)])) for column in sample.T]
    return bool(counts) and float(np.median(counts)) <= FEW_VALUES


def _mixed(group: NDArray[np.int64], value: NDArray[np.int64] | Bools) -> int:
    """How many rows are in a group that holds more than one value."""
    pairs = np.unique(np.stack([group, value.astype(np.int64)]), axis=1)
    several = np.bincount(pairs[0]) > 1
    return int(several[group].sum())


def _marks(modality: Modality) -> NDArray[np.int64]:
    """int64 (n,): equal for rows with equal values."""
    values = modality.values.reshape(len(modality.values), -1)
    return np.array([hash(np.ascontiguousarray(row).tobytes()) for row in values], np.int64)


def _measured(modality: Modality) -> NDArray[np.int64]:
    """int64 (n,): how many values of each row are measured."""
    values = modality.values.reshape(len(modality.values), -1)
    starts = range(0, len(values), _ROWS)
    return np.concatenate([(~np.isnan(values[start : start + _ROWS])).sum(axis=1) for start in starts])


def _fillers(cohort: Cohort, modality: Modality, marks: NDArray[np.int64]) -> Iterator[Finding]:
    rows = np.flatnonzero(modality.present)
    if not len(rows):
        return
    kinds, group, size = np.unique(marks[rows], return_inverse=True, return_counts=True)
    top = int(size.argmax())
    same = rows[group == top]
    n_patients = len(np.unique(cohort.patients[same]))
    if n_patients < max(FILLER_FEWEST, FILLER_SHARE * len(cohort.patient_ids)) or len(kinds) < 2:
        return
    if _coarse(modality):
        return
    row = modality.values[same[0]]
    what = "zeros" if not np.nan_to_num(row).any() else "the same values"
    what += ", the rest not measured" if np.isnan(row).any() else ""
    problem = f"{len(same)} samples of {n_patients} patients have one and the same row ({what})."
    fix = "If it stands for `absent`, write no row (or NaN) instead: networks are then told that it is absent."
    yield warning(f"modalities.{modality.name}", problem, fix)
