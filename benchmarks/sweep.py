"""What a search costs beside its training, and the same sweep written with Ray Tune.

    python -m benchmarks.sweep overhead --subsets 10000 100000    # the loop, Ray and the durable ledger alone
    python -m benchmarks.sweep tune                               # SUPPORT2, 5 tasks exact: a trial a subset, and ours
    python -m benchmarks.sweep share                              # SUPPORT2, 6 tasks exact: what is not training

Prints a short table and writes JSON (`--out`). Starts Ray on this machine with two workers and ends it again. Wall
times on a busy machine say little by themselves: the load is noted at the start and the end.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import combinations, islice
from pathlib import Path
from typing import Any

import ray
import torch
from ray import tune
from rich.console import Console
from rich.table import Table

from benchmarks import solo
from model.cohorts.cohort import Cohort
from model.data.folds import load_fold
from model.networks.settings import M3HSettings
from model.sources import support2
from model.training.trainer import TrainingPayload, trainer
from tim_search import config
from tim_search.app import runner
from tim_search.config.sections import ExactDesign, ResourcesSection
from tim_search.executors.ray_executor import RayExecutor
from tim_search.ledger.ledger import Ledger
from tim_search.loop.run import run
from tim_search.loop.tally import Event
from tim_search.plans.static import StaticPlan
from tim_search.types import Context, Pack, PackResult, Resources, Score, Subset, Task, subset
from tim_search.types.columns import Subsets

WORKERS = 2
FIVE = ("avtisst", "dnr_later", "dzclass", "hospdead", "slos_log")
SIX = (*FIVE, "phenotype")


@contextmanager
def local_ray() -> Iterator[None]:
    """Ray on this machine, ended at the end; its start is in no figure."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        ray.init(address="local", num_cpus=WORKERS, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        yield
    finally:
        ray.shutdown()


# -------------------------------------------------------------------- the loop, Ray and the ledger alone


@dataclass(frozen=True)
class Instant:
    """A trainer that returns at once."""

    def with_settings(self, settings: str) -> Instant:
        """The same under all settings."""
        return self

    def train(self, pack: Pack) -> PackResult:
        """Made-up scores, one for every unit and task."""
        scores = tuple(Score(unit, name, "auroc", "validation", 0.5) for unit in pack.units for name in unit.subset)
        return PackResult(pack, scores)


def instant(payload: None) -> Instant:
    """The factory of `Instant`."""
    return Instant()


@local_ray()
def overhead(n_subsets: int) -> dict[str, Any]:
    """Subsets a second of a search whose training takes no time, from the first pack in the ledger to the last."""
    tasks = {name: Task(name, "binary") for name in (f"task_{index:02d}" for index in range(44))}
    every = (members for size in (3, 4, 5) for members in combinations(tasks, size))
    before = _resident()
    plan = StaticPlan(Subsets.of(islice(every, n_subsets), tasks))
    executor = RayExecutor(instant, None, tasks, Resources(workers=WORKERS))
    first: list[tuple[float, int, float]] = []

    def note(event: Event) -> None:
        if event.kind == "pack" and not first:
            first.append((time.perf_counter(), event.done, time.process_time()))

    with tempfile.TemporaryDirectory() as folder:
        try:
            run(plan, Ledger(folder), Context("-", "-", "-", "instant", "{}"), tasks, [(0, 0)], executor, 64, note)
        finally:
            executor.close()
        ended, cpu = time.perf_counter(), time.process_time()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        held = len(Ledger(folder).done(Context("-", "-", "-", "instant", "{}").key)) if n_subsets <= 100_000 else None
    start, done, cpu_start = first[0]
    return {
        "subsets": n_subsets,
        "held_afterwards": held,
        "subsets_a_second": (n_subsets - done) / (ended - start),
        "driver_cpu_us_a_subset": (cpu - cpu_start) / (n_subsets - done) * 1e6,
        "resident_mb_before": before,
        "peak_mb": peak,
    }


def overheads(sizes: list[int]) -> list[dict[str, Any]]:
    """`overhead` of several sizes, each in a process of its own: what one leaves behind is in no other's memory."""
    if len(sizes) == 1:
        return [overhead(sizes[0])]
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for size in sizes:
            file = Path(folder) / f"{size}.json"
            command = [sys.executable, "-m", "benchmarks.sweep", "overhead", "--subsets", str(size), "--out", str(file)]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            found += json.loads(file.read_text())["overhead"]
    return found


