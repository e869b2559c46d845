"""Cohort folders whose sequences and images lie in arrays instead of tables."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from model.cohorts.cohort import Cohort, make_cohort
from model.sources.opening import open_cohort, write_cohort
from model.sources.synthetic_incomplete import incomplete
from tim_search.types import Task


def in_tables(root: Path, samples: int = 240) -> Cohort:
    """A small cohort in the shape of FlexCare's, its numbers such as half precision and bytes can hold."""
    cohort, _ = incomplete(samples, steps=5, tokens=4, side=6)
    modalities = dict(cohort.modalities)
    for name, modality in modalities.items():
        values = np.asarray(modality.values)
        if modality.kind == "image":
            there = ~np.isnan(values)
            values[there] = np.clip(np.round(40 * values[there] + 128), 0, 255)
        modalities[name] = replace(modality, values=values.astype(np.float16).astype(np.float32))
    dice = np.random.default_rng(1)
    tasks = [Task("ihm", "binary"), Task("dec", "binary"), Task("los", "multiclass", 3)]
    labels = {task.name: dice.integers(0, max(2, task.n_outputs), samples).astype(float) for task in tasks}
    labels["ihm"][::3] = np.nan
    ids, patients = cohort.sample_ids, np.arange(samples) // 2
    whole = make_cohort("arrays", ids, patients, modalities.values(), tasks, labels)
    write_cohort(whole, root)
    return open_cohort(root)


def in_arrays(cohort: Cohort, root: Path, *, shared: bool = False) -> dict[str, Any]:
    """The same cohort with arrays: half precision, and bytes of images; rows of those who have none are nowhere.

    Args:
        shared: pairs of samples share the row of the first one's note.
    """
    write_cohort(cohort, root)
    description: dict[str, Any] = yaml.safe_load((root / "cohort.yaml").read_text())
    for name, modality in cohort.modalities.items():
        here = np.flatnonzero(modality.present)
        values = modality.values[here].astype(np.uint8 if modality.kind == "image" else np.float16)
        row = np.arange(len(here))
        if shared and name == "notes":
            row = row // 2
            values = values[::2]
        # In another order than the samples', as files are.
        place = np.random.default_rng(0).permutation(len(values))
        np.save(root / f"{name}.npy", values[np.argsort(place)])
        index = pd.DataFrame({"sample_id": cohort.sample_ids[here], "row": place[row]})
        index.to_parquet(root / f"{name}.rows.parquet", index=False)
        entry = {"kind": modality.kind, "file": f"{name}.npy", "index": f"{name}.rows.parquet"}
        named = (
            {"shape": list(modality.values.shape[1:])}
            if modality.kind == "image"
            else {"columns": list(modality.columns)}
        )
        description["modalities"][name] = entry | named
    (root / "cohort.yaml").write_text(yaml.safe_dump(description, sort_keys=False))
    return description
