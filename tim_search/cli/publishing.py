"""Commands that speak to MLflow: heatmap, publish."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from tim_search.cli import console
from tim_search.cli.options import AsJson, Folder
from tim_search.cli.root import app
from tim_search.types import TimSearchError


@app.command(epilog="Example: tim-search heatmap --tracking-uri sqlite:////home/me/runs/demo/mlflow.db --search demo")
def heatmap(
    tracking_uri: Annotated[str, typer.Option(help="MLflow: http(s)://host:port or sqlite:////path/mlflow.db.")],
    search: Annotated[str, typer.Option(help="Name of the search.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder for the figures and the table. Default: ./NAME-heatmap")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Fetch the newest TIM heatmap of a search and its table from MLflow."""
    from tim_search import tracking
    from tim_search.cli.tables import pairs
    from tim_search.gates.files import write_durably
    from tim_search.gates.texts import for_file_name

    destination = out or Path(f"{for_file_name(search)}-heatmap")
    newest = tracking.newest_heatmap(tracking_uri, search, destination)
    table = destination / "heatmap.csv"
    write_durably(table, newest.table.to_csv(index=False).encode())
    console.answer(
        as_json,
        lambda: {
            "search": newest.search,
            "run_id": newest.run_id,
            "round": newest.round,
            "label": newest.label,
            "created": newest.created.isoformat(),
            "figures": list(newest.figures.values()),
            "table": table,
            "cells": json.loads(newest.table.to_json(orient="records")),
        },
        lambda: [
            pairs(
                {
                    "search": newest.search,
                    "scores": f"{newest.label}, round {newest.round}, {newest.created:%Y-%m-%d %H:%M} UTC",
                    "figures": ", ".join(map(str, newest.figures.values())),
                    "table": f"{table} ({len(newest.table)} cells)",
                    "run": newest.run_id,
                }
            )
        ],
    )


@app.command(epilog="Example: tim-search publish runs/demo")
def publish(
    folder: Folder,
    tracking_uri: Annotated[
        str | None,
        typer.Option(help="MLflow: http(s)://host:port or sqlite:////path/mlflow.db. Default: the search's."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Publish a search to MLflow from its ledger, where MLflow was down while it ran; nothing is published twice."""
    from tim_search.app import publishing
    from tim_search.cli.tables import pairs

    console.note(f"Writing the figures of {folder}, then MLflow")
    finished = publishing.catch_up(folder, tracking_uri, warn=console.warn)
    if finished.missed:
        raise TimSearchError(
            f"Not published: {', '.join(finished.missed)}. The ledger is whole; run the same command again when the "
            "cause in the warning above is mended."
        )
    console.answer(
        as_json,
        lambda: {"folder": finished.results.folder, "figures": finished.figures},
        lambda: [
            pairs({"published": finished.results.folder, "figures": ", ".join(map(str, finished.figures))}),
        ],
    )
