"""The vocabulary of a task-combination search: frozen values, no behaviour that touches the world.

Read this file first. A *task* is one clinical outcome; a *subset* is a set of tasks trained together by one multitask
network; a *unit* is one training (a subset, a seed, a validation fold); a *pack* is a group of units trained as one
stacked program; a *score* is what a unit reached on one of its tasks. A *context* is everything else a score depends on
(cohort, input columns, split, network and training settings): two scores may be compared only within one context.

Only the standard library and numpy are imported here, so that `model/` runs on a bare GPU machine and
`import tim_search` stays light.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Literal, Protocol, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

Kind: TypeAlias = Literal["binary", "multiclass", "multilabel", "regression", "clustering"]
Part: TypeAlias = Literal["validation", "test"]
Status: TypeAlias = Literal["ok", "failed"]

KINDS: tuple[Kind, ...] = get_args(Kind)

#: Metrics a task of each problem class may be searched by, the default first; higher is better (M3H paper, section 3.2;
#: FlexCare paper, section 5.1.2; `model/scoring/metrics.py` says what each is).
ALLOWED: Mapping[Kind, tuple[str, ...]] = {
    "binary": ("auroc", "auprc"),
    "multiclass": ("macro_auroc", "macro_f1", "micro_f1"),
    "multilabel": ("macro_auroc", "micro_auroc"),
    "regression": ("r2",),
    "clustering": ("silhouette",),
}

#: Default metric of each problem class.
METRICS: Mapping[Kind, str] = {kind: names[0] for kind, names in ALLOWED.items()}

#: What people call the metrics.
METRIC_WORDS: Mapping[str, str] = {
    "auroc": "AUROC",
    "auprc": "AUPRC",
    "macro_auroc": "macro AUROC",
    "micro_auroc": "micro AUROC",
    "macro_f1": "macro F1",
    "micro_f1": "micro F1",
    "r2": "R²",
    "silhouette": "silhouette",
}

#: Tasks of the largest subset whose cross-task attention is kept: it is a row for each pair of its tasks.
MOST_ATTENDED = 64

#: The fold that holds no training patient out: trained on the whole training part, judged on the test patients.
#: Searches never ask for it; the confirmation does, and keeps a log of it.
FINAL_FOLD = -1

#: A subset of tasks: sorted, unique, non-empty task names. Build it with `subset`.
Subset: TypeAlias = tuple[str, ...]


class TimSearchError(Exception):
    """Base of the errors this product raises on purpose; the command line prints them without a traceback."""

    exit_code = 1


class BadInput(TimSearchError):
    """The user's input cannot be used. The message says what was expected, what was given and what to do next."""

    exit_code = 2


class OutOfMemory(TimSearchError):
    """A pack did not fit the device's memory; the executor splits it in two and goes on."""


class Interrupted(TimSearchError):
    """A search was asked to stop (SIGINT, SIGTERM); what was trained is in the ledger."""

    exit_code = 130


@dataclass(frozen=True, slots=True)
class Finding:
    """One result of checking a search file or a cohort folder: where, what is wrong, how to mend it."""

    place: str
    problem: str
    fix: str
    severity: Literal["error", "warning"] = "error"

    def __str__(self) -> str:
        return f"{self.place}: {self.problem} {self.fix}".rstrip()


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
class Attention:
    """Cross-task attention of one unit, averaged over the evaluation rows (M3H paper, section 3.4).

    `weight` is how much the token of `task` draws on the token of `other`; the weights of one task sum to 1.
    """

    unit: Unit
    task: str
    other: str
    weight: float


@dataclass(frozen=True, slots=True)
class Curve:
    """What one unit's predictions on one of its tasks look like, as points made of many patients each, never of one.

    Attributes:
        kind: "calibration" (x predicted risk, y observed rate, n patients of a risk quantile), "roc" (x false and y
            true positive rate), "density" (x observed and y predicted centre of a cell, n patients in it), "tail" (x
            observed and y predicted mean of a quantile of the observed, n patients) or "map" (x and y centre of a cell
            of a two-dimensional map, n patients in it).
        group: the subgroup of patients, the class, or the cluster; "all" where there is one only.
        x, y: coordinates of the points.
        n: patients behind each point; empty where every point rests on all of them.
    """

    unit: Unit
    task: str
    kind: Literal["calibration", "roc", "density", "tail", "map"]
    group: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    n: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class PackResult:
    """All that comes back from training a pack. Every unit has at least one score row, also a failed unit."""

    pack: Pack
    scores: tuple[Score, ...]
    attention: tuple[Attention, ...] = ()
    seconds: float = 0.0
    peak_bytes: int = 0
    attempts: int = 1
    curves: tuple[Curve, ...] = ()


