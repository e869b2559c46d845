"""What training asks of a network, and what all networks share: who sits where, the heads' start, supervised losses.

A network trains a whole pack: every parameter has a leading member axis (K, ...), and members never mix. `m3h` is
written that way; an ordinary nn.Module for one subset is lifted to it (`lifted.py`). docs/networks.md is the
contract in words, `tests/support/network_conformance.py` the suite every network passes.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from model.cohorts.cohort import Cohort
from model.data.folds import Fold, Rows
from model.data.seeding import generator, linear
from model.networks.rounding import RUN
from tim_search.types import Kind, Subset, Task

if TYPE_CHECKING:
    import pandas as pd

Parameters = dict[str, Tensor]


@dataclass(frozen=True)
class Layout:
    """Which task sits in which slot of which member; supervised slots come first.

    Attributes:
        names: the k task names of each member, supervised ones sorted, then clustering ones sorted.
        supervised: s, the number of supervised slots; the same for all members.
        column: int64 (K * s,) row of each supervised slot in `Rows.targets`; the first one of a multilabel task.
        by_kind: for each kind with labels and number of outputs the int64 slot numbers (member * s + slot) of such
            tasks.
        classes: int64 (K * s,) outputs of each slot.
        outputs: C, the widest head of the pack.
        by_widest: for each number of outputs the int64 members whose own widest head has it.
    """

    names: tuple[tuple[str, ...], ...]
    supervised: int
    column: Tensor
    by_kind: Mapping[tuple[Kind, int], Tensor]
    classes: Tensor
    outputs: int
    by_widest: Mapping[int, Tensor]

    @property
    def members(self) -> int:
        return len(self.names)

    @property
    def tasks(self) -> int:
        return len(self.names[0])

    @property
    def clustering(self) -> int:
        return self.tasks - self.supervised

    @functools.cached_property
    def from_widest(self) -> Tensor:
        """int64 (K,): for each member its place in the groups of `by_widest` one after another."""
        return torch.cat(tuple(self.by_widest.values())).argsort()

    def in_order(self, groups: Sequence[Tensor]) -> Tensor:
        """What was computed for each group of `by_widest`, one after another, in the order of the members."""
        return groups[0] if len(groups) == 1 else torch.cat(tuple(groups)).index_select(0, self.from_widest)

    def holding(self, task: str) -> tuple[list[int], list[int]]:
        """The members that have a task, and the slot it sits in there."""
        places = [(member, names.index(task)) for member, names in enumerate(self.names) if task in names]
        return [member for member, _ in places], [slot for _, slot in places]

    @functools.cached_property
    def _weights(self) -> dict[tuple[tuple[str, float], ...], Tensor]:
        return {}

    def weighted(self, losses: Tensor, task_weights: Mapping[str, float]) -> Tensor:
        """(K, k) losses by slot, each times its task's weight, 1 where none is named."""
        if not task_weights:
            return losses
        # Made once: a step that is recorded as a CUDA graph may bring nothing from the host.
        key = tuple(sorted(task_weights.items()))
        if key not in self._weights:
            self._weights[key] = losses.new_tensor([[task_weights.get(name, 1.0) for name in of] for of in self.names])
        return losses * self._weights[key]

    def only(self, task: str) -> Layout:
        """The layout of the members that have a supervised task, with that task alone."""
        members, slots = self.holding(task)
        at = [member * self.supervised + slot for member, slot in zip(members, slots, strict=True)]
        index = torch.tensor(at, dtype=torch.int64, device=self.column.device)
        everywhere = torch.arange(len(at), device=self.column.device)
        kind = next(kind for kind, of in self.by_kind.items() if bool((of == at[0]).any()))
        return Layout(
            ((task,),) * len(at),
            1,
            self.column.index_select(0, index),
            {kind: everywhere},
            self.classes.index_select(0, index),
            self.outputs,
            {kind[1]: everywhere},
        )


@dataclass(frozen=True)
class Output:
    """What a pack says about B rows.

    Attributes:
        logits: (K, s, B, C) of the supervised slots; a slot uses its first `Layout.classes` outputs.
        attention: (K, B, k, k) cross-task attention W; row = the task that draws, column = the task drawn on. None of a
            network without one.
        latents: (K, B, c, h) attended tokens of the clustering slots.
        rebuilt: (K, c, B, D) reconstruction of the standardised inputs.
        inner: what else the network's own `losses` read.
    """

    logits: Tensor
    attention: Tensor | None
    latents: Tensor
    rebuilt: Tensor
    inner: Any = None


