"""Tasks trained in turn: an epoch is one pass a task over the rows that carry its label (FlexCare paper, Algorithm 1).

A pass of a task trains the members of a pack that have it, and they share its minibatches; the others wait. So every
member takes exactly the steps it would take alone, none is padded, and nothing is computed that teaches nobody. Which
rows come when depends on (seed, epoch, task) alone.

One Adam an own member: its moments and its count of steps are the member's, for parts that belong to a task that
task's. The rate is set for each task, and halved where its loss on the stopping rows has not fallen for some epochs. In
the end a member keeps the epoch with the least weighted loss on the stopping rows, which are training patients' and
are never trained on; without stopping rows it keeps the last.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias, cast

import torch
from torch import Tensor

from model.data.folds import Fold, Rows
from model.data.seeding import batch_order
from model.networks.contract import Dice, Layout, Network, Parameters, supervised_losses
from model.networks.settings import TrainingSettings, judged_at_once
from model.training.pack import Course, Fitted, PackModel
from tim_search.types import Task

#: Told after each task's turn: epoch (from 0), task, and the pack's parameters as they are then.
AfterTurn: TypeAlias = Callable[[int, str, Parameters], None]


class InTurnSettings(TrainingSettings, Protocol):
    """What this training reads beyond what all training reads."""

    @property
    def order(self) -> Sequence[str]: ...
    @property
    def task_weights(self) -> Mapping[str, float]: ...
    @property
    def patience(self) -> int: ...


@dataclass(frozen=True)
class InTurn:
    """A schedule: the tasks of a pack one after another, an epoch chosen on the stopping rows."""

    after_turn: AfterTurn | None = None

    def steps(self, fold: Fold, tasks: Mapping[str, Task], settings: TrainingSettings) -> float:
        """Minibatches of the training of a task, on average over the tasks."""
        passes = steps_by_task(fold, tasks, settings.batch_size)
        return settings.epochs * sum(passes.values()) / max(1, len(passes))

    def fit(self, start: PackModel, tasks: Mapping[str, Task], fold: Fold, seed: int) -> Fitted:
        """Train a pack, task by task; `seed` is that of the order of the rows."""
        training = _Training(start, tasks, fold, seed)
        choice = _Choice(start)
        epochs = start.settings.epochs
        history = torch.zeros(epochs, start.layout.members, dtype=torch.float64)
        for epoch in range(epochs):
            history[epoch] = training.epoch(epoch, choice.rate, self.after_turn)
            choice.judge(epoch, training.judged(), history[epoch].isfinite(), training.stores)
        values = training.named(*choice.best_or(training.stores))
        return Fitted(
            start.network,
            start.settings,
            start.layout,
            {name: values[name] for name in start.values},
            history,
            Course(tuple(training.order), choice.loss, choice.rates, tuple(choice.epoch)),
        )


class _Training:
    """A pack under way.

    Attributes:
        order: the tasks in the order of their turns.
        stores: what a member's tasks share, and what is each slot's own.
    """

    def __init__(self, start: PackModel, tasks: Mapping[str, Task], fold: Fold, seed: int) -> None:
        self._network, self._layout, self._fold, self._seed = start.network, start.layout, fold, seed
        self._settings = cast(InTurnSettings, start.settings)
        own = {name: start.network.by_slot(name) for name in start.values}
        self.stores = (
            _Store({name: value for name, value in start.values.items() if not own[name]}, 1),
            _Store({name: value for name, value in start.values.items() if own[name]}, 2),
        )
        self.order = in_order({name for names in start.layout.names for name in names}, self._settings.order)
        self._rows = {name: _labelled(fold.train, fold, tasks[name]) for name in self.order}
        # Which rows judge: only those that carry the label.
        self._judges = {
            name: fold.stopping.take(_labelled(fold.stopping, fold, tasks[name]))
            for name in self.order
            if fold.stopping is not None
        }

    def named(self, shared: Tensor, own: Tensor) -> Parameters:
        """Named parameters of all members, of the stores' values."""
        return {**self.stores[0].named(shared), **self.stores[1].named(own)}

    def epoch(self, epoch: int, rate: Tensor, after_turn: AfterTurn | None) -> Tensor:
        """One turn of every task at these rates (K, k); float64 (K,) mean total loss of each member."""
        layout, settings, shared = self._layout, self._settings, self.stores[0].values
        losses, seen = torch.zeros(2, layout.members, dtype=torch.float64)
        for name in self.order:
            members, slots = layout.holding(name)
            count = len(self._rows[name])
            if not count:
                continue
            turn = _Turn(*self.stores, members, slots, rate[members, slots].tolist())
            part = layout.only(name)
            here = self._rows[name][batch_order(self._seed, epoch, count, name).to(shared.device)]
            total = shared.new_zeros(len(members))
            for number, rows in enumerate(self._fold.train.take(here).split(settings.batch_size)):
                dice = Dice("step", self._seed, epoch, name, number, device=shared.device)
                output = self._network.forward(turn.values, part, rows, settings, dice)
                by_member = self._network.losses(output, part, rows, settings).by_member(settings)
                # Members add up to one number only so that one backward pass serves all.
                turn.step(by_member.sum())
                total += by_member.detach() * len(rows)
            turn.put_back()
            losses[members] += total.double().cpu()
            seen[members] += count
            if after_turn is not None:
                after_turn(epoch, name, self.named(*(store.values for store in self.stores)))
        return losses / seen.clamp_min(1.0)

    def judged(self) -> Tensor:
        """float64 (K, k) loss of each slot's task on the stopping rows, NaN where there are none."""
        layout = self._layout
        losses = torch.full((layout.members, layout.tasks), torch.nan, dtype=torch.float64)
        for name, judge in self._judges.items():
            if len(judge):
                members, slots = layout.holding(name)
                turn = _Turn(*self.stores, members, slots, [0.0] * len(members))
                losses[members, slots] = _loss(self._network, turn.values, layout.only(name), judge, self._settings)
        return losses


