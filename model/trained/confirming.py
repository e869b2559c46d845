"""What the confirmation asks of a trained pack beyond its scores: ensembles, the paper's interval, and curves.

The patients looked at here are the test patients. Nothing that leaves this module is about one of them: scores under
weightings, and curves whose every point stands for several (see `tim_search.types.Curve`).
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.manifold import TSNE
from torch import Tensor

from model.cohorts.cohort import Cohort
from model.data.folds import Fold, target_scale
from model.networks import registry as networks
from model.networks.contract import n_logits
from model.scoring import clustering, metrics
from model.training.fitting import fit_pack
from model.training.pack import Fitted
from model.training.predicting import Predictions, predict
from model.training.scores import labels_of
from model.training.trainer import PackTrainer, TrainingPayload
from tim_search.gates import small_cells
from tim_search.types import BadInput, Curve, Pack, Score, Subset, Task, Trainer, Unit

Array = NDArray[np.float64]

#: The paper's interval: the standard deviation over so many draws of this share of the test rows, with replacement
#: (M3H paper, section 5.1). It describes how a score spreads; it is no confidence interval.
DRAWS, SHARE = 5, 0.9

#: The members of an ensemble train from seeds this far apart, out of the reach of any search's own seeds.
SEED_STEP = 1_000_000

#: A risk group or a subgroup stands for no fewer patients, a cell of a density or a map for no fewer than the second.
FEWEST, FEWEST_IN_CELL = 20, 5

_GROUPS = 10  # quantiles of the predicted risk, or of the observed value
_ROC_POINTS = 101
_CELLS = 16  # a side of a density or a map
_MAP_ROWS = 2000  # a map shows so many at most; t-SNE takes seconds for them


@dataclass(frozen=True)
class ConfirmingPayload:
    """What a confirming worker needs.

    Attributes:
        training: the search's, with the settings of the confirmation.
        ensemble: the most single-task models that are averaged; 1 makes no ensembles.
        groups: subgroup -> bool (n,) over the cohort's samples; its calibration is shown apart.
        maps: (subset, clustering task) pairs whose latents are laid out in two dimensions,
        map_seed: and the only seed of which that is done, for it takes long.
        small: no point of a curve stands for fewer patients, nor a risk group for fewer of either class, none excepted.
    """

    training: TrainingPayload
    ensemble: int = 1
    groups: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict)
    maps: frozenset[tuple[Subset, str]] = frozenset()
    map_seed: int = 0
    small: int = 0


def trainer(payload: ConfirmingPayload) -> Trainer:
    """The `TrainerFactory` of a confirmation."""

    def look(pack: Pack, fitted: Fitted, fold: Fold) -> tuple[list[Score], list[Curve]]:
        scores, curves = _look(payload, pack, fitted, fold)
        return scores + _ensembles(payload, pack, fitted, fold), curves

    return PackTrainer(payload.training, look)


def _look(payload: ConfirmingPayload, pack: Pack, fitted: Fitted, fold: Fold) -> tuple[list[Score], list[Curve]]:
    """The paper's interval of every score, and every curve."""
    cohort = payload.training.cohort
    predictions = predict(fitted, fold.validation)
    learned = predict(fitted, fold.train).latents if fitted.layout.clustering else None
    weights = paper_draws(len(fold.validation), payload.training.telling.key or cohort.split.digest)
    scores: list[Score] = []
    curves: list[Curve] = []
    for member, unit in enumerate(pack.units):
        if not _finite(fitted, predictions, member):
            continue
        for slot, name in enumerate(fitted.layout.names[member]):
            task = cohort.tasks[name]
            if task.kind == "clustering":
                assert learned is not None
                c = slot - fitted.layout.supervised
                seed = clustering.start(unit.seed, name)
                train, held_out = (of[member : member + 1, :, c] for of in (learned, predictions.latents))
                by_row = torch.from_numpy(np.ascontiguousarray(weights.T)).to(train.device)
                values = clustering.judge(train, held_out, task.n_outputs, by_row, [seed])[0].silhouette
                if (unit.subset, name) in payload.maps and unit.seed == payload.map_seed and np.isfinite(values).all():
                    curves += _map(unit, task, train, held_out, seed, payload.small)
            else:
                labels, labelled = labels_of(fold, task)
                outputs = _outputs(task, predictions, member, slot)[labelled]
                values = _metric(task, labels, outputs, weights[:, labelled])
                curves += _curves(unit, task, cohort, labels, outputs, labelled, payload.groups, payload.small)
            spread = float(np.std(values, ddof=1))
            scores.append(Score(unit, name, f"{task.metric}_paper_sd", unit.part, spread, primary=False))
    return scores, curves


