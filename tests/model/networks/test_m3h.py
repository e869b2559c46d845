"""The stacked M3H against the literal one: losses, predictions, latents and attention after a full training."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from itertools import combinations

import pytest
import torch

from model.data.folds import load_fold
from model.data.seeding import batch_order
from model.networks import m3h
from model.networks.contract import Dice, layout
from model.networks.settings import M3HSettings
from model.sources import support2
from model.training.fitting import fit_pack
from model.training.pack import Fitted
from model.training.predicting import predict
from tests.support import m3h_reference as reference
from tests.support.folds import TASKS, make_fold
from tim_search.types import Pack, Subset, Unit, subset

SETTINGS = M3HSettings(width=8, epochs=6, batch_size=32, learning_rate=3e-3, precision="float64", replicates=0)


def pack_of(subsets: Sequence[Subset], seed: int = 3) -> Pack:
    return Pack(tuple(Unit(members, seed, 0) for members in subsets))


def literal_training(members: Subset, fold, settings: M3HSettings, seed: int = 3):
    """Train one subset with the literal reference from the same start on the same minibatches."""
    pack = pack_of([members], seed)
    plan = layout([members], TASKS, fold, torch.device("cpu"))
    values = reference.starting_point(m3h.initialise(plan, TASKS, fold, seed, settings), 0)
    epochs = [
        fold.train.take(batch_order(pack.units[0].seed, epoch, len(fold.train))).split(settings.batch_size)
        for epoch in range(settings.epochs)
    ]
    history = reference.train(values, plan.names[0], TASKS, fold.supervised, epochs, settings)
    with torch.no_grad():
        said = reference.forward(values, plan.names[0], TASKS, fold.validation, settings)
    return history, said


PACKS = {
    "every kind": [subset(TASKS)],
    "pairs": [("ill", "stay"), ("rare", "ward"), ("cost", "stage"), ("ill", "rare")],
    "pairs with a clustering": [("group", "ill"), ("group", "ward"), ("cost", "group")],
    "single tasks": [("ill",), ("rare",), ("ward",), ("stay",)],
    "a clustering alone": [("group",)],
    "threes": [("cost", "ill", "ward"), ("rare", "stage", "stay"), ("ill", "rare", "stage")],
}


CASES = [(name, missing, "joint", "magnitude") for name in PACKS for missing in (0.0, 0.25)]
CASES += [(name, 0.25, "sequential", "magnitude") for name in ("every kind", "pairs with a clustering")]
CASES += [(name, 0.25, "joint", "signed") for name in ("every kind", "pairs")]


@pytest.mark.parametrize(("name", "missing", "update", "maximum"), CASES)
def test_a_pack_equals_the_literal_network_after_full_training(name, missing, update, maximum) -> None:
    subsets = PACKS[name]
    epochs = SETTINGS.epochs if update == "joint" else 2
    settings = dataclasses.replace(SETTINGS, update=update, epochs=epochs, attention_maximum=maximum)
    fold = make_fold(missing=missing)
    pack = pack_of(subsets)
    fitted = fit_pack(pack, TASKS, fold, settings, m3h)
    said = predict(fitted, fold.validation)
    for member, members in enumerate(subsets):
        history, (logits, latents, _, attention, _) = literal_training(members, fold, settings)
        assert torch.allclose(fitted.history[:, member], torch.tensor(history, dtype=torch.float64), atol=1e-8, rtol=0)
        for slot, name in enumerate(fitted.layout.names[member]):
            if TASKS[name].kind == "clustering":
                c = slot - fitted.layout.supervised
                assert torch.allclose(said.latents[member, :, c], latents[name], atol=1e-8, rtol=0)
            else:
                used = logits[name].shape[1]
                assert torch.allclose(said.logits[member, slot, :, :used], logits[name], atol=1e-8, rtol=0)
        assert torch.allclose(said.attention[member], attention.mean(0), atol=1e-8, rtol=0)


def test_the_literal_maximum_keeps_its_sign_and_away_from_zero() -> None:
    fold, settings = make_fold(), dataclasses.replace(SETTINGS, attention_maximum="signed")
    plan = layout([("ill", "rare")], TASKS, fold, torch.device("cpu"))
    values = m3h.initialise(plan, TASKS, fold, 0, settings)
    for name in ("query.weight", "key.weight", "key.bias"):
        values[f"attention.{name}"] = torch.zeros_like(values[f"attention.{name}"])
    for agreement, strength in ((-2.0, 1.0), (0.0, 0.0), (2.0, 1.0)):  # every entry of M, and of M / max(M)
        values["attention.query.bias"] = torch.ones(1, 8, dtype=torch.float64)
        values["attention.key.bias"] = torch.full((1, 8), agreement / 8, dtype=torch.float64)
        weights = m3h.forward(values, plan, fold.validation, settings).attention
        wanted = torch.softmax(torch.eye(2, dtype=torch.float64) + settings.alpha * strength, dim=1)
        torch.testing.assert_close(weights, wanted.expand_as(weights))


def outputs_by_subset(fitted: Fitted, fold, settings: M3HSettings) -> dict[Subset, torch.Tensor]:
    said = predict(fitted, fold.validation)
    return {subset(names): said.logits[m, :, :, 0] for m, names in enumerate(fitted.layout.names)}


def test_the_result_for_a_subset_does_not_depend_on_pack_mates_or_their_order() -> None:
    fold = make_fold()
    subsets = PACKS["threes"]
    together = outputs_by_subset(fit_pack(pack_of(subsets), TASKS, fold, SETTINGS, m3h), fold, SETTINGS)
    turned = outputs_by_subset(fit_pack(pack_of(subsets[::-1]), TASKS, fold, SETTINGS, m3h), fold, SETTINGS)
    for members in subsets:
        alone = outputs_by_subset(fit_pack(pack_of([members]), TASKS, fold, SETTINGS, m3h), fold, SETTINGS)
        for other in (together, turned):
            assert torch.allclose(other[members], alone[members], atol=1e-8, rtol=0)


def rounds_alike(dtype: torch.dtype) -> bool:
    """Whether this machine's products of aligned matrices come out the same alone and as one of a batch."""
    dice = torch.Generator().manual_seed(0)
    x, w = torch.randn(16, 256, 64, generator=dice, dtype=dtype), torch.randn(16, 64, 128, generator=dice, dtype=dtype)
    for left, right in ((x, w), (x.transpose(1, 2), torch.bmm(x, w)), (torch.bmm(x, w), w.transpose(1, 2))):
        whole = torch.bmm(left, right)
        if not all(torch.equal(whole[m], torch.bmm(left[m : m + 1], right[m : m + 1])[0]) for m in range(16)):
            return False
    return True


