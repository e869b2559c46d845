"""MLflow for real: a SQLite store, a server on the loopback, a server that is down, hangs or dies."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient

from tests.support import ROOT
from tests.support.mlflow_stores import figure, free_port, publish_round, result, server, stop, uri_of
from tim_search import tracking
from tim_search.ledger.table import ScoreTable
from tim_search.plans.greedy import Greedy
from tim_search.tim import scores as tim
from tim_search.tracking import Tracker, confirmed, heatmaps, models, newest_heatmap, queries, searches
from tim_search.types import BadInput, Interrupted


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A SQLite store in a folder of an awkward name, made once: its first use takes seconds."""
    return uri_of(tmp_path_factory.mktemp("out put ü"))


# A SQLite store -------------------------------------------------------------------------------------------------------


def test_a_search_from_start_to_query(store: str, tmp_path: Path) -> None:
    tim_result = result()
    rows = pd.DataFrame({"subset": [["a", "b"], ["a"]], "task": ["a", "a"], "score": [0.7, np.nan]})
    warnings: list[str] = []
    settings = {"design": "exact", "long": "x" * 10_000, "seeds": [0, 1]}
    with Tracker(
        store, "demo", "id-1", cohort="support2", context="c0ffee", settings=settings, warn=warnings.append
    ) as t:
        t.metrics({"units_done": 7, "units_failed": 0, "seconds": float("nan")}, step=1)
        t.heatmap(tim_result, [figure(tmp_path), figure(tmp_path, "heatmap_value.png")], round=1)
        t.ledger(rows)
        (tmp_path / "page").mkdir()
        (tmp_path / "page" / "report.html").write_text("<!doctype html>")
        t.report(tmp_path / "page" / "report.html")
    assert warnings == []
    assert t.missed == []

    found = heatmaps(store, "demo")
    assert len(found) == 1
    row = found.iloc[0]
    assert (row["search"], row["search_id"], row["round"], row["n_tasks"]) == ("demo", "id-1", 1, 3)
    assert (row["estimator"], row["label"]) == ("exact", tim_result.label)
    assert (row["cohort"], row["context"]) == ("support2", "c0ffee")
    assert row["figures"] == ["figures/heatmap_rank.png", "figures/heatmap_value.png"]
    assert abs(pd.Timestamp.now("UTC") - row["created"]) < pd.Timedelta(minutes=5)

    newest = newest_heatmap(store, "demo", tmp_path / "fetched")
    pd.testing.assert_frame_equal(newest.table, tim_result.to_frame(), check_dtype=False, atol=1e-9)
    assert newest.figures["heatmap_value.png"].read_bytes() == figure(tmp_path, "heatmap_value.png").read_bytes()
    assert sorted(path.name for path in (tmp_path / "fetched").iterdir()) == ["heatmap_rank.png", "heatmap_value.png"]

    # What a reader with MLflow alone sees: one parent with its settings, one nested run, no run a training.
    client = MlflowClient(tracking_uri=store)
    (listed,) = [one for one in searches(store).to_dict("records") if one["search"] == "demo"]
    parent = client.get_run(listed["run_id"])
    assert (listed["status"], parent.info.status) == ("FINISHED", "FINISHED")
    assert parent.data.params["design"] == "exact"
    assert parent.data.params["seeds"] == "[0,1]"
    assert len(parent.data.params["long"]) < 6000
    assert parent.data.params["long"].endswith("(10000 characters, in full in search.json)")
    assert parent.data.metrics == {"units_done": 7.0, "units_failed": 0.0}
    assert client.get_run(row["run_id"]).data.tags["mlflow.parentRunId"] == listed["run_id"]
    kept = pd.read_parquet(client.download_artifacts(listed["run_id"], "ledger/ledger.parquet", str(tmp_path)))
    assert kept["score"].tolist()[0] == 0.7
    assert list(kept["subset"][0]) == ["a", "b"]
    page = client.download_artifacts(listed["run_id"], "report.html", str(tmp_path))
    assert Path(page).read_text() == "<!doctype html>"
    beside = Path(store.removeprefix("sqlite:///")).parent / "mlartifacts"
    assert list(beside.rglob("heatmap_rank.png")), "artifacts lie beside the database"


def test_publishing_twice_makes_no_doubles(store: str, tmp_path: Path) -> None:
    for _ in range(2):  # the second is a search started again
        with Tracker(store, "twice", "id-2", settings={"seeds": 1}) as tracker:
            for _ in range(2):
                tracker.heatmap(result(), [figure(tmp_path)], round=1)
        assert tracker.missed == []
    assert len(heatmaps(store, "twice")) == 1
    assert len(newest_heatmap(store, "twice").table) == 6
    assert (searches(store)["search"] == "twice").sum() == 1


