"""The ledger: every score a search has ever obtained, in append-only Parquet. The only source of truth.

A ledger is a folder with three tables: `scores/`, `attention/`, and `curves/` once something was confirmed. A table is
a set of immutable Parquet files, each named by the SHA-256 of its bytes. A file is written aside, synced to disk and
renamed, so it is there whole or not at all, and two writers can never write different things under one name. Nothing is
ever changed in place: compaction writes the rows of many files into one and then deletes the many. Readers take no
lock. docs/ledger.md describes the columns.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import secrets
import socket
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
_STALE = 3600.0  # seconds after which a file written aside was left by a process that died
_FULL = 100_000  # rows of a merged file that no compaction takes up again, so that its memory has a bound
_SEPARATOR = "\x1f"  # cannot occur in a task's name that was read from text


class LedgerError(BadInput):
    """The ledger's folder cannot be used: read-only, full, not a folder, held by another driver."""


class LedgerWarning(UserWarning):
    """A file in the ledger's folder was not used, because it is torn, altered or not the ledger's own."""


class _Unusable(Exception):
    """A file that cannot be part of the ledger; the message says why."""


class Ledger:
    """Scores and attention of every trained unit, in a folder.

    Reading never waits, takes no lock, writes nothing and works on a read-only folder, also while a search writes.
    `append` and `compact` are the driver's; `writer_lock` keeps a second driver out.

    Args:
        path: the folder; it need not exist, the first write makes it.
    """

    def __init__(self, path: str | Path) -> None:
        if "://" in str(path):
            raise BadInput(
                f"{path}: expected a folder for the ledger, got a URL. Name a folder on a local or shared disk."
            )
        self.path = Path(path).absolute()
        self._verified: set[tuple[Any, ...]] = set()
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
                _warn(self.path / kind, unusable)
                table = _distinct(kind, _joined_files(kind, loaded)).select(_SCHEMAS[kind].names)
                merged = self._commit(kind, "compact", table)
                folder = self.path / kind
                for name in loaded:
                    if name != merged:
                        (folder / name).unlink(missing_ok=True)
                _sync(folder)
        pa.default_memory_pool().release_unused()

    @contextlib.contextmanager
    def writer_lock(self) -> Iterator[None]:
        """Hold the ledger as its only driver; the operating system lets go of it when the process dies.

        On entry, files that are torn, altered or foreign are moved to `set-aside/` with a LedgerWarning.

        Raises:
            LedgerError: when another driver holds it; the message names its process, machine and start.
        """
        with self._explained():
            _make(self.path)
            handle = open(self.path / "writer.lock", "a+", encoding="utf-8")  # noqa: SIM115
        with handle:
            try:
                with self._explained():
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except LedgerError as error:
                if not isinstance(error.__cause__, BlockingIOError):
                    raise
                handle.seek(0)
                raise LedgerError(
                    f"{self.path} is being written by {_holder(handle.read())}. Expected one driver a ledger at a "
                    "time. Wait until it has ended or stop it, then run the same command again; reading it "
                    "(`tim-search status`, `tim`, `expand`) works meanwhile."
                ) from None
            holder = {
                "pid": os.getpid(),
                "host": socket.gethostname(),
                "since": datetime.now(UTC).isoformat("T", "seconds"),
            }
            try:
                with self._explained():
                    handle.truncate(0)
                    handle.write(json.dumps(holder))
                    handle.flush()
                    self._tidy()
                yield
            finally:
                handle.truncate(0)

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
        table = self._read("scores", ["context", "subset", "seed", "fold"])
        table = _where(table, [pc.equal(table["context"], context)])
        keys = pa.table([_joined(table), table["seed"], table["fold"]], names=["subset", "seed", "fold"])
        keys = keys.group_by(keys.column_names).aggregate([])
        names: dict[str, str] = {}  # one string object a task, not one a unit
        return {
            Unit(tuple(names.setdefault(name, name) for name in members.split(_SEPARATOR)), seed, fold)
            for members, seed, fold in zip(*(keys[name].to_pylist() for name in keys.column_names), strict=True)
        }

    def files(self) -> int:
        """Number of files of the scores table; many small ones make reading slow (see `compact`)."""
        return len(self._names("scores"))

    def check(self) -> list[Finding]:
        """Everything wrong with the ledger: torn, altered and foreign files, double answers, leftovers."""
        findings = []
        self._verified.clear()
        for kind in _SCHEMAS:
            folder = self.path / kind
            loaded, unusable = self._load_all(kind, self._names(kind))
            for name, problem in sorted(unusable.items()):
                fix = "The next search on this ledger sets it aside and trains the units that are missing."
                findings.append(Finding(str(folder / name), f"{problem}.", fix))
            findings += [
                Finding(str(path), "was left by a writer that died.", "Delete it.", "warning")
                for path in _stale(folder)
            ]
            if kind == "scores" and (twice := _answered_twice(_joined_files(kind, loaded))):
                problem = f"{twice} units were trained and answered more than once."
                findings.append(Finding(str(folder), problem, "Nothing to do: the first answer counts.", "warning"))
        aside = self.path / "set-aside"
        if aside.is_dir() and (count := len(list(aside.iterdir()))):
            problem = f"{count} files were set aside, because they are torn, altered or not the ledger's own."
            findings.append(Finding(str(aside), problem, "Look at them, then delete or move them.", "warning"))
        return findings

    # ---------------------------------------------------------------- files

    def _names(self, kind: str) -> list[str]:
        """Sorted names in a table's folder; names with a leading dot are files being written."""
        try:
            return sorted(name for name in os.listdir(self.path / kind) if not name.startswith("."))
        except FileNotFoundError:
            return []
        except OSError as error:
            raise _unusable_folder(self.path, error) from error

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
        _warn(self.path / kind, unusable)
        return _joined_files(kind, loaded)

    def _load_all(
        self, kind: str, names: Iterable[str], columns: Iterable[str] | None = None
    ) -> tuple[dict[str, Any], dict[str, str]]:
        """(Arrow table by name, problem by name); a file that is gone is in neither."""
        loaded: dict[str, Any] = {}
        unusable: dict[str, str] = {}
        for name in names:
            try:
                loaded[name] = _load(self.path / kind / name, _SCHEMAS[kind], columns, self._verified)
            except _Unusable as error:
                unusable[name] = str(error)
            except FileNotFoundError:
                continue
            except OSError as error:
                raise _unusable_folder(self.path, error) from error
        return loaded, unusable

    def _commit(self, kind: str, prefix: str, table: Any) -> str:
        """Write a table as an immutable file and return its name."""
        sink = pa.BufferOutputStream()
        # A commit should be quick, a merged file small.
        compression = "zstd" if prefix == "compact" else "snappy"
        pq.write_table(table, sink, compression=compression, write_page_checksum=True)
        content = sink.getvalue()
        name = f"{prefix}-{hashlib.sha256(content).hexdigest()[:32]}.parquet"
        _make(self.path / kind)
        write_durably(self.path / kind / name, content)
        return name

    def _mergeable(self, kind: str) -> list[str]:
        folder = self.path / kind
        sizes: dict[str, int] = {}
        for name in self._names(kind):
            if _NAME.fullmatch(name):
                with contextlib.suppress(FileNotFoundError):
                    sizes[name] = (folder / name).stat().st_size
        chosen = [name for name in sizes if name.startswith("part-")]
        total = sum(sizes[name] for name in chosen)
        for name in sorted(sizes.keys() - set(chosen), key=lambda name: (sizes[name], name)):
            if sizes[name] <= total and _rows(folder / name) < _FULL:
                chosen.append(name)
                total += sizes[name]
        return chosen

    def _tidy(self) -> None:
        """Move what cannot be read out of the tables, so that plain pandas reads them too."""
        for kind in _SCHEMAS:
            folder, aside = self.path / kind, self.path / "set-aside"
            for path in _stale(folder):
                path.unlink(missing_ok=True)
            _, unusable = self._load_all(kind, self._names(kind), columns=())
            for name, problem in unusable.items():
                _make(aside)
                target = aside / name
                if target.exists():
                    target = aside / f"{name}.{secrets.token_hex(4)}"
                os.replace(folder / name, target)
                _sync(aside)
                _sync(folder)
                _say(f"{folder / name}: {problem}. It was moved to {target}; units it held are trained again.")

    def _now(self) -> datetime:
        """The time, later than any this object gave before, also when the clock goes back."""
        self._latest = max(datetime.now(UTC), self._latest + timedelta(microseconds=1))
        return self._latest

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise _unusable_folder(self.path, error) from error


