"""A search file made into values that can be run: cohort opened, tasks, settings, plan and places fixed."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tim_search.config import designs, files, network, steps, workers
from tim_search.config.resolved import ResolvedSearch
from tim_search.config.sections import Design, SampledDesign, SearchFile
from tim_search.gates.urls import check_recipient
from tim_search.plans import from_design as plans
from tim_search.tuning import choices, per_subset, space
from tim_search.tuning.choices import Study
from tim_search.tuning.space import TuningSection
from tim_search.types import BadInput, Context, Finding, Resources, Subset, subset
from tim_search.types.control import SUFFIX

if TYPE_CHECKING:
    from model.cohorts.cohort import Cohort


def check(path: str | Path, *, allow_code: bool = False) -> list[Finding]:
    """Everything wrong with a search file, its cohort and its tasks included; empty when it can be run."""
    from model.sources.opening import check_cohort

    search, findings = files.read(path, allow_code=allow_code)
    if search is None:
        return findings
    findings = check_cohort(search.cohort, search.tasks or ())
    if any(finding.severity == "error" for finding in findings):
        return findings
    if search.tasks:
        # What is odd about a task that the search leaves out is told of the cohort, not of the search.
        findings = [
            finding
            for finding in findings
            if not finding.place.startswith("tasks.") or finding.place.removeprefix("tasks.") in search.tasks
        ]
    try:
        return findings + _open(search, allow_code).findings
    except BadInput as error:
        return [*findings, Finding(str(path), str(error), "")]


def resolve(search: SearchFile, out: str | Path | None = None, *, allow_code: bool = False) -> ResolvedSearch:
    """Open the cohort and fix everything the search file leaves open.

    Args:
        search: a search file; where it was made in Python, its relative paths start in the current folder.
        out: the output folder; overrides the file's. Default: runs/NAME under the current folder.
        allow_code: whether a network of one's own may be imported.

    Raises:
        BadInput: with every finding, when the file does not fit its cohort.
    """
    # Imported here: torch.
    from model.networks.registry import identity

    search = files.absolute(search, Path.cwd())
    cohort, settings, design, control, findings = _open(search, allow_code)
    if findings:
        raise BadInput(files.refusal(f"search {search.name}", findings))
    names = tuple(cohort.tasks)
    folder = Path(out or search.out or Path("runs") / search.name).resolve()
    left_open = steps.left_open(search.training, type(settings))
    search = steps.filled(search, type(settings), cohort, folder)
    settings, _ = network.settings(search.network, search.training, {}, allow_code)
    earlier = designs.begun(design, folder)
    blocks = designs.usual_blocks(search, design, len(names), cohort.split.n_folds)
    if earlier is not None and search.leaves_blocks_open:
        blocks = earlier.blocks
    record = designs.record(design, names, blocks, control, earlier, sliced=not search.tunes_every_subset)
    resolved = ResolvedSearch(
        file=search,
        cohort=cohort,
        tasks=cohort.tasks,
        settings=settings,
        context=Context(
            cohort.fingerprint, cohort.columns_digest, cohort.split.digest, identity(search.network), settings.text
        ),
        plan=plans.make(record, names),
        design=record,
        sources=tuple(record.get("sources", [name for name in names if name != control])),
        blocks=blocks,
        out=folder,
        ledger=search.ledger or folder / "ledger",
        tracking_uri=_database(tracking_uri(search.tracking_uri, folder)),
        capacity=0,  # fixed below: it depends on what tuning chose
        resources=Resources(search.resources.cpus, search.resources.gpus, search.resources.workers),
        untuned=settings,
        chosen_steps=left_open,
    )
    resolved = _tuned(resolved)
    every = [resolved.settings]
    if resolved.own is not None:
        every = [dataclasses.replace(settings, **values) for values in resolved.own.values]
    capacity = search.capacity or min(workers.capacity(search, cohort, each, record) for each in every)
    return dataclasses.replace(resolved, capacity=capacity)


#: What MLflow sends to any server it talks to, where it is set.
_MLFLOW_CREDENTIALS = (
    "MLFLOW_TRACKING_USERNAME",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
    "MLFLOW_TRACKING_AUTH",
    "MLFLOW_TRACKING_AWS_SIGV4",
)


def tracking_uri(named: str | None, folder: Path) -> str:
    """Where a search publishes: what its file names, else the environment, else a database in its folder.

    Raises BadInput where MLflow would send credentials of the environment to a server that the file alone names.
    """
    credentials = [name for name in _MLFLOW_CREDENTIALS if os.environ.get(name)]
    if Path("~/.mlflow/credentials").expanduser().is_file():
        credentials.append("~/.mlflow/credentials")
    if named and credentials and named.lower().startswith("http"):
        check_recipient(
            named,
            os.environ.get("MLFLOW_TRACKING_URI"),
            place="tracking_uri",
            credentials=f"what MLflow finds in {' and '.join(credentials)}",
            fix="If you trust it, set MLFLOW_TRACKING_URI={url}; or name another with `tim-search publish "
            "--tracking-uri`; or take the line out of the file.",
        )
    return named or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{folder / 'mlflow.db'}"


def _database(uri: str) -> str:
    """The same URI; raises BadInput for a database whose path MLflow would take for another one."""
    odd = sorted(set("?#%") & set(uri)) if uri.startswith("sqlite:") else []
    if odd:
        raise BadInput(
            f"MLflow's database would be {uri.removeprefix('sqlite:///')}, and a path with {' or '.join(odd)} "
            "in it MLflow takes for another one. Name another output folder with --out, or another tracking_uri "
            "(http://host:port, or sqlite:////absolute/path/mlflow.db)."
        )
    return uri


def _tuned(search: ResolvedSearch) -> ResolvedSearch:
    """The search with the settings that were chosen for it, or with all that each subset is to compare."""
    if search.file.tunes_every_subset:
        values, _ = network.tuned_values(search.file, {})
        context = per_subset.context_of_search(search.context, values, search.blocks)
        return dataclasses.replace(search, context=context)
    choice = None if search.file.tuning is None else choices.kept(search.out, study(search))
    if choice is None:
        return search
    settings = dataclasses.replace(search.settings, **choice)
    context = dataclasses.replace(search.context, settings=settings.text)
    return dataclasses.replace(search, settings=settings, context=context, choice=choice)


def study(search: ResolvedSearch, own: Subset | None = None) -> Study:
    """What tuning compares for a search: every task alone and all tasks together, or one subset of its own.

    A search file without a `tuning` section takes the paper's space. Raises BadInput where the network refuses it.
    """
    section = search.file.tuning or TuningSection(space=steps.space(search.file.training, type(search.untuned)))
    values, findings = network.tuned_values(search.file.model_copy(update={"tuning": section}), {})
    if findings:
        raise BadInput(files.refusal(f"search {search.file.name}", findings))
    context = dataclasses.replace(search.context, settings=search.untuned.text)
    control = search.design.get("control")
    tasks = {name: task for name, task in search.tasks.items() if name != control}
    subsets = dict.fromkeys([*(subset([name]) for name in tasks), subset(tasks)]) if own is None else (own,)
    folds = tuple(range(search.cohort.split.n_folds))
    n_trials = space.trials(section, values)
    return Study(context, values, section.sampler, n_trials, tasks, tuple(subsets), search.blocks[0][0], folds)


class _Opened(NamedTuple):
    """The cohort with the tasks of the search, and whatever of its file does not fit them (`findings`)."""

    cohort: Cohort
    settings: Any
    design: Design
    control: str | None
    findings: list[Finding]


def _open(search: SearchFile, allow_code: bool) -> _Opened:
    """The cohort of a search file, or what is wrong with the file; raises BadInput for a cohort that cannot be read."""
    # Imported here: a cohort needs pandas and pyarrow, which reading a search file does not.
    from model.cohorts.control import control_of, with_control
    from model.sources.opening import open_cohort

    settings, findings = network.settings(search.network, search.training, {}, allow_code)
    cohort = open_cohort(search.cohort, search.tasks or ())
    names, unfit = designs.choose_tasks(search.tasks, tuple(cohort.tasks))
    findings += unfit
    design = search.design or designs.default(len(names))
    if not names:
        return _Opened(cohort, settings, design, None, findings)
    wants_control = isinstance(design, SampledDesign) and design.control
    copied = control_of({name: cohort.tasks[name] for name in names}) if wants_control else None
    findings += designs.misfits(design, names, len(names) + (copied is not None))
    n_folds = cohort.split.n_folds
    if beyond := sorted({fold for fold in search.folds or () if fold >= n_folds}):
        problem = f"expected numbers from 0 to {n_folds - 1}, the folds of the cohort, got {beyond}."
        findings.append(Finding("folds", problem, "Name folds that it has."))
    findings += designs.untunable(search, design, n_folds)
    if findings:
        return _Opened(cohort, settings, design, None, findings)
    # Imported here: torch, which only a file that is otherwise sound is worth waiting for.
    from model.training.fitting import check_supported

    cohort = cohort.for_tasks(names)
    check_supported(cohort, search.network, settings)
    if copied is None:
        return _Opened(cohort, settings, design, None, [])
    return _Opened(with_control(cohort, copied), settings, design, copied + SUFFIX, [])