def test_the_newest_heatmap_is_the_last_published(store: str, tmp_path: Path) -> None:
    with Tracker(store, "rounds", "id-3") as tracker:
        for number in (1, 2):
            tracker.heatmap(result(number), [figure(tmp_path, content=bytes([number]))], round=number)
    found = heatmaps(store, "rounds")
    assert found["round"].tolist() == [2, 1]
    newest = newest_heatmap(store, "rounds")
    assert newest.round == 2
    assert newest.figures["heatmap_rank.png"].read_bytes().endswith(b"\x02")
    # Another table for a round is newer than the one before, and going back to the first is newer again.
    with Tracker(store, "rounds", "id-3") as tracker:
        tracker.heatmap(result(7), [figure(tmp_path)], round=2)
        tracker.heatmap(result(2), [figure(tmp_path)], round=2)
    assert heatmaps(store, "rounds")["round"].tolist() == [2, 2, 2, 1]
    assert newest_heatmap(store, "rounds").table["estimate"].tolist() == pytest.approx(
        result(2).to_frame()["estimate"].tolist(), abs=1e-9
    )


def test_the_answer_of_many_tasks_with_odd_names(store: str) -> None:
    names = [f"task {k} (50 %)" for k in range(300)]
    with Tracker(store, "many", "id-many") as tracker:
        tracker.answer(
            "x" * 10_000,
            [{"source": name, "verdict": "unclear"} for name in names],
            {
                f"{kind}.{name}": 0.5
                for kind in ("alone", "best", "reference.linear", "reference.none")
                for name in names
            },
        )
    assert tracker.missed == []
    (row,) = [one for one in searches(store).to_dict("records") if one["search"] == "many"]
    data = MlflowClient(tracking_uri=store).get_run(row["run_id"]).data
    assert len(data.metrics) == 1200
    assert data.metrics["reference.linear.task 299 _50 __"] == 0.5
    assert data.tags["verdict.task 0 _50 __"] == "unclear"
    assert len(data.tags["mlflow.note.content"]) == 6000


def test_a_started_search_goes_on_in_the_same_run_and_keeps_its_first_parameters(store: str) -> None:
    with Tracker(store, "resumed", "id-4", settings={"budget": 100}) as tracker:
        tracker.metrics({"units_done": 1}, step=1)
    with pytest.raises(Interrupted), Tracker(store, "resumed", "id-4", settings={"budget": 200, "new": 1}) as tracker:
        raise Interrupted("stopped")
    assert tracker.missed == []
    (row,) = [one for one in searches(store).to_dict("records") if one["search"] == "resumed"]
    assert row["status"] == "KILLED"
    params = MlflowClient(tracking_uri=store).get_run(row["run_id"]).data.params
    assert params == {"budget": "100", "new": "1"}
    with pytest.raises(ZeroDivisionError), Tracker(store, "resumed", "id-4"):
        _ = 1 / 0
    assert searches(store).set_index("search").loc["resumed", "status"] == "FAILED"


def test_half_a_publication_is_never_shown_and_is_cleared_away(store: str, tmp_path: Path) -> None:
    warnings: list[str] = []
    with Tracker(store, "half", "id-5", warn=warnings.append) as tracker:
        tracker.heatmap(result(), [tmp_path / "missing.png"], round=1)
        assert len(heatmaps(store, "half")) == 0
        with pytest.raises(BadInput, match="has no heatmap"):
            newest_heatmap(store, "half")
        tracker.heatmap(result(), [figure(tmp_path)], round=1)
    assert len(warnings) == 1
    assert "missing.png" in warnings[0]
    assert len(heatmaps(store, "half")) == 1
    client = MlflowClient(tracking_uri=store)
    (experiment,) = [e for e in client.search_experiments() if e.name == "tim-search"]
    assert len(client.search_runs([experiment.experiment_id], "tags.search = 'half' and tags.kind = 'heatmap'")) == 1


def test_restricted_scores_keep_their_name(store: str, tmp_path: Path) -> None:
    membership = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [1, 0, 1], [0, 1, 1]], bool)
    scores = np.where(membership, 0.5, np.nan)
    pairs = tim.estimate(membership, scores, method="restricted", tasks=("a", "b", "c"))
    with Tracker(store, "pairs", "id-6") as tracker:
        tracker.heatmap(pairs, [figure(tmp_path)], round=1)
    row = heatmaps(store, "pairs").iloc[0]
    assert row["estimator"] == "restricted"
    assert "restricted" in row["label"]
    run = MlflowClient(tracking_uri=store).get_run(row["run_id"])
    assert "restricted" in run.info.run_name
    # What the result warns of stands in the description of the run.
    assert all(note[:100] in run.data.tags["mlflow.note.content"] for note in pairs.notes)