@dataclass(frozen=True, eq=False)
class Sheet:
    """Scores as plain arrays: R runs of adjacent rows of one unit, N rows, S distinct subsets.

    Attributes:
        tasks: names of all tasks, sorted.
        membership: bool (S, tasks).
        counts: int64 (R,), rows of each run.
        subset: int32 (R,), place of the run's subset in `membership`.
        seed, fold: int64 (R,).
        task: int32 (N,), place among `tasks`.
        score: float64 (N,); NaN where the unit failed.
        replicates: (how many each row has (N,), all of them in the order of the rows), None where not read.
    """

    tasks: tuple[str, ...]
    membership: NDArray[np.bool_] = field(repr=False)
    counts: NDArray[np.int64] = field(repr=False)
    subset: NDArray[np.int32] = field(repr=False)
    seed: NDArray[np.int64] = field(repr=False)
    fold: NDArray[np.int64] = field(repr=False)
    task: NDArray[np.int32] = field(repr=False)
    score: NDArray[np.float64] = field(repr=False)
    replicates: tuple[NDArray[Any], NDArray[np.float32]] | None = field(default=None, repr=False)


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


class Trainer(Protocol):
    """Trains packs under one choice of settings. Built once per worker process by a `TrainerFactory`."""

    def train(self, pack: Pack) -> PackResult:
        """A score for every (unit, task); a unit that diverges or collapses is a failed row and changes no other unit.

        Raises:
            OutOfMemory: the pack does not fit; any other exception says that it cannot be trained at all.
        """
        ...

    def with_settings(self, settings: str) -> Trainer:
        """A trainer of the same payload under other settings; it may share what this one has prepared.

        Args:
            settings: canonical JSON of the settings that differ from the payload's.
        """
        ...


class TrainerFactory(Protocol):
    """An importable callable that turns a picklable payload (cohort arrays, settings) into a trainer."""

    def __call__(self, payload: Any) -> Trainer: ...


@dataclass(frozen=True, slots=True)
class Resources:
    """What one worker holds. `gpus` may be a fraction; `workers` 0 means as many as the cluster has room for."""

    cpus: float = 1.0
    gpus: float = 0.0
    workers: int = 0
    extra: Mapping[str, float] = field(default_factory=dict)


def subset(names: Iterable[str]) -> Subset:
    """Sorted, duplicate-free tuple of task names; raises ValueError when empty."""
    result = tuple(sorted(set(names)))
    if not result:
        raise ValueError("a subset holds at least one task")
    return result


def some(names: Sequence[str], most: int = 6) -> str:
    """`a, b, c`; of more than `most` names the first ones, and how many more there are."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def duration(seconds: float) -> str:
    """`45 s`, `12 min`, `3.4 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def near(name: str, names: Iterable[str]) -> str:
    """` Did you mean X?` where one of the names is like `name`, else nothing."""
    matches = get_close_matches(name, list(names), n=1)
    return f" Did you mean {matches[0]}?" if matches else ""


@cache
def product_version() -> str:
    """Version of the installed product, "unknown" where it runs from a folder without being installed."""
    try:
        return version("tim-search")
    except PackageNotFoundError:
        return "unknown"


def canonical(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def digest(value: Any) -> str:
    """First 16 hexadecimal digits of the SHA-256 of `canonical(value)`."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()[:16]


def failed(pack: Pack, error: str, tasks: Mapping[str, Task], attempts: int = 1) -> PackResult:
    """The result of a pack that could not be trained: one failed row a unit and task."""
    rows = tuple(
        Score(unit, name, tasks[name].metric, unit.part, float("nan"), "failed", error)
        for unit in pack.units
        for name in unit.subset
    )
    return PackResult(pack, rows, attempts=attempts)
