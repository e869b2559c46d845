"""Commands that read what was trained, or check what is to be: status, tim, expand, report, check."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import RenderableType
from rich.text import Text

from tim_search.cli import console
from tim_search.cli.options import AllowCode, AsJson, Folder, RuleName
from tim_search.cli.root import app
from tim_search.gates.plain import plain
from tim_search.gates.texts import for_terminal
from tim_search.types import BadInput, duration, near, some


@app.command(epilog="Example: tim-search status runs/demo --watch")
def status(
    folder: Folder,
    watch: Annotated[bool, typer.Option("--watch", help="Look again and again until the search has finished.")] = False,
    every: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks of --watch.")] = 5.0,
    as_json: AsJson = False,
) -> None:
    """Show how far a search is, from its ledger alone, also while it runs."""
    from tim_search.cli import search_tables
    from tim_search.cli.tables import pairs
    from tim_search.results import opened, summary

    if watch:
        _watch(folder, every, as_json)
        return
    content = opened.status(folder)
    answers: dict[str, Any] = {}
    if content.get("trained"):
        try:
            answers = summary.answers(opened.open_search(folder))
        except BadInput as error:  # how far the search is can be told whatever its confirmation looks like
            console.warn(str(error))

    def view() -> Iterator[RenderableType]:
        if answers:
            yield search_tables.answers(answers)
        yield pairs(_status_rows(content))

    console.answer(as_json, lambda: {**answers, **content}, view)
    if not as_json:
        for reason, count in content.get("failures", {}).items():
            console.warn(f"{count} units failed: {reason}")


#: Seconds for which a look waits between a tuning and its search: for that time the folder holds neither.
_PATIENCE = 60.0


def _looked(folder: Path, last: Mapping[str, Any]) -> dict[str, Any]:
    """The status of a folder; `last` is the one before, empty at first."""
    from tim_search.results import opened

    began = time.monotonic()
    while True:
        try:
            return opened.status(folder)
        except BadInput:
            if not last or "trained" in last or time.monotonic() - began > _PATIENCE:
                raise
            time.sleep(1)


def _watch(folder: Path, every: float, as_json: bool) -> None:
    """A line (with --json an object) for every look at which something is new, until the search has finished."""
    first: tuple[float, int] | None = None
    last: dict[str, Any] = {}
    seen: dict[str, Any] = {}
    with console.interrupted("Stopped watching; the search itself is not touched."):
        while not last.get("finished"):
            if last:
                time.sleep(every)
            content, now = _looked(folder, last), time.monotonic()
            if (news := _news(content)) == seen:
                pass
            elif as_json:
                console.print_json(content, indent=None)
            elif "trained" not in content:
                console.print_line(_at_work_words(content["at_work"]))
            else:
                trained, total = content["trained"], content["trained"] + content["waiting"]
                first = first or (now, trained)
                rate = (trained - first[1]) / (now - first[0]) if trained > first[1] else 0.0
                left = f", {rate:.2g}/s, {duration(content['waiting'] / rate)} left" if rate else ""
                console.print_line(f"{trained} of {total} units, {content['failed']} failed{left}")
            last, seen = content, news


def _news(content: Mapping[str, Any]) -> dict[str, Any]:
    """What of a status is worth another line: not that time has passed."""
    at_work = content["at_work"] or {}
    doing = {key: at_work[key] for key in ("running", "doing", "done") if key in at_work}
    return {**content, "at_work": None} if "trained" in content else {**content, "at_work": doing}


def _status_rows(content: Mapping[str, Any]) -> dict[str, Any]:
    from tim_search.cli.tables import names

    if "trained" not in content:
        return {"search": content["name"], "running": _at_work_words(content["at_work"]), "finished": "no"}
    planned = "decided as it goes" if content["planned"] is None else content["planned"]
    return {
        "search": f"{content['name']} ({content['cohort']}, {content['network']}, {content['design']['kind']})",
        "tasks": names(content["tasks"]),
        "blocks": ", ".join(f"seed {seed} fold {fold}" for seed, fold in content["blocks"]),
        "units planned": planned,
        "units trained": content["trained"],
        "units failed": content["failed"],
        **({"trainings": _tuning_words(content["tuning"])} if content["tuning"] else {}),
        "units waiting": content["waiting"],
        "finished": "yes" if content["finished"] else "no",
        "running": _at_work_words(content["at_work"]),
        "training time": duration(content["training_seconds"]),
        **({"stopping rule": content["stopping"]["reason"]} if content["stopping"] else {}),
        "last written": content["last_written"] or "never",
        "ledger": content["ledger"],
    }


def _at_work_words(at_work: Mapping[str, Any] | None) -> str:
    """Who is at work on a search, and how far he is; or who was, before he was ended without a word."""
    if at_work is None or "pid" not in at_work:
        return "no" if at_work is None else "yes"
    amount = f", {at_work['done']:,} of {at_work['total']:,}" if at_work["total"] else ""
    who = f"tim-search {at_work['what']}, process {at_work['pid']} on {at_work['host']}"
    doing = f"{at_work['doing']}{amount}"
    if at_work["running"]:
        left = "" if at_work["seconds_left"] is None else f", {duration(at_work['seconds_left'])} left"
        return f"yes: {who} since {at_work['since']} ({doing}{left})"
    last = f"last heard of at {at_work['heard']} ({doing})"
    if at_work["running"] is None:
        return f"not known: {who}, {last}, is not at work in this folder as far as this machine can see"
    return f"no: {who} was ended, {last}; the same command goes on"


def _tuning_words(content: Mapping[str, Any]) -> str:
    planned = "" if content["planned"] is None else f" of {content['planned']}"
    return f"{content['trained']}{planned}, with {content['combinations']} combinations of settings for every subset"


@app.command(epilog="Example: tim-search tim runs/demo --source hospdead --size 5")
def tim(
    folder: Folder,
    method: Annotated[
        str, typer.Option(help="auto, exact, restricted, blup, gls, ols or msr (difference of means).")
    ] = "auto",
    size: Annotated[
        int | None,
        typer.Option(
            help="Average over subsets of at most this many tasks, as for a model of few tasks: restricted TIM where "
            "all of them were trained, else estimated from the sample (deployable TIM)."
        ),
    ] = None,
    source: Annotated[
        str | None, typer.Option(help="Only the scores of this source task, and its figures, written to DIR/figures.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show the TIM scores: how much each task helps or harms each other, from the ledger alone."""
    from tim_search.cli import score_tables
    from tim_search.cli.tables import pairs
    from tim_search.results import opened

    results = opened.open_search(folder)
    if source is not None and source not in results.tasks:
        guess, tasks = near(source, results.tasks), some(tuple(results.tasks), 20)
        raise BadInput(f"--source: expected a task of the search, got {source!r}.{guess} Name one of: {tasks}.")
    result = results.tim(method, size=size)  # type: ignore[arg-type]
    paths: tuple[Path, ...] = ()
    if source is not None:
        from tim_search.report import gallery

        paths = gallery.source(results, result, source)

    def content() -> dict[str, Any]:
        cells = [row for row in result.frame() if source in (None, row["source"])]
        facts = {"label": result.label, "method": result.method, "notes": result.notes}
        return {**facts, "cells": cells, "figures": paths}

    def view() -> Iterator[RenderableType]:
        if source is None:
            yield score_tables.matrix(result, console.output().width, results.manifest.overlaps)
        else:
            yield score_tables.source(result, source)
            yield pairs({"figures": ", ".join(map(str, paths))})

    console.answer(as_json, content, view)


