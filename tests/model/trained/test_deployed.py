"""A deployed model: what it says of new rows is what the training code says, whatever the table looks like."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from model.cohorts.cohort import Cohort
from model.data.folds import load_fold
from model.networks import m3h
from model.networks.settings import M3HSettings
from model.sources.opening import open_cohort
from model.trained.deployed import ABSENT, DeployedModel
from model.trained.final_training import bootstrap_weights, evaluate, train
from model.trained.new_rows import PredictionWarning
from model.training.fitting import fit_pack
from model.training.predicting import predict
from model.training.scores import score_pack
from tim_search.types import FINAL_FOLD, BadInput, Pack, Unit

SETTINGS = M3HSettings(width=8, epochs=2, batch_size=512, learning_rate=3e-3, replicates=3)
SUBSET = ("hospdead", "phenotype", "slos_log", "surv_group")


@pytest.fixture(scope="module")
def cohort() -> Cohort:
    """Real patients: categories, missing cells, an absent modality, and labels of every kind."""
    return open_cohort("support2").for_tasks(SUBSET)


@pytest.fixture(scope="module")
def model(cohort: Cohort) -> DeployedModel:
    return train(cohort, "m3h", SETTINGS, SUBSET, "hospdead", device="cpu")


@pytest.fixture(scope="module")
def trained(cohort: Cohort):
    """The training code's own predictions of the test rows, and its scores."""
    fold = load_fold(cohort, FINAL_FOLD, dtype=torch.float32, device=torch.device("cpu"), replicates=3)
    pack = Pack((Unit(SUBSET, 0, FINAL_FOLD),))
    fitted = fit_pack(pack, cohort.tasks, fold, SETTINGS, m3h)
    scores, _ = score_pack(pack, fitted, cohort.tasks, fold)
    return predict(fitted, fold.validation), scores


def table(cohort: Cohort, rows: np.ndarray) -> pd.DataFrame:
    """Rows of a cohort as a user has them: plain names, levels as text, empty cells."""
    columns = {}
    for modality in cohort.modalities.values():
        for position, column in enumerate(modality.columns):
            values = modality.values[rows, position]
            levels = modality.levels.get(column)
            columns[column] = (
                values if levels is None else [None if math.isnan(code) else levels[int(code)] for code in values]
            )
    return pd.DataFrame(columns, index=cohort.sample_ids[rows])


@pytest.fixture(scope="module")
def rows(cohort: Cohort) -> pd.DataFrame:
    return table(cohort, cohort.split.test)


def logit(p: pd.Series) -> np.ndarray:
    return np.log(p.to_numpy()) - np.log1p(-p.to_numpy())


def test_predictions_are_the_training_codes_own(model, cohort, rows, trained) -> None:
    own, _ = trained
    said = model.predict(rows)
    assert list(said.index) == list(cohort.sample_ids[cohort.split.test])
    assert list(said) == list(model.outputs)
    assert rows.isna().any().sum() > 5
    assert (said[ABSENT] == "prognosis").sum() == int(
        (~cohort.modalities["prognosis"].present[cohort.split.test]).sum()
    )
    assert 0 < (said[ABSENT] == "prognosis").sum() < len(said)
    logits = own.logits[0].double().numpy()  # slots: hospdead, slos_log, surv_group
    assert np.abs(logit(said["hospdead"]) - logits[0, :, 0]).max() < 1e-6
    mean, spread = model.scales["slos_log"]
    assert np.abs((said["slos_log"] - mean) / spread - logits[1, :, 0]).max() < 1e-6
    classes = [f"surv_group={name}" for name in cohort.classes["surv_group"]]
    assert np.abs(said[classes].to_numpy() - torch.tensor(logits[2]).softmax(1).numpy()).max() < 1e-6
    assert said[classes].sum(axis=1).to_numpy() == pytest.approx(1.0)
    distance = ((own.latents[0, :, 0].double().numpy()[:, None] - model.members[0].centres["phenotype"]) ** 2).sum(2)
    assert (said["phenotype"].to_numpy(int) == distance.argmin(1)).mean() > 0.999


