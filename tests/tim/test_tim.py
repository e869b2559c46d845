"""TIM scores: against the definition, shapiq and literal formulas, and the properties any score must have."""

from __future__ import annotations

import importlib.util
import re
import sys
from dataclasses import replace
from itertools import combinations
from math import comb
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from tests.support import ROOT
from tests.support.synthetic_games import Game, literal, lose_large, quadratic, random_table, rmse, saturating, searched
from tim_search import designs
from tim_search.ledger.table import ScoreTable, empty
from tim_search.tim import estimators, sampled
from tim_search.tim import scores as tim
from tim_search.tim.choice import METHODS
from tim_search.tim.result import discoveries, rank_heatmap
from tim_search.tim.row import Method, counted_twice
from tim_search.tim.size_profile import size_profile
from tim_search.types import BadInput, Context, Pack, PackResult, Score, Unit

SAMPLED: tuple[Method, ...] = ("blup", "gls", "ols", "msr")
few = settings(max_examples=15, deadline=None)


def off(m: int) -> np.ndarray:
    return ~np.eye(m, dtype=bool)


def drawn(m: int, budget: int, seed: int, noise: float = 0.3) -> tuple[Game, np.ndarray, np.ndarray]:
    game = quadratic(m, seed)
    membership = designs.hybrid(m, budget, seed)
    return game, membership, game.run(membership, noise, np.random.default_rng(seed))


def one_block(membership: np.ndarray, scores: np.ndarray) -> ScoreTable:
    names = tuple(f"t{index}" for index in range(membership.shape[1]))
    return ScoreTable(names, ((0, 0),), membership, scores[:, None, :], np.ones((len(membership), 1), bool))


# -------------------------------------------------------------------- exact


@pytest.mark.parametrize("m", [2, 3, 5, 8])
def test_exact_is_the_definition(m: int) -> None:
    membership, scores = random_table(m, seed=m)
    result = tim.estimate(membership, scores, "exact")
    np.testing.assert_allclose(result.estimate, literal(membership, scores), rtol=0, atol=1e-12)
    assert result.label == "exact TIM"
    assert np.isnan(np.diag(result.estimate)).all()
    assert np.isnan(result.se).all(), "one run a subset tells nothing about the error"
    assert np.isnan(result.low).all()
    assert not result.rejected.any()
    assert "no standard error" in " ".join(result.notes)


@pytest.mark.parametrize("m", [2, 4, 6, 8])
def test_exact_equals_shapiq(m: int) -> None:
    shapiq = pytest.importorskip("shapiq")
    membership, scores = random_table(m, seed=10 + m)
    result = tim.estimate(membership, scores, "exact", interactions=True)
    assert result.interactions is not None
    lookup = {(row.tobytes(), i): scores[b, i] for b, row in enumerate(membership) for i in range(m)}
    for i in range(m):

        def play(others: np.ndarray, i: int = i) -> np.ndarray:
            rows = np.insert(np.asarray(others, bool), i, True, axis=1)
            return np.array([lookup[row.tobytes(), i] for row in rows])

        computer = shapiq.ExactComputer(play, n_players=m - 1)
        others = [j for j in range(m) if j != i]
        banzhaf = computer("BV", 1)
        for a, j in enumerate(others):
            assert abs(result.estimate[i, j] - banzhaf[(a,)]) < 1e-12
        if m > 2:
            pairs = computer("BII", 2)
            for (a, j), (b, k) in combinations(enumerate(others), 2):
                assert abs(result.interactions[i, j, k] - pairs[(a, b)]) < 1e-12
                assert result.interactions[i, j, k] == pytest.approx(result.interactions[i, k, j], abs=1e-14)


def test_least_squares_over_all_subsets_is_exact() -> None:
    # Hammer & Holzman: the best linear fit over the whole cube has the Banzhaf values as its slopes.
    membership, scores = random_table(7, seed=1)
    exact = tim.estimate(membership, scores, "exact").estimate
    for method in ("ols", "msr"):
        np.testing.assert_allclose(tim.estimate(membership, scores, method).estimate, exact, atol=1e-12)


def test_a_missing_score_leaves_its_source_without_an_exact_row() -> None:
    membership, scores = random_table(5, seed=2)
    row = int(np.flatnonzero(membership[:, 3])[4])
    scores[row, 3] = np.nan
    result = tim.estimate(membership, scores, "exact")
    assert np.isnan(result.estimate[3]).all()
    assert np.isfinite(result.estimate[off(5)]).sum() == 16
    assert result.label == "exact TIM, incomplete"
    fewer = np.delete(np.arange(31), row)
    gone = tim.estimate(membership[fewer], scores[fewer], "exact")
    lost = set(np.flatnonzero(membership[row]).tolist())
    assert {i for i in range(5) if np.isnan(gone.estimate[i]).all()} == lost


def test_one_task_and_no_subset_at_all() -> None:
    for method in METHODS:
        if method != "restricted":
            assert np.isnan(tim.estimate([[True]], [[0.5]], method).estimate).all()
        for result in (
            tim.estimate(np.zeros((0, 3), bool), np.zeros((0, 3)), method),
            tim.from_table(empty("abc", [])),
        ):
            assert result.estimate.shape == (3, 3)
            assert np.isnan(result.estimate).all()


# --------------------------------------------------------------- restricted


def literal_restricted(membership: np.ndarray, scores: np.ndarray, size: int) -> np.ndarray:
    m = membership.shape[1]
    value = {frozenset(np.flatnonzero(t).tolist()): s for t, s in zip(membership, scores, strict=True)}
    out = np.full((m, m), np.nan)
    for i in range(m):
        for j in range(m):
            rest = [k for k in range(m) if k not in (i, j)]
            if i != j:
                chosen = [set(s) for k in range(size - 1) for s in combinations(rest, k)]
                out[i, j] = np.mean([value[frozenset(s | {i, j})][i] - value[frozenset(s | {i})][i] for s in chosen])
    return out


@pytest.mark.parametrize(("m", "size"), [(5, 2), (5, 3), (6, 4), (4, 4), (2, 2)])
def test_restricted_is_the_mean_of_differences_over_small_subsets(m: int, size: int) -> None:
    membership, scores = random_table(m, seed=3)
    expected = literal_restricted(membership, scores, size)
    for given_rows in (membership, membership[membership.sum(axis=1) <= size]):
        rows = np.isin(np.arange(len(membership)), np.flatnonzero(np.isfinite(scores).any(axis=1)))
        values = (
            scores[rows][: len(given_rows)] if len(given_rows) == len(membership) else scores[membership.sum(1) <= size]
        )
        result = tim.estimate(given_rows, values, "restricted", size=size)
        np.testing.assert_allclose(result.estimate, expected, atol=1e-12)
        assert result.label == f"restricted TIM (|T| <= {size})"
        assert "not the full TIM score" in " ".join(result.notes)


def test_restricted_equals_the_full_score_only_without_interactions() -> None:
    for second_order, same in ((0.0, True), (0.5, False)):
        game = quadratic(6, seed=0, second_order=second_order)
        membership = designs.sized(6, 2)
        pairs = tim.estimate(membership, game.scores(membership), "restricted").estimate
        assert np.allclose(pairs[off(6)], game.delta[off(6)]) == same


def test_restricted_cells_without_their_pair_are_missing() -> None:
    membership = designs.sized(4, 2)
    game = quadratic(4, seed=1)
    scores = game.scores(membership)
    lost = int(np.flatnonzero(membership[:, 1] & membership[:, 2])[0])
    scores[lost, 1] = np.nan
    result = tim.estimate(membership, scores, "restricted")
    assert np.isnan(result.estimate[1, 2])
    assert np.isfinite(result.estimate[off(4)]).sum() == 11
    assert result.label == "restricted TIM (|T| <= 2), incomplete"


# --------------------------------------------------- sampled: literal formulas


def source_rows(membership: np.ndarray, scores: np.ndarray, i: int) -> tuple[np.ndarray, np.ndarray]:
    rows = membership[:, i] & np.isfinite(scores[:, i])
    return np.where(np.delete(membership[rows], i, axis=1), 1.0, -1.0), scores[rows, i]


def test_difference_of_means_is_welch() -> None:
    _, membership, scores = drawn(6, 50, 0)
    result = tim.estimate(membership, scores, "msr")
    for i, j in ((0, 1), (4, 2)):
        z, y = source_rows(membership, scores, i)
        column = z[:, j - (j > i)]
        test = stats.ttest_ind(y[column > 0], y[column < 0], equal_var=False)
        interval = test.confidence_interval(0.95)
        assert result.estimate[i, j] == pytest.approx(y[column > 0].mean() - y[column < 0].mean())
        assert result.p_value[i, j] == pytest.approx(test.pvalue)
        assert (result.low[i, j], result.high[i, j]) == pytest.approx((interval.low, interval.high))
        assert (result.n_with[i, j], result.n_without[i, j]) == ((column > 0).sum(), (column < 0).sum())
        assert result.false_sign_rate[i, j] == pytest.approx(test.pvalue / 2)


