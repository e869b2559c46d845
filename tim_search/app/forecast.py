"""What a search would train, what its ledger already holds, and how long the rest may take."""

from __future__ import annotations

import heapq
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

from tim_search import config
from tim_search.app import references
from tim_search.config import designs, steps
from tim_search.executors.packing import packs
from tim_search.executors.serial import SERIAL
from tim_search.ledger.ledger import Ledger
from tim_search.ledger.table import lay_out
from tim_search.plans import power
from tim_search.types.columns import Subsets


def forecast(search: config.ResolvedSearch) -> dict[str, Any]:
    """Plain values; trains a few steps of a few packs on this machine to measure what a unit costs.

    Keys: name, tasks, design, blocks; units of the whole search (None where the plan decides as it goes) and at_most,
    an upper bound of it; combinations of settings that each is trained with (1 unless every subset is tuned); held,
    units in the ledger; todo, trainings asked for now, packs and largest_pack of them, by_size (subset size ->
    trainings); workers (those asked for, else what this machine can hold); worker_seconds of what is to do,
    start_seconds until the workers stand ready, and wall_seconds of both (None for GPU workers where this machine has
    no GPU); power, the smallest TIM scores that a sampled
    design can tell from zero as far as the ledger's scores say (None for other designs): smallest (source -> score,
    None where they say too little), subsets, pilot_units, notes; too_few, why a sample cannot test its scores (None
    where it can); references, reference models that the ledger lacks; steps, what a training takes (`steps.length`).
    """
    context, tasks, own = search.context.key, tuple(search.tasks), search.own
    ledger = Ledger(search.ledger)
    table = lay_out(ledger.sheet(context, replicates=True), tasks, search.blocks)
    wanted = search.plan.ask(table)
    # Where every subset tries all combinations of settings, a unit is that many trainings.
    tried = [context] if own is None else [own.context_of(values).key for values in own.values]
    lacking = [ledger.lacking(key, wanted)[0] for key in tried]
    todo = [unit for units in lacking for unit in units]
    workers = search.resources.workers or config.room_here(search.resources)
    waiting = [pack for units in lacking for pack in packs(units, search.tasks, search.capacity, max(1, workers))]
    sizes = Counter(len(unit.subset) for unit in todo)
    units = search.plan.planned(search.blocks)
    cost = config.cost(search, sorted({unit.subset for unit in wanted})) if wanted else None
    seconds = wall = None
    if cost is not None:
        clustering = {name for name, task in search.tasks.items() if task.kind == "clustering"}
        each = [
            sum(cost(len(unit.subset), len(clustering.intersection(unit.subset))) for unit in pack.units)
            for pack in waiting
        ]
        seconds, wall = sum(each), _makespan(each, workers)
    start = start_seconds(search) if wanted else 0.0
    return {
        "name": search.file.name,
        "tasks": list(tasks),
        "design": dict(search.design),
        "blocks": [list(block) for block in search.blocks],
        "units": units,
        "combinations": len(tried),
        "at_most": search.plan.most(search.blocks),
        "held": int(table.trained.sum()),
        "todo": len(todo),
        "packs": len(waiting),
        "largest_pack": max((len(pack.units) for pack in waiting), default=0),
        "by_size": {str(size): sizes[size] for size in sorted(sizes)},
        "workers": workers,
        "worker_seconds": seconds if wanted else 0.0,
        "power": _power(search, ledger),
        "too_few": too_few(search),
        "start_seconds": start,
        "wall_seconds": None if wall is None and wanted else start + (wall or 0.0),
        "references": references.lacking(search),
        "steps": steps.length(search),
    }


def start_seconds(search: config.ResolvedSearch) -> float:
    """Seconds until the workers of a search stand ready, from what a fresh process takes on this machine to import it.

    Ray's own processes take about as long again where they are not running yet.
    """
    if search.file.address == SERIAL:
        return 0.0
    started = time.monotonic()
    # -P: no code of the current folder runs.
    subprocess.run([sys.executable, "-P", "-c", "import ray, model.training.trainer"], check=False, capture_output=True)
    running = search.file.address or os.environ.get("RAY_ADDRESS")
    return (time.monotonic() - started) * (1 if running else 2)


def _makespan(seconds: Sequence[float], workers: int) -> float | None:
    """When the last pack ends, each given in its turn to the worker that is free first; None without workers."""
    if not workers:
        return None
    free = [0.0] * workers
    for pack in seconds:
        heapq.heapreplace(free, free[0] + pack)
    return max(free)


def too_few(search: config.ResolvedSearch) -> str | None:
    """Why a sampled design is too small for a test of any score; None where it is not, or is no sample."""
    design, m = search.plan.sample, len(search.tasks)
    if design is None:
        return None
    scored = int(Subsets.of(design.subsets, search.tasks).membership.sum(axis=0).min())
    if scored >= m + 4:
        return None
    problem = (
        f"{len(design.subsets)} subsets of {m} tasks score some task only {scored} times; below {m + 4} (tasks + 4) "
        "its scores have no tests, hence no discoveries. "
    )
    enough, every = 2 * (m + 4), 2**m - 1
    if enough >= every:
        return f"{problem}There are {every} subsets in all: write `design: exact`."
    usual = min(designs.SAMPLED_PER_TASK * m, every)
    return f"{problem}Ask for `sampled: {enough}` or more, or for fewer `tasks`; the default is {usual}."


def _power(search: config.ResolvedSearch, ledger: Ledger) -> dict[str, Any] | None:
    """What all scores of the search's context say about its design, whatever subsets and blocks they come from."""
    design = search.plan.sample
    if design is None:
        return None
    pilot = lay_out(ledger.sheet(search.context.key, replicates=True), tuple(search.tasks))
    answer = power.power(pilot, design, search.blocks, search.design.get("control"))
    return {
        "smallest": answer.smallest,
        "subsets": len(design.subsets),
        "pilot_units": answer.pilot_units,
        "notes": list(answer.notes),
    }
