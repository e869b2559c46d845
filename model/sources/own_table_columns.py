"""columns.csv: every column of a table with what it is taken for, to be read and edited in a spreadsheet."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd

from model.cohorts.cohort import text
from model.cohorts.column_names import named_id
from model.cohorts.folder_features import MOST_LEVELS
from model.cohorts.values import Rule, applied
from model.sources import tables
from model.sources.own_table_guess import Guess
from model.sources.own_table_roles import (
    FEW_TEXTS,
    MARKED,
    NUMBERED,
    Edit,
    Raw,
    Role,
    holds_texts,
    is_date,
    is_nested,
    useless,
)
from model.sources.own_table_text import few_values
from model.sources.own_table_values import Proposal, Ruled, propose
from tim_search.gates.texts import for_spreadsheet
from tim_search.types import BadInput, near, some

FILE = "columns.csv"
#: The columns of the file, in this order; `role`, `used as` and `modality or task` are there to be edited.
HEADER = (
    "column", "read as", "used as", "role", "modality or task", "missing", "distinct", "range or levels", "example",
    "doubt",
)  # fmt: skip
#: What `used as` may say, by role.
USES: Mapping[str, tuple[str, ...]] = {
    "input": ("number", "category"),
    "target": ("binary", "multiclass", "regression"),
}
#: A value is shown only where so many patients have it, and a range only where so many lie beyond either end.
FEWEST_SHOWN = 10
_SHOWN_LEVELS = 8

Row = dict[str, str]


def rows_of(table: Raw, guess: Guess, warnings: Mapping[str, Sequence[str]]) -> tuple[Row, ...]:
    """A row for each column of the table, by the names of `HEADER`.

    Args:
        table: as it was read.
        warnings: input column -> what the check says of it.
    """
    used = Columned(guess, table)
    rows = []
    for column in table.columns:
        role, group, use = used.role(column)
        doubts = [guess.doubts.get(column, "") if column not in guess.left_out else guess.left_out[column]]
        if column in guess.proposals:
            doubts += guess.proposals[column].doubts
        if role == "target":
            doubts.append(guess.tasks[group].why)
        values = used.values(column)
        if role == "input" and use == "number" and few_values(values):
            doubts.append(f"{values.nunique()} whole numbers: a category?")
        doubts += warnings.get(column, ())
        # What tells rows or patients apart is shown of no one; codes in doubt of meaning "not measured" make no range.
        nested = is_nested(values)
        key = (
            nested
            or role.endswith("id")
            or (named_id(column) and values.nunique() > FEW_TEXTS)
            or (not values.empty and values.is_unique)
        )
        shown = {} if key else _shown(used.without_doubtful(column), used.patients)
        rows.append(
            {
                "column": column,
                "read as": _read_as(table[column]),
                "used as": use,
                "role": role,
                "modality or task": group,
                "missing": _share(float(values.isna().mean())),
                "distinct": "" if nested else str(values.nunique()),
                "range or levels": shown.get("range", ""),
                "example": shown.get("example", ""),
                "doubt": "; ".join(filter(None, doubts)),
            }
        )
    return tuple(rows)


class Columned:
    """A guess, asked column by column."""

    def __init__(self, guess: Guess, table: Raw) -> None:
        self._guess, self._ruled = guess, Ruled(table, guess.rules)
        self._modality = {column: name for name, (_, columns) in guess.modalities.items() for column in columns}
        self._task = {task.column: name for name, task in guess.tasks.items()}
        patient = guess.patient_id
        self.patients = pd.factorize(table[patient])[0] if patient in table else np.arange(len(table))

    def values(self, column: str) -> pd.Series[Any]:
        """The cells as they are used; those of a column that is not used may not fit a rule that somebody wrote."""
        try:
            return self._ruled[column]
        except ValueError:
            return self._ruled.table[column]

    def without_doubtful(self, column: str) -> pd.Series[Any]:
        """The cells as they are used, without what may mean "not measured"."""
        proposal = self._guess.proposals.get(column, Proposal())
        gone = Rule(missing=() if proposal.paste is None else proposal.paste.missing)
        values = self.values(column)
        return values if holds_texts(values) else applied(values, gone)

    def role(self, column: str) -> tuple[Role, str, str]:
        """Role, modality or task, and what the cells are used as."""
        if column == self._guess.sample_id:
            return "sample id", "", ""
        if column == self._guess.patient_id:
            return "patient id", "", ""
        if column in self._modality:
            category = column in self._guess.categories or holds_texts(self.values(column))
            return "input", self._modality[column], "category" if category else "number"
        if column in self._task:
            name = self._task[column]
            return "target", name, self._guess.tasks[name].kind
        return ("time" if column in self._guess.times else "left out"), "", ""


def _read_as(values: pd.Series[Any]) -> str:
    if is_nested(values):
        return "list or bytes"
    if pd.api.types.is_bool_dtype(values):
        return "yes or no"
    if pd.api.types.is_timedelta64_dtype(values):
        return "duration"
    if is_date(values.dropna()):
        return "date"
    if holds_texts(values):
        return "text"
    return "whole number" if pd.api.types.is_integer_dtype(values) else "number"


def _share(share: float) -> str:
    return "0%" if not share else "<1%" if share < 0.01 else ">99%" if 0.99 < share < 1 else f"{share:.0%}"


def _shown(values: pd.Series[Any], patients: np.ndarray[Any, Any]) -> dict[str, str]:
    """The range or the levels, and an example, as far as they tell of no single patient."""
    codes, levels = pd.factorize(values)
    there = codes >= 0
    pairs = np.unique(np.stack([codes[there], patients[there]]), axis=1)
    counts = np.bincount(pairs[0], minlength=len(levels))
    order = np.argsort(-counts, kind="stable")
    frequent = [level for level in order.tolist() if counts[level] >= FEWEST_SHOWN]
    shown = {"example": _cell(levels[frequent[0]])} if frequent else {}
    date = pd.api.types.is_datetime64_any_dtype(values)
    if len(levels) > FEW_TEXTS and (date or pd.api.types.is_numeric_dtype(values)):
        ordered = np.sort(values[there].to_numpy())
        beyond = max(FEWEST_SHOWN, len(ordered) // 100)
        if 2 * beyond < len(ordered):
            ends = [ordered[beyond], ordered[-1 - beyond]]
            low, high = (f"{pd.Timestamp(end):%Y-%m}" if date else f"{float(end):.4g}" for end in ends)
            shown["range"] = f"{low} to {high} (all but {2 * beyond} rows)"
    elif frequent:
        first = frequent[:_SHOWN_LEVELS]
        names = [
            _cell(levels[level]) for level in (first if holds_texts(values) else sorted(first, key=levels.__getitem__))
        ]
        more = len(levels) - len(names)
        shown["range"] = ", ".join(names) + (f" and {more} more" if more else "")
    return shown


def _cell(value: Any) -> str:
    return (f"{value:%Y-%m-%d}" if isinstance(value, pd.Timestamp) else text(value))[:40]


def as_csv(rows: Iterable[Row]) -> bytes:
    """The file: UTF-8 with the mark that spreadsheets look for, and nothing in it that one would run as a formula."""
    stream = io.StringIO(newline="")
    writer = csv.writer(stream)
    writer.writerow(HEADER)
    writer.writerows([for_spreadsheet(row[name]) for name in HEADER] for row in rows)
    return stream.getvalue().encode("utf-8-sig", "backslashreplace")


# ---------------------------------------------------------------------------------------- edited


def read_edits(path: Path, table: Raw, rules: Mapping[str, Rule] | None = None) -> dict[str, Edit]:
    """What an edited columns.csv says of each column; written by any spreadsheet, with any delimiter.

    Args:
        rules: how cells are read; None: as it is proposed.

    Raises:
        BadInput: with every row and column that cannot be, and what may stand there.
    """
    frame, _ = tables.read(path)
    if lacking := [name for name in ("column", "role") if name not in frame]:
        raise BadInput(
            f"{path}: expected the columns of columns.csv, {some(lacking)} is not there. Keep its first line as "
            "`cohort init` wrote it."
        )
    by_cell = {form: column for column in table.columns for form in (column.strip(), for_spreadsheet(column).strip())}
    by_cell |= {column: column for column in table.columns}
    uses = frame.reindex(columns=["used as", "modality or task"]).astype(str)
    modalities = set(uses.loc[uses["used as"].isin(USES["input"]), "modality or task"])
    edits: dict[str, Edit] = {}
    problems: list[str] = []
    for number, row in enumerate(frame.to_dict("records"), start=2):
        cell = {name: text(row.get(name)).strip() for name in ("column", "role", "used as", "modality or task")}
        column = by_cell.get(text(row["column"]), by_cell.get(cell["column"]))
        place = f"row {number} ({cell['column']})"
        if column is None and cell["column"] in NUMBERED and cell["role"] == "sample id":
            continue  # row numbers that were made, and will be again
        if column is None or column in edits:
            hint = near(cell["column"], table.columns)
            what = "stands twice" if column in edits else f"is no column of the table.{hint}"
            problems.append(f"{place}, column: {what}")
            continue
        role = cell["role"].lower()
        if role not in get_args(Role):
            allowed = ", ".join(get_args(Role))
            problems.append(f"{place}, role: expected one of {allowed}; given {role!r}.{near(role, get_args(Role))}")
            continue
        used_as, group = _of_this_role(role, cell["used as"].lower(), cell["modality or task"], column, modalities)
        edits[column] = Edit(role, used_as, group)  # type: ignore[arg-type]
        problems += [f"{place}, {problem}" for problem in faults(column, edits[column], table, rules)]
    for role in ("sample id", "patient id"):
        if len(several := [column for column, edit in edits.items() if edit.role == role]) > 1:
            problems.append(f"role: {some(several)} are each called {role}; at most one can be")
    if problems:
        lines = "\n".join(f"  {problem}" for problem in problems)
        raise BadInput(f"{path}: {len(problems)} of its cells cannot be:\n{lines}")
    return edits


def _of_this_role(role: str, used_as: str, group: str, column: str, modalities: set[str]) -> tuple[str, str]:
    """What `used as` and `modality or task` say, without what stands there still from another role of the column."""
    if used_as not in {use for other, of in USES.items() if other != role for use in of}:
        return used_as, group
    task = re.sub(r"[^A-Za-z0-9]+", "", MARKED.sub("", column, count=1))
    is_task = role == "input" and re.sub(r"[^A-Za-z0-9]+", "", group) == task
    return "", "" if is_task or (role == "target" and group in modalities) else group


def faults(column: str, edit: Edit, table: Raw, rules: Mapping[str, Rule] | None = None) -> list[str]:
    """What is wrong with what a user says of a column, and what may stand there; `rules` as in `read_edits`."""
    values = table[column].dropna()
    if not is_nested(values) and edit.role in USES:
        try:
            values = applied(values, propose(values).rule if rules is None else rules.get(column, Rule())).dropna()
        except ValueError as error:
            return [f"its cells do not fit its rule under values in cohort.yaml: {error}; mend the rule first."]
    allowed = USES.get(edit.role, ())
    if allowed and edit.used_as and edit.used_as not in allowed:
        return [f"used as: expected {' or '.join(allowed)} of an {edit.role}; given {edit.used_as!r}."]
    reason = "its values are lists or bytes" if is_nested(values) else useless(column, values)
    if reason and edit.role not in ("left out", "sample id", "patient id"):
        return [f"role: it is {reason}; the one role for it is left out."]
    if edit.role == "patient id" and not len(values):
        return ["role: no row has a value, and rows without a patient are left out; name another column."]
    if edit.role == "time" and not is_date(values):
        return ["role: expected dates of a time; write input for hours or days since the admission."]
    if edit.role == "sample id" and (not values.is_unique or len(values) < 0.99 * len(table)):
        return ["role: a sample id has a value of its own in every row; leave it out, or make it the patient id."]
    if edit.role in ("input", "target") and is_date(values):
        return [f"role: it holds dates, which are no {edit.role}; write time or left out."]
    if edit.role in USES and edit.used_as in ("number", "regression") and holds_texts(values):
        return ["used as: its cells are texts; declare under values in cohort.yaml how they become numbers first."]
    category = edit.used_as == "category" or holds_texts(values)
    if edit.role == "input" and category and values.nunique() > MOST_LEVELS:
        return [f"role: {values.nunique():,} values are too many categories ({MOST_LEVELS} at most); write left out."]
    if edit.role == "target":
        n = values.nunique()
        if edit.used_as == "binary" and n != 2:
            return [f"used as: a binary target has two values, this has {n}; write multiclass or regression."]
        if edit.used_as == "multiclass" or holds_texts(values):
            return [] if n <= FEW_TEXTS else [f"used as: {n:,} values are too many classes ({FEW_TEXTS} at most)."]
    return []
