"""Tables as people have them: every format is read as it is written, or refused with what to do."""

from __future__ import annotations

import bz2
import datetime
import gzip
import lzma
import os
import shutil
import sqlite3
import subprocess
import sys
import time
import zipfile
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest

from model.sources import tables, tables_text
from model.sources.tables import Columns, convert, read
from model.sources.tables_other import DATABASE, Query
from model.sources.tables_pieces import column_names, write_pieces
from tests.support import ROOT
from tim_search.types import BadInput

#: One stay a row, as a ward's system writes it: ids with zeros, gaps, notes with every mark, numbers of every kind.
ROWS = [
    ["0007", "9007199254740993001", "72,5", "36.6", "3", "Müller; \"der Ältere\", Zi. 4", "true", ""],
    ["7", "9007199254740993002", "80", "37", "", "keine\nBesonderheit", "False", ""],
    ["0012", "", "n.b.", "36.90", "11", "it's 5\" long | tab\there", "true", ""],
    ["12", "9007199254740993004", "91,25", "-1", "2", "", "true", " "],
]  # fmt: skip
NAMES = ["id", "case no", "weight", "temp °C", "count", "note", "ventilated", "empty"]


def written(path: Path, delimiter: str, *, encoding: str = "utf-8", quote: str = '"', end: str = "\n") -> Path:
    """The rows as CSV, quoted where that is needed."""

    def cell(value: str) -> str:
        return f"{quote}{value.replace(quote, 2 * quote)}{quote}" if set(value) & {delimiter, quote, "\n"} else value

    lines = [delimiter.join(map(cell, row)) for row in [NAMES, *ROWS]]
    path.write_bytes((end.join(lines) + end).encode(encoding))
    return path


@pytest.mark.parametrize(
    ("delimiter", "encoding", "end"),
    [
        (",", "utf-8", "\n"),
        (";", "cp1252", "\r\n"),
        ("\t", "utf-16", "\n"),
        ("|", "utf-8-sig", "\r\n"),
        (";", "latin-1", "\n"),
        (",", "utf-16-le", "\n"),
    ],
)
def test_csv_however_it_is_written(tmp_path: Path, delimiter: str, encoding: str, end: str) -> None:
    table, reading = read(written(tmp_path / "ward [1]*.txt", delimiter, encoding=encoding, end=end))
    assert (reading.form, reading.rows, reading.columns) == ("CSV", 4, 8)
    mark = "tab" if delimiter == "\t" else f"'{delimiter}'"
    spelled = {"latin-1": "cp1252"}.get(encoding, encoding)
    assert reading.line == f"ward [1]*.txt: CSV, 4 rows, 8 columns; delimiter {mark}; encoding {spelled}"
    assert list(table) == NAMES
    assert table["id"].tolist() == ["0007", "7", "0012", "12"]
    assert table["case no"].astype(object).where(table["case no"].notna(), None).tolist() == [
        9007199254740993001, 9007199254740993002, None, 9007199254740993004
    ]  # fmt: skip
    assert table["weight"].tolist() == ["72,5", "80", "n.b.", "91,25"]
    assert table["temp °C"].tolist() == [36.6, 37.0, 36.9, -1.0]
    assert table["count"].dtype == "Int64"
    assert [value.replace("\r", "") for value in table["note"][:3]] == [row[5] for row in ROWS[:3]]
    assert table["ventilated"].tolist() == [True, False, True, True]
    assert table["empty"].isna().all()
    assert table["note"].isna().tolist() == [False, False, False, True]


@pytest.mark.parametrize("packing", ["gz", "bz2", "xz", "zip"])
def test_packed_csv(tmp_path: Path, packing: str) -> None:
    content = written(tmp_path / "a.csv", ";").read_bytes()
    packed = tmp_path / f"a.csv.{packing}"
    if packing == "zip":
        with zipfile.ZipFile(packed, "w") as archive:
            archive.writestr("a.csv", content)
    else:
        packed.write_bytes({"gz": gzip, "bz2": bz2, "xz": lzma}[packing].compress(content))  # type: ignore[attr-defined]
    pd.testing.assert_frame_equal(read(packed)[0], read(tmp_path / "a.csv")[0])


