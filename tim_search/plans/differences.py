"""How much better one subset is than another: paired differences of scores, with intervals."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tim_search.ledger.table import ScoreTable
from tim_search.tim.paired import paired_error
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

    The value is the mean of the blocks' differences; `tim.paired.PairedError` says what its interval is made of.

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
    value, error = float(blocks.mean()), paired_error(blocks[:, None], None if draws is None else draws[:, None])
    half = float(error.half_width(confidence)[0])
    if math.isnan(half):
        return Difference(value, math.nan, math.nan, "nothing")
    rests = (not np.isnan(error.between[0]), not np.isnan(error.unseen[0]))
    spread: Spread = "blocks and patients" if all(rests) else "blocks" if rests[0] else "patients"
    return Difference(value, value - half, value + half, spread)
