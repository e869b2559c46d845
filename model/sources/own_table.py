"""The cohort folder that is begun from a table of one's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from model.cohorts import folder as cohort_folder
from model.cohorts.folder_reader import DESCRIPTION
from model.cohorts.folder_writer import check_free
from model.sources.own_table_guess import Guess, guess_columns
from model.sources.own_table_text import describe
from model.sources.tables import Columns, Source, convert
from tim_search.gates.files import new_folder, replacing
from tim_search.types import Finding


def init(source: Source, out: Path, *, tell: Callable[[str], None] = lambda line: None, **options: str) -> Guess:
    """Write a folder with the table as samples.parquet and a commented cohort.yaml.

    Args:
        source, options: of the table, as `model.sources.tables.convert` takes them.
        tell: is told what is being done.

    Returns:
        what was guessed of the columns, with `reading`: what the table turned out to be.

    Raises:
        BadInput: the table cannot be read, or something already stands at `out`.
    """
    check_free(out)
    with new_folder(out) as folder:
        samples = folder / "samples.parquet"
        reading = convert(source, samples, tell=tell, **options)
        table = Columns(samples)
        guess = replace(guess_columns(table), reading=reading)
        if guess.numbered:
            _number_rows(samples, guess.sample_id)
        name = reading.source.split(".")[0] or "cohort"
        description = folder / DESCRIPTION
        description.write_text(describe(table, guess, name), encoding="utf-8")
        guess = _without_poor(guess, cohort_folder.read(folder)[1])
        description.write_text(describe(table, guess, name), encoding="utf-8")
    return guess


def _number_rows(path: Path, name: str) -> None:
    """Put a column with the numbers of the rows in front of those of a Parquet file."""
    with pq.ParquetFile(path) as file, replacing(path) as aside:
        schema = file.schema_arrow.insert(0, pa.field(name, pa.int64()))
        start = 0
        with pq.ParquetWriter(aside, schema) as writer:
            for group in range(file.num_row_groups):
                rows = file.read_row_group(group)
                numbers = pa.array(np.arange(start, start + len(rows)))
                writer.write_table(rows.add_column(0, schema.field(0), numbers))
                start += len(rows)


def _without_poor(guess: Guess, findings: Sequence[Finding]) -> Guess:
    """The guess without tasks that the split leaves nothing to score of: each would stop every search that has it."""
    poor = {
        place: finding.problem
        for finding in findings
        if finding.severity == "error" and (place := finding.place.removeprefix("tasks.")) in guess.tasks
    }
    reasons = {
        guess.tasks[name].column: f"as a task it has too few labels: {why.removesuffix('.')}"
        for name, why in poor.items()
    }
    return replace(
        guess,
        tasks={name: task for name, task in guess.tasks.items() if name not in poor},
        overlaps={pair: why for pair, why in guess.overlaps.items() if not poor.keys() & set(pair)},
        left_out={**guess.left_out, **reasons},
    )
