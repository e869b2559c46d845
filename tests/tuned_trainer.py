"""A trainer whose scores depend on its settings in a known way: best at rate 0.3, the wider the better."""

from __future__ import annotations

import math
from dataclasses import dataclass

import fake_trainer
from fake_trainer import TASKS, Behaviour

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
        lethal: the process of a trial with this rate dies.
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
    def __init__(self, payload: Payload) -> None:
        self.payload = payload

    def train(self, pack: Pack) -> PackResult:
        payload, settings = self.payload, self.payload.settings
        behaviour = Behaviour(
            log=payload.log,
            seconds=payload.seconds,
            crash=tuple(unit.subset for unit in pack.units if settings.rate == payload.lethal),
        )
        fake_trainer.trainer(behaviour).train(pack)
        bad = settings.rate == payload.diverges
        scores = tuple(
            Score(
                unit,
                task,
                TASKS[task].metric,
                "validation",
                math.nan if bad else reached(settings, unit, task),
                "failed" if bad else "ok",
            )
            for unit in pack.units
            for task in unit.subset
        )
        return PackResult(pack, scores)
