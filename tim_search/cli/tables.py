"""What all tables share: their form, intervals, names and places one a line, and which rows are shown of many."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from tim_search.types import some

#: Sources that are told one by one; of more only those with the surest effects.
MOST_SOURCES = 20


#: Cells that are told of a matrix with more sources, and of one source with more helpers and harmers.
MOST_CELLS = 40


def plain_table(title: str, *columns: str) -> Table:
    """A plain table that fits 80 characters where task names are of ordinary length."""
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", padding=(0, 1, 0, 0))
    for column in columns:
        table.add_column(column, overflow="fold", no_wrap=column in ("rule", "gain", "interval"))
    return table


def pairs(rows: Mapping[str, Any]) -> Table:
    """Names and values, one a line."""
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")  # a path that is cut cannot be copied
    for name, value in rows.items():
        table.add_row(Text(name, style="bold"), Text(str(value)))
    return table


def places(rows: Mapping[str, Any]) -> str:
    """Names and places, one a line, however long: they are there to be copied."""
    width = max(map(len, rows))
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows.items())


def names(tasks: Sequence[str]) -> str:
    """The tasks of a search; of many the first ones, and how many there are."""
    return ", ".join(tasks) if len(tasks) <= MOST_SOURCES else f"{len(tasks)} tasks: {some(tasks)}"


def interval(low: float | None, high: float | None) -> str:
    """`[-0.003, +0.011]`, or nothing where there is none."""
    return "" if low is None or high is None else f"[{low:+.4f}, {high:+.4f}]"


def interval_width(row: Mapping[str, Any]) -> float:
    """Of an interval; of what has none so much that it counts as less sure than all that have one."""
    return 1e9 if row["low"] is None or row["high"] is None else max(row["high"] - row["low"], 1e-12)


def surest_rows(rows: Sequence[Mapping[str, Any]], key: Callable[[Mapping[str, Any]], Any]) -> list[Mapping[str, Any]]:
    """The first `MOST_SOURCES` rows by `key`, largest first, in their own order."""
    places = sorted(sorted(range(len(rows)), key=lambda place: key(rows[place]), reverse=True)[:MOST_SOURCES])
    return [rows[place] for place in places]


def colour(value: float) -> str:
    """As in the figures: red helps, blue harms."""
    return "red" if value > 0 else "blue"


def dim_lines(lines: Iterable[str]) -> list[Text]:
    """Notes below a table, one a line."""
    return [Text(f"  {line}", style="dim") for line in lines]
