"""What a training costs: floating-point operations by count, seconds by a short calibration on this machine.

The count is the textbook one (two operations a multiply-add, backward twice the forward, the first layer without a
gradient for its input); it is the floor that measured times are held against.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from model.data import Fold
from model.settings import M3HSettings
from model.training import PackTrainer, TrainingPayload, fit_pack, score_pack
from tim_search.types import Pack, Subset, Task, Unit

_STEPS = 3  # minibatches of a calibration run, after one to warm up


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


def steps(fold: Fold, settings: M3HSettings) -> int:
    """Minibatches of one training."""
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
    steps: int

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


def calibrate(payload: TrainingPayload, subsets: Sequence[Subset], capacity: int) -> CostModel:
    """Time a few steps of full packs of the smallest, a middle and the largest size on this machine.

    Args:
        payload: as the workers will get it.
        subsets: those a search plans; the timed packs are drawn from them.
        capacity: units a pack.
    """
    trainer = PackTrainer(payload)
    tasks, settings = payload.cohort.tasks, payload.settings
    fold = trainer.fold(0)
    few = fold.train.take(
        torch.arange(min(len(fold.train), _STEPS * settings.batch_size)).to(fold.train.targets.device)
    )
    short = replace(settings, epochs=1)
    by_shape: dict[tuple[int, int], list[Subset]] = {}
    for members in subsets:
        clustering = sum(tasks[name].kind == "clustering" for name in members)
        by_shape.setdefault((len(members), clustering), []).append(members)
    step_seconds, score_seconds = {}, {}
    for clustering in sorted({c for _, c in by_shape}):
        sizes = sorted(size for size, c in by_shape if c == clustering)
        for size in sorted({sizes[0], sizes[len(sizes) // 2], sizes[-1]}):
            chosen = by_shape[size, clustering][:capacity]
            pack = Pack(tuple(Unit(members, 0, 0) for members in chosen))
            warm = replace(fold, train=few.take(torch.arange(min(len(few), settings.batch_size))))
            fit_pack(pack, tasks, warm, short)
            sample = replace(fold, train=few)
            started = time.perf_counter()
            fitted = fit_pack(pack, tasks, sample, short)
            trained = time.perf_counter()
            score_pack(pack, fitted, tasks, fold, settings)
            scored = time.perf_counter()
            count = len(chosen)
            step_seconds[size, clustering] = (trained - started) / steps(sample, short) / count
            score_seconds[size, clustering] = (scored - trained) / count
    return CostModel(step_seconds, score_seconds, steps(fold, settings))
