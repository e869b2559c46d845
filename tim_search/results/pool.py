"""The searches of several sites as one heatmap, from their ledgers alone: no patient leaves a site."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tim_search.gates.plain import number
from tim_search.results.merge import differences
from tim_search.results.opened import SearchResults
from tim_search.tim.pooling import Pooled, pool
from tim_search.tim.result import TimResult, discoveries
from tim_search.types import BadInput, Task, overlap_mask, some

#: Share of the variation between sites from which a note says that they differ (Higgins et al. 2003: "moderate").
_DIFFER = 0.5


@dataclass(frozen=True, eq=False)
class PooledSearches:
    """TIM scores of S searches over the M tasks they share, and their mean.

    Attributes:
        names: of the searches, told apart where they are equal.
        tasks: M shared tasks, in the order of the first search; a negative control is none of them.
        overlaps: pairs of tasks with near-identical or nested targets at any site.
        estimates, errors: float64 (S, M, M), row = source task; NaN where a site has none, or where its network has not
            learnt the source.
        cells: their means (M, M).
        result: the means as TIM scores, as every table and figure of TIM scores takes them.
    """

    names: tuple[str, ...]
    tasks: tuple[Task, ...]
    overlaps: tuple[tuple[str, str], ...]
    estimates: NDArray[np.float64]
    errors: NDArray[np.float64]
    cells: Pooled
    result: TimResult

    def rows(self) -> list[dict[str, Any]]:
        """A dict of plain values for each cell: source, task, the mean and what belongs to it, and the sites' own."""
        columns = ("estimate", "se", "low", "high", "p_value", "new_low", "new_high", "tau", "i2", "p_equal")
        return [
            {
                "source": source.name,
                "task": task.name,
                "metric": source.metric,
                "sites": int(self.cells.sites[i, j]),
                **{name: number(getattr(self.cells, name)[i, j]) for name in columns},
                "discovery": bool(self.result.rejected[i, j]),
                "at": {
                    name: {"estimate": number(self.estimates[s, i, j]), "se": number(self.errors[s, i, j])}
                    for s, name in enumerate(self.names)
                },
            }
            for i, source in enumerate(self.tasks)
            for j, task in enumerate(self.tasks)
            if i != j
        ]


def pool_searches(searches: Sequence[SearchResults]) -> PooledSearches:
    """One matrix of TIM scores from the searches of several sites, each with patients of its own.

    Raises:
        BadInput: fewer than two searches, one cohort twice, fewer than two tasks in common, tasks that are measured
            differently, scores of different quantities, or nothing trained yet.
    """
    if len(searches) < 2:
        raise BadInput(f"pool: expected two searches or more, got {len(searches)}. Name the folder of each site.")
    _check_cohorts(searches)
    names = [results.manifest.name for results in searches]
    if len(set(names)) < len(names):
        names = [str(results.folder) for results in searches]
    results = [_unshrunk(each) for each in searches]
    tasks = _shared(searches, results)
    m = [task.name for task in tasks]
    estimates, errors = (np.full((len(searches), len(m), len(m)), np.nan) for _ in range(2))
    for s, (search, result) in enumerate(zip(searches, results, strict=True)):
        at = np.ix_(*[[result.tasks.index(name) for name in m]] * 2)
        learnt = ~np.array([name in search.not_learnt for name in m])[:, None]
        estimates[s], errors[s] = (np.where(learnt, values[at], np.nan) for values in (result.estimate, result.se))
    overlaps = tuple({pair: None for each in searches for pair in each.manifest.overlaps})
    cells = pool(estimates, errors)
    return PooledSearches(
        tuple(names),
        tasks,
        overlaps,
        estimates,
        errors,
        cells,
        _as_scores(cells, m, overlaps, results, _notes(searches, names, cells, m)),
    )


def _check_cohorts(searches: Sequence[SearchResults]) -> None:
    for first, second in combinations(searches, 2):
        if first.manifest.context.cohort == second.manifest.context.cohort:
            raise BadInput(
                f"pool: expected patients of their own at each site, {first.folder} and {second.folder} searched one "
                "cohort, whose patients would count twice. `tim-search merge` joins searches of one cohort, "
                "`tim-search compare` lays two side by side."
            )


