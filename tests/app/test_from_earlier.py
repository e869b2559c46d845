"""A search folder that version 0.1.0 wrote: it opens, its numbers are what 0.1.0 made of it, it is resumed.

tests/data/from-0.1.0 holds the folder of an exact search of three tasks of SUPPORT2 in two blocks, of whose ledger two
parts were taken out, and what 0.1.0 told of it (`expected.json`; `finished` is of the folder with all its parts).
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose

from tests.support import ROOT
from tim_search import config
from tim_search.app import search_folder
from tim_search.executors.serial import SerialExecutor
from tim_search.ledger import Ledger
from tim_search.loop import run as search
from tim_search.report import page
from tim_search.results.opened import SearchResults, open_search
from tim_search.tim import TimResult

DATA = ROOT / "tests" / "data" / "from-0.1.0"
EXPECTED = json.loads((DATA / "expected.json").read_text(encoding="utf-8"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(DATA / "search", tmp_path / "search"))


def numbers(table: list[list[float | None]]) -> Any:
    return np.array(table, float)


def check_tim(result: TimResult, expected: dict[str, Any], **tolerance: float) -> None:
    assert (result.method, result.label) == (expected["method"], expected["label"])
    for name in ("estimate", "se", "low", "high", "p_value"):
        assert_allclose(getattr(result, name), numbers(expected[name]), **tolerance, err_msg=name)


def test_it_opens_and_tells_how_far_it_is(folder: Path) -> None:
    status = open_search(folder).status()
    assert {name: status[name] for name in EXPECTED["status"]} == EXPECTED["status"]
    problems = [finding.problem for finding in open_search(folder).check()]
    assert problems == ["2 units that the search asks for at present are not in it (12 are)."]


def test_its_scores_are_what_they_were(folder: Path) -> None:
    results = open_search(folder)
    found, expected = results.tim(), EXPECTED["tim"]
    assert (found.method, found.label) == (expected["method"], expected["label"])
    assert_allclose(found.p_value, numbers(expected["p_value"]), rtol=1e-9, atol=1e-15)
    # Half of all subsets and more are trained: 0.1.0 shrank what is nearly enumerated.
    there = np.isfinite(found.estimate)
    assert (np.abs(found.estimate) >= np.abs(numbers(expected["estimate"])))[there].all()
    assert (np.sign(found.estimate) == np.sign(numbers(expected["estimate"])))[there].all()
    check_tim(results.tim("exact"), EXPECTED["exact"], rtol=1e-12)
    plain, shares = "Fewer subsets", "Where the error comes from"
    assert [note for note in found.notes if note.startswith(plain)] == [
        note for note in expected["notes"] if note.startswith(plain)
    ]
    assert [note.startswith(shares) for note in found.notes] == [note.startswith(shares) for note in expected["notes"]]


def test_its_report_is_written(folder: Path) -> None:
    assert "kept" in page.write(open_search(folder)).read_text(encoding="utf-8")


def resumed(folder: Path) -> tuple[SearchResults, int]:
    """(the search after what it lacked was trained in this process, how many units were trained)."""
    found = config.resolve(config.load(folder / "search.yaml"), folder)
    search_folder.prepare(found)
    executor = SerialExecutor(*config.training(found), found.tasks)
    before = len(Ledger(found.ledger).done(found.context.key))
    search.run(found.plan, Ledger(found.ledger), found.context, found.tasks, found.blocks, executor, 16)
    executor.close()
    return open_search(folder), len(Ledger(found.ledger).done(found.context.key)) - before


def test_it_is_resumed(folder: Path) -> None:
    results, trained = resumed(folder)
    assert trained == 2
    assert results.status()["finished"]
    result = results.tim()
    # Another machine's arithmetic may differ in the last digits of each step of the two trainings.
    check_tim(result, EXPECTED["finished"], rtol=0.02, atol=2e-3)
