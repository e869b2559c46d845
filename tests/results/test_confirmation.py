"""The confirmation: its statistics on made-up scores, what a confirming worker returns, and the whole on real Ray."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from model.cohorts.cohort import Cohort
from model.data.folds import load_fold
from model.networks import m3h
from model.networks.settings import M3HSettings
from model.scoring import metrics
from model.sources import synthetic
from model.sources.opening import write_cohort
from model.trained import confirming
from model.trained.confirming import FEWEST, FEWEST_IN_CELL, SEED_STEP, ConfirmingPayload, subgroups
from model.training.fitting import fit_pack
from model.training.predicting import predict
from model.training.trainer import TrainingPayload
from tim_search import config, designs
from tim_search.app import confirmer, runner, search_folder
from tim_search.ledger.ledger import Ledger
from tim_search.ledger.table import ScoreTable
from tim_search.loop.manifest import Manifest
from tim_search.results import confirmation, opened, readings
from tim_search.results.confirmation import Asked, Contrast, contrast, fresh_seeds, needed
from tim_search.tuning import choices
from tim_search.types import FINAL_FOLD, BadInput, Context, Curve, Pack, PackResult, Score, Task, Unit

SETTINGS = M3HSettings(width=8, epochs=3, batch_size=64, learning_rate=3e-3, replicates=20)

# ------------------------------------------------------------------------------------------------ statistics


def scores(gain: float, *, seeds: int = 5, draws: int = 400, noise: float = 0.01, seed: int = 0) -> Any:
    """Two models' scores, (seeds, 1 + draws) each, whose difference is `gain` plus noise of patients and seeds."""
    dice = np.random.default_rng(seed)
    patients = np.r_[0.0, dice.normal(size=draws)] * noise
    other = 0.7 + dice.normal(size=(seeds, 1)) * noise + 5 * patients
    return other + gain + patients + dice.normal(size=(seeds, 1)) * noise / 5, other


def test_a_contrast_is_the_mean_difference_with_an_interval_around_it() -> None:
    one, other = scores(0.05)
    found = contrast(one, other)
    assert found.value == pytest.approx((one - other)[:, 0].mean())
    assert found.low < found.value < found.high
    assert found.low > 0
    assert found.p_value == pytest.approx(2 / 401)
    swapped = contrast(other, one)
    assert (swapped.value, swapped.low, swapped.high) == pytest.approx((-found.value, -found.high, -found.low))


def test_models_that_score_alike_do_not_differ() -> None:
    one, _ = scores(0.0)
    found = contrast(one, one)
    assert (found.value, found.low, found.high, found.p_value) == (0.0, 0.0, 0.0, 1.0)


def test_what_two_models_share_does_not_widen_the_interval() -> None:
    one, other = scores(0.05)
    paired, unpaired = contrast(one, other), contrast(one, scores(0.0, seed=1)[1])
    assert paired.high - paired.low < 0.5 * (unpaired.high - unpaired.low)


@pytest.mark.parametrize("n_seeds", [3, 5, 10])
@pytest.mark.parametrize("training", [0.2, 3.0])
def test_intervals_hold_the_truth_about_as_often_as_they_say(n_seeds: int, training: float) -> None:
    """Noise of patients with SD 1, which the weightings repeat, and of each training with SD `training`."""
    held = 0
    for number in range(400):
        dice = np.random.default_rng(number)
        patient = dice.normal()
        draws = np.r_[0.0, dice.normal(size=400)] + patient
        seeds = dice.normal(size=(n_seeds, 1)) * training
        found = contrast(0.3 + draws + seeds, np.zeros((n_seeds, 401)))
        held += found.low <= 0.3 <= found.high
    assert 0.91 <= held / 400 <= 0.995


@pytest.mark.parametrize("seeds", [0, 1])
def test_few_seeds(seeds: int) -> None:
    one, other = scores(0.05, seeds=max(seeds, 1))
    found = contrast(one[:seeds], other[:seeds])
    assert math.isnan(found.value) if seeds == 0 else math.isfinite(found.low)


