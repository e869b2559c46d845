"""Progress bars, shown on a terminal alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    TextColumn,
    TimeRemainingColumn,
)

from tim_search.cli import console
from tim_search.loop.tally import Event
from tim_search.types import duration


@contextmanager
def _bar(*last_columns: ProgressColumn | str) -> Iterator[Progress]:
    """A bar with a spinner, what is being done, done / total, and more columns; nothing at all without a terminal."""
    screen = console.error_output()
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, *last_columns, console=screen, disable=not screen.is_terminal, transient=True) as bar:
        yield bar


@contextmanager
def progress() -> Iterator[Callable[[Event], None]]:
    """A progress bar (done / total, rate, time left) fed by a search's events."""
    with _bar(TextColumn("{task.fields[rate]}")) as bar:
        task = bar.add_task("starting Ray", total=None, rate="")
        first: Event | None = None

        def tell(event: Event) -> None:
            nonlocal first
            if event.kind == "round" and first is None:
                first = event
            rate = ""
            if event.kind == "pack" and first is not None and event.done > first.done:
                per_second = (event.done - first.done) / max(event.seconds - first.seconds, 1e-9)
                rate = f"{per_second:.2g}/s, {duration((event.total - event.done) / per_second)} left"
            if event.kind == "stopping":
                bar.console.print(event.message)
            training = "training" if event.round == 1 else f"training, round {event.round}"
            begins = "starting Ray" if event.round == 1 else training
            words = {"round": begins, "pack": training, "stopping": "stopping", "done": "figures and MLflow"}
            bar.update(task, description=words[event.kind], completed=event.done, total=event.total, rate=rate)

        yield tell


@contextmanager
def steps() -> Iterator[Callable[[str, int, int | None], None]]:
    """A progress bar fed with (what is done, rows done, rows in all or None)."""
    with _bar("rows", TimeRemainingColumn()) as bar:
        task = bar.add_task("starting", total=None)

        def tell(description: str, done: int, total: int | None) -> None:
            if bar.tasks[0].description != description:
                bar.reset(task, description=description)
            bar.update(task, description=description, completed=done, total=total)

        yield tell
