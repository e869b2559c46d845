"""Searches of several sites as one: what may be pooled, what the means are, and what the command writes."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.support.references import CONTEXT, search_with_references
from tests.support.searches import Call
from tim_search.app.pooling import pool as pool_folders
from tim_search.loop.manifest import Manifest
from tim_search.results import opened
from tim_search.results.pool import pool_searches
from tim_search.tim.pooling import pool
from tim_search.types import BadInput, Task

BC = (Task("b", "binary"), Task("c", "binary"))


def site(folder: Path, name: str, linear: float | None = 0.7, helper: str = "b", **changes: str) -> Path:
    """The folder of one site's search of a, b, c, in which `helper` helps a; `changes` are of its context."""
    context = replace(CONTEXT, cohort=f"cohort of {name}", split=f"split of {name}", **changes)
    search_with_references(folder / name, linear, context, helper)
    return folder / name


def rewritten(folder: Path, **changes: object) -> Path:
    """The same folder with another manifest."""
    replace(Manifest.read(folder), **changes).write(folder)  # type: ignore[arg-type]
    return folder


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("sites")
    return [site(folder, name) for name in ("north", "south", "west")]


def test_cells_are_the_means_of_the_sites(three: list[Path]) -> None:
    searches = [opened.open_search(folder) for folder in three]
    pooled = pool_searches(searches)
    assert [task.name for task in pooled.tasks] == ["a", "b", "c"]
    assert pooled.names == tuple(map(str, three)), "searches of one name are told apart by their folders"
    each = [search.tim() for search in searches]
    expected = pool(np.stack([r.estimate for r in each]), np.stack([r.se for r in each]))
    np.testing.assert_array_equal(pooled.result.estimate, expected.estimate)
    assert pooled.result.label == "exact TIM, mean of 3 sites"
    assert pooled.result.rejected.tolist() == [[False, True, False], [False] * 3, [False] * 3]
    row = next(row for row in pooled.rows() if (row["source"], row["task"]) == ("a", "b"))
    assert row["sites"] == 3
    assert row["low"] < 0.05 < row["high"]
    assert [at["estimate"] for at in row["at"].values()] == [float(r.estimate[0, 1]) for r in each]
    assert any("3 sites say little" in note for note in pooled.result.notes)


def test_a_site_that_has_not_learnt_says_nothing_and_differences_are_told(tmp_path: Path, three: list[Path]) -> None:
    behind = site(tmp_path, "behind", linear=0.9, settings='{"epochs":3,"replicates":30}')
    pooled = pool_searches([opened.open_search(folder) for folder in (*three[:2], behind)])
    assert pooled.cells.sites[0, 1:].tolist() == [2, 2]
    assert pooled.cells.sites[1, 0] == 3
    notes = " ".join(pooled.result.notes)
    assert "the network has not learnt a, so that site says nothing there" in notes
    assert "behind differ in" in notes
    assert "epochs null and 3" in notes
    assert "the cohort" not in notes


def test_sites_that_differ_are_told(tmp_path: Path, three: list[Path]) -> None:
    """At one of four sites it is c that helps a."""
    other = site(tmp_path, "east", helper="c")
    pooled = pool_searches([opened.open_search(folder) for folder in (*three, other)])
    assert pooled.cells.i2[0, 1] > 0.9
    assert pooled.cells.p_equal[0, 1] < 0.001
    assert not pooled.result.rejected[0, 1]
    assert pooled.cells.new_low[0, 1] < 0 < pooled.cells.new_high[0, 1]
    (note,) = [note for note in pooled.result.notes if "differ by more than their errors" in note]
    assert "b for a" in note
    assert "c for a" in note


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"tasks": (Task("a", "binary", metric="auprc"), Task("b", "binary"), Task("c", "binary"))}, "a is binary by"),
        (
            {"tasks": (Task("x", "binary"), Task("y", "binary"), Task("c", "binary")), "sources": ("x",)},
            "at least two tasks",
        ),
        ({"context": replace(CONTEXT, cohort="cohort of north")}, "searched one cohort"),
    ],
)
def test_what_cannot_be_pooled_is_told(three: list[Path], tmp_path: Path, change: dict, words: str) -> None:
    copy = Path(shutil.copytree(three[1], tmp_path / "copy"))
    with pytest.raises(BadInput, match=words):
        pool_searches([opened.open_search(three[0]), opened.open_search(rewritten(copy, **change))])


def test_scores_of_small_subsets_are_another_quantity(three: list[Path], tmp_path: Path) -> None:
    search_with_references(tmp_path / "pairs", 0.7, replace(CONTEXT, cohort="cohort of pairs"), largest=2)
    with pytest.raises(BadInput, match=r"one quantity at every site, got exact TIM of .* and restricted TIM"):
        pool_searches([opened.open_search(folder) for folder in (three[0], tmp_path / "pairs")])


def test_one_site_is_none(three: list[Path]) -> None:
    with pytest.raises(BadInput, match="expected two searches or more, got 1"):
        pool_searches([opened.open_search(three[0])])


def test_the_command_shows_and_writes(three: list[Path], tmp_path: Path, call: Call) -> None:
    out = tmp_path / "pooled"
    code, text, _ = call("pool", *three, "--out", out)
    assert code == 0
    words = " ".join(text.split())
    assert "exact TIM, mean of 3 sites" in words
    assert "a further site" in words
    with (out / "pooled.csv").open() as handle:
        rows = list(csv.DictReader(handle))
    assert [(row["source"], row["task"]) for row in rows][:2] == [("a", "b"), ("a", "c")]
    assert rows[0]["discovery"] == "True"
    assert (out / "pooled-heatmap.png").read_bytes().startswith(b"\x89PNG")
    content = json.loads(call("pool", *three, "--json")[1])
    assert float(rows[0]["estimate"]) == content["cells"][0]["estimate"]
    assert content["files"] == {}


@pytest.mark.parametrize("place", ["a search", "a file"])
def test_the_command_writes_into_nothing_of_another_kind(
    three: list[Path], tmp_path: Path, call: Call, place: str
) -> None:
    (tmp_path / "file").write_text("mine")
    code, _, err = call("pool", *three, "--out", three[0] if place == "a search" else tmp_path / "file")
    assert code == 2
    assert ("is the folder of a search" if place == "a search" else "got the file") in " ".join(err.split())
    assert (tmp_path / "file").read_text() == "mine"
    with pytest.raises(BadInput):
        pool_folders(three, three[0])
