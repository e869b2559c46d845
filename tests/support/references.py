"""A search folder with scores of reference models, whose truth is known."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np

from tim_search.loop.manifest import Manifest
from tim_search.results import opened
from tim_search.types import Context, Pack, PackResult, Score, Task, Unit
from tim_search.types.references import context_of

CONTEXT = Context("cohort", "columns", "split", "m3h", '{"replicates":30}')
BLOCKS = ((0, 0), (1, 1), (2, 2), (3, 3))


def search_with_references(
    folder: Path, linear: float | None, context: Context = CONTEXT, helper: str = "b", largest: int = 3
) -> opened.SearchResults:
    """A search of the subsets of a, b, c; `helper` helps a by .05, which has .7 alone, a linear model `linear`."""
    tasks = {name: Task(name, "binary") for name in "abc"}
    manifest = Manifest("s", "made up", context, tuple(tasks.values()), (), {"kind": "exact"}, BLOCKS, tuple(tasks))
    manifest.write(folder)
    (folder / "search.yaml").write_text("cohort: somewhere\n")  # as a run keeps it; it hides no counts
    ledger = manifest.open_ledger(folder)
    subsets = [members for size in range(1, largest + 1) for members in itertools.combinations("abc", size)]
    dice = np.random.default_rng(0)
    with ledger.writer_lock():
        for block in BLOCKS:
            for members in subsets:
                unit, rows = Unit(members, *block), []
                for name in members:
                    level = 0.7 + 0.05 * (name == "a" and helper in members) + dice.normal(0, 0.002)
                    rows.append(_scored(unit, name, level, dice))
                ledger.append(PackResult(Pack((unit,)), tuple(rows)), context)
            if linear is not None:
                for reference, level in (("none", 0.5), ("linear", linear)):
                    unit = Unit(("a",), 0, block[1])
                    row = _scored(unit, "a", level, dice)
                    ledger.append(PackResult(Pack((unit,)), (row,)), context_of(reference, context))  # type: ignore[arg-type]
    return opened.open_search(folder)


def _scored(unit: Unit, task: str, level: float, dice: np.random.Generator) -> Score:
    draws = tuple((level + dice.normal(0, 0.002, 30)).tolist())
    return Score(unit, task, "auroc", "validation", level, replicates=draws)
