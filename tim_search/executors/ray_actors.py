"""The contract between the driver and its actors on Ray: what runs in an actor, and how the driver sees it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from operator import attrgetter
from typing import Any

import ray

from tim_search.executors.contract import Trainers
from tim_search.executors.queue import Job
from tim_search.types import Attention, Curve, Pack, PackResult, Score, Subset, TrainerFactory, Unit

_score_fields = attrgetter(*(item.name for item in fields(Score) if item.name != "unit"))
_attention_fields = attrgetter(*(item.name for item in fields(Attention) if item.name != "unit"))
_curve_fields = attrgetter(*(item.name for item in fields(Curve) if item.name != "unit"))


class Worker:
    """What runs in an actor's process. Packs and results travel as plain tuples, which pickle ten times as fast."""

    def __init__(self, factory: TrainerFactory, payload: Any) -> None:
        self._factory = factory
        self._payload = payload

    def build(self) -> str:
        # Not in __init__: an error there would kill the actor and come back as text instead of as itself.
        self._trainers = Trainers(self._factory, self._payload)
        return str(ray.get_runtime_context().get_node_id())

    def train(self, units: Sequence[tuple[Subset, int, int]], settings: str) -> tuple[Any, ...]:
        pack = Pack(tuple(Unit(*values) for values in units))
        result = self._trainers.under(settings).train(pack)
        place = {unit: index for index, unit in enumerate(pack.units)}
        scores = [(place[row.unit], _score_fields(row)) for row in result.scores if row.unit in place]
        attention = [(place[row.unit], _attention_fields(row)) for row in result.attention if row.unit in place]
        curves = [(place[row.unit], _curve_fields(row)) for row in result.curves if row.unit in place]
        return scores, attention, curves, result.seconds, result.peak_bytes


@dataclass(eq=False)
class Seat:
    """A worker as the driver sees it.

    Attributes:
        actor: handle of the actor.
        building: reference to the end of its start; None once it takes packs.
        flying: (reference, job) of the packs it was given and has not answered, in the order it trains them.
        failures: how many times in a row a worker of this seat could not be started.
        device: what it trains on: the kind of accelerator of its machine, else the machine.
        since: when it began with the first of `flying`, as time.monotonic() tells.
    """

    actor: Any
    building: Any
    flying: deque[tuple[Any, Job]] = field(default_factory=deque)
    failures: int = 0
    device: str = ""
    since: float = 0.0

    def seconds(self) -> float:
        """How long it has been training the first of its packs."""
        return time.monotonic() - self.since if self.flying else 0.0


def as_result(pack: Pack, answer: tuple[Any, ...]) -> PackResult:
    """What `Worker.train` says of a pack."""
    scores, attention, curves, seconds, peak_bytes = answer
    return PackResult(
        pack,
        tuple(Score(pack.units[index], *values) for index, values in scores),
        tuple(Attention(pack.units[index], *values) for index, values in attention),
        seconds,
        peak_bytes,
        curves=tuple(Curve(pack.units[index], *values) for index, values in curves),
    )
