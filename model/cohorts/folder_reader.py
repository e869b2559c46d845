"""What reading a cohort folder rests on: cohort.yaml and its keys, columns of Parquet files, findings collected."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from model.cohorts.cohort import Floats, text
from tim_search.types import Finding

#: Version of the format; a folder names the version it was written in.
FORMAT = 1
DESCRIPTION = "cohort.yaml"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")

#: key -> (type, required) at each level of cohort.yaml.
_TOP: Mapping[str, tuple[type, bool]] = {
    "format": (int, True),
    "name": (str, True),
    "info": (dict, False),
    "samples": (str, False),
    "sample_id": (str, True),
    "patient_id": (str, True),
    "stratify": (str, False),
    "split": (dict, False),
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
    },
    "sequence": {
        "kind": (str, True),
        "file": (str, True),
        "columns": (list, False),
        "prefix": (str, False),
        "step": (str, False),
        "length": (int, False),
    },
    "image": {"kind": (str, True), "file": (str, True), "column": (str, False), "shape": (list, True)},
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
    """The folder being read and what was found so far."""

    root: Path
    findings: list[Finding] = field(default_factory=list)
    tables: dict[str, pq.ParquetFile | None] = field(default_factory=dict)

    def error(self, place: str, problem: str, fix: str) -> None:
        self.findings.append(Finding(place, problem, fix))

    def warn(self, place: str, problem: str, fix: str) -> None:
        self.findings.append(Finding(place, problem, fix, "warning"))

    def table(self, name: str, place: str) -> pq.ParquetFile | None:
        """An opened Parquet file of the folder, or None with a finding (once a file)."""
        if name in self.tables:
            return self.tables[name]
        path = self.root / name
        table = None
        if not path.is_file():
            hint = near(name, [str(p.relative_to(self.root)) for p in sorted(self.root.rglob("*.parquet"))])
            self.error(
                place, f"expected the file {name} in the cohort folder; there is none.{hint}", "Name it rightly."
            )
        else:
            try:
                table = pq.ParquetFile(path)
            except (pa.ArrowException, OSError) as error:
                first = str(error).splitlines()[0]
                self.error(place, f"{name} cannot be read as Parquet: {first}.", "Write it again, e.g. with pandas.")
        self.tables[name] = table
        return table


@dataclass(frozen=True)
class Samples:
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
            problem = f"{len(strange)} rows have ids that are not in {self.file} (e.g. {some(strange)})."
            fix = "Remove the rows or add the samples; whole numbers and texts are different ids."
            reader.error(place, problem, fix)
        return at


def load(reader: Reader) -> dict[str, Any] | None:
    """The content of cohort.yaml with known keys of the right type only, or None where nothing can be read on."""
    from tim_search.gates import yaml

    path = reader.root / DESCRIPTION
    text = _text(reader, path)
    if text is None:
        return None
    try:
        content, _ = yaml.parse(text, aliases=True)
    except yaml.NotYaml as error:
        place = DESCRIPTION if error.line is None else f"{DESCRIPTION}, line {error.line}"
        fix = "Mend the line; indent with spaces, quote special signs."
        reader.error(place, f"is not valid YAML: {error.problem}.", fix)
        return None
    if not isinstance(content, dict):
        reader.error(DESCRIPTION, f"expected keys and values, given {kind_of(content)}.", "See docs/cohorts.md.")
        return None
    spec = fields_of(reader, content, DESCRIPTION, _TOP)
    version = spec.get("format")
    if version is not None and version != FORMAT:
        reader.error(f"{DESCRIPTION}: format", f"expected {FORMAT}, given {version}.", "Use the version that wrote it.")
        return None
    return spec


def _text(reader: Reader, path: Path) -> str | None:
    """The text of cohort.yaml, or None with a finding."""
    place = DESCRIPTION
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        problem, fix = f"expected UTF-8 text, got other bytes (from byte {error.start} on).", "Save it as UTF-8."
    except IsADirectoryError:
        problem, fix = "expected a file (YAML), got a folder.", "Put the file in its place; docs/cohorts.md shows one."
    except (FileNotFoundError, NotADirectoryError, ValueError):  # also a name that cannot be one
        place, what = str(path), "a folder with" if not reader.root.is_dir() else "the file"
        problem = f"expected {what} {DESCRIPTION} at {reader.root}; there is none."
        fix = 'Give the path of a cohort folder, or "support2"; docs/cohorts.md shows one.'
        if reader.root.is_file():
            problem = f"expected a folder with {DESCRIPTION}, got the file {reader.root}."
            fix = f"A table becomes such a folder with `tim-search cohort init {reader.root}`."
    except OSError as error:
        problem, fix = f"cannot be read: {error.strerror or error}.", "Name a cohort folder whose files you may read."
    reader.error(place, problem, fix)
    return None


def fields_of(
    reader: Reader, given: Mapping[Any, Any], place: str, known: Mapping[str, tuple[type, bool]]
) -> dict[str, Any]:
    """The known keys of a mapping whose values have the right type; a finding for everything else."""
    fields: dict[str, Any] = {}
    for key, value in given.items():
        if key not in known:
            fix = f"Allowed are: {', '.join(known)}."
            reader.error(f"{place}: {key}", f"is not a known key.{near(str(key), known)}", fix)
        elif value is None:
            continue
        elif not isinstance(value, known[key][0]) or (known[key][0] is int and isinstance(value, bool)):
            expected = {str: "a text", int: "a whole number", dict: "keys and values", list: "a list"}[known[key][0]]
            reader.error(f"{place}: {key}", f"expected {expected}, given {kind_of(value)}.", "See docs/cohorts.md.")
        else:
            fields[key] = value
    for key, (_, required) in known.items():
        if required and given.get(key) is None:
            reader.error(f"{place}: {key}", "is required and missing.", "Add it; docs/cohorts.md shows how.")
    return fields


def named(reader: Reader, spec: Mapping[str, Any], key: str) -> dict[str, dict[str, Any]]:
    """The entries of `modalities` or `tasks` whose names and values can be read."""
    entries: dict[str, dict[str, Any]] = {}
    for name, entry in spec.get(key, {}).items():
        place = f"{DESCRIPTION}: {key}.{name}"
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            reader.error(place, "is not a usable name.", "Use letters, digits, _ and -; quote yes, no, on and off.")
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
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            fix = 'Put it in quotes: YAML reads bare yes, no, on and off as true and false, e.g. "no".'
            reader.error(place, f"expected texts or numbers, given {value!r}.", fix)
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
    """One column, dictionaries decoded; None with a finding where the file does not have it."""
    names = table.schema_arrow.names
    if column not in names:
        fix = f"The file has: {some(np.array(names, dtype=object), 12)}."
        reader.error(place, f"{file} has no column {column}.{near(column, names)}", fix)
        return None
    array = table.read([column]).column(0)
    return array.cast(array.type.value_type) if pa.types.is_dictionary(array.type) else array


def is_text(kind: pa.DataType) -> bool:
    """Whether a Parquet column holds texts."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def is_number(kind: pa.DataType) -> bool:
    """Whether a Parquet column holds numbers or booleans."""
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind))


