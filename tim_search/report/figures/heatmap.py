"""The heatmap of TIM scores, by rank and by value (M3H paper, Fig. 6)."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

import matplotlib as mpl
import numpy as np
from matplotlib.colors import Normalize
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from numpy.typing import NDArray

from tim_search.report.figures import drawing, placing
from tim_search.report.figures.drawing import INK, MAX_TASKS_WITH_NUMBERS, MISSING
from tim_search.tim.result import MOST_SHOWN, TimResult, most_telling, rank_heatmap
from tim_search.types import BadInput, Task, overlap_mask

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes


HeatmapKind: TypeAlias = Literal["rank", "value"]

#: Pairs of tasks whose targets are nested or nearly the same.
Overlaps: TypeAlias = Iterable[tuple[str, str]]

HATCH, HATCH_INK = "xxxx", "#4d4d4d"

#: How much of its colour a cell keeps whose interval holds zero, or that has none.
MUTED = 0.3

#: What is written across the row of a source whose network has learnt nothing.
NOT_LEARNT = "has not learnt"


@dataclass(frozen=True, eq=False)
class HeatmapData:
    """A TIM heatmap, laid out for drawing. Rows are source tasks, columns the task trained with them, both in `tasks`.

    Attributes:
        title: says the method, so that a restricted score is never taken for the full one, and of how many tasks the
            shown ones are the most telling.
        tasks: M names in the order drawn: by department where there are departments, a negative control last.
        row_labels: names of the rows; by value they carry the metric the row is measured in.
        kind: "rank" or "value"; raises BadInput for another one.
        cells: float (M, M); NaN where not estimable; 0 on the diagonal.
        limits: float (M,), by row: its colours run from -limit (blue) to +limit (red). By value each row has its own,
            since rows are measured in metrics of their own; by rank all rows share one.
        shades: float (M, M), the colours, -1 (blue) to +1 (red); 0 (none) for overlaps, NaN where nothing is to be
            seen: not estimable, or a row that has not learnt.
        muted: bool (M, M): by value, the interval holds zero or there is none, so that the colour is pale.
        unlearnt: bool (M,): the row is of a source whose network has not learnt; it is grey and has no findings.
        numbers: (M, M) texts, or None when there are too many tasks to print them.
        hatched: bool (M, M): overlapping targets, no finding.
        excludes_zero: bool (M, M): the interval of the cell does not hold zero.
        discovered: bool (M, M): also rejected at the false-discovery rate.
        departments: (name, first row, one past the last row) of each run of tasks; empty without departments. A
            negative control is a run of its own.
    """

    title: str
    tasks: tuple[str, ...]
    row_labels: tuple[str, ...]
    kind: HeatmapKind
    cells: NDArray[np.float64]
    limits: NDArray[np.float64]
    shades: NDArray[np.float64]
    muted: NDArray[np.bool_]
    unlearnt: NDArray[np.bool_]
    numbers: tuple[tuple[str, ...], ...] | None
    hatched: NDArray[np.bool_]
    excludes_zero: NDArray[np.bool_]
    discovered: NDArray[np.bool_]
    departments: tuple[tuple[str, int, int], ...]


def heatmap_data(
    result: TimResult,
    kind: HeatmapKind = "rank",
    overlaps: Overlaps = (),
    tasks: Mapping[str, Task] | None = None,
    search: str = "",
    most: int = MOST_SHOWN,
    unlearnt: Collection[str] = (),
) -> HeatmapData:
    """Lay a TIM result out as a heatmap.

    By rank: within a row and a sign, tasks are ranked by the size of their score; the largest gain gets the largest
    positive rank, the largest loss the most negative one (M3H paper, section 6.2). By value: the scores themselves; the
    colours of a row end at the 95th percentile of its sizes, so that neither another row, whose metric is another one,
    nor one large cell bleaches the others, and they are pale where the interval holds zero.

    Args:
        result: the scores; row = source task.
        kind: "rank" or "value".
        overlaps: pairs of overlapping targets; pairs with tasks outside the result are passed over.
        tasks: where given, tasks are grouped by department, and rows by value name their metric.
        search: name of the search, for the title.
        most: of more tasks than this the most telling are shown (`tim.most_telling`); ranks stay those among all.
        unlearnt: sources whose networks have not learnt.
    """
    if kind not in ("rank", "value"):
        raise BadInput(f"heatmap: kind must be 'rank' or 'value', got {kind!r}.")
    tasks, overlaps = tasks or {}, list(overlaps)
    shown = most_telling(result, most, overlaps)
    placed, departments = placing.by_department(shown, tasks, result.control)
    names = tuple(shown[index] for index in placed)
    order = [result.tasks.index(name) for name in names]
    at = np.ix_(order, order)
    diagonal = np.eye(len(names), dtype=bool)
    cells = np.where(diagonal, 0.0, _cells(result, kind)[at])
    hatched = overlap_mask(names, overlaps)
    grey = np.array([name in unlearnt for name in names])
    plain = ~hatched & ~diagonal & ~grey[:, None]
    excludes_zero = ((np.asarray(result.low) > 0) | (np.asarray(result.high) < 0))[at] & plain
    discovered = np.asarray(result.rejected, bool)[at] & plain
    limits = _limits(result, names, kind, cells, ~hatched & ~diagonal)
    shades = np.where(grey[:, None], np.nan, np.where(hatched, 0.0, np.clip(cells / limits[:, None], -1, 1)))
    muted = plain & ~excludes_zero & ~discovered & np.isfinite(cells) & (kind == "value")
    return HeatmapData(
        title=_title(search, result, kind, len(names)),
        tasks=names,
        row_labels=tuple(placing.with_metric(name, tasks) for name in names) if kind == "value" else names,
        kind=kind,
        cells=cells,
        limits=limits,
        shades=shades,
        muted=muted,
        unlearnt=grey,
        numbers=_numbers(cells, grey, kind) if len(names) <= MAX_TASKS_WITH_NUMBERS else None,
        hatched=hatched,
        excludes_zero=excludes_zero,
        discovered=discovered,
        departments=departments,
    )


def _cells(result: TimResult, kind: HeatmapKind) -> NDArray[np.float64]:
    """(M, M) scores, or their ranks; NaN where there is no score."""
    estimate = np.asarray(result.estimate, float)
    return np.where(np.isfinite(estimate), rank_heatmap(estimate) if kind == "rank" else estimate, np.nan)


def _title(search: str, result: TimResult, kind: HeatmapKind, n_shown: int) -> str:
    part = f"the {n_shown} most telling of {len(result.tasks)} tasks" if n_shown < len(result.tasks) else ""
    return " · ".join(text for text in (search, f"{result.label}, by {kind}", part) if text)


def _limits(
    result: TimResult, names: Sequence[str], kind: HeatmapKind, cells: NDArray[np.float64], telling: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Where the colours of each row end (n,): at the highest rank; by value see `_limit`, telling cells first."""
    if kind == "rank":
        return np.full(len(names), max(len(result.tasks) - 1, 1), float)
    telling = telling & np.array([name != result.control for name in names])
    return np.array([_limit(row[use]) or _limit(row) or 1.0 for row, use in zip(cells, telling, strict=True)])