def test_the_expansion_is_a_run_of_its_own(store: str, tmp_path: Path) -> None:
    membership = np.array([[1, 0], [0, 1], [1, 1]], bool)
    scores = np.where(membership[:, None], [[[0.5, 0.5]], [[0.5, 0.5]], [[0.6, 0.4]]], np.nan)
    table = ScoreTable(("a", "b"), ((0, 0),), membership, scores, np.ones((3, 1), bool))
    plan = Greedy(("a", "b"), ("a", "b"), rule="paper")
    with Tracker(store, "greedy", "id-7") as tracker:
        for _ in range(2):
            tracker.expansion(plan.result(table), plan.sharing(table), [figure(tmp_path, "expansion.png")])
    assert tracker.missed == []
    client = MlflowClient(tracking_uri=store)
    (experiment,) = [e for e in client.search_experiments() if e.name == "tim-search"]
    (run,) = client.search_runs([experiment.experiment_id], "tags.search = 'greedy' and tags.kind = 'expansion'")
    assert run.data.metrics == {"trainings_shared": 3, "trainings_alone": 4}
    assert len(heatmaps(store)) > 0, "and no heatmap"
    assert "greedy" not in heatmaps(store)["search"].tolist()


def test_the_callers_own_mlflow_is_left_alone(store: str, empty_store: str, tmp_path: Path) -> None:
    own = empty_store
    own_client = MlflowClient(tracking_uri=own)
    own_client.create_experiment("own", artifact_location=(tmp_path / "own").as_uri())
    mlflow.set_tracking_uri(own)
    environment = dict(os.environ)
    level = logging.getLogger("alembic").level
    try:
        with mlflow.start_run(experiment_id=own_client.get_experiment_by_name("own").experiment_id) as run:
            with Tracker(store, "guest", "id-8") as tracker:
                tracker.heatmap(result(), [figure(tmp_path)], round=1)
            assert len(heatmaps(store, "guest")) == 1
            newest_heatmap(store, "guest", tmp_path)
            assert mlflow.active_run().info.run_id == run.info.run_id
        assert mlflow.get_tracking_uri() == own
        assert dict(os.environ) == environment
        assert logging.getLogger("alembic").level == level
        assert own_client.get_run(run.info.run_id).data.metrics == {}
    finally:
        mlflow.set_tracking_uri(None)
        os.environ.pop("MLFLOW_TRACKING_URI", None)


def test_an_experiment_that_was_there_before(store: str, tmp_path: Path) -> None:
    MlflowClient(tracking_uri=store).create_experiment("ours", artifact_location=(tmp_path / "a").as_uri())
    with Tracker(store, "in-ours", "id-9", experiment="ours") as tracker:
        tracker.heatmap(result(), [figure(tmp_path)], round=1)
    assert tracker.missed == []
    assert len(heatmaps(store, "in-ours")) == 1


# A database cut short, a folder moved ---------------------------------------------------------------------------------


def fresh_store(folder: Path, empty_store: str) -> str:
    """A store in a folder of its own, with its database made already."""
    folder.mkdir(exist_ok=True)
    shutil.copy(empty_store.removeprefix("sqlite:///"), folder / "mlflow.db")
    return uri_of(folder)


def half_made(path: Path, empty_store: str) -> None:
    """What a kill during MLflow's migrations leaves: tables, no version of them, no default experiment."""
    shutil.copy(empty_store.removeprefix("sqlite:///"), path)
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        for statement in ("DELETE FROM alembic_version", "DELETE FROM experiments", "DROP TABLE traces_archival"):
            with contextlib.suppress(sqlite3.OperationalError):
                database.execute(statement)


def garbled(path: Path, empty_store: str) -> None:
    """A database whose beginning alone is right."""
    content = Path(empty_store.removeprefix("sqlite:///")).read_bytes()
    path.write_bytes(content[:200] + b"\xff" * (len(content) - 200))


