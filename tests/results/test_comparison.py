"""Two searches side by side."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.support.references import search_with_references
from tests.support.searches import Call, trained_search
from tim_search.ledger.table import ScoreTable, less
from tim_search.results import comparison, opened
from tim_search.results.merge import differences, merge
from tim_search.tim import scores as tim
from tim_search.types import BadInput, Context


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


def test_a_change_between_two_settings_is_paired() -> None:
    """The noise that both searches share is in both scores of a difference, and so in no interval."""
    dice = np.random.default_rng(0)
    tasks, blocks = ("a", "b", "c"), ((0, 0), (1, 1), (2, 2))
    members = np.array([[bool(code >> place & 1) for place in range(3)] for code in range(1, 8)])

    def table(effect: float, order: list[int]) -> ScoreTable:
        rows, noise = members[order], np.random.default_rng(1).normal(size=(7, 3, 3))[order]
        scores = np.where(rows[:, None], 0.7 + 0.1 * noise + effect * rows[:, None, 1:2], np.nan)
        scores += 1e-4 * dice.normal(size=scores.shape)
        return ScoreTable(tasks, blocks, rows, scores, np.ones((7, 3), bool))

    one, other = table(0.0, list(range(7))), table(0.02, [3, 1, 0, 2, 6, 5, 4])
    result = tim.from_table(less(other, one), "exact")
    assert result.estimate[0, 1] == pytest.approx(0.02, abs=1e-3)
    assert result.low[0, 1] > 0.015
    assert not tim.from_table(other, "exact").low[0, 1] > 0  # alone the noise hides it


def test_a_change_is_told_where_the_searches_are_paired_alone(two: tuple[Path, Path], call: Call) -> None:
    whole, part = map(opened.open_search, two)
    found = comparison.compare(whole, whole)
    off = ~np.eye(len(found.tasks), dtype=bool)
    assert (found.change[:, off] == 0).all(), "the same scores in both"
    assert np.isnan(comparison.compare(whole, part).change).all(), "one is not whole"
    assert "change (95 %)" in call("compare", two[0], two[0])[1]
    assert "change (95 %)" not in call("compare", *two)[1]


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


def test_discoveries_and_certain_cells_have_marks_of_their_own(tmp_path: Path, call: Call) -> None:
    """`b` helps `a` by ten times its error: a discovery; others are certain by luck at most."""
    results = search_with_references(tmp_path, 0.7)
    both = comparison.compare(results, results)
    result = results.tim()
    np.testing.assert_array_equal(both.discovery[0], result.rejected)
    np.testing.assert_array_equal(both.certain[1], (result.low > 0) | (result.high < 0))
    assert both.discovery[:, 0, 1].all()
    cell = next(cell for cell in both.record()["cells"] if (cell["source"], cell["task"]) == ("a", "b"))
    assert (cell["discovery"], cell["certain"]) == ([True, True], [True, True])
    lines = call("compare", tmp_path, tmp_path)[1].splitlines()
    assert any(" b " in line and line.count("*") == 2 for line in lines)
    alone = call("tim", tmp_path)[1]
    for mark in ("* a discovery", "\N{DEGREE SIGN} certain by itself, no discovery"):
        assert any(mark in line for line in lines)
        assert mark in alone


def test_differing_lengths_of_training_are_told_in_words(tmp_path: Path) -> None:
    short, long = (
        search_with_references(
            tmp_path / name, 0.7, Context("c", "d", "s", "m3h", json.dumps({"batch_size": 64, "epochs": epochs}))
        )
        for name, epochs in (("short", 3), ("long", 40))
    )
    record = {"parts": [{"part": "test", "samples": 50}, *({"part": f"fold {k}", "samples": 100} for k in range(5))]}
    (tmp_path / "short" / "cohort.json").write_text(json.dumps(record))
    note = next(note for note in comparison.compare(short, long).notes if "length" in note)
    assert "about 21 updates, 3 epochs, minibatches of 64 against 40 epochs, minibatches of 64" in note
    assert "depends on how long networks train" in note
    assert not any("length" in note for note in comparison.compare(short, short).notes)


def test_what_has_not_learnt_is_told(tmp_path: Path) -> None:
    ours, theirs = (search_with_references(tmp_path / name, level) for name, level in (("one", 0.7), ("two", 0.8)))
    assert [note for note in comparison.compare(ours, theirs).notes if "not learnt a" in note]


def test_a_control_that_joined_is_no_other_cohort(tmp_path: Path) -> None:
    plain = opened.open_search(trained_search(tmp_path / "plain", design="exact"))
    sampled = trained_search(tmp_path / "sampled", design={"sampled": {"n": 10}})
    joined = opened.open_search(sampled)
    assert joined.control == "hospdead_permuted"
    assert plain.manifest.context.cohort != joined.manifest.context.cohort
    for notes in (comparison.compare(plain, joined).notes, comparison.compare(joined, plain).notes):
        assert any("The cohort is the same; the negative control hospdead_permuted joined" in note for note in notes)
        assert not any("cohorts differ" in note for note in notes)
    ours, theirs = plain.manifest, joined.manifest
    assert differences(ours.context, theirs.context, ours.control, theirs.control) == [
        "the negative control hospdead_permuted, which only one of them has"
    ]
    with pytest.raises(BadInput, match="differ in the negative control hospdead_permuted, which only one of them has"):
        merge([str(plain.folder), str(sampled)], str(tmp_path / "out"))
    other = replace(plain.manifest.context, cohort="another one")
    assert differences(other, theirs.context, None, theirs.control) == ["the cohort's content"]


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
