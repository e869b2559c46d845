"""Which few models to deploy: at most k subsets such that every task is served by one of them, with the largest gain.

A model is a subset of tasks trained together; it *serves* some of its tasks, the others only help in its training. The
gain of a task is its score in the model that serves it, less its score when trained alone (Standley and others, 2020,
choose networks for a budget in the same sense). Scores are those of the search, and where a subset was not trained in
every block, the surrogate's prediction, flagged as such: `unmeasured` says what to train before believing the choice.

Two objectives: "total" maximises the sum of the gains; "worst" maximises the smallest gain, and among the choices that
reach it the sum. Both are solved to proven optimality over the candidates, by mixed-integer programming.
docs/grouping.md explains the programmes and the numbers.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from math import comb
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_array

from tim_search.ledger.table import ScoreTable
from tim_search.plans import surrogate
from tim_search.plans.expansion import difference, paired
from tim_search.types import BadInput, Subset, some, subset

Objective: TypeAlias = Literal["total", "worst"]
Gain: TypeAlias = Literal["relative", "absolute"]
OBJECTIVES: tuple[Objective, ...] = get_args(Objective)
GAINS: tuple[Gain, ...] = get_args(Gain)

Array: TypeAlias = NDArray[np.float64]

#: All subsets up to the size limit are candidates where there are no more than this; else trained ones and neighbours.
EVERY = 5000
#: Bootstrap draws behind the certainty of a choice.
DRAWS = 50
#: The front of a search of many tasks ends here, unless more models are asked for.
FRONT = 8
#: Gains closer than this are equal.
_TINY = 1e-12
_ITERATIONS = 300
_NORMAL = 1.959964  # standard deviations to either end of a 95 % interval


@dataclass(frozen=True, eq=False)
class Candidates:
    """The models that can be chosen. Rows are subsets, columns the tasks to be served.

    Attributes:
        tasks: M names.
        subsets: N subsets, smallest first, then by name.
        score: float64 (N, M), higher is better; NaN where the model cannot serve the task.
        sd: float64 (N, M): standard deviation of a prediction; 0 where measured.
        measured: bool (N,): trained in every block.
        alone, alone_sd: float64 (M,): the score of each task trained alone, and the same for it.
        alone_measured: bool (M,).
        every: whether all subsets up to the size limit are among them, save those whose training failed.
    """

    tasks: tuple[str, ...]
    subsets: tuple[Subset, ...]
    score: Array
    sd: Array
    measured: NDArray[np.bool_]
    alone: Array
    alone_sd: Array
    alone_measured: NDArray[np.bool_]
    every: bool = True

    def gains(self, gain: Gain = "relative") -> Array:
        """float64 (N, M): score less the score alone, of what could be gained at most if relative; NaN as `score`."""
        return (self.score - self.alone) / self.scale(gain)

    def scale(self, gain: Gain) -> Array:
        """(M,) what a gain is divided by: what the task alone leaves to be won, since every metric ends at 1; or 1."""
        if gain == "absolute":
            return np.ones(len(self.tasks))
        left = 1.0 - self.alone
        if perfect := [name for name, rest in zip(self.tasks, left, strict=True) if rest <= 0]:
            raise BadInput(
                f"gain: relative gains are shares of what a task trained alone leaves to be won, and "
                f"{some(perfect)} trained alone reach 1 already. Use absolute gains (--gain absolute), or leave these "
                "tasks out."
            )
        return left


@dataclass(frozen=True, slots=True)
class Served:
    """A task and the model that serves it. Scores in the task's metric; low and high are NaN where there are none.

    Attributes:
        score, alone: of the model, and of the task trained alone.
        gain, low, high: their difference with its 95 % interval, in the task's metric.
        relative: the gain as the objective counts it.
        predicted: the score, or the score alone, is the surrogate's.
    """

    task: str
    score: float
    alone: float
    gain: float
    low: float
    high: float
    relative: float
    predicted: bool


@dataclass(frozen=True, slots=True)
class Model:
    """A subset that is deployed, the tasks it serves, and whether it was never trained in every block."""

    subset: Subset
    serves: tuple[Served, ...]
    predicted: bool


@dataclass(frozen=True, slots=True)
class Choice:
    """The best choice of at most `budget` models.

    Attributes:
        budget: models allowed.
        models: those chosen, largest first.
        total: sum of the gains as the objective counts them; low, high: its 95 % interval, NaN where there is none.
        worst: the smallest of them.
        predicted: whether any of it rests on a prediction.
    """

    budget: int
    models: tuple[Model, ...]
    total: float
    low: float
    high: float
    worst: float
    predicted: bool

    @property
    def served(self) -> dict[str, Served]:
        """By task."""
        return {one.task: one for model in self.models for one in model.serves}


@dataclass(frozen=True, slots=True)
class Certainty:
    """How much of a choice is luck, from choosing again on bootstrap draws of blocks and patients.

    Attributes:
        draws: number of draws.
        same: share of the draws in which the same models are chosen.
        models: share of the draws in which each chosen model is among the chosen.
        held_out: the total gain on blocks that had no part in choosing: chosen on the others, measured on each in
            turn, mean over the blocks. NaN with one block.
    """

    draws: int
    same: float
    models: Mapping[Subset, float]
    held_out: float


@dataclass(frozen=True, eq=False)
class Grouping:
    """What `group` found: the choice, the front from one model to as many as gain anything, and what it rests on."""

    objective: Objective
    gain: Gain
    max_size: int
    candidates: Candidates = field(repr=False)
    choice: Choice
    front: tuple[Choice, ...]
    certainty: Certainty | None
    notes: tuple[str, ...]

    @property
    def unmeasured(self) -> tuple[Subset, ...]:
        """What the choice rests on without having been trained in every block: models, and tasks alone."""
        models = {model.subset for model in self.choice.models if model.predicted}
        alone = {
            (name,)
            for name, known in zip(self.candidates.tasks, self.candidates.alone_measured, strict=True)
            if not known
        }
        return tuple(sorted(models | alone, key=lambda members: (len(members), members)))


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
) -> Grouping:
    """Choose the models to deploy.

    Args:
        table: scores of a search; with replicates the interval and the certainty hold the sampling of patients.
        models: how many may be deployed; None takes as few as reach the largest gain of any number.
        max_size: tasks in the largest model; None takes the largest that was trained.
        objective: "total" or "worst".
        gain: "relative", the share of 1 - (score alone) that is won; or "absolute", in the metrics' own units.
        control: a task with permuted labels, which nobody deploys.
        overlaps: pairs of nested or near-identical targets, for the notes.
        draws: bootstrap draws behind the certainty; 0 leaves it out.

    Raises:
        BadInput: settings that allow no choice, or scores that say too little for one.
    """
    tasks = tuple(name for name in table.tasks if name != control)
    _check(tasks, models, max_size, objective, gain)
    members = table.membership[table.membership[:, [name == control for name in table.tasks]].sum(axis=1) == 0]
    largest = max_size or int(members.sum(axis=1).max(initial=1))
    largest = min(largest, len(tasks))
    if models is not None and models * largest < len(tasks):
        raise BadInput(
            f"--models {models} with models of at most {largest} tasks cannot serve {len(tasks)} tasks. "
            f"Allow {math.ceil(len(tasks) / largest)} models or more, or models of {math.ceil(len(tasks) / models)} "
            "tasks or more (--max-size)."
        )
    candidates = _first(table, tasks, largest)
    last = max(models or 0, len(tasks) if candidates.every else min(len(tasks), FRONT))
    found: list[tuple[int, tuple[Subset, ...]]] = []
    for budget in range(math.ceil(len(tasks) / largest), last + 1):
        candidates, chosen = _best(table, candidates, largest, budget, objective, gain)
        if chosen:
            found.append((budget, chosen))
            if _all_at_their_best(candidates, chosen, gain):
                break
    if not found:
        raise BadInput(
            f"no {last} of the {len(candidates.subsets)} candidate models of at most {largest} tasks serve all "
            f"{len(tasks)} tasks: trainings failed, or too few subsets are trained to predict others. Allow more "
            "models, or train more of the search."
        )
    front = _improving([_choice(table, candidates, budget, chosen, gain) for budget, chosen in found], objective)
    choice = next((one for one in reversed(front) if models is None or one.budget <= models), None)
    if choice is None:
        raise BadInput(
            f"--models {models}: at least {front[0].budget} of the candidate models are needed to serve all "
            f"{len(tasks)} tasks. Allow that many, or larger models (--max-size), or train more of the search, so that "
            "more can be predicted."
        )
    certainty = _certainty(table, candidates, choice, objective, gain, draws) if not choice.predicted else None
    notes = _notes(candidates, choice, certainty, largest, overlaps)
    if certainty is None and draws and not choice.predicted:
        notes = (
            "One block without bootstrap replicates: nothing says how much of the choice is luck. Train several "
            "blocks.",
            *notes,
        )
    return Grouping(objective, gain, largest, candidates, choice, front, certainty, notes)


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


# Candidates -----------------------------------------------------------------------------------------------------------


def _first(table: ScoreTable, tasks: tuple[str, ...], largest: int) -> Candidates:
    """All subsets up to the largest size, or where these are too many the trained ones, the single tasks and all."""
    sizes = range(1, largest + 1)
    every = sum(comb(len(tasks), size) for size in sizes) <= EVERY
    if every:
        wanted = {subset(names) for size in sizes for names in itertools.combinations(tasks, size)}
    else:
        known = set(tasks)
        wanted = {members for members in table.rows if len(members) <= largest and known.issuperset(members)}
        wanted |= {(name,) for name in tasks}
        # Two ways to deal the tasks out keep small budgets feasible; the neighbours of what is chosen improve on them.
        n = math.ceil(len(tasks) / largest)
        wanted |= {subset(tasks[start::n]) for start in range(n)}
        wanted |= {subset(tasks[start : start + largest]) for start in range(0, len(tasks), largest)}
    return _candidates(table, tasks, wanted, every)


def _candidates(table: ScoreTable, tasks: tuple[str, ...], subsets: Iterable[Subset], every: bool) -> Candidates:
    """Scores of these subsets: the mean over the blocks where all blocks trained them, else the surrogate's."""
    ordered = tuple(sorted(set(subsets), key=lambda members: (len(members), members)))
    column = {name: index for index, name in enumerate(table.tasks)}
    members = np.zeros((len(ordered), len(table.tasks)), bool)
    for row, names in enumerate(ordered):
        members[row, [column[name] for name in names]] = True
    means, complete = table.mean(), table.complete
    measured = np.array([names in complete for names in ordered], bool)
    rows = [table.rows[names] for names in itertools.compress(ordered, measured)]
    at = [column[name] for name in tasks]
    score, sd = np.full((2, len(ordered), len(tasks)), np.nan)
    score[measured] = means[rows][:, at]
    alone, alone_sd = np.full((2, len(tasks)), np.nan)
    for i, name in enumerate(tasks):
        if (name,) in complete:
            alone[i] = means[table.rows[name,], column[name]]
    alone_measured = np.isfinite(alone)
    for i, name in enumerate(tasks):
        # A task whose training alone failed keeps its place by the prediction.
        single = members[:1] & False
        single[0, column[name]] = True
        guess = ~measured & members[:, column[name]]
        if guess.any() or np.isnan(alone[i]):
            mean, spread = surrogate.predict(table, name, np.concatenate([members[guess], single]))
            score[guess, i], sd[guess, i] = mean[:-1], spread[:-1]
            if np.isnan(alone[i]):
                alone[i], alone_sd[i] = mean[-1], spread[-1]
    if unknown := [name for name, value in zip(tasks, alone, strict=True) if np.isnan(value)]:
        raise BadInput(
            f"group: there is no score of {some(unknown)} trained alone, and too few of its subsets are trained "
            "to predict one. Train more of the search, then choose again."
        )
    return Candidates(
        tasks, ordered, score, np.nan_to_num(sd), measured, alone, np.nan_to_num(alone_sd), alone_measured, every
    )


