"""From a cohort to network inputs: standardised, imputed, one-hot, with everything fitted on given rows only.

`fit(cohort, rows)` reads the means, spreads, levels and gaps from the training rows and from nothing else;
`Preprocessor.transform` applies them to every row. For a vector modality each column becomes

- numeric: one standardised column; a missing value is 0, the training mean;
- categorical: one 0/1 column for each level seen in the training rows; a level not seen there, or a missing one, is
  all zeros;
- where 1 % or more of the training rows lack it: one more column, 1 where it was measured and 0 where not.

What is fitted can be fitted so that it tells no count of few patients (`few`): see `model.data.few_patients`.

Sequences and images are standardised by channel, 0 where not measured; a constant channel is 1 where measured. Rows
that lack a modality are exactly 0 throughout, as a value at the mean is too: networks are told who lacks what by
`Modality.present`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.cohorts.cohort import Bools, Cohort, Floats, Modality
from model.cohorts.stored import Stored, parts
from model.data import few_patients, streamed

#: Standardised values are clipped here. Laboratory values have heavy tails (SUPPORT2: up to 20 standard deviations),
#: and a single such value would otherwise set the size of a gradient step.
CLIP = 10.0

#: A column gets an observed-indicator when at least this share of the training rows lacks it: from fewer a network
#: could learn nothing but those rows.
FEWEST_GAPS = 0.01

#: Columns are standardised so many at a time, so that float64 copies stay small.
_BLOCK = 256
#: Numbers of sequences and images that are standardised at a time.
_PART = 1 << 16


@dataclass(frozen=True, eq=False)
class Transform:
    """What one modality becomes.

    Attributes:
        kind: of the modality.
        columns: its columns when fitted; the cohort to transform must have the same.
        numeric: positions (k,) of the columns (or channels) that are standardised; constant ones are left out.
        mean, scale: float64 (k,), from the measured training values.
        levels: (position, code) of each one-hot column.
        gaps: positions of the columns that get an observed-indicator.
        names: d names of the output columns: standardised, one-hot, indicators.
    """

    kind: str
    columns: tuple[str, ...]
    numeric: NDArray[np.int64]
    mean: NDArray[np.float64]
    scale: NDArray[np.float64]
    levels: tuple[tuple[int, int], ...]
    gaps: tuple[int, ...]
    names: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Preprocessor:
    """Fitted transforms, one a modality."""

    transforms: Mapping[str, Transform]

    @property
    def names(self) -> dict[str, tuple[str, ...]]:
        """Names of the output columns of each modality, e.g. "age", "sex=female", "albumin measured"."""
        return {name: transform.names for name, transform in self.transforms.items()}

    def transform(self, cohort: Cohort) -> dict[str, NDArray[np.float32]]:
        """Network inputs of every sample, by modality in the cohort's order.

        Returns:
            float32 arrays without NaN: vectors (n, d_m), sequences (n, T, c), images (n, c, H, W). A modality of
            which no column varies in the training rows is one column of zeros, so that a network can be built on it.
            Modalities that stay on disk are left out: their inputs are made by minibatch (`model.data.unread`).

        Raises:
            ValueError: the cohort's modalities or columns are not those that were fitted.
        """
        return self.apply(cohort.modalities)

    def apply(self, modalities: Mapping[str, Modality]) -> dict[str, NDArray[np.float32]]:
        """As `transform`, from modalities without a cohort around them: rows to predict."""
        fitted = {name: transform.columns for name, transform in self.transforms.items()}
        given = {name: modality.columns for name, modality in modalities.items()}
        if fitted != given:
            raise ValueError("the cohort's modalities and columns are not those the preprocessor was fitted on")
        return {
            name: _apply(self.transforms[name], modality)
            for name, modality in modalities.items()
            if not isinstance(modality.values, Stored)
        }


def fit(cohort: Cohort, rows: Bools, few: int = 0) -> Preprocessor:
    """Fit on the rows where `rows` (bool (n,)) is true; no other row is looked at.

    Args:
        few: no count of fewer rows can be had from what is fitted; 0 fits exactly.
    """
    if not rows.any():
        raise ValueError("preprocessing needs at least one training row")
    return Preprocessor({
        name: _fit(modality, rows & modality.present, few) for name, modality in cohort.modalities.items()
    })  # fmt: skip


def _fit(modality: Modality, rows: Bools, few: int) -> Transform:
    """Fit one modality on the training rows that have it."""
    if isinstance(modality.values, Stored):
        return _fit_stored(modality, modality.values.take(rows), few, len(rows))
    values = modality.values[rows]
    if modality.kind == "image":
        values = np.moveaxis(values, 1, -1)
    flat = values.reshape(-1, values.shape[-1])
    mean, scale, measured = _moments(flat)
    if few:
        by_sample = values.reshape(len(values), -1, flat.shape[1])
        mean, scale = few_patients.moments(by_sample, mean, scale, few, len(rows))
    if modality.kind != "vector":
        return _of_channels(modality, mean, scale)
    names = modality.columns
    categorical = [index for index, name in enumerate(modality.columns) if name in modality.levels]
    numeric = np.array([index for index in np.flatnonzero(scale > 0) if index not in set(categorical)], np.int64)
    levels = tuple((index, code) for index in categorical for code in few_patients.levels(flat[:, index], few))
    lacking = len(flat) - measured >= max(1, few, FEWEST_GAPS * len(flat))
    gaps = tuple(np.flatnonzero((measured >= max(1, few)) & lacking).tolist())
    outputs = (
        *(names[index] for index in numeric),
        *(f"{names[index]}={modality.levels[names[index]][code]}" for index, code in levels),
        *(f"{names[index]} measured" for index in gaps),
    )
    return Transform("vector", modality.columns, numeric, mean[numeric], scale[numeric], levels, gaps, outputs)


def _fit_stored(modality: Modality, values: Stored, few: int, n: int) -> Transform:
    """Fit a modality that stays on disk on these of its values; n samples has the cohort."""
    mean, scale, _ = streamed.moments(values, _BLOCK)
    if few:
        mean, scale = streamed.published(values, mean, scale, few, n)
    return _of_channels(modality, mean, scale)


def _of_channels(modality: Modality, mean: NDArray[np.float64], scale: NDArray[np.float64]) -> Transform:
    """What a sequence or an image becomes.

    Every channel stays, for the shape is part of the meaning; one that never varies (an event that is written down only
    where it happens) becomes 1 where it was measured.
    """
    names = modality.columns or tuple(f"channel {index}" for index in range(len(mean)))
    mean, scale = np.where(scale > 0, mean, mean - 1), np.where(scale > 0, scale, 1.0)
    return Transform(modality.kind, modality.columns, np.arange(len(names)), mean, scale, (), (), names)


def _moments(
    flat: NDArray[np.floating],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Mean, standard deviation (0 for a constant) and count of the measured values of each column."""
    width = flat.shape[1]
    mean, scale, count = np.zeros(width), np.zeros(width), np.zeros(width, np.int64)
    for start in range(0, width, _BLOCK):
        part = np.array(flat[:, start : start + _BLOCK], np.float64)
        gap = np.isnan(part)
        filled = (~gap).sum(axis=0)
        at = slice(start, start + part.shape[1])
        count[at] = filled
        safe = np.maximum(filled, 1)
        part[gap] = 0.0
        mean[at] = part.sum(axis=0) / safe
        part -= mean[at]
        part[gap] = 0.0
        spread = np.sqrt((part**2).sum(axis=0) / safe)
        # A constant column's rounding error is not a spread.
        scale[at] = np.where(spread > 1e-12 * np.maximum(np.abs(mean[at]), 1e-300), spread, 0.0)
    return mean, scale, count