@pytest.mark.parametrize("breaks", [half_made, garbled])
def test_a_broken_database_is_left_as_it_is_and_what_to_do_is_said(
    breaks: Callable[[Path, str], None], empty_store: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mlflow.db"
    breaks(path, empty_store)
    broken = path.read_bytes()
    for query in (searches, heatmaps, lambda uri: newest_heatmap(uri, "demo")):
        with pytest.raises(BadInput, match=r"mlflow\.db is broken .*Move it away, as with `mv "):
            query(uri_of(tmp_path))
    messages: list[str] = []
    with Tracker(uri_of(tmp_path), "demo", "id", warn=messages.append) as tracker:
        tracker.heatmap(result(3), [figure(tmp_path)], round=3)
    (warning,) = messages
    assert "is broken" in warning
    assert "when MLflow answers" not in warning
    assert path.read_bytes() == broken
    path.rename(tmp_path / "mlflow.db.broken")  # what is said
    assert publish_round(uri_of(tmp_path), tmp_path, 3) == []
    assert newest_heatmap(uri_of(tmp_path), "demo").round == 3
    assert "Traceback" not in "".join(capfd.readouterr())


def test_a_change_of_the_database_that_was_cut_short(
    empty_store: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """An older database whose tables are newer than its version says: MLflow stumbles when it opens it."""
    uri = fresh_store(tmp_path, empty_store)
    with contextlib.closing(sqlite3.connect(tmp_path / "mlflow.db")) as database, database:
        database.execute("UPDATE alembic_version SET version_num = '451aebb31d03'")
        database.execute("DROP TABLE webhooks")
    with pytest.raises(BadInput, match=r"was cut short.*Move it away"):
        searches(uri)
    assert "Traceback" not in capfd.readouterr().err


FIRST_USE = """
import sys
from tim_search.tracking import Tracker
from tests.support.mlflow_stores import figure, result
from pathlib import Path
uri, number, folder = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
folder.mkdir()
print("ready", flush=True)
sys.stdin.readline()
with Tracker(uri, f"search {number}", f"id-{number}") as tracker:
    tracker.heatmap(result(number), [figure(folder)], round=1)
print(tracker.missed)
"""


@pytest.mark.slow
def test_two_first_uses_at_once_lose_nothing(tmp_path: Path) -> None:
    uri = uri_of(tmp_path)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", FIRST_USE, uri, str(number), str(tmp_path / str(number))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for number in range(2)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    assert [process.communicate(timeout=120)[0] for process in processes] == ["[]\n", "[]\n"]
    assert sorted(searches(uri)["search"]) == ["search 0", "search 1"]
    assert sorted(heatmaps(uri)["search"]) == ["search 0", "search 1"]


@pytest.mark.parametrize("place", ["a file", "no such device", "the database is a folder"])
def test_a_place_that_cannot_be_written_is_told_at_once(place: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    path = {
        "a file": tmp_path / "file" / "mlflow.db",
        "no such device": Path("/proc/no such place/mlflow.db"),
        "the database is a folder": tmp_path / "folder",
    }[place]
    messages: list[str] = []
    start = time.monotonic()
    with Tracker(f"sqlite:///{path}", "demo", "id", warn=messages.append):
        pass
    assert time.monotonic() - start < 10
    (warning,) = messages
    assert "expected a file, got a folder" in warning or "cannot be written" in warning


def test_a_database_of_something_else_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        database.execute("CREATE TABLE patients (name TEXT)")
    content = path.read_bytes()
    with pytest.raises(BadInput, match="something else"):
        searches(uri_of(tmp_path))
    warnings: list[str] = []
    with Tracker(uri_of(tmp_path), "demo", "id", warn=warnings.append) as tracker:
        publish_everything(tracker, tmp_path)
    assert len(warnings) == 1
    assert "something else" in warnings[0]
    assert path.read_bytes() == content


@pytest.mark.slow
@pytest.mark.parametrize("original", ["gone", "kept"])
def test_a_moved_folder_is_read_and_written_where_it_is(original: str, empty_store: str, tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "a new place ü"
    publish_round(fresh_store(old, empty_store), tmp_path, 2)
    shutil.copytree(old, new)
    before = sorted(old.rglob("*"))
    if original == "gone":
        shutil.rmtree(old)
    uri = uri_of(new)
    newest = newest_heatmap(uri, "demo", tmp_path / "fetched")
    assert newest.round == 2
    assert len(newest.table) == 6
    assert newest.figures["heatmap_rank.png"].read_bytes() == figure(tmp_path).read_bytes()
    # A process of its own: MLflow keeps in memory where the artifacts of a run lie.
    code = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[1])\n"
        "from tests.support import mlflow_stores as t\n"
        "sys.exit(' '.join(t.publish_round(sys.argv[2], Path(sys.argv[3]), 3)) or None)"
    )
    command = [sys.executable, "-c", code, str(ROOT), uri, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90)
    assert done.returncode == 0, done.stderr
    assert sorted(old.rglob("*")) == ([] if original == "gone" else before), "nothing is written where it was before"
    assert heatmaps(uri, "demo")["round"].tolist() == [3, 2]
    assert newest_heatmap(uri, "demo").round == 3
    # MLflow alone finds everything at the new place, the ledger in the one run of the search.
    client = MlflowClient(tracking_uri=uri)
    (run_id,) = searches(uri)["run_id"]
    for run in [run_id, *heatmaps(uri, "demo")["run_id"]]:
        assert client.get_run(run).info.artifact_uri == (new / "mlartifacts" / run / "artifacts").as_uri()
    assert (new / "mlartifacts" / run_id / "artifacts" / "ledger" / "ledger.parquet").is_file()


def test_a_moved_database_without_its_artifacts(empty_store: str, tmp_path: Path) -> None:
    publish_round(fresh_store(tmp_path / "old", empty_store), tmp_path, 2)
    (tmp_path / "new").mkdir()
    shutil.move(tmp_path / "old" / "mlflow.db", tmp_path / "new" / "mlflow.db")
    assert newest_heatmap(uri_of(tmp_path / "new"), "demo").round == 2, "they are still where they were"
    shutil.rmtree(tmp_path / "old")
    with pytest.raises(BadInput, match=r"no file .*new/mlartifacts"):
        newest_heatmap(uri_of(tmp_path / "new"), "demo")


@pytest.mark.parametrize("place", ["http://127.0.0.1:9/x", "s3://bucket/x", "/etc"])
def test_a_database_sends_nobody_elsewhere_for_artifacts(empty_store: str, tmp_path: Path, place: str) -> None:
    """A received database could name any host, to which credentials would go; nothing is fetched, no folder is left."""
    uri = fresh_store(tmp_path / "store", empty_store)
    publish_round(uri, tmp_path, 1)
    with closing(sqlite3.connect(tmp_path / "store" / "mlflow.db")) as database, database:
        database.execute("UPDATE runs SET artifact_uri = ?", [place])
    with pytest.raises(BadInput, match=rf"artifacts of its run \w+ are at {place}.*expected a folder of this machine"):
        newest_heatmap(uri, "demo", tmp_path / "fetched")
    assert not (tmp_path / "fetched").exists()


# Bad input ------------------------------------------------------------------------------------------------------------


def test_an_unknown_search_lists_those_there_are(store: str, tmp_path: Path) -> None:
    with Tracker(store, "it's known", "id-10") as tracker:
        tracker.heatmap(result(), [figure(tmp_path)], round=1)
    assert len(heatmaps(store, "it's known")) == 1
    for query in (heatmaps, newest_heatmap):
        with pytest.raises(BadInput, match=r"no search 'demoo'.*it's known"):
            query(store, "demoo")
    with pytest.raises(BadInput, match="quotes"):
        heatmaps(store, "'\"")


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("", "this is a path"),
        ("/some/folder", "this is a path"),
        ("file:///some/folder", "plain files"),
        ("http:///x", "names no host"),
        ("sqlite:////no/such/place/mlflow.db", "there is no file"),
        ("sqlite:////no/such/a#b?c/mlflow.db", "there is no file"),
        ("http://user:secret@127.0.0.1:PORT", "nothing answers at 127.0.0.1"),
    ],
)
def test_a_uri_that_leads_nowhere(uri: str, message: str) -> None:
    uri = uri.replace("PORT", str(free_port()))
    start = time.monotonic()
    for query in (searches, heatmaps, lambda where: newest_heatmap(where, "demo")):
        with pytest.raises(BadInput, match=message) as caught:
            query(uri)
        assert "sqlite:////absolute" in str(caught.value)
        assert "secret" not in str(caught.value)
    assert time.monotonic() - start < 10
    assert not Path("/no/such").exists(), "a query makes no database"


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("these are not the tables you are looking for")
    with pytest.raises(BadInput, match="is not a SQLite database"):
        searches(uri_of(tmp_path))


