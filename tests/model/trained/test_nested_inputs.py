"""A deployed model of sequences, images and multilabel tasks: nested lists mean what the training code reads."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch

from model.cohorts.cohort import Cohort, Modality, make_cohort
from model.data.folds import load_fold
from model.networks import registry as networks
from model.networks.settings import FlexCareSettings
from model.trained.deployed import ABSENT, DeployedModel
from model.trained.final_training import evaluate, train
from model.trained.new_rows import PredictionWarning
from model.training.fitting import fit_pack
from model.training.predicting import predict
from model.training.scores import score_pack
from tim_search.app import model_folder, prediction
from tim_search.tracking import pyfunc
from tim_search.types import FINAL_FOLD, BadInput, Pack, Task, Unit

SETTINGS = FlexCareSettings(
    width=16, layers=1, hidden=16, experts=2, expert_hidden=8, patch=4, epochs=2, batch_size=64, replicates=2,
    order=("signs", "stay"), task_weights={"stay": 0.5},
)  # fmt: skip
SUBSET = ("cost", "dead", "signs", "stay")
STEPS, N = 5, 300


@pytest.fixture(scope="module")
def cohort() -> Cohort:
    """A vector, a sequence of uneven length with gaps, and an image; each lacks in a third of the samples."""
    dice = np.random.default_rng(0)
    factor = dice.normal(size=N)
    present = dice.random((N, 3)) > 1 / 3
    present[~present.any(1), 1] = True
    labs = np.stack([factor + dice.normal(size=N), dice.integers(0, 2, N)], axis=1)
    series = factor[:, None, None] + dice.normal(size=(N, STEPS, 2))
    series[dice.random(series.shape) < 0.1] = np.nan
    series[np.arange(STEPS) >= dice.integers(1, STEPS + 1, N)[:, None]] = np.nan
    series[:, 0, 0] = factor  # a sequence that is there holds something
    xray = factor[:, None, None, None] + dice.normal(size=(N, 2, 5, 7))
    modalities = []
    for at, (name, kind, columns, values, levels) in enumerate((
        ("labs", "vector", ("hb", "sex"), labs, {"sex": ("f", "m")}),
        ("series", "sequence", ("pulse", "spo2"), series, {}),
        ("xray", "image", (), xray, {}),
    )):  # fmt: skip
        values[~present[:, at]] = np.nan
        modalities.append(Modality(name, kind, columns, values.astype(np.float32), levels, present[:, at]))
    signal = factor + 0.5 * dice.normal(size=N)
    labels = {
        "dead": (signal > 0).astype(float),
        "stay": np.digitize(signal, [-0.5, 0.5]).astype(float),
        "signs": (signal[:, None] > [-0.3, 0.0, 0.4]).astype(float),
        "cost": 100 + 20 * signal,
    }
    for label in labels.values():
        label[dice.random(label.shape) < 0.2] = np.nan
    tasks = [
        Task("dead", "binary", metric="auprc"), Task("stay", "multiclass", 3, "macro_f1"),
        Task("signs", "multilabel", 3, "micro_auroc"), Task("cost", "regression"),
    ]  # fmt: skip
    names = {"signs": ("fever", "pain", "cough")}
    return make_cohort("small", np.arange(N), np.arange(N) // 2, modalities, tasks, labels, classes=names)


@pytest.fixture(scope="module")
def model(cohort: Cohort) -> DeployedModel:
    return train(cohort, "flexcare", SETTINGS, SUBSET, "dead", seeds=(3,), device="cpu")


@pytest.fixture(scope="module")
def own(cohort: Cohort):
    """The training code's own predictions of the test rows, and its scores."""
    fold = load_fold(
        cohort, FINAL_FOLD, dtype=torch.float32, device=torch.device("cpu"), replicates=2,
        stop_share=SETTINGS.stop_share,
    )  # fmt: skip
    pack = Pack((Unit(SUBSET, 3, FINAL_FOLD),))
    fitted = fit_pack(pack, cohort.tasks, fold, SETTINGS, networks.find("flexcare"))
    scores, _ = score_pack(pack, fitted, cohort.tasks, fold)
    return predict(fitted, fold.validation).logits[0].double(), scores


