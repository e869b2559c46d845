"""The verdict on each source task, with the gain that it speaks of over the task alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tim_search.report.figures import drawing, placing
from tim_search.report.figures.drawing import BLUE, GREY, INK, MAX_ROWS, RED
from tim_search.results.verdicts import Kind, Verdict
from tim_search.types import BadInput, Task

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

#: (kind, colour, filled, what a point of it means), as the legend lists them.
_KINDS: tuple[tuple[Kind, str, bool, str], ...] = (
    ("confirmed", RED, True, "confirmed on the test patients"),
    ("promising", RED, False, "promising, not confirmed"),
    ("refuted", BLUE, True, "refuted on the test patients"),
    ("unclear", GREY, False, "unclear"),
    ("keep alone", INK, False, "keep alone: the highest gain among the combinations looked at"),
)


@dataclass(frozen=True, eq=False)
class ExpansionData:
    """The verdict on each source; every sequence has one entry a source.

    Of many sources those with an advised combination are kept, then those of the largest gains beside their intervals.

    Attributes:
        title: text.
        labels: the sources with their metrics.
        kinds: of the verdicts.
        words: the verdicts in words, with their combinations.
        gain, low, high: float, in the source's metric; NaN where the verdict has none.
    """

    title: str
    labels: tuple[str, ...]
    kinds: tuple[Kind, ...]
    words: tuple[str, ...]
    gain: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


def expansion_data(
    verdicts: Sequence[Verdict], tasks: Mapping[str, Task] | None = None, search: str = ""
) -> ExpansionData:
    """Lay verdicts out as a gain plot, in the order given; raises BadInput when there are none."""
    if not verdicts:
        raise BadInput("expansion plot: there are no verdicts to draw.")
    several, shown = len(verdicts), _most_telling(verdicts)
    gain, low, high = np.array([(each.gain, each.low, each.high) for each in shown], float).T
    which = f"{len(shown)} of {several} sources" if len(shown) < several else "each source"
    title = f"the verdict on {which}: gain over the source alone"
    return ExpansionData(
        title=" · ".join(part for part in (search, title) if part),
        labels=tuple(placing.with_metric(each.source, tasks or {}) for each in shown),
        kinds=tuple(each.kind for each in shown),
        words=tuple(each.words for each in shown),
        gain=gain,
        low=low,
        high=high,
    )


def _most_telling(verdicts: Sequence[Verdict]) -> Sequence[Verdict]:
    """At most MAX_ROWS of them, in their order: what is advised first, then by gain beside its interval's width."""

    def place(index: int) -> tuple[bool, float]:
        each = verdicts[index]
        width = each.high - each.low
        sure = each.gain / width if width > 0 else each.gain
        return len(each.advised) == 1, -sure if math.isfinite(sure) else math.inf

    return [verdicts[index] for index in sorted(sorted(range(len(verdicts)), key=place)[:MAX_ROWS])]


def draw_expansion(data: ExpansionData, ax: Axes | None = None) -> Axes:
    """Draw the gains on `ax`, or on a figure of its own; the verdicts stand at the right."""
    n = len(data.labels)
    texts = [drawing.longest_text(data.labels), drawing.longest_text(data.words)]
    ax = ax or drawing.new_axis(min(max(8.6, 4.6 + 0.075 * sum(texts)), 18.0), 0.3 * n + 2.1)
    styles = {kind: (colour, filled) for kind, colour, filled, _ in _KINDS}
    for place, kind in enumerate(data.kinds):
        colour, filled = styles.get(kind, (GREY, False))
        drawing.whisker(ax, place, data.gain[place], data.low[place], data.high[place], colour, filled)
        ax.annotate(
            data.words[place], (1, place), xytext=(8, 0), va="center", fontsize=8.5,
            xycoords=ax.get_yaxis_transform(), textcoords="offset points", color=INK,
        )  # fmt: skip
    drawn = {kind for kind, gain in zip(data.kinds, data.gain, strict=True) if math.isfinite(gain)}
    handles: list[Artist] = [
        drawing.legend_point(colour, filled, meaning) for kind, colour, filled, meaning in _KINDS if kind in drawn
    ]
    drawing.named_rows(ax, data.labels)
    ax.set_xlabel("gain in the source's metric, with its 95 % interval")
    drawing.write_title(ax, data.title, handles)
    return ax
