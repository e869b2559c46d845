"""What an expansion says: the best combination of each source task, how it was reached, and what sharing saved."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Protocol, TypeAlias, get_args

from tim_search.ledger.table import ScoreTable
from tim_search.plans.differences import Spread
from tim_search.types import BadInput, Subset, near, some

#: When a set of tasks improves on another. "paper": its mean score is higher; with noisy scores something nearly always
#: is. "lower_bound": the lower end of the interval of the paired difference is above zero.
Rule: TypeAlias = Literal["lower_bound", "paper"]
RULES: tuple[Rule, ...] = get_args(Rule)

#: Tasks in the largest set, where nothing else is said (M3H paper, section 4.3).
MAX_SIZE = 3


@dataclass(frozen=True, slots=True)
class Candidate:
    """A combination that was looked at for a source: its score, and its gain over the source trained alone."""

    subset: Subset
    score: float
    gain: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Step:
    """One level of a source's search.

    Attributes:
        size: tasks in a set of this level.
        beam: the sets that go on, best first; empty where none improves.
        tried: sets of this level that have a score.
        failed: sets of this level that were trained in vain.
        missing: sets of this level that are not trained yet.
    """

    size: int
    beam: tuple[Candidate, ...]
    tried: int
    failed: int
    missing: int


@dataclass(frozen=True, slots=True)
class Expansion:
    """The best combination of one source task. All scores are in the source's metric, higher is better.

    Attributes:
        source: the task whose score is to be improved.
        best: the best set that the rule accepts; the source alone where no set improves on it.
        score: mean score of `best` over the blocks; NaN where its training failed or is missing.
        single_score: the same of the source trained alone.
        gain: `score - single_score`; 0 where `best` is the source alone.
        low, high: confidence interval of the gain; NaN where there is none (see `differences.difference`), or nothing
            to compare.
        holds: whether the interval lies above zero. False also where there is no interval.
        spread: what the interval is made from.
        leader: the highest-scoring combination of two or more tasks that was looked at, accepted or not.
        steps: the levels, smallest sets first.
        reason: why the search of this source ended, in words.
        trainings_alone: trainings (subsets times blocks) that this source needs by itself, as far as it has come.
        complete: False while subsets it needs are not in the table.
    """

    source: str
    best: Subset
    score: float
    single_score: float
    gain: float
    low: float
    high: float
    holds: bool
    spread: Spread
    leader: Candidate | None
    steps: tuple[Step, ...]
    reason: str
    trainings_alone: int
    complete: bool

    def alone(self, reason: str) -> Expansion:
        """The same where no combination may be named, for this reason."""
        nothing: dict[str, Any] = {"gain": 0.0, "low": math.nan, "high": math.nan, "holds": False, "spread": "nothing"}
        return replace(
            self, best=(self.source,), score=self.single_score, leader=None, steps=(), reason=reason, **nothing
        )


@dataclass(frozen=True, slots=True)
class Sharing:
    """What searching all sources together saves. Counts are trainings: subsets times blocks.

    Attributes:
        alone: trainings each source would need by itself.
        shared: trainings of the one shared search.
    """

    alone: dict[str, int]
    shared: int

    @property
    def total_alone(self) -> int:
        """Trainings of all sources, each by itself."""
        return sum(self.alone.values())

    @property
    def saved(self) -> int:
        """Trainings that sharing saves."""
        return self.total_alone - self.shared


class Expander(Protocol):
    """What names the best combination of each source task, from the scores there are.

    Attributes:
        title: what it does, for people.
        rule: when a set improves on another.
    """

    title: ClassVar[str]

    @property
    def rule(self) -> Rule: ...

    def result(self, table: ScoreTable) -> list[Expansion]:
        """The expansion of every source, in their order, as far as the table goes."""
        ...

    def sharing(self, table: ScoreTable) -> Sharing:
        """How many trainings the sources need by themselves and together, as far as the table goes."""
        ...


def rows(expansions: Iterable[Expansion]) -> list[dict[str, Any]]:
    """One flat record a source, for tables and JSON: subsets as "a + b"."""
    return [_row(expansion, expansion.leader) for expansion in expansions]


def _row(expansion: Expansion, leader: Candidate | None) -> dict[str, Any]:
    numbers = ("score", "single_score", "gain", "low", "high", "holds", "spread")
    return {
        "source": expansion.source,
        "best": " + ".join(expansion.best),
        "size": len(expansion.best),
        **{name: getattr(expansion, name) for name in numbers},
        "leader": " + ".join(leader.subset) if leader else "",
        "leader_gain": leader.gain if leader else math.nan,
        "leader_low": leader.low if leader else math.nan,
        "leader_high": leader.high if leader else math.nan,
        "trainings_alone": expansion.trainings_alone,
        "complete": expansion.complete,
        "reason": expansion.reason,
    }


def check_settings(
    sources: Sequence[str], tasks: Sequence[str], max_size: int, rule: str, confidence: float, tolerance: float
) -> None:
    """Raise BadInput for settings of an expansion (see `greedy.Greedy`) that make no search."""
    for field, names in (("sources", sources), ("tasks", tasks)):
        if not names or len(set(names)) < len(names):
            raise BadInput(f"greedy expansion: {field} must be one or more distinct task names, got {list(names)}.")
    unknown = [name for name in sources if name not in tasks]
    if unknown:
        raise BadInput(
            f"greedy expansion: sources {some(unknown)} are not among the tasks of the search, {some(tasks, 20)}."
            f"{near(unknown[0], tasks)} "
            "Add them to the tasks or leave them out of the sources."
        )
    if max_size < 2:
        raise BadInput(f"greedy expansion: max_size must be 2 or more tasks, got {max_size}.")
    if rule not in RULES:
        raise BadInput(f"greedy expansion: rule must be one of {list(RULES)}, got {rule!r}.")
    if not 0 < confidence < 1:
        raise BadInput(f"greedy expansion: confidence must lie between 0 and 1, got {confidence}.")
    if not tolerance >= 0 or math.isinf(tolerance):
        raise BadInput(f"greedy expansion: tolerance must be 0 or a number above it, got {tolerance}.")
