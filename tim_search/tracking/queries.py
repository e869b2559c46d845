"""Queries: searches, heatmaps, confirmed gains and models in MLflow, read back as tables. They raise BadInput."""

from __future__ import annotations

import math
import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

# MLflow reports usage over the network unless it is told not to before its first import.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("DO_NOT_TRACK", "true")

import mlflow.artifacts
from mlflow import MlflowClient
from mlflow.entities import Run

from tim_search.gates.files import explained, make_folder, open_regular, write_durably
from tim_search.gates.plain import parse_json, read_object
from tim_search.gates.texts import for_terminal
from tim_search.gates.urls import redacted_url
from tim_search.tracking import artifacts
from tim_search.tracking import mlflow_store as store
from tim_search.types import BadInput

_HEATMAP_TAGS = ("search", "search_id", "round", "estimator", "label", "n_tasks", "cohort", "context")


@dataclass(frozen=True, eq=False)
class Heatmap:
    """A heatmap fetched from MLflow.

    Attributes:
        search: name of the search. run_id: the run it comes from. round: of the search.
        estimator, label: what made the scores and what they are called.
        created: when it was published (UTC).
        table: one row a cell: source, task, estimate, se, low, high, p_value, rejected and more (`TimResult.frame`).
        figures: file name -> path of the downloaded PNG.
    """

    search: str
    run_id: str
    round: int
    estimator: str
    label: str
    created: pd.Timestamp
    table: pd.DataFrame
    figures: Mapping[str, Path]


def searches(tracking_uri: str) -> pd.DataFrame:
    """The searches, newest first: search, search_id, run_id, status, started, ended (UTC), cohort, context.

    Raises BadInput when the store cannot be read.
    """
    with store.reading(tracking_uri) as client:
        runs = store.runs(client, store.experiments(client), kind="search", finished=False)
    columns = ("search", "search_id", "run_id", "status", "started", "ended", "cohort", "context")
    rows = [
        {
            **{key: run.data.tags.get(key, "") for key in ("search", "search_id", "cohort", "context")},
            "run_id": run.info.run_id,
            "status": run.info.status,
            "started": _moment(run.info.start_time),
            "ended": _moment(run.info.end_time),
        }
        for run in runs
    ]
    return pd.DataFrame(rows, columns=list(columns))


def heatmaps(
    tracking_uri: str, search: str | None = None, round: int | None = None, estimator: str | None = None
) -> pd.DataFrame:
    """The heatmaps of a search, or of all, newest first; of one round or one estimator only where these are given.

    Returns one row a heatmap: search, search_id, run_id, round, estimator, label, created (UTC), n_tasks, cohort,
    context, table (name of the artifact), figures (list of names).

    Raises BadInput when the store cannot be read, or for a search it does not hold.
    """
    with store.reading(tracking_uri) as client:
        runs = _runs(client, tracking_uri, search, "heatmap", round=round, estimator=estimator)
    columns = [*_HEATMAP_TAGS[:2], "run_id", *_HEATMAP_TAGS[2:5], "created", *_HEATMAP_TAGS[5:], "table", "figures"]
    frame = pd.DataFrame([_heatmap_row(run) for run in runs], columns=columns)
    return frame.astype({"round": "int64", "n_tasks": "int64"})


def newest_heatmap(
    tracking_uri: str,
    search: str,
    destination: str | Path | None = None,
    round: int | None = None,
    estimator: str | None = None,
) -> Heatmap:
    """Fetch the newest heatmap of a search: its table, and its figures into `destination` (default: a new folder).

    With `round` or `estimator`, the newest one of that round or estimator.

    Raises BadInput when the store cannot be read, for a search it does not hold, and for one without such a heatmap.
    """
    with store.reading(tracking_uri) as client:
        runs = _runs(client, tracking_uri, search, "heatmap", round=round, estimator=estimator, limit=1)
        if not runs:
            shown = for_terminal(redacted_url(tracking_uri))
            if round is None and estimator is None:
                raise BadInput(f"The search {search!r} has no heatmap at {shown} yet. A round ends by publishing one.")
            at = "any" if round is None else round
            raise BadInput(
                f"The search {search!r} has no heatmap of round {at} and estimator {estimator or 'any'} at {shown}. "
                "List those it has with tim_search.tracking.heatmaps."
            )
        row = _heatmap_row(runs[0])
        with tempfile.TemporaryDirectory() as aside:
            table = _read_table(artifacts.fetch(client, tracking_uri, runs[0], row["table"], aside))
            copies = [artifacts.fetch(client, tracking_uri, runs[0], name, aside) for name in row["figures"]]
            folder = Path(destination) if destination is not None else Path(tempfile.mkdtemp(prefix="tim-search-"))
            with explained(folder):
                make_folder(folder)
            figures = {copy.name: folder / copy.name for copy in copies}
            for copy in copies:
                with open_regular(copy) as file:
                    write_durably(figures[copy.name], file.read())
    facts = {key: row[key] for key in ("search", "run_id", "round", "estimator", "label", "created")}
    return Heatmap(**facts, table=table, figures=figures)


