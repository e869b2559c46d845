"""A table that comes in pieces, written as one Parquet file with one type a column, in the memory of a piece."""

from __future__ import annotations

import datetime
import decimal
import lzma
import math
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from model.cohorts.cohort import text
from tim_search.gates.texts import for_terminal
from tim_search.types import BadInput, some

#: What a table that is torn, or no table at all, raises: each reader has errors of its own.
UNREADABLE = (
    ValueError, OSError, EOFError, MemoryError, OverflowError, IndexError, KeyError, TypeError, AttributeError,
    AssertionError, RuntimeError, pa.ArrowException, zlib.error, lzma.LZMAError, zipfile.BadZipFile,
    tarfile.TarError,
)  # fmt: skip
#: Bytes that a packed file may have unpacked; beyond them, so many times its own.
UNPACKED, TIMES = 2**30, 200
#: Cells of a piece.
PIECE = 2_000_000
#: Whole numbers from here on are not exact as floating point.
_EXACT = 2**53
_FRACTIONS = (float, np.floating, decimal.Decimal)
_NESTED = (bytes, list, tuple, dict, set, np.ndarray)


@dataclass(frozen=True)
class Reading:
    """What a table turned out to be.

    Attributes:
        source: its name, without secrets.
        form: "CSV", "Excel", "Parquet", ...
        rows, columns: how many.
        details: how it is written: delimiter, encoding, sheet, ... in words.
    """

    source: str
    form: str
    rows: int
    columns: int
    details: tuple[str, ...] = ()

    @property
    def line(self) -> str:
        """All of it in one line."""
        size = f"{self.form}, {self.rows:,} rows, {self.columns:,} columns"
        return for_terminal("; ".join((f"{self.source}: {size}", *self.details)))


def column_names(names: Iterable[Any], shown: str) -> list[str]:
    """The names of columns as texts, those without one numbered; raises BadInput where one stands twice."""
    texts = [
        f"Unnamed: {place}" if name is None or name != name or str(name) == "" else str(name)
        for place, name in enumerate(names)
    ]
    if twice := sorted(name for name, count in Counter(texts).items() if count > 1):
        raise BadInput(f"{shown}: the columns {for_terminal(some(twice))} stand twice. Rename them.")
    return texts


def check_unpacked(packed: Path, n_bytes: int) -> None:
    """Raise BadInput where a packed file would fill the disk or the memory with what is no table."""
    if n_bytes > max(UNPACKED, TIMES * packed.stat().st_size):
        size = f"{n_bytes >> 20:,} MB or more, over {TIMES} times its size"
        raise BadInput(f"{for_terminal(packed)}: holds {size}. If it is a table, write it as Parquet.")


def lines_above(lines: Sequence[str]) -> str:
    """A detail that says what stood above the header and was left out."""
    return f"lines above the header, left out: {some([repr(line[:60]) for line in lines], 3)}"


