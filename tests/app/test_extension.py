"""A model extended to a new task: where it starts, on whose labels it trains, what it leaves unchanged."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from model.cohorts.cohort import Cohort
from model.data.folds import load_fold, stopping_patients
from model.networks import flexcare
from model.networks.settings import FlexCareSettings, M3HSettings
from model.sources.opening import open_cohort, write_cohort
from model.sources.synthetic_incomplete import incomplete
from model.trained import extending, final_training
from model.trained.deployed import DeployedModel
from model.training.fitting import fit_pack
from model.training.pack import Fitted
from model.training.trainer import PackTrainer, TrainingPayload
from tim_search.app import extension, model_folder, prediction
from tim_search.cli import commands as cli
from tim_search.gates.plain import plain
from tim_search.results import readings
from tim_search.tracking import pyfunc
from tim_search.types import FINAL_FOLD, BadInput, Interrupted, Pack, Unit

SETTINGS = FlexCareSettings(
    width=8, layers=1, hidden=8, experts=2, expert_hidden=8, patch=8, epochs=2, batch_size=64, replicates=0
)
OLD = ("ihm", "phe")
CPU = torch.device("cpu")
FACTS = {
    "subset": list(OLD), "reason": "named by the user", "overlaps": [], "search": "small", "network": "flexcare",
    "settings": {}, "readings": 1, "scores": [], "created": "", "versions": {}, "source": "ihm",
}  # fmt: skip


@pytest.fixture(scope="module")
def cohort() -> Cohort:
    return incomplete(900, steps=4, side=8, tokens=3, token_width=4, seed=1)[0]


@pytest.fixture(scope="module")
def model(cohort: Cohort) -> DeployedModel:
    made = final_training.train(cohort, "flexcare", SETTINGS, OLD, "ihm", seeds=(0, 1), device="cpu")
    return dataclasses.replace(made, about={**made.about, **FACTS})


@pytest.fixture(scope="module")
def seen(model: DeployedModel, cohort: Cohort) -> Cohort:
    return extending.prepare(model, cohort, "dec")


@pytest.fixture(scope="module")
def extended(model: DeployedModel, seen: Cohort) -> DeployedModel:
    return extending.extend(model, seen, "dec", CPU)


def cells(cohort: Cohort, count: int) -> pd.DataFrame:
    rows = np.flatnonzero(cohort.split.test)[:count]
    return pd.DataFrame({
        name: [one.values[row] if one.present[row] else None for row in rows] for name, one in cohort.modalities.items()
    })  # fmt: skip


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


# The command ------------------------------------------------------------------------------------------------------


def test_a_table_is_means_and_paired_differences_of_the_seeds() -> None:
    def row(start: str, seed: int, value: float | None, metric: str = "auroc") -> dict:
        return {"start": start, "share": 0.1, "seed": seed, "fold": seed, "metric": metric, "value": value,
                "primary": metric == "auroc", "why": "", "rows": 10 + seed, "patients": 5}  # fmt: skip

    rows = [row("pretrained", 0, 0.8), row("scratch", 0, 0.6), row("pretrained", 1, 0.9), row("scratch", 1, 0.5)]
    rows += [row("pretrained", 2, None), row("scratch", 2, 0.1), row("pretrained", 0, 0.4, "auprc")]
    primary, other = extension.summarise(rows)
    assert (primary["metric"], primary["seeds"], primary["rows"]) == ("auroc", 2, 10)
    assert primary["pretrained"] == pytest.approx(0.85)
    assert primary["scratch"] == pytest.approx(0.55)
    assert primary["difference"] == pytest.approx(0.3)
    assert primary["difference_sd"] == pytest.approx(np.std([0.2, 0.4], ddof=1))
    assert (other["seeds"], other["pretrained"]) == (0, None)


def test_an_overlapping_target_is_no_transfer(model, seen) -> None:
    nested = dataclasses.replace(seen, overlaps=(("dec", "ihm"),))
    assert any("dec overlaps with ihm of the model" in note for note in extension._notes(model, nested, "dec", False))
    assert not any("overlaps" in note for note in extension._notes(model, seen, "dec", False))


def test_what_was_done_before_an_interruption_is_kept(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    compare = extending.compare

    def stopped(model: DeployedModel, cohort: Cohort, task: str, shares: list[float], seed: int, fold: int) -> list:
        if seed == 1:
            raise KeyboardInterrupt
        return compare(model, cohort, task, shares, seed, fold)

    monkeypatch.setattr(extending, "compare", stopped)
    with pytest.raises(Interrupted, match=r"ihm-1-extend-dec-1\.csv"):
        cli.app(["extend", str(place), "--task", "dec", "--labels", "1"], standalone_mode=False)
    with (place.parent / "ihm-1-extend-dec-1.csv").open() as handle:
        assert {row["seed"] for row in csv.DictReader(handle)} == {"0"}
    assert [entry.name for entry in place.parent.iterdir() if entry.name.startswith(".")] == []


@pytest.fixture
def place(model: DeployedModel, cohort: Cohort, tmp_path: Path) -> Path:
    """A model in the folder of a search."""
    write_cohort(cohort, tmp_path / "cohort")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "search.yaml").write_text(f"cohort: {tmp_path / 'cohort'}\nnetwork: flexcare\n")
    model_folder.write_model(model, tmp_path / "out" / "models" / "ihm-1")
    return tmp_path / "out" / "models" / "ihm-1"


def test_the_command_measures_saves_and_leaves_the_test_patients_alone(
    place: Path, cohort: Cohort, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = tmp_path / "made"
    arguments = ["extend", str(place), "--task", "dec", "--labels", "0.2", "--seeds", "2"]
    cli.app([*arguments, "--out", str(made), "--json"], standalone_mode=False)
    said = json.loads(capsys.readouterr().out)
    assert readings.read(place.parent.parent) == []
    assert {row["fold"] for row in said["trainings"]} == {0, 1}
    assert [row["metric"] for row in said["table"]] == ["auroc", "auprc"]
    with (place.parent / "ihm-1-extend-dec-1.csv").open() as handle:
        written = list(csv.DictReader(handle))
    assert [float(row["value"]) for row in written] == pytest.approx([row["value"] for row in said["trainings"]])
    model = model_folder.load(made)
    assert "dec" in prediction.predict(model, cells(cohort, 5))
    card = (made / pyfunc.CARD).read_text(encoding="utf-8")
    assert "`dec` was added to the trained model afterwards" in card
    assert "not judged on the test patients; on validation folds, with 20% of the labels" in card
    cli.app(arguments, standalone_mode=False)
    assert "pre-trained" in capsys.readouterr().out
    assert (place.parent / "ihm-1-extend-dec-2.csv").is_file()
    with pytest.raises(BadInput, match="is there already"):
        cli.app([*arguments, "--out", str(made)], standalone_mode=False)


def test_reading_the_test_patients_is_asked_for_and_logged(place: Path, tmp_path: Path) -> None:
    found = extension.extend(place, "dec", shares=[1.0], seeds=1, test=True, out=tmp_path / "made")
    log = readings.read(place.parent.parent)
    assert [(entry["command"], entry["task"]) for entry in log] == [("extend", "dec")] * 2
    assert {row["fold"] for row in found.rows} == {FINAL_FOLD}
    (score,) = [row for row in model_folder.load(tmp_path / "made").about["scores"] if row["task"] == "dec"]
    assert score["low"] < score["value"] < score["high"]
    copied = tmp_path / "alone"
    place.rename(copied)
    with pytest.raises(BadInput, match="without the log they may not be read"):
        extension.extend(copied, "dec", test=True, cohort=str(tmp_path / "cohort"))
    with pytest.raises(BadInput, match="Name the cohort with --cohort"):
        extension.extend(copied, "dec")


@pytest.mark.parametrize(
    ("options", "words"),
    [({"shares": [0.0]}, "--labels"), ({"shares": [1.5]}, "--labels"), ({"seeds": 0}, "--seeds")],
    ids=["none", "too many", "seeds"],
)
def test_bad_options_are_told_before_anything_is_read(tmp_path: Path, options: dict, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        extension.extend(tmp_path, "dec", **options)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_start_helps_a_related_task_where_labels_are_few() -> None:
    """Real patients, a seriously trained model: 47 labels suffice to learn what thousands of others prepared."""
    cohort, tasks = open_cohort("support2"), ("hospdead", "slos_log", "surv_group")
    settings = M3HSettings(replicates=0)
    seen = cohort.for_tasks([*tasks, "dnr_later"])
    model = final_training.train(seen, "m3h", settings, tasks, "hospdead", device="cpu")
    ready = extending.prepare(model, cohort, "dnr_later")
    rows = [
        plain(dataclasses.asdict(row))
        for seed in range(2)
        for row in extending.compare(model, ready, "dnr_later", [0.01], seed, seed, CPU)
    ]
    found = extension.summarise(rows)[0]
    assert found["seeds"] == 2
    assert found["patients"] == 47
    assert found["pretrained"] > 0.7
    assert found["difference"] > 0.03


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


def test_a_model_that_cannot_be_written(model, extended, cohort, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match=r"cannot be written.*Name a folder that you may write to"):
        model_folder.write_model(model, tmp_path / "file" / "sub" / "model")
    (tmp_path / "there").mkdir()
    table = [{"primary": True, "pretrained": 0.7, "share": 1.0, "seeds": 1}]
    with pytest.raises(BadInput, match=r"is there already\. Name a new folder"):
        extension._save(extended, cohort, "dec", table, None, tmp_path / "there", extension._record(cohort, 0))
    bare = {name: value for name, value in model.about.items() if name != "scores"}
    monkeypatch.setattr(model_folder, "load", lambda folder: dataclasses.replace(model, about=bare))
    with pytest.raises(BadInput, match="has no test scores to put on a card"):
        extension.extend(tmp_path / "model", "dec", cohort="support2", out=tmp_path / "new")
