"""Figures of a look inside: the numbers they show."""

from __future__ import annotations

import numpy as np
import pandas as pd

from tim_search.report.figures import inside as inside_figures


def test_turns_lie_where_they_happened() -> None:
    rows = [
        {"epoch": epoch, "turn": turn, "task": task, "score": 10 * epoch + number}
        for epoch in (1, 2)
        for number, turn in enumerate("ba")
        for task in "ab"
    ]
    data = inside_figures.turns_data(pd.DataFrame(rows), ("b", "a"))
    assert data.when.tolist() == [0.5, 1.0, 1.5, 2.0]
    assert data.scores.tolist() == [[10, 11, 20, 21], [10, 11, 20, 21]]
    assert data.own.tolist() == [[True, False, True, False], [False, True, False, True]]


def test_shares_of_experts_sum_to_one() -> None:
    rows = [
        {"task": task, "combination": combination, "expert": expert, "chosen": chosen, "rows": 4}
        for task, combination, chosen_by in (("a", "x", (3, 1)), ("a", "y", (0, 0)), ("b", "x", (2, 2)))
        for expert, chosen in enumerate(chosen_by, 1)
    ]
    names, values = inside_figures.shares(pd.DataFrame(rows), "task")
    assert names == ("a", "b")
    np.testing.assert_allclose(values, [[0.75, 0.25], [0.5, 0.5]])
    names, values = inside_figures.shares(pd.DataFrame(rows), "combination")
    assert names == ("x", "y")
    assert values[0].tolist() == [0.625, 0.375]
    assert np.isnan(values[1]).all()