@pytest.mark.parametrize("character", ["?", "#", "%", "%20"])
def test_a_path_that_mlflow_takes_for_another_one(character: str, empty_store: str, tmp_path: Path) -> None:
    uri = fresh_store(tmp_path / f"a{character}b", empty_store)
    before = sorted(tmp_path.rglob("*"))
    warnings: list[str] = []
    with Tracker(uri, "demo", "id", warn=warnings.append):
        pass
    assert "Name another folder" in warnings[0]
    with pytest.raises(BadInput, match="Name another folder"):
        searches(uri)
    assert sorted(tmp_path.rglob("*")) == before


def test_an_at_sign_in_a_path(empty_store: str, tmp_path: Path) -> None:
    uri = fresh_store(tmp_path / "me@home", empty_store)
    publish_round(uri, tmp_path, 1)
    assert newest_heatmap(uri, "demo").round == 1
    assert list((tmp_path / "me@home" / "mlartifacts").rglob("heatmap_rank.png"))


def test_a_database_without_searches(store: str, empty_store: str) -> None:
    assert len(searches(empty_store)) == 0
    assert list(heatmaps(empty_store).columns) == list(heatmaps(store).columns)
    with pytest.raises(BadInput, match="holds no search yet"):
        newest_heatmap(empty_store, "demo")


