"""A pack as it is trained and as it predicts: K members of one network, stacked."""

from __future__ import annotations

import functools
from dataclasses import dataclass

from torch import Tensor

from model.networks.contract import Layout, Network, Parameters
from model.networks.settings import TrainingSettings


@dataclass(frozen=True)
class PackModel:
    """What predicts: a network with parameters.

    Attributes:
        network: whose parameters they are.
        settings: of the network and its training.
        layout: which task sits where.
        values: parameters, each (K, ...).
    """

    network: Network
    settings: TrainingSettings
    layout: Layout
    values: Parameters


@dataclass(frozen=True)
class Course:
    """How a training in turns went.

    Attributes:
        order: the pack's tasks in the order of their turns.
        loss: float64 (epochs, K, k) loss of each slot's task on the stopping rows after each epoch, NaN without any.
        rate: float64 (epochs, K, k) Adam's rate in each slot's turn.
        chosen: K epochs (from 1) whose parameters were kept.
    """

    order: tuple[str, ...]
    loss: Tensor
    rate: Tensor
    chosen: tuple[int, ...]


@dataclass(frozen=True)
class Fitted(PackModel):
    """A trained pack.

    Attributes:
        history: float64 (epochs, K) mean total loss of each epoch.
        course: of a training in turns.
    """

    history: Tensor
    course: Course | None = None

    @functools.cached_property
    def diverged(self) -> tuple[int, ...]:
        """K entries, the first epoch (from 1) whose loss was not finite, 0 if none."""
        bad = ~self.history.isfinite()
        return tuple(int(column.int().argmax()) + 1 if column.any() else 0 for column in bad.unbind(1))
