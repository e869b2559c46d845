"""A look inside: each task is judged on rows of its own, wherever they lie in the cohort."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from model.cohorts.cohort import Cohort, Modality, make_cohort
from model.networks.settings import FlexCareSettings
from model.trained.inside import look, shows
from model.training.trainer import TrainingPayload
from tim_search.types import BadInput, Task

SETTINGS = FlexCareSettings(
    width=8, layers=1, hidden=8, experts=3, expert_hidden=4, epochs=2, batch_size=32, replicates=2,
)  # fmt: skip
ROWS = 300  # of each task


def laid_out_task_after_task() -> Cohort:
    """Two tasks: the first half of the rows carries the one's label, the other half the other's."""
    dice = np.random.default_rng(5)
    values = dice.normal(size=(2 * ROWS, 3))
    labels = {}
    for number, name in enumerate(("early", "late")):
        label = np.full(2 * ROWS, np.nan)
        here = slice(number * ROWS, (number + 1) * ROWS)
        label[here] = values[here, number] > 0
        labels[name] = label
    modality = Modality("labs", "vector", ("a", "b", "c"), values, {}, np.ones(2 * ROWS, bool))
    ids = np.arange(2 * ROWS)
    tasks = [Task("early", "binary"), Task("late", "binary")]
    return make_cohort("in parts", ids, ids, [modality], tasks, labels)


def test_every_task_has_a_score_after_every_turn() -> None:
    cohort = laid_out_task_after_task()
    payload = TrainingPayload(cohort, "flexcare", SETTINGS, "cpu")
    inside = look(payload, ("early", "late"), (0,), turn_rows=20)  # a fold has some 100 validation rows
    turns = inside.turns
    assert len(turns) == 2 * 2 * 2
    assert turns["score"].between(0, 1).all(), turns
    whole = look(payload, ("early", "late"), (0,)).turns
    assert whole["score"].between(0, 1).all()
    assert (whole[["epoch", "turn", "task"]] == turns[["epoch", "turn", "task"]]).all(axis=None)
    # All labelled rows were judged: the last epoch's last turn is what the search scores where it keeps that epoch.
    last = replace(payload, settings=replace(SETTINGS, stop_share=0.0))
    inside = look(last, ("early", "late"), (0,))
    scores = inside.scores[(inside.scores["variant"] == "together") & inside.scores["primary"]].set_index("task")[
        "mean"
    ]
    assert inside.turns.tail(2).set_index("task")["score"].to_dict() == pytest.approx(scores.to_dict(), abs=1e-6)


def test_a_network_tells_itself_whether_it_can_be_looked_into() -> None:
    with pytest.raises(BadInput, match="m3h has no experts"):
        shows("m3h")
    with pytest.raises(BadInput, match="my_package:Mine has no experts"):
        shows("my_package:Mine")
    assert shows("flexcare").combinations(3, SETTINGS) == ((0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2))
    assert shows("flexcare").without_task_token(SETTINGS).task_token == "none"
