"""Raw MIMIC-IV in one go, on miniature files: the converter, the papers' tasks, and what an interruption leaves."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from model.sources.events import mimic, mimic_raw
from model.sources.opening import open_cohort
from tests.support import ROOT
from tests.support.mimic_tables import COLUMNS, write_chest, write_mimic
from tim_search.types import BadInput


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_mimic(tmp_path_factory.mktemp("mimic iv"))
    findings = ({"Edema": "1.0"}, {"Pneumonia": "1.0"})
    studies = [(10_000_000 + it, it, "AP", "21550101", "93000.0", findings[it % 2]) for it in range(40)]
    write_chest(folder, studies)
    return folder


def test_expected_is_one_folder_of_tables_or_of_events(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="--mimic or --meds, got both or none"):
        mimic.build(None, None, tmp_path)
    with pytest.raises(BadInput, match="--mimic or --meds, got both or none"):
        mimic.build(tmp_path, tmp_path, tmp_path)


def test_a_folder_that_belongs_to_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(BadInput, match="it holds something else"):
        mimic.build(None, tmp_path, tmp_path)
    (tmp_path / "thesis.txt").unlink()
    (tmp_path / mimic.STARTED).write_text("{}")
    with pytest.raises(BadInput, match="expected the tables that it was begun with"):
        mimic.build(None, tmp_path, tmp_path)


def test_a_missing_table_is_told_before_anything_is_read(raw: Path, tmp_path: Path) -> None:
    pytest.importorskip("MIMIC_IV_MEDS")
    assert len(mimic_raw.sizes(raw)) == 21
    for table in COLUMNS:
        if table != "icu/chartevents":
            link = tmp_path / "mimic" / f"{table}.csv.gz"
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(raw / f"{table}.csv.gz")
    with pytest.raises(BadInput, match="icu/chartevents are missing"):
        mimic.build(tmp_path / "mimic", None, tmp_path / "out")


def test_tables_are_prepared_with_the_types_of_the_documentation(raw: Path, tmp_path: Path) -> None:
    wanted = {
        "hosp/diagnoses_icd": {"subject_id": "int64", "icd_code": "string", "icd_version": "int64"},
        "hosp/labevents": {"hadm_id": "int64", "storetime": "string", "value": "string", "valuenum": "double"},
        "icu/outputevents": {"value": "double", "itemid": "int64"},
        "hosp/prescriptions": {"ndc": "string"},
    }
    for table, types in wanted.items():
        target = tmp_path / f"{table}.parquet"
        mimic_raw._prepare(raw / f"{table}.csv.gz", target, table, sorted(types))
        made = pq.read_table(target)
        assert {name: str(made.schema.field(name).type) for name in types} == types
    diagnoses = pq.read_table(tmp_path / "hosp" / "diagnoses_icd.parquet")
    assert "0389" in diagnoses["icd_code"].to_pylist()  # the zero leads still
    labs = pq.read_table(tmp_path / "hosp" / "labevents.parquet")
    assert labs["hadm_id"].null_count == len(labs) // 3
    assert "___" in labs["value"].to_pylist()
    assert not list(tmp_path.rglob(".*"))  # nothing is left beside


def test_a_table_without_its_columns_is_told(tmp_path: Path) -> None:
    table = tmp_path / "hosp" / "patients.csv.gz"
    table.parent.mkdir()
    table.write_bytes(gzip.compress(b"subject_id,sex\n1,F\n"))
    with pytest.raises(BadInput, match=r"hosp/patients.csv.gz: expected the columns gender"):
        mimic_raw._prepare(table, tmp_path / "patients.parquet", "hosp/patients", ["gender", "subject_id"])


def test_what_would_be_fetched_is_left_out(raw: Path) -> None:
    pytest.importorskip("MIMIC_IV_MEDS")
    spec = mimic_raw._without_missing({"icu/d_items"})
    assert "sources" not in spec
    described = {prefix for _, event in mimic_raw._events(spec) for prefix in event.get("_metadata", {})}
    assert described == {"icu/d_items", "_self"}


def test_a_converter_that_is_not_installed_is_named(raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "MIMIC_IV_MEDS", None)
    monkeypatch.setattr(mimic_raw, "_needed", mimic_raw._needed.__wrapped__)  # it keeps its answer otherwise
    with pytest.raises(BadInput, match=r"Install tim-search\[mimic\], or convert elsewhere"):
        mimic.build(raw, None, tmp_path)


@pytest.mark.slow
def test_a_converter_that_fails_leaves_its_words(tmp_path: Path) -> None:
    pytest.importorskip("MIMIC_IV_MEDS")
    with pytest.raises(BadInput, match=r"ended with status 1; converter.log there says why"):
        mimic_raw._run(tmp_path, tmp_path / "meds")
    assert "spec" in (tmp_path / "converter.log").read_text()


@pytest.mark.slow
@pytest.mark.timeout(900)  # the converter starts a dozen processes
def test_from_raw_tables_to_cohorts_and_on_after_a_kill(raw: Path, tmp_path: Path) -> None:
    pytest.importorskip("MIMIC_IV_MEDS")
    out = tmp_path / "two words"
    command = [sys.executable, "-m", "tim_search", "cohort", "mimic", "--mimic", str(raw), "--out", str(out)]
    first = subprocess.Popen(command, cwd=ROOT, start_new_session=True, stdout=subprocess.DEVNULL)
    prepared = out / "raw" / "icu" / "chartevents.parquet"
    until = time.monotonic() + 120
    while not prepared.is_file() and first.poll() is None and time.monotonic() < until:
        time.sleep(0.05)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    written = prepared.stat().st_mtime_ns
    seen: list[int] = []

    def tell(words: str, *_: int | None) -> None:
        if words.startswith("converting"):
            seen.append(prepared.stat().st_mtime_ns)

    manifest = mimic.build(raw, None, out, tell=tell)
    assert seen == [written]  # the table that was prepared was taken as it was
    assert not (out / "raw").exists()
    assert manifest == json.loads((out / "manifest.json").read_text())
    assert manifest["stays"][0] == ["ICU stays", 88]
    tasks = manifest["papers"]["flexcare"]["tasks"]
    assert tasks["phenotyping"]["filters"][-1][1] == tasks["phenotyping"]["samples"]
    assert tasks["in_hospital_mortality"]["paper"] == {"where": "FlexCare, Table 2", "samples": 26318}
    assert tasks["diagnosis"]["filters"] == [
        ["studies with findings and such an image, its time known", 40],
        ["samples", 40],
    ]
    assert manifest["papers"]["m3h"]["tasks"]["pathology"]["samples"] == 40
    flexcare = open_cohort(out / "flexcare")
    assert flexcare.tasks["phenotyping"].kind == "multilabel"
    assert open_cohort(out / "m3h").tasks["heart_failure"].department == "Cardiology"
    assert mimic.build(raw, None, out) == manifest