def rows_of_a_piece(n_columns: int) -> int:
    """How many rows of so many columns are read at a time."""
    return max(1000, PIECE // max(1, n_columns))


def frame_piece(frame: pd.DataFrame, ids: Sequence[str] = ()) -> pa.Table:
    """A frame as a piece; `ids` are columns that may be ids, whose whole numbers must not be floating point."""
    return pa.table({
        name: plain_array(_of_series(frame.iloc[:, place]), whole=name in ids)
        for place, name in enumerate(map(str, frame.columns))
    })  # fmt: skip


def _of_series(values: pd.Series[Any]) -> pa.Array:
    """A column of a frame, also one of Python objects."""
    if not pd.api.types.is_object_dtype(values):
        try:
            array = pa.array(values, from_pandas=True)
        except pa.ArrowException:  # labels for some of the codes only, complex numbers
            array = None
        if array is not None and not isinstance(array.type, pa.BaseExtensionType):
            return array
        values = values.astype(object)
    items = [None if _gap(value) else value for value in values.tolist()]
    kinds = {type(value) for value in items if value is not None}
    if all(issubclass(kind, int | np.integer) and kind is not bool for kind in kinds):
        return pa.array(items, pa.int64()) if _fit(items) else _texts(items)
    if all(issubclass(kind, int | float | np.number | decimal.Decimal) and kind is not bool for kind in kinds):
        whole = all(
            value is None or (math.isfinite(value) and not isinstance(value, float) and value == int(value))
            for value in items
        )
        if whole:
            return _of_series(pd.Series([None if v is None else int(v) for v in items], dtype=object))
        return pa.array([None if value is None else float(value) for value in items], pa.float64())
    one_kind = len(kinds) == 1 or all(issubclass(kind, datetime.date) for kind in kinds)
    if one_kind or any(issubclass(kind, _NESTED) for kind in kinds):
        try:
            return pa.array(items, from_pandas=True)
        except (pa.ArrowException, ValueError, TypeError, OverflowError):
            pass
    return _texts(items)


def _gap(value: Any) -> bool:
    return value is None or value is pd.NA or value is pd.NaT or (isinstance(value, _FRACTIONS) and value != value)


def _fit(items: Sequence[Any]) -> bool:
    return all(value is None or -(2**63) <= value < 2**63 for value in items)


def _texts(items: Iterable[Any]) -> pa.Array:
    return pa.array([None if value is None else text(value) for value in items], pa.string())


def plain_array(array: pa.Array | pa.ChunkedArray, *, whole: bool = False) -> pa.Array | pa.ChunkedArray:
    """A column of one of few types: decimals become numbers, blank texts gaps, dates timestamps, codes their texts.

    Args:
        whole: floating point numbers that are all whole become whole numbers.
    """
    kind = array.type
    if pa.types.is_dictionary(kind):
        return plain_array(array.cast(kind.value_type), whole=whole)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        array = array.cast(pa.string())
        return pc.if_else(pc.equal(pc.utf8_trim_whitespace(array), ""), pa.scalar(None, pa.string()), array)
    if pa.types.is_decimal(kind) or pa.types.is_uint64(kind):
        return _whole(array, pa.string() if pa.types.is_uint64(kind) or kind.scale <= 0 else pa.float64())
    if pa.types.is_floating(kind):
        array = array.cast(pa.float32()) if pa.types.is_float16(kind) else array
        biggest = pc.max(pc.abs(array)).as_py() if whole else None
        return _whole(pc.if_else(pc.is_nan(array), None, array), array.type) if biggest and biggest < _EXACT else array
    if pa.types.is_date(kind):
        return array.cast(pa.timestamp("us"))
    if pa.types.is_time(kind):
        return array.cast(pa.string())
    return array.cast(pa.float64()) if pa.types.is_null(kind) else array


def _whole(array: pa.Array, otherwise: pa.DataType) -> pa.Array:
    """Exact whole numbers as int64, and where some are none, or too large, as another type."""
    try:
        return array.cast(pa.int64())
    except pa.ArrowException:
        # By way of texts: the direct cast of decimals is off by one in the last place.
        return array.cast(pa.string()).cast(otherwise) if pa.types.is_decimal(array.type) else array.cast(otherwise)


def write_pieces(pieces: Iterable[pa.Table], target: Path, scratch: Path) -> int:
    """Write pieces of a table as one Parquet file, each column of the type that holds all of its pieces; returns rows.

    A column that later pieces alone have is a gap before. The pieces wait in `scratch` until all types are known.
    """
    types: dict[str, pa.DataType | None] = {}
    files, rows = [], 0
    for number, piece in enumerate(pieces):
        for field in piece.schema:
            empty = piece.column(field.name).null_count == len(piece)
            types[field.name] = _joined(types.get(field.name), None if empty else field.type)
        files.append(scratch / f"{number}.arrow")
        with pa.OSFile(str(files[-1]), "wb") as sink, pa.ipc.new_file(sink, piece.schema) as writer:
            writer.write_table(piece)
        rows += len(piece)
    schema = pa.schema([(name, kind or pa.float64()) for name, kind in types.items()])
    with pq.ParquetWriter(target, schema) as parquet:
        for file in files:
            with pa.memory_map(str(file)) as source:
                piece = pa.ipc.open_file(source).read_all()
            parquet.write_table(pa.table([_as(piece, field) for field in schema], schema=schema))
            file.unlink()
    return rows


def _joined(first: pa.DataType | None, second: pa.DataType | None) -> pa.DataType | None:
    """The type for the values of two pieces; None where neither has any."""
    if first is None or second is None:
        return first or second
    if first == second:
        return first
    if all(pa.types.is_integer(kind) or pa.types.is_floating(kind) for kind in (first, second)):
        return pa.int64() if pa.types.is_integer(first) and pa.types.is_integer(second) else pa.float64()
    return pa.string()


def _as(piece: pa.Table, field: pa.Field) -> pa.ChunkedArray:
    if field.name not in piece.schema.names:
        return pa.chunked_array([pa.nulls(len(piece), field.type)])
    column = piece.column(field.name)
    if column.null_count == len(column):
        return pa.chunked_array([pa.nulls(len(piece), field.type)])
    if pa.types.is_string(field.type) and not pa.types.is_string(column.type):
        return pa.chunked_array([_texts(column.to_pylist())])
    return column.cast(field.type)
