"""The figures: for each a pure function that lays the data out, and one that draws it on a given axis.

What is shown, in which order and which colour means what is decided by the data functions and can be tested without an
image. The drawing functions take `ax=None`; without an axis they make a figure of a size that stays readable at 6 to 64
tasks. Of more tasks the data functions keep the most telling ones, and the title says so. Figures are made without
pyplot, so that drawing in a service or a notebook changes no global state.

Colours: red is gain and blue is loss throughout, from a scale that colour-blind readers can tell apart; significance is
told by shape, never by colour alone.
"""

from __future__ import annotations

import math
import os
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from tim_search.plans.expansion import Expansion
from tim_search.results.grouping import Grouping
from tim_search.tim.scores import MOST_SHOWN, SizeProfile, TimResult, most_telling, rank_heatmap
from tim_search.types import METRIC_WORDS, BadInput, Task, some

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.colorbar import Colorbar
    from matplotlib.colors import Colormap
    from matplotlib.image import AxesImage

HeatmapKind: TypeAlias = Literal["rank", "value"]

#: Pairs of tasks whose targets are nested or nearly the same.
Overlaps: TypeAlias = Iterable[tuple[str, str]]

#: With more tasks than this, numbers in the cells would be too small to read.
MAX_TASKS_WITH_NUMBERS = 15

#: Rows of a forest of gains, or of one source's helpers: more make a picture that no screen shows.
MAX_ROWS = 40

#: Lines in one plot; more cannot be told apart.
MAX_LINES = 6

#: Attention weights that are read for a map: those of many large subsets take the memory of the machine.
MOST_WEIGHTS = 3_000_000

DPI = 150
HATCH, HATCH_INK = "////", "#808080"
RED, BLUE, GREY, INK = "#b2182b", "#2166ac", "#8c8c8c", "#222222"
MISSING = "#d5d5d5"
CONTROL = "negative control"


