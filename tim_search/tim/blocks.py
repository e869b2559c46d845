"""One row of the TIM matrix from the scores of all (seed, fold) blocks, with the parts of its error.

A block is one pass over the search's subsets with one seed and one validation fold. What the runs of a block share (a
lucky initialisation, its evaluation patients) looks in all of them like a real effect, so it is invisible in the
residuals and appears only between blocks, or under the bootstrap weights of the patients.

Blocks come in two layouts. Crossed: every block trains the same subsets, and a score is the mean of the blocks'.
Sliced: every block trains subsets of its own, more of them for the same money, and the mixed model holds the blocks'
effects.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, stdtr, stdtrit

from tim_search.ledger.table import ScoreTable
from tim_search.tim import estimators, many
from tim_search.tim.estimators import Array, Game, Linear
from tim_search.tim.many import Apart, Summary

Mask: TypeAlias = NDArray[np.bool_]
Method: TypeAlias = Literal["exact", "restricted", "blup", "gls", "ols", "msr"]

#: A sampled cell needs this many subsets with the task and this many without it.
MIN_ROWS = 2
#: BLUP gives way to least squares where more than this share of cells lie too far from GLS.
MAX_DISAGREEMENT = 0.05
#: Blocks are sliced where at least this share of the scored subsets has a score in one block only.
SLICED_SHARE = 0.5
#: Degrees of freedom a sliced block adds to the error of seeds. That error is pooled over the tasks of a row, so it is
#: known better than from the blocks of one cell, but the luck of a seed differs between tasks. In simulations with 2 to
#: 10 blocks, alike and very unlike tasks (log-normal spread of 1), 95 % intervals then cover 94.5 to 98.9 %.
SLICED_DF = 3
#: What a mixed model of all sources may cost, in multiply-adds: about a minute on one core. Beyond it there are so
#: many subsets that shrinkage changes nothing, and least squares is reported.
MODEL_COST = 5e11
#: Rows of a source from which the part of sliced blocks is estimated where least squares is reported.
MODEL_ROWS = 1_000
#: Subsets beyond which least squares works on all sources at once and never holds its weights.
MANY_ROWS = 20_000
#: With so few subsets a task that this share of the blocks' effects passes for noise, noise is not subtracted.
MAX_LEAK = 0.75

_TOO_MANY = (
    "So many subsets were trained that a mixed model of them would take long and change nothing: least squares is "
    "reported instead of {}."
)


class Row(NamedTuple):
    """One source's cells: the estimate (q,), the errors of seeds and of patients (q,), and what the total adds up.

    `variances` and `dfs` (3, q) are the squared errors that enter the total, of subset sampling, seeds and patients,
    and their degrees of freedom.
    """

    estimate: Array
    seed: Array
    patients: Array
    variances: Array
    dfs: Array

    @property
    def sampling(self) -> Array:
        return np.asarray(np.sqrt(self.variances[0]))

    @property
    def total(self) -> Array:
        """Standard error (q,); NaN where no part is known."""
        return np.asarray(np.sqrt(self.variances.sum(axis=0)))


class Source(NamedTuple):
    """The scored subsets of one source: other tasks (n, q), scores (n, blocks), replicates (n, blocks, R) or None."""

    members: Mask
    scores: Array
    replicates: Array | None


class Outline(NamedTuple):
    """What is told of a source beside its estimates: rows, how many of them hold each other task (q,), and whether all
    its scores are equal."""

    n: int
    n_with: NDArray[np.int64]
    constant: bool


def outline(source: Source) -> Outline:
    """See `Outline`."""
    n = len(source.members)
    return Outline(n, source.members.sum(axis=0), n > 1 and not np.nanmax(abs(source.scores)))


def source_of(table: ScoreTable, i: int) -> Source:
    """The rows of a table in which task i has a score in some block."""
    rows = np.flatnonzero(table.membership[:, i])
    scores = table.scores[rows, :, i]
    scored = np.isfinite(scores).any(axis=1)
    if not scored.all():
        rows, scores = rows[scored], scores[scored]
    members = np.delete(table.membership[rows], i, axis=1)
    replicates = None
    if table.replicates is not None:
        replicates = table.replicates[rows, :, i, :].astype(float)
    if scores.size:
        # All weights sum to zero: a common shift changes nothing but the rounding, and makes constant scores exactly 0.
        shift = scores[np.isfinite(scores)][0]
        scores = scores - shift
        replicates = None if replicates is None else replicates - shift
    return Source(members, scores, replicates)


def enumerated_row(source: Source, size: int, distinct_folds: bool) -> Row:
    """Exact or restricted scores in each block, and their mean over the blocks that have them."""
    q = source.members.shape[1]
    weights, complete = estimators.enumerated(source.members, size)
    used = (weights != 0).astype(float)
    each = np.full((source.scores.shape[1], q), np.nan)
    for b, y in enumerate(source.scores.T):
        each[b, complete] = _weighted(weights, used, y[:, None])[complete, 0]
    present = np.isfinite(each)
    n_present = present.sum(axis=0)
    patients, n_draws = np.full(q, np.nan), 0
    if source.replicates is not None:
        n_draws = source.replicates.shape[2]
        draws = np.zeros((q, n_draws))
        for b, values in enumerate(source.replicates.transpose(1, 0, 2)):
            draws += np.where(present[b][:, None], _weighted(weights, used, values), 0.0)
        patients = _spread(draws / np.maximum(n_present, 1)[:, None])
    patients[n_present == 0] = np.nan
    sampling = np.where(n_present > 0, 0.0, np.nan)
    row = _total(
        mean(each.T),
        Linear(weights, sampling, np.full(q, np.inf), np.zeros(len(source.members))),
        (np.sqrt(variance_of_mean(each)), np.maximum(n_present - 1.0, 1.0)),
        (patients, n_draws),
        distinct_folds,
    )
    unknown = np.isnan(row.seed) & np.isnan(row.patients)
    row.variances[1:, unknown] = np.nan
    return row


def enumerated_second(source: Source) -> Array:
    """Exact second-order scores (q, q), the mean over complete blocks; NaN where there is none."""
    q = source.members.shape[1]
    codes = np.where(source.members, 1.0, -1.0)
    complete = [y for y in source.scores.T if len(y) == 2**q and np.isfinite(y).all()]
    if not complete:
        return np.full((q, q), np.nan)
    return np.asarray(np.mean([estimators.enumerated_pairs(codes, y) for y in complete], axis=0))


def sampled_rows(
    sources: Sequence[Source], method: Method, size: int | None, distinct_folds: bool, notes: list[str]
) -> tuple[Method, list[Row], list[Row], list[Array]]:
    """The method used, its rows, the rows that tests rest on, and second-order scores where the model has them.

    With a `size` the rows are BLUP's of the score in subsets of at most so many tasks, and there are no tests.
    """
    sliced = is_sliced(sources)
    n_blocks, q = sources[0].scores.shape[1], sources[0].members.shape[1]
    cost = sum(model_cost(len(source.members), n_blocks, q, sliced) for source in sources)
    if method in ("blup", "gls") and cost > MODEL_COST:
        if size is None:
            notes.append(_TOO_MANY.format(method.upper()))
            method = "ols"
        else:
            share = MODEL_COST / cost
            notes.append(f"The mixed model rests on {share:.1%} of the subsets, drawn at random: all would take long.")
            sources = [thinned(source, int(share * len(source.members))) for source in sources]

    def by(estimator: Callable[[Game], Linear | None], shared: Sequence[float | None]) -> list[Row]:
        """Rows of an estimator that needs no model; of a large search the games of all sources are much memory."""
        rows = []
        for source, variance in zip(sources, shared, strict=True):
            game = game_of(source, sliced)
            fit = estimator(game) if game else None
            rows.append(_sampled_row(source, game, fit, variance, False, distinct_folds))
        return rows

    if method in ("msr", "ols"):
        shared: list[float | None] = [None] * len(sources)
        if sliced:
            shared = _block_variances([thinned(source, MODEL_ROWS) for source in sources])
        rows = by(estimators.difference_of_means if method == "msr" else estimators.least_squares, shared)
        return method, rows, rows, []

    games = [game_of(source, sliced) for source in sources]
    variances = estimators.fit_variances([game for game in games if game])
    models = [estimators.mixed_model(game, variances, size) if game else None for game in games]
    shared = [model.block_variance if model else None for model in models]

    def rows_of(fits: Sequence[Linear | None], *, modelled: bool) -> list[Row]:
        parts = zip(sources, games, fits, shared, strict=True)
        return [_sampled_row(*each, modelled, distinct_folds) for each in parts]

    gls = rows_of([model.gls if model else None for model in models], modelled=True)
    if method == "gls":
        return method, gls, gls, []
    blup = rows_of([model.blup if model else None for model in models], modelled=True)
    q = sources[0].members.shape[1]
    second = [model.second if model else np.full((q, q), np.nan) for model in models]
    comparable = sum(int(np.isfinite(row.sampling).sum()) for row in gls)
    apart = sum(int(_apart(a, b, sliced).sum()) for a, b in zip(blup, gls, strict=True))
    misfit = apart > MAX_DISAGREEMENT * comparable
    if size is not None:
        if misfit:
            notes.append(
                f"BLUP and GLS lie further apart than chance allows in {apart} of {comparable} cells: the mixed model "
                "does not describe these scores, and there is no other way to a score in small subsets. Train them all."
            )
        small = rows_of([model.small if model else None for model in models], modelled=True)
        return method, small, rows_of([None] * len(games), modelled=True), second
    if misfit:
        notes.append(
            f"BLUP and GLS lie further apart than chance allows in {apart} of {comparable} cells: the mixed model does "
            "not describe these scores. Least squares is reported instead."
        )
        rows = by(estimators.least_squares, shared)
        return "ols", rows, rows, second
    return method, blup, gls, second


def apart(table: ScoreTable) -> Apart | None:
    """The scores of very many subsets each of which was trained in one block; None of other tables."""
    if len(table.membership) <= MANY_ROWS or (table.trained.sum(axis=1) > 1).any():
        return None
    order = table.order
    block = table.trained[order].argmax(axis=1)
    replicates = None if table.replicates is None else table.replicates[order, block]
    return Apart(table.membership[order], block, table.scores[order, block], len(table.blocks), replicates)


def rows_of_many(
    given: Apart, method: Method, distinct_folds: bool, notes: list[str]
) -> tuple[list[Row], list[Outline]] | None:
    """Rows of least squares where `sampled_rows` gives these too, and what else is told of the sources; else None."""
    m = given.members.shape[1]
    scored = np.zeros((given.n_blocks, m), np.int64)
    known = np.isfinite(given.scores)
    for b in range(given.n_blocks):
        scored[b] = known[given.block == b].sum(axis=0)
    sliced = bool(((scored > 0).sum(axis=0) > 1).any())
    if method != "ols":
        if sum(model_cost(n, given.n_blocks, m - 1, sliced) for n in scored.sum(axis=0).tolist()) <= MODEL_COST:
            return None
        notes.append(_TOO_MANY.format(method.upper()))
    shared: list[float | None] = [None] * m
    # The variances keep one core busy, the sums of least squares the others.
    with ThreadPoolExecutor(1) as aside:
        thin = [_thinned_source(given, i, known[:, i]) for i in range(m)] if sliced else []
        variances = aside.submit(_block_variances, thin) if sliced else None
        fits = many.least_squares(given)
        shared = variances.result() if variances else shared
    n_blocks = (scored > 0).sum(axis=0).tolist()
    rows = [_row_of_many(*each, distinct_folds) for each in zip(fits, shared, n_blocks, strict=True)]
    return rows, [Outline(fit.n, fit.n_with, fit.constant) for fit in fits]


def _thinned_source(given: Apart, i: int, known: Mask) -> Source:
    """`thinned` of source i, whose other rows are never laid out."""
    scored = np.flatnonzero(known)
    rows = _choice(scored, MODEL_ROWS)
    scores = np.full((len(rows), given.n_blocks), np.nan)
    scores[np.arange(len(rows)), given.block[rows]] = given.scores[rows, i] - given.scores[scored[:1], i]
    return Source(np.delete(given.members[rows], i, axis=1), scores, None)


def _block_variances(sources: Sequence[Source]) -> list[float | None]:
    """The variance of one block's effect on one code, by source; None with too few rows."""
    games = [game_of(source, sliced=True) for source in sources]
    variances = estimators.fit_variances([game for game in games if game])
    return [estimators.block_variance(game, variances) if game else None for game in games]


