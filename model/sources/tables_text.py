"""CSV and JSON of any size to Parquet: delimiter, quotes and encoding are found; a number is what every cell is."""

from __future__ import annotations

import csv
import itertools
import json
import re
import threading
from collections import Counter
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from model.sources.sql import identifier, literal
from model.sources.tables_bytes import encoding_of, recoded, unpacked
from model.sources.tables_pieces import (
    Reading,
    column_names,
    frame_piece,
    lines_above,
    rows_of_a_piece,
    write_pieces,
)
from tim_search.gates.texts import for_terminal
from tim_search.types import BadInput, duration, some

_UTF8 = ("utf-8", "utf-8-sig")
#: Delimiters that the sniffer does not try by itself.
_RARE = (":", "~", "^", "\x01", "§", " ")
#: Seconds between two words on a pass over the file.
_EVERY = 20.0
_NUMBER = re.compile(r"[-+]?[0-9]+([.,][0-9]*)?([eE][-+]?[0-9]+)?")
#: Bytes of JSON that is one value, which has to be held whole; JSON lines may have any size.
MOST_JSON = 512 * 2**20
_MEMORY = "1GB"

#: What a cell can be: a whole number, the same with ".0", another number, true or false, a text; bits of a column.
_INT, _POINT_ZERO, _FLOAT, _BOOL, _TEXT = 1, 2, 4, 8, 16
#: A whole number that floating point may not hold exactly.
_LONG = 32
_BITS = r"""bit_or(CASE WHEN {c} IS NULL OR trim({c}) = '' THEN 0
 WHEN TRY_CAST({c} AS BIGINT)::VARCHAR = trim({c}) THEN CASE WHEN length(trim({c})) > 15 THEN 33 ELSE 1 END
 WHEN regexp_full_match(trim({c}), '[-+]?(\.[0-9]+|(0|[1-9][0-9]*)(\.[0-9]*)?)([eE][-+]?[0-9]+)?') THEN CASE
  WHEN ends_with(trim({c}), '.0') AND length({c}) < 18 AND NOT starts_with(trim({c}), '+') THEN 2
  WHEN length({c}) > 15 AND NOT contains({c}, '.') AND NOT contains(lower({c}), 'e') THEN 16 ELSE 4 END
 WHEN lower(trim({c})) IN ('true', 'false') THEN 8 ELSE 16 END)"""


class _Dialect(NamedTuple):
    """How a CSV file is written."""

    delimiter: str
    quote: str
    escape: str
    skip: int
    columns: int


class Options(NamedTuple):
    """What is known of a text beforehand.

    Attributes:
        encoding, delimiter: "" has them found.
        texts: columns that stay texts.
        tell: is told of each pass over the file.
    """

    encoding: str
    delimiter: str
    texts: Container[str]
    tell: Callable[[str], None]


def csv_to_parquet(path: Path, target: Path, scratch: Path, options: Options) -> Reading:
    """Write a CSV file as Parquet; raises BadInput where it is no table, or its encoding has to be named."""
    shown = for_terminal(path)
    plain = unpacked(path, scratch)
    encoding = options.encoding or encoding_of(plain, shown)
    if encoding not in _UTF8:
        plain = recoded(plain, encoding, scratch, shown)
    with small_engine(plain, target, scratch) as (engine, link), refusals_told(shown):
        dialect = _sniffed(engine, link, shown, options.delimiter)
        skipped = _above(link, dialect, shown)
        marks = {"delim": dialect.delimiter, "quote": dialect.quote, "escape": dialect.escape, "skip": dialect.skip}
        cells = [f"c{place}" for place in range(dialect.columns)]
        shape = ", ".join(f"'{cell}': 'VARCHAR'" for cell in cells)
        given = ", ".join(f"{name} = {literal(value)}" for name, value in marks.items())
        source = (
            f"read_csv({literal(link)}, auto_detect = false, comment = '', columns = {{{shape}}}, {given}, header = "
        )
        header = engine.execute(f"SELECT * FROM {source} false) LIMIT 1").fetchone() or ()
        names = column_names(header, shown)
        _check_capitals(names, shown)
        if len(names) > 1 and all(map(_NUMBER.fullmatch, names)) and not all(name.isdigit() for name in names):
            raise BadInput(f"{shown}: expected the names of the columns in its first line, got numbers. Add them.")
        rows = _typed(engine, f"{source} true)", dict(zip(cells, names, strict=True)), target, options)
    details = [f"delimiter {_named(dialect.delimiter)}", f"encoding {encoding}"]
    details += [lines_above(skipped)] if skipped else []
    return Reading(path.name, "CSV", rows, len(names), tuple(details))


