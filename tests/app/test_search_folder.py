"""The folder of a search is made ready for one search, and over nobody's own files."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import cohort_folders
from tim_search import config
from tim_search.app import opening, search_folder
from tim_search.results import opened
from tim_search.types import BadInput

TEXT = "cohort: support2  # my notes\ntasks: [hospdead, slos_log]\ndesign: {sized: 2}\n"


@pytest.mark.parametrize("out", [".", "elsewhere"])
def test_a_search_file_of_ones_own_is_not_overwritten(
    tmp_path: Path, out: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    own = tmp_path / out / "search.yaml"
    own.write_text(TEXT)
    search = config.resolve(config.load(own), out)
    with pytest.raises(BadInput, match=r"holds search\.yaml but no search .*Name another folder with --out"):
        search_folder.prepare(search)
    assert own.read_text() == TEXT
    assert not (tmp_path / out / "search.json").exists()


def test_a_folder_with_a_search_is_made_ready_again(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(TEXT)
    search = config.resolve(config.load(tmp_path / "mine.yaml"), tmp_path / "out")
    search_folder.prepare(search)
    again = config.resolve(config.load(tmp_path / "out" / "search.yaml"))
    assert search_folder.prepare(again).context == search.context


def test_relative_places_of_a_search_from_python_start_where_it_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also after the search has been taken up from its own folder, elsewhere."""
    monkeypatch.chdir(tmp_path)
    for folder in (tmp_path / "ward", tmp_path / "runs" / "mine" / "cohort"):
        folder.mkdir(parents=True)
        cohort_folders.write_folder(folder)
    file = config.SearchFile(cohort="ward", tasks=["died", "days"], network="flexcare", ledger="shared", design="exact")
    inner = file.model_copy(update={"cohort": "runs/mine/cohort", "ledger": None})
    for given, out in ((file, "runs/other"), (inner, "runs/mine")):
        search = config.resolve(given, out)
        search_folder.prepare(search)
        (tmp_path / "elsewhere").mkdir(exist_ok=True)
        monkeypatch.chdir(tmp_path / "elsewhere")
        again = opening.reopen(opened.open_search(search.out), consequence="nothing holds")
        assert (again.context, again.file.cohort) == (search.context, search.file.cohort)
        assert Path(again.ledger) == Path(search.ledger)
        monkeypatch.chdir(tmp_path)
    assert Path(config.resolve(file, "runs/other").ledger) == tmp_path / "shared"

    # A cohort in the folder of its search moves along with it.
    (tmp_path / "runs" / "mine").rename(tmp_path / "moved")
    moved = opening.reopen(opened.open_search(tmp_path / "moved"), consequence="nothing holds")
    assert moved.file.cohort == str(tmp_path / "moved" / "cohort")
