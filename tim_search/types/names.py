"""Names of tasks as users write and read them: combinations as `a + b`, and pairs whose targets overlap."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray


def joined(members: Iterable[str]) -> str:
    """A combination as it is told: `a + b`."""
    return " + ".join(members)


def parted(text: str) -> tuple[str, ...]:
    """The names in `a + b` or `a+b`, in the order given; () of a blank text. Empty names stay, for who refuses them."""
    return tuple(name.strip() for name in text.split("+")) if text.strip() else ()


def partners(combination: str, source: str) -> str:
    """The tasks of a combination `a + b` beside its source, told in the same way."""
    return joined(name for name in parted(combination) if name != source)


def overlap_mask(names: Sequence[str], overlaps: Iterable[tuple[str, str]]) -> NDArray[np.bool_]:
    """Bool (M, M): the two tasks are a flagged pair, in either order; pairs with other tasks are passed over."""
    place = {name: index for index, name in enumerate(names)}
    mask = np.zeros((len(names), len(names)), bool)
    for first, second in overlaps:
        if first in place and second in place:
            mask[place[first], place[second]] = mask[place[second], place[first]] = True
    return mask
