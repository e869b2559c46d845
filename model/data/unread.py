"""Inputs of modalities that stay on disk: read, standardised and handed over minibatch by minibatch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.cohorts.cohort import Bools, Modality
from model.cohorts.stored import Stored
from model.data.preprocess import Preprocessor, Transform, scaled


@dataclass(frozen=True)
class Unread:
    """What some rows' inputs are made of when they are needed.

    Attributes:
        sources: by the number of the modality: how it is standardised, and the values of all samples.
        sample: int64 (n,), the sample that each row is.
        dtype, device: of the inputs.
    """

    sources: Mapping[int, tuple[Transform, Stored]]
    sample: NDArray[np.int64]
    dtype: torch.dtype
    device: torch.device

    def take(self, index: Tensor) -> Unread:
        """The rows of an int64 index."""
        return replace(self, sample=self.sample[index.cpu().numpy()])

    def blanks(self) -> dict[int, Tensor]:
        """Tensors in the place of the inputs, of their shape and type: all NaN, in the memory of one number."""
        nan = torch.full((1,), torch.nan, dtype=self.dtype, device=self.device)
        shapes = {number: values.shape[1:] for number, (_, values) in self.sources.items()}
        return {number: nan.expand(len(self.sample), *shape) for number, shape in shapes.items()}

    def read(self, rows: slice) -> dict[int, tuple[Tensor, Tensor | None]]:
        """Inputs of some rows, and of a sequence which of its steps hold a measured value; as `Rows` has them."""
        tensors = {}
        for number, (transform, stored) in self.sources.items():
            values = stored[self.sample[rows]]
            measured = None if transform.kind == "image" else ~np.isnan(values).all(axis=2)
            tensors[number] = (
                torch.from_numpy(scaled(transform, values)).to(device=self.device, dtype=self.dtype),
                None if measured is None else torch.from_numpy(measured).to(self.device),
            )
        return tensors


@dataclass(frozen=True)
class Prepared:
    """The inputs of all samples, in memory or not, from which those of some rows are taken.

    Attributes:
        matrices: by modality in their order; None of one that stays on disk.
        steps: of each which steps hold a measured value, where it is a sequence in memory.
        sources: see `Unread`.
    """

    matrices: tuple[NDArray[np.float32] | None, ...]
    steps: tuple[Bools | None, ...]
    sources: Mapping[int, tuple[Transform, Stored]]

    def rows(
        self, chosen: Bools, dtype: torch.dtype, device: torch.device
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor | None, ...], Unread | None]:
        """`inputs`, `steps` and `unread` of `Rows`, of the samples where `chosen` (bool (n,)) is true."""

        def tensor(array: NDArray[np.generic], kind: torch.dtype) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(array)).to(device=device, dtype=kind)

        unread = Unread(self.sources, np.flatnonzero(chosen), dtype, device) if self.sources else None
        blanks = unread.blanks() if unread else {}
        inputs = tuple(
            blanks[number] if matrix is None else tensor(matrix[chosen], dtype)
            for number, matrix in enumerate(self.matrices)
        )
        steps = tuple(None if measured is None else tensor(measured[chosen], torch.bool) for measured in self.steps)
        return inputs, steps, unread


def prepare(preprocessor: Preprocessor, modalities: Mapping[str, Modality]) -> Prepared:
    """The inputs of all samples of these modalities."""
    matrices = preprocessor.apply(modalities)
    sources = {
        number: (preprocessor.transforms[name], modality.values)
        for number, (name, modality) in enumerate(modalities.items())
        if isinstance(modality.values, Stored)
    }
    return Prepared(tuple(matrices.get(name) for name in modalities), measured_steps(modalities), sources)


def measured_steps(modalities: Mapping[str, Modality]) -> tuple[Bools | None, ...]:
    """Which steps hold a measured value, as in `Rows.steps`: one a modality, bool (n, T) of a sequence in memory.

    () where no modality is one.

    A step that lacks every value is no token: padding, or an hour without a measurement.
    """
    steps = tuple(
        np.asarray(~np.isnan(modality.values).all(axis=2), bool)
        if modality.kind == "sequence" and not isinstance(modality.values, Stored)
        else None
        for modality in modalities.values()
    )
    return steps if any(measured is not None for measured in steps) else ()
