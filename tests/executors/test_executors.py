"""One conformance suite over every executor; then what is Ray's alone, and the rules of trying again by themselves."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from tests.support import ROOT, fake_trainer
from tests.support.fake_trainer import TASKS, Behaviour, value
from tim_search.executors.contract import Executor, WorkerError
from tim_search.executors.packing import cost, packs
from tim_search.executors.queue import PackQueue
from tim_search.executors.serial import SerialExecutor
from tim_search.types import BadInput, OutOfMemory, Pack, PackResult, Resources, Score, Unit

Make = Callable[..., Executor]

UNITS = [Unit(members, 0, 0) for size in (1, 2, 3) for members in combinations("abcdef", size)]
POISON = ("a", "b", "d")


@pytest.fixture(scope="module")
def shared_workers(tmp_path_factory: pytest.TempPathFactory, _end_ray: None) -> Iterator[tuple[Executor, Path]]:
    """Ray workers for many tests, because starting them takes seconds, and the file that tells them how to behave."""
    from tim_search.executors.ray_executor import RayExecutor

    path = tmp_path_factory.mktemp("shared_workers") / "behaviour.json"
    executor = RayExecutor(fake_trainer.trainer, path, TASKS, Resources(workers=2))
    yield executor, path
    executor.close()


@pytest.fixture(params=["serial", "ray"])
def make(request: pytest.FixtureRequest) -> Make:
    """Makes an executor of each kind, whose trainers behave as they are told."""

    def build(behaviour: Behaviour) -> Executor:
        if request.param == "serial":
            return SerialExecutor(fake_trainer.trainer, behaviour, TASKS)
        request.getfixturevalue("local_ray")
        executor, path = request.getfixturevalue("shared_workers")
        behaviour.write(path)
        return executor  # type: ignore[no-any-return]

    return build


@pytest.fixture
def make_ray(local_ray: None) -> Iterator[Make]:
    """Makes Ray executors with workers of their own, and closes them twice."""
    from tim_search.executors.ray_executor import RayExecutor

    made: list[Executor] = []

    def build(behaviour: Behaviour, **options: Any) -> Executor:
        made.append(
            RayExecutor(fake_trainer.trainer, behaviour, TASKS, **{"resources": Resources(workers=2), **options})
        )
        return made[-1]

    yield build
    for executor in made:
        executor.close()
        executor.close()


def answers(results: list[PackResult]) -> dict[Unit, list[Score]]:
    """The rows of each unit; a unit that is answered twice fails the test."""
    counts = Counter(unit for result in results for unit in result.pack.units)
    assert set(counts.values()) <= {1}
    found: dict[Unit, list[Score]] = {unit: [] for unit in counts}
    for result in results:
        for score in result.scores:
            found[score.unit].append(score)
    return found


def assert_scored(rows: dict[Unit, list[Score]], units: list[Unit]) -> None:
    for unit in units:
        assert {row.task: row.value for row in rows[unit]} == {task: value(unit, task) for task in unit.subset}
        assert all(row.status == "ok" for row in rows[unit])


def assert_failed(rows: list[Score], reason: str) -> None:
    assert rows
    for row in rows:
        assert row.status == "failed"
        assert row.value != row.value
        assert reason in row.error


def test_every_unit_is_answered_once_with_its_own_scores(make: Make) -> None:
    executor = make(Behaviour(attention=True, replicates=3))
    assert executor.workers == (1 if isinstance(executor, SerialExecutor) else 2)
    results = list(executor.run(packs(UNITS, TASKS, 4)))
    assert_scored(answers(results), UNITS)
    for result in results:
        assert result.attempts == 1
        assert {(row.unit, row.task, row.other) for row in result.attention} == {
            (unit, task, other) for unit in result.pack.units for task in unit.subset for other in unit.subset
        }
        for row in result.scores:
            assert row.replicates == pytest.approx([row.value, row.value + 0.01, row.value + 0.02])
            assert (row.seconds, row.metric, row.part, row.primary) == (0.5, TASKS[row.task].metric, "validation", True)

    # A second run on the same workers, as the rounds of a search are.
    again = [Unit(unit.subset, 7, 2) for unit in UNITS]
    assert_scored(answers(list(executor.run(packs(again, TASKS, 64)))), again)
    assert list(executor.run([])) == []


def test_an_error_costs_a_retry(make: Make, tmp_path: Path) -> None:
    log = str(tmp_path / "log")
    executor = make(Behaviour(log=log, error_once=(POISON, ("a",))))
    results = list(executor.run(packs(UNITS, TASKS, 8)))
    assert_scored(answers(results), UNITS)
    assert {result.attempts for result in results} == {1, 2}
    assert max(fake_trainer.begun(log).values()) == 2


def test_a_unit_that_always_fails_is_isolated(make: Make, tmp_path: Path) -> None:
    log = str(tmp_path / "log")
    executor = make(Behaviour(log=log, error=(POISON,)))
    rows = answers(list(executor.run(packs(UNITS, TASKS, 16))))
    poisoned = Unit(POISON, 0, 0)
    assert_scored(rows, [unit for unit in UNITS if unit != poisoned])
    assert {row.task for row in rows[poisoned]} == set(POISON)
    assert_failed(rows[poisoned], "RuntimeError: this cannot be trained (tried 7 times)")
    assert fake_trainer.begun(log)[poisoned] == 7  # in a pack of 10 twice, of 5 and of 2 once, then alone 3 times


def test_a_pack_that_does_not_fit_is_split_until_it_does(make: Make, tmp_path: Path) -> None:
    log = str(tmp_path / "log")
    executor = make(Behaviour(log=log, memory=3))
    results = list(executor.run(packs(UNITS, TASKS, 16)))
    assert_scored(answers(results), UNITS)
    assert max(len(result.pack.units) for result in results) <= 3
    assert 2 <= max(fake_trainer.begun(log).values()) <= 3  # 10, 5, 3 or 2; what was learnt spares later packs a step


def test_a_member_that_diverges_leaves_its_mates_alone(make: Make) -> None:
    executor = make(Behaviour(diverge=(POISON,), silent=(("e",),)))
    rows = answers(list(executor.run(packs(UNITS, TASKS, 16))))
    assert_failed(rows[Unit(POISON, 0, 0)], "diverged at epoch 3")
    assert_failed(rows[Unit(("e",), 0, 0)], "the trainer gave no score")
    assert_scored(rows, [unit for unit in UNITS if unit.subset not in (POISON, ("e",))])


def test_bad_input_ends_the_work(make: Make) -> None:
    executor = make(Behaviour(blame_input=(POISON,)))
    with pytest.raises(BadInput, match="a label column is empty"):
        list(executor.run(packs(UNITS, TASKS, 16)))


def test_packs_are_drawn_when_there_is_room_and_what_is_drawn_is_answered(make: Make) -> None:
    drawn: list[Pack] = []
    stopped = False

    def feed() -> Iterator[Pack]:
        for pack in packs(UNITS, TASKS, 1):
            if stopped:
                return
            drawn.append(pack)
            yield pack

    executor = make(Behaviour())
    results = []
    for result in executor.run(feed()):
        results.append(result)
        assert len(drawn) <= len(results) + 5  # two workers, two packs each, one being handed out
        stopped = len(results) >= 7
    assert {result.pack for result in results} == set(drawn)
    assert len(drawn) < len(UNITS)


@pytest.mark.slow
def test_quick_packs_are_drawn_further_ahead_and_a_slow_one_ends_that(make_ray: Make) -> None:
    names = [f"t{index:03}" for index in range(130)]
    quick, slow = Behaviour(seconds=0.001), Behaviour(seconds=0.02)
    most = []
    for behaviour in (quick, slow):
        ahead, drawn = 0, 0

        def feed() -> Iterator[Pack]:
            nonlocal drawn
            for seed, _ in enumerate(names):
                drawn += 1
                yield Pack((Unit(("a",), seed, 0),))

        executor = make_ray(behaviour)
        for number, _ in enumerate(executor.run(feed())):
            ahead = max(ahead, drawn - number - 1)
        executor.close()  # the next one needs its workers' cores
        assert drawn == len(names)
        most.append(ahead)
    assert most[1] <= 5 < most[0] <= 2 * 16 + 1


def test_a_run_that_is_given_up_does_not_answer_into_the_next(make: Make) -> None:
    executor = make(Behaviour(seconds=0.05))
    first = executor.run(packs(UNITS, TASKS, 4))
    next(first)
    first.close()  # type: ignore[attr-defined]
    again = [Unit(unit.subset, 1, 0) for unit in UNITS]
    rows = answers(list(executor.run(packs(again, TASKS, 16))))
    assert set(rows) == set(again)
    assert_scored(rows, again)


# -------------------------------------------------------------------- trainers that cannot be built

CANNOT_BUILD = [("error", WorkerError, "RuntimeError: no such network"), ("bad input", BadInput, "the cohort is empty")]


@pytest.mark.parametrize(("build", "error", "message"), CANNOT_BUILD)
def test_a_trainer_that_cannot_be_built_ends_the_work(build: str, error: type[Exception], message: str) -> None:
    executor = SerialExecutor(fake_trainer.trainer, Behaviour(build=build), TASKS)
    with pytest.raises(error, match=message):
        list(executor.run(packs(UNITS, TASKS, 16)))


@pytest.mark.parametrize(
    ("build", "error", "message"), [*CANNOT_BUILD, ("crash", WorkerError, "No worker could get ready")]
)
def test_a_trainer_that_cannot_be_built_on_ray_ends_the_work(
    make_ray: Make, build: str, error: type[Exception], message: str
) -> None:
    executor = make_ray(Behaviour(build=build), max_attempts=2, resources=Resources(workers=1))
    with pytest.raises(error, match=message):
        list(executor.run(packs(UNITS, TASKS, 16)))


# -------------------------------------------------------------------- Ray alone: processes that die


def test_a_crash_costs_a_retry_and_the_pack_behind_it_nothing(make_ray: Make, tmp_path: Path) -> None:
    log = str(tmp_path / "log")
    executor = make_ray(Behaviour(log=log, crash_once=(POISON,)), resources=Resources(workers=1))
    results = list(executor.run(packs(UNITS, TASKS, 5)))
    assert_scored(answers(results), UNITS)
    crashed = next(result.pack for result in results if Unit(POISON, 0, 0) in result.pack.units)
    assert fake_trainer.begun(log) == {unit: 2 if unit in crashed.units else 1 for unit in UNITS}
    assert {result.attempts for result in results if result.pack != crashed} == {1}


def test_a_unit_that_always_kills_its_process_is_isolated(make_ray: Make) -> None:
    executor = make_ray(Behaviour(crash=(POISON,)), max_attempts=1)
    rows = answers(list(executor.run(packs(UNITS, TASKS, 2))))
    poisoned = Unit(POISON, 0, 0)
    assert_scored(rows, [unit for unit in UNITS if unit != poisoned])
    assert_failed(rows[poisoned], "the worker's process was lost (ActorDiedError")


def test_a_process_killed_from_outside_costs_a_retry(make_ray: Make, tmp_path: Path) -> None:
    behaviour = Behaviour(log=str(tmp_path / "log"), seconds=0.15, pids=str(tmp_path / "pids"))
    run = make_ray(behaviour).run(packs(UNITS, TASKS, 4))
    results = [next(run)]
    os.kill(int((tmp_path / "pids").read_text().split()[0]), signal.SIGKILL)
    results += run
    assert_scored(answers(results), UNITS)
    assert sum(fake_trainer.begun(behaviour.log).values()) <= len(UNITS) + 4


@pytest.mark.slow
def test_a_pack_that_hangs_is_ended_and_its_unit_isolated(make_ray: Make, tmp_path: Path) -> None:
    hung = ("a", "c", "e")
    behaviour = Behaviour(log=str(tmp_path / "log"), hang=(POISON,), hang_once=(hung,))
    executor = make_ray(behaviour, max_attempts=2, time_limit=1.5)
    units = [unit for unit in UNITS if len(unit.subset) == 3]
    rows = answers(list(executor.run(packs(units, TASKS, 4))))
    poisoned = Unit(POISON, 0, 0)
    assert_scored(rows, [unit for unit in units if unit != poisoned])
    assert_failed(rows[poisoned], "gave no answer within 2 seconds and was ended (time limit)")
    assert fake_trainer.begun(behaviour.log)[Unit(hung, 0, 0)] == 2
    assert sum(fake_trainer.begun(behaviour.log).values()) <= len(units) + 4 * 3 + 2 * 3


@pytest.mark.slow
def test_a_straggler_is_given_to_a_worker_that_stands_idle_too(
    make_ray: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first answer counts; the packs queued behind it are handed over unbegun. There is no time limit."""
    from tim_search.executors import ray_executor

    monkeypatch.setattr(ray_executor, "_STRAGGLING_SECONDS", 0.5)
    behaviour = Behaviour(log=str(tmp_path / "log"), hang_once=(("a",),), seconds=0.05)
    executor = make_ray(behaviour)
    units = [Unit(("a",), 0, 0), *(Unit((name,), seed, 0) for seed in range(4) for name in "bdef")]
    results = list(executor.run([Pack((unit,)) for unit in units]))
    assert_scored(answers(results), units)
    assert fake_trainer.begun(behaviour.log) == Counter({unit: 2 if unit.subset == ("a",) else 1 for unit in units})
    assert [result.pack.units[0].subset for result in results if result.attempts == 2] == [("a",)]
    again = [Unit(("b",), seed, 1) for seed in range(6)]  # the worker that hung was replaced
    assert_scored(answers(list(executor.run(packs(again, TASKS, 1)))), again)


