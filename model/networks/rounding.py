"""How a pack rounds as its members do alone: lengths, rows of zeros, and the linear layer of every member.

A library's product rounds by the shape of its matrices and by where in memory they begin. Here every product has, for a
member, the shape that it has for the member alone and begins at a boundary of 64 bytes, so that the result of a
training is the same in every bit whatever its pack mates are. Cost and measurement: benchmarks/NOTES.md; the tests are
those named "in every bit" in tests/model/networks.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

#: Numbers, 64 bytes or more: at such a boundary a product rounds alike at every place in memory.
ALIGN = 16

#: Rows. What is worked out number by number goes through in runs of two registers, 32 float32 at most; a function such
#: as the sigmoid rounds otherwise in the remainder, which only lengths that are multiples of a run do not have.
RUN = 32


class _Linear(torch.autograd.Function):
    """Each member's own linear layer; a weight's gradient is made in the weight's own layout, not copied into it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return torch.baddbmm(bias.unsqueeze(1), x, weight.transpose(1, 2))

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        (above,) = upstream
        below = torch.bmm(above, weight) if ctx.needs_input_grad[0] else None
        return below, torch.bmm(above.transpose(1, 2), x), above.sum(1)


def own_linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """(K, B, outputs): each member's own linear layer.

    Args:
        x: (K, B, inputs).
        weight, bias: (K, ..., outputs, inputs) and (K, ..., outputs); the layers of several slots are laid side by
            side as one.
    """
    members = weight.shape[0]
    product: Tensor = _Linear.apply(x, weight.reshape(members, -1, x.shape[2]), bias.reshape(members, -1))
    return product


def filled(x: Tensor) -> Tensor:
    """(G, n, h) with rows of zeros up to a multiple of `ALIGN`."""
    return F.pad(x, (0, 0, 0, -x.shape[1] % ALIGN))
