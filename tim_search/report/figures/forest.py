"""What helps and what harms one source task."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tim_search.report.figures import drawing, placing
from tim_search.report.figures.drawing import BLUE, GREY, INK, MAX_ROWS, RED
from tim_search.tim.result import TimResult
from tim_search.types import BadInput, Task, overlap_mask, some

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True, eq=False)
class ForestData:
    """The TIM scores of one source task, best helper first; every array has one entry a task of `others`.

    Attributes:
        title, axis_label: texts.
        others: the other tasks that are estimable; where they are many, as many best helpers as worst harmers.
        estimate, low, high: float; the ends are NaN without an interval.
        discovered: bool: rejected at the false-discovery rate, overlapping targets never.
        overlapping: bool: the target overlaps the source's.
        not_estimable: names of the tasks that could not be estimated.
        left_out: tasks between the best helpers and the worst harmers, which are not drawn.
    """

    title: str
    axis_label: str
    others: tuple[str, ...]
    estimate: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    discovered: NDArray[np.bool_]
    overlapping: NDArray[np.bool_]
    not_estimable: tuple[str, ...]
    left_out: int = 0


def forest_data(
    result: TimResult, source: str, overlaps: Iterable[tuple[str, str]] = (), tasks: Mapping[str, Task] | None = None
) -> ForestData:
    """Lay one row of a TIM result out as a forest plot; raises BadInput for a source that is not in the result."""
    if source not in result.tasks:
        raise BadInput(f"forest plot: there is no source task {source!r}; the result has {some(result.tasks, 20)}.")
    row = result.tasks.index(source)
    estimate = np.asarray(result.estimate, float)[row]
    others = [index for index in range(len(result.tasks)) if index != row]
    order = sorted(
        (index for index in others if np.isfinite(estimate[index])), key=lambda i: (-estimate[i], result.tasks[i])
    )
    left_out = max(0, len(order) - MAX_ROWS)
    if left_out:
        order = [*order[: MAX_ROWS // 2], *order[-(MAX_ROWS // 2) :]]
    overlapping = overlap_mask(result.tasks, overlaps)[row, order]
    return ForestData(
        title=f"What helps and harms {source} · {result.label}",
        axis_label=f"TIM score: change of {placing.with_metric(source, tasks or {})}",
        others=tuple(
            result.tasks[index] + (f" ({placing.CONTROL})" if result.tasks[index] == result.control else "")
            for index in order
        ),
        estimate=estimate[order],
        low=np.asarray(result.low, float)[row, order],
        high=np.asarray(result.high, float)[row, order],
        discovered=np.asarray(result.rejected, bool)[row, order] & ~overlapping,
        overlapping=overlapping,
        not_estimable=tuple(result.tasks[index] for index in others if not np.isfinite(estimate[index])),
        left_out=left_out,
    )


def draw_forest(data: ForestData, ax: Axes | None = None) -> Axes:
    """Draw a forest plot on `ax`, or on a figure of its own."""
    n = len(data.others)
    ax = ax or drawing.new_axis(min(max(7.5, 4.4 + 0.075 * drawing.longest_text(data.others)), 14.0), 0.26 * n + 2.1)
    sure = (data.low > 0) | (data.high < 0)
    for place in range(n):
        colour = GREY
        if sure[place] and not data.overlapping[place]:
            colour = RED if data.estimate[place] > 0 else BLUE
        drawing.whisker(
            ax, place, data.estimate[place], data.low[place], data.high[place], colour, data.discovered[place]
        )
    handles = [drawing.legend_point(INK, True, "discovery (FDR)")] if data.discovered.any() else []
    if (sure & ~data.discovered & ~data.overlapping).any():
        handles.append(drawing.legend_point(INK, False, "interval excludes 0"))
    if (~sure | data.overlapping).any():
        handles.append(drawing.legend_point(GREY, False, "no finding"))
    notes = [" (overlapping target)" if same else "" for same in data.overlapping]
    drawing.named_rows(ax, [name + note for name, note in zip(data.others, notes, strict=True)])
    if data.left_out:
        ax.axhline(n / 2 - 0.5, color=GREY, linewidth=0.9, linestyle=":")
    remarks = [f"dotted line: {data.left_out} tasks between are not drawn"] if data.left_out else []
    remarks += [f"not estimable: {some(data.not_estimable)}"] if data.not_estimable else []
    label = textwrap.fill(data.axis_label, 56, break_long_words=False)
    ax.set_xlabel("\n".join([label, *remarks]))
    drawing.write_title(ax, data.title, handles)
    return ax
