"""Two searches side by side."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.support.searches import Call, trained_search
from tim_search.results import comparison, opened
from tim_search.types import BadInput


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A search and a smaller one of the same tasks."""
    folder = tmp_path_factory.mktemp("two")
    return trained_search(folder / "one"), trained_search(folder / "other", 6)


def test_a_search_agrees_with_itself(two: tuple[Path, Path]) -> None:
    results = opened.open_search(two[0])
    found = comparison.compare(results, results)
    np.testing.assert_array_equal(found.estimate[0], found.estimate[1])
    known = np.isfinite(found.agreement.rows)
    np.testing.assert_allclose(found.agreement.rows[known], 1.0)
    assert found.names[0] == str(results.folder)
    assert found.notes == ()
    np.testing.assert_array_equal(found.estimate[0], results.tim().estimate)


def test_the_command_tells_both(two: tuple[Path, Path], call: Call) -> None:
    code, out, _ = call("compare", *two, "--json")
    assert code == 0
    content = json.loads(out)
    m = len(content["tasks"])
    assert len(content["cells"]) == m * (m - 1)
    assert len(content["searches"]) == 2
    code, out, _ = call("compare", *two)
    assert code == 0
    assert "side by side" in out


def test_bad_input_is_told(two: tuple[Path, Path], call: Call, tmp_path: Path) -> None:
    code, _, err = call("compare", two[0], tmp_path / "nowhere")
    assert code == 2
    assert "nowhere" in err


def test_searches_without_common_tasks_do_not_compare(two: tuple[Path, Path]) -> None:
    results = opened.open_search(two[0])
    few = results.tim()
    with pytest.raises(BadInput, match="at least three tasks in common"):
        comparison.compare(results, _Renamed(results, few))  # type: ignore[arg-type]


class _Renamed:
    """A search whose tasks have other names."""

    def __init__(self, results: opened.SearchResults, result: object) -> None:
        self.folder, self.manifest = results.folder, results.manifest
        self._result = result

    def tim(self) -> object:
        import dataclasses

        return dataclasses.replace(self._result, tasks=tuple(f"other_{n}" for n in self._result.tasks))  # type: ignore
