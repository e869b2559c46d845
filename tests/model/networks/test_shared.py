"""Hard parameter sharing: the conformance suite, the literal network, and bits that do not depend on pack mates."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from model.cohorts.cohort import Cohort
from model.data.folds import load_fold
from model.data.seeding import batch_order
from model.networks import shared
from model.networks.contract import Layout, Parameters, Shape, layout, n_logits
from model.networks.settings import SharedSettings, settings_class
from model.sources.synthetic import haim_like
from model.sources.synthetic_incomplete import incomplete
from model.training.fitting import check_supported, fit_pack
from model.training.predicting import predict
from tests.model.training.test_cost import peak_bytes
from tests.support.folds import TASKS, make_fold
from tests.support.network_conformance import CPU, SUBSETS, NetworkConformance, pack_of
from tim_search.types import BadInput

SETTINGS = SharedSettings(width=6, epochs=3, batch_size=40, learning_rate=3e-3, precision="float64", replicates=0)


class TestShared(NetworkConformance):
    network = shared
    settings = SETTINGS

    def own(self, values: Parameters, plan: Layout, member: int, name: str) -> list[Tensor]:
        slot, used = plan.names[member].index(name), n_logits(TASKS[name])
        return [values["head.weight"][member, slot, :used], values["head.bias"][member, slot, :used]]

    def shared(self, values: Parameters, member: int) -> list[Tensor]:
        return [value[member] for key, value in values.items() if not key.startswith("head.")]


def literal(values: dict[str, Tensor], names, rows, layers: int) -> dict[str, Tensor]:
    """Logits by task of one subset, a layer at a time."""
    embeddings = []
    for number, x in enumerate(rows.inputs):
        z = F.relu(F.linear(x, values[f"encoder.{number}.weight"], values[f"encoder.{number}.bias"]))
        embeddings.append(torch.where(rows.present[:, number : number + 1], z, torch.zeros_like(z)))
    x = torch.cat(embeddings, dim=1)
    for number in range(layers):
        x = F.relu(F.linear(x, values[f"trunk.{number}.weight"], values[f"trunk.{number}.bias"]))
    return {
        name: F.linear(x, values["head.weight"][slot], values["head.bias"][slot])[:, : n_logits(TASKS[name])]
        for slot, name in enumerate(names)
    }


def literal_losses(logits: dict[str, Tensor], rows, fold) -> list[Tensor]:
    """Of each task the mean loss over the rows that carry the label."""
    losses = []
    for name, said in logits.items():
        where = rows.labelled[fold.first[name]] > 0
        wanted, said = rows.targets[fold.first[name]][where], said[where]
        if not len(wanted):
            losses.append(torch.zeros((), dtype=torch.float64))
        elif TASKS[name].kind == "multiclass":
            losses.append(F.cross_entropy(said, wanted.long()))
        elif TASKS[name].kind == "binary":
            losses.append(F.binary_cross_entropy_with_logits(said[:, 0], wanted))
        else:
            losses.append(F.l1_loss(said[:, 0], wanted))
    return losses


@pytest.mark.parametrize("layers", [1, 3])
def test_a_pack_equals_the_literal_network_after_fifty_steps(layers: int) -> None:
    fold, settings = make_fold(), dataclasses.replace(SETTINGS, layers=layers, epochs=13)  # 13 epochs of 4 minibatches
    fitted = fit_pack(pack_of(SUBSETS, 3), TASKS, fold, settings, shared)
    logits = predict(fitted, fold.validation).logits
    for member, names in enumerate(fitted.layout.names):
        plan = layout([names], TASKS, fold, CPU)
        begun = shared.initialise(plan, TASKS, fold, 3, settings)
        values = {name: value[0].detach().clone().requires_grad_() for name, value in begun.items()}
        optimiser = torch.optim.Adam(values.values(), lr=settings.learning_rate)
        for epoch in range(settings.epochs):
            for rows in fold.train.take(batch_order(3, epoch, len(fold.train))).split(settings.batch_size):
                optimiser.zero_grad()
                torch.stack(literal_losses(literal(values, names, rows, layers), rows, fold)).sum().backward()
                optimiser.step()
        for slot, (name, wanted) in enumerate(literal(values, names, fold.validation, layers).items()):
            used = n_logits(TASKS[name])
            torch.testing.assert_close(logits[member, slot, :, :used], wanted.detach(), atol=1e-8, rtol=0)


def test_a_pack_trains_as_its_members_alone_in_every_bit() -> None:
    fold = make_fold(rows=149, dtype=torch.float32)
    settings = dataclasses.replace(SETTINGS, precision="float32", width=16, epochs=10)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        together = fit_pack(pack_of(SUBSETS), TASKS, fold, settings, shared)
        for member, names in enumerate(together.layout.names):
            alone = fit_pack(pack_of((names,)), TASKS, fold, settings, shared)
            for name, value in alone.values.items():
                here = together.values[name][member]
                if name.startswith("head."):
                    here = here[:, : alone.layout.outputs]
                assert torch.equal(here, value[0]), (names, name)
    finally:
        torch.set_num_threads(threads)


def test_counted_bytes_are_those_allocated() -> None:
    cohort = haim_like(900, 400, widths=(6, 30, 120, 120), n_binary=3, seed=1)[0]
    fold = load_fold(cohort, 0, dtype=torch.float32, device=CPU, replicates=0)
    short = dataclasses.replace(fold, train=fold.train.take(torch.arange(128)))
    settings, names = SharedSettings(width=16, epochs=1, batch_size=128, replicates=0), ("diagnosis_01", "pathology")

    def peak(members: int) -> int:
        return peak_bytes(lambda: fit_pack(pack_of((names,) * members), cohort.tasks, short, settings, shared))

    counted = shared.member_bytes(Shape(2, 0, 8, tuple((x.shape[1],) for x in fold.train.inputs), (128, 100)), settings)
    assert 1 / 1.5 < counted / ((peak(20) - peak(4)) / 16) < 1.5


def test_what_it_cannot_take_is_told() -> None:
    assert settings_class("shared") is SharedSettings
    with pytest.raises(ValueError, match="layers: expected a whole number from 1"):
        SharedSettings(layers=0)
    clustered: Cohort = haim_like(200, 100, n_binary=1, seed=1)[0]
    assert "phenotype" in clustered.tasks
    with pytest.raises(BadInput, match="task phenotype is clustering"):
        check_supported(clustered, "shared", SETTINGS)
    series: Cohort = incomplete(300, seed=1)[0]
    with pytest.raises(BadInput, match="modality"):
        check_supported(series, "shared", SETTINGS)


def test_a_task_of_many_labels_is_learnt() -> None:
    cohort = incomplete(600, seed=2)[0]
    name = next(task for task, value in cohort.tasks.items() if value.kind == "multilabel")
    # The made-up cohort has no vectors: what was measured first of a series is one.
    series = next(m for m in cohort.modalities.values() if m.kind == "sequence")
    values = np.asarray(series.values)[:, 0]
    first = dataclasses.replace(series, kind="vector", values=values, present=~np.isnan(values).all(1))
    cohort = dataclasses.replace(cohort, modalities={series.name: first}).for_tasks((name,))
    fold = load_fold(cohort, 0, dtype=torch.float32, device=CPU, replicates=0)
    settings = SharedSettings(width=16, epochs=20, batch_size=32)
    fitted = fit_pack(pack_of(((name,),)), cohort.tasks, fold, settings, shared)
    assert np.isfinite(predict(fitted, fold.validation).logits.numpy()).all()
    assert fitted.history[-1, 0] < 0.9 * fitted.history[0, 0]
