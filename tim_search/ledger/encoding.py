"""From pack results to the bytes of a Parquet file, its runs in the footer."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from datetime import datetime
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tim_search.ledger.schema import FOOTER, SCHEMAS, FileRows, runs_of
from tim_search.types import Context, PackResult
from tim_search.types.columns import Subsets


def rows_of_results(
    kind: str, batch: Sequence[PackResult], context: Context, created: datetime, version: str
) -> tuple[Any, FileRows] | None:
    """(Arrow table, its runs) of what pack results have of this kind; None where they have nothing."""
    items: list[Any] = [item for result in batch for item in getattr(result, kind)]
    if not items:
        return None
    packs = [(result.pack.id, len(getattr(result, kind))) for result in batch]
    pack = np.repeat(np.arange(len(packs), dtype=np.int32), [count for _, count in packs])
    # Answers side by side: rows that share their Unit, which mostly is one object, and their part.
    numbers: dict[int, int] = {}
    key = np.array([2 * numbers.setdefault(id(item.unit), len(numbers)) for item in items], np.int64)
    if kind == "scores":
        key += np.array([item.part == "test" for item in items])
    if (np.diff(key) < 0).any():
        order = np.argsort(key, kind="stable")
        items, key, pack = [items[at] for at in order.tolist()], key[order], pack[order]
    starts = np.flatnonzero(np.diff(key, prepend=-1))
    counts = np.diff(starts, append=len(items))
    first = [items[at] for at in starts.tolist()]
    units = [item.unit for item in first]
    run = pa.array(np.repeat(np.arange(len(units), dtype=np.int32), counts))

    members = [unit.subset for unit in units]
    subsets = pa.array(members, pa.list_(pa.string()))
    of_runs: dict[str, Any] = {
        "context": _same(context.key, len(units)),
        "seed": pa.array([unit.seed for unit in units], pa.int64()),
        "fold": pa.array([unit.fold for unit in units], pa.int32()),
        "created": pa.repeat(pa.scalar(created, pa.timestamp("us", tz="UTC")), len(units)),
    }
    if kind == "scores":
        of_runs["part"] = pa.array([item.part for item in first], pa.string())
    columns: dict[str, Any] = {name: column.take(run) for name, column in of_runs.items()}
    columns |= {"subset": subsets.take(run), "size": pc.list_value_length(subsets).take(run)}
    shared = {name: getattr(context, name) for name in ("cohort", "columns", "split", "network", "settings")}
    columns |= {name: _same(text, len(items)) for name, text in (shared | {"version": version}).items()}
    columns["pack"] = pa.array([name for name, _ in packs], pa.string()).take(pa.array(pack))
    columns |= _OWN[kind](items)
    schema = SCHEMAS[kind]
    table = pa.table({name: columns[name] for name in schema.names}, schema=schema)
    return table, runs_of(kind, counts, Subsets.of(members), of_runs)


def _same(text: str, count: int) -> Any:
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(count, np.int32)), pa.array([text], pa.string()))


def _lists(values: Sequence[Sequence[float]]) -> Any:
    """Lists of numbers as an Arrow array, without a Python object for each of their elements."""
    lengths = np.fromiter(map(len, values), np.int32, len(values))
    offsets = np.concatenate([np.zeros(1, np.int32), np.cumsum(lengths, dtype=np.int32)])
    flat = np.fromiter(chain.from_iterable(values), np.float32, int(offsets[-1]))
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(flat))


def _score_columns(items: Sequence[Any]) -> dict[str, Any]:
    values = np.array([item.value for item in items], float)
    return {
        "task": [item.task for item in items],
        "metric": [item.metric for item in items],
        "primary": [item.primary for item in items],
        "score": pa.array(values, mask=np.isnan(values)),
        "status": [item.status for item in items],
        "error": [item.error for item in items],
        "replicates": _lists([item.replicates for item in items]),
        "seconds": np.array([item.seconds for item in items], float),
    }


def _attention_columns(items: Sequence[Any]) -> dict[str, Any]:
    return {
        "task": [item.task for item in items],
        "other": [item.other for item in items],
        "weight": np.array([item.weight for item in items], float),
    }


def _curve_columns(items: Sequence[Any]) -> dict[str, Any]:
    named = {name: [getattr(item, name) for item in items] for name in ("task", "kind", "group")}
    return named | {name: _lists([getattr(item, name) for item in items]) for name in ("x", "y", "n")}


_OWN = {"scores": _score_columns, "attention": _attention_columns, "curves": _curve_columns}


def parquet(table: Any, rows: FileRows, compression: str) -> Any:
    """The bytes of a file, with the runs in its footer."""
    runs = rows.runs.replace_schema_metadata({"tasks": json.dumps(rows.tasks)})
    packed = pa.BufferOutputStream()
    # Compressing each small column of a commit anew would take longer than all the rest of it.
    options = pa.ipc.IpcWriteOptions(compression="zstd" if compression == "zstd" else None)
    with pa.ipc.new_stream(packed, runs.schema, options=options) as stream:
        stream.write_table(runs)
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, table.schema, compression=compression, write_page_checksum=True) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({FOOTER: base64.b64encode(packed.getvalue())})
    return sink.getvalue()