def test_least_squares_has_hc3_errors() -> None:
    _, membership, scores = drawn(6, 55, 1)
    result = tim.estimate(membership, scores, "ols")
    z, y = source_rows(membership, scores, 2)
    x = np.column_stack([np.ones(len(y)), z])
    bread = np.linalg.inv(x.T @ x)
    beta = bread @ x.T @ y
    hat = np.diag(x @ bread @ x.T)
    meat = x.T @ np.diag(((y - x @ beta) / (1 - hat)) ** 2) @ x
    se = 2 * np.sqrt(np.diag(bread @ meat @ bread))[1:]
    others = [0, 1, 3, 4, 5]
    np.testing.assert_allclose(result.estimate[2, others], 2 * beta[1:], rtol=1e-10)
    np.testing.assert_allclose(result.se[2, others], se, rtol=1e-8)
    p = 2 * stats.t.sf(abs(2 * beta[1:]) / se, len(y) - 6)
    np.testing.assert_allclose(result.p_value[2, others], p, rtol=1e-6)


def shares_of(n: int, blocks: int) -> np.ndarray:
    """Rows dealt out to the blocks in turn; no columns for 0 blocks."""
    return np.eye(max(blocks, 1))[np.arange(n) % max(blocks, 1)][:, :blocks]


def literal_covariance(z: np.ndarray, v: estimators.Variances, blocks: int = 0) -> np.ndarray:
    n, q = z.shape
    h = np.array([sum(t[j] * t[k] for j, k in combinations(range(q), 2)) for t in z]) / np.sqrt(q * (q - 1) / 2)
    pairs = sum(np.outer(z[:, j] * z[:, k], z[:, j] * z[:, k]) for j, k in combinations(range(q), 2))
    total = np.eye(n) + v.main * z @ z.T / q + v.pair * pairs / (q * (q - 1) / 2) + v.size * np.outer(h, h)
    if blocks:
        same = np.arange(n)[:, None] % blocks == np.arange(n) % blocks
        total += v.block * np.where(same, z @ z.T, 0.0) / q
    return total + v.mean * np.outer(z.sum(axis=1), z.sum(axis=1)) / q


@pytest.mark.parametrize("blocks", [0, 3], ids=["crossed", "sliced"])
@pytest.mark.parametrize("n", [18, 60], ids=["fewer rows than features", "more rows than features"])
def test_mixed_model_is_its_formula(n: int, blocks: int) -> None:
    rng = np.random.default_rng(n)
    z, y = rng.choice((-1.0, 1.0), (n, 6)), rng.normal(size=n)
    v = estimators.Variances(3.0, 0.8, 0.4, 0.7 if blocks else 0.0, 0.6)
    covariance = literal_covariance(z, v, blocks)
    inverse, one = np.linalg.inv(covariance), np.ones((n, 1))
    p = inverse - inverse @ one @ one.T @ inverse / (one.T @ inverse @ one)
    s2 = float(y @ p @ y) / (n - 1)
    # The score holds a part of the noise of all 64 subsets: as much as was trained to the fourth, nothing, or all.
    known, none, every = (
        2 * ((v.main / 6 + share / 64) * np.eye(6) + v.mean / 6) @ z.T for share in ((n / 64) ** 4, 0.0, 1.0)
    )
    posterior = [
        s2 * np.diag(known @ p @ known.T - 2 * known @ p @ other.T + 4 * (v.main + v.mean) / 6 + share / 16)
        for share, other in ((0.0, none), (1.0, every))
    ]
    played = estimators.CodedScores(z, one / np.sqrt(n), y, shares_of(n, blocks))
    blup, gls, second, block_variance, noise, small = estimators.mixed_model(played, v)
    assert small is None
    assert noise == pytest.approx(s2)
    assert block_variance == pytest.approx(s2 * v.block / 6)
    np.testing.assert_allclose(blup.weights @ y, known @ p @ y, atol=1e-12)
    np.testing.assert_allclose(blup.se, np.sqrt(np.maximum(*posterior)), rtol=1e-8)
    alpha = p @ y
    h = np.array([sum(t[j] * t[k] for j, k in combinations(range(6), 2)) for t in z]) / np.sqrt(15)
    expected = 4 * (2 * v.pair / 30 * z.T @ np.diag(alpha) @ z + v.size / np.sqrt(15) * (alpha @ h))
    np.testing.assert_allclose(second, expected, atol=1e-12)

    # GLS with the main effects fixed: their variance leaves the covariance.
    fixed = np.linalg.inv(literal_covariance(z, v._replace(main=0.0, mean=0.0), blocks))
    x = np.column_stack([one, z])
    information = np.linalg.inv(x.T @ fixed @ x)
    beta = information @ x.T @ fixed @ y
    s2 = float((y - x @ beta) @ fixed @ (y - x @ beta)) / (n - 7)
    assert gls is not None
    np.testing.assert_allclose(gls.weights @ y, 2 * beta[1:], atol=1e-10)
    np.testing.assert_allclose(gls.se, 2 * np.sqrt(s2 * np.diag(information)[1:]), rtol=1e-8)
    np.testing.assert_allclose(estimators.planned_error(played, v, s2), gls.se, rtol=1e-8)


def test_the_score_in_small_subsets_is_the_models() -> None:
    """BLUP of a linear combination of random effects, against the formula with all effects written out."""
    rng = np.random.default_rng(1)
    n, q, size = 40, 9, 3
    z, y = rng.choice((-1.0, 1.0), (n, q)), rng.normal(size=n)
    v = estimators.Variances(3.0, 0.8, 0.4, mean=0.6)
    one = np.ones((n, 1))
    p = np.linalg.inv(literal_covariance(z, v))
    p = p - p @ one @ one.T @ p / (one.T @ p @ one)
    s2 = float(y @ p @ y) / (n - 1)
    pairs = list(combinations(range(q), 2))
    h = np.array([sum(t[j] * t[k] for j, k in pairs) for t in z]) / np.sqrt(len(pairs))
    features = np.column_stack([z, *(z[:, j] * z[:, k] for j, k in pairs), h])
    d = np.diag([v.main / q] * q + [v.pair / len(pairs)] * len(pairs) + [v.size])
    d[:q, :q] += v.mean / q
    # The mean difference over S of one task or none, literally: the value of every feature with and without j.
    every = np.array([s for s in np.ndindex(*[2] * q) if sum(s) <= size - 1])
    codes = 2.0 * every - 1
    sums = np.array([sum(t[j] * t[k] for j, k in pairs) for t in codes]) / np.sqrt(len(pairs))
    table = np.column_stack([codes, *(codes[:, j] * codes[:, k] for j, k in pairs), sums])
    index = {tuple(row): place for place, row in enumerate(every.tolist())}
    game = estimators.CodedScores(z, one / np.sqrt(n), y, shares_of(n, 0))
    small = estimators.mixed_model(game, v, size).small
    assert small is not None
    for j in range(q):
        rest = [row for row in every.tolist() if row[j] == 0 and sum(row) <= size - 2]
        differences = [table[index[(*row[:j], 1, *row[j + 1 :])]] - table[index[tuple(row)]] for row in rest]
        g = np.mean(differences, axis=0)
        assert small.weights[j] @ y == pytest.approx(g @ d @ features.T @ p @ y)
        left = g @ d @ g - g @ d @ features.T @ p @ features @ d @ g
        assert small.se[j] == pytest.approx(np.sqrt(s2 * left))
    whole, all_sizes = estimators.mixed_model(game, v, q + 1).blup, estimators.mixed_model(game, v, q + 1).small
    assert all_sizes is not None
    np.testing.assert_allclose(all_sizes.weights, whole.weights, atol=1e-5)  # 40 of 512 subsets: no end in sight


@pytest.mark.parametrize(("m", "noise", "third_order"), [(5, 0.3, 0.5), (7, 0.3, 0.5), (7, 1.0, 0.0)])
def test_with_nearly_all_subsets_the_estimate_meets_the_enumerated_score(
    m: int, noise: float, third_order: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    def misses(share: float) -> tuple[float, float]:
        """Error against the enumerated score, and how many intervals hold it; of the standard deviation of a score."""
        squares, inside = [], []
        for seed in range(3):
            game, every = saturating(m, seed, third_order), designs.exact(m)
            scores = game.run(every, noise, np.random.default_rng(seed))
            exact = tim.estimate(every, scores, "exact").estimate
            rows = np.random.default_rng(seed).permutation(len(every))[: round(share * len(every))]
            found = tim.estimate(every[rows], scores[rows], "blup")
            squares.append(np.mean((found.estimate - exact)[off(m)] ** 2))
            inside.append(((found.low <= exact) & (exact <= found.high))[off(m)].mean())
        return float(np.sqrt(np.mean(squares))), float(np.mean(inside))

    now = [misses(share) for share in (0.6, 0.95, 1.0)]
    assert now[2][0] < 1e-9
    assert [inside for _, inside in now[1:]] > [0.95, 0.95]
    assert now[0][1] > 0.85
    monkeypatch.setattr(estimators, "FINITE", np.inf)
    before = [misses(share)[0] for share in (0.6, 0.95)]
    assert now[0][0] < 1.02 * before[0]
    assert now[1][0] < 0.95 * before[1]


def test_rows_with_means_and_variances_of_their_own_are_estimated_better() -> None:
    rng, ratios = np.random.default_rng(0), []
    for seed in range(4):
        game = quadratic(11, seed, 0.2)
        # Any further task costs a row this much, and one row's effects are many times as large as another's.
        scale, cost = np.exp(rng.normal(0, 1, 11)), rng.normal(0.8, 0.3, 11)
        membership = designs.hybrid(11, 40, seed)
        z = np.where(membership, 0.5, -0.5)
        scores = game.scores(membership) * scale - cost * (z.sum(axis=1, keepdims=True) - z)
        truth = game.delta * scale[:, None] - cost[:, None]
        table = one_block(membership, scores + rng.normal(0, 1.0, scores.shape))
        found = tim.from_table(table, "blup")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sampled, "FEW_TASKS", 99)
            before = tim.from_table(table, "blup")
        ratios.append(rmse(found.estimate, truth) / rmse(before.estimate, truth))
        covered = ((found.low <= truth) & (truth <= found.high))[off(11)]
        assert covered.mean() > 0.88
    assert np.mean(ratios) < 0.95


