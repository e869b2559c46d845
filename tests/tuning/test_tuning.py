"""Hyperparameters on real Ray Tune and Optuna, with a trainer whose best settings are known."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support import ROOT
from tests.support.fake_trainer import CONTEXT, TASKS, begun_under
from tests.support.tuned_trainer import Payload, Settings, trainer
from tim_search.executors.contract import WorkerError
from tim_search.ledger import storage
from tim_search.ledger.ledger import Ledger
from tim_search.loop.manifest import Manifest
from tim_search.loop.tally import Event
from tim_search.report.figures import save_and_close
from tim_search.tuning import choices
from tim_search.tuning import study as tuning
from tim_search.tuning.choices import Study
from tim_search.types import BadInput, Interrupted, Resources, Task

#: Each start of a trial imports Tune and Optuna in a process of its own, which takes long on a busy machine.
pytestmark = pytest.mark.timeout(900)

GRID = {"rate": [0.1, 0.3, 1.0], "width": [4, 8]}
PLAIN = Payload()
SUBSETS = (("a",), ("b",), ("c",), ("a", "b", "c"))


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "ledger")


def study(space: dict[str, Any] = GRID, sampler: str = "grid", trials: int = 6, **changes: Any) -> Study:
    context = replace(CONTEXT, settings=Settings().text)
    made = Study(context, space, sampler, trials, TASKS, SUBSETS, 0, (0, 1))
    return replace(made, **changes)


def run(
    study: Study, ledger: Ledger, payload: Payload = PLAIN, on_event: Callable[[Event], None] = lambda event: None
) -> list[choices.Trial]:
    return tuning.run(study, ledger, trainer, payload, Resources(workers=2), 3, None, on_event)


@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
def test_the_grid_finds_the_best_and_trains_nothing_twice(ledger: Ledger, tmp_path: Path) -> None:
    payload, events = Payload(log=str(tmp_path / "log")), list[Event]()
    of = study()
    found = run(of, ledger, payload, events.append)
    assert len(found) == 6
    assert choices.best(of, found).values == {"rate": 0.3, "width": 8}  # type: ignore[union-attr]
    count = sum(begun_under(payload.log).values())
    assert count == 6 * len(of.units)
    assert (events[-1].kind, events[-1].done, events[-1].total) == ("done", count, count)
    # Every trial has a context of its own, the one a search with these settings would have.
    settings = Settings(rate=0.3, width=8)
    assert ledger.done(replace(CONTEXT, settings=settings.text).key) == set(of.units)

    again = run(of, ledger, payload)
    assert sum(begun_under(payload.log).values()) == count
    assert [trial.value(of) for trial in again] == pytest.approx([trial.value(of) for trial in found])

    # A subset's own choice is read from the same rows.
    own = study(subsets=(("b",),))
    assert choices.best(own, run(own, ledger, payload)).values == {"rate": 0.1, "width": 8}  # type: ignore[union-attr]
    assert sum(begun_under(payload.log).values()) == count

    assert [path.name for path in tuning.figures(of, found, tmp_path, save_and_close)] == [
        "tuning-history.png",
        "tuning-importance.png",
    ]
    assert tuning.figures(of, found[:1], tmp_path, save_and_close) == []


@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
def test_a_part_of_a_trial_that_is_trained_is_not_trained_again(ledger: Ledger, tmp_path: Path) -> None:
    of, payload = study(), Payload(log=str(tmp_path / "log"))
    part = replace(of, space={"rate": [0.3], "width": [8]}, folds=(1,))
    run(part, ledger, payload)
    run(of, ledger, payload)
    assert set(begun_under(payload.log).values()) == {1}
    assert len(begun_under(payload.log)) == 6 * len(of.units)


@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
def test_optuna_trains_as_many_different_combinations_as_asked_and_goes_on(ledger: Ledger, tmp_path: Path) -> None:
    """Its space has lists, a range of numbers and one of whole numbers; it repeats itself on the small part."""
    space = {"rate": {"low": 0.05, "high": 2.0, "log": True}, "width": {"low": 4, "high": 5, "log": False}}
    payload = Payload(log=str(tmp_path / "log"))
    few = study(space, "optuna", 4)
    found = run(few, ledger, payload)
    assert len(found) == 4
    assert all(0.05 <= trial.values["rate"] <= 2 and trial.values["width"] in (4, 5) for trial in found)
    assert sum(begun_under(payload.log).values()) == 4 * len(few.units)
    more = run(study(space, "optuna", 7), ledger, payload)
    assert len(more) == 7
    assert {choices.canonical(trial.values) for trial in found} < {choices.canonical(trial.values) for trial in more}
    assert sum(begun_under(payload.log).values()) == 7 * len(few.units)

    listed = study({"rate": [0.1, 0.3], "width": [4, 8]}, "optuna", 4)
    assert len(run(listed, ledger, payload)) == 4  # each of them, though it draws with replacement


@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
def test_what_fails_is_not_chosen(ledger: Ledger, tmp_path: Path) -> None:
    of = study()
    found = run(of, ledger, Payload(diverges=0.3))
    assert sum(trial.value(of) != trial.value(of) for trial in found) == 2
    assert choices.best(of, found).values == {"rate": 0.1, "width": 8}  # type: ignore[union-attr]
    nothing = study({"rate": [0.3]}, trials=1)
    with pytest.raises(choices.BadInput, match="chose nothing"):
        choices.write(tmp_path, nothing, run(nothing, ledger, Payload(diverges=0.3)))


@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
def test_a_process_that_dies_again_and_again_is_told_and_the_others_are_kept(ledger: Ledger) -> None:
    of = study({"rate": [0.1, 0.3]}, trials=2)
    with pytest.raises(WorkerError, match="trials of the tuning failed"):
        run(of, ledger, Payload(lethal=0.3))
    kept = choices.trials(of, ledger.scores(columns=choices.COLUMNS))
    assert [trial.values for trial in kept] == [{"rate": 0.1}]
    assert not kept[0].missing(of)
    assert choices.best(of, run(of, ledger)).values == {"rate": 0.3}  # type: ignore[union-attr]
    with pytest.raises(WorkerError, match="2 trials of the tuning failed"):
        run(study({"rate": [2.0], "width": [4, 8]}, "optuna", 2), ledger, Payload(lethal=2.0))


@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
def test_a_ledger_that_cannot_be_written_ends_it(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise choices.BadInput("No space left on device")

    monkeypatch.setattr(Ledger, "append", full)
    with pytest.raises(choices.BadInput, match="No space left"):
        run(study(), ledger)


def test_what_went_wrong_names_the_ledger_as_people_call_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ledger in object storage has no path; its place is its URL."""
    place = storage.LocalFolder(tmp_path / "ledger")
    place.place = "s3://bucket/prefix"
    monkeypatch.setattr(tuning, "connected", lambda address: contextlib.nullcontext())
    for error, expected in ((KeyboardInterrupt, Interrupted), (None, WorkerError)):

        def fit(*_: Any, error: type[BaseException] | None = error) -> list[BaseException]:
            if error is not None:
                raise error
            return [RuntimeError("lost")]

        monkeypatch.setattr(tuning, "_fit", fit)
        with pytest.raises(expected, match="s3://bucket/prefix"):
            run(study(), Ledger(place))


