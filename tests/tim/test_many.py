"""Least squares for all sources at once, against the estimator of one source after the other."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose

from tim_search.ledger.table import ScoreTable
from tim_search.tim import estimators, many, many_rows
from tim_search.tim import scores as tim
from tim_search.tim.coded import coded_scores
from tim_search.tim.many_rows import apart_of
from tim_search.tim.model_free import least_squares
from tim_search.tim.row import source_of


def table(n: int, m: int, k: int, draws: int = 0, *, chance: float = 0.5, failures: float = 0.0) -> ScoreTable:
    """An additive game with noise, each subset trained in one of k blocks."""
    rng = np.random.default_rng(n + m)
    membership = np.unique(rng.random((n, m)) < chance, axis=0)
    membership = rng.permutation(membership[membership.any(axis=1)])
    at = np.arange(len(membership))
    values = 0.7 + membership @ rng.normal(0, 0.01, (m, m)) + rng.normal(0, 0.01, membership.shape) + at[:, None] % k
    scores = np.full((len(at), k, m), np.nan)
    scores[at, at % k] = np.where(membership & (rng.random(membership.shape) >= failures), values, np.nan)
    trained = np.zeros(scores.shape[:2], bool)
    trained[at, at % k] = True
    noise = rng.normal(0, 0.01, (*scores.shape, draws))
    replicates = (scores[..., None] + noise).astype(np.float32) if draws else None
    names = tuple(f"task{index:02d}" for index in range(m))
    return ScoreTable(names, tuple((b, b) for b in range(k)), membership, scores, trained, replicates)


def without(given: ScoreTable, block: int, source: int) -> ScoreTable:
    """A source has no score in a block."""
    given.scores[:, block, source] = np.nan
    return given


def never(given: ScoreTable, task: int) -> ScoreTable:
    """A task is in no subset."""
    given.membership[:, task] = False
    given.scores[:, :, task] = np.nan
    return given


def constant(given: ScoreTable, source: int) -> ScoreTable:
    """A source scores the same in all subsets of a block."""
    level = np.arange(len(given.blocks))[None, :]
    given.scores[:, :, source] = np.where(np.isfinite(given.scores[:, :, source]), level, np.nan)
    return given


def twins(given: ScoreTable) -> ScoreTable:
    """The last two tasks are always together."""
    given.membership[:, -1] = given.membership[:, -2]
    given.scores[:, :, -1] = given.scores[:, :, -2]
    return given


CASES: dict[str, Any] = {
    "sliced": lambda: table(400, 8, 3),
    "one block": lambda: table(300, 7, 1),
    "one task of two": lambda: table(30, 2, 1),
    "hundreds of rows in parts": lambda: table(3000, 12, 5, failures=0.2),
    "replicates": lambda: table(200, 6, 2, draws=5),
    "small subsets": lambda: table(900, 10, 2, chance=0.15),
    "a source without a block": lambda: without(table(400, 8, 3), 1, 2),
    "a task in no subset": lambda: never(table(400, 8, 3), 4),
    "constant within blocks": lambda: constant(table(400, 8, 3), 1),
    "tasks always together": lambda: twins(table(400, 8, 3)),
    "nearly all failed": lambda: table(200, 9, 2, failures=0.9),
}


@pytest.mark.parametrize("state", [2**23, 100], ids=["all sources together", "few sources at a time"])
@pytest.mark.parametrize("case", CASES)
def test_it_is_least_squares_of_each_source(monkeypatch: pytest.MonkeyPatch, case: str, state: int) -> None:
    monkeypatch.setattr(many_rows, "MANY_ROWS", 1)
    monkeypatch.setattr(many, "PART", 100)
    monkeypatch.setattr(many, "STATE", state)
    given = CASES[case]()
    apart = apart_of(given)
    assert apart is not None
    found = many.least_squares(apart)
    assert len(found) == len(given.tasks)
    for i, summary in enumerate(found):
        source = source_of(given, i)
        assert summary.n == len(source.members)
        assert summary.n_with.tolist() == source.members.sum(axis=0).tolist()
        game = coded_scores(source, sliced=True)
        fit = least_squares(game) if game else None
        if fit is None:
            assert np.isnan(summary.estimate).all()
            assert np.isnan(summary.se).all()
            continue
        assert game is not None
        estimate = fit.weights @ game.scores
        assert_allclose(summary.estimate, estimate, rtol=1e-9, atol=1e-12)
        assert_allclose(summary.df, fit.df)
        told = np.isfinite(estimate)
        assert_allclose(summary.se[told], fit.se[told], rtol=1e-8, atol=1e-12)
        spread = estimators.shared_by_blocks(game, fit.weights[told], 1.0)
        assert_allclose(summary.spread[told], spread, rtol=1e-8)
        if source.replicates is not None:
            known = np.isfinite(source.scores)
            draws = np.where(known[:, :, None], source.replicates, 0.0).sum(axis=1)
            assert_allclose(summary.draws, fit.weights @ draws, rtol=1e-7, atol=1e-9)


def test_single_precision_of_leverages_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    given = table(6000, 13, 2)
    monkeypatch.setattr(many_rows, "MANY_ROWS", 1)
    apart = apart_of(given)
    assert apart is not None
    single = many.least_squares(apart)
    monkeypatch.setattr(many, "CLEAR", 0.0)  # every leverage counts as too high for single precision
    for one, other in zip(single, many.least_squares(apart), strict=True):
        assert_allclose(one.se, other.se, rtol=1e-9)


def test_the_result_is_that_of_the_other_way_with_a_control(monkeypatch: pytest.MonkeyPatch) -> None:
    given = table(500, 9, 3, failures=0.1)
    whole = tim.from_table(given, "ols", control="task08", overlaps=[("task00", "task01")])
    monkeypatch.setattr(many_rows, "MANY_ROWS", 10)
    at_once = tim.from_table(given, "ols", control="task08", overlaps=[("task00", "task01")])
    for name in ("estimate", "se", "low", "high", "p_value", "se_sampling", "se_seed", "false_sign_rate"):
        assert_allclose(getattr(at_once, name), getattr(whole, name), rtol=1e-6, atol=1e-12)
    for name in ("n_with", "n_without", "rejected"):
        assert (getattr(at_once, name) == getattr(whole, name)).all()
    assert at_once.notes == whole.notes
    assert at_once.n_subsets == whole.n_subsets


def test_it_runs_where_the_system_does_not_tell_which_cores_may_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(many_rows, "MANY_ROWS", 10)
    given = table(200, 5, 2)
    expected = tim.from_table(given, "ols")
    monkeypatch.delattr(many.os, "sched_getaffinity")  # macOS has none
    assert_allclose(tim.from_table(given, "ols").estimate, expected.estimate, rtol=0)


def test_subsets_of_several_blocks_are_not_taken_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    given = table(100, 6, 2)
    monkeypatch.setattr(many_rows, "MANY_ROWS", 1)
    given.trained[0] = True
    assert apart_of(given) is None
