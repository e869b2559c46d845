"""Tables about models: which to deploy, what test patients say, a look inside, a task added."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from tim_search.cli.tables import colour, dim_lines, interval, interval_width, pairs, plain_table, surest_rows
from tim_search.gates import small_cells
from tim_search.types import joined, partners


def grouping(content: Mapping[str, Any]) -> Group:
    """The models to deploy, what each serves, and the front: `grouping.record`."""
    unit = {"relative": "share won", "absolute": "gain"}[content["gain"]]
    title = f"Models to deploy, objective {content['objective']}"
    table = plain_table(
        title, "model", "serves", "alone", "score", "gain", "interval", *([unit] if unit != "gain" else [])
    )
    for number, model in enumerate(content["models"], 1):
        alone = len(model["tasks"]) == 1
        for place, task in enumerate(model["serves"]):
            table.add_row(
                str(number) if place == 0 else "",
                Text(task["task"], style="bold"),
                f"{task['alone']:.4f}",
                f"{task['score']:.4f}" + (" ?" if task["predicted"] else ""),
                "" if alone else Text(f"{task['gain']:+.4f}", style=colour(task["gain"])),
                "" if alone else interval(task["low"], task["high"]),
                *(["" if alone else f"{task['relative']:+.1%}"] if unit != "gain" else []),
                end_section=place == len(model["serves"]) - 1,
            )
    members = {
        f"  model {number}": joined(model["tasks"]) + (" ?" if model["predicted"] else "")
        for number, model in enumerate(content["models"], 1)
    }
    front = plain_table("By the number of models", "models", "total gain", "interval", "worst gain")
    for row in content["front"]:
        mark = " ?" if row["predicted"] else ""
        front.add_row(
            f"{row['models']}",
            f"{row['total']:+.4f}{mark}",
            interval(row["low"], row["high"]),
            f"{row['worst']:+.4f}",
        )
    notes = [
        "Gains are against one model a task; share won: of what the task alone leaves to be won.",
        *(
            ["? predicted from other subsets, not measured."]
            if any(row["predicted"] for row in content["front"])
            else []
        ),
        *content["notes"],
    ]
    return Group(table, pairs(members), "", front, *dim_lines(notes), "")


def confirmation(rows: Sequence[Mapping[str, Any]], notes: Sequence[str]) -> RenderableType:
    """What the test patients say of each source, one a line, and below it the verdicts and the baselines."""
    table = plain_table(
        "Combinations on untouched test patients", "source task", "trained with", "alone", "with", "gain", "interval"
    )
    verdicts = []
    shown = surest_rows(rows, lambda row: (row["rejected"], abs(row["difference"] or 0.0) / interval_width(row)))
    if len(shown) < len(rows):
        notes = [f"The {len(shown)} surest of {len(rows)} sources are listed; all of them with --json.", *notes]
    for row in shown:
        others = partners(row["chosen"], row["source"])
        measured = row["difference"] is not None
        table.add_row(
            Text(row["source"], style="bold"),
            Text(others or "alone", style="" if others else "dim"),
            f"{row['single']:.4f}" if measured else "",
            f"{row['multi']:.4f}" if measured else "",
            Text(f"{row['difference']:+.4f}", style=colour(row["difference"])).append("*" if row["rejected"] else "")
            if measured
            else "",
            interval(row["low"], row["high"]),
        )
        percent = "" if row["percent"] is None else f" ({row['percent']:+.1f} %)"
        baselines = [
            f"{words} {row[name]:.4f}"
            for name, words in (("together", "all tasks together"), ("ensemble", "an ensemble of single-task models"))
            if row[name] is not None
        ]
        reached = f"; {row['metric']} of {' and of '.join(baselines)}" if baselines else ""
        verdicts.append(f"{row['source']}: {row['verdict']}{percent}{reached}.")
    lines = ["* confirmed or refuted: a discovery (Benjamini-Hochberg) at a false discovery rate of 10 %.", *notes]
    return Group(table, *(Text(f"  {line}") for line in verdicts), *dim_lines(lines))


def elsewhere(cohort: str, rows: Sequence[Mapping[str, Any]], notes: Sequence[str]) -> RenderableType:
    """What all of another cohort's patients say of both models of each source (`results.external.External.whole`)."""
    table = plain_table(f"On {cohort}", "source task", "model", "score", "gain", "interval", "slope", "intercept")
    last = ""
    for row in rows:
        gain = row["gain"]
        table.add_row(
            Text("" if row["source"] == last else row["source"], style="bold"),
            row["model"],
            _with_interval(row, "score", 3),
            "" if gain is None else Text(f"{gain:+.4f}", style=colour(gain)),
            interval(row["gain_low"], row["gain_high"]),
            _with_interval(row, "slope", 2),
            _with_interval(row, "intercept", 2),
        )
        last = row["source"]
    return Group(table, *dim_lines(["Subgroups and single classes are in the table below.", *notes]))


