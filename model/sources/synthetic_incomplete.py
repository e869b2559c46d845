"""A synthetic cohort in the shape of the six tasks of the FlexCare paper (Table 2): nothing in it is complete.

Three modalities: `series` (steps x 76 channels), `image` (1 x side x side) and `notes` (tokens x width, what a frozen
encoder would make of a note's words). Series and notes end at different lengths and are NaN beyond. Six tasks with the
paper's shares of the samples, and its shares of samples without each modality, task by task; every sample is labelled
for one task only, and a patient may have samples of several tasks.

| Task | Kind | Metric | Reads |
|---|---|---|---|
| ihm, dec | binary | AUROC | one mixture of two factors, which show half as clearly as the others |
| los | 10 classes | macro F1 | two factors of its own |
| phe | 25 labels | macro AUROC | four factors of its own, which are loud noise in the samples of los |
| rea | binary | AUROC | two factors of its own |
| dia | 14 labels | macro AUROC | three factors of its own, mainly in the image |

How it is made. A sample has latent factors of variance 1, half of it the patient's and half its own. A factor shows in
a modality as a random pattern (over the channels, over a spot of the image, over the width of a token) times its value,
under noise of the sample and noise of every step, pixel and token. A label is a threshold on a mixture of factors with
noise added (10 classes: nine thresholds).

What follows, and is the truth. `relation` +1, synergy: ihm and dec have few labels each and read one and the same
mixture, so that either's labels teach the other. `relation` -1, conflict: where the factors of phe show, the samples of
los hold noise of several times their size (as of a device that only some wards use), so that los asks of a shared
network to be deaf to what phe has to hear; and los wins, for one of ten classes says more than the mean of 25 rare
labels. It is los that harms phe, not phe los. All other pairs: 0. These are the directions of the mechanism; how large
the gain or loss of a given network is, is for a search to measure. docs/cohorts.md says what a small shared network
made of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from model.cohorts.cohort import Bools, Cohort, Modality, make_cohort
from model.sources.synthetic import info_of, patients_of, write_planted
from tim_search.types import Task

Floats32 = NDArray[np.float32]
Floats64 = NDArray[np.float64]

#: Samples of each task, and the share of them without series, image and notes (FlexCare paper, Table 2).
TABLE_2: Mapping[str, tuple[int, tuple[float, float, float]]] = {
    "ihm": (26_318, (0.0, 0.7640, 0.0749)),
    "los": (59_495, (0.0, 0.8516, 0.0827)),
    "dec": (59_269, (0.0, 0.8515, 0.0824)),
    "phe": (59_798, (0.0, 0.8194, 0.0830)),
    "rea": (55_712, (0.0, 0.8238, 0.0806)),
    "dia": (132_576, (0.7634, 0.0, 0.3256)),
}

_TASKS = (
    Task("ihm", "binary", department="Intensive care"),
    Task("los", "multiclass", 10, "macro_f1", department="Hospital administration"),
    Task("dec", "binary", department="Intensive care"),
    Task("phe", "multilabel", 25, department="Internal medicine"),
    Task("rea", "binary", department="Hospital administration"),
    Task("dia", "multilabel", 14, department="Radiology"),
)

#: Share of the positives of a binary task, and of the rarest and the commonest label of the others.
_POSITIVE = {"ihm": (0.3, 0.3), "dec": (0.3, 0.3), "rea": (0.35, 0.35), "phe": (0.1, 0.4), "dia": (0.1, 0.4)}

#: The factors, in the order of `Truth.factors`: which of them a task reads, and how much of their signal each modality
#: (series, image, notes) shows.
_ACUTE, _STAY, _CONDITIONS, _RETURN, _CHEST = slice(0, 2), slice(2, 4), slice(4, 8), slice(8, 10), slice(10, 13)
_FACTORS = 13
_READS = {"ihm": _ACUTE, "dec": _ACUTE, "los": _STAY, "phe": _CONDITIONS, "rea": _RETURN, "dia": _CHEST}
_SHOWN = (
    (_ACUTE, (0.35, 0.05, 0.1)),
    (_STAY, (0.7, 0.1, 0.2)),
    (_CONDITIONS, (0.5, 0.0, 0.5)),
    (_RETURN, (0.5, 0.1, 0.4)),
    (_CHEST, (0.1, 0.6, 0.3)),
)
#: Size of what stands in the samples of los where the factors of phe show.
_LOUD = 4.0

CHANNELS = 76


@dataclass(frozen=True, eq=False)
class Truth:
    """What was planted.

    Attributes:
        tasks: the six names, in the order of `relation`.
        relation: int8 (6, 6), row = source task: +1 the column's task helps it, -1 harms it, 0 neither.
        weights: by task float64 (labels, K), unit rows: the mixture of factors behind each label (one row of a task
            that is not multilabel), before noise.
        factors: float32 (n, K); the latent factors of each sample. Those of phe do not show in the samples of los.
        labelled: (n,) name of the one task that each sample is labelled for.
    """

    tasks: tuple[str, ...]
    relation: NDArray[np.int8]
    weights: Mapping[str, Floats64]
    factors: Floats32
    labelled: NDArray[np.object_]


def incomplete(
    n_samples: int = 3000,
    n_patients: int | None = None,
    seed: int = 0,
    *,
    steps: int = 24,
    side: int = 16,
    tokens: int = 12,
    token_width: int = 32,
    signal: float = 6.0,
    noise: float = 0.4,
) -> tuple[Cohort, Truth]:
    """Generate a cohort and the truth behind it.

    Args:
        n_samples: all tasks together; each gets its share of `TABLE_2`.
        n_patients: two samples a patient where it is not given.
        steps, tokens: length of the longest series and note; the shortest are a third of it.
        side: of the square image.
        token_width: width of a note token.
        signal: how well all modalities together show a factor: the sum of its squared loadings, against noise of
            variance 1 of the sample and again of each step, pixel and token.
        noise: standard deviation of what a label holds beside its mixture (of standard deviation 1).

    Returns:
        the cohort (float32 features; two calls with equal arguments agree in every bit), and the truth.
    """
    n_patients = max(1, n_samples // 2) if n_patients is None else n_patients
    if not 0 < n_patients <= n_samples or n_samples < 100 or min(steps, tokens, token_width) < 1 or side < 4:
        raise ValueError(
            "expected 100 samples or more, 0 < n_patients <= n_samples, lengths of 1 and a side of 4 or more"
        )
    dice = np.random.default_rng([seed, n_samples, n_patients])
    patients = patients_of(dice, n_samples, n_patients)
    labelled = _labelled(dice, n_samples)
    factors = _factors(dice, patients, n_patients)
    weights = _weights(dice)
    present = _present(dice, labelled)
    seen = factors.copy()
    of_los = labelled == "los"
    seen[of_los, _CONDITIONS] = _LOUD * dice.standard_normal(seen[of_los, _CONDITIONS].shape)
    modalities = [
        _series(dice, _shown(seen, 0, signal), present[:, 0], steps),
        _image(dice, _shown(seen, 1, signal), present[:, 1], side),
        _notes(dice, _shown(seen, 2, signal), present[:, 2], tokens, token_width),
    ]
    labels = {task.name: _label(dice, task, factors @ weights[task.name].T, labelled, noise) for task in _TASKS}
    cohort = make_cohort(
        "flexcare-like",
        np.arange(n_samples),
        patients,
        modalities,
        _TASKS,
        labels,
        strata=_stratum(labels, labelled),
        seed=seed,
        info=info_of("the FlexCare paper's six tasks", seed, n_samples, n_patients),
    )
    return cohort, Truth(tuple(task.name for task in _TASKS), _relation(), weights, factors, labelled)


def _relation() -> NDArray[np.int8]:
    """int8 (6, 6); see `Truth`."""
    names = [task.name for task in _TASKS]
    relation = np.zeros((len(names), len(names)), np.int8)
    for source, other, sign in (("ihm", "dec", 1), ("dec", "ihm", 1), ("phe", "los", -1)):
        relation[names.index(source), names.index(other)] = sign
    return relation


def write(cohort: Cohort, truth: Truth, folder: Path) -> None:
    """Write the cohort as a folder with its truth inside; the folder appears whole or not at all.

    `truth.json` holds what `Truth` says of the tasks (tasks, relation, weights), row = source task; `truth.parquet`
    what it says of the samples (sample_id, labelled, factor_0, factor_1, ...).

    Raises:
        BadInput: something already stands at `folder`.
    """
    of_tasks = {
        "tasks": list(truth.tasks),
        "relation": truth.relation.tolist(),
        "weights": {name: rows.tolist() for name, rows in truth.weights.items()},
    }
    of_samples = {"labelled": pa.array(truth.labelled.tolist())}
    of_samples |= {f"factor_{k}": pa.array(values) for k, values in enumerate(truth.factors.T)}
    write_planted(cohort, of_tasks, of_samples, folder)


def _labelled(dice: np.random.Generator, n: int) -> NDArray[np.object_]:
    """(n,) task of each sample, in random order; the counts are the paper's shares to within one sample."""
    counts = np.array([count for count, _ in TABLE_2.values()])
    ends = np.round(np.cumsum(counts) / counts.sum() * n).astype(int)
    names = np.repeat(np.array(list(TABLE_2), dtype=object), np.diff(ends, prepend=0))
    return np.asarray(names[dice.permutation(n)], dtype=object)


