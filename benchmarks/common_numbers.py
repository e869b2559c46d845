"""How much noise do common random numbers save? Read from a search that trained every subset from several seeds.

    python -m benchmarks.common_numbers DIR

A task starts from the same place in every subset of one seed, so the difference that adding task j makes to task i can
be taken within a seed. For every source i, task j and set S without both it compares the variance over seeds of

    paired     f_i(S + i + j; seed s) - f_i(S + i; seed s)
    unpaired   f_i(S + i + j; seed s) - f_i(S + i; another seed)

The blocks of the search must share one validation fold, so that nothing but the seed varies.
"""

from __future__ import annotations

import argparse

import numpy as np
from numpy.typing import NDArray

import tim_search
from tim_search.types import BadInput

Array = NDArray[np.float64]


def variances(scores: Array, membership: NDArray[np.bool_]) -> tuple[Array, Array]:
    """Mean variance over the seeds of paired and of unpaired differences.

    Args:
        scores: float64 (B, n_seeds, M), NaN where a task is not in the subset.
        membership: bool (B, M), every subset of the tasks once.

    Returns:
        Two float64 (M,), by source: over all tasks added to it and all sets they are added to.
    """
    n_seeds, m = scores.shape[1], membership.shape[1]
    row = {tuple(members): index for index, members in enumerate(membership.tolist())}
    paired: list[list[float]] = [[] for _ in range(m)]
    unpaired: list[list[float]] = [[] for _ in range(m)]
    for index, members in enumerate(membership.tolist()):
        for j in np.flatnonzero(members):
            without = row.get(tuple(member and place != j for place, member in enumerate(members)))
            if without is None:
                continue
            for i in np.flatnonzero(membership[without]):
                more, less = scores[index, :, i], scores[without, :, i]
                if np.isfinite(more).all() and np.isfinite(less).all():
                    paired[i].append(float((more - less).var(ddof=1)))
                    shifted = [(more - np.roll(less, shift)).var(ddof=1) for shift in range(1, n_seeds)]
                    unpaired[i].append(float(np.mean(shifted)))
    return np.array([np.mean(one) for one in paired]), np.array([np.mean(one) for one in unpaired])


def main() -> None:
    """Print the variances of each source and what pairing saves."""
    parser = argparse.ArgumentParser(description="What common random numbers save, from a finished search.")
    parser.add_argument("folder", help="output folder of an exact search with several seeds on one fold")
    results = tim_search.open_search(parser.parse_args().folder)
    table = results.table
    if len({fold for _, fold in table.blocks}) != 1 or len(table.blocks) < 2:
        raise BadInput(f"expected several seeds on one validation fold, got the blocks {table.blocks}.")
    paired, unpaired = variances(table.scores, table.membership)
    print(f"{'source':12} {'SD paired':>10} {'SD unpaired':>12} {'variance saved':>15}")
    for name, one, other in zip(table.tasks, paired, unpaired, strict=True):
        print(f"{name:12} {one**0.5:10.4f} {other**0.5:12.4f} {1 - one / other:14.0%}")


if __name__ == "__main__":
    main()