def _row_of_many(fit: Summary, block_variance: float | None, n_blocks: int, distinct_folds: bool) -> Row:
    q = len(fit.estimate)
    if np.isnan(fit.df).all():
        return _no_row(q)
    seed, df_seed = np.full(q, np.nan), np.full(q, 1.0)
    if block_variance is not None:
        seed, df_seed = np.sqrt(block_variance * fit.spread), np.full(q, float(SLICED_DF * max(n_blocks - 1, 1)))
    n_draws = fit.draws.shape[1]
    patients = _spread(fit.draws) if n_draws else np.full(q, np.nan)
    linear = Linear(np.zeros((q, 0)), fit.se, fit.df, np.zeros(0))
    return _total(fit.estimate, linear, (seed, df_seed), (patients, n_draws), distinct_folds)


def _apart(blup: Row, gls: Row, sliced: bool) -> Mask:
    """Cells where BLUP is less likely under GLS than 3 standard errors are under a normal law.

    A hundredth of the row's largest score is let pass: without any noise all shrinkage would count as a contradiction.
    """
    if np.isnan(gls.estimate).all():
        return np.zeros(len(gls.estimate), bool)
    # What crossed blocks share shifts both estimates alike; sliced blocks enter them with different weights.
    error = np.hypot(gls.sampling, gls.seed) if sliced else gls.sampling
    allowed = stdtrit(gls.dfs[0], ndtr(3.0)) * error + 0.01 * np.nanmax(abs(gls.estimate))
    return np.asarray(abs(blup.estimate - gls.estimate) > allowed)


