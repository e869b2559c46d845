"""The best combination of all that were trained, whatever path led there."""

from __future__ import annotations

import pytest

from tests.support.games import TASKS, Game, World
from tim_search.plans.best_trained import BestTrained
from tim_search.plans.greedy import Greedy


def test_the_best_of_all_that_was_trained_needs_no_path() -> None:
    """Alone b and c harm a, together they help: greedy expansion stops at once, a search of any subsets does not."""
    game: Game = lambda members, name: 0.5 + (0.1 if {"b", "c"} <= set(members) else -0.02 * (len(members) - 1))  # noqa: E731
    world = World(game, noise=0.001, failing=[("a", "c")])
    world.train(world.every(4))
    table = world.table()
    plan = BestTrained(("a", "b"), TASKS, max_size=3)
    assert Greedy(("a",), TASKS).result(table)[0].best == ("a",)
    found = plan.result(table)[0]
    assert found.best == found.leader.subset == ("a", "b", "c")  # type: ignore[union-attr]
    assert found.holds
    assert found.gain == pytest.approx(0.1, abs=0.01)
    assert found.reason == "the best of 10 combinations that were trained"
    assert {"b", "c"} <= set(plan.result(table)[1].best)
    sharing = plan.sharing(table)
    assert sharing.shared == 3 * len([members for members in world.trained if {"a", "b"} & set(members)])
    assert sharing.alone["a"] == 3 * len([members for members in world.trained if "a" in members])
    nothing = BestTrained(("d",), ("d", "e"), 2).result(table)[0]
    assert (nothing.best, nothing.reason) == (
        ("d",),
        "none of 1 combinations that were trained is shown to be better than d",
    )
    waiting = plan.result(World(game).table([("a", "b")]))[0]
    assert not waiting.complete
    assert "waiting for a alone" in waiting.reason
