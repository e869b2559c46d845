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
from dataclasses import dataclass, field, replace
from math import comb
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtrit
from threadpoolctl import threadpool_limits

from tim_search.ledger.table import ScoreTable, lay_out
from tim_search.tim import blocks as block
from tim_search.tim.blocks import MIN_ROWS, Mask
from tim_search.tim.blocks import Method as Method
from tim_search.tim.caveats import caveats, control_note, error_note
from tim_search.tim.estimators import Array
from tim_search.types import BadInput, overlap_mask

if TYPE_CHECKING:
    import pandas as pd

METHODS: tuple[Method, ...] = get_args(Method)

LABELS = {
    "exact": "exact TIM",
    "blup": "sampled TIM (BLUP)",
    "gls": "sampled TIM (GLS)",
    "ols": "sampled TIM (least squares)",
    "msr": "sampled TIM (difference of means)",
}

#: Said of the results of a search with one seed.
ONE_SEED = (
    "One seed: the luck of its initialisation looks in every subset like an effect of a task, so nothing is called a "
    "discovery. Train blocks of further seeds."
)

#: A set of subsets is taken for size-restricted when uniform sampling would miss all larger ones with less chance.
UNLIKELY = 0.01


@dataclass(frozen=True, eq=False)
class TimResult:
    """A TIM matrix with its uncertainty. Arrays are (M, M), row = source task, NaN where not estimable.

    Attributes:
        tasks: M task names.
        method: the estimator that made `estimate`.
        label: what the matrix is, for every title, table and file that shows it.
        size: largest subset size of a restricted or deployable score, else None.
        blocks: (seed, fold) pairs it rests on; empty for plain arrays.
        n_subsets: number of distinct subsets with a score.
        confidence: nominal coverage of `low` and `high`.
        fdr: false discovery rate of `rejected`.
        estimate: float64; above 0 the task (column) helps the source (row). NaN on the diagonal.
        se: standard error, for BLUP the posterior standard deviation.
        low, high: interval, Student's t (normal for BLUP's own part) around `estimate`.
        p_value: two-sided, of no effect; for BLUP from GLS, which does not shrink.
        rejected: bool; Benjamini-Hochberg discoveries over the off-diagonal cells, overlapping pairs left out. All
            false in a search of one seed, whose luck is in no error.
        false_sign_rate: chance that the effect has the other sign, P(t < -|estimate| / se).
        n_with, n_without: int64; scored subsets of the source with and without the task.
        se_sampling, se_seed, se_patients: the parts of `se`, NaN where unknown.
        interactions: float64 (M, M, M) or None; [i, j, k] is how much k changes the help of j for i.
        notes: warnings in words.
        control: the task with permuted labels among `tasks`; its cells are no tests.
    """

    tasks: tuple[str, ...]
    method: Method
    label: str
    size: int | None
    blocks: tuple[tuple[int, int], ...]
    n_subsets: int
    confidence: float
    fdr: float
    estimate: Array = field(repr=False)
    se: Array = field(repr=False)
    low: Array = field(repr=False)
    high: Array = field(repr=False)
    p_value: Array = field(repr=False)
    rejected: Mask = field(repr=False)
    false_sign_rate: Array = field(repr=False)
    n_with: NDArray[np.int64] = field(repr=False)
    n_without: NDArray[np.int64] = field(repr=False)
    se_sampling: Array = field(repr=False)
    se_seed: Array = field(repr=False)
    se_patients: Array = field(repr=False)
    interactions: Array | None = field(repr=False)
    notes: tuple[str, ...]
    control: str | None = None

    def frame(self) -> list[dict[str, Any]]:
        """One dict per off-diagonal cell, row by row: source, task, the arrays' values, method and label."""
        columns = (
            *("estimate", "se", "low", "high", "p_value", "rejected", "false_sign_rate", "n_with", "n_without"),
            *("se_sampling", "se_seed", "se_patients"),
        )
        return [
            {
                "source": source,
                "task": task,
                **{name: getattr(self, name)[i, j].item() for name in columns},
                "method": self.method,
                "label": self.label,
            }
            for i, source in enumerate(self.tasks)
            for j, task in enumerate(self.tasks)
            if i != j
        ]

    def to_frame(self) -> pd.DataFrame:
        """`frame` as a pandas table."""
        import pandas as pd

        return pd.DataFrame(self.frame())


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
    members, values = _checked_arrays(membership, scores)
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
    result = _compute(table, method, size, confidence, fdr, interactions, overlaps)
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
    A failed training is missing, never imputed: exact scores of a block that lacks one are left out, and where no block
    is complete "auto" takes "blup". With a `size`, "auto" takes "restricted" where all subsets up to it were trained,
    and "blup" of the restricted score where they were sampled. `control` names the task with permuted labels, if there
    is one: it takes no part in discoveries, and a note says how far its column spreads. See `estimate` for the other
    arguments and the errors.
    """
    reasons: tuple[str, ...] = ()
    if method == "auto":
        method, chosen, reasons = _choose(table)
        if size is None:
            size = chosen
        else:
            reasons = ()  # they are those of `chosen`
            if method == "exact" or _complete_up_to(table) >= size:
                method = "restricted"
    result = _compute(table, method, size, confidence, fdr, interactions, overlaps, control)
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


def rank_heatmap(estimate: ArrayLike) -> NDArray[np.int64]:
    """Signed ranks (M, M) within each row, as the heatmap of the M3H paper, section 6.2.

    The tasks of one row and one sign are ranked by |score|: the largest gain gets the largest positive rank, the
    largest loss the most negative one, and equal scores share the higher rank. The diagonal, scores of exactly 0 and
    cells that are NaN get 0; mask the last with `np.isnan(estimate)`.
    """
    values = np.asarray(estimate, float)
    if values.ndim != 2 or values.shape[0] != values.shape[1]:
        raise BadInput(f"A TIM matrix is square (M, M); got shape {values.shape}.")
    ranks = np.zeros(values.shape, np.int64)
    for i, row in enumerate(values):
        for sign in (1, -1):
            chosen = np.flatnonzero((sign * row > 0) & (np.arange(len(row)) != i))
            sizes = np.abs(row[chosen])
            ranks[i, chosen] = sign * np.searchsorted(np.sort(sizes), sizes, side="right")
    return ranks


#: Tasks that a picture or a page shows of a search that has more; tables and files hold all of them.
MOST_SHOWN = 64


def surest(result: TimResult, overlaps: Iterable[tuple[str, str]] = ()) -> NDArray[np.intp]:
    """The cells (n, 2) of (source, task) that are estimable, by how sure their effects are, discoveries first.

    An effect is as sure as its score is large beside its standard error. Where no cell has one, it is the size beside
    the others of its row that tells: the rows have metrics of their own. The diagonal, a control and pairs of
    overlapping targets are left out.
    """
    m = len(result.tasks)
    use = np.isfinite(result.estimate) & ~np.eye(m, dtype=bool) & ~overlap_mask(result.tasks, overlaps)
    if result.control in result.tasks:
        place = result.tasks.index(str(result.control))
        use[place, :] = use[:, place] = False
    size = np.where(use, np.abs(result.estimate), 0.0)
    error = np.where(np.isfinite(result.se) & (result.se > 0), result.se, np.inf)
    strength = size / (error if np.isfinite(error[use]).any() else np.maximum(size.max(axis=1, keepdims=True), 1e-300))
    cells = np.argwhere(use)
    order = np.lexsort((-strength[use], ~result.rejected[use]))
    return cells[order]


def most_telling(
    result: TimResult, most: int = MOST_SHOWN, overlaps: Iterable[tuple[str, str]] = ()
) -> tuple[str, ...]:
    """The tasks between which the effects are surest, at most `most` of them, in the order of the result.

    The surest cells bring both of their tasks until there are enough; a control is among them, and stands for one.
    """
    m = len(result.tasks)
    if m <= most:
        return result.tasks
    control = [result.tasks.index(str(result.control))] if result.control in result.tasks else []
    cells = surest(result, overlaps)
    # What has no estimate comes last, in its own order.
    found = dict.fromkeys([*control, *cells.ravel().tolist(), *range(m)])
    return tuple(result.tasks[index] for index in sorted(list(found)[:most]))


@dataclass(frozen=True, eq=False)
class SizeProfile:
    """TIM as a function of how many other tasks are trained along: mean difference over S of one size.

    Attributes:
        sizes: int64 (M - 1,), |S| = 0 .. M - 2.
        estimate, se: float64 (M - 1, M, M); NaN where no subset tells, `se` also where it is not known.
        n_with, n_without: int64 (M - 1, M, M) scored subsets behind either mean.
    """

    tasks: tuple[str, ...]
    sizes: NDArray[np.int64]
    estimate: Array = field(repr=False)
    se: Array = field(repr=False)
    n_with: NDArray[np.int64] = field(repr=False)
    n_without: NDArray[np.int64] = field(repr=False)


def size_profile(table: ScoreTable) -> SizeProfile:
    """Difference of the mean score of i over subsets with and without j, within each size |S| of the rest.

    Exact where all subsets of the two sizes were trained; from a sample unbiased but rough, since within one size the
    other tasks are not balanced. `se` holds the drawing of subsets (none where all were trained) and, from two blocks
    on, the differences between blocks.
    """
    m, blocks = len(table.tasks), len(table.blocks)
    shape = (max(m - 1, 0), m, m)
    value, se = np.full(shape, np.nan), np.full(shape, np.nan)
    n_with, n_without = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    every = np.array([comb(m - 2, s) for s in range(m - 1)])[:, None] if m > 1 else np.zeros((0, 1))
    for i in range(m if blocks else 0):
        rows = table.membership[:, i] & np.isfinite(table.scores[:, :, i]).any(axis=1)
        y = table.scores[rows, :, i]
        known = np.isfinite(y)
        sliced = blocks > 1 and bool((known.sum(axis=1) == 1).all())
        # Sliced blocks share no subset, so their levels are known no better than by their means.
        y = y - (block.mean(y.T) if sliced else block.block_offsets(y))
        members = np.delete(table.membership[rows], i, axis=1)
        at_size = members.sum(axis=1) == np.arange(m)[:, None]
        others = [j for j in range(m) if j != i]
        difference, drawn, counts = _by_size(block.mean(y), members, at_size)
        n_with[:, i, others], n_without[:, i, others] = counts
        complete = (counts[0] == every) & (counts[1] == every)
        variance = np.where(complete, 0.0, drawn)
        if blocks > 1:
            each = np.stack([_by_size(y[:, b], members, at_size)[0] for b in range(blocks)])
            between = block.variance_of_mean(each)
            # The spread between slices holds the drawing of subsets as well: adding both would count it twice.
            variance = np.fmax(variance, between) if sliced else variance + between
        else:
            variance[complete] = np.nan
        value[:, i, others], se[:, i, others] = difference, np.sqrt(variance)
    return SizeProfile(table.tasks, np.arange(shape[0]), value, se, n_with, n_without)


def discoveries(p_value: Array, fdr: float) -> Mask:
    """Benjamini and Hochberg's (1995) rejections at false discovery rate `fdr`; NaN cells are no tests."""
    tested = np.isfinite(p_value)
    ordered = np.sort(p_value[tested])
    passed = np.flatnonzero(ordered <= fdr * np.arange(1, len(ordered) + 1) / max(len(ordered), 1))
    if not len(passed):
        return np.zeros(p_value.shape, bool)
    return np.asarray(tested & (np.nan_to_num(p_value, nan=np.inf) <= ordered[passed[-1]]))