def test_draws_that_leave_no_score_are_passed_over() -> None:
    one, other = scores(0.05)
    holed = one.copy()
    holed[2, 5] = np.nan
    without = np.delete(one, 5, axis=1), np.delete(other, 5, axis=1)
    assert contrast(holed, other) == contrast(*without)
    assert math.isnan(contrast(one[:, :1], other[:, :1]).low), "without draws there is no interval"


def test_seeds_are_fresh_and_every_subset_is_trained_once() -> None:
    assert fresh_seeds(3, (0, 1)) == (1000, 1001, 1002)
    assert fresh_seeds(3, (1001,)) == (1000, 1002, 1003)
    chosen = {"a": ("a", "b"), "b": ("a", "b"), "c": ("a", "b", "c")}
    assert needed(chosen, ("a", "b", "c")) == (("a",), ("b",), ("c",), ("a", "b"), ("a", "b", "c"))
    assert needed({}, ("a", "b")) == ()


def test_an_ensemble_is_as_large_as_the_largest_combination_and_three_at_least() -> None:
    asked = Asked("paper", {}, ("a",), ("a", "b"), (1000,), 100, {})
    assert asked.ensemble == 3, "also where nothing was chosen"
    assert dataclasses.replace(asked, chosen={"a": ("a", "b")}).ensemble == 3
    assert dataclasses.replace(asked, chosen={"a": ("a", "b"), "c": ("a", "b", "c", "d")}).ensemble == 4


def test_the_record_is_read_back_and_a_damaged_one_is_explained(tmp_path: Path) -> None:
    context = Context("c", "d", "e", "m3h", "{}")
    asked = Asked("paper", {"a": ("a", "b")}, ("b",), ("a", "b"), (1000,), 100, {("a",): context}, ("sex",))
    assert confirmation.read(tmp_path) is None
    asked.write(tmp_path)
    assert confirmation.read(tmp_path) == asked
    (tmp_path / confirmation.NAME).write_text('{"rule": "paper"}')
    with pytest.raises(BadInput, match=r"not the record of a confirmation .*tim-search confirm"):
        confirmation.read(tmp_path)


def test_notes_say_who_chose_and_from_how_many_seeds() -> None:
    found = confirmation.Confirmed(
        "a", "auroc", ("a", "b"), 5, 0.7, 0.75, 0.01, 0.01, math.nan, math.nan, Contrast(0.05, 0.01, 0.09, 0.001),
        confirmation.UNKNOWN, confirmation.UNKNOWN, 7.1, 0.06, False, "",
    )  # fmt: skip
    asked = Asked("lower_bound", {"a": ("a", "b")}, (), ("a", "b"), (1000, 1001, 1002), 100, {})
    other = dataclasses.replace(found, source="b")
    once = [{"command": "train"}]
    assert confirmation.caveats(asked, [found], once, ())[0].startswith(
        "1 combination chosen on validation patients by the rule lower bound; "
    )
    both = dataclasses.replace(asked, chosen={"a": ("a", "b"), "b": ("a", "b")})
    assert confirmation.caveats(both, [found, other], once, ())[0].startswith("2 combinations chosen on validation")
    given = dataclasses.replace(asked, rule="given", seeds=(1000,))
    (first, few) = confirmation.caveats(given, [found], once, ())
    assert first.startswith("1 combination named by the user; ")
    assert "1 fresh seed;" in first
    assert "fewer than three seeds" in few
    (*_, read, near) = confirmation.caveats(asked, [found], once * 3, [("b", "a")])
    assert "have been read 3 times" in read
    assert near == "Overlapping targets, whose gain is no transfer: a with b."


BEFORE = Context("c", "d", "e", "m3h", "{}")


