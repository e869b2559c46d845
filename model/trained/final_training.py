"""The model that leaves a search: a combination trained on the whole training part, and its scores on test patients.

`train` has no access to the labels of the test patients; `evaluate` reads them, and its caller logs that first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from model.cohorts.cohort import Bools, Cohort, Modality
from model.data.folds import Fold, patient_weights, target_scale
from model.data.preprocess import Preprocessor, fit
from model.networks import registry as networks
from model.networks.settings import TrainingSettings
from model.scoring import clustering, metrics
from model.trained.deployed import DeployedModel
from model.trained.parts import Array, Exported, Inputs, Member
from model.training.fitting import fit_pack
from model.training.predicting import predict
from model.training.trainer import PackTrainer, TrainingPayload
from tim_search.types import FINAL_FOLD, BadInput, Pack, Subset, Task, Unit

#: Draws of the bootstrap by patient behind a test score's interval, and of the M3H paper's (section 5.1), which it
#: reports as the SD over five draws of 90 % of the test rows.
DRAWS, PAPER_DRAWS, PAPER_SHARE = 1000, 5, 0.9


@dataclass(frozen=True)
class TestScore:
    """One task's score on the test patients.

    Attributes:
        task, metric: which score; higher is better.
        value: on all test rows that carry the label; NaN where there is none, and `why` says so.
        sd: standard deviation over five draws of 90 % of the test rows with replacement, as the M3H paper reports.
        low, high: 2.5 and 97.5 percentiles of 1,000 bootstrap draws of patients.
        rows: test rows that were judged.
    """

    __test__ = False  # pytest would take it for a test

    task: str
    metric: str
    value: float
    sd: float
    low: float
    high: float
    rows: int
    why: str = ""


# Training -------------------------------------------------------------------------------------------------------------


def train(
    cohort: Cohort,
    network: str,
    settings: TrainingSettings,
    subset: Subset,
    source: str,
    seeds: Sequence[int] = (0,),
    device: str = "auto",
    threads: int = 1,
    few: int = 0,
) -> DeployedModel:
    """Fit a combination on the whole training part; the labels of the test patients are masked before anything else.

    Args:
        cohort: as the search saw it: the input columns of all its tasks (`Cohort.for_tasks`).
        subset: the tasks of the combination; `source` is one of them.
        seeds: one member is trained with each.
        device, threads: see `TrainingPayload`.
        few: the preprocessing and the scales that the model is trained and published with tell no count of fewer
            patients (`model.data.few_patients`).

    Raises:
        BadInput: the network does not support the cohort, or training diverged.
    """
    labels = {name: label.copy() for name, label in cohort.labels.items()}
    for label in labels.values():
        label[cohort.split.test] = np.nan
    blind = replace(cohort, labels=labels)
    learn = blind.split.train(FINAL_FOLD)
    payload = TrainingPayload(blind, network, settings, device, threads)
    fold = PackTrainer(payload).fold(FINAL_FOLD, few)
    tasks = {name: blind.tasks[name] for name in subset}
    preprocessor = fit(blind, learn, few)
    return DeployedModel(
        source=source,
        tasks=tasks,
        classes={name: blind.classes[name] for name in tasks if name in blind.classes},
        scales={
            name: target_scale(labels[name], learn, few) for name, task in tasks.items() if task.kind == "regression"
        },
        network=network,
        settings=settings,
        inputs=tuple(_inputs(modality, preprocessor) for modality in blind.modalities.values()),
        preprocessor=preprocessor,
        members=tuple(_member(payload, fold, subset, seed) for seed in seeds),
        machine=networks.find(network, allow_code=True),
        table=_exported(blind),
        about={
            "cohort": cohort.name,
            "fingerprint": cohort.fingerprint,
            "split": cohort.split.digest,
            "seeds": list(seeds),
            "rounded_for_small_cells": few,
            "training": _trained_on(cohort, tasks, labels, learn, fold),
        },
    )


def _trained_on(
    cohort: Cohort,
    tasks: Mapping[str, Task],
    labels: Mapping[str, NDArray[np.float64]],
    learn: Bools,
    fold: Fold,
) -> dict[str, Any]:
    """How many rows, patients, labels and values of each modality a model was trained on."""
    return {
        "rows": int(learn.sum()),
        "patients": len(np.unique(cohort.patients[learn])),
        "stopping": 0 if fold.stopping is None else len(fold.stopping),
        "labels": {
            name: label_counts(task, labels[name][learn]) for name, task in tasks.items() if task.kind != "clustering"
        },
        "present": {name: int(modality.present[learn].sum()) for name, modality in cohort.modalities.items()},
    }


def _member(payload: TrainingPayload, fold: Fold, subset: Subset, seed: int) -> Member:
    """What one seed learns; raises BadInput where it diverges."""
    tasks, settings = payload.cohort.tasks, payload.settings
    machine = networks.find(payload.network, allow_code=True)
    fitted = fit_pack(Pack((Unit(subset, seed, FINAL_FOLD),)), tasks, fold, settings, machine)
    if fitted.diverged[0] or not all(value.isfinite().all() for value in fitted.values.values()):
        raise BadInput(
            f"training {' + '.join(subset)} with seed {seed} diverged in epoch {fitted.diverged[0]}. Search with a "
            "smaller learning_rate, or train another combination."
        )
    latents = predict(fitted, fold.train).latents
    centres = {}
    for number, name in enumerate(fitted.layout.names[0][fitted.layout.supervised :]):
        groups = clustering.groups(latents[:, :, number], tasks[name].n_outputs, [clustering.start(seed, name)])
        centres[name] = groups[0].cpu().numpy()
    return Member({name: value.cpu() for name, value in fitted.values.items()}, centres, subset)


def label_counts(task: Task, labels: Array) -> dict[str, int]:
    """How many rows of (n,) or (n, L) labels carry one, and how many of them are positive in a binary task."""
    counts = {"rows": int(_labelled(labels).sum())}
    return counts | ({"positive": int(np.nansum(labels))} if task.kind == "binary" else {})


def _labelled(labels: Array) -> Bools:
    """bool (n,): which rows carry a label of (n,), or any label of (n, L)."""
    return np.asarray(np.isfinite(labels.reshape(len(labels), -1)).any(axis=1), bool)


def _exported(cohort: Cohort) -> Exported:
    """How a table is read as the cohort's were; a name that some input has is never one to leave out."""
    inputs = {column for modality in cohort.modalities.values() for column in (*modality.columns, modality.name)}
    rules = {name: rule for name, rule in cohort.rules.items() if name in inputs}
    return Exported(rules, tuple(name for name in cohort.table_columns if name not in inputs))


