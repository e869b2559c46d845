"""In a real kernel: what a cell shows, and what an interruption of the kernel leaves."""

from __future__ import annotations

import inspect
from pathlib import Path

import pandas as pd
import pytest

from tests.app import test_own_data
from tests.support import ROOT
from tests.support.kernels import execute, shown
from tim_search.results import opened
from tim_search.types import BadInput

#: The messy frame of `tests.app.test_own_data`, as a user's own cell makes it.
FRAME = f"""
import numpy as np, pandas as pd, tim_search
{inspect.getsource(test_own_data.stays)}
roles = {test_own_data.ROLES!r}
settings = dict(name="mine", design="exact", blocks=3, training=dict(epochs=3, width=8, replicates=5), device="cpu",
                capacity=1, references=False, resources=dict(workers=2))
"""
SEARCH = "search = tim_search.search(stays(), **roles, **settings)\nsearch"


def trained(folder: Path) -> int:
    """Units in the ledger of a search; 0 before there is one."""
    try:
        return int(opened.open_search(folder).status()["trained"])
    except BadInput:
        return 0


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("workers", ["Ray", "serial"])
def test_an_interrupted_kernel_leaves_a_search_that_goes_on(
    tmp_path: Path, workers: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    folder = tmp_path / "runs" / "mine"
    frame = FRAME if workers == "Ray" else f'{FRAME}\nsettings["address"] = "serial"\n'
    stopped = execute(tmp_path, [frame, SEARCH], lambda: trained(folder) >= 1)
    assert stopped[0] == []
    (error,) = (output for output in stopped[1] if output.output_type == "error")
    assert error.ename == "Interrupted"
    assert len(error.traceback) == 1
    assert "Run the same command again to go on from there" in error.traceback[0]
    status = opened.open_search(folder).status()
    assert 1 <= status["trained"] < 21
    assert status["at_work"] is None

    # The same cell in a new kernel goes on, and no unit is trained a second time.
    before = opened.open_search(folder).ledger.scores()
    finished = execute(tmp_path, [frame, SEARCH, "search.verdicts", "search.heatmap()", "search.report()"])
    assert not [output for outputs in finished for output in outputs if output.output_type == "error"]
    text = shown(finished[1])
    assert f"into {folder}. Interrupt it when you like" in text
    assert "21 of 21 done in " in text
    assert "Search mine: exact TIM of 3 tasks, 21 of 21 units trained" in text
    assert "ipywidgets" not in text
    assert "icu_readmission" in shown(finished[2])
    assert any("image/png" in output.get("data", {}) for output in finished[3])
    assert "report.html" in shown(finished[4])
    results = opened.open_search(folder)
    after = results.ledger.scores()
    assert results.status()["finished"]
    key = ["subset", "seed", "fold", "task", "metric"]
    old, new = (rows.assign(subset=rows["subset"].map(tuple)).set_index(key)["created"] for rows in (before, after))
    pd.testing.assert_series_equal(new.loc[old.index].sort_index(), old.sort_index())


@pytest.mark.slow
def test_what_is_wrong_is_said_in_a_cell_without_a_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    cells = ["import tim_search", "tim_search.search('support2', desgn='pairs')", "tim_search.Search('nothing')"]
    outputs = execute(tmp_path, cells)
    for place, words in ((1, "desgn: unknown key. Did you mean design"), (2, "search.json: cannot be read")):
        (error,) = outputs[place]
        assert (error.ename, len(error.traceback)) == ("BadInput", 1)
        assert words in error.traceback[0]
