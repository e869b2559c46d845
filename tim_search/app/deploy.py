"""From a finished search to a model to take away.

`train` fits the combination that a search chose on the whole training part, judges it once on the test patients, and
leaves an MLflow model with its card in the search's folder and in MLflow.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tim_search import config
from tim_search.app.model_folder import load, write_model
from tim_search.app.opening import check_named, check_seeds, check_tasks, reopen
from tim_search.gates import small_cells, told_counts
from tim_search.gates.plain import plain
from tim_search.plans import expansion
from tim_search.report.panel import Panel, Rows, Shown
from tim_search.results import external, opened, readings
from tim_search.results.learnt import rows as learnt_rows
from tim_search.results.verdicts import verdicts
from tim_search.tuning import choices
from tim_search.types import BadInput, Subset, joined, subset

if TYPE_CHECKING:
    from model.trained.deployed import DeployedModel


@dataclass(frozen=True, repr=False)
class Trained(Shown):
    """A model that was trained; a notebook shows its scores on the test patients.

    Attributes:
        folder: the MLflow model: card, signature, example, requirements, parameters.
        source, subset: what it predicts, and for which task the combination was chosen.
        scores: on the test patients, as plain rows; see `model.trained.final_training.TestScore`.
        published: run_id, model_uri and registered, as far as MLflow took them.
        missed: whether MLflow took less than was asked for.
        table: a name for rows to predict: rows.csv, or rows.parquet where a CSV file cannot hold them.
    """

    folder: Path
    source: str
    subset: Subset
    scores: tuple[dict[str, Any], ...]
    published: dict[str, str]
    missed: bool
    table: str = "rows.csv"

    def load(self) -> DeployedModel:
        """The model, ready to predict; a network of one's own has been allowed by now."""
        return load(self.folder, allow_code=True)

    def panel(self) -> Panel:
        """Its scores on the test patients, and where it is."""
        names = list(dict.fromkeys(name for row in self.scores for name in row))
        rows = [[_short(row.get(name)) for name in names] for row in self.scores]
        tables = [Rows("Scores on the test patients", names, rows)]
        return Panel(
            f"Model for {self.source}: {joined(self.subset)}", tables=tables,
            notes=[f"In {self.folder}, with its card; .load() opens it"],
        )  # fmt: skip


def train(
    folder: str | Path,
    source: str,
    *,
    rule: expansion.Rule | None = None,
    members: Sequence[str] | None = None,
    despite: bool = False,
    seeds: int = 1,
    register: str | None = None,
    allow_code: bool = False,
    note: Callable[[str], None] = lambda text: None,
    warn: Callable[[str], None] = print,
) -> Trained:
    """Train the combination a search chose for a source task, judge it on the test patients, and publish it.

    Before the labels of the test patients are read, the reading is logged (`tim_search.results.readings`).

    Args:
        folder: the output folder of the search.
        source: the task to predict as well as possible.
        rule: of the greedy expansion, to take its choice; default: what the verdict on the source advises.
        members: the combination itself, instead of the advised one; `source` is one of them.
        despite, allow_code: whether a refuted combination may be trained, and a network of one's own imported.
        seeds: so many networks are trained and their predictions averaged.
        register: name in MLflow's model registry.
        note, warn: take lines about what is being done, and about MLflow, which never costs the model.

    Raises:
        BadInput: no such source or tasks, a search that has not come as far, a combination that a confirmation
            refuted, a cohort that is no longer the search's, or a training that diverged.
    """
    from model.cohorts.manifest import describe
    from model.trained.final_training import evaluate
    from model.trained.final_training import train as fit

    results = opened.open_search(folder)
    chosen, reason = _chosen(results, source, rule, members)
    judgement = _judgement(results, source, chosen, despite)
    check_seeds(seeds, 1)
    check_named(register=register)
    search = reopen(results, consequence="its choice does not hold for them", allow_code=allow_code, note=note)
    settings = replace(search.settings, **choices.chosen(results.folder, chosen))
    note(f"Training {' + '.join(chosen)} on the whole training part with {seeds} seed{'s' if seeds > 1 else ''}")
    network, device, small = search.context.network, search.file.device, search.file.small_cells
    threads = max(1, int(search.resources.cpus))
    model = fit(search.cohort, network, settings, chosen, source, tuple(range(seeds)), device, threads, few=small)
    readings.log(results.folder, "train", source=source, subset=list(chosen), seeds=list(range(seeds)))
    note("Judging it on the test patients")
    record = small_cells.of_cohort(describe(search.cohort), small)
    scores = [
        {**row, "rows": told_counts.of_test(row["task"], row["rows"], record, small)}
        for row in config.telling(search.cohort, small).rows(map(plain, map(asdict, evaluate(model, search.cohort))))
    ]
    facts = {"reason": reason, "settings": asdict(settings), "scores": scores}
    facts["training"] = told_counts.of_training(model.about["training"], record, small, settings.stop_share)
    model = replace(model, about={**_facts(results, search, source, chosen, model.about), **judgement, **facts})
    place, text = _keep(results.folder / "models", source, model)
    note("Publishing it to MLflow")
    published, missed = _publish(results, search, place, model.about, text, register, warn)
    return Trained(place, source, chosen, tuple(scores), published, missed, _rows_file(model))


