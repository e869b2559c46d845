"""Tables of rows to predict: what a cell says is what the same cell said in the cohort."""

from __future__ import annotations

import datetime
import gzip
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from model.trained.new_rows import PredictionWarning, read_rows, read_table, table_columns
from model.trained.parts import Inputs
from tim_search.types import BadInput

INPUTS = (
    Inputs("labs", ("hb", "smokes", "grade"), {"smokes": ("NA", "None", "yes"), "grade": ("1", "2")}, "float64",
           (12.0, "NA", "1"), "vector", (3,)),
    Inputs("signs", ("pulse", "pressure"), {}, "float32", (70.0, 120.0), "sequence", (4, 2)),
)  # fmt: skip


def labs(table: pd.DataFrame) -> list[list[float]]:
    return read_rows(table, INPUTS)["labs"].values.tolist()


def written(folder: Path, text: str, name: str = "rows.csv") -> Path:
    (folder / name).write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return folder / name


NAN = float("nan")


@pytest.mark.parametrize("name", ["rows.csv", "rows.csv.gz"])
def test_words_that_are_levels_are_no_missing_cells(tmp_path: Path, name: str) -> None:
    path = written(tmp_path, "labs.smokes,grade,hb,id\nNone,1,12.5,NA\nNA,2,NA,\n,1.0,,007\nyes,,9,null\n", name)
    table = read_table(path, INPUTS, ["id"])
    assert table.index.tolist() == ["NA", "", "007", "null"]
    np.testing.assert_array_equal(labs(table), [[12.5, 1, 0], [NAN, 0, 1], [NAN, NAN, 0], [9, 2, NAN]])
    np.testing.assert_array_equal(
        labs(pd.DataFrame({"hb": [1, 2, 3], "smokes": ["None", None, "NA"], "grade": [1, 2.0, "2.0"]})),
        [[1, 1, 0], [2, NAN, 1], [3, 0, 1]],
    )


def test_a_level_that_the_model_does_not_know_is_said(tmp_path: Path) -> None:
    path = written(tmp_path, "smokes,grade,hb\nnull,1,1\n\x1b[2Jno,2,2\n")
    with pytest.warns(PredictionWarning, match=r"smokes: the model does not know \\x1b\[2Jno, null and takes"):
        assert np.isnan(np.array(labs(read_table(path, INPUTS)))[:, 1]).all()


TIMES = {
    "timestamps": pd.to_datetime(["2020-01-01", None]),
    "timestamps of a zone": pd.to_datetime(["2020-01-01", None]).tz_localize("UTC"),
    "durations": pd.to_timedelta([1, None], unit="D"),
    "periods": pd.period_range("2020-01", periods=2, freq="M"),
    "dates": [datetime.date(2020, 1, 1), None],
    "times as objects": np.array([pd.Timestamp("2020-01-01"), pd.Timedelta("1D")], object),
    "categories of timestamps": pd.Categorical(pd.to_datetime(["2020-01-01", "2020-01-02"])),
    "complex numbers": [1 + 2j, None],
    "a complex number as an object": np.array([1 + 2j, None], object),
    "whole numbers of 400 digits": [10**400, 1],
    "a number of 400 digits as text": ["9" * 400, "1"],
    "text": ["high", "1"],
    "lists": [[1, 2], None],
    "infinite numbers": [np.inf, 1],
}


@pytest.mark.parametrize("what", TIMES)
def test_what_is_no_number_is_refused(what: str) -> None:
    table = pd.DataFrame({"smokes": ["yes", "yes"], "grade": ["1", "1"]})
    table["hb"] = TIMES[what]
    with pytest.raises(BadInput, match="column hb: expected"):
        read_rows(table, INPUTS)


def test_numbers_of_every_kind_are_read() -> None:
    base = {"smokes": ["yes"] * 2, "grade": ["1"] * 2}
    for column in (
        [1, 2], [True, False], ["1", "2.0"], [10**30, 1], np.array([1, None], object), pd.Categorical([3, 4]),
        pd.array([1, None], "Int64"), pd.array([0.5, None], "Float32"), pd.array(["7", None], "string"),
    ):  # fmt: skip
        numbers = np.array(labs(pd.DataFrame({**base, "hb": column})))[:, 0]
        wanted = [float(value) if value is not None and value is not pd.NA else NAN for value in list(column)]
        np.testing.assert_array_equal(numbers, wanted)


def test_a_cell_of_a_sequence_with_a_number_too_large_is_refused() -> None:
    with pytest.raises(BadInput, match=r"column signs, row 0: expected .* got a number that is too large"):
        read_rows(pd.DataFrame({"signs": [[[10**400, 1]]]}), INPUTS)


def test_what_cannot_be_read_is_told(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 nothing")
    written(tmp_path, "", "empty.csv")
    written(tmp_path, "hb\n1,2,3\n4\n5,6,7,8\n", "ragged.csv")
    (tmp_path / "bytes.csv").write_bytes(b"hb\n\xff\xfe\x00\n")
    pq.write_table(pa.table({"id": np.ones(2, np.float16), "hb": [1.0, 2.0]}), tmp_path / "halves.parquet")
    assert read_table(tmp_path / "halves.parquet", INPUTS, ["id"]).index.tolist() == [1, 1]
    for name in ("none.csv", "pipe.csv", "bad.parquet", "empty.csv", "ragged.csv", "bytes.csv", "."):
        with pytest.raises(BadInput, match=r"expected (a table|a file|rows|the id column)"):
            read_table(tmp_path / name, INPUTS, ["id"])
    with pytest.raises(BadInput, match="quote texts and decimals that hold the delimiter"):
        read_table(written(tmp_path, "id,hb,grade\n1,12,5,1\n2,9,5,2\n"), INPUTS, ["id"])
    with pytest.raises(BadInput, match="expected the id column nix, its columns are hb, grade"):
        read_table(written(tmp_path, "hb,grade\n1,1\n"), INPUTS, ["nix"])


def test_columns_have_the_modality_in_front_where_two_have_the_same() -> None:
    twice = (*INPUTS, Inputs("later", ("hb",), {}, "float64", (1.0,), "vector", (1,)))
    assert list(table_columns(twice)) == ["labs.hb", "smokes", "grade", "signs", "later.hb"]
    rows = pd.DataFrame({"later.hb": [3.0], "labs.hb": [1.0], "labs.smokes": ["NA"], "grade": ["2"]})
    read = read_rows(rows, twice)
    assert read["labs"].values.tolist() == [[1.0, 0.0, 1.0]]
    assert read["later"].values.tolist() == [[3.0]]
    assert not read["signs"].present.any()
