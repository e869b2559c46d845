"""The designs: which subsets, in which order, how well balanced, and what is refused."""

from __future__ import annotations

from itertools import combinations
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tim_search import designs
from tim_search.designs.hadamard import hadamard
from tim_search.types import BadInput


def signs(membership: np.ndarray) -> np.ndarray:
    return np.where(membership, 1, -1)


def distinct(membership: np.ndarray) -> bool:
    return len(np.unique(membership, axis=0)) == len(membership)


@pytest.mark.parametrize("n", [1, 2, 3, 7, 10])
def test_exact_lists_every_subset_once_small_ones_first(n: int) -> None:
    rows = designs.exact(n)
    assert rows.shape == (2**n - 1, n)
    assert rows.dtype == bool
    assert distinct(rows)
    assert rows.any(axis=1).all()
    assert (np.diff(rows.sum(axis=1)) >= 0).all()


def test_sized_lists_the_subsets_up_to_a_size_in_lexicographic_order() -> None:
    names = "abcde"
    expected = [members for k in (1, 2, 3) for members in combinations(names, k)]
    assert list(designs.subsets(designs.sized(5, 3), names)) == expected


@pytest.mark.parametrize("order", [*range(1, 3), *(o for o in range(4, 132, 4) if o not in (52, 92, 100, 116))])
def test_hadamard_matrices_are_orthogonal(order: int) -> None:
    matrix = hadamard(order)
    assert matrix is not None
    assert set(np.unique(matrix)) <= {-1, 1}
    assert (matrix.astype(int) @ matrix.T.astype(int) == order * np.eye(order, dtype=int)).all()


@pytest.mark.parametrize("order", [3, 5, 6, 10, 52, 92])
def test_orders_without_a_construction_are_skipped(order: int) -> None:
    assert hadamard(order) is None


@pytest.mark.parametrize(("n", "first"), [(12, 24), (20, 40), (44, 88), (43, 88), (9, 24)])
def test_hybrid_starts_with_a_folded_block_in_balance_up_to_triples(n: int, first: int) -> None:
    # Enough rows for the block even where the empty subset was in it and is skipped.
    rows = designs.hybrid(n, first, seed=3)
    z = signs(rows)
    if np.array_equal(z[0::2], -z[1::2]):
        assert (z.sum(axis=0) == 0).all()
        assert (z.T @ z == first * np.eye(n)).all()
        for j, k, m in list(combinations(range(n), 3))[:200]:
            assert (z[:, j] * z[:, k] * z[:, m]).sum() == 0
    else:
        assert n == 9
        assert abs(z.T @ z - first * np.eye(n)).max() <= 4


@settings(max_examples=30, deadline=None)
@given(n=st.integers(1, 24), seed=st.integers(0, 10**6), data=st.data())
def test_hybrid_is_distinct_extendable_and_seeded(n: int, seed: int, data: st.DataObject) -> None:
    budget = data.draw(st.integers(1, min(2**n - 1, 90)))
    smaller = data.draw(st.integers(1, budget))
    rows = designs.hybrid(n, budget, seed)
    assert rows.shape == (budget, n)
    assert rows.dtype == bool
    assert distinct(rows)
    assert rows.any(axis=1).all()
    assert np.array_equal(rows[:smaller], designs.hybrid(n, smaller, seed))
    assert np.array_equal(rows, designs.hybrid(n, budget, seed))


def test_another_seed_gives_another_design() -> None:
    assert not np.array_equal(designs.hybrid(12, 50, 0), designs.hybrid(12, 50, 1))


@pytest.mark.parametrize("n", [1, 2, 3, 5, 8])
def test_hybrid_reaches_every_subset(n: int) -> None:
    rows = designs.hybrid(n, 2**n - 1, seed=1)
    assert distinct(rows)
    assert len(rows) == 2**n - 1


def test_hybrid_is_better_balanced_than_chance() -> None:
    def imbalance(z: np.ndarray) -> float:
        pairs = np.stack([z[:, j] * z[:, k] for j, k in combinations(range(z.shape[1]), 2)], axis=1)
        return float((z.T @ pairs / len(z)).std() + (pairs.T @ pairs / len(z) - np.eye(pairs.shape[1])).std())

    rng = np.random.default_rng(0)
    chance = [imbalance(signs(rng.random((200, 12)) < 0.5)) for _ in range(5)]
    assert imbalance(signs(designs.hybrid(12, 200, 0))) < 0.75 * min(chance)


def test_each_row_of_hybrid_is_marginally_uniform() -> None:
    # Up to the empty subset, which is skipped: with 10 tasks one in 1024.
    drawn = np.stack([designs.hybrid(10, 26, seed)[25] for seed in range(600)])
    assert abs(drawn.mean(axis=0) - 0.5).max() < 3.5 * 0.5 / np.sqrt(600)
    counts = np.bincount(drawn.sum(axis=1), minlength=11)
    expected = np.array([comb(10, k) for k in range(11)]) / 1024 * 600
    pooled = [slice(0, 3), 3, 4, 5, 6, 7, slice(8, 11)]
    observed, uniform = (np.array([np.sum(values[at]) for at in pooled]) for values in (counts, expected))
    assert ((observed - uniform) ** 2 / uniform).sum() < 22.5  # 99.9 % point of chi-square, 6 degrees of freedom


def test_single_source_blocks_are_orthogonal_and_hold_the_source() -> None:
    rows = designs.single_source(44, source=7, budget=176, seed=2)
    assert rows[:, 7].all()
    assert distinct(rows)
    z = signs(np.delete(rows, 7, axis=1))
    for block in (z[:88], z[88:]):
        assert (block.T @ block == 88 * np.eye(43)).all()
    assert np.array_equal(rows[:60], designs.single_source(44, 7, 60, 2))


@pytest.mark.parametrize("n", [2, 3, 4, 6])
def test_single_source_reaches_every_subset_with_the_source(n: int) -> None:
    rows = designs.single_source(n, source=n - 1, budget=2 ** (n - 1), seed=0)
    assert distinct(rows)
    assert rows[:, -1].all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: designs.hybrid(5, 32, 0), r"budget of 32 .* 2\^5 - 1 = 31 subsets. Ask for at most 31"),
        (lambda: designs.hybrid(5, 0, 0), "at least one subset; got 0"),
        (lambda: designs.hybrid(0, 1, 0), "at least one task; got 0"),
        (lambda: designs.exact(21), r"2\^21 - 1 subsets of 21 tasks; at most 20"),
        (lambda: designs.sized(5, 6), "between 1 and the number of tasks, 5; got 6"),
        (lambda: designs.sized(60, 8), "can be listed"),
        (lambda: designs.single_source(5, 0, 17, 0), "Ask for at most 16"),
        (lambda: designs.hybrid(44, 10**12, 0), "at most 100,000 subsets; 1,000,000,000,000 were asked for"),
        (lambda: designs.single_source(5, 5, 4, 0), "from 0 to 4; got 5"),
        (lambda: designs.single_source(1, 0, 1, 0), "at least two tasks"),
        (lambda: designs.subsets(np.zeros((1, 2), bool), "ab"), "row 0 is empty"),
        (lambda: designs.subsets(np.ones((1, 3), bool), "ab"), "has 2 columns"),
    ],
)
def test_bad_input_is_refused_with_a_way_out(call: object, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        call()  # type: ignore[operator]


def test_subsets_are_sorted_names_in_row_order() -> None:
    assert list(designs.subsets(np.array([[1, 0, 1], [0, 1, 0]]), ["z", "m", "a"])) == [("a", "z"), ("m",)]