# The heatmap (M3H paper, Fig. 6) --------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class HeatmapData:
    """A TIM heatmap, laid out for drawing. Rows are source tasks, columns the task trained with them, both in `tasks`.

    Attributes:
        title: says the method, so that a restricted score is never taken for the full one, and of how many tasks the
            shown ones are the most telling.
        tasks: M names in the order drawn: by department where there are departments, a negative control last.
        row_labels: names of the rows; by value they carry the metric the row is measured in.
        kind: "rank" or "value".
        cells: float (M, M); NaN where not estimable; 0 on the diagonal.
        limit: colours run from -limit (blue) to +limit (red).
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
    limit: float
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
) -> HeatmapData:
    """Lay a TIM result out as a heatmap.

    By rank: within a row and a sign, tasks are ranked by the size of their score; the largest gain gets the largest
    positive rank, the largest loss the most negative one (M3H paper, section 6.2). By value: the scores themselves; the
    colours end at the 95th percentile of their sizes, so that one large cell does not bleach the others.

    Args:
        result: the scores; row = source task.
        kind: "rank" or "value".
        overlaps: pairs of overlapping targets; pairs with tasks outside the result are passed over.
        tasks: where given, tasks are grouped by department, and rows by value name their metric.
        search: name of the search, for the title.
        most: of more tasks than this the most telling are shown (`tim.most_telling`); ranks stay those among all.

    Raises BadInput for another kind.
    """
    if kind not in ("rank", "value"):
        raise BadInput(f"heatmap: kind must be 'rank' or 'value', got {kind!r}.")
    known, overlaps = tasks or {}, list(overlaps)
    shown = most_telling(result, most, overlaps)
    placed, departments = _by_department(shown, known, result.control)
    names = tuple(shown[index] for index in placed)
    order = [result.tasks.index(name) for name in names]
    at = np.ix_(order, order)
    estimate = np.asarray(result.estimate, float)
    diagonal = np.eye(len(names), dtype=bool)
    cells = rank_heatmap(estimate).astype(float) if kind == "rank" else estimate.copy()
    cells[~np.isfinite(estimate)] = np.nan
    cells = cells[at]
    cells[diagonal] = 0.0
    hatched = _overlapping(names, overlaps)
    plain = ~hatched & ~diagonal
    excludes_zero = ((np.asarray(result.low) > 0) | (np.asarray(result.high) < 0))[at] & plain
    discovered = np.asarray(result.rejected, bool)[at] & plain
    if kind == "rank":
        limit = float(max(len(result.tasks) - 1, 1))
    else:
        sizes = np.abs(cells[np.isfinite(cells) & ~diagonal])
        limit = float(np.quantile(sizes, 0.95)) if sizes.any() else 1.0
        limit = limit or float(sizes.max())
    numbers = _numbers(cells, diagonal, kind) if len(names) <= MAX_TASKS_WITH_NUMBERS else None
    named = {"rank": "by rank", "value": "by value"}[kind]
    some = f"the {len(names)} most telling of {len(result.tasks)} tasks" if len(names) < len(result.tasks) else ""
    return HeatmapData(
        title=" · ".join(part for part in (search, f"{result.label}, {named}", some) if part),
        tasks=names,
        row_labels=tuple(_with_metric(name, known) if kind == "value" else name for name in names),
        kind=kind,
        cells=cells,
        limit=limit,
        numbers=numbers,
        hatched=hatched,
        excludes_zero=excludes_zero,
        discovered=discovered,
        departments=departments,
    )


def draw_heatmap(data: HeatmapData, ax: Axes | None = None) -> Axes:
    """Draw a heatmap on `ax`, or on a figure of its own."""
    m = len(data.tasks)
    ax = ax or _matrix_axis(m)
    colours = mpl.colormaps["RdBu_r"].with_extremes(bad=MISSING)
    norm = Normalize(-data.limit, data.limit)
    image = _matrix(ax, data.cells, colours, norm, data.tasks, data.row_labels, data.departments)
    ax.set_xlabel("trained together with")
    ax.set_ylabel("source task: whose score changes")
    _white_diagonal(ax, m)
    for row, column in zip(*np.nonzero(data.hatched), strict=True):
        ax.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, hatch=HATCH, edgecolor=HATCH_INK, lw=0))
    if data.numbers is not None:
        _print(ax, data.numbers, data.cells, colours, norm, data.hatched)

    handles: list[Artist] = []
    offset, size = (0.36, 22.0) if data.numbers is not None else (0.0, 11.0)
    for where, filled, meaning in (
        (data.discovered, True, "discovery (FDR)"),
        (data.excludes_zero & ~data.discovered, False, "interval excludes 0"),
    ):
        if where.any():
            rows, columns = np.nonzero(where)
            inks = [_ink(colours(norm(value))) for value in data.cells[where]]
            faces = inks if filled else ["none"] * len(inks)
            ax.scatter(columns + offset, rows - offset, s=size, c=faces, edgecolors=inks, linewidths=0.9)
            face = INK if filled else "none"
            handles.append(Line2D([], [], marker="o", ls="none", ms=math.sqrt(size), mec=INK, mfc=face, label=meaning))
    if data.hatched.any():
        meaning = "overlapping targets: no finding"
        handles.append(Patch(facecolor="white", edgecolor=HATCH_INK, hatch=HATCH, lw=0, label=meaning))
    if np.isnan(data.cells).any():
        handles.append(Patch(facecolor=MISSING, label="not estimable"))
    _title(ax, data.title, handles, columns=2 if m < 10 else 4)
    ax.set(xlim=(-0.5, m - 0.5), ylim=(m - 0.5, -0.5))

    beyond = np.nanmax(np.abs(data.cells), initial=0) > data.limit
    bar = _colour_bar(ax, image, m, extend="both" if beyond else "neither")
    if data.kind == "rank":
        ends = f"{data.limit:.0f}"
        bar.set_ticks([-data.limit, 0, data.limit], labels=[f"\N{MINUS SIGN}{ends}", "0", f"+{ends}"])
        bar.set_label("rank within the row: red helps, blue harms")
    else:
        bar.set_label("TIM score: change of the source's metric")
    return ax


def _numbers(cells: NDArray[np.float64], diagonal: NDArray[np.bool_], kind: HeatmapKind) -> tuple[tuple[str, ...], ...]:
    """Signed texts without a leading zero, in as many digits as the typical cell needs."""
    sizes = np.abs(cells[np.isfinite(cells) & ~diagonal])
    typical = float(np.median(sizes[sizes > 0])) if sizes.any() else 1.0
    decimals = 0 if kind == "rank" else min(max(1 - math.floor(math.log10(typical)), 2), 5)

    def text(value: float) -> str:
        if math.isnan(value):
            return ""
        digits = f"{abs(value):.{decimals}f}"
        if value == 0:
            return "0"
        return ("+" if value > 0 else "\N{MINUS SIGN}") + (digits.removeprefix("0") if decimals else digits)

    return tuple(tuple(text(float(value)) for value in row) for row in cells)


# One source's helpers and harmers -------------------------------------------------------------------------------------


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
    result: TimResult, source: str, overlaps: Overlaps = (), tasks: Mapping[str, Task] | None = None
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
    overlapping = _overlapping(result.tasks, overlaps)[row, order]
    return ForestData(
        title=f"What helps and harms {source} · {result.label}",
        axis_label=f"TIM score: change of {_with_metric(source, tasks or {})}",
        others=tuple(
            result.tasks[index] + (f" ({CONTROL})" if result.tasks[index] == result.control else "") for index in order
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
    ax = ax or _axis(min(max(7.5, 4.4 + 0.075 * _longest(data.others)), 14.0), 0.26 * n + 2.1)
    sure = (data.low > 0) | (data.high < 0)
    for place in range(n):
        colour = GREY
        if sure[place] and not data.overlapping[place]:
            colour = RED if data.estimate[place] > 0 else BLUE
        _whisker(ax, place, data.estimate[place], data.low[place], data.high[place], colour, data.discovered[place])
    handles = [_point(INK, True, "discovery (FDR)")] if data.discovered.any() else []
    if (sure & ~data.discovered & ~data.overlapping).any():
        handles.append(_point(INK, False, "interval excludes 0"))
    if (~sure | data.overlapping).any():
        handles.append(_point(GREY, False, "no finding"))
    notes = [" (overlapping target)" if same else "" for same in data.overlapping]
    _rows(ax, [name + note for name, note in zip(data.others, notes, strict=True)])
    if data.left_out:
        ax.axhline(n / 2 - 0.5, color=GREY, linewidth=0.9, linestyle=":")
    remarks = [f"dotted line: {data.left_out} tasks between are not drawn"] if data.left_out else []
    remarks += [f"not estimable: {some(data.not_estimable)}"] if data.not_estimable else []
    label = textwrap.fill(data.axis_label, 56, break_long_words=False)
    ax.set_xlabel("\n".join([label, *remarks]))
    _title(ax, data.title, handles)
    return ax


# One source's scores along something --------------------------------------------------------------------------------


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
        score_label=f"TIM score: change of {_with_metric(source, tasks or {})}",
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
        score_label=f"mean difference: change of {_with_metric(source, tasks or {})}, with its standard error",
        x=profile.sizes,
        others=tuple(result.tasks[j] for j in chosen),
        value=value,
        low=value - error,
        high=value + error,
    )


def draw_lines(data: LinesData, ax: Axes | None = None) -> Axes:
    """Draw lines with bars, shifted a little so that bars do not hide each other, on `ax` or a figure of its own."""
    ax = ax or _axis(7.5, 4.8)
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
    _title(ax, data.title, handles, columns=3)
    return ax


def _row_of(result: TimResult, source: str, figure: str) -> int:
    if source not in result.tasks:
        raise BadInput(f"{figure}: there is no source task {source!r}; the result has {some(result.tasks, 20)}.")
    return result.tasks.index(source)


def _largest(row: NDArray[np.float64], source: int) -> list[int]:
    """The tasks with the largest scores of either sign, at most MAX_LINES, largest gain first."""
    known = [j for j in range(len(row)) if j != source and np.isfinite(row[j])]
    return sorted(sorted(known, key=lambda j: -abs(row[j]))[:MAX_LINES], key=lambda j: -row[j])


# Attention ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class AttentionData:
    """How much each task draws on each other, averaged over the subsets of one size that hold both.

    Attributes:
        title: text.
        tasks: M names in the order drawn.
        weight: float (M, M), row draws on column; NaN where no subset of this size holds both.
        subsets: int (M, M), distinct subsets behind each weight.
        departments: as in `HeatmapData`.
    """

    title: str
    tasks: tuple[str, ...]
    weight: NDArray[np.float64]
    subsets: NDArray[np.int64]
    departments: tuple[tuple[str, int, int], ...]


def attention_data(
    frame: pd.DataFrame,
    names: Sequence[str],
    size: int,
    tasks: Mapping[str, Task] | None = None,
    shown: Sequence[str] = (),
) -> AttentionData:
    """Average the attention of all subsets of `size` tasks; weights of different sizes cannot be compared.

    Args:
        frame: columns subset (sequence of str), seed, fold, task, other, weight (see `Ledger.attention`).
        names: tasks of the search; subsets with others are left out.
        size: tasks in a subset, 2 or more.
        tasks: where given, tasks are grouped by department.
        shown: of these names, those to show; default all.

    Raises BadInput when there is no attention of subsets of that size.
    """
    drawn = [name for name in names if name in set(shown or names)]
    order, departments = _by_department(drawn, tasks or {})
    drawn = [drawn[index] for index in order]
    column = {name: index for index, name in enumerate(drawn)}
    known = set(names)
    total, count = np.zeros((2, len(drawn), len(drawn)))
    behind: dict[tuple[int, int], set[tuple[str, ...]]] = {}
    sizes, last, subset = set(), None, None
    for members, task, other, weight in zip(
        frame["subset"], frame["task"], frame["other"], frame["weight"], strict=True
    ):
        if members is not last:  # the rows of a unit share its subset, which may be large
            sizes.add(len(members))
            last, subset = members, tuple(sorted(members)) if known.issuperset(members) else None
        if subset is None or len(subset) != size or task not in column or other not in column:
            continue
        if not math.isfinite(weight):
            continue
        cell = column[task], column[other]
        total[cell] += weight
        count[cell] += 1
        behind.setdefault(cell, set()).add(subset)
    if not behind:
        raise BadInput(
            f"attention map: no subset of {size} of these tasks has attention weights; "
            f"the sizes that occur are {sorted(sizes) or 'none'}."
        )
    subsets = np.zeros(total.shape, np.int64)
    for cell, found in behind.items():
        subsets[cell] = len(found)
    weights = np.full(total.shape, np.nan)
    np.divide(total, count, out=weights, where=count > 0)
    part = f" · {len(drawn)} of {len(names)} tasks" if len(drawn) < len(names) else ""
    title = f"Cross-task attention in subsets of {size} tasks{part}"
    return AttentionData(title, tuple(drawn), weights, subsets, departments)


def attention_weights(membership: NDArray[np.bool_], trained: NDArray[np.bool_]) -> int:
    """Weights that a search's units have: bool (B, M) tasks of the subsets, (B, blocks) where they were trained."""
    return int((membership.sum(axis=1)[:, None].astype(np.int64) ** 2 * trained).sum())


