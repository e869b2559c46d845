"""A network of one's own: encoders gated by each task, so that every task listens to the modalities it needs.

Search with it, in this folder:

    tim-search run own_network.yaml --allow-code

docs/networks.md is the contract; test_networks.py shows how the conformance suite is put to a network.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from model.lifted import OwnNetwork
from model.settings import OwnSettings


@dataclass(frozen=True)
class GatedSettings(OwnSettings):
    """One setting more: features of each modality's embedding."""

    features: int = 32


class Gate(nn.Module):
    """A task's own part: how much it listens to each modality, and what it makes of the sum."""

    def __init__(self, features: int, width: int) -> None:
        super().__init__()
        self.listen = nn.Linear(features, 1)
        self.out = nn.Linear(features, width)

    def forward(self, seen: Tensor, present: Tensor) -> Tensor:
        """(B, m, features) embeddings and bool (B, m) to (B, width)."""
        weight = torch.sigmoid(self.listen(seen)) * present.unsqueeze(2)
        return torch.relu(self.out((weight * seen).sum(1)))


class Gated(OwnNetwork):
    """One encoder a modality, shared by all tasks, and one gate a task."""

    Settings = GatedSettings

    def __init__(self, widths: tuple[int, ...], settings: GatedSettings) -> None:
        super().__init__(widths, settings)
        self.sizes = (settings.features, settings.width)
        self.encoders = nn.ModuleList(nn.Linear(width, settings.features) for width in widths)

    def task_part(self) -> nn.Module:
        """See OwnNetwork."""
        return Gate(*self.sizes)

    def forward(self, inputs: tuple[Tensor, ...], present: Tensor, parts: nn.ModuleList) -> Tensor:
        """See OwnNetwork."""
        seen = torch.stack([torch.relu(encode(x)) for encode, x in zip(self.encoders, inputs, strict=True)], dim=1)
        return torch.stack([part(seen, present) for part in parts])
