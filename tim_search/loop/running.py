"""Who is at work on a search: a file in its folder, under a lock of the operating system while the process lives.

The lock goes when the process ends, however it ends, so nobody is taken to be at work who is not. What the file then
says is how far a process was that was ended without a word.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tim_search.gates.files import make_folder, open_regular
from tim_search.gates.forms import conform
from tim_search.gates.plain import parse_json
from tim_search.ledger.drivers import has_died, this_driver
from tim_search.loop.pace import Pace
from tim_search.loop.tally import Event
from tim_search.types import BadInput

NAME = "running.json"

_MOST_BYTES = 10_000
_FORM = {
    "search": str, "what": str, "pid": int, "host": str, "since": str, "machine": str, "heard": str,
    "doing": str, "done": int, "total": int, "seconds_left": (int, type(None)),
}  # fmt: skip
#: Seconds between two writings, and for which a lock is waited for: a look at it holds it for an instant.
_EVERY, _PATIENCE = 1.0, 1.0


class AtWork:
    """Tells others that this process is at work on a search, and how far it is, until the block around it ends.

    A folder that cannot be written, or in which another process is at work, stops nothing: the ledger keeps a second
    driver out.

    Args:
        folder: of the search; made where it is missing.
        search: its name.
        what: "tune", "run", "confirm" or "group".
        on_event: told about progress too.
    """

    def __init__(self, folder: Path, search: str, what: str, on_event: Callable[[Event], None]) -> None:
        self._path = folder / NAME
        self._about = {"search": search, "what": what, **this_driver()}
        self._pace = Pace("starting")
        self._on_event = on_event
        self._handle: int | None = None
        self._written = 0.0

    def __enter__(self) -> AtWork:
        with contextlib.suppress(OSError, BadInput):
            make_folder(self._path.parent)
            self._handle = _taken(self._path)
            if self._handle is not None:
                self._write()
        return self

    def __exit__(self, *_: object) -> None:
        if self._handle is not None:
            with contextlib.suppress(OSError):
                self._path.unlink()  # still under the lock: nobody else's
            os.close(self._handle)
            self._handle = None

    def tell(self, event: Event) -> None:
        """Take note of an event of the search, and pass it on."""
        before = self._pace.doing
        self._pace.tell(event)
        if self._handle is not None and (before != self._pace.doing or time.monotonic() - self._written > _EVERY):
            with contextlib.suppress(OSError):
                self._write()
        self._on_event(event)

    def _write(self) -> None:
        assert self._handle is not None
        now = datetime.now(UTC).isoformat("T", "seconds")
        content = json.dumps({**self._about, "heard": now, **self._pace.record()}).encode()
        os.pwrite(self._handle, content, 0)
        os.ftruncate(self._handle, len(content))
        self._written = time.monotonic()


def who(folder: str | Path) -> dict[str, Any] | None:
    """Who is at work on the search of a folder; None where nobody is and nobody was ended without a word.

    Keys: running (True; False where a process of this machine was ended; None where there is no telling, as in a copy
    of a folder that another machine works in), search, what ("tune", "run", "confirm" or "group"), pid, host, since,
    heard (the last time it told how far it is; both ISO 8601, UTC), doing, done, total, seconds_left. Of a process that
    has just begun, only running.
    """
    try:
        with open_regular(Path(folder) / NAME, _MOST_BYTES) as file:
            locked = not _locked(file.fileno(), fcntl.LOCK_SH)
            content = file.read()
            if not os.fstat(file.fileno()).st_nlink:  # the process ended well since the file was opened
                return None
    except (OSError, BadInput):
        return None
    try:
        plain = parse_json(content, NAME)
        conform(plain, _FORM)
    except (BadInput, ValueError):
        return {"running": True} if locked else None
    running = True if locked else False if has_died(content.decode()) else None
    return {"running": running, **{key: value for key, value in plain.items() if key != "machine"}}


def _taken(path: Path) -> int | None:
    """A handle of the file under its lock; None where another process has it."""
    while True:
        # A folder that was received may hold a pipe here, or a link to another file.
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NONBLOCK | os.O_NOFOLLOW, 0o644)
        try:
            if not _locked(handle, fcntl.LOCK_EX):
                return None
            # The one before may have taken the file away between the two steps.
            if path.exists() and os.path.samestat(os.fstat(handle), path.stat()):
                handle, taken = -1, handle
                return taken
        finally:
            if handle >= 0:
                os.close(handle)


def _locked(handle: int, kind: int) -> bool:
    """Whether a lock was taken before patience ended; a shared one is only tried once."""
    began = time.monotonic()
    while True:
        try:
            fcntl.flock(handle, kind | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if kind == fcntl.LOCK_SH or time.monotonic() - began > _PATIENCE:
                return False
            time.sleep(0.02)
