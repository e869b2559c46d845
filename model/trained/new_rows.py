"""Rows to predict: tables from files and frames, checked and read as the cohort was read that a model learnt from."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from model.cohorts.cohort import Modality, text
from model.cohorts.values import Rule, applied
from model.sources import tables
from model.trained.cells import fill
from model.trained.parts import Array, Exported, Inputs
from tim_search.gates.texts import for_terminal
from tim_search.types import BadInput, some

#: What stands in a file's column of numbers where nothing was measured; in a column of levels only an empty cell says
#: so, for "None" and "NA" may be levels.
NOT_MEASURED = ("NA", "N/A", "n/a", "nan", "NaN", "NAN", "null", "NULL", "None", "<NA>", "#N/A")


class PredictionWarning(UserWarning):
    """Something in the rows to predict that the model had to leave out."""


def table_columns(inputs: Sequence[Inputs]) -> dict[str, tuple[str, str]]:
    """Name in a table -> (modality, column): the bare column where no other modality has one of that name.

    A sequence or an image is one column, which is named as the modality: (modality, modality).
    """
    every = [(modality, column) for modality in inputs for column in modality.cells]
    bare = [column for _, column in every]
    return {
        column if bare.count(column) == 1 or modality.kind != "vector" else f"{modality.name}.{column}": (
            modality.name,
            column,
        )
        for modality, column in every
    }


def _aliases(inputs: Sequence[Inputs]) -> dict[str, tuple[str, str]]:
    """`table_columns`, and each column as `modality.column` too."""
    columns = table_columns(inputs)
    return {**{f"{modality}.{column}": (modality, column) for modality, column in columns.values()}, **columns}


# Files ----------------------------------------------------------------------------------------------------------------


def read_table(path: Path, inputs: Sequence[Inputs], ids: Sequence[str] = (), **options: str) -> pd.DataFrame:
    """A table of rows to predict from a file of any format that `cohort init` reads.

    Args:
        path: of the file.
        inputs: of the model: which columns are levels. Those are read as they are written, the word "None" too.
        ids: columns that become the index, as they are written: an id 007 stays one.
        options: of `model.sources.tables.convert`.

    Raises:
        BadInput: it cannot be read, or lacks an id column.
    """
    levels = {(modality.name, column) for modality in inputs for column in modality.levels}
    numbers = {name for name, place in _aliases(inputs).items() if place not in levels}
    written = {name for name in _aliases(inputs) if name not in numbers} | set(ids)
    frame, _ = tables.read(path, any_shape=True, texts=written, **options)
    for name in numbers.intersection(frame.columns) - set(ids):
        if pd.api.types.is_string_dtype(frame[name]):
            frame[name] = frame[name].mask(frame[name].isin(NOT_MEASURED))
    if absent := [name for name in ids if name not in frame]:
        columns = for_terminal(some(list(map(str, frame)), 40))
        raise BadInput(f"{for_terminal(path)}: expected the id column {absent[0]}, its columns are {columns}.")
    if not ids:
        return frame
    for name in ids:
        if pd.api.types.is_string_dtype(frame[name]):
            frame[name] = frame[name].fillna("")
    return frame.set_index(list(ids) if len(ids) > 1 else ids[0])


# Frames ---------------------------------------------------------------------------------------------------------------


def read_rows(
    rows: pd.DataFrame, inputs: Sequence[Inputs], table: Exported | None = None, *, ignore_extra: bool = False
) -> dict[str, Modality]:
    """The modalities of a table; see `model.trained.deployed.DeployedModel.predict` for the rules and errors."""
    table = table or Exported()
    places = _places(rows, inputs, table.unused, ignore_extra=ignore_extra)
    modalities = {}
    for modality in inputs:
        values = np.full((len(rows), *modality.shape), np.nan, modality.dtype)
        for position, column in enumerate(modality.cells):
            place = places.get((modality.name, column))
            if place is None:  # the whole modality is left out
                break
            series, name = rows.iloc[:, place], for_terminal(rows.columns[place])
            levels = modality.levels.get(column)
            if column in table.rules:
                series = _ruled(name, series, table.rules[column])
            if modality.kind != "vector":
                fill(values, name, series, modality.kind, modality.columns)
            else:
                values[:, position] = _numbers(name, series) if levels is None else _codes(name, series, levels)
        present = ~np.isnan(values).all(axis=tuple(range(1, values.ndim)))
        modalities[modality.name] = Modality(
            modality.name, modality.kind, modality.columns, values, modality.levels, present
        )
    return modalities


def _ruled(name: str, series: pd.Series, rule: Rule) -> pd.Series:
    """A column read by the rule of its cohort; raises BadInput where its cells do not fit."""
    try:
        return applied(series, rule)
    except ValueError as error:
        raise BadInput(
            f"column {name}: {for_terminal(error, most=300)}. Write the cells as the cohort of the model has them, or "
            "leave them empty where nothing was measured."
        ) from error


def _places(
    rows: pd.DataFrame, inputs: Sequence[Inputs], unused: Sequence[str], *, ignore_extra: bool
) -> dict[tuple[str, str], int]:
    """(modality, column) -> its place among the columns of a table; raises BadInput where they are not the model's."""
    aliases = _aliases(inputs)
    reads = f"The model reads: {', '.join(table_columns(inputs))}."
    every = [str(name) for name in rows.columns]
    left_out = set(unused)
    unknown = [name for name in every if name not in aliases and name not in left_out]
    if unknown and not ignore_extra:
        raise BadInput(
            f"columns: expected only those of the model, got unknown ones: {_with_near(unknown, aliases)}. Rename them "
            f"or leave them out (--ignore-extra does). {reads}"
        )
    places = {aliases[name]: place for place, name in enumerate(every) if name in aliases}
    names = [name for name in every if name in aliases]
    if len(places) < len(names):
        alike = [[name for name in names if aliases[name] == column] for column in places]
        twice = "; ".join(" and ".join(group) for group in alike if len(group) > 1)
        raise BadInput(f"columns: expected each one once, got the same twice: {twice}. Leave one of them out.")
    gaps = {
        modality.name: [column for column in modality.cells if (modality.name, column) not in places]
        for modality in inputs
    }
    partial = [
        f"{modality.name} lacks {', '.join(gaps[modality.name])}"
        for modality in inputs
        if 0 < len(gaps[modality.name]) < len(modality.cells)
    ]
    if partial:
        raise BadInput(
            f"columns: expected all columns of a modality or none, but {'; '.join(partial)}. Add them, with missing "
            "cells where nothing was measured."
        )
    if not places:
        raise BadInput(f"columns: expected those of the model, got none. {reads}")
    return places


