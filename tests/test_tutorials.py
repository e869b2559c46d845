"""The tutorials run as they stand, and the answers that the site shows are of an execution."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import Any

import nbformat
import pytest

from tests.support import ROOT

TUTORIALS = sorted((ROOT / "docs" / "tutorials").glob("*.ipynb"))


def kinds(notebook: nbformat.NotebookNode) -> list[list[str]]:
    """Of each cell of code the kinds of its answers; the lines it wrote are one."""

    def kind(output: Any) -> str:
        return output["output_type"] if "data" not in output else " ".join(sorted(output["data"]))

    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return [list(dict.fromkeys(map(kind, cell.outputs))) for cell in cells]


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_a_tutorial_is_kept_with_its_answers(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert sum(map(bool, kinds(notebook))) >= 3
    text = path.read_text(encoding="utf-8")
    # Executed where it stands in the outputs, by someone whose folders are nobody's business.
    assert not re.search(r"/(tmp|root|work|private|Users|opt|usr)/", text)
    assert '"output_type": "error"' not in text


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_a_tutorial_runs_and_answers_as_the_site_shows(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    executed = runpy.run_path(str(ROOT / "docs" / "execute.py"))["executed"]
    assert kinds(executed(path, tmp_path)) == kinds(nbformat.read(path, as_version=4))
    if path.stem == "own-table":  # the cohort it came from is kept, and each reading of test patients was written down
        assert (tmp_path / "runs" / "own-table" / "cohort" / "columns.csv").exists()
        assert (tmp_path / "runs" / "own-table" / "test-readings.jsonl").read_text().count("\n") == 2
