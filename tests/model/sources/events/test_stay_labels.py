"""Labels of stays: counts after each filter, hours, bins, deaths, groups of codes, and the files that say so."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from model.sources.events import labels, stay_labels
from model.sources.events.description import Sequence, read_description
from model.sources.events.shards import open_events
from model.sources.events.stay_labels import StayTask
from tim_search.gates import yaml
from tim_search.types import BadInput

CONFIGS = Path(str(files("model") / "sources" / "events" / "configs"))
BEGIN = datetime(2150, 3, 1, 6)
HOUR = timedelta(hours=1)

Row = tuple[int, datetime | None, str, int | None, int | None]


def stay(subject: int, number: int, hours: float, *, begin: datetime = BEGIN, dies: bool = False, to: str = "MICU",
         codes: tuple[str, ...] = (), admission: int | None = None) -> list[Row]:  # fmt: skip
    """Events of an ICU stay that begins two minutes before its admission, and ends an hour before the discharge."""
    of = number if admission is None else admission
    left = begin + hours * HOUR
    end = left + HOUR
    rows: list[Row] = [
        (subject, begin, "ICU_ADMISSION//MICU", of, number),
        (subject, left, f"ICU_DISCHARGE//{to}", of, number),
    ]
    if admission is None:
        rows.append((subject, begin + timedelta(minutes=2), "HOSPITAL_ADMISSION//EW EMER.//UNK", of, None))
        rows.append((subject, end, f"HOSPITAL_DISCHARGE//{'DIED' if dies else 'HOME'}", of, None))
        rows += [(subject, end, code, of, None) for code in codes]
    if dies:
        rows.append((subject, left, "MEDS_DEATH", None, None))
    return rows


def birth(subject: int, years: int) -> list[Row]:
    return [(subject, datetime(BEGIN.year - years, 1, 1), "MEDS_BIRTH", None, None)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six patients: one dies in the ICU, one moves, one has two stays in an admission, one is a child."""
    rows = [
        *birth(1, 60), *stay(1, 11, 50.5, dies=True, codes=("DIAGNOSIS//ICD//9//78552", "DRG//HCFA//871")),
        *birth(2, 50), *stay(2, 21, 200, codes=("DIAGNOSIS//ICD//10//N179", "DIAGNOSIS//ICD//10//I10", "DRG//APR//72")),
        *birth(3, 50), *stay(3, 31, 60, to="SICU"),
        *birth(4, 50), *stay(4, 41, 30), *stay(4, 42, 20, begin=BEGIN + 40 * HOUR, admission=41),
        *birth(5, 9), *stay(5, 51, 60),
        *birth(6, 70), *stay(6, 61, 3, codes=("DIAGNOSIS//ICD//9//5849", "DRG//HCFA//64")),
    ]  # fmt: skip
    root = tmp_path_factory.mktemp("meds")
    frame = pd.DataFrame(rows, columns=["subject_id", "time", "code", "hadm_id", "icustay_id"])
    for number in range(2):  # subjects 1, 3 and 5 in one shard
        mine = frame[frame["subject_id"] % 2 == number]
        table = {
            "subject_id": pa.array(mine["subject_id"], pa.int64()),
            "time": pa.array(list(mine["time"]), pa.timestamp("us")),
            "code": pa.array(list(mine["code"])),
            "numeric_value": pa.nulls(len(mine), pa.float32()),
            "hadm_id": pa.array([None if pd.isna(it) else int(it) for it in mine["hadm_id"]], pa.int64()),
            "icustay_id": pa.array([None if pd.isna(it) else int(it) for it in mine["icustay_id"]], pa.int64()),
        }
        path = root / "data" / "train" / f"{number}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(table), path)
    return root


def extract(path: Path, folder: Path) -> list[StayTask]:
    with open_events(folder) as events:
        return stay_labels.extract(path, events, lambda words: None)


def hours(task: StayTask, subject: int) -> list[float]:
    """Hours from `BEGIN` to the moments at which a patient is asked."""
    moments = pd.to_datetime(task.rows.loc[task.rows["subject"] == subject, "moment"], unit="us")
    return [(moment - BEGIN) / HOUR for moment in moments]


@pytest.fixture
def written(tmp_path: Path) -> Callable[[dict[str, Any]], Path]:
    """Writes a labels file; without an entry that is None."""

    def write(content: dict[str, Any]) -> Path:
        path = tmp_path / "outcome.yaml"
        whole = {"stay_labels": 1, "at": {"hour": 24}, "label": {"number": "days in unit"}} | content
        path.write_text(yaml.dump({key: value for key, value in whole.items() if value is not None}))
        return path

    return write


