"""Clustering quality: k-means on par with scikit-learn's, silhouettes equal to its own, and latents that collapsed."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score, silhouette_samples, silhouette_score
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode

from model.scoring import clustering
from model.scoring.clustering import (
    Clustering,
    adjusted_rand,
    distinct_rows,
    effective_rank,
    judge,
    k_means,
    nearest,
    silhouettes,
)


def planted(rows: int, seed: int, spread: float = 0.1, groups: int = 4) -> tuple[np.ndarray, np.ndarray]:
    dice = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(groups, 6)) * 3
    label = dice.integers(0, groups, rows)
    return centres[label] + spread * dice.normal(size=(rows, 6)), label


def members(*arrays: np.ndarray) -> Tensor:
    return torch.from_numpy(np.stack(arrays))


def one(train: np.ndarray, held_out: np.ndarray, clusters: int, weights: np.ndarray, seed: int) -> Clustering:
    (found,) = judge(members(train), members(held_out), clusters, torch.from_numpy(weights.T.copy()), [seed])
    return found


def test_well_parted_groups_are_found_and_scored_as_scikit_learn_does() -> None:
    train, _ = planted(300, 0)
    held_out, label = planted(120, 1)
    weights = np.vstack([np.ones(120), np.random.default_rng(3).integers(0, 3, (4, 120))]).astype(float)
    found = one(train, held_out, 4, weights, seed=5)
    assert found.collapsed == ""
    assert found.occupied == 4
    assert found.label_agreement == pytest.approx(1.0)
    assert found.silhouette[0] == pytest.approx(silhouette_score(held_out, label), abs=1e-9)
    each = silhouette_samples(held_out, label)
    assert found.silhouette == pytest.approx(weights @ each / weights.sum(1), abs=1e-9)
    assert len(set(found.silhouette.round(9))) > 1


@pytest.mark.parametrize(
    "train",
    [np.ones((50, 4)), np.outer(np.linspace(-1, 1, 50), np.ones(4)), np.repeat(np.eye(4), 2, axis=0)],
    ids=["a point", "a line", "fewer points than clusters"],
)
def test_a_collapsed_latent_has_no_score_and_says_why(train: np.ndarray) -> None:
    found = one(train, train[:20], 15, np.ones((3, len(train[:20]))), seed=0)
    assert np.isnan(found.silhouette).all()
    assert found.silhouette.shape == (3,)
    distinct = len(np.unique(train.round(9), axis=0))
    assert found.collapsed.startswith("collapsed: effective rank ")
    assert found.collapsed.endswith(f" of the latents, {distinct} distinct training rows")


def test_held_out_rows_in_one_cluster_have_no_score_and_say_so() -> None:
    train, label = planted(200, 0)
    found = one(train, train[label == 0], 4, np.ones((2, int((label == 0).sum()))), seed=0)
    assert found.collapsed == "collapsed: held-out rows fill 1 of 4 clusters"
    assert np.isnan(found.silhouette).all()
    assert found.occupied == 1


@pytest.mark.parametrize("width", [6, 16])
def test_a_member_is_judged_the_same_in_every_bit_whatever_its_mates_are(width: int) -> None:
    dice = np.random.default_rng(4)
    train = dice.normal(size=(5, 203, width))
    train[2] = 1.0  # collapsed
    train[1, 0] = 1e200  # its square is not finite
    held_out = dice.normal(size=(5, 61, width))
    weights = torch.from_numpy(dice.integers(1, 4, (61, 7)).astype(float))
    seeds = [3, 3, 3, 8, 3]
    together = judge(torch.from_numpy(train), torch.from_numpy(held_out), 5, weights, seeds)
    assert [bool(found.collapsed) for found in together] == [False, True, True, False, False]
    for member, found in enumerate(together):
        (alone,) = judge(members(train[member]), members(held_out[member]), 5, weights, [seeds[member]])
        assert np.array_equal(alone.silhouette, found.silhouette, equal_nan=True)
        assert (alone.occupied, alone.effective_rank, alone.collapsed) == (
            found.occupied,
            found.effective_rank,
            found.collapsed,
        )
        assert np.array_equal(alone.label_agreement, found.label_agreement, equal_nan=True)


def test_effective_rank_counts_directions() -> None:
    dice = np.random.default_rng(0)
    assert effective_rank(members(np.ones((10, 3)))).tolist() == [0.0]
    ranks = effective_rank(
        members(np.outer(dice.normal(size=9000), [1.0, 2.0, 3.0]), dice.normal(size=(9000, 3)))
    ).tolist()
    assert ranks == pytest.approx([1.0, 3.0], abs=0.01)


def test_distinct_rows_are_counted_as_sorting_them_would() -> None:
    dice = np.random.default_rng(1)
    cases = [
        dice.normal(size=(40, 8))[dice.integers(0, 40, 60)],
        dice.integers(0, 2, (60, 8)).astype(float) * np.where(dice.random((60, 8)) < 0.5, -1.0, 1.0),  # with -0.0
        1.0 + 1e-10 * dice.normal(size=(60, 8)),
        1e12 * dice.integers(0, 3, (60, 8)).astype(float),
        np.eye(60)[:, :8],
    ]
    assert distinct_rows(members(*cases)).tolist() == [len(np.unique(case.round(9) + 0.0, axis=0)) for case in cases]


# k-means --------------------------------------------------------------------------------------------------------------


def test_planted_groups_are_recovered() -> None:
    train = [planted(240, seed, spread=0.4, groups=8) for seed in range(4)]
    rows = members(*(points for points, _ in train))
    centres = clustering.groups(rows, 8, [0, 1, 2, 3])
    for labels, (_, true) in zip(nearest(rows, centres).numpy(), train, strict=True):
        assert adjusted_rand_score(true, labels) == pytest.approx(1.0)


def test_inertia_is_on_par_with_scikit_learn() -> None:
    ratios = []
    for seed in range(12):
        dice = np.random.default_rng(seed)
        rows = dice.normal(size=(250, 5)) @ dice.normal(size=(5, 5))
        centres, inertia = k_means(members(rows), 6, [seed], starts=3)
        squared = ((rows[:, None] - centres[0, 0].numpy()) ** 2).sum(2).min(1).sum()
        assert float(inertia[0, 0]) == pytest.approx(squared)
        ratios.append(float(inertia.min()) / KMeans(6, n_init=3, random_state=seed).fit(rows).inertia_)
    assert np.mean(ratios) == pytest.approx(1.0, abs=0.01)


def test_a_start_ends_where_scikit_learn_ends_from_the_same_centres() -> None:
    dice = np.random.default_rng(2)
    rows = dice.normal(size=(300, 4))
    rows -= rows.mean(0)
    first = rows[:7]
    wanted = KMeans(7, init=first, n_init=1).fit(rows)
    points, start = members(rows), torch.from_numpy(first.copy())[None, None]
    found = clustering._lloyd_bounded(points, start, 1e-4 * points.square().mean(dim=(1, 2)))
    assert found[0, 0].numpy() == pytest.approx(wanted.cluster_centers_, abs=1e-9)


def test_all_members_at_once_end_where_each_start_ends_alone() -> None:
    dice = np.random.default_rng(3)
    rows = torch.from_numpy(dice.normal(size=(3, 220, 5)))
    centres = rows[:, :32].reshape(3, 4, 8, 5).contiguous()
    tolerance = 1e-4 * rows.square().mean(dim=(1, 2))
    together = clustering._lloyd(rows, centres, tolerance)
    assert torch.allclose(together, clustering._lloyd_bounded(rows, centres, tolerance), rtol=0, atol=1e-10)


@pytest.mark.parametrize("how", [clustering._lloyd, clustering._lloyd_bounded])
def test_a_cluster_without_rows_gets_the_rows_that_lie_farthest(how) -> None:
    points, true = planted(160, 0)
    points = points - points.mean(0)
    centres = np.stack([points[true == 0].mean(0), points[true == 0].mean(0) + 50, np.full(6, 60.0), np.full(6, 70.0)])
    rows = members(points)
    found = how(rows, torch.from_numpy(centres)[None, None], torch.full((1,), 1e-9, dtype=torch.float64))
    labels = nearest(rows, found[:, 0])[0].numpy()
    assert len(set(labels.tolist())) == 4


def test_equal_seeds_give_equal_starts() -> None:
    points, _ = planted(100, 0, spread=2.0)
    rows = members(points, points, points)
    centres, inertia = k_means(rows, 5, [1, 1, 2])
    assert torch.equal(centres[0], centres[1])
    assert not torch.equal(centres[0], centres[2])
    assert len(set(inertia[0].tolist())) > 1  # each start has numbers of its own


# Judging a grouping ---------------------------------------------------------------------------------------------------


def test_silhouettes_equal_scikit_learn_by_any_block(monkeypatch: pytest.MonkeyPatch) -> None:
    dice = np.random.default_rng(5)
    points = dice.normal(size=(3, 90, 4)) + 5.0
    points[0, 7] = points[0, 8]
    labels = dice.integers(0, 5, (3, 90))
    labels[1][labels[1] == 3] = 2  # an empty cluster
    labels[2][labels[2] == 4] = 0
    labels[2][0] = 4  # a row alone in its cluster
    wanted = np.stack([silhouette_samples(*member) for member in zip(points, labels, strict=True)])
    for room in (1, 8 * 90 * 32, 1 << 20):
        monkeypatch.setattr(clustering, "_CPU_BYTES", room)
        found = silhouettes(torch.from_numpy(points), torch.from_numpy(labels), 5).numpy()
        assert found == pytest.approx(wanted, abs=1e-9)


def test_adjusted_rand_index_equals_scikit_learn() -> None:
    dice = np.random.default_rng(6)
    one, other = dice.integers(0, 4, (6, 50)), dice.integers(0, 3, (6, 50))
    other[0] = one[0]
    other[1] = np.array([2, 0, 3, 1])[one[1]]
    other[2] = 1
    tables = torch.zeros(6, 4, 4, dtype=torch.float64)
    for member in range(6):
        np.add.at(tables[member].numpy(), (one[member], other[member]), 1)
    wanted = [adjusted_rand_score(*both) for both in zip(one, other, strict=True)]
    assert adjusted_rand(tables).tolist() == pytest.approx(wanted, abs=1e-12)


def test_nearest_takes_the_first_of_equally_near_centres() -> None:
    points = members(np.array([[0.0, 0.0], [1.0, 0.0], [3.0, 0.0]]))
    centres = np.array([[-1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    assert nearest(points, members(centres)).tolist() == [[0, 1, 1]]
    for order in permutations(range(3)):
        chosen = centres[list(order)][nearest(points, members(centres[list(order)]))[0]]
        assert np.abs(chosen[:, 0] - [0, 1, 3]).tolist() == [1.0, 0.0, 2.0]


def test_nothing_but_the_end_of_k_means_waits_for_the_device() -> None:
    with FakeTensorMode():  # numbers that do not exist cannot be asked for
        rows, labels = torch.empty(3, 90, 4, dtype=torch.float64), torch.empty(3, 90, dtype=torch.int64)
        centres = clustering._spread_out(rows, torch.empty(3, 4, 5, 3, dtype=torch.float64))
        assert centres.shape == (3, 4, 5, 4)
        assert nearest(rows, centres[:, 0]).shape == silhouettes(rows, labels, 5).shape == (3, 90)
        assert effective_rank(rows).shape == distinct_rows(rows).shape == (3,)
        with pytest.raises(DataDependentOutputException):
            rows.sum().item()
        with pytest.raises(DynamicOutputShapeException):
            clustering._lloyd(rows, centres, rows.mean(dim=(1, 2)))


def test_a_start_is_named_by_seed_and_task() -> None:
    assert clustering.start(1, "a") == clustering.start(1, "a")
    assert len({clustering.start(seed, task) for seed in (1, 2) for task in "ab"}) == 4
