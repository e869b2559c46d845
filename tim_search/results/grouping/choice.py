"""What is chosen: models, the tasks each of them serves, what they gain, and how much of it is luck."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tim_search.results.grouping.candidates import Candidates, Gain, by_size
from tim_search.results.grouping.solver import Objective
from tim_search.types import Subset


@dataclass(frozen=True, slots=True)
class Served:
    """A task and the model that serves it. Scores in the task's metric; low and high are NaN where there are none.

    Attributes:
        score, alone: of the model, and of the task trained alone.
        gain, low, high: their difference with its 95 % interval, in the task's metric.
        relative: the gain as the objective counts it.
        predicted: the score, or the score alone, is the surrogate's.
    """

    task: str
    score: float
    alone: float
    gain: float
    low: float
    high: float
    relative: float
    predicted: bool


@dataclass(frozen=True, slots=True)
class Model:
    """A subset that is deployed, the tasks it serves, and whether it was never trained in every block."""

    subset: Subset
    serves: tuple[Served, ...]
    predicted: bool


@dataclass(frozen=True, slots=True)
class Choice:
    """The best choice of at most `budget` models.

    Attributes:
        budget: models allowed.
        models: those chosen, largest first.
        total: sum of the gains as the objective counts them; low, high: its 95 % interval, NaN where there is none.
        worst: the smallest of them.
        predicted: whether any of it rests on a prediction.
    """

    budget: int
    models: tuple[Model, ...]
    total: float
    low: float
    high: float
    worst: float
    predicted: bool

    @property
    def served(self) -> dict[str, Served]:
        """By task."""
        return {served.task: served for model in self.models for served in model.serves}


@dataclass(frozen=True, slots=True)
class Certainty:
    """How much of a choice is luck, from choosing again on bootstrap draws of blocks and patients.

    Attributes:
        draws: number of draws.
        same: share of the draws in which the same models are chosen.
        models: share of the draws in which each chosen model is among the chosen.
        held_out: the total gain on blocks that had no part in choosing: chosen on the others, measured on each in
            turn, mean over the blocks. NaN with one block.
    """

    draws: int
    same: float
    models: Mapping[Subset, float]
    held_out: float


@dataclass(frozen=True, eq=False)
class Grouping:
    """What `group` found: the choice, the front from one model to as many as gain anything, and what it rests on."""

    objective: Objective
    gain: Gain
    max_size: int
    candidates: Candidates = field(repr=False)
    choice: Choice
    front: tuple[Choice, ...]
    certainty: Certainty | None
    notes: tuple[str, ...]

    @property
    def unmeasured(self) -> tuple[Subset, ...]:
        """What the choice rests on without having been trained in every block: models, and tasks alone."""
        models = {model.subset for model in self.choice.models if model.predicted}
        measured = zip(self.candidates.tasks, self.candidates.alone_measured, strict=True)
        return tuple(sorted(models | {(name,) for name, alone in measured if not alone}, key=by_size))
