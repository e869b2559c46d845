"""Whole searches on real Ray that something happens to: the scores are those of an undisturbed search, every time.

Several raylets on this machine stand for machines. How many units were trained twice is counted and bounded.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.support import ROOT, fake_trainer
from tests.support.fake_trainer import CONTEXT, TASKS, Behaviour, value
from tim_search.executors.serial import SerialExecutor
from tim_search.ledger.ledger import Ledger
from tim_search.loop import run as search
from tim_search.plans.static import StaticPlan
from tim_search.types import Context, Pack, PackResult, Trainer, Unit

SUBSETS = tuple(members for size in (1, 2, 3) for members in combinations("abcdef", size))
UNITS = {Unit(members, 0, 0) for members in SUBSETS}

DRIVER = """
import sys
sys.path.insert(0, {tests!r})
from tests.support import fake_trainer
from tests.support.fake_trainer import Behaviour, CONTEXT, TASKS
from tests.executors.test_faults import SUBSETS
from tim_search.executors import ray_nodes
from tim_search.loop import run as search
from tim_search.plans import static
from tim_search.executors.serial import SerialExecutor
from tim_search.ledger import Ledger
from tim_search.executors.ray_executor import RayExecutor
from tim_search.types import Resources, TimSearchError
ray_nodes._GONE = 8.0
behaviour = Behaviour(**{behaviour!r})
address = {address!r}
if address:
    executor = RayExecutor(fake_trainer.trainer, behaviour, TASKS, Resources(), address)
else:
    executor = SerialExecutor(fake_trainer.trainer, behaviour, TASKS)
try:
    search.run(static.StaticPlan(SUBSETS), Ledger({place!r}), CONTEXT, TASKS, ((0, 0),), executor, 4,
               lambda event: print(event.kind, event.done, flush=True))
except TimSearchError as error:
    print(type(error).__name__, error, flush=True)
    sys.exit(error.exit_code)
finally:
    executor.close()
