"""What three strategies of expansion find for how many trainings, against the best of all subsets.

    python -m benchmarks.strategies --games --repeats 1   # synthetic games whose truth is known
    python -m benchmarks.strategies --search DIR          # replay on a finished exact search

Each strategy is a plan that is asked and sees nothing but the scores it asked for. Greedy and the surrogate are the
product's; Optuna (its TPE sampler, one study a source, deduplicated, all of them fed with every training) is here for
the comparison alone.

What is found is judged by the *share of the possible gain*: of the gain of the best subset of at most `max_size` tasks
over the source alone, how much the found subset has; mean over the sources that have something to gain. On games the
judge is the truth; on a search it is the mean over half of its blocks, and the strategies see the other half.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import optuna
from numpy.typing import NDArray

from tim_search import designs, open_search
from tim_search.ledger.table import ScoreTable, empty
from tim_search.plans.contract import Plan
from tim_search.plans.greedy import Greedy
from tim_search.plans.static import StaticPlan
from tim_search.plans.surrogate import Surrogate
from tim_search.types import Subset, Unit, subset

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
import synthetic_games as sg  # type: ignore[import-not-found]

optuna.logging.set_verbosity(optuna.logging.ERROR)
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Optuna(Plan):
    """TPE over the membership of the other tasks, one study a source; what was trained is told to it, not trained."""

    sources: tuple[str, ...]
    tasks: tuple[str, ...]
    rounds: int
    max_size: int
    seed: int = 0

    def ask(self, table: ScoreTable) -> list[Unit]:
        """The start of the surrogate, then one subset a source and round."""
        start = Surrogate(self.sources, self.tasks, 0, 1, self.max_size, self.seed)
        known = empty(table.tasks, table.blocks)
        asked: dict[Subset, None] = {}
        for number in range(self.rounds + 1):
            new = [unit.subset for unit in start.ask(known)] if number == 0 else self._propose(known, asked)
            asked |= dict.fromkeys(new)
            units = [Unit(members, *block) for members in asked for block in table.blocks]
            if missing := [unit for unit in units if unit not in table.answered]:
                return missing
            known = table.of(units)
        return []

    def most(self, blocks: Sequence[tuple[int, int]]) -> int:
        """The start, then one subset a source and round."""
        start = Surrogate(self.sources, self.tasks, 0, 1, self.max_size, self.seed)
        return start.most(blocks) + self.rounds * len(self.sources) * len(blocks)

    def _propose(self, known: ScoreTable, asked: dict[Subset, None]) -> list[Subset]:
        means = known.mean()
        new: dict[Subset, None] = {}
        largest = self.max_size or len(self.tasks)
        for source in self.sources:
            others = [name for name in self.tasks if name != source]
            space: dict[str, optuna.distributions.BaseDistribution] = {
                name: optuna.distributions.CategoricalDistribution([False, True]) for name in others
            }
            study = optuna.create_study(
                direction="maximize", sampler=optuna.samplers.TPESampler(seed=self.seed + len(asked))
            )
            column = known.tasks.index(source)
            for members, row in known.rows.items():
                if source in members and np.isfinite(means[row, column]):
                    params = {name: name in members for name in others}
                    study.add_trial(
                        optuna.trial.create_trial(params=params, distributions=space, value=means[row, column])
                    )
            for _ in range(50):  # asked again where it repeats itself or names too large a subset
                trial = study.ask(space)
                members = subset([source, *(name for name in others if trial.params[name])])
                if members not in asked and members not in new and len(members) <= largest:
                    new[members] = None
                    break
                value = means[known.rows[members], column] if members in known.rows else None
                if value is not None and np.isfinite(value):
                    study.tell(trial, value)
                else:
                    study.tell(trial, state=optuna.trial.TrialState.FAIL)
        return list(new)


def replay(plan: Plan, table: ScoreTable) -> tuple[ScoreTable, int]:
    """(what the plan asked for, trainings) on a table that holds every subset."""
    known = empty(table.tasks, table.blocks)
    asked: set[Unit] = set()
    while wanted := set(plan.ask(known)) - asked:
        asked |= wanted
        known = table.of(asked)
    return known, len(asked)


def found(known: ScoreTable, source: int, largest: int) -> NDArray[np.bool_]:
    """The subset (M,) with the best mean score of the source, by what the strategy saw; the source alone counts."""
    scores = known.mean()[:, source]
    usable = known.membership[:, source] & (known.membership.sum(1) <= largest) & np.isfinite(scores)
    rows = np.flatnonzero(usable)
    return known.membership[rows[int(np.argmax(scores[rows]))]]


def share(known: ScoreTable, judge: Callable[[NDArray[np.bool_]], Array], largest: int) -> float:
    """Share of the possible gain that the found subsets have by the judge, mean over the sources that can gain."""
    m = len(known.tasks)
    every = designs.sized(m, largest)
    truth = judge(every)
    shares = []
    for i in range(m):
        alone = truth[i, i]  # the i-th row of `every` is the i-th task alone
        possible = np.nanmax(truth[:, i]) - alone
        if possible > 0:
            row = int(np.flatnonzero((every == found(known, i, largest)).all(axis=1))[0])
            shares.append((truth[row, i] - alone) / possible)
    return float(np.mean(shares))


def strategies(tasks: tuple[str, ...], largest: int) -> dict[str, Plan]:
    """The plans compared."""
    plans: dict[str, Plan] = {
        "greedy, beam 1, paper": Greedy(tasks, tasks, 1, largest, "paper"),
        "greedy, beam 3, paper": Greedy(tasks, tasks, 3, largest, "paper"),
        "greedy to 3, beam 3, paper": Greedy(tasks, tasks, 3, min(3, largest), "paper"),
        "greedy, beam 3, lower bound": Greedy(tasks, tasks, 3, largest, "lower_bound"),
    }
    for rounds in (0, 2, 4, 8):
        plans[f"surrogate, {rounds} rounds"] = Surrogate(tasks, tasks, rounds, 1, largest)
        if rounds:
            plans[f"optuna, {rounds} rounds"] = Optuna(tasks, tasks, rounds, largest)
    return plans


def on_games(n_tasks: int, repeats: int, noise: float, largest: int) -> dict[str, tuple[float, float]]:
    """strategy -> (subsets trained, share of the possible gain), means over games and repeats."""
    sums: dict[str, list[tuple[float, float]]] = {}
    for make in (sg.saturating, sg.extremes, sg.quadratic):
        for repeat in range(repeats):
            game = make(n_tasks, repeat)
            rng = np.random.default_rng([repeat, 11])
            table = sg.searched(game, designs.sized(n_tasks, largest), rng, n_blocks=2, noise=noise)
            for name, plan in strategies(table.tasks, largest).items():
                known, n = replay(plan, table)
                sums.setdefault(name, []).append((n / 2, share(known, game.scores, largest)))
    return {
        name: (float(np.mean([n for n, _ in rows])), float(np.mean([s for _, s in rows])))
        for name, rows in sums.items()
    }


def on_search(folder: str, largest: int) -> dict[str, tuple[float, float]]:
    """The same on a finished search: seen are half of its blocks, the other half judges; all splits in halves."""
    table = open_search(folder).table
    n = len(table.blocks)
    halves = [[b for b in range(n) if code >> b & 1] for code in range(2**n)]
    halves = [half for half in halves if len(half) == n // 2]
    sums: dict[str, list[tuple[float, float]]] = {}
    for half in halves:
        rest = [b for b in range(n) if b not in half]
        replicates = None if table.replicates is None else table.replicates[:, half]
        seen = ScoreTable(
            table.tasks,
            tuple(table.blocks[b] for b in half),
            table.membership,
            table.scores[:, half],
            table.trained[:, half],
            replicates,
        )
        held = table.scores[:, rest].mean(axis=1)
        order = {row.tobytes(): at for at, row in enumerate(table.membership)}

        judge = partial(_held, held, order)
        every = StaticPlan(designs.subsets(designs.sized(len(table.tasks), largest), table.tasks))
        for name, plan in {**strategies(table.tasks, largest), "exhaustive": every}.items():
            known, trained = replay(plan, seen)
            sums.setdefault(name, []).append((trained / len(half), share(known, judge, largest)))
    return {
        name: (float(np.mean([n for n, _ in rows])), float(np.mean([s for _, s in rows])))
        for name, rows in sums.items()
    }


def _held(held: Array, order: dict[bytes, int], rows: NDArray[np.bool_]) -> Array:
    return held[[order[row.tobytes()] for row in rows]]


def main() -> None:
    """Print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--games", action="store_true")
    parser.add_argument("--search", metavar="DIR")
    parser.add_argument("--tasks", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--max-size", type=int, default=0, help="tasks in the largest subset; 0: no limit")
    parser.add_argument("--noise", type=float, nargs="+", default=[0.1, 0.5, 2.0])
    options = parser.parse_args()
    if options.games:
        largest = options.max_size or options.tasks
        for noise in options.noise:
            print(f"\n{options.tasks} tasks, subsets of up to {largest}, noise {noise} (2 blocks)")
            show(on_games(options.tasks, options.repeats, noise, largest))
    if options.search:
        largest = options.max_size or len(open_search(options.search).tasks)
        print(f"\n{options.search}, subsets of up to {largest}")
        show(on_search(options.search, largest))


def show(rows: dict[str, tuple[float, float]]) -> None:
    """One line a strategy."""
    for name, (trained, reached) in sorted(rows.items(), key=lambda item: item[1][0]):
        print(f"  {name:30s} {trained:7.1f} subsets   {100 * reached:6.1f} % of the possible gain", flush=True)


if __name__ == "__main__":
    main()
