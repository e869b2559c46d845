"""What the estimators of a sample work on: the mean scores of a source over blocks, and its tasks as codes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tim_search.tim.estimators import Array, CodedScores
from tim_search.tim.row import Source, mean

#: A sampled cell needs this many subsets with the task and this many without it.
MIN_ROWS = 2
#: Blocks are sliced where at least this share of the scored subsets has a score in one block only.
SLICED_SHARE = 0.5


def is_sliced(sources: Sequence[Source]) -> bool:
    """Whether the blocks train subsets of their own, so that the mixed model can tell their effects apart."""
    counts = [np.isfinite(source.scores).sum(axis=1) for source in sources]
    n_blocks = max((int(np.isfinite(source.scores).any(axis=0).sum()) for source in sources), default=0)
    alone = sum(int((count == 1).sum()) for count in counts)
    return n_blocks > 1 and alone >= SLICED_SHARE * sum(len(count) for count in counts) > 0


def coded_scores(source: Source, sliced: bool) -> CodedScores | None:
    """Mean scores over blocks; the blocks' levels are nuisance columns, one constant where all subsets have all.

    None with too few rows.
    """
    finite = np.isfinite(source.scores)
    n = len(finite)
    if n < 2 * MIN_ROWS or not source.members.shape[1]:
        return None
    shares = finite / finite.sum(axis=1, keepdims=True)
    values, directions = np.linalg.eigh(shares.T @ shares)
    real = values > 1e-9 * values[-1]
    nuisance = shares @ (directions[:, real] / np.sqrt(values[real]))
    if n <= nuisance.shape[1] + 1:
        return None
    y = mean(source.scores)
    left = y - nuisance @ (nuisance.T @ y)
    if abs(left).max() <= 1e-12 * abs(y).max():
        left = np.zeros(n)
    return CodedScores(np.where(source.members, 1.0, -1.0), nuisance, left, shares if sliced else shares[:, :0])


def thinned(source: Source, rows: int) -> Source:
    """At most so many rows of a source: a fixed choice at random."""
    if len(source.members) <= rows:
        return source
    rows_used = chosen_rows(np.arange(len(source.members)), rows)
    replicates = None if source.replicates is None else source.replicates[rows_used]
    return Source(source.members[rows_used], source.scores[rows_used], replicates)


def chosen_rows(rows: NDArray[np.int64], at_most: int) -> NDArray[np.int64]:
    if len(rows) <= at_most:
        return rows
    return rows[np.sort(np.random.default_rng(0).permutation(len(rows))[:at_most])]


def block_offsets(scores: Array) -> Array:
    """Level of each block (blocks,): least squares of a model with one effect a subset and one a block."""
    finite = np.isfinite(scores)
    counts = np.maximum(finite.sum(axis=1), 1)
    within = np.where(finite, scores - mean(scores)[:, None], 0.0).sum(axis=0)
    system = np.diag(finite.sum(axis=0).astype(float)) - (finite / counts[:, None]).T @ finite
    return np.asarray(np.linalg.pinv(system, rcond=1e-9, hermitian=True) @ within)
