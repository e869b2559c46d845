"""Counts of few patients: with `small_cells` none is in anything a search writes, nor can it be had from the others."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from mlflow import MlflowClient

from model.cohorts.cohort import Cohort
from model.cohorts.manifest import describe
from model.sources import synthetic
from model.sources.opening import write_cohort
from tests.support.ledgers import MANIFEST, PAIRS, site
from tim_search import config
from tim_search.app import confirmer, deploy, extension, inside, runner, search_folder
from tim_search.gates import small_cells
from tim_search.gates.told_scores import Telling
from tim_search.report import page as report
from tim_search.results import opened
from tim_search.results.merge import merge
from tim_search.types import BadInput

SMALL = 30

#: Numbers of a record that count no patients.
NO_COUNTS = {"format", "columns", "categorical", "shape", "steps", "mean_steps", "missing", "mean", "sd", "clusters"}
NO_COUNTS |= {"small_cells"}


def counts(plain: Any) -> Iterator[int]:
    """Every whole number of a record that could count patients."""
    if isinstance(plain, Mapping):
        for key, value in plain.items():
            if key not in NO_COUNTS:
                yield from counts(value)
    elif isinstance(plain, list | tuple):
        for value in plain:
            yield from counts(value)
    elif isinstance(plain, int) and not isinstance(plain, bool):
        yield plain


# ------------------------------------------------------------------------------------------------ the rules


@pytest.mark.parametrize(
    ("value", "small", "told", "near"),
    [
        (0, 10, 0, 0),
        (9, 10, "<10", "<10"),
        (10, 10, 10, "≈10"),
        (196, 10, 196, "≈200"),
        (193, 50, 193, "≈200"),
        (26, 26, 26, "≈30"),
        (7, 0, 7, 7),
        ("<10", 5, "<10", "<10"),
        ("<10", 20, "<20", "<20"),
        ("≈20", 10, "≈20", "≈20"),
        ("≈20", 30, "<30", "<30"),
        ("≈1,200", 30, "≈1,200", "≈1,200"),
    ],
)
def test_a_count_as_it_may_be_told(value: Any, small: int, told: Any, near: Any) -> None:
    assert small_cells.count(value, small) == told
    assert small_cells.near(value, small) == near


@st.composite
def records(draw: st.DrawFn) -> dict[str, Any]:
    """The record of a cohort in which any count may be small, or lack a few of all."""
    n = draw(st.integers(1, 300))
    few = st.one_of(st.integers(0, min(n, 12)), st.integers(max(0, n - 12), n), st.integers(0, n))
    tasks = []
    for index in range(draw(st.integers(1, 3))):
        labelled = draw(few)
        positive = draw(st.integers(0, labelled))
        in_test = draw(st.integers(0, labelled))
        low, high = max(0, positive - (labelled - in_test)), min(positive, in_test)
        test = draw(st.integers(low, high))
        tasks.append({
            "name": f"t{index}", "kind": "binary", "labelled": labelled,
            "classes": [["no", labelled - positive], ["yes", positive]],
            "parts": [{"part": "test", "labelled": in_test, "positive": test},
                      {"part": "fold 0", "labelled": labelled - in_test, "positive": positive - test}],
        })  # fmt: skip
    absent = draw(few)
    return {
        "name": "c", "samples": n, "patients": draw(st.integers(1, n)), "filters": [["all", n + 3], ["kept", n]],
        "parts": [{"part": "test", "samples": n // 5, "patients": n // 5},
                  {"part": "fold 0", "samples": n - n // 5, "patients": n - n // 5}],
        "modalities": [{"name": "m", "absent": absent, "missing": 0.5,
                        "column_missing": {"x": draw(st.integers(0, n - absent)), "y": 0}}],
        "tasks": tasks,
    }  # fmt: skip


@given(records(), st.integers(1, 60))
@settings(max_examples=200, deadline=None)
def test_no_count_below_the_limit_is_left_or_is_the_difference_of_two_that_are(
    record: dict[str, Any], small: int
) -> None:
    hidden = small_cells.of_cohort(record, small)
    assert not [value for value in counts(hidden) if 0 < value < small]
    for task in hidden["tasks"]:
        known = [value for value in (record["samples"], *counts(task)) if value >= small]
        labelled = [part["labelled"] for part in task["parts"]]
        for whole, part in [
            (hidden["samples"], task["labelled"]),
            *((task["labelled"], value) for _, value in task["classes"]),
            *((part["labelled"], part["positive"]) for part in task["parts"]),
            *((task["labelled"], value) for value in labelled),
        ]:
            if isinstance(whole, int) and isinstance(part, int):
                assert not 0 < whole - part < small, (task, known)
    (modality,) = hidden["modalities"]
    for missing in modality["column_missing"].values():
        if isinstance(missing, int) and isinstance(modality["absent"], int) and isinstance(hidden["samples"], int):
            assert not 0 < hidden["samples"] - modality["absent"] - missing < small
    assert small_cells.of_cohort(hidden, small) == hidden
    more = small_cells.of_cohort(hidden, small + 20)
    assert not [value for value in counts(more) if 0 < value < small + 20]
    assert small_cells.of_cohort(record, 0) == record


# ------------------------------------------------------------------------------------------------ the whole


def rare(cohort: Cohort) -> Cohort:
    """The cohort with 17 positives of one task, 19 labels of another less than all, and 13 samples with one column."""
    from model.cohorts.cohort import make_cohort

    labels = {name: np.array(values, np.float64) for name, values in cohort.labels.items()}
    binary = [task.name for task in cohort.tasks.values() if task.kind == "binary"]
    test = np.flatnonzero(cohort.split.test)
    zeros = np.zeros(len(cohort))
    for part in (test, *(np.flatnonzero(cohort.split.validation(fold)) for fold in range(cohort.split.n_folds))):
        zeros[part[:3]] = 1.0
    labels[binary[0]] = zeros
    labels[binary[1]][test[:19]] = np.nan
    modalities = list(cohort.modalities.values())
    values = np.array(modalities[0].values)
    values[13:, 0] = np.nan
    modalities[0] = replace(modalities[0], values=values)
    return make_cohort(
        "rare", cohort.sample_ids, cohort.patient_ids[cohort.patients], modalities, cohort.tasks.values(), labels,
        classes=cohort.classes, split=cohort.split,
    )  # fmt: skip


def search_file(folder: Path, cohort: Cohort, **fields: Any) -> Path:
    write_cohort(cohort, folder / "cohort")
    binary = [task.name for task in cohort.tasks.values() if task.kind == "binary"]
    others = [next(task.name for task in cohort.tasks.values() if task.kind == kind) for kind in ("regression",)]
    training = {"width": 8, "epochs": 2, "batch_size": 64, "learning_rate": 3e-3, "replicates": 5}
    plain = {"cohort": "cohort", "name": "rare", "tasks": [*binary[:2], *others], "training": training, "out": "out"}
    path = folder / "search.yaml"
    path.write_text(yaml.safe_dump(plain | {"resources": {"workers": 1}} | fields))
    return path


@pytest.fixture(scope="module")
def cohort() -> Cohort:
    made, _ = synthetic.haim_like(
        900, 700, seed=4, widths=(4, 12, 9, 7), n_binary=3, n_classes=3, n_clusters=3, absent=(0.0, 0.1, 0.2, 0.0)
    )
    return rare(made)


def test_a_search_folder_holds_no_small_count_from_its_start(tmp_path: Path, cohort: Cohort) -> None:
    found = config.resolve(config.load(search_file(tmp_path, cohort, small_cells=SMALL)))
    exact = set(counts(describe(found.cohort)))
    assert {18, 19, 13} & exact, "the cohort has small counts"
    search_folder.prepare(found)
    kept = json.loads((found.out / "cohort.json").read_text(encoding="utf-8"))
    assert kept == small_cells.of_cohort(describe(found.cohort), SMALL) | {"small_cells": SMALL}
    assert not [value for value in counts(kept) if 0 < value < SMALL]
    search_folder.prepare(found)  # as a resumed run does
    assert json.loads((found.out / "cohort.json").read_text(encoding="utf-8")) == kept
    results = opened.open_search(found.out)
    with pytest.raises(BadInput, match=f"--small-cells: expected {SMALL} or more"):
        report.content(results, small=5)


HIDING = yaml.safe_dump({"cohort": "support2", "small_cells": 7})


@pytest.mark.parametrize(
    ("record", "search", "limit"),
    [
        ({"small_cells": 10}, None, 10),
        ({"small_cells": 10}, HIDING, 10),
        ({"small_cells": 0}, HIDING, 0),
        ({"samples": 900}, HIDING, 7),  # of a version that did not keep the limit in the record
        ({"samples": 900}, "cohort: support2", 0),  # ... and knew no limit at all
        ({"samples": 900}, None, None),
        ({"small_cells": "10"}, HIDING, 7),
        ({"small_cells": True}, None, None),
        ({"small_cells": -1}, HIDING, 7),
        ("{", HIDING, 7),
        ("[1]", HIDING, 7),
        (b"\xff", HIDING, 7),
        (None, HIDING, 7),
        (None, "cohort: [", None),
        (None, "7", None),
        (None, "small_cells: 3.5", None),
        (None, None, None),
    ],
)
def test_where_a_folder_says_which_counts_are_hidden(
    tmp_path: Path, record: dict[str, Any] | str | bytes | None, search: str | None, limit: int | None
) -> None:
    """A file that is missing or damaged never shows what was to be hidden."""
    if record is not None:
        content = json.dumps(record) if isinstance(record, dict) else record
        (tmp_path / "cohort.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    if search is not None:
        (tmp_path / "search.yaml").write_text(search)
    assert opened.small_cells_of(tmp_path) == limit


def test_a_folder_that_does_not_say_is_not_shown(tmp_path: Path, cohort: Cohort) -> None:
    found = config.resolve(config.load(search_file(tmp_path, cohort, small_cells=SMALL)))
    search_folder.prepare(found)
    (found.out / "cohort.json").unlink()
    assert opened.open_search(found.out).small_cells == SMALL
    (found.out / "search.yaml").unlink()
    with pytest.raises(BadInput, match=r"small_cells.*neither can be read\. Run the search again with its file"):
        report.write(opened.open_search(found.out))
    assert not (found.out / "report.html").exists()
    search_folder.prepare(found)  # what it is told to do
    assert opened.open_search(found.out).small_cells == SMALL


def test_a_merged_search_hides_what_the_strictest_of_its_sources_hides(tmp_path: Path) -> None:
    places = []
    for seed, limit in enumerate((5, 20)):
        folder = tmp_path / f"site{seed}"
        site(str(folder / "ledger"), PAIRS[:3], seed)
        replace(MANIFEST, blocks=((seed, 0),)).write(folder)
        (folder / "cohort.json").write_text(json.dumps({"samples": 900 + seed, "small_cells": limit}))
        places.append(str(folder))
    out = tmp_path / "both"

    def merged() -> Any:
        merge(places, str(out))
        path = out / "cohort.json"
        return json.loads(path.read_text()) if path.exists() else None

    assert merged() == {"samples": 901, "small_cells": 20}
    # Only the search file still says what was hidden: the record of the other site holds more than that allows.
    (tmp_path / "site1" / "cohort.json").write_text("{")
    (tmp_path / "site1" / "search.yaml").write_text("small_cells: 20")
    assert merged() == {"small_cells": 20}
    (tmp_path / "site1" / "search.yaml").unlink()
    assert merged() is None
    assert len(opened.open_search(out).tim().tasks) == len(MANIFEST.tasks), "scores count no patients"
    with pytest.raises(BadInput, match="where the folder was merged, merge again"):
        report.write(opened.open_search(out))


def check_curves(curves: pd.DataFrame, small: int) -> None:
    """No point of few patients, and no risk group in which an outcome of few could be counted."""
    assert len(curves)
    for row in curves.itertuples():
        n = np.asarray(row.n)
        assert not ((n > 0) & (n < small)).any(), row.kind
        if row.kind == "calibration":
            share, fewest = np.asarray(row.y), small / (2 * n)  # both are rounded, the number by up to a half
            for some in (share, 1 - share):
                assert not ((some > 0) & (some < fewest)).any()
            assert not (n % (10 * -(-small // 10))).any(), "sizes add up to who carries the label"


@pytest.mark.slow
def test_no_small_count_is_in_anything_that_a_search_a_confirmation_or_a_model_leaves(
    local_ray: None, tmp_path: Path, cohort: Cohort
) -> None:
    """The folder, its Parquet files, pages, tables and figures' data, the model with its card, and all MLflow holds."""
    found = config.resolve(config.load(search_file(tmp_path, cohort, small_cells=SMALL)))
    out, (few, some, value) = found.out, tuple(found.tasks)
    runner.run_search(found)
    combination = (few, some, value)
    done = confirmer.confirm(out, given=combination, seeds=1, draws=20)
    assert not done.missed
    made = deploy.train(out, some, members=combination, warn=pytest.fail)
    other = next(task.name for task in cohort.tasks.values() if task.kind == "binary" and task.name not in combination)
    extended = extension.extend(made.folder, other, shares=(0.05,), seeds=1, test=True, out=out / "models" / "more")
    results = opened.open_search(out)
    check_curves(results.ledger.curves(), SMALL)
    assert set(results.ledger.curves()["kind"]) >= {"roc", "density", "tail"}

    seen = 0
    places = [out]
    client = MlflowClient(f"sqlite:///{out / 'mlflow.db'}")
    for experiment in client.search_experiments():
        for run in client.search_runs([experiment.experiment_id]):
            place = tmp_path / "fetched" / run.info.run_id
            place.mkdir(parents=True)
            if client.list_artifacts(run.info.run_id):
                client.download_artifacts(run.info.run_id, "", str(place))
            assert "positive" not in json.dumps({**run.data.params, **run.data.metrics})
            places.append(place)
    for path in (path for place in places for path in sorted(place.rglob("*"))):
        if path.name in ("cohort.json", "model.json"):
            plain = json.loads(path.read_text(encoding="utf-8"))
            if "about" in plain:  # a model; MLflow's table of its scores has the same name
                plain["about"] = {key: plain["about"][key] for key in ("training", "scores")}
            told = plain.get("about", plain)
            assert not [number for number in counts(told) if 0 < number < SMALL], path
            if "about" in plain:
                assert all(type(row["rows"]) is str or row["rows"] >= SMALL for row in plain["about"]["scores"])
            seen += 1
        elif path.suffix in (".html", ".md"):
            text = re.sub(r"<[^>]+>", " ", path.read_text(encoding="utf-8"))
            assert not re.search(r"\b(1[0-9]|2[0-9]) (positive|samples|patients)|\(\s*[1-9] positive", text), path
            seen += 1
    assert seen >= 6, "the folder's and MLflow's record, pages and cards"
    table = pd.read_csv(extended.file, dtype=str)
    assert table["rows"].str.match(r"<30$|≈").all()
    assert table["patients"].str.match(r"<30$|≈").all()
    card = next((out / "models").glob("*/*.md")).read_text(encoding="utf-8")
    assert re.search(rf"\| {few} \| ≈\d+ \| <{SMALL} \|", card), card

    # Another start goes on with what is there, and a copy of the folder still tells its page.
    again = runner.run_search(config.resolve(config.load(tmp_path / "search.yaml")))
    assert again.outcome.trained == 0
    shutil.copytree(out, tmp_path / "copy")
    page = report.write(opened.open_search(tmp_path / "copy")).read_text(encoding="utf-8")
    assert f"Counts below {SMALL} are hidden" in page


