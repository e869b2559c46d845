"""Tables that are torn, odd or meant to harm: nothing of them is lost without a word, and none ends the process."""

from __future__ import annotations

import gzip
import json
import random
import subprocess
import sys
import zipfile
from decimal import Decimal
from pathlib import Path

import numpy as np
import openpyxl
import pandas as pd
import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pyreadstat
import pytest

from model.sources import tables_pieces
from model.sources.own_table import edit, init
from model.sources.tables import read
from tests.support import ROOT
from tim_search.types import BadInput


@pytest.mark.parametrize("lines", [True, False])
def test_json_of_many_and_of_rare_keys(tmp_path: Path, lines: bool) -> None:
    draw = random.Random(3)
    rows = [{"id": place, **{f"k{key}": 1.5 for key in draw.sample(range(220), 5)}} for place in range(120)]
    path = tmp_path / "t.json"
    path.write_text("\n".join(map(json.dumps, rows)) if lines else json.dumps(rows))
    table, _ = read(path)
    assert set(table) == {key for row in rows for key in row}
    assert table.drop(columns="id").notna().sum().sum() == 5 * len(rows)


def test_names_that_differ_in_capitals_alone_are_refused(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text('{"Age": 1, "x": 2}\n{"age": 3, "x": 4}\n')
    (tmp_path / "t.csv").write_text("Age,age,x\n1,2,3\n")
    for name in ("t.jsonl", "t.csv"):
        with pytest.raises(BadInput, match="Age, age differ in capitals alone"):
            read(tmp_path / name)
    (tmp_path / "t.jsonl").write_text('{"age_1": 1, "age": 2}\n{"age": 3, "age_1": 4}\n')
    assert read(tmp_path / "t.jsonl")[0]["age_1"].tolist() == [1, 4]


def test_a_long_number_beside_a_fraction_keeps_its_digits(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("key,x\n12345678901234567,1\n0.5,2\n")
    assert read(tmp_path / "t.csv")[0]["key"].tolist() == ["12345678901234567", "0.5"]


def test_archives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "t.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("t.csv", "a,b\n1,2\n")
        archive.writestr("__MACOSX/._t.csv", "of the Finder")
    assert read(path)[0].to_dict("list") == {"a": [1], "b": [2]}
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("t.csv", "a,b\n1,2\n")
    locked = bytearray(path.read_bytes())
    locked[6] |= 1
    locked[locked.find(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(locked)
    with pytest.raises(BadInput, match="encrypted"):
        read(path)
    book = openpyxl.Workbook()
    for _ in range(3000):
        book.active.append([0] * 10)
    book.save(tmp_path / "t.xlsx")
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress(b"a,b\n" + b"0,0\n" * 100_000))
    monkeypatch.setattr(tables_pieces, "UNPACKED", 10_000)
    monkeypatch.setattr(tables_pieces, "TIMES", 3)
    for name in ("t.xlsx", "t.csv.gz"):
        with pytest.raises(BadInput, match="over 3 times its size"):
            read(tmp_path / name)


def test_cells_right_of_a_sheets_header_are_told(tmp_path: Path) -> None:
    book = openpyxl.Workbook()
    for row in [["id", "age"], [1, 50, "a remark"], [2, 60], [None, None, "another"]]:
        book.active.append(row)
    book.save(tmp_path / "t.xlsx")
    table, reading = read(tmp_path / "t.xlsx")
    assert table["age"].tolist() == [50, 60]
    assert "cells right of the last column with a name, left out: in 2 rows" in reading.line


def test_codes_of_which_some_have_labels(tmp_path: Path) -> None:
    table = pd.DataFrame({"id": [1, 2, 3], "pain": [4, -9, 2]})
    table.to_stata(tmp_path / "t.dta", write_index=False, value_labels={"pain": {-9: "refused"}})
    pyreadstat.write_sav(table, str(tmp_path / "t.sav"), variable_value_labels={"pain": {-9: "refused"}})
    for name in ("t.dta", "t.sav"):
        assert read(tmp_path / name)[0]["pain"].tolist() == ["4", "refused", "2"]
    table.iloc[:0].to_stata(tmp_path / "t.dta", write_index=False)
    with pytest.raises(BadInput, match="got 0 rows"):
        read(tmp_path / "t.dta")


def test_frames_of_unusual_cells() -> None:
    frame = pd.DataFrame({
        "id": [1, 2],
        "decimal": [Decimal("NaN"), Decimal("1.5")],
        "infinite": [Decimal("Infinity"), Decimal(2)],
        "small": pd.Series([np.float32("nan"), np.float32(1.5)], dtype=object),
        "month": pd.period_range("2020-01", periods=2, freq="M"),
        "wave": [1j, 2],
        "mixed": pd.Categorical(["low", 1]),
    })  # fmt: skip
    table, _ = read(frame)
    assert table[["decimal", "small"]].isna().sum().tolist() == [1, 1]
    assert table["infinite"].tolist() == [np.inf, 2.0]
    assert table["month"].tolist() == ["2020-01", "2020-02"]
    assert table["mixed"].tolist() == ["low", "1"]
    with pytest.raises(BadInput, match="id stand twice"):
        read(frame.set_index(pd.Index([5, 6], name="id")))


def test_folders_whose_names_are_a_column_are_refused(tmp_path: Path) -> None:
    for year in (2020, 2021):
        (tmp_path / "t" / f"year={year}").mkdir(parents=True)
        pq.write_table(pa.table({"id": [1, 2], "x": [3, 4]}), tmp_path / "t" / f"year={year}" / "part.parquet")
    with pytest.raises(BadInput, match=r"year=2020, year=2021.*one Parquet file"):
        read(tmp_path / "t")


def test_a_torn_feather_file_does_not_end_the_process(tmp_path: Path) -> None:
    """In a process of its own, since what would fail is the process: 34 of 400 torn files ended it."""
    table = pa.table({"id": range(50), "name": [f"n{place}" for place in range(50)]})
    feather.write_feather(table, tmp_path / "whole.feather", compression="uncompressed")
    code = """if True:
        import random, sys
        from pathlib import Path
        from model.sources.tables import read
        from tim_search.types import BadInput
        whole, draw, refused = Path(sys.argv[1]).read_bytes(), random.Random(1), 0
        for _ in range(80):
            torn = bytearray(whole)
            for _ in range(draw.choice([1, 2, 5])):
                torn[draw.randrange(8, len(torn))] = draw.choice([0, 127, 128, 255])
            Path(sys.argv[2]).write_bytes(torn)
            try:
                read(Path(sys.argv[2]))
            except BadInput:
                refused += 1
        print(refused)
    """
    paths = [str(tmp_path / name) for name in ("whole.feather", "torn.feather")]
    done = subprocess.run([sys.executable, "-c", code, *paths], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 10


def test_names_with_blanks_and_ids_without_values(tmp_path: Path) -> None:
    draw = np.random.default_rng(5)
    table = pd.DataFrame({"patient_id": range(200), "died": draw.integers(0, 2, 200), "age ": draw.normal(size=200)})
    table[" b"], table["other_id"] = draw.normal(size=200), None
    table.to_csv(tmp_path / "t.csv", index=False)
    before = init(tmp_path / "t.csv", tmp_path / "cohort")
    after, _ = edit(tmp_path / "cohort" / "columns.csv")
    assert after.modalities == before.modalities
    (tmp_path / "columns.csv").write_text("column,role\nother_id,patient id\ndied,target\n")
    with pytest.raises(BadInput, match="name another column"):
        init(tmp_path / "t.csv", tmp_path / "second", edits=tmp_path / "columns.csv")
