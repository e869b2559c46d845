"""The models that can be chosen, and what each of them gains for each task."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from math import comb
from typing import Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from tim_search.ledger.table import ScoreTable
from tim_search.plans import surrogate
from tim_search.types import BadInput, Subset, some, subset

Gain: TypeAlias = Literal["relative", "absolute"]
GAINS: tuple[Gain, ...] = get_args(Gain)
Array: TypeAlias = NDArray[np.float64]

#: All subsets up to the size limit are candidates where there are no more than this; else trained ones and neighbours.
EVERY = 5000


@dataclass(frozen=True, eq=False)
class Candidates:
    """The models that can be chosen. Rows are subsets, columns the tasks to be served.

    Attributes:
        tasks: M names.
        subsets: N subsets, smallest first, then by name.
        score: float64 (N, M), higher is better; NaN where the model cannot serve the task.
        sd: float64 (N, M): standard deviation of a prediction; 0 where measured.
        measured: bool (N,): trained in every block.
        alone, alone_sd: float64 (M,): the score of each task trained alone, and the same for it.
        alone_measured: bool (M,).
        every: whether all subsets up to the size limit are among them, save those whose training failed.
    """

    tasks: tuple[str, ...]
    subsets: tuple[Subset, ...]
    score: Array
    sd: Array
    measured: NDArray[np.bool_]
    alone: Array
    alone_sd: Array
    alone_measured: NDArray[np.bool_]
    every: bool = True

    def gains(self, gain: Gain = "relative") -> Array:
        """float64 (N, M): score less the score alone, of what could be gained at most if relative; NaN as `score`."""
        return (self.score - self.alone) / self.scale(gain)

    def scale(self, gain: Gain) -> Array:
        """(M,) what a gain is divided by: what the task alone leaves to be won, since every metric ends at 1; or 1."""
        if gain == "absolute":
            return np.ones(len(self.tasks))
        left = 1.0 - self.alone
        if perfect := [name for name, rest in zip(self.tasks, left, strict=True) if rest <= 0]:
            raise BadInput(
                f"gain: relative gains are shares of what a task trained alone leaves to be won, and "
                f"{some(perfect)} trained alone reach 1 already. Use absolute gains (--gain absolute), or leave these "
                "tasks out."
            )
        return left


def by_size(members: Subset) -> tuple[int, Subset]:
    """The key that sorts subsets: the smallest first, then by name."""
    return len(members), members


def first(table: ScoreTable, tasks: tuple[str, ...], largest: int, most: int = EVERY) -> Candidates:
    """All subsets up to the largest size; where these are more than `most`, the trained ones and the single tasks."""
    sizes = range(1, largest + 1)
    every = sum(comb(len(tasks), size) for size in sizes) <= most
    if every:
        wanted = {subset(names) for size in sizes for names in itertools.combinations(tasks, size)}
    else:
        wanted = {members for members in table.rows if len(members) <= largest and set(tasks).issuperset(members)}
        wanted |= {(name,) for name in tasks}
        # Two ways to deal the tasks out keep small budgets feasible; the neighbours of what is chosen improve on them.
        n = math.ceil(len(tasks) / largest)
        wanted |= {subset(tasks[start::n]) for start in range(n)}
        wanted |= {subset(tasks[start : start + largest]) for start in range(0, len(tasks), largest)}
    return scored(table, tasks, wanted, every)


def scored(table: ScoreTable, tasks: tuple[str, ...], subsets: Iterable[Subset], every: bool) -> Candidates:
    """Scores of these subsets: the mean over the blocks where all blocks trained them, else the surrogate's."""
    ordered = tuple(sorted(set(subsets), key=by_size))
    column = {name: index for index, name in enumerate(table.tasks)}
    members = np.zeros((len(ordered), len(table.tasks)), bool)
    for row, names in enumerate(ordered):
        members[row, [column[name] for name in names]] = True
    means, complete = table.mean(), table.complete
    measured = np.array([names in complete for names in ordered], bool)
    rows = [table.rows[names] for names in itertools.compress(ordered, measured)]
    at = [column[name] for name in tasks]
    score, sd = np.full((2, len(ordered), len(tasks)), np.nan)
    score[measured] = means[rows][:, at]
    alone, alone_sd = np.full((2, len(tasks)), np.nan)
    for i, name in enumerate(tasks):
        if (name,) in complete:
            alone[i] = means[table.rows[name,], column[name]]
    alone_measured = np.isfinite(alone)
    for i, name in enumerate(tasks):
        # A task whose training alone failed keeps its place by the prediction.
        single = members[:1] & False
        single[0, column[name]] = True
        guess = ~measured & members[:, column[name]]
        if guess.any() or np.isnan(alone[i]):
            mean, spread = surrogate.predict(table, name, np.concatenate([members[guess], single]))
            score[guess, i], sd[guess, i] = mean[:-1], spread[:-1]
            if np.isnan(alone[i]):
                alone[i], alone_sd[i] = mean[-1], spread[-1]
    if unknown := [name for name, value in zip(tasks, alone, strict=True) if np.isnan(value)]:
        raise BadInput(
            f"group: there is no score of {some(unknown)} trained alone, and too few of its subsets are trained "
            "to predict one. Train more of the search, then choose again."
        )
    return Candidates(
        tasks, ordered, score, np.nan_to_num(sd), measured, alone, np.nan_to_num(alone_sd), alone_measured, every
    )


def extended(table: ScoreTable, candidates: Candidates, more: set[Subset]) -> Candidates:
    """The candidates and further ones."""
    added = scored(table, candidates.tasks, more, candidates.every)
    subsets = candidates.subsets + added.subsets
    order = sorted(range(len(subsets)), key=lambda row: by_size(subsets[row]))
    return replace(
        candidates,
        subsets=tuple(subsets[row] for row in order),
        score=np.concatenate([candidates.score, added.score])[order],
        sd=np.concatenate([candidates.sd, added.sd])[order],
        measured=np.concatenate([candidates.measured, added.measured])[order],
    )


def neighbours(chosen: Iterable[Subset], tasks: Sequence[str], largest: int) -> set[Subset]:
    """Subsets with one task more, one less, or (at the size limit) one exchanged."""
    near: set[Subset] = set()
    for members in chosen:
        others = [name for name in tasks if name not in members]
        smaller = [tuple(name for name in members if name != gone) for gone in members]
        near.update(fewer for fewer in smaller if fewer)
        bases = [members] if len(members) < largest else smaller
        near.update(subset((*base, name)) for base in bases for name in others)
    return near
