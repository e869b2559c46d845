"""Rows of sampled scores: BLUP, GLS, least squares, difference of means, from crossed or sliced blocks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from scipy.special import ndtr, stdtrit

from tim_search.tim import estimators, model_free
from tim_search.tim.coded import block_offsets, coded_scores, is_sliced, thinned
from tim_search.tim.estimators import Array, CodedScores, Linear, Mixed
from tim_search.tim.row import Mask, Method, Row, Source, mean, no_row, spread, with_total

#: Rows of a search with more tasks have a mean and a variance of their own; of fewer they could not be told.
FEW_TASKS = 8
#: BLUP gives way to least squares where more than this share of cells lie too far from GLS.
MAX_DISAGREEMENT = 0.05
#: Degrees of freedom a sliced block adds to the error of seeds. That error is pooled over the tasks of a row, so it is
#: known better than from the blocks of one cell, but the luck of a seed differs between tasks. In simulations with 2 to
#: 10 blocks, alike and very unlike tasks (log-normal spread of 1), 95 % intervals then cover 94.5 to 98.9 %.
SLICED_DF = 3
#: What a mixed model of all sources may cost, in multiply-adds: about a minute on one core. Beyond it there are so
#: many subsets that shrinkage changes nothing, and least squares is reported.
MODEL_COST = 5e11
#: Rows of a source from which the part of sliced blocks is estimated where least squares is reported.
MODEL_ROWS = 1_000
#: With so few subsets a task that this share of the blocks' effects passes for noise, noise is not subtracted.
MAX_LEAK = 0.75

TOO_MANY = (
    "So many subsets were trained that a mixed model of them would take long and change nothing: least squares is "
    "reported instead of {}."
)


def sampled_rows(
    sources: Sequence[Source], method: Method, size: int | None, twice: float, notes: list[str]
) -> tuple[Method, list[Row], list[Row], list[Array]]:
    """The method used, its rows, the rows that tests rest on, and second-order scores where the model has them.

    With a `size` the rows are BLUP's of the score in subsets of at most so many tasks, and there are no tests.
    """
    sliced = is_sliced(sources)
    method, sources = _affordable(sources, method, size, sliced, notes)

    def by(estimator: Callable[[CodedScores], Linear | None], shared: Sequence[float | None]) -> list[Row]:
        """Rows of an estimator that needs no model; of a large search the games of all sources are much memory."""
        rows = []
        for source, variance in zip(sources, shared, strict=True):
            game = coded_scores(source, sliced)
            fit = estimator(game) if game else None
            rows.append(_sampled_row(source, game, fit, variance, False, twice))
        return rows

    if method in ("msr", "ols"):
        shared: list[float | None] = [None] * len(sources)
        if sliced:
            shared = block_variances([thinned(source, MODEL_ROWS) for source in sources])
        rows = by(model_free.difference_of_means if method == "msr" else model_free.least_squares, shared)
        return method, rows, rows, []

    games = [coded_scores(source, sliced) for source in sources]
    models = _models(games, size)
    shared = [model.block_variance if model else None for model in models]

    def rows_of(fits: Sequence[Linear | None], *, modelled: bool) -> list[Row]:
        parts = zip(sources, games, fits, shared, strict=True)
        return [_sampled_row(*each, modelled, twice) for each in parts]

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
        rows = by(model_free.least_squares, shared)
        return "ols", rows, rows, second
    return method, blup, gls, second


def _models(games: Sequence[CodedScores | None], size: int | None) -> list[Mixed | None]:
    """The mixed model of each row; None without a game."""
    by_row = len(games) > FEW_TASKS
    shared = estimators.fit_variances([game for game in games if game], means=by_row)

    def model(game: CodedScores) -> Mixed:
        own = estimators.of_row(game, shared, len(games)) if by_row else shared
        return estimators.mixed_model(game, own, size)

    return [model(game) if game else None for game in games]


def _affordable(
    sources: Sequence[Source], method: Method, size: int | None, sliced: bool, notes: list[str]
) -> tuple[Method, Sequence[Source]]:
    """(method, sources) that a mixed model can afford: least squares, or fewer rows, where it would take too long."""
    n_blocks, q = sources[0].scores.shape[1], sources[0].members.shape[1]
    cost = sum(model_cost(len(source.members), n_blocks, q, sliced) for source in sources)
    if method in ("blup", "gls") and cost > MODEL_COST:
        if size is None:
            notes.append(TOO_MANY.format(method.upper()))
            method = "ols"
        else:
            share = MODEL_COST / cost
            notes.append(f"The mixed model rests on {share:.1%} of the subsets, drawn at random: all would take long.")
            sources = [thinned(source, int(share * len(source.members))) for source in sources]
    return method, sources


def block_variances(sources: Sequence[Source]) -> list[float | None]:
    """The variance of one block's effect on one code, by source; None with too few rows."""
    games = [coded_scores(source, sliced=True) for source in sources]
    variances = estimators.fit_variances([game for game in games if game])
    return [estimators.block_variance(game, variances) if game else None for game in games]


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


def _sampled_row(
    source: Source,
    game: CodedScores | None,
    fit: Linear | None,
    block_variance: float | None,
    modelled: bool,
    twice: float,
) -> Row:
    """The row of a fit. `block_variance` is that of one block's effect on one code, None where there is no model of it;
    `modelled`: the fit's own error holds the part of sliced blocks already."""
    q = source.members.shape[1]
    if fit is None or game is None:
        return no_row(q)
    finite = np.isfinite(source.scores)
    counts = finite.sum(axis=1)
    present = finite.any(axis=0)
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
        values = np.where(finite[:, :, None], source.replicates, 0.0).sum(axis=1) / counts[:, None]
        patients = spread(fit.weights @ values)
    return with_total(fit.weights @ game.scores, fit, (seed, df_seed), (patients, n_draws), twice)


def _shared_by_blocks(source: Source, fit: Linear) -> Array:
    """Variance (q,) of the estimates by what all runs of a block share, at least two blocks.

    The variance that treats blocks as clusters, less what errors independent from run to run contribute to it (these
    are in the residuals already).
    """
    finite = np.isfinite(source.scores)
    counts = finite.sum(axis=1)
    n_blocks = int(finite.any(axis=0).sum())
    # The weights are free of the nuisance columns, so the level of a block cancels in its part of the estimate.
    y = source.scores - block_offsets(source.scores)
    spread = np.where(finite, y - mean(y)[:, None], 0.0)
    deviation = np.where(finite, spread + fit.residual[:, None], 0.0) / counts[:, None]
    parts = (fit.weights @ deviation)[:, finite.any(axis=0)]
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
