"""The ledger: every score a search has ever obtained, in append-only Parquet. The only source of truth.

A ledger is a folder, or a prefix in object storage, with three tables: `scores/`, `attention/`, and `curves/` once
something was confirmed. A table is a set of immutable Parquet files, each named by the SHA-256 of its bytes. A file is
there whole or not at all, and two writers can never write different things under one name (`storage`).
Nothing is ever changed in place: compaction writes the rows of many files into one and then deletes the many. Readers
take no lock. docs/ledger.md describes the columns.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import secrets
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tim_search.ledger import rows, storage
from tim_search.ledger.rows import SCHEMAS, FileRows, Rows, Unfit
from tim_search.ledger.storage import Held, Storage
from tim_search.ledger.storage import LedgerWarning as LedgerWarning
from tim_search.types import MOST_ATTENDED, BadInput, Context, Finding, PackResult, Sheet, Unit
from tim_search.types.columns import Units

_NAME = re.compile(r"(part|compact)-([0-9a-f]{32})\.parquet")
_FULL = 100_000  # rows of a merged file that no compaction takes up again, so that its memory has a bound
_NAMES = 5_000_000  # names in the lists of a merged file: with hundreds of tasks they are what takes the memory


class LedgerError(BadInput):
    """The ledger's place cannot be used: read-only, full, not a folder, out of reach, held by another driver."""


