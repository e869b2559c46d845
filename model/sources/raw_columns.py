"""What becomes of each column of a raw table: the decisions of the built-in cohorts, as a table and as modalities."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from model.cohorts.cohort import Modality

Role = Literal["id", "input", "target", "unused"]


@dataclass(frozen=True)
class Column:
    """What became of a raw column.

    Attributes:
        role: "id", "input", "target" (a task is made from it, it is never an input) or "unused".
        modality: of an input.
        why: when it was known and what is done with it.
        categories: levels of a categorical input, in order.
    """

    role: Role
    modality: str = ""
    why: str = ""
    categories: tuple[str, ...] = ()


def column_table(columns: Mapping[str, Column]) -> str:
    """The decisions as a Markdown table."""
    rows = [f"| `{name}` | {c.role} | {c.modality} | {c.why} |" for name, c in columns.items()]
    return "\n".join(["| Raw column | Role | Modality | Why |", "|---|---|---|---|", *rows])


def modalities_of(table: pd.DataFrame, inputs: Mapping[str, Column]) -> list[Modality]:
    """The vector modalities of a table, in the order in which `inputs` first names them.

    Args:
        table: a column for each input: numbers, or texts that are levels of its `categories`; missing is NaN or None.

    Raises:
        ValueError: a column holds a level that is not listed.
    """
    values: dict[str, dict[str, NDArray[np.float64]]] = {}
    for name, column in inputs.items():
        numbers = table[name].to_numpy(np.float64) if not column.categories else _codes(table[name], column.categories)
        values.setdefault(column.modality, {})[name] = numbers
    result = []
    for modality, of_column in values.items():
        matrix = np.stack(list(of_column.values()), axis=1)
        levels = {name: inputs[name].categories for name in of_column if inputs[name].categories}
        present = np.asarray(~np.isnan(matrix).all(axis=1))
        result.append(Modality(modality, "vector", tuple(of_column), matrix, levels, present))
    return result


def _codes(column: pd.Series[str], categories: tuple[str, ...]) -> NDArray[np.float64]:
    codes = pd.Categorical(column, categories=list(categories)).codes
    if int((codes < 0).sum()) != int(column.isna().sum()):
        raise ValueError(f"column {column.name} holds a level that is not listed")
    return np.where(codes < 0, np.nan, codes.astype(np.float64))
