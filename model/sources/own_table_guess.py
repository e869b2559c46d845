"""A first cohort.yaml for a table of one's own: what each column may be, guessed from its name and its values.

Nothing is decided for good: the file says in comments what was guessed and why, and is there to be edited. What is
left out is listed with its reason, so that no column is lost without a word.
"""

from __future__ import annotations

import re
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, count
from typing import Any, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from model.cohorts.cohort import text
from model.cohorts.folder_reader import LONGEST_NAME
from model.cohorts.overlaps import overlapping
from model.cohorts.values import Rule, yes_no
from model.sources.own_table_roles import (
    DATE,
    MARKED,
    Edit,
    Raw,
    Role,
    Table,
    edited_ids,
    find_ids,
    holds_texts,
    is_nested,
    role_of,
)
from model.sources.own_table_values import Proposal, Ruled, propose
from model.sources.tables_pieces import Reading
from tim_search.types import Kind, Task

#: A whole number with at most so many values is a class; as an input it may be a category.
FEW_VALUES = 10
#: A prefix makes a modality where so many columns share it.
FEWEST_SHARING = 3
#: More rows a patient than this look like a long table.
MANY_ROWS = 8
#: The rarest outcome to stratify on must be this common.
RAREST = 0.02


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
        times: columns of dates.
        categories: inputs of numbers that are codes of categories, because a user says so.
        doubts: column -> what a person should look at of its role.
        rows: of columns.csv.
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
    times: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    doubts: Mapping[str, str] = field(default_factory=dict)
    rows: tuple[Mapping[str, str], ...] = ()

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


def guess_columns(raw: Raw, edits: Mapping[str, Edit] | None = None, rules: Mapping[str, Rule] | None = None) -> Guess:
    """What each column of a table may be; one column at a time is looked at.

    Args:
        edits: what a user says of the columns; those that he does not name are left out. None: all is guessed.
        rules: how a user says that cells are read; None: as it is proposed.
    """
    nested = [column for column in raw.columns if is_nested(raw[column])]
    plain = [column for column in raw.columns if column not in nested]
    ids = find_ids(raw, plain) if edits is None else edited_ids(raw, edits)
    rest = [column for column in plain if column not in (ids.sample, ids.patient)]
    proposals = {name: propose(raw[name]) for name in rest}
    if rules is not None:
        proposals = {name: replace(proposal, rule=rules.get(name, Rule())) for name, proposal in proposals.items()}
    proposals = {name: proposal for name, proposal in proposals.items() if proposal.speaks}
    table = Ruled(raw, {name: proposal.rule for name, proposal in proposals.items()})
    marked = {column for column in rest if MARKED.match(column)}
    by_role: dict[str, list[str]] = {role: [] for role in get_args(Role)}
    doubts = {ids.patient: ids.doubt, **dict.fromkeys(nested, "its values are lists, structures or bytes")}
    for column in rest:
        if edits is not None:
            edit = edits.get(column, Edit("left out"))
            role, doubts[column] = edit.role, edit.why
        elif column in ids.others:
            role, doubts[column] = "left out", ids.others[column]
        else:
            role, doubts[column] = role_of(column, table[column].dropna(), column in marked, bool(marked))
        by_role[role].append(column)
    says = edits or {}
    modalities, alone = _grouped(by_role["input"], says, list(table.columns))
    left_out = {column: doubts[column] for column in (*nested, *by_role["left out"])}
    left_out |= {column: doubts[column] or DATE for column in by_role["time"]}
    left_out |= dict.fromkeys(alone, "it has no prefix, unlike the inputs: is it one?")
    tasks: dict[str, GuessedTask] = {}
    for column in by_role["target"]:
        edit = says.get(column, Edit("target"))
        name = edit.group or (MARKED.sub("", column, count=1) if column in marked else column)
        tasks[_free_name(name, "task", tasks)] = _task(column, table[column].dropna(), edit.used_as)
    tasks = {name: _with_excludes(task, name, by_role["input"]) for name, task in tasks.items()}
    labels = {name: _label(task, table) for name, task in tasks.items()}
    kinds = {name: Task(name, task.kind, max(1, len(task.classes))) for name, task in tasks.items()}
    classes = {name: task.classes or ("0", "1") for name, task in tasks.items() if task.kind != "regression"}
    return Guess(
        ids.sample,
        ids.patient,
        ids.sample not in table,
        modalities,
        tasks,
        left_out,
        overlapping(kinds, labels, classes),
        _stratify(tasks, labels),
        proposals=proposals,
        times=tuple(by_role["time"]),
        categories=tuple(
            column for column in by_role["input"] if says.get(column, Edit("input")).used_as == "category"
        ),
        doubts={column: doubt for column, doubt in doubts.items() if doubt and (edits is None or column in nested)},
    )


def _grouped(
    inputs: Sequence[str], edits: Mapping[str, Edit], everything: Sequence[str]
) -> tuple[dict[str, tuple[str, list[str]]], list[str]]:
    """Modalities as a user names them, the others by what their names begin with; and the inputs that have none."""
    named: dict[str, list[str]] = {}
    for column in inputs:
        if column in edits and edits[column].group:
            named.setdefault(edits[column].group, []).append(column)
    modalities: dict[str, tuple[str, list[str]]] = {}
    for name, columns in named.items():
        first, last = min(columns), max(columns)
        common = next(first[:end] for end in range(len(first), -1, -1) if last.startswith(first[:end]))
        prefix = re.sub(r"[^_.]*$", "", common)
        exact = prefix and [column for column in everything if column.startswith(prefix)] == columns
        modalities[_free_name(name, "inputs", modalities)] = (prefix if exact else "", columns)
    guessed, alone = _group([column for column in inputs if column not in edits or not edits[column].group])
    if edits and alone:  # he calls them inputs, so they are
        guessed["other"] = ("", [*guessed.get("other", ("", []))[1], *alone])
        alone = []
    for name, (prefix, columns) in guessed.items():
        if named and not prefix:
            name = next((name for name in ("other", "features") if name in modalities), "other")
        before = modalities.get(name, ("", []))[1]
        modalities[name] = ("" if before else prefix, [*before, *columns])
    return modalities, alone


def _free_name(wanted: str, otherwise: str, taken: Container[str]) -> str:
    """A name for a task or a modality, of the characters that one may have, that is not taken."""
    name = re.sub(r"[^A-Za-z0-9_-]+", "_", wanted).strip("_-")[: LONGEST_NAME - 10] or otherwise
    return next(free for free in chain([name], (f"{name}_{k}" for k in count(2))) if free not in taken)


def _task(column: str, values: pd.Series[Any], kind: str = "") -> GuessedTask:
    """What a target's values, without gaps, make of it, or the kind that a user names."""
    if kind == "regression":
        return GuessedTask(column, "regression")
    levels = sorted(values.unique().tolist(), key=lambda value: (isinstance(value, str), value))
    names = tuple(text(level) for level in levels)
    if kind == "multiclass":
        why = "two classes: kind: binary, the event last, gives it an AUROC of its own" if len(names) == 2 else ""
        return GuessedTask(column, "multiclass", names, why=why)
    if holds_texts(values):
        if words := yes_no(names):
            return GuessedTask(column, "binary", words)
        if len(names) == 2:
            why = "negative first: swap them if the other one is the event"
            return GuessedTask(column, "binary", names, why=why)
        alike = len({name.strip().lower() for name in names}) < len(names)
        why = "some differ in capitals or blanks only: write each class one way" if alike else ""
        return GuessedTask(column, "multiclass", names, why=why)
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
