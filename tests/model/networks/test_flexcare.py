"""FlexCare against a literal reference, equation by equation, and its training in turns against a plain loop."""

from __future__ import annotations

import dataclasses
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from model.data.folds import Fold
from model.networks import flexcare, flexcare_tokens
from model.networks.contract import Dice, Layout, Parameters, layout, supervised_losses
from model.networks.settings import FlexCareSettings
from model.training import in_turn
from model.training.fitting import fit_pack
from model.training.pack import Fitted
from model.training.predicting import predict
from tests.support.flexcare_reference import Reference, all_combinations, may_attend
from tests.support.incomplete_folds import SHAPES, TASKS, make_fold, sample_of
from tim_search.types import Pack, Subset, Unit

CPU = torch.device("cpu")
SETTINGS = FlexCareSettings(
    width=8,
    layers=2,
    hidden=12,
    experts=4,
    top=2,
    expert_hidden=6,
    patch=4,
    epochs=3,
    batch_size=16,
    learning_rate=3e-3,
    precision="float64",
)
SUBSETS: tuple[Subset, ...] = (("cost", "dead"), ("back", "dead", "signs"), ("stay",))


@pytest.fixture(scope="module")
def fold() -> Fold:
    return make_fold()


def started(
    fold: Fold, subsets: tuple[Subset, ...], settings: FlexCareSettings = SETTINGS
) -> tuple[Layout, Parameters]:
    plan = layout(subsets, TASKS, fold, CPU)
    values = flexcare.initialise(plan, TASKS, fold, 0, settings)
    return plan, {name: shaken(value, name) for name, value in values.items()}


def shaken(value: Tensor, name: str) -> Tensor:
    """Away from the start, where tokens are small and norms are ones."""
    noise = torch.randn(value.shape[1:], generator=torch.Generator().manual_seed(len(name)), dtype=torch.float64)
    return value.detach() + 0.3 * noise


def fitted(
    fold: Fold, subsets: tuple[Subset, ...], settings: FlexCareSettings = SETTINGS, seed: int = 0
) -> list[Fitted]:
    """One pack for each size, as packs are made."""
    by_size: dict[int, list[Unit]] = {}
    for members in subsets:
        by_size.setdefault(len(members), []).append(Unit(members, seed, 0))
    return [fit_pack(Pack(tuple(units)), TASKS, fold, settings, flexcare) for units in by_size.values()]


def said(
    packs: list[Fitted], fold: Fold, settings: FlexCareSettings = SETTINGS
) -> dict[tuple[Subset, str], np.ndarray]:
    found = {}
    for one in packs:
        logits = predict(one, fold.validation).logits
        for member, names in enumerate(one.layout.names):
            for slot, name in enumerate(names):
                used = int(one.layout.classes.view(one.layout.members, -1)[member, slot])
                found[names, name] = logits[member, slot, :, :used].numpy()
    return found


# -------------------------------------------------------------------------------------------- the network


def test_every_equation_is_that_of_the_reference(fold: Fold) -> None:
    plan, values = started(fold, (("back", "cost", "signs"), ("back", "dead", "stay")))
    rows = fold.validation.take(torch.arange(12))
    output = flexcare.forward(values, plan, rows, SETTINGS)
    covariance = torch.zeros(2, 12, dtype=torch.float64)
    for member in range(2):
        own = {name: value[member] for name, value in values.items()}
        for slot in range(3):
            reference = Reference(own, slot, SETTINGS)
            for row in range(12):
                wanted = reference.predict(sample_of(rows, row))
                has = wanted["fusion"] > 0
                torch.testing.assert_close(output.logits[member, slot, row], wanted["logits"], rtol=0, atol=1e-10)
                for name in ("patient", "fusion"):
                    here = getattr(output.inner, name)[member, row, slot]
                    torch.testing.assert_close(here, wanted[name], rtol=0, atol=1e-10)
                here = output.inner.routing[member, row, slot]
                torch.testing.assert_close(here[has], wanted["routing"][has], rtol=0, atol=1e-10)
                assert not here[~has].any()
                covariance[member, row] = wanted["covariance"]
    torch.testing.assert_close(output.inner.covariance, covariance.mean(1), rtol=0, atol=1e-10)