class Progress(NamedTuple):
    """What a ledger holds of a context: units `trained` of the tasks and blocks asked for; of all of it units that
    `failed`, `seconds` of training summed over units, and when its `latest` row was written (None without any)."""

    trained: int
    failed: int
    seconds: float
    latest: datetime | None


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
            for kind in ("attention", "curves", "scores"):
                if found := rows.commit(kind, batch, context, created, product_version()):
                    self._commit(kind, "part", *found)

    def compact(self) -> None:
        """Merge the many small files of each table into few, dropping rows of units that were answered twice in them.

        Safe against a kill between any two steps, and no reader ever sees fewer rows: a merged file is in place before
        the first small one goes. Earlier merged files take part once they are no larger than what is merged with them,
        so that a growing ledger is rewritten a few times, not once a compaction; a merged file is closed at 100,000
        rows and then stays as it is, so that memory has a bound.
        """
        with self._explained():
            for kind in SCHEMAS:
                chosen = self._mergeable(kind)
                loaded: dict[str, FileRows] = {}
                n_rows = n_names = 0
                for start in range(0, len(chosen) if len(chosen) > 1 else 0, self.storage.abreast):
                    more, unusable = self._load_all(kind, chosen[start : start + self.storage.abreast])
                    self._warn(kind, unusable)
                    loaded |= more
                    n_rows += sum(found.table.num_rows for found in more.values())
                    n_names += sum(pc.sum(found.table["size"]).as_py() or 0 for found in more.values())
                    if n_rows >= _FULL or n_names >= _NAMES:
                        self._merge(kind, loaded)
                        loaded, n_rows, n_names = {}, 0, 0
                if len(loaded) > 1:
                    self._merge(kind, loaded)
        pa.default_memory_pool().release_unused()

    def _merge(self, kind: str, loaded: Mapping[str, FileRows]) -> None:
        merged = self._commit(kind, "compact", *rows.joined(kind, loaded).first_answers().in_one_file())
        self.storage.remove(f"{kind}/{name}" for name in loaded if name != merged)

    def absorb(self, other: Ledger) -> int:
        """Copy every file of another ledger into this one, as it is; returns how many were not here yet.

        Files that cannot be used stay where they are, with a LedgerWarning. A copy that was cut short is finished by
        the next one: a file has one name everywhere.

        Raises:
            LedgerError: when this ledger cannot be written or the other one cannot be read.
        """
        copied = 0
        for kind in SCHEMAS:
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
        wanted = list(columns) if columns is not None else SCHEMAS["scores"].names
        return self._scores(wanted, context, primary, part).frame(wanted)

    def sheet(self, context: str | None = None, part: str | None = "validation", *, replicates: bool = False) -> Sheet:
        """What `scores` gives of the primary metrics, as plain arrays: for millions of units (see `Sheet`)."""
        wanted = ["task", "status", "score", *(["replicates"] if replicates else [])]
        return self._scores(wanted, context, True, part).sheet()

    def _scores(self, wanted: Sequence[str], context: str | None, primary: bool, part: str | None) -> Rows:
        found = self._read("scores", [*wanted, "primary"] if primary else wanted)
        runs = np.ones(len(found.counts), bool)
        for name, value in (("context", context), ("part", part)):
            if value is not None:
                runs &= found.equal(name, value)
        chosen = found.table["primary"].to_numpy() if primary else None
        return found.keep(runs, None if chosen is None or chosen.all() else chosen).first_answers()

    def attention(self, context: str | None = None) -> pd.DataFrame:
        """Rows of the attention table, deduplicated like `scores`: how much `task` draws on `other`."""
        return self._rows_of("attention", context)

    def curves(self, context: str | None = None) -> pd.DataFrame:
        """Rows of the curves table, deduplicated like `scores` (see `tim_search.types.Curve`)."""
        return self._rows_of("curves", context)

    def _rows_of(self, kind: str, context: str | None) -> pd.DataFrame:
        names = SCHEMAS[kind].names
        found = self._read(kind, names)
        chosen = found if context is None else found.keep(found.equal("context", context))
        return chosen.first_answers().frame(names)

    def done(self, context: str) -> set[Unit]:
        """Units of a context that have a final answer, a failed one included."""
        found = self._read("scores", ())
        return found.keep(found.equal("context", context)).units()

    def lacking(self, context: str, units: Iterable[Unit]) -> tuple[Units, int]:
        """(those of some units that have no final answer, in their order and once each; how many have one).

        What `done` is for millions of units: no set of them is made.
        """
        units = Units.of(units)
        found = self._read("scores", ())
        held, first = found.keep(found.equal("context", context)).holds(units), units.first()
        return units.take(first & ~held), int((first & held).sum())

    def contexts(self) -> dict[str, Context]:
        """The contexts that the scores have, by their keys."""
        names = [item.name for item in fields(Context)]
        found = self._read("scores", names)
        # A context's key stands for all its values, so that one row of each tells them.
        _, runs = np.unique(found.codes("context"), return_index=True)
        first = found.table.take(pa.array((np.cumsum(found.counts) - found.counts)[runs]))
        keys = found.runs["context"].take(pa.array(runs)).cast(pa.string()).to_pylist()
        columns = [first[name].cast(pa.string()).to_pylist() for name in names]
        return {key: Context(*values) for key, *values in zip(keys, *columns, strict=True)}

    def progress(self, context: str, tasks: Collection[str], blocks: Collection[tuple[int, int]]) -> Progress:
        """How far the search of these tasks and blocks is, from the footers and two columns of the scores."""
        return Progress(*self._scores(["status", "seconds"], context, True, "validation").tally(tasks, blocks))

    def failures(self, context: str) -> dict[str, int]:
        """Reasons of failed units of a context, and how many units each has; the most frequent first."""
        found = self._scores(["status", "error"], context, True, "validation")
        bad = np.asarray(pc.equal(found.table["status"], "failed"))
        if not bad.any():
            return {}
        frame = found.keep(np.ones(len(found.counts), bool), bad).frame(["subset", "seed", "fold", "error"])
        frame = frame.assign(subset=frame["subset"].map(tuple)).drop_duplicates()
        return {str(reason): int(count) for reason, count in frame["error"].value_counts().items()}

    def files(self) -> int:
        """Number of files of the scores table; many small ones make reading slow (see `compact`)."""
        return len(self._names("scores"))

    def check(self) -> list[Finding]:
        """Everything wrong with the ledger: torn, altered and foreign files, double answers, leftovers, gaps."""
        findings = []
        self._verified.clear()
        answered: dict[str, Rows] = {}
        for kind in SCHEMAS:
            with self._explained():
                loaded, unusable = self._load_all(kind, self._names(kind), columns=("status",))
                left = self.storage.leftovers(kind)
            for name, problem in sorted(unusable.items()):
                fix = "The next search on this ledger sets it aside and trains the units that are missing."
                findings.append(Finding(f"{self.place}/{kind}/{name}", f"{problem}.", fix))
            findings += [
                Finding(f"{self.place}/{key}", "was left by a writer that died.", "Delete it.", "warning")
                for key in left
            ]
            answered[kind] = rows.joined(kind, loaded)
        place = f"{self.place}/scores"
        if twice := answered["scores"].answered_twice():
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

    def _read(self, kind: str, columns: Iterable[str]) -> Rows:
        """The rows of all files, for a reader: no row is missed although a compaction may run meanwhile.

        A folder listing is not atomic: it may lack the merged file, which came too late for it, and the small files,
        which went before it got to them. Such a merged file is in the next listing; so every reading lists twice, and
        again as long as a listed file is gone.
        """
        columns = set(columns)
        loaded: dict[str, FileRows] = {}
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
        return rows.joined(kind, loaded)

    def _load_all(
        self, kind: str, names: Iterable[str], columns: Iterable[str] | None = None
    ) -> tuple[dict[str, FileRows], dict[str, str]]:
        """(rows by name, problem by name); a file that is gone is in neither. `columns` None takes all."""

        def load(name: str) -> Any:
            try:
                return _load(self.storage, kind, name, columns, self._verified)
            except Unfit as error:
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
        return {name: table for name, table in found.items() if isinstance(table, FileRows)}, unusable

    def _commit(self, kind: str, prefix: str, table: Any, runs: FileRows) -> str:
        """Write a table as an immutable file and return its name."""
        # A commit should be quick, a merged file small.
        content = rows.parquet(table, runs, "zstd" if prefix == "compact" else "snappy")
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
        for kind in SCHEMAS:
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


