"""Reference models: what a task is without the network, on the same rows, folds, inputs and metric."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Literal, TypeAlias, get_args

from tim_search.types.nouns import Context, Task, canonical

#: "none" is no model (the prevalence, the mean), "linear" a penalised linear one, "boosting" gradient-boosted trees;
#: "k-means" groups the standardised inputs, for a clustering task.
Reference: TypeAlias = Literal["none", "linear", "boosting", "k-means"]
REFERENCES: tuple[Reference, ...] = get_args(Reference)

#: The setting that names a reference, and the network of its context.
KEY, NETWORK = "reference", "reference"


def tasks_of(reference: Reference, tasks: Mapping[str, Task], control: str | None = None) -> tuple[str, ...]:
    """Names of the tasks that a reference is made for, in their order; a negative control has none."""
    return tuple(
        name
        for name, task in tasks.items()
        if name != control and (task.kind == "clustering") == (reference == "k-means")
    )


def settings_of(reference: Reference, context: Context) -> str:
    """Settings of a reference as canonical JSON: its name, and the bootstrap weightings that the search scores by."""
    return canonical({KEY: reference, "replicates": json.loads(context.settings).get("replicates", 0)})


def context_of(reference: Reference, context: Context) -> Context:
    """Where the ledger keeps the scores of a reference: a context that all networks and settings of a cohort share.

    Args:
        context: of a search.
    """
    return replace(context, network=NETWORK, settings=settings_of(reference, context))


def folds_of(blocks: tuple[tuple[int, int], ...]) -> tuple[tuple[int, int], ...]:
    """(0, fold) for each fold of these (seed, fold) blocks: a reference owes nothing to the seed."""
    return tuple((0, fold) for fold in sorted({fold for _, fold in blocks}))
