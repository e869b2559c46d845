"""Search files of any values through the commands that read them: a sentence and a status, in time and in memory."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.limits import contents, within
from tests.support.searches import Call, trained_search

pytestmark = pytest.mark.slow

#: Every section, so that any value of it may be exchanged. Serial: nothing is started to be measured.
WHOLE: dict[str, Any] = {
    "cohort": "support2",
    "name": "small",
    "tasks": ["hospdead", "dzclass", "slos_log"],
    "network": "m3h",
    "training": {"epochs": 1, "batch_size": 512, "width": 16, "replicates": 5},
    "design": {"exact": {}},
    "blocks": 2,
    "capacity": 4,
    "device": "cpu",
    "address": "serial",
    "small_cells": 0,
    "references": False,
    "resources": {"cpus": 1, "gpus": 0, "workers": 1, "time_limit": 60},
}
DESIGNS = [
    "exact",
    {"sized": 2},
    {"sampled": 5},
    {"sampled": {"stop": {"top_k": 1}}},
    {"greedy": {}},
    {"surrogate": {}},
]
ODD = [
    None, True, -1, 0, 1, 2, 3.5, math.nan, math.inf, 10**12, 10**30, "", " ", "x", "all", "\x1b[2J", "\u2028",
    "a" * 300, "../x", "0o17", [], [[]], ["x"], [None], [1, 1], {}, {"x": 1}, {"exact": None, "sized": 1},
    [{"a": []}] * 3,
]  # fmt: skip


def places(value: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths to every value within a value."""
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield (*above, key)
        yield from places(value[key], (*above, key))


@st.composite
def search_files(draw: st.DrawFn) -> str:
    """A search file of which some values were exchanged."""
    plain = yaml.safe_load(yaml.safe_dump({**WHOLE, "design": draw(st.sampled_from(DESIGNS))}))
    for _ in range(draw(st.integers(1, 2))):
        *above, last = draw(st.sampled_from(list(places(plain))))
        at = plain
        for key in above:
            at = at[key]
        new = draw(st.sampled_from([*ODD, *WHOLE.values()]))
        if draw(st.booleans()) and isinstance(at, dict):
            last = draw(st.sampled_from(["seeds", "folds", "tuning", "out", "ledger", "tracking_uri", "kind", "x"]))
        at[last] = copy.deepcopy(new)
    return yaml.safe_dump(plain, allow_unicode=draw(st.booleans()))


FUZZ = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.mark.parametrize("command", ["check", "plan"])
def test_a_search_file_of_any_values(command: str, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    @FUZZ
    @given(search_files())
    def judged(content: str) -> None:
        Path("s.yaml").write_text(content)
        with within(120, 4):
            status, _, err = call(command, "s.yaml")
        assert status in (0, 2), err
        assert [path.name for path in tmp_path.iterdir()] == ["s.yaml"]

    judged()


def test_a_search_folder_whose_search_file_is_of_any_values(
    tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = trained_search(tmp_path / "small", n_subsets=4)
    monkeypatch.chdir(tmp_path)
    before = contents(folder)

    @FUZZ
    @given(search_files())
    def judged(content: str) -> None:
        (folder / "search.yaml").write_text(content)
        for command in ("status", "check", "tim"):
            with within(60, 3):
                status, _, err = call(command, folder)
            assert status in (0, 2), err
        assert {**contents(folder), "search.yaml": before["search.yaml"]} == before

    judged()
