"""The command line: commands, tables, progress."""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Sequence

__all__ = ["main"]

_INTERRUPTED = 130
_EARLY = b"stopped: Interrupted before anything was done. The same command can be run again.\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and end the process with its exit code, also where Ctrl-C comes before it is loaded."""
    if arguments is None:
        atexit.register(_end_as_told)  # the first that is registered is the last that is called
    before = _told_early()
    from tim_search.cli import commands

    for number, handler in before.items():
        signal.signal(number, handler)
    try:
        commands.main(arguments)
    except SystemExit as end:
        _ends.append(end.code)
        raise


def _told_early() -> dict[signal.Signals, signal._HANDLER]:
    """Let Ctrl-C and SIGTERM end the process with a sentence while modules are loaded; returns what they did before.

    A KeyboardInterrupt would not do: libraries that are half loaded swallow it, or turn it into errors of their own.
    """
    if threading.current_thread() is not threading.main_thread():
        return {}
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    # Not where the caller ignores them, as under nohup, or has a handler of its own.
    return {
        number: signal.signal(number, _end_early)
        for number, handler in usual.items()
        if signal.getsignal(number) == handler
    }


def _end_early(*_: object) -> None:
    os.write(2, _EARLY)
    os._exit(_INTERRUPTED)


_ends: list[object] = []  # the exit code, once it is known


def _end_as_told() -> None:
    """End an interrupted process with its exit code.

    Python remembers a KeyboardInterrupt that fell into code made from text, as that of dataclasses, also where it was
    caught, and would end the process by a signal instead.
    """
    if _ends == [_INTERRUPTED]:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError, AttributeError):
                stream.flush()
        os._exit(_INTERRUPTED)
