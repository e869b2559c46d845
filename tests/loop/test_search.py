"""The loop: everything asked for is trained once and kept, whatever interrupts it."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from tests.support import ROOT, fake_trainer
from tests.support.fake_trainer import CONTEXT, TASKS, Behaviour, value
from tests.support.ledgers import score_table
from tim_search.executors.contract import Executor
from tim_search.executors.serial import SerialExecutor
from tim_search.ledger.ledger import Ledger, LedgerError
from tim_search.ledger.table import ScoreTable
from tim_search.loop import run as search
from tim_search.loop.tally import Event, SearchOutcome
from tim_search.plans.contract import Plan
from tim_search.plans.greedy import Greedy
from tim_search.plans.static import StaticPlan
from tim_search.types import Interrupted, Pack, PackResult, Score, Unit

SUBSETS = tuple(members for size in (1, 2, 3) for members in combinations("abcdef", size))
BLOCKS = ((0, 0), (1, 0))
ALL = StaticPlan(SUBSETS)
WELL_BEHAVED = Behaviour()
UNITS = {Unit(members, seed, fold) for members in SUBSETS for seed, fold in BLOCKS}


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "ledger")


@pytest.fixture
def log(tmp_path: Path) -> str:
    return str(tmp_path / "log")


def run(
    ledger: Ledger,
    behaviour: Behaviour = WELL_BEHAVED,
    plan: Plan = ALL,
    blocks: tuple[tuple[int, int], ...] = BLOCKS,
    on_event: Callable[[Event], None] = lambda event: None,
    executor: Executor | None = None,
) -> SearchOutcome:
    executor = executor or SerialExecutor(fake_trainer.trainer, behaviour, TASKS)
    return search.run(plan, ledger, CONTEXT, TASKS, blocks, executor, 4, on_event)


def assert_holds(ledger: Ledger, units: set[Unit]) -> None:
    """The ledger holds these units, each with its own scores, once."""
    frame = ledger.scores(CONTEXT.key)
    found = {(Unit(tuple(row.subset), row.seed, row.fold), row.task): row.score for row in frame.itertuples()}
    assert len(found) == len(frame)
    assert found == {(unit, task): value(unit, task) for unit in units for task in unit.subset}


# -------------------------------------------------------------------- the loop


def test_a_static_plan_is_trained_to_its_end(ledger: Ledger, log: str) -> None:
    events: list[Event] = []

    def look(event: Event) -> None:
        events.append(event)
        assert len(ledger.done(CONTEXT.key)) == event.done  # on disk before it is told

    outcome = run(ledger, Behaviour(log=log), on_event=look)
    assert replace(outcome, seconds=0) == SearchOutcome(len(UNITS), 0, 0, 0, rounds=1, seconds=0)
    assert_holds(ledger, UNITS)
    assert set(fake_trainer.begun(log).values()) == {1}
    assert [events[0].kind, events[-1].kind] == ["round", "done"]
    assert {event.kind for event in events[1:-1]} == {"pack"}
    assert [event.done for event in events] == sorted(event.done for event in events)
    assert {event.total for event in events} == {len(UNITS)}
    assert (events[0].done, events[-1].done) == (0, len(UNITS))
    assert [event.seconds for event in events] == sorted(event.seconds for event in events)


def test_what_the_ledger_holds_is_not_trained_again(ledger: Ledger, log: str) -> None:
    run(ledger, plan=StaticPlan(SUBSETS[:11]))
    behaviour = Behaviour(log=log)
    outcome = run(ledger, behaviour)
    assert (outcome.reused, outcome.trained) == (22, len(UNITS) - 22)
    assert set(fake_trainer.begun(log)) == UNITS - {
        Unit(members, seed, fold) for members in SUBSETS[:11] for seed, fold in BLOCKS
    }
    assert_holds(ledger, UNITS)

    again = run(ledger, Behaviour(build="error"))  # nothing to do: no trainer is built
    assert replace(again, seconds=0) == SearchOutcome(0, 0, len(UNITS), 0, rounds=0, seconds=0)
    narrow = run(ledger, Behaviour(build="error"), StaticPlan(SUBSETS[5:9]))
    assert narrow.reused == 8


def test_a_subset_trained_in_one_block_is_trained_in_the_others(ledger: Ledger) -> None:
    run(ledger, plan=StaticPlan(SUBSETS[:5]), blocks=((1, 0),))
    outcome = run(ledger, plan=StaticPlan(SUBSETS[:5]))
    assert (outcome.reused, outcome.trained) == (5, 5)


def test_a_sliced_plan_gives_each_block_its_own_subsets(ledger: Ledger) -> None:
    plan = StaticPlan(SUBSETS, sliced=True)
    blocks = ((0, 0), (1, 1), (2, 0))
    outcome = run(ledger, plan=plan, blocks=blocks)
    expected = {Unit(members, *blocks[t % 3]) for t, members in enumerate(SUBSETS)}
    assert outcome.trained == len(SUBSETS)
    assert_holds(ledger, expected)
    # A longer plan keeps the slices of the shorter one; what the ledger holds of other slices counts for nothing.
    shorter = StaticPlan(SUBSETS[:10], sliced=True)
    assert set(shorter.units(blocks)) < set(plan.units(blocks))
    assert run(ledger, plan=shorter, blocks=blocks).reused == 10
    turned = run(ledger, plan=plan, blocks=blocks[::-1])
    assert (turned.reused, turned.trained) == (14, 27)


def test_failed_units_are_counted_and_final(ledger: Ledger) -> None:
    behaviour = Behaviour(diverge=(("a", "b"), ("c",)))
    outcome = run(ledger, behaviour)
    assert (outcome.trained, outcome.failed) == (len(UNITS), 4)
    frame = ledger.scores(CONTEXT.key)
    assert set(frame[frame["status"] == "failed"]["subset"].map(tuple)) == {("a", "b"), ("c",)}
    assert run(ledger).trained == 0


def test_trainings_that_were_begun_again_are_counted(ledger: Ledger, log: str) -> None:
    outcome = run(ledger, Behaviour(log=log, error_once=(("a", "b", "d"),)))
    assert outcome.trained == len(UNITS)
    assert outcome.repeated == sum(fake_trainer.begun(log).values()) - len(UNITS) > 0
    assert_holds(ledger, UNITS)


GREEDY = Greedy(("a", "e"), tuple(TASKS), beam=2, max_size=4, rule="paper")


@dataclass(frozen=True)
class Watched(Plan):
    """A plan that notes whether the bootstrap replicates reach it."""

    plan: Plan
    widths: list[int]

    def ask(self, table: ScoreTable) -> list[Unit]:
        if len(table.membership):
            self.widths.append(0 if table.replicates is None else table.replicates.shape[-1])
        return list(self.plan.ask(table))

    def most(self, blocks: Sequence[tuple[int, int]]) -> int:
        return self.plan.most(blocks)


def test_an_adaptive_plan_gets_a_fresh_table_every_round(ledger: Ledger, tmp_path: Path, log: str) -> None:
    rounds: list[Event] = []
    widths: list[int] = []
    plan = Watched(GREEDY, widths)
    outcome = run(
        ledger,
        Behaviour(replicates=5),
        plan,
        on_event=lambda event: rounds.append(event) if event.kind == "round" else None,
    )
    assert outcome.rounds == len(rounds) > 2
    assert [event.done for event in rounds[1:]] == [
        event.total - asked for event, asked in zip(rounds[1:], jobs(rounds), strict=True)
    ]
    assert set(widths) == {5}
    assert GREEDY.ask(score_table(ledger.scores(CONTEXT.key), tuple(TASKS), BLOCKS)) == []

    # Stopped in its second round and taken up again, it ends with the same ledger and trains nothing twice.
    other = Ledger(tmp_path / "other")
    behaviour = Behaviour(log=log, replicates=5)

    def stop(event: Event) -> None:
        if event.round == 2 and event.kind == "pack":
            raise KeyError("stop")

    with pytest.raises(KeyError):
        run(other, behaviour, GREEDY, on_event=stop)
    held = len(other.done(CONTEXT.key))
    events: list[Event] = []
    resumed = run(other, behaviour, GREEDY, on_event=events.append)
    assert [event.round for event in events if event.kind == "round"] == list(range(2, outcome.rounds + 1))
    assert (resumed.reused, resumed.trained) == (held, outcome.trained - held)
    assert other.done(CONTEXT.key) == ledger.done(CONTEXT.key)
    assert set(fake_trainer.begun(log).values()) == {1}
    finished = run(other, Behaviour(build="error"), GREEDY, on_event=events.append)
    assert (finished.reused, finished.trained, finished.rounds) == (outcome.trained, 0, 0)
    assert events[-1].round == outcome.rounds, "rounds are those of the search, not of this run"


def jobs(rounds: list[Event]) -> list[int]:
    """Units of every round after the first, from its message."""
    return [int(event.message.split(": ")[1].split()[0]) for event in rounds[1:]]


def test_subsets_of_other_searches_do_not_count_as_reused(ledger: Ledger) -> None:
    run(ledger, plan=StaticPlan((("b", "c", "d"), ("a",))), blocks=((0, 0),))
    outcome = run(ledger, plan=GREEDY, blocks=((0, 0),))
    assert outcome.reused == 1  # ("a",); the other one is none that this expansion asks for


def test_a_plan_that_never_ends_is_found_out(ledger: Ledger) -> None:
    class Stubborn(Plan):
        def ask(self, table: ScoreTable) -> list[Unit]:
            return [Unit(("a",), 0, 0)]

        def most(self, blocks: Sequence[tuple[int, int]]) -> int:
            return 1

    with pytest.raises(RuntimeError, match=r"asks for units that all have final answers, a seed 0 fold 0"):
        run(ledger, plan=Stubborn())


def test_many_small_files_are_merged_while_it_runs(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "_MANY_FILES", 6)
    monkeypatch.setattr(search, "_SOME_FILES", 3)
    most = 0

    def look(event: Event) -> None:
        nonlocal most
        most = max(most, ledger.files())

    run(ledger, on_event=look)
    assert most <= 7
    assert ledger.files() <= 3
    assert_holds(ledger, UNITS)


def test_a_second_search_on_one_ledger_is_refused(ledger: Ledger) -> None:
    with ledger.writer_lock(), pytest.raises(LedgerError, match="one driver"):
        run(Ledger(ledger.path))


# -------------------------------------------------------------------- signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_lets_the_pack_in_flight_finish(ledger: Ledger, log: str, number: signal.Signals) -> None:
    events: list[Event] = []

    def look(event: Event) -> None:
        events.append(event)
        if event.done >= 20 and len(events) == 7:
            os.kill(os.getpid(), number)

    handlers = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(Interrupted, match=f"of {len(UNITS)} units are in .*Run the same command again") as raised:
        run(ledger, Behaviour(log=log), on_event=look)
    assert raised.value.exit_code == 130
    assert [event.kind for event in events[-2:]] == ["pack", "stopping"]
    assert str(raised.value).startswith(f"Stopped: {events[-1].done} of ")
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert ledger.done(CONTEXT.key) == set(fake_trainer.begun(log))
    assert run(ledger, Behaviour(log=log)).reused == events[-1].done >= 20
    assert set(fake_trainer.begun(log).values()) == {1}
    assert_holds(ledger, UNITS)


def test_a_second_signal_drops_the_pack_in_flight(ledger: Ledger, log: str) -> None:
    def interrupt() -> None:
        for _ in range(2):
            time.sleep(0.3)
            os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    start = time.monotonic()
    with pytest.raises(Interrupted, match="0 of "):
        run(ledger, Behaviour(log=log, seconds=60))
    assert time.monotonic() - start < 10
    assert len(fake_trainer.begun(log)) == 4
    assert ledger.done(CONTEXT.key) == set()


def test_no_result_is_lost_when_the_second_signal_comes_while_it_is_written(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    append = Ledger.append

    def interrupted_append(self: Ledger, *arguments: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        append(self, *arguments)

    monkeypatch.setattr(Ledger, "append", interrupted_append)
    with pytest.raises(Interrupted):
        run(ledger)
    assert len(ledger.done(CONTEXT.key)) == 4


def test_it_runs_outside_the_main_thread(ledger: Ledger) -> None:
    outcomes: list[SearchOutcome] = []
    thread = threading.Thread(target=lambda: outcomes.append(run(ledger)))
    thread.start()
    thread.join()
    assert outcomes[0].trained == len(UNITS)


def test_an_executor_that_fails_leaves_what_came_back(ledger: Ledger) -> None:
    @dataclass
    class Breaking:
        more: bool = False
        workers: int = 1

        def run(self, packs: Any) -> Any:
            for pack in list(packs)[:3]:
                yield fake_trainer.FakeTrainer(Behaviour()).train(pack)
            raise RuntimeError("the cluster is gone")

        def close(self) -> None:
            pass

    with pytest.raises(RuntimeError, match="the cluster is gone"):
        run(ledger, executor=Breaking())
    assert len(ledger.done(CONTEXT.key)) == 12


@dataclass
class Abreast:
    """Trains packs three at a time, and then is interrupted after so many results."""

    interrupted: int = 10**6
    more: bool = False
    workers: int = 1

    def run(self, packs: Any) -> Any:
        waiting = list(packs)
        given = 0
        for start in range(0, len(waiting), 3):
            part = waiting[start : start + 3]
            for place, pack in enumerate(part):
                if given == self.interrupted:
                    raise KeyboardInterrupt
                self.more = place + 1 < len(part)
                given += 1
                yield replace(fake_trainer.FakeTrainer(WELL_BEHAVED).train(pack), peak_bytes=given)

    def close(self) -> None:
        pass


def test_no_worker_stands_idle_while_a_pack_could_be_two(ledger: Ledger) -> None:
    sizes: list[int] = []

    class Counting(Abreast):
        def run(self, packs: Any) -> Any:
            waiting = list(packs)
            sizes.extend(len(pack.units) for pack in waiting)
            yield from super().run(waiting)

    pairs = tuple(combinations(sorted(TASKS), 2))[:7]
    search.run(StaticPlan(pairs), ledger, CONTEXT, TASKS, [(0, 0)], Counting(workers=3), 1000)
    assert max(sizes) <= 3
    assert sum(sizes) == 7


def test_results_that_come_back_together_share_a_file(ledger: Ledger) -> None:
    seen: list[tuple[int, int]] = []

    def look(event: Event) -> None:
        if event.kind == "pack":
            # What an event tells of is in the ledger.
            assert len(ledger.done(CONTEXT.key)) >= event.done
            seen.append((event.done, ledger.files()))

    outcome = run(ledger, executor=Abreast(), on_event=look)
    assert_holds(ledger, UNITS)
    assert [n_files for _, n_files in seen] == [1 + index // 3 for index in range(len(seen))]
    assert seen[-1][0] == len(UNITS)
    assert outcome.peak_bytes == len(seen)


def test_results_that_wait_for_others_are_kept_when_the_wait_is_cut_short(ledger: Ledger) -> None:
    with pytest.raises(Interrupted):
        run(ledger, executor=Abreast(interrupted=5))
    assert len(ledger.done(CONTEXT.key)) == 20


# -------------------------------------------------------------------- drivers that are killed

DRIVER = """
import sys
sys.path.insert(0, {tests!r})
from tests.support import fake_trainer
from tests.support.fake_trainer import Behaviour, CONTEXT, TASKS
from tests.loop.test_search import BLOCKS, SUBSETS
from tim_search.loop import run as search
from tim_search.plans import static
from tim_search.ledger import Ledger
from tim_search.types import Interrupted, Resources
behaviour = Behaviour(log={log!r}, seconds={seconds!r})
if {ray!r}:
    from tim_search.executors.ray_executor import RayExecutor
    executor = RayExecutor(fake_trainer.trainer, behaviour, TASKS, Resources(workers=2))
