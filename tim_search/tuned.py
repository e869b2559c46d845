"""The loop of a search whose subsets are tuned one by one: what the plan asks for is trained with every combination.

It is the loop of `tim_search.search` around itself. A round of the plan becomes a search for each combination of
settings, under the context of these settings, with the same resuming, stopping and compacting. Then the answers, those
of the chosen combinations, are written under the search's own context, where the plan is asked again. Nothing but the
ledger is remembered: after a kill the rounds find their trainings there and are over at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, TypeAlias

from tim_search import search
from tim_search.executors import Executor
from tim_search.games import COLUMNS, ScoreTable, score_table
from tim_search.ledger import Ledger
from tim_search.per_subset import PerSubset
from tim_search.search import Event, Plan, SearchOutcome, StaticPlan
from tim_search.types import Interrupted, Subset, Task

#: Packs a block that one combination is trained on before the next one has its turn. Its workers are started for each
#: turn: so many packs that this costs little, so few that the first answers do not wait for the end.
_PACKS = 16

#: An executor for trainings with these values of the tuned settings; the caller closes it.
Workers: TypeAlias = Callable[[Mapping[str, Any]], Executor]


def run(
    plan: Plan,
    own: PerSubset,
    ledger: Ledger,
    tasks: Mapping[str, Task],
    workers: Workers,
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
    held, rounds = search.played(plan, table, ledger.done(own.context.key))
    told = _Told(on_event, start, rounds, len(own.values) * held)
    outcomes: list[SearchOutcome] = []
    failed, asked = 0, 0
    try:
        while wanted := plan.ask(table):
            todo = tuple(dict.fromkeys(unit.subset for unit in wanted))
            asked += 1
            told.begin(rounds + asked, len(todo) * len(own.blocks) * len(own.values), len(todo), len(own.values))
            for batch in _batches(todo, _PACKS * capacity):
                outcomes += settle(own, ledger, tasks, batch, workers, capacity, told)
                answers = own.answers(ledger, tasks, batch, control)
                with ledger.writer_lock():
                    ledger.append(answers, own.context)
                failed += len({one.unit for answer in answers for one in answer.scores if one.status == "failed"})
            table = _table(own, ledger, tasks)
            if not set(wanted) <= table.answered:
                raise RuntimeError(f"no answer was found for what the plan asks for, {wanted[0]} for one")
    except Interrupted:
        raise Interrupted(
            f"Stopped: {told.done} of {told.total} trainings are in {ledger.place}. Run the same command again to go "
            "on from there."
        ) from None
    outcome = total(outcomes, asked, time.monotonic() - start)
    told.end(f"{outcome.trained} trainings, {outcome.reused + len(own.values) * held} were in the ledger already")
    return replace(outcome, failed=failed, reused=outcome.reused + len(own.values) * held)


def settle(
    own: PerSubset,
    ledger: Ledger,
    tasks: Mapping[str, Task],
    subsets: Sequence[Subset],
    workers: Workers,
    capacity: int,
    on_event: Callable[[Event], None] = lambda event: None,
) -> list[SearchOutcome]:
    """Train subsets with every combination in every block, as far as the ledger lacks it, a combination at a time."""
    plan = StaticPlan(tuple(subsets))
    outcomes = []
    for values in own.values:
        context = own.context_of(values)
        executor = workers(values)
        try:
            outcomes.append(search.run(plan, ledger, context, tasks, own.blocks, executor, capacity, on_event))
        finally:
            executor.close()
    return outcomes


def total(outcomes: Sequence[SearchOutcome], rounds: int, seconds: float) -> SearchOutcome:
    """Searches that follow one another, as one."""
    return SearchOutcome(
        trained=sum(one.trained for one in outcomes),
        failed=sum(one.failed for one in outcomes),
        reused=sum(one.reused for one in outcomes),
        repeated=sum(one.repeated for one in outcomes),
        rounds=rounds,
        seconds=seconds,
        peak_bytes=max((one.peak_bytes for one in outcomes), default=0),
    )


class _Told:
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
    rows = ledger.scores(own.context.key, part=None, columns=COLUMNS)
    return score_table(rows, tuple(tasks), own.blocks, replicates=True)


def _batches(subsets: Sequence[Subset], size: int) -> Iterator[tuple[Subset, ...]]:
    for start in range(0, len(subsets), size):
        yield tuple(subsets[start : start + size])
