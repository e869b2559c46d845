"""Scores where counts of few patients are hidden: told in steps so wide that no count can be had from their digits.

An AUROC is a number of pairs, divided by positives times negatives: in full digits it gives both back. Of m rows with
a label, whatever the positives are, some AUROC lies in every interval of 1 / (m - 1); in steps that wide it excludes no
number of them. A score goes up or down to a step at random, with the chances that keep its mean: means over subsets and
blocks stay unbiased, and what the steps add to their errors shows in the spread between blocks and replicates.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from tim_search.gates.small_cells import Count
from tim_search.types import Score

#: Widths of steps; each divides 1, and none tells more of the rows than their order of size.
_STEPS = tuple(digit / 10**place for place in (4, 3, 2, 1) for digit in (1, 2, 5))[:-1]
#: Columns of tables that hold scores, or what is computed from one.
SCORES = ("score", "value", "sd", "low", "high", "mean")
#: Scores of tasks of other kinds are no shares of patients or pairs.
_COUNTING = ("binary", "multiclass", "multilabel")


@dataclass(frozen=True)
class Telling:
    """How scores are told.

    Attributes:
        steps: task -> the step of its scores; a task that is not in it is told in full digits.
        key: hangs on the patients' data, so that only who has them can draw the same bootstrap weights and directions;
            "" where nothing is hidden.
    """

    steps: Mapping[str, float] = field(default_factory=dict)
    key: str = ""

    def scores(self, rows: Sequence[Score], *, by_seed: bool = True) -> list[Score]:
        """Rows of a ledger as they may be told.

        Of a task that is told in steps the other metrics are left out, which together with the first would tell more,
        and so are replicates of which some have no score: how many these are tells how rare the outcome is.

        Args:
            by_seed: whether a value hangs on the seed; one that does not goes to the same step with every seed.
        """
        return [self._told(row, by_seed) for row in rows if row.primary or row.task not in self.steps or _other(row)]

    def _told(self, row: Score, by_seed: bool) -> Score:
        if row.task not in self.steps or row.metric == "chosen_epoch":
            return row
        unit = row.unit
        name = ("+".join(unit.subset), unit.seed if by_seed else "", unit.fold, row.task, row.metric)
        finite = all(map(math.isfinite, row.replicates))
        value, *replicates = self.values(row.task, [row.value, *(row.replicates if finite else ())], *name)
        return replace(row, value=value, replicates=tuple(replicates))

    def values(self, task: str, values: Sequence[float], *name: object) -> list[float]:
        """Scores of one task that belong together, each at a step; `name` tells them from all others."""
        if task not in self.steps:
            return list(values)
        step, digest = self.steps[task], hashlib.sha256("\0".join(map(str, (self.key, *name))).encode()).digest()
        chance = np.random.default_rng(np.frombuffer(digest, np.uint32)).random(len(values))
        return [round(float(each), 10) for each in np.floor(np.array(values, float) / step + chance) * step]

    def rows(self, rows: Iterable[Mapping[Any, Any]]) -> list[dict[str, Any]]:
        """Rows of a table as they may be told; each has its `task`, and scores with names out of `SCORES`."""
        shown = []
        for row in rows:
            if row["task"] in self.steps and not row.get("primary", True):
                continue
            names = [name for name in SCORES if isinstance(row.get(name), float)]
            others = [value for name, value in row.items() if name not in SCORES]
            values = self.values(row["task"], [row[name] for name in names], *others)
            shown.append({**row, **dict(zip(names, values, strict=True))})
        return shown


def of_record(record: Mapping[str, Any], small: int, key: str) -> Telling:
    """How the scores of a cohort's tasks are told, by what may be told of it.

    A binary task of which no count is hidden is told in full digits. Of classes and labels the record has no counts by
    part, so those of a fold are hidden always.

    Args:
        record: without counts below `small` (`small_cells.of_cohort`), so that the steps tell nothing more.
        small: 0 hides nothing.
        key: see `Telling`.
    """
    if not small:
        return Telling()
    return Telling({task["name"]: _step(task, record) for task in record["tasks"] if _hides(task)}, key)


def _other(row: Score) -> bool:
    """Whether a row is no metric beside the first one of the same predictions."""
    return row.metric == "chosen_epoch" or row.metric.startswith("ensemble_") or row.metric.endswith("_paper_sd")


def _hides(task: Mapping[str, Any]) -> bool:
    if task["kind"] not in _COUNTING:
        return False
    counts = [task["labelled"], *(value for _, value in task["classes"])]
    counts += [part[name] for part in task["parts"] for name in ("labelled", "positive")]
    return task["kind"] != "binary" or not task["parts"] or any(isinstance(value, str) for value in counts)


def _step(task: Mapping[str, Any], record: Mapping[str, Any]) -> float:
    """For the part with the fewest rows that have a label."""
    whole, sizes = _least(record["samples"]), [_least(part["samples"]) for part in record["parts"]]
    shares = [size / max(1, whole) for size in sizes] or [1 / 10]
    labelled: list[float] = [_least(part["labelled"]) for part in task["parts"]] or [
        share * _least(task["labelled"]) / 2 for share in shares
    ]
    return step_of(min(labelled))


def step_of(rows: float) -> float:
    """The step in which a score of so many rows with a label is told, so that it tells no count."""
    wanted = 1 / max(1.0, rows - 1)
    return next((step for step in _STEPS if step >= wanted), _STEPS[-1])


def _least(value: Count) -> int:
    """About the least that a count can be which is told so."""
    if isinstance(value, int):
        return value
    number = int(re.sub(r"\D", "", value) or 0)
    return 1 if value.startswith("<") else number if value.startswith("≥") else max(1, number * 3 // 4)
