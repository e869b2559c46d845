"""Where a command may write: never over what it reads, or over another search, cohort or model."""

from __future__ import annotations

from pathlib import Path

import pytest

from tim_search.app.outputs import check_output
from tim_search.types import BadInput

TABLES = (".csv", ".parquet")


def test_a_new_file_and_an_earlier_output_are_fine(tmp_path: Path) -> None:
    check_output(tmp_path / "said.csv", (), TABLES)
    (tmp_path / "search.json").write_text("{}")
    (tmp_path / "said.CSV").write_text("")
    check_output(tmp_path / "said.CSV", (tmp_path / "rows.csv",), TABLES)


def test_what_is_read_is_not_overwritten_also_under_another_name(tmp_path: Path) -> None:
    rows, link = tmp_path / "rows.csv", tmp_path / "link.csv"
    rows.write_text("")
    link.symlink_to(rows)
    for out in (rows, link):
        with pytest.raises(BadInput, match=r"is what is read.*Name another file"):
            check_output(out, (rows,), TABLES)


@pytest.mark.parametrize("name", ["search.yaml", "notes.txt", "model.json"])
def test_files_of_other_kinds_are_left_alone(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(BadInput, match="is no file that this command writes"):
        check_output(tmp_path / name, (), TABLES)


@pytest.mark.parametrize("name", ["said.xlsx", "said.json"])
def test_a_new_file_is_of_the_kind_that_its_name_says(tmp_path: Path, name: str) -> None:
    with pytest.raises(BadInput, match=r"expected a name that ends in \.csv, \.parquet"):
        check_output(tmp_path / name, (), TABLES)


@pytest.mark.parametrize("place", [".", "", "/", "sub"])
def test_a_folder_is_no_file(tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    with pytest.raises(BadInput, match="expected a file, got the folder"):
        check_output(Path(place), (), TABLES)


@pytest.mark.parametrize(
    ("marker", "name", "what"),
    [
        ("cohort.yaml", "labels.parquet", "a cohort"),
        ("cohort.yaml", "tables/labels.csv", "a cohort"),
        ("MLmodel", "example.csv", "a model"),
        ("search.json", "tables/tim.csv", "a search"),
        ("search.json", "ledger/scores/a.parquet", "a search"),
    ],
)
def test_parts_of_a_search_a_cohort_or_a_model(tmp_path: Path, marker: str, name: str, what: str) -> None:
    (tmp_path / marker).write_text("")
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text("")
    with pytest.raises(BadInput, match=f"belongs to {what}"):
        check_output(tmp_path / name, (), TABLES)
    check_output((tmp_path / name).with_name("new.csv"), (), TABLES)
