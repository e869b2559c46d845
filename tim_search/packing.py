"""Units into packs: groups that one stacked program can train together.

A pack is uniform: its units share seed and fold (hence every minibatch) and have equally many tasks and equally many
clustering tasks, so that their parameters stack without padding.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import pairwise
from operator import attrgetter

from tim_search.types import Pack, Task, Unit

_SHARED_COST = 8  # tasks' worth: M3H on SUPPORT2 takes 1.5 times as long for six tasks as for one


def packs(units: Iterable[Unit], tasks: Mapping[str, Task], capacity: int) -> list[Pack]:
    """Group units into packs of at most `capacity` units, costly packs first.

    Costly packs come first so that no long one is left for the end, when other workers would wait for it. A group that
    does not fill its packs is split evenly (17 units at capacity 16 give 9 + 8). The result depends on the set of units
    alone, not on their order; a unit given twice is packed once.

    Args:
        units: what is to be trained.
        tasks: the tasks of the search by name.
        capacity: the largest number of units a pack, at least 1.

    Raises:
        ValueError: when `capacity` is below 1.
    """
    if capacity < 1:
        raise ValueError(f"the capacity of a pack is at least 1 unit; {capacity} was given")
    clustering = {name for name, task in tasks.items() if task.kind == "clustering"}
    groups: dict[tuple[int, int, int, int], list[Unit]] = {}
    for unit in units:
        size, clusterings = len(unit.subset), len(clustering.intersection(unit.subset)) if clustering else 0
        groups.setdefault((size, clusterings, unit.seed, unit.fold), []).append(unit)
    for key, group in groups.items():
        # Sorted within groups, where the subset decides, and neighbours compared: of a million units no set is made.
        group.sort(key=attrgetter("subset"))
        groups[key] = [unit for unit, before in zip(group, [None, *group], strict=False) if unit != before]

    result: list[tuple[tuple[int, int, int, int], Pack]] = []
    for key, group in groups.items():
        n_packs = -(-len(group) // capacity)
        cuts = [len(group) * index // n_packs for index in range(n_packs + 1)]
        result += [(key, Pack(tuple(group[a:b]))) for a, b in pairwise(cuts)]
    # What a member shares with no task (encoders, contrastive term) costs as much as eight tasks; a clustering task
    # adds its decoder and its k-means.
    result.sort(key=lambda item: (-cost(item[1]), -item[0][1], item[0], item[1].units))
    return [pack for _, pack in result]


def cost(pack: Pack) -> int:
    """What a pack costs beside others of its search: its units, each as many tasks as it trains and eight more."""
    return len(pack.units) * (_SHARED_COST + len(pack.units[0].subset))


def at_most(pack: Pack, limit: float) -> int:
    """How many units of a pack together cost at most `limit`; at least 1."""
    return max(1, int(limit // (_SHARED_COST + len(pack.units[0].subset))))
