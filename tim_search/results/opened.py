"""A search folder opened: what it holds, and every result computed from `search.json` and the ledger.

Needs neither the cohort nor the network nor Ray, and works at any moment, also while the search runs.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tim_search.gates.plain import read_json, write_json
from tim_search.ledger.ledger import Ledger, Progress
from tim_search.ledger.storage import LedgerWarning
from tim_search.ledger.table import ScoreTable, lay_out
from tim_search.loop import running
from tim_search.loop.manifest import Manifest
from tim_search.plans import expansion
from tim_search.plans import from_design as plans
from tim_search.plans.contract import Plan
from tim_search.plans.expansion import Expander, Expansion, Sharing
from tim_search.plans.greedy import expander
from tim_search.plans.sequential import sizes
from tim_search.results import grouping
from tim_search.results.grouping import Grouping
from tim_search.results.learnt import Learnt, learnt
from tim_search.tim import scores as tim
from tim_search.tim.result import TimResult
from tim_search.tim.row import Method
from tim_search.tuning import per_subset
from tim_search.tuning.per_subset import PerSubset
from tim_search.types import BadInput, Finding, Task, some

_LOOKS = 5  # at a ledger that is written into at every one of them


@dataclass(frozen=True, eq=False)
class SearchResults:
    """A search folder, read once; open it again to see what was trained meanwhile.

    Attributes:
        folder: absolute path.
        manifest: what `search.json` says.
        ledger: the ledger it names.
    """

    folder: Path
    manifest: Manifest
    ledger: Ledger

    @property
    def tasks(self) -> Mapping[str, Task]:
        """The tasks by name, in the order of the search; a negative control comes last."""
        return {task.name: task for task in self.manifest.tasks}

    @property
    def control(self) -> str | None:
        """The task with permuted labels, if the search has one."""
        return self.manifest.control

    @cached_property
    def own(self) -> PerSubset | None:
        """What is compared where every subset has settings of its own; None where all share theirs."""
        return per_subset.of(self.manifest.context)

    def tuning(self) -> list[dict[str, Any]]:
        """For every trained subset of such a search what was compared and chosen; see `PerSubset.records`."""
        if self.own is None:
            return []
        return self.own.records(self.ledger, self.tasks, list(self.table.rows), self.control)

    @cached_property
    def plan(self) -> Plan:
        """What the search trains, in which order."""
        return plans.make(self.manifest.design, tuple(self.tasks))

    def stopping(self) -> dict[str, Any] | None:
        """How a design with a stopping rule stands (see `Plan.stopping`); None for other designs."""
        return self._stopping

    @cached_property
    def _stopping(self) -> dict[str, Any] | None:
        return self.plan.stopping(self.table)

    @cached_property
    def small_cells(self) -> int:
        """Counts of fewer patients are in nothing that is written (`small_cells` of the search file); 0: all are.

        Raises BadInput where the folder does not tell: counts that were to be hidden may not be shown by mistake.
        """
        if (limit := small_cells_of(self.folder)) is not None:
            return limit
        raise BadInput(
            f"{self.folder}: expected `small_cells`, below which counts of patients are hidden, in cohort.json or in "
            "search.yaml, and neither can be read. Run the search again with its file and --out "
            f"{self.folder}, or, where the folder was merged, merge again: both write cohort.json anew, and train "
            "nothing that the ledger holds."
        )

    @cached_property
    def table(self) -> ScoreTable:
        """All scores of the search's tasks and blocks, replicates included."""
        sheet = self.ledger.sheet(self.manifest.context.key, replicates=True)
        return lay_out(sheet, tuple(self.tasks), self.manifest.blocks)

    @cached_property
    def learnt(self) -> dict[str, Learnt]:
        """What the reference models say of each task alone; {} of a search without them."""
        return learnt(self.table, self.ledger, self.manifest.context, self.tasks, self.control)

    @property
    def not_learnt(self) -> tuple[str, ...]:
        """The tasks that the network alone has not learnt: nothing that others change in them is a finding."""
        return tuple(name for name, judged in self.learnt.items() if judged.verdict == "has not learnt")

    def tim(self, method: Method | Literal["auto"] = "auto", **options: Any) -> TimResult:
        """TIM scores of what is trained so far; options as of `tim_search.tim.scores.from_table`.

        Raises BadInput before anything is trained.
        """
        if not len(self.table.membership):
            raise BadInput(
                f"{self.folder} holds no scores yet. Run the search, or wait for its first packs; "
                f"`tim-search status {self.folder}` shows how far it is."
            )
        result = self._estimated(self.table, method, **options)
        notes = [*result.notes]
        if (stopping := self.stopping()) is not None:
            notes.append(f"Search: {stopping['reason']}.")
        if self.own is not None:
            notes.append(self.own.note)
        return replace(result, notes=tuple(notes))

    def convergence(self, **options: Any) -> list[tuple[int, TimResult]]:
        """(number of subsets, result) of a sampled search as its subsets were added; [] for other designs.

        The rounds are those of a search with a stopping rule; the last one holds what is trained of its round.
        """
        sample = self.plan.sample
        if sample is None:
            return []
        steps: list[tuple[int, TimResult]] = []
        for size in sizes(len(sample.subsets), len(self.tasks)):
            part = self.table.of(sample.first(size).units(self.table.blocks))
            if steps and len(part.membership) <= steps[-1][0]:
                break
            if not len(part.membership):
                return []
            steps.append((len(part.membership), self._estimated(part, "blup", **options)))
        return steps

    def _estimated(self, table: ScoreTable, method: Method | Literal["auto"], **options: Any) -> TimResult:
        result = tim.from_table(table, method, overlaps=self.manifest.overlaps, control=self.control, **options)
        behind = [name in self.not_learnt for name in result.tasks]
        if not any(behind):
            return result
        note = (
            f"Not learnt alone: {some(self.not_learnt)}. What other tasks change there is no finding, so these rows "
            "have no discoveries and no best combination."
        )
        rejected = result.rejected & ~np.array(behind)[:, None]
        return replace(result, rejected=rejected, notes=(note, *result.notes))

    def group(self, models: int | None = None, **options: Any) -> Grouping:
        """The models to deploy; arguments as of `grouping.group`. Raises BadInput before it can be told."""
        return grouping.group(self.table, models, control=self.control, overlaps=self.manifest.overlaps, **options)

    def greedy(self, rule: expansion.Rule | None = None, **options: Any) -> Expander:
        """The greedy expansion of this search: its own settings where its design is greedy, else the paper's.

        Where the surrogate proposed the subsets it is the best of these: no greedy path leads through them.
        """
        # A control is never recommended.
        tasks = tuple(name for name in self.tasks if name != self.control)
        settings = {key: value for key, value in {"rule": rule, **options}.items() if value is not None}
        sources = settings.pop("sources", None) or self.manifest.sources
        return expander(self.plan, tuple(sources), tasks, **settings)

    def expand(self, rule: expansion.Rule | None = None, **options: Any) -> tuple[list[Expansion], Sharing]:
        """The expansion of every source from what is trained so far, and the trainings that sharing saved.

        A source that has not learnt keeps to itself: no combination is named.
        """
        plan = self.greedy(rule, **options)
        expansions = [
            each.alone(f"{each.source} has not learnt") if each.source in self.not_learnt else each
            for each in plan.result(self.table)
        ]
        return expansions, plan.sharing(self.table)

    def status(self) -> dict[str, Any]:
        """How far the search is: plain values for people and machines.

        Keys: name, folder, ledger, cohort, network, design, blocks, tasks, planned, trained, failed, waiting, finished,
        training_seconds (sum over units), last_written (ISO 8601, UTC), failures (reason -> units), stopping (see
        `Plan.stopping`; None for designs without a stopping rule), tuning (None unless every subset has settings of its
        own: combinations of settings, trainings with them that the ledger holds, and planned ones), at_work (see
        `loop.running.who`).
        """
        manifest = self.manifest
        planned = manifest.planned_units
        held, waiting = self._standing()
        reasons = self.ledger.failures(manifest.context.key) if held.failed else {}
        seconds, latest, tuning = held.seconds, held.latest, None
        if self.own is not None:
            # An answer is written when its subset has been trained with all settings: the trainings tell how far it is.
            # Others may be there for a confirmation.
            units = self.plan.units(manifest.blocks)
            asked = None if units is None else set(units.subsets)
            trained, seconds, latest = self.own.trained(
                self.ledger,
                lambda members: self.tasks.keys() >= set(members) and (asked is None or members in asked),
            )
            combinations = len(self.own.values)
            whole = None if planned is None else planned * combinations
            tuning = {"combinations": combinations, "trained": trained, "planned": whole}
        return {
            "name": manifest.name,
            "folder": str(self.folder),
            "ledger": self.ledger.place,
            "cohort": manifest.cohort,
            "network": manifest.context.network,
            "design": dict(manifest.design),
            "blocks": [list(block) for block in manifest.blocks],
            "tasks": list(self.tasks),
            "planned": planned,
            "trained": held.trained,
            "failed": held.failed,
            "waiting": waiting,
            "finished": not waiting,
            "training_seconds": seconds,
            "last_written": None if latest is None else latest.isoformat(timespec="seconds"),
            "failures": reasons,
            "stopping": self.stopping(),
            "tuning": tuning,
            "at_work": running.who(self.folder),
        }

    def check(self) -> list[Finding]:
        """Everything wrong with the search's ledger, and what the plan lacks in it."""
        findings = self.ledger.check()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", LedgerWarning)  # the files it would warn of are findings already
            key = self.manifest.context.key
            progress, waiting = self._standing()
            held, failures = progress.trained, self.ledger.failures(key)
        if waiting:
            problem = f"{waiting} units that the search asks for at present are not in it ({held} are)."
            fix = f"Run the search to train them: tim-search run {self.folder / 'search.yaml'} --out {self.folder}"
            findings.append(Finding(self.ledger.place, problem, fix, "warning"))
        for reason, count in failures.items():
            fix = "They are final; to train them again, search into a new ledger."
            findings.append(Finding(self.ledger.place, f"{count} units failed: {reason}.", fix, "warning"))
        return findings

    def _standing(self) -> tuple[Progress, int]:
        """(what the ledger holds, units that it lacks) at one moment, also while the search writes into it."""
        for _ in range(_LOOKS):
            files = self.ledger.storage.names("scores")
            waiting = self._waiting()
            held = self.ledger.progress(self.manifest.context.key, self.tasks.keys(), self.manifest.blocks)
            if self.ledger.storage.names("scores") == files:
                break
        return held, waiting

    def _waiting(self) -> int:
        """Units that the plan asks for at present and the ledger lacks."""
        wanted = self.plan.units(self.manifest.blocks)
        if wanted is not None:
            # No score changes what it asks for, and the table of a large search takes long to read.
            return len(self.ledger.lacking(self.manifest.context.key, wanted)[0])
        return len(self.plan.ask(self.table))


