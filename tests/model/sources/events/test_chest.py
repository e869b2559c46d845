"""Labels of chest images from miniature tables of MIMIC-CXR-JPG."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from model.sources.events import chest, stay_labels
from tests.support.mimic_tables import write_chest
from tim_search.gates import yaml
from tim_search.types import BadInput

CONFIGS = Path(str(files("model") / "sources" / "events" / "configs"))
STUDIES = [
    (1, 11, "AP", "21500301", "4523.031", {"Edema": "1.0", "Pneumonia": "-1.0", "No Finding": "0.0"}),
    (1, 12, "PA", "21500302", "214523.0", {"Edema": "1.0", "Pneumonia": "1.0"}),
    (2, 21, "AP", "21510101", "101500.5", {"Pneumothorax": "1.0", "Support Devices": "1.0"}),
    (2, 22, "AP", "21510101", "101500.9", {"Fracture": "1.0"}),  # the same second: the later study counts
]


def extract(name: str, folder: Path, scratch: Path) -> stay_labels.StayTask:
    return chest.extract(Path(name).name, yaml.read(CONFIGS / f"{name}.yaml")[0], folder, scratch)


def test_findings_are_labels_uncertain_ones_are_none(tmp_path: Path) -> None:
    write_chest(tmp_path, STUDIES)
    (tmp_path / "scratch").mkdir()
    task = extract("flexcare/diagnosis", tmp_path, tmp_path / "scratch")
    names = task.entry["classes"]
    assert task.rows["subject"].tolist() == [1, 2]  # PA is no view of the task
    moments = pd.to_datetime(task.rows["moment"], unit="us").tolist()
    assert moments == [pd.Timestamp("2150-03-01 00:45:23"), pd.Timestamp("2151-01-01 10:15:00")]
    labels = task.rows[[f"label_{number}" for number in range(14)]].to_numpy()
    assert [names[index] for index in np.flatnonzero(labels[0] == 1)] == ["Edema"]
    assert [names[index] for index in np.flatnonzero(np.isnan(labels[0]))] == ["Pneumonia"]
    assert [names[index] for index in np.flatnonzero(labels[1] == 1)] == ["Fracture"]
    assert task.paper["samples"] == 132_576
    assert task.counts["samples"] == 2


def test_one_pathology_alone_is_a_class(tmp_path: Path) -> None:
    write_chest(tmp_path, STUDIES[:3])
    (tmp_path / "scratch").mkdir()
    task = extract("m3h/pathology", tmp_path, tmp_path / "scratch")
    assert list(zip(task.rows["subject"], task.rows["label"], strict=True)) == [(1, "Edema"), (2, "Pneumothorax")]
    assert task.counts == {"studies with findings and such an image, its time known": 3, "samples": 2}


def test_a_table_without_a_finding_is_told(tmp_path: Path) -> None:
    write_chest(tmp_path, STUDIES)
    (tmp_path / "scratch").mkdir()
    spec = {"findings": ["Gout"], "label": "each"}
    with pytest.raises(BadInput, match="expected the columns Gout"):
        chest.extract("gout", spec, tmp_path, tmp_path / "scratch")
    assert chest.tables(tmp_path / "scratch") is None


def test_images_without_a_time_are_left_out_and_counted(tmp_path: Path) -> None:
    odd = [(3, 31, "AP", "21520101", "", {"Edema": "1.0"}), (4, 41, "AP", "21520101", "256199.0", {"Edema": "1.0"})]
    write_chest(tmp_path, [*STUDIES[:3], *odd])
    (tmp_path / "scratch").mkdir()
    task = extract("m3h/pathology", tmp_path, tmp_path / "scratch")
    assert task.rows["subject"].tolist() == [1, 2]
    assert task.counts == {"studies with findings and such an image, its time known": 3, "samples": 2}
