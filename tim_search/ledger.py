"""The ledger: every score a search has ever obtained, in append-only Parquet. The only source of truth.

A ledger is a folder, or a prefix in object storage, with three tables: `scores/`, `attention/`, and `curves/` once
something was confirmed. A table is a set of immutable Parquet files, each named by the SHA-256 of its bytes. A file is
there whole or not at all, and two writers can never write different things under one name (`tim_search.storage`).
Nothing is ever changed in place: compaction writes the rows of many files into one and then deletes the many. Readers
take no lock. docs/ledger.md describes the columns.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import secrets
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from functools import cache, reduce
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from tim_search import storage
from tim_search.storage import Held, Storage
from tim_search.storage import LedgerWarning as LedgerWarning
from tim_search.storage import write_durably as write_durably
from tim_search.types import BadInput, Context, Finding, PackResult, Unit

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
_SCHEMAS: Mapping[str, Any] = {
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
# Rows that came from one training of one unit share these; see `_first_answers`.
_UNIT_KEY = ["context", "subset", "seed", "fold"]
_ANSWER = {"attention": _UNIT_KEY, "curves": _UNIT_KEY, "scores": [*_UNIT_KEY, "part"]}

_NAME = re.compile(r"(part|compact)-([0-9a-f]{32})\.parquet")
_FULL = 100_000  # rows of a merged file that no compaction takes up again, so that its memory has a bound
_SEPARATOR = "\x1f"  # cannot occur in a task's name that was read from text


class LedgerError(BadInput):
    """The ledger's place cannot be used: read-only, full, not a folder, out of reach, held by another driver."""


class _Unusable(Exception):
    """A file that cannot be part of the ledger; the message says why."""


