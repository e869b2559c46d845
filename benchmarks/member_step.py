"""SUPPORT2 on the cores of a CPU: what a step of one subset of three tasks takes, solo and in a pack.

The floor is textbook operations at the rate of a 2048 x 2048 product with all cores. Rounds are interleaved, so that a
drift of the machine meets all alike. Scores are compared by two processes of one thread each.
"""

from __future__ import annotations

import multiprocessing
import resource
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations
from typing import Any

import torch

from benchmarks import rates, solo
from benchmarks.differences import Scores, packed, scores_of, spread
from benchmarks.rates import timed
from benchmarks.sections import Sections, Skip, cores
from model.data.folds import Fold, load_fold
from model.networks import m3h
from model.networks.m3h import step_flops
from model.networks.settings import M3HSettings
from model.sources import support2
from model.training.fitting import fit_pack, schedule_of
from model.training.precision import DTYPES
from tim_search.types import Pack, Subset, Unit, subset

DEMO = ("avtisst", "dnr_later", "dzclass", "hospdead", "phenotype", "slos_log")
MEMBERS = 16
_CPU = torch.device("cpu")
_PATIENCE = 300.0  # seconds that the workers wait for one another

_worker: dict[str, Any] = {}


def load(precision: str = "float32") -> tuple[Any, Fold]:
    """(tasks, fold) of the six tasks, on a CPU."""
    cohort = support2.load().for_tasks(DEMO)
    return cohort.tasks, load_fold(cohort, 0, dtype=DTYPES[precision], device=_CPU, replicates=0)


def _worker_start(barrier: Any) -> None:
    torch.set_num_threads(1)
    _worker["barrier"] = barrier
    _worker["tasks"], _worker["fold"] = load()


def _worker_fit(pack: Pack, settings: M3HSettings) -> float:
    """Seconds of a pack, begun when the other worker is ready too."""
    if "warm" not in _worker:
        fit_pack(pack, _worker["tasks"], _worker["fold"], replace(settings, epochs=1), m3h)
        _worker["warm"] = True
    _worker["barrier"].wait(_PATIENCE)
    started = time.perf_counter()
    fit_pack(pack, _worker["tasks"], _worker["fold"], settings, m3h)
    return time.perf_counter() - started


@dataclass(frozen=True)
class _Run:
    """Subsets trained in one way, for their scores."""

    subsets: list[Subset]
    settings: M3HSettings
    capacity: int = MEMBERS
    seed: int = 0
    backwards: bool = False
    threads: int = 1


def _worker_scores(run: _Run) -> Scores:
    torch.set_num_threads(run.threads)
    tasks, fold = load(run.settings.precision)
    together = packed(run.subsets, tasks, run.capacity, run.seed)
    return scores_of(together, tasks, fold, run.settings, backwards=run.backwards)


def _workers(barrier: Any, count: int = 2) -> ProcessPoolExecutor:
    context = multiprocessing.get_context("spawn")  # forked processes hang in torch's thread pools
    return ProcessPoolExecutor(count, context, _worker_start, (barrier,))