# MLflow down ----------------------------------------------------------------------------------------------------------


def publish_everything(tracker: Tracker, folder: Path) -> None:
    tracker.metrics({"units_done": 1}, step=1)
    tracker.heatmap(result(), [figure(folder)], round=1)
    tracker.ledger(pd.DataFrame({"score": [0.5]}))


def test_a_server_that_is_down_costs_one_warning(tmp_path: Path) -> None:
    warnings: list[str] = []
    port = free_port()
    start = time.monotonic()
    with Tracker(f"http://me:secret@127.0.0.1:{port}", "demo", "id", warn=warnings.append) as tracker:
        publish_everything(tracker, tmp_path)
    assert time.monotonic() - start < 5
    assert len(warnings) == 1
    assert f"nothing answers at 127.0.0.1:{port}" in warnings[0]
    assert "start the same search again" in warnings[0]
    assert "secret" not in warnings[0]
    assert len(tracker.missed) == 5


def test_by_default_the_warning_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with Tracker(f"http://127.0.0.1:{free_port()}", "demo", "id"):
        pass
    assert [record.name for record in caplog.records] == ["tim_search.tracking.tracker"]


@pytest.mark.slow
def test_a_server_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes the connection and never answers: waited for once, by the caller's own limits, and then left alone."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "3")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    warnings: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as silent:
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}"
        start = time.monotonic()
        with Tracker(uri, "demo", "id", warn=warnings.append) as tracker:
            for number in range(5):
                tracker.heatmap(result(), [figure(tmp_path)], round=number)
        assert time.monotonic() - start < 8
        with pytest.raises(BadInput, match="could not be read"):
            searches(uri)
        assert time.monotonic() - start < 15
    assert len(warnings) == 1
    assert "does not answer (ReadTimeoutError)" in warnings[0]
    assert len(tracker.missed) == 7


def test_a_store_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("these are not the tables you are looking for")
    warnings: list[str] = []
    with Tracker(uri_of(tmp_path), "demo", "id", warn=warnings.append) as tracker:
        publish_everything(tracker, tmp_path)
    assert len(warnings) == 1
    assert (tmp_path / "mlflow.db").read_text().startswith("these"), "and a foreign file stays as it is"


# A server -------------------------------------------------------------------------------------------------------------


