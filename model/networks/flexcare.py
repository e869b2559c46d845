"""FlexCare for a whole pack: incomplete modalities, tasks one at a time (FlexCare paper, section 4; KDD 2024).

Every parameter has a leading member axis (K, ...), as M3H's have, so that training one subset alone is a pack of one.
Read `forward` beside section 4 of the paper; docs/networks.md says what the paper leaves open and what we chose. Shapes
are in comments as K members, B rows, k tasks a member, C modality combinations, N tokens of a sample beside the tasks',
d width, E experts.

The paper's sequence is [task token, combination tokens, modality tokens]. Here it holds the tokens of all k tasks of a
member, none of which any other token attends to (Eq. 4): so k tasks are judged in one pass, and each is judged as it
would be alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from model.cohorts.cohort import Cohort
from model.data.folds import Fold, Rows
from model.data.seeding import generator, linear
from model.networks.contract import (
    Dice,
    Layout,
    Output,
    Parameters,
    S,
    Schedules,
    Shape,
    Shows,
    supervised_losses,
    unknown_names,
)
from model.networks.flexcare_tokens import attention_mask, combinations_of, counts_of, existing
from model.networks.settings import BY_GRADIENT, FlexCareSettings, judged_at_once
from model.networks.stacked import apply, apply_to_shared, experts_of, norm
from model.networks.starts import Start
from tim_search.types import Task

_SPREAD = 0.02  # standard deviation of what tokens and positions start from

TAKES = "vector, sequence and image modalities and binary, multiclass, multilabel and regression tasks"


@dataclass(frozen=True)
class Inner:
    """What happened inside, for B rows and k tasks a member.

    Attributes:
        covariance: (K,) L_cov of Eq. 7.
        balance: (K,) how unevenly the experts were used; 0 where nothing trains or there is one expert.
        routing: (K, B, k, C, E) R of Eq. 9; zero for the combinations a sample lacks.
        fusion: (K, B, k, C) alpha of Eq. 12; zero for the combinations a sample lacks.
        patient: (K, B, k, 2d) s^p of Eq. 11, what the heads read.
    """

    covariance: Tensor
    balance: Tensor
    routing: Tensor
    fusion: Tensor
    patient: Tensor


@dataclass(frozen=True)
class Losses:
    """Prediction losses (K, s) with their weights (K, s), and the two regularising terms (K,)."""

    supervised: Tensor
    weights: Tensor
    covariance: Tensor
    balance: Tensor

    def by_member(self, settings: FlexCareSettings) -> Tensor:
        """(K,) Eq. 13, with the balance of the experts.

        Trained in turns a member has one task, whose weight multiplies the whole. With `update: joint` the terms that
        all tasks share have the mean of their weights.
        """
        return self.by_task(settings).sum(1) + self.beside_tasks(settings)

    def by_task(self, settings: FlexCareSettings) -> Tensor:
        """See `model.networks.contract.LossesByTask`."""
        return self.weights * self.supervised

    def beside_tasks(self, settings: FlexCareSettings) -> Tensor:
        """See `model.networks.contract.LossesByTask`: decorrelation and balance of the experts."""
        shared = settings.covariance_weight * self.covariance + settings.balance_weight * self.balance
        return self.weights.mean(1) * shared if settings.weighted == "whole" else shared


def initialise(
    layout: Layout, tasks: Mapping[str, Task], fold: Fold, seed: int, settings: FlexCareSettings
) -> Parameters:
    """Starting parameters of a pack, each (K, ...); shared ones from (seed), a task's own from (seed, task)."""
    d = settings.width
    shapes = [tuple(x.shape[1:]) for x in fold.train.inputs]
    start = Start(layout, fold, seed)

    def drawn(*names: object, shape: tuple[int, ...]) -> Tensor:
        return _SPREAD * torch.randn(*shape, generator=generator(seed, *names), dtype=torch.float64)

    def norm(name: str) -> None:
        start.alike(f"{name}.weight", torch.ones(d))
        start.alike(f"{name}.bias", torch.zeros(d))

    for number, (shape, count) in enumerate(zip(shapes, counts_of(shapes, settings.patch), strict=True)):
        start.shared(f"embed.{number}", d, shape[0] * settings.patch**2 if len(shape) == 3 else shape[-1])
        start.alike(f"position.{number}", drawn("position", number, shape=(count, d)))
    combos = combinations_of(len(shapes), settings.combinations)
    start.alike("combination.token", torch.stack([drawn("combination", *c, shape=(d,)) for c in combos]))
    for layer in range(settings.layers):
        start.shared(f"encoder.{layer}.query", d, d)
        start.shared(f"encoder.{layer}.key_value", 2 * d, d)
        start.shared(f"encoder.{layer}.out", d, d)
        norm(f"encoder.{layer}.norm.0")
        start.shared(f"encoder.{layer}.feed.in", settings.hidden, d)
        start.shared(f"encoder.{layer}.feed.out", d, settings.hidden)
        norm(f"encoder.{layer}.norm.1")
    if settings.experts > 1:
        for name in ("router", "router.noise"):
            start.shared(f"{name}.combination", settings.experts, d, bias=False)
            start.shared(f"{name}.task", settings.experts, d, bias=False)
    for part, outputs, inputs in (("in", settings.expert_hidden, d), ("out", d, settings.expert_hidden)):
        layers = [linear(seed, "expert", part, e, outputs=outputs, inputs=inputs) for e in range(settings.experts)]
        start.alike(f"expert.{part}.weight", torch.stack([weight for weight, _ in layers]))
        start.alike(f"expert.{part}.bias", torch.stack([bias for _, bias in layers]))
    start.shared("fusion.in", d, 2 * d, bias=False)
    start.shared("fusion.out", 1, d, bias=False)
    norm("fusion.norm")
    start.by_task(slice(None), lambda task: (drawn("token", task, shape=(d,)),), "task.token")
    start.heads(tasks, settings, 2 * d)
    return start.values


