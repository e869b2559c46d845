"""The command `tim-search` itself, to which the other modules add their commands, and what holds for all of them."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from tim_search import __version__
from tim_search.cli import cohort_cli, console

#: Exit code of a search that came to its end while units of it failed.
FINISHED_WITH_FAILURES = 3


class Commands(TyperGroup):
    """All commands; one that is interrupted and has no words of its own for it ends with these."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command; typer itself would end it without a word."""
        with console.interrupted("Interrupted; nothing is lost. The same command can be run again."):
            return super().invoke(ctx)


app = typer.Typer(
    name="tim-search",
    cls=Commands,
    help="Find out which clinical tasks to train together: plan task subsets, train them all, read off who helps whom.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(cohort_cli.app, name="cohort")


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="Print the version and end.", is_eager=True)] = False,
) -> None:
    if version:
        console.print_data(f"tim-search {__version__}\n")
        raise typer.Exit
