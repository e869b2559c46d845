"""HAIM-MIMIC-MM, from files with the published names, columns and quirks to a cohort, and on into a search."""

from __future__ import annotations

import gzip
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from model.cohorts.cohort import Cohort
from model.sources import haim, haim_features, haim_tables, haim_tasks
from model.sources.haim_tables import KEYS, PATHOLOGIES, SOURCES
from model.sources.opening import open_cohort
from tests.support import haim_files
from tim_search import config
from tim_search.executors.serial import SerialExecutor
from tim_search.ledger.ledger import Ledger
from tim_search.loop import run as search
from tim_search.types import BadInput

TABLE = "cxr_ic_fusion_1103.csv"


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, haim_files.Truth]:
    root = tmp_path_factory.mktemp("haim")
    return root, haim_files.write(root)


@pytest.fixture(scope="module")
def built(given: tuple[Path, haim_files.Truth]) -> tuple[Path, dict[str, Any]]:
    root = given[0]
    return root / "out", haim.build(root / TABLE, root / "out", mimic=root / "mimic")


@pytest.fixture(scope="module")
def cohort(built: tuple[Path, dict[str, Any]]) -> Cohort:
    return open_cohort(built[0])


@pytest.fixture(scope="module")
def rows(given: tuple[Path, haim_files.Truth], cohort: Cohort) -> pd.DataFrame:
    """What was written, a row for each sample of the cohort in its order, with the keys."""
    root, truth = given
    keys = pd.read_csv(root / KEYS)
    table = truth.table.assign(position=np.arange(len(truth.table)))
    table = table.merge(keys.assign(haim_id=np.arange(len(keys))), on="haim_id", how="left")
    return table.dropna(subset="subject_id").drop_duplicates("img_id").set_index("img_id").loc[list(cohort.sample_ids)]


# ------------------------------------------------------------------------------------------------ the cohort


def test_the_rows_and_who_they_are_of(
    given: tuple[Path, haim_files.Truth], built: tuple[Path, dict[str, Any]], cohort: Cohort, rows: pd.DataFrame
) -> None:
    truth = given[1]
    assert set(cohort.sample_ids) == set(truth.table["img_id"]) - {"ffffffff-0-c0ffee00"}
    assert (cohort.patient_ids[cohort.patients] == rows["subject_id"].to_numpy()).all()
    assert rows["hadm_id"].nunique() > rows["subject_id"].nunique()  # so that stays and patients can be told apart
    sides = pd.Series(cohort.split.test).groupby(cohort.patients).nunique()
    assert (sides == 1).all()
    counts = [step["rows"] for step in built[1]["steps"]]
    assert counts == [len(truth.table), len(truth.table) - 1, truth.table["img_id"].nunique() - 1]
    assert built[1]["steps"][-1]["patients"] == len(cohort.patient_ids)
    assert list(cohort.info["counts"].values()) == counts


def test_the_features_are_those_of_the_table(
    given: tuple[Path, haim_files.Truth], cohort: Cohort, rows: pd.DataFrame
) -> None:
    widths = {name: modality.values.shape[1] for name, modality in cohort.modalities.items()}
    assert widths == {source.prefix: source.width for source in SOURCES}
    assert sum(widths.values()) == 4845
    names = ["vd_1023", "vp_17", "ts_ce_0", "ts_pe_109", "n_rad_767", "vmp_3", "de_0"]
    written = pd.read_csv(given[0] / TABLE, usecols=names).iloc[rows["position"].to_numpy()]
    for name in names:
        modality = cohort.modalities[name.rsplit("_", 1)[0]]
        read = modality.values[:, modality.columns.index(name)]
        here = modality.present
        np.testing.assert_allclose(read[here], written[name].to_numpy()[here], rtol=1e-6)
        assert np.isnan(read[~here]).all()


def test_categories_and_what_was_not_recorded(
    given: tuple[Path, haim_files.Truth], cohort: Cohort, rows: pd.DataFrame
) -> None:
    tabular = cohort.modalities["de"]
    assert set(tabular.levels) == {"de_1", "de_2", "de_3", "de_4", "de_5"}
    written = pd.read_csv(given[0] / TABLE, usecols=["de_3"])["de_3"].to_numpy()[rows["position"].to_numpy()]
    codes = tabular.values[:, 3]
    assert (np.isnan(codes) == (written == -1)).all()
    assert [tabular.levels["de_3"][int(code)] for code in codes[written >= 0]] == [
        str(int(v)) for v in written[written >= 0]
    ]


