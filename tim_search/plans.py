"""From a design, as `search.json` and the search file record it, to a plan that can be asked.

A design is a mapping with `kind`: {"kind": "exact"}, {"kind": "sized", "k": 2},
{"kind": "sampled", "n": 192, "seed": 0}, or
{"kind": "greedy", "beam": 3, "max_size": 3, "rule": "lower_bound", "confidence": 0.95, "sources": [...]}.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tim_search import designs
from tim_search.expansion import Greedy
from tim_search.search import Plan, StaticPlan
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
            membership = designs.hybrid(len(names), settings["n"], settings["seed"])
        case "greedy":
            return Greedy(**{**settings, "sources": tuple(settings["sources"]), "tasks": names})
        case other:
            raise BadInput(
                f"design: expected exact, sized, sampled or greedy, got {other!r}. The search was made by another "
                "version of this product; read it with that one."
            )
    return StaticPlan(tuple(designs.subsets(membership, names)))


def planned_units(plan: Plan, blocks: Sequence[tuple[int, int]]) -> int | None:
    """Trainings of a whole search; None where the plan decides as it goes."""
    return len(plan.subsets) * len(blocks) if isinstance(plan, StaticPlan) else None
