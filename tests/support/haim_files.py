"""HAIM-MIMIC-MM in miniature: files with the names, columns, types and quirks of the published ones, invented patients.

What is faithful: the embedding table's columns in their order (ids and outcomes, eleven blocks of features, image
labels), one row an image and again one for each ICU stay of an admission; labels 1, 0, -1 and empty; no note = one
constant vector in all three kinds of notes; no earlier image = zeros; -1 = a category not recorded; a key file whose
row number is the haim_id; MIMIC-IV's compressed tables, ICD-9 and ICD-10 codes without dots, with leading zeros and
padded with spaces.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv as pacsv

from model.sources.haim_tables import PATHOLOGIES, SOURCES
from model.sources.haim_tasks import diagnosis_table

LABELS = (
    "Atelectasis",
    "Cardiomegaly",
    "Consolidation",
    "Edema",
    "Enlarged Cardiomediastinum",
    "Fracture",
    "Lung Lesion",
    "Lung Opacity",
    "No Finding",
    "Pleural Effusion",
    "Pleural Other",
    "Pneumonia",
    "Pneumothorax",
    "Support Devices",
)
#: The order of the blocks in the published table.
ORDER = ("de", "vd", "vp", "vmd", "vmp", "ts_ce", "ts_le", "ts_pe", "n_ecg", "n_ech", "n_rad")


@dataclass(frozen=True)
class Truth:
    """What was written, by image in the order of the table.

    `table` has the ids and outcomes; `absent` says which image lacks which source; `has` which admission has which
    task's code.
    """

    table: pd.DataFrame
    absent: dict[str, np.ndarray]
    has: dict[str, set[int]]


def write(root: Path, n_patients: int = 150, seed: int = 0) -> Truth:
    """Write the embedding table, the key file and a folder mimic/ with two tables of MIMIC-IV."""
    dice = np.random.default_rng(seed)
    stays = _stays(dice, n_patients)
    table = _images(dice, stays)
    absent = _embeddings(dice, table, root / "cxr_ic_fusion_1103.csv")
    # As HAIM writes it: columns by alphabet, no haim_id, for the row number is it.
    keys = stays[["hadm_id", "stay_id", "subject_id"]].astype("Int64")
    keys.loc[len(keys)] = pd.NA  # a stay that lost its keys; the table has an image of it
    keys.loc[len(keys)] = [29_999_998, 39_999_998, 19_999_998]  # and one without images
    keys.to_csv(root / "haim_mimiciv_key_ids.csv", index=False)
    (root / "mimic" / "hosp").mkdir(parents=True)
    _admissions(dice, stays, root / "mimic" / "hosp" / "admissions.csv.gz")
    has = _diagnoses(dice, stays, root / "mimic" / "hosp" / "diagnoses_icd.csv.gz")
    return Truth(table, absent, has)


def _stays(dice: np.random.Generator, n_patients: int) -> pd.DataFrame:
    """A row an ICU stay: its keys and how the admission ended."""
    rows = []
    for patient in range(n_patients):
        subject = 10_000_032 + 41 * patient
        for admission in range(1 + patient % 2):
            hadm = 20_000_019 + 97 * (2 * patient + admission)
            died = dice.random() < 0.25
            place = "DIED" if died else dice.choice(["HOME", "SKILLED NURSING FACILITY", "HOME HEALTH CARE"])
            los = float(np.round(dice.gamma(2.0, 60.0) + 5, 4))
            for _ in range(2 if patient % 6 == 0 else 1):
                rows.append((subject, hadm, 30_000_153 + 13 * len(rows), place, los))
    return pd.DataFrame(rows, columns=["subject_id", "hadm_id", "stay_id", "discharge_location", "los"])


def _images(dice: np.random.Generator, stays: pd.DataFrame) -> pd.DataFrame:
    """A row an image and stay; the images of an admission are in each of its stays."""
    rows = []
    for haim_id, stay in stays.iterrows():
        count = 1 + int(stay["hadm_id"]) % 2
        for image in range(count):
            left = stay["los"] * (count - image) / (count + 0.5)
            name = f"{int(stay['hadm_id']):08x}-{image:08x}-c0ffee00"
            rows.append((haim_id, name, image, stay["discharge_location"], left))
    table = pd.DataFrame(rows, columns=["haim_id", "img_id", "image", "discharge_location", "img_length_of_stay"])
    table["img_charttime"] = "2180-07-23 08:05:00"
    table["img_deltacharttime"] = 10.5 + table["image"]
    table["death_status"] = (table["discharge_location"] == "DIED").astype(int)
    table["split"] = dice.choice(["train", "validate", "test"], len(table), p=[0.9, 0.05, 0.05])
    by_image = table["img_id"].map(dict(zip(table["img_id"].unique(), range(table["img_id"].nunique()), strict=True)))
    for label in LABELS:
        values = dice.choice([1.0, 0.0, -1.0, np.nan], by_image.max() + 1, p=[0.12, 0.3, 0.03, 0.55])
        if label == "Atelectasis":
            values[::9] = 1.0
        table[label] = values[by_image]
    table["PerformedProcedureStepDescription"] = "CHEST (PORTABLE AP), 1 VIEW"
    table["ViewPosition"] = dice.choice(["AP", "PA"], len(table))
    stray = table.iloc[[0]].assign(haim_id=len(stays), img_id="ffffffff-0-c0ffee00")
    return pd.concat([table, stray], ignore_index=True)


def _embeddings(dice: np.random.Generator, table: pd.DataFrame, path: Path) -> dict[str, np.ndarray]:
    """Write the table; returns which row lacks which source. The same image has the same features in every stay."""
    code, names = pd.factorize(table["img_id"])
    n = len(names)
    empty = np.round(np.tanh(dice.normal(size=768)), 3)  # the embedding of ""
    normal = np.round(np.tanh(dice.normal(size=768)), 3)  # one note that several patients have word by word
    died = table.groupby(code)["death_status"].first().to_numpy()
    blocks, absent = {}, {}
    for source in SOURCES:
        values = (
            dice.standard_normal((n, source.width), np.float32) + np.float32(0.3 * (source.width < 20)) * died[:, None]
        )
        gone = np.zeros(n, bool)
        if source.prefix.startswith("n_"):
            gone = dice.random(n) < {"n_ecg": 0.3, "n_ech": 0.6, "n_rad": 0.1}[source.prefix]
            values = np.tanh(values)
            values[gone] = empty
            if source.prefix == "n_ecg":
                values[np.flatnonzero(~gone)[:20]] = normal
        elif source.prefix in ("vmd", "vmp"):
            gone = np.char.endswith(names.to_numpy().astype(str), "-00000000-c0ffee00")
            values[gone] = 0.0
        elif source.prefix == "de":
            values = np.column_stack([dice.integers(18, 92, n), *(dice.integers(0, k, n) for k in (2, 8, 4, 2, 3))])
            values[dice.random(n) < 0.1, 3] = -1  # marital status not recorded
        elif source.prefix.startswith("ts_"):
            values[:, 11:22] = 0.0  # a signal that nobody had
            values[:, 22::11] = np.maximum(values[:, 22::11], 0)
        blocks[source.prefix] = np.round(values.astype(np.float64), 3)
        absent[source.prefix] = gone[code]
    columns: dict[str, pa.Array] = {}
    first = ("haim_id", "img_id", "img_charttime", "img_deltacharttime", "discharge_location", "img_length_of_stay")
    for name in (*first, "death_status"):
        columns[name] = pa.array(table[name], from_pandas=True)
    for prefix in ORDER:
        for index, values in enumerate(blocks[prefix].T):
            columns[f"{prefix}_{index}"] = pa.array(values[code])
    for name in ("split", *LABELS, "PerformedProcedureStepDescription", "ViewPosition"):
        columns[name] = pa.array(table[name], from_pandas=True)
    pacsv.write_csv(pa.table(columns), path)
    return absent


def _admissions(dice: np.random.Generator, stays: pd.DataFrame, path: Path) -> None:
    rows = stays.drop_duplicates("hadm_id")
    pd.DataFrame(
        {
            "subject_id": rows["subject_id"],
            "hadm_id": rows["hadm_id"],
            "admittime": "2180-07-22 21:35:00",
            "dischtime": "2180-07-29 17:15:00",
            "deathtime": np.where(rows["discharge_location"] == "DIED", "2180-07-29 17:15:00", ""),
            "admission_type": dice.choice(["URGENT", "EW EMER."], len(rows)),
            "admit_provider_id": "P874LG",
            "admission_location": "EMERGENCY ROOM",
            "discharge_location": rows["discharge_location"],
            "insurance": "Other",
            "language": "ENGLISH",
            "marital_status": "WIDOWED",
            "race": "WHITE",
            "edregtime": "",
            "edouttime": "",
            "hospital_expire_flag": (rows["discharge_location"] == "DIED").astype(int),
        }
    ).to_csv(path, index=False)


def _diagnoses(dice: np.random.Generator, stays: pd.DataFrame, path: Path) -> dict[str, set[int]]:
    """Write diagnoses_icd; returns the admissions that have each task's code."""
    listed = diagnosis_table()
    has: dict[str, set[int]] = {task: set() for task in listed["task"].unique()}
    prefixes = {key: part["prefix"].tolist() for key, part in listed.groupby(["task", "icd_version"])}
    admissions = stays.drop_duplicates("hadm_id")[["subject_id", "hadm_id"]].to_numpy()
    rows = []
    for index, (subject, hadm) in enumerate(admissions.tolist()):
        if index == 3:
            continue  # an admission without a discharge record
        version = 9 if index % 2 else 10
        # Of no task: a text that is hypothyroidism in ICD-10 and an activity in ICD-9, tobacco, an external cause.
        others = ["E030", "3051", "V1582"] if version == 9 else ["Z87891", "Y92230"]
        tasks = [task for task in has if dice.random() < 0.15]
        for task in tasks:
            code = str(dice.choice(prefixes[task, str(version)]))
            others.append(code + ("" if version == 9 else str(dice.choice(["", "1"]))))
        # What a code means is what the table says, also where it belongs to two tasks.
        for code in others:
            for (task, of), starts in prefixes.items():
                if int(of) == version and code.startswith(tuple(starts)):
                    has[task].add(hadm)
        rows += [(subject, hadm, seq, code.ljust(7), version) for seq, code in enumerate(others, 1)]
    # Admissions that the embeddings do not have, and a record without a code.
    rows += [(10_000_001, 29_999_999, 1, "4280   ", 9), (10_000_001, 29_999_999, 2, "", 9)]
    frame = pd.DataFrame(rows, columns=["subject_id", "hadm_id", "seq_num", "icd_code", "icd_version"])
    frame.to_csv(path, index=False)
    return has