else:
    from tim_search.executors.serial import SerialExecutor
    executor = SerialExecutor(fake_trainer.trainer, behaviour, TASKS)
try:
    search.run(static.StaticPlan(SUBSETS), Ledger({path!r}), CONTEXT, TASKS, BLOCKS, executor, 4,
               lambda event: print(event.kind, event.done, flush=True))
except Interrupted as error:
    print(error, flush=True)
    sys.exit(error.exit_code)
finally:
    executor.close()
"""


def start_driver(ledger: Ledger, log: str, seconds: float, ray: bool) -> subprocess.Popen[str]:
    tests = str(ROOT)
    code = DRIVER.format(tests=tests, log=log, seconds=seconds, ray=ray, path=str(ledger.path))
    environment = {**os.environ, "PYTHONPATH": tests}
    return subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    )


def wait_for(driver: subprocess.Popen[str], units: int) -> None:
    assert driver.stdout is not None
    for line in driver.stdout:
        kind, done = line.split()
        if kind == "pack" and int(done) >= units:
            return
    raise AssertionError(driver.stderr.read() if driver.stderr else "")


@pytest.mark.parametrize("moments", [(0.0,), (4, 30, 31)], ids=["while it starts", "three times"])
def test_a_killed_driver_loses_and_repeats_only_what_was_in_flight(
    ledger: Ledger, log: str, moments: tuple[float, ...]
) -> None:
    choose = random.Random(7)
    for moment in moments:
        driver = start_driver(ledger, log, 0.01, ray=False)
        if moment:
            wait_for(driver, int(moment) + 4)
        time.sleep(choose.random() * 0.02)
        driver.kill()
        driver.communicate()
    outcome = run(ledger, Behaviour(log=log))
    assert outcome.reused + outcome.trained == len(UNITS)
    assert_holds(ledger, UNITS)
    assert sum(fake_trainer.begun(log).values()) <= len(UNITS) + 4 * len(moments)
    assert ledger.check() == []


@pytest.mark.slow
def test_a_killed_driver_on_ray_loses_and_repeats_only_what_was_in_flight(ledger: Ledger, log: str) -> None:
    for units in (8, 30):
        driver = start_driver(ledger, log, 0.1, ray=True)
        wait_for(driver, units)
        driver.kill()
        driver.communicate()
        time.sleep(8)  # the workers of a dead driver end within seconds; until then they may begin a pack
    outcome = run(ledger, Behaviour(log=log))
    assert outcome.reused + outcome.trained == len(UNITS)
    assert outcome.reused >= 30
    assert_holds(ledger, UNITS)
    assert sum(fake_trainer.begun(log).values()) <= len(UNITS) + 2 * 4 * 4  # two workers, two packs of four each


@pytest.mark.slow
@pytest.mark.parametrize(("number", "times"), [(signal.SIGINT, 1), (signal.SIGTERM, 1), (signal.SIGTERM, 2)])
def test_signals_end_a_search_on_ray(ledger: Ledger, log: str, number: signal.Signals, times: int) -> None:
    driver = start_driver(ledger, log, 0.5, ray=True)
    wait_for(driver, 8)
    for _ in range(times):
        if number == signal.SIGINT:
            os.killpg(driver.pid, number)  # a terminal sends it to every process, the workers included
        else:
            driver.send_signal(number)
        time.sleep(0.1)
    out, errors = driver.communicate(timeout=60)
    assert driver.returncode == 130, errors
    assert "Run the same command again" in out
    assert "Traceback" not in errors
    done, begun = ledger.done(CONTEXT.key), fake_trainer.begun(log)
    if times == 1:
        assert done == set(begun)  # what was in flight was finished
    else:
        assert set(begun) - done
    assert len(begun) < len(UNITS) / 2
    run(ledger)
    assert_holds(ledger, UNITS)


def test_a_unit_needs_a_primary_score_for_every_task(ledger: Ledger) -> None:
    """A trainer that forgets a task would have a plan ask for the subset for ever; it becomes a failed row instead."""

    class Forgetful(fake_trainer.FakeTrainer):
        def train(self, pack: Pack) -> PackResult:
            rows = [Score(unit, unit.subset[0], "auroc", "validation", 0.5, primary=False) for unit in pack.units]
            return PackResult(pack, tuple(rows))

    outcome = run(ledger, executor=SerialExecutor(lambda payload: Forgetful(Behaviour()), None, TASKS))
    assert outcome.failed == outcome.trained == len(UNITS)
