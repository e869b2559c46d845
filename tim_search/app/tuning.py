"""Settings chosen by cross-validation, for a whole search before it is run or for single subsets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from tim_search import config
from tim_search.app.opening import check_named
from tim_search.app.publishing import tracker_of, write_table
from tim_search.app.runner import settle
from tim_search.app.search_folder import manifest_of
from tim_search.executors.serial import SERIAL
from tim_search.ledger.ledger import Ledger
from tim_search.loop import running
from tim_search.loop.tally import Event
from tim_search.report import figures
from tim_search.tuning import choices
from tim_search.tuning.per_subset import PerSubset
from tim_search.types import BadInput, Subset, digest

_LONGEST_NAME = 100  # characters of a subset in the name of a figure


def tune(
    search: config.ResolvedSearch,
    subsets: Sequence[Subset] = (),
    address: str | None = None,
    on_event: Callable[[Event], None] = lambda event: None,
    warn: Callable[[str], None] = print,
) -> list[dict[str, Any]]:
    """Choose settings for a search, or a choice of its own for each of some subsets, and keep it in `tuning.json`.

    Args:
        subsets: what is tuned for itself; () tunes for the whole search, which `run` then takes up.
        address: of a Ray cluster; overrides the search file's.

    Returns:
        the records of the studies, as `tuning.json` holds them; where every subset of the search has settings of its
        own, those of `per_subset.PerSubset.records`, and `tuning.json` is not needed.

    Raises:
        BadInput: no combination of settings could be trained.
        Interrupted, LedgerError, WorkerError: see `tuning.run`; what was trained is in the ledger.
    """
    check_named(address=address)
    with running.AtWork(search.out, search.file.name, "tune", on_event) as at_work:
        if search.own is not None:
            return _tune_own(search, search.own, subsets, address, at_work.tell, warn)
        return _tune(search, subsets, address, at_work.tell, warn)


def _tune(
    search: config.ResolvedSearch,
    subsets: Sequence[Subset],
    address: str | None,
    on_event: Callable[[Event], None],
    warn: Callable[[str], None],
) -> list[dict[str, Any]]:
    # Imported here: optuna and ray.tune, which take seconds and serve this alone.
    from tim_search.tuning.study import figures as study_figures
    from tim_search.tuning.study import run as run_study

    ledger = Ledger(search.ledger)
    factory, payload = config.training(search)
    place = address or search.file.address
    if place == SERIAL:
        raise BadInput(
            f"--address {SERIAL}: tuning is run by Ray Tune and cannot be trained in this process. Leave the address "
            "out, or give every subset settings of its own with `tuning: {scope: per_subset}`."
        )
    where = (search.resources, search.capacity, place)
    studies = [config.study(search, own) for own in subsets] or [config.study(search)]
    together = [replace(studies[0], subsets=tuple(dict.fromkeys(subsets)))] if subsets else studies
    # On a grid all subsets share the combinations, and so their packs; Optuna goes its own way for each of them.
    for study in together if studies[0].sampler == "grid" else studies:
        run_study(study, ledger, factory, payload, *where, on_event)
    rows = ledger.scores(columns=choices.COLUMNS)
    records, paths = [], []
    for study, own in zip(studies, subsets or (None,), strict=True):
        trials = choices.trials(study, rows)
        records.append(choices.write(search.out, study, trials, own))
        names = "+".join(own or ())
        name = f"tuning-{names if len(names) <= _LONGEST_NAME else digest(names)}" if own else "tuning"
        paths += study_figures(study, trials, search.out / "figures", figures.save_and_close, name)
    table = [row for record in records for row in choices.table(record)]
    write_table(search.out / "tables" / ("tuning-subsets.csv" if subsets else "tuning.csv"), table)
    # A network of one's own has been allowed and imported by now.
    tuned = config.resolve(search.file, search.out, allow_code=True)
    with tracker_of(manifest_of(tuned), tuned.out, tuned.tracking_uri, warn, capacity=tuned.capacity) as tracker:
        tracker.tuning(table, paths, "subsets" if subsets else "search")
    return records


def _tune_own(
    search: config.ResolvedSearch,
    own: PerSubset,
    subsets: Sequence[Subset],
    address: str | None,
    on_event: Callable[[Event], None],
    warn: Callable[[str], None],
) -> list[dict[str, Any]]:
    if not subsets:
        raise BadInput(
            f"search {search.file.name}: with `scope: per_subset` every subset is tuned where it is trained, by "
            "`tim-search run`. Name subsets with --subset or --chosen to see what theirs is."
        )
    settle(search, subsets, address, on_event)
    records = own.records(Ledger(search.ledger), search.tasks, subsets, search.design.get("control"))
    table = [row for record in records for row in choices.table(record)]
    write_table(search.out / "tables" / "tuning-subsets.csv", table)
    with tracker_of(manifest_of(search), search.out, search.tracking_uri, warn, capacity=search.capacity) as tracker:
        tracker.tuning(table, [], "subsets")
    return records
