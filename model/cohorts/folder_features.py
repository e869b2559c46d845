"""The features of a cohort folder: vector, sequence and image files, read and checked."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from model.cohorts.cohort import PIXELS, Floats, Modality, ModalityKind, examples, matches
from model.cohorts.folder_mapped import SUFFIX, read_mapped
from model.cohorts.folder_reader import (
    DESCRIPTION,
    MODALITY,
    UNREADABLE,
    Reader,
    Samples,
    classes_of,
    column_of,
    fields_of,
    ids_of,
    is_number,
    is_text,
    kind_of,
    named,
    not_numbers,
    numbers,
    ruled,
    texts,
)
from tim_search.types import Task, near

#: Most levels a categorical column may have: each becomes an input of the networks.
MOST_LEVELS = 200

_PANDAS_INDEX = re.compile(r"__index_level_\d+__")


class _Entry(NamedTuple):
    """A modality's entry in cohort.yaml and the table it names."""

    name: str
    place: str
    fields: Mapping[str, Any]
    table: pq.ParquetFile
    at: NDArray[np.int64]  # (rows of the table,), the sample of each row
    samples: Samples


def read_modalities(reader: Reader, spec: Mapping[str, Any], samples: Samples | None) -> dict[str, Modality]:
    """The modalities that can be read, aligned with the samples; a finding for everything else."""
    modalities = {}
    for name, entry in named(reader, spec, "modalities").items():
        place = f"{DESCRIPTION}: modalities.{name}"
        kind = entry.get("kind", "vector")
        if kind not in get_args(ModalityKind):
            allowed = ", ".join(get_args(ModalityKind))
            reader.error(f"{place}.kind", f"expected one of {allowed}; given {str(kind)[:80]}.", "Name one of them.")
            continue
        fields = fields_of(reader, entry, place, MODALITY[kind])
        if str(fields.get("file", "")).endswith(SUFFIX):
            mapped = None if samples is None else read_mapped(reader, name, kind, place, fields, samples)
            if mapped is not None:
                modalities[name] = mapped
            continue
        if "index" in fields:
            reader.error(f"{place}.index", f"only a {SUFFIX} file has one.", "Remove it; a table has ids of its own.")
        table = reader.table(fields["file"], f"{place}.file") if "file" in fields else None
        if table is None or samples is None:
            continue
        ids = ids_of(reader, table, fields["file"], samples.id_column, f"modalities.{name}")
        if ids is None:
            continue
        at = samples.rows(reader, ids, f"{fields['file']}: column {samples.id_column}")
        if (at < 0).any():
            continue
        build = {"vector": _vector, "sequence": _sequence, "image": _image}[kind]
        modality = build(reader, _Entry(name, place, fields, table, at, samples))
        if modality is not None:
            modalities[name] = modality
    return modalities


def _feature_columns(
    reader: Reader,
    place: str,
    fields: Mapping[str, Any],
    table: pq.ParquetFile,
    samples: Samples,
    not_features: Iterable[str],
) -> list[str] | None:
    """The feature columns of a modality: those named, those with the prefix, or all that are not something else."""
    file, names = fields["file"], table.schema_arrow.names
    if "columns" in fields:
        columns = [str(column) for column in fields["columns"]]
        missing = [column for column in columns if column not in names]
        for column in missing:
            fix = "Name columns of the file."
            reader.error(f"{place}.columns", f"{file} has no column {column}.{near(column, names)}", fix)
        if missing:
            return None
    elif "prefix" in fields:
        columns = [name for name in names if name.startswith(fields["prefix"])]
    elif file == samples.file:
        fix = "Name the features with `columns` or `prefix`; else labels and dates would become features."
        reader.error(place, f"{file} also holds the samples.", fix)
        return None
    else:
        columns = [name for name in names if name not in {samples.id_column, samples.patient_column, *not_features}]
        for column in [column for column in columns if _PANDAS_INDEX.fullmatch(column)]:
            columns.remove(column)
            reader.warn(f"{file}: column {column}", "is a pandas index and is left out.", "Write with index=False.")
    if not columns:
        reader.error(place, f"no feature column of {file} is chosen.", "Mend `columns` or `prefix`.")
        return None
    for column in columns:
        if column in (samples.id_column, samples.patient_column):
            reader.error(f"{place}.columns", f"{column} is an id, not a feature.", "Remove it.")
        elif file == samples.file and column in samples.label_columns:
            reader.error(f"{place}.columns", f"{column} is the label of a task.", "A target may never be a feature.")
        elif column in samples.label_columns:
            problem = f"the feature {column} has the name of a label column."
            reader.warn(f"{place}.columns", problem, "If it is the target, leave it out with `columns`.")
    if len(set(columns)) < len(columns):
        reader.error(f"{place}.columns", "a column is named twice.", "Name each once.")
        return None
    return columns


