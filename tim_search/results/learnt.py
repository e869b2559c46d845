"""Has the network learnt? Each task alone beside the reference models, on the same patients."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from tim_search.ledger.ledger import Ledger
from tim_search.ledger.table import ScoreTable, lay_out
from tim_search.types import Context, Task
from tim_search.types.references import REFERENCES, Reference, context_of, folds_of, tasks_of

#: How far a network may stay behind the best reference, in the task's metric, and count as having learnt.
MARGIN = 0.03

Verdict: TypeAlias = Literal["learnt", "has not learnt", "cannot be told"]


@dataclass(frozen=True, slots=True)
class Behind:
    """A network alone against a reference: the difference of their scores, higher is better for the network.

    Attributes:
        value: mean over the blocks.
        low, high: 95 % interval over patients, the trainings taken as they are; NaN where no replicates were kept.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Learnt:
    """What the references say of a task trained alone.

    Attributes:
        task: its name.
        verdict: "learnt": better than no model, and not surely more than `MARGIN` behind the best reference.
            "has not learnt": surely further behind than that; or no better than no model where a reference is.
        alone: mean score of the network trained on this task alone; NaN where it is missing.
        references: mean score by reference, of those that are there.
        best: the reference with the highest score beside "none"; "" where there is none.
        behind: the network against the best reference.
        reason: the verdict in words.
    """

    task: str
    verdict: Verdict
    alone: float
    references: Mapping[Reference, float]
    best: str
    behind: Behind
    reason: str


_UNKNOWN = Behind(math.nan, math.nan, math.nan)


def learnt(
    table: ScoreTable, ledger: Ledger, context: Context, tasks: Mapping[str, Task], control: str | None = None
) -> dict[str, Learnt]:
    """A verdict by task, of the tasks that have references in the ledger; {} of a search without them.

    Args:
        table: scores of the search with replicates.
        ledger: holds the references.
        context: of the search.
        tasks: of the search by name.
        control: the negative control, which is not judged.
    """
    by_reference = {
        reference: lay_out(
            ledger.sheet(context_of(reference, context).key, part=None, replicates=True),
            tasks_of(reference, tasks, control),
            folds_of(table.blocks),
        )
        for reference in REFERENCES
        if tasks_of(reference, tasks, control)
    }
    verdicts = {}
    for name in tasks:
        scores = {
            reference: rows
            for reference, of_reference in by_reference.items()
            if (rows := _rows(of_reference, name, table.blocks)) is not None
        }
        if scores:
            verdicts[name] = judge(name, _rows(table, name, table.blocks), scores)
    return verdicts


def _rows(table: ScoreTable, task: str, blocks: tuple[tuple[int, int], ...]) -> NDArray[np.float64] | None:
    """float64 (blocks, 1 + R) scores of a task alone and under each weighting; None where any is missing.

    A table of references has a block for each fold; every block of the search takes that of its fold.
    """
    if (task,) not in table.rows or task not in table.tasks:
        return None
    row, column = table.rows[(task,)], table.tasks.index(task)
    places = [table.blocks.index(block) if block in table.blocks else _of_fold(table, block[1]) for block in blocks]
    scores = table.scores[row, places, column][:, None]
    if table.replicates is not None:
        scores = np.concatenate([scores, table.replicates[row, places, column]], axis=1)
    return scores if np.isfinite(scores[:, 0]).all() else None


def _of_fold(table: ScoreTable, fold: int) -> int:
    return next(place for place, block in enumerate(table.blocks) if block[1] == fold)


def judge(task: str, alone: NDArray[np.float64] | None, scores: Mapping[Reference, NDArray[np.float64]]) -> Learnt:
    """The verdict on a task, from float64 (blocks, 1 + R) scores of the network alone and of each reference."""
    means = {reference: float(rows[:, 0].mean()) for reference, rows in scores.items()}
    rivals = [reference for reference in means if reference != "none"]
    best = max(rivals, key=lambda reference: means[reference], default=None)
    if alone is None or best is None:
        reason = "its training alone is missing or failed" if alone is None else "it has no reference model"
        return Learnt(task, "cannot be told", math.nan, means, best or "", _UNKNOWN, reason)
    score, behind = float(alone[:, 0].mean()), _behind(alone, scores[best])
    shown = f"{score:.3f} alone, {best} {means[best]:.3f}"
    above = _behind(alone, scores["none"]) if "none" in scores else None
    if math.isnan(behind.low):
        verdict: Verdict = "cannot be told"
        reason = f"{shown}; no replicates were kept, so nothing says how sure that is"
    elif behind.high < -MARGIN:
        verdict, reason = "has not learnt", f"{shown}: surely more than {MARGIN:g} behind"
    elif above is not None and not above.low > 0:
        useful = _behind(scores[best], scores["none"]).low > 0
        verdict = "has not learnt" if useful else "cannot be told"
        reason = f"{shown}, no model {means['none']:.3f}: not surely better than no model" + (
            "" if useful else ", as the reference is not"
        )
    elif behind.value < -MARGIN:
        verdict, reason = "cannot be told", f"{shown}: behind, but by how much is not sure"
    else:
        verdict, reason = "learnt", shown
    return Learnt(task, verdict, score, means, best, behind, reason)


def _behind(first: NDArray[np.float64], second: NDArray[np.float64]) -> Behind:
    """The paired difference of two models' scores (blocks, 1 + R), with its interval over patients."""
    width = min(first.shape[1], second.shape[1])
    difference = first[:, :width] - second[:, :width]
    value, draws = float(difference[:, 0].mean()), difference[:, 1:].mean(axis=0)
    draws = draws[np.isfinite(draws)]
    if len(draws) < 2:
        return Behind(value, math.nan, math.nan)
    half = float(stats.t.ppf(0.975, len(draws) - 1) * draws.std(ddof=1))
    return Behind(value, value - half, value + half)


def rows(judged: Mapping[str, Learnt]) -> list[dict[str, Any]]:
    """One flat record a task, for tables: its score alone, that of every reference, the verdict and the reason."""
    return [
        {
            "task": task.task,
            "alone": task.alone,
            **{reference: task.references.get(reference, math.nan) for reference in REFERENCES},
            "behind": task.behind.value,
            "low": task.behind.low,
            "high": task.behind.high,
            "verdict": task.verdict,
            "reason": task.reason,
        }
        for task in judged.values()
    ]
