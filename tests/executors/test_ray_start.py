"""Ray on this machine: what its workers may import, on which interface it listens, who may read its token."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import pickle
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.support import ROOT, fake_trainer
from tests.support.fake_trainer import TASKS
from tim_search.executors import ray_executor, ray_start
from tim_search.executors.ray_executor import RayExecutor
from tim_search.types import BadInput, Resources

HOSTILE = ("torch", "model", "sitecustomize", "usercustomize", "ray", "pyarrow", "aiohttp", "numpy", "typer", "mlflow")
SEARCH = """
cohort: support2
tasks: [hospdead, slos_log]
design: exact
blocks: 2
device: cpu
training: {epochs: 1, width: 8, replicates: 0}
resources: {workers: 2}
"""


def hostile(folder: Path) -> Path:
    """A folder with modules that leave a trace when they run, in place of libraries and of the product's package."""
    folder.mkdir()
    for name in {*HOSTILE, *filter(importlib.util.find_spec, sys.stdlib_module_names)}:
        trace = f"open({str(folder / 'ran')!r}, 'a').write({name!r} + '\\n')\n"
        (folder / f"{name}.py").write_text(f"{trace}raise RuntimeError('a file of the current folder ran')\n")
    (folder / "hostile.pth").write_text(f"import os; open({str(folder / 'ran')!r}, 'a').write('pth')\n")
    return folder


def run(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HOME": str(folder.parent)}
    environment.pop("PYTHONSAFEPATH", None)
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


def test_no_module_of_the_current_folder_takes_the_place_of_pythons_own(tmp_path: Path) -> None:
    folder = hostile(tmp_path / "here")
    done = run(folder, sys.executable, "-m", "tim_search", "--version")
    assert not (folder / "ran").exists(), (folder / "ran").read_text()
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("command", ["plan", "run"])
def test_no_worker_imports_from_the_current_folder(tmp_path: Path, command: str) -> None:
    """`plan` measures in as many processes as there will be workers."""
    folder = hostile(tmp_path / "here")
    (folder / "search.yaml").write_text(SEARCH)
    done = run(folder, sys.executable, "-m", "tim_search", command, "search.yaml", "--out", "out", "--json")
    assert not (folder / "ran").exists(), (folder / "ran").read_text()
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.timeout(500)
def test_code_of_ones_own_is_imported_behind_all_that_is_installed(tmp_path: Path) -> None:
    """By the workers of the search and by those that tune it."""
    folder = hostile(tmp_path / "here")
    shutil.copy(ROOT / "examples" / "own_network.py", folder)
    tuning = "tuning: {space: {batch_size: [256, 512]}}\n"
    (folder / "search.yaml").write_text(f"{SEARCH}network: own_network:Gated\n{tuning}")
    command = (sys.executable, "-m", "tim_search", "run", "search.yaml", "--out", "out", "--json", "--allow-code")
    done = run(folder, *command)
    assert not (folder / "ran").exists(), (folder / "ran").read_text()
    assert done.returncode == 0, done.stderr


LISTENING = """
import json, psutil, ray
from tim_search.executors import ray_start
ray_start.connect("local")
workers = [ray.remote(lambda: 1).remote() for _ in range(2)]
ray.get(workers)
me = psutil.Process()
every = [one for process in [me, *me.children(recursive=True)] for one in process.net_connections(kind="inet")]
print(json.dumps(sorted({one.laddr.ip for one in every if one.status == "LISTEN"})))
ray.shutdown()
"""


@pytest.mark.slow
@pytest.mark.parametrize("before", [None, 0o644], ids=["new token", "readable token"])
def test_ray_listens_on_the_loopback_interface_and_keeps_its_token(tmp_path: Path, before: int | None) -> None:
    token = tmp_path / ".ray" / "auth_token"
    if before is not None:
        token.parent.mkdir()
        token.write_text("0" * 64)
        token.chmod(before)
    (tmp_path / "here").mkdir()
    done = run(tmp_path / "here", sys.executable, "-c", LISTENING)
    assert done.returncode == 0, done.stderr
    assert set(json.loads(done.stdout.splitlines()[-1])) <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}
    assert stat.S_IMODE(token.stat().st_mode) == 0o600


def test_a_payload_brings_the_folder_of_its_own_code_where_it_is_unpickled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from model.networks.settings import M3HSettings
    from model.sources.synthetic import haim_like
    from model.training.trainer import TrainingPayload

    cohort, _ = haim_like(60, 40, 0, widths=(4, 4, 4, 4), n_binary=1)
    monkeypatch.chdir(tmp_path)
    own, built_in = (pickle.dumps(TrainingPayload(cohort, network, M3HSettings())) for network in ("mine:Own", "m3h"))
    monkeypatch.chdir("/")
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = list(sys.path)
    assert pickle.loads(built_in).network == "m3h"
    assert sys.path == before
    assert pickle.loads(own).network == "mine:Own"
    assert sys.path == [*before, str(tmp_path), "/"], "behind all that is installed"


@pytest.mark.parametrize(
    ("resources", "said"),
    [
        (Resources(cpus=math.inf), "cpus: expected 0, or a number from 0.0001 to 100,000, got inf"),
        (Resources(cpus=math.nan), "got nan"),
        (Resources(cpus=-1.0), "got -1.0"),
        (Resources(cpus=1e-9), "got 1e-09"),
        (Resources(gpus=1e20), "gpus: expected 0, or"),
        (Resources(gpus=1.5), "gpus: expected a share of one GPU or a whole number, got 1.5"),
        (Resources(extra={"TPU": math.inf}), "TPU: expected"),
        (Resources(cpus=0.0), "a share of a CPU or a GPU"),
        (Resources(workers=10**20), "workers: expected a whole number up to 100,000"),
        (Resources(workers=-1), "workers: expected"),
    ],
)
def test_resources_that_no_cluster_has_are_bad_input(resources: Resources, said: str) -> None:
    with pytest.raises(BadInput, match=re.escape(said)):
        RayExecutor(fake_trainer.trainer, None, TASKS, resources)


def test_ray_that_cannot_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: Any) -> None:
        raise RuntimeError("no memory for the object store")

    monkeypatch.setattr(ray_start.ray, "init", refuse)
    with pytest.raises(BadInput, match="Ray did not start on this machine: RuntimeError: no memory for the object"):
        ray_start.connect("local")


def test_workers_that_no_machine_here_can_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    executor = ray_executor.RayExecutor(None, None, {}, Resources(cpus=1000.0), "local")  # type: ignore[arg-type]
    node = {"Alive": True, "Resources": {"CPU": 2.0}, "NodeID": "n"}
    monkeypatch.setattr(ray_executor.ray, "is_initialized", lambda: True)
    executor._owns_ray, executor._payload_ref = True, object()
    executor._watch = SimpleNamespace(nodes=[node])  # type: ignore[assignment]
    monkeypatch.setattr(executor, "_nodes", lambda: [node])
    with pytest.raises(BadInput, match=r"each worker asks for 1000 CPU.*Ask for less"):
        executor._start()
