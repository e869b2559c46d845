"""The negative control: a copy of one task whose labels are permuted, so that nothing can be learnt for or from it.

Trained along like any task, its column of the TIM matrix is an empirical null: what a task without any signal seems to
do to the others. Torch is not needed here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from model.cohorts.cohort import Cohort
from tim_search.types import BadInput, Task
from tim_search.types.control import SUFFIX, fingerprint


def control_of(tasks: Mapping[str, Task]) -> str | None:
    """The task to copy: the first binary one, else the first that has labels; None where all are clustering tasks."""
    labelled = [task for task in tasks.values() if task.kind != "clustering"]
    binary = [task for task in labelled if task.kind == "binary"]
    return next((task.name for task in (*binary, *labelled)), None)


def with_control(cohort: Cohort, task: str) -> Cohort:
    """The cohort with a further task, `task` + "_permuted", last.

    Its labels are those of `task`, permuted over the samples that have one, separately within each validation fold and
    within the test part: so each training part, which is made of whole folds, keeps its labels too, and no label moves
    between training and evaluation. How often each label occurs stays as it is everywhere. The permutation is a
    function of the cohort's content, its split and the task.

    The copy excludes the columns that `task` excludes, so the inputs stay the same. The fingerprint is a new one:
    scores with and without a control belong to different contexts, since a subset with the control is no other
    search's.

    Raises:
        BadInput: the cohort has no such task, it has no labels, or the control's name is taken.
    """
    if task not in cohort.tasks or task not in cohort.labels:
        raise BadInput(
            f"control: expected a task with labels of the cohort {cohort.name}, got {task!r}. Take one of: "
            f"{', '.join(cohort.labels)}."
        )
    name = task + SUFFIX
    if name in cohort.tasks:
        raise BadInput(
            f"control: the cohort {cohort.name} has a task {name} already. Rename it, or write `control: false` in the "
            "design of the search."
        )
    key = fingerprint(cohort.fingerprint, cohort.split.digest, task)
    rng = np.random.default_rng(int(key, 16))
    given = np.asarray(cohort.labels[task], np.float64)
    labels = given.copy()
    labelled = ~np.isnan(given).reshape(len(given), -1).all(axis=1)
    for fold in range(-1, cohort.split.n_folds):
        rows = np.flatnonzero(labelled & (cohort.split.fold == fold))
        labels[rows] = given[rng.permutation(rows)]
    return replace(
        cohort,
        tasks={**cohort.tasks, name: replace(cohort.tasks[task], name=name, department="")},
        labels={**cohort.labels, name: labels},
        classes={**cohort.classes, **({name: cohort.classes[task]} if task in cohort.classes else {})},
        fingerprint=key,
    )
