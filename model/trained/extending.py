"""A trained model taken to a task it has not seen (FlexCare paper, section 5.5 and Table 5).

The new task starts from the model's shared parameters, with parameters of its own from (seed, task), and trains on its
own rows alone. Whether that is worth anything is measured against a start from the seed on the same rows, with the same
settings and minibatches: the two train as one pack. Which parameters are shared, a network says itself (`by_slot`).

A model has seen the whole training part, the validation patients' labels of its own tasks among it. A score on a
validation fold would flatter it. So `compare` makes the start anew for each block, from the fold's training rows, by
the model's own recipe; the model as it is starts only what is judged on the test patients, and what is taken away.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.cohorts.cohort import Bools, Cohort, matches, text
from model.data.folds import Fold, Rows, load_fold, target_scale
from model.data.preprocess import fit
from model.networks.contract import Network, Parameters, n_logits
from model.scoring import metrics
from model.trained.deployed import DeployedModel
from model.trained.final_training import label_counts
from model.trained.parts import Member
from model.training.fitting import fit_pack
from model.training.pack import Fitted
from model.training.precision import DTYPES
from model.training.predicting import predict
from model.training.scores import labels_of
from tim_search.types import FINAL_FOLD, BadInput, Pack, Task, Unit

Start: TypeAlias = Literal["pretrained", "scratch"]

STARTS: tuple[Start, ...] = ("pretrained", "scratch")

_QUANTILES = 5  # strata of a regression task


@dataclass(frozen=True)
class Reached:
    """What one training reached on the new task, by one metric.

    Attributes:
        start: where its shared parameters came from.
        share: of the training patients with a label, whose labels it had.
        seed, fold: the block; `FINAL_FOLD` is judged on the test patients.
        metric, primary: which score, and whether the task is searched by it.
        value: NaN where there is none, and `why` says so.
        rows, patients: that it was trained on, those that chose the epoch among them.
    """

    start: Start
    share: float
    seed: int
    fold: int
    metric: str
    primary: bool
    value: float
    why: str
    rows: int
    patients: int


def prepare(model: DeployedModel, cohort: Cohort, task: str) -> Cohort:
    """The cohort as the model reads it, with its tasks and the new one.

    Raises:
        BadInput: no such task, or one the model has; a cohort that is not the one it was trained on, or reads
            otherwise; a network that has no shared parameters or cannot learn the task.
    """
    if task in model.tasks:
        raise BadInput(f"--task: the model predicts {task} already. Name a task that it has not seen.")
    if task not in cohort.tasks:
        new = ", ".join(name for name in cohort.tasks if name not in model.tasks) or "none"
        raise BadInput(f"--task: the cohort {cohort.name} has no task {task}. Its tasks the model has not seen: {new}.")
    if cohort.tasks[task].kind == "clustering":
        raise BadInput(f"--task: {task} is a clustering task, which has no labels to learn from. Name one with labels.")
    if ":" in model.network:
        raise BadInput(
            f"the network {model.network} is one of your own: it does not say which parameters its tasks share, so "
            "its models cannot be extended. Search with a built-in network."
        )
    if lacking := [name for name in _base(model).tasks if name not in cohort.tasks]:
        raise BadInput(
            f"cohort {cohort.name}: expected the tasks of the model, it lacks {', '.join(lacking)}, without which its "
            "start cannot be made again without the validation patients. Keep their labels in the cohort."
        )
    reasons = _differences(model, cohort, task)
    if cohort.split.digest != model.about["split"]:
        reasons.append("its samples or its split are others")
    if reasons:
        raise _unlike(model, cohort, reasons)
    names = [*model.tasks, task]
    seen = replace(
        cohort,
        modalities={
            inputs.name: cohort.modalities[inputs.name].keep(inputs.columns or cohort.modalities[inputs.name].inputs)
            for inputs in model.inputs
        },
        tasks={name: cohort.tasks[name] for name in names if name in cohort.tasks},
        labels={name: cohort.labels[name] for name in names if name in cohort.labels},
        classes={name: cohort.classes[name] for name in names if name in cohort.classes},
    )
    fitted = fit(seen, cohort.split.train(FINAL_FOLD), _few(model)).transforms
    for name, before in model.preprocessor.transforms.items():
        now = fitted[name]
        same = before.names == now.names and before.levels == now.levels
        if not (same and np.allclose(before.mean, now.mean) and np.allclose(before.scale, now.scale)):
            raise _unlike(model, cohort, [f"the values of {name} are others"])
    # Names of tasks in the settings are those of the search, which may have had others: only the kinds are asked about.
    if wrong := model.machine.unsupported(_only(seen, [task]), type(model.settings)()):
        raise BadInput(f"network {model.network} takes {model.machine.TAKES}, but {'; '.join(wrong)}.")
    return seen


def _differences(model: DeployedModel, cohort: Cohort, task: str) -> list[str]:
    """In which way the cohort's inputs are not the model's, in words."""
    reasons = []
    for modality in model.inputs:
        here, levels = cohort.modalities.get(modality.name), modality.levels
        if here is None:
            reasons.append(f"it lacks the modality {modality.name}")
        elif (here.kind, _size(here.kind, here.values.shape[1:])) != (
            modality.kind,
            _size(modality.kind, modality.shape),
        ):
            reasons.append(f"{modality.name} is of another kind or size")
        elif gone := [column for column in modality.columns if column not in here.columns]:
            reasons.append(f"{modality.name} lacks {', '.join(gone)}")
        elif other := [name for name in modality.columns if tuple(here.levels.get(name, ())) != levels.get(name, ())]:
            reasons.append(f"{', '.join(other)} of {modality.name} has other levels")
    read = {(modality.name, column) for modality in model.inputs for column in modality.columns or ("pixels",)}
    excluded = sorted({pair for pattern in cohort.tasks[task].excludes for pair in matches(cohort.modalities, pattern)})
    if both := [f"{name}.{column}" for name, column in excluded if (name, column) in read]:
        reasons.append(f"{task} excludes {', '.join(both)}, which the model reads")
    return reasons


def _size(kind: str, shape: Sequence[int]) -> tuple[int, ...]:
    """What of a row's shape is no number of columns: a sequence's steps, an image's whole shape."""
    return {"vector": (), "sequence": tuple(shape[:1])}.get(kind, tuple(shape))


