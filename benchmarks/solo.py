"""M3H for one subset as a PyTorch user would write it: modules, autograd, Adam. The yardstick of fused training.

A decent loop: tensors on the device, index gathers, batched attention, no logging in the loop, `Adam(fused=True)` on
request. Same mathematics and shapes as `model.m3h`; only speed is measured with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.data import Fold, Rows
from model.seeding import batch_order
from model.settings import M3HSettings
from tim_search.types import Subset, Task


class SoloM3H(nn.Module):
    """One subset's network; clustering tasks come last."""

    def __init__(self, members: Subset, tasks: Mapping[str, Task], fold: Fold, settings: M3HSettings) -> None:
        super().__init__()
        h = settings.width
        widths = [x.shape[1] for x in fold.train.inputs]
        self.settings = settings
        self.tasks = [
            tasks[name] for name in sorted(members, key=lambda name: (tasks[name].kind == "clustering", name))
        ]
        self.rows = [fold.supervised.index(t.name) for t in self.tasks if t.kind != "clustering"]
        self.encoders = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 2 * h), nn.ReLU(), nn.Linear(2 * h, h)) for width in widths
        )
        self.shared = nn.Sequential(nn.Linear(h * len(widths), h), nn.ReLU(), nn.Linear(h, h))
        self.own = nn.ModuleList(
            nn.Sequential(nn.Linear(h * len(widths) if t.kind == "clustering" else h, h), nn.ReLU()) for t in self.tasks
        )
        self.token = nn.Parameter(torch.randn(len(self.tasks), h))
        self.query, self.key, self.value = nn.Linear(h, h), nn.Linear(h, h), nn.Linear(h, h)
        self.heads = nn.ModuleList(
            nn.Sequential(nn.Linear(h, 2 * h), nn.ReLU(), nn.Linear(2 * h, sum(widths)))
            if t.kind == "clustering"
            else nn.Linear(h, t.n_outputs if t.kind == "multiclass" else 1)
            for t in self.tasks
        )

    def loss(self, rows: Rows) -> Tensor:
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
        total = self._contrastive(z, rows)
        for slot, (task, head) in enumerate(zip(self.tasks, self.heads, strict=True)):
            said = head(attended[:, slot])
            if task.kind == "clustering":
                total = total + F.mse_loss(said, torch.cat(rows.inputs, dim=1))
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

    def _contrastive(self, z: list[Tensor], rows: Rows) -> Tensor:
        unit = [F.normalize(x, dim=1) for x in z]
        terms = []
        for a, b in combinations(range(len(z)), 2):
            left, right = unit[a], unit[b]
            if rows.present is not None:
                both = (rows.present[:, a] & rows.present[:, b]).nonzero().squeeze(1)
                left, right = left[both], right[both]
            s = left @ right.T / self.settings.temperature
            same = torch.arange(len(s), device=s.device)
            terms.append((F.cross_entropy(s, same) + F.cross_entropy(s.T, same)) / 2)
        return torch.stack(terms).mean()


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
    torch.manual_seed(seed)
    network = SoloM3H(members, tasks, fold, settings).to(fold.train.targets.device)
    optimiser = torch.optim.Adam(network.parameters(), lr=settings.learning_rate, fused=fused_adam or None)
    for epoch in range(settings.epochs):
        order = batch_order(seed, epoch, len(fold.train)).to(fold.train.targets.device)
        for rows in fold.train.take(order).split(settings.batch_size):
            optimiser.zero_grad(set_to_none=True)
            network.loss(rows).backward()
            optimiser.step()
    return network
