"""What people who run searches for days need: watching, logs, publishing later, checks, and words instead of traces."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support import ROOT
from tests.support.searches import Call, trained_search, write_search
from tim_search import tracking
from tim_search.app import publishing, search_folder
from tim_search.ledger.ledger import Ledger
from tim_search.loop import events, running
from tim_search.loop.events import EventLog
from tim_search.loop.manifest import Manifest
from tim_search.loop.tally import Event
from tim_search.results import opened
from tim_search.types import BadInput


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained_search(tmp_path_factory.mktemp("search") / "small")


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained_search(tmp_path_factory.mktemp("search") / "half", n_subsets=4)


def test_a_table_is_written_whole_or_stays_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = publishing.write_table(tmp_path / "tables" / "tim.csv", [{"source": "a", "estimate": 0.1}])
    before = path.read_bytes()
    assert before == b"source,estimate\r\na,0.1\r\n"

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(BadInput, match="No space left"):
        publishing.write_table(path, [{"source": "b", "estimate": 0.2}])
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


# -------------------------------------------------------------------- publishing later


@pytest.mark.slow
def test_what_mlflow_missed_is_published_later(call: Call, finished: Path, started: Path) -> None:
    uri = f"sqlite:///{finished / 'mlflow.db'}"
    for _ in range(2):  # once is enough, twice makes no doubles
        code, out, err = call("publish", finished, "--json")
        assert code == 0, err
        assert all(Path(figure).exists() for figure in json.loads(out)["figures"])
    frame = tracking.heatmaps(uri, "small")
    assert frame[["label", "round"]].values.tolist() == [["exact TIM", 1]]
    assert tracking.searches(uri)["status"].tolist() == ["FINISHED"]
    found = tracking.newest_heatmap(uri, "small", finished / "got")
    assert len(found.table) == 6

    # A search that is not at its end is published as far as it is, and not shown as finished.
    code, _, err = call("publish", started, "--tracking-uri", uri)
    assert code == 0, err
    assert sorted(tracking.searches(uri)["status"]) == ["FINISHED", "KILLED"]


def test_publishing_tells_when_mlflow_is_down(call: Call, finished: Path) -> None:
    code, _, err = call("publish", finished, "--tracking-uri", "http://127.0.0.1:9")
    assert code == 1
    assert "Not published: " in err
    assert "run the same command again when the cause in the warning above is mended" in err.replace("\n", " ")
    assert f"publish {finished} --tracking-uri http://127.0.0.1:9" in err.replace("\n", " "), "not to another store"


def test_a_later_publication_joins_the_run_of_the_search(finished: Path) -> None:
    """The search itself and `publish` name the same run, so that a resumed search goes on in it."""
    from tim_search import config

    found = config.resolve(config.load(finished / "search.yaml"), finished)
    manifest = Manifest.read(finished)
    one = publishing.tracker_of(manifest, found.out, found.tracking_uri, print, capacity=found.capacity)
    other = publishing.tracker_of(search_folder.prepare(found), finished, found.tracking_uri, print)
    assert one._tags == other._tags
    elsewhere = publishing.tracker_of(manifest, finished, "http://mlflow:5000", print)
    assert elsewhere._tags["search_id"] != one._tags["search_id"]


# -------------------------------------------------------------------- watching


def test_watching_a_finished_search_ends(call: Call, finished: Path) -> None:
    code, out, err = call("status", finished, "--watch")
    assert (code, out) == (0, "7 of 7 units, 0 failed\n"), err
    assert json.loads(call("status", finished, "--watch", "--json")[1])["finished"]


def test_watching_sees_a_search_to_its_end(tmp_path: Path) -> None:
    folder = trained_search(tmp_path / "small", n_subsets=2)
    command = [sys.executable, "-m", "tim_search", "status", str(folder), "--watch", "--every", "0.2"]
    watcher = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert watcher.stdout is not None
    assert watcher.stdout.readline() == "2 of 7 units, 0 failed\n"
    trained_search(folder)
    out, _ = watcher.communicate(timeout=60)
    assert re.fullmatch(r"(\d of 7 units, 0 failed(, .*)?\n)+", out)
    assert out.splitlines()[-1].startswith("7 of 7 units")
    assert watcher.returncode == 0


def test_a_look_at_a_search_that_trains_is_of_one_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Units that are written between two readings of the ledger are not counted both as trained and as waiting."""
    folder = trained_search(tmp_path / "small", n_subsets=2)
    lacking, grown = Ledger.lacking, []

    def grows(ledger: Ledger, *about: Any) -> Any:
        answer = lacking(ledger, *about)
        if not grown:
            grown.append(True)
            trained_search(folder)
        return answer

    monkeypatch.setattr(Ledger, "lacking", grows)
    status = opened.open_search(folder).status()
    assert (status["trained"], status["waiting"], status["finished"]) == (7, 0, True)


