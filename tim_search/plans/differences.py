"""How much better one subset is than another: paired differences of scores, with intervals."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from tim_search.ledger.table import ScoreTable
from tim_search.types import Subset

#: What an interval is made from: the spread over blocks, the bootstrap over evaluation patients, both, or nothing.
Spread: TypeAlias = Literal["blocks", "patients", "blocks and patients", "nothing"]


@dataclass(frozen=True, slots=True)
class Difference:
    """A paired difference of two subsets' scores on one task, in the task's metric; see `difference`."""

    value: float
    low: float
    high: float
    spread: Spread


#: Where nothing can be compared.
UNKNOWN = Difference(math.nan, math.nan, math.nan, "nothing")


def difference(table: ScoreTable, members: Subset, other: Subset, task: str, confidence: float = 0.95) -> Difference:
    """Score of `task` when trained with `members`, minus its score when trained with `other`, with an interval.

    With d_b the difference in block b, b = 1..n, the value is its mean over the blocks. The interval adds two parts,
    each with its own t quantile:

    - what shows between blocks, s^2 / n with s^2 the variance of d_b (n - 1 degrees of freedom): training seeds, and
      the patients where the blocks validate on different folds. Few blocks agree by chance now and then, so it is
      taken for no less than what the patients alone make of it: the variance over b of the deviations of the
      replicates d_br under bootstrap weights, over n;
    - what cannot show between blocks: the variance over r of the mean over b of d_br beyond that. It is nothing where
      every block has a fold of its own, and all of the patients' part where all blocks share one: then the patients'
      luck is the same in every block.

    With one block the interval comes from the replicates alone and says nothing of training seeds. With one block and
    no replicates, or a score missing in any block, it is NaN.

    Args:
        table: scores, and replicates where they are loaded.
        members, other: subsets in the table, both holding `task`.
        task: whose score is compared.
        confidence: coverage of the two-sided interval.
    """
    column = table.tasks.index(task)
    first, second = table.rows[members], table.rows[other]
    draws = None
    if table.replicates is not None:
        draws = (table.replicates[first, :, column] - table.replicates[second, :, column]).astype(np.float64)
    return paired(table.scores[first, :, column] - table.scores[second, :, column], draws, confidence)


def paired(
    blocks: NDArray[np.float64], draws: NDArray[np.float64] | None = None, confidence: float = 0.95
) -> Difference:
    """Mean of paired differences, with the interval that `difference` describes.

    Args:
        blocks: float64 (n,), the difference in each block.
        draws: float64 (n, R), the same under R patient-bootstrap weights; None where there are no replicates.
        confidence: coverage of the two-sided interval.
    """
    n = len(blocks)
    if n == 0 or not np.isfinite(blocks).all():
        return UNKNOWN
    value = float(blocks.mean())
    upper = (1 + confidence) / 2
    between = seen = unseen = math.nan
    if n >= 2:
        between = float(stats.t.ppf(upper, n - 1)) ** 2 * float(blocks.var(ddof=1)) / n
    if draws is not None:
        draws = draws[:, np.isfinite(draws).all(axis=0)]
        r = draws.shape[1]
        if r >= 2:
            quantile = float(stats.t.ppf(upper, r - 1)) ** 2
            deviation = draws - draws.mean(axis=1, keepdims=True)
            shown = float(deviation.var(axis=0, ddof=1).mean()) / n if n >= 2 else 0.0
            seen, unseen = quantile * shown, quantile * max(0.0, float(draws.mean(axis=0).var(ddof=1)) - shown)
    if math.isnan(between) and math.isnan(unseen):
        return Difference(value, math.nan, math.nan, "nothing")
    half = math.sqrt(np.nanmax([between, seen]) + np.nansum([unseen])) if n >= 2 else math.sqrt(unseen)
    rests: tuple[bool, bool] = (not math.isnan(between), not math.isnan(unseen))
    spread: Spread = "blocks and patients" if all(rests) else "blocks" if rests[0] else "patients"
    return Difference(value, value - half, value + half, spread)
