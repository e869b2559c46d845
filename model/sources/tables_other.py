"""Tables that are no text, in pieces: spreadsheets, the files of Stata, SAS, SPSS and Arrow, answers of databases."""

from __future__ import annotations

import itertools
import os
import warnings
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from model.cohorts.column_names import named_id
from model.sources.tables_pieces import (
    Reading,
    check_unpacked,
    column_names,
    frame_piece,
    lines_above,
    plain_array,
    rows_of_a_piece,
    write_pieces,
)
from tim_search.gates.files import open_regular
from tim_search.gates.texts import for_terminal
from tim_search.gates.urls import redacted
from tim_search.types import BadInput, some

#: How the files of these programs end.
STATA, SPSS, SAS = (".dta",), (".sav", ".zsav", ".por"), (".sas7bdat", ".xpt")
#: Cells that a sheet may have at most rows of, above its table, that hold no more than one.
_TITLE_ROWS = 20
_ROWS = 20_000
#: The variable of the environment that names the database of `--sql`.
DATABASE = "TIM_SEARCH_DATABASE_URL"


class Query(NamedTuple):
    """A table that a database answers with.

    Attributes:
        sql: the question.
        url: of the database, as SQLAlchemy writes it, with its password; never shown.
    """

    sql: str
    url: str

    @property
    def name(self) -> str:
        return "query"

    @classmethod
    def from_environment(cls, sql: str) -> Query:
        """A query of the database that the environment names; raises BadInput where it names none."""
        url = os.environ.get(DATABASE, "")
        if not url:
            raise BadInput(
                f"--sql: expected the URL of a database in {DATABASE}, got none. Set it, e.g. "
                "export TIM_SEARCH_DATABASE_URL=postgresql+psycopg://host/database"
            )
        return cls(sql, url)


def write_frame(frame: pd.DataFrame, name: str, form: str, target: Path, scratch: Path) -> Reading:
    """Write a frame as Parquet; an index with a name is a column that somebody set aside, most often the id."""
    frame = frame.reset_index(drop=frame.index.names == [None], allow_duplicates=True)
    frame.columns = pd.Index(column_names(frame.columns, name))
    rows = write_pieces([frame_piece(frame, _ids(frame.columns))], target, scratch)
    return Reading(name, form, rows, len(frame.columns))


def write_statistics(path: Path, target: Path, scratch: Path) -> Reading:
    """Write a file of Stata, SAS or SPSS as Parquet; codes with labels become the labels."""
    ending, shown = path.suffix.lower(), for_terminal(path)
    form = "Stata" if ending in STATA else "SAS" if ending in SAS else "SPSS"
    names: list[str] = []
    pieces = _statistics(path, ending)

    def arrow() -> Iterator[pa.Table]:
        for frame in pieces:
            frame.columns = pd.Index(column_names(frame.columns, shown))
            names[:] = list(frame.columns)
            yield frame_piece(frame, _ids(names))

    with warnings.catch_warnings():
        # Of codes with labels for some: `write_pieces` finds the type that holds all.
        warnings.simplefilter("ignore", pd.errors.CategoricalConversionWarning)
        rows = write_pieces(arrow(), target, scratch)
    return Reading(path.name, form, rows, len(names))


def _statistics(path: Path, ending: str) -> Iterator[pd.DataFrame]:
    if ending in STATA:
        try:
            with pd.read_stata(path, iterator=True) as reader:
                reader.value_labels()
            options: dict[str, Any] = {}
            with pd.read_stata(path, chunksize=1) as first:
                next(first, None)
        except ValueError:  # labels that stand twice: the codes tell the values apart
            options = {"convert_categoricals": False}
        with pd.read_stata(path, chunksize=_ROWS, **options) as pieces:
            yield from pieces
    elif ending == ".xpt":
        with pd.read_sas(path, format="xport", encoding="utf-8", chunksize=_ROWS) as transport:
            yield from transport
    elif ending in SAS:
        with pd.read_sas(path, format="sas7bdat", encoding="infer", chunksize=_ROWS) as native:
            yield from native
    else:
        pyreadstat = _needed("pyreadstat", "pyreadstat", "tables", "SPSS")
        reader = pyreadstat.read_por if ending == ".por" else pyreadstat.read_sav
        pieces = pyreadstat.read_file_in_chunks(reader, str(path), chunksize=_ROWS, apply_value_formats=True)
        try:
            yield from (frame for frame, _ in pieces)
        except pyreadstat.ReadstatError as error:
            raise ValueError(str(error)) from error