def test_missing_notes_and_images_are_absent_modalities(
    given: tuple[Path, haim_files.Truth], built: tuple[Path, dict[str, Any]], cohort: Cohort, rows: pd.DataFrame
) -> None:
    for source in SOURCES:
        absent = given[1].absent[source.prefix][rows["position"].to_numpy()]
        assert (cohort.modalities[source.prefix].present == ~absent).all(), source.prefix
        assert built[1]["sources"][source.prefix]["absent"] == absent.sum()
    # Patients with the same note word by word have a note.
    assert not cohort.modalities["n_ecg"].present.all()
    note = cohort.modalities["n_ecg"].values
    same = (note == note[np.flatnonzero(cohort.modalities["n_ecg"].present)[0]]).all(axis=1)
    assert same.sum() > 5


def test_the_embedding_of_no_note_is_not_seen_where_there_is_none() -> None:
    dice = np.random.default_rng(0)
    views = {name: dice.normal(size=(60, 8)).astype(np.float32) for name in ("n_ecg", "n_ech")}
    marks = {name: np.array([hash(row.tobytes()) for row in view]) for name, view in views.items()}
    patients = np.repeat(np.arange(30), 2)
    assert haim_features._filler(marks, views, patients) is None
    marks["n_ech"][10:14] = marks["n_ech"][10]  # two patients with the same note
    assert haim_features._filler(marks, views, patients) is None
    marks["n_ecg"][:4] = marks["n_ech"][10]  # the same vector where two patients have another kind of note
    assert haim_features._filler(marks, views, patients) is not None


# ------------------------------------------------------------------------------------------------ tasks


def test_diagnoses_are_the_codes_of_the_admission(
    given: tuple[Path, haim_files.Truth], cohort: Cohort, rows: pd.DataFrame
) -> None:
    truth = given[1]
    recorded = pd.read_csv(given[0] / "mimic/hosp/diagnoses_icd.csv.gz")["hadm_id"].unique()
    without = ~rows["hadm_id"].isin(recorded).to_numpy()
    assert without.sum() > 0
    diagnoses = [name for name in truth.has if name in cohort.tasks]
    assert len(diagnoses) >= 39
    for name in diagnoses:
        expected = np.where(without, np.nan, rows["hadm_id"].isin(truth.has[name]).to_numpy(float))
        np.testing.assert_array_equal(cohort.labels[name], expected, err_msg=name)
    # ICD-9 E030 (an activity) is on every second record; in ICD-10 the same text is hypothyroidism.
    assert np.nanmean(cohort.labels["hypothyroidism"]) < 0.35


def test_outcomes_and_pathology(cohort: Cohort, rows: pd.DataFrame) -> None:
    for index, (_, row) in enumerate(rows.iterrows()):
        hours, died = row["img_length_of_stay"], row["death_status"] == 1
        assert cohort.labels["length_of_stay"][index] == pytest.approx(hours / 24)
        soon = 0.0 if hours >= 48 else 1.0 if died else np.nan
        np.testing.assert_equal(cohort.labels["mortality_48h"][index], soon)
        found = [k for k, name in enumerate(PATHOLOGIES) if row[name] == 1]
        np.testing.assert_equal(cohort.labels["pathology"][index], float(found[0]) if len(found) == 1 else np.nan)
    assert cohort.classes["pathology"] == PATHOLOGIES
    assert ("length_of_stay", "mortality_48h") in cohort.overlaps
    assert cohort.tasks["phenotype"].n_outputs == 15


def test_the_known_leaks_are_closed(built: tuple[Path, dict[str, Any]], cohort: Cohort) -> None:
    inputs = {column for modality in cohort.modalities.values() for column in modality.columns}
    closed = built[1]["closed"]
    for column in ("discharge_location", "img_length_of_stay", "death_status", "split", *haim_files.LABELS):
        assert column not in inputs
        assert closed[column]
    assert "n_rad" not in cohort.for_tasks(["pathology", "sepsis"]).modalities
    assert "n_rad" in cohort.for_tasks(["sepsis"]).modalities
    assert "radiology" in closed["n_rad_*"]
    # Every column that is no feature is accounted for.
    names = pd.read_csv(built[0].parent / TABLE, nrows=0).columns
    rest = set(names) - {f"{source.prefix}_{k}" for source in SOURCES for k in range(source.width)}
    assert rest - {"haim_id", "img_id"} == set(closed) - {"n_rad_*"}


