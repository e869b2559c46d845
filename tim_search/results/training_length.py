"""How long the networks of a search train: what its scores depend on beside its tasks."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass

from tim_search.gates.plain import read_object
from tim_search.results.opened import SearchResults
from tim_search.tuning import per_subset
from tim_search.types import BadInput


@dataclass(frozen=True, slots=True)
class TrainingLength:
    """The length of one training; None where the search does not tell.

    Attributes:
        epochs, batch_size: of the settings.
        rows: training rows of a fold, about: the counts of a cohort may be rounded.
        updates: steps of the optimiser on all of these rows.
        average: epochs, half of them after the last of `epochs`, over whose steps the weights are averaged; 0 where the
            last step's are kept.
    """

    epochs: int | None
    batch_size: int | None
    rows: int | None
    updates: int | None
    average: int = 0

    def __str__(self) -> str:
        parts = []
        if self.updates is not None:
            parts.append(f"about {self.updates:,} updates")
        if self.epochs is not None:
            parts.append(f"{self.epochs:,} epoch{'s' * (self.epochs != 1)}")
        if self.batch_size is not None:
            parts.append(f"minibatches of {self.batch_size:,}")
        if self.average:
            parts.append(f"weights averaged over {self.average} epochs around the last")
        return ", ".join(parts) or "not told"


def training_length(results: SearchResults) -> TrainingLength:
    """How long the networks of this search train; settings that every subset chooses for itself are not told."""
    settings = json.loads(results.manifest.context.settings)
    chosen = set(results.own.space) if results.own else set()
    settings = {name: value for name, value in settings.items() if name != per_subset.KEY and name not in chosen}
    epochs, batch, average = (
        value if isinstance(value := settings.get(name), int) else None for name in ("epochs", "batch_size", "average")
    )
    rows = _training_rows(results)
    updates = None if None in (epochs, batch, rows) else epochs * math.ceil(rows / batch)  # type: ignore[operator]
    return TrainingLength(epochs, batch, rows, updates, average or 0)


def _training_rows(results: SearchResults) -> int | None:
    """Rows outside the test part and the validation fold, by the record of the cohort; None where it does not tell."""
    try:
        parts = read_object(results.folder / "cohort.json")["parts"]
        folds: list[int] = [part["samples"] for part in parts if part["part"] != "test"]
        return max(1, round(sum(folds) * (1 - 1 / len(folds))))
    except (BadInput, ValueError, TypeError, KeyError, OverflowError, ZeroDivisionError):
        return None
