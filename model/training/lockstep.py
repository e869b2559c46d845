"""Train a pack in lockstep: every step takes a minibatch and moves all members at once.

Members of one block, a (seed, fold) pair, share each minibatch. A pack may hold the same members for several blocks:
their minibatches then lie side by side, and each member reads those of its own block. The last minibatch of an epoch
may have more rows in one block than in another; its gradients are taken block by block, its step by all.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeAlias, cast

import torch
from torch import Tensor

from model.data.folds import Fold, Rows, side_by_side
from model.data.seeding import batch_order
from model.networks.contract import ALIGN, Dice, Layout, LossesInTurn, Network, Parameters
from model.networks.settings import TrainingSettings
from model.training import replay
from model.training.replay import Replayed


@dataclass(frozen=True)
class Block:
    """Some members of a pack, and what they are trained on.

    Attributes:
        plan: which task sits where in these members.
        fold: their rows.
        seed: of the order of the rows.
    """

    plan: Layout
    fold: Fold
    seed: int


def steps_an_epoch(rows: int, settings: TrainingSettings) -> int:
    """Minibatches of one pass over so many training rows."""
    return -(-rows // settings.batch_size)


def fit(
    values: Parameters,
    plan: Layout,
    blocks: Sequence[Block],
    settings: TrainingSettings,
    rates: Sequence[float],
    network: Network,
) -> tuple[Parameters, Tensor]:
    """Train a pack with Adam; the last epoch is kept.

    Each member's gradient reaches its own parameters only.

    Args:
        values: starting parameters, each (K, ...), requiring gradients.
        plan: of all K members, those of the blocks in turn.
        blocks: one, or several with as many members and `steps_an_epoch` each, of a network that takes them.
        settings: of every member, except for their learning rates.
        rates: K learning rates.

    Returns:
        the parameters, and float64 (epochs, K) mean total loss of each epoch.
    """
    adam = _Adam(values, rates)
    # One joint step on the total, or one step for each loss in turn.
    turns = 1 if settings.update == "joint" else 1 + plan.tasks
    history = torch.zeros(settings.epochs, plan.members, dtype=torch.float64)
    counts = torch.tensor([len(block.fold.train) for block in blocks]).repeat_interleave(plan.members // len(blocks))
    like = blocks[0].fold.train.inputs[0]

    def step(parts: Sequence[_Part], *place: int) -> Tensor:
        """Move all members on one minibatch; (K,) loss of each before, summed up over its rows."""
        said = like.new_zeros(plan.members)
        for turn in range(turns):
            adam.forget()
            for where, members, rows in parts:
                own = values if len(parts) == 1 else {name: value[where] for name, value in values.items()}
                # Several blocks would have to share their dice; networks that take them draw none.
                dice = None if network.SIDE_BY_SIDE else Dice("step", blocks[0].seed, *place, turn, device=like.device)
                found = network.losses(network.forward(own, members, rows, settings, dice), members, rows, settings)
                by_member = found.by_member(settings)
                # Members add up to one number only so that one backward pass serves all; none sees another's loss.
                in_turn = by_member if turns == 1 else cast(LossesInTurn, found).in_turn(settings)[turn]
                in_turn.sum().backward()
                if turn == 0:
                    said[where] += by_member.detach() * len(rows)
            adam.step()
        return said

    worth = _worth_replaying(plan, like.device, network)
    replayed: Replayed | None = None
    with replay.aside(like.device) if worth else contextlib.nullcontext():
        for epoch in range(settings.epochs):
            total = like.new_zeros(plan.members)
            for number, parts in enumerate(_minibatches(plan, blocks, epoch, settings.batch_size)):
                if replayed is not None and len(parts) == 1:
                    total += replayed(parts[0][2])
                else:
                    total += step(parts, epoch, number)
            history[epoch] = total.double().cpu() / counts
            if worth and replayed is None:
                replayed = Replayed(lambda rows: step([(slice(None), plan, rows)]), adam.state())
    return {name: value.detach() for name, value in values.items()}, history


def _worth_replaying(plan: Layout, device: torch.device, network: Network) -> bool:
    """Whether the host is slower than the device, and the network throws no dice, which a recording would repeat."""
    few = plan.members <= replay.MOST_MEMBERS
    return device.type == "cuda" and few and network.SIDE_BY_SIDE and not replay.given_up()


#: Members of a minibatch, their layout, and their rows.
_Part: TypeAlias = tuple[slice, Layout, Rows]


def _minibatches(plan: Layout, blocks: Sequence[Block], epoch: int, size: int) -> Iterator[list[_Part]]:
    """The minibatches of an epoch, each whole, or in as many parts as there are blocks."""
    shuffled = []
    for block in blocks:
        order = batch_order(block.seed, epoch, len(block.fold.train)).to(block.fold.train.targets.device)
        shuffled.append(block.fold.train.take(order).split(size))
    for by_block in zip(*shuffled, strict=True):
        if len({len(rows) for rows in by_block}) == 1:
            yield [(slice(None), plan, side_by_side(by_block))]
        else:
            ends = range(0, plan.members + 1, plan.members // len(blocks))
            yield [
                (slice(start, end), block.plan, rows)
                for start, end, block, rows in zip(ends, ends[1:], blocks, by_block, strict=False)
            ]


class _Adam:
    """Adam on a pack's parameters, with a rate for each member.

    Every step moves every parameter: one that no loss reached counts as one with a zero gradient, in every pack alike.
    """

    def __init__(self, values: Parameters, rates: Sequence[float]) -> None:
        #: Parameters whose gradient each backward pass makes anew, and gradients that it adds to.
        self._fresh: list[Tensor] = []
        self._kept: list[Tensor] = []
        if len(set(rates)) == 1:
            stepped = [self._aligned(value) for value in values.values()]
            self._optimiser = torch.optim.Adam(stepped, lr=rates[0], fused=True)
            return
        # Members have rates of their own: the optimiser takes neighbours of one rate by themselves, in every parameter.
        by_rate: dict[float, list[Tensor]] = {}
        starts = [0, *(at for at in range(1, len(rates)) if rates[at] != rates[at - 1]), len(rates)]
        for value in values.values():
            value.grad = torch.zeros_like(value)
            self._kept.append(value.grad)
            for start, end in pairwise(starts):
                part = value.detach()[start:end]
                part.grad = value.grad[start:end]
                by_rate.setdefault(rates[start], []).append(part)
        groups = [{"params": parts, "lr": rate} for rate, parts in by_rate.items()]
        self._optimiser = torch.optim.Adam(groups, fused=True)

    def _aligned(self, value: Tensor) -> Tensor:
        """What the optimiser steps on for a parameter: a length that is a multiple of `ALIGN`.

        Adam takes numbers by registers, up to sixteen at a time, and a remainder one by one, and the two round
        differently. A parameter that would leave a remainder becomes a view of a longer tensor, and so does its
        gradient.
        """
        count = value.numel()
        if count % ALIGN == 0:
            self._fresh.append(value)
            return value
        room, slope = (value.new_zeros(count + -count % ALIGN) for _ in range(2))
        room[:count] = value.detach().flatten()
        value.data, value.grad = room[:count].view(value.shape), slope[:count].view(value.shape)
        room.grad = slope
        self._kept.append(slope)
        return room

    def forget(self) -> None:
        """Before the losses of a step: no gradient yet."""
        for value in self._fresh:
            value.grad = None
        if self._kept:
            torch._foreach_zero_(self._kept)

    def state(self) -> list[Tensor]:
        """All that steps change and build on, once the first was made; from then on one may be recorded as a graph."""
        for group in self._optimiser.param_groups:
            group["capturable"] = group["params"][0].is_cuda
        stepped = [value.detach() for group in self._optimiser.param_groups for value in group["params"]]
        own = [value for numbers in self._optimiser.state.values() for value in numbers.values()]
        return [*stepped, *own]

    def step(self) -> None:
        """After the backward passes of a step."""
        for value in self._fresh:
            if value.grad is None:
                value.grad = torch.zeros_like(value)
        self._optimiser.step()