@pytest.mark.parametrize("mask", ["paper", "published_code"])
def test_no_step_waits_for_its_device(fold: Fold, mask: str) -> None:
    """Tensors of the device "meta" have no values: what the host wants to know of one raises."""
    away, settings = torch.device("meta"), dataclasses.replace(SETTINGS, mask=mask)
    subsets: tuple[Subset, ...] = (("back", "cost", "signs"), ("back", "dead", "stay"))
    values = {name: value.to(away).requires_grad_() for name, value in started(fold, subsets, settings)[1].items()}
    plan = layout(subsets, TASKS, fold, away)
    rows = dataclasses.replace(
        fold.train,
        inputs=tuple(x.to(away) for x in fold.train.inputs),
        present=None if fold.train.present is None else fold.train.present.to(away),
        targets=fold.train.targets.to(away),
        labelled=fold.train.labelled.to(away),
        steps=tuple(None if one is None else one.to(away) for one in fold.train.steps),
    )
    output = flexcare.forward(values, plan, rows, settings)
    flexcare.losses(output, plan, rows, settings).by_member(settings).sum().backward()
    unread = {name for name, value in values.items() if value.grad is None}
    assert unread == {"router.noise.combination.weight", "router.noise.task.weight"}  # which the dice would be


@pytest.mark.parametrize("counts", [(1,), (1, 3), (1, 5, 4), (2, 1, 1, 3)], ids=["1", "2", "3", "4"])
def test_the_mask_is_eq_4_token_by_token(counts: tuple[int, ...]) -> None:
    kinds = [("modality" if len(c) == 1 else "combination", c) for c in all_combinations(len(counts))]
    kinds += [("modality", (m,)) for m, count in enumerate(counts) for _ in range(count)]
    found = flexcare_tokens.attends(counts, "auto")
    assert found.shape == (len(kinds), len(kinds))
    for i, asks in enumerate(kinds):
        for j, asked in enumerate(kinds):
            assert bool(found[i, j]) == (i == j or may_attend(asks, asked)), (asks, asked)


def test_combinations_of_many_modalities() -> None:
    assert len(flexcare_tokens.combinations_of(3, "all")) == 7
    assert len(flexcare_tokens.combinations_of(4, "auto")) == 15
    assert len(flexcare_tokens.combinations_of(6, "auto")) == 6 + 15 + 1
    assert len(flexcare_tokens.combinations_of(6, "all")) == 63
    assert flexcare_tokens.combinations_of(2, "pairs") == ((0,), (1,), (0, 1))
    assert flexcare_tokens.combinations_of(3, "single") == ((0,), (1,), (2,))
    assert flexcare_tokens.combinations_of(1, "auto") == ((0,),)


def test_a_token_is_sent_to_the_top_experts_only(fold: Fold) -> None:
    plan, values = started(fold, (("back", "dead"),))
    inner = flexcare.forward(values, plan, fold.validation, SETTINGS).inner
    there, _ = flexcare_tokens.existing(fold.validation, (1, 5, 4), all_combinations(3), SETTINGS)
    assert not there.all()
    used = (inner.routing > 0).sum(4)[0]
    assert (used[there.unsqueeze(1).expand_as(used)] == SETTINGS.top).all()
    torch.testing.assert_close(
        inner.routing.sum(4)[0], there.double().unsqueeze(1).expand_as(used).contiguous(), rtol=0, atol=1e-12
    )


def test_a_combination_a_sample_lacks_counts_for_nothing(fold: Fold) -> None:
    plan, values = started(fold, (("back", "dead"),))
    inner = flexcare.forward(values, plan, fold.validation, SETTINGS).inner
    present = fold.validation.present
    assert present is not None
    for number, combo in enumerate(all_combinations(3)):
        lacks = ~present[:, list(combo)].all(1)
        assert lacks.any()
        assert not inner.fusion[0, lacks, :, number].any()
        assert not inner.routing[0, lacks, :, number].any()
        assert (inner.fusion[0, ~lacks, :, number] > 0).all()
    torch.testing.assert_close(inner.fusion.sum(3), torch.ones_like(inner.fusion[..., 0]))