def small_table(root: Path, change: Callable[[pd.DataFrame], Any] = lambda table: None) -> Path:
    """A table with two small sources, for errors that are found before the features matter."""
    n = 40
    table = pd.DataFrame({"haim_id": np.arange(n), "img_id": [f"i{k}" for k in range(n)]})
    table["discharge_location"] = np.where(np.arange(n) % 2, "HOME", "DIED")
    table["img_length_of_stay"], table["death_status"] = 10.0 + np.arange(n) * 7 % 20 * 5, (np.arange(n) + 1) % 2
    for name in ("vp", "vmp"):
        table[[f"{name}_{k}" for k in range(18)]] = np.random.default_rng(0).normal(size=(n, 18))
    for name in PATHOLOGIES:
        table[name] = 0.0
    changed = change(table)
    path = root / "cxr_ic_fusion_1103.csv"
    (table if changed is None else changed).to_csv(path, index=False)
    keys = pd.DataFrame({"subject_id": 1000 + np.arange(n) // 2, "hadm_id": 2000 + np.arange(n), "stay_id": 3})
    keys.to_csv(root / "haim_mimiciv_key_ids.csv", index=False)
    (root / "mimic").mkdir()
    admissions = pd.DataFrame({"hadm_id": 2000 + np.arange(n), "discharge_location": ["DIED", "HOME"] * (n // 2)})
    admissions.to_csv(root / "mimic" / "admissions.csv", index=False)
    return path
