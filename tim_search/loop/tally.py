"""What a run of a search has done so far: its count, the events that tell progress, and the outcome."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from tim_search.types import PackResult

EventKind: TypeAlias = Literal["references", "round", "pack", "stopping", "done"]


@dataclass(frozen=True, slots=True)
class Event:
    """Progress of a search.

    Attributes:
        kind: "references" when reference models are in the ledger, before the search itself begins: `done` and `total`
            then count these models; "round" when a round of the plan begins, and every earlier round is in the ledger;
            "pack" when the result of a pack is in the ledger; "stopping" when what is in flight is being finished
            before the search stops; "done" when the plan has nothing more to ask.
        round: number of the round, from 1; rounds whose units the ledger held when the run began are counted.
        done: units of the search with a final answer, those the ledger held at the start included.
        total: units asked for so far; an adaptive plan raises it with every round.
        failed: units that failed in this run.
        seconds: since this run began.
        message: one sentence for people; may be empty.
    """

    kind: EventKind
    round: int
    done: int
    total: int
    failed: int
    seconds: float
    message: str = ""


@dataclass(frozen=True, slots=True)
class SearchOutcome:
    """What a run of a search did.

    Attributes:
        trained: units this run trained and wrote to the ledger, failed ones included.
        failed: units among them that failed.
        reused: units the plan asked for that the ledger held when the run began.
        repeated: trainings started again, because a worker was lost or a pack had to be split.
        rounds: how many times the plan asked for something in this run.
        seconds: wall time of the run.
        peak_bytes: the most memory any worker used: of its GPU, else of its process; 0 where no trainer told.
    """

    trained: int
    failed: int
    reused: int
    repeated: int
    rounds: int
    seconds: float
    peak_bytes: int = 0


class Tally:
    """Counts what a run does, and tells it.

    Attributes:
        done: units of the search with a final answer, those that the ledger held at the start included.
        total: units asked for so far, those that the ledger held at the start included.
    """

    def __init__(self, on_event: Callable[[Event], None]) -> None:
        self._on_event = on_event
        self._began = time.monotonic()
        self._reused = self._trained = self._failed = self._repeated = 0
        self._rounds = self._earlier_rounds = self._peak_bytes = 0
        self.total = 0

    @property
    def done(self) -> int:
        return self._reused + self._trained

    def start(self, reused: int, rounds: int) -> None:
        """Note what the ledger holds of the search when the run begins: units, and whole rounds."""
        self._reused = self.total = reused
        self._earlier_rounds = rounds

    def begin(self, n_units: int, n_packs: int) -> None:
        """A round begins."""
        self._rounds += 1
        self.total += n_units
        number = self._earlier_rounds + self._rounds
        self._tell("round", f"round {number}: {n_units} units in {n_packs} packs")

    def add(self, result: PackResult) -> None:
        """The result of a pack is in the ledger."""
        n_units = len(result.pack.units)
        self._trained += n_units
        self._failed += len({score.unit for score in result.scores if score.status == "failed"})
        self._repeated += (result.attempts - 1) * n_units
        self._peak_bytes = max(self._peak_bytes, result.peak_bytes)
        self._tell("pack")

    def stopping(self) -> None:
        """Somebody asked to stop."""
        self._tell("stopping", "stopping after the packs in flight; a second signal drops them")

    def end(self) -> SearchOutcome:
        """The search has come to its end."""
        self._tell(
            "done",
            f"{self._trained} units trained, {self._failed} of them failed, {self._reused} were in the ledger already",
        )
        seconds = time.monotonic() - self._began
        return SearchOutcome(
            self._trained, self._failed, self._reused, self._repeated, self._rounds, seconds, self._peak_bytes
        )

    def _tell(self, kind: EventKind, message: str = "") -> None:
        number, seconds = self._earlier_rounds + self._rounds, time.monotonic() - self._began
        self._on_event(Event(kind, number, self.done, self.total, self._failed, seconds, message))
