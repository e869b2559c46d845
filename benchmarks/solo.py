"""M3H for one subset as a PyTorch user would write it: modules, autograd, Adam. The yardstick of fused training.

A decent loop: tensors on the device, batched attention, no logging in the loop. Three things make it faster on
request: `Adam(fused=True)`; masks in place of gathered rows in the contrastive term, which never wait for the device;
and a CUDA graph that replays a whole step. Same mathematics and shapes as `m3h`; only speed is measured with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import combinations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.data.folds import Fold, Rows
from model.data.seeding import batch_order
from model.networks.settings import M3HSettings
from tim_search.types import Subset, Task

_NEVER = -1e4  # a similarity whose exponential is 0; finite, so that no gradient becomes NaN
_WARM_UP = 3  # steps before a capture, in which libraries allocate what they keep


class SoloM3H(nn.Module):
    """One subset's network; clustering tasks come last."""

    def __init__(self, members: Subset, tasks: Mapping[str, Task], fold: Fold, settings: M3HSettings) -> None:
        super().__init__()
        h = settings.width
        self.widths = [x.shape[1] for x in fold.train.inputs]
        joint, inputs = h * len(self.widths), sum(self.widths)
        self.settings = settings
        self.tasks = [
            tasks[name] for name in sorted(members, key=lambda name: (tasks[name].kind == "clustering", name))
        ]
        self.rows = [fold.supervised.index(t.name) for t in self.tasks if t.kind != "clustering"]
        self.encoders = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 2 * h), nn.ReLU(), nn.Linear(2 * h, h)) for width in self.widths
        )
        self.shared = nn.Sequential(nn.Linear(joint, h), nn.ReLU(), nn.Linear(h, h))
        self.own = nn.ModuleList(
            nn.Sequential(nn.Linear(joint if t.kind == "clustering" else h, h), nn.ReLU()) for t in self.tasks
        )
        self.token = nn.Parameter(torch.randn(len(self.tasks), h))
        self.query, self.key, self.value = nn.Linear(h, h), nn.Linear(h, h), nn.Linear(h, h)
        self.heads = nn.ModuleList(
            nn.Sequential(nn.Linear(h, 2 * h), nn.ReLU(), nn.Linear(2 * h, inputs))
            if t.kind == "clustering"
            else nn.Linear(h, t.n_outputs if t.kind == "multiclass" else 1)
            for t in self.tasks
        )

    def loss(self, rows: Rows, *, masked: bool = False) -> Tensor:
        """The sum of all losses of a minibatch, a number.

        Args:
            rows: the minibatch.
            masked: the contrastive term is taken over all rows under a mask, so that every shape is known beforehand;
                else rows that have both modalities are gathered, and on a GPU the program waits for their number.
        """
        z = [encoder(x) for encoder, x in zip(self.encoders, rows.inputs, strict=True)]
        if rows.present is not None:
            z = [x * rows.present[:, m : m + 1] for m, x in enumerate(z)]
        joint = torch.cat(z, dim=1)
        shared = self.shared(joint)
        x = torch.stack(
            [own(joint if t.kind == "clustering" else shared) for own, t in zip(self.own, self.tasks, strict=True)], 1
        )
        m = self.query(self.token) @ self.key(x).transpose(1, 2)
        peak = m.abs().amax(dim=(1, 2), keepdim=True).clamp_min(1e-6)
        w = torch.softmax(torch.eye(len(self.tasks), device=m.device) + self.settings.alpha * m / peak, dim=2)
        attended = w @ self.value(x)
        total = self._contrastive(z, rows, masked)
        for slot, (task, head) in enumerate(zip(self.tasks, self.heads, strict=True)):
            said = head(attended[:, slot])
            if task.kind == "clustering":
                total = total + self._reconstruction(said, rows)
                continue
            row = self.rows[slot]
            weight = rows.labelled[row] / rows.labelled[row].sum().clamp_min(1)
            target = rows.targets[row]
            if task.kind == "binary":
                each = F.binary_cross_entropy_with_logits(said[:, 0], target, reduction="none")
            elif task.kind == "multiclass":
                each = F.cross_entropy(said, target.long(), reduction="none")
            else:
                each = (said[:, 0] - target).abs()
            total = total + (each * weight).sum()
        return total

    def _reconstruction(self, said: Tensor, rows: Rows) -> Tensor:
        """Mean squared error over the inputs of the modalities that a row has."""
        if rows.present is None:
            return F.mse_loss(said, torch.cat(rows.inputs, dim=1))
        there = rows.present.to(said.dtype)
        errors = [
            (guess - x).square().sum(1) for guess, x in zip(said.split(self.widths, dim=1), rows.inputs, strict=True)
        ]
        cells = sum(there[:, m].sum() * width for m, width in enumerate(self.widths))
        return (torch.stack(errors, 1) * there).sum() / torch.as_tensor(cells).clamp_min(1)

    def _contrastive(self, z: list[Tensor], rows: Rows, masked: bool) -> Tensor:
        unit = [F.normalize(x, dim=1) for x in z]
        terms = []
        for a, b in combinations(range(len(z)), 2):
            left, right = unit[a], unit[b]
            if rows.present is not None:
                both = rows.present[:, a] & rows.present[:, b]
                if masked:
                    terms.append(_masked_info_nce(left, right, both, self.settings.temperature))
                    continue
                gathered = both.nonzero().squeeze(1)
                left, right = left[gathered], right[gathered]
            s = left @ right.T / self.settings.temperature
            same = torch.arange(len(s), device=s.device)
            terms.append((F.cross_entropy(s, same) + F.cross_entropy(s.T, same)) / 2)
        return torch.stack(terms).mean()