def _with(table: ScoreTable, candidates: Candidates, more: set[Subset]) -> Candidates:
    """The candidates and further ones."""
    added = _candidates(table, candidates.tasks, more, candidates.every)
    subsets = candidates.subsets + added.subsets
    order = sorted(range(len(subsets)), key=lambda row: (len(subsets[row]), subsets[row]))
    return replace(
        candidates,
        subsets=tuple(subsets[row] for row in order),
        score=np.concatenate([candidates.score, added.score])[order],
        sd=np.concatenate([candidates.sd, added.sd])[order],
        measured=np.concatenate([candidates.measured, added.measured])[order],
    )


def _neighbours(chosen: Iterable[Subset], tasks: Sequence[str], largest: int) -> set[Subset]:
    """Subsets with one task more, one less, or (at the size limit) one exchanged."""
    found: set[Subset] = set()
    for members in chosen:
        others = [name for name in tasks if name not in members]
        smaller = [tuple(name for name in members if name != gone) for gone in members]
        found.update(one for one in smaller if one)
        bases = [members] if len(members) < largest else smaller
        found.update(subset((*base, name)) for base in bases for name in others)
    return found


# Choosing -------------------------------------------------------------------------------------------------------------


def _best(
    table: ScoreTable, candidates: Candidates, largest: int, budget: int, objective: Objective, gain: Gain
) -> tuple[Candidates, tuple[Subset, ...]]:
    """The subsets chosen, () where no choice serves all tasks; and the candidates, with those that were added."""
    rows = solve(candidates.gains(gain), budget, objective)
    while rows is not None and not candidates.every:
        chosen = [candidates.subsets[row] for row in rows]
        more = _neighbours(chosen, candidates.tasks, largest).difference(candidates.subsets)
        if not more:
            break
        value = _value(candidates.gains(gain)[list(rows)], objective)
        candidates = _with(table, candidates, more)
        rows = solve(candidates.gains(gain), budget, objective)
        assert rows is not None  # the earlier choice is still among the candidates
        if _value(candidates.gains(gain)[list(rows)], objective) <= value:
            rows = tuple(candidates.subsets.index(members) for members in chosen)
            break
    return candidates, tuple(candidates.subsets[row] for row in rows or ())