def cells(cohort: Cohort, chosen: np.ndarray) -> pd.DataFrame:
    """Rows of a cohort as a user has them: plain columns, nested lists that end with their last step, None for gaps."""
    table: dict[str, list] = {"hb": [], "sex": [], "series": [], "xray": []}
    labs, series, xray = cohort.modalities.values()
    for row in np.flatnonzero(chosen):
        hb, sex = labs.values[row].tolist()
        table["hb"].append(hb)
        table["sex"].append(None if math.isnan(sex) else "fm"[int(sex)])
        steps = [[None if math.isnan(x) else x for x in step] for step in series.values[row].tolist()]
        while steps and steps[-1] == [None, None]:
            steps.pop()
        table["series"].append(steps)
        table["xray"].append(xray.values[row].tolist() if xray.present[row] else None)
    return pd.DataFrame(table, index=cohort.sample_ids[chosen])


@pytest.fixture(scope="module")
def rows(cohort: Cohort) -> pd.DataFrame:
    return cells(cohort, cohort.split.test)


def test_predictions_are_the_training_codes_own(model, cohort, rows, own) -> None:
    logits, _ = own  # slots: cost, dead, signs, stay
    said = model.predict(rows)
    assert list(said) == list(model.outputs)
    mean, spread = model.scales["cost"]
    expected = {
        "cost": mean + spread * logits[0, :, 0],
        "dead": logits[1, :, 0].sigmoid(),
        **{f"signs={name}": logits[2, :, k].sigmoid() for k, name in enumerate(("fever", "pain", "cough"))},
        **{f"stay={k}": logits[3].softmax(1)[:, k] for k in range(3)},
    }
    for name, values in expected.items():
        np.testing.assert_allclose(said[name], values.numpy(), rtol=0, atol=2e-5 if name == "cost" else 1e-6)
    there = [cohort.modalities[name].present[cohort.split.test] for name in ("labs", "series", "xray")]
    assert all(0 < one.sum() < len(said) for one in there)
    assert (said[ABSENT].str.contains("series").to_numpy() == ~there[1]).all()


def test_steps_that_a_cell_leaves_out_are_steps_without_a_value(model, rows) -> None:
    """They must not be read as measured zeros: which steps exist decides what the network attends to."""
    some = rows[rows["series"].map(len).between(1, STEPS - 1)]
    padded = some.assign(series=[cell + [[None, None]] * (STEPS - len(cell)) for cell in some["series"]])
    zeros = some.assign(series=[cell + [[0.0, 0.0]] * (STEPS - len(cell)) for cell in some["series"]])
    said = model.predict(some)
    pd.testing.assert_frame_equal(model.predict(padded), said)
    assert (model.predict(zeros)["cost"] - said["cost"]).abs().min() > 1e-6


def test_lists_arrays_parquet_json_and_copies_say_the_same(model, rows, tmp_path: Path) -> None:
    before = model.predict(rows)
    rows.to_parquet(tmp_path / "rows.parquet")
    pd.testing.assert_frame_equal(model.predict(pd.read_parquet(tmp_path / "rows.parquet")), before)
    arrays = rows.assign(
        series=[np.array(cell, np.float64).reshape(-1, 2) for cell in rows["series"]],
        xray=[None if cell is None else np.array(cell).ravel() for cell in rows["xray"]],  # as a cohort folder has it
    )
    pd.testing.assert_frame_equal(model.predict(arrays), before)
    records = pd.DataFrame(json.loads(rows.to_json(orient="records", double_precision=15)), index=rows.index)
    pd.testing.assert_frame_equal(model.predict(records), before)
    there = rows[rows["hb"].notna()]
    gone = there.assign(
        series=[[None] * len(cell) if number < 5 else cell for number, cell in enumerate(there["series"])]
    )
    assert model.predict(gone)[ABSENT][:5].str.contains("series").all()
    model.save(tmp_path / "model")
    read = DeployedModel.load(tmp_path / "model")
    assert read.settings == SETTINGS
    pd.testing.assert_frame_equal(read.predict(rows), before)
    pd.testing.assert_frame_equal(prediction.predict(read, rows), before)


