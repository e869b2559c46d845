"""What every network must hold to, whichever way it is written: subclass `NetworkConformance` and run it with pytest.

The suite trains on the made-up folds of `tests/support/folds.py`, which have absent modalities and missing labels.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from model.data.folds import Fold, Rows
from model.networks.contract import Layout, Network, Parameters, layout, n_logits
from model.training.fitting import fit_pack
from model.training.pack import Fitted
from model.training.predicting import predict
from tests.support.folds import TASKS, make_fold
from tim_search.types import Pack, Subset, Unit

CPU = torch.device("cpu")

#: A pack of unlike members: other tasks, other kinds, heads of other widths.
SUBSETS: tuple[Subset, ...] = (("cost", "ill"), ("ill", "ward"), ("rare", "stage"), ("stage", "ward"))


def pack_of(subsets: tuple[Subset, ...], seed: int = 0) -> Pack:
    return Pack(tuple(Unit(tuple(sorted(members)), seed, 0) for members in subsets))


def with_rows(fold: Fold, **changes: Any) -> Fold:
    """The fold with other training and validation rows."""
    return dataclasses.replace(
        fold,
        train=dataclasses.replace(fold.train, **{name: change(fold.train) for name, change in changes.items()}),
        validation=dataclasses.replace(
            fold.validation, **{name: change(fold.validation) for name, change in changes.items()}
        ),
    )


class _Poisoned:
    """A network whose first member starts from NaN."""

    def __init__(self, network: Network) -> None:
        self._network = network

    def __getattr__(self, name: str) -> Any:
        return getattr(self._network, name)

    def initialise(self, *arguments: Any) -> Parameters:
        values = self._network.initialise(*arguments)
        with torch.no_grad():
            for value in values.values():
                value[0] = float("nan")
        return values


class NetworkConformance:
    """Set `network` and `settings` (float64, few epochs), and say in `own` which parameters are a task's."""

    network: Network
    settings: Any
    #: Settings with which all losses make one step together.
    jointly: Mapping[str, Any] = MappingProxyType({})

    def own(self, values: Parameters, plan: Layout, member: int, name: str) -> list[Tensor]:
        """A task's own parameters in a member: as a lifted network has them."""
        slot = plan.names[member].index(name)
        used = n_logits(TASKS[name])
        parts = [value[member] for key, value in values.items() if key.startswith(f"parts.{slot}.")]
        return [*parts, values["head.weight"][member, slot, :used], values["head.bias"][member, slot, :used]]

    def shared(self, values: Parameters, member: int) -> list[Tensor]:
        """The parameters of a member that all tasks share."""
        return [value[member] for key, value in values.items() if key.startswith("shared.")]

    @pytest.fixture
    def fold(self) -> Fold:
        return make_fold()

    def fitted(self, fold: Fold, subsets: tuple[Subset, ...] = SUBSETS, network: Any = None, seed: int = 0) -> Fitted:
        return fit_pack(pack_of(subsets, seed), TASKS, fold, self.settings, network or self.network)

    def said(self, fitted: Fitted, rows: Rows) -> dict[tuple[Subset, str], np.ndarray]:
        """Used logits by subset and task."""
        logits = predict(fitted, rows).logits
        found = {}
        for member, names in enumerate(fitted.layout.names):
            for slot, name in enumerate(names[: fitted.layout.supervised]):
                used = n_logits(TASKS[name])
                found[tuple(sorted(names)), name] = logits[member, slot, :, :used].numpy()
        return found

    def test_it_learns(self, fold: Fold) -> None:
        fitted = self.fitted(fold)
        assert (fitted.history[-1] < fitted.history[0]).all()
        assert fitted.diverged == (0,) * len(SUBSETS)
        assert all(np.isfinite(logits).all() for logits in self.said(fitted, fold.validation).values())

    def test_a_pack_equals_its_members_alone(self, fold: Fold) -> None:
        together = self.said(self.fitted(fold), fold.validation)
        for members in SUBSETS:
            for key, logits in self.said(self.fitted(fold, (members,)), fold.validation).items():
                np.testing.assert_allclose(together[key], logits, rtol=0, atol=1e-8)

    def test_the_order_of_a_pack_changes_nothing(self, fold: Fold) -> None:
        there, back = (self.said(self.fitted(fold, subsets), fold.validation) for subsets in (SUBSETS, SUBSETS[::-1]))
        assert set(there) == set(back)
        for key, logits in there.items():
            np.testing.assert_allclose(back[key], logits, rtol=0, atol=1e-8)

    def test_averaged_weights_are_the_mean_of_the_steps_around_the_last(self, fold: Fold) -> None:
        # With one step an epoch a shorter training is a prefix of a longer one.
        settings = dataclasses.replace(self.settings, **self.jointly, batch_size=len(fold.train), epochs=4)
        steps = [
            fit_pack(pack_of(SUBSETS), TASKS, fold, dataclasses.replace(settings, epochs=epochs), self.network)
            for epochs in (2, 3, 4, 5, 6)
        ]
        found = fit_pack(pack_of(SUBSETS), TASKS, fold, dataclasses.replace(settings, average=4), self.network)
        assert torch.equal(found.history, steps[-1].history)
        for name, value in found.values.items():
            mean = torch.stack([step.values[name] for step in steps]).mean(0)
            torch.testing.assert_close(value, mean, rtol=0, atol=1e-12)
        alone = fit_pack(pack_of(SUBSETS[1:2]), TASKS, fold, dataclasses.replace(settings, average=4), self.network)
        here, there = self.said(found, fold.validation), self.said(alone, fold.validation)
        for key, logits in there.items():
            np.testing.assert_allclose(here[key], logits, rtol=0, atol=1e-8)

    def test_a_task_starts_from_the_same_place_in_every_subset(self, fold: Fold) -> None:
        starts = {}
        for subsets in ((("ill",),), (("cost", "ill", "ward"), ("ill", "rare", "stage"))):
            plan = layout(subsets, TASKS, fold, CPU)
            values = self.network.initialise(plan, TASKS, fold, 5, self.settings)
            for member, names in enumerate(plan.names):
                starts[names] = (self.own(values, plan, member, "ill"), self.shared(values, member))
        (own, shared), *others = starts.values()
        assert own
        assert shared
        for other_own, other_shared in others:
            for here, there in zip([*own, *shared], [*other_own, *other_shared], strict=True):
                assert torch.equal(here, there)
        plan = layout([("ill",)], TASKS, fold, CPU)
        another = self.network.initialise(plan, TASKS, fold, 6, self.settings)
        assert not all(map(torch.equal, own, self.own(another, plan, 0, "ill")))
        assert not all(map(torch.equal, shared, self.shared(another, 0)))
        plan = layout([("rare",)], TASKS, fold, CPU)
        other = self.network.initialise(plan, TASKS, fold, 5, self.settings)
        assert not all(map(torch.equal, own, self.own(other, plan, 0, "rare")))

    def test_starting_disturbs_no_dice_and_needs_none(self, fold: Fold) -> None:
        plan = layout([("ill", "ward")], TASKS, fold, CPU)
        starts = []
        for state in (1, 2):
            torch.manual_seed(state)
            before = torch.random.get_rng_state()
            starts.append(self.network.initialise(plan, TASKS, fold, 0, self.settings))
            assert torch.equal(torch.random.get_rng_state(), before)
        assert all(torch.equal(starts[0][name], starts[1][name]) for name in starts[0])

    def test_a_label_that_is_missing_teaches_nothing(self, fold: Fold) -> None:
        garbled = with_rows(fold, targets=lambda rows: torch.where(rows.labelled > 0, rows.targets, 1.0))
        assert not torch.equal(garbled.train.targets, fold.train.targets)
        here, there = (self.said(self.fitted(one), fold.validation) for one in (fold, garbled))
        for key, logits in here.items():
            np.testing.assert_array_equal(there[key], logits)

    def test_a_task_without_any_label_leaves_its_mates_finite(self, fold: Fold) -> None:
        row = fold.supervised.index("ward")
        blank = torch.ones(len(fold.supervised), 1, dtype=fold.train.labelled.dtype)
        blank[row] = 0.0
        unlabelled = with_rows(fold, labelled=lambda rows: rows.labelled * blank)
        said = self.said(self.fitted(unlabelled), fold.validation)
        assert all(np.isfinite(logits).all() for logits in said.values())

    def test_an_absent_modality_says_nothing(self, fold: Fold) -> None:
        assert fold.train.present is not None
        assert not fold.train.present.all()

        def garbled(rows: Rows) -> tuple[Tensor, ...]:
            assert rows.present is not None
            return tuple(torch.where(rows.present[:, number, None], x, 7.0) for number, x in enumerate(rows.inputs))

        other = with_rows(fold, inputs=garbled)
        here = self.said(self.fitted(fold), fold.validation)
        there = self.said(self.fitted(other), other.validation)
        for key, logits in here.items():
            np.testing.assert_allclose(there[key], logits, rtol=0, atol=1e-8)

    def test_a_row_is_predicted_by_itself(self, fold: Fold) -> None:
        fitted = self.fitted(fold)
        whole = self.said(fitted, fold.validation)
        chosen = torch.tensor([7, 3, 40])
        for key, logits in self.said(fitted, fold.validation.take(chosen)).items():
            np.testing.assert_allclose(logits, whole[key][chosen.numpy()], rtol=0, atol=1e-10)

    def test_no_modality_absent_is_all_of_them_present(self, fold: Fold) -> None:
        fitted = self.fitted(fold)
        whole = dataclasses.replace(fold.validation, present=torch.ones_like(fold.validation.present))
        plain = dataclasses.replace(whole, present=None)
        for key, logits in self.said(fitted, whole).items():
            np.testing.assert_allclose(self.said(fitted, plain)[key], logits, rtol=0, atol=1e-10)

    def test_a_member_that_fails_does_not_touch_its_mates(self, fold: Fold) -> None:
        calm = self.said(self.fitted(fold), fold.validation)
        fitted = self.fitted(fold, network=_Poisoned(self.network))
        assert fitted.diverged[0] == 1
        assert not any(fitted.diverged[1:])
        said = self.said(fitted, fold.validation)
        for members in SUBSETS[1:]:
            for name in members:
                np.testing.assert_allclose(said[members, name], calm[members, name], rtol=0, atol=1e-10)

    def test_precision_is_kept(self) -> None:
        fold = make_fold(dtype=torch.float32)
        settings = dataclasses.replace(self.settings, precision="float32", epochs=1)
        fitted = fit_pack(pack_of(SUBSETS), TASKS, fold, settings, self.network)
        assert {value.dtype for value in fitted.values.values()} == {torch.float32}
        assert predict(fitted, fold.validation).logits.dtype == torch.float32