def _features(reader: Reader, file: str, table: pq.ParquetFile, columns: Sequence[str]) -> Floats | None:
    """Numeric columns as one array (rows, p), row group by row group; None with a finding for each other column."""
    schema = table.schema_arrow
    numeric = {column for column in columns if column in reader.rules and reader.rules[column].numeric}
    wrong = [column for column in columns if column not in numeric and not is_number(schema.field(column).type)]
    for column in wrong:
        reader.error(f"{file}: column {column}", *not_numbers(schema.field(column).type, column))
    if wrong:
        return None
    exact = not numeric and all(
        pa.types.is_boolean(kind) or kind.bit_width <= (32 if pa.types.is_floating(kind) else 16)
        for kind in (schema.field(column).type for column in columns)
    )
    shape = (table.metadata.num_rows, len(columns))
    if not reader.fits(file, shape, "Write it as a .npy file, which is mapped."):
        return None
    try:
        values: Floats = np.empty(shape, np.float32) if exact else np.empty(shape, np.float64)
        start = 0
        for batch in table.iter_batches(columns=list(dict.fromkeys(columns)), batch_size=4096):
            # Filled column by column, turned once: writing columns into a row-wise array is several times slower.
            part = np.empty((len(columns), batch.num_rows), values.dtype)
            for index, column in enumerate(columns):
                array = ruled(reader, file, column, pa.chunked_array([batch.column(column)]))
                if array is None:
                    return None
                part[index] = numbers(array)
            values[start : start + batch.num_rows] = part.T
            start += batch.num_rows
        if start != len(values):
            raise ValueError(f"{len(values):,} rows by its footer, {start:,} in its pages")
        _refuse_infinite(reader, file, columns, values)
        return values
    except UNREADABLE as error:
        reader.damaged(file, file, error)
        return None


def _refuse_infinite(reader: Reader, file: str, columns: Sequence[str], values: Floats) -> None:
    for index in np.flatnonzero(np.isinf(values).any(axis=0)).tolist():
        count = int(np.isinf(values[:, index]).sum())
        fix = "Use NaN for not measured; check divisions by zero and logs of zero."
        reader.error(f"{file}: column {columns[index]}", f"{count} values are infinite.", fix)


def _vector(reader: Reader, entry: _Entry) -> Modality | None:
    """A modality of one row a sample; None with errors."""
    name, place, fields, table, at, samples = entry
    file = fields["file"]
    if _repeated(reader, at, f"{file}: column {samples.id_column}", samples, "A vector modality has one row a sample"):
        return None
    columns = _feature_columns(reader, place, fields, table, samples, ())
    if columns is None:
        return None
    given = fields.get("levels", {})
    for column in given:
        if column not in columns:
            problem = f"{column} is no column of this modality.{near(str(column), columns)}"
            reader.error(f"{place}.levels", problem, "Name one of its columns.")
    levels: dict[str, tuple[str, ...]] = {}
    codes: dict[str, NDArray[np.float64]] = {}
    schema = table.schema_arrow
    kinds = {column: schema.field(column).type for column in columns}
    numeric = {column for column in columns if column in reader.rules and reader.rules[column].numeric}
    stored = {c for c in columns if is_text(kinds[c]) or pa.types.is_dictionary(kinds[c])} - numeric
    categorical = [column for column in columns if column in stored or column in given]
    for column in categorical:
        wanted = given.get(column)
        if wanted is not None and not isinstance(wanted, list):
            problem = f"expected a list, given {kind_of(wanted)}."
            reader.error(f"{place}.levels.{column}", problem, f"Write `{column}: [first, second]`.")
            continue
        level_names = texts(reader, wanted or [], f"{place}.levels.{column}")
        array = column_of(reader, table, file, column, place)
        if array is None:
            continue
        coded = classes_of(reader, f"{file}: column {column}", array, level_names, f"{place}.levels.{column}")
        if coded is None:
            continue
        if len(coded[1]) > MOST_LEVELS:
            problem = f"has {len(coded[1])} levels; at most {MOST_LEVELS} can be used."
            reader.error(f"{file}: column {column}", problem, "Group them, or leave the column out if it is an id.")
            continue
        codes[column], levels[column] = coded
    rest = [column for column in columns if column not in categorical]
    measured = _features(reader, file, table, rest)
    shape = (len(samples.ids), len(columns))
    if measured is None or len(codes) < len(categorical) or not reader.fits(file, shape, "Choose fewer columns."):
        return None
    values: Floats = np.full(shape, np.nan, measured.dtype)
    if categorical:
        for index, column in enumerate(columns):
            values[at, index] = codes[column] if column in codes else measured[:, rest.index(column)]
    else:
        values[at] = measured
    return Modality(name, "vector", tuple(columns), values, levels, np.asarray(~np.isnan(values).all(axis=1)))


