"""An attacker who reads all that a search with `small_cells` writes, and solves for every count that is hidden.

What is told becomes equations and bounds: parts add up to the whole, classes to the labelled, a rounded count lies in
an interval. Of every hidden count the least and the largest value that fit all of it are computed; they must differ.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.cohorts.manifest import describe
from tests.gates.test_small_cells import SMALL, rare, search_file
from tests.support.attacker import attacked, learnt
from tim_search import config
from tim_search.app import runner
from tim_search.gates import small_cells
from tim_search.report.chapters.cohort import cohort as shown_cohort
from tim_search.types import BadInput


@st.composite
def records(draw: st.DrawFn) -> dict[str, Any]:
    """The record of a cohort whose tables add up, with rare classes, few labels missing and small parts."""
    small = st.integers(0, 14)
    some = st.one_of(small, small, st.integers(15, 400))
    names = ["test", *(f"fold {fold}" for fold in range(draw(st.integers(1, 10))))]
    tables = [[[draw(some) for _ in range(3)] for _ in names]]
    sizes = [max(1, sum(row)) for row in tables[0]]
    n = sum(sizes)
    tasks = []
    for table in tables:
        grid = [[max(0, size - sum(row[:2])), *row[:2]] for row, size in zip(table, sizes, strict=True)]
        columns = [sum(row[place] for row in grid) for place in range(3)]
        tasks.append({
            "name": "t", "kind": "binary", "labelled": columns[1] + columns[2],
            "classes": [["no", columns[1]], ["yes", columns[2]]],
            "parts": [{"part": name, "labelled": row[1] + row[2], "positive": row[2]}
                      for name, row in zip(names, grid, strict=True)],
        })  # fmt: skip
    classes = [draw(some) for _ in range(4)]
    total = min(sum(classes), n)
    classes = [total - sum(classes[1:]), *classes[1:]] if total >= sum(classes[1:]) else [total, 0, 0, 0]
    by_part, rest = [], total
    for size in sizes:
        by_part.append(min(size, rest))
        rest -= by_part[-1]
    tasks.append({
        "name": "m", "kind": "multiclass", "labelled": total, "classes": [[str(k), v] for k, v in enumerate(classes)],
        "parts": [{"part": name, "labelled": of, "positive": None} for name, of in zip(names, by_part, strict=True)],
    })  # fmt: skip
    absent = min(draw(some), n)
    before = n + draw(some)
    return {
        "samples": n, "patients": n, "filters": [["all", before], ["adults", n + (before - n) // 2], ["kept", n]],
        "parts": [{"part": name, "samples": size, "patients": size} for name, size in zip(names, sizes, strict=True)],
        "modalities": [{"name": "m", "absent": absent, "missing": 0.25,
                        "column_missing": {"x": min(draw(some), n - absent), "y": max(0, n - absent - draw(small))}}],
        "tasks": tasks,
    }  # fmt: skip


@given(records(), st.sampled_from((5, 10, 11)))
@settings(max_examples=15, deadline=None)
def test_no_hidden_count_of_a_record_can_be_solved_for(record: dict[str, Any], small: int) -> None:
    hidden = small_cells.of_cohort(record, small)
    assert learnt(attacked(hidden, small), small) == []
    again = small_cells.of_cohort(hidden, small)
    assert again == hidden, "what is hidden stays as it is"


def test_the_attacker_is_able_to_attack() -> None:
    """What 0.1.0 wrote of ten parts: each has a positive, and all together are fewer than eleven."""
    parts = [{"part": str(k), "labelled": 100, "positive": "<11"} for k in range(10)]
    task = {"name": "t", "labelled": 1000, "classes": [["no", "≈1,000"], ["yes", "<11"]], "parts": parts}
    sizes = [{"part": str(k), "samples": 100, "patients": 100} for k in range(10)]
    record = {"samples": 1000, "patients": 1000, "filters": [], "parts": sizes, "modalities": [], "tasks": [task]}
    assert "t: 0 positive" in learnt(attacked(record, 11), 11)
    few = [{"part": str(k), "labelled": 100, "positive": 1} for k in range(10)]
    exact = record | {"tasks": [task | {"classes": [["no", 990], ["yes", 10]], "parts": few}]}
    hidden = small_cells.of_cohort(exact, 11)
    assert hidden["tasks"][0]["parts"] == [], "parts that would tell are left out"
    assert learnt(attacked(hidden, 11), 11) == []


def test_shares_means_and_steps_tell_no_count() -> None:
    """118 values missing at a share of .0593 in two columns are 995 samples that have the modality, and 5 have not."""
    modality = {
        "name": "m", "absent": 5, "missing": 118 / (2 * 995), "mean_steps": 3 + 1 / 995,
        "column_missing": {"x": 100, "y": 18},
    }  # fmt: skip
    record: dict[str, Any] = {
        "samples": 1000, "patients": 1000, "filters": [], "parts": [], "modalities": [modality],
        "tasks": [{"name": "t", "labelled": 997, "mean": 2 + 3 / 997, "sd": 1.5, "parts": []}],
    }  # fmt: skip
    hidden = small_cells.of_cohort(record, 11)
    assert hidden["modalities"][0]["missing"] is None
    assert hidden["modalities"][0]["mean_steps"] is None
    assert "mean" not in hidden["tasks"][0], "its digits tell by how many it was divided"
    # Where no count is hidden, a single patient with one step more does not show in the mean.
    fine = record | {"modalities": [modality | {"absent": 0, "column_missing": {"x": 100, "y": 18}}]}
    assert small_cells.of_cohort(fine, 11)["modalities"][0]["mean_steps"] == 3.0
    whole = record | {"tasks": [{"name": "t", "labelled": 1000, "mean": 2.00345, "sd": 1.5, "parts": []}]}
    assert small_cells.of_cohort(whole, 11)["tasks"][0]["mean"] == 2.0


def test_no_share_is_shown_of_a_count_that_is_hidden() -> None:
    record: dict[str, Any] = {
        "samples": 1000, "patients": 1000, "filters": [], "parts": [],
        "modalities": [{"name": "m", "absent": 5, "missing": 0.1, "column_missing": {"x": 100, "y": 990}}],
        "tasks": [{"name": "t", "labelled": 1000, "classes": [["no", 997], ["yes", 3]], "parts": []}],
    }  # fmt: skip
    shown = shown_cohort(record, 11)
    assert [one["share"] for one in shown["tasks"][0]["classes"]] == [None, None]
    assert shown["modalities"][0]["absent_share"] is None


@pytest.mark.parametrize("small", [SMALL, 11])
def test_the_record_that_a_search_keeps_tells_no_hidden_count(tmp_path: Path, small: int) -> None:
    from model.sources import synthetic

    cohort, _ = synthetic.haim_like(
        900, 700, seed=4, widths=(4, 12, 9, 7), n_binary=3, n_classes=3, n_clusters=3, absent=(0.0, 0.1, 0.2, 0.0)
    )
    resolved = config.resolve(config.load(search_file(tmp_path, rare(cohort), small_cells=small)))
    runner.prepare(resolved)
    record = json.loads((resolved.out / "cohort.json").read_text(encoding="utf-8"))
    record["tasks"] = [task for task in record["tasks"] if "classes" in task]
    exact = describe(resolved.cohort)
    assert any(0 < part["positive"] < small for part in exact["tasks"][0]["parts"])
    assert learnt(attacked(record, small), small) == []


@pytest.mark.parametrize("limit", [True, 1, 2, 1.5, -1, "11"])
def test_a_limit_under_which_nothing_stays_in_doubt_is_refused(tmp_path: Path, limit: Any) -> None:
    path = tmp_path / "search.yaml"
    path.write_text(f"cohort: support2\nsmall_cells: {json.dumps(limit)}\n")
    with pytest.raises(BadInput, match="small_cells"):
        config.load(path)


@given(records(), st.sampled_from((3, 5, 10)), st.sampled_from((11, 20, 35)))
@settings(max_examples=15, deadline=None)
def test_a_record_that_was_hidden_can_be_hidden_further(record: dict[str, Any], stored: int, small: int) -> None:
    """What stands behind the texts is not known then; of each count the page tells the side of the limit at most."""
    further = small_cells.of_cohort(small_cells.of_cohort(record, stored), small)
    assert learnt(attacked(further, small), small) == []
    assert small_cells.of_cohort(further, small) == further
    shown_cohort(further, small)


def test_a_hidden_record_tells_sides_where_a_page_hides_more() -> None:
    parts = [{"part": str(k), "labelled": 100, "positive": 7} for k in range(10)]
    parts[0]["positive"] = 2
    task = {"name": "t", "labelled": 1000, "classes": [["no", 935], ["yes", 65]], "parts": parts}
    sizes = [{"part": str(k), "samples": 100, "patients": 100} for k in range(10)]
    record = {"samples": 1000, "patients": 1000, "filters": [], "parts": sizes, "modalities": [], "tasks": [task]}
    (hidden,) = small_cells.of_cohort(record, 5)["tasks"]
    assert hidden["parts"][0]["positive"] == "<5"
    (further,) = small_cells.of_cohort(small_cells.of_cohort(record, 5), 11)["tasks"]
    assert further == task | {"labelled": "≥11", "classes": [["no", "≥11"], ["yes", "≥11"]], "parts": []}
