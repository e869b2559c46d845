"""The contract of an executor: packs in, results out. What all executors share beside their queue is here too."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from tim_search.types import Pack, PackResult, TimSearchError, Trainer, TrainerFactory

_LONGEST = 500  # characters of an error that are kept in the ledger


class WorkerError(TimSearchError):
    """No worker could be made ready to train."""


class ClusterLost(TimSearchError):
    """The cluster that trained no longer answers; what came back is kept."""


class Executor(Protocol):
    """Trains packs, in any order, in one process or on many machines.

    Attributes:
        more: true while the result just given is followed by one that has come back too. A caller may write them
            together; while it is false, the next result may take long.
        workers: how many packs it can train at the same time, at least 1; asking starts it.
    """

    @property
    def more(self) -> bool: ...

    @property
    def workers(self) -> int: ...

    def run(self, packs: Iterable[Pack], settings: str = "") -> Iterator[PackResult]:
        """Train packs and yield what comes back, as it comes back.

        `packs` is drawn from lazily, a pack at a time when there is room for one: a caller stops the work by ending it,
        and what is in flight is then finished. Every unit drawn is answered exactly once; a pack that was split is
        answered as its parts. A pack that cannot be trained is answered by failed rows with the reason.

        Args:
            settings: canonical JSON of the settings that differ from those of the executor's payload, "" for none.

        Raises:
            BadInput: when the trainer says that the input is at fault, or the address of a cluster cannot be used.
            WorkerError: when no worker can build its trainer.
            ClusterLost: when the cluster no longer answers.
        """
        ...

    def close(self) -> None:
        """Release the workers; safe to call twice."""
        ...


@dataclass(frozen=True)
class WithSettings:
    """The same executor and workers, training under other settings (see `Executor.run`)."""

    executor: Executor
    settings: str

    @property
    def more(self) -> bool:
        return self.executor.more

    @property
    def workers(self) -> int:
        return self.executor.workers

    def run(self, packs: Iterable[Pack], settings: str = "") -> Iterator[PackResult]:
        """See `Executor.run`."""
        return self.executor.run(packs, settings or self.settings)

    def close(self) -> None:
        """See `Executor.close`."""
        self.executor.close()


class Trainers:
    """The trainers of one worker: that of its payload, and one for each choice of settings it was asked for."""

    def __init__(self, factory: TrainerFactory, payload: Any) -> None:
        self._by_settings: dict[str, Trainer] = {"": factory(payload)}

    def under(self, settings: str) -> Trainer:
        """The trainer of some settings (see `Executor.run`), made when it is first asked for."""
        if settings not in self._by_settings:
            self._by_settings[settings] = self._by_settings[""].with_settings(settings)
        return self._by_settings[settings]


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
