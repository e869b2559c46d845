"""The estimators of one row of the TIM matrix: each is a set of linear weights on the scores, with a standard error.

For a source task i with n scored subsets, q = M - 1 other tasks and codes z_tj = +1 where subset t holds task j, -1
where it does not, every estimate is `weights @ scores`, weights (q, n). The weights depend on which subsets were
trained and, for the mixed model, on three variance parameters shared by all sources. Because they are linear, the same
weights applied to one seed's scores, or to scores under other patient weights, give that part of the error.

The mixed model takes a score as

    y = nuisance + sum_j b_j z_j + sum_{j<k} c_jk z_j z_k + d h + noise

with h the standardised sum of all z_j z_k (a function of the subset's size alone), noise of variance s^2, and random
b, c, d of variance s^2 main / q, s^2 pair / (q (q - 1) / 2), s^2 size. The TIM score is 2 b_j. BLUP (best linear
unbiased prediction) estimates it with shrinkage; GLS (generalised least squares) takes b as fixed and serves for
testing. The variance parameters come by REML (restricted maximum likelihood) over all sources.

With many tasks a row has a mean and a variance of its own: b_j = a / sqrt(q) + b'_j with a the same for all j ("any
further task costs this much"), random of variance s^2 mean, and the variance of b' is `main` times a factor of the row.

Where every block of (seed, fold) trains subsets of its own, what a block's runs share can be told from the rest inside
the model: sum_j e_bj z_j joins it, with random e of variance s^2 block / q, one value a block and task.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import comb
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve
from scipy.optimize import minimize, minimize_scalar

Array: TypeAlias = NDArray[np.float64]
Solve: TypeAlias = Callable[[Array], Array]

#: Log-normal prior of the variance parameters, as in `Variances`: medians, one standard deviation of the log.
PRIOR_MEDIAN = (1.0, 0.5, 0.2, 0.2, 0.2)
PRIOR_SD = 2.0
#: ... and of the factor by which a row's main effects vary more than others': standard deviation of the log.
ROW_SD = 0.7
#: Of the share of all subsets that were trained, the power by which what the model leaves over counts as known.
FINITE = 4.0
LOG_BOUND = 12.0
#: Multiply-adds one evaluation of the restricted likelihood may cost; beyond it each source gives a part of its rows.
REML_COST = 6e7
#: Least squares needs this many rows more than columns.
SPARE_ROWS = 4


class Variances(NamedTuple):
    """Variance of main effects, interactions of two tasks, the size term, what a block's runs share, and a row's mean.

    Each is relative to the noise; `block` is 0 where blocks train the same subsets and cannot be told apart, `mean` 0
    where rows have none.
    """

    main: float
    pair: float
    size: float
    block: float = 0.0
    mean: float = 0.0


@dataclass(frozen=True, eq=False)
class CodedScores:
    """The scored subsets of one source task.

    Attributes:
        codes: float64 (n, q) of +1 and -1.
        nuisance: float64 (n, r), orthonormal columns spanning the block effects, the constant among them.
        scores: float64 (n,), mean over blocks.
        shares: float64 (n, k), the part of each block in each of these means where blocks train subsets of their own;
            (n, 0) where the model leaves blocks out.
    """

    codes: Array
    nuisance: Array
    scores: Array
    shares: Array


@dataclass(frozen=True, eq=False)
class Linear:
    """One row of estimates: weights (q, n), standard errors (q,) and residuals of the main-effect model (n,).

    `df` (q,) are the degrees of freedom of the error, infinite for a normal posterior. Rows of `weights` are NaN where
    the estimator has no answer.
    """

    weights: Array
    se: Array
    df: Array
    residual: Array


class Mixed(NamedTuple):
    """What the mixed model says of one row.

    `blup` and `gls` (None where least squares is) have errors that hold the blocks' part too. `second` (q, q) are the
    second-order scores. `block_variance` is the variance of one block's effect on one code, in units of the scores.
    `noise` is the variance of a run's noise: of everything that is in no other term. `small` (None where not asked for)
    is BLUP of the score among small subsets.
    """

    blup: Linear
    gls: Linear | None
    second: Array
    block_variance: float
    noise: float
    small: Linear | None = None


def fit_variances(games: Sequence[CodedScores], *, means: bool = False) -> Variances:
    """REML estimate of the variance parameters shared by all sources, the noise variance of each source profiled out.

    `means`: rows have means.
    A weak log-normal prior keeps parameters in range that the scores say nothing about. Constant scores are left out.
    Where whole games would cost too much, an even, fixed choice of their rows is used.
    """
    usable = [game for game in games if len(game.scores) > game.nuisance.shape[1] + 1 and np.ptp(game.scores) > 0]
    there = [True, True, True, any(game.shares.shape[1] for game in games), means]
    centre = np.log(PRIOR_MEDIAN)[there]

    def variances(logs: Array) -> Variances:
        values = np.zeros(len(there))
        values[there] = np.exp(logs)
        return Variances(*values.tolist())

    if not usable:
        return variances(centre)
    limit = int((REML_COST * 3 / len(usable)) ** (1 / 3))
    likelihoods = [_restricted_likelihood(_thinned(game, limit)) for game in usable]

    def cost(logs: Array) -> float:
        prior, tried = float((((logs - centre) / PRIOR_SD) ** 2).sum()) / 2, variances(logs)
        return prior - sum(likelihood(tried) for likelihood in likelihoods)

    best = minimize(cost, centre, method="L-BFGS-B", bounds=[(-LOG_BOUND, LOG_BOUND)] * len(centre))
    return variances(best.x)


def of_row(game: CodedScores, shared: Variances, n_games: int) -> Variances:
    """The parameters with the variance of main effects that this row has, of `n_games`: the mode of its factor."""
    if len(game.scores) <= game.nuisance.shape[1] + 1 or np.ptp(game.scores) == 0:
        return shared
    likelihood = _restricted_likelihood(_thinned(game, int((REML_COST * 3 / n_games) ** (1 / 3))))

    def cost(log: float) -> float:
        return log**2 / (2 * ROW_SD**2) - likelihood(shared._replace(main=shared.main * float(np.exp(log))))

    best = minimize_scalar(cost, bounds=(-3 * ROW_SD, 3 * ROW_SD), method="bounded", options={"xatol": 0.02})
    return shared._replace(main=shared.main * float(np.exp(best.x)))


def mixed_model(game: CodedScores, variances: Variances, size: int | None = None) -> Mixed:
    """BLUP and GLS of the row, its second-order scores, and BLUP of the score in subsets of at most `size` tasks.

    The last is the mean difference over all S with |S| <= size - 2. In the model it is

        2 b_j + 2 z sum_k c_jk + 2 z (q - 1) d / sqrt(q (q - 1) / 2),    z the mean code of a task over these S,

    and z is 0 over all S, where the full score 2 b_j is left.

    BLUP's error is that of `_shrunk` at the given variance parameters. GLS needs no system of its own:
    adding Z Z' to the covariance changes neither the estimate nor the residual sum of squares where Z is fixed.
    """
    z, w, y = game.codes, game.nuisance, game.scores
    n, q = z.shape
    r = w.shape[1]
    solve, _ = _covariance(game)(variances)
    solved = solve(np.column_stack([w, z, y]))
    vw, vz, vy = solved[:, :r], solved[:, r:-1], solved[:, -1]
    wvw = w.T @ vw
    pz = vz - vw @ np.linalg.solve(wvw, w.T @ vz)
    level = np.linalg.solve(wvw, w.T @ vy)
    alpha = vy - vw @ level
    noise = max(float(y @ alpha), 0.0) / (n - r)

    c, mean = variances.main / q, variances.mean / q
    effects = c * (z.T @ alpha) + mean * (z.T @ alpha).sum()
    residual = y - w @ level - z @ effects
    weights, posterior = _shrunk(z, pz, c, mean)
    blup = Linear(weights, np.sqrt(noise * posterior), np.full(q, np.inf), residual)

    n_pairs = max(q * (q - 1) // 2, 1)
    interactions = 4 * (
        variances.pair / n_pairs * (z.T * alpha) @ z + variances.size / np.sqrt(n_pairs) * (alpha @ _size_term(z))
    )
    small = None
    if size is not None:
        z_mean = mean_code(q, size)
        pair, each = variances.pair / n_pairs, 2 * z_mean * (q - 1) / np.sqrt(n_pairs)
        among = z * z.sum(axis=1, keepdims=True) - 1
        cross = (
            2 * c * z
            + 2 * mean * z.sum(axis=1, keepdims=True)
            + 2 * z_mean * pair * among
            + each * variances.size * _size_term(z)[:, None]
        )
        solved = solve(cross)
        projected = solved - vw @ np.linalg.solve(wvw, w.T @ solved)
        prior = 4 * (c + mean) + 4 * z_mean**2 * (q - 1) * pair + each**2 * variances.size
        left = noise * np.maximum(prior - np.einsum("nj,nj->j", cross, projected), 0.0)
        small = Linear(projected.T, np.sqrt(left), np.full(q, np.inf), residual)
    gls = _generalised(game, vw, vz, vy, c + mean)
    return Mixed(blup, gls, interactions, noise * variances.block / q, noise, small)


def _shrunk(z: Array, pz: Array, main: float, mean: float) -> tuple[Array, Array]:
    """BLUP's weights (q, n) of the scores, and the variance (q,) of its errors relative to the noise.

    A row has 2^q subsets, and no more. With e the noise, its exact score is 2 (b_j + sum of z_j e / 2^q over them all):
    at the end, with all of them trained, what the model leaves over is part of the answer and not to be shrunk. How
    much of e another seed would not repeat cannot be told where each subset is trained once. So the weights are those
    for a part g = (n / 2^q)^`FINITE` of e, which meets the exact score at the end and is nothing in the middle, and the
    error is the larger of that for e all noise and that for e all part of the score. The covariance of the score with y
    is k_j(g) = 2 ((main + g / 2^q) z_j + mean sum_k z_k), the weights P k_j, and the error

        k_j(g)' P k_j(g) - 2 k_j(g)' P k_j(r) + 4 (main + mean + r / 2^q),    r = 0 or 1.
    """
    n, q = z.shape
    subsets = 2.0**q
    own = main + min(1.0, n / subsets) ** FINITE / subsets
    weights = own * pz + mean * pz.sum(axis=1, keepdims=True)
    along, size = np.einsum("nj,nj->j", z, weights), z.sum(axis=1) @ weights
    fixed = (own - 2 * main) * along - mean * size + main + mean
    return 2 * weights.T, 4 * np.maximum(fixed + np.maximum(0.0, 1 - 2 * along) / subsets, 0.0)


def predictor(game: CodedScores, variances: Variances, level: Array) -> Callable[[Array], tuple[Array, Array]]:
    """What predicts, under the model, the noise-free score of other subsets, trained or not.

    Codes (m, q) of subsets -> means and standard deviations (m,). With k* the covariances of a subset's score with the
    n scores and w* its level, the prediction is w* b + k* V^-1 (y - W b), b the GLS estimate of the levels, and its
    variance s^2 (k** - k* V^-1 k*' + r (W' V^-1 W)^-1 r'), r = w* - k* V^-1 W (universal kriging).

    `level` (r,) is the level the subsets are predicted at, in the basis of `game.nuisance`.
    """
    z, w, y = game.codes, game.nuisance, game.scores
    n, q = z.shape
    n_pairs = max(q * (q - 1) // 2, 1)
    solve, _ = _covariance(game)(variances)
    solved = solve(np.column_stack([w, y]))
    vw, vy = solved[:, :-1], solved[:, -1]
    inverse = np.linalg.inv(w.T @ vw)
    beta = inverse @ (w.T @ vy)
    alpha = vy - vw @ beta
    noise = max(float(y @ alpha), 0.0) / (n - w.shape[1])

    def predict(codes: Array) -> tuple[Array, Array]:
        gram, size_term = codes @ z.T, _size_term(codes)
        cross = variances.main / q * gram + variances.pair / (2 * n_pairs) * (gram**2 - q)
        cross += variances.size * np.outer(size_term, _size_term(z))
        prior = variances.main + variances.pair * (q > 1) + variances.size * size_term**2
        rest = level - cross @ vw
        variance = prior - np.einsum("mn,nm->m", cross, solve(cross.T)) + np.einsum("mr,rs,ms->m", rest, inverse, rest)
        return level @ beta + cross @ alpha, np.sqrt(noise * np.maximum(variance, 0.0))

    return predict


def mean_code(q: int, size: int) -> float:
    """Mean code of one of the q - 1 tasks beside j over all their subsets S with |S| <= size - 2; 0 over all S."""
    counts = [comb(q - 1, s) for s in range(min(size - 2, q - 1) + 1)]
    members = sum(s * count for s, count in enumerate(counts)) / sum(counts)
    return 2 * members / (q - 1) - 1 if q > 1 else 0.0


def block_variance(game: CodedScores, variances: Variances) -> float:
    """`Mixed.block_variance` alone."""
    solve, _ = _covariance(game)(variances)
    w, y = game.nuisance, game.scores
    solved = solve(np.column_stack([w, y]))
    left = solved[:, -1] - solved[:, :-1] @ np.linalg.solve(w.T @ solved[:, :-1], w.T @ solved[:, -1])
    noise = max(float(y @ left), 0.0) / (len(y) - w.shape[1])
    return float(noise * variances.block / game.codes.shape[1])


def planned_error(game: CodedScores, variances: Variances, noise: float) -> Array:
    """Standard errors (q,) that GLS will have on a design that is not trained yet, its scores are not looked at.

    NaN where the design cannot tell tasks apart.
    """
    x = np.hstack([game.nuisance, game.codes])
    n, q = game.codes.shape
    if n < x.shape[1] + SPARE_ROWS:
        return np.full(q, np.nan)
    solve, _ = _covariance(game)(variances)
    information = np.linalg.pinv(x.T @ solve(x), rcond=1e-12, hermitian=True)
    identified = _identified(x, np.asarray(np.linalg.pinv(x, rcond=1e-10), np.float64))[-q:]
    variance = np.maximum(np.diag(information)[-q:] - (variances.main + variances.mean) / q, 0.0)
    return np.where(identified, 2 * np.sqrt(noise * variance), np.nan)


def shared_by_blocks(game: CodedScores, weights: Array, block_variance: float) -> Array:
    """Variance (q,) that blocks with effects of variance `block_variance` on every code add to weights @ scores."""
    parts = []
    for share in game.shares.T:
        rows = np.flatnonzero(share)
        parts.append((weights[:, rows] * share[rows]) @ game.codes[rows])
    return np.asarray(block_variance * sum((part**2).sum(axis=1) for part in parts))


def _generalised(game: CodedScores, vw: Array, vz: Array, vy: Array, c: float) -> Linear | None:
    """GLS from the systems solved with the covariance of BLUP, c ZZ' included."""
    x = np.hstack([game.nuisance, game.codes])
    n, r = len(x), game.nuisance.shape[1]
    if n < x.shape[1] + SPARE_ROWS:
        return None
    vx = np.hstack([vw, vz])
    information = np.linalg.pinv(x.T @ vx, rcond=1e-12, hermitian=True)
    inverse = information @ vx.T
    beta = inverse @ game.scores
    rank = int(np.linalg.matrix_rank(x, tol=1e-8))
    noise = max(float(game.scores @ (vy - vx @ beta)), 0.0) / (n - rank)
    identified = _identified(x, np.asarray(np.linalg.pinv(x, rcond=1e-10), np.float64))[r:]
    variance = np.maximum(np.diag(information)[r:] - c, 0.0)
    weights = np.where(identified[:, None], 2 * inverse[r:], np.nan)
    df = np.full(len(identified), float(n - rank))
    return Linear(weights, 2 * np.sqrt(noise * variance), df, game.scores - x @ beta)