@pytest.fixture
def alike() -> Iterator[bool]:
    """Whether a pack rounds alike on this machine, with one thread as a worker has it: two may share out a product
    otherwise alone than in a pack. Where the library rounds by a matrix's place, short trainings agree all the same.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield all(map(rounds_alike, (torch.float32, torch.float64)))
    torch.set_num_threads(threads)


def largest_gap(subsets: Sequence[Subset], packs: Sequence[Sequence[Subset]], tasks, fold, settings) -> float:
    """Largest difference of any epoch's loss, logit, latent or attention weight between training alone and in packs."""
    gap = 0.0

    def trained(pack: Sequence[Subset]):
        fitted = fit_pack(pack_of(pack), tasks, fold, settings, m3h)
        return fitted, predict(fitted, fold.validation)

    alone = {members: trained([members]) for members in subsets}
    for pack in packs:
        fitted, said = trained(pack)
        for m, members in enumerate(pack):
            if members not in alone:
                continue
            one, spoke = alone[members]
            outputs = one.layout.outputs
            for here, there in (
                (fitted.history[:, m], one.history[:, 0]),
                (said.logits[m, :, :, :outputs], spoke.logits[0]),
                (said.latents[m], spoke.latents[0]),
                (said.attention[m], spoke.attention[0]),
            ):
                if here.numel():
                    gap = max(gap, float((here - there).abs().max()))
    return gap


@pytest.mark.slow
@pytest.mark.parametrize(
    "subsets",
    [
        [("ill", "rare"), ("cost", "stage"), ("ill", "ward"), ("stage", "ward"), ("cost", "stay")],
        [("group", "ill"), ("group", "ward"), ("cost", "group"), ("group", "stage")],
    ],
    ids=["supervised", "with a clustering"],
)
def test_packs_agree_with_training_alone_over_hundreds_of_steps(alike: bool, subsets) -> None:
    # Rounding grows with every step, so this fails soon after any bit differs: see benchmarks/NOTES.md.
    fold = make_fold(rows=149)
    settings = dataclasses.replace(SETTINGS, width=16, epochs=40 if alike else 6)  # 200 steps, each fifth on 21 rows
    assert largest_gap(subsets[1:3], [subsets[::-1], subsets[1:3]], TASKS, fold, settings) <= (1e-12 if alike else 1e-8)


