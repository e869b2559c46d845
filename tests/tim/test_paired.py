"""One interval for one quantity: the TIM score of a pair and the gain of that pair."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import stats

from tim_search.ledger.table import ScoreTable
from tim_search.plans.differences import difference, paired
from tim_search.tim import scores as tim
from tim_search.tim.paired import paired_error

PAIRS = [("a",), ("b",), ("c",), ("a", "b"), ("a", "c"), ("b", "c")]


def table(folds: list[int], replicates: bool = True, seed: int = 0) -> ScoreTable:
    """All subsets of one and two of three tasks, one of which owes much to its seeds and another to its patients."""
    dice, blocks = np.random.default_rng(seed), tuple(enumerate(folds))
    membership = np.array([[name in members for name in "abc"] for members in PAIRS])
    scores = np.full((len(PAIRS), len(folds), 3), np.nan)
    draws = np.full((*scores.shape, 40), np.nan, np.float32)
    for row, members in enumerate(PAIRS):
        for name in members:
            column = "abc".index(name)
            luck = np.random.default_rng([row, column]).normal(0, [0.02, 0.002, 0.01][column], (max(folds) + 1, 41))
            level = 0.7 + luck[folds] + dice.normal(0, [0.002, 0.02, 0.01][column], (len(folds), 1))
            scores[row, :, column], draws[row, :, column] = level[:, 0], level[:, 1:]
    trained = np.ones(scores.shape[:2], bool)
    return ScoreTable(tuple("abc"), blocks, membership, scores, trained, draws if replicates else None)


@pytest.mark.parametrize("replicates", [True, False])
@pytest.mark.parametrize("folds", [[0, 1, 2], [0, 0, 0], [0, 0, 1, 1]], ids=str)
def test_a_pairs_score_and_its_gain_have_one_interval(folds: list[int], replicates: bool) -> None:
    scores = table(folds, replicates)
    result = tim.from_table(scores, "restricted", size=2)
    for i, source in enumerate("abc"):
        for j, other in enumerate("abc"):
            if i != j:
                gain = difference(scores, tuple(sorted((source, other))), (source,), source)
                cell = result.estimate[i, j], result.low[i, j], result.high[i, j]
                assert cell == pytest.approx((gain.value, gain.low, gain.high), rel=1e-9, abs=1e-12)


def test_the_interval_with_numbers() -> None:
    """Three blocks: two degrees of freedom, so the quantile is 4.30 and not that of the whole matrix."""
    found = paired(np.array([0.08, 0.10, 0.12]))
    assert found.high - found.value == pytest.approx(4.302653 * 0.02 / np.sqrt(3), rel=1e-6)
    assert paired_error(np.array([[0.08], [0.10], [0.12]])).p_value(np.array([0.10]))[0] == pytest.approx(
        stats.ttest_1samp([0.08, 0.10, 0.12], 0).pvalue
    )


@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
@pytest.mark.parametrize("folds", [[0, 1, 2, 3], [0, 0, 0], [0, 0, 1, 1]], ids=str)
def test_the_test_and_the_interval_agree(folds: list[int], confidence: float) -> None:
    """Where the interval of coverage 1 - p ends, the p-value is p."""
    dice = np.random.default_rng(1)
    blocks, draws = dice.normal(0, [0.3, 1, 3], (len(folds), 3)), dice.normal(0, 1, (max(folds) + 1, 3, 30))[folds]
    error = paired_error(blocks, draws + blocks[:, :, None])
    assert_allclose(error.p_value(error.half_width(confidence)), 1 - confidence, rtol=1e-6)


def test_what_is_missing_stays_unknown() -> None:
    error = paired_error(np.array([[0.1, np.nan, 0.3], [0.2, np.nan, np.nan]]))
    assert np.isfinite(error.variance).tolist() == [True, False, False]
    assert np.isnan(error.p_value(np.array([0.15, np.nan, 0.3]))[1:]).all()
    assert paired_error(np.zeros((3, 1))).p_value(np.zeros(1))[0] == 1.0


def test_rows_that_differ_in_their_luck_are_covered_alike() -> None:
    """One degrees of freedom for a whole matrix would leave out the truth too often where seeds decide."""
    dice, inside = np.random.default_rng(2), np.zeros(2)
    times = 3000
    blocks = dice.normal(0, 1, (3, times)) * 3
    draws = dice.normal(0, 1, (3, times, 30))
    for place, luck in enumerate((1.0, 0.1)):
        differences = dice.normal(0, 1, (3, times)) + luck * blocks
        error = paired_error(differences, differences[:, :, None] + draws)
        inside[place] = (np.abs(differences.mean(axis=0)) <= error.half_width(0.95)).mean()
    assert (inside > 0.94).all()
