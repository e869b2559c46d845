"""What the machine can do at most: rates of products and copies, and the least time a set of trainings can take.

The floor is the larger of two terms. Products: textbook operations at the measured rate of a large square product.
Streaming, on a GPU only: every step reads each weight for its products, and Adam reads parameter, gradient and both
moments and writes all but the gradient, at the measured rate of a large copy. It is that of a pack: one network alone
stays in a GPU's cache, as a pack's parameters stay in a CPU's.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import TypeVar

import torch

from benchmarks.solo import SoloM3H
from model.data.folds import Fold
from model.networks.m3h import step_flops
from model.networks.settings import M3HSettings
from tim_search.types import Subset, Task

T = TypeVar("T")

ADAM_BYTES = 28  # a parameter and step, float32: four reads and three writes
WEIGHT_BYTES = 4  # a parameter and step, float32: the least a forward pass reads


def timed(action: Callable[[], T], device: torch.device) -> tuple[float, T]:
    """Wall seconds of an action, the device's queue drained on both sides; and what it returns."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    found = action()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started, found


@contextlib.contextmanager
def products(precision: str) -> Iterator[None]:
    """float32 products as torch names their precision: "highest", or "high" for TF32."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def product_rate(device: torch.device, size: int | None = None) -> float:
    """Floating-point operations a second of a float32 product of square matrices, best of several.

    Args:
        size: of the matrices; None: 2048 on a CPU, 8192 on a GPU, whose rate a smaller one does not reach.
    """
    size = size or (8192 if device.type == "cuda" else 2048)
    a = torch.randn(size, size, device=device)
    a @ a
    return max(2 * size**3 / timed(lambda: a @ a, device)[0] for _ in range(7))


def copy_rate(device: torch.device) -> float:
    """Bytes a second read plus written by a large copy, best of several."""
    a = torch.empty(1 << 28 if device.type == "cuda" else 1 << 24, device=device)
    b = torch.empty_like(a)
    b.copy_(a)
    return max(2 * a.numel() * 4 / timed(lambda: b.copy_(a), device)[0] for _ in range(5))


def floor(
    counts: Mapping[Subset, int],
    tasks: Mapping[str, Task],
    fold: Fold,
    settings: M3HSettings,
    *,
    flops_a_second: float,
    bytes_a_second: float,
    streaming: bool,
) -> dict[str, float]:
    """The least seconds of trainings that are as costly as the given subsets, so many of each.

    Args:
        streaming: whether that term counts.

    Returns:
        `seconds`, its two terms `product_seconds` and `streaming_seconds`, and what they are made of.
    """
    rows = len(fold.train)
    whole, rest = divmod(rows, settings.batch_size)
    flops = moved = 0.0
    for members, count in counts.items():
        full, last = (
            # A batch size below 2 is refused, and a last minibatch of one row has next to no operations.
            step_flops(members, tasks, fold, replace(settings, batch_size=size)) if size > 1 else 0.0
            for size in (settings.batch_size, rest)
        )
        flops += count * settings.epochs * (whole * full + last)
        parameters = sum(value.numel() for value in SoloM3H(members, tasks, fold, settings).parameters())
        steps = settings.epochs * (whole + bool(rest))
        moved += count * steps * parameters * (ADAM_BYTES + WEIGHT_BYTES)
    terms = {"product_seconds": flops / flops_a_second, "streaming_seconds": moved / bytes_a_second}
    return {
        "seconds": max(terms.values()) if streaming else terms["product_seconds"],
        **terms,
        "flop": flops,
        "flop_a_second": flops_a_second,
        "bytes": moved,
        "bytes_a_second": bytes_a_second,
    }
