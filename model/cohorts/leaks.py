"""Leaks: inputs that give a target away, by their values, their absence, their names, or all together.

Every function looks at the training patients only, at up to `MOST_ROWS` samples of them, and returns warnings: each may
have a good reason, and a person has to know it. What a task excludes is not held against it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.cohorts.checks import FEWEST, indicators
from model.cohorts.cohort import Bools, Cohort, Modality, excluded
from tim_search.types import Finding

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
#: A row of inputs that this share of the patients has in common, and so many of them, may stand for "absent".
FILLER_SHARE, FILLER_FEWEST = 0.01, 5
#: Rows of fewer inputs may be equal by chance.
FEWEST_INPUTS = 8
#: A modality that more than this share of the samples lack is worth a word.
MOSTLY_ABSENT = 0.5
#: Words of the name of a column that tells patients apart.
PATIENT = ("patient", "subject", "person", "mrn", "pid", "pat")
#: Samples looked at.
MOST_ROWS = 5000
#: Columns that the joint prediction is given, the strongest first.
MOST_JOINT = 96
#: Columns named in a message.
_NAMED = 3
_BINS = 64
_RANGES, _RIDGE = 8, 5.0
_COLUMNS, _ROWS = 256, 2048  # of a block

#: How the names of columns that are known only afterwards begin, by parts of the name, and what they say.
LATE: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), what)
    for pattern, what in (
        (r"disch|hospice", "the discharge"),
        (
            r"death|\w*dead$|\w*died$|dies$|dod$|deceas|expired?(flag)?$|mortal|surviv|surv\d|autops",
            "death or survival",
        ),
        (r"(s|icu|hosp|hospital)?los$|los\d|lengthofstay|icustay$|stayhours|staydays", "the length of the stay"),
        (r"readm", "a readmission"),
        (r"outcome|target|label|groundtruth", "an outcome"),
        (r"drg|icd\d*$|icdcode", "codes that are written at the discharge"),
        (r"costs?$|charges|bill(s|ed|ing)?$|payment|reimburs", "the bill"),
        (r"next$|future|followup|tomorrow", "a time after the prediction"),
        (r"split$|fold$|trainset|testset", "a split"),
    )
)
#: Names of scores that are computed from measurements and, in part, fitted to an outcome.
SCORES = re.compile(
    r"saps|q?sofa|apache|aps|sps|oasis|lods|mods|meld|n?ews2?|mews|pews|charlson|elixhauser|sirs|pim\d|prism|timi|"
    r"grace|wells|curb|score"
)


@dataclass(frozen=True)
class _Target:
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


def findings(cohort: Cohort) -> list[Finding]:
    """All warnings about leaks of a cohort."""
    rows = _sample(cohort)
    targets = list(_targets(cohort, rows))
    return [
        *_late_names(cohort.modalities),
        *_absent(cohort),
        *_repeated(cohort),
        *_telling(cohort, rows, targets),
        *_computed(cohort, rows, targets),
    ]


def named_patient(column: str) -> bool:
    """Whether a column has the name of a patient id."""
    return any(word in PATIENT or word in ("patientid", "subjectid", "personid") for word in words(column))


def other_patients(column: str, values: Sequence[Any], cohort: Cohort) -> Iterator[Finding]:
    """Whether a column that has the name of a patient id is it: it has fewer values, and some are on both sides."""
    keys, of_sample = np.unique(np.array([str(value) for value in values], object).astype(str), return_inverse=True)
    known = np.array([value is not None and value == value for value in values])
    n_patients = len(cohort.patient_ids)
    straddling = _mixed(of_sample[known], cohort.split.test[known])
    if len(keys) < n_patients and straddling:
        problem = f"has the name of a patient id and {len(keys)} values, the patient id has {n_patients}"
        fix = f"If it tells patients apart, write `patient_id: {column}`: one patient is on both sides otherwise."
        yield _warning(f"samples.{column}", f"{problem}; {straddling} samples share one across the split.", fix)


def _sample(cohort: Cohort) -> NDArray[np.int64]:
    """Rows of training patients, sorted; the same ones every time."""
    rows = np.flatnonzero(~cohort.split.test)
    if len(rows) > MOST_ROWS:
        rows = np.sort(np.random.default_rng(0).choice(rows, MOST_ROWS, replace=False))
    return rows


def _targets(cohort: Cohort, rows: NDArray[np.int64]) -> Iterator[_Target]:
    labels = {name: label[rows] for name, label in cohort.labels.items()}
    for task, what, positive, labelled in indicators(cohort.tasks, labels, cohort.classes):
        if min((positive & labelled).sum(), (~positive & labelled).sum()) >= FEWEST:
            yield _Target(task, what, np.where(labelled, positive.astype(np.float64), np.nan), numeric=False)
    for name, label in labels.items():
        if cohort.tasks[name].kind == "regression" and (~np.isnan(label)).sum() >= FEWEST and np.nanstd(label) > 0:
            yield _Target(name, name, label, numeric=True)


# ------------------------------------------------------------------------------------------------ values and absence


def _telling(cohort: Cohort, rows: NDArray[np.int64], targets: list[_Target]) -> Iterator[Finding]:
    """Inputs that are copies of a target, and inputs whose absence tells of one."""
    copies: dict[tuple[str, str], list[_Hit]] = {}
    silent: dict[tuple[str, str, bool], list[_Hit]] = {}
    dropped = {
        name: excluded(cohort.modalities, cohort.tasks[name].excludes) for name in {target.task for target in targets}
    }
    certain: dict[str, list[str]] = {}
    for modality, names, block in _blocks(cohort, rows):
        codes = _codes(block)
        gaps = np.isnan(block)
        few = [index for index in range(len(names)) if len(np.unique(block[~gaps[:, index], index])) <= MOST_VALUES]
        nominal = [index for index, name in enumerate(names) if name in modality.levels]
        for target in targets:
            told = _areas(codes, target) if not target.numeric else _fits(block, codes, target.values)
            for index in nominal:
                told[index] = max(told[index], _by_level(block[:, index], target))
            for index in few if not target.numeric else ():
                said = "" if told[index] > COPY else _says(modality, names[index], block[:, index], target)
                if said and (modality.name, names[index]) not in dropped[target.task]:
                    certain.setdefault(target.task, []).append(said)
            gap = _gap_areas(gaps, target) if not target.numeric else _gap_fits(gaps, target.values)
            least = TELLING_R2 if target.numeric else TELLING_AREA
            for index in np.flatnonzero((told > COPY) | (gap > least)).tolist():
                if (modality.name, names[index]) in dropped[target.task]:
                    continue
                column = f"{modality.name}.{names[index]}"
                if told[index] > COPY:
                    copies.setdefault((target.task, target.what), []).append(_Hit(column, told[index]))
                if gap[index] > least:
                    silent.setdefault((target.task, target.what, target.numeric), []).append(_Hit(column, gap[index]))
    by_column: dict[tuple[str, str], list[str]] = {}
    for (task, what), hits in copies.items():
        by_column.setdefault((task, _list(hits, "R2" if _numeric(cohort, task) else "AUROC")), []).append(what)
    for (task, columns), told_of in by_column.items():
        what = told_of[0] if len(told_of) == 1 else f"{len(told_of)} classes of {task}"
        fix = f"Remove what is known only with the outcome, or list it in `excludes` of {task}."
        yield _warning(f"tasks.{task}", f"{columns} by itself tells {what}: a copy, or nearly.", fix)
    for task, said_of in certain.items():
        fix = f"Remove what is known only with the outcome, or list it in `excludes` of {task}."
        yield _warning(f"tasks.{task}", f"{_some(said_of)}.", fix)
    for (task, what, numeric), hits in silent.items():
        measure = "R2" if numeric else "AUROC"
        problem = f"whether {_list(hits, measure)} was measured tells {what} by itself."
        fix = "If it was measured, or not, because of what came later, leave it out or fill its gaps with one value."
        yield _warning(f"tasks.{task}", problem, fix)


def _numeric(cohort: Cohort, task: str) -> bool:
    return cohort.tasks[task].kind == "regression"


def _blocks(cohort: Cohort, rows: NDArray[np.int64]) -> Iterator[tuple[Modality, tuple[str, ...], NDArray[np.float64]]]:
    """(modality, column names, float64 values (rows, columns)) of vectors, and of sequences their mean over time."""
    for modality in cohort.modalities.values():
        if modality.kind == "image":
            continue
        for start in range(0, len(modality.columns), _COLUMNS):
            at = slice(start, start + _COLUMNS)
            values = modality.values[rows, ..., at].astype(np.float64)
            if modality.kind == "sequence":
                known = ~np.isnan(values)
                total = np.where(known, values, 0.0).sum(axis=1)
                values = np.where(known.any(axis=1), total / np.maximum(known.sum(axis=1), 1), np.nan)
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


def _areas(codes: NDArray[np.int64], target: _Target) -> NDArray[np.float64]:
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
    known = ~np.isnan(block) & ~np.isnan(values)[:, None]
    count = np.maximum(known.sum(axis=0), 1)
    x, y = np.where(known, block, 0.0), np.where(known, np.nan_to_num(values)[:, None], 0.0)
    x = np.where(known, x - x.sum(axis=0) / count, 0.0)
    y = np.where(known, y - y.sum(axis=0) / count, 0.0)
    spread = (x**2).sum(axis=0) * (y**2).sum(axis=0)
    square = (x * y).sum(axis=0) ** 2 / np.where(spread > 0, spread, 1.0)
    return np.where((count >= FEWEST) & (spread > 0), square, 0.0)


def _by_level(column: NDArray[np.float64], target: _Target) -> float:
    """How much the levels of a categorical column tell: AUROC or R2 of the target's mean by level."""
    known = ~np.isnan(column) & ~np.isnan(target.values)
    levels, values = column[known].astype(np.int64), target.values[known]
    if len(values) < 2 * FEWEST:
        return 0.0
    size = np.bincount(levels)
    mean = (np.bincount(levels, values) / np.maximum(size, 1))[levels]
    if target.numeric:
        spread = float(((values - values.mean()) ** 2).sum())
        return 1 - float(((values - mean) ** 2).sum()) / spread if spread > 0 else 0.0
    return float(_areas(_codes(mean[:, None]), _Target("", "", values, False))[0])


