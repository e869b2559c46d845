"""The command line: commands, tables, progress."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and end the process with its exit code, also where Ctrl-C comes before it is loaded."""
    try:
        from tim_search.cli import commands

        commands.main(arguments)
    except KeyboardInterrupt:
        import sys

        sys.stderr.write("stopped: Interrupted before anything was done. The same command can be run again.\n")
        sys.exit(130)
