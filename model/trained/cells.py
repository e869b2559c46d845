"""Sequences and images in the cells of a table: nested lists or arrays, checked and put into one array."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from model.cohorts.cohort import Floats
from tim_search.types import BadInput


def fill(values: Floats, name: str, series: pd.Series, kind: str, channels: Sequence[str]) -> None:
    """Put the cells of a column into an array.

    Args:
        values: NaN, (n, T, c) of a sequence or (n, c, H, W) of an image.
        name: of the column, for messages.
        series: (n,) cells: nested lists or arrays (T or fewer, c) or (c, H, W), or an image's c * H * W numbers in one
            list, as a cohort folder has them. A missing or empty cell leaves the row NaN.
        kind: "sequence" or "image".
        channels: names of a sequence's channels, for messages.

    Raises:
        BadInput: a cell of another shape, ragged lists, text, or an infinite number; it names the first such row.
    """
    for position, (label, cell) in enumerate(zip(series.index, series, strict=True)):
        if cell is None or cell is pd.NA or (isinstance(cell, float) and np.isnan(cell)):
            continue
        try:
            array = _read(cell, kind, values.shape[1:], channels)
        except ValueError as error:
            expected = _words(kind, values.shape[1:])
            raise BadInput(f"column {name}, row {label}: expected {expected}, got {error}") from None
        if kind == "image" and array.size:
            values[position] = array
        else:
            values[position, : len(array)] = array


def _read(cell: Any, kind: str, shape: tuple[int, ...], channels: Sequence[str]) -> NDArray[np.float64]:
    """The array of one cell, empty where it holds nothing; ValueError with what was given and what to do about it."""
    if isinstance(cell, str | bytes):
        raise ValueError("text. Give nested lists: a CSV file cannot hold them, a .parquet file and JSON can.")
    if not isinstance(cell, list | tuple) and not (isinstance(cell, np.ndarray) and cell.ndim):
        raise ValueError(f"{cell!r}. Give nested lists, or leave the cell empty where the sample lacks it.")
    if kind == "sequence":
        cell = [[np.nan] * shape[1] if step is None else step for step in cell]
    array = _numbers(cell)
    if not array.size:
        return array.reshape(0, *shape[1:])
    if np.isinf(array).any():
        raise ValueError("an infinite number. Leave its place empty (None, NaN).")
    if kind == "image":
        if array.shape not in (shape, (math.prod(shape),)):
            raise ValueError(f"{_by(array.shape)}. Bring the image to that size.")
        return array.reshape(shape)
    if array.ndim != 2 or array.shape[1] != shape[1]:
        named = ", ".join(channels[:5]) + (f", ... {channels[-1]}" if len(channels) > 5 else "")
        raise ValueError(f"{_by(array.shape)}. Give a list of steps, each a list of the channels {named}.")
    if len(array) > shape[0]:
        raise ValueError(f"{len(array)} steps. Keep the {shape[0]} the model was trained on, of which the first is 0.")
    return array


def _numbers(cell: Any) -> NDArray[np.float64]:
    """The array of nested lists and arrays, NaN for None; ValueError as `_read`."""
    lists = _lists(cell)
    try:
        array = np.array(lists)
        if array.dtype.kind not in "biuf":
            array = np.array(lists, object)
    except ValueError:
        raise ValueError("lists of uneven length. Fill their gaps with None or NaN.") from None
    if array.dtype == object:
        flat = [np.nan if value is None or value is pd.NA else value for value in array.ravel().tolist()]
        if other := [value for value in flat if not isinstance(value, Real)]:
            raise ValueError(f"{other[0]!r} in it. Write numbers, or nothing (None, NaN) where nothing was measured.")
        try:
            array = np.array(flat, np.float64).reshape(array.shape)
        except OverflowError:
            raise ValueError("a number that is too large. Correct it, or leave its place empty.") from None
    return array.astype(np.float64)


def _lists(cell: Any) -> Any:
    """Arrays of arrays, as Parquet gives them, as lists of arrays."""
    if isinstance(cell, list | tuple) or (isinstance(cell, np.ndarray) and cell.dtype == object):
        return [_lists(part) for part in cell]
    return cell


def _words(kind: str, shape: Sequence[int]) -> str:
    if kind == "sequence":
        return f"at most {shape[0]} steps of {shape[1]} numbers each"
    return f"an image of {_by(shape)} numbers (channels x height x width)"


def _by(shape: Sequence[int]) -> str:
    """A shape in words: 24 x 76."""
    return " x ".join(map(str, shape)) if len(shape) > 1 else f"{shape[0]} numbers in one list"
