"""The embedded cohort: every raw column accounted for, no leak, labels as defined."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from model.cohorts.cohort import Cohort
from model.data.preprocess import fit
from model.sources import support2
from model.sources.opening import check_cohort, open_cohort, write_cohort
from model.sources.raw_columns import column_table
from tests.support import ROOT

# Outcomes, and scores computed from outcomes or by models of them.
NEVER_INPUTS = {
    "surv2m", "surv6m", "sps", "aps", "d_time", "death", "hospdead", "dnr", "dnrday", "avtisst", "charges", "totcst",
    "totmcst", "slos", "sfdm2", "adlsc",
}  # fmt: skip


@pytest.fixture(scope="module")
def cohort() -> Cohort:
    return open_cohort("support2")


@pytest.fixture(scope="module")
def raw(cohort: Cohort) -> pd.DataFrame:
    """The raw rows of the patients who are in the cohort, in its order."""
    return support2.raw().set_index("patient_id").loc[cohort.sample_ids.tolist()]


def test_every_raw_column_has_a_decision() -> None:
    assert set(support2.COLUMNS) == set(support2.raw().columns)
    assert all(decision.why for decision in support2.COLUMNS.values())


def test_inputs_are_those_decided(cohort: Cohort) -> None:
    consumed = {source for sources in support2.MADE.values() for source in sources}
    for name, modality in cohort.modalities.items():
        decided = {c for c, d in support2.COLUMNS.items() if d.role == "input" and d.modality == name} - consumed
        made = set(support2.MADE) if name == "history" else set()
        assert set(modality.columns) == decided | made
    inputs = {column for modality in cohort.modalities.values() for column in modality.columns}
    assert not inputs & NEVER_INPUTS
    assert set(cohort.modalities["prognosis"].columns) == {"prg2m", "prg6m"}
    assert not any("prg" in c for m in cohort.modalities.values() if m.name != "prognosis" for c in m.columns)


def test_who_left_by_day_three_is_not_in_the_cohort(cohort: Cohort) -> None:
    raw = support2.raw()
    gone = (raw["slos"] <= 3) | ((raw["death"] == 1) & (raw["d_time"] <= 3))
    assert set(cohort.sample_ids.tolist()) == set(raw.loc[~gone, "patient_id"])
    assert list(cohort.info["counts"].items())[:3] == [
        ("raw table", 9105), ("still in hospital after study day 3", 8758), ("alive after study day 3", 8758),
    ]  # fmt: skip
    assert len(cohort) == len(cohort.patient_ids) == 8758


def test_tasks(cohort: Cohort) -> None:
    kinds = pd.Series([task.kind for task in cohort.tasks.values()]).value_counts().to_dict()
    assert kinds == {"binary": 5, "regression": 4, "multiclass": 2, "clustering": 1}
    assert cohort.tasks["phenotype"].n_outputs == 15
    assert all(task.department for task in cohort.tasks.values())
    counts = {name: int((~np.isnan(label)).sum()) for name, label in cohort.labels.items()}
    assert counts == {
        "hospdead": 8758, "dead_60d": 8758, "dead_180d": 8758, "dnr_later": 7320, "disability": 4429,
        "surv_group": 8758, "dzclass": 8758, "slos_log": 8758, "charges_log": 8594, "totcst_log": 7881, "avtisst": 8755,
    }  # fmt: skip
    assert all(cohort.info["counts"][f"labelled for {name}"] == count for name, count in counts.items())


def test_death_labels(cohort: Cohort, raw: pd.DataFrame) -> None:
    labels = cohort.labels
    np.testing.assert_array_equal(labels["hospdead"], raw["hospdead"])
    assert (labels["dead_60d"] <= labels["dead_180d"]).all()
    assert raw.loc[raw["death"] == 0, "d_time"].min() > 180  # nobody is lost before day 180
    in_hospital = raw["hospdead"].to_numpy() == 1
    assert (labels["surv_group"][in_hospital] == 0).all()
    later = ~in_hospital & (labels["dead_180d"] == 1)
    assert (labels["surv_group"][later] == 1).all()
    assert (labels["surv_group"][~in_hospital & ~later] == 2).all()


def test_dnr_later_is_about_orders_after_day_three(cohort: Cohort, raw: pd.DataFrame) -> None:
    label = pd.Series(cohort.labels["dnr_later"], raw.index)
    after, never = raw["dnr"] == "dnr after sadm", raw["dnr"] == "no dnr"
    assert label[after & (raw["dnrday"] <= 3)].isna().all()
    assert (label[after & (raw["dnrday"] > 3)] == 1).all()
    assert (label[never] == 0).all()
    assert label[~after & ~never].isna().all()


def test_disability_has_no_class_of_the_dead(cohort: Cohort, raw: pd.DataFrame) -> None:
    label = pd.Series(cohort.labels["disability"], raw.index)
    dead = (raw["death"] == 1) & (raw["d_time"] <= 60)
    assert label[dead].isna().all()
    assert label[raw["sfdm2"] == "<2 mo. follow-up"].isna().all()
    assert label[raw["sfdm2"].isna()].isna().all()
    alive = raw[~dead & raw["sfdm2"].notna()]
    np.testing.assert_array_equal(label[alive.index] == 0, alive["sfdm2"] == "no(M2 and SIP pres)")


def test_logarithms(cohort: Cohort, raw: pd.DataFrame) -> None:
    np.testing.assert_allclose(np.exp(cohort.labels["slos_log"]), raw["slos"])
    cost = cohort.labels["totcst_log"]
    assert np.isnan(cost[raw["totcst"].to_numpy() == 0]).all()
    assert np.isfinite(cost[raw["totcst"].to_numpy() > 0]).all()


def test_dzclass_is_searched_without_the_disease(cohort: Cohort) -> None:
    columns = {c for m in cohort.for_tasks(["dzclass", "hospdead"]).modalities.values() for c in m.columns}
    assert not columns & {"dzgroup", "dzclass", "ca", "scoma"}
    np.testing.assert_array_equal(np.unique(cohort.labels["dzclass"]), [0, 1, 2, 3])


def test_whether_an_interview_took_place_is_no_input(cohort: Cohort, raw: pd.DataFrame) -> None:
    history = cohort.modalities["history"]
    adl = history.values[:, history.columns.index("adl")]
    assert not np.isnan(adl).any()
    answered = raw["adls"].notna() | raw["adlp"].notna()
    assert (adl[~answered.to_numpy()] == 0).all()
    assert (adl[answered.to_numpy()] == 0).mean() > 0.4  # 0 is the commonest answer: no answer hides among them
    names = fit(cohort, cohort.split.train(0)).names["history"]
    assert not [name for name in names if "measured" in name]


def test_categories_are_those_of_the_raw_table(cohort: Cohort, raw: pd.DataFrame) -> None:
    for modality in cohort.modalities.values():
        for column, names in modality.levels.items():
            codes = modality.values[:, modality.columns.index(column)]
            texts = [None if np.isnan(code) else names[int(code)] for code in codes]
            assert texts == [None if pd.isna(value) else value for value in raw[column]]


def test_numbers_are_those_of_the_raw_table(cohort: Cohort, raw: pd.DataFrame) -> None:
    for modality in cohort.modalities.values():
        for index, column in enumerate(modality.columns):
            if column in raw and column not in modality.levels:
                np.testing.assert_array_equal(modality.values[:, index], raw[column])


def test_prognosis_is_absent_where_no_physician_was_asked(cohort: Cohort, raw: pd.DataFrame) -> None:
    present = cohort.modalities["prognosis"].present
    np.testing.assert_array_equal(present, raw[["prg2m", "prg6m"]].notna().any(axis=1))
    assert 0.8 < present.mean() < 0.85


def test_overlaps_are_declared_and_nothing_is_found(cohort: Cohort) -> None:
    assert ("hospdead", "surv_group") in cohort.overlaps
    assert ("charges_log", "totcst_log") in cohort.overlaps
    assert len(cohort.overlaps) == 9
    assert check_cohort("support2") == []


def test_the_cohort_never_changes_by_itself(cohort: Cohort) -> None:
    """A change here orphans every ledger made on the cohort; it must be meant."""
    assert cohort.fingerprint == "03a2aa5c5d337a47"
    assert cohort.split.digest == "12cd5f323bf022b3"
    assert cohort.split.test.sum() == 1751


def test_written_as_a_folder_it_is_the_same(cohort: Cohort, tmp_path: Path) -> None:
    write_cohort(cohort, tmp_path / "support2")
    again = open_cohort(tmp_path / "support2")
    assert again.fingerprint == cohort.fingerprint
    assert again.split.digest == cohort.split.digest
    assert check_cohort(tmp_path / "support2") == []


def test_the_docs_say_what_the_code_does() -> None:
    text = (ROOT / "docs" / "cohorts.md").read_text()
    assert column_table(support2.COLUMNS) in text
    for number in ("9,105", "8,758", "7,320", "4,429", "8,594", "7,881", "8,755"):
        assert number in text
