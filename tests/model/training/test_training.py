"""The trainer as an executor's worker calls it: a real cohort in, score rows out."""

from __future__ import annotations

import dataclasses
import math
import pickle
import resource
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch

from model.cohorts.cohort import Cohort
from model.data.folds import load_fold, patient_weights
from model.networks import m3h
from model.networks.contract import layout
from model.networks.settings import M3HSettings, settings_class
from model.sources import synthetic
from model.training import cost
from model.training.fitting import check_supported, fit_pack
from model.training.scores import score_pack
from model.training.trainer import PackTrainer, TrainingPayload, trainer
from tim_search.types import FINAL_FOLD, BadInput, OutOfMemory, Pack, PackResult, Subset, Unit

SETTINGS = M3HSettings(width=8, epochs=3, batch_size=64, learning_rate=3e-3, replicates=5)


@pytest.fixture(scope="module")
def cohort() -> Cohort:
    made, _ = synthetic.haim_like(
        700, 500, seed=4, widths=(4, 12, 9, 7), n_binary=3, n_classes=3, n_clusters=4, absent=(0.0, 0.1, 0.2, 0.0)
    )
    return made


def kinds(cohort: Cohort) -> dict[str, list[str]]:
    """Task names by kind."""
    found: dict[str, list[str]] = {}
    for task in cohort.tasks.values():
        found.setdefault(task.kind, []).append(task.name)
    return found


def payload(cohort: Cohort, **changes: object) -> TrainingPayload:
    return TrainingPayload(cohort, "m3h", dataclasses.replace(SETTINGS, **changes), "cpu", 1)


def values(result: PackResult) -> Mapping[tuple[Subset, str, str], float]:
    return {(row.unit.subset, row.task, row.metric): row.value for row in result.scores}


def pack(*subsets: tuple[str, ...], seed: int = 0, fold: int = 0) -> Pack:
    return Pack(tuple(Unit(tuple(sorted(members)), seed, fold) for members in subsets))


def test_every_unit_and_task_gets_a_score_its_replicates_and_its_attention(cohort: Cohort) -> None:
    by_kind = kinds(cohort)
    members = (by_kind["binary"][0], by_kind["multiclass"][0], by_kind["regression"][0], by_kind["clustering"][0])
    result = trainer(payload(cohort)).train(pack(members))
    primary = [row for row in result.scores if row.primary]
    assert sorted(row.task for row in primary) == sorted(members)
    assert all(row.status == "ok" and math.isfinite(row.value) and row.part == "validation" for row in primary)
    assert all(row.metric == cohort.tasks[row.task].metric and len(row.replicates) == 5 for row in primary)
    assert len({round(draw, 9) for draw in primary[0].replicates}) > 1
    diagnostics = {row.metric for row in result.scores if not row.primary}
    clusters = {"occupied_clusters", "effective_rank", "label_agreement", "reconstruction_r2"}
    assert diagnostics == clusters | {"auprc", "macro_f1", "micro_f1"}
    weights = np.array([row.weight for row in result.attention]).reshape(4, 4)
    assert weights.sum(1) == pytest.approx(1.0, abs=1e-6)
    assert result.seconds > 0
    assert result.peak_bytes > 0
    assert sum(row.seconds for row in primary) == pytest.approx(4 * result.seconds)


@pytest.mark.parametrize(("system", "unit"), [("linux", 1024), ("darwin", 1)])
def test_the_most_memory_is_in_bytes_on_every_system(
    cohort: Cohort, monkeypatch: pytest.MonkeyPatch, system: str, unit: int
) -> None:
    """What the system counts is kilobytes on Linux and bytes on macOS."""
    worker = trainer(payload(cohort))
    assert isinstance(worker, PackTrainer)
    monkeypatch.setattr(sys, "platform", system)
    counted = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert counted * unit <= worker._peak_bytes() < 1.5 * counted * unit


def test_attention_of_large_subsets_is_not_kept(cohort: Cohort, monkeypatch: pytest.MonkeyPatch) -> None:
    names = kinds(cohort)["binary"][:3]
    whole = trainer(payload(cohort)).train(pack(names[:2]))
    monkeypatch.setattr("model.training.scores.MOST_ATTENDED", 2)
    assert trainer(payload(cohort)).train(pack(names[:2])).attention == whole.attention
    large = trainer(payload(cohort)).train(pack(names))
    assert {row.task for row in large.scores} == set(names)
    assert large.attention == ()


