"""Clustering quality: silhouette of well-parted groups, its replicates, and latents that collapsed."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import silhouette_score

from model.clustering import effective_rank, judge


def groups(rows: int, seed: int, spread: float = 0.1) -> tuple[np.ndarray, np.ndarray]:
    dice = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(4, 6)) * 3
    label = dice.integers(0, 4, rows)
    return centres[label] + spread * dice.normal(size=(rows, 6)), label


def test_well_parted_groups_are_found_and_scored_as_scikit_learn_does() -> None:
    train, _ = groups(300, 0)
    held_out, label = groups(120, 1)
    weights = np.vstack([np.ones(120), np.random.default_rng(3).integers(0, 3, (4, 120))]).astype(float)
    found = judge(train, held_out, 4, weights, seed=5)
    assert found.collapsed == ""
    assert found.occupied == 4
    assert found.label_agreement == pytest.approx(1.0)
    assert found.silhouette[0] == pytest.approx(silhouette_score(held_out, label), abs=1e-9)
    assert len(set(found.silhouette.round(9))) > 1


@pytest.mark.parametrize(
    "train",
    [np.ones((50, 4)), np.outer(np.linspace(-1, 1, 50), np.ones(4)), np.repeat(np.eye(4), 2, axis=0)],
    ids=["a point", "a line", "fewer points than clusters"],
)
def test_a_collapsed_latent_has_no_score_and_says_why(train: np.ndarray) -> None:
    found = judge(train, train[:20], 15, np.ones((3, len(train[:20]))), seed=0)
    assert np.isnan(found.silhouette).all()
    assert found.silhouette.shape == (3,)
    assert "collapsed" in found.collapsed


def test_effective_rank_counts_directions() -> None:
    dice = np.random.default_rng(0)
    assert effective_rank(np.ones((10, 3))) == 0.0
    assert effective_rank(np.outer(dice.normal(size=500), [1.0, 2.0, 3.0])) == pytest.approx(1.0, abs=1e-6)
    assert effective_rank(dice.normal(size=(20_000, 3))) == pytest.approx(3.0, abs=0.01)
