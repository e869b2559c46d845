"""Who trains the packs: the contract of an executor, the rules of trying again, and the executor in this process.

An executor turns packs into results and decides nothing else. Which pack is tried again, split or given up is decided
by `PackQueue`, which touches neither processes nor networks; every executor asks it.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from tim_search.executors.packing import at_most
from tim_search.types import (
    BadInput,
    OutOfMemory,
    Pack,
    PackResult,
    Score,
    Task,
    TimSearchError,
    Trainer,
    TrainerFactory,
    Unit,
    failed,
)

_LOSSES = 5  # machines that may go away under one pack before it is suspected of taking them down
_LONGEST = 500  # characters of an error that are kept in the ledger


class WorkerError(TimSearchError):
    """No worker could be made ready to train."""


class Executor(Protocol):
    """Trains packs, in any order, in one process or on many machines.

    Attributes:
        more: true while the result just given is followed by one that has come back too. A caller may write them
            together; while it is false, the next result may take long.
        workers: how many packs it can train at the same time, at least 1; asking starts it.
    """

    more: bool

    @property
    def workers(self) -> int: ...

    def run(self, packs: Iterable[Pack]) -> Iterator[PackResult]:
        """Train packs and yield what comes back, as it comes back.

        `packs` is drawn from lazily, a pack at a time when there is room for one: a caller stops the work by ending it,
        and what is in flight is then finished. Every unit drawn is answered exactly once; a pack that was split is
        answered as its parts. A pack that cannot be trained is answered by failed rows with the reason.

        Raises:
            BadInput: when the trainer says that the input is at fault, or the address of a cluster cannot be used.
            WorkerError: when no worker can build its trainer.
            ClusterLost: when the cluster no longer answers.
        """
        ...

    def close(self) -> None:
        """Release the workers; safe to call twice."""
        ...


class ClusterLost(TimSearchError):
    """The cluster that trained no longer answers; what came back is kept."""


@dataclass(frozen=True, slots=True)
class Job:
    """A pack on its way.

    Attributes:
        pack: what to train.
        attempts: how many times training of its units has been started, this time included.
        failures: how many times it failed in its present make-up.
        suspect: it is part of a pack that failed repeatedly.
        losses: how many machines went away under it.
    """

    pack: Pack
    attempts: int = 1
    failures: int = 0
    suspect: bool = False
    losses: int = 0


class PackQueue:
    """What to train next, and what to do about a failure.

    - Out of memory: the pack is split in two at once.
    - Any other failure of several units: tried once more, then split in two. A part that fails too is split without
      another try, so that a unit that takes its process down is soon alone.
    - A single unit that fails `max_attempts` times alone is answered by failed rows with the last reason.
    - A machine that went away is no failure of what it trained, unless that happens to one pack again and again.

    What is to be tried again comes before new packs.

    Args:
        packs: new packs, drawn lazily.
        tasks: the tasks of the search by name.
        max_attempts: tries a single unit gets, at least 1.
    """

    def __init__(self, packs: Iterable[Pack], tasks: Mapping[str, Task], max_attempts: int = 3) -> None:
        if max_attempts < 1:
            raise ValueError(f"max_attempts is at least 1; {max_attempts} was given")
        self._fresh = iter(packs)
        self._again: deque[Job] = deque()
        self._tasks = tasks
        self._max_attempts = max_attempts

    def take(self, limit: float = math.inf) -> Job | None:
        """The next job, or None when there is none at present (a job in flight may still come back).

        Args:
            limit: what the job may cost at most (see `packing.cost`); a larger one is cut, and the rest comes next.
        """
        job = self._again.popleft() if self._again else None
        if job is None:
            pack = next(self._fresh, None)
            if pack is None:
                return None
            job = Job(pack)
        fitting = at_most(job.pack, limit) if limit < math.inf else len(job.pack.units)
        if fitting < len(job.pack.units):
            units = job.pack.units
            self._again.appendleft(replace(job, pack=Pack(units[fitting:])))
            job = replace(job, pack=Pack(units[:fitting]))
        return job

    def put_back(self, job: Job) -> None:
        """Hand back a job that was not started, through no fault of its own."""
        self._again.appendleft(job)

    def lost(self, job: Job, error: BaseException | str) -> PackResult | None:
        """Take note that the machine which trained a job went away; returns what `failed` does.

        It costs no try, unless machines go away under this very job more often than chance lets them.
        """
        job = replace(job, losses=job.losses + 1)
        if job.losses > _LOSSES:
            return self.failed(job, error)
        self._again.appendleft(replace(job, attempts=job.attempts + 1))
        return None

    def answered(self, job: Job, result: PackResult) -> PackResult:
        """The result as it goes to the ledger: with the number of attempts, and a row for every unit and task."""
        scored: dict[Unit, set[str]] = {unit: set() for unit in job.pack.units}
        kept: list[Score] = []
        unit, names = None, None
        for score in result.scores:
            if score.unit is not unit:  # mostly one object for all rows of a unit, and hashing it takes long
                unit, names = score.unit, scored.get(score.unit)
            if names is not None:
                kept.append(score)
                if score.primary:
                    names.add(score.task)
        kept += [
            Score(unit, name, self._tasks[name].metric, unit.part, float("nan"), "failed", "the trainer gave no score")
            for unit, names in scored.items()
            for name in unit.subset
            if name not in names
        ]
        return replace(result, pack=job.pack, scores=tuple(kept), attempts=job.attempts)

    def failed(self, job: Job, error: BaseException | str) -> PackResult | None:
        """Take note of a failure; returns failed rows when the job is given up, None when it will be tried again."""
        failures = job.failures + 1
        if len(job.pack.units) > 1:
            out_of_memory = isinstance(error, OutOfMemory | MemoryError)
            if out_of_memory or job.suspect or failures >= min(2, self._max_attempts):
                suspect = job.suspect or not out_of_memory
                parts = [Job(half, job.attempts + 1, suspect=suspect, losses=job.losses) for half in job.pack.halves()]
                self._again.extendleft(reversed(parts))
                return None
        elif failures >= self._max_attempts:
            reason = f"{describe(error)} (tried {job.attempts} times)" if job.attempts > 1 else describe(error)
            return failed(job.pack, reason, self._tasks, job.attempts)
        self._again.append(replace(job, attempts=job.attempts + 1, failures=failures))
        return None


class SerialExecutor:
    """Trains one pack after another in this process: for tests, for debugging, for small searches without Ray.

    Args:
        factory: makes the trainer, once, when the first pack is drawn.
        payload: what the factory is given.
        tasks: the tasks of the search by name.
        max_attempts: see `PackQueue`.
    """

    more = False
    workers = 1

    def __init__(self, factory: TrainerFactory, payload: Any, tasks: Mapping[str, Task], max_attempts: int = 3) -> None:
        self._factory = factory
        self._payload = payload
        self._tasks = tasks
        self._max_attempts = max_attempts
        self._trainer: Trainer | None = None

    def run(self, packs: Iterable[Pack]) -> Iterator[PackResult]:
        """See `Executor.run`."""
        queue = PackQueue(packs, self._tasks, self._max_attempts)
        while (job := queue.take()) is not None:
            trainer = self._ready()
            try:
                result: PackResult | None = queue.answered(job, trainer.train(job.pack))
            except BadInput:
                raise
            except Exception as error:
                result = queue.failed(job, error)
            if result is not None:
                yield result

    def close(self) -> None:
        """See `Executor.close`."""
        self._trainer = None

    def _ready(self) -> Trainer:
        if self._trainer is None:
            try:
                self._trainer = self._factory(self._payload)
            except TimSearchError:
                raise
            except Exception as error:
                raise cannot_build(error) from error
        return self._trainer


def cannot_build(error: BaseException | str) -> WorkerError:
    """The error of an executor none of whose workers can build its trainer."""
    return WorkerError(
        f"No worker could get ready to train: {describe(error)}. Mend that, then run the same command again."
    )


def describe(error: BaseException | str) -> str:
    """An error as one short text: its type and its message."""
    if isinstance(error, str):
        text = error
    else:
        text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    text = " ".join(text.split())
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."
