"""A resolved search from its start to its end: the loop on Ray, with log, figures, tables and MLflow around it.

The one place where everything meets. Each part is also usable alone, and nothing here decides what is trained.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tim_search import config
from tim_search.app import references
from tim_search.app.opening import check_named
from tim_search.app.publishing import Finished, publish, publish_tuning, tracker_of
from tim_search.app.search_folder import prepare
from tim_search.executors.contract import Executor
from tim_search.executors.ray_executor import RayExecutor
from tim_search.executors.serial import SERIAL, SerialExecutor
from tim_search.ledger.ledger import Ledger
from tim_search.loop import run as loop
from tim_search.loop import running
from tim_search.loop.events import EventLog
from tim_search.loop.tally import Event, SearchOutcome
from tim_search.plans import power, static
from tim_search.plans.contract import Plan
from tim_search.results import opened
from tim_search.results.grouping import Grouping
from tim_search.results.opened import SearchResults
from tim_search.tuning import tuned
from tim_search.types import BadInput, Subset, TrainerFactory, counted, product_version


def run_search(
    search: config.ResolvedSearch,
    address: str | None = None,
    on_event: Callable[[Event], None] = lambda event: None,
    warn: Callable[[str], None] = print,
) -> Finished:
    """Run a search to its end, or go on with it: what its ledger holds is not trained again.

    Args:
        search: as `tim_search.resolve_search` gives it.
        address: of a Ray cluster, or "serial" for this process without Ray; overrides the search file's.
        on_event: told about progress.
        warn: takes warnings about MLflow, which never stop a search.

    Raises:
        BadInput: the folder belongs to another search; Ray cannot be reached; no machine has what a worker asks for.
        Interrupted: after SIGINT or SIGTERM; the ledger holds all that was trained.
    """
    check_named(address=address)
    if search.awaits_tuning:
        raise BadInput(
            f"search {search.file.name}: its file asks for tuning, and {search.out} keeps no choice made with these "
            "settings. Tune it first (`tim-search tune`, or `tuning.tune`), then resolve the search again."
        )
    limit = opened.small_cells_of(search.out)
    manifest = prepare(search)
    about = {"search": manifest.name, "context": manifest.context.key, "version": product_version()}
    log = EventLog(search.out, warn, ledger=Ledger(search.ledger).place, **about)

    def caution(message: str) -> None:
        log.warning(message)
        warn(message)

    _caution_of_earlier(search, limit, caution)
    tracker = tracker_of(manifest, search.out, search.tracking_uri, caution, capacity=search.capacity)
    written: tuple[tuple[Path, ...], tuple[Path, ...]] = ((), ())

    def tell(event: Event) -> None:
        nonlocal written
        log.tell(event)
        at_work.tell(event)
        # A round that begins tells that the one before it is in the ledger.
        completed = event.round if event.kind == "done" else event.round - 1
        if event.kind == "done" or (event.kind == "round" and completed > 0):
            try:
                written = publish(opened.open_search(search.out), tracker, completed, event)
            except (OSError, BadInput) as error:
                caution(f"The figures and tables of round {completed} are not whole: {error} The ledger is whole.")

    executor = executor_of(search, config.training(search), address)
    at_work = running.AtWork(search.out, manifest.name, "run", on_event)
    with at_work, log, tracker, contextlib.closing(executor):
        references.train(search, executor, tell)
        outcome = _search(search, search.plan, executor, tell)
        if search.own is not None:
            publish_tuning(search, tracker)
    return Finished(opened.open_search(search.out), outcome, *written, tuple(tracker.missed))


def _caution_of_earlier(search: config.ResolvedSearch, limit: int | None, caution: Callable[[str], None]) -> None:
    """Say so where the ledger may hold scores from before counts were hidden."""
    if limit is not None and limit < search.file.small_cells:
        caution(
            f"small_cells: was {limit} in {search.out} and is {search.file.small_cells} now. Scores that the ledger "
            "holds already stay as they are, and may tell counts that are now to be hidden: give the search a new "
            "ledger and folder to train them again."
        )


def executor_of(
    search: config.ResolvedSearch, training: tuple[TrainerFactory, Any], address: str | None = None
) -> RayExecutor | SerialExecutor:
    """Who trains for a search what is given as (factory, payload): Ray's workers, or this process.

    `address` overrides the search file's; `SERIAL` is this process.
    """
    place = address or search.file.address
    if place == SERIAL:
        return SerialExecutor(*training, search.tasks)
    return RayExecutor(*training, search.tasks, search.resources, place, time_limit=search.file.resources.time_limit)


def words(search: config.ResolvedSearch) -> str:
    """What a search is and where it writes, in one line."""
    units = search.plan.planned(search.blocks)
    amount = "as many units as the search turns out to need" if units is None else counted(units, "unit")
    if search.own is not None:
        amount += f", each with {len(search.own.values)} combinations of settings"
    return f"Search {search.file.name}: {counted(len(search.tasks), 'task')}, {amount}, into {search.out}"


def start_words(address: str | None) -> str:
    """What is being done until the first training begins, for people who wait."""
    if address == SERIAL:
        return "Training in this process, without Ray"
    return f"Connecting to Ray at {address}" if address else "Starting Ray on this machine (up to half a minute)"


def _search(
    search: config.ResolvedSearch, plan: Plan, executor: Executor, on_event: Callable[[Event], None]
) -> SearchOutcome:
    """Train what a plan asks for under the context of a search, with one setting or with all that each subset tries."""
    ledger, control = Ledger(search.ledger), search.design.get("control")
    if search.own is not None:
        return tuned.run(plan, search.own, ledger, search.tasks, executor, search.capacity, on_event, control)
    return loop.run(plan, ledger, search.context, search.tasks, search.blocks, executor, search.capacity, on_event)


def settle(
    search: config.ResolvedSearch,
    subsets: Sequence[Subset],
    address: str | None = None,
    on_event: Callable[[Event], None] = lambda event: None,
) -> None:
    """Train what choosing settings for these subsets takes; nothing where all subsets of the search share theirs.

    The scores of the search do not change by it: a subset outside its plan gets settings, but no answer.
    """
    if search.own is None:
        return
    ledger = Ledger(search.ledger)
    todo = search.own.lacking(ledger, subsets)
    if todo:
        with contextlib.closing(executor_of(search, config.training(search), address)) as executor:
            tuned.settle(search.own, ledger, search.tasks, todo, executor, search.capacity, on_event)


def pilot(search: config.ResolvedSearch, on_event: Callable[[Event], None] = lambda event: None) -> SearchOutcome:
    """Train the first subsets of a sampled design in this process, as a pilot of the search; they are part of it.

    Raises:
        BadInput: the design is no sampled one, or the folder belongs to another search.
    """
    design = search.plan.sample
    if design is None:
        raise BadInput(
            f"--pilot: expected a sampled design, got {search.design['kind']}. The other designs train what they "
            "train; there is nothing to choose from a pilot."
        )
    prepare(search)
    plan = design.first(power.pilot_size(len(search.tasks), len(search.blocks)))
    with contextlib.closing(SerialExecutor(*config.training(search), search.tasks)) as here:
        return _search(search, plan, here, on_event)


def train_choice(
    search: config.ResolvedSearch,
    choose: Callable[[SearchResults], Grouping],
    address: str | None = None,
    on_event: Callable[[Event], None] = lambda event: None,
    on_choice: Callable[[Grouping, tuple[Subset, ...]], None] = lambda choice, todo: None,
) -> Grouping:
    """Choose models, train what the choice rests on unmeasured, and choose again, until it rests on measured scores.

    The trainings are those of the search: the same context, ledger and blocks.

    Args:
        search: resolved from its own `search.yaml`.
        choose: reads the choice off the search folder.
        address: of a Ray cluster; overrides the search file's.
        on_event: told about progress.
        on_choice: told about each choice and the subsets to be trained for it.

    Raises:
        BadInput, Interrupted: as `run_search`.
    """
    check_named(address=address)
    prepare(search)
    executor = executor_of(search, config.training(search), address)
    with running.AtWork(search.out, search.file.name, "group", on_event) as at_work, contextlib.closing(executor):
        while True:
            results = opened.open_search(search.out)
            choice = choose(results)
            # What failed in vain has its final answer; it is no candidate, or stays predicted where a task is alone.
            todo = tuple(members for members in choice.unmeasured if members not in results.table.complete)
            if not todo:
                return choice
            on_choice(choice, todo)
            _search(search, static.StaticPlan(todo), executor, at_work.tell)