def attention_size(frame: pd.DataFrame, names: Sequence[str], shown: Sequence[str] = ()) -> int | None:
    """The subset size whose attention says the most: the one with the most pairs of tasks, of equals the smallest.

    Size 3 comes before all others where it has every pair, as in the M3H paper's searches. None without attention.
    Of the subsets of `names` the pairs of the tasks `shown` count, default all.
    """
    pairs: dict[int, set[tuple[str, str]]] = {}
    known, drawn, last, inside = set(names), set(shown or names).intersection(names), None, False
    for members, task, other in zip(frame["subset"], frame["task"], frame["other"], strict=True):
        if members is not last:  # the rows of a unit share its subset, which may be large
            last, inside = members, known.issuperset(members)
        if inside and len(members) > 1 and task != other and task in drawn and other in drawn:
            pairs.setdefault(len(members), set()).add((task, other))
    every = len(drawn) * (len(drawn) - 1)
    if 3 in pairs and len(pairs[3]) == every:
        return 3
    return min(pairs, key=lambda size: (-len(pairs[size]), size), default=None)


def draw_attention(data: AttentionData, ax: Axes | None = None) -> Axes:
    """Draw an attention map on `ax`, or on a figure of its own.

    The colours tell how tasks draw on others. What a task draws on itself is of another magnitude: it is left white.
    """
    m = len(data.tasks)
    ax = ax or _matrix_axis(m)
    others = np.where(np.eye(m, dtype=bool), np.nan, data.weight)
    found = others[np.isfinite(others)]
    colours = mpl.colormaps["viridis_r"].with_extremes(bad=MISSING)
    norm = Normalize(float(found.min()), float(found.max()))
    image = _matrix(ax, others, colours, norm, data.tasks, data.tasks, data.departments)
    _white_diagonal(ax, m)
    if m <= MAX_TASKS_WITH_NUMBERS:
        texts = [
            ["" if math.isnan(value) else f"{value:.3f}".removeprefix("0") for value in row] for row in data.weight
        ]
        _print(ax, texts, others, colours, norm, np.zeros((m, m), bool))
    ax.set_xlabel("draws on")
    ax.set_ylabel("task")
    unseen = np.isnan(others) & ~np.eye(m, dtype=bool)
    _title(ax, data.title, [Patch(facecolor=MISSING, label="never in one subset")] if unseen.any() else [])
    ax.set(xlim=(-0.5, m - 0.5), ylim=(m - 0.5, -0.5))
    _colour_bar(ax, image, m).set_label("mean attention weight")
    return ax