def asked_for(chosen: dict[str, tuple[str, ...]], alone: tuple[str, ...] = (), first: int = 1000) -> Asked:
    contexts = dict.fromkeys(needed(chosen, ("a", "b", "c", "d")), BEFORE)
    return Asked("paper", chosen, alone, ("a", "b", "c", "d"), tuple(range(first, first + 5)), 400, contexts)


def test_a_confirmation_keeps_those_before_it_that_compared_something_else(tmp_path: Path) -> None:
    first = asked_for({"a": ("a", "b")}, alone=("c",))
    second = asked_for({"b": ("a", "b")}).after(first)
    assert second.earlier == (first,)
    again = first.after(second)
    assert again.earlier == (asked_for({"b": ("a", "b")}),), "the same once more is no comparison of its own"
    by_sex = dataclasses.replace(first, groups=("sex",)).after(first)
    assert by_sex.earlier == (), "another figure of the same scores"
    others = [asked_for({"a": ("a", "c")}), asked_for({"a": ("a", "b")}, first=2000)]
    tuned = {("a",): BEFORE, ("a", "b"): dataclasses.replace(BEFORE, settings='{"width":4}')}
    others.append(dataclasses.replace(first, contexts=tuned))
    for other in others:
        assert [one.chosen for one in other.after(first).earlier] == [first.chosen]
    assert first.after(None) is first
    third = asked_for({}, alone=("d",)).after(second)
    assert [one.chosen for one in third.earlier] == [second.chosen, first.chosen]
    third.write(tmp_path)
    assert confirmation.read(tmp_path) == third
    # A record of a version that kept the latest alone.
    plain = json.loads((tmp_path / confirmation.NAME).read_text())
    del plain["earlier"]
    (tmp_path / confirmation.NAME).write_text(json.dumps(plain))
    assert confirmation.read(tmp_path) == dataclasses.replace(third, earlier=())


def scored_pairs(folder: Path, gains: dict[str, float]) -> opened.SearchResults:
    """A search folder whose ledger holds the test scores of each task alone and of all pairs, from ten seeds.

    The other task of a pair adds the source's gain, with noise that leaves a gain of 0.02 a p-value near 0.05.
    """
    tasks = {name: Task(name, "binary") for name in gains}
    design = {"kind": "sized", "k": 2}
    Manifest("s", "made up", BEFORE, tuple(tasks.values()), (), design, ((0, 0),), tuple(tasks)).write(folder)
    ledger = Ledger(folder / "ledger")
    dice = np.random.default_rng(0)
    patients = dice.normal(size=400) * 0.0102
    for seed in (*range(1000, 1005), *range(2000, 2005)):
        for size in (1, 2):
            for members in itertools.combinations(tasks, size):
                unit = Unit(members, seed, FINAL_FOLD)
                rows = []
                for name in members:
                    value = 0.7 + (gains[name] if size == 2 else 0.0)
                    draws = tuple(value + patients * (size == 2))
                    rows.append(Score(unit, name, "auroc", "test", value, replicates=draws))
                ledger.append(PackResult(Pack((unit,)), tuple(rows)), BEFORE)
    return opened.open_search(folder)


