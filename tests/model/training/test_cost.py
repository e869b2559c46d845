"""The memory of a pack: counted against what is allocated, and what follows for its size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from model.cohorts.cohort import Cohort
from model.data.folds import Fold, load_fold
from model.networks import m3h
from model.networks.contract import Shape
from model.networks.settings import M3HSettings
from model.sources.synthetic import haim_like
from model.training import cost
from model.training.fitting import fit_pack
from model.training.pack import Fitted
from model.training.scores import score_pack
from tim_search.types import Pack, Subset, Unit, subset

SETTINGS = M3HSettings(width=16, epochs=1, batch_size=128, replicates=0)


@pytest.fixture(scope="module")
def cohort() -> Cohort:
    return haim_like(900, 400, widths=(6, 30, 120, 120), n_binary=3, seed=1)[0]


def peak_bytes(action: Callable[[], object]) -> int:
    """Most bytes of tensors that an action held at once, from torch's record of every allocation."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as record:
        action()
    events = [event for event in record.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = np.cumsum([event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())])
    return int(held.max())


def measured(cohort: Cohort, fold: Fold, members: Subset, n_members: int, settings: M3HSettings = SETTINGS) -> int:
    pack = Pack(tuple(Unit(members, 0, 0) for _ in range(n_members)))
    found: list[Fitted] = []
    short = replace(fold, train=fold.train.take(torch.arange(SETTINGS.batch_size)))
    training = peak_bytes(lambda: found.append(fit_pack(pack, cohort.tasks, short, settings, m3h)))
    parameters = sum(value.numel() * value.element_size() for value in found[0].values.values())
    scoring = peak_bytes(lambda: score_pack(pack, found[0], cohort.tasks, fold))
    return max(training, parameters + scoring)


@pytest.mark.parametrize(
    ("names", "average"),
    [
        (("diagnosis_01",), 0),
        (("diagnosis_01",), 2),
        (("diagnosis_01", "pathology", "stay"), 0),
        pytest.param(("phenotype", "stay"), 0, marks=pytest.mark.slow),
    ],
)
def test_counted_bytes_are_those_allocated(cohort: Cohort, names: tuple[str, ...], average: int) -> None:
    settings = replace(SETTINGS, epochs=1 + average // 2, average=average)
    fold = load_fold(cohort, 0, dtype=torch.float32, device=torch.device("cpu"), replicates=0)
    members = subset(names)
    few, many = (measured(cohort, fold, members, n_members, settings) for n_members in (4, 20))
    shape = Shape(
        len(members),
        int("phenotype" in names),
        8 if "pathology" in names else 1,
        tuple(tuple(x.shape[1:]) for x in fold.train.inputs),
        (len(fold.train), len(fold.validation)),
    )
    counted = m3h.member_bytes(shape, settings)
    assert 1 / 1.5 < counted / ((many - few) / 16) < 1.5


def test_capacity_follows_the_memory(cohort: Cohort, monkeypatch: pytest.MonkeyPatch) -> None:
    def found(free: float, largest: int = 6, workers: int = 1, **settings: object) -> int:
        monkeypatch.setattr(cost, "_free_memory", lambda: free)
        return cost.capacity(cohort, "m3h", largest, replace(SETTINGS, **settings), gpus=0, workers=workers)  # type: ignore[arg-type]

    plenty = 1e12
    assert found(plenty) == cost.LARGEST_PACK["cpu"] == 16
    assert found(0.0) == 1
    tight = next(2.0**power for power in range(20, 40) if found(2.0**power) > 4)
    assert 1 <= found(tight, workers=2) < found(tight)
    assert found(tight, width=64) < found(tight)
    assert found(tight, precision="float64") < found(tight)
    assert found(tight, largest=1) > found(tight)


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks what happens where no GPU can be asked")
def test_capacity_of_gpu_workers_elsewhere_is_that_of_a_gpu_of_16_gb(
    cohort: Cohort, monkeypatch: pytest.MonkeyPatch
) -> None:
    def found(gpus: float) -> int:
        return cost.capacity(cohort, "m3h", 3, SETTINGS, gpus=gpus, workers=1)

    assert found(1) == cost.LARGEST_PACK["gpu"], "members this small all fit"
    monkeypatch.setattr(cost, "_UNKNOWN_GPU", cost._UNKNOWN_GPU / 1024)
    few = found(1)
    assert 2 < few < cost.LARGEST_PACK["gpu"]
    assert found(0.5) == few // 2


def test_free_memory_is_a_number_of_bytes() -> None:
    assert 2**26 < cost._free_memory() < 2**50