"""


def start(ledger: Ledger, address: str = "", **behaviour: Any) -> subprocess.Popen[str]:
    tests = str(ROOT)
    code = DRIVER.format(tests=tests, behaviour=behaviour, address=address, place=ledger.place)
    return subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": tests},
    )


def wait_for(driver: subprocess.Popen[str], units: int) -> None:
    assert driver.stdout is not None
    for line in driver.stdout:
        kind, done = line.split(maxsplit=1)
        if kind == "pack" and int(done) >= units:
            return
    raise AssertionError(driver.stderr.read() if driver.stderr else "")


def finish(ledger: Ledger, log: str, bound: int) -> None:
    """Go on to the end; the ledger then holds what an undisturbed search leaves, and few units were trained twice."""
    executor = SerialExecutor(fake_trainer.trainer, Behaviour(log=log), TASKS)
    outcome = search.run(StaticPlan(SUBSETS), ledger, CONTEXT, TASKS, ((0, 0),), executor, 4)
    assert outcome.reused + outcome.trained == len(UNITS)
    frame = ledger.scores(CONTEXT.key)
    found = {(Unit(tuple(row.subset), row.seed, row.fold), row.task): row.score for row in frame.itertuples()}
    assert len(found) == len(frame)
    assert found == {(unit, task): value(unit, task) for unit in UNITS for task in unit.subset}
    assert ledger.check() == []
    twice = sum(fake_trainer.begun(log).values()) - len(UNITS)
    assert twice <= bound, f"{twice} units were trained twice"


@pytest.fixture
def log(tmp_path: Path) -> str:
    return str(tmp_path / "log")


@pytest.fixture
def cluster() -> Iterator[Any]:
    """A head without CPUs and one machine with two."""
    import ray
    from ray.cluster_utils import Cluster

    ray.shutdown()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)
        made = Cluster()
        made.add_node(num_cpus=0, include_dashboard=False)
        made.add_node(num_cpus=2)
        yield made
        made.shutdown()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("process", "reason"),
    [("gcs_server", "its head has not answered for"), ("raylet", "Ray's daemon on this machine has ended")],
)
def test_a_cluster_that_is_lost_ends_the_driver_with_a_clear_message(
    cluster: Any, tmp_path: Path, log: str, process: str, reason: str
) -> None:
    ledger = Ledger(tmp_path / "ledger")
    driver = start(ledger, cluster.address, log=log, seconds=4.0)
    wait_for(driver, 4)
    for each in cluster.head_node.all_processes[process]:
        each.process.kill()
    out, errors = driver.communicate(timeout=100)
    assert driver.returncode == 1, errors
    assert f"ClusterLost The Ray cluster at {cluster.address} is lost: {reason}" in out
    assert "run the same command again" in out
    assert "Traceback" not in errors
    # Two workers, two packs of four each; the workers outlive their driver for some seconds.
    time.sleep(6)
    finish(ledger, log, bound=2 * 2 * 4 + 2 * 4)


@pytest.mark.slow
def test_a_head_that_comes_back_empty_costs_the_driver_and_no_score(cluster: Any, tmp_path: Path, log: str) -> None:
    """A head without a store knows nobody when it restarts: Ray ends the driver, and the same command goes on."""
    ledger = Ledger(tmp_path / "ledger")
    driver = start(ledger, cluster.address, log=log, seconds=4.0)
    wait_for(driver, 4)
    cluster.head_node.kill_gcs_server()
    time.sleep(2)
    cluster.head_node.start_gcs_server()
    out, errors = driver.communicate(timeout=150)
    assert driver.returncode != 0
    # Ray's own check ends the process before Python hears of it, unless the loss was noticed earlier; then another
    # process speaks.
    told = errors if "accessing GCS after it has restarted" in errors else out
    assert "un the same command again" in told, errors[-3000:]
    time.sleep(6)
    finish(ledger, log, bound=2 * 2 * 4 + 2 * 4)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["folder", "object store"])
def test_twenty_kills_at_random_moments(kind: str, tmp_path: Path, log: str, request: pytest.FixtureRequest) -> None:
    place = str(tmp_path / "ledger") if kind == "folder" else f"{request.getfixturevalue('bucket')}/ledger"
    ledger = Ledger(place)
    choose = random.Random(11)
    n_kills = 20 if kind == "folder" else 5
    for _ in range(n_kills):
        driver = start(ledger, log=log, seconds=0.02)
        assert driver.stdout is not None
        for _ in range(choose.randrange(4)):
            if not driver.stdout.readline():
                break
        time.sleep(choose.random() * 0.03)
        driver.send_signal(signal.SIGKILL)
        driver.communicate()
    finish(ledger, log, bound=4 * n_kills)


# -------------------------------------------------------------------- with the real network


@dataclass(frozen=True)
class Doomed:
    """A payload of M3H, and the file that the one worker makes which is to die in its second pack."""

    inner: Any
    marker: str


class Mortal:
    """The trainer of M3H; in one pack of one worker its process is killed while it trains."""

    def __init__(self, payload: Doomed) -> None:
        from model.training.trainer import trainer

        self._inner = trainer(payload.inner)
        self._marker = Path(payload.marker)
        self._packs = 0

    def with_settings(self, settings: str) -> Trainer:
        return self._inner.with_settings(settings)

    def train(self, pack: Pack) -> PackResult:
        self._packs += 1
        if self._packs == 2 and not self._marker.exists():
            with contextlib.suppress(FileExistsError), self._marker.open("x"):
                threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGKILL)).start()
                self._inner.train(pack)
                time.sleep(60)  # it was quicker than its end
        return self._inner.train(pack)


def m3h(folder: str) -> tuple[Any, StaticPlan, Context]:
    """(payload, all 15 subsets of four tasks, context) of a cohort folder."""
    from model.networks.settings import M3HSettings
    from model.sources.opening import open_cohort
    from model.training.trainer import TrainingPayload

    cohort = open_cohort(folder)
    kinds = ("binary", "multiclass", "regression", "clustering")
    cohort = cohort.for_tasks([next(t.name for t in cohort.tasks.values() if t.kind == kind) for kind in kinds])
    settings = M3HSettings(width=8, epochs=3, batch_size=64, learning_rate=3e-3, precision="float64", replicates=3)
    subsets = tuple(members for size in range(1, 5) for members in combinations(sorted(cohort.tasks), size))
    context = Context(cohort.fingerprint, cohort.columns_digest, cohort.split.digest, "m3h", settings.text)
    return TrainingPayload(cohort, "m3h", settings), StaticPlan(subsets), context


M3H_DRIVER = """
import sys
sys.path.insert(0, {tests!r})
from tests.executors import test_faults
from tim_search.loop import run as search
from tim_search.ledger import Ledger
from tim_search.executors.ray_executor import RayExecutor
from tim_search.types import Resources
payload, plan, context = test_faults.m3h({cohort!r})
tasks = payload.cohort.tasks
executor = RayExecutor(test_faults.Mortal, test_faults.Doomed(payload, {marker!r}), tasks, Resources(), {address!r})
outcome = search.run(plan, Ledger({place!r}), context, tasks, ((0, 0), (1, 1)), executor, 2,
                     lambda event: print(event.kind, event.done, flush=True))
