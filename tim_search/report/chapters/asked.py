"""What a search was asked, with which settings, and what its trainings took."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from tim_search.plans.from_design import in_words
from tim_search.results.opened import SearchResults
from tim_search.tim.result import TimResult
from tim_search.tuning import per_subset
from tim_search.types import METRIC_WORDS, Unit, duration, subset


def key_facts(result: TimResult, status: Mapping[str, Any]) -> list[list[str]]:
    """(term, value) of the figures at the top of the page."""
    count = status["tuning"] or status
    planned = count["planned"]
    trained = f"{count['trained']:,}" + (f" of {planned:,}" if planned and not status["finished"] else "")
    return [
        ["tasks", str(len(result.tasks) - (result.control is not None))],
        ["subsets with scores", f"{result.n_subsets:,}"],
        ["(seed, fold) blocks", str(len(result.blocks))],
        ["trainings", trained],
        ["failed", f"{status['failed']:,}"],
        ["discoveries", str(int(result.rejected.sum()))],
        ["training time", duration(status["training_seconds"])],
    ]


def asked(results: SearchResults) -> dict[str, Any]:
    """The question: cohort, network, design, blocks, sources, tasks and overlapping targets."""
    manifest = results.manifest
    design = {key: value for key, value in manifest.design.items() if key not in ("kind", "sources")}
    return {
        "cohort": manifest.cohort,
        "network": manifest.context.network,
        "design": in_words(manifest.design),
        "options": {key: _plain_text(value) for key, value in design.items()},
        "blocks": ", ".join(f"seed {seed} fold {fold}" for seed, fold in manifest.blocks),
        "sources": list(manifest.sources),
        "created": manifest.created,
        "tasks": [
            {
                "name": task.name,
                "kind": task.kind,
                "metric": METRIC_WORDS.get(task.metric, task.metric),
                "department": task.department,
                "excludes": list(task.excludes),
                "control": task.name == results.control,
            }
            for task in manifest.tasks
        ],
        "overlaps": [list(pair) for pair in manifest.overlaps],
    }


def settings(results: SearchResults) -> dict[str, Any]:
    """Settings of the network; of those that every subset has for itself, the values that were tried."""
    plain = json.loads(results.manifest.context.settings)
    plain.pop(per_subset.KEY, None)
    space = results.own.space if results.own else {}
    return {**plain, **{name: f"{_listed(values)}, chosen for every subset" for name, values in space.items()}}


def _listed(values: Sequence[Any]) -> str:
    return " or ".join(filter(None, [", ".join(map(str, values[:-1])), str(values[-1])]))


def _plain_text(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_plain_text(inner)}" for key, inner in value.items())
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def cost(results: SearchResults) -> list[dict[str, Any]]:
    """Trainings and their time by subset size, one row a size."""
    columns = ("subset", "seed", "fold", "status", "seconds")
    rows = results.ledger.scores(results.manifest.context.key, columns=columns)
    units: dict[Unit, tuple[float, bool]] = {}
    for members, seed, fold, status, seconds in zip(*(rows[name] for name in columns), strict=True):
        unit = Unit(subset(members), int(seed), int(fold))
        units[unit] = (float(seconds), status == "failed" or units.get(unit, (0.0, False))[1])
    # Where every subset tries all combinations of settings, a unit is that many trainings, and its seconds are theirs.
    combinations = len(results.own.values) if results.own else 1
    sizes: dict[int, list[tuple[float, bool]]] = {}
    for unit in units.keys() & results.table.answered:
        sizes.setdefault(len(unit.subset), []).append(units[unit])
    return [
        {
            "size": size,
            "units": len(units_of) * combinations,
            "failed": sum(failed for _, failed in units_of),
            "seconds": math.fsum(seconds for seconds, _ in units_of),
            "each": math.fsum(seconds for seconds, _ in units_of) / (len(units_of) * combinations),
        }
        for size, units_of in sorted(sizes.items())
    ]
