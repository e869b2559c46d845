"""The machines of a Ray cluster: watched while they train, and how many workers they have room for."""

from __future__ import annotations

import contextlib
import math
import re
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

import ray
import ray.exceptions

from tim_search.types import BadInput, Resources

#: The most workers, and the most of anything that one holds.
MOST = 100_000
#: The smallest share that Ray deals out.
LEAST_SHARE = 0.0001

_LOOK = 2.0  # seconds between two looks at the nodes of the cluster
_GONE = 45.0  # seconds without an answer after which the cluster is lost; Ray ends the process itself after 60
_REACH = 5.0  # seconds this machine's daemon has to answer


class NodeWatch:
    """Looks at the cluster from a thread of its own, because a look blocks while the cluster's head is away."""

    def __init__(self) -> None:
        self.nodes: list[dict[str, Any]] = ray.nodes()
        self._seen = time.monotonic()
        self._broken = ""
        self._ended = threading.Event()
        # Ray ends a driver whose own machine's daemon is gone, without letting it say why.
        node = getattr(getattr(ray, "_private", None), "worker", None)
        self._raylet = getattr(getattr(node, "_global_node", None), "raylet_socket_name", None)
        threading.Thread(target=self._look, daemon=True).start()

    def _look(self) -> None:
        refused = 0
        while not self._ended.wait(_LOOK):
            refused = refused + 1 if self._raylet and not _listens(self._raylet) else 0
            if refused > 1:
                self._broken = "Ray's daemon on this machine has ended"
            if not ray.is_initialized():
                return  # somebody has ended Ray; a look would start another one
            with contextlib.suppress(Exception):  # the next look may succeed
                self.nodes = ray.nodes()
                self._seen = time.monotonic()

    def lost(self) -> str:
        """Why the cluster is lost; empty while it is not."""
        silent = time.monotonic() - self._seen
        return self._broken or (f"its head has not answered for {silent:.0f} seconds" if silent > _GONE else "")

    def end(self) -> None:
        self._ended.set()


def room(nodes: Sequence[Mapping[str, Any]], resources: Resources) -> int:
    """How many workers the machines of a cluster (as `ray.nodes()` lists them) can hold together."""
    total = 0
    for node in nodes:
        if node["Alive"]:
            shares = [node["Resources"].get(name, 0.0) / amount for name, amount in needs_of(resources).items()]
            total += math.floor(min(shares) + 1e-9)
    return total


def machine_gone(error: BaseException | str) -> bool:
    """Whether a worker was lost with its machine; of a process that dies alone, Ray says so."""
    if isinstance(error, ray.exceptions.ActorUnavailableError | ray.exceptions.ObjectLostError):
        return True  # out of reach; a process that died on a machine that lives is known to be dead
    if not isinstance(error, ray.exceptions.ActorDiedError):
        return False
    return bool(getattr(error, "preempted", False)) or re.search("node (has died|was)", str(error)) is not None


def device_of(nodes: Sequence[Mapping[str, Any]], node: str) -> str:
    """The kind of accelerator of a machine, where Ray knows it, else the machine itself."""
    resources: Mapping[str, float] = next((each["Resources"] for each in nodes if each["NodeID"] == node), {})
    return next((name for name in sorted(resources) if name.startswith("accelerator_type:")), node)


def _listens(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(_REACH)
        try:
            connection.connect(path)
        except OSError as error:
            return not isinstance(error, ConnectionRefusedError | FileNotFoundError)
    return True


def check(resources: Resources) -> None:
    """Raise BadInput where Ray could never place such workers, or would be asked for endlessly many."""
    amounts = {"cpus": resources.cpus, "gpus": resources.gpus, **resources.extra}
    for name, amount in amounts.items():
        if not 0 <= amount <= MOST or 0 < amount < LEAST_SHARE:
            raise BadInput(
                f"resources: {name}: expected 0, or a number from {LEAST_SHARE} to {MOST:,}, got {amount!r}. Name what "
                "one worker holds."
            )
    if resources.gpus > 1 and resources.gpus != int(resources.gpus):
        raise BadInput(f"resources: gpus: expected a share of one GPU or a whole number, got {resources.gpus!r}.")
    if resources.cpus <= 0 and resources.gpus <= 0:
        raise BadInput(f"resources: expected a share of a CPU or a GPU for each worker, got {resources}. Name one.")
    if not 0 <= resources.workers <= MOST:
        raise BadInput(
            f"resources: workers: expected a whole number up to {MOST:,}, or 0 for as many as there is room for, got "
            f"{resources.workers}."
        )


def needs_of(resources: Resources) -> dict[str, float]:
    """What a worker asks Ray for, by the name of the resource."""
    needs = {"CPU": resources.cpus, "GPU": resources.gpus, **resources.extra}
    return {name: amount for name, amount in needs.items() if amount > 0}


def _amounts(node: Mapping[str, Any], resources: Resources) -> str:
    return ", ".join(f"{node['Resources'].get(name, 0.0):g} {name}" for name in needs_of(resources))


def shortage(nodes: Sequence[Mapping[str, Any]], resources: Resources) -> str:
    """What workers ask for and what the machines have, in words, where no worker can be placed."""
    needs = ", ".join(f"{amount:g} {name}" for name, amount in needs_of(resources).items())
    machines = [_amounts(node, resources) for node in nodes if node["Alive"]]
    return f"each worker asks for {needs}; the machines have, in use or free: {'; '.join(machines)}."
