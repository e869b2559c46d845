"""`tim-search cohort`: begin, make, export and imitate cohort folders.

Knows the cohorts' side of the product alone: nothing here needs a search, its ledger or a network.
"""

from __future__ import annotations

import functools
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from tim_search.cli import console
from tim_search.cli.options import AsJson
from tim_search.types import BadInput, counted

app = typer.Typer(help="Cohort folders.", no_args_is_help=True)


class Shape(StrEnum):
    """Cohorts that can be imitated."""

    haim = "haim"
    flexcare = "flexcare"


class Modalities(StrEnum):
    """How HAIM's 11 sources become modalities."""

    sources = "sources"
    paper = "paper"


@app.command(epilog="Example: tim-search cohort export support2 my-cohort")
def export(
    reference: Annotated[
        str, typer.Argument(metavar="REFERENCE", help="`support2`, `diabetes130`, or a cohort folder.")
    ],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder to write; it must not exist yet.")],
) -> None:
    """Write a cohort as a folder of cohort.yaml and Parquet: a built-in one is a worked example of the format."""
    from model.sources.opening import open_cohort, write_cohort

    cohort = open_cohort(reference)
    write_cohort(cohort, folder)
    console.show(
        f"{folder}: {counted(len(cohort.sample_ids), 'sample')}, {counted(len(cohort.tasks), 'task')}. "
        f"Check it with `tim-search check {folder}`."
    )


@app.command(
    epilog="Example: tim-search cohort haim --embeddings cxr_ic_fusion_1103.csv --mimic mimiciv/2.2 --out haim",
)
def haim(
    embeddings: Annotated[Path, typer.Option(help="HAIM's embedding table, cxr_ic_fusion_1103.csv.")],
    out: Annotated[Path, typer.Option(help="The folder to write; it must be new or empty.")],
    keys: Annotated[
        Path | None,
        typer.Option(help="HAIM's haim_mimiciv_key_ids.csv. Default: beside the embeddings, or in --mimic."),
    ] = None,
    mimic: Annotated[
        Path | None,
        typer.Option(help="Folder of MIMIC-IV, for the diagnoses: hosp/diagnoses_icd.csv.gz, hosp/admissions.csv.gz."),
    ] = None,
    modalities: Annotated[
        Modalities, typer.Option(help="One modality for each of the 11 sources, or the 4 of the M3H paper.")
    ] = Modalities.sources,
    as_json: AsJson = False,
) -> None:
    """Write HAIM-MIMIC-MM as a cohort folder, from your own credentialed files: 45 tasks, patients by the key file."""
    from model.sources import haim as building
    from tim_search.cli import cohort_tables
    from tim_search.cli.progress import steps

    if mimic is None:
        console.note("Without --mimic there are no diagnoses and no hospital-acquired infection")
    with steps() as tell:
        manifest = building.build(
            embeddings, out, keys=keys, mimic=mimic, grouped=modalities is Modalities.paper, tell=tell
        )
    summary = (
        f"{out}: {counted(manifest['steps'][-1]['rows'], 'sample')}, "
        f"{counted(len(manifest['tasks']) + 1, 'task')}; manifest.json tells "
        f"more. Check it with `tim-search check {out}`."
    )
    console.answer(as_json, lambda: manifest, lambda: (cohort_tables.haim(manifest), summary))


class Split(StrEnum):
    """Who trains and who is left for the confirmation."""

    dealt = "dealt"
    meds = "meds"


@app.command(epilog="Example: tim-search cohort meds mimic-meds --tasks outcomes --out my-cohort")
def meds(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="A MEDS folder: data/**/*.parquet and metadata/.")],
    tasks: Annotated[
        Path, typer.Option(help="Folder of outcomes: ACES configs (NAME.yaml), MEDS label tables (NAME.parquet).")
    ],
    out: Annotated[Path, typer.Option(help="The folder to write; it must be new or empty.")],
    features: Annotated[
        Path | None, typer.Option(help="What to make of the events (YAML; docs/events.md). Default: a bit of all.")
    ] = None,
    split: Annotated[
        Split, typer.Option(help="dealt: subjects are dealt out; meds: held_out of metadata/subject_splits.parquet.")
    ] = Split.dealt,
    as_json: AsJson = False,
) -> None:
    """Write a cohort folder from hospital events in the MEDS form: a sample a subject and prediction time."""
    from model.sources.events import building
    from tim_search.cli import cohort_tables
    from tim_search.cli.progress import steps

    with steps() as tell:
        manifest = building.build(data, tasks, out, features_file=features, meds_split=split is Split.meds, tell=tell)
    summary = (
        f"{out}: {counted(manifest['steps'][-1]['rows'], 'sample')}, {counted(len(manifest['tasks']), 'task')}; "
        f"manifest.json tells more. Check it with `tim-search check {out}`."
    )
    console.answer(as_json, lambda: manifest, lambda: (cohort_tables.events(manifest), summary))


