"""A TIM matrix with its uncertainty, and what is read off it: ranks, the surest cells, the discoveries."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tim_search.tim.estimators import Array
from tim_search.tim.row import Mask, Method
from tim_search.types import BadInput, overlap_mask

if TYPE_CHECKING:
    import pandas as pd

LABELS = {
    "exact": "exact TIM",
    "blup": "sampled TIM (BLUP)",
    "gls": "sampled TIM (GLS)",
    "ols": "sampled TIM (least squares)",
    "msr": "sampled TIM (difference of means)",
}

#: Tasks that a picture or a page shows of a search that has more; tables and files hold all of them.
MOST_SHOWN = 64


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
        methods: the estimator of each row; empty where it is `method` for all. Where some rows are exact and others
            sampled, `method` is that of the sampled ones.
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
    methods: tuple[Method, ...] = ()

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
                "method": self.methods[i] if self.methods else self.method,
                "label": label_of(self.methods[i], self.size) if len(set(self.methods)) > 1 else self.label,
            }
            for i, source in enumerate(self.tasks)
            for j, task in enumerate(self.tasks)
            if i != j
        ]

    def to_frame(self) -> pd.DataFrame:
        """`frame` as a pandas table."""
        import pandas as pd

        return pd.DataFrame(self.frame())


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
    places = dict.fromkeys([*control, *cells.ravel().tolist(), *range(m)])
    return tuple(result.tasks[index] for index in sorted(list(places)[:most]))


def discoveries(p_value: Array, fdr: float) -> Mask:
    """Benjamini and Hochberg's (1995) rejections at false discovery rate `fdr`; NaN cells are no tests."""
    from scipy.stats import false_discovery_control  # here: it takes long to import

    tested = np.isfinite(p_value)
    rejected = np.zeros(p_value.shape, bool)
    if tested.any():
        rejected[tested] = false_discovery_control(p_value[tested]) <= fdr
    return rejected


def label_of(method: Method, size: int | None) -> str:
    """What scores of this method are called; `size` is the largest subset of a restricted or deployable score."""
    if size is None:
        return LABELS[method]
    if method == "restricted":
        return f"restricted TIM (|T| <= {size})"
    return f"deployable TIM (|T| <= {size}), sampled (BLUP)"
