"""The negative control: same labels in the same places of the split, at random among the samples."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from model.cohorts.control import control_of, with_control
from model.sources import support2
from tim_search.types import BadInput, Task

TASKS = ("dzclass", "hospdead", "slos_log", "phenotype", "disability")


@pytest.fixture(scope="module")
def cohort():  # type: ignore[no-untyped-def]
    return support2.load().for_tasks(TASKS)


@pytest.mark.parametrize("task", ["hospdead", "dzclass", "slos_log", "disability"])
def test_labels_are_permuted_within_each_part(cohort, task: str) -> None:  # type: ignore[no-untyped-def]
    made = with_control(cohort, task)
    name = f"{task}_permuted"
    old, new = made.labels[task], made.labels[name]
    np.testing.assert_array_equal(old, cohort.labels[task])
    for fold in range(-1, cohort.split.n_folds):
        rows = cohort.split.fold == fold
        np.testing.assert_array_equal(np.isnan(old[rows]), np.isnan(new[rows]), "missing labels stay missing")
        np.testing.assert_array_equal(np.sort(old[rows]), np.sort(new[rows]))
        known = rows & ~np.isnan(old)
        assert abs(np.corrcoef(old[known], new[known])[0, 1]) < 4 / np.sqrt(known.sum())
    assert list(made.tasks)[-1] == name
    assert made.tasks[name] == replace(made.tasks[task], name=name, department="")
    assert made.classes.get(name) == cohort.classes.get(task)
    assert made.for_tasks([*TASKS, name]).columns_digest == cohort.columns_digest


def test_it_depends_on_the_content_alone_and_makes_a_context_of_its_own(cohort) -> None:  # type: ignore[no-untyped-def]
    one, again = with_control(cohort, "hospdead"), with_control(support2.load().for_tasks(TASKS), "hospdead")
    np.testing.assert_array_equal(one.labels["hospdead_permuted"], again.labels["hospdead_permuted"])
    assert one.fingerprint == again.fingerprint != cohort.fingerprint
    assert len(one.fingerprint) == 16
    other = with_control(replace(cohort, fingerprint="0" * 16), "hospdead")
    assert not np.array_equal(one.labels["hospdead_permuted"], other.labels["hospdead_permuted"])


def test_which_task_is_copied() -> None:
    def named(**kinds: str) -> dict[str, Task]:
        return {name: Task(name, kind) for name, kind in kinds.items()}  # type: ignore[arg-type]

    assert control_of(named(a="clustering", b="regression", c="binary", d="binary")) == "c"
    assert control_of(named(a="clustering", b="regression", c="multiclass")) == "b"
    assert control_of(named(a="clustering")) is None


def test_what_cannot_be_copied(cohort) -> None:  # type: ignore[no-untyped-def]
    for task in ("phenotype", "nobody"):
        with pytest.raises(BadInput, match="expected a task with labels"):
            with_control(cohort, task)
    with pytest.raises(BadInput, match=r"has a task hospdead_permuted already.*control: false"):
        with_control(with_control(cohort, "hospdead"), "hospdead")
