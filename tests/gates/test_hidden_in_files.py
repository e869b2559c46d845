"""An attacker who has all files of a real small search with `small_cells`, of its confirmation and of its models."""

from __future__ import annotations

import base64
import io
import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from mlflow import MlflowClient

from model.cohorts.cohort import Cohort, Modality, make_cohort
from model.cohorts.manifest import describe
from model.sources.opening import write_cohort
from tests.gates.test_told_scores import fitting
from tests.support.attacker import attacked, learnt
from tim_search import config
from tim_search.app import confirmer, deploy, extension, runner
from tim_search.gates import told_counts
from tim_search.results import opened
from tim_search.types import Task

SMALL = 11
#: Counts that are not told exactly.
TOLD = re.compile(r"[<≈]\d(?:[\d,]*\d)?")

#: Numbers of tables that count no patients, or are names.
NO_COUNTS = {
    "seeds",
    "seed",
    "fold",
    "rank",
    "step",
    "n_units",
    "units",
    "blocks",
    "n_blocks",
    "epochs",
    "draws",
    "se_patients",
}


@pytest.fixture(scope="module")
def cohort() -> Cohort:
    """600 samples: a rare level, a rare event, a column few have, few without a modality, few without a label."""
    dice = np.random.default_rng(7)
    n = 600
    level = dice.integers(0, 2, n).astype(float)
    level[:4] = 2.0
    event = np.zeros(n)
    event[5:12] = 1.0
    seldom = np.full(n, np.nan)
    seldom[20:26] = [61, 62, 64, 65, 70, 71]
    age = dice.integers(18, 90, n).astype(float)
    age[30:38] = np.nan
    stay = dice.integers(0, 30, n).astype(float)
    stay[100:160] = np.nan
    signal = dice.normal(size=(n, 3))
    present = np.ones(n, bool)
    present[200:206] = False
    signal[~present] = np.nan
    columns = ("level", "event", "seldom", "age", "stay")
    chart = Modality(
        "chart", "vector", columns, np.stack([level, event, seldom, age, stay], 1), {"level": ("a", "b", "c")},
        np.ones(n, bool),
    )  # fmt: skip
    notes = Modality("notes", "vector", ("p", "q", "r"), signal, {}, present)
    rare = np.zeros(n)
    rare[dice.permutation(n)[:13]] = 1.0
    common = (signal[:, 0] + dice.normal(size=n) > 0).astype(float)
    common[:5] = np.nan
    several = (dice.random((n, 3)) < [0.5, 0.2, 0.012]).astype(float)
    several[:, 2] = np.roll(rare, 1)
    several[40:47, 1] = np.nan
    days = np.round(dice.gamma(2, 3, n))
    days[300:307] = np.nan
    later = (dice.random(n) < 0.4).astype(float)
    labels = {"rare": rare, "common": common, "several": several, "days": days, "later": later}
    kinds = {"several": "multilabel", "days": "regression"}
    tasks = [Task(name, kinds.get(name, "binary"), n_outputs=3 if name == "several" else 1) for name in labels]  # type: ignore[arg-type]
    return make_cohort(
        "attacked", np.arange(n), np.arange(n), [chart, notes], tasks, labels,
        classes={"several": ("x", "y", "z")}, strata=rare + 2 * several[:, 2],
        info={"counts": {"all": n + 40, "adults": n + 6, "kept": n}},
    )  # fmt: skip


