"""Rows of the ledger as Arrow tables: from results to columns, and from columns to what readers need.

A file has a row for each task and metric of a unit, and each names the unit's whole subset; of 44 tasks that is a list
of 22 names in each of 22 rows. So the rows of one answer lie side by side, and the footer of the file says of each such
*run* how many rows it has, and everything that tells one answer from another, the subset as bits. The product's own
readers work on runs and never decode the lists, which are there for those who read a file with pandas alone. Files of
earlier versions have no such footer; their runs are found from their columns.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from tim_search.types import Context, PackResult, Sheet, Unit
from tim_search.types.columns import Masks, Subsets, Units

# What stands in nearly every row alike is stored once a file, also in memory: a dictionary column.
_WORD = pa.dictionary(pa.int32(), pa.string())
_UNIT = [
    *((name, _WORD) for name in ("context", "cohort", "columns", "split", "network", "settings")),
    ("subset", pa.list_(pa.string())),
    ("size", pa.int32()),
    ("seed", pa.int64()),
    ("fold", pa.int32()),
]
_ORIGIN = [("pack", pa.string()), ("created", pa.timestamp("us", tz="UTC")), ("version", _WORD)]
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
_CODED = ("part", "task", "metric", "status", "error", "pack", "other", "kind", "group")
# What tells one answer of a unit from another beside its subset: the columns that a footer has.
_TOLD: Mapping[str, Sequence[str]] = {
    "attention": ("context", "seed", "fold", "created"),
    "curves": ("context", "seed", "fold", "created"),
    "scores": ("context", "seed", "fold", "part", "created"),
}
_FOOTER = b"tim_search.runs"
_SEPARATOR = "\x1f"  # cannot occur in a task's name that was read from text


class Unfit(Exception):
    """A Parquet file that is none of this table; the message says why."""


class FileRows(NamedTuple):
    """What was read of one file.

    Attributes:
        table: the columns asked for, but for those that the runs have.
        runs: one row a run: `rows`, how many it has, `mask`, its subset as bits of `tasks`, and the columns `_TOLD`.
        tasks: names of the bits, the first in the lowest bit of the first byte.
    """

    table: Any
    runs: Any
    tasks: tuple[str, ...]


# -------------------------------------------------------------------- writing


def commit(
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
    told: dict[str, Any] = {
        "context": _one(context.key, len(units)),
        "seed": pa.array([unit.seed for unit in units], pa.int64()),
        "fold": pa.array([unit.fold for unit in units], pa.int32()),
        "created": pa.repeat(pa.scalar(created, pa.timestamp("us", tz="UTC")), len(units)),
    }
    if kind == "scores":
        told["part"] = pa.array([item.part for item in first], pa.string())
    columns: dict[str, Any] = {name: column.take(run) for name, column in told.items()}
    columns |= {"subset": subsets.take(run), "size": pc.list_value_length(subsets).take(run)}
    shared = {name: getattr(context, name) for name in ("cohort", "columns", "split", "network", "settings")}
    columns |= {name: _one(text, len(items)) for name, text in (shared | {"version": version}).items()}
    columns["pack"] = pa.array([name for name, _ in packs], pa.string()).take(pa.array(pack))
    columns |= _OWN[kind](items)
    schema = SCHEMAS[kind]
    table = pa.table({name: columns[name] for name in schema.names}, schema=schema)
    return table, _runs(kind, counts, Subsets.of(members), told)


def _one(text: str, count: int) -> Any:
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


def parquet(table: Any, found: FileRows, compression: str) -> Any:
    """The bytes of a file, with the runs in its footer."""
    runs = found.runs.replace_schema_metadata({"tasks": json.dumps(found.tasks)})
    packed = pa.BufferOutputStream()
    # Compressing each small column of a commit anew would take longer than all the rest of it.
    options = pa.ipc.IpcWriteOptions(compression="zstd" if compression == "zstd" else None)
    with pa.ipc.new_stream(packed, runs.schema, options=options) as stream:
        stream.write_table(runs)
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, table.schema, compression=compression, write_page_checksum=True) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({_FOOTER: base64.b64encode(packed.getvalue())})
    return sink.getvalue()


# -------------------------------------------------------------------- one file


def read(kind: str, source: Any, columns: Collection[str] | None) -> FileRows:
    """Rows of one Parquet file; `columns` None takes every column.

    Raises:
        Unfit: when it is no file of this table.
        pa.ArrowException, OSError: when it cannot be read as Parquet.
    """
    schema = SCHEMAS[kind]
    metadata = pq.read_metadata(source)
    if missing := sorted(set(schema.names) - set(metadata.schema.to_arrow_schema().names)):
        raise Unfit(f"it lacks the columns {', '.join(missing)}")
    coded = [name for name in _CODED if name in schema.names]
    source.seek(0)
    file = pq.ParquetFile(source, metadata=metadata, page_checksum_verification=True, read_dictionary=coded)
    told = _TOLD[kind]
    own = [name for name in schema.names if name not in (*told, "subset") and (columns is None or name in columns)]

    def load(names: Sequence[str]) -> Any:
        if not names:
            return pa.table({"row": np.zeros(file.metadata.num_rows, np.int8)})
        return file.read(columns=names).cast(_loaded(schema, names))

    footer = (file.metadata.metadata or {}).get(_FOOTER)
    if footer is None:
        return FileRows(load(own), *_found_runs(kind, load([*told, "subset"])))
    runs = pa.ipc.open_stream(base64.b64decode(footer)).read_all()
    tasks = tuple(json.loads(runs.schema.metadata[b"tasks"]))
    if sorted(runs.column_names) != sorted(["rows", "mask", *told]) or (
        sum(runs["rows"].to_pylist()) != file.metadata.num_rows
    ):
        raise Unfit("its footer does not fit its rows")
    return FileRows(load(own), runs, tasks)


def _loaded(schema: Any, names: Sequence[str]) -> Any:
    """The schema of columns as they are held in memory."""
    return pa.schema([(name, _WORD if name in _CODED else schema.field(name).type) for name in names])


def _found_runs(kind: str, table: Any) -> tuple[Any, tuple[str, ...]]:
    """(runs, names of the bits) from the columns of a file that has no footer."""
    chunks = [pc.binary_join(chunk, _SEPARATOR).dictionary_encode() for chunk in table["subset"].chunks]
    joined = pa.chunked_array(chunks, _WORD).unify_dictionaries()
    columns = {name: table[name] for name in _TOLD[kind]}
    keys = [_codes(joined), *(_codes(_coded(column)) for column in columns.values())]
    starts = np.flatnonzero(np.logical_or.reduce([np.diff(key, prepend=key[0] - 1) != 0 for key in keys]))
    subsets = Subsets.of(tuple(word.split(_SEPARATOR)) for word in joined.chunk(0).dictionary.to_pylist())
    told = {name: column.take(pa.array(starts)).combine_chunks() for name, column in columns.items()}
    return _runs(kind, np.diff(starts, append=table.num_rows), subsets.take(keys[0][starts]), told)[1:]


def _runs(kind: str, counts: NDArray[Any], subsets: Subsets, told: Mapping[str, Any]) -> FileRows:
    """FileRows without columns, of runs of these subsets."""
    schema = SCHEMAS[kind]
    columns = {"rows": pa.array(counts, pa.int32()), "mask": _binary(subsets.masks)}
    columns |= {name: told[name].cast(schema.field(name).type) for name in _TOLD[kind]}
    types = [("rows", pa.int32()), ("mask", columns["mask"].type), *(schema.field(name) for name in _TOLD[kind])]
    return FileRows(None, pa.table(columns, schema=pa.schema(types)), subsets.tasks)


def _binary(masks: Masks) -> Any:
    n, width = masks.shape
    content = pa.py_buffer(np.ascontiguousarray(masks))
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(width), n, [None, content])


def _keys(masks: Masks, *numbers: NDArray[np.int64]) -> Masks:
    """Bytes that are equal where the masks and all the numbers are."""
    return np.hstack([masks, *(np.ascontiguousarray(each).view(np.uint8).reshape(-1, 8) for each in numbers)])


def _coded(column: Any) -> Any:
    """A chunked column whose chunks share one dictionary."""
    return (column if pa.types.is_dictionary(column.type) else column.dictionary_encode()).unify_dictionaries()


def _codes(column: Any) -> NDArray[Any]:
    """Integer codes of a chunked dictionary column whose chunks share one dictionary."""
    chunks = [np.asarray(chunk.indices) for chunk in column.chunks]
    return np.concatenate(chunks) if chunks else np.zeros(0, np.int32)


# -------------------------------------------------------------------- many files


@dataclass(frozen=True, eq=False)
class Rows:
    """The rows of many files, and the runs they form.

    Attributes:
        kind: name of the table.
        table: the columns asked for, but for those that the runs have.
        runs: Arrow table, one row a run, with the columns `_TOLD`.
        counts: int64, rows of each run.
        subset: int32, number of each run's subset.
        file: int32, place of each run's file among the sorted names.
        subsets: the S distinct subsets.
    """

    kind: str
    table: Any = field(repr=False)
    runs: Any = field(repr=False)
    counts: NDArray[np.int64] = field(repr=False)
    subset: NDArray[np.int32] = field(repr=False)
    file: NDArray[np.int32] = field(repr=False)
    subsets: Subsets

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def codes(self, name: str) -> NDArray[Any]:
        """Integers, one a run, that are equal where the column is."""
        column = self.runs[name]
        if pa.types.is_dictionary(column.type) or pa.types.is_string(column.type):
            return _codes(_coded(column))
        return np.asarray(column.cast(pa.int64()))

    def equal(self, name: str, value: str) -> NDArray[np.bool_]:
        """bool, one a run: whether a text column has this value."""
        return np.asarray(pc.equal(self.runs[name], value))

    def keep(self, runs: NDArray[np.bool_], rows: NDArray[np.bool_] | None = None) -> Rows:
        """Only some runs, and of these only some rows."""
        if runs.all() and rows is None:
            return self
        keep = np.repeat(runs, self.counts)
        counts = self.counts
        if rows is not None:
            keep &= rows
            ends = np.concatenate([[0], np.cumsum(keep)])[np.cumsum(np.concatenate([[0], self.counts]))]
            counts = np.diff(ends)
            runs = counts > 0
        return Rows(
            self.kind,
            self.table if keep.all() else self.table.filter(pa.array(keep)),
            self.runs if runs.all() else self.runs.filter(pa.array(runs)),
            counts[runs],
            self.subset[runs],
            self.file[runs],
            self.subsets,
        )

    def first_answers(self) -> Rows:
        """Of a unit that was answered more than once, the rows of its first answer alone.

        An answer is what one file holds of one unit under one time of writing. Whole answers win, never single rows: a
        failed first answer is not mixed with the diagnostics of a second one. First is what has the earliest time, then
        the first file name.
        """
        if not len(self.counts):
            return self
        created = self.codes("created")
        order = np.lexsort((self.file, created))
        answer = np.empty(len(order), np.int64)
        answer[order] = np.cumsum(
            np.diff(created[order], prepend=0).astype(bool) | np.diff(self.file[order], prepend=0).astype(bool)
        )
        first = pd.Series(answer).groupby(self._answer(), sort=False).transform("min").to_numpy()
        return self.keep(answer == first)

    def answered_twice(self) -> int:
        """Units with answers of different times; equal times are one answer in two files of a merge cut short."""
        if not len(self.counts):
            return 0
        created = pd.Series(self.codes("created"))
        return int((created.groupby(self._answer()).nunique() > 1).sum())

    def _answer(self) -> list[NDArray[Any]]:
        """What names an answer, one array a column."""
        return [self.subset, *(self.codes(name) for name in _TOLD[self.kind] if name != "created")]

    def units(self) -> set[Unit]:
        """The units that have a row."""
        keys = pd.DataFrame({"subset": self.subset, "seed": self.codes("seed"), "fold": self.codes("fold")})
        keys = keys.drop_duplicates()
        subsets = list(self.subsets)
        columns = (keys[name].tolist() for name in keys)
        return {Unit(subsets[code], seed, fold) for code, seed, fold in zip(*columns, strict=True)}

    def tally(
        self, tasks: Collection[str], blocks: Collection[tuple[int, int]]
    ) -> tuple[int, int, float, datetime | None]:
        """(units of these tasks and blocks; failed units, seconds of all units, and the latest time, of all of them).

        Needs the columns status and seconds.
        """
        if not len(self.counts):
            return 0, 0, 0.0, None
        starts = np.cumsum(self.counts) - self.counts
        seed, fold = self.codes("seed"), self.codes("fold")
        outside = self.subsets.counts(set(self.subsets.tasks).difference(tasks)) > 0
        asked = np.zeros(len(starts), bool)
        for block in blocks:
            asked |= (seed == block[0]) & (fold == block[1])
        bad = np.asarray(pc.equal(self.table["status"], "failed"))
        units = pd.DataFrame(
            {
                "asked": asked & ~outside[self.subset],
                "bad": np.logical_or.reduceat(bad, starts),
                "seconds": np.asarray(self.table["seconds"])[starts],
            }
        )
        # Mostly a unit is one run; rows of old files need not lie side by side.
        keys = pd.DataFrame({"subset": self.subset, "seed": seed, "fold": fold})
        if (twice := keys.duplicated()).any():
            every = units["bad"].groupby([keys[name] for name in keys]).transform("any")
            units = units.assign(bad=every)[~twice]
        return (
            int(units["asked"].sum()),
            int(units["bad"].sum()),
            float(units["seconds"].sum()),
            pc.max(self.runs["created"]).as_py(),
        )

    def holds(self, units: Units) -> NDArray[np.bool_]:
        """bool, one a unit: whether it has a row here."""
        if not len(self.counts):
            return np.zeros(len(units), bool)
        tasks = {*self.subsets.tasks, *units.subsets.tasks}
        seeds, folds = (np.array([told[at] for told in units.conditions], np.int64)[units.condition] for at in (0, 1))
        wanted = _binary(_keys(units.subsets.over(tasks).masks, seeds, folds))
        own = _keys(self.subsets.over(tasks).masks[self.subset], self.codes("seed"), self.codes("fold"))
        return np.asarray(pc.is_in(wanted, _binary(own)))

    def arrow(self, names: Sequence[str], *, subset: bool = True) -> Any:
        """Arrow table of these columns; without `subset`, that column is left out."""
        run = pa.array(np.repeat(np.arange(len(self.counts), dtype=np.int32), self.counts))
        columns: dict[str, Any] = {}
        for name in names:
            if name == "subset":
                if subset:
                    lists = pa.array(list(self.subsets), pa.list_(pa.string())).take(pa.array(self.subset))
                    columns[name] = lists.take(run)
            elif name in _TOLD[self.kind]:
                columns[name] = self.runs[name].combine_chunks().take(run)
            else:
                # Cast by chunk: a dictionary of the whole would be decoded into one array.
                columns[name] = self.table[name].cast(SCHEMAS[self.kind].field(name).type)
        schema = pa.schema([SCHEMAS[self.kind].field(name) for name in columns])
        return pa.table(columns, schema=schema)

    def frame(self, names: Sequence[str]) -> pd.DataFrame:
        """These columns for pandas. Rows of one subset share one array of names."""
        plain: pd.DataFrame = self.arrow(names, subset=False).to_pandas()
        if "subset" in names:
            shared = np.empty(len(self.subsets), object)
            shared[:] = [np.array(members, object) for members in self.subsets]
            plain.insert(list(names).index("subset"), "subset", shared[np.repeat(self.subset, self.counts)])
        return plain

    def in_one_file(self) -> tuple[Any, FileRows]:
        """(Arrow table, its runs) as `parquet` takes them."""
        told = {name: self.runs[name].combine_chunks() for name in _TOLD[self.kind]}
        found = _runs(self.kind, self.counts, self.subsets.take(self.subset), told)
        return self.arrow(SCHEMAS[self.kind].names), found

    def sheet(self) -> Sheet:
        """Scores as plain arrays; needs the columns task, status and score."""
        table = self.table
        task, status = _coded(table["task"]), _coded(table["status"])
        words = task.chunk(0).dictionary.to_pylist() if task.num_chunks else []
        place = {name: index for index, name in enumerate(self.subsets.tasks)}
        ok = np.array([word == "ok" for word in (status.chunk(0).dictionary.to_pylist() if status.num_chunks else [])])
        score = table["score"].to_numpy().astype(float)
        if len(ok):
            score[~ok[_codes(status)]] = np.nan
        replicates = None
        if "replicates" in table.column_names:
            column = table["replicates"].combine_chunks()
            replicates = (np.asarray(pc.list_value_length(column).fill_null(0)), np.asarray(column.flatten()))
        return Sheet(
            self.subsets.tasks,
            self.subsets.membership,
            self.counts,
            self.subset,
            self.codes("seed"),
            self.codes("fold"),
            np.array([place[word] for word in words], np.int32)[_codes(task)] if words else np.zeros(0, np.int32),
            score,
            replicates,
        )


def joined(kind: str, files: Mapping[str, FileRows]) -> Rows:
    """The rows of these files, in the order of their names."""
    found = [files[name] for name in sorted(files)]
    if not found:
        empty = SCHEMAS[kind].empty_table()
        runs = empty.select(list(_TOLD[kind]))
        none = np.zeros(0, np.int32)
        return Rows(kind, empty, runs, np.zeros(0, np.int64), none, none, Subsets.of(()))
    tasks = tuple(sorted(set().union(*(each.tasks for each in found))))
    masks = [_aligned(each, tasks) for each in found]
    packed = _binary(np.concatenate(masks)).dictionary_encode()
    width = masks[0].shape[1]
    distinct = np.frombuffer(packed.dictionary.buffers()[1] or b"", np.uint8, len(packed.dictionary) * width)
    told = pa.concat_tables([each.runs.select(list(_TOLD[kind])) for each in found]).unify_dictionaries()
    return Rows(
        kind,
        pa.concat_tables([each.table for each in found]).unify_dictionaries(),
        told,
        np.concatenate([np.asarray(each.runs["rows"]) for each in found]).astype(np.int64),
        np.asarray(packed.indices).astype(np.int32, copy=False),
        np.repeat(np.arange(len(found), dtype=np.int32), [each.runs.num_rows for each in found]),
        Subsets(tasks, distinct.reshape(-1, width)),
    )


def _aligned(file: FileRows, tasks: tuple[str, ...]) -> Masks:
    """The masks of a file's runs, as bits of `tasks`."""
    n, own = file.runs.num_rows, len(file.tasks)
    width = -(-own // 8)
    column = file.runs["mask"].combine_chunks()
    content = column.buffers()[1] if n and own else None
    masks = np.frombuffer(content or b"", np.uint8, n * width, column.offset * width if content else 0)
    return Subsets(file.tasks, masks.reshape(n, width)).over(tasks).masks
