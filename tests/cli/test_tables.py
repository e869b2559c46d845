"""What the terminal tells of many tasks: the surest of them, and where the rest is."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from rich.console import Console, RenderableType

from tim_search.cli import model_tables, score_tables, search_tables, tables
from tim_search.tim import scores as tim
from tim_search.tim.result import TimResult


def told(what: RenderableType) -> str:
    """The text that a terminal of 120 columns shows."""
    console = Console(width=120)
    with console.capture() as capture:
        console.print(what)
    return capture.get()


def result(m: int) -> TimResult:
    """Scores of m tasks, the surest of them that of the last task for the first one."""
    rng = np.random.default_rng(0)
    membership = rng.random((40, m)) < 0.5
    scores = 0.7 + 1e-3 * rng.normal(size=(40, m))
    scores[:, 0] += 0.1 * membership[:, -1]
    return tim.estimate(membership, np.where(membership, scores, np.nan), tasks=[f"outcome-{k:03d}" for k in range(m)])


def test_a_matrix_of_many_tasks_is_told_by_its_surest_scores() -> None:
    many, few = told(score_tables.matrix(result(40), 120)), told(score_tables.matrix(result(18), 120))
    assert "the 40 surest of 1,560 scores" in many
    assert "tables/tim.csv" in many
    assert many.splitlines()[4].split()[:2] == ["outcome-000", "outcome-039"]
    assert len(many.splitlines()) < 70
    assert few.count("outcome-0") > 18 * 17, "all of them where they can be read"
    overlapping = told(score_tables.matrix(result(40), 120, [("outcome-039", "outcome-000")]))
    assert overlapping.splitlines()[4].split()[:2] != ["outcome-000", "outcome-039"]


def test_one_source_of_many_is_told_by_both_ends() -> None:
    wide = result(60)
    text = told(score_tables.source(wide, "outcome-000"))
    assert "19 more between; all with --json" in text
    assert text.count("outcome-") == 41  # the source and forty others
    row = wide.estimate[0]
    order = [wide.tasks[k] for k in np.argsort(-row) if np.isfinite(row[k])]
    assert order[19] in text
    assert order[20] not in text
    assert order[-20] in text


def source(k: int) -> dict[str, Any]:
    """A row of `summary.report`: the later sources are surer, and grow."""
    grown = k >= 45
    gain = {"best": f"s{k:02d} + x", "size": 2, "gain": 0.01 * k, "low": 0.0, "high": 0.1, "holds": grown}
    alone = {"best": f"s{k:02d}", "size": 1, "gain": 0.0, "low": None, "high": None, "holds": False}
    found = {**(gain if grown else alone), "overlapping": [], "complete": True}
    helper = {"task": "x", "estimate": 0.001 * k, "low": -0.01, "high": 0.01, "rejected": False, "overlaps": False}
    row = {"source": f"s{k:02d}", "metric": "auroc", "single_score": 0.7, "score": 0.71, "reason": "nothing is better"}
    return {**row, **found, "helpers": [helper], "paper": found, "lower_bound": found}


def test_the_end_of_a_search_of_many_tasks_names_the_surest() -> None:
    content = {"sources": [source(k) for k in range(50)], "label": "sampled TIM", "notes": []}
    content |= {"verdicts": [], "not_learnt": [], "references": []}
    text = told(search_tables.report({**content, "sharing": {"shared": 1, "alone": 2}}))
    assert "the 20 surest of 50 source" in text
    assert "What two rules choose for 20 of 50 source tasks" in text
    assert "s49" in text
    assert "s10" not in text.partition("What two rules")[0]
    assert "tim-search tim DIR" in text
    grown = told(search_tables.expansions(content["sources"], "lower_bound"))
    assert "20 of 50 source tasks" in " ".join(grown.split())
    assert all(f"s{k} + x" in grown for k in range(45, 50))
    assert ", s48, s49: nothing is better" in " ".join(grown.split()), "why it ended is told of those that are listed"


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        (
            (16, 15, 900, {"batch_size": 16}),
            "15 epochs of minibatches of 16, 900 updates at most (batch_size 16: chosen",
        ),
        ((256, 1, 4, {}), "1 epoch of minibatches of 256, 4 updates at most"),
        # A network of one's own may know neither, and trains as it likes.
        ((None, 9, None, {}), "9 epochs"),
        ((None, None, None, {}), "as long as its network trains"),
    ],
)
def test_a_plan_tells_how_long_a_training_is(steps: tuple[Any, ...], words: str) -> None:
    batch, epochs, updates, chosen = steps
    content = {"batch_size": batch, "epochs": epochs, "updates": updates, "chosen": chosen, "rows": 950}
    assert search_tables.steps_in_words(content).startswith(words)
    assert "None" not in search_tables.steps_in_words(content)


def test_what_has_not_learnt_has_no_effects_in_the_table() -> None:
    text = told(search_tables.helpers([source(3), source(4)], "exact TIM", {"s03"}))
    assert [line.split()[:3] for line in text.splitlines() if line.startswith(" s0")] == [
        ["s03", "has", "not"],
        ["s04", "helps", "x"],
    ]


def test_a_status_counts_the_tasks_it_does_not_name() -> None:
    assert tables.names(["a", "b"]) == "a, b"
    assert tables.names([str(k) for k in range(21)]) == "21 tasks: 0, 1, 2, 3, 4, 5 and 15 more"


def test_a_comparison_of_many_tasks_shows_what_is_certain_first() -> None:
    tasks = [f"t{k:02d}" for k in range(22)]
    cells = [
        {
            "source": a,
            "task": b,
            "first": 0.01,
            "second": 0.01,
            "certain": [False, False],
            "discovery": [False, False],
            "change": [None, None, None],
        }
        for a in tasks
        for b in tasks
        if a != b
    ]
    cells[400] |= {"certain": [True, True], "discovery": [True, False]}
    cells[300] |= {"first": 0.9, "second": None}
    content = {"searches": ["one", "two"], "tasks": tasks, "cells": cells, "rows": dict.fromkeys(tasks), "notes": []}
    text = told(score_tables.comparison({**content, "agreement": None, "same_sign": None}))
    assert "the 40 clearest of 462" in " ".join(text.split())
    assert "+0.0100*" in text
    assert "+0.0100\N{DEGREE SIGN}" in text
    assert "* a discovery" in text
    assert len(text.splitlines()) < 80
    few = {
        **content,
        "tasks": tasks[:3],
        "cells": [one for one in cells if {one["source"], one["task"]} < set(tasks[:3])],
    }
    assert "clearest" not in told(score_tables.comparison({**few, "agreement": None, "same_sign": None}))


def test_a_confirmation_of_many_sources_tells_the_surest() -> None:
    row = {"metric": "auroc", "percent": None, "together": None, "ensemble": None, "verdict": "not confirmed"}
    rows = [
        {
            **row, "source": f"s{k:02d}", "chosen": f"s{k:02d} + x", "single": 0.7, "multi": 0.7 + 0.001 * k,
            "difference": 0.001 * k, "low": -0.1, "high": 0.1, "rejected": k == 3,
        }
        for k in range(30)
    ]  # fmt: skip
    text = told(model_tables.confirmation(rows, []))
    assert "The 20 surest of 30 sources are listed" in text
    assert "s03: not confirmed" in text
    assert "s29: not confirmed" in text
    assert "s04" not in text
    assert "s04: not confirmed" in told(model_tables.confirmation(rows[:10], []))


def test_the_first_lines_are_the_verdicts_and_what_has_not_learnt() -> None:
    row = {"task": "a", "alone": 0.6, "none": 0.5, "linear": 0.8, "boosting": None, "k-means": None, "behind": -0.2}
    content = {
        "verdicts": [{"sentence": f"s{k}: keep alone."} for k in range(25)],
        "not_learnt": ["Not learnt: a."],
        "references": [{**row, "verdict": "has not learnt"}],
    }
    text = told(search_tables.answers(content))
    assert text.startswith("Not learnt: a.")
    assert "s0: keep alone." in text
    assert "and 5 more" in text
    assert "linear" in text
    assert "boosting" not in text, "no task has it"
    assert "0.600" in text


def test_a_path_longer_than_the_terminal_is_folded_and_can_be_copied() -> None:
    path = "/data/" + "a-long-folder/" * 9 + "ledger"
    console = Console(width=60, record=True, file=io.StringIO())
    console.print(tables.pairs({"ledger": path, "units": "3 of 9"}))
    text = console.export_text()
    assert "…" not in text
    assert path in "".join(line.strip().removeprefix("ledger").strip() for line in text.splitlines())
