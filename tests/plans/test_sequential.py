"""The stopping rule: rounds of one design, checks that read their own round alone, and a reason."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.support.synthetic_games import quadratic, saturating, searched
from tim_search import designs
from tim_search.ledger.table import ScoreTable, empty
from tim_search.plans.sequential import Rule, Sequential, check, expected_overlap
from tim_search.plans.static import StaticPlan
from tim_search.tim import scores as tim
from tim_search.types import BadInput, Unit

M = 6
NAMES = tuple(f"task{index:02d}" for index in range(M))
LAX, STRICT = Rule(top_k=2, overlap=0.5, false_sign=0.5), Rule(top_k=2, overlap=1.0, false_sign=1e-6)


def plan(rule: Rule, limit: int = 60, m: int = M, control: str | None = None) -> Sequential:
    names = tuple(f"task{index:02d}" for index in range(m))
    return Sequential(StaticPlan(tuple(designs.subsets(designs.hybrid(m, limit, 0), names)), True, True), rule, control)


@pytest.fixture(scope="module")
def full() -> ScoreTable:
    """What all subsets of the plan would score, sliced over five blocks."""
    return searched(quadratic(M, 0), designs.hybrid(M, 60, 0), np.random.default_rng(0), sliced=True)


def driven(search: Sequential, full: ScoreTable, most: int = 10**6) -> tuple[ScoreTable, list[int]]:
    """The table when the plan has nothing more to ask, or after `most` units; units trained after every round."""
    known: list[Unit] = []
    rounds = []
    table = full.of(known)
    while (wanted := search.ask(table)) and len(known) < most:
        assert not set(wanted) & set(known)
        known += wanted[: most - len(known)]
        rounds.append(len(known))
        table = full.of(known)
    return table, rounds


def test_rounds_grow_until_the_limit(full: ScoreTable) -> None:
    search = plan(STRICT)
    assert search.sizes == [24, 36, 54, 60]
    assert plan(STRICT, limit=10).sizes == [10]
    table, rounds = driven(search, full)
    assert rounds == [24, 36, 54, 60]
    assert [one.subsets for one in search.checks(table)] == rounds
    said = search.stopping(table)
    assert said["stopped"]
    assert said["reason"].startswith("stopped at the limit of 60 subsets, the rule did not hold")


def test_it_stops_when_the_rule_held_twice(full: ScoreTable) -> None:
    search = plan(LAX)
    table, rounds = driven(search, full)
    assert rounds == [24, 36]
    assert [one.holds for one in search.checks(table)] == [True, True]
    assert "stopped after 36 subsets, the rule held at two checks running" in search.stopping(table)["reason"]
    assert search.ask(full) == [], "what else the ledger holds changes nothing"
    assert search.checks(full) == search.checks(table)


def test_a_search_taken_up_again_goes_the_same_way(full: ScoreTable) -> None:
    search = plan(STRICT)
    half, _ = driven(search, full, most=30)
    assert len(search.ask(half)) == 6
    said = search.stopping(half)
    assert (said["stopped"], len(said["checks"])) == (False, 1)
    assert said["reason"].startswith("goes on, after 24 subsets: expected overlap of the best 2 helpers")
    nothing = search.stopping(empty(NAMES, full.blocks))
    assert nothing["reason"] == "goes on, before its first check"
    assert len(search.ask(empty(NAMES, full.blocks))) == 24


@pytest.mark.parametrize("numbers", [(0, 0.9, 0.05), (10**30, 0.9, 0.05), (3, 1.5, 0.05), (3, 0.9, float("nan"))])
def test_numbers_that_make_no_rule(numbers: tuple[int, float, float]) -> None:
    with pytest.raises(BadInput, match="stopping rule: expected"):
        Rule(*numbers)


def test_the_control_takes_no_part(full: ScoreTable) -> None:
    result = tim.from_table(full)
    noisy = replace(result, false_sign_rate=result.false_sign_rate.copy(), se=result.se.copy())
    noisy.false_sign_rate[3], noisy.false_sign_rate[:, 3] = 0.5, 0.5
    noisy.se[3], noisy.se[:, 3] = 100.0, 100.0
    with_it, without = check(noisy, 60, LAX), check(noisy, 60, LAX, control=NAMES[3])
    assert without.false_sign < with_it.false_sign - 0.1
    assert without.overlap > with_it.overlap


def test_expected_overlap() -> None:
    estimate = np.array([[np.nan, 3.0, 2.0, 1.0], [3.0, np.nan, 2.0, 1.0], [1, 2, np.nan, 3], [1, 2, 3, np.nan]])
    tiny, huge = np.full((4, 4), 1e-9), np.full((4, 4), 1e9)
    assert expected_overlap(estimate, tiny, 2) == 1.0
    assert expected_overlap(estimate, huge, 2) == pytest.approx(2 / 3, abs=0.03), "by chance"
    assert expected_overlap(estimate, huge, 3) == 1.0, "all others"
    unknown = estimate.copy()
    unknown[0] = np.nan
    assert expected_overlap(unknown, tiny, 2) == 0.75
    assert np.isnan(expected_overlap(np.full((1, 1), np.nan), np.full((1, 1), np.nan), 2))
    failed = check(tim.estimate(np.eye(3, dtype=bool), np.diag([1.0, 2, 3]) + np.where(np.eye(3), 0, np.nan)), 3, LAX)
    assert (failed.overlap, failed.false_sign, failed.holds) == (0.0, 0.5, False)


@pytest.mark.slow
def test_what_it_promises_when_it_stops() -> None:
    """Where the rule stops a search, the best three helpers are the right ones about as often as it said."""
    promised, found, signs, wrong, stopped = [], [], [], [], 0
    off = ~np.eye(12, dtype=bool)
    for seed in range(10):
        game = saturating(12, seed % 4)
        search = plan(Rule(3, 0.9, 0.05), limit=600, m=12)
        membership = designs.hybrid(12, 600, 0)
        full = searched(game, membership, np.random.default_rng(seed), seed_effect=0.1, sliced=True)
        table, rounds = driven(search, full)
        last = search.checks(table)[-1]
        stopped += rounds[-1] < 600
        promised.append(last.overlap)
        signs.append(last.false_sign)
        result = tim.from_table(table, "blup")
        truth = np.where(off, game.delta, -np.inf)
        guess = np.where(off, result.estimate, -np.inf)
        best, named = np.argsort(-truth, axis=1)[:, :3], np.argsort(-guess, axis=1)[:, :3]
        found.append(np.mean([len(set(a) & set(b)) / 3 for a, b in zip(best, named, strict=True)]))
        wrong.append((np.sign(result.estimate) != np.sign(game.delta))[off].mean())
    assert stopped >= 8
    assert np.mean(found) >= 0.88
    assert abs(np.mean(found) - np.mean(promised)) < 0.05
    assert abs(np.mean(wrong) - np.mean(signs)) < 0.03