def _unlike(model: DeployedModel, cohort: Cohort, reasons: Sequence[str]) -> BadInput:
    return BadInput(
        f"cohort {cohort.name}: expected the one the model was trained on ({model.about['cohort']}), with its inputs, "
        f"but {'; '.join(reasons)}. Name that cohort, or train a model anew."
    )


def choose(cohort: Cohort, task: str, learn: Bools, share: float, seed: int) -> Bools:
    """Which training samples keep their label of a task: those of a share of the patients who have one.

    Patients are taken in proportion from each class (the rarest one a patient has; fifths of a regression task), in an
    order that hangs on (seed, patient's id) alone, so that a smaller share lies within a larger one wherever no class
    needs help. Before that each class (label of a multilabel task, rarest first) is given one patient who has it, as
    long as there are patients to give.

    Args:
        learn: bool (n,) the training samples.
        share: above 0, at most 1; at least one patient is taken.

    Returns:
        bool (n,)

    Raises:
        BadInput: no training sample has a label.
    """
    labels = cohort.labels[task].reshape(len(cohort), -1)
    having = learn & np.isfinite(labels).any(axis=1)
    if not having.any():
        raise BadInput(f"task {task}: no training sample has a label, so nothing can be learnt. Name another task.")
    codes, of = np.unique(cohort.patients[having], return_inverse=True)
    carried = np.zeros((len(codes), 0), bool)
    for column in _classes(cohort.tasks[task], labels[having]).T:
        carried = np.column_stack([carried, np.bincount(of, weights=column, minlength=len(codes)) > 0])
    rarity = carried.sum(axis=0)
    rarest = np.where(carried, rarity, len(codes) + 1).argmin(axis=1) if carried.shape[1] else np.zeros(len(codes), int)
    rarest[~carried.any(axis=1)] = -1
    names = [text(cohort.patient_ids[code]) for code in codes.tolist()]
    drawn = np.array([hashlib.sha256(f"{seed} labels {task} {name}".encode()).hexdigest() for name in names])
    order = np.argsort(drawn, kind="stable")
    place = np.zeros(len(codes))
    for stratum in np.unique(rarest):
        members = order[rarest[order] == stratum]
        place[members] = (np.arange(len(members)) + 0.5) / len(members)
    order = order[np.argsort(place[order], kind="stable")]
    count = max(1, round(share * len(codes)))
    taken: list[int] = []
    for column in np.argsort(rarity, kind="stable"):
        if rarity[column] and len(taken) < count and not carried[taken, column].any():
            taken.append(int(order[carried[order, column]][0]))
    taken += [code for code in order.tolist() if code not in set(taken)][: count - len(taken)]
    return np.asarray(having & np.isin(cohort.patients, codes[taken]), bool)


