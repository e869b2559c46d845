"""Models on another cohort: how it is read, what does not fit, and planted miscalibration found again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit, logit

from model.cohorts.cohort import Cohort, Modality, make_cohort
from model.networks.settings import M3HSettings
from model.sources.elsewhere import open_elsewhere
from model.sources.opening import open_cohort, write_cohort
from model.sources.synthetic_incomplete import incomplete
from model.trained import final_training
from model.trained.aligning import aligned
from model.trained.deployed import DeployedModel
from model.trained.external import groups_of, judge
from tests.support.extendable import small_cohort, small_model
from tests.support.hospital_tables import german
from tim_search.types import BadInput, Task

SETTINGS = M3HSettings(epochs=2, width=8, batch_size=256, replicates=0)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cohort folder that was made of a German export."""
    folder = tmp_path_factory.mktemp("home")
    german().frame.to_parquet(folder / "samples.parquet", index=False)
    (folder / "cohort.yaml").write_text(
        """{format: 1, name: home, sample_id: Fallnummer, patient_id: PatientenNr, stratify: Tod,
        modalities: {labs: {file: samples.parquet, columns: [Geschlecht, Puls, Natrium, Kalium, CRP, Kreatinin, Hb,
        Leukozyten, Laktat, Aufnahmeart]}}, tasks: {Tod: {kind: binary}, AKI: {kind: binary, classes: [nein, ja]}}}"""
    )
    return folder


@pytest.fixture(scope="module")
def ours(home: Path) -> Cohort:
    return open_cohort(home)


@pytest.fixture(scope="module")
def models(ours: Cohort) -> dict[str, tuple[DeployedModel, DeployedModel]]:
    alone, both = (
        final_training.train(ours, "m3h", SETTINGS, members, "Tod", (0,), "cpu")
        for members in (("Tod",), ("AKI", "Tod"))
    )
    return {"Tod": (alone, both)}


def exported(folder: Path) -> Path:
    """A table of other patients as another hospital exports it: a column less, a new level, another unit."""
    table = german(seed=9).frame.drop(columns=["Hb", "PatientenNr"])
    table["Aufnahmeart"] = table["Aufnahmeart"].where(np.arange(len(table)) % 3 > 0, "Verlegung")
    table["Natrium"] = 1000.0 + 50 * table["Natrium"]
    table.to_csv(folder / "nord.csv", sep=";", index=False)
    return folder / "nord.csv"


def test_a_table_is_read_by_the_known_cohort_and_what_does_not_fit_is_told(
    home: Path, ours: Cohort, tmp_path: Path
) -> None:
    read, told = open_elsewhere(exported(tmp_path), home)
    theirs, notes = aligned(ours, read)
    told += notes
    assert theirs.name == "nord"
    assert len(theirs) == len(german(seed=9).frame)
    (modality,) = [each for each in theirs.modalities.values() if "Hb" in each.columns]
    assert modality.columns == ours.modalities[modality.name].columns
    assert np.isnan(modality.values[:, modality.columns.index("Hb")]).all()
    new = modality.values[:, modality.columns.index("Aufnahmeart")]
    assert np.isnan(new).mean() == pytest.approx(1 / 3, abs=0.01)
    assert np.nanmean(theirs.labels["Tod"]) == pytest.approx(german(seed=9).frame["Tod"].mean())
    for words in ("no column PatientenNr", "lacks Hb", "Verlegung", "Natrium", "another unit"):
        assert any(words in note for note in told), (words, told)
    assert not any("Puls" in note for note in told)


def test_planted_miscalibration_is_found_again(
    home: Path, ours: Cohort, models: dict[str, tuple[DeployedModel, DeployedModel]], tmp_path: Path
) -> None:
    theirs, _ = aligned(ours, open_elsewhere(exported(tmp_path), home)[0])
    dice = np.random.default_rng(0)
    risk = models["Tod"][0].network_outputs(theirs.modalities)["Tod"]
    outcome = (dice.random(len(theirs)) < expit(0.8 + 1.5 * logit(risk))).astype(float)
    theirs = replace(theirs, labels={**theirs.labels, "Tod": outcome})
    groups = groups_of(ours, theirs, ["Geschlecht"])
    rows, curves = judge(models, ours, theirs, groups, 100, 0)
    assert {row.group for row in rows} == {"all", "Geschlecht=m", "Geschlecht=w"}
    alone = next(row for row in rows if row.model == "alone" and row.group == "all")
    assert alone.slope.low < 1.5 < alone.slope.high
    assert alone.positive == outcome.sum()
    assert alone.rows == len(theirs)
    # The intercept is that of the slope 1: what is expected and what is observed add up to the same.
    expected = expit(logit(risk) + alone.intercept.value).sum()
    assert expected == pytest.approx(outcome.sum(), rel=1e-3)
    pair = [row for row in rows if row.group == "all"]
    assert pair[1].gain.value == pytest.approx(pair[1].score.value - pair[0].score.value)
    kinds = {(curve.kind, curve.model) for curve in curves if curve.group == "all"}
    assert kinds >= {("benefit", "all"), ("benefit", "alone"), ("calibration", "combination")}
    # Hidden counts: no threshold or tenth with few patients on a side, and no benefit that tells a count.
    _, hidden = judge(models, ours, theirs, {}, 2, 25)
    (shown,) = [curve for curve in hidden if (curve.kind, curve.model) == ("benefit", "alone")]
    assert 0 < len(shown.x) < 99
    np.testing.assert_allclose(np.array(shown.y) * 10, np.round(np.array(shown.y) * 10))


