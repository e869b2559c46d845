"""Small made-up folds and tasks of every problem class, with absent modalities and missing labels, for model tests."""

from __future__ import annotations

import numpy as np
import torch

from model.data.folds import Fold, Rows, patient_weights
from tim_search.types import Task

TASKS = {
    task.name: task
    for task in (
        Task("ill", "binary"),
        Task("rare", "binary"),
        Task("ward", "multiclass", n_outputs=4),
        Task("stage", "multiclass", n_outputs=3),
        Task("stay", "regression"),
        Task("cost", "regression"),
        Task("group", "clustering", n_outputs=5),
    )
}


def make_fold(
    *,
    rows: int = 150,
    held_out: int = 80,
    widths: tuple[int, ...] = (5, 9, 4),
    missing: float = 0.2,
    dtype: torch.dtype = torch.float64,
    replicates: int = 6,
    seed: int = 0,
) -> Fold:
    """A fold whose tasks depend on shared latent factors; `missing` is the share of absent modalities and labels."""
    dice = np.random.default_rng(seed)
    n = rows + held_out
    factors = dice.normal(size=(n, 3))
    inputs = [factors @ dice.normal(size=(3, width)) + dice.normal(size=(n, width)) for width in widths]
    present = dice.random((n, len(widths))) >= missing
    present[~present.any(1), 0] = True
    for number, x in enumerate(inputs):
        x[~present[:, number]] = 0.0
    names = sorted(name for name, task in TASKS.items() if task.kind != "clustering")
    targets = np.zeros((len(names), n))
    for row, name in enumerate(names):
        signal = factors @ dice.normal(size=3) + 0.3 * dice.normal(size=n)
        task = TASKS[name]
        if task.kind == "binary":
            targets[row] = signal > (1.7 * signal.std() if name == "rare" else 0.0)
        elif task.kind == "multiclass":
            targets[row] = np.digitize(signal, np.quantile(signal, np.arange(1, task.n_outputs) / task.n_outputs))
        else:
            targets[row] = (signal - signal.mean()) / signal.std()
    labelled = (dice.random(targets.shape) >= missing).astype(float)
    targets *= labelled

    def part(where: slice) -> Rows:
        mask = present[where]
        return Rows(
            tuple(torch.tensor(x[where], dtype=dtype) for x in inputs),
            None if mask.all() else torch.tensor(mask),
            torch.tensor(targets[:, where], dtype=dtype),
            torch.tensor(labelled[:, where], dtype=dtype),
        )

    patients = np.arange(held_out) // 2
    return Fold(
        part(slice(0, rows)), part(slice(rows, n)), tuple(names), patient_weights(patients, replicates, f"fold {seed}")
    )
