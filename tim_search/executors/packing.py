"""Units into packs: groups that one stacked program can train together.

A pack is uniform: its units share seed and fold (hence every minibatch) and have equally many tasks and equally many
clustering tasks, so that their parameters stack without padding.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from tim_search.types import Pack, Task, Unit
from tim_search.types.columns import Units

_SHARED_COST = 8  # tasks' worth: M3H on SUPPORT2 takes 1.5 times as long for six tasks as for one


@dataclass(frozen=True, eq=False)
class Packs:
    """The packs of a search in their order, each made when its turn comes.

    Attributes:
        units: of all packs, those of one side by side.
        cuts: int64 (n_packs, 2), where the units of each pack begin and end.
    """

    units: Units = field(repr=False)
    cuts: NDArray[np.int64] = field(repr=False)

    def __len__(self) -> int:
        return len(self.cuts)

    def __iter__(self) -> Iterator[Pack]:
        return (Pack(tuple(self.units[start:stop])) for start, stop in self.cuts.tolist())


def packs(units: Iterable[Unit], tasks: Mapping[str, Task], capacity: int, workers: int = 1) -> Packs:
    """Group units into packs of at most `capacity` units, costly packs first.

    Costly packs come first so that no long one is left for the end, when other workers would wait for it. A group that
    does not fill its packs is split evenly (17 units at capacity 16 give 9 + 8), and no pack holds more than a worker's
    share of the units, so that a few units keep all workers busy. The result depends on the set of units alone, not on
    their order; a unit given twice is packed once.

    Args:
        units: what is to be trained.
        tasks: the tasks of the search by name.
        capacity: the largest number of units a pack, at least 1.
        workers: that train packs at the same time.

    Raises:
        ValueError: when `capacity` is below 1.
    """
    if capacity < 1:
        raise ValueError(f"the capacity of a pack is at least 1 unit; {capacity} was given")
    units = Units.of(units)
    units = units.take(units.first())
    capacity = min(capacity, max(1, -(-len(units) // workers)))

    # What the units of a pack have in common.
    size = units.subsets.counts(units.subsets.tasks)
    clustering = units.subsets.counts(name for name, task in tasks.items() if task.kind == "clustering")
    block = units.ranks
    order = np.lexsort((*units.subsets.keys, block, clustering, size))
    units, size, clustering, block = units.take(order), size[order], clustering[order], block[order]

    cuts = [np.zeros((0, 2), np.int64)]
    for start, stop in pairwise(_edges(size, clustering, block).tolist()):
        n_packs = -(-(stop - start) // capacity)
        ends = start + (stop - start) * np.arange(n_packs + 1) // n_packs
        cuts.append(np.column_stack([ends[:-1], ends[1:]]))
    bounds = np.concatenate(cuts)
    starts = bounds[:, 0]
    # What a member shares with no task (encoders, contrastive term) costs as much as eight tasks; a clustering task
    # adds its decoder and its k-means.
    costs = (bounds[:, 1] - starts) * (_SHARED_COST + size[starts])
    return Packs(units, bounds[np.lexsort((starts, -clustering[starts], -costs))])


def _edges(*columns: NDArray[np.generic]) -> NDArray[np.int64]:
    """Where something new begins in one of these columns, and the end of them."""
    n = len(columns[0])
    new = np.zeros(n + 1, bool)
    new[:1] = new[n] = True
    for column in columns:
        new[1:n] |= column[1:] != column[:-1]
    return np.flatnonzero(new)


def cost(pack: Pack) -> int:
    """What a pack costs beside others of its search: its units, each as many tasks as it trains and eight more."""
    return len(pack.units) * (_SHARED_COST + len(pack.units[0].subset))


def at_most(pack: Pack, limit: float) -> int:
    """How many units of a pack together cost at most `limit`; at least 1."""
    return max(1, int(limit // (_SHARED_COST + len(pack.units[0].subset))))
