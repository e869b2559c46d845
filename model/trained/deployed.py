"""A trained combination as one value that predicts new rows: preprocessing, parameters and scales inside.

`train` fits a combination on the whole training part of a cohort and has no access to the labels of the test patients;
`evaluate` judges it there. `DeployedModel.save` writes plain JSON and arrays, and reading them runs no code. What a
model keeps of its cohort are aggregates: means, spreads, level names, counts and parameters, never a row.
"""

from __future__ import annotations

import difflib
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.cohorts.cohort import Cohort, Modality, ModalityKind, text
from model.data.folds import Fold, Rows, measured_steps, patient_weights, supervised_tasks, target_rows, target_scale
from model.data.preprocess import Preprocessor, Transform, fit
from model.networks import registry as networks
from model.networks.contract import Network, layout, n_logits
from model.networks.settings import TrainingSettings
from model.scoring import clustering, metrics
from model.trained.cells import fill
from model.training.fitting import fit_pack
from model.training.pack import PackModel
from model.training.precision import DTYPES
from model.training.predicting import Predictions, predict
from model.training.trainer import PackTrainer, TrainingPayload
from tim_search.types import FINAL_FOLD, BadInput, Pack, Subset, Task, Unit

#: Format 1 knew vectors and had no multilabel task; it is still read.
FORMAT, READS = 2, (1, 2)

#: Column of every prediction that names the modalities the row lacks.
ABSENT = "absent_modalities"

#: Draws of the bootstrap by patient behind a test score's interval, and of the M3H paper's (section 5.1), which it
#: reports as the SD over five draws of 90 % of the test rows.
DRAWS, PAPER_DRAWS, PAPER_SHARE = 1000, 5, 0.9

#: Kinds of task whose prediction has a column for each class or label.
_SEVERAL = ("multiclass", "multilabel")

Array = NDArray[np.float64]


class PredictionWarning(UserWarning):
    """Something in the rows to predict that the model had to leave out."""


@dataclass(frozen=True)
class Inputs:
    """One modality of the rows a model reads.

    Attributes:
        name: of the modality.
        columns: in the order of the network; the channels of a sequence, () of an image.
        levels: categorical column -> its level names, in code order.
        dtype: "float32" or "float64", as in the cohort: the same value must become the same input.
        examples: a made-up value of each column or channel, from the mean of the training rows or the first level.
        kind: "vector", "sequence" or "image".
        shape: of one row: (p,), (T, c) or (c, H, W).
    """

    name: str
    columns: tuple[str, ...]
    levels: Mapping[str, tuple[str, ...]]
    dtype: str
    examples: tuple[float | str, ...]
    kind: ModalityKind
    shape: tuple[int, ...]

    @property
    def cells(self) -> tuple[str, ...]:
        """Its columns in a table: a vector's own; a sequence or an image is one column, named as the modality."""
        return self.columns if self.kind == "vector" else (self.name,)

    def example(self) -> list[Any]:
        """A made-up value of each of `cells`: of a sequence one step, of an image one colour."""
        if self.kind == "vector":
            return list(self.examples)
        if self.kind == "sequence":
            return [[list(self.examples)]]
        _, height, width = self.shape
        return [[[[value] * width] * height for value in self.examples]]


@dataclass(frozen=True, eq=False)
class Member:
    """What one seed learnt: parameters with a leading axis of 1, the k-means centres of each clustering task, and the
    tasks it predicts."""

    values: Mapping[str, Tensor]
    centres: Mapping[str, Array]
    tasks: Subset