def model_cost(n: int, n_blocks: int, q: int, sliced: bool) -> float:
    """Multiply-adds of one solution of the mixed model of n rows and q other tasks, roughly (see `estimators`)."""
    features = q + q * (q - 1) / 2 + 1 + (q * n_blocks if sliced else 0)
    return float(n * min(n, features) ** 2)


def thinned(source: Source, rows: int) -> Source:
    """At most so many rows of a source: a fixed choice at random."""
    if len(source.members) <= rows:
        return source
    kept = _choice(np.arange(len(source.members)), rows)
    replicates = None if source.replicates is None else source.replicates[kept]
    return Source(source.members[kept], source.scores[kept], replicates)


def _choice(rows: NDArray[np.int64], at_most: int) -> NDArray[np.int64]:
    if len(rows) <= at_most:
        return rows
    return rows[np.sort(np.random.default_rng(0).permutation(len(rows))[:at_most])]


def is_sliced(sources: Sequence[Source]) -> bool:
    """Whether the blocks train subsets of their own, so that the mixed model can tell their effects apart."""
    counts = [np.isfinite(source.scores).sum(axis=1) for source in sources]
    n_blocks = max((int(np.isfinite(source.scores).any(axis=0).sum()) for source in sources), default=0)
    alone = sum(int((count == 1).sum()) for count in counts)
    return n_blocks > 1 and alone >= SLICED_SHARE * sum(len(count) for count in counts) > 0


