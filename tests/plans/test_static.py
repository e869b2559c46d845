"""The static plan: its units, their slices, its first subsets, and what is too large for it."""

from __future__ import annotations

import numpy as np
import pytest

from tim_search import designs
from tim_search.plans import from_design
from tim_search.plans.static import StaticPlan
from tim_search.types import BadInput, Unit

PLAN = StaticPlan((("a",), ("b",), ("a", "b")))
BLOCKS = ((0, 0), (1, 4))


def test_units_go_subset_by_subset_or_slice_by_slice() -> None:
    assert list(PLAN.units(BLOCKS)) == [Unit(members, *block) for members in PLAN.subsets for block in BLOCKS]
    sliced = StaticPlan(PLAN.subsets, sliced=True)
    assert list(sliced.units(BLOCKS)) == [Unit(("a",), 0, 0), Unit(("b",), 1, 4), Unit(("a", "b"), 0, 0)]
    assert (PLAN.most(BLOCKS), sliced.most(BLOCKS)) == (6, 3)


def test_the_first_subsets_keep_their_slices() -> None:
    sliced = StaticPlan(PLAN.subsets, sliced=True, sampled=True)
    assert list(sliced.first(2).units(BLOCKS)) == list(sliced.units(BLOCKS))[:2]
    assert sliced.first(2).sample == sliced.first(2)
    assert sliced.first(9) == sliced


def test_blocks_of_a_growing_design_are_filled_five_at_a_time() -> None:
    subsets = tuple((f"t{number:03d}",) for number in range(330))
    plan = StaticPlan(subsets, sliced=True, sampled=True, fill=16)
    slices = plan.slices(20)
    assert slices[:80].tolist() == list(range(5)) * 16
    assert set(slices[80:160].tolist()) == {5, 6, 7, 8, 9}
    assert np.bincount(slices[:320]).tolist() == [16] * 20
    assert slices[320:].tolist() == list(range(10)), "what comes after is dealt to all blocks"
    assert plan.first(100).slices(20).tolist() == slices[:100].tolist()
    # Blocks that are no multiple of five, and fewer than five.
    assert np.bincount(plan.first(192).slices(12)).min() >= 16
    assert plan.first(40).slices(3).tolist() == (np.arange(40) % 3).tolist()


@pytest.mark.parametrize(("fill", "begun"), [(16, 5), (10**12, 5), (0, 20), (-3, 20)])
def test_a_design_that_was_written_down_deals_as_it_says(fill: int, begun: int) -> None:
    design = {"kind": "sampled", "n": 60, "seed": 0, "sliced": True, "fill": fill}
    plan = from_design.make(design, [f"t{number}" for number in range(9)])
    assert isinstance(plan, StaticPlan)
    assert plan.first(60).slices(20).tolist() == [number % begun for number in range(60)]


def test_the_largest_subset() -> None:
    assert PLAN.largest == 2
    assert StaticPlan(PLAN.subsets, sampled=True).largest is None
    assert StaticPlan(()).largest == 0


def test_more_units_than_memory_holds_are_refused() -> None:
    plan = StaticPlan(designs.subsets(designs.exact(16), tuple(f"t{index:02d}" for index in range(16))))
    with pytest.raises(BadInput, match="at most 100,000,000 units; 65,535 subsets in 2,000 blocks are 131,070,000"):
        plan.units([(seed, 0) for seed in range(2000)])


@pytest.mark.parametrize("design", [{"kind": "sized"}, {"kind": "sized", "k": "two"}, {"kind": 3}, {}])
def test_a_design_of_another_form_makes_no_plan(design: dict[str, object]) -> None:
    with pytest.raises(BadInput, match="Run the search again with its search file"):
        from_design.make(design, ("a", "b"))
