"""The surrogate: its predictions against a reference that is written out, and against games whose truth is known."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import synthetic_games as sg

from tim_search import designs, estimators, surrogate
from tim_search.games import empty
from tim_search.types import BadInput


def reference(
    game: estimators.Game, variances: estimators.Variances, codes: estimators.Array, level: estimators.Array
) -> tuple[estimators.Array, estimators.Array]:
    """Bayesian linear regression on all main effects, pairs and the size, with a flat prior on the levels."""
    q = game.codes.shape[1]
    pairs = list(combinations(range(q), 2))

    def features(z: estimators.Array) -> estimators.Array:
        products = np.array([z[:, j] * z[:, k] for j, k in pairs]).T.reshape(len(z), len(pairs))
        return np.column_stack([z, products, products.sum(axis=1) / np.sqrt(max(len(pairs), 1))])

    prior = [variances.main / q] * q + [variances.pair / max(len(pairs), 1)] * len(pairs) + [variances.size]
    r = game.nuisance.shape[1]
    design = np.column_stack([game.nuisance, features(game.codes)])
    kernel = features(game.codes) @ np.diag(prior) @ features(game.codes).T
    v = np.linalg.inv(np.eye(len(design)) + kernel)
    p = v - v @ game.nuisance @ np.linalg.solve(game.nuisance.T @ v @ game.nuisance, game.nuisance.T @ v)
    noise = float(game.scores @ p @ game.scores) / (len(design) - r)
    precision = design.T @ design + np.diag([0.0] * r + [1 / value for value in prior])
    posterior = np.linalg.inv(precision)
    asked = np.column_stack([np.tile(level, (len(codes), 1)), features(codes)])
    mean = asked @ posterior @ design.T @ game.scores
    return mean, np.sqrt(noise * np.einsum("mk,kl,ml->m", asked, posterior, asked))


@pytest.mark.parametrize(("q", "n"), [(1, 9), (2, 4), (3, 30), (5, 12), (5, 60)])
def test_the_prediction_is_that_of_bayesian_regression(q: int, n: int) -> None:
    """Both ways to factor the covariance: fewer rows than features, and more."""
    rng = np.random.default_rng(q * 100 + n)
    codes = rng.choice([-1.0, 1.0], (n, q))
    scores = 3 + codes @ rng.normal(size=q) + rng.normal(size=n)
    game = estimators.Game(codes, np.full((n, 1), n**-0.5), scores, np.zeros((n, 0)))
    variances, asked = estimators.Variances(1.3, 0.4, 0.2), rng.choice([-1.0, 1.0], (7, q))
    level = np.array([n**0.5])
    got, want = estimators.predict(game, variances, asked, level), reference(game, variances, asked, level)
    np.testing.assert_allclose(got[0], want[0], rtol=1e-7)
    np.testing.assert_allclose(got[1], want[1], rtol=1e-6)


@pytest.mark.parametrize("sliced", [False, True], ids=["crossed", "sliced"])
def test_untrained_subsets_are_predicted_with_honest_errors(sliced: bool) -> None:
    """A fifth of a noisy game tells the rest; the level of the blocks, which differs, is their mean."""
    rng = np.random.default_rng(5)
    game = sg.quadratic(8, 0)
    trained = designs.hybrid(8, 110, 0)
    table = sg.searched(game, trained, rng, n_blocks=2, noise=0.5, sliced=sliced)
    every = designs.exact(8)
    rest = every[[not (row == trained).all(axis=1).any() for row in every]]
    truth = game.scores(rest)
    level = np.nanmean(table.scores - game.scores(trained)[:, None, :], axis=0).mean(axis=0)
    ratios, spread = [], []
    for i, name in enumerate(table.tasks):
        mean, sd = surrogate.predict(table, name, rest)
        asked = rest[:, i]
        assert np.isnan(mean[~asked]).all()
        assert np.isnan(sd[~asked]).all()
        error = (mean - truth[:, i] - level[i])[asked]
        ratios.append(error / sd[asked])
        spread.append(error.std() / truth[asked, i].std())
    assert np.mean(spread) < 0.4  # the mean alone would give 1
    assert 0.88 < np.mean(abs(np.concatenate(ratios)) < 1.96) < 0.995


def test_missing_scores_are_missing_and_too_few_say_nothing() -> None:
    rng = np.random.default_rng(6)
    game = sg.quadratic(6, 0, second_order=0.0)
    every = designs.exact(6)
    table = sg.searched(game, every, rng, n_blocks=2, noise=0.0)
    lost = table.scores.copy()
    lost[::3, :, 2] = np.nan
    mean, sd = surrogate.predict(replace(table, scores=lost), table.tasks[2], every)
    with_source = every[:, 2]
    level = table.scores[with_source, :, 2].mean(axis=1)
    np.testing.assert_allclose(mean[with_source], level, atol=0.02 * level.std())
    assert (sd[with_source] < 0.05 * level.std()).all()
    first = np.arange(len(every))[:, None, None] < 4
    for few in (empty(table.tasks, table.blocks), replace(table, scores=np.where(first, table.scores, np.nan))):
        mean, sd = surrogate.predict(few, table.tasks[2], every)
        assert np.isnan(mean).all()
        assert np.isnan(sd).all()


def test_bad_questions_are_told() -> None:
    table = empty(("a", "b"), ((0, 0),))
    with pytest.raises(BadInput, match="'c'"):
        surrogate.predict(table, "c", np.ones((1, 2), bool))
    with pytest.raises(BadInput, match=r"\(n, 2\)"):
        surrogate.predict(table, "a", np.ones((1, 3), bool))
