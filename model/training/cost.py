"""What a training costs: bytes by the network's count, seconds by a short calibration on this machine.

The count of bytes decides how many members a pack may have.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from model.cohorts.cohort import Cohort
from model.data.folds import Fold
from model.networks import registry as networks
from model.networks.contract import Network, Shape, n_logits
from model.networks.settings import TrainingSettings
from model.training.fitting import fit_pack, schedule_of
from model.training.pack import Fitted
from model.training.scores import score_pack
from model.training.trainer import PackTrainer, TrainingPayload
from tim_search.types import Pack, Subset, Task, TimSearchError, Unit

#: The most members a pack has by default: as many as a core's cache serves well; as many as make a GPU's work on a
#: step longer than the host takes to start its kernels, some 500 whatever the number of members.
LARGEST_PACK = {"cpu": 16, "gpu": 1024}
_UNKNOWN_GPU = float(16 << 30)  # bytes free on the workers' GPU where it cannot be asked from here
_SHARE = {"cpu": 0.5, "gpu": 0.8}  # of the free memory that packs may fill

_STEPS = 5  # minibatches of a calibration run, after one to warm up
_PATIENCE = 120.0  # seconds that processes wait for one another


def capacity(cohort: Cohort, network: str, largest: int, settings: Any, *, gpus: float, workers: int) -> int:
    """Members a pack that fit a worker's memory, also when all are of the largest subset; at least 1.

    The memory is that of this machine. Where it has no GPU but the workers do, theirs is taken to have 16 GB, and a
    pack that is too large after all is split when it fails. What a member of one's own network takes is not known: its
    packs have as many as a core serves well.

    Args:
        cohort: with the tasks of the search.
        network: its name; one's own has been allowed before.
        largest: tasks of the largest subset.
        settings: of the network and its training.
        gpus: a worker's share of a GPU; 0 trains on CPU cores.
        workers: that share this machine's memory, at least 1.
    """
    kind = "gpu" if gpus else "cpu"
    tasks = cohort.tasks.values()
    clustering = min(largest, sum(task.kind == "clustering" for task in tasks))
    outputs = max(map(n_logits, tasks), default=1)
    split = cohort.split
    rows = (int(split.train(0).sum()), int(split.validation(0).sum()))
    machine = networks.find(network, allow_code=True)
    counted = [
        machine.member_bytes(Shape(largest, c, outputs, _inputs(cohort), rows), settings) for c in {0, clustering}
    ]
    if None in counted:
        return LARGEST_PACK["cpu"]
    if gpus:
        free = (torch.cuda.mem_get_info()[0] if torch.cuda.is_available() else _UNKNOWN_GPU) * min(gpus, 1.0)
    else:
        free = _free_memory() / workers
    return max(1, min(LARGEST_PACK[kind], int(_SHARE[kind] * free // max(each or 1 for each in counted))))


def gpus_here() -> int:
    """GPUs of this machine that torch can use."""
    return torch.cuda.device_count()


def _inputs(cohort: Cohort) -> tuple[tuple[int, ...], ...]:
    """Shape of a row's input of each modality as a network sees it, at most.

    Levels of a vector's columns count, and whether a value was measured.
    """
    shapes: list[tuple[int, ...]] = []
    for modality in cohort.modalities.values():
        if modality.kind != "vector":
            shapes.append(modality.values.shape[1:])
            continue
        incomplete = int(np.isnan(modality.table[modality.present]).any(axis=0).sum())
        levels = sum(len(names) - 1 for names in modality.levels.values())
        shapes.append((len(modality.columns) + incomplete + levels,))
    return tuple(shapes)


def _free_memory() -> float:
    """Bytes of main memory that can be had without swapping."""
    with contextlib.suppress(OSError, IndexError):
        text = Path("/proc/meminfo").read_text(encoding="ascii")
        return float(text.split("MemAvailable:")[1].split()[0]) * 1024
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")) / 2


@dataclass(frozen=True)
class CostModel:
    """Seconds of one worker for a unit, by the shape of its subset: size and number of clustering tasks.

    Attributes:
        step_seconds: measured seconds a member and minibatch, by (size, clustering tasks).
        score_seconds: measured seconds a member to score, by the same shapes.
        steps: minibatches of one training.
    """

    step_seconds: Mapping[tuple[int, int], float]
    score_seconds: Mapping[tuple[int, int], float]
    steps: float

    def unit_seconds(self, size: int, clustering: int) -> float:
        """Predicted seconds of one worker to train and score one unit of this shape, in a full pack."""
        return self.steps * self._at(self.step_seconds, size, clustering) + self._at(
            self.score_seconds, size, clustering
        )

    @staticmethod
    def _at(table: Mapping[tuple[int, int], float], size: int, clustering: int) -> float:
        """Linear in the size between calibrated shapes with the nearest number of clustering tasks."""
        nearest = min({c for _, c in table}, key=lambda c: (abs(c - clustering), c))
        sizes, values = np.array(sorted((s, value) for (s, c), value in table.items() if c == nearest)).T
        return float(np.interp(size, sizes, values))


def calibrate_together(payload: TrainingPayload, subsets: Sequence[Subset], capacity: int, workers: int) -> CostModel:
    """`calibrate` in as many processes at the same time as there will be workers; their mean.

    Workers of one machine share its memory's bandwidth and its caches, and what else runs there: one process alone
    would promise too much.
    """
    if workers < 2:
        return calibrate(payload, subsets, capacity)
    context = multiprocessing.get_context("spawn")  # forked processes hang in torch's thread pools
    work = (payload, tuple(subsets), capacity)
    try:
        with (
            _not_from_here(),
            # A pool that ends with its first process: `multiprocessing.Pool` starts others in its place for ever.
            ProcessPoolExecutor(workers, context, _share_barrier, (context.Barrier(workers),)) as pool,
        ):
            models = [each.result() for each in [pool.submit(_calibrate_at_once, *work) for _ in range(workers)]]
    except BrokenProcessPool as error:
        raise TimSearchError(
            f"A process that measures what a training costs ended without a word; {workers} of them run at once, as "
            "many as there will be workers. Mostly the memory did not suffice: ask for fewer `workers`."
        ) from error

    def mean(name: str) -> dict[tuple[int, int], float]:
        tables = [getattr(model, name) for model in models]
        return {shape: float(np.mean([table[shape] for table in tables])) for shape in tables[0]}

    return CostModel(mean("step_seconds"), mean("score_seconds"), models[0].steps)


@contextlib.contextmanager
def _not_from_here() -> Iterator[None]:
    """Within it, a Python process that is started imports nothing from the current folder.

    Its first words stand on its command line, and then Python would look for modules in the current folder first.
    """
    name = "PYTHONSAFEPATH"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        os.environ.pop(name)
        if before is not None:
            os.environ[name] = before


_shared: dict[str, Any] = {}  # what a process of the pool got at its start


def _share_barrier(barrier: Any) -> None:
    _shared["barrier"] = barrier


def _calibrate_at_once(payload: TrainingPayload, subsets: Sequence[Subset], capacity: int) -> CostModel:
    return calibrate(payload, subsets, capacity, ready=lambda: _shared["barrier"].wait(_PATIENCE))


def calibrate(
    payload: TrainingPayload, subsets: Sequence[Subset], capacity: int, ready: Callable[[], object] = lambda: None
) -> CostModel:
    """Time a few steps of full packs of the smallest, a middle and the largest size on this machine.

    Args:
        payload: as the workers will get it.
        subsets: those a search plans; the timed packs are drawn from them.
        capacity: units a pack.
        ready: called when all is prepared, before anything is timed.
    """
    trainer = PackTrainer(payload)
    tasks, settings = payload.cohort.tasks, payload.settings
    fold = trainer.fold(0)
    by_shape: dict[tuple[int, int], list[Subset]] = {}
    for members in subsets:
        clustering = sum(tasks[name].kind == "clustering" for name in members)
        by_shape.setdefault((len(members), clustering), []).append(members)
    timing = _Timing(networks.find(payload.network, allow_code=True), tasks, fold, settings)
    step_seconds, score_seconds = {}, {}
    ready()
    for clustering in sorted({c for _, c in by_shape}):
        sizes = sorted(size for size, c in by_shape if c == clustering)
        for size in sorted({sizes[0], sizes[len(sizes) // 2], sizes[-1]}):
            shape = size, clustering
            step_seconds[shape], score_seconds[shape] = timing.seconds(by_shape[shape][:capacity])
    return CostModel(step_seconds, score_seconds, schedule_of(timing.network, settings).steps(fold, tasks, settings))


class _Timing:
    """Times packs on the first rows of a fold, for one epoch.

    Attributes:
        network: whose packs they are.
    """

    def __init__(self, network: Network, tasks: Mapping[str, Task], fold: Fold, settings: TrainingSettings) -> None:
        self.network, self._tasks, self._fold = network, tasks, fold
        self._settings: Any = replace(cast(Any, settings), epochs=1, average=0)
        schedule = schedule_of(network, settings)
        rows = settings.batch_size
        self._warm = self._first(rows)
        while schedule.steps(self._first(rows), tasks, self._settings) < _STEPS and rows < len(fold.train):
            rows += settings.batch_size
        self._sample = self._first(rows)
        self._steps = schedule.steps(self._sample, tasks, self._settings)

    def seconds(self, subsets: Sequence[Subset]) -> tuple[float, float]:
        """Seconds of a member and minibatch, and of a member to score, in a pack of these subsets."""
        pack = Pack(tuple(Unit(members, 0, 0) for members in subsets))
        self._fit(pack, self._warm)
        alone = Pack(pack.units[:1])
        score_pack(alone, self._fit(alone, self._warm), self._tasks, self._fold)
        started = time.perf_counter()
        fitted = self._fit(pack, self._sample)
        trained = time.perf_counter()
        score_pack(pack, fitted, self._tasks, self._fold)
        scored = time.perf_counter()
        return (trained - started) / self._steps / len(subsets), (scored - trained) / len(subsets)

    def _first(self, rows: int) -> Fold:
        """The fold with its first training rows alone."""
        index = torch.arange(min(len(self._fold.train), rows)).to(self._fold.train.targets.device)
        return replace(self._fold, train=self._fold.train.take(index), stopping=None)

    def _fit(self, pack: Pack, fold: Fold) -> Fitted:
        return fit_pack(pack, self._tasks, fold, self._settings, self.network)
