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
import math
import os
import statistics
import time
import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import ray
import ray.exceptions

from tim_search.executors.contract import ClusterLost, cannot_build, describe
from tim_search.executors.packing import cost
from tim_search.executors.queue import Job, PackQueue
from tim_search.executors.ray_actors import Seat, Worker, as_result
from tim_search.executors.ray_nodes import NodeWatch, check, device_of, machine_gone, room, shortage
from tim_search.executors.ray_start import connect
from tim_search.types import BadInput, OutOfMemory, Pack, PackResult, Resources, Task, TimSearchError, TrainerFactory

_DEPTH = 2  # packs in flight a worker: the next one is already there when one ends
# ... and so many once that number in a row took next to no time each, so that many come back at once and share a file
# of the ledger. Together they are worth a twentieth of a second of training.
_DEEPER, _IN_A_ROW, _QUICK = 16, 50, 0.003
_BEAT = 1.0  # seconds between two looks at the world while no result comes
_PATIENCE = 60.0  # seconds without any worker after which it is said what is missing

# A pack's time: so many times what the slowest of its like took, but not less than half an hour. Before anything has
# come back there is nothing to compare with, and a first pack may have to fetch and compile much.
_SLOWER, _LEAST_SECONDS, _FIRST_SECONDS = 10.0, 1800.0, 6 * 3600.0
# A straggler has taken so many times what its like usually take, and so many seconds.
_STRAGGLING, _STRAGGLING_SECONDS = 3.0, 30.0
_MEMORY = 200  # packs whose pace is remembered


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
        check(resources)
        self._factory = factory
        self._payload = payload
        self._tasks = tasks
        self._resources = resources
        self._address = address or os.environ.get("RAY_ADDRESS") or "local"
        self._max_attempts = max_attempts
        self._payload_ref: Any = None
        self._seats: list[Seat] = []
        self._time_limit = time_limit
        self._settings = ""  # those of the packs of this run
        self._owns_ray = False
        self._watch: NodeWatch | None = None
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

    def run(self, packs: Iterable[Pack], settings: str = "") -> Iterator[PackResult]:
        """See `Executor.run`."""
        self._settings = settings
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
            self._watch = NodeWatch()
            self._heard = time.monotonic()
        n_workers = self._resources.workers or room(self._watch.nodes, self._resources)
        if not n_workers and self._owns_ray and self._address == "local":
            raise BadInput(
                f"resources: {shortage(self._nodes(), self._resources)} Ask for less, or name a cluster with --address."
            )
        # A cluster that grows on demand has no room yet; a worker that waits is the demand.
        self._seats += [self._seat() for _ in range(max(1, n_workers) - len(self._seats))]

    def _seat(self, failures: int = 0) -> Seat:
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
        actor = ray.remote(Worker).options(**options).remote(self._factory, self._payload_ref)
        return Seat(actor, actor.build.remote(), failures=failures)

    def _greet(self, seat: Seat) -> None:
        """A worker has built its trainer, or could not."""
        try:
            node = ray.get(seat.building)
            seat.building = None
            seat.failures = 0
            seat.device = device_of(self._nodes(), node)
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

    def _dismiss(self, seat: Seat) -> None:
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
                warnings.warn(
                    f"No worker has started for a while: {shortage(self._nodes(), self._resources)}", stacklevel=2
                )
                self._heard = now
        else:
            self._heard = now

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

    def _give(self, seat: Seat, job: Job) -> None:
        units = [(unit.subset, unit.seed, unit.fold) for unit in job.pack.units]
        if not seat.flying:
            seat.since = time.monotonic()
        seat.flying.append((seat.actor.train.remote(units, self._settings), job))

    def _help_out(self) -> None:
        """Nothing is left to begin: workers that stand idle take over from those that are busy for long."""
        idle = [seat for seat in self._seats if seat.building is None and not seat.flying]
        busy = sorted((seat for seat in self._seats if seat.flying), key=Seat.seconds, reverse=True)
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

    def _landed(self) -> Iterator[tuple[Seat, Any]]:
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

    def _collect(self, seat: Seat, reference: Any, queue: PackQueue) -> Iterator[PackResult]:
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

    def _settle(self, seat: Seat, reference: Any, job: Job, queue: PackQueue) -> PackResult | None:
        """What a reference that has come back says of its job; raises RayError when its worker is gone."""
        try:
            result = as_result(job.pack, ray.get(reference, timeout=0))
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

    def _too_large(self, seat: Seat, job: Job) -> None:
        """Remember that a device needs smaller packs, for the packs to come."""
        self._fits[seat.device] = min(self._fits.get(seat.device, math.inf), cost(job.pack) / 2)

    def _left_to_another(self, seat: Seat, job: Job) -> bool:
        """Whether a failure of a job matters to nobody: another worker has answered it, or is at it still."""
        return job.pack in self._settled or any(
            other.pack == job.pack for each in self._seats if each is not seat for _, other in each.flying
        )

    def _lose(self, seat: Seat, error: BaseException | str, queue: PackQueue) -> Iterator[PackResult]:
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
        blame = queue.lost if machine_gone(error) else queue.failed
        results += [blame(job, reason) for job in unanswered[:1]]
        self._dismiss(seat)
        self._seats.append(self._seat())
        yield from (result for result in results if result is not None)


def _short(error: BaseException) -> str:
    """Ray's messages about lost actors run over many lines; the first says what happened."""
    return describe(f"{type(error).__name__}: {str(error).strip().splitlines()[0]}" if str(error).strip() else "")
