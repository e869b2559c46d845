"""The starting parameters of a pack: shared ones from (seed), a task's own from (seed, task)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from model.data.folds import Fold
from model.data.seeding import linear
from model.networks.contract import Layout, Parameters, head
from tim_search.types import Task


class Start:
    """Starting parameters in the making.

    Attributes:
        values: what was made so far by name, each (K, ...) and requiring gradients; device and precision are those of
            the fold's inputs.
    """

    def __init__(self, layout: Layout, fold: Fold, seed: int) -> None:
        self._layout, self._fold, self._seed = layout, fold, seed
        self._like = fold.train.inputs[0]
        self.values: Parameters = {}

    def alike(self, name: str, value: Tensor) -> None:
        """The same value in every member."""
        self._store(name, self._placed(value).expand(self._layout.members, *value.shape))

    def shared(self, name: str, outputs: int, inputs: int, *, bias: bool = True) -> None:
        """A linear layer that a member's tasks share."""
        weight, offset = linear(self._seed, name, outputs=outputs, inputs=inputs)
        self.alike(f"{name}.weight", weight)
        if bias:
            self.alike(f"{name}.bias", offset)

    def by_task(self, slots: slice, draw: Callable[[str], tuple[Tensor, ...]], *names: str) -> None:
        """A tensor of each name, (K, slots, ...), from what is drawn once for every task."""
        rows = [row[slots] for row in self._layout.names]
        place_of = {task: place for place, task in enumerate(sorted({task for row in rows for task in row}))}
        where = torch.tensor([[place_of[task] for task in row] for row in rows], device=self._like.device)
        for name, drawn in zip(names, zip(*map(draw, place_of), strict=True), strict=True):
            self._store(name, self._placed(torch.stack(drawn))[where])

    def layers(self, name: str, slots: slice, outputs: int, inputs: int) -> None:
        """A linear layer for every slot."""
        self.by_task(
            slots,
            lambda task: linear(self._seed, name, task, outputs=outputs, inputs=inputs),
            f"{name}.weight",
            f"{name}.bias",
        )

    def heads(self, tasks: Mapping[str, Task], settings: Any, inputs: int = 0) -> None:
        """The heads of the supervised slots, which read `inputs` features, the settings' width by default."""
        self.by_task(
            slice(0, self._layout.supervised),
            lambda task: head(task, tasks, self._fold, self._seed, settings, self._layout.outputs, inputs),
            "head.weight",
            "head.bias",
        )

    def _placed(self, value: Tensor) -> Tensor:
        # Before it is laid out for all members: a large pack has gigabytes of them, made where they are used.
        return value.to(device=self._like.device, dtype=self._like.dtype)

    def _store(self, name: str, value: Tensor) -> None:
        self.values[name] = value.contiguous().requires_grad_()
