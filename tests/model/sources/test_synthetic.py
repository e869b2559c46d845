"""The synthetic cohort: its shape, its reproducibility, and that what is planted is there to be learnt."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from model.cohorts.checks import label_findings
from model.cohorts.cohort import Cohort
from model.cohorts.overlaps import overlap_warnings
from model.data.preprocess import fit
from model.sources.opening import open_cohort, write_cohort
from model.sources.synthetic import Truth, haim_like


@pytest.fixture(scope="module")
def small() -> tuple[Cohort, Truth]:
    return haim_like(1500, 600, seed=3, widths=(6, 20, 50, 60), n_binary=11)


def test_the_default_has_the_shape_of_haim() -> None:
    # The full width takes seconds; the shape of the arguments is what is checked here.
    cohort, truth = haim_like(widths=(6, 5, 4, 3))
    assert len(cohort) == 12586
    assert len(cohort.patient_ids) == 5178
    kinds = [task.kind for task in cohort.tasks.values()]
    assert [kinds.count(k) for k in ("binary", "multiclass", "regression", "clustering")] == [41, 1, 1, 1]
    assert cohort.tasks["pathology"].n_outputs == 8
    assert cohort.tasks["phenotype"].n_outputs == 15
    prevalence = sorted(np.nanmean(cohort.labels[t.name]) for t in cohort.tasks.values() if t.kind == "binary")
    np.testing.assert_allclose([prevalence[0], prevalence[-1]], [0.02, 0.5], rtol=0.05)
    assert label_findings(cohort.tasks, cohort.labels, cohort.classes, cohort.split) == []
    assert truth.relation.shape == (44, 44)
    import inspect

    assert inspect.signature(haim_like).parameters["widths"].default == (6, 451, 2084, 2304)


def test_equal_arguments_equal_bits(small: tuple[Cohort, Truth]) -> None:
    again, truth = haim_like(1500, 600, seed=3, widths=(6, 20, 50, 60), n_binary=11)
    assert again.fingerprint == small[0].fingerprint
    assert again.split.digest == small[0].split.digest
    np.testing.assert_array_equal(truth.relation, small[1].relation)
    assert haim_like(1500, 600, seed=4, widths=(6, 20, 50, 60), n_binary=11)[0].fingerprint != again.fingerprint


def test_small_cohorts_are_sound(small: tuple[Cohort, Truth], tmp_path: Path) -> None:
    cohort, _ = small
    assert [m.values.shape for m in cohort.modalities.values()] == [(1500, w) for w in (6, 20, 50, 60)]
    assert all(m.values.dtype == np.float32 for m in cohort.modalities.values())
    findings = label_findings(cohort.tasks, cohort.labels, cohort.classes, cohort.split)
    assert [finding for finding in findings if finding.severity == "error"] == []
    assert overlap_warnings(cohort.tasks, cohort.labels, cohort.classes, cohort.overlaps) == []
    write_cohort(cohort, tmp_path / "synthetic")
    assert open_cohort(tmp_path / "synthetic").fingerprint == cohort.fingerprint


def test_rates_are_those_set() -> None:
    cohort, _ = haim_like(
        4000, 1500, widths=(3, 3, 3, 3), n_binary=5, absent=(0, 0.1, 0.3, 0.5), unlabelled=0.2, classes_labelled=0.4
    )
    absent = [1 - m.present.mean() for m in cohort.modalities.values()]
    np.testing.assert_allclose(absent, [0, 0.1, 0.3, 0.5], atol=0.03)
    for name, label in cohort.labels.items():
        assert abs(np.isnan(label).mean() - (0.6 if name == "pathology" else 0.2)) < 0.03
    for modality in cohort.modalities.values():
        assert np.isnan(modality.values[~modality.present]).all()
        assert not np.isnan(modality.values[modality.present]).any()


def test_nobody_is_without_any_modality() -> None:
    cohort, _ = haim_like(300, 200, widths=(2, 2, 2, 2), n_binary=3, absent=(0.9, 0.9, 0.9, 0.9))
    assert np.any([m.present for m in cohort.modalities.values()], axis=0).all()


def test_samples_of_a_patient_resemble_each_other(small: tuple[Cohort, Truth]) -> None:
    cohort, truth = small
    order = np.argsort(cohort.patients, kind="stable")
    same = cohort.patients[order][1:] == cohort.patients[order][:-1]
    first, second = truth.factors[order][:-1][same], truth.factors[order][1:][same]
    assert np.corrcoef(first.ravel(), second.ravel())[0, 1] > 0.5
    assert (truth.phenotype[order][1:][same] == truth.phenotype[order][:-1][same]).all()


def test_relation_follows_from_groups_and_strength(small: tuple[Cohort, Truth]) -> None:
    cohort, truth = small
    assert truth.tasks == tuple(cohort.tasks)
    assert set(np.unique(truth.relation)) == {-1, 0, 1}
    for i in range(len(truth.tasks)):
        for j in range(len(truth.tasks)):
            if i == j or truth.group[i] < 0 or truth.group[j] < 0:
                wanted = 0
            elif truth.group[i] == truth.group[j]:
                wanted = 1
            else:
                wanted = -1 if truth.strength[j] >= 2 * truth.strength[i] else 0
            assert truth.relation[i, j] == wanted
    np.testing.assert_allclose(np.diag(truth.affinity)[:-1], 1)
    supervised = truth.group >= 0
    same = (truth.group[:, None] == truth.group[None, :]) & supervised[:, None] & ~np.eye(len(truth.group), dtype=bool)
    other = ~same & supervised[:, None] & supervised[None, :] & ~np.eye(len(truth.group), dtype=bool)
    assert truth.affinity[same].min() > np.abs(truth.affinity[other]).max()


def test_labels_can_be_learnt_from_features_and_better_from_the_truth(small: tuple[Cohort, Truth]) -> None:
    cohort, truth = small
    inputs = np.concatenate(list(fit(cohort, cohort.split.train(0)).transform(cohort).values()), axis=1)
    learnt, oracle = [], []
    for index, task in enumerate(cohort.tasks.values()):
        if task.kind != "binary":
            continue
        label = cohort.labels[task.name]
        known = ~np.isnan(label)
        train, held = cohort.split.train(0) & known, cohort.split.validation(0) & known
        model = LogisticRegression(C=0.01, max_iter=500).fit(inputs[train], label[train])
        learnt.append(roc_auc_score(label[held], model.decision_function(inputs[held])))
        oracle.append(roc_auc_score(label[held], truth.factors[held] @ truth.weights[index]))
    assert np.mean(learnt) > 0.7
    assert np.mean(oracle) > np.mean(learnt) + 0.05


def test_bad_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="n_patients <= n_samples"):
        haim_like(10, 20)
    with pytest.raises(ValueError, match="four widths"):
        haim_like(20, 10, widths=(1, 2))
