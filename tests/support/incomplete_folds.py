"""A small made-up fold: a vector, a sequence of uneven length and an image; tasks of every kind FlexCare takes."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from model.data.folds import Fold, Rows, patient_weights, target_rows
from tim_search.types import Task

TASKS = {
    task.name: task
    for task in (
        Task("dead", "binary"),
        Task("back", "binary"),
        Task("stay", "multiclass", n_outputs=3),
        Task("signs", "multilabel", n_outputs=4),
        Task("cost", "regression"),
    )
}
SHAPES = ((3,), (5, 2), (1, 5, 7))


def make_fold(
    *, rows: int = 120, held_out: int = 40, dtype: torch.dtype = torch.float64, one_label: bool = False, seed: int = 0
) -> Fold:
    """A fold of which a third of the rows lacks each modality; `one_label` leaves every row the label of one task."""
    dice = np.random.default_rng(seed)
    first, columns = target_rows(TASKS)

    def part(n: int) -> Rows:
        factor = dice.normal(size=(n, 2))
        present = dice.random((n, 3)) > 1 / 3
        present[~present.any(1), 1] = True
        inputs = [dice.normal(size=(n, *shape)) for shape in SHAPES]
        for number, x in enumerate(inputs):
            x += factor[:, 0].reshape(-1, *[1] * (x.ndim - 1))
            x[~present[:, number]] = 0.0
        lengths = dice.integers(1, 6, n)
        steps = np.arange(5) < lengths[:, None]
        inputs[1][~steps] = 0.0
        targets = np.zeros((columns, n))
        for name, task in TASKS.items():
            for c in range(task.n_outputs if task.kind == "multilabel" else 1):
                signal = factor[:, 0] + 0.5 * dice.normal(size=n)
                if task.kind == "multiclass":
                    signal = np.digitize(signal, [-0.5, 0.5])
                elif task.kind != "regression":
                    signal = signal > 0
                targets[first[name] + c] = signal
        labelled = (dice.random(targets.shape) > 0.2).astype(float)
        if one_label:
            whose = dice.integers(0, len(TASKS), n)
            for number, (name, task) in enumerate(sorted(TASKS.items())):
                count = task.n_outputs if task.kind == "multilabel" else 1
                labelled[first[name] : first[name] + count] = whose == number

        def tensor(x: np.ndarray) -> Tensor:
            return torch.tensor(x, dtype=dtype)

        return Rows(
            tuple(map(tensor, inputs)),
            torch.tensor(present),
            tensor(targets * labelled),
            tensor(labelled),
            (None, torch.tensor(steps), None),
        )

    weights = patient_weights(np.arange(held_out) // 2, 4, f"fold {seed}")
    names = tuple(sorted(TASKS))
    return Fold(part(rows), part(held_out), names, weights, first, part(30))


def sample_of(rows: Rows, index: int) -> list[Tensor | None]:
    """One row as the reference reads it: None for an absent modality, NaN in the steps a sequence lacks."""
    assert rows.present is not None
    found: list[Tensor | None] = []
    for number, x in enumerate(rows.inputs):
        one = x[index].clone()
        steps = rows.steps[number]
        if steps is not None:
            one[~steps[index]] = float("nan")
        found.append(one if bool(rows.present[index, number]) else None)
    return found
