"""Figures of a confirmation: all sources, and what a source's predictions look like (M3H paper, Figs. 4 and 5).

The single-task model is grey and on
the left, the combination red and on the right. Every point rests on several patients; a figure shows nobody alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from tim_search.gates.texts import for_file_name
from tim_search.report.figures import drawing
from tim_search.report.figures.drawing import BLUE, GREY, INK, MAX_ROWS, RED
from tim_search.types import METRIC_WORDS, Subset, Task, joined, partners

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


Array = NDArray[np.float64]
_MODELS = ("single task", "combination")
_COLOURS = (GREY, RED)
_CLUSTERS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#bbbbbb", "#000000")


@dataclass(frozen=True, eq=False)
class ForestData:
    """Every source that was put to the test, in the order of the search.

    Attributes:
        title: text.
        labels: a source, its metric and what it was combined with.
        scores: float64 (n, 2), test score of the single-task model and of the combination.
        spread: float64 (n, 2), the paper's interval of each: a standard deviation.
        gain, low, high: float64 (n,), the paired difference and its 95 % interval.
        percent: float64 (n,), the difference as a percentage of the single-task score.
        confirmed: bool (n,), a discovery among all comparisons.
    """

    title: str
    labels: tuple[str, ...]
    scores: Array
    spread: Array
    gain: Array
    low: Array
    high: Array
    percent: Array
    confirmed: NDArray[np.bool_]


def forest_data(rows: Sequence[Mapping[str, Any]], search: str) -> ForestData:
    """Lay out the rows of `confirmation.rows`; sources without a test score are left out.

    Of many sources those that were confirmed or refuted are kept, then those of the surest differences.
    """
    scored = [row for row in rows if row["chosen"] and math.isfinite(row["difference"])]

    def sure(place: int) -> tuple[bool, float]:
        row = scored[place]
        width = row["high"] - row["low"]
        return bool(row["rejected"]), abs(row["difference"]) / width if width > 0 else 0.0

    shown = [scored[at] for at in sorted(sorted(range(len(scored)), key=sure, reverse=True)[:MAX_ROWS])]
    some = f", {len(shown)} of {len(scored)} sources" if len(shown) < len(scored) else ""

    def column(*names: str) -> Array:
        return np.array([[row[name] for name in names] for row in shown], float).reshape(len(shown), len(names))

    gain, low, high, percent = column("difference", "low", "high", "percent").T
    labels = []
    for row in shown:
        others = partners(row["chosen"], row["source"])
        labels.append(f"{row['source']} ({METRIC_WORDS.get(row['metric'], row['metric'])})\n+ {others}")
    return ForestData(
        f"{search}: combinations on untouched test patients{some}",
        tuple(labels),
        column("single", "multi"),
        column("single_sd", "multi_sd"),
        gain,
        low,
        high,
        percent,
        np.array([bool(row["rejected"]) for row in shown], bool),
    )


def draw_forest(data: ForestData) -> Figure:
    """Scores with the paper's interval on the left, differences with their 95 % interval on the right."""
    n = len(data.labels)
    longest = max((len(line) for label in data.labels for line in label.split("\n")), default=0)
    figure = drawing.new_figure(min(max(10.5, 8.2 + 0.07 * longest), 18.0), 0.55 * n + 2.0)
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.2), sharey=True)
    places = np.arange(n)
    for model, (name, colour) in enumerate(zip(_MODELS, _COLOURS, strict=True)):
        left.errorbar(
            data.scores[:, model], places + (model - 0.5) * 0.24, xerr=data.spread[:, model], fmt="s", ms=5, lw=1.6,
            color=colour, label=name,
        )  # fmt: skip
    left.set_yticks(places, data.labels, fontsize=8.5)
    left.set_ylim(n - 0.4, -0.6)
    left.set_xlabel("test score ± SD of 5 bootstraps of 90 %", fontsize=9)
    # Metrics differ from row to row, so differences are told in per cent of the single-task score beside each.
    for place in range(n):
        sure = data.low[place] > 0 or data.high[place] < 0
        colour = GREY if not sure else RED if data.gain[place] > 0 else BLUE
        right.plot([data.low[place], data.high[place]], [place, place], color=colour, lw=1.8, solid_capstyle="butt")
        face = colour if data.confirmed[place] else "white"
        right.plot(data.gain[place], place, "o", ms=7, color=colour, markerfacecolor=face)
        right.annotate(
            f"{data.percent[place]:+.1f} %",
            (1.01, place),
            xycoords=("axes fraction", "data"),
            va="center",
            fontsize=8.5,
        )
    right.axvline(0, color=INK, lw=0.9, zorder=0)
    right.set_xlabel("difference in score, 95 % interval (filled: holds at FDR 10 %)", fontsize=9)
    for ax in (left, right):
        ax.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
        _plain(ax)
    left.legend(frameon=False, fontsize=8.5, loc="lower left", bbox_to_anchor=(0, 1), ncol=2, borderaxespad=0.2)
    return drawing.title_figure(figure, data.title)


