"""From ledger rows to games: one table of scores that every estimator and every expansion reads.

One trained subset T scores every task i in T, so the ledger holds one cooperative game per source task at once:
f_i(T) is the score of task i when trained with T. `ScoreTable` lays all of them out as arrays.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tim_search.types import Subset, Unit, subset

if TYPE_CHECKING:
    import pandas as pd


#: Columns of the ledger that `score_table` reads, replicates among them.
COLUMNS = ("subset", "seed", "fold", "task", "score", "status", "replicates")


@dataclass(frozen=True, eq=False)
class ScoreTable:
    """Scores of many subsets, laid out for estimation.

    Attributes:
        tasks: M task names; the column order of every array.
        blocks: (seed, fold) pairs, one a replicate of the search.
        membership: bool (B, M); row b holds the tasks of the b-th distinct subset.
        scores: float64 (B, n_blocks, M); NaN where the task is not in the subset, failed, or is not trained: not yet,
            or never, because in a sliced search each block trains subsets of its own.
        trained: bool (B, n_blocks); true where the unit has its final answer, a failed one included.
        replicates: float32 (B, n_blocks, M, R) scores under shared patient-bootstrap weights, or None if not loaded.
    """

    tasks: tuple[str, ...]
    blocks: tuple[tuple[int, int], ...]
    membership: NDArray[np.bool_]
    scores: NDArray[np.float64]
    trained: NDArray[np.bool_]
    replicates: NDArray[np.float32] | None = field(default=None, repr=False)

    @cached_property
    def rows(self) -> dict[Subset, int]:
        """Row number of each subset."""
        return {
            subset(name for name, member in zip(self.tasks, row, strict=True) if member): index
            for index, row in enumerate(self.membership.tolist())
        }

    @cached_property
    def answered(self) -> set[Unit]:
        """Units that have their final answer, a failure included."""
        names = list(self.rows)
        return {Unit(names[row], *self.blocks[block]) for row, block in np.argwhere(self.trained).tolist()}

    @property
    def complete(self) -> set[Subset]:
        """Subsets that have their final answer in every block."""
        if not self.blocks:
            return set()
        done = set(np.flatnonzero(self.trained.all(axis=1)).tolist())
        return {members for members, index in self.rows.items() if index in done}

    def of(self, units: Collection[Unit]) -> ScoreTable:
        """The table as if these units alone had been trained; units it does not hold are passed over."""
        layer = {block: index for index, block in enumerate(self.blocks)}
        kept = np.zeros_like(self.trained)
        for unit in units:
            if unit.subset in self.rows and (unit.seed, unit.fold) in layer:
                kept[self.rows[unit.subset], layer[unit.seed, unit.fold]] = True
        kept &= self.trained
        rows = np.flatnonzero(kept.any(axis=1))
        kept = kept[rows]
        replicates = self.replicates
        if replicates is not None:
            replicates = np.where(kept[:, :, None, None], replicates[rows], np.float32(np.nan))
        return ScoreTable(
            self.tasks,
            self.blocks,
            self.membership[rows],
            np.where(kept[:, :, None], self.scores[rows], np.nan),
            kept,
            replicates,
        )

    def mean(self) -> NDArray[np.float64]:
        """float64 (B, M): mean over the blocks; NaN where any block lacks the score (blocks are paired).

        In a sliced search that is everywhere: scores of different blocks do not compare without a model.
        """
        if not self.blocks:
            return np.full(self.membership.shape, np.nan)
        return np.asarray(self.scores.mean(axis=1))


def empty(tasks: Sequence[str], blocks: Sequence[tuple[int, int]]) -> ScoreTable:
    """The table before anything was trained."""
    m, n = len(tasks), len(blocks)
    return ScoreTable(
        tuple(tasks), tuple(blocks), np.zeros((0, m), bool), np.zeros((0, n, m)), np.zeros((0, n), bool), None
    )


def score_table(
    frame: pd.DataFrame,
    tasks: Sequence[str],
    blocks: Sequence[tuple[int, int]] | None = None,
    *,
    replicates: bool = False,
) -> ScoreTable:
    """Lay ledger rows out as a `ScoreTable`.

    Args:
        frame: rows of one context with columns subset (sequence of str), seed, fold, task, score, status, and
            replicates (sequence of float) where asked for; primary validation rows only (see `Ledger.scores`).
        tasks: M task names; rows of subsets with a task outside them are left out.
        blocks: (seed, fold) pairs to lay out; None takes all that occur, sorted.
        replicates: also lay out the bootstrap replicates; rows without them are NaN.
    """
    tasks = tuple(tasks)
    column = {name: index for index, name in enumerate(tasks)}
    seeds, folds = (frame[name].to_numpy(np.int64) for name in ("seed", "fold"))
    if blocks is None:
        blocks = [(int(seed), int(fold)) for seed, fold in np.unique(np.column_stack([seeds, folds]), axis=0)]
    blocks = tuple(blocks)
    layer = np.full(len(frame), -1)
    for index, (seed, fold) in enumerate(blocks):
        layer[(seeds == seed) & (folds == fold)] = index

    # Rows of one subset mostly share one object (see `Ledger.scores`): Python works once a subset, not once a row.
    objects = frame["subset"].tolist()
    ids = np.fromiter(map(id, objects), np.int64, len(objects))
    _, first, same = np.unique(ids, return_index=True, return_inverse=True)
    numbers: dict[Subset, int] = {}
    known = [numbers.setdefault(tuple(sorted(objects[at])), len(numbers)) for at in first.tolist()]
    inside = np.array([all(name in column for name in key) for key in numbers], bool)
    number = np.array(known, int)[same]
    kept = np.flatnonzero((layer >= 0) & inside[number]) if len(number) else np.zeros(0, int)
    _, first, row = np.unique(number[kept], return_index=True, return_inverse=True)
    row = np.argsort(np.argsort(first))[row]  # subsets in the order in which they come
    names = list(numbers)
    rows = [names[at] for at in number[kept][np.sort(first)].tolist()]
    codes, words = frame["task"].factorize()
    task = np.array([column.get(word, -1) for word in words], int)[codes[kept]]
    good = (frame["status"] == "ok").to_numpy(bool)[kept]
    values = np.where(good, frame["score"].to_numpy(float)[kept], np.nan)

    shape = (len(rows), len(blocks), len(tasks))
    membership = np.zeros((len(rows), len(tasks)), bool)
    for index, key in enumerate(rows):
        membership[index, [column[name] for name in key]] = True
    scores = np.full(shape, np.nan)
    trained = np.zeros(shape[:2], bool)
    scores[row, layer[kept], task] = values
    trained[row, layer[kept]] = True
    table = None
    if replicates and "replicates" in frame:
        drawn = frame["replicates"].tolist()
        draws = [() if drawn[at] is None else drawn[at] for at in kept.tolist()]
        width = max((len(draw) for draw in draws), default=0)
        if width:
            table = np.full((*shape, width), np.nan, np.float32)
            for place, draw in zip(
                zip(row.tolist(), layer[kept].tolist(), task.tolist(), strict=True), draws, strict=True
            ):
                if len(draw) == width:
                    table[place] = draw
    return ScoreTable(tasks, blocks, membership, scores, trained, table)
