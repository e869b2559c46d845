"""`cohort init`: what is guessed of a table's columns, and that the folder it writes is a cohort."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from model.sources import own_table
from model.sources.opening import check_cohort, open_cohort
from tim_search.types import BadInput

N = 400


def table() -> pd.DataFrame:
    dice = np.random.default_rng(0)
    frame = pd.DataFrame({"Unnamed: 0": np.arange(N), "stay_id": 30_000 + np.arange(N)[::-1]})
    frame["patient_id"] = [f"p{k // 2}" for k in range(N)]
    frame["admitted"] = "2180-07-23 08:00:00"
    frame["demo__age"] = dice.normal(60, 10, N)
    frame["demo__icu"] = dice.integers(1, 5, N)
    frame["demo__sex"] = dice.choice(["f", "m"], N)
    frame["labs__sodium"] = np.where(dice.random(N) < 0.2, np.nan, dice.normal(140, 4, N))
    frame["labs__glucose"] = dice.normal(6, 1, N)
    frame["labs__site"] = "A"
    frame["labs__note"] = [f"text {k}" for k in range(N)]
    frame["labs__discharge_weight"] = dice.normal(70, 9, N)
    frame["batch"] = dice.integers(0, 9, N)
    died = dice.random(N) < 0.3
    frame["task__died"] = died.astype(int)
    frame["task__died_1y"] = (died | (dice.random(N) < 0.1)).astype(int)
    frame["task__days"] = dice.gamma(2, 3, N)
    frame["task__icu"] = frame["demo__icu"] - 1
    frame["task__next place"] = dice.choice(["home", "no"], N)
    frame["task__empty"] = np.nan
    return frame


def test_a_marked_table(tmp_path: Path) -> None:
    table().to_csv(tmp_path / "stays.csv", index=False)
    guess = own_table.init(tmp_path / "stays.csv", tmp_path / "made")
    assert (guess.sample_id, guess.patient_id) == ("stay_id", "patient_id")
    assert {name: columns for name, (_, columns) in guess.modalities.items()} == {
        "demo": ["demo__age", "demo__icu", "demo__sex"],
        "labs": ["labs__sodium", "labs__glucose"],
    }
    assert {name: task.kind for name, task in guess.tasks.items()} == {
        "died": "binary",
        "died_1y": "binary",
        "days": "regression",
        "icu": "multiclass",
        "next_place": "binary",
    }
    assert guess.tasks["icu"].excludes == ("demo__icu",)
    assert guess.stratify == "task__died"
    assert ("died", "died_1y") in guess.overlaps
    assert set(guess.left_out) == {
        "Unnamed: 0", "admitted", "labs__site", "labs__note", "labs__discharge_weight", "batch", "task__empty"
    }  # fmt: skip
    assert "a date" in guess.left_out["admitted"]
    assert "the discharge" in guess.left_out["labs__discharge_weight"]
    made = open_cohort(tmp_path / "made")
    assert [f for f in check_cohort(tmp_path / "made") if f.severity == "error"] == []
    assert (len(made), len(made.patient_ids)) == (N, N // 2)
    assert made.classes["next_place"] == ("home", "no")
    assert made.modalities["demo"].levels == {"demo__sex": ("f", "m")}
    assert "labs__discharge_weight" not in made.modalities["labs"].columns
    content = (tmp_path / "made" / "cohort.yaml").read_text()
    assert "levels: {demo__icu: [1, 2, 3, 4]}" in content
    for column, why in guess.left_out.items():
        assert f"#   {column}: {why}" in content


def test_a_target_with_too_few_labels_is_left_out_with_its_overlaps(tmp_path: Path) -> None:
    frame = table()
    frame["task__rare"] = (np.arange(N) == 7).astype(float)
    frame["task__half"] = frame["task__died"].where(np.arange(N) < 40)
    frame["task__half"] = frame["task__half"].where(frame["task__half"] == 1)
    frame["task__half"] = np.where(np.arange(N) == 3, 0, frame["task__half"])
    frame["task__place"] = np.random.default_rng(3).choice(["Home", "home ", "ward"], N)
    frame.to_csv(tmp_path / "stays.csv", index=False)
    guess = own_table.init(tmp_path / "stays.csv", tmp_path / "made")
    assert not {"rare", "half"} & set(guess.tasks)
    assert "as a task it has too few labels: in fold" in guess.left_out["task__rare"]
    assert not any({"rare", "half"} & set(pair) for pair in guess.overlaps)
    assert "capitals or blanks" in guess.tasks["place"].why
    assert [f for f in check_cohort(tmp_path / "made") if f.severity == "error"] == []


def test_an_unmarked_table_by_names_and_single_underscores(tmp_path: Path) -> None:
    dice = np.random.default_rng(1)
    frame = pd.DataFrame({f"lab_{k}": dice.normal(size=60) for k in range(4)})
    frame["vital_hr"], frame["height"] = dice.normal(size=60), dice.normal(size=60)
    frame["hospital_expire_flag"] = np.arange(60) % 3 == 0
    frame["los"] = dice.gamma(2, 3, 60)
    frame.to_parquet(tmp_path / "t.parquet")
    guess = own_table.init(tmp_path / "t.parquet", tmp_path / "made")
    assert (guess.sample_id, guess.patient_id) == ("row", "row")
    assert {name: columns for name, (_, columns) in guess.modalities.items()} == {
        "lab": [f"lab_{k}" for k in range(4)],
        "other": ["vital_hr", "height"],
    }
    assert {name: task.kind for name, task in guess.tasks.items()} == {
        "hospital_expire_flag": "binary",
        "los": "regression",
    }
    content = (tmp_path / "made" / "cohort.yaml").read_text()
    assert "no column looks like a patient's id" in content
    assert "no column tells the rows apart" in content
    assert len(open_cohort(tmp_path / "made").sample_ids) == 60


def test_an_index_with_a_name_is_a_column(tmp_path: Path) -> None:
    table().set_index("stay_id").to_parquet(tmp_path / "stays.parquet")
    guess = own_table.init(tmp_path / "stays.parquet", tmp_path / "made")
    assert guess.sample_id == "stay_id"
    assert sorted(open_cohort(tmp_path / "made").sample_ids) == list(range(30_000, 30_000 + N))


def test_a_long_table_is_not_split_by_its_rows(tmp_path: Path) -> None:
    frame = pd.DataFrame({"recordid": np.repeat(np.arange(40), 24), "hour": np.tile(np.arange(24), 40)})
    frame["pulse"] = np.random.default_rng(0).normal(80, 9, len(frame))
    frame["lactic_acid"], frame["admission_source"] = np.arange(len(frame)) % 60, np.arange(len(frame)) % 30
    frame["row"] = np.arange(len(frame)) % 7  # not one of its own
    frame.to_csv(tmp_path / "hourly.csv", index=False)
    guess = own_table.init(tmp_path / "hourly.csv", tmp_path / "made")
    assert (guess.sample_id, guess.patient_id) == ("row_number", "recordid")
    assert "Are the rows times of one stay?" in (tmp_path / "made" / "cohort.yaml").read_text()


def test_names_that_yaml_would_bend(tmp_path: Path) -> None:
    dice = np.random.default_rng(2)
    frame = pd.DataFrame({"id": np.arange(50)})
    for name in ("yes", "a: b", "12", "# c", "d'e", "ü"):
        frame[name] = dice.normal(size=50)
    frame["y_on"] = np.arange(50) % 2
    frame["y_kind"] = dice.choice(["yes", "no", "012"], 50)
    frame.to_csv(tmp_path / "odd.csv", index=False)
    own_table.init(tmp_path / "odd.csv", tmp_path / "made")
    made = open_cohort(tmp_path / "made")
    assert set(made.modalities["features"].columns) == {"yes", "a: b", "12", "# c", "d'e", "ü"}
    assert set(made.classes["kind"]) == {"yes", "no", "012"}
    assert yaml.safe_load((tmp_path / "made" / "cohort.yaml").read_text())["tasks"]["on"]["label"] == "y_on"


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("none.csv", None, "there is none"),
        ("empty.csv", "", "expected a table"),
        ("one.csv", "a\n1\n", "1 rows and 1 columns"),
        ("head.csv", "a,b\n", "0 rows and 2 columns"),
        ("torn.parquet", "PAR1", "expected a table"),
        ("torn.csv", "a,b\n1,2\n1,2,3\n", "got 2 fields in line 1 and 3 in line 3"),
        ("twice.csv", "a,b,a\n1,2,3\n", "the columns a stand twice"),
    ],
)
def test_bad_tables(tmp_path: Path, name: str, content: str | None, words: str) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(BadInput, match=words):
        own_table.init(tmp_path / name, tmp_path / "made")
    assert not (tmp_path / "made").exists()


def test_columns_that_stand_twice_in_parquet(tmp_path: Path) -> None:
    columns = [pa.array([1, 2])] * 3
    pq.write_table(pa.Table.from_arrays(columns, names=["a", "b", "b"]), tmp_path / "twice.parquet")
    with pytest.raises(BadInput, match="the columns b stand twice"):
        own_table.init(tmp_path / "twice.parquet", tmp_path / "made")


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    table().to_csv(tmp_path / "stays.csv", index=False)
    with pytest.raises(BadInput, match="new or empty"):
        own_table.init(tmp_path / "stays.csv", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["stays.csv"]
    with pytest.raises(BadInput, match="cannot be written"):
        own_table.init(tmp_path / "stays.csv", tmp_path / "stays.csv" / "made")


def test_texts_and_ids_stay_as_they_are_written(tmp_path: Path) -> None:
    frame = pd.DataFrame({"stay_id": [f"{k:04}" for k in range(60)], "labs_a": np.arange(60.0)})
    frame["labs_b"] = ["NA" if k % 7 == 0 else f"{k % 5}" for k in range(60)]
    frame["ca"] = np.resize(["None", "metastatic", "NA", ""], 60)
    frame["died"] = np.resize(["null", "x"], 60)
    frame.to_csv(tmp_path / "stays.csv", index=False)
    own_table.init(tmp_path / "stays.csv", tmp_path / "made")
    made = open_cohort(tmp_path / "made")
    assert made.sample_ids[0] == "0000"
    assert made.classes["died"] == ("null", "x")
    features = made.modalities["features"]
    assert features.levels == {"ca": ("None", "NA", "metastatic")} or set(features.levels["ca"]) == {
        "None",
        "NA",
        "metastatic",
    }
    assert np.isnan(features.values[:, features.columns.index("ca")]).sum() == 15
    content = (tmp_path / "made" / "cohort.yaml").read_text()
    assert '# ca: {missing: [None, NA]}   # 30 rows hold the text "None", "NA": a level, or not known?' in content
    assert 'labs_b: {missing: [NA], type: number}   # 9 rows hold "NA", read as not measured' in content
    assert np.isnan(features.values[:, features.columns.index("labs_b")]).sum() == 9


BREAKS = "x\nmodalities: {}\r\x85a: 1\u2028b: 2\u2029\x1b[31m\ufeff\uffff"


def test_no_name_and_no_value_gets_out_of_its_comment(tmp_path: Path) -> None:
    frame = pd.DataFrame({"stay_id": np.arange(60), "age": np.arange(60.0), f"disch{BREAKS}": np.arange(60.0)})
    frame[f"died {BREAKS}"] = np.resize([BREAKS, "y"], 60)
    frame[f"same{BREAKS}"] = BREAKS
    frame[f"code{BREAKS}"] = np.resize([1, 2, 3], 60)
    frame.to_parquet(tmp_path / "stays.parquet", index=False)
    own_table.init(tmp_path / "stays.parquet", tmp_path / "made")
    content = (tmp_path / "made" / "cohort.yaml").read_text()
    keys = {"format", "name", "samples", "sample_id", "patient_id", "stratify", "modalities", "tasks"}
    assert set(yaml.safe_load(content)) == keys
    assert content.isprintable() or set(filter(lambda sign: not sign.isprintable(), content)) == {"\n"}
    made = open_cohort(tmp_path / "made")
    assert {BREAKS, "y"} in [set(names) for names in made.classes.values()]
    assert f"code{BREAKS}" in made.modalities["features"].columns


def test_lists_structures_and_bytes_are_left_out(tmp_path: Path) -> None:
    frame = pd.DataFrame({"stay_id": np.arange(60), "age": np.arange(60.0), "died": np.arange(60) % 2})
    frame["list"] = [[1, 2]] * 60
    frame["struct"] = [{"a": 1}] * 60
    frame["bytes"] = [b"\xff"] * 60
    frame.to_parquet(tmp_path / "stays.parquet", index=False)
    guess = own_table.init(tmp_path / "stays.parquet", tmp_path / "made")
    assert {guess.left_out[name] for name in ("list", "struct", "bytes")} == {
        "its values are lists, structures or bytes"
    }
    assert len(open_cohort(tmp_path / "made")) == 60


@pytest.mark.parametrize(
    "name", ["a.csv.gz", "a.csv.bz2", "a.csv.xz", "a.csv.zip", "a.csv.tar", "a.tar.gz", "a.csv.zst"]
)
@pytest.mark.parametrize("content", [b"\x1f\x8b\x08\x00torn", b"PK\x03\x04", b"", b"\xfd7zXZ\x00"])
def test_what_is_torn(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadInput, match="expected a table"):
        own_table.init(tmp_path / name, tmp_path / "made")
    assert not (tmp_path / "made").exists()


def test_a_pipe_is_no_table(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.csv")
    with pytest.raises(BadInput, match="expected a file, got a pipe"):
        own_table.init(tmp_path / "a.csv", tmp_path / "made")


def test_damaged_pages(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    table().to_parquet(path, index=False)
    content = bytearray(path.read_bytes())
    content[40 : len(content) // 2] = bytes(len(content) // 2 - 40)
    path.write_bytes(content)
    with pytest.raises(BadInput, match="expected a table"):
        own_table.init(path, tmp_path / "made")


def test_two_targets_whose_names_become_one_are_two_tasks(tmp_path: Path) -> None:
    frame = pd.DataFrame({"stay_id": np.arange(60), "age": np.arange(60.0), "y_a b": np.arange(60) % 2})
    frame["y_a.b"], frame["y_" + "x" * 400] = np.arange(60) % 3, np.arange(60) / 7
    frame.to_csv(tmp_path / "stays.csv", index=False)
    guess = own_table.init(tmp_path / "stays.csv", tmp_path / "made")
    assert set(guess.tasks) == {"a_b", "a_b_2", "x" * 110}
    assert len(open_cohort(tmp_path / "made").labels) == 3