class Ledger:
    """Scores and attention of every trained unit, in a folder or in object storage.

    Reading never waits, takes no lock, writes nothing and works on a read-only folder, also while a search writes.
    `append` and `compact` are the driver's; `writer_lock` keeps a second driver out.

    Args:
        place: a folder, or s3://bucket/prefix (see docs/ledger.md); it need not exist, the first write makes it.

    Attributes:
        place: the folder's absolute path, or the URL, for people and for opening it again.
        path: the folder; of a URL it is of no use.

    Raises:
        BadInput: for a URL that is no place for a ledger.
    """

    def __init__(self, place: str | Path | Storage) -> None:
        self.storage = storage.at(place) if isinstance(place, str | Path) else place
        self.place = self.storage.place
        self.path = Path(self.place)
        self._verified: set[Any] = set()
        self._latest = datetime.min.replace(tzinfo=UTC)

    # ---------------------------------------------------------------- writing

    def append(self, results: Iterable[PackResult] | PackResult, context: Context) -> None:
        """Write pack results; on return they are on disk, in one file a table, and survive a loss of power.

        Scores are written last, so that a unit that counts as done has its attention and its curves.

        Raises:
            LedgerError: when the folder cannot be written (read-only, full); nothing of these results is then visible
                in the scores.
        """
        batch = [results] if isinstance(results, PackResult) else list(results)
        created = self._now()
        with self._explained():
            tables = (
                ("attention", _attention_rows(batch)),
                ("curves", _curve_rows(batch)),
                ("scores", _score_rows(batch)),
            )
            for kind, rows in tables:
                if rows["task"]:
                    self._commit(kind, "part", _table(kind, rows, context, created))

    def compact(self) -> None:
        """Merge the many small files of each table into one, dropping rows of units that were answered twice.

        Safe against a kill between any two steps, and no reader ever sees fewer rows: the merged file is in place
        before the first small one goes. Earlier merged files take part once they are no larger than what is merged with
        them, so that a growing ledger is rewritten a few times, not once a compaction; from 100,000 rows on they stay
        as they are.
        """
        with self._explained():
            for kind in _SCHEMAS:
                chosen = self._mergeable(kind)
                if len(chosen) < 2:
                    continue
                loaded, unusable = self._load_all(kind, chosen)
                self._warn(kind, unusable)
                table = _distinct(kind, _joined_files(kind, loaded)).select(_SCHEMAS[kind].names)
                merged = self._commit(kind, "compact", table)
                self.storage.remove(f"{kind}/{name}" for name in loaded if name != merged)
        pa.default_memory_pool().release_unused()

    def absorb(self, other: Ledger) -> int:
        """Copy every file of another ledger into this one, as it is; returns how many were not here yet.

        Files that cannot be used stay where they are, with a LedgerWarning. A copy that was cut short is finished by
        the next one: a file has one name everywhere.

        Raises:
            LedgerError: when this ledger cannot be written or the other one cannot be read.
        """
        copied = 0
        for kind in _SCHEMAS:
            unusable: dict[str, str] = {}
            with self._explained():
                here = set(self.storage.names(kind))
            seen: set[str] = set()
            # As in `_read`: what a listing lacks because of a compaction is in the next one.
            while fresh := [name for name in other._names(kind) if name not in seen]:
                seen.update(fresh)
                _, bad = other._load_all(kind, fresh, columns=())
                unusable |= bad
                for name in fresh:
                    if name in here or name in bad:
                        continue
                    with other._explained():
                        try:
                            with other.storage.read(f"{kind}/{name}") as (file, _):
                                content = file.read()
                        except FileNotFoundError:
                            continue
                    with self._explained():
                        self.storage.put(f"{kind}/{name}", content)
                    copied += 1
            other._warn(kind, unusable)
        return copied

    @contextlib.contextmanager
    def writer_lock(self) -> Iterator[None]:
        """Hold the ledger as its only driver, until the process ends, however it ends (see `Storage.writer`).

        On entry, files that are torn, altered or foreign are moved to `set-aside/` with a LedgerWarning.

        Raises:
            LedgerError: when another driver holds it; the message names its process, machine and start.
        """
        with contextlib.ExitStack() as stack:
            try:
                with self._explained():
                    stack.enter_context(self.storage.writer())
            except Held as holder:
                raise LedgerError(
                    f"{self.place} is being written by {holder}. Expected one driver a ledger at a time. Wait until it "
                    "has ended or stop it, then run the same command again; reading it (`tim-search status`, `tim`, "
                    "`expand`) works meanwhile."
                ) from None
            with self._explained():
                self._tidy()
            yield

    # ---------------------------------------------------------------- reading

    def scores(
        self,
        context: str | None = None,
        *,
        primary: bool = True,
        part: str | None = "validation",
        columns: Sequence[str] | None = None,
    ) -> pd.DataFrame:
        """Rows of the scores table, deduplicated: of a unit that was answered twice, the first durable answer.

        Args:
            context: only rows of this context key; None takes all.
            primary: only the metric each task is searched by; False takes the diagnostics too.
            part: "validation", "test", or None for both.
            columns: only these columns, which is much faster than all; None takes every column of docs/ledger.md.
        """
        wanted = list(columns) if columns is not None else _SCHEMAS["scores"].names
        table = self._read("scores", [*wanted, *_ANSWER["scores"], "primary", "created"])
        conditions = [table["primary"]] if primary else []
        conditions += [pc.equal(table["part"], part)] if part is not None else []
        conditions += [pc.equal(table["context"], context)] if context is not None else []
        return _frame(_distinct("scores", _where(table, conditions)).select(wanted))

    def attention(self, context: str | None = None) -> pd.DataFrame:
        """Rows of the attention table, deduplicated like `scores`: how much `task` draws on `other`."""
        return self._rows_of("attention", context)

    def curves(self, context: str | None = None) -> pd.DataFrame:
        """Rows of the curves table, deduplicated like `scores` (see `tim_search.types.Curve`)."""
        return self._rows_of("curves", context)

    def _rows_of(self, kind: str, context: str | None) -> pd.DataFrame:
        names = _SCHEMAS[kind].names
        table = self._read(kind, names)
        conditions = [pc.equal(table["context"], context)] if context is not None else []
        return _frame(_distinct(kind, _where(table, conditions)).select(names))

    def done(self, context: str) -> set[Unit]:
        """Units of a context that have a final answer, a failed one included."""
        table = self._read("scores", ["context", "subset", "seed", "fold", "task"])
        # Every unit has a row for each of its tasks: that for the first one is enough.
        first = pc.equal(pc.list_element(table["subset"], 0), table["task"])
        table = _where(table, [pc.equal(table["context"], context), first])
        codes, subsets = _coded(table)
        seeds, folds = table["seed"].to_numpy(), table["fold"].to_numpy()
        keys = pd.DataFrame({"subset": codes, "seed": seeds, "fold": folds}).drop_duplicates()
        columns = (keys[name].tolist() for name in ("subset", "seed", "fold"))
        return {Unit(subsets[code], seed, fold) for code, seed, fold in zip(*columns, strict=True)}

    def contexts(self) -> dict[str, Context]:
        """The contexts that the scores have, by their keys."""
        names = [item.name for item in fields(Context)]
        table = self._read("scores", ["context", *names])
        columns = [table[name].cast(pa.string()) for name in ("context", *names)]
        found = pa.table(columns, names=["context", *names]).group_by(["context", *names]).aggregate([])
        return {row.pop("context"): Context(**row) for row in found.to_pylist()}

    def files(self) -> int:
        """Number of files of the scores table; many small ones make reading slow (see `compact`)."""
        return len(self._names("scores"))

    def check(self) -> list[Finding]:
        """Everything wrong with the ledger: torn, altered and foreign files, double answers, leftovers, gaps."""
        findings = []
        self._verified.clear()
        answered: dict[str, Any] = {}
        for kind in _SCHEMAS:
            with self._explained():
                loaded, unusable = self._load_all(kind, self._names(kind))
                left = self.storage.leftovers(kind)
            for name, problem in sorted(unusable.items()):
                fix = "The next search on this ledger sets it aside and trains the units that are missing."
                findings.append(Finding(f"{self.place}/{kind}/{name}", f"{problem}.", fix))
            findings += [
                Finding(f"{self.place}/{key}", "was left by a writer that died.", "Delete it.", "warning")
                for key in left
            ]
            answered[kind] = _joined_files(kind, loaded)
        place = f"{self.place}/scores"
        if twice := _answered_twice(answered["scores"]):
            problem = f"{twice} units were trained and answered more than once."
            findings.append(Finding(place, problem, "Nothing to do: the first answer counts.", "warning"))
        if bare := _without_attention(answered["scores"], answered["attention"]):
            problem = f"{bare} units were scored, but their attention is missing; others of their context have it."
            fix = "Restore attention/ from a copy. The TIM scores do not need it, the attention figures leave them out."
            findings.append(Finding(f"{self.place}/attention", problem, fix, "warning"))
        with self._explained():
            aside = self.storage.names("set-aside")
        if aside:
            problem = f"{len(aside)} files were set aside, because they are torn, altered or not the ledger's own."
            fix = "Look at them, then delete or move them."
            findings.append(Finding(f"{self.place}/set-aside", problem, fix, "warning"))
        return findings

    # ---------------------------------------------------------------- files

    def _names(self, kind: str) -> list[str]:
        """Sorted names of a table's files."""
        with self._explained():
            return self.storage.names(kind)

    def _read(self, kind: str, columns: Iterable[str]) -> Any:
        """Arrow table of all files, for a reader: no row is missed although a compaction may run meanwhile.

        A folder listing is not atomic: it may lack the merged file, which came too late for it, and the small files,
        which went before it got to them. Such a merged file is in the next listing; so every reading lists twice, and
        again as long as a listed file is gone.
        """
        columns = set(columns)
        loaded: dict[str, Any] = {}
        unusable: dict[str, str] = {}
        fresh = self._names(kind)
        while True:
            more, bad = self._load_all(kind, fresh, columns=columns)
            loaded |= more
            unusable |= bad
            gone = len(more) + len(bad) < len(fresh)
            fresh = [name for name in self._names(kind) if name not in loaded and name not in unusable]
            if not fresh and not gone:
                break
        self._warn(kind, unusable)
        return _joined_files(kind, loaded)

    def _load_all(
        self, kind: str, names: Iterable[str], columns: Iterable[str] | None = None
    ) -> tuple[dict[str, Any], dict[str, str]]:
        """(Arrow table by name, problem by name); a file that is gone is in neither."""

        def load(name: str) -> Any:
            try:
                return _load(self.storage, f"{kind}/{name}", _SCHEMAS[kind], columns, self._verified)
            except _Unusable as error:
                return str(error)
            except FileNotFoundError:
                return None

        names = list(names)
        with self._explained():
            if self.storage.abreast > 1 and len(names) > 1:
                with ThreadPoolExecutor(self.storage.abreast) as threads:
                    found = dict(zip(names, threads.map(load, names), strict=True))
            else:
                found = {name: load(name) for name in names}
        unusable = {name: problem for name, problem in found.items() if isinstance(problem, str)}
        return {name: table for name, table in found.items() if isinstance(table, pa.Table)}, unusable

    def _commit(self, kind: str, prefix: str, table: Any) -> str:
        """Write a table as an immutable file and return its name."""
        sink = pa.BufferOutputStream()
        # A commit should be quick, a merged file small.
        compression = "zstd" if prefix == "compact" else "snappy"
        pq.write_table(table, sink, compression=compression, write_page_checksum=True)
        content = sink.getvalue()
        name = f"{prefix}-{hashlib.sha256(content).hexdigest()[:32]}.parquet"
        self.storage.put(f"{kind}/{name}", content)
        return name

    def _mergeable(self, kind: str) -> list[str]:
        sizes = {name: size for name, size in self.storage.sizes(kind).items() if _NAME.fullmatch(name)}
        chosen = [name for name in sizes if name.startswith("part-")]
        total = sum(sizes[name] for name in chosen)
        for name in sorted(sizes.keys() - set(chosen), key=lambda name: (sizes[name], name)):
            if sizes[name] <= total and _rows(self.storage, f"{kind}/{name}") < _FULL:
                chosen.append(name)
                total += sizes[name]
        return chosen

    def _tidy(self) -> None:
        """Move what cannot be read out of the tables, so that plain pandas reads them too."""
        for kind in _SCHEMAS:
            self.storage.remove(self.storage.leftovers(kind))
            _, unusable = self._load_all(kind, self._names(kind), columns=())
            for name, problem in unusable.items():
                target = name if name not in self.storage.names("set-aside") else f"{name}.{secrets.token_hex(4)}"
                self.storage.move(f"{kind}/{name}", f"set-aside/{target}")
                _say(
                    f"{self.place}/{kind}/{name}: {problem}. It was moved to {self.place}/set-aside/{target}; units it "
                    "held are trained again."
                )

    def _warn(self, kind: str, unusable: Mapping[str, str]) -> None:
        for name, problem in sorted(unusable.items()):
            _say(
                f"{self.place}/{kind}/{name}: {problem}. It was not read; `tim-search check` on the search's folder "
                "tells more."
            )

    def _now(self) -> datetime:
        """The time, later than any this object gave before, also when the clock goes back."""
        self._latest = max(datetime.now(UTC), self._latest + timedelta(microseconds=1))
        return self._latest

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise LedgerError(
                f"{self.place}: the ledger cannot be used: {error}. {self.storage.advice(error)}, then run the same "
                "command again; what is in the ledger stays valid, and the search goes on from there."
            ) from error