NUMBERS = {
    "1 -2 300": [1, -2, 300],
    "1.0 2.0 17.0": [1, 2, 17],
    "1.5 2 1e3 .5": [1.5, 2.0, 1000.0, 0.5],
    "1.015 0.1 1e-7": [1.015, 0.1, 1e-7],
    "9223372036854775807 1": [2**63 - 1, 1],
    "9223372036854775808 1": ["9223372036854775808", "1"],
    "12345678901234567890 1.5": ["12345678901234567890", "1.5"],
    "007 8": ["007", "8"],
    "1 nan": ["1", "nan"],
    "1_000 2": ["1_000", "2"],
    "0x1F 2": ["0x1F", "2"],
    "NA 2": ["NA", "2"],
    "True false": [True, False],
    "t f": ["t", "f"],
}


@pytest.mark.parametrize("cells", NUMBERS)
def test_a_column_is_numbers_where_every_cell_is_one(tmp_path: Path, cells: str) -> None:
    (tmp_path / "a.csv").write_text("k,v\n" + "".join(f"{k},{cell}\n" for k, cell in enumerate(cells.split())))
    assert read(tmp_path / "a.csv")[0]["v"].tolist() == NUMBERS[cells]


def test_lines_above_the_header_and_rare_delimiters(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("sep=;\nid;a\n1;x\n2;y\n")
    assert list(read(path)[0]) == ["id", "a"]
    path.write_text("Export of ward 3\nmade 2024-01-01\n\nid,a,b\n1,2,x\n2,3,y\n")
    table, reading = read(path)
    assert list(table) == ["id", "a", "b"]
    assert "lines above the header, left out: 'Export of ward 3', 'made 2024-01-01'" in reading.line
    path.write_text("id^a\n1^x\n2^y\n")
    assert read(path)[0]["a"].tolist() == ["x", "y"]
    path.write_text("id,a\n1,x\n2,y\n")
    assert read(path, delimiter=";", any_shape=True)[0].columns.tolist() == ["id,a"]
    path.write_text(",0,1\n5,2,3\n")
    assert list(read(path)[0]) == ["Unnamed: 0", "0", "1"]


def test_long_passes_are_told_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open(tmp_path / "a.csv", "w") as file:
        file.write("id,a,b\n" + "".join(f"{k},{k % 7}.5,text {k}\n" for k in range(300_000)))
    monkeypatch.setattr(tables_text, "_EVERY", 0.02)
    lines: list[str] = []
    convert(tmp_path / "a.csv", tmp_path / "a.parquet", tell=lines.append)
    assert lines[0] == "Looking at every cell"
    assert "Writing 300,000 rows" in lines
    assert any(line.startswith("Looking at every cell: ") for line in lines)


JAPANESE = "id,性別\n1,男性\n2,女性\n"
BAD = {
    "empty.csv": (b" \n\n", "an empty file"),
    "rows.csv": (b"a,b\n" + b"1,2\n" * 30_000 + b"1,2,3\n", "expected 2 fields, got 3 in line 30,002. Quote texts"),
    "quote.csv": (b"a,b\n" + b"1,2\n" * 30_000 + b'1,"2\n', "a quoted text without an end in line 30,002"),
    "long.csv": (b"a,b\n1," + b"x" * 3_000_000 + b"\n", "at most 2 MB in a line"),
    "footer.csv": (b"a,b,c\n1,2,3\n4,5,6\n(2 rows)\n", "expected 3 fields in each line, .* got 1 in line 4"),
    "numbers.csv": (b"1.5,2\n2.5,3\n3.5,4\n", "the names of the columns in its first line, got numbers"),
    "twice.csv": (b"a,b,a\n1,2,3\n", "the columns a stand twice"),
    "binary.csv": (bytes(range(256)) * 20, "got binary data"),
    "japanese.csv": (JAPANESE.encode("cp932"), "Name its encoding, e.g. --encoding cp932"),
    "russian.csv": ("id,пол\n1,мужской\n".encode("cp1251"), "neither UTF-8 nor of Western Europe"),
    "zstd.csv.zst": (b"\x28\xb5\x2f\xfd" + bytes(20), "Unpack it first"),
    "old.xls": (b"\xd0\xcf\x11\xe0" + bytes(20), "Save it as .xlsx"),
    "frame.rds": (b"RDX3", "arrow::write_parquet"),
    "torn.parquet": (b"PAR1" + bytes(20), "expected a table"),
    "torn.dta": (b"<stata_dta>" + bytes(90), "expected a table"),
    "torn.sav": (b"$FL2" + bytes(900), "expected a table"),
    "torn.sas7bdat": (bytes(900), "expected a table"),
    "other.json": (b'{"a": 1}', "got other JSON .* Write JSON lines"),
    "half.json": (b'[{"a": 1, "b": 2},', "expected a table"),
    "records.jsonl": (b'{"a": 1, "b": 2}\n{"a": 1,\n', "expected a table|got other JSON"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_read_is_refused_at_once(tmp_path: Path, name: str) -> None:
    content, words = BAD[name]
    (tmp_path / name).write_bytes(content)
    start = time.monotonic()
    with pytest.raises(BadInput, match=words) as told:
        read(tmp_path / name)
    assert time.monotonic() - start < 10
    assert "Original Line" not in str(told.value)


def test_an_encoding_can_be_named(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(JAPANESE.encode("cp932"))
    table, reading = read(tmp_path / "a.csv", encoding="cp932")
    assert table["性別"].tolist() == ["男性", "女性"]
    assert "encoding cp932" in reading.line
    with pytest.raises(BadInput, match="--encoding: expected an encoding such as cp1252, got klingon"):
        read(tmp_path / "a.csv", encoding="klingon")
    with pytest.raises(BadInput, match="is no text of the encoding ascii"):
        read(tmp_path / "a.csv", encoding="ascii")


@pytest.mark.parametrize("through_a_link", [True, False])
def test_the_engine_opens_the_received_file_and_no_other(tmp_path: Path, through_a_link: bool) -> None:
    """Whatever a table could make it run: no file beside it, none elsewhere, and no setting can be taken back."""
    table, other = (written(tmp_path / f"{name}.csv", ",") for name in ("table", "other"))
    received = tmp_path / "link.csv" if through_a_link else table
    if through_a_link:
        received.symlink_to(table)
    (tmp_path / "scratch").mkdir()
    target = tmp_path / "target.parquet"
    with tables_text.small_engine(received, target, tmp_path / "scratch") as (engine, link):
        assert engine.execute(f"SELECT count(*) FROM read_csv('{link}')").fetchone() == (4,)
        engine.execute(f"COPY (SELECT 1) TO '{target}' (FORMAT parquet)")
        for statement in (
            f"SELECT * FROM read_text('{other}')",
            f"SELECT * FROM glob('{tmp_path}/*')",
            f"COPY (SELECT 1) TO '{other}'",
            f"ATTACH '{tmp_path}/new.db'",
            "INSTALL httpfs",
            "SET enable_external_access = true",
            f"SET allowed_paths = ['{other}']",
        ):
            with pytest.raises(duckdb.Error, match=r"disabled|locked|Cannot"):
                engine.execute(statement)
    assert convert(received, target).rows == 4, "over the file that is there"


def test_archives_of_several_files_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.csv", "a,b\n1,2\n")
        archive.writestr("b.csv", "a,b\n1,2\n")
    with pytest.raises(BadInput, match="expected one file in it, got 2"):
        read(tmp_path / "a.zip")


def frame() -> pd.DataFrame:
    """Values of every kind that databases and statistics programs have."""
    return pd.DataFrame({
        "stay_id": pd.array([2**60 + 1, None, 2**60 + 3], "Int64"),
        "code": ["007", "7", None],
        "creatinine": [Decimal("1.015"), None, Decimal("2.50")],
        "patient_id": [Decimal(10**18 + 1), Decimal(10**18 + 2), None],
        "stay": pd.to_timedelta(["36h", None, "90min"]),
        "admitted": pd.to_datetime(["2024-01-01 08:00", None, "2024-02-01 09:30"]),
        "born": [datetime.date(1950, 1, 2), None, datetime.date(1960, 3, 4)],
        "sex": pd.Categorical(["f", None, "m"]),
        "mixed": ["1", 2, None],
        "blank": ["  ", "x", ""],
    })  # fmt: skip


def assert_as_the_frame(table: pd.DataFrame) -> None:
    assert table["stay_id"].dropna().tolist() == [2**60 + 1, 2**60 + 3]
    assert table["code"].dropna().tolist() == ["007", "7"]
    assert table["creatinine"].dropna().tolist() == [1.015, 2.5]
    assert table["patient_id"].dropna().tolist() == [10**18 + 1, 10**18 + 2]
    assert table["mixed"].dropna().tolist() == ["1", "2"]
    assert table["blank"].isna().tolist() == [True, False, True]


def test_frames_feather_and_parquet_keep_every_digit(tmp_path: Path) -> None:
    whole = frame()
    table, reading = read(whole)
    assert_as_the_frame(table)
    assert (table["stay"].dropna() == whole["stay"].dropna()).all()
    assert reading.form == "a frame"
    plain = whole.drop(columns="mixed")
    plain.to_parquet(tmp_path / "a.parquet")
    feather.write_feather(pa.Table.from_pandas(plain), str(tmp_path / "a.feather"))
    for name in ("a.parquet", "a.feather"):
        again, reading = read(tmp_path / name)
        pd.testing.assert_frame_equal(again, table[plain.columns])
    assert reading.form == "Feather"
    convert(tmp_path / "a.parquet", tmp_path / "b.parquet")
    columns = Columns(tmp_path / "b.parquet")
    assert (len(columns), list(columns), "sex" in columns) == (3, list(plain), True)
    assert columns["stay_id"].dropna().tolist() == [2**60 + 1, 2**60 + 3]


def test_a_folder_of_shards_is_one_table(tmp_path: Path) -> None:
    folder = tmp_path / "stays"
    (folder / "2024").mkdir(parents=True)
    pq.write_table(pa.table({"id": [1, 2], "a": pa.nulls(2), "b": [1, 2]}), folder / "0.parquet")
    pq.write_table(pa.table({"a": ["x"], "b": [0.5], "id": [3]}), folder / "2024" / "1.parquet")
    table, reading = read(folder)
    assert (table["id"].tolist(), table["b"].tolist()) == ([1, 2, 3], [1, 2, 0.5])
    assert table["a"].isna().tolist() == [True, True, False]
    assert "2 files" in reading.line
    pq.write_table(pa.table({"id": [1], "c": [1]}), folder / "2.parquet")
    with pytest.raises(BadInput, match=r"2.parquet: expected the columns of 0.parquet, differing in a, b, c"):
        read(folder)
    with pytest.raises(BadInput, match="a folder without Parquet files"):
        tables.check(ROOT / "docs")


def test_json_lines_and_what_pandas_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = pd.DataFrame({"id": ["007", "7"], "a": [1.5, None], "odd {name}": [1, 2]})
    forms: dict[str, dict[str, Any]] = {
        "a.jsonl": {"orient": "records", "lines": True}, "a.json": {"orient": "records"},
        "b.json": {"orient": "columns"}, "c.json": {"orient": "split"},
    }  # fmt: skip
    for name, options in forms.items():
        plain.to_json(tmp_path / name, **options)
        table, _ = read(tmp_path / name)
        assert table["id"].tolist() == ["007", "7"], name
        assert table["odd {name}"].tolist() == [1, 2], name
        assert table["a"].isna().tolist() == [False, True], name
    (tmp_path / "d.jsonl").write_text('{"id": 1, "a": "x"}\n\n{"id": 2, "late": 5}\n')
    assert list(read(tmp_path / "d.jsonl")[0]) == ["id", "a", "late"]
    monkeypatch.setattr(tables_text, "MOST_JSON", 10)
    with pytest.raises(BadInput, match="expected JSON lines, got one value of more than"):
        read(tmp_path / "b.json")


def test_files_of_stata_sas_and_spss(tmp_path: Path) -> None:
    import pyreadstat

    plain = pd.DataFrame(
        {"stay_id": [9007199254740.0, 12.0], "sex": [1.0, 2.0], "age": [70.5, np.nan], "code": ["07", "7"]}
    )
    labels = {"sex": {1: "f", 2: "m"}}
    plain.to_stata(tmp_path / "a.dta", write_index=False, value_labels=labels)
    pyreadstat.write_sav(plain, tmp_path / "a.sav", variable_value_labels=labels)
    pyreadstat.write_xport(plain, tmp_path / "a.xpt", file_format_version=5, table_name="A")
    for name, form in (("a.dta", "Stata"), ("a.sav", "SPSS"), ("a.xpt", "SAS")):
        table, reading = read(tmp_path / name)
        table.columns = [column.lower() for column in table.columns]
        assert reading.form == form
        assert table["stay_id"].tolist() == [9007199254740, 12], name
        assert str(table["stay_id"].dtype) == "int64", name
        assert table["code"].tolist() == ["07", "7"], name
        assert table["age"].isna().tolist() == [False, True]
        assert table["sex"].tolist() == ([1, 2] if form == "SAS" else ["f", "m"]), name


def test_a_workbook(tmp_path: Path) -> None:
    import openpyxl

    book = openpyxl.Workbook()
    book.active.title = "About"
    book.active["A1"] = "Ward 3"
    sheet = book.create_sheet("Stays")
    sheet.append(["Ward 3, 2024"])
    sheet.append([])
    sheet.append(["id", "weight", "seen", "n", None])
    sheet.append(["007", "70,5", datetime.datetime(2024, 1, 2), 5])
    sheet.append([None, None, None, None])
    sheet.append(["7", None, None, 6])
    book.create_sheet("More").append(["a", "b"])
    book.save(tmp_path / "a.xlsx")
    table, reading = read(tmp_path / "a.xlsx")
    assert table["id"].tolist() == ["007", "7"]
    assert table["n"].tolist() == [5, 6]
    assert list(table) == ["id", "weight", "seen", "n"]
    assert "sheet Stays; other sheets, not read: About, More (--sheet NAME)" in reading.line
    assert "left out: 'Ward 3, 2024'" in reading.line
    with pytest.raises(BadInput, match="--sheet: expected one of About, Stays, More, got Stay"):
        read(tmp_path / "a.xlsx", sheet="Stay")
    with pytest.raises(BadInput, match="expected a sheet with a table"):
        read(tmp_path / "a.xlsx", sheet="About")


def test_a_library_that_is_not_there_is_told_with_its_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.xlsx").write_bytes(b"PK\x03\x04")
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    with pytest.raises(BadInput, match=r'Excel: .* openpyxl.* pip install "tim-search\[tables\]"'):
        read(tmp_path / "a.xlsx")


def test_pieces_of_one_column_agree_on_a_type(tmp_path: Path) -> None:
    pieces = [
        pa.table({"a": pa.nulls(1, pa.float64()), "b": [1], "c": [1], "d": ["x"]}),
        pa.table({"a": ["x"], "b": [0.5], "c": ["07"], "d": ["y"], "e": [1]}),
    ]
    assert write_pieces(pieces, tmp_path / "a.parquet", tmp_path) == 2
    table = pq.read_table(tmp_path / "a.parquet").to_pydict()
    assert table == {"a": [None, "x"], "b": [1.0, 0.5], "c": ["1", "07"], "d": ["x", "y"], "e": [None, 1]}
    assert column_names(["a", None, ""], "t") == ["a", "Unnamed: 1", "Unnamed: 2"]


# ------------------------------------------------------------------------------------------------- databases

TABLE = """create table stays (stay_id bigint, patient varchar(9), creatinine numeric(8, 3), note text);
insert into stays values (9007199254740993, '0007', 1.015, 'a'), (9007199254740994, '7', null, null)"""
AS_WELL = ("alter table stays add stay interval", "update stays set stay = '36 hours' where patient = '0007'")


def test_a_query_of_sqlite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with sqlite3.connect(tmp_path / "ward.db") as database:
        database.executescript(TABLE)
    monkeypatch.delenv(DATABASE, raising=False)
    with pytest.raises(BadInput, match="expected the URL of a database"):
        Query.from_environment("select 1")
    monkeypatch.setenv(DATABASE, f"sqlite:///{tmp_path / 'ward.db'}")
    table, reading = read(Query.from_environment("select * from stays order by stay_id"))
    assert table["stay_id"].tolist() == [9007199254740993, 9007199254740994]
    assert table["patient"].tolist() == ["0007", "7"]
    assert reading.line == "query: SQL, 2 rows, 4 columns; database sqlite"
    for sql, words in (
        ("select * from nowhere", "the database refused: no such table: nowhere"),
        ("delete from stays", "expected a query that gives rows"),
        ("select 1", "expected rows of patients with columns"),
    ):
        with pytest.raises(BadInput, match=words):
            read(Query.from_environment(sql))
    with pytest.raises(BadInput, match=r"the driver .* is not installed") as told:
        read(Query("select 1", "mysql+pymysql://me:secret@host/db"))
    assert "secret" not in str(told.value)


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory):
    """The URL of a real PostgreSQL of its own, on a socket in a temporary folder."""
    servers = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    found = shutil.which("initdb")
    programs = Path(found).parent if found else servers[-1] if servers else None
    if programs is None or not (programs / "postgres").exists():
        # A server is no package of Python, so nothing that the project installs brings it; SQLite is tested everywhere.
        pytest.skip("no PostgreSQL on this machine (Debian: apt-get install postgresql)")
    folder = Path("/tmp") / f"tim-pg-{os.getpid()}"  # short: a socket's path has 107 bytes at most
    folder.mkdir(mode=0o700)
    nobody: dict[str, Any] = {}
    if os.getuid() == 0:  # PostgreSQL refuses root
        os.chown(folder, 65534, 65534)
        nobody = {"user": 65534, "group": 65534, "extra_groups": []}
    data = folder / "data"
    try:
        subprocess.run([programs / "initdb", "-D", data, "-U", "ward", "-A", "trust", "--no-sync"], check=True,
                       capture_output=True, cwd=folder, **nobody)  # fmt: skip
        server = subprocess.Popen(
            [programs / "postgres", "-D", data, "-k", folder, "-c", "listen_addresses=", "-c", "fsync=off"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=folder, **nobody,
        )  # fmt: skip
        try:
            yield f"postgresql+psycopg://ward:s3cret@/postgres?host={folder}"
        finally:
            server.terminate()
            server.wait(30)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.slow
def test_a_query_of_postgresql(postgres: str) -> None:
    import sqlalchemy

    engine = sqlalchemy.create_engine(postgres)
    for _ in range(100):
        try:
            with engine.begin() as connection:
                for sql in (*TABLE.split(";"), *AS_WELL):
                    connection.execute(sqlalchemy.text(sql))
            break
        except sqlalchemy.exc.OperationalError:
            time.sleep(0.1)
    engine.dispose()
    table, _ = read(Query("select * from stays order by stay_id", postgres))
    assert table["stay_id"].tolist() == [9007199254740993, 9007199254740994]
    assert table["patient"].tolist() == ["0007", "7"]
    assert table["creatinine"].tolist()[0] == 1.015
    assert table["stay"].tolist()[0] == pd.Timedelta("36h")
    many, reading = read(Query("select g as id, g / 2.0 as a from generate_series(1, 50001) g", postgres))
    assert (reading.rows, many["a"].iloc[-1]) == (50001, 25000.5)
    with pytest.raises(BadInput, match="the database refused") as told:
        read(Query("select * from nowhere", postgres))
    assert "s3cret" not in str(told.value)


MEASURE = """
import resource, sys
from pathlib import Path
from model.sources import tables, tables_text
tables_text._MEMORY = "200MB"
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
reading = tables.convert(Path(sys.argv[1]), Path(sys.argv[2]))
print(reading.rows, before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_a_large_csv_goes_through_in_pieces(tmp_path: Path) -> None:
    """170 MB of text, 195 MB as numbers: the limit of memory holds, and nothing but the answer is written."""
    dice = np.random.default_rng(0)
    with open(tmp_path / "large.csv", "w") as file:
        file.write("stay_id;" + ";".join(f"v{k}" for k in range(60)) + "\n")
        block = [";".join(f"{value:.3f}" for value in row) for row in dice.normal(50, 20, (2000, 60))]
        for start in range(0, 400_000, 2000):
            file.writelines(f"{start + k:07};{line}\n" for k, line in enumerate(block))
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, tmp_path / "large.csv", tmp_path / "large.parquet"],
        capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    rows, before, most = map(int, done.stdout.split())
    assert rows == 400_000
    assert most - before < 350 * 1024, f"{before >> 10} MiB before, {most >> 10} MiB at most"
    assert pq.read_schema(tmp_path / "large.parquet").field("stay_id").type == pa.string()


def test_of_notes_only_the_beginnings_are_in_memory(tmp_path: Path) -> None:
    notes = [f"stay {number}: ärztlich " + "x" * 3000 for number in range(50)] + [None]
    levels = ["a level of very many words " * 60, "another"] * 25 + [None]
    pd.DataFrame({"note": notes, "level": levels, "age": range(51)}).to_parquet(tmp_path / "t.parquet")
    table = Columns(tmp_path / "t.parquet")
    assert table["note"].dropna().str.len().eq(200).all()
    assert table["note"].nunique() == 50
    assert pd.isna(table["note"][50])
    assert table["level"].dropna().tolist() == levels[:50], "few values, however long, are kept"
    assert table["age"].tolist() == list(range(51))
