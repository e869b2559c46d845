"""The search file: YAML that names a cohort, tasks, training, a design and the machines, checked before anything runs.

`load` reads and checks the file alone; `resolve` opens the cohort and turns the file into values that can be run.
Everything wrong is collected and told at once: where it stands, what was expected, what was given, what to do next.
"""

from __future__ import annotations

import dataclasses
import os
import urllib.parse
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    TypeAdapter,
    ValidationError,
    model_validator,
)
from pydantic_core import PydanticCustomError

from tim_search.gates import reading
from tim_search.ledger import storage
from tim_search.loop.manifest import Manifest
from tim_search.plans import record as plans
from tim_search.plans.static import Plan
from tim_search.tuning import choices, per_subset, space
from tim_search.tuning.choices import Study
from tim_search.tuning.per_subset import PerSubset
from tim_search.tuning.space import TuningSection
from tim_search.types import BadInput, Context, Finding, Resources, Subset, Task, TrainerFactory, subset

if TYPE_CHECKING:
    from model.cohorts.cohort import Cohort

#: The exact design is the default up to this many tasks (1,023 subsets), and refused above EXACT_LIMIT (65,535).
EXACT_DEFAULT = 10
EXACT_LIMIT = 16
#: Subsets of the sampled design for each task of the search. In simulated games of 12 tasks with noise of 0.3 standard
#: deviations, 200 sampled subsets put the right three helpers on top in nine of ten cases.
SAMPLED_PER_TASK = 16
#: The most subsets for each task that a sampled design with a stopping rule trains, where the file names no limit.
LIMIT_PER_TASK = 64
#: Blocks of a sampled design where the file names none: with as many folds, all training patients are evaluated.
SAMPLED_BLOCKS = 5
#: ... of the other designs: the fewest that tell an effect from the luck of a seed.
USUAL_BLOCKS = 2


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


def _ledger(value: Any) -> Any:
    """A path, or a URL that stays text; a URL that is no place for a ledger is an error."""
    if value is None or isinstance(value, Path):
        return value
    if not isinstance(value, str):
        raise _error(f"expected a folder, or s3://bucket/prefix, got {reading.short(value)}. Change it")
    if not storage.is_url(value):
        return Path(value)
    try:
        storage.check(value)
    except BadInput as error:
        raise _error(str(error).removeprefix("ledger: ")) from None
    return value


_DESIGNS = (
    "Write `exact`, `sized: 2`, `sampled: 200`, `sampled: {stop: {top_k: 3}}`, `greedy`, "
    "`greedy: {beam: 3, max_size: 3}` or `surrogate: {rounds: 6}`"
)


def _design(value: Any) -> Any:
    """The short forms of a design -> the mapping with `kind` that pydantic reads."""
    if value is None or isinstance(value, BaseModel):
        return value
    short = {value: None} if isinstance(value, str) else value
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
    k: int = Field(ge=1)


class StopSection(_Section):
    """When a sampled search stops (see `tim_search.plans.stopping`)."""

    top_k: int = Field(default=3, ge=1, description="a whole number of at least 1 (best helpers of each source)")
    overlap: float = Field(
        default=0.9, gt=0, le=1, description="a number above 0 and up to 1 (share of them that another search names)"
    )
    false_sign: float = Field(
        default=0.05, gt=0, le=1, description="a number above 0 and up to 1 (mean chance that a sign is wrong)"
    )
    max_subsets: int | None = Field(
        default=None, ge=1, description="a whole number of at least 1 (subsets to stop at in any case)"
    )


class SampledDesign(_Section):
    """`n` subsets of any size, chosen so that the tasks meet one another evenly; or as many as `stop` finds enough."""

    kind: Literal["sampled"] = "sampled"
    n: int | None = Field(default=None, ge=1, description="a whole number of at least 1 (subsets)")
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
    beam: int = Field(default=3, ge=1, description="a whole number of at least 1 (combinations kept at each size)")
    max_size: int = Field(
        default=3, ge=2, description="a whole number of at least 2 (tasks in the largest combination)"
    )