def _classes(task: Task, labels: NDArray[np.float64]) -> Bools:
    """bool (n, classes): which classes, labels or fifths some labels (n, L) belong to."""
    if task.kind == "multilabel":
        return np.asarray(labels == 1, bool)
    if task.kind == "regression":
        edges = np.quantile(labels[:, 0], np.linspace(0, 1, _QUANTILES + 1)[1:-1])
        return np.asarray(np.searchsorted(edges, labels[:, 0])[:, None] == np.arange(_QUANTILES), bool)
    return np.asarray(labels[:, :1] == np.arange(max(2, task.n_outputs)), bool)


def compare(
    model: DeployedModel,
    cohort: Cohort,
    task: str,
    shares: Iterable[float],
    seed: int,
    fold: int,
    device: torch.device | None = None,
) -> list[Reached]:
    """Train the new task from both starts, with each share of its labels, and judge it on a fold.

    Args:
        cohort: as `prepare` gives it.
        fold: held out; for `FINAL_FOLD` the model itself is the start and the test patients judge. Log that first.

    Raises:
        BadInput: the model's tasks diverged with this seed.
    """
    device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    base = _base(model)
    if fold == FINAL_FOLD:
        started = dict(base.values)
    else:
        pack = Pack((Unit(base.tasks, seed, fold),))
        rows = _load(_only(cohort, base.tasks), fold, model, device)
        first = fit_pack(pack, cohort.tasks, rows, model.settings, model.machine)
        if first.diverged[0]:
            raise BadInput(f"training {' + '.join(base.tasks)} again with seed {seed} diverged. Leave that seed out.")
        started = first.values
    learn = cohort.split.train(fold)
    reached = []
    for share in shares:
        chosen = choose(cohort, task, learn, share, seed)
        rows = _new_rows(cohort, task, chosen, fold, model, device)
        unit = Unit((task,), seed, fold)
        fitted = fit_pack(
            Pack((unit, unit)), cohort.tasks, rows, model.settings, model.machine,
            start=(shared(started, model.machine), {}),
        )  # fmt: skip
        patients = len(np.unique(cohort.patients[chosen]))
        for member, start in enumerate(STARTS):
            for metric, (value, why) in _judge(fitted, member, cohort.tasks[task], rows, model).items():
                primary = metric == cohort.tasks[task].metric
                reached.append(
                    Reached(start, share, seed, fold, metric, primary, value, why, int(chosen.sum()), patients)
                )
    return reached


def extend(model: DeployedModel, cohort: Cohort, task: str, device: torch.device | None = None) -> DeployedModel:
    """The model with one more task, trained on all its labels in the whole training part.

    Each member of the model gives the start of one member for the new task; what the model said of its own tasks it
    says still, for their parameters stay as they were. The labels of the test patients are masked before anything else.

    Args:
        cohort: as `prepare` gives it.

    Raises:
        BadInput: training diverged.
    """
    device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    learn = cohort.split.train(FINAL_FOLD)
    chosen = choose(cohort, task, learn, 1.0, 0)
    rows = _new_rows(cohort, task, chosen, FINAL_FOLD, model, device, blind=True)
    members = []
    bases = [member for member in model.members if model.source in member.tasks]
    for seed, member in zip(model.about["seeds"], bases, strict=True):
        pack = Pack((Unit((task,), seed, FINAL_FOLD),))
        start = (shared(member.values, model.machine),)
        fitted = fit_pack(pack, cohort.tasks, rows, model.settings, model.machine, start=start)
        if fitted.diverged[0] or not all(value.isfinite().all() for value in fitted.values.values()):
            raise BadInput(f"training {task} from the model diverged with seed {seed}. Train a model anew.")
        members.append(Member({name: value.cpu() for name, value in fitted.values.items()}, {}, (task,)))
    kind = cohort.tasks[task].kind
    scale = {task: target_scale(cohort.labels[task], learn, _few(model))} if kind == "regression" else {}
    training = model.about["training"]
    count = label_counts(cohort.tasks[task], cohort.labels[task][chosen])
    return replace(
        model,
        tasks={**model.tasks, task: cohort.tasks[task]},
        classes={**model.classes, **({task: cohort.classes[task]} if task in cohort.classes else {})},
        scales={**model.scales, **scale},
        members=(*model.members, *members),
        about={**model.about, "training": {**training, "labels": {**training["labels"], task: count}}},
    )


