"""A model extended to a new task: where it starts, on whose labels it trains, what it leaves unchanged."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from model.cohorts.cohort import Cohort
from model.data.folds import load_fold, stopping_patients
from model.networks import flexcare
from model.networks.settings import M3HSettings
from model.sources.opening import open_cohort
from model.sources.synthetic_incomplete import incomplete
from model.trained import extending, final_training
from model.trained.deployed import DeployedModel
from model.training.fitting import fit_pack
from model.training.pack import Fitted
from model.training.trainer import PackTrainer, TrainingPayload
from tests.support import extendable
from tests.support.extendable import CPU, OLD, SETTINGS, cells
from tim_search.types import FINAL_FOLD, BadInput, Pack, Unit


@pytest.fixture
def cohort() -> Cohort:
    return extendable.small_cohort()


@pytest.fixture
def model() -> DeployedModel:
    return extendable.small_model()


@pytest.fixture
def seen() -> Cohort:
    return extendable.ready_cohort()


@pytest.fixture
def extended() -> DeployedModel:
    return extendable.extended_model()


# Whose labels -----------------------------------------------------------------------------------------------------


def test_a_share_is_of_patients_and_small_ones_lie_within_large_ones(cohort: Cohort) -> None:
    learn = cohort.split.train(0)
    having = learn & np.isfinite(cohort.labels["los"])
    whole = extending.choose(cohort, "los", learn, 1.0, 0)
    assert (whole == having).all()
    half = extending.choose(cohort, "los", learn, 0.5, 0)
    patients = set(cohort.patients[half])
    assert len(patients) == round(0.5 * len(set(cohort.patients[having])))
    assert (half == having & np.isin(cohort.patients, list(patients))).all()
    assert (half <= extending.choose(cohort, "los", learn, 0.8, 0)).all()
    assert (half == extending.choose(cohort, "los", learn, 0.5, 0)).all()
    assert (half != extending.choose(cohort, "los", learn, 0.5, 1)).any()
    assert extending.choose(cohort, "los", learn, 1e-6, 0).sum() >= 1


@pytest.mark.parametrize("task", ["ihm", "los", "phe"])
def test_each_class_is_there_if_it_can_be(cohort: Cohort, task: str) -> None:
    """As many patients as classes: drawn at random, some class would lack."""
    learn = cohort.split.train(0)
    labels = cohort.labels[task].reshape(len(cohort), -1)
    n_classes = {"ihm": 2, "los": 10, "phe": 25}[task]
    patients = len(set(cohort.patients[learn & np.isfinite(labels).any(1)]))
    for seed in range(3):
        chosen = extending.choose(cohort, task, learn, n_classes / patients, seed)
        assert len(set(cohort.patients[chosen])) == n_classes
        found = (labels[chosen] == 1).any(0).sum() if task == "phe" else len(np.unique(labels[chosen]))
        assert found == n_classes


def test_classes_keep_their_share(cohort: Cohort) -> None:
    learn = cohort.split.train(0)
    label = cohort.labels["ihm"]
    every, some = (extending.choose(cohort, "ihm", learn, share, 0) for share in (1.0, 0.4))
    assert label[some].mean() == pytest.approx(label[every].mean(), abs=0.1)


def test_a_task_without_labels_is_told(cohort: Cohort) -> None:
    blank = dataclasses.replace(cohort, labels={**cohort.labels, "dec": np.full(len(cohort), np.nan)})
    with pytest.raises(BadInput, match="no training sample has a label"):
        extending.choose(blank, "dec", blank.split.train(0), 1.0, 0)


# Where it starts --------------------------------------------------------------------------------------------------


def test_a_start_gives_the_shared_parameters_and_nothing_else(model, seen) -> None:
    """With no step taken, the new task's member is the model's in what is shared, the seed's in what is its own."""
    fold = load_fold(
        extending._only(seen, ["dec"]), FINAL_FOLD, dtype=torch.float32, device=CPU, replicates=0, stop_share=0.125
    )
    given = extending.shared(model.members[0].values, flexcare)
    assert {"task.token", "head.weight", "head.bias"} == set(model.members[0].values) - set(given)
    # Adam's rate is all but nought: what comes out is where it began.
    still = dataclasses.replace(SETTINGS, learning_rate=1e-30, epochs=1)
    pack = Pack((Unit(("dec",), 5, FINAL_FOLD),) * 2)
    fitted = fit_pack(pack, seen.tasks, fold, still, flexcare, start=(given, {}))
    for name, value in fitted.values.items():
        if name in given:
            torch.testing.assert_close(value[0], given[name][0])
        else:
            torch.testing.assert_close(value[0], value[1])
    assert not torch.equal(fitted.values["embed.0.weight"][0], fitted.values["embed.0.weight"][1])


