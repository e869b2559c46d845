"""From a table of scores to a whole matrix of TIM scores: the rows of all sources, then what is made of them together.

`scores` is the door; here the estimators of the rows (`enumerated`, `sampled`, `many_rows`) are chosen and called, and
their answers become one `TimResult` with intervals, discoveries and notes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from tim_search.ledger.table import ScoreTable
from tim_search.tim.caveats import caveats, control_note, error_note, mixed_note
from tim_search.tim.choice import checked_options
from tim_search.tim.coded import MIN_ROWS
from tim_search.tim.enumerated import enumerated_row, enumerated_second
from tim_search.tim.estimators import Array
from tim_search.tim.many_rows import apart_of, rows_of_many
from tim_search.tim.result import TimResult, discoveries, label_of
from tim_search.tim.row import (
    Method,
    Outline,
    Row,
    counted_twice,
    degrees_of_freedom,
    half_width,
    masked,
    outline,
    source_of,
    tail,
)
from tim_search.tim.sampled import sampled_rows
from tim_search.types import overlap_mask, some


class Question(NamedTuple):
    """What is to be computed: the arguments of `from_table`, and the places of the sources whose exact row is lost."""

    method: Method
    size: int | None
    confidence: float
    fdr: float
    interactions: bool
    overlaps: tuple[tuple[str, str], ...]
    control: str | None = None
    lost: tuple[int, ...] = ()


class _Estimated(NamedTuple):
    """Rows of all sources: the method of each, its estimates, what its tests rest on, and what else is told of it.

    `second` are the second-order scores, [] where there are none; `n_subsets` subsets have a score.
    """

    methods: list[Method]
    rows: list[Row]
    tests: list[Row]
    second: list[Array]
    outlines: list[Outline]
    n_subsets: int


# The matrices of a source are small, and there are thousands of them: threads of BLAS win nothing, and where other
# processes want the cores they wait for one another at every one of them (44 tasks, 1,600 subsets: 8 s became 84).
@threadpool_limits.wrap(limits=1, user_api="blas")  # type: ignore[untyped-decorator]
def compute(table: ScoreTable, asked: Question) -> TimResult:
    """TIM scores of all pairs of a table's tasks, with their errors, tests and notes.

    Raises:
        BadInput: an unknown method, or one that does not fit the table.
    """
    notes: list[str] = []
    asked = asked._replace(size=checked_options(table, *asked[:5]))
    untested = overlap_mask(table.tasks, asked.overlaps)
    control = asked.control if asked.control in table.tasks else None
    if control is not None:
        untested[table.tasks.index(control)] = untested[:, table.tasks.index(control)] = True
    used = np.flatnonzero(table.trained.any(axis=0))
    twice = counted_twice([table.blocks[block][1] for block in used.tolist()])
    methods, rows, tests, second, outlines, n_subsets = _estimated(table, asked, twice, notes)

    n_with = [source.n_with for source in outlines]
    n_without = [source.n - source.n_with for source in outlines]
    for i, own in enumerate(methods):
        if own not in ("exact", "restricted"):
            estimable = np.minimum(n_with[i], n_without[i]) >= MIN_ROWS
            rows[i], tests[i] = masked(rows[i], estimable), masked(tests[i], estimable)

    estimate, se = _square([row.estimate for row in rows]), _square([row.total for row in rows])
    df, df_tests = _degrees_of_freedom(rows, methods), _degrees_of_freedom(tests, methods)
    half = _square([half_width(row, free, asked.confidence) for row, free in zip(rows, df, strict=True)])
    p_value = _square([2 * tail(row, free) for row, free in zip(tests, df_tests, strict=True)])
    parts = {name: _square([getattr(row, name) for row in rows]) for name in ("sampling", "seed", "patients")}
    notes += caveats(table, outlines, methods, asked.size, estimate, p_value, asked.interactions)
    notes += error_note(parts, twice)
    if control is not None:
        notes += control_note(table.tasks, control, estimate, np.asarray(half, float))
    sampled = [own for own in methods if own not in ("exact", "restricted")]
    return TimResult(
        tasks=table.tasks,
        method=(sampled or methods)[0],
        label=_label(table, methods, asked.size, estimate),
        size=asked.size,
        blocks=table.blocks,
        n_subsets=n_subsets,
        confidence=asked.confidence,
        fdr=asked.fdr,
        estimate=estimate,
        se=se,
        low=estimate - half,
        high=estimate + half,
        p_value=p_value,
        rejected=discoveries(np.where(untested, np.nan, p_value), asked.fdr),
        false_sign_rate=_square([tail(row, free) for row, free in zip(rows, df, strict=True)]),
        n_with=_square(n_with, 0),
        n_without=_square(n_without, 0),
        se_sampling=parts["sampling"],
        se_seed=parts["seed"],
        se_patients=parts["patients"],
        interactions=_solid(second) if asked.interactions and second else None,
        notes=tuple(notes),
        control=control,
        methods=tuple(methods),
    )


def _estimated(table: ScoreTable, asked: Question, twice: float, notes: list[str]) -> _Estimated:
    """The rows of all sources; what is to be said of them joins `notes`."""
    method: Method = asked.method
    m, size = len(table.tasks), asked.size
    apart = apart_of(table) if size is None and method in ("blup", "gls", "ols") else None
    if apart and (answer := rows_of_many(apart, method, twice, notes)):
        rows, outlines = answer
        n_subsets = int(np.isfinite(apart.scores).any(axis=1).sum())
        return _Estimated(["ols"] * m, rows, list(rows), [], outlines, n_subsets)
    table = _sorted(table)
    sources = [source_of(table, i) for i in range(m)]
    outlines = [outline(source) for source in sources]
    n_subsets = int(np.isfinite(table.scores).any(axis=(1, 2)).sum())
    if method not in ("exact", "restricted"):
        method, rows, tests, second = sampled_rows(sources, method, size, twice, notes)
        return _Estimated([method] * m, rows, list(tests), second, outlines, n_subsets)
    methods: list[Method] = [method] * m
    rows = [enumerated_row(source, size or m) for source in sources]
    tests = list(rows)
    second = [enumerated_second(source) for source in sources] if asked.interactions else []
    if asked.lost:
        # The variances of the model come from all sources; the rows of the others stay exact.
        method, sampled, tested, layers = sampled_rows(sources, "blup", None, twice, notes)
        for i in asked.lost:
            methods[i], rows[i], tests[i] = method, sampled[i], tested[i]
            if second and layers:
                second[i] = layers[i]
        notes.append(mixed_note(table.tasks, methods))
    return _Estimated(methods, rows, tests, second, outlines, n_subsets)


def _degrees_of_freedom(rows: Sequence[Row], methods: Sequence[Method]) -> list[Array]:
    """`degrees_of_freedom`, of the rows of each method by themselves: their errors have other parts."""
    degrees: dict[int, Array] = {}
    for method in set(methods):
        places = [i for i, own in enumerate(methods) if own == method]
        degrees |= zip(places, degrees_of_freedom([rows[i] for i in places]), strict=True)
    return [degrees[i] for i in range(len(rows))]


def _label(table: ScoreTable, methods: Sequence[Method], size: int | None, estimate: Array) -> str:
    """What the matrix is called; of a mixed one, which rows are not exact."""
    label = label_of(methods[0], size)
    if len(set(methods)) > 1:
        sampled = [name for name, own in zip(table.tasks, methods, strict=True) if own != "exact"]
        own = next(own for own in methods if own != "exact")
        return f"{label_of('exact', None)}; {label_of(own, size)} for {some(sampled, 3)}"
    off = ~np.eye(len(methods), dtype=bool)
    incomplete = methods[0] in ("exact", "restricted") and np.isnan(estimate[off]).any()
    return f"{label}, incomplete" if incomplete else label


def _sorted(table: ScoreTable) -> ScoreTable:
    """The table with its subsets in one order, whatever order they were trained in."""
    order = table.order
    replicates = None if table.replicates is None else table.replicates[order]
    return replace(
        table,
        membership=table.membership[order],
        scores=table.scores[order],
        trained=table.trained[order],
        replicates=replicates,
    )


def _square(rows: Sequence[NDArray[Any]], diagonal: float = np.nan) -> NDArray[Any]:
    """Rows without their own task (M of them, (M - 1,)) as an (M, M) array."""
    return np.stack([np.insert(row, i, np.asarray(diagonal, row.dtype)) for i, row in enumerate(rows)])


def _solid(layers: Sequence[Array]) -> Array:
    """Second-order scores (M of them, (M - 1, M - 1)) as (M, M, M), NaN where two of the three tasks are one."""
    m = len(layers)
    out = np.full((m, m, m), np.nan)
    for i, layer in enumerate(layers):
        others = np.delete(np.arange(m), i)
        out[i][np.ix_(others, others)] = np.where(np.eye(m - 1, dtype=bool), np.nan, layer)
    return out
