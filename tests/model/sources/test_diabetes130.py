"""The second embedded cohort: every raw column accounted for, two clocks, labels as defined."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from model.cohorts.cohort import Cohort
from model.sources import diabetes130
from model.sources.opening import check_cohort, open_cohort
from model.sources.raw_columns import column_table
from tests.support import ROOT
from tim_search.types import BadInput

TARGETS = {"time_in_hospital", "num_medications", "A1Cresult", "discharge_disposition_id", "readmitted", "insulin"}


@pytest.fixture(scope="module")
def cohort() -> Cohort:
    return open_cohort("diabetes130")


@pytest.fixture(scope="module")
def raw(cohort: Cohort) -> pd.DataFrame:
    """The raw rows, in the cohort's order."""
    return diabetes130.raw().set_index("encounter_id").loc[cohort.sample_ids.tolist()]


def test_every_raw_column_has_a_decision(cohort: Cohort, raw: pd.DataFrame) -> None:
    assert set(diabetes130.COLUMNS) == {"encounter_id", *raw.columns}
    assert all(decision.why for decision in diabetes130.COLUMNS.values())
    inputs = [column for modality in cohort.modalities.values() for column in modality.columns]
    decided = {name for name, decision in diabetes130.COLUMNS.items() if decision.role == "input"}
    assert set(inputs) == decided | set(diabetes130.MADE)
    assert {name for name, decision in diabetes130.COLUMNS.items() if decision.role == "target"} == TARGETS
    assert not TARGETS & set(inputs)


def test_all_stays_are_there_and_patients_are_the_unit_of_the_split(cohort: Cohort, raw: pd.DataFrame) -> None:
    assert (len(cohort), len(cohort.patient_ids)) == (101_766, 71_518)
    assert pd.Series(cohort.split.test).groupby(raw["patient_nbr"].to_numpy()).nunique().max() == 1
    assert pd.Series(cohort.split.fold).groupby(raw["patient_nbr"].to_numpy()).nunique().max() == 1
    assert 0.19 < cohort.split.test.mean() < 0.21


def test_tasks(cohort: Cohort) -> None:
    kinds = pd.Series([task.kind for task in cohort.tasks.values()]).value_counts().to_dict()
    assert kinds == {"binary": 6, "multiclass": 3, "regression": 2}
    counts = {name: int((~np.isnan(label)).sum()) for name, label in cohort.labels.items()}
    assert counts == {
        "readmit_30d": 99_343, "readmit_any": 99_343, "died_or_hospice": 97_086, "discharge_to": 93_985,
        "los_log": 101_766, "medications_log": 101_766, "a1c_tested": 101_766, "a1c_over_8": 17_018,
        "insulin_changed": 54_383, "regimen": 101_766, "diagnosis_group": 101_745,
    }  # fmt: skip
    assert all(cohort.info["counts"][f"labelled for {name}"] == count for name, count in counts.items())


def test_who_died_or_went_to_a_hospice_has_no_label_of_a_readmission(cohort: Cohort, raw: pd.DataFrame) -> None:
    ended = raw["discharge_disposition_id"].isin([11, 13, 14, 19, 20, 21]).to_numpy()
    assert ended.sum() == 2423
    for name, levels in (("readmit_30d", ["<30"]), ("readmit_any", ["<30", ">30"])):
        assert np.isnan(cohort.labels[name][ended]).all()
        np.testing.assert_array_equal(cohort.labels[name][~ended], raw["readmitted"].isin(levels)[~ended])
    unknown = raw["discharge_disposition_id"].isin([18, 25, 26]).to_numpy()
    assert np.isnan(cohort.labels["died_or_hospice"][unknown]).all()
    assert np.nansum(cohort.labels["died_or_hospice"]) == 2423
    assert np.isnan(cohort.labels["discharge_to"][ended | unknown]).all()


def test_what_is_done_in_a_stay_predicts_only_what_comes_after_it(cohort: Cohort) -> None:
    assert list(cohort.for_tasks(["readmit_30d", "readmit_any"]).modalities) == list(cohort.modalities)
    for name in set(cohort.tasks) - {"readmit_30d", "readmit_any"}:
        left = set(cohort.for_tasks([name, "readmit_30d"]).modalities)
        expected = {"demographics", "admission", "history", "diagnoses"}
        assert left == (expected - {"diagnoses"} if name == "diagnosis_group" else expected)


