"""Where the command line speaks: results on the standard output, everything else on the standard error.

The one place that writes to a terminal. What comes from data or from others' files (names, messages) is made safe here:
no text can steer the terminal. Tables for people and JSON for machines leave through `answer`.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import re
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from tim_search.gates.plain import json_text
from tim_search.gates.texts import for_terminal
from tim_search.loop.pace import EVERY, repeatedly
from tim_search.types import Interrupted, TimSearchError, duration

_python_shows = warnings.showwarning
_FILE_WIDTH = 120
#: What libraries take a terminal's size from, and the least that anything can be shown in (0 shows nothing at all).
_SIZES = {"COLUMNS": 20, "TERMINAL_WIDTH": 20, "LINES": 1}


class SafeConsole(Console):
    """A console that shows every character of a text that could steer a terminal as an escape such as \\x1b."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Segments of a renderable; also called for each cell and title of a table."""
        if isinstance(renderable, str):
            renderable = Text(renderable)
        if isinstance(renderable, Text) and (safe := for_terminal(renderable.plain, lines=True)) != renderable.plain:
            renderable = Text(safe, style=renderable.style, justify=renderable.justify, overflow=renderable.overflow)
        return super().render(renderable, options)


def _size(name: str) -> int | None:
    """The characters that a variable of the environment names, where they are a size."""
    size = os.environ.get(name, "")
    return int(size) if re.fullmatch(r"[0-9]{1,4}", size) and int(size) >= _SIZES[name] else None


def _console(*, stderr: bool = False, width: int | None = None) -> SafeConsole:
    # No markup: brackets in a name are a name.
    return SafeConsole(stderr=stderr, width=_size("COLUMNS") or width, highlight=False, markup=False, emoji=False)


def error_output() -> SafeConsole:
    """The standard error as it is now."""
    return _console(stderr=True)


def output() -> SafeConsole:
    """The standard output as it is now; tests and pipes exchange it. A file has no width: names need not be cut."""
    return _console(width=None if sys.stdout.isatty() else _FILE_WIDTH)


# -------------------------------------------------------------------- to people who wait


#: What is being done, in words as of now, for the line that tells it again; and when a line was told last.
_doing: Callable[[], str] | None = None
_told = 0.0


def note(text: str) -> None:
    """A line about what is being done."""
    global _doing
    began = time.monotonic()

    def words() -> str:
        return f"{text} ({duration(time.monotonic() - began)} so far)"

    _doing = words
    _say_dim(text)


def _say_dim(text: str) -> None:
    global _told
    _told = time.monotonic()
    error_output().print(text, style="dim")


@contextlib.contextmanager
def being_done(words: Callable[[], str]) -> Iterator[None]:
    """A block in which this is being done, in words that change."""
    global _doing
    before, _doing = _doing, words
    try:
        yield
    finally:
        _doing = before


@contextlib.contextmanager
def heartbeat() -> Iterator[None]:
    """A block in which a line tells at least every 30 s what is being done, where the standard error is no terminal."""

    def beat() -> None:
        if _doing is not None and time.monotonic() - _told > EVERY / 2 and not error_output().is_terminal:
            with contextlib.suppress(OSError, ValueError):  # a standard error that nobody reads any more
                _say_dim(_doing())

    with being_done(lambda: "Still at work"), repeatedly(EVERY / 2, beat):
        yield


def labelled(kind: str, text: str) -> Text:
    """A text with its kind before it: error, warning or stopped; one line, however long.

    What a notebook shows without a kind begins with it: "Stopped: ..." has it once.
    """
    text = re.sub(rf"^{kind}[:.] ", "", text, flags=re.IGNORECASE)
    colour = {"error": "bold red", "warning": "bold yellow"}.get(kind, "bold")
    return Text.assemble((f"{kind}:", colour), " ", text, no_wrap=True, overflow="ignore")


def say(kind: str, text: str) -> None:
    """A line of its own with its kind before it."""
    error_output().print(labelled(kind, text), soft_wrap=True)


