"""The plan whose subsets are known beforehand: exact, sized and sampled designs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from tim_search.ledger.table import ScoreTable
from tim_search.plans.contract import Listed
from tim_search.types import BadInput, Subset, Unit
from tim_search.types.columns import Subsets, Units

#: Units of the largest search: as columns they take a gigabyte.
MOST_UNITS = 10**8


@dataclass(frozen=True)
class StaticPlan(Listed):
    """Subsets that are known beforehand.

    Attributes:
        subsets: in their order.
        sliced: each block trains subsets of its own, the t-th subset in block t modulo the number of blocks; else every
            block trains all of them. Subsets that are added later leave the slices of the earlier ones as they are.
        sampled: whether they are a balanced sample of all subsets.
    """

    subsets: Sequence[Subset]
    sliced: bool = False
    sampled: bool = False

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
            return Units(subsets, tuple(blocks), row % np.int32(len(blocks)))
        return Units(subsets.take(row.repeat(len(blocks))), tuple(blocks), np.tile(block, len(subsets)))

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
