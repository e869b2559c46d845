"""JSON that every reader takes, and the reader of what others wrote."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tim_search.gates.plain import json_text, number, parse_json, plain, read_json, read_object, write_json
from tim_search.types import BadInput


def test_nan_and_infinity_are_null_wherever_they_are() -> None:
    value = {
        "a": float("nan"),
        "b": [np.float32("inf"), 1.5],
        3: (np.int64(2), np.array([[1.0, np.nan]])),
        "p": Path("/x"),
    }
    expected = {"a": None, "b": [None, 1.5], "3": [2, [[1.0, None]]], "p": "/x"}
    assert plain(value) == expected
    assert parse_json(json_text(value), "here") == expected
    assert number(None) is None
    assert number(float("-inf")) is None
    assert number(np.float64(2)) == 2.0
    assert plain({"b", "a"}) == ["a", "b"]
    assert plain(np.bool_(True)) is True
    with pytest.raises(TypeError, match="bytes"):
        plain(b"x")


def test_what_is_written_is_read(tmp_path: Path) -> None:
    content = {"name": "Größe \ud800", "values": [1, None, True]}
    path = write_json(tmp_path / "new" / "a.json", content)
    assert path.read_bytes().endswith(b"\n")
    assert read_object(path) == content


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "not whole JSON"),
        (b'{"a": ', "not whole JSON"),
        (b"[" * 200_000, "nests too deep"),
        (b"1" * 10_000, "not whole JSON"),
        (b"\xff\xfe", "UTF-8"),
        (b"[1]", "got a list"),
        (b"null", "got null"),
        (b"1.5", "got a number"),
    ],
)
def test_anything_else_is_bad_input(tmp_path: Path, content: bytes, problem: str) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(BadInput, match=problem) as caught:
        read_object(path, "search's manifest", "Run the search again.")
    assert "search's manifest" in str(caught.value)
    assert "Run the search again." in str(caught.value)


def test_a_file_that_is_too_large_or_not_there(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("[1, 2, 3]")
    with pytest.raises(BadInput, match="at most 5 bytes"):
        read_json(tmp_path / "x.json", most=5)
    with pytest.raises(BadInput, match="No such file"):
        read_json(tmp_path / "y.json")
