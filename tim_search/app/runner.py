"""A resolved search from its start to its report: Ray, the loop, figures, tables and MLflow around it.

The one place where everything meets. Each part is also usable alone, and nothing here decides what is trained.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from tim_search import config
from tim_search.executors.contract import Executor
from tim_search.executors.ray_executor import RayExecutor
from tim_search.executors.serial import SerialExecutor
from tim_search.gates import small_cells
from tim_search.gates.files import write_durably
from tim_search.ledger.ledger import Ledger
from tim_search.loop import run as search
from tim_search.loop.events import EventLog
from tim_search.loop.manifest import Manifest
from tim_search.loop.run import Event, SearchOutcome
from tim_search.plans import expansion, power, static
from tim_search.plans.contract import Plan, progress
from tim_search.report import figures, gallery
from tim_search.report import page as report
from tim_search.results import confirmation, merge, opened
from tim_search.results.grouping import Grouping
from tim_search.results.opened import SearchResults
from tim_search.tracking.tracker import Tracker
from tim_search.tuning import choices, tuned
from tim_search.tuning.per_subset import PerSubset
from tim_search.types import BadInput, Interrupted, Subset, TrainerFactory, canonical, digest, product_version

_LONGEST_NAME = 100  # characters of a subset in the name of a figure


@dataclass(frozen=True, eq=False)
class Finished:
    """A search that came to its end.

    Attributes:
        results: the search folder, as `tim_search.open_search` reads it.
        outcome: what this run trained.
        figures, tables: the files that were written.
        missed: what could not be published to MLflow; empty when all was.
    """

    results: SearchResults
    outcome: SearchOutcome
    figures: tuple[Path, ...]
    tables: tuple[Path, ...]
    missed: tuple[str, ...]


def run_search(
    found: config.ResolvedSearch,
    address: str | None = None,
    on_event: Callable[[Event], None] = lambda event: None,
    warn: Callable[[str], None] = print,
) -> Finished:
    """Run a search to its end, or go on with it: what its ledger holds is not trained again.

    Args:
        found: the search (`tim_search.resolve_search`).
        address: of a Ray cluster; overrides the search file's.
        on_event: told about progress.
        warn: takes warnings about MLflow, which never stop a search.

    Raises:
        BadInput: the folder belongs to another search; Ray cannot be reached; no machine has what a worker asks for.
        Interrupted: after SIGINT or SIGTERM; the ledger holds all that was trained.
    """
    if found.awaits_tuning:
        raise BadInput(
            f"search {found.file.name}: its file asks for tuning, and {found.out} keeps no choice made with these "
            "settings. Tune it first (`tim-search tune`, or `runner.tune`), then resolve the search again."
        )
    manifest = prepare(found)
    ledger = Ledger(found.ledger)
    log = EventLog(
        found.out,
        warn,
        search=manifest.name,
        context=manifest.context.key,
        ledger=ledger.place,
        version=product_version(),
    )

    def caution(message: str) -> None:
        log.warning(message)
        warn(message)

    tracker = tracker_of(manifest, found.out, found.tracking_uri, caution, capacity=found.capacity)
    written: tuple[tuple[Path, ...], tuple[Path, ...]] = ((), ())

    def tell(event: Event) -> None:
        nonlocal written
        log.tell(event)
        on_event(event)
        # A round that begins tells that the one before it is in the ledger.
        completed = event.round if event.kind == "done" else event.round - 1
        if event.kind == "done" or (event.kind == "round" and completed > 0):
            try:
                written = publish(opened.open_search(found.out), tracker, completed, event)
            except OSError as error:
                caution(
                    f"The figures and tables of round {completed} could not be written: {error}. The ledger is whole."
                )

    with log, tracker, contextlib.closing(ray_executor(found, config.training(found), address)) as executor:
        outcome = _search(found, found.plan, executor, tell)
        if found.own is not None:
            _tell_tuned(found, tracker)
    return Finished(opened.open_search(found.out), outcome, *written, tuple(tracker.missed))


def ray_executor(
    found: config.ResolvedSearch, training: tuple[TrainerFactory, Any], address: str | None = None
) -> RayExecutor:
    """Ray workers of a search for what they train, a (factory, payload); `address` overrides the search file's."""
    return RayExecutor(
        *training,
        found.tasks,
        found.resources,
        address or found.file.address,
        time_limit=found.file.resources.time_limit,
    )


