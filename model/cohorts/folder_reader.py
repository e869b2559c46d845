"""What reading a cohort folder rests on: cohort.yaml and its keys, columns of Parquet files, findings collected."""

from __future__ import annotations

import math
import os
import re
import tokenize
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from model.cohorts.cohort import Floats, examples, text
from model.cohorts.values import Rule, apply, exact
from tim_search.gates.files import inside, open_regular
from tim_search.types import BadInput, Finding, near, some

#: Version of the format; a folder names the version it was written in.
FORMAT = 1
DESCRIPTION = "cohort.yaml"

#: What is said of a file that cohort.yaml names and that is not in its folder.
OUTSIDE = "lies outside of the cohort folder"
#: Most characters of the name of a modality or a task: files and figures are named after them.
LONGEST_NAME = 120
#: What reading a damaged table or array raises: Arrow, NumPy (which takes a header for Python text), Python itself.
UNREADABLE = (
    pa.ArrowException, OSError, EOFError, ValueError, TypeError, IndexError, OverflowError, MemoryError, SyntaxError,
    tokenize.TokenError,
)  # fmt: skip

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")

#: key -> (type, required) at each level of cohort.yaml.
TOP: Mapping[str, tuple[type, bool]] = {
    "format": (int, True),
    "name": (str, True),
    "info": (dict, False),
    "samples": (str, False),
    "sample_id": (str, True),
    "patient_id": (str, True),
    "stratify": (str, False),
    "split": (dict, False),
    "values": (dict, False),
    "table_columns": (list, False),
    "modalities": (dict, True),
    "tasks": (dict, True),
    "overlaps": (list, False),
}
SPLIT: Mapping[str, tuple[type, bool]] = {"file": (str, False), "seed": (int, False), "folds": (int, False)}
MODALITY: Mapping[str, Mapping[str, tuple[type, bool]]] = {
    "vector": {
        "kind": (str, False),
        "file": (str, True),
        "columns": (list, False),
        "prefix": (str, False),
        "levels": (dict, False),
        "index": (str, False),
    },
    "sequence": {
        "kind": (str, True),
        "file": (str, True),
        "columns": (list, False),
        "prefix": (str, False),
        "step": (str, False),
        "length": (int, False),
        "index": (str, False),
    },
    "image": {
        "kind": (str, True),
        "file": (str, True),
        "column": (str, False),
        "shape": (list, True),
        "index": (str, False),
    },
}
TASK: Mapping[str, tuple[type, bool]] = {
    "kind": (str, True),
    "label": (object, False),
    "classes": (list, False),
    "clusters": (int, False),
    "metric": (str, False),
    "department": (str, False),
    "excludes": (list, False),
}


