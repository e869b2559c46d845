"""Tables of TIM scores: the matrix, one source task, two searches side by side, several sites pooled."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from tim_search.cli.tables import MOST_CELLS, MOST_SOURCES, colour, interval, pairs, plain_table
from tim_search.tim.result import TimResult, surest

#: Characters a column of the TIM matrix takes; a matrix that does not fit the terminal is shown as a list.
_CELL = 11

#: What the marks of scores mean, in every table.
MARKS = (
    "* a discovery: Benjamini-Hochberg at a false discovery rate of 10 %.",
    "\N{DEGREE SIGN} certain by itself, no discovery: its 95 % interval excludes 0, as one in twenty does by luck.",
)


def matrix(result: TimResult, width: int, overlaps: Iterable[tuple[str, str]] = ()) -> RenderableType:
    """The TIM scores, row = source task; as a list where the terminal is too narrow for the matrix.

    Of many tasks the list holds the surest scores of pairs that are not among `overlaps`.
    """
    if _CELL * (len(result.tasks) + 1) > width:
        return _listed(result) if len(result.tasks) <= MOST_SOURCES else _surest(result, overlaps)
    table = plain_table(f"{result.label}; row = source task", "")
    for name in result.tasks:
        table.add_column(Text(name), justify="right", overflow="fold", max_width=_CELL)
    for i, source in enumerate(result.tasks):
        cells = [Text("") if i == j else _cell(result, i, j) for j in range(len(result.tasks))]
        table.add_row(Text(source, style="bold"), *cells)
    return Group(table, *_notes(result))


def _cell(result: TimResult, i: int, j: int) -> Text:
    value = float(result.estimate[i, j])
    if not np.isfinite(value):
        return Text("-", style="dim")
    mark = _mark(bool(result.rejected[i, j]), bool(result.low[i, j] > 0 or result.high[i, j] < 0))
    return Text(f"{value:+.4f}{mark}", style=colour(value))


def source(result: TimResult, name: str) -> RenderableType:
    """The TIM scores of one source task, best helper first."""
    return _listed(result, (name,))


def _surest(result: TimResult, overlaps: Iterable[tuple[str, str]]) -> RenderableType:
    """The surest scores of a matrix that nobody would read as a list."""
    cells = surest(result, overlaps)
    shown = cells[:MOST_CELLS].tolist()
    table = _score_table(f"{result.label}: the {len(shown)} surest of {len(cells):,} scores")
    for i, j in shown:
        table.add_row(Text(result.tasks[i], style="bold"), *_score_row(result, i, j))
    more = "  All of them are in tables/tim.csv of the search folder and with --json; those of one task with --source."
    return Group(table, Text(more), *_notes(result))


def _listed(result: TimResult, sources: Sequence[str] = ()) -> RenderableType:
    table = _score_table(result.label)
    for name in sources or result.tasks:
        i = result.tasks.index(name)
        order = [j for j in np.argsort(-result.estimate[i]).tolist() if np.isfinite(result.estimate[i, j])]
        left_out = max(0, len(order) - MOST_CELLS)
        for place, j in enumerate(order):
            if left_out and MOST_CELLS // 2 <= place < len(order) - MOST_CELLS // 2:
                if place == MOST_CELLS // 2:
                    table.add_row("", Text(f"{left_out} more between; all with --json", style="dim"), "", "")
                continue
            first = Text(name if place == 0 else "", style="bold")
            table.add_row(first, *_score_row(result, i, j), end_section=j == order[-1])
    return Group(table, *_notes(result))


def _score_table(title: str) -> Table:
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left")
    for column in ("source task", "task", "score", "interval"):
        table.add_column(column, overflow="fold")
    return table


def _score_row(result: TimResult, i: int, j: int) -> tuple[Text, Text, str]:
    """The task, its score and the interval of one cell."""
    span = interval(float(result.low[i, j]), float(result.high[i, j])) if np.isfinite(result.low[i, j]) else ""
    task = Text(result.tasks[j]).append(" (control)" if result.tasks[j] == result.control else "", style="dim")
    return task, _cell(result, i, j), span


def _mark(discovery: bool, certain: bool) -> str:
    """The mark of a score in every table; "" where it has none."""
    return "*" if discovery else "\N{DEGREE SIGN}" if certain else ""


def _notes(result: TimResult) -> list[Text]:
    lines = [*MARKS, *result.notes]
    return [Text(f"  {line}", style="dim") for line in lines]


def sites(rows: Sequence[Mapping[str, Any]], n_sites: int) -> RenderableType:
    """What the sites have in common, cell by cell, the surest means first: `results.pool.PooledSearches.rows`."""
    pooled = [row for row in rows if row["se"]]
    shown = sorted(pooled, key=lambda row: -abs(row["estimate"]) / row["se"])[:MOST_CELLS]
    title = f"The mean of {n_sites} sites, and what a further site may see"
    title += f": the {len(shown)} surest of {len(pooled)} cells" if len(shown) < len(pooled) else ""
    table = plain_table(title, "source task", "trained with", "mean", "interval", "a further site", "between", "sites")
    for row in shown:
        mark = _mark(row["discovery"], row["low"] > 0 or row["high"] < 0)
        table.add_row(
            Text(row["source"], style="bold"),
            Text(row["task"]),
            Text(f"{row['estimate']:+.4f}{mark}", style=colour(row["estimate"])),
            interval(row["low"], row["high"]),
            interval(row["new_low"], row["new_high"]) or "three sites tell",
            f"{row['i2']:.0%}",
            str(row["sites"]),
        )
    words = Text("  between: the share of the variation that lies between the sites, beyond their errors.", style="dim")
    return Group(table, words)


def comparison(content: Mapping[str, Any]) -> Group:
    """Two searches side by side: `comparison.Comparison.record`, marked like the scores of one search."""
    first, second = content["searches"]
    paired = any(cell["change"][0] is not None for cell in content["cells"])
    titles = ("source task", "trained with", first, second, *["change (95 %)"] * paired, "ranks agree")
    table = plain_table("TIM scores side by side", *titles)

    def change(cell: Mapping[str, Any]) -> str:
        value, low, high = cell["change"]
        if value is None:
            return ""
        return f"{value:+.4f}" if low is None else f"{value:+.4f} ({low:+.4f} to {high:+.4f})"

    def score(cell: Mapping[str, Any], which: str, place: int) -> Text:
        value = cell[which]
        if value is None:
            return Text("")
        mark = _mark(cell["discovery"][place], cell["certain"][place])
        return Text(f"{value:+.4f}", style=colour(value)).append(mark or " ")

    shown = content["cells"]
    if len(content["tasks"]) > MOST_SOURCES:
        shown = _clearest(shown)
        table.title = (
            f"TIM scores side by side, the {len(shown)} clearest of {len(content['cells']):,}; all with --json"
        )
    for source in content["tasks"]:
        cells = [cell for cell in shown if cell["source"] == source]
        agree = content["rows"][source]
        for number, cell in enumerate(cells):
            table.add_row(
                Text(source if number == 0 else "", style="bold"),
                cell["task"],
                score(cell, "first", 0),
                score(cell, "second", 1),
                *([change(cell)] if paired else []),
                f"{agree:+.2f}" if number == 0 and agree is not None else "",
                end_section=number == len(cells) - 1,
            )
    facts = {}
    if content["agreement"] is not None:
        facts["rank agreement"] = (
            f"{content['agreement']:+.2f} on average; as far from 0 by chance: {content['chance']:.2f}"
        )
    if content["same_sign"] is not None:
        facts["same sign"] = f"{content['same_sign']:.0%} of the cells whose intervals exclude 0 in both"
    marks = [Text(f"  {line}", style="dim") for line in MARKS]
    return Group(table, *marks, pairs({**facts, **{f"note {n}": text for n, text in enumerate(content["notes"], 1)}}))


def _clearest(cells: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The cells with intervals without zero in both searches, then in one, then the largest of their rows."""
    largest: dict[str, float] = {}
    for cell in cells:
        largest[cell["source"]] = max(largest.get(cell["source"], 1e-300), abs(cell["first"] or 0.0))

    def clear(place: int) -> tuple[int, float]:
        cell = cells[place]
        size = abs(cell["first"] or 0.0) + abs(cell["second"] or 0.0)
        return sum(cell["certain"]), size / largest[cell["source"]]

    return [cells[place] for place in sorted(sorted(range(len(cells)), key=clear, reverse=True)[:MOST_CELLS])]
