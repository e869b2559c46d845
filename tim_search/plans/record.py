"""From a design, as `search.json` and the search file record it, to a plan that can be asked.

A design is a mapping with `kind`: {"kind": "exact"}, {"kind": "sized", "k": 2},
{"kind": "sampled", "n": 208, "seed": 0, "sliced": true, "control": "dead_permuted",
"stop": {"top_k": 3, "overlap": 0.9, "false_sign": 0.05}}, the last two optional,
{"kind": "greedy", "beam": 3, "max_size": 3, "rule": "lower_bound", "confidence": 0.95, "tolerance": 0.0,
"sources": [...]}, or {"kind": "surrogate", "rounds": 6, "batch": 1, "max_size": 0, "seed": 0, "rule": "lower_bound",
"confidence": 0.95, "tolerance": 0.0, "sources": [...]}.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import comb
from typing import Any

from tim_search.designs import sampling as designs
from tim_search.plans import stopping
from tim_search.plans.expansion import Greedy
from tim_search.plans.static import Plan, StaticPlan
from tim_search.plans.stopping import Sequential
from tim_search.plans.surrogate import Surrogate
from tim_search.types import BadInput


def make(design: Mapping[str, Any], tasks: Sequence[str]) -> Plan:
    """The plan of a design over these tasks; the same design gives the same plan, on every machine.

    Raises:
        BadInput: for a kind of design that this version does not know, or a size that does not fit the tasks.
    """
    names = tuple(tasks)
    settings = {key: value for key, value in design.items() if key != "kind"}
    match design.get("kind"):
        case "exact":
            membership = designs.exact(len(names))
        case "sized":
            membership = designs.sized(len(names), settings["k"])
        case "sampled":
            sample = designs.subsets(designs.hybrid(len(names), settings["n"], settings["seed"]), names)
            static = StaticPlan(sample, settings["sliced"])
            if "stop" not in settings:
                return static
            return Sequential(static, stopping.rule_of(settings["stop"]), settings.get("control"))
        case "greedy":
            return Greedy(**{**settings, "sources": tuple(settings["sources"]), "tasks": names})
        case "surrogate":
            own = {key: settings[key] for key in ("rounds", "batch", "max_size", "seed")}
            return Surrogate(tuple(settings["sources"]), names, **own)
        case other:
            raise BadInput(
                f"design: expected exact, sized, sampled, greedy or surrogate, got {other!r}. The search was made by "
                "another version of this product; read it with that one."
            )
    return StaticPlan(designs.subsets(membership, names))


def at_most(plan: Plan, tasks: Sequence[str], blocks: Sequence[tuple[int, int]]) -> int:
    """The most trainings a search can come to."""
    match plan:
        case StaticPlan():
            return len(plan.units(blocks))
        case Sequential(design=design):
            return len(design.units(blocks))
        case Surrogate():
            return plan.most() * len(blocks)
        case Greedy(max_size=largest):
            sizes: Iterable[int] = range(1, largest + 1)
        case _:
            sizes = range(1, len(tasks) + 1)
    return sum(comb(len(tasks), size) for size in sizes) * len(blocks)


def planned_units(plan: Plan, blocks: Sequence[tuple[int, int]]) -> int | None:
    """Trainings of a whole search; None where the plan decides as it goes."""
    return len(plan.units(blocks)) if isinstance(plan, StaticPlan) else None