def test_the_task_token_influences_nobody(fold: Fold) -> None:
    plan, values = started(fold, (("back", "dead"),))
    before = flexcare.forward(values, plan, fold.validation, SETTINGS)
    moved = dict(values)
    moved["task.token"] = values["task.token"].clone()
    moved["task.token"][:, 0] += 5.0
    after = flexcare.forward(moved, plan, fold.validation, SETTINGS)
    assert torch.equal(before.logits[:, 1], after.logits[:, 1])
    assert torch.equal(before.inner.covariance, after.inner.covariance)
    assert not torch.allclose(before.logits[:, 0], after.logits[:, 0])
    # As published, nothing is masked: there the task's token reaches every other token.
    published = dataclasses.replace(SETTINGS, mask="published_code")
    one = plan.only("back")

    def spread(values: Parameters) -> Tensor:
        own = {name: value[:, :1] if flexcare.by_slot(name) else value for name, value in values.items()}
        return flexcare.forward(own, one, fold.validation, published).inner.covariance

    assert not torch.allclose(spread(values), spread(moved))


def test_the_published_mask_lets_modalities_see_each_other(fold: Fold) -> None:
    plan, values = started(fold, (("dead",),))
    assert fold.validation.present is not None
    whole = fold.validation.take(fold.validation.present.all(1).nonzero().flatten())
    other = dataclasses.replace(whole, inputs=(whole.inputs[0] + 1.0, *whole.inputs[1:]))
    image_alone = all_combinations(3).index((2,))
    for mask, reaches in (("paper", False), ("published_code", True)):
        settings = dataclasses.replace(SETTINGS, mask=mask, task_token="none", top=4)
        # Without a task token the routing of a combination is a function of that combination's token alone.
        here, there = (flexcare.forward(values, plan, rows, settings).inner.routing for rows in (whole, other))
        changed = not torch.equal(here[:, :, :, image_alone], there[:, :, :, image_alone])
        assert changed == reaches


def test_published_tasks_are_judged_one_at_a_time(fold: Fold) -> None:
    settings = dataclasses.replace(SETTINGS, mask="published_code")
    plan, values = started(fold, (("back", "dead"),))
    both = flexcare.forward(values, plan, fold.validation, settings)
    for slot, name in enumerate(("back", "dead")):
        own = {key: value[:, slot : slot + 1] if flexcare.by_slot(key) else value for key, value in values.items()}
        alone = flexcare.forward(own, plan.only(name), fold.validation, settings)
        assert torch.equal(both.logits[:, slot : slot + 1], alone.logits)
        assert torch.equal(both.inner.patient[:, :, slot : slot + 1], alone.inner.patient)


