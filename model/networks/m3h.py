"""M3H for a whole pack: K subsets of tasks as one stacked program (M3H paper, sections 3.1 to 3.5).

Every parameter has a leading member axis (K, ...), so that training one subset alone is a pack of one, and members
never mix: member m's loss reaches member m's slices only. All members share each minibatch.
Every product and sum is taken as for the member alone, of the same shape and at a boundary of 64 bytes, so that it also
rounds alike (benchmarks/NOTES.md). Read `forward` beside section 3 of the paper; shapes are in comments as
K members, B rows, h width, s supervised tasks and c clustering tasks a member, k = s + c.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from model.cohorts.cohort import Cohort
from model.data.folds import Fold, Rows
from model.data.seeding import generator
from model.networks.contract import (
    Dice,
    Layout,
    Output,
    Parameters,
    S,
    Schedules,
    Shape,
    supervised_losses,
    unknown_names,
)
from model.networks.contrastive import info_nce
from model.networks.rounding import ALIGN, filled, own_linear
from model.networks.settings import BY_GRADIENT, M3HSettings
from model.networks.starts import Start
from tim_search.types import Subset, Task

TAKES = "vector modalities and binary, multiclass, regression and clustering tasks"
INSIDE = None

_FLOOR = 1e-6  # how far from zero the attention's divisor is kept; the paper divides by max(M), which may be zero


@dataclass(frozen=True)
class Losses:
    """Every loss by member: contrastive (K,), supervised (K, s), clustering (K, c), of tasks with their own weights."""

    contrastive: Tensor
    supervised: Tensor
    clustering: Tensor

    def by_member(self, settings: M3HSettings) -> Tensor:
        """(K,) weighted total of section 3.5."""
        tasks = self.supervised.sum(1) + self.clustering.sum(1)
        return settings.contrastive_weight * self.contrastive + settings.task_weight * tasks

    def by_task(self, settings: M3HSettings) -> Tensor:
        """See `model.networks.contract.LossesByTask`."""
        return settings.task_weight * torch.cat([self.supervised, self.clustering], dim=1)

    def beside_tasks(self, settings: M3HSettings) -> Tensor:
        """See `model.networks.contract.LossesByTask`: the contrastive term."""
        return settings.contrastive_weight * self.contrastive

    def in_turn(self, settings: M3HSettings) -> list[Tensor]:
        """(K,) weighted losses in the order in which the sequential update takes them: contrastive, then by slot."""
        return [self.beside_tasks(settings), *self.by_task(settings).unbind(1)]


def initialise(layout: Layout, tasks: Mapping[str, Task], fold: Fold, seed: int, settings: M3HSettings) -> Parameters:
    """Starting parameters of a pack, each (K, ...); shared ones from (seed), a task's own from (seed, task)."""
    h = settings.width
    widths = [x.shape[1] for x in fold.train.inputs]
    start = Start(layout, fold, seed)
    for number, width in enumerate(widths):
        start.shared(f"encoder.{number}.in", 2 * h, width)
        start.shared(f"encoder.{number}.out", h, 2 * h)
    start.shared("shared.in", h, h * len(widths))
    start.shared("shared.out", h, h)
    for name in ("query", "key", "value"):
        start.shared(f"attention.{name}", h, h)
    start.by_task(
        slice(None),
        lambda task: (torch.randn(h, generator=generator(seed, "token", task), dtype=torch.float64),),
        "attention.token",
    )
    if layout.supervised:
        start.layers("task", slice(0, layout.supervised), h, h)
        start.heads(tasks, settings)
    if layout.clustering:
        slots = slice(layout.supervised, None)
        start.layers("autoencoder.encode", slots, h, h * len(widths))
        start.layers("autoencoder.decode.in", slots, 2 * h, h)
        start.layers("autoencoder.decode.out", slots, sum(widths), 2 * h)
    return start.values


def _apply(values: Parameters, name: str, x: Tensor) -> Tensor:
    """Each member's own linear layer: (K, B, inputs) to (K, B, outputs)."""
    return own_linear(x, values[f"{name}.weight"], values[f"{name}.bias"])