def confirmed(tracking_uri: str, search: str | None = None) -> pd.DataFrame:
    """The gains measured on the test patients: of the newest confirmation of a search, or of every search.

    Returns one row a search and source task: search, search_id, run_id, created (UTC), then what the confirmation
    says: source, metric, chosen, single, multi, difference, percent, low, high, p_value, rejected and more.

    Raises BadInput when the store cannot be read, or for a search it does not hold; a search without a confirmation
    has no rows.
    """
    with store.reading(tracking_uri) as client:
        runs = _runs(client, tracking_uri, search, "confirmation")
        newest: dict[str, Run] = {}
        for run in runs:
            newest.setdefault(run.data.tags.get("search_id", ""), run)
        frames = []
        for run in newest.values():
            with tempfile.TemporaryDirectory() as aside:
                frame = _read_table(artifacts.fetch(client, tracking_uri, run, "tables/confirmation.json", aside))
            origin = {"search": run.data.tags.get("search", ""), "search_id": run.data.tags.get("search_id", ""),
                      "run_id": run.info.run_id, "created": _moment(run.info.start_time)}  # fmt: skip
            frames.append(pd.concat([pd.DataFrame([origin] * len(frame)), frame], axis=1))
    if not frames:
        return pd.DataFrame(columns=["search", "search_id", "run_id", "created", "source", "metric", "chosen"])
    return pd.concat(frames, ignore_index=True)


def models(tracking_uri: str, search: str | None = None) -> pd.DataFrame:
    """The trained models of a search, or of all, newest first.

    Returns one row a model: search, search_id, run_id, source, subset, score (of the source on the test patients) with
    its bootstrap interval low and high, model_uri (for mlflow.pyfunc.load_model and `tim-search predict`), registered
    ("name/version" or empty), created (UTC).

    Raises BadInput when the store cannot be read, or for a search it does not hold.
    """
    with store.reading(tracking_uri) as client:
        runs = _runs(client, tracking_uri, search, "model")
    rows = []
    for run in runs:
        tags, source = run.data.tags, run.data.tags.get("source", "")
        rows.append({
            **{key: tags.get(key, "") for key in ("search", "search_id", "source", "subset", "model_uri",
                                                  "registered")},
            "run_id": run.info.run_id,
            **{name: run.data.metrics.get(f"{key}.{source}", math.nan)
               for name, key in (("score", "test"), ("low", "test_low"), ("high", "test_high"))},
            "created": _moment(run.info.start_time),
        })  # fmt: skip
    columns = ["search", "search_id", "run_id", "source", "subset", "score", "low", "high", "model_uri", "registered",
               "created"]  # fmt: skip
    return pd.DataFrame(rows, columns=columns).astype({"score": float, "low": float, "high": float})


