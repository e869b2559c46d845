"""What is to be said when this process can no longer say it: killed, out of memory, or ended by a library's own check.

Ray's library aborts a driver whose cluster came back without its memory, before Python hears of it. A second process, a
Python without any import, waits for the end of this one and speaks in its place unless it was told that all is well.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import subprocess
import sys

_WAIT = "import sys; said = sys.stdin.buffer.read(); said or sys.stderr.write(sys.argv[1] + chr(10))"

_watchers: dict[str, subprocess.Popen[bytes]] = {}


def leave(text: str) -> None:
    """From now on, if this process ends without the interpreter's own end, a text goes to its standard error.

    A text is left once a process, however often this is called; where no process can be started, nothing is.
    """
    if text in _watchers:
        return
    with contextlib.suppress(OSError):
        # In a session of its own, so that Ctrl-C reaches the one who can still answer it.
        watcher = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _WAIT, text],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        _watchers[text] = watcher
        atexit.register(_well, watcher, os.getpid())


def _well(watcher: subprocess.Popen[bytes], process: int) -> None:
    if os.getpid() != process:  # a fork ends, not the one who left the text
        return
    with contextlib.suppress(OSError):
        watcher.communicate(b"well", timeout=10)
