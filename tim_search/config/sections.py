"""The sections of a search file: every key, what it may hold, and the words that refuse the rest."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticCustomError

from tim_search.gates import files, reading, urls
from tim_search.ledger import storage
from tim_search.plans.contract import MOST_BLOCKS
from tim_search.tuning.space import TuningSection
from tim_search.types import BadInput

# Bounds of what a file may ask for: far above what anyone trains, and below what would never end or fit a memory.
#: Tasks of a combination, combinations of a beam, helpers of a source.
MOST_TASKS = 1_000
#: Subsets of a search, units of a pack, and patients of a hidden count.
MOST_SUBSETS = 1_000_000
#: Rounds of a surrogate, and proposals in each.
MOST_ROUNDS = 10_000
#: Of one worker: cores, GPUs and seconds a pack (three years); and workers of a cluster.
MOST_CORES, MOST_GPUS, MOST_SECONDS, MOST_WORKERS = 10_000, 1_000, 100_000_000, 100_000


def _error(text: str, *at: str) -> PydanticCustomError:
    """An error whose message is complete as it is; `at` leads on from the place where it is raised."""
    return PydanticCustomError("search.value", "{text}", {"text": text, "at": at})


def _names(value: Any) -> Any:
    """`all` -> None; a list of distinct names stays; anything else is an error that says how to write it."""
    if value is None or value == "all":
        return None
    if isinstance(value, str):
        raise _error(f"expected `all` or a list, got {value}. Write [{value}]")
    if isinstance(value, list | tuple):
        if not value:
            raise _error("expected `all` or a list of at least one name, got an empty list")
        twice = sorted({str(name) for name in value if value.count(name) > 1})
        if twice:
            raise _error(f"named more than once: {', '.join(twice)}. Name every task once")
    return value


def _left_out(value: Any) -> Any:
    """A list of distinct names stays; anything else is an error that says how to write it."""
    if value is None:
        raise _error("expected a list of task names, got nothing. Name the tasks to leave out")
    if not isinstance(value, list | tuple):
        raise _error(f"expected a list of task names, got {reading.short(value)}. Write [a, b]")
    if not value:
        raise _error("expected a list of at least one task name, got an empty list. Write `tasks: all`")
    return _names(value)


def _path(value: Any) -> Any:
    """A path that a file can have stays; another is an error, as is an empty text, which would mean "here"."""
    if isinstance(value, str) and not value.strip():
        raise _error(f"expected a path, got the empty text {value!r}. Write one, or leave the line out")
    if isinstance(value, str | Path):
        try:
            files.checked_path(value)
        except BadInput as error:
            raise _error(str(error).removesuffix(".")) from None
    return value


def _tracking_uri(value: Any) -> Any:
    """A URI stays; one whose host or port nobody can have is an error."""
    if isinstance(value, str) and value.startswith("http"):
        try:
            urls.Recipient.of(value)
        except BadInput as error:
            raise _error(str(error).removesuffix(" Correct it.").rstrip(".") + ". Correct it") from None
    return value


def _ledger(value: Any) -> Any:
    """A path, or a URL that stays text; a URL that is no place for a ledger is an error."""
    if value is None or isinstance(value, Path):
        return value
    if not isinstance(value, str):
        raise _error(f"expected a folder, or s3://bucket/prefix, got {reading.short(value)}. Change it")
    if not storage.is_url(value):
        return Path(_path(value))
    try:
        storage.check(value, "the search file")
    except BadInput as error:
        raise _error(str(error).removeprefix("ledger: ")) from None
    return value


_DESIGNS = (
    "Write `exact`, `pairs`, `sized: 3`, `sampled: 200`, `sampled: {stop: {top_k: 3}}`, `greedy`, "
    "`greedy: {beam: 3, max_size: 3}` or `surrogate: {rounds: 6}`"
)


def _design(value: Any) -> Any:
    """The short forms of a design -> the mapping with `kind` that pydantic reads."""
    if value is None or isinstance(value, BaseModel):
        return value
    short: Any = {value: None} if isinstance(value, str) else value
    if value == "pairs":
        short = {"sized": 2}
    if not isinstance(short, dict) or len(short) != 1:
        raise _error(f"expected one design, got {reading.short(value)}. {_DESIGNS}")
    ((kind, setting),) = short.items()
    if kind == "exact" and setting is None:
        return {"kind": "exact"}
    if kind == "sampled" and (isinstance(setting, dict) or isinstance(value, str)):
        return {"kind": "sampled", **(setting or {})}
    if kind in ("sized", "sampled"):
        if isinstance(setting, bool) or not isinstance(setting, int) or setting < 1:
            given = "nothing" if setting is None else reading.short(setting)
            raise _error(f"expected a whole number of at least 1 after `{kind}:`, got {given}. {_DESIGNS}")
        return {"kind": kind, "k" if kind == "sized" else "n": setting}
    if kind in ("greedy", "surrogate") and (setting is None or isinstance(setting, dict)):
        return {"kind": kind, **(setting or {})}
    raise _error(f"no such design: {reading.short(value)}. {_DESIGNS}")


class _Section(BaseModel):
    """Base of the sections of a search file: immutable, and a key it does not know is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class AllBut(_Section):
    """All tasks of the cohort but these; `name in` it tells whether a task is one of the search's."""

    all_but: Annotated[tuple[str, ...], BeforeValidator(_left_out)] = Field(description="a list of task names")

    def __contains__(self, name: object) -> bool:
        return name not in self.all_but


