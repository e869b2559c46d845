"""The figures of a search folder, drawn from what its ledger holds. Needs neither Ray nor the network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from tim_search.gates.texts import for_file_name
from tim_search.report import figures
from tim_search.report.figures import confirmed as confirmed_figures
from tim_search.report.figures import elsewhere
from tim_search.results import confirmation as confirmed
from tim_search.results.external import External
from tim_search.results.grouping import Grouping
from tim_search.results.opened import SearchResults
from tim_search.results.verdicts import Verdict
from tim_search.tim.result import TimResult, most_telling
from tim_search.tim.size_profile import size_profile
from tim_search.types import FINAL_FOLD, joined, partners

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: A confirmation draws a ROC curve from so many patients of either class on (docs/ledger.md).
ROC_PATIENTS = 20


def heatmaps(results: SearchResults, result: TimResult) -> tuple[Path, ...]:
    """The heatmap by value, and by rank as the M3H paper draws it; that of a restricted score under its own name."""
    name = "heatmap" if result.size is None else "restricted-heatmap"
    kinds: Sequence[figures.HeatmapKind] = ("value", "rank")
    return tuple(
        figures.save(heatmap(results, result, kind), results.folder / "figures" / f"{name}-{kind}.png")
        for kind in kinds
    )


def heatmap(results: SearchResults, result: TimResult, kind: figures.HeatmapKind, ax: Axes | None = None) -> Axes:
    """The heatmap of TIM scores of a search, drawn on `ax`, or on a figure of its own."""
    overlaps, name, grey = results.manifest.overlaps, results.manifest.name, results.not_learnt
    data = figures.heatmap_data(result, kind, overlaps, results.tasks, search=name, unlearnt=grey)
    return figures.draw_heatmap(data, ax)


def source(results: SearchResults, result: TimResult, name: str) -> tuple[Path, ...]:
    """Figures of one source: its helpers and harmers, how they settled (sampled searches), and by size of the subset.

    The first two are of `result` and of its kind; a restricted or deployable score has file names of its own.
    """
    tasks, place = results.tasks, results.folder / "figures"
    data = figures.forest_data(result, name, results.manifest.overlaps, tasks)
    kind = "" if result.size is None else f"-up-to-{result.size}"
    paths = [figures.save(figures.draw_forest(data), place / f"forest-{for_file_name(name)}{kind}.png")]
    if not data.others:
        return tuple(paths)  # nothing is estimable yet, or there is no other task: nothing to draw a line of
    if steps := results.convergence(size=result.size):
        settling = figures.draw_lines(figures.convergence_data(steps, name, tasks))
        paths.append(figures.save(settling, place / f"convergence-{for_file_name(name)}{kind}.png"))
    profile = figures.draw_lines(figures.profile_data(size_profile(results.table), result, name, tasks))
    return (*paths, figures.save(profile, place / f"sizes-{for_file_name(name)}.png"))


def expansion(results: SearchResults, judged: Sequence[Verdict]) -> tuple[Path, ...]:
    """The verdict on each source with its gain; nothing where no combination was compared."""
    if all(math.isnan(each.gain) for each in judged):
        return ()
    data = figures.expansion_data(judged, results.tasks, results.manifest.name)
    return (figures.save(figures.draw_expansion(data), results.folder / "figures" / "expansion.png"),)


def front(results: SearchResults, grouping: Grouping) -> Path:
    """The Pareto front of the models to deploy."""
    drawn = figures.draw_front(figures.front_data(grouping, results.manifest.name))
    return figures.save(drawn, results.folder / "figures" / "front.png")


def attention(results: SearchResults, result: TimResult) -> tuple[Path, ...]:
    """How much each task draws on each other, within one subset size, for the most telling tasks of `result`.

    Nothing where no such subset was trained, or where there are too many weights to read.
    """
    if figures.attention_weights(results.table.membership, results.table.trained) > figures.MOST_WEIGHTS:
        return ()
    frame = results.ledger.attention(results.manifest.context.key)
    shown = most_telling(result, overlaps=results.manifest.overlaps)
    size = figures.attention_size(frame, tuple(results.tasks), shown)
    if size is None:
        return ()
    data = figures.attention_data(frame, tuple(results.tasks), size, results.tasks, shown)
    return (figures.save(figures.draw_attention(data), results.folder / "figures" / "attention.png"),)


def confirmation(results: SearchResults) -> tuple[Path, ...]:
    """The forest of all sources that were put to the test, and the figures of each source's predictions."""
    asked = confirmed.read(results.folder)
    place = results.folder / "figures"
    rows = confirmed.rows(results)
    data = confirmed_figures.forest_data(rows, results.manifest.name)
    if asked is None or not data.labels:
        return ()
    paths = [figures.save(confirmed_figures.draw_forest(data).axes[0], place / "confirmation.png")]
    frames = {key: results.ledger.curves(key) for key in {context.key for context in asked.contexts.values()}}
    for source, chosen in asked.chosen.items():
        parts = [frames[asked.contexts[members].key] for members in ((source,), chosen)]
        curves = parts[0] if parts[0] is parts[1] else pd.concat(parts)
        curves = curves[(curves["fold"] == FINAL_FOLD) & curves["seed"].isin(asked.seeds)]
        curves = without_small(curves, results.small_cells)
        paths += confirmed_figures.draw_source(curves, results.tasks[source], chosen, place)
    return tuple(paths)


def external(results: SearchResults, record: External) -> tuple[Path, ...]:
    """The models on another cohort's patients: all sources, then calibration and decision curve of each."""
    place, search = results.folder / "figures", results.manifest.name
    overview = elsewhere.draw_overview(record.whole, f"{search}: models trained here, on patients of {record.cohort}")
    paths = [figures.save(overview.axes[0], place / f"external-{record.name}.png")]
    for source, members in record.chosen.items():
        title = f"{source} on {record.cohort}, alone and with {partners(joined(members), source)}"
        if (figure := elsewhere.draw_source(record.curves, source, title)) is not None:
            paths.append(figures.save(figure.axes[0], place / f"external-{record.name}-{for_file_name(source)}.png"))
    return tuple(paths)


def without_small(curves: pd.DataFrame, small: int) -> pd.DataFrame:
    """Curves without the points that fewer than `small` patients stand behind.

    A ROC curve rests on all patients, of whom it is known that there are 20 or more of either class.
    """
    if small <= 0:
        return curves
    rows = []
    for row in curves.to_dict("records"):
        n = np.asarray(row["n"])
        enough = n >= small
        if enough.any():
            rows.append(row | {name: np.asarray(row[name])[enough] for name in ("x", "y", "n")})
        elif not len(n) and small <= ROC_PATIENTS:
            rows.append(row)
    return pd.DataFrame(rows, columns=curves.columns)