def replayable(settings: FlexCareSettings) -> bool:
    """See `model.networks.contract.Network.replayable`."""
    return False


def by_slot(name: str) -> bool:
    """See `model.networks.contract.Network.by_slot`."""
    return name.startswith(("task.", "head."))


def forward(
    values: Parameters, layout: Layout, rows: Rows, settings: FlexCareSettings, dice: Dice | None = None
) -> Output:
    """The pack's outputs for some rows (FlexCare paper, sections 4.2 to 4.4)."""
    if settings.mask == "published_code" and layout.tasks > 1:
        # Nothing is masked there, so two task tokens in one sequence would influence each other.
        return _joined([_forward(values, slot, 1, rows, settings, dice) for slot in range(layout.tasks)])
    return _forward(values, 0, layout.tasks, rows, settings, dice)


def _forward(
    values: Parameters, slot: int, k: int, rows: Rows, settings: FlexCareSettings, dice: Dice | None
) -> Output:
    """`forward` for k slots from `slot` on."""
    d, size = settings.width, len(rows)
    members = values["task.token"].shape[0]
    counts = counts_of([x.shape[1:] for x in rows.inputs], settings.patch)
    combos = combinations_of(len(counts), settings.combinations)
    c = len(combos)

    there, exists = existing(rows, counts, combos, settings)  # (B, C), (B, N)
    token = values["task.token"][:, slot : slot + k]
    if settings.task_token == "none":
        token = torch.zeros_like(token)
    x = torch.cat(
        [
            token.unsqueeze(1).expand(-1, size, -1, -1),
            values["combination.token"].unsqueeze(1).expand(-1, size, -1, -1),
            *(_embed(values, number, inputs, settings) for number, inputs in enumerate(rows.inputs)),
        ],
        dim=2,
    )  # (K, B, k + N, d), H^0 of section 4.2.2
    allowed = attention_mask(counts, k, exists, settings)
    for layer in range(settings.layers):
        # Of the last layer's outputs only those of the tasks and the combinations are read.
        asking = x if layer < settings.layers - 1 else x[:, :, : k + c]
        x = _layer(values, f"encoder.{layer}", asking, x, allowed, k, settings, dice)
    task, combination = x[:, :, :k], x[:, :, k : k + c]  # z^task, Z^comb
    if settings.task_token == "none":
        task = torch.zeros_like(task)

    centred = combination - combination.mean(dim=3, keepdim=True)
    covariance = centred @ centred.transpose(2, 3) / (d - 1)  # Eq. 5, (K, B, C, C)
    off = covariance.square().sum(dim=(2, 3)) - covariance.diagonal(dim1=2, dim2=3).square().sum(2)
    regulariser = (off / max(1, c - 1) ** 2).mean(1)  # Eq. 6 and 7

    refined, routing, balance = _experts(values, combination, task, there, settings, dice)  # s^c, (K, B, k, C, d)
    both = torch.cat([task.unsqueeze(3).expand(-1, -1, -1, c, -1), refined], dim=4)
    votes = apply(values, "fusion.out", torch.tanh(apply(values, "fusion.in", both))).squeeze(4)  # Eq. 12
    votes = (votes / settings.fusion_temperature).masked_fill(~there[:, None], -math.inf)
    fusion = votes.softmax(3)  # alpha of Eq. 11, (K, B, k, C)
    pooled = norm(values, "fusion.norm", (fusion.unsqueeze(4) * refined).sum(3))
    patient = torch.cat([task, pooled], dim=3)  # s^p of Eq. 11, (K, B, k, 2d)

    weight, bias = values["head.weight"][:, slot : slot + k], values["head.bias"][:, slot : slot + k]
    logits = patient.transpose(1, 2) @ weight.transpose(2, 3) + bias.unsqueeze(2)
    return Output(
        logits,
        None,
        x.new_zeros(members, size, 0, d),
        x.new_zeros(members, 0, size, 0),
        Inner(regulariser, balance, routing, fusion, patient),
    )


