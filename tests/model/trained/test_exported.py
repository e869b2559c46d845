"""Rules travel: a table as it was exported becomes a cohort, a model and predictions, read the same each time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from model.cohorts.values import Rule
from model.networks.settings import M3HSettings
from model.sources import own_table
from model.sources.opening import check_cohort, open_cohort, write_cohort
from model.trained.deployed import DeployedModel
from model.trained.final_training import train
from model.trained.new_rows import read_table
from tim_search.app import prediction
from tim_search.types import BadInput

N = 240
SETTINGS = M3HSettings(width=4, epochs=1, batch_size=64)


def export() -> pd.DataFrame:
    """A ward's export, cells as it writes them; one stay has no patient number."""
    dice = np.random.default_rng(3)
    ages = dice.integers(20, 100, N)
    frame = pd.DataFrame({"stay_id": [f"{k:05}" for k in range(N)]})
    frame["patient_id"] = [f"{9 * 10**17 + k // 2}" for k in range(N)]
    frame.loc[7, "patient_id"] = ""
    frame["labs__age"] = [("> 89" if age > 89 else str(age)) for age in ages]
    frame["labs__weight"] = [f"{value:.1f}".replace(".", ",") for value in dice.normal(80, 15, N)]
    frame["labs__sodium"] = np.where(np.arange(N) % 9 == 0, "-999", dice.integers(125, 150, N).astype(str))
    frame["labs__crp"] = dice.choice(["<5", "7", "12", "80", "NA"], N)
    frame["labs__smoker"] = dice.choice(["NA", "ja", "nein", "früher"], N)
    frame["note"] = [f'Zimmer {k}; "ruhig"' for k in range(N)]
    frame["task__died"] = np.where(ages + dice.normal(0, 9, N) > 70, "ja", "nein")
    frame["task__days"] = [f"{value:.2f}".replace(".", ",") for value in dice.gamma(2, 3, N)]
    return frame


@pytest.fixture(scope="module")
def ward(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The export as CSV, the folder begun from it, with the questions answered that its comments ask."""
    folder = tmp_path_factory.mktemp("ward")
    export().to_csv(folder / "ward.csv", sep=";", index=False, encoding="cp1252")
    guess = own_table.init(folder / "ward.csv", folder / "cohort")
    assert guess.reading is not None
    assert "1 row has no stay_id or patient_id and is left out: row 8" in guess.reading.line
    description = folder / "cohort" / "cohort.yaml"
    content = description.read_text()
    for question in ("  # labs__sodium: {missing: [-999]}", "  # labs__smoker: {missing: [NA]}"):
        assert question in content
        content = content.replace(question, question.replace("# ", ""))
    description.write_text(content)
    return folder


@pytest.fixture(scope="module")
def model(ward: Path, tmp_path_factory: pytest.TempPathFactory) -> DeployedModel:
    cohort = open_cohort(ward / "cohort").for_tasks(("died", "days"))
    trained = train(cohort, "m3h", SETTINGS, ("days", "died"), "died", device="cpu")
    trained.save(folder := tmp_path_factory.mktemp("model") / "m")
    return DeployedModel.load(folder)


def test_the_cohort_is_read_by_its_rules(ward: Path, tmp_path: Path) -> None:
    cohort = open_cohort(ward / "cohort")
    table = export().drop(index=7)
    labs = dict(zip(cohort.modalities["labs"].columns, cohort.modalities["labs"].values.T, strict=True))
    assert len(cohort) == N - 1
    assert cohort.sample_ids[:2].tolist() == ["00000", "00001"]
    assert cohort.patient_ids[0] == 9 * 10**17
    np.testing.assert_array_equal(labs["labs__age"], [float(age.removeprefix("> ")) for age in table["labs__age"]])
    np.testing.assert_array_equal(labs["labs__weight"], [float(w.replace(",", ".")) for w in table["labs__weight"]])
    assert np.isnan(labs["labs__sodium"]).sum() == (table["labs__sodium"] == "-999").sum() > 0
    assert np.nanmin(labs["labs__sodium"]) >= 125
    assert np.isnan(labs["labs__crp"]).sum() == (table["labs__crp"] == "NA").sum() > 0
    assert np.nanmin(labs["labs__crp"]) == 5
    assert set(cohort.modalities["labs"].levels["labs__smoker"]) == {"ja", "nein", "früher"}
    assert cohort.classes["died"] == ("nein", "ja")
    assert cohort.labels["died"].tolist() == (table["task__died"] == "ja").astype(float).tolist()
    assert cohort.labels["days"][0] == float(table["task__days"][0].replace(",", "."))
    assert cohort.rules["labs__crp"] == Rule(("NA",), censored="limit")
    assert not [finding for finding in check_cohort(ward / "cohort") if finding.severity == "error"]
    write_cohort(cohort, tmp_path / "again")
    again = open_cohort(tmp_path / "again")
    assert again.fingerprint == cohort.fingerprint
    assert set(cohort.table_columns) <= set(again.table_columns)


def test_rules_are_part_of_the_fingerprint(ward: Path, tmp_path: Path) -> None:
    write_cohort(open_cohort(ward / "cohort"), tmp_path / "again")
    description = tmp_path / "again" / "cohort.yaml"
    description.write_text(description.read_text().replace("- '-999'", "- '-998'"))
    assert open_cohort(tmp_path / "again").fingerprint != open_cohort(ward / "cohort").fingerprint


def test_a_table_as_it_was_exported_is_predicted(ward: Path, model: DeployedModel) -> None:
    cohort = open_cohort(ward / "cohort").for_tasks(("died", "days"))
    assert set(model.table.unused) == {"stay_id", "patient_id", "note", "task__died", "task__days"}
    rows = read_table(ward / "ward.csv", model.inputs, ["stay_id", "patient_id"])
    answers = prediction.predict(model, rows)
    assert answers["stay_id"].tolist()[:9] == [f"{k:05}" for k in range(9)]
    assert answers["patient_id"].tolist()[6:8] == [str(9 * 10**17 + 3), ""]
    wanted = model.network_outputs(cohort.modalities)
    there = answers["patient_id"] != ""
    np.testing.assert_allclose(answers.loc[there, "died"], wanted["died"], atol=1e-6)
    np.testing.assert_allclose(answers.loc[there, "days"], wanted["days"], atol=1e-5)


def test_other_columns_stop_it_unless_they_are_to_be_ignored(ward: Path, model: DeployedModel) -> None:
    rows = export()
    np.testing.assert_array_equal(model.predict(rows)["died"], prediction.predict(model, rows)["died"])
    with pytest.raises(BadInput, match=r"unknown ones: labs__agee \(did you mean labs__age\?\)"):
        model.predict(rows.assign(labs__agee=1))
    ignored = model.predict(rows.assign(labs__agee=1), ignore_extra=True)
    np.testing.assert_array_equal(ignored["died"], model.predict(rows)["died"])
    rows.loc[3, "labs__weight"] = "schwer"
    with pytest.raises(BadInput, match=r"column labs__weight: expected numbers by its rule, got 'schwer'"):
        model.predict(rows)


def test_cells_of_several_kinds_are_read_by_a_rule(model: DeployedModel) -> None:
    """A frame of a notebook holds numbers where the export had texts."""
    rows = export().head(3)
    rows["labs__sodium"] = [-999, 140.0, "135"]
    rows["labs__age"] = ["> 89", 70, None]
    again = rows.assign(labs__sodium=["-999", "140", "135"], labs__age=["89", "70", ""])
    np.testing.assert_array_equal(model.predict(rows)["died"], model.predict(again)["died"])
