"""Greedy expansion: from single tasks to the best small combination of each source task (M3H paper, section 4.3).

For a source task i: train i alone and every pair {i, j}; keep the best three; add every further task to each of them;
go on until nothing improves or the size limit is reached. All sources share one search, and a subset that several
sources need is trained once.

What is wanted next (`ask`) and what came out (`result`) are both read off the score table, by walking the levels again
on the scores there are. So a search driven live, one replayed from a full ledger, and one read half-way agree wherever
they have seen the same scores.

The scores that choose a combination also measure its gain, so the gain of a chosen combination is optimistic, and each
interval speaks of its one comparison alone. Both are mended on fresh seeds and untouched patients, not here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import comb
from typing import Any, ClassVar

from tim_search.ledger.table import ScoreTable
from tim_search.plans.contract import MOST, Plan
from tim_search.plans.expansion import MAX_SIZE, Expander, Expansion, Rule, Sharing, Step, check_settings
from tim_search.plans.source_scores import SourceScores, by_source
from tim_search.types import BadInput, Subset, Unit, subset


@dataclass(frozen=True)
class Greedy(Plan):
    """Greedy expansion of many sources at once, as a plan: `ask` for what to train, `result` for what came out.

    Attributes:
        sources: tasks whose scores are to be improved.
        tasks: tasks that may be combined; holds the sources.
        beam: sets that go on from a level (3 in the paper).
        max_size: tasks in the largest set (the paper stops at 3).
        rule: when a set improves on the best so far (see `Rule`).
        confidence: coverage of the intervals; the lower end of a 95 % interval is exceeded by chance once in 40.
        tolerance: what a gain must exceed, in the source's metric, to count: the mean score's gain with the rule
            "paper", its lower end with "lower_bound".

    Raises BadInput for settings that make no search.
    """

    sources: tuple[str, ...]
    tasks: tuple[str, ...]
    beam: int = 3
    max_size: int = MAX_SIZE
    rule: Rule = "lower_bound"
    confidence: float = 0.95
    tolerance: float = 0.0
    title: ClassVar[str] = "Greedy expansion"

    def __post_init__(self) -> None:
        object.__setattr__(self, "sources", tuple(self.sources))
        object.__setattr__(self, "tasks", tuple(self.tasks))
        if self.beam < 1:
            raise BadInput(f"greedy expansion: beam must be 1 or more sets kept a level, got {self.beam}.")
        if max(self.beam, self.max_size) > MOST:
            raise BadInput(
                f"greedy expansion: beam and max_size may be {MOST:,} at most, got {self.beam} and {self.max_size}."
            )
        check_settings(self.sources, self.tasks, self.max_size, self.rule, self.confidence, self.tolerance)

    def ask(self, table: ScoreTable) -> list[Unit]:
        """See `Plan.ask`: smallest subsets first, those that some source needs, in every block of the table.

        Subsets outside the search are ignored.
        """
        missing = {members for walk in self._walks(table) for members in walk.missing}
        wanted = sorted(missing, key=lambda members: (len(members), members))
        units = [Unit(members, seed, fold) for members in wanted for seed, fold in table.blocks]
        return [unit for unit in units if unit not in table.answered]

    def most(self, blocks: Sequence[tuple[int, int]]) -> int:
        """See `Plan.most`: every subset up to the size limit."""
        return sum(comb(len(self.tasks), size) for size in range(1, self.largest + 1)) * len(blocks)

    @property
    def largest(self) -> int:
        """See `Plan.largest`."""
        return min(self.max_size, len(self.tasks))

    def expander(self, sources: Sequence[str], tasks: Sequence[str], **settings: Any) -> Greedy:
        """See `Plan.expander`: itself, with these sources, tasks and settings."""
        return replace(self, sources=tuple(sources), tasks=tuple(tasks), **settings)

    def result(self, table: ScoreTable) -> list[Expansion]:
        """The expansion of every source, in the order of `sources`, as far as the table goes."""
        return [walk.expansion for walk in self._walks(table)]

    def sharing(self, table: ScoreTable) -> Sharing:
        """How many trainings the sources need by themselves and together, as far as the table goes."""
        walks = self._walks(table)
        shared = len({members for walk in walks for members in walk.needed}) * len(table.blocks)
        return Sharing({walk.expansion.source: walk.expansion.trainings_alone for walk in walks}, shared)

    def _walks(self, table: ScoreTable) -> list[_Walk]:
        return [_walk(self, scores) for scores in by_source(table, self.sources, self.tasks, self.confidence)]


def expander(plan: Plan, sources: Sequence[str], tasks: Sequence[str], **settings: Any) -> Expander:
    """What names the best combination of each source of a search: as its plan does, else as the paper does.

    Args:
        plan: of the search.
        sources: tasks whose scores are to be improved.
        tasks: tasks that may be combined.
        settings: to be used in place of the plan's, or the paper's (see `Greedy`).

    Raises:
        BadInput: for settings that make no search.
    """
    own = plan.expander(sources, tasks, **settings)
    if own is not None:
        return own
    trained = len(tasks) if plan.largest is None else plan.largest
    return Greedy(tuple(sources), tuple(tasks), **{"max_size": max(2, min(MAX_SIZE, trained)), **settings})


@dataclass(frozen=True, slots=True)
class _Walk:
    """One source's levels as far as the table goes: what came out, the subsets it needs, those without an answer."""

    expansion: Expansion
    needed: set[Subset]
    missing: set[Subset]


