"""Commands about models: confirm, group, train, inspect, predict, extend."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tim_search.cli import console
from tim_search.cli.options import Address, AllowCode, AsJson, Folder, RuleName, task_names
from tim_search.cli.root import FINISHED_WITH_FAILURES, app
from tim_search.gates.plain import plain
from tim_search.types import Subset, joined, some

if TYPE_CHECKING:
    from tim_search.app.confirmer import Confirmation
    from tim_search.app.deploy import Trained
    from tim_search.results.grouping import Grouping


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
    on: Annotated[
        str | None,
        typer.Option(
            "--on",
            metavar="COHORT",
            help="Another cohort (folder, or table as the search's): judge models trained here on its patients.",
        ),
    ] = None,
    address: Address = None,
    allow_code: AllowCode = False,
    as_json: AsJson = False,
) -> None:
    """Put the chosen combinations to the test: fresh seeds, untouched test patients, against each task alone.

    With --on the patients are those of another cohort, all of them: discrimination, calibration, decision curves.
    """
    from tim_search.app import confirmer
    from tim_search.cli.progress import progress

    console.note(f"Opening {folder} and its cohort")
    given = task_names(subset)
    if on is not None:
        _judge_elsewhere(
            folder, on, rule.value, as_json, sources=source, given=given, seeds=seeds, draws=draws, groups=by or (),
            address=address, allow_code=allow_code,
        )  # fmt: skip
        return
    with progress() as tell:
        confirmation = confirmer.confirm(
            folder, rule.value, sources=source, given=given, seeds=seeds, draws=draws, groups=by or (),
            address=address, allow_code=allow_code, on_event=tell, warn=console.warn,
        )  # fmt: skip
    _show_confirmation(confirmation, as_json)
    failed = confirmation.outcome.failed if confirmation.outcome else 0
    if failed:
        console.warn(f"{failed} units failed; `tim-search status {folder}` does not count them, the table does.")
        raise typer.Exit(FINISHED_WITH_FAILURES)


def _show_confirmation(confirmation: Confirmation, as_json: bool) -> None:
    from tim_search.cli import model_tables
    from tim_search.cli.tables import places

    rows = plain(confirmation.rows)
    console.answer(
        as_json,
        lambda: {
            "confirmed": rows,
            "notes": confirmation.notes,
            "table": confirmation.table,
            "figures": confirmation.figures,
        },
        lambda: (
            model_tables.confirmation(rows, confirmation.notes),
            places({"table": confirmation.table, "figures": confirmation.results.folder / "figures"}),
        ),
    )


def _judge_elsewhere(folder: Path, on: str, rule: Any, as_json: bool, **options: Any) -> None:
    """`confirm --on`: the models of a search on another cohort's patients."""
    from tim_search.app import external
    from tim_search.cli import model_tables
    from tim_search.cli.tables import places

    with console.interrupted(
        f"Stopped. Whether the patients of {on} were read meanwhile is in {folder / 'test-readings.jsonl'}."
    ):
        done = external.validate(folder, on, rule, note=console.note, warn=console.warn, **options)
    record, files = done.record, {"table": done.table, "figures": done.table.parent.parent / "figures"}
    console.answer(
        as_json,
        lambda: {
            "cohort": record.cohort, "rows": record.rows, "notes": record.notes, "table": done.table,
            "figures": done.figures,
        },
        lambda: (model_tables.elsewhere(record.cohort, record.whole, record.notes), places(files)),
    )  # fmt: skip


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
    from tim_search.cli import model_tables
    from tim_search.cli.tables import places
    from tim_search.report import gallery
    from tim_search.results import grouping, opened

    options: dict[str, Any] = {"max_size": max_size, "objective": objective.value, "gain": gain.value}
    if train:
        choice = _trained_choice(folder, address, models, options, allow_code)
    else:
        choice = opened.open_search(folder).group(models, **options)
    results = opened.open_search(folder)
    content = {"search": results.manifest.name, **grouping.record(choice)}
    paths = {"figure": gallery.front(results, choice), "record": opened.write_group(results, content)}
    console.answer(as_json, lambda: {**content, **paths}, lambda: (model_tables.grouping(content), places(paths)))


