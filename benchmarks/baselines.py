"""Simple models of every SUPPORT2 task, one at a time, and single-task M3H beside them: is the network within reach?

Logistic or ridge regression and gradient boosting (scikit-learn), on the inputs the task allows, fitted on the
training rows of one fold and scored on its validation rows by the task's metric. The test patients are never read.

    python -m benchmarks.baselines [--cohort support2] [--fold 0 | --all-folds] [--epochs 15 30]
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import r2_score, roc_auc_score

from model.cohorts.cohort import Cohort
from model.data.preprocess import fit
from model.networks.settings import M3HSettings
from model.sources.opening import open_cohort
from model.training.trainer import TrainingPayload, trainer
from tim_search.types import Pack, Task, Unit

Array = NDArray[np.floating]


def score(task: Task, truth: Array, predicted: Array) -> float:
    """The task's metric: AUROC, macro one-vs-rest AUROC over the classes of the rows, or R2."""
    if task.kind == "regression":
        return float(r2_score(truth, predicted))
    if task.kind == "binary":
        return float(roc_auc_score(truth, predicted[:, 1]))
    areas = [roc_auc_score(truth == code, predicted[:, code]) for code in np.unique(truth).astype(int)]
    return float(np.mean(areas))


def models(task: Task) -> dict[str, object]:
    """Unfitted models, by name."""
    if task.kind == "regression":
        return {
            "linear": Ridge(alpha=10.0),
            "boosting": HistGradientBoostingRegressor(max_iter=150, learning_rate=0.06, random_state=0),
        }
    return {
        "linear": LogisticRegression(C=0.1, max_iter=2000),
        "boosting": HistGradientBoostingClassifier(max_iter=150, learning_rate=0.06, random_state=0),
    }


def baselines(cohort: Cohort, task: Task, folds: Sequence[int]) -> dict[str, float]:
    """Validation score of each model, mean over the folds, and the number of labelled training rows."""
    seen = cohort.for_tasks([task.name])
    label = seen.labels[task.name]
    known = ~np.isnan(label)
    found: dict[str, list[float]] = {}
    for fold in folds:
        learning, judging = seen.split.train(fold) & known, seen.split.validation(fold) & known
        inputs = fit(seen, seen.split.train(fold)).transform(seen)
        features = np.concatenate(list(inputs.values()), axis=1)
        for name, model in models(task).items():
            model.fit(features[learning], label[learning])  # type: ignore[attr-defined]
            predict = model.predict if task.kind == "regression" else model.predict_proba  # type: ignore[attr-defined]
            found.setdefault(name, []).append(score(task, label[judging], predict(features[judging])))
    return {"rows": float((seen.split.train(folds[0]) & known).sum())} | {
        name: float(np.mean(values)) for name, values in found.items()
    }


def single_task_m3h(cohort: Cohort, task: Task, folds: Sequence[int], epochs: int) -> float:
    """Validation score of M3H trained on this task alone with default settings, mean over the folds (seed 0)."""
    payload = TrainingPayload(cohort.for_tasks([task.name]), "m3h", M3HSettings(epochs=epochs, replicates=0), "cpu", 1)
    worker = trainer(payload)
    packs = [Pack((Unit((task.name,), 0, fold),)) for fold in folds]
    return float(np.mean([row.value for pack in packs for row in worker.train(pack).scores if row.primary]))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cohort", default="support2", help='"support2" or a cohort folder')
    parser.add_argument("--fold", type=int, default=0, help="the fold to validate on (default 0)")
    parser.add_argument("--all-folds", action="store_true", help="the mean over every fold")
    parser.add_argument("--epochs", type=int, nargs="*", default=[15], help="single-task M3H with so many epochs each")
    arguments = parser.parse_args()
    cohort = open_cohort(arguments.cohort)
    folds = range(cohort.split.n_folds) if arguments.all_folds else [arguments.fold]
    where = "mean of all folds" if arguments.all_folds else f"fold {arguments.fold}"
    columns = ["task", "metric", "labelled rows", "linear", "boosting", *(f"M3H, {n} epochs" for n in arguments.epochs)]
    table = Table(*columns, title=f"{cohort.name}, validation, {where}")
    for task in cohort.tasks.values():
        if task.kind in ("binary", "multiclass", "regression"):
            found = baselines(cohort, task, list(folds))
            rows, linear, boosting = f"{found['rows']:.0f}", f"{found['linear']:.3f}", f"{found['boosting']:.3f}"
            networks = [f"{single_task_m3h(cohort, task, list(folds), n):.3f}" for n in arguments.epochs]
            table.add_row(task.name, task.metric, rows, linear, boosting, *networks)
    Console().print(table)


if __name__ == "__main__":
    main()