def _search(
    found: config.ResolvedSearch, plan: Plan, executor: Executor, on_event: Callable[[Event], None]
) -> SearchOutcome:
    """Train what a plan asks for under the context of a search, with one setting or with all that each subset tries."""
    ledger, control = Ledger(found.ledger), found.design.get("control")
    if found.own is not None:
        return tuned.run(plan, found.own, ledger, found.tasks, executor, found.capacity, on_event, control)
    return search.run(plan, ledger, found.context, found.tasks, found.blocks, executor, found.capacity, on_event)


def catch_up(folder: str | Path, tracking_uri: str | None = None, warn: Callable[[str], None] = print) -> Finished:
    """Publish what a search folder's ledger holds to MLflow, as its search would have; trains nothing.

    Args:
        folder: of a search; its figures and tables are written anew.
        tracking_uri: of MLflow; None takes what the search itself takes.
        warn: takes the warning when MLflow cannot be written; `Finished.missed` then says what is missing there.

    Raises:
        BadInput: for a folder that holds no search, or no scores yet.
    """
    results = opened.open_search(folder)
    file = config.read(results.folder / "search.yaml")[0]
    uri = tracking_uri or config.tracking_uri(file.tracking_uri if file else None, results.folder)
    status = results.status()
    held = results.ledger.done(results.manifest.context.key)
    rounds = progress(results.plan, results.table, held)[1]
    done, failures = status["trained"], status["failed"]
    event = Event("done", rounds, done, done + status["waiting"], failures, status["training_seconds"])
    tracker = tracker_of(results.manifest, results.folder, uri, warn)
    with contextlib.suppress(Interrupted), tracker:
        written = publish(results, tracker, rounds, event)
        if not status["finished"]:
            raise Interrupted("so that MLflow does not show it as finished")
    outcome = SearchOutcome(0, 0, len(held), 0, 0, 0.0)
    return Finished(results, outcome, *written, tuple(tracker.missed))


def tracker_of(
    manifest: Manifest,
    out: Path,
    tracking_uri: str,
    warn: Callable[[str], None],
    *,
    beside: bool = False,
    **settings: Any,
) -> Tracker:
    """What publishes the search of a folder; the same folder and store give the same run in MLflow."""
    context, names = manifest.context, [task.name for task in manifest.tasks]
    plain = asdict(manifest)
    return Tracker(
        tracking_uri,
        manifest.name,
        manifest.published_id(out, tracking_uri),
        cohort=manifest.cohort,
        context=context.key,
        settings={
            "network": context.network,
            "training": json.loads(context.settings),
            **{key: plain[key] for key in ("cohort", "design", "blocks", "sources")},
            "tasks": names,
            **settings,
        },
        beside=beside,
        again=f"To publish later: tim-search publish {out}",
        warn=warn,
    )


def tune(
    found: config.ResolvedSearch,
    subsets: Sequence[Subset] = (),
    address: str | None = None,
    on_event: Callable[[Event], None] = lambda event: None,
    warn: Callable[[str], None] = print,
) -> list[dict[str, Any]]:
    """Choose settings for a search, or a choice of its own for each of some subsets, and keep it in `tuning.json`.

    Args:
        subsets: what is tuned for itself; () tunes for the whole search, which `run` then takes up.
        address: of a Ray cluster; overrides the search file's.

    Returns:
        the records of the studies, as `tuning.json` holds them; where every subset of the search has settings of its
        own, those of `per_subset.PerSubset.records`, and `tuning.json` is not needed.

    Raises:
        BadInput: no combination of settings could be trained.
        Interrupted, LedgerError, WorkerError: see `tuning.run`; what was trained is in the ledger.
    """
    if found.own is not None:
        return _tune_own(found, found.own, subsets, address, on_event, warn)
    # Imported here: optuna and ray.tune, which take seconds and serve this alone.
    from tim_search.tuning import study as tuning

    ledger = Ledger(found.ledger)
    factory, payload = config.training(found)
    where = (found.resources, found.capacity, address or found.file.address)
    studies = [config.study(found, own) for own in subsets] or [config.study(found)]
    together = [replace(studies[0], subsets=tuple(dict.fromkeys(subsets)))] if subsets else studies
    # On a grid all subsets share the combinations, and so their packs; Optuna goes its own way for each of them.
    for study in together if studies[0].sampler == "grid" else studies:
        tuning.run(study, ledger, factory, payload, *where, on_event)
    rows = ledger.scores(columns=choices.COLUMNS)
    records, paths = [], []
    for study, own in zip(studies, subsets or (None,), strict=True):
        trials = choices.trials(study, rows)
        records.append(choices.write(found.out, study, trials, own))
        names = "+".join(own or ())
        name = f"tuning-{names if len(names) <= _LONGEST_NAME else digest(names)}" if own else "tuning"
        paths += tuning.figures(study, trials, found.out / "figures", figures.save_and_close, name)
    table = [row for record in records for row in choices.table(record)]
    write_table(found.out / "tables" / ("tuning-subsets.csv" if subsets else "tuning.csv"), table)
    tuned = config.resolve(found.file, found.out)
    with tracker_of(_manifest(tuned), tuned.out, tuned.tracking_uri, warn, capacity=tuned.capacity) as tracker:
        tracker.tuning(table, paths, "subsets" if subsets else "search")
    return records


