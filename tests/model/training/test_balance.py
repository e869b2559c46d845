"""Balanced losses: a pack against a literal model that TorchJD balances, and what holds whatever the method."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from model.data.folds import load_fold
from model.data.seeding import batch_order, generator
from model.networks import flexcare, m3h, shared
from model.networks.contract import Parameters, Shape, layout
from model.networks.settings import FlexCareSettings, M3HSettings, SharedSettings, settings_class
from model.sources.synthetic import haim_like
from model.training import aggregation
from model.training.balance import balanced
from model.training.fitting import check_supported, fit_pack
from model.training.pack import Fitted, PackModel
from model.training.precision import DTYPES
from tests.model.networks.test_shared import literal, literal_losses
from tests.model.training.test_cost import peak_bytes
from tests.support import balance_reference as oracle
from tests.support import m3h_reference
from tests.support.folds import TASKS, make_fold
from tests.support.network_conformance import CPU, SUBSETS, pack_of
from tim_search.types import BadInput, Subset

COMMON: dict[str, Any] = {"width": 6, "epochs": 13, "batch_size": 40, "learning_rate": 3e-3, "precision": "float64"}
METHODS = ("uncertainty", "dwa", "pcgrad", "cagrad", "upgrad")
SLOW = pytest.mark.slow
#: All methods, of which the fast tests take these.
FAST = {"dwa", "upgrad"}
EVERY = [method if method in FAST else pytest.param(method, marks=SLOW) for method in METHODS]
#: Of unlike tasks, with more than two in the first pack so that an order and several constraints matter.
M3H_SUBSETS = (("cost", "group", "ill", "ward"), ("group", "rare", "stage", "stay"))
SEED = 3


def gradients(members: int, k: int, length: int, seed: int) -> Tensor:
    """(K, k, P) made-up gradients of unlike lengths, many of them in conflict."""
    dice = torch.Generator().manual_seed(seed)
    drawn = torch.randn(members, k, length, generator=dice, dtype=torch.float64)
    return drawn * torch.exp(3 * torch.rand(members, k, 1, generator=dice, dtype=torch.float64))


@pytest.mark.parametrize(("k", "length"), [(2, 3), (3, 40), (6, 4), (6, 40)])
def test_weights_of_a_pack_are_those_of_torchjd_for_each_member(k: int, length: int) -> None:
    rows = gradients(12, k, length, seed=k)
    gram = rows @ rows.mT
    order = torch.stack([torch.randperm(k, generator=generator("test", number)) for number in range(k)])
    wanted = {
        "pcgrad": [oracle.pcgrad(each, order) for each in gram],
        "upgrad": [oracle.upgrad(each) for each in gram],
    }
    given = {"pcgrad": aggregation.pcgrad(gram, order), "upgrad": aggregation.upgrad(gram)}
    for name, weights in wanted.items():
        torch.testing.assert_close(given[name], torch.stack(weights), rtol=1e-6, atol=1e-8, msg=name)
    # Members do not mix, and no conflict is left as it is.
    assert torch.equal(aggregation.upgrad(gram[3:4])[0], given["upgrad"][3])
    assert torch.equal(aggregation.cagrad(gram[3:4])[0], aggregation.cagrad(gram)[3])
    calm = (rows.abs() @ rows.abs().mT).double()
    torch.testing.assert_close(aggregation.pcgrad(calm, order), torch.ones(12, k, dtype=torch.float64))
    torch.testing.assert_close(aggregation.upgrad(calm), torch.ones(12, k, dtype=torch.float64), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("k", "length"), [(2, 3), (3, 40), (6, 40)])
def test_cagrad_finds_the_least_of_its_function(k: int, length: int) -> None:
    rows = gradients(12, k, length, seed=k)
    gram = rows @ rows.mT
    weights = aggregation.cagrad(gram)
    torch.testing.assert_close(weights, torch.stack([oracle.cagrad(each) for each in gram]), rtol=1e-4, atol=1e-4)
    # The direction lies on the ball around the mean gradient: its length away from there is c.
    mean = rows.mean(1, keepdim=True)
    direction = (weights * (1 + aggregation.RADIUS) / k).unsqueeze(1) @ rows
    away = (direction - mean).norm(dim=2) / mean.norm(dim=2)
    torch.testing.assert_close(away, torch.full_like(away, aggregation.RADIUS), rtol=1e-6, atol=0)


def test_gradients_that_cancel_out_or_are_not_there_have_finite_weights() -> None:
    gram = torch.tensor([[[1.0, -1.0], [-1.0, 1.0]], [[0.0, 0.0], [0.0, 0.0]], [[1.0, 0.0], [0.0, 0.0]]]).double()
    order = torch.tensor([[0, 1], [1, 0]])
    for weights in (aggregation.pcgrad(gram, order), aggregation.cagrad(gram), aggregation.upgrad(gram)):
        assert weights.isfinite().all()
    assert not aggregation.cagrad(gram)[0].any()


def literal_parts(network: Any, values: dict[str, Tensor], names: Subset, rows: Any, fold: Any, settings: Any):
    """(losses of the tasks by slot, the term that belongs to none) of one subset."""
    if network is shared:
        losses = literal_losses(literal(values, names, rows, settings.layers), rows, fold)
        return losses, torch.zeros((), dtype=torch.float64)
    beside, *losses = m3h_reference.losses(values, names, TASKS, fold.supervised, rows, settings)
    return losses, beside


@pytest.mark.parametrize("balance", EVERY)
@pytest.mark.parametrize(
    ("network", "settings", "subsets"),
    [
        pytest.param(shared, SharedSettings(**COMMON), SUBSETS[2:], id="shared", marks=SLOW),
        pytest.param(m3h, M3HSettings(**COMMON), M3H_SUBSETS, id="m3h", marks=SLOW),
        pytest.param(shared, SharedSettings(**COMMON | {"epochs": 4}), SUBSETS[3:], id="shared, sixteen steps"),
    ],
)
def test_a_pack_equals_a_literal_model_after_fifty_steps(
    network: Any, settings: Any, subsets: tuple[Subset, ...], balance: Any
) -> None:
    settings = dataclasses.replace(settings, balance=balance)
    fold = make_fold()
    fitted = fit_pack(pack_of(subsets, SEED), TASKS, fold, settings, network)
    for member, names in enumerate(fitted.layout.names):
        begun = network.initialise(layout([names], TASKS, fold, CPU), TASKS, fold, SEED, settings)
        values = {name: value[0].detach().clone().requires_grad_() for name, value in begun.items()}
        reference = oracle.Reference(
            balance, len(names), [value for name, value in values.items() if not network.by_slot(name)]
        )
        optimiser = torch.optim.Adam([*values.values(), *reference.parameters], lr=settings.learning_rate)
        for epoch in range(settings.epochs):
            parts = fold.train.take(batch_order(SEED, epoch, len(fold.train))).split(settings.batch_size)
            for number, rows in enumerate(parts):
                for value in values.values():
                    value.grad = torch.zeros_like(value)  # also of what no loss reaches, as in every pack
                for value in reference.parameters:
                    value.grad = None
                losses, beside = literal_parts(network, values, names, rows, fold, settings)
                drawn = torch.rand(len(names), len(names), generator=generator("pcgrad", SEED, epoch, number))
                reference.descend(losses, beside, drawn.argsort(1))
                optimiser.step()
            reference.end_epoch()
        tolerance = 1e-5 if balance == "cagrad" else 1e-8  # the oracle of CAGrad stops earlier
        for name, value in values.items():
            here = fitted.values[name][member]
            if name.startswith("head."):
                here = here[:, : value.shape[1]]
            torch.testing.assert_close(here, value.detach(), rtol=0, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}")


SMALL: dict[str, Any] = COMMON | {"epochs": 3}


def fitted(network: Any, settings: Any, subsets: tuple[Subset, ...], seed: int = SEED) -> Fitted:
    return fit_pack(pack_of(subsets, seed), TASKS, make_fold(dtype=DTYPES[settings.precision]), settings, network)


def assert_alike(pack: Fitted, member: int, alone: Fitted) -> None:
    """The member's parameters are those that it has alone, in every bit."""
    for name, value in alone.values.items():
        here = pack.values[name][member]
        if name.startswith("head."):
            here = here[:, : value.shape[2]]
        assert torch.equal(here, value[0]), name