def _ensembles(payload: ConfirmingPayload, pack: Pack, fitted: Fitted, fold: Fold) -> list[Score]:
    """Scores of averaged predictions of 2, 3, ... single-task models that differ in their seeds alone.

    Probabilities are averaged, and predicted values. A clustering task has no ensemble: latents of two trainings have
    no common axes.
    """
    if len(pack.units[0].subset) > 1 or not fitted.layout.supervised:
        return []
    cohort, settings = payload.training.cohort, payload.training.settings
    network = networks.find(payload.training.network, allow_code=True)  # the trainer has imported it already
    predictions = predict(fitted, fold.validation)
    totals = {
        unit: _outputs(cohort.tasks[unit.subset[0]], predictions, member, 0)
        for member, unit in enumerate(pack.units)
        if _finite(fitted, predictions, member)
    }
    scores = []
    for size in range(2, payload.ensemble + 1):
        further = Pack(tuple(Unit(unit.subset, unit.seed + (size - 1) * SEED_STEP, unit.fold) for unit in pack.units))
        fit = fit_pack(further, cohort.tasks, fold, settings, network)
        predictions = predict(fit, fold.validation)
        for member, unit in enumerate(pack.units):
            task = cohort.tasks[unit.subset[0]]
            if not _finite(fit, predictions, member):
                totals.pop(unit, None)
            if unit not in totals:
                continue
            totals[unit] = totals[unit] + _outputs(task, predictions, member, 0)
            labels, labelled = labels_of(fold, task)
            values = _metric(task, labels, totals[unit][labelled] / size, fold.weights[:, labelled])
            scores.append(
                Score(
                    unit,
                    task.name,
                    f"ensemble_{size}_{task.metric}",
                    unit.part,
                    float(values[0]),
                    primary=False,
                    replicates=tuple(map(float, values[1:])),
                )
            )
    return scores


def paper_draws(rows: int, key: str) -> Array:
    """float64 (5, rows): how often each of five draws of 90 % of the rows, with replacement, holds each row."""
    dice = np.random.default_rng(np.frombuffer(f"{key} paper".encode(), dtype=np.uint8))
    count = max(1, round(SHARE * rows))
    return np.stack([np.bincount(dice.integers(0, rows, count), minlength=rows) for _ in range(DRAWS)]).astype(float)


def _finite(fitted: Fitted, predictions: Predictions, member: int) -> bool:
    outputs = (predictions.logits[member], predictions.latents[member])
    return not fitted.diverged[member] and all(bool(torch.isfinite(output).all()) for output in outputs)


def _outputs(task: Task, predictions: Predictions, member: int, slot: int) -> Array:
    """(n, C) probabilities of the classes or labels, (n, 1) of the positive, or (n, 1) standardised value."""
    logits = predictions.logits[member, slot, :, : n_logits(task)].double().cpu()
    if task.kind == "multiclass":
        logits = logits.softmax(1)
    elif task.kind in ("binary", "multilabel"):
        logits = logits.sigmoid()
    return np.asarray(logits.numpy())


def _metric(task: Task, labels: Array, outputs: Array, weights: Array) -> Array:
    # Logarithms of probabilities are logits whose softmax gives them back; elsewhere ranks are enough.
    logits = np.log(outputs.clip(1e-300)) if task.kind == "multiclass" else outputs
    return metrics.score(task.metric, task.kind, labels, logits, weights)


# Curves ---------------------------------------------------------------------------------------------------------------