def draw_source(curves: pd.DataFrame, source: Task, chosen: Subset, folder: Path) -> tuple[Path, ...]:
    """Draw what there is to see of a source's predictions; returns the files, none where nothing was kept.

    Args:
        curves: `Ledger.curves` of the confirmation.
        source: its kind decides which figures there are: calibration and ROC (binary), ROC (multiclass), density
            (regression), map (clustering).
        chosen: the combination.
        folder: takes confirmed-*.png.
    """
    mine = curves[curves["task"] == source.name]
    models = [mine[mine["subset"].map(tuple) == members] for members in ((source.name,), chosen)]
    drawings = {
        "calibration": _draw_calibration,
        "roc": _draw_roc,
        "density": _draw_density,
        "map": _draw_map,
    }
    others = joined(name for name in chosen if name != source.name)
    paths = []
    for kind, draw in drawings.items():
        parts = [model[model["kind"] == kind] for model in models]
        if all(len(part) for part in parts):
            tails = [model[model["kind"] == "tail"] for model in models]
            figure = draw(parts, tails)
            title = f"{source.name}: {_TITLES[kind]}"
            path = folder / f"confirmed-{kind}-{for_file_name(source.name)}.png"
            paths.append(drawing.save(drawing.title_figure(figure, f"{title}, alone and with {others}").axes[0], path))
    return tuple(paths)


_TITLES = {
    "calibration": "observed rate by predicted risk",
    "roc": "ROC curve",
    "density": "predicted against observed",
    "map": "clusters of the test patients in two dimensions",
}


def mean_curve(part: pd.DataFrame) -> tuple[Array, Array, Array, Array]:
    """Curves of one group over the seeds: mean x, mean y, least y and largest y, each float64 (points,)."""
    x = np.stack([np.asarray(values, float) for values in part["x"]])
    y = np.stack([np.asarray(values, float) for values in part["y"]])
    return x.mean(0), y.mean(0), y.min(0), y.max(0)


def _draw_calibration(parts: Sequence[pd.DataFrame], _: Sequence[pd.DataFrame]) -> Figure:
    """A panel a subgroup; both models in each."""
    groups = [name for name in dict.fromkeys(parts[0]["group"]) if name in set(parts[1]["group"])]
    columns = min(3, len(groups))
    lines = math.ceil(len(groups) / columns)
    figure = drawing.new_figure(3.4 * columns + 0.6, 3.3 * lines + 0.8)
    axes = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True).ravel()
    top = 0.0
    for ax, group in zip(axes, groups, strict=False):
        for part, name, colour in zip(parts, _MODELS, _COLOURS, strict=True):
            x, y, low, high = mean_curve(part[part["group"] == group])
            top = max(top, float(x.max()), float(high.max()))
            ax.plot(x, y, "o-", color=colour, ms=4, lw=1.6, label=name)
            ax.fill_between(x, low, high, color=colour, alpha=0.18, lw=0)
        count = sum(next(iter(parts[0][parts[0]["group"] == group]["n"])))
        ax.set_title(f"{group} ({count:.0f} patients)", fontsize=9, loc="left")
        ax.set_xlabel("predicted risk", fontsize=9)
        _plain(ax)
    for ax in axes[: len(groups)]:
        ax.plot([0, top], [0, top], color=INK, lw=0.8, ls=":", zorder=0)
        ax.set_aspect("equal")
    for ax in axes[len(groups) :]:
        ax.set_visible(False)
    axes[0].set_ylabel("observed rate", fontsize=9)
    axes[0].legend(frameon=False, fontsize=8.5)
    return figure


