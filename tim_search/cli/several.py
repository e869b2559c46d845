"""Commands that read several searches: compare, pool, merge."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from tim_search.cli import console
from tim_search.cli.options import AsJson, Folder
from tim_search.cli.root import app
from tim_search.types import counted


@app.command(epilog="Example: tim-search compare runs/m3h runs/flexcare")
def compare(
    folder: Folder,
    other: Annotated[Path, typer.Argument(metavar="OTHER", help="The output folder of another search.")],
    as_json: AsJson = False,
) -> None:
    """Lay the TIM scores of two searches side by side: two networks, two cohorts, or two settings."""
    from tim_search.cli import score_tables
    from tim_search.results import comparison, opened

    content = comparison.compare(opened.open_search(folder), opened.open_search(other)).record()
    console.answer(as_json, lambda: content, lambda: [score_tables.comparison(content)])


@app.command(epilog="Example: tim-search pool site-a/run site-b/run site-c/run --out pooled")
def pool(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR...", help="The output folder of each site's search.")],
    out: Annotated[Path | None, typer.Option("--out", help="Folder for the means as a table and as a heatmap.")] = None,
    as_json: AsJson = False,
) -> None:
    """Pool the TIM scores of several sites, each with patients of its own: one heatmap, from their ledgers alone."""
    from tim_search.app import pooling
    from tim_search.cli import score_tables
    from tim_search.cli.tables import places

    pooled, written = pooling.pool(folders, out)
    console.answer(
        as_json,
        lambda: {"sites": pooled.names, "cells": pooled.rows(), "notes": pooled.result.notes, "files": written},
        lambda: [
            score_tables.matrix(pooled.result, console.output().width, pooled.overlaps),
            score_tables.sites(pooled.rows(), len(pooled.names)),
            *([places(written)] if written else []),
        ],
    )


@app.command(epilog="Example: tim-search merge site-a/run site-b/run --out merged")
def merge(
    sources: Annotated[
        list[str], typer.Argument(metavar="SOURCE...", help="Search folders or ledgers (folders, s3://bucket/prefix).")
    ],
    out: Annotated[str, typer.Option("--out", help="Place of the merged search folder or ledger.")],
    as_json: AsJson = False,
) -> None:
    """Merge the ledgers of several sites: every score once, and the reasons where their scores do not compare."""
    from tim_search.cli.tables import pairs
    from tim_search.results import merge as merging

    merged = merging.merge(sources, out)
    twice = sum(merged.units.values()) - merged.total

    def content() -> dict[str, Any]:
        facts = {"place": merged.place, "ledger": merged.ledger.place, "units": merged.units}
        return {**facts, "total": merged.total, "files": merged.files, "search": merged.search}

    rows: dict[str, Any] = {source: counted(count, "unit") for source, count in merged.units.items()}
    several = f"{twice} of them in several sources (first answers count)"
    rows[f"merged: {merged.place}"] = f"{counted(merged.total, 'unit')}, {several}"
    console.answer(as_json, content, lambda: [pairs(rows)])
    if merged.search and not as_json:
        console.note(f"`tim-search tim {merged.place}` reads it.")
