"""Ledger rows laid out as games."""

from __future__ import annotations

import numpy as np
import pandas as pd

from tests.support.ledgers import score_table
from tim_search.ledger.table import empty
from tim_search.types import Unit

ROWS = [
    # subset, seed, fold, task, score, status, replicates
    (["a", "b"], 0, 0, "a", 0.7, "ok", [0.6, 0.8]),
    (["a", "b"], 0, 0, "b", 0.5, "ok", [0.4, 0.5]),
    (["b", "a"], 1, 1, "a", 0.8, "ok", [0.7, 0.9]),
    (["b", "a"], 1, 1, "b", np.nan, "failed", []),
    (["a"], 0, 0, "a", 0.6, "ok", [0.5, 0.6]),
    (["a", "c"], 0, 0, "a", 0.9, "ok", [0.1, 0.2]),
]


def frame(rows: list[tuple[object, ...]] = ROWS) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["subset", "seed", "fold", "task", "score", "status", "replicates"])


def test_layout_of_scores_blocks_and_answers() -> None:
    table = score_table(frame(), ["a", "b"])
    assert table.blocks == ((0, 0), (1, 1))
    assert table.rows == {("a", "b"): 0, ("a",): 1}
    assert table.membership.tolist() == [[True, True], [True, False]]
    assert table.scores[0].tolist()[0] == [0.7, 0.5]
    assert table.scores[0, 1, 0] == 0.8
    assert np.isnan(table.scores[0, 1, 1]), "a failed score is missing"
    assert table.trained.tolist() == [[True, True], [True, False]], "a failed unit has its final answer"
    assert table.complete == {("a", "b")}
    assert table.replicates is None


def test_a_part_of_the_units_is_a_table_of_its_own() -> None:
    table = score_table(frame(), ["a", "b"], replicates=True)
    both, alone = Unit(("a", "b"), 1, 1), Unit(("a",), 0, 0)
    assert table.answered == {Unit(("a", "b"), 0, 0), both, alone}
    part = table.of([both, Unit(("a",), 1, 1), Unit(("b",), 0, 0), Unit(("a",), 5, 5)])
    assert part.answered == {both}, "units without an answer, and unknown ones, are passed over"
    assert part.rows == {("a", "b"): 0}
    assert np.isnan(part.scores[0, 0]).all()
    assert part.scores[0, 1, 0] == 0.8
    assert part.replicates is not None
    assert np.isnan(part.replicates[0, 0]).all()
    assert table.of(table.answered).answered == table.answered
    assert table.of([]).membership.shape == (0, 2)


def test_a_subset_with_a_foreign_task_is_left_out() -> None:
    assert ("a", "c") not in score_table(frame(), ["a", "b"]).rows
    assert ("a", "c") in score_table(frame(), ["a", "b", "c"]).rows


def test_blocks_may_be_named() -> None:
    table = score_table(frame(), ["a", "b"], blocks=[(1, 1), (2, 2)])
    assert table.blocks == ((1, 1), (2, 2))
    assert table.rows == {("a", "b"): 0}
    assert not table.complete
    assert table.trained.tolist() == [[True, False]]


def test_the_mean_is_paired_over_blocks() -> None:
    mean = score_table(frame(), ["a", "b"]).mean()
    assert mean[0, 0] == np.mean([0.7, 0.8])
    assert np.isnan(mean[0, 1])
    assert np.isnan(mean[1, 0]), "one block is not trained yet"


def test_replicates_are_laid_out_and_missing_ones_are_nan() -> None:
    table = score_table(frame(), ["a", "b"], replicates=True)
    assert table.replicates is not None
    assert table.replicates.shape == (2, 2, 2, 2)
    np.testing.assert_allclose(table.replicates[0, 1, 0], [0.7, 0.9], rtol=1e-6)
    assert np.isnan(table.replicates[0, 1, 1]).all()
    assert np.isnan(table.replicates[1, 0, 1]).all()


def test_a_replicate_row_of_another_length_is_missing() -> None:
    rows = [*ROWS[:2], (["a"], 0, 0, "a", 0.6, "ok", [0.5])]
    table = score_table(frame(rows), ["a", "b"], replicates=True)
    assert table.replicates is not None
    assert np.isnan(table.replicates[table.rows[("a",)]]).all()


def test_an_empty_ledger_is_an_empty_table() -> None:
    table = score_table(frame([]), ["a", "b"])
    assert table.membership.shape == (0, 2)
    assert table.mean().shape == (0, 2)
    assert not table.complete
    start = empty(["a", "b"], [(0, 0)])
    assert start.scores.shape == (0, 1, 2)
    assert not start.complete
