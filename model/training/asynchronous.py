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
from typing import Protocol, TypeAlias

import torch
from torch import Tensor

from model.data.folds import Fold, Rows
from model.data.seeding import batch_order
from model.networks.contract import Dice, Layout, Network, Parameters, supervised_losses
from model.networks.settings import TrainingSettings
from tim_search.types import Task

#: Told after each task's turn: epoch (from 0), task, and the pack's parameters as they are then.
AfterTurn: TypeAlias = Callable[[int, str, Parameters], None]


class AsynchronousSettings(TrainingSettings, Protocol):
    """What this training reads beyond what all training reads."""

    @property
    def order(self) -> Sequence[str]: ...
    @property
    def task_weights(self) -> Mapping[str, float]: ...
    @property
    def patience(self) -> int: ...


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
        found, start = {}, 0
        for name, shape in self._shapes.items():
            end = start + shape.numel()
            found[name] = flat[..., start:end].view(*leading, *shape)
            start = end
        return found

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
        found = torch.autograd.grad(total, list(self.values.values()), allow_unused=True)
        for slope, gradient in zip(self._slopes, found, strict=True):
            slope.zero_() if gradient is None else slope.copy_(gradient)
        self._adam.step()

    def put_back(self) -> None:
        for (store, at), taken in zip(self._places, self._taken, strict=True):
            for whole, part in zip((store.values, store.first, store.second, store.steps), taken, strict=True):
                whole[at] = part


def fit(
    values: Parameters,
    plan: Layout,
    tasks: Mapping[str, Task],
    fold: Fold,
    seed: int,
    settings: AsynchronousSettings,
    network: Network,
    after_turn: AfterTurn | None = None,
) -> tuple[Parameters, Tensor, Course]:
    """Train a pack, task by task.

    Args:
        values: starting parameters.
        after_turn: see `AfterTurn`.

    Returns:
        the kept parameters, float64 (epochs, K) mean total loss of each epoch, and the course.
    """
    shared = _Store({name: value for name, value in values.items() if not network.by_slot(name)}, 1)
    own = _Store({name: value for name, value in values.items() if network.by_slot(name)}, 2)
    members, k = plan.members, plan.tasks
    order = in_order({name for names in plan.names for name in names}, settings.order)
    device = shared.values.device
    rows_of = {name: _labelled(fold.train, fold, tasks[name]) for name in order}
    # Which rows judge: only those that carry the label.
    judges = {
        name: fold.stopping.take(_labelled(fold.stopping, fold, tasks[name])) if fold.stopping is not None else None
        for name in order
    }
    rate = torch.full((members, k), settings.learning_rate, dtype=torch.float64)
    least = torch.full((members, k), torch.inf, dtype=torch.float64)
    waited = torch.zeros(members, k, dtype=torch.int64)
    weights = torch.tensor([[settings.task_weights.get(name, 1.0) for name in names] for names in plan.names]).double()
    best, chosen = torch.full((members,), torch.inf, dtype=torch.float64), [settings.epochs] * members
    kept = [shared.values.clone(), own.values.clone()]
    history = torch.zeros(settings.epochs, members, dtype=torch.float64)
    losses = torch.full((settings.epochs, members, k), torch.nan, dtype=torch.float64)
    rates = torch.zeros(settings.epochs, members, k, dtype=torch.float64)
    for epoch in range(settings.epochs):
        rates[epoch] = rate
        seen = torch.zeros(members, dtype=torch.float64)
        for name in order:
            having, slots = plan.holding(name)
            count = len(rows_of[name])
            if not count:
                continue
            turn = _Turn(shared, own, having, slots, rate[having, slots].tolist())
            part = plan.only(name)
            here = rows_of[name][batch_order(seed, epoch, count, name).to(device)]
            total = shared.values.new_zeros(len(having))
            for number, rows in enumerate(fold.train.take(here).split(settings.batch_size)):
                dice = Dice("step", seed, epoch, name, number, device=device)
                output = network.forward(turn.values, part, rows, settings, dice)
                by_member = network.losses(output, part, rows, settings).by_member(settings)
                # Members add up to one number only so that one backward pass serves all.
                turn.step(by_member.sum())
                total += by_member.detach() * len(rows)
            turn.put_back()
            history[epoch, having] += total.double().cpu()
            seen[having] += count
            if after_turn is not None:
                after_turn(epoch, name, {**shared.named(shared.values), **own.named(own.values)})
        history[epoch] /= seen.clamp_min(1.0)
        for name, judge in judges.items():
            if judge is None or not len(judge):
                continue
            having, slots = plan.holding(name)
            turn = _Turn(shared, own, having, slots, [0.0] * len(having))
            losses[epoch, having, slots] = _loss(turn.values, plan.only(name), judge, settings, network)
        judged = ~losses[epoch].isnan()
        fell = judged & (losses[epoch] < least)
        least = torch.where(fell, losses[epoch], least)
        waited = torch.where(fell | ~judged, 0, waited + 1)
        late = waited >= settings.patience
        rate, waited = torch.where(late, rate / 2, rate), torch.where(late, 0, waited)
        total = (weights * losses[epoch].nan_to_num(0.0)).sum(1)
        # A member that has no stopping rows at all, or is not finite any more, does not choose.
        better = judged.any(1) & (total < best) & history[epoch].isfinite()
        best = torch.where(better, total, best)
        for member in better.nonzero().flatten().tolist():
            chosen[member] = epoch + 1
            kept[0][member], kept[1][member] = shared.values[member], own.values[member]
    for member in (~best.isfinite()).nonzero().flatten().tolist():
        kept[0][member], kept[1][member] = shared.values[member], own.values[member]
    found = {**shared.named(kept[0]), **own.named(kept[1])}
    return {name: found[name] for name in values}, history, Course(tuple(order), losses, rates, tuple(chosen))


def in_order(names: set[str], first: Sequence[str]) -> list[str]:
    """The tasks in the order of their turns: those a setting names, then the others by name."""
    return [name for name in first if name in names] + sorted(names - set(first))


def steps(fold: Fold, tasks: Mapping[str, Task], batch: int) -> dict[str, int]:
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
def _loss(values: Parameters, plan: Layout, rows: Rows, settings: TrainingSettings, network: Network) -> Tensor:
    """float64 (G,) prediction loss of the members' one task, a mean over the rows' labels."""
    first = int(plan.column[0])
    multilabel = any(kind == "multilabel" for kind, _ in plan.by_kind)
    columns = slice(first, first + (int(plan.classes[0]) if multilabel else 1))
    total, count = torch.zeros(plan.members, dtype=torch.float64), 0.0
    for part in rows.split(settings.evaluation_rows):
        weight = float(part.labelled[columns].sum())
        said = network.forward(values, plan, part, settings).logits
        total += weight * supervised_losses(said, plan, part)[:, 0].double().cpu()
        count += weight
    return total / max(count, 1.0)
