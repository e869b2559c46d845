"""The executor on Ray: one actor a worker, packs handed out by the driver, failures decided by the driver.

Ray is asked for little: it places actors, moves arguments and results, and says when a process or a machine is gone. It
retries nothing by itself. Its own retries are used up within seconds while a machine is away, they hide the reason of a
failure, and they would run a pack that kills its process again and again. An actor that is lost is replaced by a new
one, which takes packs as soon as Ray has found a place for it and its trainer is built.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import signal
import socket
import threading
import time
import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from operator import attrgetter
from typing import Any
from urllib.parse import urlsplit

import ray
import ray.exceptions

from tim_search.executors import Job, PackQueue, cannot_build, describe
from tim_search.types import (
    Attention,
    BadInput,
    OutOfMemory,
    Pack,
    PackResult,
    Resources,
    Score,
    Subset,
    Task,
    TimSearchError,
    TrainerFactory,
    Unit,
)

_DEPTH = 2  # packs in flight a worker: the next one is already there when one ends
_BEAT = 1.0  # seconds between two looks at the world while no result comes
_LOOK = 5.0  # seconds between two looks at the nodes of the cluster
_PATIENCE = 60.0  # seconds without any worker after which it is said what is missing
_REACH = 5.0  # seconds an address has to answer

_score_fields = attrgetter(*(item.name for item in fields(Score) if item.name != "unit"))
_attention_fields = attrgetter(*(item.name for item in fields(Attention) if item.name != "unit"))


class _Worker:
    """What runs in an actor's process. Packs and results travel as plain tuples, which pickle ten times as fast."""

    def __init__(self, factory: TrainerFactory, payload: Any) -> None:
        self._factory = factory
        self._payload = payload

    def build(self) -> None:
        # Not in __init__: an error there would kill the actor and come back as text instead of as itself.
        self._trainer = self._factory(self._payload)

    def train(self, subsets: Sequence[Subset], seed: int, fold: int) -> tuple[Any, ...]:
        pack = Pack(tuple(Unit(members, seed, fold) for members in subsets))
        result = self._trainer.train(pack)
        place = {unit: index for index, unit in enumerate(pack.units)}
        scores = [(place[row.unit], _score_fields(row)) for row in result.scores if row.unit in place]
        attention = [(place[row.unit], _attention_fields(row)) for row in result.attention if row.unit in place]
        return scores, attention, result.seconds, result.peak_bytes


@dataclass(eq=False)
class _Seat:
    """A worker as the driver sees it.

    Attributes:
        actor: handle of the actor.
        building: reference to the end of its start; None once it takes packs.
        flying: (reference, job) of the packs it was given and has not answered, in the order it trains them.
        failures: how many times in a row a worker of this seat could not be started.
    """

    actor: Any
    building: Any
    flying: deque[tuple[Any, Job]] = field(default_factory=deque)
    failures: int = 0