def _masked_info_nce(left: Tensor, right: Tensor, both: Tensor, temperature: float) -> Tensor:
    """Symmetric InfoNCE of unit vectors (B, h) over the rows of a bool (B,); 0 where there is none."""
    s = left @ right.T / temperature
    weight = both.to(s.dtype) / both.sum().clamp_min(1)
    over_right = s.masked_fill(~both[None, :], _NEVER).logsumexp(1)
    over_left = s.masked_fill(~both[:, None], _NEVER).logsumexp(0)
    return (((over_right + over_left) / 2 - s.diagonal()) * weight).sum()


def train(
    members: Subset,
    tasks: Mapping[str, Task],
    fold: Fold,
    settings: M3HSettings,
    *,
    seed: int = 0,
    fused_adam: bool = False,
) -> SoloM3H:
    """Train one subset; the settings' epochs over the fold's training rows."""
    *_, network = training(members, tasks, fold, settings, seed=seed, fused_adam=fused_adam)
    return network


def training(
    members: Subset,
    tasks: Mapping[str, Task],
    fold: Fold,
    settings: M3HSettings,
    *,
    seed: int = 0,
    fused_adam: bool = False,
    masked: bool = False,
    graph: bool = False,
) -> Iterator[SoloM3H]:
    """Train one subset, and hand it out when all is prepared and after every epoch.

    Args:
        seed: of the starting point and of the order of the rows.
        fused_adam: one kernel moves all parameters.
        masked: see `SoloM3H.loss`.
        graph: a step is captured as a CUDA graph while preparing, one for full and one for the last, smaller minibatch,
            and replayed; masked, with fused Adam. On a CPU the same steps run uncaptured.
    """
    torch.manual_seed(seed)
    train_rows = fold.train
    device = train_rows.targets.device
    network = SoloM3H(members, tasks, fold, settings).to(device=device, dtype=train_rows.inputs[0].dtype)
    on_gpu = device.type == "cuda"
    optimiser = torch.optim.Adam(
        network.parameters(),
        lr=settings.learning_rate,
        fused=fused_adam or graph or None,
        capturable=graph and on_gpu,
    )

    def step(rows: Rows) -> None:
        optimiser.zero_grad(set_to_none=True)
        network.loss(rows, masked=masked or graph).backward()
        optimiser.step()

    replayed: dict[int, Callable[[Tensor], None]] = {}
    if graph:
        start = [value.detach().clone() for value in network.parameters()]
        size, rows = settings.batch_size, len(train_rows)
        for length in {min(size, rows), rows % size or size}:
            replayed[length] = _replayed(step, train_rows, length, optimiser)
        _begin_again(network, start, optimiser)
    yield network
    for epoch in range(settings.epochs):
        order = batch_order(seed, epoch, len(train_rows)).to(device)
        if graph:
            for part in order.split(settings.batch_size):
                replayed[len(part)](part)
        else:
            for minibatch in train_rows.take(order).split(settings.batch_size):
                step(minibatch)
        yield network


def _replayed(
    step: Callable[[Rows], None], rows: Rows, length: int, optimiser: torch.optim.Optimizer
) -> Callable[[Tensor], None]:
    """A step on minibatches of one length, given as the numbers of their rows; gathering them is captured too."""
    index = torch.arange(length, device=rows.targets.device)

    def whole() -> None:
        step(rows.take(index))

    replay = _captured(whole, optimiser) if index.is_cuda else whole

    def on(part: Tensor) -> None:
        index.copy_(part)
        replay()

    return on


def _captured(action: Callable[[], None], optimiser: torch.optim.Optimizer) -> Callable[[], None]:
    """Capture an action as PyTorch's notes on CUDA graphs ask: warmed up on a side stream, gradients not yet there."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(_WARM_UP):
            action()
    torch.cuda.current_stream().wait_stream(side)
    optimiser.zero_grad(set_to_none=True)  # so that the gradients lie in the graph's own memory
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        action()
    return graph.replay


@torch.no_grad()
def _begin_again(network: nn.Module, start: list[Tensor], optimiser: torch.optim.Optimizer) -> None:
    """Undo the steps of the warm-up, in place, since the graphs hold these very tensors."""
    for value, before in zip(network.parameters(), start, strict=True):
        value.copy_(before)
    for state in optimiser.state.values():
        for value in state.values():
            value.zero_()