def test_filters_are_counted_in_order_and_one_hour_a_stay_is_drawn(folder: Path) -> None:
    (task,) = extract(CONFIGS / "flexcare" / "length_of_stay.yaml", folder)
    assert list(task.counts.items()) == [
        ("ICU stays", 7), ("with an end and an admission", 7), ("one unit", 6), ("one stay an admission", 4),
        ("adults", 3), ("samples", 2),
    ]  # fmt: skip
    assert task.paper["samples"] == 59_495
    assert task.entry == {"kind": "multiclass", "classes": [str(number) for number in range(10)]}
    assert sorted(task.rows["subject"]) == [1, 2]  # subject 6 leaves within the first four hours
    again = extract(CONFIGS / "flexcare" / "length_of_stay.yaml", folder)[0]
    pd.testing.assert_frame_equal(task.rows, again.rows)


def test_every_hour_after_the_fourth_has_the_bin_of_what_is_left(
    folder: Path, written: Callable[[dict[str, Any]], Path]
) -> None:
    bins = [1, 2, 3, 4, 5, 6, 7, 8, 14]
    label = {"number": "days in unit", "bins": bins}
    (task,) = extract(written({"at": {"every_hour_after": 4, "keep": "all"}, "label": label}), folder)
    mine = task.rows[task.rows["subject"] == 2]
    asked = np.arange(5, 201)
    assert sorted(hours(task, 2)) == asked.tolist()
    expected = np.searchsorted(bins, (200 - asked) / 24, side="right")
    np.testing.assert_array_equal(mine.sort_values("moment")["label"], expected)


def test_death_within_a_day_is_asked_while_the_patient_lives(
    folder: Path, written: Callable[[dict[str, Any]], Path]
) -> None:
    path = written({"at": {"every_hour_after": 4, "keep": "all"}, "label": {"death_within_hours": 24}})
    (task,) = extract(path, folder)
    mine = task.rows[task.rows["subject"] == 1].sort_values("moment")
    assert len(mine) == 46  # hours 5 to 50 of 50.5
    assert mine["label"].tolist() == [0.0] * 22 + [1.0] * 24  # from hour 27 on, fewer than 24 are left
    assert (task.rows.loc[task.rows["subject"] != 1, "label"] == 0).all()


def test_phenotypes_are_groups_of_codes_asked_before_the_discharge(folder: Path) -> None:
    (task,) = extract(CONFIGS / "flexcare" / "phenotyping.yaml", folder)
    names = task.entry["classes"]
    assert len(names) == 25
    labelled = {
        int(row["subject"]): {name for number, name in enumerate(names) if row[f"label_{number}"] == 1}
        for _, row in task.rows.iterrows()
    }
    assert labelled == {
        1: {"Shock"},
        2: {"Acute and unspecified renal failure", "Essential hypertension"},
        6: {"Acute and unspecified renal failure"},
    }
    assert [hours(task, subject) for subject in (1, 2, 6)] == [[50.5], [200], [3]]


def test_drg_and_diagnoses_are_asked_a_second_before_their_stamp(folder: Path) -> None:
    (drg,) = extract(CONFIGS / "flexcare" / "drg.yaml", folder)
    assert dict(zip(drg.rows["subject"], drg.rows["label"], strict=True)) == {1: "871", 6: "64"}
    tasks = extract(CONFIGS / "m3h" / "diagnoses.yaml", folder)
    assert len(tasks) == 41
    by_name = {task.name: task for task in tasks}
    assert by_name["hypertension"].entry == {"kind": "binary", "department": "Cardiology"}
    positive = by_name["hypertension"].rows
    assert positive.loc[positive["label"] == 1, "subject"].tolist() == [2]
    assert sorted(positive["subject"]) == [1, 2, 3, 4, 6]  # admissions of adults
    for task in (drg, by_name["hypertension"]):
        assert hours(task, 1) == [pytest.approx(51.5 - 1 / 3600, abs=1e-9)]


def test_label_tables_are_read_back_as_tasks(folder: Path, tmp_path: Path) -> None:
    made = [task for name in ("phenotyping", "drg", "length_of_stay", "length_of_stay_days", "decompensation")
            for task in extract(CONFIGS / "flexcare" / f"{name}.yaml", folder)]  # fmt: skip
    entries = stay_labels.write_tables(made, tmp_path)
    assert entries["phenotyping"]["label"] == [f"phenotyping-{number}" for number in range(25)]
    with open_events(folder) as events:
        read = {task.name: task for task in labels.read_labels(tmp_path, events, lambda words: None)}
    assert read["phenotyping-24"].rows["label"].sum() == 1
    assert sorted(read["drg"].rows["label"]) == ["64", "871"]
    days = made[3].rows.sort_values("subject")["label"].to_numpy()
    np.testing.assert_allclose(read["length_of_stay_days"].rows.sort_values("subject")["label"], days, rtol=1e-6)