def _facts(
    results: opened.SearchResults,
    search: config.ResolvedSearch,
    source: str,
    chosen: Subset,
    about: Mapping[str, Any],
) -> dict[str, Any]:
    """What a model says of the search that it comes from, beside what its training wrote (`about`)."""
    from tim_search.tracking import pyfunc

    return {
        **about,
        "source": source,
        "subset": list(chosen),
        "overlaps": [pair for pair in results.manifest.overlaps if set(pair) <= set(chosen)],
        "search": results.manifest.name,
        "search_id": results.manifest.published_id(results.folder, search.tracking_uri),
        "context": search.context.key,
        "network": search.context.network,
        "small_cells": search.file.small_cells,
        "readings": len(readings.of_test_patients(results.folder)),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": pyfunc.versions(),
        "elsewhere": _elsewhere(results, source, chosen),
    }


def _elsewhere(results: opened.SearchResults, source: str, chosen: Subset) -> list[dict[str, Any]]:
    """What other cohorts' patients said of the same tasks trained together: rows of `results.external`."""
    model = "combination" if len(chosen) > 1 else "alone"
    return [
        {"cohort": record.cohort, **row}
        for record in external.read_all(results.folder)
        if len(chosen) == 1 or subset(record.chosen.get(source, ())) == chosen
        for row in record.whole
        if row["source"] == source and row["model"] == model
    ]


def _publish(
    results: opened.SearchResults,
    search: config.ResolvedSearch,
    place: Path,
    about: Mapping[str, Any],
    text: str,
    register: str | None,
    warn: Callable[[str], None],
) -> tuple[dict[str, str], bool]:
    """(what MLflow took of a model: run_id, model_uri, registered; whether it took less than was asked for)."""
    from tim_search.tracking import Tracker

    tracker = Tracker(
        search.tracking_uri,
        results.manifest.name,
        results.manifest.published_id(results.folder, search.tracking_uri),
        cohort=results.manifest.cohort,
        context=search.context.key,
        unharmed=f"The model is whole in {place}.",
        again="MLflow can serve it from there.",
        beside=True,
        warn=warn,
    )
    facts = about["source"], about["subset"], about["scores"], text, register, about["verdict"]["verdict"]
    return tracker.model(place, *facts), bool(tracker.missed)


def _chosen(
    results: opened.SearchResults, source: str, rule: expansion.Rule | None, members: Sequence[str] | None
) -> tuple[Subset, str]:
    """The combination to train, and why it is this one."""
    check_tasks("--source", [source], results)
    check_tasks("--subset", members, results)
    if members is not None:
        if source not in members:
            raise BadInput(
                f"--subset: expected a combination that holds the source {source}, got {' + '.join(members)}. Add it."
            )
        return subset(members), "named by the user"
    if rule is None and (verdict := verdicts(results, [source])[source]).kind != "unclear":
        return verdict.advised, f"verdict {verdict.words}: {verdict.reason}"
    choice = results.expand(rule, sources=[source])[0][0]
    if not choice.complete:
        raise BadInput(
            f"{results.folder}: the search has not trained all that the choice for {source} rests on. Run it to its "
            "end, or name a combination with --subset."
        )
    used = results.greedy(rule).rule.replace("_", " ")
    if choice.best == (source,):
        return choice.best, f"rule {used}: no combination beats the task alone"
    return choice.best, f"rule {used}: validation gain {choice.gain:+.4f} over the task alone, before confirmation"


def _rows_file(model: DeployedModel) -> str:
    """A name for rows to predict: a CSV file cannot hold sequences and images."""
    return "rows.csv" if all(inputs.kind == "vector" for inputs in model.inputs) else "rows.parquet"


def _judgement(results: opened.SearchResults, source: str, chosen: Subset, despite: bool) -> dict[str, Any]:
    """What a model says of the verdict on its source, and of the reference models of its tasks.

    Raises BadInput for a combination that a confirmation refuted, unless it is to be trained `despite` that.
    """
    verdict = verdicts(results, [source])[source]
    if chosen in verdict.refuted and not despite:
        raise BadInput(
            f"{joined(chosen)}: expected a combination that holds on the test patients, got one that they refuted for "
            f"{source} (tim-search confirm). Train {joined(verdict.advised)}, which the verdict advises, or this one "
            "all the same with --despite."
        )
    return {
        "verdict": plain(verdict.record()),
        "verdict_words": verdict.sentence,
        "references": plain([row for row in learnt_rows(results.learnt) if row["task"] in chosen]),
    }


def _keep(models: Path, source: str, model: DeployedModel) -> tuple[Path, str]:
    """Write the MLflow model into a new folder models/SOURCE-N: whole, or not under this name. Returns it and the card.

    Raises BadInput where it cannot be written.
    """
    number = 1
    while True:
        try:
            return models / f"{source}-{number}", write_model(model, models / f"{source}-{number}")
        except FileExistsError:
            number += 1


def _short(value: Any) -> str:
    """A value of a table that is shown."""
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
