"""FlexCare: subsets fused in one pack against the same subsets one at a time, through the same code.

    python -m benchmarks.flexcare                 # SUPPORT2, a small network, one thread
    python -m benchmarks.flexcare --device cuda --width 128 --layers 4

Prints milliseconds a member and minibatch, the ratio to packs of one, and how far the scores part in float64. Rounds of
all pack sizes are interleaved, so that what else the machine does falls on all alike; medians are shown.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from statistics import median

import torch
from rich.console import Console
from rich.table import Table

from model.data.folds import load_fold
from model.networks import flexcare
from model.networks.settings import FlexCareSettings
from model.sources.opening import open_cohort
from model.training import in_turn
from model.training.fitting import fit_pack
from model.training.scores import score_pack
from tim_search.types import Pack, Unit

TASKS = ("avtisst", "dnr_later", "dzclass", "hospdead", "slos_log")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--minibatches", type=int, default=8, help="a task and round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--packs", type=int, nargs="+", default=[1, 4, 10])
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    device = torch.device(options.device)
    cohort = open_cohort("support2").for_tasks(TASKS)
    settings = FlexCareSettings(
        width=options.width, layers=options.layers, hidden=4 * options.width, expert_hidden=options.width, epochs=1,
        batch_size=options.batch, replicates=0,
    )  # fmt: skip
    units = [Unit(members, 0, 0) for members in combinations(TASKS, 3)]
    fold = load_fold(cohort, 0, dtype=torch.float32, device=device, replicates=0, stop_share=settings.stop_share)
    few = fold.train.take(torch.arange(options.minibatches * options.batch, device=device))
    short = replace(fold, train=few, stopping=None)
    steps = sum(in_turn.steps_by_task(short, cohort.tasks, options.batch).values()) / len(TASKS) * 3
    times: dict[int, list[float]] = {size: [] for size in options.packs}
    for number in range(options.rounds + 1):
        for size in options.packs:
            chosen = units[:size]
            started = time.perf_counter()
            fit_pack(Pack(tuple(chosen)), cohort.tasks, short, settings, flexcare)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if number:  # the first round warms up
                times[size].append((time.perf_counter() - started) / steps / size * 1e3)
    exact = replace(settings, precision="float64")
    fold64 = load_fold(cohort, 0, dtype=torch.float64, device=device, replicates=0, stop_share=settings.stop_share)
    short64 = replace(fold64, train=fold64.train.take(torch.arange(len(few), device=device)))

    def scores(pack: Pack) -> dict[tuple[Unit, str], float]:
        fitted = fit_pack(pack, cohort.tasks, short64, exact, flexcare)
        rows, _ = score_pack(pack, fitted, cohort.tasks, short64)
        return {(row.unit, row.task): row.value for row in rows if row.primary}

    together = scores(Pack(tuple(units[:4])))
    apart = max(abs(together[key] - value) for unit in units[:4] for key, value in scores(Pack((unit,))).items())
    table = Table(title=f"FlexCare, width {options.width}, {options.layers} layers, batch {options.batch}, {device}")
    for name in ("members", "ms a member-step", "ratio"):
        table.add_column(name, justify="right")
    first = median(times[options.packs[0]])
    for size in options.packs:
        here = median(times[size])
        spread = f"{here:.1f} [{min(times[size]):.1f}-{max(times[size]):.1f}]"
        table.add_row(str(size), spread, f"{first / here:.2f}")
    console = Console()
    console.print(table)
    console.print(f"largest difference of a score, fused against alone, float64: {apart:.1e}")
    if options.out:
        content = {"ms": {str(size): median(found) for size, found in times.items()}, "score_difference": apart}
        options.out.write_text(json.dumps(content, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
