"""Subsets, scores and a mortal storage for tests of ledgers."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import pandas as pd

from tests.support.fake_trainer import CONTEXT, TASKS, Behaviour, FakeTrainer
from tim_search.ledger.ledger import Ledger
from tim_search.ledger.storage import Storage
from tim_search.loop.manifest import Manifest
from tim_search.types import Context, Pack, PackResult, Unit

SUBSETS = [members for size in (1, 2, 3) for members in combinations("abcdef", size)]
KEY = ["context", "subset", "seed", "fold", "part", "task", "metric"]


MANIFEST = Manifest(
    name="pairs",
    cohort="support2",
    context=CONTEXT,
    tasks=tuple(TASKS.values()),
    overlaps=(),
    design={"kind": "sized", "k": 2},
    blocks=((0, 0),),
    sources=("a", "b"),
)
PAIRS = [members for members in SUBSETS if len(members) < 3]


def result(*units: Unit, **behaviour: object) -> PackResult:
    return FakeTrainer(Behaviour(attention=True, replicates=3, **behaviour)).train(Pack(units))  # type: ignore[arg-type]


def units(seed: int = 0) -> list[Unit]:
    return [Unit(members, seed, 0) for members in SUBSETS]


def plain(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows in an order of their own, for comparison."""
    frame = frame.assign(subset=frame["subset"].map(tuple))
    return frame.sort_values([name for name in (*KEY, "other") if name in frame]).reset_index(drop=True)


def site(place: str, subsets: list[tuple[str, ...]], seed: int = 0, context: Context = CONTEXT) -> Ledger:
    ledger = Ledger(place)
    trainer = FakeTrainer(Behaviour(attention=True))
    for start in range(0, len(subsets), 4):
        pack = Pack(tuple(Unit(members, seed, 0) for members in subsets[start : start + 4]))
        ledger.append(trainer.train(pack), context)
    return ledger


class Crash(BaseException):
    """The process dies here."""


class Mortal:
    """A storage whose process dies before its n-th writing step; `left` None lives for ever."""

    def __init__(self, inner: Storage) -> None:
        self.inner = inner
        self.place, self.abreast = inner.place, inner.abreast
        self.left: int | None = None

    def _step(self) -> None:
        if self.left is not None:
            if self.left == 0:
                raise Crash
            self.left -= 1

    def put(self, key: str, data: Any) -> None:
        self._step()
        self.inner.put(key, data)

    def remove(self, keys: Any) -> None:
        for key in keys:
            self._step()
            self.inner.remove([key])

    def move(self, key: str, target: str) -> None:
        self._step()
        self.inner.move(key, target)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)
