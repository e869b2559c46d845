"""MLflow: heatmaps and tables are written there after the fact, and read back with one query.

One experiment holds all searches; a search is one parent run, found again by its tag `search_id`; a heatmap or an
expansion is one nested run. Trainings are never runs: they are rows of the ledger, which is published as one artifact.

MLflow is a copy for readers, never the truth, so nothing here can stop a search: `Tracker` swallows what goes wrong,
says so once, and can publish everything again later without making doubles. Queries (`searches`, `heatmaps`,
`newest_heatmap`, `confirmed`, `models`, `fetch_model`) raise BadInput instead.

Only client objects are used: the caller's own active run, tracking URI and environment stay as they are. A SQLite
database is made under another name and renamed when it is whole, and it goes with its folder: its artifacts are those
in mlartifacts/ beside it, wherever the folder was when they were written.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
import secrets
import shutil
import socket
import sqlite3
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import pandas as pd

# MLflow reports usage over the network unless it is told not to before its first import.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("DO_NOT_TRACK", "true")

import mlflow.artifacts
from mlflow import MlflowClient
from mlflow.entities import LoggedModel, LoggedModelOutput, Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

from tim_search import expansion
from tim_search.types import BadInput, Interrupted, canonical, digest

if TYPE_CHECKING:
    from tim_search.tim import TimResult

EXPERIMENT = "tim-search"

#: Tag of the experiments that hold searches, so that queries need not look into all others.
_MARK = "tim_search"
#: MLflow cuts longer values, with a warning only.
_MAX_VALUE = 6000
_CONNECT_SECONDS = 3.0
#: A server that takes this long to fail hangs rather than refuses, and is left alone for the pause that follows.
_SLOW_SECONDS, _PAUSE_SECONDS = 2.5, 60.0
#: In force during our own calls, where the caller has not set them: a server that is down must not hold a search up for
#: the minutes MLflow's defaults allow, and neither links nor progress bars belong into another program's output.
_ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # A connection kept open would go on writing into a database that was set aside.
    "MLFLOW_SQLALCHEMYSTORE_POOLCLASS": "NullPool",
}
#: They print tracebacks of what we say in one sentence.
_NOISY_LOGGERS = ("mlflow.store.db.utils", "alembic")
#: What MLflow says of a database whose change to a newer form was cut short.
_HALF_CHANGED = re.compile(r"table \S+ already exists|duplicate column name|no such (table|column)")
#: A database takes seconds to make; one that is this old and still has its other name was left by a killed process.
_LEFT_OVER_SECONDS = 600.0

#: Folder of the artifacts, beside a SQLite database.
_ARTIFACTS = "mlartifacts"
_HEATMAP_TAGS = ("search", "search_id", "round", "estimator", "label", "n_tasks", "cohort", "context")

_log = logging.getLogger(__name__)


# Writing --------------------------------------------------------------------------------------------------------------


class Tracker:
    """Publishes one search to MLflow. Use as a context manager around the search; no method raises.

    Entering makes the parent run or takes up that of an earlier start; leaving ends it as FINISHED, KILLED (the search
    was interrupted) or FAILED. While MLflow does not answer, each call gives up after some seconds and is noted in
    `missed`; later calls try again, the parent run included. What is published already is not published twice.

    Args:
        uri: of the tracking server (http://host:port) or the database (sqlite:////absolute/path/mlflow.db); artifacts
            of a SQLite database lie beside it in mlartifacts/.
        search: name of the search, which queries ask for.
        search_id: what makes it this search; a search started again with the same one goes on in the same run.
        cohort, context: name of the cohort and key of the context, kept as tags.
        settings: of the search; parameters of the parent run (as the search began) and its artifact search.json (as
            they are now).
        experiment: name of the MLflow experiment.
        again: how to publish later, for the warning.
        kept: what is not lost when MLflow fails, for the warning.
        beside: the search itself does not run now: not entered as a context manager, its run keeps status and settings.
        warn: takes the one warning.
    """

    def __init__(
        self,
        uri: str,
        search: str,
        search_id: str,
        *,
        cohort: str = "",
        context: str = "",
        settings: Mapping[str, Any] | None = None,
        experiment: str = EXPERIMENT,
        again: str = "To publish later, start the same search again when MLflow answers; nothing is trained twice.",
        kept: str = "The search goes on and loses nothing: scores are in the ledger, tables and figures in the output "
        "folder.",
        beside: bool = False,
        warn: Callable[[str], None] = _log.warning,
    ) -> None:
        self.missed: list[str] = []
        self._uri, self._experiment, self._again, self._warn = uri, experiment, f"{kept} {again}", warn
        self._beside = beside
        self._settings = dict(settings or {})
        self._tags = {"search": search, "search_id": search_id, "cohort": cohort, "context": context}
        self._client: MlflowClient | None = None
        self._experiment_id = ""
        self._run_id = ""
        self._again_at = 0.0

    def __enter__(self) -> Tracker:
        self._try("the start of the search", lambda: None)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            status = "FINISHED"
        else:
            status = "KILLED" if issubclass(kind, (KeyboardInterrupt, Interrupted)) else "FAILED"
        self._try("the end of the search", lambda: self._mlflow.set_terminated(self._run_id, status))

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        """Numbers of the search so far (units done, failed, seconds) at a round; what is not finite is left out."""
        self._try(f"the figures of round {step}", lambda: self._log_metrics(self._run_id, values, step))

    def ledger(self, rows: pd.DataFrame) -> None:
        """All scores so far as one artifact of the parent run, ledger/ledger.parquet, in place of an earlier one."""

        def publish() -> None:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "ledger.parquet"
                rows.to_parquet(path, index=False)
                self._mlflow.log_artifact(self._run_id, str(path), "ledger")

        self._try("the ledger", publish)

    def report(self, path: Path) -> None:
        """The page of the search as an artifact of the parent run, in place of an earlier one."""
        self._try("the report", lambda: self._mlflow.log_artifact(self._run_id, str(path)))

    def heatmap(self, result: TimResult, figures: Iterable[str | Path], round: int) -> None:
        """A TIM result as a nested run of kind "heatmap": its table, its figures (PNG files), its label as a tag.

        The same table of the same round is published once; another one for that round is a run of its own, and newer.
        """
        cells = ~pd.isna(result.estimate)
        self._publish(
            "heatmap",
            f"round {round}: {result.label}",
            result.to_frame(),
            figures,
            {"round": round, "estimator": result.method, "label": result.label, "n_tasks": len(result.tasks)},
            {"subsets": result.n_subsets, "cells": int(cells.sum()), "discoveries": int(result.rejected.sum())},
            result.notes,
        )

    def expansion(
        self, expansions: Sequence[expansion.Expansion], sharing: expansion.Sharing, figures: Iterable[str | Path]
    ) -> None:
        """The greedy expansion as a nested run of kind "expansion": table, figures, and what the sharing saved."""
        self._publish(
            "expansion",
            "greedy expansion",
            pd.DataFrame(expansion.rows(expansions)),
            figures,
            {"n_tasks": len(expansions)},
            {
                "accepted": sum(found.best != (found.source,) for found in expansions),
                "holds": sum(found.holds for found in expansions),
                "trainings_shared": sharing.shared,
                "trainings_alone": sharing.total_alone,
            },
        )

    def confirmation(self, rows: Sequence[Mapping[str, Any]], figures: Iterable[str | Path]) -> None:
        """A confirmation on the test patients as a nested run of kind "confirmation": one row a source task.

        Rows have the keys source, metric, chosen, single, multi, difference, percent, low, high, p_value, rejected,
        single_sd, multi_sd, together, ensemble and verdict; the difference is the metric gain.SOURCE of the run.
        """
        self._publish(
            "confirmation",
            "confirmation",
            pd.DataFrame([dict(row) for row in rows]),
            figures,
            {"n_tasks": len(rows)},
            {f"gain.{row['source']}": row["difference"] for row in rows if row["difference"] is not None}
            | {"confirmed": sum(bool(row.get("rejected")) and row["difference"] > 0 for row in rows)},
        )

    def model(
        self,
        folder: Path,
        source: str,
        subset: Sequence[str],
        scores: Sequence[Mapping[str, Any]],
        card: str,
        register: str | None = None,
    ) -> dict[str, str]:
        """A trained combination as a nested run of kind "model" with its logged model; each call makes a new one.

        Args:
            folder: of the MLflow model (`tim_search.pyfunc.write`).
            source: the task the combination was chosen for.
            scores: test scores, with task, metric, value, sd, low and high; table and metrics of the run.
            card: the model card, Markdown.
            register: name in the model registry; the model becomes its next version.

        Returns:
            run_id, model_uri (models:/m-...) and registered ("name/version"), as far as it was published.
        """
        # Imported here: what MLflow's models need, which no search does.
        from tim_search import pyfunc

        found: dict[str, str] = {}

        def publish() -> None:
            client = self._mlflow
            tags = {
                **self._tags,
                "kind": "model",
                "source": source,
                "subset": " + ".join(subset),
                "table": "tables/model.json",
                "mlflow.parentRunId": self._run_id,
                "mlflow.note.content": card,
            }
            tags = {key: value[:_MAX_VALUE] for key, value in tags.items()}
            run_id = client.create_run(self._experiment_id, tags=tags, run_name=f"model for {source}").info.run_id
            logged = client.create_logged_model(
                self._experiment_id, name=_model_name(source), source_run_id=run_id,
                tags={key: tags[key] for key in ("search", "search_id", "source", "subset")}, model_type="tim-search",
            )  # fmt: skip
            with tempfile.TemporaryDirectory() as aside:
                copy = Path(aside) / "model"
                shutil.copytree(folder, copy)
                pyfunc.belongs_to(copy, run_id, logged.model_id, logged.artifact_location)
                client.log_model_artifacts(logged.model_id, str(copy))
            client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=0)])
            client.log_table(run_id, pd.DataFrame([dict(score) for score in scores]), tags["table"])
            client.log_text(run_id, card, pyfunc.CARD)
            keys = {"test": "value", "test_sd": "sd", "test_low": "low", "test_high": "high"}
            self._log_metrics(
                run_id,
                {f"{name}.{score['task']}": score[key] for score in scores for name, key in keys.items()
                 if score[key] is not None},
                0,
            )  # fmt: skip
            client.finalize_logged_model(logged.model_id, "READY")
            uri = f"models:/{logged.model_id}"
            client.set_tag(run_id, "model_uri", uri)
            client.set_terminated(run_id)
            found.update(run_id=run_id, model_uri=uri)
            if register is not None:
                number = _register(client, register, logged, run_id, card)
                client.set_tag(run_id, "registered", f"{register}/{number}")
                found.update(registered=f"{register}/{number}")

        self._try(f"the model for {source}", publish)
        return found

    def tuning(self, trials: Sequence[Mapping[str, Any]], figures: Iterable[str | Path], tuned_for: str) -> None:
        """Hyperparameters that were tried and chosen, as a nested run of kind "tuning": table and figures.

        `tuned_for` is "search", "subsets" or "every subset", kept as a tag.
        """
        table = pd.DataFrame(list(trials))
        best = table.loc[table["chosen"], "skill"]
        tags, metrics = {"tuned_for": tuned_for}, {"trials": len(table), "skill": float(best.mean())}
        self._publish("tuning", f"tuning of the {tuned_for}", table, figures, tags, metrics)

    def _publish(
        self,
        kind: str,
        name: str,
        table: pd.DataFrame,
        figures: Iterable[str | Path],
        tags: Mapping[str, Any],
        metrics: Mapping[str, float],
        notes: Sequence[str] = (),
    ) -> None:
        paths, search_id = [Path(figure) for figure in figures], self._tags["search_id"]
        same = {key: str(value) for key, value in tags.items()}

        def publish() -> None:
            content = digest([kind, name, table.to_csv(index=False)])
            earlier = _search(self._mlflow, [self._experiment_id], finished=False, kind=kind, search_id=search_id)
            for run in earlier:
                if run.info.status != "FINISHED":
                    self._mlflow.delete_run(run.info.run_id)  # left half-way by an interruption
            whole = [run for run in earlier if run.info.status == "FINISHED" and run.data.tags.items() >= same.items()]
            if whole and whole[0].data.tags["content"] == content:
                return
            run_tags = {
                **self._tags,
                **same,
                "kind": kind,
                "content": content,
                "table": f"tables/{kind}.json",
                "figures": json.dumps([f"figures/{path.name}" for path in paths]),
                "mlflow.parentRunId": self._run_id,
                "mlflow.note.content": "\n".join(f"- {note}" for note in notes),
            }
            run_tags = {key: value[:_MAX_VALUE] for key, value in run_tags.items()}
            run_id = self._mlflow.create_run(self._experiment_id, tags=run_tags, run_name=name).info.run_id
            # Each publication has a run of its own, so the table has a fresh name: log_table appends to an old one.
            self._mlflow.log_table(run_id, table, run_tags["table"])
            for path in paths:
                self._mlflow.log_artifact(run_id, str(path), "figures")
            self._log_metrics(run_id, metrics, int(tags.get("round", 0)))
            # Queries show finished runs only, so a heatmap is seen whole or not at all.
            self._mlflow.set_terminated(run_id)

        self._try(name, publish)

    @property
    def _mlflow(self) -> MlflowClient:
        assert self._client is not None
        return self._client

    def _log_metrics(self, run_id: str, values: Mapping[str, float], step: int) -> None:
        now = int(time.time() * 1000)
        finite = [Metric(key, float(value), now, step) for key, value in values.items() if math.isfinite(value)]
        self._mlflow.log_batch(run_id, metrics=finite)

    def _try(self, what: str, action: Callable[[], object]) -> None:
        """Do one thing at MLflow, or note that it could not be done."""
        begin = time.monotonic()
        if begin < self._again_at:
            self.missed.append(what)
            return
        try:
            with _our_calls():
                _reach(self._uri)
                self._start()
                action()
        except Exception as error:  # whatever goes wrong at MLflow, the search goes on
            if not self.missed:
                self._warn(f"MLflow at {shown(self._uri)} could not be written: {_reason(error)} {self._again}")
            self.missed.append(what)
            if self._uri.startswith("http") and time.monotonic() - begin > _SLOW_SECONDS:
                self._again_at = time.monotonic() + _PAUSE_SECONDS

    def _start(self) -> None:
        """Make or take up the parent run, once."""
        if self._run_id:
            return
        path = _sqlite_path(self._uri)
        if path is not None:
            _make_ready(path, self._warn)
        try:
            client = _open(self._uri)
        except OSError as error:
            if path is None or not _HALF_CHANGED.search(str(error)):
                raise
            _set_aside(path, "a change to a newer form was cut short", self._warn)
            _make(path)
            client = _open(self._uri)
        experiment_id = _experiment(client, self._uri, self._experiment)
        parents = _search(client, [experiment_id], kind="search", search_id=self._tags["search_id"], finished=False)
        parent = parents[0] if parents else client.create_run(
            experiment_id, tags={**self._tags, "kind": "search"}, run_name=self._tags["search"]
        )  # fmt: skip
        run_id = parent.info.run_id
        if self._beside and parents:
            self._client, self._experiment_id, self._run_id = client, experiment_id, run_id
            return
        if self._beside:
            client.set_terminated(run_id)
        elif parents:
            client.update_run(run_id, status="RUNNING")
        texts = {key: value if isinstance(value, str) else canonical(value) for key, value in self._settings.items()}
        client.log_batch(
            run_id,
            # A parameter cannot be changed: those of the first start stay.
            params=[Param(key, _cut(text)) for key, text in texts.items() if key not in parent.data.params],
            tags=[RunTag(key, value) for key, value in self._tags.items()],
        )
        client.log_dict(run_id, self._settings, "search.json")
        self._client, self._experiment_id, self._run_id = client, experiment_id, run_id


# Reading --------------------------------------------------------------------------------------------------------------


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
    with _reading(tracking_uri) as client:
        runs = _search(client, _experiments(client), kind="search", finished=False)
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
    with _reading(tracking_uri) as client:
        experiments = _experiments(client)
        at = None if round is None else str(round)
        runs = _search(client, experiments, kind="heatmap", search=search, round=at, estimator=estimator)
        if search is not None and not runs:
            _known(client, experiments, search, tracking_uri)
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
    with _reading(tracking_uri) as client:
        experiments = _experiments(client)
        at = None if round is None else str(round)
        runs = _search(client, experiments, kind="heatmap", search=search, round=at, estimator=estimator, limit=1)
        if not runs:
            _known(client, experiments, search, tracking_uri)
            if at is not None or estimator is not None:
                raise BadInput(
                    f"The search {search!r} has no heatmap of round {at or 'any'} and estimator {estimator or 'any'} "
                    f"at {shown(tracking_uri)}. List those it has with tim_search.tracking.heatmaps."
                )
            raise BadInput(
                f"The search {search!r} has no heatmap at {shown(tracking_uri)} yet. A round ends by publishing one."
            )
        row = _heatmap_row(runs[0])
        folder = Path(destination) if destination is not None else Path(tempfile.mkdtemp(prefix="tim-search-"))
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as aside:
            table = _read_table(_fetch(client, tracking_uri, runs[0], row["table"], aside))
            figures = {}
            for name in row["figures"]:
                path = folder / Path(name).name
                os.replace(_fetch(client, tracking_uri, runs[0], name, aside), path)
                figures[path.name] = path
    return Heatmap(
        search=row["search"],
        run_id=row["run_id"],
        round=int(row["round"]),
        estimator=row["estimator"],
        label=row["label"],
        created=row["created"],
        table=table,
        figures=figures,
    )


def confirmed(tracking_uri: str, search: str | None = None) -> pd.DataFrame:
    """The gains measured on the test patients: of the newest confirmation of a search, or of every search.

    Returns one row a search and source task: search, search_id, run_id, created (UTC), then what the confirmation
    says: source, metric, chosen, single, multi, difference, percent, low, high, p_value, rejected and more.

    Raises BadInput when the store cannot be read, or for a search it does not hold; a search without a confirmation
    has no rows.
    """
    with _reading(tracking_uri) as client:
        experiments = _experiments(client)
        runs = _search(client, experiments, kind="confirmation", search=search)
        if search is not None and not runs:
            _known(client, experiments, search, tracking_uri)
        newest: dict[str, Run] = {}
        for run in runs:
            newest.setdefault(run.data.tags.get("search_id", ""), run)
        frames = []
        for run in newest.values():
            with tempfile.TemporaryDirectory() as aside:
                frame = _read_table(_fetch(client, tracking_uri, run, run.data.tags["table"], aside))
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
    with _reading(tracking_uri) as client:
        experiments = _experiments(client)
        runs = _search(client, experiments, kind="model", search=search)
        if search is not None and not runs:
            _known(client, experiments, search, tracking_uri)
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
    found = re.fullmatch(r"models:/(?P<id>m-[0-9a-f]+)|models:/(?P<name>[^/@]+)(/(?P<version>\d+)|@(?P<alias>[^/@]+))"
                         r"|runs:/(?P<run>[^/]+)(/.*)?", reference)  # fmt: skip
    if found is None:
        raise BadInput(
            f"model: expected models:/NAME/VERSION, models:/NAME@ALIAS, models:/m-ID or runs:/ID, got {reference}. "
            "tim_search.tracking.models lists what there is."
        )
    # By hand: MLflow looks models:/ up at the process-wide tracking URI, which is the caller's.
    with _reading(tracking_uri) as client:
        if found["name"]:
            version = (
                client.get_model_version(found["name"], found["version"])
                if found["version"]
                else client.get_model_version_by_alias(found["name"], found["alias"])
            )
            location = client.get_model_version_download_uri(found["name"], version.version)
        else:
            model_id = found["id"]
            if found["run"]:
                made = client.get_run(found["run"]).outputs.model_outputs
                if not made:
                    raise BadInput(f"The run {found['run']} at {shown(tracking_uri)} has no model.")
                model_id = made[0].model_id
            location = client.get_logged_model(model_id).artifact_location
        path, stored = _sqlite_path(tracking_uri), _local(location)
        if path is not None and stored is not None and not stored.exists():
            location = str(path.parent / _ARTIFACTS / Path(*stored.parts[-3:]))  # models/m-ID/artifacts
        return Path(mlflow.artifacts.download_artifacts(location, dst_path=str(destination), tracking_uri=tracking_uri))


def _heatmap_row(run: Run) -> dict[str, Any]:
    tags = run.data.tags
    return {
        **{key: tags.get(key, "") for key in (*_HEATMAP_TAGS, "table")},
        "run_id": run.info.run_id,
        "created": _moment(run.info.start_time),
        "figures": json.loads(tags.get("figures", "[]")),
    }


def _fetch(client: MlflowClient, uri: str, run: Run, name: str, destination: str) -> Path:
    """A copy of an artifact; that beside the database where its folder has been moved since it was written."""
    path, stored = _sqlite_path(uri), _local(run.info.artifact_uri)
    if path is not None and stored is not None and not (stored / name).exists():
        beside = path.parent / _ARTIFACTS / run.info.run_id / "artifacts" / name
        if not beside.exists():
            raise FileNotFoundError(f"the database is whole, but there is no file {beside} any more.")
        return Path(shutil.copy(beside, destination))
    return Path(client.download_artifacts(run.info.run_id, name, destination))


def _read_table(path: Path) -> pd.DataFrame:
    """What log_table wrote. (MLflow's own load_table asks the process-wide tracking URI, which is the caller's.)"""
    content = json.loads(path.read_text(encoding="utf-8"))
    frame = pd.DataFrame(content["data"], columns=content["columns"])
    # JSON has no NaN, and a column of nothing but null would not be one of numbers.
    return frame.astype({name: float for name in frame if frame[name].isna().all()})


def _known(client: MlflowClient, experiments: Sequence[str], search: str, uri: str) -> None:
    """Raise BadInput for a search that is not there, with those that are."""
    names = sorted(
        {run.data.tags.get("search", "") for run in _search(client, experiments, kind="search", finished=False)}
    )
    if search not in names:
        there = f"The searches there are: {', '.join(names)}." if names else "It holds no search yet."
        raise BadInput(f"There is no search {search!r} at {shown(uri)}. {there}")


def _model_name(source: str) -> str:
    """A name that MLflow allows for a logged model."""
    return re.sub(r"[/:.%\"']", "_", f"{source}-model")


def _register(client: MlflowClient, name: str, model: LoggedModel, run_id: str, card: str) -> int:
    """Make a model the next version of a registered one, which is made where it is missing; returns the version."""
    # Its location, not models:/m-...: MLflow looks that up at the process-wide tracking URI, which is the caller's.
    try:
        client.create_registered_model(name, tags={_MARK: "1"})
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    made = client.create_model_version(
        name, model.artifact_location, run_id, model_id=model.model_id, description=card[:5000]
    )
    return int(made.version)


# Shared ---------------------------------------------------------------------------------------------------------------


@contextmanager
def _our_calls() -> Iterator[None]:
    """Short timeouts and no chatter, for our own calls to MLflow; afterwards everything is as it was."""
    added = {key: value for key, value in _ENVIRONMENT.items() if key not in os.environ}
    levels = {name: logging.getLogger(name).level for name in _NOISY_LOGGERS}
    os.environ.update(added)
    for name in levels:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for key in added:
            os.environ.pop(key, None)
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


@contextmanager
def _reading(uri: str) -> Iterator[MlflowClient]:
    """A client for queries; what MLflow raises becomes BadInput."""
    try:
        path = _sqlite_path(uri)
        if path is not None and not path.is_file():
            # MLflow would make an empty database here, and a misspelt path would look like a search that never ran.
            raise FileNotFoundError(f"there is no file {path}.")
        with _our_calls():
            _reach(uri)
            if path is not None and (fault := _fault(path)):
                raise OSError(
                    f"{path} is broken ({fault}). Run its search again: it sets this file aside, publishes everything "
                    "anew, and trains nothing twice."
                )
            yield _open(uri)
    except (MlflowException, OSError, sqlite3.Error) as error:
        raise BadInput(
            f"MLflow at {shown(uri)} could not be read: {_reason(error)} Check the tracking URI "
            "(http://host:port, or sqlite:////absolute/path/mlflow.db), and that a server answers there."
        ) from error


def _open(uri: str) -> MlflowClient:
    """A client, the database behind it opened by MLflow; what comes from the libraries below becomes an OSError."""
    try:
        return MlflowClient(tracking_uri=uri, registry_uri=uri)
    except (MlflowException, OSError):
        raise
    except Exception as error:
        raise OSError(_reason(error)) from error


def _reach(uri: str) -> None:
    """Raise OSError within seconds when nothing can be behind the URI; MLflow itself would try for minutes."""
    parts = urllib.parse.urlsplit(uri)
    if parts.scheme == "sqlite":
        if found := sorted(set("?#%") & set(uri)):
            raise OSError(f"MLflow takes a path with {' or '.join(found)} for another one. Name another folder.")
        path = _sqlite_path(uri)
        if path is not None and path.is_file():
            with path.open("rb") as file:
                start = file.read(16)
            if start not in (b"", b"SQLite format 3\0"):
                raise OSError(f"{path} is not a SQLite database.")
        return
    if parts.scheme in ("", "file"):
        raise OSError("this is a path, and MLflow 3 no longer keeps runs in plain files.")
    if parts.scheme not in ("http", "https"):
        return  # another database: its driver sees to it
    if not parts.hostname:
        raise OSError("the tracking URI names no host.")
    if parts.scheme in urllib.request.getproxies() and not urllib.request.proxy_bypass(parts.hostname):
        return  # only the proxy can tell
    port = parts.port or {"http": 80, "https": 443}[parts.scheme]
    try:
        socket.create_connection((parts.hostname, port), _CONNECT_SECONDS).close()
    except OSError as error:
        raise OSError(f"nothing answers at {parts.hostname}:{port} ({error}).") from error


def _sqlite_path(uri: str) -> Path | None:
    """The file of a SQLite URI, absolute; None for other URIs and for a database in memory."""
    name = uri.removeprefix("sqlite:///")
    return Path(name).absolute() if name not in (uri, "", ":memory:") else None


def _connect(path: Path) -> sqlite3.Connection:
    """The database itself, never made here."""
    return sqlite3.connect(f"{path.as_uri()}?mode=rw", uri=True)


def _fault(path: Path) -> str | None:
    """What is wrong with MLflow's database, None if nothing is.

    Raises sqlite3.OperationalError where it cannot be told (locked, no permission), OSError for another's database.
    """
    with closing(_connect(path)) as database:
        try:
            tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            if tables and not tables & {"experiments", "alembic_version"}:
                raise OSError(f"{path} is a SQLite database of something else.")
            # MLflow makes its default experiment last of all.
            if "experiments" not in tables or not database.execute("SELECT 1 FROM experiments LIMIT 1").fetchall():
                return "it was left half made by an interruption"
            found = str(database.execute("PRAGMA quick_check(1)").fetchone()[0])
            return None if found == "ok" else found
        except sqlite3.OperationalError:
            raise
        except sqlite3.DatabaseError as error:
            return str(error)


def _make_ready(path: Path, warn: Callable[[str], None]) -> None:
    """See to it that there is a whole database whose artifacts go beside it."""
    if path.is_file() and path.stat().st_size > 0 and (fault := _fault(path)):
        _set_aside(path, fault, warn)
    if not path.is_file() or path.stat().st_size == 0:
        _make(path)
    _bring_home(path)


def _set_aside(path: Path, fault: str, warn: Callable[[str], None]) -> None:
    """Rename a broken database, its journal with it: left behind, that would be played into the next database."""
    number = 1
    while (aside := path.with_name(f"{path.name}.broken-{number}")).exists():
        number += 1
    for end in ("-journal", "-wal", "-shm", ""):
        if (part := path.with_name(path.name + end)).exists():
            part.rename(aside.with_name(aside.name + end))
    warn(
        f"MLflow's database {path} is broken ({fault}): it is now called {aside.name}, and a new one takes its place. "
        "What is in the ledger, the tables and the figures is not touched."
    )


def _make(path: Path) -> None:
    """Make an empty database of MLflow: whole, or not under this name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    prefix = f"{path.name}.making-"
    for left in path.parent.iterdir():
        if left.name.startswith(prefix) and time.time() - left.stat().st_mtime > _LEFT_OVER_SECONDS:
            left.unlink(missing_ok=True)
    part = path.with_name(f"{prefix}{os.getpid()}-{secrets.token_hex(4)}")
    try:
        SqlAlchemyStore(f"sqlite:///{part}", (path.parent / _ARTIFACTS).as_uri()).engine.dispose()
        path.with_name(f"{path.name}-journal").unlink(missing_ok=True)  # of a database that is gone
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
        part.with_name(f"{part.name}-journal").unlink(missing_ok=True)


def _bring_home(path: Path) -> None:
    """Point a database that was moved or copied with its folder at the artifacts beside it.

    MLflow keeps artifact locations as absolute paths and offers no way to change them, so its tables are changed.
    Experiments whose artifacts were put elsewhere on purpose stay as they are, and so do single runs whose artifacts
    are still where they were and not here.
    """
    home = path.parent / _ARTIFACTS
    with closing(_connect(path)) as database, database:
        marked = database.execute(
            "SELECT experiments.experiment_id, artifact_location FROM experiments JOIN experiment_tags AS tags "
            "ON tags.experiment_id = experiments.experiment_id WHERE tags.key = ?",
            [_MARK],
        ).fetchall()
        for experiment, location in marked:
            old = _local(location)
            if old is None or old.name != _ARTIFACTS or old.resolve() == home.resolve():
                continue
            database.execute(
                "UPDATE experiments SET artifact_location = ? WHERE experiment_id = ?", [home.as_uri(), experiment]
            )
            runs = database.execute(
                "SELECT run_uuid, artifact_uri, tags.value FROM runs JOIN tags USING (run_uuid) "
                "WHERE experiment_id = ? AND tags.key = 'kind'",
                [experiment],
            ).fetchall()
            for run, stored, kind in runs:
                here = home / run / "artifacts"
                # The run of a search is written on, whatever became of its earlier artifacts.
                if kind == "search" or here.exists() or not (there := _local(stored)) or not there.exists():
                    database.execute("UPDATE runs SET artifact_uri = ? WHERE run_uuid = ?", [here.as_uri(), run])
            _bring_models_home(database, experiment, home)


def _bring_models_home(database: sqlite3.Connection, experiment: int, home: Path) -> None:
    """The same for the models of an experiment and their registered versions."""
    tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if not {"logged_models", "model_versions"} <= tables:
        return  # of an older MLflow, which kept no models
    logged = database.execute(
        "SELECT model_id, artifact_location FROM logged_models WHERE experiment_id = ?", [experiment]
    ).fetchall()
    for model, stored in logged:
        here = (home / "models" / model / "artifacts").as_uri()
        if _local(here).exists():  # type: ignore[union-attr]
            database.execute("UPDATE logged_models SET artifact_location = ? WHERE model_id = ?", [here, model])
            database.execute(
                "UPDATE model_versions SET storage_location = ? WHERE storage_location = ?", [here, stored]
            )


def _local(uri: str) -> Path | None:
    """The path of a file URI, None for artifacts kept elsewhere."""
    parts = urllib.parse.urlsplit(uri)
    return Path(urllib.request.url2pathname(parts.path)) if parts.scheme == "file" else None


def _experiment(client: MlflowClient, uri: str, name: str) -> str:
    """Id of the experiment, made where it is missing."""
    found = client.get_experiment_by_name(name)
    if found is not None:
        if _MARK not in found.tags:
            client.set_experiment_tag(found.experiment_id, _MARK, "1")
        return str(found.experiment_id)
    path = _sqlite_path(uri)
    artifacts = (path.parent / _ARTIFACTS).as_uri() if path is not None else None
    return str(client.create_experiment(name, artifact_location=artifacts, tags={_MARK: "1"}))


def _experiments(client: MlflowClient) -> list[str]:
    """Ids of the experiments that hold searches."""
    ids: list[str] = []
    token = None
    while True:
        page = client.search_experiments(filter_string=f"tags.{_MARK} = '1'", page_token=token)
        ids += [str(experiment.experiment_id) for experiment in page]
        if not (token := page.token):
            return ids


def _search(
    client: MlflowClient,
    experiments: Sequence[str],
    *,
    finished: bool = True,
    limit: int | None = None,
    **tags: str | None,
) -> list[Run]:
    """Runs with these tags, newest first."""
    conditions = [f"tags.{key} = {_quoted(value)}" for key, value in tags.items() if value is not None]
    conditions += ["attributes.status = 'FINISHED'"] if finished else []
    runs: list[Run] = []
    token = None
    while experiments:
        page = client.search_runs(
            list(experiments), " and ".join(conditions), order_by=["attributes.start_time DESC"],
            max_results=limit or 1000, page_token=token,
        )  # fmt: skip
        runs += page
        if limit is not None or not (token := page.token):
            break
    return runs


def _quoted(text: str) -> str:
    for quote in "'\"":
        if quote not in text:
            return f"{quote}{text}{quote}"
    raise BadInput(
        f"The name {text!r} holds both kinds of quotes, which MLflow cannot search for. Choose another name."
    )


def _moment(milliseconds: int | None) -> Any:
    """UTC timestamp; NaT where there is none."""
    return pd.Timestamp(milliseconds, unit="ms", tz="UTC") if milliseconds else pd.NaT


def _cut(text: str) -> str:
    """A parameter's value as MLflow can keep it; search.json holds the whole."""
    note = f"... ({len(text)} characters, in full in search.json)"
    return text if len(text) < _MAX_VALUE else text[: _MAX_VALUE - 1 - len(note)] + note


def shown(uri: str) -> str:
    """A text with URIs without the user and the password that may stand before the host; paths keep their @."""
    return re.sub(r"(\w://)[^/\s]*@", r"\1", uri)


def _reason(error: Exception) -> str:
    """The first line of what went wrong, as a sentence."""
    lines = str(error).strip().splitlines()
    text = lines[0].strip() if lines else type(error).__name__
    if cause := re.search(r"Max retries exceeded.*Caused by (\w+)", text):
        text = f"the server takes connections but does not answer ({cause[1]})"
    return shown(text if len(text) <= 300 else f"{text[:300]}...").rstrip(".") + "."