class SurrogateDesign(_Expanding):
    """Subsets of any size that a model of the scores finds most promising (see `tim_search.plans.surrogate`)."""

    kind: Literal["surrogate"] = "surrogate"
    rounds: int = Field(default=6, ge=0, description="a whole number of at least 0 (rounds of proposals)")
    batch: int = Field(default=1, ge=1, description="a whole number of at least 1 (proposals of each source a round)")
    max_size: int | None = Field(
        default=None, ge=2, description="a whole number of at least 2 (tasks in the largest combination)"
    )


Design: TypeAlias = ExactDesign | SizedDesign | SampledDesign | GreedyDesign | SurrogateDesign


class ResourcesSection(_Section):
    """What one worker holds, and how many workers there may be."""

    cpus: float = Field(default=1.0, gt=0, description="a number above 0 (CPU cores a worker)")
    gpus: float = Field(
        default=0.0, ge=0, description="a number of at least 0 (GPUs a worker; 0.5 puts two workers on a GPU)"
    )
    workers: int = Field(default=0, ge=0, description="a whole number (0: as many workers as the cluster has room for)")
    time_limit: float | None = Field(
        default=None, gt=0, description="a number above 0 (seconds a pack may take before its worker is ended)"
    )


def _default_network() -> str:
    from model.networks.settings import DEFAULT_NETWORK

    return DEFAULT_NETWORK


