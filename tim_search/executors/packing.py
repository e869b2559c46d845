"""Units into packs: groups that one stacked program can train together.

A pack is uniform: its units share seed and fold (hence every minibatch) and have equally many tasks and equally many
clustering tasks, so that their parameters stack without padding. Units that name settings of their own are packed by
subset instead: all that is tried for a subset, in all blocks, is one pack, or as few as hold it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from tim_search.types import Attention, Curve, Pack, PackResult, Score, Task, Unit
from tim_search.types.columns import Units

_Item = TypeVar("_Item", Score, Attention, Curve)

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
    their order; a unit given twice is packed once. Units that name settings are cut between subsets, and within one
    only where it does not fit a pack by itself.

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

    # What the units of a pack have in common; units that name settings may be of several blocks.
    size = units.subsets.counts(units.subsets.tasks)
    clustering = units.subsets.counts(name for name, task in tasks.items() if task.kind == "clustering")
    block = np.where(units.named, np.int32(-1), units.ranks)
    order = np.lexsort((units.ranks, *units.subsets.keys, block, clustering, size))
    units, size, clustering, block = units.take(order), size[order], clustering[order], block[order]

    cuts = [np.zeros((0, 2), np.int64)]
    edges = _edges(size, clustering, block)
    subsets = _edges(size, clustering, block, *units.subsets.keys) if units.named.any() else edges
    for start, stop in pairwise(edges.tolist()):
        whole = [start, stop] if block[start] >= 0 else _runs(subsets[(subsets >= start) & (subsets <= stop)], capacity)
        for a, b in pairwise(whole):
            n_packs = -(-(b - a) // capacity)
            ends = a + (b - a) * np.arange(n_packs + 1) // n_packs
            cuts.append(np.column_stack([ends[:-1], ends[1:]]))
    found = np.concatenate(cuts)
    starts = found[:, 0]
    # What a member shares with no task (encoders, contrastive term) costs as much as eight tasks; a clustering task
    # adds its decoder and its k-means.
    costs = (found[:, 1] - starts) * (_SHARED_COST + size[starts])
    return Packs(units, found[np.lexsort((starts, -clustering[starts], -costs))])


def _edges(*columns: NDArray[np.generic]) -> NDArray[np.int64]:
    """Where something new begins in one of these columns, and the end of them."""
    n = len(columns[0])
    new = np.zeros(n + 1, bool)
    new[:1] = new[n] = True
    for column in columns:
        new[1:n] |= column[1:] != column[:-1]
    return np.flatnonzero(new)


def _runs(edges: NDArray[np.int64], capacity: int) -> list[int]:
    """Of the edges between subsets those that cut them into runs of as many as fit a pack, or of one that fits none."""
    kept = edges[:1].tolist()
    for before, edge in pairwise(edges.tolist()):
        if edge - kept[-1] > capacity and before > kept[-1]:
            kept.append(before)
    return [*kept, int(edges[-1])]


def by_settings(result: PackResult) -> dict[str, list[PackResult]]:
    """What came back, by the settings that its units name: a result a block, of units without any, for the ledger.

    A pack's time is shared out by the number of units, so that the parts add up to it.
    """
    if not any(unit.settings for unit in result.pack.units):
        return {"": [result]}
    blocks: dict[tuple[str, int, int], dict[Unit, Unit]] = {}
    for unit in result.pack.units:
        blocks.setdefault((unit.settings, unit.seed, unit.fold), {})[unit] = replace(unit, settings="")
    found: dict[str, list[PackResult]] = {}
    for (settings, *_), plain in blocks.items():

        def own(items: Iterable[_Item], plain: Mapping[Unit, Unit] = plain) -> tuple[_Item, ...]:
            return tuple(replace(item, unit=plain[item.unit]) for item in items if item.unit in plain)

        part = replace(
            result,
            pack=Pack(tuple(plain.values())),
            scores=own(result.scores),
            attention=own(result.attention),
            curves=own(result.curves),
            seconds=result.seconds * len(plain) / len(result.pack.units),
        )
        found.setdefault(settings, []).append(part)
    return found


def cost(pack: Pack) -> int:
    """What a pack costs beside others of its search: its units, each as many tasks as it trains and eight more."""
    return len(pack.units) * (_SHARED_COST + len(pack.units[0].subset))


def at_most(pack: Pack, limit: float) -> int:
    """How many units of a pack together cost at most `limit`; at least 1."""
    return max(1, int(limit // (_SHARED_COST + len(pack.units[0].subset))))