def test_rows_are_predicted_some_at_a_time(model, rows) -> None:
    sizes: list[int] = []

    class Counting:
        inputs = model.inputs

        def predict(self, part: pd.DataFrame, *, ignore_extra: bool) -> pd.DataFrame:
            assert not ignore_extra
            sizes.append(len(part))
            return model.predict(part)

    found = prediction.predict(Counting(), rows, 7 * (2 + 2 * STEPS + 2 * 5 * 7))  # type: ignore[arg-type]
    assert set(sizes[:-1]) == {7}
    np.testing.assert_allclose(found["cost"], model.predict(rows)["cost"], rtol=1e-5)


@pytest.mark.parametrize(
    ("column", "cell", "words"),
    [
        ("series", [[1, 2]] * 6, "at most 5 steps of 2 numbers each, got 6 steps. Keep the 5"),
        ("series", [[1, 2, 3]], "got 1 x 3. Give a list of steps, each a list of the channels pulse, spo2"),
        ("series", [1, 2], "got 2 numbers in one list"),
        ("series", [[1, 2], [3]], "lists of uneven length"),
        ("series", [[1, "high"]], "got 'high' in it. Write numbers"),
        ("series", [[None, "high"]], "got 'high' in it"),
        ("series", "[[1, 2]]", "got text. Give nested lists: a CSV file cannot hold them"),
        ("series", 7, "got 7. Give nested lists"),
        ("series", np.array(7.0), r"got array\(7.0?\). Give nested lists"),
        ("series", [[1, math.inf]], "an infinite number"),
        ("xray", np.zeros((2, 7, 5)), r"image of 2 x 5 x 7 numbers \(channels x height x width\), got 2 x 7 x 5"),
        ("xray", [0.0] * 69, "got 69 numbers in one list"),
    ],
    ids=[
        "long",
        "channels",
        "flat",
        "ragged",
        "text",
        "text and gap",
        "csv",
        "number",
        "array of one",
        "infinite",
        "turned",
        "short",
    ],
)
def test_bad_cells_are_told_in_words(model, rows, column: str, cell: object, words: str) -> None:
    some = rows.iloc[:3].astype({column: object})
    some[column] = pd.Series([None, cell, None], index=some.index, dtype=object)
    with pytest.raises(BadInput, match=f"column {column}, row {some.index[1]}: expected .*{words}"):
        model.predict(some)


def test_a_row_without_anything_gets_no_prediction(model, rows) -> None:
    some = rows.iloc[:4].copy()
    some["series"] = pd.Series([[[None, math.nan]], *some["series"][1:]], index=some.index)
    some.loc[some.index[0], ["hb", "sex", "xray"]] = None
    with pytest.warns(PredictionWarning, match="1 of 4 rows"):
        said = model.predict(some)
    assert said.drop(columns=ABSENT).iloc[0].isna().all()
    assert said.drop(columns=ABSENT).iloc[1:].notna().all(axis=None)


def test_a_modality_and_a_column_of_one_name_are_told_apart(cohort) -> None:
    labs = replace(cohort.modalities["labs"], columns=("series", "sex"))
    model = train(
        replace(cohort, modalities={**cohort.modalities, "labs": labs}), "flexcare", replace(SETTINGS, epochs=1),
        ("dead",), "dead", device="cpu",
    )  # fmt: skip
    assert model.columns == {
        "labs.series": ("labs", "series"), "sex": ("labs", "sex"), "series": ("series", "series"),
        "xray": ("xray", "xray"),
    }  # fmt: skip
    assert model.predict(model.example())["dead"].notna().all()


def test_test_scores_are_those_of_the_training_code(model, cohort, own) -> None:
    _, scores = own
    expected = {row.task: (row.metric, row.value) for row in scores if row.primary}
    assert expected["signs"][0] == "micro_auroc"
    for row in evaluate(model, cohort):
        assert (row.metric, row.value) == (expected[row.task][0], pytest.approx(expected[row.task][1], abs=1e-5))
        assert row.low < row.value < row.high
        known = np.isfinite(cohort.labels[row.task][cohort.split.test])
        assert row.rows == (known.any(1) if known.ndim == 2 else known).sum()