def _without_attention(scores: Rows, attention: Rows) -> int:
    """Units that were scored and lack their attention, of contexts whose other units have some."""
    missing = 0
    for context in attention.runs["context"].cast(pa.string()).unique().to_pylist():
        scored = scores.keep(scores.equal("context", context), np.asarray(pc.equal(scores.table["status"], "ok")))
        lacking = scored.units() - attention.keep(attention.equal("context", context)).units()
        missing += sum(len(unit.subset) <= MOST_ATTENDED for unit in lacking)
    return missing


# -------------------------------------------------------------------- files


def _load(place: Storage, kind: str, name: str, columns: Iterable[str] | None, verified: set[Any]) -> FileRows:
    """Rows of one file, or Unfit; FileNotFoundError when a compaction has just removed it.

    The bytes of a file are held against its name, once: `verified` remembers the files that passed.
    """
    told = _NAME.fullmatch(name)
    if told is None:
        raise Unfit("it is not a file of this ledger")
    with contextlib.ExitStack() as stack:
        try:
            source, mark = stack.enter_context(place.read(f"{kind}/{name}"))
        except IsADirectoryError:
            raise Unfit("it is not a file of this ledger") from None
        if mark is None or mark not in verified:
            if hashlib.file_digest(source, "sha256").hexdigest()[:32] != told[2]:
                raise Unfit("its bytes do not match its name: it is torn, was altered or was renamed")
            source.seek(0)
        try:
            found = rows.read(kind, source, None if columns is None else set(columns))
        except (pa.ArrowException, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            raise Unfit(f"it cannot be read as Parquet ({str(error).splitlines()[0]})") from error
    if mark is not None:
        verified.add(mark)
    return found


def _rows(place: Storage, key: str) -> int:
    """Rows of a file; 0 where it cannot be read, which is for others to tell."""
    try:
        with place.read(key) as (source, _):
            return int(pq.read_metadata(source).num_rows)
    except (pa.ArrowException, OSError):
        return 0


def _say(message: str) -> None:
    warnings.warn(message, LedgerWarning, stacklevel=2)