def game_of(source: Source, sliced: bool) -> Game | None:
    """Mean scores over blocks; the blocks' levels are nuisance columns, one constant where all subsets have all.

    None with too few rows.
    """
    known = np.isfinite(source.scores)
    n = len(known)
    if n < 2 * MIN_ROWS or not source.members.shape[1]:
        return None
    shares = known / known.sum(axis=1, keepdims=True)
    values, directions = np.linalg.eigh(shares.T @ shares)
    real = values > 1e-9 * values[-1]
    nuisance = shares @ (directions[:, real] / np.sqrt(values[real]))
    if n <= nuisance.shape[1] + 1:
        return None
    y = mean(source.scores)
    left = y - nuisance @ (nuisance.T @ y)
    if abs(left).max() <= 1e-12 * abs(y).max():
        left = np.zeros(n)
    return Game(np.where(source.members, 1.0, -1.0), nuisance, left, shares if sliced else shares[:, :0])


def _sampled_row(
    source: Source,
    game: Game | None,
    fit: Linear | None,
    block_variance: float | None,
    modelled: bool,
    distinct_folds: bool,
) -> Row:
    """The row of a fit. `block_variance` is that of one block's effect on one code, None where there is no model of it;
    `modelled`: the fit's own error holds the part of sliced blocks already."""
    q = source.members.shape[1]
    if fit is None or game is None:
        return _no_row(q)
    known = np.isfinite(source.scores)
    counts = known.sum(axis=1)
    present = known.any(axis=0)
    n_blocks = int(present.sum())
    seed, df_seed = np.full(q, np.nan), np.full(q, float(max(n_blocks - 1, 1)))
    if game.shares.shape[1] > 1 and block_variance is not None:
        part = estimators.shared_by_blocks(game, fit.weights, block_variance)
        seed, df_seed = np.sqrt(part), SLICED_DF * df_seed
        if modelled:
            fit = replace(fit, se=np.sqrt(np.maximum(fit.se**2 - part, 0.0)))
    elif n_blocks > 1:
        seed = np.sqrt(_shared_by_blocks(source, fit))
    patients, n_draws = np.full(q, np.nan), 0
    if source.replicates is not None:
        n_draws = source.replicates.shape[2]
        values = np.where(known[:, :, None], source.replicates, 0.0).sum(axis=1) / counts[:, None]
        patients = _spread(fit.weights @ values)
    return _total(fit.weights @ game.scores, fit, (seed, df_seed), (patients, n_draws), distinct_folds)


