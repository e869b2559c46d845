"""The cohort folder: round trip, split, fingerprint, and every kind of bad input with its place."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from model.cohorts import folder_reader
from model.cohorts.cohort import Cohort, Modality, Split, make_cohort, make_split, matches, patient_codes
from model.cohorts.values import CHOICES
from model.sources.opening import check_cohort, open_cohort, write_cohort
from tests.support import ROOT
from tests.support.cohort_folders import N, give_split, map_arrays, save, table, write_folder
from tim_search.types import BadInput, Finding, Task


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_folder(tmp_path)
    return tmp_path


def errors(root: Path) -> list[Finding]:
    return [finding for finding in check_cohort(root) if finding.severity == "error"]


# ------------------------------------------------------------------------------------------------------- reading


def test_a_folder_is_read_as_described(folder: Path) -> None:
    cohort = open_cohort(folder)
    assert errors(folder) == []
    assert len(cohort) == N
    assert len(cohort.patient_ids) == 120
    labs, series, images = cohort.modalities.values()
    assert labs.columns == ("age", "albumin", "sex", "triage")
    assert labs.levels == {"sex": ("female", "male"), "triage": ("1", "2", "3")}
    assert labs.present.sum() == N - 2
    assert not labs.present[[3, 5]].any()
    assert np.isnan(labs.values[3]).all()
    assert series.values.shape == (N, 6, 2)
    assert series.values.dtype == np.float32
    assert np.isnan(series.values[0, 1]).all()
    assert series.present.sum() == 200
    assert images.values.shape == (N, 1, 3, 4)
    assert images.present.sum() == 50
    assert {name: task.n_outputs for name, task in cohort.tasks.items()} == {
        "died": 1, "ward": 3, "days": 1, "symptoms": 2, "phenotype": 4,
    }  # fmt: skip
    assert cohort.classes == {
        "died": ("0", "1"), "ward": ("general", "step-down", "icu"), "symptoms": ("fever", "pain"),
    }  # fmt: skip
    assert set(cohort.labels) == {"died", "ward", "days", "symptoms"}
    assert cohort.labels["symptoms"].shape == (N, 2)
    assert cohort.overlaps == (("died", "ward"),)
    frame = table()
    wards = [cohort.classes["ward"][int(code)] if code == code else None for code in cohort.labels["ward"]]
    assert wards == [None if pd.isna(ward) else ward for ward in frame["ward"]]
    np.testing.assert_array_equal(cohort.labels["died"], frame["died"])


def test_values_are_aligned_by_id_not_by_row(folder: Path) -> None:
    by_id = pd.read_parquet(folder / "labs.parquet").set_index("visit")
    cohort = open_cohort(folder)
    wanted = by_id.reindex(table()["visit"])["age"].to_numpy()
    np.testing.assert_array_equal(cohort.modalities["labs"].values[:, 0], wanted)


def test_round_trip(folder: Path, tmp_path: Path) -> None:
    cohort = open_cohort(folder)
    write_cohort(cohort, tmp_path / "again")
    again = open_cohort(tmp_path / "again")
    assert errors(tmp_path / "again") == []
    assert again.fingerprint == cohort.fingerprint
    assert again.columns_digest == cohort.columns_digest
    assert again.split.digest == cohort.split.digest
    assert again.tasks == cohort.tasks
    assert again.classes == cohort.classes
    assert again.overlaps == cohort.overlaps
    assert again.info == cohort.info
    np.testing.assert_array_equal(again.patient_ids, cohort.patient_ids)
    for name, modality in cohort.modalities.items():
        np.testing.assert_array_equal(again.modalities[name].values, modality.values)
        assert again.modalities[name].values.dtype == modality.values.dtype


def test_text_labels_of_a_binary_task_survive_the_round_trip(folder: Path, tmp_path: Path) -> None:
    description = write_folder(folder)
    frame = table()
    frame["sent"] = np.where(frame["fever"] == 1, "yes", "no")
    frame.to_parquet(folder / "samples.parquet", index=False)
    description["tasks"]["sent"] = {"kind": "binary", "classes": ["yes", "no"]}
    save(folder, description)
    cohort = open_cohort(folder)
    np.testing.assert_array_equal(cohort.labels["sent"], 1 - frame["fever"])
    write_cohort(cohort, tmp_path / "again")
    assert open_cohort(tmp_path / "again").fingerprint == cohort.fingerprint


def test_writing_does_not_overwrite(folder: Path) -> None:
    cohort = open_cohort(folder)
    with pytest.raises(BadInput, match="new or empty folder"):
        write_cohort(cohort, folder)
    assert open_cohort(folder).fingerprint == cohort.fingerprint


def test_a_refused_write_leaves_nothing(folder: Path, tmp_path: Path) -> None:
    cohort = open_cohort(folder)
    modality = cohort.modalities["labs"]
    clash = Modality("clash", "vector", ("sample_id",), np.ones((N, 1)), {}, np.ones(N, bool))
    bad = make_cohort(
        "bad", cohort.sample_ids, cohort.patients, [modality, clash], cohort.tasks.values(), cohort.labels
    )
    with pytest.raises(BadInput, match="sample_id"):
        write_cohort(bad, tmp_path / "sub" / "bad")
    assert not (tmp_path / "sub").exists()


def test_a_write_that_fails_half_way_leaves_nothing(folder: Path, tmp_path: Path) -> None:
    cohort = open_cohort(folder)
    bad = replace(cohort, info={"no": object()})  # found out when the Parquet files are written already
    with pytest.raises(yaml.YAMLError):
        write_cohort(bad, tmp_path / "sub" / "bad")
    assert list((tmp_path / "sub").iterdir()) == []


@pytest.mark.parametrize(
    ("task", "label", "words"),
    [
        (Task("y", "multiclass", 2), np.arange(N) % 3, "expected codes 0 to 1"),
        (Task("y", "binary"), np.full(N, 0.5), "expected codes 0 to 1"),
        (Task("y", "regression"), np.full(N, np.inf), "some are infinite"),
        (Task("y", "multilabel", 3), np.zeros((N, 2)), r"expected the shape \(240, 3\)"),
        (Task("z", "regression"), np.zeros(N), "expected labels of"),
    ],
)
def test_a_cohort_made_in_code_is_checked(folder: Path, task: Task, label: np.ndarray, words: str) -> None:
    cohort = open_cohort(folder)
    with pytest.raises(ValueError, match=words):
        make_cohort("c", cohort.sample_ids, cohort.patients, cohort.modalities.values(), [task], {"y": label})


def test_a_metric_may_be_chosen_and_is_kept(folder: Path, tmp_path: Path) -> None:
    plain = open_cohort(folder)
    chosen = {"died": "auprc", "ward": "macro_f1", "symptoms": "micro_auroc", "days": "r2"}
    description = yaml.safe_load((folder / "cohort.yaml").read_text())
    for name, metric in chosen.items():
        description["tasks"][name]["metric"] = metric
    save(folder, description)
    cohort = open_cohort(folder)
    assert {name: cohort.tasks[name].metric for name in chosen} == chosen
    # Scores by another metric must not be taken for answers to this search.
    assert cohort.fingerprint != plain.fingerprint
    write_cohort(cohort, tmp_path / "copy")
    again = open_cohort(tmp_path / "copy")
    assert again.tasks == cohort.tasks
    assert again.fingerprint == cohort.fingerprint


def test_a_metric_of_another_kind_is_no_cohort() -> None:
    with pytest.raises(ValueError, match="task y: a binary task is scored by auroc or auprc, given r2"):
        make_cohort("c", range(20), range(20), [], [Task("y", "binary", metric="r2")], {"y": np.tile([0.0, 1.0], 10)})


# --------------------------------------------------------------------------------------------------- fingerprint


def test_fingerprint_is_of_the_content_only(folder: Path) -> None:
    description = write_folder(folder)
    before = open_cohort(folder)
    for name in ("samples", "labs", "series", "images"):
        content = pq.read_table(folder / f"{name}.parquet")
        pq.write_table(content, folder / f"{name}.parquet", row_group_size=7, compression="gzip", version="1.0")
    labs = pd.read_parquet(folder / "labs.parquet").sort_values("age")
    labs["sex"] = labs["sex"].astype("category")
    labs.to_parquet(folder / "labs.parquet", index=False)
    description |= {"name": "other", "info": {"anything": 1}}
    description["tasks"] = dict(reversed(description["tasks"].items()))
    save(folder, description)
    after = open_cohort(folder)
    assert after.fingerprint == before.fingerprint
    assert after.columns_digest == before.columns_digest
    assert after.split.digest == before.split.digest


@pytest.mark.parametrize("what", ["feature", "gap", "label", "patient", "level"])
def test_fingerprint_tells_contents_apart(folder: Path, what: str) -> None:
    before = open_cohort(folder).fingerprint
    labs, samples = pd.read_parquet(folder / "labs.parquet"), pd.read_parquet(folder / "samples.parquet")
    if what == "feature":
        labs.loc[0, "age"] = np.nextafter(labs.loc[0, "age"], 1000)
    elif what == "gap":
        labs.loc[0, "age"] = np.nan
    elif what == "level":
        labs.loc[0, "sex"] = "male" if labs.loc[0, "sex"] == "female" else "female"
    elif what == "label":
        samples.loc[0, "days"] += 1e-9
    else:
        samples.loc[0, "patient"] = 119
    labs.to_parquet(folder / "labs.parquet", index=False)
    samples.to_parquet(folder / "samples.parquet", index=False)
    assert open_cohort(folder).fingerprint != before


def test_float32_and_float64_of_equal_values_agree() -> None:
    values = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    values[0, 0] = np.nan
    task = Task("y", "regression")

    def build(matrix: np.ndarray) -> Cohort:
        modality = Modality("m", "vector", ("a", "b", "c"), matrix, {}, np.ones(20, bool))
        return make_cohort("c", np.arange(20), np.arange(20), [modality], [task], {"y": np.arange(20.0)})

    assert build(values).fingerprint == build(values.astype(np.float64)).fingerprint


# --------------------------------------------------------------------------------------------------------- split


@settings(max_examples=30, deadline=None)
@given(st.integers(12, 200), st.integers(1, 4), st.integers(0, 5), st.integers(2, 6))
def test_split_keeps_patients_together_and_parts_even(patients: int, visits: int, seed: int, n_folds: int) -> None:
    dice = np.random.default_rng(patients)
    who = dice.permutation(np.repeat(np.arange(patients), visits))
    strata = np.array(["rare", "common"])[(who % 10 > 0).astype(int)]
    codes, ids = patient_codes(who)
    split = make_split(codes, ids, strata, seed, n_folds)
    assert split.test.shape == split.fold.shape == (patients * visits,)
    assert ((split.fold == -1) == split.test).all()
    by_patient = pd.DataFrame({"who": who, "test": split.test, "fold": split.fold}).drop_duplicates()
    assert len(by_patient) == patients
    assert by_patient["test"].sum() == patients // 5
    sizes = by_patient.loc[~by_patient["test"], "fold"].value_counts()
    assert sizes.max() - sizes.min() <= 1
    rare = by_patient["who"] % 10 == 0
    assert abs(by_patient.loc[rare, "test"].sum() - rare.sum() / 5) <= 1


def test_split_depends_on_ids_strata_and_seed_alone() -> None:
    who = np.array([f"p{index % 50}" for index in range(120)], dtype=object)
    strata = np.array([int(key[1:]) % 3 for key in who])

    def sides(order: np.ndarray, seed: int = 0) -> dict[str, int]:
        codes, ids = patient_codes(who[order])
        split = make_split(codes, ids, strata[order], seed)
        return dict(zip(who[order], split.fold.tolist(), strict=True))

    straight, shuffled = np.arange(120), np.random.default_rng(0).permutation(120)
    assert sides(straight) == sides(shuffled)
    assert sides(straight) != sides(straight, seed=1)


def test_split_does_not_depend_on_the_tasks_chosen(folder: Path) -> None:
    cohort = open_cohort(folder)
    assert cohort.for_tasks(["days"]).split is cohort.split


def test_parts_of_a_split(folder: Path) -> None:
    split = open_cohort(folder).split
    for fold in range(5):
        train, validation = split.train(fold), split.validation(fold)
        assert not (train & validation).any()
        np.testing.assert_array_equal(train | validation, ~split.test)
    np.testing.assert_array_equal(split.train(-1), ~split.test)
    for wrong in (5, -2):
        with pytest.raises(ValueError, match="fold must be"):
            split.train(wrong)
    with pytest.raises(ValueError, match="fold must be"):
        split.validation(-1)


@pytest.mark.parametrize("by", ["visit", "patient"])
def test_a_given_split_is_taken(folder: Path, by: str) -> None:
    cohort = open_cohort(folder)
    frame = pd.DataFrame({"visit": cohort.sample_ids, "patient": cohort.patients})
    frame["part"] = np.where(cohort.split.test, "test", "train")
    frame["fold"] = np.where(cohort.split.test, np.nan, (cohort.split.fold + 1) % 3)
    give_split(folder, frame[[by, "part", "fold"]].drop_duplicates().sample(frac=1, random_state=1))
    given = open_cohort(folder).split
    assert given.n_folds == 3
    np.testing.assert_array_equal(given.test, cohort.split.test)
    np.testing.assert_array_equal(given.fold[~given.test], frame["fold"][~given.test].astype(int))
    assert given.digest != cohort.split.digest


def _straddle(frame: pd.DataFrame) -> None:
    frame.loc[0, "part"] = "test" if frame.loc[0, "part"] == "train" else "train"
    frame.loc[0, "fold"] = 0


def _two_folds(frame: pd.DataFrame) -> None:
    row = frame.index[frame["part"] == "train"][0]
    frame.loc[row, "fold"] = (frame.loc[row, "fold"] + 1) % 5


def _hole(frame: pd.DataFrame) -> None:
    frame.loc[frame["fold"] == 2, "fold"] = 7


def _strange(frame: pd.DataFrame) -> None:
    frame.loc[4, "part"] = "validation"


def _short(frame: pd.DataFrame) -> None:
    frame["visit"] = frame["visit"].replace({"v000": "v900", "v001": "v901"})


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (_straddle, "1 values of patient are in the training and the test part (e.g. 0)"),
        (_two_folds, "1 values of patient are in more than one fold"),
        (_hole, "expected every training row in a fold 0 to k - 1"),
        (_strange, "expected train or test, given validation"),
        (_short, "2 samples are not in the split (e.g. v000, v001)"),
    ],
)
def test_a_bad_given_split(folder: Path, spoil: Callable[[pd.DataFrame], None], words: str) -> None:
    cohort = open_cohort(folder)
    frame = pd.DataFrame({"visit": cohort.sample_ids, "part": np.where(cohort.split.test, "test", "train")})
    frame["fold"] = cohort.split.fold.astype(int)
    spoil(frame)
    give_split(folder, frame)
    found = errors(folder)
    assert [finding.place.split(":")[0] for finding in found] == ["split.parquet"]
    assert words in found[0].problem


# ----------------------------------------------------------------------------------------------------- for_tasks


def test_for_tasks_drops_what_any_task_excludes(folder: Path) -> None:
    cohort = open_cohort(folder)
    alone = cohort.for_tasks(["days"])
    assert alone.columns_digest == cohort.columns_digest
    assert alone.modalities["labs"] is cohort.modalities["labs"]
    died = cohort.for_tasks(["died", "days"])
    assert died.modalities["labs"].columns == ("age", "sex", "triage")
    assert died.modalities["labs"].levels == cohort.modalities["labs"].levels
    both = cohort.for_tasks(["ward", "died"])
    assert list(both.modalities) == ["labs", "series"]
    assert both.overlaps == (("died", "ward"),)
    assert died.overlaps == ()
    assert list(both.tasks) == ["died", "ward"]
    assert set(both.labels) == {"died", "ward"}
    assert len({cohort.columns_digest, died.columns_digest, both.columns_digest}) == 3
    assert died.fingerprint == cohort.fingerprint


def test_a_sample_whose_measured_columns_are_all_dropped_lacks_the_modality() -> None:
    values = np.array([[1.0, np.nan], [np.nan, 2.0]])
    modality = Modality("m", "vector", ("a", "b"), values, {}, np.ones(2, bool))
    kept = modality.keep(["a"])
    assert kept.present.tolist() == [True, False]


def test_for_tasks_refuses_unknown_tasks_and_empty_inputs(folder: Path) -> None:
    cohort = open_cohort(folder)
    with pytest.raises(BadInput, match=r"given dead\. Its tasks are: died, ward"):
        cohort.for_tasks(["dead", "days"])
    with pytest.raises(BadInput, match="given none"):
        cohort.for_tasks([])
    task = Task("all", "regression", excludes=("*",))
    all_out = make_cohort(
        "c", cohort.sample_ids, cohort.patients, cohort.modalities.values(), [task], {"all": cohort.labels["days"]}
    )
    with pytest.raises(BadInput, match="exclude every input column"):
        all_out.for_tasks(["all"])


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("age", ["a.age", "b.age"]),
        ("b.age", ["b.age"]),
        ("a.*", ["a.age", "a.x+"]),
        ("*.x+", ["a.x+"]),
        ("x+", ["a.x+"]),
        ("x", []),
        ("img.pixels", ["img.pixels"]),
        ("*", ["a.age", "a.x+", "b.age", "img.pixels"]),
    ],
)
def test_excludes_patterns(pattern: str, found: list[str]) -> None:
    here = np.ones(2, bool)
    modalities = {
        "a": Modality("a", "vector", ("age", "x+"), np.ones((2, 2)), {}, here),
        "b": Modality("b", "vector", ("age",), np.ones((2, 1)), {}, here),
        "img": Modality("img", "image", (), np.ones((2, 1, 2, 2)), {}, here),
    }
    assert [f"{modality}.{column}" for modality, column in matches(modalities, pattern)] == found


def test_shapes_are_checked() -> None:
    with pytest.raises(ValueError, match="a sequence needs values with 3 axes"):
        Modality("m", "sequence", ("a",), np.ones((2, 1)), {}, np.ones(2, bool))
    with pytest.raises(ValueError, match="2 columns named, values have 1"):
        Modality("m", "vector", ("a", "b"), np.ones((2, 1)), {}, np.ones(2, bool))
    with pytest.raises(ValueError, match="two columns have one name"):
        Modality("m", "vector", ("a", "a"), np.ones((2, 2)), {}, np.ones(2, bool))


# ----------------------------------------------------------------------------------------------------- bad input


def _at(*keys: str, value: Any = None) -> Callable[[dict[str, Any]], None]:
    """Set a key of the description; None removes it."""

    def change(description: dict[str, Any]) -> None:
        for key in keys[:-1]:
            description = description[key]
        if value is None:
            del description[keys[-1]]
        else:
            description[keys[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "place", "words"),
    [
        (_at("sample", value="x"), "cohort.yaml: sample", "is not a known key. Did you mean samples?"),
        (_at("format"), "cohort.yaml: format", "is required"),
        (_at("format", value=2), "cohort.yaml: format", "expected 1, given 2"),
        (_at("name", value=3), "cohort.yaml: name", "expected a text"),
        (_at("modalities", value={}), "cohort.yaml: modalities", "is empty"),
        (_at("samples", value="sample.parquet"), "cohort.yaml: samples", "Did you mean samples.parquet?"),
        (_at("sample_id", value="visits"), "cohort.yaml: sample_id", "has no column visits. Did you mean visit?"),
        (_at("stratify", value="days"), "cohort.yaml: stratify", "240 values"),
        (_at("stratify", value="wards"), "cohort.yaml: stratify", "has no column wards"),
        (_at("split", value={"folds": 1}), "cohort.yaml: split.folds", "expected 2 to 100"),
        (_at("split", value={"folds": 90}), "cohort.yaml: split", "120 patients are too few"),
        (_at("tasks", "died", "kind", value="binry"), "cohort.yaml: tasks.died.kind", "Did you mean binary?"),
        (_at("tasks", "died", "metrics", value="r2"), "cohort.yaml: tasks.died: metrics", "Did you mean metric?"),
        (
            _at("tasks", "died", "metric", value="r2"),
            "cohort.yaml: tasks.died.metric",
            "scored by auroc or auprc; given r2",
        ),
        (_at("tasks", "ward", "metric", value="macrof1"), "cohort.yaml: tasks.ward.metric", "Did you mean macro_f1?"),
        (_at("tasks", "died", "label", value="dead"), "cohort.yaml: tasks.died.label", "Did you mean died?"),
        (_at("tasks", "died", "label", value=["died"]), "cohort.yaml: tasks.died.label", "name of one column"),
        (_at("tasks", "symptoms", "label", value="fever"), "cohort.yaml: tasks.symptoms.label", "two or more"),
        (_at("tasks", "died", "clusters", value=3), "cohort.yaml: tasks.died.clusters", "has no clusters"),
        (_at("tasks", "phenotype", "label", value="ward"), "cohort.yaml: tasks.phenotype.label", "has no label"),
        (_at("tasks", "phenotype", "clusters", value=1), "cohort.yaml: tasks.phenotype.clusters", "2 to 1000"),
        (_at("tasks", "days", "label", value="ward"), "samples.parquet: column ward", "expected numbers"),
        (_at("tasks", "died", "label", value="ward"), "samples.parquet: column ward", "expected two classes"),
        (_at("tasks", "died", "label", value="patient"), "samples.parquet: column patient", "expected 0, 1 and NaN"),
        (_at("tasks", "ward", "label", value="days"), "samples.parquet: column days", "given fractions"),
        (_at("tasks", "ward", "classes", value=["icu", "general"]), "samples.parquet: column ward", "step-down"),
        (_at("tasks", "ward", "classes", value=[True, False]), "cohort.yaml: tasks.ward.classes", "given True"),
        (_at("tasks", "died", "excludes", value=["albumn"]), "cohort.yaml: tasks.died.excludes", "mean albumin?"),
        (_at("tasks", "a b", value={"kind": "binary"}), "cohort.yaml: tasks.a b", "is not a usable name"),
        (_at("tasks", "died", value="binary"), "cohort.yaml: tasks.died", "expected keys and values"),
        (_at("overlaps", value=[["died", "wards"]]), "cohort.yaml: overlaps[0]", "Did you mean ward?"),
        (_at("overlaps", value=[["died"]]), "cohort.yaml: overlaps[0]", "two different tasks"),
        (_at("modalities", "labs", "file", value="lab.parquet"), "cohort.yaml: modalities.labs.file", "labs.parquet?"),
        (_at("modalities", "labs", "file"), "cohort.yaml: modalities.labs: file", "is required"),
        (_at("modalities", "labs", "kind", value="table"), "cohort.yaml: modalities.labs.kind", "given table"),
        (_at("modalities", "labs", "columns", value=["agee"]), "cohort.yaml: modalities.labs.columns", "mean age?"),
        (_at("modalities", "labs", "columns", value=["age", "age"]), "cohort.yaml: modalities.labs.columns", "twice"),
        (_at("modalities", "labs", "columns", value=["visit"]), "cohort.yaml: modalities.labs.columns", "is an id"),
        (_at("modalities", "labs", "prefix", value="zz_"), "cohort.yaml: modalities.labs", "no feature column"),
        (_at("modalities", "labs", "levels", value={"agee": [1]}), "cohort.yaml: modalities.labs.levels", "mean age?"),
        (_at("modalities", "labs", "levels", value={"triage": [1, 2]}), "labs.parquet: column triage", "holds 3"),
        (
            _at("modalities", "labs", "levels", value={"triage": 3}),
            "cohort.yaml: modalities.labs.levels.triage",
            "list",
        ),
        (_at("modalities", "series", "length", value=4), "series.parquet: column hour", "outside 0 to 3 (e.g. 5"),
        (_at("modalities", "series", "step", value="hours"), "cohort.yaml: modalities.series.step", "mean hour?"),
        (_at("modalities", "series", "step", value="pulse"), "series.parquet: column pulse", "whole number"),
        (_at("modalities", "images", "shape", value=[1, 3, 5]), "images.parquet: column pixels", "than 15 (e.g. 12"),
        (_at("modalities", "images", "shape", value=[3, 4]), "cohort.yaml: modalities.images.shape", "[channels"),
        (_at("modalities", "images", "file", value="labs.parquet"), "cohort.yaml: modalities.images.column", "pixels"),
    ],
)
def test_bad_descriptions(tmp_path: Path, change: Callable[[Any], None], place: str, words: str) -> None:
    description = write_folder(tmp_path)
    change(description)
    save(tmp_path, description)
    found = errors(tmp_path)
    assert [finding for finding in found if finding.place == place and words in str(finding)], found
    assert all(finding.fix for finding in found)
    with pytest.raises(BadInput, match=re.escape(place)):
        open_cohort(tmp_path)


def _samples(change: Callable[[pd.DataFrame], Any]) -> Callable[[Path], None]:
    def spoil(root: Path) -> None:
        frame = pd.read_parquet(root / "samples.parquet")
        change(frame)
        frame.to_parquet(root / "samples.parquet", index=False)

    return spoil


def _labs(change: Callable[[pd.DataFrame], Any]) -> Callable[[Path], None]:
    def spoil(root: Path) -> None:
        frame = pd.read_parquet(root / "labs.parquet")
        change(frame)
        frame.to_parquet(root / "labs.parquet", index=False)

    return spoil


def _instead(put: Callable[[Path], Any]) -> Callable[[Path], None]:
    """Something else in the place of cohort.yaml."""

    def spoil(root: Path) -> None:
        (root / "cohort.yaml").unlink()
        put(root / "cohort.yaml")

    return spoil


def _set(row: Any, column: str, value: Any) -> Callable[[pd.DataFrame], None]:
    return lambda frame: frame.__setitem__(column, frame[column].where(frame.index != row, value))


def _column(column: str, value: Any) -> Callable[[pd.DataFrame], None]:
    return lambda frame: frame.__setitem__(column, value)


@pytest.mark.parametrize(
    ("spoil", "place", "words"),
    [
        (_samples(_set(1, "visit", "v000")), "samples.parquet: column visit", "1 sample ids occur more than once"),
        (_samples(_set(1, "visit", None)), "samples.parquet: column visit", "1 ids are missing"),
        (_samples(_set(1, "patient", None)), "samples.parquet: column patient", "given double"),
        (_samples(_column("died", 1.0)), "tasks.died", "over the whole cohort all its labels are the same (1)"),
        (_samples(_column("died", np.nan)), "tasks.died", "over the whole cohort it has no label"),
        (_samples(_column("days", 2.0)), "tasks.days", "all its labels are the same (2)"),
        (_samples(_set(1, "died", -1)), "samples.parquet: column died", "given also -1"),
        (_samples(_set(1, "days", np.inf)), "samples.parquet: column days", "1 labels are infinite"),
        (_samples(_column("ward", pd.Timestamp("2020-01-01"))), "samples.parquet: column ward", "given timestamp"),
        (_labs(_set(7, "age", -np.inf)), "labs.parquet: column age", "1 values are infinite"),
        (_labs(_column("age", pd.Timestamp("2020-01-01"))), "labs.parquet: column age", "expected numbers"),
        (_labs(_set(7, "visit", "v999")), "labs.parquet: column visit", "not in samples.parquet (e.g. v999)"),
        (_labs(_set(7, "visit", "v100")), "labs.parquet: column visit", "have more than one row (e.g. v100)"),
        (_labs(_column("note", [f"n{i}" for i in range(N - 2)])), "labs.parquet: column note", "238 levels"),
        (
            lambda root: (root / "labs.parquet").write_text("a,b"),
            "cohort.yaml: modalities.labs.file",
            "read as Parquet",
        ),
        (lambda root: (root / "cohort.yaml").write_text("a: [1"), "cohort.yaml, line 1", "is not valid YAML"),
        (lambda root: (root / "cohort.yaml").write_bytes(b"a: \xff"), "cohort.yaml", "UTF-8 text, got other bytes"),
        (_instead(lambda path: path.mkdir()), "cohort.yaml", "expected a file (YAML), got a folder"),
        (_instead(lambda path: path.symlink_to("cohort.yaml")), "cohort.yaml", "is a link that leads nowhere"),
        # Linux opens this one, and then refuses to read it.
        (_instead(lambda path: path.symlink_to("/proc/self/mem")), "cohort.yaml", "cannot be read: Input/output"),
        (
            lambda root: (root / "cohort.yaml").write_text("- a"),
            "cohort.yaml",
            "expected keys and values, given a list",
        ),
        (
            lambda root: (root / "cohort.yaml").write_text("a: 1\na: 2"),
            "cohort.yaml, line 2",
            "key a stands twice",
        ),
    ],
)
def test_bad_files(folder: Path, spoil: Callable[[Path], Any], place: str, words: str) -> None:
    spoil(folder)
    found = errors(folder)
    assert [finding for finding in found if finding.place == place and words in finding.problem], found
    with pytest.raises(BadInput, match=re.escape(place)):
        open_cohort(folder)


def test_a_task_that_a_fold_cannot_score_is_an_error(folder: Path) -> None:
    split = open_cohort(folder).split
    frame = pd.read_parquet(folder / "samples.parquet")
    frame.loc[split.validation(3), "died"] = 0.0
    frame.loc[split.validation(1), "days"] = np.nan
    frame.loc[split.test, ["fever", "pain"]] = 0
    frame.loc[split.validation(0) & (frame["ward"] == "icu"), "ward"] = None
    frame["stratum"] = pd.read_parquet(folder / "samples.parquet")["ward"]
    frame.to_parquet(folder / "samples.parquet", index=False)
    description = yaml.safe_load((folder / "cohort.yaml").read_text())
    save(folder, description | {"stratify": "stratum"})
    found = {(f.place, f.severity): f.problem for f in check_cohort(folder)}
    assert found["tasks.died", "error"].startswith("in fold 3 all its labels are the same (0)")
    assert found["tasks.days", "error"].startswith("in fold 1 it has no label")
    assert found["tasks.symptoms", "error"].startswith("in the test part none of its label columns has both classes")
    assert found["tasks.ward", "warning"] == "fold 0 has no sample of class icu."


def test_a_class_that_nobody_has_is_one_finding(folder: Path) -> None:
    description = yaml.safe_load((folder / "cohort.yaml").read_text())
    description["tasks"]["ward"]["classes"].append("NA")
    save(folder, description)
    (found,) = (finding for finding in check_cohort(folder) if finding.place == "tasks.ward")
    assert found.problem == "no sample at all has class NA."
    assert found.fix.startswith("Take it out of `classes`")


def test_a_class_that_means_not_known_is_told(folder: Path) -> None:
    frame = pd.read_parquet(folder / "samples.parquet")
    frame.loc[frame["ward"] == "icu", "ward"] = "NA"
    frame.to_parquet(folder / "samples.parquet", index=False)
    description = yaml.safe_load((folder / "cohort.yaml").read_text())
    description["tasks"]["ward"]["classes"] = ["NA", "general", "step-down"]
    save(folder, description)
    (found,) = (finding for finding in check_cohort(folder) if "as a class" in finding.problem)
    assert found.problem.startswith(f"{(frame['ward'] == 'NA').sum()} labels are the text 'NA'")
    assert 'missing: [NA]` for the label column under `values` and `classes: [general, "step-down"]`' in found.fix


def test_what_several_parts_lack_is_one_finding(folder: Path) -> None:
    split = open_cohort(folder).split
    frame = pd.read_parquet(folder / "samples.parquet")
    frame.loc[split.validation(1) | split.validation(3) | split.test, "died"] = 0.0
    frame.to_parquet(folder / "samples.parquet", index=False)
    description = yaml.safe_load((folder / "cohort.yaml").read_text())
    save(folder, description | {"overlaps": [["died", "gone"], ["gone", "days"], ["days", "lost"]]})
    found = {finding.place: str(finding) for finding in check_cohort(folder) if finding.severity == "error"}
    assert "in fold 1, fold 3 and the test part all its labels are the same (0)" in found["tasks.died"]
    assert "gone is not a task." in found["cohort.yaml: overlaps: 2 pairs"]
    assert "if gone was left out, remove them" in found["cohort.yaml: overlaps: 2 pairs"]
    assert "if lost was left out, remove its line" in found["cohort.yaml: overlaps[2]"]


def test_every_finding_is_reported_at_once(tmp_path: Path) -> None:
    description = write_folder(tmp_path)
    description["tasks"]["died"]["label"] = "dead"
    description["tasks"]["days"]["colour"] = "red"
    description["modalities"]["images"]["file"] = "nowhere.parquet"
    description["overlaps"].append(["a", "b"])
    save(tmp_path, description)
    frame = pd.read_parquet(tmp_path / "labs.parquet")
    frame.loc[0, "age"] = np.inf
    frame.to_parquet(tmp_path / "labs.parquet", index=False)
    places = {finding.place for finding in errors(tmp_path)}
    assert places == {
        "cohort.yaml: tasks.died.label",
        "cohort.yaml: tasks.days: colour",
        "cohort.yaml: modalities.images.file",
        "cohort.yaml: overlaps[1]",
        "labs.parquet: column age",
    }


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"expected a folder with cohort\.yaml"):
        open_cohort(tmp_path / "nowhere")
    with pytest.raises(BadInput, match=r"expected the file cohort\.yaml"):
        open_cohort(tmp_path)


def test_the_path_of_cohort_yaml_is_taken_too(folder: Path) -> None:
    assert open_cohort(folder / "cohort.yaml").fingerprint == open_cohort(folder).fingerprint


# ------------------------------------------------------------------------------------------------------ warnings


def test_nan_in_a_feature_is_fine(folder: Path) -> None:
    assert open_cohort(folder).modalities["labs"].present.sum() == N - 2
    assert [finding for finding in check_cohort(folder) if "albumin" in finding.place] == []


def test_warnings_about_features(folder: Path) -> None:
    frame = pd.read_parquet(folder / "labs.parquet")
    frame["unused"], frame["constant"] = np.nan, 7.0
    frame.index = np.arange(len(frame)) + 10
    frame.to_parquet(folder / "labs.parquet")
    warnings = {finding.place: finding.problem for finding in check_cohort(folder)}
    assert errors(folder) == []
    assert warnings["modalities.labs.unused"] == "is never measured (all NaN)."
    assert warnings["modalities.labs.constant"] == "is the same (7) wherever measured."
    assert warnings["labs.parquet: column __index_level_0__"].startswith("is a pandas index")
    assert "__index_level_0__" not in open_cohort(folder).modalities["labs"].columns


def test_warnings_about_overlapping_targets(folder: Path) -> None:
    description = write_folder(folder)
    frame = table()
    frame["late"] = np.where((frame["died"] == 1) | (frame["fever"] == 1), 1.0, 0.0)
    frame["long"] = (frame["days"] > 6).astype(float)
    frame["cost"] = frame["days"] * 3 + np.random.default_rng(0).normal(size=N)
    frame["chance"] = np.random.default_rng(1).integers(0, 2, N)
    frame.to_parquet(folder / "samples.parquet", index=False)
    for name, kind in (("late", "binary"), ("long", "binary"), ("cost", "regression"), ("chance", "binary")):
        description["tasks"][name] = {"kind": kind}
    save(folder, description)
    pairs = {f.place: f.problem for f in check_cohort(folder) if " and " in f.place}
    assert pairs["tasks.died and tasks.late"] == "100% of died is also late."
    assert "AUROC 1.000" in pairs["tasks.days and tasks.long"]
    assert "correlate by 1.00" in pairs["tasks.cost and tasks.days"]
    assert not any("chance" in place for place in pairs)
    description["overlaps"] = [place.replace("tasks.", "").split(" and ") for place in pairs]
    save(folder, description)
    assert [f for f in check_cohort(folder) if " and " in f.place] == []


def test_text_classes_of_a_binary_task_want_an_order(folder: Path) -> None:
    description = write_folder(folder)
    frame = table()
    frame["sent"] = np.where(frame["fever"] == 1, "home", "clinic")
    frame.to_parquet(folder / "samples.parquet", index=False)
    description["tasks"]["sent"] = {"kind": "binary"}
    save(folder, description)
    (warning,) = [finding for finding in check_cohort(folder) if "sent.classes" in finding.place]
    assert warning.severity == "warning"
    assert warning.problem.startswith("home is taken as the positive class")
    np.testing.assert_array_equal(open_cohort(folder).labels["sent"], frame["fever"])


def test_one_wide_table_needs_prefixes_and_keeps_targets_out(tmp_path: Path) -> None:
    frame = table().rename(columns={"days": "y__days", "fever": "lab__fever"})
    frame["lab__x"] = np.arange(float(N))
    frame.to_parquet(tmp_path / "samples.parquet", index=False)
    description: dict[str, Any] = {
        "format": 1, "name": "wide", "sample_id": "visit", "patient_id": "patient",
        "modalities": {"lab": {"file": "samples.parquet", "prefix": "lab__"}},
        "tasks": {"days": {"kind": "regression", "label": "y__days"}},
    }  # fmt: skip
    save(tmp_path, description)
    assert open_cohort(tmp_path).modalities["lab"].columns == ("lab__fever", "lab__x")
    description["tasks"]["fever"] = {"kind": "binary", "label": "lab__fever"}
    save(tmp_path, description)
    assert [f for f in errors(tmp_path) if "lab__fever is the label of a task" in f.problem]
    del description["modalities"]["lab"]["prefix"]
    save(tmp_path, description)
    assert [f for f in errors(tmp_path) if "also holds the samples" in f.problem]


# ---------------------------------------------------------------------------------------------------------- docs


def test_the_example_of_the_docs_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / "docs" / "cohorts.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.S)
    example = blocks[0]
    assert len([line for line in example.splitlines() if line.strip()]) <= 10
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "docs/cohorts.md", "exec"), {})
    assert [finding for finding in check_cohort("ward") if finding.severity == "error"] == []
    cohort = open_cohort("ward")
    assert set(cohort.tasks) == {"died", "stay"}
    assert cohort.modalities["labs"].levels == {"sex": ("f", "m")}


def test_the_description_of_the_docs_is_complete_and_right() -> None:
    text = (ROOT / "docs" / "cohorts.md").read_text()
    keys = {*folder_reader.TOP, *folder_reader.SPLIT, *folder_reader.TASK}
    keys |= {key for kind in folder_reader.MODALITY.values() for key in kind} | set(CHOICES)
    (described,) = re.findall(r"```yaml\n(.*?)```", text, re.S)
    description = yaml.safe_load(described)
    assert set(description) <= set(folder_reader.TOP)
    assert {key for task in description["tasks"].values() for key in task} <= set(folder_reader.TASK)
    for modality in description["modalities"].values():
        assert set(modality) <= set(folder_reader.MODALITY[modality.get("kind", "vector")])
    missing = [key for key in sorted(keys) if f"`{key}`" not in text and f"{key}:" not in text]
    assert missing == []


def test_split_is_a_value(folder: Path) -> None:
    split = open_cohort(folder).split
    with pytest.raises(AttributeError):
        split.n_folds = 3  # type: ignore[misc]
    assert isinstance(split, Split)


# ------------------------------------------------------------------------------------------------- mapped arrays


def test_mapped_arrays_are_read_like_parquet(folder: Path) -> None:
    before = map_arrays(folder)
    after = open_cohort(folder)
    for name in ("series", "images"):
        one, other = before.modalities[name], after.modalities[name]
        assert (one.kind, one.columns) == (other.kind, other.columns)
        np.testing.assert_array_equal(one.values, other.values[:])
        np.testing.assert_array_equal(one.present, other.present)
    np.testing.assert_array_equal(after.modalities["labs"].present, before.modalities["labs"].present)


def test_a_mapped_array_stays_on_disk_and_has_the_fingerprint_of_its_content(folder: Path) -> None:
    map_arrays(folder)
    made = open_cohort(folder)
    values = made.modalities["labs"].values
    assert type(values) is np.ndarray
    assert isinstance(values.base, np.memmap)
    assert not values.flags.writeable
    write_cohort(made, folder / "as-parquet")
    copy = open_cohort(folder / "as-parquet")
    assert copy.fingerprint == made.fingerprint
    assert copy.columns_digest == made.columns_digest


def test_a_prefix_names_the_columns_of_a_mapped_array(folder: Path) -> None:
    map_arrays(folder)
    description = yaml.safe_load((folder / "cohort.yaml").read_text())
    description["modalities"]["labs"] = {"file": "labs.npy", "prefix": "lab_"}
    description["tasks"]["died"]["excludes"] = ["lab_1"]
    save(folder, description)
    assert open_cohort(folder).modalities["labs"].columns == ("lab_0", "lab_1")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda root, entry: np.save(root / "labs.npy", np.zeros((9, 2))),
            "expected 240 rows, one a sample, given the shape (9, 2)",
        ),
        (
            lambda root, entry: np.save(root / "labs.npy", np.zeros((240, 2), int)),
            "expected uint8, float16, float32 or float64, given int64",
        ),
        (lambda root, entry: np.save(root / "labs.npy", np.full((240, 2), np.inf)), "480 values are infinite"),
        (lambda root, entry: np.save(root / "labs.npy", np.zeros((240, 3))), "2 names for 3 columns"),
        (lambda root, entry: (root / "labs.npy").write_bytes(b"no array"), "cannot be mapped"),
        (lambda root, entry: (root / "labs.npy").unlink(), "there is none"),
        (lambda root, entry: entry.pop("columns"), "has no names for its 2 columns"),
        (lambda root, entry: entry.update(levels={"age": [1, 2]}), "has no levels"),
        (lambda root, entry: entry.update(columns=["age", "age"]), "holds an entry twice"),
    ],
)
def test_bad_mapped_arrays(folder: Path, change: Callable[[Path, dict[str, Any]], Any], words: str) -> None:
    map_arrays(folder)
    description = yaml.safe_load((folder / "cohort.yaml").read_text())
    change(folder, description["modalities"]["labs"])
    save(folder, description)
    assert any(words in str(finding) for finding in errors(folder)), errors(folder)
