"""Artifacts of runs and models, from where a store may name them: of a SQLite database from this machine alone."""

from __future__ import annotations

import shutil
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Run

from tim_search.gates.files import inside, open_regular
from tim_search.gates.texts import for_terminal
from tim_search.gates.urls import redacted_url
from tim_search.tracking import mlflow_store as store
from tim_search.types import BadInput

#: Bytes of the largest table or figure that is fetched: a heatmap of 1,000 tasks takes a tenth of it.
_MOST_ARTIFACT = 2**30


def fetch(client: MlflowClient, uri: str, run: Run, name: str, destination: str) -> Path:
    """A copy of an artifact; that beside the database where its folder has been moved since it was written.

    Of a SQLite database, which may have come from others with its folder, only a regular file of bounded size that
    lies among the run's artifacts, also after following links. Raises BadInput for another one.
    """
    path, artifacts = store.sqlite_path(uri), folder_of(uri, run.info.artifact_uri, f"run {run.info.run_id}")
    if path is None or artifacts is None:
        return Path(client.download_artifacts(run.info.run_id, name, destination))
    if not (artifacts / name).exists():
        artifacts = path.parent / store.ARTIFACTS / run.info.run_id / "artifacts"
        if not (artifacts / name).exists():
            raise FileNotFoundError(f"the database is whole, but there is no file {artifacts / name} any more.")
    source = inside(artifacts, name, outside="It is not copied. Look at the tags of its run with `mlflow ui`.")
    copy = Path(destination) / source.name
    with open_regular(source, _MOST_ARTIFACT) as file, copy.open("wb") as target:
        shutil.copyfileobj(file, target)
    return copy


def folder_of(uri: str, location: str, whose: str) -> Path | None:
    """The folder of this machine that a store names for artifacts; None where a server keeps them.

    Raises:
        BadInput: a SQLite database, which may have come from others, names another place, which could be any host.
    """
    folder = store.local(location)
    if folder is None and store.sqlite_path(uri) is not None:
        raise BadInput(
            f"{for_terminal(redacted_url(uri))}: the artifacts of its {for_terminal(whose)} are at "
            f"{for_terminal(redacted_url(location), most=200)}; of a SQLite database expected a folder of this machine "
            "(file:///...). Nothing is fetched from there: a database alone does not decide whom your credentials "
            "reach. Fetch them with `mlflow artifacts download`, or open the store through the server that wrote it."
        )
    return folder