def test_one_seed_gives_one_result_and_another_seed_another(cohort: Cohort) -> None:
    names = kinds(cohort)["binary"]
    first = values(trainer(payload(cohort)).train(pack((names[0],), (names[1],))))
    again = values(trainer(payload(cohort)).train(pack((names[0],), (names[1],))))
    other = values(trainer(payload(cohort)).train(pack((names[0],), (names[1],), seed=1)))
    assert first == again
    assert all(first[key] != other[key] for key in first)


def test_scores_in_a_pack_are_those_of_training_alone(cohort: Cohort) -> None:
    by_kind = kinds(cohort)
    group = by_kind["clustering"][0]
    subsets = [(name, group) for name in (*by_kind["binary"], *by_kind["regression"], *by_kind["multiclass"])]
    worker = trainer(payload(cohort, precision="float64"))
    together = values(worker.train(pack(*subsets)))
    for members in subsets:
        alone = values(worker.train(pack(members)))
        for key, value in alone.items():
            assert together[key] == pytest.approx(value, abs=1e-8)


def test_scores_of_a_pack_are_those_of_each_member_scored_alone_in_every_bit(cohort: Cohort) -> None:
    by_kind = kinds(cohort)
    group = by_kind["clustering"][0]
    others = [*by_kind["binary"], *by_kind["multiclass"], *by_kind["regression"]]
    together = pack(*((name, group) for name in others))
    worker = trainer(payload(cohort))
    fold = worker.fold(0)
    fitted = fit_pack(together, cohort.tasks, fold, SETTINGS, m3h)
    scores, attention = score_pack(together, fitted, cohort.tasks, fold)
    assert len(together.units) == 5
    for member, unit in enumerate(together.units):
        alone = dataclasses.replace(
            fitted,
            values={name: value[member : member + 1].clone() for name, value in fitted.values.items()},
            layout=layout([unit.subset], cohort.tasks, fold, torch.device("cpu")),
            history=fitted.history[:, member : member + 1],
        )
        found, weights = score_pack(Pack((unit,)), alone, cohort.tasks, fold)
        assert [row for row in scores if row.unit == unit] == found
        assert [row for row in attention if row.unit == unit] == weights
        assert {row.metric for row in found} >= {"silhouette", "label_agreement", cohort.tasks[unit.subset[0]].metric}
    assert [row.unit for row in scores] == sorted((row.unit for row in scores), key=together.units.index)


def test_the_network_learns_what_the_features_show(cohort: Cohort) -> None:
    binary = kinds(cohort)["binary"][-1]
    worker = trainer(payload(cohort, epochs=12))
    score = next(row for row in worker.train(pack((binary,))).scores)
    assert score.value > 0.65


def test_a_diverged_member_is_a_failed_row_and_its_mates_are_not(cohort: Cohort, monkeypatch) -> None:
    names = kinds(cohort)["binary"]
    start = m3h.initialise

    def poisoned(*args):
        made = start(*args)
        with torch.no_grad():
            made["head.weight"][0] = float("nan")
        return made

    calm = values(trainer(payload(cohort)).train(pack((names[0],), (names[1],))))
    monkeypatch.setattr(m3h, "initialise", poisoned)
    result = trainer(payload(cohort)).train(pack((names[0],), (names[1],)))
    lost, kept = sorted((row for row in result.scores if row.primary), key=lambda row: row.task)
    assert (lost.status, lost.task) == ("failed", names[0])
    assert "diverged" in lost.error
    assert "learning_rate" in lost.error
    assert kept.status == "ok"
    assert kept.value == calm[(names[1],), names[1], "auroc"]
    assert {row.unit.subset for row in result.attention} == {(names[1],)}


def one_sided(cohort: Cohort, name: str, fold: int) -> Cohort:
    """The cohort with only negatives of a task in one fold."""
    labels = np.where(cohort.split.fold == fold, 0.0, cohort.labels[name])
    return dataclasses.replace(cohort, labels={**cohort.labels, name: labels})


def test_a_fold_without_two_classes_is_a_failed_row_that_says_so(cohort: Cohort) -> None:
    name = kinds(cohort)["binary"][0]
    row = trainer(payload(one_sided(cohort, name, 1))).train(pack((name,), fold=1)).scores[0]
    assert row.status == "failed"
    assert math.isnan(row.value)
    assert "fold 1" in row.error