def _draw_roc(parts: Sequence[pd.DataFrame], _: Sequence[pd.DataFrame]) -> Figure:
    """A panel a model, a line a class; the band spans the seeds."""
    figure = drawing.new_figure(8.2, 4.2)
    axes = figure.subplots(1, 2, sharex=True, sharey=True)
    for ax, part, name in zip(axes, parts, _MODELS, strict=True):
        for number, group in enumerate(dict.fromkeys(part["group"])):
            x, y, low, high = mean_curve(part[part["group"] == group])
            colour = _CLUSTERS[number % len(_CLUSTERS)]
            label = f"{group} {np.trapezoid(y, x):.3f}" if group != "all" else f"area {np.trapezoid(y, x):.3f}"
            ax.plot(x, y, color=colour, lw=1.5, label=label)
            ax.fill_between(x, low, high, color=colour, alpha=0.2, lw=0)
        ax.plot([0, 1], [0, 1], color=INK, lw=0.8, ls=":", zorder=0)
        ax.set_title(name, fontsize=10, loc="left")
        ax.set_xlabel("false positive rate", fontsize=9)
        ax.set_aspect("equal")
        ax.legend(frameon=False, fontsize=7.5, loc="lower right")
        _plain(ax)
    axes[0].set_ylabel("true positive rate", fontsize=9)
    return figure


def _draw_density(parts: Sequence[pd.DataFrame], tails: Sequence[pd.DataFrame]) -> Figure:
    """A panel a model: patients by cell, summed over the seeds, and the mean by tenth of the observed values."""
    figure = drawing.new_figure(8.6, 4.3)
    axes = figure.subplots(1, 2, sharex=True, sharey=True)
    grids = [_summed(part) for part in parts]
    most = max(float(n.max()) for _, _, n in grids)
    for ax, (x, y, n), tail, name in zip(axes, grids, tails, _MODELS, strict=True):
        side = _side(np.concatenate([x, y]))
        image = ax.scatter(x, y, c=n, s=_marker(len(np.unique(x))), marker="s", cmap="Greys", vmin=0, vmax=most)
        ends = [float(min(x.min(), y.min())) - side, float(max(x.max(), y.max())) + side]
        ax.plot(ends, ends, color=INK, lw=0.8, ls=":", zorder=3)
        if len(tail):
            tail_x, tail_y, low, high = mean_curve(tail)
            ax.plot(
                tail_x,
                tail_y,
                "o-",
                color=RED,
                ms=4,
                lw=1.5,
                label="mean of each tenth of the observed",
                zorder=4,
            )
            ax.fill_between(tail_x, low, high, color=RED, alpha=0.25, lw=0, zorder=3)
            ax.legend(frameon=False, fontsize=8, loc="upper left")
        ax.set_title(name, fontsize=10, loc="left")
        ax.set_xlabel("observed", fontsize=9)
        _plain(ax)
    axes[0].set_ylabel("predicted", fontsize=9)
    bar = figure.colorbar(image, ax=list(axes), shrink=0.7, aspect=18, pad=0.01)
    bar.set_label("patients in a cell, over the seeds", fontsize=8)
    return figure


def _draw_map(parts: Sequence[pd.DataFrame], _: Sequence[pd.DataFrame]) -> Figure:
    """A panel a model: where the clusters lie; the larger a mark, the more patients it stands for."""
    figure = drawing.new_figure(8.6, 4.4)
    for ax, part, name in zip(figure.subplots(1, 2), parts, _MODELS, strict=True):
        for number, (x, y, n) in enumerate(zip(part["x"], part["y"], part["n"], strict=True)):
            size = np.asarray(n, float)
            colour = _CLUSTERS[number % len(_CLUSTERS)]
            marker = "so^Dv"[number // len(_CLUSTERS) % 5]
            ax.scatter(x, y, s=4 + 3.0 * size, color=colour, alpha=0.6, lw=0, marker=marker)
        ax.set_title(name, fontsize=9.5, loc="left")
        ax.set_xticks([])
        ax.set_yticks([])
        ax.spines[:].set_color("#dddddd")
    return figure


def _summed(part: pd.DataFrame) -> tuple[Array, Array, Array]:
    """Cells of all seeds together: x, y and the patients in each."""
    cells: dict[tuple[float, float], float] = {}
    for xs, ys, counts in zip(part["x"], part["y"], part["n"], strict=True):
        for x, y, n in zip(xs, ys, counts, strict=True):
            cells[float(x), float(y)] = cells.get((float(x), float(y)), 0.0) + float(n)
    at = np.array(list(cells), float).reshape(len(cells), 2)
    return at[:, 0], at[:, 1], np.array(list(cells.values()), float)


def _side(values: Array) -> float:
    steps = np.diff(np.unique(values))
    return float(steps.min()) if len(steps) else 1.0


def _marker(cells: int) -> float:
    """Area of a square marker, in points squared, that about fills a cell of a panel with so many cells a side."""
    return (260.0 / max(cells, 8)) ** 2 * 0.8


def _plain(ax: Axes) -> None:
    ax.tick_params(labelsize=8.5, length=2)
    ax.grid(color="#e6e6e6", lw=0.7)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
