"""Figures of what happens inside a network: routing, turns, and a map of representations (FlexCare, Figs. 5 to 7).

Every point rests on several patients.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from tim_search.report.figures import attention, drawing
from tim_search.report.figures.drawing import GREY, INK, RED

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


Array = NDArray[np.float64]
_COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#bbbbbb", "#000000")
_MARKS = "osD^vP*X<>hd"  # tasks are told by shape as well as by colour


def shares(routing: pd.DataFrame, by: str) -> tuple[tuple[str, ...], Array]:
    """How the choices of experts fall, by "task" or by "combination".

    Returns:
        names of the rows, in their order in the table, and float64 (rows, experts) that sum to 1, NaN where a row has
        no choice to its name.
    """
    counts = routing.groupby([by, "expert"], sort=False)["chosen"].sum().unstack("expert")
    values = counts.to_numpy(np.float64)
    total = values.sum(axis=1, keepdims=True)
    return tuple(map(str, counts.index)), np.divide(values, total, out=np.full(values.shape, np.nan), where=total > 0)


def draw_routing(routing: pd.DataFrame, title: str) -> Axes:
    """Shares of the experts' choices by task (Fig. 6a) and by combination of modalities (Fig. 6b)."""
    both = [shares(routing, by) for by in ("task", "combination")]
    experts = both[0][1].shape[1]
    heights = [len(names) for names, _ in both]
    width = 2.6 + 0.055 * max(len(name) for names, _ in both for name in names) + 0.42 * experts
    figure = drawing.new_figure(max(5.0, width), 1.7 + 0.3 * sum(heights), "constrained")
    axes: list[Axes] = list(figure.subplots(2, 1, height_ratios=heights))
    top = max(float(np.nanmax(values)) for _, values in both)
    for ax, (names, values), what in zip(axes, both, ("by task", "by combination of modalities"), strict=True):
        image = ax.imshow(values, cmap="Reds", vmin=0, vmax=top, aspect="auto", interpolation="nearest")
        ax.set_xticks(range(experts), [str(number + 1) for number in range(experts)], fontsize=8)
        ax.set_yticks(range(len(names)), names, fontsize=8)
        ax.tick_params(length=0)
        ax.spines[:].set_visible(False)
        ax.set_title(what, loc="left", fontsize=9, color=INK)
        for (row, column), value in np.ndenumerate(values):
            if np.isfinite(value):
                ink = "white" if value > 0.6 * top else INK
                ax.text(column, row, f"{value:.0%}", ha="center", va="center", fontsize=6.5, color=ink)
    axes[-1].set_xlabel("expert")
    figure.colorbar(image, ax=axes, label="share of the choices", shrink=0.6)
    drawing.title_figure(figure, title)
    return axes[0]


@dataclass(frozen=True, eq=False)
class TurnsData:
    """Scores after each turn.

    Attributes:
        tasks: k names in the order of their turns; a panel each.
        when: float64 (n,) epochs, the turns of one spread evenly over it.
        scores: float64 (k, n) score of each task after each turn.
        own: bool (k, n), whether the turn was the task's own.
    """

    tasks: tuple[str, ...]
    when: Array
    scores: Array
    own: NDArray[np.bool_]


def turns_data(turns: pd.DataFrame, order: Sequence[str]) -> TurnsData:
    """Lay out the table of turns."""
    place = {name: number for number, name in enumerate(order)}
    at = turns["epoch"] - 1 + (turns["turn"].map(place) + 1) / len(order)
    table = turns.assign(when=at).pivot_table("score", "task", "when", dropna=False).reindex(list(order))
    when = table.columns.to_numpy(np.float64)
    turn = np.rint((when % 1.0) * len(order)).astype(int) - 1
    turn[turn < 0] = len(order) - 1  # the last turn of an epoch falls on the whole number
    own = np.array([turn == number for number in range(len(order))])
    return TurnsData(tuple(order), when, table.to_numpy(np.float64), own)


