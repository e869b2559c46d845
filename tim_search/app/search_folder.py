"""The folder of a search made ready: `search.yaml`, `search.json` and what describes cohort and libraries.

A folder belongs to one search; another one is refused before anything is written.
"""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from tim_search import config
from tim_search.gates import small_cells
from tim_search.gates.files import write_durably
from tim_search.gates.texts import for_terminal
from tim_search.ledger.ledger import Ledger
from tim_search.loop.manifest import Manifest
from tim_search.results import merge
from tim_search.types import BadInput, canonical, counted

#: What the start of a search writes beside search.json.
OWN_FILES = ("search.yaml", "cohort.json", "versions.json")


def prepare(search: config.ResolvedSearch) -> Manifest:
    """Make the output folder ready: `search.yaml` and `search.json`.

    Raises:
        BadInput: when the folder holds another search, or one with another context, whose scores do not compare with
            this one's.
        LedgerError: when another driver is at work there.
    """
    # Under the lock: a second driver must not rename the search of the first.
    with Ledger(search.ledger).writer_lock():
        return _prepare(search)


def check_folder(search: config.ResolvedSearch) -> None:
    """Raise BadInput when the output folder holds another search than this one; writes nothing."""
    if not (search.out / "search.json").exists():
        # No search has written here; what lies under our names is somebody's own, such as the search file itself.
        if there := [name for name in OWN_FILES if os.path.lexists(search.out / name)]:
            raise BadInput(
                f"{for_terminal(search.out)} holds {' and '.join(there)} but no search (search.json), and a search "
                f"would overwrite {'them' if len(there) > 1 else 'it'}. Name another folder with --out."
            )
    else:
        earlier = Manifest.read(search.out)
        if earlier.context != search.context:
            differ = "; ".join(
                merge.differences(earlier.context, search.context, earlier.control, search.design.get("control"))
            )
            raise BadInput(
                f"{search.out} holds the search {earlier.name!r} with another context: {differ} differ. Scores of two "
                "contexts do not compare. Name another output folder with --out, or go back to the earlier settings "
                f"({search.out / 'search.yaml'})."
            )
        if earlier.name != search.file.name or {task.name for task in earlier.tasks} != set(search.tasks):
            raise BadInput(
                f"{search.out} holds the search {earlier.name} of {counted(len(earlier.tasks), 'task')}; "
                f"expected that one again, got {search.file.name} of {counted(len(search.tasks), 'task')}. "
                f"Give this search a folder of its own with --out; with `ledger: {search.ledger}` in its file it takes "
                "over all that is trained already."
            )


def _prepare(search: config.ResolvedSearch) -> Manifest:
    from model.cohorts.manifest import describe

    check_folder(search)
    manifest = manifest_of(search)
    manifest.write(search.out)
    # Paths are relative to the file, so the folder may be moved and its search still goes on in it.
    here: dict[str, object] = {"out": Path()}
    if Path(search.file.cohort).is_relative_to(search.out):
        here["cohort"] = os.path.relpath(search.file.cohort, search.out)
    again = search.file_with_blocks.model_copy(update=here)
    write_durably(search.out / "search.yaml", config.dump(again).encode())
    small = search.file.small_cells
    record = small_cells.of_cohort(describe(search.cohort), small) | {"small_cells": small}
    write_durably(search.out / "cohort.json", (canonical(record) + "\n").encode())
    write_durably(search.out / "versions.json", (canonical(_versions()) + "\n").encode())
    return manifest


def manifest_of(search: config.ResolvedSearch) -> Manifest:
    """What `search.json` says of a search."""
    inside = isinstance(search.ledger, Path) and search.ledger.is_relative_to(search.out)
    return Manifest(
        name=search.file.name,
        cohort=search.cohort.name,
        context=search.context,
        tasks=tuple(search.tasks.values()),
        overlaps=tuple(search.cohort.overlaps),
        design=search.design,
        blocks=search.blocks,
        sources=search.sources,
        ledger=os.path.relpath(search.ledger, search.out) if inside else str(search.ledger),
        planned_units=search.plan.planned(search.blocks),
    )


def _versions() -> dict[str, str]:
    """What computes the scores, as it is installed where the search is started."""
    libraries = ("tim-search", "torch", "numpy", "pandas", "pyarrow", "scikit-learn", "scipy", "ray")
    versions = {"python": platform.python_version(), "machine": f"{platform.system()} {platform.machine()}"}
    for name in libraries:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "not installed as a package"
    return versions
