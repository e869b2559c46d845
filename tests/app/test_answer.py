"""What a search says of its tasks in MLflow."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.references import search_with_references
from tim_search.app import answer
from tim_search.results.verdicts import verdicts


def test_a_search_that_has_learnt(tmp_path: Path) -> None:
    results = search_with_references(tmp_path, 0.7)
    words = answer.description(results)
    assert all(f"- {verdict.sentence}" in words for verdict in verdicts(results).values())
    assert "not learnt" not in words
    rows, scores = answer.values(results)
    assert (rows[0]["source"], rows[0]["train"]) == ("a", "a + b")
    assert scores["alone.a"] == pytest.approx(0.7, abs=0.01)
    assert scores["best.a"] == pytest.approx(0.75, abs=0.01)
    assert scores["gain.a"] == pytest.approx(scores["best.a"] - scores["alone.a"], abs=1e-9)
    assert scores["reference.linear.a"] == pytest.approx(0.7, abs=0.01)
    assert scores["reference.none.a"] == pytest.approx(0.5, abs=0.01)
    assert {"alone.c", "best.c"} < scores.keys()
    if verdicts(results)["c"].kind == "keep alone":
        assert scores["best.c"] == scores["alone.c"]


def test_a_source_that_has_not_learnt_is_told_first(tmp_path: Path) -> None:
    results = search_with_references(tmp_path, 0.8)
    assert answer.description(results).startswith("**1 of 1 networks has not learnt** (a)")
    scores = answer.values(results)[1]
    assert scores["best.a"] == scores["alone.a"]
    assert "gain.a" not in scores