def test_models_of_the_first_format_are_read(model, cohort, tmp_path: Path) -> None:
    """They have no kind and no shape of their inputs, and as many members as they say, each with all tasks."""
    labs = replace(cohort, modalities={"labs": cohort.modalities["labs"]})
    vector = train(labs, "flexcare", replace(SETTINGS, epochs=1), ("cost", "dead"), "dead", seeds=(0, 1), device="cpu")
    vector.save(tmp_path)
    plain = json.loads((tmp_path / "model.json").read_text(encoding="utf-8"))
    plain["format"], plain["members"] = 1, 2
    for one in plain["inputs"]:
        del one["kind"], one["shape"], one["transform"]["kind"]
    (tmp_path / "model.json").write_text(json.dumps(plain), encoding="utf-8")
    some = pd.DataFrame({"hb": [1.0, None], "sex": ["f", "m"]})
    pd.testing.assert_frame_equal(DeployedModel.load(tmp_path).predict(some), vector.predict(some))


# MLflow ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def written(model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    facts = {
        "source": "dead", "subset": list(SUBSET), "reason": "named by the user", "overlaps": [], "search": "small",
        "network": "flexcare", "settings": {"width": 16}, "readings": 1, "scores": [], "created": "", "versions": {},
    }  # fmt: skip
    place = tmp_path_factory.mktemp("models") / "dead-1"
    model_folder.write_model(replace(model, about={**model.about, **facts}), place)
    with pytest.raises(FileExistsError):
        model_folder.write_model(model, place)
    return place


def test_the_mlflow_model_takes_nested_lists(model, rows, written: Path) -> None:
    served = mlflow.pyfunc.load_model(str(written))
    expected = model.predict(rows)
    pd.testing.assert_frame_equal(served.predict(rows), expected)
    records = json.loads(rows.to_json(orient="records", double_precision=15))
    found = served.predict(records)
    assert (found["cost"].to_numpy() == expected["cost"].to_numpy()).all()
    full = next(record for record in records if record["series"] and record["xray"] and record["sex"])
    at = records.index(full)
    assert served.predict(full)["cost"].item() == pytest.approx(expected["cost"].iloc[at], rel=1e-5)
    types = {column.name: str(column.type) for column in served.metadata.signature.inputs}
    assert types == {
        "hb": "DataType.double", "sex": "DataType.string", "series": "Array(Array(double))",
        "xray": "Array(Array(Array(double)))",
    }  # fmt: skip
    assert served.predict(served.input_example)[ABSENT].tolist() == [""]
    assert served.metadata.signature.outputs.input_names() == list(expected)
    text = (written / pyfunc.CARD).read_text(encoding="utf-8")
    assert "**series**: one column of up to 5 steps of 2 channels each: `pulse`, `spo2`" in text
    assert "**xray**: one column of images, 2 x 5 x 7" in text
    assert "tim-search predict MODEL rows.parquet" in text
    assert "samples of which chose the epoch" in text


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_mlflow_predicts_nested_lists_from_a_file(model, rows, written: Path, tmp_path: Path) -> None:
    records = json.loads(rows.iloc[:6].to_json(orient="records", double_precision=15))
    (tmp_path / "rows.json").write_text(json.dumps({"inputs": records}))
    command = [sys.executable, "-m", "mlflow", "models", "predict", "-m", str(written), "-i",
               str(tmp_path / "rows.json"), "-t", "json", "-o", str(tmp_path / "said.json"),
               "--env-manager", "local"]  # fmt: skip
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    subprocess.run(command, check=True, env={**os.environ, "PATH": path}, timeout=600)
    said = pd.DataFrame(json.loads((tmp_path / "said.json").read_text())["predictions"])
    expected = model.predict(rows.iloc[:6])
    assert said["cost"].to_numpy() == pytest.approx(expected["cost"].to_numpy(), rel=1e-6)
