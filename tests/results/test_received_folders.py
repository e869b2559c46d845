"""A search folder that came from others: whatever its records hold, no command hangs, and none ends in a traceback."""

from __future__ import annotations

import json
import os
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.limits import within
from tests.support.searches import Call, trained_search
from tim_search.loop.events import EventLog
from tim_search.report import page
from tim_search.report.records import RecordWarning
from tim_search.results import opened, readings
from tim_search.results.opened import small_cells_of
from tim_search.types import BadInput

RECORDS = ("cohort.json", "group.json", "versions.json", "confirmation.json", "tuning.json", "search.yaml")


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained_search(tmp_path_factory.mktemp("search") / "small")


@pytest.fixture
def received(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "received"))


def pipe(path: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def device(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to("/dev/zero")


def deep(path: Path) -> None:
    path.write_text("[" * 100_000)


@pytest.mark.parametrize("spoil", [pipe, device, deep])
def test_records_that_are_no_files_end(call: Call, received: Path, spoil: Any) -> None:
    for name in RECORDS:
        spoil(received / name)
    with within(30, 4):
        assert small_cells_of(received) is None
        code, out, err = call("status", received)
        assert code == 0, out + err
        code, out, err = call("report", received)  # and nothing tells which counts to hide
    assert code == 2
    assert str(received) in out + err


def test_logs_that_are_pipes_or_links_are_left_alone(received: Path) -> None:
    precious = received.parent / "precious"
    precious.write_text("mine")
    for spoil in (pipe, lambda path: (path.unlink(), path.symlink_to(precious))):
        spoil(received / "log.jsonl")
        messages: list[str] = []
        with within(10, 4), EventLog(received, messages.append) as log:
            log.warning("a word")
        assert len(messages) == 1
        assert "cannot be written" in messages[0]
    assert precious.read_text() == "mine"
    pipe(received / readings.FILE)
    with within(10, 4), pytest.raises(BadInput, match="expected a file, got a pipe"):
        readings.read(received)


@pytest.mark.parametrize("field", ["samples", "patients"])
def test_a_count_that_is_no_count_is_no_traceback(call: Call, received: Path, field: str) -> None:
    plain = json.loads((received / "cohort.json").read_text())
    for value in ("x", "", "<", "9" * 5000):
        (received / "cohort.json").write_text(json.dumps({**plain, field: value, "small_cells": 10}))
        code, out, err = call("report", received)
        assert code == 0, out + err


def test_pairs_that_are_none_leave_the_record_out(received: Path) -> None:
    plain = json.loads((received / "cohort.json").read_text())
    for pairs in ([[]], [["a"]], [["a", 1, 2]], ["ab"]):
        (received / "cohort.json").write_text(json.dumps({**plain, "filters": pairs}))
        with pytest.warns(RecordWarning, match=r"filters\[0\]: expected a list"):
            page.write(opened.open_search(received))


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The keys that lead to every value inside of one."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [at, *(place for key, item in inner for place in places(item, (*at, key)))]


@pytest.mark.slow
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_value_anywhere_in_the_records(call: Call, original: Path, data: st.DataObject) -> None:
    """search.json and cohort.json with one value replaced: an answer, or bad input."""
    name = data.draw(st.sampled_from(["search.json", "cohort.json"]))
    text = (original / name).read_text()
    plain = json.loads(text)
    place = data.draw(st.sampled_from(places(plain)))
    value = data.draw(VALUES)
    if place:
        at = plain
        for key in place[:-1]:
            at = at[key]
        at[place[-1]] = value
    else:
        plain = value
    try:
        (original / name).write_text(json.dumps(plain))
        with within(30, 4), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what the page does without
            for command in ("status", "tim", "report"):
                assert call(command, original)[0] in (0, 2)
    finally:
        (original / name).write_text(text)
