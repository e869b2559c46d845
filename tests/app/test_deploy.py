"""From a search folder to a served model: training, the log of test readings, MLflow, the card, the command line."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest

from model.trained import final_training
from tests.support import ROOT
from tests.support.mlflow_stores import server, uri_of
from tim_search import tracking
from tim_search.app import deploy, model_folder
from tim_search.cli import commands as cli
from tim_search.results import confirmation, opened, readings, verdicts
from tim_search.types import BadInput


@pytest.fixture
def folder(finished_search: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished_search, tmp_path / "out")
    return tmp_path / "out"


def rows(made: deploy.Trained, n: int = 6) -> pd.DataFrame:
    """Made-up rows that differ."""
    example = model_folder.load(str(made.folder)).example()
    many = pd.concat([example] * n, ignore_index=True)
    return many.assign(age=np.linspace(30, 90, n).round(), scoma=[0.0, np.nan, 40.0, 90.0, 0.0, 26.0][:n])


def test_the_model_lies_in_the_folder_and_in_mlflow(published_model: deploy.Trained) -> None:
    out = published_model.folder.parent.parent
    assert published_model.folder == out / "models" / "hospdead-1"
    assert [entry.name for entry in (out / "models").iterdir()] == ["hospdead-1"]
    table = tracking.models(uri_of(out), "small")
    (row,) = table.to_dict("records")
    assert (row["source"], row["subset"], row["registered"]) == (
        "hospdead", "hospdead + phenotype + slos_log", "death/1",
    )  # fmt: skip
    assert row["model_uri"] == published_model.published["model_uri"]
    score = next(one for one in published_model.scores if one["task"] == "hospdead")
    assert row["score"] == pytest.approx(score["value"])
    assert row["low"] < row["score"] < row["high"]
    said = model_folder.load(str(published_model.folder)).predict(rows(published_model))
    for reference in (row["model_uri"], f"runs:/{row['run_id']}", "models:/death/1"):
        pd.testing.assert_frame_equal(model_folder.load(reference, uri_of(out)).predict(rows(published_model)), said)
    (parent,) = tracking.searches(uri_of(out)).to_dict("records")
    assert parent["status"] == "FINISHED"  # no search runs, and none is left as running
    with pytest.raises(BadInput, match="no search 'other'"):
        tracking.models(uri_of(out), "other")
    with pytest.raises(BadInput, match="could not be read"):
        model_folder.load("models:/death/7", uri_of(out))
    with pytest.raises(BadInput, match="expected models:/NAME/VERSION"):
        model_folder.load("models:/death", uri_of(out))


def test_mlflow_runs_the_model_as_it_lies(published_model: deploy.Trained) -> None:
    served = mlflow.pyfunc.load_model(str(published_model.folder))
    some = rows(published_model)
    expected = model_folder.load(str(published_model.folder)).predict(some)
    pd.testing.assert_frame_equal(served.predict(some[some.columns[::-1]]), expected)
    # Whole numbers and records as a request holds them.
    pd.testing.assert_frame_equal(served.predict(some.astype({"age": "int64"})), expected)
    records = json.loads(some.to_json(orient="records"))
    pd.testing.assert_frame_equal(served.predict(records), expected)
    pd.testing.assert_frame_equal(served.predict(records[0]), expected.iloc[:1])
    without = served.predict(some.drop(columns=["prg2m", "prg6m"]))
    assert (without["absent_modalities"] == "prognosis").all()
    with pytest.raises(BadInput, match=r"agee \(did you mean age"):
        served.predict(some.rename(columns={"age": "agee"}))
    signature = served.metadata.signature
    assert {column.name: str(column.type) for column in signature.inputs}["sex"] == "DataType.string"
    assert not any(column.required for column in signature.inputs)
    assert signature.outputs.input_names() == list(expected)
    assert len(served.predict(served.input_example)) == 1


def test_the_model_tells_nothing_of_the_machine_or_of_patients(published_model: deploy.Trained) -> None:
    texts = [
        path for path in published_model.folder.rglob("*") if path.suffix not in (".npz", ".pyc") and path.is_file()
    ]
    assert {"MLmodel", "model_card.md", "requirements.txt", "serving.py", "model.json"} <= {path.name for path in texts}
    for path in texts:
        assert str(Path.home()) not in path.read_text(encoding="utf-8")
        assert str(published_model.folder.parent) not in path.read_text(encoding="utf-8")
    assert not list(published_model.folder.rglob("*.pkl"))
    pins = (published_model.folder / "requirements.txt").read_text().split()
    assert {pin.split("==")[0] for pin in pins} >= {"tim-search", "torch", "numpy", "pandas", "mlflow"}


def test_the_card_says_what_was_measured(published_model: deploy.Trained) -> None:
    card = (published_model.folder / "model_card.md").read_text(encoding="utf-8")
    for row in published_model.scores:
        line = next(line for line in card.splitlines() if line.startswith(f"| {row['task']} | {row['metric']} |"))
        assert (f"{row['value']:.3f}" if row["value"] is not None else row["why"]) in line
    for part in ("7,007 samples", "named by the user", "Not checked", "have been read once", "`prg2m`", "epochs 1"):
        assert part in card


def test_a_reading_is_logged_before_it_happens(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking.Tracker, "model", lambda *_: {})
    seen: list[int] = []
    judge = final_training.evaluate

    def evaluate(*arguments: object) -> object:
        seen.append(len(readings.read(folder)))
        return judge(*arguments)

    monkeypatch.setattr(final_training, "evaluate", evaluate)
    first = deploy.train(folder, "slos_log", members=["slos_log"])
    second = deploy.train(folder, "slos_log", members=["slos_log"], seeds=2)
    assert seen == [1, 2]
    assert [entry["seeds"] for entry in readings.read(folder)] == [[0], [0, 1]]
    assert [entry["subset"] for entry in readings.read(folder)] == [["slos_log"]] * 2
    assert [made.folder.name for made in (first, second)] == ["slos_log-1", "slos_log-2"]
    assert "have been read twice" in (second.folder / "model_card.md").read_text(encoding="utf-8")
    # What cannot be logged is not read.
    (folder / readings.FILE).unlink()
    (folder / readings.FILE).mkdir()
    with pytest.raises(BadInput, match="may not be read"):
        deploy.train(folder, "slos_log", members=["slos_log"])
    assert seen == [1, 2]


def test_the_combination_is_the_one_the_search_chose(finished_search: Path) -> None:
    results = opened.open_search(finished_search)
    for rule in ("paper", "lower_bound"):
        best = {one.source: one.best for one in results.expand(rule)[0]}
        for source in results.tasks:
            assert deploy._chosen(results, source, rule, None)[0] == best[source]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"source": "death"}, "expected tasks of the search, got death"),
        ({"source": "hospdead", "members": ["hospdead", "nix"]}, "expected tasks of the search, got nix"),
        ({"source": "hospdead", "members": ["slos_log"]}, "holds the source hospdead"),
        ({"source": "hospdead", "seeds": 0}, "--seeds"),
    ],
    ids=["source", "member", "without source", "seeds"],
)
def test_bad_choices_are_told_before_anything_is_read(folder: Path, options: dict, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        deploy.train(folder, **options)
    assert readings.read(folder) == []
    assert not (folder / "models").exists()


def test_another_cohort_than_the_searchs_is_refused(folder: Path) -> None:
    path = folder / "search.yaml"
    path.write_text(path.read_text().replace("epochs: 1", "epochs: 2"))
    with pytest.raises(BadInput, match="no longer those of the search"):
        deploy.train(folder, "hospdead")
    assert readings.read(folder) == []


def test_mlflow_down_costs_no_model(folder: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        path = folder / "search.yaml"
        path.write_text(path.read_text() + f"\ntracking_uri: http://127.0.0.1:{closed.getsockname()[1]}\n")
        said: list[str] = []
        made = deploy.train(folder, "slos_log", members=["slos_log"], register="stay", warn=said.append)
    assert made.missed
    assert made.published == {}
    (warning,) = said
    assert f"The model is whole in {made.folder}" in warning
    assert len(model_folder.load(str(made.folder)).predict(rows(made))) == 6


MAKER = """
import sys, tempfile, time
from pathlib import Path
from tim_search.app import model_folder
models = Path(sys.argv[1])
with model_folder.alone(models), tempfile.TemporaryDirectory(dir=models, prefix=model_folder.MAKING) as aside:
    (Path(aside) / "files").mkdir()
    print("making", flush=True)
    time.sleep(600)
