"""Task-interaction games with known exact TIM scores, for tests and benchmarks.

A game gives every source task i a value f_i(T) on the subsets T that hold i. Values are scaled so that the standard
deviation of the exact off-diagonal TIM scores is 1; noise is stated in that unit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tim_search.ledger.table import ScoreTable

Array = NDArray[np.float64]
Membership = NDArray[np.bool_]
#: Values of source i on rows of the other tasks: (i, others (n, M - 1) of 0 and 1) -> (n,).
Value = Callable[[int, Array], Array]


@dataclass(frozen=True, eq=False)
class Game:
    """`value(i, others)` noise-free values; `delta` (M, M) exact TIM scores, NaN on the diagonal."""

    name: str
    n_tasks: int
    value: Value = field(repr=False)
    delta: Array = field(repr=False)
    scale: float = 1.0

    def scores(self, membership: Membership) -> Array:
        """Noise-free scores (B, M); NaN where the task is not in the subset."""
        out = np.full(membership.shape, np.nan)
        for i in range(self.n_tasks):
            rows = membership[:, i]
            out[rows, i] = self.value(i, np.delete(membership[rows], i, axis=1).astype(float)) / self.scale
        return out

    def run(self, membership: Membership, noise: float, rng: np.random.Generator) -> Array:
        """Scores of one training a subset: noise of this standard deviation, 30 % of its variance shared in a run."""
        shared = rng.normal(size=(len(membership), 1))
        own = rng.normal(size=membership.shape)
        scores: Array = self.scores(membership) + noise * (np.sqrt(0.3) * shared + np.sqrt(0.7) * own)
        return scores


def saturating(n_tasks: int, seed: int, third_order: float = 0.0) -> Game:
    """tanh of latent affinities, pairwise synergies and a growing cost of size; at most 20 tasks (enumerated).

    `third_order` adds dense terms z_j z_k z_l (in codes of +-1) with this share of each source's variance: they leave
    every TIM score as it is and are noise to any estimator of second order.
    """
    m, q = n_tasks, n_tasks - 1
    rng = np.random.default_rng([m, seed, 1])
    main = rng.normal(size=(m, 3)) @ rng.normal(size=(3, m)) / np.sqrt(3) + 0.6 * rng.normal(size=(m, m)) + 0.3
    a = np.array([np.delete(main[i], i) for i in range(m)])
    # The variance of the interactions proper is half that of the main effects: sum b^2 / 16 = sum a^2 / 4 / 2.
    b = np.triu(rng.normal(size=(m, q, q)), 1)
    b *= np.sqrt(2 * (a**2).sum(1) / (b**2).sum((1, 2)))[:, None, None]
    cost = rng.uniform(0.1, 0.5, m) / q
    third = rng.normal(size=(m, q, q, q))
    low = np.tril_indices(q)
    third[:, low[0], low[1], :] = 0.0
    third[:, :, low[0], low[1]] = 0.0

    def latent(i: int, x: Array) -> Array:
        return np.asarray(x @ a[i] + ((x @ b[i]) * x).sum(1) - cost[i] * x.sum(1) ** 2)

    every = _cube(q)
    latents = [latent(i, every) for i in range(m)]
    centre, spread = [u.mean() for u in latents], [2 * u.std() for u in latents]
    third *= (
        np.sqrt(third_order)
        * np.array([c * np.tanh((u - u0) / c) for u, u0, c in zip(latents, centre, spread, strict=True)]).std(1)
        / np.sqrt((third**2).sum((1, 2, 3)))
    )[:, None, None, None]

    def value(i: int, x: Array) -> Array:
        bounded = spread[i] * np.tanh((latent(i, x) - centre[i]) / spread[i])
        if third_order:
            z = 2 * x - 1
            bounded = bounded + np.einsum("nj,nk,nl,jkl->n", z, z, z, third[i], optimize=True)
        return np.asarray(bounded)

    return _enumerated(f"saturating{' + third order' if third_order else ''}", m, value)


def extremes(n_tasks: int, seed: int) -> Game:
    """Best helper, worst harmer: max + 0.7 min + 0.25 sum of the affinities in S, a size penalty (enumerated)."""
    m = n_tasks
    rng = np.random.default_rng([m, seed, 2])
    a = rng.normal(size=(m, m - 1))

    def value(i: int, x: Array) -> Array:
        inside = np.where(x > 0, a[i], np.nan)
        some = x.any(axis=1)
        best = np.zeros(len(x))
        best[some] = np.nanmax(inside[some], axis=1) + 0.7 * np.nanmin(inside[some], axis=1)
        return np.asarray(best + 0.25 * x @ a[i] - 0.1 * x.sum(1) ** 2 / m)

    return _enumerated("extremes", m, value)


def quadratic(n_tasks: int, seed: int, second_order: float = 0.5) -> Game:
    """Any number of tasks, closed form: half of all TIM scores exactly 0, sparse synergies, a capacity term.

    `second_order` is the variance of second order relative to that of first order, half of it the capacity term
    sum_{j<k} z_j z_k; 0 gives an additive game with null players.
    """
    m, q = n_tasks, n_tasks - 1
    rng = np.random.default_rng([m, seed, 3])
    delta = np.full((m, m), np.nan)
    cells = np.argwhere(~np.eye(m, dtype=bool))
    cells = cells[rng.permutation(len(cells))]
    values = np.zeros(len(cells))
    values[: len(cells) // 2] = rng.normal(size=len(cells) // 2)
    delta[tuple(cells.T)] = values / values.std()
    main = np.array([np.delete(delta[i], i) for i in range(m)]) / 2

    n_pairs = q * (q - 1) // 2
    variance = second_order * q / 4
    pairs = np.zeros((m, q, q))
    upper = np.triu_indices(q, 1)
    for i in range(m):
        chosen = rng.permutation(n_pairs)[: 2 * q]
        pairs[i, upper[0][chosen], upper[1][chosen]] = rng.normal(size=len(chosen))
    pairs *= np.sqrt(variance / 2 / np.maximum((pairs**2).sum((1, 2)), 1e-300))[:, None, None]
    pairs[:, upper[0], upper[1]] -= np.sqrt(variance / 2 / max(n_pairs, 1))

    def value(i: int, x: Array) -> Array:
        z = 2 * x - 1
        return np.asarray(z @ main[i] + ((z @ pairs[i]) * z).sum(1))

    return Game("quadratic" if second_order else "additive", m, value, delta)


def random_table(n_tasks: int, seed: int) -> tuple[Membership, Array]:
    """All subsets and independent random scores: a game with interactions of every order."""
    rng = np.random.default_rng([n_tasks, seed, 4])
    membership = _cube(n_tasks)[1:] > 0
    membership = membership[rng.permutation(len(membership))]
    return membership, np.where(membership, rng.normal(size=membership.shape), np.nan)


def searched(
    game: Game,
    membership: Membership,
    rng: np.random.Generator,
    *,
    n_blocks: int = 5,
    noise: float = 0.3,
    seed_effect: float = 0.0,
    patient_effect: float = 0.0,
    n_draws: int = 50,
    sliced: bool = False,
    folds: int | None = None,
) -> ScoreTable:
    """A finished search of several blocks: each has its level, noise, and effects shared by all of its runs.

    Seed and patient effects have this standard deviation on the TIM scores of one block; the bootstrap replicates see
    the patients' part alone. `sliced`: every block trains its own share of the subsets. `folds`: block b
    is evaluated on the patients of fold b modulo this number, by default on its own.
    """
    b, m = membership.shape
    z = np.where(membership, 1.0, -1.0)
    scores = np.full((b, n_blocks, m), np.nan)
    trained = np.zeros((b, n_blocks), bool)
    replicates = np.full((b, n_blocks, m, n_draws), np.nan, np.float32) if patient_effect else None

    def effects(size: float, *shape: int) -> Array:
        drawn = size / 2 * rng.normal(size=(*shape, m, m))
        drawn[..., np.arange(m), np.arange(m)] = 0.0
        return np.asarray(drawn)

    n_folds = folds or n_blocks
    evaluated = [(effects(patient_effect), effects(patient_effect, n_draws))]
    for block in range(n_blocks):
        if 1 < n_folds > block:
            evaluated[block:] = [(effects(patient_effect), effects(patient_effect, n_draws))]
        patients, draws = evaluated[block % n_folds]
        rows = np.arange(b) % n_blocks == block if sliced else np.ones(b, bool)
        values = game.run(membership, noise, rng) + z @ (effects(seed_effect) + patients).T + rng.normal(size=m)
        scores[rows, block], trained[rows, block] = values[rows], True
        if replicates is not None:
            replicates[rows, block] = (values[:, :, None] + np.einsum("tj,rij->tir", z, draws))[rows]
    names = tuple(f"task{index:02d}" for index in range(m))
    blocks = tuple((block, block % n_folds) for block in range(n_blocks))
    return ScoreTable(names, blocks, membership, scores, trained, replicates)


def iid(n_tasks: int, budget: int, rng: np.random.Generator) -> Membership:
    """Independent uniform non-empty subsets."""
    rows = rng.random((budget, n_tasks)) < 0.5
    while not (some := rows.any(axis=1)).all():
        rows[~some] = rng.random((int((~some).sum()), n_tasks)) < 0.5
    return rows


def lose_large(membership: Membership, scores: Array, rng: np.random.Generator, share: float = 0.8) -> Array:
    """The scores with this share of the runs of more than half of the tasks failed."""
    large = membership.sum(1) > membership.shape[1] / 2
    lost = large & (rng.random(len(membership)) < share)
    return np.where(lost[:, None], np.nan, scores)


def rmse(estimate: Array, delta: Array) -> float:
    """Root mean square error over the off-diagonal cells; infinite where a cell is missing."""
    error = (estimate - delta)[~np.eye(len(delta), dtype=bool)]
    return float(np.sqrt(np.mean(error**2))) if np.isfinite(error).all() else float("inf")


def literal(membership: Membership, scores: Array) -> Array:
    """The definition of the TIM score as a double loop over source, task and subset."""
    m = membership.shape[1]
    f = {
        (frozenset(np.flatnonzero(t).tolist()), i): s[i]
        for t, s in zip(membership, scores, strict=True)
        for i in range(m)
    }
    out = np.full((m, m), np.nan)
    for i in range(m):
        for j in range(m):
            if i == j:
                continue
            others = [k for k in range(m) if k not in (i, j)]
            total = 0.0
            for code in range(2 ** len(others)):
                rest = frozenset(k for bit, k in enumerate(others) if code >> bit & 1)
                total += f[rest | {i, j}, i] - f[rest | {i}, i]
            out[i, j] = total / 2 ** (m - 2)
    return out


def _enumerated(name: str, m: int, value: Value) -> Game:
    every = _cube(m - 1)
    delta = np.full((m, m), np.nan)
    for i in range(m):
        v = value(i, every)
        delta[i, [j for j in range(m) if j != i]] = v @ (2 * every - 1) / 2 ** (m - 2)
    scale = float(delta[~np.eye(m, dtype=bool)].std())
    return Game(name, m, value, delta / scale, scale)


def _cube(n: int) -> Array:
    return (np.arange(2**n)[:, None] >> np.arange(n) & 1).astype(float)
