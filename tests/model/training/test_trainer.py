"""The trainer of an executor's workers, under the settings of its payload and under others."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from model.networks.settings import M3HSettings
from model.sources.synthetic import haim_like
from model.training.trainer import PackTrainer, TrainingPayload, device_named, trainer
from tim_search.types import BadInput, Pack, PackResult, Unit, canonical


@pytest.fixture(scope="module")
def payload() -> TrainingPayload:
    cohort, _ = haim_like(400, 300, 0, widths=(4, 9, 7, 5), n_binary=3, group_size=3)
    return TrainingPayload(cohort, "m3h", M3HSettings(epochs=2, batch_size=64, width=6, replicates=3))


def rows_of(result: PackResult) -> dict[Any, Any]:
    rows = {(row.unit, row.task, row.metric): (row.value, *row.replicates) for row in result.scores}
    return rows | {(row.unit, row.task, row.other): (row.weight,) for row in result.attention}


@pytest.mark.parametrize("values", [{"batch_size": 32}, {"learning_rate": 1e-3, "width": 8}, {"replicates": 5}])
def test_other_settings_give_the_scores_of_a_trainer_of_their_own(payload: TrainingPayload, values: Any) -> None:
    names = sorted(payload.cohort.tasks)
    pack = Pack((Unit(tuple(names[:2]), 1, 2), Unit(tuple(names[1:3]), 1, 2)))
    first = trainer(payload)
    before = rows_of(first.train(pack))
    own = dataclasses.replace(payload, settings=dataclasses.replace(payload.settings, **values))  # type: ignore[type-var]
    assert rows_of(first.with_settings(canonical(values)).train(pack)) == rows_of(trainer(own).train(pack)) != before
    assert rows_of(first.train(pack)) == before


def test_a_fold_is_prepared_once_for_all_settings_that_can_share_it(payload: TrainingPayload) -> None:
    first = PackTrainer(payload)
    assert first.with_settings(canonical({"width": 8})).fold(1) is first.fold(1)
    assert first.with_settings(canonical({"replicates": 0})).fold(1) is not first.fold(1)


@pytest.mark.parametrize("name", ["cuda:99999999999999999999", "cuda:-1", "cuda:x", "gpu", "", "cuda:7"])
def test_a_device_that_torch_does_not_have_is_bad_input(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    with pytest.raises(BadInput, match="device: "):
        device_named(name)
    assert device_named("cuda:1").index == 1
