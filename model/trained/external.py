"""What another cohort's patients say of trained models: discrimination, calibration and the use of their predictions.

Nothing that leaves this module is about one patient: scores under weightings, and curves whose every point stands for
several patients.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from model.cohorts.cohort import Bools, Cohort
from model.data.folds import patient_weights
from model.scoring import metrics
from model.trained import calibration
from model.trained.confirming import FEWEST, by_quantile, subgroups
from model.trained.deployed import DeployedModel
from model.trained.final_training import silhouettes
from model.trained.parts import SEVERAL, Array
from tim_search.gates import small_cells
from tim_search.types import FINAL_FOLD, METRICS, Task, Unit

#: Risks at and above which a decision curve treats.
THRESHOLDS = np.arange(1, 100) / 100
#: Everybody, as a group.
ALL = "all"


@dataclass(frozen=True)
class Interval:
    """A number with the 2.5 and 97.5 percentiles of its draws; NaN where there is none."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Judged:
    """One model on one group of the other cohort's patients.

    Attributes:
        source, model: the task, and "alone" or "combination".
        group, of: subgroup, or "all"; and the class or label against all others, "" for the task as it is.
        metric: what `score` is.
        score: discrimination: by the task's metric, of a class or label AUROC.
        gain: of a combination, its score minus that of the task alone, draw by draw; NaN elsewhere.
        slope, intercept: calibration (`model.trained.calibration`); NaN for a whole task with several classes.
        rows, positive: how many samples carry the label, and of a binary task or a class how many have it, else -1.
    """

    source: str
    model: str
    group: str
    of: str
    metric: str
    score: Interval
    gain: Interval
    slope: Interval
    intercept: Interval
    rows: int
    positive: int


@dataclass(frozen=True)
class Drawn:
    """A curve of one model: "calibration" (predicted, observed) or "benefit" (threshold, net benefit).

    Attributes:
        source, model, group: as in `Judged`; a decision curve also has the model "all", which treats everybody.
        x, y, n: points, and the patients behind each of a calibration curve; () for a decision curve.
    """

    source: str
    model: str
    kind: str
    group: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    n: tuple[float, ...] = ()


_UNKNOWN = Interval(np.nan, np.nan, np.nan)


def judge(
    models: Mapping[str, tuple[DeployedModel, DeployedModel]],
    ours: Cohort,
    theirs: Cohort,
    groups: Mapping[str, Bools],
    draws: int,
    small: int,
) -> tuple[list[Judged], list[Drawn]]:
    """Judge models on all patients of another cohort. It reads their labels: log that first.

    Args:
        models: source task -> (the model of the task alone, the model of its combination).
        ours: the cohort they were trained on; of it the latents of the training part are read, for clusterings.
        theirs: the other one, as `model.trained.aligning.aligned` gives it; sources without labels there are passed by.
        groups: name -> bool (n,) over theirs.
        draws: of the bootstrap by patient; both models have the same ones.
        small: no point of a curve stands for fewer patients, and no group with fewer of either class is judged.
    """
    judged: list[Judged] = []
    drawn: list[Drawn] = []
    weights = patient_weights(theirs.patients, draws, f"{theirs.fingerprint} elsewhere")
    inputs = dict(theirs.modalities)
    outputs = {id(model): model.network_outputs(inputs) for pair in models.values() for model in pair}
    for source, pair in models.items():
        if source not in theirs.tasks:
            continue
        task = theirs.tasks[source]
        both = [outputs[id(model)][source] for model in pair]
        if task.kind == "clustering":
            judged += _clusters(task, pair, both, ours, weights)
            continue
        label = theirs.labels[source]
        labelled = np.isfinite(label.reshape(len(label), -1)).any(axis=1)
        for group, members in {ALL: np.ones(len(theirs), bool), **groups}.items():
            rows = members & labelled
            if not _enough(task, label[rows], small):
                continue
            given = [output[rows] for output in both]
            judged += _rows(task, theirs, group, label[rows], given, weights[:, rows], small)
            drawn += _curves(task, group, label[rows], given, small)
    return judged, drawn


def groups_of(ours: Cohort, theirs: Cohort, columns: Sequence[str]) -> dict[str, Bools]:
    """Subgroups of the other cohort's samples, cut where they are cut here; see `confirming.subgroups`."""
    return {name: rows for column in columns for name, rows in subgroups(ours, column, theirs).items()}


def _enough(task: Task, label: Array, small: int) -> bool:
    """Whether so many samples may be spoken of; of a binary task, so many of either class or none."""
    if len(label) < max(FEWEST, small):
        return False
    positive = int((label == 1).sum())
    return task.kind != "binary" or not small_cells.few((positive, len(label) - positive), small)