@cache
def product_version() -> str:
    """Version of the installed product, "unknown" where it runs from a folder without being installed."""
    try:
        return version("tim-search")
    except PackageNotFoundError:
        return "unknown"


# -------------------------------------------------------------------- rows


def _table(kind: str, rows: Mapping[str, list[Any]], context: Context, created: datetime) -> Any:
    """Arrow table of one commit: what the rows differ in, and what they share."""
    n_rows = len(rows["task"])
    shared = {
        "context": context.key,
        "cohort": context.cohort,
        "columns": context.columns,
        "split": context.split,
        "network": context.network,
        "settings": context.settings,
        "version": product_version(),
    }
    zeros = pa.array(np.zeros(n_rows, np.int32))
    columns: dict[str, Any] = dict(rows)
    columns |= {name: pa.DictionaryArray.from_arrays(zeros, pa.array([text])) for name, text in shared.items()}
    columns["created"] = pa.repeat(pa.scalar(created, pa.timestamp("us", tz="UTC")), n_rows)
    schema = _SCHEMAS[kind]
    return pa.table({name: columns[name] for name in schema.names}, schema=schema)


def _score_rows(batch: Sequence[PackResult]) -> dict[str, list[Any]]:
    scores = [score for result in batch for score in result.scores]
    units = [score.unit for score in scores]
    return {
        **_unit_rows(units),
        "part": [score.part for score in scores],
        "task": [score.task for score in scores],
        "metric": [score.metric for score in scores],
        "primary": [score.primary for score in scores],
        "score": [None if score.value != score.value else score.value for score in scores],
        "status": [score.status for score in scores],
        "error": [score.error for score in scores],
        "replicates": [score.replicates for score in scores],
        "seconds": [score.seconds for score in scores],
        "pack": [name for result in batch for name in [result.pack.id] * len(result.scores)],
    }


