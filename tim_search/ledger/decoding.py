"""From the bytes of a Parquet file to its rows and runs. What does not fit in any respect is refused, never repaired.

A ledger may have been received: nothing that a file says of itself is believed before it was checked.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tim_search.ledger.schema import CODED, FOOTER, RUN_COLUMNS, SCHEMAS, WORD, FileRows, Unfit, coded, codes, runs_of
from tim_search.types.columns import Subsets

_MOST_ROWS = 2**26  # of one file; the product's own have a few million at most
_LATEST = 253_402_300_800_000_000  # microseconds of 1970 to the year 9999, the last one that Python's times have
_SEPARATOR = "\x1f"  # cannot occur in a task's name that was read from text
_WORDS: Mapping[str, Sequence[str]] = {"status": ("ok", "failed"), "part": ("validation", "test")}
_MAY_BE_MISSING = ("score", "replicates", "x", "y", "n")


def read(kind: str, source: Any, columns: Collection[str] | None) -> FileRows:
    """Rows of one Parquet file; `columns` None takes every column.

    Raises:
        Unfit: it is no file of this table, or no Parquet that can be read.
        OSError: the place it lies in fails.
    """
    try:
        return _read(kind, source, columns)
    except OSError as error:
        if error.errno is not None:
            raise
        raise Unfit(f"it cannot be read as Parquet ({_first_line(error)})") from error
    except (pa.ArrowException, MemoryError, ValueError, TypeError, KeyError, IndexError, OverflowError) as error:
        # Names that are no UTF-8 and sizes that no memory has come up as Python's own errors.
        raise Unfit(f"it cannot be read as Parquet ({_first_line(error)})") from error


def verify(kind: str, source: Any) -> None:
    """Read every column of a file, one at a time so that memory has a bound; raises as `read` does."""
    for name in SCHEMAS[kind].names:
        source.seek(0)
        read(kind, source, (name,))


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _read(kind: str, source: Any, columns: Collection[str] | None) -> FileRows:
    schema, of_runs = SCHEMAS[kind], RUN_COLUMNS[kind]
    metadata = pq.read_metadata(source)
    if missing := sorted(set(schema.names) - set(metadata.schema.to_arrow_schema().names)):
        raise Unfit(f"it lacks the columns {', '.join(missing)}")
    if not 0 < metadata.num_rows <= _MOST_ROWS:
        raise Unfit(f"it has {metadata.num_rows:,} rows, expected 1 to {_MOST_ROWS:,}")
    source.seek(0)
    words = [name for name in CODED if name in schema.names]
    file = pq.ParquetFile(source, metadata=metadata, page_checksum_verification=True, read_dictionary=words)
    own = [name for name in schema.names if name not in (*of_runs, "subset") and (columns is None or name in columns)]

    def load(names: Sequence[str]) -> Any:
        if not names:
            return pa.table({"row": np.zeros(metadata.num_rows, np.int8)})
        # The types in memory: text with few different values as a dictionary.
        types = pa.schema([(name, WORD if name in CODED else schema.field(name).type) for name in names])
        table = file.read(columns=names).cast(types)
        table.validate(full=True)
        _check_columns(table)
        return table

    footer = (metadata.metadata or {}).get(FOOTER)
    if footer is None:
        rows = FileRows(load(own), *_runs_from_columns(kind, load([*of_runs, "subset"])))
    else:
        rows = FileRows(load(own), *_runs_from_footer(kind, footer))
    if pc.min(rows.runs["rows"]).as_py() < 1 or pc.sum(rows.runs["rows"]).as_py() != metadata.num_rows:
        raise Unfit("its footer does not fit its rows")
    _check_tasks(rows, [name for name in ("task", "other") if name in own])
    return rows


def _runs_from_footer(kind: str, footer: bytes) -> tuple[Any, tuple[str, ...]]:
    """(runs, names of the bits) as a footer tells them."""
    schema = SCHEMAS[kind]
    try:
        runs = pa.ipc.open_stream(base64.b64decode(footer, validate=True)).read_all()
        names = json.loads(runs.schema.metadata[b"tasks"])
        types = [("rows", pa.int32()), ("mask", pa.binary(-(-len(names) // 8)))]
        types += [(name, schema.field(name).type) for name in RUN_COLUMNS[kind]]
        if sorted(runs.column_names) != sorted(name for name, _ in types):
            raise ValueError("other columns")
        runs = runs.select([name for name, _ in types]).cast(pa.schema(types))
        runs.validate(full=True)
    except (pa.ArrowException, ValueError, KeyError, TypeError, OSError, RecursionError) as error:
        raise Unfit(f"its footer cannot be read ({type(error).__name__})") from error
    sound = isinstance(names, list) and all(isinstance(name, str) and name for name in names)
    if not sound or names != sorted(set(names)) or not runs.num_rows:
        raise Unfit("its footer names no tasks, or not in their order")
    _check_columns(runs)
    masks = np.frombuffer(b"".join(runs["mask"].to_pylist()), np.uint8).reshape(runs.num_rows, -1)
    beyond = np.packbits(np.arange(masks.shape[1] * 8) >= len(names), bitorder="little")
    if (masks & beyond).any() or not masks.any(axis=1).all():
        raise Unfit("its footer holds a subset without tasks, or with tasks that have no name")
    return runs, tuple(names)


def _runs_from_columns(kind: str, table: Any) -> tuple[Any, tuple[str, ...]]:
    """(runs, names of the bits) of a file that has no footer."""
    lists = table["subset"]
    if lists.null_count or pc.min(pc.list_value_length(lists)).as_py() < 1:
        raise Unfit("it holds a subset without tasks")
    chunks = [pc.binary_join(chunk, _SEPARATOR).dictionary_encode() for chunk in lists.chunks]
    joined = pa.chunked_array(chunks, WORD).unify_dictionaries()
    if joined.null_count:
        raise Unfit("it holds a task without a name")
    columns = {name: table[name] for name in RUN_COLUMNS[kind]}
    keys = [codes(joined), *(codes(coded(column)) for column in columns.values())]
    starts = np.flatnonzero(np.logical_or.reduce([np.diff(key, prepend=key[0] - 1) != 0 for key in keys]))
    subsets = Subsets.of(tuple(word.split(_SEPARATOR)) for word in joined.chunk(0).dictionary.to_pylist())
    of_runs = {name: column.take(pa.array(starts)).combine_chunks() for name, column in columns.items()}
    return runs_of(kind, np.diff(starts, append=table.num_rows), subsets.take(keys[0][starts]), of_runs)[1:]


def _check_columns(table: Any) -> None:
    """Raise Unfit for a value that is missing where none may be, and for words that mean nothing."""
    for name in table.column_names:
        column = table[name]
        if column.null_count and name not in _MAY_BE_MISSING:
            raise Unfit(f"its column {name} has rows without a value")
        if name in _WORDS:
            words = pc.unique(column).to_pylist()
            if other := sorted(set(words).difference(_WORDS[name])):
                raise Unfit(f"its column {name} holds {other[0]!r}, expected {' or '.join(_WORDS[name])}")
        if name == "created":
            times = column.cast(pa.int64())
            if pc.min(times).as_py() < 0 or pc.max(times).as_py() >= _LATEST:
                raise Unfit("its column created holds a time that cannot be")


def _check_tasks(rows: FileRows, columns: Iterable[str]) -> None:
    """Raise Unfit where a row is about a task that its unit's subset does not hold."""
    bit = {name: at for at, name in enumerate(rows.tasks)}
    run = None
    for name in columns:
        column = coded(rows.table[name])
        words = column.chunk(0).dictionary.to_pylist()
        places = np.array([bit.get(word, -1) for word in words], np.int64)[codes(column)]
        if run is None:
            run = np.repeat(np.arange(rows.runs.num_rows), np.asarray(rows.runs["rows"]))
            masks = np.frombuffer(b"".join(rows.runs["mask"].to_pylist()), np.uint8).reshape(rows.runs.num_rows, -1)
        held = (masks[run, places >> 3] >> (places & 7).astype(np.uint8)) & 1
        if (places < 0).any() or not held.all():
            raise Unfit(f"its column {name} names a task outside of the subset")
