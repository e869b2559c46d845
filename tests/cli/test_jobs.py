"""The search files and the entry point under jobs/, the latter on a real Ray cluster of its own."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from model.sources.opening import BUILT_IN
from tests.support import ROOT
from tim_search import config
from tim_search.cli import running
from tim_search.ledger.ledger import Ledger

SEARCHES = sorted((ROOT / "jobs").glob("*.yaml"))


@pytest.mark.parametrize("path", SEARCHES, ids=lambda path: path.stem)
def test_every_search_file_can_be_run(path: Path) -> None:
    assert [finding for finding in config.check(path) if finding.severity == "error"] == []


def test_what_the_search_files_ask_for() -> None:
    trainings = {}
    for path in SEARCHES:
        found = config.resolve(config.load(path))
        assert found.file.name == path.stem
        trainings[path.stem] = found.plan.most(found.blocks)
    assert trainings == {
        "demo": 3 * 63,
        "diabetes130": 3 * 31,
        "flexcare": 2 * 31,
        "tuned": 3 * 63,
        "twelve-pairs": 2 * 78,
        "twelve-sampled": 960,
        "twelve-greedy": 2 * 298,
        "twelve-surrogate": 2 * (12 + 24 + 6 * 12),
    }


@pytest.mark.parametrize("cohort", list(running.Embedded))
def test_the_demo_command_runs_the_demo_file(cohort: running.Embedded) -> None:
    search = running.demo_search(cohort)
    assert config.load(ROOT / "jobs" / f"{search.name}.yaml") == search


def test_every_cohort_that_ships_has_a_demo() -> None:
    assert [cohort.value for cohort in running.Embedded] == list(BUILT_IN)


def test_a_relative_place_is_refused() -> None:
    command = [sys.executable, "-m", "jobs.search", "jobs/demo.yaml", "--out", "results"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert "expected an absolute path, got results" in done.stderr
    assert "Traceback" not in done.stderr


def free_ports(n: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        taken = [stack.enter_context(socket.socket()) for _ in range(n)]
        for one in taken:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in taken]


def processes_of(folder: Path) -> list[int]:
    """Processes whose command line names `folder`: those of the cluster that keeps its files there."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            if str(folder).encode() in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
    return [pid for pid in found if pid != os.getpid()]


@pytest.fixture
def cluster() -> Iterator[tuple[str, dict[str, str]]]:
    """A Ray cluster of two cores with token authentication: (address of its job server, environment of its clients)."""
    # A short path: Ray keeps Unix sockets below it, whose names may not be longer than 107 bytes.
    folder = Path(tempfile.mkdtemp(prefix="tim-", dir="/tmp"))
    gcs, dashboard, client, agent, grpc, metrics, runtime = free_ports(7)
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith("RAY_")},
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
        "OMP_NUM_THREADS": "1",
    }
    command = [
        *("ray", "start", "--head", "--block", "--num-cpus=2", "--num-gpus=0", f"--temp-dir={folder}"),
        *(f"--port={gcs}", "--node-ip-address=127.0.0.1", "--include-dashboard=true", f"--dashboard-port={dashboard}"),
        *(f"--ray-client-server-port={client}", f"--dashboard-agent-listen-port={agent}"),
        *(f"--dashboard-agent-grpc-port={grpc}", f"--metrics-export-port={metrics}"),
        *(f"--runtime-env-agent-port={runtime}", "--object-store-memory=200000000"),
    ]
    with (folder / "start.log").open("wb") as log:
        head = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
        try:
            wait_for(f"http://127.0.0.1:{dashboard}/api/version", environment["RAY_AUTH_TOKEN"], folder / "start.log")
            yield f"http://127.0.0.1:{dashboard}", environment
        finally:
            # The daemons do not all share the head's process group, and an orderly end takes twenty seconds.
            os.killpg(head.pid, signal.SIGKILL)
            head.wait()
            for pid in processes_of(folder):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            shutil.rmtree(folder, ignore_errors=True)


def wait_for(url: str, token: str, log: Path, seconds: float = 90) -> None:
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(OSError, urllib.error.URLError), urllib.request.urlopen(request, timeout=5):
            return
        time.sleep(0.5)
    raise AssertionError(f"the cluster did not answer within {seconds} s:\n{log.read_text()}")


@pytest.mark.slow
def test_a_submitted_job_runs_a_search(tmp_path: Path, bucket: str, cluster: tuple[str, dict[str, str]]) -> None:
    """On two cores, protected by a token, its ledger in a bucket; a place that would be lost is refused first."""
    address, environment = cluster
    submitted, out = tmp_path / "submitted", tmp_path / "out"
    for name in ("tim_search", "model", "jobs"):
        shutil.copytree(ROOT / name, submitted / name, ignore=shutil.ignore_patterns("__pycache__"))
    (submitted / "tiny.yaml").write_text(
        "cohort: support2\ntasks: [hospdead, dzclass]\ntraining: {epochs: 1, replicates: 0}\n"
        f"resources: {{cpus: 1, workers: 1}}\nledger: {bucket}/tiny\n"
    )

    def submit(place: str) -> tuple[int, str]:
        command = [
            *("ray", "job", "submit", "--address", address, "--working-dir", str(submitted), "--"),
            *("tim-search", "run", "tiny.yaml", "--out", place),
        ]
        done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=280)
        return done.returncode, done.stdout + done.stderr

    code, told = submit("results")
    assert code != 0
    assert "A submitted job works in a temporary copy of the submitted folder" in " ".join(told.split())
    code, told = submit(str(out))
    assert code == 0, told
    assert "succeeded" in told
    assert environment["RAY_AUTH_TOKEN"] not in told
    ledger = Ledger(f"{bucket}/tiny").scores()
    assert {tuple(members) for members in ledger["subset"]} == {
        ("dzclass",),
        ("dzclass", "hospdead"),
        ("hospdead",),
    }
    assert set(ledger["status"]) == {"ok"}
    for secret in (environment["RAY_AUTH_TOKEN"], environment["AWS_SECRET_ACCESS_KEY"]):
        assert [path for path in out.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()] == []
