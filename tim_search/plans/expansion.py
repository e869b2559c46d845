"""Greedy expansion: from single tasks to the best small combination of each source task (M3H paper, section 4.3).

For a source task i: train i alone and every pair {i, j}; keep the best three; add every further task to each of them;
go on until nothing improves or the size limit is reached. All sources share one search, and a subset that several
sources need is trained once.

Everything here is a pure function of the score table. What is wanted next (`ask`) and what came out (`result`) are
found by replaying the search on the scores there are, so a search driven live, one replayed from a full ledger, and one
read half-way agree wherever they have seen the same scores.

The scores that choose a combination also measure its gain, so the gain of a chosen combination is optimistic, and each
interval speaks of its one comparison alone. Both are mended on fresh seeds and untouched patients, not here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from math import comb
from typing import Any, ClassVar, Literal, Protocol, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from tim_search.ledger.table import ScoreTable
from tim_search.plans.contract import Plan
from tim_search.types import BadInput, Subset, Unit, near, some, subset

Rule: TypeAlias = Literal["lower_bound", "paper"]
RULES: tuple[Rule, ...] = get_args(Rule)

#: Tasks in the largest set, where nothing else is said (M3H paper, section 4.3).
MAX_SIZE = 3

#: What an interval is made from: the spread over blocks, the bootstrap over evaluation patients, both, or nothing.
Spread: TypeAlias = Literal["blocks", "patients", "blocks and patients", "nothing"]


@dataclass(frozen=True, slots=True)
class Difference:
    """A paired difference of two subsets' scores on one task, in the task's metric; see `difference`."""

    value: float
    low: float
    high: float
    spread: Spread


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
        kept: the sets that go on, best first; empty where none improves.
        tried: sets of this level that have a score.
        failed: sets of this level that were trained in vain.
        missing: sets of this level that are not trained yet.
    """

    size: int
    kept: tuple[Candidate, ...]
    tried: int
    failed: int
    missing: int