# The matrices of a source are small, and there are thousands of them: threads of BLAS win nothing, and where other
# processes want the cores they wait for one another at every one of them (44 tasks, 1,600 subsets: 8 s became 84).
def _compute(*given: Any) -> TimResult:
    with threadpool_limits(limits=1, user_api="blas"):
        return _computed(*given)


def _computed(
    table: ScoreTable,
    method: Method,
    size: int | None,
    confidence: float,
    fdr: float,
    interactions: bool,
    overlaps: Iterable[tuple[str, str]],
    control: str | None = None,
) -> TimResult:
    m = len(table.tasks)
    notes: list[str] = []
    size = _checked_options(table, method, size, confidence, fdr, interactions)
    untested = overlap_mask(table.tasks, overlaps)
    if control in table.tasks:
        untested[table.tasks.index(control)] = untested[:, table.tasks.index(control)] = True
    distinct_folds = len({fold for _, fold in table.blocks}) == len(table.blocks)
    apart = block.apart(table) if size is None and method in ("blup", "gls", "ols") else None
    found = apart and block.rows_of_many(apart, method, distinct_folds, notes)
    if found:
        method, second = "ols", []
        rows, outlines = found
        tests = rows
    else:
        apart = None
        table = _sorted(table)
        sources = [block.source_of(table, i) for i in range(m)]
        outlines = [block.outline(source) for source in sources]
        if method in ("exact", "restricted"):
            rows = tests = [block.enumerated_row(source, size or m, distinct_folds) for source in sources]
            second = [block.enumerated_second(source) for source in sources] if interactions else []
        else:
            method, rows, tests, second = block.sampled_rows(sources, method, size, distinct_folds, notes)
    n_with = [source.n_with for source in outlines]
    n_without = [source.n - source.n_with for source in outlines]
    if method not in ("exact", "restricted"):
        estimable = [np.minimum(a, b) >= MIN_ROWS for a, b in zip(n_with, n_without, strict=True)]
        rows = [block.masked(row, keep) for row, keep in zip(rows, estimable, strict=True)]
        tests = [block.masked(row, keep) for row, keep in zip(tests, estimable, strict=True)]

    estimate, se = _square([row.estimate for row in rows]), _square([row.total for row in rows])
    df, df_tests = block.degrees_of_freedom(rows), block.degrees_of_freedom(tests)
    half = se * stdtrit(_square(df), (1 + confidence) / 2)
    p_value = _square([2 * block.tail(row, free) for row, free in zip(tests, df_tests, strict=True)])
    label = _label(method, size)
    off = ~np.eye(m, dtype=bool)
    if method in ("exact", "restricted") and np.isnan(estimate[off]).any():
        label += ", incomplete"
    parts = {name: _square([getattr(row, name) for row in rows]) for name in ("sampling", "seed", "patients")}
    notes += caveats(table, outlines, (method, size), estimate, p_value, interactions)
    notes += error_note(parts, distinct_folds)
    if control in table.tasks:
        notes += control_note(table.tasks, control, estimate, np.asarray(half, float))
    return TimResult(
        tasks=table.tasks,
        method=method,
        label=label,
        size=size,
        blocks=table.blocks,
        n_subsets=int(np.isfinite(apart.scores if apart else table.scores).any(axis=1 if apart else (1, 2)).sum()),
        confidence=confidence,
        fdr=fdr,
        estimate=estimate,
        se=se,
        low=estimate - half,
        high=estimate + half,
        p_value=p_value,
        rejected=discoveries(np.where(untested, np.nan, p_value), fdr),
        false_sign_rate=_square([block.tail(row, free) for row, free in zip(rows, df, strict=True)]),
        n_with=_square(n_with, 0),
        n_without=_square(n_without, 0),
        se_sampling=parts["sampling"],
        se_seed=parts["seed"],
        se_patients=parts["patients"],
        interactions=_solid(second) if interactions and second else None,
        notes=tuple(notes),
        control=control if control in table.tasks else None,
    )