def test_averaged_weights_round_alike_in_every_pack(alike: bool) -> None:
    fold = make_fold(rows=149, dtype=torch.float32)
    settings = dataclasses.replace(SETTINGS, precision="float32", width=16, epochs=12 if alike else 2, average=2)
    subsets = [("ill", "rare"), ("cost", "stage"), ("ill", "ward"), ("stage", "ward"), ("cost", "stay")]
    gap = largest_gap(subsets[1:3], [subsets[::-1], subsets[1:3]], TASKS, fold, settings)
    assert gap == 0 if alike else gap <= 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float64", "float32"])
@pytest.mark.parametrize("clustering", [False, True])
def test_packs_agree_with_training_alone_after_a_full_training_on_support2(alike: bool, precision, clustering) -> None:
    cohort = support2.load().for_tasks(("avtisst", "dnr_later", "dzclass", "hospdead", "phenotype", "slos_log"))
    dtype = torch.float64 if precision == "float64" else torch.float32
    fold = load_fold(cohort, 0, dtype=dtype, device=torch.device("cpu"), replicates=0)
    settings = M3HSettings(precision=precision, replicates=0, epochs=15 if alike else 1)
    subsets = [members for members in combinations(sorted(cohort.tasks), 3) if ("phenotype" in members) == clustering]
    packs = [[subsets[m] for m in (3, 0, 9)], [subsets[m] for m in (5, 9, 1, 3)]]
    assert largest_gap([subsets[3], subsets[9]], packs, cohort.tasks, fold, settings) <= (
        1e-8 if alike or precision == "float64" else 1e-3
    )


def test_a_diverging_member_changes_no_other(monkeypatch) -> None:
    fold = make_fold()
    subsets = PACKS["pairs"]
    calm = outputs_by_subset(fit_pack(pack_of(subsets), TASKS, fold, SETTINGS, m3h), fold, SETTINGS)
    start = m3h.initialise

    def poisoned(plan, *args):
        values = start(plan, *args)
        with torch.no_grad():
            values["task.weight"][1] = float("inf")
        return values

    monkeypatch.setattr(m3h, "initialise", poisoned)
    fitted = fit_pack(pack_of(subsets), TASKS, fold, SETTINGS, m3h)
    assert fitted.diverged == (0, 1, 0, 0)
    struck = outputs_by_subset(fitted, fold, SETTINGS)
    for number, members in enumerate(subsets):
        if number != 1:
            assert torch.equal(struck[members], calm[members])


def test_the_same_task_starts_from_the_same_place_in_every_subset() -> None:
    fold = make_fold()
    device = torch.device("cpu")
    one = m3h.initialise(layout([("ill",)], TASKS, fold, device), TASKS, fold, 5, SETTINGS)
    many = m3h.initialise(layout([("cost", "ill", "ward")], TASKS, fold, device), TASKS, fold, 5, SETTINGS)
    slot = 1
    for name in ("task.weight", "task.bias", "attention.token"):
        assert torch.equal(one[name][0, 0], many[name][0, slot])
    assert torch.equal(one["head.weight"][0, 0, 0], many["head.weight"][0, slot, 0])
    assert torch.equal(one["shared.in.weight"], many["shared.in.weight"])
    other = m3h.initialise(layout([("ill",)], TASKS, fold, device), TASKS, fold, 6, SETTINGS)
    assert not torch.equal(one["task.weight"], other["task.weight"])
    assert not torch.equal(one["shared.in.weight"], other["shared.in.weight"])


def test_a_rare_outcome_starts_from_its_log_odds() -> None:
    fold = make_fold(rows=400)
    row = fold.supervised.index("rare")
    positive = float(fold.train.targets[row].sum())
    count = float(fold.train.labelled[row].sum())
    assert 0 < positive / count < 0.1
    plan = layout([("ill", "rare")], TASKS, fold, torch.device("cpu"))
    bias = m3h.initialise(plan, TASKS, fold, 0, SETTINGS)["head.bias"][0]
    assert bias[1, 0].item() == pytest.approx(torch.log(torch.tensor(positive / (count - positive))).item(), abs=1e-6)
    assert abs(bias[0, 0].item()) <= 1 / SETTINGS.width**0.5


