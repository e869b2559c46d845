"""The paired difference of two subsets: its interval, from blocks and from patients."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tim_search.ledger.table import ScoreTable
from tim_search.plans.differences import difference
from tim_search.plans.greedy import Greedy


def table_of(blocks: list[tuple[int, int]], scores: np.ndarray, replicates: np.ndarray | None = None) -> ScoreTable:
    """Two subsets, a+b and a; `scores` (2, n) and `replicates` (2, n, R) of task a."""
    membership = np.array([[True, True], [True, False]])
    laid = np.full((2, len(blocks), 2), np.nan)
    laid[..., 0] = scores
    drawn = None
    if replicates is not None:
        drawn = np.full((2, len(blocks), 2, replicates.shape[-1]), np.nan, np.float32)
        drawn[:, :, 0] = replicates
    return ScoreTable(("a", "b"), tuple(blocks), membership, laid, np.ones((2, len(blocks)), bool), drawn)


def test_interval_from_blocks_is_the_paired_t_interval() -> None:
    from scipy import stats

    scores = np.array([[0.71, 0.73, 0.72, 0.76], [0.70, 0.70, 0.71, 0.72]])
    found = difference(table_of([(0, 0), (1, 1), (2, 2), (3, 3)], scores), ("a", "b"), ("a",), "a")
    oracle = stats.ttest_rel(scores[0], scores[1]).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((oracle.low, oracle.high), rel=1e-12)
    assert found.spread == "blocks"
    wider = difference(table_of([(0, 0), (1, 1), (2, 2), (3, 3)], scores), ("a", "b"), ("a",), "a", 0.99)
    assert wider.low < found.low


def test_interval_of_one_block_is_the_patients_alone() -> None:
    from scipy import stats

    draws = np.random.default_rng(0).normal(0.7, 0.01, (2, 1, 40)).astype(np.float32)
    found = difference(table_of([(0, 0)], np.array([[0.72], [0.70]]), draws), ("a", "b"), ("a",), "a")
    spread = (draws[0, 0].astype(float) - draws[1, 0]).std(ddof=1)
    assert found.value == pytest.approx(0.02)
    assert found.high - found.value == pytest.approx(stats.t.ppf(0.975, 39) * spread, rel=1e-5)
    assert found.spread == "patients"


def test_no_interval_without_replication() -> None:
    table = table_of([(0, 0)], np.array([[0.72], [0.70]]))
    found = difference(table, ("a", "b"), ("a",), "a")
    assert found.value == pytest.approx(0.02)
    assert math.isnan(found.low)
    assert found.spread == "nothing"
    (expansion,) = Greedy(("a",), ("a", "b")).result(table)
    assert expansion.best == ("a",)
    assert "no interval" in expansion.reason
    (paper,) = Greedy(("a",), ("a", "b"), rule="paper").result(table)
    assert (paper.best, paper.holds) == (("a", "b"), False)


def test_two_blocks_that_agree_by_luck_do_not_hide_the_patients() -> None:
    """Two folds with nearly the same gain: the interval is no narrower than the patients alone make it."""
    dice = np.random.default_rng(5)
    scores = np.array([[0.8041, 0.80411], [0.8, 0.8]])
    replicates = scores[:, :, None] + 0.01 * dice.normal(size=(2, 2, 50))
    found = difference(table_of([(0, 0), (1, 1)], scores, replicates), ("a", "b"), ("a",), "a")
    patients_alone = 2 * 0.01 * np.sqrt(2) / np.sqrt(2)  # two standard errors of the mean of two folds' differences
    assert found.high - found.value > 0.8 * patients_alone
    assert found.low < 0 < found.value


def test_replicates_that_are_not_numbers_are_left_out() -> None:
    """A clustering has scores without replicates: its interval comes from the blocks."""
    draws = np.full((2, 2, 30), np.nan, np.float32)
    found = difference(table_of([(0, 0), (1, 1)], np.array([[0.4, 0.5], [0.3, 0.5]]), draws), ("a", "b"), ("a",), "a")
    assert found.spread == "blocks"
    assert math.isfinite(found.low)


@pytest.mark.parametrize("folds", [[0, 1, 2, 3, 4], [0, 0, 0, 0, 0], [0, 0, 1, 1], [0]], ids=str)
@pytest.mark.parametrize(("seed_sd", "patient_sd"), [(1.0, 0.3), (0.3, 1.0)])
def test_intervals_cover(folds: list[int], seed_sd: float, patient_sd: float) -> None:
    """Seeds differ in every block, patients in every fold: the interval covers zero 95 times in 100 or more."""
    if len(folds) == 1:
        seed_sd = 0.0  # one block cannot show what seeds do, and the docstring says so
    rng = np.random.default_rng(len(folds) + folds[-1])
    n, covered, half, times = len(folds), 0, 0.0, 800
    blocks = [(index, fold) for index, fold in enumerate(folds)]
    zeros = np.zeros((n, 40))
    for _ in range(times):
        luck = rng.normal(0, patient_sd, (max(folds) + 1, 41))[folds]
        seeds = rng.normal(0, seed_sd, n)
        table = table_of(blocks, np.stack([luck[:, 0] + seeds, zeros[:, 0]]), np.stack([luck[:, 1:], zeros]))
        found = difference(table, ("a", "b"), ("a",), "a")
        covered += found.low <= 0 <= found.high
        half += (found.high - found.low) / 2 / times
    assert covered / times > 0.93
    # Not by being needlessly wide: the half-width stays near that of a known standard error.
    shared = patient_sd**2 * sum(folds.count(fold) ** 2 for fold in set(folds)) / n**2
    assert half < 1.7 * 1.96 * math.sqrt(seed_sd**2 / n + shared)
