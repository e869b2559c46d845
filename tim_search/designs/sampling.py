"""Which subsets to train: every subset, every small one, a balanced sample, or a design for one source task.

All functions return membership: bool (B, M), row b true for the tasks of the b-th subset. No row is empty and none
occurs twice. The sampled designs are functions of their seed alone and extendable: the first rows of a larger budget
are the rows of a smaller one, so a search can grow round by round without changing what it has trained.

Why not draw subsets at random? An estimate of "what does j add to i?" is disturbed by whatever else differs between the
subsets with and without j. A design that balances every pair, triple and quadruple of tasks removes most of that
disturbance: `hybrid` starts with a folded-over Hadamard block (all triples of tasks in balance) and then adds the
subset that keeps all interactions up to the fourth order in best balance. Every subset it picks is, taken by itself,
uniformly distributed over all subsets, as the full TIM score (a mean over all subsets) asks for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain, combinations
from math import comb

import numpy as np
from numpy.typing import NDArray

from tim_search.types import BadInput
from tim_search.types.columns import Subsets

Membership = NDArray[np.bool_]

#: Largest number of tasks whose subsets are all listed (2^20 - 1 rows).
MAX_ENUMERATED_TASKS = 20
#: Largest number of rows `sized` lists.
MAX_ROWS = 2**20
#: How many random subsets compete for each next row of `hybrid`.
N_CANDIDATES = 64
#: What imbalance of order 1, 2, 3, 4 costs in `hybrid`.
ORDER_WEIGHTS = (4.0, 4.0, 1.0, 0.25)


def exact(n_tasks: int) -> Membership:
    """Every non-empty subset of `n_tasks` tasks, small ones first: bool (2^M - 1, M).

    Raises:
        BadInput: fewer than one task, or more than `MAX_ENUMERATED_TASKS`.
    """
    _check_tasks(n_tasks)
    if n_tasks > MAX_ENUMERATED_TASKS:
        raise BadInput(
            f"The exact design lists all 2^{n_tasks} - 1 subsets of {n_tasks} tasks; at most {MAX_ENUMERATED_TASKS} "
            "tasks can be enumerated. Use the sampled design, or `sized` for all subsets up to a few tasks."
        )
    return sized(n_tasks, n_tasks)


def sized(n_tasks: int, size: int) -> Membership:
    """Every subset of at most `size` tasks, small ones first, then lexicographic: bool (B, M).

    Raises:
        BadInput: `size` outside 1..M, or more than `MAX_ROWS` subsets.
    """
    _check_tasks(n_tasks)
    if not 1 <= size <= n_tasks:
        raise BadInput(f"The largest subset size must lie between 1 and the number of tasks, {n_tasks}; got {size}.")
    n_rows = sum(comb(n_tasks, k) for k in range(1, size + 1))
    if n_rows > MAX_ROWS:
        raise BadInput(
            f"{n_tasks} tasks have {n_rows} subsets of at most {size} tasks; at most {MAX_ROWS} can be listed. "
            "Choose a smaller size or the sampled design."
        )
    membership = np.zeros((n_rows, n_tasks), bool)
    row = 0
    for k in range(1, size + 1):
        listed = chain.from_iterable(combinations(range(n_tasks), k))
        members = np.fromiter(listed, np.int16, k * comb(n_tasks, k)).reshape(-1, k)
        membership[row + np.arange(len(members))[:, None], members] = True
        row += len(members)
    return membership


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
    _check_tasks(n_tasks)
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
    _check_tasks(n_tasks)
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


def subsets(membership: Membership, names: Sequence[str]) -> Subsets:
    """The rows of a membership array as subsets of task names, in order.

    Raises:
        BadInput: as many names as columns are needed; an empty row is no subset.
    """
    membership = np.asarray(membership, bool)
    if membership.ndim != 2 or membership.shape[1] != len(names):
        raise BadInput(f"A membership of {len(names)} tasks has {len(names)} columns; got shape {membership.shape}.")
    if len(membership) and not membership.any(axis=1).all():
        raise BadInput(f"A subset holds at least one task; row {int(np.argmin(membership.any(axis=1)))} is empty.")
    return Subsets.of_members(membership, names)


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
    while (matrix := _hadamard(order)) is None:
        order += 1
    columns = rng.permutation(order)[:n_columns]
    block = matrix[rng.permutation(order)][:, columns] * rng.choice((-1, 1), n_columns)
    return np.stack([block, -block], axis=1).reshape(-1, n_columns) > 0


def _hadamard(order: int) -> NDArray[np.int8] | None:
    """A Hadamard matrix of this order by Sylvester's or Paley's constructions, or None where neither reaches it."""
    if order == 1:
        return np.ones((1, 1), np.int8)
    if order > 2 and order % 4:
        return None
    if _is_odd_prime(order - 1) and order % 4 == 0:
        # Paley I: q = order - 1 = 3 mod 4, the Jacobsthal matrix is skew-symmetric.
        core = np.ones((order, order), np.int8)
        core[1:, 1:] = _jacobsthal(order - 1) + np.eye(order - 1, dtype=np.int8)
        core[1:, 0] = -1
        return core
    half = order // 2
    if _is_odd_prime(half - 1) and (half - 1) % 4 == 1:
        # Paley II: q = order / 2 - 1 = 1 mod 4; the conference matrix C is symmetric, and C x [1 1; 1 -1] +
        # I x [1 -1; -1 -1] is Hadamard (x: Kronecker product).
        conference = np.ones((half, half), np.int8)
        conference[0, 0] = 0
        conference[1:, 1:] = _jacobsthal(half - 1)
        plus = np.array([[1, 1], [1, -1]], np.int8)
        minus = np.array([[1, -1], [-1, -1]], np.int8)
        return np.asarray(np.kron(conference, plus) + np.kron(np.eye(half, dtype=np.int8), minus), np.int8)
    smaller = _hadamard(half)
    return None if smaller is None else np.block([[smaller, smaller], [smaller, -smaller]])


def _jacobsthal(prime: int) -> NDArray[np.int8]:
    """Q[a, b] = Legendre symbol of a - b modulo an odd prime."""
    legendre: NDArray[np.int8] = np.full(prime, -1, np.int8)
    legendre[np.arange(1, prime, dtype=np.int64) ** 2 % prime] = 1
    legendre[0] = 0
    index = np.arange(prime)
    return np.asarray(legendre[(index[:, None] - index[None, :]) % prime], np.int8)


def _is_odd_prime(number: int) -> bool:
    return number > 2 and all(number % divisor for divisor in range(2, int(number**0.5) + 1))


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


def _check_tasks(n_tasks: int) -> None:
    if n_tasks < 1:
        raise BadInput(f"A design needs at least one task; got {n_tasks}.")


def _check_budget(budget: int, limit: int, reason: str) -> None:
    if budget < 1:
        raise BadInput(f"The budget must be at least one subset; got {budget}.")
    if budget > limit:
        raise BadInput(f"The budget of {budget} subsets is too large: only {reason}. Ask for at most {limit}.")