def replayable(settings: M3HSettings) -> bool:
    """See `model.networks.contract.Network.replayable`; dropping inputs draws dice."""
    return settings.input_dropout == 0


def by_slot(name: str) -> bool:
    """See `model.networks.contract.Network.by_slot`."""
    return name.startswith(("task.", "head.", "autoencoder.", "attention.token"))


def forward(values: Parameters, layout: Layout, rows: Rows, settings: M3HSettings, dice: Dice | None = None) -> Output:
    """The pack's outputs for some rows (M3H paper, sections 3.3 and 3.4).

    The attention's value map and a head are both linear, and the rows of W sum to one, so a supervised task's logit
    sum_j W_ij (V x_j) . w_i + b_i is computed as sum_j W_ij (x_j . V^T w_i) plus a constant; likewise Q_i . K x_j is
    x_j . K^T Q_i. Keys and values of every row and task, (K, B, k, h) each, are thus never formed; one matrix product
    of the tokens gives both. Clustering tasks need the attended token itself and form it; what they rebuild is the
    whole input, also where part of it was dropped.
    """
    members, size, h = layout.members, len(rows), settings.width
    embeddings = []
    for number, x in enumerate(rows.inputs):
        if dice is not None and settings.input_dropout:
            x = x * dice.kept(x.shape, settings.input_dropout, x.dtype)
        # Minibatches are shared, yet each member has its own product: that of one wide layer rounds by its width.
        hidden = _apply(values, f"encoder.{number}.in", x.expand(members, -1, -1)).relu_()
        z = _apply(values, f"encoder.{number}.out", hidden)
        if rows.present is not None:
            z = z * rows.present[:, number, None]
        embeddings.append(z)
    joint = torch.cat(embeddings, dim=2)

    tokens = []
    if layout.supervised:
        shared = _apply(values, "shared.out", _apply(values, "shared.in", joint).relu_())
        tokens.append(_apply(values, "task", shared).relu_().view(members, size, layout.supervised, h))
    if layout.clustering:
        tokens.append(_apply(values, "autoencoder.encode", joint).relu_().view(members, size, layout.clustering, h))
    x = tokens[0] if len(tokens) == 1 else torch.cat(tokens, dim=2)  # (K, B, k, h), X_s of section 3.4

    read = [_attend(values, layout, x, of, width, settings) for width, of in layout.by_widest.items()]
    attention = layout.in_order([weights for weights, _ in read])
    logits = layout.in_order([F.pad(logits, (0, layout.outputs - logits.shape[3])) for _, logits in read])

    latents = x.new_zeros(members, size, 0, h)
    rebuilt = x.new_zeros(members, 0, size, sum(part.shape[-1] for part in rows.inputs))
    if layout.clustering:
        attended = torch.matmul(attention[:, :, layout.supervised :], x).reshape(members, -1, h)
        latents = _apply(values, "attention.value", attended).view(members, size, layout.clustering, h)
        rebuilt = _decode(values, latents)
    return Output(logits, attention, latents, rebuilt, tuple(embeddings))


