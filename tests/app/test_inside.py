"""A search with sequences, images, absent modalities and one label a sample, from its file to a look inside."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from model.networks import registry as networks
from model.networks.contract import Shape
from model.networks.settings import FlexCareSettings
from model.sources.opening import write_cohort
from model.sources.synthetic_incomplete import incomplete
from model.training import cost
from tests.support.searches import Call, finish, trained_search
from tim_search import config
from tim_search.app import inside
from tim_search.report import page as report
from tim_search.results import opened

SEARCH = """
cohort: cohort
name: small
tasks: [ihm, dec, phe]
network: flexcare
training:
  {width: 8, layers: 1, hidden: 8, experts: 3, expert_hidden: 4, patch: 4, epochs: 2, batch_size: 32,
   learning_rate: 3e-3, replicates: 2, order: [phe], task_weights: {phe: 1, ihm: 0.2}}
design: exact
seeds: [0]
folds: [0]
device: cpu
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small finished search, without MLflow."""
    folder = tmp_path_factory.mktemp("search")
    cohort, _ = incomplete(1000, seed=3, steps=4, side=6, tokens=3, token_width=6)
    write_cohort(cohort, folder / "cohort")
    return finish(folder, SEARCH)


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished, tmp_path / "out")
    return tmp_path / "out"


def test_every_unit_is_scored_by_every_metric_of_its_kind(finished: Path) -> None:
    frame = pd.read_parquet(finished / "ledger" / "scores")
    assert set(frame["status"]) == {"ok"}
    assert len(frame.groupby(["seed", "fold", frame["subset"].map(tuple)])) == 7
    by_task = frame.groupby("task")["metric"].agg(lambda x: set(x))
    assert by_task["ihm"] == by_task["dec"] == {"auroc", "auprc", "chosen_epoch"}
    assert by_task["phe"] == {"macro_auroc", "micro_auroc", "chosen_epoch"}
    primary = frame[frame["primary"]]
    assert set(primary["metric"]) == {"auroc", "macro_auroc"}
    assert (primary["replicates"].map(len) == 2).all()
    assert primary["score"].between(0, 1).all()
    assert set(frame.loc[frame["metric"] == "chosen_epoch", "score"]) <= {1.0, 2.0}


def test_status_tim_and_report_do_not_ask_which_network_it_was(finished: Path, tmp_path: Path) -> None:
    results = opened.open_search(finished)
    assert np.isfinite(results.tim().estimate[~np.eye(3, dtype=bool)]).all()
    page = report.write(results, tmp_path / "report.html")
    assert "flexcare" in page.read_text(encoding="utf-8")


def test_a_look_inside_counts_every_row_once(folder: Path) -> None:
    found = inside.look(folder, ["ihm", "phe"], seeds=2)
    assert found.subset == ("ihm", "phe")
    assert found.order == ("phe", "ihm")
    scores = found.tables["scores"]
    assert set(scores["variant"]) == {"together", "alone", "no task token"}
    assert (scores["seeds"] == 2).all()
    assert set(scores["metric"]) == {"auroc", "auprc", "macro_auroc", "micro_auroc"}
    routing = found.tables["routing"]
    assert set(routing["combination"]) >= {"series", "image", "notes", "series + image + notes"}
    # Every row that has a combination sends it to `top` of the three experts.
    sent = routing.groupby(["task", "combination"]).agg(chosen=("chosen", "sum"), rows=("rows", "first"))
    assert (sent["chosen"] == 2 * sent["rows"]).all()
    assert (sent["rows"] > 0).any()
    turns = found.tables["turns"]
    assert list(dict.fromkeys(zip(turns["epoch"], turns["turn"], strict=True))) == [
        (1, "phe"), (1, "ihm"), (2, "phe"), (2, "ihm")
    ]  # fmt: skip
    assert set(turns["task"]) == {"ihm", "phe"}
    assert (found.tables["patients"]["patients"] >= 5).all()
    assert set(found.tables["apart"]["variant"]) == {"together", "no task token"}
    for name in inside.TABLES:
        assert len(pd.read_csv(found.folder / f"{name}.csv")) == len(found.tables[name])


def test_the_command_prints_and_draws(folder: Path, call: Call) -> None:
    code, out, _ = call("inspect", folder, "--subset", "dec+ihm", "--seeds", "1", "--json")
    assert code == 0
    said = json.loads(out)
    assert said["subset"] == ["dec", "ihm"]
    assert {row["variant"] for row in said["scores"]} == {"together", "alone", "no task token"}
    for path in said["figures"].values():
        assert Path(path).read_bytes().startswith(b"\x89PNG")
    code, out, _ = call("inspect", folder, "--subset", "ihm", "--seeds", "1")
    assert code == 0
    assert "no task token" in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--subset", "ihm+nothing"], "expected tasks of the search, got nothing"),
        (["--seeds", "0"], "greater than or equal to 1"),
    ],
    ids=["task", "seeds"],
)
def test_bad_input_is_told(finished: Path, call: Call, arguments: list[str], words: str) -> None:
    code, _, err = call("inspect", finished, *arguments)
    assert code == 2
    assert words in " ".join(err.split())


def test_a_pack_of_sequences_fits_the_memory(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cohort = config.resolve(config.load(finished / "search.yaml"), finished).cohort
    settings = FlexCareSettings(width=8, layers=1, hidden=8, experts=3, expert_hidden=4, patch=4)
    shape = Shape(3, 0, 25, ((4, 76), (1, 6, 6), (3, 6)), (300, 80))
    each = networks.find("flexcare").member_bytes(shape, settings)
    assert each is not None
    assert each > 0
    found = []
    for free in (0.0, 1e12):
        monkeypatch.setattr(cost, "_free_memory", lambda free=free: free)
        found.append(cost.capacity(cohort, "flexcare", 3, settings, gpus=0, workers=1))
    assert found == [1, 16]


def test_attention_of_one_subset_is_the_mean_over_its_trainings(tmp_path: Path, call: Call) -> None:
    folder = trained_search(tmp_path / "out", blocks=2)
    code, out, err = call("inspect", folder, "--subset", "hospdead+slos_log", "--json")
    assert code == 0, err
    answer = json.loads(out)
    results = opened.open_search(folder)
    frame = results.ledger.attention(results.manifest.context.key)
    pair = frame[frame["subset"].map(tuple) == ("hospdead", "slos_log")]
    assert len(answer["attention"]) == 4
    for row in answer["attention"]:
        weights = pair[(pair["task"] == row["task"]) & (pair["other"] == row["draws_on"])]["weight"]
        assert (row["trainings"], row["mean"]) == (2, pytest.approx(weights.mean()))
    assert Path(answer["figures"]["attention"]).is_file()
    assert len(pd.read_csv(folder / "inside" / "hospdead+slos_log" / "attention.csv")) == 4
    code, out, _ = call("inspect", folder, "--subset", "hospdead+slos_log")
    assert code == 0
    assert "mean (SD) over 2 trainings" in " ".join(out.split())
    code, _, err = call("inspect", folder, "--subset", "hospdead")
    assert code == 2
    assert "two tasks or more" in " ".join(err.split())
