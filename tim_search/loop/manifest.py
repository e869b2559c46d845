"""`search.json`: what makes the output folder of a search readable without its cohort, network or search file."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from tim_search.gates.plain import write_json
from tim_search.ledger import storage
from tim_search.ledger.ledger import Ledger
from tim_search.types import BadInput, Context, Task, digest, product_version


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

    def write(self, folder: str | Path) -> Path:
        """Write `search.json` into an output folder, whole or not at all; returns its path."""
        plain = asdict(self)
        plain["context"]["key"] = self.context.key
        return write_json(Path(folder) / "search.json", plain, "Name another output folder with --out.")

    @classmethod
    def read(cls, folder: str | Path) -> Manifest:
        """Read an output folder's `search.json`; raises BadInput when there is none or it cannot be understood."""
        path = Path(folder) / "search.json"
        try:
            plain = json.loads(path.read_text(encoding="utf-8"))
            context = Context(**{item.name: plain["context"][item.name] for item in fields(Context)})
            if plain["context"]["key"] != context.key:
                raise ValueError("its context does not match its key, so it was altered")
            return cls(
                name=plain["name"],
                cohort=plain["cohort"],
                context=context,
                tasks=tuple(Task(**{**task, "excludes": tuple(task["excludes"])}) for task in plain["tasks"]),
                overlaps=tuple((one, other) for one, other in plain["overlaps"]),
                design=dict(plain["design"]),
                blocks=tuple((int(seed), int(fold)) for seed, fold in plain["blocks"]),
                sources=tuple(plain["sources"]),
                ledger=plain["ledger"],
                planned_units=plain["planned_units"],
                version=plain["version"],
                created=plain["created"],
            )
        except OSError as error:
            raise BadInput(
                f"{path}: cannot be read ({error.strerror}). Expected the output folder of a search; name the folder "
                "that was given as --out."
            ) from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise BadInput(
                f"{path}: is not a search's manifest ({type(error).__name__}: {error}). Run the search again; it "
                "writes the file anew and trains nothing that the ledger holds."
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
