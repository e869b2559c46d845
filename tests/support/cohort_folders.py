"""A cohort folder with every kind of modality and task, and changes to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from model.cohorts.cohort import Cohort
from model.sources.opening import open_cohort

N = 240


def table(seed: int = 0) -> pd.DataFrame:
    """240 samples of 120 patients with labels of every kind."""
    dice = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "visit": [f"v{index:03d}" for index in range(N)],
            "patient": np.arange(N) % 120,
            "died": dice.integers(0, 2, N).astype(float),
            "ward": dice.choice(["icu", "step-down", "general"], N),
            "days": dice.gamma(2.0, 3.0, N),
            "fever": dice.integers(0, 2, N),
            "pain": dice.integers(0, 2, N),
        }
    )
    frame.loc[dice.random(N) < 0.1, ["died", "ward"]] = None
    return frame


def write_folder(root: Path, seed: int = 0) -> dict[str, Any]:
    """A folder with all three kinds of modality and all five kinds of task; returns its description."""
    dice = np.random.default_rng([seed, 1])
    samples = table(seed)
    samples.to_parquet(root / "samples.parquet", index=False)
    labs = pd.DataFrame(
        {
            "visit": samples["visit"],
            "age": dice.normal(60, 10, N),
            "albumin": np.where(dice.random(N) < 0.3, np.nan, dice.normal(3, 1, N)),
            "sex": dice.choice(["female", "male"], N),
            "triage": dice.integers(1, 4, N),
        }
    )
    labs.drop(index=[3, 5]).sample(frac=1, random_state=0).to_parquet(root / "labs.parquet", index=False)
    series = pd.DataFrame({"visit": np.repeat(samples["visit"].to_numpy()[:200], 3), "hour": np.tile([0, 2, 5], 200)})
    series[["pulse", "spo2"]] = dice.normal(size=(600, 2)).astype(np.float32)
    series.to_parquet(root / "series.parquet", index=False)
    pixels = pa.FixedSizeListArray.from_arrays(pa.array(dice.normal(size=50 * 12).astype(np.float32)), 12)
    images = pa.table({"visit": samples["visit"][:50], "pixels": pixels})
    pq.write_table(images, root / "images.parquet")
    description = {
        "format": 1,
        "name": "ward",
        "info": {"licence": "none"},
        "sample_id": "visit",
        "patient_id": "patient",
        "stratify": "ward",
        "modalities": {
            "labs": {"file": "labs.parquet", "levels": {"triage": [1, 2, 3]}},
            "series": {"kind": "sequence", "file": "series.parquet", "step": "hour", "length": 6},
            "images": {"kind": "image", "file": "images.parquet", "shape": [1, 3, 4]},
        },
        "tasks": {
            "died": {"kind": "binary", "department": "ICU", "excludes": ["albumin"]},
            "ward": {"kind": "multiclass", "classes": ["general", "step-down", "icu"], "excludes": ["images.*"]},
            "days": {"kind": "regression"},
            "symptoms": {"kind": "multilabel", "label": ["fever", "pain"]},
            "phenotype": {"kind": "clustering", "clusters": 4},
        },
        "overlaps": [["ward", "died"]],
    }
    save(root, description)
    return description


def save(root: Path, description: dict[str, Any]) -> None:
    (root / "cohort.yaml").write_text(yaml.safe_dump(description, sort_keys=False))


def give_split(folder: Path, frame: pd.DataFrame) -> None:
    description = yaml.safe_load((folder / "cohort.yaml").read_text())
    frame.to_parquet(folder / "split.parquet", index=False)
    save(folder, description | {"split": {"file": "split.parquet"}})


def map_arrays(root: Path) -> Cohort:
    """Exchange the Parquet files of the modalities by NumPy arrays of the same content; returns the cohort before."""
    before = open_cohort(root)
    description = yaml.safe_load((root / "cohort.yaml").read_text())
    for name in ("series", "images"):
        np.save(root / f"{name}.npy", before.modalities[name].values)
    description["modalities"]["series"] = {"kind": "sequence", "file": "series.npy", "columns": ["pulse", "spo2"]}
    description["modalities"]["images"] = {"kind": "image", "file": "images.npy", "shape": [1, 3, 4]}
    numeric = before.modalities["labs"].keep(["age", "albumin"])
    np.save(root / "labs.npy", numeric.values.astype(np.float32))
    description["modalities"]["labs"] = {"file": "labs.npy", "columns": ["age", "albumin"]}
    save(root, description)
    return before
