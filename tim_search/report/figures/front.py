"""What each number of deployed models gains."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from tim_search.report.figures import drawing
from tim_search.report.figures.drawing import GREY, INK, RED
from tim_search.results.grouping import Grouping

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True, eq=False)
class FrontData:
    """What each number of deployed models gains; every array has one entry a point of the front.

    Attributes:
        title, axis_label: texts.
        models: int, number of models.
        gain, low, high: float, the objective's total gain and its interval; NaN without one.
        predicted: bool: rests on models that were not trained.
        chosen: bool: the choice that was asked for.
    """

    title: str
    axis_label: str
    models: NDArray[np.int64]
    gain: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    predicted: NDArray[np.bool_]
    chosen: NDArray[np.bool_]


def front_data(grouping: Grouping, search: str = "") -> FrontData:
    """Lay the Pareto front of a grouping out: its cost is the number of models."""
    front = grouping.front
    objective = {"total": "total gain", "worst": "total gain where the worst gain is largest"}[grouping.objective]
    unit = {"relative": "shares of what is left to be won, summed over tasks", "absolute": "sum of the metrics"}
    return FrontData(
        title=" · ".join(part for part in (search, f"{objective} by the number of deployed models") if part),
        axis_label=f"gain over one model a task\n({unit[grouping.gain]})",
        models=np.array([len(choice.models) for choice in front]),
        gain=np.array([choice.total for choice in front]),
        low=np.array([choice.low for choice in front]),
        high=np.array([choice.high for choice in front]),
        predicted=np.array([choice.predicted for choice in front]),
        chosen=np.array([choice is grouping.choice for choice in front]),
    )


def draw_front(data: FrontData, ax: Axes | None = None) -> Axes:
    """Draw a front on `ax`, or on a figure of its own; at 0 stands one model a task."""
    ax = ax or drawing.new_axis(7.0, 4.2)
    ax.axhline(0, color=GREY, linewidth=0.8)
    ax.step(data.models, data.gain, where="post", color=GREY, linewidth=1.0, zorder=1)
    handles = []
    for where, colour, filled, meaning in (
        (data.chosen & ~data.predicted, RED, True, "chosen"),
        (data.chosen & data.predicted, RED, False, "chosen, on predicted scores"),
        (~data.chosen & ~data.predicted, INK, True, "measured"),
        (~data.chosen & data.predicted, INK, False, "on predicted scores"),
    ):
        if where.any():
            handles.append(drawing.legend_point(colour, filled, meaning))
            for x, y, low, high in zip(
                *(values[where] for values in (data.models, data.gain, data.low, data.high)), strict=True
            ):
                ax.plot([x, x], [low, high], color=colour, linewidth=1.3)
                ax.plot(x, y, "o", ms=7, mec=colour, mfc=colour if filled else "white")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.spines[["top", "right"]].set_visible(False)
    ax.set_xlabel("deployed models")
    ax.set_ylabel(data.axis_label)
    drawing.write_title(ax, data.title, handles)
    return ax
