"""Has the network learnt: the verdicts from tables whose truth is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.support.ledgers import score_table
from tim_search.ledger import Ledger
from tim_search.results.learnt import Learnt, learnt
from tim_search.types import Context, Pack, PackResult, Score, Task, Unit
from tim_search.types.references import context_of

CONTEXT = Context("cohort", "columns", "split", "m3h", '{"replicates":50}')
TASKS = {"a": Task("a", "binary"), "g": Task("g", "clustering", n_outputs=3)}
BLOCKS = ((0, 0), (1, 1), (2, 0))


def rows(task: str, blocks: tuple[tuple[int, int], ...], level: float, sd: float, seed: int) -> list[PackResult]:
    """Scores of a task alone: a level, and weightings that all models of a fold share but for their own part."""
    results = []
    for block in blocks:
        shared = np.random.default_rng(block[1]).normal(0, 0.03, 50)
        own = np.random.default_rng([seed, *block]).normal(0, sd, 50)
        unit = Unit((task,), *block)
        values = tuple((level + shared + own).tolist())
        results.append(PackResult(Pack((unit,)), (Score(unit, task, "auroc", "validation", level, replicates=values),)))
    return results


def verdict(folder: Path, alone: float | None, sd: float = 0.005, task: str = "a", **references: float) -> Learnt:
    ledger = Ledger(folder)
    with ledger.writer_lock():
        if alone is not None:
            ledger.append(rows(task, BLOCKS, alone, sd, 1), CONTEXT)
        for number, (reference, level) in enumerate(references.items()):
            key = context_of("k-means" if reference == "k_means" else reference, CONTEXT)  # type: ignore[arg-type]
            ledger.append(rows(task, ((0, 0), (0, 1)), level, sd, 2 + number), key)
    table = score_table(ledger.scores(CONTEXT.key), tuple(TASKS), BLOCKS, replicates=True)
    return learnt(table, ledger, CONTEXT, TASKS)[task]


@pytest.mark.parametrize(
    ("alone", "sd", "references", "expected"),
    [
        (0.80, 0.005, {"none": 0.5, "linear": 0.80, "boosting": 0.79}, "learnt"),
        (0.78, 0.005, {"none": 0.5, "linear": 0.80, "boosting": 0.79}, "learnt"),  # behind, within the margin
        (0.60, 0.005, {"none": 0.5, "linear": 0.80, "boosting": 0.79}, "has not learnt"),
        (0.74, 0.060, {"none": 0.5, "linear": 0.80, "boosting": 0.79}, "cannot be told"),  # behind, not surely so
        (0.50, 0.005, {"none": 0.5, "linear": 0.50, "boosting": 0.50}, "cannot be told"),  # nothing to learn
        (0.50, 0.005, {"none": 0.5, "linear": 0.52, "boosting": 0.51}, "has not learnt"),
        (None, 0.005, {"none": 0.5, "linear": 0.80}, "cannot be told"),
        (0.80, 0.005, {"none": 0.5}, "cannot be told"),
    ],
)
def test_verdicts(tmp_path: Path, alone: float | None, sd: float, references: dict[str, float], expected: str) -> None:
    answer = verdict(tmp_path, alone, sd, **references)
    assert answer.verdict == expected
    assert answer.reason


def test_the_difference_is_paired_over_patients(tmp_path: Path) -> None:
    """What all models of a fold owe to its patients is not in the interval."""
    answer = verdict(tmp_path, 0.80, none=0.5, linear=0.80)
    assert answer.behind.high - answer.behind.low < 0.03
    assert answer.references == pytest.approx({"none": 0.5, "linear": 0.8})
    assert answer.best == "linear"


def test_a_clustering_has_k_means_alone(tmp_path: Path) -> None:
    assert verdict(tmp_path, 0.3, task="g", k_means=0.2).verdict == "learnt"


def test_a_search_without_references_has_no_verdicts(tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        verdict(tmp_path, 0.8)