def solve(gains: Array, budget: int, objective: Objective = "total") -> tuple[int, ...] | None:
    """Rows of at most `budget` models that serve all tasks with the largest objective; None where there are none.

    Every row that is returned serves a task, by `assigned`.

    Args:
        gains: float64 (N, M); NaN where a model cannot serve a task.
        budget: models that may be chosen.
        objective: see `group`.
    """
    rows = _largest_total(gains, budget)
    if rows is None:
        return None
    if objective == "worst":
        bar = _highest_worst(gains, budget, float(np.fmax.reduce(gains[rows]).min()))
        rows = _largest_total(np.where(gains >= bar, gains, np.nan), budget)
        assert rows is not None  # the bar was found to be within reach
    return tuple(sorted({rows[at] for at in assigned(gains[rows]).tolist()}))


def assigned(gains: Array) -> NDArray[np.int64]:
    """(M,): which of the chosen models (rows) serves each task, the first among equals."""
    return np.asarray(np.argmax(np.where(np.isnan(gains), -np.inf, gains), axis=0))


def _value(gains: Array, objective: Objective) -> tuple[float, float]:
    """What an objective compares: (the worst gain, or 0; the total)."""
    best = np.nanmax(gains, axis=0)
    return (float(best.min()) if objective == "worst" else 0.0), float(best.sum())