def _limit(cells: NDArray[np.float64]) -> float:
    """The 95th percentile of the cells' sizes, or the largest where that is zero; 0 where all are zero or unknown."""
    sizes = np.abs(cells[np.isfinite(cells)])
    return float(np.quantile(sizes, 0.95)) or float(sizes.max()) if sizes.any() else 0.0


def draw_heatmap(data: HeatmapData, ax: Axes | None = None) -> Axes:
    """Draw a heatmap on `ax`, or on a figure of its own."""
    m = len(data.tasks)
    ax = ax or drawing.matrix_axis(m)
    colours, norm = mpl.colormaps["RdBu_r"].with_extremes(bad=MISSING), Normalize(-1, 1)
    shades = np.where(data.muted, MUTED * data.shades, data.shades)
    image = drawing.draw_matrix(ax, shades, colours, norm, data.tasks, data.row_labels, data.departments)
    ax.set_xlabel("trained together with")
    ax.set_ylabel("source task: whose score changes")
    drawing.white_diagonal(ax, np.flatnonzero(~data.unlearnt).tolist())
    hatched = data.hatched & ~data.unlearnt[:, None]
    for row, column in zip(*np.nonzero(hatched), strict=True):
        ax.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, hatch=HATCH, edgecolor=HATCH_INK, lw=0.8))
    if data.numbers is not None:
        drawing.print_numbers(ax, data.numbers, shades, colours, norm, hatched)
    for row in np.flatnonzero(data.unlearnt).tolist():
        ax.text((m - 1) / 2, row, NOT_LEARNT, ha="center", va="center", fontsize=8, style="italic", color=INK)

    handles = _draw_marks(ax, data, [colours(norm(shade)) for shade in shades.ravel()])
    if data.muted.any():
        handles.append(Patch(facecolor=colours(norm(MUTED)), label="pale: no interval without 0"))
    if hatched.any():
        meaning = "overlapping targets: no finding"
        handles.append(Patch(facecolor="white", edgecolor=HATCH_INK, hatch=HATCH, lw=0.8, label=meaning))
    if np.isnan(data.cells).any():
        handles.append(Patch(facecolor=MISSING, label="not estimable"))
    drawing.write_title(ax, data.title, handles, columns=2 if m < 10 else 4)
    ax.set(xlim=(-0.5, m - 0.5), ylim=(m - 0.5, -0.5))

    bar = drawing.colour_bar(ax, image, m)
    if data.kind == "rank":
        ends = f"{data.limits.max():.0f}"
        bar.set_ticks([-1, 0, 1], labels=[f"\N{MINUS SIGN}{ends}", "0", f"+{ends}"])
        bar.set_label("rank within the row: red helps, blue harms")
    else:
        bar.set_ticks([-1, 0, 1], labels=["harms", "0", "helps"])
        bar.set_label("TIM score beside the largest of its row")
    return ax


