"""The maps: TIM scores by value and by rank, and attention, as rows of cells."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from tim_search.gates.plain import number
from tim_search.report import figures
from tim_search.report.figures.attention import AttentionData
from tim_search.report.figures.heatmap import HeatmapData
from tim_search.report.wording import signed
from tim_search.results.opened import SearchResults
from tim_search.tim import agreement
from tim_search.tim.result import TimResult
from tim_search.types import METRIC_WORDS, Task, overlap_mask


def heatmap(
    result: TimResult,
    kind: figures.HeatmapKind,
    overlaps: Iterable[tuple[str, str]],
    tasks: Mapping[str, Task],
    most: int,
    unlearnt: Collection[str] = (),
) -> dict[str, Any]:
    """A TIM heatmap as rows of cells, in the order, with the colours and the marks of the figure.

    `unlearnt` are the sources whose networks have not learnt.
    """
    data = figures.heatmap_data(result, kind, overlaps, tasks, most=most, unlearnt=unlearnt)
    shades = np.where(data.muted, figures.MUTED * data.shades, data.shades)
    order = [result.tasks.index(name) for name in data.tasks]
    rows = []
    for r, i in enumerate(order):
        metric = METRIC_WORDS.get(tasks[result.tasks[i]].metric, "")
        cells = []
        for c, j in enumerate(order):
            value = float(data.cells[r, c])
            mark = "●" if data.discovered[r, c] else "○" if data.excludes_zero[r, c] else ""
            cells.append(
                {
                    "column": data.tasks[c],
                    "value": None if i == j or math.isnan(value) else value,
                    "diagonal": i == j,
                    "text": "" if i == j or data.numbers is None else data.numbers[r][c],
                    "shade": 0 if math.isnan(shades[r, c]) else round(100 * abs(shades[r, c])),
                    "helps": value > 0,
                    "mark": mark,
                    "hatched": bool(data.hatched[r, c]),
                    "detail": "" if i == j else _cell_detail(result, i, j, metric, _no_finding(data, r, c)),
                }
            )
        rows.append(
            {
                "name": data.tasks[r],
                "metric": metric,
                "department": tasks[data.tasks[r]].department,
                "note": figures.NOT_LEARNT if data.unlearnt[r] else "",
                "cells": cells,
            }
        )
    return {
        "kind": kind,
        "columns": list(data.tasks),
        "rows": rows,
        "control": result.control,
        "shades": "two",
        "hatched": bool(data.hatched.any()),
        "muted": bool(data.muted.any()),
        "unlearnt": bool(data.unlearnt.any()),
    }


def _no_finding(data: HeatmapData, r: int, c: int) -> str:
    """Why a cell is no finding whatever its numbers are; "" where it may be one."""
    if data.unlearnt[r]:
        return f"{data.tasks[r]} {figures.NOT_LEARNT}: no finding"
    return "overlapping targets: no finding" if data.hatched[r, c] else ""


def _cell_detail(result: TimResult, i: int, j: int, metric: str, no_finding: str) -> str:
    source, task, value = result.tasks[i], result.tasks[j], float(result.estimate[i, j])
    if not math.isfinite(value):
        return f"{source}, trained with {task}: cannot be estimated"
    words = [f"{source}, trained with {task}: {signed(value)} {metric}"]
    if math.isfinite(result.low[i, j]):
        words.append(f"{result.confidence:.0%} interval {signed(result.low[i, j])} to {signed(result.high[i, j])}")
    if math.isfinite(result.p_value[i, j]):
        words.append(f"p {result.p_value[i, j]:.2g}")
    if no_finding:
        words.append(no_finding)
    elif result.rejected[i, j]:
        words.append("discovery")
    words.append(f"{result.n_with[i, j]} subsets with {task}, {result.n_without[i, j]} without")
    return " · ".join(words)


def attention(results: SearchResults, result: TimResult, shown: Sequence[str]) -> dict[str, Any] | None:
    """The attention map of one subset size beside the TIM scores; None where none was kept, or too much to be read."""
    names = tuple(name for name in results.tasks if name != results.control)
    if figures.attention_weights(results.table.membership, results.table.trained) > figures.MOST_WEIGHTS:
        return None
    frame = results.ledger.attention(results.manifest.context.key)
    size = figures.attention_size(frame, names, shown)
    if size is None:
        return None
    data = figures.attention_data(frame, names, size, results.tasks, shown)
    others = data.weight[~np.eye(len(data.tasks), dtype=bool) & np.isfinite(data.weight)]
    low, high = (float(others.min()), float(others.max())) if len(others) else (0.0, 0.0)
    rows: list[dict[str, Any]] = [
        {
            "name": name,
            "metric": "",
            "department": results.tasks[name].department,
            "note": "",
            "cells": [_attention_cell(data, r, c, size, low, high) for c in range(len(data.tasks))],
        }
        for r, name in enumerate(data.tasks)
    ]
    at = [result.tasks.index(name) for name in data.tasks]
    same = overlap_mask(data.tasks, results.manifest.overlaps)
    agree = agreement.rank_agreement(data.weight, result.estimate[np.ix_(at, at)], same)
    return {
        "size": size,
        **_bound(results),
        "low": low,
        "high": high,
        "map": {"kind": "attention", "columns": list(data.tasks), "rows": rows, "control": None, "shades": "one"},
        "agreement": {
            "mean": number(agree.mean),
            "chance": number(agree.chance),
            "rows": [[name, number(value)] for name, value in zip(data.tasks, agree.rows, strict=True)],
        },
        "rows": [
            {"task": row["name"], "other": cell["column"], "weight": cell["value"], "subset_size": size}
            for row in rows
            for cell in row["cells"]
            if not cell["diagonal"]
        ],
    }


def _attention_cell(data: AttentionData, r: int, c: int, size: int, low: float, high: float) -> dict[str, Any]:
    """What task r draws on task c; shades run from the lowest weight between two tasks to the highest."""
    name, other, value = data.tasks[r], data.tasks[c], float(data.weight[r, c])
    missing = math.isnan(value)
    detail = f"{name} never stood with {other} in a subset of {size}"
    if not missing:
        detail = (
            f"{name} draws {value:.4f} of its attention on {other if r != c else 'itself'} · mean over "
            f"{data.subsets[r, c]} subsets of {size} tasks"
        )
    numbers = len(data.tasks) <= figures.MAX_TASKS_WITH_NUMBERS
    return {
        "column": other,
        "value": None if missing or r == c else value,
        "diagonal": r == c,
        "text": f"{value:.3f}".removeprefix("0") if numbers and not missing else "",
        "shade": 0 if missing or r == c or high == low else round(100 * (value - low) / (high - low)),
        "helps": True,
        "mark": "",
        "hatched": False,
        "detail": detail,
    }


def _bound(results: SearchResults) -> dict[str, Any]:
    """M3H's scale of attention logits, and how far it lets two weights of one row differ."""
    alpha = json.loads(results.manifest.context.settings).get("alpha")
    # The logits are alpha times a cosine, which lies between -1 and 1.
    return {"alpha": alpha, "bound": None if alpha is None else math.exp(2 * alpha)}
