"""An attacker who knows the rule by which counts are told: of all tables that are told alike, what have they in common?

Beside what is told, that a finer way to tell it was refused narrows a hidden count down. For each small count another
table is looked for, a few patients away, in which it differs and which the rule tells in the very same way.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tim_search.gates import small_cells

SMALL = 11
#: Tables a few patients away that are tried for each table.
TRIED = 4000

Ints = NDArray[np.int64]
#: (P, K): of each part the samples without a label and those of each class; of a multilabel task without and with one.
#: (L, 3): of each label of a multilabel task the labelled that have it, have it not, and of whom that is not known.
Cells = tuple[Ints, Ints]


def record_of(cells: Cells, kind: str) -> dict[str, Any]:
    """The record of a cohort with one task of these counts."""
    parts, labels = cells
    sizes, labelled = parts.sum(axis=1).tolist(), parts[:, 1:].sum(axis=1).tolist()
    positive = parts[:, 2].tolist() if kind == "binary" else [None] * len(parts)
    task: dict[str, Any] = {
        "name": "t", "kind": kind, "labelled": sum(labelled),
        "classes": [[str(k), count] for k, count in enumerate(parts[:, 1:].sum(axis=0).tolist())],
        "parts": [{"part": str(k), "labelled": of, "positive": yes}
                  for k, (of, yes) in enumerate(zip(labelled, positive, strict=True))],
    }  # fmt: skip
    if kind == "multilabel":
        task["classes"] = [[str(k), count] for k, count in enumerate(labels[:, 0].tolist())]
        task["known"] = labels[:, :2].sum(axis=1).tolist()
    n = sum(sizes)
    return {
        "samples": n, "patients": n, "filters": [],
        "parts": [{"part": str(k), "samples": size, "patients": size} for k, size in enumerate(sizes)],
        "modalities": [],
        "tasks": [task],
    }  # fmt: skip


def small_of(cells: Cells, kind: str) -> dict[tuple[str, int], int]:
    """The small counts: of single cells where they are told, of their sums, of each label."""
    parts, labels = cells
    of_classes = parts.sum(axis=0)
    counts = {("without", -1): of_classes[0], ("labelled", -1): of_classes[1:].sum()}
    counts |= {("without", k): row[0] for k, row in enumerate(parts)}
    counts |= {("labelled", k): row[1:].sum() for k, row in enumerate(parts)}
    counts |= {("class", k): count for k, count in enumerate(of_classes[1:])}
    if kind == "binary":
        counts |= {(str(place), k): row[place] for k, row in enumerate(parts) for place in (1, 2)}
    counts |= {(f"label {k}", place): row[place] for k, row in enumerate(labels) for place in range(3)}
    counts |= {(f"label {k}", 3): row[0] + row[1] for k, row in enumerate(labels)}
    return {name: int(count) for name, count in counts.items() if 0 < count < SMALL}


def steps_of(cells: Cells) -> list[Cells]:
    """A patient comes, goes, goes to another class or part, or has another label; a newcomer's labels are drawn."""
    shapes, dice = [each.shape for each in cells], np.random.default_rng(0)

    def step(*changes: tuple[int, int, int, int]) -> Cells:
        change = (np.zeros(shapes[0], np.int64), np.zeros(shapes[1], np.int64))
        for which, row, column, by in changes:
            change[which][row, column] += by
        return change

    rows, columns = map(range, shapes[0])
    labels = range(shapes[1][0])
    steps = [step((1, k, i, -1), (1, k, j, 1)) for k in labels for i, j in itertools.permutations(range(3), 2)]
    steps += [step((0, k, i, -1), (0, j, i, 1)) for k, j in itertools.permutations(rows, 2) for i in columns]
    steps += [step((0, k, 0, by)) for k in rows for by in (1, -1)]
    for k, (i, j), _ in itertools.product(rows, itertools.permutations(columns, 2), range(4 if labels else 1)):
        comes = (i == 0) - (j == 0)
        steps.append(step((0, k, i, -1), (0, k, j, 1), *((1, label, int(dice.integers(3)), comes) for label in labels)))
    return steps