_LISTED, _LEFT_OUT = reading.FORM + "list", reading.FORM + "but"
_Tasks: TypeAlias = Annotated[
    Annotated[tuple[str, ...], Tag(_LISTED)] | Annotated[AllBut, Tag(_LEFT_OUT)],
    Discriminator(lambda value: _LEFT_OUT if isinstance(value, dict | AllBut) else _LISTED),
]


class ExactDesign(_Section):
    """Every non-empty subset of the tasks."""

    kind: Literal["exact"] = "exact"


class SizedDesign(_Section):
    """Every subset of at most `k` tasks."""

    kind: Literal["sized"] = "sized"
    k: int = Field(
        ge=1, le=MOST_TASKS, description=f"a whole number from 1 to {MOST_TASKS} (tasks in the largest subset)"
    )


class StopSection(_Section):
    """When a sampled search stops (see `tim_search.plans.sequential`)."""

    top_k: int = Field(
        default=3,
        ge=1,
        le=MOST_TASKS,
        description=f"a whole number from 1 to {MOST_TASKS} (best helpers of each source)",
    )
    overlap: float = Field(
        default=0.9, gt=0, le=1, description="a number above 0 and up to 1 (share of them that another search names)"
    )
    false_sign: float = Field(
        default=0.05, gt=0, le=1, description="a number above 0 and up to 1 (mean chance that a sign is wrong)"
    )
    max_subsets: int | None = Field(
        default=None,
        ge=1,
        le=MOST_SUBSETS,
        description=f"a whole number from 1 to {MOST_SUBSETS} (subsets to stop at in any case)",
    )


class SampledDesign(_Section):
    """`n` subsets of any size, chosen so that the tasks meet one another evenly; or as many as `stop` finds enough."""

    kind: Literal["sampled"] = "sampled"
    n: int | None = Field(
        default=None, ge=1, le=MOST_SUBSETS, description=f"a whole number from 1 to {MOST_SUBSETS} (subsets)"
    )
    stop: StopSection | None = Field(default=None, description="top_k, overlap, false_sign and max_subsets")
    sliced: bool | None = Field(
        default=None, description="true or false (whether each block trains subsets of its own; default: true)"
    )
    control: bool = Field(default=True, description="true or false (whether a task with permuted labels joins)")

    @model_validator(mode="after")
    def _one_length(self) -> SampledDesign:
        if self.n is not None and self.stop is not None:
            raise _error("stands alone, but `stop` is given too. Take one out, or write `max_subsets` in `stop`", "n")
        return self


