"""All subsets, or all of a few tasks: designs that list what there is."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, combinations
from math import comb

import numpy as np
from numpy.typing import NDArray

from tim_search.types import BadInput
from tim_search.types.columns import Subsets

#: Subsets as rows: bool (B, M), true for the tasks of the b-th subset.
Membership = NDArray[np.bool_]

#: Largest number of tasks whose subsets are all listed (2^20 - 1 rows).
MAX_ENUMERATED_TASKS = 20
#: Largest number of rows `sized` lists.
MAX_ROWS = 2**20


def exact(n_tasks: int) -> Membership:
    """Every non-empty subset of `n_tasks` tasks, small ones first: bool (2^M - 1, M).

    Raises:
        BadInput: fewer than one task, or more than `MAX_ENUMERATED_TASKS`.
    """
    check_tasks(n_tasks)
    if n_tasks > MAX_ENUMERATED_TASKS:
        raise BadInput(
            f"The exact design lists all 2^{n_tasks} - 1 subsets of {n_tasks} tasks; at most {MAX_ENUMERATED_TASKS} "
            "tasks can be enumerated. Use the sampled design, or `sized` for all subsets up to a few tasks."
        )
    return sized(n_tasks, n_tasks)


def sized(n_tasks: int, size: int) -> Membership:
    """Every subset of at most `size` tasks, small ones first, then lexicographic: bool (B, M).

    Raises:
        BadInput: `size` outside 1..M, or more than `MAX_ROWS` subsets.
    """
    check_tasks(n_tasks)
    if not 1 <= size <= n_tasks:
        raise BadInput(f"The largest subset size must lie between 1 and the number of tasks, {n_tasks}; got {size}.")
    n_rows = sum(comb(n_tasks, k) for k in range(1, size + 1))
    if n_rows > MAX_ROWS:
        raise BadInput(
            f"{n_tasks} tasks have {n_rows} subsets of at most {size} tasks; at most {MAX_ROWS} can be listed. "
            "Choose a smaller size or the sampled design."
        )
    membership = np.zeros((n_rows, n_tasks), bool)
    row = 0
    for k in range(1, size + 1):
        listed = chain.from_iterable(combinations(range(n_tasks), k))
        members = np.fromiter(listed, np.int16, k * comb(n_tasks, k)).reshape(-1, k)
        membership[row + np.arange(len(members))[:, None], members] = True
        row += len(members)
    return membership


def subsets(membership: Membership, names: Sequence[str]) -> Subsets:
    """The rows of a membership array as subsets of task names, in order.

    Raises:
        BadInput: as many names as columns are needed; an empty row is no subset.
    """
    membership = np.asarray(membership, bool)
    if membership.ndim != 2 or membership.shape[1] != len(names):
        raise BadInput(f"A membership of {len(names)} tasks has {len(names)} columns; got shape {membership.shape}.")
    if len(membership) and not membership.any(axis=1).all():
        raise BadInput(f"A subset holds at least one task; row {int(np.argmin(membership.any(axis=1)))} is empty.")
    return Subsets.of_members(membership, names)


def check_tasks(n_tasks: int) -> None:
    """Raise BadInput for fewer than one task."""
    if n_tasks < 1:
        raise BadInput(f"A design needs at least one task; got {n_tasks}.")