def test_the_balance_is_that_of_a_loop(fold: Fold) -> None:
    plan, values = started(fold, (("back", "dead"),))
    rows = fold.train.take(torch.arange(9))
    quiet = dataclasses.replace(SETTINGS, dropout=0.0)
    inner = flexcare.forward(values, plan, rows, quiet, Dice("x", device=CPU)).inner
    noise = Dice("x", device=CPU).normal((9, 1, 7, 4), torch.float64)[:, 0]
    there, _ = flexcare_tokens.existing(rows, (1, 5, 4), all_combinations(3), quiet)
    own = {name: value[0] for name, value in values.items()}
    importance, load = torch.zeros(4, dtype=torch.float64), torch.zeros(4, dtype=torch.float64)
    normal = torch.distributions.Normal(0.0, 1.0)
    for slot in range(2):
        reference = Reference(own, slot, quiet)
        for row in range(9):
            every = reference.tokens(sample_of(rows, row))
            h = [x for _, _, x in every]
            for number in range(quiet.layers):
                h = reference.layer(number, [k for k, _, _ in every], [t for _, t, _ in every], h)
            for c in there[row].nonzero().flatten().tolist():
                z = h[1 + c]
                clean = own["router.combination.weight"] @ z + own["router.task.weight"] @ h[0]
                raw = own["router.noise.combination.weight"] @ z + own["router.noise.task.weight"] @ h[0]
                spread = torch.log1p(torch.exp(raw)) + quiet.gate_noise
                noisy = clean + noise[row, c] * spread
                best = noisy.argsort(descending=True)[: quiet.top]
                importance[best] += noisy[best].softmax(0)
                for e in range(4):
                    others = torch.cat([noisy[:e], noisy[e + 1 :]]).sort(descending=True).values
                    load[e] += normal.cdf((clean[e] - others[quiet.top - 1]) / spread[e])
    wanted = sum((x.std() / x.mean()) ** 2 for x in (importance, load))
    torch.testing.assert_close(inner.balance[0], wanted, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    "changes",
    [
        {"combinations": "single", "covariance_weight": 0.0, "experts": 1},
        {"covariance_weight": 0.0, "experts": 1},
        {"experts": 1},
        {"covariance_weight": 0.0},
        {"task_token": "none"},
        {"mask": "published_code"},
        {"update": "joint"},
        {"top": 9},
    ],
    ids=["a-", "b-", "c-", "d-", "no-task-token", "published", "joint", "top-all"],
)
def test_every_variant_learns_and_agrees_with_training_alone(changes: dict[str, object]) -> None:
    fold = make_fold(rows=48)
    settings = dataclasses.replace(SETTINGS, **{"batch_size": 24, **changes})
    subsets: tuple[Subset, ...] = (("cost", "dead"), ("back", "signs"))
    packs = fitted(fold, subsets, settings)
    for one in packs:
        assert (one.history[-1] < one.history[0]).all()
    together = said(packs, fold, settings)
    for members in subsets:
        for key, logits in said(fitted(fold, (members,), settings), fold, settings).items():
            np.testing.assert_allclose(together[key], logits, rtol=0, atol=1e-8)


def test_dropout_does_not_hang_on_the_number_of_tasks(fold: Fold) -> None:
    rows = fold.train.take(torch.arange(20))
    found = []
    for members in (("dead",), ("back", "dead", "stay")):
        plan = layout((members,), TASKS, fold, CPU)
        values = flexcare.initialise(plan, TASKS, fold, 0, SETTINGS)
        output = flexcare.forward(values, plan, rows, SETTINGS, Dice("x", device=CPU))
        found.append((output.logits[0, members.index("dead"), :, :1], output.inner.covariance))
    for here, there in zip(*found, strict=True):
        torch.testing.assert_close(here, there, rtol=0, atol=1e-12)


def test_a_sample_without_any_modality_has_a_prediction(fold: Fold) -> None:
    plan, values = started(fold, (("dead",),))
    assert fold.validation.present is not None
    nothing = dataclasses.replace(
        fold.validation,
        present=torch.zeros_like(fold.validation.present),
        inputs=tuple(torch.zeros_like(x) for x in fold.validation.inputs),
    )
    assert flexcare.forward(values, plan, nothing, SETTINGS).logits.isfinite().all()


def test_steps_that_were_not_measured_say_nothing(fold: Fold) -> None:
    plan, values = started(fold, (("dead",),))
    steps = fold.validation.steps[1]
    assert steps is not None
    garbled = torch.where(steps.unsqueeze(2), fold.validation.inputs[1], 7.0)
    other = dataclasses.replace(fold.validation, inputs=(fold.validation.inputs[0], garbled, fold.validation.inputs[2]))
    here, there = (flexcare.forward(values, plan, rows, SETTINGS).logits for rows in (fold.validation, other))
    assert torch.equal(here, there)


