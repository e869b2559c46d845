"""What happens inside the network for one subset of a finished search: looked at and written down.

The weights of cross-task attention are in the ledger; a network with experts and task tokens is trained again.

The tables lie in DIR/inside/<subset>/ as CSV, their figures beside them. Nothing here reads a test patient.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tim_search import config
from tim_search.app.opening import check_seeds, check_tasks, reopen
from tim_search.gates.files import write_durably
from tim_search.gates.told_scores import Telling
from tim_search.results import opened
from tim_search.types import FINAL_FOLD, BadInput, Subset, joined, subset

if TYPE_CHECKING:
    import pandas as pd

#: Names of the tables, in the order in which they are shown.
TABLES = ("scores", "turns", "routing", "patients", "apart")

_SHARES = (10, 20, 50, 100)  # steps, in hundredths


@dataclass(frozen=True, eq=False)
class Looked:
    """What is seen inside one subset.

    Attributes:
        folder: where the tables and figures lie.
        subset: the tasks.
        order: the tasks in the order of their turns; () of a network without turns.
        tables: by name, see `model.networks.contract.Inside`; of a network with attention "attention" alone, see
            `attention`.
    """

    folder: Path
    subset: Subset
    order: tuple[str, ...]
    tables: dict[str, pd.DataFrame]


def look(
    folder: str | Path,
    members: Sequence[str] | None = None,
    seeds: int = 5,
    *,
    allow_code: bool = False,
    note: Callable[[str], None] = lambda text: None,
) -> Looked:
    """Look inside one subset of a search; where the ledger has no attention of it, it is trained again for that.

    Args:
        folder: the output folder of the search.
        members: the tasks; default: all tasks of the search.
        seeds: scores are means over so many trainings.
        allow_code: whether a network of one's own may be imported.
        note: takes lines about what is being done.

    Raises:
        BadInput: unknown tasks, a network that has nothing to show, a subset with attention that the search has not
            trained, or a cohort that is no longer the search's.
    """
    from model.trained.inside import look as look_inside
    from model.trained.inside import shows
    from model.training.trainer import TrainingPayload

    results = opened.open_search(folder)
    check_seeds(seeds, 5)
    tasks = check_tasks("--subset", members, results)
    chosen = subset(members or tasks)
    place = results.folder / "inside" / "+".join(chosen)[:120]
    if (weights := attention(results, chosen)) is not None:
        write_durably(place / "attention.csv", weights.to_csv(index=False).encode())
        return Looked(place, chosen, (), {"attention": weights})
    shows(results.manifest.context.network, allow_code=allow_code)
    search = reopen(results, consequence="what is seen would not be its networks", allow_code=allow_code, note=note)
    _, fold = search.blocks[0]
    threads = max(1, int(search.resources.cpus))
    payload = TrainingPayload(search.cohort, search.context.network, search.settings, search.file.device, threads)
    inside = look_inside(payload, chosen, tuple(range(seeds)), fold, note)
    small = search.file.small_cells
    tables = _hidden({name: getattr(inside, name) for name in TABLES}, small, config.telling(search.cohort, small))
    for name, table in tables.items():
        write_durably(place / f"{name}.csv", table.to_csv(index=False).encode())
    return Looked(place, chosen, inside.order, tables)


def attention(results: opened.SearchResults, chosen: Subset) -> pd.DataFrame | None:
    """How much each task of a subset draws on each other, over the search's trainings; None of a network without it.

    The weight of a training is the mean over its validation rows (M3H paper, Fig. 4d, of one subset).

    Returns:
        One row a pair: task, draws_on, mean and sd over the trainings (seed and fold), trainings.

    Raises:
        BadInput: the network has attention, but the search has not trained this subset.
    """
    frame = results.ledger.attention(results.manifest.context.key)
    frame = frame[frame["fold"] != FINAL_FOLD]
    if frame.empty:
        return None
    mine = frame[frame["subset"].map(lambda members: subset(members) == chosen)]
    if mine.empty or len(chosen) < 2:
        raise BadInput(
            f"--subset: expected two tasks or more that the search has trained together, got {joined(chosen)}. "
            f"`tim-search status {results.folder}` tells what it has trained."
        )
    by_pair = mine.rename(columns={"other": "draws_on"}).groupby(["task", "draws_on"], sort=False)["weight"]
    return by_pair.agg(mean="mean", sd="std", trainings="count").reset_index()


def _hidden(tables: dict[str, pd.DataFrame], small: int, telling: Telling) -> dict[str, pd.DataFrame]:
    """Without the points of a map that fewer than `small` patients stand behind, and with scores that may be told."""
    import pandas as pd

    if not small:
        return tables
    patients = tables["patients"]
    by_task = {
        name: pd.DataFrame(telling.rows(tables[name].to_dict("records")), columns=tables[name].columns)
        for name in ("scores", "turns")
    }
    routing = pd.concat([_about(table, small) for _, table in tables["routing"].groupby("task", sort=False)])
    return {**tables, **by_task, "patients": patients[patients["patients"] >= small], "routing": routing}


def _about(routing: pd.DataFrame, small: int) -> pd.DataFrame:
    """The routing of one task's rows as of about a hundred rows.

    Rounded each by itself, the rows of its combinations would tell how many lack a modality. So they are told as
    shares of the most rows, in steps of at least `small` rows, and of a combination that fewer rows have, nothing is.
    """
    rows, most = routing["rows"], max(1, int(routing["rows"].max()))
    step = next((step for step in _SHARES if step * most >= 100 * small), _SHARES[-1])
    shown = (rows / most * 100 / step).round().astype(int) * step
    shown = shown.where(rows >= small, 0)
    chosen = (routing["chosen"] / rows.clip(lower=1) * 20).round() / 20 * shown
    return routing.assign(chosen=chosen.round().astype(int), rows=shown)
