"""What a model publishes of its preprocessing tells no count of few patients; an attacker tries every count."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import numpy as np
import pytest
import torch

from model.cohorts.cohort import Cohort, Modality, make_cohort
from model.data.folds import load_fold, target_scale
from model.data.preprocess import Transform, fit
from tim_search.types import FINAL_FOLD, Task

FEW = 11


def cohort(modality: Modality) -> Cohort:
    n = len(modality.present)
    return make_cohort("c", np.arange(n), np.arange(n), [modality], [Task("y", "regression")], {"y": np.arange(n)})


def vector(columns: Iterable[np.ndarray], levels: dict[str, tuple[str, ...]] | None = None) -> Modality:
    values = np.stack(list(columns), axis=1)
    names = tuple(f"x{index}" for index in range(values.shape[1]))
    return Modality("m", "vector", names, values, levels or {}, np.ones(len(values), bool))


def fitted(modality: Modality, few: int = FEW) -> Transform:
    return fit(cohort(modality), np.ones(len(modality.present), bool), few).transforms["m"]


def published(modality: Modality, few: int = FEW) -> tuple[object, ...]:
    """All that a model's file holds of a transform."""
    own = fitted(modality, few)
    return tuple(own.numeric), tuple(own.mean), tuple(own.scale), own.levels, own.gaps, own.names


def ones(n: int, positive: int, missing: int = 0) -> np.ndarray:
    column = np.zeros(n)
    column[:positive] = 1.0
    column[n - missing :] = np.nan
    return column


@pytest.mark.parametrize("n", [97, 300, 512, 800, 1001])
def test_how_many_carry_a_rare_value_cannot_be_told_from_a_mean_and_a_scale(n: int) -> None:
    by_file = defaultdict(set)
    for positive in range(1, 60):
        by_file[published(vector([ones(n, positive)]))].add(positive)
    told = [counts for counts in by_file.values() if len(counts) == 1 and counts < set(range(FEW))]
    assert told == []
    exact = defaultdict(set)
    for positive in range(1, 60):
        exact[published(vector([ones(n, positive)]), few=0)].add(positive)
    assert all(len(counts) == 1 for counts in exact.values()), "the attack finds what was published before"


@pytest.mark.parametrize("n", [300, 512, 800])
def test_how_many_lack_a_value_cannot_be_told(n: int) -> None:
    by_file = defaultdict(set)
    for missing in range(25):
        for positive in range(20, 200, 9):
            by_file[published(vector([ones(n, positive, missing)]))].add(missing)
    assert not [counts for counts in by_file.values() if len(counts) == 1 and 0 < min(counts) < FEW]


def test_of_few_patients_nothing_is_fitted() -> None:
    dice = np.random.default_rng(0)
    measured_by_three, rare_level = np.full(400, np.nan), dice.integers(0, 2, 400).astype(float)
    measured_by_three[:3] = [61.5, 70.25, 81.75]
    rare_level[:5] = 2.0
    nearly_all = dice.normal(size=400)
    nearly_all[:10] = np.nan
    lacking = dice.normal(size=400)
    lacking[:50] = np.nan
    modality = vector([measured_by_three, rare_level, nearly_all, lacking], {"x1": ("a", "b", "c")})
    assert fitted(modality).names == ("x2", "x3", "x1=a", "x1=b", "x3 measured")
    assert fitted(modality, few=0).names == (
        *("x0", "x2", "x3", "x1=a", "x1=b", "x1=c"),
        *("x0 measured", "x2 measured", "x3 measured"),
    )


def test_a_channel_of_few_patients_stays_and_tells_nothing() -> None:
    values = np.full((300, 4, 3), np.nan)
    values[:, :, 0] = np.random.default_rng(0).normal(50, 3, (300, 4))
    values[:6, 1, 1] = [61.0, 62.0, 63.0, 64.0, 65.0, 66.0]
    values[:, 0, 2] = 7.0
    values[:4, 0, 2] = 9.0
    modality = Modality("m", "sequence", ("a", "b", "c"), values, {}, np.ones(300, bool))
    own = fitted(modality)
    assert own.mean.tolist()[1:] == [0.0, 6.0]
    assert own.scale.tolist() == [4.0, 1.0, 1.0]
    assert abs(own.mean[0] - 50) < 1


def test_rounded_scales_are_near_the_exact_ones() -> None:
    dice = np.random.default_rng(3)
    columns = [dice.normal(mean, spread, 900) for mean, spread in ((5, 2), (-300, 0.01), (1e9, 1e6))]
    exact, rounded = fitted(vector(columns), few=0), fitted(vector(columns))
    assert (np.abs(np.log2(rounded.scale / exact.scale)) <= 0.5).all()
    assert (np.abs(rounded.mean - exact.mean) <= 0.06 * exact.scale).all()


@pytest.mark.parametrize("n", [200, 512, 900])
def test_the_scale_of_labels_tells_no_count(n: int) -> None:
    """Neither how many of them differ from all others nor how many there are."""
    learn = np.ones(n, bool)
    by_file: dict[object, set[int]] = defaultdict(set)
    for positive in range(1, 60):
        by_file[target_scale(ones(n, positive), learn, FEW)].add(positive)
    assert not [counts for counts in by_file.values() if len(counts) == 1 and min(counts) < FEW]
    assert target_scale(ones(n, 30, n - 9), learn, FEW) == (0.0, 1.0), "nine labels"
    assert target_scale(ones(n, 30), learn) == (30 / n, float(ones(n, 30).std())), "exact where nothing is hidden"


def test_a_model_is_trained_with_what_it_publishes() -> None:
    made = cohort(vector([np.random.default_rng(1).normal(3, 2, 500)]))
    own = fit(made, made.split.train(FINAL_FOLD), FEW)
    fold = load_fold(made, FINAL_FOLD, dtype=torch.float32, device=torch.device("cpu"), replicates=0, few=FEW)
    np.testing.assert_array_equal(fold.train.inputs[0].numpy(), own.transform(made)["m"][made.split.train(FINAL_FOLD)])
    mean, scale = target_scale(made.labels["y"], made.split.train(FINAL_FOLD), FEW)
    targets = fold.train.targets[0].double().numpy() * scale + mean
    np.testing.assert_allclose(targets, made.labels["y"][made.split.train(FINAL_FOLD)], rtol=1e-5, atol=1e-3)
