"""The examples run as they stand."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import nbclient
import nbformat
import pytest

from tests.support import ROOT
from tests.support.mlflow_stores import figure, result, uri_of
from tim_search.app import deploy
from tim_search.tracking.tracker import Tracker

EXAMPLES = ROOT / "examples"


def test_the_quick_start_is_short() -> None:
    assert len((EXAMPLES / "quick_start.py").read_text().splitlines()) < 40


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
    assert "hospdead: " in done.stdout
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