# -------------------------------------------------------------------- Ray alone: where it runs


def test_no_packs_start_no_ray() -> None:
    from tim_search.executors.ray_executor import RayExecutor

    executor = RayExecutor(fake_trainer.trainer, Behaviour(), TASKS, Resources(), "127.0.0.1:1")
    assert list(executor.run([])) == []
    executor.close()


@pytest.fixture
def deaf_port() -> Iterator[int]:
    """A port where connections are taken and never answered."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(5)
        yield server.getsockname()[1]


@pytest.fixture
def web_port() -> Iterator[int]:
    """A port where something other than Ray answers."""
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    class Quiet(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    "address", ["127.0.0.1:1", "127.0.0.1:{deaf_port}", "127.0.0.1:{web_port}", "nowhere", "http://h:1"]
)
def test_an_address_where_no_ray_answers_is_bad_input_soon(
    address: str, deaf_port: int, web_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    from tim_search.executors import ray_start
    from tim_search.executors.ray_executor import RayExecutor

    monkeypatch.setattr(ray_start, "_REACH", 1.0)

    ray.shutdown()  # an executor that finds Ray running does not look at the address
    address = address.format(deaf_port=deaf_port, web_port=web_port)
    executor = RayExecutor(fake_trainer.trainer, Behaviour(), TASKS, Resources(), address)
    start = time.monotonic()
    with pytest.raises(BadInput, match=address):
        list(executor.run(packs(UNITS, TASKS, 4)))
    assert time.monotonic() - start < 10
    executor.close()
    assert not ray.is_initialized()


def test_workers_without_any_resource_are_bad_input() -> None:
    from tim_search.executors.ray_executor import RayExecutor

    with pytest.raises(BadInput, match="expected a share of a CPU or a GPU"):
        RayExecutor(fake_trainer.trainer, Behaviour(), TASKS, Resources(cpus=0))


@pytest.mark.parametrize(
    ("resources", "expected"),
    [
        (Resources(cpus=1), 6),
        (Resources(cpus=3), 1),
        (Resources(cpus=0.5), 13),
        (Resources(cpus=1, gpus=0.3), 3),  # a fraction of a GPU: three on the first node
        (Resources(cpus=1, gpus=1), 1),
        (Resources(cpus=8), 0),
        (Resources(cpus=0.1, extra={"tesla": 1}), 2),
    ],
)
def test_room_counts_whole_workers_machine_by_machine(resources: Resources, expected: int) -> None:
    from tim_search.executors.ray_nodes import room

    nodes = [
        {"Alive": True, "Resources": {"CPU": 4.0, "GPU": 1.0}},
        {"Alive": True, "Resources": {"CPU": 2.5, "tesla": 2.0, "memory": 1e9}},
        {"Alive": False, "Resources": {"CPU": 64.0, "GPU": 8.0, "tesla": 8.0}},
    ]
    assert room(nodes, resources) == expected


@pytest.mark.slow
def test_machines_that_join_take_packs_and_machines_that_are_lost_give_theirs_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several raylets on this machine stand for machines. Two are lost, the second one while there is no other."""
    import ray
    from ray.cluster_utils import Cluster

    from tim_search.executors.ray_executor import RayExecutor

    ray.shutdown()
    monkeypatch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)
    behaviour = Behaviour(log=str(tmp_path / "log"), pids=str(tmp_path / "pids"), seconds=0.5)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    executor: Executor | None = None
    try:
        first = cluster.add_node(num_cpus=1)
        # One try a unit: a machine that goes away costs none.
        executor = RayExecutor(fake_trainer.trainer, behaviour, TASKS, Resources(), cluster.address, max_attempts=1)
        run = executor.run(packs(UNITS, TASKS, 1))
        results = [next(run)]
        second = cluster.add_node(num_cpus=1)
        while len(set((tmp_path / "pids").read_text().split())) < 2:
            results.append(next(run))
        cluster.remove_node(first, allow_graceful=False)
        results += [next(run) for _ in range(4)]
        cluster.remove_node(second, allow_graceful=False)
        time.sleep(3)
        cluster.add_node(num_cpus=1)
        results += run
    finally:
        if executor is not None:
            executor.close()
        cluster.shutdown()
    assert_scored(answers(results), UNITS)
    begun = fake_trainer.begun(behaviour.log)
    assert sum(begun.values()) <= len(UNITS) + 4  # the packs two lost machines were training


