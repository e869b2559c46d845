"""Settings of its own for every subset of a search (`tuning: {scope: per_subset}`): what is tried, and what is chosen.

Every subset is trained with every combination of the listed settings, in every block (seed, fold) of the search. These
trainings are ordinary ones: their rows lie in the ledger under the context of their settings. The search itself has a
context of its own, which names the space and the blocks; there the answer of a unit is that of the combination chosen
for its subset. To a plan, an estimator or a reader such an answer is a score like any other.

A choice and the score it leads to must not rest on the same patients: the best of several noisy scores is too high by
itself. So the combination whose score is taken in a block is chosen by the scores on all other folds, and a subset may
have another combination in each fold. Every fold is trained anyway; only the choice is made several times.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from tim_search.ledger.ledger import Ledger
from tim_search.ledger.table import lay_out
from tim_search.types import Attention, Context, Pack, PackResult, Score, Subset, Task, Unit, canonical

if TYPE_CHECKING:
    import pandas as pd

#: Where the settings of a search's context say what is tried; no setting of a network can have this name.
KEY = "per subset"

_Score = TypeVar("_Score", float, NDArray[np.float64])

_UNIT = ("subset", "seed", "fold")
_SCORE = (*_UNIT, "task", "metric", "part", "score", "status", "error", "primary", "replicates", "seconds")


@dataclass(frozen=True)
class PerSubset:
    """What a search compares for each of its subsets.

    Attributes:
        context: of the search (see `context_of_search`).
        space: name of a setting -> the values it may take.
        blocks: (seed, fold) pairs in which every combination is trained.
    """

    context: Context
    space: Mapping[str, Sequence[Any]]
    blocks: tuple[tuple[int, int], ...]

    @cached_property
    def values(self) -> tuple[dict[str, Any], ...]:
        """Every combination of settings, V of them, in the order of the space."""
        return tuple(dict(zip(self.space, values, strict=True)) for values in itertools.product(*self.space.values()))

    @property
    def note(self) -> str:
        """What the reader of a score must know, in words."""
        return (
            f"Every subset has settings of its own, the best of {len(self.values)} combinations of "
            f"{' and '.join(self.space)} by the scores on the other folds: a difference between two subsets is that of "
            "their tasks and of what tuning makes of them. The patients of a fold helped to train the networks that "
            "its choice compared, so a trace of optimism may be left."
        )

    def settings_of(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """All settings of the network with these values."""
        return {**{name: value for name, value in json.loads(self.context.settings).items() if name != KEY}, **values}

    def context_of(self, values: Mapping[str, Any]) -> Context:
        """Where the ledger keeps the trainings with these values: the context of a search that has these settings."""
        return replace(self.context, settings=canonical(self.settings_of(values)))

    def lacking(self, ledger: Ledger, subsets: Sequence[Subset]) -> list[Subset]:
        """Those of the subsets that are not trained yet with every combination in every block."""
        units = {members: {Unit(members, *block) for block in self.blocks} for members in subsets}
        held = [ledger.done(self.context_of(values).key) for values in self.values]
        return [members for members in units if not all(units[members] <= done for done in held)]

    def trained(self, ledger: Ledger, wanted: Callable[[Subset], bool]) -> tuple[int, float, datetime | None]:
        """Trainings of wanted subsets over all combinations and blocks: how many, their seconds, and the latest."""
        blocks = set(self.blocks)
        columns = ("seconds", "created")
        trainings: list[dict[str, Any]] = []
        for values in self.values:
            rows = ledger.scores(self.context_of(values).key, part=None, columns=(*_UNIT, *columns))
            trained = dict(_by_unit(rows, columns))  # every row of a unit tells the same
            trainings += [row for unit, row in trained.items() if wanted(unit.subset) and _block(unit) in blocks]
        latest = max((row["created"] for row in trainings), default=None)
        return len(trainings), math.fsum(row["seconds"] for row in trainings), latest

    def skills(
        self, ledger: Ledger, tasks: Mapping[str, Task], subsets: Sequence[Subset], control: str | None = None
    ) -> NDArray[np.float64]:
        """(V, len(subsets), blocks) mean skill of each unit's tasks; NaN where one failed or is not trained yet."""
        skills = np.full((len(self.values), len(subsets), len(self.blocks)), np.nan)
        for number, values in enumerate(self.values):
            # Every part: which patients judge a unit follows from its fold.
            table = lay_out(ledger.sheet(self.context_of(values).key, part=None), tuple(tasks), self.blocks)
            for row, members in enumerate(subsets):
                if members in table.rows:
                    reached = table.scores[table.rows[members]]
                    each = [
                        skill(tasks[name].metric, reached[:, table.tasks.index(name)])
                        for name in counted(members, tasks, control)
                    ]
                    skills[number, row] = np.mean(each, axis=0)
        return skills

    def answers(
        self, ledger: Ledger, tasks: Mapping[str, Task], subsets: Sequence[Subset], control: str | None = None
    ) -> list[PackResult]:
        """What the search's own context holds of subsets that are trained with every combination: a result a block.

        Each row is that of the chosen combination, but for `seconds`: the time that all combinations took, because so
        much was the price of the answer.
        """
        frames = self._frames(ledger, subsets)
        chosen = choose(self.skills(ledger, tasks, subsets, control), [fold for _, fold in self.blocks])
        taken = {
            Unit(members, *block): int(chosen[row, layer])
            for row, members in enumerate(subsets)
            for layer, block in enumerate(self.blocks)
        }
        seconds = dict.fromkeys(taken, 0.0)
        scores: list[Score] = []
        attention: list[Attention] = []
        for number, (values, frame) in enumerate(zip(self.values, frames, strict=True)):
            for unit, row in dict(_by_unit(frame, ("seconds",))).items():
                seconds[unit] += float(row["seconds"])
            for unit, row in _by_unit(frame, _SCORE[len(_UNIT) :]):
                if taken[unit] == number:
                    row["value"], draws = row.pop("score"), row.pop("replicates")
                    scores.append(Score(unit, **row, replicates=() if draws is None else tuple(map(float, draws))))
            for unit, row in _by_unit(ledger.attention(self.context_of(values).key), ("task", "other", "weight")):
                if taken.get(unit) == number:
                    attention.append(Attention(unit, **row))
        return [
            PackResult(
                Pack(tuple(Unit(members, *block) for members in subsets)),
                tuple(replace(row, seconds=seconds[row.unit]) for row in scores if _block(row.unit) == block),
                tuple(row for row in attention if _block(row.unit) == block),
            )
            for block in self.blocks
        ]

    def records(
        self, ledger: Ledger, tasks: Mapping[str, Task], subsets: Sequence[Subset], control: str | None = None
    ) -> list[dict[str, Any]]:
        """What was compared for each subset, as `choices.write` records a study, and what its blocks chose.

        `choice` is the best over all blocks, which a model has that is trained on the whole training part; `by_block`
        the one of each block, chosen on the other folds.
        """
        skills = self.skills(ledger, tasks, subsets, control)
        chosen = choose(skills, [fold for _, fold in self.blocks])
        return [
            {
                "subset": list(members),
                "choice": dict(self.values[at]),
                "by_block": [dict(self.values[number]) for number in chosen[row]],
                "space": {name: list(values) for name, values in self.space.items()},
                "blocks": [list(block) for block in self.blocks],
                "trials": [
                    {
                        "values": dict(values),
                        "skill": _number(skills[number, row].mean()),
                        "by_fold": [_number(value) for value in skills[number, row]],
                    }
                    for number, values in enumerate(self.values)
                ],
            }
            for row, (members, at) in enumerate(zip(subsets, best(skills).tolist(), strict=True))
        ]

    def _frames(self, ledger: Ledger, subsets: Sequence[Subset]) -> list[pd.DataFrame]:
        """The rows of the subsets in the blocks, a frame for each combination."""
        wanted, blocks = set(subsets), set(self.blocks)
        frames = []
        for values in self.values:
            # Every part: which patients judge a unit follows from its fold.
            rows = ledger.scores(self.context_of(values).key, primary=False, part=None, columns=_SCORE)
            units = zip(*(rows[name].tolist() for name in _UNIT), strict=True)
            inside = [tuple(members) in wanted and (seed, fold) in blocks for members, seed, fold in units]
            frames.append(rows[np.array(inside, bool)])
        return frames


