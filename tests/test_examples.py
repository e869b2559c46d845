"""The examples run as they stand."""

from __future__ import annotations

import ast
import os
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import nbclient
import nbformat
import numpy as np
import pytest

from tests.support import ROOT
from tests.support.mlflow_stores import figure, result, uri_of
from tim_search import tim
from tim_search.app import deploy
from tim_search.tracking import Tracker

EXAMPLES = ROOT / "examples"


def test_the_quick_start_is_short() -> None:
    assert len((EXAMPLES / "quick_start.py").read_text().splitlines()) < 40


def test_the_whole_idea_fits_in_one_file_without_the_product() -> None:
    path = EXAMPLES / "tiny_search.py"
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 150
    modules = {node.module for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ImportFrom)}
    names = {alias.name for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Import) for alias in node.names}
    assert {str(name).split(".")[0] for name in modules | names} <= sys.stdlib_module_names
    done = subprocess.run([sys.executable, str(path)], capture_output=True, text=True, check=True, timeout=60)
    for part in (
        "31 combinations; with 3 seeds each: 93 trainings",
        "Killed. The ledger holds 40 trainings.",
        "Started again: 53 trainings were missing. A third time: 0.",
        "death: death + sepsis",
    ):
        assert part in done.stdout


def test_the_tim_scores_of_the_tiny_search_are_the_products() -> None:
    tiny = SimpleNamespace(**runpy.run_path(str(EXAMPLES / "tiny_search.py")))
    ledger: dict[tuple[tuple[str, ...], int], dict[str, float]] = {}
    subsets = [members for members in tiny.subsets_of(tiny.TASKS) if members]
    tiny.run(tiny.units(subsets), ledger)
    membership = np.array([[task in members for task in tiny.TASKS] for members in subsets])
    scores = np.full(membership.shape, np.nan)
    for row, members in enumerate(subsets):
        for column, task in enumerate(tiny.TASKS):
            if task in members:
                scores[row, column] = tiny.score(ledger, task, members)
    result = tim.estimate(membership, scores, "exact")
    for i, source in enumerate(tiny.TASKS):
        for j, other in enumerate(tiny.TASKS):
            if i != j:
                assert tiny.tim(ledger, source, other) == pytest.approx(result.estimate[i, j], abs=1e-12)


def test_the_notebook_is_kept_without_outputs() -> None:
    notebook = nbformat.read(EXAMPLES / "query.ipynb", as_version=4)
    nbformat.validate(notebook)
    assert all(not cell.outputs and cell.execution_count is None for cell in notebook.cells if cell.cell_type == "code")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_quick_start_runs(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(EXAMPLES.parent)}
    command = [sys.executable, str(EXAMPLES / "quick_start.py")]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=800)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Search quick-start: restricted TIM (|T| <= 2) of 4 tasks, 20 of 20 units trained" in done.stdout
    assert "absent_modalities" in done.stdout
    assert (tmp_path / "runs" / "quick-start" / "models" / "hospdead-1" / "model_card.md").exists()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_notebook_runs_from_a_tracking_uri_alone(
    published_model: deploy.Trained,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from mlflow import MlflowClient

    uri = uri_of(published_model.folder.parent.parent)
    (run,) = MlflowClient(uri).search_runs(["1"], "tags.kind = 'search'")
    tracker = Tracker(uri, "small", run.data.tags["search_id"], beside=True)
    picture = ROOT / "docs" / "images" / "heatmap.png"
    tracker.heatmap(result(), [picture], 1)
    row = {"source": "hospdead", "metric": "auroc", "chosen": "hospdead + slos_log", "single": 0.7, "multi": 0.72}
    tracker.confirmation([{**row, "difference": 0.02, "low": 0.01, "high": 0.03}], [figure(tmp_path)])
    assert tracker.missed == []
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("PYTHONPATH", str(EXAMPLES.parent))
    notebook = nbformat.read(EXAMPLES / "query.ipynb", as_version=4)
    where = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=400, kernel_name="python3", resources=where).execute()
    shown = "\n".join(
        str(output.get("data", output.get("text", ""))) for cell in notebook.cells for output in cell.get("outputs", [])
    )
    for part in ("small", "image/png", "hospdead + phenotype + slos_log", "death/1", "0.02", "absent_modalities"):
        assert part in shown
