"""Train a pack: its start from the seed, the schedule its network chooses, and how exactly it calculates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from model.cohorts.cohort import Cohort
from model.data.folds import Fold
from model.networks import registry as networks
from model.networks.contract import Network, Parameters, layout
from model.networks.settings import TrainingSettings
from model.training.in_turn import AfterTurn, InTurn
from model.training.lockstep import Lockstep
from model.training.pack import Fitted, PackModel
from model.training.precision import products
from tim_search.types import BadInput, Pack, Task


class Schedule(Protocol):
    """Which minibatches come when, what each step descends, and which epoch is kept."""

    def steps(self, fold: Fold, tasks: Mapping[str, Task], settings: TrainingSettings) -> float:
        """Minibatches of one training."""
        ...

    def fit(self, start: PackModel, tasks: Mapping[str, Task], fold: Fold, seed: int) -> Fitted:
        """Train a pack from its start."""
        ...


@dataclass(frozen=True)
class _Offered:
    """See `model.networks.contract.Schedules`."""

    jointly: Schedule
    loss_by_loss: Schedule
    reached_by_loss: Schedule
    task_by_task: Schedule


def schedule_of(network: Network, settings: TrainingSettings, after_turn: AfterTurn | None = None) -> Schedule:
    """The schedule that a network chooses for its settings; `after_turn` is told of tasks trained in turn."""
    every, reached = Lockstep(loss_by_loss=True), Lockstep(loss_by_loss=True, reached_alone=True)
    offered = _Offered(Lockstep(), every, reached, InTurn(after_turn))
    return network.schedule(settings, offered)


def check_supported(cohort: Cohort, network: str, settings: TrainingSettings) -> None:
    """Raise BadInput where the network cannot learn a task, read a modality of the cohort or follow the settings."""
    machine = networks.find(network, allow_code=True)
    wrong = machine.unsupported(cohort, settings)
    if wrong:
        raise BadInput(
            f"network {network} takes {machine.TAKES}, but "
            + "; ".join(wrong)
            + ". Leave such tasks out with `tasks:`, give such modalities as vectors, or choose another `network:`."
        )


def fit_pack(
    pack: Pack,
    tasks: Mapping[str, Task],
    fold: Fold,
    settings: TrainingSettings,
    network: Network,
    after_turn: AfterTurn | None = None,
    start: Sequence[Parameters] = (),
) -> Fitted:
    """Train the subsets of a pack together, Adam from the seed's starting point.

    Each member sees the minibatches it would see alone and its gradient reaches its own parameters only. M3H's result
    for a subset is the same in every bit whatever its pack mates are, on one thread of a CPU (benchmarks/NOTES.md).

    Args:
        after_turn: told of tasks trained in turn, see `in_turn`.
        start: for each member, parameters (1, ...) of another training that take the place of the seed's.
    """
    seed = pack.units[0].seed
    places = layout([unit.subset for unit in pack.units], tasks, fold, fold.train.targets.device)
    values = network.initialise(places, tasks, fold, seed, settings)
    with torch.no_grad():
        for member, given in enumerate(start):
            for name, value in given.items():
                values[name][member] = value[0]
    begun = PackModel(network, settings, places, values)
    with products(settings):
        return schedule_of(network, settings, after_turn).fit(begun, tasks, fold, seed)