@dataclass(frozen=True, slots=True)
class Expansion:
    """What the search found for one source task. All scores are in the source's metric, higher is better.

    Attributes:
        source: the task whose score is to be improved.
        best: the best set that the rule accepts; the source alone where no set improves on it.
        score: mean score of `best` over the blocks; NaN where its training failed or is missing.
        single_score: the same of the source trained alone.
        gain: `score - single_score`; 0 where `best` is the source alone.
        low, high: confidence interval of the gain; NaN where there is none (see `difference`), or nothing to compare.
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


@dataclass(frozen=True, slots=True)
class Sharing:
    """What searching all sources together saves. Counts are trainings: subsets times blocks.

    Attributes:
        alone: trainings each source would need by itself.
        total_alone: their sum.
        shared: trainings of the one shared search.
        saved: `total_alone - shared`.
    """

    alone: dict[str, int]
    total_alone: int
    shared: int
    saved: int


def difference(table: ScoreTable, members: Subset, other: Subset, task: str, confidence: float = 0.95) -> Difference:
    """Score of `task` when trained with `members`, minus its score when trained with `other`, with an interval.

    With d_b the difference in block b, b = 1..n, the value is its mean over the blocks. The interval adds two parts,
    each with its own t quantile:

    - what shows between blocks, s^2 / n with s^2 the variance of d_b (n - 1 degrees of freedom): training seeds, and
      the patients where the blocks validate on different folds. Few blocks agree by chance now and then, so it is
      taken for no less than what the patients alone make of it: the variance over b of the deviations of the
      replicates d_br under bootstrap weights, over n;
    - what cannot show between blocks: the variance over r of the mean over b of d_br beyond that. It is nothing where
      every block has a fold of its own, and all of the patients' part where all blocks share one: then the patients'
      luck is the same in every block.

    With one block the interval comes from the replicates alone and says nothing of training seeds. With one block and
    no replicates, or a score missing in any block, it is NaN.

    Args:
        table: scores, and replicates where they are loaded.
        members, other: subsets in the table, both holding `task`.
        confidence: coverage of the two-sided interval.
    """
    column = table.tasks.index(task)
    first, second = table.rows[members], table.rows[other]
    draws = None
    if table.replicates is not None:
        draws = (table.replicates[first, :, column] - table.replicates[second, :, column]).astype(np.float64)
    return paired(table.scores[first, :, column] - table.scores[second, :, column], draws, confidence)


def paired(
    blocks: NDArray[np.float64], draws: NDArray[np.float64] | None = None, confidence: float = 0.95
) -> Difference:
    """Mean of paired differences, with the interval that `difference` describes.

    Args:
        blocks: (n,) the difference in each block.
        draws: (n, R) the same under patient-bootstrap weights; None where there are no replicates.
        confidence: coverage of the two-sided interval.
    """
    n = len(blocks)
    if n == 0 or not np.isfinite(blocks).all():
        return Difference(math.nan, math.nan, math.nan, "nothing")
    value = float(blocks.mean())
    upper = (1 + confidence) / 2
    between = seen = unseen = math.nan
    if n >= 2:
        between = float(stats.t.ppf(upper, n - 1)) ** 2 * float(blocks.var(ddof=1)) / n
    if draws is not None:
        draws = draws[:, np.isfinite(draws).all(axis=0)]
        r = draws.shape[1]
        if r >= 2:
            quantile = float(stats.t.ppf(upper, r - 1)) ** 2
            deviation = draws - draws.mean(axis=1, keepdims=True)
            shown = float(deviation.var(axis=0, ddof=1).mean()) / n if n >= 2 else 0.0
            seen, unseen = quantile * shown, quantile * max(0.0, float(draws.mean(axis=0).var(ddof=1)) - shown)
    if math.isnan(between) and math.isnan(unseen):
        return Difference(value, math.nan, math.nan, "nothing")
    half = math.sqrt(np.nanmax([between, seen]) + np.nansum([unseen])) if n >= 2 else math.sqrt(unseen)
    rests: tuple[bool, bool] = (not math.isnan(between), not math.isnan(unseen))
    spread: Spread = "blocks and patients" if all(rests) else "blocks" if rests[0] else "patients"
    return Difference(value, value - half, value + half, spread)


class Expander(Protocol):
    """Names the best combination of each source task from the scores there are.

    Attributes:
        title: what it does, for people.
        rule: when a set counts as better.
    """

    title: ClassVar[str]

    @property
    def rule(self) -> Rule: ...

    def result(self, table: ScoreTable) -> list[Expansion]:
        """The expansion of every source, in their order, as far as the table goes."""
        ...

    def sharing(self, table: ScoreTable) -> Sharing:
        """How many trainings the sources need by themselves and together."""
        ...


@dataclass(frozen=True)
class Greedy(Plan):
    """Greedy expansion of many sources at once, as a plan: `ask` for what to train, `result` for what came out.

    Attributes:
        sources: tasks whose scores are to be improved.
        tasks: tasks that may be combined; holds the sources.
        beam: sets kept a level (the paper keeps 3).
        max_size: tasks in the largest set (the paper stops at 3).
        rule: when a set improves on the best so far. "paper": its mean score is higher; with noisy scores something
            nearly always is. "lower_bound": the lower end of the interval of the paired difference is above zero.
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
        _check(self)

    def ask(self, table: ScoreTable) -> list[Unit]:
        """Units to train next, smallest subsets first: those some source needs, in every block of the table.

        Empty when every source has come to its end. Subsets outside the search are ignored.
        """
        missing = {members for search in self._replay(table) for members in search.missing}
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
        return [search.expansion for search in self._replay(table)]

    def sharing(self, table: ScoreTable) -> Sharing:
        """How many trainings the sources need by themselves and together, as far as the table goes."""
        searches = self._replay(table)
        alone = {search.expansion.source: search.expansion.trainings_alone for search in searches}
        shared = len({members for search in searches for members in search.needed}) * len(table.blocks)
        return Sharing(alone, sum(alone.values()), shared, sum(alone.values()) - shared)

    def _replay(self, table: ScoreTable) -> list[_Search]:
        return [_replay(self, game) for game in _games(self, table)]


@dataclass(frozen=True)
class BestOf:
    """The best combination of each source among all that were trained, whoever asked for them.

    What a strategy that names subsets of any size has found; attributes as of `Greedy`. With the rule "lower_bound" it
    is the highest-scoring of the sets whose gain over the source alone is above the tolerance with its whole interval.
    """

    sources: tuple[str, ...]
    tasks: tuple[str, ...]
    max_size: int
    rule: Rule = "lower_bound"
    confidence: float = 0.95
    tolerance: float = 0.0
    title: ClassVar[str] = "Best of what was trained"

    def __post_init__(self) -> None:
        _check(self)

    def result(self, table: ScoreTable) -> list[Expansion]:
        """The best set of every source, in the order of `sources`."""
        return [_best_of(self, game) for game in _games(self, table)]

    def sharing(self, table: ScoreTable) -> Sharing:
        """How many of the trainings hold each source, and how many there are."""
        blocks = len(table.blocks)
        alone = {found.source: found.trainings_alone for found in self.result(table)}
        shared = sum(not set(members).isdisjoint(self.sources) for members in table.complete) * blocks
        return Sharing(alone, sum(alone.values()), shared, sum(alone.values()) - shared)


