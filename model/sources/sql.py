"""Values and names as DuckDB's SQL has them: what comes from a table or a file of others is never read as SQL."""

from __future__ import annotations


def literal(value: object) -> str:
    """A whole number as it is, everything else as a quoted text."""
    return str(value) if isinstance(value, int) else "'{}'".format(str(value).replace("'", "''"))


def identifier(name: str) -> str:
    """The quoted name of a column."""
    return '"{}"'.format(name.replace('"', '""'))
