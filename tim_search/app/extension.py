"""A trained model extended to a new task: what its start is worth, measured, and the model with the task added.

`extend` compares the model's start with a start from scratch, seed by seed, writes down what each reached, and, where
asked, leaves the extended model in a folder that `predict` and MLflow take.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tim_search import config
from tim_search.app import model_folder
from tim_search.app.opening import check_named, check_seeds
from tim_search.app.publishing import write_table
from tim_search.gates import small_cells, told_counts
from tim_search.gates.plain import number, plain
from tim_search.results import readings
from tim_search.types import FINAL_FOLD, BadInput, Interrupted

if TYPE_CHECKING:
    from model.cohorts.cohort import Cohort
    from model.trained.deployed import DeployedModel

#: Shares of the labels where none are named (FlexCare paper, Table 5).
SHARES = (0.01, 1.0)


@dataclass(frozen=True)
class Extension:
    """What came of it.

    Attributes:
        task: the new one.
        rows: one a training and metric, see `model.trained.extending.Reached`.
        table: one a share and metric: means and SDs over the seeds, see `summarise`.
        file: the CSV file with `rows`.
        folder: of the extended model; None where none was asked for.
        notes: what the reader must know, in words.
    """

    task: str
    rows: tuple[dict[str, Any], ...]
    table: tuple[dict[str, Any], ...]
    file: Path
    folder: Path | None
    notes: tuple[str, ...]


def extend(
    folder: str | Path,
    task: str,
    *,
    shares: Sequence[float] = SHARES,
    seeds: int = 5,
    test: bool = False,
    cohort: str | None = None,
    out: Path | None = None,
    note: Callable[[str], None] = lambda text: None,
) -> Extension:
    """Measure what a model's start is worth to a task it has not seen; with `out` add the task to the model.

    Args:
        folder: of a model that `deploy.train` wrote.
        shares: of the training patients with a label, whose labels are given.
        seeds: trainings a start and share; seed s holds out fold s, modulo the number of folds.
        test: judge on the test patients instead, which is logged in the search's folder first.
        cohort: with the new task; by default that of the search in whose folder the model lies.
        out: a new folder for the extended model.
        note: takes lines about what is being done.

    Raises:
        BadInput: a model or a task that do not go together, shares outside 0 to 1, a folder that is in the way.
        Interrupted: what the seeds before reached is in the file.
    """
    from model.trained.extending import compare, prepare
    from model.trained.extending import extend as fit

    check_named(task=task, cohort=cohort)
    folder = Path(folder)
    above = folder.resolve().parent.parent
    search = above if (above / "search.yaml").is_file() else None
    _check(folder, search, shares, seeds, test, cohort, out)
    model = _load(folder, out)
    note(f"Reading the cohort {cohort or model.about['cohort']}")
    seen = prepare(model, _open(search, cohort, (*model.tasks, task)), task)
    file = _file(folder, task)
    rows: list[dict[str, Any]] = []
    place, small = None, model.about.get("small_cells", 0)
    record, telling = _record(seen, small), config.telling(seen, small)
    if test and search is not None:
        readings.log(search, "extend", model=folder.name, task=task, seeds=list(range(seeds)))
    try:
        for seed in range(seeds):
            fold = FINAL_FOLD if test else seed % seen.split.n_folds
            note(f"Training {task} from both starts, seed {seed}, " + ("test patients" if test else f"fold {fold}"))
            reached = [{**plain(asdict(row)), "task": task} for row in compare(model, seen, task, shares, seed, fold)]
            rows += [told_counts.of_extension(row, task, record, small) for row in telling.rows(reached)]
            write_table(file, _hidden(rows, small), "Bring the model to a folder you may write to.")
        table = summarise(rows)
        if out is not None:
            note(f"Adding {task} to the model")
            place = _save(fit(model, seen, task), seen, task, table, search if test else None, out, record)
    except KeyboardInterrupt:
        done = f"The seeds that were done are in {file}." if rows else "No seed was done."
        raise Interrupted(f"Stopped. {done}") from None
    every, short = (tuple(_hidden(each, small)) for each in (rows, table))
    return Extension(task, every, short, file, place, tuple(_notes(model, seen, task, test)))


def _load(folder: Path, out: Path | None) -> DeployedModel:
    """The model; raises BadInput where an extended one is to be written and this one was not judged."""
    model = model_folder.load(folder)
    if out is not None and "scores" not in model.about:
        raise BadInput(f"{folder}: has no test scores to put on a card. Name a folder that `tim-search train` wrote.")
    return model


def _record(cohort: Cohort, small: int) -> dict[str, Any]:
    """What may be told of a cohort."""
    from model.cohorts.manifest import describe

    return small_cells.of_cohort(describe(cohort), small)


def _hidden(rows: Sequence[dict[str, Any]], small: int) -> list[dict[str, Any]]:
    """Rows whose counts of samples and patients may be told."""
    return [{**row, **{key: small_cells.near(row[key], small) for key in ("rows", "patients")}} for row in rows]


def summarise(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of `Reached` as one row a share and metric, the primary metric first.

    Keys: share, metric, primary, rows and patients (least of the seeds), seeds (that reached a score from both starts),
    and of each start and of the difference (pretrained - scratch, seed by seed) the mean and the SD over those seeds.
    """
    table = []
    keys = sorted({(row["share"], not row["primary"], row["metric"]) for row in rows})
    for share, secondary, metric in keys:
        here = [row for row in rows if (row["share"], row["metric"]) == (share, metric)]
        by = {(row["start"], row["seed"]): row["value"] for row in here}
        both = [
            (by["pretrained", seed], by["scratch", seed])
            for seed in sorted({row["seed"] for row in here})
            if by.get(("pretrained", seed)) is not None and by.get(("scratch", seed)) is not None
        ]
        row: dict[str, Any] = {
            "share": share, "metric": metric, "primary": not secondary,
            "rows": min(row["rows"] for row in here), "patients": min(row["patients"] for row in here),
            "seeds": len(both),
        }  # fmt: skip
        columns = {
            "pretrained": [pretrained for pretrained, _ in both],
            "scratch": [scratch for _, scratch in both],
            "difference": [pretrained - scratch for pretrained, scratch in both],
        }
        for name, values in columns.items():
            row[name] = statistics.fmean(values) if values else None
            row[f"{name}_sd"] = statistics.stdev(values) if len(values) > 1 else None
        table.append(row)
    return table