def _attention_rows(batch: Sequence[PackResult]) -> dict[str, list[Any]]:
    weights = [weight for result in batch for weight in result.attention]
    return {
        **_unit_rows([weight.unit for weight in weights]),
        "task": [weight.task for weight in weights],
        "other": [weight.other for weight in weights],
        "weight": [weight.weight for weight in weights],
        "pack": [name for result in batch for name in [result.pack.id] * len(result.attention)],
    }


def _curve_rows(batch: Sequence[PackResult]) -> dict[str, list[Any]]:
    curves = [curve for result in batch for curve in result.curves]
    return {
        **_unit_rows([curve.unit for curve in curves]),
        "task": [curve.task for curve in curves],
        "kind": [curve.kind for curve in curves],
        "group": [curve.group for curve in curves],
        "x": [curve.x for curve in curves],
        "y": [curve.y for curve in curves],
        "n": [curve.n for curve in curves],
        "pack": [name for result in batch for name in [result.pack.id] * len(result.curves)],
    }


def _unit_rows(units: Sequence[Unit]) -> dict[str, list[Any]]:
    return {
        "subset": [unit.subset for unit in units],
        "size": [len(unit.subset) for unit in units],
        "seed": [unit.seed for unit in units],
        "fold": [unit.fold for unit in units],
    }


