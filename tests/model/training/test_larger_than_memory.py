"""Modalities that stay on disk: read by minibatch, and no bit of a training differs from one in memory."""

from __future__ import annotations

import os
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from model.cohorts.cohort import Cohort
from model.cohorts.folder_reader import Reader
from model.cohorts.manifest import describe
from model.cohorts.stored import ArrayFile, Stored
from model.data import streamed
from model.data.folds import Fold, load_fold
from model.data.preprocess import fit
from model.data.seeding import batch_order
from model.networks.settings import FlexCareSettings
from model.sources.opening import check_cohort, open_cohort, write_cohort
from model.training.cost import capacity
from model.training.references import table
from model.training.trainer import PackTrainer, TrainingPayload
from tests.support.arrays import in_arrays, in_tables
from tim_search.types import BadInput, Pack, Unit

SETTINGS = FlexCareSettings(
    width=8, layers=1, hidden=12, experts=2, top=1, expert_hidden=6, patch=3, epochs=1, batch_size=64, replicates=2
)
PACK = Pack(tuple(Unit(subset, 0, 0) for subset in (("ihm", "los"), ("dec", "los"))))


@pytest.fixture(scope="module")
def cohorts(tmp_path_factory: pytest.TempPathFactory) -> tuple[Cohort, Cohort]:
    """One cohort twice: in memory, and on disk."""
    root = tmp_path_factory.mktemp("cohorts")
    whole = in_tables(root / "tables")
    in_arrays(whole, root / "arrays")
    return whole, open_cohort(root / "arrays")


@pytest.fixture
def arrays(cohorts: tuple[Cohort, Cohort], tmp_path: Path) -> Path:
    """A folder with arrays, to be damaged."""
    in_arrays(cohorts[0], tmp_path / "arrays")
    return tmp_path / "arrays"


def fold_of(cohort: Cohort, **more: Any) -> Fold:
    return load_fold(cohort, 0, dtype=torch.float32, device=torch.device("cpu"), replicates=0, stop_share=0.2, **more)


def test_nothing_is_read_that_is_not_asked_for(cohorts: tuple[Cohort, Cohort]) -> None:
    fold = fold_of(cohorts[1])
    for rows in (fold.train, fold.validation, fold.train.take(torch.arange(40))):
        for values in rows.inputs:
            assert values.untyped_storage().nbytes() <= 4
            assert values.isnan().all()
        assert rows.steps == ()


def test_minibatches_are_the_same_in_every_bit(cohorts: tuple[Cohort, Cohort]) -> None:
    whole, stored = (fold_of(cohort) for cohort in cohorts)
    assert whole.stopping is not None
    assert stored.stopping is not None
    for one, other in (
        (whole.train, stored.train),
        (whole.validation, stored.validation),
        (whole.stopping, stored.stopping),
    ):
        order = batch_order(0, 1, len(one))
        for expected, part in zip(one.take(order).split(50), other.take(order).split(50), strict=True):
            assert part.unread is None
            for name in ("inputs", "steps"):
                for mine, read in zip(getattr(expected, name), getattr(part, name), strict=True):
                    assert (mine is None and read is None) or torch.equal(mine, read)
            for name in ("present", "targets", "labelled"):
                assert torch.equal(getattr(expected, name), getattr(part, name))


def test_scores_are_the_same_in_every_bit(cohorts: tuple[Cohort, Cohort]) -> None:
    for settings in (SETTINGS, replace(SETTINGS, update="joint")):
        results = [PackTrainer(TrainingPayload(cohort, "flexcare", settings, "cpu")).train(PACK) for cohort in cohorts]
        one, other = ([(s.task, s.metric, s.value, s.replicates) for s in result.scores] for result in results)
        assert one == other
        assert all(np.isfinite(value) for _, _, value, _ in one)


def test_it_is_one_cohort(cohorts: tuple[Cohort, Cohort], tmp_path: Path) -> None:
    whole, stored = cohorts
    assert stored.fingerprint == whole.fingerprint
    assert describe(stored) == describe(whole)
    write_cohort(stored, tmp_path / "copy")
    copy = open_cohort(tmp_path / "copy")
    assert copy.fingerprint == whole.fingerprint
    assert isinstance(copy.modalities["notes"].values, Stored)
    settings: Any = SETTINGS
    sizes = [capacity(each, "flexcare", 2, settings, gpus=0, workers=1) for each in cohorts]
    assert sizes[0] == sizes[1]
    np.testing.assert_array_equal(*(table(fold_of(cohort).validation) for cohort in cohorts))


