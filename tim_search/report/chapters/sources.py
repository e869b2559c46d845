"""The source tasks: helpers and harmers, the tree of the expansion, and what the confirmation said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tim_search.gates.plain import number
from tim_search.plans.expansion import Expansion
from tim_search.report import figures
from tim_search.tim.result import MOST_SHOWN, TimResult
from tim_search.types import METRIC_WORDS, joined


def source(
    row: Mapping[str, Any], result: TimResult, paper: Expansion, confirmation: Sequence[Mapping[str, Any]], verdict: str
) -> dict[str, Any]:
    """Helpers and harmers with bars, the tree of the expansion, and what the confirmation said.

    Of many helpers and harmers as many of the best as of the worst. `verdict` is that of the source, in words.
    """
    shown, half = row["helpers"], figures.MAX_ROWS // 2
    if len(shown) > MOST_SHOWN:
        shown = [*shown[:half], *shown[-half:]]
    left_out = len(row["helpers"]) - len(shown)
    ends = [abs(helper[key]) for helper in shown for key in ("estimate", "low", "high") if helper[key] is not None]
    limit = max(ends, default=0.0) or 1.0
    i = result.tasks.index(row["source"])
    bars = []
    for helper in shown:
        j = result.tasks.index(helper["task"])
        bars.append(
            {
                **helper,
                "p_value": number(result.p_value[i, j]),
                "at": _place(helper["estimate"], limit),
                "from": None if helper["low"] is None else _place(helper["low"], limit),
                "to": None if helper["high"] is None else _place(helper["high"], limit),
            }
        )
    return {
        **row,
        "metric_words": METRIC_WORDS.get(row["metric"], row["metric"]),
        "helpers": bars,
        "left_out": left_out,
        "verdict": verdict,
        "limit": limit,
        "tree": _tree(paper),
        "confirmation": [confirmed for confirmed in confirmation if confirmed["source"] == row["source"]],
    }


def line(row: Mapping[str, Any], verdict: str) -> dict[str, Any]:
    """A source that has no chapter of its own: its best helper, worst harmer and verdict in words."""
    helpers = row["helpers"]
    gains = [helper for helper in helpers if helper["estimate"] > 0][:1]
    losses = [helper for helper in helpers if helper["estimate"] < 0][-1:]
    return {
        "source": row["source"],
        "metric": METRIC_WORDS.get(row["metric"], row["metric"]),
        "alone": row["single_score"],
        "helper": gains[0] if gains else None,
        "harmer": losses[0] if losses else None,
        "verdict": verdict,
    }


def _place(value: float, limit: float) -> float:
    """Where a value stands on a bar 200 wide, zero in its middle."""
    return round(100 + 94 * value / limit, 1)


def _tree(expansion: Expansion) -> dict[str, Any]:
    """The kept combinations, each below one that it extends, and how many were looked at a level."""
    nodes: dict[tuple[str, ...], dict[str, Any]] = {}
    roots: list[dict[str, Any]] = []
    for step in expansion.steps:
        for candidate in step.beam:
            parent = next(
                (each for each in nodes if len(each) == step.size - 1 and set(each) < set(candidate.subset)), None
            )
            added = set(candidate.subset).difference(parent or (expansion.source,))
            node: dict[str, Any] = {
                "added": joined(sorted(added)),
                "subset": joined(candidate.subset),
                "score": number(candidate.score),
                "gain": number(candidate.gain),
                "low": number(candidate.low),
                "high": number(candidate.high),
                "best": candidate.subset == expansion.best,
                "children": [],
            }
            (nodes[parent]["children"] if parent else roots).append(node)
            nodes[candidate.subset] = node
    return {
        "roots": roots,
        "levels": [
            {"size": s.size, "tried": s.tried, "kept": len(s.beam), "failed": s.failed, "missing": s.missing}
            for s in expansion.steps
        ],
        "reason": expansion.reason,
        "complete": expansion.complete,
    }
