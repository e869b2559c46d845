"""Hard parameter sharing for a whole pack: an encoder a modality, a trunk that all tasks share, a linear head a task.

The plainest multitask network (Caruana 1997): nothing but the trunk lies between the tasks, so that what it shows of
two tasks is no doing of an attention or of a router. It is the shortest `model.networks.contract.Network`, too.
Shapes are in comments as K members, B rows, h width, s tasks a member and C outputs of the widest head.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from model.cohorts.cohort import Cohort
from model.data.folds import Fold, Rows
from model.networks.contract import (
    Dice,
    Layout,
    Output,
    Parameters,
    S,
    Schedules,
    Shape,
    SupervisedLosses,
    supervised_losses,
    unknown_names,
)
from model.networks.rounding import filled, own_linear
from model.networks.settings import BY_GRADIENT, SharedSettings
from model.networks.starts import Start
from tim_search.types import Task

TAKES = "vector modalities and binary, multiclass, multilabel and regression tasks"
INSIDE = None


def initialise(
    layout: Layout, tasks: Mapping[str, Task], fold: Fold, seed: int, settings: SharedSettings
) -> Parameters:
    """Starting parameters of a pack, each (K, ...); shared ones from (seed), a head's from (seed, task)."""
    h, start = settings.width, Start(layout, fold, seed)
    for number, x in enumerate(fold.train.inputs):
        start.shared(f"encoder.{number}", h, x.shape[1])
    for number in range(settings.layers):
        start.shared(f"trunk.{number}", h, h if number else h * len(fold.train.inputs))
    start.heads(tasks, settings)
    return start.values


def replayable(settings: SharedSettings) -> bool:
    """See `model.networks.contract.Network.replayable`."""
    return True


def by_slot(name: str) -> bool:
    """See `model.networks.contract.Network.by_slot`."""
    return name.startswith("head.")


def forward(
    values: Parameters, layout: Layout, rows: Rows, settings: SharedSettings, dice: Dice | None = None
) -> Output:
    """The pack's outputs for some rows; an absent modality is an embedding of zeros."""
    members, size = layout.members, len(rows)

    def layer(name: str, x: Tensor) -> Tensor:
        return own_linear(x, values[f"{name}.weight"], values[f"{name}.bias"]).relu_()

    embeddings = []
    for number, x in enumerate(rows.inputs):
        embedding = layer(f"encoder.{number}", x.expand(members, -1, -1))
        embeddings.append(embedding if rows.present is None else embedding * rows.present[:, number, None])
    trunk = torch.cat(embeddings, dim=2)  # (K, B, modalities * h)
    for number in range(settings.layers):
        trunk = layer(f"trunk.{number}", trunk)
    groups = [_heads(values, layout, trunk, of, outputs) for outputs, of in layout.by_widest.items()]
    logits = layout.in_order([F.pad(group, (0, layout.outputs - group.shape[3])) for group in groups])
    nothing = trunk.new_zeros(members, 0, size, sum(x.shape[1] for x in rows.inputs))
    return Output(logits, None, trunk.new_zeros(members, size, 0, settings.width), nothing)


def _heads(values: Parameters, layout: Layout, trunk: Tensor, of: Tensor, outputs: int) -> Tensor:
    """(G, s, B, outputs) logits of the G members `of`, whose widest head has `outputs`."""
    weight, bias = (values[name].index_select(0, of)[:, :, :outputs] for name in ("head.weight", "head.bias"))
    members, s = bias.shape[:2]
    # Rows of zeros, because a narrow product rounds by where it begins in memory.
    weight = filled(weight.reshape(members, s * outputs, -1))
    bias = F.pad(bias.reshape(members, -1), (0, weight.shape[1] - s * outputs))
    product = own_linear(trunk.index_select(0, of), weight, bias)[:, :, : s * outputs]
    return product.reshape(members, trunk.shape[1], s, outputs).transpose(1, 2)


def losses(output: Output, layout: Layout, rows: Rows, settings: SharedSettings) -> SupervisedLosses:
    """The tasks' losses, each a weighted mean over the rows that carry the label; 0 where no row does."""
    return SupervisedLosses(layout.weighted(supervised_losses(output.logits, layout, rows), settings.task_weights))


def unsupported(cohort: Cohort, settings: SharedSettings) -> list[str]:
    """See `model.networks.contract.Network.unsupported`."""
    wrong = [f"modality {m.name} is a {m.kind}" for m in cohort.modalities.values() if m.kind != "vector"]
    wrong += [f"task {task.name} is {task.kind}" for task in cohort.tasks.values() if task.kind == "clustering"]
    return wrong + unknown_names(cohort, task_weights=settings.task_weights)


def schedule(settings: SharedSettings, offered: Schedules[S]) -> S:
    """See `model.networks.contract.Network.schedule`."""
    return offered.jointly


def member_bytes(shape: Shape, settings: SharedSettings) -> int:
    """See `model.networks.contract.Network.member_bytes`."""
    h, m, s = settings.width, len(shape.inputs), shape.size
    outputs = s * shape.outputs
    trunk = h * h * m + h * h * (settings.layers - 1) + h * settings.layers
    common = sum((width + 1) * h for (width,) in shape.inputs) + trunk
    parameters = common + outputs * (h + 1)

    def numbers(rows: int) -> int:
        """Of so many rows: embeddings, side by side once more, the trunk's layers, logits and their losses."""
        return rows * (2 * m * h + settings.layers * h + 3 * outputs)

    batch, score = min(settings.batch_size, shape.rows[0]), min(settings.evaluation_rows, shape.rows[1])
    item = 8 if settings.precision == "float64" else 4
    # Adam's two moments and the gradient stand beside the parameters.
    training = 4 * parameters + numbers(batch)
    if settings.balance in BY_GRADIENT and s > 1:
        training += (s + 1) * common  # a gradient of each task, and what they change
    return item * max(training, parameters + numbers(score))
