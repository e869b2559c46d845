"""The rows of many files at once, and the answers they hold: what the ledger's readers work on.

A file has a row for each task and metric of a unit, and each names the unit's whole subset; of 44 tasks that is a list
of 22 names in each of 22 rows. So the rows of one answer lie side by side, and the footer of the file says of each such
*run* how many rows it has, and everything that tells one answer from another, the subset as bits. The product's own
readers work on runs and never decode the lists, which are there for those who read a file with pandas alone. Files of
earlier versions have no such footer; their runs are found from their columns.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tim_search.ledger.schema import RUN_COLUMNS, SCHEMAS, FileRows, binary, coded, codes, row_keys, runs_of
from tim_search.types import Sheet, Unit
from tim_search.types.columns import Masks, Subsets, Units


@dataclass(frozen=True, eq=False)
class LedgerRows:
    """The rows of many files, and the runs they form.

    Attributes:
        kind: name of the table.
        table: the columns asked for, but for those that the runs have.
        runs: Arrow table, one row a run, with the columns `RUN_COLUMNS`.
        counts: int64, rows of each run.
        subset: int32, number of each run's subset.
        file: int32, place of each run's file among the sorted names.
        subsets: the S distinct subsets.
    """

    kind: str
    table: Any = field(repr=False)
    runs: Any = field(repr=False)
    counts: NDArray[np.int64] = field(repr=False)
    subset: NDArray[np.int32] = field(repr=False)
    file: NDArray[np.int32] = field(repr=False)
    subsets: Subsets

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def codes(self, name: str) -> NDArray[Any]:
        """Integers, one a run, that are equal where the column is."""
        column = self.runs[name]
        if pa.types.is_dictionary(column.type) or pa.types.is_string(column.type):
            return codes(coded(column))
        return np.asarray(column.cast(pa.int64()))

    def equal(self, name: str, value: str) -> NDArray[np.bool_]:
        """bool, one a run: whether a text column has this value."""
        return np.asarray(pc.equal(self.runs[name], value))

    def keep(self, runs: NDArray[np.bool_], rows: NDArray[np.bool_] | None = None) -> LedgerRows:
        """Only some runs, and of these only some rows."""
        if runs.all() and rows is None:
            return self
        keep = np.repeat(runs, self.counts)
        counts = self.counts
        if rows is not None:
            keep &= rows
            ends = np.concatenate([[0], np.cumsum(keep)])[np.cumsum(np.concatenate([[0], self.counts]))]
            counts = np.diff(ends)
            runs = counts > 0
        return LedgerRows(
            self.kind,
            self.table if keep.all() else self.table.filter(pa.array(keep)),
            self.runs if runs.all() else self.runs.filter(pa.array(runs)),
            counts[runs],
            self.subset[runs],
            self.file[runs],
            self.subsets,
        )

    def first_answers(self) -> LedgerRows:
        """Of a unit that was answered more than once, the rows of its first answer alone.

        An answer is what one file holds of one unit under one time of writing. Whole answers win, never single rows: a
        failed first answer is not mixed with the diagnostics of a second one. First is what has the earliest time, then
        the first file name.
        """
        if not len(self.counts):
            return self
        created = self.codes("created")
        order = np.lexsort((self.file, created))
        answer = np.empty(len(order), np.int64)
        answer[order] = np.cumsum(
            np.diff(created[order], prepend=0).astype(bool) | np.diff(self.file[order], prepend=0).astype(bool)
        )
        first = pd.Series(answer).groupby(self._answer(), sort=False).transform("min").to_numpy()
        return self.keep(answer == first)

    def answered_twice(self) -> int:
        """Units with answers of different times; equal times are one answer in two files of a merge cut short."""
        if not len(self.counts):
            return 0
        created = pd.Series(self.codes("created"))
        return int((created.groupby(self._answer()).nunique() > 1).sum())

    def _answer(self) -> list[NDArray[Any]]:
        """What names an answer, one array a column."""
        return [self.subset, *(self.codes(name) for name in RUN_COLUMNS[self.kind] if name != "created")]

    def units(self) -> set[Unit]:
        """The units that have a row."""
        keys = pd.DataFrame({"subset": self.subset, "seed": self.codes("seed"), "fold": self.codes("fold")})
        keys = keys.drop_duplicates()
        subsets = list(self.subsets)
        columns = (keys[name].tolist() for name in keys)
        return {Unit(subsets[code], seed, fold) for code, seed, fold in zip(*columns, strict=True)}

    def tally(
        self, tasks: Collection[str], blocks: Collection[tuple[int, int]]
    ) -> tuple[int, int, float, datetime | None]:
        """(units of these tasks and blocks; failed units, seconds of all units, and the latest time, of all of them).

        Needs the columns status and seconds.
        """
        if not len(self.counts):
            return 0, 0, 0.0, None
        starts = np.cumsum(self.counts) - self.counts
        seed, fold = self.codes("seed"), self.codes("fold")
        outside = self.subsets.counts(set(self.subsets.tasks).difference(tasks)) > 0
        asked = np.zeros(len(starts), bool)
        for block in blocks:
            asked |= (seed == block[0]) & (fold == block[1])
        bad = np.asarray(pc.equal(self.table["status"], "failed"))
        units = pd.DataFrame(
            {
                "asked": asked & ~outside[self.subset],
                "bad": np.logical_or.reduceat(bad, starts),
                "seconds": np.asarray(self.table["seconds"])[starts],
            }
        )
        # Mostly a unit is one run; rows of old files need not lie side by side.
        keys = pd.DataFrame({"subset": self.subset, "seed": seed, "fold": fold})
        if (twice := keys.duplicated()).any():
            every = units["bad"].groupby([keys[name] for name in keys]).transform("any")
            units = units.assign(bad=every)[~twice]
        return (
            int(units["asked"].sum()),
            int(units["bad"].sum()),
            float(units["seconds"].sum()),
            pc.max(self.runs["created"]).as_py(),
        )

    def holds(self, units: Units) -> NDArray[np.bool_]:
        """bool, one a unit: whether it has a row here."""
        if not len(self.counts):
            return np.zeros(len(units), bool)
        tasks = {*self.subsets.tasks, *units.subsets.tasks}
        seeds, folds = (np.array([block[at] for block in units.blocks], np.int64)[units.block] for at in (0, 1))
        wanted = binary(row_keys(units.subsets.over(tasks).masks, seeds, folds))
        own = row_keys(self.subsets.over(tasks).masks[self.subset], self.codes("seed"), self.codes("fold"))
        return np.asarray(pc.is_in(wanted, binary(own)))

    def arrow(self, names: Sequence[str], *, subset: bool = True) -> Any:
        """Arrow table of these columns; without `subset`, that column is left out."""
        run = pa.array(np.repeat(np.arange(len(self.counts), dtype=np.int32), self.counts))
        columns: dict[str, Any] = {}
        for name in names:
            if name == "subset":
                if subset:
                    lists = pa.array(list(self.subsets), pa.list_(pa.string())).take(pa.array(self.subset))
                    columns[name] = lists.take(run)
            elif name in RUN_COLUMNS[self.kind]:
                columns[name] = self.runs[name].combine_chunks().take(run)
            else:
                # Cast by chunk: a dictionary of the whole would be decoded into one array.
                columns[name] = self.table[name].cast(SCHEMAS[self.kind].field(name).type)
        schema = pa.schema([SCHEMAS[self.kind].field(name) for name in columns])
        return pa.table(columns, schema=schema)

    def frame(self, names: Sequence[str]) -> pd.DataFrame:
        """These columns for pandas. Rows of one subset share one array of names."""
        plain: pd.DataFrame = self.arrow(names, subset=False).to_pandas()
        if "subset" in names:
            shared = np.empty(len(self.subsets), object)
            shared[:] = [np.array(members, object) for members in self.subsets]
            plain.insert(list(names).index("subset"), "subset", shared[np.repeat(self.subset, self.counts)])
        return plain

    def in_one_file(self) -> tuple[Any, FileRows]:
        """(Arrow table, its runs) as `parquet` takes them."""
        columns = {name: self.runs[name].combine_chunks() for name in RUN_COLUMNS[self.kind]}
        file_runs = runs_of(self.kind, self.counts, self.subsets.take(self.subset), columns)
        return self.arrow(SCHEMAS[self.kind].names), file_runs

    def sheet(self) -> Sheet:
        """Scores as plain arrays; needs the columns task, status and score."""
        table = self.table
        task, status = coded(table["task"]), coded(table["status"])
        words = task.chunk(0).dictionary.to_pylist() if task.num_chunks else []
        place = {name: index for index, name in enumerate(self.subsets.tasks)}
        ok = np.array([word == "ok" for word in (status.chunk(0).dictionary.to_pylist() if status.num_chunks else [])])
        score = table["score"].to_numpy().astype(float)
        if len(ok):
            score[~ok[codes(status)]] = np.nan
        replicates = None
        if "replicates" in table.column_names:
            column = table["replicates"].combine_chunks()
            replicates = (np.asarray(pc.list_value_length(column).fill_null(0)), np.asarray(column.flatten()))
        return Sheet(
            self.subsets.tasks,
            self.subsets.membership,
            self.counts,
            self.subset,
            self.codes("seed"),
            self.codes("fold"),
            np.array([place[word] for word in words], np.int32)[codes(task)] if words else np.zeros(0, np.int32),
            score,
            replicates,
        )


def joined(kind: str, files: Mapping[str, FileRows]) -> LedgerRows:
    """The rows of these files, in the order of their names."""
    in_order = [files[name] for name in sorted(files)]
    if not in_order:
        empty = SCHEMAS[kind].empty_table()
        runs = empty.select(list(RUN_COLUMNS[kind]))
        none = np.zeros(0, np.int32)
        return LedgerRows(kind, empty, runs, np.zeros(0, np.int64), none, none, Subsets.of(()))
    tasks = tuple(sorted(set().union(*(each.tasks for each in in_order))))
    masks = [_aligned(each, tasks) for each in in_order]
    packed = binary(np.concatenate(masks)).dictionary_encode()
    width = masks[0].shape[1]
    distinct = np.frombuffer(packed.dictionary.buffers()[1] or b"", np.uint8, len(packed.dictionary) * width)
    runs = pa.concat_tables([each.runs.select(list(RUN_COLUMNS[kind])) for each in in_order]).unify_dictionaries()
    return LedgerRows(
        kind,
        pa.concat_tables([each.table for each in in_order]).unify_dictionaries(),
        runs,
        np.concatenate([np.asarray(each.runs["rows"]) for each in in_order]).astype(np.int64),
        np.asarray(packed.indices).astype(np.int32, copy=False),
        np.repeat(np.arange(len(in_order), dtype=np.int32), [each.runs.num_rows for each in in_order]),
        Subsets(tasks, distinct.reshape(-1, width)),
    )


def _aligned(file: FileRows, tasks: tuple[str, ...]) -> Masks:
    """The masks of a file's runs, as bits of `tasks`."""
    n, own = file.runs.num_rows, len(file.tasks)
    width = -(-own // 8)
    column = file.runs["mask"].combine_chunks()
    content = column.buffers()[1] if n and own else None
    masks = np.frombuffer(content or b"", np.uint8, n * width, column.offset * width if content else 0)
    return Subsets(file.tasks, masks.reshape(n, width)).over(tasks).masks
