"""The executor in this process: for tests, for debugging, for small searches without Ray."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from tim_search.executors.contract import Trainers, cannot_build
from tim_search.executors.queue import PackQueue
from tim_search.types import BadInput, Pack, PackResult, Task, TimSearchError, TrainerFactory

#: The address of this process, in place of a Ray cluster's.
SERIAL = "serial"


class SerialExecutor:
    """Trains one pack after another in this process; see `Executor`.

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
        self._trainers: Trainers | None = None

    def run(self, packs: Iterable[Pack], settings: str = "") -> Iterator[PackResult]:
        """See `Executor.run`."""
        queue = PackQueue(packs, self._tasks, self._max_attempts)
        while (job := queue.take()) is not None:
            trainers = self._ready()
            try:
                result: PackResult | None = queue.answered(job, trainers.under(settings).train(job.pack))
            except BadInput:
                raise
            except Exception as error:
                result = queue.failed(job, error)
            if result is not None:
                yield result

    def close(self) -> None:
        """See `Executor.close`."""
        self._trainers = None

    def _ready(self) -> Trainers:
        if self._trainers is None:
            try:
                self._trainers = Trainers(self._factory, self._payload)
            except TimSearchError:
                raise
            except Exception as error:
                raise cannot_build(error) from error
        return self._trainers
