"""How often the verdict on a source is right, in searches whose truth is planted: no effect, help, harm, not learnt.

    OMP_NUM_THREADS=1 python -m benchmarks.verdicts_of_searches [--searches 300]

Scores are made up, not trained: the true score of a subset, plus what patients and seeds do to it, with the spread that
they have on SUPPORT2; so the truth is known for certain. The verdict is the product's, before and after a confirmation.
`benchmarks.verdicts` asks real networks whether they have learnt.
"""

from __future__ import annotations

import argparse
import json
import math
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tim_search.ledger.table import ScoreTable
from tim_search.plans.expansion import Expansion
from tim_search.plans.greedy import Greedy
from tim_search.results import confirmation
from tim_search.results.confirmation import UNKNOWN, Confirmed, contrast
from tim_search.results.learnt import Learnt, judge
from tim_search.results.verdicts import Verdict, verdict
from tim_search.tim.result import discoveries
from tim_search.types import Subset

TASKS = ("nothing", "helped", "slightly_helped", "harmed", "behind")
#: What the column's task adds to the score of the row's; the last source is .1 behind its linear model, and helped.
EFFECTS = np.array(
    [
        [0, 0, 0, 0, 0],
        [0.03, 0, 0, 0, 0],
        [0.01, 0, 0, 0, 0],
        [-0.02, -0.02, -0.02, 0, -0.02],
        [0.03, 0, 0, 0, 0],
    ]
)
#: Standard deviations of a seed, of patients alike for all subsets, of patients for each; replicates; test seeds.
SEED, PATIENTS, OWN, REPLICATES, SEEDS = 0.008, 0.015, 0.004, 50, 5
ALONE, FDR = 0.75, 0.1
MEMBERSHIP = ((np.arange(1, 32)[:, None] >> np.arange(5)) & 1).astype(bool)
TRUTH = np.where(MEMBERSHIP, ALONE + MEMBERSHIP @ EFFECTS.T, np.nan)

Array = NDArray[np.float64]


def scores(true: Array, blocks: int, draws: int, dice: np.random.Generator, *, patients_alike: bool) -> Array:
    """float64 (B, blocks, M, 1 + draws) of true scores (B, M); `patients_alike`: one set of patients for all blocks."""
    folds = 1 if patients_alike else blocks
    shape = (len(true), folds, true.shape[1], 1 + draws)

    def patients(*dims: int, spread: float) -> Array:
        real, drawn = dice.normal(0, spread, (*dims, 1)), dice.normal(0, spread, (*dims, draws))
        return np.concatenate([real, real + drawn], axis=-1)

    held = patients(1, *shape[1:3], spread=PATIENTS) + patients(*shape[:3], spread=OWN)
    return true[:, None, :, None] + held + dice.normal(0, SEED, (len(true), blocks, true.shape[1], 1))


def judged(table: ScoreTable) -> dict[str, Learnt]:
    """What reference models say: a linear one as good as the network, but for the source that is behind."""
    answers = {}
    for place, name in enumerate(TASKS):
        row = table.rows[(name,)]
        assert table.replicates is not None
        alone = np.concatenate([table.scores[row, :, place][:, None], table.replicates[row, :, place]], axis=1)
        linear = alone + (0.1 if name == "behind" else 0.0)
        answers[name] = judge(name, alone, {"none": np.full_like(alone, 0.5), "linear": linear})
    return answers


def tests(chosen: dict[str, Subset], dice: np.random.Generator) -> dict[str, Confirmed]:
    """The comparison of each chosen combination with the source alone, on test patients and fresh seeds."""
    rows = {members: row for row, members in enumerate(_subsets())}
    drawn = scores(TRUTH, SEEDS, 400, dice, patients_alike=True)
    done = {}
    for source, members in chosen.items():
        place = TASKS.index(source)
        ours, theirs = (drawn[rows[each], :, place] for each in (members, (source,)))
        done[source] = Confirmed(
            source, "auroc", members, SEEDS, float(theirs[:, 0].mean()), float(ours[:, 0].mean()), SEED, SEED,
            math.nan, math.nan, contrast(ours, theirs), UNKNOWN, UNKNOWN, 1.0, math.nan, False, "",
        )  # fmt: skip
    rejected = discoveries(np.array([each.gain.p_value for each in done.values()]), FDR)
    for source, stands in zip(tuple(done), rejected.tolist(), strict=True):
        compared = replace(done[source], rejected=stands)
        done[source] = replace(compared, verdict=confirmation.verdict(compared))
    return done


def search(number: int, blocks: int) -> tuple[dict[str, Verdict], dict[str, Verdict]]:
    """The verdicts of one search of all subsets, before and after a confirmation."""
    dice = np.random.default_rng(number)
    made = scores(TRUTH, blocks, REPLICATES, dice, patients_alike=False)
    places = tuple((b, b) for b in range(blocks))
    trained = np.ones((len(TRUTH), blocks), bool)
    table = ScoreTable(TASKS, places, MEMBERSHIP, made[..., 0], trained, made[..., 1:].astype(np.float32))
    learnt = judged(table)
    expansions = {
        each.source: each.alone("") if learnt[each.source].verdict == "has not learnt" else each
        for each in Greedy(TASKS, TASKS).result(table)
    }
    paper = {each.source: each for each in Greedy(TASKS, TASKS, rule="paper").result(table)}
    chosen = {name: best for name in TASKS if len(best := _tested(expansions[name], paper[name])) > 1}
    # Somebody asks for a combination that harms.
    chosen["harmed"] = tuple(sorted(("harmed", "helped")))
    after = tests(chosen, dice)
    before = {name: verdict(expansions[name], "auroc", (), learnt[name]) for name in TASKS}
    return before, {
        name: verdict(expansions[name], "auroc", [after[name]] if name in after else [], learnt[name]) for name in TASKS
    }


def _tested(sure: Expansion, paper: Expansion) -> Subset:
    """What a confirmation tests: the combination that holds, else the highest score."""
    return sure.best if sure.holds else paper.best


def _subsets() -> list[Subset]:
    return [tuple(sorted(name for name, held in zip(TASKS, row, strict=True) if held)) for row in MEMBERSHIP]


def _gain(each: Verdict) -> float:
    """The true gain of what a verdict names."""
    members = [name in each.combination for name in TASKS]
    return float(EFFECTS[TASKS.index(each.source)][members].sum())


def main() -> None:
    """Print a line a source and moment: how often each verdict was given, and whether what it names is true."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--searches", type=int, default=300)
    searches = parser.parse_args().searches
    for blocks in (2, 5):
        counts: dict[tuple[str, str], Counter[str]] = {}
        named: Counter[tuple[str, bool]] = Counter()
        for number in range(searches):
            for moment, verdicts in zip(("before", "after"), search(number, blocks), strict=True):
                for name, each in verdicts.items():
                    counts.setdefault((name, moment), Counter())[each.kind] += 1
                    if moment == "after" and each.kind in ("promising", "confirmed", "refuted"):
                        right = _gain(each) < 0 if each.kind == "refuted" else _gain(each) > 0
                        named[each.kind, right] += 1
        for (name, moment), by_kind in sorted(counts.items()):
            shares: dict[str, Any] = {kind: round(count / searches, 3) for kind, count in by_kind.most_common()}
            print(json.dumps({"blocks": blocks, "source": name, "confirmation": moment, **shares}), flush=True)
        for kind in ("promising", "confirmed", "refuted"):
            true, false = named[kind, True], named[kind, False]
            print(json.dumps({"blocks": blocks, "kind": kind, "given": true + false, "true": true}), flush=True)


if __name__ == "__main__":
    main()
