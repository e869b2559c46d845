"""A trained model in MLflow: its run, its logged model, and its place in the model registry."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from tim_search.tracking import mlflow_store as store
from tim_search.tracking import pyfunc

from mlflow import MlflowClient  # isort: skip  (pyfunc sets what MLflow reads when it is imported)
from mlflow.entities import LoggedModel, LoggedModelOutput  # isort: skip
from mlflow.exceptions import MlflowException  # isort: skip

_METRICS = {"test": "value", "test_sd": "sd", "test_low": "low", "test_high": "high"}


def publish(
    client: MlflowClient,
    experiment_id: str,
    tags: Mapping[str, str],
    folder: Path,
    scores: Sequence[Mapping[str, Any]],
    card: str,
) -> tuple[str, LoggedModel]:
    """Publish a model's folder as a run of its own; returns the run's id and the logged model.

    Args:
        tags: of the run, with search, search_id, source and subset.
        folder, scores, card: see `Tracker.model`.
    """
    tags = {**tags, "kind": "model", "table": "tables/model.json", "mlflow.note.content": card}
    tags = {key: value[: store.MAX_VALUE] for key, value in tags.items()}
    source = tags["source"]
    run_id = client.create_run(experiment_id, tags=tags, run_name=f"model for {source}").info.run_id
    logged = client.create_logged_model(
        experiment_id,
        name=re.sub(r"[/:.%\"']", "_", f"{source}-model"),  # what MLflow allows in a name
        source_run_id=run_id,
        tags={key: tags[key] for key in ("search", "search_id", "source", "subset", "verdict") if key in tags},
        model_type="tim-search",
    )
    with tempfile.TemporaryDirectory() as aside:
        copy = Path(aside) / "model"
        shutil.copytree(folder, copy)
        pyfunc.belongs_to(copy, run_id, logged.model_id, logged.artifact_location)
        client.log_model_artifacts(logged.model_id, str(copy))
    client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=0)])
    client.log_table(run_id, pd.DataFrame([dict(score) for score in scores]), tags["table"])
    client.log_text(run_id, card, pyfunc.CARD)
    metrics = {f"{name}.{score['task']}": score[key] for score in scores for name, key in _METRICS.items()}
    store.log_metrics(client, run_id, {name: value for name, value in metrics.items() if value is not None}, 0)
    client.finalize_logged_model(logged.model_id, "READY")
    client.set_tag(run_id, "model_uri", f"models:/{logged.model_id}")
    client.set_terminated(run_id)
    return run_id, logged


def register(client: MlflowClient, name: str, model: LoggedModel, run_id: str, card: str, verdict: str = "") -> str:
    """Make a model the next version of a registered one, which is made where it is missing; returns `name/version`."""
    # Its location, not models:/m-...: MLflow looks that up at the process-wide tracking URI, which is the caller's.
    try:
        client.create_registered_model(name, tags={store.MARK: "1"})
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    version = client.create_model_version(
        name,
        model.artifact_location,
        run_id,
        tags={"verdict": verdict[: store.MAX_VALUE]} if verdict else {},
        model_id=model.model_id,
        description=card[:5000],
    )
    client.set_tag(run_id, "registered", f"{name}/{version.version}")
    return f"{name}/{version.version}"
