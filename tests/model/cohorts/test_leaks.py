"""Leaks: each is planted and found, in words that name it, and a sound cohort has none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from model.cohorts import column_names, leaks, leaks_survey, overlaps
from model.cohorts.cohort import Cohort, Modality, make_cohort
from model.sources.opening import check_cohort
from tim_search.types import Task

N = 1200
INPUTS = tuple(f"lab_{k}" for k in range(12))


def sound(seed: int = 0) -> dict[str, Any]:
    """Parts of a cohort of 1,200 samples of 600 patients without a leak, to be spoiled: values, labels."""
    dice = np.random.default_rng(seed)
    values = dice.normal(size=(N, len(INPUTS)))
    values[dice.random(values.shape) < 0.1] = np.nan
    signal = np.nan_to_num(values[:, 0]) + dice.normal(size=N)
    return {
        "labs": values,
        "died": (signal > 1).astype(float),
        "days": np.exp(0.4 * np.nan_to_num(values[:, 1]) + dice.normal(size=N)),
        "ward": dice.integers(0, 3, N).astype(float),
    }


def build(parts: dict[str, Any], names: tuple[str, ...] = INPUTS, **fields: Any) -> Cohort:
    labs = parts["labs"]
    present = ~np.isnan(labs).all(axis=1)
    modality = Modality("labs", "vector", names, labs, fields.pop("levels", {}), present)
    tasks = fields.pop("tasks", (Task("died", "binary"), Task("days", "regression"), Task("ward", "multiclass", 3)))
    labels = {task.name: parts[task.name] for task in tasks}
    more = fields.pop("more", ())
    return make_cohort("ward", np.arange(N), np.arange(N) % 600, [modality, *more], tasks, labels, **fields)


def told(cohort: Cohort) -> list[str]:
    return [str(finding) for finding in leaks.findings(cohort)]


def test_a_sound_cohort_has_none() -> None:
    assert told(build(sound())) == []
    assert told(build(sound(1))) == []


def test_without_a_target_names_are_asked_all_the_same() -> None:
    """Groups of patients have no label that anything could tell."""
    tasks = (Task("phenotype", "clustering", 5),)
    values = sound()["labs"]
    modality = Modality("labs", "vector", (*INPUTS[:-1], "dischtime"), values, {}, np.ones(N, bool))
    (found,) = told(make_cohort("ward", np.arange(N), np.arange(N) % 600, [modality], tasks, {}))
    assert found.startswith("modalities.labs.dischtime: its name says the discharge")
    assert "reference model" not in found


# ------------------------------------------------------------------------------------------------ copies


def test_a_copy_of_a_target_is_found_and_an_excluded_one_is_not() -> None:
    parts = sound()
    dice = np.random.default_rng(7)
    parts["labs"][:, 3] = 5 - 2 * parts["died"] + 0.5 * dice.normal(size=N)  # reversed and noisy
    parts["labs"][:, 4] = np.log(parts["days"])  # bent, but of the same order
    parts["labs"][:50, 4] = np.nan
    found = told(build(parts))
    assert len(found) == 2
    assert found[0].startswith("tasks.died: labs.lab_3 (AUROC 0.99")
    assert found[1].startswith("tasks.days: labs.lab_4 (R2 1.000)")
    assert "excludes" in found[0]
    tasks = (Task("died", "binary", excludes=("lab_3",)), Task("days", "regression", excludes=("labs.lab_4",)))
    assert told(build(parts, tasks=tasks)) == []


def test_a_category_that_is_the_class_is_found() -> None:
    """The middle class of a code has an AUROC of one half: categories are judged by level."""
    parts = sound()
    parts["labs"][:, 5] = np.array([1.0, 0.0, 2.0])[parts["ward"].astype(int)]
    (found,) = told(build(parts, levels={"lab_5": ("a", "b", "c")}))
    assert found.startswith("tasks.ward: labs.lab_5 (AUROC 1.000) by itself tells 3 classes of ward")


def test_a_value_that_says_the_outcome_is_found() -> None:
    """Death in the ward within death at any time: no copy (AUROC .7), but certain where it is there."""
    parts = sound()
    dice = np.random.default_rng(5)
    parts["labs"][:, 8] = (parts["died"] == 1) & (dice.random(N) < 0.4)
    (found,) = told(build(parts))
    assert found.startswith("tasks.died: of ")
    assert "samples with labs.lab_8 = 1, 100% are died" in found
    assert told(build(parts, tasks=(Task("died", "binary", excludes=("lab_8",)), Task("days", "regression")))) == []
    parts["labs"][:, 8] = np.where(dice.random(N) < 0.1, 1 - parts["labs"][:, 8], parts["labs"][:, 8])
    assert told(build(parts)) == []


def test_a_strong_but_honest_input_is_none() -> None:
    parts = sound()
    parts["labs"][:, 3] = parts["died"] + 0.6 * np.random.default_rng(3).normal(size=N)  # AUROC .88
    assert told(build(parts)) == []


def test_a_leak_in_a_sequence_is_found() -> None:
    parts = sound()
    series = np.random.default_rng(2).normal(size=(N, 4, 2)) * 0.1
    series[:, :, 1] += parts["died"][:, None]
    more = (Modality("hourly", "sequence", ("pulse", "drug"), series, {}, np.ones(N, bool)),)
    (found,) = told(build(parts, more=more))
    assert found.startswith("tasks.died: hourly.drug (AUROC 1.000)")


def test_only_training_patients_are_looked_at() -> None:
    parts = sound()
    cohort = build(parts)
    labs = cohort.modalities["labs"].values.copy()
    labs[cohort.split.test, 3] = 100 * parts["died"][cohort.split.test]
    spoiled = replace(cohort, modalities={"labs": replace(cohort.modalities["labs"], values=labs)})
    assert told(spoiled) == []


# ------------------------------------------------------------------------------------------------ absence


def test_an_input_that_is_measured_because_of_the_outcome() -> None:
    parts = sound()
    gone = np.random.default_rng(1).random(N) < np.where(parts["died"] == 1, 0.1, 0.7)
    parts["labs"][gone, 6] = np.nan
    parts["labs"][gone, 7] = np.nan
    (found,) = told(build(parts))
    assert "whether labs.lab_6 (AUROC 0.7" in found
    assert "labs.lab_7 (AUROC 0.7" in found
    assert "was measured tells died by itself" in found


def test_how_long_a_stay_is_told_by_gaps() -> None:
    parts = sound()
    parts["labs"][parts["days"] < np.median(parts["days"]), 2] = np.nan
    (found,) = told(build(parts))
    assert found.startswith("tasks.days: whether labs.lab_2 (R2 0.")


def test_absent_modalities() -> None:
    cohort = build(sound())
    note = np.random.default_rng(0).normal(size=(N, 3))
    note[np.arange(N) % 4 > 0] = np.nan
    note[cohort.split.validation(2)] = np.nan
    more = (Modality("notes", "vector", ("a", "b", "c"), note, {}, ~np.isnan(note[:, 0])),)
    found = told(build(sound(), more=more))
    assert any("of the samples lack it" in text and text.startswith("modalities.notes") for text in found)
    assert any("no sample of fold 2 has it" in text for text in found)


# ------------------------------------------------------------------------------------------------ computed targets


def test_a_score_computed_from_the_inputs_is_found() -> None:
    parts = sound()
    values = np.nan_to_num(parts["labs"])
    points = sum((np.abs(values[:, k]) > 0.7).astype(float) + (np.abs(values[:, k]) > 1.5) for k in range(8))
    parts["burden"] = points
    (found,) = told(build(parts, tasks=(Task("died", "binary"), Task("burden", "regression"))))
    assert found.startswith("tasks.burden: the inputs together predict it with R2 0.")
    assert "no single input explains more than" in found
    # Half noise: no formula any more, unless it has the name of a score.
    parts["burden"] = parts["sofa_day1"] = points + 1.2 * np.random.default_rng(4).normal(size=N)
    (found,) = told(build(parts, tasks=(Task("burden", "regression"), Task("sofa_day1", "regression"))))
    assert found.startswith("tasks.sofa_day1")
    assert "the name of a score" in found


# ------------------------------------------------------------------------------------------------ names


@pytest.mark.parametrize(
    "name",
    [
        "discharge_location", "DischTime", "hospital_expire_flag", "deathtime", "death_status", "los", "LOS_days",
        "icu_los", "length_of_stay", "img_length_of_stay", "mortality_30d", "surv2m", "dod", "readmitted_30",
        "DiagnosisDRG", "icd9_code", "total_costs", "charges", "creatinine_next", "outcome2", "split", "Died",
        "hospdead", "slos", "Tod", "mort",
    ],
)  # fmt: skip
def test_names_of_what_comes_later(name: str) -> None:
    assert column_names.late(name)


@pytest.mark.parametrize(
    "name",
    [
        "expiratory_pressure", "surface_area", "survey_score", "bilirubin", "costovertebral_pain", "glucose", "closed",
        "hospital", "admission_type", "age", "n_ecg_7", "alos_x", "icterus", "deadlift", "ratio", "methode_todo",
    ],
)  # fmt: skip
def test_names_of_what_does_not(name: str) -> None:
    assert column_names.late(name) == ""


def test_a_column_with_such_a_name_is_told() -> None:
    (found,) = told(build(sound(), names=(*INPUTS[:-1], "DischargeUnit")))
    assert found.startswith("modalities.labs.DischargeUnit: its name says the discharge")


def test_a_score_among_the_inputs_is_told() -> None:
    (found,) = told(build(sound(), names=("pain_score", *INPUTS[1:-1], "SOFA_day1")))
    assert found.startswith("modalities.labs.SOFA_day1: its name says a score")


def test_noise_of_few_rows_tells_nothing() -> None:
    """What the ranges of a column tell is judged on patients that did not make it, whatever the sign of the target."""
    dice = np.random.default_rng(11)
    parts = sound()
    parts["days"], parts["labs"] = dice.normal(-2, 1, N), dice.normal(size=(N, 120))
    names = tuple(f"lab_{k}" for k in range(120))
    rows = np.flatnonzero(dice.random(N) < 0.9)
    view = leaks_survey.survey(build(parts, names=names), rows, {})
    (days,) = [index for index, target in enumerate(view.targets) if target.task == "days"]
    assert view.alone[days].max() < 0.05
    assert view.alone[[index for index in range(len(view.targets)) if index != days]].max() < 0.65


# ------------------------------------------------------------------------------------------------ rows


def test_equal_rows_and_whose_they_are() -> None:
    parts = sound()
    parts["labs"][1] = parts["labs"][0]
    (found,) = told(build(parts))
    assert "2 samples have exactly the inputs of another one (e.g. 0, 1), 2 of them of another patient" in found
    assert "not of stays" in found
    parts = sound()
    parts["labs"][600] = parts["labs"][0]  # the same patient's
    (found,) = told(build(parts))
    assert "another patient" not in found


def test_equal_rows_of_few_values_are_chance_unless_the_labels_agree() -> None:
    parts = sound()
    parts["labs"] = np.random.default_rng(3).integers(0, 2, (N, len(INPUTS))).astype(float)
    assert told(build(parts)) == []  # most of the 1,200 rows of 12 bits have an equal one
    for name in ("labs", "died", "days", "ward"):
        parts[name][700] = parts[name][3]
    (found,) = told(build(parts))
    assert "2 samples have exactly the inputs and labels of another one (e.g. 3, 700), 2 of them of another" in found


def test_a_filler_is_found_and_many_equal_categories_are_not() -> None:
    parts = sound()
    parts["labs"][::9] = 0.0
    found = told(build(parts))
    assert any("134 samples of 134 patients have one and the same row (zeros)" in text for text in found)
    codes = np.zeros((N, 9))
    codes[::5] = np.random.default_rng(0).integers(0, 2, (240, 9))
    names = tuple(f"had_{k}" for k in range(9))
    more = (Modality("history", "vector", names, codes, {}, np.ones(N, bool)),)
    assert told(build(sound(), more=more)) == []


def test_a_better_patient_id_is_pointed_at(tmp_path: Path) -> None:
    dice = np.random.default_rng(0)
    table = pd.DataFrame({"stay": np.arange(300), "subject_id": np.arange(300) // 3, "y": dice.integers(0, 2, 300)})
    table[["in_a", "in_b"]] = dice.normal(size=(300, 2))
    table.to_parquet(tmp_path / "samples.parquet")
    description = {
        "format": 1,
        "name": "x",
        "sample_id": "stay",
        "patient_id": "stay",
        "modalities": {"in": {"file": "samples.parquet", "prefix": "in_"}},
        "tasks": {"y": {"kind": "binary"}},
    }
    (tmp_path / "cohort.yaml").write_text(yaml.safe_dump(description))
    (found,) = check_cohort(tmp_path)
    assert (found.place, found.severity) == ("samples.subject_id", "warning")
    assert "100 values, the patient id has 300" in found.problem
    assert "patient_id: subject_id" in found.fix
    (tmp_path / "cohort.yaml").write_text(yaml.safe_dump(description | {"patient_id": "subject_id"}))
    assert check_cohort(tmp_path) == []


# ------------------------------------------------------------------------------------------------ overlaps


def test_the_matrix_of_overlaps() -> None:
    dice = np.random.default_rng(0)
    days = dice.gamma(2, 3, N)
    late = (days > 6).astype(float)
    alike = np.where(dice.random(N) < 0.04, 1 - late, late)
    ward = dice.integers(0, 3, N).astype(float)
    rare = np.full(N, np.nan)
    rare[:30] = 1.0
    labels = {"days": days, "late": late, "alike": alike, "logdays": np.log(days) ** 3, "ward": ward, "rare": rare}
    kinds = {"days": "regression", "logdays": "regression", "ward": "multiclass"}
    tasks = {name: Task(name, kinds.get(name, "binary"), 3 if name == "ward" else 1) for name in labels}  # type: ignore[arg-type]
    classes = {"late": ("0", "1"), "alike": ("0", "1"), "rare": ("0", "1"), "ward": ("a", "b", "c")}
    names, matrix = overlaps.overlap_matrix(tasks, labels, classes)
    cell = {(a, b): matrix[i, j] for i, a in enumerate(names) for j, b in enumerate(names)}
    assert (matrix == matrix.T)[~np.isnan(matrix)].all()
    assert cell["days", "logdays"] == pytest.approx(1)  # by their ranks
    assert cell["days", "late"] == pytest.approx(1)
    assert cell["late", "alike"] == pytest.approx(np.corrcoef(late, alike)[0, 1])
    assert cell["ward", "late"] < 0.15
    assert np.isnan(cell["rare", "late"])
    pairs = overlaps.overlapping(tasks, labels, classes)
    assert set(pairs) == {
        ("days", "logdays"), ("days", "late"), ("late", "logdays"), ("alike", "late")
    }  # fmt: skip
    assert "ranks" in pairs["days", "logdays"]
