"""The report of a search: one HTML page that needs nothing else, to be mailed, printed and kept.

`content` collects plain values from the search folder, `page` turns them into HTML, and nothing is shown that is not in
`content`. The page has its styles, its script and its tables inside; it fetches nothing. Whatever comes from users
(names of tasks, columns, classes, errors) passes jinja2's escaping.

Figures are drawn as HTML tables and small inline SVG: 44 tasks come to well under 5 MB, which a plotting library alone
would take. Of more than 64 tasks the maps and the chapters by source show the most telling ones, and one line each
tells of the others, so that a page of hundreds of tasks opens too; tables/tim.csv of the folder holds every cell.
"""

from __future__ import annotations

import base64
import csv
import io
import json
import math
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from numpy.typing import NDArray

from tim_search.gates import small_cells
from tim_search.gates.files import write_durably
from tim_search.gates.plain import number, plain
from tim_search.ledger.ledger import product_version
from tim_search.plans import expansion
from tim_search.plans.expansion import Expansion
from tim_search.plans.from_design import in_words
from tim_search.report import figures, wording
from tim_search.results import summary
from tim_search.results.summary import SearchResults
from tim_search.tim import agreement
from tim_search.tim.scores import MOST_SHOWN, TimResult, most_telling
from tim_search.tuning import per_subset
from tim_search.types import METRIC_WORDS, BadInput, Task, Unit, duration, subset

#: Columns of a modality whose missing values are listed one by one; the fullest are left out first.
_COLUMNS_SHOWN = 40
#: Lists of more entries than this are folded.
_UNFOLDED = 20
_TEMPLATE = "page.html"


def write(
    results: SearchResults,
    path: str | Path | None = None,
    *,
    small: int | None = None,
    confirmation: Sequence[Mapping[str, Any]] = (),
) -> Path:
    """Write the report of a search folder; returns its path, by default report.html in the folder.

    Args:
        results: the search.
        path: of the page.
        small: counts of patients below it are shown as "<10" and the like; 0 shows all, None does what the search's
            file says (`small_cells`), below which nothing can be shown.
        confirmation: the rows of the confirmation on test patients, [] where there was none.

    Raises BadInput before anything is trained.
    """
    path = Path(path) if path is not None else results.folder / "report.html"
    if path.is_dir():
        raise BadInput(f"{path}: expected a page to write, got a folder. Name one, such as {path / 'report.html'}.")
    text = page(content(results, small=small, confirmation=confirmation))
    return write_durably(path, text.encode(), "Name another page with --out.")