def test_sources_confirmed_one_by_one_are_judged_together(tmp_path: Path) -> None:
    """The surest of four gains, asked for alone, is a discovery; that three others found nothing takes it back."""
    results = scored_pairs(tmp_path, {"a": 0.02, "b": 0.0, "c": 0.0, "d": 0.0})

    def judged() -> dict[str, bool]:
        return {one.source: one.rejected for one in confirmation.confirmed(results)}

    pairs = {"a": ("a", "b"), "b": ("a", "b"), "c": ("c", "d"), "d": ("c", "d")}
    at_once = asked_for(pairs)
    at_once.write(tmp_path)
    together = confirmation.confirmed(results)
    (p_value,) = (one.gain.p_value for one in together if one.source == "a")
    assert 0.025 < p_value < 0.1, "a discovery alone, and none of four"
    assert not any(one.rejected for one in together)

    asked = asked_for({"a": pairs["a"]})
    asked.write(tmp_path)
    assert judged() == {"a": True}
    for source in "bcd":
        asked = asked_for({source: pairs[source]}).after(asked)
        asked.write(tmp_path)
    assert confirmation.confirmed(results) == together, "one by one is as good as all at once"
    first, anew = confirmation.caveats(asked, together, [], ())
    assert "over these sources and 3 comparisons of earlier confirmations." in first
    assert "judged anew" in anew

    # Another combination in the first one's place leaves what the first one took.
    asked = asked_for({"a": ("a", "c")}).after(asked_for({"a": pairs["a"]}))
    asked.write(tmp_path)
    assert judged() == {"a": bool(p_value <= confirmation.FDR / 2)}, "what it replaced counts as nothing found"
    asked = asked_for({"b": ("b", "c")}).after(asked)
    asked.write(tmp_path)
    assert judged() == {"a": bool(p_value <= confirmation.FDR / 3), "b": False}

    # A source that a later rule leaves alone is shown so; its comparison was made all the same.
    asked = asked_for({}, alone=("a",)).after(asked)
    asked.write(tmp_path)
    assert [one.chosen for one in confirmation.confirmed(results)] == [(), ("b", "c")]


def test_one_true_gain_that_is_confirmed_again_confirms_no_other(tmp_path: Path) -> None:
    """Discoveries that nobody sees would lower the bar for those that are shown."""
    results = scored_pairs(tmp_path, {"a": 0.2, "b": 0.0165, "c": 0.0, "d": 0.0})
    asked = asked_for({"a": ("a", "b"), "b": ("b", "c"), "c": ("c", "d"), "d": ("c", "d")})
    asked.write(tmp_path)

    def judged() -> dict[str, bool]:
        return {one.source: one.rejected for one in confirmation.confirmed(results)}

    assert judged() == {"a": True, "b": False, "c": False, "d": False}
    (p_value,) = (one.gain.p_value for one in confirmation.confirmed(results) if one.source == "b")
    assert p_value < confirmation.FDR, "alone it would be one"
    for other in ("c", "d", "b", "c", "d"):
        asked = asked_for({"a": tuple(sorted(("a", other)))}).after(asked)
        asked.write(tmp_path)
    assert judged() == {"a": True, "b": False, "c": False, "d": False}


def test_comparisons_that_only_the_log_knows_count_as_nothing_found(tmp_path: Path) -> None:
    results = scored_pairs(tmp_path, {"a": 0.02, "b": 0.0, "c": 0.0, "d": 0.0})
    asked = asked_for({"a": ("a", "b")})
    asked.write(tmp_path)
    seeds = list(asked.seeds)
    readings.log(tmp_path, "confirm", rule="paper", combinations={"a": ["a", "b"]}, seeds=seeds)
    readings.log(tmp_path, "train", source="a", subset=["a", "b"], seeds=seeds)
    assert [one.rejected for one in confirmation.confirmed(results)] == [True], "the log names what the record does"
    lost = {"b": ["a", "b"], "c": ["c", "d"], "d": ["d", "c"]}
    readings.log(tmp_path, "confirm", rule="paper", combinations=lost, seeds=seeds)
    readings.log(tmp_path, "confirm", rule="paper", combinations={"d": ["c", "d"]}, seeds=seeds)
    readings.log(tmp_path, "confirm", combinations={"d": []}, seeds=seeds)
    readings.log(tmp_path, "confirm", combinations={"d": 3}, seeds=[[1]])
    assert [one.rejected for one in confirmation.confirmed(results)] == [False]
    notes = confirmation.caveats(asked, confirmation.confirmed(results), readings.read(tmp_path), ())
    assert "and 3 comparisons of earlier confirmations" in notes[0]
    assert notes[2].startswith("3 of the earlier comparisons are known from test-readings.jsonl alone")


