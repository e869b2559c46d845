"""What a search would train, what its ledger already holds, and how long the rest may take."""

from __future__ import annotations

import os
from collections import Counter
from math import comb
from typing import Any

from tim_search import plans, spec
from tim_search.games import score_table
from tim_search.ledger import Ledger
from tim_search.packing import packs
from tim_search.types import Unit


def forecast(found: spec.ResolvedSearch) -> dict[str, Any]:
    """Plain values; trains a few steps of a few packs on this machine to measure what a unit costs.

    Keys: name, tasks, design, blocks; units of the whole search (None where the plan decides as it goes) and at_most,
    an upper bound of it; held, units in the ledger; todo, units asked for now, packs and largest_pack of them, by_size
    (subset size -> units); workers (those asked for, else what this machine can hold); worker_seconds and wall_seconds
    of what is to do (None for GPU workers, which are not measured here).
    """
    context, tasks = found.context.key, tuple(found.tasks)
    ledger = Ledger(found.ledger)
    columns = ("subset", "seed", "fold", "task", "score", "status", "replicates")
    table = score_table(ledger.scores(context, columns=columns), tasks, found.blocks, replicates=True)
    wanted = found.plan.ask(table)
    todo = {Unit(members, seed, fold) for members in wanted for seed, fold in found.blocks} - ledger.done(context)
    waiting = packs(todo, found.tasks, found.capacity)
    sizes = Counter(len(unit.subset) for unit in todo)
    largest = found.design.get("max_size", len(tasks))
    units = plans.planned_units(found.plan, found.blocks)
    bound = sum(comb(len(tasks), size) for size in range(1, largest + 1)) * len(found.blocks)
    workers = found.resources.workers or int((os.cpu_count() or 1) // found.resources.cpus)
    cost = spec.cost(found, wanted) if wanted else None
    seconds = None
    if cost is not None:
        clustering = {name for name, task in found.tasks.items() if task.kind == "clustering"}
        seconds = sum(cost(len(unit.subset), len(clustering.intersection(unit.subset))) for unit in todo)
    return {
        "name": found.file.name,
        "tasks": list(tasks),
        "design": dict(found.design),
        "blocks": [list(block) for block in found.blocks],
        "units": units,
        "at_most": bound if units is None else units,
        "held": int(table.trained.sum()),
        "todo": len(todo),
        "packs": len(waiting),
        "largest_pack": max((len(pack.units) for pack in waiting), default=0),
        "by_size": {str(size): sizes[size] for size in sorted(sizes)},
        "workers": workers,
        "worker_seconds": seconds if wanted else 0.0,
        "wall_seconds": (seconds / workers if seconds is not None and workers else None) if wanted else 0.0,
    }
