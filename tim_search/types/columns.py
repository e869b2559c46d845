"""Subsets, units and scores of a large search as columns of numbers: some ten bytes a unit, where a `Unit` takes 170.

A search may ask for a million units, of which a few hundred are in flight. To whoever reads them, `Subsets` and `Units`
are sequences of the values that `tim_search.types` has; a value is made when it is looked at.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice, pairwise
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from tim_search.types.nouns import Subset, Unit

_CHUNK = 65_536  # subsets that are laid out as names or as membership at a time

#: By byte, the one with its bits inverted and in reverse order.
_TURNED = np.packbits(np.unpackbits(~np.arange(256, dtype=np.uint8)[:, None], axis=1)[:, ::-1], axis=1).ravel()

Masks = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Subsets(Sequence[Subset]):
    """A sequence of N subsets.

    Attributes:
        tasks: names of all M tasks, sorted.
        masks: uint8 (N, ceil(M / 8)), each subset as bits of `tasks`, the first in the lowest bit of the first byte.
    """

    tasks: tuple[str, ...]
    masks: Masks = field(repr=False)

    @classmethod
    def of(cls, subsets: Iterable[Subset], tasks: Iterable[str] | None = None) -> Subsets:
        """These subsets in their order; without `tasks`, of the tasks that occur. `Subsets` are given back as they are.

        With `tasks` an iterator is read piece by piece.

        Raises:
            KeyError: a subset has a task that is none of `tasks`.
        """
        if isinstance(subsets, Subsets):
            return subsets if tasks is None else subsets.over(tasks)
        if tasks is None:
            subsets = list(subsets)
            tasks = set(chain.from_iterable(subsets))
        names = tuple(sorted(tasks))
        place = {name: index for index, name in enumerate(names)}
        masks = [np.zeros((0, _width(names)), np.uint8)]
        waiting = iter(subsets)
        while some := list(islice(waiting, _CHUNK)):
            masks.append(_packed(some, place))
        return cls(names, np.concatenate(masks))

    @classmethod
    def of_members(cls, membership: NDArray[np.bool_], names: Sequence[str]) -> Subsets:
        """The rows of a membership, bool (N, M), whose columns are these tasks."""
        order = sorted(range(len(names)), key=names.__getitem__)
        masks = np.packbits(membership[:, order], axis=1, bitorder="little")
        return cls(tuple(names[at] for at in order), masks)

    def __len__(self) -> int:
        return len(self.masks)

    @overload
    def __getitem__(self, at: int) -> Subset: ...
    @overload
    def __getitem__(self, at: slice) -> Subsets: ...
    def __getitem__(self, at: int | slice) -> Subset | Subsets:
        if isinstance(at, slice):
            return Subsets(self.tasks, self.masks[at])
        return next(iter(self.take(np.array([at]))))

    def __iter__(self) -> Iterator[Subset]:
        words = np.array(self.tasks, object)
        for start in range(0, len(self), _CHUNK):
            rows, places = np.nonzero(self[start : start + _CHUNK].membership)
            ends = np.searchsorted(rows, np.arange(min(_CHUNK, len(self) - start) + 1)).tolist()
            names = words[places].tolist()  # one string object a task
            yield from (tuple(names[a:b]) for a, b in pairwise(ends))

    def take(self, which: NDArray[np.integer | np.bool_]) -> Subsets:
        """Those at these places, or where this is true."""
        return Subsets(self.tasks, self.masks[which])

    def over(self, tasks: Iterable[str]) -> Subsets:
        """The same subsets as bits of other tasks; raises KeyError where these lack one of `self.tasks`."""
        names = tuple(sorted(tasks))
        if names == self.tasks:
            return self
        place = {name: index for index, name in enumerate(names)}
        columns = [place[name] for name in self.tasks]
        masks = [np.zeros((0, _width(names)), np.uint8)]
        for start in range(0, len(self), _CHUNK):
            own = self[start : start + _CHUNK].membership
            members = np.zeros((len(own), len(names)), bool)
            members[:, columns] = own
            masks.append(np.packbits(members, axis=1, bitorder="little"))
        return Subsets(names, np.concatenate(masks))

    @property
    def membership(self) -> NDArray[np.bool_]:
        """bool (N, M)."""
        return np.unpackbits(self.masks, axis=1, count=len(self.tasks), bitorder="little").astype(bool)

    def counts(self, tasks: Iterable[str]) -> NDArray[np.int32]:
        """int32 (N,): how many of these tasks each subset holds."""
        chosen = set(tasks)
        mask = np.packbits(np.array([name in chosen for name in self.tasks], bool), bitorder="little")
        return np.asarray(np.bitwise_count(self.masks & mask).sum(axis=1, dtype=np.int32))

    @property
    def keys(self) -> NDArray[np.uint64]:
        """uint64 (ceil(M / 64), N), the last row most significant: sorts subsets of one size as tuples are sorted.

        Of two subsets of one size the smaller tuple has the first task in which they differ.
        """
        n, width = self.masks.shape
        whole = np.zeros((n, -(-width // 8) * 8), np.uint8)
        whole[:, :width] = _TURNED[self.masks]
        return whole.view(">u8").T[::-1].astype(np.uint64)


@dataclass(frozen=True, eq=False)
class Units(Sequence[Unit]):
    """A sequence of N units.

    Attributes:
        subsets: N subsets.
        blocks: the (seed, fold) pairs of the units.
        block: int32 (N,), place of each unit's among them.
    """

    subsets: Subsets
    blocks: tuple[tuple[int, int], ...]
    block: NDArray[np.int32] = field(repr=False)

    @classmethod
    def of(cls, units: Iterable[Unit]) -> Units:
        """These units in their order. `Units` are given back as they are."""
        if isinstance(units, Units):
            return units
        units = list(units)
        numbers: dict[tuple[int, int], int] = {}
        places = (numbers.setdefault((unit.seed, unit.fold), len(numbers)) for unit in units)
        block = np.fromiter(places, np.int32, len(units))
        return cls(Subsets.of([unit.subset for unit in units]), tuple(numbers), block)

    def __len__(self) -> int:
        return len(self.block)

    @overload
    def __getitem__(self, at: int) -> Unit: ...
    @overload
    def __getitem__(self, at: slice) -> Units: ...
    def __getitem__(self, at: int | slice) -> Unit | Units:
        if isinstance(at, slice):
            return Units(self.subsets[at], self.blocks, self.block[at])
        return Unit(self.subsets[at], *self.blocks[self.block[at]])

    def __iter__(self) -> Iterator[Unit]:
        for members, block in zip(self.subsets, self.block.tolist(), strict=True):
            yield Unit(members, *self.blocks[block])

    def take(self, which: NDArray[np.integer | np.bool_]) -> Units:
        """Those at these places, or where this is true."""
        if which.dtype == bool and which.all():
            return self
        return Units(self.subsets.take(which), self.blocks, self.block[which])

    @property
    def ranks(self) -> NDArray[np.int32]:
        """int32 (N,): each unit's block by its place among all, sorted by seed and fold."""
        ordered = sorted(set(self.blocks))
        return np.array([ordered.index(block) for block in self.blocks], np.int32)[self.block]

    def first(self) -> NDArray[np.bool_]:
        """bool (N,): whether a unit occurs here for the first time."""
        columns = [*self.subsets.keys, self.ranks]
        order = np.lexsort(columns)  # stable: of equal units the first comes first
        new = np.zeros(len(self), bool)
        new[:1] = True
        for column in columns:
            ordered = column[order]
            new[1:] |= ordered[1:] != ordered[:-1]
        result = np.zeros(len(self), bool)
        result[order[new]] = True
        return result