def test_counted_bytes_grow_with_what_takes_memory() -> None:
    def counted(k: int = 2, batch: int = 32, **changes: object) -> int:
        shape = flexcare.Shape(k, 0, 4, SHAPES, (1000, 200))
        settings = dataclasses.replace(SETTINGS, batch_size=batch, **changes)
        found = flexcare.member_bytes(shape, settings)
        assert found is not None
        return found

    assert counted(width=64) > counted()
    assert counted(batch=512) > counted()
    assert counted(experts=40) > counted()
    assert counted(layers=8) > counted()


# -------------------------------------------------------------------------------------------- training in turns


def test_training_is_that_of_a_plain_loop(fold: Fold) -> None:
    """One member, torch's own Adam over ordinary parameters, one task after the other."""
    members, settings = ("cost", "dead", "signs"), dataclasses.replace(SETTINGS, order=("signs",))
    plan = layout((members,), TASKS, fold, CPU)
    values = flexcare.initialise(plan, TASKS, fold, 0, settings)
    split: dict[str, Tensor] = {}
    for name, value in values.items():
        if flexcare.by_slot(name):
            split |= {f"{name}@{slot}": value.detach()[:, slot : slot + 1].clone() for slot in range(3)}
        else:
            split[name] = value.detach().clone()
    for value in split.values():
        value.requires_grad_()

    def of(slot: int) -> Parameters:
        return {name: split[f"{name}@{slot}"] if flexcare.by_slot(name) else split[name] for name in values}

    adam = torch.optim.Adam(list(split.values()), lr=settings.learning_rate)
    rate, least, waited = [settings.learning_rate] * 3, [np.inf] * 3, [0] * 3
    best, kept, chosen = np.inf, {}, 0
    losses = []
    for epoch in range(settings.epochs):
        for name in ("signs", "cost", "dead"):
            slot, part = members.index(name), plan.only(name)
            columns = [fold.first[name] + c for c in range(4 if name == "signs" else 1)]
            known = (fold.train.labelled[columns] > 0).any(0).nonzero().flatten()
            order = known[in_turn.batch_order(0, epoch, len(known), name)]
            adam.param_groups[0]["lr"] = rate[slot]
            for number, start in enumerate(range(0, len(order), settings.batch_size)):
                rows = fold.train.take(order[start : start + settings.batch_size])
                dice = Dice("step", 0, epoch, name, number, device=CPU)
                output = flexcare.forward(of(slot), part, rows, settings, dice)
                loss = supervised_losses(output.logits, part, rows).sum()
                loss = loss + settings.covariance_weight * output.inner.covariance.sum()
                loss = loss + settings.balance_weight * output.inner.balance.sum()
                adam.zero_grad(set_to_none=True)  # the other tasks' parts get no step, nor does their Adam age
                loss.backward()
                adam.step()
        here = []
        for slot, name in enumerate(members):
            assert fold.stopping is not None
            part = plan.only(name)
            columns = [fold.first[name] + c for c in range(4 if name == "signs" else 1)]
            rows = fold.stopping.take((fold.stopping.labelled[columns] > 0).any(0).nonzero().flatten())
            with torch.no_grad():
                output = flexcare.forward(of(slot), part, rows, settings)
                here.append(float(supervised_losses(output.logits, part, rows)))
            waited[slot] = 0 if here[-1] < least[slot] else waited[slot] + 1
            least[slot] = min(least[slot], here[-1])
            if waited[slot] == settings.patience:
                rate[slot], waited[slot] = rate[slot] / 2, 0
        losses.append(here)
        if sum(here) < best:
            best, chosen = sum(here), epoch + 1
            kept = {name: value.detach().clone() for name, value in split.items()}
    found = fit_pack(Pack((Unit(members, 0, 0), Unit(("back", "cost", "dead"), 0, 0))), TASKS, fold, settings, flexcare)
    assert found.course is not None
    np.testing.assert_allclose(found.course.loss[:, 0].numpy(), losses, rtol=0, atol=1e-9)
    assert found.course.chosen[0] == chosen
    for name, value in found.values.items():
        if flexcare.by_slot(name):
            wanted = torch.cat([kept[f"{name}@{slot}"] for slot in range(3)], dim=1)
        else:
            wanted = kept[name]
        torch.testing.assert_close(value[:1], wanted, rtol=0, atol=1e-8)