def _label(method: Method, size: int | None) -> str:
    if size is None:
        return LABELS[method]
    if method == "restricted":
        return f"restricted TIM (|T| <= {size})"
    return f"deployable TIM (|T| <= {size}), sampled (BLUP)"


def _choose(table: ScoreTable) -> tuple[Method, int | None, tuple[str, ...]]:
    """Method, size and notes of method "auto"."""
    m = len(table.tasks)
    sizes = table.membership.sum(axis=1)
    answered = table.trained.all(axis=1) if table.blocks else np.zeros(len(sizes), bool)
    n_all = 2**m - 1
    if int(answered.sum()) == n_all:
        lost = [
            name
            for i, name in enumerate(table.tasks)
            if not np.isfinite(table.scores[table.membership[:, i], :, i]).all(axis=0).any()
        ]
        if not lost:
            return "exact", None, ()
        return "blup", None, (f"No block has all subsets of {lost}: failed trainings leave no exact score.",)

    full = _complete_up_to(table)
    trained = table.trained.any(axis=1) if table.blocks else answered
    largest = int(sizes[trained].max(initial=0))
    n_trained = int(trained.sum())
    if 2 <= full == largest:
        return "restricted", full, ()
    small = (sum(comb(m, k) for k in range(1, largest + 1)) / n_all) ** n_trained
    if m > 2 and n_trained and small < UNLIKELY:
        size = max(full, 2)
        larger = int((sizes[trained] > size).sum())
        unused = (f"{larger} larger subsets were trained and are not used here.",) if larger else ()
        return "restricted", size, unused
    return "blup", None, ()


