"""What a very large search costs beside its training: the loop, the ledger, reading it and resuming.

    python -m benchmarks.scale --units 100000 --tasks 44       # on four raylets of this machine
    python -m benchmarks.scale --units 100000 --raylets 0      # without Ray: the loop and the ledger alone
    python -m benchmarks.scale --units 1000000 --written       # no search: its merged ledger is written, then read

The trainer returns at once; its scores follow an additive game with noise. Prints one line a figure and JSON (`--out`).
Wall times on a busy machine say little by themselves: the load is noted at the start and the end.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tim_search.executors.contract import Executor
from tim_search.executors.ray_executor import RayExecutor
from tim_search.executors.serial import SerialExecutor
from tim_search.ledger import schema
from tim_search.ledger.ledger import Ledger
from tim_search.ledger.table import lay_out
from tim_search.ledger.tables import Tables
from tim_search.loop import run as search
from tim_search.loop.tally import Event
from tim_search.plans.static import StaticPlan
from tim_search.tim import scores as tim
from tim_search.types import Context, Pack, PackResult, Resources, Score, Task, product_version
from tim_search.types.columns import Subsets

BLOCKS = tuple((block, block) for block in range(5))
CONTEXT = Context("scale", "none", "none", "none", "{}")


class Instant:
    """Scores by an additive game: each task is worth a fixed amount to each other one, and there is noise."""

    def __init__(self, payload: tuple[str, ...]) -> None:
        self.place = {name: index for index, name in enumerate(payload)}
        self.worth = np.random.default_rng(0).normal(0, 0.01, (len(payload), len(payload)))

    def with_settings(self, settings: str) -> Instant:
        """The same under all settings."""
        return self

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
    subsets = (tuple(names[at] for at in sorted(rng.permutation(n_tasks)[:size])) for size in sizes.tolist())
    plan = StaticPlan(Subsets.of(dict.fromkeys(subsets), names), sliced=True)
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


def written(n_units: int, n_tasks: int, capacity: int, place: Path) -> int:
    """Write the ledger that a merged search of so many subsets has; returns how many are different."""
    rng = np.random.default_rng(1)
    members = np.unique(np.packbits(rng.random((n_units, n_tasks)) < 0.5, axis=1, bitorder="little"), axis=0)
    members = np.unpackbits(members, axis=1, count=n_tasks, bitorder="little").astype(bool)
    members = rng.permutation(members[members.any(axis=1)])
    fold, size = np.arange(len(members)) % len(BLOCKS), members.sum(axis=1)
    worth = rng.normal(0, 0.01, (n_tasks, n_tasks))
    luck = rng.normal(0, 0.002, (len(BLOCKS), n_tasks, n_tasks))
    # As the search packs and merges them: a pack is of one size and block, a file holds packs in no order.
    order = np.lexsort((fold, -size))
    edges = np.flatnonzero(np.diff(size[order] * len(BLOCKS) + fold[order], prepend=-1, append=-1))
    packs = [order[at : min(at + capacity, b)] for a, b in pairwise(edges) for at in range(a, b, capacity)]
    full = np.cumsum([int(size[pack].sum()) for pack in packs]) // 137_000
    ledger = Ledger(place)
    for number in range(int(full[-1]) + 1):
        chosen = [packs[at] for at in rng.permutation(np.flatnonzero(full == number))]
        _write(ledger, number, chosen, members, fold, worth[None] + luck, rng)
    return len(members)


def _write(
    ledger: Ledger, number: int, packs: list[Any], members: Any, fold: Any, worth: Any, rng: np.random.Generator
) -> None:
    names = pa.array([f"task{index:03d}" for index in range(members.shape[1])])
    units = np.concatenate(packs)
    held, blocks = members[units], fold[units]
    values = np.zeros(held.shape)
    for block in range(len(BLOCKS)):
        values[blocks == block] = 0.7 + held[blocks == block] @ worth[block].T
    run, task = np.nonzero(held)
    n, counts = len(task), held.sum(axis=1)
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    lists = pa.ListArray.from_arrays(pa.array(offsets), names.take(pa.array(task)))
    take = pa.array(run.astype(np.int32))
    told = {
        "context": _same(CONTEXT.key, len(units)),
        "seed": pa.array(blocks.astype(np.int64)),
        "fold": pa.array(blocks.astype(np.int32)),
        "created": pa.repeat(pa.scalar(datetime.fromtimestamp(number, UTC), pa.timestamp("us", tz="UTC")), len(units)),
        "part": pa.repeat("validation", len(units)),
    }
    pack = pa.array([rng.bytes(8).hex() for _ in packs])
    columns = {name: column.take(take) for name, column in told.items()}
    columns |= {
        name: _same(getattr(CONTEXT, name), n) for name in ("cohort", "columns", "split", "network", "settings")
    }
    columns |= {"subset": lists.take(take), "size": pa.array(counts.astype(np.int32)).take(take)}
    columns |= {"version": _same(product_version(), n), "task": names.take(pa.array(task))}
    columns["pack"] = pack.take(pa.array(np.repeat(np.arange(len(packs)), [len(each) for each in packs]))).take(take)
    columns |= {"metric": pa.repeat("auroc", n), "primary": pa.repeat(True, n), "status": pa.repeat("ok", n)}
    columns |= {"score": pa.array(values[run, task] + rng.normal(0, 0.01, n)), "error": pa.repeat("", n)}
    columns["replicates"] = pa.ListArray.from_arrays(pa.array(np.zeros(n + 1, np.int32)), pa.array([], pa.float32()))
    columns["seconds"] = pa.repeat(0.001, n)
    found = schema.runs_of("scores", counts, Subsets.of_members(held, names.to_pylist()), told)
    of_scores = schema.SCHEMAS["scores"]
    table = pa.table({name: columns[name] for name in of_scores.names}, schema=of_scores)
    Tables(ledger.storage).commit("scores", "compact", table, found)


def _same(text: str, n: int) -> Any:
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(n, np.int32)), pa.array([text]))


def read(n_units: int, n_tasks: int, capacity: int, folder: Path) -> dict[str, Any]:
    """Figures of reading a ledger of so many units, each with the CPU time that the process took."""
    found: dict[str, Any] = {"units": written(n_units, n_tasks, capacity, folder / "ledger"), "tasks": n_tasks}
    names = tuple(f"task{index:03d}" for index in range(n_tasks))
    ledger = Ledger(folder / "ledger")

    def note(name: str, action: Callable[[], Any]) -> Any:
        cpu = time.process_time()
        found[f"{name}_seconds"], result = timed(action)
        found[f"{name}_cpu_seconds"] = time.process_time() - cpu
        return result

    note("status", lambda: Ledger(ledger.place).progress(CONTEXT.key, names, BLOCKS))
    sheet = note("read", lambda: Ledger(ledger.place).sheet(CONTEXT.key))
    found["rows"] = len(sheet.score)
    table = note("table", lambda: lay_out(sheet, names, BLOCKS))
    found["tim_label"] = note("tim", lambda: tim.from_table(table)).label
    found["peak_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--units", type=int, default=20_000)
    parser.add_argument("--tasks", type=int, default=44)
    parser.add_argument("--capacity", type=int, default=64)
    parser.add_argument("--raylets", type=int, default=4)
    parser.add_argument("--written", action="store_true", help="write the ledger of such a search, and read that")
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    given = parser.parse_args()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        if given.written:
            found = read(given.units, given.tasks, given.capacity, Path(folder))
        else:
            found = measure(given.units, given.tasks, given.capacity, given.raylets, Path(folder))
    found["load"] = [load, os.getloadavg()[0]]
    for name, value in found.items():
        print(f"{name:22} {value:,.1f}" if isinstance(value, float) else f"{name:22} {value}")
    if given.out:
        given.out.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
