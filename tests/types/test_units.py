"""Subsets and units as columns say what the values say, one by one, in their order."""

from __future__ import annotations

import tracemalloc
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tim_search import designs
from tim_search.executors.packing import packs
from tim_search.plans.static import StaticPlan
from tim_search.types import Task, Unit, subset
from tim_search.types.columns import Subsets, Units

NAMES = [f"task{index:02d}" for index in range(70)]  # more than a word of 64 bits
few = st.builds(subset, st.sets(st.sampled_from(NAMES), min_size=1, max_size=6))
units_lists = st.lists(
    st.builds(Unit, few, st.integers(0, 2), st.integers(-1, 1)),
    max_size=30,
).flatmap(lambda units: st.permutations(units + units[::2]))


@given(st.lists(few, max_size=30))
def test_subsets_are_the_tuples_they_were_made_of(given: list[tuple[str, ...]]) -> None:
    for made in (Subsets.of(given), Subsets.of(iter(given), NAMES), Subsets.of(given).over(NAMES)):
        assert list(made) == given
        assert len(made) == len(given)
        assert [made[at] for at in range(-len(given), len(given))] == [*given, *given]
        assert list(made[3:11:2]) == given[3:11:2]
        assert made.counts(NAMES[:40]).tolist() == [len(set(NAMES[:40]).intersection(one)) for one in given]
        assert list(Subsets.of_members(made.membership, made.tasks)) == given


def test_a_membership_need_not_have_its_tasks_in_order() -> None:
    members = np.array([[1, 0, 1], [0, 1, 0]], bool)
    assert list(Subsets.of_members(members, ["z", "m", "a"])) == [("a", "z"), ("m",)]


def test_a_task_that_is_not_there_is_an_error() -> None:
    with pytest.raises(KeyError):
        Subsets.of([("a", "b")], ["a"])
    with pytest.raises(KeyError):
        Subsets.of([("a", "b")]).over(["b", "c"])
    with pytest.raises(IndexError):
        Subsets.of([("a",)])[1]


@pytest.mark.parametrize("size", [1, 2, 3])
def test_keys_sort_subsets_of_one_size_as_tuples(size: int) -> None:
    rng = np.random.default_rng(size)
    every = list(combinations(NAMES[::7], size))
    shuffled = Subsets.of([every[at] for at in rng.permutation(len(every))], NAMES)
    assert list(shuffled.take(np.lexsort(list(shuffled.keys)))) == every


@given(units_lists)
def test_units_are_the_values_they_were_made_of(given: list[Unit]) -> None:
    made = Units.of(iter(given))
    assert Units.of(made) is made
    assert list(made) == given
    assert [made[at] for at in range(len(given))] == given
    assert list(made[2:9]) == given[2:9]
    assert list(made.take(made.first())) == list(dict.fromkeys(given))
    ordered = sorted(given, key=lambda unit: (unit.seed, unit.fold))
    assert [made[at] for at in np.argsort(made.ranks, kind="stable")] == ordered


def test_a_block_that_is_listed_twice_is_one() -> None:
    twice = Units(Subsets.of([("a",), ("a",), ("b",)]), ((0, 0), (0, 0)), np.array([0, 1, 1], np.int32))
    assert twice.first().tolist() == [True, False, True]


def test_units_and_packs_of_a_large_search_take_few_bytes_a_unit() -> None:
    tasks = {name: Task(name, "binary") for name in NAMES[:16]}
    subsets = designs.subsets(designs.exact(16), list(tasks))
    blocks = [(0, 0), (1, 1)]
    tracemalloc.start()
    try:
        units = StaticPlan(subsets).units(blocks)
        waiting = packs(units, tasks, 64, 8)
        held, highest = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(units) == 2 * (2**16 - 1)
    assert held < 20 * len(units)
    assert highest < 100 * len(units)
    found = {unit for pack in waiting for unit in pack.units}
    assert found == {Unit(members, *block) for members in subsets for block in blocks}