@pytest.mark.parametrize("seed", range(2))
def test_deployable_scores_are_the_restricted_ones_estimated(seed: int) -> None:
    game = quadratic(12, seed)
    small = designs.sized(12, 4)
    truth = tim.estimate(small, game.scores(small), "restricted").estimate
    membership = designs.hybrid(12, 300, seed)
    table = searched(game, membership, np.random.default_rng(seed), seed_effect=0.2, sliced=True)
    result = tim.from_table(table, size=4)
    assert (result.method, result.size) == ("blup", 4)
    assert result.label == "deployable TIM (|T| <= 4), sampled (BLUP)"
    full = tim.from_table(table)
    assert rmse(result.estimate, truth) < 0.6 * rmse(full.estimate, truth)
    inside = ((result.low <= truth) & (truth <= result.high))[off(12)]
    assert inside.mean() > 0.88
    assert np.isnan(result.p_value).all()
    assert not result.rejected.any()
    notes = " ".join(result.notes)
    assert "no tests and no discoveries" in notes
    assert "Fewer subsets than M + 4" not in notes, "there are enough"
    exact = one_block(small, game.scores(small))
    assert tim.from_table(exact, size=3).label == "restricted TIM (|T| <= 3)"
    with pytest.raises(BadInput, match="goes with method restricted or blup"):
        tim.from_table(table, "ols", size=4)


@pytest.mark.parametrize("blocks", [0, 3])
@pytest.mark.parametrize("n", [18, 60])
def test_restricted_likelihood_is_that_of_the_contrasts(n: int, blocks: int) -> None:
    rng = np.random.default_rng(n)
    z, y = rng.choice((-1.0, 1.0), (n, 6)), rng.normal(size=n)
    one = np.ones((n, 1)) / np.sqrt(n)
    evaluate = estimators._restricted_likelihood(estimators.CodedScores(z, one, y, shares_of(n, blocks)))
    contrasts = np.linalg.svd(one)[0][:, 1:]

    def expected(v: estimators.Variances) -> float:
        # The density of the contrasts A'y at the best noise variance, up to a constant.
        covariance = contrasts.T @ literal_covariance(z, v, blocks) @ contrasts
        left = contrasts.T @ y
        form = float(left @ np.linalg.solve(covariance, left))
        return -0.5 * (np.linalg.slogdet(covariance)[1] + (n - 1) * np.log(form))

    a, b = estimators.Variances(3.0, 0.8, 0.4, 0.5), estimators.Variances(0.1, 2.0, 0.0, 0.1)
    assert evaluate(a) - evaluate(b) == pytest.approx(expected(a) - expected(b))


def test_variances_are_recovered() -> None:
    rng = np.random.default_rng(0)
    truth = estimators.Variances(12.0, 4.0, 1.0)
    drawn_games = []
    for _ in range(40):
        z = rng.choice((-1.0, 1.0), (120, 8))
        y = np.linalg.cholesky(literal_covariance(z, truth)) @ rng.normal(size=120)
        drawn_games.append(estimators.CodedScores(z, np.full((120, 1), 120**-0.5), y, shares_of(120, 0)))
    found = estimators.fit_variances(drawn_games)
    assert found.main == pytest.approx(truth.main, rel=0.35)
    assert found.pair == pytest.approx(truth.pair, rel=0.25)
    assert found.size == pytest.approx(truth.size, rel=0.6)


def test_what_a_block_shares_is_recovered_and_propagated() -> None:
    rng = np.random.default_rng(0)
    truth = estimators.Variances(6.0, 2.0, 0.5, 2.0)
    drawn_games = []
    for _ in range(30):
        z = rng.choice((-1.0, 1.0), (120, 8))
        y = np.linalg.cholesky(literal_covariance(z, truth, 5)) @ rng.normal(size=120)
        drawn_games.append(estimators.CodedScores(z, np.full((120, 1), 120**-0.5), y, shares_of(120, 5)))
    found = estimators.fit_variances(drawn_games)
    assert found.block == pytest.approx(truth.block, rel=0.25)
    assert found.main == pytest.approx(truth.main, rel=0.35)
    weights = rng.normal(size=(2, 120))
    game = drawn_games[0]
    claimed = estimators.shared_by_blocks(game, weights, 0.3)
    luck = rng.normal(0, np.sqrt(0.3), (4000, 5, 8))
    drawn_scores = np.einsum("tj,rtj->rt", game.codes, luck[:, np.arange(120) % 5])
    np.testing.assert_allclose((drawn_scores @ weights.T).var(axis=0), claimed, rtol=0.1)


def test_blup_interactions_follow_the_exact_ones() -> None:
    game = saturating(8, seed=0)
    every = designs.exact(8)
    exact = tim.estimate(every, game.scores(every), "exact", interactions=True).interactions
    membership = designs.hybrid(8, 150, seed=0)
    result = tim.estimate(membership, game.run(membership, 0.3, np.random.default_rng(0)), interactions=True)
    known = np.isfinite(exact)
    assert np.array_equal(known, np.isfinite(result.interactions))
    assert np.corrcoef(exact[known], result.interactions[known])[0, 1] > 0.9
    assert "exploratory" in " ".join(result.notes)


def test_blup_without_noise() -> None:
    for second_order, tolerance in ((0.0, 0.01), (0.5, 0.02)):
        game = quadratic(8, 0, second_order=second_order)
        membership = designs.hybrid(8, 150, 0)
        result = tim.estimate(membership, game.scores(membership))
        assert result.method == "blup"
        assert rmse(result.estimate, game.delta) < tolerance


def test_blup_gives_way_where_the_mixed_model_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    # Variance parameters that shrink everything to nothing stand for a model that does not fit.
    monkeypatch.setattr(estimators, "fit_variances", lambda games, means: estimators.Variances(1e-6, 0.1, 0.1))
    _, membership, scores = drawn(8, 120, 0)
    result = tim.estimate(membership, scores)
    assert result.method == "ols"
    assert result.label == "sampled TIM (least squares)"
    assert "Least squares is reported instead" in " ".join(result.notes)
    np.testing.assert_allclose(result.estimate, tim.estimate(membership, scores, "ols").estimate)


# ---------------------------------------------------------------- properties


@few
@given(seed=st.integers(0, 10**6))
def test_null_player(seed: int) -> None:
    rng = np.random.default_rng(seed)
    m, null = 5, int(rng.integers(5))
    membership, scores = random_table(m, seed)
    value = {row.tobytes(): s for row, s in zip(membership, scores, strict=True)}
    for b, row in enumerate(membership):
        if row[null]:
            without = row.copy()
            without[null] = False
            if without.any():
                scores[b, without] = value[without.tobytes()][without]
    for method in ("exact", "ols", "msr"):
        column = np.delete(tim.estimate(membership, scores, method).estimate[:, null], null)
        assert abs(column).max() < 1e-12
    column = np.delete(tim.estimate(membership, scores, "restricted", size=3).estimate[:, null], null)
    assert abs(column).max() < 1e-12


@few
@given(seed=st.integers(0, 10**6))
def test_symmetric_tasks_have_equal_scores(seed: int) -> None:
    membership, scores = random_table(5, seed)
    swapped = membership.copy()
    swapped[:, [1, 3]] = membership[:, [3, 1]]
    value = {row.tobytes(): s for row, s in zip(membership, scores, strict=True)}
    for b, row in enumerate(swapped):
        # Tasks 1 and 3 do the same for the others.
        scores[b, [0, 2, 4]] = (scores[b, [0, 2, 4]] + value[row.tobytes()][[0, 2, 4]]) / 2
        value[membership[b].tobytes()] = scores[b]
        twin = np.flatnonzero((membership == row).all(axis=1))[0]
        scores[twin, [0, 2, 4]] = scores[b, [0, 2, 4]]
    for method in ("exact", "ols", "msr", "blup"):
        delta = tim.estimate(membership, scores, method).estimate
        np.testing.assert_allclose(delta[[0, 2, 4], 1], delta[[0, 2, 4], 3], atol=1e-10)