def test_columns_that_a_task_excludes_are_left_out(cohorts: tuple[Cohort, Cohort]) -> None:
    columns = cohorts[0].modalities["series"].columns[3:]
    one, other = (cohort.modalities["series"].keep(columns) for cohort in cohorts)
    assert isinstance(other.values, Stored)
    np.testing.assert_array_equal(other.values[:], one.values)
    np.testing.assert_array_equal(other.present, one.present)
    np.testing.assert_array_equal(other.keep(columns[1:]).values[:], one.keep(columns[1:]).values)


@pytest.mark.parametrize("few", [0, 11])
def test_what_is_fitted_is_the_same_in_every_bit(few: int, tmp_path: Path) -> None:
    whole = in_tables(tmp_path / "tables")
    dice = np.random.default_rng(few)
    series = whole.modalities["series"].values
    assert not isinstance(series, Stored)
    series[:, :, 0] = np.where(np.isnan(series[:, :, 0]), np.nan, 2.0)  # a constant
    rows = np.flatnonzero(whole.modalities["series"].present)
    series[rows[:2], 1, 0] = 5.0  # ... but for a few
    series[rows[8:], :, 1] = np.nan  # few have it
    series[rows[:30], :, 2] = np.float16(dice.normal(size=(30, series.shape[1])))
    in_arrays(whole, tmp_path / "arrays")
    stored = open_cohort(tmp_path / "arrays")
    learn = whole.split.train(0)
    for name in whole.modalities:
        one, other = (fit(cohort, learn, few).transforms[name] for cohort in (whole, stored))
        for part in ("mean", "scale", "numeric"):
            np.testing.assert_array_equal(getattr(one, part), getattr(other, part))


