"""columns.csv: what `cohort init` says of every column, and that edits of it are taken or refused by row and column."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from model.sources import own_table
from model.sources.opening import open_cohort
from model.sources.own_table_columns import FILE, HEADER
from model.sources.own_table_guess import Guess
from tests.support.hospital_tables import HOSPITALS, HospitalTable
from tim_search.gates.texts import for_spreadsheet
from tim_search.types import BadInput

N = 600


def table(seed: int = 0) -> pd.DataFrame:
    """600 stays of 400 persons, 480 record numbers; the rows stand in no order."""
    dice = np.random.default_rng(seed)
    person = np.sort(np.concatenate([np.arange(400), dice.integers(0, 400, N - 400)]))
    frame = pd.DataFrame({"stay_id": dice.permutation(N) + 9000, "subject": person + 70})
    frame["mrn"] = 2 * frame["subject"] + (dice.random(N) < 0.3)
    frame["admitted"] = pd.Timestamp("2024-02-01") + pd.to_timedelta(dice.integers(0, 5000, N), "h")
    frame["lab_a"], frame["lab_b"], frame["lab_c"] = dice.normal(5, 1, (3, N)).round(2)
    frame["ward"] = dice.integers(1, 4, N)
    frame["weight"] = [f"{value:.1f}".replace(".", ",") for value in dice.normal(80, 9, N)]
    frame["colour"] = np.where(np.arange(N) == 5, "a very rare colour", dice.choice(["red", "blue"], N))
    frame["died"] = (dice.random(N) < 0.3).astype(int)
    frame["discharge_weight"] = dice.normal(80, 9, N).round(1)
    frame["los"] = dice.gamma(2, 3, N).round(2)
    return frame.sample(frac=1, random_state=seed)


def begun(tmp_path: Path, frame: pd.DataFrame | None = None) -> tuple[Guess, Path]:
    (table() if frame is None else frame).to_csv(tmp_path / "stays.csv", index=False)
    return own_table.init(tmp_path / "stays.csv", tmp_path / "made"), tmp_path / "made" / FILE


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def rewrite(
    path: Path, changes: Mapping[str, Mapping[str, str]], delimiter: str = ",", encoding: str = "utf-8"
) -> None:
    """Save the file as another program would, with some cells of some columns changed."""
    edited = [row | dict(changes.get(row["column"], {})) for row in rows(path)]
    with path.open("w", encoding=encoding, newline="") as file:
        writer = csv.DictWriter(file, HEADER, delimiter=delimiter)
        writer.writeheader()
        writer.writerows(edited)


def test_every_column_has_a_row_with_its_role_and_doubt(tmp_path: Path) -> None:
    guess, path = begun(tmp_path)
    by_name = {row["column"]: row for row in rows(path)}
    assert tuple(by_name["died"]) == HEADER
    assert list(by_name) == list(table())
    assert [dict(row) for row in guess.rows] == list(by_name.values())
    roles = {name: (row["role"], row["modality or task"], row["used as"]) for name, row in by_name.items()}
    assert roles == {
        "stay_id": ("sample id", "", ""), "subject": ("patient id", "", ""), "mrn": ("left out", "", ""),
        "admitted": ("time", "", ""), "lab_a": ("input", "lab", "number"), "lab_b": ("input", "lab", "number"),
        "lab_c": ("input", "lab", "number"), "ward": ("input", "other", "number"),
        "weight": ("input", "other", "number"), "colour": ("input", "other", "category"),
        "died": ("target", "died", "binary"), "discharge_weight": ("left out", "", ""),
        "los": ("target", "los", "regression"),
    }  # fmt: skip
    several = table().groupby("subject")["mrn"].transform("nunique") > 1
    assert f"{several.sum()} rows belong to a subject who has several of them" in by_name["mrn"]["doubt"]
    assert by_name["weight"]["read as"] == "text"
    assert "a comma" in by_name["weight"]["doubt"]
    assert by_name["ward"]["doubt"] == "3 whole numbers: a category?"
    assert "the discharge" in by_name["discharge_weight"]["doubt"]


def test_no_single_patient_is_shown(tmp_path: Path) -> None:
    """No id, no date of one, no extreme, no rare level."""
    _, path = begun(tmp_path)
    by_name = {row["column"]: row for row in rows(path)}
    for name in ("stay_id", "subject", "mrn"):
        assert (by_name[name]["range or levels"], by_name[name]["example"]) == ("", "")
    assert by_name["colour"]["range or levels"] in ("red, blue and 1 more", "blue, red and 1 more")
    assert "a very rare colour" not in path.read_text(encoding="utf-8-sig")
    low, high = by_name["lab_a"]["range or levels"].removesuffix(" (all but 20 rows)").split(" to ")
    values = np.sort(table()["lab_a"])
    assert float(low) == pytest.approx(values[10], rel=1e-3)
    assert float(high) == pytest.approx(values[-11], rel=1e-3)


def test_what_is_not_edited_stays_and_nothing_is_lost(tmp_path: Path) -> None:
    guess, path = begun(tmp_path)
    before = (path.parent / "cohort.yaml").read_text(), path.read_bytes()
    again, spare = own_table.edit(path)
    assert (again.modalities, again.tasks, again.overlaps, again.stratify) == (
        guess.modalities, guess.tasks, guess.overlaps, guess.stratify,
    )  # fmt: skip
    assert [place.name for place in spare] == ["cohort-1.yaml", "columns-1.csv"]
    assert (spare[0].read_text(), spare[1].read_bytes()) == before
    assert {row["column"]: row["role"] for row in rows(path)} == {row["column"]: row["role"] for row in guess.rows}
    assert open_cohort(path.parent).fingerprint
    path.rename(path.with_name("mine.csv"))  # another name, and a file of the usual one beside it
    path.write_bytes(before[1])
    names = [place.name for place in own_table.edit(path.with_name("mine.csv"))[1]]
    assert names == ["cohort-2.yaml", "columns-2.csv", "mine-1.csv"]


def test_a_role_alone_may_be_changed(tmp_path: Path) -> None:
    """What stands beside it is still of the former role: kind and task of a target, modality of an input."""
    frame = table()
    frame["aki dx"] = np.resize(["no", "yes", "no"], N)
    guess, path = begun(tmp_path, frame)
    assert set(guess.tasks) == {"died", "los", "aki_dx"}
    rewrite(path, {"aki dx": {"role": "input"}, "ward": {"role": "target"}, "los": {"role": "left out"}})
    guess, _ = own_table.edit(path)
    assert {name: task.kind for name, task in guess.tasks.items()} == {"died": "binary", "ward": "multiclass"}
    assert "aki dx" in guess.modalities["other"][1]
    assert "los" in guess.left_out


@pytest.mark.parametrize(
    ("delimiter", "encoding"), [(";", "cp1252"), pytest.param("\t", "utf-16", marks=pytest.mark.slow)]
)
def test_edits_are_taken_whatever_program_saved_them(tmp_path: Path, delimiter: str, encoding: str) -> None:
    _, path = begun(tmp_path, table().rename(columns={"colour": "größe"}))
    yaml = path.parent / "cohort.yaml"
    yaml.write_text(yaml.read_text().replace('weight: {decimal: ","}', 'weight: {decimal: ",", missing: ["80,0"]}'))
    changes = {
        "mrn": {"role": "Patient ID"}, "subject": {"role": "left out"},
        "lab_c": {"modality or task": "blood gas"}, "ward": {"used as": "category"},
        "größe": {"role": "left out"}, "los": {"modality or task": "days"}, "discharge_weight": {"role": "input"},
    }  # fmt: skip
    rewrite(path, changes, delimiter, encoding)
    guess, _ = own_table.edit(path)
    assert (guess.sample_id, guess.patient_id) == ("stay_id", "mrn")
    assert {name: columns for name, (_, columns) in guess.modalities.items()} == {
        "lab": ["lab_a", "lab_b"],
        "blood_gas": ["lab_c"],
        "other": ["ward", "weight", "discharge_weight"],
    }
    assert set(guess.tasks) == {"died", "days"}
    cohort = open_cohort(path.parent)
    assert cohort.modalities["other"].levels == {"ward": ("1", "2", "3")}
    assert len(cohort.patient_ids) == table()["mrn"].nunique()
    # The rule that was mended by hand is still in force.
    weight = cohort.modalities["other"].values[:, cohort.modalities["other"].columns.index("weight")]
    assert np.isnan(weight).sum() == (table()["weight"] == "80,0").sum() > 0
    # The check has looked at the new input.
    assert "its name says the discharge" in {row["column"]: row["doubt"] for row in rows(path)}["discharge_weight"]


def test_edits_hold_for_another_table_of_the_same_columns(tmp_path: Path) -> None:
    frame = table().drop(columns="stay_id").rename(columns={"subject": "person_key"})
    guess, path = begun(tmp_path, frame)
    assert guess.numbered
    rewrite(path, {"colour": {"role": "left out"}})
    table(1).drop(columns="stay_id").rename(columns={"subject": "person_key"}).to_parquet(tmp_path / "next.parquet")
    later = own_table.init(tmp_path / "next.parquet", tmp_path / "later", edits=path)
    assert (later.sample_id, later.patient_id) == ("row", "person_key")
    assert set(later.tasks) == {"died", "los"}
    assert "colour" in later.left_out
    assert len(open_cohort(tmp_path / "later")) == N


def test_a_rule_that_the_next_table_does_not_fit(tmp_path: Path) -> None:
    _, path = begun(tmp_path)
    frame = table(1)
    frame["weight"] = [f"{value} kg" for value in frame["weight"]]
    frame.to_parquet(tmp_path / "next.parquet")
    with pytest.raises(BadInput, match=r"\(weight\), its cells do not fit its rule under values"):
        own_table.init(tmp_path / "next.parquet", tmp_path / "later", edits=path)
    rewrite(path, {"weight": {"role": "left out"}})
    assert "weight" in own_table.init(tmp_path / "next.parquet", tmp_path / "later", edits=path).left_out


def test_what_cannot_be_is_refused_by_row_and_column(tmp_path: Path) -> None:
    frame = table()
    frame["note"] = [f"text {k}" for k in range(N)]
    frame["site"], frame["shade"] = "A", frame["colour"]
    _, path = begun(tmp_path, frame)
    rewrite(path, {
        "lab_a": {"role": "inptu"}, "lab_b": {"used as": "nummer"}, "note": {"role": "target"},
        "admitted": {"role": "input"}, "site": {"role": "input"}, "died": {"role": "time"},
        "shade": {"used as": "number"},
        "los": {"used as": "binary"}, "colour": {"role": "patient id"}, "mrn": {"role": "sample id"},
        "ward": {"column": "wrad"},
    })  # fmt: skip
    with pytest.raises(BadInput) as caught:
        own_table.edit(path)
    lines = str(caught.value).splitlines()
    for words in (
        "row 6 (lab_a), role: expected one of sample id, patient id, time, input, target, left out; given 'inptu'.",
        "row 7 (lab_b), used as: expected number or category of an input; given 'nummer'.",
        "row 5 (admitted), role: it holds dates, which are no input; write time or left out.",
        "(note), used as: 600 values are too many classes (20 at most)",
        "(site), role: it is the same everywhere (A); the one role for it is left out.",
        "(died), role: expected dates of a time",
        "(los), used as: a binary target has two values",
        "(shade), used as: its cells are texts; declare under values in cohort.yaml how they become numbers first.",
        "(wrad), column: is no column of the table.",
        "(mrn), role: a sample id has a value of its own in every row",
        "role: subject, colour are each called patient id; at most one can be",
    ):
        assert any(words in line for line in lines), words
    assert any("inptu" in line and "input?" in line for line in lines)


def test_a_file_that_is_none(tmp_path: Path) -> None:
    _, path = begun(tmp_path)
    path.write_text("a,b\n1,2\n")
    with pytest.raises(BadInput, match="column, role is not there"):
        own_table.edit(path)
    (path.parent / "samples.parquet").rename(tmp_path / "gone.parquet")
    with pytest.raises(BadInput, match=r"expected samples\.parquet beside it"):
        own_table.edit(path)


FORMULAS = ("=cmd|' /C calc'!A0", "+1+2", "@SUM(A1)", "-2+3", "\t=1", "\uff1d1+1")


def test_nothing_in_it_runs_in_a_spreadsheet(tmp_path: Path) -> None:
    frame = table()
    names = {f"lab_{letter}": formula for letter, formula in zip("abc", FORMULAS, strict=False)}
    frame["colour"] = np.resize(FORMULAS, N)
    _, path = begun(tmp_path, frame.rename(columns=names))
    with path.open(encoding="utf-8-sig", newline="") as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    assert not [cell for cell in cells if cell.lstrip()[:1] in tuple("=+@\uff1d") or cell.startswith("-2+")]
    guess, _ = own_table.edit(path)  # the names come back as they were
    assert set(names.values()) <= {column for _, columns in guess.modalities.values() for column in columns}


@pytest.mark.parametrize(
    ("cell", "safe"), [("-1", "-1"), ("+1.5e3", "+1.5e3"), ("-1 to 2", "'-1 to 2"), ("a=1", "a=1")]
)
def test_numbers_stay_numbers(cell: str, safe: str) -> None:
    assert for_spreadsheet(cell) == safe


@pytest.mark.parametrize(
    "hospital", [h if h is HOSPITALS[1] else pytest.param(h, marks=pytest.mark.slow) for h in HOSPITALS]
)
def test_what_is_planted_is_left_out_or_in_doubt(hospital: Callable[[], HospitalTable], tmp_path: Path) -> None:
    made = hospital()
    guess, _ = begun(tmp_path, made.frame)
    assert (guess.sample_id, guess.patient_id) == (made.sample_id, made.patient_id)
    by_name = {row["column"]: row for row in guess.rows}
    targets = {task.column for task in guess.tasks.values()}
    for column in made.leaks:
        # A copy of what is no target here tells nothing; an outcome in words is offered as a target.
        copied = column == "lab_cod" or column in targets
        assert copied or by_name[column]["doubt"], column
    unasked = [column for column in made.sound if by_name[column]["role"] != "input" or by_name[column]["doubt"]]
    assert unasked == []


def test_ids_that_contradict_each_other_are_told(tmp_path: Path) -> None:
    frame = table().rename(columns={"mrn": "patient_nr"})
    frame["patient_nr"] = np.random.default_rng(5).integers(0, 450, N)
    guess, path = begun(tmp_path, frame)
    by_name = {row["column"]: row for row in rows(path)}
    assert "contradict each other" in by_name[guess.patient_id]["doubt"]