@few
@given(seed=st.integers(0, 10**6), a=st.floats(-3, 3), b=st.floats(-3, 3))
def test_linearity(seed: int, a: float, b: float) -> None:
    every, first = random_table(4, seed)
    second = random_table(4, seed + 1)[1][np.argsort(np.random.default_rng([4, seed + 1, 4]).permutation(15))]
    second = second[np.random.default_rng([4, seed, 4]).permutation(15)]
    assert np.array_equal(np.isnan(first), np.isnan(second))
    for method in ("exact", "restricted", "ols", "msr"):
        parts = [tim.estimate(every, values, method).estimate for values in (first, second)]
        both = tim.estimate(every, a * first + b * second, method).estimate
        np.testing.assert_allclose(both, a * parts[0] + b * parts[1], atol=1e-10)


@few
@given(seed=st.integers(0, 10**6), scale=st.floats(1e-3, 1e3), shift=st.floats(-100, 100))
def test_a_score_in_another_unit_gives_the_same_result_in_that_unit(seed: int, scale: float, shift: float) -> None:
    _, membership, scores = drawn(6, 50, seed)
    for method in SAMPLED:
        plain, other = (
            tim.estimate(membership, scores, method),
            tim.estimate(membership, scale * scores + shift, method),
        )
        assert other.method == plain.method
        np.testing.assert_allclose(other.estimate, scale * plain.estimate, rtol=1e-3, atol=1e-3 * scale)
        np.testing.assert_allclose(other.se, scale * plain.se, rtol=2e-3)


@few
@given(seed=st.integers(0, 10**6), method=st.sampled_from(METHODS))
def test_permuting_tasks_permutes_the_matrix(seed: int, method: Method) -> None:
    m = 5
    order = np.random.default_rng(seed).permutation(m)
    membership, scores = random_table(m, seed)
    plain = tim.estimate(membership, scores, method)
    permuted = tim.estimate(membership[:, order], scores[:, order], method)
    at = np.ix_(order, order)
    for name in ("estimate", "se", "p_value", "n_with"):
        np.testing.assert_allclose(getattr(permuted, name), getattr(plain, name)[at], rtol=1e-3, atol=1e-4)


@few
@given(seed=st.integers(0, 10**6), method=st.sampled_from(METHODS))
def test_repeated_rows_and_their_order_change_nothing(seed: int, method: Method) -> None:
    _, membership, scores = drawn(5, 30, seed)
    plain = tim.estimate(membership, scores, method)
    rows = np.random.default_rng(seed).permutation(np.concatenate([np.arange(30), np.arange(0, 30, 2)]))
    again = tim.estimate(membership[rows], scores[rows], method)
    for name in ("estimate", "se", "low", "high", "p_value", "n_with", "n_without"):
        np.testing.assert_allclose(getattr(again, name), getattr(plain, name), rtol=1e-9, atol=1e-12)
    assert again.n_subsets == 30


def test_repeated_rows_are_averaged() -> None:
    _, membership, scores = drawn(5, 30, 0)
    noise = np.random.default_rng(0).normal(size=scores.shape)
    twice = tim.estimate(np.vstack([membership] * 2), np.vstack([scores + noise, scores - noise]), "ols")
    np.testing.assert_allclose(twice.estimate, tim.estimate(membership, scores, "ols").estimate, rtol=1e-9)


@pytest.mark.parametrize("method", SAMPLED)
def test_a_task_that_is_never_sampled(method: Method) -> None:
    game, membership, _ = drawn(7, 100, 3)
    membership[:, 2] = False
    membership = membership[membership.any(axis=1)]
    scores = game.run(membership, 0.3, np.random.default_rng(0))
    result = tim.estimate(membership, scores, method)
    missing = ~np.isfinite(result.estimate) & off(7)
    assert missing[2].sum() == 6
    assert missing[:, 2].sum() == 6
    assert missing.sum() == 12
    assert (result.n_with[:, 2] == 0).all()
    assert not result.rejected[missing].any()
    notes = " ".join(result.notes)
    assert "12 of 42 cells cannot be estimated" in notes
    assert "In all subsets or in none: 2 (for 0)" in notes


@pytest.mark.parametrize("method", METHODS)
def test_all_scores_equal(method: Method) -> None:
    membership = designs.exact(5)
    result = tim.estimate(membership, np.where(membership, 0.1 + 0.2, np.nan), method)
    assert (result.estimate[off(5)] == 0).all()
    assert not result.rejected.any()
    if method in SAMPLED:
        assert (result.p_value[off(5)] == 1).all()
        assert (result.false_sign_rate[off(5)] == 0.5).all()
        assert (result.low[off(5)] == 0).all()
    assert "All scores are equal" in " ".join(result.notes)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("n", [1, 2, 3])
def test_one_subset_only(method: Method, n: int) -> None:
    membership = designs.hybrid(6, n, seed=0)
    result = tim.estimate(membership, np.where(membership, np.arange(n)[:, None] / 10.0, np.nan), method)
    assert np.isnan(result.estimate).all()
    assert np.isnan(result.p_value).all()
    assert not result.rejected.any()
    assert result.n_subsets == n
    assert len(result.frame()) == 30


@few
@given(seed=st.integers(0, 10**6), method=st.sampled_from(SAMPLED), kind=st.sampled_from(["random", "large"]))
def test_eighty_percent_failures(seed: int, method: Method, kind: str) -> None:
    _, membership, scores = drawn(8, 120, seed)
    rng = np.random.default_rng(seed)
    if kind == "large":
        scores = lose_large(membership, scores, rng)
    else:
        scores = np.where(rng.random(scores.shape) < 0.8, np.nan, scores)
    result = tim.estimate(membership, scores, method)
    estimable = (result.n_with >= 2) & (result.n_without >= 2) & off(8)
    if result.method in ("blup", "msr"):
        assert np.array_equal(np.isfinite(result.estimate), estimable)
    assert not np.isfinite(result.estimate[~estimable]).any()
    known = np.isfinite(result.estimate)
    assert (result.se[known] >= 0).all()
    assert (result.low[known] <= result.estimate[known]).all()
    notes = " ".join(result.notes)
    assert "left out, not imputed" in notes
    # Random failures are called uneven by chance in a few of a thousand searches; that is no error.
    assert kind == "random" or "Larger subsets fail more often" in notes


def test_too_few_subsets_for_least_squares() -> None:
    _, membership, scores = drawn(12, 24, 0)
    assert np.isnan(tim.estimate(membership, scores, "ols").estimate).all()
    blup = tim.estimate(membership, scores)
    assert np.isfinite(blup.estimate[off(12)]).all()
    assert np.isnan(blup.p_value).all()
    assert not blup.rejected.any()
    assert "Fewer subsets than M + 4" in " ".join(blup.notes)


def test_tasks_that_always_come_together_cannot_be_told_apart() -> None:
    game, membership, _ = drawn(8, 120, 0)
    membership[:, 5] = membership[:, 4]
    membership = np.unique(membership[membership.any(axis=1)], axis=0)
    scores = game.run(membership, 0.1, np.random.default_rng(0))
    for method in ("ols", "gls"):
        result = tim.estimate(membership, scores, method)
        assert np.isnan(result.estimate[0, [4, 5]]).all()
        assert np.isfinite(result.estimate[0, [1, 2, 3, 6, 7]]).all()
    assert np.isfinite(tim.estimate(membership, scores).estimate[0, 1:]).all(), "BLUP shares the effect between them"


def test_a_single_source_design_serves_its_source_alone() -> None:
    game = quadratic(12, 0)
    membership = designs.single_source(12, source=3, budget=48, seed=0)
    result = tim.estimate(membership, game.run(membership, 0.3, np.random.default_rng(0)), "ols")
    assert np.isfinite(result.estimate[3][off(12)[3]]).all()
    assert np.nanmean((result.estimate[3] - game.delta[3]) ** 2) ** 0.5 < 0.45
    assert np.isnan(result.estimate[:, 3]).all()
    assert "In all subsets or in none: 3 (for 0)" in " ".join(result.notes)


# ------------------------------------------------------ decisions and ranks


def test_benjamini_hochberg() -> None:
    p = np.array([[np.nan, 0.01, 0.02], [0.03, np.nan, 0.9], [0.5, 0.049, np.nan]])
    # Sorted .01 .02 .03 .049 .5 .9 against .0167 .0333 .05 .0667 .0833 .1: the first four pass.
    assert discoveries(p, 0.10).sum() == 4
    assert not discoveries(p, 0.05)[1, 0]
    assert not discoveries(np.full((2, 2), np.nan), 0.1).any()
    adjusted = stats.false_discovery_control(p[np.isfinite(p)])
    assert np.array_equal(discoveries(p, 0.04)[np.isfinite(p)], adjusted <= 0.04)


def test_overlapping_tasks_take_no_part_in_discoveries() -> None:
    _, membership, scores = drawn(6, 60, 0)
    names = tuple("abcdef")
    free = tim.estimate(membership, scores, tasks=names)
    i, j = np.argwhere(free.rejected)[0]
    held = tim.estimate(membership, scores, tasks=names, overlaps=[(names[i], names[j]), ("a", "not searched")])
    assert not held.rejected[i, j]
    assert not held.rejected[j, i]
    assert held.p_value[i, j] == free.p_value[i, j]


