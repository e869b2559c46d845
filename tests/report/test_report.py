"""The report: what it says is true of its search, it is one whole page, and nothing of the users' data is markup."""

from __future__ import annotations

import base64
import csv
import dataclasses
import io
import json
import os
import re
import shutil
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from model.cohorts.manifest import describe
from model.sources.synthetic import haim_like
from tests.support import fake_trainer
from tests.support.references import search_with_references
from tim_search import config
from tim_search.app import search_folder
from tim_search.executors.serial import SerialExecutor
from tim_search.ledger import table as games
from tim_search.ledger.ledger import Ledger
from tim_search.loop import run as search
from tim_search.loop.manifest import Manifest
from tim_search.plans.greedy import Greedy
from tim_search.plans.static import StaticPlan
from tim_search.report import figures, gallery, records, wording
from tim_search.report import page as report
from tim_search.report.chapters import asked, sources
from tim_search.results import opened
from tim_search.results.verdicts import Verdict, verdict, verdicts
from tim_search.tim import agreement
from tim_search.tim import scores as tim
from tim_search.tim.result import TimResult, most_telling
from tim_search.types import BadInput, Context, Task

EVIL = '<script>alert("x")</script>'
TASKS = ("hospdead", "dzclass", "slos_log")
CONFIRMED = {
    "source": "hospdead", "metric": "auroc", "chosen": "dzclass + hospdead", "single": 0.8, "multi": 0.82,
    "difference": 0.02, "percent": 2.5, "low": 0.01, "high": 0.03, "p_value": 0.001, "rejected": True,
    "single_sd": 0.01, "multi_sd": 0.01, "together": 0.81, "ensemble": float("nan"), "verdict": "confirmed",
}  # fmt: skip