def _walk(plan: Greedy, scores: SourceScores) -> _Walk:
    """Walk the levels of one source; stop at the first that is not fully trained."""
    best, leader = scores.alone, None
    beam: tuple[Subset, ...] = (best,)
    needed, missing = {best}, {best} - scores.complete
    steps: list[Step] = []
    reason = f"the size limit of {plan.max_size} tasks is reached"
    for size in range(2, plan.max_size + 1):
        level = {subset((*members, name)) for members in beam for name in plan.tasks if name not in members}
        if not level:
            reason = "there is no further task to add"
            break
        waiting = level - scores.complete
        needed |= level
        missing |= waiting
        ranked = scores.ranked(level - waiting)
        if ranked and (leader is None or scores.score(ranked[0]) > scores.score(leader)):
            leader = ranked[0]
        better = _better(plan, scores, ranked, best)
        failed = len(level) - len(waiting) - len(ranked)
        steps.append(Step(size, tuple(map(scores.candidate, better)), len(ranked), failed, len(waiting)))
        if better:
            best, beam = better[0], better
        else:
            reason = _why_none(plan, scores, size, ranked, best)
        if missing or not better:
            break
    if missing:
        reason = f"waiting for {len(missing)} subset{'s' * (len(missing) > 1)} not trained yet"
    return _Walk(scores.expansion(best, leader, tuple(steps), reason, len(needed), not missing), needed, missing)


def _better(plan: Greedy, scores: SourceScores, ranked: Sequence[Subset], best: Subset) -> tuple[Subset, ...]:
    """The sets of a level that go on, of those ranked by score; none when the level does not improve on `best`."""
    if plan.rule == "lower_bound":
        return tuple(members for members in ranked if scores.gain(members, best).low > plan.tolerance)[: plan.beam]
    bar = -math.inf if best in scores.complete and math.isnan(scores.score(best)) else scores.score(best)
    return tuple(ranked[: plan.beam]) if ranked and scores.score(ranked[0]) > bar + plan.tolerance else ()


def _why_none(plan: Greedy, scores: SourceScores, size: int, ranked: Sequence[Subset], best: Subset) -> str:
    """Why no set of a fully trained level goes on, in words."""
    name = " + ".join(best)
    if not ranked:
        return f"every set of {size} tasks failed to train"
    if math.isnan(scores.score(best)):
        return f"the training of {name} failed, so nothing can be compared with it"
    if plan.rule == "lower_bound" and all(math.isnan(scores.gain(members, best).low) for members in ranked):
        return (
            f"no interval can be had for a gain over {name}: one block without replicate scores; "
            "use more seeds or folds, or the rule 'paper'"
        )
    shown = "shown to be better" if plan.rule == "lower_bound" else "better"
    return f"no set of {size} tasks is {shown} than {name}"
