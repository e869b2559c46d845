"""Scores against scikit-learn's, with ties, weights and classes that vanish."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import r2_score, roc_auc_score

from model.metrics import auroc, macro_auroc, r2


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
