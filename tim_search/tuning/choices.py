"""Hyperparameters that were tried, and those that were chosen: pure functions of ledger rows, and `tuning.json`.

A *study* is what is compared: settings of the network, each tried by cross-validation over the folds of the training
part on the same subsets (M3H paper, section 4.3). A trial is one choice of settings. Its rows lie in the ledger under a
context of their own, so the ledger alone says which trials there are, what they lack and which one is best.

Trials are compared by the mean *skill* over tasks, subsets and folds. Scores of different metrics have no common scale:
0.6 is a poor AUROC and a good R2. Skill is how far a score is on the way from knowing nothing (0) to perfection (1):
2 AUROC - 1, and R2 as it is. A clustering task counts only where a study has no other: its silhouette also rises when
the latent keeps fewer directions, and the hyperparameters that make it do so are not better ones.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tim_search.gates.plain import read_object, write_json
from tim_search.loop.manifest import Manifest
from tim_search.tuning import per_subset
from tim_search.tuning.per_subset import counted
from tim_search.tuning.per_subset import skill as skill
from tim_search.types import BadInput, Context, Subset, Task, Unit, canonical, digest, subset

if TYPE_CHECKING:
    import pandas as pd

FILE = "tuning.json"
#: Columns of the ledger that a study reads.
COLUMNS = (
    *("cohort", "columns", "split", "network", "settings", "subset", "seed", "fold"),
    *("task", "score", "status", "created"),
)


@dataclass(frozen=True)
class Study:
    """What is compared with what, and on what.

    Attributes:
        context: of the search, with its settings before tuning.
        space: name of a setting -> the values it may take: a list, or {"low", "high", "log"}.
        sampler: "grid" tries every combination, "optuna" as many as `trials`.
        trials: how many combinations.
        tasks: the tasks by name.
        subsets: what each trial trains, in every fold.
        seed: of these trainings.
        folds: each is held out once.
    """

    context: Context
    space: Mapping[str, Any]
    sampler: str
    trials: int
    tasks: Mapping[str, Task]
    subsets: tuple[Subset, ...]
    seed: int
    folds: tuple[int, ...]

    @property
    def base(self) -> dict[str, Any]:
        """All settings of the network as they are before tuning."""
        return dict(json.loads(self.context.settings))

    @property
    def units(self) -> list[Unit]:
        """The trainings of one trial."""
        return [Unit(members, self.seed, fold) for fold in self.folds for members in self.subsets]

    @property
    def key(self) -> str:
        """Equal for studies whose choices may stand for one another."""
        parts = [self.context.key, dict(self.space), self.sampler, self.trials, self.seed, list(self.folds)]
        return digest([*parts, [list(members) for members in self.subsets]])

    def context_of(self, values: Mapping[str, Any]) -> Context:
        """Where the ledger keeps the trial with these values."""
        return replace(self.context, settings=canonical({**self.base, **values}))

    def grid(self) -> list[dict[str, Any]]:
        """Every combination of the listed values, the first setting varying slowest."""
        return [dict(zip(self.space, values, strict=True)) for values in itertools.product(*self.space.values())]

    def values_of(self, settings: str) -> dict[str, Any] | None:
        """The tuned values in a context's settings; None where they are no trial of this study."""
        given = json.loads(settings)
        values = {name: given.get(name) for name in self.space}
        if {**self.base, **values} != given or not all(_holds(self.space[name], values[name]) for name in values):
            return None
        return values


@dataclass(frozen=True)
class Trial:
    """One choice of settings, as far as it is trained.

    Attributes:
        values: the tuned settings.
        skills: (subset, fold, task) -> skill; NaN where the training failed.
    """

    values: Mapping[str, Any]
    skills: Mapping[tuple[Subset, int, str], float]

    def missing(self, study: Study) -> list[Unit]:
        """Trainings that have no answer yet."""
        held = {(members, fold) for members, fold, _ in self.skills}
        return [unit for unit in study.units if (unit.subset, unit.fold) not in held]

    def by_fold(self, study: Study) -> list[float]:
        """Mean skill in each fold of the study; NaN where a training failed or is missing."""
        counted = _counted(study)
        means = []
        for fold in study.folds:
            places = [(members, fold, task) for members in study.subsets for task in members if task in counted]
            means.append(float(np.mean([self.skills.get(place, math.nan) for place in places])))
        return means

    def by_task(self, study: Study) -> dict[str, float]:
        """Mean skill of each task that counts."""
        means = {}
        for task in sorted(_counted(study)):
            places = [(members, fold, task) for members in study.subsets for fold in study.folds if task in members]
            means[task] = float(np.mean([self.skills.get(place, math.nan) for place in places]))
        return means

    def value(self, study: Study) -> float:
        """What trials are compared by; NaN where a training failed or is missing."""
        return float(np.mean(self.by_fold(study)))


def trials(study: Study, rows: pd.DataFrame) -> list[Trial]:
    """The trials of a study that a ledger holds, whole or in part, in the order they were begun; rows: `COLUMNS`."""
    for name in ("cohort", "columns", "split", "network"):
        rows = rows[rows[name] == getattr(study.context, name)]
    rows = rows[(rows["seed"] == study.seed) & rows["fold"].isin(study.folds)]
    wanted = set(study.subsets)
    begun = []
    for settings, part in rows.groupby("settings", observed=True):
        values = study.values_of(str(settings))
        if values is None:
            continue
        skills = {}
        columns = (part[name] for name in ("subset", "fold", "task", "score", "status"))
        for names, fold, task, score, status in zip(*columns, strict=True):
            if (members := tuple(names)) in wanted:
                reached = skill(study.tasks[task].metric, float(score)) if status == "ok" else math.nan
                skills[members, int(fold), task] = reached
        if skills:
            begun.append((part["created"].min(), canonical(values), Trial(values, skills)))
    return [trial for *_, trial in sorted(begun, key=lambda entry: entry[:2])]


