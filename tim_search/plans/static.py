"""The plan whose subsets are known beforehand: exact, sized and sampled designs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tim_search.ledger.table import ScoreTable
from tim_search.plans.contract import Listed
from tim_search.types import BadInput, Subset, Unit
from tim_search.types.columns import Subsets, Units

#: Units of the largest search: as columns they take a gigabyte.
MOST_UNITS = 10**8
#: Blocks that a growing design fills at the same time: as many as a cohort usually has folds.
FILLED = 5


@dataclass(frozen=True)
class StaticPlan(Listed):
    """Subsets that are known beforehand.

    Attributes:
        subsets: in their order.
        sliced: each block trains subsets of its own (see `slices`); else every block trains all of them. Subsets that
            are added later leave the slices of the earlier ones as they are.
        sampled: whether they are a balanced sample of all subsets.
        fill: subsets that a sliced design deals to each of five blocks before it begins the next five; 0 deals to all
            blocks at once.
    """

    subsets: Sequence[Subset]
    sliced: bool = False
    sampled: bool = False
    fill: int = 0

    def units(self, blocks: Sequence[tuple[int, int]]) -> Units:
        """See `Plan.units`: the units of the first subset, then those of the second, and so on.

        Raises:
            BadInput: more of them than memory holds.
        """
        if self.most(blocks) > MOST_UNITS:
            raise BadInput(
                f"A search trains at most {MOST_UNITS:,} units; {len(self.subsets):,} subsets in {len(blocks):,} "
                f"blocks are {self.most(blocks):,}. Ask for fewer blocks, or for fewer subsets."
            )
        subsets = Subsets.of(self.subsets)
        row, block = np.arange(len(subsets), dtype=np.int32), np.arange(len(blocks), dtype=np.int32)
        if self.sliced:
            return Units(subsets, tuple(blocks), self.slices(len(blocks)))
        return Units(subsets.take(row.repeat(len(blocks))), tuple(blocks), np.tile(block, len(subsets)))

    def slices(self, n_blocks: int) -> NDArray[np.int32]:
        """See `Listed.slices`: in turn, among the blocks that are being filled."""
        place = np.arange(len(self.subsets), dtype=np.int32)
        if self.fill <= 0:
            return place % np.int32(n_blocks)
        # A search that grows has blocks of many subsets at any time, however many blocks it ends with.
        first, within = np.divmod(place, np.int32(min(FILLED * self.fill, MOST_UNITS)))
        first *= FILLED
        begun = first + within % np.minimum(FILLED, np.maximum(n_blocks - first, 1))
        return np.where(first < n_blocks, begun, place % n_blocks).astype(np.int32)

    def ask(self, table: ScoreTable) -> list[Unit]:
        """See `Plan.ask`."""
        return [unit for unit in self.units(table.blocks) if unit not in table.answered]

    def most(self, blocks: Sequence[tuple[int, int]]) -> int:
        """See `Plan.most`."""
        return len(self.subsets) * (1 if self.sliced else len(blocks))

    @property
    def largest(self) -> int | None:
        """See `Plan.largest`."""
        subsets = Subsets.of(self.subsets)
        return None if self.sampled else int(subsets.counts(subsets.tasks).max(initial=0))

    @property
    def sample(self) -> StaticPlan | None:
        """See `Plan.sample`."""
        return self if self.sampled else None

    def first(self, number: int) -> StaticPlan:
        """The plan of its first subsets, at most this number of them."""
        return replace(self, subsets=self.subsets[:number])
