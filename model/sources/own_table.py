"""The cohort folder that is begun from a table of one's own."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from model.cohorts import folder as cohort_folder
from model.cohorts import leaks
from model.cohorts.column_names import timed
from model.cohorts.folder_reader import DESCRIPTION, Reader, load
from model.cohorts.folder_values import read_rules
from model.cohorts.folder_writer import check_free
from model.cohorts.values import Rule
from model.sources.own_table_columns import FILE as COLUMNS
from model.sources.own_table_columns import as_csv, read_edits, rows_of
from model.sources.own_table_guess import Guess, guess_columns
from model.sources.own_table_named import Named
from model.sources.own_table_text import describe
from model.sources.own_table_values import Ruled
from model.sources.tables import Columns, Source, check, convert
from tim_search.gates.files import move_durably, new_folder, replacing
from tim_search.types import BadInput, Finding, some


def init(
    source: Source,
    out: Path,
    *,
    edits: Path | Named | None = None,
    tell: Callable[[str], None] = lambda line: None,
    **options: Any,
) -> Guess:
    """Write a folder with the table as samples.parquet, a commented cohort.yaml and columns.csv.

    Args:
        source, options: of the table, as `model.sources.tables.convert` takes them.
        edits: an edited columns.csv that says what the columns are, or what is named of them; None: it is guessed.
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
        table = Columns(samples)
        if isinstance(edits, Path):
            guess = _guessed(table, edits)
        else:
            guess = guess_columns(table, None if edits is None else edits.edits(table))
        ids = list(dict.fromkeys(() if guess.numbered else (guess.sample_id, guess.patient_id)))
        without = _with_ids(samples, ids, guess.sample_id if guess.numbered else "")
        if without:
            rows = f"{len(without)} rows have" if len(without) > 1 else "1 row has"
            detail = f"{rows} no {' or '.join(ids)} and {'are' if len(without) > 1 else 'is'} left out: {some(without)}"
            reading = replace(reading, rows=reading.rows - len(without), details=(*reading.details, detail))
        guess = replace(guess, reading=reading)
        return described(folder, guess, reading.source.split(".")[0] or "cohort")


def described(folder: Path, guess: Guess, name: str) -> Guess:
    """Write cohort.yaml and columns.csv beside samples.parquet; returns the guess with what is in columns.csv.

    A task that the split leaves nothing to score of goes; what the check suspects of the inputs is in columns.csv.
    """
    table, description = Columns(folder / "samples.parquet"), folder / DESCRIPTION
    description.write_text(describe(table, guess, name), encoding="utf-8")
    cohort, findings = cohort_folder.read(folder)
    scored = _without_poor(guess, findings)
    if scored.tasks != guess.tasks:
        description.write_text(describe(table, scored, name), encoding="utf-8")
        cohort, _ = cohort_folder.read(folder)
    rows = rows_of(table, scored, {} if cohort is None else leaks.by_column(cohort, _lengths(table, scored)))
    (folder / COLUMNS).write_bytes(as_csv(rows))
    return replace(scored, rows=rows)


def _lengths(table: Columns, guess: Guess) -> dict[str, NDArray[np.float64]]:
    """Columns that are left out and tell how long a stay was, as float64 (n,)."""
    ruled = Ruled(table, guess.rules)
    series = {name: ruled[name] for name in guess.left_out if timed(name)}
    return {
        name: values.to_numpy(np.float64, na_value=np.nan)
        for name, values in series.items()
        if pd.api.types.is_numeric_dtype(values)
    }


def edit(columns: Path) -> tuple[Guess, list[Path]]:
    """Describe a folder anew, as its edited columns.csv says; the rules of values in its cohort.yaml stay.

    Returns:
        what the columns now are; and under what names the former cohort.yaml and the edited columns.csv are kept.

    Raises:
        BadInput: the file says what cannot be, or there is no table beside it.
    """
    home = columns.parent
    samples = home / "samples.parquet"
    if not samples.is_file():
        raise BadInput(
            f"{columns}: expected samples.parquet beside it, as `cohort init` writes it; there is none. Name the table "
            "too, and with --out a new folder."
        )
    table, (_, name) = Columns(samples), _rules_beside(columns)
    guess = _guessed(table, columns)
    with tempfile.TemporaryDirectory(dir=home, prefix=".described-") as scratch:
        folder = Path(scratch)
        (folder / "samples.parquet").symlink_to(samples.resolve())
        guess = described(folder, guess, name or home.name)
        former = [path for path in dict.fromkeys((home / DESCRIPTION, home / COLUMNS, columns)) if path.is_file()]
        spare = [_free(path) for path in former]
        for path, spare_name in zip(former, spare, strict=True):
            move_durably(path, spare_name)
        for name in (COLUMNS, DESCRIPTION):
            move_durably(folder / name, home / name)
    return guess, spare


def _guessed(table: Columns, columns: Path) -> Guess:
    """What the columns are by an edited columns.csv, read by the rules of values beside it."""
    rules, _ = _rules_beside(columns)
    return guess_columns(table, read_edits(columns, table, rules), rules)


def _rules_beside(columns: Path) -> tuple[dict[str, Rule] | None, str]:
    """The rules of values and the name in the cohort.yaml beside a columns.csv; None and "" where there is none."""
    reader = Reader(columns.parent)
    spec = load(reader)
    return (None, "") if spec is None else (read_rules(reader, spec), str(spec.get("name", "")))


def _free(path: Path) -> Path:
    """A free name beside a file: cohort-1.yaml for cohort.yaml."""
    names = (path.with_name(f"{path.stem}-{number}{path.suffix}") for number in range(1, 10**6))
    return next(name for name in names if not name.exists())


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