def test_scratch_is_what_a_search_would_train(model, seen) -> None:
    """Beside a pre-trained pack mate, and by the search's own code path: the same score."""
    rows = extending.compare(model, seen, "dec", [1.0], 3, 1, CPU)
    alone = extending._only(seen, ["dec"])
    worker = PackTrainer(TrainingPayload(alone, "flexcare", SETTINGS, "cpu"))
    (expected,) = [one.value for one in worker.train(Pack((Unit(("dec",), 3, 1),))).scores if one.metric == "auroc"]
    found = {(row.start, row.metric): row.value for row in rows}
    assert set(found) == {(start, metric) for start in extending.STARTS for metric in ("auroc", "auprc")}
    assert found["scratch", "auroc"] == pytest.approx(expected, abs=1e-6)


def test_held_out_labels_teach_nothing(model, seen) -> None:
    """Neither the new task's nor those of the model's tasks: the start is made again without the fold's patients."""
    fold = 2
    held = ~seen.split.train(fold)
    other = {name: label.copy() for name, label in seen.labels.items()}
    for label in other.values():
        label[held] = 1 - label[held]
    turned = dataclasses.replace(seen, labels=other)
    here = extending.compare(model, seen, "dec", [0.5], 0, fold, CPU)
    there = extending.compare(model, turned, "dec", [0.5], 0, fold, CPU)
    for one, opposite in zip(here, there, strict=True):
        if one.metric == "auroc":
            assert one.value == pytest.approx(1 - opposite.value, abs=1e-9)


def test_the_extended_model_says_of_its_own_tasks_what_it_said(model, extended, cohort, seen, tmp_path: Path) -> None:
    some = cells(seen, 40)
    before, after = model.predict(some), extended.predict(some)
    pd.testing.assert_frame_equal(after[list(before)], before)
    assert after["dec"].between(0, 1).all()
    assert after["dec"].nunique() > 10
    extended.save(tmp_path)
    pd.testing.assert_frame_equal(DeployedModel.load(tmp_path).predict(some), after)
    assert [member.tasks for member in extended.members] == [OLD, OLD, ("dec",), ("dec",)]
    again = extending.extend(extended, extending.prepare(extended, cohort, "rea"), "rea", CPU)
    pd.testing.assert_frame_equal(again.predict(some)[list(after)], after)


def test_extending_has_no_access_to_the_test_labels(model, extended, seen) -> None:
    test = seen.split.test
    garbled = {**seen.labels, "dec": np.where(test, 1 - seen.labels["dec"], seen.labels["dec"])}
    other = extending.extend(model, dataclasses.replace(seen, labels=garbled), "dec", CPU)
    pd.testing.assert_frame_equal(other.predict(cells(seen, 20)), extended.predict(cells(seen, 20)))


# What does not go together ----------------------------------------------------------------------------------------


