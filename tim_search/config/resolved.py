"""The value that a search file becomes: everything a command needs to run it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tim_search.config.sections import SearchFile
from tim_search.plans.contract import Plan
from tim_search.tuning import per_subset
from tim_search.tuning.per_subset import PerSubset
from tim_search.types import Context, Resources, Task

if TYPE_CHECKING:
    from model.cohorts.cohort import Cohort


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
        plan: which subsets are wanted, given what is trained (see `tim_search.plans.contract.Plan`).
        design: the design in full, as it is written to `search.json`.
        sources: tasks that are expanded and reported; a negative control is none of them.
        blocks: (seed, fold) pairs; every subset is trained once in each, in a sliced design in one of them.
        capacity: units a pack.
        untuned: the settings as the file has them, before tuning.
        choice: the tuned settings that `settings` holds; None where nothing was tuned, or not yet.
        chosen_steps: settings that the search file left open (`config.steps`).
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
    chosen_steps: tuple[str, ...] = ()

    @property
    def awaits_tuning(self) -> bool:
        """Whether the file asks for tuning before the search and no choice is kept in the output folder."""
        return self.file.tuning is not None and self.own is None and self.choice is None

    @property
    def file_with_blocks(self) -> SearchFile:
        """The search file with the blocks it was resolved to, so that it means the same to every version."""
        blocks = tuple((block, block % self.cohort.split.n_folds) for block in range(len(self.blocks)))
        if not self.file.leaves_blocks_open or self.blocks != blocks:
            return self.file
        return self.file.model_copy(update={"blocks": len(blocks)})

    @property
    def own(self) -> PerSubset | None:
        """What is compared where every subset has settings of its own; None where all share theirs."""
        return per_subset.of(self.context)