def fetch_model(tracking_uri: str, reference: str, destination: str | Path) -> Path:
    """A copy of a model's folder, from models:/NAME/VERSION, models:/NAME@ALIAS, models:/m-ID or runs:/ID.

    Raises BadInput when the store cannot be read or has no such model.
    """
    named = re.fullmatch(r"models:/(?P<id>m-[0-9a-f]+)|models:/(?P<name>[^/@]+)(/(?P<version>\d+)|@(?P<alias>[^/@]+))"
                         r"|runs:/(?P<run>[^/]+)(/.*)?", reference)  # fmt: skip
    if named is None:
        raise BadInput(
            f"model: expected models:/NAME/VERSION, models:/NAME@ALIAS, models:/m-ID or runs:/ID, got {reference}. "
            "tim_search.tracking.models lists what there is."
        )
    # By hand: MLflow looks models:/ up at the process-wide tracking URI, which is the caller's.
    with store.reading(tracking_uri) as client:
        if named["name"]:
            version = (
                client.get_model_version(named["name"], named["version"])
                if named["version"]
                else client.get_model_version_by_alias(named["name"], named["alias"])
            )
            location = client.get_model_version_download_uri(named["name"], version.version)
        else:
            model_id = named["id"]
            if named["run"]:
                outputs = client.get_run(named["run"]).outputs.model_outputs
                if not outputs:
                    raise BadInput(f"The run {named['run']} at {redacted_url(tracking_uri)} has no model.")
                model_id = outputs[0].model_id
            location = client.get_logged_model(model_id).artifact_location
        path = store.sqlite_path(tracking_uri)
        stored = artifacts.folder_of(tracking_uri, location, f"model {reference}")
        if path is not None and stored is not None and not stored.exists():
            stored = path.parent / store.ARTIFACTS / Path(*stored.parts[-3:])  # models/m-ID/artifacts
            location = str(stored)
        if stored is not None and not (stored / "MLmodel").is_file():
            raise FileNotFoundError(f"the database is whole, but there is no model in {stored}.")
        return Path(mlflow.artifacts.download_artifacts(location, dst_path=str(destination), tracking_uri=tracking_uri))


def _runs(
    client: MlflowClient,
    tracking_uri: str,
    search: str | None,
    kind: str,
    *,
    round: int | None = None,
    estimator: str | None = None,
    limit: int | None = None,
) -> list[Run]:
    """Finished runs of a kind, newest first; raises BadInput for a search that is not there, with those that are."""
    experiments = store.experiments(client)
    at = None if round is None else str(round)
    runs = store.runs(client, experiments, kind=kind, search=search, round=at, estimator=estimator, limit=limit)
    if search is not None and not runs:
        started = store.runs(client, experiments, kind="search", finished=False)
        names = sorted({run.data.tags.get("search", "") for run in started})
        if search not in names:
            there = f"The searches there are: {', '.join(names)}." if names else "It holds no search yet."
            raise BadInput(f"There is no search {search!r} at {redacted_url(tracking_uri)}. {there}")
    return runs


def _heatmap_row(run: Run) -> dict[str, Any]:
    """What the tags of a heatmap's run say of it, checked: whoever wrote the store may have written anything there."""
    tags = run.data.tags
    figures = parse_json(tags.get("figures", "[]"), f"tag `figures` of the run {run.info.run_id}", "list of names")
    table = tags.get("table", "")
    names = [table, *(figures if isinstance(figures, list) else [figures])]
    ends = [r"tables/[\w. -]+\.json", *[r"figures/[\w. -]+\.png"] * (len(names) - 1)]
    for name, end in zip(names, ends, strict=True):
        if not isinstance(name, str) or not re.fullmatch(end, name) or ".." in name:
            raise BadInput(
                f"The run {run.info.run_id} names the artifact {for_terminal(name, most=80)}; expected "
                "tables/NAME.json or figures/NAME.png. It was not written by this product: nothing of it is fetched."
            )
    numbers = {key: tags.get(key, "") for key in ("round", "n_tasks")}
    for key, value in numbers.items():
        if not re.fullmatch(r"\d{1,9}", value):
            raise BadInput(
                f"The run {run.info.run_id} has the tag {key} {for_terminal(value, most=80)!r}; expected a number. It "
                "was not written by this product."
            )
    return {
        **{key: tags.get(key, "") for key in _HEATMAP_TAGS},
        **{key: int(value) for key, value in numbers.items()},
        "table": table,
        "run_id": run.info.run_id,
        "created": _moment(run.info.start_time),
        "figures": names[1:],
    }


def _read_table(path: Path) -> pd.DataFrame:
    """What log_table wrote. (MLflow's own load_table asks the process-wide tracking URI, which is the caller's.)"""
    content = read_object(path, "table of MLflow's log_table")
    try:
        frame = pd.DataFrame(content["data"], columns=content["columns"])
    except (KeyError, ValueError, TypeError) as error:
        raise BadInput(
            f"{for_terminal(path.name)}: expected a table of MLflow's log_table, with columns and data; got something "
            "else. It was not written by this product."
        ) from error
    # JSON has no NaN, and a column of nothing but null would not be one of numbers.
    return frame.astype({name: float for name in frame if frame[name].isna().all()})


def _moment(milliseconds: int | None) -> Any:
    """UTC timestamp; NaT where there is none."""
    return pd.Timestamp(milliseconds, unit="ms", tz="UTC") if milliseconds else pd.NaT
