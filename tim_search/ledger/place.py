"""The contract of a place where a ledger's files lie.

It is what an append-only ledger needs and no more: list a table, read a file, put a file whole or not at all, remove
files, and say who writes. No kind of place offers anything that another lacks, so that nothing above depends on where
the files are. docs/ledger.md says what is guaranteed in each.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeAlias

File: TypeAlias = io.BufferedReader | io.BytesIO


class LedgerWarning(UserWarning):
    """Something about a ledger that its user should know and that stops nothing: a file that was not used, a wait."""


class Held(Exception):
    """Another driver writes here; the message says which."""


class Storage(Protocol):
    """A place for immutable files, each named `table/name` or `name`.

    Every method but `writer` raises OSError when the place cannot be used, FileNotFoundError for a file that is gone.

    Attributes:
        place: what people call it: an absolute path or a URL, without secrets.
        abreast: how many files it pays to read at a time.
    """

    place: str
    abreast: int

    def names(self, table: str) -> list[str]:
        """Sorted names of a table's files; files that are being written are none of them."""
        ...

    def sizes(self, table: str) -> dict[str, int]:
        """Bytes of every file that `names` gives, but for those that have gone meanwhile."""
        ...

    def read(self, key: str) -> AbstractContextManager[tuple[File, Any]]:
        """(the file, a mark). Two readings with one mark that is not None gave the same bytes.

        Raises BadInput for what is no file.
        """
        ...

    def put(self, key: str, content: Any) -> None:
        """Write a file (bytes or a buffer): on return it is there whole and durable; if this fails, it is not there."""
        ...

    def remove(self, keys: Iterable[str]) -> None:
        """Remove files; those that are gone already are no error."""
        ...

    def move(self, key: str, target: str) -> None:
        """Give a file another name, in place of what has that name."""
        ...

    def leftovers(self, table: str) -> list[str]:
        """Keys of what writers that died have left half-written."""
        ...

    def writer(self) -> AbstractContextManager[None]:
        """Be the only driver that writes here; raises Held when there is another."""
        ...

    def advice(self, error: OSError) -> str:
        """What to do about an error, as the beginning of a sentence."""
        ...
