"""Which subsets to train, when that is known beforehand: all, those of given sizes, or a balanced sample."""

from __future__ import annotations

from tim_search.designs.sampling import (
    MAX_ENUMERATED_TASKS,
    MAX_ROWS,
    Membership,
    exact,
    hybrid,
    single_source,
    sized,
    subsets,
)

__all__ = [
    "MAX_ENUMERATED_TASKS",
    "MAX_ROWS",
    "Membership",
    "exact",
    "hybrid",
    "single_source",
    "sized",
    "subsets",
]
