"""Several blocks and several choices of settings in one pack: each unit as if it were trained alone."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from model.data.folds import Fold, side_by_side
from model.networks import registry as networks
from model.networks.settings import M3HSettings
from model.sources.synthetic import haim_like
from model.training import lockstep
from model.training.trainer import Fitted, PackTrainer, TrainingPayload, fit_blocks, fit_pack, predict
from tests.support.folds import TASKS, make_fold
from tim_search.types import Pack, PackResult, Subset, Unit, canonical

SETTINGS = M3HSettings(epochs=2, batch_size=32, width=8, precision="float64", learning_rate=3e-3)
SUBSETS: tuple[Subset, ...] = (("cost", "group", "ill"), ("group", "ill", "ward"), ("group", "rare", "stage"))


def assert_alike(one: Fitted, other: Fitted, fold: Fold, settings: M3HSettings) -> None:
    torch.testing.assert_close(one.history, other.history, rtol=0, atol=1e-8)
    here, there = (predict(fitted, fold.validation, settings) for fitted in (one, other))
    classes = min(here.logits.shape[-1], there.logits.shape[-1])
    torch.testing.assert_close(here.logits[..., :classes], there.logits[..., :classes], rtol=0, atol=1e-8)
    torch.testing.assert_close(here.latents, there.latents, rtol=0, atol=1e-8)
    torch.testing.assert_close(here.attention, there.attention, rtol=0, atol=1e-8)


@pytest.mark.parametrize("update", ["joint", "sequential"])
@pytest.mark.parametrize("missing", [(0.2, 0.2, 0.2), (0.0, 0.2, 0.0), (0.0, 0.0, 0.0)], ids=["some", "mixed", "whole"])
@pytest.mark.parametrize("rows", [(150, 150, 150), (160, 150, 141)], ids=["equal", "ragged"])
def test_every_block_and_rate_as_if_alone(update: Any, missing: Sequence[float], rows: Sequence[int]) -> None:
    settings = dataclasses.replace(SETTINGS, update=update)
    blocks = {
        (seed, fold): make_fold(rows=rows[fold], missing=missing[fold], seed=fold)
        for seed, fold in ((0, 0), (0, 1), (5, 2))
    }
    members = [(members, rate) for members in SUBSETS for rate in (1e-3, 4e-3)]
    found = fit_blocks(members, blocks, TASKS, settings)
    assert len(found) == 3
    for fitted, ((seed, number), fold) in zip(found, blocks.items(), strict=True):
        for rate in (1e-3, 4e-3):
            units = tuple(Unit(subset, seed, number) for subset in SUBSETS)
            alone = fit_pack(Pack(units), TASKS, fold, dataclasses.replace(settings, learning_rate=rate))
            at = [place for place, (_, own) in enumerate(members) if own == rate]
            part = dataclasses.replace(
                fitted,
                values={name: value[at] for name, value in fitted.values.items()},
                plan=alone.plan,
                history=fitted.history[:, at],
            )
            assert_alike(part, alone, fold, settings)


def test_a_member_that_diverges_changes_no_other_block() -> None:
    blocks = {(0, 0): make_fold(), (0, 1): make_fold(seed=1)}
    members = [(SUBSETS[0], 1e-3), (SUBSETS[0], 1e250)]
    first, second = fit_blocks(members, blocks, TASKS, SETTINGS)
    assert first.diverged[0] == second.diverged[0] == 0
    assert first.diverged[1]
    assert second.diverged[1]
    alone = fit_pack(
        Pack((Unit(SUBSETS[0], 0, 1),)), TASKS, blocks[0, 1], dataclasses.replace(SETTINGS, learning_rate=1e-3)
    )
    torch.testing.assert_close(second.history[:, :1], alone.history, rtol=0, atol=1e-8)


def test_rows_lie_side_by_side_whether_or_not_something_is_absent() -> None:
    one, other = make_fold(missing=0.0).train, make_fold(seed=1).train
    assert one.present is None
    both = side_by_side([one, other])
    assert (len(both), both.blocks) == (len(one), 2)
    assert both.present is not None
    assert both.present[0].all()
    assert torch.equal(both.present[1], other.present)  # type: ignore[arg-type]
    assert torch.equal(both.inputs[1][1], other.inputs[1])
    assert torch.equal(both.targets[len(one.targets) :], other.targets)
    assert side_by_side([one]) is one
    assert side_by_side([one, one]).present is None


# -------------------------------------------------------------------- packs of a trainer


@pytest.fixture(scope="module")
def payload() -> TrainingPayload:
    cohort, _ = haim_like(400, 300, 0, widths=(4, 9, 7, 5), n_binary=3, group_size=3)
    return TrainingPayload(
        cohort, "m3h", M3HSettings(epochs=2, batch_size=64, width=6, precision="float64", replicates=3)
    )


def tried(members: Subset, **values: Any) -> list[Unit]:
    return [Unit(members, seed, fold, canonical(values)) for seed, fold in ((0, 0), (0, 1), (1, 2), (0, 3))]


def rows_of(result: PackResult) -> dict[Any, Any]:
    rows = {(one.unit, one.task, one.metric): (one.value, *one.replicates) for one in result.scores}
    return rows | {(one.unit, one.task, one.other): (one.weight,) for one in result.attention}


def test_a_pack_of_all_that_is_tried_equals_its_units_alone(
    payload: TrainingPayload, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs: list[tuple[int, int]] = []
    fit = lockstep.fit

    def counted(values: Any, plan: Any, blocks: Any, *rest: Any) -> Any:
        programs.append((len(blocks), plan.members))
        return fit(values, plan, blocks, *rest)

    monkeypatch.setattr(lockstep, "fit", counted)
    names = sorted(payload.cohort.tasks)
    subset = tuple(names[:2])
    units = [
        unit
        for batch_size in (32, 64)
        for rate in (1e-3, 3e-3)
        for unit in tried(subset, batch_size=batch_size, learning_rate=rate)
    ]
    trainer = PackTrainer(payload)
    together = rows_of(trainer.train(Pack(tuple(units))))
    # Members with one batch size are one program, unless an epoch has more minibatches in one block than in another.
    assert sum(members for _, members in programs) == 16
    assert max(programs) == (4, 8)
    assert {unit for unit, *_ in together} == set(units)
    for unit in units:
        plain = dataclasses.replace(unit, settings="")
        settings = dataclasses.replace(payload.settings, **json.loads(unit.settings))  # type: ignore[type-var]
        alone = rows_of(PackTrainer(dataclasses.replace(payload, settings=settings)).train(Pack((plain,))))
        assert alone
        for (_, *rest), values in alone.items():
            np.testing.assert_allclose(together[unit, *rest], values, rtol=0, atol=1e-7)


def test_a_network_that_reads_one_block_at_a_time_is_trained_block_by_block(payload: TrainingPayload) -> None:
    names = sorted(name for name, task in payload.cohort.tasks.items() if task.kind == "binary")
    assert len(names) >= 2
    settings = networks.settings_of("flexcare")(epochs=1, width=8, layers=1)
    own = dataclasses.replace(payload, cohort=payload.cohort.for_tasks(names), network="flexcare", settings=settings)
    units = [unit for rate in (1e-3, 3e-3) for unit in tried((names[0],), learning_rate=rate)[:2]]
    result = PackTrainer(own).train(Pack(tuple(units)))
    assert {score.unit for score in result.scores if score.primary and score.status == "ok"} == set(units)
