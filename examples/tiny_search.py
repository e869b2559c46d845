"""The whole idea of a task-combination search in one short file, without the product: run it, then read it.

Five clinical outcomes can be predicted by one network each, or by one network for several of them. Training together
helps some outcomes and harms others. Which ones? This file trains every combination, is killed half-way, goes on from
where it was, asks what each outcome does to each other one, and looks for the best small team of every outcome.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from itertools import chain, combinations
from statistics import mean

TASKS = ("death", "sepsis", "stay", "costs", "delirium")
SEEDS = (0, 1, 2)

# A subset is a sorted tuple of tasks; a unit is one training of it, with one seed.
Subset = tuple[str, ...]
Unit = tuple[Subset, int]
# The ledger is all that is ever remembered: what was trained, and the score of each of its tasks.
Ledger = dict[Unit, dict[str, float]]


class Killed(Exception):
    """The machine went away."""


# ---------------------------------------------------------------- 1. The trainer: the only thing that costs anything

#: What nobody knows in real life: how much the second task adds to the score of the first when trained together.
TRUTH = {
    ("death", "sepsis"): 0.030, ("sepsis", "death"): 0.020, ("stay", "costs"): 0.050, ("costs", "stay"): 0.040,
    ("death", "costs"): -0.025, ("delirium", "death"): 0.010, ("stay", "sepsis"): 0.015, ("sepsis", "costs"): -0.030,
}  # fmt: skip


def train(members: Subset, seed: int) -> dict[str, float]:
    """Pretend to train one network for these tasks: the validation score of each, between 0 and 1, with seed noise."""
    luck = random.Random(f"{members} {seed}")
    crowding = 0.004 * (len(members) - 1)
    return {
        task: 0.7 + sum(TRUTH.get((task, other), 0.0) for other in members) - crowding + luck.gauss(0, 0.003)
        for task in members
    }


# --------------------------------------------------------------------- 2. The loop: train what the ledger does not hold


def run(wanted: Iterable[Unit], ledger: Ledger, fail_after: int | None = None) -> int:
    """Train the wanted units that the ledger lacks, one after the other; returns how many that were.

    A unit is in the ledger before the next one begins. So a kill loses one training at most, and going on is the same
    as beginning: what is in the ledger is not trained again.
    """
    trained = 0
    for members, seed in wanted:
        if (members, seed) not in ledger:
            if trained == fail_after:
                raise Killed
            ledger[members, seed] = train(members, seed)
            trained += 1
    return trained


def units(subsets: Iterable[Subset]) -> list[Unit]:
    """Every subset with every seed."""
    return [(members, seed) for members in subsets for seed in SEEDS]


def subsets_of(tasks: Iterable[str]) -> Iterator[Subset]:
    """Every subset of the tasks, the empty one too, small ones first."""
    names = sorted(tasks)
    return chain.from_iterable(combinations(names, size) for size in range(len(names) + 1))


def score(ledger: Ledger, task: str, members: Iterable[str]) -> float:
    """Mean over the seeds of what the task scored when trained with these tasks."""
    return mean(ledger[tuple(sorted(members)), seed][task] for seed in SEEDS)


# ------------------------------------------------------------- 3. The TIM score: what does one task do to another?


def tim(ledger: Ledger, source: str, other: str) -> float:
    """What `other` adds to the score of `source`, as a mean over every team it could join.

    For each set of further tasks, compare the source trained with that set and `other`, and without `other`. The mean
    of these differences over all sets is the Banzhaf value of `other` in the game that `source` plays.
    """
    return mean(
        score(ledger, source, {source, other, *rest}) - score(ledger, source, {source, *rest})
        for rest in subsets_of(set(TASKS) - {source, other})
    )


# ------------------------------------------- 4. Greedy expansion: the best small team without training every subset


def expand(ledger: Ledger, source: str, beam: int = 3, max_size: int = 3) -> Subset:
    """The best team of a source: single task, pairs, then every further task added to the best three pairs.

    It trains what it needs as it goes, through the same loop and into the same ledger as everything else.
    """
    best: Subset = (source,)
    run(units([best]), ledger)
    teams = [best]
    for _ in range(2, max_size + 1):
        level = {tuple(sorted({*team, task})) for team in teams for task in TASKS if task not in team}
        run(units(sorted(level)), ledger)
        teams = sorted(level, key=lambda team: -score(ledger, source, team))[:beam]
        if not teams or score(ledger, source, teams[0]) <= score(ledger, source, best):
            break
        best = teams[0]
    return best


def main() -> None:
    ledger: Ledger = {}
    plan = units(members for members in subsets_of(TASKS) if members)
    n_subsets = len(plan) // len(SEEDS)
    print(f"{len(TASKS)} outcomes have {n_subsets} combinations; with {len(SEEDS)} seeds each: {len(plan)} trainings.")
    try:
        run(plan, ledger, fail_after=40)
    except Killed:
        print(f"Killed. The ledger holds {len(ledger)} trainings.")
    print(f"Started again: {run(plan, ledger)} trainings were missing. A third time: {run(plan, ledger)}.\n")

    print("What does the outcome of a column do to the outcome of a row? (TIM score, in points of 100)")
    print(" " * 10 + "".join(f"{other:>10}" for other in TASKS))
    for source in TASKS:
        cells = (f"{100 * tim(ledger, source, other):+10.1f}" if other != source else " " * 10 for other in TASKS)
        print(f"{source:>10}" + "".join(cells))

    print("\nThe best team of each outcome, found greedily in a ledger of its own:")
    shared: Ledger = {}
    for source in TASKS:
        team = expand(shared, source)
        gain = score(shared, source, team) - score(shared, source, (source,))
        print(f"{source:>10}: {' + '.join(team)} ({100 * gain:+.1f} against {source} alone)")
    print(f"That took {len(shared)} trainings of the {len(plan)}: outcomes share what they have in common.")
    print(
        "A team chosen by its own scores looks better than it is: put it to the test on new seeds and other patients."
    )


if __name__ == "__main__":
    main()
