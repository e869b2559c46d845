"""The command line: commands, tables, progress."""

from __future__ import annotations

from tim_search.cli.commands import main

__all__ = ["main"]
