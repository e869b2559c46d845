"""Train a pack in lockstep: every step takes a minibatch, which all members share, and moves all of them at once."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from model.data.folds import Fold, Rows
from model.data.seeding import batch_order
from model.networks.contract import Dice, LossesInTurn, Parameters
from model.networks.settings import TrainingSettings
from model.training import replay
from model.training.aligned_adam import AlignedAdam
from model.training.balance import Balanced, balanced
from model.training.pack import Fitted, PackModel
from model.training.partwise_adam import PartwiseAdam
from model.training.replay import Replayed
from tim_search.types import Task


@dataclass(frozen=True)
class Lockstep:
    """A schedule: passes over the training rows in an order that (seed, epoch) draws.

    The weights of the last step are kept, or their average over the last epochs (`TrainingSettings.average`).

    Attributes:
        loss_by_loss: one step for each loss in turn instead of one on the total.
        reached_alone: a step moves what its loss reaches and nothing else; otherwise everything moves in every step.
    """

    loss_by_loss: bool = False
    reached_alone: bool = False

    def steps(self, fold: Fold, tasks: Mapping[str, Task], settings: TrainingSettings) -> float:
        """Minibatches of one training."""
        return _epochs(settings) * -(-len(fold.train) // settings.batch_size)

    def fit(self, start: PackModel, tasks: Mapping[str, Task], fold: Fold, seed: int) -> Fitted:
        """Train a pack with Adam; each member's gradient reaches its own parameters only.

        Args:
            start: the pack at its start, its parameters requiring gradients; they are trained in place.
            seed: of the order of the rows.
        """
        settings, members, device = start.settings, start.layout.members, fold.train.inputs[0].device
        turns = 1 + start.layout.tasks if self.loss_by_loss else 1
        balance = balanced(start, seed)
        adam: AlignedAdam | PartwiseAdam
        if self.reached_alone:
            most = turns * int(self.steps(fold, tasks, settings))
            adam = PartwiseAdam(start.values, start.network.by_slot, settings.learning_rate, most)
        else:
            adam = AlignedAdam({**start.values, **balance.parameters}, settings.learning_rate)
        training = _Training(start, seed, turns, adam, balance)
        epochs = _epochs(settings)
        history = torch.zeros(epochs, members, dtype=torch.float64)
        worth = balance.replayable and _worth_replaying(start, device)
        replayed: Replayed | None = None
        average: _Average | None = None
        with replay.aside(device) if worth else contextlib.nullcontext():
            for epoch in range(epochs):
                if settings.average and epoch == epochs - settings.average:
                    average = _Average(start.values)
                order = batch_order(seed, epoch, len(fold.train)).to(fold.train.targets.device)
                total = fold.train.inputs[0].new_zeros(members)
                for number, rows in enumerate(fold.train.take(order).split(settings.batch_size)):
                    total += training.step(rows, epoch, number) if replayed is None else replayed(rows)
                    if average is not None:
                        average.add()
                balance.end_epoch()
                history[epoch] = total.double().cpu() / len(fold.train)
                if worth and replayed is None:
                    replayed = Replayed(training.step, [*training.adam.state(), *balance.state()])
            values = {name: value.detach() for name, value in start.values.items()}
            if average is not None:
                values = dict(zip(values, average.mean(), strict=True))
        return Fitted(start.network, settings, start.layout, values, history)


def _epochs(settings: TrainingSettings) -> int:
    """Passes over the training rows: half of those that are averaged come after `epochs`, the middle of the average."""
    return settings.epochs + settings.average // 2


class _Average:
    """The mean of a pack's parameters now and after each step that follows.

    It only reads what a step leaves, recorded or not, and so stays outside what is recorded. A sum of two numbers
    rounds alike wherever they lie in memory, which Adam's steps do not (`aligned_adam`), so it needs no more room.

    Args:
        values: each (K, ...); steps change them in place.
    """

    def __init__(self, values: Parameters) -> None:
        self._values = [value.detach() for value in values.values()]
        self._sums = [value.clone() for value in self._values]
        self._count = 1

    def add(self) -> None:
        """After a step."""
        torch._foreach_add_(self._sums, self._values)
        self._count += 1

    def mean(self) -> list[Tensor]:
        """The means, in the order of the parameters."""
        return [total.div_(self._count) for total in self._sums]


class _Training:
    """A pack under way, `turns` steps a minibatch."""

    def __init__(
        self, model: PackModel, seed: int, turns: int, adam: AlignedAdam | PartwiseAdam, balance: Balanced
    ) -> None:
        self._model, self._seed, self._turns, self.adam, self._balance = model, seed, turns, adam, balance

    def step(self, rows: Rows, *place: int) -> Tensor:
        """Move all members on one minibatch; (K,) loss of each before, summed up over its rows."""
        network, layout, settings = self._model.network, self._model.layout, self._model.settings
        like = rows.inputs[0]
        before = like.new_zeros(layout.members)
        for turn in range(self._turns):
            self.adam.forget()
            dice = Dice("step", self._seed, *place, turn, device=like.device)
            output = network.forward(self._model.values, layout, rows, settings, dice)
            losses = network.losses(output, layout, rows, settings)
            total = losses.by_member(settings)
            if self._turns == 1:
                self._balance.backward(losses, total, *place)
            else:
                cast(LossesInTurn, losses).in_turn(settings)[turn].sum().backward()
            if turn == 0:
                before += total.detach() * len(rows)
            self.adam.step()
        return before


def _worth_replaying(model: PackModel, device: torch.device) -> bool:
    """Whether the host is slower than the device, and a step may be recorded."""
    few = model.layout.members <= replay.MOST_MEMBERS
    return device.type == "cuda" and few and model.network.replayable(model.settings) and not replay.given_up()