def _check(plan: Greedy | BestOf) -> None:
    for field, names in (("sources", plan.sources), ("tasks", plan.tasks)):
        if not names or len(set(names)) < len(names):
            raise BadInput(f"greedy expansion: {field} must be one or more distinct task names, got {list(names)}.")
    unknown = [name for name in plan.sources if name not in plan.tasks]
    if unknown:
        raise BadInput(
            f"greedy expansion: sources {some(unknown)} are not among the tasks of the search, {some(plan.tasks, 20)}."
            f"{near(unknown[0], plan.tasks)} "
            "Add them to the tasks or leave them out of the sources."
        )
    if plan.max_size < 2:
        raise BadInput(f"greedy expansion: max_size must be 2 or more tasks, got {plan.max_size}.")
    if plan.rule not in RULES:
        raise BadInput(f"greedy expansion: rule must be one of {list(RULES)}, got {plan.rule!r}.")
    if not 0 < plan.confidence < 1:
        raise BadInput(f"greedy expansion: confidence must lie between 0 and 1, got {plan.confidence}.")
    if not plan.tolerance >= 0 or math.isinf(plan.tolerance):
        raise BadInput(f"greedy expansion: tolerance must be 0 or a number above it, got {plan.tolerance}.")


def expander(plan: Plan, sources: Sequence[str], tasks: Sequence[str], **settings: Any) -> Expander:
    """What names the best combination of each source of a search: as its plan does, else as the paper does.

    Args:
        plan: of the search.
        sources: tasks whose scores are to be improved.
        tasks: tasks that may be combined.
        settings: to be used in place of the plan's, or the paper's.

    Raises:
        BadInput: for settings that make no search.
    """
    own = plan.expander(sources, tasks, **settings)
    if own is not None:
        return own
    trained = len(tasks) if plan.largest is None else plan.largest
    return Greedy(tuple(sources), tuple(tasks), **{"max_size": max(2, min(MAX_SIZE, trained)), **settings})


def rows(expansions: Iterable[Expansion]) -> list[dict[str, Any]]:
    """One flat record a source, for tables and JSON: subsets as "a + b"."""
    return [
        {
            "source": found.source,
            "best": " + ".join(found.best),
            "size": len(found.best),
            "score": found.score,
            "single_score": found.single_score,
            "gain": found.gain,
            "low": found.low,
            "high": found.high,
            "holds": found.holds,
            "spread": found.spread,
            "leader": " + ".join(found.leader.subset) if found.leader else "",
            "leader_gain": found.leader.gain if found.leader else math.nan,
            "leader_low": found.leader.low if found.leader else math.nan,
            "leader_high": found.leader.high if found.leader else math.nan,
            "trainings_alone": found.trainings_alone,
            "complete": found.complete,
            "reason": found.reason,
        }
        for found in expansions
    ]


@dataclass(frozen=True, slots=True)
class _Search:
    """One source's search as far as the table goes: what came out, the subsets it needs, those without an answer."""

    expansion: Expansion
    needed: frozenset[Subset]
    missing: frozenset[Subset]


@dataclass(frozen=True)
class _Game:
    """The score table as one source task sees it."""

    source: str
    table: ScoreTable
    means: NDArray[np.float64]
    complete: set[Subset]
    confidence: float

    def score(self, members: Subset) -> float:
        """Mean over the blocks; NaN where the training failed or is missing."""
        if members not in self.complete:
            return math.nan
        return float(self.means[self.table.rows[members], self.table.tasks.index(self.source)])

    def gain(self, members: Subset, over: Subset) -> Difference:
        if {members, over} <= self.complete:
            return difference(self.table, members, over, self.source, self.confidence)
        return Difference(math.nan, math.nan, math.nan, "nothing")

    def candidate(self, members: Subset) -> Candidate:
        gain = self.gain(members, (self.source,))
        return Candidate(members, self.score(members), gain.value, gain.low, gain.high)

    def kept(self, plan: Greedy, ranked: Sequence[Subset], best: Subset) -> tuple[Subset, ...]:
        """The sets of a level that go on, of those ranked by score; none when the level does not improve on `best`."""
        if plan.rule == "lower_bound":
            return tuple(members for members in ranked if self.gain(members, best).low > plan.tolerance)[: plan.beam]
        bar = -math.inf if best in self.complete and math.isnan(self.score(best)) else self.score(best)
        return tuple(ranked[: plan.beam]) if ranked and self.score(ranked[0]) > bar + plan.tolerance else ()

    def ranked(self, sets: Iterable[Subset]) -> list[Subset]:
        """The sets that have a score, best first; the names break ties, so that equal scores give equal answers."""
        scores = {members: self.score(members) for members in sets}
        return sorted((m for m in scores if not math.isnan(scores[m])), key=lambda m: (-scores[m], m))


