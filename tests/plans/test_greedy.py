"""Greedy expansion on games whose best answer is known, counting what is asked for."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from tests.support.games import HELPERS, TASKS, Game, World, additive, distinct, live
from tim_search.ledger.table import empty
from tim_search.plans.best_trained import BestTrained
from tim_search.plans.expansion import rows
from tim_search.plans.greedy import Greedy
from tim_search.types import BadInput, Subset, Unit, subset


def test_finds_the_best_triple_of_an_additive_game_with_the_trainings_it_says() -> None:
    world = World(additive(HELPERS))
    (found,) = live(Greedy(("a",), TASKS, rule="paper"), world)
    assert found.best == ("a", "b", "c")
    assert found.score == pytest.approx(0.65)
    assert found.single_score == pytest.approx(0.5)
    assert found.gain == pytest.approx(0.15)
    assert found.holds
    assert found.complete
    assert [[step.size, len(step.beam), step.tried] for step in found.steps] == [[2, 3, 4], [3, 3, 6]]
    assert [kept.subset for kept in found.steps[0].beam] == [("a", "b"), ("a", "c"), ("a", "e")]
    # The source, its four pairs, and the triples of ab, ac, ae: abc, abd, abe, acd, ace, ade.
    assert len(world.trained) == 1 + 4 + 6
    assert found.trainings_alone == 11 * len(world.blocks)
    assert "size limit" in found.reason


def test_a_beam_of_one_misses_what_three_find() -> None:
    """A pair that is second best leads to the best triple: the reason the paper keeps three."""
    scores = {("a", "b"): 0.60, ("a", "c"): 0.58, ("a", "c", "d"): 0.9}
    game: Game = lambda members, task: scores.get(members, 0.5)  # noqa: E731
    (three,) = live(Greedy(("a",), TASKS, beam=3, rule="paper"), World(game))
    (one,) = live(Greedy(("a",), TASKS, beam=1, rule="paper"), World(game))
    assert three.best == ("a", "c", "d")
    assert one.best == ("a", "b")
    assert one.leader is not None
    assert one.leader.subset == ("a", "b")


def test_the_papers_rule_keeps_three_although_only_one_improves() -> None:
    scores = {("a", "b"): 0.60, ("a", "c"): 0.45, ("a", "c", "d"): 0.9}
    game: Game = lambda members, task: scores.get(members, 0.5 if len(members) == 1 else 0.4)  # noqa: E731
    (found,) = live(Greedy(("a",), TASKS, rule="paper"), World(game))
    assert found.best == ("a", "c", "d")
    (careful,) = live(Greedy(("a",), TASKS, rule="lower_bound"), World(game))
    assert careful.best == ("a", "b"), "under the lower bound only sets that improve go on"


def test_stops_where_nothing_improves() -> None:
    world = World(lambda members, task: 0.5 - 0.1 * len(members))
    (found,) = live(Greedy(("a",), TASKS, rule="paper"), world)
    assert found.best == ("a",)
    assert found.gain == 0
    assert math.isnan(found.low)
    assert not found.holds
    assert found.complete
    assert len(world.trained) == 5, "no triple may be trained"
    assert found.reason == "no set of 2 tasks is better than a"
    assert found.leader is not None
    assert found.leader.subset == ("a", "b")
    assert found.leader.gain == pytest.approx(-0.1)


def test_equal_scores_are_no_improvement() -> None:
    (found,) = live(Greedy(("a",), TASKS, rule="paper"), World(lambda members, task: 0.5))
    assert found.best == ("a",)


def test_lower_bound_asks_more_than_a_higher_mean() -> None:
    """No task helps any: the paper's rule takes the luckiest sets, a strict lower bound none."""
    lucky = live(Greedy(TASKS, TASKS, rule="paper"), World(additive({}), noise=0.01, n_replicates=20))
    careful = live(Greedy(TASKS, TASKS, confidence=0.999), World(additive({}), noise=0.01, n_replicates=20))
    assert sum(len(found.best) > 1 for found in lucky) >= 3
    assert all(found.best == (found.source,) for found in careful)
    assert all("shown" in found.reason for found in careful)
    strong = World(additive(HELPERS), noise=0.001, n_replicates=20)
    assert live(Greedy(("a",), TASKS), strong)[0].best == ("a", "b", "c")


def test_sources_share_their_trainings() -> None:
    world = World(additive(HELPERS))
    plan = Greedy(TASKS, TASKS, rule="paper")
    found = live(plan, world)
    sharing = plan.sharing(world.table())
    assert len(world.trained) == len(set(world.trained))
    assert sharing.shared == len(world.trained) * len(world.blocks)
    assert sharing.alone == {one.source: one.trainings_alone for one in found}
    assert sharing.total_alone == sum(sharing.alone.values())
    assert sharing.saved == sharing.total_alone - sharing.shared > 0
    # By itself each source gives the same answer, and needs what the shared search says it needs.
    for one in found:
        own = World(additive(HELPERS))
        assert live(Greedy((one.source,), TASKS, rule="paper"), own) == [one]
        assert len(own.trained) * len(own.blocks) == one.trainings_alone


