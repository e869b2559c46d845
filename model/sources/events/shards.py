"""A MEDS folder, read in pieces of whole subjects, whatever its shards are like.

MEDS promises that a subject lies in one shard, in order of time. Folders that were put together by hand keep neither,
so nothing here rests on it: shards that share a subject are read together, and every piece is sorted. DuckDB reads,
because the product has it anyway, it skips columns and row groups that are not wanted, and it keeps to the memory it is
given.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from model.sources.sql import identifier, literal
from tim_search.gates.files import open_regular
from tim_search.gates.plain import read_object
from tim_search.gates.texts import for_terminal
from tim_search.types import BadInput, some

Int64s: TypeAlias = NDArray[np.int64]

#: Events of one piece: some 300 MB while it is worked on. A subject with more is a piece of its own.
MOST_EVENTS = 2_000_000
#: Memory that DuckDB may take; what does not fit goes to the disk.
_MEMORY = "1GB"
#: Stands for the time of an event without one, which holds at any time. Microseconds since 1970, as all times here.
STATIC = -(2**62)

_MEDS = "MEDS 0.4 has data/**/*.parquet with subject_id, time, code, and as a rule numeric_value and text_value."


@dataclass(frozen=True, eq=False)
class Events:
    """A MEDS folder that is open for reading.

    Attributes:
        root: the folder.
        files: its shards, in order of their names.
        columns: all columns of the shards.
        zoned: whether times have a time zone; they are then read as UTC.
        subjects: int64 (s,), ascending.
        counts: int64 (s,), events of each subject.
        groups: int64 (s,), number of the group of shards that hold the subject.
        members: (file numbers,) of each group; no subject lies in two groups.
        shared: subjects that lie in several shards.
        about: metadata/dataset.json.
        engine: DuckDB, with a view `shard_K` a shard: subject, moment, code, value, text, and its other columns.
    """

    root: Path
    files: tuple[Path, ...]
    columns: tuple[str, ...]
    zoned: bool
    subjects: Int64s
    counts: Int64s
    groups: Int64s
    members: tuple[tuple[int, ...], ...]
    shared: int
    about: Mapping[str, Any]
    engine: Any = field(repr=False)

    def ask(self, query: str) -> pa.Table:
        """The answer to a query of the views."""
        return self.engine.sql(query).to_arrow_table()

    def pieces(self, subjects: Int64s, weight: NDArray[Any] | None = None) -> Iterator[Int64s]:
        """Pieces (k,) of the given subjects, ascending in each; while one is out, the view `events` holds its events.

        Args:
            subjects: int64, those to read; others of them than the folder has are passed over.
            weight: (len(subjects),) by how much a subject's events are multiplied; 1 by default.
        """
        order = np.argsort(subjects)
        at = np.searchsorted(self.subjects, subjects[order])
        there = (at < len(self.subjects)) & (self.subjects[np.minimum(at, len(self.subjects) - 1)] == subjects[order])
        at, wanted = at[there], subjects[order][there]
        size = self.counts[at] * (np.ones(len(at)) if weight is None else weight[order][there])
        for group in np.unique(self.groups[at]).tolist():
            rows = np.flatnonzero(self.groups[at] == group)
            piece = (np.cumsum(size[rows]) // MOST_EVENTS).astype(np.int64)
            for number in np.unique(piece).tolist():
                chosen = wanted[rows[piece == number]]
                self._show(group, chosen)
                yield chosen

    def _show(self, group: int, chosen: Int64s) -> None:
        """Make `events` the events of these subjects of a group."""
        self.engine.register("chosen", pa.table({"subject": chosen}))
        parts = " UNION ALL BY NAME ".join(f"SELECT * FROM shard_{file}" for file in self.members[group])
        low, high = int(chosen[0]), int(chosen[-1])
        self.engine.execute(
            f"CREATE OR REPLACE TEMP VIEW events AS SELECT * FROM ({parts}) "
            f"WHERE subject BETWEEN {low} AND {high} AND subject IN (SELECT subject FROM chosen)"
        )


@contextmanager
def open_events(root: Path) -> Iterator[Events]:
    """A MEDS folder, open for reading.

    Raises:
        BadInput: it is none; a shard cannot be read, lacks a column or has one of another type.
    """
    import duckdb

    files = _files(root)
    with tempfile.TemporaryDirectory(prefix="tim-search-events-") as scratch:
        engine = duckdb.connect(
            config={
                "autoinstall_known_extensions": False,
                "autoload_known_extensions": False,
                "python_enable_replacements": False,
                "memory_limit": _MEMORY,
                "temp_directory": str(Path(scratch) / "spill"),
                "threads": 2,
            }
        )
        engine.execute("SET enable_progress_bar = false")
        try:
            yield _opened(root, files, engine, Path(scratch))
        finally:
            engine.close()


def _opened(root: Path, files: tuple[Path, ...], engine: Any, scratch: Path) -> Events:
    schemas = [_schema(root, path) for path in files]
    zoned = {schema.field("time").type.tz is not None for schema in schemas}
    if len(zoned) > 1:
        raise BadInput(
            f"{for_terminal(root)}: expected times with a time zone in all shards or in none, got both. "
            "Write all of them without one, in one zone."
        )
    for number, (path, schema) in enumerate(zip(files, schemas, strict=True)):
        # Under a name without signs that DuckDB takes for a pattern.
        link = scratch / f"{number}.parquet"
        link.symlink_to(path.resolve())
        engine.execute(
            f"CREATE TEMP VIEW shard_{number} AS {_select(schema)} FROM read_parquet({literal(link)}) "
            "WHERE subject_id IS NOT NULL AND code IS NOT NULL"
        )
    subjects, counts, groups, members, shared = _where(root, files, engine)
    about = root / "metadata" / "dataset.json"
    columns = tuple(dict.fromkeys(name for schema in schemas for name in schema.names))
    described = read_object(about, "description of a MEDS data set") if about.is_file() else {}
    return Events(root, files, columns, zoned == {True}, subjects, counts, groups, members, shared, described, engine)


def _files(root: Path) -> tuple[Path, ...]:
    """The shards of a folder, in order of their names."""
    files = tuple(sorted(path for path in (root / "data").rglob("*.parquet") if not path.name.startswith(".")))
    if not files:
        shown = for_terminal(root)
        raise BadInput(f"{shown}: expected a MEDS folder, got none: no data/**/*.parquet in it. {_MEDS}")
    return files


def _schema(root: Path, path: Path) -> pa.Schema:
    """A shard's columns; BadInput unless they are what MEDS asks for, in any unit and width."""
    shown = for_terminal(path.relative_to(root))
    with open_regular(path) as file:
        try:
            schema = pq.read_schema(file)
        except (pa.ArrowInvalid, OSError) as error:
            raise BadInput(f"{shown}: expected a Parquet file, it cannot be read. Write it again.") from error
    kinds = {"subject_id": (pa.types.is_integer, "whole numbers"), "time": (pa.types.is_timestamp, "timestamps")}
    kinds |= {"code": (_is_text, "texts"), "numeric_value": (_is_number, "numbers"), "text_value": (_is_text, "texts")}
    for name, (fits, words) in kinds.items():
        if name not in schema.names:
            if name in ("numeric_value", "text_value"):
                continue
            raise BadInput(f"{shown}: expected the column {name}, got {some(schema.names)}. {_MEDS}")
        if not (fits(schema.field(name).type) or pa.types.is_null(schema.field(name).type)):
            raise BadInput(
                f"{shown}: expected {words} in the column {name}, got {schema.field(name).type}. Convert it. {_MEDS}"
            )
    return schema


