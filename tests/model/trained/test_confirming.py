"""Subgroups of a confirmation."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from model.sources import support2
from model.trained import confirming
from tim_search.types import BadInput


def test_a_subgroup_by_a_column_that_training_patients_lack() -> None:
    cohort = support2.load()
    modality = next(each for each in cohort.modalities.values() if each.kind == "vector")
    number = next(n for n, name in enumerate(modality.columns) if name not in modality.levels)
    values = modality.values.copy()
    values[~cohort.split.test, number] = np.nan
    bare = dataclasses.replace(
        cohort, modalities={**cohort.modalities, modality.name: dataclasses.replace(modality, values=values)}
    )
    with pytest.raises(BadInput, match="measured in no training patient"):
        confirming.subgroups(bare, f"{modality.name}.{modality.columns[number]}")