def test_rank_heatmap_of_the_paper() -> None:
    nan = np.nan
    scores = np.array([[nan, 0.3, -0.1, 0.1, -0.5], [0.0, nan, 0.2, 0.2, nan], *np.full((3, 5), nan)])
    ranks = rank_heatmap(scores)
    assert ranks[0].tolist() == [0, 2, -1, 1, -2], "the largest gain and the largest loss have the largest ranks"
    assert ranks[1].tolist() == [0, 0, 2, 2, 0], "zero is no gain, equal gains share the higher rank"
    assert not ranks[2:].any()
    with pytest.raises(BadInput, match="square"):
        rank_heatmap(np.zeros((2, 3)))


# --------------------------------------------------------- tables of searches


def test_auto_is_exact_when_all_subsets_are_trained() -> None:
    game = saturating(5, 0)
    table = searched(game, designs.exact(5), np.random.default_rng(0), n_blocks=5, seed_effect=0.3)
    result = tim.from_table(table)
    assert result.method == "exact"
    assert result.label == "exact TIM"
    each = np.stack([literal(table.membership, table.scores[:, b]) for b in range(5)])
    np.testing.assert_allclose(result.estimate, each.mean(axis=0), atol=1e-12)
    se = each.std(axis=0, ddof=1) / np.sqrt(5)
    np.testing.assert_allclose(result.se[off(5)], se[off(5)], rtol=1e-9)
    half = stats.t.ppf(0.975, 4) * se
    np.testing.assert_allclose(result.high[off(5)], (each.mean(axis=0) + half)[off(5)], rtol=1e-9)
    np.testing.assert_allclose(result.p_value[off(5)], stats.ttest_1samp(each, 0).pvalue[off(5)], rtol=1e-6)
    np.testing.assert_array_equal(result.se_seed, result.se)
    assert (result.se_sampling[off(5)] == 0).all()
    assert np.isnan(result.se_patients).all()
    assert result.blocks == table.blocks


def test_one_block_with_replicates_has_the_patients_error() -> None:
    table = searched(
        saturating(5, 0), designs.exact(5), np.random.default_rng(0), n_blocks=1, patient_effect=0.5, n_draws=40
    )
    result = tim.from_table(table)
    assert table.replicates is not None
    each = np.stack([literal(table.membership, table.replicates[:, 0, :, r].astype(float)) for r in range(40)])
    np.testing.assert_allclose(result.se_patients[off(5)], each.std(axis=0, ddof=1)[off(5)], rtol=1e-5)
    np.testing.assert_allclose(result.se, result.se_patients, rtol=1e-12)
    assert np.isnan(result.se_seed).all()
    assert "not what all runs of a seed share" in " ".join(result.notes)


@pytest.mark.parametrize("folds", [None, 1])
def test_both_parts_are_kept_and_counted_once(folds: int | None) -> None:
    table = searched(
        saturating(5, 0),
        designs.sized(5, 2),
        np.random.default_rng(0),
        seed_effect=0.3,
        patient_effect=0.3,
        folds=folds,
    )
    result = tim.from_table(table)
    assert result.label == "restricted TIM (|T| <= 2)"
    seed, patients = result.se_seed[off(5)], result.se_patients[off(5)]
    assert (seed > 0).all()
    assert (patients > 0).all()
    total = result.se[off(5)]
    if folds:
        np.testing.assert_allclose(total, np.hypot(seed, patients), rtol=1e-9)
    else:
        assert (total > seed - 1e-12).all()
        assert (total < np.hypot(seed, patients)).mean() > 0.9, "what blocks and draws both show is counted once"


@pytest.mark.parametrize(
    ("folds", "share"), [([0], 0.0), ([0, 1, 2, 3, 4], 1.0), ([2, 2, 2], 0.0), ([0, 1, 2, 3, 4] * 2, 4 / 9)]
)
def test_how_much_of_the_patients_part_shows_between_blocks(folds: list[int], share: float) -> None:
    assert counted_twice(folds) == pytest.approx(share)
    rng = np.random.default_rng(0)
    lots = rng.normal(size=(20_000, 5))[:, folds]
    if share:  # what is taken for the variance of the mean of independent blocks, beside the variance that it has
        found = (lots.var(axis=1, ddof=1) / len(folds)).mean() / lots.mean(axis=1).var()
        assert found == pytest.approx(share, rel=0.05)


def test_patients_of_folds_that_repeat_are_counted_once() -> None:
    game, membership = quadratic(8, 0), designs.hybrid(8, 160, 0)
    table = searched(
        game,
        membership,
        np.random.default_rng(0),
        n_blocks=10,
        folds=5,
        patient_effect=0.5,
        seed_effect=0.5,
        sliced=True,
    )
    result = tim.from_table(table)
    parts = [getattr(result, name)[off(8)] ** 2 for name in ("se_sampling", "se_seed", "se_patients")]
    sampling, seed, patients = parts
    twice = counted_twice([block % 5 for block in range(10)])
    expected = sampling + np.maximum(seed, twice * patients) + (1 - twice) * patients
    np.testing.assert_allclose(result.se[off(8)] ** 2, expected, rtol=1e-9)


def test_a_failed_unit_costs_its_block_not_its_source() -> None:
    table = searched(saturating(4, 0), designs.exact(4), np.random.default_rng(0), n_blocks=4)
    row = int(np.flatnonzero(table.membership[:, 0])[2])
    table.scores[row, 1, 0] = np.nan
    result = tim.from_table(table)
    assert result.method == "exact"
    each = np.stack([literal(table.membership, table.scores[:, b])[0] for b in (0, 2, 3)])
    np.testing.assert_allclose(result.estimate[0], each.mean(axis=0), atol=1e-12)
    table.scores[row, :, 0] = np.nan
    mixed = tim.from_table(table)
    assert np.isfinite(mixed.estimate[off(4)]).all()
    assert mixed.methods == ("blup", "exact", "exact", "exact")
    table.scores[:, :, :] = np.where(table.membership[:, None, :], np.nan, np.nan)
    assert tim.from_table(table).method == "blup"


def collapsed(failing: str) -> ScoreTable:
    """An exact search of five tasks in two blocks whose last task fails in some of its subsets."""
    table = searched(saturating(5, 0), designs.exact(5), np.random.default_rng(0), n_blocks=2)
    size = table.membership.sum(axis=1)
    lost = table.membership[:, 4] & (size >= 4 if failing == "large" else size == 2)
    table.scores[lost, :, 4] = np.nan
    return table


def test_rows_stay_exact_beside_one_whose_task_fails() -> None:
    table = collapsed("small")
    result = tim.from_table(table)
    assert result.methods == ("exact",) * 4 + ("blup",)
    assert result.method == "blup"
    assert result.label == f"exact TIM; sampled TIM (BLUP) for {table.tasks[4]}"
    strict = tim.from_table(table, "exact")
    for name in ("estimate", "se", "low", "high", "p_value", "false_sign_rate"):
        np.testing.assert_array_equal(getattr(result, name)[:4], getattr(strict, name)[:4])
    assert np.isnan(strict.estimate[4]).all()
    sampled = tim.from_table(table, "blup")
    np.testing.assert_array_equal(result.estimate[4], sampled.estimate[4])
    assert any(f"Row of {table.tasks[4]}: no block has all subsets" in note for note in result.notes)
    rows = result.frame()
    assert {(row["source"] == table.tasks[4], row["method"], row["label"]) for row in rows} == {
        (True, "blup", "sampled TIM (BLUP)"),
        (False, "exact", "exact TIM"),
    }


def test_failures_that_come_with_larger_subsets_are_said_to_select() -> None:
    notes = " ".join(tim.from_table(collapsed("large")).notes)
    assert "Larger subsets fail more often" in notes
    assert "select which subsets are scored" in notes


def test_discoveries_are_benjamini_and_hochbergs() -> None:
    for seed in range(20):
        p = np.random.default_rng(seed).beta(0.4, 1.0, (6, 6))
        p[np.random.default_rng(seed).random((6, 6)) < 0.2] = np.nan
        known = np.sort(p[np.isfinite(p)])
        passed = known[known <= 0.1 * np.arange(1, len(known) + 1) / len(known)]
        expected = np.isfinite(p) & (np.nan_to_num(p, nan=1.0) <= passed.max(initial=-1.0))
        np.testing.assert_array_equal(discoveries(p, 0.1), expected)
    assert not discoveries(np.full((2, 2), np.nan), 0.1).any()


def test_auto_takes_restricted_for_all_subsets_up_to_a_size() -> None:
    game = quadratic(6, 0)
    for size in (2, 3):
        membership = designs.sized(6, size)
        result = tim.from_table(one_block(membership, game.scores(membership)))
        assert (result.method, result.size) == ("restricted", size)


