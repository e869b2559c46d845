"""The synthetic cohort in the shape of the FlexCare paper: who lacks what, and that what is planted can be learnt."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression

from model.cohorts.checks import label_findings
from model.cohorts.cohort import Cohort
from model.data.preprocess import fit
from model.scoring import metrics
from model.sources.opening import check_cohort, open_cohort
from model.sources.synthetic_incomplete import TABLE_2, Truth, incomplete, write


@pytest.fixture(scope="module")
def made() -> tuple[Cohort, Truth]:
    return incomplete(3000, seed=0)


def pooled(cohort: Cohort) -> np.ndarray:
    """Float (n, columns): the mean of every series and note over its own steps, the pixels, standardised."""
    learn = ~cohort.split.test
    found = []
    for name, values in fit(cohort, learn).transform(cohort).items():
        modality = cohort.modalities[name]
        if modality.kind == "sequence":
            steps = ~np.isnan(modality.values).all(axis=2)
            values = (values * steps[:, :, None]).sum(axis=1) / np.maximum(steps.sum(axis=1), 1)[:, None]
        flat = values.reshape(len(values), -1) * modality.present[:, None]
        found.append(flat / (flat[learn].std(axis=0) + 1e-9))
    return np.concatenate(found, axis=1)


def test_the_shape_is_that_of_table_2(made: tuple[Cohort, Truth]) -> None:
    cohort, truth = made
    assert len(cohort) == 3000
    assert len(cohort.patient_ids) == 1500
    assert tuple(cohort.tasks) == truth.tasks == ("ihm", "los", "dec", "phe", "rea", "dia")
    assert [task.metric for task in cohort.tasks.values()] == [
        "auroc", "macro_f1", "auroc", "macro_auroc", "auroc", "macro_auroc",
    ]  # fmt: skip
    assert {name: task.n_outputs for name, task in cohort.tasks.items() if task.n_outputs > 1} == {
        "los": 10, "phe": 25, "dia": 14,
    }  # fmt: skip
    of_paper = sum(count for count, _ in TABLE_2.values())
    for name, (count, absent) in TABLE_2.items():
        rows = truth.labelled == name
        assert abs(rows.sum() - 3000 * count / of_paper) <= 1
        lacking = [1 - modality.present[rows].mean() for modality in cohort.modalities.values()]
        np.testing.assert_allclose(lacking, absent, atol=0.09)
    findings = label_findings(cohort.tasks, cohort.labels, cohort.classes, cohort.split)
    assert [finding for finding in findings if finding.severity == "error"] == []


def test_a_sample_has_one_task_and_some_modality(made: tuple[Cohort, Truth]) -> None:
    cohort, truth = made
    known = np.stack([~np.isnan(label).reshape(len(label), -1).all(axis=1) for label in cohort.labels.values()])
    assert (known.sum(axis=0) == 1).all()
    assert np.array_equal(np.array(truth.tasks, object)[known.argmax(axis=0)], truth.labelled)
    for name in ("phe", "dia"):
        assert not np.isnan(cohort.labels[name][truth.labelled == name]).any()
    assert np.any([modality.present for modality in cohort.modalities.values()], axis=0).all()
    several = pd.Series(truth.labelled).groupby(cohort.patients).nunique()
    assert (several > 1).any()


def test_series_and_notes_end_at_lengths_of_their_own(made: tuple[Cohort, Truth]) -> None:
    for name, longest in (("series", 24), ("notes", 12)):
        modality = made[0].modalities[name]
        values = modality.values[modality.present]
        steps = ~np.isnan(values).any(axis=2)
        assert np.array_equal(steps, ~np.isnan(values).all(axis=2))
        lengths = steps.sum(axis=1)
        assert np.array_equal(steps, np.arange(longest) < lengths[:, None])
        assert (lengths.min(), lengths.max()) == (longest // 3, longest)
    image = made[0].modalities["image"]
    assert image.values.shape[1:] == (1, 16, 16)
    assert not np.isnan(image.values[image.present]).any()


def test_equal_arguments_equal_bits() -> None:
    sizes = {"steps": 5, "side": 6, "tokens": 4, "token_width": 8}
    one, truth = incomplete(300, 200, 3, **sizes)
    again, _ = incomplete(300, 200, 3, **sizes)
    assert [m.values.shape[1:] for m in one.modalities.values()] == [(5, 76), (1, 6, 6), (4, 8)]
    assert (one.fingerprint, one.split.digest) == (again.fingerprint, again.split.digest)
    assert incomplete(300, 200, 4, **sizes)[0].fingerprint != one.fingerprint
    assert truth.factors.shape == (300, 13)


def test_a_folder_gives_the_cohort_back_with_its_truth(tmp_path: Path) -> None:
    cohort, truth = incomplete(900, seed=1, steps=6, tokens=4, side=8)
    write(cohort, truth, tmp_path / "made")
    again = open_cohort(tmp_path / "made")
    assert again.fingerprint == cohort.fingerprint
    assert again.tasks == cohort.tasks
    for name, modality in cohort.modalities.items():
        np.testing.assert_array_equal(again.modalities[name].values, modality.values)
        np.testing.assert_array_equal(again.modalities[name].present, modality.present)
    for name, label in cohort.labels.items():
        np.testing.assert_array_equal(again.labels[name], label)
    assert [finding for finding in check_cohort(tmp_path / "made") if finding.severity == "error"] == []
    told = json.loads((tmp_path / "made" / "truth.json").read_text())
    assert told["relation"] == truth.relation.tolist()
    assert np.array(told["weights"]["phe"]).shape == (25, 13)
    samples = pd.read_parquet(tmp_path / "made" / "truth.parquet")
    assert samples["labelled"].tolist() == truth.labelled.tolist()


def test_every_task_can_be_learnt(made: tuple[Cohort, Truth]) -> None:
    cohort, _ = made
    inputs = pooled(cohort)
    for name, task in cohort.tasks.items():
        columns = cohort.labels[name].reshape(len(cohort), -1)
        known = ~np.isnan(columns[:, 0])
        learn, held = known & ~cohort.split.test, known & cohort.split.test
        models = [LogisticRegression(C=0.003, max_iter=300).fit(inputs[learn], column[learn]) for column in columns.T]
        if task.kind == "multiclass":
            logits = models[0].decision_function(inputs[held])
        else:
            logits = np.stack([model.decision_function(inputs[held]) for model in models], axis=1)
        labels = cohort.labels[name][held]
        found = metrics.every(task.kind, labels, logits, np.ones((1, int(held.sum()))))
        assert found["auroc" if task.kind == "binary" else "macro_auroc"][0] > {"los": 0.6, "ihm": 0.6}.get(
            name, 0.7
        ), name


def test_wrong_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="100 samples or more"):
        incomplete(50)
    with pytest.raises(ValueError, match="n_patients <= n_samples"):
        incomplete(100, 200)
    with pytest.raises(ValueError, match="a side of 4 or more"):
        incomplete(100, side=2)
