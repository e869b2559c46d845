"""What products of less precision do to scores: rounded factors, emulated on a CPU.

    python -m benchmarks.precision                    # SUPPORT2, 20 subsets of three tasks, 15 epochs

A GPU's TF32 products round both factors to ten bits of mantissa and add up in float32; bfloat16 keeps seven. Here every
factor of every matrix product of training and scoring is rounded that way before a float32 product, so that the effect
on scores can be seen without a GPU. What it does to speed cannot. Beside it, what another seed and another order of the
same sums do.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import time
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.differences import packed, scores_of, spread
from benchmarks.member_step import DEMO
from model.data.folds import load_fold
from model.networks import contrastive
from model.networks.settings import M3HSettings
from model.sources import support2
from tim_search.types import subset

BITS = {"tf32": 10, "bfloat16": 7}
#: Position of the factors among the arguments of a product.
FACTORS = {
    torch.ops.aten.mm.default: (0, 1),
    torch.ops.aten.bmm.default: (0, 1),
    torch.ops.aten.addmm.default: (1, 2),
    torch.ops.aten.baddbmm.default: (1, 2),
    torch.ops.aten.baddbmm_.default: (1, 2),
}


class Rounded(TorchDispatchMode):
    """Rounds the factors of every float32 matrix product to so many bits of mantissa, halves away from zero."""

    def __init__(self, bits: int) -> None:
        super().__init__()
        self._dropped = 23 - bits
        self.products = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Every operation comes by here."""
        if (places := FACTORS.get(function)) and args[places[0]].dtype == torch.float32:
            self.products += 1
            args = [self._round(one) if at in places else one for at, one in enumerate(args)]
        return function(*args, **(kwargs or {}))

    def _round(self, x: Tensor) -> Tensor:
        whole = x.contiguous().view(torch.int32)
        half = 1 << (self._dropped - 1)
        return ((whole + half) & -(1 << self._dropped)).view(torch.float32)


@contextlib.contextmanager
def as_on_a_gpu() -> Iterator[None]:
    """The contrastive term as a GPU works it out."""
    before, contrastive.by_rows = contrastive.by_rows, contrastive.by_masks
    try:
        yield
    finally:
        contrastive.by_rows = before


def main() -> None:
    """Run the comparison and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subsets", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--out", type=Path, help="write the figures as JSON to this file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cohort = support2.load().for_tasks(DEMO)
    fold = load_fold(cohort, 0, dtype=torch.float32, device=torch.device("cpu"), replicates=0)
    settings = M3HSettings(epochs=options.epochs, replicates=0)
    subsets = [subset(members) for members in combinations(DEMO, 3)][: options.subsets]
    together = packed(subsets, cohort.tasks, 16)
    plain = scores_of(together, cohort.tasks, fold, settings)
    found = {
        "another seed": spread(plain, scores_of(packed(subsets, cohort.tasks, 16, 1), cohort.tasks, fold, settings)),
        "rows of every minibatch in reverse order": spread(
            plain, scores_of(together, cohort.tasks, fold, settings, backwards=True)
        ),
    }
    with as_on_a_gpu():
        found["contrastive term by masks"] = spread(plain, scores_of(together, cohort.tasks, fold, settings))
        for name, bits in BITS.items():
            with Rounded(bits) as rounding:
                found[f"products of {name}"] = spread(plain, scores_of(together, cohort.tasks, fold, settings))
            if not rounding.products:
                raise RuntimeError("no product was rounded")
    table = Table(f"{len(subsets)} subsets, {options.epochs} epochs, float32; scores differ by", "largest", "SD")
    for name, gap in found.items():
        table.add_row(name, f"{gap['max']:.4f}", f"{gap['sd']:.4f}")
    Console(width=110).print(table)
    if options.out:
        about = {"torch": torch.__version__, "time": time.ctime(), "subsets": len(subsets), "epochs": options.epochs}
        options.out.write_text(json.dumps({**about, "differences": found}, indent=2))


if __name__ == "__main__":
    main()
