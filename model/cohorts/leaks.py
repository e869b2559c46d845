"""Leaks: inputs that give a target away, by their values, their absence, their names, or all together.

Every function looks at the training patients only, at up to `MOST_ROWS` samples of them, and returns warnings: each may
have a good reason, and a person has to know it. What a task excludes is not held against it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from model.cohorts import leaks_by_value, leaks_of_ids
from model.cohorts.checks import warning
from model.cohorts.cohort import Cohort, Modality
from model.cohorts.column_names import late, scored
from model.cohorts.leaks_reference import Suspicion, computed, weighed
from model.cohorts.leaks_survey import Survey, survey
from model.cohorts.stored import parts
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
#: What the name of a severity score says.
SCORE = "a score that is computed from measurements, maybe of later hours, and in part fitted to an outcome"
#: Samples looked at.
MOST_ROWS = 5000
#: Samples or columns named in a message.
_NAMED = 3
_LATE_NAMED = 12


def findings(cohort: Cohort, ends: Mapping[str, NDArray[np.float64]] | None = None) -> list[Finding]:
    """All warnings about leaks of a cohort; those of columns say what a reference model gains by them.

    Args:
        ends: column -> float64 (n,): how long the stay was, where that is neither input nor target.
    """
    view, suspected = _suspected(cohort, ends or {})
    return [*_absent(cohort), *_repeated(cohort), *(finding for _, finding in suspected), *computed(view)]


def by_column(cohort: Cohort, ends: Mapping[str, NDArray[np.float64]]) -> dict[str, list[str]]:
    """Input column -> what is suspected of it, sequences and facts of care left out."""
    doubts: dict[str, list[str]] = {}
    view, suspected = _suspected(cohort, ends)
    for item, finding in suspected:
        for column in () if item.fact else item.columns:
            place = "" if finding.place.startswith("modalities") else f"{finding.place}: "
            doubts.setdefault(view.names[column][1], []).append(f"{place}{finding.problem}")
    return doubts


def _suspected(
    cohort: Cohort, ends: Mapping[str, NDArray[np.float64]]
) -> tuple[Survey, list[tuple[Suspicion, Finding]]]:
    view = survey(cohort, _sample(cohort), ends)
    suspicions = [
        *_late_names(view),
        *leaks_of_ids.id_inputs(cohort, view),
        *leaks_by_value.suspicions(cohort, view),
    ]
    return view, list(weighed(view, suspicions))


def _sample(cohort: Cohort) -> NDArray[np.int64]:
    """Rows of training patients, sorted; the same ones every time."""
    rows = np.flatnonzero(~cohort.split.test)
    if len(rows) > MOST_ROWS:
        rows = np.sort(np.random.default_rng(0).choice(rows, MOST_ROWS, replace=False))
    return rows


def _late_names(view: Survey) -> Iterator[Suspicion]:
    """Inputs whose names say that they are known afterwards, or a score, if not every task excludes them."""
    by_meaning: dict[tuple[str, str], list[int]] = {}
    for index, (modality, column) in enumerate(view.names):
        if view.allowed[:, index].any() or not view.targets:
            what = f"{late(column)}, which comes after the prediction" if late(column) else ""
            if what := what or (SCORE if scored(column) else ""):
                by_meaning.setdefault((modality, what), []).append(index)
    for (modality, what), columns in by_meaning.items():
        names = [view.names[column][1] for column in columns]
        place = f"modalities.{modality}.{names[0]}" if len(columns) == 1 else f"modalities.{modality}"
        whose = "its name says" if len(columns) == 1 else f"the names of {some(names, _LATE_NAMED)} say"
        fix = "Remove it unless it was known at the moment of prediction."
        yield Suspicion(place, f"{whose} {what}.", fix, tuple(columns))


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
    n_strangers = leaks_of_ids.mixed(group, cohort.patients[rows])
    n_straddling = leaks_of_ids.mixed(group, cohort.split.test[rows])
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
        sample = modality.table[rows[:: max(1, len(rows) // 500)]]
        counts += [len(np.unique(column[~np.isnan(column)])) for column in sample.T]
    return bool(counts) and float(np.median(counts)) <= FEW_VALUES


def _marks(modality: Modality) -> NDArray[np.int64]:
    """int64 (n,): equal for rows with equal values."""
    marks = [hash(np.ascontiguousarray(row).tobytes()) for _, part in parts(modality.values) for row in part]
    return np.array(marks, np.int64)


def _measured(modality: Modality) -> NDArray[np.int64]:
    """int64 (n,): how many values of each row are measured."""
    counts = [(~np.isnan(part)).reshape(len(part), -1).sum(axis=1) for _, part in parts(modality.values)]
    return np.concatenate(counts)


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
    row = modality.table[same[0]]
    what = "zeros" if not np.nan_to_num(row).any() else "the same values"
    what += ", the rest not measured" if np.isnan(row).any() else ""
    problem = f"{len(same)} samples of {n_patients} patients have one and the same row ({what})."
    fix = "If it stands for `absent`, write no row (or NaN) instead: networks are then told that it is absent."
    yield warning(f"modalities.{modality.name}", problem, fix)
