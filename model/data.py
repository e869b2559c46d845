"""One fold of a cohort as tensors: inputs standardised on its training rows, targets, masks, bootstrap weights.

All members of a pack share a fold, hence these tensors and every minibatch drawn from them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.cohort import Cohort
from model.preprocess import fit
from tim_search.types import FINAL_FOLD, BadInput, Task


@dataclass(frozen=True)
class Rows:
    """Some rows of a fold.

    Attributes:
        inputs: one (n, d_m) tensor a modality, standardised; rows of an absent modality are zero.
        present: bool (n, n_modalities), or None where every row has every modality.
        targets: (n_tasks, n) labels of the supervised tasks: 0 or 1, class number, or standardised value; 0 if missing.
        labelled: (n_tasks, n), 1 where the row carries the task's label, else 0.
    """

    inputs: tuple[Tensor, ...]
    present: Tensor | None
    targets: Tensor
    labelled: Tensor

    def __len__(self) -> int:
        return self.inputs[0].shape[0]

    def take(self, index: Tensor) -> Rows:
        """The rows of an int64 index."""
        return Rows(
            tuple(x.index_select(0, index) for x in self.inputs),
            None if self.present is None else self.present.index_select(0, index),
            self.targets.index_select(1, index),
            self.labelled.index_select(1, index),
        )

    def split(self, size: int) -> list[Rows]:
        """Consecutive views of at most `size` rows."""
        return [
            Rows(
                tuple(x[start : start + size] for x in self.inputs),
                None if self.present is None else self.present[start : start + size],
                self.targets[:, start : start + size],
                self.labelled[:, start : start + size],
            )
            for start in range(0, len(self), size)
        ]


@dataclass(frozen=True)
class Fold:
    """A fold of a cohort, ready to train on.

    Attributes:
        train, validation: the rows; of `FINAL_FOLD` the validation rows are those of the test patients.
        supervised: names of the tasks with labels, in the order of `Rows.targets`.
        weights: float64 (1 + replicates, n_validation); row 0 is all ones, the others count how often a bootstrap draw
            of the validation patients holds each row's patient. They depend on the split and the fold alone.
    """

    train: Rows
    validation: Rows
    supervised: tuple[str, ...]
    weights: NDArray[np.float64]


def supervised_tasks(tasks: Sequence[Task]) -> tuple[str, ...]:
    """Names of the tasks that have labels, sorted."""
    return tuple(sorted(task.name for task in tasks if task.kind != "clustering"))


def target_scale(labels: NDArray[np.float64], learn: NDArray[np.bool_]) -> tuple[float, float]:
    """(mean, spread) of a regression task's labels in the training rows; (0, 1) where there is none."""
    sample = labels[np.isfinite(labels) & learn]
    mean, spread = (float(sample.mean()), float(sample.std())) if len(sample) else (0.0, 1.0)
    return mean, spread if spread > 0 else 1.0


def patient_weights(patients: NDArray[np.int64], replicates: int, key: str) -> NDArray[np.float64]:
    """Bootstrap weights by patient.

    Args:
        patients: int64 (n,) patient of each row.
        replicates: number of draws R.
        key: what the draws depend on, e.g. the split's digest and the fold.

    Returns:
        float64 (1 + R, n): ones, then for each draw how often the row's patient was drawn.
    """
    _, code = np.unique(patients, return_inverse=True)
    count = int(code.max()) + 1 if len(code) else 0
    dice = np.random.default_rng(np.frombuffer(key.encode(), dtype=np.uint8))
    weights = np.ones((1 + replicates, len(patients)))
    for draw in range(replicates):
        weights[1 + draw] = np.bincount(dice.integers(0, count, count), minlength=count)[code]
    return weights


def load_fold(cohort: Cohort, fold: int, *, dtype: torch.dtype, device: torch.device, replicates: int) -> Fold:
    """Fold `fold` of the cohort's training part: its rows validate, the other folds' rows train.

    `FINAL_FOLD` trains on the whole training part, and the test patients take the place of the validation rows. The
    preprocessing and the scale of the regression targets are fitted on the training rows alone.

    Raises:
        BadInput: the cohort has no such fold.
    """
    if fold != FINAL_FOLD and not 0 <= fold < cohort.split.n_folds:
        raise BadInput(
            f"fold: expected 0 to {cohort.split.n_folds - 1} (the cohort {cohort.name} is split into "
            f"{cohort.split.n_folds} folds), got {fold}. Choose one of them."
        )
    learn = cohort.split.train(fold)
    judge = cohort.split.test if fold == FINAL_FOLD else cohort.split.validation(fold)
    matrices = fit(cohort, learn).transform(cohort)
    names = list(cohort.modalities)
    present = np.stack([cohort.modalities[name].present for name in names], axis=1)
    supervised = supervised_tasks(list(cohort.tasks.values()))
    targets = np.zeros((len(supervised), len(present)))
    labelled = np.zeros_like(targets)
    for row, name in enumerate(supervised):
        values = np.asarray(cohort.labels[name], dtype=np.float64)
        known = np.isfinite(values)
        if cohort.tasks[name].kind == "regression":
            mean, spread = target_scale(values, learn)
            values = (values - mean) / spread
        targets[row] = np.where(known, values, 0.0)
        labelled[row] = known

    def rows(chosen: NDArray[np.bool_]) -> Rows:
        def tensor(array: NDArray[np.generic], kind: torch.dtype = dtype) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(array)).to(device=device, dtype=kind)

        mask = present[chosen]
        return Rows(
            tuple(tensor(matrices[name][chosen]) for name in names),
            None if mask.all() else tensor(mask, torch.bool),
            tensor(targets[:, chosen]),
            tensor(labelled[:, chosen]),
        )

    weights = patient_weights(cohort.patients[judge], replicates, f"{cohort.split.digest} fold {fold}")
    return Fold(rows(learn), rows(judge), supervised, weights)
