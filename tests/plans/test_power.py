"""What a pilot says about a design, held against what searches of that design then find."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.support.synthetic_games import quadratic, searched
from tim_search import designs
from tim_search.plans.power import DETECTED, pilot_size, power
from tim_search.plans.static import StaticPlan
from tim_search.tim import scores as tim

M = 8
NAMES = tuple(f"task{index:02d}" for index in range(M))
GAME = quadratic(M, 0)
OFF = ~np.eye(M, dtype=bool)


def plan(n: int, sliced: bool = True) -> StaticPlan:
    return StaticPlan(tuple(designs.subsets(designs.hybrid(M, n, 0), NAMES)), sliced)


@pytest.mark.parametrize(
    ("options", "sliced"),
    [
        pytest.param({"seed_effect": 0.0}, True, marks=pytest.mark.slow),
        ({"seed_effect": 0.5}, True),
        pytest.param({"seed_effect": 0.5}, False, marks=pytest.mark.slow),
        ({"seed_effect": 0.2, "patient_effect": 0.4}, True),
    ],
    ids=["noise", "seeds", "seeds, crossed", "patients"],
)
def test_a_pilot_foretells_the_error_of_the_search(options: dict[str, float], sliced: bool) -> None:
    foretold, found = [], []
    blocks = tuple((block, block) for block in range(5))
    for seed in range(3):
        rng = np.random.default_rng(seed)
        pilot = searched(GAME, designs.hybrid(M, pilot_size(M, 5), 0), rng, sliced=sliced, noise=0.5, **options)
        said = power(pilot, plan(200, sliced), blocks)
        assert all(value is not None for value in said.smallest.values())
        foretold.append(np.mean([value for value in said.smallest.values() if value]) / DETECTED)
        full = searched(GAME, designs.hybrid(M, 200, 0), rng, sliced=sliced, noise=0.5, **options)
        found.append(np.sqrt(np.mean((tim.from_table(full, "gls").estimate - GAME.delta)[OFF] ** 2)))
    # A pilot this small cannot rule seed effects out, so it errs on the large side where there are none.
    assert 0.75 < np.mean(foretold) / np.mean(found) < 1.5


def test_more_subsets_tell_smaller_scores() -> None:
    pilot = searched(GAME, designs.hybrid(M, 60, 0), np.random.default_rng(0), sliced=True)
    small, large = (power(pilot, plan(n), pilot.blocks, NAMES[0]) for n in (60, 240))
    assert NAMES[0] not in small.smallest, "the control gets no figure"
    for name in NAMES[1:]:
        one, other = small.smallest[name], large.smallest[name]
        assert one is not None
        assert other is not None
        assert other < one
    assert small.pilot_units == 60
    assert not small.notes


def test_what_a_pilot_cannot_say() -> None:
    few = searched(GAME, designs.hybrid(M, 12, 0), np.random.default_rng(0), sliced=True)
    assert power(few, plan(100), few.blocks).smallest == dict.fromkeys(NAMES)
    nothing = few.of([])
    assert power(nothing, plan(100), few.blocks).smallest == dict.fromkeys(NAMES)
    one = searched(GAME, designs.hybrid(M, 60, 0), np.random.default_rng(0), n_blocks=1)
    said = " ".join(power(replace(one, blocks=((0, 0),)), plan(100), few.blocks).notes)
    assert "one seed" in said
    assert "one fold and no replicates" in said
