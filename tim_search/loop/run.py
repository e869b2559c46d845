"""The loop of a search: ask the plan, train what the ledger lacks, write it down, ask again.

    plan - a value: which units are wanted     ledger - facts: what was trained     executor - effect: who trains it

Resuming is the same loop: what the ledger holds is not trained again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from tim_search.executors.contract import Executor
from tim_search.executors.packing import packs
from tim_search.ledger.ledger import Ledger
from tim_search.ledger.table import ScoreTable, lay_out
from tim_search.loop.signals import Stop
from tim_search.plans.contract import Plan, progress
from tim_search.types import Context, Interrupted, Pack, PackResult, Task, Unit
from tim_search.types.columns import Units

_MANY_FILES = 512  # files of the ledger above which they are merged while a search runs
_SOME_FILES = 32  # ... at its end, because many small files are slow to read


@dataclass(frozen=True, slots=True)
class Event:
    """Progress of a search.

    Attributes:
        kind: "round" when a round of the plan begins, and every earlier round is in the ledger; "pack" when the result
            of a pack is in the ledger; "stopping" when what is in flight is being finished before the search stops;
            "done" when the plan has nothing more to ask.
        round: number of the round, from 1; rounds whose units the ledger held when the run began are counted.
        done: units of the search with a final answer, those the ledger held at the start included.
        total: units asked for so far; an adaptive plan raises it with every round.
        failed: units that failed in this run.
        seconds: since this run began.
        message: one sentence for people; may be empty.
    """

    kind: Literal["round", "pack", "stopping", "done"]
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


def run(
    plan: Plan,
    ledger: Ledger,
    context: Context,
    tasks: Mapping[str, Task],
    blocks: Sequence[tuple[int, int]],
    executor: Executor,
    capacity: int,
    on_event: Callable[[Event], None] = lambda event: None,
) -> SearchOutcome:
    """Run a search to its end, from wherever the ledger stands.

    A result is in the ledger, on disk, before anything else sees it. SIGINT or SIGTERM lets the packs in flight finish,
    a second one drops them; whatever came back is in the ledger.

    Args:
        plan: which units are wanted.
        ledger: this run becomes its only driver.
        context: what the scores depend on besides their units.
        tasks: the tasks of the search by name; their order is the order of the tables.
        blocks: (seed, fold) pairs that the plan may ask for.
        executor: trains the packs; the caller closes it.
        capacity: the largest number of units a pack.
        on_event: told about progress, between two results; what it raises ends the search.

    Raises:
        Interrupted: after SIGINT or SIGTERM.
        LedgerError: when the ledger cannot be written, or another driver writes it.
        BadInput, WorkerError: see `Executor.run`.
    """
    tally = _Tally(on_event)
    with ledger.writer_lock(), Stop(tally.stopping) as stop:
        try:
            for todo in _rounds(plan, ledger, context.key, tuple(tasks), blocks, tally):
                waiting = packs(todo, tasks, capacity, executor.workers)
                with stop.held_off():
                    tally.begin(len(todo), len(waiting))
                _train(_until(stop, waiting), ledger, context, executor, stop, tally)
                if stop.asked:
                    raise KeyboardInterrupt
            if ledger.files() > _SOME_FILES:
                ledger.compact()
        except KeyboardInterrupt:
            raise Interrupted(
                f"Stopped: {tally.done} of {tally.total} units are in {ledger.place}. Run the same command again to go "
                "on from there."
            ) from None
    return tally.end()


def _rounds(
    plan: Plan, ledger: Ledger, context: str, tasks: tuple[str, ...], blocks: Sequence[tuple[int, int]], tally: _Tally
) -> Iterator[Units]:
    """What is to be trained, a round after the other; each is read off the ledger when its turn comes."""
    units = plan.units(blocks)
    if units is not None:
        # No score changes what the plan wants, and the table of a large search takes long to read.
        todo, held = ledger.lacking(context, units)
        tally.start(held, int(held > 0 and not todo))
        if todo:
            yield todo
        return
    table = _table(ledger, context, tasks, blocks)
    tally.start(*progress(plan, table, ledger.done(context)))
    before: Sequence[Unit] = ()
    while wanted := plan.ask(table):
        todo, _ = ledger.lacking(context, wanted)
        if not todo or wanted == before:
            raise RuntimeError(
                f"the plan asks for units that all have final answers, {wanted[0]} for one: it asks for what is "
                "complete, or a trainer answered without a primary score"
            )
        yield todo
        before = wanted
        table = _table(ledger, context, tasks, blocks)


def _table(ledger: Ledger, context: str, tasks: tuple[str, ...], blocks: Sequence[tuple[int, int]]) -> ScoreTable:
    """All scores of the search so far."""
    # Every part: which patients judge a unit follows from its fold, and the table takes the folds of its blocks.
    return lay_out(ledger.sheet(context, part=None, replicates=True), tasks, blocks)


def _train(
    waiting: Iterable[Pack], ledger: Ledger, context: Context, executor: Executor, stop: Stop, tally: _Tally
) -> None:
    """Train packs; each result is in the ledger before it is told."""
    n_files = ledger.files()
    for results in _together(executor, waiting):
        with stop.held_off():
            ledger.append(results, context)
            for result in results:
                tally.add(result)
        n_files += 1
        if n_files > _MANY_FILES:
            ledger.compact()
            n_files = ledger.files()


def _until(stop: Stop, waiting: Iterable[Pack]) -> Iterator[Pack]:
    """The packs, as long as nobody asks to stop."""
    for pack in waiting:
        if stop.asked:
            return
        yield pack


def _together(executor: Executor, waiting: Iterable[Pack]) -> Iterator[list[PackResult]]:
    """Results as they come back; those that have come back at the same time together, which makes one file of them."""
    results: list[PackResult] = []
    try:
        for result in executor.run(waiting):
            results.append(result)
            if not executor.more:
                yield results
                results = []
    except KeyboardInterrupt:
        if results:
            yield results
        raise


class _Tally:
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

    def _tell(self, kind: Literal["round", "pack", "stopping", "done"], message: str = "") -> None:
        number, seconds = self._earlier_rounds + self._rounds, time.monotonic() - self._began
        self._on_event(Event(kind, number, self.done, self.total, self._failed, seconds, message))
