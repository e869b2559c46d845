"""The figures: in each module a function that lays the data of one figure out, and one that draws them on an axis.

What is shown, in which order and which colour means what is decided by the data functions and can be tested without an
image. The drawing functions take `ax=None`; without an axis they make a figure of a size that stays readable at 6 to 64
tasks. Of more tasks the data functions keep the most telling ones, and the title says so.
"""

from __future__ import annotations

from tim_search.report.figures.attention import (
    MOST_WEIGHTS,
    attention_data,
    attention_size,
    attention_weights,
    draw_attention,
)
from tim_search.report.figures.drawing import DPI, MAX_ROWS, MAX_TASKS_WITH_NUMBERS, MISSING, png, save, save_and_close
from tim_search.report.figures.expansion import draw_expansion, expansion_data
from tim_search.report.figures.forest import draw_forest, forest_data
from tim_search.report.figures.front import draw_front, front_data
from tim_search.report.figures.heatmap import MUTED, NOT_LEARNT, HeatmapKind, draw_heatmap, heatmap_data
from tim_search.report.figures.lines import convergence_data, draw_lines, profile_data

__all__ = [
    "DPI",
    "MAX_ROWS",
    "MAX_TASKS_WITH_NUMBERS",
    "MISSING",
    "MOST_WEIGHTS",
    "MUTED",
    "NOT_LEARNT",
    "HeatmapKind",
    "attention_data",
    "attention_size",
    "attention_weights",
    "convergence_data",
    "draw_attention",
    "draw_expansion",
    "draw_forest",
    "draw_front",
    "draw_heatmap",
    "draw_lines",
    "expansion_data",
    "forest_data",
    "front_data",
    "heatmap_data",
    "png",
    "profile_data",
    "save",
    "save_and_close",
]