def test_what_cannot_be_extended_is_told(model, cohort) -> None:
    for task, words in (("ihm", "predicts ihm already"), ("nix", "no task nix. .*: los, dec, rea, dia")):
        with pytest.raises(BadInput, match=words):
            extending.prepare(model, cohort, task)
    other, _ = incomplete(900, steps=4, side=8, tokens=3, token_width=4, seed=2)
    with pytest.raises(BadInput, match="its samples or its split are others"):
        extending.prepare(model, other, "dec")
    longer, _ = incomplete(900, steps=5, side=8, tokens=3, token_width=5, seed=1)
    with pytest.raises(BadInput, match="series is of another kind or size"):
        extending.prepare(model, longer, "dec")
    without = dataclasses.replace(cohort, modalities={n: m for n, m in cohort.modalities.items() if n != "notes"})
    with pytest.raises(BadInput, match="it lacks the modality notes"):
        extending.prepare(model, without, "dec")
    series = cohort.modalities["series"]
    shifted = dataclasses.replace(series, values=series.values + 3)
    with pytest.raises(BadInput, match="the values of series are others"):
        extending.prepare(
            model, dataclasses.replace(cohort, modalities={**cohort.modalities, "series": shifted}), "dec"
        )
    telling = dataclasses.replace(cohort.tasks["dec"], excludes=("series.ts_3",))
    with pytest.raises(BadInput, match=r"dec excludes series\.ts_3, which the model reads"):
        extending.prepare(model, dataclasses.replace(cohort, tasks={**cohort.tasks, "dec": telling}), "dec")
    fewer = {name: task for name, task in cohort.tasks.items() if name != "phe"}
    with pytest.raises(BadInput, match="it lacks phe"):
        extending.prepare(model, dataclasses.replace(cohort, tasks=fewer), "dec")
    with pytest.raises(BadInput, match="one of your own"):
        extending.prepare(dataclasses.replace(model, network="mine:Net"), cohort, "dec")


def test_m3h_is_extended_by_the_same_code() -> None:
    cohort = open_cohort("support2")
    tasks = ("hospdead", "phenotype", "slos_log")
    settings = M3HSettings(width=8, epochs=1, batch_size=512, replicates=0)
    seen = cohort.for_tasks([*tasks, "surv_group"])
    model = final_training.train(seen, "m3h", settings, tasks, "hospdead", device="cpu")
    with pytest.raises(BadInput, match="a clustering task, which has no labels"):
        extending.prepare(dataclasses.replace(model, tasks={}), cohort, "phenotype")
    ready = extending.prepare(model, cohort, "surv_group")
    rows = extending.compare(model, ready, "surv_group", [0.05], 0, 0, CPU)
    assert all(0 < row.value < 1 for row in rows)
    assert len({row.value for row in rows if row.metric == "macro_auroc"}) == 2
    made = extending.extend(model, ready, "surv_group", CPU)
    example = model.example()
    pd.testing.assert_frame_equal(made.predict(example)[list(model.outputs)], model.predict(example))
    assert made.predict(example).filter(like="surv_group=").sum(axis=1).item() == pytest.approx(1)


# What goes wrong late ---------------------------------------------------------------------------------------------


def test_a_start_that_diverges_is_told(model, seen, monkeypatch: pytest.MonkeyPatch) -> None:
    fit = extending.fit_pack

    def diverging(pack: Pack, *arguments: Any, **named: Any) -> Fitted:
        fitted = fit(pack, *arguments, **named)
        return dataclasses.replace(fitted, history=fitted.history * float("nan"))

    monkeypatch.setattr(extending, "fit_pack", diverging)
    with pytest.raises(BadInput, match=r"again with seed 3 diverged\. Leave that seed out"):
        extending.compare(model, seen, "dec", [1.0], 3, 1, CPU)
    with pytest.raises(BadInput, match=r"diverged with seed 0\. Train a model anew"):
        extending.extend(model, seen, "dec", CPU)


def test_labels_of_those_alone_who_choose_the_epoch_teach_nothing(model, seen) -> None:
    learn = seen.split.train(0)
    aside = stopping_patients(seen, learn, SETTINGS.stop_share, f"{seen.split.digest} fold 0")
    with pytest.raises(BadInput, match=r"is left to train on\. Give it more labels"):
        extending._new_rows(seen, "dec", aside & np.isfinite(seen.labels["dec"]), 0, model, CPU)


def test_a_task_that_the_network_cannot_learn(model, cohort, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flexcare, "unsupported", lambda *_: ["task dec is odd"])
    with pytest.raises(BadInput, match=r"network flexcare takes .*, but task dec is odd"):
        extending.prepare(model, cohort, "dec")
