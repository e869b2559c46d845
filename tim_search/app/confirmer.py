"""A confirmation from its start to its table: what is chosen, trained anew and judged on the test patients.

What the test scores say is computed by `results.confirmation`; this module trains them, through the same loop,
workers and ledger as a search, and writes down every reading of the test patients before it happens.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np

from tim_search import config
from tim_search.app import answer, runner
from tim_search.app.opening import check_named, check_seeds, check_tasks, reopen
from tim_search.app.publishing import tracker_of, write_table
from tim_search.gates.files import explained, make_folder
from tim_search.ledger.table import ScoreTable
from tim_search.loop import run as loop
from tim_search.loop import running
from tim_search.loop.tally import Event, SearchOutcome
from tim_search.plans import expansion, static, surrogate
from tim_search.report import gallery
from tim_search.report import page as report
from tim_search.results import confirmation, opened, readings
from tim_search.results.opened import SearchResults
from tim_search.results.verdicts import verdicts
from tim_search.tuning import choices, tuned
from tim_search.types import FINAL_FOLD, BadInput, Subset, subset

#: How the combinations to confirm are chosen: a rule of the expansion, or the best that is predicted.
Rule: TypeAlias = expansion.Rule | Literal["predicted"]


#: Patient-bootstrap draws: each is a column of every score in the ledger.
MOST_DRAWS = 100_000


@dataclass(frozen=True, eq=False)
class Confirmation:
    """A confirmation that came to its end.

    Attributes:
        results: the search folder.
        rows: one a source, those of earlier confirmations included (see `confirmation.rows`).
        notes: what the reader must know.
        outcome: what this run trained; None where no combination was chosen, so that nothing was read.
        figures: the files that were written.
        table: tables/confirmation.csv.
        missed: what could not be published to MLflow.
    """

    results: SearchResults
    rows: list[dict[str, Any]]
    notes: list[str]
    outcome: SearchOutcome | None
    figures: tuple[Path, ...]
    table: Path
    missed: tuple[str, ...]


def confirm(
    folder: str | Path,
    rule: Rule = "paper",
    *,
    sources: Sequence[str] | None = None,
    given: Sequence[str] | None = None,
    seeds: int = 5,
    draws: int = 1000,
    groups: Sequence[str] = (),
    address: str | None = None,
    allow_code: bool = False,
    on_event: Callable[[Event], None] = lambda event: None,
    warn: Callable[[str], None] = print,
) -> Confirmation:
    """Train the chosen combinations and their single-task models anew, and judge them on the test patients.

    Started again with the same arguments it trains nothing twice. Every start that trains is noted in
    test-readings.jsonl before a test patient is read.

    Args:
        folder: of a search.
        rule: which combination of a source is put to the test: "paper", its best score whatever its noise, or
            "lower_bound", only where the validation interval of its gain lies above zero; "predicted", the best that
            the model of a sampled search predicts, trained or not (see `predicted`).
        sources: tasks to confirm; None takes all that the search expands.
        given: a combination to confirm instead of those the rule chooses, for the sources (default: its own tasks);
            None leaves the choice to the rule. Empty names are an error: they would spend the test patients.
        seeds: number of fresh seeds.
        draws: patient-bootstrap draws.
        groups: input columns by which calibration is shown apart.
        allow_code: whether a network of one's own may be imported.
        address, on_event, warn: see `run_search`.

    Raises:
        BadInput: no search folder; unknown sources, or ones whose combination is not chosen yet; the cohort or its
            split has changed since the search.
        Interrupted: after SIGINT or SIGTERM; the ledger holds all that was trained.
    """
    check_options(seeds, draws, groups, address)
    results = opened.open_search(folder)
    make_folders(results.folder)
    search = reopen(results, consequence="its choices do not hold for them", allow_code=allow_code)
    chosen, alone, used_rule = chosen_combinations(results, rule, sources, given)
    together = subset(name for name in search.tasks if name != results.control)
    needed = confirmation.needed(chosen, together)
    with running.AtWork(results.folder, results.manifest.name, "confirm", on_event) as at_work:
        runner.settle(search, needed, address, at_work.tell)
        settings = _settings(search, results.folder, needed, draws)
        asked = confirmation.Asked(
            rule=used_rule,
            chosen=chosen,
            alone=alone,
            together=together,
            seeds=confirmation.fresh_seeds(seeds, {seed for seed, _ in results.manifest.blocks}),
            draws=draws,
            contexts={members: replace(search.context, settings=value.text) for members, value in settings.items()},
            groups=tuple(groups),
        ).after(_before(results.folder))
        outcome = _train(search, results, asked, settings, address, at_work.tell)
        return _written(opened.open_search(folder), search, asked, outcome, warn)


def make_folders(folder: Path, *others: str) -> None:
    """Make the folders of what is shown before any patient is judged: what was read must be shown.

    Raises:
        BadInput: one cannot be made.
    """
    for name in ("tables", "figures", *others):
        with explained(folder / name, "Move it away, or make the folder writable."):
            make_folder(folder / name)


def check_options(seeds: int, draws: int, groups: Sequence[str], address: str | None) -> None:
    """Raise BadInput for options of a confirmation that cannot be."""
    check_named(address=address, by=None if all(groups) else "")
    check_seeds(seeds, 5)
    if not 1 <= draws <= MOST_DRAWS:
        raise BadInput(f"--draws: expected a whole number from 1 to {MOST_DRAWS}, got {draws}. 1000 is the default.")


def _settings(search: config.ResolvedSearch, folder: Path, subsets: Iterable[Subset], draws: int) -> dict[Subset, Any]:
    """The network's settings for each subset: those tuned for it, with as many patient-bootstrap draws."""
    return {
        members: replace(search.settings, **{**values, "replicates": draws})
        for members, values in choices.settings(folder, subsets).items()
    }


