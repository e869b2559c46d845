"""MLflow: heatmaps and tables are written there after the fact, and read back with one query.

One experiment holds all searches; a search is one parent run, found again by its tag `search_id`; a heatmap or an
expansion is one nested run. Trainings are never runs: they are rows of the ledger, which is published as one artifact.

MLflow is a copy for readers, never the truth, so nothing here can stop a search: `Tracker` swallows what goes wrong,
says so once, and can publish everything again later without making doubles. Queries (`searches`, `heatmaps`,
`newest_heatmap`, `confirmed`, `models`, `fetch_model`) raise BadInput instead.

How MLflow is reached, and what becomes of a SQLite database, is in `tim_search.tracking.mlflow_store`.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
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

from tim_search.plans import expansion
from tim_search.tracking import mlflow_store as store
from tim_search.tracking.mlflow_store import shown as shown
from tim_search.types import BadInput, Interrupted, canonical, digest

if TYPE_CHECKING:
    from tim_search.tim.result import TimResult

EXPERIMENT = "tim-search"

#: MLflow cuts longer values, with a warning only.
_MAX_VALUE = 6000
#: A server that takes this long to fail hangs rather than refuses, and is left alone for the pause that follows.
_SLOW_SECONDS, _PAUSE_SECONDS = 2.5, 60.0

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
            folder: of the MLflow model (`tim_search.tracking.pyfunc.write`).
            source: the task the combination was chosen for.
            scores: test scores, with task, metric, value, sd, low and high; table and metrics of the run.
            card: the model card, Markdown.
            register: name in the model registry; the model becomes its next version.

        Returns:
            run_id, model_uri (models:/m-...) and registered ("name/version"), as far as it was published.
        """
        # Imported here: what MLflow's models need, which no search does.
        from tim_search.tracking import pyfunc

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
            earlier = store.runs(self._mlflow, [self._experiment_id], finished=False, kind=kind, search_id=search_id)
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
            with store.our_calls():
                store.reach(self._uri)
                self._start()
                action()
        except Exception as error:  # whatever goes wrong at MLflow, the search goes on
            if not self.missed:
                self._warn(f"MLflow at {shown(self._uri)} could not be written: {store.reason(error)} {self._again}")
            self.missed.append(what)
            if self._uri.startswith("http") and time.monotonic() - begin > _SLOW_SECONDS:
                self._again_at = time.monotonic() + _PAUSE_SECONDS

    def _start(self) -> None:
        """Make or take up the parent run, once."""
        if self._run_id:
            return
        client = store.writable(self._uri, self._warn)
        experiment_id = store.experiment(client, self._uri, self._experiment)
        parents = store.runs(client, [experiment_id], kind="search", search_id=self._tags["search_id"], finished=False)
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
        experiments = store.experiments(client)
        at = None if round is None else str(round)
        runs = store.runs(client, experiments, kind="heatmap", search=search, round=at, estimator=estimator)
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
    with store.reading(tracking_uri) as client:
        experiments = store.experiments(client)
        at = None if round is None else str(round)
        runs = store.runs(client, experiments, kind="heatmap", search=search, round=at, estimator=estimator, limit=1)
        if not runs:
            _known(client, experiments, search, tracking_uri)
            if at is not None or estimator is not None:
                raise BadInput(
                    f"The search {search!r} has no heatmap of round {at or 'any'} and estimator {estimator or 'any'} "
                    f"at {shown(tracking_uri)}. List those it has with tim_search.tracking.tracker.heatmaps."
                )
            raise BadInput(
                f"The search {search!r} has no heatmap at {shown(tracking_uri)} yet. A round ends by publishing one."
            )
        row = _heatmap_row(runs[0])
        folder = Path(destination) if destination is not None else Path(tempfile.mkdtemp(prefix="tim-search-"))
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as aside:
            table = _read_table(store.fetch(client, tracking_uri, runs[0], row["table"], aside))
            figures = {}
            for name in row["figures"]:
                path = folder / Path(name).name
                os.replace(store.fetch(client, tracking_uri, runs[0], name, aside), path)
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
    with store.reading(tracking_uri) as client:
        experiments = store.experiments(client)
        runs = store.runs(client, experiments, kind="confirmation", search=search)
        if search is not None and not runs:
            _known(client, experiments, search, tracking_uri)
        newest: dict[str, Run] = {}
        for run in runs:
            newest.setdefault(run.data.tags.get("search_id", ""), run)
        frames = []
        for run in newest.values():
            with tempfile.TemporaryDirectory() as aside:
                frame = _read_table(store.fetch(client, tracking_uri, run, run.data.tags["table"], aside))
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
        experiments = store.experiments(client)
        runs = store.runs(client, experiments, kind="model", search=search)
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
            "tim_search.tracking.tracker.models lists what there is."
        )
    # By hand: MLflow looks models:/ up at the process-wide tracking URI, which is the caller's.
    with store.reading(tracking_uri) as client:
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
        path, stored = store.sqlite_path(tracking_uri), store.local(location)
        if path is not None and stored is not None and not stored.exists():
            location = str(path.parent / store.ARTIFACTS / Path(*stored.parts[-3:]))  # models/m-ID/artifacts
        return Path(mlflow.artifacts.download_artifacts(location, dst_path=str(destination), tracking_uri=tracking_uri))


def _heatmap_row(run: Run) -> dict[str, Any]:
    tags = run.data.tags
    return {
        **{key: tags.get(key, "") for key in (*_HEATMAP_TAGS, "table")},
        "run_id": run.info.run_id,
        "created": _moment(run.info.start_time),
        "figures": json.loads(tags.get("figures", "[]")),
    }


def _read_table(path: Path) -> pd.DataFrame:
    """What log_table wrote. (MLflow's own load_table asks the process-wide tracking URI, which is the caller's.)"""
    content = json.loads(path.read_text(encoding="utf-8"))
    frame = pd.DataFrame(content["data"], columns=content["columns"])
    # JSON has no NaN, and a column of nothing but null would not be one of numbers.
    return frame.astype({name: float for name in frame if frame[name].isna().all()})


def _known(client: MlflowClient, experiments: Sequence[str], search: str, uri: str) -> None:
    """Raise BadInput for a search that is not there, with those that are."""
    names = sorted(
        {run.data.tags.get("search", "") for run in store.runs(client, experiments, kind="search", finished=False)}
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
        client.create_registered_model(name, tags={store.MARK: "1"})
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    made = client.create_model_version(
        name, model.artifact_location, run_id, model_id=model.model_id, description=card[:5000]
    )
    return int(made.version)


def _moment(milliseconds: int | None) -> Any:
    """UTC timestamp; NaT where there is none."""
    return pd.Timestamp(milliseconds, unit="ms", tz="UTC") if milliseconds else pd.NaT


def _cut(text: str) -> str:
    """A parameter's value as MLflow can keep it; search.json holds the whole."""
    note = f"... ({len(text)} characters, in full in search.json)"
    return text if len(text) < _MAX_VALUE else text[: _MAX_VALUE - 1 - len(note)] + note