def _sequence(reader: Reader, entry: _Entry) -> Modality | None:
    """A modality of a row a sample and step; None with errors."""
    name, place, fields, table, at, samples = entry
    file, step_column = fields["file"], fields.get("step", "step")
    array = column_of(reader, table, file, step_column, f"{place}.step")
    columns = _feature_columns(reader, place, fields, table, samples, [step_column])
    if array is None or columns is None:
        return None
    at_step = f"{file}: column {step_column}"
    if not pa.types.is_integer(array.type) or array.null_count:
        problem = f"expected a whole number in every row, given {array.type} with {array.null_count} missing."
        reader.error(at_step, problem, "Number the steps of a sample from 0.")
        return None
    step = array.to_numpy().astype(np.int64)
    length = fields.get("length", int(step.max()) + 1 if len(step) else 1)
    shape = (len(samples.ids), max(length, 1), len(columns))
    if not reader.fits(at_step, shape, "Number the steps from 0 without large gaps, or cut the series with `length`."):
        return None
    beyond = (step < 0) | (step >= length)
    if beyond.any() or length < 1:
        problem = f"{int(beyond.sum())} rows have a step outside 0 to {length - 1} (e.g. {examples(step[beyond])})."
        reader.error(at_step, problem, "Number the steps from 0, raise `length`, or cut the series.")
        return None
    cell = at * length + step
    if len(np.unique(cell)) < len(cell):
        problem = f"{len(cell) - len(np.unique(cell))} rows repeat a sample and step."
        reader.error(at_step, problem, "Keep one row for each sample and step.")
        return None
    measured = _features(reader, file, table, columns)
    if measured is None:
        return None
    values: Floats = np.full((len(samples.ids) * length, len(columns)), np.nan, measured.dtype)
    values[cell] = measured
    values = values.reshape(shape)
    return Modality(name, "sequence", tuple(columns), values, {}, np.asarray(~np.isnan(values).all(axis=(1, 2))))


def _image(reader: Reader, entry: _Entry) -> Modality | None:
    """A modality of lists of pixels; None with errors."""
    name, place, fields, table, at, samples = entry
    file, column = fields["file"], fields.get("column", PIXELS)
    if _repeated(reader, at, f"{file}: column {samples.id_column}", samples, "An image modality has one row a sample"):
        return None
    shape = fields.get("shape", [])
    if len(shape) != 3 or not all(type(side) is int and side > 0 for side in shape):
        problem = f"expected [channels, height, width], given {kind_of(shape)}."
        reader.error(f"{place}.shape", problem, "Write three whole numbers.")
        return None
    if not reader.fits(f"{place}.shape", (len(samples.ids), *shape), "Mend it, or write a .npy file, which is mapped."):
        return None
    array = column_of(reader, table, file, column, f"{place}.column")
    if array is None:
        return None
    kind, at_column = array.type, f"{file}: column {column}"
    nested = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    if not nested or not is_number(kind.value_type):
        problem = f"expected a list of numbers in every row, given {kind}."
        reader.error(at_column, problem, "Store pixels flat, channel by channel.")
        return None
    size = math.prod(shape)
    there = array.is_valid().to_numpy(zero_copy_only=False)
    given = array.filter(pa.array(there))
    lengths = np.array([len(row) for chunk in given.chunks for row in chunk], np.int64)
    wrong = lengths[lengths != size]
    if len(wrong):
        problem = f"{len(wrong)} images have another number of pixels than {size} (e.g. {examples(wrong)})."
        reader.error(at_column, problem, f"`shape` {shape} needs {size} numbers in every row.")
        return None
    pixels = pa.chunked_array([chunk.flatten() for chunk in given.chunks], kind.value_type)
    values = np.full((len(samples.ids), *shape), np.nan, np.float32)
    values[at[there]] = numbers(pixels).reshape(-1, *shape)
    if np.isinf(values).any():
        reader.error(at_column, "some pixels are infinite.", "Use NaN for not measured.")
        return None
    return Modality(name, "image", (), values, {}, np.asarray(~np.isnan(values).all(axis=(1, 2, 3))))


def _repeated(reader: Reader, at: NDArray[np.int64], place: str, samples: Samples, rule: str) -> bool:
    rows, counts = np.unique(at, return_counts=True)
    twice = samples.ids[rows[counts > 1]]
    if len(twice):
        problem = f"{len(twice)} samples have more than one row (e.g. {examples(twice)})."
        reader.error(place, problem, f"{rule}; use kind: sequence for repeated measurements.")
    return len(twice) > 0


def check_excludes(reader: Reader, tasks: Mapping[str, Task], modalities: Mapping[str, Modality]) -> None:
    """A finding for each `excludes` entry that names no input column."""
    columns = [name for modality in modalities.values() for name in modality.inputs]
    for task in tasks.values():
        for pattern in task.excludes:
            if not matches(modalities, pattern):
                problem = f"{pattern} is no input column of any modality.{near(pattern, columns)}"
                fix = "Name a column, `modality.column`, or use `*` as in `notes.*`."
                reader.error(f"{DESCRIPTION}: tasks.{task.name}.excludes", problem, fix)