def test_watching_waits_between_a_tuning_and_its_search(
    tmp_path: Path, call: Call, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_work = running.AtWork(tmp_path / "out", "ward", "tune", lambda event: None)
    left: list[Callable[[], object]] = [
        at_work.__exit__,
        lambda: shutil.copytree(finished, tmp_path / "out", dirs_exist_ok=True),
    ]
    monkeypatch.setattr("time.sleep", lambda seconds: left.pop(0)())
    with at_work:
        code, out, err = call("status", tmp_path / "out", "--watch")
    assert (code, left) == (0, []), err
    assert "yes: tim-search tune, process" in out
    assert " units, 0 failed" in out


def test_watching_ends_with_ctrl_c(started: Path) -> None:
    watcher = started_to_be_stopped(started, "-m", "tim_search", "status", str(started), "--watch", "--every", "60")
    assert watcher.stdout is not None
    assert watcher.stdout.readline() == "4 of 7 units, 0 failed\n"
    watcher.send_signal(signal.SIGINT)
    _, err = watcher.communicate(timeout=60)
    assert watcher.returncode == 130
    assert "Stopped watching" in err
    assert "Traceback" not in err


#: Runs the command line; what opens the file of this name waits there, as on a slow disk, and says so.
SLOW_DISK = """
import sys
from tim_search.gates import files

opened, waits_for = files.open_regular, sys.argv.pop(1)

def slow(path, *more):
    if str(path).endswith(waits_for):
        print("waits", flush=True)
        exec("import time; time.sleep(60)")  # Python keeps in mind that it was interrupted in a text
    return opened(path, *more)

files.open_regular = slow
from tim_search.__main__ import main
main()
"""


def started_to_be_stopped(folder: Path, *command: str) -> subprocess.Popen[str]:
    """A command of Python's in a folder, which a signal stops also where those who test ignore it."""
    return subprocess.Popen(
        [sys.executable, *command],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        # Tests that run in the background of a shell ignore Ctrl-C, and what they start would too.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


@pytest.mark.parametrize(
    ("arguments", "waits", "number"),
    [
        ("check s.yaml", "s.yaml", signal.SIGINT),
        ("check s.yaml", "s.yaml", signal.SIGTERM),
        pytest.param("run s.yaml", "s.yaml", signal.SIGINT, marks=pytest.mark.slow),
        pytest.param("report out", "out/search.json", signal.SIGINT, marks=pytest.mark.slow),
        pytest.param("tim out", "out/search.json", signal.SIGINT, marks=pytest.mark.slow),
        pytest.param("confirm out", "out/search.json", signal.SIGINT, marks=pytest.mark.slow),  # imports torch and Ray
        pytest.param("cohort export ward copy", "ward/cohort.yaml", signal.SIGINT, marks=pytest.mark.slow),
    ],
)
def test_any_command_tells_that_it_was_interrupted(
    tmp_path: Path, arguments: str, waits: str, number: signal.Signals
) -> None:
    """A command that waits for its input is stopped there, also in the middle of an `exec` of Python's."""
    path = tmp_path / waits
    path.parent.mkdir(exist_ok=True)
    path.write_text("{}")
    running = started_to_be_stopped(tmp_path, "-c", SLOW_DISK, waits, *arguments.split())
    assert running.stdout is not None
    assert running.stdout.readline() == "waits\n"
    running.send_signal(number)
    out, err = running.communicate(timeout=60)
    assert running.returncode == 130, err
    assert out == ""
    assert err.splitlines()[-1] == "stopped: Interrupted; nothing is lost. The same command can be run again."
    assert "Traceback" not in err


def test_an_interruption_while_modules_are_loaded_is_told(tmp_path: Path) -> None:
    """A library that is being loaded may swallow a KeyboardInterrupt, or make an error of its own of it."""
    (tmp_path / "typer.py").write_text(
        "import time\nprint('loading', flush=True)\ntry:\n    time.sleep(60)\nexcept BaseException:\n"
        "    raise ImportError('half loaded')\n"
    )
    for number in (signal.SIGINT, signal.SIGTERM):
        code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from tim_search.cli import main; main()"
        running = started_to_be_stopped(tmp_path, "-c", code, "status", "out")
        assert running.stdout is not None
        assert running.stdout.readline() == "loading\n"
        running.send_signal(number)
        assert running.communicate(timeout=60) == (
            "",
            "stopped: Interrupted before anything was done. The same command can be run again.\n",
        )
        assert running.returncode == 130


# -------------------------------------------------------------------- checking


def test_check_tells_what_is_missing_and_what_failed(call: Call, started: Path, tmp_path: Path) -> None:
    code, out, _ = call("check", started, "--json")
    (finding,) = json.loads(out)["findings"]
    assert code == 0
    assert finding["problem"] == "3 units that the search asks for at present are not in it (4 are)."
    assert f"tim-search run {started / 'search.yaml'} --out {started}" in finding["fix"]
    failing = trained_search(tmp_path / "failing", diverge=(("hospdead",),))
    (finding,) = json.loads(call("check", failing, "--json")[1])["findings"]
    assert finding["problem"] == "1 units failed: diverged at epoch 3."


def test_check_takes_a_ledger_alone(call: Call, finished: Path, bucket: str) -> None:
    code, out, _ = call("check", finished / "ledger", "--json")
    assert (code, json.loads(out)["findings"]) == (0, [])

    ledger = Ledger(f"{bucket}/ledger")
    ledger.absorb(Ledger(finished / "ledger"))
    ledger.storage.put("scores/notes.txt", b"mine")
    code, out, _ = call("check", f"{bucket}/ledger")
    assert code == 2
    assert "notes.txt: it is not a file of this ledger" in out


# -------------------------------------------------------------------- logs


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / events.NAME).read_text(encoding="utf-8").splitlines()]