def _curves(
    unit: Unit,
    task: Task,
    cohort: Cohort,
    labels: Array,
    outputs: Array,
    labelled: NDArray[np.bool_],
    groups: Mapping[str, NDArray[np.bool_]],
    small: int,
) -> list[Curve]:
    if task.kind == "regression":
        given, learn = np.asarray(cohort.labels[task.name]), ~cohort.split.test
        mean, scale = target_scale(given, learn)
        train = given[learn & np.isfinite(given)]
        low, high = np.quantile(train, [0.005, 0.995]) if len(train) else (0.0, 1.0)
        observed, predicted = mean + scale * labels, mean + scale * outputs[:, 0]
        grid = dense_cells(observed, predicted, (float(low), float(high)), (float(low), float(high)), small)
        return [
            Curve(unit, task.name, "density", "all", *grid),
            *by_quantile(unit, task, "tail", observed, predicted, small),
        ]
    if task.kind == "multiclass":
        names = cohort.classes[task.name]
        each = [(names[c], (labels == c).astype(float), outputs[:, c]) for c in range(task.n_outputs)]
        return [curve for name, hit, risk in each for curve in roc(unit, task, name, hit, risk, small)]
    if task.kind == "multilabel":
        each = []
        for c, name in enumerate(cohort.classes[task.name]):
            seen = np.isfinite(labels[:, c])
            each.append((name, labels[seen, c], outputs[seen, c]))
        return [curve for name, hit, risk in each for curve in roc(unit, task, name, hit, risk, small)]
    curves = roc(unit, task, "all", labels, outputs[:, 0], small)
    everybody = {"all": np.ones(len(cohort), bool), **groups}
    for name, rows in everybody.items():
        chosen = rows[cohort.split.test][labelled]
        curves += by_quantile(unit, task, "calibration", outputs[chosen, 0], labels[chosen], small, name)
    return curves