def _check(
    folder: Path,
    search: Path | None,
    shares: Sequence[float],
    seeds: int,
    test: bool,
    cohort: str | None,
    out: Path | None,
) -> None:
    if wrong := [share for share in shares if not 0 < share <= 1]:
        raise BadInput(f"--labels: expected shares above 0 and up to 1, got {wrong[0]:g}. 0.01 is one in a hundred.")
    check_seeds(seeds, 5)
    if out is not None and out.exists():
        raise BadInput(f"--out: {out} is there already. Name a new folder.")
    if search is None and cohort is None:
        raise BadInput(
            f"{folder}: does not lie in a search's folder, which would say its cohort. Name the cohort with --cohort."
        )
    if search is None and test:
        raise BadInput(
            f"{folder}: does not lie in a search's folder, where readings of the test patients are logged, and without "
            "the log they may not be read. Name the model in DIR/models."
        )


def _file(folder: Path, task: str) -> Path:
    """Where the trainings are written, beside the model: a new name each time, for an earlier table is not lost."""
    place = folder.resolve()
    name = f"{place.name}-extend-{task}"
    number = 1
    while (file := place.parent / f"{name}-{number}.csv").exists():
        number += 1
    return file


def _open(search: Path | None, cohort: str | None, tasks: Sequence[str]) -> Cohort:
    from model.sources.opening import open_cohort

    if cohort is None:
        assert search is not None
        cohort = config.load(search / "search.yaml").cohort
    return open_cohort(cohort, tasks)


def _save(
    model: DeployedModel,
    cohort: Cohort,
    task: str,
    table: Sequence[dict[str, Any]],
    search: Path | None,
    out: Path,
    record: dict[str, Any],
) -> Path:
    """Write the extended model; its new task's score is that of the test patients where those were asked for."""
    from model.trained.final_training import evaluate

    metric = cohort.tasks[task].metric
    best = [row for row in table if row["primary"]][-1]
    facts = dict(model.about)
    small = facts.get("small_cells", 0)
    if search is not None:
        readings.log(search, "extend", model=out.name, task=task, seeds=model.about["seeds"])
        judged = map(asdict, evaluate(model, cohort, [task]))
        scores = [
            {**row, "rows": told_counts.of_test(task, row["rows"], record, small)}
            for row in config.telling(cohort, small).rows(judged)
        ]
        facts["readings"] = len(readings.of_test_patients(search))
    else:
        held_out = "" if best["pretrained"] is None else f" {best['pretrained']:.3f}"
        why = (
            f"not judged on the test patients; on validation folds, with {best['share']:.0%} of the labels,{held_out} "
            f"(mean of {best['seeds']} seeds)"
        )
        scores = [
            {
                "task": task,
                "metric": metric,
                "value": None,
                "sd": None,
                "low": None,
                "high": None,
                "rows": 0,
                "why": why,
            }
        ]
    labels = model.about["training"]["labels"]
    labels = {**labels, task: told_counts.labels_of(task, labels[task], record, small)}
    facts["training"] = {**model.about["training"], "labels": labels}
    facts["scores"] = [*model.about["scores"], *({**row, "value": number(row["value"])} for row in scores)]
    added = [pair for pair in cohort.overlaps if task in pair]
    facts["overlaps"] = [*model.about["overlaps"], *map(list, added)]
    facts["extended"] = [*model.about.get("extended", []), task]
    try:
        model_folder.write_model(replace(model, about=facts), out)
    except FileExistsError:
        raise BadInput(f"--out: {out} is there already. Name a new folder.") from None
    return out


def _notes(model: DeployedModel, cohort: Cohort, task: str, test: bool) -> list[str]:
    """What the reader of the table must know."""
    nested = sorted({name for pair in cohort.overlaps if task in pair for name in pair if name != task})
    notes = (
        ["The start is the model itself; its tasks' labels of the test patients had no part in it."]
        if test
        else ["The start was trained anew for each seed, without the patients of the held-out fold."]
    )
    if overlapping := [name for name in nested if name in model.tasks]:
        notes.append(
            f"{task} overlaps with {', '.join(overlapping)} of the model (targets nested or near-identical): what the "
            "start gains there is no transfer between outcomes."
        )
    return notes