def _resident() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


# -------------------------------------------------------------------- the same sweep with Ray Tune


class Trial(tune.Trainable):  # type: ignore[misc]
    """One subset as a user of Ray Tune would train it: the solo loop, the fold loaded once a process."""

    def setup(self, config: dict[str, Any], cohort: Cohort | None = None, settings: M3HSettings | None = None) -> None:
        """Called once a process, with reuse; once a trial without."""
        assert cohort is not None
        assert settings is not None
        torch.set_num_threads(1)
        self._cohort, self._settings = cohort, settings
        self._fold = load_fold(cohort, 0, dtype=torch.float32, device=torch.device("cpu"), replicates=0)
        self._members: Subset = config["subset"]

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """What reuse_actors calls instead of a new process."""
        self._members = new_config["subset"]
        return True

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Tune saves a trial whose process it reuses; there is nothing worth keeping."""

    def step(self) -> dict[str, Any]:
        """Train to the end; nothing is scored, which favours this side of the comparison."""
        network = solo.train(self._members, self._cohort.tasks, self._fold, self._settings, fused_adam=True)
        with torch.no_grad():
            loss = float(network.loss(self._fold.validation))
        return {"loss": loss, "done": True}


def tuned(cohort: Cohort, settings: M3HSettings, subsets: list[Subset], *, reuse: bool) -> tuple[float, float]:
    """(wall seconds of the sweep with Ray Tune, one trial a subset; seconds before the first training began)."""
    with tempfile.TemporaryDirectory() as folder:
        trial = tune.with_parameters(Trial, cohort=cohort, settings=settings)
        tuner = tune.Tuner(
            trial,
            param_space={"subset": tune.grid_search(subsets)},
            tune_config=tune.TuneConfig(reuse_actors=reuse),
            run_config=tune.RunConfig(storage_path=folder, name="sweep", verbose=0),
        )
        started = time.time()
        grid = tuner.fit()
        seconds = time.time() - started
        if grid.num_errors or len(grid) != len(subsets):
            raise RuntimeError(f"{grid.num_errors} trials of {len(grid)} failed")
        trials = grid.get_dataframe()
    return seconds, float((trials["timestamp"] - trials["time_total_s"]).min()) - started


def ours(cohort: Cohort, settings: M3HSettings, subsets: list[Subset]) -> tuple[float, float]:
    """The same of the same sweep as a search, scores included."""
    payload = TrainingPayload(cohort, "m3h", settings)
    executor = RayExecutor(trainer, payload, cohort.tasks, Resources(workers=WORKERS))
    context = Context(cohort.fingerprint, cohort.columns_digest, cohort.split.digest, "m3h", settings.text)
    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger(folder)
        started = time.time()
        try:
            outcome = run(StaticPlan(tuple(subsets)), ledger, context, cohort.tasks, [(0, 0)], executor, 16)
        finally:
            seconds = time.time() - started
            executor.close()
        if outcome.trained != len(subsets) or outcome.failed:
            raise RuntimeError(f"{outcome.trained} units trained, {outcome.failed} failed")
        return seconds, _first_training(ledger) - started


def _first_training(ledger: Ledger) -> float:
    """When the training of the first pack that came back had begun, in seconds since 1970."""
    rows = ledger.scores(columns=("subset", "pack", "seconds", "created"))
    rows = rows[rows["created"] == rows["created"].min()]
    units = rows.assign(subset=rows["subset"].map(tuple)).drop_duplicates("subset")
    return float(units["created"].iloc[0].timestamp() - units.groupby("pack")["seconds"].sum().max())


@local_ray()
def compare(epochs: int) -> dict[str, Any]:
    """Ours and both ways of Ray Tune on equal subsets and epochs."""
    cohort = support2.load().for_tasks(FIVE)
    settings = M3HSettings(epochs=epochs, replicates=0)
    subsets = [subset(c) for size in range(1, len(FIVE) + 1) for c in combinations(FIVE, size)]
    found = {
        "this product": ours(cohort, settings, subsets),
        "Ray Tune, reuse_actors=True": tuned(cohort, settings, subsets, reuse=True),
        "Ray Tune, default settings": tuned(cohort, settings, subsets, reuse=False),
    }
    return {
        "subsets": len(subsets),
        "epochs": epochs,
        "seconds": {name: seconds for name, (seconds, _) in found.items()},
        "startup_seconds": {name: startup for name, (_, startup) in found.items()},
    }


# -------------------------------------------------------------------- what is not training


@local_ray()
def share(epochs: int) -> dict[str, Any]:
    """A whole search: what of its workers' wall time, from their first training to the report, is not training."""
    events: list[tuple[float, str]] = []
    with tempfile.TemporaryDirectory() as folder:
        file = config.SearchFile(
            cohort="support2",
            tasks=SIX,
            design=ExactDesign(),
            training={"epochs": epochs},
            resources=ResourcesSection(workers=WORKERS),
        )
        found = config.resolve(file, folder)
        finished = runner.run_search(found, None, lambda event: events.append((time.time(), event.kind)))
        ended = time.time()
        rows = finished.results.ledger.scores(columns=("subset", "pack", "seconds"))
        units = rows.assign(subset=rows["subset"].map(tuple)).drop_duplicates("subset")
        packs = units.groupby("pack")["seconds"].sum()
        start = _first_training(finished.results.ledger)
    done = next(at for at, kind in events if kind == "done")
    trained = float(packs.sum()) / WORKERS
    return {
        "units": len(units),
        "packs": len(packs),
        "epochs": epochs,
        "wall_seconds": ended - start,
        "training_seconds_a_worker": trained,
        "loop_seconds": done - start - trained,
        "report_seconds": ended - done,
        "not_training": 1 - trained / (ended - start),
        "not_training_but_for_the_report": 1 - trained / (done - start),
    }