@dataclass
class Reader:
    """The folder that is read, the findings so far, and the tables opened so far (None: one that cannot be read).

    Also the rules by which cells of columns become values.
    """

    root: Path
    findings: list[Finding] = field(default_factory=list)
    tables: dict[str, pq.ParquetFile | None] = field(default_factory=dict)
    outside: set[str] = field(default_factory=set)
    rules: Mapping[str, Rule] = field(default_factory=dict)

    def error(self, place: str, problem: str, fix: str) -> None:
        self.findings.append(Finding(place, problem, fix))

    def warn(self, place: str, problem: str, fix: str) -> None:
        self.findings.append(Finding(place, problem, fix, "warning"))

    def path(self, name: str, place: str, ending: str) -> Path | None:
        """The path of a file that cohort.yaml names; None with an error where there is none that can be read.

        A file outside of the folder, also one that a link leads to, is read with a warning.
        """
        problem, fix = "", "Name it rightly."
        try:
            path = inside(self.root, name)
            open_regular(path).close()
        except BadInput as error:
            problem = str(error)
        except (FileNotFoundError, NotADirectoryError):
            there = sorted(str(path.relative_to(self.root)) for path in self._files(ending))
            problem = f"expected the file {name} in the cohort folder; there is none.{near(name, there)}"
        except OSError as error:
            problem, fix = f"{name} cannot be read: {error.strerror}.", "Name a file that you may read."
        if problem:
            self.error(place, problem, fix)
            return None
        real = Path(os.path.realpath(path))
        if not real.is_relative_to(os.path.realpath(self.root)) and name not in self.outside:
            self.outside.add(name)
            fix = "Fine in a folder of your own; in one that you were given, see that it names no other file of yours."
            self.warn(place, f"{name} {OUTSIDE} ({real}).", fix)
        return path

    def _files(self, ending: str) -> Iterator[Path]:
        """Files that may have been meant: in the folder and one level below, however much lies there."""
        yield from self.root.glob(f"*{ending}")
        yield from self.root.glob(f"*/*{ending}")

    def table(self, name: str, place: str) -> pq.ParquetFile | None:
        """An opened Parquet file of the folder, or None with an error (once a file)."""
        if name not in self.tables:
            self.tables[name] = None
            path = self.path(name, place, ".parquet")
            try:
                if path is not None:
                    table = pq.ParquetFile(path)
                    counts = Counter(table.schema_arrow.names)
                    if twice := [column for column, count in counts.items() if count > 1]:
                        self.error(place, f"{name} has the columns {some(twice)} twice.", "Rename them.")
                    else:
                        self.tables[name] = table
            except UNREADABLE as error:
                self.damaged(place, name, error)
        return self.tables[name]

    def damaged(self, place: str, name: str, error: Exception) -> None:
        """An error that says why a Parquet file cannot be read."""
        first = (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
        self.error(place, f"{name} cannot be read as Parquet: {first}.", "Write it again, e.g. with pandas.")

    def fits(self, place: str, shape: Sequence[int], fix: str) -> bool:
        """Whether an array of float32 has room in this machine's memory; an error where it has not."""
        size = 4 * math.prod(shape)
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        if size > memory:
            problem = f"needs {size >> 30:,} GiB as an array; this machine has {memory >> 30:,} GiB of memory."
            self.error(place, problem, fix)
        return size <= memory


@dataclass(frozen=True)
class Samples:
    """The rows of the samples' file: whose they are, and which of its columns turned out to be labels."""

    file: str
    id_column: str
    patient_column: str
    ids: NDArray[Any]
    index: pd.Index
    patients: NDArray[Any]
    label_columns: set[str] = field(default_factory=set)

    def rows(self, reader: Reader, ids: NDArray[Any], place: str) -> NDArray[np.int64]:
        """The sample row of each id; ids that are no sample become a finding and -1."""
        at = self.index.get_indexer(pd.Index(ids)).astype(np.int64)
        strange = ids[at < 0]
        if len(strange):
            problem = f"{len(strange)} rows have ids that are not in {self.file} (e.g. {examples(strange)})."
            fix = "Remove the rows or add the samples; whole numbers and texts are different ids."
            reader.error(place, problem, fix)
        return at


def load(reader: Reader) -> dict[str, Any] | None:
    """The content of cohort.yaml with known keys of the right type only, or None where nothing can be read on."""
    from tim_search.gates import yaml

    path, place = reader.root / DESCRIPTION, DESCRIPTION
    try:
        content, _ = yaml.read(path, aliases=True)
    except yaml.NotYaml as error:
        place = DESCRIPTION if error.line is None else f"{DESCRIPTION}, line {error.line}"
        fix = "Mend the line; indent with spaces, quote special signs."
        reader.error(place, f"is not valid YAML: {error.problem}.", fix)
        return None
    except UnicodeDecodeError as error:
        problem = f"expected UTF-8 text, got other bytes (from byte {error.start} on)."
        reader.error(DESCRIPTION, problem, "Save it as UTF-8.")
        return None
    except (BadInput, OSError) as error:
        _not_there(reader, path, error)
        return None
    if not isinstance(content, dict):
        reader.error(DESCRIPTION, f"expected keys and values, given {kind_of(content)}.", "See docs/cohorts.md.")
        return None
    spec = fields_of(reader, content, DESCRIPTION, TOP)
    version = spec.get("format")
    if version is not None and version != FORMAT:
        reader.error(f"{DESCRIPTION}: format", f"expected {FORMAT}, given {version}.", "Use the version that wrote it.")
        return None
    return spec


def _not_there(reader: Reader, path: Path, error: BadInput | OSError) -> None:
    """An error that says why cohort.yaml cannot be read, and what to name instead."""
    place, fix = (
        DESCRIPTION,
        'Give the path of a cohort folder, "support2" or "diabetes130"; docs/cohorts.md shows one.',
    )
    if isinstance(error, BadInput):
        problem, fix = str(error).removeprefix(f"{path}: "), ""
    elif isinstance(error, IsADirectoryError):
        problem, fix = "expected a file (YAML), got a folder.", "Put the file in its place; docs/cohorts.md shows one."
    elif reader.root.is_file():
        place, problem = str(path), f"expected a folder with {DESCRIPTION}, got the file {reader.root}."
        fix = f"A table becomes such a folder with `tim-search cohort init {reader.root}`."
    elif isinstance(error, FileNotFoundError | NotADirectoryError):
        place, what = str(path), "a folder with" if not reader.root.is_dir() else "the file"
        problem = f"expected {what} {DESCRIPTION} at {reader.root}; there is none."
    else:
        problem, fix = f"cannot be read: {error.strerror}.", "Name a cohort folder whose files you may read."
    reader.error(place, problem, fix)


def fields_of(
    reader: Reader, given: Mapping[Any, Any], place: str, allowed: Mapping[str, tuple[type, bool]]
) -> dict[str, Any]:
    """The allowed keys of a mapping whose values have the right type; an error for everything else."""
    fields: dict[str, Any] = {}
    for key, value in given.items():
        if key not in allowed:
            fix = f"Allowed are: {', '.join(allowed)}."
            reader.error(f"{place}: {key}", f"is not a known key.{near(str(key), allowed)}", fix)
        elif value is None:
            continue
        elif not isinstance(value, allowed[key][0]) or (allowed[key][0] is int and isinstance(value, bool)):
            expected = {str: "a text", int: "a whole number", dict: "keys and values", list: "a list"}[allowed[key][0]]
            reader.error(f"{place}: {key}", f"expected {expected}, given {kind_of(value)}.", "See docs/cohorts.md.")
        else:
            fields[key] = value
    for key, (_, required) in allowed.items():
        if required and given.get(key) is None:
            reader.error(f"{place}: {key}", "is required and missing.", "Add it; docs/cohorts.md shows how.")
    return fields


def named(reader: Reader, spec: Mapping[str, Any], key: str) -> dict[str, dict[str, Any]]:
    """The entries of `modalities` or `tasks` whose names and values can be read."""
    entries: dict[str, dict[str, Any]] = {}
    for name, entry in spec.get(key, {}).items():
        place = f"{DESCRIPTION}: {key}.{name}"
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            reader.error(place, "is not a usable name.", "Use letters, digits, _ and -; quote true, false and numbers.")
        elif len(name) > LONGEST_NAME:
            problem = f"is a name of {len(name)} characters; at most {LONGEST_NAME} are possible."
            reader.error(place[:200], problem, "Choose a shorter one.")
        elif not isinstance(entry, dict):
            reader.error(place, f"expected keys and values, given {kind_of(entry)}.", "See docs/cohorts.md.")
        else:
            entries[name] = entry
    if key in spec and not spec[key]:
        reader.error(f"{DESCRIPTION}: {key}", "is empty.", f"Describe at least one of the {key}.")
    return entries


def texts(reader: Reader, values: Sequence[Any], place: str) -> tuple[str, ...]:
    """A list of names or levels as text; a finding for what YAML has turned into something else."""
    for value in values:
        if isinstance(value, bool) or not isinstance(value, str | int | float) or value != value:
            fix = 'Put it in quotes: YAML reads bare true, false, null and .nan as no texts, e.g. "true".'
            reader.error(place, f"expected texts or numbers, given {str(value)[:80]}.", fix)
    names = tuple(text(value) for value in values)
    if len(set(names)) < len(names):
        reader.error(place, f"holds an entry twice: {', '.join(names)}.", "List each once.")
    return names


def ids_of(reader: Reader, table: pq.ParquetFile, file: str, column: str, key: str) -> NDArray[Any] | None:
    """An id column as int64, or as str in an object array; None with a finding."""
    place = f"{file}: column {column}"
    array = column_of(reader, table, file, column, f"{DESCRIPTION}: {key}")
    if array is None:
        return None
    kind = array.type
    if not (pa.types.is_integer(kind) or is_text(kind)):
        fix = "Write ids as whole numbers or texts (a float column of ids often had a missing one)."
        reader.error(place, f"expected whole numbers or texts as ids, given {kind}.", fix)
        return None
    if array.null_count:
        reader.error(place, f"{array.null_count} ids are missing.", "Every row needs its id.")
        return None
    if is_text(kind):
        return np.array(array.to_pylist(), dtype=object)
    return array.to_numpy().astype(np.int64)


def column_of(reader: Reader, table: pq.ParquetFile, file: str, column: str, place: str) -> pa.ChunkedArray | None:
    """One column, dictionaries decoded and read by its rule; None with an error where it is not there, or damaged."""
    names = table.schema_arrow.names
    if column not in names:
        fix = f"The file has: {some(names, 12)}."
        reader.error(place, f"{file} has no column {column}.{near(column, names)}", fix)
        return None
    try:
        array = table.read([column]).column(0)
        array.validate(full=True)
        array = array.cast(array.type.value_type) if pa.types.is_dictionary(array.type) else array
        return ruled(reader, file, column, exact(array))
    except UNREADABLE as error:
        reader.damaged(f"{file}: column {column}", file, error)
        return None


def ruled(reader: Reader, file: str, column: str, array: pa.ChunkedArray) -> pa.ChunkedArray | None:
    """A column as its rule reads it, where it has one; None with an error where its cells do not fit."""
    rule = reader.rules.get(column)
    try:
        return array if rule is None else apply(array, rule)
    except ValueError as error:
        fix = f"Add them to `missing` of values.{column} in {DESCRIPTION}, or mend the rule."
        reader.error(f"{file}: column {column}", f"{error}.", fix)
        return None


def is_text(kind: pa.DataType) -> bool:
    """Whether a Parquet column holds texts."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def is_number(kind: pa.DataType) -> bool:
    """Whether a Parquet column holds numbers or booleans."""
    return bool(
        pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_boolean(kind)
        or pa.types.is_decimal(kind)
    )


def not_numbers(kind: pa.DataType, column: str) -> tuple[str, str]:
    """What is wrong with a column that should hold numbers, and what to do."""
    fix = "Convert it or leave it out."
    if pa.types.is_duration(kind):
        fix = f"Say what durations are counted in: `values: {{{column}: {{unit: hours}}}}`."
    elif is_text(kind):
        fix = f"If its texts are numbers: `values: {{{column}: {{type: number}}}}`; else leave it out."
    return f"expected numbers, given {kind}.", fix


def numbers(array: pa.ChunkedArray) -> Floats:
    """A numeric column as float32 where that is exact, else float64; null is NaN."""
    array = exact(array)
    kind = array.type
    small = pa.types.is_boolean(kind) or (kind.bit_width <= 16 if pa.types.is_integer(kind) else kind.bit_width <= 32)
    wanted = pa.float32() if small and not pa.types.is_null(kind) else pa.float64()
    values: Floats = array.cast(wanted, safe=False).to_numpy(zero_copy_only=False)
    return values


def classes_of(
    reader: Reader, place: str, array: pa.ChunkedArray, names: tuple[str, ...], task: str
) -> tuple[NDArray[np.float64], tuple[str, ...]] | None:
    """Codes of a column of classes (texts or whole numbers), and their names; the given names fix the order."""
    if not (is_text(array.type) or is_number(array.type)):
        reader.error(place, f"expected classes as texts or whole numbers, given {array.type}.", "Convert the column.")
        return None
    values = array.to_pandas()
    if is_number(array.type):
        measured = numbers(array)
        measured = measured[~np.isnan(measured)]
        if not np.all(np.isfinite(measured)) or np.any(measured != np.round(measured)):
            reader.error(place, "expected whole numbers or texts as classes, given fractions.", "Use kind: regression.")
            return None
    keys = np.array([text(value) for value in values.tolist()], dtype=object)
    given = ~values.isna().to_numpy()
    there = list(dict.fromkeys(keys[given].tolist()))
    ordered = names or tuple(sorted(there, key=_numbers_first))
    strange = sorted(set(there).difference(ordered))
    if strange:
        problem = f"holds {examples(np.array(strange, dtype=object))}, not among the classes {', '.join(ordered)}."
        reader.error(place, problem, f"Complete `classes` of {task}, or mend the column.")
        return None
    code = {key: float(index) for index, key in enumerate(ordered)}
    return np.array([code[key] if ok else np.nan for key, ok in zip(keys, given, strict=True)], np.float64), ordered


def _numbers_first(level: str) -> tuple[bool, int, str]:
    """Sorts whole numbers by their value, and before other texts."""
    number = re.fullmatch("-?[0-9]{1,300}", level)
    return number is None, int(level) if number else 0, level


def kind_of(value: Any) -> str:
    """What a YAML value is, in words, for a message."""
    names = {dict: "keys and values", list: "a list", str: "a text", bool: "true or false", type(None): "nothing"}
    return f"{names.get(type(value), type(value).__name__)} ({value!r})"[:80]
