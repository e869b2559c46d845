"""The models that a search chose, trained here and judged on another cohort's patients (external validation)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tim_search import config
from tim_search.app import confirmer, runner
from tim_search.app.opening import check_named, reopen
from tim_search.app.publishing import tracker_of, write_table
from tim_search.gates import small_cells, told_scores
from tim_search.gates.plain import plain
from tim_search.report import gallery
from tim_search.report import page as report
from tim_search.results import confirmation, external, opened, readings
from tim_search.results.external import External
from tim_search.tuning import choices
from tim_search.types import BadInput, Subset, joined

if TYPE_CHECKING:
    from model.cohorts.cohort import Cohort
    from model.trained.deployed import DeployedModel


@dataclass(frozen=True, eq=False)
class Validation:
    """An external validation that came to its end.

    Attributes:
        record: what it found, as it stands in the folder `external`.
        table, figures: the files that were written.
        missed: what could not be published to MLflow.
    """

    record: External
    table: Path
    figures: tuple[Path, ...]
    missed: tuple[str, ...]


def validate(
    folder: str | Path,
    on: str,
    rule: confirmer.Rule = "paper",
    *,
    sources: Sequence[str] | None = None,
    given: Sequence[str] | None = None,
    seeds: int = 5,
    draws: int = 1000,
    groups: Sequence[str] = (),
    address: str | None = None,
    allow_code: bool = False,
    note: Callable[[str], None] = lambda text: None,
    warn: Callable[[str], None] = print,
) -> Validation:
    """Train the chosen combinations and their single-task models here, and judge them on another cohort.

    Each is trained on the whole training part with `seeds` seeds, whose predictions are averaged. All labelled samples
    of the other cohort are judged; the reading is noted in test-readings.jsonl before it happens.

    Args:
        on: the other cohort: a cohort folder, a built-in one, or a table that is read by the search's cohort.
        rule, sources, given, seeds, draws, groups, address, allow_code, warn: see `confirmer.confirm`.
        note: takes lines about what is being done.

    Raises:
        BadInput: as `confirmer.confirm`; every source is best alone; the other cohort cannot be read or shares no
            column or label; a training diverged.
    """
    from model.sources.elsewhere import open_elsewhere
    from model.trained import aligning
    from model.trained.external import groups_of, judge

    check_named(on=on)
    confirmer.check_options(seeds, draws, groups, address)
    results = opened.open_search(folder)
    confirmer.make_folders(results.folder, external.FOLDER)
    search = reopen(results, consequence="its choices do not hold for them", allow_code=allow_code, note=note)
    chosen, alone, used_rule = confirmer.chosen_combinations(results, rule, sources, given)
    if not chosen:
        raise BadInput(f"{results.folder}: every task scores best alone; name a combination to judge: --subset a+b.")
    note(f"Reading the cohort {on}")
    read, read_notes = open_elsewhere(on, search.file.cohort)
    theirs, notes = aligning.aligned(search.cohort, read)
    by_group = groups_of(search.cohort, theirs, groups)
    runner.settle(search, list(dict.fromkeys(_needed(chosen))), address)
    models = _models(search, results.folder, chosen, seeds, note)
    record = External(
        theirs.name, read.fingerprint, datetime.now(UTC).isoformat(timespec="seconds"), used_rule,
        {source: list(members) for source, members in chosen.items()}, list(range(seeds)), draws, (), (),
        [*read_notes, *notes, *_caveats(alone, seeds, draws)],
    )  # fmt: skip
    readings.log(
        results.folder, "confirm --on", **{readings.ELSEWHERE: record.cohort}, fingerprint=record.fingerprint,
        rule=record.rule, combinations=record.chosen, seeds=record.seeds,
    )  # fmt: skip
    note(f"Judging them on {theirs.name}")
    judged, drawn = judge(models, search.cohort, theirs, by_group, draws, search.file.small_cells)
    rows = _told([external.flat(asdict(row)) for row in judged], theirs, search.file.small_cells)
    return _written(results, search, _judged(record, rows, [plain(asdict(each)) for each in drawn], theirs), warn)


def _needed(chosen: Mapping[str, Subset]) -> list[Subset]:
    """Every subset that is trained: each combination, and its source alone."""
    return [members for source, combination in chosen.items() for members in ((source,), combination)]


def _models(
    search: config.ResolvedSearch, folder: Path, chosen: Mapping[str, Subset], seeds: int, note: Callable[[str], None]
) -> dict[str, tuple[DeployedModel, DeployedModel]]:
    """Source -> (the model of the task alone, that of its combination); a subset of several sources is trained once."""
    from model.trained.final_training import train

    subsets = list(dict.fromkeys(_needed(chosen)))
    own = choices.settings(folder, subsets)
    device, threads, few = search.file.device, max(1, int(search.resources.cpus)), search.file.small_cells
    trained: dict[Subset, DeployedModel] = {}
    for number, members in enumerate(subsets, 1):
        note(f"Training {joined(members)} with {seeds} seed{'s' * (seeds > 1)} ({number} of {len(subsets)})")
        settings = replace(search.settings, **own[members])
        trained[members] = train(
            search.cohort, search.context.network, settings, members, members[0], tuple(range(seeds)), device, threads,
            few,
        )  # fmt: skip
    return {source: (trained[(source,)], trained[members]) for source, members in chosen.items()}


def _told(rows: list[dict[str, Any]], theirs: Cohort, small: int) -> list[dict[str, Any]]:
    """Rows whose counts and scores may be told (`gates.told_scores`): those of a group are as coarse as it is small."""
    telling = config.telling(theirs, small)
    for row in rows:
        counts = [row["rows"]] if row["positive"] < 0 else [row["rows"], row["positive"]]
        row["positive"] = None if row["positive"] < 0 else small_cells.near(row["positive"], small)
        row["rows"] = small_cells.near(row["rows"], small)
        if small and (row["source"] in telling.steps or row["group"] != "all" or row["of"]):
            here = told_scores.Telling({row["source"]: told_scores.step_of(counts[0])}, telling.key)
            named = [name for name in external.NUMBERS if np.isfinite(row[name])]
            words = (row["model"], row["group"], row["of"])
            in_steps = here.values(row["source"], [row[name] for name in named], "elsewhere", *words)
            row |= dict(zip(named, in_steps, strict=True))
    return [plain(row) for row in rows]


def _judged(record: External, rows: list[dict[str, Any]], curves: list[dict[str, Any]], theirs: Cohort) -> External:
    """The record with what was found, and a note of each source that has labels there and no score."""
    record = replace(record, rows=rows, curves=curves)
    scored = {row["source"] for row in record.whole if row["score"] is not None}
    unscored = [
        f"{source}: no score there, for too few patients have a label, or too few of them one of the outcomes."
        for source in record.chosen
        if source not in scored and source in theirs.labels
    ]
    return replace(record, notes=[*unscored, *record.notes])


def _caveats(alone: Sequence[str], seeds: int, draws: int) -> list[str]:
    """How the numbers are to be read."""
    averaged = f"{seeds} trainings, whose predictions are averaged" if seeds > 1 else "one training"
    notes = [
        f"Models: {averaged}. Intervals: 95 %, over {draws} bootstrap draws of the patients there; they do not hold "
        "what a training owes to its seed, and no correction for several sources.",
        "Calibration: slope 1 and intercept 0 are right. Below 1 the risks are too extreme; an intercept above 0 means "
        "that they are too low there.",
    ]
    if alone:
        notes.append(f"Best alone, so that no combination was judged: {', '.join(alone)}.")
    return notes


def _written(
    results: opened.SearchResults, search: config.ResolvedSearch, record: External, warn: Callable[[str], None]
) -> Validation:
    """The record, its table, figures and page in the folder and in MLflow."""
    record.write(results.folder)
    table = write_table(results.folder / "tables" / f"external-{record.name}.csv", record.rows)
    drawn = gallery.external(results, record)
    tracker = tracker_of(
        results.manifest, results.folder, search.tracking_uri, warn, beside=True, capacity=search.capacity
    )
    tracker.external(record.cohort, record.rows, drawn, record.notes)
    tracker.report(report.write(results, confirmation=confirmation.rows(results)))
    return Validation(record, table, drawn, tuple(tracker.missed))
