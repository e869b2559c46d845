"""TIM scores of one source task along the number of subsets trained, or of tasks trained along."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from tim_search.report.figures import drawing, placing
from tim_search.report.figures.drawing import INK
from tim_search.tim.result import TimResult
from tim_search.tim.size_profile import SizeProfile
from tim_search.types import BadInput, Task, some

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes


#: Lines in one plot; more cannot be told apart.
MAX_LINES = 6


@dataclass(frozen=True, eq=False)
class LinesData:
    """TIM scores of one source task along the number of subsets, or along the number of other tasks.

    Attributes:
        title, axis_label, score_label: texts.
        x: (n,) the places.
        others: k tasks, those with the largest scores, largest gain first.
        value, low, high: float (n, k); NaN where nothing is known.
    """

    title: str
    axis_label: str
    score_label: str
    x: NDArray[np.int64]
    others: tuple[str, ...]
    value: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


def convergence_data(
    steps: Sequence[tuple[int, TimResult]], source: str, tasks: Mapping[str, Task] | None = None
) -> LinesData:
    """How the estimates of one source settle while subsets are added: (number of subsets, result), in that order.

    Raises BadInput without results, and for a source that is not in them.
    """
    if not steps:
        raise BadInput("convergence plot: there are no results to draw. It takes a sampled search with some scores.")
    last = steps[-1][1]
    row = _row_of(last, source, "convergence plot")
    chosen = _largest(last.estimate[row], row)
    value, low, high = (
        np.array([[getattr(result, name)[row, j] for j in chosen] for _, result in steps], float)
        for name in ("estimate", "low", "high")
    )
    return LinesData(
        title=f"How the scores of {source} settle · {last.label}",
        axis_label="subsets trained",
        score_label=f"TIM score: change of {placing.with_metric(source, tasks or {})}",
        x=np.array([size for size, _ in steps], np.int64),
        others=tuple(last.tasks[j] for j in chosen),
        value=value,
        low=low,
        high=high,
    )


def profile_data(
    profile: SizeProfile, result: TimResult, source: str, tasks: Mapping[str, Task] | None = None
) -> LinesData:
    """TIM scores of one source by the number of other tasks trained along, for the tasks `result` finds largest."""
    row = _row_of(result, source, "size profile")
    chosen = _largest(result.estimate[row], row)
    value, error = profile.estimate[:, row, chosen], profile.se[:, row, chosen]
    return LinesData(
        title=f"What helps {source}, by the number of other tasks",
        axis_label="other tasks trained along, |S|",
        score_label=f"mean difference: change of {placing.with_metric(source, tasks or {})}, with its standard error",
        x=profile.sizes,
        others=tuple(result.tasks[j] for j in chosen),
        value=value,
        low=value - error,
        high=value + error,
    )


def draw_lines(data: LinesData, ax: Axes | None = None) -> Axes:
    """Draw lines with bars, shifted a little so that bars do not hide each other, on `ax` or a figure of its own."""
    ax = ax or drawing.new_axis(7.5, 4.8)
    colours = mpl.colormaps["cividis"](np.linspace(0.0, 0.85, len(data.others)))
    step = float(np.min(np.diff(data.x))) if len(data.x) > 1 else 1.0
    handles: list[Artist] = []
    for k, (name, colour) in enumerate(zip(data.others, colours, strict=True)):
        x = data.x + 0.5 * step * ((k + 0.5) / len(data.others) - 0.5)
        marker = "osD^vP"[k % 6]
        ax.plot(x, data.value[:, k], marker=marker, color=colour, linewidth=1.2, markersize=5)
        ax.vlines(x, data.low[:, k], data.high[:, k], color=colour, linewidth=1.2)
        handles.append(Line2D([], [], marker=marker, color=colour, ms=5, lw=1.2, label=name))
    ax.axhline(0, color=INK, linewidth=0.9, zorder=0)
    ax.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    ax.set_xlabel(data.axis_label)
    ax.set_ylabel(data.score_label)
    ax.grid(axis="y", color="#e6e6e6", linewidth=0.8)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    drawing.write_title(ax, data.title, handles, columns=3)
    return ax


def _row_of(result: TimResult, source: str, figure: str) -> int:
    if source not in result.tasks:
        raise BadInput(f"{figure}: there is no source task {source!r}; the result has {some(result.tasks, 20)}.")
    return result.tasks.index(source)


def _largest(row: NDArray[np.float64], source: int) -> list[int]:
    """The tasks with the largest scores of either sign, at most MAX_LINES, largest gain first."""
    finite = [j for j in range(len(row)) if j != source and np.isfinite(row[j])]
    return sorted(sorted(finite, key=lambda j: -abs(row[j]))[:MAX_LINES], key=lambda j: -row[j])