def of(context: Context) -> PerSubset | None:
    """What the search of a context compares for each subset; None where all subsets share their settings."""
    plain = json.loads(context.settings).get(KEY)
    if plain is None:
        return None
    return PerSubset(context, plain["space"], tuple((int(seed), int(fold)) for seed, fold in plain["blocks"]))


def context_of_search(base: Context, space: Mapping[str, Sequence[Any]], blocks: Iterable[tuple[int, int]]) -> Context:
    """The context of a search that tunes every subset, from the one it would have untuned.

    The space and the blocks are part of it: with others, other settings might have been chosen.
    """
    settings = {name: value for name, value in json.loads(base.settings).items() if name not in space}
    # In an order of its own, numbers before words: a space that is written the other way round is the same one.
    listed = {name: sorted(values, key=lambda value: (isinstance(value, str), value)) for name, values in space.items()}
    settings[KEY] = {"space": listed, "blocks": [list(block) for block in blocks]}
    return replace(base, settings=canonical(settings))


def choose(skills: NDArray[np.float64], folds: Sequence[int]) -> NDArray[np.int64]:
    """The combination of each subset in each block, chosen by the scores on all folds but that of the block.

    The highest mean skill wins, of equal ones the first. A combination with a failed training anywhere stands behind
    all that have fewer: that a training fails is known without a look at the patients who judge it.

    Args:
        skills: (V, B, n) by combination, subset and block; NaN where a training failed.
        folds: of the n blocks, two different ones at least.

    Returns:
        (B, n) places in the first axis.
    """
    fold = np.asarray(folds)
    chosen = np.zeros(skills.shape[1:], np.int64)
    for number in np.unique(fold):
        chosen[:, fold == number] = _first(skills, fold != number)[:, None]
    return chosen