def _trained_choice(
    folder: Path, address: str | None, models: int | None, options: Mapping[str, Any], allow_code: bool
) -> Grouping:
    from tim_search import config
    from tim_search.cli.progress import progress
    from tim_search.results import opened

    opened.open_search(folder)  # a folder that is none is told before the cohort is read
    console.note(f"Reading {folder / 'search.yaml'} and its cohort")
    search = config.resolve(config.load(folder / "search.yaml", allow_code=allow_code), allow_code=allow_code)
    from tim_search.app import runner

    def announce(choice: Grouping, todo: Sequence[Subset]) -> None:
        console.note(
            f"A gain of {choice.choice.total:+.3f} is expected of a choice that rests on {len(todo)} subsets not "
            f"trained yet: {some(list(map(joined, todo)))}"
        )

    with (
        console.interrupted("Stopped: the ledger holds all that was trained. The same command goes on."),
        progress() as tell,
    ):
        return runner.train_choice(search, lambda results: results.group(models, **options), address, tell, announce)


@app.command(epilog="Example: tim-search train runs/demo --source hospdead --register hospital-death")
def train(
    folder: Folder,
    source: Annotated[str, typer.Option(help="The task to predict; its best combination is trained.")],
    rule: Annotated[
        RuleName | None, typer.Option(help="Rule that chooses, in place of the verdict (see expand).")
    ] = None,
    subset: Annotated[
        str | None, typer.Option(help="The combination itself, such as hospdead+dnr_later, instead of the chosen one.")
    ] = None,
    despite: Annotated[
        bool, typer.Option("--despite", help="Train the combination although a confirmation refuted it.")
    ] = False,
    seeds: Annotated[int, typer.Option(min=1, help="Networks to train; their predictions are averaged.")] = 1,
    register: Annotated[str | None, typer.Option(help="Name in MLflow's model registry.")] = None,
    allow_code: AllowCode = False,
    as_json: AsJson = False,
) -> None:
    """Train the chosen combination on the whole training part, score it on the test patients, and publish the model.

    The reading of the test patients is written to DIR/test-readings.jsonl first.
    """
    from tim_search.app import deploy
    from tim_search.cli import model_tables
    from tim_search.cli.tables import places

    with console.interrupted(
        f"Stopped. Whether the test patients were read meanwhile is in {folder / 'test-readings.jsonl'}; a model "
        f"that is whole is in {folder / 'models'}."
    ):
        model = deploy.train(
            folder,
            source,
            rule=rule.value if rule else None,
            members=task_names(subset),
            despite=despite,
            seeds=seeds,
            register=register,
            allow_code=allow_code,
            note=console.note,
            warn=console.warn,
        )
    console.answer(
        as_json,
        lambda: {
            "source": model.source,
            "subset": model.subset,
            "folder": model.folder,
            "scores": model.scores,
            "mlflow": model.published,
        },
        lambda: (model_tables.test_scores(model.scores), places(_how_to_use(model, allow_code))),
    )
    if register is not None and model.missed:
        raise typer.Exit(FINISHED_WITH_FAILURES)


