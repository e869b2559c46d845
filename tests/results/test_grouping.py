"""Which models to deploy: against brute force on small games, and what is said of a choice."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support.synthetic_games import saturating
from tim_search import designs
from tim_search.ledger.table import ScoreTable
from tim_search.plans import surrogate
from tim_search.report import figures
from tim_search.results import grouping
from tim_search.results.grouping import solver
from tim_search.types import BadInput

Array = NDArray[np.float64]


def members_of(m: int) -> NDArray[np.bool_]:
    """All subsets of m tasks, (2^m - 1, m)."""
    return ((np.arange(1, 2**m)[:, None] >> np.arange(m)) & 1).astype(bool)


def table_of(
    membership: NDArray[np.bool_], scores: Array, replicates: NDArray[np.float32] | None = None, folds: int = 1
) -> ScoreTable:
    """A table of scores (B, blocks, M), each unit with a score trained."""
    names = tuple("abcdefghijklmnopqrstuvwxyz"[: membership.shape[1]])
    blocks = tuple((seed, seed % folds) for seed in range(scores.shape[1]))
    return ScoreTable(names, blocks, membership, scores, np.isfinite(scores).any(axis=2), replicates)


def noisy(m: int, noise: float, blocks: int, seed: int = 0) -> ScoreTable:
    """A saturating game squeezed into scores below 1, trained in every block."""
    game, membership = saturating(m, seed), members_of(m)
    rng = np.random.default_rng(seed)
    runs = np.stack([game.run(membership, noise, rng) for _ in range(blocks)], axis=1)
    return table_of(membership, 0.7 + 0.01 * runs)


def brute(gains: Array, budget: int, objective: grouping.Objective) -> tuple[float, float] | None:
    """The best (worst gain or 0, total) over all choices of at most `budget` rows."""
    best = None
    for size in range(1, budget + 1):
        for rows in itertools.combinations(range(len(gains)), size):
            served = np.fmax.reduce(gains[list(rows)])
            if np.isnan(served).any():
                continue
            value = (float(served.min()) if objective == "worst" else 0.0, float(served.sum()))
            best = value if best is None or value > best else best
    return best


def value(gains: Array, rows: tuple[int, ...], objective: grouping.Objective) -> tuple[float, float]:
    served = np.fmax.reduce(gains[list(rows)])
    return (float(served.min()) if objective == "worst" else 0.0), float(served.sum())


@pytest.mark.parametrize("objective", grouping.OBJECTIVES)
@pytest.mark.parametrize("seed", range(12))
def test_the_best_of_all_choices_is_found(objective: grouping.Objective, seed: int) -> None:
    """Small games with failed subsets, ties and tasks that few subsets hold, for every budget, against all covers."""
    rng = np.random.default_rng(seed)
    m = int(rng.integers(1, 5))
    membership = members_of(m)
    gains = np.where(membership, rng.normal(size=membership.shape), np.nan)
    if seed % 3 == 1:
        gains = np.round(gains)  # many ties
    if seed % 3 == 2:
        gains[rng.random(len(gains)) < 0.4] = np.nan  # failed
    for budget in range(1, m + 1):
        expected = brute(gains, budget, objective)
        rows = grouping.solve(gains, budget, objective)
        if expected is None:
            assert rows is None
            continue
        assert rows is not None
        assert len(rows) <= budget
        assert value(gains, rows, objective) == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(4))
def test_what_the_bound_rules_out_is_in_no_best_choice(seed: int) -> None:
    """Larger games: the answer with the shortlist is that of the programme on all candidates."""
    rng = np.random.default_rng(seed)
    membership = members_of(7)
    gains = np.where(membership, rng.normal(size=membership.shape) + rng.normal(size=7), np.nan)
    for budget in (1, 2, 4):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(solver, "_shortlist", lambda gains, budget: np.arange(len(gains)))
            whole = grouping.solve(gains, budget)
        rows = grouping.solve(gains, budget)
        assert rows is not None
        assert whole is not None
        assert value(gains, rows, "total") == pytest.approx(value(gains, whole, "total"))


def test_nobody_serves_a_task_that_no_model_holds() -> None:
    gains = np.array([[1.0, np.nan], [2.0, np.nan]])
    assert grouping.solve(gains, 2) is None
    assert grouping.solve(gains, 2, "worst") is None


def by_hand() -> ScoreTable:
    """Three tasks, two blocks: a and b help each other, c is harmed by both."""
    membership = members_of(3)
    scores = np.full((7, 2, 3), np.nan)
    known = {
        "a": [0.6], "b": [0.8], "c": [0.5], "ab": [0.7, 0.85], "ac": [0.61, 0.4], "bc": [0.8, 0.45],
        "abc": [0.68, 0.84, 0.45],
    }  # fmt: skip
    for row, members in enumerate(membership):
        name = "".join(np.array(list("abc"))[members])
        scores[row][:, members] = np.array(known[name]) + np.array([[-0.01], [0.01]])
    return table_of(membership, scores)


def test_a_choice_by_hand() -> None:
    found = grouping.group(by_hand(), 2, draws=4)
    assert [model.subset for model in found.choice.models] == [("a", "b"), ("c",)]
    served = found.choice.served
    assert served["a"].gain == pytest.approx(0.1)
    assert served["a"].relative == pytest.approx(0.1 / 0.4)
    assert served["b"].relative == pytest.approx(0.05 / 0.2)
    assert (served["c"].gain, served["c"].low, served["c"].high) == (0, 0, 0)
    assert found.choice.total == pytest.approx(0.5)
    # The blocks differ by their level alone, so the gain does not vary between them.
    assert (found.choice.low, found.choice.high) == pytest.approx((0.5, 0.5))
    assert found.unmeasured == ()
    assert [(len(one.models), round(one.total, 4)) for one in found.front] == [(1, 0.3), (2, 0.5)]
    # One model: c loses a tenth of what it could win, a and b gain.
    one = grouping.group(by_hand(), 1, draws=0)
    assert one.choice.models[0].subset == ("a", "b", "c")
    assert one.choice.worst == pytest.approx(-0.1)
    assert any("Served worse" in note and "c" in note for note in one.notes)
    absolute = grouping.group(by_hand(), 2, gain="absolute", draws=0)
    assert absolute.choice.total == pytest.approx(0.15)


def test_without_a_number_as_few_models_as_gain_the_most() -> None:
    assert len(grouping.group(by_hand(), draws=0).choice.models) == 2
    # More models than gain anything are not taken.
    assert len(grouping.group(by_hand(), 3, draws=0).choice.models) == 2


def test_the_size_limit_holds_and_one_task_is_enough() -> None:
    found = grouping.group(by_hand(), 3, max_size=1, draws=0)
    assert [model.subset for model in found.choice.models] == [("a",), ("b",), ("c",)]
    assert found.choice.total == 0
    single = table_of(np.ones((1, 1), bool), np.full((1, 2, 1), 0.7))
    assert [model.subset for model in grouping.group(single, 1).choice.models] == [("a",)]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"models": 1, "max_size": 2}, "cannot serve 3 tasks. Allow 2 models"),
        ({"models": 0}, "expected 1 or more"),
        ({"max_size": 0}, "--max-size"),
        ({"objective": "best"}, "total"),
        ({"gain": "odd"}, "relative"),
    ],
)
def test_settings_that_allow_no_choice_are_bad_input(options: dict[str, object], words: str) -> None:
    with pytest.raises(BadInput, match=words):
        grouping.group(by_hand(), **options)  # type: ignore[arg-type]


def test_a_failed_subset_is_no_candidate_and_nothing_is_imputed() -> None:
    table = by_hand()
    table.scores[table.rows["a", "b"], 1] = np.nan  # failed in one block, which is its final answer
    found = grouping.group(table, 2, draws=0)
    assert ("a", "b") not in [model.subset for model in found.choice.models]
    row = found.candidates.subsets.index(("a", "b"))
    assert found.candidates.measured[row]
    assert np.isnan(found.candidates.score[row]).all()
    # One model can only be the whole, and its training failed.
    table.scores[table.rows["a", "b", "c"]] = np.nan
    with pytest.raises(BadInput, match="at least 2"):
        grouping.group(table, 1)


def test_a_task_alone_without_a_score_and_too_few_others_is_bad_input() -> None:
    table = by_hand()
    table.scores[table.rows[("a",)]] = np.nan
    with pytest.raises(BadInput, match="no score of a trained alone"):
        grouping.group(table, 2)


def test_a_perfect_task_has_no_relative_gain() -> None:
    table = by_hand()
    table.scores[table.rows[("b",)], :, 1] = 1.0
    with pytest.raises(BadInput, match=r"and b trained alone reach 1 already.*--gain absolute"):
        grouping.group(table, 2)
    assert grouping.group(table, 2, gain="absolute").choice.served["b"].score == pytest.approx(1.0)


def test_nobody_deploys_a_control() -> None:
    found = grouping.group(by_hand(), control="c")
    assert found.candidates.tasks == ("a", "b")
    assert [model.subset for model in found.choice.models] == [("a", "b")]


def sliced(m: int = 6, n: int = 48, noise: float = 0.1) -> tuple[ScoreTable, Array]:
    """A sliced sample of a game with its own level in each of three blocks; and the true scores of all subsets."""
    game, rng = saturating(m, 3), np.random.default_rng(5)
    membership = designs.hybrid(m, budget=n, seed=1)
    scores = np.full((n, 3, m), np.nan)
    runs = game.run(membership, noise, rng)
    for row in range(n):
        scores[row, row % 3] = 0.7 + 0.01 * runs[row] + 0.02 * (row % 3)
    return table_of(membership, scores, folds=3), 0.7 + 0.01 * game.scores(members_of(m)) + 0.02


def test_a_sliced_search_is_chosen_from_by_prediction_and_says_so() -> None:
    table, truth = sliced()
    found = grouping.group(table, 2)
    assert found.choice.predicted
    assert found.certainty is None
    assert math.isnan(found.choice.low)
    assert set(found.unmeasured) == {model.subset for model in found.choice.models} | {(name,) for name in "abcdef"}
    assert any("--train" in note for note in found.notes)
    for one in found.choice.served.values():
        assert one.predicted
        assert one.low < one.gain < one.high
    # The prediction is good enough that the choice reaches most of what the true scores allow.
    membership = members_of(6)
    alone = np.array([truth[membership.sum(1) == 1][i][i] for i in range(6)])
    gains = (truth - alone) / (1 - alone)
    best = grouping.solve(gains, 2)
    assert best is not None
    rows = [int(np.flatnonzero((membership == [name in model.subset for name in "abcdef"]).all(1))[0])
            for model in found.choice.models]  # fmt: skip
    assert np.fmax.reduce(gains[rows]).sum() > 0.8 * np.fmax.reduce(gains[list(best)]).sum()


def test_measured_scores_come_before_predictions() -> None:
    table = noisy(5, 0.1, 2)
    known = table.membership.sum(axis=1) != 3
    part = ScoreTable(table.tasks, table.blocks, table.membership[known], table.scores[known], table.trained[known])
    candidates = grouping.group(part, 2, draws=0).candidates
    assert candidates.every
    for row, members in enumerate(candidates.subsets):
        column = [table.tasks.index(name) for name in members]
        assert candidates.measured[row] == (len(members) != 3)
        if len(members) != 3:
            measured = part.mean()[part.rows[members]][column]
            assert candidates.score[row][column].tolist() == measured.tolist()
            assert not candidates.sd[row].any()
        else:
            mean, sd = surrogate.predict(part, members[0], np.isin(table.tasks, members)[None])
            assert candidates.score[row][column[0]] == pytest.approx(mean[0])
            assert candidates.sd[row][column[0]] == pytest.approx(sd[0])


def test_many_tasks_are_searched_from_choice_to_neighbours() -> None:
    """With every subset measured, the walk from the trained ones by neighbours finds what the full list holds."""
    table = noisy(6, 0.2, 2)
    whole = grouping.group(table, 2, max_size=4, draws=0)
    # Half of the subsets are trained; what is added on the way is predicted.
    rng = np.random.default_rng(0)
    known = (rng.random(63) < 0.5) | (table.membership.sum(axis=1) == 1)
    part = ScoreTable(table.tasks, table.blocks, table.membership[known], table.scores[known], table.trained[known])
    found = grouping.group(part, 2, max_size=4, draws=0, most=10)
    assert not found.candidates.every
    assert any("Not all subsets" in note for note in found.notes)
    assert max(map(len, found.candidates.subsets)) <= 4
    assert found.choice.total == pytest.approx(whole.choice.total, abs=0.35 * abs(whole.choice.total))


def test_the_front_rises_and_ends_where_nothing_more_is_gained() -> None:
    table = noisy(6, 0.3, 2)
    for objective in grouping.OBJECTIVES:
        found = grouping.group(table, objective=objective, draws=0)
        values = [(one.worst, one.total) if objective == "worst" else (one.total,) for one in found.front]
        assert values == sorted(values)
        assert [len(one.models) for one in found.front] == sorted({len(one.models) for one in found.front})
        gains = found.candidates.gains()
        assert found.front[-1].total == pytest.approx(np.fmax.reduce(gains).sum())


def test_certainty_knows_luck_from_a_gain() -> None:
    """Without any effect the chosen gain is luck, and blocks that did not choose do not show it; an effect stays."""
    membership, rng = members_of(4), np.random.default_rng(1)
    noise = np.where(membership[:, None, :], rng.normal(0, 0.01, (15, 5, 4)), np.nan)
    luck, held_out = [], []
    for seed in range(8):
        dice = np.random.default_rng(seed).normal(0, 0.01, (15, 4, 4))
        nothing = grouping.group(
            table_of(membership, 0.7 + np.where(membership[:, None, :], dice, np.nan)), 3, gain="absolute", draws=2
        )
        assert nothing.certainty is not None
        luck.append(nothing.choice.total)
        held_out.append(nothing.certainty.held_out)
    assert np.mean(luck) > 0.015
    assert abs(np.mean(held_out)) < 0.5 * np.mean(luck)
    pair = membership[:, 0] & membership[:, 1] & (membership.sum(axis=1) == 2)
    other = membership[:, 2] & membership[:, 3] & (membership.sum(axis=1) == 2)
    effect = 0.2 * (pair | other)[:, None, None]
    clear = grouping.group(table_of(membership, 0.7 + effect + noise), 2)
    assert clear.certainty is not None
    assert clear.certainty.same == 1
    assert set(clear.certainty.models) == {("a", "b"), ("c", "d")}
    assert clear.certainty.held_out == pytest.approx(clear.choice.total, rel=0.1)
    assert clear.choice.low > 0


def test_replicates_widen_what_one_block_cannot_show() -> None:
    """One block: the interval of the total and the draws come from the patients' replicates alone."""
    membership, rng = members_of(3), np.random.default_rng(2)
    scores = np.where(membership[:, None, :], 0.7 + rng.normal(0, 0.01, (7, 1, 3)), np.nan)
    bare = grouping.group(table_of(membership, scores), 2)
    assert bare.certainty is None
    assert math.isnan(bare.choice.low)
    assert any("nothing says" in note for note in bare.notes)
    draws = (scores[..., None] + rng.normal(0, 0.01, (7, 1, 3, 30))).astype(np.float32)
    found = grouping.group(table_of(membership, scores, draws), 2)
    assert found.certainty is not None
    assert 0 < found.certainty.same <= 1
    assert math.isnan(found.certainty.held_out)
    assert found.choice.low < found.choice.total < found.choice.high