def _says(modality: Modality, name: str, column: NDArray[np.float64], target: _Target) -> str:
    """The value of an input with which the outcome is nearly certain, in words; empty where there is none."""
    known = ~np.isnan(column) & ~np.isnan(target.values)
    if not known.any() or target.values[known].mean() > COMMON:
        return ""
    for value in np.unique(column[known]):
        here = known & (column == value)
        share = target.values[here].mean()
        if here.sum() >= SAYS_FEWEST and share >= SAYS:
            shown = modality.levels[name][int(value)] if name in modality.levels else f"{value:g}"
            return f"of {int(here.sum())} samples with {modality.name}.{name} = {shown}, {share:.0%} are {target.what}"
    return ""


def _gap_areas(gaps: Bools, target: _Target) -> NDArray[np.float64]:
    """AUROC (p,) of "not measured" for a class, the better direction."""
    positive, negative = target.values == 1, target.values == 0
    return 0.5 + np.abs(gaps[positive].mean(axis=0) - gaps[negative].mean(axis=0)) / 2


def _gap_fits(gaps: Bools, values: NDArray[np.float64]) -> NDArray[np.float64]:
    return _squared(gaps.astype(np.float64), values)


# ------------------------------------------------------------------------------------------------ all together


def _computed(cohort: Cohort, rows: NDArray[np.int64], targets: list[_Target]) -> Iterator[Finding]:
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
        for target, found in zip(numbers, alone, strict=True):
            found.append(_fits(block, codes, target.values))
    held = cohort.split.fold[rows] == 0
    every = np.concatenate(coded, axis=1)
    for target, found in zip(numbers, alone, strict=True):
        single = np.concatenate(found)
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
        yield _warning(f"tasks.{target.task}", problem, fix)


