"""`search.json`: what makes the output folder of a search readable without its cohort, network or search file."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from tim_search.gates.files import MOST_TEXT, open_regular
from tim_search.gates.forms import conform
from tim_search.gates.plain import write_json
from tim_search.gates.texts import for_terminal
from tim_search.ledger import storage
from tim_search.ledger.ledger import Ledger
from tim_search.plans.contract import MOST_BLOCKS
from tim_search.plans.from_design import check_form
from tim_search.types import ALLOWED, KINDS, BadInput, Context, Task, digest, product_version

#: What the values of search.json are.
_FORM = {
    "name": str,
    "cohort": str,
    "context": {**{item.name: str for item in fields(Context)}, "key": str},
    "tasks": [{"name": str, "kind": str, "n_outputs": int, "metric": str, "department": str, "excludes": [str]}],
    "overlaps": [[str]],
    "design": {"kind": str},
    "blocks": [[int]],
    "sources": [str],
    "ledger": str,
    "planned_units": (int, type(None)),
    "version": str,
    "created": str,
}
#: The largest whole number: what the ledger's columns hold.
_MOST = 2**63 - 1


@dataclass(frozen=True)
class Manifest:
    """What `search.json` in the output folder says: all that reading its ledger takes.

    Attributes:
        name: of the search.
        cohort: name of the cohort; its fingerprint is in `context`.
        context: what every score of the search depends on besides its unit.
        tasks: in the order of the search.
        overlaps: pairs of tasks with near-identical or nested targets.
        design: the design in full, as plain JSON.
        blocks: (seed, fold) pairs.
        sources: the tasks whose expansion is wanted.
        ledger: its folder, absolute or relative to the output folder, or its URL.
        planned_units: units of the whole search; None where the design decides as it goes.
        version: of the product that wrote the file.
        created: when, in UTC, as ISO 8601 text.
    """

    name: str
    cohort: str
    context: Context
    tasks: tuple[Task, ...]
    overlaps: tuple[tuple[str, str], ...]
    design: Mapping[str, Any]
    blocks: tuple[tuple[int, int], ...]
    sources: tuple[str, ...]
    ledger: str = "ledger"
    planned_units: int | None = None
    version: str = field(default_factory=product_version)
    created: str = field(default_factory=lambda: time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))

    @property
    def control(self) -> str | None:
        """The task with permuted labels, if the search has one."""
        return self.design.get("control")

    def write(self, folder: str | Path) -> Path:
        """Write `search.json` into an output folder, whole or not at all; returns its path."""
        plain = asdict(self)
        plain["context"]["key"] = self.context.key
        return write_json(Path(folder) / "search.json", plain, "Name another output folder with --out.")

    @classmethod
    def read(cls, folder: str | Path) -> Manifest:
        """Read an output folder's `search.json`.

        Raises:
            BadInput: there is none, it cannot be read, or holds anything that no search writes.
        """
        path = Path(folder) / "search.json"
        try:
            with open_regular(path, MOST_TEXT) as file:
                content = file.read()
        except OSError as error:
            raise BadInput(
                f"{for_terminal(path)}: cannot be read ({error.strerror}). Expected the output folder of a search; "
                "name the folder that was given as --out."
            ) from error
        try:
            return _manifest(json.loads(content))
        except (ValueError, RecursionError) as error:
            problem = "it nests too deep" if isinstance(error, RecursionError) else for_terminal(error, most=200)
            raise BadInput(
                f"{for_terminal(path)}: is not a search's manifest ({problem}). Run the search again; it writes the "
                "file anew and trains nothing that the ledger holds."
            ) from error

    def published_id(self, folder: Path, tracking_uri: str) -> str:
        """What makes it this search in an MLflow store: name, context, design and tasks.

        A store that holds many searches tells equal ones apart by their folders; one inside its search's folder does
        not, so that the folder may be moved.
        """
        home = "" if tracking_uri.startswith(f"sqlite:///{folder}/") else str(folder)
        names = [task.name for task in self.tasks]
        return digest([home, self.name, self.context.key, dict(self.design), names])

    def open_ledger(self, folder: str | Path) -> Ledger:
        """The ledger of the search whose output folder this is."""
        return Ledger(storage.received(folder, self.ledger))


def _manifest(plain: Any) -> Manifest:
    """The manifest that a JSON value is; raises ValueError that says where it is none."""
    conform(plain, _FORM)
    names = [task["name"] for task in plain["tasks"]]
    _expect(len(set(names)) == len(names) > 0 and all(names), "tasks: expected one or more distinct names")
    for task in plain["tasks"]:
        _expect(task["kind"] in KINDS, f"tasks: {task['name']}: expected one of the kinds {', '.join(KINDS)}")
        _expect(task["metric"] in ALLOWED[task["kind"]], f"tasks: {task['name']}: expected a metric of its kind")
        _expect(1 <= task["n_outputs"] <= _MOST, f"tasks: {task['name']}: expected n_outputs of at least 1")
    _expect(set(plain["sources"]) <= set(names), "sources: expected names of tasks")
    _expect(all(len(pair) == 2 for pair in plain["overlaps"]), "overlaps: expected pairs of tasks")
    blocks = [tuple(block) for block in plain["blocks"]]
    _expect(1 <= len(set(blocks)) == len(blocks) <= MOST_BLOCKS, f"blocks: expected 1 to {MOST_BLOCKS:,}, each once")
    whole = all(len(block) == 2 and min(block) >= 0 and max(block) <= _MOST for block in blocks)
    _expect(whole, "blocks: expected pairs of seed and fold, whole numbers of at least 0")
    _expect(0 <= (plain["planned_units"] or 0) <= _MOST, "planned_units: expected a number of units")
    check_form(plain["design"])
    context = Context(**{item.name: plain["context"][item.name] for item in fields(Context)})
    _expect(plain["context"]["key"] == context.key, "its context does not match its key, so it was altered")
    _expect(isinstance(json.loads(context.settings), dict), "context.settings: expected an object")
    tasks = ({item.name: task[item.name] for item in fields(Task)} for task in plain["tasks"])
    return Manifest(
        name=plain["name"],
        cohort=plain["cohort"],
        context=context,
        tasks=tuple(Task(**{**task, "excludes": tuple(task["excludes"])}) for task in tasks),
        overlaps=tuple((first, second) for first, second in plain["overlaps"]),
        design=plain["design"],
        blocks=tuple((seed, fold) for seed, fold in blocks),
        sources=tuple(plain["sources"]),
        ledger=plain["ledger"],
        planned_units=plain["planned_units"],
        version=plain["version"],
        created=plain["created"],
    )


def _expect(right: bool, problem: str) -> None:
    if not right:
        raise ValueError(problem)
