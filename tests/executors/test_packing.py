"""Packs: uniform, within capacity, every unit once, in one order."""

from __future__ import annotations

import random
from itertools import combinations, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tim_search.executors.packing import packs
from tim_search.types import Pack, Task, Unit

TASKS = {
    "a": Task("a", "binary"),
    "b": Task("b", "regression"),
    "c": Task("c", "clustering", 5),
    "d": Task("d", "multiclass", 3),
    "e": Task("e", "clustering", 4),
}
SUBSETS = [members for size in range(1, 6) for members in combinations("abcde", size)]

units_lists = st.lists(
    st.builds(Unit, st.sampled_from(SUBSETS), st.integers(0, 2), st.integers(-1, 1)), max_size=120, unique=True
)


def layout(pack: Pack) -> set[tuple[int, int, int, int]]:
    return {
        (unit.seed, unit.fold, len(unit.subset), sum(TASKS[name].kind == "clustering" for name in unit.subset))
        for unit in pack.units
    }


@given(units_lists, st.integers(1, 20), st.randoms())
def test_every_unit_once_in_uniform_packs_whatever_the_order(
    units: list[Unit], capacity: int, shuffler: random.Random
) -> None:
    result = packs(units, TASKS, capacity)
    assert sorted(unit for pack in result for unit in pack.units) == sorted(units)
    assert all(len(layout(pack)) == 1 and len(pack.units) <= capacity for pack in result)
    shuffled = list(units)
    shuffler.shuffle(shuffled)
    assert list(packs(iter(shuffled), TASKS, capacity)) == list(result)


@given(units_lists, st.integers(1, 20))
def test_groups_are_split_evenly_into_as_few_packs_as_fit(units: list[Unit], capacity: int) -> None:
    sizes: dict[tuple[int, int, int, int], list[int]] = {}
    for pack in packs(units, TASKS, capacity):
        sizes.setdefault(layout(pack).pop(), []).append(len(pack.units))
    for group in sizes.values():
        assert len(group) == -(-sum(group) // capacity)
        assert max(group) - min(group) <= 1


@given(units_lists, st.integers(1, 20), st.integers(1, 9))
def test_no_pack_is_more_than_a_workers_share(units: list[Unit], capacity: int, workers: int) -> None:
    result = packs(units, TASKS, capacity, workers)
    share = -(-len(set(units)) // workers)
    assert sorted(unit for pack in result for unit in pack.units) == sorted(set(units))
    assert all(len(pack.units) <= min(capacity, share) for pack in result)


def test_seventeen_units_at_capacity_sixteen() -> None:
    names = {f"t{index:02d}": Task(f"t{index:02d}", "binary") for index in range(17)}
    result = packs((Unit((name,), 0, 0) for name in names), names, 16)
    assert sorted(len(pack.units) for pack in result) == [8, 9]


def test_costly_packs_come_first() -> None:
    costs = [sum(8 + len(unit.subset) for unit in pack.units) for pack in packs(all_units(), TASKS, 4)]
    assert all(left >= right for left, right in pairwise(costs))
    assert costs[0] > costs[-1]


def test_a_full_pack_of_single_tasks_comes_before_one_unit_of_many_tasks() -> None:
    alone = [Unit((name,), 0, 0) for name in "abd"]
    together = Unit(("a", "b", "c", "d"), 0, 0)
    assert list(packs([together, *alone], TASKS, 4)) == [Pack(tuple(alone)), Pack((together,))]


def test_clustering_counts_break_ties_of_cost() -> None:
    first, second = packs([Unit(("a", "b"), 0, 0), Unit(("a", "c"), 0, 0)], TASKS, 4)
    assert first.units[0].subset == ("a", "c")
    assert second.units[0].subset == ("a", "b")


def test_no_units_and_a_unit_given_twice() -> None:
    assert list(packs([], TASKS, 4)) == []
    unit = Unit(("a",), 0, 0)
    assert list(packs([unit, unit], TASKS, 4)) == [Pack((unit,))]


@pytest.mark.parametrize("capacity", [0, -3])
def test_a_capacity_below_one_is_refused(capacity: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        packs([], TASKS, capacity)


def all_units() -> list[Unit]:
    return [Unit(members, seed, 0) for members in SUBSETS for seed in (0, 1)]


def test_units_of_several_blocks_are_no_pack() -> None:
    with pytest.raises(ValueError, match="one seed and one fold"):
        Pack((Unit(("a",), 0, 0), Unit(("a",), 0, 1)))