@pytest.mark.parametrize("width", [1, 2, 256, 257])
def test_sums_round_as_in_memory(width: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from model.data.preprocess import _BLOCK, _moments

    monkeypatch.setattr(streamed, "_PART", 1000)
    values = np.random.default_rng(1).normal(300, 2, (60 if width > 2 else 900, 7, width))
    values[::5, 3] = np.nan
    np.save(tmp_path / "a.npy", values)
    stored = Stored(ArrayFile(tmp_path / "a.npy"), np.arange(len(values)))
    for one, other in zip(_moments(values.reshape(-1, width)), streamed.moments(stored, _BLOCK), strict=True):
        np.testing.assert_array_equal(one, other)


def test_samples_share_rows(tmp_path: Path) -> None:
    whole = in_tables(tmp_path / "tables")
    in_arrays(whole, tmp_path / "shared", shared=True)
    cohort = open_cohort(tmp_path / "shared")
    notes = cohort.modalities["notes"]
    here = np.flatnonzero(notes.present)
    np.testing.assert_array_equal(notes.values[here[1:2]], notes.values[here[:1]])
    assert isinstance(notes.values, Stored)
    assert len(notes.values.distinct()[0]) == -(-len(here) // 2)
    assert cohort.fingerprint != whole.fingerprint
    write_cohort(cohort, tmp_path / "copy")
    copy = open_cohort(tmp_path / "copy")
    assert copy.fingerprint == cohort.fingerprint
    assert (tmp_path / "copy" / "modalities" / "notes.npy").stat().st_size < (
        tmp_path / "shared" / "notes.npy"
    ).stat().st_size + 200
    assert not [finding for finding in check_cohort(tmp_path / "copy") if finding.severity == "error"]


def test_a_cohort_travels_and_large_files_stay(cohorts: tuple[Cohort, Cohort], monkeypatch: pytest.MonkeyPatch) -> None:
    from model.cohorts import stored

    values = cohorts[1].modalities["notes"].values
    assert isinstance(values, Stored)
    sent = pickle.loads(pickle.dumps(values))
    np.testing.assert_array_equal(sent[:], values[:])
    monkeypatch.setattr(stored, "_SENT", 10)
    by_name = pickle.dumps(values)
    assert len(by_name) < values.file.mapped.nbytes
    np.testing.assert_array_equal(pickle.loads(by_name)[:], values[:])


def test_a_file_that_is_not_there_or_has_changed_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from model.cohorts import stored

    np.save(tmp_path / "a.npy", np.zeros((9, 4, 2), np.float16))
    values = Stored(stored.ArrayFile(tmp_path / "a.npy"), np.arange(9))
    monkeypatch.setattr(stored, "_SENT", 10)
    travelling = pickle.dumps(values)
    np.save(tmp_path / "a.npy", np.ones((9, 4, 2), np.float16))
    with pytest.raises(BadInput, match=r"another content here.*same path"):
        pickle.loads(travelling)
    (tmp_path / "a.npy").unlink()
    with pytest.raises(BadInput, match="cannot be read here"):
        pickle.loads(travelling)


def test_a_file_that_is_cut_during_a_search_is_told(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((9, 4, 2), np.float16))
    values = Stored(ArrayFile(tmp_path / "a.npy"), np.arange(9))
    os.truncate(tmp_path / "a.npy", 200)
    with pytest.raises(BadInput, match="ended early"):
        values[np.array([8])]


@pytest.mark.parametrize(
    ("index", "words"),
    [
        ({"row": [0, 1]}, "has no column sample_id"),
        ({"sample_id": [0, 1]}, "has no column row"),
        ({"sample_id": [0, 1], "row": ["a", "b"]}, "expected whole numbers, given "),
        ({"sample_id": [0, 1], "row": [0, 4000]}, "-1 for none, given 4000"),
        ({"sample_id": [0, 1], "row": [0.5, -2]}, "-1 for none, given 0.5, -2"),
        ({"sample_id": [0, 0], "row": [0, 1]}, "1 rows repeat a sample"),
        ({"sample_id": [0, 99999], "row": [0, 1]}, "1 rows have ids that are not in"),
        (None, "there is none"),
    ],
)
def test_bad_indices(index: dict[str, Any] | None, words: str, arrays: Path) -> None:
    (arrays / "notes.rows.parquet").unlink()
    if index is not None:
        pd.DataFrame(index).to_parquet(arrays / "notes.rows.parquet", index=False)
    findings = [str(finding) for finding in check_cohort(arrays) if finding.severity == "error"]
    assert any(words in finding for finding in findings), findings


@pytest.mark.parametrize(
    ("name", "array", "words"),
    [
        ("notes", np.full((2, 4, 32), np.inf, np.float16), "too large for float16"),
        ("notes", np.zeros((2, 4), np.float16), "expected (rows, steps, columns)"),
        ("notes", np.zeros((2, 4, 32), np.int8), "expected uint8, float16"),
        ("image", np.zeros((2, 1, 6, 7), np.uint8), "the file has [1, 6, 7]"),
    ],
)
def test_bad_arrays(name: str, array: np.ndarray, words: str, arrays: Path) -> None:
    np.save(arrays / f"{name}.npy", array)
    pd.DataFrame({"sample_id": [0, 1], "row": [0, 1]}).to_parquet(arrays / f"{name}.rows.parquet", index=False)
    findings = [str(finding) for finding in check_cohort(arrays) if finding.severity == "error"]
    assert any(words in finding for finding in findings), findings


def test_a_table_has_no_index_and_a_large_array_no_room(arrays: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    description = yaml.safe_load((arrays / "cohort.yaml").read_text())
    description["modalities"]["labs"] = {"file": "samples.parquet", "index": "notes.rows.parquet", "prefix": "label_d"}
    np.save(arrays / "v.npy", np.zeros((240, 2), np.float16))
    description["modalities"]["v"] = {"file": "v.npy", "prefix": "v_"}
    (arrays / "cohort.yaml").write_text(yaml.safe_dump(description))
    monkeypatch.setattr(Reader, "fits", lambda self, place, shape, fix: self.error(place, "has no room.", fix))
    findings = [str(finding) for finding in check_cohort(arrays)]
    assert any("only a .npy file has one" in finding for finding in findings), findings
    assert any("v.npy: has no room" in finding for finding in findings), findings
