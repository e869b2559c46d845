"""Which subsets to train, when that is known beforehand: all, those of given sizes, or a balanced sample.

Every design is a membership: bool (B, M), row b true for the tasks of the b-th subset; no row is empty, none occurs
twice. `subsets` gives the rows as subsets of task names.
"""

from __future__ import annotations

from tim_search.designs.balanced import hybrid, single_source
from tim_search.designs.listed import MAX_ENUMERATED_TASKS, MAX_ROWS, Membership, exact, sized, subsets

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