@pytest.mark.parametrize("rule", ["paper", "lower_bound"])
def test_live_and_replayed_from_a_full_ledger_agree(rule: str) -> None:
    rng = np.random.default_rng(3)
    effects = {(i, j): float(rng.normal(0.01, 0.02)) for i in TASKS for j in TASKS}
    plan = Greedy(TASKS, TASKS, rule=rule, max_size=4)  # type: ignore[arg-type]
    world = World(additive(effects), noise=0.004, n_replicates=12, failing=[("a", "b"), ("b", "c", "d")])
    driven = live(plan, world)
    full = world.every(5)
    assert plan.ask(world.table(full)) == []
    assert repr(plan.result(world.table(full))) == repr(driven)
    assert repr(plan.result(world.table(full[::-1]))) == repr(driven), "the order of the rows may not matter"
    assert plan.sharing(world.table(full)) == plan.sharing(world.table())


def test_half_way_it_says_what_it_knows() -> None:
    plan = Greedy(("a", "b"), TASKS, rule="paper")
    world = World(additive(HELPERS))
    first = distinct(plan.ask(world.table()))
    assert first == sorted(first, key=lambda members: (len(members), members))
    assert {len(members) for members in first} == {1, 2}, "singles and pairs are one round"
    nothing = plan.result(empty(TASKS, world.blocks))
    assert [one.complete for one in nothing] == [False, False]
    assert math.isnan(nothing[0].score)
    # Half of the pairs: the best of those is known, and the search goes on asking.
    some = [("a",), ("a", "b"), ("a", "d")]
    half = plan.result(world.table(some))[0]
    assert (half.best, half.complete) == (("a", "b"), False)
    assert half.steps[0].missing == 2
    assert "waiting for 2 subsets" in half.reason
    assert set(distinct(plan.ask(world.table(some)))) == set(first) - set(some)
    # A ledger of pairs: level 1 is final, level 2 is missing.
    pairs = plan.result(world.table(world.every(2)))[0]
    assert (pairs.best, pairs.complete) == (("a", "b"), False)
    assert [step.missing for step in pairs.steps] == [0, 6]


def test_a_block_that_is_not_trained_makes_the_subset_missing() -> None:
    world = World(additive(HELPERS))
    plan = Greedy(("a",), TASKS, rule="paper")
    table = world.table(world.every(2))
    table.trained[table.rows[("a", "b")], 1] = False
    assert plan.ask(table) == [Unit(("a", "b"), *world.blocks[1])], "its other blocks are not trained again"


def test_without_the_single_task_nothing_is_believed() -> None:
    world = World(additive(HELPERS))
    (found,) = Greedy(("a",), TASKS, rule="paper").result(world.table([s for s in world.every(3) if len(s) > 1]))
    assert (found.best, found.complete) == (("a",), False)
    assert math.isnan(found.single_score)


def test_failed_subsets_are_never_chosen() -> None:
    world = World(additive(HELPERS), failing=[("a", "b"), ("a", "b", "c")])
    (found,) = live(Greedy(("a",), TASKS, rule="paper"), world)
    assert found.best == ("a", "b", "e"), "a failed pair does not bar the triples that other pairs lead to"
    assert found.steps[0].failed == 1
    assert all(kept.subset != ("a", "b") for kept in found.steps[0].beam)


def test_a_failure_in_one_block_counts_as_failed() -> None:
    world = World(additive(HELPERS))
    table = world.table(world.every(3))
    table.scores[table.rows[("a", "b", "c")], 2, 0] = np.nan
    (found,) = Greedy(("a",), TASKS, rule="paper").result(table)
    assert found.best == ("a", "b", "e")


def test_a_failed_single_task() -> None:
    """By the paper's rule any score beats none; a lower bound against nothing does not exist."""
    world = World(additive(HELPERS), failing=[("a",)])
    (found,) = live(Greedy(("a",), TASKS, rule="paper"), world)
    assert found.best == ("a", "b", "c")
    assert math.isnan(found.gain)
    assert not found.holds
    (careful,) = live(Greedy(("a",), TASKS), World(additive(HELPERS), failing=[("a",)]))
    assert careful.best == ("a",)
    assert "training of a failed" in careful.reason


def test_everything_fails() -> None:
    world = World(additive(HELPERS))
    world.failing = set(world.every(5))
    for found in live(Greedy(TASKS, TASKS), world):
        assert found.best == (found.source,)
        assert found.leader is None
        assert found.complete
        assert "failed" in found.reason
    assert json.dumps(rows(live(Greedy(TASKS, TASKS), world)))