def _unshrunk(search: SearchResults) -> TimResult:
    """The scores of a search by an estimator that does not draw them together: shrunk means would be shrunk twice."""
    result = search.tim()
    return search.tim("gls") if "blup" in (result.methods or (result.method,)) else result


def _shared(searches: Sequence[SearchResults], results: Sequence[TimResult]) -> tuple[Task, ...]:
    """The tasks that all searches have, checked to be the same; raises BadInput."""
    controls = {result.control for result in results}
    first = searches[0]
    names = [name for name in results[0].tasks if name not in controls and all(name in each.tasks for each in results)]
    if len(names) < 2:
        raise BadInput(
            f"pool: expected at least two tasks that all searches have, they share {', '.join(names) or 'none'}. Name "
            "the tasks alike at every site."
        )
    for search, result in zip(searches, results, strict=True):
        if result.size != results[0].size:
            raise BadInput(
                f"pool: expected one quantity at every site, got {results[0].label} of {first.folder} and "
                f"{result.label} of {search.folder}. Search each site with the same design."
            )
        for name in names:
            ours, theirs = first.tasks[name], search.tasks[name]
            if (ours.kind, ours.metric) != (theirs.kind, theirs.metric):
                raise BadInput(
                    f"pool: {name} is {ours.kind} by {ours.metric} in {first.folder}, {theirs.kind} by "
                    f"{theirs.metric} in {search.folder}. One name has to be one task, in one metric."
                )
    return tuple(first.tasks[name] for name in names)


def _as_scores(
    cells: Pooled,
    names: Sequence[str],
    overlaps: Sequence[tuple[str, str]],
    results: Sequence[TimResult],
    notes: Sequence[str],
) -> TimResult:
    nothing = np.full(cells.estimate.shape, np.nan)
    tested = np.where(overlap_mask(names, overlaps) | np.eye(len(names), dtype=bool), np.nan, cells.p_value)
    first = results[0]
    return TimResult(
        tasks=tuple(names),
        method=first.method,
        label=f"{first.label}, mean of {len(results)} sites",
        size=first.size,
        blocks=(),
        n_subsets=sum(result.n_subsets for result in results),
        confidence=0.95,
        fdr=first.fdr,
        estimate=cells.estimate,
        se=cells.se,
        low=cells.low,
        high=cells.high,
        p_value=tested,
        rejected=discoveries(tested, first.fdr),
        false_sign_rate=cells.p_value / 2,
        n_with=cells.sites,
        n_without=np.zeros_like(cells.sites),
        se_sampling=nothing,
        se_seed=nothing,
        se_patients=nothing,
        interactions=None,
        notes=tuple(notes),
    )


def _notes(searches: Sequence[SearchResults], names: Sequence[str], cells: Pooled, tasks: Sequence[str]) -> list[str]:
    """What the reader of the means must know, in words."""
    first = replace(searches[0].manifest.context, cohort="", split="")
    notes = []
    for name, each in zip(names[1:], searches[1:], strict=True):
        if words := differences(first, replace(each.manifest.context, cohort="", split="")):
            notes.append(
                f"{names[0]} and {name} differ in {'; '.join(words)}: part of what lies between them may be that."
            )
    notes += [
        f"{name}: the network has not learnt {some(each.not_learnt)}, so that site says nothing there."
        for name, each in zip(names, searches, strict=True)
        if each.not_learnt
    ]
    differing = [
        f"{tasks[j]} for {tasks[i]} ({cells.i2[i, j]:.0%})"
        for i, j in np.argwhere((cells.i2 >= _DIFFER) & (cells.p_equal < 0.1)).tolist()
        if i != j
    ]
    if differing:
        notes.append(
            f"Sites differ by more than their errors (share of the variation that lies between them): "
            f"{some(differing, 6)}. There the mean is no effect of any one site."
        )
    if len(searches) < 5:
        notes.append(
            f"{len(searches)} sites say little of how much sites vary, so that the intervals are wide: with so few, "
            "Student's t has one degree of freedom fewer than there are sites."
        )
    return notes
