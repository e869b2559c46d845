"""Where the command line speaks: results on the standard output, everything else on the standard error."""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.text import Text

_python_shows = warnings.showwarning
_FILE_WIDTH = 120

#: The standard error.
errors = Console(stderr=True, highlight=False)


def output() -> Console:
    """The standard output as it is now; tests and pipes exchange it. A file has no width: names need not be cut."""
    wide = None if sys.stdout.isatty() or "COLUMNS" in os.environ else _FILE_WIDTH
    return Console(highlight=False, width=wide)


def note(text: str) -> None:
    """A line about what is being done, for people who wait."""
    errors.print(text, style="dim", markup=False)


def say(kind: str, text: str, to: Console | None = None) -> None:
    """A line of its own with its kind before it: error, warning or stopped; to the standard error by default."""
    colour = {"error": "bold red", "warning": "bold yellow"}.get(kind, "bold")
    (to or errors).print(Text.assemble((f"{kind}:", colour), " ", text), soft_wrap=True)


def show_warning(message: Warning | str, category: type[Warning], *where: Any) -> None:
    """Warnings of this product as a line of their own; those of others as Python shows them."""
    if issubclass(category, UserWarning):
        say("warning", str(message))
    else:
        _python_shows(message, category, *where)


def print_json(content: Mapping[str, Any]) -> None:
    """Plain values for machines, on the standard output; NaN would be no JSON and is an error."""
    print(json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False))