def _identified(x: Array, inverse: Array) -> NDArray[np.bool_]:
    """Which coefficients of a design are determined: those whose unit vector lies in its row space."""
    return np.asarray(np.einsum("kn,nk->k", inverse, x) > 1 - 1e-6)


def _restricted_likelihood(game: CodedScores) -> Callable[[Variances], float]:
    covariance = _covariance(game)
    w, y = game.nuisance, game.scores
    n, r = w.shape

    def evaluate(variances: Variances) -> float:
        solve, log_det = covariance(variances)
        solved = solve(np.column_stack([w, y]))
        wvw, wvy = w.T @ solved[:, :r], w.T @ solved[:, r]
        rest = float(y @ solved[:, r] - wvy @ np.linalg.solve(wvw, wvy))
        return -0.5 * float(log_det + np.linalg.slogdet(wvw)[1] + (n - r) * np.log(max(rest, 1e-300)))

    return evaluate


def _covariance(game: CodedScores) -> Callable[[Variances], tuple[Solve, float]]:
    """V = I + main ZZ'/q + pair ((ZZ')^2 - q)/(q (q - 1)) + size hh' + block (ZZ' * AA')/q +
    mean uu'/q: its solver and log|V|.

    Squares and * are elementwise; A (n, k) are the blocks' shares, u = Z 1. V is I + F D F' with the features F = (main
    effects, pairs, h, u, main effects in each block): whichever is smaller, the n x n or the feature system,
    is factored.
    """
    z, shares = game.codes, game.shares
    n, q = z.shape
    k = shares.shape[1]
    n_pairs = q * (q - 1) // 2
    h = _size_term(z)
    if n <= q + n_pairs + 2 + k * q:
        gram = z @ z.T
        total = z.sum(axis=1)
        main_kernel, pair_kernel = gram / q, (gram**2 - q) / max(q * (q - 1), 1)
        block_kernel = gram * (shares @ shares.T) / q if k else np.zeros((1, 1))

        def rows(variances: Variances) -> tuple[Solve, float]:
            v = variances.main * main_kernel + variances.pair * pair_kernel
            v += variances.size * np.outer(h, h) + variances.block * block_kernel
            v += variances.mean / q * np.outer(total, total)
            v[np.diag_indices(n)] += 1
            factor = cho_factor(v, lower=True, overwrite_a=True, check_finite=False)
            log_det = 2 * float(np.log(np.diag(factor[0])).sum())
            return lambda a: np.asarray(cho_solve(factor, a, check_finite=False)), log_det

        return rows

    first, second = np.triu_indices(q, 1)
    in_blocks = [z * share[:, None] for share in shares.T]
    features = np.column_stack([z, z[:, first] * z[:, second], h, z.sum(axis=1), *in_blocks])
    cross = features.T @ features

    def columns(variances: Variances) -> tuple[Solve, float]:
        main, pair, size, block, mean = variances
        each = [main / q, pair / max(n_pairs, 1), size, mean / q, block / q]
        scale = np.sqrt(np.repeat(each, [q, n_pairs, 1, 1, k * q]))
        inner = cross * np.outer(scale, scale)
        inner[np.diag_indices(len(inner))] += 1
        factor = cho_factor(inner, lower=True, overwrite_a=True, check_finite=False)
        log_det = 2 * float(np.log(np.diag(factor[0])).sum())

        def solve(a: Array) -> Array:
            projected = (features.T @ a) * scale[:, None]
            inside = cho_solve(factor, projected, check_finite=False) * scale[:, None]
            return np.asarray(a - features @ inside)

        return solve, log_det

    return columns


def _size_term(z: Array) -> Array:
    """h_t = sum_{j<k} z_tj z_tk / sqrt(q (q - 1) / 2)."""
    q = z.shape[1]
    return np.asarray((z.sum(axis=1) ** 2 - q) / 2 / np.sqrt(max(q * (q - 1) // 2, 1)))


def _thinned(game: CodedScores, limit: int) -> CodedScores:
    n, q = game.codes.shape
    if min(n, q * (q + 1) // 2 + 1) <= limit:
        return game
    rows = np.sort(np.random.default_rng(0).permutation(n)[:limit])
    nuisance = game.nuisance[rows]
    basis, values, _ = np.linalg.svd(nuisance, full_matrices=False)
    return CodedScores(game.codes[rows], basis[:, values > 1e-8], game.scores[rows], game.shares[rows])