# What the best combination gains --------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class ExpansionData:
    """The gain of each source's combination over the source alone; every sequence has one entry a source.

    Of many sources those are kept whose gains are accepted, then those of the largest gains beside their intervals.
    Where the search accepted no combination, the highest-scoring one it looked at is shown, as not accepted.

    Attributes:
        title: text.
        labels: the sources with their metrics.
        combinations: the tasks added to the source; "" where nothing could be compared.
        gain, low, high: float, in the source's metric; NaN where unknown.
        accepted: bool: the search accepted the combination.
        holds: bool: accepted, and the interval lies above zero.
        complete: bool: the search of this source has come to its end.
    """

    title: str
    labels: tuple[str, ...]
    combinations: tuple[str, ...]
    gain: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    accepted: NDArray[np.bool_]
    holds: NDArray[np.bool_]
    complete: NDArray[np.bool_]


def expansion_data(
    expansions: Sequence[Expansion], tasks: Mapping[str, Task] | None = None, search: str = ""
) -> ExpansionData:
    """Lay expansions out as a gain plot, in the order given; raises BadInput when there are none."""
    if not expansions:
        raise BadInput("expansion plot: there are no expansions to draw.")
    several, expansions = len(expansions), _most_gaining(expansions)
    added, gains = [], []
    for found in expansions:
        accepted = found.best != (found.source,)
        shown = found.best if accepted else found.leader.subset if found.leader else ()
        added.append(" + ".join(name for name in shown if name != found.source))
        if accepted:
            gains.append((found.gain, found.low, found.high))
        else:
            leader = found.leader
            gains.append((leader.gain, leader.low, leader.high) if leader else (math.nan,) * 3)
    gain, low, high = np.array(gains, float).T
    which = f"{len(expansions)} of {several} sources" if len(expansions) < several else "each source"
    title = f"best combination of {which} against the source alone"
    return ExpansionData(
        title=" · ".join(part for part in (search, title) if part),
        labels=tuple(_with_metric(found.source, tasks or {}) for found in expansions),
        combinations=tuple(added),
        gain=gain,
        low=low,
        high=high,
        accepted=np.array([found.best != (found.source,) for found in expansions]),
        holds=np.array([found.holds for found in expansions]),
        complete=np.array([found.complete for found in expansions]),
    )


