"""Pieces of sentences that every message shares: lists of names, times, "did you mean", the version."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from functools import cache
from importlib.metadata import PackageNotFoundError, version


def some(names: Sequence[str], most: int = 6) -> str:
    """`a, b, c`; of more than `most` names the first ones, and how many more there are."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def counted(count: int, noun: str) -> str:
    """`1 task`, `1,200 tasks`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def duration(seconds: float) -> str:
    """`45 s`, `12 min`, `3.4 h`; never `0 s`."""
    if 0 < seconds < 1:
        return "under 1 s"
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def near(name: str, names: Iterable[str]) -> str:
    """` Did you mean X?` where one of the names is like `name`, else nothing."""
    matches = get_close_matches(name, list(names), n=1)
    return f" Did you mean {matches[0]}?" if matches else ""


@cache
def product_version() -> str:
    """Version of the installed product, "unknown" where it runs from a folder without being installed."""
    try:
        return version("tim-search")
    except PackageNotFoundError:
        return "unknown"
