"""Progress of what takes long: a bar on a terminal, and elsewhere a plain line now and then."""

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
from rich.text import Text

from tim_search.cli import console
from tim_search.loop.pace import Pace
from tim_search.loop.tally import Event


class _Speed(ProgressColumn):
    """The rate of a search and the time left, as they are at each look."""

    def __init__(self, pace: Pace) -> None:
        super().__init__()
        self._pace = pace

    def render(self, task: object) -> Text:
        """`1.5/s, 40 s left`."""
        return Text(self._pace.speed)


@contextmanager
def _bar(words: Callable[[], str], *last_columns: ProgressColumn | str) -> Iterator[Progress]:
    """A bar with a spinner, what is being done, done / total, and more columns; without a terminal these words."""
    screen = console.error_output()
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
    shown = screen.is_terminal
    with (
        console.being_done(words),
        Progress(*columns, *last_columns, console=screen, disable=not shown, transient=True) as bar,
    ):
        yield bar


@contextmanager
def progress(*, adaptive: bool = False) -> Iterator[Callable[[Event], None]]:
    """A progress bar (done / total, rate, time left) fed by a search's events; `adaptive` as of `Pace`."""
    pace = Pace("starting", adaptive)
    with _bar(lambda: pace.words, _Speed(pace)) as bar:
        task = bar.add_task(pace.doing, total=None)

        def tell(event: Event) -> None:
            pace.tell(event)
            if event.kind == "stopping":
                bar.console.print(event.message)
            bar.update(task, description=pace.doing, completed=pace.done, total=pace.total)

        yield tell


@contextmanager
def steps() -> Iterator[Callable[[str, int, int | None], None]]:
    """A progress bar fed with (what is done, rows done, rows in all or None)."""
    words = "starting"
    with _bar(lambda: words, "rows", TimeRemainingColumn()) as bar:
        task = bar.add_task("starting", total=None)

        def tell(description: str, done: int, total: int | None) -> None:
            nonlocal words
            words = f"{description}: {done:,}{f' of {total:,}' if total else ''} rows" if done or total else description
            if bar.tasks[0].description != description:
                bar.reset(task, description=description)
            bar.update(task, description=description, completed=done, total=total)

        yield tell
