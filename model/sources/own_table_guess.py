"""A first cohort.yaml for a table of one's own: what each column may be, guessed from its name and its values.

Nothing is decided for good: the file says in comments what was guessed and why, and is there to be edited. What is
left out is listed with its reason, so that no column is lost without a word.
"""

from __future__ import annotations

import re
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from model.cohorts.cohort import text
from model.cohorts.column_names import IDS, SAMPLE, late, named_patient, words
from model.cohorts.folder_features import MOST_LEVELS
from model.cohorts.folder_reader import LONGEST_NAME
from model.cohorts.overlaps import overlapping
from model.cohorts.values import Rule, yes_no
from model.sources.own_table_values import Proposal, Ruled, propose
from model.sources.tables import Columns
from model.sources.tables_pieces import Reading
from tim_search.types import Kind, Task

#: How the names of targets begin where somebody has marked them.
MARKED = re.compile(r"(task|target|label|outcome|y)(__|_|\.|-)(?=.)", re.IGNORECASE)
#: A whole number with at most so many values is a class; as an input it may be a category.
FEW_VALUES = 10
#: A text with at most so many values is a class.
FEW_TEXTS = 20
#: Share of the rows that an id column may lack: they are left out, and told.
MOST_GAPS = 0.01
#: A prefix makes a modality where so many columns share it.
FEWEST_SHARING = 3
#: More rows a patient than this look like a long table.
MANY_ROWS = 8
#: The rarest outcome to stratify on must be this common.
RAREST = 0.02


Table: TypeAlias = pd.DataFrame | Columns | Ruled


@dataclass(frozen=True)
class Guess:
    """What the columns of a table were taken for.

    Attributes:
        sample_id, patient_id: column names.
        numbered: no column can be the sample id, so one with row numbers is to be made.
        modalities: name -> (prefix, or "" where the columns have none; its columns).
        tasks: task -> what was guessed.
        left_out: column -> why.
        overlaps: pairs of tasks -> why.
        stratify: column, or "".
        reading: what the table turned out to be.
        proposals: column -> what is proposed for its cells, where there is anything to say.
    """

    sample_id: str
    patient_id: str
    numbered: bool
    modalities: Mapping[str, tuple[str, list[str]]]
    tasks: Mapping[str, GuessedTask]
    left_out: Mapping[str, str]
    overlaps: Mapping[tuple[str, str], str]
    stratify: str
    reading: Reading | None = None
    proposals: Mapping[str, Proposal] = field(default_factory=dict)

    @property
    def rules(self) -> dict[str, Rule]:
        """The rules in force, by column."""
        return {name: proposal.rule for name, proposal in self.proposals.items() if proposal.rule != Rule()}


@dataclass(frozen=True)
class GuessedTask:
    """A column taken for a target; `classes` only where the values do not speak for themselves."""

    column: str
    kind: Kind
    classes: tuple[str, ...] = ()
    excludes: tuple[str, ...] = ()
    why: str = ""


def guess_columns(table: Table) -> Guess:
    """What each column of a table may be; one column at a time is looked at."""
    nested = [column for column in table.columns if is_nested(table[column])]
    plain = [column for column in table.columns if column not in nested]
    sample_id, patient_id = _ids(table, plain)
    proposals = {name: propose(table[name]) for name in plain if name not in (sample_id, patient_id)}
    proposals = {name: proposal for name, proposal in proposals.items() if proposal.speaks}
    table = Ruled(table, {name: proposal.rule for name, proposal in proposals.items()})
    marked = [column for column in plain if MARKED.match(column) and column != patient_id]
    features: list[str] = []
    tasks: dict[str, GuessedTask] = {}
    left_out = dict.fromkeys(nested, "its values are lists, structures or bytes")
    for column in plain:
        if column in (sample_id, patient_id):
            continue
        values = table[column].dropna()
        reason = _useless(column, values)
        if reason:
            left_out[column] = reason
        elif column in marked or (not marked and late(column)):
            target = _task(column, values)
            if target is None:
                left_out[column] = "a target by its name, but a text with many values"
            else:
                name = MARKED.sub("", column, count=1) if column in marked else column
                tasks[_free_name(name, "task", tasks)] = target
        elif late(column):
            left_out[column] = f"its name says {late(column)}: known only afterwards?"
        elif holds_texts(values) and values.nunique() > MOST_LEVELS:
            left_out[column] = f"a text with {values.nunique()} values: an id, or free text?"
        else:
            features.append(column)
    modalities, alone = _group(features)
    left_out |= dict.fromkeys(alone, "it has no prefix, unlike the inputs: is it one?")
    tasks = {name: _with_excludes(task, name, features) for name, task in tasks.items()}
    labels = {name: _label(task, table) for name, task in tasks.items()}
    kinds = {name: Task(name, task.kind, max(1, len(task.classes))) for name, task in tasks.items()}
    classes = {name: task.classes or ("0", "1") for name, task in tasks.items() if task.kind != "regression"}
    overlaps = overlapping(kinds, labels, classes)
    numbered = sample_id not in table
    stratify = _stratify(tasks, labels)
    return Guess(sample_id, patient_id, numbered, modalities, tasks, left_out, overlaps, stratify, proposals=proposals)


def _free_name(wanted: str, otherwise: str, taken: Container[str]) -> str:
    """A name for a task or a modality, of the characters that one may have, that is not taken."""
    name = re.sub(r"[^A-Za-z0-9_-]+", "_", wanted).strip("_-")[: LONGEST_NAME - 10] or otherwise
    return next(free for free in (name, *(f"{name}_{k}" for k in range(2, 10**6))) if free not in taken)


