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
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from tim_search.gates.files import write_durably
from tim_search.gates.plain import plain
from tim_search.gates.texts import for_terminal
from tim_search.plans import expansion
from tim_search.plans.expansion import Expansion
from tim_search.report import records, wording
from tim_search.report.chapters import answer, asked, cohort, maps, sources
from tim_search.results import summary
from tim_search.results.external import External
from tim_search.results.opened import SearchResults
from tim_search.results.training_length import training_length
from tim_search.results.verdicts import Verdict, verdicts
from tim_search.tim.result import MOST_SHOWN, TimResult, most_telling
from tim_search.types import BadInput, duration, product_version

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
    return environment().get_template(_TEMPLATE).render(facts)


def environment() -> jinja2.Environment:
    """What makes HTML of the templates of this package: each text passes the gate of texts, then is escaped."""
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=lambda value: for_terminal(value, lines=True) if type(value) is str else value,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters |= {
        "signed": wording.signed,
        "share": lambda value: "" if value is None else "<1%" if 0 < value < 0.005 else f"{value:.0%}",
        "grouped": lambda value: f"{value:,}" if isinstance(value, int) else str(value),
        "duration": duration,
    }
    return templates


def content(
    results: SearchResults,
    *,
    small: int | None = None,
    confirmation: Sequence[Mapping[str, Any]] = (),
    most: int = MOST_SHOWN,
) -> dict[str, Any]:
    """Everything the page shows, as plain values; see `write`. `most` tasks are in the maps and have a chapter."""
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
    record = records.cohort(results.folder)
    dropped = [f"{column['modality']}.{column['column']}" for column in record["dropped"]] if record else []
    shown = most_telling(result, most, overlaps)
    attention = maps.attention(results, result, shown)
    confirmed, by_source = [plain(row) for row in confirmation], verdicts(results)
    judged = list(by_source.values())
    elsewhere = records.elsewhere(results.folder, small)
    return {
        "name": manifest.name,
        "label": result.label,
        "made": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "version": product_version(),
        "facts": asked.key_facts(result, status),
        "may": wording.may(result, tasks, overlaps, judged, confirmed),
        "may_not": wording.may_not(result, tasks, overlaps, status, judged, dropped, confirmed),
        "notes": short["notes"],
        "status": status,
        "asked": asked.asked(results),
        "cohort": cohort.cohort(record, small) if record else None,
        "small": small,
        "verdicts": answer.verdicts(by_source),
        "references": answer.references(results),
        "length": str(training_length(results)),
        "maps": [maps.heatmap(result, kind, overlaps, tasks, most, results.not_learnt) for kind in ("value", "rank")],
        "attention": attention,
        **_sources(short["sources"], result, by_rule["paper"], confirmed, by_source, shown),
        "several": len(result.tasks),
        "fold": _UNFOLDED,
        "sharing": short["sharing"],
        "group": records.group(results.folder),
        "confirmation": confirmed,
        "elsewhere": elsewhere,
        "cost": asked.cost(results),
        "settings": asked.settings(results),
        "context": {key: getattr(manifest.context, key) for key in ("key", "cohort", "columns", "split", "network")},
        "versions": {"search made by tim-search": manifest.version, **records.versions(results.folder)},
        "tables": _tables(result, by_source, shown, by_rule, attention, confirmed, elsewhere),
    }


def _sources(
    rows: Sequence[Mapping[str, Any]],
    result: TimResult,
    paper: Sequence[Expansion],
    confirmed: Sequence[Mapping[str, Any]],
    verdicts: Mapping[str, Verdict],
    shown: Sequence[str],
) -> dict[str, list[Any]]:
    """A chapter for each source that is `shown`, a line for each of the others."""
    chapters, lines = list[Any](), list[Any]()
    for row, expanded in zip(rows, paper, strict=True):
        words = verdicts[row["source"]].words
        if row["source"] in shown:
            chapters.append(sources.source(row, result, expanded, confirmed, words))
        else:
            lines.append(sources.line(row, words))
    return {"sources": chapters, "others": lines}


def _tables(
    result: TimResult,
    verdicts: Mapping[str, Verdict],
    shown: Sequence[str],
    by_rule: Mapping[str, Sequence[Expansion]],
    attention: Mapping[str, Any] | None,
    confirmed: Sequence[Mapping[str, Any]],
    elsewhere: Sequence[External],
) -> list[dict[str, str]]:
    """The tables that the page holds, each as a link."""
    rows = [{"rule": rule, **row} for rule, expansions in by_rule.items() for row in expansion.rows(expansions)]
    return [
        _download(
            "verdicts.csv", "the verdict on each source task", [plain(each.record()) for each in verdicts.values()]
        ),
        _scores(result, shown),
        _download("expansion.csv", "the expansion of each source task by both rules", rows),
        *([_download("attention.csv", "attention", attention["rows"])] if attention else []),
        *([_download("confirmation.csv", "confirmation", confirmed)] if confirmed else []),
        *(_download(f"external-{each.name}.csv", f"on {each.cohort}", each.rows) for each in elsewhere),
    ]


def _scores(result: TimResult, shown: Sequence[str]) -> dict[str, str]:
    """The TIM scores as a table inside the page; of many tasks those of the map, as all would be most of the page."""
    if len(shown) == len(result.tasks):
        return _download("tim.csv", "all TIM scores", result.frame())
    rows = [row for row in result.frame() if {row["source"], row["task"]} <= set(shown)]
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
