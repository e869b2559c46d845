"""How much each task draws on each other: the network's attention, averaged over subsets of one size."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
from matplotlib.colors import Normalize
from matplotlib.patches import Patch
from numpy.typing import NDArray

from tim_search.report.figures import drawing, placing
from tim_search.report.figures.drawing import MAX_TASKS_WITH_NUMBERS, MISSING
from tim_search.types import BadInput, Task

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


#: Attention weights that are read for a map: those of many large subsets take the memory of the machine.
MOST_WEIGHTS = 3_000_000


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
    order, departments = placing.by_department(drawn, tasks or {})
    drawn = [drawn[index] for index in order]
    column = {name: index for index, name in enumerate(drawn)}
    every = set(names)
    total, count = np.zeros((2, len(drawn), len(drawn)))
    behind: dict[tuple[int, int], set[tuple[str, ...]]] = {}
    sizes, last, subset = set(), None, None
    for members, task, other, weight in zip(
        frame["subset"], frame["task"], frame["other"], frame["weight"], strict=True
    ):
        if members is not last:  # the rows of a unit share its subset, which may be large
            sizes.add(len(members))
            last, subset = members, tuple(sorted(members)) if every.issuperset(members) else None
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
    for cell, distinct in behind.items():
        subsets[cell] = len(distinct)
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
    every, drawn, last, inside = set(names), set(shown or names).intersection(names), None, False
    for members, task, other in zip(frame["subset"], frame["task"], frame["other"], strict=True):
        if members is not last:  # the rows of a unit share its subset, which may be large
            last, inside = members, every.issuperset(members)
        if inside and len(members) > 1 and task != other and task in drawn and other in drawn:
            pairs.setdefault(len(members), set()).add((task, other))
    if 3 in pairs and len(pairs[3]) == len(drawn) * (len(drawn) - 1):
        return 3
    return min(pairs, key=lambda size: (-len(pairs[size]), size), default=None)


def draw_attention(data: AttentionData, ax: Axes | None = None) -> Axes:
    """Draw an attention map on `ax`, or on a figure of its own.

    The colours tell how tasks draw on others. What a task draws on itself is of another magnitude: it is left white.
    """
    m = len(data.tasks)
    ax = ax or drawing.matrix_axis(m)
    others = np.where(np.eye(m, dtype=bool), np.nan, data.weight)
    finite = others[np.isfinite(others)]
    colours = mpl.colormaps["viridis_r"].with_extremes(bad=MISSING)
    norm = Normalize(float(finite.min()), float(finite.max()))
    image = drawing.draw_matrix(ax, others, colours, norm, data.tasks, data.tasks, data.departments)
    drawing.white_diagonal(ax, range(m))
    if m <= MAX_TASKS_WITH_NUMBERS:
        texts = [
            ["" if math.isnan(value) else f"{value:.3f}".removeprefix("0") for value in row] for row in data.weight
        ]
        drawing.print_numbers(ax, texts, others, colours, norm, np.zeros((m, m), bool))
    ax.set_xlabel("draws on")
    ax.set_ylabel("task")
    unseen = np.isnan(others) & ~np.eye(m, dtype=bool)
    handles = [Patch(facecolor=MISSING, label="never in one subset")] if unseen.any() else []
    drawing.write_title(ax, data.title, handles)
    ax.set(xlim=(-0.5, m - 0.5), ylim=(m - 0.5, -0.5))
    drawing.colour_bar(ax, image, m).set_label("mean attention weight")
    return ax