def _most_gaining(expansions: Sequence[Expansion]) -> Sequence[Expansion]:
    """At most MAX_ROWS of them, in their order: what was accepted first, then by gain beside its interval's width."""

    def place(index: int) -> tuple[bool, bool, float]:
        found = expansions[index]
        accepted = found.best != (found.source,)
        one = found if accepted else found.leader
        gain, width = (one.gain, one.high - one.low) if one is not None else (math.nan, math.nan)
        sure = gain / width if width > 0 else gain
        return not found.holds, not accepted, -sure if math.isfinite(sure) else math.inf

    kept = sorted(sorted(range(len(expansions)), key=place)[:MAX_ROWS])
    return [expansions[index] for index in kept]


def draw_expansion(data: ExpansionData, ax: Axes | None = None) -> Axes:
    """Draw the gains on `ax`, or on a figure of its own; the added tasks stand at the right."""
    n = len(data.labels)
    texts = [_longest(data.labels), _longest(data.combinations)]
    ax = ax or _axis(min(max(8.6, 4.6 + 0.075 * sum(texts)), 18.0), 0.3 * n + 2.1)
    for place in range(n):
        colour = RED if data.holds[place] else INK if data.accepted[place] else GREY
        _whisker(ax, place, data.gain[place], data.low[place], data.high[place], colour, bool(data.holds[place]))
        text = f"+ {data.combinations[place]}" if data.combinations[place] else "no combination has a score"
        ax.annotate(
            text if data.complete[place] else f"{text} (so far)", (1, place), xytext=(8, 0), va="center", fontsize=8.5,
            xycoords=ax.get_yaxis_transform(), textcoords="offset points", color=INK if data.accepted[place] else GREY,
        )  # fmt: skip
    handles: list[Artist] = []
    for where, colour, filled, meaning in (
        (data.holds, RED, True, "accepted, interval above 0"),
        (data.accepted & ~data.holds, INK, False, "accepted"),
        (~data.accepted, GREY, False, "not accepted: the source alone is kept"),
    ):
        if where.any():
            handles.append(_point(colour, filled, meaning))
    _rows(ax, data.labels)
    ax.set_xlabel("gain in the source's metric, with its interval")
    _title(ax, data.title, handles)
    return ax