def draw_turns(data: TurnsData, title: str) -> Axes:
    """Each task's score after each task's turn (Fig. 7); a filled red mark is the task's own turn."""
    figure = drawing.new_figure(7.0, 1.1 + 1.05 * len(data.tasks), "constrained")
    axes: list[Axes] = list(figure.subplots(len(data.tasks), 1, sharex=True, squeeze=False)[:, 0])
    for ax, name, scores, own in zip(axes, data.tasks, data.scores, data.own, strict=True):
        ax.plot(data.when, scores, color=GREY, linewidth=1.0, zorder=1)
        ax.scatter(data.when[~own], scores[~own], s=9, facecolor="white", edgecolor=GREY, linewidth=0.8, zorder=2)
        ax.scatter(data.when[own], scores[own], s=16, color=RED, zorder=3)
        ax.set_title(name, loc="left", fontsize=9, color=INK, pad=3)
        ax.spines[["top", "right"]].set_visible(False)
        ax.tick_params(labelsize=8)
        ax.grid(axis="y", color="#e6e6e6", linewidth=0.8)
    axes[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    axes[-1].set_xlabel("epoch")
    axes[len(axes) // 2].set_ylabel("validation score", fontsize=9)
    handles = [
        Line2D([], [], color=RED, marker="o", linewidth=0, markersize=5, label="after the task's own turn"),
        Line2D([], [], color=GREY, marker="o", markerfacecolor="white", markersize=4, label="after another's"),
    ]
    figure.legend(handles=handles, loc="outside upper right", ncol=2, frameon=False, fontsize=8.5)
    drawing.title_figure(figure, title)
    return axes[0]


def draw_patients(patients: pd.DataFrame, apart: pd.DataFrame, tasks: Sequence[str], title: str) -> Axes:
    """Maps of the representations without and with task tokens (Fig. 5), as densities of several patients a point."""
    figure = drawing.new_figure(9.0, 4.6, "constrained")
    axes: list[Axes] = list(figure.subplots(1, 2))
    apart_of = dict(zip(apart["variant"], apart["silhouette"], strict=True))
    for ax, variant, what in zip(axes, ("no task token", "together"), ("without", "with"), strict=True):
        here = patients[patients["variant"] == variant]
        for number, name in enumerate(tasks):
            of = here[here["task"] == name]
            ax.scatter(
                of["x"],
                of["y"],
                s=4 + 2.0 * of["patients"],
                color=_COLOURS[number % len(_COLOURS)],
                marker=_MARKS[number % len(_MARKS)],
                alpha=0.55,
                linewidth=0,
            )
        value = apart_of.get(variant, float("nan"))
        caption = f"{what} task tokens" + (f" (silhouette of the tasks {value:.2f})" if np.isfinite(value) else "")
        ax.set_title(caption, loc="left", fontsize=9, color=INK)
        ax.set_xticks([])
        ax.set_yticks([])
        ax.spines[:].set_color("#cccccc")
    handles = [
        Line2D([], [], color=_COLOURS[n % len(_COLOURS)], marker=_MARKS[n % len(_MARKS)], linewidth=0, label=name)
        for n, name in enumerate(tasks)
    ]
    figure.legend(handles=handles, loc="outside lower left", ncol=min(6, len(tasks)), frameon=False, fontsize=8.5)
    drawing.title_figure(figure, title)
    return axes[0]


def _attention_data(table: pd.DataFrame, title: str) -> attention.AttentionData:
    """The table of `app.inside.attention` as a map."""
    names = tuple(dict.fromkeys(table["task"]))
    weight = table.pivot_table("mean", "task", "draws_on").reindex(index=list(names), columns=list(names))
    return attention.AttentionData(title, names, weight.to_numpy(np.float64), np.ones(weight.shape, np.int64), ())


def draw_all(folder: Path, tables: dict[str, pd.DataFrame], order: Sequence[str], search: str) -> dict[str, str]:
    """Draw all that the tables hold into a folder; figure -> path."""
    if "attention" in tables:
        ax = attention.draw_attention(_attention_data(tables["attention"], f"{search}: cross-task attention"))
        return {"attention": str(drawing.save(ax, folder / "attention.png"))}
    drawn = {
        "routing": draw_routing(tables["routing"], f"{search}: which experts are chosen"),
        "turns": draw_turns(turns_data(tables["turns"], order), f"{search}: after each turn"),
        "patients": draw_patients(
            tables["patients"], tables["apart"], sorted(order), f"{search}: patients' representations"
        ),
    }
    return {name: str(drawing.save(ax, folder / f"{name}.png")) for name, ax in drawn.items()}
