"""Modalities larger than memory: NumPy files whose rows are read when they are used.

A `.npy` file holds an array of rows: row i is that of row i of the samples' file, or a table says which row a sample
has, so that samples can share one. A sample without a row, or with one that is NaN throughout, lacks the modality.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from model.cohorts.cohort import Modality, ModalityKind, examples
from model.cohorts.folder_reader import (
    DESCRIPTION,
    UNREADABLE,
    Reader,
    Samples,
    column_of,
    ids_of,
    is_number,
    numbers,
    texts,
)
from model.cohorts.stored import TYPES, ArrayFile, Ints, Stored, parts

SUFFIX = ".npy"
#: The column of an index that says which row of the array a sample has.
ROW = "row"

_AXES: Mapping[ModalityKind, str] = {
    "vector": "(rows, columns)",
    "sequence": "(rows, steps, columns)",
    "image": "(rows, channels, height, width)",
}


def read_mapped(
    reader: Reader, name: str, kind: ModalityKind, place: str, fields: Mapping[str, Any], samples: Samples
) -> Modality | None:
    """A modality of an array; None with a finding where the array does not fit the description.

    A sequence or an image stays on disk, a vector is mapped where it is as large as the samples and read otherwise.
    """
    file = fields["file"]
    for key in ("levels", "step", "length", "column"):
        if key in fields:
            problem = f"a {SUFFIX} file has no {key}."
            fix = "Remove the key; categories and long tables go into Parquet."
            reader.error(f"{place}.{key}", problem, fix)
    array = _array(reader, file, place)
    if array is None:
        return None
    axes = {"vector": 2, "sequence": 3, "image": 4}[kind]
    if len(array.shape) != axes or 0 in array.shape:
        reader.error(file, f"expected {_AXES[kind]}, given the shape {array.shape}.", "Mend `kind`, or the array.")
        return None
    row = _rows(reader, place, fields, array, samples)
    columns: tuple[str, ...] | None = ()
    if kind == "image":
        if list(array.shape[1:]) != fields.get("shape"):
            problem = f"given {fields.get('shape')!r}, the file has {list(array.shape[1:])}."
            reader.error(f"{place}.shape", problem, "Mend one.")
            return None
    else:
        columns = _columns(reader, place, fields, array.shape[-1], samples)
    if columns is None or row is None:
        return None
    stored = _measured(reader, file, Stored(array, row))
    if stored is None:
        return None
    if kind != "vector":
        return Modality(name, kind, columns, stored, {}, stored.row >= 0)
    if not reader.fits(file, stored.shape, "Choose fewer columns."):
        return None
    as_it_is = "index" not in fields and array.dtype == stored.dtype
    return Modality(name, kind, columns, array.mapped if as_it_is else stored[:], {}, stored.row >= 0)


def _array(reader: Reader, file: str, place: str) -> ArrayFile | None:
    """The file, not read yet; None with a finding."""
    path = reader.path(file, f"{place}.file", SUFFIX)
    if path is None:
        return None
    try:
        array = ArrayFile(path)
    except UNREADABLE as error:
        first = (str(error) or type(error).__name__).splitlines()[0]
        reader.error(f"{place}.file", f"{file} cannot be mapped: {first}.", "Write it with numpy.save.")
        return None
    if array.dtype not in [np.dtype(kind) for kind in TYPES]:
        problem = f"expected {', '.join(TYPES[:-1])} or {TYPES[-1]}, given {array.dtype}."
        reader.error(file, problem, "Convert it: array.astype('f4').")
        return None
    return array


def _rows(reader: Reader, place: str, fields: Mapping[str, Any], array: ArrayFile, samples: Samples) -> Ints | None:
    """int64 (n,): the row of the array that each sample has, -1: none; None with a finding."""
    file, count = fields["file"], array.shape[0]
    if "index" not in fields:
        if count != len(samples.ids):
            problem = f"expected {len(samples.ids)} rows, one a sample, given the shape {array.shape}."
            fix = f"Write one row for each row of {samples.file}, in its order, or name an `index`."
            reader.error(file, problem, fix)
            return None
        return np.arange(count)
    index = fields["index"]
    table = reader.table(index, f"{place}.index")
    if table is None:
        return None
    ids = ids_of(reader, table, index, samples.id_column, f"{place.removeprefix(f'{DESCRIPTION}: ')}.index")
    column = column_of(reader, table, index, ROW, f"{place}.index")
    if ids is None or column is None:
        return None
    at = samples.rows(reader, ids, f"{index}: column {samples.id_column}")
    wanted = numbers(column).astype(np.float64) if is_number(column.type) else np.full(len(ids), 0.5)
    wanted[np.isnan(wanted)] = -1
    strange = wanted[(wanted != np.round(wanted)) | (wanted < -1) | (wanted >= count)]
    if len(strange):
        problem = f"expected whole numbers from 0 to {count - 1}, -1 for none, given {examples(strange)}."
        if not is_number(column.type):
            problem = f"expected whole numbers, given {column.type}."
        reader.error(f"{index}: column {ROW}", problem, f"Number the rows of {file} from 0.")
        return None
    if (at < 0).any():
        return None  # told by `rows` of the samples
    if len(np.unique(at)) < len(at):
        problem = f"{len(at) - len(np.unique(at))} rows repeat a sample."
        reader.error(f"{index}: column {samples.id_column}", problem, "A sample has one row of an array, or none.")
        return None
    row = np.full(len(samples.ids), -1, np.int64)
    row[at] = wanted.astype(np.int64)
    return row


def _measured(reader: Reader, file: str, values: Stored) -> Stored | None:
    """The values, without the rows that are NaN throughout; None with a finding where some are infinite."""
    if values.file.dtype == np.uint8:
        return values
    rows, which = values.distinct()
    there = np.zeros(len(rows) + 1, bool)  # the last one is that of samples without a row
    infinite = 0
    for at, part in parts(rows):
        infinite += int(np.isinf(part).sum())
        there[:-1][at] = ~np.isnan(part).reshape(len(part), -1).all(axis=1)
    if infinite:
        fix = "Use NaN for not measured; check divisions by zero" + (
            ", and numbers that are too large for float16." if values.file.dtype == np.float16 else "."
        )
        reader.error(file, f"{infinite} values are infinite.", fix)
        return None
    return Stored(values.file, np.where(there[which], values.row, -1), values.columns)


def _columns(
    reader: Reader, place: str, fields: Mapping[str, Any], width: int, samples: Samples
) -> tuple[str, ...] | None:
    """The names of the columns: those listed, or the prefix and a number."""
    if "columns" in fields:
        columns = texts(reader, fields["columns"], f"{place}.columns")
    elif "prefix" in fields:
        columns = tuple(f"{fields['prefix']}{index}" for index in range(width))
    else:
        problem = f"a {SUFFIX} file has no names for its {width} columns."
        reader.error(place, problem, "Give `columns: [...]`, or `prefix: lab_` for lab_0, lab_1, ...")
        return None
    if len(columns) != width:
        reader.error(f"{place}.columns", f"{len(columns)} names for {width} columns.", "Name each column once.")
        return None
    if len(set(columns)) < width:
        return None  # told by `texts`
    for column in set(columns) & samples.label_columns:
        problem = f"the feature {column} has the name of a label column."
        reader.warn(f"{place}.columns", problem, "If it is the target, take it out of the file.")
    return columns
