"""The loop of a search whose subsets are tuned one by one: what the plan asks for is trained with every combination.

It is the loop of `tim_search.loop.run` around itself. A round of the plan becomes a search for all that is tried, with
the same resuming, stopping and compacting: units that name their settings, of which those of one subset, all
combinations in all blocks, are one pack. In the ledger a training lies under the context of its settings. Then the
answers, those of the chosen combinations, are written under the search's own context, where the plan is asked again.
Nothing but the ledger is remembered: after a kill the rounds find their trainings there and are over at once.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from tim_search.executors.packing import by_settings
from tim_search.executors.queue import Executor
from tim_search.ledger.ledger import Ledger
from tim_search.ledger.table import COLUMNS, ScoreTable, score_table
from tim_search.loop import run as search
from tim_search.loop.run import Event, SearchOutcome
from tim_search.plans.contract import Plan, progress
from tim_search.plans.static import StaticPlan
from tim_search.tuning.per_subset import PerSubset
from tim_search.types import Context, Interrupted, PackResult, Subset, Task, Unit, canonical
from tim_search.types.columns import Units

#: Packs of what is tried that are trained before answers are written: so many that waiting for the last of them costs
#: little, so few that the first answers do not wait for the end.
_PACKS = 64


class _Tried(Ledger):
    """A ledger to the loop that trains what is tried: units that name settings lie under the context of these."""

    def __init__(self, ledger: Ledger, own: PerSubset) -> None:
        super().__init__(ledger.storage)
        self._own = own

    def append(self, results: Iterable[PackResult] | PackResult, context: Context) -> None:
        """See `Ledger.append`; what was trained with other settings is in another file."""
        apart: dict[str, list[PackResult]] = {}
        for result in [results] if isinstance(results, PackResult) else results:
            for settings, parts in by_settings(result).items():
                apart.setdefault(settings, []).extend(parts)
        for settings, parts in apart.items():
            super().append(parts, self._own.context_of(json.loads(settings)))

    def lacking(self, context: str, units: Iterable[Unit]) -> tuple[Units, int]:
        """See `Ledger.lacking`."""
        apart: dict[str, list[Unit]] = {}
        for unit in units:
            apart.setdefault(unit.settings, []).append(replace(unit, settings=""))
        lacking: list[Unit] = []
        held = 0
        for settings, plain in apart.items():
            missing, there = super().lacking(self._own.context_of(json.loads(settings)).key, plain)
            lacking += [replace(unit, settings=settings) for unit in missing]
            held += there
        return Units.of(lacking), held


@dataclass(frozen=True)
class _Combinations(StaticPlan):
    """Subsets that are each trained with every combination; `settings` are these as units name them."""

    settings: tuple[str, ...] = ()

    def units(self, blocks: Sequence[tuple[int, int]]) -> Units:
        """See `StaticPlan.units`."""
        plain = super().units(blocks)
        return Units.of(replace(unit, settings=text) for text in self.settings for unit in plain)


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
    told = _Told(on_event, start, rounds, len(own.values) * held)
    outcomes: list[SearchOutcome] = []
    failed, asked = 0, 0
    each = len(own.values) * len(own.blocks)
    try:
        while wanted := plan.ask(table):
            todo = tuple(dict.fromkeys(unit.subset for unit in wanted))
            asked += 1
            told.begin(rounds + asked, len(todo) * each, len(todo), len(own.values))
            for batch in _batches(todo, max(1, _PACKS * capacity // each)):
                outcomes.append(settle(own, ledger, tasks, batch, executor, capacity, told))
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
    executor: Executor,
    capacity: int,
    on_event: Callable[[Event], None] = lambda event: None,
) -> SearchOutcome:
    """Train subsets with every combination in every block, as far as the ledger lacks it."""
    plan = _Combinations(subsets, settings=tuple(map(canonical, own.values)))
    return search.run(plan, _Tried(ledger, own), own.context, tasks, own.blocks, executor, capacity, on_event)


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
