"""The contract of plans, and the plan whose subsets are known beforehand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from tim_search.ledger.table import ScoreTable, empty
from tim_search.types import Subset, Unit
from tim_search.types.columns import Subsets, Units


class Plan(Protocol):
    """Which units are wanted, as a pure function of what is known: the same table gives the same answer."""

    def ask(self, table: ScoreTable) -> Sequence[Unit]:
        """Units wanted in the table's blocks that have no final answer in it yet; [] when finished."""
        ...


@dataclass(frozen=True)
class StaticPlan:
    """Subsets that are known beforehand: exact, sized and sampled designs.

    Attributes:
        subsets: in their order.
        sliced: each block trains subsets of its own, the t-th subset in block t modulo the number of blocks; else every
            block trains all of them. Subsets that are added later leave the slices of the earlier ones as they are.
    """

    subsets: Sequence[Subset]
    sliced: bool = False

    def units(self, blocks: Sequence[tuple[int, int]]) -> Units:
        """All units of the plan in these blocks."""
        subsets = Subsets.of(self.subsets)
        conditions = tuple((seed, fold, "") for seed, fold in blocks)
        row, block = np.arange(len(subsets), dtype=np.int32), np.arange(len(blocks), dtype=np.int32)
        if self.sliced:
            return Units(subsets, conditions, row % np.int32(len(blocks)))
        return Units(subsets.take(row.repeat(len(blocks))), conditions, np.tile(block, len(subsets)))

    def ask(self, table: ScoreTable) -> list[Unit]:
        """See `Plan.ask`."""
        return [unit for unit in self.units(table.blocks) if unit not in table.answered]


def played(plan: Plan, table: ScoreTable, held: set[Unit]) -> tuple[int, int]:
    """Units the ledger holds of all that the plan would have asked for from the beginning, and rounds it holds whole.

    The plan is played through on the part of the table it has asked for so far, until it asks for something new.
    """
    asked: set[Unit] = set()
    rounds = 0
    known = empty(table.tasks, table.blocks)
    while new := set(plan.ask(known)) - asked:
        asked |= new
        if not new <= table.answered:
            break
        rounds += 1
        known = table.of(asked)
    return len(asked & held), rounds