def test_rates_are_halved_and_the_best_epoch_is_kept() -> None:
    fold, settings = make_fold(rows=40), dataclasses.replace(SETTINGS, epochs=14, learning_rate=0.02, patience=2)
    pack = Pack((Unit(("back", "cost"), 0, 0), Unit(("dead", "stay"), 0, 0)))
    after: dict[int, Parameters] = {}

    def note(epoch: int, task: str, values: Parameters) -> None:
        after[epoch] = {name: value.clone() for name, value in values.items()}

    found = fit_pack(pack, TASKS, fold, settings, flexcare, note)
    course = found.course
    assert course is not None
    assert course.order == ("back", "cost", "dead", "stay")
    assert course.loss.isfinite().all()
    halvings = 0
    for member in range(2):
        total = course.loss[:, member].sum(1)
        assert course.chosen[member] == int(total.argmin()) + 1
        for slot in range(2):
            least, waited, rate = float("inf"), 0, settings.learning_rate
            for epoch in range(settings.epochs):
                assert float(course.rate[epoch, member, slot]) == rate
                loss = float(course.loss[epoch, member, slot])
                waited = 0 if loss < least else waited + 1
                least = min(least, loss)
                if waited == 2:
                    rate, waited, halvings = rate / 2, 0, halvings + 1
        kept = after[course.chosen[member] - 1]
        for name, value in found.values.items():
            assert torch.equal(value[member], kept[name][member])
    assert halvings > 0
    assert any(chosen < settings.epochs for chosen in course.chosen)


def test_turns_go_round_in_the_recorded_order(fold: Fold) -> None:
    settings = dataclasses.replace(SETTINGS, order=("stay", "back"), epochs=2)
    turns: list[tuple[int, str]] = []
    before: list[Parameters] = []

    def note(epoch: int, task: str, values: Parameters) -> None:
        turns.append((epoch, task))
        before.append({name: value.clone() for name, value in values.items()})

    pack = Pack((Unit(("back", "cost"), 0, 0), Unit(("cost", "stay"), 0, 0)))
    found = fit_pack(pack, TASKS, fold, settings, flexcare, note)
    assert found.course is not None
    assert found.course.order == ("stay", "back", "cost")
    assert turns == [(epoch, task) for epoch in range(2) for task in ("stay", "back", "cost")]
    for (here, there), (_, task) in zip(pairwise(before), turns[1:], strict=True):
        for member, names in enumerate((("back", "cost"), ("cost", "stay"))):
            moved = not torch.equal(here["embed.0.weight"][member], there["embed.0.weight"][member])
            assert moved == (task in names)
            for slot, name in enumerate(names):  # a turn moves the head of its own task alone
                moved = not torch.equal(here["head.weight"][member, slot], there["head.weight"][member, slot])
                assert moved == (task == name)


def test_rows_with_one_label_each_are_enough() -> None:
    fold = make_fold(rows=300, one_label=True)
    assert (fold.train.labelled[[fold.first[name] for name in TASKS]].sum(0) <= 1).all()
    packs = fitted(fold, SUBSETS)
    for one in packs:
        assert (one.history[-1] < one.history[0]).all()
    together = said(packs, fold)
    for members in SUBSETS:
        for key, logits in said(fitted(fold, (members,)), fold).items():
            np.testing.assert_allclose(together[key], logits, rtol=0, atol=1e-8)


def test_a_task_without_any_label_waits(fold: Fold) -> None:
    def blank(rows):
        labelled = rows.labelled.clone()
        labelled[fold.first["stay"]] = 0.0
        return dataclasses.replace(rows, labelled=labelled)

    assert fold.stopping is not None
    bare = dataclasses.replace(
        fold, train=blank(fold.train), validation=blank(fold.validation), stopping=blank(fold.stopping)
    )
    for one in fitted(bare, (("dead", "stay"), ("stay",))):
        assert one.course is not None
        assert all(value.isfinite().all() for value in one.values.values())
        assert one.course.loss[..., one.layout.names[0].index("stay")].isnan().all()


