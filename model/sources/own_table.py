"""A table of one's own: read from CSV or Parquet, and the cohort folder that is begun from it."""

from __future__ import annotations

import lzma
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from model.cohorts import folder as cohort_folder
from model.cohorts.cohort import text
from model.cohorts.folder_reader import DESCRIPTION
from model.cohorts.folder_writer import check_free
from model.sources.own_table_guess import Guess, guess_columns, holds_texts, is_nested, named_id
from model.sources.own_table_text import describe
from tim_search.gates.files import checked_path, new_folder, open_regular
from tim_search.types import BadInput, Finding, some

#: Files that are no table of text.
EXCEL = (".xlsx", ".xls", ".xlsm", ".ods")
#: What a table that is torn, or no table at all, raises: pandas, Arrow and the unpackers each have errors of their own.
UNREADABLE = (
    ValueError,
    OSError,
    EOFError,
    MemoryError,
    OverflowError,
    IndexError,
    ImportError,  # a packing whose library is not installed
    pa.ArrowException,
    zlib.error,
    lzma.LZMAError,
    zipfile.BadZipFile,
    tarfile.TarError,
)


def read(path: Path) -> pd.DataFrame:
    """A CSV or Parquet table, values as they are written: a text "None" is a text, an id 007 keeps its zeros.

    Raises:
        BadInput: it is no such table, or has no rows or a single column.
    """
    _check_file(path)
    try:
        names = _names(path)
        if twice := sorted(name for name, count in Counter(names).items() if count > 1):
            raise BadInput(f"{path}: the columns {some(twice)} stand twice. Rename them.")
        table = pd.read_parquet(path) if path.suffix == ".parquet" else _read_csv(path)
    except UNREADABLE as error:
        first = (str(error) or type(error).__name__).splitlines()[0]
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


def _check_file(path: Path) -> None:
    """Raise BadInput where there is no file, or one that is no table of text."""
    if not checked_path(path).exists() or path.is_dir():
        given = "got a folder" if path.is_dir() else "there is none"
        raise BadInput(f"{path}: expected a CSV or Parquet file, {given}. Name the file of your table.")
    if path.suffix.lower() in EXCEL:
        raise BadInput(f"{path}: expected a table as CSV or Parquet, got a spreadsheet. Save its sheet as CSV.")
    open_regular(path).close()


def _names(path: Path) -> list[str]:
    """Names of the columns as they are written; pandas gives a second one of a name another name, or none at all."""
    if path.suffix == ".parquet":
        return list(pq.read_schema(path).names)
    header = pd.read_csv(path, header=None, nrows=1, dtype=str, keep_default_na=False).iloc[0]
    return [str(name) for name in header if name]


def _read_csv(path: Path) -> pd.DataFrame:
    """The table with numbers, and with texts as they are written.

    pandas takes "None", "NA" and others for missing. That is right among numbers; among texts they are levels, so
    these columns are read once more, and so are ids, whose leading zeros it drops.
    """
    table = pd.read_csv(path, low_memory=False)
    again = [
        column
        for column, values in table.items()
        if (holds_texts(values) and not all(isinstance(value, bool) for value in values.dropna()))
        or (named_id(str(column)) and pd.api.types.is_numeric_dtype(values))
    ]
    if not again:
        return table
    written = pd.read_csv(path, usecols=again, dtype=str, keep_default_na=False, na_values=[""])
    for column in again:
        if holds_texts(table[column]) or written[column].str.match(r"0\d").any():
            table[column] = written[column]
    return table


def init(path: Path, out: Path) -> Guess:
    """Write a folder with the table as samples.parquet and a commented cohort.yaml; returns what was guessed.

    Raises:
        BadInput: the table cannot be read, or something already stands at `out`.
    """
    _check_file(path)
    check_free(out)
    table = read(path)
    guess = guess_columns(table)
    if guess.numbered:
        table.insert(0, guess.sample_id, np.arange(len(table)))
    for column in table.columns:
        if pd.api.types.is_object_dtype(table[column]) and not is_nested(table[column]):
            table[column] = table[column].map(_as_text)
    name = path.name.split(".")[0] or "cohort"
    with new_folder(out) as folder:
        try:
            table.to_parquet(folder / "samples.parquet", index=False)
        except (pa.ArrowException, ValueError, TypeError) as error:
            first = str(error).splitlines()[0]
            raise BadInput(f"{path}: expected columns of one kind of values each: {first}. Write it again.") from error
        description = folder / DESCRIPTION
        description.write_text(describe(table, guess, name), encoding="utf-8")
        guess = _without_poor(guess, cohort_folder.read(folder)[1])
        description.write_text(describe(table, guess, name), encoding="utf-8")
    return guess


def _as_text(value: Any) -> str | None:
    return None if value is None or value != value else text(value)


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