@pytest.mark.parametrize("precision", ["float32", pytest.param("float64", marks=SLOW)])
@pytest.mark.parametrize("balance", EVERY)
def test_a_pack_trains_as_its_members_alone_in_every_bit(balance: Any, precision: Any) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        settings = SharedSettings(**SMALL | {"precision": precision, "width": 16}, balance=balance)
        pack = fitted(shared, settings, SUBSETS)
        for member in range(2):
            assert_alike(pack, member, fitted(shared, settings, SUBSETS[member : member + 1]))
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("balance", ["upgrad", pytest.param("cagrad", marks=SLOW)])
def test_a_member_that_fails_does_not_touch_its_mates(monkeypatch: pytest.MonkeyPatch, balance: Any) -> None:
    settings = SharedSettings(**SMALL, balance=balance)
    start = shared.initialise

    def poisoned(*given: Any) -> Parameters:
        values = start(*given)
        with torch.no_grad():
            values["trunk.0.weight"][0] = float("nan")
        return values

    calm = fitted(shared, settings, SUBSETS[1:2])
    monkeypatch.setattr(shared, "initialise", poisoned)
    pack = fitted(shared, settings, SUBSETS[:2])
    assert pack.diverged == (1, 0)
    for name, value in calm.values.items():
        torch.testing.assert_close(pack.values[name][1], value[0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("balance", ["dwa", "upgrad", pytest.param("cagrad", marks=SLOW)])
def test_a_task_alone_is_trained_as_with_equal_weights(balance: Any) -> None:
    alone = (("ill",), ("cost",))
    here, there = (fitted(m3h, M3HSettings(**SMALL, balance=each), alone) for each in ("equal", balance))
    for name, value in here.values.items():
        torch.testing.assert_close(there.values[name], value, rtol=0, atol=1e-12)


def test_pcgrads_order_follows_from_the_seed_and_what_is_learned_beside_the_network_stays_out() -> None:
    settings = M3HSettings(**SMALL, balance="pcgrad")
    subsets = (("cost", "ill", "ward"),)
    here, again, equal = (fitted(m3h, s, subsets) for s in (settings, settings, M3HSettings(**SMALL)))
    assert torch.equal(here.values["shared.in.weight"], again.values["shared.in.weight"])
    assert not torch.equal(here.values["shared.in.weight"], equal.values["shared.in.weight"])
    averaged = fitted(m3h, M3HSettings(**SMALL, balance="uncertainty", average=2), subsets)
    assert averaged.values.keys() == equal.values.keys()


@pytest.mark.parametrize("balance", EVERY)
def test_flexcare_balances_what_it_trains_jointly(balance: Any) -> None:
    settings = FlexCareSettings(
        width=8, layers=1, hidden=8, experts=2, top=1, expert_hidden=4, update="joint", epochs=1, batch_size=64,
        precision="float64", balance=balance,
    )  # fmt: skip
    pack = fitted(flexcare, settings, SUBSETS[1:3])
    assert pack.diverged == (0, 0)
    alone = fitted(flexcare, settings, SUBSETS[2:3])
    for name, value in alone.values.items():
        here = pack.values[name][1]
        torch.testing.assert_close(here[:, : value.shape[2]] if name.startswith("head.") else here, value[0])


@pytest.mark.parametrize("network", [m3h, shared])
def test_own_weights_are_factors_of_the_tasks_losses(network: Any) -> None:
    settings: Any = {m3h: M3HSettings, shared: SharedSettings}[network](**SMALL)
    fold = make_fold()
    places = layout([("cost", "ill")], TASKS, fold, CPU)
    values = network.initialise(places, TASKS, fold, SEED, settings)
    output = network.forward(values, places, fold.train, settings)
    weighted = dataclasses.replace(settings, task_weights={"ill": 0.25})
    equal, own = (network.losses(output, places, fold.train, each) for each in (settings, weighted))
    torch.testing.assert_close(own.by_task(weighted), equal.by_task(settings) * torch.tensor([1.0, 0.25]).double())
    assert torch.equal(own.beside_tasks(weighted), equal.beside_tasks(settings))
    torch.testing.assert_close(own.by_member(weighted), own.by_task(weighted).sum(1) + own.beside_tasks(weighted))


@pytest.mark.parametrize("network", ["m3h", "shared", "flexcare"])
def test_weights_of_tasks_that_are_not_there_are_refused(network: str) -> None:
    cohort = haim_like(200, 100, n_binary=2, seed=1)[0].for_tasks(("diagnosis_01", "diagnosis_02"))
    settings = settings_class(network)(task_weights={"diagnosis_01": 2.0, "diagnosis_09": 2.0})
    with pytest.raises(BadInput, match="task_weights names diagnosis_09, which the search does not have"):
        check_supported(cohort, network, settings)


@pytest.mark.parametrize(
    ("settings", "values", "words"),
    [
        (M3HSettings, {"balance": "gradnorm"}, "balance: expected one of equal, .*, upgrad, got 'gradnorm'"),
        (
            M3HSettings,
            {"balance": "dwa", "update": "in_turn"},
            "balance: expected equal unless update is joint",
        ),
        (FlexCareSettings, {"balance": "pcgrad"}, "balance: expected equal unless update is joint"),
        (SharedSettings, {"balance": "dwa", "task_weights": {"a": 2.0}}, "equal where task_weights are given"),
        (M3HSettings, {"task_weights": {"a": 0.0}}, "task_weights: expected numbers above 0, got"),
    ],
)
def test_what_cannot_be_balanced_is_told(settings: Any, values: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        settings(**values)


@pytest.mark.parametrize(("network", "kind"), [(m3h, M3HSettings), pytest.param(shared, SharedSettings, marks=SLOW)])
def test_the_gradients_of_the_tasks_are_counted(network: Any, kind: Any) -> None:
    cohort = haim_like(900, 400, widths=(6, 30, 120, 120), n_binary=3, seed=1)[0]
    fold = load_fold(cohort, 0, dtype=torch.float32, device=CPU, replicates=0)
    short = dataclasses.replace(fold, train=fold.train.take(torch.arange(128)))
    names = ("diagnosis_01", "diagnosis_02", "diagnosis_03", "stay")
    settings = kind(width=32, epochs=1, batch_size=128, replicates=0, balance="upgrad")

    def peak(members: int) -> int:
        return peak_bytes(lambda: fit_pack(pack_of((names,) * members), cohort.tasks, short, settings, network))

    shape = Shape(len(names), 0, 1, tuple((x.shape[1],) for x in fold.train.inputs), (128, 100))
    counted = network.member_bytes(shape, settings)
    assert 1 / 1.5 < counted / ((peak(8) - peak(2)) / 6) < 1.5
    assert counted > 1.3 * network.member_bytes(shape, dataclasses.replace(settings, balance="dwa"))


def test_a_minibatch_without_a_label_of_a_task_says_nothing_of_its_variance() -> None:
    fold, settings = make_fold(missing=0.0), SharedSettings(**SMALL, balance="uncertainty")
    place = layout([("ill", "stay")], TASKS, fold, CPU)
    values = shared.initialise(place, TASKS, fold, SEED, settings)
    method = balanced(PackModel(shared, settings, place, values), SEED)
    (log_variance,) = method.parameters.values()
    rows = fold.train
    unlabelled = rows.labelled.clone()
    unlabelled[fold.supervised.index("ill")] = 0
    rows = dataclasses.replace(rows, labelled=unlabelled)
    losses = shared.losses(shared.forward(values, place, rows, settings), place, rows, settings)
    method.backward(losses, losses.by_member(settings))
    slope = log_variance.grad
    assert slope is not None
    at = place.names[0].index("ill")
    assert slope[0, at] == 0
    assert slope[0, 1 - at] != 0