def _joined(outputs: Sequence[Output]) -> Output:
    """One output of several slots'."""
    inner = [output.inner for output in outputs]
    return Output(
        torch.cat([output.logits for output in outputs], dim=1),
        None,
        outputs[0].latents,
        outputs[0].rebuilt,
        Inner(
            torch.stack([part.covariance for part in inner]).mean(0),
            torch.stack([part.balance for part in inner]).mean(0),
            *(torch.cat([getattr(part, name) for part in inner], dim=2) for name in ("routing", "fusion", "patient")),
        ),
    )


def _embed(values: Parameters, number: int, x: Tensor, settings: FlexCareSettings) -> Tensor:
    """Tokens of one modality (Eq. 1): (K, B, N_m, d)."""
    if x.dim() == 4:
        patch = settings.patch
        x = F.pad(x, (0, -x.shape[3] % patch, 0, -x.shape[2] % patch))
        x = F.unfold(x, patch, stride=patch).transpose(1, 2)  # (B, N_m, c * patch * patch)
    elif x.dim() == 2:
        x = x.unsqueeze(1)
    return apply_to_shared(values, f"embed.{number}", x) + values[f"position.{number}"].unsqueeze(1)


def _layer(
    values: Parameters,
    name: str,
    asking: Tensor,
    asked: Tensor,
    mask: tuple[Tensor, Tensor | None],
    k: int,
    settings: FlexCareSettings,
    dice: Dice | None,
) -> Tensor:
    """One encoder layer (Eq. 2 and 3), post-norm: (K, B, A, d) of the tokens that ask."""
    members, size, a, d = asking.shape
    heads, rate = settings.heads, settings.dropout if dice is not None else 0.0

    def split(x: Tensor) -> Tensor:
        return x.reshape(members, size, x.shape[2], heads, -1).transpose(2, 3)  # (K, B, heads, tokens, d / heads)

    def drop(x: Tensor, *shape: int, columns: bool = False) -> Tensor:
        """Dropout. All members draw alike, and all tasks: no draw depends on how many tasks there are."""
        if not rate:
            return x
        assert dice is not None
        dropped = dice.kept((size, *shape), rate, x.dtype)
        for axis in (-2, -1) if columns else (-2,):
            if k != 1:
                others = torch.arange(1, dropped.shape[axis], device=x.device)
                dropped = dropped.index_select(axis, torch.cat([others.new_zeros(k), others]))
        return x * dropped

    query = split(apply(values, f"{name}.query", asking))
    key, value = (split(part) for part in apply(values, f"{name}.key_value", asked).split(d, dim=3))
    scores = query @ key.transpose(3, 4) / math.sqrt(d // heads)
    allowed, added = mask
    if added is not None:
        scores = scores + added[:a].to(scores.dtype)
    scores = scores.masked_fill(~allowed[:, None, :a], -math.inf)
    weights = drop(scores.softmax(4), heads, a - k + 1, asked.shape[2] - k + 1, columns=True)
    attended = (weights @ value).transpose(2, 3).reshape(members, size, a, d)
    x = norm(values, f"{name}.norm.0", asking + drop(apply(values, f"{name}.out", attended), a - k + 1, d))
    fed = drop(apply(values, f"{name}.feed.in", x).relu(), a - k + 1, settings.hidden)
    return norm(values, f"{name}.norm.1", x + drop(apply(values, f"{name}.feed.out", fed), a - k + 1, d))


def _experts(
    values: Parameters, combination: Tensor, task: Tensor, there: Tensor, settings: FlexCareSettings, dice: Dice | None
) -> tuple[Tensor, Tensor, Tensor]:
    """The mixture of experts (Eq. 8 to 10, with the noise and the balance of Shazeer et al. 2017).

    An expert reads the combination's token alone, the router also the task's.

    Returns:
        s^c (K, B, k, C, d), R (K, B, k, C, E) and the balance term (K,).
    """
    members, size, c, _ = combination.shape
    k, e = task.shape[2], settings.experts
    balance = combination.new_zeros(members)
    if e == 1:
        routing = combination.new_ones(members, size, k, c, 1)
    else:
        clean = _routes(values, "router", combination, task)
        if dice is None:
            routing = _top(clean, settings.top)
        else:
            spread = F.softplus(_routes(values, "router.noise", combination, task)) + settings.gate_noise
            noise = dice.normal((size, 1, c, e), clean.dtype)
            noisy = clean + noise * spread
            routing = _top(noisy, settings.top)
    routing = routing * there[:, None, :, None]
    if e > 1 and dice is not None:
        balance = _variation(routing.sum(dim=(1, 2, 3)))
        if settings.top < e:
            chance = _chances(clean, noisy, spread, settings.top) * there[:, None, :, None]
            balance = balance + _variation(chance.sum(dim=(1, 2, 3)))
        else:
            balance = balance + _variation((routing > 0).to(routing.dtype).sum(dim=(1, 2, 3)))

    return experts_of(values, combination, routing), routing, balance


def _routes(values: Parameters, name: str, combination: Tensor, task: Tensor) -> Tensor:
    """(K, B, k, C, E) logits of a router that reads combination and task tokens (Eq. 9)."""
    by_combination = apply(values, f"{name}.combination", combination).unsqueeze(2)
    return by_combination + apply(values, f"{name}.task", task).unsqueeze(3)


def _top(logits: Tensor, top: int) -> Tensor:
    """Softmax over the `top` largest of the last axis, 0 elsewhere (Eq. 9 and 10)."""
    largest, at = logits.topk(min(top, logits.shape[-1]), dim=-1)
    return torch.zeros_like(logits).scatter(-1, at, largest.softmax(-1))


def _chances(clean: Tensor, noisy: Tensor, spread: Tensor, top: int) -> Tensor:
    """Chance of each expert to be among the top if its noise were drawn again (Shazeer et al. 2017, appendix A)."""
    largest = noisy.topk(top + 1, dim=-1).values
    inside = noisy > largest[..., top : top + 1]
    bar = torch.where(inside, largest[..., top : top + 1], largest[..., top - 1 : top])
    return torch.special.ndtr((clean - bar) / spread)


def _variation(load: Tensor) -> Tensor:
    """(K,) squared coefficient of variation over the experts of (K, E)."""
    return load.var(1) / (load.mean(1).square() + 1e-10)


def losses(output: Output, layout: Layout, rows: Rows, settings: FlexCareSettings) -> Losses:
    """The terms of Eq. 13; a prediction loss is a mean over the rows that carry the label."""
    supervised = supervised_losses(output.logits, layout, rows)
    weights = layout.weighted(torch.ones_like(supervised), settings.task_weights)
    inner: Inner = output.inner
    return Losses(supervised, weights, inner.covariance, inner.balance)


def schedule(settings: FlexCareSettings, offered: Schedules[S]) -> S:
    """See `model.networks.contract.Network.schedule`; task by task is Algorithm 1."""
    return offered.task_by_task if settings.update == "asynchronous" else offered.jointly


def unsupported(cohort: Cohort, settings: FlexCareSettings) -> list[str]:
    """See `model.networks.contract.Network.unsupported`."""
    wrong = [f"task {task.name} is {task.kind}" for task in cohort.tasks.values() if task.kind == "clustering"]
    return wrong + unknown_names(cohort, task_weights=settings.task_weights, order=settings.order)


def member_bytes(shape: Shape, settings: FlexCareSettings) -> int:
    """See `model.networks.contract.Network.member_bytes`."""
    d, k = settings.width, shape.size
    counts = counts_of(shape.inputs, settings.patch)
    c = len(combinations_of(len(counts), settings.combinations))
    widths = [s[0] * settings.patch**2 if len(s) == 3 else s[-1] for s in shape.inputs]
    e, f = settings.experts, settings.expert_hidden
    parameters = (
        sum(d * (width + 1 + count) for width, count in zip(widths, counts, strict=True))
        + settings.layers * (4 * d * d + 2 * d * settings.hidden + 9 * d + settings.hidden)
        + (4 * d * e if e > 1 else 0)
        + e * (2 * d * f + d + f)
        + 2 * d * d
        + (3 + c) * d
        + k * (d + shape.outputs * (2 * d + 1))
    )

    def numbers(rows: int, tasks: int, *, layers: int) -> int:
        """Numbers of some rows that a backward pass needs again, or the largest that stand at one time."""
        n = tasks + c + sum(counts)
        layer = 12 * n * d + 3 * n * settings.hidden + 5 * settings.heads * n * n
        return rows * (layers * layer + tasks * c * (6 * e + 3 * e * f + 6 * d) + 2 * n * d)

    item = 8 if settings.precision == "float64" else 4
    copies = 7 + bool(settings.average) + (k + 1 if settings.balance in BY_GRADIENT and k > 1 else 0)
    training = copies * parameters + numbers(min(settings.batch_size, shape.rows[0]), 1, layers=settings.layers)
    scoring = 4 * parameters + numbers(min(judged_at_once(settings, shape.inputs), shape.rows[1]), k, layers=1)
    return item * max(training, scoring)


INSIDE = Shows(
    without_task_token=lambda settings: replace(settings, task_token="none"),
    combinations=lambda modalities, settings: combinations_of(modalities, settings.combinations),
)