def _largest_total(gains: Array, budget: int) -> list[int] | None:
    """Maximise sum y_iT g_iT over assignments y to at most `budget` chosen T, each task assigned once.

    x_T says whether T is chosen, y_iT <= x_T whether it serves i; with x whole numbers the y come out whole.
    """
    shortlist = _shortlist(gains, budget)
    gains = gains[shortlist]
    model, task = np.nonzero(~np.isnan(gains))
    n, m, pairs = *gains.shape, len(model)
    if len(np.unique(task)) < m:
        return None
    y, one = n + np.arange(pairs), np.ones(pairs)
    served = coo_array((one, (task, y)), shape=(m, n + pairs))
    opened = coo_array(
        (np.concatenate([one, -one]), (np.tile(np.arange(pairs), 2), np.concatenate([y, model]))),
        shape=(pairs, n + pairs),
    )
    count = coo_array((np.ones(n), (np.zeros(n, int), np.arange(n))), shape=(1, n + pairs))
    answer = milp(
        np.concatenate([np.zeros(n), -gains[model, task]]),
        integrality=np.repeat([1, 0], [n, pairs]),
        bounds=Bounds(0, 1),
        constraints=[
            LinearConstraint(served.tocsc(), 1, 1),
            LinearConstraint(opened.tocsc(), -np.inf, 0),
            LinearConstraint(count.tocsc(), 0, budget),
        ],
        options={"mip_rel_gap": 0.0},
    )
    if answer.x is None:
        return None
    return [int(row) for row in shortlist[answer.x[:n] > 0.5]]