class RayExecutor:
    """Trains packs on Ray actors; Ray is started, or attached to, when the first pack is drawn.

    Args:
        factory: importable on every machine; makes the trainer, once a worker.
        payload: what the factory is given; put into the object store once.
        tasks: the tasks of the search by name.
        resources: what each worker holds, and how many there are.
        address: of a running cluster ("host:port", "auto", "ray://host:port"); None takes RAY_ADDRESS from the
            environment, and where there is none starts Ray on this machine and ends it in `close`.
        max_attempts: see `PackQueue`.
    """

    def __init__(
        self,
        factory: TrainerFactory,
        payload: Any,
        tasks: Mapping[str, Task],
        resources: Resources,
        address: str | None = None,
        max_attempts: int = 3,
    ) -> None:
        if resources.cpus <= 0 and resources.gpus <= 0:
            raise BadInput(f"resources: expected a share of a CPU or a GPU for each worker, got {resources}. Name one.")
        self._factory = factory
        self._payload = payload
        self._tasks = tasks
        self._resources = resources
        self._address = address or os.environ.get("RAY_ADDRESS") or "local"
        self._max_attempts = max_attempts
        self._payload_ref: Any = None
        self._seats: list[_Seat] = []
        self._owns_ray = False
        self._looked = self._heard = 0.0
        self.more = False

    def run(self, packs: Iterable[Pack]) -> Iterator[PackResult]:
        """See `Executor.run`."""
        queue = PackQueue(packs, self._tasks, self._max_attempts)
        try:
            while True:
                self._hand_out(queue)
                if not any(seat.flying for seat in self._seats):
                    job = queue.take()
                    if job is None:
                        return
                    queue.put_back(job)
                    self._start()
                results: deque[PackResult] = deque()
                try:
                    for seat, reference in self._landed():
                        if reference == seat.building:
                            self._greet(seat)
                        else:
                            results.extend(self._collect(seat, reference, queue))
                finally:
                    # Also before an error goes on its way: what has come back is handed over.
                    while results:
                        result = results.popleft()
                        self.more = bool(results)
                        yield result
                self._grow()
        finally:
            self.more = False
            # Only where this was cut short: a worker that is still training would answer into the next run.
            for seat in [seat for seat in self._seats if seat.flying]:
                self._dismiss(seat)

    def close(self) -> None:
        """See `Executor.close`. Ends Ray only where this executor has started it or attached to it."""
        if ray.is_initialized():
            for seat in list(self._seats):
                self._dismiss(seat)
        self._seats.clear()
        self._payload_ref = None
        if self._owns_ray:
            self._owns_ray = False
            ray.shutdown()

    # ---------------------------------------------------------------- workers

    def _start(self) -> None:
        """Connect and ask for the workers; does nothing where that has been done. All workers start at once."""
        if self._seats:
            return
        if not ray.is_initialized():
            connect(self._address)
            self._owns_ray = True
        if self._payload_ref is None:
            self._payload_ref = ray.put(self._payload)
        n_workers = self._resources.workers or room(ray.nodes(), self._resources)
        if not n_workers and self._owns_ray and self._address == "local":
            raise BadInput(f"resources: {self._shortage()} Ask for less, or name a cluster with --address.")
        self._looked = self._heard = time.monotonic()
        # A cluster that grows on demand has no room yet; a worker that waits is the demand.
        self._seats += [self._seat() for _ in range(max(1, n_workers))]

    def _seat(self, failures: int = 0) -> _Seat:
        resources = self._resources
        options = {
            "num_cpus": resources.cpus,
            "num_gpus": resources.gpus,
            "resources": dict(resources.extra),
            "max_restarts": 0,
            "max_task_retries": 0,
            # Before the process imports numpy or torch, which read it once. More threads than cores is catastrophic.
            "runtime_env": {"env_vars": {"OMP_NUM_THREADS": str(max(1, int(resources.cpus)))}},
        }
        actor = ray.remote(_Worker).options(**options).remote(self._factory, self._payload_ref)
        return _Seat(actor, actor.build.remote(), failures=failures)

    def _greet(self, seat: _Seat) -> None:
        """A worker has built its trainer, or could not."""
        try:
            ray.get(seat.building)
            seat.building = None
            seat.failures = 0
            return
        except ray.exceptions.RayTaskError as raised:
            error = raised.cause if isinstance(raised.cause, BaseException) else raised
            if isinstance(error, TimSearchError):
                raise error from None
        except ray.exceptions.RayError as lost:
            error = lost
        self._dismiss(seat)
        if seat.failures + 1 < self._max_attempts:
            self._seats.append(self._seat(seat.failures + 1))
        elif not self._seats:
            raise cannot_build(error) from error

    def _dismiss(self, seat: _Seat) -> None:
        self._seats.remove(seat)
        seat.flying.clear()
        with contextlib.suppress(ray.exceptions.RayError, ValueError):
            ray.kill(seat.actor)

    def _grow(self) -> None:
        """Use machines that have joined; say what is missing where no worker can be placed."""
        now = time.monotonic()
        if now - self._looked < _LOOK:
            return
        self._looked = now
        if not self._resources.workers:
            missing = room(ray.nodes(), self._resources) - len(self._seats)
            self._seats += [self._seat() for _ in range(missing)]
        if all(seat.building is not None for seat in self._seats):
            if now - self._heard > _PATIENCE:
                warnings.warn(f"No worker has started for a while: {self._shortage()}", stacklevel=2)
                self._heard = now
        else:
            self._heard = now

    def _shortage(self) -> str:
        needs = ", ".join(f"{amount:g} {name}" for name, amount in _needs(self._resources).items())
        nodes = [_amounts(node, self._resources) for node in ray.nodes() if node["Alive"]]
        return f"each worker asks for {needs}; the machines have, in use or free: {'; '.join(nodes)}."

    # ---------------------------------------------------------------- packs

    def _hand_out(self, queue: PackQueue) -> None:
        """Give packs to the workers that are ready: first one to each, then the next to each."""
        for depth in range(1, _DEPTH + 1):
            for seat in self._seats:
                if seat.building is None and len(seat.flying) < depth:
                    job = queue.take()
                    if job is None:
                        return
                    first = job.pack.units[0]
                    subsets = [unit.subset for unit in job.pack.units]
                    seat.flying.append((seat.actor.train.remote(subsets, first.seed, first.fold), job))

    def _landed(self) -> Iterator[tuple[_Seat, Any]]:
        """(seat, reference) of all that has come back; waits a beat for the first."""
        owners = {reference: seat for seat in self._seats for reference, _ in seat.flying}
        owners |= {seat.building: seat for seat in self._seats if seat.building is not None}
        references = list(owners)
        if not references:
            return
        ready, _ = ray.wait(references, num_returns=1, timeout=_BEAT)
        if ready:
            ready, _ = ray.wait(references, num_returns=len(references), timeout=0)
        for reference in ready:
            seat = owners[reference]
            # A seat that was lost meanwhile has handed back its packs already.
            if reference == seat.building or any(reference == other for other, _ in seat.flying):
                yield seat, reference

    def _collect(self, seat: _Seat, reference: Any, queue: PackQueue) -> Iterator[PackResult]:
        job = next(job for other, job in seat.flying if other == reference)
        try:
            result = _settle(queue, job, reference)
        except ray.exceptions.RayError as error:
            yield from self._lose(seat, error, queue)
            return
        seat.flying.remove((reference, job))
        if result is not None:
            yield result

    def _lose(self, seat: _Seat, error: BaseException, queue: PackQueue) -> Iterator[PackResult]:
        """A worker is gone: the pack it was training takes the blame, the ones behind it were never started."""
        reason: BaseException | str = f"the worker's process was lost ({_short(error)})"
        if isinstance(error, ray.exceptions.OutOfMemoryError):
            reason = OutOfMemory("the worker's process was ended because its machine ran out of memory")
        results: list[PackResult | None] = []
        unanswered: list[Job] = []
        for reference, job in seat.flying:
            try:
                results.append(_settle(queue, job, reference))
            except ray.exceptions.RayError:
                unanswered.append(job)
        for job in reversed(unanswered[1:]):
            queue.put_back(job)
        results += [queue.failed(job, reason) for job in unanswered[:1]]
        self._dismiss(seat)
        self._seats.append(self._seat())
        yield from (result for result in results if result is not None)


