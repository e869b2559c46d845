"""The columns of a ledger's tables, and Arrow columns as numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tim_search.types.columns import Masks, Subsets

# What stands in nearly every row alike is stored once a file, also in memory: a dictionary column.
WORD = pa.dictionary(pa.int32(), pa.string())
_UNIT = [
    *((name, WORD) for name in ("context", "cohort", "columns", "split", "network", "settings")),
    ("subset", pa.list_(pa.string())),
    ("size", pa.int32()),
    ("seed", pa.int64()),
    ("fold", pa.int32()),
]
_ORIGIN = [("pack", pa.string()), ("created", pa.timestamp("us", tz="UTC")), ("version", WORD)]
SCHEMAS: Mapping[str, Any] = {
    "attention": pa.schema(
        [*_UNIT, ("task", pa.string()), ("other", pa.string()), ("weight", pa.float64()), *_ORIGIN],
    ),
    "curves": pa.schema(
        [
            *_UNIT,
            ("task", pa.string()),
            ("kind", pa.string()),
            ("group", pa.string()),
            ("x", pa.list_(pa.float32())),
            ("y", pa.list_(pa.float32())),
            ("n", pa.list_(pa.float32())),
            *_ORIGIN,
        ]
    ),
    "scores": pa.schema(
        [
            *_UNIT,
            ("part", pa.string()),
            ("task", pa.string()),
            ("metric", pa.string()),
            ("primary", pa.bool_()),
            ("score", pa.float64()),
            ("status", pa.string()),
            ("error", pa.string()),
            ("replicates", pa.list_(pa.float32())),
            ("seconds", pa.float64()),
            *_ORIGIN,
        ]
    ),
}
# Text of which a file has few different ones: read as a dictionary, which is quick and small, also where it is not
# stored as one.
CODED = ("part", "task", "metric", "status", "error", "pack", "other", "kind", "group")
# What tells one answer of a unit from another beside its subset: the columns that a footer has.
RUN_COLUMNS: Mapping[str, Sequence[str]] = {
    "attention": ("context", "seed", "fold", "created"),
    "curves": ("context", "seed", "fold", "created"),
    "scores": ("context", "seed", "fold", "part", "created"),
}
#: Key of the footer that holds the runs.
FOOTER = b"tim_search.runs"


class Unfit(Exception):
    """A Parquet file that is none of this table; the message says why."""


class FileRows(NamedTuple):
    """What was read of one file.

    Attributes:
        table: the columns asked for, but for those that the runs have.
        runs: one row a run: `rows`, how many it has, `mask`, its subset as bits of `tasks`, and the `RUN_COLUMNS`.
        tasks: names of the bits, the first in the lowest bit of the first byte.
    """

    table: Any
    runs: Any
    tasks: tuple[str, ...]


def runs_of(kind: str, counts: NDArray[Any], subsets: Subsets, columns_of_runs: Mapping[str, Any]) -> FileRows:
    """FileRows without columns, of runs of these subsets."""
    schema = SCHEMAS[kind]
    columns = {"rows": pa.array(counts, pa.int32()), "mask": binary(subsets.masks)}
    columns |= {name: columns_of_runs[name].cast(schema.field(name).type) for name in RUN_COLUMNS[kind]}
    types = [("rows", pa.int32()), ("mask", columns["mask"].type), *(schema.field(name) for name in RUN_COLUMNS[kind])]
    return FileRows(None, pa.table(columns, schema=pa.schema(types)), subsets.tasks)


def binary(masks: Masks) -> Any:
    n, width = masks.shape
    content = pa.py_buffer(np.ascontiguousarray(masks))
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(width), n, [None, content])


def row_keys(masks: Masks, *numbers: NDArray[np.int64]) -> Masks:
    """Bytes that are equal where the masks and all the numbers are."""
    return np.hstack([masks, *(np.ascontiguousarray(each).view(np.uint8).reshape(-1, 8) for each in numbers)])


def coded(column: Any) -> Any:
    """A chunked column whose chunks share one dictionary."""
    return (column if pa.types.is_dictionary(column.type) else column.dictionary_encode()).unify_dictionaries()


def codes(column: Any) -> NDArray[Any]:
    """Integer codes of a chunked dictionary column whose chunks share one dictionary."""
    chunks = [np.asarray(chunk.indices) for chunk in column.chunks]
    return np.concatenate(chunks) if chunks else np.zeros(0, np.int32)
