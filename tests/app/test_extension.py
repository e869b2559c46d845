"""The command that extends a model to a new task: what it measures, saves, refuses, and reads of the test patients."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from model.cohorts.cohort import Cohort
from model.networks.settings import M3HSettings
from model.sources.opening import open_cohort, write_cohort
from model.trained import extending, final_training
from model.trained.deployed import DeployedModel
from tests.support import extendable
from tests.support.extendable import CPU, cells
from tim_search.app import extension, model_folder, prediction
from tim_search.cli import commands as cli
from tim_search.gates.plain import plain
from tim_search.results import readings
from tim_search.tracking import pyfunc
from tim_search.types import FINAL_FOLD, BadInput, Interrupted


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