def test_reasons_for_a_size_of_its_own_are_not_told_of_a_size_that_was_asked_for() -> None:
    membership = designs.sized(6, 3)[:30]  # all pairs, and some triples
    scores = np.where(membership, 0.7, np.nan)
    found = tim.from_table(one_block(membership, scores))
    assert (found.method, found.size) == ("restricted", 2)
    assert "9 larger subsets were trained and are not used here." in found.notes
    asked = tim.from_table(one_block(membership, scores), size=3)
    assert asked.size == 3
    assert not any("not used here" in note for note in asked.notes)


@pytest.mark.parametrize("blocks", [1, 3])
@pytest.mark.parametrize("sampled", [False, True])
def test_the_luck_of_one_seed_is_never_called_a_discovery(blocks: int, sampled: bool) -> None:
    """No task does anything; what a seed's initialisation does looks in all its subsets like an effect of a task."""
    rng = np.random.default_rng(0)
    membership = designs.hybrid(6, 50, 0) if sampled else designs.exact(6)
    codes, off_diagonal = np.where(membership, 1.0, -1.0), 1 - np.eye(6)
    scores = np.full((len(membership), blocks, 6), np.nan)
    replicates = np.full((*scores.shape, 20), np.nan, np.float32)
    for b in range(blocks):
        luck = rng.normal(0, 0.003, (6, 6)) * off_diagonal
        draws = rng.normal(0, 0.001, (6, 6, 20)) * off_diagonal[:, :, None]
        run = 0.8 + codes @ luck.T / 2 + rng.normal(0, 0.001, codes.shape)
        scores[:, b] = np.where(membership, run, np.nan)
        replicates[:, b] = np.where(
            membership[:, :, None], run[:, :, None] + np.einsum("bj,ijr->bir", codes, draws) / 2, np.nan
        )
    trained = np.ones(scores.shape[:2], bool)
    table = ScoreTable(tuple("abcdef"), tuple((b, b) for b in range(blocks)), membership, scores, trained, replicates)
    result = tim.from_table(table)
    assert np.isfinite(result.p_value[off(6)]).all()
    assert not result.rejected.any()
    assert any("One seed" in note and "nothing is called a discovery" in note for note in result.notes) == (blocks == 1)


def test_auto_on_a_greedy_search_restricts_itself_to_the_pairs() -> None:
    game = quadratic(8, 0)
    pairs = designs.sized(8, 2)
    triples = designs.sized(8, 3)[len(pairs) :][::5]
    result = tim.from_table(one_block(np.vstack([pairs, triples]), game.scores(np.vstack([pairs, triples]))))
    assert (result.method, result.size) == ("restricted", 2)
    assert f"{len(triples)} larger subsets were trained and are not used" in result.notes[0]
    assert np.isfinite(result.estimate[off(8)]).all()


@pytest.mark.parametrize("seed", range(5))
def test_auto_half_way_through_a_search_by_pairs_stays_restricted(seed: int) -> None:
    game = quadratic(12, 0)
    membership = np.random.default_rng(seed).permutation(designs.sized(12, 2))[:30]
    table = one_block(membership, game.scores(membership))
    result = tim.from_table(table)
    assert result.label == "restricted TIM (|T| <= 2), incomplete"
    known = np.isfinite(result.estimate)
    pairs = {tuple(np.flatnonzero(row)) for row in membership}
    for i, j in np.argwhere(off(12)):
        assert known[i, j] == ((min(i, j), max(i, j)) in pairs and (i,) in pairs)


@pytest.mark.parametrize("budget", [10, 40, 120])
def test_auto_takes_a_sample_for_a_sample(budget: int) -> None:
    for seed in range(4):
        _, membership, scores = drawn(10, budget, seed)
        result = tim.from_table(one_block(membership, scores))
        assert result.label == "sampled TIM (BLUP)"


def test_auto_on_nearly_all_subsets_is_still_a_sample() -> None:
    game = quadratic(6, 0)
    membership = designs.hybrid(6, 61, 0)
    assert tim.from_table(one_block(membership, game.run(membership, 0.1, np.random.default_rng(0)))).method == "blup"


def test_half_way_through_an_exact_search_nothing_is_called_exact() -> None:
    table = searched(saturating(6, 0), designs.exact(6), np.random.default_rng(0), n_blocks=2)
    trained = table.trained.copy()
    trained[np.random.default_rng(1).permutation(63)[:25], 1] = False
    scores = np.where(trained[:, :, None], table.scores, np.nan)
    partial = replace(table, scores=scores, trained=trained)
    result = tim.from_table(partial)
    assert result.method == "blup"
    assert np.isfinite(result.estimate[off(6)]).all()
    assert "failed" not in " ".join(result.notes), "untrained is not failed"
    by_hand = tim.from_table(partial, "exact")
    np.testing.assert_allclose(by_hand.estimate, literal(table.membership, table.scores[:, 0]), atol=1e-12)
    assert np.isnan(by_hand.se).all(), "one complete block has no error"


@pytest.mark.parametrize("method", SAMPLED)
@pytest.mark.parametrize("sliced", [False, True])
def test_levels_of_blocks_cancel(method: Method, sliced: bool) -> None:
    table = searched(quadratic(6, 0), designs.hybrid(6, 60, 0), np.random.default_rng(0), n_blocks=3, sliced=sliced)
    scores = table.scores.copy()
    scores[5, 1], scores[9, 2, 3], scores[20, :2] = np.nan, np.nan, np.nan
    table = replace(table, scores=scores)
    levels = np.random.default_rng(1).normal(size=(3, 6)) * 20
    plain, shifted = tim.from_table(table, method), tim.from_table(replace(table, scores=scores + levels), method)
    np.testing.assert_allclose(shifted.estimate, plain.estimate, atol=1e-5)
    np.testing.assert_allclose(shifted.se, plain.se, atol=1e-5)
    np.testing.assert_allclose(shifted.se_seed, plain.se_seed, atol=1e-5)


