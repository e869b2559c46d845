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
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from tim_search.ledger.table import ScoreTable, lay_out
from tim_search.tim.choice import checked_arrays, choose, complete_up_to
from tim_search.tim.result import TimResult
from tim_search.tim.row import Method
from tim_search.tim.whole import Question, compute
from tim_search.types import BadInput

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
    result: TimResult = compute(table, Question(method, size, confidence, fdr, interactions, tuple(overlaps)))
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
    result: TimResult = compute(
        table, Question(method, size, confidence, fdr, interactions, tuple(overlaps), control, lost)
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
