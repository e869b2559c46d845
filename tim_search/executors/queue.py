"""The queue of packs with its rules of trying again: which pack is next, tried once more, split or given up.

It touches neither processes nor networks; every executor asks it, and decides nothing of this by itself.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from tim_search.executors.contract import describe
from tim_search.executors.packing import at_most
from tim_search.types import OutOfMemory, Pack, PackResult, Score, Task, Unit, failed

_LOSSES = 5  # machines that may go away under one pack before it is suspected of taking them down


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
        rows: list[Score] = []
        unit, names = None, None
        for score in result.scores:
            if score.unit is not unit:  # mostly one object for all rows of a unit, and hashing it takes long
                unit, names = score.unit, scored.get(score.unit)
            if names is not None:
                rows.append(score)
                if score.primary:
                    names.add(score.task)
        rows += [
            Score(unit, name, self._tasks[name].metric, unit.part, float("nan"), "failed", "the trainer gave no score")
            for unit, names in scored.items()
            for name in unit.subset
            if name not in names
        ]
        return replace(result, pack=job.pack, scores=tuple(rows), attempts=job.attempts)

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
