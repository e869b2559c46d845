"""The command line. Each command reads its input, calls one function of the product, and shows what comes back.

Exit codes: 0 done, 2 bad input, 3 finished with failed units, 130 interrupted (always with a line that says so), 1
whatever else goes wrong (a lost cluster, an MLflow that does not answer `publish`). Results go to the standard output,
everything else to the standard error. Heavy modules are imported inside the commands that need them: `status`, `tim`
and `expand` start without torch and without Ray.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from tim_search import __version__
from tim_search.cli import cohort_cli, console
from tim_search.gates.plain import plain
from tim_search.types import BadInput, Finding, Interrupted, Subset, TimSearchError, duration, near, some
from tim_search.types import subset as as_subset

if TYPE_CHECKING:
    from tim_search.app.publishing import Finished
    from tim_search.config import ResolvedSearch, SearchFile
    from tim_search.results.grouping import Grouping

FINISHED_WITH_FAILURES = 3

DEMO_TASKS = ("hospdead", "dnr_later", "dzclass", "slos_log", "avtisst", "phenotype")


class Commands(TyperGroup):
    """All commands; one that is interrupted and has no words of its own for it ends with these."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command; typer itself would end it without a word."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise Interrupted("Interrupted; nothing is lost. The same command can be run again.") from None