def test_the_table_of_codes_is_sound() -> None:
    table = haim_tasks.diagnosis_table()
    diagnoses = table[table["task"] != "hospital_acquired_infection"]
    assert (diagnoses["task"].nunique(), diagnoses["department"].nunique()) == (40, 16)
    assert (table.groupby("task")["icd_version"].nunique() == 2).all()
    assert table[["source", "title", "diagnosis"]].ne("").all().all()
    assert not table.duplicated(["task", "icd_version", "prefix"]).any()
    assert table.loc[table["icd_version"] == "9", "prefix"].str.fullmatch(r"\d{3,5}").all()
    assert table.loc[table["icd_version"] == "10", "prefix"].str.fullmatch(r"[A-Z]\d\d[0-9A-Z]{0,3}").all()
    for _, part in table.groupby(["task", "icd_version"]):
        for prefix in part["prefix"]:
            assert sum(other.startswith(prefix) for other in part["prefix"]) == 1, f"{prefix} is said twice"


def test_the_papers_modalities_and_a_task_that_no_fold_can_score(
    given: tuple[Path, haim_files.Truth], tmp_path: Path, cohort: Cohort
) -> None:
    root = given[0]
    shutil.copytree(root / "mimic", tmp_path / "mimic")
    path = tmp_path / "mimic/hosp/diagnoses_icd.csv.gz"
    codes = pd.read_csv(path, dtype=str, keep_default_na=False)
    codes[~codes["icd_code"].str.strip().str.startswith(("042", "B20"))].to_csv(path, index=False)
    manifest = haim.build(root / TABLE, tmp_path / "out", keys=root / KEYS, mimic=tmp_path / "mimic", grouped=True)
    small = open_cohort(tmp_path / "out")
    assert "the same (0)" in manifest["left_out"]["hiv"]
    assert set(cohort.tasks) - set(small.tasks) == {"hiv"}
    widths = {name: len(modality.columns) for name, modality in small.modalities.items()}
    assert widths == {"tabular": 6, "time_series": 451, "vision": 2084, "language": 2304}
    some = np.logical_or.reduce([cohort.modalities[name].present for name in ("n_ecg", "n_ech", "n_rad")])
    assert (small.modalities["language"].present == some).all()
    assert 0 < (~some).sum() < len(some)
    assert len(small.for_tasks(["pathology"]).modalities["language"].columns) == 2 * 768


# ------------------------------------------------------------------------------------------------ into a search


def test_a_search_over_it(built: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    training = {"epochs": 1, "replicates": 0, "width": 16}
    tasks = ("pathology", "length_of_stay", "mortality_48h")
    file = config.SearchFile(
        cohort=str(built[0]), tasks=tasks, training=training, design={"sized": 1}, resources={"workers": 1}
    )
    found = config.resolve(file, tmp_path / "run")
    factory, payload = config.training(found)
    executor = SerialExecutor(factory, payload, found.tasks)
    ledger = Ledger(found.ledger)
    search.run(found.plan, ledger, found.context, found.tasks, found.blocks, executor, capacity=8)
    scores = ledger.scores(found.context.key)
    assert set(scores["task"]) == set(tasks)
    assert (scores["status"] == "ok").all()


# ------------------------------------------------------------------------------------------------ what cannot be used


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.drop(columns="death_status"), "lacks the columns death_status"),
        (lambda t: t.drop(columns="vp_3"), "has 17 of the 18 columns vp_0"),
        (lambda t: t.assign(vp_18=1.0), "has a column vp_18, one more"),
        (lambda t: t.drop(columns=[c for c in t if c.startswith(("vp", "vmp"))]), "none of HAIM's 11 sources"),
        (lambda t: t.assign(haim_id=t["haim_id"] + 30), "numbered 0 to 39, but the embeddings have the haim_id 69"),
        (lambda t: t.assign(img_id=None), "no haim_id or no img_id"),
        (lambda t: t.assign(vp_3="many"), "a row cannot be read"),
        (lambda t: t.iloc[:0], "expected rows, it has none"),
        (lambda t: t.iloc[:8], "4 patients are too few"),
    ],
)
def test_bad_tables(tmp_path: Path, change: Callable[[pd.DataFrame], Any], words: str) -> None:
    path = haim_files.small_table(tmp_path, change)
    with pytest.raises(BadInput, match=words):
        haim.build(path, tmp_path / "out")
    assert not list(tmp_path.glob("*out*"))


