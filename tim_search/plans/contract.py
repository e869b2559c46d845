"""The contract of plans: everything the rest asks of a plan, so that nobody asks which kind of plan it is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tim_search.ledger.table import ScoreTable, empty
from tim_search.types import Subset, Unit
from tim_search.types.columns import Units

if TYPE_CHECKING:
    from tim_search.plans.expansion import Expander

#: Beyond these a setting of a plan (sets, tasks, rounds, proposals) and a number of blocks are mistakes, not wishes.
MOST, MOST_BLOCKS = 10_000, 10_000


class Plan(ABC):
    """Which units are wanted: a value whose answers are pure functions of the scores there are.

    The same table gives the same answer, and scores that the plan did not ask for do not mislead it: a search that is
    taken up again goes the way of one that was never interrupted. A plan of one's own needs `ask` and `most`; the other
    answers are those of a plan that the scores lead. What every plan must do is tested in
    tests/support/plan_conformance.py.
    """

    @abstractmethod
    def ask(self, table: ScoreTable) -> Sequence[Unit]:
        """Units wanted next in the table's blocks that have no final answer in it yet; empty when finished."""

    @abstractmethod
    def most(self, blocks: Sequence[tuple[int, int]]) -> int:
        """Units of the whole search in these (seed, fold) blocks, at most."""

    def units(self, blocks: Sequence[tuple[int, int]]) -> Units | None:
        """All units of the search in these blocks where no score can change them; None where scores decide."""
        return None

    def planned(self, blocks: Sequence[tuple[int, int]]) -> int | None:
        """Number of units of the whole search; None where scores decide."""
        units = self.units(blocks)
        return None if units is None else len(units)

    @property
    def largest(self) -> int | None:
        """Tasks in the largest subset it may train; None where it may train subsets of any size."""
        return None

    @property
    def sample(self) -> Listed | None:
        """All subsets of a sampled design, which the TIM scores of a whole matrix rest on; None for other designs."""
        return None

    def stopping(self, table: ScoreTable) -> dict[str, Any] | None:
        """How a plan with a stopping rule stands, as plain values (see `Sequential.stopping`); None without a rule."""
        return None

    def expander(self, sources: Sequence[str], tasks: Sequence[str], **settings: Any) -> Expander | None:
        """What names the best combination of each source, where the plan looks for it; None where it does not.

        Args:
            sources: tasks whose scores are to be improved.
            tasks: tasks that may be combined.
            settings: to be used in place of the plan's own (see `Greedy`).
        """
        return None


class Listed(Plan):
    """A plan whose subsets are known beforehand, in their order; `sliced`: each block trains subsets of its own."""

    subsets: Sequence[Subset]
    sliced: bool

    @abstractmethod
    def units(self, blocks: Sequence[tuple[int, int]]) -> Units:
        """All units of the search in these blocks."""

    @abstractmethod
    def slices(self, n_blocks: int) -> NDArray[np.int32]:
        """Number of the block (subsets,) that trains each subset of a sliced design."""

    @abstractmethod
    def first(self, number: int) -> Listed:
        """The plan of its first subsets, at most this number of them."""


def progress(plan: Plan, table: ScoreTable, held: set[Unit]) -> tuple[int, int]:
    """(units that the ledger holds of all the plan would have asked for from the beginning, rounds it holds whole).

    The plan is asked again from the beginning, each time with the scores it has asked for so far, until it wants
    something that is not there.

    Args:
        plan: of the search.
        table: all scores there are.
        held: units that have a final answer in the ledger.
    """
    asked: set[Unit] = set()
    rounds = 0
    seen = empty(table.tasks, table.blocks)
    while new := set(plan.ask(seen)) - asked:
        asked |= new
        if not new <= table.answered:
            break
        rounds += 1
        seen = table.of(asked)
    return len(asked & held), rounds
