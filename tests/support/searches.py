"""Search files, and search folders as `run` leaves them: with pretended scores, or trained by real networks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support import fake_trainer
from tim_search import config
from tim_search.app import search_folder
from tim_search.config.sections import ResourcesSection
from tim_search.executors.serial import SerialExecutor
from tim_search.ledger.ledger import Ledger
from tim_search.loop import run as search
from tim_search.plans.static import StaticPlan

#: Runs the command line in this process: (exit code, standard output, standard error); see the fixture `call`.
Call = Callable[..., tuple[int, str, str]]

TASKS = ("hospdead", "dzclass", "slos_log")


def write_search(path: Path, **fields: Any) -> Path:
    """A search file of three tasks of SUPPORT2 with these fields; returns its path."""
    # One worker, because a plan for two measures in two processes of their own, which takes seconds.
    defaults = {"cohort": "support2", "tasks": list(TASKS), "resources": {"workers": 1}}
    path.write_text(yaml.safe_dump({**defaults, **fields}))
    return path


def trained_search(
    folder: Path,
    n_subsets: int | None = None,
    tasks: tuple[str, ...] = TASKS,
    design: Any = "exact",
    ledger: str | None = None,
    blocks: int | None = 1,
    **behaviour: Any,
) -> Path:
    """A search folder as `run` leaves it, with scores of a trainer that needs no time."""
    found = config.resolve(
        config.SearchFile(
            cohort="support2",
            name="small",
            tasks=tasks,
            design=design,
            ledger=ledger,
            blocks=blocks,
            resources=ResourcesSection(workers=1),
        ),
        folder,
    )
    search_folder.prepare(found)
    plan = found.plan if n_subsets is None else StaticPlan(getattr(found.plan, "subsets")[:n_subsets])  # noqa: B009
    executor = SerialExecutor(
        fake_trainer.trainer, fake_trainer.Behaviour(attention=True, replicates=20, **behaviour), found.tasks
    )
    with pytest.MonkeyPatch.context() as patch:
        for name, task in found.tasks.items():
            patch.setitem(fake_trainer.TASKS, name, task)
        search.run(plan, Ledger(found.ledger), found.context, found.tasks, found.blocks, executor, capacity=4)
    return folder


def finish(folder: Path, text: str) -> Path:
    """Write a search file into a folder and train what it asks for; returns the search's output folder."""
    (folder / "small.yaml").write_text(text)
    found = config.resolve(config.load(folder / "small.yaml"), folder / "out")
    search_folder.prepare(found)
    executor = SerialExecutor(*config.training(found), found.tasks)
    search.run(found.plan, Ledger(found.ledger), found.context, found.tasks, found.blocks, executor, 16)
    executor.close()
    return folder / "out"
