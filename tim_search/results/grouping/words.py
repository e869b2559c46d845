"""What the reader of a choice must know, and the choice as plain values."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import fields
from typing import Any

from tim_search.results.grouping.candidates import Candidates
from tim_search.results.grouping.choice import Certainty, Choice, Grouping
from tim_search.types import joined, some


def notes(
    candidates: Candidates,
    choice: Choice,
    certainty: Certainty | None,
    largest: int,
    overlaps: Iterable[tuple[str, str]],
) -> tuple[str, ...]:
    """What the reader of a choice must know, in words."""
    lines = []
    if choice.predicted:
        lines.append(
            "Models marked ? were not trained in every block: their scores are predictions, chosen because they are "
            "high, so they are too high more often than not. Train them before believing them (--train)."
        )
    if certainty is not None:
        lines.append(
            f"Chosen again on {certainty.draws} bootstrap draws of blocks and patients, the same models win in "
            f"{certainty.same:.0%}."
        )
        if math.isfinite(certainty.held_out):
            lines.append(
                f"The total gain was measured on the scores that chose: it is too large on average, and its interval "
                f"does not know of the choosing. Chosen on all blocks but one and measured on that one, it is "
                f"{certainty.held_out:+.3f}. The test patients were not read."
            )
    if not candidates.every:
        lines.append(
            f"Not all subsets of at most {largest} tasks were looked at, but {len(candidates.subsets)}: those that "
            "were trained, and the neighbours of what was chosen."
        )
    if weak := [task for task, served in choice.served.items() if served.gain < 0]:
        lines.append(
            f"Served worse than by a model of their own, because there are no more than {choice.budget} models: "
            f"{some(weak, 20)}."
        )
    shared = [pair for pair in overlaps if any(set(pair) <= set(model.subset) for model in choice.models)]
    if shared:
        names = "; ".join(" and ".join(pair) for pair in shared)
        lines.append(f"Nested or near-identical targets share a model: {names}.")
    return tuple(lines)


def record(grouping: Grouping) -> dict[str, Any]:
    """A grouping as plain values for tables and JSON; NaN is None."""
    certainty = grouping.certainty
    return {
        "objective": grouping.objective,
        "gain": grouping.gain,
        "max_size": grouping.max_size,
        "candidates": len(grouping.candidates.subsets),
        "measured": int(grouping.candidates.measured.sum()),
        **_plain_choice(grouping.choice, certainty),
        "unmeasured": [joined(members) for members in grouping.unmeasured],
        "certainty": None
        if certainty is None
        else {"draws": certainty.draws, "same": certainty.same, "held_out": _number(certainty.held_out)},
        "front": [
            {
                "models": len(each.models),
                "trained_tasks": sum(len(model.subset) for model in each.models),
                "total": each.total,
                "low": _number(each.low),
                "high": _number(each.high),
                "worst": each.worst,
                "predicted": each.predicted,
                "subsets": [joined(model.subset) for model in each.models],
            }
            for each in grouping.front
        ],
        "notes": list(grouping.notes),
    }


def _plain_choice(choice: Choice, certainty: Certainty | None) -> dict[str, Any]:
    return {
        "budget": choice.budget,
        "models": [
            {
                "tasks": list(model.subset),
                "predicted": model.predicted,
                "chosen_again": None if certainty is None else certainty.models[model.subset],
                "serves": [
                    {field.name: _number(getattr(served, field.name)) for field in fields(served)}
                    for served in model.serves
                ],
            }
            for model in choice.models
        ],
        "total": choice.total,
        "low": _number(choice.low),
        "high": _number(choice.high),
        "worst": choice.worst,
        "predicted": choice.predicted,
    }


def _number(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