def _settle(queue: PackQueue, job: Job, reference: Any) -> PackResult | None:
    """What a reference that has come back says of its job; raises RayError when its worker is gone."""
    try:
        return queue.answered(job, _result(job.pack, ray.get(reference, timeout=0)))
    except ray.exceptions.RayTaskError as raised:
        error = raised.cause if isinstance(raised.cause, BaseException) else raised
        if isinstance(error, BadInput):
            raise error from None
        return queue.failed(job, error)


def room(nodes: Sequence[Mapping[str, Any]], resources: Resources) -> int:
    """How many workers the machines of a cluster (as `ray.nodes()` lists them) can hold together."""
    total = 0
    for node in nodes:
        if node["Alive"]:
            shares = [node["Resources"].get(name, 0.0) / amount for name, amount in _needs(resources).items()]
            total += math.floor(min(shares) + 1e-9)
    return total


def _needs(resources: Resources) -> dict[str, float]:
    needs = {"CPU": resources.cpus, "GPU": resources.gpus, **resources.extra}
    return {name: amount for name, amount in needs.items() if amount > 0}


def _amounts(node: Mapping[str, Any], resources: Resources) -> str:
    return ", ".join(f"{node['Resources'].get(name, 0.0):g} {name}" for name in _needs(resources))


def _result(pack: Pack, answer: tuple[Any, ...]) -> PackResult:
    scores, attention, seconds, peak_bytes = answer
    return PackResult(
        pack,
        tuple(Score(pack.units[index], *values) for index, values in scores),
        tuple(Attention(pack.units[index], *values) for index, values in attention),
        seconds,
        peak_bytes,
    )