app = typer.Typer(
    name="tim-search",
    cls=Commands,
    help="Find out which clinical tasks to train together: plan task subsets, train them all, read off who helps whom.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(cohort_cli.app, name="cohort")

SearchPath = Annotated[Path, typer.Argument(metavar="SEARCH.yaml", help="The search file.")]
Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The output folder of a search.")]
Out = Annotated[Path | None, typer.Option("--out", help="Folder for everything the search writes.")]
Address = Annotated[
    str | None, typer.Option("--address", help="Ray cluster, such as auto or ray://head:10001. Default: this machine.")
]
AllowCode = Annotated[
    bool, typer.Option("--allow-code", help="Import a network of your own that the file names; read its code first.")
]
AsJson = cohort_cli.AsJson


class RuleName(StrEnum):
    """Rules of the greedy expansion."""

    lower_bound = "lower_bound"
    paper = "paper"


class ObjectiveName(StrEnum):
    """What a choice of models maximises."""

    total = "total"
    worst = "worst"


class GainName(StrEnum):
    """How gains of different tasks are made to compare."""

    relative = "relative"
    absolute = "absolute"


class ChoiceName(StrEnum):
    """Rules by which a combination is put to the test."""

    paper = "paper"
    lower_bound = "lower_bound"
    predicted = "predicted"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and end the process with its exit code; bad input is told without a traceback."""
    warnings.showwarning = console.show_warning  # type: ignore[assignment]
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends a command as Ctrl-C does, with exit code 130
    try:
        app(args=None if arguments is None else list(arguments))
    except TimSearchError as error:
        console.say("stopped" if isinstance(error, Interrupted) else "error", str(error))
        sys.exit(error.exit_code)


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="Print the version and end.", is_eager=True)] = False,
) -> None:
    if version:
        print(f"tim-search {__version__}")
        raise typer.Exit


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
    out: Annotated[Path, typer.Option("--out", help="Folder for everything the search writes.")] = Path("runs/demo"),
    as_json: AsJson = False,
) -> None:
    """Run the embedded search: SUPPORT2, six tasks of four problem classes, all their 63 subsets, a few minutes."""
    console.note("Reading the embedded cohort SUPPORT2")
    _run(demo_search(), out, None, as_json)


def demo_search() -> SearchFile:
    """The search of `tim-search demo`, the same as jobs/demo.yaml."""
    from tim_search.config.sections import ExactDesign, SearchFile

    return SearchFile(cohort="support2", name="demo", tasks=DEMO_TASKS, design=ExactDesign(), blocks=3)


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
    from tim_search.cli import display

    found = config.resolve(config.load(path, allow_code=allow_code), out, allow_code=allow_code)
    if found.file.tuning is None and not (subset or chosen):
        raise BadInput(
            f"{path}: there is nothing to tune for the search. Add a line `tuning: {{}}` (the paper's batch sizes and "
            "learning rates) or a `tuning:` section with a `space`; or name subsets with --subset or --chosen."
        )
    wanted = [_subset(names, found) for names in subset or ()]
    if chosen:
        from tim_search.app import confirmer
        from tim_search.results import opened

        wanted += confirmer.wanted(opened.open_search(found.out))
    wanted = list(dict.fromkeys(wanted))
    records = _tune(found, wanted, address)
    if as_json:
        console.print_json({"folder": str(found.out), "studies": records})
        return
    console.output().print(*(display.tuning(record) for record in records))


def _subset(names: str, found: ResolvedSearch) -> Subset:
    wanted = [name.strip() for name in names.split("+")]
    known = [name for name in found.tasks if name != found.design.get("control")]
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise BadInput(
            f"--subset: expected names of tasks joined by +, got {names}; no task is called {unknown[0]!r}."
            f"{near(unknown[0], known)} The tasks are {some(known, 20)}."
        )
    return as_subset(wanted)


def _tune(found: ResolvedSearch, subsets: Sequence[Subset], address: str | None) -> list[dict[str, Any]]:
    from tim_search.app import tuning
    from tim_search.cli import display

    what = f"{len(subsets)} subset{'s' * (len(subsets) > 1)}" if subsets else f"search {found.file.name}"
    console.note(f"Tuning {what}: settings compared by cross-validation, into {found.out}")
    try:
        with display.progress(console.errors) as tell:
            return tuning.tune(found, subsets, address, tell, warn=lambda text: console.say("warning", text))
    except KeyboardInterrupt:
        raise Interrupted(
            "Stopped: the ledger holds all that was trained. Run the same command again to go on from there."
        ) from None


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

    found = config.resolve(config.load(path, allow_code=allow_code), out, allow_code=allow_code)
    from tim_search.app import forecast
    from tim_search.cli import display

    if found.awaits_tuning:
        study = config.study(found)
        console.note(
            f"Tuning comes first: up to {study.trials * len(study.units)} trainings beside these, which are counted "
            "with the settings before tuning"
        )
    if pilot:
        from tim_search.app import runner

        console.note("Training a pilot on this machine; its subsets are part of the search")
        with display.progress(console.errors) as tell:
            runner.pilot(found, tell)
    console.note("Measuring what a training costs on this machine")
    content = forecast.forecast(found)
    if as_json:
        console.print_json(content)
        return
    console.output().print(display.plan(content))
    if content["too_few"]:
        console.say("warning", content["too_few"])


@app.command(epilog="Example: tim-search status runs/demo --watch")
def status(
    folder: Folder,
    watch: Annotated[bool, typer.Option("--watch", help="Look again and again until the search has finished.")] = False,
    every: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks of --watch.")] = 5.0,
    as_json: AsJson = False,
) -> None:
    """Show how far a search is, from its ledger alone, also while it runs."""
    from tim_search.cli import display
    from tim_search.results import opened

    if watch:
        _watch(folder, every, as_json)
        return
    content = opened.open_search(folder).status()
    if as_json:
        console.print_json(content)
        return
    console.output().print(display.pairs(_status_rows(content)))
    for reason, count in content["failures"].items():
        console.say("warning", f"{count} units failed: {reason}")


def _watch(folder: Path, every: float, as_json: bool) -> None:
    """A line (with --json an object) for every look at which something is new, until the search has finished."""
    from tim_search.results import opened

    first: tuple[float, int] | None = None
    last: dict[str, Any] = {}
    try:
        while True:
            now, content = time.monotonic(), opened.open_search(folder).status()
            trained, total = content["trained"], content["trained"] + content["waiting"]
            first = first or (now, trained)
            if content != last:
                rate = (trained - first[1]) / (now - first[0]) if trained > first[1] else 0.0
                left = f", {rate:.2g}/s, {duration(content['waiting'] / rate)} left" if rate else ""
                line = f"{trained} of {total} units, {content['failed']} failed{left}"
                print(json.dumps(content, ensure_ascii=False) if as_json else line, flush=True)
            if content["finished"]:
                return
            last = content
            time.sleep(every)
    except KeyboardInterrupt:
        raise Interrupted("Stopped watching; the search itself is not touched.") from None


def _status_rows(content: Mapping[str, Any]) -> dict[str, Any]:
    from tim_search.cli import display

    planned = "decided as it goes" if content["planned"] is None else content["planned"]
    return {
        "search": f"{content['name']} ({content['cohort']}, {content['network']}, {content['design']['kind']})",
        "tasks": display.names(content["tasks"]),
        "blocks": ", ".join(f"seed {seed} fold {fold}" for seed, fold in content["blocks"]),
        "units planned": planned,
        "units trained": content["trained"],
        "units failed": content["failed"],
        **({"trainings": _tuning_words(content["tuning"])} if content["tuning"] else {}),
        "units waiting": content["waiting"],
        "finished": "yes" if content["finished"] else "no",
        "training time": duration(content["training_seconds"]),
        **({"stopping rule": content["stopping"]["reason"]} if content["stopping"] else {}),
        "last written": content["last_written"] or "never",
        "ledger": content["ledger"],
    }


def _tuning_words(content: Mapping[str, Any]) -> str:
    planned = "" if content["planned"] is None else f" of {content['planned']}"
    return f"{content['trained']}{planned}, with {content['combinations']} combinations of settings for every subset"


@app.command(epilog="Example: tim-search tim runs/demo --source hospdead --size 5")
def tim(
    folder: Folder,
    method: Annotated[
        str, typer.Option(help="auto, exact, restricted, blup, gls, ols or msr (difference of means).")
    ] = "auto",
    size: Annotated[
        int | None,
        typer.Option(
            help="Average over subsets of at most this many tasks, as for a model of few tasks: restricted TIM where "
            "all of them were trained, else estimated from the sample (deployable TIM)."
        ),
    ] = None,
    source: Annotated[
        str | None, typer.Option(help="Only the scores of this source task, and its figures, written to DIR/figures.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show the TIM scores: how much each task helps or harms each other, from the ledger alone."""
    from tim_search.cli import display
    from tim_search.results import opened

    results = opened.open_search(folder)
    if source is not None and source not in results.tasks:
        known = some(tuple(results.tasks), 20)
        guess = near(source, results.tasks)
        raise BadInput(f"--source: expected a task of the search, got {source!r}.{guess} Name one of: {known}.")
    result = results.tim(method, size=size)  # type: ignore[arg-type]
    paths: tuple[Path, ...] = ()
    if source is not None:
        from tim_search.report import gallery

        paths = gallery.source(results, result, source)
    if as_json:
        cells = [plain(row) for row in result.frame() if source in (None, row["source"])]
        content = {"label": result.label, "method": result.method, "notes": list(result.notes), "cells": cells}
        console.print_json({**content, "figures": [str(path) for path in paths]})
        return
    screen = console.output()
    if source is not None:
        screen.print(display.source(result, source), display.pairs({"figures": ", ".join(map(str, paths))}))
        return
    screen.print(display.matrix(result, screen.width, results.manifest.overlaps))


@app.command(epilog="Example: tim-search compare runs/m3h runs/flexcare")
def compare(
    folder: Folder,
    other: Annotated[Path, typer.Argument(metavar="OTHER", help="The output folder of another search.")],
    as_json: AsJson = False,
) -> None:
    """Lay the TIM scores of two searches side by side: two networks, two cohorts, or two settings."""
    from tim_search.cli import display
    from tim_search.results import comparison, opened

    content = comparison.compare(opened.open_search(folder), opened.open_search(other)).record()
    if as_json:
        console.print_json(content)
        return
    console.output().print(display.comparison(content))


@app.command(epilog="Example: tim-search expand runs/demo --rule paper --source hospdead")
def expand(
    folder: Folder,
    rule: Annotated[
        RuleName | None,
        typer.Option(help="When a combination counts as better: a higher score, or its lower bound above zero."),
    ] = None,
    beam: Annotated[int | None, typer.Option(help="Combinations kept at each size.")] = None,
    max_size: Annotated[int | None, typer.Option(help="Tasks in the largest combination.")] = None,
    tolerance: Annotated[
        float | None, typer.Option(help="Gains up to this, in the task's metric, do not count.")
    ] = None,
    source: Annotated[list[str] | None, typer.Option(help="A source task; may be given several times.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show the best combination of each source task, from the ledger alone: greedy, or what the surrogate found."""
    from tim_search.cli import display
    from tim_search.plans import expansion
    from tim_search.results import opened

    results = opened.open_search(folder)
    options: dict[str, Any] = {"beam": beam, "max_size": max_size, "tolerance": tolerance, "sources": source}
    chosen = results.greedy(rule.value if rule else None, **options)
    rows = [plain(row) for row in expansion.rows(chosen.result(results.table))]
    sharing = chosen.sharing(results.table)
    if as_json:
        saved = {"shared": sharing.shared, "alone": sharing.total_alone, "saved": sharing.saved}
        console.print_json({"rule": chosen.rule, "expansions": rows, "sharing": saved})
        return
    if any(row["single_score"] is not None or row["complete"] for row in rows):
        console.output().print(display.expansions(rows, chosen.rule, chosen.title))
    if results.plan.sample is not None and not any(row["complete"] for row in rows):
        console.output().print(f"  {display.NO_COMBINATIONS}")
    console.output().print(
        f"  Trainings: {sharing.shared} shared by all sources, {sharing.total_alone} without sharing."
    )


@app.command(epilog="Example: tim-search confirm runs/demo --rule paper --by sex")
def confirm(
    folder: Folder,
    rule: Annotated[
        ChoiceName,
        typer.Option(
            help="Which combination of a source is put to the test: as `tim-search expand` chooses it, or (for sampled "
            "searches) the best that is predicted."
        ),
    ] = ChoiceName.paper,
    source: Annotated[list[str] | None, typer.Option(help="A source task; may be given several times.")] = None,
    subset: Annotated[
        str | None, typer.Option("--subset", help="A combination to confirm instead, as task+task+task.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Fresh seeds to train from.")] = 5,
    draws: Annotated[int, typer.Option(min=100, help="Bootstrap draws of the test patients.")] = 1000,
    by: Annotated[
        list[str] | None, typer.Option("--by", help="An input column: calibration by its groups. Several times.")
    ] = None,
    address: Address = None,
    allow_code: AllowCode = False,
    as_json: AsJson = False,
) -> None:
    """Put the chosen combinations to the test: fresh seeds, untouched test patients, against each task alone."""
    from tim_search.app import confirmer
    from tim_search.cli import display

    console.note(f"Opening {folder} and its cohort")
    given = tuple(sorted({name.strip() for name in subset.split("+") if name.strip()})) if subset else ()
    with display.progress(console.errors) as tell:
        found = confirmer.confirm(
            folder, rule.value, sources=source or (), given=given, seeds=seeds, draws=draws, groups=by or (),
            address=address, allow_code=allow_code, on_event=tell, warn=lambda text: console.say("warning", text),
        )  # fmt: skip
    failed = found.outcome.failed if found.outcome else 0
    rows = [plain(row) for row in found.rows]
    if as_json:
        figures = [str(path) for path in found.figures]
        console.print_json({"confirmed": rows, "notes": found.notes, "table": str(found.table), "figures": figures})
    else:
        console.output().print(display.confirmation(rows, found.notes))
        console.output().print(
            display.places({"table": found.table, "figures": found.results.folder / "figures"}),
            soft_wrap=True,
            markup=False,
        )
    if failed:
        console.say(
            "warning", f"{failed} units failed; `tim-search status {folder}` does not count them, the table does."
        )
        raise typer.Exit(FINISHED_WITH_FAILURES)


@app.command(epilog="Example: tim-search group runs/demo --models 3 --max-size 4")
def group(
    folder: Folder,
    models: Annotated[
        int | None, typer.Option(help="How many models may be deployed. Default: as few as gain the most.")
    ] = None,
    max_size: Annotated[
        int | None, typer.Option(help="Tasks in the largest model. Default: the largest subset that was trained.")
    ] = None,
    objective: Annotated[
        ObjectiveName, typer.Option(help="Largest sum of the gains, or largest gain of the task that gains least.")
    ] = ObjectiveName.total,
    gain: Annotated[
        GainName, typer.Option(help="Share of what the task alone leaves to be won, or difference in its metric.")
    ] = GainName.relative,
    train: Annotated[
        bool, typer.Option("--train", help="Train what the choice rests on unmeasured, and choose again, to the end.")
    ] = False,
    address: Address = None,
    allow_code: AllowCode = False,
    as_json: AsJson = False,
) -> None:
    """Choose the few models to deploy, so that each task is served by one of them with the largest gain."""
    from tim_search.cli import display
    from tim_search.report import gallery
    from tim_search.results import grouping, opened

    options: dict[str, Any] = {"max_size": max_size, "objective": objective.value, "gain": gain.value}
    if train:
        found = _trained_choice(folder, address, models, options, allow_code)
    else:
        found = opened.open_search(folder).group(models, **options)
    results = opened.open_search(folder)
    content = {"search": results.manifest.name, **grouping.record(found)}
    paths = {"figure": str(gallery.front(results, found)), "record": str(opened.write_group(results, content))}
    if as_json:
        console.print_json({**content, **paths})
        return
    console.output().print(display.grouping(content))
    console.output().print(display.places(paths), soft_wrap=True, markup=False)


def _trained_choice(
    folder: Path, address: str | None, models: int | None, options: Mapping[str, Any], allow_code: bool
) -> Grouping:
    from tim_search import config
    from tim_search.cli import display
    from tim_search.results import opened

    opened.open_search(folder)  # a folder that is none is told before the cohort is read
    console.note(f"Reading {folder / 'search.yaml'} and its cohort")
    resolved = config.resolve(config.load(folder / "search.yaml", allow_code=allow_code), allow_code=allow_code)
    from tim_search.app import runner

    def announce(choice: Grouping, todo: Sequence[Subset]) -> None:
        names = some([" + ".join(members) for members in todo])
        console.note(
            f"A gain of {choice.choice.total:+.3f} is expected of a choice that rests on {len(todo)} subsets not "
            f"trained yet: {names}"
        )

    try:
        with display.progress(console.errors) as tell:
            return runner.train_choice(
                resolved, lambda results: results.group(models, **options), address, tell, announce
            )
    except KeyboardInterrupt:
        raise Interrupted("Stopped: the ledger holds all that was trained. The same command goes on.") from None


@app.command(epilog="Example: tim-search report runs/demo --small-cells 10 --out demo-report.html")
def report(
    folder: Folder,
    out: Annotated[Path | None, typer.Option("--out", help="The page to write. Default: DIR/report.html")] = None,
    small_cells: Annotated[
        int | None,
        typer.Option(
            min=0, help="Hide counts of patients below this, as <10; 0 shows all. Default and least: as the search."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write the report of a search: one page with everything in it, to be read offline, mailed or printed."""
    from tim_search.report import page as reporting
    from tim_search.results import confirmation, opened

    results = opened.open_search(folder)
    path = reporting.write(results, out, small=small_cells, confirmation=confirmation.rows(results)).absolute()
    if as_json:
        console.print_json({"report": str(path), "bytes": path.stat().st_size})
        return
    console.output().print(f"{path} ({path.stat().st_size / 1e6:.1f} MB)", soft_wrap=True, markup=False)


@app.command(epilog="Example: tim-search train runs/demo --source hospdead --register hospital-death")
def train(
    folder: Folder,
    source: Annotated[str, typer.Option(help="The task to predict; its best combination is trained.")],
    rule: Annotated[RuleName | None, typer.Option(help="Rule that chooses the combination (see expand).")] = None,
    subset: Annotated[
        str | None, typer.Option(help="The combination itself, such as hospdead+dnr_later, instead of the chosen one.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Networks to train; their predictions are averaged.")] = 1,
    register: Annotated[str | None, typer.Option(help="Name in MLflow's model registry.")] = None,
    allow_code: AllowCode = False,
    as_json: AsJson = False,
) -> None:
    """Train the chosen combination on the whole training part, score it on the test patients, and publish the model.

    The reading of the test patients is written to DIR/test-readings.jsonl first.
    """
    from tim_search.app import deploy
    from tim_search.cli import display

    try:
        made = deploy.train(
            folder,
            source,
            rule=rule.value if rule else None,
            members=None if subset is None else [name.strip() for name in subset.split("+")],
            seeds=seeds,
            register=register,
            allow_code=allow_code,
            note=console.note,
            warn=lambda text: console.say("warning", text),
        )
    except KeyboardInterrupt:
        raise Interrupted(
            f"Stopped. Whether the test patients were read meanwhile is in {folder / 'test-readings.jsonl'}; a model "
            f"that is whole is in {folder / 'models'}."
        ) from None
    if as_json:
        names = {"source": made.source, "subset": list(made.subset), "folder": str(made.folder)}
        console.print_json({**names, "scores": list(made.scores), "mlflow": made.published})
    else:
        console.output().print(display.test_scores(made.scores))
        places = {
            "model": made.folder,
            "card": made.folder / "model_card.md",
            "predict": shlex.join(
                ["tim-search", "predict", str(made.folder), made.table, *(["--allow-code"] if allow_code else [])]
            ),
            "serve": ("TIM_SEARCH_ALLOW_CODE=1 " if allow_code else "")
            + shlex.join(["mlflow", "models", "serve", "-m", str(made.folder), "--env-manager", "local"]),
            "MLflow": made.published.get("model_uri", "not published (see the warning above)"),
            **({"registered": made.published["registered"]} if "registered" in made.published else {}),
        }
        console.output().print(display.places(places), soft_wrap=True, markup=False)
    if register is not None and made.missed:
        raise typer.Exit(FINISHED_WITH_FAILURES)


@app.command(epilog="Example: tim-search inspect runs/flexcare --subset hospdead+dnr_later --seeds 5")
def inspect(
    folder: Folder,
    subset: Annotated[
        str | None, typer.Option(help="The tasks, such as hospdead+dnr_later. Default: all of the search.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Trainings that the mean scores rest on.")] = 5,
    allow_code: AllowCode = False,
    as_json: AsJson = False,
) -> None:
    """Look inside the network of one subset: experts, turns, representations, and what the task tokens are worth.

    The subset is trained again, and its tasks alone; test patients are not read. Tables and figures go to DIR/inside.
    """
    from tim_search.app import inside
    from tim_search.cli import display
    from tim_search.report.figures import inside as inside_figures

    found = inside.look(
        folder,
        None if subset is None else [name.strip() for name in subset.split("+")],
        seeds,
        allow_code=allow_code,
        note=console.note,
    )
    figures = inside_figures.draw_all(found.folder, found.tables, found.order, " + ".join(found.subset))
    rows: list[Any] = found.tables["scores"].to_dict("records")
    scores = [plain(row) for row in rows]
    if as_json:
        console.print_json(
            {"subset": list(found.subset), "order": list(found.order), "scores": scores, "figures": figures}
        )
        return
    console.output().print(display.inside(scores))
    console.output().print(display.places({"tables": found.folder, **figures}), soft_wrap=True, markup=False)


@app.command(epilog="Example: tim-search predict runs/demo/models/hospdead-1 rows.csv --id patient --out said.csv")
def predict(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A folder that train wrote, or models:/NAME/VERSION in MLflow.")
    ],
    data: Annotated[Path, typer.Argument(metavar="DATA", help="Rows to predict: CSV, or Parquet by its name's end.")],
    key: Annotated[str | None, typer.Option("--id", help="Column that names the rows and is no input.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="CSV or .parquet file. Default: CSV to the output.")] = None,
    tracking_uri: Annotated[str | None, typer.Option(help="MLflow, for models:/ and runs:/ URIs.")] = None,
    allow_code: AllowCode = False,
    as_json: AsJson = False,
) -> None:
    """Predict new rows with a trained model: columns in any order, modalities may be missing."""
    from model.trained.new_rows import read_table
    from tim_search.app import model_folder, prediction

    opened = model_folder.load(model, tracking_uri, allow_code=allow_code)
    predictions = prediction.predict(opened, read_table(data, opened.inputs, key))
    if out is not None:
        prediction.write_table(predictions, out)
        console.note(f"{len(predictions)} predictions written to {out}")
    elif as_json:
        console.print_json({"predictions": json.loads(predictions.to_json(orient="records"))})
    else:
        print(predictions.to_csv(index=False), end="")


@app.command(epilog="Example: tim-search extend runs/demo/models/hospdead-1 --task dnr_later --labels 0.01 --labels 1")
def extend(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A folder that train wrote.")],
    task: Annotated[str, typer.Option(help="A task of the cohort that the model has not seen.")],
    labels: Annotated[
        list[float] | None, typer.Option(help="Share of the labels to train on, repeatable. Default: 0.01 and 1.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Trainings a start and share; their mean and SD are shown.")] = 5,
    test: Annotated[bool, typer.Option("--test", help="Judge on the test patients; that is logged.")] = False,
    cohort: Annotated[str | None, typer.Option(help="Cohort with the new task. Default: the search's.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="New folder for the model with the task added.")] = None,
    as_json: AsJson = False,
) -> None:
    """Extend a model to a task it has not seen: what its start is worth against training from scratch.

    Scores are of held-out validation folds. Every training is written to MODEL-extend-TASK-N.csv beside the model.
    """
    from tim_search.app import extension
    from tim_search.cli import display

    found = extension.extend(
        model,
        task,
        shares=labels or extension.SHARES,
        seeds=seeds,
        test=test,
        cohort=cohort,
        out=out,
        note=console.note,
    )
    if as_json:
        content = {"task": found.task, "table": list(found.table), "trainings": list(found.rows), "notes": found.notes}
        console.print_json({**content, "file": str(found.file), "folder": str(found.folder) if found.folder else None})
        return
    console.output().print(display.extension(found.task, found.table, found.notes))
    model_at = {"model": found.folder} if found.folder else {}
    console.output().print(display.places({"trainings": found.file, **model_at}), soft_wrap=True, markup=False)


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
    from tim_search.cli import display
    from tim_search.tracking import tracker as tracking

    destination = out or Path(f"{search}-heatmap")
    found = tracking.newest_heatmap(tracking_uri, search, destination)
    table = destination / "heatmap.csv"
    found.table.to_csv(table, index=False)
    figures = [str(path) for path in found.figures.values()]
    if as_json:
        console.print_json(
            {
                "search": found.search,
                "run_id": found.run_id,
                "round": found.round,
                "label": found.label,
                "created": found.created.isoformat(),
                "figures": figures,
                "table": str(table),
                "cells": json.loads(found.table.to_json(orient="records")),
            }
        )
        return
    rows = {
        "search": found.search,
        "scores": f"{found.label}, round {found.round}, {found.created:%Y-%m-%d %H:%M} UTC",
        "figures": ", ".join(figures),
        "table": f"{table} ({len(found.table)} cells)",
        "run": found.run_id,
    }
    console.output().print(display.pairs(rows))


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
    from tim_search.cli import display

    console.note(f"Writing the figures of {folder}, then MLflow")
    from tim_search.app import publishing

    finished = publishing.catch_up(folder, tracking_uri, warn=lambda text: console.say("warning", text))
    if finished.missed:
        raise TimSearchError(
            f"Not published: {', '.join(finished.missed)}. The ledger is whole; run the same command again when MLflow "
            "answers."
        )
    figures = [str(path) for path in finished.figures]
    if as_json:
        console.print_json({"folder": str(finished.results.folder), "figures": figures})
        return
    console.output().print(display.pairs({"published": finished.results.folder, "figures": ", ".join(figures)}))


@app.command(epilog="Example: tim-search merge site-a/run site-b/run --out merged")
def merge(
    sources: Annotated[
        list[str], typer.Argument(metavar="SOURCE...", help="Search folders or ledgers (folders, s3://bucket/prefix).")
    ],
    out: Annotated[str, typer.Option("--out", help="Place of the merged search folder or ledger.")],
    as_json: AsJson = False,
) -> None:
    """Merge the ledgers of several sites: every score once, and the reasons where their scores do not compare."""
    from tim_search.cli import display
    from tim_search.results import merge as merging

    merged = merging.merge(sources, out)
    if as_json:
        content = {"place": merged.place, "ledger": merged.ledger.place, "units": dict(merged.units)}
        console.print_json({**content, "total": merged.total, "files": merged.files, "search": merged.search})
        return
    rows: dict[str, Any] = {source: f"{count} units" for source, count in merged.units.items()}
    twice = sum(merged.units.values()) - merged.total
    rows[f"merged: {merged.place}"] = f"{merged.total} units, {twice} of them in several sources (first answers count)"
    console.output().print(display.pairs(rows))
    if merged.search:
        console.note(f"`tim-search tim {merged.place}` reads it.")


@app.command(epilog="Example: tim-search check my-cohort/")
def check(
    path: Annotated[
        str, typer.Argument(metavar="PATH", help="A search file, a cohort folder, a search folder or a ledger.")
    ],
    strict: Annotated[bool, typer.Option("--strict", help="Take every warning for an error.")] = False,
    allow_code: AllowCode = False,
    as_json: AsJson = False,
) -> None:
    """Check a search file, a cohort folder or a search folder's ledger: every finding with its place and its fix.

    Of a cohort it also looks for leaks: patients on both sides, inputs that tell a target, targets that overlap.
    """
    from tim_search.cli import display

    findings, overlap = _findings(path, allow_code)
    if strict:
        findings = [replace(finding, severity="error") for finding in findings]
    errors = sum(finding.severity == "error" for finding in findings)
    if as_json:
        rows = [
            {"severity": one.severity, "place": one.place, "problem": one.problem, "fix": one.fix} for one in findings
        ]
        matrix = {"overlap": {"tasks": overlap[0], "matrix": overlap[1]}} if overlap else {}
        console.print_json({"path": str(path), "errors": errors, "findings": rows, **matrix})
    else:
        for finding in findings:
            console.say(finding.severity, str(finding), console.output())
        if overlap and (table := display.overlaps(*overlap)):
            console.output().print(table)
        told = ((errors, "error"), (len(findings) - errors, "warning"))
        words = ", ".join(f"{count} {what}{'' if count == 1 else 's'}" for count, what in told)
        console.output().print(f"{path}: {words}", markup=False)
    if errors:
        raise typer.Exit(BadInput.exit_code)


def _run(file: SearchFile, out: Path | None, address: str | None, as_json: bool, allow_code: bool = False) -> None:
    # While training is under way the search has handlers of its own; before and after it, a signal ends it here.
    try:
        _run_to_its_end(file, out, address, as_json, allow_code)
    except KeyboardInterrupt:
        raise Interrupted(
            "Stopped outside training: the ledger holds all that was trained. Run the same command again to go on."
        ) from None


def _run_to_its_end(file: SearchFile, out: Path | None, address: str | None, as_json: bool, allow_code: bool) -> None:
    from tim_search import config
    from tim_search.cli import display

    found = config.resolve(file, out, allow_code=allow_code)
    if found.awaits_tuning:
        for record in _tune(found, (), address):
            console.note(f"Chosen: {', '.join(f'{name} {value}' for name, value in record['choice'].items())}")
        found = config.resolve(file, out, allow_code=allow_code)
    _check_outlives(found)
    units = found.plan.planned(found.blocks)
    amount = "as many units as the search turns out to need" if units is None else f"{units} units"
    if found.own is not None:
        amount += f", each with {len(found.own.values)} combinations of settings"
    console.note(f"Search {found.file.name}: {len(found.tasks)} tasks, {amount}, into {found.out}")
    # Only now: a mistake in the search file should not wait for these imports.
    from tim_search.app import forecast, runner, search_folder

    search_folder.check_folder(found)
    if few := forecast.too_few(found):
        console.say("warning", few)
    place = address or found.file.address
    console.note(f"Connecting to Ray at {place}" if place else "Starting Ray on this machine (up to half a minute)")
    with display.progress(console.errors) as tell:
        finished = runner.run_search(found, address, tell, warn=lambda text: console.say("warning", text))
    _tell_end(found, finished, as_json)
    if finished.outcome.failed:
        raise typer.Exit(FINISHED_WITH_FAILURES)


def _check_outlives(found: ResolvedSearch) -> None:
    """Raise BadInput where a submitted job would write into its working folder, which nobody keeps."""
    here = Path.cwd().resolve()
    if "RAY_JOB_CONFIG_JSON_ENV_VAR" not in os.environ:
        return
    for name, place in (("--out", found.out), ("ledger", found.ledger)):
        if isinstance(place, Path) and place.resolve().is_relative_to(here):
            raise BadInput(
                f"{name}: expected an absolute path outside {here}, got {place}. A submitted job works in a temporary "
                "copy of the submitted folder, so what it writes there is lost. Name a place that stays, such as "
                f"/home/ray/results/{found.file.name}, or for the ledger s3://bucket/prefix."
            )


def _tell_end(found: ResolvedSearch, finished: Finished, as_json: bool) -> None:
    from tim_search.cli import display
    from tim_search.results import summary
    from tim_search.tracking import tracker as tracking

    results, outcome = finished.results, finished.outcome
    content = summary.report(results)
    # A sampled search has no expansion whose end could be confirmed.
    by_rule = ["--rule", "predicted"] if found.plan.sample is not None else []
    uri = tracking.shown(found.tracking_uri)
    places = {
        "trained": f"{outcome.trained} units in {duration(outcome.seconds)}, {outcome.failed} of them failed; "
        f"{outcome.reused} were in the ledger already",
        **({"memory": f"{outcome.peak_bytes / 2**20:,.0f} MiB at most a worker"} if outcome.peak_bytes else {}),
        "ledger": results.ledger.place,
        "figures": results.folder / "figures",
        "tables": results.folder / "tables",
        "report": results.folder / "report.html",
        "confirm": shlex.join(["tim-search", "confirm", str(results.folder), *by_rule])
        + "  (on untouched test patients)",
        "heatmap": shlex.join(["tim-search", "heatmap", "--tracking-uri", uri, "--search", found.file.name]),
        "MLflow": "not published (see the warning above)"
        if finished.missed
        else shlex.join(["mlflow", "ui", "--backend-store-uri", uri]),
    }
    if uri.startswith("http") and not finished.missed:
        places["MLflow"] = uri
    if as_json:
        units = {"trained": outcome.trained, "failed": outcome.failed, "reused": outcome.reused}
        files = {"figures": [str(path) for path in finished.figures], "tables": [str(path) for path in finished.tables]}
        where = {"folder": str(results.folder), "ledger": results.ledger.place, "tracking_uri": uri}
        where["report"] = str(results.folder / "report.html")
        costs = {"seconds": outcome.seconds, "peak_bytes": outcome.peak_bytes}
        console.print_json({**content, "units": units, **costs, **where, **files})
        return
    console.output().print(display.report(content))
    console.output().print(display.places(places), soft_wrap=True, markup=False)
    if outcome.failed:
        console.say("warning", f"{outcome.failed} units failed; `tim-search status {results.folder}` tells why.")


def _findings(place: str, allow_code: bool) -> tuple[list[Finding], tuple[list[str], list[list[float | None]]] | None]:
    """Everything there is to say about a search file, a cohort folder, a search folder or a ledger.

    Beside it how a cohort's tasks overlap; the overlap of two tasks is null where too few samples have both labels.
    """
    path = Path(place)
    if path.is_dir() and (path / "search.json").exists():
        from tim_search.results import opened

        return opened.open_search(path).check(), None
    if "://" in place or (path / "scores").is_dir():
        from tim_search.ledger.ledger import Ledger

        return Ledger(place).check(), None
    if path.is_dir() or path.name == "cohort.yaml" or place == "support2":
        from model.cohorts.checks import overlap_matrix
        from model.sources.opening import inspect_cohort

        console.note(f"Reading {path} and looking for leaks")
        cohort, findings = inspect_cohort(str(path))
        if cohort is None:
            return findings, None
        names, matrix = overlap_matrix(cohort.tasks, cohort.labels, cohort.classes)
        plain = [[None if value != value else round(value, 3) for value in row] for row in matrix.tolist()]
        return findings, (list(names), plain)
    from tim_search import config

    return config.check(path, allow_code=allow_code), None