def page(facts: Mapping[str, Any]) -> str:
    """The HTML of what `content` collected."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "signed": _signed,
        "share": lambda value: "" if value is None else "<1%" if 0 < value < 0.005 else f"{value:.0%}",
        "grouped": lambda value: f"{value:,}" if isinstance(value, int) else str(value),
        "duration": duration,
    }
    return environment.get_template(_TEMPLATE).render(facts)


def content(
    results: SearchResults, *, small: int | None = None, confirmation: Sequence[Mapping[str, Any]] = ()
) -> dict[str, Any]:
    """Everything the page shows, as plain values; see `write`."""
    if small is not None and small < results.small_cells:
        raise BadInput(
            f"--small-cells: expected {results.small_cells} or more, the counts that the search writes down, got "
            f"{small}. Leave the option out, or change `small_cells` in the search's file and run it again."
        )
    small = results.small_cells if small is None else small
    manifest, tasks, overlaps = results.manifest, results.tasks, results.manifest.overlaps
    result, status = results.tim(), results.status()
    short = summary.report(results, result)
    by_rule: dict[str, list[Expansion]] = {rule: results.expand(rule)[0] for rule in expansion.RULES}
    cohort = _read(results.folder / "cohort.json", "format", "samples", "parts", "modalities", "dropped", "tasks")
    dropped = [f"{one['modality']}.{one['column']}" for one in cohort["dropped"]] if cohort else []
    shown = most_telling(result, overlaps=overlaps)
    attention = _attention(results, result, shown)
    confirmed = [plain(row) for row in confirmation]
    return {
        "name": manifest.name,
        "label": result.label,
        "made": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "version": product_version(),
        "facts": _key_facts(result, status),
        "may": wording.may(result, tasks, overlaps, by_rule["lower_bound"], confirmed),
        "may_not": wording.may_not(result, tasks, overlaps, status, by_rule["lower_bound"], dropped, confirmed),
        "notes": short["notes"],
        "status": status,
        "asked": _asked(results),
        "cohort": _cohort(cohort, small) if cohort else None,
        "small": small,
        "maps": [_heatmap(result, "value", overlaps, tasks), _heatmap(result, "rank", overlaps, tasks)],
        "attention": attention,
        "sources": [
            _source(row, result, paper, confirmed)
            for row, paper in zip(short["sources"], by_rule["paper"], strict=True)
            if row["source"] in set(shown)
        ],
        "others": [_line(row) for row in short["sources"] if row["source"] not in set(shown)],
        "several": len(result.tasks),
        "fold": _UNFOLDED,
        "sharing": short["sharing"],
        "group": _read(results.folder / "group.json", "budget", "models", "front", "notes", "made"),
        "confirmation": confirmed,
        "cost": _cost(results),
        "settings": _settings(results),
        "context": {
            "key": manifest.context.key,
            "cohort": manifest.context.cohort,
            "columns": manifest.context.columns,
            "split": manifest.context.split,
            "network": manifest.context.network,
        },
        "versions": {"search made by tim-search": manifest.version, **(_read(results.folder / "versions.json") or {})},
        "tables": [
            _scores(result, shown),
            _download("expansion.csv", "best combinations by both rules", _expansion_rows(by_rule)),
            *([_download("attention.csv", "attention", attention["rows"])] if attention else []),
            *([_download("confirmation.csv", "confirmation", confirmed)] if confirmed else []),
        ],
    }


def _read(path: Path, *keys: str) -> Any:
    """A JSON file of the folder that has these keys, or None: folders of earlier versions have fewer of them."""
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return plain if isinstance(plain, dict) and plain.keys() >= set(keys) else None


# What was asked and what it took --------------------------------------------------------------------------------------


def _key_facts(result: TimResult, status: Mapping[str, Any]) -> list[list[str]]:
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


def _asked(results: SearchResults) -> dict[str, Any]:
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


def _settings(results: SearchResults) -> dict[str, Any]:
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


def _cost(results: SearchResults) -> list[dict[str, Any]]:
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
            "units": len(found) * combinations,
            "failed": sum(failed for _, failed in found),
            "seconds": math.fsum(seconds for seconds, _ in found),
            "each": math.fsum(seconds for seconds, _ in found) / (len(found) * combinations),
        }
        for size, found in sorted(sizes.items())
    ]


# The cohort -----------------------------------------------------------------------------------------------------------


def _cohort(record: Mapping[str, Any], small: int) -> dict[str, Any]:
    """The cohort's record as it is shown: without counts below `small`, and with the shares that may be told."""
    hidden = small_cells.of_cohort(record, small)
    n = hidden["samples"]
    modalities = []
    for one in hidden["modalities"]:
        missing = sorted(one["column_missing"].items(), key=lambda item: -_size(item[1]))
        modalities.append(
            {
                **one,
                "absent_share": _share(one["absent"], n),
                "columns_shown": [
                    {"name": name, "missing": value, "share": _share(value, n)}
                    for name, value in missing[:_COLUMNS_SHOWN]
                ],
                "columns_left_out": max(len(missing) - _COLUMNS_SHOWN, 0),
            }
        )
    return {**hidden, "modalities": modalities, "tasks": [_task(one, n) for one in hidden["tasks"]]}


def _task(one: Mapping[str, Any], n: small_cells.Count) -> dict[str, Any]:
    if "labelled" not in one:
        return dict(one)
    labelled, classes = one["labelled"], one.get("classes", [])
    missing = _share(labelled, n)
    # Of a multilabel task a share is one of the samples that carry the label.
    known = one.get("known", [labelled] * len(classes))
    return {
        **one,
        "missing_share": None if missing is None else 1 - missing,
        "classes": [
            {"name": name, "count": value, "share": _share(value, of)}
            for (name, value), of in zip(classes, known, strict=True)
        ],
        "values": (one["mean"], one["sd"]) if "mean" in one else None,
    }


def _share(value: small_cells.Count, of: small_cells.Count) -> float | None:
    """None where a count is hidden."""
    return None if isinstance(value, str) or isinstance(of, str) else value / max(of, 1)


def _size(value: small_cells.Count) -> int:
    return value if isinstance(value, int) else int(re.sub(r"\D", "", value))


# The maps -------------------------------------------------------------------------------------------------------------