class SearchFile(_Section):
    """A search file. Only `cohort` has no default; after `load` every path in it is absolute."""

    cohort: str = Field(min_length=1, description="`support2` (built in) or the path of a cohort folder")
    name: str = Field(
        default="search",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        description="a name of letters, digits, `.`, `_` and `-`",
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
    seeds: tuple[Annotated[int, Field(ge=0, le=2**31 - 1)], ...] | None = Field(
        default=None, min_length=1, description="a list of whole numbers from 0 to 2147483647, such as [0, 1]"
    )
    folds: tuple[Annotated[int, Field(ge=0)], ...] | None = Field(
        default=None, min_length=1, description="a list of fold numbers, such as [0, 1]"
    )
    blocks: int | None = Field(default=None, ge=1, description="a whole number of at least 1")
    resources: ResourcesSection = Field(default=ResourcesSection(), description="cpus, gpus and workers")
    capacity: int | None = Field(
        default=None, ge=1, description="a whole number of at least 1 (units trained as one pack)"
    )
    device: str = Field(default="auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="auto, cpu, cuda or cuda:0")
    address: str | None = Field(
        default=None, min_length=1, description="a Ray address such as auto or ray://head:10001"
    )
    out: Path | None = Field(default=None, description="a folder for everything the search writes")
    ledger: Annotated[Path | str | None, BeforeValidator(_ledger)] = Field(
        default=None, description="a folder for the ledger, or s3://bucket/prefix"
    )
    small_cells: int = Field(
        default=0, ge=0, description="a whole number: counts of fewer patients are in nothing that is written"
    )
    tracking_uri: str | None = Field(
        default=None,
        pattern=r"^(https?://[^\s/]|sqlite:////)\S+$",
        description="an MLflow URI: http(s)://host:port or sqlite:////absolute/path/mlflow.db",
    )

    @model_validator(mode="after")
    def _consistent(self) -> SearchFile:
        if self.blocks is not None and (self.seeds is not None or self.folds is not None):
            text = "stands alone (block b: seed b, fold b modulo the number of folds), but seeds or folds are given too"
            raise _error(f"{text}. Take out `blocks`, or `seeds` and `folds`", "blocks")
        if self.tracking_uri and "@" in urllib.parse.urlsplit(self.tracking_uri).netloc:
            text = "a search file is copied beside its results and may hold no password"
            raise _error(f"{text}. Set MLFLOW_TRACKING_URI in the environment instead", "tracking_uri")
        return self


@dataclass(frozen=True, eq=False)
class ResolvedSearch:
    """A search file that can be run: cohort opened, tasks, settings, plan and places fixed.

    Attributes:
        file: the search file, every path absolute.
        cohort: the cohort with the tasks of the search (a negative control among them) and the input columns that none
            of them excludes.
        tasks: the tasks by name, in the order of the search; a negative control comes last.
        settings: the network's own settings dataclass.
        context: what every score of this search depends on besides its unit.
        plan: which subsets are wanted, given what is trained (see `tim_search.loop.run.Plan`).
        design: the design in full, as it is written to `search.json`.
        sources: tasks that are expanded and reported; a negative control is none of them.
        blocks: (seed, fold) pairs; every subset is trained once in each, in a sliced design in one of them.
        capacity: units a pack.
        untuned: the settings as the file has them, before tuning.
        choice: the tuned settings that `settings` holds; None where nothing was tuned, or not yet.
    """

    file: SearchFile
    cohort: Cohort
    tasks: Mapping[str, Task]
    settings: Any
    context: Context
    plan: Plan
    design: Mapping[str, Any]
    sources: tuple[str, ...]
    blocks: tuple[tuple[int, int], ...]
    out: Path
    ledger: Path | str
    tracking_uri: str
    capacity: int
    resources: Resources
    untuned: Any = None
    choice: Mapping[str, Any] | None = None

    @property
    def awaits_tuning(self) -> bool:
        """Whether the file asks for tuning before the search and no choice is kept in the output folder."""
        return self.file.tuning is not None and self.own is None and self.choice is None

    @property
    def own(self) -> PerSubset | None:
        """What is compared where every subset has settings of its own; None where all share theirs."""
        return per_subset.of(self.context)


def load(path: str | Path, *, allow_code: bool = False) -> SearchFile:
    """Read a search file; raises BadInput with everything that is wrong in it.

    Only with `allow_code` may it name a network of one's own, whose module is then imported.
    """
    search, findings = read(path, allow_code=allow_code)
    if search is None:
        raise BadInput(_report(path, findings))
    return search


def read(path: str | Path, *, allow_code: bool = False) -> tuple[SearchFile | None, list[Finding]]:
    """Read a search file without raising: the file (None when it cannot be used) and all findings."""
    path = Path(path)
    try:
        raw, lines = reading.parse(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError:
        return None, [Finding(str(path), "expected UTF-8 text, got other bytes.", "Name a YAML file.")]
    except IsADirectoryError:
        return None, [Finding(str(path), "expected a search file (YAML), got a folder.", _about_folder(path))]
    except OSError as error:
        return None, [Finding(str(path), f"cannot be read: {error.strerror}.", "Name a search file.")]
    except yaml.YAMLError as error:
        return None, [Finding(str(path), f"is not valid YAML: {reading.yaml_problem(error)}.", "Mend that line.")]
    if not isinstance(raw, dict):
        given = "an empty file" if raw is None else reading.short(raw)
        fix = "A search file needs at least the line `cohort: support2`."
        if path.suffix in (".csv", ".parquet"):
            fix = f"A table becomes a cohort first: tim-search cohort init {path}"
        return None, [Finding(str(path), f"expected a mapping of settings, got {given}.", fix)]
    search, findings = None, []
    try:
        search = SearchFile.model_validate(raw)
    except ValidationError as error:
        inner = {"resources": ResourcesSection, "greedy": GreedyDesign, "sampled": SampledDesign, "stop": StopSection}
        inner |= {"surrogate": SurrogateDesign, "tuning": TuningSection, "tasks": AllBut}
        findings = reading.findings(error, SearchFile, lines, inner)
    if isinstance(raw.get("training", {}), dict):
        findings += _settings(raw.get("network", _default_network()), raw.get("training", {}), lines, allow_code)[1]
    if search is not None and not findings:
        findings = _space(search, lines)[1]
    if search is None or findings:
        return None, findings
    return _absolute(search, path, named="name" in raw), []


def _about_folder(path: Path) -> str:
    """What to name instead of a folder."""
    if (path / "search.yaml").is_file():
        return f"It holds a search; to go on with it: tim-search run {path / 'search.yaml'} --out {path}"
    if (path / "cohort.yaml").is_file():
        return f"It holds a cohort: write the line `cohort: {path}` into a file, and name that file."
    return "Name a search file; it needs at least the line `cohort: support2`."


def check(path: str | Path, *, allow_code: bool = False) -> list[Finding]:
    """Everything wrong with a search file, its cohort and its tasks included; empty when it can be run."""
    from model.sources.opening import check_cohort

    search, findings = read(path, allow_code=allow_code)
    if search is None:
        return findings
    findings = check_cohort(search.cohort, search.tasks or ())
    if any(finding.severity == "error" for finding in findings):
        return findings
    if search.tasks:
        # What is odd about a task that the search leaves out is told of the cohort, not of the search.
        findings = [
            one
            for one in findings
            if not one.place.startswith("tasks.") or one.place.removeprefix("tasks.") in search.tasks
        ]
    try:
        return findings + _open(search, allow_code)[-1]
    except BadInput as error:
        return [*findings, Finding(str(path), str(error), "")]


def resolve(search: SearchFile, out: str | Path | None = None, *, allow_code: bool = False) -> ResolvedSearch:
    """Open the cohort and fix everything the search file leaves open.

    Args:
        search: a search file.
        out: the output folder; overrides the file's. Default: runs/NAME under the current folder.
        allow_code: whether a network of one's own may be imported.

    Raises:
        BadInput: with every finding, when the file does not fit its cohort.
    """
    # Imported here: torch.
    from model.networks.registry import identity

    cohort, settings, design, control, findings = _open(search, allow_code)
    if findings:
        raise BadInput(_report(f"search {search.name}", findings))
    names = tuple(cohort.tasks)
    folder = Path(out or search.out or Path("runs") / search.name).resolve()
    blocks = _begun(search, design, folder) or _blocks(search, design, cohort.split.n_folds)
    record = _record(design, names, blocks[0][0], control, sliced=not _for_every_subset(search))
    uri = tracking_uri(search.tracking_uri, folder)
    odd = sorted(set("?#%") & set(uri)) if uri.startswith("sqlite:") else []
    if odd:
        raise BadInput(
            f"MLflow's database would be {uri.removeprefix('sqlite:///')}, and a path with {' or '.join(odd)} "
            "in it MLflow takes for another one. Name another output folder with --out, or another tracking_uri "
            "(http://host:port, or sqlite:////absolute/path/mlflow.db)."
        )
    untuned, choice = settings, None
    context = Context(
        cohort.fingerprint, cohort.columns_digest, cohort.split.digest, identity(search.network), settings.text
    )
    if _for_every_subset(search):
        context = per_subset.context_of_search(context, _space(search, {})[0], blocks)
    elif search.tuning is not None:
        choice = choices.kept(folder, _study(search, context, cohort, blocks, control))
        settings = dataclasses.replace(settings, **(choice or {}))
        context = dataclasses.replace(context, settings=settings.text)
    return ResolvedSearch(
        file=search,
        cohort=cohort,
        tasks=cohort.tasks,
        settings=settings,
        context=context,
        plan=plans.make(record, names),
        design=record,
        sources=tuple(record.get("sources", [name for name in names if name != control])),
        blocks=blocks,
        out=folder,
        ledger=search.ledger or folder / "ledger",
        tracking_uri=uri,
        capacity=search.capacity or min(_capacity(search, cohort, one, record) for one in _tried(context, settings)),
        resources=Resources(search.resources.cpus, search.resources.gpus, search.resources.workers),
        untuned=untuned,
        choice=choice,
    )


def tracking_uri(named: str | None, folder: Path) -> str:
    """Where a search publishes: what its file names, else the environment, else a database in its folder."""
    return named or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{folder / 'mlflow.db'}"


def study(found: ResolvedSearch, own: Subset | None = None) -> Study:
    """What tuning compares for a search: every task alone and all tasks together, or one subset of its own.

    A search file without a `tuning` section takes the paper's space.
    """
    context = dataclasses.replace(found.context, settings=found.untuned.text)
    control = found.design.get("control")
    return _study(found.file, context, found.cohort, found.blocks, control, own)


def _study(
    search: SearchFile,
    context: Context,
    cohort: Cohort,
    blocks: Sequence[tuple[int, int]],
    control: str | None,
    own: Subset | None = None,
) -> Study:
    section = search.tuning or TuningSection()
    values, findings = _space(search.model_copy(update={"tuning": section}), {})
    if findings:
        raise BadInput(_report(f"search {search.name}", findings))
    tasks = {name: task for name, task in cohort.tasks.items() if name != control}
    both = dict.fromkeys([*(subset([name]) for name in tasks), subset(tasks)])
    folds = tuple(range(cohort.split.n_folds))
    n_trials = space.trials(section, values)
    subsets = tuple(both) if own is None else (own,)
    return Study(context, values, section.sampler, n_trials, tasks, subsets, blocks[0][0], folds)


def training(found: ResolvedSearch) -> tuple[TrainerFactory, Any]:
    """(factory, payload) that an executor needs to train this search's packs."""
    # Imported here: torch.
    from model.training.trainer import TrainingPayload, trainer

    threads = max(1, int(found.resources.cpus))
    payload = TrainingPayload(found.cohort, found.context.network, found.settings, found.file.device, threads)
    return trainer, payload


def confirming(
    found: ResolvedSearch,
    settings: Any,
    chosen: Mapping[str, Subset],
    ensemble: int,
    groups: Iterable[str],
    map_seed: int,
) -> tuple[TrainerFactory, Any]:
    """(factory, payload) that an executor needs to confirm combinations on the test patients.

    Args:
        settings: of the network, as the confirmation has them.
        chosen: source -> combination.
        ensemble: the most single-task models that are averaged.
        groups: input columns by which calibration is shown apart.
        map_seed: the seed whose clusterings are laid out in two dimensions.

    Raises:
        BadInput: for a column that is no input of the search.
    """
    # Imported here: torch.
    from model.trained.confirming import ConfirmingPayload, subgroups, trainer

    _, payload = training(found)
    maps = {
        (members, source)
        for source, combination in chosen.items()
        if found.tasks[source].kind == "clustering"
        for members in (combination, (source,))
    }
    by_group = {name: rows for column in groups for name, rows in subgroups(found.cohort, column).items()}
    return trainer, ConfirmingPayload(
        dataclasses.replace(payload, settings=settings),
        ensemble,
        by_group,
        frozenset(maps),
        map_seed,
        found.file.small_cells,
    )


def cohort_record(found: ResolvedSearch) -> dict[str, Any]:
    """The cohort of the search in counts and shares, as its report shows it (see `model.cohorts.manifest.describe`)."""
    from model.cohorts.manifest import describe

    return describe(found.cohort)


def cost(found: ResolvedSearch, subsets: Sequence[Subset]) -> Callable[[int, int], float] | None:
    """Seconds of one worker for a unit, by (tasks, clustering tasks), measured on this machine.

    None where the workers hold GPUs and this machine has none.
    """
    from model.training.cost import calibrate_together, gpus_here

    gpus = found.resources.gpus
    if gpus and not gpus_here():
        return None
    _, payload = training(found)
    # Workers with GPUs of their own do not hinder one another much: as many are timed as share one.
    together = max(1, int(1 / gpus)) if gpus else _workers_here(found.resources)
    return calibrate_together(payload, subsets, found.capacity, together).unit_seconds


def room_here(resources: Resources | ResourcesSection) -> int:
    """Workers that this machine would hold; where it has no GPU but they do, as many as its cores allow."""
    room = int((os.cpu_count() or 1) // resources.cpus)
    if not resources.gpus:
        return room
    # Imported here: torch.
    from model.training.cost import gpus_here

    return min(room, int(gpus_here() / resources.gpus)) if gpus_here() else room


def dump(search: SearchFile) -> str:
    """The search file as YAML with every setting spelled out; `load` reads it back to an equal value."""
    plain = search.model_dump(mode="json", exclude_none=True)
    match search.design:
        case ExactDesign():
            plain["design"] = "exact"
        case SizedDesign(k=k):
            plain["design"] = {"sized": k}
        case SampledDesign() | GreedyDesign() | SurrogateDesign():
            kind = plain["design"].pop("kind")
            plain["design"] = {kind: plain["design"]}
    return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)


def _open(search: SearchFile, allow_code: bool) -> tuple[Cohort, Any, Design, str | None, list[Finding]]:
    """(cohort with the tasks of the search, settings, design, name of the control, what does not fit)."""
    # Imported here: a cohort needs pandas and pyarrow, which reading a search file does not.
    from model.cohorts.control import SUFFIX, control_of, with_control
    from model.sources.opening import open_cohort

    settings, findings = _settings(search.network, search.training, {}, allow_code)
    cohort = open_cohort(search.cohort, search.tasks or ())
    names, unfit = _named(search.tasks, cohort.tasks)
    findings += unfit
    design = search.design or _default_design(len(names))
    if not names:
        return cohort, settings, design, None, findings
    copied = control_of({name: cohort.tasks[name] for name in names}) if _wants_control(design) else None
    findings += _misfits(design, names, len(names) + (copied is not None))
    n_folds = cohort.split.n_folds
    if beyond := sorted({fold for fold in search.folds or () if fold >= n_folds}):
        problem = f"expected numbers from 0 to {n_folds - 1}, the folds of the cohort, got {beyond}."
        findings.append(Finding("folds", problem, "Name folds that it has."))
    findings += _untunable(search, design, n_folds)
    if findings:
        return cohort, settings, design, None, findings
    # Imported here: torch, which only a file that is otherwise sound is worth waiting for.
    from model.training.trainer import check_supported

    cohort = cohort.for_tasks(names)
    check_supported(cohort, search.network, settings)
    if copied is None:
        return cohort, settings, design, None, []
    return with_control(cohort, copied), settings, design, copied + SUFFIX, []


def _named(asked: tuple[str, ...] | AllBut | None, known: Iterable[str]) -> tuple[tuple[str, ...], list[Finding]]:
    """The tasks of a search, of those that its cohort has, and what is wrong with what its file says of them."""
    known = tuple(known)
    if not isinstance(asked, AllBut):
        return tuple(name for name in asked or known if name in known), _unknown("tasks", asked or (), known)
    names = tuple(name for name in known if name in asked)
    findings = _unknown("tasks.all_but", asked.all_but, known)
    if not names:
        problem = f"expected to leave a task, got all {len(known)} tasks of the cohort."
        findings.append(Finding("tasks.all_but", problem, "Leave out fewer."))
    return names, findings


def _wants_control(design: Design) -> bool:
    return isinstance(design, SampledDesign) and design.control


def _default_design(m: int) -> Design:
    return ExactDesign() if m <= EXACT_DEFAULT else SampledDesign()


def _misfits(design: Design, names: Sequence[str], m: int) -> list[Finding]:
    """What of a design does not fit the names of the tasks and their number `m`, a control included."""
    match design:
        case ExactDesign() if m > EXACT_LIMIT:
            problem = f"exact trains all 2^{m} - 1 subsets and is meant for up to {EXACT_LIMIT} tasks."
            return [Finding("design", problem, f"Use `sampled: {SAMPLED_PER_TASK * m}`, `sized: 2` or fewer tasks.")]
        case SizedDesign(k=k) if k > m:
            return [Finding("design.sized", f"the search has {m} tasks, got {k}.", f"Use a number from 1 to {m}.")]
        case SampledDesign() if (n := _most(design)) is not None and n >= 2**m:
            with_control = ", the control among them," if m > len(names) else ""
            problem = f"{m} tasks{with_control} have {2**m - 1} subsets, got {n}."
            return [Finding("design.sampled", problem, "Use `exact`.")]
        case GreedyDesign(sources=sources) | SurrogateDesign(sources=sources):
            return _unknown(f"design.{design.kind}.sources", sources or (), names)
    return []


def _most(design: SampledDesign) -> int | None:
    """The number of subsets that a sampled design names; None where it leaves it open."""
    return design.n if design.stop is None else design.stop.max_subsets


def _for_every_subset(search: SearchFile) -> bool:
    return search.tuning is not None and search.tuning.scope == "per_subset"


def _tried(context: Context, settings: Any) -> list[Any]:
    """Every setting that a search trains with: `settings`, or all combinations where every subset has its own."""
    own = per_subset.of(context)
    return [settings] if own is None else [dataclasses.replace(settings, **values) for values in own.values]


def _untunable(search: SearchFile, design: Design, n_folds: int) -> list[Finding]:
    """What of a search keeps its subsets from having settings of their own."""
    if not _for_every_subset(search):
        return []
    findings = []
    if len({fold for _, fold in _blocks(search, design, n_folds)}) < 2:
        problem = "with `scope: per_subset` settings are chosen on other folds than the one that scores; got one fold."
        findings.append(Finding("tuning.scope", problem, f"Take `blocks` out, or write `blocks: {n_folds}`."))
    if isinstance(design, SampledDesign) and design.sliced:
        problem = "with `tuning: {scope: per_subset}` every subset is trained in every block; got sliced: true."
        findings.append(Finding("design.sampled.sliced", problem, "Take it out."))
    return findings


def _record(
    design: Design, names: tuple[str, ...], seed: int, control: str | None, *, sliced: bool = True
) -> dict[str, Any]:
    """A design in full, as `plans.make` and `search.json` have it; `sliced` where it does not say so itself."""
    record = design.model_dump(mode="json")
    if isinstance(design, SampledDesign):
        m = len(names)
        usual = min((SAMPLED_PER_TASK if design.stop is None else LIMIT_PER_TASK) * m, 2**m - 1)
        record = {"kind": "sampled", "n": _most(design) or usual, "seed": seed, "sliced": sliced}
        if design.sliced is not None:
            record["sliced"] = design.sliced
        if control is not None:
            record["control"] = control
        if design.stop is not None:
            record["stop"] = design.stop.model_dump(mode="json", exclude={"max_subsets"})
    if isinstance(design, SurrogateDesign):
        record |= {"max_size": design.max_size or 0, "seed": seed}
    if isinstance(design, GreedyDesign | SurrogateDesign):
        record["sources"] = list(design.sources or names)
    return record


def _begun(search: SearchFile, design: Design, folder: Path) -> tuple[tuple[int, int], ...] | None:
    """The blocks of the search that the folder holds, where the file leaves them open: the default was another once."""
    if not _blocks_open(search) or not (folder / "search.json").exists():
        return None
    try:
        earlier = Manifest.read(folder)
    except BadInput:
        return None  # the run that follows writes it anew
    return earlier.blocks if earlier.design.get("kind") == design.kind else None


def _blocks_open(search: SearchFile) -> bool:
    """Whether a search file says nothing of blocks."""
    return search.blocks is None and search.seeds is None and search.folds is None


def closed(found: ResolvedSearch) -> SearchFile:
    """The search file with the blocks it was resolved to, so that it means the same to every version."""
    blocks = tuple((block, block % found.cohort.split.n_folds) for block in range(len(found.blocks)))
    if not _blocks_open(found.file) or found.blocks != blocks:
        return found.file
    return found.file.model_copy(update={"blocks": len(blocks)})


def _blocks(search: SearchFile, design: Design, n_folds: int) -> tuple[tuple[int, int], ...]:
    """(seed, fold) pairs of a search."""
    blocks = search.blocks
    if _blocks_open(search):
        if _for_every_subset(search):
            blocks = n_folds
        else:
            blocks = SAMPLED_BLOCKS if isinstance(design, SampledDesign) else USUAL_BLOCKS
    if blocks is not None:
        return tuple((block, block % n_folds) for block in range(blocks))
    return tuple(dict.fromkeys((seed, fold) for seed in search.seeds or (0,) for fold in search.folds or (0,)))


def _absolute(search: SearchFile, path: Path, *, named: bool) -> SearchFile:
    """Paths of a search file are relative to the folder it lies in; a file without a name is called by its own."""
    from model.sources import support2

    base = path.resolve().parent
    update: dict[str, Any] = {
        key: storage.below(base, value) for key in ("out", "ledger") if (value := getattr(search, key))
    }
    if search.cohort != support2.NAME:
        update["cohort"] = str((base / search.cohort).resolve())
    if not named:
        stem = "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in path.stem)
        update["name"] = stem.strip("-") or "search"
    return search.model_copy(update=update)


def _settings(
    network: Any, training: Mapping[str, Any], lines: reading.Lines, allow_code: bool = False
) -> tuple[Any, list[Finding]]:
    """The network's settings from the `training` section, or None and what is wrong."""
    from model.networks.settings import settings_class

    if not isinstance(network, str):
        return None, []  # told as a field of the wrong type
    try:
        if ":" in network:  # imported here: torch
            from model.networks.registry import settings_of

            settings = settings_of(network, allow_code=allow_code)
        else:
            settings = settings_class(network)
    except BadInput as error:
        return None, [Finding(reading.place(("network",), lines), str(error).removeprefix("network: "), "")]
    # pydantic takes its strictness from the class itself, and the networks' side must not know pydantic.
    strict = type(settings.__name__, (settings,), {"__pydantic_config__": ConfigDict(extra="forbid")})
    # No setting is a yes or no, and pydantic would read `true` as 1.
    if switches := [key for key, value in training.items() if isinstance(value, bool)]:
        return None, [
            Finding(
                reading.place(("training", key), lines), "expected a number or a word, got yes or no.", "Change it."
            )
            for key in switches
        ]
    try:
        values: Any = TypeAdapter(strict).validate_python(dict(training))
    except ValidationError as error:
        return None, reading.findings(error, settings, lines, prefix=("training",))
    return settings(**{field.name: getattr(values, field.name) for field in dataclasses.fields(settings)}), []


def _space(search: SearchFile, lines: reading.Lines) -> tuple[dict[str, Any], list[Finding]]:
    """The space of the `tuning` section as the network takes it, and what is wrong with it."""
    if search.tuning is None:
        return {}, []

    def check(name: str, value: Any) -> tuple[Any, str]:
        # Whoever reads the space has read the file, and so been allowed its network.
        settings, findings = _settings(search.network, {**search.training, name: value}, {}, allow_code=True)
        return getattr(settings, name, value), " ".join(f"{one.problem} {one.fix}" for one in findings)

    values, problems = space.plain(search.tuning, check)
    return values, [
        Finding(reading.place(("tuning", "space", *place), lines), problem, "") for place, problem in problems
    ]


def _capacity(search: SearchFile, cohort: Cohort, settings: Any, record: Mapping[str, Any]) -> int:
    """Units a pack that fit the memory, whichever subsets of the design are in it."""
    # Imported here: torch.
    from model.training.cost import capacity

    largest = min(len(cohort.tasks), record.get("k", record.get("max_size")) or len(cohort.tasks))
    gpus, workers = search.resources.gpus, _workers_here(search.resources)
    return capacity(cohort, search.network, largest, settings, gpus=gpus, workers=workers)


def _workers_here(resources: Resources | ResourcesSection) -> int:
    """Workers that one machine like this one would hold, at least 1 and at most those asked for."""
    room = room_here(resources)
    return max(1, min(room, resources.workers or room))


def _unknown(place: str, names: Iterable[str], known: Iterable[str]) -> list[Finding]:
    known = tuple(known)
    return [
        Finding(place, f"no such task: {reading.short(name)}.", reading.hint(name, known))
        for name in names
        if name not in known
    ]


def _report(source: str | Path, findings: Sequence[Finding]) -> str:
    if len(findings) == 1 and findings[0].place == str(source):
        return str(findings[0])
    return "\n".join([f"{source} cannot be used:", *(f"  {finding}" for finding in findings)])
