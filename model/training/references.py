"""Reference models of single tasks: no model, a linear one, gradient boosting, k-means on the inputs (scikit-learn).

They see the standardised inputs and the training rows that a network sees, and are scored by the same code under the
same bootstrap weightings, so that a network is compared with them patient by patient.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV, RidgeCV
from torch import Tensor

from model.cohorts.cohort import Cohort
from model.data.folds import Fold, Rows, load_fold
from model.scoring import clustering, metrics
from model.training.scores import truth_of
from tim_search.gates.told_scores import Telling
from tim_search.types import Pack, PackResult, Score, Task, Unit
from tim_search.types.references import Reference

#: Strengths of the linear models' penalty that 3-fold cross-validation chooses from: inverse for a classification
#: (scikit-learn's C), direct for a regression.
_INVERSE_STRENGTHS, _STRENGTHS = (0.001, 0.01, 0.1, 1.0), tuple(np.logspace(-1, 5, 13))
#: Values of a table above which a classification is fitted once, at C = 0.01: choosing takes 13 fits.
_MANY_VALUES = 5_000_000
#: Trees of the boosting, small ones: a cohort may have a few hundred rows.
_BOOSTING: Mapping[str, Any] = {"max_iter": 100, "learning_rate": 0.08, "max_leaf_nodes": 15, "early_stopping": False}
#: Side of the grid of means that an image is shown as.
_GRID = 8
#: Rows that are read at a time where inputs stay on disk.
_ROWS = 64

Table = NDArray[np.float64]
#: (training inputs, training labels, inputs to predict) -> outputs (n,) or (n, C)
Fit = Callable[[Table, Table, Table], Table]


class ReferenceTrainer:
    """Fits and scores one kind of reference model, task by task; a `tim_search.types.Trainer`.

    Args:
        cohort: of the search.
        reference: which kind.
        replicates: bootstrap weightings that scores are given under.
        telling: how scores are told.
    """

    def __init__(self, cohort: Cohort, reference: Reference, replicates: int, telling: Telling | None = None) -> None:
        self._cohort, self._reference, self._replicates = cohort, reference, replicates
        self._telling = telling or Telling()
        self._folds: dict[int, tuple[Fold, Table, Table]] = {}

    def with_settings(self, settings: str) -> ReferenceTrainer:
        """References have no settings; raises ValueError."""
        raise ValueError(f"a reference model takes no settings, got {settings}")

    def train(self, pack: Pack) -> PackResult:
        """Fit and score the tasks of a pack's units, each by itself."""
        began = time.perf_counter()
        rows: list[Score] = []
        for unit in pack.units:
            started = time.perf_counter()
            for name in unit.subset:
                values, error = self._score(self._cohort.tasks[name], unit)
                seconds = (time.perf_counter() - started) / len(unit.subset)
                rows.append(_row(unit, self._cohort.tasks[name], values, error, seconds))
        # Many are the same with every seed: told anew each time, their mean would be exact.
        shown = tuple(self._telling.scores(rows, by_seed=False))
        return PackResult(pack, shown, seconds=time.perf_counter() - began)

    def _score(self, task: Task, unit: Unit) -> tuple[list[float], str]:
        """The metric under each weighting, and why there is none."""
        fold, learn, held_out = self._prepared(unit.fold)
        if self._reference == "k-means":
            inputs, new = torch.from_numpy(learn)[None], torch.from_numpy(held_out)[None]
            seeds = [clustering.start(unit.seed, task.name)]
            judged = clustering.judge(inputs, new, task.n_outputs, fold.weights_by_row, seeds)[0]
            return judged.silhouette.tolist(), judged.collapsed
        outputs = _outputs(self._reference, task, fold, learn, held_out)
        scores = metrics.of_members(truth_of(fold, task), torch.from_numpy(outputs)[None], (task.metric,))
        return scores[task.metric][0].tolist(), ""

    def _prepared(self, number: int) -> tuple[Fold, Table, Table]:
        """A fold, and its training and held-out inputs as tables; from memory after the first call."""
        if number not in self._folds:
            options: dict[str, Any] = {
                "dtype": torch.float32,
                "device": torch.device("cpu"),
                "drawn_by": self._telling.key,
            }
            fold = load_fold(self._cohort, number, replicates=self._replicates, **options)
            self._folds = {number: (fold, table(fold.train), table(fold.validation))}
        return self._folds[number]


def _row(unit: Unit, task: Task, values: list[float], error: str, seconds: float) -> Score:
    value = values[0] if values else float("nan")
    if not error and not np.isfinite(value):
        error = "the held-out rows leave nothing to tell apart"
    if error:
        return Score(unit, task.name, task.metric, unit.part, float("nan"), "failed", error, seconds=seconds)
    return Score(unit, task.name, task.metric, unit.part, value, replicates=tuple(values[1:]), seconds=seconds)