def _width(tasks: Sequence[str]) -> int:
    """Bytes of a mask."""
    return -(-len(tasks) // 8)


def _packed(subsets: Sequence[Subset], place: Mapping[str, int]) -> Masks:
    """Masks of subsets whose tasks have these places."""
    lengths = np.fromiter(map(len, subsets), np.int64, len(subsets))
    places = map(place.__getitem__, chain.from_iterable(subsets))
    members = np.zeros((len(subsets), len(place)), bool)
    members[np.repeat(np.arange(len(subsets)), lengths), np.fromiter(places, np.int64, int(lengths.sum()))] = True
    return np.packbits(members, axis=1, bitorder="little")


@dataclass(frozen=True, eq=False)
class Sheet:
    """Scores as plain arrays: R runs of adjacent rows of one unit, N rows, S distinct subsets.

    Attributes:
        tasks: names of all tasks, sorted.
        membership: bool (S, tasks).
        counts: int64 (R,), rows of each run.
        subset: int32 (R,), place of the run's subset in `membership`.
        seed, fold: int64 (R,).
        task: int32 (N,), place among `tasks`.
        score: float64 (N,); NaN where the unit failed.
        replicates: (how many each row has (N,), all of them in the order of the rows), None where not read.
    """

    tasks: tuple[str, ...]
    membership: NDArray[np.bool_] = field(repr=False)
    counts: NDArray[np.int64] = field(repr=False)
    subset: NDArray[np.int32] = field(repr=False)
    seed: NDArray[np.int64] = field(repr=False)
    fold: NDArray[np.int64] = field(repr=False)
    task: NDArray[np.int32] = field(repr=False)
    score: NDArray[np.float64] = field(repr=False)
    replicates: tuple[NDArray[Any], NDArray[np.float32]] | None = field(default=None, repr=False)