def test_verdicts_say_what_was_found() -> None:
    blank = confirmation.Confirmed(
        "a", "auroc", ("a", "b"), 5, 0.7, 0.75, 0.01, 0.01, math.nan, math.nan, Contrast(0.05, 0.01, 0.09, 0.001),
        confirmation.UNKNOWN, Contrast(0.01, 0.0, 0.02, 0.1), 7.1, 0.06, False, "",
    )  # fmt: skip
    worse = dataclasses.replace(blank, gain=Contrast(-0.05, -0.09, -0.01, 0.001))
    beaten = dataclasses.replace(blank, over_ensemble=Contrast(-0.01, -0.02, 0.0, 0.1))
    unclear = dataclasses.replace(blank, gain=Contrast(0.01, -0.02, 0.04, 0.5))
    untrained = dataclasses.replace(blank, gain=confirmation.UNKNOWN)
    alone = dataclasses.replace(untrained, chosen=())
    said = [
        confirmation.verdict(dataclasses.replace(one, rejected=rejected))
        for one, rejected in (
            (blank, True), (worse, True), (beaten, True), (blank, False), (unclear, False), (untrained, False),
            (alone, False),
        )
    ]  # fmt: skip
    assert len(set(said)) == 7
    for text, start in zip(
        said, ("confirmed: ", "refuted", "confirmed: ", "not conf", "not conf", "not tr", "no comb"), strict=True
    ):
        assert text.startswith(start)
    assert "ensemble" in said[2]
    assert "ensemble" not in said[0]


# ------------------------------------------------------------------------------------------------ a worker


@pytest.fixture(scope="module")
def cohort() -> Cohort:
    made, _ = synthetic.haim_like(
        900, 700, seed=4, widths=(4, 12, 9, 7), n_binary=3, n_classes=3, n_clusters=3, absent=(0.0, 0.1, 0.2, 0.0)
    )
    return made


def of_kind(cohort: Cohort, kind: str) -> str:
    return next(task.name for task in cohort.tasks.values() if task.kind == kind)


def payload(cohort: Cohort, **fields: Any) -> ConfirmingPayload:
    return ConfirmingPayload(TrainingPayload(cohort, "m3h", SETTINGS, "cpu", 1), **fields)


def pack(*subsets: tuple[str, ...], seed: int = 1000) -> Pack:
    return Pack(tuple(Unit(tuple(sorted(members)), seed, FINAL_FOLD) for members in subsets))


@pytest.fixture(scope="module")
def singles(cohort: Cohort) -> PackResult:
    names = [(of_kind(cohort, kind),) for kind in ("binary", "multiclass", "regression")]
    return confirming.trainer(payload(cohort, ensemble=3)).train(pack(*names))


def test_an_ensemble_averages_the_predictions_of_models_that_differ_in_their_seeds(
    cohort: Cohort, singles: PackResult
) -> None:
    name = of_kind(cohort, "binary")
    fold = load_fold(cohort, FINAL_FOLD, dtype=torch.float32, device=torch.device("cpu"), replicates=20)
    risks = []
    for seed in (1000, 1000 + SEED_STEP, 1000 + 2 * SEED_STEP):
        fitted = fit_pack(pack((name,), seed=seed), cohort.tasks, fold, SETTINGS, m3h)
        risks.append(predict(fitted, fold.validation).logits[0, 0, :, 0].double().sigmoid().numpy())
    row = fold.supervised.index(name)
    known = fold.validation.labelled[row].numpy() > 0
    labels = fold.validation.targets[row].double().numpy()[known]
    found = {row.metric: row for row in singles.scores if row.task == name}
    for size in (2, 3):
        risk = np.mean(risks[:size], axis=0)[known]
        expected = metrics.score("auroc", "binary", labels, risk[:, None], fold.weights[:, known])
        ensemble = found[f"ensemble_{size}_auroc"]
        assert ensemble.part == "test"
        assert not ensemble.primary
        # A pack of three and a pack of one sum in another order.
        assert (ensemble.value, *ensemble.replicates) == pytest.approx(expected.tolist(), abs=5e-3)
    assert found["ensemble_2_auroc"].value != found["auroc"].value