def _complete_up_to(table: ScoreTable) -> int:
    """The largest k for which every subset of at most k tasks has its final answer in every block."""
    m = len(table.tasks)
    answered = table.trained.all(axis=1) if table.blocks else np.zeros(len(table.membership), bool)
    counts = np.bincount(table.membership.sum(axis=1)[answered], minlength=m + 1)
    full = 0
    while full < m and counts[full + 1] == comb(m, full + 1):
        full += 1
    return full


def _checked_arrays(membership: ArrayLike, scores: ArrayLike) -> tuple[Mask, Array]:
    members, values = np.asarray(membership), np.asarray(scores, float)
    if members.ndim != 2 or not members.shape[1] or members.shape != values.shape:
        raise BadInput(
            "membership and scores must both have shape (subsets, tasks), with a task at least; got "
            f"{members.shape} and {values.shape}."
        )
    if members.dtype != bool:
        if not np.isin(members, (0, 1)).all():
            raise BadInput("membership must be bool, or 0 and 1; it holds other values.")
        members = members.astype(bool)
    if np.isinf(values).any():
        raise BadInput(f"{int(np.isinf(values).sum())} scores are infinite. Give NaN for a score that is missing.")
    if (np.isfinite(values) & ~members).any():
        row, column = np.argwhere(np.isfinite(values) & ~members)[0]
        raise BadInput(f"Row {row} scores task {column}, which is not in its subset; such scores must be NaN.")
    return members, values


