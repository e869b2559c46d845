"""Fused training against the loop a user would write, and against the floor of the machine.

    python -m benchmarks.fused --device cpu            # SUPPORT2, subsets of three tasks
    python -m benchmarks.fused --device cuda           # the shape of HAIM-MIMIC-MM: 44 tasks, all pairs
    python -m benchmarks.fused --device cpu --quick    # a minute, noisier

Prints a short table and writes JSON (`--out`). Needs torch, numpy, pandas, pyarrow, scikit-learn, scipy and rich only.
The floor on a CPU is textbook FLOPs at the measured rate of a 2048 x 2048 matrix product; on a GPU the larger of that
and Adam's 28 bytes a parameter and step at the measured copy bandwidth.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import platform
import resource
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks import solo
from model import support2, synthetic
from model.cohort import Cohort
from model.cost import step_flops, steps
from model.data import Fold, Rows, load_fold
from model.settings import M3HSettings
from model.training import fit_pack, score_pack
from tim_search.types import Pack, Subset, Unit, subset

DEMO = ("avtisst", "dnr_later", "dzclass", "hospdead", "phenotype", "slos_log")
PACK = {"cpu": 16, "cuda": 256}


def timed(action: Callable[[], object], device: torch.device) -> float:
    """Wall seconds of an action, the device's queue drained on both sides."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    action()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def product_rate(device: torch.device) -> float:
    """Floating-point operations a second of a float32 2048 x 2048 matrix product, best of several."""
    a = torch.randn(2048, 2048, device=device)
    a @ a
    return max(2 * 2048**3 / timed(lambda: a @ a, device) for _ in range(7))


def copy_rate(device: torch.device) -> float:
    """Bytes a second read plus written by a large copy, best of several."""
    a = torch.empty(1 << 28 if device.type == "cuda" else 1 << 24, device=device)
    b = torch.empty_like(a)
    b.copy_(a)
    return max(2 * a.numel() * 4 / timed(lambda: b.copy_(a), device) for _ in range(5))


def packs_of(subsets: list[Subset], capacity: int, seed: int = 0) -> list[Pack]:
    return [
        Pack(tuple(Unit(members, seed, 0) for members in subsets[start : start + capacity]))
        for start in range(0, len(subsets), capacity)
    ]


def parameters(cohort: Cohort, fold: Fold, pack: Pack, settings: M3HSettings) -> int:
    """Parameters of one member of a pack."""
    fitted = fit_pack(
        Pack(pack.units[:1]),
        cohort.tasks,
        replace(fold, train=fold.train.take(_few(fold))),
        replace(settings, epochs=1),
    )
    return sum(value.numel() for value in fitted.values.values())


def _few(fold: Fold) -> torch.Tensor:
    return torch.arange(8, device=fold.train.targets.device)


_WORKER: dict[str, Any] = {}


def _worker_start(barrier: Any) -> None:
    torch.set_num_threads(1)
    cohort = support2.load().for_tasks(DEMO)
    _WORKER["cohort"] = cohort
    _WORKER["fold"] = load_fold(cohort, 0, dtype=torch.float32, device=torch.device("cpu"), replicates=0)
    _WORKER["barrier"] = barrier


def _worker_fit(job: tuple[Pack, M3HSettings]) -> float:
    pack, settings = job
    fit_pack(pack, _WORKER["cohort"].tasks, _WORKER["fold"], replace(settings, epochs=1))
    _WORKER["barrier"].wait()
    started = time.perf_counter()
    fit_pack(pack, _WORKER["cohort"].tasks, _WORKER["fold"], settings)
    return time.perf_counter() - started