def test_a_log_has_one_object_a_line(tmp_path: Path) -> None:
    with EventLog(tmp_path, print, search="small") as log:
        log.tell(Event("pack", 1, 4, 7, 0, 1.5))
        log.warning("MLflow is away:\nsecond line")
    with pytest.raises(BadInput), EventLog(tmp_path, print, search="small"):
        raise BadInput("no room")
    with pytest.raises(ValueError, match="secret"), EventLog(tmp_path, print, search="small"):
        raise ValueError("a secret")
    found = lines(tmp_path)
    assert [line["event"] for line in found] == ["start", "pack", "warning", "end", "start", "end", "start", "end"]
    assert (found[1]["done"], found[1]["total"], found[2]["message"]) == (4, 7, "MLflow is away:\nsecond line")
    assert [(line["outcome"], line.get("message")) for line in found if line["event"] == "end"] == [
        ("finished", None),
        ("BadInput", "no room"),
        ("ValueError", ""),
    ]
    assert all(line["time"].endswith("+00:00") and line["pid"] == os.getpid() for line in found)


def test_a_log_that_cannot_be_written_is_one_warning(tmp_path: Path) -> None:
    warned: list[str] = []
    with EventLog(tmp_path / "gone", warned.append) as log:
        log.tell(Event("pack", 1, 4, 7, 0, 1.5))
    assert len(warned) == 1
    assert "cannot be written" in warned[0]


def test_lines_of_several_writers_do_not_mix(tmp_path: Path) -> None:
    logs = [EventLog(tmp_path, print) for _ in range(4)]

    def write_many(log: EventLog) -> None:
        for number in range(50):
            log.write("round", text="x" * 3000, number=number)

    threads = [threading.Thread(target=write_many, args=(log,)) for log in logs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(lines(tmp_path)) == 200


# -------------------------------------------------------------------- submitted jobs


@pytest.mark.parametrize("arguments", [(), ("--out", "results"), ("--out", "{tmp_path}/stays")])
def test_a_job_does_not_write_where_nobody_looks(
    call: Call,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
) -> None:
    """The ledger of the last one is relative to the submitted folder."""
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    (tmp_path / "submitted").mkdir()
    monkeypatch.chdir(tmp_path / "submitted")
    path = write_search(
        tmp_path / "submitted" / "small.yaml", **({"ledger": "mine"} if "{" in "".join(arguments) else {})
    )
    code, _, err = call("run", path.name, *(one.format(tmp_path=tmp_path) for one in arguments))
    assert code == 2
    assert "A submitted job works in a temporary copy of the submitted folder" in err.replace("\n", " ")
    assert sorted(one.name for one in tmp_path.rglob("*")) == ["small.yaml", "submitted"]


def test_a_search_whose_ledger_is_in_a_bucket(call: Call, tmp_path: Path, bucket: str) -> None:
    """From the file to the TIM scores; the search folder holds no score and still reads them."""
    folder = trained_search(tmp_path / "remote", ledger=f"{bucket}/shared")
    assert not (folder / "ledger").exists()
    found = json.loads(call("status", folder, "--json")[1])
    assert (found["ledger"], found["trained"], found["finished"]) == (f"{bucket}/shared", 7, True)
    code, out, err = call("tim", folder, "--json")
    assert code == 0, err
    assert json.loads(out)["label"] == "exact TIM"
    assert f"ledger: {bucket}/shared" in (folder / "search.yaml").read_text()
    assert "not-a-secret" not in "".join(path.read_text() for path in folder.glob("search.*"))
    assert opened.open_search(folder).check() == []