@dataclass(frozen=True)
class TestScore:
    """One task's score on the test patients.

    Attributes:
        task, metric: which score; higher is better.
        value: on all test rows that carry the label; NaN where there is none, and `why` says so.
        sd: standard deviation over five draws of 90 % of the test rows with replacement, as the M3H paper reports.
        low, high: 2.5 and 97.5 percentiles of 1,000 bootstrap draws of patients.
        rows: test rows that were judged.
    """

    __test__ = False  # pytest would take it for a test

    task: str
    metric: str
    value: float
    sd: float
    low: float
    high: float
    rows: int
    why: str = ""


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

    @property
    def columns(self) -> dict[str, tuple[str, str]]:
        """Name in a table -> (modality, column): the bare column where no other modality has one of that name.

        A sequence or an image is one column, which is named as the modality: (modality, modality).
        """
        every = [(inputs, column) for inputs in self.inputs for column in inputs.cells]
        bare = [column for _, column in every]
        return {
            column if bare.count(column) == 1 or inputs.kind != "vector" else f"{inputs.name}.{column}": (
                inputs.name,
                column,
            )
            for inputs, column in every
        }

    @property
    def outputs(self) -> dict[str, str]:
        """Column of a prediction -> "probability", "value", "cluster" or "text"."""
        found: dict[str, str] = {}
        for name, task in self.tasks.items():
            if task.kind in _SEVERAL:
                found |= {f"{name}={label}": "probability" for label in self.classes[name]}
            else:
                found[name] = {"binary": "probability", "regression": "value", "clustering": "cluster"}[task.kind]
        return {**found, ABSENT: "text"}

    def example(self) -> pd.DataFrame:
        """One made-up row: rounded means and first levels, not a patient's."""
        values = {
            (one.name, column): value
            for one in self.inputs
            for column, value in zip(one.cells, one.example(), strict=True)
        }
        return pd.DataFrame({name: [values[at]] for name, at in self.columns.items()})

    def predict(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Predictions for new rows.

        Args:
            rows: one row a sample, columns in any order, named by `columns` or as `modality.column`. Numbers, or the
                text of a level; missing cells mean not measured. Where all columns of a modality are left out, or all
                its cells of a row are missing, the modality is absent. A cell of a sequence is a list of at most T
                steps of c numbers, of an image c lists of H lists of W numbers, or the c * H * W numbers in one list;
                arrays do as well. None and NaN inside are not measured, as are the steps after the last one given.

        Returns:
            A frame with the same index and the columns `outputs`: the probability of the positive class (binary), of
            each class (multiclass) or label (multilabel), a value in the unit of the labels (regression), the number of
            a cluster from 0 (clustering), and the names of the modalities that the row lacks. A row that lacks them
            all is not predicted: its cells are missing.

        Raises:
            BadInput: unknown columns, a column given twice, some columns of a modality without the others, text where
                a number belongs, an infinite number, a sequence or an image of another shape, or no column of the model
                at all.

        Warns:
            PredictionWarning: levels the model does not know, taken as not measured; rows without any modality.
        """
        modalities = self._read(rows)
        present = np.stack([modality.present for modality in modalities.values()], axis=1)
        blank = np.asarray(~present.any(axis=1))
        if blank.any():
            warnings.warn(
                f"{int(blank.sum())} of {len(rows)} rows have no value in any column of the model; they get no "
                "prediction.",
                PredictionWarning,
                stacklevel=2,
            )
        said = self.said(modalities)
        table: dict[str, Any] = {}
        for name, task in self.tasks.items():
            if task.kind == "clustering":
                table[name] = pd.arrays.IntegerArray(self._clusters(name, said[name]), blank)
                continue
            values = np.where(blank.reshape(-1, *[1] * (said[name].ndim - 1)), np.nan, said[name])
            if task.kind in _SEVERAL:
                table |= {f"{name}={label}": values[:, k] for k, label in enumerate(self.classes[name])}
            else:
                table[name] = values
        frame = pd.DataFrame(table, index=rows.index)
        names = np.array([one.name for one in self.inputs], dtype=object)
        frame[ABSENT] = [", ".join(names[~row]) for row in present]
        return frame

    def said(self, modalities: Mapping[str, Modality]) -> dict[str, Array]:
        """What the network says about samples, by task, averaged over the members.

        Returns:
            float64: binary (n,) probability; multiclass and multilabel (n, C) probabilities; regression (n,) in the
            labels' unit; clustering (n, h) latents of the first member.
        """
        n = len(next(iter(modalities.values())).present)
        rows = self._rows(modalities)
        each: dict[str, list[Array]] = {name: [] for name in self.tasks}
        for member in self.members if n else ():
            names, said = self._predictions(member, rows)
            for slot, name in enumerate(names):
                task = self.tasks[name]
                if task.kind == "clustering":
                    latents = said.latents[0, :, slot - said.logits.shape[1]]
                    each[name].append(latents.double().cpu().numpy())
                else:
                    logits = said.logits[0, slot, :, : n_logits(task)].double().cpu()
                    each[name].append(self._outputs(task, logits))
        return {
            name: (parts[0] if self.tasks[name].kind == "clustering" else np.mean(parts, axis=0))
            if parts
            else np.zeros((0, n_logits(self.tasks[name])) if self.tasks[name].kind in _SEVERAL else 0)
            for name, parts in each.items()
        }

    def save(self, folder: str | Path) -> None:
        """Write model.json and parameters.npz into a folder, which is made."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        transforms = self.preprocessor.transforms
        plain = {
            "format": FORMAT,
            "source": self.source,
            "tasks": [asdict(task) for task in self.tasks.values()],
            "classes": self.classes,
            "scales": self.scales,
            "network": self.network,
            "settings": json.loads(self.settings.text),
            "inputs": [{**asdict(one), "transform": _plain(transforms[one.name])} for one in self.inputs],
            "members": [list(member.tasks) for member in self.members],
            "about": self.about,
        }
        arrays = {
            **{f"{m}.values.{k}": v.cpu().numpy() for m, one in enumerate(self.members) for k, v in one.values.items()},
            **{f"{m}.centres.{k}": v for m, one in enumerate(self.members) for k, v in one.centres.items()},
        }
        (folder / "model.json").write_text(json.dumps(plain, indent=1, ensure_ascii=False), encoding="utf-8")
        np.savez(folder / "parameters.npz", **arrays)  # type: ignore[arg-type]

    @classmethod
    def load(cls, folder: str | Path, *, allow_code: bool = False) -> DeployedModel:
        """Read what `save` wrote; raises BadInput where there is no model, or one of another format.

        The model of a network of one's own needs its code, which is imported where `allow_code` says so.
        """
        folder = Path(folder)
        try:
            plain = json.loads((folder / "model.json").read_text(encoding="utf-8"))
            if plain["format"] not in READS:
                raise BadInput(
                    f"{folder}: expected a model of format {' or '.join(map(str, READS))}, got format "
                    f"{plain['format']}. Use the version of tim-search that wrote it "
                    f"({plain['about'].get('versions', {}).get('tim-search', 'unknown')})."
                )
            with np.load(folder / "parameters.npz", allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}

            def part(prefix: str) -> dict[str, NDArray[Any]]:
                return {key.removeprefix(prefix): array for key, array in arrays.items() if key.startswith(prefix)}

            tasks = {task["name"]: Task(**{**task, "excludes": tuple(task["excludes"])}) for task in plain["tasks"]}
            members = plain["members"] if plain["format"] > 1 else [sorted(tasks)] * plain["members"]
            return cls(
                source=plain["source"],
                tasks=tasks,
                classes={name: tuple(names) for name, names in plain["classes"].items()},
                scales={name: (mean, spread) for name, (mean, spread) in plain["scales"].items()},
                network=plain["network"],
                # A list in JSON was a tuple: settings are values.
                settings=networks.settings_of(plain["network"], allow_code=allow_code)(
                    **{
                        key: tuple(value) if isinstance(value, list) else value
                        for key, value in plain["settings"].items()
                    }
                ),
                inputs=tuple(
                    Inputs(
                        one["name"],
                        tuple(one["columns"]),
                        {name: tuple(names) for name, names in one["levels"].items()},
                        one["dtype"],
                        tuple(one["examples"]),
                        one.get("kind", "vector"),
                        tuple(one.get("shape", (len(one["columns"]),))),
                    )
                    for one in plain["inputs"]
                ),
                preprocessor=Preprocessor({one["name"]: _transform(one["transform"]) for one in plain["inputs"]}),
                members=tuple(
                    Member(
                        {name: torch.from_numpy(array) for name, array in part(f"{m}.values.").items()},
                        part(f"{m}.centres."),
                        tuple(names),
                    )
                    for m, names in enumerate(members)
                ),
                about=plain["about"],
                machine=networks.find(plain["network"], allow_code=allow_code),
            )
        except OSError as error:
            raise BadInput(
                f"{folder}: cannot be read as a model ({error.strerror or error}). Name a folder that `tim-search "
                "train` wrote, or a model's URI in MLflow."
            ) from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise BadInput(
                f"{folder}: is not a whole model ({type(error).__name__}: {error}). Fetch or train it again."
            ) from error

    # ------------------------------------------------------------------------------------------ inside

    def _read(self, rows: pd.DataFrame) -> dict[str, Modality]:
        """The modalities of a table; see `predict`."""
        known = self.columns
        aliases = {**{f"{modality}.{column}": (modality, column) for modality, column in known.values()}, **known}
        names = [str(name) for name in rows.columns]
        if unknown := [name for name in names if name not in aliases]:
            near = {name: difflib.get_close_matches(name, aliases, n=1) for name in unknown}
            told = [f"{name} (did you mean {near[name][0]}?)" if near[name] else name for name in unknown[:20]]
            more = f" and {len(unknown) - 20} more" if len(unknown) > 20 else ""
            raise BadInput(
                f"columns: expected only those of the model, got unknown ones: {', '.join(told)}{more}. Rename them or "
                f"leave them out. The model reads: {', '.join(known)}."
            )
        at = {aliases[name]: position for position, name in enumerate(names)}
        if len(at) < len(names):
            same = [[name for name in names if aliases[name] == one] for one in at]
            twice = "; ".join(" and ".join(group) for group in same if len(group) > 1)
            raise BadInput(f"columns: expected each one once, got the same twice: {twice}. Leave one of them out.")
        gaps = {one.name: [column for column in one.cells if (one.name, column) not in at] for one in self.inputs}
        partial = {one.name: gaps[one.name] for one in self.inputs if 0 < len(gaps[one.name]) < len(one.cells)}
        if partial:
            told = [f"{name} lacks {', '.join(columns)}" for name, columns in partial.items()]
            raise BadInput(
                f"columns: expected all columns of a modality or none, but {'; '.join(told)}. Add them, with missing "
                "cells where nothing was measured."
            )
        if not at:
            raise BadInput(f"columns: expected those of the model, got none. The model reads: {', '.join(known)}.")
        result = {}
        for one in self.inputs:
            values = np.full((len(rows), *one.shape), np.nan, one.dtype)
            for position, column in enumerate(one.cells if not gaps[one.name] else ()):
                series = rows.iloc[:, at[one.name, column]]
                name = str(rows.columns[at[one.name, column]])
                levels = one.levels.get(column)
                if one.kind != "vector":
                    fill(values, name, series, one.kind, one.columns)
                else:
                    values[:, position] = _numbers(name, series) if levels is None else _codes(name, series, levels)
            present = ~np.isnan(values).all(axis=tuple(range(1, values.ndim)))
            result[one.name] = Modality(one.name, one.kind, one.columns, values, one.levels, present)
        return result

    def _rows(self, modalities: Mapping[str, Modality]) -> Rows:
        matrices = self.preprocessor.apply(modalities)
        present = np.stack([modalities[one.name].present for one in self.inputs], axis=1)
        dtype = DTYPES[self.settings.precision]
        none = torch.zeros(target_rows(self.tasks)[1], len(present), dtype=dtype)
        steps = measured_steps({one.name: modalities[one.name] for one in self.inputs})
        return Rows(
            tuple(torch.from_numpy(matrices[one.name]).to(dtype) for one in self.inputs),
            None if present.all() else torch.from_numpy(present),
            none,
            none,
            tuple(None if one is None else torch.from_numpy(one) for one in steps),
        )

    def _outputs(self, task: Task, logits: Tensor) -> Array:
        """What (n, C) logits of a supervised task say; see `said`."""
        if task.kind == "multiclass":
            return np.asarray(logits.softmax(1).numpy())
        if task.kind == "regression":
            mean, spread = self.scales[task.name]
            return np.asarray(mean + spread * logits[:, 0].numpy())
        chance = logits.sigmoid().numpy()
        return np.asarray(chance if task.kind == "multilabel" else chance[:, 0])

    def _predictions(self, member: Member, rows: Rows) -> tuple[tuple[str, ...], Predictions]:
        """The names of a member's slots, and its outputs."""
        first, _ = target_rows(self.tasks)
        fold = Fold(rows, rows, supervised_tasks(list(self.tasks.values())), np.ones((1, len(rows))), first)
        plan = layout([member.tasks], self.tasks, fold, torch.device("cpu"))
        return plan.names[0], predict(PackModel(self.machine, self.settings, plan, dict(member.values)), rows)

    def _clusters(self, name: str, latents: Array) -> NDArray[np.int64]:
        if not len(latents):
            return np.zeros(0, np.int64)
        first = next(member for member in self.members if name in member.tasks)
        points, centres = torch.from_numpy(latents), torch.from_numpy(first.centres[name])
        return clustering.nearest(points.unsqueeze(0), centres.unsqueeze(0))[0].numpy()


def train(
    cohort: Cohort,
    network: str,
    settings: TrainingSettings,
    subset: Subset,
    source: str,
    seeds: Sequence[int] = (0,),
    device: str = "auto",
    threads: int = 1,
) -> DeployedModel:
    """Fit a combination on the whole training part; the labels of the test patients are masked before anything else.

    Args:
        cohort: as the search saw it: the input columns of all its tasks (`Cohort.for_tasks`).
        subset: the tasks of the combination; `source` is one of them.
        seeds: one member is trained with each.
        device, threads: see `TrainingPayload`.

    Raises:
        BadInput: the network does not support the cohort, or training diverged.
    """
    labels = {name: label.copy() for name, label in cohort.labels.items()}
    for label in labels.values():
        label[cohort.split.test] = np.nan
    blind = replace(cohort, labels=labels)
    learn = blind.split.train(FINAL_FOLD)
    worker = PackTrainer(TrainingPayload(blind, network, settings, device, threads))
    fold = worker.fold(FINAL_FOLD)
    tasks = {name: blind.tasks[name] for name in subset}
    machine = networks.find(network, allow_code=True)
    members = []
    for seed in seeds:
        pack = Pack((Unit(subset, seed, FINAL_FOLD),))
        fitted = fit_pack(pack, blind.tasks, fold, settings, machine)
        if fitted.diverged[0] or not all(value.isfinite().all() for value in fitted.values.values()):
            raise BadInput(
                f"training {' + '.join(subset)} with seed {seed} diverged in epoch {fitted.diverged[0]}. Search with a "
                "smaller learning_rate, or train another combination."
            )
        latents = predict(fitted, fold.train).latents
        centres = {}
        for c, name in enumerate(fitted.layout.names[0][fitted.layout.supervised :]):
            found = clustering.groups(latents[:, :, c], tasks[name].n_outputs, [clustering.start(seed, name)])
            centres[name] = found[0].cpu().numpy()
        members.append(Member({name: value.cpu() for name, value in fitted.values.items()}, centres, subset))
    preprocessor = fit(blind, learn)
    counts = {
        name: {"rows": int(_labelled(labels[name][learn]).sum())}
        | ({"positive": int(np.nansum(labels[name][learn]))} if task.kind == "binary" else {})
        for name, task in tasks.items()
        if task.kind != "clustering"
    }
    return DeployedModel(
        source=source,
        tasks=tasks,
        classes={name: blind.classes[name] for name in tasks if name in blind.classes},
        scales={name: target_scale(labels[name], learn) for name, task in tasks.items() if task.kind == "regression"},
        network=network,
        settings=settings,
        inputs=tuple(_inputs(modality, preprocessor) for modality in blind.modalities.values()),
        preprocessor=preprocessor,
        members=tuple(members),
        machine=machine,
        about={
            "cohort": cohort.name,
            "fingerprint": cohort.fingerprint,
            "split": cohort.split.digest,
            "seeds": list(seeds),
            "training": {
                "rows": int(learn.sum()),
                "patients": len(np.unique(cohort.patients[learn])),
                "stopping": 0 if fold.stopping is None else len(fold.stopping),
                "labels": counts,
                "present": {name: int(one.present[learn].sum()) for name, one in cohort.modalities.items()},
            },
        },
    )


def evaluate(model: DeployedModel, cohort: Cohort, tasks: Sequence[str] = ()) -> list[TestScore]:
    """Score a model on the test patients of its cohort, by task. It reads the labels of these tasks: log that first.

    Args:
        tasks: which; all of the model where none is named.
    """
    test = cohort.split.test
    modalities = {
        one.name: replace(
            cohort.modalities[one.name],
            values=cohort.modalities[one.name].values[test],
            present=cohort.modalities[one.name].present[test],
        )
        for one in model.inputs
    }
    said = model.said(modalities)
    weights = bootstrap_weights(cohort.patients[test], cohort.split.digest)
    scores = []
    for name, task in model.tasks.items():
        if tasks and name not in tasks:
            continue
        why, rows = "", int(test.sum())
        if task.kind == "clustering":
            learn = cohort.split.train(FINAL_FOLD)
            known = model.said({
                key: replace(one, values=one.values[learn], present=one.present[learn])
                for key, one in cohort.modalities.items()
            })  # fmt: skip
            start = clustering.start(model.about["seeds"][0], name)
            learnt, new = (torch.from_numpy(latents[name]).unsqueeze(0) for latents in (known, said))
            by_row = torch.from_numpy(np.ascontiguousarray(weights.T))
            (found,) = clustering.judge(learnt, new, task.n_outputs, by_row, [start])
            values, why = found.silhouette, found.collapsed
        else:
            label = np.asarray(cohort.labels[name], np.float64)[test]
            known_labels = _labelled(label)
            rows = int(known_labels.sum())
            # Logarithms of probabilities are logits whose softmax gives them back; ranks stay.
            guess = said[name][known_labels]
            logits = np.log(guess.clip(1e-300)) if task.kind == "multiclass" else guess.reshape(len(guess), -1)
            values = metrics.score(task.metric, task.kind, label[known_labels], logits, weights[:, known_labels])
        if not why and not np.isfinite(values[0]):
            why = "the labels of the test patients do not vary"
        drawn, paper = values[1 : 1 + DRAWS], values[1 + DRAWS :]
        ends = np.nanpercentile(drawn, [2.5, 97.5]) if np.isfinite(drawn).any() else (float("nan"),) * 2
        spread = float(np.nanstd(paper, ddof=1)) if np.isfinite(paper).sum() > 1 else float("nan")
        scores.append(TestScore(name, task.metric, float(values[0]), spread, float(ends[0]), float(ends[1]), rows, why))
    return scores


def bootstrap_weights(patients: NDArray[np.int64], key: str) -> Array:
    """(1 + 1000 + 5, n) weightings of the test rows: ones, draws of patients, draws of 90 % of the rows."""
    dice = np.random.default_rng(np.frombuffer(f"{key} test rows".encode(), dtype=np.uint8))
    n = len(patients)
    rows = [np.bincount(dice.integers(0, n, round(PAPER_SHARE * n)), minlength=n) for _ in range(PAPER_DRAWS)]
    return np.concatenate([patient_weights(patients, DRAWS, f"{key} test patients"), np.stack(rows).astype(float)])


def _labelled(labels: Array) -> NDArray[np.bool_]:
    """bool (n,): which rows carry a label of (n,), or any label of (n, L)."""
    return np.asarray(np.isfinite(labels.reshape(len(labels), -1)).any(axis=1), bool)


def _inputs(modality: Modality, preprocessor: Preprocessor) -> Inputs:
    transform = preprocessor.transforms[modality.name]
    means = dict(zip(transform.numeric.tolist(), transform.mean.tolist(), strict=True))
    examples = tuple(
        modality.levels[column][0] if column in modality.levels else float(f"{means.get(position, 0.0):.3g}")
        for position, column in enumerate(modality.columns or transform.names)
    )
    return Inputs(
        modality.name,
        modality.columns,
        dict(modality.levels),
        str(modality.values.dtype),
        examples,
        modality.kind,
        modality.values.shape[1:],
    )


def _numbers(name: str, series: pd.Series) -> Array:
    """The numbers of a column, NaN where missing."""
    numbers = pd.to_numeric(series, errors="coerce").to_numpy(np.float64, na_value=np.nan)
    wrong = np.isnan(numbers) & series.notna().to_numpy()
    if wrong.any():
        raise BadInput(
            f"column {name}: expected numbers or missing cells, got {series[wrong].iloc[0]!r} ({int(wrong.sum())} such "
            "cells). Write numbers, or leave the cell empty where nothing was measured."
        )
    if np.isinf(numbers).any():
        raise BadInput(f"column {name}: expected finite numbers, got an infinite one. Leave that cell empty.")
    return numbers


def _codes(name: str, series: pd.Series, levels: Sequence[str]) -> Array:
    """The codes of a categorical column, NaN where missing or unknown."""
    code = {level: number for number, level in enumerate(levels)}
    spelled = [text(value) if missing is False else "" for value, missing in zip(series, series.isna(), strict=True)]
    if unseen := sorted({value for value in spelled if value and value not in code}):
        shown = ", ".join(unseen[:5]) + (f" and {len(unseen) - 5} more" if len(unseen) > 5 else "")
        warnings.warn(
            f"column {name}: the model does not know {shown} and takes it as not measured; it knows "
            f"{', '.join(levels)}.",
            PredictionWarning,
            stacklevel=4,
        )
    return np.array([code.get(value, np.nan) for value in spelled], np.float64)


def _plain(transform: Transform) -> dict[str, Any]:
    return {
        "kind": transform.kind,
        "columns": list(transform.columns),
        "numeric": transform.numeric.tolist(),
        "mean": transform.mean.tolist(),
        "scale": transform.scale.tolist(),
        "levels": [list(pair) for pair in transform.levels],
        "gaps": list(transform.gaps),
        "names": list(transform.names),
    }


def _transform(plain: Mapping[str, Any]) -> Transform:
    return Transform(
        plain.get("kind", "vector"),
        tuple(plain["columns"]),
        np.array(plain["numeric"], np.int64),
        np.array(plain["mean"], np.float64),
        np.array(plain["scale"], np.float64),
        tuple((index, code) for index, code in plain["levels"]),
        tuple(plain["gaps"]),
        tuple(plain["names"]),
    )
