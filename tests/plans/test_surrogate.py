"""The surrogate: its predictions against a reference that is written out, and against games whose truth is known."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from tests.support import synthetic_games as sg
from tim_search import designs
from tim_search.ledger.table import ScoreTable, empty
from tim_search.plans import surrogate
from tim_search.plans.surrogate import Surrogate
from tim_search.tim import estimators
from tim_search.types import BadInput, Unit


def reference(
    game: estimators.CodedScores, variances: estimators.Variances, codes: estimators.Array, level: estimators.Array
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
    game = estimators.CodedScores(codes, np.full((n, 1), n**-0.5), scores, np.zeros((n, 0)))
    variances, asked = estimators.Variances(1.3, 0.4, 0.2), rng.choice([-1.0, 1.0], (7, q))
    level = np.array([n**0.5])
    got, want = estimators.predictor(game, variances, level)(asked), reference(game, variances, asked, level)
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


def test_what_was_fitted_goes_with_its_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """A table that nobody holds any more is not kept alive, and one that is held is fitted once."""
    rng = np.random.default_rng(7)
    every = designs.exact(5)
    tables = [sg.searched(sg.quadratic(5, seed), every, rng, n_blocks=2, noise=0.1) for seed in range(2)]
    fits = []
    fit = surrogate._fit
    monkeypatch.setattr(surrogate, "_fit", lambda table: fits.append(1) or fit(table))
    for _ in range(2):
        for table in tables:
            for name in table.tasks:
                surrogate.predict(table, name, every)
    assert len(fits) == 2
    alive = [weakref.ref(table) for table in tables]
    del table
    tables.clear()
    gc.collect()
    assert [one() for one in alive] == [None, None]


def test_bad_questions_are_told() -> None:
    table = empty(("a", "b"), ((0, 0),))
    with pytest.raises(BadInput, match="'c'"):
        surrogate.predict(table, "c", np.ones((1, 2), bool))
    with pytest.raises(BadInput, match=r"\(n, 2\)"):
        surrogate.predict(table, "a", np.ones((1, 3), bool))


# -------------------------------------------------------------------- the search


def full(n_tasks: int = 6, noise: float = 0.0, seed: int = 0) -> ScoreTable:
    return sg.searched(
        sg.quadratic(n_tasks, seed), designs.exact(n_tasks), np.random.default_rng(seed), n_blocks=2, noise=noise
    )


def replayed(plan: Surrogate, table: ScoreTable) -> list[list[Unit]]:
    """What the plan asks for in each round, as the loop drives it."""
    rounds: list[list[Unit]] = []
    asked: set[Unit] = set()
    while wanted := plan.ask(table.of(asked)):
        assert not asked & set(wanted)
        asked |= set(wanted)
        rounds.append(wanted)
    return rounds


def test_it_finds_the_best_combination_with_few_trainings() -> None:
    """Of 255 subsets of 8 tasks; noise-free, so that the best is the best."""
    table = full(8)
    plan = Surrogate(table.tasks, table.tasks, rounds=4)
    rounds = replayed(plan, table)
    trained = {unit.subset for units in rounds for unit in units}
    assert len(trained) <= plan.most(((0, 0),)) == 8 + 16 + 4 * 8
    known = table.of([unit for units in rounds for unit in units])
    best = np.nanmax(table.mean(), axis=0)
    alone = [table.mean()[table.rows[(name,)], i] for i, name in enumerate(table.tasks)]
    share = (np.nanmax(known.mean(), axis=0) - alone) / (best - alone)
    assert share.mean() > 0.9


@pytest.mark.parametrize("max_size", [0, 3])
def test_a_search_that_is_cut_short_asks_for_the_same(max_size: int) -> None:
    """A pure function of the table: whatever else a ledger holds, and wherever a round was cut."""
    table = full(6, noise=0.3)
    plan = Surrogate(table.tasks[:3], table.tasks, rounds=2, batch=2, max_size=max_size)
    rounds = replayed(plan, table)
    everything = {unit for units in rounds for unit in units}
    assert {len(unit.subset) for unit in everything} <= set(range(1, (max_size or 6) + 1))
    assert {(name,) for name in table.tasks} <= {unit.subset for unit in rounds[0]}
    assert len(rounds) == 3
    for n, units in enumerate(rounds):
        before = [unit for earlier in rounds[:n] for unit in earlier]
        assert plan.ask(table.of(before + units[: len(units) // 2])) == units[len(units) // 2 :]
        others = [unit for unit in sorted(table.answered) if unit not in everything]
        assert plan.ask(table.of(before + others)) == units
    for units in rounds[1:]:
        # In a round only what holds a source that asks is of use.
        assert all(set(unit.subset) & set(plan.sources) for unit in units)


def test_rounding_changes_no_proposal() -> None:
    """Other machines and other numbers of threads sum in another order."""
    table = full(7, noise=0.3)
    plan = Surrogate(table.tasks, table.tasks, rounds=3)
    rng = np.random.default_rng(3)
    shaken = replace(table, scores=table.scores * (1 + 1e-14 * rng.normal(size=table.scores.shape)))
    assert replayed(plan, shaken) == replayed(plan, table)


def test_a_large_game_is_climbed_not_listed() -> None:
    """16 tasks: a source has 32,767 subsets; no change of one task makes the proposal one to expect more from."""
    rng = np.random.default_rng(0)
    game, tasks = sg.quadratic(16, 0), tuple(f"task{i:02d}" for i in range(16))
    plan = Surrogate(tasks[:1], tasks, rounds=1)
    start = [unit.subset for unit in plan.ask(empty(tasks, ((0, 0),)))]
    membership = np.array([[name in members for name in tasks] for members in start])
    known = sg.searched(game, membership, rng, n_blocks=1, noise=0.1)
    (asked,) = plan.ask(known)
    proposed = np.array([name in asked.subset for name in tasks])
    near = np.array([proposed ^ (np.arange(16) == j) for j in range(1, 16)])
    taken = {row.tobytes() for row in membership}
    rows = np.array([row for row in [proposed, *near] if row.tobytes() not in taken])
    best = np.nanmax(surrogate.predict(known, tasks[0], membership)[0])
    mean, sd = surrogate.predict(known, tasks[0], rows)
    draws = mean + sd * rng.normal(size=(20_000, 1))
    expected = np.maximum(draws - best, 0).mean(axis=0)
    assert expected[0] > 0
    assert expected[0] >= expected.max() * (1 - 1e-6)


def test_failures_and_settings() -> None:
    table = full(6)
    lost = table.scores.copy()
    lost[:, :, 0] = np.nan  # task 0 never trains
    plan = Surrogate(table.tasks, table.tasks, rounds=1)
    rounds = replayed(plan, replace(table, scores=lost))
    assert len(rounds) == 2
    tiny = full(2)
    assert len({unit.subset for units in replayed(Surrogate(tiny.tasks, tiny.tasks), tiny) for unit in units}) == 3
    for settings in (
        {"batch": 0},
        {"rounds": -1},
        {"max_size": 1},
        {"sources": ("x",)},
        {"rounds": 10**30},
        {"seed": -1},
    ):
        with pytest.raises(BadInput, match="surrogate: expected"):
            Surrogate(**{"sources": ("a",), "tasks": ("a", "b"), **settings})  # type: ignore[arg-type]