def _tune_own(
    found: config.ResolvedSearch,
    own: PerSubset,
    subsets: Sequence[Subset],
    address: str | None,
    on_event: Callable[[Event], None],
    warn: Callable[[str], None],
) -> list[dict[str, Any]]:
    if not subsets:
        raise BadInput(
            f"search {found.file.name}: with `scope: per_subset` every subset is tuned where it is trained, by "
            "`tim-search run`. Name subsets with --subset or --chosen to see what theirs is."
        )
    settle(found, subsets, address, on_event)
    records = own.records(Ledger(found.ledger), found.tasks, subsets, found.design.get("control"))
    table = [row for record in records for row in choices.table(record)]
    write_table(found.out / "tables" / "tuning-subsets.csv", table)
    with tracker_of(_manifest(found), found.out, found.tracking_uri, warn, capacity=found.capacity) as tracker:
        tracker.tuning(table, [], "subsets")
    return records


def _tell_tuned(found: config.ResolvedSearch, tracker: Tracker) -> None:
    """What was compared for every subset of the search, as a table and in MLflow."""
    results = opened.open_search(found.out)
    table = [row for record in results.tuning() for row in choices.table(record)]
    write_table(found.out / "tables" / "tuning.csv", table)
    tracker.tuning(table, [], "every subset")


def settle(
    found: config.ResolvedSearch,
    subsets: Sequence[Subset],
    address: str | None = None,
    on_event: Callable[[Event], None] = lambda event: None,
) -> None:
    """Train what choosing settings for these subsets takes; nothing where all subsets of the search share theirs.

    The scores of the search do not change by it: a subset outside its plan gets settings, but no answer.
    """
    if found.own is None:
        return
    ledger = Ledger(found.ledger)
    todo = found.own.lacking(ledger, subsets)
    if todo:
        with contextlib.closing(ray_executor(found, config.training(found), address)) as executor:
            tuned.settle(found.own, ledger, found.tasks, todo, executor, found.capacity, on_event)


def pilot(found: config.ResolvedSearch, on_event: Callable[[Event], None] = lambda event: None) -> SearchOutcome:
    """Train the first subsets of a sampled design in this process, as a pilot of the search; they are part of it.

    Raises:
        BadInput: the design is no sampled one, or the folder belongs to another search.
    """
    design = found.plan.sample
    if design is None:
        raise BadInput(
            f"--pilot: expected a sampled design, got {found.design['kind']}. The other designs train what they train; "
            "there is nothing to choose from a pilot."
        )
    prepare(found)
    plan = design.first(power.pilot_size(len(found.tasks), len(found.blocks)))
    with contextlib.closing(SerialExecutor(*config.training(found), found.tasks)) as here:
        return _search(found, plan, here, on_event)


def train_choice(
    found: config.ResolvedSearch,
    choose: Callable[[SearchResults], Grouping],
    address: str | None = None,
    on_event: Callable[[Event], None] = lambda event: None,
    on_choice: Callable[[Grouping, tuple[Subset, ...]], None] = lambda choice, todo: None,
) -> Grouping:
    """Choose models, train what the choice rests on unmeasured, and choose again, until it rests on measured scores.

    The trainings are those of the search: the same context, ledger and blocks.

    Args:
        found: the search, resolved from its own `search.yaml`.
        choose: reads the choice off the search folder.
        address: of a Ray cluster; overrides the search file's.
        on_event: told about progress.
        on_choice: told about each choice and the subsets to be trained for it.

    Raises:
        BadInput, Interrupted: as `run_search`.
    """
    prepare(found)
    with contextlib.closing(ray_executor(found, config.training(found), address)) as executor:
        while True:
            results = opened.open_search(found.out)
            choice = choose(results)
            # What failed in vain has its final answer; it is no candidate, or stays predicted where a task is alone.
            todo = tuple(members for members in choice.unmeasured if members not in results.table.complete)
            if not todo:
                return choice
            on_choice(choice, todo)
            _search(found, static.StaticPlan(todo), executor, on_event)


