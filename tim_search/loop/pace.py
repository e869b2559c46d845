"""How far a search is and how long it takes yet, in words, from the events that it tells."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from tim_search.loop.tally import Event
from tim_search.types import duration

#: Seconds between two plain lines about a search where nothing moves on a screen.
EVERY = 30.0


@dataclass
class Pace:
    """What is being done, how much of it, and how fast; `tell` takes each event.

    Attributes:
        doing: what is being done at present, in words.
        adaptive: the search decides as it goes, so that the time left is that of its round.
        done, total: trainings; 0 of 0 before anything is known.
    """

    doing: str = "starting"
    adaptive: bool = False
    done: int = 0
    total: int = 0

    def __post_init__(self) -> None:
        self._begin: Event | None = None  # of what is being done: where its clock starts
        self._first: Event | None = None  # ... with the first result, after all that a start takes
        self._last: Event | None = None
        self._heard = time.monotonic()

    def tell(self, event: Event) -> None:
        """Take note of an event."""
        self._heard = time.monotonic()
        if event.kind == "stopping":
            self.doing = "stopping"
            return
        if self._begin is None or (self._begin.kind == "references") != (event.kind == "references"):
            self._begin, self._first = event, None
        elif self._first is None and event.done > self._begin.done:
            self._first = event
        self._last, self.done, self.total = event, event.done, event.total
        training = "training" if event.round <= 1 else f"training, round {event.round}"
        words = {"references": "reference models", "done": "figures and MLflow"}
        self.doing = words.get(event.kind, training)

    @property
    def rate(self) -> float | None:
        """Trainings a second; None before the first result.

        What the start took counts until as much time has passed since the first result: results of several workers
        come back close to each other, and would promise too much.
        """
        if self._begin is None or self._last is None or self._last.done <= self._begin.done:
            return None
        since = self._begin
        if (first := self._first) is not None and self._last.seconds - first.seconds > first.seconds - since.seconds:
            since = first
        return (self._last.done - since.done) / max(self._last.seconds - since.seconds, 1e-9)

    @property
    def seconds_left(self) -> float | None:
        """Seconds until all that is asked for is trained, at the rate so far; None where there is no telling."""
        rate = self.rate
        if not rate or self._last is None or self._last.kind == "done":
            return None
        return max(0.0, (self.total - self.done) / rate - (time.monotonic() - self._heard))

    @property
    def words(self) -> str:
        """`training: 12 of 63, 1.5/s, 40 s left`."""
        if not self.total or (self._last is not None and self._last.kind == "done"):
            return self.doing
        return ", ".join(filter(None, [f"{self.doing}: {self.done:,} of {self.total:,}", self.speed]))

    @property
    def speed(self) -> str:
        """`1.5/s, 40 s left`; empty where there is no telling."""
        left = self.seconds_left
        if left is None or self.rate is None:
            return ""
        whole = " in this round" if self.adaptive else ""
        return f"{self.rate:.2g}/s, {duration(left)} left{whole}" if left >= 1 else f"{self.rate:.2g}/s, nearly done"

    def record(self) -> dict[str, Any]:
        """Plain values: doing, done, total, seconds_left."""
        left = self.seconds_left
        return {
            "doing": self.doing,
            "done": self.done,
            "total": self.total,
            "seconds_left": None if left is None else round(left),
        }


@contextlib.contextmanager
def repeatedly(every: float, call: Callable[[], None]) -> Iterator[None]:
    """A block during which `call` is called every so many seconds, from a thread of its own."""
    ended = threading.Event()

    def until_the_end() -> None:
        while not ended.wait(every):
            call()

    thread = threading.Thread(target=until_the_end, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
