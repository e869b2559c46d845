"""The loop of a search: ask the plan, train what the ledger lacks, write it down, ask again.

    plan - a value: which units are wanted     ledger - facts: what was trained     executor - effect: who trains it

Resuming is the same loop: what the ledger holds is not trained again. `Manifest` is the file that makes the output
folder of a search readable without its cohort, its network or its search file.
"""

from __future__ import annotations

import contextlib
import json
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from types import FrameType
from typing import Any, Literal, Protocol, Self

import numpy as np

from tim_search import storage
from tim_search.executors import Executor
from tim_search.games import ScoreTable, empty, lay_out
from tim_search.ledger import Ledger, product_version, write_durably
from tim_search.packing import packs
from tim_search.types import BadInput, Context, Interrupted, Pack, PackResult, Subset, Task, Unit, digest
from tim_search.units import Subsets, Units

_MANY_FILES = 512  # files of the ledger above which they are merged while a search runs
_SOME_FILES = 32  # ... at its end, because many small files are slow to read


class Plan(Protocol):
    """Which units are wanted, as a pure function of what is known: the same table gives the same answer."""

    def ask(self, table: ScoreTable) -> Sequence[Unit]:
        """Units wanted in the table's blocks that have no final answer in it yet; [] when finished."""
        ...


@dataclass(frozen=True)
class StaticPlan:
    """Subsets that are known beforehand: exact, sized and sampled designs.

    Attributes:
        subsets: in their order.
        sliced: each block trains subsets of its own, the t-th subset in block t modulo the number of blocks; else every
            block trains all of them. Subsets that are added later leave the slices of the earlier ones as they are.
    """

    subsets: Sequence[Subset]
    sliced: bool = False

    def units(self, blocks: Sequence[tuple[int, int]]) -> Units:
        """All units of the plan in these blocks."""
        subsets = Subsets.of(self.subsets)
        conditions = tuple((seed, fold, "") for seed, fold in blocks)
        row, block = np.arange(len(subsets), dtype=np.int32), np.arange(len(blocks), dtype=np.int32)
        if self.sliced:
            return Units(subsets, conditions, row % np.int32(len(blocks)))
        return Units(subsets.take(row.repeat(len(blocks))), conditions, np.tile(block, len(subsets)))

    def ask(self, table: ScoreTable) -> list[Unit]:
        """See `Plan.ask`."""
        return [unit for unit in self.units(table.blocks) if unit not in table.answered]


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

    with ledger.writer_lock(), _Stop(announce) as stop:
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


def played(plan: Plan, table: ScoreTable, held: set[Unit]) -> tuple[int, int]:
    """Units the ledger holds of all that the plan would have asked for from the beginning, and rounds it holds whole.

    The plan is played through on the part of the table it has asked for so far, until it asks for something new.
    """
    asked: set[Unit] = set()
    rounds = 0
    known = empty(table.tasks, table.blocks)
    while new := set(plan.ask(known)) - asked:
        asked |= new
        if not new <= table.answered:
            break
        rounds += 1
        known = table.of(asked)
    return len(asked & held), rounds


class _Stop:
    """Turns SIGINT and SIGTERM into a wish: the first sets `asked`, a second one raises KeyboardInterrupt.

    Outside the main thread, where Python allows no handlers, it does nothing.

    Args:
        announce: called once, soon after the first signal, in the main thread.
    """

    def __init__(self, announce: Callable[[], None]) -> None:
        self.asked = False
        self._urgent = False
        self._announce = announce
        self._holding = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    @contextlib.contextmanager
    def held_off(self) -> Iterator[None]:
        """A block that no signal cuts short; what one asked for meanwhile happens at its end."""
        asked, urgent = self.asked, self._urgent
        self._holding = True
        try:
            yield
        finally:
            self._holding = False
        self._act(asked, urgent)

    def _note(self, number: int, frame: FrameType | None) -> None:
        asked, urgent = self.asked, self._urgent
        self.asked, self._urgent = True, self.asked
        if not self._holding:
            self._act(asked, urgent)

    def _act(self, asked: bool, urgent: bool) -> None:
        """Follow what was wished for since the state was (asked, urgent)."""
        if self._urgent and not urgent:
            raise KeyboardInterrupt
        if self.asked and not asked:
            self._announce()


