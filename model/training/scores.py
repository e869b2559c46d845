"""Scores and attention of a trained pack on its held-out rows, as rows for the ledger."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.data.folds import Fold
from model.networks.contract import n_logits
from model.scoring import clustering, metrics
from model.training.pack import Fitted
from model.training.predicting import Predictions, predict
from tim_search.types import ALLOWED, MOST_ATTENDED, Attention, Pack, Score, Task, Unit


def score_pack(
    pack: Pack, fitted: Fitted, tasks: Mapping[str, Task], fold: Fold
) -> tuple[list[Score], list[Attention]]:
    """Scores of every unit and task on the held-out rows, and the attention of units of up to `MOST_ATTENDED` tasks.

    Each task is scored for all members that have it at once, where they were trained, and the numbers come to the host
    when all tasks are under way. A diverged member or a collapsed clustering is a failed row with its reason.
    """
    predictions = predict(fitted, fold.validation)
    finite = predictions.logits.isfinite().flatten(1).all(1) & predictions.latents.isfinite().flatten(1).all(1)
    sound = [ok and not epoch for ok, epoch in zip(finite.tolist(), fitted.diverged, strict=True)]
    names = dict.fromkeys(name for member, held in enumerate(fitted.layout.names) if sound[member] for name in held)
    labelled = {
        name: _supervised(name, fitted, predictions, sound, tasks[name], fold)
        for name in names
        if tasks[name].kind != "clustering"
    }
    rows_of = {}
    if len(labelled) < len(names):
        learned = predict(fitted, fold.train).latents
        for name in names:
            if name not in labelled:
                rows_of.update(_clustered(name, pack, fitted, predictions, learned, sound, tasks[name], fold))
    for name, (members, first, others) in labelled.items():
        rows = {metric: values.tolist() for metric, values in others.items()}
        for at, (member, values) in enumerate(zip(members, first.tolist(), strict=True)):
            unit = pack.units[member]
            rows_of[member, name] = [_scored(unit, tasks[name], values, "")]
            if rows_of[member, name][0].status == "ok":
                rows_of[member, name] += [
                    Score(unit, name, metric, unit.part, row[at], primary=False) for metric, row in rows.items()
                ]
    attended = predictions.attention is not None and fitted.layout.tasks <= MOST_ATTENDED
    weights = cast(Tensor, predictions.attention).double().cpu().tolist() if attended else None
    scores: list[Score] = []
    attention: list[Attention] = []
    for member, unit in enumerate(pack.units):
        if not sound[member]:
            when = f"in epoch {fitted.diverged[member]}" if fitted.diverged[member] else "after training"
            why = f"diverged: loss or predictions are not finite {when}; try a smaller learning_rate"
            scores += [_failed(unit, tasks[name], why) for name in unit.subset]
            continue
        held = fitted.layout.names[member]
        attention += [
            Attention(unit, task, other, weights[member][i][j])
            for i, task in enumerate(held)
            for j, other in enumerate(held)
            if weights is not None
        ]
        scores += [row for name in held for row in rows_of[member, name]]
        if fitted.course is not None:
            chosen = float(fitted.course.chosen[member])
            scores += [Score(unit, name, "chosen_epoch", unit.part, chosen, primary=False) for name in held]
    return scores, attention


def _holding(name: str, fitted: Fitted, sound: Sequence[bool]) -> tuple[list[int], list[int]]:
    """The sound members that have a task, and the slot it sits in."""
    pairs = [(member, slot) for member, slot in zip(*fitted.layout.holding(name), strict=True) if sound[member]]
    return [member for member, _ in pairs], [slot for _, slot in pairs]


def _supervised(
    name: str, fitted: Fitted, predictions: Predictions, sound: Sequence[bool], task: Task, fold: Fold
) -> tuple[list[int], Tensor, dict[str, Tensor]]:
    """Members that have a task, their metric (m, R) that it is searched by, and the others (m,) that it has."""
    members, slots = _holding(name, fitted, sound)
    device = predictions.logits.device
    outputs = predictions.logits[torch.tensor(members, device=device), torch.tensor(slots, device=device)]
    of = truth_of(fold, task)
    first = metrics.of_members(of, outputs, (task.metric,))[task.metric]
    others = tuple(other for other in ALLOWED[task.kind] if other != task.metric)
    more = metrics.of_members(of.unweighted(), outputs, others) if others else {}
    return members, first, {metric: values[:, 0] for metric, values in more.items()}


def _clustered(
    name: str,
    pack: Pack,
    fitted: Fitted,
    predictions: Predictions,
    learned: Tensor,
    sound: Sequence[bool],
    task: Task,
    fold: Fold,
) -> dict[tuple[int, str], list[Score]]:
    """Score rows of a clustering task, by member and task."""
    members, slots = _holding(name, fitted, sound)
    member, slot = (torch.tensor(at, device=learned.device) for at in (members, slots))
    slot = slot - fitted.layout.supervised
    seeds = [clustering.start(pack.units[m].seed, name) for m in members]
    judged = clustering.judge(
        learned[member, :, slot], predictions.latents[member, :, slot], task.n_outputs, fold.weights_by_row, seeds
    )
    rebuilt = predictions.rebuild_r2[member, slot].double().tolist()
    rows_of = {}
    for m, judgement, share in zip(members, judged, rebuilt, strict=True):
        unit = pack.units[m]
        more = (
            ("occupied_clusters", judgement.occupied),
            ("effective_rank", judgement.effective_rank),
            ("label_agreement", judgement.label_agreement),
            ("reconstruction_r2", share),
        )
        rows_of[m, name] = [_scored(unit, task, judgement.silhouette.tolist(), judgement.collapsed)] + [
            Score(unit, name, metric, unit.part, float(value), primary=False) for metric, value in more
        ]
    return rows_of


def truth_of(fold: Fold, task: Task) -> metrics.Truth:
    """What outputs for a fold's held-out rows are scored by; made at the first call, and kept with the fold."""
    if task.name not in fold.truths:
        first = fold.first[task.name]
        labels = fold.labels[first : first + task.n_outputs].T if task.kind == "multilabel" else fold.labels[first]
        fold.truths[task.name] = metrics.truth(task.kind, labels, n_logits(task), fold.weights_by_row)
    return fold.truths[task.name]


def labels_of(fold: Fold, task: Task) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Labels of the held-out rows that carry any, and which rows those are.

    Returns:
        float64 (m,), or (m, L) of a multilabel task, NaN where a single label is missing; and bool (n,).
    """
    first = fold.first[task.name]
    targets = fold.labels[first : first + (task.n_outputs if task.kind == "multilabel" else 1)]
    carried = np.asarray((~np.isnan(targets)).any(axis=0), bool)
    return (targets[:, carried].T if task.kind == "multilabel" else targets[0, carried]), carried


def _scored(unit: Unit, task: Task, values: Sequence[float], why: str) -> Score:
    """Score row from a metric under every weighting: the first is the score, the others its replicates."""
    if why or not math.isfinite(values[0]):
        return _failed(unit, task, why or f"no {task.metric}: {_where(unit)} do not vary")
    return Score(unit, task.name, task.metric, unit.part, values[0], replicates=tuple(values[1:]))


def _where(unit: Unit) -> str:
    return "the labels of the test patients" if unit.part == "test" else f"the validation labels of fold {unit.fold}"


def _failed(unit: Unit, task: Task, why: str) -> Score:
    return Score(unit, task.name, task.metric, unit.part, float("nan"), "failed", why)
