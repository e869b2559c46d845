"""Replayed steps train as steps do, and are given up where they would not.

Here an action is "recorded" by keeping it, as a CUDA graph would keep its kernels: nothing is computed before a replay.
"""

from __future__ import annotations

import dataclasses
import functools
import warnings
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from model.networks import flexcare, m3h
from model.networks.contract import Parameters
from model.networks.settings import M3HSettings
from model.training import lockstep, replay
from model.training.fitting import fit_pack
from model.training.pack import Fitted
from tests.support.folds import TASKS, make_fold
from tim_search.types import Pack, Unit

SETTINGS = M3HSettings(epochs=4, batch_size=32, width=8, precision="float64", learning_rate=3e-3)
SUBSETS = (("cost", "group", "ill"), ("group", "ill", "ward"), ("group", "rare", "stage"))


@pytest.fixture(autouse=True)
def _not_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "_given_up", [])


class Kept:
    """Records by keeping the action; counts what is recorded and replayed."""

    def __init__(
        self, members: int, wrap: Callable[[Callable[[], Tensor]], Callable[[], Tensor]] | None = None
    ) -> None:
        self.members, self.wrap = members, wrap or (lambda action: action)
        self.recorded = self.replayed = 0

    def __call__(self, action: Callable[[], Tensor]) -> replay.Recorded:
        self.recorded += 1
        said = torch.zeros(self.members, dtype=torch.float64)
        whole = self.wrap(action)

        def again() -> None:
            self.replayed += 1
            said.copy_(whole())

        return again, said


def train(
    monkeypatch: pytest.MonkeyPatch, record: Any, settings: M3HSettings = SETTINGS, start: Sequence[Parameters] = ()
) -> Fitted:
    pack = Pack(tuple(Unit(members, 0, 0) for members in SUBSETS))
    with monkeypatch.context() as patch:
        patch.setattr(lockstep, "_worth_replaying", lambda *_: record is not None)
        patch.setattr(lockstep, "Replayed", functools.partial(replay.Replayed, record=record))
        return fit_pack(pack, TASKS, make_fold(rows=150, missing=0.2), settings, m3h, start=start)


def assert_equal(here: Fitted, there: Fitted) -> None:
    assert torch.equal(here.history.nan_to_num(), there.history.nan_to_num())
    for name, value in here.values.items():
        assert torch.equal(value.nan_to_num(), there.values[name].nan_to_num()), name


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"average": 2},
        {"average": 6},
        {"update": "sequential"},
        {"update": "in_turn"},
        {"balance": "dwa"},
        {"task_weights": {"ill": 0.5}},
    ],
    ids=str,
)
def test_a_replayed_pack_is_the_same(monkeypatch: pytest.MonkeyPatch, values: dict[str, Any]) -> None:
    settings = dataclasses.replace(SETTINGS, **values)
    record = Kept(3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = train(monkeypatch, record, settings)
    assert_equal(found, train(monkeypatch, None, settings))
    # 150 rows: four whole minibatches and one of 22 rows; the first epoch goes step by step.
    assert (record.recorded, record.replayed) == (2, (3 + settings.average // 2) * 5)


def test_a_member_that_diverges_does_not_end_replaying(monkeypatch: pytest.MonkeyPatch) -> None:
    lost = {"shared.in.weight": torch.full((1, 8, 24), 1e300, dtype=torch.float64)}
    record = Kept(3)
    found = train(monkeypatch, record, start=({}, {}, lost))
    assert [bool(epoch) for epoch in found.diverged] == [False, False, True]
    assert record.replayed == 3 * 5
    assert_equal(found, train(monkeypatch, None, start=({}, {}, lost)))


def refused(action: Callable[[], Tensor]) -> replay.Recorded:
    raise RuntimeError("operation not permitted when stream is capturing\nand more")


def nothing(action: Callable[[], Tensor]) -> Callable[[], Tensor]:
    return lambda: torch.zeros(3, dtype=torch.float64)


def twice(action: Callable[[], Tensor]) -> Callable[[], Tensor]:
    def both() -> Tensor:
        action()
        return action()

    return both


@pytest.mark.parametrize(
    ("record", "said"),
    [(refused, "not permitted"), (Kept(3, nothing), "something else"), (Kept(3, twice), "something else")],
    ids=["refused", "nothing", "twice"],
)
def test_what_does_something_else_is_given_up(monkeypatch: pytest.MonkeyPatch, record: Any, said: str) -> None:
    with pytest.warns(UserWarning, match=said):
        found = train(monkeypatch, record)
    assert_equal(found, train(monkeypatch, None))


@pytest.mark.parametrize("late", [False, True], ids=["recording", "replaying"])
def test_a_pack_without_room_for_a_graph_is_trained_step_by_step(monkeypatch: pytest.MonkeyPatch, late: bool) -> None:
    def no_room(*_: Any) -> Any:
        raise torch.OutOfMemoryError("no room")

    record = (lambda action: (no_room, torch.zeros(3))) if late else no_room
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = train(monkeypatch, record)
    assert_equal(found, train(monkeypatch, None))
    assert not replay.given_up()


def test_a_graph_that_does_not_read_its_minibatch_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = train(monkeypatch, None)
    monkeypatch.setattr(replay, "_tensors", lambda rows: [])
    record = Kept(3)
    with pytest.warns(UserWarning, match="something else"):
        found = train(monkeypatch, record)
    assert_equal(found, plain)
    assert record.replayed == 1
    assert replay.given_up()


def test_once_given_up_nothing_is_replayed_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    class ShortOnly(Kept):
        """Of the second length, the last minibatch, the graph does something else."""

        def __call__(self, action: Callable[[], Tensor]) -> replay.Recorded:
            self.wrap = nothing if self.recorded else (lambda action: action)
            return super().__call__(action)

    record = ShortOnly(3)
    with pytest.warns(UserWarning, match="something else"):
        found = train(monkeypatch, record)
    assert_equal(found, train(monkeypatch, None))
    assert record.replayed == 4 + 1, "the whole minibatches of one epoch, and the trial of the last one"


def test_only_small_packs_on_a_gpu_are_replayed() -> None:
    most, gpu, cpu = replay.MOST_MEMBERS, torch.device("cuda"), torch.device("cpu")
    dropping = dataclasses.replace(SETTINGS, input_dropout=0.1)

    def worth(members: int, device: torch.device, network: Any, settings: Any = SETTINGS) -> bool:
        pack = SimpleNamespace(layout=SimpleNamespace(members=members), network=network, settings=settings)
        return lockstep._worth_replaying(pack, device)  # type: ignore[arg-type]

    assert worth(most, gpu, m3h)
    assert not worth(most + 1, gpu, m3h)
    assert not worth(most, cpu, m3h)
    assert not worth(most, gpu, flexcare)
    assert not worth(most, gpu, m3h, dropping), "a recording would drop the same inputs in every step"
    replay._given_up.append("why")
    assert not worth(most, gpu, m3h)
