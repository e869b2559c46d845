"""Rows of exact and restricted scores: the formula itself, on all subsets."""

from __future__ import annotations

from math import comb

import numpy as np
from numpy.typing import NDArray

from tim_search.tim.estimators import Array
from tim_search.tim.paired import paired_error
from tim_search.tim.row import Row, Source, mean, spread


def enumerated_row(source: Source, size: int) -> Row:
    """Exact or restricted scores in each block, and their mean over the blocks that have them."""
    q = source.members.shape[1]
    weights, complete = enumerated(source.members, size)
    used = (weights != 0).astype(float)
    each = np.full((source.scores.shape[1], q), np.nan)
    for b, y in enumerate(source.scores.T):
        each[b, complete] = _weighted(weights, used, y[:, None])[complete, 0]
    draws = None
    if source.replicates is not None:
        draws = np.stack([_weighted(weights, used, values) for values in source.replicates.transpose(1, 0, 2)])
        draws = np.where(np.isfinite(each)[:, :, None], draws, np.nan)
    error, estimate = paired_error(each, draws), mean(each.T)
    patients = np.full(q, np.nan) if draws is None else spread(mean(np.moveaxis(draws, 0, -1)))
    seen, unseen = np.fmax(error.between, error.shown), np.where(np.isnan(error.variance), np.nan, error.unseen)
    unseen = np.where(np.isnan(unseen) & np.isfinite(seen), 0.0, unseen)
    variances = np.stack([np.where(np.isfinite(estimate), 0.0, np.nan), seen, unseen])
    dfs = np.stack([np.full(q, np.inf), error.block_df, error.draw_df])
    return Row(estimate, np.sqrt(error.between), patients, variances, dfs, error)


def enumerated_second(source: Source) -> Array:
    """Exact second-order scores (q, q), the mean over complete blocks; NaN where there is none."""
    q = source.members.shape[1]
    codes = np.where(source.members, 1.0, -1.0)
    complete = [y for y in source.scores.T if len(y) == 2**q and np.isfinite(y).all()]
    if not complete:
        return np.full((q, q), np.nan)
    return np.asarray(np.mean([enumerated_pairs(codes, y) for y in complete], axis=0))


def enumerated(members: NDArray[np.bool_], size: int) -> tuple[Array, NDArray[np.bool_]]:
    """Weights (q, n) of the uniform mean of differences over all S with |S| <= size - 2 (M3H paper, section 6.1).

    Args:
        members: bool (n, q), the other tasks of distinct subsets that hold the source.
        size: largest subset size, the source included; M for the exact score.

    Second comes bool (q,), true where all subsets of the row are among `members`.
    """
    q = members.shape[1]
    others = members.sum(axis=1)
    with_task = members.T & (others <= size - 1)
    without = ~members.T & (others <= size - 2)
    n_differences = sum(comb(q - 1, k) for k in range(size - 1))
    weights = (with_task.astype(float) - without.astype(float)) / max(n_differences, 1)
    complete = (with_task.sum(axis=1) == n_differences) & (without.sum(axis=1) == n_differences)
    return weights, complete


def enumerated_pairs(codes: Array, scores: Array) -> Array:
    """Exact second-order scores (q, q): the Banzhaf interaction index of each pair, from all 2^q rows."""
    return np.asarray(4 / len(codes) * (codes.T * scores) @ codes)


def _weighted(weights: Array, used: Array, values: Array) -> Array:
    """weights @ values (q, k); NaN where a value that is used is NaN."""
    missing = used @ np.isnan(values).astype(float) > 0
    return np.where(missing, np.nan, weights @ np.nan_to_num(values))