def _heatmap(
    result: TimResult, kind: figures.HeatmapKind, overlaps: Iterable[tuple[str, str]], tasks: Mapping[str, Task]
) -> dict[str, Any]:
    """A TIM heatmap as rows of cells, in the order and with the marks of the figure."""
    data = figures.heatmap_data(result, kind, overlaps, tasks)
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
                    "shade": 0 if math.isnan(value) else round(100 * min(abs(value) / data.limit, 1)),
                    "helps": value > 0,
                    "mark": mark,
                    "hatched": bool(data.hatched[r, c]),
                    "detail": "" if i == j else _cell_detail(result, i, j, metric, bool(data.hatched[r, c])),
                }
            )
        rows.append(
            {"name": data.tasks[r], "metric": metric, "department": tasks[data.tasks[r]].department, "cells": cells}
        )
    return {"kind": kind, "columns": list(data.tasks), "rows": rows, "control": result.control, "shades": "two"}


def _cell_detail(result: TimResult, i: int, j: int, metric: str, hatched: bool) -> str:
    source, task, value = result.tasks[i], result.tasks[j], float(result.estimate[i, j])
    if not math.isfinite(value):
        return f"{source}, trained with {task}: cannot be estimated"
    words = [f"{source}, trained with {task}: {_signed(value)} {metric}"]
    if math.isfinite(result.low[i, j]):
        words.append(f"{result.confidence:.0%} interval {_signed(result.low[i, j])} to {_signed(result.high[i, j])}")
    if math.isfinite(result.p_value[i, j]):
        words.append(f"p {result.p_value[i, j]:.2g}")
    if hatched:
        words.append("overlapping targets: no finding")
    elif result.rejected[i, j]:
        words.append("discovery")
    words.append(f"{result.n_with[i, j]} subsets with {task}, {result.n_without[i, j]} without")
    return " · ".join(words)


def _attention(results: SearchResults, result: TimResult, shown: Sequence[str]) -> dict[str, Any] | None:
    """The attention map of one subset size beside the TIM scores; None where none was kept, or too much to be read."""
    names = tuple(name for name in results.tasks if name != results.control)
    if figures.attention_weights(results.table.membership, results.table.trained) > figures.MOST_WEIGHTS:
        return None
    frame = results.ledger.attention(results.manifest.context.key)
    size = figures.attention_size(frame, names, shown)
    if size is None:
        return None
    data = figures.attention_data(frame, names, size, results.tasks, shown)
    m = len(data.tasks)
    others = np.where(np.eye(m, dtype=bool), np.nan, data.weight)
    known = others[np.isfinite(others)]
    low, high = (float(known.min()), float(known.max())) if len(known) else (0.0, 0.0)
    rows: list[dict[str, Any]] = []
    for r, name in enumerate(data.tasks):
        cells = []
        for c, other in enumerate(data.tasks):
            value = float(data.weight[r, c])
            missing = math.isnan(value)
            detail = (
                f"{name} never stood with {other} in a subset of {size}"
                if missing
                else (
                    f"{name} draws {value:.4f} of its attention on {other if r != c else 'itself'} · mean over "
                    f"{data.subsets[r, c]} subsets of {size} tasks"
                )
            )
            shade = 0 if missing or r == c or high == low else round(100 * (value - low) / (high - low))
            cells.append(
                {
                    "column": other,
                    "value": None if missing or r == c else value,
                    "diagonal": r == c,
                    "text": "" if missing or m > figures.MAX_TASKS_WITH_NUMBERS else f"{value:.3f}".removeprefix("0"),
                    "shade": shade,
                    "helps": True,
                    "mark": "",
                    "hatched": False,
                    "detail": detail,
                }
            )
        rows.append({"name": name, "metric": "", "department": results.tasks[name].department, "cells": cells})
    at = np.ix_([result.tasks.index(name) for name in data.tasks], [result.tasks.index(name) for name in data.tasks])
    same = _pairs(data.tasks, results.manifest.overlaps)
    agree = agreement.rank_agreement(data.weight, result.estimate[at], same)
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


def _bound(results: SearchResults) -> dict[str, Any]:
    """M3H's scale of attention logits, and how far it lets two weights of one row differ."""
    alpha = json.loads(results.manifest.context.settings).get("alpha")
    # The logits are alpha times a cosine, which lies between -1 and 1.
    return {"alpha": alpha, "bound": None if alpha is None else math.exp(2 * alpha)}


def _pairs(names: Sequence[str], overlaps: Iterable[tuple[str, str]]) -> NDArray[np.bool_]:
    flagged = {frozenset(pair) for pair in overlaps}
    return np.array([[frozenset((one, other)) in flagged for other in names] for one in names])


# One source -----------------------------------------------------------------------------------------------------------