def test_every_score_has_the_papers_interval_beside_it(cohort: Cohort, singles: PackResult) -> None:
    spread = {row.task: row.value for row in singles.scores if row.metric.endswith("_paper_sd")}
    assert set(spread) == {of_kind(cohort, kind) for kind in ("binary", "multiclass", "regression")}
    assert all(0 < value < 0.3 for value in spread.values())
    draws = confirming.paper_draws(1000, "key")
    assert draws.shape == (5, 1000)
    assert draws.sum(1).tolist() == [900.0] * 5
    assert (draws == confirming.paper_draws(1000, "key")).all()
    assert (draws != confirming.paper_draws(1000, "other key")).any()


def curves(result: PackResult, task: str) -> dict[tuple[str, str], Curve]:
    return {(curve.kind, curve.group): curve for curve in result.curves if curve.task == task}


def test_no_point_of_a_curve_stands_for_few_patients(cohort: Cohort, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(confirming, "_CELLS", 4)  # cells so large that some of a small map hold enough patients
    names = tuple(of_kind(cohort, kind) for kind in ("binary", "multiclass", "regression", "clustering"))
    sick = np.arange(len(cohort)) % 3 == 0
    few = np.arange(len(cohort)) < 40
    members = tuple(sorted(names))
    given = payload(cohort, groups={"sick": sick, "few": few}, maps=frozenset({(members, names[3])}), map_seed=1000)
    result = confirming.trainer(given).train(pack(members))
    binary, regression = curves(result, names[0]), curves(result, names[2])
    assert ("calibration", "all") in binary
    assert ("calibration", "sick") in binary
    assert ("calibration", "few") not in binary, "eight test patients make no curve"
    assert {kind for kind, _ in curves(result, names[1])} == {"roc"}
    assert {kind for kind, _ in regression} == {"density", "tail"}
    assert {kind for kind, _ in curves(result, names[3])} == {"map"}
    for curve in result.curves:
        assert len(curve.x) == len(curve.y)
        assert np.isfinite([*curve.x, *curve.y]).all()
        least = FEWEST if curve.kind in ("calibration", "tail") else FEWEST_IN_CELL
        assert all(count >= least for count in curve.n)
    test, label = cohort.split.test, cohort.labels[names[0]]
    everybody = binary["calibration", "all"]
    labelled = label[test & np.isfinite(label)]
    assert sum(everybody.n) == len(labelled)
    assert np.dot(everybody.y, everybody.n) == pytest.approx(labelled.sum())
    roc = binary["roc", "all"]
    fitted = next(row for row in result.scores if row.task == names[0] and row.primary)
    assert np.trapezoid(roc.y, roc.x) == pytest.approx(fitted.value, abs=0.02)
    other = confirming.trainer(dataclasses.replace(given, map_seed=1)).train(pack(members))
    assert not [curve for curve in other.curves if curve.kind == "map"], "a map is drawn for one seed"


def test_subgroups_of_a_column(cohort: Cohort) -> None:
    modality = next(iter(cohort.modalities.values()))
    column = next(name for name in modality.columns if name not in modality.levels)
    found = subgroups(cohort, f"{modality.name}.{column}")
    assert len(found) == 2
    values = modality.values[:, modality.columns.index(column)]
    lower, upper = found.values()
    assert not (lower & upper).any()
    assert ((lower | upper) == np.isfinite(values)).all()
    train = ~cohort.split.test & np.isfinite(values)
    assert abs(int((lower & train).sum()) - int((upper & train).sum())) <= 0.1 * train.sum()
    with pytest.raises(BadInput, match="--by: expected one input column"):
        subgroups(cohort, "no such column")


# ------------------------------------------------------------------------------------------------ the whole


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory, cohort: Cohort) -> Callable[[], config.ResolvedSearch]:
    base = tmp_path_factory.mktemp("confirm")
    write_cohort(cohort, base / "cohort")
    tasks = [of_kind(cohort, kind) for kind in ("binary", "multiclass", "regression")]
    path = base / "small.yaml"
    training = {"width": 8, "epochs": 2, "batch_size": 64, "learning_rate": 3e-3, "replicates": 10}
    resources = {"workers": 1}
    path.write_text(
        yaml.safe_dump({"cohort": "cohort", "tasks": tasks, "training": training, "resources": resources, "out": "out"})
    )
    return lambda: config.resolve(config.load(path))


