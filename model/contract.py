"""What training asks of a network, and what all networks share: who sits where, the heads' start, supervised losses.

A network trains a whole pack: every parameter has a leading member axis (K, ...), and members never mix. `m3h` is
written that way; an ordinary nn.Module for one subset is lifted to it (`model/lifted.py`). docs/networks.md is the
contract in words, `tests/network_conformance.py` the suite every network passes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from model.cohort import Cohort
from model.data import Fold, Rows
from model.seeding import linear
from tim_search.types import Subset, Task

Parameters = dict[str, Tensor]


@dataclass(frozen=True)
class Layout:
    """Which task sits in which slot of which member; supervised slots come first.

    Attributes:
        names: the k task names of each member, supervised ones sorted, then clustering ones sorted.
        supervised: s, the number of supervised slots; the same for all members.
        column: int64 (K * s,) row of each supervised slot in `Rows.targets`.
        by_kind: for binary, multiclass and regression the int64 slot numbers (member * s + slot) of that kind.
        classes: int64 (K * s,) outputs of each slot.
        outputs: C, the widest head of the pack.
    """

    names: tuple[tuple[str, ...], ...]
    supervised: int
    column: Tensor
    by_kind: Mapping[str, Tensor]
    classes: Tensor
    outputs: int

    @property
    def members(self) -> int:
        return len(self.names)

    @property
    def tasks(self) -> int:
        return len(self.names[0])

    @property
    def clustering(self) -> int:
        return self.tasks - self.supervised


@dataclass(frozen=True)
class Output:
    """What a pack says about B rows.

    Attributes:
        logits: (K, s, B, C) of the supervised slots; a slot uses its first `Layout.classes` outputs.
        attention: (K, B, k, k) cross-task attention W; row = the task that draws, column = the task drawn on. None of a
            network without one.
        latents: (K, B, c, h) attended tokens of the clustering slots.
        rebuilt: (K, c, B, D) reconstruction of the standardised inputs.
        embeddings: one (K, B, h) a modality.
    """

    logits: Tensor
    attention: Tensor | None
    latents: Tensor
    rebuilt: Tensor
    embeddings: tuple[Tensor, ...]


class PackLosses(Protocol):
    """The losses of a pack on one minibatch."""

    def by_member(self, settings: Any) -> Tensor:
        """(K,) total of each member."""
        ...

    def in_turn(self, settings: Any) -> list[Tensor]:
        """(K,) losses in the order of `update: sequential`."""
        ...


class Network(Protocol):
    """A network as training sees it; a module with these functions is one. `settings` is its settings dataclass."""

    def unsupported(self, cohort: Cohort) -> list[str]:
        """What of a cohort the network cannot read or learn, in words; [] if nothing."""
        ...

    def initialise(self, plan: Layout, tasks: Mapping[str, Task], fold: Fold, seed: int, settings: Any) -> Parameters:
        """Starting parameters, each (K, ...), requiring gradients: shared ones from (seed), a task's own from
        (seed, task)."""
        ...

    def forward(self, values: Parameters, plan: Layout, rows: Rows, settings: Any) -> Output:
        """The pack's outputs for some rows; a row's outputs depend on that row alone."""
        ...

    def losses(self, output: Output, plan: Layout, rows: Rows, settings: Any) -> PackLosses:
        """The losses, each a mean over the rows that carry the label."""
        ...


def layout(subsets: Sequence[Subset], tasks: Mapping[str, Task], fold: Fold, device: torch.device) -> Layout:
    """Slots of a pack; raises ValueError where the subsets differ in size or in their number of clustering tasks."""
    supervised = [[name for name in members if tasks[name].kind != "clustering"] for members in subsets]
    clustering = [[name for name in members if tasks[name].kind == "clustering"] for members in subsets]
    if len({len(names) for names in supervised}) > 1 or len({len(names) for names in clustering}) > 1:
        raise ValueError("the subsets of a pack have one size and one number of clustering tasks")
    row = {name: index for index, name in enumerate(fold.supervised)}
    flat = [name for names in supervised for name in names]
    classes = [tasks[name].n_outputs if tasks[name].kind == "multiclass" else 1 for name in flat]

    def index(values: Sequence[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.int64, device=device)

    by_kind = {
        kind: index([slot for slot, name in enumerate(flat) if tasks[name].kind == kind])
        for kind in ("binary", "multiclass", "regression")
    }
    names = tuple((*labelled, *unlabelled) for labelled, unlabelled in zip(supervised, clustering, strict=True))
    return Layout(
        names, len(supervised[0]), index([row[name] for name in flat]), by_kind, index(classes), max(classes, default=1)
    )


def head(
    name: str, tasks: Mapping[str, Task], fold: Fold, seed: int, settings: Any, outputs: int
) -> tuple[Tensor, Tensor]:
    """Head of one task, padded with zero rows to the pack's widest: an unused output has no gradient and stays zero."""
    task = tasks[name]
    used = task.n_outputs if task.kind == "multiclass" else 1
    weight, bias = linear(seed, "head", name, outputs=used, inputs=settings.width)
    if task.kind == "binary":
        row = fold.supervised.index(name)
        count = float(fold.train.labelled[row].sum())
        positive = float((fold.train.targets[row] * fold.train.labelled[row]).sum())
        if 0 < positive < settings.rare * count:
            bias = torch.full_like(bias, math.log(positive / (count - positive)))
    return F.pad(weight, (0, 0, 0, outputs - used)), F.pad(bias, (0, outputs - used))


def supervised_losses(logits: Tensor, plan: Layout, rows: Rows) -> Tensor:
    """(K, s) loss of each supervised slot, a mean over the rows that carry the label; 0 where no row does.

    Args:
        logits: (K, s, B, C).
    """
    logits = logits.reshape(-1, len(rows), plan.outputs)
    target, labelled = rows.targets.index_select(0, plan.column), rows.labelled.index_select(0, plan.column)
    weight = labelled / labelled.sum(1, keepdim=True).clamp_min(1.0)
    by_slot = logits.new_zeros(len(plan.column))
    for kind, slots in plan.by_kind.items():
        if not len(slots):
            continue
        said, wanted = logits.index_select(0, slots), target.index_select(0, slots)
        if kind == "multiclass":
            absent = torch.arange(plan.outputs, device=said.device) >= plan.classes.index_select(0, slots).unsqueeze(1)
            chance = said.masked_fill(absent.unsqueeze(1), -math.inf).log_softmax(2)
            by_row = -chance.gather(2, wanted.long().unsqueeze(2)).squeeze(2)
        elif kind == "binary":
            by_row = F.binary_cross_entropy_with_logits(said[:, :, 0], wanted, reduction="none")
        else:
            by_row = (said[:, :, 0] - wanted).abs()
        by_slot = by_slot.index_add(0, slots, (by_row * weight.index_select(0, slots)).sum(1))
    return by_slot.view(plan.members, plan.supervised)