def best(skills: NDArray[np.float64]) -> NDArray[np.int64]:
    """(B,) the combination of each subset by its scores in all blocks; `skills` as of `choose`."""
    return _first(skills, np.ones(skills.shape[2], bool))


def skill(metric: str, score: _Score) -> _Score:
    """A score, or an array of them, on a scale that ends at perfection (1).

    For AUROC and R2 it begins at knowing nothing (0). What knowing nothing reaches by AUPRC or F1 depends on the
    labels; these scores stay as they are.
    """
    return 2 * score - 1 if metric.endswith("auroc") else score


def counted(members: Iterable[str], tasks: Mapping[str, Task], control: str | None = None) -> list[str]:
    """The tasks of a subset that speak for its settings: clusterings only where there is no other, a control never.

    A subset of nothing but a control has its settings by that one.
    """
    real = [name for name in members if name != control] or list(members)
    return [name for name in real if tasks[name].kind != "clustering"] or real


def _first(skills: NDArray[np.float64], judging: NDArray[np.bool_]) -> NDArray[np.int64]:
    failures = np.isnan(skills).sum(axis=2)
    sum_of_finite = np.where(np.isnan(skills), 0.0, skills)[:, :, judging].sum(axis=2)
    number = (~np.isnan(skills[:, :, judging])).sum(axis=2)
    mean = np.where(number > 0, sum_of_finite / np.maximum(number, 1), -np.inf)
    return np.asarray(np.lexsort((-mean, failures), axis=0)[0], np.int64)


def _by_unit(frame: pd.DataFrame, columns: Sequence[str]) -> Iterable[tuple[Unit, dict[str, Any]]]:
    for members, seed, fold, *row in zip(*(frame[name].tolist() for name in (*_UNIT, *columns)), strict=True):
        yield Unit(tuple(members), seed, fold), dict(zip(columns, row, strict=True))


def _block(unit: Unit) -> tuple[int, int]:
    return unit.seed, unit.fold


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
