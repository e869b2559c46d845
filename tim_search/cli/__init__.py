"""The command line: commands, tables, progress.

Little is imported here: until `main` has begun, Ctrl-C is a traceback.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys

TYPE_CHECKING = False  # as in the package above
if TYPE_CHECKING:
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
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    # Not where the caller ignores them, as under nohup, or has a handler of its own.
    try:
        return {
            number: signal.signal(number, _end_early)
            for number, handler in usual.items()
            if signal.getsignal(number) == handler
        }
    except ValueError:  # not the main thread, which alone may have handlers
        return {}


def _end_early(*_: object) -> None:
    try:
        os.write(2, _EARLY)
    finally:  # also where nobody reads it
        os._exit(_INTERRUPTED)


_ends: list[object] = []  # the exit code, once it is known


def _end_as_told() -> None:
    """End an interrupted process with its exit code.

    Python remembers a KeyboardInterrupt that fell into code made from text, as that of dataclasses, also where it was
    caught, and would end the process by a signal instead.
    """
    if _ends == [_INTERRUPTED]:
        import contextlib

        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError, AttributeError):
                stream.flush()
        os._exit(_INTERRUPTED)
