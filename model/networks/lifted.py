"""A network of one's own: an ordinary nn.Module for one subset, lifted by torch.func to train whole packs.

The module maps a sample to one embedding a task; heads, losses, seeds, minibatches and scores are the product's, so
that its scores mean what those of the built-in networks mean. See `OwnNetwork` for what it has to be.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from model.cohorts.cohort import Cohort
from model.data.folds import Fold, Rows
from model.data.seeding import generator
from model.networks.contract import (
    Dice,
    Layout,
    Output,
    Parameters,
    S,
    Schedules,
    Shape,
    SupervisedLosses,
    head,
    supervised_losses,
    unknown_names,
)
from model.networks.settings import OwnSettings
from tim_search.types import BadInput, Task

_HEAD = "head"  # prefix of the parameters that are not the module's


class OwnNetwork(nn.Module, ABC):
    """What a network of one's own is. Subclass it, and override all three methods.

    Parameters alone may be its state: no buffers (batch normalisation keeps some), and no dice in `forward` (dropout),
    for a result must not depend on pack mates. `forward` may use whatever `torch.func.vmap` can: no branching on
    values of tensors, no writing into its inputs.
    """

    #: Its settings; a frozen dataclass that extends OwnSettings where more are needed.
    Settings: type[OwnSettings] = OwnSettings

    def __init__(self, widths: tuple[int, ...], settings: Any) -> None:
        """Make what all tasks of a subset share; every number drawn here comes from the seed alone.

        Args:
            widths: features of each modality.
            settings: an instance of `Settings`.
        """
        super().__init__()

    @abstractmethod
    def task_part(self) -> nn.Module:
        """Make one task's own part; every number drawn here comes from the seed and the task alone.

        The part belongs to the task's slot, and it may not depend on the other tasks of the subset.
        """

    @abstractmethod
    def forward(self, inputs: tuple[Tensor, ...], present: Tensor, parts: nn.ModuleList) -> Tensor:
        """Embed samples for every task.

        Args:
            inputs: one (B, width) a modality, standardised; rows of an absent modality are zero.
            present: bool (B, modalities).
            parts: k task parts, in slot order.

        Returns:
            (k, B, settings.width); a sample's embeddings depend on that sample alone.
        """


class _Whole(nn.Module):
    """A subset's network: the shared part and one part a task."""

    def __init__(self, shared: OwnNetwork, parts: list[nn.Module]) -> None:
        super().__init__()
        self.shared = shared
        self.parts = nn.ModuleList(parts)

    def forward(self, inputs: tuple[Tensor, ...], present: Tensor) -> Tensor:
        return cast(Tensor, self.shared(inputs, present, self.parts))