@pytest.mark.parametrize("method", SAMPLED)
def test_complete_blocks_are_estimated_from_their_mean(method: Method) -> None:
    table = searched(quadratic(6, 0), designs.hybrid(6, 50, 0), np.random.default_rng(0), seed_effect=0.4)
    result, of_mean = tim.from_table(table, method), tim.estimate(table.membership, table.mean(), method)
    np.testing.assert_allclose(result.estimate, of_mean.estimate, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(result.se_sampling, of_mean.se, rtol=1e-4)
    assert (result.se[off(6)] >= result.se_sampling[off(6)]).all()
    if method == "msr":
        each = np.stack([tim.estimate(table.membership, table.scores[:, b], method).estimate for b in range(5)])
        np.testing.assert_allclose(result.estimate, each.mean(axis=0), atol=1e-10)


def test_blocks_that_share_seeds_or_folds_say_so() -> None:
    table = searched(quadratic(4, 0), designs.exact(4), np.random.default_rng(0), n_blocks=4)
    assert not tim.from_table(table).notes
    one_seed = " ".join(tim.from_table(replace(table, blocks=((0, 0), (0, 1), (0, 2), (0, 3)))).notes)
    assert "4 blocks share 1 seed(s)" in one_seed
    assert "fold(s)" not in one_seed
    one_fold = " ".join(tim.from_table(replace(table, blocks=((0, 7), (1, 7), (2, 7), (3, 7)))).notes)
    assert "4 blocks share 1 fold(s) and have no bootstrap replicates" in one_fold


def test_seeds_that_agree_have_no_seed_part() -> None:
    table = searched(quadratic(6, 0), designs.hybrid(6, 50, 0), np.random.default_rng(0), n_blocks=1)
    same = replace(
        table,
        blocks=((0, 0), (1, 1), (2, 2)),
        scores=np.repeat(table.scores, 3, axis=1) + np.arange(3)[:, None],
        trained=np.repeat(table.trained, 3, axis=1),
    )
    result = tim.from_table(same, "ols")
    np.testing.assert_allclose(result.se_seed[off(6)], 0, atol=1e-9)
    np.testing.assert_allclose(result.se, tim.from_table(table, "ols").se, rtol=1e-9)


def test_seed_luck_widens_the_interval() -> None:
    rng = np.random.default_rng(0)
    calm = tim.from_table(searched(quadratic(8, 0), designs.hybrid(8, 120, 0), rng, seed_effect=0.0))
    lucky = tim.from_table(searched(quadratic(8, 0), designs.hybrid(8, 120, 0), rng, seed_effect=1.0))
    assert np.nanmedian(lucky.se) > 3 * np.nanmedian(calm.se)
    # A seed effect of SD 1 on a score of one block is one of SD 1/sqrt(5) on the mean of five.
    assert np.sqrt(np.nanmean(lucky.se_seed**2)) == pytest.approx(5**-0.5, rel=0.25)


@pytest.mark.parametrize("method", SAMPLED)
def test_seed_luck_widens_the_interval_of_slices_too(method: Method) -> None:
    rng = np.random.default_rng(0)
    lucky = searched(quadratic(8, 0), designs.hybrid(8, 200, 0), rng, seed_effect=1.0, sliced=True)
    result = tim.from_table(lucky, method)
    assert np.sqrt(np.nanmean(result.se_seed**2)) == pytest.approx(5**-0.5, rel=0.35)
    np.testing.assert_allclose(result.se, np.hypot(result.se_sampling, result.se_seed), rtol=1e-9)
    assert "trained in one of 5 blocks" in " ".join(result.notes)
    calm = searched(quadratic(8, 0), designs.hybrid(8, 200, 0), rng, sliced=True)
    assert np.nanmedian(tim.from_table(calm, method).se_seed) < 0.2 * np.nanmedian(result.se_seed)


def test_notes_say_where_the_error_comes_from_and_what_to_buy() -> None:
    def note(**options: Any) -> str:
        rng = np.random.default_rng(0)
        table = searched(quadratic(8, 0), designs.hybrid(8, 120, 0), rng, **options)
        return next((n for n in tim.from_table(table).notes if n.startswith("Where the error")), "")

    assert "Buy more subsets next" in note(noise=3.0, sliced=True)
    assert "Buy more seeds (blocks) next" in note(seed_effect=1.0, sliced=True, patient_effect=0.1)
    assert "Buy more patients (further folds, or a larger cohort) next" in note(patient_effect=1.0, folds=1)
    assert note(n_blocks=1) == "", "nothing to compare with"


def test_the_control_is_no_test_and_its_spread_is_told() -> None:
    game = quadratic(7, 0)
    membership = designs.hybrid(7, 100, 0)
    table = searched(game, membership, np.random.default_rng(0))
    name = table.tasks[3]
    plain, result = tim.from_table(table), tim.from_table(table, control=name)
    np.testing.assert_array_equal(plain.estimate, result.estimate)
    assert (plain.control, result.control) == (None, name)
    assert not result.rejected[3].any()
    assert not result.rejected[:, 3].any()
    assert plain.rejected[:, 3].any()
    (said,) = [note for note in result.notes if note.startswith("Negative control")]
    assert f"{np.delete(result.estimate[:, 3], 3).std():.2g} around" in said
    assert not [note for note in plain.notes if note.startswith("Negative control")]


def test_patients_part_of_a_sample() -> None:
    table = searched(
        quadratic(8, 0), designs.hybrid(8, 120, 0), np.random.default_rng(0), n_blocks=1, patient_effect=0.5, n_draws=80
    )
    result = tim.from_table(table, "ols")
    assert np.sqrt(np.nanmean(result.se_patients**2)) == pytest.approx(0.5, rel=0.1)
    np.testing.assert_allclose(result.se, np.hypot(result.se_sampling, result.se_patients), rtol=1e-9)
    assert table.replicates is not None
    lost = replace(table, replicates=np.full_like(table.replicates, np.nan))
    assert np.isnan(tim.from_table(lost, "ols").se_patients).all()


def test_size_profile_weighs_up_to_the_exact_score() -> None:
    membership, scores = random_table(6, seed=5)
    table = one_block(membership, scores)
    profile = size_profile(table)
    weights = np.array([comb(4, s) for s in range(5)]) / 16
    np.testing.assert_allclose(np.tensordot(weights, profile.estimate, 1), literal(membership, scores), atol=1e-12)
    pairs = tim.from_table(table, "restricted", size=2)
    np.testing.assert_allclose(profile.estimate[0], pairs.estimate, atol=1e-12)
    assert np.isnan(profile.se).all(), "every subset was trained, once"
    assert profile.sizes.tolist() == [0, 1, 2, 3, 4]
    assert (profile.n_with[:, 0, 1] == [1, 4, 6, 4, 1]).all()


def test_size_profile_of_blocks_and_of_a_sample() -> None:
    game = quadratic(5, 0)
    every = searched(game, designs.exact(5), np.random.default_rng(0), n_blocks=4)
    profile = size_profile(every)
    each = np.stack([size_profile(one_block(every.membership, every.scores[:, b])).estimate for b in range(4)])
    np.testing.assert_allclose(profile.estimate, each.mean(axis=0), atol=1e-10)
    np.testing.assert_allclose(profile.se, each.std(axis=0, ddof=1) / 2, atol=1e-10)
    _, membership, scores = drawn(9, 200, 0)
    sample = size_profile(one_block(membership, scores))
    assert sample.estimate.shape == (8, 9, 9)
    assert np.isfinite(sample.se[3][off(9)]).all()


# ------------------------------------------------------------------- ledger


def fill(path: Path, settings_: str = "{}", replicates: int = 0) -> tuple[Context, np.ndarray, np.ndarray]:
    from tim_search.ledger.ledger import Ledger

    names = ("a", "b", "c")
    context = Context("cohort", "columns", "split", "m3h", settings_)
    membership, scores = random_table(3, seed=0)
    ledger = Ledger(path)
    for seed in range(2):
        rows = []
        units = tuple(Unit(members, seed, seed) for members in designs.subsets(membership, names))
        for b, unit in enumerate(units):
            rows += [
                Score(
                    unit,
                    task,
                    "auroc",
                    "validation",
                    scores[b, names.index(task)] + 0.1 * seed,
                    replicates=tuple(scores[b, names.index(task)] + 0.01 * r for r in range(replicates)),
                )
                for task in unit.subset
            ]
        ledger.append(PackResult(Pack(units), tuple(rows)), context)
    return context, membership, scores


def test_from_ledger(tmp_path: Path) -> None:
    context, membership, scores = fill(tmp_path / "ledger", replicates=5)
    result = tim.from_ledger(tmp_path / "ledger")
    assert result.tasks == ("a", "b", "c")
    assert result.label == "exact TIM"
    assert result.blocks == ((0, 0), (1, 1))
    np.testing.assert_allclose(result.estimate, literal(membership, scores), atol=1e-12)
    assert np.isfinite(result.se_patients[off(3)]).all(), "replicates are read along"
    few_tasks = tim.from_ledger(tmp_path / "ledger", context=context.key, tasks=["c", "a"], blocks=[(1, 1)])
    assert few_tasks.tasks == ("c", "a")
    assert few_tasks.blocks == ((1, 1),)
    frame = result.to_frame()
    assert list(frame["source"]) == ["a", "a", "b", "b", "c", "c"]
    assert list(frame["task"]) == ["b", "c", "a", "c", "a", "b"]
    assert frame["estimate"].tolist() == pytest.approx(result.estimate[off(3)].tolist())
    assert set(frame["label"]) == {"exact TIM"}
    assert frame["rejected"].dtype == bool


def test_scores_of_two_contexts_are_not_mixed(tmp_path: Path) -> None:
    first, _, _ = fill(tmp_path, "{}")
    fill(tmp_path, '{"width":8}')
    with pytest.raises(BadInput, match=f"2 contexts.*{first.key}"):
        tim.from_ledger(tmp_path)
    assert tim.from_ledger(tmp_path, context=first.key).label == "exact TIM"


def test_an_empty_ledger_is_said_to_be_empty(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="holds no validation scores"):
        tim.from_ledger(tmp_path / "nothing")


def test_the_worked_examples_print_what_the_text_says(capsys: pytest.CaptureFixture[str]) -> None:
    text = (ROOT / "docs" / "maths.md").read_text(encoding="utf-8")
    examples = re.findall(r"```python\n(.*?)```\n+```text\n(.*?)```", text, re.DOTALL)
    assert len(examples) == 2
    for code, printed in examples:
        exec(compile(code, "docs/maths.md", "exec"), {})
        assert capsys.readouterr().out.split() == printed.split()


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scores": np.zeros((3, 3))}, r"shape.*\(2, 2\) and \(3, 3\)"),
        ({"membership": np.zeros(2, bool), "scores": np.zeros(2)}, r"shape \(subsets, tasks\)"),
        ({"membership": [[2, 0], [0, 1]]}, "0 and 1"),
        ({"scores": [[np.inf, np.nan], [np.nan, 0.0]]}, "1 scores are infinite"),
        ({"scores": [[0.1, 0.2], [np.nan, 0.0]]}, "Row 0 scores task 1"),
        ({"method": "shapley"}, "got 'shapley'; allowed are exact, restricted, blup"),
        ({"tasks": ["a"]}, "2 different names"),
        ({"tasks": ["a", "a"]}, "2 different names"),
        ({"confidence": 95}, "confidence must lie between 0 and 1; got 95"),
        ({"fdr": 0}, "fdr must lie between 0 and 1"),
        ({"method": "restricted", "size": 3}, "from 2 to 2, the tasks; got 3"),
        ({"method": "ols", "interactions": True}, "exact or blup; got ols"),
    ],
)
def test_bad_input(change: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"membership": [[1, 0], [0, 1]], "scores": [[0.1, np.nan], [np.nan, 0.2]]} | change
    with pytest.raises(BadInput, match=message):
        tim.estimate(**arguments)


def test_inputs_are_left_as_they_were() -> None:
    _, membership, scores = drawn(6, 40, 0)
    table = searched(
        quadratic(6, 0), designs.hybrid(6, 40, 0), np.random.default_rng(0), n_blocks=2, patient_effect=0.1
    )
    before = [array.copy() for array in (membership, scores, table.scores, table.membership, table.replicates)]
    for method in METHODS:
        tim.estimate(membership, scores, method)
        tim.from_table(table, method)
    size_profile(table)
    for array, copy in zip((membership, scores, table.scores, table.membership, table.replicates), before, strict=True):
        np.testing.assert_array_equal(array, copy)


