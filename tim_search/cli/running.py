"""Commands that train a search or say what that would take: run, demo, tune, plan."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tim_search.cli import console
from tim_search.cli.options import Address, AllowCode, AsJson, Out, SearchPath, task_names
from tim_search.cli.root import FINISHED_WITH_FAILURES, app
from tim_search.types import BadInput, Subset, duration, near, some
from tim_search.types import subset as as_subset

if TYPE_CHECKING:
    from tim_search.app.publishing import Finished
    from tim_search.config import ResolvedSearch, SearchFile


class Embedded(StrEnum):
    """The cohorts that ship with the product."""

    support2 = "support2"
    diabetes130 = "diabetes130"


#: Of each embedded cohort: name, tasks and settings of its demo.
_DEMOS: dict[Embedded, tuple[str, tuple[str, ...], dict[str, Any]]] = {
    Embedded.support2: ("demo", ("hospdead", "dnr_later", "dzclass", "slos_log", "avtisst", "phenotype"), {}),
    Embedded.diabetes130: (
        "diabetes130",
        ("readmit_30d", "died_or_hospice", "discharge_to", "los_log", "insulin_changed"),
        {"epochs": 2},
    ),
}


@app.command(epilog="Example: tim-search run jobs/twelve-pairs.yaml --out runs/pairs")
def run(
    path: SearchPath,
    out: Out = None,
    address: Address = None,
    allow_code: AllowCode = False,
    as_json: AsJson = False,
) -> None:
    """Run a search, or go on with it: after an interruption the same command continues where the ledger ends."""
    from tim_search import config

    console.note(f"Reading {path} and its cohort")
    _run(config.load(path, allow_code=allow_code), out, address, as_json, allow_code)


@app.command(epilog="Example: tim-search demo --out runs/demo")
def demo(
    cohort: Annotated[
        Embedded, typer.Option("--cohort", help="SUPPORT2: 8,758 patients; or diabetes-130: 101,766 hospital stays.")
    ] = Embedded.support2,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for what the search writes. Default: runs/ and its name.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run a search of an embedded cohort, a few minutes: five or six tasks of different classes, all their subsets."""
    console.note(f"Reading the embedded cohort {cohort}")
    search = demo_search(cohort)
    _run(search, out or Path("runs", search.name), None, as_json)


def demo_search(cohort: Embedded = Embedded.support2) -> SearchFile:
    """The search of `tim-search demo`, the same as jobs/demo.yaml or jobs/diabetes130.yaml."""
    from tim_search.config.sections import ExactDesign, SearchFile

    name, tasks, training = _DEMOS[cohort]
    return SearchFile(cohort=cohort.value, name=name, tasks=tasks, training=training, design=ExactDesign(), blocks=3)


@app.command(epilog="Example: tim-search tune jobs/tuned.yaml --out runs/tuned")
def tune(
    path: SearchPath,
    out: Out = None,
    address: Address = None,
    subset: Annotated[
        list[str] | None,
        typer.Option("--subset", help="Choose for this subset alone, such as hospdead+dnr_later; may be repeated."),
    ] = None,
    chosen: Annotated[
        bool,
        typer.Option("--chosen", help="Choose for each task alone and for the best combinations of a finished search."),
    ] = False,
    allow_code: AllowCode = False,
    as_json: AsJson = False,
) -> None:
    """Choose the network's settings by cross-validation: for a search before it is run, or for single subsets."""
    from tim_search import config
    from tim_search.cli import search_tables

    search = config.resolve(config.load(path, allow_code=allow_code), out, allow_code=allow_code)
    if search.file.tuning is None and not (subset or chosen):
        raise BadInput(
            f"{path}: there is nothing to tune for the search. Add a line `tuning: {{}}` (the paper's batch sizes and "
            "learning rates) or a `tuning:` section with a `space`; or name subsets with --subset or --chosen."
        )
    wanted = [_subset(names, search) for names in subset or ()]
    if chosen:
        from tim_search.app import confirmer
        from tim_search.results import opened

        wanted += confirmer.wanted(opened.open_search(search.out))
    records = _tune(search, tuple(dict.fromkeys(wanted)), address)
    console.answer(
        as_json,
        lambda: {"folder": search.out, "studies": records},
        lambda: map(search_tables.tuning, records),
    )


def _subset(combination: str, search: ResolvedSearch) -> Subset:
    """The subset that an option names; raises BadInput for tasks the search does not train."""
    names = task_names(combination) or ()
    tasks = [name for name in search.tasks if name != search.design.get("control")]
    unknown = [name for name in names if name not in tasks]
    if unknown:
        raise BadInput(
            f"--subset: expected names of tasks joined by +, got {combination}; no task is called {unknown[0]!r}."
            f"{near(unknown[0], tasks)} The tasks are {some(tasks, 20)}."
        )
    return as_subset(names)


def _tune(search: ResolvedSearch, subsets: Sequence[Subset], address: str | None) -> list[dict[str, Any]]:
    from tim_search.app import tuning
    from tim_search.cli.progress import progress

    target = f"{len(subsets)} subset{'s' * (len(subsets) > 1)}" if subsets else f"search {search.file.name}"
    console.note(f"Tuning {target}: settings compared by cross-validation, into {search.out}")
    with (
        console.interrupted(
            "Stopped: the ledger holds all that was trained. Run the same command again to go on from there."
        ),
        progress() as tell,
    ):
        return tuning.tune(search, subsets, address, tell, warn=console.warn)