def _no_row(q: int) -> Row:
    nothing = np.full(q, np.nan)
    return Row(nothing, nothing, nothing, np.full((3, q), np.nan), np.full((3, q), np.nan))


def _shared_by_blocks(source: Source, fit: Linear) -> Array:
    """Variance (q,) of the estimates by what all runs of a block share, at least two blocks.

    The variance that treats blocks as clusters, less what errors independent from run to run contribute to it (these
    are in the residuals already).
    """
    known = np.isfinite(source.scores)
    counts = known.sum(axis=1)
    n_blocks = int(known.any(axis=0).sum())
    # The weights are free of the nuisance columns, so the level of a block cancels in its part of the estimate.
    y = source.scores - block_offsets(source.scores)
    spread = np.where(known, y - mean(y)[:, None], 0.0)
    deviation = np.where(known, spread + fit.residual[:, None], 0.0) / counts[:, None]
    parts = (fit.weights @ deviation)[:, known.any(axis=0)]
    clustered = n_blocks / (n_blocks - 1) * ((parts - parts.mean(axis=1, keepdims=True)) ** 2).sum(axis=1)

    repeated = counts > 1
    own = np.where(repeated, (spread**2).sum(axis=1) / np.maximum(counts - 1, 1), fit.residual**2)
    excess = clustered - fit.weights**2 @ (own / counts)
    # Scores of one subset differ between blocks by the blocks' effects too: that much of `own` was no noise. Effects of
    # all tasks together add a share `leak` of their sum to each cell, which is put back.
    leak = fit.weights**2 @ (repeated / counts) * n_blocks / 4
    total_leak = float(np.nansum(leak))
    if total_leak > MAX_LEAK:
        return np.asarray(clustered)
    excess = excess + leak * max(float(np.nansum(excess)), 0.0) / (1 - total_leak)
    return np.asarray(np.maximum(excess, 0.0))