@pytest.mark.slow
def test_a_search_is_confirmed_on_test_patients_and_nothing_is_trained_twice(
    local_ray: None, searched: Callable[[], config.ResolvedSearch]
) -> None:
    found = searched()
    runner.run_search(found)
    source = found.sources[0]
    combination = tuple(sorted(found.sources[:2]))
    before = opened.open_search(found.out).status()
    done = confirmer.confirm(found.out, given=combination, sources=[source], seeds=2, draws=100)
    (row,) = done.rows
    assert (row["source"], row["chosen"], row["seeds"]) == (source, " + ".join(combination), 2)
    assert row["difference"] == pytest.approx(row["multi"] - row["single"])
    assert row["low"] <= row["difference"] <= row["high"]
    assert math.isfinite(row["together"])
    assert math.isfinite(row["ensemble"])
    assert row["verdict"]
    assert done.outcome is not None
    assert done.outcome.trained == 6, "alone, the combination and all together, from two seeds"
    assert done.table.exists()
    assert {path.name for path in done.figures} >= {"confirmation.png"}
    assert all(path.exists() for path in done.figures)
    assert not done.missed
    (reading,) = readings.read(found.out)
    assert (reading["command"], reading["combinations"]) == ("confirm", {source: list(combination)})

    again = confirmer.confirm(found.out, given=combination, sources=[source], seeds=2, draws=100)
    assert again.outcome is not None
    assert again.outcome.trained == 0
    assert again.rows == done.rows
    assert len(readings.read(found.out)) == 1, "no patient was read"
    # The search itself knows nothing of it: its scores, its status, its expansions are the same.
    after = opened.open_search(found.out).status()
    assert {key: after[key] for key in ("trained", "failed", "waiting")} == {
        key: before[key] for key in ("trained", "failed", "waiting")
    }
    table = opened.open_search(found.out).ledger.scores(None, part="test")
    assert set(table["fold"]) == {FINAL_FOLD}
    assert set(table["seed"]) == {1000, 1001}

    # Settings of its own for one side are another context, trained anew and compared with the other side's.
    study = config.study(found, combination)
    choices.write(
        found.out,
        study,
        [
            choices.Trial(
                {name: values[0] for name, values in study.space.items()},
                {(combination, fold, task): 0.5 for fold in study.folds for task in combination},
            )
        ],
        combination,
    )
    tuned = confirmer.confirm(found.out, given=combination, sources=[source], seeds=2, draws=100)
    assert tuned.outcome is not None
    assert tuned.outcome.trained == 2
    assert tuned.rows[0]["single"] == row["single"]
    assert tuned.rows[0]["multi"] != row["multi"]
    assert len(readings.read(found.out)) == 2

    for empty in ({"given": ()}, {"given": [""]}, {"sources": []}, {"sources": [""]}):  # as from an unset variable
        with pytest.raises(BadInput, match=r"expected (names of tasks, got none|tasks of the search, got '')"):
            confirmer.confirm(found.out, **empty)
    assert len(readings.read(found.out)) == 2, "empty names read nobody"
    with pytest.raises(BadInput, match="expected tasks of the search"):
        confirmer.confirm(found.out, sources=["no such task"])
    with pytest.raises(BadInput, match="two tasks or more"):
        confirmer.confirm(found.out, given=(source,))
    with pytest.raises(BadInput, match="not in the combination"):
        confirmer.confirm(found.out, given=combination, sources=[found.sources[2]])
    with pytest.raises(BadInput, match="one input column"):
        confirmer.confirm(found.out, given=combination, groups=["shoe size"])
    assert len(readings.read(found.out)) == 2, "bad input reads nobody"
    manifest = json.loads((found.out / "search.json").read_text())
    manifest["context"]["cohort"] = "another"
    manifest["context"].pop("key")
    manifest["context"]["key"] = Context(**manifest["context"]).key
    (found.out / "search.json").write_text(json.dumps(manifest))
    with pytest.raises(BadInput, match="the cohort's content"):
        confirmer.confirm(found.out, given=combination)


