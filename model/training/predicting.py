"""What a pack predicts for rows: logits, latents, attention, and how much of the inputs it rebuilds."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from model.data.folds import Rows
from model.networks.settings import judged_at_once
from model.training.pack import PackModel
from model.training.precision import products


@dataclass(frozen=True)
class Predictions:
    """A pack's outputs over rows.

    Attributes:
        logits: (K, s, n, C) of the supervised slots.
        latents: (K, n, c, h) attended tokens of the clustering slots.
        attention: (K, k, k), mean over the rows; None of a network without cross-task attention.
        rebuild_r2: (K, c) share of the inputs' variance that the clustering slots' decoders rebuild.
    """

    logits: Tensor
    latents: Tensor
    attention: Tensor | None
    rebuild_r2: Tensor


@torch.no_grad()
def predict(model: PackModel, rows: Rows) -> Predictions:
    """Outputs of a pack for rows in their order."""
    logits, latents, attention = [], [], []
    rebuilt = _Rebuilt(rows) if model.layout.clustering else None
    for part in rows.split(judged_at_once(model.settings, rows.shapes)):
        # Of a part's outputs only these stay: reconstructions and embeddings of all rows would fill the memory.
        with products(model.settings):
            output = model.network.forward(model.values, model.layout, part, model.settings)
        logits.append(output.logits)
        latents.append(output.latents)
        if output.attention is not None:
            attention.append(output.attention.sum(1))
        if rebuilt is not None:
            rebuilt.add(output.rebuilt)
        del output  # before the next part's is made
    return Predictions(
        torch.cat(logits, dim=2),
        torch.cat(latents, dim=1),
        torch.stack(attention).sum(0) / len(rows) if attention else None,
        logits[0].new_zeros(model.layout.members, 0) if rebuilt is None else rebuilt.r2(),
    )


class _Rebuilt:
    """Share of the inputs' variance that decoders rebuild, summed up part by part."""

    def __init__(self, rows: Rows) -> None:
        self._inputs, self._cells = torch.cat(rows.inputs, dim=1), rows.seen_cells()
        mean = (self._inputs * self._cells).sum(0) / self._cells.sum(0).clamp_min(1.0)
        self._spread = ((self._inputs - mean).square() * self._cells).sum().clamp_min(1e-12)
        self._error: Tensor | float = 0.0
        self._row = 0

    def add(self, rebuilt: Tensor) -> None:
        """(K, c, B, D) of the next B rows."""
        here = slice(self._row, self._row + rebuilt.shape[2])
        self._error = self._error + (rebuilt - self._inputs[here]).square_().mul_(self._cells[here]).sum(dim=(2, 3))
        self._row = here.stop

    def r2(self) -> Tensor:
        """(K, c)"""
        return 1.0 - self._error / self._spread
