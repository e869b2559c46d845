"""From a MEDS folder to a cohort folder that a search can open."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from model.cohorts.cohort import Cohort
from model.sources.events import building
from model.sources.opening import open_cohort
from tests.support import meds_folders
from tim_search.cli import cohort_tables

FEATURES = """
modalities:
  patient: {kind: static, prefixes: [ETHNICITY]}
  codes: {kind: vector, windows: [24h, stay, all], statistics: [count, last, mean, min, max, slope, haim]}
  series:
    kind: sequence
    hours: 48
    channels:
      heart rate: {codes: [CHART//211//bpm], unit: bpm, low: 0, high: 350}
      eyes: {codes: [CHART//184//UNK], levels: {open: [4 Spontaneously], shut: [1 No Response]}}
      creatinine in umol: {codes: [{code: LAB//50912//mg/dL, factor: 88.4}], how: mean}
  notes: {kind: text, codes: {regex: ^NOTE//}, most: 1}
"""


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pd.DataFrame]:
    root = tmp_path_factory.mktemp("meds")
    frame = meds_folders.events()
    meds_folders.write(root / "data", frame)
    meds_folders.write_labels(root / "tasks" / "stays_on.parquet", meds_folders.labels(frame))
    (root / "tasks" / "mortality.yaml").write_text(meds_folders.MORTALITY)
    (root / "tasks" / "tasks.yaml").write_text("tasks: {phenotype: {kind: clustering}}")
    (root / "features.yaml").write_text(FEATURES)
    return root, frame


@pytest.fixture(scope="module")
def built(given: tuple[Path, pd.DataFrame]) -> tuple[Path, dict[str, Any]]:
    root = given[0]
    manifest = building.build(root / "data", root / "tasks", root / "out", features_file=root / "features.yaml")
    return root / "out", manifest


@pytest.fixture(scope="module")
def cohort(built: tuple[Path, dict[str, Any]]) -> Cohort:
    return open_cohort(built[0])


def test_a_sample_has_the_labels_of_all_tasks_of_its_time(cohort: Cohort, given: tuple[Path, pd.DataFrame]) -> None:
    """Both tasks ask 48 hours after the ICU admission, an hour after the hospital's: one sample, two labels."""
    frame = given[1]
    asked = meds_folders.labels(frame)
    assert len(cohort) == len(asked)
    assert not np.isnan(cohort.labels["stays_on"]).any()
    assert not np.isnan(cohort.labels["mortality"]).any()
    dead = set(frame.loc[frame["code"] == "HOSPITAL_DISCHARGE//DEAD/EXPIRED", "subject_id"])
    positive = set(cohort.patient_ids[cohort.patients[cohort.labels["mortality"] == 1]].tolist())
    assert positive
    assert positive <= dead
    expected = dict(
        zip(
            zip(asked["subject_id"], asked["prediction_time"].map(str), strict=True),
            asked["boolean_value"],
            strict=True,
        )
    )
    for index, sample in enumerate(cohort.sample_ids.tolist()):
        subject, stamp = sample.split("-", 1)
        assert cohort.labels["stays_on"][index] == expected[int(subject), stamp.replace("T", " ")]


def test_the_manifest_is_in_the_folder(built: tuple[Path, dict[str, Any]]) -> None:
    folder, manifest = built
    assert json.loads((folder / "manifest.json").read_text()) == manifest
    assert manifest["events"]["subjects"] == 60
    words = " ".join(manifest["doubts"])
    assert "DIAGNOSIS//ICD9CM//4280" in words
    assert "MEDICATION//Heparin" in words
    assert "over 120, which stands for over 89" in words
    assert manifest["tasks"].keys() == open_cohort(folder).tasks.keys()
    shown = Console(width=100)
    with shown.capture() as output:
        shown.print(cohort_tables.events(manifest))
    assert re.search(r"\n +phenotype +clustering +\n", output.get())
    assert "of 60 subjects in" in output.get()
    assert "earlier hospital stay" in words


def test_notes_lie_beside_the_cohort(built: tuple[Path, dict[str, Any]], cohort: Cohort) -> None:
    rows = pq.read_table(built[0] / "references" / "notes.parquet").to_pandas()
    assert list(rows.columns) == ["sample_id", "position", "text"]
    assert set(rows["sample_id"]) == set(cohort.sample_ids)
    assert (rows["position"] == 0).all()
    last = dict(zip(rows["sample_id"], rows["text"], strict=True))
    first_stay = cohort.sample_ids[0]
    assert last[first_stay].endswith("1 0")
