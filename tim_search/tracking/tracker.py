"""The tracker: heatmaps, tables and models are written to MLflow after the fact.

One experiment holds all searches; a search is one parent run, found again by its tag `search_id`; a heatmap or an
expansion is one nested run. Trainings are never runs: they are rows of the ledger, which is published as one artifact.

MLflow is a copy for readers, never the truth, so nothing here can stop a search: `Tracker` swallows what goes wrong,
says so once, and can publish everything again later without making doubles. `queries` reads it back.

How MLflow is reached, and what becomes of a SQLite database, is in `tim_search.tracking.mlflow_store`.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import pandas as pd

# MLflow reports usage over the network unless it is told not to before its first import.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("DO_NOT_TRACK", "true")

from mlflow import MlflowClient
from mlflow.entities import Param, RunTag

from tim_search.gates.urls import redacted_url
from tim_search.plans import expansion
from tim_search.tracking import mlflow_store as store
from tim_search.types import Interrupted, canonical, digest, joined

if TYPE_CHECKING:
    from tim_search.tim.result import TimResult

EXPERIMENT = "tim-search"

#: A server that takes this long to fail hangs rather than refuses, and is left alone for the pause that follows.
_SLOW_SECONDS, _PAUSE_SECONDS = 2.5, 60.0

_log = logging.getLogger(__name__)


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
        unharmed: what is not lost when MLflow fails, for the warning.
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
        again: str = "To publish later, start the same search again when that is mended; nothing is trained twice.",
        unharmed: str = "The search goes on and loses nothing: scores are in the ledger, tables and figures in the "
        "output folder.",
        beside: bool = False,
        warn: Callable[[str], None] = _log.warning,
    ) -> None:
        self.missed: list[str] = []
        self._uri, self._experiment, self._again, self._warn = uri, experiment, f"{unharmed} {again}", warn
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
        self._try(f"the figures of round {step}", lambda: store.log_metrics(self._mlflow, self._run_id, values, step))

    def answer(self, description: str, verdicts: Sequence[Mapping[str, Any]], scores: Mapping[str, float]) -> None:
        """What the search says, at its own run: shown, sorted and compared in MLflow's pages.

        Args:
            description: Markdown, in place of an earlier one.
            verdicts: one row a source task, with its source and its verdict in words: the table verdicts.json and a tag
                verdict.SOURCE each.
            scores: by metric, such as alone.TASK, best.TASK and reference.linear.TASK; what is not finite is left out.
        """

        def publish() -> None:
            tags = {f"verdict.{row['source']}": str(row["verdict"]) for row in verdicts}
            store.set_tags(self._mlflow, self._run_id, {"mlflow.note.content": description, **tags})
            store.log_metrics(self._mlflow, self._run_id, scores, 0)
            self._mlflow.log_dict(self._run_id, {"verdicts": [dict(row) for row in verdicts]}, "verdicts.json")

        self._try("the answer of the search", publish)

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
            {"trainings_shared": sharing.shared, "trainings_alone": sharing.total_alone},
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
            | {"confirmed": sum(str(row.get("verdict", "")).startswith("confirmed") for row in rows)},
        )

    def external(
        self, cohort: str, rows: Sequence[Mapping[str, Any]], figures: Iterable[str | Path], notes: Sequence[str]
    ) -> None:
        """Models judged on another cohort as a nested run of kind "external": one row a source, model and group.

        Rows are those of `results.external.External`. Of everybody, what the model of the combination reached is the
        metrics score.SOURCE, gain.SOURCE, slope.SOURCE and intercept.SOURCE of the run.
        """
        whole = [row for row in rows if row["group"] == "all" and not row["of"] and row["model"] == "combination"]
        self._publish(
            "external",
            f"on {cohort}",
            pd.DataFrame([dict(row) for row in rows]),
            figures,
            {"on": cohort, "n_tasks": len(whole)},
            {
                f"{name}.{row['source']}": row[name]
                for row in whole
                for name in ("score", "gain", "slope", "intercept")
                if row[name] is not None
            },
            notes,
        )

    def model(
        self,
        folder: Path,
        source: str,
        subset: Sequence[str],
        scores: Sequence[Mapping[str, Any]],
        card: str,
        register: str | None = None,
        verdict: str = "",
    ) -> dict[str, str]:
        """A trained combination as a nested run of kind "model" with its logged model; each call makes a new one.

        Args:
            folder: of the MLflow model (`tim_search.tracking.pyfunc.write`).
            source: the task the combination was chosen for.
            scores: test scores, with task, metric, value, sd, low and high; table and metrics of the run.
            card: the model card, Markdown.
            register: name in the model registry; the model becomes its next version.
            verdict: on the source, in words; a tag of the run, of the model and of its version in the registry.

        Returns:
            run_id, model_uri (models:/m-...) and registered ("name/version"), as far as it was published.
        """
        published: dict[str, str] = {}

        def publish() -> None:
            from tim_search.tracking import model_runs  # what MLflow's models need, which no search does

            chosen = {"source": source, "subset": joined(subset), "mlflow.parentRunId": self._run_id}
            tags = {**self._tags, **chosen, **({"verdict": verdict} if verdict else {})}
            run_id, model = model_runs.publish(self._mlflow, self._experiment_id, tags, folder, scores, card)
            published.update(run_id=run_id, model_uri=f"models:/{model.model_id}")
            if register is not None:
                published["registered"] = model_runs.register(self._mlflow, register, model, run_id, card, verdict)

        self._try(f"the model for {source}", publish)
        return published

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
            run_tags = {key: value[: store.MAX_VALUE] for key, value in run_tags.items()}
            run_id = self._mlflow.create_run(self._experiment_id, tags=run_tags, run_name=name).info.run_id
            # Each publication has a run of its own, so the table has a fresh name: log_table appends to an old one.
            self._mlflow.log_table(run_id, table, run_tags["table"])
            for path in paths:
                self._mlflow.log_artifact(run_id, str(path), "figures")
            store.log_metrics(self._mlflow, run_id, metrics, int(tags.get("round", 0)))
            # Queries show finished runs only, so a heatmap is seen whole or not at all.
            self._mlflow.set_terminated(run_id)

        self._try(name, publish)

    @property
    def _mlflow(self) -> MlflowClient:
        assert self._client is not None
        return self._client

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
                uri = redacted_url(self._uri)
                self._warn(f"MLflow at {uri} could not be written: {store.reason(error)} {self._again}")
            self.missed.append(what)
            if self._uri.startswith("http") and time.monotonic() - begin > _SLOW_SECONDS:
                self._again_at = time.monotonic() + _PAUSE_SECONDS

    def _start(self) -> None:
        """Make or take up the parent run, once."""
        if self._run_id:
            return
        client = store.writable(self._uri)
        experiment_id = store.experiment(client, self._uri, self._experiment, self._warn)
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


def _cut(text: str) -> str:
    """A parameter's value as MLflow can keep it; search.json holds the whole."""
    note = f"... ({len(text)} characters, in full in search.json)"
    return text if len(text) < store.MAX_VALUE else text[: store.MAX_VALUE - 1 - len(note)] + note
