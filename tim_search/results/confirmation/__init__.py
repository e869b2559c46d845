"""The confirmation: does the combination a search chose do better on patients that no search has seen?

A combination is chosen by its validation scores, and the best of many noisy scores is partly luck. Here it meets its
source's single-task model anew: both are trained on the whole training part from fresh seeds, and judged on the
untouched test patients. Two baselines of no less compute stand beside them: all tasks of the search together, and an
ensemble of as many single-task models as the combination has tasks.

`Asked` says what was to be confirmed (`confirmation.json`), by this confirmation and by those before it in the same
folder; the scores are in the ledger, as those of every training, under the fold `FINAL_FOLD`. Everything else is
computed from these two, also while the confirmation runs. The false discovery rate is that of all comparisons together:
whoever confirms the sources one by one makes as many of them as who names all at once.
"""

from __future__ import annotations

from tim_search.results.confirmation.asked import FIRST_SEED, NAME, Asked, fresh_seeds, needed, read
from tim_search.results.confirmation.confirmed import FDR, Confirmed, confirmed, rows, tested, verdict
from tim_search.results.confirmation.contrast import UNKNOWN, Contrast, contrast
from tim_search.results.confirmation.words import caveats

__all__ = [
    "FDR",
    "FIRST_SEED",
    "NAME",
    "UNKNOWN",
    "Asked",
    "Confirmed",
    "Contrast",
    "caveats",
    "confirmed",
    "contrast",
    "fresh_seeds",
    "needed",
    "read",
    "rows",
    "tested",
    "verdict",
]
