"""What a training costs: floating-point operations and bytes by count, seconds by a short calibration on this machine.

The count of operations is the textbook one (two a multiply-add, backward twice the forward, the first layer without a
gradient for its input); it is the floor that measured times are held against. The count of bytes decides how many
members a pack may have.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from model.cohorts.cohort import Cohort
from model.data.folds import Fold
from model.networks import registry as networks
from model.networks.contract import Shape, n_logits
from model.networks.settings import M3HSettings, TrainingSettings
from model.training import asynchronous
from model.training.trainer import PackTrainer, TrainingPayload, fit_pack, score_pack
from tim_search.types import Pack, Subset, Task, Unit

#: The most members a pack has by default: as many as a core's cache serves well; as many as make a GPU's work on a
#: step longer than the host takes to start its kernels, some 500 whatever the number of members.
LARGEST_PACK = {"cpu": 16, "gpu": 1024}
_UNKNOWN_GPU = float(16 << 30)  # bytes free on the workers' GPU where it cannot be asked from here
_SHARE = {"cpu": 0.5, "gpu": 0.8}  # of the free memory that packs may fill

_STEPS = 5  # minibatches of a calibration run, after one to warm up
_PATIENCE = 120.0  # seconds that processes wait for one another


def step_flops(members: Subset, tasks: Mapping[str, Task], fold: Fold, settings: M3HSettings) -> float:
    """Floating-point operations of one training step of one subset on a full minibatch."""
    h = settings.width
    rows = min(settings.batch_size, len(fold.train))
    widths = [x.shape[1] for x in fold.train.inputs]
    modalities, tasks_in = len(widths), len(members)
    clustering = sum(tasks[name].kind == "clustering" for name in members)
    joint = h * modalities
    first = sum(4 * rows * width * 2 * h for width in widths)
    layers = [(2 * h, h)] * modalities + [(joint, h), (h, h)]  # encoders, shared-task module
    layers += [(h, h)] * (tasks_in - clustering) + [(joint, h)] * clustering
    layers += [(h, h)] * (2 * tasks_in)  # keys and values
    layers += [(h, 2 * h), (2 * h, sum(widths))] * clustering
    contrastive = modalities * (modalities - 1) // 2 * 6 * rows * rows * h
    return float(first + sum(6 * rows * a * b for a, b in layers) + contrastive)


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
    found: list[tuple[int, ...]] = []
    for modality in cohort.modalities.values():
        if modality.kind != "vector":
            found.append(modality.values.shape[1:])
            continue
        incomplete = int(np.isnan(modality.values[modality.present]).any(axis=0).sum())
        levels = sum(len(names) - 1 for names in modality.levels.values())
        found.append((len(modality.columns) + incomplete + levels,))
    return tuple(found)


def _free_memory() -> float:
    """Bytes of main memory that can be had without swapping."""
    with contextlib.suppress(OSError, IndexError):
        text = Path("/proc/meminfo").read_text(encoding="ascii")
        return float(text.split("MemAvailable:")[1].split()[0]) * 1024
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")) / 2


def steps(fold: Fold, tasks: Mapping[str, Task], settings: TrainingSettings) -> float:
    """Minibatches of one training; of one that takes tasks in turn, those of a task, on average over the tasks."""
    if settings.update == "asynchronous":
        by_task = asynchronous.steps(fold, tasks, settings.batch_size)
        return settings.epochs * sum(by_task.values()) / max(1, len(by_task))
    return settings.epochs * -(-len(fold.train) // settings.batch_size)


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
        known = sorted((s, value) for (s, c), value in table.items() if c == nearest)
        sizes, values = np.array(known).T
        return float(np.interp(size, sizes, values))


def calibrate_together(payload: TrainingPayload, subsets: Sequence[Subset], capacity: int, workers: int) -> CostModel:
    """`calibrate` in as many processes at the same time as there will be workers; their mean.

    Workers of one machine share its memory's bandwidth and its caches, and what else runs there: one process alone
    would promise too much.
    """
    if workers < 2:
        return calibrate(payload, subsets, capacity)
    context = multiprocessing.get_context("spawn")  # forked processes hang in torch's thread pools
    barrier = context.Barrier(workers)
    with context.Pool(workers, _share_barrier, (barrier,)) as pool:
        found = pool.starmap(_calibrate_at_once, [(payload, tuple(subsets), capacity)] * workers, chunksize=1)

    def mean(name: str) -> dict[tuple[int, int], float]:
        tables = [getattr(one, name) for one in found]
        return {shape: float(np.mean([table[shape] for table in tables])) for shape in tables[0]}

    return CostModel(mean("step_seconds"), mean("score_seconds"), found[0].steps)


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
    network = networks.find(payload.network, allow_code=True)
    fold = trainer.fold(0)
    in_turn = len(tasks) if settings.update == "asynchronous" else 1  # a row may be one task's alone
    few = fold.train.take(
        torch.arange(min(len(fold.train), _STEPS * settings.batch_size * in_turn)).to(fold.train.targets.device)
    )
    short: Any = replace(cast(Any, settings), epochs=1)
    by_shape: dict[tuple[int, int], list[Subset]] = {}
    for members in subsets:
        clustering = sum(tasks[name].kind == "clustering" for name in members)
        by_shape.setdefault((len(members), clustering), []).append(members)
    step_seconds, score_seconds = {}, {}
    ready()
    for clustering in sorted({c for _, c in by_shape}):
        sizes = sorted(size for size, c in by_shape if c == clustering)
        for size in sorted({sizes[0], sizes[len(sizes) // 2], sizes[-1]}):
            chosen = by_shape[size, clustering][:capacity]
            pack = Pack(tuple(Unit(members, 0, 0) for members in chosen))
            first = torch.arange(min(len(few), settings.batch_size)).to(few.targets.device)
            warm = replace(fold, train=few.take(first), stopping=None)
            fit_pack(pack, tasks, warm, short, network)
            one = Pack(pack.units[:1])
            score_pack(one, fit_pack(one, tasks, warm, short, network), tasks, fold, settings)
            sample = replace(fold, train=few, stopping=None)
            started = time.perf_counter()
            fitted = fit_pack(pack, tasks, sample, short, network)
            trained = time.perf_counter()
            score_pack(pack, fitted, tasks, fold, settings)
            scored = time.perf_counter()
            count = len(chosen)
            step_seconds[size, clustering] = (trained - started) / steps(sample, tasks, short) / count
            score_seconds[size, clustering] = (scored - trained) / count
    return CostModel(step_seconds, score_seconds, steps(fold, tasks, settings))