def _games(plan: Greedy | BestOf, table: ScoreTable) -> list[_Game]:
    absent = [name for name in plan.tasks if name not in table.tasks]
    if absent:
        raise BadInput(
            f"greedy expansion: the scores hold no tasks named {some(absent)}; they hold {some(table.tasks, 20)}. "
            "Read the ledger of a search that has these tasks, or leave them out."
        )
    means, complete = table.mean(), table.complete
    return [_Game(source, table, means, complete, plan.confidence) for source in plan.sources]


def _replay(plan: Greedy, game: _Game) -> _Search:
    """Walk the levels of one source; stop at the first that is not fully trained."""
    single: Subset = (game.source,)
    best, leader = single, None
    beam: tuple[Subset, ...] = (single,)
    needed, missing = {single}, {single} - game.complete
    steps: list[Step] = []
    reason = f"the size limit of {plan.max_size} tasks is reached"
    for size in range(2, plan.max_size + 1):
        level = {subset((*kept, name)) for kept in beam for name in plan.tasks if name not in kept}
        if not level:
            reason = "there is no further task to add"
            break
        waiting = level - game.complete
        needed |= level
        missing |= waiting
        trained = level - waiting
        ranked = game.ranked(trained)
        if ranked and (leader is None or game.score(ranked[0]) > game.score(leader)):
            leader = ranked[0]
        kept = game.kept(plan, ranked, best)
        failed = len(trained) - len(ranked)
        steps.append(Step(size, tuple(map(game.candidate, kept)), len(ranked), failed, len(waiting)))
        if kept:
            best, beam = kept[0], kept
        else:
            reason = _why_none(plan, game, size, ranked, best)
        if missing or not kept:
            break
    if missing:
        reason = f"waiting for {len(missing)} subset{'s' * (len(missing) > 1)} not trained yet"
    expansion = _expansion(game, best, leader, tuple(steps), reason, len(needed), not missing)
    return _Search(expansion, frozenset(needed), frozenset(missing))


def _best_of(plan: BestOf, game: _Game) -> Expansion:
    """The best of what was trained with one source."""
    single: Subset = (game.source,)
    names = set(plan.tasks)
    looked_at = [members for members in game.complete if game.source in members]
    sets = [members for members in looked_at if 1 < len(members) <= plan.max_size and names.issuperset(members)]
    ranked = game.ranked(sets)
    if plan.rule == "lower_bound":
        better = [members for members in ranked if game.gain(members, single).low > plan.tolerance]
    else:
        better = [members for members in ranked if game.score(members) > game.score(single) + plan.tolerance]
    shown = "shown to be better" if plan.rule == "lower_bound" else "better"
    reason = f"the best of {len(sets)} combinations that were trained"
    if not better:
        reason = f"none of {len(sets)} combinations that were trained is {shown} than {game.source}"
    waiting = single not in game.complete
    if waiting:
        reason = f"waiting for {game.source} alone, which is not trained yet"
    best, leader = better[0] if better else single, ranked[0] if ranked else None
    return _expansion(game, best, leader, (), reason, len(looked_at), not waiting)


def _expansion(
    game: _Game,
    best: Subset,
    leader: Subset | None,
    steps: tuple[Step, ...],
    reason: str,
    needed: int,
    complete: bool,
) -> Expansion:
    single: Subset = (game.source,)
    gain = game.gain(best, single) if best != single else Difference(0.0, math.nan, math.nan, "nothing")
    return Expansion(
        source=game.source,
        best=best,
        score=game.score(best),
        single_score=game.score(single),
        gain=gain.value,
        low=gain.low,
        high=gain.high,
        holds=gain.low > 0,
        spread=gain.spread,
        leader=game.candidate(leader) if leader else None,
        steps=steps,
        reason=reason,
        trainings_alone=needed * len(game.table.blocks),
        complete=complete,
    )


def _why_none(plan: Greedy, game: _Game, size: int, ranked: Sequence[Subset], best: Subset) -> str:
    """Why no set of a fully trained level was kept."""
    name = " + ".join(best)
    if not ranked:
        return f"every set of {size} tasks failed to train"
    if math.isnan(game.score(best)):
        return f"the training of {name} failed, so nothing can be compared with it"
    if plan.rule == "lower_bound" and all(math.isnan(game.gain(members, best).low) for members in ranked):
        return (
            f"no interval can be had for a gain over {name}: one block without replicate scores; "
            "use more seeds or folds, or the rule 'paper'"
        )
    shown = "shown to be better" if plan.rule == "lower_bound" else "better"
    return f"no set of {size} tasks is {shown} than {name}"
