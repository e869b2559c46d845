"""How far a sampled estimate is from the exact TIM scores of real training, in the same blocks and in others.

    python -m benchmarks.sampled_against_exact runs/demo

Reads a finished exact search with several blocks and trains nothing: the sample's scores are taken from the ledger. Two
questions: (1) one block's sample against that block's exact scores (what drawing subsets costs) and against the exact
scores of the other blocks (what one seed and fold cost); (2) a sample dealt to all blocks, each subset trained once,
against the exact scores over all of them.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from tim_search import designs
from tim_search.ledger.table import ScoreTable
from tim_search.results import opened
from tim_search.tim import scores as tim
from tim_search.tim.result import TimResult

Array = NDArray[np.float64]
DRAWS = 5  # designs drawn for each budget


def part(table: ScoreTable, rows: Sequence[int], blocks: Sequence[int]) -> ScoreTable:
    """The table's rows and blocks with these numbers."""
    at = np.ix_(rows, blocks)
    return replace(
        table,
        blocks=tuple(table.blocks[block] for block in blocks),
        membership=table.membership[list(rows)],
        scores=table.scores[at],
        trained=table.trained[at],
        replicates=None if table.replicates is None else table.replicates[at],
    )


def dealt(table: ScoreTable) -> ScoreTable:
    """Row t keeps block t modulo the number of blocks alone: each subset is trained once."""
    rows, blocks = table.trained.shape
    kept = np.arange(rows)[:, None] % blocks == np.arange(blocks)
    return replace(
        table,
        scores=np.where(kept[:, :, None], table.scores, np.nan),
        trained=table.trained & kept,
        replicates=None if table.replicates is None else np.where(kept[:, :, None, None], table.replicates, np.nan),
    )


def against(found: TimResult, truth: Array) -> list[float]:
    """Root mean squared error, share of equal signs, and share of 95 % intervals that cover, over the cells."""
    off = ~np.eye(len(truth), dtype=bool)
    covered = (found.low <= truth) & (truth <= found.high)
    return [
        float(np.sqrt(np.mean((found.estimate - truth)[off] ** 2))),
        float((np.sign(found.estimate) == np.sign(truth))[off].mean()),
        float(covered[off].mean()),
    ]


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="a finished exact search of several blocks")
    parser.add_argument("--budgets", type=int, nargs="+", default=[24, 32, 48])
    options = parser.parse_args()
    table = opened.open_search(options.folder).table
    n_tasks, n_blocks = len(table.tasks), len(table.blocks)
    if len(table.complete) < 2**n_tasks - 1 or n_blocks < 2:
        parser.error(f"{options.folder}: expected a finished exact search of at least two blocks")
    place = {tuple(row): index for index, row in enumerate(table.membership.tolist())}
    every = range(len(place))
    exact = [tim.from_table(part(table, every, [block]), "exact").estimate for block in range(n_blocks)]
    off = ~np.eye(n_tasks, dtype=bool)
    console = Console(width=100)
    for one, two in combinations(range(n_blocks), 2):
        gap = float(np.sqrt(np.mean((exact[one] - exact[two])[off] ** 2)))
        same = float((np.sign(exact[one]) == np.sign(exact[two]))[off].mean())
        console.print(f"exact scores of block {one} against block {two}: rmse {gap:.4f}, equal signs {same:.0%}")
    shown = Table("subsets", "sample", "against exact scores of", "rmse", "equal signs", "covered")
    for budget in options.budgets:
        results: dict[tuple[str, str], list[list[float]]] = {}
        for seed in range(DRAWS):
            rows = [place[tuple(row)] for row in designs.hybrid(n_tasks, budget, seed).tolist()]
            for block in range(n_blocks):
                found = tim.from_table(part(table, rows, [block]), "blup")
                others = np.mean([exact[other] for other in range(n_blocks) if other != block], axis=0)
                results.setdefault(("of one block", "that block"), []).append(against(found, exact[block]))
                results.setdefault(("of one block", "the other blocks"), []).append(against(found, others))
            found = tim.from_table(dealt(part(table, rows, range(n_blocks))), "blup")
            results.setdefault(("dealt to all blocks", "all blocks"), []).append(against(found, np.mean(exact, axis=0)))
        for (sample, truth), values in results.items():
            rmse, signs, covered = np.mean(values, axis=0)
            shown.add_row(str(budget), sample, truth, f"{rmse:.4f}", f"{signs:.0%}", f"{covered:.0%}")
    console.print(shown)


if __name__ == "__main__":
    main()
