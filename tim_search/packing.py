"""Units into packs: groups that one stacked program can train together.

A pack is uniform: its units share seed and fold (hence every minibatch) and have equally many tasks and equally many
clustering tasks, so that their parameters stack without padding. Units that name settings of their own are packed by
subset instead: all that is tried for a subset, in all blocks, is one pack, or as few as hold it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import groupby, pairwise
from operator import attrgetter
from typing import TypeAlias, TypeVar

from tim_search.types import Attention, Curve, Pack, PackResult, Score, Task, Unit

_Item = TypeVar("_Item", Score, Attention, Curve)

#: Number of tasks, of clustering tasks, and the block; () of units that name settings.
_Kind: TypeAlias = tuple[int, int, tuple[int, ...]]

_SHARED_COST = 8  # tasks' worth: M3H on SUPPORT2 takes 1.5 times as long for six tasks as for one


def packs(units: Iterable[Unit], tasks: Mapping[str, Task], capacity: int, workers: int = 1) -> list[Pack]:
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
    clustering = {name for name, task in tasks.items() if task.kind == "clustering"}
    groups: dict[_Kind, list[Unit]] = {}
    for unit in units:
        size, clusterings = len(unit.subset), len(clustering.intersection(unit.subset)) if clustering else 0
        block = () if unit.settings else (unit.seed, unit.fold)
        groups.setdefault((size, clusterings, block), []).append(unit)
    for kind, group in groups.items():
        # Sorted within groups, where mostly the subset decides, and neighbours compared: of a million units no set is
        # made.
        group.sort(key=attrgetter("subset") if kind[2] else attrgetter("subset", "settings", "seed", "fold"))
        groups[kind] = [unit for unit, before in zip(group, [None, *group], strict=False) if unit != before]
    capacity = min(capacity, max(1, -(-sum(map(len, groups.values())) // workers)))

    result: list[tuple[_Kind, Pack]] = []
    for kind, group in groups.items():
        for part in [group] if kind[2] else _by_subset(group, capacity):
            n_packs = -(-len(part) // capacity)
            cuts = [len(part) * index // n_packs for index in range(n_packs + 1)]
            result += [(kind, Pack(tuple(part[a:b]))) for a, b in pairwise(cuts)]
    # What a member shares with no task (encoders, contrastive term) costs as much as eight tasks; a clustering task
    # adds its decoder and its k-means.
    result.sort(key=lambda item: (-cost(item[1]), -item[0][1], item[0], item[1].units))
    return [pack for _, pack in result]


def _by_subset(units: Sequence[Unit], capacity: int) -> list[list[Unit]]:
    """Sorted units in runs of whole subsets, as many as fit a pack; a subset that fits none is a run by itself."""
    runs: list[list[Unit]] = []
    for _, group in groupby(units, attrgetter("subset")):
        of_one = list(group)
        if runs and len(runs[-1]) + len(of_one) <= capacity:
            runs[-1] += of_one
        else:
            runs.append(of_one)
    return runs


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
