"""How often the verdict "has the network learnt" is right, on cohorts whose truth is known.

    OMP_NUM_THREADS=1 python -m benchmarks.verdicts [--cohorts 20]

Three situations: nothing to learn (labels are coin tosses), learnable with the settings that are chosen by default, and
learnable with far too few updates (two epochs of 256 rows). Each cohort has four tasks, trained alone in two blocks.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import Counter
from typing import Any

import numpy as np
import torch

from model.cohorts.cohort import Cohort, Modality, make_cohort
from model.networks.length import automatic
from model.networks.settings import M3HSettings
from model.training.trainer import TrainingPayload, trainer
from tim_search.executors.contract import WithSettings
from tim_search.executors.serial import SerialExecutor
from tim_search.ledger.ledger import Ledger
from tim_search.ledger.table import lay_out
from tim_search.loop.run import run
from tim_search.plans.static import StaticPlan
from tim_search.results.learnt import learnt
from tim_search.types import Context, Task
from tim_search.types.references import REFERENCES, context_of, folds_of, settings_of, tasks_of

BLOCKS = ((0, 0), (1, 1))
PATIENTS, INPUTS = 1500, 20
EXPECTED = {"nothing to learn": "cannot be told", "default settings": "learnt", "too few updates": "has not learnt"}


def cohort(seed: int, signal: float) -> Cohort:
    """1,500 patients, two modalities of 20 inputs, three binary tasks and a regression, each of five inputs."""
    dice = np.random.default_rng(seed)
    inputs = dice.normal(size=(PATIENTS, 2 * INPUTS))
    labels: dict[str, Any] = {}
    tasks: list[Task] = []
    for number in range(4):
        weights = np.zeros(2 * INPUTS)
        weights[dice.choice(2 * INPUTS, 5, replace=False)] = dice.choice([-1, 1], 5) * signal
        name, kind = f"task_{number}", "regression" if number == 3 else "binary"
        logit = inputs @ weights
        noisy = logit + dice.normal(size=PATIENTS)
        labels[name] = noisy if kind == "regression" else (dice.random(PATIENTS) < 1 / (1 + np.exp(1 - logit))) * 1.0
        tasks.append(Task(name, kind))  # type: ignore[arg-type]
    every = np.ones(PATIENTS, bool)
    modalities = [
        Modality(name, "vector", tuple(f"{name}{i}" for i in range(INPUTS)), part.astype(np.float32), {}, every)
        for name, part in zip("vl", (inputs[:, :INPUTS], inputs[:, INPUTS:]), strict=True)
    ]
    return make_cohort(f"made-{seed}", range(PATIENTS), range(PATIENTS), modalities, tasks, labels)


def verdicts(subject: Cohort, settings: M3HSettings) -> list[tuple[str, str]]:
    """(kind, verdict) of each task."""
    context = Context(subject.fingerprint, subject.columns_digest, subject.split.digest, "m3h", settings.text)
    tasks = subject.tasks
    executor: Any = SerialExecutor(trainer, TrainingPayload(subject, "m3h", settings), tasks)
    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger(folder)
        run(StaticPlan([(name,) for name in tasks]), ledger, context, tasks, BLOCKS, executor, 8)
        for reference in REFERENCES:
            if names := tasks_of(reference, tasks):
                plan, own = (
                    StaticPlan([(name,) for name in names]),
                    WithSettings(executor, settings_of(reference, context)),
                )
                run(plan, ledger, context_of(reference, context), tasks, folds_of(BLOCKS), own, 8)
        table = lay_out(ledger.sheet(context.key, replicates=True), tuple(tasks), BLOCKS)
        answers = learnt(table, ledger, context, tasks).values()
        return [(tasks[answer.task].kind, answer.verdict) for answer in answers]


def main() -> None:
    """Print a line a situation: how often each verdict was given."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cohorts", type=int, default=20)
    cohorts = parser.parse_args().cohorts
    torch.set_num_threads(1)
    rows = round(PATIENTS * 0.8 * 0.8)
    numbers: dict[str, Any] = dict(automatic(M3HSettings, rows))
    by_default = M3HSettings(**numbers)
    for situation, expected in EXPECTED.items():
        settings = M3HSettings(batch_size=256, epochs=2) if situation == "too few updates" else by_default
        signal = 0.0 if situation == "nothing to learn" else 0.7
        given = Counter(answer for seed in range(cohorts) for answer in verdicts(cohort(seed, signal), settings))
        for kind in ("binary", "regression"):
            counts = {verdict: number for (of, verdict), number in given.items() if of == kind}
            right = counts.get(expected, 0) / sum(counts.values())
            row = {"situation": situation, "kind": kind, "expected": expected, **counts, "right": round(right, 3)}
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
