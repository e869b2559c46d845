"""The best combination of each source task among all that were trained, whoever asked for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tim_search.ledger.table import ScoreTable
from tim_search.plans.expansion import Expansion, Rule, Sharing, check_settings
from tim_search.plans.source_scores import SourceScores, by_source


@dataclass(frozen=True)
class BestTrained:
    """What a search that trains subsets of any size comes to; attributes as of `Greedy`.

    With the rule "lower_bound" the best is the highest-scoring of the sets whose gain over the source alone is above
    the tolerance with its whole interval.
    """

    sources: tuple[str, ...]
    tasks: tuple[str, ...]
    max_size: int
    rule: Rule = "lower_bound"
    confidence: float = 0.95
    tolerance: float = 0.0
    title: ClassVar[str] = "Best of what was trained"

    def __post_init__(self) -> None:
        check_settings(self.sources, self.tasks, self.max_size, self.rule, self.confidence, self.tolerance)

    def result(self, table: ScoreTable) -> list[Expansion]:
        """The best set of every source, in the order of `sources`."""
        return [self._best(scores) for scores in by_source(table, self.sources, self.tasks, self.confidence)]

    def sharing(self, table: ScoreTable) -> Sharing:
        """How many of the trainings hold each source, and how many there are."""
        shared = sum(not set(members).isdisjoint(self.sources) for members in table.complete) * len(table.blocks)
        return Sharing({expansion.source: expansion.trainings_alone for expansion in self.result(table)}, shared)

    def _best(self, scores: SourceScores) -> Expansion:
        single = scores.alone
        with_source = [members for members in scores.complete if scores.source in members]
        names = set(self.tasks)
        sets = [members for members in with_source if 1 < len(members) <= self.max_size and names.issuperset(members)]
        ranked = scores.ranked(sets)
        if self.rule == "lower_bound":
            better = [members for members in ranked if scores.gain(members, single).low > self.tolerance]
        else:
            better = [members for members in ranked if scores.score(members) > scores.score(single) + self.tolerance]
        shown = "shown to be better" if self.rule == "lower_bound" else "better"
        reason = f"the best of {len(sets)} combinations that were trained"
        if not better:
            reason = f"none of {len(sets)} combinations that were trained is {shown} than {scores.source}"
        if single not in scores.complete:
            reason = f"waiting for {scores.source} alone, which is not trained yet"
        best, leader = better[0] if better else single, ranked[0] if ranked else None
        return scores.expansion(best, leader, (), reason, len(with_source), single in scores.complete)
