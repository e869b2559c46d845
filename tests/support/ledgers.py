"""Subsets, scores and a mortal storage for tests of ledgers."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, combinations
from typing import Any

import numpy as np
import pandas as pd

from tests.support.fake_trainer import CONTEXT, TASKS, Behaviour, FakeTrainer
from tim_search.ledger.ledger import Ledger
from tim_search.ledger.storage import Storage
from tim_search.ledger.table import ScoreTable, lay_out
from tim_search.loop.manifest import Manifest
from tim_search.types import Context, Pack, PackResult, Sheet, Subset, Unit

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


def score_table(
    frame: pd.DataFrame,
    tasks: Sequence[str],
    blocks: Sequence[tuple[int, int]] | None = None,
    *,
    replicates: bool = False,
) -> ScoreTable:
    """A table from rows of a frame, row by row: what `lay_out` must give from a sheet.

    Args:
        frame: rows of one context with columns subset (sequence of str), seed, fold, task, score, status, and
            replicates (sequence of float) where asked for; primary validation rows only (see `Ledger.scores`).
        tasks: M task names; rows of subsets with a task outside them are left out.
        blocks: (seed, fold) pairs to lay out; None takes all that occur, sorted.
        replicates: also lay out the bootstrap replicates; rows without them are NaN.
    """
    objects = frame["subset"].tolist()
    # Rows of one subset mostly share one object (see `Ledger.scores`): Python works once a subset, not once a row.
    ids = np.fromiter(map(id, objects), np.int64, len(objects))
    _, first, same = np.unique(ids, return_index=True, return_inverse=True)
    numbers: dict[Subset, int] = {}
    number_of_object = [numbers.setdefault(tuple(sorted(objects[at])), len(numbers)) for at in first.tolist()]
    codes, words = frame["task"].factorize()
    every = sorted(set().union(words, *numbers))
    place = {name: index for index, name in enumerate(every)}
    membership = np.zeros((len(numbers), len(every)), bool)
    for index, key in enumerate(numbers):
        membership[index, [place[name] for name in key]] = True
    good = (frame["status"] == "ok").to_numpy(bool)
    drawn = None
    if replicates and "replicates" in frame:
        draws = [() if draw is None else draw for draw in frame["replicates"]]
        lengths = np.fromiter(map(len, draws), np.int64, len(draws))
        drawn = lengths, np.fromiter(chain.from_iterable(draws), np.float32, int(lengths.sum()))
    n = len(frame)
    return lay_out(
        Sheet(
            tuple(every),
            membership,
            np.ones(n, np.int64),
            np.array(number_of_object, np.int32)[same] if n else np.zeros(0, np.int32),
            frame["seed"].to_numpy(np.int64),
            frame["fold"].to_numpy(np.int64),
            np.array([place[word] for word in words], np.int32)[codes] if n else np.zeros(0, np.int32),
            np.where(good, frame["score"].to_numpy(float), np.nan),
            drawn,
        ),
        tasks,
        blocks,
    )