class _Expanding(_Section):
    """What designs share that look for the best combination of each source task."""

    rule: Literal["lower_bound", "paper"] = Field(default="lower_bound", description="lower_bound or paper")
    confidence: float = Field(default=0.95, gt=0, lt=1, description="a number between 0 and 1, such as 0.95")
    tolerance: float = Field(
        default=0.0, ge=0, allow_inf_nan=False, description="a number of at least 0 (gains up to it do not count)"
    )
    sources: Annotated[tuple[str, ...] | None, BeforeValidator(_names)] = Field(
        default=None, description="`all` or a list of task names"
    )


class GreedyDesign(_Expanding):
    """Greedy expansion of every source task (M3H paper, section 4.3)."""

    kind: Literal["greedy"] = "greedy"
    beam: int = Field(
        default=3,
        ge=1,
        le=MOST_TASKS,
        description=f"a whole number from 1 to {MOST_TASKS} (combinations kept at each size)",
    )
    max_size: int = Field(
        default=3,
        ge=2,
        le=MOST_TASKS,
        description=f"a whole number from 2 to {MOST_TASKS} (tasks in the largest combination)",
    )


class SurrogateDesign(_Expanding):
    """Subsets of any size that a model of the scores finds most promising (see `tim_search.plans.surrogate`)."""

    kind: Literal["surrogate"] = "surrogate"
    rounds: int = Field(
        default=6, ge=0, le=MOST_ROUNDS, description=f"a whole number from 0 to {MOST_ROUNDS} (rounds of proposals)"
    )
    batch: int = Field(
        default=1,
        ge=1,
        le=MOST_ROUNDS,
        description=f"a whole number from 1 to {MOST_ROUNDS} (proposals of each source a round)",
    )
    max_size: int | None = Field(
        default=None,
        ge=2,
        le=MOST_TASKS,
        description=f"a whole number from 2 to {MOST_TASKS} (tasks in the largest combination)",
    )


Design: TypeAlias = ExactDesign | SizedDesign | SampledDesign | GreedyDesign | SurrogateDesign


class ResourcesSection(_Section):
    """What one worker holds, and how many workers there may be."""

    cpus: float = Field(
        default=1.0, gt=0, le=MOST_CORES, description=f"a number above 0 and up to {MOST_CORES} (CPU cores a worker)"
    )
    gpus: float = Field(
        default=0.0,
        ge=0,
        le=MOST_GPUS,
        description=f"a number from 0 to {MOST_GPUS} (GPUs a worker; 0.5 puts two workers on a GPU)",
    )
    workers: int = Field(
        default=0,
        ge=0,
        le=MOST_WORKERS,
        description=f"a whole number from 0 to {MOST_WORKERS} (0: as many workers as the cluster has room for)",
    )
    time_limit: float | None = Field(
        default=None,
        gt=0,
        le=MOST_SECONDS,
        description=f"a number above 0 and up to {MOST_SECONDS} (seconds a pack may take before its worker is ended)",
    )


def _default_network() -> str:
    from model.networks.settings import DEFAULT_NETWORK

    return DEFAULT_NETWORK


_KEYS = (
    "Take it out of the URL and set the environment instead: MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, "
    "RAY_AUTH_TOKEN, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
)


