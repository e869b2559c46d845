"""From ledger rows to games: one table of scores that every estimator and every expansion reads.

One trained subset T scores every task i in T, so the ledger holds one cooperative game per source task at once:
f_i(T) is the score of task i when trained with T. `ScoreTable` lays all of them out as arrays.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from tim_search.types import Sheet, Subset, Unit
from tim_search.types.columns import Subsets


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
        return {members: index for index, members in enumerate(Subsets.of_members(self.membership, self.tasks))}

    @cached_property
    def order(self) -> NDArray[np.int64]:
        """Row numbers in one order of the subsets, whatever order they were trained in: by their tasks, the last one's
        first."""
        packed = np.packbits(self.membership, axis=1, bitorder="little")
        words = np.ascontiguousarray(np.pad(packed, ((0, 0), (0, -packed.shape[1] % 8)))).view("<u8")
        return np.lexsort(words.T) if words.shape[1] else np.arange(len(words))

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
        chosen = np.zeros_like(self.trained)
        for unit in units:
            if unit.subset in self.rows and (unit.seed, unit.fold) in layer:
                chosen[self.rows[unit.subset], layer[unit.seed, unit.fold]] = True
        chosen &= self.trained
        rows = np.flatnonzero(chosen.any(axis=1))
        chosen = chosen[rows]
        replicates = self.replicates
        if replicates is not None:
            replicates = np.where(chosen[:, :, None, None], replicates[rows], np.float32(np.nan))
        return ScoreTable(
            self.tasks,
            self.blocks,
            self.membership[rows],
            np.where(chosen[:, :, None], self.scores[rows], np.nan),
            chosen,
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


def less(table: ScoreTable, other: ScoreTable) -> ScoreTable:
    """The scores of a table less those of another one of the same tasks and blocks, of the subsets that both have.

    Replicates are differences, too, where both have as many: a replicate is a weighting of the same patients.
    """
    names = [members for members in table.rows if members in other.rows]
    here, there = ([each.rows[members] for members in names] for each in (table, other))
    column = [other.tasks.index(name) for name in table.tasks]
    replicates, theirs = table.replicates, other.replicates
    if replicates is not None and theirs is not None and replicates.shape[3] == theirs.shape[3]:
        replicates = replicates[here] - theirs[there][:, :, column]
    else:
        replicates = None
    return ScoreTable(
        table.tasks,
        table.blocks,
        table.membership[here],
        table.scores[here] - other.scores[there][:, :, column],
        table.trained[here] & other.trained[there],
        replicates,
    )


def lay_out(sheet: Sheet, tasks: Sequence[str], blocks: Sequence[tuple[int, int]] | None = None) -> ScoreTable:
    """Scores as a `ScoreTable`.

    Args:
        sheet: of one context, primary scores only (see `Ledger.sheet`).
        tasks: M task names; subsets with a task outside them are left out.
        blocks: (seed, fold) pairs to lay out; None takes all that occur, sorted.
    """
    tasks = tuple(tasks)
    if blocks is None:
        pairs = np.unique(np.column_stack([sheet.seed, sheet.fold]), axis=0)
        blocks = [(int(seed), int(fold)) for seed, fold in pairs]
    blocks = tuple(blocks)
    layer = np.full(len(sheet.counts), -1)
    for index, (seed, fold) in enumerate(blocks):
        layer[(sheet.seed == seed) & (sheet.fold == fold)] = index
    column = np.array([tasks.index(name) if name in tasks else -1 for name in sheet.tasks], int)
    outside = np.asarray(sheet.membership[:, column < 0].any(axis=1))
    used = (layer >= 0) & ~outside[sheet.subset] & (sheet.counts > 0)

    # Subsets in the order in which they come: of several assignments to one place the last one stays.
    first = np.full(len(sheet.membership), -1)
    order = np.flatnonzero(used)[::-1]
    first[sheet.subset[order]] = order
    present = np.flatnonzero(first >= 0)
    present = present[np.argsort(first[present])]
    row = np.full(len(sheet.membership), -1)
    row[present] = np.arange(len(present))

    shape = (len(present), len(blocks), len(tasks))
    membership = np.zeros((len(present), len(tasks)), bool)
    membership[:, column[column >= 0]] = sheet.membership[present][:, column >= 0]
    scores = np.full(shape, np.nan)
    trained = np.zeros(shape[:2], bool)
    start = (row[sheet.subset] * len(blocks) + layer) * len(tasks)
    trained.ravel()[start[used] // max(len(tasks), 1)] = True
    rows = np.repeat(used, sheet.counts)
    place = np.repeat(start[used], sheet.counts[used]) + column[sheet.task[rows]]
    scores.ravel()[place] = sheet.score[rows]
    table = None
    if sheet.replicates is not None:
        lengths, values = sheet.replicates
        if width := int(lengths[rows].max(initial=0)):
            whole = (lengths == width) & rows
            table = np.full((*shape, width), np.nan, np.float32)
            table.reshape(-1, width)[place[whole[rows]]] = values[np.repeat(whole, lengths)].reshape(-1, width)
    return ScoreTable(tasks, blocks, membership, scores, trained, table)