def _how_to_use(model: Trained, allow_code: bool) -> dict[str, Any]:
    """Where a model lies, and the commands that use it."""
    predict = ["tim-search", "predict", str(model.folder), model.table, *(["--allow-code"] if allow_code else [])]
    serve = ["mlflow", "models", "serve", "-m", str(model.folder), "--env-manager", "local"]
    published = model.published
    return {
        "model": model.folder,
        "card": model.folder / "model_card.md",
        "predict": shlex.join(predict),
        "serve": ("TIM_SEARCH_ALLOW_CODE=1 " if allow_code else "") + shlex.join(serve),
        "MLflow": published.get("model_uri", "not published (see the warning above)"),
        **({"registered": published["registered"]} if "registered" in published else {}),
    }


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
    """Look inside the network of one subset: which task draws on which; experts, turns, representations.

    M3H's attention is read from the ledger; for FlexCare the subset is trained again, and its tasks alone. No test
    patient is read. Tables and figures go to DIR/inside.
    """
    from tim_search.app import inside
    from tim_search.cli import model_tables
    from tim_search.cli.tables import places
    from tim_search.report.figures import inside as inside_figures

    look = inside.look(folder, task_names(subset), seeds, allow_code=allow_code, note=console.note)
    figures = inside_figures.draw_all(look.folder, look.tables, look.order, joined(look.subset))
    kind = "attention" if "attention" in look.tables else "scores"
    rows = plain(look.tables[kind].to_dict("records"))
    shown = model_tables.attention if kind == "attention" else model_tables.inside
    console.answer(
        as_json,
        lambda: {"subset": look.subset, "order": look.order, kind: rows, "figures": figures},
        lambda: (shown(rows), places({"tables": look.folder, **figures})),
    )


@app.command(epilog="Example: tim-search predict runs/demo/models/hospdead-1 rows.csv --id patient --out said.csv")
def predict(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A folder that train wrote, or models:/NAME/VERSION in MLflow.")
    ],
    data: Annotated[Path, typer.Argument(metavar="DATA", help="Rows to predict, as `cohort init` reads tables.")],
    keys: Annotated[
        list[str] | None, typer.Option("--id", help="Column that names the rows and is no input; repeatable.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="CSV or .parquet file. Default: CSV to the output.")] = None,
    ignore_extra: Annotated[bool, typer.Option("--ignore-extra", help="Leave out columns that nobody knows.")] = False,
    sheet: Annotated[str, typer.Option(help="Of a workbook. Default: the first one with a table.")] = "",
    encoding: Annotated[str, typer.Option(help="Of a text, such as cp1250. Default: found.")] = "",
    delimiter: Annotated[str, typer.Option(help="Of a text. Default: found.")] = "",
    tracking_uri: Annotated[str | None, typer.Option(help="MLflow, for models:/ and runs:/ URIs.")] = None,
    allow_code: AllowCode = False,
    as_json: AsJson = False,
) -> None:
    """Predict new rows with a trained model: columns in any order, modalities may be missing.

    A table is taken as it was exported: it is read by the rules of the cohort, and columns that the cohort has and the
    model does not read are left out.
    """
    from model.trained.new_rows import read_table
    from tim_search.app import model_folder, prediction

    opened = model_folder.load(model, tracking_uri, allow_code=allow_code)
    ids = keys or []
    prediction.check(opened, ids, out, (data, model))
    rows = read_table(data, opened.inputs, ids, sheet=sheet, encoding=encoding, delimiter=delimiter)
    predictions = prediction.predict(opened, rows, ignore_extra=ignore_extra)
    if out is not None:
        prediction.write_table(predictions, out)
        console.note(f"{len(predictions)} predictions written to {out}")
        if as_json:
            console.print_json({"rows": len(predictions), "file": out})
    elif as_json:
        console.print_json({"predictions": json.loads(predictions.to_json(orient="records"))})
    else:
        console.print_data(predictions.to_csv(index=False))


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
    from tim_search.cli import model_tables
    from tim_search.cli.tables import places

    extended = extension.extend(
        model,
        task,
        shares=labels or extension.SHARES,
        seeds=seeds,
        test=test,
        cohort=cohort,
        out=out,
        note=console.note,
    )
    model_at = {"model": extended.folder} if extended.folder else {}
    console.answer(
        as_json,
        lambda: {
            "task": extended.task,
            "table": extended.table,
            "trainings": extended.rows,
            "notes": extended.notes,
            "file": extended.file,
            "folder": extended.folder,
        },
        lambda: (
            model_tables.extension(extended.task, extended.table, extended.notes),
            places({"trainings": extended.file, **model_at}),
        ),
    )