"""


def test_what_a_killed_training_left_is_cleared_and_a_living_one_is_not(tmp_path: Path) -> None:
    root = ROOT
    maker = subprocess.Popen([sys.executable, "-c", MAKER, str(tmp_path)], stdout=subprocess.PIPE, text=True, cwd=root)
    try:
        assert maker.stdout is not None
        assert maker.stdout.readline() == "making\n"
        entered = threading.Event()

        def enter() -> None:
            with model_folder.alone(tmp_path):
                entered.set()

        waiting = threading.Thread(target=enter)
        waiting.start()
        assert not entered.wait(0.5)
        assert len(list(tmp_path.glob(".making-*/files"))) == 1
    finally:
        maker.kill()
        maker.communicate(timeout=60)
    assert entered.wait(60)
    waiting.join(60)
    assert list(tmp_path.iterdir()) == []


def test_a_moved_folder_takes_its_models_along(published_model: deploy.Trained, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(published_model.folder.parent.parent, moved)
    hidden = published_model.folder.parent.parent / "mlartifacts"
    hidden.rename(hidden.with_name("gone"))
    try:
        said = model_folder.load("models:/death/1", uri_of(moved)).predict(rows(published_model))
        assert len(said) == 6
        # Written on, the database points at the artifacts beside it, also for MLflow itself.
        tracker = tracking.Tracker(uri_of(moved), "small", "another", beside=True)
        tracker.metrics({"units": 1})
        assert tracker.missed == []
        location = mlflow.MlflowClient(uri_of(moved)).get_model_version_download_uri("death", "1")
        assert str(moved) in location
    finally:
        hidden.with_name("gone").rename(hidden)


def test_the_command_line_predicts(
    published_model: deploy.Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    some = rows(published_model)
    some.insert(0, "patient", [f"00{number}" for number in range(6)])
    some.to_csv(tmp_path / "rows.csv", index=False)
    some.to_parquet(tmp_path / "rows.parquet", index=False)
    cli.app(
        ["predict", str(published_model.folder), str(tmp_path / "rows.csv"), "--id", "patient"], standalone_mode=False
    )
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("patient,hospdead,phenotype,slos_log,absent_modalities")
    assert [line.split(",")[0] for line in printed[1:]] == list(some["patient"])
    arguments = ["predict", str(published_model.folder), str(tmp_path / "rows.parquet"), "--id", "patient"]
    cli.app([*arguments, "--out", str(tmp_path / "said.parquet")], standalone_mode=False)
    cli.app([*arguments, "--json"], standalone_mode=False)
    plain = pd.DataFrame(json.loads(capsys.readouterr().out)["predictions"])
    written = pd.read_parquet(tmp_path / "said.parquet")
    assert plain["hospdead"].to_numpy() == pytest.approx(written["hospdead"].to_numpy())
    for wrong, words in (
        ([str(published_model.folder), str(tmp_path / "none.csv")], "expected a table .* there is none"),
        ([str(published_model.folder), str(tmp_path / "rows.csv"), "--id", "nix"], "expected the id column nix"),
        ([str(published_model.folder), str(tmp_path / "rows.csv")], "unknown ones: patient"),
        ([str(tmp_path), str(tmp_path / "rows.csv")], "cannot be read as a model"),
    ):
        with pytest.raises(BadInput, match=words):
            cli.app(["predict", *wrong], standalone_mode=False)


# Real processes -------------------------------------------------------------------------------------------------------


def ask(port: int, content: bytes, kind: str) -> tuple[int, dict]:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/invocations", content, {"Content-Type": kind}, method="POST"
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_mlflow_serves_the_model(published_model: deploy.Trained, tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", str(published_model.folder), "--env-manager",
               "local", "--host", "127.0.0.1", "--port", str(port)]  # fmt: skip
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    with (tmp_path / "serve.log").open("ab") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, start_new_session=True, env={**os.environ, "PATH": path}
        )
    try:
        until = time.monotonic() + 300
        while True:
            assert process.poll() is None, (tmp_path / "serve.log").read_text()
            assert time.monotonic() < until, "the model did not come up"
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=2).close()
                break
            except OSError:
                time.sleep(0.3)
        some = rows(published_model).drop(columns=["prg2m", "prg6m"])
        expected = model_folder.load(str(published_model.folder)).predict(some)
        records = json.loads(some.to_json(orient="records"))
        status, said = ask(port, json.dumps({"inputs": records}).encode(), "application/json")
        assert status == 200
        frame = pd.DataFrame(said["predictions"])
        assert frame["hospdead"].to_numpy() == pytest.approx(expected["hospdead"].to_numpy())
        assert (frame["absent_modalities"] == "prognosis").all()
        status, said = ask(port, some[some.columns[::-1]].to_csv(index=False).encode(), "text/csv")
        assert status == 200
        assert pd.DataFrame(said["predictions"])["hospdead"].to_numpy() == pytest.approx(
            expected["hospdead"].to_numpy()
        )
        wrong = [{**record, "bloodtype": "A"} for record in records]
        status, said = ask(port, json.dumps({"inputs": wrong}).encode(), "application/json")
        assert status == 400
        assert "unknown ones: bloodtype" in json.dumps(said)
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_mlflow_predicts_from_a_file(published_model: deploy.Trained, tmp_path: Path) -> None:
    some = rows(published_model)
    some.to_csv(tmp_path / "rows.csv", index=False)
    command = [sys.executable, "-m", "mlflow", "models", "predict", "-m", str(published_model.folder), "-i",
               str(tmp_path / "rows.csv"), "-t", "csv", "-o", str(tmp_path / "said.json"),
               "--env-manager", "local"]  # fmt: skip
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    subprocess.run(command, check=True, env={**os.environ, "PATH": path}, timeout=400)
    said = pd.DataFrame(json.loads((tmp_path / "said.json").read_text())["predictions"])
    expected = model_folder.load(str(published_model.folder)).predict(some)
    assert said["slos_log"].to_numpy() == pytest.approx(expected["slos_log"].to_numpy())


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_model_goes_to_a_remote_server_and_comes_back(folder: Path, server_folder: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    with server(server_folder, port):
        uri = f"http://127.0.0.1:{port}"
        path = folder / "search.yaml"
        path.write_text(path.read_text() + f"\ntracking_uri: {uri}\n")
        said: list[str] = []
        made = deploy.train(folder, "hospdead", members=["hospdead", "slos_log"], register="death", warn=said.append)
        assert said == []
        (row,) = tracking.models(uri).to_dict("records")
        assert row["registered"] == "death/1"
        expected = model_folder.load(str(made.folder)).predict(rows(made))
        for reference in ("models:/death/1", row["model_uri"]):
            pd.testing.assert_frame_equal(model_folder.load(reference, uri).predict(rows(made)), expected)
        # A user with nothing but MLflow.
        code = "import mlflow, sys, pandas; m = mlflow.pyfunc.load_model('models:/death/1'); " \
               "print(m.predict(m.input_example)['hospdead'].item())"  # fmt: skip
        environment = {**os.environ, "MLFLOW_TRACKING_URI": uri, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True, timeout=400
        )
        example = model_folder.load(str(made.folder)).predict(model_folder.load(str(made.folder)).example())
        assert float(done.stdout.split()[-1]) == pytest.approx(example["hospdead"].item())


def refuting(folder: Path, members: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """A confirmation that showed a combination to be worse than slos_log alone."""
    worse = confirmation.Contrast(-0.05, -0.08, -0.02, 0.001)
    test = confirmation.Confirmed(
        "slos_log", "r2", members, 5, 0.2, 0.15, 0.01, 0.01, 0.0, 0.0, worse, confirmation.UNKNOWN,
        confirmation.UNKNOWN, -25.0, 0.01, True, "refuted: the combination is worse on untouched patients",
    )  # fmt: skip
    monkeypatch.setattr(verdicts, "tested", lambda results: {"slos_log": (test,)})


def test_a_refuted_combination_is_trained_only_despite_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    members = ("hospdead", "slos_log")
    refuting(folder, members, monkeypatch)
    given: list[str] = []
    monkeypatch.setattr(tracking.Tracker, "model", lambda *arguments: given.append(arguments[-1]) or {})
    with pytest.raises(BadInput, match=r"refuted for slos_log.*Train slos_log.*--despite"):
        deploy.train(folder, "slos_log", members=members)
    assert readings.read(folder) == []
    results = opened.open_search(folder)
    assert deploy._chosen(results, "slos_log", None, None)[0] == ("slos_log",), "the verdict advises to stay alone"
    made = deploy.train(folder, "slos_log", members=members, despite=True)
    card = (made.folder / "model_card.md").read_text(encoding="utf-8")
    assert "Verdict of the search: slos_log: refuted with hospdead" in card
    assert given == ["refuted with hospdead"]