def _joined(table: Any) -> Any:
    """The subset of every row as one string, which Arrow and pandas can group by; a chunked dictionary array.

    File by file: the strings of a large ledger are too many bytes for one array, and few of them differ in one file.
    """
    chunks = [pc.binary_join(chunk, _SEPARATOR).dictionary_encode() for chunk in table["subset"].chunks]
    return pa.chunked_array(chunks, _WORD).unify_dictionaries()


def _coded(table: Any) -> tuple[NDArray[Any], list[tuple[str, ...]]]:
    """(code of every row's subset, subset of every code): one object a subset, and one string object a task."""
    joined = _joined(table)
    names: dict[str, str] = {}
    words = joined.chunk(0).dictionary.to_pylist() if joined.num_chunks else []
    subsets = [tuple(names.setdefault(name, name) for name in word.split(_SEPARATOR)) for word in words]
    return _codes(joined), subsets


def _codes(column: Any) -> NDArray[Any]:
    """Integer codes of a chunked dictionary column whose chunks share one dictionary."""
    chunks = [np.asarray(chunk.indices) for chunk in column.chunks]
    return np.concatenate(chunks) if chunks else np.zeros(0, np.int32)


def _joined_files(kind: str, loaded: Mapping[str, Any]) -> Any:
    """One table of all files, and a column `file`: the position of a row's file among the sorted names."""
    if not loaded:
        return _SCHEMAS[kind].empty_table().append_column("file", pa.array([], pa.int32()))
    tables = [loaded[name] for name in sorted(loaded)]
    file = np.repeat(np.arange(len(tables), dtype=np.int32), [table.num_rows for table in tables])
    return pa.concat_tables(tables).unify_dictionaries().append_column("file", pa.array(file))


def _where(table: Any, conditions: Sequence[Any]) -> Any:
    return table.filter(reduce(pc.and_, conditions)) if conditions else table


def _distinct(kind: str, table: Any) -> Any:
    """Of a unit that was answered more than once, the rows of its first answer alone.

    An answer is what one file holds of one unit under one time of writing. Whole answers win, never single rows: a
    failed first answer is not mixed with the diagnostics of a second one. First is what has the earliest time, then the
    first file name.
    """
    if table.num_rows == 0:
        return table
    file, created = table["file"].to_numpy(), table["created"].cast(pa.int64()).to_numpy()
    order = np.lexsort((file, created))
    answer = np.empty(len(order), np.int64)
    answer[order] = np.cumsum(
        np.diff(created[order], prepend=0).astype(bool) | np.diff(file[order], prepend=0).astype(bool)
    )
    first = pd.Series(answer).groupby(_keys(kind, table), sort=False).transform("min").to_numpy()
    return table.filter(pa.array(answer == first))