# Which models to deploy -----------------------------------------------------------------------------------------------


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


def front_data(found: Grouping, search: str = "") -> FrontData:
    """Lay the Pareto front of a grouping out: its cost is the number of models."""
    front = found.front
    objective = {"total": "total gain", "worst": "total gain where the worst gain is largest"}[found.objective]
    unit = {"relative": "shares of what is left to be won, summed over tasks", "absolute": "sum of the metrics"}
    return FrontData(
        title=" · ".join(part for part in (search, f"{objective} by the number of deployed models") if part),
        axis_label=f"gain over one model a task\n({unit[found.gain]})",
        models=np.array([len(one.models) for one in front]),
        gain=np.array([one.total for one in front]),
        low=np.array([one.low for one in front]),
        high=np.array([one.high for one in front]),
        predicted=np.array([one.predicted for one in front]),
        chosen=np.array([one is found.choice for one in front]),
    )


def draw_front(data: FrontData, ax: Axes | None = None) -> Axes:
    """Draw a front on `ax`, or on a figure of its own; at 0 stands one model a task."""
    ax = ax or _axis(7.0, 4.2)
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
            handles.append(_point(colour, filled, meaning))
            for x, y, low, high in zip(
                *(values[where] for values in (data.models, data.gain, data.low, data.high)), strict=True
            ):
                ax.plot([x, x], [low, high], color=colour, linewidth=1.3)
                ax.plot(x, y, "o", ms=7, mec=colour, mfc=colour if filled else "white")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.spines[["top", "right"]].set_visible(False)
    ax.set_xlabel("deployed models")
    ax.set_ylabel(data.axis_label)
    _title(ax, data.title, handles)
    return ax


# Shared ---------------------------------------------------------------------------------------------------------------


def save(ax: Axes, path: str | Path) -> Path:
    """Write the figure of `ax` as PNG, 150 dpi; a reader never sees half a file. Folders are made as needed."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.tmp")
    figure = ax.get_figure(root=True)
    assert figure is not None
    figure.savefig(aside, format="png", dpi=DPI, facecolor="white")
    os.replace(aside, path)
    return path


def save_and_close(ax: Axes, path: str | Path) -> Path:
    """`save` for an axis that another library made with pyplot, which keeps every figure until it is closed."""
    from matplotlib import pyplot

    saved = save(ax, path)
    pyplot.close(ax.get_figure(root=True))
    return saved


def _axis(width: float, height: float) -> Axes:
    """An axis on a figure of its own, in inches, free of pyplot's registry."""
    figure = Figure(figsize=(width, height), dpi=DPI, layout="compressed")
    FigureCanvasAgg(figure)
    return figure.add_subplot()