def _draw_marks(ax: Axes, data: HeatmapData, shades: Sequence[tuple[float, float, float, float]]) -> list[Artist]:
    """Dots for discoveries and rings for intervals without zero, on cells of these colours; returns their legend."""
    handles: list[Artist] = []
    offset, size = (0.36, 22.0) if data.numbers is not None else (0.0, 11.0)
    for where, filled, meaning in (
        (data.discovered, True, "discovery (FDR)"),
        (data.excludes_zero & ~data.discovered, False, "interval excludes 0"),
    ):
        if where.any():
            rows, columns = np.nonzero(where)
            inks = [drawing.ink_on(shades[place]) for place in np.flatnonzero(where).tolist()]
            faces = inks if filled else ["none"] * len(inks)
            ax.scatter(columns + offset, rows - offset, s=size, c=faces, edgecolors=inks, linewidths=0.9)
            face = INK if filled else "none"
            handles.append(Line2D([], [], marker="o", ls="none", ms=math.sqrt(size), mec=INK, mfc=face, label=meaning))
    return handles


def _numbers(cells: NDArray[np.float64], unlearnt: NDArray[np.bool_], kind: HeatmapKind) -> tuple[tuple[str, ...], ...]:
    """Signed texts without a leading zero; none in rows that have not learnt.

    By value a row has as many digits as its typical cell needs: the next one may be measured on another scale.
    """
    return tuple(
        ("",) * len(row) if grey else _row_numbers(row, kind) for row, grey in zip(cells, unlearnt, strict=True)
    )


def _row_numbers(row: NDArray[np.float64], kind: HeatmapKind) -> tuple[str, ...]:
    sizes = np.abs(row[np.isfinite(row) & (row != 0)])
    typical = float(np.median(sizes)) if len(sizes) else 1.0
    decimals = 0 if kind == "rank" else min(max(1 - math.floor(math.log10(typical)), 2), 5)

    def text(value: float) -> str:
        if math.isnan(value):
            return ""
        digits = f"{abs(value):.{decimals}f}"
        if value == 0:
            return "0"
        return ("+" if value > 0 else "\N{MINUS SIGN}") + (digits.removeprefix("0") if decimals else digits)

    return tuple(text(float(value)) for value in row)
