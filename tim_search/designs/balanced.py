"""Balanced samples of all subsets, for the whole TIM matrix or for the row of one source task.

The designs are functions of their seed alone and extendable: the first rows of a larger budget are the rows of a
smaller one, so a search can grow round by round without changing what it has trained.

Why not draw subsets at random? An estimate of "what does j add to i?" is disturbed by whatever else differs between the
subsets with and without j. A design that balances every pair, triple and quadruple of tasks removes most of that
disturbance: `hybrid` starts with a folded-over Hadamard block (all triples of tasks in balance) and then adds the
subset that keeps all interactions up to the fourth order in best balance. Every subset it picks is, taken by itself,
uniformly distributed over all subsets, as the full TIM score (a mean over all subsets) asks for.
"""

from __future__ import annotations

from collections.abc import Callable
from math import comb

import numpy as np
from numpy.typing import NDArray

from tim_search.designs.hadamard import hadamard
from tim_search.designs.listed import Membership, check_tasks
from tim_search.types import BadInput

#: Rows of the largest sample; each takes a look at all rows before it.
MAX_SAMPLED = 100_000
#: How many random subsets compete for each next row of `hybrid`.
N_CANDIDATES = 64
#: What imbalance of order 1, 2, 3, 4 costs in `hybrid`.
ORDER_WEIGHTS = (4.0, 4.0, 1.0, 0.25)


def hybrid(n_tasks: int, budget: int, seed: int) -> Membership:
    """The default sample for a whole TIM matrix: bool (budget, M).

    1. A Hadamard matrix of the smallest constructible order n_H >= M; M random columns with random signs, rows
       shuffled, each row h followed by -h: up to 2 n_H subsets {j: h_j = +1}, balanced up to triples of tasks.
    2. Each next row is the best of 64 uniform random subsets T: it minimises the sum over all earlier T' of
       sum_{k=1..4} w_k K_k(d(T, T')), with d the Hamming distance and K_k the Krawtchouk polynomial
       K_k(d) = sum_s (-1)^s C(d, s) C(M - d, k - s). The sum of K_k over all pairs of rows is the squared imbalance
       of all interactions of order k. It does not change when a task's membership is flipped in all rows, which is
       why each row is marginally uniform.

    The empty subset and repeats are skipped.

    Raises:
        BadInput: a budget below 1, or above the 2^M - 1 subsets that exist.
    """
    check_tasks(n_tasks)
    _check_budget(budget, 2**n_tasks - 1, f"{n_tasks} tasks have 2^{n_tasks} - 1 = {2**n_tasks - 1} subsets")
    rng = np.random.default_rng(seed)
    rows = _Rows(n_tasks, budget, 2**n_tasks - 1, lambda: _all_rows(n_tasks))
    for row in _folded_hadamard(n_tasks, rng):
        rows.add(row)

    imbalance = np.sum([w * _krawtchouk(n_tasks, k) for k, w in enumerate(ORDER_WEIGHTS, start=1)], axis=0)
    while not rows.full:
        candidates = rows.unused(rng, N_CANDIDATES)
        distance = (n_tasks - _signs(candidates) @ _signs(rows.filled).T) / 2
        cost = imbalance[np.rint(distance).astype(np.intp)].sum(axis=1)
        rows.add(candidates[int(np.argmin(cost))])
    return rows.filled


def single_source(n_tasks: int, source: int, budget: int, seed: int) -> Membership:
    """Subsets for the row of one source task: bool (budget, M), all of which hold `source`.

    Folded-over Hadamard blocks on the other M - 1 tasks, each with its own random columns, signs and row order: 88
    rows a block at M = 44. The main effects of the other tasks are then free of each other and of all interactions of
    two tasks, which makes least squares as good as it can be. Rows of other sources cannot be estimated from it: the
    source is never absent.

    Raises:
        BadInput: `source` is no task, fewer than two tasks, or a budget outside 1..2^(M-1).
    """
    check_tasks(n_tasks)
    if n_tasks < 2:
        raise BadInput("A single-source design needs at least two tasks; got 1.")
    if not 0 <= source < n_tasks:
        raise BadInput(f"The source task must be a number from 0 to {n_tasks - 1}; got {source}.")
    limit = 2 ** (n_tasks - 1)
    _check_budget(budget, limit, f"2^{n_tasks - 1} = {limit} subsets of {n_tasks} tasks hold the source")
    rng = np.random.default_rng(seed)

    def with_source(others: Membership) -> Membership:
        return np.insert(others, source, True, axis=-1)

    rows = _Rows(n_tasks, budget, limit, lambda: with_source(_all_rows(n_tasks - 1)))
    while not rows.full:
        if rows.crowded:
            rows.add(rows.unused(rng, 1)[0])
        else:
            for row in _folded_hadamard(n_tasks - 1, rng):
                rows.add(with_source(row))
    return rows.filled


