"""How far a search is, in words; and who is at work on it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support import ROOT
from tests.support.searches import Call, trained_search
from tim_search.cli import console
from tim_search.cli import progress as bars
from tim_search.loop import running
from tim_search.loop.pace import Pace, repeatedly
from tim_search.loop.tally import Event, EventKind


def event(kind: EventKind, done: int, total: int, seconds: float, number: int = 1) -> Event:
    return Event(kind, number, done, total, 0, seconds, "as it is")


def test_the_time_left_counts_the_start_until_it_has_been_outlasted() -> None:
    pace = Pace("starting Ray")
    assert (pace.words, pace.seconds_left) == ("starting Ray", None)
    pace.tell(event("round", 3, 63, 10.0))  # three are of an earlier run
    assert (pace.words, pace.rate) == ("training: 3 of 63", None)
    pace.tell(event("pack", 13, 63, 30.0))
    assert pace.rate == pytest.approx(0.5)
    # The second worker's result comes right after the first: that is no rate.
    pace.tell(event("pack", 23, 63, 30.1))
    assert pace.rate == pytest.approx(20 / 20.1)
    pace.tell(event("pack", 43, 63, 60.0))
    assert pace.rate == pytest.approx(1.0)
    assert pace.seconds_left == pytest.approx(20, abs=0.5)
    assert pace.words == "training: 43 of 63, 1/s, 20 s left"
    pace.tell(event("stopping", 43, 63, 61.0))
    assert pace.words.startswith("stopping: 43 of 63")
    pace.tell(event("done", 63, 63, 80.0))
    assert (pace.words, pace.seconds_left) == ("figures and MLflow", None)


def test_reference_models_have_a_pace_of_their_own_and_rounds_a_time_of_their_own() -> None:
    pace = Pace(adaptive=True)
    pace.tell(event("references", 0, 8, 1.0, 0))
    pace.tell(event("references", 4, 8, 5.0, 0))
    assert pace.words == "reference models: 4 of 8, 1/s, 4 s left in this round"
    pace.tell(event("round", 0, 10, 0.1))
    assert (pace.words, pace.rate) == ("training: 0 of 10", None)
    pace.tell(event("pack", 10, 10, 5.1))
    pace.tell(event("round", 10, 22, 5.2, 2))
    assert pace.words.startswith("training, round 2: 10 of 22, ")
    assert pace.record()["seconds_left"] == 6


def test_something_is_called_again_and_again_and_then_no_more() -> None:
    calls: list[threading.Thread] = []
    with repeatedly(0.01, lambda: calls.append(threading.current_thread())):
        while len(calls) < 3:
            time.sleep(0.01)
    n = len(calls)
    time.sleep(0.05)
    assert len(calls) == n
    assert threading.main_thread() not in calls


def test_where_there_is_no_terminal_a_line_comes_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert console.EVERY <= 30
    monkeypatch.setattr(console, "EVERY", 0.05)

    def lines_with(words: str) -> str:
        lines, began = "", time.monotonic()
        while words not in lines and time.monotonic() - began < 20:
            lines += capsys.readouterr().err
            time.sleep(0.02)
        return lines

    with console.heartbeat():
        with bars.progress() as tell:
            tell(event("round", 0, 63, 1.0))
            tell(event("pack", 16, 63, 9.0))
            assert "training: 16 of 63, 2/s, " in lines_with("training")
        with bars.steps() as step:
            step("reading", 7, 1200)
            assert "reading: 7 of 1,200 rows\n" in lines_with("reading")
        console.note("Looking for leaks")
        assert "Looking for leaks (under 1 s so far)\n" in lines_with("so far")


# -------------------------------------------------------------------- who is at work


def test_a_process_at_work_is_seen_until_it_ends(tmp_path: Path, call: Call) -> None:
    passed_on: list[Event] = []
    assert running.who(tmp_path) is None
    with running.AtWork(tmp_path / "out", "ward", "tune", passed_on.append) as at_work:
        told = event("round", 0, 40, 1.0)
        at_work.tell(told)
        seen = running.who(tmp_path / "out")
        assert seen is not None
        assert (seen["running"], seen["pid"], seen["search"]) == (True, os.getpid(), "ward")
        assert (seen["doing"], seen["done"], seen["total"]) == ("training", 0, 40)
        # A search that is being tuned has no folder that could be read yet, and can be watched.
        code, out, err = call("status", tmp_path / "out")
        assert code == 0, err
        assert "yes: tim-search tune, process" in out
        assert "(training, 0 of 40)" in out
        assert json.loads(call("status", tmp_path / "out", "--json")[1])["at_work"]["running"] is True
        # Another one there says nothing and stops nothing.
        with running.AtWork(tmp_path / "out", "other", "run", passed_on.append):
            assert running.who(tmp_path / "out") == seen
    assert passed_on == [told]
    assert running.who(tmp_path / "out") is None
    code, _, err = call("status", tmp_path / "out")
    assert code == 2
    assert "search.json" in err


#: Is at work until it is killed.
WORKER = """
import sys, time
from pathlib import Path
from tim_search.loop import running
from tim_search.loop.tally import Event
with running.AtWork(Path(sys.argv[1]), "ward", "run", lambda event: None) as at_work:
    at_work.tell(Event("references", 0, 5, 40, 0, 3.0))
    print("at work", flush=True)
    time.sleep(100)
"""


def test_nobody_is_said_to_be_at_work_who_was_killed(tmp_path: Path, call: Call) -> None:
    folder = trained_search(tmp_path / "small", n_subsets=2)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", WORKER, str(folder)]
    worker = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    assert worker.stdout is not None
    assert worker.stdout.readline() == "at work\n"
    assert "yes: tim-search run, process" in call("status", folder)[1]
    worker.send_signal(signal.SIGKILL)
    worker.communicate(timeout=60)
    seen = running.who(folder)
    assert seen is not None
    assert seen["running"] is False
    out = " ".join(call("status", folder)[1].split())
    assert f"no: tim-search run, process {worker.pid} on" in out
    assert "was ended, last heard of at" in out
    assert "(reference models, 5 of 40)" in out

    # Elsewhere nobody can tell: the folder may be a copy, or the lock may not be seen from there.
    content = json.loads((folder / running.NAME).read_text())
    (folder / running.NAME).write_text(json.dumps({**content, "machine": "another one"}))
    assert (running.who(folder) or {})["running"] is None
    assert "not known: " in call("status", folder)[1]
    for odd in ("", "{", json.dumps({**content, "pid": "1"})):
        (folder / running.NAME).write_text(odd)
        assert running.who(folder) is None

    with running.AtWork(folder, "small", "run", lambda event: None):
        assert running.who(folder) is not None
    assert running.who(folder) is None


def test_who_ends_while_somebody_looks_was_not_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running.AtWork(tmp_path, "ward", "run", lambda event: None) as at_work:
        usual = running._locked

        def later(handle: int, kind: int) -> bool:
            at_work.__exit__()
            return usual(handle, kind)

        monkeypatch.setattr(running, "_locked", later)
        assert running.who(tmp_path) is None


def test_a_folder_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    told: list[Any] = []
    for folder in (tmp_path / "file" / "below", tmp_path):
        if folder == tmp_path:
            (tmp_path / running.NAME).symlink_to(tmp_path / "file")  # not ours to write
        with running.AtWork(folder, "ward", "run", told.append) as at_work:
            at_work.tell(event("round", 0, 4, 0.1))
    assert len(told) == 2
    assert (tmp_path / "file").read_text() == ""
