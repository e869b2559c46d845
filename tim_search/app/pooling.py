"""The searches of several sites pooled, with what is written of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tim_search.app.outputs import check_folder
from tim_search.app.publishing import write_table
from tim_search.gates.files import make_folder
from tim_search.report import figures
from tim_search.results import opened
from tim_search.results.pool import PooledSearches, pool_searches


def pool(folders: Sequence[str | Path], out: str | Path | None = None) -> tuple[PooledSearches, dict[str, Path]]:
    """The mean TIM scores of several sites' searches, and the files that were written, by what they are.

    Args:
        folders: of the searches.
        out: where a table of all cells and the heatmap go, made where it is missing; None writes nothing.

    Raises:
        BadInput: as `pool_searches`, or `out` is a folder of another kind.
    """
    if out is not None:
        check_folder(out)
    pooled = pool_searches([opened.open_search(folder) for folder in folders])
    if out is None:
        return pooled, {}
    make_folder(Path(out))
    rows = [{name: value for name, value in row.items() if name != "at"} for row in pooled.rows()]
    tasks = {task.name: task for task in pooled.tasks}
    data = figures.heatmap_data(pooled.result, "value", pooled.overlaps, tasks, search=f"{len(folders)} sites")
    return pooled, {
        "table": write_table(Path(out) / "pooled.csv", rows, "Name another folder with --out."),
        "heatmap": figures.save(figures.draw_heatmap(data), Path(out) / "pooled-heatmap.png"),
    }