@pytest.mark.slow
def test_each_device_gets_packs_of_its_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Logical GPUs of two kinds: raylets on this machine, one of which tells its workers that two units fit."""
    import ray
    from ray.cluster_utils import Cluster

    from tim_search.executors.ray_executor import RayExecutor

    ray.shutdown()
    monkeypatch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)
    behaviour = Behaviour(log=str(tmp_path / "log"), pids=str(tmp_path / "pids"), seconds=0.6)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    executor: Executor | None = None
    try:
        cluster.add_node(num_cpus=1, num_gpus=1, resources={"accelerator_type:LARGE": 1})
        small = {"num_cpus": 2, "num_gpus": 1, "resources": {"accelerator_type:SMALL": 1}}
        cluster.add_node(**small, env_vars={"FAKE_DEVICE_UNITS": "2"})
        resources = Resources(cpus=1, gpus=0.5)  # fractions: two workers a GPU where there are two CPUs
        executor = RayExecutor(fake_trainer.trainer, behaviour, TASKS, resources, cluster.address)
        units = [Unit(members, seed, 0) for members in combinations("abcdef", 3) for seed in range(16)]
        results = list(executor.run(packs(units, TASKS, 10)))
    finally:
        if executor is not None:
            executor.close()
        cluster.shutdown()
    assert_scored(answers(results), units)
    sizes = Counter(len(result.pack.units) for result in results)
    # The large device is given whole packs, or what the small one has left of them.
    assert max(sizes) > 2
    assert sizes[2] >= 5
    assert len(set((tmp_path / "pids").read_text().split())) == 3
    # What does not fit is found out by the packs in flight, and once more after each halving; not by every pack.
    repeated = sum(fake_trainer.begun(behaviour.log).values()) - len(units)
    assert 0 < repeated <= 2 * 2 * (10 + 5 + 3)


@pytest.mark.slow
def test_without_an_address_ray_is_started_here_and_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    import ray

    from tim_search.executors.ray_executor import RayExecutor

    ray.shutdown()
    monkeypatch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    before = signal.getsignal(signal.SIGTERM)
    handler = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        behaviour = Behaviour(threads=str(tmp_path / "threads"))
        executor = RayExecutor(fake_trainer.trainer, behaviour, TASKS, Resources(cpus=1))
        mine = signal.getsignal(signal.SIGTERM)
        assert_scored(answers(list(executor.run(packs(UNITS, TASKS, 4)))), UNITS)
        assert signal.getsignal(signal.SIGTERM) is mine  # a search's handler outlives the start of Ray
        assert set((tmp_path / "threads").read_text().split()) == {"1"}
        executor.close()
        assert not ray.is_initialized()
        too_much = RayExecutor(fake_trainer.trainer, behaviour, TASKS, Resources(cpus=4096))
        with pytest.raises(BadInput, match="each worker asks for 4096 CPU; the machines have"):
            list(too_much.run(packs(UNITS, TASKS, 4)))
        too_much.close()
        assert not ray.is_initialized()
    finally:
        signal.signal(signal.SIGTERM, handler)
    assert before == handler
    assert capfd.readouterr() == ("", "")


# -------------------------------------------------------------------- the rules of trying again


def queue_of(size: int, max_attempts: int = 3) -> PackQueue:
    return PackQueue([Pack(tuple(UNITS[:size]))], TASKS, max_attempts)


def test_out_of_memory_splits_at_once_and_costs_the_parts_no_suspicion() -> None:
    queue = queue_of(4)
    job = queue.take()
    assert job is not None
    assert queue.failed(job, OutOfMemory("full")) is None
    left, right = queue.take(), queue.take()
    assert left is not None
    assert right is not None
    assert (left.pack, right.pack) == job.pack.halves()
    assert (left.attempts, left.suspect) == (2, False)
    assert queue.take() is None
    assert queue.failed(left, "lost") is None  # an ordinary failure: tried once more whole
    again = queue.take()
    assert again is not None
    assert again.pack == left.pack


def test_a_job_that_was_not_started_comes_back_without_blame() -> None:
    queue = queue_of(2)
    job = queue.take()
    assert job is not None
    for _ in range(10):
        queue.put_back(job)
        assert queue.take() == job


@pytest.mark.parametrize("max_attempts", [1, 2, 5])
def test_a_single_unit_gets_its_attempts(max_attempts: int) -> None:
    queue = queue_of(1, max_attempts)
    for attempt in range(1, max_attempts + 1):
        job = queue.take()
        assert job is not None
        assert job.attempts == attempt
        result = queue.failed(job, ValueError("x" * 2000))
        assert (result is not None) == (attempt == max_attempts)
    assert result is not None
    assert result.attempts == max_attempts
    assert all(row.error.startswith("ValueError: xxx") and len(row.error) < 600 for row in result.scores)
    assert queue.take() is None


def test_a_machine_that_goes_away_costs_no_try() -> None:
    queue = queue_of(1, max_attempts=1)
    for loss in range(1, 7):
        job = queue.take()
        assert job is not None
        assert job.attempts == loss
        result = queue.lost(job, "the machine is gone")
        assert (result is None) == (loss < 6)  # ... but a pack that takes down machine after machine comes to its end
    assert result is not None
    assert result.scores[0].error == "the machine is gone (tried 6 times)"


@pytest.mark.parametrize(("limit", "expected"), [(100.0, [8]), (27.0, [3, 3, 2]), (9.0, [1] * 8), (0.5, [1] * 8)])
def test_a_job_is_cut_to_what_a_device_can_hold(limit: float, expected: list[int]) -> None:
    pack = Pack(tuple(Unit((name,), 0, 0) for name in "abcdefgh"))
    assert cost(pack) == 8 * 9
    queue = PackQueue([pack], TASKS)
    taken = []
    while (job := queue.take(limit)) is not None:
        taken.append(job.pack)
    assert [len(part.units) for part in taken] == expected
    assert tuple(unit for part in taken for unit in part.units) == pack.units


def test_rows_of_foreign_units_are_not_taken() -> None:
    queue = queue_of(1)
    job = queue.take()
    assert job is not None
    stray = Score(Unit(("e", "f"), 9, 9), "e", "r2", "validation", 0.5)
    result = queue.answered(job, PackResult(job.pack, (stray,)))
    assert {row.unit for row in result.scores} == set(job.pack.units)


def test_no_attempts_at_all_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        PackQueue([], TASKS, 0)