def open_search(folder: str | Path) -> SearchResults:
    """Open the output folder of a search; raises BadInput where there is none."""
    folder = Path(folder).absolute()
    manifest = Manifest.read(folder)
    return SearchResults(folder, manifest, manifest.open_ledger(folder))


def status(folder: str | Path) -> dict[str, Any]:
    """`SearchResults.status` of a folder. While its search is being tuned, before there is one: name, folder, finished
    (False) and at_work. Raises BadInput where neither is in it.
    """
    at_work = running.who(folder)
    if at_work is None or "search" not in at_work or (Path(folder) / "search.json").exists():
        return open_search(folder).status()
    return {
        "name": at_work["search"],
        "folder": str(Path(folder).absolute()),
        "finished": False,
        "at_work": at_work,
    }


def small_cells_of(folder: Path) -> int | None:
    """`small_cells` of the search in a folder, or None where the folder does not tell.

    cohort.json holds it; one that is damaged, or of a version that did not know the word, leaves it to search.yaml. A
    search file without the word hides nothing.
    """
    # Imported here: pydantic, which the scores can be read without.
    from tim_search.gates import yaml

    for name, read, without in (("cohort.json", read_json, None), ("search.yaml", lambda path: yaml.read(path)[0], 0)):
        try:
            plain = read(folder / name)
        except (BadInput, OSError, ValueError):
            continue
        value = plain.get("small_cells", without) if isinstance(plain, dict) else None
        if type(value) is int and value >= 0:
            return value
    return None


def write_group(results: SearchResults, content: Mapping[str, Any]) -> Path:
    """Keep a choice of models as `group.json` in the search folder, where the report finds it; returns its path."""
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return write_json(results.folder / "group.json", {**content, "made": now})
