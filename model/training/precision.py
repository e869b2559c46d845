"""How exactly a training calculates: the type of its numbers and of its matrix products."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from model.networks.settings import TrainingSettings

#: The type of parameters and inputs, by the setting `precision`.
DTYPES = {"float32": torch.float32, "tf32": torch.float32, "float64": torch.float64}


@contextlib.contextmanager
def products(settings: TrainingSettings) -> Iterator[None]:
    """Matrix products of float32 in full, which do not depend on the GPU's generation, unless the settings say tf32."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if settings.precision == "tf32" else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