def json_to_parquet(path: Path, target: Path, scratch: Path, options: Options) -> Reading:
    """Write JSON as Parquet: JSON lines and lists of records of any size, what pandas writes by columns of some.

    Raises:
        BadInput: it is neither.
    """
    shown = for_terminal(path)
    plain = unpacked(path, scratch)
    with open(plain, "rb") as file:
        first = file.read(1 << 16).lstrip(b"\xef\xbb\xbf \t\r\n")
        file.seek(max(0, plain.stat().st_size - 4096))
        last = file.read().rstrip()[-1:]
    advice = "Write JSON lines: one object a line, a line a row (pandas: orient='records', lines=True)."
    lines = first[:1] == b"{" and _is_json(first.partition(b"\n")[0]) and first.count(b"\n") > 0
    if first[:1] == b"[" and last != b"]":
        raise BadInput(f"{shown}: expected a table, got a list without its end. Write it again.")
    if lines or first[:1] == b"[":
        form = "newline_delimited" if lines else "array"
        with small_engine(plain, target, scratch) as (engine, link), refusals_told(shown, advice):
            given = f"({literal(link)}, format = '{form}'"
            names = column_names(_keys(engine, f"read_json_objects{given})"), shown)
            _check_capitals(names, shown)
            shape = ", ".join(f"{literal(name)}: 'VARCHAR'" for name in names)
            columns = {identifier(name): name for name in names}
            rows = _typed(engine, f"read_json{given}, columns = {{{shape}}})", columns, target, options)
        return Reading(path.name, "JSON lines" if lines else "JSON", rows, len(names))
    if plain.stat().st_size > MOST_JSON:
        raise BadInput(f"{shown}: expected JSON lines, got one value of more than {MOST_JSON >> 20} MB. {advice}")
    frame = _by_columns(plain, shown, advice)
    rows = write_pieces([frame_piece(frame)], target, scratch)
    return Reading(path.name, "JSON", rows, len(frame.columns), ("written by columns",))


def _keys(engine: Any, records: str) -> list[str]:
    """The keys of all records as they are written, in their order; DuckDB's own take capitals for small letters."""
    parts = "unnest(json_keys(json)) AS key, generate_subscripts(json_keys(json), 1) AS n, row_number() OVER () AS row"
    order = "GROUP BY key ORDER BY min(row * 1000000 + n)"
    return [row[0] for row in engine.execute(f"SELECT key FROM (SELECT {parts} FROM {records}) {order}").fetchall()]


def _check_capitals(names: Sequence[str], shown: str) -> None:
    """Raise BadInput where names differ in capitals alone: DuckDB takes them for one."""
    count = Counter(name.lower() for name in names)
    if alike := sorted(name for name in names if count[name.lower()] > 1):
        raise BadInput(f"{shown}: the columns {for_terminal(some(alike))} differ in capitals alone. Rename them.")


