"""What is asked of a trainer and what it gives back: the results of a pack, attention and curves among them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from tim_search.types.nouns import Pack, Score, Task, Unit

#: Tasks of the largest subset whose cross-task attention is kept: it is a row for each pair of its tasks.
MOST_ATTENDED = 64


@dataclass(frozen=True, slots=True)
class Attention:
    """Cross-task attention of one unit, averaged over the evaluation rows (M3H paper, section 3.4).

    `weight` is how much the token of `task` draws on the token of `other`; the weights of one task sum to 1.
    """

    unit: Unit
    task: str
    other: str
    weight: float


@dataclass(frozen=True, slots=True)
class Curve:
    """What one unit's predictions on one of its tasks look like, as points made of many patients each, never of one.

    Attributes:
        kind: "calibration" (x predicted risk, y observed rate, n patients of a risk quantile), "roc" (x false and y
            true positive rate), "density" (x observed and y predicted centre of a cell, n patients in it), "tail" (x
            observed and y predicted mean of a quantile of the observed, n patients) or "map" (x and y centre of a cell
            of a two-dimensional map, n patients in it).
        group: the subgroup of patients, the class, or the cluster; "all" where there is one only.
        x, y: coordinates of the points.
        n: patients behind each point; empty where every point rests on all of them.
    """

    unit: Unit
    task: str
    kind: Literal["calibration", "roc", "density", "tail", "map"]
    group: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    n: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class PackResult:
    """All that comes back from training a pack. Every unit has at least one score row, also a failed unit."""

    pack: Pack
    scores: tuple[Score, ...]
    attention: tuple[Attention, ...] = ()
    seconds: float = 0.0
    peak_bytes: int = 0
    attempts: int = 1
    curves: tuple[Curve, ...] = ()


class Trainer(Protocol):
    """Trains packs under one choice of settings. Built once per worker process by a `TrainerFactory`."""

    def train(self, pack: Pack) -> PackResult:
        """A score for every (unit, task); a unit that diverges or collapses is a failed row and changes no other unit.

        Raises:
            OutOfMemory: the pack does not fit; any other exception says that it cannot be trained at all.
        """
        ...

    def with_settings(self, settings: str) -> Trainer:
        """A trainer of the same payload under other settings; it may share what this one has prepared.

        Args:
            settings: canonical JSON of the settings that differ from the payload's.
        """
        ...


class TrainerFactory(Protocol):
    """An importable callable that turns a picklable payload (cohort arrays, settings) into a trainer."""

    def __call__(self, payload: Any) -> Trainer: ...


@dataclass(frozen=True, slots=True)
class Resources:
    """What one worker holds. `gpus` may be a fraction; `workers` 0 means as many as the cluster has room for."""

    cpus: float = 1.0
    gpus: float = 0.0
    workers: int = 0
    extra: Mapping[str, float] = field(default_factory=dict)


def failed(pack: Pack, error: str, tasks: Mapping[str, Task], attempts: int = 1) -> PackResult:
    """The result of a pack that could not be trained: one failed row a unit and task."""
    rows = tuple(
        Score(unit, name, tasks[name].metric, unit.part, float("nan"), "failed", error)
        for unit in pack.units
        for name in unit.subset
    )
    return PackResult(pack, rows, attempts=attempts)
