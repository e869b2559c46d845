"""The trainer that an executor's workers call: packs of one search, trained and scored in one process."""

from __future__ import annotations

import contextlib
import json
import resource
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias, cast

import torch

from model.cohorts.cohort import Cohort
from model.data.folds import Fold, load_fold
from model.networks import registry as networks
from model.networks.settings import TrainingSettings
from model.training.fitting import check_supported, fit_pack
from model.training.pack import Fitted
from model.training.precision import DTYPES
from model.training.references import ReferenceTrainer
from model.training.scores import score_pack
from tim_search.gates.told_scores import Telling
from tim_search.types import BadInput, Curve, OutOfMemory, Pack, PackResult, Score, Trainer, references


@dataclass(frozen=True)
class TrainingPayload:
    """All a worker needs to train any pack of a search; picklable, its arrays shared by Ray's object store.

    Attributes:
        cohort: with the search's tasks and effective columns only (`Cohort.for_tasks`).
        network: its name, see `model.networks.registry.find`.
        settings: of the network and its training.
        device: "cpu", "cuda", "cuda:1", ... or "auto": the GPU where there is one.
        threads: of torch in this process; never more than the cores the worker holds.
        telling: how scores are told, where counts of few patients are hidden.
    """

    cohort: Cohort
    network: str
    settings: TrainingSettings
    device: str = "auto"
    threads: int = 1
    telling: Telling = field(default_factory=Telling)

    def __reduce__(self) -> tuple[Any, ...]:
        # Settings of an own network are unpickled where their class can be imported from by then.
        values = (self.cohort, self.network, self.settings, self.device, self.threads, self.telling)
        return _unpickled, (networks.folder_of(self.network), *values)


def _unpickled(folder: networks.Importable, *values: Any) -> TrainingPayload:
    """A payload from what was pickled of it; `folder` has done its part when it was unpickled itself."""
    return TrainingPayload(*values)


#: A further look at a trained pack: score rows and curves beside those every pack has.
Look: TypeAlias = Callable[[Pack, Fitted, Fold], tuple[list[Score], list[Curve]]]


class PackTrainer:
    """Trains packs of one search in one process; keeps the folds it has prepared.

    Args:
        payload: the search.
        look: what else is told of every pack.
    """

    def __init__(self, payload: TrainingPayload, look: Look = lambda pack, fitted, fold: ([], [])) -> None:
        check_supported(payload.cohort, payload.network, payload.settings)
        self._payload = payload
        self._look = look
        self._network = networks.find(payload.network, allow_code=True)
        self._device = device_named(payload.device)
        self._folds: dict[tuple[object, ...], Fold] = {}
        torch.set_num_threads(max(1, payload.threads))

    def with_settings(self, settings: str) -> PackTrainer | ReferenceTrainer:
        """See `tim_search.types.Trainer`; folds that both can use are prepared once. A reference is a setting too."""
        values = json.loads(settings)
        if references.KEY in values:
            return ReferenceTrainer(
                self._payload.cohort, values[references.KEY], values["replicates"], self._payload.telling
            )
        own: Any = replace(cast(Any, self._payload.settings), **values)
        other = PackTrainer(replace(self._payload, settings=own), self._look)
        other._folds = self._folds
        return other

    def fold(self, number: int, few: int = 0) -> Fold:
        """The prepared fold; from memory after the first call. `few`: see `load_fold`."""
        settings = self._payload.settings
        key = (number, settings.precision, settings.replicates, settings.stop_share, few)
        if key not in self._folds:
            self._folds[key] = load_fold(
                self._payload.cohort,
                number,
                dtype=DTYPES[settings.precision],
                device=self._device,
                replicates=settings.replicates,
                stop_share=settings.stop_share,
                few=few,
                drawn_by=self._payload.telling.key,
            )
        return self._folds[key]

    def train(self, pack: Pack) -> PackResult:
        """Train and score a pack; see `tim_search.types.Trainer`."""
        started = time.perf_counter()
        tasks, settings, fold = self._payload.cohort.tasks, self._payload.settings, self.fold(pack.units[0].fold)
        with _memory_trouble(f"a pack of {len(pack.units)} subsets of {len(pack.units[0].subset)} tasks"):
            if self._device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(self._device)
            fitted = fit_pack(pack, tasks, fold, settings, self._network)
            scores, attention = score_pack(pack, fitted, tasks, fold)
            more, curves = self._look(pack, fitted, fold)
        seconds = time.perf_counter() - started
        share = seconds / len(pack.units)
        timed = tuple(replace(score, seconds=share) for score in self._payload.telling.scores([*scores, *more]))
        return PackResult(pack, timed, tuple(attention), seconds, self._peak_bytes(), curves=tuple(curves))

    def _peak_bytes(self) -> int:
        if self._device.type == "cuda":
            return int(torch.cuda.max_memory_allocated(self._device))
        # Linux counts in kilobytes, macOS in bytes (getrusage(2) of each).
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def trainer(payload: TrainingPayload) -> Trainer:
    """The `TrainerFactory` of this package."""
    return PackTrainer(payload)


def device_named(name: str) -> torch.device:
    """The device behind a payload's name for it; raises BadInput where torch has no such device."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise BadInput(f"device: expected cpu, cuda, cuda:1 (the second GPU) or auto, got {name!r}.") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise BadInput(f"device: {name!r} was asked for, but torch sees no GPU here. Use cpu or auto.")
    if device.type == "cuda" and (device.index or 0) >= (count := torch.cuda.device_count()):
        raise BadInput(
            f"device: {name!r} was asked for, but torch sees {count} GPU here, the first is cuda:0. Use auto."
        )
    return device


@contextlib.contextmanager
def _memory_trouble(what: str) -> Iterator[None]:
    """Turn every way in which memory runs out into OutOfMemory, and hand cached blocks back."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise OutOfMemory(f"{what} did not fit: {error}") from error
    except RuntimeError as error:  # torch's allocator on a CPU and libraries on a GPU have no class of their own
        if not any(words in str(error) for words in ("can't allocate memory", "out of memory", "ALLOC_FAILED")):
            raise
        raise OutOfMemory(f"{what} did not fit: {error}") from error
    finally:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