def _total(
    estimate: Array,
    fit: Linear,
    seed: tuple[Array, Array],
    patients: tuple[Array, int],
    distinct_folds: bool,
) -> Row:
    """The row with all parts: (error, degrees of freedom) of seeds and (error, number of draws) of patients."""
    q = len(estimate)
    seed2, patients2 = np.nan_to_num(seed[0]) ** 2, np.nan_to_num(patients[0]) ** 2
    if distinct_folds:
        # Blocks of different folds differ in their patients as well: adding both parts would count these twice.
        larger = seed2 >= patients2
        seed2, patients2 = np.where(larger, seed2, 0.0), np.where(larger, 0.0, patients2)
    dfs = np.stack([fit.df, seed[1], np.full(q, max(patients[1] - 1.0, 1.0))])
    return Row(estimate, seed[0], patients[0], np.stack([fit.se**2, seed2, patients2]), dfs)


def degrees_of_freedom(rows: Sequence[Row]) -> list[Array]:
    """Degrees of freedom (q,) of each row's total error, by Satterthwaite (1946).

    The shares of the parts are those of whole rows, averaged over sources: a cell's own part from a few blocks is too
    uncertain to choose its degrees of freedom, and where it comes out small by chance its interval would be short
    twice over.
    """
    sums = np.stack([np.nansum(row.variances, axis=1) for row in rows])
    usable = sums.sum(axis=1) > 0
    shares = (sums[usable] / sums[usable].sum(axis=1, keepdims=True)).mean(axis=0) if usable.any() else np.zeros(3)
    with np.errstate(divide="ignore"):
        return [1 / (shares[:, None] ** 2 / row.dfs).sum(axis=0) for row in rows]


def tail(row: Row, df: Array) -> Array:
    """P(t < -|estimate| / se), (q,); one half for an estimate of exactly 0."""
    total = row.total
    ratio = np.divide(abs(row.estimate), total, out=np.full(len(total), np.inf), where=total != 0)
    ratio = np.where(row.estimate == 0, 0.0, ratio)
    return np.where(np.isnan(total), np.nan, stdtr(df, -ratio))


def masked(row: Row, keep: Mask) -> Row:
    """The row with NaN in the cells that are not kept."""
    return Row(*(np.where(keep, values, np.nan) for values in row))


def block_offsets(scores: Array) -> Array:
    """Level of each block (blocks,): least squares of a model with one effect a subset and one a block."""
    known = np.isfinite(scores)
    counts = np.maximum(known.sum(axis=1), 1)
    within = np.where(known, scores - mean(scores)[:, None], 0.0).sum(axis=0)
    system = np.diag(known.sum(axis=0).astype(float)) - (known / counts[:, None]).T @ known
    return np.asarray(np.linalg.pinv(system, rcond=1e-9, hermitian=True) @ within)


def _weighted(weights: Array, used: Array, values: Array) -> Array:
    """weights @ values (q, k); NaN where a value that is used is NaN."""
    missing = used @ np.isnan(values).astype(float) > 0
    return np.where(missing, np.nan, weights @ np.nan_to_num(values))


def mean(values: Array) -> Array:
    """Mean over the last axis of what is not NaN; NaN where nothing is left."""
    known = np.isfinite(values)
    count = known.sum(axis=-1)
    return np.where(count > 0, np.where(known, values, 0.0).sum(axis=-1) / np.maximum(count, 1), np.nan)


def variance_of_mean(values: Array) -> Array:
    """Variance of the mean over the first axis, from the spread of what is not NaN; NaN with fewer than two values."""
    known = np.isfinite(values)
    count = known.sum(axis=0)
    deviation = np.where(known, values - mean(np.moveaxis(values, 0, -1)), 0.0)
    variance = (deviation**2).sum(axis=0) / np.maximum(count - 1, 1) / np.maximum(count, 1)
    return np.where(count > 1, variance, np.nan)


def _spread(draws: Array) -> Array:
    """Standard deviation over bootstrap draws (q, R) -> (q,); NaN unless half of them are known."""
    known = np.isfinite(draws)
    error = np.sqrt(variance_of_mean(draws.T) * known.sum(axis=1))
    return np.where(2 * known.sum(axis=1) >= max(draws.shape[1], 4), error, np.nan)
