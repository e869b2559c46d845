"""MLflow: searches published there, and read back."""

from __future__ import annotations

from tim_search.tracking.tracker import (
    Heatmap,
    Tracker,
    confirmed,
    fetch_model,
    heatmaps,
    models,
    newest_heatmap,
    searches,
)

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
