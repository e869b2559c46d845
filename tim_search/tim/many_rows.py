"""Rows of least squares of very many subsets, each of which was trained in one block."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from tim_search.ledger.table import ScoreTable
from tim_search.tim import many
from tim_search.tim.coded import chosen_rows
from tim_search.tim.estimators import Linear
from tim_search.tim.many import Apart, Summary
from tim_search.tim.row import Mask, Method, Outline, Row, Source, no_row, spread, with_total
from tim_search.tim.sampled import MODEL_COST, MODEL_ROWS, SLICED_DF, TOO_MANY, block_variances, model_cost

#: Subsets beyond which least squares works on all sources at once and never holds its weights.
MANY_ROWS = 20_000


def apart_of(table: ScoreTable) -> Apart | None:
    """The scores of very many subsets each of which was trained in one block; None of other tables."""
    if len(table.membership) <= MANY_ROWS or (table.trained.sum(axis=1) > 1).any():
        return None
    order = table.order
    block = table.trained[order].argmax(axis=1)
    replicates = None if table.replicates is None else table.replicates[order, block]
    return Apart(table.membership[order], block, table.scores[order, block], len(table.blocks), replicates)


def rows_of_many(
    given: Apart, method: Method, twice: float, notes: list[str]
) -> tuple[list[Row], list[Outline]] | None:
    """Rows of least squares where `sampled_rows` gives these too, and what else is told of the sources; else None."""
    m = given.members.shape[1]
    scored = np.zeros((given.n_blocks, m), np.int64)
    finite = np.isfinite(given.scores)
    for b in range(given.n_blocks):
        scored[b] = finite[given.block == b].sum(axis=0)
    sliced = bool(((scored > 0).sum(axis=0) > 1).any())
    if method != "ols":
        if sum(model_cost(n, given.n_blocks, m - 1, sliced) for n in scored.sum(axis=0).tolist()) <= MODEL_COST:
            return None
        notes.append(TOO_MANY.format(method.upper()))
    shared: list[float | None] = [None] * m
    # The variances keep one core busy, the sums of least squares the others.
    with ThreadPoolExecutor(1) as aside:
        thin = [_thinned_source(given, i, finite[:, i]) for i in range(m)] if sliced else []
        variances = aside.submit(block_variances, thin) if sliced else None
        fits = many.least_squares(given)
        shared = variances.result() if variances else shared
    n_blocks = (scored > 0).sum(axis=0).tolist()
    rows = [_row_of_many(*each, twice) for each in zip(fits, shared, n_blocks, strict=True)]
    return rows, [Outline(fit.n, fit.n_with, fit.constant) for fit in fits]


def _thinned_source(given: Apart, i: int, finite: Mask) -> Source:
    """`thinned` of source i, whose other rows are never laid out."""
    scored = np.flatnonzero(finite)
    rows = chosen_rows(scored, MODEL_ROWS)
    scores = np.full((len(rows), given.n_blocks), np.nan)
    scores[np.arange(len(rows)), given.block[rows]] = given.scores[rows, i] - given.scores[scored[:1], i]
    return Source(np.delete(given.members[rows], i, axis=1), scores, None)


def _row_of_many(fit: Summary, block_variance: float | None, n_blocks: int, twice: float) -> Row:
    q = len(fit.estimate)
    if np.isnan(fit.df).all():
        return no_row(q)
    seed, df_seed = np.full(q, np.nan), np.full(q, 1.0)
    if block_variance is not None:
        seed, df_seed = np.sqrt(block_variance * fit.spread), np.full(q, float(SLICED_DF * max(n_blocks - 1, 1)))
    n_draws = fit.draws.shape[1]
    patients = spread(fit.draws) if n_draws else np.full(q, np.nan)
    linear = Linear(np.zeros((q, 0)), fit.se, fit.df, np.zeros(0))
    return with_total(fit.estimate, linear, (seed, df_seed), (patients, n_draws), twice)