print("repeated", outcome.repeated, flush=True)
"""


@pytest.mark.slow
def test_m3h_scores_the_same_whatever_happened_to_its_workers_and_its_driver(cluster: Any, tmp_path: Path) -> None:
    """A worker is killed while it trains, then the driver; the same command goes on to the scores of a quiet search."""
    from model.sources.opening import write_cohort
    from model.sources.synthetic import haim_like
    from model.training.trainer import trainer

    made, _ = haim_like(500, 350, seed=4, widths=(4, 9, 6, 5), n_binary=2, n_classes=3, n_clusters=3)
    write_cohort(made, tmp_path / "cohort")
    payload, plan, context = m3h(str(tmp_path / "cohort"))
    tasks, blocks = payload.cohort.tasks, ((0, 0), (1, 1))
    quiet = Ledger(tmp_path / "quiet")
    search.run(plan, quiet, context, tasks, blocks, SerialExecutor(trainer, payload, tasks), 2)

    ledger, marker = Ledger(tmp_path / "ledger"), tmp_path / "died"
    code = M3H_DRIVER.format(
        tests=str(ROOT),
        cohort=str(tmp_path / "cohort"),
        marker=str(marker),
        address=cluster.address,
        place=ledger.place,
    )

    def drive() -> subprocess.Popen[str]:
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen([sys.executable, "-c", code], **pipes)  # type: ignore[call-overload, no-any-return]

    driver = drive()
    wait_for(driver, 12)
    driver.kill()
    driver.communicate()
    assert marker.exists()  # a worker died in its second pack, long before
    held = len(ledger.done(context.key))
    assert 12 <= held < 30
    driver = drive()
    out, errors = driver.communicate(timeout=300)
    assert driver.returncode == 0, errors
    assert f"pack {held}" not in out.splitlines()  # what was held was not trained again

    def scores(of: Ledger) -> pd.DataFrame:
        frame = of.scores(context.key, primary=False)
        frame["unit"] = frame["subset"].map("+".join)
        return frame.sort_values(["unit", "seed", "fold", "task", "metric"], ignore_index=True)

    one, other = scores(ledger), scores(quiet)
    assert len(one) == len(other) > 2 * 32
    assert (one["status"] == "ok").all()
    told = ["unit", "seed", "fold", "task", "metric", "primary", "status"]
    pd.testing.assert_frame_equal(one[told], other[told])
    np.testing.assert_allclose(one["score"], other["score"], rtol=1e-5, atol=1e-6)
    assert ledger.check() == []