def _short(error: BaseException) -> str:
    """Ray's messages about lost actors run over many lines; the first says what happened."""
    return describe(f"{type(error).__name__}: {str(error).strip().splitlines()[0]}" if str(error).strip() else "")


# -------------------------------------------------------------------- connecting


def connect(address: str) -> None:
    """Start Ray here or attach to a running cluster; raises BadInput where that cannot be."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anybody
    # It tells at every start that the cluster is protected by a token, as it should be.
    logging.getLogger("ray._private.authentication.authentication_token_setup").setLevel(logging.ERROR)
    main = threading.current_thread() is threading.main_thread()
    previous = signal.getsignal(signal.SIGTERM) if main else None
    quiet = {"log_to_driver": False, "logging_level": logging.WARNING}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            if address == "local":
                # Named, because a plain init would attach to a cluster somebody else runs on this machine.
                ray.init(address="local", include_dashboard=False, **quiet)
            else:
                _check_reachable(address)
                ray.init(address=address, **quiet)
    except BadInput:
        raise
    except (Exception, SystemExit) as error:
        place = "on this machine" if address == "local" else f"at {address}"
        raise BadInput(
            f"Ray {place} cannot be used: {describe(error)} Expected a running Ray cluster, of the same Ray and Python "
            "version as here and, where it asks for a token, with RAY_AUTH_MODE=token and RAY_AUTH_TOKEN set. Leave "
            "the address out (and RAY_ADDRESS unset) to run on this machine alone."
        ) from error
    finally:
        # Ray installs a handler of its own; a search that runs has one that loses nothing.
        if callable(previous):
            signal.signal(signal.SIGTERM, previous)


def _check_reachable(address: str) -> None:
    """Raise BadInput unless something that speaks gRPC answers at `host:port`; Ray itself would try for minutes."""
    if address == "auto":
        return
    try:
        parts = urlsplit(address if "://" in address else f"//{address}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host or not port or parts.scheme not in ("", "ray"):
        raise BadInput(
            f"address: expected host:port of a Ray cluster's head (usually port 6379), ray://host:port, or auto; got "
            f"{address}. Correct it, or leave it out (and RAY_ADDRESS unset) to run on this machine alone."
        )
    try:
        with socket.create_connection((host, port), timeout=_REACH) as connection:
            if os.environ.get("RAY_USE_TLS", "0") == "1":
                return
            # A gRPC server answers an HTTP/2 opening with a frame of type 4, its settings.
            connection.settimeout(_REACH)
            connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))
            answered = connection.recv(9)[3:4] == b"\x04"
            reason = "what listens there is not a Ray cluster"
    except OSError as error:
        answered, reason = False, describe(error)
    if not answered:
        raise BadInput(
            f"address: no Ray cluster answers at {address} ({reason}). Start it (ray start --head) or correct the "
            "address; leave it out (and RAY_ADDRESS unset) to run on this machine alone."
        )
