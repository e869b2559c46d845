"""The folder of a search is made ready for one search, and over nobody's own files."""

from __future__ import annotations

from pathlib import Path

import pytest

from tim_search import config
from tim_search.app import search_folder
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