def _is_text(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def _select(schema: pa.Schema) -> str:
    """SQL that reads a shard: one name and one unit for what every shard has, the other columns as they are."""
    value = "numeric_value::DOUBLE" if "numeric_value" in schema.names else "NULL::DOUBLE"
    text = "text_value::VARCHAR" if "text_value" in schema.names else "NULL::VARCHAR"
    mine = {"subject_id", "time", "code", "numeric_value", "text_value", "subject", "moment", "value", "text"}
    others = "".join(f", {identifier(name)}" for name in schema.names if name not in mine)
    number = f"CASE WHEN isfinite({value}) THEN {value} END AS value"
    return (
        f"SELECT subject_id::BIGINT AS subject, coalesce(epoch_us(time), {STATIC}) AS moment, code::VARCHAR AS code, "
        f"{number}, {text} AS text{others}"
    )


def _where(
    root: Path, files: tuple[Path, ...], engine: Any
) -> tuple[Int64s, Int64s, Int64s, tuple[tuple[int, ...], ...], int]:
    """Subjects, events of each, group of each, shards of each group, and how many subjects lie in several shards."""
    parts = []
    for number, path in enumerate(files):
        try:
            rows = engine.sql(f"SELECT subject, count(*) AS n FROM shard_{number} GROUP BY subject").to_arrow_table()
        except Exception as error:  # whatever DuckDB makes of a torn file
            shown = for_terminal(path.relative_to(root))
            raise BadInput(f"{shown}: expected a Parquet file, its rows cannot be read. Write it again.") from error
        parts.append((rows["subject"].to_numpy(), rows["n"].to_numpy()))
    owner = np.repeat(np.arange(len(files)), [len(subjects) for subjects, _ in parts])
    listed = np.concatenate([subjects for subjects, _ in parts])
    if not len(listed):
        raise BadInput(f"{for_terminal(root)}: expected events, got none: the shards are empty. {_MEDS}")
    subjects, code = np.unique(listed, return_inverse=True)
    counts = np.bincount(code, np.concatenate([n for _, n in parts])).astype(np.int64)
    leader = list(range(len(files)))

    def top(file: int) -> int:
        while leader[file] != file:
            file = leader[file]
        return file

    first = np.full(len(subjects), -1)
    for subject, file in zip(code.tolist(), owner.tolist(), strict=True):
        if first[subject] >= 0:
            leader[top(file)] = top(int(first[subject]))
        else:
            first[subject] = file
    tops = [top(file) for file in range(len(files))]
    numbers = {file: number for number, file in enumerate(sorted(set(tops)))}
    members = tuple(tuple(file for file, of in enumerate(tops) if of == leading) for leading in numbers)
    groups = np.array([numbers[tops[file]] for file in first.tolist()], np.int64)
    return subjects, counts, groups, members, int((np.bincount(code) > 1).sum())
