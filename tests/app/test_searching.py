"""A search from Python in one call: the same search as the command's, and what it has found as frames and figures."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

import tim_search
from tests.support.searches import Call, trained_search
from tim_search import config
from tim_search.app import cells, checking, deploy, searching, tuning
from tim_search.loop import running
from tim_search.loop.tally import Event
from tim_search.report.panel import MOST_ROWS, Panel, Rows
from tim_search.results import opened
from tim_search.types import BadInput, Finding, Interrupted

TASKS = ("hospdead", "slos_log", "dnr_later")
SETTINGS: dict[str, Any] = {
    "training": {"epochs": 1, "width": 8, "batch_size": 1024, "replicates": 5}, "references": False, "device": "cpu",
    "address": "serial",
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, empty_store: str) -> Path:
    """Where a search ran from Python, with a relative name, in pairs."""
    home = tmp_path_factory.mktemp("home")
    (home / "runs" / "mine").mkdir(parents=True)
    shutil.copy(empty_store.removeprefix("sqlite:///"), home / "runs" / "mine" / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        found = tim_search.search("support2", tasks=TASKS[:2], name="mine", design="pairs", blocks=1, **SETTINGS)
        assert found.folder == home / "runs" / "mine"
    return home / "runs" / "mine"


def test_it_is_the_search_that_the_command_would_run(
    folder: Path, call: Call, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {name: value for name, value in SETTINGS.items() if name != "address"}
    file = config.SearchFile(cohort="support2", tasks=TASKS[:2], design="pairs", blocks=1, **settings)
    assert config.resolve(file, folder).context == opened.open_search(folder).manifest.context
    assert "units trained  3" in call("status", folder)[1]
    # Neither the call again, nor one for the folder, nor the command trains anything anew.
    capsys.readouterr()
    again = tim_search.search(folder, address="serial")
    assert (again.status["trained"], again.status["finished"]) == (3, True)
    said = capsys.readouterr()
    assert f"Search mine: 2 tasks, 3 units, into {folder}. Interrupt it when you like" in said.out
    assert call("run", folder / "search.yaml", "--address", "serial")[0] == 0
    assert opened.open_search(folder).status()["trained"] == 3


def test_what_it_found_comes_as_frames_and_figures(folder: Path, tmp_path: Path) -> None:
    found = tim_search.Search(folder, address="serial")
    results = opened.open_search(folder)
    assert found.verdicts["source"].tolist() == list(TASKS[:2])
    assert set(found.verdicts.columns) >= {"verdict", "gain", "low", "high", "reason", "train"}
    tim = found.tim()
    assert tim[["source", "task"]].values.tolist() == [[*TASKS[:2]], [*TASKS[1::-1]]]
    assert tim["estimate"].tolist() == results.tim().to_frame()["estimate"].tolist()
    assert tim.attrs["label"] == results.tim().label
    assert found.expand("paper")["source"].tolist() == list(TASKS[:2])
    grouped = found.group(1)
    assert grouped["task"].tolist() == list(TASKS[:2])
    assert (folder / "group.json").exists()
    assert set(grouped.attrs) == {"total", "notes"}
    report = found.report(tmp_path / "page.html")
    assert report.path.read_text().startswith("<!doctype html>")
    assert 'href="' in report._repr_html_()


def test_a_heatmap_is_drawn_on_an_axis_that_is_given(folder: Path) -> None:
    found = tim_search.Search(folder)
    alone = found.heatmap()
    assert isinstance(alone, Figure)
    assert getattr(alone, "_repr_png_")()[:4] == b"\x89PNG"  # noqa: B009
    axis = Figure().add_subplot()
    assert found.heatmap("rank", ax=axis) is axis
    assert axis.images
    with pytest.raises(BadInput, match="kind must be 'rank' or 'value'"):
        found.heatmap("colour")  # type: ignore[arg-type]


def test_a_notebook_shows_the_answer(folder: Path) -> None:
    found = tim_search.Search(folder)
    html, text = found._repr_html_(), repr(found)
    for part in ("Search mine: ", "of 2 tasks, 3 of 3 units trained", "hospdead", "slos_log", str(folder)):
        assert part in html
        assert part in text
    assert "data:image/png;base64,iVBOR" in html
    assert "Not finished" not in html


def test_a_search_that_is_not_at_its_end_says_so(tmp_path: Path) -> None:
    half = tim_search.Search(trained_search(tmp_path / "half", n_subsets=4))
    assert "Not finished: 4 of 7 units are trained" in half._repr_html_()
    failed = tim_search.Search(trained_search(tmp_path / "bad", diverge=(("hospdead",),)))
    assert "1 units failed: " in repr(failed)
    with running.AtWork(half.folder, "small", "run", print):
        assert "It is being worked on: doing starting, pid " in repr(tim_search.Search(half.folder))
    none = trained_search(tmp_path / "none", n_subsets=0)
    assert "Not finished: 0 of 7" in repr(tim_search.Search(none))
    with pytest.raises(BadInput, match="holds no scores yet"):
        tim_search.Search(none).tim()
    with pytest.raises(BadInput, match=r"search\.json: cannot be read"):
        tim_search.Search(tmp_path)


@pytest.mark.parametrize(
    ("data", "settings", "words"),
    [
        ("support2", {"desgn": "pairs"}, "desgn: unknown key. Did you mean design"),
        ("support2", {"tasks": ["hospded"]}, "Did you mean hospdead"),
        ("support3", {}, "support3"),
        ("{folder}", {"blocks": 3}, "expected no blocks beside .*, which says it all"),
        ("{folder}/search.yaml", {"tasks": ["a"], "name": "b"}, "expected no tasks and no name beside"),
        (config.SearchFile(cohort="support2"), {"design": "exact"}, "no design beside a SearchFile"),
    ],
)
def test_settings_that_are_no_search(folder: Path, data: Any, settings: dict[str, Any], words: str) -> None:
    place = data.format(folder=folder) if isinstance(data, str) else data
    with pytest.raises(BadInput, match=words) as raised:
        searching.search(place, **settings)
    # A notebook shows what it says and no traceback.
    assert getattr(raised.value, "_render_traceback_")() == [f"BadInput: {raised.value}"]  # noqa: B009


def test_tuning_needs_ray(tmp_path: Path) -> None:
    file = config.SearchFile(cohort="support2", tasks=TASKS[:2], tuning={}, address="serial")
    with pytest.raises(BadInput, match="--address serial: tuning is run by Ray Tune"):
        tuning.tune(config.resolve(file, tmp_path / "out"))


# -------------------------------------------------------------------- while it runs


def test_a_message_names_arguments_where_there_are_no_options(folder: Path) -> None:
    search = tim_search.search(folder)
    with pytest.raises(BadInput, match=r"^source: expected .* got nobody"):
        search.train("nobody")
    with pytest.raises(BadInput) as told, cells.call(""):
        raise BadInput("--max-size: expected 2, got 1. Name it with --out; or: tim-search run x --out y")
    assert str(told.value) == "max_size: expected 2, got 1. Name it with out; or: tim-search run x --out y"


def test_an_interruption_ends_a_call_in_words() -> None:
    with pytest.raises(Interrupted, match="run the same cell again") as raised, cells.call("run the same cell again"):
        raise KeyboardInterrupt
    assert getattr(raised.value, "_render_traceback_")() == ["Interrupted: run the same cell again"]  # noqa: B009


def test_progress_is_one_line_on_a_terminal_and_a_line_now_and_then_elsewhere(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cells, "_LOOK", 0.01)
    monkeypatch.setattr(cells, "EVERY", 0.02)
    for terminal in (True, False):
        monkeypatch.setattr(cells.sys.stderr, "isatty", lambda answer=terminal: answer, raising=False)
        err = ""
        with cells.progress() as tell:
            tell(Event("round", 1, 3, 63, 0, 1.0))
            while "training: 3 of 63" not in err:
                err += capsys.readouterr().err
        err += capsys.readouterr().err
        assert ("\r\x1b[K" in err) == terminal
        assert err.endswith("3 of 63 done in under 1 s\n") == terminal


def test_what_failed_is_not_called_done(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cells.sys.stderr, "isatty", lambda: True, raising=False)
    with pytest.raises(BadInput), cells.progress("training a model for died"):
        raise BadInput("no such task")
    assert capsys.readouterr().err.endswith("training a model for died: ended after under 1 s\n")


# -------------------------------------------------------------------- what is shown


def test_texts_of_others_are_shown_as_text() -> None:
    odd = "<script>alert(1)</script>\x1b[2J\u202egnp"
    panel = Panel(odd, [odd], [odd], [Rows(odd, [odd, odd], [[odd, 1.5]])], b"", odd, [odd], odd, odd)
    html, text = panel.html(), panel.text()
    assert "<script>" not in html
    for shown in (html, text):
        assert "\x1b" not in shown
        assert "\u202e" not in shown
        assert r"\x1b[2J\u202egnp" in shown
    assert "1.5" in html


def test_of_a_long_table_the_first_rows_are_shown() -> None:
    rows = [[str(row), "word " * 40] for row in range(MOST_ROWS + 5)]
    for shown in (Panel("many", tables=[Rows("findings", ["", "what"], rows)]).html(), repr(Long(rows))):
        assert f"({MOST_ROWS} of {MOST_ROWS + 5})" in shown
        assert str(MOST_ROWS - 1) in shown
    assert max(map(len, repr(Long(rows)).splitlines())) < 130


class Long(checking.Checked):
    def __init__(self, rows: list[list[str]]) -> None:
        super().__init__("ward", tuple(Finding(place, problem, "") for place, problem in rows))


def test_a_check_shows_what_it_found(tmp_path: Path) -> None:
    assert tim_search.check("support2").errors == 0
    (tmp_path / "search.yaml").write_text("cohort: support2\ntask: [hospdead]\n")
    checked = tim_search.check(tmp_path / "search.yaml")
    assert (checked.errors, checked.to_frame().columns.tolist()) == (1, ["severity", "place", "problem", "fix"])
    assert "unknown key. Did you mean tasks" in checked._repr_html_()
    assert checked.summary.endswith("search.yaml: 1 error, 0 warnings")


@pytest.mark.slow
def test_confirming_and_training_from_a_notebook(folder: Path) -> None:
    found = tim_search.Search(folder, address="serial")
    rows = found.confirm(given=TASKS[:2], seeds=2, draws=100)
    assert rows["source"].tolist() == list(TASKS[:2])
    assert rows.attrs["notes"]
    model = found.train("hospdead", members=TASKS[:2])
    assert isinstance(model, deploy.Trained)
    assert "Scores on the test patients" in model._repr_html_()
    loaded = model.load()
    assert len(loaded.predict(loaded.example())) == len(loaded.example())
    assert len(found.group(1, train=True)) == 2
