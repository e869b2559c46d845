"""One fold of a cohort as tensors: inputs standardised on its training rows, targets, masks, bootstrap weights.

All members of a pack share a fold, hence these tensors and every minibatch drawn from them.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.cohorts.cohort import Cohort, text
from model.cohorts.stored import ahead
from model.data import few_patients
from model.data.preprocess import fit
from model.data.unread import Unread, prepare
from tim_search.types import FINAL_FOLD, BadInput, Task


@dataclass(frozen=True)
class Rows:
    """Some rows of a fold.

    Attributes:
        inputs: one tensor a modality, standardised: (n, d_m) of a vector, (n, T, c) of a sequence, (n, c, H, W) of an
            image; rows of an absent modality are zero.
        present: bool (n, n_modalities), or None where every row has every modality.
        targets: (n_columns, n) labels of the supervised tasks: 0 or 1, class number, or standardised value; 0 where
            missing. A multilabel task has a row for each of its labels, every other task has one.
        labelled: (n_columns, n), 1 where the row carries the label, else 0.
        steps: one a modality: bool (n, T), which steps of a sequence hold a measured value; None of other kinds. Empty
            where no modality is a sequence.
        unread: what stays on disk of the inputs until `split` reads it; before, NaN stands in their places.
    """

    inputs: tuple[Tensor, ...]
    present: Tensor | None
    targets: Tensor
    labelled: Tensor
    steps: tuple[Tensor | None, ...] = ()
    unread: Unread | None = None

    def __len__(self) -> int:
        return self.inputs[0].shape[0]

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """The shape of one row's input of each modality."""
        return [tuple(x.shape[1:]) for x in self.inputs]

    def seen_cells(self) -> Tensor:
        """(n, D) of rows of vectors, 1 where an input belongs to a modality that the row has, else 0."""
        cells = [x.new_ones(x.shape) for x in self.inputs]
        if self.present is not None:
            cells = [own * self.present[:, number, None] for number, own in enumerate(cells)]
        return torch.cat(cells, dim=1)

    def take(self, index: Tensor) -> Rows:
        """The rows of an int64 index."""
        unread = None if self.unread is None else self.unread.take(index)
        blanks = {} if unread is None else unread.blanks()
        return self._each(lambda x: x.index_select(0, index), lambda x: x.index_select(1, index), blanks, unread)

    def split(self, size: int) -> Iterable[Rows]:
        """Consecutive views of at most `size` rows; what was unread is read, the next part while one is used."""
        places = [slice(start, start + size) for start in range(0, len(self), size)]
        if self.unread is None:
            return [self._part(where) for where in places]
        return ahead(functools.partial(self._part, where) for where in places)

    def _part(self, where: slice) -> Rows:
        parts = {} if self.unread is None else self.unread.read(where)
        inputs = {number: values for number, (values, _) in parts.items()}
        part = self._each(lambda x: x[where], lambda x: x[:, where], inputs, None)
        if all(measured is None for _, measured in parts.values()):
            return part
        steps = list(part.steps or [None] * len(self.inputs))
        for number, (_, measured) in parts.items():
            steps[number] = measured
        return replace(part, steps=tuple(steps))

    def _each(
        self,
        by_row: Callable[[Tensor], Tensor],
        by_column: Callable[[Tensor], Tensor],
        given: Mapping[int, Tensor],
        unread: Unread | None,
    ) -> Rows:
        """Rows made of these, but for the inputs that are given by the number of their modality."""
        return Rows(
            tuple(given[number] if number in given else by_row(x) for number, x in enumerate(self.inputs)),
            None if self.present is None else by_row(self.present),
            by_column(self.targets),
            by_column(self.labelled),
            tuple(None if x is None else by_row(x) for x in self.steps),
            unread,
        )


@dataclass(frozen=True)
class Fold:
    """A fold of a cohort, ready to train on.

    Attributes:
        train, validation: the rows; of `FINAL_FOLD` the validation rows are those of the test patients.
        supervised: names of the tasks with labels, in the order of `Rows.targets`.
        weights: float64 (1 + replicates, n_validation); row 0 is all ones, the others count how often a bootstrap draw
            of the validation patients holds each row's patient. They depend on the split and the fold alone.
        first: row of `Rows.targets` in which each task's labels begin; by default every task has one row.
        stopping: rows of training patients that `train` lacks, by which training chooses its epoch; None where it does
            not choose. They are no validation rows: a score is never read from rows that chose something.
    """

    train: Rows
    validation: Rows
    supervised: tuple[str, ...]
    weights: NDArray[np.float64]
    first: Mapping[str, int] = field(default_factory=dict)
    stopping: Rows | None = None

    def __post_init__(self) -> None:
        if not self.first:
            object.__setattr__(self, "first", {name: row for row, name in enumerate(self.supervised)})

    @functools.cached_property
    def weights_by_row(self) -> Tensor:
        """float64 (n_validation, 1 + replicates), `weights` where the rows are."""
        return torch.from_numpy(np.ascontiguousarray(self.weights.T)).to(self.validation.targets.device)

    @functools.cached_property
    def labels(self) -> NDArray[np.float64]:
        """float64 (n_columns, n_validation), `targets` of the validation rows on the host; NaN: no label."""
        targets, labelled = self.validation.targets.double().cpu().numpy(), self.validation.labelled.cpu().numpy()
        return np.where(labelled > 0, targets, np.nan)

    @functools.cached_property
    def truths(self) -> dict[str, Any]:
        """What outputs for the validation rows are scored by, of the tasks that have been scored so far."""
        return {}


