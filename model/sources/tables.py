"""Tables as people have them, made one Parquet file: whatever the format, values as they were written.

A column is numbers only where every cell is one; a text stays a text, an id keeps its zeros and its last digit. Any
size goes through in bounded memory. How a table is written is found by well-kept libraries and told: see `Reading`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Container, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from model.sources import tables_other, tables_text
from model.sources.tables_other import SAS, SPSS, STATA, Query
from model.sources.tables_pieces import UNREADABLE, Reading
from tim_search.gates.files import checked_path, open_regular
from tim_search.gates.texts import for_terminal
from tim_search.types import BadInput

#: Formats that are not read, by the ends of their names, and what to do.
REFUSED = {
    (".xls", ".xlsb", ".ods", ".numbers"): "Save it as .xlsx, or its sheet as CSV.",
    (".rds", ".rdata", ".rda"): "Write it from R as Parquet (arrow::write_parquet) or CSV.",
    (".mat", ".h5", ".hdf5", ".pkl", ".pickle", ".mdb", ".accdb", ".db", ".sqlite", ".pdf", ".docx", ".tar", ".tgz"): (
        "Write the table as CSV or Parquet."
    ),
}
_KNOWN = "CSV, Excel (.xlsx), Parquet, Feather, Stata, SAS, SPSS or JSON lines"

Source = Path | pd.DataFrame | Query


#: Texts that have more bytes than this on average are cut to so many characters: notes, which are no levels.
_NOTES, _CUT = 1000, 200


class Columns:
    """A table in a Parquet file, one column of which is in memory at a time; like a frame: columns, len, [name].

    Of a column of notes only the beginnings are: they may fill the disk, and tell enough of what they are.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with pq.ParquetFile(path) as file:
            self.columns: list[str] = list(file.schema_arrow.names)
            self._rows: int = file.metadata.num_rows

    def __len__(self) -> int:
        return self._rows

    def __iter__(self) -> Iterator[str]:
        return iter(self.columns)

    def __contains__(self, name: object) -> bool:
        return name in self.columns

    def __getitem__(self, name: str) -> pd.Series[Any]:
        """A column; whole numbers with gaps stay whole (Int64)."""
        with pq.ParquetFile(self.path) as file:
            if self._notes(file, name):
                parts = file.iter_batches(batch_size=1 << 14, columns=[name])
                beginnings = [pc.utf8_slice_codeunits(part.column(0), 0, _CUT) for part in parts]
                array = pa.chunked_array(beginnings)
            else:
                array = file.read([name]).column(0)
        values = _series(array)
        values.name = name
        return values

    def _notes(self, file: pq.ParquetFile, name: str) -> bool:
        """Whether a column holds long texts, many of them different: equal ones are written once."""
        kind = file.schema_arrow.field(name).type
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
            return False
        place = self.columns.index(name)
        groups = (file.metadata.row_group(number).column(place) for number in range(file.metadata.num_row_groups))
        return sum(group.total_uncompressed_size for group in groups) > _NOTES * self._rows


def convert(
    source: Source,
    target: Path,
    *,
    sheet: str = "",
    encoding: str = "",
    delimiter: str = "",
    texts: Container[str] = (),
    any_shape: bool = False,
    tell: Callable[[str], None] = lambda line: None,
) -> Reading:
    """Write a table as one Parquet file, and say what it turned out to be.

    Args:
        source: a file, a folder of Parquet files, a frame, or a query of a database.
        target: the file to write, in a folder with room for about twice the table.
        sheet: of a workbook, by default the first with a table.
        encoding, delimiter: of a text, by default what is found.
        texts: columns of a text file that stay texts, also where all their cells are numbers.
        any_shape: allows a table without rows, or of one column.
        tell: is told what is being done.

    Raises:
        BadInput: it is no such table, or has no rows or a single column.
    """
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".table-") as folder:
        scratch = Path(folder)
        if isinstance(source, pd.DataFrame):
            reading = tables_other.write_frame(source, "frame", "a frame", target, scratch)
        elif isinstance(source, Query):
            reading = tables_other.write_answer(source, target, scratch)
        else:
            try:
                reading = _file(source, target, scratch, sheet, tables_text.Options(encoding, delimiter, texts, tell))
            except UNREADABLE as error:
                first = for_terminal((str(error) or type(error).__name__).splitlines()[0])
                raise BadInput(
                    f"{for_terminal(source)}: expected a table ({_KNOWN}): {first}. Write it again."
                ) from error
    if not any_shape and (not reading.rows or reading.columns < 2):
        shape = f"{reading.rows} rows and {reading.columns} columns"
        shown = for_terminal(reading.source)
        raise BadInput(f"{shown}: expected rows of patients with columns, got {shape}. Name another table.")
    return reading


def read(source: Source, **options: Any) -> tuple[pd.DataFrame, Reading]:
    """The whole table in memory, and what it turned out to be; see `convert` for the options and errors."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "table.parquet"
        reading = convert(source, target, **options)
        table = pq.read_table(target)
        return pd.DataFrame({name: _series(table.column(name)) for name in table.schema.names}), reading


def _series(array: pa.ChunkedArray) -> pd.Series[Any]:
    if pa.types.is_integer(array.type) and array.null_count:
        return pd.Series(array.to_pandas(types_mapper={array.type: pd.Int64Dtype()}.get))
    return pd.Series(array.to_pandas())


def check(path: Path) -> None:
    """Raise BadInput where there is nothing, a folder without Parquet files, or a format that is not read."""
    shown, ending = for_terminal(path), path.suffix.lower()
    if not checked_path(path).exists():
        raise BadInput(f"{shown}: expected a table ({_KNOWN}), there is none. Name the file of your table.")
    if path.is_dir():
        tables_other.shards_of(path)
        return
    with open_regular(path) as file:
        old_office = file.read(4) == b"\xd0\xcf\x11\xe0"
    for endings, advice in REFUSED.items():
        if ending in endings or old_office:
            raise BadInput(f"{shown}: expected a table ({_KNOWN}), got {ending or 'another format'}. {advice}")


def _file(path: Path, target: Path, scratch: Path, sheet: str, options: tables_text.Options) -> Reading:
    """A file or folder by what its first bytes or its name say; raises BadInput and `UNREADABLE`."""
    ending = path.suffix.lower()
    check(path)
    if path.is_dir():
        return tables_other.write_arrow(path, target, scratch)
    with open_regular(path) as file:
        start = file.read(8)
    if start.startswith((b"PAR1", b"ARROW1")) or ending in (".parquet", ".pq", ".feather", ".arrow"):
        return tables_other.write_arrow(path, target, scratch)
    if ending in (*STATA, *SAS, *SPSS):
        return tables_other.write_statistics(path, target, scratch)
    if ending in (".xlsx", ".xlsm"):
        return tables_other.write_excel(path, target, scratch, sheet)
    inner = path.with_suffix("").suffix.lower() if ending in (".gz", ".bz2", ".xz", ".zip") else ending
    if inner in (".json", ".jsonl", ".ndjson"):
        return tables_text.json_to_parquet(path, target, scratch, options)
    return tables_text.csv_to_parquet(path, target, scratch, options)
