"""The structured log of a search: one JSON object a line in `log.jsonl` of its folder, for machines and for afterwards.

Every line has `time` (UTC, ISO 8601), `event`, `pid` and `host`; the events of the loop have the fields of
`tim_search.loop.tally.Event`, a "start" says what is run, a "warning" what was warned of, an "end" how it ended. A log
is for readers only: nothing is ever read back from it, and one that cannot be written stops nothing.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from tim_search.loop.tally import Event
from tim_search.types import TimSearchError

NAME = "log.jsonl"


class EventLog:
    """Writes the log of one run; a context manager around it, which notes how the run ends.

    Args:
        folder: of the search.
        warn: told once when the log cannot be written.
        start: what is run, noted on entry: plain values without secrets.
    """

    def __init__(self, folder: Path, warn: Callable[[str], None], **start: Any) -> None:
        self._path = folder / NAME
        self._warn = warn
        self._start = start
        self._broken = False

    def __enter__(self) -> EventLog:
        self.write("start", **self._start)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.write("end", outcome="finished")
        else:
            # Messages of the product hold no secrets; those of others may hold anything.
            message = str(error) if isinstance(error, TimSearchError) else ""
            self.write("end", outcome=type(error).__name__, message=message)

    def tell(self, event: Event) -> None:
        """Note an event of the loop."""
        self.write(**{("event" if key == "kind" else key): value for key, value in asdict(event).items()})

    def warning(self, message: str) -> None:
        """Note a warning."""
        self.write("warning", message=message)

    def write(self, event: str, **fields: Any) -> None:
        """Append one line, in one write, so that lines of two processes do not mix."""
        time = datetime.now(UTC).isoformat("T", "milliseconds")
        line = {"time": time, "event": event, **fields, "pid": os.getpid(), "host": socket.gethostname()}
        try:
            # A folder that was received may hold a pipe here, which would be waited for, or a link to another file.
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_NOFOLLOW
            handle = os.open(self._path, flags, 0o644)
            try:
                os.write(handle, (json.dumps(line, ensure_ascii=False) + "\n").encode())
            finally:
                os.close(handle)
        except OSError as error:
            if not self._broken:
                self._broken = True
                self._warn(f"{self._path} cannot be written: {error}. The search goes on; its ledger is not touched.")
