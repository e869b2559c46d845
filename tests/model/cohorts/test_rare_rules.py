"""Rules that no malformed file or command gets to by itself, each broken at the function that has it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from model.sources import haim_tables, support2
from model.trained import confirming
from tim_search import config, tracking
from tim_search.config import designs, resolving
from tim_search.config.sections import ExactDesign
from tim_search.executors import ray_executor, ray_start
from tim_search.ledger.table import ScoreTable
from tim_search.loop.manifest import Manifest
from tim_search.results import grouping, merge
from tim_search.tuning.space import TuningSection
from tim_search.types import BadInput, Context, Resources, Task

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


def test_ray_that_cannot_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: Any) -> None:
        raise RuntimeError("no memory for the object store")

    monkeypatch.setattr(ray_start.ray, "init", refuse)
    with pytest.raises(BadInput, match="Ray on this machine cannot be used: RuntimeError: no memory for the object"):
        ray_start.connect("local")


def test_a_run_without_a_model(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    client = MlflowClient(uri)
    run = client.create_run(client.create_experiment("other")).info.run_id
    with pytest.raises(BadInput, match=f"The run {run} at .* has no model"):
        tracking.fetch_model(uri, f"runs:/{run}", tmp_path / "model")


def test_a_tuning_space_that_the_network_refuses() -> None:
    found = config.resolve(config.SearchFile(cohort="support2", tasks=["hospdead", "slos_log"]))
    section = TuningSection(space={"batch_size": [-1]})
    odd = dataclasses.replace(found, file=found.file.model_copy(update={"tuning": section}))
    with pytest.raises(BadInput, match="batch_size"):
        config.study(odd)


def test_a_search_file_whose_cohort_falls_over_late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> Any:
        raise BadInput("the cohort changed meanwhile")

    path = tmp_path / "search.yaml"
    path.write_text("cohort: support2\n")
    monkeypatch.setattr(resolving, "_open", refuse)
    assert "the cohort changed meanwhile" in [finding.problem for finding in config.check(path)]


def test_exact_designs_end_somewhere() -> None:
    names = [f"t{number}" for number in range(designs.EXACT_LIMIT + 1)]
    (finding,) = designs.misfits(ExactDesign(), names, len(names))
    assert finding.place == "design"
    assert f"up to {designs.EXACT_LIMIT} tasks" in finding.problem


def test_single_tasks_alone_are_more_models_than_are_looked_at() -> None:
    m = 40
    names = tuple(f"t{number:02}" for number in range(m))
    scores = np.where(np.eye(m, dtype=bool), 0.7, np.nan)[:, None, :]
    table = ScoreTable(names, ((0, 0),), np.eye(m, dtype=bool), scores, np.ones((m, 1), bool))
    with pytest.raises(BadInput, match=r"candidate models of at most 10 tasks serve all 40 tasks.*train more"):
        grouping.group(table, max_size=10)


def test_workers_that_no_machine_here_can_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    executor = ray_executor.RayExecutor(None, None, {}, Resources(cpus=1000.0), "local")  # type: ignore[arg-type]
    node = {"Alive": True, "Resources": {"CPU": 2.0}, "NodeID": "n"}
    monkeypatch.setattr(ray_executor.ray, "is_initialized", lambda: True)
    executor._owns_ray, executor._payload_ref = True, object()
    executor._watch = SimpleNamespace(nodes=[node])  # type: ignore[assignment]
    monkeypatch.setattr(executor, "_nodes", lambda: [node])
    with pytest.raises(BadInput, match=r"each worker asks for 1000 CPU.*Ask for less"):
        executor._start()