class Dice:
    """The random numbers of one training step, by name: every member of a pack draws the same ones.

    Args:
        names: of the step, e.g. seed, epoch, task and minibatch. The numbers depend on them and on the kind of device.
        device: where the numbers are made.
    """

    def __init__(self, *names: object, device: torch.device) -> None:
        self._names = names
        self._device = device

    @functools.cached_property
    def _generator(self) -> torch.Generator:
        on_host = generator(*self._names)
        if self._device.type == "cpu":
            return on_host
        # Drawing where the numbers are used spares a transfer of each.
        return torch.Generator(self._device).manual_seed(on_host.initial_seed())

    def kept(self, shape: Sequence[int], rate: float, dtype: torch.dtype) -> Tensor:
        """Dropout mask: 0 with probability `rate`, else 1 / (1 - rate)."""
        drawn = torch.rand(*shape, generator=self._generator, device=self._device, dtype=torch.float32)
        return (drawn >= rate).to(dtype).div_(1.0 - rate)

    def normal(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Standard normal numbers."""
        return torch.randn(*shape, generator=self._generator, device=self._device, dtype=torch.float32).to(dtype)


class PackLosses(Protocol):
    """The losses of a pack on one minibatch."""

    def by_member(self, settings: Any) -> Tensor:
        """(K,) total of each member."""
        ...


class LossesInTurn(PackLosses, Protocol):
    """Losses of a network that is trained loss by loss."""

    def in_turn(self, settings: Any) -> list[Tensor]:
        """(K,) losses in the order in which the steps take them, one more than there are tasks."""
        ...


class LossesByTask(PackLosses, Protocol):
    """Losses of a network whose tasks can be balanced; what follows adds up to `by_member`."""

    def by_task(self, settings: Any) -> Tensor:
        """(K, k) weighted loss of each slot's task."""
        ...

    def beside_tasks(self, settings: Any) -> Tensor:
        """(K,) sum of the weighted terms that belong to no task."""
        ...


@dataclass(frozen=True)
class SupervisedLosses:
    """(K, s) weighted losses of the supervised slots, of a network that has no other."""

    supervised: Tensor

    def by_member(self, settings: Any) -> Tensor:
        """(K,) sum over the tasks."""
        return self.supervised.sum(1)

    def by_task(self, settings: Any) -> Tensor:
        """See `LossesByTask`."""
        return self.supervised

    def beside_tasks(self, settings: Any) -> Tensor:
        """See `LossesByTask`; there are none."""
        return self.supervised.new_zeros(len(self.supervised))


@dataclass(frozen=True)
class Shape:
    """How large one member of a pack is.

    Attributes:
        size: k, tasks of the subset.
        clustering: c, clustering tasks among them.
        outputs: C, outputs of the widest head.
        inputs: the shape of one row's input of each modality, as the network sees it.
        rows: numbers of training and validation rows.
    """

    size: int
    clustering: int
    outputs: int
    inputs: tuple[tuple[int, ...], ...]
    rows: tuple[int, int]


@dataclass(frozen=True, eq=False)
class Inside:
    """What happens inside a network for one subset, in tables; no row is about one patient.

    Attributes:
        subset: its tasks.
        order: the tasks in the order of their turns.
        scores: task, metric, primary, variant ("together", "alone", "no task token"), mean, sd and seeds.
        routing: task, combination of modalities, expert (from 1), chosen (how many rows were sent to it) and rows (how
            many have the combination).
        turns: epoch (from 1), turn (the task that was trained), task and score after it.
        patients: variant, task, x, y and patients: a map of the representations as a density.
        apart: variant and silhouette, how well the representations tell the tasks apart.
    """

    subset: Subset
    order: tuple[str, ...]
    scores: pd.DataFrame
    routing: pd.DataFrame
    turns: pd.DataFrame
    patients: pd.DataFrame
    apart: pd.DataFrame


@dataclass(frozen=True)
class Shows:
    """What a look inside a network needs of it, beside `Output.inner` with `routing`, `fusion` and `patient`.

    Attributes:
        without_task_token: the settings of the comparison without task tokens, from those of the search.
        combinations: the modality combinations of so many modalities under some settings, in the order of `routing`.
    """

    without_task_token: Callable[[Any], Any]
    combinations: Callable[[int, Any], tuple[tuple[int, ...], ...]]


S = TypeVar("S")
S_co = TypeVar("S_co", covariant=True)


class Schedules(Protocol[S_co]):
    """The schedules that training offers; a network takes one of them and need not know what one is."""

    @property
    def jointly(self) -> S_co:
        """One step a minibatch, on the total of all losses."""
        ...

    @property
    def loss_by_loss(self) -> S_co:
        """One step for each loss of a minibatch in turn, which moves every parameter; the losses are `LossesInTurn`."""
        ...

    @property
    def reached_by_loss(self) -> S_co:
        """The same, but a step moves what its loss reaches and nothing else."""
        ...

    @property
    def task_by_task(self) -> S_co:
        """A pass over a task's labelled rows in turn; the settings are `model.training.in_turn.InTurnSettings`."""
        ...


class Network(Protocol):
    """A network as training sees it; a module with these functions is one. `settings` is its settings dataclass."""

    #: What it reads and learns, in words.
    @property
    def TAKES(self) -> str: ...

    #: What a look inside it shows, None where there is nothing of the kind: no experts, no task tokens.
    @property
    def INSIDE(self) -> Shows | None: ...

    def replayable(self, settings: Any) -> bool:
        """Whether a training step does the same when its recording is replayed: it draws no dice and waits for no
        result."""
        ...

    def unsupported(self, cohort: Cohort, settings: Any) -> list[str]:
        """What of a cohort the network cannot read or learn, in words; [] if nothing."""
        ...

    def member_bytes(self, shape: Shape, settings: Any) -> int | None:
        """Peak bytes that one more member adds to a pack while it is trained and scored, within a factor of about 1.5;
        None where that is not known."""
        ...

    def initialise(self, layout: Layout, tasks: Mapping[str, Task], fold: Fold, seed: int, settings: Any) -> Parameters:
        """Starting parameters, each (K, ...), requiring gradients: shared ones from (seed), a task's own from
        (seed, task)."""
        ...

    def by_slot(self, name: str) -> bool:
        """Whether a parameter is (K, slots, ...), a part for every slot, rather than shared by a member's tasks."""
        ...

    def forward(
        self, values: Parameters, layout: Layout, rows: Rows, settings: Any, dice: Dice | None = None
    ) -> Output:
        """The pack's outputs for some rows; a row's outputs depend on that row and, while it trains, on the dice.

        Args:
            dice: of one training step, the same for all members; None where nothing is trained.
        """
        ...

    def losses(self, output: Output, layout: Layout, rows: Rows, settings: Any) -> PackLosses:
        """The losses, each a mean over the rows that carry the label."""
        ...

    def schedule(self, settings: Any, offered: Schedules[S]) -> S:
        """How its packs are trained under these settings: one of the schedules on offer."""
        ...


def layout(subsets: Sequence[Subset], tasks: Mapping[str, Task], fold: Fold, device: torch.device) -> Layout:
    """Slots of a pack; raises ValueError where the subsets differ in size or in their number of clustering tasks."""
    supervised = [[name for name in members if tasks[name].kind != "clustering"] for members in subsets]
    clustering = [[name for name in members if tasks[name].kind == "clustering"] for members in subsets]
    if len({len(names) for names in supervised}) > 1 or len({len(names) for names in clustering}) > 1:
        raise ValueError("the subsets of a pack have one size and one number of clustering tasks")
    flat = [name for names in supervised for name in names]
    classes = [n_logits(tasks[name]) for name in flat]

    def index(values: Sequence[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.int64, device=device)

    kinds = [(tasks[name].kind, n_logits(tasks[name])) for name in flat]
    by_kind = {kind: index([slot for slot, other in enumerate(kinds) if other == kind]) for kind in sorted(set(kinds))}
    widest = [max((n_logits(tasks[name]) for name in labelled), default=1) for labelled in supervised]
    names = tuple((*labelled, *unlabelled) for labelled, unlabelled in zip(supervised, clustering, strict=True))
    return Layout(
        names,
        len(supervised[0]),
        index([fold.first[name] for name in flat]),
        by_kind,
        index(classes),
        max(widest),
        {width: index([m for m, own in enumerate(widest) if own == width]) for width in sorted(set(widest))},
    )


def unknown_names(cohort: Cohort, **named: Iterable[str]) -> list[str]:
    """What is wrong with settings that name tasks, in words; `named` has the names by setting."""
    unknown = {field: [name for name in names if name not in cohort.tasks] for field, names in named.items()}
    return [
        f"{field} names {', '.join(names)}, which the search does not have" for field, names in unknown.items() if names
    ]


def n_logits(task: Task) -> int:
    """Outputs of a supervised task's head."""
    return task.n_outputs if task.kind in ("multiclass", "multilabel") else 1


def head(
    name: str, tasks: Mapping[str, Task], fold: Fold, seed: int, settings: Any, outputs: int, inputs: int = 0
) -> tuple[Tensor, Tensor]:
    """Head of one task, padded with zero rows to the pack's widest: an unused output has no gradient and stays zero.

    It reads `inputs` features, the settings' width by default.
    """
    task = tasks[name]
    used = n_logits(task)
    weight, bias = linear(seed, "head", name, outputs=used, inputs=inputs or settings.width)
    if task.kind == "binary":
        row = fold.first[name]
        count = float(fold.train.labelled[row].sum())
        positive = float((fold.train.targets[row] * fold.train.labelled[row]).sum())
        if 0 < positive < settings.rare * count:
            bias = torch.full_like(bias, math.log(positive / (count - positive)))
    return F.pad(weight, (0, 0, 0, outputs - used)), F.pad(bias, (0, outputs - used))


def supervised_losses(logits: Tensor, layout: Layout, rows: Rows) -> Tensor:
    """(K, s) loss of each supervised slot, a mean over the rows that carry the label; 0 where no row does.

    Heads of different widths never meet in one sum: a task's loss is the same in every bit whatever its pack mates are.

    Args:
        logits: (K, s, B, C).
    """
    # Unlabelled rows fill the minibatch up, and logits lie side by side: a sigmoid rounds otherwise in numbers that lie
    # apart, too.
    room = -len(rows) % RUN
    logits = F.pad(logits, (0, 0, 0, room)).reshape(-1, len(rows) + room, layout.outputs)
    targets, labelled_rows = F.pad(rows.targets, (0, room)), F.pad(rows.labelled, (0, room))
    target, labelled = targets.index_select(0, layout.column), labelled_rows.index_select(0, layout.column)
    weight = labelled / labelled.sum(1, keepdim=True).clamp_min(1.0)
    by_slot = logits.new_zeros(len(layout.column))
    for (kind, outputs), slots in layout.by_kind.items():
        slot_logits = logits.index_select(0, slots)[:, :, :outputs].contiguous()
        if kind == "multilabel":
            by_slot = by_slot.index_add(
                0,
                slots,
                _multilabel_losses(slot_logits, targets, labelled_rows, layout.column.index_select(0, slots)),
            )
            continue
        wanted = target.index_select(0, slots)
        if kind == "multiclass":
            by_row = -slot_logits.log_softmax(2).gather(2, wanted.long().unsqueeze(2)).squeeze(2)
        elif kind == "binary":
            by_row = F.binary_cross_entropy_with_logits(slot_logits[:, :, 0], wanted, reduction="none")
        else:
            by_row = (slot_logits[:, :, 0] - wanted).abs()
        by_slot = by_slot.index_add(0, slots, (by_row * weight.index_select(0, slots)).sum(1))
    return by_slot.view(layout.members, layout.supervised)


def _multilabel_losses(logits: Tensor, targets: Tensor, labelled: Tensor, column: Tensor) -> Tensor:
    """(S,) mean binary cross entropy over the labels that are known, of (S, B, L) logits; `column`: first label's."""
    at = column.unsqueeze(1) + torch.arange(logits.shape[2], device=logits.device)  # (S, L)
    wanted, given = targets[at].transpose(1, 2), labelled[at].transpose(1, 2)  # (S, B, L)
    by_cell = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    return (by_cell * given).sum(dim=(1, 2)) / given.sum(dim=(1, 2)).clamp_min(1.0)