# ------------------------------------------------------- statistical promises


@pytest.fixture(scope="module")
def measure() -> ModuleType:
    """benchmarks/estimators.py, whose measurements these tests hold against their goals."""
    path = ROOT / "benchmarks" / "estimators.py"
    spec = importlib.util.spec_from_file_location("benchmark_of_estimators", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_blup_beats_least_squares_and_plain_sampling_on_one_game() -> None:
    game = saturating(12, seed=0)
    membership = designs.hybrid(12, 200, seed=0)
    scores = game.run(membership, 0.3, np.random.default_rng(0))
    errors = {method: rmse(tim.estimate(membership, scores, method).estimate, game.delta) for method in SAMPLED}
    assert errors["blup"] < 0.11
    assert errors["blup"] < errors["ols"] < errors["msr"]
    assert errors["gls"] < errors["ols"]


@pytest.mark.slow
@pytest.mark.parametrize(("m", "budget"), [(m, b) for m in (12, 20, 44) for b in (100, 200, 400)])
def test_error_is_within_its_goal(measure: ModuleType, m: int, budget: int) -> None:
    found = measure.error(m, budget, n_games={12: 4, 20: 2, 44: 1}[m], n_seeds=2)
    assert found <= 1.15 * measure.REFERENCE[m, budget]


@pytest.mark.slow
@pytest.mark.parametrize(("m", "goal"), [(12, 0.25), (44, 0.45)])
def test_error_against_plain_sampling(measure: ModuleType, m: int, goal: float) -> None:
    ours, plain = (
        measure.error(m, 400, method, design, n_games=2, n_seeds=2)
        for method, design in (("blup", "hybrid"), ("msr", "iid"))
    )
    assert ours <= goal * plain


@pytest.mark.slow
@pytest.mark.parametrize("m", [12, 20])
def test_error_against_shapiq_at_equal_numbers_of_trained_subsets(measure: ModuleType, m: int) -> None:
    pytest.importorskip("shapiq")
    theirs = measure.shapiq_error(m, 50, n_games=2, n_sources=m)
    assert measure.error(m, m * 50, n_games=2, n_seeds=1) <= 0.35 * theirs


@pytest.mark.slow
def test_intervals_cover(measure: ModuleType) -> None:
    cells = [
        measure.calibration(m, budget, noise, n_games=2 if m == 12 else 1, n_seeds=2 if m < 44 else 1)
        for m in (12, 20, 44)
        for budget in (100, 200, 400)
        for noise in (0.3, 1.0, 3.0)
    ]
    coverage = [cell["coverage"] for cell in cells]
    assert 0.92 <= np.mean(coverage) <= 0.985
    assert min(coverage) >= 0.88
    signs = np.array([(cell["wrong signs expected"], cell["wrong signs"]) for cell in cells]).mean(axis=0)
    assert abs(signs[0] - signs[1]) < 0.02


@pytest.mark.slow
@pytest.mark.parametrize("budget", [200, 400])
def test_false_directions_are_rare(measure: ModuleType, budget: int) -> None:
    found = measure.false_directions(budget, n_seeds=2)
    assert found["false directions"] <= 0.12
    assert found["power above 0.5"] > 0.6


@pytest.mark.slow
@pytest.mark.parametrize(("m", "budget"), [(12, 200), (20, 200), (44, 200), (44, 400)])
def test_bias_when_large_subsets_fail(measure: ModuleType, m: int, budget: int) -> None:
    found = measure.bias_under_failures(m, budget, n_games={12: 4, 20: 2, 44: 1}[m], n_seeds=1)
    assert abs(found["bias"]) <= 0.06


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"n_blocks": 5, "noise": 0.3},
        {"n_blocks": 5, "noise": 0.3, "seed_effect": 0.5},
        {"n_blocks": 5, "noise": 0.3, "seed_effect": 0.2, "patient_effect": 0.3},
        {"n_blocks": 5, "noise": 0.3, "sliced": True},
        {"n_blocks": 5, "noise": 0.3, "seed_effect": 0.5, "sliced": True},
        {"n_blocks": 5, "noise": 0.3, "seed_effect": 1.0, "sliced": True},
        {"n_blocks": 5, "noise": 0.3, "seed_effect": 0.2, "patient_effect": 0.3, "sliced": True},
        {"n_blocks": 10, "folds": 5, "noise": 0.3, "seed_effect": 0.2, "patient_effect": 0.3, "sliced": True},
        {"n_blocks": 20, "folds": 5, "noise": 0.3, "seed_effect": 0.5, "patient_effect": 0.5, "sliced": True},
    ],
    ids=[
        *("no seed effect", "seeds dominate", "seeds and patients"),
        *("slices", "slices, seeds dominate", "slices, seeds are all", "slices, seeds and patients"),
        *("slices, folds repeat", "slices, folds repeat, more luck"),
    ],
)
def test_intervals_over_blocks_cover(measure: ModuleType, options: dict[str, Any]) -> None:
    assert 0.92 <= measure.block_calibration(n_seeds=6, **options)["coverage"] <= 0.99


@pytest.mark.slow
def test_single_source_design(measure: ModuleType) -> None:
    assert measure.single_source_error(44, 88, n_sources=8) < 0.08
    assert measure.single_source_error(44, 352, n_sources=8) < 0.04


# -------------------------------------------------------------------- very many subsets


def sliced_table(n: int, m: int, blocks: int, draws: int) -> ScoreTable:
    """An additive game with noise, one block a subset, some failures, with replicates."""
    rng = np.random.default_rng(5)
    membership = np.unique(rng.random((n, m)) < 0.5, axis=0)
    membership = membership[membership.any(axis=1)]
    at = np.arange(len(membership))
    rng.shuffle(at)
    values = 0.7 + membership @ rng.normal(0, 0.01, (m, m)) + rng.normal(0, 0.01, membership.shape)
    scores = np.full((len(at), blocks, m), np.nan)
    scores[at, at % blocks] = np.where(membership, values, np.nan)[at]
    scores[7] = np.nan
    trained = np.zeros(scores.shape[:2], bool)
    trained[at, at % blocks] = True
    noise = rng.normal(0, 0.01, (*scores.shape, draws))
    replicates = (scores[..., None] + noise).astype(np.float32) if draws else None
    pairs = tuple((block, block) for block in range(blocks))
    return ScoreTable(tuple("abcdefgh"[:m]), pairs, membership, scores, trained, replicates)


@pytest.mark.parametrize(("blocks", "draws"), [(1, 0), (3, 0), (3, 6)])
def test_least_squares_of_many_rows_in_passes_is_that_of_all_at_once(
    monkeypatch: pytest.MonkeyPatch, blocks: int, draws: int
) -> None:
    table = sliced_table(400, 8, blocks, draws)
    whole = tim.from_table(table, "ols")
    monkeypatch.setattr("tim_search.tim.many_rows.MANY_ROWS", 10)
    monkeypatch.setattr("tim_search.tim.many.PART", 17)
    passes = tim.from_table(table, "ols")
    for name in ("estimate", "se", "se_sampling", "se_seed", "se_patients", "p_value", "low"):
        np.testing.assert_allclose(getattr(passes, name), getattr(whole, name), rtol=1e-7, atol=1e-12)


def test_tasks_that_cannot_be_told_apart_stay_unknown_in_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    table = sliced_table(400, 8, 2, 0)
    together = replace(table, membership=np.c_[table.membership[:, :7], table.membership[:, 6]])
    scores = np.where(together.membership[:, None, :], np.nan_to_num(table.scores, nan=0.7), np.nan)
    together = replace(together, scores=np.where(table.trained[:, :, None], scores, np.nan))
    whole = tim.from_table(together, "ols").estimate
    monkeypatch.setattr("tim_search.tim.many_rows.MANY_ROWS", 10)
    passes = tim.from_table(together, "ols").estimate
    assert np.isnan(passes[0, 6:]).all()
    np.testing.assert_array_equal(np.isnan(passes), np.isnan(whole))
    np.testing.assert_allclose(passes, whole, rtol=1e-7, atol=1e-12)


def test_a_model_that_would_take_too_long_gives_way_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    table = sliced_table(400, 8, 3, 0)
    blup = tim.from_table(table)
    assert blup.method == "blup"
    monkeypatch.setattr("tim_search.tim.sampled.MODEL_COST", 5e5)
    monkeypatch.setattr("tim_search.tim.sampled.MODEL_ROWS", 60)
    instead = tim.from_table(table)
    assert instead.method == "ols"
    assert any("least squares is reported instead of BLUP" in note for note in instead.notes)
    off = ~np.eye(8, dtype=bool)
    assert np.corrcoef(instead.estimate[off], blup.estimate[off])[0, 1] > 0.95
    assert np.isfinite(instead.se_seed[off]).all()
    small = tim.from_table(table, size=3)
    assert small.size == 3
    assert any("drawn at random" in note for note in small.notes)
    assert np.isfinite(small.estimate[off]).all()
