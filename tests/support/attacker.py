"""An attacker who reads the record of a cohort and solves for every count that is hidden.

What is told becomes equations and bounds: parts add up to the whole, classes to the labelled, a rounded count lies in
an interval. Of every hidden count the least and the largest value that fit all of it are computed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp


class Attack:
    """Unknown whole counts, and what is known of them."""

    def __init__(self, small: int, coarser: int) -> None:
        self.small, self.coarser = small, coarser
        self.low: list[float] = []
        self.high: list[float] = []
        self.rows: list[tuple[dict[int, int], float, float]] = []

    def unknown(self, shown: int | str | None = None) -> int:
        """A new unknown count, of which this is shown."""
        low, high = self.interval(shown)
        self.low.append(low)
        self.high.append(high)
        return len(self.low) - 1

    def interval(self, shown: int | str | None) -> tuple[float, float]:
        """What a count can be that is shown so."""
        if shown is None:
            return 0, np.inf
        if isinstance(shown, int):
            return shown, shown
        number = int(re.sub(r"\D", "", shown))
        if shown.startswith("≥"):
            return number, np.inf
        if shown.startswith("<"):
            return 1, number - 1
        half = 10 * -(-self.small // 10) * self.coarser / 2
        return max(number - half, self.small), number + half

    def adds_up(self, whole: int, *parts: int) -> None:
        """The parts are the whole; all of them unknowns."""
        self.rows.append(({**dict.fromkeys(parts, 1), whole: -1}, 0, 0))

    def range(self, place: int) -> tuple[int, int] | None:
        """The least and the largest value that fit all that is known; None where nothing fits."""
        matrix = np.zeros((len(self.rows), len(self.low)))
        for index, (row, _, _) in enumerate(self.rows):
            for column, by in row.items():
                matrix[index, column] = by
        limits = LinearConstraint(matrix, [row[1] for row in self.rows], [row[2] for row in self.rows])
        ends = []
        for sign in (1, -1):
            goal = np.zeros(len(self.low))
            goal[place] = sign
            answer = milp(
                goal, integrality=np.ones(len(goal), np.int64), bounds=Bounds(self.low, self.high), constraints=limits
            )
            if answer.x is None:
                return None
            ends.append(round(answer.x[place]))
        return ends[0], ends[1]


def solved(hidden: Mapping[str, Any], small: int, coarser: int) -> dict[str, tuple[int, int] | None]:
    """What the attacker learns of every count that is hidden, or is the rest of two that are told: its range."""
    ranges: dict[str, tuple[int, int] | None] = {}
    n = hidden["samples"]
    sizes = [part["samples"] for part in hidden["parts"]]
    for task in (task for task in hidden["tasks"] if "labelled" in task):
        attack = Attack(small, coarser)
        names: dict[str, int] = {}

        def tell(name: str, shown: Any, attack: Attack = attack, names: dict[str, int] = names) -> int:
            names[name] = attack.unknown(shown)
            return names[name]

        labelled, rest = tell("labelled", task["labelled"]), tell("without a label", None)
        attack.adds_up(attack.unknown(n), labelled, rest)
        classes = [tell(f"class {name}", shown) for name, shown in task.get("classes", [])]
        if "known" in task:  # of a multilabel task: of each label who carries it, and which of them have it
            for yes, (name, _), shown in zip(classes, task["classes"], task["known"], strict=True):
                carrying = tell(f"known {name}", shown)
                attack.adds_up(carrying, yes, tell(f"no {name}", None))
                attack.adds_up(labelled, carrying, tell(f"unknown {name}", None))
        elif classes:
            attack.adds_up(labelled, *classes)
        of_parts, positives = [], []
        for part, size in zip(task["parts"], sizes, strict=False):
            there, lacking = tell(f"{part['part']} labelled", part["labelled"]), tell(f"{part['part']} without", None)
            attack.adds_up(attack.unknown(size), there, lacking)
            of_parts.append(there)
            if part["positive"] is not None:
                yes, no = tell(f"{part['part']} positive", part["positive"]), tell(f"{part['part']} negative", None)
                attack.adds_up(there, yes, no)
                positives.append(yes)
        if of_parts:
            attack.adds_up(labelled, *of_parts)
        if positives:
            attack.adds_up(classes[1], *positives)
        ranges |= {f"{task['name']}: {name}": attack.range(place) for name, place in names.items()}
    for modality in hidden["modalities"]:
        attack = Attack(small, coarser)
        absent, there = attack.unknown(modality["absent"]), attack.unknown()
        attack.adds_up(attack.unknown(n), absent, there)
        for column, shown in modality["column_missing"].items():
            missing, measured = attack.unknown(shown), attack.unknown()
            attack.adds_up(there, missing, measured)
            ranges[f"{modality['name']}.{column}"] = attack.range(missing)
            ranges[f"{modality['name']}.{column} measured"] = attack.range(measured)
        ranges[f"{modality['name']} absent"], ranges[f"{modality['name']} there"] = map(attack.range, (absent, there))
    attack = Attack(small, coarser)
    left = [attack.unknown(shown) for _, shown in hidden["filters"]]
    for (name, _), before, after in zip(hidden["filters"][1:], left, left[1:], strict=False):
        taken = attack.unknown()
        attack.adds_up(before, after, taken)
        ranges[f"taken by {name}"] = attack.range(taken)
    for key in ("samples", "patients"):
        attack = Attack(small, coarser)
        parts = [attack.unknown(part[key]) for part in hidden["parts"]]
        if parts:
            attack.adds_up(attack.unknown(hidden[key]), *parts)
        ranges |= {f"{key} of part {index}": attack.range(place) for index, place in enumerate(parts)}
    return ranges


def attacked(hidden: Mapping[str, Any], small: int) -> dict[str, tuple[int, int] | None]:
    """The range of each count over the steps that the record can have been rounded to."""
    ranges: dict[str, tuple[int, int] | None] = {}
    for coarser in (1, 2, 5, 10):
        for name, ends in solved(hidden, small, coarser).items():
            before = ranges.get(name)
            both = [each for each in (before, ends) if each is not None]
            ranges[name] = (min(low for low, _ in both), max(high for _, high in both)) if both else None
    return ranges


def learnt(ranges: Mapping[str, tuple[int, int] | None], small: int) -> list[str]:
    """The small counts of which the attacker knows the value."""
    return [name for name, ends in ranges.items() if ends is not None and ends[0] == ends[1] and 0 < ends[0] < small]
