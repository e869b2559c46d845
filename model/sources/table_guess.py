"""A first cohort.yaml for a table of one's own: what each column may be, guessed from its name and its values.

Nothing is decided for good: the file says in comments what was guessed and why, and is there to be edited. What is
left out is listed with its reason, so that no column is lost without a word.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from numpy.typing import NDArray

from model.cohorts import checks, folder
from model.cohorts.cohort import text
from model.cohorts.folder_features import MOST_LEVELS
from model.cohorts.folder_reader import DESCRIPTION, FORMAT
from model.cohorts.folder_writer import check_free
from model.cohorts.leaks import PATIENT, late, named_patient, words
from tim_search.types import BadInput, Finding, Kind, Task

#: How the names of targets begin where somebody has marked them.
MARKED = re.compile(r"(task|target|label|outcome|y)(__|_|\.|-)(?=.)", re.IGNORECASE)
#: The last word of a sample id's name, and of an id's.
SAMPLE = ("visit", "stay", "encounter", "admission", "hadm", "sample", "record", "case", "image")
IDS = ("id", "icustayid", *(f"{word}id" for word in (*SAMPLE, *PATIENT)))
#: A whole number with at most so many values is a class; as an input it may be a category.
FEW_VALUES = 10
#: Files that are no table of text.
EXCEL = (".xlsx", ".xls", ".xlsm", ".ods")
#: A text with at most so many values is a class.
FEW_TEXTS = 20
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
    """

    sample_id: str
    patient_id: str
    numbered: bool
    modalities: Mapping[str, tuple[str, list[str]]]
    tasks: Mapping[str, GuessedTask]
    left_out: Mapping[str, str]
    overlaps: Mapping[tuple[str, str], str]
    stratify: str


@dataclass(frozen=True)
class GuessedTask:
    """A column taken for a target; `classes` only where the values do not speak for themselves."""

    column: str
    kind: Kind
    classes: tuple[str, ...] = ()
    excludes: tuple[str, ...] = ()
    why: str = ""


def read(path: Path) -> pd.DataFrame:
    """A CSV or Parquet table; raises BadInput."""
    if not path.is_file():
        given = "got a folder" if path.is_dir() else "there is none"
        raise BadInput(f"{path}: expected a CSV or Parquet file, {given}. Name the file of your table.")
    if path.suffix.lower() in EXCEL:
        raise BadInput(f"{path}: expected a table as CSV or Parquet, got a spreadsheet. Save its sheet as CSV.")
    try:
        names = _names(path)
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise BadInput(f"{path}: the columns {', '.join(twice)} stand twice. Rename them.")
        table = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path, low_memory=False)
    except (ValueError, OSError, UnicodeDecodeError) as error:
        first = str(error).splitlines()[0]
        raise BadInput(f"{path}: expected a table as CSV (also .gz) or Parquet: {first}. Write it again.") from error
    # An index with a name is a column that somebody set aside, most often the id.
    table = table.reset_index(drop=table.index.names == [None])
    table.columns = [str(name) for name in table.columns]
    if not len(table) or len(table.columns) < 2:
        shape = f"{len(table)} rows and {len(table.columns)} columns"
        fix = "Name another file."
        if len(table.columns) == 1 and (mark := next((m for m in (";", "\t", "|") if m in names[0]), "")):
            fix = f"Its columns seem to be separated by {mark!r}: write it with commas."
        raise BadInput(f"{path}: expected rows of patients with columns, got {shape}. {fix}")
    return table


def _names(path: Path) -> list[str]:
    """Names of the columns as they are written; pandas gives a second one of a name another name, or none at all."""
    if path.suffix == ".parquet":
        return list(pq.read_schema(path).names)
    return [str(name) for name in pd.read_csv(path, header=None, nrows=1, dtype=str).iloc[0].dropna()]


