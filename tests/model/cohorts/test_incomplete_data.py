"""Data that is not complete, through the cohort folder: odd sequences and images, absent modalities, missing labels."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from model.cohorts import manifest
from model.cohorts.cohort import Cohort, Modality, make_cohort
from model.sources.opening import check_cohort, open_cohort, write_cohort
from tests.support import ROOT
from tim_search.types import BadInput, Task

N = 240


def ward(**changes: object) -> Cohort:
    """A sequence of up to four steps, an image and a vector; a binary and a multilabel task."""
    dice = np.random.default_rng(0)
    series = dice.normal(size=(N, 4, 2)).astype(np.float32)
    series[np.arange(4) >= dice.integers(1, 5, N)[:, None]] = np.nan
    pixels = dice.normal(size=(N, 1, 3, 3)).astype(np.float32)
    labs = dice.normal(size=(N, 2)).astype(np.float32)
    labels = {"died": dice.integers(0, 2, N).astype(float), "findings": dice.integers(0, 2, (N, 3)).astype(float)}
    arrays = {"series": series, "image": pixels, "labs": labs, **labels} | changes
    modalities = [
        modality("series", "sequence", ("pulse", "pressure"), arrays["series"]),
        modality("image", "image", (), arrays["image"]),
        modality("labs", "vector", ("sodium", "ph"), arrays["labs"]),
    ]
    tasks = [Task("died", "binary", metric="auprc"), Task("findings", "multilabel", 3)]
    names = {"findings": ("effusion", "oedema", "nodule")}
    return make_cohort(
        "ward", range(N), range(N), modalities, tasks, {t.name: arrays[t.name] for t in tasks}, classes=names
    )


def modality(name: str, kind: str, columns: tuple[str, ...], values: np.ndarray) -> Modality:
    return Modality(name, kind, columns, values, {}, ~np.isnan(values).reshape(N, -1).all(axis=1))


def rewritten(cohort: Cohort, folder: Path) -> Cohort:
    write_cohort(cohort, folder)
    return open_cohort(folder)


def test_a_sequence_of_one_step_and_one_of_gaps(tmp_path: Path) -> None:
    series = np.random.default_rng(1).normal(size=(N, 1, 2))
    assert rewritten(ward(series=series), tmp_path / "one").modalities["series"].values.shape == (N, 1, 2)
    series = np.random.default_rng(1).normal(size=(N, 5, 2))
    series[0, 1:4] = np.nan  # nothing measured in between: no step
    series[1, :4] = np.nan  # only the last step
    series[2, :, 0] = np.nan  # one channel never
    series[3] = np.nan  # nothing at all: the sample lacks the modality
    again = rewritten(ward(series=series), tmp_path / "gaps").modalities["series"]
    np.testing.assert_array_equal(again.values, series)
    assert np.flatnonzero(~again.present).tolist() == [3]


def test_an_image_without_a_pixel_is_absent_and_one_with_some_is_not(tmp_path: Path) -> None:
    pixels = np.random.default_rng(2).normal(size=(N, 2, 3, 3)).astype(np.float32)
    pixels[0], pixels[1, 1], pixels[2, 0, 1:] = np.nan, np.nan, np.nan
    cohort = rewritten(ward(image=pixels), tmp_path / "made")
    np.testing.assert_array_equal(cohort.modalities["image"].values, pixels)
    assert np.flatnonzero(~cohort.modalities["image"].present).tolist() == [0]


def test_samples_without_any_modality_are_refused(tmp_path: Path) -> None:
    nothing = {
        "series": np.full((N, 4, 2), np.nan),
        "image": np.full((N, 1, 3, 3), np.nan),
        "labs": np.ones((N, 2)),
    }
    nothing["labs"][[5, 7]] = np.nan
    write_cohort(ward(**nothing), tmp_path / "made")
    (finding,) = [one for one in check_cohort(tmp_path / "made") if one.severity == "error"]
    assert finding.place == "modalities"
    assert "2 samples have no modality at all (e.g. 5, 7)" in finding.problem
    with pytest.raises(BadInput, match="2 samples have no modality at all"):
        open_cohort(tmp_path / "made")


def test_labels_of_one_class_and_missing_single_labels(tmp_path: Path) -> None:
    dice = np.random.default_rng(3)
    findings = dice.integers(0, 2, (N, 3)).astype(float)
    findings[:, 1] = 0
    findings[dice.random((N, 3)) < 0.3] = np.nan
    cohort = ward(findings=findings)
    again = rewritten(cohort, tmp_path / "made")
    np.testing.assert_array_equal(again.labels["findings"], findings)
    assert again.fingerprint == cohort.fingerprint
    told = [one for one in check_cohort(tmp_path / "made") if one.place == "tasks.findings"]
    assert [one.severity for one in told] == ["warning"]
    assert "label oedema is 0 wherever it is known" in told[0].problem
    assert "macro_auroc leaves it out" in told[0].fix
    findings[:] = np.where(np.isnan(findings), np.nan, 1.0)
    write_cohort(ward(findings=findings), tmp_path / "none")
    (error,) = [one for one in check_cohort(tmp_path / "none") if one.severity == "error"]
    assert "none of its label columns has both classes" in error.problem


def test_the_manifest_counts_each_label_by_itself() -> None:
    findings = np.zeros((N, 3))
    findings[:60, 0], findings[:200, 1], findings[200:, 1], findings[:, 2] = 1, np.nan, 1, np.nan
    findings[0, 2], findings[1, 2] = 1, 0
    described = manifest.describe(ward(findings=findings))
    task = described["tasks"][1]
    assert task["labelled"] == N
    assert task["classes"] == [["effusion", 60], ["oedema", 40], ["nodule", 1]]
    assert task["known"] == [N, 40, 2]
    assert "known" not in described["tasks"][0]
    by_name = {one["name"]: one for one in described["modalities"]}
    assert (by_name["series"]["steps"], by_name["image"]["shape"]) == (4, [1, 3, 3])
    assert 1 <= by_name["series"]["mean_steps"] <= 4
    assert "steps" not in by_name["labs"]


@pytest.mark.parametrize("gone", [True, False])
def test_the_script_of_the_docs_makes_a_cohort(gone: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dice = np.random.default_rng(4)
    stays = pd.DataFrame({"recordid": np.arange(N), "set": "a", "demo__ICUType": dice.integers(1, 5, N)})
    for name in ("demo__Age", "labs__K_last", "labs__K_n", "resp__PaO2_last", "resp__pH_last", "resp__Lactate_n"):
        stays[name] = dice.normal(size=N)
    if gone:
        stays.loc[:20, "labs__K_last"] = np.nan
    binary = "mortality_hosp weaned_next newvent_next aki_next hypotension_next fever_next hyperglycemia_next "
    for name in (binary + "thrombocytopenia_next lactate_high_next").split():
        stays[f"task__{name}"] = np.where(dice.random(N) < 0.1, np.nan, dice.integers(0, 2, N))
    stays["task__mortality_hosp"] = dice.integers(0, 2, N)
    stays["task__gcs_class_next"], stays["task__los_log"] = dice.integers(0, 3, N), np.log1p(dice.integers(2, 30, N))
    hourly = pd.DataFrame({"recordid": np.repeat(np.arange(30, N), 24), "hour": np.tile(np.arange(24), N - 30)})
    for name in ("HR", "Temp", "Urine", "MechVent"):
        hourly[f"ts__{name}"] = np.where(dice.random(len(hourly)) < 0.5, np.nan, dice.normal(size=len(hourly)))
    stays.to_parquet(tmp_path / "embed_ab_stays24.parquet", index=False)
    hourly.sample(frac=1, random_state=0).to_parquet(tmp_path / "embed_ab_hourly24.parquet", index=False)
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs" / "incomplete-data.md").read_text()
    exec(compile(re.findall(r"```python\n(.*?)```", text, re.S)[0], "docs/incomplete-data.md", "exec"), {})
    cohort = open_cohort("p12_series")
    assert (~cohort.modalities["labs"].present).sum() == (21 if gone else 0)
    series = cohort.modalities["series"]
    assert np.flatnonzero(~series.present).tolist() == list(range(30))
    temperature = series.values[:, :, series.columns.index("ts__Temp")]
    seen = series.values[:, :, series.columns.index("ts__Temp_seen")]
    wide = hourly.pivot(index="recordid", columns="hour", values="ts__Temp").ffill(axis=1).to_numpy(np.float32)
    steps = ~np.isnan(seen[30:])
    np.testing.assert_allclose(temperature[30:][steps], wide[steps], rtol=1e-6)
    assert np.isnan(temperature[30:][~steps]).all()
    assert cohort.tasks["complications"].n_outputs == 6
