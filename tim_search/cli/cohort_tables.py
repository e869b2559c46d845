"""Tables about cohorts: targets that overlap, and what a cohort was made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from tim_search.gates.texts import for_terminal
from tim_search.types import counted


def overlaps(tasks: Sequence[str], matrix: Sequence[Sequence[float | None]]) -> Table | None:
    """The pairs of tasks whose targets overlap most, declared ones too; None where no pair overlaps by half."""
    overlapping = [
        (value, a, b)
        for i, a in enumerate(tasks)
        for j, b in enumerate(tasks)
        if i < j and (value := matrix[i][j]) is not None and value >= 0.5
    ]
    if not overlapping:
        return None
    table = Table(
        "overlap", "task", "task", title="Targets that overlap (0 to 1)", box=box.SIMPLE, title_justify="left"
    )
    for value, a, b in sorted(overlapping, reverse=True)[:10]:
        table.add_row(f"{value:.2f}", a, b)
    if len(overlapping) > 10:
        table.caption = f"and {len(overlapping) - 10} more pairs; all of them with --json"
    return table


#: More columns than this are shown only where there is a doubt, at most so many.
MOST_COLUMNS = 60


def columns(rows: Sequence[Mapping[str, str]]) -> Group:
    """Every column of a table with what it is taken for; of a wide one the ids, the targets and those in doubt."""
    shown = [row for row in rows if len(rows) <= MOST_COLUMNS or row["doubt"] or row["role"].endswith(("id", "target"))]
    table = Table(
        "column", "read as", "used as", "role", "missing", "distinct", "range or levels", "doubt",
        box=box.SIMPLE, title="Columns", title_justify="left",
    )  # fmt: skip
    for row in shown[:MOST_COLUMNS]:
        role = " ".join(filter(None, (row["role"], row["modality or task"])))
        cells = [row["column"], row["read as"], row["used as"], role]
        cells += [row[key] for key in ("missing", "distinct", "range or levels", "doubt")]
        table.add_row(*map(for_terminal, cells), style="dim" if row["role"] == "left out" else "")
    hidden = len(rows) - len(shown[:MOST_COLUMNS])
    return Group(table, Text(f"and {hidden} more columns in columns.csv" if hidden else "All of it is in columns.csv."))


def haim(manifest: Mapping[str, Any]) -> Group:
    """Counts after each filter, and of each task, of a cohort made from HAIM's files."""
    rows = Table("", "rows", "stays", "admissions", "patients", title="Counts", box=box.SIMPLE, title_justify="left")
    for step in manifest["steps"]:
        counts = (step["rows"], step["haim_ids"], step["admissions"], step["patients"])
        rows.add_row(step["what"], *(f"{count:,}" for count in counts))
    for view in manifest["views"]:
        counts = (view["rows"], view["haim_ids"], view["admissions"], view["patients"])
        rows.add_row(f"of these, {view['what']}", *(f"{count:,}" for count in counts), style="dim")
    tasks = Table("task", "labels", "positive", title="Tasks", box=box.SIMPLE, title_justify="left")
    for name, count in manifest["tasks"].items():
        share = f"{count['positives'] / count['labelled']:.1%}" if "positives" in count else ""
        tasks.add_row(name, f"{count['labelled']:,}", share)
    lines = [f"Published: {whose}: {numbers}" for whose, numbers in manifest["published"].items()]
    lines += [f"Keys: {manifest['keys']}; {manifest['admissions']}", f"Diagnoses: {manifest['diagnoses']}"]
    lacking = {prefix: source["absent"] for prefix, source in manifest["sources"].items() if source["absent"]}
    if lacking:
        lines += ["Absent: " + ", ".join(f"{prefix} in {count:,} samples" for prefix, count in lacking.items())]
    lines += [f"Left out: {name}: {why}" for name, why in manifest["left_out"].items()]
    lines += [f"Never inputs: {', '.join(manifest['closed'])} (manifest.json says why)"]
    return Group(rows, tasks, Text("\n".join(lines)))


def events(manifest: Mapping[str, Any]) -> Group:
    """Counts of a cohort made of events, its tasks, and what a person should know of its inputs."""
    steps = Table("", "rows", title="Counts", box=box.SIMPLE, title_justify="left")
    for step in manifest["steps"]:
        steps.add_row(step["what"], f"{step['rows']:,}")
    tasks = Table("task", "kind", "labels", "subjects", "positive", title="Tasks", box=box.SIMPLE, title_justify="left")
    for name, count in manifest["tasks"].items():
        share = f"{count['positives'] / count['labelled']:.1%}" if "positives" in count else ""
        # A clustering has no labels.
        labels = [f"{count[key]:,}" if key in count else "" for key in ("labelled", "patients")]
        tasks.add_row(name, count["kind"], *labels, share)
    of = manifest["events"]
    sizes = [counted(of[key], key.removesuffix("s")) for key in ("events", "subjects", "shards")]
    lines = [f"Read: {sizes[0]} of {sizes[1]} in {sizes[2]} of {of['data']}"]
    lines += [f"Left out: {name}: {why}" for name, why in manifest["left_out"].items()]
    lines += [f"Overlap: {' and '.join(pair['tasks'])}: {pair['why']}" for pair in manifest["overlaps"]]
    inputs = [f"{name} ({counted(of['columns'], 'column')})" for name, of in manifest["modalities"].items()]
    inputs += [f"{name} ({rows:,} to embed)" for name, rows in manifest["references"].items()]
    lines += [f"Inputs: {', '.join(inputs)}", *(f"Mind: {doubt}" for doubt in manifest["doubts"])]
    return Group(steps, tasks, Text("\n".join(lines)))


def mimic(manifest: Mapping[str, Any]) -> Group:
    """Stays after each filter, and the samples of each task beside the paper's own count."""
    stays = Table("", "stays", title="Counts", box=box.SIMPLE, title_justify="left")
    for what, rows in manifest["stays"]:
        stays.add_row(what, f"{rows:,}")
    tasks = Table("cohort", "task", "samples", "in the paper", title="Tasks", box=box.SIMPLE, title_justify="left")
    lines = []
    for paper in manifest["papers"].values():
        for name, task in paper["tasks"].items():
            in_paper = f"{task['paper']['samples']:,}" if task["paper"] else ""
            tasks.add_row(paper["cohort"], name, f"{task['samples']:,}", in_paper)
            if "left_out" in task:
                lines.append(f"Left out: {name}: {task['left_out']}")
    return Group(stays, tasks, Text("\n".join(lines)))