def init(path: Path, out: Path) -> Guess:
    """Write a folder with the table as samples.parquet and a commented cohort.yaml; returns what was guessed.

    Raises:
        BadInput: the table cannot be read, or something already stands at `out`.
    """
    check_free(out)
    table = read(path)
    guess = guess_columns(table)
    if guess.numbered:
        table.insert(0, guess.sample_id, np.arange(len(table)))
    for column in [column for column in table.columns if pd.api.types.is_object_dtype(table[column])]:
        table[column] = table[column].map(lambda value: None if value is None or value != value else text(value))
    made = not out.exists()
    try:
        out.mkdir(parents=True, exist_ok=True)
        table.to_parquet(out / "samples.parquet", index=False)
        name = path.name.split(".")[0]
        (out / DESCRIPTION).write_text(describe(table, guess, name), encoding="utf-8")
        guess = _without_poor(guess, folder.read(out)[1])
        (out / DESCRIPTION).write_text(describe(table, guess, name), encoding="utf-8")
    except BaseException as error:
        if made:
            shutil.rmtree(out, ignore_errors=True)
        if isinstance(error, OSError):
            raise BadInput(f"{out}: cannot be written: {error.strerror}. Name another folder.") from error
        raise
    return guess


def _without_poor(guess: Guess, findings: Sequence[Finding]) -> Guess:
    """The guess without tasks that the split leaves nothing to score of: each would stop every search that has it."""
    poor = {
        place: finding.problem
        for finding in findings
        if finding.severity == "error" and (place := finding.place.removeprefix("tasks.")) in guess.tasks
    }
    reasons = {
        guess.tasks[name].column: f"as a task it has too few labels: {why.removesuffix('.')}"
        for name, why in poor.items()
    }
    return replace(
        guess,
        tasks={name: task for name, task in guess.tasks.items() if name not in poor},
        overlaps={pair: why for pair, why in guess.overlaps.items() if not poor.keys() & set(pair)},
        left_out={**guess.left_out, **reasons},
    )


def guess_columns(table: pd.DataFrame) -> Guess:
    """What each column of a table may be."""
    sample_id, patient_id = _ids(table)
    marked = [column for column in table.columns if MARKED.match(column) and column != patient_id]
    features: list[str] = []
    tasks: dict[str, GuessedTask] = {}
    left_out: dict[str, str] = {}
    for column in table.columns:
        if column in (sample_id, patient_id):
            continue
        values = table[column].dropna()
        reason = _useless(column, values)
        if reason:
            left_out[column] = reason
        elif column in marked or (not marked and late(column)):
            found = _task(column, values)
            if found is None:
                left_out[column] = "a target by its name, but a text with many values"
            else:
                name = MARKED.sub("", column, count=1) if column in marked else column
                tasks[re.sub(r"[^A-Za-z0-9_-]+", "_", name).strip("_-") or f"task_{len(tasks)}"] = found
        elif late(column):
            left_out[column] = f"its name says {late(column)}: known only afterwards?"
        elif _is_text(values) and values.nunique() > MOST_LEVELS:
            left_out[column] = f"a text with {values.nunique()} values: an id, or free text?"
        else:
            features.append(column)
    modalities, alone = _group(features)
    left_out |= dict.fromkeys(alone, "it has no prefix, unlike the inputs: is it one?")
    tasks = {name: _with_excludes(task, name, features) for name, task in tasks.items()}
    labels = {name: _label(task, table) for name, task in tasks.items()}
    kinds = {name: Task(name, task.kind, max(1, len(task.classes))) for name, task in tasks.items()}
    classes = {name: task.classes or ("0", "1") for name, task in tasks.items() if task.kind != "regression"}
    overlaps = checks.overlapping(kinds, labels, classes)
    numbered = sample_id not in table
    return Guess(sample_id, patient_id, numbered, modalities, tasks, left_out, overlaps, _stratify(tasks, labels))