def _inputs(modality: Modality, preprocessor: Preprocessor) -> Inputs:
    """What a model reads of a modality, with rounded means and first levels as its example."""
    transform = preprocessor.transforms[modality.name]
    means = dict(zip(transform.numeric.tolist(), transform.mean.tolist(), strict=True))
    examples = tuple(
        modality.levels[column][0] if column in modality.levels else float(f"{means.get(position, 0.0):.3g}")
        for position, column in enumerate(modality.columns or transform.names)
    )
    return Inputs(
        modality.name,
        modality.columns,
        dict(modality.levels),
        str(modality.values.dtype),
        examples,
        modality.kind,
        modality.values.shape[1:],
    )


# Judging --------------------------------------------------------------------------------------------------------------


def evaluate(model: DeployedModel, cohort: Cohort, tasks: Sequence[str] = ()) -> list[TestScore]:
    """Score a model on the test patients of its cohort, by task. It reads the labels of these tasks: log that first.

    Args:
        tasks: which; all of the model where none is named.
    """
    test, learn = cohort.split.test, cohort.split.train(FINAL_FOLD)
    outputs = model.network_outputs(_some(model, cohort, test))
    weights = bootstrap_weights(cohort.patients[test], cohort.split.digest)
    scores = []
    for name, task in model.tasks.items():
        if tasks and name not in tasks:
            continue
        why, rows = "", int(test.sum())
        if task.kind == "clustering":
            learnt = model.network_outputs(_some(model, cohort, learn))[name]
            values, why = silhouettes(model, learnt, outputs[name], task, weights)
        else:
            label = np.asarray(cohort.labels[name], np.float64)[test]
            labelled = _labelled(label)
            rows = int(labelled.sum())
            # Logarithms of probabilities are logits whose softmax gives them back; ranks stay.
            output = outputs[name][labelled]
            logits = np.log(output.clip(1e-300)) if task.kind == "multiclass" else output.reshape(len(output), -1)
            values = metrics.score(task.metric, task.kind, label[labelled], logits, weights[:, labelled])
        scores.append(_test_score(task, values, rows, why))
    return scores


def _some(model: DeployedModel, cohort: Cohort, rows: Bools) -> dict[str, Modality]:
    """What a model reads of some samples of its cohort."""
    modalities = [cohort.modalities[modality.name] for modality in model.inputs]
    return {modality.name: modality.take(rows) for modality in modalities}


def silhouettes(model: DeployedModel, learnt: Array, held_out: Array, task: Task, weights: Array) -> tuple[Array, str]:
    """(R,) silhouettes of held-out latents (v, h) under weightings (R, v), and why they count as collapsed, or "".

    The groups are those of the latents `learnt` (m, h) of the training part.
    """
    seed = clustering.start(model.about["seeds"][0], task.name)
    train, new = (torch.from_numpy(latents).unsqueeze(0) for latents in (learnt, held_out))
    by_row = torch.from_numpy(np.ascontiguousarray(weights.T))
    (judged,) = clustering.judge(train, new, task.n_outputs, by_row, [seed])
    return judged.silhouette, judged.collapsed


def _test_score(task: Task, values: Array, rows: int, why: str) -> TestScore:
    """A score from its (1 + 1000 + 5,) values under the weightings of `bootstrap_weights`."""
    if not why and not np.isfinite(values[0]):
        why = "the labels of the test patients do not vary"
    by_patient, paper = values[1 : 1 + DRAWS], values[1 + DRAWS :]
    low, high = np.nanpercentile(by_patient, [2.5, 97.5]) if np.isfinite(by_patient).any() else (np.nan, np.nan)
    spread = float(np.nanstd(paper, ddof=1)) if np.isfinite(paper).sum() > 1 else float("nan")
    return TestScore(task.name, task.metric, float(values[0]), spread, float(low), float(high), rows, why)


def bootstrap_weights(patients: NDArray[np.int64], key: str) -> Array:
    """(1 + 1000 + 5, n) weightings of the test rows: ones, draws of patients, draws of 90 % of the rows."""
    dice = np.random.default_rng(np.frombuffer(f"{key} test rows".encode(), dtype=np.uint8))
    n = len(patients)
    rows = [np.bincount(dice.integers(0, n, round(PAPER_SHARE * n)), minlength=n) for _ in range(PAPER_DRAWS)]
    return np.concatenate([patient_weights(patients, DRAWS, f"{key} test patients"), np.stack(rows).astype(float)])