def test_labels_missing_everywhere_in_training_do_not_stop_the_others(cohort: Cohort) -> None:
    first, second = kinds(cohort)["binary"][:2]
    empty = np.where(cohort.split.train(0), np.nan, cohort.labels[first])
    gaps = dataclasses.replace(cohort, labels={**cohort.labels, first: empty})
    result = trainer(payload(gaps)).train(pack((first, second)))
    assert {row.task: row.status for row in result.scores}[second] == "ok"


def test_a_last_batch_of_one_row_is_trained_on(cohort: Cohort) -> None:
    rows = int(cohort.split.train(0).sum())
    name = kinds(cohort)["binary"][0]
    result = trainer(payload(cohort, batch_size=rows - 1, epochs=1)).train(pack((name,)))
    assert result.scores[0].status == "ok"


def test_the_final_fold_learns_from_all_training_patients_and_is_judged_on_the_test_patients(cohort: Cohort) -> None:
    fold = load_fold(cohort, FINAL_FOLD, dtype=torch.float32, device=torch.device("cpu"), replicates=5)
    assert len(fold.train) == int((~cohort.split.test).sum())
    assert len(fold.validation) == int(cohort.split.test.sum())
    assert fold.weights.shape == (6, len(fold.validation))
    names = tuple(sorted(cohort.tasks))[:2]
    result = trainer(payload(cohort)).train(pack(names, fold=FINAL_FOLD))
    assert {row.part for row in result.scores} == {"test"}
    assert all(row.status == "ok" for row in result.scores if row.primary)
    # Training sees no test patient: other labels there change nothing that was learnt, only how it is judged.
    test = cohort.split.test
    labels = {name: np.where(test, label[::-1], label) for name, label in cohort.labels.items() if label.ndim == 1}
    other = load_fold(
        dataclasses.replace(cohort, labels=labels),
        FINAL_FOLD,
        dtype=torch.float32,
        device=torch.device("cpu"),
        replicates=5,
    )
    for here, there in zip(fold.train.inputs, other.train.inputs, strict=True):
        assert torch.equal(here, there)
    assert torch.equal(fold.train.targets, other.train.targets)
    assert not torch.equal(fold.validation.targets, other.validation.targets)


def test_an_unknown_fold_is_bad_input(cohort: Cohort) -> None:
    name = kinds(cohort)["binary"][0]
    with pytest.raises(BadInput, match="fold: expected 0 to 4"):
        trainer(payload(cohort)).train(pack((name,), fold=9))


def test_memory_trouble_is_told_apart(cohort: Cohort, monkeypatch) -> None:
    name = kinds(cohort)["binary"][0]
    worker = PackTrainer(payload(cohort))
    for error in (
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("CUDA error: out of memory"),
    ):

        def refuse(*_: object, error: Exception = error) -> None:
            raise error

        monkeypatch.setattr(m3h, "initialise", refuse)
        with pytest.raises(OutOfMemory, match="1 subsets of 1 tasks"):
            worker.train(pack((name,)))


def test_the_payload_is_picklable_and_small_settings_are_canonical(cohort: Cohort) -> None:
    sent = pickle.loads(pickle.dumps(payload(cohort)))
    name = kinds(cohort)["binary"][0]
    assert values(trainer(sent).train(pack((name,)))) == values(trainer(payload(cohort)).train(pack((name,))))
    assert SETTINGS.text == dataclasses.replace(SETTINGS).text
    assert SETTINGS.text != dataclasses.replace(SETTINGS, epochs=4).text


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("width", 0),
        ("batch_size", 1),
        ("learning_rate", 0.0),
        ("temperature", 0.01),
        ("update", "both"),
        ("rare", 2.0),
        ("precision", "bf16"),
        ("alpha", float("inf")),
    ],
)
def test_settings_out_of_range_name_the_field_and_what_is_allowed(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"{field}: expected .* got"):
        M3HSettings(**{field: value})


