"""What a source task would score with a subset that nobody has trained, predicted from those that were.

The mixed model behind the TIM scores (`tim_search.estimators`) describes f_i(T) for every subset T: a level, an effect
of each other task, of each pair of them and of the subset's size, with variances shared by all sources. Conditioned on
the scores of a table it is a Gaussian process over subsets: it predicts a score and says how sure it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from tim_search import blocks, estimators
from tim_search.estimators import Array, Variances
from tim_search.games import ScoreTable
from tim_search.types import BadInput

#: Subsets predicted at a time: bounds the memory, not the result.
_CHUNK = 4096


@dataclass(frozen=True, eq=False)
class _Fit:
    """The scored subsets of every source, and the variance parameters they share."""

    games: tuple[tuple[estimators.Game, Array] | None, ...]
    variances: Variances


def predict(table: ScoreTable, source: str, subsets: NDArray[np.bool_]) -> tuple[Array, Array]:
    """Predicted score of a source in subsets, trained or not: mean and standard deviation, float64 (n,) each.

    The score is the mean over seeds and folds; the standard deviation is that of the model: which subsets were trained,
    and noise from run to run. What all runs of a block share is not in it. Scores of trained subsets are smoothed too.

    Args:
        table: scores of a search, finished or not; replicates are not used.
        source: the task whose score is predicted.
        subsets: bool (n, M), columns in the order of `table.tasks`.

    NaN where a subset does not hold the source, and everywhere while fewer than four subsets with it have a score.

    Raises:
        BadInput: an unknown source, or subsets of another shape.
    """
    members = np.asarray(subsets, bool)
    if source not in table.tasks:
        raise BadInput(f"source: expected one of {list(table.tasks)}, got {source!r}.")
    if members.ndim != 2 or members.shape[1] != len(table.tasks):
        raise BadInput(f"subsets: expected shape (n, {len(table.tasks)}), one column a task; got {members.shape}.")
    i = table.tasks.index(source)
    mean, sd = np.full(len(members), np.nan), np.full(len(members), np.nan)
    fit = _fit(table)
    found = fit.games[i]
    if found is None:
        return mean, sd
    game, level = found
    with_source = np.flatnonzero(members[:, i])
    codes = np.where(np.delete(members, i, axis=1), 1.0, -1.0)
    for start in range(0, len(with_source), _CHUNK):
        rows = with_source[start : start + _CHUNK]
        mean[rows], sd[rows] = estimators.predict(game, fit.variances, codes[rows], level)
    return mean, sd


@lru_cache(maxsize=1)
def _fit(table: ScoreTable) -> _Fit:
    """Kept for the table asked about last: its sources are usually asked about in turn, and share the variances."""
    sources = [blocks.source_of(table, i) for i in range(len(table.tasks))]
    sliced = blocks.is_sliced(sources)
    games = [blocks.game_of(source, sliced) for source in sources]
    variances = estimators.fit_variances([game for game in games if game])
    return _Fit(tuple(_levelled(table, i, game) if game else None for i, game in enumerate(games)), variances)


def _levelled(table: ScoreTable, i: int, game: estimators.Game) -> tuple[estimators.Game, Array]:
    """The game of a source with the level of its scores put back, and the mean level of the blocks in its basis."""
    scores = table.scores[:, :, i]
    scores = scores[table.membership[:, i] & np.isfinite(scores).any(axis=1)]
    known = np.isfinite(scores)
    shares = known / known.sum(axis=1, keepdims=True)
    present = known.any(axis=0)
    level = (present / present.sum()) @ np.linalg.pinv(shares, rcond=1e-9) @ game.nuisance
    return estimators.Game(game.codes, game.nuisance, blocks.mean(scores), game.shares), level