def _source(
    row: Mapping[str, Any], result: TimResult, paper: Expansion, confirmation: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Helpers and harmers with bars, the tree of the expansion, and what the confirmation said.

    Of many helpers and harmers as many of the best as of the worst.
    """
    told, left_out = row["helpers"], max(0, len(row["helpers"]) - MOST_SHOWN)
    if left_out:
        told = [*told[: figures.MAX_ROWS // 2], *told[-(figures.MAX_ROWS // 2) :]]
        left_out = len(row["helpers"]) - len(told)
    ends = [abs(value) for one in told for value in (one["estimate"], one["low"], one["high"]) if value is not None]
    limit = max(ends, default=0.0) or 1.0
    i = result.tasks.index(row["source"])
    bars = []
    for one in told:
        j = result.tasks.index(one["task"])
        bars.append(
            {
                **one,
                "p_value": number(result.p_value[i, j]),
                "at": _place(one["estimate"], limit),
                "from": None if one["low"] is None else _place(one["low"], limit),
                "to": None if one["high"] is None else _place(one["high"], limit),
            }
        )
    return {
        **row,
        "metric_words": METRIC_WORDS.get(row["metric"], row["metric"]),
        "helpers": bars,
        "left_out": left_out,
        "limit": limit,
        "tree": _tree(paper),
        "confirmation": [one for one in confirmation if one["source"] == row["source"]],
    }


def _line(row: Mapping[str, Any]) -> dict[str, Any]:
    """A source that has no chapter of its own: its best helper, worst harmer and certain combination."""
    helpers, lower = row["helpers"], row["lower_bound"]
    gains = [one for one in helpers if one["estimate"] > 0][:1]
    losses = [one for one in helpers if one["estimate"] < 0][-1:]
    better = lower["holds"] and lower["size"] > 1
    return {
        "source": row["source"],
        "metric": METRIC_WORDS.get(row["metric"], row["metric"]),
        "alone": row["single_score"],
        "helper": gains[0] if gains else None,
        "harmer": losses[0] if losses else None,
        "best": lower["best"] if better else None,
        "gain": lower["gain"] if better else None,
    }


def _place(value: float, limit: float) -> float:
    """Where a value stands on a bar 200 wide, zero in its middle."""
    return round(100 + 94 * value / limit, 1)


def _tree(found: Expansion) -> dict[str, Any]:
    """The kept combinations, each below one that it extends, and how many were looked at a level."""
    nodes: dict[tuple[str, ...], dict[str, Any]] = {}
    roots: list[dict[str, Any]] = []
    for step in found.steps:
        for one in step.kept:
            parents = [known for known in nodes if len(known) == step.size - 1 and set(known) < set(one.subset)]
            added = set(one.subset) - set(parents[0]) if parents else set(one.subset) - {found.source}
            node: dict[str, Any] = {
                "added": " + ".join(sorted(added)),
                "subset": " + ".join(one.subset),
                "score": number(one.score),
                "gain": number(one.gain),
                "low": number(one.low),
                "high": number(one.high),
                "best": one.subset == found.best,
                "children": [],
            }
            (nodes[parents[0]]["children"] if parents else roots).append(node)
            nodes[one.subset] = node
    return {
        "roots": roots,
        "levels": [
            {"size": s.size, "tried": s.tried, "kept": len(s.kept), "failed": s.failed, "missing": s.missing}
            for s in found.steps
        ],
        "reason": found.reason,
        "complete": found.complete,
    }


def _expansion_rows(by_rule: Mapping[str, Sequence[Expansion]]) -> list[dict[str, Any]]:
    return [{"rule": rule, **row} for rule, found in by_rule.items() for row in expansion.rows(found)]


# Shared ---------------------------------------------------------------------------------------------------------------


def _scores(result: TimResult, shown: Sequence[str]) -> dict[str, str]:
    """The TIM scores as a table inside the page; of many tasks those of the map, as all would be most of the page."""
    if len(shown) == len(result.tasks):
        return _download("tim.csv", "all TIM scores", result.frame())
    kept = set(shown)
    rows = [row for row in result.frame() if row["source"] in kept and row["task"] in kept]
    title = f"TIM scores of the {len(shown)} tasks of the map; tables/tim.csv in the search folder holds all"
    return _download("tim.csv", title, rows)


def _download(name: str, title: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """A table as a link that holds it."""
    text = io.StringIO()
    if rows:
        writer = csv.DictWriter(text, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    coded = base64.b64encode(text.getvalue().encode()).decode()
    return {"name": name, "title": title, "href": f"data:text/csv;charset=utf-8;base64,{coded}"}


def _signed(value: float | None, digits: int = 4) -> str:
    return "" if value is None or not math.isfinite(value) else f"{value:+.{digits}f}".replace("-", "\N{MINUS SIGN}")
