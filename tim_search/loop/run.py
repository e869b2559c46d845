"""The loop of a search: ask the plan, train what the ledger lacks, write it down, ask again.

    plan - a value: which units are wanted     ledger - facts: what was trained     executor - effect: who trains it

Resuming is the same loop: what the ledger holds is not trained again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from tim_search.executors.contract import Executor
from tim_search.executors.packing import packs
from tim_search.ledger.ledger import Ledger
from tim_search.ledger.table import ScoreTable, lay_out
from tim_search.loop.signals import Stop
from tim_search.loop.tally import Event, SearchOutcome, Tally
from tim_search.plans.contract import Plan, progress
from tim_search.types import Context, Interrupted, Pack, PackResult, Task, Unit
from tim_search.types.columns import Units

_MANY_FILES = 512  # files of the ledger above which they are merged while a search runs
_SOME_FILES = 32  # ... at its end, because many small files are slow to read


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
    tally = Tally(on_event)
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
    plan: Plan, ledger: Ledger, context: str, tasks: tuple[str, ...], blocks: Sequence[tuple[int, int]], tally: Tally
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
    waiting: Iterable[Pack], ledger: Ledger, context: Context, executor: Executor, stop: Stop, tally: Tally
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
