"""From a design, as `search.json` and the search file record it, to a plan that can be asked.

A design is a mapping with `kind`: {"kind": "exact"}, {"kind": "sized", "k": 2},
{"kind": "sampled", "n": 208, "seed": 0, "sliced": true, "fill": 16, "control": "dead_permuted",
"stop": {"top_k": 3, "overlap": 0.9, "false_sign": 0.05}}, the last three optional,
{"kind": "greedy", "beam": 3, "max_size": 3, "rule": "lower_bound", "confidence": 0.95, "tolerance": 0.0,
"sources": [...]}, or {"kind": "surrogate", "rounds": 6, "batch": 1, "max_size": 0, "seed": 0, "rule": "lower_bound",
"confidence": 0.95, "tolerance": 0.0, "sources": [...]}.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tim_search import designs
from tim_search.gates.forms import conform
from tim_search.plans.contract import Plan
from tim_search.plans.greedy import Greedy
from tim_search.plans.sequential import Rule, Sequential
from tim_search.plans.static import StaticPlan
from tim_search.plans.surrogate import Surrogate
from tim_search.types import BadInput

_EXPANDING = {"rule": str, "confidence": float, "tolerance": float, "sources": [str]}
#: What the values of a design are, by its kind.
_FORMS: Mapping[str, Any] = {
    "exact": {},
    "sized": {"k": int},
    "sampled": {
        "n": int,
        "seed": int,
        "sliced": bool,
        "fill?": int,
        "control?": str,
        "stop?": {"top_k": int, "overlap": float, "false_sign": float},
    },
    "greedy": {"beam": int, "max_size": int, **_EXPANDING},
    "surrogate": {"rounds": int, "batch": int, "max_size": int, "seed": int, **_EXPANDING},
}


def check_form(design: Any) -> None:
    """Raise ValueError where a design lacks a value or has one of another type; kinds of other versions pass."""
    conform(design, {"kind": str}, "design")
    conform(design, _FORMS.get(design["kind"], {}), "design")


def make(design: Mapping[str, Any], tasks: Sequence[str]) -> Plan:
    """The plan of a design over these tasks; the same design gives the same plan, on every machine.

    Raises:
        BadInput: for a kind of design that this version does not know, or a size that does not fit the tasks.
    """
    names = tuple(tasks)
    try:
        check_form(design)
    except ValueError as error:
        raise BadInput(f"{error}. Run the search again with its search file; it writes the design anew.") from error
    names_of_values = (key.removesuffix("?") for key in _FORMS.get(design["kind"], {}))
    settings = {key: design[key] for key in names_of_values if key in design}
    match design["kind"]:
        case "exact":
            return StaticPlan(designs.subsets(designs.exact(len(names)), names))
        case "sized":
            return StaticPlan(designs.subsets(designs.sized(len(names), settings["k"]), names))
        case "sampled":
            sample = designs.subsets(designs.hybrid(len(names), settings["n"], settings["seed"]), names)
            static = StaticPlan(sample, settings["sliced"], sampled=True, fill=settings.get("fill", 0))
            if "stop" not in design:
                return static
            return Sequential(static, Rule(**design["stop"]), design.get("control"))
        case "greedy":
            return Greedy(**{**settings, "sources": tuple(settings["sources"]), "tasks": names})
        case "surrogate":
            return Surrogate(**{**settings, "sources": tuple(settings["sources"]), "tasks": names})
        case other:
            raise BadInput(
                f"design: expected exact, sized, sampled, greedy or surrogate, got {other!r}. The search was made by "
                "another version of this product; read it with that one."
            )


def in_words(design: Mapping[str, Any]) -> str:
    """A design as people read it: its kind, and which subsets that means."""
    kind = str(design["kind"])
    words = {
        "exact": "every subset of the tasks",
        "sized": f"every subset of at most {design.get('k')} tasks",
        "sampled": f"a balanced sample of up to {design.get('n')} subsets of any size",
        "greedy": "single tasks, pairs, then what extends the best of them",
        "surrogate": "single tasks, a balanced start, then what a model of the scores finds most promising",
    }
    return f"{kind}: {words.get(kind, kind)}"
