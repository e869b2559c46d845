"""Counts of a model's training tell nothing that the record of its cohort does not."""

from __future__ import annotations

from typing import Any

import pytest

from tim_search.gates import small_cells, told_counts

SMALL = 11


def record(test: int, n: int = 999, positive: tuple[int, int] = (2, 5), absent: int = 4) -> dict[str, Any]:
    labelled = [test, n - test]
    parts = [
        {"part": part, "labelled": of, "positive": yes}
        for part, of, yes in zip(("test", "fold 0"), labelled, positive, strict=True)
    ]
    classes = [["no", n - sum(positive)], ["yes", sum(positive)]]
    return {
        "samples": n, "patients": n, "filters": [], "overlaps": [],
        "parts": [{"part": part, "samples": size, "patients": size}
                  for part, size in zip(("test", "fold 0"), labelled, strict=True)],
        "modalities": [{"name": "m", "absent": absent, "missing": 0.0, "column_missing": {}}],
        "tasks": [{"name": "t", "kind": "binary", "labelled": n, "classes": classes, "parts": parts},
                  {"name": "groups", "kind": "clustering", "clusters": 3}],
    }  # fmt: skip


def training(exact: dict[str, Any], absent_in_test: int = 0) -> dict[str, Any]:
    rows = exact["parts"][1]["samples"]
    return {
        "rows": rows, "patients": rows, "stopping": rows // 10,
        "labels": {"t": {"rows": rows, "positive": exact["tasks"][0]["parts"][1]["positive"]}},
        "present": {"m": rows - exact["modalities"][0]["absent"] + absent_in_test},
    }  # fmt: skip


@pytest.mark.parametrize("n", [989, 999, 1000, 1009, 1023])
def test_the_training_rows_give_no_small_test_part_away(n: int) -> None:
    """Rounded by themselves they do: of 999 samples, 989 training rows are told as 980 and 990 to 998 as 1,000."""
    told: dict[str, set[int]] = {}
    by_itself: dict[str, set[int]] = {}
    for test in range(1, SMALL):
        exact = record(test, n, positive=(0, 300))
        hidden = small_cells.of_cohort(exact, SMALL)
        facts = told_counts.of_training(training(exact), hidden, SMALL, 0.1)
        shown = [hidden["parts"], *(facts[key] for key in ("rows", "patients", "stopping"))]
        told.setdefault(str(shown), set()).add(test)
        by_itself.setdefault(str(small_cells.near(n - test, SMALL)), set()).add(test)
    assert all(len(counts) > 1 for counts in told.values())
    if n == 999:
        assert {10} in by_itself.values()


def test_what_is_told_follows_from_the_record_alone() -> None:
    """Cohorts of one record have models of one text, whatever lies in which part."""
    texts = set()
    for absent_in_test in range(5):
        for positive in ((1, 6), (2, 5), (6, 1)):
            exact = record(200, positive=positive)
            hidden = small_cells.of_cohort(exact, SMALL)
            facts = told_counts.of_training(training(exact, absent_in_test), hidden, SMALL, 0.0)
            row = {"share": 0.5, "fold": 0, "rows": 1, "patients": 1}
            extension = told_counts.of_extension(row, "t", hidden, SMALL)
            texts.add(str((facts, told_counts.of_test("t", 200, hidden, SMALL), extension)))
    assert len(texts) == 1


def test_counts_that_hide_nothing_are_exact() -> None:
    exact = record(200, positive=(60, 300), absent=0)
    hidden = small_cells.of_cohort(exact, SMALL)
    facts = told_counts.of_training(training(exact), hidden, SMALL, 0.1)
    assert facts == {
        "rows": 799, "patients": 799, "stopping": "≈80", "labels": {"t": {"rows": 799, "positive": 300}},
        "present": {"m": 799},
    }  # fmt: skip
    assert told_counts.of_test("t", 200, hidden, SMALL) == 200
    assert told_counts.of_test("groups", 200, hidden, SMALL) == 200
    few = record(200, absent=0)
    assert told_counts.of_training(training(few), few, 0, 0.1) == training(few)
    assert told_counts.of_test("t", 7, few, 0) == 7


def test_where_the_record_leaves_the_parts_out_so_does_the_model() -> None:
    hidden = small_cells.of_cohort(record(200), SMALL) | {"parts": []}
    hidden["tasks"][0]["parts"] = []
    facts = told_counts.of_training(training(record(200)), hidden, SMALL, 0.1)
    assert facts["rows"] == facts["stopping"] == facts["present"]["m"] == told_counts.HIDDEN
    assert facts["labels"]["t"] == {"rows": told_counts.HIDDEN, "positive": "<11"}
    assert told_counts.of_test("t", 200, hidden, SMALL) == told_counts.HIDDEN
