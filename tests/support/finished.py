"""A small search, trained from its file to the end by real networks in this process, without MLflow."""

from __future__ import annotations

from pathlib import Path

from tim_search import config
from tim_search.app import runner
from tim_search.executors.queue import SerialExecutor
from tim_search.ledger.ledger import Ledger
from tim_search.loop import run as search


def finish(folder: Path, text: str) -> Path:
    """Write a search file into a folder and train what it asks for; returns the search's output folder."""
    (folder / "small.yaml").write_text(text)
    found = config.resolve(config.load(folder / "small.yaml"), folder / "out")
    runner.prepare(found)
    executor = SerialExecutor(*config.training(found), found.tasks)
    search.run(found.plan, Ledger(found.ledger), found.context, found.tasks, found.blocks, executor, 16)
    executor.close()
    return folder / "out"
