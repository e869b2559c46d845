"""The best choice of at most so many models, by mixed-integer programming; a proven optimum over the candidates.

docs/grouping.md explains the programmes.
"""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_array

Objective: TypeAlias = Literal["total", "worst"]
OBJECTIVES: tuple[Objective, ...] = get_args(Objective)
Array: TypeAlias = NDArray[np.float64]
_ITERATIONS = 300


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


def value(gains: Array, objective: Objective) -> tuple[float, float]:
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
    y, ones = n + np.arange(pairs), np.ones(pairs)
    served = coo_array((ones, (task, y)), shape=(m, n + pairs))
    opened = coo_array(
        (np.concatenate([ones, -ones]), (np.tile(np.arange(pairs), 2), np.concatenate([y, model]))),
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
    finite = np.isfinite(gains)
    if n <= budget or not finite.any(axis=0).all():
        return np.arange(n)
    low, high = float(gains[finite].min()), float(gains[finite].max())
    # A task left out costs more than any choice that serves all can lose.
    filled = np.where(finite, gains, low - m * (high - low) - 1.0)
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