def test_order_names_types_and_copies_change_nothing(model, cohort, rows, tmp_path: Path) -> None:
    some = rows.iloc[:50]
    before = model.predict(some)
    qualified = {column: f"{name}.{column}" for name, one in cohort.modalities.items() for column in one.columns}
    pd.testing.assert_frame_equal(model.predict(some[some.columns[::-1]]), before)
    pd.testing.assert_frame_equal(model.predict(some.rename(columns=qualified)), before)
    pd.testing.assert_frame_equal(model.predict(some.astype({"sex": "category", "num_co": "float32"})), before)
    pd.testing.assert_frame_equal(model.predict(some.astype(object)), before)
    model.save(tmp_path / "model")
    pd.testing.assert_frame_equal(DeployedModel.load(tmp_path / "model").predict(some), before)
    some.to_csv(tmp_path / "rows.csv")
    read = pd.read_csv(tmp_path / "rows.csv", index_col=0)
    assert np.abs(model.predict(read)["hospdead"] - before["hospdead"]).max() < 1e-6
    assert list(model.predict(rows.iloc[:0])) == list(model.outputs)


def test_a_modality_may_be_absent_and_a_row_without_any_is_not_predicted(model, rows) -> None:
    some = rows.iloc[:20].copy()
    without = model.predict(some.drop(columns=["prg2m", "prg6m"]))
    emptied = some.assign(prg2m=np.nan, prg6m=None)
    pd.testing.assert_frame_equal(model.predict(emptied), without)
    assert (without[ABSENT] == "prognosis").all()
    some.iloc[3] = None
    with pytest.warns(PredictionWarning, match="1 of 20 rows"):
        said = model.predict(some)
    assert said.drop(columns=ABSENT).iloc[3].isna().all()
    assert said.drop(columns=ABSENT).drop(index=said.index[3]).notna().all(axis=None)
    assert said[ABSENT].iloc[3] == "demographics, physiology, history, prognosis"


def test_bad_tables_are_told_in_words(model, rows) -> None:
    some = rows.iloc[:5]
    with pytest.raises(BadInput, match=r"agee \(did you mean age\?\), patient_zero"):
        model.predict(some.rename(columns={"age": "agee"}).assign(patient_zero=1))
    with pytest.raises(BadInput, match="physiology lacks hrt, ph"):
        model.predict(some.drop(columns=["hrt", "ph"]))
    with pytest.raises(BadInput, match=r"twice: age and demographics\.age"):
        model.predict(some.assign(**{"demographics.age": 1.0}))
    with pytest.raises(BadInput, match=r"column hrt: expected numbers or missing cells, got 'fast' \(1 such"):
        model.predict(some.astype({"hrt": object}).assign(hrt=["fast", 1, 2, "3", None]))
    with pytest.raises(BadInput, match="column hrt: expected finite"):
        model.predict(some.assign(hrt=np.inf))
    with pytest.raises(BadInput, match="got none"):
        model.predict(some[[]])


def test_an_unknown_level_is_not_measured_and_said_so(model, rows) -> None:
    some = rows.iloc[:5]
    with pytest.warns(PredictionWarning, match="column sex: the model does not know diverse"):
        said = model.predict(some.assign(sex="diverse"))
    pd.testing.assert_frame_equal(said, model.predict(some.assign(sex=None)))


def test_test_scores_are_those_of_the_training_code(model, cohort, trained) -> None:
    _, scores = trained
    expected = {row.task: row.value for row in scores if row.primary}
    found = {row.task: row for row in evaluate(model, cohort)}
    assert set(found) == set(SUBSET)
    for name, row in found.items():
        assert row.value == pytest.approx(expected[name], abs=1e-5)
        assert row.low < row.value < row.high
        assert 0 < row.sd < row.high - row.low
    assert found["slos_log"].rows == int(np.isfinite(cohort.labels["slos_log"][cohort.split.test]).sum())


