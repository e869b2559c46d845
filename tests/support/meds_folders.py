"""A small MEDS folder of made-up patients, in the layout of MIMIC-III's demo as a MEDS data set."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

COLUMNS = ["subject_id", "time", "code", "numeric_value", "text_value"]
START = datetime(2150, 1, 1, 8, 30)
HOUR = timedelta(hours=1)

Row = tuple[int, datetime | None, str, float | None, str | None]


def patient(subject: int, rng: np.random.Generator) -> list[Row]:
    """Events of a patient: two stays, measurements every few hours, and what is coded at each discharge."""
    rows: list[Row] = [
        (subject, None, f"GENDER//{'FM'[subject % 2]}", None, None),
        (subject, datetime(1790 if subject % 7 == 0 else 2080, 3, 5), "MEDS_BIRTH", None, None),
    ]
    ill = rng.normal()
    for stay in range(2):
        begin = START + timedelta(days=400 * stay + subject, hours=float(rng.integers(12)))
        hours = int(rng.integers(60, 120))
        rows.append((subject, begin, "HOSPITAL_ADMISSION//EMERGENCY", None, None))
        rows.append((subject, begin, f"ETHNICITY//{'WHITE' if subject % 3 else 'UNKNOWN'}", None, None))
        rows.append((subject, begin + HOUR, "ICU_ADMISSION//MICU", None, None))
        for hour in range(1, hours, 4):
            moment = begin + hour * HOUR
            rows.append((subject, moment, "CHART//211//bpm", float(round(80 + 10 * ill + rng.normal(0, 5), 1)), None))
            if rng.random() < 0.4:
                rows.append((subject, moment, "LAB//50912//mg/dL", float(round(1 + abs(ill) + rng.random(), 1)), None))
            if rng.random() < 0.3:
                rows.append(
                    (subject, moment, "CHART//184//UNK", None, "4 Spontaneously" if ill < 0 else "1 No Response")
                )
        day = datetime(begin.year, begin.month, begin.day) + timedelta(days=1)
        rows.append((subject, day, "MEDICATION//Heparin", None, None))
        note = "The patient is quiet. " * 12
        rows.append((subject, begin + 5 * HOUR, "NOTE//Nursing", None, f"{note}{subject} {stay}"))
        end = begin + hours * HOUR
        where = "DEAD/EXPIRED" if ill + rng.normal(0, 0.5) > 0.4 and stay else "HOME"
        rows.append((subject, end, f"HOSPITAL_DISCHARGE//{where}", None, None))
        rows.append((subject, end, "DIAGNOSIS//ICD9CM//4280", None, None))
        rows.append((subject, end, "PROCEDURE//ICD9PCS//3893", None, None))
    return rows


def events(subjects: int = 60, seed: int = 0) -> pd.DataFrame:
    """Events of all patients, in order of subject and time."""
    rng = np.random.default_rng(seed)
    rows = [row for subject in range(1, subjects + 1) for row in patient(subject, rng)]
    return pd.DataFrame(rows, columns=COLUMNS)


def table(frame: pd.DataFrame, **types: pa.DataType) -> pa.Table:
    """Events as a table of MEDS; `types` stand in for its own."""
    kinds = {
        "subject_id": pa.int64(), "time": pa.timestamp("us"), "code": pa.string(), "numeric_value": pa.float32(),
        "text_value": pa.large_string(),
    } | types  # fmt: skip
    columns: dict[str, Any] = {}
    for name in frame.columns:
        values = frame[name].tolist()
        values = [None if value is None or value != value else value for value in values]
        columns[name] = pa.array(values, kinds.get(name))
    return pa.table(columns)


def write(root: Path, frame: pd.DataFrame, shards: int = 3) -> Path:
    """Write a MEDS folder, the subjects dealt out to shards; returns its path."""
    (root / "metadata").mkdir(parents=True)
    subjects = sorted(set(frame["subject_id"]))
    parts = {
        subject: ("train", "train", "train", "tuning", "held_out")[index % 5] for index, subject in enumerate(subjects)
    }
    for number in range(shards):
        for part in set(parts.values()):
            mine = {subject for subject in subjects if parts[subject] == part and subject % shards == number}
            path = root / "data" / part / f"{number}.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(table(frame[frame["subject_id"].isin(mine)]), path)
    split = {"subject_id": pa.array(list(parts), pa.int64()), "split": pa.array(list(parts.values()))}
    pq.write_table(pa.table(split), root / "metadata" / "subject_splits.parquet")
    about = {"dataset_name": "made-up", "meds_version": "0.4.1"}
    (root / "metadata" / "dataset.json").write_text(json.dumps(about))
    return root


MORTALITY = """
predicates:
  icu: {code: {regex: "^ICU_ADMISSION//"}}
  discharge: {code: {regex: "^HOSPITAL_DISCHARGE//"}}
  dead: {code: "HOSPITAL_DISCHARGE//DEAD/EXPIRED"}
trigger: icu
windows:
  input: {start: trigger, end: start + 48h, start_inclusive: true, end_inclusive: true, index_timestamp: end,
          has: {discharge: "(None, 0)"}}
  target: {start: input.end, end: start -> discharge, start_inclusive: false, end_inclusive: true, label: dead}
"""


def labels(frame: pd.DataFrame, hours: float = 49) -> pd.DataFrame:
    """A MEDS label table: whether a stay that lasts beyond `hours` goes on for 36 hours more."""
    rows = []
    for subject, own in frame[frame["time"].notna()].groupby("subject_id"):
        begins = own.loc[own["code"].str.startswith("HOSPITAL_ADMISSION"), "time"]
        ends = own.loc[own["code"].str.startswith("HOSPITAL_DISCHARGE"), "time"]
        for begin, end in zip(begins, ends, strict=True):
            moment = begin + hours * HOUR
            if end > moment:
                rows.append((subject, moment, end > moment + 36 * HOUR))
    return pd.DataFrame(rows, columns=["subject_id", "prediction_time", "boolean_value"])


def write_labels(path: Path, frame: pd.DataFrame) -> None:
    """Write a label table as MEDS has it."""
    kinds = {
        "subject_id": pa.int64(), "prediction_time": pa.timestamp("us"), "boolean_value": pa.bool_(),
        "integer_value": pa.int64(), "float_value": pa.float32(), "categorical_value": pa.string(),
    }  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({name: pa.array(frame[name].tolist(), kinds[name]) for name in frame.columns}), path)