def write_durably(path: Path, content: bytes) -> None:
    """Write a file so that it is there whole or not at all, also after a loss of power; raises OSError."""
    aside = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        with open(aside, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    _sync(path.parent)


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
    """The subset of every row as one string, which Arrow and pandas can group by."""
    return pc.binary_join(table["subset"].combine_chunks(), _SEPARATOR)


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
    columns = [_joined(table) if name == "subset" else table[name].combine_chunks() for name in _ANSWER[kind]]
    return [
        np.asarray((column if pa.types.is_dictionary(column.type) else column.dictionary_encode()).indices)
        for column in columns
    ]


def _answered_twice(table: Any) -> int:
    """Units with answers of different times; equal times are one answer in two files of an interrupted compaction."""
    if table.num_rows == 0:
        return 0
    created = pd.Series(table["created"].cast(pa.int64()).to_numpy())
    return int((created.groupby(_keys("scores", table)).nunique() > 1).sum())


def _frame(table: Any) -> pd.DataFrame:
    frame: pd.DataFrame = table.to_pandas()
    return frame


# -------------------------------------------------------------------- files


def _load(path: Path, schema: Any, columns: Iterable[str] | None, verified: set[tuple[Any, ...]]) -> Any:
    """Arrow table of one file, or _Unusable; FileNotFoundError when a compaction has just removed it.

    The bytes of a file are held against its name, once: `verified` remembers the files that passed.
    """
    name = _NAME.fullmatch(path.name)
    if name is None or path.is_dir():
        raise _Unusable("it is not a file of this ledger")
    wanted = schema.names if columns is None else [column for column in schema.names if column in set(columns)]
    with open(path, "rb") as source:
        status = os.fstat(source.fileno())
        mark = (str(path), status.st_ino, status.st_size, status.st_mtime_ns)
        if mark not in verified:
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
    verified.add(mark)
    return table


def _rows(path: Path) -> int:
    """Rows of a file; 0 where it cannot be read, which is for others to tell."""
    try:
        return int(pq.read_metadata(path).num_rows)
    except (pa.ArrowException, OSError):
        return 0


def _stale(folder: Path) -> list[Path]:
    """Files written aside that were never renamed, because their writer died."""
    found = []
    for path in sorted(folder.glob(".*.tmp")):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > _STALE:
                found.append(path)
    return found


def _make(folder: Path) -> None:
    """Make a folder and its parents so that they outlive a loss of power."""
    if folder.is_dir():
        return
    _make(folder.parent)
    folder.mkdir(exist_ok=True)
    _sync(folder.parent)


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _holder(text: str) -> str:
    try:
        holder = json.loads(text)
        return f"process {holder['pid']} on {holder['host']} since {holder['since']}"
    except (ValueError, TypeError, KeyError):  # it has just taken the lock and not yet written its name
        return "another process"


def _unusable_folder(path: Path, error: OSError) -> LedgerError:
    advice = {
        errno.ENOSPC: "The disk is full: free some space",
        errno.EDQUOT: "Your quota is used up: free some space",
        errno.EFBIG: "The file size limit is reached: raise it (ulimit -f)",
        errno.EROFS: "The disk is read-only: name a folder that can be written (`ledger:` in the search file)",
        errno.EACCES: "Permission is denied: name a folder you may use (`ledger:` in the search file)",
        errno.EPERM: "Permission is denied: name a folder you may use (`ledger:` in the search file)",
        errno.ENOTDIR: "A file stands where a folder is expected: name a folder",
        errno.EEXIST: "A file stands where a folder is expected: name a folder",
    }.get(error.errno or 0, "Mend that")
    return LedgerError(
        f"{path}: the ledger cannot be used: {error}. {advice}, then run the same command again; what is in the ledger "
        "stays valid, and the search goes on from there."
    )


def _warn(folder: Path, unusable: Mapping[str, str]) -> None:
    for name, problem in sorted(unusable.items()):
        _say(f"{folder / name}: {problem}. It was not read; `tim-search check` on the search's folder tells more.")


def _say(message: str) -> None:
    warnings.warn(message, LedgerWarning, stacklevel=2)