@pytest.mark.parametrize("names", [("cost", "ill", "ward"), ("group",), ("group", "rare", "stage")])
@pytest.mark.parametrize("missing", [0.0, 0.2])
def test_no_step_waits_for_its_device(names: Subset, missing: float) -> None:
    """Tensors of the device "meta" have no values: whatever the host wanted to know of one would raise, and so would a
    tensor left on the host."""
    fold = make_fold(missing=missing)
    host, away = torch.device("cpu"), torch.device("meta")
    begun = m3h.initialise(layout([names] * 2, TASKS, fold, host), TASKS, fold, 0, SETTINGS)
    values = {name: value.detach().to(away).requires_grad_() for name, value in begun.items()}
    plan = layout([names] * 2, TASKS, fold, away)
    whole = fold.train
    rows = dataclasses.replace(
        whole,
        inputs=tuple(x.to(away) for x in whole.inputs),
        present=None if whole.present is None else whole.present.to(away),
        targets=whole.targets.to(away),
        labelled=whole.labelled.to(away),
    )
    for part in rows.take(torch.arange(len(rows), device=away)).split(SETTINGS.batch_size):
        m3h.losses(m3h.forward(values, plan, part, SETTINGS), plan, part, SETTINGS).by_member(SETTINGS).sum().backward()
    reached = [name for name, value in values.items() if value.grad is not None and value.grad.device == away]
    assert set(values) - set(reached) <= (
        {"shared.in.weight", "shared.in.bias", "shared.out.weight", "shared.out.bias"}
    )
    assert len(reached) == len(values) or names == ("group",)


def test_attention_favours_the_own_task_and_its_rows_sum_to_one() -> None:
    fold = make_fold()
    fitted = fit_pack(pack_of([subset(TASKS)]), TASKS, fold, SETTINGS, m3h)
    attention = predict(fitted, fold.validation).attention[0]
    assert torch.allclose(attention.sum(1), torch.ones(len(TASKS), dtype=torch.float64))
    off = attention - torch.diag(attention.diagonal())
    assert (attention.diagonal() > off.max(1).values).all()
    # alpha bounds how far two other tasks' weights can part.
    others = attention[~torch.eye(len(TASKS), dtype=torch.bool)].view(len(TASKS), -1)
    assert (others.max(1).values / others.min(1).values).max() <= torch.exp(torch.tensor(0.2)) + 1e-9


def test_subsets_of_different_shape_are_refused_as_one_pack() -> None:
    fold = make_fold()
    with pytest.raises(ValueError, match="one size"):
        layout([("ill",), ("ill", "stay")], TASKS, fold, torch.device("cpu"))
    with pytest.raises(ValueError, match="one size"):
        layout([("group", "ill"), ("ill", "stay")], TASKS, fold, torch.device("cpu"))


def test_dropped_inputs_are_those_that_the_dice_say_and_only_while_it_trains() -> None:
    fold, settings = make_fold(missing=0.25), dataclasses.replace(SETTINGS, input_dropout=0.4)
    plan = layout([("group", "ill")], TASKS, fold, torch.device("cpu"))
    values = m3h.initialise(plan, TASKS, fold, 0, settings)
    rows, names = fold.train, ("step", 3, 0, 0)
    drawn = Dice(*names, device=torch.device("cpu"))
    shares = [drawn.kept(x.shape, 0.4, x.dtype) for x in rows.inputs]
    assert torch.cat(shares, dim=1).unique().tolist() == pytest.approx([0.0, 1 / 0.6])
    dropped = dataclasses.replace(rows, inputs=tuple(x * share for x, share in zip(rows.inputs, shares, strict=True)))
    trained = m3h.forward(values, plan, rows, settings, Dice(*names, device=torch.device("cpu")))
    assert torch.equal(trained.logits, m3h.forward(values, plan, dropped, SETTINGS).logits)
    predicted = m3h.forward(values, plan, rows, settings)
    assert torch.equal(predicted.logits, m3h.forward(values, plan, rows, SETTINGS).logits)
    # A clustering rebuilds the whole input, not what was left of it.
    error = (trained.rebuilt - torch.cat(rows.inputs, dim=1)).square()[0, 0]
    cells = rows.seen_cells()
    rebuild = m3h.losses(trained, plan, rows, settings).clustering[0, 0]
    assert float(rebuild) == pytest.approx(float((error * cells).sum() / cells.sum()), rel=1e-12)


def test_dropped_inputs_are_the_same_in_every_pack() -> None:
    fold = make_fold(missing=0.25)
    settings = dataclasses.replace(SETTINGS, epochs=2, average=2, input_dropout=0.3, precision="float32")
    subsets = PACKS["pairs with a clustering"]
    together = fit_pack(pack_of(subsets), TASKS, fold, settings, m3h)
    without = fit_pack(pack_of(subsets), TASKS, fold, dataclasses.replace(settings, input_dropout=0.0), m3h)
    assert not torch.equal(together.history, without.history)
    for member, members in enumerate(subsets):
        alone = fit_pack(pack_of([members]), TASKS, fold, settings, m3h)
        assert torch.equal(together.history[:, member], alone.history[:, 0])
