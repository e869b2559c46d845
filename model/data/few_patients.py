"""What is fitted to patients and published with a model, such that no count of few patients can be had from it.

A mean in full digits is a fraction whose denominator counts the rows, and times the rows it counts those that differ.
So a scale becomes a power of two, and a mean a multiple of a part of the scale that several patients together would
move it by. Nothing is fitted to a column in which few patients have a value, or one that is not everybody's: even a
rounded mean would tell of them. The steps hang on the number of samples, which is no secret, and on how many octaves
fewer have a value; a step that hung on their exact number would tell on which side of a bound that lies.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

#: A mean is told in steps by which so many times `few` patients, a scale away from it each, would move it.
_PATIENTS = 4


def moments(values: NDArray[np.floating[Any]], mean: Floats, scale: Floats, few: int, n: int) -> tuple[Floats, Floats]:
    """(mean, scale), float64 (k,), of k columns as they may be published; 0 where no scale may be.

    Args:
        values: (m, steps, k), NaN where nothing was measured.
        mean, scale: (k,), exact; a scale of 0 is that of a constant.
        few: patients, of fewer than which nothing is told.
        n: samples of the whole cohort.
    """
    mean, scale = mean.copy(), scale.copy()
    for column in range(values.shape[2]):
        counted = usual(np.asarray(values[:, :, column], np.float64))
        mean[column], scale[column] = of_column(mean[column], scale[column], counted, len(values), few, n)
    return mean, scale


def of_column(
    mean: float, scale: float, counted: tuple[float, int, int], m: int, few: int, n: int
) -> tuple[float, float]:
    """(mean, scale) of one column as they may be published; `counted` is what `usual` says of its m rows."""
    most_frequent, others, having = counted
    if having < few:
        return 1.0, 0.0  # a channel that stays is then told as it is: mean - 1 is 0
    if scale and others < few:
        return most_frequent, 0.0
    return _rounded(mean, scale, having / m, few, n) if scale else (mean, scale)


def levels(codes: NDArray[np.floating[Any]], few: int) -> list[int]:
    """The codes, sorted, that enough of the rows (m,) carry; NaN is none."""
    there, counts = np.unique(codes[~np.isnan(codes)], return_counts=True)
    return [int(code) for code in there[counts >= few]]


def scale_of_labels(labels: Floats, few: int, n: int) -> tuple[float, float]:
    """(mean, scale) of the labels (m,) of n samples, as they may be published; (0, 1) where fewer than `few` have one.

    Where few labels differ from all others, the scale is that of the farthest one.
    """
    if len(labels) < few:
        return 0.0, 1.0
    most_frequent, others, having = usual(labels[:, None])
    if others < few:
        farthest = float(np.abs(labels - most_frequent).max())
        return most_frequent, _power(farthest) if farthest else 1.0
    return _rounded(float(labels.mean()), float(labels.std()) or 1.0, having / n, few, n)


def usual(values: Floats) -> tuple[float, int, int]:
    """Of (m, steps): the most frequent value, how many rows have any other, and how many have one at all."""
    given = ~np.isnan(values)
    there, counts = np.unique(values[given], return_counts=True)
    value = float(there[counts.argmax()]) if len(there) else 0.0
    return value, int((given & (values != value)).any(axis=1).sum()), int(given.any(axis=1).sum())


def _rounded(mean: float, scale: float, share: float, few: int, n: int) -> tuple[float, float]:
    """Both rounded; `share` is the part of the rows that has a value, above 0."""
    scale = _power(scale)
    octaves = math.ceil(math.log2(_PATIENTS * few / n)) - math.ceil(math.log2(share))
    step = scale * 2.0 ** min(0, octaves)
    return round(mean / step) * step, scale


def _power(scale: float) -> float:
    """The nearest power of two."""
    return float(2.0 ** round(math.log2(scale)))