# -------------------------------------------------------------------- showing


def show(result: dict[str, Any]) -> None:
    """Print the short tables."""
    console = Console(width=110)
    if rows := result.get("overhead"):
        table = Table("subsets", "subsets/s", "driver CPU us/subset", "memory before, MB", "peak, MB")
        for row in rows:
            values = (row["subsets_a_second"], row["driver_cpu_us_a_subset"], row["resident_mb_before"], row["peak_mb"])
            table.add_row(f"{row['subsets']:,}", *(f"{value:,.0f}" for value in values))
        console.print(table)
    if found := result.get("tune"):
        head = f"{found['subsets']} subsets, {found['epochs']} epochs"
        table = Table(head, "seconds", "ratio", "start-up", "seconds after it", "ratio")
        whole, startup = found["seconds"], found["startup_seconds"]
        after = {name: whole[name] - startup[name] for name in whole}
        ours_whole, ours_after = next(iter(whole.values())), next(iter(after.values()))
        for name in whole:
            ratios = f"{whole[name] / ours_whole:.1f}", f"{after[name] / ours_after:.1f}"
            table.add_row(
                name, f"{whole[name]:.1f}", ratios[0], f"{startup[name]:.1f}", f"{after[name]:.1f}", ratios[1]
            )
        console.print(table)
    if found := result.get("share"):
        table = Table(f"{found['units']} units, {found['packs']} packs, {found['epochs']} epochs", "seconds", "share")
        wall = found["wall_seconds"]
        for name in ("training_seconds_a_worker", "loop_seconds", "report_seconds", "wall_seconds"):
            table.add_row(name.replace("_", " "), f"{found[name]:.1f}", f"{found[name] / wall:.1%}")
        console.print(table)
    console.print(f"load of the machine at the start and the end: {result['load']}, {os.cpu_count()} cores")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", help="overhead, tune, share; default: all")
    parser.add_argument("--subsets", type=int, nargs="+", default=[10_000, 100_000], help="of the overhead's searches")
    parser.add_argument("--epochs", type=int, default=None, help="default: 3 of the comparison, 15 of the share")
    parser.add_argument("--out", type=Path, help="write the figures as JSON to this file")
    options = parser.parse_args()
    actions: dict[str, Callable[[], Any]] = {
        "overhead": lambda: overheads(options.subsets),
        "tune": lambda: compare(options.epochs or 3),
        "share": lambda: share(options.epochs or 15),
    }
    if unknown := set(options.parts) - set(actions):
        parser.error(f"expected overhead, tune or share, got {', '.join(sorted(unknown))}")
    result: dict[str, Any] = {"time": time.ctime(), "torch": torch.__version__, "ray": ray.__version__}
    load = [os.getloadavg()[0]]
    for name in options.parts or actions:
        result[name] = actions[name]()
    result["load"] = [round(one, 1) for one in (*load, os.getloadavg()[0])]
    show(result)
    if options.out:
        options.out.write_text(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