def _is_json(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def _by_columns(path: Path, shown: str, advice: str) -> pd.DataFrame:
    """The frame of one JSON object: columns of values, as pandas writes them, or its form "split"."""
    try:
        value = json.loads(path.open("rb").read())
        if isinstance(value, dict) and {"columns", "data"} <= set(value):
            return pd.DataFrame(value["data"], columns=column_names(value["columns"], shown), dtype=object)
        if not isinstance(value, dict) or not all(isinstance(column, dict | list) for column in value.values()):
            raise ValueError("expected an object of columns")
        columns = {
            name: pd.Series(column, dtype=object) if column else pd.Series(dtype=object)
            for name, column in value.items()
        }
        return pd.DataFrame(columns)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{shown}: expected a table, got other JSON ({str(error)[:100]}). {advice}") from error


# -------------------------------------------------------------------- DuckDB


@contextmanager
def small_engine(source: Path, target: Path, scratch: Path) -> Iterator[tuple[Any, Path]]:
    """A DuckDB that keeps to little memory, and a link to the source: it opens these two files and its own, no other.

    The link has a name without signs that DuckDB takes for a pattern or an address.
    """
    import duckdb

    settings: dict[str, Any] = {
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
        "memory_limit": _MEMORY,
        "temp_directory": str(scratch / "spill"),
        "preserve_insertion_order": True,
        "threads": 4,
    }
    resolved, link = source.resolve(), scratch / "source"
    link.symlink_to(resolved)
    engine = duckdb.connect(config=settings)
    try:
        engine.execute("SET enable_progress_bar = false")  # it would be written among the answers
        allowed = ", ".join(literal(path) for path in (link, resolved, target))
        engine.execute(f"SET allowed_paths = [{allowed}]")
        engine.execute("SET enable_external_access = false")
        engine.execute("SET lock_configuration = true")
        yield engine, link
    finally:
        engine.close()


@contextmanager
def refusals_told(shown: str, advice: str = "Write it again.") -> Iterator[None]:
    """Within it, what DuckDB refuses becomes BadInput, with the line and the reason and no cell of the table."""
    import duckdb

    try:
        yield
    except duckdb.Error as error:
        message = str(error)
        line = re.search(r"on Line: (\d+)", message)
        where = f" in line {int(line[1]):,}" if line else ""
        if counts := re.search(r"Expected Number of Columns: (\d+) Found: (\d+)", message):
            problem, advice = f"expected {counts[1]} fields, got {counts[2]}", "Quote texts that hold the delimiter."
        elif "unterminated quote" in message:
            problem, advice = "got a quoted text without an end", "End it, or double the quotes within it."
        elif "Maximum line size" in message:
            problem = "expected at most 2 MB in a line, got more"
        else:
            problem = f"expected a table: {message.splitlines()[0].partition(':')[2].strip()[:120]}"
            problem = problem if line is None else "expected a row of a table"
        raise BadInput(f"{shown}: {problem}{where}. {advice}") from error


def _sniffed(engine: Any, link: Path, shown: str, delimiter: str) -> _Dialect:
    """The dialect of a CSV file; raises BadInput where it is one column, or no table."""

    def sniff(mark: str, skip: int = 0) -> _Dialect:
        given = (f", delim = {literal(mark)}" if mark else "") + (f", skip = {skip}" if skip else "")
        answer = engine.execute(
            "SELECT Delimiter, Quote, Escape, SkipRows, len(Columns) FROM "
            f"sniff_csv({literal(link)}, all_varchar = true, header = true, comment = ''{given})"
        ).fetchone()
        quote = '"' if answer[1] == "(empty)" else answer[1]
        return _Dialect(answer[0], quote, quote if answer[2] == "(empty)" else answer[2], answer[3], answer[4])

    with open(link, "rb") as file:
        start = file.read(1 << 16)
    if not start.strip():
        raise BadInput(f"{shown}: expected a table, got an empty file. Name another file.")
    named = re.match(rb"(?:\xef\xbb\xbf)?sep=(.)\r?\n", start)  # how Excel is told of the delimiter
    if named and not delimiter:
        return sniff(named[1].decode(), 1)
    dialect = sniff(delimiter)
    if dialect.columns == 1 and not delimiter:
        first = [line.decode("utf-8", "replace") for line in start.splitlines()[:20] if line.strip()]
        for mark in _RARE:
            counts = {line.count(mark) for line in first[: max(2, len(first) - 1)]}
            if len(first) > 1 and len(counts) == 1 and counts != {0}:
                return sniff(mark)
        mark = max(",;\t|", key=first[0].count)
        fields = [len(row) for row in csv.reader(first, delimiter=mark)]
        odd = next((place for place, count in enumerate(fields) if count != fields[0]), None)
        if odd is not None and fields[0] > 1:
            raise BadInput(
                f"{shown}: expected {fields[0]} fields in each line, as in its first one, got {fields[odd]} in line "
                f"{odd + 1}. Mend that line, or take out what is no row of the table."
            )
    return dialect


def _above(link: Path, dialect: _Dialect, shown: str) -> list[str]:
    """The lines above the header, which are no part of the table; raises BadInput where they look like rows of it."""
    with open(link, encoding="utf-8-sig", errors="replace", newline="") as file:
        lines = [line.strip() for line in itertools.islice(file, dialect.skip)]
    for number, line in enumerate(lines, 1):
        count = line.count(dialect.delimiter) + 1
        if count > max(1, dialect.columns // 2) and not line.lower().startswith("sep="):
            raise BadInput(
                f"{shown}: expected rows of one length, got {count} fields in line {number} and {dialect.columns} in "
                f"line {dialect.skip + 1}. Mend the lines; quote texts and decimals that hold the delimiter."
            )
    return [line for line in lines if line and not line.lower().startswith("sep=")]


def _typed(engine: Any, source: str, names: dict[str, str], target: Path, options: Options) -> int:
    """Write the columns (expression -> name) of a source of texts, each of the type that all its cells have."""
    masks = ", ".join(_BITS.format(c=cell) for cell in names)
    with _told_on("Looking at every cell", options.tell):
        rows, *bits = engine.execute(f"SELECT count(*), {masks} FROM {source}").fetchone()
    kinds = [_TEXT if names[cell] in options.texts else mask or 0 for cell, mask in zip(names, bits, strict=True)]
    casts = [f"{_cast(cell, kind)} AS {identifier(names[cell])}" for cell, kind in zip(names, kinds, strict=True)]
    group = max(2048, min(122_880, rows_of_a_piece(len(names))))
    with _told_on(f"Writing {rows:,} rows", options.tell):
        engine.execute(
            f"COPY (SELECT {', '.join(casts)} FROM {source}) TO {literal(target)} "
            f"(FORMAT parquet, USE_TMP_FILE false, ROW_GROUP_SIZE {group})"
        )
    return int(rows)


@contextmanager
def _told_on(what: str, tell: Callable[[str], None]) -> Iterator[None]:
    """Within it, `tell` hears what is being done, at the beginning and then every `_EVERY` seconds."""
    tell(what)
    done = threading.Event()

    def go_on() -> None:
        rounds = 0
        while not done.wait(_EVERY):
            rounds += 1
            tell(f"{what}: not finished after {duration(rounds * _EVERY)}")

    teller = threading.Thread(target=go_on, daemon=True)
    teller.start()
    try:
        yield
    finally:
        done.set()
        teller.join()


def _cast(cell: str, mask: int) -> str:
    """The expression of a column whose cells are of these kinds."""
    is_long, mask = bool(mask & _LONG), mask & ~_LONG
    if mask == 0:
        return f"CAST(NULLIF(trim({cell}), '') AS DOUBLE)"
    if mask == _INT:
        return f"CAST(NULLIF(trim({cell}), '') AS BIGINT)"
    if mask | _INT | _POINT_ZERO == _INT | _POINT_ZERO:
        return rf"CAST(regexp_replace(NULLIF(trim({cell}), ''), '\.0$', '') AS BIGINT)"
    if not is_long and mask | _INT | _POINT_ZERO | _FLOAT == _INT | _POINT_ZERO | _FLOAT:
        return f"CAST(NULLIF(trim({cell}), '') AS DOUBLE)"
    if mask == _BOOL:
        return f"CAST(NULLIF(lower(trim({cell})), '') AS BOOLEAN)"
    return f"CASE WHEN trim({cell}) = '' THEN NULL ELSE {cell} END"


def _named(delimiter: str) -> str:
    return {"\t": "tab", " ": "blank"}.get(delimiter, f"'{delimiter}'")
