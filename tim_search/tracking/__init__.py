"""MLflow: searches published there, and read back."""

from __future__ import annotations

from tim_search.tracking.queries import Heatmap, confirmed, fetch_model, heatmaps, models, newest_heatmap, searches
from tim_search.tracking.tracker import Tracker

__all__ = [
    "Heatmap",
    "Tracker",
    "confirmed",
    "fetch_model",
    "heatmaps",
    "models",
    "newest_heatmap",
    "searches",
]
