"""A small FlexCare model and the task it is extended by; made once a process, and never changed."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import pandas as pd
import torch

from model.cohorts.cohort import Cohort
from model.networks.settings import FlexCareSettings
from model.sources.synthetic_incomplete import incomplete
from model.trained import extending, final_training
from model.trained.deployed import DeployedModel

SETTINGS = FlexCareSettings(
    width=8, layers=1, hidden=8, experts=2, expert_hidden=8, patch=8, epochs=2, batch_size=64, replicates=0
)
OLD = ("ihm", "phe")
CPU = torch.device("cpu")
FACTS = {
    "subset": list(OLD), "reason": "named by the user", "overlaps": [], "search": "small", "network": "flexcare",
    "settings": {}, "readings": 1, "scores": [], "created": "", "versions": {}, "source": "ihm",
}  # fmt: skip


@functools.cache
def small_cohort() -> Cohort:
    """900 samples with a series, an image and notes; tasks ihm, phe, los, dec and more."""
    return incomplete(900, steps=4, side=8, tokens=3, token_width=4, seed=1)[0]


@functools.cache
def small_model() -> DeployedModel:
    """FlexCare for ihm and phe, two seeds."""
    trained = final_training.train(small_cohort(), "flexcare", SETTINGS, OLD, "ihm", seeds=(0, 1), device="cpu")
    return dataclasses.replace(trained, about={**trained.about, **FACTS})


@functools.cache
def ready_cohort() -> Cohort:
    """The cohort as the model reads it, with the labels of dec."""
    return extending.prepare(small_model(), small_cohort(), "dec")


@functools.cache
def extended_model() -> DeployedModel:
    """The model with dec added."""
    return extending.extend(small_model(), ready_cohort(), "dec", CPU)


def cells(cohort: Cohort, count: int) -> pd.DataFrame:
    rows = np.flatnonzero(cohort.split.test)[:count]
    return pd.DataFrame({
        name: [one.values[row] if one.present[row] else None for row in rows] for name, one in cohort.modalities.items()
    })  # fmt: skip