def _additive(codes: NDArray[np.int64], values: NDArray[np.float64], held: Bools) -> float:
    """R2, on the held-out rows, of points for the range of each input, added up: the form that severity scores have.

    Ridge regression on the inputs cut into eight ranges and "not measured"; 0 where the rows are too few.
    """
    known = ~np.isnan(values)
    learn, judge = known & ~held, known & held
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


# ------------------------------------------------------------------------------------------------ names and rows


def _late_names(modalities: Mapping[str, Modality]) -> Iterator[Finding]:
    for modality in modalities.values():
        found: dict[str, list[str]] = {}
        for column in modality.inputs:
            what = late(column)
            if what:
                found.setdefault(what, []).append(column)
        for what, columns in found.items():
            place = f"modalities.{modality.name}.{columns[0]}" if len(columns) == 1 else f"modalities.{modality.name}"
            whose = "its name says" if len(columns) == 1 else f"the names of {_some(columns)} say"
            fix = "Remove it unless it was known at the moment of prediction."
            yield _warning(place, f"{whose} {what}, which comes after the prediction.", fix)


def late(name: str) -> str:
    """What a column's name says that is known only afterwards, e.g. "the discharge"; empty for other names."""
    parts = words(name)
    # A name may spell it over several parts: length_of_stay, DischTime.
    candidates = [*parts, *("".join(parts[at:]) for at in range(len(parts)))]
    return next((what for pattern, what in LATE for part in candidates if pattern.match(part)), "")