def _factors(dice: np.random.Generator, patients: NDArray[np.int64], n_patients: int) -> Floats32:
    """float32 (n, K), variance 1 each, half of it the patient's."""
    of_patient = dice.standard_normal((n_patients, _FACTORS))[patients]
    return np.asarray(np.sqrt(0.5) * (of_patient + dice.standard_normal(of_patient.shape)), np.float32)


def _weights(dice: np.random.Generator) -> dict[str, Floats64]:
    """Unit rows (labels, K) by task; ihm and dec have the same one."""
    weights = {}
    for task in _TASKS:
        rows = np.zeros((task.n_outputs if task.kind == "multilabel" else 1, _FACTORS))
        reads = rows[:, _READS[task.name]]
        reads[:] = dice.standard_normal(reads.shape)
        weights[task.name] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return weights | {"dec": weights["ihm"].copy()}


def _present(dice: np.random.Generator, labelled: NDArray[np.object_]) -> Bools:
    """bool (n, 3): who has which modality. No task lacks both series and image of a sample: nobody has nothing."""
    absent = np.array([TABLE_2[name][1] for name in labelled.tolist()])
    return np.asarray(dice.random(absent.shape) >= absent)


def _shown(factors: Floats32, modality: int, signal: float) -> Floats32:
    """float32 (n, patterns): how strongly a modality shows each of its patterns, one a factor."""
    parts = [factors[:, block] * np.float32(np.sqrt(signal * shares[modality])) for block, shares in _SHOWN]
    return np.concatenate(parts, axis=1)