@app.command(epilog="Example: tim-search plan jobs/twelve-pairs.yaml")
def plan(
    path: SearchPath,
    out: Out = None,
    pilot: Annotated[
        bool, typer.Option("--pilot", help="First train the first subsets of a sampled design here; they count.")
    ] = False,
    allow_code: AllowCode = False,
    as_json: AsJson = False,
) -> None:
    """Show what would be trained, how long it may take, and how small an effect it can tell; trains nothing itself."""
    from tim_search import config

    search = config.resolve(config.load(path, allow_code=allow_code), out, allow_code=allow_code)
    from tim_search.app import forecast
    from tim_search.cli import search_tables
    from tim_search.cli.progress import progress

    if search.awaits_tuning:
        study = config.study(search)
        console.note(
            f"Tuning comes first: up to {study.trials * len(study.units)} trainings beside these, which are counted "
            "with the settings before tuning"
        )
    if pilot:
        from tim_search.app import runner

        console.note("Training a pilot on this machine; its subsets are part of the search")
        with progress() as tell:
            runner.pilot(search, tell)
    console.note("Measuring what a training costs on this machine")
    content = forecast.forecast(search)
    console.answer(as_json, lambda: content, lambda: [search_tables.plan(content)])
    if content["too_few"] and not as_json:
        console.warn(content["too_few"])


def _run(file: SearchFile, out: Path | None, address: str | None, as_json: bool, allow_code: bool = False) -> None:
    # While training is under way the search has handlers of its own; before and after it, a signal ends it here.
    with console.interrupted(
        "Stopped outside training: the ledger holds all that was trained. Run the same command again to go on."
    ):
        _run_to_its_end(file, out, address, as_json, allow_code)


def _run_to_its_end(file: SearchFile, out: Path | None, address: str | None, as_json: bool, allow_code: bool) -> None:
    from tim_search import config
    from tim_search.cli.progress import progress

    search = config.resolve(file, out, allow_code=allow_code)
    if search.awaits_tuning:
        for record in _tune(search, (), address):
            console.note(f"Chosen: {', '.join(f'{name} {value}' for name, value in record['choice'].items())}")
        search = config.resolve(file, out, allow_code=allow_code)
    _check_outlives(search)
    # Only now: a mistake in the search file should not wait for these imports.
    from tim_search.app import forecast, runner, search_folder

    console.note(runner.words(search))
    search_folder.check_folder(search)
    if few := forecast.too_few(search):
        console.warn(few)
    console.note(runner.start_words(address or search.file.address))
    with progress(adaptive=search.plan.planned(search.blocks) is None) as tell:
        finished = runner.run_search(search, address, tell, warn=console.warn)
    _tell_end(search, finished, as_json)
    if finished.outcome.failed:
        raise typer.Exit(FINISHED_WITH_FAILURES)


def _check_outlives(search: ResolvedSearch) -> None:
    """Raise BadInput where a submitted job would write into its working folder, which nobody keeps."""
    here = Path.cwd().resolve()
    if "RAY_JOB_CONFIG_JSON_ENV_VAR" not in os.environ:
        return
    for name, place in (("--out", search.out), ("ledger", search.ledger)):
        if isinstance(place, Path) and place.resolve().is_relative_to(here):
            raise BadInput(
                f"{name}: expected an absolute path outside {here}, got {place}. A submitted job works in a temporary "
                "copy of the submitted folder, so what it writes there is lost. Name a place that stays, such as "
                f"/home/ray/results/{search.file.name}, or for the ledger s3://bucket/prefix."
            )


def _tell_end(search: ResolvedSearch, finished: Finished, as_json: bool) -> None:
    from tim_search.cli import search_tables
    from tim_search.cli.tables import places
    from tim_search.gates.urls import redacted_url
    from tim_search.results import summary

    results, outcome = finished.results, finished.outcome
    report = summary.report(results)
    uri = redacted_url(search.tracking_uri)

    def content() -> dict[str, Any]:
        return {
            **report,
            "units": {"trained": outcome.trained, "failed": outcome.failed, "reused": outcome.reused},
            "seconds": outcome.seconds,
            "peak_bytes": outcome.peak_bytes,
            "folder": results.folder,
            "ledger": results.ledger.place,
            "tracking_uri": uri,
            "report": results.folder / "report.html",
            "figures": finished.figures,
            "tables": finished.tables,
        }

    console.answer(
        as_json, content, lambda: (search_tables.report(report), places(_where_to_look(search, finished, uri)))
    )
    if outcome.failed and not as_json:
        console.warn(f"{outcome.failed} units failed; `tim-search status {results.folder}` tells why.")


def _where_to_look(search: ResolvedSearch, finished: Finished, uri: str) -> dict[str, Any]:
    """What was done, where it lies, and the commands that go on from there."""
    folder, outcome = finished.results.folder, finished.outcome
    # A sampled search has no expansion whose end could be confirmed.
    by_rule = ["--rule", "predicted"] if search.plan.sample is not None else []
    published = uri if uri.startswith("http") else shlex.join(["mlflow", "ui", "--backend-store-uri", uri])
    # MLflow's page begins with GenAI, whatever the kind of its experiments, until somebody chooses once.
    published += "  (choose Model training at the top of its page)"
    return {
        "trained": f"{outcome.trained} units in {duration(outcome.seconds)}, {outcome.failed} of them failed; "
        f"{outcome.reused} were in the ledger already",
        **({"memory": f"{outcome.peak_bytes / 2**20:,.0f} MiB at most a worker"} if outcome.peak_bytes else {}),
        "ledger": finished.results.ledger.place,
        "figures": folder / "figures",
        "tables": folder / "tables",
        "report": folder / "report.html",
        "confirm": shlex.join(["tim-search", "confirm", str(folder), *by_rule]) + "  (on untouched test patients)",
        "heatmap": shlex.join(["tim-search", "heatmap", "--tracking-uri", uri, "--search", search.file.name]),
        "MLflow": "not published (see the warning above)" if finished.missed else published,
    }
