"""The loop of a search whose subsets are tuned one by one: what the plan asks for is trained with every combination.

It drives the loop of `tim_search.loop.run` from outside. A round of the plan becomes an ordinary search for each
combination of settings: the same executor, asked to train under these settings, and the context of these settings. Then
the answers, those of the chosen combinations, are written under the search's own context, where the plan is asked
again. Nothing but the ledger is remembered: after a kill the rounds find their trainings there and are over at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Literal

from tim_search.executors.contract import Executor, WithSettings
from tim_search.ledger.ledger import Ledger
from tim_search.ledger.table import ScoreTable, lay_out
from tim_search.loop import run as search
from tim_search.loop.tally import Event, SearchOutcome
from tim_search.plans.contract import Plan, progress
from tim_search.plans.static import StaticPlan
from tim_search.tuning.per_subset import PerSubset
from tim_search.types import Interrupted, Subset, Task, canonical, counted

#: Packs of each combination that are trained before the next combination is: so many that waiting for the last of them
#: costs little, so few that the first answers do not wait for the end.
_PACKS = 64


def run(
    plan: Plan,
    own: PerSubset,
    ledger: Ledger,
    tasks: Mapping[str, Task],
    executor: Executor,
    capacity: int,
    on_event: Callable[[Event], None] = lambda event: None,
    control: str | None = None,
) -> SearchOutcome:
    """Run a search to its end, from wherever the ledger stands; see `search.run`.

    Outcome and events count trainings, V of them for a unit of the plan. A training that fails is no loss where another
    combination does better: `failed` of the outcome counts the units whose answer is a failure.
    """
    start = time.monotonic()
    table = _table(own, ledger, tasks)
    held, rounds = progress(plan, table, ledger.done(own.context.key))
    events = _Events(on_event, start, rounds, len(own.values) * held)
    outcomes: list[SearchOutcome] = []
    failed, asked = 0, 0
    each = len(own.values) * len(own.blocks)
    try:
        while wanted := plan.ask(table):
            todo = tuple(dict.fromkeys(unit.subset for unit in wanted))
            asked += 1
            events.begin(rounds + asked, len(todo) * each, len(todo), len(own.values))
            for batch in _batches(todo, max(1, _PACKS * capacity // len(own.blocks))):
                outcomes += _train(own, ledger, tasks, batch, executor, capacity, events)
                answers = own.answers(ledger, tasks, batch, control)
                with ledger.writer_lock():
                    ledger.append(answers, own.context)
                failed += len({score.unit for answer in answers for score in answer.scores if score.status == "failed"})
            table = _table(own, ledger, tasks)
            if not set(wanted) <= table.answered:
                raise RuntimeError(f"no answer was found for what the plan asks for, {wanted[0]} for one")
    except Interrupted:
        raise Interrupted(
            f"Stopped: {events.done} of {events.total} trainings are in {ledger.place}. Run the same command again "
            "to go on from there."
        ) from None
    outcome = total(outcomes, asked, time.monotonic() - start)
    reused = outcome.reused + len(own.values) * held
    events.end(f"{counted(outcome.trained, 'training')}, {reused} were in the ledger already")
    return replace(outcome, failed=failed, reused=reused)


def settle(
    own: PerSubset,
    ledger: Ledger,
    tasks: Mapping[str, Task],
    subsets: Sequence[Subset],
    executor: Executor,
    capacity: int,
    on_event: Callable[[Event], None] = lambda event: None,
) -> None:
    """Train subsets with every combination in every block, as far as the ledger lacks it; nothing is answered."""
    events = _Events(on_event, time.monotonic(), 0, 0)
    events.begin(1, len(subsets) * len(own.values) * len(own.blocks), len(subsets), len(own.values))
    _train(own, ledger, tasks, subsets, executor, capacity, events)
    events.end("")


def _train(
    own: PerSubset,
    ledger: Ledger,
    tasks: Mapping[str, Task],
    subsets: Sequence[Subset],
    executor: Executor,
    capacity: int,
    on_event: Callable[[Event], None],
) -> list[SearchOutcome]:
    """A search for each combination; of every one its outcome."""
    plan, outcomes = StaticPlan(subsets), list[SearchOutcome]()
    for values in own.values:
        under = WithSettings(executor, canonical(values))
        context = own.context_of(values)
        outcomes.append(search.run(plan, ledger, context, tasks, own.blocks, under, capacity, on_event))
    return outcomes


def total(outcomes: Sequence[SearchOutcome], rounds: int, seconds: float) -> SearchOutcome:
    """Searches that follow one another, as one."""
    return SearchOutcome(
        trained=sum(outcome.trained for outcome in outcomes),
        failed=sum(outcome.failed for outcome in outcomes),
        reused=sum(outcome.reused for outcome in outcomes),
        repeated=sum(outcome.repeated for outcome in outcomes),
        rounds=rounds,
        seconds=seconds,
        peak_bytes=max((outcome.peak_bytes for outcome in outcomes), default=0),
    )


class _Events:
    """Events of the searches within, told as those of the whole: trainings of all combinations, and rounds of the plan.

    Attributes:
        done, total: trainings that the ledger holds, and those asked for so far.
    """

    def __init__(self, on_event: Callable[[Event], None], start: float, rounds: int, held: int) -> None:
        self._on_event, self._start = on_event, start
        self._before, self._failed, self._round = held, 0, rounds
        self.done = self.total = held

    def __call__(self, event: Event) -> None:
        self.done = self._before + event.done
        failed = self._failed + event.failed
        if event.kind == "done":
            self._before, self._failed = self.done, failed
        stopping = event.kind == "stopping"
        self._tell("stopping" if stopping else "pack", failed, event.message if stopping else "")

    def begin(self, number: int, trainings: int, subsets: int, combinations: int) -> None:
        self._round = number
        self.total += trainings
        self._tell("round", self._failed, f"round {number}: {subsets} subsets, {combinations} combinations each")

    def end(self, message: str) -> None:
        self._tell("done", self._failed, message)

    def _tell(self, kind: Literal["round", "pack", "stopping", "done"], failed: int, message: str) -> None:
        seconds = time.monotonic() - self._start
        self._on_event(Event(kind, self._round, self.done, self.total, failed, seconds, message))


def _table(own: PerSubset, ledger: Ledger, tasks: Mapping[str, Task]) -> ScoreTable:
    return lay_out(ledger.sheet(own.context.key, part=None, replicates=True), tuple(tasks), own.blocks)


def _batches(subsets: Sequence[Subset], size: int) -> Iterator[tuple[Subset, ...]]:
    for start in range(0, len(subsets), size):
        yield tuple(subsets[start : start + size])
