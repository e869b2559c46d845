"""What calls from Python say while they run: progress in one line, and errors of the product in words alone."""

from __future__ import annotations

import contextlib
import contextvars
import importlib
import logging
import re
import sys
import time
import uuid
import warnings
from collections.abc import Callable, Iterator

from tim_search.gates.texts import for_terminal
from tim_search.loop.pace import EVERY, Pace, repeatedly
from tim_search.loop.tally import Event
from tim_search.types import Interrupted, TimSearchError, duration

#: Seconds between two looks where a line is written anew.
_LOOK = 1.0

# When a notebook imports Ray and MLflow, they say that a bar could be installed.
logging.getLogger("ray.widgets.util").setLevel(logging.WARNING)
warnings.filterwarnings("ignore", "IProgress not found")


def say(text: str) -> None:
    """A line about what is being done, or a warning."""
    print(for_terminal(text), flush=True)


@contextlib.contextmanager
def progress(doing: str = "starting", *, adaptive: bool = False) -> Iterator[Callable[[Event], None]]:
    """One line of progress with the time left, fed by a search's events.

    In a notebook and on a terminal the line is written anew; elsewhere it is a line every 30 seconds. `doing` is told
    before the first event, with the time that passes; `adaptive` as of `Pace`.
    """
    pace, began = Pace(doing, adaptive), time.monotonic()
    show, every = _screen()

    def words() -> str:
        return pace.words if pace.total else f"{pace.doing}, {duration(max(1, time.monotonic() - began))} so far"

    # A notebook knows by the context to which cell an output belongs.
    context, end = contextvars.copy_context(), "ended after"
    try:
        with repeatedly(every, lambda: context.run(show, words())):
            yield pace.tell
        end = "done in"
    finally:
        if every < EVERY:
            amount = f"{pace.done:,} of {pace.total:,} done in" if pace.total else f"{doing}: {end}"
            show(pace.words if pace.doing == "stopping" else f"{amount} {duration(time.monotonic() - began)}\n")


def _screen() -> tuple[Callable[[str], None], float]:
    """(what shows a line of progress, seconds between two looks), for where this process speaks."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if hasattr(shell, "kernel"):
        display, place = importlib.import_module("IPython.display").display, uuid.uuid4().hex

        def in_a_cell(text: str, update: bool = True) -> None:
            display({"text/plain": for_terminal(text.strip())}, raw=True, update=update, display_id=place)

        in_a_cell("starting", update=False)
        return in_a_cell, _LOOK
    if sys.stderr.isatty():
        return lambda text: _write(f"\r\x1b[K{for_terminal(text, lines=True)}"), _LOOK
    return lambda text: _write(f"{for_terminal(text)}\n"), EVERY


def _write(text: str) -> None:
    print(text, end="", file=sys.stderr, flush=True)


@contextlib.contextmanager
def call(stopped: str) -> Iterator[None]:
    """A block that ends in words: an interruption says `stopped`, and a notebook shows errors of the product plainly.

    Raises:
        Interrupted: in place of KeyboardInterrupt.
    """
    try:
        yield
    except KeyboardInterrupt:
        raise _plain(Interrupted(stopped)) from None
    except TimSearchError as error:
        error.args = (_as_arguments(str(error)),)
        _plain(error)
        raise


def _as_arguments(text: str) -> str:
    """A message with the names of arguments in the place of a command's options; commands to be typed stay."""
    sentences = re.split(r"(?<=[.;]) ", text)
    option = re.compile(r"(?<![\w`-])--([a-z][a-z-]*)")
    return " ".join(
        sentence if "tim-search " in sentence else option.sub(lambda name: name[1].replace("-", "_"), sentence)
        for sentence in sentences
    )


def _plain(error: TimSearchError) -> TimSearchError:
    """The same error, which IPython shows without a traceback: what it says is complete."""
    words = [f"{type(error).__name__}: {for_terminal(error, lines=True)}"]
    vars(error)["_render_traceback_"] = lambda: words
    return error
