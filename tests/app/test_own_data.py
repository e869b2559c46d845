"""A frame as it comes becomes a cohort, and a search over it: what is named is taken, the rest is guessed and told."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

import tim_search
from model.cohorts.cohort import Cohort
from model.sources.opening import open_cohort
from tests.app.test_searching import SETTINGS
from tim_search import config
from tim_search.app import own_data
from tim_search.types import BadInput

ROLES: dict[str, Any] = {
    "patient": "patient_id", "tasks": ["died", "icu readmission", "los"],
    "modalities": {"labs": "labs__", "vitals": ["vitals__pulse", "vitals__ward"]},
}  # fmt: skip


def stays(n: int = 240, seed: int = 0) -> pd.DataFrame:
    """Stays as a hospital has them: texts as ids, gaps, numbers written as texts, categories, dates, odd rows."""
    dice = np.random.default_rng(seed)
    patient, ill = dice.integers(0, n // 2, n), dice.normal(size=n)
    return pd.DataFrame(
        {
            "patient_id": [f"{number:05d}" for number in patient],
            "stay_id": [f"S{number}" for number in dice.permutation(n)],
            "admitted": pd.Timestamp("2019-01-01") + pd.to_timedelta(dice.integers(0, 900, n), "D"),
            "labs__sodium": np.where(dice.random(n) < 0.2, np.nan, 140 + 3 * dice.normal(size=n)),
            "labs__creatinine": [None if dice.random() < 0.1 else f"{1 + 0.4 * value:.2f}" for value in ill],
            "vitals__pulse": pd.Series((80 + 10 * ill).round()).astype("Int64").mask(pd.Series(dice.random(n) < 0.1)),
            "vitals__ward": pd.Categorical(dice.choice(["icu", "ward", "step down"], n)),
            "vitals__note": [f"free text {number}" for number in range(n)],
            "died": (ill + dice.normal(size=n) > 1).astype(int),
            "icu readmission": pd.array(ill + dice.normal(size=n) > 1, dtype="boolean"),
            "los": np.exp(1 + 0.1 * ill + dice.normal(size=n)),
            "outcome_later": dice.integers(0, 2, n),
        },
        index=dice.permutation(n) + 7,
    )


def opened(folder: Path) -> Cohort:
    return open_cohort(folder)


def test_what_is_named_is_what_the_cohort_has(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frame = stays()
    own = tim_search.cohort(frame, tmp_path / "ward", **ROLES)
    cohort = opened(tmp_path / "ward")
    assert own.tasks == ("died", "icu_readmission", "los")
    assert (own.samples, own.patients) == (240, frame["patient_id"].nunique())
    assert {name: modality.columns for name, modality in cohort.modalities.items()} == {
        "labs": ("labs__sodium", "labs__creatinine"),
        "vitals": ("vitals__pulse", "vitals__ward"),
    }
    assert cohort.tasks["los"].kind == "regression"
    roles = dict(zip(own.columns["column"], own.columns["role"], strict=True))
    assert (roles["patient_id"], roles["stay_id"], roles["admitted"]) == ("patient id", "sample id", "time")
    doubts = dict(zip(own.columns["column"], own.columns["doubt"], strict=True))
    assert (roles["outcome_later"], roles["vitals__note"]) == ("left out", "left out")
    assert doubts["outcome_later"] == "a target by its name, and none of the tasks that are named"
    assert "a text with 240 values" in doubts["vitals__note"]
    html = own._repr_html_()
    for part in ("240 samples of", "icu_readmission", "labs__creatinine", str(tmp_path / "ward")):
        assert part in html

    # The same frame again leaves what is there; another one is refused and changes nothing.
    before = {path.name: path.read_bytes() for path in own.folder.iterdir()}
    assert tim_search.cohort(frame.copy(), tmp_path / "ward", **ROLES).folder == own.folder
    with pytest.raises(BadInput, match="holds another cohort: patients, inputs or labels differ"):
        tim_search.cohort(frame.assign(los=frame["los"] + 1), tmp_path / "ward", **ROLES)
    assert {path.name: path.read_bytes() for path in own.folder.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["ward"]


def test_a_check_of_a_frame_keeps_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    leaking = stays().assign(labs__copy=lambda frame: frame["died"] + 0.001 * frame["labs__sodium"].fillna(0))
    checked = tim_search.check(leaking, **ROLES)
    assert "Not kept: tim_search.cohort writes it" in checked._repr_html_()
    assert str(checked.folder) not in checked._repr_html_()
    assert isinstance(checked, own_data.OwnCohort)
    assert any("labs__copy" in str(finding) for finding in checked.findings)
    assert "labs__copy" in repr(checked)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("roles", "words"),
    [
        ({"patient": "patent_id"}, "patient: no such column: 'patent_id'. Did you mean patient_id"),
        ({"sample": "patient_id"}, "sample .patient_id.: role: a sample id has a value of its own in every row"),
        ({"tasks": ["diied"]}, "tasks.diied: no such column: 'diied'. Did you mean died"),
        ({"tasks": ["vitals__note"]}, "too many classes"),
        ({"tasks": {"death": {"label": "died", "kind": "binry"}}}, "expected binary or multiclass or regression"),
        (
            {"tasks": {"death": {"label": "died", "metric": "auroc"}}},
            "expected label and kind, got metric",
        ),
        ({"tasks": ["died"], "modalities": {"x": ["died"]}}, "modalities.x: died is named as tasks.died too"),
        ({"modalities": {"x": "labz"}}, "modalities.x: expected columns that begin with 'labz'"),
        ({"tasks": "died"}, "tasks: expected names as in .* got 'died'. Write it so"),
        ({"tasks": {"x": 5}}, "tasks: expected names as in"),
        ({"patient": ["patient_id"]}, "patient: expected names as in 'patient_id'"),
        ({"modalities": ["labs__"]}, "modalities: expected names as in"),
        ({"tasks": ["rare"]}, "tasks: rare: as a task it has too few labels"),
    ],
)
def test_names_that_do_not_fit_the_table(tmp_path: Path, roles: dict[str, Any], words: str) -> None:
    frame = stays(200)
    frame["rare"] = [1.0, 0.0, *[np.nan] * 198]
    with pytest.raises(BadInput, match=words):
        tim_search.cohort(frame, tmp_path / "ward", **roles)
    assert list(tmp_path.iterdir()) == []


def test_places_that_hold_no_table_and_take_no_cohort(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"expected a table, got stayz\.csv, and there is no such file"):
        tim_search.search("stayz.csv", patient="patient_id")
    (tmp_path / "file").touch()
    with pytest.raises(BadInput, match=r"ward cannot be written: .* Name another folder with out="):
        tim_search.cohort(stays(), tmp_path / "file" / "ward", **ROLES)


def test_a_table_without_inputs_is_no_cohort(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="No cohort can be made of the table:"):
        tim_search.cohort(stays()[["patient_id", "stay_id", "died"]], tmp_path / "ward", patient="patient_id")
    assert list(tmp_path.iterdir()) == []


def test_a_search_of_a_frame(
    tmp_path: Path, empty_store: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    home = tmp_path / "runs" / "mine"
    home.mkdir(parents=True)
    shutil.copy(empty_store.removeprefix("sqlite:///"), home / "mlflow.db")
    settings = {**SETTINGS, "name": "mine", "design": "pairs", "blocks": 1}
    roles = {**ROLES, "tasks": {"died": "died", "stay": {"label": "los", "kind": "regression"}}}
    found = tim_search.search(stays(), **roles, **settings)
    assert f"into {home}. Interrupt it" in capsys.readouterr().out
    assert list(found.results.tasks) == ["died", "stay"]
    assert (found.status["trained"], found.status["finished"]) == (3, True)
    # The cohort lies in the folder of the search and moves with it; the command goes on there.
    assert yaml.safe_load((home / "search.yaml").read_text())["cohort"] == "cohort"
    home.rename(tmp_path / "moved")
    again = config.resolve(config.load(tmp_path / "moved" / "search.yaml"))
    assert again.context == found.results.manifest.context

    with pytest.raises(BadInput, match="desgn: unknown key"):  # told before the table is read
        tim_search.search(stays(), **roles, desgn="pairs")
    for data in ("support2", tmp_path / "moved"):
        with pytest.raises(BadInput, match="no patient and no modalities beside a cohort or a search"):
            tim_search.search(data, patient="a", modalities={})
    assert not (tmp_path / "runs").exists() or not list((tmp_path / "runs").iterdir())


def test_a_file_of_a_table_is_one(tmp_path: Path) -> None:
    stays(200).to_csv(tmp_path / "stays.csv", index=False)
    assert own_data.is_table(tmp_path / "stays.csv")
    assert not own_data.is_table(tmp_path)
    assert not own_data.is_table("support2")
    (tmp_path / "stays.json").write_text('[{"stay": 1, "died": 0}]')
    assert own_data.is_table(tmp_path / "stays.json")
    (tmp_path / "search.json").write_text('{"name": "x", "cohort": "support2"}')
    assert not own_data.is_table(tmp_path / "search.json")
    own = tim_search.cohort(tmp_path / "stays.csv", tmp_path / "ward", **ROLES)
    assert own.samples == 200
    assert opened(own.folder).patients.max() > 0