def target_rows(tasks: Mapping[str, Task]) -> tuple[dict[str, int], int]:
    """The row of `Rows.targets` in which each supervised task's labels begin, and the number of rows."""
    first, count = {}, 0
    for name in supervised_tasks(list(tasks.values())):
        first[name] = count
        count += tasks[name].n_outputs if tasks[name].kind == "multilabel" else 1
    return first, count


def supervised_tasks(tasks: Sequence[Task]) -> tuple[str, ...]:
    """Names of the tasks that have labels, sorted."""
    return tuple(sorted(task.name for task in tasks if task.kind != "clustering"))


def target_scale(labels: NDArray[np.float64], learn: NDArray[np.bool_], few: int = 0) -> tuple[float, float]:
    """(mean, spread) of a regression task's labels in the training rows; (0, 1) where there is none.

    With `few` neither tells a count of fewer patients (`model.data.few_patients`).
    """
    sample = labels[np.isfinite(labels) & learn]
    if few:
        return few_patients.scale_of_labels(np.asarray(sample, np.float64), few, len(labels))
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


def stopping_patients(cohort: Cohort, learn: NDArray[np.bool_], share: float, key: str) -> NDArray[np.bool_]:
    """Which of the training samples are set aside to choose the epoch: those of a share of the training patients.

    Args:
        learn: bool (n,), the training samples.
        share: of their patients; at least one patient is set aside where it is above 0 and one stays.
        key: what the choice depends on beside the patients' ids.

    Returns:
        bool (n,)
    """
    chosen = np.zeros(len(learn), bool)
    codes = np.unique(cohort.patients[learn])
    count = min(len(codes) - 1, max(1, round(share * len(codes)))) if share else 0
    if count > 0:
        names = [text(cohort.patient_ids[code]) for code in codes.tolist()]
        drawn = [hashlib.sha256(f"{key} stopping {name}".encode()).hexdigest() for name in names]
        chosen = learn & np.isin(cohort.patients, codes[np.argsort(drawn, kind="stable")[:count]])
    return chosen


def load_fold(
    cohort: Cohort,
    fold: int,
    *,
    dtype: torch.dtype,
    device: torch.device,
    replicates: int,
    stop_share: float = 0.0,
    few: int = 0,
    drawn_by: str = "",
) -> Fold:
    """Fold `fold` of the cohort's training part: its rows validate, the other folds' rows train.

    `FINAL_FOLD` trains on the whole training part, and the test patients take the place of the validation rows. The
    preprocessing and the scale of the regression targets are fitted on the training rows alone, those that
    `stop_share` sets aside among them; with `few` such that neither tells a count of fewer patients. The bootstrap
    weights hang on the fold and on `drawn_by`, by default the split's digest, which is no secret.

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
    prepared = prepare(fit(cohort, learn, few), cohort.modalities)
    present = np.stack([modality.present for modality in cohort.modalities.values()], axis=1)
    targets, labelled = _targets(cohort, learn, few)

    def rows(chosen: NDArray[np.bool_]) -> Rows:
        def tensor(array: NDArray[np.generic], kind: torch.dtype = dtype) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(array)).to(device=device, dtype=kind)

        mask = present[chosen]
        inputs, steps, unread = prepared.rows(chosen, dtype, device)
        there = None if mask.all() else tensor(mask, torch.bool)
        return Rows(inputs, there, tensor(targets[:, chosen]), tensor(labelled[:, chosen]), steps, unread)

    set_aside = stopping_patients(cohort, learn, stop_share, f"{cohort.split.digest} fold {fold}")
    stopping = rows(set_aside) if set_aside.any() else None
    weights = patient_weights(cohort.patients[judge], replicates, f"{drawn_by or cohort.split.digest} fold {fold}")
    supervised, (first, _) = supervised_tasks(list(cohort.tasks.values())), target_rows(cohort.tasks)
    return Fold(rows(learn & ~set_aside), rows(judge), supervised, weights, first, stopping)


def _targets(cohort: Cohort, learn: NDArray[np.bool_], few: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """`Rows.targets` and `Rows.labelled` of all samples, (n_columns, n); values are scaled on the rows `learn`."""
    first, count = target_rows(cohort.tasks)
    targets = np.zeros((count, len(cohort)))
    labelled = np.zeros_like(targets)
    for name, row in first.items():
        values = np.asarray(cohort.labels[name], dtype=np.float64)
        if cohort.tasks[name].kind == "regression":
            mean, spread = target_scale(values, learn, few)
            values = (values - mean) / spread
        by_label = values.reshape(len(cohort), -1).T  # one row, or one a label
        given = np.isfinite(by_label)
        at = slice(row, row + len(by_label))
        targets[at] = np.where(given, by_label, 0.0)
        labelled[at] = given
    return targets, labelled
