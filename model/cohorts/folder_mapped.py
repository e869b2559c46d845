"""Modalities larger than memory: NumPy files that are mapped, not read.

A `.npy` file holds one array of all samples, row i for row i of the samples' file; its pages are read from disk when
they are used. A row that is NaN throughout means that the sample lacks the modality.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from model.cohorts.cohort import Bools, Floats, Modality, ModalityKind
from model.cohorts.folder_reader import UNREADABLE, Reader, Samples, texts

SUFFIX = ".npy"

#: Values looked at in one go, so that a pass over a mapped array needs little memory.
_BLOCK = 1 << 22

_AXES: Mapping[ModalityKind, str] = {
    "vector": "(samples, columns)",
    "sequence": "(samples, steps, columns)",
    "image": "(samples, channels, height, width)",
}


def read_mapped(
    reader: Reader, name: str, kind: ModalityKind, place: str, fields: Mapping[str, Any], samples: Samples
) -> Modality | None:
    """A modality over a mapped array; None with a finding where the array does not fit the description."""
    file = fields["file"]
    for key in ("levels", "step", "length", "column"):
        if key in fields:
            problem = f"a {SUFFIX} file has no {key}."
            fix = "Remove the key; categories and long tables go into Parquet."
            reader.error(f"{place}.{key}", problem, fix)
    values = _array(reader, file, place)
    if values is None:
        return None
    shape = fields.get("shape")
    axes = {"vector": 2, "sequence": 3, "image": 4}[kind]
    if values.ndim != axes or len(values) != len(samples.ids) or 0 in values.shape:
        problem = f"expected {_AXES[kind]} with {len(samples.ids)} samples, given the shape {values.shape}."
        reader.error(file, problem, f"Write one row for each row of {samples.file}, in its order.")
        return None
    columns: tuple[str, ...] | None = ()
    if kind == "image":
        if list(values.shape[1:]) != shape:
            reader.error(f"{place}.shape", f"given {shape!r}, the file has {list(values.shape[1:])}.", "Mend one.")
            return None
    else:
        columns = _columns(reader, place, fields, values.shape[-1], samples)
    present = _present(reader, file, values)
    if columns is None or present is None:
        return None
    return Modality(name, kind, columns, values, {}, present)


def _array(reader: Reader, file: str, place: str) -> Floats | None:
    """The mapped array, read-only; None with a finding."""
    path = reader.path(file, f"{place}.file", SUFFIX)
    if path is None:
        return None
    try:
        # A plain array over the map: NumPy's own class for it would be copied around as a special case.
        values = np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
    except UNREADABLE as error:
        first = (str(error) or type(error).__name__).splitlines()[0]
        reader.error(f"{place}.file", f"{file} cannot be mapped: {first}.", "Write it with numpy.save.")
        return None
    if values.dtype not in (np.float32, np.float64):
        reader.error(file, f"expected float32 or float64, given {values.dtype}.", "Convert it: array.astype('f4').")
        return None
    return values


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


def _present(reader: Reader, file: str, values: Floats) -> Bools | None:
    """Which rows hold anything; None with a finding where a value is infinite."""
    present = np.zeros(len(values), bool)
    rows = max(1, _BLOCK // max(1, int(np.prod(values.shape[1:]))))
    infinite = 0
    for start in range(0, len(values), rows):
        part = values[start : start + rows].reshape(min(rows, len(values) - start), -1)
        infinite += int(np.isinf(part).sum())
        present[start : start + rows] = ~np.isnan(part).all(axis=1)
    if infinite:
        reader.error(file, f"{infinite} values are infinite.", "Use NaN for not measured; check divisions by zero.")
        return None
    return present