def test_a_record_is_plain_and_the_front_can_be_drawn() -> None:
    table, _ = sliced()
    pair = grouping.group(by_hand(), 2, overlaps=[("a", "b")], draws=4)
    for found in (pair, grouping.group(table, 2)):
        plain = grouping.record(found)
        again = json.loads(json.dumps(plain, allow_nan=False))
        assert again == plain
        assert {one["task"] for model in plain["models"] for one in model["serves"]} == set(found.candidates.tasks)
        data = figures.front_data(found)
        assert data.models.tolist() == [len(one.models) for one in found.front]
        assert data.chosen.sum() == 1
        assert figures.draw_front(data).get_xlabel() == "deployed models"
    assert any("near-identical" in note for note in pair.notes)


def test_single_tasks_alone_are_more_models_than_are_looked_at() -> None:
    m = 40
    names = tuple(f"t{number:02}" for number in range(m))
    scores = np.where(np.eye(m, dtype=bool), 0.7, np.nan)[:, None, :]
    table = ScoreTable(names, ((0, 0),), np.eye(m, dtype=bool), scores, np.ones((m, 1), bool))
    with pytest.raises(BadInput, match=r"candidate models of at most 10 tasks serve all 40 tasks.*train more"):
        grouping.group(table, max_size=10)
