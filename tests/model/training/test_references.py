"""Reference models: scored by the same code on the same rows, and answered whatever a cohort holds."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from model.data.folds import load_fold
from model.networks.settings import M3HSettings
from model.sources.support2 import load
from model.sources.synthetic_incomplete import incomplete
from model.training.references import ReferenceTrainer, table
from model.training.trainer import PackTrainer, TrainingPayload
from tim_search.types import Pack, PackResult, Unit, canonical
from tim_search.types.references import Reference


def trained(trainer: ReferenceTrainer, *tasks: str) -> PackResult:
    return trainer.train(Pack(tuple(Unit((name,), 0, 0) for name in tasks)))


@pytest.fixture(scope="module")
def support2() -> object:
    return load().for_tasks(["hospdead", "dzclass", "slos_log", "phenotype"])


def scores(support2: object, reference: Reference, *tasks: str) -> dict[str, tuple[float, ...]]:
    result = trained(ReferenceTrainer(support2, reference, 5), *tasks)  # type: ignore[arg-type]
    assert all(score.status == "ok" and len(score.replicates) == 5 for score in result.scores)
    return {score.task: (score.value, *score.replicates) for score in result.scores}


def test_no_model_is_a_coin_and_a_mean(support2: object) -> None:
    values = scores(support2, "none", "hospdead", "dzclass", "slos_log")
    assert values["hospdead"][0] == values["dzclass"][0] == 0.5
    assert values["slos_log"][0] == pytest.approx(0, abs=0.01)


def test_models_learn_what_there_is(support2: object) -> None:
    linear, boosting = (
        scores(support2, "linear", "hospdead", "dzclass", "slos_log"),
        scores(support2, "boosting", "hospdead", "dzclass", "slos_log"),
    )
    assert linear["hospdead"][0] > 0.8
    assert boosting["hospdead"][0] > 0.8
    assert linear["dzclass"][0] > 0.75
    assert boosting["slos_log"][0] > 0.1


def test_a_clustering_is_set_beside_k_means_on_the_inputs(support2: object) -> None:
    assert -1 < scores(support2, "k-means", "phenotype")["phenotype"][0] < 1


def test_a_worker_makes_references_from_the_payload_of_a_search(support2: object) -> None:
    trainer = PackTrainer(TrainingPayload(support2, "m3h", M3HSettings(replicates=5)))  # type: ignore[arg-type]
    reference = trainer.with_settings(canonical({"reference": "none", "replicates": 3}))
    (score,) = trained(reference, "hospdead").scores  # type: ignore[arg-type]
    assert (score.value, len(score.replicates)) == (0.5, 3)


@pytest.mark.parametrize("reference", ["none", "linear", pytest.param("boosting", marks=pytest.mark.slow)])
def test_sequences_images_absent_modalities_and_missing_labels(reference: Reference) -> None:
    cohort = incomplete(600, seed=0)[0]
    trainer = ReferenceTrainer(cohort, reference, 2)
    names = [name for name, task in cohort.tasks.items() if task.kind != "clustering"]
    result = trained(trainer, *names)
    assert [score.task for score in result.scores] == names
    assert all(np.isfinite(score.value) or score.error for score in result.scores)


def test_every_row_of_a_table_is_finite() -> None:
    cohort = incomplete(600, seed=0)[0]
    fold = load_fold(cohort, 0, dtype=torch.float32, device=torch.device("cpu"), replicates=0)
    learn, held_out = table(fold.train), table(fold.validation)
    assert np.isfinite(learn).all()
    assert np.isfinite(held_out).all()
    assert learn.shape[1] == held_out.shape[1]