def _longest(texts: Iterable[str]) -> int:
    return max(map(len, texts), default=0)


def _cell(m: int) -> float:
    """Side of a matrix cell in inches: room for a number, or for a line of text."""
    if m <= MAX_TASKS_WITH_NUMBERS:
        return max(0.6, 3.0 / m)
    return max(0.24, 0.36 - 0.004 * (m - MAX_TASKS_WITH_NUMBERS))


def _matrix_axis(m: int) -> Axes:
    return _axis(_cell(m) * m + 4.2, _cell(m) * m + 2.4)


def _matrix(
    ax: Axes,
    cells: NDArray[np.float64],
    colours: Colormap,
    norm: Normalize,
    columns: Sequence[str],
    rows: Sequence[str],
    departments: Iterable[tuple[str, int, int]],
) -> AxesImage:
    """Coloured cells with task names and department names on an axis."""
    m = len(columns)
    image = ax.imshow(cells, cmap=colours, norm=norm, aspect="equal", interpolation="nearest")
    size = 9 if m <= MAX_TASKS_WITH_NUMBERS else 8
    slanted = m <= MAX_TASKS_WITH_NUMBERS
    ax.set_xticks(range(m), columns, fontsize=size, rotation=45 if slanted else 90)
    for label in ax.get_xticklabels():
        label.set(ha="right", va="center", rotation_mode="anchor")
    ax.set_yticks(range(m), rows, fontsize=size)
    ax.set_xticks(np.arange(m + 1) - 0.5, minor=True)
    ax.set_yticks(np.arange(m + 1) - 0.5, minor=True)
    ax.grid(which="minor", color="white", linewidth=1.2 if slanted else 0.6)
    ax.tick_params(which="both", length=0)
    ax.spines[:].set_visible(False)
    for name, start, stop in departments:
        if start:
            ax.axhline(start - 0.5, color=INK, linewidth=0.9)
            ax.axvline(start - 0.5, color=INK, linewidth=0.9)
        ax.annotate(
            name, (m - 0.5, (start + stop - 1) / 2), xytext=(6, 0), textcoords="offset points", va="center",
            fontsize=size, color=INK, annotation_clip=False,
        )  # fmt: skip
    return image


def _white_diagonal(ax: Axes, m: int) -> None:
    for place in range(m):
        ax.add_patch(Rectangle((place - 0.5, place - 0.5), 1, 1, facecolor="white", lw=0))


def _print(
    ax: Axes,
    texts: Sequence[Sequence[str]],
    cells: NDArray[np.float64],
    colours: Colormap,
    norm: Normalize,
    hatched: NDArray[np.bool_],
) -> None:
    """Numbers in cells, dark on light and light on dark; on hatched cells with a rim in the cell's colour."""
    for row, column in np.ndindex(cells.shape):
        value = cells[row, column]
        shade = colours(norm(value)) if np.isfinite(value) else (1.0, 1.0, 1.0, 1.0)
        text = ax.text(column, row, texts[row][column], ha="center", va="center", fontsize=8, color=_ink(shade))
        if hatched[row, column]:
            text.set_path_effects([withStroke(linewidth=3, foreground=shade)])


def _ink(shade: tuple[float, float, float, float]) -> str:
    """Dark on light colours and white on dark ones."""
    red, green, blue, _ = shade
    return "white" if 0.3 * red + 0.59 * green + 0.11 * blue < 0.5 else INK


def _colour_bar(ax: Axes, image: AxesImage, m: int, extend: str = "neither") -> Colorbar:
    figure = ax.get_figure(root=True)
    assert figure is not None
    bar = figure.colorbar(image, ax=ax, shrink=min(1.0, 3.0 / (_cell(m) * m)), aspect=16, pad=0.02, extend=extend)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=8, length=2)
    return bar


