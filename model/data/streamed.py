"""What is fitted to values that stay on disk: the numbers that the same values in memory give, in every bit.

A sum rounds in the order in which it is made. NumPy adds the rows of a table one after another, and a single column
pairwise; here the same is done part by part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from model.cohorts.stored import Stored, parts
from model.data import few_patients

Floats: TypeAlias = NDArray[np.float64]

#: Numbers of a part: what a core's cache holds.
_PART = 1 << 18
#: NumPy adds a column up pairwise from so many numbers on, and a half that it is cut into is a multiple of this.
_PAIRWISE, _EIGHT = 128, 8


def moments(values: Stored, block: int) -> tuple[Floats, Floats, NDArray[np.int64]]:
    """Mean, standard deviation (0 for a constant) and count of the measured values of each channel; each (c,).

    Args:
        values: (n, T, c) of sequences, (n, c, H, W) of images.
        block: columns that are added up together where values are in memory; one that is left over is added pairwise.
    """
    width = channels(values)
    count, mean = np.zeros(width, np.int64), np.zeros(width)

    def measured(table: Floats) -> Floats:
        return np.where(np.isnan(table), 0.0, table)

    def squares(table: Floats) -> Floats:
        return measured(table - mean) ** 2

    total = _totals(values, block, measured, count)
    safe = np.maximum(count, 1)
    mean = total / safe
    spread = np.sqrt(_totals(values, block, squares) / safe)
    scale = np.where(spread > 1e-12 * np.maximum(np.abs(mean), 1e-300), spread, 0.0)
    return mean, scale, count


def channels(values: Stored) -> int:
    """c of sequences (n, T, c) or images (n, c, H, W)."""
    return values.shape[1] if values.ndim == 4 else values.shape[-1]


def by_step(part: NDArray[Any]) -> NDArray[Any]:
    """(n, steps, c) of either kind."""
    return np.moveaxis(part, 1, -1).reshape(len(part), -1, part.shape[1]) if part.ndim == 4 else part


def _tables(values: Stored) -> Iterator[Floats]:
    """float64 (m, c), the steps of all samples in their order."""
    for _, part in parts(values, _PART):
        yield np.ascontiguousarray(by_step(part).reshape(-1, channels(values)), np.float64)


def _totals(
    values: Stored, block: int, look: Callable[[Floats], Floats], count: NDArray[np.int64] | None = None
) -> Floats:
    """(c,) sums over all steps of all samples of what `look` makes of them; `count` is raised by what is measured."""
    width = channels(values)
    total = np.zeros(width)
    begun = False
    for table in _tables(values) if width > 1 or count is not None else ():
        if count is not None:
            count += (~np.isnan(table)).sum(axis=0)
        own = look(table)
        own[0] += total if begun else 0.0
        total, begun = own.sum(axis=0), True
    if width % block == 1:
        steps = values.shape[1] if values.ndim == 3 else values.shape[2] * values.shape[3]
        total[-1] = _pairwise(values, look, steps, 0, len(values) * steps)
    return total


def _pairwise(values: Stored, look: Callable[[Floats], Floats], steps: int, start: int, stop: int) -> float:
    """The sum over some steps of the last channel."""
    count = stop - start
    if count <= max(_PAIRWISE, _PART // channels(values)):
        first, last = start // steps, -(-stop // steps)
        column = by_step(values[first:last]).reshape(-1, channels(values))[start - first * steps : stop - first * steps]
        return float(look(np.ascontiguousarray(column, np.float64))[:, -1].copy().sum())
    middle = start + count // 2 - count // 2 % _EIGHT
    return _pairwise(values, look, steps, start, middle) + _pairwise(values, look, steps, middle, stop)


def published(values: Stored, mean: Floats, scale: Floats, few: int, n: int) -> tuple[Floats, Floats]:
    """`few_patients.moments` of values that stay on disk.

    Where fewer than `few` samples differ from all others, most of any 2 * few + 1 of them are the usual ones: so the
    usual value is had from the first of them.
    """
    width, most = channels(values), 2 * few + 1
    having, others = np.zeros(width, np.int64), np.zeros(width, np.int64)
    first: list[list[int]] = [[] for _ in range(width)]
    for at, part in parts(values, _PART):
        there = (~np.isnan(by_step(part))).any(axis=1)
        for column in np.flatnonzero(having < most).tolist():
            first[column] += (np.flatnonzero(there[:, column]) + at.start).tolist()[: most - int(having[column])]
        having += there.sum(axis=0)
    usual = np.zeros(width)
    for rows, columns in _alike(first).items():
        own = by_step(values[np.array(rows, np.int64)])[:, :, columns].astype(np.float64)
        usual[columns] = [_majority(own[:, :, place]) for place in range(len(columns))]
    for _, part in parts(values, _PART):
        steps = by_step(part)
        others += (~np.isnan(steps) & (steps != usual)).any(axis=1).sum(axis=0)
    mean, scale = mean.copy(), scale.copy()
    for column, rows in enumerate(map(tuple, first)):
        counted = float(usual[column]), int(others[column]), int(having[column])
        if having[column] < most:  # these are all that there are
            counted = few_patients.usual(by_step(values[np.array(rows, np.int64)])[:, :, column].astype(np.float64))
        mean[column], scale[column] = few_patients.of_column(mean[column], scale[column], counted, len(values), few, n)
    return mean, scale


def _alike(first: list[list[int]]) -> dict[tuple[int, ...], list[int]]:
    """The columns by their rows, so that rows are read once."""
    columns: dict[tuple[int, ...], list[int]] = {}
    for column, rows in enumerate(first):
        columns.setdefault(tuple(rows), []).append(column)
    return columns


def _majority(own: Floats) -> float:
    """The most frequent first value of (m, steps), 0 of none."""
    there, counts = np.unique([row[~np.isnan(row)][0] for row in own], return_counts=True)
    return float(there[counts.argmax()]) if len(there) else 0.0