def _checked_options(
    table: ScoreTable, method: Method, size: int | None, confidence: float, fdr: float, interactions: bool
) -> int | None:
    """The largest subset size of a restricted or deployable score, None for the others."""
    if method not in METHODS:
        raise BadInput(f"method: got {method!r}; allowed are {', '.join(METHODS)} (and auto for a search).")
    if not table.tasks:
        raise BadInput("A TIM matrix needs at least one task; got none.")
    for name, value in (("confidence", confidence), ("fdr", fdr)):
        if not 0 < value < 1:
            raise BadInput(f"{name} must lie between 0 and 1; got {value}.")
    if interactions and method not in ("exact", "blup"):
        raise BadInput(f"Second-order scores come with method exact or blup; got {method}.")
    if method != "restricted" and size is None:
        return None
    if method not in ("restricted", "blup"):
        raise BadInput(f"size: a largest subset size goes with method restricted or blup; got method {method}.")
    m = len(table.tasks)
    if size is None:
        size = int(table.membership.sum(axis=1).max(initial=2))
    if not 2 <= size <= m:
        raise BadInput(f"size: a restricted score needs a largest subset size from 2 to {m}, the tasks; got {size}.")
    return size


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


def _by_size(y: Array, members: Mask, at_size: Mask) -> tuple[Array, Array, NDArray[np.int64]]:
    """Difference of means, its sampling variance (M - 1, q) and the two counts (2, M - 1, q), by size of the rest."""
    known = np.isfinite(y)
    parts = []
    for inside, layer in ((members, at_size[1:]), (~members, at_size[:-1])):
        use = (layer & known).astype(float)
        count = use @ inside
        with np.errstate(divide="ignore", invalid="ignore"):
            mean = use @ (inside * np.nan_to_num(y)[:, None]) / count
            square = use @ (inside * np.nan_to_num(y)[:, None] ** 2) / count - mean**2
            variance = np.maximum(square, 0.0) / (count - 1)
        variance[count < 2] = np.nan
        parts.append((mean, variance, count.astype(np.int64)))
    (a, var_a, n_a), (b, var_b, n_b) = parts
    return a - b, var_a + var_b, np.stack([n_a, n_b])


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