def _shortlist(gains: Array, budget: int) -> NDArray[np.int64]:
    """Candidates that may be in a best choice; the others are proven not to be.

    Lagrangian relaxation of "each task is assigned once", with a price for each task: at any prices the `budget`
    candidates worth most, each worth the sum of what its gains exceed the prices by, bound the total from above. A
    candidate that pushes this bound below a total that some choice reaches is in no better choice.
    """
    n, m = gains.shape
    known = np.isfinite(gains)
    if n <= budget or not known.any(axis=0).all():
        return np.arange(n)
    low, high = float(gains[known].min()), float(gains[known].max())
    # A task left out costs more than any choice that serves all can lose.
    filled = np.where(known, gains, low - m * (high - low) - 1.0)
    prices, step, since = filled.max(axis=0), 2.0, 0
    reached, bound, keep = -np.inf, np.inf, np.ones(n, bool)
    for _ in range(_ITERATIONS):
        above = np.maximum(filled - prices, 0.0)
        worth = above.sum(axis=1)
        order = np.argpartition(-worth, budget - 1)
        top = order[:budget]
        least = worth[top].min()
        limit = float(prices.sum() + worth[top].sum())
        total = float(filled[top].max(axis=0).sum())
        if total > reached:
            reached = max(reached, _exchanged(filled, top.tolist()))
        slack = 1e-9 * (abs(reached) + 1.0)
        # With T in, and were it not among those worth most, the least of them would be out.
        with_it = limit - least + worth
        with_it[top] = limit
        keep &= with_it >= reached - slack
        if limit < bound - slack:
            bound, since = limit, 0
        else:
            since += 1
            if since >= 10:
                step, since = step / 2, 0
        slope = 1.0 - (above[top] > 0).sum(axis=0)
        size = float(slope @ slope)
        if bound <= reached + slack or size == 0 or step < 1e-3:
            break
        prices = prices - step * (limit - reached) / size * slope
    return np.flatnonzero(keep)


