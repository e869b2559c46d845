"""Signals turned into a wish to stop."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, Self


class Stop:
    """Turns SIGINT and SIGTERM into a wish: the first sets `asked`, a second one raises KeyboardInterrupt.

    Outside the main thread, where Python allows no handlers, it does nothing.

    Args:
        announce: called once, soon after the first signal, in the main thread.
    """

    def __init__(self, announce: Callable[[], None]) -> None:
        self.asked = False
        self._urgent = False
        self._announce = announce
        self._holding = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    @contextlib.contextmanager
    def held_off(self) -> Iterator[None]:
        """A block that no signal cuts short; what one asked for meanwhile happens at its end."""
        asked, urgent = self.asked, self._urgent
        self._holding = True
        try:
            yield
        finally:
            self._holding = False
        self._act(asked, urgent)

    def _note(self, number: int, frame: FrameType | None) -> None:
        asked, urgent = self.asked, self._urgent
        self.asked, self._urgent = True, self.asked
        if not self._holding:
            self._act(asked, urgent)

    def _act(self, asked: bool, urgent: bool) -> None:
        """Follow what was wished for since the state was (asked, urgent)."""
        if self._urgent and not urgent:
            raise KeyboardInterrupt
        if self.asked and not asked:
            self._announce()