@pytest.mark.parametrize(("precision", "products"), [("tf32", "high"), ("float32", "highest"), ("float64", "highest")])
def test_products_are_as_precise_as_the_settings_say_and_only_there(
    cohort: Cohort, monkeypatch: pytest.MonkeyPatch, precision: str, products: str
) -> None:
    seen = []
    forward = m3h.forward

    def watched(*given: Any) -> Any:
        seen.append(torch.get_float32_matmul_precision())
        return forward(*given)

    monkeypatch.setattr(m3h, "forward", watched)
    before = torch.get_float32_matmul_precision()
    PackTrainer(payload(cohort, precision=precision)).train(pack(("diagnosis_01",)))
    assert set(seen) == {products}
    assert torch.get_float32_matmul_precision() == before


def test_an_unknown_network_lists_the_known_ones() -> None:
    with pytest.raises(BadInput, match="expected one of flexcare, m3h, shared, got 'm4h'"):
        settings_class("m4h")


def test_sequences_and_multilabel_tasks_are_refused_with_a_way_out(cohort: Cohort) -> None:
    name = kinds(cohort)["binary"][0]
    many = dataclasses.replace(
        cohort, tasks={**cohort.tasks, name: dataclasses.replace(cohort.tasks[name], kind="multilabel")}
    )
    with pytest.raises(BadInput, match=f"task {name} is multilabel"):
        check_supported(many, "m3h", SETTINGS)


def test_patient_weights_are_drawn_by_patient_from_their_key_alone() -> None:
    patients = np.array([7, 7, 3, 9, 9, 9])
    weights = patient_weights(patients, 40, "split fold 0")
    assert (weights[0] == 1).all()
    assert (weights[:, 0] == weights[:, 1]).all()
    assert (weights[:, 3] == weights[:, 5]).all()
    assert (weights[1:, [0, 2, 3]].sum(1) == 3).all()
    assert np.array_equal(weights, patient_weights(patients, 40, "split fold 0"))
    assert not np.array_equal(weights, patient_weights(patients, 40, "split fold 1"))


def test_scaling_of_a_regression_target_uses_training_rows_alone(cohort: Cohort) -> None:
    name = kinds(cohort)["regression"][0]
    before = load_fold(cohort, 0, dtype=torch.float64, device=torch.device("cpu"), replicates=0)
    shifted = np.where(cohort.split.train(0), cohort.labels[name], cohort.labels[name] + 1000.0)
    moved = dataclasses.replace(cohort, labels={**cohort.labels, name: shifted})
    after = load_fold(moved, 0, dtype=torch.float64, device=torch.device("cpu"), replicates=0)
    row = before.supervised.index(name)
    assert torch.equal(before.train.targets[row], after.train.targets[row])
    known = before.train.labelled[row] > 0
    assert before.train.targets[row][known].mean().abs() < 1e-9
    assert before.train.targets[row][known].std(unbiased=False) == pytest.approx(1.0)


def test_calibration_predicts_more_seconds_for_more_tasks(cohort: Cohort) -> None:
    by_kind = kinds(cohort)
    supervised = tuple(sorted(name for kind, names in by_kind.items() if kind != "clustering" for name in names))
    subsets = [(name,) for name in supervised] + [supervised, tuple(sorted((*supervised, *by_kind["clustering"])))]
    model = cost.calibrate(payload(cohort), subsets, capacity=8)
    assert set(model.step_seconds) == {(1, 0), (len(supervised), 0), (len(supervised) + 1, 1)}
    low, high = model.unit_seconds(1, 0), model.unit_seconds(len(supervised), 0)
    assert 0 < min(low, high) <= model.unit_seconds(3, 0) <= max(low, high)


def test_counted_operations_grow_with_tasks_and_match_a_count_by_hand(cohort: Cohort) -> None:
    fold = load_fold(cohort, 0, dtype=torch.float32, device=torch.device("cpu"), replicates=0)
    name = kinds(cohort)["binary"][0]
    widths = [x.shape[1] for x in fold.train.inputs]
    h, rows = SETTINGS.width, SETTINGS.batch_size
    by_hand = 4 * rows * sum(widths) * 2 * h  # first layer: forward and weight gradient
    by_hand += 6 * rows * (4 * 2 * h * h + 4 * h * h + h * h + h * h + 2 * h * h)  # encoders, shared, task, key, value
    by_hand += 6 * 6 * rows * rows * h  # six modality pairs
    assert m3h.step_flops((name,), cohort.tasks, fold, SETTINGS) == by_hand
