"""A trainer whose scores depend on its settings in a known way: best at rate 0.3, the wider the better."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace

from tests.support import fake_trainer
from tests.support.fake_trainer import TASKS, Behaviour
from tim_search.types import Pack, PackResult, Score, Unit, canonical


@dataclass(frozen=True)
class Settings:
    rate: float = 0.1
    width: int = 4
    epochs: int = 3

    @property
    def text(self) -> str:
        return canonical({"rate": self.rate, "width": self.width, "epochs": self.epochs})


@dataclass(frozen=True)
class Payload:
    """What it does besides scoring.

    Attributes:
        log: file that notes every unit whose training begins.
        lethal: the process of a pack with this rate dies.
        diverges: the trainings of a trial with this rate fail.
        seconds: how long a pack takes.
    """

    settings: Settings = Settings()
    log: str = ""
    lethal: float = 0.0
    diverges: float = 0.0
    seconds: float = 0.0


def reached(settings: Settings, unit: Unit, task: str) -> float:
    """Score of a task: its noise is the same for all settings; task b, unlike the others, likes a rate of 0.1."""
    favourite = 0.1 if unit.subset == ("b",) else 0.3
    loss = 0.1 * abs(math.log(settings.rate / favourite)) + 0.4 / settings.width
    return 0.9 - loss + 0.01 * fake_trainer.value(unit, task)


def trainer(payload: Payload) -> TunedTrainer:
    return TunedTrainer(payload)


class TunedTrainer:
    def __init__(self, payload: Payload, *settings: str) -> None:
        self.payload = payload
        self.settings = settings

    def with_settings(self, settings: str) -> TunedTrainer:
        own = replace(self.payload.settings, **json.loads(settings))
        return TunedTrainer(replace(self.payload, settings=own), settings)

    def train(self, pack: Pack) -> PackResult:
        payload, settings = self.payload, self.payload.settings
        lethal = tuple(unit.subset for unit in pack.units if settings.rate == payload.lethal)
        behaviour = Behaviour(log=payload.log, seconds=payload.seconds, crash=lethal)
        fake_trainer.FakeTrainer(behaviour, *self.settings).train(pack)
        scores = tuple(
            Score(
                unit,
                task,
                TASKS[task].metric,
                "validation",
                math.nan if settings.rate == payload.diverges else reached(settings, unit, task),
                "failed" if settings.rate == payload.diverges else "ok",
            )
            for unit in pack.units
            for task in unit.subset
        )
        return PackResult(pack, scores)