def _whisker(ax: Axes, place: int, value: float, low: float, high: float, colour: str, filled: bool) -> None:
    """One row of a forest: a point, and a bar where there is an interval."""
    if math.isfinite(low) and math.isfinite(high):
        ax.plot([low, high], [place, place], color=colour, linewidth=1.6, solid_capstyle="butt")
    ax.plot([value], [place], "o", markersize=6, color=colour, markerfacecolor=colour if filled else "white")


def _point(colour: str, filled: bool, meaning: str) -> Line2D:
    """A legend entry for the points of `_whisker`."""
    face = colour if filled else "white"
    return Line2D([], [], marker="o", ls="-", lw=1.6, ms=6, color=colour, markerfacecolor=face, label=meaning)


def _rows(ax: Axes, labels: Sequence[str]) -> None:
    """Named rows from the top down, with a line at zero."""
    ax.axvline(0, color=INK, linewidth=0.9, zorder=0)
    ax.set_yticks(range(len(labels)), labels, fontsize=9)
    ax.set_ylim(len(labels) - 0.4, -0.6)
    ax.tick_params(axis="y", length=0)
    ax.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    ax.grid(axis="x", color="#e6e6e6", linewidth=0.8)
    ax.set_axisbelow(True)
    ax.spines[["top", "right", "left"]].set_visible(False)


def _title(ax: Axes, title: str, handles: Sequence[Artist], columns: int = 1) -> None:
    """The legend above the axis in so many columns; the title above it, the figure's if the axis is alone there."""
    figure = ax.get_figure(root=True)
    assert figure is not None
    if figure.axes == [ax]:
        text = textwrap.fill(title, int(9.5 * figure.get_figwidth()))
        figure.suptitle(text, x=0.012, ha="left", fontsize=11, fontweight="bold", color=INK)
    else:
        lines = math.ceil(len(handles) / columns)
        ax.set_title(title, loc="left", fontsize=11, fontweight="bold", color=INK, pad=10 + 14 * lines)
    if handles:
        ax.legend(
            handles=handles, loc="lower left", bbox_to_anchor=(0, 1), ncol=min(columns, len(handles)), frameon=False,
            fontsize=8.5, borderaxespad=0.4, borderpad=0, handletextpad=0.5, columnspacing=1.5, labelspacing=0.35,
        )  # fmt: skip


def _by_department(
    names: Sequence[str], tasks: Mapping[str, Task], control: str | None = None
) -> tuple[list[int], tuple[tuple[str, int, int], ...]]:
    """Order of the tasks with those of one department side by side, and the (department, start, stop) of each run.

    Departments follow one another as their first tasks do; tasks without one come last. Without any, nothing moves. A
    control stands apart behind all others.
    """
    if control in names:
        others = [index for index, name in enumerate(names) if name != control]
        inner, groups = _by_department([names[index] for index in others], tasks)
        at = len(others)
        if not groups and at:
            groups = (("", 0, at),)
        return [*(others[index] for index in inner), names.index(control)], (*groups, (CONTROL, at, at + 1))
    of = [tasks[name].department if name in tasks else "" for name in names]
    first = {department: of.index(department) for department in of if department}
    if not first:
        return list(range(len(names))), ()
    order = sorted(range(len(names)), key=lambda index: (first.get(of[index], len(of)), index))
    runs = []
    start = 0
    for department in sorted(first, key=first.__getitem__):
        runs.append((department, start, start + of.count(department)))
        start += of.count(department)
    if start < len(of):
        runs.append(("", start, len(of)))
    return order, tuple(runs)


def _overlapping(names: Sequence[str], overlaps: Overlaps) -> NDArray[np.bool_]:
    """Bool (M, M): the two tasks are a flagged pair, in either order."""
    pairs = {frozenset(pair) for pair in overlaps}
    return np.array([[frozenset((one, other)) in pairs for other in names] for one in names], bool)


def _with_metric(name: str, tasks: Mapping[str, Task]) -> str:
    metric = tasks[name].metric if name in tasks else ""
    return f"{name} ({METRIC_WORDS.get(metric, metric)})" if metric else name
