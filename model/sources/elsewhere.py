"""Another cohort of the same columns: a cohort folder, or a table that is read as the tables of a known cohort are.

A table of another hospital has no description of its own. It is read by that of the known cohort: its rules of values,
its ids, its tasks and its classes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from model.cohorts.cohort import Cohort
from model.cohorts.folder_reader import DESCRIPTION, Reader, load
from model.sources.opening import BUILT_IN, open_cohort
from model.sources.tables import check, convert
from tim_search.gates.plain import write_json
from tim_search.gates.texts import for_terminal
from tim_search.types import BadInput, some

#: No task has this name: a task that is only judged needs no labels in every fold.
_NO_TASK = ("",)
#: A column of row numbers, where a table has no ids.
_NUMBER = "row"


def open_elsewhere(reference: str | Path, like: str | Path) -> tuple[Cohort, list[str]]:
    """The other cohort, and what the reader must know of how it was read.

    Args:
        reference: a built-in cohort, a cohort folder, or a table as `cohort init` reads them.
        like: the cohort whose description holds for a table.

    Raises:
        BadInput: it cannot be read; a table, where the known cohort is none that was made of one table.
    """
    path = Path(reference)
    if str(reference) in BUILT_IN or not path.is_file() or path.name == DESCRIPTION:
        return open_cohort(reference, _NO_TASK), []
    root = Path(like)
    root = root.parent if root.name == DESCRIPTION else root
    spec = None if str(like) in BUILT_IN else load(Reader(root))
    files = {} if spec is None else {entry.get("file") for entry in spec["modalities"].values()}
    if spec is None or files != {spec.get("samples", "samples.parquet")}:
        raise BadInput(
            f"--on: expected a cohort folder, got the table {for_terminal(path)}; a table is read by the description "
            "of a cohort that was made of one table, and the search's is not. Make a folder of it with tim-search "
            f"cohort init {for_terminal(path)}."
        )
    check(path)
    with tempfile.TemporaryDirectory() as folder:
        notes = _described(path, Path(folder), spec)
        try:
            return open_cohort(folder, _NO_TASK), notes
        except BadInput as error:
            problem = str(error).replace(f"cohort {folder}", f"{for_terminal(path)}, read as the search's cohort,")
            raise BadInput(f"--on: {problem}") from None


def _described(path: Path, folder: Path, spec: Mapping[str, Any]) -> list[str]:
    """Write the table into a folder with the description of the known cohort; returns what the reader must know."""
    samples = folder / "samples.parquet"
    convert(path, samples, texts={spec["sample_id"], spec["patient_id"]})
    with pq.ParquetFile(samples) as file:
        table = file.read()
    named = dict.fromkeys(str(name) for entry in spec["modalities"].values() for name in entry.get("columns") or ())
    notes = []
    if spec["sample_id"] not in table.column_names:
        number = _NUMBER
        while number in {name.lower() for name in (*table.column_names, *named)}:
            number += "_"
        table = table.append_column(number, pa.array(range(len(table)), pa.int64()))
        notes.append(f"The table has no column {spec['sample_id']}: its rows are numbered.")
        spec = {**spec, "sample_id": number}
    if spec["patient_id"] not in table.column_names:
        notes.append(f"The table has no column {spec['patient_id']}: each row counts as a patient of its own.")
        spec = {**spec, "patient_id": spec["sample_id"]}
    begun = tuple(str(entry["prefix"]) for entry in spec["modalities"].values() if entry.get("prefix"))
    if not any(name in named or name.startswith(begun) for name in table.column_names):
        raise BadInput(
            f"--on: expected input columns of the search's cohort, got none in {for_terminal(path)}. Name its columns "
            f"as they are there: {some(list(named) or [f'{prefix}...' for prefix in begun], 20)}."
        )
    for name in named:
        if name not in table.column_names:  # an empty column; that it lacks is told by who compares the cohorts
            table = table.append_column(name, pa.array([None] * len(table), pa.float64()))
    tasks = {
        name: entry
        for name, entry in spec["tasks"].items()
        if entry.get("kind") == "clustering" or _targets(name, entry) <= set(table.column_names)
    }
    pq.write_table(table, samples)
    left_out = ("split", "stratify", "overlaps", "table_columns", "info")
    described = {key: value for key, value in spec.items() if key not in left_out}
    modalities = {
        name: {**entry, "file": "samples.parquet"}
        for name, entry in spec["modalities"].items()
        if entry.get("columns") or any(column.startswith(str(entry.get("prefix"))) for column in table.column_names)
    }
    rules = {name: rule for name, rule in (spec.get("values") or {}).items() if name in table.column_names}
    described |= {"name": path.stem, "samples": "samples.parquet", "modalities": modalities, "tasks": tasks}
    write_json(folder / DESCRIPTION, {**described, "values": rules})  # JSON is YAML, too
    return notes


def _targets(name: str, entry: Mapping[str, Any]) -> set[str]:
    label = entry.get("label", name)
    return set(label) if isinstance(label, list) else {label}
