"""TIM scores: how much each task helps or harms each other, estimated from a table of scores."""

from __future__ import annotations

from tim_search.tim.result import TimResult, rank_heatmap
from tim_search.tim.scores import estimate, from_ledger, from_table

__all__ = [
    "TimResult",
    "estimate",
    "from_ledger",
    "from_table",
    "rank_heatmap",
]
