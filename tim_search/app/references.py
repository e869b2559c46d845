"""The reference models of a search: trained once a fold by the executor of the search, and kept in its ledger."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace

from tim_search import config
from tim_search.executors.contract import Executor, WithSettings
from tim_search.ledger.ledger import Ledger
from tim_search.loop import run as loop
from tim_search.loop.tally import Event, EventKind
from tim_search.plans.static import StaticPlan
from tim_search.types import Context
from tim_search.types.references import REFERENCES, context_of, folds_of, settings_of, tasks_of

#: Tasks that a worker takes at a time: a boosting of many classes may take a minute.
_PACK = 4


def train(
    search: config.ResolvedSearch, executor: Executor, on_event: Callable[[Event], None] = lambda event: None
) -> int:
    """Train the references that the ledger lacks, and tell each result; returns how many models were trained.

    Raises:
        Interrupted: as `loop.run`; what was trained is kept.
    """
    trained, held, total, began = 0, 0, lacking(search), time.monotonic()

    def tell(event: Event) -> None:
        nonlocal held
        if event.kind == "round":
            held = event.done
        if event.kind != "done":
            kind: EventKind = "stopping" if event.kind == "stopping" else "references"
            done, seconds = trained + event.done - held, time.monotonic() - began
            on_event(replace(event, kind=kind, round=0, done=done, total=total, seconds=seconds))

    for settings, context, plan in _plans(search):
        outcome = loop.run(
            plan,
            Ledger(search.ledger),
            context,
            search.tasks,
            folds_of(search.blocks),
            WithSettings(executor, settings),
            _PACK,
            tell,
        )
        trained += outcome.trained
    return trained


def lacking(search: config.ResolvedSearch) -> int:
    """How many reference models the ledger of a search lacks."""
    ledger, blocks = Ledger(search.ledger), folds_of(search.blocks)
    return sum(len(ledger.lacking(context.key, plan.units(blocks))[0]) for _, context, plan in _plans(search))


def _plans(search: config.ResolvedSearch) -> Iterator[tuple[str, Context, StaticPlan]]:
    """(settings, context, plan) of each kind of reference that a task has; none where the search file says so."""
    for reference in REFERENCES if search.file.references else ():
        names = tasks_of(reference, search.tasks, search.design.get("control"))
        if names:
            plan = StaticPlan(tuple((name,) for name in names))
            yield settings_of(reference, search.context), context_of(reference, search.context), plan