def test_a_server_takes_and_gives_and_dies_in_the_middle(
    server_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    port = free_port()
    uri = f"http://127.0.0.1:{port}"
    warnings: list[str] = []
    with server(server_folder, port) as process, Tracker(uri, "remote", "id-1", warn=warnings.append) as tracker:
        tracker.heatmap(result(1), [figure(tmp_path)], round=1)
        tracker.answer("old words", [{"source": "a", "verdict": "unclear"}], {"alone.a": 0.1})
        tracker.answer(
            "a: **keep alone**", [{"source": "a", "verdict": "keep alone"}], {"alone.a": 0.7, "best.a": float("nan")}
        )
        client = MlflowClient(tracking_uri=uri)
        (run,) = client.search_runs(
            [client.get_experiment_by_name("tim-search").experiment_id],
            "metrics.`alone.a` > 0.5 and tags.kind = 'search'",
        )
        assert run.data.tags["mlflow.note.content"] == "a: **keep alone**"
        assert run.data.tags["verdict.a"] == "keep alone"
        assert run.data.metrics == {"alone.a": 0.7}, "the newest of each, and what is not known is left out"
        kind = client.get_experiment_by_name("tim-search").tags["mlflow.experimentKind"]
        assert kind == "custom_model_development", "MLflow's pages open under model training"
        tracker.ledger(pd.DataFrame({"score": [0.5]}))
        newest = newest_heatmap(uri, "remote", tmp_path / "fetched")
        assert newest.figures["heatmap_rank.png"].read_bytes() == figure(tmp_path).read_bytes()
        assert newest.table["estimate"].tolist() == pytest.approx(result(1).to_frame()["estimate"].tolist(), abs=1e-9)
        with pytest.raises(BadInput, match="searches there are: remote"):
            heatmaps(uri, "other")
        assert warnings == []
        stop(process, signal.SIGKILL)
        start = time.monotonic()
        tracker.heatmap(result(2), [figure(tmp_path)], round=2)
        tracker.metrics({"units_done": 3})
        assert time.monotonic() - start < 10
        with pytest.raises(BadInput, match="nothing answers"):
            heatmaps(uri, "remote")
    assert len(warnings) == 1
    assert len(tracker.missed) == 3
    # What the server took is whole: the database can be read without it.
    assert heatmaps(uri_of(server_folder), "remote")["round"].tolist() == [1]
    assert searches(uri_of(server_folder))["status"].tolist() == ["RUNNING"]
    assert "http" not in capfd.readouterr().out, "no links are printed into the caller's output"


@pytest.mark.slow
def test_a_server_that_comes_back_gets_what_is_published_from_then_on(server_folder: Path, tmp_path: Path) -> None:
    port = free_port()
    uri = f"http://127.0.0.1:{port}"
    warnings: list[str] = []
    with Tracker(uri, "late", "id-1", warn=warnings.append) as tracker:
        tracker.heatmap(result(1), [figure(tmp_path)], round=1)
        with server(server_folder, port):
            tracker.heatmap(result(2), [figure(tmp_path)], round=2)
            assert heatmaps(uri, "late")["round"].tolist() == [2]
    assert len(warnings) == 1
    with server(server_folder, port):
        # The same search started again: what was missed is published, what is there is not doubled.
        with Tracker(uri, "late", "id-1") as again:
            for number in (1, 2):
                again.heatmap(result(number), [figure(tmp_path)], round=number)
        assert again.missed == []
        assert sorted(heatmaps(uri, "late")["round"]) == [1, 2]
        assert searches(uri)["status"].tolist() == ["FINISHED"]


# Confirmed gains, and heatmaps by round and estimator -----------------------------------------------------------------


def confirmation(difference: float) -> dict[str, object]:
    return {
        "source": "a", "metric": "auroc", "chosen": "a + b", "single": 0.7, "multi": 0.7 + difference,
        "difference": difference, "percent": 100 * difference / 0.7, "low": -0.01, "high": None, "p_value": 0.2,
        "rejected": False, "single_sd": 0.01, "multi_sd": 0.02, "together": None, "ensemble": None, "verdict": "open",
    }  # fmt: skip


def test_the_newest_confirmation_of_each_search_is_listed(store: str, tmp_path: Path) -> None:
    for search_id, differences in (("confirm-1", (0.02, 0.03)), ("confirm-2", (0.05,))):
        with Tracker(store, "to confirm", search_id):
            pass
        tracker = Tracker(store, "to confirm", search_id, beside=True)
        for difference in differences:
            tracker.confirmation([confirmation(difference)], [figure(tmp_path, "forest.png")])
        assert tracker.missed == []
    found = confirmed(store, "to confirm")
    assert sorted(zip(found["search_id"], found["difference"].round(3), strict=True)) == [
        ("confirm-1", 0.03), ("confirm-2", 0.05),
    ]  # fmt: skip
    assert found["created"].dt.tz is not None
    runs = MlflowClient(tracking_uri=store).search_runs(["1"], "tags.kind = 'confirmation'")
    assert {round(run.data.metrics["gain.a"], 3) for run in runs} == {0.02, 0.03, 0.05}
    assert set(searches(store).query("search == 'to confirm'")["status"]) == {"FINISHED"}
    with Tracker(store, "unconfirmed", "unconfirmed"):
        pass
    assert confirmed(store, "unconfirmed").empty
    assert models(store, "unconfirmed").empty
    with pytest.raises(BadInput, match="There is no search 'nix'"):
        confirmed(store, "nix")


def test_heatmaps_by_round_and_estimator(store: str, tmp_path: Path) -> None:
    with Tracker(store, "filtered", "filtered") as tracker:
        tracker.heatmap(result(1), [figure(tmp_path)], 1)
        tracker.heatmap(result(2, "msr"), [figure(tmp_path)], 2)
        tracker.heatmap(result(3), [figure(tmp_path)], 2)
    assert tracker.missed == []
    assert len(heatmaps(store, "filtered")) == 3
    assert list(heatmaps(store, "filtered", round=2)["estimator"]) == ["exact", "msr"]
    assert list(heatmaps(store, "filtered", estimator="exact")["round"]) == [2, 1]
    assert newest_heatmap(store, "filtered", tmp_path / "one", round=1).round == 1
    assert newest_heatmap(store, "filtered", tmp_path / "msr", estimator="msr").estimator == "msr"
    with pytest.raises(BadInput, match="no heatmap of round 7"):
        newest_heatmap(store, "filtered", tmp_path, round=7)


# A database that came from others -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tag", "value", "words"),
    [
        ("figures", json.dumps(["figures/../../../secret.txt"]), "expected"),
        ("figures", json.dumps(["/etc/passwd"]), "expected"),
        ("figures", "no JSON [", "not whole JSON"),
        ("figures", json.dumps({"a": 1}), "expected"),
        ("table", "../../secret.json", "expected"),
        ("round", "many", "expected a number"),
    ],
)
def test_a_tag_names_no_file_of_this_machine(
    tag: str, value: str, words: str, empty_store: str, tmp_path: Path
) -> None:
    uri = fresh_store(tmp_path / "received", empty_store)
    publish_round(uri, tmp_path, 1)
    (tmp_path / "received" / "secret.txt").write_text("mine")
    MlflowClient(tracking_uri=uri).set_tag(heatmaps(uri)["run_id"][0], tag, value)
    with pytest.raises(BadInput, match=words):
        newest_heatmap(uri, "demo", tmp_path / "got")
    assert not list((tmp_path / "got").rglob("*")) if (tmp_path / "got").exists() else True