# -------------------------------------------------------------------- the file of a search


@dataclass(frozen=True)
class Manifest:
    """What `search.json` in the output folder says: all that reading its ledger takes.

    Attributes:
        name: of the search.
        cohort: name of the cohort; its fingerprint is in `context`.
        context: what every score of the search depends on besides its unit.
        tasks: in the order of the search.
        overlaps: pairs of tasks with near-identical or nested targets.
        design: the design in full, as plain JSON.
        blocks: (seed, fold) pairs.
        sources: the tasks whose expansion is wanted.
        ledger: its folder, absolute or relative to the output folder, or its URL.
        planned_units: units of the whole search; None where the design decides as it goes.
        version: of the product that wrote the file.
        created: when, in UTC, as ISO 8601 text.
    """

    name: str
    cohort: str
    context: Context
    tasks: tuple[Task, ...]
    overlaps: tuple[tuple[str, str], ...]
    design: Mapping[str, Any]
    blocks: tuple[tuple[int, int], ...]
    sources: tuple[str, ...]
    ledger: str = "ledger"
    planned_units: int | None = None
    version: str = field(default_factory=product_version)
    created: str = field(default_factory=lambda: time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))

    def write(self, folder: str | Path) -> Path:
        """Write `search.json` into an output folder, whole or not at all; returns its path."""
        path = Path(folder) / "search.json"
        plain = asdict(self)
        plain["context"]["key"] = self.context.key
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_durably(path, (json.dumps(plain, indent=2, ensure_ascii=False) + "\n").encode())
        except OSError as error:
            raise BadInput(f"{path} cannot be written: {error}. Name another output folder with --out.") from error
        return path

    @classmethod
    def read(cls, folder: str | Path) -> Manifest:
        """Read an output folder's `search.json`; raises BadInput when there is none or it cannot be understood."""
        path = Path(folder) / "search.json"
        try:
            plain = json.loads(path.read_text(encoding="utf-8"))
            context = Context(**{item.name: plain["context"][item.name] for item in fields(Context)})
            if plain["context"]["key"] != context.key:
                raise ValueError("its context does not match its key, so it was altered")
            return cls(
                name=plain["name"],
                cohort=plain["cohort"],
                context=context,
                tasks=tuple(Task(**{**task, "excludes": tuple(task["excludes"])}) for task in plain["tasks"]),
                overlaps=tuple((one, other) for one, other in plain["overlaps"]),
                design=dict(plain["design"]),
                blocks=tuple((int(seed), int(fold)) for seed, fold in plain["blocks"]),
                sources=tuple(plain["sources"]),
                ledger=plain["ledger"],
                planned_units=plain["planned_units"],
                version=plain["version"],
                created=plain["created"],
            )
        except OSError as error:
            raise BadInput(
                f"{path}: cannot be read ({error.strerror}). Expected the output folder of a search; name the folder "
                "that was given as --out."
            ) from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise BadInput(
                f"{path}: is not a search's manifest ({type(error).__name__}: {error}). Run the search again; it "
                "writes the file anew and trains nothing that the ledger holds."
            ) from error

    def published_id(self, folder: Path, tracking_uri: str) -> str:
        """What makes it this search in an MLflow store: name, context, design and tasks.

        A store that holds many searches tells equal ones apart by their folders; one inside its search's folder does
        not, so that the folder may be moved.
        """
        home = "" if tracking_uri.startswith(f"sqlite:///{folder}/") else str(folder)
        names = [task.name for task in self.tasks]
        return digest([home, self.name, self.context.key, dict(self.design), names])

    def open_ledger(self, folder: str | Path) -> Ledger:
        """The ledger of the search whose output folder this is."""
        return Ledger(storage.below(folder, self.ledger))
