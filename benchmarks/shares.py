"""Where a pack's time goes on a CPU, by kind of operation, beside the floor of its products; one thread, SUPPORT2.

    OMP_NUM_THREADS=1 python -m benchmarks.shares

Times are this process's own seconds on a core, so that other work on the machine counts little; a pack and a 2048 x
2048 product take turns. The profile itself costs time, most of all where operations are many and small.
"""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from itertools import combinations

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.member_step import DEMO, load
from model.networks import m3h
from model.networks.settings import M3HSettings
from model.training.fitting import fit_pack
from tim_search.types import Pack, Unit

ROUNDS, SIDE = 5, 2048
#: Kind -> parts of the names of its operations; the first kind that fits counts.
KINDS = {
    "matrix products": ("mm",),
    "Adam": ("adam", "optimizer"),
    "sums, maxima, softmax": ("sum", "mean", "max", "norm"),
    "copies, rows picked out": ("copy", "cat", "index", "fill", "zero", "pad", "gather", "clone", "empty", "slice"),
    "elementwise": ("add", "mul", "div", "sub", "relu", "threshold", "exp", "log", "sqrt", "pow", "sigm", "neg", "abs",
                    "clamp", "where", "mask", "cross", "sign", "square", "eq", "ge", "lt"),
    "dispatch, views, autograd": ("",),
}  # fmt: skip


def seconds(action: Callable[[], object]) -> float:
    """Seconds of this process on a core."""
    start = time.process_time()
    action()
    return time.process_time() - start


def main() -> None:
    """Print both packs of ten."""
    torch.set_num_threads(1)
    tasks, fold = load()
    settings = M3HSettings(epochs=2)
    steps = settings.epochs * -(-len(fold.train) // settings.batch_size)
    square = torch.randn(SIDE, SIDE)
    for clustering in (False, True):
        subsets = [names for names in combinations(DEMO, 3) if ("phenotype" in names) == clustering]
        pack = Pack(tuple(Unit(names, 0, 0) for names in subsets))
        fit = partial(fit_pack, pack, tasks, fold, settings, m3h)
        fit()
        rounds = [(seconds(partial(torch.mm, square, square)), seconds(fit)) for _ in range(ROUNDS)]
        product, whole = (statistics.median(column) for column in zip(*rounds, strict=True))
        operations = sum(m3h.step_flops(names, tasks, fold, settings) for names in subsets) * steps
        floor = operations / (2 * SIDE**3 / product)
        print(
            f"clustering {clustering}: {whole / steps / len(subsets) * 1e3:.2f} ms a member-step, {floor / whole:.0%}"
        )
        with profile(activities=[ProfilerActivity.CPU]) as profiled:
            fit()
        spent: Counter[str] = Counter()
        for event in profiled.key_averages():
            name = event.key.lower()
            spent[next(kind for kind, parts in KINDS.items() if any(part in name for part in parts))] += (
                event.self_cpu_time_total
            )
        for kind, amount in spent.most_common():
            print(f"    {amount / spent.total():6.1%} {kind}")


if __name__ == "__main__":
    main()
