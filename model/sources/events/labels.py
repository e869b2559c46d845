"""Labels of tasks: MEDS label tables as they are, and outcomes written down as ACES configs."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from model.cohorts.folder_reader import LONGEST_NAME
from model.sources.events import aces_tasks
from model.sources.events.shards import Events
from tim_search.gates.files import open_regular
from tim_search.gates.texts import for_terminal
from tim_search.types import BadInput, some

#: What a label may stand in, by the name of its column in the MEDS label schema.
VALUES = ("boolean_value", "integer_value", "float_value", "categorical_value")
#: Files of a folder of tasks that are no task: what cohort.yaml is to say of them, and predicates that configs share.
DECLARED, PREDICATES = "tasks.yaml", "predicates.yaml"
#: Whole numbers of up to so many values are taken as classes; more, or negative ones, as a number.
MOST_CLASSES = 20

#: Ends of names of files that somebody may take for a task.
_UNREAD = (".yml", ".csv", ".pq")

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_SCHEMA = "A MEDS label table has subject_id, prediction_time and one of " + ", ".join(VALUES) + "."


@dataclass(frozen=True, eq=False)
class Labels:
    """The labels of one task.

    Attributes:
        name: of the task.
        rows: a row a label, in any order: subject (int64), moment (int64, microseconds since 1970), label (0 and 1 of a
            boolean, numbers, or texts), without nulls.
        entry: what cohort.yaml says of the task, where nobody declares anything else: kind.
        before: whether events at the prediction time itself may be no inputs, because they belong to the outcome.
        without: rows that had no subject, time or label.
    """

    name: str
    rows: pd.DataFrame
    entry: Mapping[str, Any]
    before: bool = False
    without: int = 0


def read_labels(folder: Path, events: Events, tell: Callable[[str], None]) -> list[Labels]:
    """The labels of every task of a folder, in order of their names.

    Args:
        folder: `NAME.yaml` is an ACES config, `NAME.parquet` a MEDS label table, a folder `NAME` the shards of one.
        tell: is told which task is extracted.

    Raises:
        BadInput: there is no task; a name cannot be one; a table or a config cannot be used.
    """
    entries = sorted(path for path in folder.iterdir() if not path.name.startswith(".")) if folder.is_dir() else []
    tables = {path.stem: path for path in entries if path.suffix == ".parquet" or path.is_dir()}
    configs = {
        path.stem: path for path in entries if path.suffix == ".yaml" and path.name not in (DECLARED, PREDICATES)
    }
    shown = for_terminal(folder)
    if unread := [path.name for path in entries if path.suffix.lower() in _UNREAD]:
        raise BadInput(
            f"{shown}: expected NAME.yaml or NAME.parquet, got {for_terminal(some(unread))}, which would not be read. "
            "Rename a config, write a table as Parquet, or move the file elsewhere."
        )
    if not tables and not configs:
        raise BadInput(
            f"{shown}: expected a folder with tasks, got none. Put ACES configs (NAME.yaml) or MEDS label tables "
            "(NAME.parquet) into it; docs/events.md shows both."
        )
    if twice := sorted(tables.keys() & configs.keys()):
        raise BadInput(f"{shown}: expected each task once, got {some(twice)} as a table and as a config. Remove one.")
    for name in (*tables, *configs):
        if not _NAME.fullmatch(name) or len(name) > LONGEST_NAME:
            raise BadInput(
                f"{shown}: {for_terminal(name)} is no name of a task. Use letters, digits, _ and -, at most "
                f"{LONGEST_NAME}; rename the file."
            )
    labels = [_from_table(name, path, events) for name, path in tables.items()]
    if configs:
        shared = folder / PREDICATES
        answers = aces_tasks.extract(configs, shared if shared.is_file() else None, events, tell)
        for name, (rows, before) in answers.items():
            labels.append(Labels(name, rows, {"kind": "binary"}, before))
    return sorted(labels, key=lambda task: task.name)


def _from_table(name: str, path: Path, events: Events) -> Labels:
    """The labels of a label table: one file, or all files of a folder."""
    files = sorted(path.rglob("*.parquet")) if path.is_dir() else [path]
    if not files:
        raise BadInput(f"{for_terminal(path)}: expected the shards of a label table in it, got none. {_SCHEMA}")
    parts = [_frame(file, events.zoned) for file in files]
    frame = pd.concat(parts, ignore_index=True) if len(parts) > 1 else parts[0]
    columns = [column for column in VALUES if column in frame and frame[column].notna().any()]
    if len(columns) > 1:
        raise BadInput(
            f"{for_terminal(path)}: expected labels in one column, got values in {some(columns)}. Write a table for "
            "each task."
        )
    column = columns[0] if columns else VALUES[0]
    if column not in frame:
        frame[column] = pd.Series(None, frame.index, dtype=object)
    whole = frame[["subject", "moment", column]].dropna()
    rows = pd.DataFrame(
        {
            "subject": whole["subject"].to_numpy(np.int64),
            "moment": whole["moment"].to_numpy(np.int64),
            "label": whole[column].to_numpy(object if column == VALUES[3] else np.float64),
        }
    )
    return Labels(name, rows, {"kind": _kind(column, rows["label"])}, without=len(frame) - len(rows))


def _kind(column: str, label: pd.Series) -> str:
    """The kind of task that labels in a column of the label schema are of."""
    distinct = label.unique()
    if column == "boolean_value" or (column != "float_value" and len(distinct) <= 2 and _zero_one(distinct)):
        return "binary"
    if column == "categorical_value":
        return "binary" if len(distinct) == 2 else "multiclass"
    few = len(distinct) <= MOST_CLASSES and (distinct >= 0).all()
    return "multiclass" if column == "integer_value" and few else "regression"


def _zero_one(distinct: Any) -> bool:
    return all(value in (0, 1) for value in distinct.tolist())


def _frame(path: Path, zoned: bool) -> pd.DataFrame:
    """A file of a label table: subject, moment, and the value columns it has."""
    shown = for_terminal(path)
    try:
        with open_regular(path) as file:
            table = pq.read_table(file)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise BadInput(f"{shown}: expected a label table in Parquet, it cannot be read. Write it again.") from error
    fits: Mapping[str, Callable[[pa.DataType], bool]] = {
        "subject_id": pa.types.is_integer,
        "prediction_time": pa.types.is_timestamp,
        "boolean_value": pa.types.is_boolean,
        "integer_value": pa.types.is_integer,
        "float_value": lambda kind: pa.types.is_floating(kind) or pa.types.is_integer(kind),
        "categorical_value": lambda kind: pa.types.is_string(kind) or pa.types.is_large_string(kind),
    }
    columns: dict[str, Any] = {}
    for name, fitting in fits.items():
        if name not in table.column_names:
            if name in VALUES:
                continue
            raise BadInput(f"{shown}: expected the column {name}, got {some(table.column_names)}. {_SCHEMA}")
        array = table.column(name)
        array = array.cast(array.type.value_type) if pa.types.is_dictionary(array.type) else array
        if not fitting(array.type) and not pa.types.is_null(array.type):
            raise BadInput(f"{shown}: column {name} is of the type {array.type}. {_SCHEMA} Convert it.")
        columns[name] = array
    if not any(name in columns for name in VALUES):
        raise BadInput(f"{shown}: expected a column with labels, got {some(table.column_names)}. {_SCHEMA}")
    times = columns.pop("prediction_time")
    if pa.types.is_timestamp(times.type) and (times.type.tz is not None) != zoned:
        raise BadInput(
            f"{shown}: expected prediction times {'with' if zoned else 'without'} a time zone, as the events have "
            "them. Convert them."
        )
    unit = pa.timestamp("us", times.type.tz) if pa.types.is_timestamp(times.type) else times.type
    # Through whole numbers: pandas has no time before 1677 in nanoseconds, and ages over 89 may lie there.
    moment = times.cast(unit, safe=False)
    columns["moment"] = moment.cast(pa.int64())
    columns["subject"] = columns.pop("subject_id").cast(pa.int64())
    return pd.DataFrame({name: array.to_pandas(types_mapper=_nullable) for name, array in columns.items()})


def _nullable(kind: pa.DataType) -> Any:
    """pandas' types that hold a null beside whole numbers and booleans; None: its usual one."""
    if pa.types.is_boolean(kind):
        return pd.BooleanDtype()
    return pd.Int64Dtype() if pa.types.is_integer(kind) else None
