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
from model.sources.tables import Columns, Source, check, convert
from tim_search.gates.files import new_folder, replacing
from tim_search.types import Finding, some


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
    if isinstance(source, Path):
        check(source)
    check_free(out)
    with new_folder(out) as folder:
        samples = folder / "samples.parquet"
        reading = convert(source, samples, tell=tell, **options)
        guess = guess_columns(Columns(samples))
        ids = list(dict.fromkeys(() if guess.numbered else (guess.sample_id, guess.patient_id)))
        without = _with_ids(samples, ids, guess.sample_id if guess.numbered else "")
        if without:
            rows = f"{len(without)} rows have" if len(without) > 1 else "1 row has"
            detail = f"{rows} no {' or '.join(ids)} and {'are' if len(without) > 1 else 'is'} left out: {some(without)}"
            reading = replace(reading, rows=reading.rows - len(without), details=(*reading.details, detail))
        guess = replace(guess, reading=reading)
        name = reading.source.split(".")[0] or "cohort"
        description = folder / DESCRIPTION
        description.write_text(describe(Columns(samples), guess, name), encoding="utf-8")
        guess = _without_poor(guess, cohort_folder.read(folder)[1])
        description.write_text(describe(Columns(samples), guess, name), encoding="utf-8")
    return guess


def _with_ids(path: Path, ids: Sequence[str], number: str) -> list[str]:
    """Take the rows without an id out of a Parquet file and put a column of row numbers in front, if it has a name.

    Returns:
        the rows that went, as `row 8`, counted from 1 below the header.
    """
    gone: list[str] = []
    with pq.ParquetFile(path) as file:
        full = not any(file.read([name]).column(0).null_count for name in ids)
        if full and not number:
            return gone
        schema = file.schema_arrow.insert(0, pa.field(number, pa.int64())) if number else file.schema_arrow
        start = 0
        with replacing(path) as aside, pq.ParquetWriter(aside, schema) as writer:
            for group in range(file.num_row_groups):
                rows = file.read_row_group(group)
                there = np.ones(len(rows), bool)
                for name in ids:
                    there &= rows.column(name).is_valid().to_numpy()
                gone += [f"row {start + row + 1}" for row in np.flatnonzero(~there).tolist()]
                if number:
                    rows = rows.add_column(0, schema.field(0), pa.array(np.arange(start, start + len(rows))))
                start += len(rows)
                writer.write_table(rows.filter(pa.array(there)))
    return gone


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