def near(cells: Cells) -> Iterator[Cells]:
    """Tables up to four steps away."""
    steps, dice = steps_of(cells), np.random.default_rng(1)
    for count in itertools.islice(itertools.cycle((1, 2, 2, 3, 4)), TRIED):
        taken = [steps[place] for place in dice.integers(0, len(steps), count)]
        parts, labels = (each + sum(step[k] for step in taken) for k, each in enumerate(cells))
        if parts.min() >= 0 and not (labels < 0).any():
            yield parts, labels


def given_away(cells: Cells, kind: str) -> set[tuple[str, int]]:
    """The small counts that are the same in all tables near this one that are told alike."""
    told, pending = small_cells.of_cohort(record_of(cells, kind), SMALL), small_of(cells, kind)
    for other in near(cells) if pending else ():
        counts = small_of(other, kind)
        differ = {name for name, count in pending.items() if counts.get(name) != count}
        if differ and small_cells.of_cohort(record_of(other, kind), SMALL) == told:
            pending = {name: count for name, count in pending.items() if name not in differ}
            if not pending:
                break
    return set(pending)


def drawn(kind: str, dice: np.random.Generator, most: int) -> Cells:
    """A table at random: half of its cells hold few patients; `most` in the others."""
    columns = {"binary": 3, "multiclass": int(dice.integers(4, 7)), "multilabel": 2}[kind]
    shape = (int(dice.integers(1, 4)), columns)
    few = dice.random(shape) < 0.5
    parts = np.where(few, dice.integers(0, min(15, most), shape), dice.integers(min(15, most - 1), most, shape))
    if most > 4 * SMALL:
        parts[:, 1] += 4 * SMALL
    labels = np.zeros((0, 3), np.int64)
    if kind == "multilabel":
        labelled = int(parts[:, 1].sum())
        sizes = [np.sort(dice.integers(0, min(labelled, dice.choice([15, 400])) + 1, 2)) for _ in range(2)]
        labels = np.array([dice.permutation([low, high - low, labelled - high]) for low, high in sizes])
    return parts, labels


NO_LABELS = np.zeros((0, 3), np.int64)


@pytest.mark.parametrize("parts", [
    [[10, 50, 0]], [[1, 0, 110]], [[0, 68, 0], [1, 70, 0]], [[33, 0, 14], [3, 171, 56], [1, 171, 0]], [[10, 210, 10]],
    [[5, 5, 5], [5, 5, 5], [5, 5, 5]],
])  # fmt: skip
def test_the_way_that_was_chosen_tells_no_count(parts: list[list[int]]) -> None:
    """Of 60 samples 50 had a label, told as "≈40": the next coarser step, which was taken for no other number."""
    assert given_away((np.array(parts), NO_LABELS), "binary") == set()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["binary", "multiclass", "multilabel"])
@pytest.mark.parametrize("most", [6, 25, 200])
def test_who_knows_the_rule_solves_for_nothing_in_tables_at_random(kind: str, most: int) -> None:
    dice = np.random.default_rng(17)
    for _ in range(40):
        cells = drawn(kind, dice, most)
        assert given_away(cells, kind) == set(), cells


def test_the_attacker_finds_what_the_choice_of_a_way_gives_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rule that rounds to fives where that hides a count by itself, and is exact elsewhere, gives away which."""
    rule: Callable[..., Any] = small_cells.of_cohort

    def chosen(record: dict[str, Any], small: int) -> dict[str, Any]:
        told = rule(record, small)
        return told | {"way": record["tasks"][0]["labelled"] % 25}

    monkeypatch.setattr(small_cells, "of_cohort", chosen)
    assert ("without", -1) in given_away((np.array([[10, 50, 0]]), NO_LABELS), "binary")