def _attend(
    values: Parameters, layout: Layout, x: Tensor, of: Tensor, outputs: int, settings: M3HSettings
) -> tuple[Tensor, Tensor]:
    """Attention (G, B, k, k) and logits (G, s, B, outputs) of the G members `of`, whose widest head has `outputs`.

    x: (K, B, k, h) tokens of all members, X_s of section 3.4.
    """

    def own(name: str) -> Tensor:
        return values[name] if len(of) == layout.members else values[name].index_select(0, of)

    if len(of) != layout.members:
        x = x.index_select(0, of)
    size, tasks, s, h = x.shape[1], layout.tasks, layout.supervised, x.shape[3]
    query = torch.baddbmm(
        own("attention.query.bias").unsqueeze(1),
        filled(own("attention.token")),
        own("attention.query.weight").transpose(1, 2),
    )[:, :tasks]  # (G, k, h)
    # One row would be a product of another kind, which rounds otherwise alone than in a pack: hence rows of zeros.
    readers = torch.bmm(filled(query), own("attention.key.weight"))[:, :tasks]  # K^T Q_i
    if s:
        head = own("head.weight")[:, :, :outputs].reshape(len(of), s * outputs, h)
        votes_of = torch.bmm(filled(head), own("attention.value.weight"))[:, : s * outputs]  # V^T w_i
        readers = torch.cat([readers, votes_of], dim=1)
    readers = filled(readers)
    read = torch.bmm(x.reshape(len(of), size * tasks, h), readers.transpose(1, 2)).view(len(of), size, tasks, -1)
    offset = (query * own("attention.key.bias").unsqueeze(1)).sum(2)  # (G, k)
    agreement = read[..., :tasks].transpose(2, 3) + offset[:, None, :, None]  # M, (G, B, k, k)
    # Section 3.4 leaves the axis of max(M) open: it is taken over the sample, and kept away from zero.
    if settings.attention_maximum == "magnitude":
        peak = agreement.abs().amax(dim=(2, 3), keepdim=True).clamp_min(_FLOOR)
    else:
        largest = agreement.amax(dim=(2, 3), keepdim=True)
        peak = torch.where(largest < 0, largest.clamp_max(-_FLOOR), largest.clamp_min(_FLOOR))
    self_learning = torch.eye(tasks, dtype=x.dtype, device=x.device)
    attention = torch.softmax(self_learning + settings.alpha * agreement / peak, dim=3)
    if not s:
        return attention, x.new_zeros(len(of), 0, size, outputs)
    votes = read[..., tasks : tasks + s * outputs].view(len(of), size, tasks, s, outputs)
    mixed = (attention[:, :, :s].transpose(2, 3).unsqueeze(4) * votes).sum(2)
    constant = (head * own("attention.value.bias").unsqueeze(1)).sum(2).view(len(of), s, 1, outputs)
    return attention, mixed.transpose(1, 2) + constant + own("head.bias")[:, :, None, :outputs]


def _decode(values: Parameters, latents: Tensor) -> Tensor:
    """Decoder of each clustering slot: (K, B, c, h) attended tokens to (K, c, B, D) inputs."""
    members, size, slots, _ = latents.shape
    x = F.pad(latents.transpose(1, 2), (0, 0, 0, -size % ALIGN)).flatten(0, 1)
    hidden, out = (
        (
            values[f"autoencoder.decode.{name}.weight"].flatten(0, 1),
            values[f"autoencoder.decode.{name}.bias"].flatten(0, 1),
        )
        for name in ("in", "out")
    )
    rebuilt = own_linear(own_linear(x, *hidden).relu(), *out)
    return rebuilt.view(members, slots, -1, rebuilt.shape[2])[:, :, :size]


def losses(output: Output, layout: Layout, rows: Rows, settings: M3HSettings) -> Losses:
    """Every loss of section 3.5, each a mean over the rows that carry the label; 0 where no row does."""
    contrastive = info_nce(output.inner, rows.present, settings.temperature)
    rebuild = output.logits.new_zeros(layout.members, 0)
    if layout.clustering:
        error = (output.rebuilt - torch.cat(rows.inputs, dim=1)).square()
        if rows.present is None:
            rebuild = error.mean(dim=(2, 3))
        else:
            cells = rows.seen_cells()
            rebuild = (error * cells).sum(dim=(2, 3)) / cells.sum().clamp_min(1.0)
    supervised = supervised_losses(output.logits, layout, rows)
    if settings.task_weights:
        weighted = layout.weighted(torch.cat([supervised, rebuild], dim=1), settings.task_weights)
        supervised, rebuild = weighted.split([layout.supervised, layout.clustering], dim=1)
    return Losses(contrastive, supervised, rebuild)