def _exchanged(filled: Array, chosen: list[int]) -> float:
    """The total of a choice after exchanging one model at a time for the best other, until none improves it."""
    total = float(filled[chosen].max(axis=0).sum())
    while True:
        before = total
        for place in range(len(chosen)):
            rest = np.delete(filled[chosen], place, axis=0).max(axis=0, initial=-np.inf)
            totals = np.maximum(filled, rest).sum(axis=1)
            row = int(totals.argmax())
            if totals[row] > total:
                chosen[place], total = row, float(totals[row])
        if total <= before:
            return total


def _highest_worst(gains: Array, budget: int, reached: float) -> float:
    """The largest gain that `budget` models can give every task at once, at least the one that is `reached`."""
    ceiling = np.fmax.reduce(gains).min()
    values = np.unique(gains[(gains >= reached) & (gains <= ceiling)])
    low, high = 0, len(values) - 1  # the answer is between values[low], which is within reach, and values[high]
    while low < high:
        middle = (low + high + 1) // 2
        if _coverable(gains >= values[middle], budget):
            low = middle
        else:
            high = middle - 1
    return float(values[low])


def _coverable(covers: NDArray[np.bool_], budget: int) -> bool:
    """Whether at most `budget` rows of a bool (N, M) cover all columns."""
    rows = np.unique(covers, axis=0)
    shared = rows.astype(np.float32) @ rows.T.astype(np.float32)
    within = shared == rows.sum(axis=1)[:, None]
    np.fill_diagonal(within, False)
    rows = rows[~within.any(axis=1)]  # a row that another one contains is never needed
    if not rows.any(axis=0).all():
        return False
    n = len(rows)
    constraint = LinearConstraint(rows.T.astype(float), 1, np.inf)
    answer = milp(np.ones(n), integrality=np.ones(n, int), bounds=Bounds(0, 1), constraints=[constraint])
    return answer.x is not None and round(answer.fun) <= budget


def _all_at_their_best(candidates: Candidates, chosen: Sequence[Subset], gain: Gain) -> bool:
    """Whether no further model could gain anything for any task."""
    gains = candidates.gains(gain)
    rows = [candidates.subsets.index(members) for members in chosen]
    return bool((np.fmax.reduce(gains[rows], axis=0) >= np.fmax.reduce(gains, axis=0)).all())


def _improving(choices: Sequence[Choice], objective: Objective) -> tuple[Choice, ...]:
    """Those that gain something over every smaller budget."""
    front: list[Choice] = []
    for one in choices:
        if front:
            worse = one.worst < front[-1].worst - _TINY if objective == "worst" else False
            better = objective == "worst" and one.worst > front[-1].worst + _TINY
            if worse or not (better or one.total > front[-1].total + _TINY):
                continue
        front.append(one)
    return tuple(front)


# What a choice is worth -----------------------------------------------------------------------------------------------


def _choice(table: ScoreTable, candidates: Candidates, budget: int, chosen: Sequence[Subset], gain: Gain) -> Choice:
    rows = [candidates.subsets.index(members) for members in chosen]
    gains = candidates.gains(gain)[rows]
    by = assigned(gains)
    served = [_served(table, candidates, rows[model], i, float(gains[model, i])) for i, model in enumerate(by.tolist())]
    models = [
        Model(
            candidates.subsets[row],
            tuple(one for one, model in zip(served, by.tolist(), strict=True) if model == place),
            not candidates.measured[row],
        )
        for place, row in enumerate(rows)
    ]
    used = sorted((one for one in models if one.serves), key=lambda one: (-len(one.subset), one.subset))
    predicted = any(one.predicted for one in served)
    low = high = math.nan
    if not predicted:
        # Sums of paired differences are paired differences: one interval for all, with what the tasks share.
        blocks, draws = _sums(table, candidates, [rows[model] for model in by], gain)
        whole = paired(blocks, draws)
        low, high = whole.low, whole.high
    values = [one.relative for one in served]
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
        found = difference(table, members, (task,), task)
        low, high = found.low, found.high
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
    known = np.flatnonzero(candidates.measured)
    rows = [table.rows[candidates.subsets[row]] for row in known]
    at = [table.tasks.index(name) for name in candidates.tasks]
    alone = [table.rows[name,] for name in candidates.tasks]
    scale, original = candidates.scale(gain), candidates.gains(gain)

    def gains_of(scores: Array) -> Array:
        """The candidates' gains where the measured ones score `scores` (B, M of the table)."""
        gains = original.copy()
        gains[known] = (scores[rows][:, at] - scores[alone, at]) / scale
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


