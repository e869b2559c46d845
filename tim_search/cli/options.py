"""Options that several commands share, and the checks that hold for all arguments."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from tim_search.gates.files import checked_path
from tim_search.gates.texts import for_terminal
from tim_search.types import BadInput, parted

SearchPath = Annotated[Path, typer.Argument(metavar="SEARCH.yaml", help="The search file.")]
Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The output folder of a search.")]
Out = Annotated[Path | None, typer.Option("--out", help="Folder for everything the search writes.")]
Address = Annotated[
    str | None,
    typer.Option(
        "--address",
        help="Ray cluster, such as auto or ray://head:10001; serial: this process, without Ray. Default: this machine.",
    ),
]
AllowCode = Annotated[
    bool, typer.Option("--allow-code", help="Import a network of your own that the file names; read its code first.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for machines instead of tables.")]


class RuleName(StrEnum):
    """Rules of the greedy expansion."""

    lower_bound = "lower_bound"
    paper = "paper"


def check_arguments(arguments: Sequence[str]) -> None:
    """Refuse what no argument of any command may be: nothing, blanks, NUL, and what is no text.

    An empty argument is mostly a variable that is not set; taken for "all" or "here" it would do what nobody asked for.
    """
    for place, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        is_option = argument.startswith("--") and bool(equals)
        before = arguments[place - 1] if place else ""
        if (value if is_option else argument).strip():
            # The names of many tasks are longer together than the name of any file.
            of_tasks = "--subset" in (name, before)
            for text in argument.split("+") if of_tasks else (argument,):
                checked_path(text)
            continue
        where = name if is_option else before if before.startswith("-") else f"argument {place + 1}"
        raise BadInput(
            f"{for_terminal(where)}: expected a value, got an empty text. Leave it out, or check the variable that "
            "should hold it."
        )


def task_names(combination: str | None, option: str = "--subset") -> tuple[str, ...] | None:
    """The names in `task+task`, as given; None where the option was not. Raises BadInput for an empty name."""
    if combination is None:
        return None
    names = parted(combination)
    if not names or not all(names):
        raise BadInput(
            f"{option}: expected names of tasks joined by +, such as hospdead+dnr_later, got {combination!r} with an "
            "empty name. Write the names, or leave the option out."
        )
    return names
