"""The loop of a search: ask the plan, train what the ledger lacks, write it down, ask again.

    plan - a value: which units are wanted     ledger - facts: what was trained     executor - effect: who trains it

Resuming is the same loop: what the ledger holds is not trained again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from tim_search.executors.packing import packs
from tim_search.executors.queue import Executor
from tim_search.ledger.ledger import Ledger
from tim_search.ledger.table import ScoreTable, empty, lay_out
from tim_search.loop.signals import Stop
from tim_search.plans.static import Plan, StaticPlan, played
from tim_search.types import Context, Interrupted, Pack, PackResult, Task, Unit

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
    start = time.monotonic()
    trained = failed = repeated = rounds = earlier = reused = total = peak = 0

    # What a static plan answers depends on no score, and the table of a large search takes long to read.
    static = plan if isinstance(plan, StaticPlan) else None

    def read_table() -> ScoreTable:
        # Every part: which patients judge a unit follows from its fold, and the table takes the folds of its blocks.
        return lay_out(ledger.sheet(context.key, part=None, replicates=True), tuple(tasks), blocks)

    def tell(kind: Literal["round", "pack", "stopping", "done"], message: str = "") -> None:
        on_event(Event(kind, earlier + rounds, reused + trained, total, failed, time.monotonic() - start, message))

    def announce() -> None:
        tell("stopping", "stopping after the packs in flight; a second signal drops them")

    def feed(waiting: Iterable[Pack]) -> Iterator[Pack]:
        for pack in waiting:
            if stop.asked:
                return
            yield pack

    with ledger.writer_lock(), Stop(announce) as stop:
        try:
            answered: set[Unit] = set()
            table = empty(tuple(tasks), blocks) if static else read_table()
            if static:
                wanted: Sequence[Unit]
                wanted, reused = ledger.lacking(context.key, static.units(blocks))
                earlier = int(reused > 0 and not wanted)
            else:
                answered = ledger.done(context.key)
                reused, earlier = played(plan, table, answered)
                wanted = plan.ask(table)
            total = reused
            while wanted:
                rounds += 1
                todo = wanted if static else [unit for unit in dict.fromkeys(wanted) if unit not in answered]
                if not todo:
                    raise RuntimeError(
                        f"the plan asks for units that all have final answers, {wanted[0]} for one: it asks for what "
                        "is complete, or a trainer answered without a primary score"
                    )
                total += len(todo)
                waiting = packs(todo, tasks, capacity, executor.workers)
                with stop.held_off():
                    tell("round", f"round {earlier + rounds}: {len(todo)} units in {len(waiting)} packs")
                n_files = ledger.files()
                for results in _together(executor, feed(waiting)):
                    with stop.held_off():
                        ledger.append(results, context)
                        for result in results:
                            if not static:
                                answered.update(result.pack.units)
                            trained += len(result.pack.units)
                            failed += len({score.unit for score in result.scores if score.status == "failed"})
                            repeated += (result.attempts - 1) * len(result.pack.units)
                            peak = max(peak, result.peak_bytes)
                            tell("pack")
                    n_files += 1
                    if n_files > _MANY_FILES:
                        ledger.compact()
                        n_files = ledger.files()
                if stop.asked:
                    raise KeyboardInterrupt
                if static:
                    break  # no score changes what it wants
                table = read_table()
                wanted = plan.ask(table)
            if ledger.files() > _SOME_FILES:
                ledger.compact()
        except KeyboardInterrupt:
            raise Interrupted(
                f"Stopped: {reused + trained} of {total} units are in {ledger.place}. Run the same command again to go "
                "on from there."
            ) from None
    tell("done", f"{trained} units trained, {failed} of them failed, {reused} were in the ledger already")
    return SearchOutcome(trained, failed, reused, repeated, rounds, time.monotonic() - start, peak)


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