def by_quantile(
    unit: Unit, task: Task, kind: str, by: Array, other: Array, small: int, group: str = "all"
) -> list[Curve]:
    """Means of both values within quantiles of the first; no curve where there would be too few patients.

    With `small` the sizes of the groups are rounded, since they add up to how many carry the label, and so are means of
    observed values, whose digits tell by how many they were divided.
    """
    order = np.argsort(by, kind="stable")
    for count in range(min(_GROUPS, len(by) // max(FEWEST, small)), 1, -1):
        parts = np.array_split(order, count)
        if task.kind == "regression" or not any(_few(other[part], small) for part in parts):
            break
    else:
        return []
    x, y = ([float(values[part].mean()) for part in parts] for values in (by, other))
    n = [float(small_cells.rounded(len(part), small)) for part in parts]
    if small and kind == "calibration":  # here y is observed, in a tail x is
        spread = float(other.std()) if task.kind == "regression" else 1.0
        y = [_in_steps(value, spread, len(by) // count) for value in y]
    elif small:
        x = [_in_steps(value, float(by.std()), len(by) // count) for value in x]
    return [Curve(unit, task.name, kind, group, tuple(x), tuple(y), tuple(n))]  # type: ignore[arg-type]


def _in_steps(mean: float, spread: float, n: int) -> float:
    """A mean over about n patients, in steps no finer than what one of them, `spread` away, would move it by."""
    step = 2.0 ** math.ceil(math.log2(spread / n)) if spread else 1.0
    return round(mean / step) * step


def _few(hit: Array, small: int) -> bool:
    """Whether either class has some patients, but fewer than `small`: the observed share would tell how many."""
    positive = int(hit.sum())
    return any(0 < number < small for number in (positive, len(hit) - positive))


def roc(unit: Unit, task: Task, group: str, hit: Array, risk: Array, small: int) -> list[Curve]:
    """True positive rate at even steps of the false positive rate."""
    positive = int(hit.sum())
    if min(positive, len(hit) - positive) < max(FEWEST, small):
        return []
    order = np.argsort(-risk, kind="stable")
    last = np.flatnonzero(np.r_[np.diff(risk[order]) != 0, True])  # equal risks form one step
    rate = [np.r_[0.0, np.cumsum(side[order])[last] / side.sum()] for side in (1 - hit, hit)]
    x = np.linspace(0, 1, _ROC_POINTS)
    return [Curve(unit, task.name, "roc", group, tuple(x.tolist()), tuple(np.interp(x, *rate).tolist()))]


def dense_cells(
    x: Array, y: Array, x_range: tuple[float, float], y_range: tuple[float, float], small: int = 0
) -> tuple[tuple[float, ...], tuple[float, ...], tuple[float, ...]]:
    """Centres and counts of the cells of a grid that hold enough patients; values outside count at its rim.

    With `small` the counts are rounded: where all cells are told, they add up to how many carry the label.
    """
    x_range, y_range = ((low, high if high > low else low + 1.0) for low, high in (x_range, y_range))
    counts, x_edges, y_edges = np.histogram2d(
        np.clip(x, *x_range), np.clip(y, *y_range), bins=_CELLS, range=(x_range, y_range)
    )
    at = np.argwhere(counts >= max(FEWEST_IN_CELL, small))
    centres = [(edges[:-1] + edges[1:]) / 2 for edges in (x_edges, y_edges)]
    return (
        tuple(centres[0][at[:, 0]].tolist()),
        tuple(centres[1][at[:, 1]].tolist()),
        tuple(float(small_cells.rounded(int(count), small)) for count in counts[at[:, 0], at[:, 1]]),
    )


def _map(unit: Unit, task: Task, train: Tensor, held_out: Tensor, seed: int, small: int) -> list[Curve]:
    """The held-out latents (1, v, h) in two dimensions, a density for each cluster (M3H paper, Fig. 5d)."""
    shown = held_out[:, :_MAP_ROWS]
    cluster = clustering.nearest(shown, clustering.groups(train, task.n_outputs, [seed]))[0].cpu().numpy()
    place = in_two_dimensions(shown[0].double().cpu().numpy(), seed)
    spans = [(float(axis.min()), float(axis.max())) for axis in place.T]
    curves = []
    for number in range(task.n_outputs):
        rows = cluster == number
        grid = dense_cells(place[rows, 0], place[rows, 1], spans[0], spans[1], small)
        if grid[0]:
            curves.append(Curve(unit, task.name, "map", f"cluster {number + 1}", *grid))
    return curves


def in_two_dimensions(latents: Array, seed: int) -> Array:
    """(n, h) to (n, 2): UMAP, as the paper has it, where umap-learn is installed, else t-SNE."""
    try:
        from umap import UMAP
    except ImportError:
        perplexity = min(30.0, max(1.0, (len(latents) - 1) / 3))
        return np.asarray(TSNE(perplexity=perplexity, random_state=seed % 2**32).fit_transform(latents), float)
    return np.asarray(UMAP(random_state=seed % 2**32).fit_transform(latents), float)


def subgroups(cohort: Cohort, column: str, other: Cohort | None = None) -> dict[str, NDArray[np.bool_]]:
    """Subgroups of the samples by an input column: its levels, or above and up to the median of the training rows.

    Args:
        column: a column of a vector modality, or `modality.column`.
        other: a cohort of the same columns and levels, whose samples are grouped instead.

    Returns:
        Name, such as "sex=female" or "age>65", to bool (n,). Samples where it was not measured are in none.

    Raises:
        BadInput: no such column, or an ambiguous one.
    """
    columns = [
        (modality, name)
        for modality in cohort.modalities.values()
        if modality.kind == "vector"
        for name in modality.columns
        if column in (name, f"{modality.name}.{name}")
    ]
    if len(columns) != 1:
        names = sorted({name for m in cohort.modalities.values() if m.kind == "vector" for name in m.columns})
        near = difflib.get_close_matches(column, names, 3) or names[:8]
        what = "it is in several modalities; write modality.column" if columns else f"there are, for example, {near}"
        raise BadInput(f"--by: expected one input column of the search, got {column!r}; {what}.")
    ((modality, name),) = columns
    place = modality.columns.index(name)
    values = (other or cohort).modalities[modality.name].table[:, place]
    if name in modality.levels:
        return {f"{name}={level}": values == code for code, level in enumerate(modality.levels[name])}
    here = modality.table[:, place]
    measured = here[~cohort.split.test & np.isfinite(here)]
    if not len(measured):
        raise BadInput(f"--by: {column} was measured in no training patient. Name another column.")
    middle = float(np.median(measured))
    return {f"{name}<={middle:g}": values <= middle, f"{name}>{middle:g}": values > middle}