def test_without_stopping_rows_the_last_epoch_is_kept(fold: Fold) -> None:
    bare = dataclasses.replace(fold, stopping=None)
    (one,) = fitted(bare, (("dead",),))
    assert one.course is not None
    assert one.course.chosen == (SETTINGS.epochs,)
    (more,) = fitted(bare, (("dead",),), dataclasses.replace(SETTINGS, epochs=SETTINGS.epochs + 1))
    assert not torch.equal(one.values["head.weight"], more.values["head.weight"])


def test_a_member_that_fails_leaves_its_mates_as_they_are(fold: Fold) -> None:
    class Poisoned:
        def __getattr__(self, name: str) -> object:
            return getattr(flexcare, name)

        def initialise(self, *arguments: object) -> Parameters:
            values = flexcare.initialise(*arguments)  # type: ignore[arg-type]
            with torch.no_grad():
                for value in values.values():
                    value[0] = float("nan")
            return values

    pack = Pack((Unit(("cost", "dead"), 0, 0), Unit(("back", "dead"), 0, 0)))
    calm, hurt = (fit_pack(pack, TASKS, fold, SETTINGS, network) for network in (flexcare, Poisoned()))  # type: ignore[arg-type]
    assert hurt.diverged == (1, 0)
    for name, value in calm.values.items():
        torch.testing.assert_close(hurt.values[name][1], value[1], rtol=0, atol=1e-10)


def test_a_weight_multiplies_all_of_a_task_s_loss(fold: Fold) -> None:
    settings = dataclasses.replace(SETTINGS, task_weights={"dead": 0.25})
    plan, values = started(fold, (("dead",),))
    dice = Dice("weights", device=CPU)
    output = flexcare.forward(values, plan, fold.train, SETTINGS, dice)
    assert float(output.inner.balance) > 0
    by_weight = [
        flexcare.losses(output, plan, fold.train, how).by_member(how)
        for how in (SETTINGS, settings, dataclasses.replace(settings, weighted="prediction"))
    ]
    torch.testing.assert_close(by_weight[1], 0.25 * by_weight[0])
    prediction = supervised_losses(output.logits, plan, fold.train)[:, 0]
    torch.testing.assert_close(by_weight[2], by_weight[0] - 0.75 * prediction)


def test_in_a_joint_step_the_terms_of_all_tasks_have_the_mean_weight(fold: Fold) -> None:
    plan, values = started(fold, (("back", "dead"),))
    settings = dataclasses.replace(SETTINGS, update="joint", task_weights={"dead": 0.25})
    output = flexcare.forward(values, plan, fold.train, settings, Dice("weights", device=CPU))
    losses = flexcare.losses(output, plan, fold.train, settings)
    plain = supervised_losses(output.logits, plan, fold.train)
    shared = 0.5 * output.inner.covariance + 0.01 * output.inner.balance
    wanted = plain[:, 0] + 0.25 * plain[:, 1] + (1 + 0.25) / 2 * shared
    torch.testing.assert_close(losses.by_member(settings), wanted)
    before = dataclasses.replace(settings, weighted="prediction")
    torch.testing.assert_close(losses.by_member(before), plain[:, 0] + 0.25 * plain[:, 1] + shared)


def test_a_weight_changes_a_training_alone_by_no_more_than_adam_s_epsilon(fold: Fold) -> None:
    """Adam scales a weight of the whole loss away; one of the prediction alone makes the decorrelation stronger."""
    pack = Pack((Unit(("dead",), 0, 0),))
    weighted = dataclasses.replace(SETTINGS, task_weights={"dead": 0.25})
    one, whole, prediction = (
        fit_pack(pack, TASKS, fold, how, flexcare).values["combination.token"]
        for how in (SETTINGS, weighted, dataclasses.replace(weighted, weighted="prediction"))
    )
    assert float((whole - one).abs().max()) < 0.1 * float((prediction - one).abs().max())
