"""The command line. Each command reads its input, calls one function of the product, and shows what comes back.

Exit codes: 0 done, 2 bad input, 3 finished with failed units, 130 interrupted. Results go to the standard output,
everything else to the standard error. Heavy modules are imported inside the commands that need them: `status`, `tim`
and `expand` start without torch and without Ray.
"""

from __future__ import annotations

import json
import shlex
import signal
import sys
import warnings
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from tim_search import __version__
from tim_search.types import BadInput, Finding, Interrupted, TimSearchError

if TYPE_CHECKING:
    from tim_search.runner import Finished
    from tim_search.spec import ResolvedSearch, SearchFile

FINISHED_WITH_FAILURES = 3

DEMO_TASKS = ("hospdead", "dnr_later", "dzclass", "slos_log", "avtisst", "phenotype")

app = typer.Typer(
    name="tim-search",
    help="Find out which clinical tasks to train together: plan task subsets, train them all, read off who helps whom.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
cohort_app = typer.Typer(help="Cohort folders.", no_args_is_help=True)
app.add_typer(cohort_app, name="cohort")

SearchPath = Annotated[Path, typer.Argument(metavar="SEARCH.yaml", help="The search file.")]
Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The output folder of a search.")]
Out = Annotated[Path | None, typer.Option("--out", help="Folder for everything the search writes.")]
Address = Annotated[
    str | None, typer.Option("--address", help="Ray cluster, such as auto or ray://head:10001. Default: this machine.")
]
AllowCode = Annotated[
    bool, typer.Option("--allow-code", help="Import a network of your own that the file names; read its code first.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for machines instead of tables.")]


class Shape(StrEnum):
    """Cohorts that can be imitated."""

    haim = "haim"


class RuleName(StrEnum):
    """Rules of the greedy expansion."""

    lower_bound = "lower_bound"
    paper = "paper"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and end the process with its exit code; bad input is told without a traceback."""
    warnings.showwarning = _show_warning  # type: ignore[assignment]
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends a command as Ctrl-C does, with exit code 130
    try:
        app(args=None if arguments is None else list(arguments))
    except TimSearchError as error:
        _say("stopped" if isinstance(error, Interrupted) else "error", str(error))
        sys.exit(error.exit_code)
    except BrokenPipeError:
        # The reader of our output has gone (`tim-search tim DIR | head`); nothing is left to be told.
        sys.stderr.close()
        sys.exit(0)


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
    from tim_search import spec

    _note(f"Reading {path} and its cohort")
    _run(spec.load(path, allow_code=allow_code), out, address, as_json, allow_code)


@app.command(epilog="Example: tim-search demo --out runs/demo")
def demo(
    out: Annotated[Path, typer.Option("--out", help="Folder for everything the search writes.")] = Path("runs/demo"),
    as_json: AsJson = False,
) -> None:
    """Run the embedded search: SUPPORT2, six tasks of four problem classes, all their 63 subsets, a few minutes."""
    _note("Reading the embedded cohort SUPPORT2")
    _run(demo_search(), out, None, as_json)


def demo_search() -> SearchFile:
    """The search of `tim-search demo`, the same as jobs/demo.yaml."""
    from tim_search.spec import ExactDesign, SearchFile

    return SearchFile(cohort="support2", name="demo", tasks=DEMO_TASKS, design=ExactDesign(), blocks=3)


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
    from tim_search import spec

    found = spec.resolve(spec.load(path, allow_code=allow_code), out, allow_code=allow_code)
    from tim_search import display, forecast

    if pilot:
        from tim_search import runner

        _note("Training a pilot on this machine; its subsets are part of the search")
        with display.progress(_console) as tell:
            runner.pilot(found, tell)
    _note("Measuring what a training costs on this machine")
    content = forecast.forecast(found)
    if as_json:
        _print_json(content)
        return
    _output().print(display.plan(content))


@app.command(epilog="Example: tim-search status runs/demo")
def status(folder: Folder, as_json: AsJson = False) -> None:
    """Show how far a search is, from its ledger alone, also while it runs."""
    from tim_search import display, summary

    content = summary.open_search(folder).status()
    if as_json:
        _print_json(content)
        return
    planned = "decided as it goes" if content["planned"] is None else content["planned"]
    rows = {
        "search": f"{content['name']} ({content['cohort']}, {content['network']}, {content['design']['kind']})",
        "tasks": ", ".join(content["tasks"]),
        "blocks": ", ".join(f"seed {seed} fold {fold}" for seed, fold in content["blocks"]),
        "units planned": planned,
        "units trained": content["trained"],
        "units failed": content["failed"],
        "units waiting": content["waiting"],
        "finished": "yes" if content["finished"] else "no",
        "training time": display.duration(content["training_seconds"]),
        **({"stopping rule": content["stopping"]["reason"]} if content["stopping"] else {}),
        "last written": content["last_written"] or "never",
        "ledger": content["ledger"],
    }
    _output().print(display.pairs(rows))
    for reason, count in content["failures"].items():
        _say("warning", f"{count} units failed: {reason}")


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
    from tim_search import display, summary

    results = summary.open_search(folder)
    result = results.tim(method, size=size)  # type: ignore[arg-type]
    paths: tuple[Path, ...] = ()
    if source is not None:
        from tim_search import gallery

        paths = gallery.source(results, result, source)
    if as_json:
        cells = [summary.plain(row) for row in result.frame() if source in (None, row["source"])]
        content = {"label": result.label, "method": result.method, "notes": list(result.notes), "cells": cells}
        _print_json({**content, "figures": [str(path) for path in paths]})
        return
    console = _output()
    if source is not None:
        console.print(display.source(result, source), display.pairs({"figures": ", ".join(map(str, paths))}))
        return
    console.print(display.matrix(result, console.width))


@app.command(epilog="Example: tim-search expand runs/demo --rule paper --source hospdead")
def expand(
    folder: Folder,
    rule: Annotated[
        RuleName | None,
        typer.Option(help="When a combination counts as better: a higher score, or its lower bound above zero."),
    ] = None,
    beam: Annotated[int | None, typer.Option(help="Combinations kept at each size.")] = None,
    max_size: Annotated[int | None, typer.Option(help="Tasks in the largest combination.")] = None,
    source: Annotated[list[str] | None, typer.Option(help="A source task; may be given several times.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show the best combination of each source task: the greedy expansion, from the ledger alone."""
    from tim_search import display, expansion, summary

    results = summary.open_search(folder)
    options: dict[str, Any] = {"beam": beam, "max_size": max_size, "sources": source}
    chosen = results.greedy(rule.value if rule else None, **options)
    rows = [summary.plain(row) for row in expansion.rows(chosen.result(results.table))]
    sharing = chosen.sharing(results.table)
    if as_json:
        saved = {"shared": sharing.shared, "alone": sharing.total_alone, "saved": sharing.saved}
        _print_json({"rule": chosen.rule, "expansions": rows, "sharing": saved})
        return
    _output().print(display.expansions(rows, chosen.rule))
    _output().print(f"  Trainings: {sharing.shared} shared by all sources, {sharing.total_alone} without sharing.")


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
    from tim_search import deploy, display

    try:
        made = deploy.train(
            folder,
            source,
            rule=rule.value if rule else None,
            members=None if subset is None else [name.strip() for name in subset.split("+")],
            seeds=seeds,
            register=register,
            allow_code=allow_code,
            note=_note,
            warn=lambda text: _say("warning", text),
        )
    except KeyboardInterrupt:
        raise Interrupted(
            f"Stopped. Whether the test patients were read meanwhile is in {folder / 'test-readings.jsonl'}; a model "
            f"that is whole is in {folder / 'models'}."
        ) from None
    if as_json:
        names = {"source": made.source, "subset": list(made.subset), "folder": str(made.folder)}
        _print_json({**names, "scores": list(made.scores), "mlflow": made.published})
    else:
        _output().print(display.test_scores(made.scores))
        places = {
            "model": made.folder,
            "card": made.folder / "model_card.md",
            "predict": shlex.join(
                ["tim-search", "predict", str(made.folder), "rows.csv", *(["--allow-code"] if allow_code else [])]
            ),
            "serve": ("TIM_SEARCH_ALLOW_CODE=1 " if allow_code else "")
            + shlex.join(["mlflow", "models", "serve", "-m", str(made.folder), "--env-manager", "local"]),
            "MLflow": made.published.get("model_uri", "not published (see the warning above)"),
            **({"registered": made.published["registered"]} if "registered" in made.published else {}),
        }
        _output().print(display.places(places), soft_wrap=True, markup=False)
    if register is not None and made.missed:
        raise typer.Exit(FINISHED_WITH_FAILURES)


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
    from tim_search import deploy

    found = deploy.predict(deploy.load(model, tracking_uri, allow_code=allow_code), deploy.read_table(data, key))
    if out is not None:
        deploy.write_table(found, out)
        _note(f"{len(found)} predictions written to {out}")
    elif as_json:
        _print_json({"predictions": json.loads(found.to_json(orient="records"))})
    else:
        print(found.to_csv(index=False), end="")


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
    from tim_search import display, tracking

    destination = out or Path(f"{search}-heatmap")
    found = tracking.newest_heatmap(tracking_uri, search, destination)
    table = destination / "heatmap.csv"
    found.table.to_csv(table, index=False)
    figures = [str(path) for path in found.figures.values()]
    if as_json:
        _print_json(
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
    _output().print(display.pairs(rows))


@app.command(epilog="Example: tim-search check my-cohort/")
def check(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A search file, a cohort folder or a search folder.")],
    allow_code: AllowCode = False,
    as_json: AsJson = False,
) -> None:
    """Check a search file, a cohort folder or a search folder's ledger: every finding with its place and its fix."""
    findings = _findings(path, allow_code)
    errors = sum(finding.severity == "error" for finding in findings)
    if as_json:
        rows = [
            {"severity": one.severity, "place": one.place, "problem": one.problem, "fix": one.fix} for one in findings
        ]
        _print_json({"path": str(path), "errors": errors, "findings": rows})
    else:
        for finding in findings:
            _say(finding.severity, str(finding), _output())
        _output().print(f"{path}: {errors} errors, {len(findings) - errors} warnings", markup=False)
    if errors:
        raise typer.Exit(BadInput.exit_code)


@cohort_app.command("export", epilog="Example: tim-search cohort export support2 my-cohort")
def cohort_export(
    reference: Annotated[str, typer.Argument(metavar="REFERENCE", help="`support2`, or a cohort folder.")],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder to write; it must not exist yet.")],
) -> None:
    """Write a cohort as a folder of cohort.yaml and Parquet: the built-in one is a worked example of the format."""
    from model.cohort import open_cohort, write_cohort

    cohort = open_cohort(reference)
    write_cohort(cohort, folder)
    _output().print(
        f"{folder}: {len(cohort.sample_ids)} samples, {len(cohort.tasks)} tasks. "
        f"Check it with `tim-search check {folder}`.",
        markup=False,
    )


@cohort_app.command("synthetic", epilog="Example: tim-search cohort synthetic --like haim my-cohort")
def cohort_synthetic(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder to write; it must be new or empty.")],
    like: Annotated[Shape, typer.Option(help="The cohort whose shape is imitated.")] = Shape.haim,
    samples: Annotated[int, typer.Option(min=100, help="Number of samples.")] = 12586,
    patients: Annotated[
        int | None, typer.Option(min=50, help="Number of patients. Default: as many to a sample as the original has.")
    ] = None,
    tasks: Annotated[
        int,
        typer.Option(min=4, help="Number of tasks: one multiclass, one regression, one clustering, the rest binary."),
    ] = 44,
    seed: Annotated[int, typer.Option(min=0, help="Equal seeds and sizes give equal cohorts.")] = 0,
) -> None:
    """Write a synthetic cohort and the truth planted in it: which task helps or harms which (truth.json)."""
    from model import folder_writer, synthetic

    patients = round(samples * 5178 / 12586) if patients is None else patients
    if patients > samples:
        raise BadInput(
            f"--patients: expected at most as many as there are samples ({samples}), got {patients}. A patient has one "
            "sample or several."
        )
    folder_writer.check_free(folder)
    _note(f"Generating {samples} samples of {patients} patients with {tasks} tasks, in the shape of {like.value}")
    cohort, truth = synthetic.haim_like(samples, patients, seed, n_binary=tasks - 3)
    _note(f"Writing {folder}")
    synthetic.write(cohort, truth, folder)
    _output().print(
        f"{folder}: {len(cohort)} samples, {len(cohort.tasks)} tasks; truth.json says which task helps or harms which. "
        f"Check it with `tim-search check {folder}`.",
        markup=False,
    )


def _run(file: SearchFile, out: Path | None, address: str | None, as_json: bool, allow_code: bool = False) -> None:
    # While training is under way the search has handlers of its own; before and after it, a signal ends it here.
    try:
        _run_to_its_end(file, out, address, as_json, allow_code)
    except KeyboardInterrupt:
        raise Interrupted(
            "Stopped outside training: the ledger holds all that was trained. Run the same command again to go on."
        ) from None


def _run_to_its_end(file: SearchFile, out: Path | None, address: str | None, as_json: bool, allow_code: bool) -> None:
    from tim_search import display, plans, spec

    found = spec.resolve(file, out, allow_code=allow_code)
    units = plans.planned_units(found.plan, found.blocks)
    amount = "as many units as the search turns out to need" if units is None else f"{units} units"
    _note(f"Search {found.file.name}: {len(found.tasks)} tasks, {amount}, into {found.out}")
    # Only now: a mistake in the search file should not wait for these imports.
    from tim_search import runner

    place = address or found.file.address
    _note(f"Connecting to Ray at {place}" if place else "Starting Ray on this machine (up to half a minute)")
    with display.progress(_console) as tell:
        finished = runner.run_search(found, address, tell, warn=lambda text: _say("warning", text))
    _tell_end(found, finished, as_json)
    if finished.outcome.failed:
        raise typer.Exit(FINISHED_WITH_FAILURES)


def _tell_end(found: ResolvedSearch, finished: Finished, as_json: bool) -> None:
    from tim_search import display, summary, tracking

    results, outcome = finished.results, finished.outcome
    content = summary.report(results)
    uri = tracking.shown(found.tracking_uri)
    places = {
        "trained": f"{outcome.trained} units in {display.duration(outcome.seconds)}, {outcome.failed} of them failed; "
        f"{outcome.reused} were in the ledger already",
        **({"memory": f"{outcome.peak_bytes / 2**20:,.0f} MiB at most a worker"} if outcome.peak_bytes else {}),
        "ledger": results.ledger.path,
        "figures": results.folder / "figures",
        "tables": results.folder / "tables",
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
        where = {"folder": str(results.folder), "ledger": str(results.ledger.path), "tracking_uri": uri}
        costs = {"seconds": outcome.seconds, "peak_bytes": outcome.peak_bytes}
        _print_json({**content, "units": units, **costs, **where, **files})
        return
    _output().print(display.report(content))
    _output().print(display.places(places), soft_wrap=True, markup=False)
    if outcome.failed:
        _say("warning", f"{outcome.failed} units failed; `tim-search status {results.folder}` tells why.")


def _findings(path: Path, allow_code: bool) -> list[Finding]:
    """Everything there is to say about a search file, a cohort folder or a search folder."""
    if path.is_dir() and (path / "search.json").exists():
        from tim_search import summary

        return summary.open_search(path).ledger.check()
    if path.is_dir() or str(path) == "support2":
        from model.cohort import check_cohort

        return check_cohort(str(path))
    from tim_search import spec

    return spec.check(path, allow_code=allow_code)


# ------------------------------------------------------------------------------------------------ output

_python_shows = warnings.showwarning
_console = Console(stderr=True, highlight=False)


def _output() -> Console:
    """The standard output as it is now; tests and pipes exchange it."""
    return Console(highlight=False)


def _note(text: str) -> None:
    """A line about what is being done, for people who wait."""
    _console.print(text, style="dim", markup=False)


def _say(kind: str, text: str, console: Console | None = None) -> None:
    colour = {"error": "bold red", "warning": "bold yellow"}.get(kind, "bold")
    (console or _console).print(Text.assemble((f"{kind}:", colour), " ", text), soft_wrap=True)


def _show_warning(message: Warning | str, category: type[Warning], *where: Any) -> None:
    """Warnings of this product as a line of their own; those of others as Python shows them."""
    if issubclass(category, UserWarning):
        _say("warning", str(message))
    else:
        _python_shows(message, category, *where)


def _print_json(content: Mapping[str, Any]) -> None:
    print(json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False))
