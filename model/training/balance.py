"""How the losses of a pack's tasks are balanced: what a step on all of them descends (`training: {balance: ...}`).

A term that belongs to no task (M3H's contrastive term, FlexCare's decorrelation and the load of its experts) takes no
part and keeps its weight. What is a slot's own (heads, task networks) descends the plain sum of the losses under the
methods that weigh gradients; they weigh what all tasks of a member share. A task alone has nothing to balance with, and
is trained as under `equal`, but for the uncertainty that it learns.
"""

from __future__ import annotations

from typing import Protocol, cast

import torch
from torch import Tensor

from model.data.seeding import generator
from model.networks.contract import LossesByTask, PackLosses, Parameters
from model.networks.settings import BY_GRADIENT
from model.training import aggregation
from model.training.pack import PackModel

_TEMPERATURE = 2.0  # T of Liu et al. 2019


class Balanced(Protocol):
    """One way to balance, while a pack is trained."""

    #: What Adam moves beside the network's parameters, each (K, ...).
    parameters: Parameters
    #: Whether a step does the same when its recording is replayed.
    replayable: bool

    def backward(self, losses: PackLosses, total: Tensor, *place: int) -> None:
        """Leave in every parameter the gradient that a step descends.

        Args:
            losses: of one minibatch.
            total: (K,) their sum with equal weights.
            place: epoch and number of the minibatch.
        """
        ...

    def end_epoch(self) -> None:
        """After the last step of an epoch."""
        ...

    def state(self) -> list[Tensor]:
        """What steps change beside parameters and the optimiser."""
        ...


def balanced(model: PackModel, seed: int) -> Balanced:
    """What the settings of a pack ask for; `seed` is that of its units."""
    balance = model.settings.balance
    if balance in BY_GRADIENT and model.layout.tasks > 1:
        return _ByGradient(model, seed)
    if balance == "uncertainty":
        return _Uncertainty(model)
    if balance == "dwa":
        return _Dwa(model)
    return _Equal()


class _Equal:
    """The sum of all losses."""

    replayable = True

    def __init__(self) -> None:
        self.parameters: Parameters = {}

    def backward(self, losses: PackLosses, total: Tensor, *place: int) -> None:
        """See `Balanced`."""
        # Members add up to one number only so that one backward pass serves all; none sees another's loss.
        total.sum().backward()

    def end_epoch(self) -> None:
        """See `Balanced`."""

    def state(self) -> list[Tensor]:
        """See `Balanced`."""
        return []


class _Uncertainty(_Equal):
    """sum_i exp(-s_i) L_i + s_i, whose s_i are learned (Kendall et al. 2018; twice TorchJD's `UW`).

    Twice, so that training begins as with equal weights: s_i begins at 0. Each member and task has an s_i of its own.
    """

    def __init__(self, model: PackModel) -> None:
        super().__init__()
        like = next(iter(model.values.values()))
        self._settings = model.settings
        self._log_variance = like.new_zeros(model.layout.members, model.layout.tasks).requires_grad_()
        self.parameters = {"balance.log_variance": self._log_variance}

    def backward(self, losses: PackLosses, total: Tensor, *place: int) -> None:
        """See `Balanced`."""
        by_task = cast(LossesByTask, losses)
        s, values = self._log_variance, by_task.by_task(self._settings)
        # A minibatch without a label of a task has no loss of it, and says nothing of its variance.
        weighed = (torch.exp(-s) * values + torch.where(values == 0, 0.0, s)).sum(1)
        (by_task.beside_tasks(self._settings) + weighed).sum().backward()


class _Dwa(_Equal):
    """Dynamic weight average (Liu et al. 2019): k softmax(r / 2), r_i = loss of the last epoch over that before it.

    The first two epochs have equal weights. A task without a loss in one of the two counts as one that stands still.
    """

    def __init__(self, model: PackModel) -> None:
        super().__init__()
        like = next(iter(model.values.values()))
        self._settings = model.settings
        self._weights = like.new_ones(model.layout.members, model.layout.tasks)
        self._sums = torch.zeros_like(self._weights)  # over the minibatches of this epoch
        self._before: Tensor | None = None  # sums of the last epoch, which had as many

    def backward(self, losses: PackLosses, total: Tensor, *place: int) -> None:
        """See `Balanced`."""
        by_task = cast(LossesByTask, losses)
        values = by_task.by_task(self._settings)
        self._sums += values.detach()
        (by_task.beside_tasks(self._settings) + (self._weights * values).sum(1)).sum().backward()

    def end_epoch(self) -> None:
        """See `Balanced`."""
        if self._before is not None:
            rates = torch.where((self._before > 0) & (self._sums > 0), self._sums / self._before, 1.0)
            # In place: a recorded step reads them where they are.
            self._weights.copy_(self._weights.shape[1] * torch.softmax(rates / _TEMPERATURE, dim=1))
        self._before = self._sums.clone()
        self._sums.zero_()

    def state(self) -> list[Tensor]:
        """See `Balanced`."""
        return [self._sums]


class _ByGradient(_Equal):
    """The gradient of each task, weighed by what they have against one another (`aggregation`).

    A task's gradients for all members come by one backward pass, so a step has one more pass than there are tasks.
    """

    #: The order of PCGrad is drawn anew in each step, and the weights of the others wait for their solver.
    replayable = False

    def __init__(self, model: PackModel, seed: int) -> None:
        super().__init__()
        self._settings, self._seed = model.settings, seed
        self._shared = [value for name, value in model.values.items() if not model.network.by_slot(name)]
        self._places: list[slice] = []
        length = 0
        for value in self._shared:
            self._places.append(slice(length, length + value[0].numel()))
            length = self._places[-1].stop
        layout = model.layout
        self._gradients = self._shared[0].new_zeros(layout.members, layout.tasks, length)  # (K, k, P)

    def backward(self, losses: PackLosses, total: Tensor, *place: int) -> None:
        """See `Balanced`."""
        by_task = cast(LossesByTask, losses).by_task(self._settings)
        for slot in range(by_task.shape[1]):
            slopes = torch.autograd.grad(
                by_task[:, slot].sum(), self._shared, retain_graph=True, allow_unused=True, materialize_grads=True
            )
            for at, slope in zip(self._places, slopes, strict=True):
                self._gradients[:, slot, at] = slope.flatten(1)
        total.sum().backward()
        with torch.no_grad():
            weights = self._weigh(*place)
            # All weights are 1 in the gradient of the total.
            change = ((weights - 1).unsqueeze(1) @ self._gradients).squeeze(1)  # (K, P)
            for at, value in zip(self._places, self._shared, strict=True):
                assert value.grad is not None
                value.grad += change[:, at].view_as(value)

    def _weigh(self, *place: int) -> Tensor:
        """(K, k) weights of the tasks; NaN of a member that diverged, and of it alone."""
        gram = (self._gradients @ self._gradients.transpose(1, 2)).double()
        finite = gram.isfinite().all(dim=(1, 2), keepdim=True)
        there = torch.where(finite, gram, torch.eye(gram.shape[1], dtype=gram.dtype, device=gram.device))
        if self._settings.balance == "pcgrad":
            k = gram.shape[1]
            order = torch.rand(k, k, generator=generator("pcgrad", self._seed, *place)).argsort(1)
            weights = aggregation.pcgrad(there, order.to(gram.device))
        else:
            weights = {"cagrad": aggregation.cagrad, "upgrad": aggregation.upgrad}[self._settings.balance](there)
        return torch.where(finite.squeeze(2), weights, torch.nan).to(self._gradients.dtype)
