"""Settings of its own for every subset: what is chosen, what the search makes of it, and nothing trained twice."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tests.support import ROOT
from tests.support.fake_trainer import CONTEXT, TASKS, begun_under
from tests.support.ledgers import score_table
from tests.support.tuned_trainer import Payload, Settings, reached, trainer
from tim_search.executors.serial import SerialExecutor
from tim_search.ledger.ledger import Ledger
from tim_search.ledger.table import ScoreTable
from tim_search.loop.manifest import Manifest
from tim_search.loop.tally import Event, SearchOutcome
from tim_search.plans.contract import Plan, progress
from tim_search.plans.greedy import Greedy
from tim_search.plans.static import StaticPlan
from tim_search.tuning import choices, per_subset, tuned
from tim_search.tuning.per_subset import PerSubset
from tim_search.types import BadInput, Interrupted, Subset, Unit, canonical

SPACE = {"rate": [0.1, 0.3], "width": [4, 8]}
BLOCKS = ((0, 0), (1, 1), (2, 0))
SUBSETS = tuple(members for size in (1, 2) for members in combinations("abce", size))
ALL = StaticPlan(SUBSETS)
CAPACITY = 4
PLAIN = Payload()


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "ledger")


def own(blocks: tuple[tuple[int, int], ...] = BLOCKS, space: Mapping[str, list[Any]] = SPACE) -> PerSubset:
    base = replace(CONTEXT, settings=Settings().text)
    found = per_subset.of(per_subset.context_of_search(base, space, blocks))
    assert found is not None
    return found


def run(
    ledger: Ledger,
    plan: Plan = ALL,
    payload: Payload = PLAIN,
    log: Path | None = None,
    on_event: Callable[[Event], None] = lambda event: None,
    of: PerSubset | None = None,
) -> SearchOutcome:
    executor = SerialExecutor(trainer, replace(payload, log=str(log or "")), TASKS)
    return tuned.run(plan, of or own(), ledger, TASKS, executor, CAPACITY, on_event)


def table_of(ledger: Ledger) -> ScoreTable:
    return score_table(ledger.scores(own().context.key), tuple(TASKS), BLOCKS)


def expected(members: Subset, block: tuple[int, int], task: str) -> float:
    """The score under the settings that are best on the other folds, computed from the trainer itself."""

    def skill(settings: Settings, seed: int, fold: int) -> float:
        unit, names = Unit(members, seed, fold), [name for name in members if name != "c"] or list(members)
        return float(np.mean([choices.skill(TASKS[name].metric, reached(settings, unit, name)) for name in names]))

    every = [Settings(rate, width) for rate in SPACE["rate"] for width in SPACE["width"]]
    others = [other for other in BLOCKS if other[1] != block[1]]
    best = max(every, key=lambda settings: np.mean([skill(settings, *other) for other in others]))
    return reached(best, Unit(members, *block), task)


def assert_answered(table: ScoreTable, subsets: tuple[Subset, ...]) -> None:
    assert set(table.rows) == set(subsets)
    for members in subsets:
        for layer, block in enumerate(BLOCKS):
            for task in members:
                found = table.scores[table.rows[members], layer, table.tasks.index(task)]
                assert found == pytest.approx(expected(members, block, task))


# -------------------------------------------------------------------- the choice

SKILLS = arrays(np.float64, (4, 3, 4), elements=st.floats(-1, 1))


@given(SKILLS, SKILLS)
def test_no_score_of_a_fold_has_a_part_in_the_choice_for_it(skills: Any, other: Any) -> None:
    folds = [0, 1, 2, 0]
    chosen = per_subset.choose(skills, folds)
    for layer, fold in enumerate(folds):
        changed = np.where(np.array(folds) == fold, other, skills)
        np.testing.assert_array_equal(per_subset.choose(changed, folds)[:, layer], chosen[:, layer])
        judging = np.array(folds) != fold
        means = skills[:, :, judging].mean(axis=2)
        np.testing.assert_allclose(np.take_along_axis(means, chosen[None, :, layer], axis=0)[0], means.max(axis=0))


def test_the_chosen_scores_are_not_optimistic() -> None:
    """Settings that are all equally good: whoever chooses and scores on one fold reports a gain, this does not."""
    noise = np.random.default_rng(0).normal(size=(4, 2000, 5))
    chosen = per_subset.choose(noise, range(5))
    scores = np.take_along_axis(noise, chosen[None], axis=0)[0]
    error = scores.mean(axis=1).std() / math.sqrt(2000)
    assert abs(scores.mean()) < 4 * error
    naive = np.take_along_axis(noise, per_subset.best(noise)[None, :, None], axis=0)[0]
    assert naive.mean() > 20 * error


def test_a_failed_training_puts_its_combination_last() -> None:
    skills = np.array([[[0.9, np.nan, 0.9]], [[0.1, 0.2, 0.3]], [[0.0, 0.1, 0.2]]])
    assert per_subset.best(skills).tolist() == [1]
    # Also in the block where it failed, and in the others though their own scores are good.
    assert per_subset.choose(skills, [0, 1, 2]).tolist() == [[1, 1, 1]]
    skills[1:, :, 0] = np.nan
    assert per_subset.choose(skills, [0, 1, 2]).tolist() == [[0, 0, 0]]  # one failure each: by what is known
    assert per_subset.choose(np.full((2, 1, 2), np.nan), [0, 1]).tolist() == [[0, 0]]


def test_what_speaks_for_settings_is_no_clustering_and_no_control() -> None:
    assert per_subset.counted(("a", "c", "e"), TASKS) == ["a", "e"]
    assert per_subset.counted(("c",), TASKS) == ["c"]
    assert per_subset.counted(("a", "c", "e"), TASKS, "e") == ["a"]
    assert per_subset.counted(("c", "e"), TASKS, "e") == ["c"]
    assert per_subset.counted(("e",), TASKS, "e") == ["e"]


def test_the_context_names_space_and_blocks_and_leads_to_those_of_the_trainings() -> None:
    base, found = replace(CONTEXT, settings=Settings().text), own()
    assert found.blocks == BLOCKS
    assert [found.context_of(one).settings for one in found.values] == [
        Settings(rate, width).text for rate in SPACE["rate"] for width in SPACE["width"]
    ]
    keys = {found.context.key, base.key, *(found.context_of(one).key for one in found.values)}
    assert len(keys) == 1 + len(found.values)  # the base's settings are one of the combinations
    assert own(BLOCKS[:2]).context.key != found.context.key
    assert own(space={**SPACE, "width": [4]}).context.key != found.context.key
    # Neither the order in which it is written nor the untuned value of a tuned setting makes it another search.
    turned = {"width": [8, 4], "rate": [0.3, 0.1]}
    assert own(space=turned).context == found.context
    other = replace(base, settings=Settings(rate=0.7).text)
    assert per_subset.context_of_search(other, SPACE, BLOCKS) == found.context
    assert per_subset.of(base) is None


# -------------------------------------------------------------------- the loop


def test_every_subset_gets_the_score_of_its_own_settings(ledger: Ledger, tmp_path: Path) -> None:
    log, events = tmp_path / "log", list[Event]()
    outcome = run(ledger, log=log, on_event=events.append)
    each = len(own().values) * len(BLOCKS)
    assert (outcome.trained, outcome.failed, outcome.reused) == (each * len(SUBSETS), 0, 0)
    assert set(begun_under(log).values()) == {1}
    assert_answered(table_of(ledger), SUBSETS)
    assert [event.kind for event in events if event.kind != "pack"] == ["round", "done"]
    assert [event.done for event in events] == sorted(event.done for event in events)
    assert {event.total for event in events} == {each * len(SUBSETS)} == {events[-1].done}

    again = run(ledger, payload=Payload(lethal=0.3), log=log)
    assert (again.trained, again.reused) == (0, each * len(SUBSETS))
    # A row of the search is that of the chosen training but for its seconds; attention goes with it.
    rows = ledger.scores(own().context.key, primary=False, part=None)
    assert len(rows) == sum(map(len, SUBSETS)) * len(BLOCKS)

    # More subsets, as a larger design would have: only they are trained.
    more = StaticPlan((*SUBSETS, ("a", "b", "c")))
    assert run(ledger, more, log=log).trained == each
    assert set(begun_under(log).values()) == {1}


def test_a_plan_that_decides_as_it_goes_sees_the_chosen_scores(ledger: Ledger, tmp_path: Path) -> None:
    tasks = tuple("abce")
    plan, log = Greedy(tasks, tasks, beam=1, rule="paper"), tmp_path / "log"
    events = list[Event]()
    run(ledger, plan, log=log, on_event=events.append)
    table = table_of(ledger)
    assert_answered(table, tuple(table.rows))
    assert plan.ask(table) == []
    assert any(len(members) == 3 for members in table.rows)
    assert [event.round for event in events if event.kind == "round"] == [1, 2, 3][: events[-1].round]
    assert set(begun_under(log)) == {
        (Unit(members, *block), canonical(values))
        for values in own().values
        for members in table.rows
        for block in BLOCKS
    }
    assert set(begun_under(log).values()) == {1}


def test_a_combination_that_fails_costs_no_score(ledger: Ledger) -> None:
    outcome = run(ledger, payload=Payload(diverges=0.3))
    assert outcome.failed == 0
    assert np.isfinite(table_of(ledger).scores).sum() == sum(map(len, SUBSETS)) * len(BLOCKS)
    rows = own().records(ledger, TASKS, [("a",), ("b",)])
    assert [row["choice"] for row in rows] == [{"rate": 0.1, "width": 8}] * 2
    assert [trial["skill"] is None for trial in rows[0]["trials"]] == [False, False, True, True]


def test_a_subset_that_always_fails_has_a_failure_for_an_answer(ledger: Ledger) -> None:
    of = own(space={"rate": [0.3]})
    outcome = run(ledger, payload=Payload(diverges=0.3), of=of)
    assert outcome.failed == len(SUBSETS) * len(BLOCKS)
    assert set(ledger.scores(of.context.key)["status"]) == {"failed"}
    assert run(ledger, payload=Payload(diverges=0.3), of=of).trained == 0


@pytest.mark.parametrize("after", [1, 9, 30])
def test_a_search_that_is_cut_short_goes_on(ledger: Ledger, tmp_path: Path, after: int) -> None:
    log, seen = tmp_path / "log", Counter[str]()

    def stop(event: Event) -> None:
        seen["events"] += 1
        if seen["events"] == after:
            raise KeyboardInterrupt

    with pytest.raises((Interrupted, KeyboardInterrupt)):
        run(ledger, log=log, on_event=stop)
    run(ledger, log=log)
    assert_answered(table_of(ledger), SUBSETS)
    assert set(begun_under(log).values()) == {1}, "an interruption between two results trains nothing twice"


DRIVER = """
import sys
from pathlib import Path
from tests.tuning.test_per_subset import run
from tests.support.tuned_trainer import Payload
from tim_search.ledger import Ledger
run(Ledger(sys.argv[1]), payload=Payload(seconds=0.02), log=Path(sys.argv[2]))
"""


@pytest.mark.slow
def test_a_killed_search_goes_on_from_its_ledger(ledger: Ledger, tmp_path: Path) -> None:
    log = tmp_path / "log"
    tests = ROOT
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tests), str(tests.parent)])}
    for files in (3, 12):
        driver = subprocess.Popen([sys.executable, "-c", DRIVER, str(ledger.path), str(log)], env=environment)
        end = time.monotonic() + 120
        while ledger.files() < files and time.monotonic() < end and driver.poll() is None:
            time.sleep(0.02)
        driver.send_signal(signal.SIGKILL)
        driver.wait(60)
    run(ledger, log=log)
    assert_answered(table_of(ledger), SUBSETS)
    counts = begun_under(log)
    assert len(counts) == len(own().values) * len(BLOCKS) * len(SUBSETS)
    # What was in flight at a kill is begun again: a pack each time.
    assert sum(counts.values()) - len(counts) <= 2 * CAPACITY


# -------------------------------------------------------------------- reading it back


def test_a_folder_tells_the_settings_of_a_subset(ledger: Ledger, tmp_path: Path) -> None:
    run(ledger, StaticPlan((("a",), ("b",), ("a", "b"))))
    Manifest("s", "c", own().context, tuple(TASKS.values()), (), {"kind": "exact"}, BLOCKS, ()).write(tmp_path)
    assert choices.chosen(tmp_path, ["a"]) == {"rate": 0.3, "width": 8, "epochs": 3}
    assert choices.chosen(tmp_path, ["b"]) == {"rate": 0.1, "width": 8, "epochs": 3}
    assert choices.settings(tmp_path, [("a", "b"), ("b",)]) == {
        members: choices.chosen(tmp_path, members) for members in (("a", "b"), ("b",))
    }
    with pytest.raises(BadInput, match=r"d \+ e is not tuned yet. Run `tim-search tune .*--subset d\+e`"):
        choices.chosen(tmp_path, ["e", "d"])


def test_settled_subsets_have_settings_but_no_answer(ledger: Ledger) -> None:
    assert own().lacking(ledger, [("a",), ("b",)]) == [("a",), ("b",)]
    tuned.settle(own(), ledger, TASKS, [("b",)], SerialExecutor(trainer, PLAIN, TASKS), CAPACITY)
    assert own().lacking(ledger, [("a",), ("b",)]) == [("a",)]
    assert own().records(ledger, TASKS, [("b",)])[0]["choice"] == {"rate": 0.1, "width": 8}
    assert ledger.done(own().context.key) == set()
    assert own().trained(ledger, lambda members: members == ("b",))[0] == len(own().values) * len(BLOCKS)
    assert own().trained(ledger, lambda members: False) == (0, 0.0, None)
    assert progress(ALL, table_of(ledger), set()) == (0, 0)