class Page(HTMLParser):
    """Tags, ids, links and text of a page; unbalanced tags are an error."""

    VOID = frozenset({"meta", "br", "line", "circle", "input", "link", "img"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[dict[str, str | None]] = []
        self.loads: list[tuple[str, str | None]] = []
        self.words: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        if tag not in self.VOID:
            self.open.append(tag)
        if found := named.get("id"):
            self.ids.append(found)
        if tag == "a":
            self.links.append(named)
        self.loads += [(tag, value) for key, value in attrs if key in ("src", "srcset") or (tag == "link")]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("script", "style"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def train(
    folder: Path,
    tasks: dict[str, Task],
    blocks: Any,
    n_subsets: int | None = None,
    design: Mapping[str, Any] = {"kind": "exact"},
    **behaviour: Any,
) -> Path:
    """A folder of a search over tasks of any name, exact unless told otherwise, by the trainer that needs no time."""
    manifest = Manifest(
        name="odd" if EVIL not in tasks else EVIL,
        cohort="made up",
        context=Context("c", "d", "s", "fake", '{"alpha":0.1,"width":3}'),
        tasks=tuple(tasks.values()),
        overlaps=(tuple(sorted(tasks))[:2],) if len(tasks) > 2 else (),  # type: ignore[arg-type]
        design=design,
        blocks=blocks,
        sources=tuple(tasks),
        planned_units=(2 ** len(tasks) - 1) * len(blocks),
    )
    manifest.write(folder)
    (folder / "search.yaml").write_text("cohort: somewhere\n")  # as a run keeps it; it hides no counts
    results = opened.open_search(folder)
    plan = results.plan
    assert isinstance(plan, StaticPlan)
    executor = SerialExecutor(
        fake_trainer.trainer, fake_trainer.Behaviour(attention=True, replicates=20, **behaviour), tasks
    )
    with pytest.MonkeyPatch.context() as patch:
        for name, task in tasks.items():
            patch.setitem(fake_trainer.TASKS, name, task)
        some = StaticPlan(plan.subsets[:n_subsets])
        search.run(some, Ledger(folder / "ledger"), manifest.context, tasks, blocks, executor, capacity=8)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three tasks of SUPPORT2 as `tim-search run` prepares them, scored without time."""
    path = tmp_path_factory.mktemp("report") / "small"
    found = config.resolve(
        config.SearchFile(cohort="support2", name="small", tasks=TASKS, design="exact", blocks=2), path
    )  # type: ignore[arg-type]
    search_folder.prepare(found)
    executor = SerialExecutor(fake_trainer.trainer, fake_trainer.Behaviour(attention=True, replicates=20), found.tasks)
    with pytest.MonkeyPatch.context() as patch:
        for name, task in found.tasks.items():
            patch.setitem(fake_trainer.TASKS, name, task)
        search.run(found.plan, Ledger(found.ledger), found.context, found.tasks, found.blocks, executor, capacity=4)
    return path


def text_of(folder: Path, **options: Any) -> str:
    return report.page(report.content(opened.open_search(folder), **options))


def test_the_page_is_whole_and_fetches_nothing(folder: Path) -> None:
    path = report.write(opened.open_search(folder))
    assert path == folder / "report.html"
    text = path.read_text()
    page = Page(text)
    assert len(text) < 5_000_000
    assert page.loads == []
    assert not re.search(r"url\(|@import|https?://", text)
    assert len(page.ids) == len(set(page.ids))
    for link in page.links:
        href = link["href"] or ""
        assert href.startswith("data:text/csv") or href[1:] in page.ids, href
    assert not list(folder.glob(".*.tmp"))


def test_it_says_what_the_search_holds(folder: Path) -> None:
    results = opened.open_search(folder)
    text = Page(text_of(folder)).text
    result = results.tim()
    assert "exact TIM" in text
    assert "every subset of the tasks" in text
    for i, source in enumerate(TASKS):
        for j, task in enumerate(TASKS):
            if i != j:
                assert f"{result.estimate[i, j]:+.4f}".replace("-", "\N{MINUS SIGN}") in text, (source, task)
    # The cohort: filters, split, prevalence, missingness, excluded columns.
    for words in ("raw table 9,105", "8,758 samples of 8,758 patients", "test 1,751", "physiology.scoma dzclass"):
        assert words in text
    assert "0: 6,536 (74.6 %)" in text
    assert "Nothing was confirmed" in text
    assert "No training failed" in text
    assert json.loads((folder / "versions.json").read_text())["torch"] in text


def test_the_answer_comes_first(tmp_path: Path) -> None:
    results = search_with_references(tmp_path, 0.7)
    text = text_of(tmp_path)
    page = Page(text)
    assert [name for name in page.ids if name in ("answer", "heatmap", "learnt", "words")] == [
        "answer", "heatmap", "learnt", "words"
    ]  # fmt: skip
    for each in verdicts(results).values():
        assert " ".join(each.sentence.split()) in page.text.replace(" : ", ": ")
    assert "None is surely behind them" in page.text
    assert "have not learnt" not in page.text
    assert text.index('data-panel="value"') < text.index('data-panel="rank"')


def test_networks_that_have_not_learnt_are_told_first(tmp_path: Path) -> None:
    context = Context("cohort", "columns", "split", "m3h", '{"batch_size":256,"epochs":3,"learning_rate":0.001}')
    results = search_with_references(tmp_path, 0.8, context)
    facts = report.content(results)
    by_value, by_rank = facts["maps"]
    assert [row["note"] for row in by_value["rows"]] == ["has not learnt", "", ""] == [
        row["note"] for row in by_rank["rows"]
    ]  # fmt: skip
    assert {cell["shade"] for cell in by_value["rows"][0]["cells"]} == {0}
    assert not any(cell["mark"] for cell in by_value["rows"][0]["cells"])
    assert "a has not learnt: no finding" in by_value["rows"][0]["cells"][1]["detail"]
    assert facts["references"]["not_learnt"] == ["a"]
    assert "3 epochs, minibatches of 256" in facts["references"]["advice"][0]
    assert "training: {batch_size: 64, epochs: 6}" in facts["references"]["advice"][0]
    page = Page(report.page(facts))
    assert page.text.index("1 of 1 networks has not learnt") < page.text.index("A row is a source task")


def test_wide_tables_scroll_in_themselves(folder: Path) -> None:
    """A table that is wider than a phone scrolls in its own frame, and not the page."""
    text = re.sub(r"<script>.*?</script>", "", text_of(folder), flags=re.S)
    assert len(re.findall(r"<table\b", text)) == len(re.findall(r'<div class="scroll"[^>]*>\s*<table\b', text)) > 5


def test_two_at_once_do_not_stand_in_each_others_way(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page is written aside under a name of its own, made durable, then put in its place."""
    synced = []
    sync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: synced.append(1) or sync(handle))
    (folder / ".report.html.tmp").mkdir()
    path = report.write(opened.open_search(folder))
    (folder / ".report.html.tmp").rmdir()
    assert Page(path.read_text(encoding="utf-8")).text
    assert len(synced) == 2, "the page and its name"
    assert not list(folder.glob(".*"))


def test_the_tables_inside_are_those_of_the_search(folder: Path) -> None:
    links = [link for link in Page(text_of(folder)).links if (link["href"] or "").startswith("data:")]
    assert [link["download"] for link in links] == [
        f"small-{name}.csv" for name in ("verdicts", "tim", "expansion", "attention")
    ]
    rows = list(csv.DictReader(io.StringIO(base64.b64decode((links[1]["href"] or "").split(",")[1]).decode())))
    expected = opened.open_search(folder).tim().frame()
    assert [(row["source"], row["task"]) for row in rows] == [(row["source"], row["task"]) for row in expected]
    assert [float(row["estimate"]) for row in rows] == [row["estimate"] for row in expected]


def test_names_from_users_are_text(tmp_path: Path) -> None:
    """Names of tasks, searches, classes and errors may hold anything; none becomes markup or breaks an attribute."""
    tasks = {name: Task(name, "binary") for name in (EVIL, "a&b", 'it\'s "quoted"', "ünïcode 数")}
    train(tmp_path, tasks, ((0, 0), (1, 1)), diverge=((EVIL, "a&b"),))
    (tmp_path / "group.json").write_text(json.dumps({"budget": EVIL}))  # no choice of models: passed over
    (tmp_path / "cohort.json").write_text("{")
    text = text_of(tmp_path)
    page = Page(text)
    assert text.count("<script>") == 1
    assert "<script>alert" not in text
    assert "a&amp;b" in text
    for name in tasks:
        assert name in page.text
    assert "holds no description of its cohort" in page.text
    assert "group" not in page.ids


@pytest.mark.parametrize("kind", ["exact", "sized", "sampled", "greedy", "surrogate"])
def test_every_design_is_told_in_words(folder: Path, kind: str) -> None:
    results = opened.open_search(folder)
    manifest = dataclasses.replace(results.manifest, design={"kind": kind, "k": 2, "n": 20})
    told = asked.asked(dataclasses.replace(results, manifest=manifest))["design"]
    assert told.startswith(f"{kind}: ")
    assert told != f"{kind}: {kind}"


@pytest.mark.parametrize("n_tasks", [1, 2])
def test_searches_of_one_and_two_tasks(tmp_path: Path, n_tasks: int) -> None:
    tasks = {name: Task(name, "binary") for name in ("one", "two")[:n_tasks]}
    train(tmp_path, tasks, ((0, 0),))
    page = Page(text_of(tmp_path))
    assert "In plain words" in page.text
    assert ("attention" in page.ids) == (n_tasks == 2)


def test_an_unfinished_search_with_failures_says_so(tmp_path: Path) -> None:
    tasks = {name: Task(name, "regression") for name in ("u", "v", "w")}
    train(tmp_path, tasks, ((0, 0),), n_subsets=5, diverge=(("u",),))
    text = Page(text_of(tmp_path)).text
    assert "not finished: 2 trainings are waiting" in text
    assert "1 of 5 trainings failed" in text
    assert "diverged at epoch 3" in text
    assert "one seed" in text


def test_a_confirmation_is_shown_and_changes_the_words(folder: Path) -> None:
    before, after = text_of(folder), text_of(folder, confirmation=[CONFIRMED])
    assert "nothing here is confirmed" in before
    page = Page(after)
    assert "nothing here is confirmed" not in page.text
    assert "1 of 1 chosen combinations were confirmed: hospdead" in page.text
    assert "dzclass + hospdead: confirmed" in page.text
    assert any((link["download"] or "").endswith("confirmation.csv") for link in page.links if "download" in link)


def test_a_choice_of_models_is_shown(folder: Path, tmp_path: Path) -> None:
    from tim_search.results import grouping

    copy = shutil.copytree(folder, tmp_path / "copy")
    results = opened.open_search(copy)
    content = grouping.record(results.group(2, draws=3))
    opened.write_group(results, content)
    page = Page(text_of(copy))
    assert "group" in page.ids
    for model in content["models"]:
        assert " + ".join(model["tasks"]) in page.text
    for note in content["notes"]:
        assert note in page.text


def test_small_counts_are_hidden_and_cannot_be_had_from_their_neighbours(tmp_path: Path) -> None:
    record: dict[str, Any] = {
        "format": 1, "name": "tiny", "fingerprint": "f", "description": {}, "filters": [["all", 203], ["rare", 7]],
        "samples": 203, "patients": 203,
        "parts": [{"part": "test", "samples": 203, "patients": 203}],
        "modalities": [
            {"name": "m", "kind": "vector", "columns": 2, "categorical": 0, "absent": 3, "missing": 0.1,
             "column_missing": {"x": 4, "y": 50}},
        ],
        "dropped": [],
        "tasks": [
            {"name": "u", "kind": "binary", "metric": "auroc", "department": "", "excludes": [], "labelled": 203,
             "classes": [["no", 196], ["yes", 7]], "parts": [{"part": "test", "labelled": 203, "positive": 7}]},
            {"name": "v", "kind": "binary", "metric": "auroc", "department": "", "excludes": [], "labelled": 203,
             "classes": [["no", 101], ["yes", 102]], "parts": [{"part": "test", "labelled": 203, "positive": 102}]},
            {"name": "w", "kind": "regression", "metric": "r2", "department": "", "excludes": [], "labelled": 6,
             "mean": 12345.0, "sd": 1.0, "parts": [{"part": "test", "labelled": 6, "positive": None}]},
        ],
        "overlaps": [],
    }  # fmt: skip
    train(tmp_path, {name: Task(name, "binary") for name in ("u", "v")}, ((0, 0),))
    (tmp_path / "cohort.json").write_text(json.dumps(record))
    shown, hidden = Page(text_of(tmp_path)).text, Page(text_of(tmp_path, small=10)).text
    assert "yes: 7 (3.4 %)" in shown
    assert "yes: <10" in hidden
    assert "no: ≈200" in hidden
    assert "196" not in hidden
    assert "u ≈200" in hidden
    assert "no: 101 (49.8 %)" in hidden  # a task without small cells keeps its counts
    assert "rare <10" in hidden
    assert "1.23e+04" in shown
    assert "1.23e+04" not in hidden
    assert "x <10" in hidden
    assert not re.search(r"\b3\.4 %|2\.0 %|96\.6 %", hidden)

    # The search's own wish holds wherever nothing else is asked for, as where a run publishes its report.
    (tmp_path / "cohort.json").write_text(json.dumps(record | {"small_cells": 10}))
    assert Page(text_of(tmp_path)).text == hidden
    with pytest.raises(BadInput, match="--small-cells: expected 10 or more"):
        text_of(tmp_path, small=0)


def test_points_of_few_patients_are_in_no_figure() -> None:
    curves = pd.DataFrame(
        {
            "task": ["u", "u", "u"],
            "kind": ["density", "density", "roc"],
            "x": [np.array([1.0, 2.0, 3.0]), np.array([1.0]), np.array([0.0, 1.0])],
            "y": [np.array([4.0, 5.0, 6.0]), np.array([4.0]), np.array([0.0, 1.0])],
            "n": [np.array([5.0, 10.0, 9.0]), np.array([9.0]), np.array([])],
        }
    )
    assert gallery.without_small(curves, 0) is curves
    left = gallery.without_small(curves, 10)
    assert [[list(row.x), list(row.y), list(row.n)] for row in left.itertuples()] == [
        [[2.0], [5.0], [10.0]],
        [[0.0, 1.0], [0.0, 1.0], []],
    ]
    assert len(gallery.without_small(curves, 11)) == 1
    assert len(gallery.without_small(curves, 21)) == 0  # nothing says that a ROC curve rests on so many
    assert list(gallery.without_small(curves, 21).columns) == list(curves.columns)


@pytest.mark.slow
def test_a_page_of_44_tasks_can_be_mailed(tmp_path: Path) -> None:
    names = tuple(f"clinical outcome {k}" for k in range(44))
    tasks = {name: Task(name, "binary", department=f"department {k % 6}") for k, name in enumerate(names)}
    train(tmp_path, tasks, ((0, 0),), design={"kind": "sampled", "n": 150, "seed": 0, "sliced": False})
    text = report.write(opened.open_search(tmp_path)).read_text()
    page = Page(text)
    assert len(text.encode()) < 5_000_000
    assert {"map-value", "map-rank", "map-attention"} <= set(page.ids)


def test_a_page_of_many_tasks_shows_the_most_telling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = tuple(f"clinical outcome {k}" for k in range(24))
    tasks = {name: Task(name, "binary") for name in names}
    train(tmp_path, tasks, ((0, 0),), design={"kind": "sampled", "n": 60, "seed": 0, "sliced": False})
    results = opened.open_search(tmp_path)
    overlaps = results.manifest.overlaps
    facts = report.content(results, most=8)
    shown = most_telling(results.tim(), 8, overlaps)
    assert [one["source"] for one in facts["sources"]] == list(shown)
    assert facts["maps"][0]["columns"] == facts["attention"]["map"]["columns"] == list(shown)
    assert {one["source"] for one in facts["others"]} == set(names) - set(shown)
    other = facts["others"][0]
    mine = [row for row in results.tim().frame() if row["source"] == other["source"]]
    assert other["helper"]["estimate"] == max(row["estimate"] for row in mine)
    text = report.page(facts)
    assert "The other 16 source tasks, one line each" in text
    assert "Shown are the 8 tasks of 24" in text
    assert "<summary>24 tasks</summary>" in text, "long lists are folded"
    href = next(table["href"] for table in facts["tables"] if table["name"] == "tim.csv")
    rows = list(csv.DictReader(io.StringIO(base64.b64decode(href.partition(",")[2]).decode())))
    assert len(rows) == 8 * 7
    monkeypatch.setattr(figures, "MOST_WEIGHTS", 100)
    assert report.content(results)["attention"] is None
    assert gallery.attention(results, results.tim()) == ()
    assert gallery.expansion(results, list(verdicts(results).values())) == (), "a sample compares no combination"


def test_a_source_with_many_helpers_lists_both_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = tuple(f"clinical outcome {k}" for k in range(12))
    train(tmp_path, {name: Task(name, "binary") for name in names}, ((0, 0),), design={"kind": "sized", "k": 2})
    monkeypatch.setattr(sources, "MOST_SHOWN", 8)
    monkeypatch.setattr(figures, "MAX_ROWS", 4)
    results = opened.open_search(tmp_path)
    first = report.content(results)["sources"][0]
    told = [one["estimate"] for one in first["helpers"]]
    row = np.sort(np.delete(results.tim().estimate[0], 0))[::-1].tolist()
    assert told == [*row[:2], *row[-2:]]
    assert first["left_out"] == 7
    assert "7 tasks between are not listed" in text_of(tmp_path)


# ---------------------------------------------------------------------------------------------- words


def words_of(result: TimResult, **options: Any) -> tuple[str, str]:
    tasks = {name: Task(name, "binary") for name in result.tasks}
    status = {"finished": True, "waiting": 0, "failed": 0, "trained": 9, "network": "m3h", "cohort": "ours"}
    overlaps = options.pop("overlaps", ())
    may = wording.may(result, tasks, overlaps, options.get("verdicts", ()), options.get("confirmation", ()))
    return " ".join(may), " ".join(wording.may_not(result, tasks, overlaps, status, **options))


def judged(table: games.ScoreTable) -> list[Verdict]:
    plan = Greedy(table.tasks, table.tasks, rule="lower_bound")
    return [verdict(each, "auroc") for each in plan.result(table)]


def clear_result(overlaps: Any = (), blocks: int = 3, control: str | None = None) -> TimResult:
    """b helps a and c harms a, by far; all else is noise."""
    rng = np.random.default_rng(0)
    membership = ((np.arange(1, 16)[:, None] >> np.arange(4)) & 1).astype(bool)
    base = np.full((15, 4), 0.7)
    base[:, 0] += 0.1 * membership[:, 1] - 0.05 * membership[:, 2]
    scores = np.where(membership[:, None, :], base[:, None, :] + rng.normal(0, 1e-3, (15, blocks, 4)), np.nan)
    table = games.ScoreTable(
        ("a", "b", "c", "d"), tuple((k, k) for k in range(blocks)), membership, scores, np.ones((15, blocks), bool)
    )
    return tim.from_table(table, overlaps=overlaps, control=control)


def test_what_may_be_said_of_clear_effects() -> None:
    may, may_not = words_of(clear_result())
    assert "raises the AUROC of a by 0.1" in may
    assert "lowers the AUROC of a by 0.05" in may
    assert "no statement about causes" in may_not
    assert "average over all 4 choices" in may_not
    assert "nothing here is confirmed" in may_not
    for absent in (
        "Combinations",
        "one seed",
        "negative control",
        "nested",
        "silhouette",
        "failed",
        "excludes",
        "not finished",
    ):
        assert absent not in may_not


def test_an_ensemble_that_ties_does_as_well() -> None:
    row = {**CONFIRMED, "source": "a", "chosen": "a + b"}
    for over, said in ((-0.01, True), (0.0, True), (0.01, False), (None, False)):
        may, _ = words_of(clear_result(), confirmation=[{**row, "over_ensemble": over}])
        assert ("For a an ensemble of single-task models does as well or better" in may) == said


@pytest.mark.parametrize("m", [1, 2])
def test_nothing_is_said_of_other_tasks_where_there_are_none(m: int) -> None:
    membership = ((np.arange(1, 2**m)[:, None] >> np.arange(m)) & 1).astype(bool)
    scores = np.where(membership[:, None, :], 0.7, np.nan) + np.zeros((len(membership), 2, m))
    trained = np.ones((len(membership), 2), bool)
    table = games.ScoreTable(("a", "b")[:m], ((0, 0), (1, 1)), membership, scores, trained)
    may, may_not = words_of(tim.from_table(table), verdicts=judged(table))
    assert "choices of the other tasks" not in may_not
    assert ("single-task model is a sound choice" in may) == (m > 1)


def test_one_seed_is_no_ground_for_a_finding() -> None:
    clear = clear_result()
    one = dataclasses.replace(clear, blocks=((0, 0),), rejected=np.zeros_like(clear.rejected))
    may, _ = words_of(one)
    assert "None of 12 effects of one task on another can be told from the luck of the one seed" in may
    assert "false discovery rate" not in may


def test_an_overlapping_pair_is_never_the_clearest_help() -> None:
    pair = (("a", "b"),)
    may, may_not = words_of(clear_result(pair), overlaps=pair)
    assert "training with b" not in may
    assert "a and b" in may_not


def test_a_control_is_counted_nowhere_and_told_of() -> None:
    may, may_not = words_of(clear_result(control="d"))
    assert "training with d" not in may
    assert "negative control d" in may_not


def test_what_a_sample_without_tests_lacks() -> None:
    rng = np.random.default_rng(0)
    membership = rng.random((30, 50)) < 0.5
    result = tim.estimate(membership, np.where(membership, 0.7 + 0.01 * rng.normal(size=(30, 50)), np.nan))
    may, may_not = words_of(result)
    assert may == ""
    assert "estimated from 30 of 2^50 - 1 subsets" in may_not
    assert "Each task needs 54 subsets" in may_not
    assert "train about 108 subsets" in may_not
    assert any("scored all 50 tasks" in note for note in result.notes), "no list of fifty names"
    pairs = [(f"{k}", f"{k + 1}") for k in range(20)]
    assert "; and 14 more)" in words_of(result, overlaps=pairs)[1]


def test_noise_is_not_called_an_effect() -> None:
    rng = np.random.default_rng(4)
    membership = ((np.arange(1, 16)[:, None] >> np.arange(4)) & 1).astype(bool)
    scores = np.where(membership[:, None, :], 0.7 + rng.normal(0, 0.01, (15, 4, 4)), np.nan)
    table = games.ScoreTable(tuple("abcd"), tuple((k, 0) for k in range(4)), membership, scores, np.ones((15, 4), bool))
    may, may_not = words_of(tim.from_table(table), verdicts=judged(table), dropped=["labs.x"])
    assert "None of 12 effects" in may
    assert "does not mean that there are none" in may
    assert "same validation patients" in may_not
    assert "labs.x" in may_not
    assert "Combinations were chosen and measured on the same" in may_not


# ---------------------------------------------------------------------------------------------- agreement


def test_rank_agreement_of_equal_opposite_and_unrelated_maps() -> None:
    rng = np.random.default_rng(0)
    one = rng.normal(size=(8, 8))
    same = agreement.rank_agreement(one, np.exp(one))
    assert same.mean == pytest.approx(1)
    assert same.chance < 0.01
    assert agreement.rank_agreement(one, -one).mean == pytest.approx(-1)
    other = rng.normal(size=(8, 8))
    assert agreement.rank_agreement(one, other).chance > 0.05
    # By hand: others of row 0 are 1, 2, 3, 4; ranks 1 2 3 4 against 1 2 4 3.
    first, second = np.full((5, 5), np.nan), np.full((5, 5), np.nan)
    first[0, 1:], second[0, 1:] = [1, 2, 3, 4], [1, 2, 4, 3]
    found = agreement.rank_agreement(first, second)
    assert found.rows[0] == pytest.approx(0.8)
    assert np.isnan(found.rows[1:]).all()
    left_out = np.zeros((5, 5), bool)
    left_out[0, 1:3] = True
    assert np.isnan(agreement.rank_agreement(first, second, left_out).mean)
    assert np.isnan(agreement.rank_agreement(first, np.ones((5, 5))).mean)


# ---------------------------------------------------------------------------------------------- the cohort's record


def test_a_cohort_in_counts() -> None:
    """Every count of the record against the arrays: repeated samples, absences, all problem classes."""
    cohort, _ = haim_like(400, 160, 0, n_binary=3)
    record = describe(cohort)
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert record["samples"] == 400
    assert record["patients"] == 160
    assert sum(part["samples"] for part in record["parts"]) == 400
    assert sum(part["patients"] for part in record["parts"]) == 160
    for one in record["modalities"]:
        modality = cohort.modalities[one["name"]]
        assert one["absent"] == int((~modality.present).sum())
        there = np.isnan(modality.values[modality.present])
        assert one["missing"] == pytest.approx(there.mean())
        assert list(one["column_missing"].values()) == there.sum(axis=0).tolist()
    for one in record["tasks"]:
        if one["kind"] == "clustering":
            assert "labelled" not in one
            continue
        labels = cohort.labels[one["name"]]
        assert one["labelled"] == int(np.isfinite(labels).sum()) == sum(part["labelled"] for part in one["parts"])
        if one["kind"] == "binary":
            assert dict(one["classes"])[cohort.classes[one["name"]][1]] == int(np.nansum(labels))
            assert sum(part["positive"] for part in one["parts"]) == int(np.nansum(labels))


def test_excluded_columns_are_told_with_who_excludes_them(folder: Path) -> None:
    record = json.loads((folder / "cohort.json").read_text())
    assert {(one["modality"], one["column"]): one["by"] for one in record["dropped"]} == {
        ("physiology", "scoma"): ["dzclass"],
        ("history", "dzgroup"): ["dzclass"],
        ("history", "ca"): ["dzclass"],
    }
    assert all(one["name"] != "scoma" for one in record["modalities"])


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("group.json", {"budget": 2, "models": "x", "front": [], "notes": [], "made": "now"}),
        ("group.json", {"budget": [1], "models": [], "front": {}, "notes": 3, "made": None}),
        ("group.json", [1]),
        ("cohort.json", dict.fromkeys(("format", "samples", "parts", "modalities", "dropped", "tasks"), 1)),
        ("versions.json", {"torch": {"a": 1}}),
        ("versions.json", "text"),
    ],
)
def test_a_record_of_another_form_is_left_out_with_a_warning(tmp_path: Path, name: str, content: Any) -> None:
    train(tmp_path, {name: Task(name, "binary") for name in ("a", "b")}, ((0, 0),))
    (tmp_path / name).write_text(json.dumps(content))
    with pytest.warns(records.RecordWarning, match=f"{name}.*The page does without it"):
        path = report.write(opened.open_search(tmp_path))
    assert Page(path.read_text()).text


def test_a_task_with_a_long_name_of_folders_has_figures(tmp_path: Path) -> None:
    long = "../" + "x" * 249
    train(tmp_path, {name: Task(name, "binary") for name in (long, "b", "c")}, ((0, 0),))
    results = opened.open_search(tmp_path)
    paths = gallery.source(results, results.tim(), long)
    assert all(path.exists() and path.parent == tmp_path / "figures" for path in paths)


def test_a_page_is_not_written_over_a_folder(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="expected a page to write, got a folder"):
        report.write(SimpleNamespace(folder=tmp_path), tmp_path)  # type: ignore[arg-type]