def test_labels_files_lie_among_other_tasks(folder: Path, written: Callable[[dict[str, Any]], Path]) -> None:
    tasks = written({"label": {"number": "days in unit", "bins": [1, 2]}}).parent
    pq.write_table(
        pa.table({"subject_id": [1], "prediction_time": [BEGIN], "boolean_value": [True]}), tasks / "other.parquet"
    )
    (tasks / "tasks.yaml").write_text("overlaps: [[outcome, other]]")
    with open_events(folder) as events, stay_labels.expanded(tasks, events, lambda words: None) as made:
        assert [task.name for task in labels.read_labels(made, events, lambda words: None)] == ["other", "outcome"]
        declared = yaml.read(made / "tasks.yaml")[0]
        assert declared["overlaps"] == [["outcome", "other"]]
        assert declared["tasks"]["outcome"]["classes"] == ["0", "1", "2"]
        with stay_labels.expanded(made, events, lambda words: None) as again:
            assert again == made  # nothing is left to do
    (tasks / "later.yml").touch()
    with (
        open_events(folder) as events,
        pytest.raises(BadInput, match=f"^{tasks}: expected NAME.yaml"),
        stay_labels.expanded(tasks, events, lambda words: None) as made,
    ):
        labels.read_labels(made, events, lambda words: None)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*/*.yaml")), ids=lambda path: f"{path.parent.name}/{path.name}")
def test_configs_that_ship_can_be_read_and_say_where_they_are_from(path: Path, folder: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.startswith(("# FlexCare", "# M3H", "# Groups", "# The same"))
    if path.parent.name == "features":
        read_description(path)
    elif "trigger:" in text:
        with open_events(folder) as events:  # ACES takes it, whatever it finds among six patients
            labels.aces_tasks.extract({path.stem: path}, None, events, lambda words: None)


def test_the_series_has_the_76_columns_of_the_benchmark() -> None:
    modalities = read_description(CONFIGS / "features" / "flexcare.yaml").modalities
    (series,) = (modality for modality in modalities if isinstance(modality, Sequence))
    assert len(series.channels) == 17
    assert sum(len(channel.levels) or 1 for channel in series.channels.values()) + 17 == 76


def test_no_code_begins_in_two_groups() -> None:
    groups = yaml.read(CONFIGS / "codes" / "ccs.yaml")[0]["groups"]
    assert set(groups) == set(yaml.read(CONFIGS / "flexcare" / "phenotyping.yaml")[0]["label"]["names"])
    for vocabulary in ("icd9", "icd10"):
        begins = [(code, name) for name, group in groups.items() for code in str(group[vocabulary]).split()]
        for code, name in begins:
            for other, of in begins:
                if name != of and not other.endswith("="):
                    assert not code.removesuffix("=").startswith(other), (code, name, of)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"stay_labels": 2}, "stay_labels: 1"),
        ({"wrong": 1}, "key: expected one of"),
        ({"of": "wards"}, "of: expected one of admissions, icu stays"),
        ({"filters": ["rich"]}, "filters: expected one of"),
        ({"filters": "adults"}, "filters: expected one of"),
        ({"at": None}, "expected `at:`"),
        ({"label": "death"}, "expected `label:`"),
        ({"at": {"hour": -1}}, "whole number of hours"),
        ({"at": {"end": "day"}}, "at: end: expected one of admission, stay"),
        ({"at": {"every_hour_after": 4}}, "at: keep: expected one of all, one"),
        ({"label": {"wrong": 1}}, "label: expected one of"),
        ({"label": {"bins": [1]}}, "expected number, death_within_hours, groups or code"),
        ({"label": {"number": "weeks"}}, "label: number: expected one of"),
        ({"label": {"number": "days in unit", "bins": 3}}, "bins: expected days in rising order"),
        ({"label": {"number": "days in unit", "bins": []}}, "bins: expected days in rising order"),
        ({"label": {"number": "days in unit", "bins": [7, 3]}}, "bins: expected days in rising order"),
        ({"label": {"number": "days in unit", "bins": ["x"]}}, "bins: expected days in rising order"),
        ({"label": {"groups": "none.yaml"}}, "expected YAML in none.yaml"),
        ({"label": {"groups": "codes.yaml"}}, "expected `names:`"),
        ({"label": {"groups": "codes.yaml", "names": ["Flu"]}}, "names: expected one of Cold"),
        ({"label": {"groups": "list.yaml", "names": ["Flu"]}}, "expected keys and values in list.yaml"),
    ],
)  # fmt: skip
def test_what_a_labels_file_may_not_say(
    content: dict[str, Any], words: str, written: Callable[[dict[str, Any]], Path], folder: Path
) -> None:
    path = written(content)
    (path.parent / "codes.yaml").write_text("groups: {Cold: {icd9: '460'}}")
    (path.parent / "list.yaml").write_text("[1]")
    with pytest.raises(BadInput, match=words.replace("(", r"\(")):
        extract(path, folder)


def test_events_without_ids_of_stays_are_told(tmp_path: Path, written: Callable[[dict[str, Any]], Path]) -> None:
    (tmp_path / "data").mkdir()
    table = {"subject_id": [1], "time": [BEGIN], "code": ["ICU_ADMISSION//MICU"]}
    pq.write_table(pa.table(table), tmp_path / "data" / "0.parquet")
    with pytest.raises(BadInput, match="lacks hadm_id and icustay_id"):
        extract(written({}), tmp_path)
