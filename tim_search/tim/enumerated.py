"""Rows of exact and restricted scores: the formula itself, on all subsets."""

from __future__ import annotations

import numpy as np

from tim_search.tim import estimators
from tim_search.tim.estimators import Array, Linear
from tim_search.tim.row import Row, Source, mean, spread, variance_of_mean, with_total


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
        patients = spread(draws / np.maximum(n_present, 1)[:, None])
    patients[n_present == 0] = np.nan
    sampling = np.where(n_present > 0, 0.0, np.nan)
    row = with_total(
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


def _weighted(weights: Array, used: Array, values: Array) -> Array:
    """weights @ values (q, k); NaN where a value that is used is NaN."""
    missing = used @ np.isnan(values).astype(float) > 0
    return np.where(missing, np.nan, weights @ np.nan_to_num(values))