class SearchFile(_Section):
    """A search file. Only `cohort` has no default; after `load` every path in it is absolute."""

    cohort: Annotated[str, BeforeValidator(_path)] = Field(
        min_length=1, description="`support2` or `diabetes130` (built in) or the path of a cohort folder"
    )
    name: str = Field(
        default="search",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        max_length=100,  # folders and files are named by it
        description="a name of up to 100 letters, digits, `.`, `_` and `-`",
    )
    tasks: Annotated[_Tasks | None, BeforeValidator(_names)] = Field(
        default=None, description="`all`, a list of task names or {all_but: [...]}"
    )
    network: str = Field(default_factory=_default_network, description="the name of a network")
    training: dict[str, Any] = Field(default_factory=dict, description="settings of the network, such as `epochs: 15`")
    tuning: Annotated[TuningSection | None, BeforeValidator(lambda value: {} if value is None else value)] = Field(
        default=None, description="scope, space, sampler and trials"
    )
    design: Annotated[Annotated[Design, Field(discriminator="kind")] | None, BeforeValidator(_design)] = Field(
        default=None, description="a design"
    )
    references: bool = Field(
        default=True, description="true or false (whether each task alone is set beside simple models)"
    )
    seeds: tuple[Annotated[int, Field(ge=0, le=2**31 - 1)], ...] | None = Field(
        default=None,
        min_length=1,
        max_length=MOST_BLOCKS,
        description=f"a list of up to {MOST_BLOCKS} whole numbers from 0 to 2147483647, such as [0, 1]",
    )
    folds: tuple[Annotated[int, Field(ge=0)], ...] | None = Field(
        default=None,
        min_length=1,
        max_length=MOST_BLOCKS,
        description=f"a list of up to {MOST_BLOCKS} fold numbers, such as [0, 1]",
    )
    blocks: int | None = Field(
        default=None, ge=1, le=MOST_BLOCKS, description=f"a whole number from 1 to {MOST_BLOCKS}"
    )
    resources: ResourcesSection = Field(default=ResourcesSection(), description="cpus, gpus and workers")
    capacity: int | None = Field(
        default=None,
        ge=1,
        le=MOST_SUBSETS,
        description=f"a whole number from 1 to {MOST_SUBSETS} (units trained as one pack)",
    )
    device: str = Field(
        default="auto", pattern=r"^(auto|cpu|cuda(:\d{1,2})?)$", description="auto, cpu, cuda or cuda:0 to cuda:99"
    )
    address: str | None = Field(
        default=None, min_length=1, description="a Ray address such as auto or ray://head:10001, or serial"
    )
    out: Annotated[Path | None, BeforeValidator(_path)] = Field(
        default=None, description="a folder for everything the search writes"
    )
    ledger: Annotated[Path | str | None, BeforeValidator(_ledger)] = Field(
        default=None, description="a folder for the ledger, or s3://bucket/prefix"
    )
    small_cells: int = Field(
        default=0,
        ge=0,
        strict=True,  # true is no 1
        le=MOST_SUBSETS,
        description="a whole number, 0 or 3 and more: counts of fewer patients are in nothing that is written",
    )
    tracking_uri: Annotated[str | None, BeforeValidator(_tracking_uri)] = Field(
        default=None,
        pattern=r"^(https?://[^\s/]|sqlite:////)\S+$",
        description="an MLflow URI: http(s)://host:port or sqlite:////absolute/path/mlflow.db",
    )

    @model_validator(mode="after")
    def _consistent(self) -> SearchFile:
        if self.blocks is not None and (self.seeds is not None or self.folds is not None):
            text = "stands alone (block b: seed b, fold b modulo the number of folds), but seeds or folds are given too"
            raise _error(f"{text}. Take out `blocks`, or `seeds` and `folds`", "blocks")
        if (pairs := len(set(self.seeds or (0,))) * len(set(self.folds or (0,)))) > MOST_BLOCKS:
            text = f"seeds and folds make {pairs} blocks, a search has {MOST_BLOCKS} at most"
            raise _error(f"{text}. Name fewer", "seeds")
        if self.small_cells in (1, 2):
            text = "below 2 there is no count to hide, and a hidden count below 2 can only be 1"
            raise _error(f"expected 0, or 3 and more: {text}, got {self.small_cells}. Take 3 or more", "small_cells")
        for name in ("tracking_uri", "address", "ledger"):
            value = getattr(self, name)
            if isinstance(value, str) and urls.holds_secret(value):
                raise _error(
                    f"a search file is copied beside its results and may hold no password or key. {_KEYS}", name
                )
        return self

    @property
    def leaves_blocks_open(self) -> bool:
        """Whether the file says nothing of blocks."""
        return self.blocks is None and self.seeds is None and self.folds is None

    @property
    def tunes_every_subset(self) -> bool:
        """Whether each subset is trained with settings of its own."""
        return self.tuning is not None and self.tuning.scope == "per_subset"
