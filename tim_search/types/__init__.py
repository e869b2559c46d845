"""The nouns of a search: tasks, subsets, units, packs, scores, contexts, and the errors it raises."""

from __future__ import annotations

from tim_search.types.columns import Sheet
from tim_search.types.errors import BadInput, Finding, Interrupted, OutOfMemory, TimSearchError
from tim_search.types.metrics import ALLOWED, KINDS, METRIC_WORDS, METRICS, Kind
from tim_search.types.names import joined, overlap_mask, parted, partners
from tim_search.types.nouns import (
    FINAL_FOLD,
    Context,
    Pack,
    Part,
    Score,
    Status,
    Subset,
    Task,
    Unit,
    canonical,
    digest,
    subset,
)
from tim_search.types.training import (
    MOST_ATTENDED,
    Attention,
    Curve,
    PackResult,
    Resources,
    Trainer,
    TrainerFactory,
    failed,
)
from tim_search.types.words import counted, duration, near, product_version, some

__all__ = [
    "ALLOWED",
    "FINAL_FOLD",
    "KINDS",
    "METRICS",
    "METRIC_WORDS",
    "MOST_ATTENDED",
    "Attention",
    "BadInput",
    "Context",
    "Curve",
    "Finding",
    "Interrupted",
    "Kind",
    "OutOfMemory",
    "Pack",
    "PackResult",
    "Part",
    "Resources",
    "Score",
    "Sheet",
    "Status",
    "Subset",
    "Task",
    "TimSearchError",
    "Trainer",
    "TrainerFactory",
    "Unit",
    "canonical",
    "counted",
    "digest",
    "duration",
    "failed",
    "joined",
    "near",
    "overlap_mask",
    "parted",
    "partners",
    "product_version",
    "some",
    "subset",
]