DRIVER = """
import sys
from pathlib import Path
from tests.tuning.test_tuning import run, study
from tests.support.tuned_trainer import Payload
from tim_search.ledger import Ledger
from tim_search.types import Interrupted
try:
    run(study(), Ledger(sys.argv[1]), Payload(log=sys.argv[2], seconds=0.5))
except Interrupted as stopped:
    print(stopped)
    sys.exit(130)
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_an_interrupted_study_goes_on_where_the_ledger_ends(
    ledger: Ledger, tmp_path: Path, number: signal.Signals
) -> None:
    log, of = str(tmp_path / "log"), study()
    tests = str(ROOT)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([tests, str(Path(tests).parent)])}
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(ledger.path), log], env=environment, stdout=subprocess.PIPE, text=True
    )
    end = time.monotonic() + 300
    while ledger.files() < 4 and time.monotonic() < end and driver.poll() is None:
        time.sleep(0.2)
    assert driver.poll() is None
    driver.send_signal(number)
    said, _ = driver.communicate(timeout=300)
    if number == signal.SIGINT:
        assert driver.returncode == 130
        assert "Run the same command again" in said
    time.sleep(10)  # workers of a killed driver live on for some seconds, and note what they begin
    before = begun_under(log)
    kept = choices.trials(of, ledger.scores(columns=choices.COLUMNS))
    assert kept
    done = sum(len(of.units) - len(trial.missing(of)) for trial in kept)
    finished = subprocess.run(
        [sys.executable, "-c", DRIVER, str(ledger.path), log], env=environment, check=True, timeout=400
    )
    assert finished.returncode == 0
    after = begun_under(log)
    assert sum(after.values()) - sum(before.values()) == 6 * len(of.units) - done
    whole = choices.trials(of, ledger.scores(columns=choices.COLUMNS))
    assert choices.best(of, whole).values == {"rate": 0.3, "width": 8}  # type: ignore[union-attr]


# -------------------------------------------------------------------- choices


def test_skill_is_one_scale_and_clusterings_count_only_alone(ledger: Ledger) -> None:
    assert choices.skill("auroc", 0.5) == choices.skill("macro_auroc", 0.5) == choices.skill("r2", 0.0) == 0
    assert choices.skill("auroc", 1.0) == choices.skill("r2", 1.0) == choices.skill("silhouette", 1.0) == 1
    of = study(subsets=(("a", "c", "e"),), folds=(0,))
    places = {(("a", "c", "e"), 0, task): value for task, value in {"a": 0.4, "c": 0.9, "e": 0.2}.items()}
    trial = choices.Trial({"rate": 0.1, "width": 4}, places)
    assert trial.value(of) == pytest.approx(0.3)
    assert trial.by_task(of) == {"a": 0.4, "e": 0.2}
    alone = study(subsets=(("c",),), folds=(0,))
    assert choices.Trial({}, {(("c",), 0, "c"): 0.9}).value(alone) == 0.9
    assert choices.best(of, [choices.Trial({}, {})]) is None


def test_other_settings_are_no_trials_of_a_study() -> None:
    of = study()
    assert of.values_of(Settings(rate=0.3, width=8).text) == {"rate": 0.3, "width": 8}
    assert of.values_of(Settings(rate=0.3, width=8, epochs=4).text) is None  # not tuned, and another
    assert of.values_of(Settings(rate=0.2, width=8).text) is None  # not in the space
    ranged = study({"rate": {"low": 0.1, "high": 0.3, "log": False}})
    assert ranged.values_of(Settings(rate=0.2).text) == {"rate": 0.2}
    assert ranged.values_of(Settings(rate=0.4).text) is None


def test_a_choice_is_kept_and_read_back(tmp_path: Path) -> None:
    of = study(folds=(0,), subsets=(("a",),))

    def trial(rate: float, value: float, members: tuple[str, ...] = ("a",)) -> choices.Trial:
        return choices.Trial({"rate": rate, "width": 8}, {(members, 0, name): value for name in members})

    context = replace(CONTEXT, settings=Settings(rate=0.3, width=8).text)
    tasks = (Task("a", "binary"),)
    manifest = Manifest("s", "c", context, tasks, (), {"kind": "exact"}, ((0, 0),), ("a",))
    manifest.write(tmp_path)
    assert choices.chosen(tmp_path, ["a"]) == {"rate": 0.3, "width": 8, "epochs": 3}  # nothing was tuned
    choices.write(tmp_path, of, [trial(0.1, 0.2), trial(0.3, 0.4)])
    assert choices.kept(tmp_path, of) == {"rate": 0.3, "width": 8}
    for other in (study(folds=(0, 1)), study({"rate": [0.1, 0.3], "width": [8]}), replace(of, seed=1)):
        assert choices.kept(tmp_path, other) is None
    own = study(folds=(0,), subsets=(("a", "b"),))
    record = choices.write(tmp_path, own, [trial(0.1, 0.5, ("a", "b")), trial(0.3, 0.4, ("a", "b"))], ("a", "b"))
    assert [row["chosen"] for row in choices.table(record)] == [True, False]
    assert choices.chosen(tmp_path, ["b", "a"]) == {"rate": 0.1, "width": 8, "epochs": 3}
    assert choices.chosen(tmp_path, ["a"])["rate"] == 0.3
    assert choices.kept(tmp_path, of) == {"rate": 0.3, "width": 8}  # a subset's own choice leaves the search's

    replace(manifest, context=replace(CONTEXT, settings=Settings(0.3, 8, 5).text)).write(tmp_path)
    with pytest.raises(choices.BadInput, match="made for other settings"):
        choices.chosen(tmp_path, ["a", "b"])
    (tmp_path / choices.FILE).write_text("{")
    with pytest.raises(choices.BadInput, match="Delete it and run"):
        choices.kept(tmp_path, of)


def test_a_record_of_tuning_without_its_parts_is_told(tmp_path: Path) -> None:
    (tmp_path / "tuning.json").write_text('{"base": {}}')
    with pytest.raises(BadInput, match=r"tuning\.json cannot be used \(a part is missing\)"):
        choices.kept(tmp_path, study(folds=(0,), subsets=(("a",),)))
