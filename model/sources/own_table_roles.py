"""What a column of a table of one's own is for: id, time, input, target or left out, by its name and its values."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import pandas as pd

from model.cohorts.cohort import text
from model.cohorts.column_names import DEATH, DISCHARGE, OUTCOMES, late, named_id, named_patient
from model.cohorts.folder_features import MOST_LEVELS
from model.cohorts.leaks_of_ids import id_by_values
from model.sources.own_table_values import Ruled
from model.sources.tables import Columns

Role: TypeAlias = Literal["sample id", "patient id", "time", "input", "target", "left out"]
Raw: TypeAlias = pd.DataFrame | Columns
Table: TypeAlias = Raw | Ruled

#: How the names of targets begin where somebody has marked them.
MARKED = re.compile(r"(task|target|label|outcome|y)(__|_|\.|-)(?=.)", re.IGNORECASE)
#: Names of a column of row numbers that is made where no column tells the rows apart.
NUMBERED = ("row", "row_number", "number_of_the_row")
#: A text with at most so many values is a class.
FEW_TEXTS = 20
#: An id of anything has a value for so many rows at least.
ROWS_AN_ID = 100
#: Share of the rows that an id column may lack: they are left out, and told.
MOST_GAPS = 0.01


@dataclass(frozen=True)
class Edit:
    """What a user says of a column in columns.csv.

    Attributes:
        role: of the column.
        used_as: number or category of an input; binary, multiclass or regression of a target; empty: as it looks.
        group: the modality of an input, the name of the task of a target; empty: by the column's name.
        why: it is left out.
    """

    role: Role
    used_as: str = ""
    group: str = ""
    why: str = "left out in columns.csv"


@dataclass(frozen=True)
class Ids:
    """The id columns of a table.

    Attributes:
        sample, patient: column names; a sample id that is not in the table has to be made.
        others: column -> what it is, of further ids.
        doubt: about the patient id; empty where there is none.
    """

    sample: str
    patient: str
    others: Mapping[str, str]
    doubt: str = ""


def find_ids(table: Table, columns: Sequence[str]) -> Ids:
    """The ids of samples and patients; of several that may be patients' the coarsest that the finer ones agree with."""
    able = [
        column
        for column in columns
        if (holds_texts(values := table[column]) or pd.api.types.is_integer_dtype(values))
        and values.isna().mean() <= MOST_GAPS
        and not MARKED.match(column)
    ]
    distinct = {column: int(table[column].nunique()) for column in able}
    unique = [column for column in able if table[column].dropna().is_unique]
    patients = [c for c in able if named_patient(c) and distinct[c] > min(FEW_TEXTS, len(table) // 20)]
    if not patients:
        # An id that repeats keeps what belongs together on one side, whatever it is an id of.
        patients = [c for c in able if c not in unique and distinct[c] > FEW_TEXTS and named_id(c)]
    named = [c for c in unique if c not in patients and named_id(c)]
    free = next(name for name in NUMBERED if name not in table)
    sample = next(iter([*named, *[column for column in unique if column in patients]]), free)
    if not patients:
        return Ids(sample, sample, _further(table, able, distinct, {sample}, {}))
    patient, others, doubt = _coarsest(table, sorted(patients, key=lambda column: distinct[column]))
    return Ids(sample, patient, _further(table, able, distinct, {sample, patient}, others), doubt)


def edited_ids(table: Table, edits: Mapping[str, Edit]) -> Ids:
    """The id columns that a user names; row numbers where no sample id is named, the sample's where no patient's is."""
    sample = next((column for column, edit in edits.items() if edit.role == "sample id"), "")
    sample = sample or next(name for name in NUMBERED if name not in table)
    return Ids(sample, next((column for column, edit in edits.items() if edit.role == "patient id"), sample), {})


def _further(
    table: Table, able: Sequence[str], distinct: Mapping[str, int], taken: set[str], others: Mapping[str, str]
) -> dict[str, str]:
    """The ids that are neither the sample's nor the patient's, each with what it is."""
    least = max(FEW_TEXTS, len(table) // ROWS_AN_ID)  # the id of a kind of admission is a category
    more = {c: f"an id by its name, with {distinct[c]:,} values" for c in able if distinct[c] > least and named_id(c)}
    return {column: why for column, why in {**more, **others}.items() if column not in taken}


def _coarsest(table: Table, candidates: Sequence[str]) -> tuple[str, dict[str, str], str]:
    """The candidate of the fewest values that has one value for each value of the others; the others; and a doubt."""
    values = {column: pd.factorize(table[column])[0] for column in candidates}
    chosen, doubt = candidates[0], ""
    for column in candidates:
        split = [other for other in candidates if _several(values[other], values[column]).any() and other != column]
        finer = [other for other in split if values[other].max() >= values[column].max()]
        if not finer:
            chosen = column
            break
        doubt = f"{finer[0]} and {column} contradict each other: which one tells patients apart?"
    others = {}
    for column in candidates:
        if column != chosen:
            rows = _several(values[chosen], values[column])
            others[column] = (
                f"another id of patients, {values[column].max() + 1:,} values; {int(rows.sum()):,} rows belong to a "
                f"{chosen} who has several of them"
            )
    return chosen, others, doubt


def _several(group: np.ndarray[Any, Any], value: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """bool (n,): the rows whose group has more than one value; rows without either are none."""
    both = (group >= 0) & (value >= 0)
    pairs = np.unique(np.stack([group[both], value[both]]), axis=1)
    many = np.bincount(pairs[0], minlength=group.max(initial=0) + 1) > 1
    return both & many[np.maximum(group, 0)]


def role_of(column: str, values: pd.Series[Any], is_marked: bool, any_marked: bool) -> tuple[Role, str]:
    """What a column that is no id is for, and why or in doubt of what (empty: as its name and values say)."""
    what = late(column)
    if is_date(values):
        return ("left out", f"its name says {what}: known only afterwards?") if what else ("time", DATE)
    if reason := useless(column, values):
        return "left out", reason
    if is_marked:
        return (
            ("target", "") if is_target(values) else ("left out", "a target by its name, but a text with many values")
        )
    if what:
        return _afterwards(what, values, any_marked)
    if holds_texts(values) and values.nunique() > MOST_LEVELS:
        return "left out", f"a text with {values.nunique():,} values: an id, or free text?"
    if why := _numbers_rows(column, values):
        return "left out", f"looks like an id: {why}"
    return "input", ""


DATE = "a date: the time between two dates can be an input, a date cannot"


def _afterwards(what: str, values: pd.Series[Any], any_marked: bool) -> tuple[Role, str]:
    """The role of a column whose name says that it is known afterwards only."""
    doubt = f"its name says {what}: known only afterwards?"
    few = values.nunique() <= FEW_TEXTS
    # How it ended is an outcome where it is told in words; a weight or a time of the discharge is none.
    ending = what in (DISCHARGE, "a state, perhaps that at the end") and holds_texts(values) and few
    coded = what.startswith("a diagnosis") and values.nunique() == 2
    if any_marked or not (what in OUTCOMES or ending or coded) or not is_target(values):
        return "left out", doubt
    if coded:
        return "target", "a diagnosis: an outcome, or known on admission and an input?"
    if what == DEATH and not few and not holds_texts(values) and values.min() >= 0 and values.max() <= 1:
        return "left out", f"its name says {what}, its values are shares: somebody's prediction?"
    return "target", ""


def _numbers_rows(column: str, values: pd.Series[Any]) -> str:
    """Why whole numbers are an id of the rows; empty where they are none."""
    if not pd.api.types.is_integer_dtype(values):
        return ""
    return id_by_values(column, values.to_numpy(np.float64))


def is_target(values: pd.Series[Any]) -> bool:
    """Whether values can be a target: numbers, or texts of few classes."""
    return not holds_texts(values) or values.nunique() <= FEW_TEXTS


def is_nested(values: pd.Series[Any]) -> bool:
    """Whether a column holds lists, structures or bytes, of which a table of samples can use nothing."""
    if not pd.api.types.is_object_dtype(values):
        return False
    return bool(values.map(lambda value: isinstance(value, bytes | list | tuple | dict | set | np.ndarray)).any())


def holds_texts(values: pd.Series[Any]) -> bool:
    """Whether a column holds texts, or whatever Python keeps as objects."""
    return bool(pd.api.types.is_string_dtype(values) or pd.api.types.is_object_dtype(values)) or isinstance(
        values.dtype, pd.CategoricalDtype
    )


def useless(column: str, values: pd.Series[Any]) -> str:
    """Why a column, its gaps dropped, can be nothing at all; empty where it can."""
    if re.fullmatch(r"Unnamed: \d+|index|level_\d+|__index_level_\d+__|column0*", column):
        return "a row number"
    if not len(values):
        return "never measured"
    if values.nunique() == 1:
        return f"the same everywhere ({text(values.iloc[0])})"
    return ""


def is_date(values: pd.Series[Any]) -> bool:
    """Whether values are dates; of texts: most of a few of them look like 2180-07-23 or 23/07/2180."""
    if pd.api.types.is_datetime64_any_dtype(values):
        return True
    if not holds_texts(values) or not len(values):
        return False
    shown = values.iloc[:: max(1, len(values) // 50)].astype(str)
    return bool(shown.str.match(r"\d{4}-\d{1,2}-\d{1,2}|\d{1,2}[/.]\d{1,2}[/.]\d{2,4}").mean() > 0.9)
