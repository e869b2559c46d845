"""The command line: what each command says and ends with, bad input, and one whole search on a real local Ray."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient

from model.sources.opening import open_cohort
from tests.support import ROOT, fake_trainer, haim_files
from tests.support.references import search_with_references
from tests.support.searches import TASKS, Call, trained_search, write_search
from tim_search import __version__, config
from tim_search.app import confirmer, forecast, runner, search_folder
from tim_search.cli import cohort_cli, console, progress, search_tables
from tim_search.cli import commands as cli
from tim_search.executors.serial import SerialExecutor
from tim_search.ledger.ledger import Ledger
from tim_search.plans import expansion
from tim_search.results import opened, summary
from tim_search.tuning import choices
from tim_search.types import BadInput

COMMANDS = [
    "check",
    "cohort embed",
    "cohort export",
    "cohort haim",
    "cohort init",
    "cohort meds",
    "cohort mimic",
    "cohort synthetic",
    "compare",
    "confirm",
    "demo",
    "expand",
    "extend",
    "group",
    "heatmap",
    "inspect",
    "merge",
    "plan",
    "pool",
    "predict",
    "publish",
    "report",
    "run",
    "status",
    "tim",
    "train",
    "tune",
]

# ------------------------------------------------------------------------------------------------ help


def test_docs_and_changelog_name_every_command() -> None:
    text = (ROOT / "docs" / "commands.md").read_text()
    assert sorted(re.findall(r"^\| `tim-search ((?:cohort )?[a-z]+)", text, re.MULTILINE)) == COMMANDS
    changelog = (ROOT / "CHANGELOG.md").read_text()
    listed = re.search(r"^- Command line: ([^.]*)\.", changelog, re.MULTILINE)  # those of the first version
    assert listed is not None
    later = re.findall(r"`tim-search ((?:cohort )?[a-z]+)", changelog)
    assert set(re.split(r",\s+", listed[1])) | set(later) == set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(call: Call, command: str) -> None:
    code, out, _ = call(*command.split(), "--help")
    assert code == 0
    assert f"Example: tim-search {command}" in out


def test_every_command_is_tested_for_its_help() -> None:
    named = [
        before + (one.name or one.callback.__name__)
        for app, before in ((cli.app, ""), (cohort_cli.app, "cohort "))
        for one in app.registered_commands
        if one.callback is not None
    ]
    assert sorted(named) == sorted(COMMANDS)


def test_version_and_no_arguments(call: Call) -> None:
    assert call("--version")[:2] == (0, f"tim-search {__version__}\n")
    code, out, err = call()
    assert code == 2
    assert "Usage" in out + err


# ------------------------------------------------------------------------------------------------ reading a search


def test_status(call: Call, folder: Path) -> None:
    code, out, _ = call("status", folder, "--json")
    found = json.loads(out)
    assert code == 0
    assert {key: found[key] for key in ("planned", "trained", "failed", "waiting", "finished")} == {
        "planned": 7,
        "trained": 7,
        "failed": 0,
        "waiting": 0,
        "finished": True,
    }
    code, out, _ = call("status", folder)
    assert code == 0
    assert "units trained" in out


def test_status_of_an_unfinished_search(call: Call, half: Path) -> None:
    found = json.loads(call("status", half, "--json")[1])
    assert (found["trained"], found["waiting"], found["finished"]) == (4, 3, False)


def test_status_counts_and_explains_failures(call: Call, tmp_path: Path) -> None:
    path = trained_search(tmp_path / "bad", diverge=(("hospdead",), ("dzclass", "hospdead")))
    code, out, err = call("status", path, "--json")
    found = json.loads(out)
    assert (found["trained"], found["failed"], found["waiting"]) == (7, 2, 0)
    assert sum(found["failures"].values()) == 2
    code, out, err = call("status", path)
    assert code == 0
    assert "2 units failed: " in err


def test_tim(call: Call, folder: Path) -> None:
    code, out, _ = call("tim", folder, "--json")
    found = json.loads(out)
    assert code == 0
    assert found["label"] == "exact TIM"
    cells = {(one["source"], one["task"]): one["estimate"] for one in found["cells"]}
    f = {
        members: fake_trainer.value(fake_trainer.Unit(members, 0, 0), "hospdead")
        for members in ([("hospdead",), ("dzclass", "hospdead"), ("hospdead", "slos_log"), tuple(sorted(TASKS))])
    }
    with_it = f["dzclass", "hospdead"] + f[tuple(sorted(TASKS))]
    without = f["hospdead",] + f["hospdead", "slos_log"]
    assert cells["hospdead", "dzclass"] == pytest.approx((with_it - without) / 2)
    assert len(cells) == 6
    code, out, _ = call("tim", folder)
    assert code == 0
    assert "exact TIM; row = source task" in out


def test_tim_on_a_narrow_terminal_is_a_list(call: Call, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    code, out, _ = call("tim", folder)
    assert code == 0
    assert "row = source task" not in out


def test_tim_of_one_source(call: Call, folder: Path, tmp_path: Path) -> None:
    code, out, _ = call("tim", folder, "--source", "dzclass", "--json")
    found = json.loads(out)
    assert code == 0
    assert {cell["source"] for cell in found["cells"]} == {"dzclass"}
    assert [Path(path).name for path in found["figures"]] == ["forest-dzclass.png", "sizes-dzclass.png"]
    assert all(Path(path).read_bytes()[:4] == b"\x89PNG" for path in found["figures"])
    out = call("tim", folder, "--source", "dzclass", "--size", 2)[1]
    assert "restricted TIM (|T| <= 2)" in out
    assert "forest-dzclass-up-to-2.png" in out
    code, _, err = call("tim", folder, "--source", "nobody")
    assert code == 2
    assert f"--source: expected a task of the search, got 'nobody'. Name one of: {', '.join(TASKS)}." in err

    code, _, err = call("tim", folder, "--size", 9)
    assert code == 2
    assert "from 2 to 3, the tasks; got 9" in err

    # Where there is nothing to lay along an axis, no empty figure is drawn.
    for name, chosen, n_subsets in (("alone", ("dzclass",), None), ("begun", TASKS, 1)):
        path = trained_search(tmp_path / name, tasks=chosen, n_subsets=n_subsets)
        code, out, _ = call("tim", path, "--source", chosen[0], "--json")
        assert code == 0
        assert [Path(path).name for path in json.loads(out)["figures"]] == [f"forest-{chosen[0]}.png"]

    path = trained_search(tmp_path / "sampled", tasks=(*TASKS, "avtisst", "dnr_later"), design={"sampled": 50})
    found = json.loads(call("tim", path, "--source", "dzclass", "--size", 3, "--json")[1])
    assert found["label"] == "deployable TIM (|T| <= 3), sampled (BLUP)"
    assert [Path(path).name for path in found["figures"]] == [
        "forest-dzclass-up-to-3.png",
        "convergence-dzclass-up-to-3.png",
        "sizes-dzclass.png",
    ]
    steps = opened.open_search(path).convergence()
    assert [size for size, _ in steps] == [24, 36, 50]
    assert "(control)" in call("tim", path, "--source", "dzclass")[1]


def test_tim_by_another_method(call: Call, folder: Path) -> None:
    code, out, _ = call("tim", folder, "--method", "restricted", "--size", "2", "--json")
    assert code == 0
    assert json.loads(out)["label"] == "restricted TIM (|T| <= 2)"


def test_expand(call: Call, folder: Path) -> None:
    code, out, _ = call("expand", folder, "--rule", "paper", "--source", "hospdead", "--json")
    found = json.loads(out)
    assert code == 0
    assert found["rule"] == "paper"
    assert [one["source"] for one in found["expansions"]] == ["hospdead"]
    assert found["expansions"][0]["complete"] is True
    code, out, _ = call("expand", folder)
    assert code == 0
    assert "Greedy expansion (rule: lower_bound)" in out


def test_expand_half_way_says_what_is_missing(call: Call, half: Path) -> None:
    code, out, _ = call("expand", half, "--json")
    assert code == 0
    assert any("not trained yet" in one["reason"] for one in json.loads(out)["expansions"])


def test_reading_works_while_the_search_writes(call: Call, folder: Path) -> None:
    with Ledger(folder / "ledger").writer_lock():
        for command in ("status", "tim", "expand"):
            assert call(command, folder)[0] == 0


def test_reading_needs_neither_torch_nor_ray_nor_the_cohort(folder: Path) -> None:
    code = (
        "import sys\n"
        "from tim_search.cli import main\n"
        "for command in ('status', 'tim', 'expand'):\n"
        "    try: main([command, sys.argv[1]])\n"
        "    except SystemExit as ended: assert not ended.code, ended.code\n"
        "heavy = {'torch', 'ray', 'mlflow', 'sklearn', 'matplotlib', 'model'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "try: main(['tim', sys.argv[1], '--source', 'dzclass'])\n"
        "except SystemExit as ended: assert not ended.code, ended.code\n"
        "heavy = {'torch', 'ray', 'mlflow', 'sklearn', 'model'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code, str(folder)], check=True, capture_output=True)


def test_before_anything_is_trained(call: Call, tmp_path: Path) -> None:
    search_folder.prepare(config.resolve(config.SearchFile(cohort="support2", tasks=TASKS), tmp_path / "new"))
    assert json.loads(call("status", tmp_path / "new", "--json")[1])["trained"] == 0
    code, _, err = call("tim", tmp_path / "new")
    assert code == 2
    assert "holds no scores yet" in err
    assert call("expand", tmp_path / "new")[0] == 0


def test_group(call: Call, folder: Path) -> None:
    code, out, _ = call("group", folder, "--models", 2, "--objective", "worst", "--json")
    found = json.loads(out)
    assert code == 0
    assert found["objective"] == "worst"
    assert len(found["models"]) <= 2
    assert sorted(one["task"] for model in found["models"] for one in model["serves"]) == sorted(TASKS)
    assert found["unmeasured"] == []
    assert Path(found["figure"]).stat().st_size > 1000
    kept = json.loads(Path(found["record"]).read_text())
    assert kept["models"] == found["models"]
    code, out, _ = call("group", folder)
    assert code == 0
    assert "Models to deploy" in out
    code, _, err = call("group", folder, "--models", 1, "--max-size", 2)
    assert code == 2
    assert "cannot serve 3 tasks" in err


def test_group_trains_what_it_rests_on(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Part of a search: what the choice rests on unmeasured is trained into the same ledger, until nothing is left."""
    path = trained_search(tmp_path / "part", n_subsets=14, tasks=(*TASKS, "dnr_later"))
    before = opened.open_search(path)
    # The one model that serves all tasks holds them all, and was not trained.
    assert before.group(1, max_size=4).unmeasured == (tuple(sorted((*TASKS, "dnr_later"))),)
    behaviour = fake_trainer.Behaviour(replicates=20)

    def serial(factory: Any, payload: Any, tasks: Any, *_: Any, **__: Any) -> SerialExecutor:
        for name, task in tasks.items():
            monkeypatch.setitem(fake_trainer.TASKS, name, task)
        return SerialExecutor(fake_trainer.trainer, behaviour, tasks)

    monkeypatch.setattr(runner, "RayExecutor", serial)
    code, out, err = call("group", path, "--models", 1, "--max-size", 4, "--train", "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found["unmeasured"] == []
    assert not found["predicted"]
    assert "not trained yet" in err
    after = opened.open_search(path)
    assert before.table.complete < after.table.complete
    assert found["models"][0]["tasks"] == sorted((*TASKS, "dnr_later"))
    assert len(after.table.complete) == 15


def test_a_subset_that_fails_in_vain_does_not_hold_up_the_choice(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = trained_search(tmp_path / "part", n_subsets=6)
    monkeypatch.setattr(
        runner,
        "RayExecutor",
        lambda factory, payload, tasks, *_, **__: SerialExecutor(
            fake_trainer.trainer, fake_trainer.Behaviour(diverge=(tuple(sorted(TASKS)),)), tasks
        ),
    )
    for name, task in config.resolve(config.load(path / "search.yaml")).tasks.items():
        monkeypatch.setitem(fake_trainer.TASKS, name, task)
    # One model can only be the whole, which is not trained yet, and then fails.
    code, _, err = call("group", path, "--models", 1, "--max-size", 3, "--train")
    assert code == 2
    assert "Allow" in err


def test_report(call: Call, folder: Path, tmp_path: Path) -> None:
    code, out, _ = call("report", folder, "--out", tmp_path / "there" / "page.html", "--small-cells", 10, "--json")
    found = json.loads(out)
    assert code == 0
    assert Path(found["report"]) == tmp_path / "there" / "page.html"
    assert Path(found["report"]).stat().st_size == found["bytes"]
    assert "Counts below 10 are hidden" in Path(found["report"]).read_text()
    assert call("report", folder)[0] == 0
    assert (folder / "report.html").exists()
    code, _, err = call("report", tmp_path)
    assert code == 2
    assert "search.json" in err


def test_the_report_of_a_run(folder: Path) -> None:
    content = summary.report(opened.open_search(folder))
    assert json.loads(json.dumps(content, allow_nan=False)) == content
    first = content["sources"][0]
    assert first["single_score"] == pytest.approx(
        fake_trainer.value(fake_trainer.Unit(("hospdead",), 0, 0), "hospdead")
    )
    estimates = [one["estimate"] for one in first["helpers"]]
    assert estimates == sorted(estimates, reverse=True)
    for rule in ("paper", "lower_bound"):
        assert first[rule]["complete"] is True
    # The lower bound accepts nothing that the paper's rule refuses.
    assert all(one["lower_bound"]["size"] == 1 or one["paper"]["size"] > 1 for one in content["sources"])


def test_overlapping_targets_are_marked(tmp_path: Path) -> None:
    path = trained_search(tmp_path / "twins", tasks=("charges_log", "totcst_log"))
    content = summary.report(opened.open_search(path))
    assert [one["overlaps"] for source in content["sources"] for one in source["helpers"]] == [True, True]
    grown = [one["paper"] for one in content["sources"] if one["paper"]["size"] == 2]
    assert grown, "the fake scores help at least one of the two"
    assert all(len(one["overlapping"]) == 1 for one in grown)


def test_a_sampled_search_with_a_stopping_rule_and_a_control(call: Call, tmp_path: Path) -> None:
    design = {"sampled": {"stop": {"top_k": 2, "max_subsets": 31}}}
    path = trained_search(tmp_path / "sampled", tasks=(*TASKS, "avtisst"), design=design)
    found = json.loads(call("status", path, "--json")[1])
    assert (found["planned"], found["trained"], found["finished"]) == (None, 31, True), "all subsets of five tasks"
    assert [one["subsets"] for one in found["stopping"]["checks"]] == [20, 30, 31]
    assert found["stopping"]["reason"].startswith("stopped at the limit of 31 subsets")
    assert "stopped at the limit of 31" in call("status", path)[1]
    tim_says = json.loads(call("tim", path, "--json")[1])
    assert any(note.startswith("Negative control hospdead_permuted") for note in tim_says["notes"])
    assert any(note.startswith("Search: stopped at the limit") for note in tim_says["notes"])
    assert not any(
        cell["rejected"] for cell in tim_says["cells"] if "hospdead_permuted" in (cell["source"], cell["task"])
    )
    content = summary.report(opened.open_search(path))
    assert [row["source"] for row in content["sources"]] == [*TASKS, "avtisst"]
    assert {one["task"] for row in content["sources"] for one in row["helpers"]} == {*TASKS, "avtisst"}
    assert content["stopping"]["stopped"] is True
    _, out, _ = call("plan", path / "search.yaml", "--json", "--out", path)
    found = json.loads(out)
    assert (found["units"], found["at_most"], found["todo"], found["held"]) == (None, 31, 0, 31)


def test_a_sample_has_no_best_combinations(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = trained_search(
        tmp_path / "sampled", tasks=("hospdead", "dnr_later", *TASKS[1:], "avtisst"), design={"sampled": 20}
    )
    content = summary.report(opened.open_search(path))
    console.output().print(search_tables.report(content))
    out = capsys.readouterr().out
    assert "sampled TIM" in out
    assert "Combinations: none can be chosen" in out


def test_the_end_of_a_run_tells_how_far_pairs_and_the_full_scores_part(folder: Path, half: Path) -> None:
    results = opened.open_search(folder)
    (note,) = [one for one in summary.report(results)["notes"] if "Pairs alone" in one]
    full, pairs = results.tim().estimate, results.tim("restricted", size=2).estimate
    both = ~np.eye(len(full), dtype=bool)
    assert f"in {(np.sign(full) == np.sign(pairs))[both].mean():.0%} of the signs" in note
    assert not [one for one in summary.report(opened.open_search(half))["notes"] if "Pairs alone" in one]


def test_what_is_tuned_for_a_confirmation_is_what_it_trains(folder: Path, tmp_path: Path) -> None:
    wanted = confirmer.wanted(opened.open_search(folder))
    chosen = {row["source"]: row["best"] for row in expansion.rows(opened.open_search(folder).expand("paper")[0])}
    grown = {source for source, best in chosen.items() if best != source}
    assert {(source,) for source in grown} | {tuple(chosen[source].split(" + ")) for source in grown} <= set(wanted)
    assert tuple(sorted(TASKS)) in wanted, "all tasks together are a baseline"
    assert len(wanted) == len(set(wanted))
    pairs = (("dzclass", "hospdead"), ("hospdead", "slos_log"), ("dzclass", "slos_log"), tuple(sorted(TASKS)))
    alone = trained_search(tmp_path / "alone", diverge=pairs)
    with pytest.raises(BadInput, match=r"every task scores best alone.*--subset"):
        confirmer.wanted(opened.open_search(alone))


def test_a_folder_of_another_context_is_refused(call: Call, folder: Path, tmp_path: Path) -> None:
    path = write_search(tmp_path / "small.yaml", training={"epochs": 3})
    before = (folder / "search.json").read_bytes()
    code, _, err = call("run", path, "--out", folder)
    assert code == 2
    assert "holds the search 'small' with another context" in err
    assert "settings (epochs 15 and 3) differ" in err
    assert "Starting Ray" not in err, "told before anything is started"
    assert "--out" in err
    assert (folder / "search.json").read_bytes() == before


def test_a_folder_of_another_search_is_refused(call: Call, folder: Path, tmp_path: Path) -> None:
    path = write_search(tmp_path / "other.yaml", name="other")
    before = (folder / "search.json").read_bytes()
    code, _, err = call("run", path, "--out", folder)
    assert code == 2
    assert "holds the search small of 3 tasks" in err
    assert "Starting Ray" not in err
    assert "ledger: " in err
    assert (folder / "search.json").read_bytes() == before


def test_a_second_driver_changes_nothing_in_the_folder_of_the_first(call: Call, folder: Path, tmp_path: Path) -> None:
    path = write_search(tmp_path / "small.yaml", design={"sized": 2})
    before = (folder / "search.json").read_bytes()
    with opened.open_search(folder).ledger.writer_lock():
        code, _, err = call("run", path, "--out", folder)
    assert code == 2
    assert "is being written by" in err
    assert (folder / "search.json").read_bytes() == before


# ------------------------------------------------------------------------------------------------ plan, check, export

#: Seconds that a start takes here; measuring them takes as long (see `test_a_start_takes_what_a_fresh_process_takes`).
START = 7.0


@pytest.fixture(autouse=True)
def _start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forecast, "start_seconds", lambda search: START)


def test_plan(call: Call, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"training": {"epochs": 1, "replicates": 0}, "blocks": 2}
    path = write_search(tmp_path / "small.yaml", **settings, resources={"workers": 2})
    code, out, _ = call("plan", path, "--json", "--out", tmp_path / "out")
    found = json.loads(out)
    assert (code, found["workers"]) == (0, 2)
    # Sums of the same numbers in another order: equal shares of two workers come out a rounding apart.
    least, most = found["worker_seconds"] / 2, found["worker_seconds"]
    assert least * (1 - 1e-9) <= found["wall_seconds"] - START <= most * (1 + 1e-9)
    assert (found["units"], found["todo"], found["held"]) == (14, 14, 0)
    assert found["references"] == 18, "none, linear and boosting of three tasks on two folds"
    steps = {
        "batch_size": 256,
        "epochs": 1,
        "updates": 22,
        "rows": 5606,
        "chosen": {"batch_size": 256, "average": 0, "contrastive_weight": 1.0, "input_dropout": 0.0, "width": 64},
    }
    assert found["steps"] == steps
    assert found["by_size"] == {"1": 6, "2": 6, "3": 2}
    assert found["worker_seconds"] > 0
    assert not (tmp_path / "out").exists(), "a plan writes nothing"
    path = write_search(tmp_path / "small.yaml", **settings)
    code, out, _ = call("plan", path, "--out", tmp_path / "out")
    assert code == 0
    assert "to be trained" in out
    assert " 0 s" not in out
    assert re.search(r"reference models +18 to be trained", out)
    each = "1 epoch of minibatches of 256, 22 updates at most (batch_size 256, average 0, contrastive_weight 1.0, "
    assert each + "input_dropout 0.0, width 64: chosen for 5606" in " ".join(out.split())
    assert re.search(r"expected +about \d+ s with 1 worker of this machine's speed, 7 s of them", out)


def test_plan_of_what_is_trained_already(call: Call, folder: Path) -> None:
    code, out, _ = call("plan", folder / "search.yaml", "--out", folder)
    assert code == 0
    assert "none: all that is asked for is in the ledger" in out
    assert " 0 s" not in out


@pytest.mark.slow
def test_a_start_takes_what_a_fresh_process_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    found = config.resolve(config.SearchFile(cohort="support2", tasks=TASKS))
    monkeypatch.undo()  # the fixed number of the other tests
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    here = forecast.start_seconds(found)
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    assert 0.5 < forecast.start_seconds(found) < here


def test_plan_for_gpu_workers_measures_where_there_is_a_gpu(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, Any] = {"training": {"epochs": 1, "replicates": 0}, "resources": {"gpus": 1}}
    path = write_search(tmp_path / "small.yaml", **settings)
    monkeypatch.setattr("model.training.cost.gpus_here", lambda: 0)
    without = json.loads(call("plan", path, "--json", "--out", tmp_path / "out")[1])
    assert (without["todo"], without["worker_seconds"], without["wall_seconds"]) == (14, None, None)
    monkeypatch.setattr("model.training.cost.gpus_here", lambda: 1)
    found = json.loads(call("plan", path, "--json", "--out", tmp_path / "out")[1])
    assert found["workers"] == 1, "one for each GPU, however many cores there are"
    assert found["wall_seconds"] == pytest.approx(found["worker_seconds"] + START)
    assert found["worker_seconds"] > 0


def test_plan_knows_what_the_ledger_holds(call: Call, half: Path, tmp_path: Path) -> None:
    found = json.loads(call("plan", half / "search.yaml", "--out", half, "--json")[1])
    assert (found["units"], found["held"], found["todo"]) == (7, 4, 3)


@pytest.mark.slow
def test_plan_tells_the_smallest_effect_of_a_sampled_search(call: Call, tmp_path: Path) -> None:
    design, tasks = {"sampled": {"n": 60}}, (*TASKS, "avtisst", "dnr_later")
    small = {"epochs": 1, "replicates": 0}
    path = write_search(tmp_path / "small.yaml", design=design, tasks=list(tasks), training=small)
    code, out, _ = call("plan", path, "--json", "--out", tmp_path / "out")
    found = json.loads(out)
    assert code == 0
    assert (found["units"], found["power"]["pilot_units"]) == (60, 0)
    assert set(found["power"]["smallest"]) == set(tasks)
    assert set(found["power"]["smallest"].values()) == {None}
    assert "--pilot trains the first subsets" in call("plan", path, "--out", tmp_path / "out")[1]

    full = trained_search(tmp_path / "full", tasks=tasks, design=design)
    found = json.loads(call("plan", full / "search.yaml", "--out", full, "--json")[1])
    assert found["power"]["pilot_units"] == 60
    assert all(value > 0 for value in found["power"]["smallest"].values())
    assert "is told from zero in four of five searches" in call("plan", full / "search.yaml", "--out", full)[1]
    exact = write_search(tmp_path / "exact.yaml", training=small)
    assert json.loads(call("plan", exact, "--json", "--out", tmp_path / "out")[1])["power"] is None
    code, _, err = call("plan", exact, "--pilot", "--out", tmp_path / "out")
    assert code == 2
    assert "expected a sampled design, got exact" in err


@pytest.mark.slow
def test_a_pilot_is_part_of_its_search(call: Call, tmp_path: Path) -> None:
    tasks = [*TASKS, "avtisst", "dnr_later"]
    path = write_search(tmp_path / "s.yaml", design="sampled", tasks=tasks, training={"epochs": 1, "replicates": 10})
    code, out, _ = call("plan", path, "--pilot", "--json", "--out", tmp_path / "out")
    found = json.loads(out)
    assert code == 0
    assert (found["power"]["pilot_units"], found["held"], found["units"]) == (38, 38, 63)
    assert all(value > 0 for value in found["power"]["smallest"].values())
    assert json.loads(call("status", tmp_path / "out", "--json")[1])["waiting"] == 25


def test_plan_of_a_greedy_search(call: Call, tmp_path: Path) -> None:
    path = write_search(tmp_path / "greedy.yaml", design="greedy", training={"epochs": 1, "replicates": 0})
    found = json.loads(call("plan", path, "--json", "--out", tmp_path / "out")[1])
    assert found["units"] is None
    assert (found["todo"], found["at_most"]) == (12, 14), "three tasks alone and in pairs, two blocks"


def test_check_of_a_search_file_and_a_search_folder(call: Call, folder: Path, tmp_path: Path) -> None:
    code, out, _ = call("check", write_search(tmp_path / "small.yaml"))
    assert code == 0
    assert "0 errors" in out
    code, out, _ = call("check", write_search(tmp_path / "wrong.yaml", tasks=["hospdeath"]), "--json")
    found = json.loads(out)
    assert (code, found["errors"]) == (2, 1)
    assert "hospdead" in found["findings"][0]["fix"]
    assert call("check", folder)[0] == 0


def test_check_finds_a_damaged_ledger(call: Call, tmp_path: Path) -> None:
    path = trained_search(tmp_path / "damaged")
    part = next((path / "ledger" / "scores").glob("*.parquet"))
    part.write_bytes(part.read_bytes()[:-100])
    code, out, _ = call("check", path)
    assert code == 2
    assert part.name in out


def test_cohort_export_and_check(call: Call, tmp_path: Path) -> None:
    code, out, _ = call("cohort", "export", "support2", tmp_path / "mine")
    assert code == 0
    assert "12 tasks" in out
    assert call("check", tmp_path / "mine")[0] == 0
    assert call("cohort", "export", "support2", tmp_path / "mine")[0] == 2
    exported = config.resolve(config.SearchFile(cohort=str(tmp_path / "mine"), tasks=TASKS))
    assert exported.context == config.resolve(config.SearchFile(cohort="support2", tasks=TASKS)).context
    (tmp_path / "mine" / "cohort.yaml").write_text("name: mine\n")
    code, out, _ = call("check", tmp_path / "mine")
    assert code == 2


def test_cohort_init_and_a_strict_check(call: Call, tmp_path: Path) -> None:
    numbers = range(300)
    table = pd.DataFrame({"visit": numbers, "patient": [n // 2 for n in numbers]})
    table = table.assign(lab_a=[n * 7 % 11 for n in numbers], lab_b=[n * 5 % 13 for n in numbers])
    table = table.assign(lab_c=[n * 3 % 17 for n in numbers], y_died=[int(n % 3 == 0) for n in numbers])
    table = table.assign(lab_copy=table["y_died"] * 2.0, y_late=table["y_died"])
    table.to_csv(tmp_path / "stays.csv", index=False)
    code, out, _ = call("cohort", "init", tmp_path / "stays.csv", "--out", tmp_path / "mine")
    assert (code, "4 inputs in 1 modality, 2 tasks with labels" in out) == (0, True)
    code, out, _ = call("check", tmp_path / "mine")
    assert (code, "tells died: a copy" in out) == (0, True)
    assert "1.00" in out  # the two targets are one
    code, out, _ = call("check", tmp_path / "mine", "--strict", "--json")
    found = json.loads(out)
    assert (code, found["errors"]) == (2, len(found["findings"]))
    assert found["overlap"] == {"tasks": ["died", "late"], "matrix": [[1.0, 1.0], [1.0, 1.0]]}
    code, out, _ = call("cohort", "init", tmp_path / "stays.csv", "--out", tmp_path / "again", "--json")
    assert json.loads(out)["patient_id"] == "patient"
    assert call("cohort", "init", tmp_path / "stays.csv", "--out", tmp_path / "mine")[0] == 2
    code, _, err = call("cohort", "init", "--out", tmp_path / "other")
    assert (code, "expected a TABLE, --sql or --from" in err) == (2, True)


def test_cohort_init_takes_an_edited_column_table(call: Call, tmp_path: Path) -> None:
    numbers = range(300)
    table = pd.DataFrame({"visit": numbers, "patient": [n // 2 for n in numbers], "age": [n % 60 for n in numbers]})
    table.assign(ward=[n % 7 for n in numbers], y_died=[n % 3 == 0 for n in numbers]).to_csv(tmp_path / "s.csv")
    code, out, _ = call("cohort", "init", tmp_path / "s.csv", "--out", tmp_path / "mine")
    assert (code, "patient id" in out, "7 whole numbers: a category?" in out) == (0, True, True)
    columns = tmp_path / "mine" / "columns.csv"
    columns.write_text(
        columns.read_text(encoding="utf-8").replace("number,input,features,0%,7", "category,input,w,0%,7")
    )
    code, out, err = call("cohort", "init", "--from", columns, "--json")
    assert (code, json.loads(out)["modalities"]) == (0, {"features": ["age"], "w": ["ward"]})
    assert "kept as cohort-1.yaml and columns-1.csv" in err
    code, out, _ = call("cohort", "init", "--from", columns, "--out", tmp_path / "copy", "--json")
    assert (code, json.loads(out)["modalities"]) == (0, {"features": ["age"], "w": ["ward"]})
    assert call("check", tmp_path / "copy")[0] == 0


def test_cohort_haim(call: Call, tmp_path: Path) -> None:
    path = haim_files.small_table(tmp_path)
    code, out, _ = call("cohort", "haim", "--embeddings", path, "--out", tmp_path / "made")
    assert (code, "40 samples, 3 tasks" in out) == (0, True)
    assert "12,586 samples of 5,178 stays" in out
    assert "Never inputs: discharge_location, img_length_of_stay, death_status" in out
    assert call("check", tmp_path / "made")[0] == 0
    code, out, _ = call("cohort", "haim", "--embeddings", path, "--out", tmp_path / "again", "--json")
    assert json.loads(out)["steps"][-1]["patients"] == 20
    code, _, err = call("cohort", "haim", "--embeddings", tmp_path / "none.csv", "--out", tmp_path / "other")
    assert (code, "there is no such file" in err) == (2, True)


def test_cohort_synthetic_is_a_cohort_with_its_truth(call: Call, tmp_path: Path) -> None:
    folder = tmp_path / "made"
    asked = ("cohort", "synthetic", "--like", "haim", "--samples", 300, "--tasks", 6, "--seed", 4)
    code, out, err = call(*asked, folder)
    assert (code, "300 samples, 6 tasks" in out) == (0, True)
    assert err.index("Generating 300 samples of 123 patients") < err.index("Writing")
    found = config.resolve(config.SearchFile(cohort=str(folder)))
    truth = json.loads((folder / "truth.json").read_text())
    assert truth["tasks"] == list(found.tasks)
    assert len(truth["relation"]) == len(truth["relation"][0]) == 6
    samples = pd.read_parquet(folder / "truth.parquet")
    assert samples["sample_id"].tolist() == found.cohort.sample_ids.tolist()
    assert call(*asked, tmp_path / "again")[0] == 0
    again = config.resolve(config.SearchFile(cohort=str(tmp_path / "again")))
    assert again.context == found.context
    before = sorted(folder.rglob("*"))
    code, _, err = call(*asked, folder)
    assert (code, "expected a new or empty folder" in err, "Generating" in err) == (2, True, False)
    assert sorted(folder.rglob("*")) == before
    code, _, err = call("cohort", "synthetic", "--samples", 200, "--patients", 300, tmp_path / "third")
    assert (code, "--patients" in err) == (2, True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again", "made"]


def test_cohort_synthetic_in_the_shape_of_flexcare(call: Call, tmp_path: Path) -> None:
    sizes = ("--samples", 600, "--steps", 4, "--side", 8, "--tokens", 3)
    code, out, err = call("cohort", "synthetic", "--like", "flexcare", *sizes, tmp_path / "made")
    assert (code, "600 samples, 6 tasks" in out) == (0, True)
    assert "Generating 600 samples of 300 patients with 6 tasks, in the shape of flexcare" in err
    cohort = open_cohort(tmp_path / "made")
    assert [m.values.shape[1:] for m in cohort.modalities.values()] == [(4, 76), (1, 8, 8), (3, 32)]
    assert json.loads((tmp_path / "made" / "truth.json").read_text())["tasks"] == list(cohort.tasks)
    for like, option in (("flexcare", "--tasks"), ("haim", "--steps")):
        code, _, err = call("cohort", "synthetic", "--like", like, option, 5, tmp_path / "other")
        assert (code, f"{option}: expected nothing with --like {like}, got 5" in err) == (2, True)
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(("linear", "first"), [(0.8, "Not learnt: a."), (0.7, "a: promising with b (not confirmed)")])
def test_status_begins_with_what_has_not_learnt_and_the_verdicts(
    call: Call, tmp_path: Path, linear: float, first: str
) -> None:
    search_with_references(tmp_path, linear)
    code, out, _ = call("status", tmp_path)
    assert (code, out.lstrip().startswith(first)) == (0, True)
    assert "Each task alone beside its reference models" in " ".join(out.split())
    assert ("has not learnt" in out) == (linear == 0.8)
    told = json.loads(call("status", tmp_path, "--json")[1])
    assert [row["source"] for row in told["verdicts"]] == ["a", "b", "c"]
    assert told["references"][0]["linear"] == pytest.approx(linear, abs=0.01)


# ------------------------------------------------------------------------------------------------ whole searches

TINY = {
    "training": {"epochs": 1, "replicates": 10},
    "resources": {"workers": 1},
    "tasks": ["hospdead", "dzclass"],
    "blocks": 1,
}


def command(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tim_search", *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "160", **environment},
        timeout=280,
    )


def test_a_search_from_its_file_to_its_heatmap(call: Call, tmp_path: Path) -> None:
    path, out = write_search(tmp_path / "tiny.yaml", **TINY), tmp_path / "out"
    done = command("run", path, "--out", out)
    assert done.returncode == 0, done.stderr
    assert "Starting Ray" in done.stderr
    for word in (
        "What two rules choose for each source task",
        "hospdead",
        str(out / "ledger"),
        str(out / "figures"),
        "MiB at most a worker",
        "mlflow",
    ):
        assert word in done.stdout
    # The report in the folder, and the same page among MLflow's artifacts.
    pages = list(out.rglob("report.html"))
    assert len(pages) == 2
    assert pages[0].read_text() == pages[1].read_text()
    scores = pd.read_parquet(out / "ledger" / "scores")
    assert len(scores.drop_duplicates(["seed", "fold", "task"])) == 2
    assert sorted(path.name for path in (out / "figures").iterdir()) == [
        "attention.png",
        "heatmap-rank.png",
        "heatmap-value.png",
    ], "no figure of combinations: in so short a training neither network has learnt"
    assert len(pd.read_csv(out / "tables" / "tim.csv")) == 2
    assert "not learnt</b>" in pages[0].read_text()

    code, again, err = call("run", out / "search.yaml", "--json")
    assert code == 0, err
    assert json.loads(again)["units"] == {"trained": 0, "failed": 0, "reused": 3}

    uri = f"sqlite:///{out / 'mlflow.db'}"
    code, fetched, err = call("heatmap", "--tracking-uri", uri, "--search", "tiny", "--out", tmp_path / "got", "--json")
    assert code == 0, err
    found = json.loads(fetched)
    assert found["label"] == "exact TIM"
    assert len(found["cells"]) == 2
    assert all(Path(figure).stat().st_size > 1000 for figure in found["figures"])
    assert len(pd.read_csv(found["table"])) == 2


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("local_ray")
def test_a_search_is_tuned_first_and_its_choices_can_be_tuned(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = {"epochs": 1, "replicates": 10, "width": 8}
    fields = {**TINY, "training": training, "tuning": {"space": {"batch_size": [128, 512]}}}
    path, out = write_search(tmp_path / "tuned.yaml", **fields), tmp_path / "out"
    code, _, err = call("plan", path, "--out", out)
    assert code == 0
    assert "Tuning comes first: up to 30 trainings" in err
    seen: list[dict[str, Any]] = []

    @contextlib.contextmanager
    def looking(**_: Any) -> Iterator[Any]:
        """Looks at the folder at each event, as `status` would from elsewhere."""
        yield lambda event: seen.append(opened.status(out))

    monkeypatch.setattr(progress, "progress", looking)
    code, said, err = call("run", path, "--out", out, "--json")
    assert code == 0, err
    assert "Chosen: batch_size" in err
    at_work = [status["at_work"] for status in seen]
    assert all(each["running"] and each["pid"] == os.getpid() for each in at_work)
    assert (at_work[0]["what"], at_work[-1]["what"]) == ("tune", "run")
    assert at_work[0]["total"] == 30
    assert "trained" not in seen[0], "there is no search yet"
    assert seen[-1]["trained"] == 3
    # What was tuned on is the search's own: alone and together, on the fold of its block.
    assert json.loads(said)["units"] == {"trained": 0, "failed": 0, "reused": 3}
    scores = pd.read_parquet(out / "ledger" / "scores").query("network != 'reference'")
    units = scores.assign(subset=scores["subset"].map(tuple)).drop_duplicates(["context", "subset", "seed", "fold"])
    assert len(units) == 30
    results = opened.open_search(out)
    (record,) = json.loads((out / "tuning.json").read_text())["studies"]
    assert json.loads(results.manifest.context.settings)["batch_size"] == record["choice"]["batch_size"]

    named_subsets = ("--subset", "hospdead", "--subset", "hospdead+dzclass", "--subset", "dzclass")
    code, said, err = call("tune", path, "--out", out, *named_subsets, "--json")
    assert code == 0, err
    studies = json.loads(said)["studies"]
    assert [study["subset"] for study in studies] == [["hospdead"], ["dzclass", "hospdead"], ["dzclass"]]
    for study in studies:
        assert choices.chosen(out, study["subset"]) == {
            **json.loads(results.manifest.context.settings),
            **study["choice"],
        }
    client = MlflowClient(f"sqlite:///{out / 'mlflow.db'}")
    (experiment,) = client.search_experiments(filter_string="name = 'tim-search'")
    runs = client.search_runs([experiment.experiment_id], "tags.kind = 'tuning'")
    assert len(runs) == 2
    named = [artifact.path for run in runs for artifact in client.list_artifacts(run.info.run_id, "figures")]
    assert "figures/tuning-history.png" in named
    assert len({run.data.tags["mlflow.parentRunId"] for run in runs}) == 1


@pytest.mark.slow
def test_an_interrupted_search_goes_on(tmp_path: Path) -> None:
    path, out = (
        write_search(
            tmp_path / "six.yaml", **{**TINY, "tasks": [*TASKS, "avtisst"], "capacity": 2, "references": False}
        ),
        tmp_path / "out",
    )
    running = subprocess.Popen(
        [sys.executable, "-m", "tim_search", "run", str(path), "--out", str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    end = time.monotonic() + 120
    while not list((out / "ledger" / "scores").glob("part-*")) and time.monotonic() < end:
        time.sleep(0.2)
    running.send_signal(signal.SIGINT)
    _, err = running.communicate(timeout=120)
    assert running.returncode == 130, err
    assert "Run the same command again" in err
    assert "Traceback" not in err
    held = len(Ledger(out / "ledger").done(opened.open_search(out).manifest.context.key))
    assert 0 < held < 15
    again = command("run", path, "--out", out, "--json")
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["units"] == {"trained": 15 - held, "failed": 0, "reused": held}


@pytest.mark.slow
def test_a_search_with_failed_units_ends_with_3(tmp_path: Path) -> None:
    # A learning rate at which every float overflows: all members diverge.
    training = {"epochs": 2, "replicates": 0, "learning_rate": 1e30}
    path = write_search(tmp_path / "wild.yaml", **{**TINY, "training": training})
    done = command("run", path, "--out", tmp_path / "out", "--json")
    assert done.returncode == 3, done.stderr
    assert json.loads(done.stdout)["units"]["failed"] == 3
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_an_unreachable_mlflow_is_a_warning(tmp_path: Path) -> None:
    path = write_search(tmp_path / "tiny.yaml", **TINY, tracking_uri="http://127.0.0.1:9")
    done = command("run", path, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("warning: MLflow at http://127.0.0.1:9") == 1
    assert (tmp_path / "out" / "figures" / "heatmap-rank.png").exists()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_demo(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tim_search", "demo", "--out", str(tmp_path / "demo"), "--json"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["units"] == {"trained": 3 * 63, "failed": 0, "reused": 0}
    assert any("silhouette" in note for note in found["notes"])
    assert found["label"] == "exact TIM"
    assert [one["source"] for one in found["sources"]] == list(opened.open_search(tmp_path / "demo").tasks)
