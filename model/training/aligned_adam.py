"""Adam whose steps round alike whatever pack a member is in; benchmarks/NOTES.md tells what that costs.

Adam takes numbers by registers, up to sixteen at a time, and a remainder one by one, and the two round differently. A
parameter that would leave a remainder becomes a view of a longer tensor, and so does its gradient. The cost is at most
fifteen numbers a parameter; `tests/support/network_conformance.py` holds packs against their members alone.
"""

from __future__ import annotations

import torch
from torch import Tensor

from model.networks.contract import Parameters
from model.networks.rounding import ALIGN


class AlignedAdam:
    """Adam on a pack's parameters.

    Every step moves every parameter: one that no loss reached counts as one with a zero gradient, in every pack alike.
    """

    def __init__(self, values: Parameters, rate: float) -> None:
        #: Parameters whose gradient each backward pass makes anew, and gradients that it adds to.
        self._fresh: list[Tensor] = []
        self._lasting: list[Tensor] = []
        self._optimiser = torch.optim.Adam([self._aligned(value) for value in values.values()], lr=rate, fused=True)

    def _aligned(self, value: Tensor) -> Tensor:
        """What the optimiser steps on for a parameter: a length that is a multiple of `ALIGN`."""
        count = value.numel()
        if count % ALIGN == 0:
            self._fresh.append(value)
            return value
        room, slope = (value.new_zeros(count + -count % ALIGN) for _ in range(2))
        room[:count] = value.detach().flatten()
        value.data, value.grad = room[:count].view(value.shape), slope[:count].view(value.shape)
        room.grad = slope
        self._lasting.append(slope)
        return room

    def forget(self) -> None:
        """Before the losses of a step: no gradient yet."""
        for value in self._fresh:
            value.grad = None
        if self._lasting:
            torch._foreach_zero_(self._lasting)

    def step(self) -> None:
        """After the backward pass of a step."""
        for value in self._fresh:
            if value.grad is None:
                value.grad = torch.zeros_like(value)
        self._optimiser.step()

    def state(self) -> list[Tensor]:
        """All that steps change and build on, once the first was made; from then on one may be recorded as a graph."""
        for group in self._optimiser.param_groups:
            group["capturable"] = group["params"][0].is_cuda
        stepped = [value.detach() for group in self._optimiser.param_groups for value in group["params"]]
        return stepped + [value for numbers in self._optimiser.state.values() for value in numbers.values()]
