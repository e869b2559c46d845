"""The executor on Ray: one actor a worker, packs handed out by the driver, failures decided by the driver.

Ray is asked for little: it places actors, moves arguments and results, and says when a process or a machine is gone. It
retries nothing by itself. Its own retries are used up within seconds while a machine is away, they hide the reason of a
failure, and they would run a pack that kills its process again and again. An actor that is lost is replaced by a new
one, which takes packs as soon as Ray has found a place for it and its trainer is built.

The driver sees four kinds of trouble. A process that dies takes the blame on the pack it was training. A machine that
goes away does not: its packs are handed to others. A pack that gives no answer within its time is ended with its
process, and counts as failed. A pack that takes far longer than its like while workers stand idle at the end is given
to one of them too, and the first answer counts.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import re
import signal
import socket
import statistics
import threading
import time
import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from operator import attrgetter
from typing import Any
from urllib.parse import urlsplit

import ray
import ray.exceptions

from tim_search.executors import last_words
from tim_search.executors.packing import cost
from tim_search.executors.queue import ClusterLost, Job, PackQueue, cannot_build, describe
from tim_search.types import (
    Attention,
    BadInput,
    Curve,
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
# ... and so many once that number in a row took next to no time each, so that many come back at once and share a file
# of the ledger. Together they are worth a twentieth of a second of training.
_DEEPER, _IN_A_ROW, _QUICK = 16, 50, 0.003
_BEAT = 1.0  # seconds between two looks at the world while no result comes
_LOOK = 2.0  # seconds between two looks at the nodes of the cluster
_ABORTED = (
    "tim-search: the process that ran this ended without a word: it was killed, ran out of memory, or Ray ended it "
    "because its cluster restarted. What came back is in the ledger. Run the same command again to go on from there."
)
_GONE = 45.0  # seconds without an answer after which the cluster is lost; Ray ends the process itself after 60
_PATIENCE = 60.0  # seconds without any worker after which it is said what is missing
_REACH = 5.0  # seconds an address has to answer

# A pack's time: so many times what the slowest of its like took, but not less than half an hour. Before anything has
# come back there is nothing to compare with, and a first pack may have to fetch and compile much.
_SLOWER, _LEAST_SECONDS, _FIRST_SECONDS = 10.0, 1800.0, 6 * 3600.0
# A straggler has taken so many times what its like usually take, and so many seconds.
_STRAGGLING, _STRAGGLING_SECONDS = 3.0, 30.0
_MEMORY = 200  # packs whose pace is remembered

_score_fields = attrgetter(*(item.name for item in fields(Score) if item.name != "unit"))
_attention_fields = attrgetter(*(item.name for item in fields(Attention) if item.name != "unit"))
_curve_fields = attrgetter(*(item.name for item in fields(Curve) if item.name != "unit"))


class _Worker:
    """What runs in an actor's process. Packs and results travel as plain tuples, which pickle ten times as fast."""

    def __init__(self, factory: TrainerFactory, payload: Any) -> None:
        self._factory = factory
        self._payload = payload

    def build(self) -> str:
        # Not in __init__: an error there would kill the actor and come back as text instead of as itself.
        self._trainer = self._factory(self._payload)
        return str(ray.get_runtime_context().get_node_id())

    def train(self, units: Sequence[tuple[Subset, int, int, str]]) -> tuple[Any, ...]:
        pack = Pack(tuple(Unit(*fields) for fields in units))
        result = self._trainer.train(pack)
        place = {unit: index for index, unit in enumerate(pack.units)}
        scores = [(place[row.unit], _score_fields(row)) for row in result.scores if row.unit in place]
        attention = [(place[row.unit], _attention_fields(row)) for row in result.attention if row.unit in place]
        curves = [(place[row.unit], _curve_fields(row)) for row in result.curves if row.unit in place]
        return scores, attention, curves, result.seconds, result.peak_bytes


@dataclass(eq=False)
class _Seat:
    """A worker as the driver sees it.

    Attributes:
        actor: handle of the actor.
        building: reference to the end of its start; None once it takes packs.
        flying: (reference, job) of the packs it was given and has not answered, in the order it trains them.
        failures: how many times in a row a worker of this seat could not be started.
        device: what it trains on: the kind of accelerator of its machine, else the machine.
        since: when it began with the first of `flying`, as time.monotonic() tells.
    """

    actor: Any
    building: Any
    flying: deque[tuple[Any, Job]] = field(default_factory=deque)
    failures: int = 0
    device: str = ""
    since: float = 0.0

    def seconds(self) -> float:
        """How long it has been training the first of its packs."""
        return time.monotonic() - self.since if self.flying else 0.0