def table(rows: Rows) -> Table:
    """float64 (n, D): vectors as they are, a sequence as mean and last measured step, an image as means of a grid.

    Where a modality is absent in some rows, a column says so.
    """
    return np.concatenate([_table(part) for part in rows.split(_ROWS)]) if rows.unread else _table(rows)


def _table(rows: Rows) -> Table:
    columns = [_columns(values, steps) for values, steps in zip(rows.inputs, rows.steps or [None] * 99, strict=False)]
    if rows.present is not None:
        columns.append(rows.present.double())
    return np.ascontiguousarray(torch.cat(columns, dim=1).cpu().numpy())


def _columns(values: Tensor, steps: Tensor | None) -> Tensor:
    values = values.double()
    if values.ndim == 2:
        return values
    if values.ndim == 4:
        return torch.nn.functional.adaptive_avg_pool2d(values, _GRID).flatten(1)
    measured = values.new_ones(values.shape[:2]) if steps is None else steps.double()
    mean = (values * measured[:, :, None]).sum(1) / measured.sum(1).clamp_min(1)[:, None]
    last = (measured * torch.arange(1, values.shape[1] + 1, device=values.device)).argmax(1)
    return torch.cat([mean, values[torch.arange(len(values)), last]], dim=1)


def _outputs(reference: Reference, task: Task, fold: Fold, learn: Table, held_out: Table) -> Table:
    """float64 (n, C) outputs of the held-out rows, as `metrics.of_members` takes them."""
    fit = {"none": _constant, "linear": _linear, "boosting": _boosting}[reference](task)
    first = fold.first[task.name]
    columns = range(first, first + (task.n_outputs if task.kind == "multilabel" else 1))
    outputs = []
    for column in columns:
        rows = fold.train.labelled[column].numpy() > 0
        labels = fold.train.targets[column].double().numpy()[rows]
        if task.kind != "regression" and len(np.unique(labels)) < 2:
            fitted = np.zeros((len(held_out), task.n_outputs if task.kind == "multiclass" else 1))
        else:
            fitted = fit(learn[rows], labels, held_out)
        outputs.append(fitted.reshape(len(held_out), -1))
    return np.concatenate(outputs, axis=1)


def _constant(task: Task) -> Fit:
    """The same for everybody: the prevalence of each class, or the mean."""

    def fit(inputs: Table, labels: Table, new: Table) -> Table:
        shares = np.array([(labels == label).mean() for label in range(task.n_outputs)])
        value = shares if task.kind == "multiclass" else np.array([labels.mean()])
        return np.tile(value, (len(new), 1))

    return fit


def _linear(task: Task) -> Fit:
    """Ridge regression, or logistic regression with an L2 penalty; its strength by cross-validation."""

    def fit(inputs: Table, labels: Table, new: Table) -> Table:
        if task.kind == "regression":
            return np.asarray(RidgeCV(_STRENGTHS).fit(inputs, labels).predict(new))
        scarce = np.unique(labels, return_counts=True)[1].min() < 3
        with warnings.catch_warnings():
            # A fit that is not quite at its end is a good reference all the same, and a bound keeps wide tables quick.
            warnings.simplefilter("ignore", ConvergenceWarning)
            warnings.simplefilter("ignore", FutureWarning)
            if scarce or inputs.size > _MANY_VALUES:
                model: Any = LogisticRegression(C=0.01, max_iter=200)
            else:
                model = LogisticRegressionCV(Cs=_INVERSE_STRENGTHS, cv=3, scoring="neg_log_loss", max_iter=200)
            return _by_class(model.fit(inputs, labels), new, task)

    return fit


def _boosting(task: Task) -> Fit:
    """Gradient-boosted trees with fixed settings."""

    def fit(inputs: Table, labels: Table, new: Table) -> Table:
        if task.kind == "regression":
            return np.asarray(
                HistGradientBoostingRegressor(**_BOOSTING, random_state=0).fit(inputs, labels).predict(new)
            )
        return _by_class(HistGradientBoostingClassifier(**_BOOSTING, random_state=0).fit(inputs, labels), new, task)

    return fit


def _by_class(model: Any, new: Table, task: Task) -> Table:
    """(n, 1) probability of a yes, or (n, n_outputs) of each class, 0 of one that the training rows lack."""
    chances = np.asarray(model.predict_proba(new))
    if task.kind != "multiclass":
        return chances[:, 1:2]
    whole = np.zeros((len(new), task.n_outputs))
    whole[:, model.classes_.astype(int)] = chances
    return whole