def numbers(array: pa.ChunkedArray) -> Floats:
    """A numeric column as float32 where that is exact, else float64; null is NaN."""
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
    known = ~values.isna().to_numpy()
    found = list(dict.fromkeys(keys[known].tolist()))
    ordered = names or tuple(sorted(found, key=lambda key: (not key.lstrip("-").isdigit(), _number(key), key)))
    strange = [key for key in found if key not in ordered]
    if strange:
        problem = f"holds {some(np.array(strange, dtype=object))}, not among the classes {', '.join(ordered)}."
        reader.error(place, problem, f"Complete `classes` of {task}, or mend the column.")
        return None
    code = {key: float(index) for index, key in enumerate(ordered)}
    return np.array([code[key] if ok else np.nan for key, ok in zip(keys, known, strict=True)], np.float64), ordered


def _number(key: str) -> int:
    return int(key) if key.lstrip("-").isdigit() else 0


def near(name: str, allowed: Iterable[str]) -> str:
    """A guess at what was meant, to append to a problem."""
    found = difflib.get_close_matches(name, list(allowed), 1, 0.6)
    return f" Did you mean {found[0]}?" if found else ""


def some(values: NDArray[Any], most: int = 5) -> str:
    """The first few values, for a message."""
    shown = ", ".join(text(value) for value in values[:most].tolist())
    return f"{shown}, ..." if len(values) > most else shown


def kind_of(value: Any) -> str:
    """What a YAML value is, in words, for a message."""
    names = {dict: "keys and values", list: "a list", str: "a text", bool: "true or false", type(None): "nothing"}
    return f"{names.get(type(value), type(value).__name__)} ({value!r})"[:80]
