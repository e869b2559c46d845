"""Every leak that is planted in the tables of three hospitals' styles is named, and no sound input is."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from model.sources.opening import check_cohort
from tests.support.hospital_tables import HOSPITALS, HospitalTable, german, spanish, warehouse


def written(table: HospitalTable, root: Path, inputs: list[str], patient_id: str = "") -> Path:
    """A cohort folder with these inputs, whatever they are."""
    table.frame.to_parquet(root / "samples.parquet", index=False)
    description = {
        "format": 1,
        "name": "made",
        "sample_id": table.sample_id,
        "patient_id": patient_id or table.patient_id,
        "modalities": {"all": {"file": "samples.parquet", "columns": inputs}},
        "tasks": {name: {"kind": kind, "label": label} for name, (kind, label) in table.tasks.items()},
    }
    (root / "cohort.yaml").write_text(yaml.safe_dump(description))
    return root


@pytest.mark.parametrize("hospital", HOSPITALS)
def test_planted_leaks_are_named_and_what_is_sound_is_not(
    hospital: Callable[[], HospitalTable], tmp_path: Path
) -> None:
    table = hospital()
    root = written(table, tmp_path, [*table.sound, *table.leaks])
    findings = [f for f in check_cohort(root) if f.place.partition(".")[0] in ("tasks", "modalities")]
    whole = "\n".join(map(str, findings))
    named = {column for column in (*table.sound, *table.leaks) if re.search(rf"\b{re.escape(column)}\b", whole)}
    assert named == set(table.leaks), whole
    # What inflates says by how much: the strongest by more than a tenth.
    gains = [float(a) - float(b) for a, b in re.findall(r"(-?\d\.\d\d) with (?:it|them), (-?\d\.\d\d) without", whole)]
    assert len(gains) >= len(findings)
    assert max(gains) > 0.1


@pytest.mark.parametrize("hospital", HOSPITALS)
def test_without_them_nothing_is_wrong(hospital: Callable[[], HospitalTable], tmp_path: Path) -> None:
    table = hospital()
    warned = [f for f in check_cohort(written(table, tmp_path, list(table.sound))) if ".classes" not in f.place]
    # ... but for the persons who were given two numbers: no column says it, their birth dates do.
    assert [f.place for f in warned] == (["samples"] if hospital is german else []), "\n".join(map(str, warned))
    if warned:
        assert "Geburtsdatum, Geschlecht, Körpergröße" in warned[0].problem
        assert "by chance): persons under two ids?" in warned[0].problem


def test_a_coarser_id_without_the_name_of_one_is_pointed_at(tmp_path: Path) -> None:
    table = spanish()
    table.frame["codigo"] = table.frame.pop("paciente_id")
    (finding,) = [
        f for f in check_cohort(written(table, tmp_path, list(table.sound), "nhc")) if "classes" not in f.place
    ]
    assert finding.place == "samples.codigo"
    assert "every patient id has one value of it" in finding.problem


def test_what_is_known_at_the_end_tells_the_stay_that_is_no_target(tmp_path: Path) -> None:
    """A count over the whole stay among the inputs, and the length of the stay in a column that nobody uses."""
    table = warehouse()
    tasks = {name: task for name, task in table.tasks.items() if name != "icu_los"}
    root = written(replace(table, tasks=tasks), tmp_path, [*table.sound, "nursingnotes"])
    found = [f for f in check_cohort(root) if f.place.startswith("samples")]
    assert [f.place for f in found] == ["samples.unitdischargeoffset", "samples.actualiculos"]
    assert "all.nursingnotes (R2 0.9" in found[0].problem
    assert "known at its end only?" in found[0].problem