def shared(values: Mapping[str, Tensor], network: Network) -> Parameters:
    """The parameters that all tasks of a member share."""
    return {name: value for name, value in values.items() if not network.by_slot(name)}


def _base(model: DeployedModel) -> Member:
    """The first member, which predicts the tasks that were searched together."""
    return next(member for member in model.members if model.source in member.tasks)


def _only(cohort: Cohort, tasks: Sequence[str]) -> Cohort:
    """The cohort with some of its tasks, all input columns kept."""
    return replace(
        cohort,
        tasks={name: cohort.tasks[name] for name in tasks},
        labels={name: cohort.labels[name] for name in tasks if name in cohort.labels},
        classes={name: cohort.classes[name] for name in tasks if name in cohort.classes},
    )


def _load(cohort: Cohort, fold: int, model: DeployedModel, device: torch.device) -> Fold:
    settings = model.settings
    dtype = DTYPES[settings.precision]
    return load_fold(
        cohort, fold, dtype=dtype, device=device, replicates=0, stop_share=settings.stop_share, few=_few(model)
    )


def _few(model: DeployedModel) -> int:
    """Of fewer patients than this the preprocessing of the model tells no count; 0 of one that was fitted exactly."""
    return int(model.about.get("rounded_for_small_cells", 0))


def _new_rows(
    cohort: Cohort,
    task: str,
    chosen: Bools,
    fold: int,
    model: DeployedModel,
    device: torch.device,
    *,
    blind: bool = False,
) -> Fold:
    """A fold with the new task alone: the chosen training rows, and those that judge, without labels if `blind`."""
    judge = cohort.split.test if fold == FINAL_FOLD else cohort.split.validation(fold)
    labelled = chosen if blind else chosen | judge
    label = cohort.labels[task].copy()
    label[~labelled] = np.nan
    alone = _only(cohort, [task])
    rows = _load(replace(alone, labels={task: label}), fold, model, device)
    train, stopping = _carrying(rows.train), None if rows.stopping is None else _carrying(rows.stopping)
    if not len(train):  # all of them would choose the epoch
        raise BadInput(
            f"task {task}: no sample of the {len(np.unique(cohort.patients[chosen]))} patients with a label is left to "
            "train on. Give it more labels with --labels."
        )
    return replace(rows, train=train, stopping=stopping if stopping is not None and len(stopping) else None)


def _carrying(rows: Rows) -> Rows:
    """The rows that carry a label."""
    return rows.take((rows.labelled > 0).any(0).nonzero().flatten())


def _judge(fitted: Fitted, member: int, task: Task, fold: Fold, model: DeployedModel) -> dict[str, tuple[float, str]]:
    """(score, why there is none) of a member's one task on the held-out rows, by every metric of its kind."""
    labels, labelled = labels_of(fold, task)
    logits = predict(fitted, fold.validation).logits[member, 0, :, : n_logits(task)]
    if fitted.diverged[member] or not logits.isfinite().all():
        return {task.metric: (float("nan"), "diverged; a smaller learning_rate may help")}
    values = metrics.every(task.kind, labels, logits.double().cpu().numpy()[labelled], fold.weights[:1, labelled])
    return {
        metric: (float(value[0]), "" if np.isfinite(value[0]) else "the held-out labels do not vary")
        for metric, value in values.items()
    }
