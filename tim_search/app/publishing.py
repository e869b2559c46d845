"""What a search shows of itself: figures, tables and report in its folder, and the same in MLflow."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import shlex
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tim_search import config
from tim_search.app import answer
from tim_search.app.opening import check_named
from tim_search.gates.files import write_durably
from tim_search.gates.urls import redacted_url
from tim_search.loop.manifest import Manifest
from tim_search.loop.tally import Event, SearchOutcome
from tim_search.plans import expansion
from tim_search.plans.contract import progress
from tim_search.report import gallery
from tim_search.report import page as report
from tim_search.results import confirmation, opened
from tim_search.results.opened import SearchResults
from tim_search.results.verdicts import verdicts
from tim_search.tracking import Tracker
from tim_search.tuning import choices
from tim_search.types import Interrupted


@dataclass(frozen=True, eq=False)
class Finished:
    """A search that came to its end.

    Attributes:
        results: the search folder, as `tim_search.open_search` reads it.
        outcome: what this run trained.
        figures, tables: the files that were written.
        missed: what could not be published to MLflow; empty when all was.
    """

    results: SearchResults
    outcome: SearchOutcome
    figures: tuple[Path, ...]
    tables: tuple[Path, ...]
    missed: tuple[str, ...]


def catch_up(folder: str | Path, tracking_uri: str | None = None, warn: Callable[[str], None] = print) -> Finished:
    """Publish what a search folder's ledger holds to MLflow, as its search would have; trains nothing.

    Args:
        folder: of a search; its figures and tables are written anew.
        tracking_uri: of MLflow; None takes what the search itself takes.
        warn: takes the warning when MLflow cannot be written; `Finished.missed` then says what is missing there.

    Raises:
        BadInput: for a folder that holds no search, or no scores yet.
    """
    check_named(tracking_uri=tracking_uri)
    results = opened.open_search(folder)
    file = config.read(results.folder / "search.yaml")[0]
    uri = tracking_uri or config.tracking_uri(file.tracking_uri if file else None, results.folder)
    status = results.status()
    held = results.ledger.done(results.manifest.context.key)
    rounds = progress(results.plan, results.table, held)[1]
    done, failures = status["trained"], status["failed"]
    event = Event("done", rounds, done, done + status["waiting"], failures, status["training_seconds"])
    named = f" --tracking-uri {shlex.quote(redacted_url(tracking_uri))}" if tracking_uri else ""
    tracker = tracker_of(results.manifest, results.folder, uri, warn, named=named)
    with contextlib.suppress(Interrupted), tracker:
        written = publish(results, tracker, rounds, event)
        if not status["finished"]:
            raise Interrupted("so that MLflow does not show it as finished")
    outcome = SearchOutcome(0, 0, len(held), 0, 0, 0.0)
    return Finished(results, outcome, *written, tuple(tracker.missed))


def tracker_of(
    manifest: Manifest,
    out: Path,
    tracking_uri: str,
    warn: Callable[[str], None],
    *,
    beside: bool = False,
    named: str = "",
    **settings: Any,
) -> Tracker:
    """What publishes the search of a folder; the same folder and store give the same run in MLflow.

    `named` is an option of `publish` that names another store than the search's, for the warning.
    """
    context, names = manifest.context, [task.name for task in manifest.tasks]
    plain = asdict(manifest)
    return Tracker(
        tracking_uri,
        manifest.name,
        manifest.published_id(out, tracking_uri),
        cohort=manifest.cohort,
        context=context.key,
        settings={
            "network": context.network,
            "training": json.loads(context.settings),
            **{key: plain[key] for key in ("cohort", "design", "blocks", "sources")},
            "tasks": names,
            **settings,
        },
        beside=beside,
        again=f"To publish later: tim-search publish {shlex.quote(str(out))}{named}",
        warn=warn,
    )


def publish(
    results: SearchResults, tracker: Tracker, completed: int, event: Event
) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
    """Write figures and tables of a completed round into the search folder and to MLflow; returns their paths."""
    result = results.tim()
    # The rule of the verdicts, whatever the search itself goes by: table and verdicts rest on the same.
    expansions, sharing = results.expand("lower_bound")
    heatmaps = gallery.heatmaps(results, result)
    judged = list(verdicts(results).values())
    expanded = gallery.expansion(results, judged)
    tables = (
        write_table(results.folder / "tables" / "tim.csv", result.frame()),
        write_table(results.folder / "tables" / "expansion.csv", expansion.rows(expansions)),
        write_table(results.folder / "tables" / "verdicts.csv", [each.record() for each in judged]),
    )
    tracker.metrics({"units_done": event.done, "units_failed": event.failed, "seconds": event.seconds}, completed)
    tracker.answer(answer.description(results), *answer.values(results))
    tracker.heatmap(result, heatmaps, completed)
    tracker.expansion(expansions, sharing, expanded)
    tracker.ledger(results.ledger.scores(results.manifest.context.key, primary=False, part=None))
    if event.kind == "done":
        tracker.report(report.write(results, confirmation=confirmation.rows(results)))
    return (*heatmaps, *expanded, *gallery.attention(results, result)), tables


def write_table(path: Path, rows: Iterable[Mapping[str, Any]], fix: str = "") -> Path:
    """Write rows as CSV, whole or not at all; returns the path. Raises BadInput, with `fix` where it cannot."""
    rows, text = list(rows), io.StringIO(newline="")
    writer = csv.DictWriter(text, fieldnames=list(rows[0]) if rows else [])
    writer.writeheader()
    writer.writerows(rows)
    return write_durably(path, text.getvalue().encode(), fix)


def publish_tuning(search: config.ResolvedSearch, tracker: Tracker) -> None:
    """What was compared for every subset of the search, as a table and in MLflow."""
    results = opened.open_search(search.out)
    table = [row for record in results.tuning() for row in choices.table(record)]
    write_table(search.out / "tables" / "tuning.csv", table)
    tracker.tuning(table, [], "every subset")
