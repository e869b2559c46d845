"""Figures of an external validation: all sources, and calibration and decision curve of one.

The single-task model is grey, the combination red. Every point rests on several patients.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from tim_search.report.figures import drawing
from tim_search.report.figures.drawing import GREY, INK, MAX_ROWS, RED
from tim_search.types import METRIC_WORDS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LOOKS = {"alone": ("single task", GREY), "combination": ("combination", RED), "all": ("treat all", INK)}
#: Panels of the overview: name of a column, what it says, and where it is right.
_PANELS = (
    ("score", "score", None),
    ("gain", "combination - alone", 0.0),
    ("slope", "calibration slope", 1.0),
    ("intercept", "calibration intercept", 0.0),
)


def draw_overview(rows: Sequence[Mapping[str, Any]], title: str) -> Figure:
    """Every source: score, gain, and calibration of both models, with 95 % intervals.

    Args:
        rows: `External.whole`, in the order of the sources; of many sources the first are drawn.
    """
    sources = list(dict.fromkeys(row["source"] for row in rows))[:MAX_ROWS]
    words = {row["source"]: METRIC_WORDS.get(row["metric"], row["metric"]) for row in rows}
    longest = drawing.longest_text(sources)
    figure = drawing.new_figure(min(11.0 + 0.07 * longest, 17.0), 0.5 * len(sources) + 1.9)
    axes = figure.subplots(1, len(_PANELS), sharey=True)
    for ax, (name, what, right) in zip(axes, _PANELS, strict=True):
        for row in rows:
            if row["source"] in sources and row[name] is not None:
                _interval(ax, row, name, sources.index(row["source"]))
        if right is not None:
            ax.axvline(right, color=INK, lw=0.9, zorder=0)
        ax.set_xlabel(what, fontsize=9)
        ax.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
        _plain(ax)
    axes[0].set_yticks(range(len(sources)), [f"{name} ({words[name]})" for name in sources], fontsize=8.5)
    axes[0].set_ylim(len(sources) - 0.4, -0.6)
    for name, colour in (_LOOKS["alone"], _LOOKS["combination"]):
        axes[0].plot([], [], "s", ms=5, color=colour, label=name)
    axes[0].legend(frameon=False, fontsize=8.5, loc="lower left", bbox_to_anchor=(0, 1), ncol=2, borderaxespad=0.2)
    return drawing.title_figure(figure, title)


def _interval(ax: Axes, row: Mapping[str, Any], name: str, place: int) -> None:
    _, colour = _LOOKS[row["model"]]
    y = place + (0.0 if name == "gain" else -0.12 if row["model"] == "alone" else 0.12)
    if row[f"{name}_low"] is not None:
        ax.plot([row[f"{name}_low"], row[f"{name}_high"]], [y, y], color=colour, lw=1.7, solid_capstyle="butt")
    ax.plot(row[name], y, "s", ms=5, color=colour)


def draw_source(curves: Sequence[Mapping[str, Any]], source: str, title: str) -> Figure | None:
    """Calibration for everybody and by group, and the decision curve; None where there are no curves of the source.

    Args:
        curves: plain `model.trained.external.Drawn`.
    """
    mine = [curve for curve in curves if curve["source"] == source]
    groups = list(dict.fromkeys(curve["group"] for curve in mine if curve["kind"] == "calibration"))
    benefit = [curve for curve in mine if curve["kind"] == "benefit" and curve["x"]]
    panels = [[c for c in mine if c["kind"] == "calibration" and c["group"] == group] for group in groups]
    count = len(panels) + bool(benefit)
    if not count:
        return None
    columns = min(3, count)
    lines = math.ceil(count / columns)
    figure = drawing.new_figure(3.6 * columns + 0.6, 3.3 * lines + 0.7)
    axes = figure.subplots(lines, columns, squeeze=False).ravel()
    for ax, group, parts in zip(axes, groups, panels, strict=False):
        _calibration(ax, parts, group)
    if benefit:
        _benefit(axes[len(panels)], benefit)
    for ax in axes[count:]:
        ax.set_visible(False)
    axes[0].legend(frameon=False, fontsize=8.5)
    return drawing.title_figure(figure, title)


def _calibration(ax: Axes, parts: Sequence[Mapping[str, Any]], group: str) -> None:
    ends = [value for part in parts for value in (*part["x"], *part["y"])]
    ax.plot([min(ends), max(ends)], [min(ends), max(ends)], color=INK, lw=0.8, ls=":", zorder=0)
    for part in parts:
        name, colour = _LOOKS[part["model"]]
        ax.plot(part["x"], part["y"], "o-", color=colour, ms=4, lw=1.6, label=name)
    ax.set_title(f"{group} ({sum(parts[0]['n']):.0f} samples)", fontsize=9, loc="left")
    ax.set_xlabel("predicted", fontsize=9)
    ax.set_ylabel("observed", fontsize=9)
    _plain(ax)


def _benefit(ax: Axes, parts: Sequence[Mapping[str, Any]]) -> None:
    """Net benefit by threshold; below zero it is worse than treating nobody, however far."""
    top = max(max(part["y"]) for part in parts)
    ax.axhline(0, color=INK, lw=0.8, ls=":", label="treat nobody")
    for part in parts:
        name, colour = _LOOKS[part["model"]]
        dashed = "--" if part["model"] == "all" else "-"
        ax.plot(part["x"], part["y"], color=colour, lw=1.5, ls=dashed, label=name)
    ax.set_ylim(-0.25 * abs(top), 1.1 * abs(top) or 0.1)
    ax.set_title("decision curve", fontsize=9, loc="left")
    ax.set_xlabel("risk from which one treats", fontsize=9)
    ax.set_ylabel("net benefit", fontsize=9)
    ax.legend(frameon=False, fontsize=7.5)
    _plain(ax)


def _plain(ax: Axes) -> None:
    ax.tick_params(labelsize=8.5, length=2)
    ax.grid(color="#e6e6e6", lw=0.7)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
