"""From the name of a place to the storage there: a folder, or a prefix in object storage."""

from __future__ import annotations

from pathlib import Path

from tim_search.ledger.local_folder import LocalFolder
from tim_search.ledger.object_store import ObjectStore, address_of, check_endpoint
from tim_search.ledger.place import Held as Held
from tim_search.ledger.place import LedgerWarning as LedgerWarning
from tim_search.ledger.place import Storage as Storage


def at(place: str | Path) -> Storage:
    """The storage at a folder, or at a URL (see `ObjectStore`); touches nothing. Raises BadInput for other URLs."""
    return ObjectStore(address_of(str(place))) if is_url(place) else LocalFolder(Path(place).absolute())


def is_url(place: str | Path) -> bool:
    """Whether a place is a URL; everything else is a path."""
    return "://" in str(place)


def below(folder: str | Path, place: str) -> str | Path:
    """A place as it was written down in a folder: relative paths start there, URLs and absolute paths stay."""
    return place if is_url(place) else Path(folder) / place


def check(place: str, source: str) -> None:
    """Raise BadInput for a URL, read in the file `source`, that is no place for a ledger or that names its own host."""
    address_of(place)
    check_endpoint(place, source)


def received(folder: str | Path, place: str) -> str | Path:
    """`below`, for a folder that may come from others; raises BadInput where its URL names a host of its own."""
    if is_url(place):
        check(place, f"{folder}/search.json")
    return below(folder, place)