def test_training_has_no_access_to_the_test_labels(model, cohort, rows) -> None:
    test = cohort.split.test
    labels = {name: np.where(test, label[::-1], label) for name, label in cohort.labels.items()}
    other = train(dataclasses.replace(cohort, labels=labels), "m3h", SETTINGS, SUBSET, "hospdead", device="cpu")
    pd.testing.assert_frame_equal(other.predict(rows.iloc[:50]), model.predict(rows.iloc[:50]))
    assert other.about == model.about


def test_several_seeds_are_averaged(model, cohort, rows) -> None:
    both = train(cohort, "m3h", SETTINGS, SUBSET, "hospdead", seeds=(0, 1), device="cpu")
    second = dataclasses.replace(both, members=both.members[1:])
    first, other, mean = (one.predict(rows.iloc[:30]) for one in (model, second, both))
    assert np.abs(first["hospdead"] - other["hospdead"]).max() > 1e-3
    for column in set(mean) - {"phenotype", ABSENT}:
        assert mean[column].to_numpy() == pytest.approx(((first[column] + other[column]) / 2).to_numpy())
    assert (mean["phenotype"] == first["phenotype"]).all()


def test_the_model_holds_no_row_and_the_example_is_no_patient(model, cohort, rows, tmp_path: Path) -> None:
    example = model.example()
    assert list(example) == list(model.columns)
    said = model.predict(example)
    assert said.drop(columns=ABSENT).notna().all(axis=None)
    assert said[ABSENT].item() == ""
    everyone = table(cohort, np.ones(len(cohort), bool))
    numbers = [column for column in example if example[column].dtype.kind == "f"]
    assert not (everyone[numbers].to_numpy() == example[numbers].to_numpy()).all(axis=1).any()
    model.save(tmp_path)
    plain = (tmp_path / "model.json").read_text(encoding="utf-8")
    inputs = json.loads(plain)["inputs"]
    assert max(len(value) for one in inputs for value in one["transform"].values()) < 50 < len(cohort)
    with np.load(tmp_path / "parameters.npz", allow_pickle=False) as arrays:
        assert len(cohort) not in {size for name in arrays.files for size in arrays[name].shape}


def test_what_is_no_model_is_told(model, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="cannot be read as a model"):
        DeployedModel.load(tmp_path)
    model.save(tmp_path)
    text = (tmp_path / "model.json").read_text(encoding="utf-8")
    (tmp_path / "model.json").write_text(text.replace('"format": 2', '"format": 9'), encoding="utf-8")
    with pytest.raises(BadInput, match="expected a model of format 1 to 3, got format 9"):
        DeployedModel.load(tmp_path)
    (tmp_path / "model.json").write_text(text[:-100], encoding="utf-8")
    with pytest.raises(BadInput, match="is not a whole model"):
        DeployedModel.load(tmp_path)
    (tmp_path / "model.json").write_text(text, encoding="utf-8")
    (tmp_path / "parameters.npz").write_bytes(b"torn")
    with pytest.raises(BadInput, match="is not a whole model"):
        DeployedModel.load(tmp_path)


def test_a_diverged_training_gives_no_model(cohort) -> None:
    wild = dataclasses.replace(SETTINGS, learning_rate=1e25, epochs=3)
    with pytest.raises(BadInput, match="diverged"):
        train(cohort, "m3h", wild, ("hospdead",), "hospdead", device="cpu")


def test_bootstrap_weights_draw_patients_and_nine_tenths_of_the_rows() -> None:
    patients = np.repeat(np.arange(50), 2)
    weights = bootstrap_weights(patients, "split")
    assert weights.shape == (1006, 100)
    assert (weights[0] == 1).all()
    assert (weights[1:1001, ::2] == weights[1:1001, 1::2]).all()
    assert (weights[1001:].sum(1) == 90).all()
