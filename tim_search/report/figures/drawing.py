"""Axes, colours and parts that several figures share, and how a figure is saved.

Figures are made without pyplot, so that drawing in a service or a notebook changes no global state. Red is gain and
blue is loss throughout, from a scale that colour-blind readers can tell apart; significance is told by shape, never by
colour alone.
"""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from tim_search.gates.files import replacing

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.colorbar import Colorbar
    from matplotlib.colors import Colormap
    from matplotlib.image import AxesImage


#: With more tasks than this, numbers in the cells would be too small to read.
MAX_TASKS_WITH_NUMBERS = 15

#: Rows of a forest of gains, or of one source's helpers: more make a picture that no screen shows.
MAX_ROWS = 40

DPI = 150
RED, BLUE, GREY, INK = "#b2182b", "#2166ac", "#8c8c8c", "#222222"
MISSING = "#d5d5d5"


def save(ax: Axes, path: str | Path) -> Path:
    """Write the figure of `ax` as PNG, 150 dpi; a reader never sees half a file. Folders are made as needed."""
    figure = ax.get_figure(root=True)
    assert figure is not None
    with replacing(path) as aside:
        figure.savefig(aside, format="png", dpi=DPI, facecolor="white")
    return Path(path)


def save_and_close(ax: Axes, path: str | Path) -> Path:
    """`save` for an axis that another library made with pyplot, which keeps every figure until it is closed."""
    from matplotlib import pyplot

    saved = save(ax, path)
    pyplot.close(ax.get_figure(root=True))
    return saved


def png(figure: Figure, dpi: float = 100) -> bytes:
    """A figure as the bytes of a PNG image."""
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=dpi, facecolor="white")
    return content.getvalue()


class ShownFigure(Figure):
    """A figure that a notebook shows although pyplot does not know it."""

    def _repr_png_(self) -> bytes:
        return png(self)


def new_figure(width: float, height: float, layout: Literal["compressed", "constrained"] = "compressed") -> Figure:
    """A figure without axes, in inches, free of pyplot's registry."""
    figure = ShownFigure(figsize=(width, height), dpi=DPI, layout=layout)
    FigureCanvasAgg(figure)
    return figure


def title_figure(figure: Figure, title: str) -> Figure:
    """The same figure, with a bold title at its left."""
    figure.suptitle(title, x=0.012, ha="left", fontsize=11, fontweight="bold", color=INK)
    return figure


def new_axis(width: float, height: float) -> Axes:
    """An axis on a figure of its own, in inches, free of pyplot's registry."""
    return new_figure(width, height).add_subplot()


def longest_text(texts: Iterable[str]) -> int:
    """Characters of the longest text; 0 without any."""
    return max(map(len, texts), default=0)


def cell_side(m: int) -> float:
    """Side of a matrix cell in inches: room for a number, or for a line of text."""
    if m <= MAX_TASKS_WITH_NUMBERS:
        return max(0.6, 3.0 / m)
    return max(0.24, 0.36 - 0.004 * (m - MAX_TASKS_WITH_NUMBERS))


def matrix_axis(m: int) -> Axes:
    """An axis for a matrix of m tasks, on a figure of its own."""
    return new_axis(cell_side(m) * m + 4.2, cell_side(m) * m + 2.4)


def draw_matrix(
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


def white_diagonal(ax: Axes, rows: Iterable[int]) -> None:
    """Cover the diagonal of a matrix in these rows."""
    for place in rows:
        ax.add_patch(Rectangle((place - 0.5, place - 0.5), 1, 1, facecolor="white", lw=0))


def print_numbers(
    ax: Axes,
    texts: Sequence[Sequence[str]],
    cells: NDArray[np.float64],
    colours: Colormap,
    norm: Normalize,
    hatched: NDArray[np.bool_],
) -> None:
    """Numbers in cells, dark on light and light on dark; on hatched cells with a field in the cell's colour behind."""
    for row, column in np.ndindex(cells.shape):
        value = cells[row, column]
        shade = colours(norm(value)) if np.isfinite(value) else (1.0, 1.0, 1.0, 1.0)
        text = ax.text(column, row, texts[row][column], ha="center", va="center", fontsize=8, color=ink_on(shade))
        if hatched[row, column]:
            text.set_bbox({"facecolor": shade, "edgecolor": "none", "pad": 1.5})


def ink_on(shade: tuple[float, float, float, float]) -> str:
    """Dark on light colours and white on dark ones."""
    red, green, blue, _ = shade
    return "white" if 0.3 * red + 0.59 * green + 0.11 * blue < 0.5 else INK


def colour_bar(ax: Axes, image: AxesImage, m: int, extend: str = "neither") -> Colorbar:
    """A colour bar no taller than a matrix of m tasks."""
    figure = ax.get_figure(root=True)
    assert figure is not None
    bar = figure.colorbar(image, ax=ax, shrink=min(1.0, 3.0 / (cell_side(m) * m)), aspect=16, pad=0.02, extend=extend)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=8, length=2)
    return bar


def whisker(ax: Axes, place: int, value: float, low: float, high: float, colour: str, filled: bool) -> None:
    """One row of a forest: a point, and a bar where there is an interval."""
    if math.isfinite(low) and math.isfinite(high):
        ax.plot([low, high], [place, place], color=colour, linewidth=1.6, solid_capstyle="butt")
    ax.plot([value], [place], "o", markersize=6, color=colour, markerfacecolor=colour if filled else "white")


def legend_point(colour: str, filled: bool, meaning: str) -> Line2D:
    """A legend entry for the points of `_whisker`."""
    face = colour if filled else "white"
    return Line2D([], [], marker="o", ls="-", lw=1.6, ms=6, color=colour, markerfacecolor=face, label=meaning)


def named_rows(ax: Axes, labels: Sequence[str]) -> None:
    """Named rows from the top down, with a line at zero."""
    ax.axvline(0, color=INK, linewidth=0.9, zorder=0)
    ax.set_yticks(range(len(labels)), labels, fontsize=9)
    ax.set_ylim(len(labels) - 0.4, -0.6)
    ax.tick_params(axis="y", length=0)
    ax.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    ax.grid(axis="x", color="#e6e6e6", linewidth=0.8)
    ax.set_axisbelow(True)
    ax.spines[["top", "right", "left"]].set_visible(False)


def write_title(ax: Axes, title: str, handles: Sequence[Artist], columns: int = 1) -> None:
    """The legend above the axis in so many columns; the title above it, the figure's if the axis is alone there."""
    figure = ax.get_figure(root=True)
    assert figure is not None
    if figure.axes == [ax]:
        text = textwrap.fill(title, int(9.5 * figure.get_figwidth()))
        title_figure(figure, text)
    else:
        lines = math.ceil(len(handles) / columns)
        ax.set_title(title, loc="left", fontsize=11, fontweight="bold", color=INK, pad=10 + 14 * lines)
    if handles:
        ax.legend(
            handles=handles, loc="lower left", bbox_to_anchor=(0, 1), ncol=min(columns, len(handles)), frameon=False,
            fontsize=8.5, borderaxespad=0.4, borderpad=0, handletextpad=0.5, columnspacing=1.5, labelspacing=0.35,
        )  # fmt: skip