class _Choice:
    """What the stopping rows decide: rates, and the epoch that each member keeps.

    Attributes:
        rate: float64 (K, k) Adam's rate of each slot in the coming epoch.
        loss, rates, epoch: see `Course`, `epoch` its `chosen`.
    """

    def __init__(self, start: PackModel) -> None:
        settings, (members, k) = cast(InTurnSettings, start.settings), (start.layout.members, start.layout.tasks)
        self._patience = settings.patience
        self._weights = torch.tensor(
            [[settings.task_weights.get(name, 1.0) for name in names] for names in start.layout.names]
        ).double()
        self._least = torch.full((members, k), torch.inf, dtype=torch.float64)
        self._waited = torch.zeros(members, k, dtype=torch.int64)
        self._best = torch.full((members,), torch.inf, dtype=torch.float64)
        self._values: list[Tensor] = []
        self.rate = torch.full((members, k), settings.learning_rate, dtype=torch.float64)
        self.loss = torch.full((settings.epochs, members, k), torch.nan, dtype=torch.float64)
        self.rates = torch.zeros(settings.epochs, members, k, dtype=torch.float64)
        self.epoch = [settings.epochs] * members

    def judge(self, epoch: int, loss: Tensor, finite: Tensor, stores: Sequence[_Store]) -> None:
        """Take note of an epoch: its losses (K, k) on the stopping rows, and which members' training was finite."""
        self.rates[epoch], self.loss[epoch] = self.rate, loss
        judged = ~loss.isnan()
        fell = judged & (loss < self._least)
        self._least = torch.where(fell, loss, self._least)
        self._waited = torch.where(fell | ~judged, 0, self._waited + 1)
        late = self._waited >= self._patience
        self.rate, self._waited = torch.where(late, self.rate / 2, self.rate), torch.where(late, 0, self._waited)
        total = (self._weights * loss.nan_to_num(0.0)).sum(1)
        # A member that has no stopping rows at all, or is not finite any more, does not choose.
        better = judged.any(1) & (total < self._best) & finite
        self._best = torch.where(better, total, self._best)
        self._values = self._values or [store.values.clone() for store in stores]
        for member in better.nonzero().flatten().tolist():
            self.epoch[member] = epoch + 1
            for best, store in zip(self._values, stores, strict=True):
                best[member] = store.values[member]

    def best_or(self, last: Sequence[_Store]) -> list[Tensor]:
        """The stores' values of each member's chosen epoch; the last ones of a member that never chose."""
        for member in (~self._best.isfinite()).nonzero().flatten().tolist():
            for best, store in zip(self._values, last, strict=True):
                best[member] = store.values[member]
        return self._values


