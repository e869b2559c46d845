"""Models of a search judged on another cohort: what is written, logged, published and shown."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from model.cohorts.cohort import make_cohort
from model.sources import support2
from model.sources.opening import open_cohort, write_cohort
from tests.support.mlflow_stores import uri_of
from tests.support.searches import Call, trained_search
from tim_search.app import external as app
from tim_search.app.external import validate
from tim_search.report import records
from tim_search.results import external, opened, readings
from tim_search.tracking import mlflow_store as store
from tim_search.types import BadInput


@pytest.fixture(scope="module")
def north(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cohort folder of 1,500 patients of SUPPORT2, few of whom died, without the length of stay."""
    whole = support2.load()
    dead = whole.labels["hospdead"] == 1
    rows = np.flatnonzero(~dead | (np.arange(len(whole)) % 4 == 0))[:1500]
    tasks = [whole.tasks[name] for name in ("hospdead", "phenotype")]
    cohort = make_cohort(
        "north",
        whole.sample_ids[rows] + 100_000,
        whole.sample_ids[rows] + 100_000,
        [modality.take(rows) for modality in whole.modalities.values()],
        tasks,
        {"hospdead": whole.labels["hospdead"][rows]},
    )
    write_cohort(cohort, folder := tmp_path_factory.mktemp("north") / "cohort")
    return folder


@pytest.fixture
def folder(finished_search: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished_search, tmp_path / "out")
    return tmp_path / "out"


@pytest.mark.slow
def test_another_cohort_is_judged_logged_and_shown(folder: Path, north: Path, call: Call) -> None:
    code, out, err = call(
        "confirm", folder, "--on", north, "--subset", "hospdead+slos_log", "--seeds", 1, "--draws", 100, "--by", "sex",
        "--json",
    )  # fmt: skip
    assert code == 0, err
    answer = json.loads(out)
    assert {row["source"] for row in answer["rows"]} == {"hospdead"}
    assert {row["group"] for row in answer["rows"]} == {"all", "sex=female", "sex=male"}
    notes = " ".join(answer["notes"])
    assert "task slos_log: north has no such task" in notes
    assert "same patients" in notes
    alone = next(row for row in answer["rows"] if row["group"] == "all" and row["model"] == "alone")
    assert alone["rows"] == 1500
    assert alone["intercept_high"] < 0  # fewer died there than were expected
    (entry,) = readings.read(folder)
    assert (entry["command"], entry["on"]) == ("confirm --on", "north")
    assert readings.of_test_patients(folder) == []
    (record,) = external.read_all(folder)
    assert record.rows == answer["rows"]
    table = pd.read_csv(answer["table"])
    assert len(table) == len(record.rows)
    assert {Path(path).name for path in answer["figures"]} == {
        f"external-{record.name}.png", f"external-{record.name}-hospdead.png",
    }  # fmt: skip
    page = (folder / "report.html").read_text()
    assert "On other cohorts" in page
    assert f"external-{record.name}.csv" in page
    with store.reading(uri_of(folder)) as client:
        (run,) = store.runs(client, store.experiments(client), kind="external")
    assert run.data.metrics["intercept.hospdead"] < 0
    assert run.data.tags["on"] == "north"


def test_where_counts_are_hidden_a_small_group_is_told_coarsely(north: Path) -> None:
    from model.sources.opening import open_cohort

    row = {"source": "hospdead", "model": "alone", "of": "", "metric": "auroc", "positive": 60}
    numbers = dict.fromkeys(external.NUMBERS, 0.123456)
    rows = [{**row, **numbers, "group": group, "rows": n} for group, n in (("all", 1500), ("sex=female", 300))]
    whole, group = app._told(rows, open_cohort(north, [""]), 11)
    assert (whole["rows"], group["rows"]) == ("≈1,500", "≈300")
    assert group["score"] in (0.12, 0.125, 0.13)
    assert group["positive"] == "≈60"


def test_what_cannot_be_judged_is_told_before_anybody_is_read(tmp_path: Path, north: Path, call: Call) -> None:
    folder = trained_search(tmp_path / "out")
    for options, words in (
        (["--on", "support2"], "expected another cohort"),
        (["--on", north, "--by", "nothing"], "expected one input column"),
        (["--on", folder / "none"], "there is none"),
    ):
        code, _, err = call("confirm", folder, *options, "--subset", "hospdead+slos_log")
        assert code == 2, options
        assert words in " ".join(err.split()), err
    assert readings.read(folder) == []
    with pytest.raises(BadInput, match="scores best alone"):
        validate(folder, str(north), "lower_bound", sources=best_alone(folder))


def test_why_a_source_has_no_score_is_told(north: Path) -> None:
    row = {"source": "hospdead", "model": "alone", "group": "all", "of": "", "score": None}
    chosen = {"hospdead": ["hospdead", "slos_log"], "slos_log": ["hospdead", "slos_log"]}
    record = external.External("north", "f", "", "given", chosen, [0], 100, [], [], [])
    theirs = open_cohort(north)  # that it has no task slos_log is told by who compares the cohorts
    for rows in ([row], []):  # a group that is too small has no row
        (note,) = app._judged(record, rows, [], theirs).notes
        assert note.startswith("hospdead: no score there")
    assert app._judged(record, [{**row, "score": 0.7}], [], theirs).notes == []


def best_alone(folder: Path) -> list[str]:
    """The sources for which no combination is chosen."""
    choices, _ = opened.open_search(folder).expand("lower_bound")
    return [choice.source for choice in choices if len(choice.best) == 1]


def test_a_record_that_is_damaged_is_told(tmp_path: Path) -> None:
    (tmp_path / "external").mkdir()
    (tmp_path / "external" / "x.json").write_text('{"cohort": 3}')
    with pytest.raises(BadInput, match="judge that cohort again"):
        external.read_all(tmp_path)
    with pytest.warns(records.RecordWarning, match="does without it"):
        assert records.elsewhere(tmp_path) == []
