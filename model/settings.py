"""Settings of the networks and their training: plain dataclasses, readable without torch.

A search file's `training:` section is one of these. Every field enters the ledger's context key, so two scores with
different settings are never mixed; what cannot change a score (device, threads, pack size) is therefore no field here.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from tim_search.types import BadInput, canonical


class TrainingSettings(Protocol):
    """What training itself reads of a network's settings."""

    @property
    def update(self) -> str: ...
    @property
    def epochs(self) -> int: ...
    @property
    def batch_size(self) -> int: ...
    @property
    def learning_rate(self) -> float: ...
    @property
    def precision(self) -> Literal["float32", "float64"]: ...
    @property
    def replicates(self) -> int: ...
    @property
    def text(self) -> str: ...


@dataclass(frozen=True, slots=True)
class M3HSettings:
    """M3H and its training (M3H paper, sections 3.1 to 3.5 and 4.3).

    Attributes:
        width: h, features of every embedding; the paper uses multiples of 64.
        alpha: strength of cross-task exploration in the attention (section 4.3: 0.1).
        temperature: of the contrastive loss; the paper does not say, 0.1 is our choice.
        contrastive_weight: w_c of section 3.5 (all weights are 1 there).
        task_weight: w_t of section 3.5, one for all tasks.
        update: "joint" makes one step on the total loss; "sequential" one step for each loss in turn, which is what
            section 3.1 says ("optimizing each individual loss sequentially").
        epochs: passes over the training rows (section 4.3: 15).
        batch_size: rows a step (section 4.3: 256 or 512).
        learning_rate: of Adam (section 4.3: 1e-4 or 3e-4).
        rare: a binary task with fewer positives than this share starts from the bias log(n_pos / n_neg) (section 3.2).
        precision: dtype of parameters and arithmetic.
        replicates: scores under this many patient-bootstrap weightings are returned beside each score.
    """

    width: int = 64
    alpha: float = 0.1
    temperature: float = 0.1
    contrastive_weight: float = 1.0
    task_weight: float = 1.0
    update: Literal["joint", "sequential"] = "joint"
    epochs: int = 15
    batch_size: int = 256
    learning_rate: float = 3e-4
    rare: float = 0.1
    precision: Literal["float32", "float64"] = "float32"
    replicates: int = 50

    def __post_init__(self) -> None:
        # Every message names the field, what is allowed and what was given: the search file's reader passes it on.
        rules = (
            ("width", self.width >= 1, "a whole number of at least 1 (the paper uses multiples of 64)"),
            ("alpha", self.alpha >= 0, "a number of at least 0"),
            ("temperature", self.temperature >= 0.05, "a number of at least 0.05 (below, float32 underflows)"),
            ("contrastive_weight", self.contrastive_weight >= 0, "a number of at least 0"),
            ("task_weight", self.task_weight > 0, "a number above 0"),
            ("update", self.update in ("joint", "sequential"), "joint or sequential"),
            ("epochs", self.epochs >= 1, "a whole number of at least 1"),
            ("batch_size", self.batch_size >= 2, "a whole number of at least 2"),
            ("learning_rate", self.learning_rate > 0, "a number above 0"),
            ("rare", 0 <= self.rare <= 1, "a share between 0 and 1"),
            ("precision", self.precision in ("float32", "float64"), "float32 or float64"),
            ("replicates", self.replicates >= 0, "a whole number of at least 0"),
        )
        _check(self, rules)

    @property
    def text(self) -> str:
        """Canonical JSON, as the ledger's context holds it."""
        return canonical(dataclasses.asdict(self))


@dataclass(frozen=True)
class OwnSettings:
    """Settings of a network of one's own (`model/lifted.py`); it may extend them by subclassing, as a frozen dataclass.

    Attributes:
        width: features of each task's embedding.
        epochs, batch_size, learning_rate, rare, precision, replicates: as of `M3HSettings`.
    """

    width: int = 64
    epochs: int = 15
    batch_size: int = 256
    learning_rate: float = 3e-4
    rare: float = 0.1
    precision: Literal["float32", "float64"] = "float32"
    replicates: int = 50

    def __post_init__(self) -> None:
        rules = (
            ("width", self.width >= 1, "a whole number of at least 1"),
            ("epochs", self.epochs >= 1, "a whole number of at least 1"),
            ("batch_size", self.batch_size >= 2, "a whole number of at least 2"),
            ("learning_rate", self.learning_rate > 0, "a number above 0"),
            ("rare", 0 <= self.rare <= 1, "a share between 0 and 1"),
            ("precision", self.precision in ("float32", "float64"), "float32 or float64"),
            ("replicates", self.replicates >= 0, "a whole number of at least 0"),
        )
        _check(self, rules)

    @property
    def update(self) -> str:
        """One step on the total of all losses."""
        return "joint"

    @property
    def text(self) -> str:
        """Canonical JSON, as the ledger's context holds it."""
        return canonical(dataclasses.asdict(self))


def _check(settings: Any, rules: tuple[tuple[str, bool, str], ...]) -> None:
    """Raise ValueError for the first rule (field, whether it holds, what is allowed) that does not hold."""
    for name, holds, allowed in rules:
        value = getattr(settings, name)
        if not holds or (isinstance(value, float) and not math.isfinite(value)):
            raise ValueError(f"{name}: expected {allowed}, got {value!r}")


NETWORKS: dict[str, type[M3HSettings]] = {"m3h": M3HSettings}


def settings_class(network: str) -> type[M3HSettings]:
    """Settings dataclass of a network; raises BadInput for an unknown one."""
    try:
        return NETWORKS[network]
    except KeyError:
        known = ", ".join(sorted(NETWORKS))
        raise BadInput(f"network: expected one of {known}, got {network!r}. Choose one of them.") from None
