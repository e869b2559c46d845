"""The tables of a ledger as sets of immutable files: listing, reading, committing, and what to say of unusable ones."""

from __future__ import annotations

import contextlib
import hashlib
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tim_search.gates.texts import for_terminal
from tim_search.ledger import decoding, encoding
from tim_search.ledger.rows import LedgerRows, joined
from tim_search.ledger.schema import FileRows, Unfit
from tim_search.ledger.storage import LedgerWarning, Storage
from tim_search.types import BadInput

#: Names of the files of a table: kind of the file, start of the SHA-256 of its bytes.
NAME = re.compile(r"(part|compact)-([0-9a-f]{32})\.parquet")

_MOST_TRIES = 100  # listings in which a file may be that cannot be found, before it is called unusable


class LedgerError(BadInput):
    """The ledger's place cannot be used: read-only, full, not a folder, out of reach, held by another driver."""


class Tables:
    """The files of one ledger, in a place.

    Attributes:
        storage: where they lie.
    """

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self._verified: set[Any] = set()  # marks of files whose bytes were held against their names

    def names(self, kind: str) -> list[str]:
        """Sorted names of a table's files."""
        with self.explained():
            return self.storage.names(kind)

    def read(self, kind: str, columns: Iterable[str]) -> LedgerRows:
        """The rows of all files, for a reader: no row is missed although a compaction may run meanwhile.

        A folder listing is not atomic: it may lack the merged file, which came too late for it, and the small files,
        which went before it got to them. Such a merged file is in the next listing; so every reading lists twice, and
        again as long as a listed file is gone.
        """
        columns = set(columns)
        loaded: dict[str, FileRows] = {}
        unusable: dict[str, str] = {}
        tries: Counter[str] = Counter()
        fresh = self.names(kind)
        while True:
            more, bad = self.load(kind, fresh, columns=columns)
            loaded |= more
            unusable |= bad
            gone = [name for name in fresh if name not in more and name not in bad]
            tries.update(gone)
            unusable |= {name: "it is listed, but not there" for name in gone if tries[name] > _MOST_TRIES}
            fresh = [name for name in self.names(kind) if name not in loaded and name not in unusable]
            if not fresh and not gone:
                break
        self.warn(kind, unusable)
        return joined(kind, loaded)

    def load(
        self, kind: str, names: Iterable[str], columns: Iterable[str] | None = None
    ) -> tuple[dict[str, FileRows], dict[str, str]]:
        """(rows by name, problem by name); a file that is gone is in neither. `columns` None takes all."""

        def load(name: str) -> FileRows | str | None:
            try:
                return self._load(kind, name, columns)
            except Unfit as error:
                return str(error)
            except FileNotFoundError:
                return None

        names = list(names)
        with self.explained():
            if self.storage.abreast > 1 and len(names) > 1:
                with ThreadPoolExecutor(self.storage.abreast) as threads:
                    answers = dict(zip(names, threads.map(load, names), strict=True))
            else:
                answers = {name: load(name) for name in names}
        unusable = {name: problem for name, problem in answers.items() if isinstance(problem, str)}
        return {name: rows for name, rows in answers.items() if isinstance(rows, FileRows)}, unusable

    def _load(self, kind: str, name: str, columns: Iterable[str] | None) -> FileRows:
        """Rows of one file, or Unfit; FileNotFoundError when a compaction has just removed it."""
        with self.opened(kind, name) as source:
            return decoding.read(kind, source, None if columns is None else set(columns))

    @contextlib.contextmanager
    def opened(self, kind: str, name: str) -> Iterator[Any]:
        """A file whose bytes fit its name, which is checked once; raises as `_load` does."""
        parts = NAME.fullmatch(name)
        if parts is None:
            raise Unfit("it is not a file of this ledger")
        with contextlib.ExitStack() as stack:
            try:
                source, mark = stack.enter_context(self.storage.read(f"{kind}/{name}"))
            except BadInput as error:  # a pipe, a folder, a link that leads nowhere
                reason = str(error).rpartition(": ")[2].split(". ")[0]
                raise Unfit(f"it is not a file of this ledger ({reason})") from None
            if mark is None or mark not in self._verified:
                if hashlib.file_digest(source, "sha256").hexdigest()[:32] != parts[2]:
                    raise Unfit("its bytes do not match its name: it is torn, was altered or was renamed")
                source.seek(0)
                if mark is not None:
                    self._verified.add(mark)
            yield source

    def forget(self) -> None:
        """Hold the bytes of all files against their names again."""
        self._verified.clear()

    def commit(self, kind: str, prefix: str, table: Any, runs: FileRows) -> str:
        """Write a table as an immutable file and return its name; raises OSError."""
        # A commit should be quick, a merged file small.
        content = encoding.parquet(table, runs, "zstd" if prefix == "compact" else "snappy")
        name = f"{prefix}-{hashlib.sha256(content).hexdigest()[:32]}.parquet"
        self.storage.put(f"{kind}/{name}", content)
        return name

    def warn(self, kind: str, unusable: Mapping[str, str]) -> None:
        """Warn of files that were not read."""
        for name, problem in sorted(unusable.items()):
            say(
                f"{self.storage.place}/{kind}/{name}: {problem}. It was not read; `tim-search check` on the search's "
                "folder tells more."
            )

    @contextlib.contextmanager
    def explained(self) -> Iterator[None]:
        """Within it, an OSError of the place becomes a LedgerError that says what to do."""
        try:
            yield
        except OSError as error:
            raise LedgerError(
                f"{self.storage.place}: the ledger cannot be used: {error}. {self.storage.advice(error)}, then run the "
                "same command again; what is in the ledger stays valid, and the search goes on from there."
            ) from error


def say(message: str) -> None:
    """Warn of something about a ledger."""
    warnings.warn(for_terminal(message), LedgerWarning, stacklevel=2)
