"""What an executor's workers get of a search: what they train with, how much at once, and what it costs."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tim_search.config.resolved import ResolvedSearch
from tim_search.config.sections import ResourcesSection, SearchFile
from tim_search.gates import small_cells, told_scores
from tim_search.gates.told_scores import Telling
from tim_search.types import Resources, Subset, TrainerFactory

if TYPE_CHECKING:
    from model.cohorts.cohort import Cohort


def training(search: ResolvedSearch) -> tuple[TrainerFactory, Any]:
    """(factory, payload) that an executor needs to train this search's packs."""
    # Imported here: torch.
    from model.training.trainer import TrainingPayload, trainer

    threads = max(1, int(search.resources.cpus))
    hidden = telling(search.cohort, search.file.small_cells)
    return trainer, TrainingPayload(
        search.cohort, search.context.network, search.settings, search.file.device, threads, hidden
    )


def telling(cohort: Cohort, small: int) -> Telling:
    """How scores are told where counts below `small` are hidden."""
    from model.cohorts.manifest import describe
    from model.cohorts.stored import parts

    if not small:
        return Telling()
    digest = hashlib.sha256()
    for modality in cohort.modalities.values():  # the same in every search of one context
        for _, part in parts(modality.values):
            digest.update(np.ascontiguousarray(part).tobytes())
    return told_scores.of_record(small_cells.of_cohort(describe(cohort), small), small, digest.hexdigest())


def confirming(
    search: ResolvedSearch,
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

    _, payload = training(search)
    maps = {
        (members, source)
        for source, combination in chosen.items()
        if search.tasks[source].kind == "clustering"
        for members in (combination, (source,))
    }
    by_group = {name: rows for column in groups for name, rows in subgroups(search.cohort, column).items()}
    return trainer, ConfirmingPayload(
        dataclasses.replace(payload, settings=settings),
        ensemble,
        by_group,
        frozenset(maps),
        map_seed,
        search.file.small_cells,
    )


def cost(search: ResolvedSearch, subsets: Sequence[Subset]) -> Callable[[int, int], float] | None:
    """Seconds of one worker for a unit, by (tasks, clustering tasks), measured on this machine.

    None where the workers hold GPUs and this machine has none.
    """
    from model.training.cost import calibrate_together, gpus_here

    gpus = search.resources.gpus
    if gpus and not gpus_here():
        return None
    _, payload = training(search)
    # Workers with GPUs of their own do not hinder one another much: as many are timed as share one.
    together = max(1, int(1 / gpus)) if gpus else _workers_here(search.resources)
    return calibrate_together(payload, subsets, search.capacity, together).unit_seconds


def room_here(resources: Resources | ResourcesSection) -> int:
    """Workers that this machine would hold; where it has no GPU but they do, as many as its cores allow."""
    room = int((os.cpu_count() or 1) // resources.cpus)
    if not resources.gpus:
        return room
    # Imported here: torch.
    from model.training.cost import gpus_here

    return min(room, int(gpus_here() / resources.gpus)) if gpus_here() else room


def capacity(file: SearchFile, cohort: Cohort, settings: Any, record: Mapping[str, Any]) -> int:
    """Units a pack that fit the memory, whichever subsets of the design are in it."""
    # Imported here: torch.
    from model.training.cost import capacity as fitting

    largest = min(len(cohort.tasks), record.get("k", record.get("max_size")) or len(cohort.tasks))
    gpus, workers = file.resources.gpus, _workers_here(file.resources)
    return fitting(cohort, file.network, largest, settings, gpus=gpus, workers=workers)


def _workers_here(resources: Resources | ResourcesSection) -> int:
    """Workers that one machine like this one would hold, at least 1 and at most those asked for."""
    room = room_here(resources)
    return max(1, min(room, resources.workers or room))