def _ids(table: Table, columns: Sequence[str]) -> tuple[str, str]:
    """The sample's and the patient's id column; a sample id that is not in the table has to be made."""
    able = [
        column
        for column in columns
        if table[column].isna().mean() <= MOST_GAPS
        and (holds_texts(table[column]) or pd.api.types.is_integer_dtype(table[column]))
    ]
    unique = [column for column in able if table[column].dropna().is_unique]
    patients = [column for column in able if named_patient(column) and not MARKED.match(column)]
    repeated = [column for column in patients if column not in unique]
    if not patients:
        # An id that repeats keeps what belongs together on one side, whatever it is an id of.
        repeated = [c for c in able if c not in unique and _last(c) in IDS and table[c].nunique() > FEW_TEXTS]
    named = [c for c in unique if c not in patients and _last(c) in (*SAMPLE, *IDS) and not MARKED.match(c)]
    free = next(name for name in ("row", "row_number", "number_of_the_row") if name not in table)
    sample = next(iter([*named, *[column for column in unique if column in patients]]), free)
    patient = next(iter([*repeated, *patients]), sample)
    return sample, patient


def _last(name: str) -> str:
    """The last word of a name: what it is a name of."""
    return words(name)[-1]


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


def _useless(column: str, values: pd.Series[Any]) -> str:
    """Why a column can be neither an input nor a target; empty where it can."""
    if re.fullmatch(r"Unnamed: \d+|index|level_\d+|__index_level_\d+__", column):
        return "a row number"
    if not len(values):
        return "never measured"
    if pd.api.types.is_datetime64_any_dtype(values) or _is_date(values):
        return "a date: the time between two dates can be an input, a date cannot"
    if values.nunique() == 1:
        return f"the same everywhere ({text(values.iloc[0])})"
    return ""


def _is_date(values: pd.Series[Any]) -> bool:
    """Whether texts are dates: most of a few of them look like 2180-07-23 or 23/07/2180."""
    if not holds_texts(values):
        return False
    shown = values.iloc[:: max(1, len(values) // 50)].astype(str)
    return bool(shown.str.match(r"\d{4}-\d{1,2}-\d{1,2}|\d{1,2}[/.]\d{1,2}[/.]\d{2,4}").mean() > 0.9)


def _task(column: str, values: pd.Series[Any]) -> GuessedTask | None:
    """What a target's values make of it; None for a text with many."""
    levels = sorted(values.unique().tolist(), key=lambda value: (isinstance(value, str), value))
    names = tuple(text(level) for level in levels)
    if holds_texts(values):
        if words := yes_no(names):
            return GuessedTask(column, "binary", words)
        if len(names) == 2:
            why = "negative first: swap them if the other one is the event"
            return GuessedTask(column, "binary", names, why=why)
        alike = len({name.strip().lower() for name in names}) < len(names)
        why = "some differ in capitals or blanks only: write each class one way" if alike else ""
        return GuessedTask(column, "multiclass", names, why=why) if len(names) <= FEW_TEXTS else None
    if set(names) <= {"0", "1"}:
        return GuessedTask(column, "binary")
    if len(names) == 2:
        return GuessedTask(column, "binary", names, why="negative first: swap them if the other one is the event")
    if len(names) <= FEW_VALUES and all(float(level).is_integer() for level in levels):
        why = f"{len(names)} whole numbers: use kind: regression if they are amounts"
        return GuessedTask(column, "multiclass", names, why=why)
    return GuessedTask(column, "regression")


def _with_excludes(task: GuessedTask, name: str, features: Sequence[str]) -> GuessedTask:
    """Inputs that have the name of the target are most likely the target, or its earlier value."""
    plain = re.sub(r"[^a-z0-9]", "", name.lower())
    same = [f for f in features if re.sub(r"[^a-z0-9]", "", re.split(r"__|\.", f)[-1].lower()) == plain]
    return GuessedTask(task.column, task.kind, task.classes, tuple(same), task.why)


def _label(task: GuessedTask, table: Table) -> NDArray[np.float64]:
    values = table[task.column]
    if task.classes:
        code = {name: float(index) for index, name in enumerate(task.classes)}
        return np.array([code.get(text(value), np.nan) for value in values.tolist()], np.float64)
    return values.to_numpy(np.float64)


def _stratify(tasks: Mapping[str, GuessedTask], labels: Mapping[str, NDArray[np.float64]]) -> str:
    """The column of the rarest binary outcome that every row has."""
    share = {
        name: float(min(labels[name].mean(), 1 - labels[name].mean()))
        for name, task in tasks.items()
        if task.kind == "binary" and not np.isnan(labels[name]).any()
    }
    common = {name: value for name, value in share.items() if value >= RAREST}
    return tasks[min(common, key=lambda name: common[name])].column if common else ""


def _group(features: Sequence[str]) -> tuple[dict[str, tuple[str, list[str]]], list[str]]:
    """Modalities by what the names begin with (`labs__` where there are such names, else `labs_`), and who has none."""
    double = [column for column in features if "__" in column]
    groups: dict[str, list[str]] = {}
    for column in features:
        match = re.match(r"(.+?)__" if double else r"([A-Za-z0-9]+?)[_.]", column)
        groups.setdefault(match[0] if match else "", []).append(column)
    alone = groups.pop("", []) if double and 2 * len(double) >= len(features) else []
    if not double:
        for prefix in [p for p, columns in groups.items() if p and len(columns) < FEWEST_SHARING]:
            groups.setdefault("", []).extend(groups.pop(prefix))
    modalities: dict[str, tuple[str, list[str]]] = {}
    for prefix, columns in groups.items():
        name = _free_name(prefix, "other" if len(groups) > 1 else "features", modalities)
        modalities[name] = (prefix, [column for column in features if column in set(columns)])
    return modalities, alone
