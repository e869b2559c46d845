"""Scores against scikit-learn's, with ties, weights and classes that vanish."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, f1_score, r2_score, roc_auc_score

from model.metrics import auprc, auroc, every, macro_auroc, r2, score, supervised
from tim_search.types import ALLOWED, METRICS, Kind


@given(
    st.integers(0, 10_000),
    st.integers(2, 60),
    st.integers(1, 6),
)
@settings(max_examples=60, deadline=None)
def test_auroc_equals_scikit_learn_with_ties_and_weights(seed: int, rows: int, levels: int) -> None:
    dice = np.random.default_rng(seed)
    labels = dice.integers(0, 2, rows).astype(float)
    scores = dice.integers(0, levels, rows).astype(float)
    weights = np.vstack([np.ones(rows), dice.integers(0, 4, (5, rows))]).astype(float)
    got = auroc(labels, scores, weights)
    for value, weight in zip(got, weights, strict=True):
        kept = weight > 0
        if len(set(labels[kept])) < 2:
            assert np.isnan(value)
        else:
            wanted = roc_auc_score(labels[kept], scores[kept], sample_weight=weight[kept])
            assert value == pytest.approx(wanted, abs=1e-12)


def test_macro_auroc_equals_scikit_learn() -> None:
    dice = np.random.default_rng(1)
    labels = dice.integers(0, 4, 200).astype(float)
    chance = dice.dirichlet(np.ones(4), 200)
    got = macro_auroc(labels, chance, np.ones((1, 200)))[0]
    assert got == pytest.approx(roc_auc_score(labels, chance, multi_class="ovr", average="macro"), abs=1e-12)


def test_macro_auroc_leaves_out_a_class_without_rows() -> None:
    labels = np.array([0.0, 0.0, 1.0, 1.0])
    chance = np.array([[0.7, 0.2, 0.1], [0.6, 0.3, 0.1], [0.2, 0.7, 0.1], [0.3, 0.6, 0.1]])
    assert macro_auroc(labels, chance, np.ones((1, 4)))[0] == 1.0
    assert np.isnan(macro_auroc(np.zeros(4), chance, np.ones((1, 4)))[0])


def test_r2_equals_scikit_learn_and_is_nan_for_constant_labels() -> None:
    dice = np.random.default_rng(2)
    labels, scores = dice.normal(size=80), dice.normal(size=80)
    weights = np.vstack([np.ones(80), dice.integers(0, 3, (4, 80))]).astype(float)
    wanted = [r2_score(labels, scores, sample_weight=weight) for weight in weights]
    assert r2(labels, scores, weights) == pytest.approx(wanted, abs=1e-12)
    assert np.isnan(r2(np.full(80, 0.1), scores, weights)).all()


def test_no_rows_give_no_score() -> None:
    none = np.zeros(0)
    weights = np.ones((2, 0))
    assert np.isnan(auroc(none, none, weights)).all()
    assert np.isnan(macro_auroc(none, np.zeros((0, 3)), weights)).all()
    assert np.isnan(r2(none, none, weights)).all()


def weightings(dice: np.random.Generator, rows: int) -> np.ndarray:
    return np.vstack([np.ones(rows), dice.integers(0, 4, (5, rows))]).astype(float)


@given(st.integers(0, 10_000), st.integers(2, 60), st.integers(1, 6))
@settings(max_examples=60, deadline=None)
def test_auprc_equals_scikit_learn_with_ties_and_weights(seed: int, rows: int, levels: int) -> None:
    dice = np.random.default_rng(seed)
    labels = dice.integers(0, 2, rows).astype(float)
    scores = dice.integers(0, levels, rows).astype(float)
    weights = weightings(dice, rows)
    for value, weight in zip(auprc(labels, scores, weights), weights, strict=True):
        if len(set(labels[weight > 0])) < 2:
            assert np.isnan(value)
        else:
            assert value == pytest.approx(average_precision_score(labels, scores, sample_weight=weight), abs=1e-12)


@given(st.integers(0, 10_000), st.integers(1, 40), st.integers(2, 5))
@settings(max_examples=60, deadline=None)
def test_f1_equals_scikit_learn_with_classes_that_vanish(seed: int, rows: int, classes: int) -> None:
    dice = np.random.default_rng(seed)
    labels = dice.integers(0, classes, rows).astype(float)
    logits = dice.integers(0, 3, (rows, classes)).astype(float)  # ties: the first of the likeliest is said
    weights = weightings(dice, rows)
    got = every("multiclass", labels, logits, weights)
    assert list(got) == ["macro_auroc", "macro_f1", "micro_f1"]
    for index, weight in enumerate(weights):
        kept = weight > 0
        if not kept.any():
            assert np.isnan([got["macro_f1"][index], got["micro_f1"][index]]).all()
            continue
        said, wanted = logits.argmax(axis=1)[kept], labels[kept]
        for average in ("macro", "micro"):
            value = f1_score(wanted, said, average=average, sample_weight=weight[kept], zero_division=0)
            assert got[f"{average}_f1"][index] == pytest.approx(value, abs=1e-12)


@given(st.integers(0, 10_000), st.integers(2, 50), st.integers(2, 5))
@settings(max_examples=60, deadline=None)
def test_multilabel_auroc_equals_scikit_learn_with_missing_labels(seed: int, rows: int, n_labels: int) -> None:
    dice = np.random.default_rng(seed)
    labels = dice.integers(0, 2, (rows, n_labels)).astype(float)
    labels[dice.random((rows, n_labels)) < 0.3] = np.nan
    logits = dice.integers(-2, 3, (rows, n_labels)).astype(float)
    weights = weightings(dice, rows)
    got = every("multilabel", labels, logits, weights)
    assert list(got) == ["macro_auroc", "micro_auroc"]
    for index, weight in enumerate(weights):
        each = []
        for column, scores in zip(labels.T, logits.T, strict=True):
            kept = ~np.isnan(column) & (weight > 0)
            if len(set(column[kept])) == 2:
                each.append(roc_auc_score(column[kept], scores[kept], sample_weight=weight[kept]))
        row, column = np.nonzero(~np.isnan(labels) & (weight[:, None] > 0))
        cells = labels[row, column]
        assert got["macro_auroc"][index] == pytest.approx(np.mean(each) if each else np.nan, abs=1e-12, nan_ok=True)
        if len(set(cells)) < 2:
            assert np.isnan(got["micro_auroc"][index])
        else:
            pooled = roc_auc_score(cells, logits[row, column], sample_weight=weight[row])
            assert got["micro_auroc"][index] == pytest.approx(pooled, abs=1e-12)


def test_pooled_auroc_does_not_depend_on_how_many_weightings_go_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    dice = np.random.default_rng(3)
    labels, logits = dice.integers(0, 2, (30, 4)).astype(float), dice.normal(size=(30, 4))
    weights = weightings(dice, 30)
    at_once = every("multilabel", labels, logits, weights)["micro_auroc"]
    monkeypatch.setattr("model.metrics._BLOCK", 1)
    assert np.array_equal(at_once, every("multilabel", labels, logits, weights)["micro_auroc"])


@pytest.mark.parametrize("kind", ["binary", "multiclass", "multilabel", "regression"])
def test_one_metric_is_what_all_at_once_say(kind: Kind) -> None:
    dice = np.random.default_rng(4)
    labels = dice.integers(0, 2, (40, 3) if kind == "multilabel" else 40).astype(float)
    logits = dice.normal(size=(40, 3))
    weights = weightings(dice, 40)
    together = every(kind, labels, logits, weights)
    assert tuple(together) == ALLOWED[kind]
    for metric, values in together.items():
        assert np.array_equal(score(metric, kind, labels, logits, weights), values)
    assert np.array_equal(supervised(kind, labels, logits, weights), together[METRICS[kind]])


def test_a_metric_of_another_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="a binary task is not scored by macro_f1"):
        score("macro_f1", "binary", np.zeros(2), np.zeros((2, 1)), np.ones((1, 2)))
    with pytest.raises(ValueError, match="a clustering task is not scored by silhouette from labels"):
        every("clustering", np.zeros(2), np.zeros((2, 1)), np.ones((1, 2)))


def test_no_rows_give_no_score_by_any_metric() -> None:
    weights = np.ones((2, 0))
    for kind, labels in (("binary", np.zeros(0)), ("multiclass", np.zeros(0)), ("multilabel", np.zeros((0, 3)))):
        for values in every(kind, labels, np.zeros((0, 3)), weights).values():
            assert values.shape == (2,)
            assert np.isnan(values).all()
