"""Small things to publish, and MLflow servers on the loopback."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from tim_search.tim import scores as tim
from tim_search.tim.result import TimResult
from tim_search.tim.row import Method
from tim_search.tracking import Tracker

PNG = b"\x89PNG\r\n\x1a\n"


def result(seed: int = 0, method: Method = "exact") -> TimResult:
    membership = np.array([[bool(code >> bit & 1) for bit in range(3)] for code in range(1, 8)])
    scores = np.where(membership, np.random.default_rng(seed).normal(size=membership.shape), np.nan)
    return tim.estimate(membership, scores, method=method, tasks=("a", "b", "c"))


def figure(folder: Path, name: str = "heatmap_rank.png", content: bytes = b"red and blue") -> Path:
    path = folder / name
    path.write_bytes(PNG + content)
    return path


def uri_of(folder: Path) -> str:
    return f"sqlite:///{folder / 'mlflow.db'}"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def alive(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


@contextlib.contextmanager
def server(folder: Path, port: int, *, keeps_artifacts: bool = True) -> Iterator[subprocess.Popen[bytes]]:
    """`mlflow server` on the loopback, stopped by its process group at the end.

    One that keeps no artifacts tells its clients to write them to a folder of theirs.
    """
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_TRACKING")},
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    command = [
        *(sys.executable, "-m", "mlflow", "server", "--workers", "1", "--host", "127.0.0.1", "--port", str(port)),
        *("--backend-store-uri", uri_of(folder)),
        *(
            ("--artifacts-destination", str(folder / "artifacts"))
            if keeps_artifacts
            else ("--no-serve-artifacts", "--default-artifact-root", (folder / "artifacts").as_uri())
        ),
    ]
    with (folder / f"server-{port}.log").open("ab") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        until = time.monotonic() + 90
        while not alive(port):
            assert process.poll() is None, (folder / f"server-{port}.log").read_text()
            assert time.monotonic() < until, "the server did not come up"
            time.sleep(0.2)
        yield process
    finally:
        stop(process)


def stop(process: subprocess.Popen[bytes], how: signal.Signals = signal.SIGTERM) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, how)
    process.wait(30)


def publish_round(uri: str, folder: Path, number: int, search_id: str = "id") -> list[str]:
    """The round's heatmap, published; returns the messages."""
    messages: list[str] = []
    with Tracker(uri, "demo", search_id, warn=messages.append) as tracker:
        tracker.heatmap(result(number), [figure(folder)], round=number)
        tracker.ledger(pd.DataFrame({"score": [0.5]}))
    assert tracker.missed == []
    return messages
