"""Rules that no malformed file or command gets to by itself, each broken at the function that has it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model import confirming, haim_tables, support2
from tim_search import extension, merge, ray_executor, spec, tracking
from tim_search.search import Manifest
from tim_search.types import BadInput, Context, Task

CONTEXT = Context("c", "d", "s", "m3h", "{}")
TASKS = tuple(Task(name, "binary") for name in "ab")


def test_a_subgroup_by_a_column_that_training_patients_lack() -> None:
    cohort = support2.load()
    modality = next(one for one in cohort.modalities.values() if one.kind == "vector")
    number = next(n for n, name in enumerate(modality.columns) if name not in modality.levels)
    values = modality.values.copy()
    values[~cohort.split.test, number] = np.nan
    bare = dataclasses.replace(
        cohort, modalities={**cohort.modalities, modality.name: dataclasses.replace(modality, values=values)}
    )
    with pytest.raises(BadInput, match="measured in no training patient"):
        confirming.subgroups(bare, f"{modality.name}.{modality.columns[number]}")


def test_a_haim_table_without_anything_in_it(tmp_path: Path) -> None:
    path = tmp_path / "cxr.csv"
    path.write_text("")
    with pytest.raises(BadInput, match=r"cannot be read as CSV.*Download it again"):
        haim_tables.header(path)


def test_a_ledger_without_a_score_is_not_merged(tmp_path: Path) -> None:
    manifest = Manifest("s", "c", CONTEXT, TASKS, (), {"kind": "exact"}, ((0, 0),), ("a",))
    for name in ("a", "b"):
        manifest.write(tmp_path / name)
    with pytest.raises(BadInput, match="holds no scores yet"):
        merge.merge([str(tmp_path / "a"), str(tmp_path / "b")], str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_manifest_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    manifest = Manifest("s", "c", CONTEXT, TASKS, (), {"kind": "exact"}, ((0, 0),), ("a",))
    with pytest.raises(BadInput, match=r"cannot be written.*--out"):
        manifest.write(tmp_path / "file")


def test_a_table_of_an_extension_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="Bring the model to a folder you may write to"):
        extension._write([{"share": 1.0}], tmp_path / "none" / "table.csv")


def test_ray_that_cannot_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: Any) -> None:
        raise RuntimeError("no memory for the object store")

    monkeypatch.setattr(ray_executor.ray, "init", refuse)
    with pytest.raises(BadInput, match="Ray on this machine cannot be used: RuntimeError: no memory for the object"):
        ray_executor.connect("local")


def test_a_run_without_a_model(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    client = MlflowClient(uri)
    run = client.create_run(client.create_experiment("other")).info.run_id
    with pytest.raises(BadInput, match=f"The run {run} at .* has no model"):
        tracking.fetch_model(uri, f"runs:/{run}", tmp_path / "model")


def test_a_tuning_space_that_the_network_refuses() -> None:
    found = spec.resolve(spec.SearchFile(cohort="support2", tasks=["hospdead", "slos_log"]))
    section = spec.TuningSection(space={"batch_size": [-1]})
    odd = dataclasses.replace(found, file=found.file.model_copy(update={"tuning": section}))
    with pytest.raises(BadInput, match="batch_size"):
        spec.study(odd)
