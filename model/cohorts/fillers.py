"""Numbers that stand for "not measured": codes such as -999, and whatever is frequent and far from all other values."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.cohorts.cohort import text

#: Codes that people write for a missing number: -1, and nines, eights or sevens only, such as -9, 999 or 8888.
CODE = re.compile(r"-1|-?(9+|8{2,}|7{2,})|-[78]")
#: A code must stand so often; any other value in so many rows and this share of them.
FEWEST, RARELY, SHARE = 2, 5, 0.005
#: Different values beside the filler that make a spread.
SPREAD = 10
#: Share of the other values that may lie near one that stands apart.
NEAR = 0.002
_MOST = 4  # fillers of one column


class Filler(NamedTuple):
    """A value that may stand for "not measured": how many rows hold it, and the range of all other values."""

    value: float
    held: int
    rows: int
    low: float
    high: float

    @property
    def words(self) -> str:
        """What is seen, as a sentence without its end."""
        share = f"{self.held / self.rows:.1%}"
        others = f"{text(float(f'{self.low:.6g}'))} to {text(float(f'{self.high:.6g}'))}"
        return f"{text(self.value)} stands in {self.held:,} rows ({share}), apart from all others ({others})"


def fillers(values: NDArray[Any]) -> list[Filler]:
    """The fillers among (n,) numbers, NaN where there is none; most often an empty list."""
    numbers = np.asarray(values, np.float64)
    numbers = numbers[np.isfinite(numbers)]
    if not len(numbers):
        return []
    levels, counts = np.unique(numbers, return_counts=True)
    suspects: list[int] = []
    # The ends are looked at in turn, since one filler hides the distance of the next.
    inner = np.ones(len(levels), bool)
    codes = [at for at in _ends(levels) if counts[at] >= FEWEST and CODE.fullmatch(text(float(levels[at])))]
    for at in codes:
        inner[at] = False
    for at in codes:
        if not _code_apart(levels[at], int(counts[at]), levels[inner], counts[inner]):
            inner[at] = True
        else:
            suspects.append(at)
    for _ in range(_MOST):
        places = np.flatnonzero(inner)
        if len(places) <= SPREAD:
            break
        end = next((at for at in (places[0], places[-1]) if _apart(at, levels, counts, inner)), None)
        if end is None:
            break
        inner[end] = False
        suspects.append(int(end))
    others = levels[inner]
    if not len(others):
        return []
    return [
        Filler(float(levels[at]), int(counts[at]), len(numbers), float(others[0]), float(others[-1]))
        for at in sorted(suspects)[:_MOST]
    ]


def _ends(levels: NDArray[np.float64]) -> list[int]:
    """Places of the values that a code may have: all below zero, and the highest few."""
    below = np.flatnonzero(levels < 0)[:20].tolist()
    return [*below, *(at for at in range(max(len(below), len(levels) - 3), len(levels)))]


def _code_apart(value: float, count: int, others: NDArray[np.float64], counts: NDArray[np.int64]) -> bool:
    """Whether a code is no value like the others: none of them is negative, or it lies far above them."""
    if len(others) < 2:
        return False
    if value < 0:
        return bool(others[0] >= 0)
    if value <= others[-1]:
        return False
    high = counts[others >= np.quantile(others, 0.9)].max()
    return bool(value - others[-1] > others[-1] - others[0] or (count >= RARELY and count >= 10 * high))


def _apart(at: int, levels: NDArray[np.float64], counts: NDArray[np.int64], inner: NDArray[np.bool_]) -> bool:
    """Whether an end of the values is frequent and has almost no other within the spread of their middle half."""
    rest = inner.copy()
    rest[at] = False
    others, weights = levels[rest], counts[rest]
    total = int(weights.sum())
    if counts[at] < max(RARELY, SHARE * (total + counts[at])):
        return False
    places = np.searchsorted(np.cumsum(weights), [0.25 * total, 0.75 * total])
    spread = float(others[places[1]] - others[places[0]])
    nearby = int(weights[np.abs(others - levels[at]) <= spread].sum())
    return spread > 0 and nearby <= NEAR * total
