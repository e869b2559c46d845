"""The interval of a mean of paired differences over (seed, fold) blocks, with its test.

One method for one quantity: exact and restricted TIM scores are such means, and so is the gain of one combination over
another. The TIM score of a pair and the gain of that pair are the same number and have the same interval.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr, stdtrit

Array = NDArray[np.float64]

#: Steps of the search for a p-value; after so many the bracket is closed to rounding.
_STEPS = 60


class PairedError(NamedTuple):
    """Squared errors (q,) of the means of q paired differences, and their degrees of freedom.

    With d_b the difference in block b, b = 1..n:

    - `between`, s^2 / n with s^2 the variance of d_b: training seeds, and the patients where the blocks validate on
      different folds;
    - `shown`, what the patients alone make of it: the variance over b of the deviations of the replicates d_br under
      bootstrap weights, over n. Few blocks agree by chance now and then, so the larger of the two is taken;
    - `unseen`, what cannot show between blocks: the variance over r of the mean over b of d_br beyond `shown`. It is
      nothing where every block has a fold of its own, and all of the patients' part where all blocks share one.

    NaN where a part is unknown: `between` of one block, the others without replicates.
    """

    between: Array
    shown: Array
    unseen: Array
    block_df: Array
    draw_df: Array

    @property
    def variance(self) -> Array:
        """Squared standard error (q,); NaN where no part is measured."""
        return self._sum(np.fmax(self.between, self.shown), self.unseen)

    def half_width(self, confidence: float) -> Array:
        """Half of the interval (q,): each part with its own Student quantile. NaN where no part is measured."""
        upper = (1 + confidence) / 2
        blocks, draws = stdtrit(self.block_df, upper) ** 2, stdtrit(self.draw_df, upper) ** 2
        return np.sqrt(self._sum(np.fmax(blocks * self.between, draws * self.shown), draws * self.unseen))

    def p_value(self, value: Array) -> Array:
        """Two-sided p-value (q,) of no difference: the interval of coverage 1 - p ends at zero."""
        size = np.abs(value)
        with np.errstate(divide="ignore", invalid="ignore"):
            patients = 2 * stdtr(self.draw_df, -size / np.sqrt(self.shown + self.unseen))
            answer = np.fmax(self._of_blocks(size), patients)
        return np.where(size == 0, np.where(np.isnan(self.variance), np.nan, 1.0), answer)

    def _of_blocks(self, size: Array) -> Array:
        """The p-value (q,) where the blocks' part is `between`: by bisection of its quantile, which is at most
        size / sqrt(between)."""
        unseen = np.nan_to_num(self.unseen)
        low, high = np.zeros_like(size), size / np.sqrt(self.between)
        both = np.isfinite(high) & (unseen > 0)
        answer = 2 * stdtr(self.block_df, -high)
        if not both.any():
            return np.asarray(answer)
        between, extra, square = self.between[both], unseen[both], size[both] ** 2
        block_df, draw_df, low, high = self.block_df[both], self.draw_df[both], low[both], high[both]
        for _ in range(_STEPS):
            middle = (low + high) / 2
            other = stdtrit(draw_df, stdtr(block_df, -middle))
            above = middle**2 * between + other**2 * extra > square
            low, high = np.where(above, low, middle), np.where(above, middle, high)
        answer[both] = 2 * stdtr(block_df, -(low + high) / 2)
        return np.asarray(answer)

    def _sum(self, first: Array, second: Array) -> Array:
        measured = np.isfinite(first) | np.isfinite(second)
        return np.where(measured, np.nan_to_num(first) + np.nan_to_num(second), np.nan)


def paired_error(blocks: Array, draws: Array | None = None) -> PairedError:
    """The errors of the means over blocks.

    Args:
        blocks: float64 (n, q), the differences in each block; NaN where a block has none, and is left out.
        draws: float64 (n, q, R), the same under R patient-bootstrap weights; None where there are no replicates. A
            draw that is NaN in a block that counts is left out.
    """
    present = np.isfinite(blocks)
    count = present.sum(axis=0)
    n = np.maximum(count, 1)
    middle = np.where(present, blocks, 0.0).sum(axis=0) / n
    between = (np.where(present, blocks - middle, 0.0) ** 2).sum(axis=0) / np.maximum(count - 1, 1) / n
    between = np.where(count > 1, between, np.nan)
    nothing = np.full(blocks.shape[1], np.nan)
    if draws is None or not draws.shape[2]:
        return PairedError(between, nothing, nothing, np.maximum(count - 1.0, 1.0), np.ones(blocks.shape[1]))
    use = (np.isfinite(draws) | ~present[:, :, None]).all(axis=0) & (count > 0)[:, None]
    each = present[:, :, None] & use
    r = use.sum(axis=1)
    at_least_one = np.maximum(r, 1)
    centred = np.where(each, draws, 0.0)
    centred = np.where(each, centred - centred.sum(axis=2, keepdims=True) / at_least_one[:, None], 0.0)
    over_blocks = centred.sum(axis=0) / n[:, None]
    spread = np.where(each, centred - over_blocks, 0.0)
    shown = (spread**2).sum(axis=(0, 2)) / np.maximum(count - 1, 1) / at_least_one / n
    unseen = np.maximum(0.0, (over_blocks**2).sum(axis=1) / np.maximum(r - 1, 1) - shown)
    measured = (r > 1) & (count > 0)
    return PairedError(
        between,
        np.where(measured, shown, np.nan),
        np.where(measured, unseen, np.nan),
        np.maximum(count - 1.0, 1.0),
        np.maximum(r - 1.0, 1.0),
    )
