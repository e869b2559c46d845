"""The cohort folder, written: the counterpart of `model/cohorts/folder.py`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from model.cohorts.cohort import PIXELS, Cohort, Modality
from model.cohorts.folder_reader import DESCRIPTION, FORMAT
from model.cohorts.stored import Stored, parts
from tim_search.gates.files import checked_path, new_folder
from tim_search.types import BadInput, Task


def write(cohort: Cohort, root: Path) -> None:
    """Write a cohort folder; see `model.sources.opening.write_cohort`."""
    for modality in cohort.modalities.values():
        clash = {"sample_id", "step"} & set(modality.columns)
        if clash:
            raise BadInput(f"modality {modality.name}: no column may be called {', '.join(sorted(clash))}. Rename it.")
    check_free(root)
    with new_folder(root) as folder:
        fill(cohort, folder)


def fill(cohort: Cohort, folder: Path) -> None:
    """Write a cohort's files into an empty folder."""
    from tim_search.gates import yaml

    (folder / "modalities").mkdir()
    samples = {"sample_id": _arrow(cohort.sample_ids), "patient_id": _arrow(cohort.patient_ids[cohort.patients])}
    tasks = {}
    for task in cohort.tasks.values():
        tasks[task.name], columns = _task_out(task, cohort)
        samples |= columns
    pq.write_table(pa.table(samples), folder / "samples.parquet")
    parts = {
        "sample_id": _arrow(cohort.sample_ids),
        "part": pa.array(np.where(cohort.split.test, "test", "train")),
        "fold": pa.array(cohort.split.fold),
    }
    pq.write_table(pa.table(parts), folder / "split.parquet")
    description = {
        "format": FORMAT,
        "name": cohort.name,
        "info": _plain(cohort.info),
        "samples": "samples.parquet",
        "sample_id": "sample_id",
        "patient_id": "patient_id",
        "split": {"file": "split.parquet"},
        "modalities": {m.name: _modality_out(m, cohort, folder) for m in cohort.modalities.values()},
        "tasks": tasks,
        "overlaps": [list(pair) for pair in cohort.overlaps],
    }
    if cohort.rules:
        description["values"] = {name: rule.plain() for name, rule in cohort.rules.items()}
    if cohort.table_columns:
        description["table_columns"] = list(cohort.table_columns)
    (folder / DESCRIPTION).write_text(yaml.dump(description, width=110), encoding="utf-8")


def check_free(root: Path) -> None:
    """Raise BadInput unless `root` can be a new folder, or is an empty one that the new one may replace."""
    root = checked_path(root)
    problem = ""
    if root.is_symlink():
        problem = "it is a link"
    elif root.exists() and (not root.is_dir() or any(root.iterdir())):
        problem = "it holds something already"
    elif not root.name or root.name == ".." or os.path.realpath(root) == os.path.realpath("."):
        raise BadInput(f"{root}: expected a new folder, got the one you are in. Name a folder within it.")
    if problem:
        raise BadInput(
            f"{root}: expected a new or empty folder to write a cohort to; {problem}. Name another one, or remove it."
        )


def _task_out(task: Task, cohort: Cohort) -> tuple[dict[str, Any], dict[str, pa.Array]]:
    """A task's entry in cohort.yaml and its label columns."""
    entry: dict[str, Any] = {"kind": task.kind}
    columns: dict[str, pa.Array] = {}
    if task.kind == "clustering":
        entry["clusters"] = task.n_outputs
    else:
        label, names = cohort.labels[task.name], cohort.classes.get(task.name, ())
        if task.kind == "multilabel":
            files = [f"label_{task.name}_{index}" for index in range(len(names))]
            columns = {file: pa.array(label[:, index], from_pandas=True) for index, file in enumerate(files)}
            entry["label"] = files
        else:
            file = f"label_{task.name}"
            entry["label"] = file
            if task.kind == "regression" or names == ("0", "1"):
                columns[file] = pa.array(label, from_pandas=True)
            else:
                columns[file] = pa.array([None if np.isnan(code) else names[int(code)] for code in label], pa.string())
        if names and names != ("0", "1"):
            entry["classes"] = list(names)
    entry["metric"] = task.metric
    if task.department:
        entry["department"] = task.department
    if task.excludes:
        entry["excludes"] = list(task.excludes)
    return entry, columns


def _modality_out(modality: Modality, cohort: Cohort, root: Path) -> dict[str, Any]:
    """Write a modality's file; returns its entry in cohort.yaml."""
    if isinstance(modality.values, Stored):
        return _stored_out(modality, modality.values, cohort, root)
    file = f"modalities/{modality.name}.parquet"
    here, values = modality.present, modality.values
    entry: dict[str, Any] = {"kind": modality.kind, "file": file}
    columns: dict[str, pa.Array] = {}
    if modality.kind == "image":
        entry["shape"] = list(values.shape[1:])
        flat = values[here].reshape(int(here.sum()), int(np.prod(values.shape[1:])))
        columns["sample_id"] = _arrow(cohort.sample_ids[here])
        columns[PIXELS] = pa.FixedSizeListArray.from_arrays(pa.array(flat.reshape(-1)), flat.shape[1])
    elif modality.kind == "sequence":
        entry["length"] = values.shape[1]
        rows = np.asarray(~np.isnan(values).all(axis=2))
        sample, step = np.nonzero(rows)
        columns["sample_id"] = _arrow(cohort.sample_ids[sample])
        columns["step"] = pa.array(step.astype(np.int32))
        measured = values[rows]
        columns |= {c: pa.array(measured[:, i], from_pandas=True) for i, c in enumerate(modality.columns)}
    else:
        columns["sample_id"] = _arrow(cohort.sample_ids[here])
        for index, column in enumerate(modality.columns):
            column_values = values[here, index]
            if column in modality.levels:
                names = modality.levels[column]
                levels = [None if np.isnan(code) else names[int(code)] for code in column_values]
                columns[column] = pa.array(levels, pa.string())
            else:
                columns[column] = pa.array(column_values, from_pandas=True)
        if modality.levels:
            entry["levels"] = {column: list(names) for column, names in modality.levels.items()}
    pq.write_table(pa.table(columns), root / file)
    return entry


def _stored_out(modality: Modality, values: Stored, cohort: Cohort, root: Path) -> dict[str, Any]:
    """Copy the rows of a modality that is on disk, each once, and say who has which; its entry in cohort.yaml."""
    file, index = f"modalities/{modality.name}.npy", f"modalities/{modality.name}.rows.parquet"
    rows, which = values.distinct()
    with (root / file).open("wb") as handle:
        header = {"descr": np.dtype(values.file.dtype).str, "fortran_order": False, "shape": rows.shape}
        np.lib.format.write_array_header_1_0(handle, header)
        for _, part in parts(rows):
            handle.write(part.astype(values.file.dtype).tobytes())
    here = which >= 0
    table = {"sample_id": _arrow(cohort.sample_ids[here]), "row": pa.array(which[here])}
    pq.write_table(pa.table(table), root / index)
    entry: dict[str, Any] = {"kind": modality.kind, "file": file, "index": index}
    if modality.kind == "image":
        return {**entry, "shape": list(values.shape[1:])}
    return {**entry, "columns": list(modality.columns)}


def _arrow(ids: NDArray[Any]) -> pa.Array:
    return pa.array(ids) if ids.dtype.kind in "iu" else pa.array([str(key) for key in ids], pa.string())


def _plain(value: Any) -> Any:
    """Mappings, sequences and numpy scalars as what YAML can write."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value.item() if isinstance(value, np.generic) else value