@pytest.fixture(scope="module")
def out(cohort: Cohort, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("attacked")
    write_cohort(cohort, folder / "cohort")
    training = {"width": 8, "hidden": 8, "experts": 2, "expert_hidden": 8, "patch": 8, "layers": 1, "epochs": 1}
    plain = {
        "cohort": "cohort", "name": "attacked", "tasks": ["rare", "common", "several", "days"], "network": "flexcare",
        "training": training | {"replicates": 5, "batch_size": 64}, "design": "exact", "blocks": 1,
        "address": "serial", "small_cells": SMALL, "out": "out",
    }  # fmt: skip
    (folder / "search.yaml").write_text(yaml.safe_dump(plain))
    found = config.resolve(config.load(folder / "search.yaml"))
    runner.run_search(found)
    members = tuple(found.tasks)
    confirmer.confirm(found.out, given=members, seeds=1, draws=20)
    model = deploy.train(found.out, "common", members=members, warn=pytest.fail)
    more = found.out / "models" / "more"
    extension.extend(model.folder, "later", shares=(0.1, 1.0), seeds=1, test=True, out=more)
    return found.out


@pytest.fixture(scope="module")
def files(out: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """All files of the folder and all artifacts of its runs in MLflow."""
    client = MlflowClient(f"sqlite:///{out / 'mlflow.db'}")
    places = [out]
    for experiment in client.search_experiments():
        for run in client.search_runs([experiment.experiment_id]):
            if client.list_artifacts(run.info.run_id):
                place = tmp_path_factory.mktemp("artifacts")
                client.download_artifacts(run.info.run_id, "", str(place))
                places.append(place)
    return [path for place in places for path in sorted(place.rglob("*")) if path.is_file()]


def models_of(files: list[Path]) -> list[dict[str, Any]]:
    """The models among files; MLflow's table of test scores has the name of a model's file."""
    plain = [json.loads(path.read_text(encoding="utf-8")) for path in files if path.name == "model.json"]
    return [model for model in plain if "about" in model]


def record_of(out: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((out / "cohort.json").read_text(encoding="utf-8"))
    return record


@pytest.mark.slow
def test_the_cohort_has_what_is_to_be_hidden_and_its_record_does_not_tell(cohort: Cohort, out: Path) -> None:
    exact = describe(config.resolve(config.load(out / "search.yaml")).cohort)
    small = [name for name, ends in attacked(exact, SMALL).items() if ends and 0 < ends[0] == ends[1] < SMALL]
    for part in ("rare: class", "common: without", "several: known z", "several: y known", "days", "notes absent"):
        assert any(part.split(":")[0] in name for name in small), (part, small)
    assert learnt(attacked(record_of(out), SMALL), SMALL) == []


@pytest.mark.slow
def test_every_copy_of_the_record_is_the_same(out: Path, files: list[Path]) -> None:
    """Two roundings of the same counts would be two equations."""
    copies = [path for path in files if path.name == "cohort.json"]
    assert len({path.read_bytes() for path in copies if "samples" in json.loads(path.read_text())}) == 1
    record = record_of(out)
    page = (out / "report.html").read_text(encoding="utf-8")
    shown = set(TOLD.findall(page.replace("&lt;", "<")))
    told = set(TOLD.findall(json.dumps(record, ensure_ascii=False)))
    assert shown <= told | {f"<{SMALL}"}
    for link in re.findall(r"data:text/csv;charset=utf-8;base64,([\w+/=]+)", page):
        check_table(io.StringIO(base64.b64decode(link).decode()))


@pytest.mark.slow
def test_a_model_tells_of_its_rows_what_the_record_tells(out: Path, files: list[Path]) -> None:
    """Computed again from cohort.json alone, by whoever has it; what can be computed is no news."""
    record = record_of(out)
    models = models_of(files)
    assert len(models) >= 3, "in the folder, in MLflow, extended"
    for model in models:
        about, share = model["about"], model["settings"]["stop_share"]
        labels = {name: {"rows": 0, **({"positive": 0} if "positive" in counts else {})}
                  for name, counts in about["training"]["labels"].items() if name != "later"}  # fmt: skip
        unknown = {"rows": 0, "patients": 0, "stopping": share, "labels": labels, "present": {"chart": 0, "notes": 0}}
        expected = told_counts.of_training(unknown, record, SMALL, share)
        training = dict(about["training"], labels={name: about["training"]["labels"][name] for name in labels})
        assert training == expected
        for row in about["scores"]:
            if row["task"] != "later":
                assert row["rows"] == told_counts.of_test(row["task"], 0, record, SMALL)


@pytest.mark.slow
def test_the_preprocessing_of_a_model_fits_several_counts(cohort: Cohort, files: list[Path]) -> None:
    """For each number of missing values that is possible a sum of whole values fits the mean, and the square sum."""
    checked = 0
    for model in models_of(files):
        for inputs in model["inputs"]:
            transform = inputs["transform"]
            names = [name for name in transform["names"] if "=" not in name]
            assert not {"event", "seldom", "age measured", "seldom measured"} & set(names)
            assert "level=c" not in transform["names"]
            assert "stay measured" in names or inputs["name"] != "chart"
            for position, mean, scale in zip(*(transform[key] for key in ("numeric", "mean", "scale")), strict=True):
                assert math.log2(scale) == round(math.log2(scale)), "a power of two tells no sum of squares"
                step = scale * 2.0 ** math.ceil(math.log2(4 * SMALL / len(cohort)))
                assert mean / step == round(mean / step)
                if transform["columns"][position] == "age":
                    low, high = mean - step / 2, mean + step / 2
                    fitting = [m for m in range(460, 481) if math.floor(high * m) >= low * m]
                    assert len(fitting) == 21, "no count of measured values is excluded"
                    checked += 1
        for mean, scale in model["scales"].values():
            assert math.log2(scale) == round(math.log2(scale))
            assert mean / (scale / 16) == round(mean / (scale / 16))
    assert checked >= 3


@pytest.mark.slow
def test_no_score_tells_how_many_are_positive(cohort: Cohort, out: Path, files: list[Path]) -> None:
    """Whatever an attacker believes of the positives among a fold's rows: every AUROC of the ledger could be theirs."""
    telling, record = config.telling(cohort.for_tasks(["rare", "common", "several", "days"]), SMALL), record_of(out)
    assert set(telling.steps) == {"rare", "common", "several"}
    sizes = dict(enumerate(part["samples"] for part in record["parts"][1:])) | {-1: record["parts"][0]["samples"]}
    scores = pd.concat([pd.read_parquet(path) for path in sorted((out / "ledger" / "scores").glob("*.parquet"))])
    scores = scores[scores["task"].isin(telling.steps) & (scores["status"] == "ok")]
    assert len(scores) > 50
    assert {"auprc", "micro_auroc"}.isdisjoint(scores["metric"]), "together with the first metric it would tell more"
    for (task, fold), rows in scores[scores["metric"] == "auroc"].groupby(["task", "fold"]):
        step = telling.steps[task]
        values = np.concatenate([rows["score"], *rows["replicates"].dropna()])
        assert np.abs(values / step - np.round(values / step)).max() < 1e-3  # replicates have four bytes
        few = range(1, SMALL)
        assert fitting(rows["score"], step, sizes[fold], few) == list(few)
    for model in models_of(files):
        for row in model["about"]["scores"]:
            if step := telling.steps.get(row["task"]):
                for name in ("value", "sd", "low", "high"):
                    assert row[name] is None or abs(row[name] / step - round(row[name] / step)) < 1e-6


@pytest.mark.slow
def test_no_table_counts_patients(files: list[Path]) -> None:
    tables = [path for path in files if path.suffix in (".csv", ".parquet")]
    assert len(tables) > 5
    for path in tables:
        check_table(path)


def check_table(source: Path | io.StringIO) -> None:
    """No column of a table holds a small count of patients; where a point stands for patients, for enough."""
    parquet = isinstance(source, Path) and source.suffix == ".parquet"
    table = pd.read_parquet(source) if parquet else pd.read_csv(source)  # type: ignore[arg-type]
    for name in table.columns:
        counts_patients = re.search(r"rows|patients|samples|positive|labelled|present|chosen|^n$", str(name))
        if not counts_patients or str(name) in NO_COUNTS:
            continue
        for value in table[name]:
            for each in np.ravel(value) if isinstance(value, list | np.ndarray) else [value]:
                number = pd.to_numeric(each, errors="coerce")
                assert not 0 < number < SMALL, (source, name, each)


def told_of(plain: Any) -> Iterator[Any]:
    if isinstance(plain, Mapping):
        for value in plain.values():
            yield from told_of(value)
    elif isinstance(plain, list):
        for value in plain:
            yield from told_of(value)
    else:
        yield plain


@pytest.mark.slow
def test_cards_tell_what_model_files_tell(files: list[Path]) -> None:
    cards = [path for path in files if path.suffix == ".md"]
    assert cards
    abouts = [model["about"] for model in models_of(files)]
    told = {str(value) for about in abouts for value in told_of([about["training"], about["scores"]])}
    for card in cards:
        assert set(TOLD.findall(card.read_text(encoding="utf-8"))) <= told, card


@pytest.mark.slow
def test_parameters_have_the_same_shapes_whatever_the_counts(cohort: Cohort, out: Path) -> None:
    """No axis is as long as a hidden count is by chance alone: all follow from names and settings."""
    (folder,) = [path.parent for path in (out / "models" / "common-1").rglob("model.json")]
    model = json.loads((folder / "model.json").read_text())
    widths = {max(1, len(inputs["transform"]["names"])) for inputs in model["inputs"]}
    with np.load(folder / "parameters.npz") as arrays:
        sizes = {size for name in arrays.files for size in arrays[name].shape}
    assert opened.open_search(out).small_cells == SMALL
    assert not {591, 594, 593, 595, 592, len(cohort)} & sizes
    assert widths