def warn(text: str) -> None:
    """A warning."""
    say("warning", text)


def show_warning(message: Warning | str, category: type[Warning], *where: Any) -> None:
    """Warnings of this product as a line of their own; those of others as Python shows them."""
    if issubclass(category, UserWarning):
        warn(str(message))
    else:
        _python_shows(message, category, *where)


@contextlib.contextmanager
def interrupted(words: str) -> Iterator[None]:
    """A block whose interruption (Ctrl-C, SIGTERM) ends the command with these words."""
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted(words) from None


# -------------------------------------------------------------------- results


def answer(
    as_json: bool, content: Callable[[], Mapping[str, Any]], view: Callable[[], Iterable[RenderableType]]
) -> None:
    """The result of a command: JSON for machines, or what people see.

    Args:
        content: makes the values for JSON; NaN becomes null.
        view: makes tables, and texts that are to be copied: lines that no width breaks.
    """
    if as_json:
        print_json(content())
        return
    for part in view():
        show(part)


def show(part: RenderableType) -> None:
    """A table, a text that is wrapped, or a line (a str, or what `labelled` gives) that no width breaks."""
    output().print(part, soft_wrap=isinstance(part, str) or getattr(part, "overflow", None) == "ignore")


def print_json(content: Mapping[str, Any], *, indent: int | None = 2) -> None:
    """Values as JSON, NaN as null; what could steer a terminal stands there as an escape of JSON."""
    text = re.sub(r"[^\x20-\x7e\n]", _json_escape, json_text(content, indent=indent))
    _write(f"{text}\n")


def _json_escape(match: re.Match[str]) -> str:
    return match[0] if for_terminal(match[0]) == match[0] else json.dumps(match[0])[1:-1]


def print_line(text: str) -> None:
    """A line that is shown at once, also into a pipe."""
    _write(f"{for_terminal(text)}\n")


def print_data(text: str) -> None:
    """A table as text: as it is into a file or a pipe, and made safe on a terminal."""
    _write(for_terminal(text, lines=True) if sys.stdout.isatty() else text)


def _write(text: str) -> None:
    print(text, end="", flush=True)


# -------------------------------------------------------------------- an output that is closed or full


class _ErrorOutput(io.TextIOWrapper):
    """A standard error that loses what it cannot write: no command ends because nobody hears of it."""

    def write(self, text: str) -> int:
        """Write at once; the characters given, also where they are lost."""
        with contextlib.suppress(OSError):
            super().write(text)
        return len(text)


def open_outputs() -> None:
    """Put something in the place of a standard output or error that is closed, and say what is lost.

    Sizes of a terminal that are none are forgotten: typer and rich would show nothing, or fail.
    """
    for name in _SIZES:
        if _size(name) is None:
            os.environ.pop(name, None)
    closed = sys.stdout is None
    if (usual := sys.__stderr__) is not None and sys.stderr is usual:
        unbuffered = io.FileIO(usual.fileno(), "w", closefd=False)
        sys.stderr = _ErrorOutput(unbuffered, usual.encoding, "backslashreplace", write_through=True)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115  (until the process ends)
        else:
            # A name that the terminal's encoding lacks is shown as an escape.
            with contextlib.suppress(AttributeError):
                getattr(sys, name).reconfigure(errors="backslashreplace")
    if closed:
        warn("The standard output is closed: what the command prints is not shown.")


@contextlib.contextmanager
def checked_output() -> Iterator[None]:
    """A block whose output reaches the standard output at its end.

    A reader that is gone (`| head`) ends the process with status 1 and without a word; a disk that is full is an error.
    """
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except OSError as error:
        if error.errno not in (errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF):
            raise
        # What is still in Python's buffer would be written once more when the process ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if error.errno == errno.EPIPE:
            sys.exit(1)
        raise TimSearchError(
            f"The standard output cannot be written: {error.strerror}. Send it to another place and run the same "
            "command again."
        ) from error