def test_bad_keys(tmp_path: Path) -> None:
    path = haim_files.small_table(tmp_path)
    keys = pd.read_csv(tmp_path / KEYS)
    shifted = keys.assign(hadm_id=np.roll(keys["hadm_id"], 1))
    spoiled = {
        "only 0% have that of their admission": shifted,
        "it lacks subject_id": keys.drop(columns="subject_id"),
        "1 haim_ids stand for two stays": keys.assign(haim_id_pickle=[0, 0, *range(1, 39)]),
        "no haim_id of the table is in it": keys.assign(haim_id=np.arange(40) + 500),
    }
    for words, table in spoiled.items():
        table.to_csv(tmp_path / "spoiled.csv", index=False)
        with pytest.raises(BadInput, match=words):
            haim.build(path, tmp_path / "out", keys=tmp_path / "spoiled.csv", mimic=tmp_path / "mimic")
    for name, content in {"torn.csv.gz": b"\x1f\x8b\x08\x00 torn", "empty.csv": b""}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(BadInput, match=f"{name}: expected a CSV file with the columns"):
            haim.build(path, tmp_path / "out", keys=tmp_path / name)
    with pytest.raises(BadInput, match="cannot be written"):
        haim.build(path, tmp_path / "empty.csv" / "out")
    with pytest.raises(BadInput, match=r"diagnoses_icd\.csv\.gz"):
        haim.build(path, tmp_path / "out", mimic=tmp_path / "mimic")
    whole = gzip.compress(b"hadm_id,icd_code,icd_version\n" + b"2000,4280,9\n" * 9000)
    (tmp_path / "mimic" / "diagnoses_icd.csv.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BadInput, match="expected a CSV file with the columns hadm_id, icd_code"):
        haim.build(path, tmp_path / "out", mimic=tmp_path / "mimic")
    (tmp_path / KEYS).unlink()
    with pytest.raises(BadInput, match="a patient could be on both sides of the split"):
        haim.build(path, tmp_path / "out")
    with pytest.raises(BadInput, match="there is no such file"):
        haim.build(tmp_path / "none.csv", tmp_path / "out")
    assert not list(tmp_path.glob("*out*"))


def test_named_haim_ids_are_taken_and_a_part_of_the_sources_is_enough(tmp_path: Path) -> None:
    path = haim_files.small_table(tmp_path)
    keys = pd.read_csv(tmp_path / KEYS).assign(haim_id_pickle=np.arange(40)).iloc[::-1]
    keys.to_csv(tmp_path / KEYS, index=False)
    manifest = haim.build(path, tmp_path / "out")
    made = open_cohort(tmp_path / "out")
    assert "haim_id_pickle" in manifest["keys"]
    assert set(made.tasks) == {"length_of_stay", "mortality_48h", "phenotype"}
    assert list(made.modalities) == ["vp", "vmp"]
    assert (made.patient_ids[made.patients] == 1000 + np.arange(40) // 2).all()
    assert "pathology" in manifest["left_out"]
    assert json.loads((tmp_path / "out" / "manifest.json").read_text()) == manifest
    with pytest.raises(BadInput, match="new or empty"):
        haim.build(path, tmp_path / "out")


def test_an_interruption_leaves_nothing(tmp_path: Path) -> None:
    path = haim_files.small_table(tmp_path)
    before = sorted(tmp_path.iterdir())

    def interrupt(what: str, done: int, total: int | None) -> None:
        if what == "writing features":
            assert done == total == 40
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        haim.build(path, tmp_path / "out", tell=interrupt)
    assert sorted(tmp_path.iterdir()) == before


# ------------------------------------------------------------------------------------------------ memory

_BUILD = """
import resource, sys
from pathlib import Path
from model.sources import haim
import pyarrow.csv
root = Path(sys.argv[1])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
haim.build(root / "cxr_ic_fusion_1103.csv", root / "out")
print(before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_a_table_is_read_within_its_memory(tmp_path: Path) -> None:
    """The 45,050 rows of the published table may take 4 GB; fewer rows accordingly less, and pieces of a fixed size."""
    haim_files.write(tmp_path, n_patients=2600)
    n = sum(1 for _ in (tmp_path / TABLE).open("rb")) - 1
    done = subprocess.run([sys.executable, "-c", _BUILD, str(tmp_path)], capture_output=True, text=True, check=True)
    before, peak = map(int, done.stdout.split())
    unit = 1 if sys.platform == "darwin" else 1024
    assert n > 6000
    assert (peak - before) * unit < 400e6 + n / 45050 * 3e9


def test_a_haim_table_without_anything_in_it(tmp_path: Path) -> None:
    path = tmp_path / "cxr.csv"
    path.write_text("")
    with pytest.raises(BadInput, match=r"cannot be read as CSV.*Download it again"):
        haim_tables.header(path)