def prepare(found: config.ResolvedSearch) -> Manifest:
    """Make the output folder ready: `search.yaml` and `search.json`.

    Raises:
        BadInput: when the folder holds another search, or one with another context, whose scores do not compare with
            this one's.
        LedgerError: when another driver is at work there.
    """
    # Under the lock: a second driver must not rename the search of the first.
    with Ledger(found.ledger).writer_lock():
        return _prepare(found)


def check_folder(found: config.ResolvedSearch) -> None:
    """Raise BadInput when the output folder holds another search than this one; writes nothing."""
    if (found.out / "search.json").exists():
        earlier = Manifest.read(found.out)
        if earlier.context != found.context:
            raise BadInput(other_context(found, earlier))
        if earlier.name != found.file.name or {task.name for task in earlier.tasks} != set(found.tasks):
            raise BadInput(
                f"{found.out} holds the search {earlier.name} of {len(earlier.tasks)} tasks; expected that one again, "
                f"got {found.file.name} of {len(found.tasks)} tasks. Give this search a folder of its own with --out; "
                f"with `ledger: {found.ledger}` in its file it takes over all that is trained already."
            )


def _prepare(found: config.ResolvedSearch) -> Manifest:
    from model.cohorts.manifest import describe

    check_folder(found)
    manifest = _manifest(found)
    manifest.write(found.out)
    # Paths are relative to the file, so the folder may be moved and its search still goes on in it.
    again = found.file_with_blocks.model_copy(update={"out": Path()})
    write_durably(found.out / "search.yaml", config.dump(again).encode())
    small = found.file.small_cells
    record = small_cells.of_cohort(describe(found.cohort), small) | {"small_cells": small}
    write_durably(found.out / "cohort.json", (canonical(record) + "\n").encode())
    write_durably(found.out / "versions.json", (canonical(_versions()) + "\n").encode())
    return manifest


def _manifest(found: config.ResolvedSearch) -> Manifest:
    inside = isinstance(found.ledger, Path) and found.ledger.is_relative_to(found.out)
    return Manifest(
        name=found.file.name,
        cohort=found.cohort.name,
        context=found.context,
        tasks=tuple(found.tasks.values()),
        overlaps=tuple(found.cohort.overlaps),
        design=found.design,
        blocks=found.blocks,
        sources=found.sources,
        ledger=os.path.relpath(found.ledger, found.out) if inside else str(found.ledger),
        planned_units=found.plan.planned(found.blocks),
    )


def _versions() -> dict[str, str]:
    """What computes the scores, as it is installed where the search is started."""
    libraries = ("tim-search", "torch", "numpy", "pandas", "pyarrow", "scikit-learn", "scipy", "ray")
    found = {"python": platform.python_version(), "machine": f"{platform.system()} {platform.machine()}"}
    for name in libraries:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed as a package"
    return found


def other_context(found: config.ResolvedSearch, earlier: Manifest) -> str:
    differ = merge.differences(earlier.context, found.context)
    return (
        f"{found.out} holds the search {earlier.name!r} with another context: {'; '.join(differ)} differ. "
        "Scores of two contexts do not compare. Name another output folder with --out, or go back to the earlier "
        f"settings ({found.out / 'search.yaml'})."
    )


def publish(
    results: SearchResults, tracker: Tracker, completed: int, event: Event
) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
    """Write figures and tables of a completed round into the search folder and to MLflow; returns their paths."""
    result = results.tim()
    expansions, sharing = results.expand()
    heatmaps = gallery.heatmaps(results, result)
    expanded = gallery.expansions(results, expansions)
    tables = (
        write_table(results.folder / "tables" / "tim.csv", result.frame()),
        write_table(results.folder / "tables" / "expansion.csv", expansion.rows(expansions)),
    )
    tracker.metrics({"units_done": event.done, "units_failed": event.failed, "seconds": event.seconds}, completed)
    tracker.heatmap(result, heatmaps, completed)
    tracker.expansion(expansions, sharing, expanded)
    tracker.ledger(results.ledger.scores(results.manifest.context.key, primary=False, part=None))
    if event.kind == "done":
        tracker.report(report.write(results, confirmation=confirmation.rows(results)))
    return (*heatmaps, *expanded, *gallery.attention(results, result)), tables


def write_table(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    """Write rows as CSV, whole or not at all; returns the path."""
    rows, text = list(rows), io.StringIO(newline="")
    writer = csv.DictWriter(text, fieldnames=list(rows[0]) if rows else [])
    writer.writeheader()
    writer.writerows(rows)
    return write_durably(path, text.getvalue().encode())
