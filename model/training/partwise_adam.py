"""Adam that moves what a loss reaches and nothing else, for training loss by loss.

Each member has moments and a count of steps of its own for every parameter and, of a parameter with a part for every
slot, for every part. A part is reached when its gradient is not zero throughout: neither another task's head nor
anything else moves for a loss that no row of the minibatch carries. Sums, products and roots are taken one by one, and
the corrections of the moments are looked up, so that a step rounds alike in every pack; it costs some twelve kernels a
parameter where the fused optimiser takes one for all (tests/model/training/test_partwise_adam.py).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from model.networks.contract import Parameters

_BETAS, _EPSILON = (0.9, 0.999), 1e-8  # of torch.optim.Adam


class PartwiseAdam:
    """Adam on a pack's parameters.

    Args:
        values: each (K, ...), or (K, slots, ...) where `by_slot` says so.
        steps: the most steps of a part.
    """

    def __init__(self, values: Parameters, by_slot: Callable[[str], bool], rate: float, steps: int) -> None:
        self._rate = rate
        self._values = list(values.values())
        self._leading = [2 if by_slot(name) else 1 for name in values]
        self._moments = [(torch.zeros_like(value), torch.zeros_like(value)) for value in self._values]
        self._steps = [
            torch.zeros(value.shape[:leading], dtype=torch.int64, device=value.device)
            for value, leading in zip(self._values, self._leading, strict=True)
        ]
        like = self._values[0]
        self._corrections = [like.new_tensor([1.0, *(1 - beta**t for t in range(1, steps + 1))]) for beta in _BETAS]

    def forget(self) -> None:
        """Before the losses of a step: no gradient yet."""
        for value in self._values:
            value.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """After the backward pass of a step."""
        for value, leading, moments, steps in zip(self._values, self._leading, self._moments, self._steps, strict=True):
            if (slope := value.grad) is None:
                continue
            reached = (slope.flatten(leading) != 0).any(-1)
            steps += reached
            shape = (*reached.shape, *[1] * (value.dim() - leading))
            moved = reached.view(shape)
            corrected = []
            for moment, beta, term, table in zip(
                moments, _BETAS, (slope, slope * slope), self._corrections, strict=True
            ):
                moment.copy_(torch.where(moved, moment * beta + term * (1 - beta), moment))
                corrected.append(moment / table[steps].view(shape))
            way = corrected[0] * self._rate / (corrected[1].sqrt() + _EPSILON)
            value.copy_(torch.where(moved, value - way, value))

    def state(self) -> list[Tensor]:
        """All that steps change and build on."""
        return [*(value.detach() for value in self._values), *(m for pair in self._moments for m in pair), *self._steps]