def test_one_task_and_fewer_tasks_than_the_limit() -> None:
    (alone,) = live(Greedy(("a",), ("a",)), World(additive({}), tasks=("a",)))
    assert (alone.best, alone.complete, alone.reason) == (("a",), True, "there is no further task to add")
    world = World(additive(HELPERS))
    (found,) = live(Greedy(("a",), ("a", "b"), max_size=5, rule="paper"), world)
    assert found.best == ("a", "b")
    assert sorted(world.trained) == [("a",), ("a", "b")], "tasks outside the plan are left alone"


def test_max_size_limits_and_widens_the_search() -> None:
    pairs = World(additive(HELPERS))
    assert live(Greedy(("a",), TASKS, max_size=2, rule="paper"), pairs)[0].best == ("a", "b")
    assert max(map(len, pairs.trained)) == 2
    assert live(Greedy(("a",), TASKS, max_size=9, rule="paper"), World(additive(HELPERS)))[0].best == (
        "a",
        "b",
        "c",
        "e",
    )


# Bad settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sources": ("x",)}, "not among the tasks"),
        ({"sources": ()}, "one or more distinct"),
        ({"tasks": ("a", "a")}, "one or more distinct"),
        ({"beam": 0}, "beam must be 1 or more"),
        ({"max_size": 1}, "max_size must be 2 or more"),
        ({"rule": "best"}, "lower_bound"),
        ({"confidence": 95}, "between 0 and 1"),
    ],
)
def test_settings_that_make_no_search(settings: dict[str, object], message: str) -> None:
    given: dict[str, object] = {"sources": ("a",), "tasks": TASKS, **settings}
    with pytest.raises(BadInput, match=message):
        Greedy(**given)  # type: ignore[arg-type]


@pytest.mark.parametrize("settings", [{"beam": 10**30}, {"max_size": 10**30}])
def test_numbers_that_no_search_needs_are_refused(settings: dict[str, int]) -> None:
    with pytest.raises(BadInput, match="may be 10,000 at most"):
        Greedy(("a",), TASKS, **settings)  # type: ignore[arg-type]


def test_a_table_without_the_tasks() -> None:
    with pytest.raises(BadInput, match=r"no tasks named z; they hold a, b, c, d, e\."):
        Greedy(("a",), ("a", "z")).ask(empty(TASKS, [(0, 0)]))


def test_records_are_flat_and_go_into_json() -> None:
    world = World(additive(HELPERS), noise=0.001)
    records = rows(live(Greedy(TASKS, TASKS), world))
    assert [record["source"] for record in records] == list(TASKS)
    assert records[0]["best"] == "a + b + c"
    assert records[0]["size"] == 3
    assert json.loads(json.dumps(records))[0]["holds"] is True


def test_forty_four_tasks_in_one_search() -> None:
    """The size of the paper's task list: every pair once, and a replay that takes no time worth mentioning."""
    tasks = tuple(f"t{index:02d}" for index in range(44))
    rng = np.random.default_rng(1)
    effects = {(i, j): float(rng.normal(0, 0.02)) for i in tasks for j in tasks}
    world = World(additive(effects), tasks=tasks, blocks=[(0, 0), (1, 1)])
    plan = Greedy(tasks, tasks, rule="paper")
    found = live(plan, world)
    sharing = plan.sharing(world.table())
    assert sum(len(members) <= 2 for members in world.trained) == 44 + 44 * 43 // 2
    assert sharing.saved > 44 * 43 // 2
    for one in found:
        best = sorted(tasks, key=lambda other: -effects[one.source, other] if other != one.source else 0)[:2]
        assert one.best == subset([one.source, *best])


@pytest.mark.parametrize(("tolerance", "best"), [(0.0, ("a", "b", "c")), (0.015, ("a", "b")), (0.05, ("a",))])
def test_a_gain_up_to_the_tolerance_does_not_count(tolerance: float, best: Subset) -> None:
    """b adds 0.02 to a, c another 0.01, whatever the rule."""
    game: Game = lambda members, name: 0.5 + 0.02 * ("b" in members) + 0.01 * ("c" in members)  # noqa: E731
    world = World(game, noise=1e-5)
    for rule in ("paper", "lower_bound"):
        plan = Greedy(("a",), TASKS, rule=rule, tolerance=tolerance)  # type: ignore[arg-type]
        assert live(plan, World(game, noise=1e-5))[0].best == best
    world.train(world.every(3))
    # Of all that was trained, that is measured over the source alone: both together add 0.03.
    found = BestTrained(("a",), TASKS, 3, "paper", tolerance=tolerance).result(world.table())[0]
    assert found.best == (("a",) if tolerance == 0.05 else ("a", "b", "c"))
    with pytest.raises(BadInput, match="tolerance"):
        Greedy(("a",), TASKS, tolerance=-1)