def _patterns(dice: np.random.Generator, count: int, width: int) -> Floats32:
    """float32 (count, width) random unit rows."""
    rows = dice.standard_normal((count, width))
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


def _noise(dice: np.random.Generator, *shape: int) -> Floats32:
    return dice.standard_normal(shape, dtype=np.float32)


def _lengths(dice: np.random.Generator, n: int, longest: int) -> NDArray[np.int64]:
    """int64 (n,) from a third of the longest to the longest."""
    return dice.integers(max(1, longest // 3), longest + 1, n)


def _series(dice: np.random.Generator, shown: Floats32, present: Bools, steps: int) -> Modality:
    """Every other pattern rises from 0 to twice its strength over the steps, the others stay as they are."""
    n, rows = len(present), np.flatnonzero(present)
    patterns = _patterns(dice, shown.shape[1], CHANNELS)
    rises = np.arange(shown.shape[1]) % 2 == 1
    lengths = _lengths(dice, n, steps)[rows]
    at = np.arange(steps, dtype=np.float32)
    # The mean over a series' own steps is the same, whether a pattern rises or not.
    rise = 2 * at / np.maximum(lengths - 1, 1)[:, None].astype(np.float32)
    rise[lengths == 1] = 1
    values = (shown[rows] * ~rises) @ patterns + _noise(dice, len(rows), CHANNELS)
    climbing = (shown[rows] * rises) @ patterns
    filled = values[:, None] + rise[:, :, None] * climbing[:, None] + _noise(dice, len(rows), steps, CHANNELS)
    filled[at >= lengths[:, None]] = np.nan
    whole = np.full((n, steps, CHANNELS), np.nan, np.float32)
    whole[rows] = filled
    return Modality("series", "sequence", tuple(f"ts_{c}" for c in range(CHANNELS)), whole, {}, present)


def _image(dice: np.random.Generator, shown: Floats32, present: Bools, side: int) -> Modality:
    """Each pattern is a round spot at a place of its own; the noise of the sample is one brightness."""
    n, rows = len(present), np.flatnonzero(present)
    centres = dice.uniform(0.15, 0.85, (shown.shape[1], 2, 1)) * side
    along = np.arange(side) + 0.5
    spots = np.exp(-((along - centres) ** 2) / (2 * (0.1 * side) ** 2))  # (patterns, 2, side)
    patterns = (spots[:, 0, :, None] * spots[:, 1, None, :]).reshape(len(spots), -1)
    patterns = np.asarray(patterns / np.linalg.norm(patterns, axis=1, keepdims=True), np.float32)
    values = shown[rows] @ patterns + _noise(dice, len(rows), side * side) + _noise(dice, len(rows), 1)
    whole = np.full((n, 1, side, side), np.nan, np.float32)
    whole[rows] = values.reshape(-1, 1, side, side)
    return Modality("image", "image", (), whole, {}, present)


def _notes(dice: np.random.Generator, shown: Floats32, present: Bools, tokens: int, width: int) -> Modality:
    """A token is the vector of one of 50 words, which says nothing, under what the note as a whole shows."""
    n, rows = len(present), np.flatnonzero(present)
    patterns, words = _patterns(dice, shown.shape[1], width), _patterns(dice, 50, width)
    lengths = _lengths(dice, n, tokens)[rows]
    values = words[dice.integers(0, len(words), (len(rows), tokens))]
    values += (shown[rows] @ patterns + _noise(dice, len(rows), width))[:, None]
    values += _noise(dice, len(rows), tokens, width)
    values[np.arange(tokens) >= lengths[:, None]] = np.nan
    whole = np.full((n, tokens, width), np.nan, np.float32)
    whole[rows] = values
    return Modality("notes", "sequence", tuple(f"n_{c}" for c in range(width)), whole, {}, present)


def _label(
    dice: np.random.Generator, task: Task, scores: NDArray[np.floating], labelled: NDArray[np.object_], noise: float
) -> Floats64:
    """float64 (n,) or (n, L) labels from noise-free scores (n, labels); NaN but in the task's samples."""
    rows = labelled == task.name
    noisy = scores[rows] + noise * dice.standard_normal((int(rows.sum()), scores.shape[1]))
    if task.kind == "multiclass":
        edges = np.quantile(noisy, np.linspace(0, 1, task.n_outputs + 1)[1:-1])
        codes = np.searchsorted(edges, noisy)
    else:
        rarest, commonest = _POSITIVE[task.name]
        share = np.geomspace(rarest, commonest, noisy.shape[1])[dice.permutation(noisy.shape[1])]
        codes = noisy > [np.quantile(column, 1 - part) for column, part in zip(noisy.T, share, strict=True)]
    label = np.full(scores.shape, np.nan)
    label[rows] = codes
    return label if task.kind == "multilabel" else label[:, 0]


def _stratum(labels: Mapping[str, Floats64], labelled: NDArray[np.object_]) -> list[str]:
    """A sample's task, and its label of a binary one: so that every part of the split has all of them."""
    binary = [task.name for task in _TASKS if task.kind == "binary"]
    return [f"{name} {labels[name][row]:.0f}" if name in binary else name for row, name in enumerate(labelled.tolist())]