def _written(
    results: SearchResults,
    search: config.ResolvedSearch,
    asked: confirmation.Asked,
    outcome: SearchOutcome | None,
    warn: Callable[[str], None],
) -> Confirmation:
    """Table, figures and report of a confirmation, in the folder and in MLflow."""
    rows = confirmation.rows(results)
    log = readings.of_test_patients(results.folder)
    notes = confirmation.caveats(asked, confirmation.confirmed(results), log, results.manifest.overlaps)
    table = write_table(results.folder / "tables" / "confirmation.csv", rows)
    judged = list(verdicts(results).values())
    drawn = (*gallery.confirmation(results), *gallery.expansion(results, judged))
    tracker = tracker_of(
        results.manifest, results.folder, search.tracking_uri, warn, beside=True, capacity=search.capacity
    )
    tracker.confirmation(rows, drawn)
    write_table(results.folder / "tables" / "verdicts.csv", [each.record() for each in judged])
    tracker.answer(answer.description(results), *answer.values(results))
    tracker.report(report.write(results, confirmation=rows))
    return Confirmation(results, rows, notes, outcome, drawn, table, tuple(tracker.missed))


def _before(folder: Path) -> confirmation.Asked | None:
    """What was confirmed before; of a record that is damaged, the log of test readings still knows how much it was."""
    try:
        return confirmation.read(folder)
    except BadInput:
        return None


def wanted(results: SearchResults) -> list[Subset]:
    """Every subset that a confirmation of the search would train, by its default rule.

    Raises:
        BadInput: no combination was chosen, so there is nothing to confirm.
    """
    chosen, _, _ = chosen_combinations(results, "paper", None, None)
    if not chosen:
        raise BadInput(
            f"{results.folder}: every task scores best alone, so no combination was chosen. Name one with --subset a+b."
        )
    together = subset(name for name in results.tasks if name != results.control)
    return list(confirmation.needed(chosen, together))


def _train(
    search: config.ResolvedSearch,
    results: SearchResults,
    asked: confirmation.Asked,
    settings: Mapping[Subset, Any],
    address: str | None,
    on_event: Callable[[Event], None],
) -> SearchOutcome | None:
    """Train what the ledger lacks, the subsets of one setting after another; the reading is noted before."""
    if not asked.chosen:  # every task is best alone: nothing is read
        asked.write(results.folder)
        return None
    blocks = tuple((seed, FINAL_FOLD) for seed in asked.seeds)
    plans = {
        context: static.StaticPlan(tuple(members for members in asked.subsets if asked.contexts[members] == context))
        for context in dict.fromkeys(asked.contexts[members] for members in asked.subsets)
    }
    # Everything that can be wrong with the input is found before a test patient is read.
    work = [
        (context, plan, config.confirming(
            search, settings[plan.subsets[0]], asked.chosen, asked.ensemble, asked.groups, asked.seeds[0]
        ))
        for context, plan in plans.items()
    ]  # fmt: skip
    if any(set(plan.units(blocks)) - results.ledger.done(context.key) for context, plan in plans.items()):
        combined = {source: list(members) for source, members in asked.chosen.items()}
        readings.log(results.folder, "confirm", rule=asked.rule, combinations=combined, seeds=list(asked.seeds))
    asked.write(results.folder)
    outcomes = []
    for context, plan, training in work:
        with contextlib.closing(runner.executor_of(search, training, address)) as executor:
            outcomes.append(
                loop.run(plan, results.ledger, context, search.tasks, blocks, executor, search.capacity, on_event)
            )
    rounds, seconds = zip(*((outcome.rounds, outcome.seconds) for outcome in outcomes), strict=True)
    return tuned.total(outcomes, sum(rounds), sum(seconds))