@dataclass(frozen=True)
class Lifted:
    """`model.networks.contract.Network` made of an `OwnNetwork`."""

    make: type[OwnNetwork]

    @property
    def settings(self) -> type[OwnSettings]:
        """Its settings dataclass."""
        return self.make.Settings

    @property
    def TAKES(self) -> str:
        """See `model.networks.contract.Network`."""
        return "vector modalities and binary, multiclass and regression tasks"

    @property
    def INSIDE(self) -> None:
        """See `model.networks.contract.Network`; what a module does inside is its own."""
        return None

    def replayable(self, settings: Any) -> bool:
        """See `model.networks.contract.Network.replayable`; what a module does in a step is not known."""
        return False

    def member_bytes(self, shape: Shape, settings: Any) -> int | None:
        """See `model.networks.contract.Network.member_bytes`; what a module keeps is not known."""
        return None

    def unsupported(self, cohort: Cohort, settings: Any) -> list[str]:
        """See `model.networks.contract.Network.unsupported`."""
        wrong = [f"modality {m.name} is a {m.kind}" for m in cohort.modalities.values() if m.kind != "vector"]
        kinds = ("multilabel", "clustering")
        wrong += [f"task {task.name} is {task.kind}" for task in cohort.tasks.values() if task.kind in kinds]
        return wrong + unknown_names(cohort, task_weights=settings.task_weights)

    def initialise(self, layout: Layout, tasks: Mapping[str, Task], fold: Fold, seed: int, settings: Any) -> Parameters:
        """See `model.networks.contract.Network.initialise`; raises BadInput for a module that breaks the contract."""
        like = fold.train.inputs[0]
        widths = tuple(x.shape[1] for x in fold.train.inputs)
        members = [_whole(self.make, widths, names, seed, settings) for names in layout.names]
        if buffers := [name for name, _ in members[0].named_buffers()]:
            raise BadInput(
                f"network {self.make.__name__}: expected parameters alone, got the buffers {', '.join(buffers)}. "
                "Replace batch normalisation by layer normalisation, and keep constants as plain attributes."
            )
        states = [dict(member.named_parameters()) for member in members]
        values = {name: torch.stack([state[name].detach() for state in states]) for name in states[0]}
        heads = [[head(name, tasks, fold, seed, settings, layout.outputs) for name in names] for names in layout.names]
        values[f"{_HEAD}.weight"] = torch.stack([torch.stack([weight for weight, _ in row]) for row in heads])
        values[f"{_HEAD}.bias"] = torch.stack([torch.stack([bias for _, bias in row]) for row in heads])
        return {
            name: value.to(device=like.device, dtype=like.dtype).contiguous().requires_grad_()
            for name, value in values.items()
        }

    def by_slot(self, name: str) -> bool:
        """See `model.networks.contract.Network.by_slot`. A part of a lifted module is a parameter of its own."""
        return name.startswith(f"{_HEAD}.")

    def forward(
        self, values: Parameters, layout: Layout, rows: Rows, settings: Any, dice: Dice | None = None
    ) -> Output:
        """See `model.networks.contract.Network.forward`; a lifted module has no use for dice."""
        like, size = rows.inputs[0], len(rows)
        widths = tuple(x.shape[1] for x in rows.inputs)
        skeleton = _skeleton(self, widths, layout.tasks, _ByText(settings.text, settings))
        present = rows.present
        if present is None:
            present = torch.ones(size, len(rows.inputs), dtype=torch.bool, device=like.device)

        def member(parameters: Parameters) -> Tensor:
            return cast(Tensor, functional_call(skeleton, parameters, (rows.inputs, present)))

        body = {name: value for name, value in values.items() if not name.startswith(f"{_HEAD}.")}
        try:
            tokens = vmap(member, randomness="error")(body)
        except RuntimeError as error:
            if "random operation" not in str(error):
                raise
            raise BadInput(
                f"network {self.make.__name__}: forward uses random numbers (dropout?), so that a result would "
                "depend on its pack mates. Take them out."
            ) from error
        if tokens.shape != (expected := (layout.members, layout.tasks, size, settings.width)):
            raise BadInput(
                f"network {self.make.__name__}: forward has to return {expected[1:]} (tasks, rows, width), got "
                f"{tuple(tokens.shape[1:])}."
            )
        logits = tokens @ values[f"{_HEAD}.weight"].transpose(2, 3) + values[f"{_HEAD}.bias"].unsqueeze(2)
        nothing = like.new_zeros(layout.members, 0, size, sum(x.shape[1] for x in rows.inputs))
        return Output(logits, None, like.new_zeros(layout.members, size, 0, settings.width), nothing)

    def losses(self, output: Output, layout: Layout, rows: Rows, settings: Any) -> SupervisedLosses:
        """See `model.networks.contract.Network.losses`."""
        return SupervisedLosses(layout.weighted(supervised_losses(output.logits, layout, rows), settings.task_weights))

    def schedule(self, settings: Any, offered: Schedules[S]) -> S:
        """See `model.networks.contract.Network.schedule`."""
        return offered.jointly


def _whole(make: type[OwnNetwork], widths: tuple[int, ...], names: tuple[str, ...], seed: int, settings: Any) -> _Whole:
    """A subset's network at its start. nn.Module draws from the process-wide dice, which are put back afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator(seed, "shared").initial_seed())
        shared = make(widths, settings)
        parts = []
        for name in names:
            torch.manual_seed(generator(seed, "task", name).initial_seed())
            parts.append(shared.task_part())
    return _Whole(shared, parts)


@dataclass(frozen=True)
class _ByText:
    """Settings told apart by their text: they may hold lists and mappings, which have no hash."""

    text: str
    settings: Any = field(compare=False)


@functools.lru_cache(maxsize=64)
def _skeleton(lifted: Lifted, widths: tuple[int, ...], slots: int, of: _ByText) -> _Whole:
    """A module whose parameters are replaced in every call."""
    return _whole(lifted.make, widths, ("",) * slots, 0, of.settings)