@app.command(epilog="Example: tim-search cohort embed my-cohort --modality notes --model models/biobert --tokens 512")
def embed(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A cohort folder with references/NAME.parquet.")],
    modality: Annotated[str, typer.Option(metavar="NAME", help="Its texts or images, and the modality they become.")],
    model: Annotated[
        str,
        typer.Option(
            metavar="NAME_OR_PATH",
            help="A folder with a model as transformers saves it; another name is downloaded from the Hub.",
        ),
    ],
    tokens: Annotated[
        int | None,
        typer.Option(min=1, help="A sequence of so many tokens at most (FlexCare: 512). Default: one pooled vector."),
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Texts or images that go through the model at a time.")] = 8,
    device: Annotated[str, typer.Option(help="cpu, cuda or auto.")] = "auto",
    as_json: AsJson = False,
) -> None:
    """Embed notes or images with a frozen model: each once, in half precision, and on where an earlier run stopped."""
    from model.data.embedding import Embedding
    from model.data.embedding import embed as embedded
    from model.training.trainer import device_named

    wanted = Embedding(modality, model, tokens, batch, str(device_named(device)))
    done = embedded(folder, wanted, console.note)
    console.answer(
        as_json,
        lambda: done,
        lambda: [
            f"{folder}: {modality} of {done['samples']} samples, {done['embedded']} embedded. "
            f"Check it with `tim-search check {folder}`."
        ],
    )


@app.command(epilog="Example: tim-search cohort init stays.csv --out my-cohort")
def init(
    table: Annotated[
        Path | None, typer.Argument(metavar="TABLE", help="CSV, Excel, Parquet, Stata, SAS, SPSS or JSON lines.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The folder to write. Default: the name of the table.")] = None,
    edited: Annotated[
        Path | None,
        typer.Option("--from", help="An edited columns.csv; without a TABLE its own folder is described anew."),
    ] = None,
    sql: Annotated[
        str, typer.Option(help="Instead of TABLE, a query of the database in TIM_SEARCH_DATABASE_URL.")
    ] = "",
    sheet: Annotated[str, typer.Option(help="Of a workbook. Default: the first one with a table.")] = "",
    encoding: Annotated[str, typer.Option(help="Of a text, such as cp1250. Default: found.")] = "",
    delimiter: Annotated[str, typer.Option(help="Of a text. Default: found.")] = "",
    as_json: AsJson = False,
) -> None:
    """Begin a cohort folder from a table of your own: cohort.yaml with guesses and columns.csv, to edit."""
    from model.sources import own_table
    from model.sources.tables_other import Query
    from tim_search.cli import cohort_tables

    if (table and sql) or not (table or sql or edited):
        raise BadInput("cohort init: expected a TABLE, --sql or --from, got none or two tables. Name one.")
    if edited and out and not (table or sql):
        table = edited.parent / "samples.parquet"
    source = Query.from_environment(sql) if sql else table
    if edited and source is None:
        folder = edited.parent
        guess, spare = own_table.edit(edited)
        console.note(f"What was there before is kept as {' and '.join(path.name for path in spare)}")
    else:
        assert source is not None  # checked above
        folder = out or Path(source.name.split(".")[0])
        console.note(f"Reading {table or 'the answer to --sql'}")
        options = {"sheet": sheet, "encoding": encoding, "delimiter": delimiter.replace("\\t", "\t")}
        guess = own_table.init(source, folder, edits=edited, tell=console.note, **options)
    if guess.reading is not None:
        console.note(guess.reading.line)
    modalities = {name: columns for name, (_, columns) in guess.modalities.items()}
    console.answer(
        as_json,
        lambda: {
            "folder": folder,
            "sample_id": guess.sample_id,
            "patient_id": guess.patient_id,
            "modalities": modalities,
            "tasks": {name: {"column": task.column, "kind": task.kind} for name, task in guess.tasks.items()},
            "left_out": guess.left_out,
            "columns": guess.rows,
        },
        lambda: [
            cohort_tables.columns(guess.rows),
            f"{folder}/cohort.yaml: {counted(sum(map(len, modalities.values())), 'input')} in "
            f"{len(modalities)} modalit{'y' if len(modalities) == 1 else 'ies'}, "
            f"{counted(len(guess.tasks), 'task')} with labels; columns left out: {len(guess.left_out)}. "
            f"Read it and mend it, or edit {folder}/columns.csv and run "
            f"`tim-search cohort init --from {folder}/columns.csv`; then `tim-search check {folder}`.",
        ],
    )


@app.command(epilog="Example: tim-search cohort mimic --mimic mimiciv/3.1 --out mimic")
def mimic(
    out: Annotated[Path, typer.Option(help="The folder to write; one that this command has begun is taken up again.")],
    mimic: Annotated[
        Path | None, typer.Option(help="Folder of MIMIC-IV with hosp/ and icu/, as PhysioNet gives it.")
    ] = None,
    meds: Annotated[
        Path | None, typer.Option(help="Instead: a MEDS folder that was converted from MIMIC before.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write the tasks of FlexCare and M3H as two cohort folders, from raw MIMIC-IV: converter, tasks and features."""
    from model.sources.events import mimic as building
    from tim_search.cli import cohort_tables
    from tim_search.cli.progress import steps

    with steps() as tell:
        manifest = building.build(mimic, meds, out, tell=tell)
    cohorts = " and ".join(str(out / paper["cohort"]) for paper in manifest["papers"].values())
    summary = f"{cohorts} are cohort folders; {out / 'manifest.json'} tells more. Check each with `tim-search check`."
    console.answer(as_json, lambda: manifest, lambda: (cohort_tables.mimic(manifest), summary))


@app.command(epilog="Example: tim-search cohort synthetic --like flexcare my-cohort")
def synthetic(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder to write; it must be new or empty.")],
    like: Annotated[Shape, typer.Option(help="The cohort whose shape is imitated.")] = Shape.haim,
    samples: Annotated[
        int | None, typer.Option(min=100, help="Number of samples. Default: 12586 (haim), 3000 (flexcare).")
    ] = None,
    patients: Annotated[
        int | None,
        typer.Option(min=50, help="Number of patients. Default: as many to a sample as HAIM has; half (flexcare)."),
    ] = None,
    tasks: Annotated[
        int | None,
        typer.Option(
            min=4, help="haim: number of tasks (44): one multiclass, one regression, one clustering, the rest binary."
        ),
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="flexcare: steps of the longest series (24).")] = None,
    side: Annotated[int | None, typer.Option(min=4, help="flexcare: side of the square image (16).")] = None,
    tokens: Annotated[int | None, typer.Option(min=1, help="flexcare: tokens of the longest note (12).")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Equal seeds and sizes give equal cohorts.")] = 0,
) -> None:
    """Write a synthetic cohort and the truth planted in it: which task helps or harms which (truth.json)."""
    from model.cohorts import folder_writer
    from model.sources import synthetic, synthetic_incomplete

    strange = {"--steps": steps, "--side": side, "--tokens": tokens} if like is Shape.haim else {"--tasks": tasks}
    for option, given in strange.items():
        if given is not None:
            raise BadInput(f"{option}: expected nothing with --like {like.value}, got {given}. Leave it out.")
    samples = samples or (12586 if like is Shape.haim else 3000)
    if patients is None:
        patients = round(samples * 5178 / 12586) if like is Shape.haim else samples // 2
    if patients > samples:
        raise BadInput(
            f"--patients: expected at most as many as there are samples ({samples}), got {patients}. A patient has one "
            "sample or several."
        )
    folder_writer.check_free(folder)
    n_tasks = (tasks or 44) if like is Shape.haim else len(synthetic_incomplete.TABLE_2)
    console.note(
        f"Generating {samples} samples of {patients} patients with {n_tasks} tasks, in the shape of {like.value}"
    )
    if like is Shape.haim:
        cohort, planted = synthetic.haim_like(samples, patients, seed, n_binary=n_tasks - 3)
        write = functools.partial(synthetic.write, cohort, planted)
    else:
        cohort, truth = synthetic_incomplete.incomplete(
            samples, patients, seed, steps=steps or 24, side=side or 16, tokens=tokens or 12
        )
        write = functools.partial(synthetic_incomplete.write, cohort, truth)
    console.note(f"Writing {folder}")
    write(folder)
    console.show(
        f"{folder}: {len(cohort)} samples, {len(cohort.tasks)} tasks; truth.json says which task helps or harms which. "
        f"Check it with `tim-search check {folder}`."
    )