def test_a_folder_is_taken_by_names_of_columns_levels_and_classes() -> None:
    dice = np.random.default_rng(1)

    def cohort(
        name: str, n: int, columns: tuple[str, ...], levels: dict[str, tuple[str, ...]], **classes: tuple
    ) -> Cohort:
        values = np.stack([dice.integers(0, len(levels[c]), n).astype(float) if c in levels else dice.normal(50, 9, n)
                           for c in columns], axis=1)  # fmt: skip
        labs = Modality("labs", "vector", columns, values, levels, np.ones(n, bool))
        tasks = [Task("ward", "multiclass", len(classes["ward"])), Task("died", "binary"), Task("stay", "regression")]
        labels = {"ward": dice.integers(0, len(classes["ward"]), n).astype(float), "stay": dice.normal(5, 1, n),
                  "died": dice.integers(0, 2, n).astype(float)}  # fmt: skip
        return make_cohort(name, range(n), range(n), [labs], tasks, labels, classes=classes)

    here = cohort("here", 60, ("age", "sex", "kind"), {"sex": ("f", "m"), "kind": ("1", "2")}, ward=("a", "b", "c"),
                  died=("no", "yes"))  # fmt: skip
    there = cohort("there", 50, ("kind", "sex", "age"), {"sex": ("m", "x", "f")}, ward=("c", "d"), died=("nein", "ja"))
    got, notes = aligned(here, there)
    sex = {0: 1.0, 1: np.nan, 2: 0.0}
    np.testing.assert_array_equal(
        got.modalities["labs"].values[:, 1], [sex[int(code)] for code in there.modalities["labs"].values[:, 1]]
    )
    np.testing.assert_array_equal(got.modalities["labs"].values[:, 0], there.modalities["labs"].values[:, 2])
    np.testing.assert_array_equal(got.labels["ward"], np.where(there.labels["ward"] == 0, 2.0, np.nan))
    told = " ".join(notes)
    for words in ("levels x", "classes d", "nein, ja"):
        assert words in told
    many = cohort("many", 30, tuple("abcde"), {}, ward=("a", "b"))
    assert any("same patients" in note for note in aligned(many, replace(many, fingerprint="copy"))[1])
    assert not any(
        "same patients" in note for note in aligned(many, cohort("more", 30, tuple("abcde"), {}, ward=("a", "b")))[1]
    )
    other = replace(there, tasks={"died": Task("died", "regression")}, fingerprint="other")
    assert "has a regression task" in " ".join(aligned(here, replace(other, tasks={**there.tasks, **other.tasks}))[1])


def test_series_images_and_labels_of_several_kinds_are_judged() -> None:
    ours, model = small_cohort(), small_model()
    theirs, notes = aligned(ours, incomplete(300, steps=6, side=8, tokens=3, token_width=4, seed=2)[0])
    assert [modality.values.shape[1:] for modality in theirs.modalities.values()] == [
        modality.values.shape[1:] for modality in ours.modalities.values()
    ]
    assert any("goes on after the 4 steps" in note for note in notes)
    rows, curves = judge({"phe": (model, model)}, ours, theirs, {}, 20, 0)
    labels = ours.classes["phe"]
    assert {row.of for row in rows} == {"", *labels}
    whole = [row for row in rows if not row.of]
    assert np.isnan(whole[0].slope.value)
    assert whole[1].gain.value == 0.0
    assert all(np.isfinite(row.slope.value) for row in rows if row.of)
    assert curves == []
    smaller, notes = aligned(ours, incomplete(300, steps=4, side=4, tokens=3, token_width=4, seed=2)[0])
    image = next(modality for modality in smaller.modalities.values() if modality.kind == "image")
    assert not image.present.any()
    assert any("lacks images" in note for note in notes)


def test_what_cannot_be_judged_is_told(home: Path, ours: Cohort, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="expected another cohort"):
        aligned(ours, open_elsewhere(home, home)[0])
    (name, modality), *_ = ours.modalities.items()
    strange = Modality(name, "vector", ("zz",), modality.values[:, :1], {}, modality.present)
    with pytest.raises(BadInput, match="input columns of the search with values"):
        aligned(ours, replace(ours, fingerprint="other", modalities={name: strange}))
    with pytest.raises(BadInput, match="labels of the search's tasks"):
        aligned(ours, replace(ours, fingerprint="other", tasks={}, labels={}))
    german().frame.to_csv(tmp_path / "comma.csv", sep=";", decimal=",", index=False)
    with pytest.raises(BadInput, match=r"comma\.csv, read as the search's cohort, cannot be used"):
        open_elsewhere(tmp_path / "comma.csv", home)
    pd.DataFrame({"a": [1, 2], "b": [3, 4]}).to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(BadInput, match="expected a cohort folder"):
        open_elsewhere(tmp_path / "t.csv", "support2")
    write_cohort(ours, tmp_path / "own")  # a folder of several files describes no single table
    with pytest.raises(BadInput, match="made of one table"):
        open_elsewhere(tmp_path / "t.csv", tmp_path / "own")
    with pytest.raises(BadInput, match=r"got none in .*t\.csv. Name its columns as they are there: Geschlecht, Puls"):
        open_elsewhere(tmp_path / "t.csv", home)


def test_rows_are_numbered_beside_a_column_that_is_called_row(home: Path, tmp_path: Path) -> None:
    table = german(seed=9).frame.drop(columns=["Fallnummer", "PatientenNr"])
    table.insert(0, "Row", 7)
    table.to_csv(tmp_path / "t.csv", index=False)
    read, told = open_elsewhere(tmp_path / "t.csv", home)
    assert len(set(read.patient_ids)) == len(read) == len(table)
    assert "its rows are numbered" in told[0]