class _Watch:
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


class RayExecutor:
    """Trains packs on Ray actors; Ray is started, or attached to, when its workers are counted or a pack is drawn.

    Args:
        factory: importable on every machine; makes the trainer, once a worker.
        payload: what the factory is given; put into the object store once.
        tasks: the tasks of the search by name.
        resources: what each worker holds, and how many there are.
        address: of a running cluster ("host:port", "auto", "ray://host:port"); None takes RAY_ADDRESS from the
            environment, and where there is none starts Ray on this machine and ends it in `close`.
        max_attempts: see `PackQueue`.
        time_limit: seconds a pack may take before its worker is ended; None: ten times what packs of its cost have
            taken so far, at least half an hour.
    """

    def __init__(
        self,
        factory: TrainerFactory,
        payload: Any,
        tasks: Mapping[str, Task],
        resources: Resources,
        address: str | None = None,
        max_attempts: int = 3,
        time_limit: float | None = None,
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
        self._time_limit = time_limit
        self._owns_ray = False
        self._watch: _Watch | None = None
        self._heard = 0.0
        self._paces: deque[float] = deque(maxlen=_MEMORY)  # seconds for each unit of cost
        self._quick = 0  # packs of this run that took next to no time, in a row
        self._fits: dict[str, float] = {}  # by device, the cost of a pack that should fit its memory
        self._doubled: set[Pack] = set()  # packs that two workers were given
        self._settled: set[Pack] = set()  # ... and one of them has answered
        self.more = False

    @property
    def workers(self) -> int:
        """See `Executor`."""
        self._start()
        return len(self._seats)

    def run(self, packs: Iterable[Pack]) -> Iterator[PackResult]:
        """See `Executor.run`."""
        queue = PackQueue(packs, self._tasks, self._max_attempts)
        self._doubled.clear()
        self._settled.clear()
        self._quick = 0
        try:
            while True:
                self._hand_out(queue)
                if all(job.pack in self._settled for seat in self._seats for _, job in seat.flying):
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
                    results.extend(self._end_overdue(queue))
                    self._end_overtaken(queue)
                finally:
                    # Also before an error goes on its way: what has come back is handed over.
                    while results:
                        result = results.popleft()
                        self.more = bool(results)
                        yield result
                self._grow()
        finally:
            self.more = False
            # Only where this was cut short, or a straggler was overtaken: a worker that is still training would answer
            # into the next run.
            for seat in [seat for seat in self._seats if seat.flying]:
                self._dismiss(seat)

    def close(self) -> None:
        """See `Executor.close`. Ends Ray only where this executor has started it or attached to it."""
        lost = self._watch.lost() if self._watch else ""
        if self._watch:
            self._watch.end()
            self._watch = None
        if ray.is_initialized() and not lost:
            for seat in list(self._seats):
                self._dismiss(seat)
        self._seats.clear()
        self._payload_ref = None
        if self._owns_ray:
            self._owns_ray = False
            # An orderly end would wait for a cluster that is gone until Ray ends this process.
            if not lost:
                ray.shutdown()

    # ---------------------------------------------------------------- workers

    def _start(self) -> None:
        """Connect and ask for the workers that are missing. All of them start at once."""
        if not ray.is_initialized():
            connect(self._address)
            self._owns_ray = True
        if self._payload_ref is None:
            self._payload_ref = ray.put(self._payload)
        if self._watch is None:
            self._watch = _Watch()
            self._heard = time.monotonic()
        n_workers = self._resources.workers or room(self._watch.nodes, self._resources)
        if not n_workers and self._owns_ray and self._address == "local":
            raise BadInput(f"resources: {self._shortage()} Ask for less, or name a cluster with --address.")
        # A cluster that grows on demand has no room yet; a worker that waits is the demand.
        self._seats += [self._seat() for _ in range(max(1, n_workers) - len(self._seats))]

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
            node = ray.get(seat.building)
            seat.building = None
            seat.failures = 0
            seat.device = _device(self._nodes(), node)
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

    def _nodes(self) -> list[dict[str, Any]]:
        return self._watch.nodes if self._watch else []

    def _grow(self) -> None:
        """Use machines that have joined; say what is missing where no worker can be placed.

        Raises:
            ClusterLost: when the cluster no longer answers.
        """
        if self._watch and (reason := self._watch.lost()):
            self._seats.clear()  # there is nobody to dismiss them
            place = "on this machine" if self._address == "local" else f"at {self._address}"
            raise ClusterLost(
                f"The Ray cluster {place} is lost: {reason}. All results that came back are in the ledger. Start the "
                "cluster again, then run the same command again: it goes on from there, and only the packs that were "
                "in flight are trained a second time."
            )
        if not self._resources.workers:
            missing = room(self._nodes(), self._resources) - len(self._seats)
            self._seats += [self._seat() for _ in range(missing)]
        now = time.monotonic()
        if all(seat.building is not None for seat in self._seats):
            if now - self._heard > _PATIENCE:
                warnings.warn(f"No worker has started for a while: {self._shortage()}", stacklevel=2)
                self._heard = now
        else:
            self._heard = now

    def _shortage(self) -> str:
        needs = ", ".join(f"{amount:g} {name}" for name, amount in _needs(self._resources).items())
        nodes = [_amounts(node, self._resources) for node in self._nodes() if node["Alive"]]
        return f"each worker asks for {needs}; the machines have, in use or free: {'; '.join(nodes)}."

    # ---------------------------------------------------------------- packs

    def _hand_out(self, queue: PackQueue) -> None:
        """Give packs to the workers that are ready: first one to each, then the next to each."""
        deepest = _DEEPER if self._quick >= _IN_A_ROW else _DEPTH
        for depth in range(1, deepest + 1):
            for seat in self._seats:
                if seat.building is None and len(seat.flying) < depth:
                    job = queue.take(self._fits.get(seat.device, math.inf))
                    if job is None:
                        self._help_out()
                        return
                    self._give(seat, job)

    def _give(self, seat: _Seat, job: Job) -> None:
        units = [(unit.subset, unit.seed, unit.fold, unit.settings) for unit in job.pack.units]
        if not seat.flying:
            seat.since = time.monotonic()
        seat.flying.append((seat.actor.train.remote(units), job))

    def _help_out(self) -> None:
        """Nothing is left to begin: workers that stand idle take over from those that are busy for long."""
        idle = [seat for seat in self._seats if seat.building is None and not seat.flying]
        busy = sorted((seat for seat in self._seats if seat.flying), key=_Seat.seconds, reverse=True)
        if not idle or not self._paces:
            return
        for seat in busy:
            usual = statistics.median(self._paces) * cost(seat.flying[0][1].pack)
            late = seat.seconds() > max(_STRAGGLING * usual, _STRAGGLING_SECONDS)
            for place, (reference, job) in enumerate(seat.flying):
                waits = place > 0 and (late or usual - seat.seconds() > _STRAGGLING_SECONDS)
                if idle and (waits or (late and place == 0)) and job.pack not in self._doubled:
                    self._doubled.add(job.pack)
                    # The one that waits behind another has not been begun.
                    again = replace(job, attempts=job.attempts + (place == 0))
                    seat.flying[place] = (reference, again)
                    self._give(idle.pop(), again)

    def _end_overtaken(self, queue: PackQueue) -> None:
        """Replace the workers that train what another one has answered."""
        for seat in [seat for seat in self._seats if seat.flying and seat.flying[0][1].pack in self._settled]:
            for _, job in reversed(list(seat.flying)[1:]):
                if not self._left_to_another(seat, job):
                    queue.put_back(job)
            self._dismiss(seat)
            self._seats.append(self._seat())

    def _limit(self, pack: Pack) -> float:
        """Seconds that a pack may take."""
        if self._time_limit is not None:
            return self._time_limit
        if not self._paces:
            return _FIRST_SECONDS
        return max(_SLOWER * max(self._paces) * cost(pack), _LEAST_SECONDS)

    def _end_overdue(self, queue: PackQueue) -> Iterator[PackResult]:
        """End the workers whose pack has taken longer than it may."""
        for seat in [seat for seat in self._seats if seat.flying]:
            reference, job = seat.flying[0]
            limit = self._limit(job.pack)
            if seat.seconds() > limit and not ray.wait([reference], timeout=0)[0]:
                reason = f"the pack gave no answer within {limit:.0f} seconds and was ended (time limit)"
                with contextlib.suppress(ray.exceptions.RayError, ValueError):
                    ray.kill(seat.actor)
                yield from self._lose(seat, reason, queue)

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
            result = self._settle(seat, reference, job, queue)
        except ray.exceptions.RayError as error:
            yield from self._lose(seat, error, queue)
            return
        seat.flying.remove((reference, job))
        seat.since = time.monotonic()
        if result is not None:
            yield result

    def _settle(self, seat: _Seat, reference: Any, job: Job, queue: PackQueue) -> PackResult | None:
        """What a reference that has come back says of its job; raises RayError when its worker is gone."""
        try:
            result = _result(job.pack, ray.get(reference, timeout=0))
        except ray.exceptions.RayTaskError as raised:
            error = raised.cause if isinstance(raised.cause, BaseException) else raised
            if isinstance(error, BadInput):
                raise error from None
            if isinstance(error, OutOfMemory | MemoryError):
                self._too_large(seat, job)
            return None if self._left_to_another(seat, job) else queue.failed(job, error)
        self._paces.append((result.seconds or seat.seconds()) / cost(job.pack))
        self._quick = self._quick + 1 if 0 < result.seconds < _QUICK else 0
        if job.pack in self._settled:
            return None
        if job.pack in self._doubled:
            self._settled.add(job.pack)
        return queue.answered(job, result)

    def _too_large(self, seat: _Seat, job: Job) -> None:
        """Remember that a device needs smaller packs, for the packs to come."""
        self._fits[seat.device] = min(self._fits.get(seat.device, math.inf), cost(job.pack) / 2)

    def _left_to_another(self, seat: _Seat, job: Job) -> bool:
        """Whether a failure of a job matters to nobody: another worker has answered it, or is at it still."""
        return job.pack in self._settled or any(
            other.pack == job.pack for each in self._seats if each is not seat for _, other in each.flying
        )

    def _lose(self, seat: _Seat, error: BaseException | str, queue: PackQueue) -> Iterator[PackResult]:
        """A worker is gone: the pack it was training takes the blame, the ones behind it were never started.

        Nothing takes the blame where the machine went away: the worker is out of reach, and nobody saw its process die.
        """
        reason: BaseException | str = error
        if isinstance(error, BaseException):
            reason = f"the worker's process was lost ({_short(error)})"
        if isinstance(error, ray.exceptions.OutOfMemoryError):
            reason = OutOfMemory("the worker's process was ended because its machine ran out of memory")
            if seat.flying:
                self._too_large(seat, seat.flying[0][1])
        results: list[PackResult | None] = []
        unanswered: list[Job] = []
        for reference, job in seat.flying:
            try:
                if not ray.wait([reference], timeout=0)[0]:
                    unanswered.append(job)  # its worker was ended from here
                    continue
                results.append(self._settle(seat, reference, job, queue))
            except ray.exceptions.RayError:
                unanswered.append(job)
        unanswered = [job for job in unanswered if not self._left_to_another(seat, job)]
        for job in reversed(unanswered[1:]):
            queue.put_back(job)
        blame = queue.lost if _machine_gone(error) else queue.failed
        results += [blame(job, reason) for job in unanswered[:1]]
        self._dismiss(seat)
        self._seats.append(self._seat())
        yield from (result for result in results if result is not None)


def room(nodes: Sequence[Mapping[str, Any]], resources: Resources) -> int:
    """How many workers the machines of a cluster (as `ray.nodes()` lists them) can hold together."""
    total = 0
    for node in nodes:
        if node["Alive"]:
            shares = [node["Resources"].get(name, 0.0) / amount for name, amount in _needs(resources).items()]
            total += math.floor(min(shares) + 1e-9)
    return total


def _machine_gone(error: BaseException | str) -> bool:
    """Whether a worker was lost with its machine; of a process that dies alone, Ray says so."""
    if isinstance(error, ray.exceptions.ActorUnavailableError | ray.exceptions.ObjectLostError):
        return True  # out of reach; a process that died on a machine that lives is known to be dead
    if not isinstance(error, ray.exceptions.ActorDiedError):
        return False
    return bool(getattr(error, "preempted", False)) or re.search("node (has died|was)", str(error)) is not None


def _device(nodes: Sequence[Mapping[str, Any]], node: str) -> str:
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


def _needs(resources: Resources) -> dict[str, float]:
    needs = {"CPU": resources.cpus, "GPU": resources.gpus, **resources.extra}
    return {name: amount for name, amount in needs.items() if amount > 0}


def _amounts(node: Mapping[str, Any], resources: Resources) -> str:
    return ", ".join(f"{node['Resources'].get(name, 0.0):g} {name}" for name in _needs(resources))


def _result(pack: Pack, answer: tuple[Any, ...]) -> PackResult:
    scores, attention, curves, seconds, peak_bytes = answer
    return PackResult(
        pack,
        tuple(Score(pack.units[index], *values) for index, values in scores),
        tuple(Attention(pack.units[index], *values) for index, values in attention),
        seconds,
        peak_bytes,
        curves=tuple(Curve(pack.units[index], *values) for index, values in curves),
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
        last_words.leave(_ABORTED)
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


@contextlib.contextmanager
def connected(address: str | None = None) -> Iterator[None]:
    """Ray, as an executor would have it, for several of them in turn; ended here only where it was started here."""
    if ray.is_initialized():
        yield
        return
    connect(address or os.environ.get("RAY_ADDRESS") or "local")
    try:
        yield
    finally:
        ray.shutdown()


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