def _notes(
    candidates: Candidates,
    choice: Choice,
    certainty: Certainty | None,
    largest: int,
    overlaps: Iterable[tuple[str, str]],
) -> tuple[str, ...]:
    """What the reader of a choice must know, in words."""
    notes = []
    if choice.predicted:
        notes.append(
            "Models marked ? were not trained in every block: their scores are predictions, chosen because they are "
            "high, so they are too high more often than not. Train them before believing them (--train)."
        )
    if certainty is not None:
        notes.append(
            f"Chosen again on {certainty.draws} bootstrap draws of blocks and patients, the same models win in "
            f"{certainty.same:.0%}."
        )
        if math.isfinite(certainty.held_out):
            notes.append(
                f"The total gain was measured on the scores that chose: it is too large on average, and its interval "
                f"does not know of the choosing. Chosen on all blocks but one and measured on that one, it is "
                f"{certainty.held_out:+.3f}. The test patients were not read."
            )
    if not candidates.every:
        notes.append(
            f"Not all subsets of at most {largest} tasks were looked at, but {len(candidates.subsets)}: those that "
            "were trained, and the neighbours of what was chosen."
        )
    if weak := [task for task, one in choice.served.items() if one.gain < 0]:
        notes.append(
            f"Served worse than by a model of their own, because there are no more than {choice.budget} models: "
            f"{some(weak, 20)}."
        )
    shared = [pair for pair in overlaps if any(set(pair) <= set(model.subset) for model in choice.models)]
    if shared:
        names = "; ".join(" and ".join(pair) for pair in shared)
        notes.append(f"Nested or near-identical targets share a model: {names}.")
    return tuple(notes)


def record(found: Grouping) -> dict[str, Any]:
    """A grouping as plain values for tables and JSON; NaN is None."""
    certainty = found.certainty
    return {
        "objective": found.objective,
        "gain": found.gain,
        "max_size": found.max_size,
        "candidates": len(found.candidates.subsets),
        "measured": int(found.candidates.measured.sum()),
        **_plain_choice(found.choice, certainty),
        "unmeasured": [" + ".join(members) for members in found.unmeasured],
        "certainty": None
        if certainty is None
        else {"draws": certainty.draws, "same": certainty.same, "held_out": _number(certainty.held_out)},
        "front": [
            {
                "models": len(one.models),
                "trained_tasks": sum(len(model.subset) for model in one.models),
                "total": one.total,
                "low": _number(one.low),
                "high": _number(one.high),
                "worst": one.worst,
                "predicted": one.predicted,
                "subsets": [" + ".join(model.subset) for model in one.models],
            }
            for one in found.front
        ],
        "notes": list(found.notes),
    }


def _plain_choice(choice: Choice, certainty: Certainty | None) -> dict[str, Any]:
    return {
        "budget": choice.budget,
        "models": [
            {
                "tasks": list(model.subset),
                "predicted": model.predicted,
                "chosen_again": None if certainty is None else certainty.models[model.subset],
                "serves": [
                    {field.name: _number(getattr(one, field.name)) for field in fields(one)} for one in model.serves
                ],
            }
            for model in choice.models
        ],
        "total": choice.total,
        "low": _number(choice.low),
        "high": _number(choice.high),
        "worst": choice.worst,
        "predicted": choice.predicted,
    }


def _number(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
