"""What the best combination of each source task gains over the task alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tim_search.plans.expansion import Expansion
from tim_search.report.figures import drawing, placing
from tim_search.report.figures.drawing import GREY, INK, MAX_ROWS, RED
from tim_search.types import BadInput, Task, joined

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes


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
    for expansion in expansions:
        shown = expansion if _accepted(expansion) else expansion.leader
        members = expansion.best if _accepted(expansion) else expansion.leader.subset if expansion.leader else ()
        added.append(joined(name for name in members if name != expansion.source))
        gains.append((shown.gain, shown.low, shown.high) if shown else (math.nan,) * 3)
    gain, low, high = np.array(gains, float).T
    which = f"{len(expansions)} of {several} sources" if len(expansions) < several else "each source"
    title = f"best combination of {which} against the source alone"
    return ExpansionData(
        title=" · ".join(part for part in (search, title) if part),
        labels=tuple(placing.with_metric(expansion.source, tasks or {}) for expansion in expansions),
        combinations=tuple(added),
        gain=gain,
        low=low,
        high=high,
        accepted=np.array([_accepted(expansion) for expansion in expansions]),
        holds=np.array([expansion.holds for expansion in expansions]),
        complete=np.array([expansion.complete for expansion in expansions]),
    )


def _accepted(expansion: Expansion) -> bool:
    """Whether the search accepted a combination, and not the source alone."""
    return expansion.best != (expansion.source,)


def _most_gaining(expansions: Sequence[Expansion]) -> Sequence[Expansion]:
    """At most MAX_ROWS of them, in their order: what was accepted first, then by gain beside its interval's width."""

    def place(index: int) -> tuple[bool, bool, float]:
        expansion = expansions[index]
        shown = expansion if _accepted(expansion) else expansion.leader
        gain, width = (shown.gain, shown.high - shown.low) if shown else (math.nan, math.nan)
        sure = gain / width if width > 0 else gain
        return not expansion.holds, not _accepted(expansion), -sure if math.isfinite(sure) else math.inf

    return [expansions[index] for index in sorted(sorted(range(len(expansions)), key=place)[:MAX_ROWS])]


def draw_expansion(data: ExpansionData, ax: Axes | None = None) -> Axes:
    """Draw the gains on `ax`, or on a figure of its own; the added tasks stand at the right."""
    n = len(data.labels)
    texts = [drawing.longest_text(data.labels), drawing.longest_text(data.combinations)]
    ax = ax or drawing.new_axis(min(max(8.6, 4.6 + 0.075 * sum(texts)), 18.0), 0.3 * n + 2.1)
    for place in range(n):
        colour = RED if data.holds[place] else INK if data.accepted[place] else GREY
        drawing.whisker(ax, place, data.gain[place], data.low[place], data.high[place], colour, bool(data.holds[place]))
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
            handles.append(drawing.legend_point(colour, filled, meaning))
    drawing.named_rows(ax, data.labels)
    ax.set_xlabel("gain in the source's metric, with its interval")
    drawing.write_title(ax, data.title, handles)
    return ax
