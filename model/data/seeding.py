"""Where every random number of a training comes from, by name.

Common random numbers: shared parameters start from (seed), a task's own parameters from (seed, task), the batch order
from (seed, epoch), or (seed, epoch, task) where tasks train in turn. The same task thus starts from the same place in
every subset, so that the difference between two subsets is the tasks' doing and not the dice's.
"""

from __future__ import annotations

import hashlib
import math

import torch
from torch import Tensor


def generator(*names: object) -> torch.Generator:
    """A CPU generator seeded by its names alone: the same on every machine, in every process, in every order."""
    key = hashlib.sha256("\x1f".join(map(str, names)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(key[:8], "little") >> 1)


def linear(*names: object, outputs: int, inputs: int) -> tuple[Tensor, Tensor]:
    """Weight (outputs, inputs) and bias (outputs,), float64, uniform in +-1/sqrt(inputs) as PyTorch's own Linear."""
    bound = 1.0 / math.sqrt(inputs)
    dice = generator(*names)
    weight = torch.rand(outputs, inputs, generator=dice, dtype=torch.float64)
    bias = torch.rand(outputs, generator=dice, dtype=torch.float64)
    return (2 * weight - 1) * bound, (2 * bias - 1) * bound


def batch_order(seed: int, epoch: int, rows: int, *task: str) -> Tensor:
    """Permutation of the training rows, or of those that carry a task's label, int64 (rows,)."""
    return torch.randperm(rows, generator=generator("batches", seed, epoch, *task))