def _rows(
    task: Task, cohort: Cohort, group: str, label: Array, both: Sequence[Array], weights: Array, small: int
) -> Iterator[Judged]:
    """Both models by the task itself, then by each class or label."""
    whole = [metrics.score(task.metric, task.kind, label, _as_logits(task, output), weights) for output in both]
    single = [(label, output) for output in both] if task.kind not in SEVERAL else None
    yield from _pair(task, group, "", task.metric, whole, single, weights)
    for place, name in enumerate(cohort.classes[task.name] if task.kind in SEVERAL else ()):
        column = label[:, place] if task.kind == "multilabel" else (label == place).astype(float)
        seen = np.isfinite(column)
        positive = int(np.nansum(column))
        if small_cells.few((positive, int(seen.sum()) - positive), small):
            continue
        parts = [(column[seen], output[seen, place]) for output in both]
        each = [metrics.score("auroc", "binary", hit, risk.reshape(-1, 1), weights[:, seen]) for hit, risk in parts]
        yield from _pair(task, group, name, "auroc", each, parts, weights[:, seen])


def _as_logits(task: Task, output: Array) -> Array:
    # Logarithms of probabilities are logits whose softmax gives them back; elsewhere ranks are enough.
    return np.log(output.clip(1e-300)) if task.kind == "multiclass" else output.reshape(len(output), -1)


def _pair(
    task: Task,
    group: str,
    of: str,
    metric: str,
    scores: Sequence[Array],
    parts: Sequence[tuple[Array, Array]] | None,
    weights: Array,
) -> Iterator[Judged]:
    """The rows of both models for one group and class."""
    for place, model in enumerate(("alone", "combination")):
        slope = intercept = _UNKNOWN
        positive = -1
        rows = weights.shape[1]
        if parts is not None:
            hit, output = parts[place]
            regression = task.kind == "regression"
            fitting = calibration.of_values if regression else calibration.of_risks
            intercepts, slopes = fitting(output, hit, weights)
            slope, intercept = interval(slopes), interval(intercepts)
            positive = -1 if regression else int(hit.sum())
        gain = interval(scores[1] - scores[0]) if place else _UNKNOWN
        score = interval(scores[place])
        yield Judged(task.name, model, group, of, metric, score, gain, slope, intercept, rows, positive)


def interval(values: Array) -> Interval:
    """A number and the percentiles of its draws, from (1 + R,) values; draws without one are passed over."""
    draws = values[1:][np.isfinite(values[1:])]
    if not np.isfinite(values[0]) or len(draws) < 2:
        return Interval(float(values[0]), np.nan, np.nan)
    low, high = np.percentile(draws, [2.5, 97.5])
    return Interval(float(values[0]), float(low), float(high))


def _clusters(
    task: Task, pair: Sequence[DeployedModel], both: Sequence[Array], ours: Cohort, weights: Array
) -> Iterator[Judged]:
    """Silhouettes of a clustering, whose groups are those of the training part here."""
    learn = ours.split.train(FINAL_FOLD)
    modalities = {name: modality.take(learn) for name, modality in ours.modalities.items()}
    scores = []
    for model, latents in zip(pair, both, strict=True):
        values, why = silhouettes(model, model.network_outputs(modalities)[task.name], latents, task, weights)
        scores.append(np.full(len(values), np.nan) if why else values)
    yield from _pair(task, ALL, "", METRICS[task.kind], scores, None, weights)


def _curves(task: Task, group: str, label: Array, both: Sequence[Array], small: int) -> Iterator[Drawn]:
    """Calibration of both models, and for everybody the decision curves of a binary task."""
    if task.kind in SEVERAL:
        return
    unit = Unit((task.name,), 0, FINAL_FOLD)
    for model, output in zip(("alone", "combination"), both, strict=True):
        for curve in by_quantile(unit, task, "calibration", output.ravel(), label, small, group):
            yield Drawn(task.name, model, "calibration", group, curve.x, curve.y, curve.n)
    if task.kind != "binary" or group != ALL:
        return
    every = [calibration.net_benefit(output.ravel(), label, THRESHOLDS) for output in both]
    # Where few patients are on one side of a threshold, what is gained there would tell how many.
    shown = np.all([[not small_cells.few(row.tolist(), small) for row in counts] for _, _, counts in every], axis=0)
    lines = {"alone": every[0][0], "combination": every[1][0], ALL: every[0][1]}
    for model, values in lines.items():
        points = tuple(small_cells.blurred(float(value), 1.0, len(label), small) for value in values[shown])
        yield Drawn(task.name, model, "benefit", group, tuple(THRESHOLDS[shown].tolist()), points)
