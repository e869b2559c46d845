"""What balancing the tasks' losses costs: processor time of a training step by method, SUPPORT2, one thread.

Each round trains a pack with every method in turn, so that a drift of the machine meets all alike; the table has
medians, and ratios to `balance: equal` of the same rounds.

    python -m benchmarks.balance
"""

from __future__ import annotations

import statistics
import time
from dataclasses import replace
from itertools import combinations
from typing import Any, get_args

import torch
from rich.console import Console
from rich.table import Table

from model.data.folds import load_fold
from model.networks import m3h, shared
from model.networks.settings import Balance, M3HSettings, SharedSettings
from model.sources import support2
from model.training.fitting import fit_pack
from tim_search.types import Pack, Unit, subset

TASKS = ("avtisst", "dnr_later", "dzclass", "hospdead", "slos_log")
MEMBERS, STEPS, ROUNDS = 10, 8, 2


def main() -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    cohort = support2.load().for_tasks(TASKS)
    fold = load_fold(cohort, 0, dtype=torch.float32, device=torch.device("cpu"), replicates=0)
    short = replace(fold, train=fold.train.take(torch.arange(256 * STEPS)))
    table = Table(title=f"Processor time a member and step, packs of {MEMBERS}, 256 rows")
    for title in ("network", "tasks", "balance", "ms", "ratio"):
        table.add_column(title)
    networks: tuple[tuple[Any, Any], ...] = ((m3h, M3HSettings), (shared, SharedSettings))
    for network, kind in networks:
        for size in (2, 5):
            subsets = (list(combinations(TASKS, size)) * MEMBERS)[:MEMBERS]
            pack = Pack(tuple(Unit(subset(members), 0, 0) for members in subsets))
            times: dict[str, list[float]] = {balance: [] for balance in get_args(Balance)}
            for number in range(ROUNDS + 1):
                for balance, values in times.items():
                    settings = kind(epochs=1, batch_size=256, balance=balance)
                    started = time.process_time()
                    fit_pack(pack, cohort.tasks, short, settings, network)
                    if number:  # the first round warms up
                        values.append((time.process_time() - started) / MEMBERS / STEPS * 1e3)
            base = times["equal"]
            for balance, values in times.items():
                ratio = statistics.median(value / equal for value, equal in zip(values, base, strict=True))
                table.add_row(
                    network.__name__.rpartition(".")[2],
                    str(size),
                    balance,
                    f"{statistics.median(values):.2f}",
                    f"{ratio:.2f}",
                )
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