@app.command(epilog="Example: tim-search expand runs/demo --rule paper --source hospdead")
def expand(
    folder: Folder,
    rule: Annotated[
        RuleName | None,
        typer.Option(help="When a combination counts as better: a higher score, or its lower bound above zero."),
    ] = None,
    beam: Annotated[int | None, typer.Option(help="Combinations kept at each size.")] = None,
    max_size: Annotated[int | None, typer.Option(help="Tasks in the largest combination.")] = None,
    tolerance: Annotated[
        float | None, typer.Option(help="Gains up to this, in the task's metric, do not count.")
    ] = None,
    source: Annotated[list[str] | None, typer.Option(help="A source task; may be given several times.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show the best combination of each source task, from the ledger alone: greedy, or what the surrogate found."""
    from tim_search.cli import search_tables
    from tim_search.plans import expansion
    from tim_search.results import opened, summary

    results = opened.open_search(folder)
    options: dict[str, Any] = {"beam": beam, "max_size": max_size, "tolerance": tolerance, "sources": source}
    plan = results.greedy(rule.value if rule else None, **options)
    answers = summary.answers(results)
    expansions, sharing = results.expand(rule.value if rule else None, **options)
    rows = plain(expansion.rows(expansions))

    def content() -> dict[str, Any]:
        saved = {"shared": sharing.shared, "alone": sharing.total_alone, "saved": sharing.saved}
        return {**answers, "rule": plan.rule, "expansions": rows, "sharing": saved}

    def view() -> Iterator[RenderableType]:
        yield search_tables.answers(answers)
        if any(row["single_score"] is not None or row["complete"] for row in rows):
            yield search_tables.expansions(rows, plan.rule, plan.title)
        if results.plan.sample is not None and not any(row["complete"] for row in rows):
            yield Text(f"  {search_tables.NO_COMBINATIONS}")
        yield Text(f"  Trainings: {sharing.shared} shared by all sources, {sharing.total_alone} without sharing.")

    console.answer(as_json, content, view)


@app.command(epilog="Example: tim-search report runs/demo --small-cells 10 --out demo-report.html")
def report(
    folder: Folder,
    out: Annotated[Path | None, typer.Option("--out", help="The page to write. Default: DIR/report.html")] = None,
    small_cells: Annotated[
        int | None,
        typer.Option(
            min=0, help="Hide counts of patients below this, as <10; 0 shows all. Default and least: as the search."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write the report of a search: one page with everything in it, to be read offline, mailed or printed."""
    from tim_search.app.outputs import check_output
    from tim_search.report import page as reporting
    from tim_search.results import confirmation, opened

    results = opened.open_search(folder)
    if out is not None:
        check_output(out, (), (".html", ".htm"))
    path = reporting.write(results, out, small=small_cells, confirmation=confirmation.rows(results)).absolute()
    size = path.stat().st_size
    console.answer(as_json, lambda: {"report": path, "bytes": size}, lambda: [f"{path} ({size / 1e6:.1f} MB)"])


@app.command(epilog="Example: tim-search check my-cohort/")
def check(
    path: Annotated[
        str, typer.Argument(metavar="PATH", help="A search file, a cohort folder, a search folder or a ledger.")
    ],
    strict: Annotated[bool, typer.Option("--strict", help="Take every warning for an error.")] = False,
    allow_code: AllowCode = False,
    as_json: AsJson = False,
) -> None:
    """Check a search file, a cohort folder or a search folder's ledger: every finding with its place and its fix.

    Of a cohort it also looks for leaks: patients on both sides, inputs that tell a target, targets that overlap.
    """
    from tim_search.app import checking
    from tim_search.cli import cohort_tables

    checked = checking.check(path, allow_code=allow_code, note=console.note)
    if strict:
        checked = replace(checked, findings=tuple(replace(each, severity="error") for each in checked.findings))

    def content() -> dict[str, Any]:
        keys = ("severity", "place", "problem", "fix")
        rows = [{key: getattr(finding, key) for key in keys} for finding in checked.findings]
        overlap = checked.overlap
        matrix = {"overlap": {"tasks": overlap[0], "matrix": overlap[1]}} if overlap else {}
        return {"path": path, "errors": checked.errors, "findings": rows, **matrix}

    def view() -> Iterator[RenderableType]:
        for finding in checked.findings:
            yield console.labelled(finding.severity, for_terminal(finding))
        if checked.overlap and (table := cohort_tables.overlaps(*checked.overlap)):
            yield table
        yield checked.summary

    console.answer(as_json, content, view)
    if checked.errors:
        raise typer.Exit(BadInput.exit_code)