class MemberStep:
    """The sections; `run` goes through them."""

    def __init__(self, sections: Sections, *, quick: bool) -> None:
        self._sections, self._quick = sections, quick
        self._tasks, self._fold = load()
        self._settings = M3HSettings(epochs=1, replicates=0)
        self._full = replace(self._settings, epochs=3 if quick else 15)
        by_three = [subset(names) for names in combinations(DEMO, 3)]
        self._plain = [members for members in by_three if "phenotype" not in members]
        self._alone: Scores = {}
        self._mixed = [members for members in by_three if "phenotype" in members]
        every = sorted({1, cores()})
        self._rows = {
            **{f"solo eager, {n} thread(s)": (n, False) for n in every},
            **{f"solo eager, fused Adam, {n} thread(s)": (n, True) for n in every},
        }
        self._packs = {f"fused, pack of {MEMBERS}, {n} thread(s)": n for n in every}
        self._two = f"fused, pack of {MEMBERS}, 2 workers of 1 thread"
        sections.about |= {
            "description": f"SUPPORT2: subsets of 3 of 6 tasks, {len(self._fold.train)} rows, batch 256, width 64",
            "unit": "ms a member-step",
            "extrapolated": "nothing",
        }

    def run(self) -> None:
        self._sections.run("speed", self._speed, (*self._rows, *self._packs, self._two, "floor"), fused=True)
        self._sections.run("scores", self._scores)
        self._sections.run("scores, threads", self._threads)

    def _speed(self) -> dict[str, Any]:
        """Time a member-step in every way, round by round."""
        pack = Pack(tuple(Unit(members, 0, 0) for members in (self._plain * 2)[:MEMBERS]))
        count = int(schedule_of(m3h, self._settings).steps(self._fold, self._tasks, self._settings))
        times: dict[str, list[float]] = {name: [] for name in (*self._rows, *self._packs, self._two)}
        products: list[float] = []
        before = torch.get_num_threads()
        fit = partial(fit_pack, pack, self._tasks, self._fold, self._settings, m3h)
        with _workers(multiprocessing.get_context("spawn").Barrier(2)) as workers:
            for _ in range(3 if self._quick else 7):
                for name, (threads, fused_adam) in self._rows.items():
                    torch.set_num_threads(threads)
                    alone = partial(
                        solo.train, self._plain[0], self._tasks, self._fold, self._settings, fused_adam=fused_adam
                    )
                    times[name].append(timed(alone, _CPU)[0] / count)
                for name, threads in self._packs.items():
                    torch.set_num_threads(threads)
                    times[name].append(timed(fit, _CPU)[0] / count / MEMBERS)
                products.append(rates.product_rate(_CPU))
                both = [workers.submit(_worker_fit, pack, self._settings) for _ in range(2)]
                times[self._two].append(max(one.result() for one in both) / count / MEMBERS / 2)
        torch.set_num_threads(before)
        flops = step_flops(self._plain[0], self._tasks, self._fold, self._settings)
        floor = flops / statistics.median(products) * 1e3
        base = f"solo eager, {cores()} thread(s)"  # the plain loop with all cores: what a user would run
        medians = {name: statistics.median(values) * 1e3 for name, values in times.items()}
        for name, time_taken in {**medians, "floor": floor}.items():
            self._sections.add(name, time_taken, base=base, floor=floor)
        return {
            "mflop_member_step": flops / 1e6,
            "gflops": statistics.median(products) / 1e9,
            "floor_ms": floor,
            "ms_range": {name: [min(values) * 1e3, max(values) * 1e3] for name, values in times.items()},
            "peak": {"this process": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024},
        }

    def _scores(self) -> dict[str, Any]:
        """Differences of scores between ways to train; two processes share the runs."""
        half = 4 if self._quick else 10
        chosen, few = self._plain[:half] + self._mixed[:half], self._plain[:4]
        settings = self._full
        exact = replace(settings, precision="float64")
        runs = {
            "alone": _Run(chosen, settings, capacity=1),
            "seed": _Run(chosen, settings, seed=1),
            "turned": _Run(chosen, settings, backwards=True),
            "fused": _Run(chosen, settings),
            "alone, float64": _Run(few, exact, capacity=1),
            "fused, float64": _Run(few, exact),
        }
        with _workers(None) as workers:
            found = dict(zip(runs, workers.map(_worker_scores, runs.values()), strict=True))
        self._alone = {key: value for key, value in found["alone"].items() if key[0] in few}
        return {
            "differences": {
                "float32, fused against solo": spread(found["fused"], found["alone"]),
                "float32, fused, rows of every minibatch in reverse order": spread(found["fused"], found["turned"]),
                "float32, fused, seed 0 against seed 1": spread(found["fused"], found["seed"]),
                f"float64, fused against solo ({len(few)} subsets)": spread(
                    found["fused, float64"], found["alone, float64"]
                ),
            },
            "subsets": len(chosen),
            "epochs": settings.epochs,
        }

    def _threads(self) -> dict[str, Any]:
        """A product may sum up in another order with more threads."""
        if not self._alone or cores() == 1:
            raise Skip("there is one core" if self._alone else "it needs the section 'scores'")
        few = sorted({members for members, _ in self._alone})
        before = torch.get_num_threads()
        threaded = _worker_scores(_Run(few, self._full, capacity=1, threads=cores()))
        torch.set_num_threads(before)
        what = f"float32, solo, 1 against {cores()} threads ({len(few)} subsets)"
        return {"differences": {what: spread(self._alone, threaded)}, "subsets": len(few)}