def unsupported(cohort: Cohort, settings: M3HSettings) -> list[str]:
    """See `model.networks.contract.Network.unsupported`."""
    wrong = [f"modality {m.name} is a {m.kind}" for m in cohort.modalities.values() if m.kind != "vector"]
    wrong += [f"task {task.name} is {task.kind}" for task in cohort.tasks.values() if task.kind == "multilabel"]
    return wrong + unknown_names(cohort, task_weights=settings.task_weights)


def schedule(settings: M3HSettings, offered: Schedules[S]) -> S:
    """See `model.networks.contract.Network.schedule`."""
    by_update = {
        "joint": offered.jointly,
        "sequential": offered.loss_by_loss,
        "in_turn": offered.reached_by_loss,
    }
    return by_update[settings.update]


def step_flops(members: Subset, tasks: Mapping[str, Task], fold: Fold, settings: M3HSettings) -> float:
    """Floating-point operations of one training step of one subset on a full minibatch.

    The count is the textbook one: two a multiply-add, backward twice the forward, the first layer without a gradient
    for its input. It is the floor that measured times are held against.
    """
    h = settings.width
    rows = min(settings.batch_size, len(fold.train))
    widths = [x.shape[1] for x in fold.train.inputs]
    modalities, tasks_in = len(widths), len(members)
    clustering = sum(tasks[name].kind == "clustering" for name in members)
    joint = h * modalities
    first = sum(4 * rows * width * 2 * h for width in widths)
    layers = [(2 * h, h)] * modalities + [(joint, h), (h, h)]  # encoders, shared-task module
    layers += [(h, h)] * (tasks_in - clustering) + [(joint, h)] * clustering
    layers += [(h, h)] * (2 * tasks_in)  # keys and values
    layers += [(h, 2 * h), (2 * h, sum(widths))] * clustering
    contrastive = modalities * (modalities - 1) // 2 * 6 * rows * rows * h
    return float(first + sum(6 * rows * a * b for a, b in layers) + contrastive)


def member_bytes(shape: Shape, settings: M3HSettings) -> int:
    """See `model.networks.contract.Network.member_bytes`."""
    widths = [width for (width,) in shape.inputs]
    size, clustering, outputs, rows = shape.size, shape.clustering, shape.outputs, shape.rows
    h, m, d, s = settings.width, len(widths), sum(widths), size - clustering
    item = 8 if settings.precision == "float64" else 4
    encoders = sum(width * 2 * h + 2 * h + 2 * h * h + h for width in widths)
    shared = h * h * m + h * h + 3 * h * h + 5 * h if s else 3 * h * h + 3 * h
    own = s * (h * h + h + outputs * (h + 1)) + size * h
    autoencoders = clustering * (h * (h * m + 1) + 2 * h * (h + 1) + d * (2 * h + 1))
    parameters = encoders + shared + own + autoencoders
    readers = size + s * outputs

    def forward(n: int) -> int:
        """Numbers of n rows: what forward makes and a backward pass needs again."""
        hidden, embeddings = n * 2 * h, n * m * h * 2
        tokens = n * h * ((2 + 2 * s if s else 0) + 2 * clustering)
        attention = n * (size * readers + 4 * size * size + 2 * size * s * outputs)
        return hidden + embeddings + tokens + attention + clustering * n * (3 * h + d)

    # Training rows are looked at again only for the latents that k-means learns from.
    batch, score = (
        min(settings.batch_size, rows[0]),
        min(settings.evaluation_rows, max(rows) if clustering else rows[1]),
    )
    # Adam's two moments, the gradient and an average stand beside the parameters; encoders keep all their hidden
    # layers; of the contrastive term unit vectors, slopes and products stay; backward holds the gradients of the widest
    # layers.
    training = forward(batch) + batch * h * (4 * m + 2 * (m - 1)) + clustering * 2 * batch * d
    training += (4 + bool(settings.average)) * parameters
    if settings.balance in BY_GRADIENT and size > 1:
        training += (size + 1) * (encoders + shared)  # a gradient of each task, and what they change
    latents = 3 * sum(rows) * h * clustering  # also in double precision
    scoring = parameters + forward(score) + clustering * score * d + latents
    return item * max(training, scoring)
