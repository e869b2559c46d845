"""A trained combination as one value that predicts new rows: preprocessing, parameters and scales inside.

What a model keeps of its cohort are aggregates: means, spreads, level names, counts and parameters, never a row.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.cohorts.cohort import Modality
from model.data.folds import Fold, Rows, supervised_tasks, target_rows
from model.data.preprocess import Preprocessor
from model.data.unread import prepare
from model.networks.contract import Layout, Network, Shape, layout, n_logits
from model.networks.settings import TrainingSettings
from model.scoring import clustering
from model.trained import files
from model.trained.new_rows import PredictionWarning, read_rows, table_columns
from model.trained.parts import SEVERAL, Array, Exported, Inputs, Member
from model.training.pack import PackModel
from model.training.precision import DTYPES
from model.training.predicting import Predictions, predict
from tim_search.types import Task

#: Column of every prediction that names the modalities the row lacks.
ABSENT = "absent_modalities"

#: How many times the bytes of the parameters that a file has its settings may ask for, and how many beside that.
_MOST_TIMES, _MOST_BYTES = 100, 1 << 28


@dataclass(frozen=True, eq=False)
class DeployedModel:
    """A combination of tasks, trained once or with several seeds, ready to predict.

    Attributes:
        source: the task the combination was chosen for.
        tasks: of the combination, by name.
        classes: class names of the binary (negative, positive) and multiclass tasks, label names of multilabel ones.
        scales: (mean, spread) of the regression tasks' training labels.
        network, settings: what was trained and how; `machine` is the network itself.
        inputs: the modalities, in the order of the network.
        preprocessor: fitted on the training part.
        members: one a seed; a task's predictions are averaged over those that have it, and the first one's clusters are
            given.
        about: where the model comes from: plain JSON.
        table: how a table to predict is read, and which of its columns are left out.
    """

    source: str
    tasks: Mapping[str, Task]
    classes: Mapping[str, tuple[str, ...]]
    scales: Mapping[str, tuple[float, float]]
    network: str
    settings: TrainingSettings
    inputs: tuple[Inputs, ...]
    preprocessor: Preprocessor
    members: tuple[Member, ...]
    about: Mapping[str, Any]
    machine: Network
    table: Exported = field(default_factory=Exported)

    @property
    def columns(self) -> dict[str, tuple[str, str]]:
        """Name in a table -> (modality, column): the bare column where no other modality has one of that name.

        A sequence or an image is one column, which is named as the modality: (modality, modality).
        """
        return table_columns(self.inputs)

    @property
    def outputs(self) -> dict[str, str]:
        """Column of a prediction -> "probability", "value", "cluster" or "text"."""
        contents: dict[str, str] = {}
        for name, task in self.tasks.items():
            if task.kind in SEVERAL:
                contents |= {f"{name}={label}": "probability" for label in self.classes[name]}
            else:
                contents[name] = {"binary": "probability", "regression": "value", "clustering": "cluster"}[task.kind]
        return {**contents, ABSENT: "text"}

    def example(self) -> pd.DataFrame:
        """One made-up row: rounded means and first levels, not a patient's."""
        values = {
            (modality.name, column): value
            for modality in self.inputs
            for column, value in zip(modality.cells, modality.example(), strict=True)
        }
        return pd.DataFrame({name: [values[place]] for name, place in self.columns.items()})

    def predict(self, rows: pd.DataFrame, *, ignore_extra: bool = False) -> pd.DataFrame:
        """Predictions for new rows.

        Args:
            rows: one row a sample, columns in any order, named by `columns` or as `modality.column`. Numbers, or the
                text of a level; missing cells mean not measured. Where all columns of a modality are left out, or all
                its cells of a row are missing, the modality is absent. A cell of a sequence is a list of at most T
                steps of c numbers, of an image c lists of H lists of W numbers, or the c * H * W numbers in one list;
                arrays do as well. None and NaN inside are not measured, as are the steps after the last one given.
                Cells are read by the rules of the cohort (`table`), and its columns that are no input are left out.
            ignore_extra: leaves out columns that nobody knows, too.

        Returns:
            A frame with the same index and the columns `outputs`: the probability of the positive class (binary), of
            each class (multiclass) or label (multilabel), a value in the unit of the labels (regression), the number of
            a cluster from 0 (clustering), and the names of the modalities that the row lacks. A row that lacks them
            all is not predicted: its cells are missing.

        Raises:
            BadInput: unknown columns, a column given twice, some columns of a modality without the others, text or a
                time where a number belongs, an infinite number, a sequence or an image of another shape, or no column
                of the model at all.

        Warns:
            PredictionWarning: levels the model does not know, taken as not measured; rows without any modality.
        """
        modalities = read_rows(rows, self.inputs, self.table, ignore_extra=ignore_extra)
        present = np.stack([modality.present for modality in modalities.values()], axis=1)
        blank = np.asarray(~present.any(axis=1))
        if blank.any():
            warnings.warn(
                f"{int(blank.sum())} of {len(rows)} rows have no value in any column of the model; they get no "
                "prediction.",
                PredictionWarning,
                stacklevel=2,
            )
        outputs = self.network_outputs(modalities)
        table: dict[str, Any] = {}
        for name, task in self.tasks.items():
            if task.kind == "clustering":
                table[name] = pd.arrays.IntegerArray(self._clusters(name, outputs[name]), blank)
                continue
            values = np.where(blank.reshape(-1, *[1] * (outputs[name].ndim - 1)), np.nan, outputs[name])
            if task.kind in SEVERAL:
                table |= {f"{name}={label}": values[:, k] for k, label in enumerate(self.classes[name])}
            else:
                table[name] = values
        frame = pd.DataFrame(table, index=rows.index)
        names = np.array([modality.name for modality in self.inputs], dtype=object)
        frame[ABSENT] = [", ".join(names[~row]) for row in present]
        return frame

    def network_outputs(self, modalities: Mapping[str, Modality]) -> dict[str, Array]:
        """What the network gives for n samples, by task, averaged over the members.

        Returns:
            float64: binary (n,) probability; multiclass and multilabel (n, C) probabilities; regression (n,) in the
            labels' unit; clustering (n, h) latents of the first member.
        """
        rows = self._rows(modalities)
        by_member: dict[str, list[Array]] = {name: [] for name in self.tasks}
        for member in self.members if len(rows) else ():
            names, predictions = self._predictions(member, rows)
            for slot, name in enumerate(names):
                task = self.tasks[name]
                if task.kind == "clustering":
                    latents = predictions.latents[0, :, slot - predictions.logits.shape[1]]
                    by_member[name].append(latents.double().cpu().numpy())
                else:
                    logits = predictions.logits[0, slot, :, : n_logits(task)].double().cpu()
                    by_member[name].append(self._in_unit(task, logits))
        return {
            name: (parts[0] if self.tasks[name].kind == "clustering" else np.mean(parts, axis=0))
            if parts
            else np.zeros((0, n_logits(self.tasks[name])) if self.tasks[name].kind in SEVERAL else 0)
            for name, parts in by_member.items()
        }

    def save(self, folder: str | Path) -> None:
        """Write model.json and parameters.npz into a folder, which is made; raises BadInput where that fails."""
        files.write(Path(folder), {field.name: getattr(self, field.name) for field in dataclasses.fields(self)})

    @classmethod
    def load(cls, folder: str | Path, *, allow_code: bool = False) -> DeployedModel:
        """Read what `save` wrote.

        The model of a network of one's own needs its code, which is imported where `allow_code` says so.

        Raises:
            BadInput: there is no model, one of another format, one that is damaged or whose parts do not fit, or one
                of a network of one's own without permission.
        """
        folder = Path(folder)
        model = cls(**files.read(folder, allow_code=allow_code))
        with files.damage_told(folder):
            model._check()
        return model

    # ------------------------------------------------------------------------------------------ inside

    def _check(self) -> None:
        """Raise ValueError where a member's parameters are not those of the network, or predict no finite number."""
        example = self.example()
        modalities = read_rows(example, self.inputs)
        rows = self._rows(modalities)
        for number, member in enumerate(self.members):
            plan, fold = self._plan(member, rows)
            inputs = tuple(tuple(x.shape[1:]) for x in rows.inputs)
            shape = Shape(plan.tasks, plan.clustering, plan.outputs, inputs, (1, 1))
            held = sum(value.numel() * value.element_size() for value in member.values.values())
            # Invented settings may ask for any number of parameters: none is made before that is known.
            if (self.machine.member_bytes(shape, self.settings) or 0) > _MOST_TIMES * held + _MOST_BYTES:
                raise ValueError(f"members: the settings want more parameters than number {number} has")
            wanted = self.machine.initialise(plan, self.tasks, fold, 0, self.settings)
            if {name: value.shape for name, value in wanted.items()} != {
                name: value.shape for name, value in member.values.items()
            }:
                raise ValueError(f"members: the parameters of number {number} are not those of the network")
        predicted = self.predict(example).drop(columns=ABSENT)
        if not np.isfinite(predicted.to_numpy(np.float64, na_value=np.nan)).all():
            raise ValueError("its parameters give no finite prediction")

    def _rows(self, modalities: Mapping[str, Modality]) -> Rows:
        """The network's inputs of samples without labels."""
        own = {modality.name: modalities[modality.name] for modality in self.inputs}
        present = np.stack([modality.present for modality in own.values()], axis=1)
        dtype = DTYPES[self.settings.precision]
        unlabelled = torch.zeros(target_rows(self.tasks)[1], len(present), dtype=dtype)
        everybody = np.ones(len(present), bool)
        prepared = prepare(self.preprocessor, own)
        inputs, steps, unread = prepared.rows(everybody, dtype, torch.device("cpu"))
        there = None if present.all() else torch.from_numpy(present)
        return Rows(inputs, there, unlabelled, unlabelled, steps, unread)

    def _in_unit(self, task: Task, logits: Tensor) -> Array:
        """What (n, C) logits of a supervised task say, in the labels' unit; see `network_outputs`."""
        if task.kind == "multiclass":
            return np.asarray(logits.softmax(1).numpy())
        if task.kind == "regression":
            mean, spread = self.scales[task.name]
            return np.asarray(mean + spread * logits[:, 0].numpy())
        chance = logits.sigmoid().numpy()
        return np.asarray(chance if task.kind == "multilabel" else chance[:, 0])

    def _predictions(self, member: Member, rows: Rows) -> tuple[tuple[str, ...], Predictions]:
        """The names of a member's slots, and its outputs."""
        plan, _ = self._plan(member, rows)
        return plan.names[0], predict(PackModel(self.machine, self.settings, plan, dict(member.values)), rows)

    def _plan(self, member: Member, rows: Rows) -> tuple[Layout, Fold]:
        """Which task sits where in a member, and the rows as a fold without labels."""
        first, _ = target_rows(self.tasks)
        fold = Fold(rows, rows, supervised_tasks(list(self.tasks.values())), np.ones((1, len(rows))), first)
        return layout([member.tasks], self.tasks, fold, torch.device("cpu")), fold

    def _clusters(self, name: str, latents: Array) -> NDArray[np.int64]:
        """int64 (n,) numbers of the nearest centres of (n, h) latents."""
        if not len(latents):
            return np.zeros(0, np.int64)
        first = next(member for member in self.members if name in member.tasks)
        points, centres = torch.from_numpy(latents), torch.from_numpy(first.centres[name])
        return clustering.nearest(points.unsqueeze(0), centres.unsqueeze(0))[0].numpy()