def two_workers(pack: Pack, settings: M3HSettings) -> float:
    """Seconds for two packs by two processes of one thread each, as the executor runs them."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(2, _worker_start, (context.Barrier(2),)) as pool:
        return max(pool.map(_worker_fit, [(pack, settings)] * 2, chunksize=1))


def scores_of(cohort: Cohort, fold: Fold, packs: list[Pack], settings: M3HSettings) -> dict[tuple[Subset, str], float]:
    found = {}
    for pack in packs:
        rows, _ = score_pack(pack, fit_pack(pack, cohort.tasks, fold, settings), cohort.tasks, fold, settings)
        found.update({(row.unit.subset, row.task): row.value for row in rows if row.primary})
    return found


class _Turned(Rows):
    """Training rows whose minibatches come in reverse row order: the same training but for the order of its sums."""

    def take(self, index: torch.Tensor) -> Rows:
        return _Turned(**vars(super().take(index)))

    def split(self, size: int) -> list[Rows]:
        return [Rows.take(part, torch.arange(len(part) - 1, -1, -1)) for part in super().split(size)]


def spread(one: dict[tuple[Subset, str], float], two: dict[tuple[Subset, str], float]) -> dict[str, float]:
    """Largest and standard deviation of the score differences of two runs over the same subsets."""
    gap = np.array([one[key] - two[key] for key in one])
    return {"max": float(np.abs(gap).max()), "sd": float(gap.std())}


def cpu(quick: bool) -> dict[str, Any]:
    """SUPPORT2 on CPU cores: time a member-step solo and fused, share of the floor, agreement of scores."""
    device = torch.device("cpu")
    cores = torch.get_num_threads()
    cohort = support2.load().for_tasks(DEMO)
    fold = load_fold(cohort, 0, dtype=torch.float32, device=device, replicates=0)
    settings = M3HSettings(epochs=1, replicates=0)
    subsets = [subset(c) for c in combinations(DEMO, 3) if "phenotype" not in c]
    more = [subset(c) for c in combinations(DEMO, 3) if "phenotype" in c]
    pack = Pack(tuple(Unit(members, 0, 0) for members in (subsets * 2)[: PACK["cpu"]]))
    count = int(steps(fold, cohort.tasks, settings))
    rounds = 3 if quick else 7
    times: dict[str, list[float]] = {}
    rates: dict[int, list[float]] = {1: [], cores: []}

    def note(name: str, seconds: float, members: int) -> None:
        times.setdefault(name, []).append(seconds / members / count * 1e3)

    for _ in range(rounds):  # interleaved, so that a drift of the machine meets all alike
        for threads in sorted({1, cores}):
            torch.set_num_threads(threads)
            rates[threads].append(product_rate(device))
            for fused_adam in (False, True):
                name = f"solo eager{', fused Adam' if fused_adam else ''}, {threads} thread(s)"
                run = lambda fused_adam=fused_adam: solo.train(  # noqa: E731
                    subsets[0], cohort.tasks, fold, settings, fused_adam=fused_adam
                )
                note(name, timed(run, device), 1)
            note(
                f"fused, pack of {len(pack.units)}, {threads} thread(s)",
                timed(lambda: fit_pack(pack, cohort.tasks, fold, settings), device),
                len(pack.units),
            )
    torch.set_num_threads(cores)
    for _ in range(2 if quick else 4):
        seconds = two_workers(pack, replace(settings, epochs=1 if quick else 2))
        note(
            f"fused, pack of {len(pack.units)}, 2 workers of 1 thread",
            seconds / (1 if quick else 2),
            2 * len(pack.units),
        )
    flops = step_flops(subsets[0], cohort.tasks, fold, settings)
    floor = flops / statistics.median(rates[cores]) * 1e3

    agree: dict[str, Any] = {}
    full = replace(settings, epochs=3 if quick else 15)
    torch.set_num_threads(1)
    chosen = (subsets + more)[: 8 if quick else 20]
    plain = [s for s in chosen if "phenotype" not in s]
    mixed = [s for s in chosen if "phenotype" in s]
    together = packs_of(plain, 16) + (packs_of(mixed, 16) if mixed else [])
    fused = scores_of(cohort, fold, together, full)
    alone = scores_of(cohort, fold, packs_of(chosen, 1), full)
    torch.set_num_threads(cores)
    threaded = scores_of(cohort, fold, packs_of(chosen, 1), full)
    torch.set_num_threads(1)
    other = scores_of(cohort, fold, packs_of(chosen, 1, seed=1), full)
    turned = scores_of(cohort, replace(fold, train=_Turned(**vars(fold.train))), packs_of(chosen, 1), full)
    agree["float32 fused against solo"] = spread(fused, alone)
    agree[f"float32 solo, 1 against {cores} threads"] = spread(alone, threaded)
    agree["float32 solo, rows of every minibatch in reverse order"] = spread(alone, turned)
    agree["float32 solo, seed 0 against seed 1"] = spread(alone, other)
    exact = replace(full, precision="float64", epochs=2 if quick else 15)
    fold64 = load_fold(cohort, 0, dtype=torch.float64, device=device, replicates=0)
    agree["float64 fused against solo"] = spread(
        scores_of(cohort, fold64, packs_of(plain[:4], 4), exact),
        scores_of(cohort, fold64, packs_of(plain[:4], 1), exact),
    )
    return {
        "work": f"SUPPORT2, {len(fold.train)} training rows, subsets of 3 of 6 tasks, batch 256, width 64",
        "mflop_member_step": flops / 1e6,
        "gflops": {str(threads): statistics.median(values) / 1e9 for threads, values in rates.items()},
        "floor_ms": floor,
        "ms_member_step": {name: statistics.median(values) for name, values in times.items()},
        "ms_range": {name: [min(values), max(values)] for name, values in times.items()},
        "agreement": agree,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def cuda(quick: bool) -> dict[str, Any]:
    """The shape of HAIM-MIMIC-MM on one GPU: every single task and pair, with evaluation."""
    device = torch.device("cuda")
    cohort, _ = synthetic.haim_like()
    if quick:
        cohort = cohort.for_tasks(sorted(cohort.tasks)[:12])
    settings = M3HSettings(replicates=0)
    fold = load_fold(cohort, 0, dtype=torch.float32, device=device, replicates=0)
    names = sorted(cohort.tasks)
    subsets = [subset(c) for size in (1, 2) for c in combinations(names, size)]
    shapes: dict[tuple[int, int], list[Subset]] = {}
    for members in subsets:
        shapes.setdefault((len(members), sum(cohort.tasks[n].kind == "clustering" for n in members)), []).append(
            members
        )
    packs = [pack for group in shapes.values() for pack in packs_of(group, PACK["cuda"])]
    short = replace(settings, epochs=1)
    fit_pack(packs[0], cohort.tasks, fold, short)
    torch.cuda.reset_peak_memory_stats()
    training = scoring = 0.0
    for pack in packs:
        started = time.perf_counter()
        fitted = fit_pack(pack, cohort.tasks, fold, settings)  # its history comes to the host, so it has ended
        middle = time.perf_counter()
        score_pack(pack, fitted, cohort.tasks, fold, settings)
        training += middle - started
        scoring += time.perf_counter() - middle
    count = int(steps(fold, cohort.tasks, settings))
    pair = next(members for members in subsets if len(members) == 2)
    solo.train(pair, cohort.tasks, fold, short, fused_adam=True)
    alone = timed(lambda: solo.train(pair, cohort.tasks, fold, short, fused_adam=True), device) * settings.epochs
    flops = sum(step_flops(members, cohort.tasks, fold, settings) for members in subsets) * count
    size = parameters(cohort, fold, packs[-1], settings)
    floor = max(flops / product_rate(device), 28 * size * len(subsets) * count / copy_rate(device))
    return {
        "work": f"haim-like, {len(fold.train)} training rows, {len(subsets)} subsets of {len(names)} tasks",
        "seconds": {
            "solo eager, one at a time (extrapolated from one)": alone * len(subsets),
            "fused, training": training,
            "fused, evaluation": scoring,
        },
        "floor_seconds": floor,
        "peak_mb": torch.cuda.max_memory_allocated() / 2**20,
        "device": torch.cuda.get_device_name(),
    }


def show(result: dict[str, Any]) -> None:
    """Print the short table."""
    console = Console(width=110)
    console.print(result["work"])
    table = Table("", "time", "ratio to solo", "share of floor")
    times = result.get("ms_member_step") or result["seconds"]
    unit, floor = ("ms", result["floor_ms"]) if "floor_ms" in result else ("s", result["floor_seconds"])
    # Ratios are to the plain loop with all threads, what a user would run.
    base = next(
        value for name, value in reversed(times.items()) if name.startswith("solo eager, ") and "fused" not in name
    )
    for name, value in times.items():
        table.add_row(name, f"{value:.2f} {unit}", f"{base / value:.2f}", f"{floor / value:.0%}")
    table.add_row("floor", f"{floor:.2f} {unit}", f"{base / floor:.2f}", "100%")
    console.print(table)
    for name, gap in result.get("agreement", {}).items():
        console.print(f"score difference, {name}: max {gap['max']:.2e}, sd {gap['sd']:.2e}")
    console.print(f"peak memory {result['peak_mb']:.0f} MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--quick", action="store_true", help="fewer rounds and epochs; noisier")
    parser.add_argument("--out", type=Path, help="write the figures as JSON to this file")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda was asked for, but torch sees no GPU here; use --device cpu")
    result = cuda(options.quick) if options.device == "cuda" else cpu(options.quick)
    result |= {"torch": torch.__version__, "machine": platform.processor() or platform.machine(), "time": time.ctime()}
    show(result)
    if options.out:
        options.out.write_text(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
