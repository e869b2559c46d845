"""One row of the TIM matrix: the scores of its source, its estimates, and how the parts of their error add up.

A block is one pass over the search's subsets with one seed and one validation fold. What the runs of a block share (a
lucky initialisation, its evaluation patients) looks in all of them like a real effect, so it is invisible in the
residuals and appears only between blocks, or under the bootstrap weights of the patients.

Blocks come in two layouts. Crossed: every block trains the same subsets, and a score is the mean of the blocks'.
Sliced: every block trains subsets of its own, more of them for the same money, and the mixed model holds the blocks'
effects.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr, stdtrit

from tim_search.ledger.table import ScoreTable
from tim_search.tim.estimators import Array, Linear
from tim_search.tim.paired import PairedError

Mask: TypeAlias = NDArray[np.bool_]
Method: TypeAlias = Literal["exact", "restricted", "blup", "gls", "ols", "msr"]


class Row(NamedTuple):
    """One source's cells: the estimate (q,), the errors of seeds and of patients (q,), and what the total adds up.

    `variances` and `dfs` (3, q) are the squared errors that enter the total, of subset sampling, seeds and patients,
    and their degrees of freedom. Where all subsets were trained the estimate is a mean over blocks: `paired` then holds
    what its interval and its test are made of.
    """

    estimate: Array
    seed: Array
    patients: Array
    variances: Array
    dfs: Array
    paired: PairedError | None = None

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
    """What is told of a source beside its estimates."""
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


def no_row(q: int) -> Row:
    nothing = np.full(q, np.nan)
    return Row(nothing, nothing, nothing, np.full((3, q), np.nan), np.full((3, q), np.nan))


def with_total(
    estimate: Array,
    fit: Linear,
    seed: tuple[Array, Array],
    patients: tuple[Array, int],
    twice: float,
) -> Row:
    """The row with all parts: (error, degrees of freedom) of seeds and (error, number of draws) of patients.

    `twice` is the share of the patients' squared error that the blocks' holds as well, see `counted_twice`.
    """
    q = len(estimate)
    seed2, patients2 = np.nan_to_num(seed[0]) ** 2, np.nan_to_num(patients[0]) ** 2
    # Blocks of different folds differ in their patients as well: adding both parts whole would count these twice.
    larger = seed2 >= twice * patients2
    seed2, patients2 = np.where(larger, seed2, 0.0), np.where(larger, (1 - twice) * patients2, patients2)
    dfs = np.stack([fit.df, seed[1], np.full(q, max(patients[1] - 1.0, 1.0))])
    return Row(estimate, seed[0], patients[0], np.stack([fit.se**2, seed2, patients2]), dfs)


def counted_twice(folds: Sequence[int]) -> float:
    """Share of the patients' squared error that shows between blocks as well, `folds` those of the n blocks.

    Folds have shares p_f of the blocks: the patients add (sum of p_f^2) times the variance of a fold to the
    squared error. What differs between blocks is taken for independent from block to block, and so holds 1 / n times
    (1 - sum of p_f^2) n / (n - 1) of it: all of it where each block has a fold of its own, nothing in a single fold.
    """
    n, counts = len(folds), np.unique(folds, return_counts=True)[1]
    return float((n * n / (counts**2).sum() - 1) / (n - 1)) if n > 1 else 0.0


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
    if row.paired is not None:
        return row.paired.p_value(row.estimate) / 2
    total = row.total
    ratio = np.divide(abs(row.estimate), total, out=np.full(len(total), np.inf), where=total != 0)
    ratio = np.where(row.estimate == 0, 0.0, ratio)
    return np.where(np.isnan(total), np.nan, stdtr(df, -ratio))


def half_width(row: Row, df: Array, confidence: float) -> Array:
    """Half of the interval (q,), with `df` degrees of freedom where the row is no mean over blocks."""
    if row.paired is not None:
        return row.paired.half_width(confidence)
    return np.asarray(row.total * stdtrit(df, (1 + confidence) / 2))


def masked(row: Row, keep: Mask) -> Row:
    """The sampled row with NaN in the cells that are not kept."""
    estimate, seed, patients, variances, dfs = (np.where(keep, values, np.nan) for values in row[:5])
    return Row(estimate, seed, patients, variances, dfs)


def mean(values: Array) -> Array:
    """Mean over the last axis of what is not NaN; NaN where nothing is left."""
    finite = np.isfinite(values)
    count = finite.sum(axis=-1)
    return np.where(count > 0, np.where(finite, values, 0.0).sum(axis=-1) / np.maximum(count, 1), np.nan)


def variance_of_mean(values: Array) -> Array:
    """Variance of the mean over the first axis, from the spread of what is not NaN; NaN with fewer than two values."""
    finite = np.isfinite(values)
    count = finite.sum(axis=0)
    deviation = np.where(finite, values - mean(np.moveaxis(values, 0, -1)), 0.0)
    variance = (deviation**2).sum(axis=0) / np.maximum(count - 1, 1) / np.maximum(count, 1)
    return np.where(count > 1, variance, np.nan)


def spread(draws: Array) -> Array:
    """Standard deviation over bootstrap draws (q, R) -> (q,); NaN unless half of them are known."""
    finite = np.isfinite(draws)
    error = np.sqrt(variance_of_mean(draws.T) * finite.sum(axis=1))
    return np.where(2 * finite.sum(axis=1) >= max(draws.shape[1], 4), error, np.nan)