def test_a_figure_that_is_a_link_out_of_its_folder_is_not_copied(empty_store: str, tmp_path: Path) -> None:
    uri = fresh_store(tmp_path / "received", empty_store)
    publish_round(uri, tmp_path, 1)
    (tmp_path / "secret").write_text("mine")
    (picture,) = (tmp_path / "received").rglob("heatmap_rank.png")
    picture.unlink()
    picture.symlink_to(tmp_path / "secret")
    with pytest.raises(BadInput, match="lies outside"):
        newest_heatmap(uri, "demo", tmp_path / "got")
    assert not list((tmp_path / "got").rglob("*.png"))


def test_a_deleted_experiment_is_told_with_the_command_that_restores_it(empty_store: str, tmp_path: Path) -> None:
    uri = fresh_store(tmp_path / "store", empty_store)
    publish_round(uri, tmp_path, 1)
    client = MlflowClient(tracking_uri=uri)
    number = client.get_experiment_by_name("tim-search").experiment_id
    client.delete_experiment(number)
    messages: list[str] = []
    with Tracker(uri, "demo", "other", warn=messages.append):
        pass
    (warning,) = messages
    assert f"mlflow experiments restore --experiment-id {number}" in warning
    assert "when MLflow answers" not in warning


@pytest.mark.parametrize(
    "uri", ["http://[::1", "http://host:99999999", "http://host:x", "http://[x]:5000", "http://h h:1"]
)
def test_a_uri_that_names_no_host_and_port(uri: str) -> None:
    with pytest.raises(BadInput, match="could not be read"):
        searches(uri)
    messages: list[str] = []
    with Tracker(uri, "demo", "id", warn=messages.append) as tracker:
        assert tracker.missed
    assert len(messages) == 1


def test_a_secret_in_a_uri_is_in_no_message() -> None:
    for secret_uri in (
        f"http://me:hidden word@127.0.0.1:{free_port()}",
        f"http://me:hid/den@127.0.0.1:{free_port()}",
        f"http://127.0.0.1:{free_port()}/?token=hidden",
    ):
        with pytest.raises(BadInput) as caught:
            searches(secret_uri)
        assert "hid" not in str(caught.value)
        messages: list[str] = []
        with Tracker(secret_uri, "demo", "id", warn=messages.append):
            pass
        assert "hid" not in messages[0]


def test_a_run_without_a_model(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    client = MlflowClient(uri)
    run = client.create_run(client.create_experiment("other")).info.run_id
    with pytest.raises(BadInput, match=f"The run {run} at .* has no model"):
        tracking.fetch_model(uri, f"runs:/{run}", tmp_path / "model")


@pytest.mark.slow
def test_figures_that_land_on_this_machine_are_told(server_folder: Path, tmp_path: Path) -> None:
    """A server without --serve-artifacts: what is published lies where nobody else can read it."""
    port = free_port()
    messages: list[str] = []
    with (
        server(server_folder, port, keeps_artifacts=False),
        Tracker(f"http://127.0.0.1:{port}", "local", "id", warn=messages.append) as tracker,
    ):
        tracker.heatmap(result(), [figure(tmp_path)], round=1)
        tracker.heatmap(result(2), [figure(tmp_path)], round=2)
    assert tracker.missed == []
    (warning,) = messages
    assert "takes no figures and tables: they land on this machine" in warning
    assert "--serve-artifacts" in warning


@pytest.mark.parametrize("content", ['{"data": []}', '{"columns": ["a"], "data": [[1, 2]]}', '{"columns": 1}'])
def test_a_table_that_mlflow_did_not_write_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "heatmap.json").write_text(content)
    with pytest.raises(BadInput, match="expected a table of MLflow's log_table"):
        queries._read_table(tmp_path / "heatmap.json")
