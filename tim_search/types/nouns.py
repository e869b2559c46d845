"""The vocabulary of a task-combination search: frozen values, no behaviour that touches the world.

Read this file first. A *task* is one clinical outcome; a *subset* is a set of tasks trained together by one multitask
network; a *unit* is one training (a subset, a seed, a validation fold); a *pack* is a group of units trained as one
stacked program; a *score* is what a unit reached on one of its tasks. A *context* is everything else a score depends on
(cohort, input columns, split, network and training settings): two scores may be compared only within one context.

The package imports only the standard library and numpy, so that `model/` runs on a bare GPU machine and
`import tim_search` stays light.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from tim_search.types.metrics import METRICS, Kind

Part: TypeAlias = Literal["validation", "test"]
Status: TypeAlias = Literal["ok", "failed"]

#: The fold that holds no training patient out: trained on the whole training part, judged on the test patients.
#: Searches never ask for it; the confirmation does, and keeps a log of it.
FINAL_FOLD = -1

#: A subset of tasks: sorted, unique, non-empty task names. Build it with `subset`.
Subset: TypeAlias = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Task:
    """One clinical outcome of a cohort.

    Attributes:
        name: unique in its cohort.
        kind: the problem class.
        n_outputs: classes (multiclass), labels (multilabel), clusters (clustering), else 1.
        metric: name of the metric that scores it, higher is better.
        department: clinical department, for grouping in figures; may be empty.
        excludes: input columns that may not be used when this task is in a search.
    """

    name: str
    kind: Kind
    n_outputs: int = 1
    metric: str = ""
    department: str = ""
    excludes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.metric:
            object.__setattr__(self, "metric", METRICS[self.kind])


@dataclass(frozen=True, slots=True, order=True)
class Unit:
    """One training: a subset of tasks, a seed, a validation fold (or `FINAL_FOLD`)."""

    subset: Subset
    seed: int
    fold: int

    @property
    def part(self) -> Part:
        """The patients it is judged on."""
        return "test" if self.fold == FINAL_FOLD else "validation"

    def __str__(self) -> str:
        return f"{'+'.join(self.subset)} seed {self.seed} fold {self.fold}"


@dataclass(frozen=True, slots=True)
class Pack:
    """Units trained as one stacked program; they share seed and fold, hence every minibatch."""

    units: tuple[Unit, ...]

    def __post_init__(self) -> None:
        if not self.units:
            raise ValueError("a pack holds at least one unit")
        if len({(unit.seed, unit.fold) for unit in self.units}) > 1:
            raise ValueError("units of a pack share one seed and one fold")

    @property
    def id(self) -> str:
        """Content name of the pack: 16 hexadecimal digits."""
        return digest([[list(unit.subset), unit.seed, unit.fold] for unit in self.units])

    def halves(self) -> tuple[Pack, Pack]:
        """The pack split in two; raises ValueError for a pack of one unit."""
        middle = len(self.units) // 2
        return Pack(self.units[:middle]), Pack(self.units[middle:])


@dataclass(frozen=True, slots=True)
class Score:
    """What one unit reached on one of its tasks, by one metric, on one part of the data.

    Attributes:
        value: the metric, higher is better where `primary`; NaN when `status` is "failed".
        primary: true for the metric the task is searched by; false for diagnostics, as a clustering's effective rank.
        replicates: the same metric under shared patient-bootstrap weights; empty where not computed. The weights
            depend on the split and the fold alone, so replicate r of two subsets is a paired comparison.
        seconds: the unit's share of its pack's wall time.
    """

    unit: Unit
    task: str
    metric: str
    part: Part
    value: float
    status: Status = "ok"
    error: str = ""
    primary: bool = True
    replicates: tuple[float, ...] = ()
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Context:
    """What a score depends on besides its unit; `key` names it in the ledger.

    Attributes:
        cohort: fingerprint of the cohort's content.
        columns: digest of the effective input columns (those no task of the search excludes).
        split: digest of the train/test split and the folds.
        network: name of the network.
        settings: canonical JSON of the network's and the training's settings (see `canonical`).
    """

    cohort: str
    columns: str
    split: str
    network: str
    settings: str

    @property
    def key(self) -> str:
        """16 hexadecimal digits."""
        return digest([self.cohort, self.columns, self.split, self.network, self.settings])


def subset(names: Iterable[str]) -> Subset:
    """Sorted, duplicate-free tuple of task names; raises ValueError when empty."""
    result = tuple(sorted(set(names)))
    if not result:
        raise ValueError("a subset holds at least one task")
    return result


def canonical(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def digest(value: Any) -> str:
    """First 16 hexadecimal digits of the SHA-256 of `canonical(value)`."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()[:16]