def _ids(table: pd.DataFrame) -> tuple[str, str]:
    """The sample's and the patient's id column; a sample id that is not in the table has to be made."""
    able = [
        column
        for column in table.columns
        if table[column].notna().all() and (_is_text(table[column]) or pd.api.types.is_integer_dtype(table[column]))
    ]
    unique = [column for column in able if table[column].is_unique]
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


def _is_text(values: pd.Series[Any]) -> bool:
    return bool(pd.api.types.is_string_dtype(values) or pd.api.types.is_object_dtype(values)) or isinstance(
        values.dtype, pd.CategoricalDtype
    )


def _useless(column: str, values: pd.Series[Any]) -> str:
    """Why a column can be neither an input nor a target; empty where it can."""
    if re.fullmatch(r"Unnamed: \d+|index|level_\d+|__index_level_\d+__", column):
        return "a row number"
    if not len(values):
        return "never measured"
    if pd.api.types.is_datetime64_any_dtype(values) or pd.api.types.is_timedelta64_dtype(values) or _is_date(values):
        return "a date: the time between two dates can be an input, a date cannot"
    if values.nunique() == 1:
        return f"the same everywhere ({text(values.iloc[0])})"
    return ""


def _is_date(values: pd.Series[Any]) -> bool:
    """Whether texts are dates: most of a few of them look like 2180-07-23 or 23/07/2180."""
    if not _is_text(values):
        return False
    shown = values.iloc[:: max(1, len(values) // 50)].astype(str)
    return bool(shown.str.match(r"\d{4}-\d{1,2}-\d{1,2}|\d{1,2}[/.]\d{1,2}[/.]\d{2,4}").mean() > 0.9)


def _task(column: str, values: pd.Series[Any]) -> GuessedTask | None:
    """What a target's values make of it; None for a text with many."""
    levels = sorted(values.unique().tolist(), key=lambda value: (isinstance(value, str), value))
    names = tuple(text(level) for level in levels)
    if _is_text(values):
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


def _label(task: GuessedTask, table: pd.DataFrame) -> NDArray[np.float64]:
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
        name = re.sub(r"[^A-Za-z0-9-]+", "_", prefix).strip("_-") or ("other" if len(groups) > 1 else "features")
        free = name if name not in modalities else f"{name}_{len(modalities)}"
        modalities[free] = (prefix, [column for column in features if column in set(columns)])
    return modalities, alone


# ------------------------------------------------------------------------------------------------ cohort.yaml


def describe(table: pd.DataFrame, guess: Guess, name: str) -> str:
    """The text of cohort.yaml, with comments; no name or value of the table ends a line of it."""
    from tim_search.gates.yaml import comment, quoted

    everything = list(table.columns)
    lines = [
        "# Written by `tim-search cohort init`: guesses, to be read and mended. docs/cohorts.md tells what each key",
        "# means; `tim-search check` on this folder tells what is still wrong.",
        f"format: {FORMAT}",
        f"name: {quoted(name)}",
        "samples: samples.parquet",
        f"sample_id: {quoted(guess.sample_id)}" + ("   # no column tells the rows apart" if guess.numbered else ""),
        f"patient_id: {quoted(guess.patient_id)}",
    ]
    if guess.patient_id == guess.sample_id and named_patient(guess.patient_id):
        lines.append("# ^ one row a patient")
    elif guess.patient_id == guess.sample_id:
        lines += [
            "# ^ no column looks like a patient's id, so one row a patient is assumed. If a patient may have several,",
            "#   name the column here: otherwise he is in the training and in the test part.",
        ]
    else:
        n_patients = table[guess.patient_id].nunique()
        lines.append(f"# ^ {n_patients} patients, {len(table)} rows")
        if len(table) > MANY_ROWS * n_patients:
            lines += [
                "#   Are the rows times of one stay? Then make one row of them, or a modality of kind sequence:",
                "#   docs/your-own-data.md, step 1.",
            ]
    if guess.stratify:
        lines.append(f"stratify: {quoted(guess.stratify)}   # the rarest outcome that every row has")
    else:
        lines.append("# stratify: COLUMN   # name a column with few values, so that every fold gets its share of them")
    lines += ["", "modalities:"]
    for modality, (prefix, columns) in guess.modalities.items():
        lines += _modality_lines(modality, prefix, columns, everything, table)
    if not guess.modalities:
        lines.append("  # no column looks like an input: name some here")
    lines += ["", "tasks:"]
    for task, found in guess.tasks.items():
        lines.append(_task_line(task, found, table))
    lines.append("  phenotype: {kind: clustering, clusters: 15}   # groups of patients; needs no label")
    if not guess.tasks:
        lines.append("  # died: {kind: binary, label: COLUMN}   # no column has the name of an outcome: name them")
    if guess.overlaps:
        lines += ["", "# Targets that are one outcome read twice: a gain between them is no transfer.", "overlaps:"]
        lines += [f"  - [{quoted(a)}, {quoted(b)}]   # {why}" for (a, b), why in guess.overlaps.items()]
    if guess.left_out:
        lines += ["", "# Left out, and why; add what is an input to `columns` of a modality:"]
        lines += [f"#   {column}: {why}" for column, why in guess.left_out.items()]
    return "".join(f"{comment(line)}\n" for line in lines)


def _modality_lines(
    name: str, prefix: str, columns: Sequence[str], everything: Sequence[str], table: pd.DataFrame
) -> list[str]:
    from tim_search.gates.yaml import quoted

    exact = prefix and [column for column in everything if column.startswith(prefix)] == list(columns)
    chosen = f"prefix: {quoted(prefix)}" if exact else f"columns: [{', '.join(map(quoted, columns))}]"
    lines = [f"  {quoted(name)}:   # {len(columns)} columns", "    file: samples.parquet", f"    {chosen}"]
    few = {column: values for column in columns if (values := _few_values(table[column]))}
    for column, values in list(few.items())[:FEW_VALUES]:
        shown = ", ".join(map(_value, values))
        lines.append(f"    # levels: {{{quoted(column)}: [{shown}]}}   # if these numbers are categories")
    return lines


def _few_values(values: pd.Series[Any]) -> list[str]:
    """The values of a column of whole numbers that may be codes of categories."""
    counted = words(str(values.name))[-1] in ("n", "count", "num", "number")
    if _is_text(values) or pd.api.types.is_bool_dtype(values) or counted:
        return []
    found = np.unique(values.dropna().to_numpy(np.float64))
    return [text(v) for v in found] if 2 < len(found) <= FEW_VALUES and (found == np.round(found)).all() else []


def _task_line(name: str, task: GuessedTask, table: pd.DataFrame) -> str:
    from tim_search.gates.yaml import quoted

    parts = [f"kind: {task.kind}", f"label: {quoted(task.column)}"]
    if task.classes and (task.kind == "binary" or _is_text(table[task.column])):
        parts.append(f"classes: [{', '.join(map(_value, task.classes))}]")
    if task.excludes:
        parts.append(f"excludes: [{', '.join(map(quoted, task.excludes))}]")
    values = table[task.column]
    known = values.notna()
    remark = [f"{int(known.sum())} labels"]
    if task.kind == "binary":
        positive = task.classes[1] if task.classes else "1"
        remark.append(f"{np.mean([text(value) == positive for value in values[known].tolist()]):.1%} positive")
    elif task.kind == "multiclass":
        remark.append(f"{values[known].nunique()} classes")
    remark += [task.why] if task.why else []
    remark += ["excluded: inputs of the same name"] if task.excludes else []
    return f"  {quoted(name)}: {{{', '.join(parts)}}}   # {'; '.join(remark)}"


def _value(name: str) -> str:
    """A level or a class, which may be a bare number."""
    from tim_search.gates.yaml import quoted

    return name if re.fullmatch(r"-?(0|[1-9]\d*)", name) else quoted(name)
