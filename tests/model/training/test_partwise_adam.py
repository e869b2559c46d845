"""Adam by parts: what a loss does not reach stays as it is, and every part steps as it would alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import pytest
import torch

from model.networks import m3h
from model.networks.settings import M3HSettings
from model.training.fitting import fit_pack
from model.training.pack import Fitted
from model.training.partwise_adam import PartwiseAdam
from tests.support.folds import TASKS, make_fold
from tim_search.types import Pack, Subset, Unit

SETTINGS = M3HSettings(epochs=3, batch_size=32, width=8, precision="float64", learning_rate=3e-3, update="in_turn")
SUBSETS: tuple[Subset, ...] = (("cost", "group", "ill"), ("group", "ill", "ward"))


def trained(subsets: Sequence[Subset], settings: M3HSettings = SETTINGS) -> Fitted:
    pack = Pack(tuple(Unit(members, 0, 0) for members in subsets))
    return fit_pack(pack, TASKS, make_fold(rows=150, missing=0.2), settings, m3h)


def test_a_part_takes_the_steps_of_the_libraries_adam_for_the_losses_that_reach_it() -> None:
    dice = torch.Generator().manual_seed(0)
    start = torch.randn(2, 3, 4, generator=dice, dtype=torch.float64)
    stacked = start.clone().requires_grad_()
    alone = [[start[member, slot].clone().requires_grad_() for slot in range(3)] for member in range(2)]
    adam = PartwiseAdam({"own": stacked}, lambda name: True, 0.01, 12)
    library = torch.optim.Adam([part for row in alone for part in row], lr=0.01)
    for turn in range(12):
        slot, target = turn % 3, torch.randn(4, generator=dice, dtype=torch.float64)
        adam.forget()
        library.zero_grad()
        (stacked[:, slot] - target).square().sum().backward()
        sum((row[slot] - target).square().sum() for row in alone).backward()  # type: ignore[union-attr]
        adam.step()
        library.step()
    expected = torch.stack([torch.stack(row) for row in alone])
    torch.testing.assert_close(stacked, expected, rtol=0, atol=1e-14)


def test_a_head_moves_in_its_own_turn_alone() -> None:
    """One minibatch of rows: with zero-gradient steps a head goes on for the losses that follow its own."""
    short = dataclasses.replace(SETTINGS, epochs=1, batch_size=150)
    begun = trained(SUBSETS[:1], dataclasses.replace(short, learning_rate=1e-300))
    for update, steps in (("in_turn", 1), ("sequential", 2)):
        head = trained(SUBSETS[:1], dataclasses.replace(short, update=update)).values["head.bias"]
        way = (head - begun.values["head.bias"])[0, 0, 0].abs() / short.learning_rate
        assert (way > 1.1) == (steps > 1), "Adam's first step is one rate long"


def test_a_member_is_trained_in_a_pack_as_it_is_alone() -> None:
    together = trained(SUBSETS)
    for member, members in enumerate(SUBSETS):
        alone = trained([members])
        torch.testing.assert_close(together.history[:, member], alone.history[:, 0], rtol=0, atol=1e-9)


@pytest.mark.parametrize("update", ["joint", "sequential"])
def test_it_is_another_training_with_a_context_of_its_own(update: str) -> None:
    other = dataclasses.replace(SETTINGS, update=update)
    assert other.text != SETTINGS.text
    assert not torch.equal(trained(SUBSETS[:1], other).history, trained(SUBSETS[:1]).history)
