"""How long a training is, and what goes with it, where the search file leaves that to the rows there are."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

#: Fewest updates of a training whose length a search file leaves open, and the smallest minibatch that is taken for it
#: (docs/networks.md has the evidence: with fewer a network has not begun to learn, with many more a small cohort is
#: learnt by heart). M3H's own cohort gets about 470 at the paper's setting, SUPPORT2 345.
FEWEST_UPDATES, SMALLEST_BATCH = 150, 16


def automatic(settings: type[Any], rows: int, filled_in: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The settings of `left_to_rows`, for a training that makes `FEWEST_UPDATES` updates or more.

    The network's own values where they make as many; else those of its `SMALL_COHORT`, smaller minibatches first, down
    to `SMALLEST_BATCH`, because more updates a row cost no more arithmetic; then more epochs.

    Args:
        settings: of the network, whose defaults are the largest minibatch.
        rows: training rows of a fold, at least 1.
        filled_in: settings that were chosen already. Weights are not averaged where these leave no room for that.
    """
    values = {name: settings.__dataclass_fields__[name].default for name in left_to_rows(settings)}
    if updates(rows, values["batch_size"], values["epochs"]) >= FEWEST_UPDATES:
        return values
    values |= getattr(settings, "SMALL_COHORT", {})
    batch, epochs = values["batch_size"], values["epochs"]
    smallest = min(batch, SMALLEST_BATCH)
    while updates(rows, batch, epochs) < FEWEST_UPDATES and batch > smallest:
        batch = max(smallest, batch // 2)
    if updates(rows, batch, epochs) < FEWEST_UPDATES:
        epochs = math.ceil(FEWEST_UPDATES / math.ceil(rows / batch))
    values |= {"batch_size": batch, "epochs": epochs}
    if "average" in values and not _room_to_average({**values, **(filled_in or {})}):
        values["average"] = 0
    return values


def _room_to_average(values: Mapping[str, Any]) -> bool:
    """Whether the weights can be averaged over `average` epochs; what is no setting at all is refused elsewhere."""
    joint, epochs = values.get("update", "joint") == "joint", values["epochs"]
    return joint and isinstance(epochs, int) and values["average"] < 2 * epochs


def left_to_rows(settings: type[Any]) -> tuple[str, ...]:
    """The settings that `automatic` chooses by the rows there are; none of a network without minibatches or epochs."""
    length = ("batch_size", "epochs")
    if not set(length) <= settings.__dataclass_fields__.keys():
        return ()
    return tuple(dict.fromkeys((*length, *getattr(settings, "SMALL_COHORT", {}))))


def updates(rows: int, batch: int, epochs: int) -> int:
    """Steps of the optimiser in a training of one task: minibatches of `batch` of `rows` rows, each epoch anew."""
    return epochs * math.ceil(rows / batch)
