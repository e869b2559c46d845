"""Scores against scikit-learn's, with ties, weights and classes that vanish."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, f1_score, r2_score, roc_auc_score
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from model.scoring import metrics
from model.scoring.metrics import every, of_members, score, truth
from tim_search.types import ALLOWED, METRICS, Kind


def auroc(labels: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return score("auroc", "binary", labels, scores[:, None], weights)


def auprc(labels: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return score("auprc", "binary", labels, scores[:, None], weights)


def r2(labels: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return score("r2", "regression", labels, scores[:, None], weights)


def macro_auroc(labels: np.ndarray, chance: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Of probabilities; their logarithms are logits."""
    return score("macro_auroc", "multiclass", labels, np.log(chance), weights)


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
@settings(max_examples=20, deadline=None)
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
@settings(max_examples=20, deadline=None)
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


def of_kind(kind: Kind, dice: np.random.Generator, rows: int, ties: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Labels with gaps, and outputs of seven members, four columns wide."""
    labels = dice.integers(0, 2 if kind == "binary" else 4, rows).astype(float)
    if kind == "regression":
        labels = dice.normal(size=rows)
    if kind == "multilabel":
        labels = dice.integers(0, 2, (rows, 4)).astype(float)
    labels[dice.random(labels.shape) < 0.2] = np.nan
    outputs = dice.integers(-2, 3, (7, rows, 4)) if ties else dice.normal(size=(7, rows, 4))
    return labels, outputs.astype(np.float32)


KINDS: tuple[Kind, ...] = ("binary", "multiclass", "multilabel", "regression")


def width_of(kind: Kind) -> int:
    return 4 if kind in ("multiclass", "multilabel") else 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ties", [False, True])
def test_members_scored_together_are_scored_as_one_model_each(kind: Kind, ties: bool) -> None:
    dice = np.random.default_rng(5)
    labels, outputs = of_kind(kind, dice, 61, ties)
    weights = weightings(dice, 61)
    found = of_members(
        truth(kind, labels, width_of(kind), torch.from_numpy(weights.T.copy())), torch.from_numpy(outputs)
    )
    assert tuple(found) == ALLOWED[kind]
    known = ~np.isnan(labels) if labels.ndim == 1 else np.ones(61, bool)
    for metric, values in found.items():
        assert values.shape == (7, 6)
        for member, logits in enumerate(outputs):
            alone = score(metric, kind, labels[known], logits[known, : width_of(kind)].astype(float), weights[:, known])
            assert values[member].numpy() == pytest.approx(alone, abs=1e-12, nan_ok=True)
            assert np.isfinite(alone[0])


@pytest.fixture(params=[1, 20_000, 1 << 30], ids=["one at a time", "a few at a time", "all at once"])
def budget(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(metrics, "_BYTES", {False: request.param, True: request.param})
    return request.param


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("replicates", [0, 2, 40])
def test_a_score_is_the_same_in_every_bit_whatever_stands_beside_it(kind: Kind, replicates: int, budget: int) -> None:
    dice = np.random.default_rng(6)
    labels, outputs = of_kind(kind, dice, 77)
    weights = torch.from_numpy(np.vstack([np.ones((1, 77)), dice.integers(0, 4, (replicates, 77))]).T.astype(float))
    of, said = truth(kind, labels, width_of(kind), weights), torch.from_numpy(outputs)
    for metric, values in of_members(of, said).items():
        for member in range(len(said)):
            alone = of_members(of, said[member : member + 1].clone())[metric]
            assert torch.equal(values[member], alone[0])
        assert torch.allclose(values[:, :1], of_members(of.unweighted(), said)[metric], rtol=0, atol=1e-14)


def test_a_score_does_not_depend_on_how_much_goes_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    dice = np.random.default_rng(3)
    weights = torch.from_numpy(np.vstack([np.ones((1, 30)), dice.integers(0, 4, (40, 30))]).T.astype(float))
    for kind in KINDS:
        labels, outputs = of_kind(kind, dice, 30)
        of, said = truth(kind, labels, width_of(kind), weights), torch.from_numpy(outputs)
        at_once = of_members(of, said)
        with monkeypatch.context() as patch:
            patch.setattr(metrics, "_BYTES", {False: 1, True: 1})
            for metric, values in of_members(of, said).items():
                assert torch.allclose(values, at_once[metric], rtol=0, atol=1e-14, equal_nan=True)


@pytest.mark.parametrize("kind", KINDS)
def test_no_score_waits_for_the_device(kind: Kind) -> None:
    labels, outputs = of_kind(kind, np.random.default_rng(7), 40)
    of = truth(kind, labels, width_of(kind), torch.ones(40, 3, dtype=torch.float64))
    with FakeTensorMode(allow_non_fake_inputs=True):  # numbers that do not exist cannot be asked for
        found = of_members(of, torch.empty(outputs.shape))
        assert {tuple(values.shape) for values in found.values()} == {(7, 3)}
        assert all(isinstance(values, FakeTensor) for values in found.values())


@pytest.mark.parametrize("kind", KINDS)
def test_one_metric_is_what_all_at_once_say(kind: Kind) -> None:
    dice = np.random.default_rng(4)
    labels = dice.integers(0, 2, (40, 3) if kind == "multilabel" else 40).astype(float)
    logits = dice.normal(size=(40, 3))
    weights = weightings(dice, 40)
    together = every(kind, labels, logits, weights)
    assert tuple(together) == ALLOWED[kind]
    for metric, values in together.items():
        assert np.array_equal(score(metric, kind, labels, logits, weights), values)
    assert METRICS[kind] in together


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