class _Store:
    """Some parameters of all members as one matrix, with Adam's state: a member's row is one long parameter."""

    def __init__(self, values: Parameters, leading: int) -> None:
        self._shapes = {name: value.shape[leading:] for name, value in values.items()}
        self._leading = leading
        parts = [value.detach().flatten(leading) for value in values.values()]
        self.values = torch.cat(parts, dim=leading).contiguous()
        self.first = torch.zeros_like(self.values)
        self.second = torch.zeros_like(self.values)
        self.steps = torch.zeros(self.values.shape[:leading], dtype=torch.float32, device=self.values.device)

    def views(self, flat: Tensor, *leading: int) -> Parameters:
        """Named parameters (*leading, ...) that lie in a flat tensor of as many rows."""
        named, start = {}, 0
        for name, shape in self._shapes.items():
            end = start + shape.numel()
            named[name] = flat[..., start:end].view(*leading, *shape)
            start = end
        return named

    def named(self, flat: Tensor) -> Parameters:
        """Named parameters of all members."""
        return self.views(flat, *flat.shape[: self._leading])


class _Turn:
    """Parameters, gradients and Adam of the members that have one task, taken out of the stores and put back."""

    def __init__(
        self, shared: _Store, own: _Store, members: list[int], slots: list[int], rates: Sequence[float]
    ) -> None:
        device = shared.values.device
        rows = torch.tensor(members, device=device)
        self._places = ((shared, (rows,)), (own, (rows, torch.tensor(slots, device=device))))
        self._taken = [
            [state[at].contiguous() for state in (store.values, store.first, store.second, store.steps)]
            for store, at in self._places
        ]
        self.values: Parameters = {}
        self._slopes: list[Tensor] = []
        by_rate: dict[float, list[Tensor]] = {}
        state = {}
        for (store, at), (flat, first, second, steps) in zip(self._places, self._taken, strict=True):
            gradient = torch.zeros_like(flat)
            leading = (len(members),) if len(at) == 1 else (len(members), 1)
            here, slopes = store.views(flat, *leading), store.views(gradient, *leading)
            for name in here:
                # The network sees named parameters that lie in the flat tensor, Adam walks along it.
                self.values[name] = here[name].detach().requires_grad_()
                self._slopes.append(slopes[name])
            for row, rate in enumerate(rates):
                whole = flat[row]
                whole.grad = gradient[row]
                by_rate.setdefault(rate, []).append(whole)
                state[whole] = {"step": steps[row], "exp_avg": first[row], "exp_avg_sq": second[row]}
        self._adam = torch.optim.Adam([{"params": rows, "lr": rate} for rate, rows in by_rate.items()], fused=True)
        self._adam.state.update(state)

    def step(self, total: Tensor) -> None:
        """One step down the gradient of a number."""
        gradients = torch.autograd.grad(total, list(self.values.values()), allow_unused=True)
        for slope, gradient in zip(self._slopes, gradients, strict=True):
            slope.zero_() if gradient is None else slope.copy_(gradient)
        self._adam.step()

    def put_back(self) -> None:
        """Hand what was trained back to the stores."""
        for (store, at), taken in zip(self._places, self._taken, strict=True):
            for whole, part in zip((store.values, store.first, store.second, store.steps), taken, strict=True):
                whole[at] = part


def in_order(names: set[str], first: Sequence[str]) -> list[str]:
    """The tasks in the order of their turns: those a setting names, then the others by name."""
    return [name for name in first if name in names] + sorted(names - set(first))


def steps_by_task(fold: Fold, tasks: Mapping[str, Task], batch: int) -> dict[str, int]:
    """Minibatches of one pass of each task."""
    return {
        name: -(-len(_labelled(fold.train, fold, tasks[name])) // batch) for name in fold.supervised if name in tasks
    }


def _labelled(rows: Rows, fold: Fold, task: Task) -> Tensor:
    """int64 index of the rows that carry a task's label, or one of its labels."""
    first = fold.first[task.name]
    count = task.n_outputs if task.kind == "multilabel" else 1
    return (rows.labelled[first : first + count] > 0).any(0).nonzero().flatten()


@torch.no_grad()
def _loss(network: Network, values: Parameters, layout: Layout, rows: Rows, settings: TrainingSettings) -> Tensor:
    """float64 (G,) prediction loss of the members' one task, a mean over the rows' labels."""
    first = int(layout.column[0])
    multilabel = any(kind == "multilabel" for kind, _ in layout.by_kind)
    columns = slice(first, first + (int(layout.classes[0]) if multilabel else 1))
    total, count = torch.zeros(layout.members, dtype=torch.float64), 0.0
    for part in rows.split(judged_at_once(settings, rows.shapes)):
        weight = float(part.labelled[columns].sum())
        logits = network.forward(values, layout, part, settings).logits
        total += weight * supervised_losses(logits, layout, part)[:, 0].double().cpu()
        count += weight
    return total / max(count, 1.0)
