"""What a very large search costs beside its training: the loop, the ledger, reading it and resuming.

    python -m benchmarks.scale --units 100000 --tasks 44       # on four raylets of this machine
    python -m benchmarks.scale --units 100000 --raylets 0      # without Ray: the loop and the ledger alone

The trainer returns at once; its scores follow an additive game with noise. Prints one line a figure and JSON (`--out`).
Wall times on a busy machine say little by themselves: the load is noted at the start and the end.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tim_search import search, tim
from tim_search.executors import Executor, SerialExecutor
from tim_search.games import lay_out
from tim_search.ledger import Ledger
from tim_search.ray_executor import RayExecutor
from tim_search.search import Event, StaticPlan
from tim_search.types import Context, Pack, PackResult, Resources, Score, Task

BLOCKS = tuple((block, block) for block in range(5))
CONTEXT = Context("scale", "none", "none", "none", "{}")


class Instant:
    """Scores by an additive game: each task is worth a fixed amount to each other one, and there is noise."""

    def __init__(self, payload: tuple[str, ...]) -> None:
        self.place = {name: index for index, name in enumerate(payload)}
        self.worth = np.random.default_rng(0).normal(0, 0.01, (len(payload), len(payload)))

    def train(self, pack: Pack) -> PackResult:
        rng = np.random.default_rng(abs(hash(pack.units[0])))
        scores = []
        for unit in pack.units:
            members = [self.place[name] for name in unit.subset]
            values = 0.7 + self.worth[np.ix_(members, members)].sum(axis=1) + rng.normal(0, 0.01, len(members))
            scores += [
                Score(unit, name, "auroc", "validation", float(value))
                for name, value in zip(unit.subset, values, strict=True)
            ]
        return PackResult(pack, tuple(scores), seconds=0.001)


def instant(payload: tuple[str, ...]) -> Instant:
    """The factory of `Instant`."""
    return Instant(payload)


def resident() -> int:
    """Bytes of memory this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@contextlib.contextmanager
def executor_on(raylets: int, tasks: dict[str, Task]) -> Iterator[Executor]:
    """An executor on so many raylets of this machine, each with one logical CPU; in this process for none."""
    executor: Executor
    if not raylets:
        executor = SerialExecutor(instant, tuple(tasks), tasks)
        yield executor
        executor.close()
        return
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        for _ in range(raylets):
            cluster.add_node(num_cpus=1)
        executor = RayExecutor(instant, tuple(tasks), tasks, Resources(), cluster.address)
        yield executor
        executor.close()
    finally:
        cluster.shutdown()


def timed(action: Callable[[], Any]) -> tuple[float, Any]:
    start = time.monotonic()
    result = action()
    return time.monotonic() - start, result


def measure(n_units: int, n_tasks: int, capacity: int, raylets: int, folder: Path) -> dict[str, Any]:
    """All figures of one search."""
    names = [f"task{index:03d}" for index in range(n_tasks)]
    tasks = {name: Task(name, "binary") for name in names}
    rng = np.random.default_rng(1)
    sizes = rng.integers(1, n_tasks + 1, n_units)
    subsets = tuple(tuple(names[at] for at in sorted(rng.permutation(n_tasks)[:size])) for size in sizes.tolist())
    plan = StaticPlan(tuple(dict.fromkeys(subsets)), sliced=True)
    del subsets
    ledger = Ledger(folder / "ledger")
    found: dict[str, Any] = {"units": len(plan.subsets), "tasks": n_tasks, "capacity": capacity, "raylets": raylets}
    highest = 0

    def look(event: Event) -> None:
        nonlocal highest
        if event.kind == "round" or event.done % 100 < capacity:
            highest = max(highest, resident())

    with executor_on(raylets, tasks) as executor:
        # A small search first, so that libraries, buffers and the workers are in none of the figures.
        small = StaticPlan(plan.subsets[:2000])
        search.run(small, Ledger(folder / "small"), CONTEXT, tasks, BLOCKS[:1], executor, capacity)
        gc.collect()
        before = resident()
        seconds, _ = timed(lambda: search.run(plan, ledger, CONTEXT, tasks, BLOCKS, executor, capacity, look))
        found["search_seconds"] = seconds
        found["units_per_second"] = len(plan.subsets) / seconds
        found["driver_bytes_a_unit"] = (highest - before) / len(plan.subsets)
        begin = time.monotonic()

        def stop(event: Event) -> None:
            found["resume_seconds"] = time.monotonic() - begin

        search.run(plan, Ledger(ledger.place), CONTEXT, tasks, BLOCKS, executor, capacity, stop)
    found["ledger_files"] = ledger.files()
    found["ledger_bytes_a_unit"] = sum(ledger.storage.sizes("scores").values()) / len(plan.subsets)
    found["read_seconds"], sheet = timed(lambda: Ledger(ledger.place).sheet(CONTEXT.key))
    found["rows"] = len(sheet.score)
    found["table_seconds"], table = timed(lambda: lay_out(sheet, tuple(tasks), BLOCKS))
    found["tim_seconds"], result = timed(lambda: tim.from_table(table, "ols"))
    found["tim_label"] = result.label
    found["peak_bytes"] = resident()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--units", type=int, default=20_000)
    parser.add_argument("--tasks", type=int, default=44)
    parser.add_argument("--capacity", type=int, default=64)
    parser.add_argument("--raylets", type=int, default=4)
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    given = parser.parse_args()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        found = measure(given.units, given.tasks, given.capacity, given.raylets, Path(folder))
    found["load"] = [load, os.getloadavg()[0]]
    for name, value in found.items():
        print(f"{name:22} {value:,.1f}" if isinstance(value, float) else f"{name:22} {value}")
    if given.out:
        given.out.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
