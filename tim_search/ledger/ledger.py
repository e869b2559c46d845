"""The ledger: every score a search has ever obtained, in append-only Parquet. The only source of truth.

A ledger is a folder, or a prefix in object storage, with three tables: `scores/`, `attention/`, and `curves/` once
something was confirmed. A table is a set of immutable Parquet files, each named by the SHA-256 of its bytes. A file is
there whole or not at all, and two writers can never write different things under one name (`storage`).
Nothing is ever changed in place: compaction writes the rows of many files into one and then deletes the many. Readers
take no lock. docs/ledger.md describes the columns.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from tim_search.ledger import encoding, storage, upkeep
from tim_search.ledger.rows import LedgerRows
from tim_search.ledger.schema import SCHEMAS
from tim_search.ledger.storage import Held, Storage
from tim_search.ledger.tables import LedgerError as LedgerError
from tim_search.ledger.tables import Tables
from tim_search.types import Context, Finding, PackResult, Sheet, Unit, product_version
from tim_search.types.columns import Units


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
        self._tables = Tables(self.storage)
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
        with self._tables.explained():
            for kind in ("attention", "curves", "scores"):
                if rows := encoding.rows_of_results(kind, batch, context, created, product_version()):
                    self._tables.commit(kind, "part", *rows)

    def compact(self) -> None:
        """Merge the many small files of each table into few, dropping rows of units that were answered twice in them.

        Safe against a kill between any two steps, and no reader ever sees fewer rows: a merged file is in place before
        the first small one goes. Earlier merged files take part once they are no larger than what is merged with them,
        so that a growing ledger is rewritten a few times, not once a compaction; a merged file is closed at 100,000
        rows and then stays as it is, so that memory has a bound.
        """
        upkeep.compact(self._tables)

    def absorb(self, other: Ledger) -> int:
        """Copy every file of another ledger into this one, as it is; returns how many were not here yet.

        Files that cannot be used stay where they are, with a LedgerWarning. A copy that was cut short is finished by
        the next one: a file has one name everywhere.

        Raises:
            LedgerError: when this ledger cannot be written or the other one cannot be read.
        """
        return upkeep.absorb(self._tables, other._tables)

    @contextlib.contextmanager
    def writer_lock(self) -> Iterator[None]:
        """Hold the ledger as its only driver, until the process ends, however it ends (see `Storage.writer`).

        On entry, files that are torn, altered or foreign are moved to `set-aside/` with a LedgerWarning.

        Raises:
            LedgerError: when another driver holds it; the message names its process, machine and start.
        """
        with contextlib.ExitStack() as stack:
            try:
                with self._tables.explained():
                    stack.enter_context(self.storage.writer())
            except Held as holder:
                raise LedgerError(
                    f"{self.place} is being written by {holder}. Expected one driver a ledger at a time. Wait until it "
                    "has ended or stop it, then run the same command again; reading it (`tim-search status`, `tim`, "
                    "`expand`) works meanwhile."
                ) from None
            upkeep.tidy(self._tables)
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

    def _scores(self, wanted: Sequence[str], context: str | None, primary: bool, part: str | None) -> LedgerRows:
        rows = self._tables.read("scores", [*wanted, "primary"] if primary else wanted)
        runs = np.ones(len(rows.counts), bool)
        for name, value in (("context", context), ("part", part)):
            if value is not None:
                runs &= rows.equal(name, value)
        chosen = rows.table["primary"].to_numpy() if primary else None
        return rows.keep(runs, None if chosen is None or chosen.all() else chosen).first_answers()

    def attention(self, context: str | None = None) -> pd.DataFrame:
        """Rows of the attention table, deduplicated like `scores`: how much `task` draws on `other`."""
        return self._rows_of("attention", context)

    def curves(self, context: str | None = None) -> pd.DataFrame:
        """Rows of the curves table, deduplicated like `scores` (see `tim_search.types.Curve`)."""
        return self._rows_of("curves", context)

    def _rows_of(self, kind: str, context: str | None) -> pd.DataFrame:
        names = SCHEMAS[kind].names
        rows = self._tables.read(kind, names)
        chosen = rows if context is None else rows.keep(rows.equal("context", context))
        return chosen.first_answers().frame(names)

    def done(self, context: str) -> set[Unit]:
        """Units of a context that have a final answer, a failed one included."""
        rows = self._tables.read("scores", ())
        return rows.keep(rows.equal("context", context)).units()

    def lacking(self, context: str, units: Iterable[Unit]) -> tuple[Units, int]:
        """(those of some units that have no final answer, in their order and once each; how many have one).

        What `done` is for millions of units: no set of them is made.
        """
        units = Units.of(units)
        rows = self._tables.read("scores", ())
        held, first = rows.keep(rows.equal("context", context)).holds(units), units.first()
        return units.take(first & ~held), int((first & held).sum())

    def contexts(self) -> dict[str, Context]:
        """The contexts that the scores have, by their keys."""
        names = [item.name for item in fields(Context)]
        rows = self._tables.read("scores", names)
        # A context's key stands for all its values, so that one row of each tells them.
        _, runs = np.unique(rows.codes("context"), return_index=True)
        first = rows.table.take(pa.array((np.cumsum(rows.counts) - rows.counts)[runs]))
        keys = rows.runs["context"].take(pa.array(runs)).cast(pa.string()).to_pylist()
        columns = [first[name].cast(pa.string()).to_pylist() for name in names]
        return {key: Context(*values) for key, *values in zip(keys, *columns, strict=True)}

    def progress(self, context: str, tasks: Collection[str], blocks: Collection[tuple[int, int]]) -> Progress:
        """How far the search of these tasks and blocks is, from the footers and two columns of the scores."""
        return Progress(*self._scores(["status", "seconds"], context, True, "validation").tally(tasks, blocks))

    def failures(self, context: str) -> dict[str, int]:
        """Reasons of failed units of a context, and how many units each has; the most frequent first."""
        rows = self._scores(["status", "error"], context, True, "validation")
        bad = np.asarray(pc.equal(rows.table["status"], "failed"))
        if not bad.any():
            return {}
        frame = rows.keep(np.ones(len(rows.counts), bool), bad).frame(["subset", "seed", "fold", "error"])
        frame = frame.assign(subset=frame["subset"].map(tuple)).drop_duplicates()
        return {str(reason): int(count) for reason, count in frame["error"].value_counts().items()}

    def files(self) -> int:
        """Number of files of the scores table; many small ones make reading slow (see `compact`)."""
        return len(self._tables.names("scores"))

    def check(self) -> list[Finding]:
        """Everything wrong with the ledger: torn, altered and foreign files, double answers, leftovers, gaps."""
        return upkeep.check(self._tables)

    def _now(self) -> datetime:
        """The time, later than any this object gave before, also when the clock goes back."""
        self._latest = max(datetime.now(UTC), self._latest + timedelta(microseconds=1))
        return self._latest
