"""A synthetic cohort in the shape of HAIM-MIMIC-MM, with a planted task structure that is returned as the truth.

Samples of patients (repeated samples a patient), four vector modalities of 6, 451, 2,084 and 2,304 features, and 44
tasks: 41 binary with prevalences from 2 % to 50 %, one with 8 classes and labels on part of the samples, one
regression, one clustering into 15. Every size is an argument, so that a test can have a small one.

How it is made. A sample has latent factors: a phenotype's centre, a part of its patient and a part of its own. Every
feature is a random mixture of the factors plus noise; each factor shows mainly in two modalities. The supervised
tasks are divided into groups of one factor each. A task's score is that factor (90 % of its variance) and another
one (10 %); its label is a threshold on the score (the 8 classes: seven thresholds; the regression: the score itself)
with noise added.

What follows, and is the truth. Tasks of one group need nearly the same representation, so they help each other:
`relation` +1. Tasks of different groups need different ones and compete for one network, and the task whose labels
say more wins: a rare diagnosis loses to a common one (`relation` -1), not the common to the rare (0). These are the
directions of the mechanism; how large the gain or the loss of a given network is, is for a search to measure.
docs/cohorts.md says how far a small search agreed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from model.cohorts import folder_writer
from model.cohorts.cohort import Cohort, Modality, make_cohort
from tim_search.gates.files import new_folder
from tim_search.types import Task

_MODALITIES = ("demographics", "time_series", "image", "notes")
_PREFIXES = ("de", "ts", "vi", "n")

_DEPARTMENTS = (
    "Cardiology",
    "Pulmonology",
    "Nephrology",
    "Neurology",
    "Gastroenterology",
    "Endocrinology",
    "Haematology",
    "Infectious diseases",
    "Oncology",
    "Psychiatry",
    "Traumatology",
)


@dataclass(frozen=True, eq=False)
class Truth:
    """What was planted.

    Attributes:
        tasks: M task names, the order of every array.
        relation: int8 (M, M); row = source task. +1: training the column's task with it helps it, -1: harms it, 0:
            neither is planted. The diagonal, and the row and column of the clustering task, are 0.
        affinity: float64 (M, M); cosine of the two tasks' weights, 0 for the clustering task.
        group: int64 (M,); the factor of each task, -1 for the clustering task.
        strength: float64 (M,); how much a label says: the variance of a binary one, 0.25 (that of a balanced one) for
            classes and numbers, 0 for the clustering task.
        weights: float64 (M, K); unit vectors; how much of each factor the task's score holds, before noise.
        factors: float32 (n, K); the latent factors of each sample.
        phenotype: int64 (n,); the planted cluster of each sample.
    """

    tasks: tuple[str, ...]
    relation: NDArray[np.int8]
    affinity: NDArray[np.float64]
    group: NDArray[np.int64]
    strength: NDArray[np.float64]
    weights: NDArray[np.float64]
    factors: NDArray[np.float32]
    phenotype: NDArray[np.int64]


def haim_like(
    n_samples: int = 12586,
    n_patients: int = 5178,
    seed: int = 0,
    *,
    widths: Sequence[int] = (6, 451, 2084, 2304),
    n_binary: int = 41,
    n_classes: int = 8,
    n_clusters: int = 15,
    group_size: int = 4,
    absent: Sequence[float] = (0.0, 0.0, 0.1, 0.2),
    unlabelled: float = 0.05,
    classes_labelled: float = 0.3,
    signal: float = 3.0,
    noise: float = 0.7,
) -> tuple[Cohort, Truth]:
    """Generate a cohort and the truth behind it.

    Args:
        widths: features of the four modalities.
        n_binary: binary tasks; with the multiclass, the regression and the clustering task M = n_binary + 3. Their
            prevalences run from 2 % (or what gives 60 positives, if more) to 50 %.
        n_clusters: phenotypes planted, and clusters of the clustering task.
        group_size: supervised tasks in a group.
        absent: share of the samples that lack each modality.
        unlabelled: share of the samples that lack each label.
        classes_labelled: share of the samples with a label of the multiclass task.
        signal: how well all features together show a factor: the sum of its squared loadings.
        noise: standard deviation of what a label holds beside its score (of standard deviation 1).

    Returns:
        the cohort (float32 features; two calls with equal arguments agree in every bit), and the truth.
    """
    if not 0 < n_patients <= n_samples or n_binary < 1 or len(widths) != 4 or len(absent) != 4:
        raise ValueError("expected 0 < n_patients <= n_samples, n_binary >= 1, four widths and four absent shares")
    dice = np.random.default_rng([seed, n_samples, n_patients])
    patients = patients_of(dice, n_samples, n_patients)

    tasks = _tasks(n_binary, n_classes, n_clusters)
    group = _groups(tasks, group_size)
    n_factors = int(group.max()) + 1
    factors, phenotype = _factors(dice, patients, n_patients, n_factors, n_clusters)
    weights = _weights(dice, group, n_factors)
    modalities = _modalities(dice, factors, widths, absent, signal)
    labels = _labels(dice, tasks, factors @ weights.T, unlabelled, classes_labelled, noise)
    cohort = make_cohort(
        "haim-like",
        np.arange(n_samples),
        patients,
        modalities,
        tasks,
        labels,
        strata=_stratum(labels, n_binary),
        seed=seed,
        info=info_of("HAIM-MIMIC-MM", seed, n_samples, n_patients),
    )
    strength, names = _strength(tasks, labels), tuple(task.name for task in tasks)
    relation, affinity = _relation(group, strength), weights @ weights.T
    return cohort, Truth(names, relation, affinity, group, strength, weights, factors, phenotype)


def info_of(shape: str, seed: int, n_samples: int, n_patients: int) -> dict[str, Any]:
    """What a synthetic cohort says of itself."""
    description = f"Synthetic, in the shape of {shape}; no patient stands behind it"
    return {"description": description, "seed": seed, "samples": n_samples, "patients": n_patients}


def write(cohort: Cohort, truth: Truth, folder: Path) -> None:
    """Write the cohort as a folder with its truth inside; the folder appears whole or not at all.

    `truth.json` holds what `Truth` says of the tasks (tasks, relation, affinity, group, strength, weights), row =
    source task; `truth.parquet` what it says of the samples (sample_id, phenotype, factor_0, factor_1, ...).

    Raises:
        BadInput: something already stands at `folder`.
    """
    arrays = ("relation", "affinity", "group", "strength", "weights")
    of_tasks = {"tasks": list(truth.tasks), **{name: getattr(truth, name).tolist() for name in arrays}}
    of_samples = {"phenotype": pa.array(truth.phenotype)}
    of_samples |= {f"factor_{k}": pa.array(values) for k, values in enumerate(truth.factors.T)}
    write_planted(cohort, of_tasks, of_samples, folder)


def patients_of(dice: np.random.Generator, n_samples: int, n_patients: int) -> NDArray[np.int64]:
    """(n,) patient of each sample, in random order: every patient has one, the rest of the samples fall anywhere."""
    patients = np.concatenate([np.arange(n_patients), dice.integers(0, n_patients, n_samples - n_patients)])
    return patients[dice.permutation(n_samples)]


def write_planted(
    cohort: Cohort, of_tasks: Mapping[str, Any], of_samples: Mapping[str, pa.Array], folder: Path
) -> None:
    """Write a cohort as a folder, and what was planted: `truth.json` (of_tasks) and `truth.parquet` (of_samples, a
    column `sample_id` before them). The folder appears whole or not at all.

    Raises:
        BadInput: something already stands at `folder`.
    """
    folder_writer.check_free(folder)
    with new_folder(folder) as aside:
        folder_writer.fill(cohort, aside)
        (aside / "truth.json").write_text(json.dumps(of_tasks), encoding="utf-8")
        pq.write_table(pa.table({"sample_id": pa.array(cohort.sample_ids), **of_samples}), aside / "truth.parquet")


def _factors(
    dice: np.random.Generator, patients: NDArray[np.int64], n_patients: int, n_factors: int, n_clusters: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """float32 (n, K) factors, variance 1 each: phenotype centre, patient and sample in the ratio 3 : 4 : 3."""
    phenotype = dice.integers(0, n_clusters, n_patients)
    centres = dice.standard_normal((n_clusters, n_factors))
    by_patient = np.sqrt(0.3) * centres[phenotype] + np.sqrt(0.4) * dice.standard_normal((n_patients, n_factors))
    factors = by_patient[patients] + np.sqrt(0.3) * dice.standard_normal((len(patients), n_factors))
    factors = (factors - factors.mean(axis=0)) / factors.std(axis=0)
    return factors.astype(np.float32), phenotype[patients]


def _modalities(
    dice: np.random.Generator,
    factors: NDArray[np.float32],
    widths: Sequence[int],
    absent: Sequence[float],
    signal: float,
) -> list[Modality]:
    """Mixtures of the factors plus unit noise; factor k shows mainly in two of the last three modalities."""
    n, n_factors = factors.shape
    home = np.full((4, n_factors), 0.05)
    for factor in range(n_factors):
        home[1 + factor % 3, factor] = 0.6
        home[1 + (factor + 1) % 3, factor] = 0.3
    missing = np.stack([dice.random(n) < share for share in absent])
    # A sample without any modality would be nobody; the first modality then stays.
    missing[0] &= ~missing.all(axis=0)
    modalities = []
    for index, (name, prefix, width) in enumerate(zip(_MODALITIES, _PREFIXES, widths, strict=True)):
        loadings = dice.standard_normal((n_factors, width), dtype=np.float32)
        loadings *= np.sqrt(signal * home[index] / width).astype(np.float32)[:, None]
        values = dice.standard_normal((n, width), dtype=np.float32)
        values += factors @ loadings
        values[missing[index]] = np.nan
        columns = tuple(f"{prefix}_{column}" for column in range(width))
        modalities.append(Modality(name, "vector", columns, values, {}, ~missing[index]))
    return modalities


def _tasks(n_binary: int, n_classes: int, n_clusters: int) -> list[Task]:
    tasks = [
        Task(f"diagnosis_{index + 1:02d}", "binary", department=_DEPARTMENTS[index % len(_DEPARTMENTS)])
        for index in range(n_binary)
    ]
    tasks.append(Task("pathology", "multiclass", n_classes, department="Radiology"))
    tasks.append(Task("stay", "regression", department="Hospital administration"))
    tasks.append(Task("phenotype", "clustering", n_clusters, department="Internal medicine"))
    return tasks


def _groups(tasks: Sequence[Task], size: int) -> NDArray[np.int64]:
    """Group (M,) of each task. Tasks go to the groups in turn, so that a group has rare and common ones."""
    supervised = np.array([task.kind != "clustering" for task in tasks])
    n_groups = max(2, -(-int(supervised.sum()) // size))
    return np.where(supervised, np.arange(len(tasks)) % n_groups, -1)


def _weights(dice: np.random.Generator, group: NDArray[np.int64], n_factors: int) -> NDArray[np.float64]:
    """float64 (M, K) unit vectors: the factor of the group and some other one."""
    weights = np.zeros((len(group), n_factors))
    for index in np.flatnonzero(group >= 0):
        weights[index, group[index]] = np.sqrt(0.9)
        others = [factor for factor in range(n_factors) if factor != group[index]]
        weights[index, dice.choice(others)] = np.sqrt(0.1) * dice.choice([-1.0, 1.0])
    return weights


def _labels(
    dice: np.random.Generator,
    tasks: Sequence[Task],
    scores: NDArray[np.float64],
    unlabelled: float,
    classes_labelled: float,
    noise: float,
) -> dict[str, NDArray[np.float64]]:
    """float64 (n,) labels of the supervised tasks from their noise-free scores (n, M)."""
    n = len(scores)
    n_binary = sum(task.kind == "binary" for task in tasks)
    prevalence = np.geomspace(min(0.5, max(0.02, 60 / n)), 0.5, n_binary)[dice.permutation(n_binary)]
    labels: dict[str, NDArray[np.float64]] = {}
    for index, task in enumerate(tasks):
        if task.kind == "clustering":
            continue
        score = np.asarray(scores[:, index] + noise * dice.standard_normal(n))
        if task.kind == "binary":
            label = (score > np.quantile(score, 1 - prevalence[index])).astype(np.float64)
        elif task.kind == "multiclass":
            edges = np.quantile(score, np.linspace(0, 1, task.n_outputs + 1)[1:-1])
            label = np.searchsorted(edges, score).astype(np.float64)
        else:
            label = np.asarray((score - score.mean()) / score.std())
        gone = 1 - classes_labelled if task.kind == "multiclass" else unlabelled
        label[dice.random(n) < gone] = np.nan
        labels[task.name] = label
    return labels


def _strength(tasks: Sequence[Task], labels: dict[str, NDArray[np.float64]]) -> NDArray[np.float64]:
    """How much a label says (M,); see `Truth`."""
    strength = np.zeros(len(tasks))
    for index, task in enumerate(tasks):
        if task.kind == "binary":
            strength[index] = np.nanvar(labels[task.name])
        elif task.kind != "clustering":
            strength[index] = 0.25
    return strength


def _relation(group: NDArray[np.int64], strength: NDArray[np.float64]) -> NDArray[np.int8]:
    """int8 (M, M): +1 within a group; -1 where a task of another group says at least twice as much; else 0."""
    stronger = strength[None, :] >= 2 * strength[:, None]
    relation = np.where(group[:, None] == group[None, :], 1, np.where(stronger, -1, 0)).astype(np.int8)
    relation[group < 0] = relation[:, group < 0] = 0
    np.fill_diagonal(relation, 0)
    return relation


def _stratum(labels: dict[str, NDArray[np.float64]], n_binary: int) -> list[str]:
    """The rarest diagnosis a sample has: so that every part of the split has positives of the rare ones."""
    names = sorted(list(labels)[:n_binary], key=lambda name: np.nansum(labels[name]))
    stratum = np.full(len(labels[names[0]]), "none", dtype=object)
    for name in reversed(names[: max(1, n_binary // 4)]):
        stratum[labels[name] == 1] = name
    return stratum.tolist()
