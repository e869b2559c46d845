"""Choosing the models to deploy: the front over budgets, what the choice is worth, and how much of it is luck."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tim_search.ledger.table import ScoreTable
from tim_search.plans.differences import difference, paired
from tim_search.results.grouping import candidates as candidate_models
from tim_search.results.grouping.candidates import EVERY, GAINS, Array, Candidates, Gain
from tim_search.results.grouping.choice import Certainty, Choice, Grouping, Model, Served
from tim_search.results.grouping.solver import OBJECTIVES, Objective, assigned, solve, value
from tim_search.results.grouping.words import notes
from tim_search.types import BadInput, Subset

#: Bootstrap draws behind the certainty of a choice.
DRAWS = 50

#: The front of a search of many tasks ends here, unless more models are asked for.
FRONT = 8

#: Gains closer than this are equal.
_TINY = 1e-12
_NORMAL = 1.959964  # standard deviations to either end of a 95 % interval


def group(
    table: ScoreTable,
    models: int | None = None,
    *,
    max_size: int | None = None,
    objective: Objective = "total",
    gain: Gain = "relative",
    control: str | None = None,
    overlaps: Iterable[tuple[str, str]] = (),
    draws: int = DRAWS,
    most: int = EVERY,
) -> Grouping:
    """The models to deploy.

    Args:
        table: scores of a search; with replicates the interval and the certainty hold the sampling of patients.
        models: how many may be deployed; None takes as few as reach the largest gain of any number.
        max_size: tasks in the largest model; None takes the largest that was trained.
        objective: "total" or "worst".
        gain: "relative", the share of 1 - (score alone) that is won; or "absolute", in the metrics' own units.
        control: a task with permuted labels, which nobody deploys.
        overlaps: pairs of nested or near-identical targets, for the notes.
        draws: bootstrap draws behind the certainty; 0 leaves it out.
        most: subsets up to the size limit that are all looked at; of more, the trained ones and their neighbours.

    Raises:
        BadInput: settings that allow no choice, or scores that say too little for one.
    """
    tasks = tuple(name for name in table.tasks if name != control)
    _check(tasks, models, max_size, objective, gain)
    largest = min(max_size or _largest_trained(table, control), len(tasks))
    if models is not None and models * largest < len(tasks):
        raise BadInput(
            f"--models {models} with models of at most {largest} tasks cannot serve {len(tasks)} tasks. "
            f"Allow {math.ceil(len(tasks) / largest)} models or more, or models of {math.ceil(len(tasks) / models)} "
            "tasks or more (--max-size)."
        )
    candidates = candidate_models.first(table, tasks, largest, most)
    candidates, front = _front(table, candidates, largest, models, objective, gain)
    choice = next((each for each in reversed(front) if models is None or each.budget <= models), None)
    if choice is None:
        raise BadInput(
            f"--models {models}: at least {front[0].budget} of the candidate models are needed to serve all "
            f"{len(tasks)} tasks. Allow that many, or larger models (--max-size), or train more of the search, so that "
            "more can be predicted."
        )
    certainty = _certainty(table, candidates, choice, objective, gain, draws) if not choice.predicted else None
    lines = notes(candidates, choice, certainty, largest, overlaps)
    if certainty is None and draws and not choice.predicted:
        lines = (
            "One block without bootstrap replicates: nothing says how much of the choice is luck. Train several "
            "blocks.",
            *lines,
        )
    return Grouping(objective, gain, largest, candidates, choice, front, certainty, lines)


def _largest_trained(table: ScoreTable, control: str | None) -> int:
    """Tasks in the largest subset that was trained without the control."""
    without = table.membership[table.membership[:, [name == control for name in table.tasks]].sum(axis=1) == 0]
    return int(without.sum(axis=1).max(initial=1))


def _check(tasks: Sequence[str], models: int | None, max_size: int | None, objective: str, gain: str) -> None:
    if not tasks:
        raise BadInput("group: the search has no task that could be served.")
    if models is not None and models < 1:
        raise BadInput(f"--models: expected 1 or more, got {models}.")
    if max_size is not None and max_size < 1:
        raise BadInput(f"--max-size: expected 1 or more tasks, got {max_size}.")
    if objective not in OBJECTIVES:
        raise BadInput(f"--objective: expected one of {list(OBJECTIVES)}, got {objective!r}.")
    if gain not in GAINS:
        raise BadInput(f"--gain: expected one of {list(GAINS)}, got {gain!r}.")


def _front(
    table: ScoreTable, candidates: Candidates, largest: int, models: int | None, objective: Objective, gain: Gain
) -> tuple[Candidates, tuple[Choice, ...]]:
    """The choices that gain something over every smaller budget; and the candidates, with those that were added."""
    m = len(candidates.tasks)
    last = max(models or 0, m if candidates.every else min(m, FRONT))
    chosen_by_budget: list[tuple[int, tuple[Subset, ...]]] = []
    for budget in range(math.ceil(m / largest), last + 1):
        candidates, chosen = _best(table, candidates, largest, budget, objective, gain)
        if chosen:
            chosen_by_budget.append((budget, chosen))
            if _all_at_their_best(candidates, chosen, gain):
                break
    if not chosen_by_budget:
        raise BadInput(
            f"no {last} of the {len(candidates.subsets)} candidate models of at most {largest} tasks serve all "
            f"{m} tasks: trainings failed, or too few subsets are trained to predict others. Allow more "
            "models, or train more of the search."
        )
    choices = [_choice(table, candidates, budget, chosen, gain) for budget, chosen in chosen_by_budget]
    return candidates, _improving(choices, objective)


def _best(
    table: ScoreTable, candidates: Candidates, largest: int, budget: int, objective: Objective, gain: Gain
) -> tuple[Candidates, tuple[Subset, ...]]:
    """The subsets chosen, () where no choice serves all tasks; and the candidates, with those that were added."""
    rows = solve(candidates.gains(gain), budget, objective)
    while rows is not None and not candidates.every:
        chosen = [candidates.subsets[row] for row in rows]
        more = candidate_models.neighbours(chosen, candidates.tasks, largest).difference(candidates.subsets)
        if not more:
            break
        before = value(candidates.gains(gain)[list(rows)], objective)
        candidates = candidate_models.extended(table, candidates, more)
        rows = solve(candidates.gains(gain), budget, objective)
        assert rows is not None  # the earlier choice is still among the candidates
        if value(candidates.gains(gain)[list(rows)], objective) <= before:
            rows = tuple(candidates.subsets.index(members) for members in chosen)
            break
    return candidates, tuple(candidates.subsets[row] for row in rows or ())


def _all_at_their_best(candidates: Candidates, chosen: Sequence[Subset], gain: Gain) -> bool:
    """Whether no further model could gain anything for any task."""
    gains = candidates.gains(gain)
    rows = [candidates.subsets.index(members) for members in chosen]
    return bool((np.fmax.reduce(gains[rows], axis=0) >= np.fmax.reduce(gains, axis=0)).all())


def _improving(choices: Sequence[Choice], objective: Objective) -> tuple[Choice, ...]:
    """Those that gain something over every smaller budget."""
    front: list[Choice] = []
    for choice in choices:
        if front:
            worse = choice.worst < front[-1].worst - _TINY if objective == "worst" else False
            better = objective == "worst" and choice.worst > front[-1].worst + _TINY
            if worse or not (better or choice.total > front[-1].total + _TINY):
                continue
        front.append(choice)
    return tuple(front)


def _choice(table: ScoreTable, candidates: Candidates, budget: int, chosen: Sequence[Subset], gain: Gain) -> Choice:
    rows = [candidates.subsets.index(members) for members in chosen]
    gains = candidates.gains(gain)[rows]
    by = assigned(gains)
    served = [_served(table, candidates, rows[model], i, float(gains[model, i])) for i, model in enumerate(by.tolist())]
    models = [
        Model(
            candidates.subsets[row],
            tuple(each for each, model in zip(served, by.tolist(), strict=True) if model == place),
            not candidates.measured[row],
        )
        for place, row in enumerate(rows)
    ]
    used = sorted((each for each in models if each.serves), key=lambda each: (-len(each.subset), each.subset))
    predicted = any(each.predicted for each in served)
    low = high = math.nan
    if not predicted:
        # Sums of paired differences are paired differences: one interval for all, with what the tasks share.
        blocks, draws = _sums(table, candidates, [rows[model] for model in by], gain)
        whole = paired(blocks, draws)
        low, high = whole.low, whole.high
    values = [each.relative for each in served]
    return Choice(budget, tuple(used), math.fsum(values), low, high, min(values), predicted)


def _served(table: ScoreTable, candidates: Candidates, row: int, i: int, relative: float) -> Served:
    task, score, alone = candidates.tasks[i], float(candidates.score[row, i]), float(candidates.alone[i])
    predicted = not (candidates.measured[row] and candidates.alone_measured[i])
    gain, low, high = score - alone, math.nan, math.nan
    members = candidates.subsets[row]
    if members == (task,):
        low = high = 0.0
    elif predicted:
        half = _NORMAL * math.hypot(float(candidates.sd[row, i]), float(candidates.alone_sd[i]))
        low, high = gain - half, gain + half
    else:
        measured = difference(table, members, (task,), task)
        low, high = measured.low, measured.high
    return Served(task, score, alone, gain, low, high, relative, predicted)


def _sums(table: ScoreTable, candidates: Candidates, rows: Sequence[int], gain: Gain) -> tuple[Array, Array | None]:
    """The total gain in each block (n_blocks,), and under each patient-bootstrap weight (n_blocks, R)."""
    scale = candidates.scale(gain)
    total: Array = np.zeros(len(table.blocks))
    draws: Array | None = None
    if table.replicates is not None:
        draws = np.zeros((len(table.blocks), table.replicates.shape[3]))
    for i, row in enumerate(rows):
        name = candidates.tasks[i]
        at, column = table.rows[candidates.subsets[row]], table.tasks.index(name)
        alone = table.rows[name,]
        total = total + (table.scores[at, :, column] - table.scores[alone, :, column]) / scale[i]
        if draws is not None and table.replicates is not None:
            change = table.replicates[at, :, column] - table.replicates[alone, :, column]
            draws = draws + change.astype(np.float64) / scale[i]
    return total, draws


def _certainty(
    table: ScoreTable, candidates: Candidates, choice: Choice, objective: Objective, gain: Gain, n_draws: int
) -> Certainty | None:
    """How much of a choice is luck; None where the scores have neither blocks nor replicates to tell.

    A draw takes as many blocks as there are, with replacement, and in each block one replicate under patient-bootstrap
    weights (the same one in blocks of one fold, because they evaluate the same patients). Predictions stay as they are.
    """
    n_blocks = len(table.blocks)
    if not n_draws or (n_blocks < 2 and table.replicates is None):
        return None
    measured = np.flatnonzero(candidates.measured)
    rows = [table.rows[candidates.subsets[row]] for row in measured]
    at = [table.tasks.index(name) for name in candidates.tasks]
    alone = [table.rows[name,] for name in candidates.tasks]
    scale, original = candidates.scale(gain), candidates.gains(gain)

    def gains_of(scores: Array) -> Array:
        """The candidates' gains where the measured ones score `scores` (B, M of the table)."""
        gains = original.copy()
        gains[measured] = (scores[rows][:, at] - scores[alone, at]) / scale
        return np.where(np.isnan(original), np.nan, gains)

    rng = np.random.default_rng(0)
    folds = sorted({fold for _, fold in table.blocks})
    names = [model.subset for model in choice.models]
    chosen, same, again = {candidates.subsets.index(members) for members in names}, 0, np.zeros(len(candidates.subsets))
    for _ in range(n_draws):
        blocks = rng.integers(n_blocks, size=n_blocks)
        layers: NDArray[Any] = table.scores[:, blocks]
        if table.replicates is not None:
            of_fold = dict(zip(folds, rng.integers(table.replicates.shape[3], size=len(folds)), strict=True))
            drawn = [int(of_fold[table.blocks[block][1]]) for block in blocks]
            layers = table.replicates[:, blocks, :, drawn].transpose(1, 0, 2)
        picked = solve(gains_of(layers.astype(np.float64).mean(axis=1)), choice.budget, objective) or ()
        same += set(picked) == chosen
        again[list(picked)] += 1
    held_out = []
    for block in range(n_blocks if n_blocks > 1 else 0):
        others = gains_of(np.delete(table.scores, block, axis=1).mean(axis=1))
        picked = solve(others, choice.budget, objective) or ()
        model = np.array(picked)[assigned(others[list(picked)])]
        held_out.append(float(gains_of(table.scores[:, block])[model, np.arange(len(at))].sum()))
    shares = {members: float(again[candidates.subsets.index(members)] / n_draws) for members in names}
    return Certainty(n_draws, same / n_draws, shares, float(np.mean(held_out)) if held_out else math.nan)