def test_a_look_inside_shows_no_small_count() -> None:
    routing = pd.DataFrame({"task": ["a", "a"], "combination": "x", "expert": [1, 2], "chosen": [7, 191], "rows": 198})
    scores = pd.DataFrame({"task": "a", "metric": "auroc", "primary": True, "variant": "together", "mean": [0.7]})
    turns = pd.DataFrame({"task": ["a"], "epoch": 1, "turn": "a", "score": [0.75]})
    patients = pd.DataFrame({"variant": "together", "task": "a", "x": [0.0, 1.0], "y": 0.0, "patients": [12, 40]})
    tables = {"routing": routing, "patients": patients, "scores": scores, "turns": turns}
    hidden = inside._hidden(tables, SMALL, Telling())
    assert hidden["patients"]["patients"].tolist() == [40]
    assert hidden["routing"][["chosen", "rows"]].to_numpy().tolist() == [[5, 100], [95, 100]]
    pd.testing.assert_frame_equal(hidden["scores"], scores)
    assert inside._hidden(tables, 0, Telling()) is tables


def test_risk_groups_grow_until_neither_class_is_small() -> None:
    from model.trained import confirming
    from tim_search.types import Task, Unit

    dice = np.random.default_rng(0)
    risk = np.sort(dice.random(2000))
    hit = (dice.random(2000) < 0.02 + 0.3 * risk).astype(float)
    unit, task = Unit(("u",), 0, -1), Task("u", "binary")
    (exact,) = confirming.by_quantile(unit, task, "calibration", risk, hit, 0)
    (hidden,) = confirming.by_quantile(unit, task, "calibration", risk, hit, SMALL)
    assert len(exact.n) == 10
    assert 2 <= len(hidden.n) < 10
    assert 1900 <= sum(hidden.n) <= 2100
    lacking = [confirming.by_quantile(unit, task, "calibration", risk[few:], hit[few:], SMALL) for few in range(7)]
    assert len({curve.n for (curve,) in lacking}) == 1, "who lacks a label does not show in the sizes"
    assert all(value * 2**8 == round(value * 2**8) for value in hidden.y), "nor in the digits of a share"
    check_curves(pd.DataFrame([{"kind": "calibration", "y": hidden.y, "n": hidden.n}]), SMALL)
    rare = np.zeros(2000)
    rare[-7:] = 1.0
    assert confirming.by_quantile(unit, task, "calibration", risk, rare, SMALL) == []
    assert confirming.by_quantile(unit, task, "calibration", risk, rare, 0)
