"""The score table as one source task sees it: scores and gains of the subsets that hold it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tim_search.ledger.table import ScoreTable
from tim_search.plans.differences import UNKNOWN, Difference, difference
from tim_search.plans.expansion import Candidate, Expansion, Step
from tim_search.types import BadInput, Subset, some


@dataclass(frozen=True)
class SourceScores:
    """Scores of one source task.

    Attributes:
        source: its name.
        table: scores of all tasks.
        means: float64 (B, M), `table.mean()`.
        complete: `table.complete`.
        confidence: coverage of the intervals of gains.
    """

    source: str
    table: ScoreTable
    means: NDArray[np.float64]
    complete: set[Subset]
    confidence: float

    @property
    def alone(self) -> Subset:
        """The source by itself."""
        return (self.source,)

    def score(self, members: Subset) -> float:
        """Mean over the blocks; NaN where the training failed or is missing."""
        if members not in self.complete:
            return math.nan
        return float(self.means[self.table.rows[members], self.table.tasks.index(self.source)])

    def gain(self, members: Subset, over: Subset) -> Difference:
        """How much better the source does with one subset than with another; unknown where one is not trained."""
        if {members, over} <= self.complete:
            return difference(self.table, members, over, self.source, self.confidence)
        return UNKNOWN

    def ranked(self, sets: Iterable[Subset]) -> list[Subset]:
        """The sets that have a score, best first; the names break ties, so that equal scores give equal answers."""
        scores = {members: self.score(members) for members in sets}
        return sorted((m for m in scores if not math.isnan(scores[m])), key=lambda m: (-scores[m], m))

    def candidate(self, members: Subset) -> Candidate:
        """A set with its score and its gain over the source alone."""
        gain = self.gain(members, self.alone)
        return Candidate(members, self.score(members), gain.value, gain.low, gain.high)

    def expansion(
        self, best: Subset, leader: Subset | None, steps: tuple[Step, ...], reason: str, needed: int, complete: bool
    ) -> Expansion:
        """The expansion of the source, `needed` the number of subsets that it took; the rest as of `Expansion`."""
        gain = Difference(0.0, math.nan, math.nan, "nothing")
        if best != self.alone:
            gain = self.gain(best, self.alone)
        return Expansion(
            source=self.source,
            best=best,
            score=self.score(best),
            single_score=self.score(self.alone),
            gain=gain.value,
            low=gain.low,
            high=gain.high,
            holds=gain.low > 0,
            spread=gain.spread,
            leader=self.candidate(leader) if leader else None,
            steps=steps,
            reason=reason,
            trainings_alone=needed * len(self.table.blocks),
            complete=complete,
        )


def by_source(table: ScoreTable, sources: Sequence[str], tasks: Sequence[str], confidence: float) -> list[SourceScores]:
    """The scores of each source; raises BadInput where the table lacks one of the tasks."""
    absent = [name for name in tasks if name not in table.tasks]
    if absent:
        raise BadInput(
            f"greedy expansion: the scores hold no tasks named {some(absent)}; they hold {some(table.tasks, 20)}. "
            "Read the ledger of a search that has these tasks, or leave them out."
        )
    means, complete = table.mean(), table.complete
    return [SourceScores(source, table, means, complete, confidence) for source in sources]