class _Rows:
    """Distinct, non-empty rows collected up to a budget; further rows are ignored.

    `universe` lists all rows that may be taken; it is called only when half of them are.
    """

    def __init__(self, n_tasks: int, budget: int, n_possible: int, universe: Callable[[], Membership]) -> None:
        self._store = np.zeros((budget, n_tasks), bool)
        self._count = 0
        self._taken: set[bytes] = set()
        self._n_possible = n_possible
        self._universe = universe
        self._left: Membership | None = None

    @property
    def filled(self) -> Membership:
        return self._store[: self._count]

    @property
    def full(self) -> bool:
        return self._count == len(self._store)

    @property
    def crowded(self) -> bool:
        """At least half of all rows are taken: drawing at random would mostly meet taken ones."""
        return 2 * self._count >= self._n_possible

    def add(self, row: Membership) -> None:
        if self.full or not self._is_new(row):
            return
        self._store[self._count] = row
        self._count += 1
        self._taken.add(np.packbits(row).tobytes())
        if self._left is not None:
            self._left = self._left[(self._left != row).any(axis=1)]

    def unused(self, rng: np.random.Generator, count: int) -> Membership:
        """At least one and at most `count` uniform random rows that are not taken."""
        if self.crowded:
            if self._left is None:
                every = self._universe()
                self._left = every[[self._is_new(row) for row in every]]
            return self._left[rng.permutation(len(self._left))[:count]]
        while True:
            draw = rng.random((count, self._store.shape[1])) < 0.5
            new = draw[[self._is_new(row) for row in draw]]
            if len(new):
                return new

    def _is_new(self, row: Membership) -> bool:
        return bool(row.any()) and np.packbits(row).tobytes() not in self._taken


def _folded_hadamard(n_columns: int, rng: np.random.Generator) -> Membership:
    """A random folded-over Hadamard block: bool (2 n_H, n_columns), each row followed by its complement."""
    order = n_columns
    while (matrix := hadamard(order)) is None:
        order += 1
    columns = rng.permutation(order)[:n_columns]
    block = matrix[rng.permutation(order)][:, columns] * rng.choice((-1, 1), n_columns)
    return np.stack([block, -block], axis=1).reshape(-1, n_columns) > 0


def _krawtchouk(n: int, k: int) -> NDArray[np.float64]:
    """K_k(d) for d = 0..n: the sum over all sets A of k tasks of (-1)^|A ∩ D| for a set D of d tasks."""
    return np.array(
        [sum((-1) ** s * comb(d, s) * comb(n - d, k - s) for s in range(k + 1)) for d in range(n + 1)], float
    )


def _all_rows(n: int) -> Membership:
    """All 2^n rows, the empty one first."""
    return (np.arange(2**n)[:, None] >> np.arange(n) & 1).astype(bool)


def _signs(membership: Membership) -> NDArray[np.float32]:
    return np.where(membership, np.float32(1), np.float32(-1))


def _check_budget(budget: int, limit: int, reason: str) -> None:
    if budget < 1:
        raise BadInput(f"The budget must be at least one subset; got {budget}.")
    if budget > limit:
        raise BadInput(f"The budget of {budget} subsets is too large: only {reason}. Ask for at most {limit}.")
    if budget > MAX_SAMPLED:
        raise BadInput(f"A sample has at most {MAX_SAMPLED:,} subsets; {budget:,} were asked for. Ask for fewer.")