def chosen_combinations(
    results: SearchResults, rule: Rule, sources: Sequence[str] | None, given: Sequence[str] | None
) -> tuple[dict[str, Subset], tuple[str, ...], str]:
    """(source -> combination, sources that stay alone, the rule); see `confirm` for arguments and errors."""
    check_tasks("--source", sources, results)
    check_tasks("--subset", given, results)
    if given is not None:
        given = subset(given)
        if len(given) < 2:
            raise BadInput(
                f"--subset: expected two tasks or more, got {' + '.join(given)}. A task alone needs no confirmation."
            )
        outside = [name for name in sources or () if name not in given]
        if outside:
            raise BadInput(
                f"--source: {', '.join(outside)} not in the combination {' + '.join(given)}. Name tasks in it."
            )
        return dict.fromkeys(sources or given, given), (), "given"
    sources = sources or results.manifest.sources
    if rule == "predicted":
        if not results.status()["finished"]:
            raise BadInput(
                f"{results.folder}: the search is not finished, and what it predicts to be best may change with every "
                f"score. Run it to its end: tim-search run {results.folder / 'search.yaml'} --out {results.folder}; or "
                "name a combination with --subset a+b."
            )
        best = {
            source: (source,) if source in results.not_learnt else predicted(results.table, source, results.control)
            for source in sources
        }
        return (*_worth_confirming(best), rule)
    expansions, _ = results.expand(rule, sources=sources)
    waiting = [expansion for expansion in expansions if not expansion.complete]
    if len(waiting) == len(expansions):
        raise BadInput(
            f"{results.folder} holds no finished expansion to confirm: {expansions[0].reason}. Take --rule predicted "
            "(for sampled searches), name a combination with --subset a+b, or run a search whose design is exact, "
            "greedy or sized."
        )
    if waiting:
        # Test patients are read for choices that stand, not for what was best half-way.
        finished = [expansion.source for expansion in expansions if expansion.complete]
        raise BadInput(
            f"{results.folder}: the choice for {', '.join(expansion.source for expansion in waiting)} is not finished "
            f"({waiting[0].reason}). Run the search to its end, name single combinations with --subset a+b, or confirm "
            f"the sources whose choice is, with --source: {', '.join(finished)}."
        )
    best = {expansion.source: expansion.best for expansion in expansions}
    return (*_worth_confirming(best), rule)


def _worth_confirming(best: Mapping[str, Subset]) -> tuple[dict[str, Subset], tuple[str, ...]]:
    """(the combinations of two tasks or more, the sources that are best alone)."""
    chosen = {source: members for source, members in best.items() if len(members) > 1}
    return chosen, tuple(source for source in best if source not in chosen)


def predicted(table: ScoreTable, source: str, control: str | None, max_size: int = expansion.MAX_SIZE) -> Subset:
    """The subset with the highest predicted score of a source, trained or not, of at most `max_size` tasks.

    A sampled search trains few small subsets, and in each block others; what it knows of all of them is in the model
    behind its TIM scores (`tim_search.plans.surrogate`). A control is in none.

    Raises:
        BadInput: too few subsets with the source have a score.
    """
    others = [name for name in table.tasks if name not in (source, control)]
    subsets = [subset((source, *more)) for size in range(max_size) for more in combinations(others, size)]
    membership = np.array([[name in members for name in table.tasks] for members in subsets])
    mean, _ = surrogate.predict(table, source, membership)
    if not np.isfinite(mean).any():
        raise BadInput(
            f"--rule predicted: too few subsets with {source} have a score to predict others. Let the search go on, or "
            "name a combination with --subset a+b."
        )
    return subsets[int(np.nanargmax(mean))]
