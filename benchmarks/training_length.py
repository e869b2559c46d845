"""How many updates a training should make: single tasks of subsampled cohorts, beside a linear model.

    OMP_NUM_THREADS=1 python -m benchmarks.training_length [--cohort support2|FOLDER] [--patients 500 1000 ...]

For each size a random part of the patients is taken; the network is trained on each task alone with its own epochs and
smaller and smaller minibatches, then with more epochs, then as `automatic` chooses, with other contrastive weights
beside it, in three blocks. The rule of `automatic` and the figures of docs/networks.md rest on it.
"""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from model.cohorts.cohort import Cohort, make_cohort
from model.networks.length import automatic, updates
from model.networks.settings import settings_class
from model.sources.opening import open_cohort
from model.training.trainer import PackTrainer, TrainingPayload
from tim_search.types import Pack, Unit, canonical

FOLDS = (0, 1, 2)


def part_of(cohort: Cohort, patients: int, seed: int = 0) -> Cohort:
    """A cohort of a random part of the patients, with a split of its own."""
    chosen = np.random.default_rng(seed).permutation(np.unique(cohort.patients))[:patients]
    rows = np.flatnonzero(np.isin(cohort.patients, chosen))
    return make_cohort(
        f"{cohort.name}-{patients}",
        cohort.sample_ids[rows],
        cohort.patients[rows],
        [replace(m, values=m.values[rows], present=m.present[rows]) for m in cohort.modalities.values()],
        cohort.tasks.values(),
        {name: labels[rows] for name, labels in cohort.labels.items()},
        classes=cohort.classes,
    )


def lengths(settings: type[Any], rows: int) -> list[dict[str, Any]]:
    """What is compared: the network's own setting, smaller minibatches, more epochs, and what `automatic` chooses."""
    batch, epochs = settings().batch_size, settings().epochs
    batches = [batch >> power for power in range(5) if batch >> power >= 16]
    compared = [{"batch_size": size, "epochs": epochs} for size in batches if size <= max(32, rows)]
    compared += [{"batch_size": 32, "epochs": times * epochs} for times in (2, 6)]
    chosen = automatic(settings, rows)
    weights = [{**chosen, "contrastive_weight": weight} for weight in (0.0, 1.0) if "contrastive_weight" in chosen]
    return [*compared, chosen, *(other for other in weights if other != chosen)]


def mean_score(cohort: Cohort, names: list[str], network: str, settings: dict[str, Any]) -> float:
    """Mean over supervised tasks and folds of the metric of each task alone; NaN where a training failed."""
    values = settings_class(network)(replicates=0)
    trainer: Any = PackTrainer(TrainingPayload(cohort, network, values))
    trainer = trainer.with_settings(canonical({"replicates": 0, **settings}))
    packs = [Pack(tuple(Unit((name,), fold, fold) for name in names)) for fold in FOLDS]
    scores = [score.value for pack in packs for score in trainer.train(pack).scores if score.primary]
    return float(np.mean(scores))


def main() -> None:
    """Print a row a size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cohort", default="support2")
    parser.add_argument("--network", default="m3h")
    parser.add_argument("--patients", type=int, nargs="+", default=[500, 1000, 2000, 4000])
    parser.add_argument("--tasks", nargs="+", default=["hospdead", "dead_180d", "dnr_later", "disability", "slos_log"])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    settings = settings_class(arguments.network)
    whole = open_cohort(arguments.cohort).for_tasks(arguments.tasks)
    for patients in arguments.patients:
        cohort = part_of(whole, patients)
        rows = round(float((~cohort.split.test).sum()) * (1 - 1 / cohort.split.n_folds))
        linear = mean_score(cohort, arguments.tasks, arguments.network, {"reference": "linear"})
        print(json.dumps({"patients": patients, "training_rows": rows, "linear": round(linear, 3)}), flush=True)
        for length in lengths(settings, rows):
            row = {**length, "updates": updates(rows, length["batch_size"], length["epochs"])}
            score = mean_score(cohort, arguments.tasks, arguments.network, length)
            chosen = length == automatic(settings, rows)
            print(json.dumps({**row, "score": round(score, 3), "automatic": chosen}), flush=True)
        assert math.isfinite(linear)


if __name__ == "__main__":
    main()