def scaled(fitted: Transform, values: Floats) -> NDArray[np.float32]:
    """Network inputs of some sequences (n, T, c) or images (n, c, H, W), of the same shape."""
    shape = [1] * values.ndim
    shape[1 if fitted.kind == "image" else -1] = -1
    mean, scale = fitted.mean.reshape(shape), fitted.scale.reshape(shape)
    output = np.empty(values.shape, np.float32)
    for at, part in parts(values, _PART):
        exact = part - mean
        exact /= scale
        np.clip(exact, -CLIP, CLIP, out=exact)
        np.copyto(exact, 0.0, where=np.isnan(exact))
        output[at] = exact
    return output


def _apply(fitted: Transform, modality: Modality) -> NDArray[np.float32]:
    if fitted.kind != "vector":
        return scaled(fitted, modality.values[:])
    values, n_numeric = modality.table, len(fitted.numeric)
    output = np.zeros((len(values), max(1, len(fitted.names))), np.float32)
    for start in range(0, n_numeric, _BLOCK):
        at = slice(start, min(start + _BLOCK, n_numeric))
        part = values[:, fitted.numeric[at]].astype(np.float64)
        part -= fitted.mean[at]
        part /= fitted.scale[at]
        np.clip(part, -CLIP, CLIP, out=part)
        part[np.isnan(part)] = 0.0
        output[:, at] = part
    for offset, (index, code) in enumerate(fitted.levels, n_numeric):
        output[:, offset] = values[:, index] == code
    for offset, index in enumerate(fitted.gaps, n_numeric + len(fitted.levels)):
        output[:, offset] = ~np.isnan(values[:, index])
    output[~modality.present] = 0.0
    return output
