"""What a deployed model is made of beside its network: what it reads, and what each seed learnt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from model.cohorts.cohort import ModalityKind
from model.cohorts.values import Rule
from tim_search.types import Kind, Subset

Array: TypeAlias = NDArray[np.float64]

#: Kinds of task whose prediction has a column for each class or label.
SEVERAL: tuple[Kind, ...] = ("multiclass", "multilabel")


@dataclass(frozen=True)
class Inputs:
    """One modality of the rows a model reads.

    Attributes:
        name: of the modality.
        columns: in the order of the network; the channels of a sequence, () of an image.
        levels: categorical column -> its level names, in code order.
        dtype: "float32" or "float64", as in the cohort: the same value must become the same input.
        examples: a made-up value of each column or channel, from the mean of the training rows or the first level.
        kind: "vector", "sequence" or "image".
        shape: of one row: (p,), (T, c) or (c, H, W).
    """

    name: str
    columns: tuple[str, ...]
    levels: Mapping[str, tuple[str, ...]]
    dtype: str
    examples: tuple[float | str, ...]
    kind: ModalityKind
    shape: tuple[int, ...]

    @property
    def cells(self) -> tuple[str, ...]:
        """Its columns in a table: a vector's own; a sequence or an image is one column, named as the modality."""
        return self.columns if self.kind == "vector" else (self.name,)

    def example(self) -> list[Any]:
        """A made-up value of each of `cells`: of a sequence one step, of an image one colour."""
        if self.kind == "vector":
            return list(self.examples)
        if self.kind == "sequence":
            return [[list(self.examples)]]
        _, height, width = self.shape
        return [[[[value] * width] * height for value in self.examples]]


@dataclass(frozen=True)
class Exported:
    """The tables that the cohort of a model was read from: a table to predict is read as they were.

    Attributes:
        rules: column -> how its cells become values.
        unused: their columns that are no input of the model; in a table to predict they are left out.
    """

    rules: Mapping[str, Rule] = field(default_factory=dict)
    unused: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Member:
    """What one seed learnt: parameters with a leading axis of 1, the k-means centres of each clustering task, and the
    tasks it predicts."""

    values: Mapping[str, Tensor]
    centres: Mapping[str, Array]
    tasks: Subset
