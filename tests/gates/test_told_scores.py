"""Scores where counts are hidden: an attacker tries every number of positives that could have given them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from model.data.folds import load_fold
from model.networks.settings import M3HSettings
from model.scoring import metrics
from model.sources.synthetic import haim_like
from model.training.trainer import PackTrainer, TrainingPayload
from tests.gates.test_small_cells import rare
from tim_search.app import runner
from tim_search.config import telling
from tim_search.gates.told_scores import Telling, of_record
from tim_search.types import Pack, Score, Unit, references

SMALL = 11


def fitting(values: Iterable[float], step: float, rows: int, counts: Iterable[int]) -> list[int]:
    """The numbers of positives among these many rows with which each AUROC, told in steps, could have come about."""
    values = np.array([value for value in values if math.isfinite(value)])
    possible = []
    for positives in counts:
        pairs = 2 * positives * (rows - positives)  # a tie is half a pair
        near = np.abs(np.round(values * pairs) / pairs - values)
        if (near <= max(step, 1e-9)).all():
            possible.append(positives)
    return possible


def aurocs(rows: int, positives: int, models: int) -> list[float]:
    labels = np.zeros(rows)
    labels[:positives] = 1.0
    dice = np.random.default_rng(3)
    outputs = [labels * dice.random() + dice.normal(size=rows) for _ in range(models)]
    return [
        float(metrics.score("auroc", "binary", labels, each[:, None], np.ones((1, rows)))[0])  # type: ignore[arg-type]
        for each in outputs
    ]


@pytest.mark.parametrize("positives", range(1, SMALL))
def test_a_share_of_pairs_tells_no_number_of_positives(positives: int) -> None:
    exact = aurocs(97, positives, 200)
    hidden = range(1, SMALL)
    assert len(fitting(exact, 0.0, 97, hidden)) < 4, "the attacker is able to attack"
    scores = Telling({"t": 0.02}, "key")
    shown = [scores.values("t", [value], number)[0] for number, value in enumerate(exact)]
    assert fitting(shown, 0.02, 97, hidden) == list(hidden)
    assert all(abs(value / 0.02 - round(value / 0.02)) < 1e-6 for value in shown)
    assert abs(np.mean(shown) - np.mean(exact)) < 4 * 0.01 / math.sqrt(200), "no bias"


def record(labelled: int | str, classes: Sequence[Any], parts: Sequence[tuple[Any, Any]], kind: str = "binary") -> Any:
    task = {
        "name": "t", "kind": kind, "labelled": labelled, "classes": [[str(k), each] for k, each in enumerate(classes)],
        "parts": [{"part": str(k), "labelled": of, "positive": yes} for k, (of, yes) in enumerate(parts)],
    }  # fmt: skip
    return {
        "samples": 1000,
        "parts": [{"part": "test", "samples": 200}, {"part": "0", "samples": 800}],
        "tasks": [task],
    }


@pytest.mark.parametrize(
    ("told", "steps"),
    [
        (record(1000, [900, 100], [(200, 20), (800, 80)]), {}),
        (record(1000, [900, 100], [(200, "<11"), (800, "≈90")]), {"t": 0.01}),
        (record(1000, ["≈990", "<11"], []), {"t": 0.02}),
        (record("≈100", ["≈50", "≈50"], [("<11", "<11"), ("≈90", "≈40")]), {"t": 0.2}),
        (record(1000, [900, 50, 50], [(200, None), (800, None)], "multiclass"), {"t": 0.01}),
        (record(1000, [], [(200, None), (800, None)], "regression"), {}),
    ],
)
def test_the_step_follows_from_what_is_told(told: dict[str, Any], steps: dict[str, float]) -> None:
    assert of_record(told, SMALL, "key").steps == steps
    assert of_record(told, 0, "key") == Telling()


def test_what_a_worker_gives_back_tells_no_count() -> None:
    """Of networks and of reference models: one metric a task, steps, no replicates where the outcome is too rare."""
    cohort = rare(haim_like(300, 250, seed=4, widths=(4, 4, 4, 4), n_binary=2, n_classes=3)[0])
    hidden = telling(cohort, SMALL)
    settings = M3HSettings(epochs=1, width=4, replicates=20)
    payload = TrainingPayload(cohort, "m3h", settings, "cpu", telling=hidden)
    names = tuple(name for name, task in cohort.tasks.items() if task.kind != "clustering")
    assert set(hidden.steps) & set(names)
    trainer = PackTrainer(payload)
    pack = Pack((Unit(names, 0, 0),))
    exact = PackTrainer(replace(payload, telling=Telling())).train(pack).scores
    rows = [*trainer.train(pack).scores]
    assert {(row.task, row.metric) for row in rows} < {(row.task, row.metric) for row in exact}
    reference = trainer.with_settings(f'{{"{references.KEY}": "none", "replicates": 4}}')
    again = [reference.train(Pack((Unit((names[0],), seed, 0),))).scores[0] for seed in range(2)]
    assert len({row.value for row in again}) == 1, "the same with every seed"
    primary = {row.task: row for row in exact if row.primary}
    for row in (*rows, *again):
        if (step := hidden.steps.get(row.task)) and row.metric != "chosen_epoch":
            assert row.primary
            assert all(abs(each / step - round(each / step)) < 1e-6 for each in (row.value, *row.replicates))
            assert all(map(math.isfinite, row.replicates))
    for row in rows:
        if row.primary:
            assert abs(row.value - primary[row.task].value) < hidden.steps.get(row.task, 1e-9)
    public, private = (load_fold(cohort, 0, dtype=trainer.fold(0).validation.targets.dtype, device=trainer._device,
                                 replicates=20, drawn_by=key).weights for key in ("", hidden.key))  # fmt: skip
    assert not np.array_equal(public, private), "nobody without the data can draw them"
    assert np.array_equal(private, trainer.fold(0).weights)


def test_a_rare_outcome_has_no_replicates() -> None:
    unit = Unit(("t",), 0, 0)
    row = Score(unit, "t", "auroc", "validation", 0.7, replicates=(0.5, math.nan, 0.7))
    assert Telling({"t": 0.1}, "key").scores([row])[0].replicates == ()
    assert Telling({}, "key").scores([row]) == [row]


@pytest.mark.parametrize(("before", "warned"), [(None, 0), (0, 1), (5, 1), (11, 0), (20, 0)])
def test_scores_from_before_counts_were_hidden_are_told_of(before: int | None, warned: int, tmp_path: Path) -> None:
    search: Any = SimpleNamespace(out=tmp_path, file=SimpleNamespace(small_cells=SMALL))
    lines: list[str] = []
    runner._caution_of_earlier(search, before, lines.append)
    assert len(lines) == warned
