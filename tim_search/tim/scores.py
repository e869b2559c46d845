"""Task-interaction (TIM) scores: how much training task j along with source task i changes the score of i.

    delta_ij = 2^-(M-2) * sum over S without i and j of  f_i(S + i + j) - f_i(S + i)        (M3H paper, section 6.1)

the Banzhaf value of player j in the game f_i. `estimate` works on arrays, `from_table` and `from_ledger` on a search;
docs/maths.md explains every number they return. Three kinds of result, which are never mixed in one matrix:

    exact       all 2^M - 1 subsets were trained: the formula itself.
    restricted  the same mean over small S only (|S| <= k - 2; pairs: k = 2). A different quantity with its own name.
    sampled     estimated from a sample of subsets: BLUP (the default), GLS, least squares, difference of means.
                BLUP can also estimate a restricted score from it: "deployable TIM", for who will deploy few tasks.

What the standard error holds, each part kept apart:

    se_sampling  which subsets were drawn, and noise from run to run: seen in the residuals. 0 where all were trained.
    se_seed      what all runs of a (seed, fold) block share: seen between blocks, so two blocks at least.
    se_patients  which patients were evaluated: seen under the shared patient-bootstrap weights of the replicates.

Where every block has a fold of its own, the blocks differ in their patients too, and the total takes the larger of the
last two parts; otherwise it takes both. A part that is not known is NaN and missing from the total, and a note says so;
an exact or restricted score without blocks and replicates has no standard error at all (NaN, never 0).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtrit
from threadpoolctl import threadpool_limits

from tim_search.ledger.table import ScoreTable, lay_out
from tim_search.tim.caveats import caveats, control_note, error_note, mixed_note
from tim_search.tim.choice import checked_arrays, checked_options, choose, complete_up_to
from tim_search.tim.coded import MIN_ROWS
from tim_search.tim.enumerated import enumerated_row, enumerated_second
from tim_search.tim.estimators import Array
from tim_search.tim.many_rows import apart_of, rows_of_many
from tim_search.tim.result import TimResult, discoveries, label_of
from tim_search.tim.row import Method, Outline, Row, degrees_of_freedom, masked, outline, source_of, tail
from tim_search.tim.sampled import sampled_rows
from tim_search.types import BadInput, overlap_mask, some

#: Said of the results of a search with one seed.
ONE_SEED = (
    "One seed: the luck of its initialisation looks in every subset like an effect of a task, so nothing is called a "
    "discovery. Train blocks of further seeds."
)


def estimate(
    membership: ArrayLike,
    scores: ArrayLike,
    method: Method = "blup",
    *,
    tasks: Sequence[str] | None = None,
    size: int | None = None,
    confidence: float = 0.95,
    fdr: float = 0.10,
    interactions: bool = False,
    overlaps: Iterable[tuple[str, str]] = (),
) -> TimResult:
    """TIM scores from arrays, one training a subset.

    Args:
        membership: bool (B, M); row b holds the tasks of the b-th subset. Rows of one subset are averaged.
        scores: float (B, M), higher is better; NaN where a task was not in the subset or failed.
        method: "blup" (default for a sample), "gls", "ols", "msr" (difference of means), "exact" or "restricted".
        tasks: M names; default "0", "1", ...
        size: largest subset size: of method "restricted", default the largest that occurs; with "blup" the estimate is
            that of the restricted score of this size (label "deployable TIM"), by default of the full score.
        confidence: coverage of the intervals. fdr: false discovery rate of `rejected`.
        interactions: also second-order scores, for "exact" and "blup".
        overlaps: pairs of nested or near-identical tasks, which take no part in discoveries.

    Raises:
        BadInput: shapes that do not fit, an infinite score, a score of a task outside its subset, an unknown method.
    """
    members, values = checked_arrays(membership, scores)
    m = members.shape[1]
    names = tuple(tasks) if tasks is not None else tuple(str(index) for index in range(m))
    if len(names) != m or len(set(names)) != m:
        raise BadInput(f"tasks: {m} different names expected, one a column; got {list(names)}.")
    rows, inverse = np.unique(members, axis=0, return_inverse=True)
    inverse = inverse.reshape(-1)
    total, count = np.zeros(rows.shape), np.zeros(rows.shape)
    np.add.at(total, inverse, np.nan_to_num(values))
    np.add.at(count, inverse, np.isfinite(values))
    mean = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    table = ScoreTable(names, ((0, 0),), rows, mean[:, None, :], np.ones((len(rows), 1), bool))
    result: TimResult = _compute(table, _Asked(method, size, confidence, fdr, interactions, tuple(overlaps)))
    return replace(result, blocks=())


def from_table(
    table: ScoreTable,
    method: Method | Literal["auto"] = "auto",
    *,
    size: int | None = None,
    confidence: float = 0.95,
    fdr: float = 0.10,
    interactions: bool = False,
    overlaps: Iterable[tuple[str, str]] = (),
    control: str | None = None,
) -> TimResult:
    """TIM scores of a search, finished or half-way.

    `method` "auto" takes "exact" when all 2^M - 1 subsets have their final answer, "restricted" when the subsets are
    all those up to a size (or plainly no sample of larger ones, as in a search by pairs that goes on), else "blup".
    A failed training is missing, never imputed: exact scores of a block that lacks one are left out, and a source none
    of whose blocks is complete gets a sampled row by "blup" among the exact rows of the others. With a `size`, "auto"
    takes "restricted" where all subsets up to it were trained, and "blup" of the restricted score where they were
    sampled. `control` names the task with permuted labels, if there
    is one: it takes no part in discoveries, and a note says how far its column spreads. See `estimate` for the other
    arguments and the errors.
    """
    reasons: tuple[str, ...] = ()
    lost: tuple[int, ...] = ()
    if method == "auto":
        method, chosen, reasons, lost = choose(table)
        if size is None:
            size = chosen
        else:
            reasons, lost = (), ()  # they are those of `chosen`
            if method == "exact" or complete_up_to(table) >= size:
                method = "restricted"
    result: TimResult = _compute(
        table, _Asked(method, size, confidence, fdr, interactions, tuple(overlaps), control, lost)
    )
    if len({seed for seed, _ in table.blocks}) == 1 and np.isfinite(result.p_value).any():
        # What one seed does to a task shows in every subset, in no residual and under no weight of the patients.
        result = replace(result, rejected=np.zeros_like(result.rejected), notes=(*result.notes, ONE_SEED))
    return replace(result, notes=reasons + result.notes)


def from_ledger(
    path: str | Path,
    method: Method | Literal["auto"] = "auto",
    *,
    context: str | None = None,
    tasks: Sequence[str] | None = None,
    blocks: Sequence[tuple[int, int]] | None = None,
    size: int | None = None,
    confidence: float = 0.95,
    fdr: float = 0.10,
    interactions: bool = False,
    overlaps: Iterable[tuple[str, str]] = (),
) -> TimResult:
    """TIM scores of a ledger folder: `from_table` on its primary validation scores, replicates included.

    Args:
        path: the ledger's folder.
        context: key of the context to read; needed only where the ledger holds several.
        tasks: the M tasks; default all that occur, sorted. Subsets with another task are left out.
        blocks: (seed, fold) pairs; default all that occur.

    Raises:
        BadInput: an empty ledger, or several contexts and none named (scores compare only within one).
    """
    from tim_search.ledger.ledger import Ledger

    ledger = Ledger(path)
    keys = sorted(ledger.contexts()) if context is None else [context]
    if len(keys) > 1:
        raise BadInput(f"{path} holds scores of {len(keys)} contexts, which do not compare. Name one of them: {keys}.")
    sheet = ledger.sheet(context, replicates=True)
    if not len(sheet.score):
        wanted = f" of context {context}" if context else ""
        raise BadInput(f"{path} holds no validation scores{wanted}. Train a search first, or check the path.")
    names = tuple(tasks) if tasks is not None else tuple(np.array(sheet.tasks)[sheet.membership.any(axis=0)].tolist())
    table = lay_out(sheet, names, blocks)
    return from_table(
        table, method, size=size, confidence=confidence, fdr=fdr, interactions=interactions, overlaps=overlaps
    )


class _Asked(NamedTuple):
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
def _compute(table: ScoreTable, asked: _Asked) -> TimResult:
    notes: list[str] = []
    asked = asked._replace(size=checked_options(table, *asked[:5]))
    untested = overlap_mask(table.tasks, asked.overlaps)
    control = asked.control if asked.control in table.tasks else None
    if control is not None:
        untested[table.tasks.index(control)] = untested[:, table.tasks.index(control)] = True
    distinct_folds = len({fold for _, fold in table.blocks}) == len(table.blocks)
    methods, rows, tests, second, outlines, n_subsets = _estimated(table, asked, distinct_folds, notes)

    n_with = [source.n_with for source in outlines]
    n_without = [source.n - source.n_with for source in outlines]
    for i, own in enumerate(methods):
        if own not in ("exact", "restricted"):
            estimable = np.minimum(n_with[i], n_without[i]) >= MIN_ROWS
            rows[i], tests[i] = masked(rows[i], estimable), masked(tests[i], estimable)

    estimate, se = _square([row.estimate for row in rows]), _square([row.total for row in rows])
    df, df_tests = _degrees_of_freedom(rows, methods), _degrees_of_freedom(tests, methods)
    half = se * stdtrit(_square(df), (1 + asked.confidence) / 2)
    p_value = _square([2 * tail(row, free) for row, free in zip(tests, df_tests, strict=True)])
    parts = {name: _square([getattr(row, name) for row in rows]) for name in ("sampling", "seed", "patients")}
    notes += caveats(table, outlines, methods, asked.size, estimate, p_value, asked.interactions)
    notes += error_note(parts, distinct_folds)
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


def _estimated(table: ScoreTable, asked: _Asked, distinct_folds: bool, notes: list[str]) -> _Estimated:
    method: Method = asked.method
    m, size = len(table.tasks), asked.size
    apart = apart_of(table) if size is None and method in ("blup", "gls", "ols") else None
    if apart and (answer := rows_of_many(apart, method, distinct_folds, notes)):
        rows, outlines = answer
        n_subsets = int(np.isfinite(apart.scores).any(axis=1).sum())
        return _Estimated(["ols"] * m, rows, list(rows), [], outlines, n_subsets)
    table = _sorted(table)
    sources = [source_of(table, i) for i in range(m)]
    outlines = [outline(source) for source in sources]
    n_subsets = int(np.isfinite(table.scores).any(axis=(1, 2)).sum())
    if method not in ("exact", "restricted"):
        method, rows, tests, second = sampled_rows(sources, method, size, distinct_folds, notes)
        return _Estimated([method] * m, rows, list(tests), second, outlines, n_subsets)
    methods: list[Method] = [method] * m
    rows = [enumerated_row(source, size or m, distinct_folds) for source in sources]
    tests = list(rows)
    second = [enumerated_second(source) for source in sources] if asked.interactions else []
    if asked.lost:
        # The variances of the model come from all sources; the rows of the others stay exact.
        method, sampled, tested, layers = sampled_rows(sources, "blup", None, distinct_folds, notes)
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
