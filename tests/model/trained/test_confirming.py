"""A confirmation: every kind of task is read, and by subgroups."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from model.networks.settings import FlexCareSettings
from model.sources import support2
from model.sources.synthetic_incomplete import incomplete
from model.trained import confirming
from model.training.trainer import TrainingPayload
from tim_search.types import FINAL_FOLD, BadInput, Pack, Unit


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


def test_a_confirmation_reads_every_kind_of_task() -> None:
    cohort, _ = incomplete(2500, seed=3, steps=3, side=4, tokens=2, token_width=4)
    cohort = cohort.for_tasks(["dec", "dia", "los", "phe"])
    settings = FlexCareSettings(
        width=8, layers=1, hidden=8, experts=3, expert_hidden=4, patch=4, epochs=1, replicates=3
    )  # fmt: skip
    training = TrainingPayload(cohort, "flexcare", settings, "cpu", 1)
    worker = confirming.trainer(confirming.ConfirmingPayload(training, ensemble=2))
    for names in (("dec", "dia", "los", "phe"), ("phe",)):
        result = worker.train(Pack((Unit(names, 0, FINAL_FOLD),)))
        found = {(row.task, row.metric): row for row in result.scores}
        for name in names:
            row = found[name, cohort.tasks[name].metric]
            assert row.status == "ok"
            assert row.part == "test"
            assert len(row.replicates) == 3
            assert np.isfinite(found[name, f"{row.metric}_paper_sd"].value)
        assert {curve.task for curve in result.curves} >= {"phe"}
        assert all(curve.kind == "roc" for curve in result.curves if curve.task == "phe")
        assert {curve.group for curve in result.curves if curve.task == "phe"} <= set(cohort.classes["phe"])
    assert np.isfinite(found["phe", "ensemble_2_macro_auroc"].value)