def _with_interval(row: Mapping[str, Any], name: str, digits: int) -> str:
    if row[name] is None:
        return ""
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    return f"{row[name]:.{digits}f}" + ("" if low is None else f" ({low:.{digits}f} to {high:.{digits}f})")


def attention(rows: Sequence[Mapping[str, Any]]) -> RenderableType:
    """How much each task draws on each other, mean (SD) over the trainings: a row a task (`app.inside.attention`)."""
    names = list(dict.fromkeys(row["task"] for row in rows))
    count = max(row["trainings"] for row in rows)
    table = plain_table(f"Cross-task attention, mean (SD) over {count} trainings", "task", *names)
    cells = {(row["task"], row["draws_on"]): row for row in rows}
    for task in names:
        weights = [cells[task, other] for other in names]
        spread = ["" if row["sd"] is None else f" ({row['sd']:.3f})" for row in weights]
        texts = [f"{row['mean']:.3f}{sd}" for row, sd in zip(weights, spread, strict=True)]
        table.add_row(Text(task, style="bold"), *texts)
    return Group(
        table, *dim_lines(["A row's weights add up to 1: how much the task draws on itself and on each other."])
    )


def inside(rows: Sequence[Mapping[str, Any]]) -> RenderableType:
    """Scores of a subset with its tasks alone and without task tokens, mean (SD) over the seeds (`inside.Looked`)."""
    variants = list(dict.fromkeys(row["variant"] for row in rows))
    table = plain_table("On the validation fold, mean (SD) over the seeds", "task", "metric", *variants)
    keys = dict.fromkeys((row["task"], row["metric"]) for row in rows)
    last_task = ""
    for task, metric in keys:
        by_variant = {row["variant"]: row for row in rows if (row["task"], row["metric"]) == (task, metric)}
        cells = [
            f"{by_variant[name]['mean']:.4f}"
            + (f" ({by_variant[name]['sd']:.3f})" if by_variant[name]["seeds"] > 1 else "")
            if name in by_variant
            else ""
            for name in variants
        ]
        table.add_row(Text("" if task == last_task else task, style="bold"), metric, *cells)
        last_task = task
    return table


def test_scores(rows: Sequence[Mapping[str, Any]]) -> RenderableType:
    """A model's scores on the test patients, one task a line (`deploy.Trained.scores`)."""
    table = plain_table("Scores on the test patients", "task", "metric", "score", "SD (90 %)", "interval", "samples")
    for row in rows:
        measured = row["value"] is not None
        table.add_row(
            Text(row["task"], style="bold"),
            row["metric"],
            f"{row['value']:.4f}" if measured else Text(row["why"], style="dim"),
            f"{row['sd']:.4f}" if measured and row["sd"] is not None else "",
            f"{row['low']:.4f} to {row['high']:.4f}" if measured and row["low"] is not None else "",
            small_cells.grouped(row["rows"]),
        )
    return table


def extension(task: str, rows: Sequence[Mapping[str, Any]], notes: Sequence[str]) -> Group:
    """What a new task reached from a model's start and from scratch: mean (SD over the seeds)."""
    table = plain_table(
        f"{task}: mean (SD over the seeds)", "labels", "samples", "metric", "pre-trained", "scratch", "gain"
    )

    def cell(row: Mapping[str, Any], name: str, sign: str = "") -> str:
        if row[name] is None:
            return "none"
        spread = "" if row[f"{name}_sd"] is None else f" ({row[f'{name}_sd']:.3f})"
        return f"{row[name]:{sign}.3f}{spread}"

    for row in rows:
        table.add_row(
            f"{row['share']:.3g}" if row["share"] < 0.01 else f"{row['share']:.0%}",
            f"{small_cells.grouped(row['rows'])} ({small_cells.grouped(row['patients'])} patients)",
            row["metric"] if row["primary"] else Text(row["metric"], style="dim"),
            cell(row, "pretrained"),
            cell(row, "scratch"),
            cell(row, "difference", "+"),
        )
    return Group(table, *(Text(note, style="dim") for note in notes))
