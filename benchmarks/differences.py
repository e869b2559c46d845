"""How far two ways to train the same subsets differ in their scores."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias

import numpy as np
import torch

from model.data.folds import Fold, Rows
from model.networks import m3h
from model.networks.settings import M3HSettings
from model.training.fitting import fit_pack
from model.training.scores import score_pack
from tim_search.executors.packing import packs
from tim_search.types import Pack, Subset, Task, Unit

#: The score of a task in a subset.
Scores: TypeAlias = dict[tuple[Subset, str], float]


def packed(subsets: Iterable[Subset], tasks: Mapping[str, Task], capacity: int, seed: int = 0) -> list[Pack]:
    """Packs as a search makes them, of fold 0."""
    return list(packs([Unit(members, seed, 0) for members in subsets], tasks, capacity))


def scores_of(
    together: Sequence[Pack],
    tasks: Mapping[str, Task],
    fold: Fold,
    settings: M3HSettings,
    *,
    backwards: bool = False,
) -> Scores:
    """Train and score packs; on request with the rows of every minibatch in reverse order, which changes the order of
    a training's sums and nothing else."""
    found: Scores = {}
    trained_on = turned(fold) if backwards else fold
    for pack in together:
        rows, _ = score_pack(pack, fit_pack(pack, tasks, trained_on, settings, m3h), tasks, fold)
        found.update({(row.unit.subset, row.task): row.value for row in rows if row.primary})
    return found


def spread(one: Scores, two: Scores) -> dict[str, float]:
    """Largest and standard deviation of the differences, over so many `scores` that neither run lacks."""
    gap = np.array([one[key] - two[key] for key in one])
    gap = gap[np.isfinite(gap)]
    if not len(gap):
        raise RuntimeError(f"none of the {len(one)} scores of the two runs is a number in both")
    return {"max": float(np.abs(gap).max()), "sd": float(gap.std()), "scores": len(gap)}


def turned(fold: Fold) -> Fold:
    """The fold with the rows of every minibatch in reverse order: the same training but for the order of its sums."""
    return replace(fold, train=_Turned(**vars(fold.train)))


class _Turned(Rows):
    def take(self, index: torch.Tensor) -> Rows:
        return _Turned(**vars(super().take(index)))

    def split(self, size: int) -> list[Rows]:
        return [
            Rows.take(part, torch.arange(len(part) - 1, -1, -1, device=part.targets.device))
            for part in super().split(size)
        ]