def words(name: str) -> list[str]:
    """The words of a name, lower case: `HospitalExpireFlag_2` is hospital, expire, flag, 2."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name)
    return [part.lower() for part in re.split(r"[^A-Za-z0-9]+", spaced) if part] or [""]


def _absent(cohort: Cohort) -> Iterator[Finding]:
    for modality in cohort.modalities.values():
        here = modality.present
        if here.any() and 1 - here.mean() > MOSTLY_ABSENT:
            fix = "Fine if so it is; else check that its ids are those of the samples."
            yield _warning(f"modalities.{modality.name}", f"{1 - here.mean():.0%} of the samples lack it.", fix)
        parts = [("the test part", cohort.split.test)]
        parts += [(f"fold {fold}", cohort.split.validation(fold)) for fold in range(cohort.split.n_folds)]
        for part, rows in parts if here.any() else []:
            if not here[rows].any():
                fix = "Stratify the split on whether it is there, or leave the modality out."
                yield _warning(f"modalities.{modality.name}", f"no sample of {part} has it.", fix)


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
    rows = np.flatnonzero(measured >= FEWEST_INPUTS)
    _, group, size = np.unique(whole[rows], return_inverse=True, return_counts=True)
    again = size[group] > 1
    if not again.any():
        return
    rows, group = rows[again], group[again]
    n_strangers, n_straddling = _mixed(group, cohort.patients[rows]), _mixed(group, cohort.split.test[rows])
    example = ", ".join(str(key) for key in cohort.sample_ids[rows[group == group[0]]][:_NAMED].tolist())
    problem = f"{len(rows)} samples have exactly the inputs of another one (e.g. {example})"
    fix = "Keep one of each."
    if n_strangers:
        problem += f", {n_strangers} of them of another patient"
        fix = "Check that the patient id is one of patients, not of stays; then keep one of each."
    if n_straddling:
        problem += f", {n_straddling} with one on the other side of the split"
    yield _warning("samples", f"{problem}.", fix)


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
    # Where every column has few values (a list of comorbidities), many patients do have equal rows.
    some = modality.values[rows[:: max(1, len(rows) // 500)]]
    if np.median([len(np.unique(column[~np.isnan(column)])) for column in some.T]) <= 10:
        return
    row = modality.values[same[0]]
    what = "zeros" if not np.nan_to_num(row).any() else "the same values"
    what += ", the rest not measured" if np.isnan(row).any() else ""
    problem = f"{len(same)} samples of {n_patients} patients have one and the same row ({what})."
    fix = "If it stands for `absent`, write no row (or NaN) instead: networks are then told that it is absent."
    yield _warning(f"modalities.{modality.name}", problem, fix)


def _warning(place: str, problem: str, fix: str) -> Finding:
    return Finding(place, problem, fix, "warning")


def _list(hits: list[_Hit], measure: str) -> str:
    """`labs.x (AUROC 0.991)`, or the strongest few and how many there are."""
    # Columns that tell equally much are mostly one measurement in several forms: one of them is enough.
    distinct = list({round(hit.value, 6): hit for hit in reversed(hits)}.values())
    shown = sorted(distinct, key=lambda hit: -hit.value)[:_NAMED]
    named = ", ".join(f"{hit.column} ({measure} {hit.value:.3f})" for hit in shown)
    return named if len(hits) == len(shown) else f"{named} or one of {len(hits) - len(shown)} more"


def _some(columns: Sequence[str]) -> str:
    shown = ", ".join(columns[:_NAMED])
    return shown if len(columns) <= _NAMED else f"{shown} and {len(columns) - _NAMED} more"
