"""Made-up games: subsets trained by a formula, and a greedy search driven live on them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable

import numpy as np

from tim_search.ledger.table import ScoreTable
from tim_search.plans.expansion import Expansion
from tim_search.plans.greedy import Greedy
from tim_search.types import Subset, Unit, subset

Game = Callable[[Subset, str], float]
TASKS = ("a", "b", "c", "d", "e")


class World:
    """A made-up cohort: trains subsets by a formula, with noise a block, and counts the trainings."""

    def __init__(
        self,
        game: Game,
        tasks: Iterable[str] = TASKS,
        blocks: Iterable[tuple[int, int]] = ((0, 0), (1, 1), (2, 2)),
        noise: float = 0.0,
        n_replicates: int = 0,
        failing: Iterable[Subset] = (),
    ) -> None:
        self.game, self.noise, self.n_replicates = game, noise, n_replicates
        self.tasks, self.blocks, self.failing = tuple(tasks), tuple(blocks), set(failing)
        self.trained: list[Subset] = []

    def train(self, wanted: Iterable[Subset]) -> None:
        self.trained += wanted

    def table(self, only: Iterable[Subset] | None = None) -> ScoreTable:
        members = list(self.trained if only is None else only)
        shape = (len(members), len(self.blocks), len(self.tasks))
        membership = np.zeros((len(members), len(self.tasks)), bool)
        scores = np.full(shape, np.nan)
        replicates = np.full((*shape, self.n_replicates), np.nan, np.float32)
        for row, names in enumerate(members):
            # Noise belongs to the subset and the block, not to the order of training.
            rng = np.random.default_rng([self.tasks.index(name) for name in names])
            for name in names:
                column = self.tasks.index(name)
                membership[row, column] = True
                noise = self.noise * rng.normal(size=(len(self.blocks), self.n_replicates + 1))
                if names not in self.failing:
                    scores[row, :, column] = self.game(names, name) + noise[:, 0]
                    replicates[row, :, column] = self.game(names, name) + noise[:, 1:]
        trained = np.ones(shape[:2], bool)
        return ScoreTable(
            self.tasks, self.blocks, membership, scores, trained, replicates if self.n_replicates else None
        )

    def every(self, max_size: int) -> list[Subset]:
        return [subset(s) for k in range(1, max_size + 1) for s in itertools.combinations(self.tasks, k)]


def live(plan: Greedy, world: World) -> list[Expansion]:
    """Drive the search to its end, as the loop does."""
    while units := plan.ask(world.table()):
        assert len(set(units)) == len(units)
        wanted = distinct(units)
        assert set(units) == {Unit(members, *block) for members in wanted for block in world.blocks}
        assert not set(wanted) & set(world.trained), "asked for a subset that is trained already"
        world.train(wanted)
    return plan.result(world.table())


def distinct(units: Iterable[Unit]) -> list[Subset]:
    """The subsets of units, each once, in their order."""
    return list(dict.fromkeys(unit.subset for unit in units))


def additive(effects: dict[tuple[str, str], float]) -> Game:
    """Score of i in S: the sum of the effects (i, j) of the other members j."""
    return lambda members, task: 0.5 + sum(effects.get((task, other), 0.0) for other in members if other != task)


HELPERS = {("a", "b"): 0.1, ("a", "c"): 0.05, ("a", "d"): -0.1, ("a", "e"): 0.02, ("b", "a"): -0.05}