def test_a_folder_without_scores_has_nothing_to_confirm(
    searched: Callable[[], config.ResolvedSearch], tmp_path: Path
) -> None:
    found = dataclasses.replace(searched(), out=tmp_path / "empty", ledger=tmp_path / "empty" / "ledger")
    search_folder.prepare(found)
    with pytest.raises(BadInput, match="no finished expansion to confirm"):
        confirmer.confirm(found.out)
    with pytest.raises(BadInput, match="the search is not finished, and what it predicts to be best may change"):
        confirmer.confirm(found.out, "predicted")
    with pytest.raises(BadInput, match="too few subsets with"):
        confirmer.predicted(opened.open_search(found.out).table, next(iter(found.tasks)), None)
    assert readings.read(found.out) == []


def test_a_choice_that_is_not_made_yet_is_not_put_to_the_test(
    searched: Callable[[], config.ResolvedSearch], tmp_path: Path
) -> None:
    """A search half-way: what one source chose is final, what another would choose is not."""
    found = dataclasses.replace(searched(), out=tmp_path / "half", ledger=tmp_path / "half" / "ledger")
    search_folder.prepare(found)
    first, second, third = found.tasks
    for members in ((first,), (second,), (first, second), (first, third), (first, second, third)):
        for block in found.blocks:
            unit = Unit(tuple(sorted(members)), *block)
            value = 0.5 + len(members) / 10
            rows = [Score(unit, name, found.tasks[name].metric, "validation", value) for name in members]
            Ledger(found.ledger).append(PackResult(Pack((unit,)), tuple(rows)), found.context)
    results = opened.open_search(found.out)
    assert confirmer.chosen_combinations(results, "paper", [first], None)[0] == {first: tuple(sorted(found.tasks))}
    for sources in (None, (first, third)):
        with pytest.raises(BadInput, match=r"not finished .*waiting for \d subsets? not trained yet.*--source"):
            confirmer.chosen_combinations(results, "paper", sources, None)


@pytest.mark.parametrize("sliced", [False, True])
def test_the_best_that_is_predicted_is_the_best_of_an_additive_game(sliced: bool) -> None:
    tasks = ("a", "b", "c", "d", "e", "f_permuted")
    effect = np.array([0.0, 0.03, -0.04, 0.02, -0.01, 0.05])
    membership = designs.hybrid(6, 40, 0)
    level = np.array([0.70, 0.75])
    scores = np.where(membership[:, None, :], level[None, :, None] + (membership @ effect)[:, None, None], np.nan)
    trained = np.ones((40, 2), bool)
    if sliced:
        trained = np.stack([np.arange(40) % 2 == block for block in range(2)], axis=1)
        scores = np.where(trained[:, :, None], scores, np.nan)
    table = ScoreTable(tasks, ((0, 0), (1, 1)), membership, scores, trained)
    assert confirmer.predicted(table, "a", "f_permuted") == ("a", "b", "d")
    assert confirmer.predicted(table, "a", "f_permuted", max_size=2) == ("a", "b")
    assert confirmer.predicted(table, "a", None) == ("a", "b", "f_permuted")
    worthless = ScoreTable(tasks, table.blocks, membership, np.where(np.isfinite(scores), 0.5, np.nan), trained)
    assert len(confirmer.predicted(worthless, "a", None)) <= 3
