"""What a notebook shows of an object of this product, as a piece of HTML; the same as plain text elsewhere."""

from __future__ import annotations

import base64
import textwrap
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tim_search.gates.texts import for_terminal

_TEMPLATE = "panel.html"
#: Rows of a table that are shown, and characters of a line of plain text.
MOST_ROWS, _WIDTH = 60, 100


@dataclass(frozen=True)
class Rows:
    """A small table: its caption, names of its columns, and rows of values that are shown as they are."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]


@dataclass(frozen=True)
class Panel:
    """What is shown of an object, from the top down.

    Attributes:
        title: one line.
        warnings: what must not be overlooked.
        lines: sentences.
        tables: of each at most `MOST_ROWS` rows are shown, and how many there are.
        picture, picture_says: a PNG image, and what it shows.
        notes: small print.
        link, link_says: a place to go on at, relative to the notebook.
    """

    title: str
    warnings: Sequence[str] = ()
    lines: Sequence[str] = ()
    tables: Sequence[Rows] = ()
    picture: bytes = b""
    picture_says: str = ""
    notes: Sequence[str] = ()
    link: str = ""
    link_says: str = ""

    def html(self) -> str:
        """The panel as HTML; every text in it is escaped, and none can hide or turn another."""
        # Imported here: jinja2.
        from tim_search.report.page import environment

        facts = {**vars(self), "tables": [_shortened(table) for table in self.tables]}
        facts["picture"] = base64.b64encode(self.picture).decode()
        return environment().get_template(_TEMPLATE).render(facts)

    def text(self) -> str:
        """The panel as lines of text, without its picture."""
        parts = [self.title, *(f"! {line}" for line in self.warnings), *self.lines]
        for table in map(_shortened, self.tables):
            parts += [table.caption, *_aligned([table.columns, *table.rows])]
        parts += [*(f"({line})" for line in self.notes), self.link_says]
        return "\n".join(for_terminal(part, lines=True) for part in parts if part)


class Shown(ABC):
    """An object that a notebook shows as its `panel`, and Python elsewhere as the same in plain text."""

    @abstractmethod
    def panel(self) -> Panel:
        """What is shown."""

    def _repr_html_(self) -> str:
        return self.panel().html()

    def __repr__(self) -> str:
        return self.panel().text()


def _shortened(table: Rows) -> Rows:
    if len(table.rows) <= MOST_ROWS:
        return table
    caption = f"{table.caption} ({MOST_ROWS} of {len(table.rows):,})".strip()
    return Rows(caption, table.columns, table.rows[:MOST_ROWS])


def _aligned(rows: Sequence[Sequence[Any]]) -> list[str]:
    """Rows with their columns below each other; the last column is wrapped."""
    texts = [[for_terminal(value) for value in row] for row in rows]
    widths = [max(len(row[column]) for row in texts) for column in range(len(texts[0]) - 1)]
    before = sum(widths) + 2 * (len(widths) + 1)
    lines = []
    for row in texts:
        start = "  ".join(["", *(text.ljust(width) for text, width in zip(row, widths, strict=False)), ""])
        lines.append(
            textwrap.fill(
                row[-1], max(_WIDTH, before + 40), initial_indent=start, subsequent_indent=" " * before
            ).rstrip()
            or start.rstrip()
        )
    return lines
