"""Packs: uniform, within capacity, every unit once, in one order."""

from __future__ import annotations

import random
from itertools import combinations, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tim_search.executors.packing import by_settings, packs
from tim_search.types import Attention, Pack, PackResult, Score, Task, Unit

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


def tried(members: tuple[str, ...]) -> list[Unit]:
    return [Unit(members, 0, fold, f'{{"rate":{rate}}}') for rate in range(4) for fold in range(5)]


@pytest.mark.parametrize(
    ("capacity", "sizes"), [(20, [20, 20, 20]), (60, [60]), (45, [20, 40]), (16, [10] * 6), (1, [1] * 60)]
)
def test_what_is_tried_for_a_subset_stays_together(capacity: int, sizes: list[int]) -> None:
    units = [unit for members in (("a",), ("b",), ("d",)) for unit in tried(members)]
    result = packs(reversed(units), TASKS, capacity)
    assert sorted(len(pack.units) for pack in result) == sizes
    assert sorted(unit for pack in result for unit in pack.units) == sorted(units)
    cut = [pack for pack in result if len(pack.units) % 20]
    assert all(len({unit.subset for unit in pack.units}) == 1 for pack in cut)
    assert len({pack.id for pack in result}) == len(result)


def test_units_without_settings_of_several_blocks_are_no_pack() -> None:
    with pytest.raises(ValueError, match="one seed and one fold"):
        Pack((Unit(("a",), 0, 0), Unit(("a",), 0, 1)))


def test_an_answer_comes_apart_by_settings_and_block() -> None:
    pack = Pack(tuple(tried(("a", "b"))))
    scores = tuple(Score(unit, task, "auroc", "validation", 0.5) for unit in pack.units for task in unit.subset)
    attention = tuple(Attention(unit, "a", "b", 0.5) for unit in pack.units)
    apart = by_settings(PackResult(pack, scores, attention, seconds=40.0, peak_bytes=7, attempts=2))
    assert set(apart) == {unit.settings for unit in pack.units}
    for settings, parts in apart.items():
        assert [part.pack for part in parts] == [Pack((Unit(("a", "b"), 0, fold),)) for fold in range(5)]
        for part in parts:
            assert (part.seconds, part.peak_bytes, part.attempts) == (2.0, 7, 2)
            assert [(score.unit, score.task) for score in part.scores] == [(part.pack.units[0], name) for name in "ab"]
            assert [one.unit for one in part.attention] == list(part.pack.units)
        assert settings
    plain = PackResult(Pack((Unit(("a",), 0, 0), Unit(("b",), 0, 0))), ())
    assert by_settings(plain) == {"": [plain]}