def write_excel(path: Path, target: Path, scratch: Path, sheet: str = "") -> Reading:
    """Write a sheet of a workbook as Parquet: the one that is named, else the first with a table.

    Raises:
        BadInput: there is no such sheet, or none with a table.
    """
    openpyxl = _needed("openpyxl", "openpyxl", "tables", "Excel")
    with open_regular(path) as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of styles and drawings
        with zipfile.ZipFile(file) as archive:
            check_unpacked(path, sum(entry.file_size for entry in archive.infolist()))
        book = openpyxl.load_workbook(file, read_only=True, data_only=True)
        names = book.sheetnames
        if sheet and sheet not in names:
            raise BadInput(f"--sheet: expected one of {for_terminal(some(names))}, got {for_terminal(sheet)}.")
        for name in [sheet] if sheet else names:
            rows = iter(book[name].iter_rows(values_only=True) if hasattr(book[name], "iter_rows") else ())
            header, above = _header(rows)
            if header:
                columns = column_names(header, for_terminal(path))
                right: list[int] = []
                count = write_pieces(_sheet_pieces(rows, columns, right), target, scratch)
                others = [other for other in names if other != name]
                details = [f"sheet {name}"]
                details += [f"other sheets, not read: {some(others)} (--sheet NAME)"] if others else []
                details += [lines_above(above)] if above else []
                details += (
                    [f"cells right of the last column with a name, left out: in {sum(right):,} rows"] if right else []
                )
                return Reading(path.name, "Excel", count, len(columns), tuple(details))
    raise BadInput(f"{for_terminal(path)}: expected a sheet with a table, got {some(names)} without one.")


def _header(rows: Iterator[tuple[Any, ...]]) -> tuple[list[Any], list[str]]:
    """The first row of a sheet that holds more than one cell, and the cells above it; no header where none does."""
    above: list[str] = []
    for row in itertools.islice(rows, _TITLE_ROWS):
        cells = [cell for cell in row if cell is not None]
        if len(cells) > 1:
            last = max(place for place, cell in enumerate(row) if cell is not None)
            return list(row[: last + 1]), above
        above += [str(cell) for cell in cells]
    return [], above


def _sheet_pieces(rows: Iterable[tuple[Any, ...]], columns: list[str], right: list[int]) -> Iterator[pa.Table]:
    """Rows of a sheet in pieces, without those that hold nothing; `right` gets a 1 for a row with cells beyond."""
    width, ids = len(columns), _ids(columns)

    def within() -> Iterator[tuple[Any, ...]]:
        for row in rows:
            if any(cell is not None for cell in row[width:]):
                right.append(1)
            if any(cell is not None for cell in row[:width]):
                yield tuple(row[:width]) + (None,) * (width - len(row))

    full = within()
    yield pa.table({name: pa.nulls(0, pa.null()) for name in columns})
    while piece := list(itertools.islice(full, rows_of_a_piece(width))):
        yield frame_piece(pd.DataFrame(piece, columns=columns, dtype=object), ids)


def write_arrow(path: Path, target: Path, scratch: Path) -> Reading:
    """Write Parquet, a folder of its shards, or Feather as Parquet of plain columns.

    Raises:
        BadInput: shards have other columns than the first.
    """
    shards = shards_of(path) if path.is_dir() else [path]
    first: list[str] = []

    def arrow() -> Iterator[pa.Table]:
        for shard in shards:
            open_regular(shard).close()
            for piece in _arrow_pieces(shard):
                names = column_names(piece.schema.names, for_terminal(shard))
                if first and set(names) != set(first):
                    odd = some(sorted(set(names) ^ set(first)))
                    first_name = for_terminal(shards[0].name)
                    raise BadInput(f"{for_terminal(shard)}: expected the columns of {first_name}, differing in {odd}.")
                first[:] = first or names
                ids = _ids(names)
                yield pa.table({n: plain_array(piece.column(k), whole=n in ids) for k, n in enumerate(names)})

    rows = write_pieces(arrow(), target, scratch)
    form = "Feather" if shards[0].suffix in (".feather", ".arrow") else "Parquet"
    return Reading(path.name, form, rows, len(first), (f"{len(shards)} files",) if path.is_dir() else ())


