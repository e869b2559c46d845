"""Whether a count that is hidden could be had from those that are told beside it, also by who knows the rule.

Counts of one table add up: the parts of a split to all samples, the classes of a task to the labelled ones. Who knows
the sums and the intervals that rounded counts stand for can narrow a hidden one down. It stays hidden if moving a
patient or two from one cell of the table to others changes it and nothing that is told. Counts are told in one of
several ways, the finest that hides them; that the finer ones were refused is seen too. So the table with those
patients moved must have been refused them as well.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
#: (value,) -> the least and the largest count that is told in the same way.
Interval = Callable[[int], tuple[int, int]]

_PAIRS = 60_000  # moves of two patients that are looked at, of more a fixed sample
_TRIED = 200  # tables like this one, of which is asked whether they were told in the same way


class Table(NamedTuple):
    """Counts that add up, and what is told of them.

    Attributes:
        cells: (A,) the counts that everything else is a sum of.
        rounded: (T, A) coefficients of the sums that are told in the way that is chosen.
        exact: (E, A) those of the sums that are told as they are, but for small ones.
        secret: (S, A) those of the sums that must not be known where they are small.
    """

    cells: Ints
    rounded: Ints
    exact: Ints
    secret: Ints


def first_in_doubt(tables: Sequence[Table], ways: Sequence[Interval], plain: Interval, small: int) -> int | None:
    """The place of the first way that leaves every count from 1 to `small` - 1 in doubt; None where none does.

    Args:
        tables: all are told in one way.
        ways: the ways to tell a sum, in the order in which they are tried.
        plain: how sums are told that are not rounded.
        small: below which a count is hidden.
    """
    refused: list[set[int]] = [set() for _ in tables]
    hides = [_small(table.secret @ table.cells, small).any() for table in tables]
    for place in range(len(ways)):
        for index, table in enumerate(tables):
            others = [other for other in range(len(tables)) if other != index]
            finer = set(range(place)).difference(*(refused[other] for other in others))
            near = _Near(finer, any(hides[other] for other in others))
            if _refused(table, ways, place, plain, small, near):
                refused[index].add(place)
        if not any(place in places for places in refused):
            return place
    return None


class _Near(NamedTuple):
    """What has to hold for a table near another one, so that both are told in the same way.

    Attributes:
        finer: the ways that have to be refused to it, as no table beside it is refused them.
        hides: whether a table beside it holds a small count; else it has to hold one, or all were told exactly.
    """

    finer: Collection[int]
    hides: bool


def _small(values: Ints, small: int) -> NDArray[np.bool_]:
    return (values > 0) & (values < small)


def _refused(table: Table, ways: Sequence[Interval], place: int, plain: Interval, small: int, near: _Near) -> bool:
    """Whether a way leaves no doubt of this table, or of one that is a patient away.

    So a table that is refused a way is never the only one of its kind.
    """
    if not _small(table.secret @ table.cells, small).any():
        return False
    moves = _steps(len(table.cells))
    moves = moves[(moves @ table.exact.T == 0).all(axis=1) & (table.cells + moves >= 0).all(axis=1)]
    return not all(
        _open_to_doubt(table._replace(cells=table.cells + move), ways, place, plain, small, near)
        for move in (np.zeros_like(table.cells), *moves)
    )


def _open_to_doubt(
    table: Table, ways: Sequence[Interval], place: int, plain: Interval, small: int, near: _Near
) -> bool:
    """Whether each small secret could have another value, and the same way would have been taken."""
    cells = table.cells
    values = table.secret @ cells
    pending = _small(values, small)
    if not pending.any():
        return True
    sums = np.concatenate([table.rounded, table.exact]) @ cells
    intervals = [ways[place](int(value)) for value in sums[: len(table.rounded)]]
    intervals += [plain(int(value)) for value in sums[len(table.rounded) :]]
    least, largest = np.array(intervals, np.int64).reshape(-1, 2).T
    finer = [way for way in near.finer if way < place]
    tried = 0
    for moves in (_steps(len(cells)), _pairs(len(cells))):
        now = sums + np.concatenate([moves @ table.rounded.T, moves @ table.exact.T], axis=1)
        possible = ((now >= least) & (now <= largest)).all(axis=1) & (cells + moves >= 0).all(axis=1)
        moves = moves[possible]
        others = values + moves @ table.secret.T  # what is told to be small is so in all of them
        differ = (others != values) & (near.hides | _small(others, small).any(axis=1, keepdims=True))
        if not finer:
            pending &= ~differ.any(axis=0)
        for move, differs in zip(moves, differ, strict=True) if finer else ():
            if tried < _TRIED and (differs & pending).any():
                tried += 1
                like = table._replace(cells=cells + move)
                if all(_refused(like, ways, way, plain, small, near) for way in finer):
                    pending &= ~differs
        if not pending.any():
            return True
    return False


@functools.lru_cache(maxsize=8)
def _steps(n: int) -> Ints:
    """(V, n): a patient comes to a cell, leaves one, or goes from one to another."""
    unit = np.eye(n, dtype=np.int64)
    across = [unit[i] - unit[j] for i, j in itertools.permutations(range(n), 2)]
    return np.concatenate([unit, -unit, np.array(across, np.int64).reshape(-1, n)])


@functools.lru_cache(maxsize=8)
def _pairs(n: int) -> Ints:
    """(V, n): two of these steps together."""
    steps = _steps(n)
    first, second = np.triu_indices(len(steps))
    if len(first) > _PAIRS:
        chosen = np.random.default_rng(0).choice(len(first), _PAIRS, replace=False)
        first, second = first[chosen], second[chosen]
    return np.unique(steps[first] + steps[second], axis=0)
