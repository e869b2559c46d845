"""The log of test readings: on disk, whole lines, also after a kill and with two writers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tim_search.results import readings
from tim_search.types import BadInput

WRITER = """
import sys
from pathlib import Path
from tim_search.results import readings
for number in range(50):
    readings.log(Path(sys.argv[1]), sys.argv[2], number=number)
"""


def test_a_line_holds_who_read_what_and_when(tmp_path: Path) -> None:
    assert readings.read(tmp_path) == []
    readings.log(tmp_path, "train", source="ill", subset=["ill", "stay"], seeds=[0, 1])
    readings.log(tmp_path, "confirm", source=None)
    first, second = readings.read(tmp_path)
    assert (first["command"], first["source"], first["subset"], first["seeds"]) == (
        "train", "ill", ["ill", "stay"], [0, 1],
    )  # fmt: skip
    assert second["command"] == "confirm"
    assert str(first["when"]) <= str(second["when"])
    assert first["version"]
    assert len((tmp_path / readings.FILE).read_text().splitlines()) == 2


def test_a_torn_line_costs_itself_alone(tmp_path: Path) -> None:
    readings.log(tmp_path, "train", source="a")
    with (tmp_path / readings.FILE).open("a") as file:
        file.write('{"when": "2026-01-01T00:')
    with pytest.warns(readings.ReadingsWarning, match="line 2"):
        assert [entry["source"] for entry in readings.read(tmp_path)] == ["a"]
    readings.log(tmp_path, "train", source="b")
    with pytest.warns(readings.ReadingsWarning, match="line 2"):
        assert [entry["source"] for entry in readings.read(tmp_path)] == ["a", "b"]


def test_two_processes_write_whole_lines(tmp_path: Path) -> None:
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path), name]) for name in ("one", "two")]
    assert [writer.wait(60) for writer in writers] == [0, 0]
    found = [(entry["command"], entry["number"]) for entry in readings.read(tmp_path)]
    assert sorted(found) == [(name, number) for name in ("one", "two") for number in range(50)]


def test_what_cannot_be_logged_may_not_be_read(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="may not be read"):
        readings.log(tmp_path / "nowhere", "train")
    with pytest.raises(TypeError):
        readings.log(tmp_path, "train", source=object())
    with pytest.raises(ValueError, match="JSON"):
        readings.log(tmp_path, "train", seconds=float("nan"))
    assert not (tmp_path / readings.FILE).exists()


def test_the_log_is_plain_json_lines(tmp_path: Path) -> None:
    readings.log(tmp_path, "train", source="ä\u2028b")
    assert json.loads((tmp_path / readings.FILE).read_text(encoding="utf-8"))["source"] == "ä\u2028b"
    assert readings.read(tmp_path)[0]["source"] == "ä\u2028b"