def test_labels_of_the_treatment(cohort: Cohort, raw: pd.DataFrame) -> None:
    insulin, labels = raw["insulin"].to_numpy(), cohort.labels
    assert np.isnan(labels["insulin_changed"][insulin == "No"]).all()
    np.testing.assert_array_equal(labels["insulin_changed"] == 1, np.isin(insulin, ["Up", "Down"]))
    np.testing.assert_array_equal(labels["regimen"] >= 2, insulin != "No")
    np.testing.assert_array_equal(labels["regimen"] == 0, raw["diabetesMed"] == "No")
    np.testing.assert_array_equal(~np.isnan(labels["a1c_over_8"]), labels["a1c_tested"] == 1)
    np.testing.assert_allclose(np.exp(labels["los_log"]), raw["time_in_hospital"])
    np.testing.assert_allclose(np.exp(labels["medications_log"]), raw["num_medications"])


@pytest.mark.parametrize(
    ("code", "chapter"),
    [
        ("250.83", "diabetes"), ("249", "endocrine"), ("276", "endocrine"), ("428", "circulatory"), ("8", "infections"),
        ("785", "circulatory"), ("786", "respiratory"), ("799", "symptoms"), ("V57", "supplementary"),
        ("E909", "external cause"), ("365.44", "nervous"), ("996", "injury"), ("?", "?"),
    ],
)  # fmt: skip
def test_chapters_of_icd_9(code: str, chapter: str) -> None:
    assert diabetes130._chapter(code) == chapter


def test_missing_is_missing_and_not_measured_is_a_level(cohort: Cohort, raw: pd.DataFrame) -> None:
    for name, column in (("demographics", "race"), ("admission", "payer_code"), ("diagnoses", "diag_3")):
        modality = cohort.modalities[name]
        missing = np.isnan(modality.values[:, modality.columns.index(column)])
        np.testing.assert_array_equal(missing, raw[column] == "?")
    care = cohort.modalities["care"]
    assert not np.isnan(care.values).any()
    assert care.levels["max_glu_serum"][0] == "None"
    levels = {level for modality in cohort.modalities.values() for of in modality.levels.values() for level in of}
    assert not levels & {"?", "Unknown/Invalid"}


def test_what_is_found_is_true() -> None:
    """ICD-9 codes of a stay are written after the discharge: an input by choice, and `check` says what it gains."""
    (finding,) = check_cohort("diabetes130")
    assert finding.place == "modalities.diagnoses"
    assert (
        "diag_1, diag_2, diag_3, number_diagnoses say a diagnosis, mostly coded after the discharge" in finding.problem
    )


def test_the_cohort_never_changes_by_itself(cohort: Cohort) -> None:
    """A change here orphans every ledger made on the cohort; it must be meant."""
    assert cohort.fingerprint == "ddefed6843fc1fa0"
    assert cohort.split.digest == "92dd51e03935a4b8"


def archive(path: Path, text: str, name: str = "dataset_diabetes/diabetic_data.csv") -> Path:
    with zipfile.ZipFile(path, "w") as members:
        members.writestr(name, text)
    return path


def test_the_raw_table_is_read_as_it_stands(raw: pd.DataFrame) -> None:
    some = raw.reset_index()[["encounter_id", "diag_1", "A1Cresult", "race", "num_procedures"]].sample(
        300, random_state=0
    )
    text = some.to_csv(index=False)
    pd.testing.assert_frame_equal(
        diabetes130.raw_of(io.StringIO(text)), some.sort_values("encounter_id", ignore_index=True)
    )


def test_another_archive_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=f"expected diabetic_data.csv with SHA-256 {diabetes130.CSV_SHA256}, got "):
        diabetes130.write_raw(archive(tmp_path / "other.zip", "encounter_id\n1\n"), tmp_path / "out.parquet")
    with pytest.raises(BadInput, match="found no such file"):
        diabetes130.write_raw(archive(tmp_path / "empty.zip", "", "readme.txt"), tmp_path / "out.parquet")
    assert not (tmp_path / "out.parquet").exists()


def test_the_command_says_how_it_is_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, words in ((["only-one"], "required: out"), ([str(tmp_path / "none.zip"), "o.parquet"], "none.zip")):
        with pytest.raises(SystemExit) as end:
            diabetes130._command(arguments)
        assert end.value.code == 2
        text = capsys.readouterr().err
        assert text.startswith("usage: python -m model.sources.diabetes130 ")
        assert words in text


def test_the_docs_say_what_the_code_does() -> None:
    text = (ROOT / "docs" / "cohorts.md").read_text()
    assert column_table(diabetes130.COLUMNS) in text
    for number in ("101,766", "71,518", "99,343", "97,086", "93,985", "17,018", "54,383", "101,745"):
        assert number in text
    provenance = (ROOT / "model" / "sources" / "files" / "diabetes130" / "PROVENANCE.md").read_text()
    assert diabetes130.CSV_SHA256 in provenance


def test_it_ships_small() -> None:
    assert (ROOT / "model" / "sources" / "files" / "diabetes130" / "diabetes130.parquet").stat().st_size < 2_000_000