def best(study: Study, trials: Iterable[Trial]) -> Trial | None:
    """The trial with the highest value; of equal ones the first by its values. None where none is whole."""
    values = [(trial.value(study), trial) for trial in trials]
    whole = [(value, trial) for value, trial in values if math.isfinite(value)]
    return min(whole, key=lambda pair: (-pair[0], canonical(pair[1].values)))[1] if whole else None


def write(folder: Path, study: Study, trials: Sequence[Trial], own: Subset | None = None) -> dict[str, Any]:
    """Keep a study and its choice in `tuning.json`; returns its record. `own`: the subset whose own study it is."""
    chosen_trial = best(study, trials)
    if chosen_trial is None:
        raise BadInput(
            "Tuning chose nothing: no combination of settings could be trained on all subsets and folds. "
            "`tim-search check` and the ledger's error column say why; change the space."
        )
    record = {
        "key": study.key,
        "subset": list(own) if own else None,
        "choice": dict(chosen_trial.values),
        "sampler": study.sampler,
        "space": dict(study.space),
        "seed": study.seed,
        "folds": list(study.folds),
        "subsets": [list(members) for members in study.subsets],
        "trials": [
            {
                "values": dict(trial.values),
                "skill": _number(trial.value(study)),
                "by_fold": [_number(value) for value in trial.by_fold(study)],
                "by_task": {task: _number(value) for task, value in trial.by_task(study).items()},
            }
            for trial in trials
        ],
    }
    content = _read(folder) or {}
    if content.get("base") != study.base:
        content = {"base": study.base, "studies": []}
    others = [other for other in content["studies"] if other["subset"] != record["subset"]]
    content["studies"] = [*others, record]
    write_json(folder / FILE, content)
    return record


def kept(folder: Path, study: Study) -> dict[str, Any] | None:
    """The values that this very study of a whole search chose, if `tuning.json` holds them."""
    for record in (_read(folder) or {"studies": []})["studies"]:
        if record["subset"] is None and record["key"] == study.key:
            return dict(record["choice"])
    return None


def chosen(folder: str | Path, members: Iterable[str]) -> dict[str, Any]:
    """All settings of the network for a subset: its own choice, else that of its search, else the search's settings.

    Args:
        folder: output folder of a search.
        members: names of the subset's tasks.

    Raises:
        BadInput: no search in the folder, a `tuning.json` that was made for other settings than its search's, or a
            subset that a search with settings for every subset has not tuned yet.
    """
    wanted = subset(members)
    return settings(folder, [wanted])[wanted]


def settings(folder: str | Path, subsets: Iterable[Subset]) -> dict[Subset, dict[str, Any]]:
    """`chosen` for many subsets at once."""
    folder, subsets = Path(folder), list(subsets)
    manifest = Manifest.read(folder)
    own = per_subset.of(manifest.context)
    if own is None:
        return {members: _of_studies(folder, manifest, members) for members in subsets}
    ledger = manifest.open_ledger(folder)
    if lacking := own.lacking(ledger, subsets):
        raise BadInput(
            f"{folder}: every subset of this search has settings of its own, and {' + '.join(lacking[0])} is not tuned "
            f"yet. Run `tim-search tune {folder / 'search.yaml'} --out {folder} --subset {'+'.join(lacking[0])}`."
        )
    tasks = {task.name: task for task in manifest.tasks}
    records = own.records(ledger, tasks, subsets, manifest.design.get("control"))
    return {members: own.settings_of(record["choice"]) for members, record in zip(subsets, records, strict=True)}


def _of_studies(folder: Path, manifest: Manifest, wanted: Subset) -> dict[str, Any]:
    shared: dict[str, Any] = json.loads(manifest.context.settings)
    content = _read(folder)
    if content is None:
        return shared
    base, own = content["base"], [record for record in content["studies"] if record["subset"] is not None]
    # What the search was tuned in differs from the base; nothing else may.
    tuned = {name for record in content["studies"] if record["subset"] is None for name in record["space"]}
    for record in own:
        if tuple(record["subset"]) == wanted:
            if any(shared.get(name) != value for name, value in base.items() if name not in tuned):
                raise BadInput(
                    f"{folder / FILE} was made for other settings than those of the search in {folder}. Run "
                    "`tim-search tune` again with the file of this search."
                )
            return {**base, **record["choice"]}
    return shared


def table(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One flat row a trial of a study's record, best first: what was tuned for, the values, skill, and the choice."""
    tuned_for = " + ".join(record["subset"]) if record["subset"] else "the search"
    choice = record["choice"]
    rows = [
        {"tuned for": tuned_for, **trial["values"], "skill": trial["skill"], "chosen": trial["values"] == choice}
        for trial in record["trials"]
    ]
    return sorted(rows, key=lambda row: (not row["chosen"], math.inf if row["skill"] is None else -row["skill"]))


def _read(folder: Path) -> dict[str, Any] | None:
    path = folder / FILE
    if not path.exists():
        return None
    fix = "Delete it and run `tim-search tune` again; nothing that the ledger holds is trained again."
    content = read_object(path, "record of tuning", fix)
    if not {"base", "studies"} <= set(content):
        raise BadInput(f"{path} cannot be used (a part is missing). {fix}")
    return content


def _counted(study: Study) -> set[str]:
    return set(counted({name for members in study.subsets for name in members}, study.tasks))


def _holds(allowed: Any, value: Any) -> bool:
    if isinstance(allowed, Mapping):
        return isinstance(value, int | float) and bool(allowed["low"] <= value <= allowed["high"])
    return value in allowed


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