def _with_near(unknown: Sequence[str], names: Iterable[str]) -> str:
    """The first 20 unknown names, each with the one it may have meant."""
    allowed, shown = list(names), []
    for name in unknown[:20]:
        near = difflib.get_close_matches(name, allowed, n=1)
        shown.append(for_terminal(f"{name} (did you mean {near[0]}?)" if near else name))
    more = f" and {len(unknown) - 20} more" if len(unknown) > 20 else ""
    return ", ".join(shown) + more


def _numbers(name: str, series: pd.Series) -> Array:
    """float64 (n,) numbers of a column, NaN where missing; BadInput where it holds anything else."""
    if isinstance(series.dtype, pd.CategoricalDtype):
        series = series.astype(object)
    if not (pd.api.types.is_object_dtype(series) or pd.api.types.is_string_dtype(series)) and (
        not pd.api.types.is_numeric_dtype(series) or pd.api.types.is_complex_dtype(series)
    ):
        # A timestamp would become the nanoseconds since 1970; no cohort takes one for a number.
        raise BadInput(
            f"column {name}: expected numbers, got {series.dtype}. Give what the model was trained on: a time as a "
            "number in the unit that the cohort has."
        )
    try:
        numbers = pd.to_numeric(series, errors="coerce")
        wrong = numbers.isna().to_numpy() & series.notna().to_numpy()
        if pd.api.types.is_complex_dtype(numbers):
            wrong = series.map(lambda value: isinstance(value, complex)).to_numpy(bool)
        values = np.full(len(series), np.nan) if wrong.any() else numbers.to_numpy(np.float64, na_value=np.nan)
    except OverflowError:
        raise BadInput(f"column {name}: expected finite numbers, got one that is too large. Correct it.") from None
    if wrong.any():
        example = for_terminal(repr(series[wrong].iloc[0]), most=80)
        raise BadInput(
            f"column {name}: expected numbers or missing cells, got {example} ({int(wrong.sum())} such cells). Write "
            "numbers, or leave the cell empty where nothing was measured."
        )
    if np.isinf(values).any():
        raise BadInput(f"column {name}: expected finite numbers, got an infinite one. Leave that cell empty.")
    return values


def _codes(name: str, series: pd.Series, levels: Sequence[str]) -> Array:
    """float64 (n,) codes of a categorical column, NaN where missing or unknown."""
    code = {level: float(number) for number, level in enumerate(levels)}
    spelled = [text(value) if missing is False else "" for value, missing in zip(series, series.isna(), strict=True)]
    code = {**{value: code.get(as_level(value), np.nan) for value in spelled}, **code, "": np.nan}
    if unseen := sorted({value for value in spelled if value and np.isnan(code[value])}):
        warnings.warn(
            f"column {name}: the model does not know {for_terminal(some(unseen, 5))} and takes it as not measured; it "
            f"knows {for_terminal(', '.join(levels))}.",
            PredictionWarning,
            stacklevel=4,
        )
    return np.array([code[value] for value in spelled], np.float64)


def as_level(value: str) -> str:
    """How a cohort spells a level that a file has as a number with a decimal point, or as true or false."""
    if value in ("True", "False"):
        return text(value == "True")
    try:
        return text(float(value)) if len(value) < 30 else value
    except (ValueError, OverflowError):
        return value
