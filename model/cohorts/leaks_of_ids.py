"""Leaks that ids make: ids among the inputs, and patients who have two of them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from model.cohorts.checks import warning
from model.cohorts.cohort import Bools, Cohort, text
from model.cohorts.column_names import named_id, named_patient, words
from model.cohorts.leaks_reference import Suspicion
from model.cohorts.leaks_survey import Survey, blocks
from tim_search.types import Finding

#: Whole numbers of so many different values may be an id; of nearly as many as there are rows they are one ...
FEWEST_KEYS, DISTINCT = 100, 0.97
#: ... and of so many, where they rise or fall with the rows.
RISING, RISING_DISTINCT = 0.9, 0.3
#: A column that has so many values a patient, each of one patient or of several whole ones, may be a better patient id.
KEYS_A_PATIENT = 0.2
#: ... if so many patients have several samples, whose values can agree.
PATIENTS_WITH_SEVERAL = 20
#: Names, run together, of what never changes in a person.
PERSONAL = re.compile(
    r"birth|dob|gebdat|geburt|nacimiento|naissance|nascita|geboorte|(^|adm)(sex|gender|height)|geschlecht|sexo|grosse|"
    r"talla|altezza|bloodgroup|bloodtype|blutgruppe"
)
#: Patients who agree in what never changes are the same person, where chance makes fewer pairs than this part of them.
PAIRS, CHANCE = 5, 1 / 3


def id_inputs(cohort: Cohort, view: Survey) -> Iterator[Suspicion]:
    """Inputs that number the rows or the patients: what is learnt from them holds for nobody new."""
    at = 0
    of_patient = cohort.patients[view.rows]
    fix = "Remove it: a network learns the rows of the table by it. If it is a measurement, nothing is wrong."
    for modality, names, block in blocks(cohort, view.rows):
        for column, (name, values) in enumerate(zip(names, block.T, strict=True), start=at):
            if why := id_by_values(name, values, of_patient, name in modality.levels):
                yield Suspicion(f"modalities.{view.named(column)}", f"looks like an id: {why}.", fix, (column,))
        at += len(names)


def id_by_values(
    name: str, values: NDArray[np.float64], patients: NDArray[np.int64] | None = None, nominal: bool = False
) -> str:
    """Why a column of float64 (n,), NaN where not measured, is an id; empty where it is none.

    Args:
        name: of the column.
        patients: (n,) the patient of each row, if that is known.
        nominal: whether the values are codes of levels.
    """
    measured = ~np.isnan(values)
    given = values[measured]
    if len(given) < 0.9 * len(values) or len(given) < FEWEST_KEYS:
        return ""
    levels, place = np.unique(given, return_inverse=True)
    if len(levels) < FEWEST_KEYS or (not nominal and (given != np.round(given)).any()):
        return ""
    share = len(levels) / len(given)
    if named_id(name):
        return f"it has the name of one and {len(levels)} different values"
    if not nominal and share >= RISING_DISTINCT:
        rise = abs(np.corrcoef(place, np.arange(len(given)))[0, 1])
        if rise >= RISING:
            return f"whole numbers with {share:.0%} different values that go with the order of the rows ({rise:.2f})"
    if share >= DISTINCT and len(given) >= 2 * FEWEST_KEYS:
        return f"{share:.0%} of its {'levels' if nominal else 'whole numbers'} are different"
    again = np.bincount(place)[place] > 1
    if patients is not None and again.sum() >= PATIENTS_WITH_SEVERAL and not mixed(place, patients[measured]):
        return f"each of its {len(levels)} values belongs to one patient"
    return ""


def personal(column: str) -> bool:
    """Whether a column has the name of what never changes in a person."""
    return bool(PERSONAL.search("".join(words(column))))


def may_be_key(column: str, kind: pa.DataType, is_input: bool) -> bool:
    """Whether a column of this Parquet type can tell patients apart, or has the name of one that does."""
    return named_patient(column) or bool(not is_input and (pa.types.is_integer(kind) or pa.types.is_string(kind)))


def other_patients(column: str, values: pa.ChunkedArray, cohort: Cohort) -> Iterator[Finding]:
    """Whether a column of the samples tells patients apart better than the patient id: some are on both sides."""
    n_patients, n_keys = len(cohort.patient_ids), len(pc.unique(values.drop_null()))
    if n_keys >= n_patients or not (named_patient(column) or n_keys >= KEYS_A_PATIENT * n_patients):
        return
    texts = [text(value) for value in values.to_pylist()]
    of_sample = np.unique(np.array(texts, object).astype(str), return_inverse=True)[1]
    given = np.array(texts, object) != ""
    straddling = mixed(of_sample[given], cohort.split.test[given])
    if not straddling:
        return
    # Where each patient has one row, any column has one value a patient: that says nothing.
    several = np.bincount(cohort.patients[given], minlength=n_patients) > 1
    coarser = several.sum() >= PATIENTS_WITH_SEVERAL and not mixed(cohort.patients[given], of_sample[given])
    if named_patient(column):
        problem = f"has the name of a patient id and {n_keys} values, the patient id has {n_patients}"
    elif coarser:
        problem = f"has {n_keys} values, the patient id has {n_patients}, and every patient id has one value of it"
    else:
        return
    fix = f"If it tells patients apart, write `patient_id: {column}`: one patient is on both sides otherwise."
    yield warning(f"samples.{column}", f"{problem}; {straddling} samples share one across the split.", fix)


def same_persons(columns: Mapping[str, Sequence[Any]], cohort: Cohort) -> Iterator[Finding]:
    """Patients under two ids: they agree in everything of a person that never changes, far above chance.

    Args:
        columns: such columns (date of birth, sex, height, ...), a value a sample.

    By chance two patients would agree in all of them with the product over the columns of the share of pairs that agree
    in one; where that makes many pairs, nothing can be said.
    """
    first = np.unique(cohort.patients, return_index=True)[1]
    texts = np.array([[text(values[row]) for row in first] for values in columns.values()], object)
    whole = (texts != "").all(axis=0) if len(texts) else np.zeros(len(first), bool)
    n = int(whole.sum())
    if n < FEWEST_KEYS:
        return
    chance, key = 1.0, np.zeros(n, np.int64)
    for values in texts[:, whole]:
        code = np.unique(values.astype(str), return_inverse=True)[1]
        sizes = np.bincount(code)
        chance *= float((sizes * (sizes - 1)).sum()) / (n * (n - 1))
        key = np.unique(key * (code.max() + 1) + code, return_inverse=True)[1]
    sizes = np.bincount(key)
    pairs, expected = int((sizes * (sizes - 1) // 2).sum()), chance * n * (n - 1) / 2
    if expected > n or pairs < PAIRS + expected / CHANCE:
        return
    of_patient = -1 - np.arange(len(first))
    of_patient[whole] = key
    group = of_patient[cohort.patients]
    straddling = mixed(group, cohort.split.test)
    several = int(sizes[sizes > 1].sum())
    problem = (
        f"{several} patient ids share {', '.join(columns)} with another one ({pairs} pairs; {expected:.1f} by chance): "
        f"persons under two ids? {straddling} samples share them across the split."
    )
    fix = "Ask for an id of persons, or give these patients one id each."
    yield warning("samples", problem, fix)


def mixed(group: NDArray[np.int64], value: NDArray[np.int64] | Bools) -> int:
    """How many rows are in a group that holds more than one value."""
    if not len(group):
        return 0
    pairs = np.unique(np.stack([group, value.astype(np.int64)]), axis=1)
    several = np.bincount(pairs[0]) > 1
    return int(several[group].sum())