def _keys(kind: str, table: Any) -> list[NDArray[Any]]:
    """Integer codes of each column that names an answer."""
    columns = [_joined(table) if name == "subset" else table[name] for name in _ANSWER[kind]]
    return [
        _codes((column if pa.types.is_dictionary(column.type) else column.dictionary_encode()).unify_dictionaries())
        for column in columns
    ]


def _answered_twice(table: Any) -> int:
    """Units with answers of different times; equal times are one answer in two files of an interrupted compaction."""
    if table.num_rows == 0:
        return 0
    created = pd.Series(table["created"].cast(pa.int64()).to_numpy())
    return int((created.groupby(_keys("scores", table)).nunique() > 1).sum())


def _without_attention(scores: Any, attention: Any) -> int:
    """Units that were scored and have no attention, of contexts whose other units have some."""
    units = ["context", "subset", "seed", "fold"]

    def keyed(table: Any) -> Any:
        table = table.set_column(table.column_names.index("subset"), "subset", _joined(table).cast(pa.string()))
        table = table.set_column(table.column_names.index("context"), "context", table["context"].cast(pa.string()))
        return table.select(units).group_by(units).aggregate([])

    if scores.num_rows == 0 or attention.num_rows == 0:
        return 0
    having = keyed(attention)
    scored = keyed(_where(scores, [pc.equal(scores["status"], "ok")]))
    scored = scored.filter(pc.is_in(scored["context"], pc.unique(having["context"])))
    return int(scored.join(having, keys=units, join_type="left anti").num_rows)


def _frame(table: Any) -> pd.DataFrame:
    """The rows for pandas. Rows of one subset share one array of names, of which a large ledger would hold too many."""
    if "subset" not in table.column_names:
        plain: pd.DataFrame = table.to_pandas()
        return plain
    codes, subsets = _coded(table)
    shared = np.empty(len(subsets), object)
    shared[:] = [np.array(members, object) for members in subsets]
    place = table.column_names.index("subset")
    frame: pd.DataFrame = table.drop_columns(["subset"]).to_pandas()
    frame.insert(place, "subset", shared[codes])
    return frame


# -------------------------------------------------------------------- files


def _load(place: Storage, key: str, schema: Any, columns: Iterable[str] | None, verified: set[Any]) -> Any:
    """Arrow table of one file, or _Unusable; FileNotFoundError when a compaction has just removed it.

    The bytes of a file are held against its name, once: `verified` remembers the files that passed.
    """
    name = _NAME.fullmatch(key.split("/")[-1])
    if name is None:
        raise _Unusable("it is not a file of this ledger")
    wanted = schema.names if columns is None else [column for column in schema.names if column in set(columns)]
    with contextlib.ExitStack() as stack:
        try:
            source, mark = stack.enter_context(place.read(key))
        except IsADirectoryError:
            raise _Unusable("it is not a file of this ledger") from None
        if mark is None or mark not in verified:
            if hashlib.file_digest(source, "sha256").hexdigest()[:32] != name[2]:
                raise _Unusable("its bytes do not match its name: it is torn, was altered or was renamed")
            source.seek(0)
        try:
            file = pq.ParquetFile(source, page_checksum_verification=True)
            missing = sorted(set(schema.names) - set(file.schema_arrow.names))
            if missing:
                raise _Unusable(f"it lacks the columns {', '.join(missing)}")
            table = file.read(columns=wanted).cast(pa.schema([schema.field(column) for column in wanted]))
        except (pa.ArrowException, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            raise _Unusable(f"it cannot be read as Parquet ({str(error).splitlines()[0]})") from error
    if mark is not None:
        verified.add(mark)
    return table


def _rows(place: Storage, key: str) -> int:
    """Rows of a file; 0 where it cannot be read, which is for others to tell."""
    try:
        with place.read(key) as (source, _):
            return int(pq.read_metadata(source).num_rows)
    except (pa.ArrowException, OSError):
        return 0


def _say(message: str) -> None:
    warnings.warn(message, LedgerWarning, stacklevel=2)