def shards_of(folder: Path) -> list[Path]:
    """The files of a table that is a folder, sorted; raises BadInput where it holds none."""
    shards = (file for file in folder.rglob("*") if file.suffix in (".parquet", ".pq", ".feather", ".arrow"))
    shown = sorted(file for file in shards if not file.name.startswith((".", "_")))
    if not shown:
        raise BadInput(f"{for_terminal(folder)}: expected a table, got a folder without Parquet files. Name a file.")
    if named := sorted({part for file in shown for part in file.relative_to(folder).parent.parts if "=" in part}):
        raise BadInput(
            f"{for_terminal(folder)}: expected files with all columns, got folders whose names are values of one "
            f"({for_terminal(some(named, 3))}). Write the table as one Parquet file, that column too."
        )
    return shown


def _arrow_pieces(path: Path) -> Iterator[pa.Table]:
    """The batches of Parquet or Feather, an empty one first, with an index of pandas that has a name as columns."""
    with open_regular(path) as file:
        start = file.read(4)
    if start == b"PAR1":
        with pq.ParquetFile(path) as parquet:
            schema = parquet.schema_arrow
            column_names(schema.names, for_terminal(path))
            batches = parquet.iter_batches(rows_of_a_piece(len(schema.names)))
            yield from _with_index(schema, batches)
    else:
        with pa.memory_map(str(path)) as source:
            arrow = pa.ipc.open_file(source)
            yield from _with_index(arrow.schema, map(_sound, map(arrow.get_batch, range(arrow.num_record_batches))))


def _with_index(schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    index = (schema.pandas_metadata or {}).get("index_columns", [])
    stored = [name for name in index if isinstance(name, str) and name in schema.names]
    counted = [entry for entry in index if isinstance(entry, dict) and entry.get("name")]
    columns = [name for name in schema.names if name not in stored]
    columns = [*(name for name in stored if not name.startswith("__index_level_")), *columns]
    rows = 0
    for piece in itertools.chain([schema.empty_table()], map(_table, batches)):
        chosen = piece.select(columns)
        for entry in counted:
            numbers = entry["start"] + entry["step"] * np.arange(rows, rows + len(piece), dtype=np.int64)
            chosen = chosen.add_column(0, str(entry["name"]), pa.array(numbers))
        rows += len(piece)
        yield chosen


def _sound(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The batch; raises ArrowException where it is torn, which otherwise ends the process."""
    batch.validate(full=True)
    return batch


def _table(batch: pa.RecordBatch) -> pa.Table:
    return pa.Table.from_batches([batch])


def write_answer(query: Query, target: Path, scratch: Path) -> Reading:
    """Write what a database answers as Parquet, a few thousand rows at a time.

    Raises:
        BadInput: SQLAlchemy or the driver is not installed, or the database refuses.
    """
    sqlalchemy = _needed("sqlalchemy", "sqlalchemy", "sql", "--sql")
    names: list[str] = []

    def arrow(answer: Any) -> Iterator[pa.Table]:
        names[:] = column_names(answer.keys(), "--sql")
        yield pa.table({name: pa.nulls(0, pa.null()) for name in names})
        while rows := answer.fetchmany(min(_ROWS, rows_of_a_piece(len(names)))):
            yield frame_piece(pd.DataFrame([tuple(row) for row in rows], columns=names, dtype=object), _ids(names))

    try:
        engine = sqlalchemy.create_engine(query.url)
        try:
            with engine.connect() as connection:
                # Rows come as they are asked for, where the driver can do that.
                answer = connection.execution_options(stream_results=True).execute(sqlalchemy.text(query.sql))
                if not answer.returns_rows:
                    raise BadInput("--sql: expected a query that gives rows, got one without. Write a SELECT.")
                rows = write_pieces(arrow(answer), target, scratch)
        finally:
            engine.dispose()
    except ModuleNotFoundError as error:
        raise BadInput(
            f"--sql: the driver {error.name} of the database is not installed. For PostgreSQL: "
            'pip install "tim-search[sql]", and a URL that begins with postgresql+psycopg://.'
        ) from error
    except sqlalchemy.exc.SQLAlchemyError as error:
        reason = redacted(str(getattr(error, "orig", None) or error)).strip().partition("\n")[0]
        fix = f"Mend the query or {DATABASE}."
        raise BadInput(f"--sql: the database refused: {for_terminal(reason, most=200)}. {fix}") from None
    return Reading("query", "SQL", rows, len(names), (f"database {for_terminal(query.url.partition(':')[0])}",))


def _ids(names: Iterable[str]) -> list[str]:
    return [name for name in names if named_id(name)]


def _needed(module: str, package: str, extra: str, what: str) -> Any:
    """A library of an extra; raises BadInput with the command that installs it."""
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError:
        raise BadInput(
            f'{what}: expected the library {package}, it is not installed. pip install "tim-search[{extra}]"'
        ) from None
