"""What a source task would score with a subset that nobody has trained, predicted from those that were.

The mixed model behind the TIM scores (`tim.estimators`) describes f_i(T) for every subset T: a level, an effect
of each other task, of each pair of them and of the subset's size, with variances shared by all sources. Conditioned on
the scores of a table it is a Gaussian process over subsets: it predicts a score and says how sure it is.

`Surrogate` is a search that spends its trainings by these predictions: after a balanced start, each source proposes in
every round the untrained subset from which it may expect most. All sources share the trainings and the model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import comb
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from tim_search import designs
from tim_search.designs import Membership
from tim_search.designs.balanced import N_CANDIDATES
from tim_search.ledger.table import ScoreTable, empty
from tim_search.plans.best_trained import BestTrained
from tim_search.plans.contract import MOST, Plan
from tim_search.plans.expansion import Rule, check_settings
from tim_search.tim import estimators
from tim_search.tim.coded import coded_scores, is_sliced
from tim_search.tim.estimators import Array, Variances
from tim_search.tim.row import mean, source_of
from tim_search.types import BadInput, Subset, Unit, subset

#: Subsets predicted at a time: bounds the memory, not the result.
_CHUNK = 4096
#: Up to so many subsets of a source are all looked at when it proposes one; beyond, the best are searched for.
_LISTED = 2**14
#: Where the search for the best begins, and how many steps of one task it makes at most.
_STARTS, _STEPS = 16, 64
#: Subsets of the balanced start for each task, beside the tasks alone.
START = 2


@dataclass(frozen=True)
class Surrogate(Plan):
    """A search for the best combination of each source that trains what the surrogate finds most promising.

    The first round trains every task alone and `START` subsets a task that hold the tasks evenly. In each later round
    every source proposes `batch` subsets: those with the largest expected improvement over the best it has, E max(0,
    f_i(T) - best), of all subsets of at most `max_size` tasks that nobody has asked for.

    Attributes:
        sources: tasks whose scores are to be improved; they propose.
        tasks: tasks that may be combined; holds the sources.
        rounds: rounds of proposals after the start.
        batch: subsets each source proposes a round.
        max_size: tasks in the largest subset; 0 is no limit.
        seed: of the start.
        rule, confidence, tolerance: by which the best of what was trained is named in the end (see `Greedy`).

    Raises BadInput for settings that make no search.
    """

    sources: tuple[str, ...]
    tasks: tuple[str, ...]
    rounds: int = 6
    batch: int = 1
    max_size: int = 0
    seed: int = 0
    rule: Rule = "lower_bound"
    confidence: float = 0.95
    tolerance: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "sources", tuple(self.sources))
        object.__setattr__(self, "tasks", tuple(self.tasks))
        unknown = [name for name in self.sources if name not in self.tasks]
        if not self.sources or unknown or len(set(self.tasks)) < len(self.tasks):
            raise BadInput(
                f"surrogate: expected sources among distinct tasks, got sources {list(self.sources)} and tasks "
                f"{list(self.tasks)}."
            )
        numbers = (self.rounds, self.batch, self.max_size)
        if min(numbers) < 0 or self.batch < 1 or self.max_size == 1 or max(numbers) > MOST or self.seed < 0:
            raise BadInput(
                "surrogate: expected rounds of at least 0, a batch of at least 1, a max_size of at least 2 (0: no "
                f"limit), each at most {MOST:,}, and a seed of at least 0; got {self.rounds}, {self.batch}, "
                f"{self.max_size} and {self.seed}."
            )
        check_settings(self.sources, self.tasks, self.max_size or 2, self.rule, self.confidence, self.tolerance)

    @property
    def largest(self) -> int:
        """See `Plan.largest`."""
        return min(self.max_size or len(self.tasks), len(self.tasks))

    def ask(self, table: ScoreTable) -> list[Unit]:
        """See `Plan.ask`: the trainings of the first round that the table does not hold whole.

        A round is proposed from the rounds before it alone, so a search that is taken up again, or replayed from a
        ledger that holds more, asks for the same.
        """
        asked: dict[Subset, None] = {}
        seen = empty(table.tasks, table.blocks)
        for number in range(self.rounds + 1):
            new = self._start() if number == 0 else self._propose(seen, set(asked))
            asked |= dict.fromkeys(new)
            units = [Unit(members, seed, fold) for members in asked for seed, fold in table.blocks]
            if missing := [unit for unit in units if unit not in table.answered]:
                return missing
            seen = table.of(units)
        return []

    def most(self, blocks: Sequence[tuple[int, int]]) -> int:
        """See `Plan.most`."""
        return (len(self._start()) + self.rounds * self.batch * len(self.sources)) * len(blocks)

    def expander(self, sources: Sequence[str], tasks: Sequence[str], **settings: Any) -> BestTrained:
        """See `Plan.expander`: the best of what was trained, because no greedy path leads through the proposals."""
        own = {"rule": self.rule, "confidence": self.confidence, "tolerance": self.tolerance}
        given = {key: value for key, value in settings.items() if key != "beam"}
        return BestTrained(tuple(sources), tuple(tasks), **{"max_size": max(2, self.largest), **own, **given})

    def _start(self) -> list[Subset]:
        m, k = len(self.tasks), self.largest
        alone = designs.sized(m, 1)
        possible = sum(comb(m, size) for size in range(1, k + 1))
        budget = min(START * m, possible - m)
        if budget <= 0:
            return list(designs.subsets(alone, self.tasks))
        if k == m:
            # Some of the hybrid design's subsets may be single tasks, which are there already.
            sample = designs.hybrid(m, min(budget + m, 2**m - 1), self.seed)
            sample = sample[sample.sum(axis=1) > 1][:budget]
        else:
            sample = _even(m, k, budget, self.seed)
        return list(designs.subsets(np.vstack([alone, sample]), self.tasks))

    def _propose(self, seen: ScoreTable, asked: set[Subset]) -> list[Subset]:
        """`batch` subsets a source; sources in turn, so that none finds its best taken by many of another's."""
        place = [seen.tasks.index(name) for name in self.tasks]
        taken = np.zeros((len(asked), len(seen.tasks)), bool)
        for row, members in enumerate(asked):
            taken[row, [seen.tasks.index(name) for name in members]] = True
        trained = {row.tobytes() for row in taken}
        proposed: dict[Subset, None] = {}
        for turn in range(self.batch):
            for source in self.sources:
                rng = np.random.default_rng([self.seed, len(asked), turn, seen.tasks.index(source)])
                best = self._most_promising(seen, source, place, taken, trained, rng)
                if best is not None:
                    trained.add(best.tobytes())
                    proposed[subset(name for name, member in zip(seen.tasks, best, strict=True) if member)] = None
        return list(proposed)

    def _most_promising(
        self,
        seen: ScoreTable,
        source: str,
        place: list[int],
        taken: Membership,
        trained: set[bytes],
        rng: np.random.Generator,
    ) -> Membership | None:
        """The subset (M,) with the largest expected improvement that is not taken; None where nothing is predicted."""
        i = seen.tasks.index(source)
        at_hand = taken[taken[:, i]]
        best = np.nanmax(predict(seen, source, at_hand)[0], initial=-np.inf) if len(at_hand) else -np.inf
        if not np.isfinite(best):
            return None

        def improvement(rows: Membership) -> Array:
            mean, sd = predict(seen, source, rows)
            ratio = np.divide(mean - best, sd, out=np.full(len(sd), -np.inf), where=sd > 0)
            density = np.exp(-(np.clip(ratio, -38, 38) ** 2) / 2) / np.sqrt(2 * np.pi)
            expected = np.where(sd > 0, (mean - best) * ndtr(ratio) + sd * density, np.maximum(mean - best, 0.0))
            free = np.array([row.tobytes() not in trained for row in rows])
            # Far below the best nothing is expected, and the mean decides.
            return np.where(free, np.maximum(expected, 0.0) + 1e-12 * (mean - best), -np.inf)

        others = [column for column in place if column != i]
        q, k = len(others), self.largest - 1
        if sum(comb(q, size) for size in range(1, k + 1)) <= _LISTED:
            rows = np.zeros((sum(comb(q, size) for size in range(1, k + 1)), len(seen.tasks)), bool)
            rows[:, others] = designs.sized(q, k)
            rows[:, i] = True
        else:
            starts = at_hand[np.argsort(-predict(seen, source, at_hand)[0], kind="stable")[: _STARTS // 2]]
            drawn = np.zeros((_STARTS - len(starts), len(seen.tasks)), bool)
            drawn[:, i] = True
            for row in drawn:
                row[rng.choice(others, rng.integers(1, k + 1), replace=False)] = True
            rows = _climb(np.vstack([starts, drawn]), others, k + 1, improvement)
        values = improvement(rows)
        if not np.isfinite(values).any():
            return None
        # Equal but for rounding is equal: then the first is taken.
        top = values.max()
        first: Membership = rows[int(np.argmax(values >= top - 1e-9 * abs(top)))]
        return first


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
    predictor = _predictors(table)[i]
    if predictor is None:
        return mean, sd
    with_source = np.flatnonzero(members[:, i])
    codes = np.where(np.delete(members, i, axis=1), 1.0, -1.0)
    for start in range(0, len(with_source), _CHUNK):
        rows = with_source[start : start + _CHUNK]
        mean[rows], sd[rows] = predictor(codes[rows])
    return mean, sd


_Predictor: TypeAlias = Callable[[Array], tuple[Array, Array]]

#: What was fitted to a table lives as long as the table: its sources are asked in turn, and no table is kept alive.
_FITTED: WeakKeyDictionary[ScoreTable, list[_Predictor | None]] = WeakKeyDictionary()


def _predictors(table: ScoreTable) -> list[_Predictor | None]:
    """By source; fitted once a table."""
    if table not in _FITTED:
        _FITTED[table] = _fit(table)
    return _FITTED[table]


def _fit(table: ScoreTable) -> list[_Predictor | None]:
    sources = [source_of(table, i) for i in range(len(table.tasks))]
    sliced = is_sliced(sources)
    games = [coded_scores(source, sliced) for source in sources]
    fitted = estimators.fit_variances([game for game in games if game])
    # To 1 %, which no prediction depends on: how many threads or which machine sums must not change what is proposed.
    variances = Variances(*(float(np.exp(np.round(np.log(value), 2))) if value > 0 else 0.0 for value in fitted))
    levelled = [_levelled(table, i, game) if game else None for i, game in enumerate(games)]
    return [estimators.predictor(game[0], variances, game[1]) if game else None for game in levelled]


def _levelled(table: ScoreTable, i: int, game: estimators.CodedScores) -> tuple[estimators.CodedScores, Array]:
    """The game of a source with the level of its scores put back, and the mean level of the blocks in its basis."""
    scores = table.scores[:, :, i]
    scores = scores[table.membership[:, i] & np.isfinite(scores).any(axis=1)]
    finite = np.isfinite(scores)
    shares = finite / finite.sum(axis=1, keepdims=True)
    present = finite.any(axis=0)
    level = (present / present.sum()) @ np.linalg.pinv(shares, rcond=1e-9) @ game.nuisance
    return estimators.CodedScores(game.codes, game.nuisance, mean(scores), game.shares), level


def _climb(rows: Membership, others: list[int], largest: int, worth: Callable[[Membership], Array]) -> Membership:
    """Subsets that no change of one task, and no exchange of one for another, makes worth more; from each row."""
    climbed = rows.copy()
    values = worth(climbed)
    for _ in range(_STEPS):
        moved = False
        # An exchange is tried only where no change of one task helps: there are many more of them.
        for neighbours in (_changed, _exchanged):
            near = [neighbours(row, others, largest) for row in climbed]
            gains = worth(np.vstack(near))
            starts = np.cumsum([0, *map(len, near)])
            for at, options in enumerate(near):
                own = gains[starts[at] : starts[at + 1]]
                if len(own) and own.max() > values[at]:
                    climbed[at], values[at], moved = options[int(np.argmax(own))], own.max(), True
            if moved:
                break
        if not moved:
            break
    return climbed


def _changed(row: Membership, others: list[int], largest: int) -> Membership:
    """The subset with one task more or less."""
    near = np.repeat(row[None], len(others), axis=0)
    near[np.arange(len(others)), others] ^= True
    sizes = near.sum(axis=1)
    fitting: Membership = near[(sizes > 1) & (sizes <= largest)]
    return fitting


def _exchanged(row: Membership, others: list[int], largest: int) -> Membership:
    """The subset with one task in place of another."""
    pairs = [(j, k) for j in others for k in others if row[j] and not row[k]]
    near = np.repeat(row[None], len(pairs), axis=0)
    for swapped, (j, k) in zip(near, pairs, strict=True):
        swapped[j], swapped[k] = False, True
    return near


def _even(n_tasks: int, largest: int, budget: int, seed: int) -> Membership:
    """Subsets of 2 to `largest` tasks in which every pair of tasks meets about as often: bool (budget, M).

    Each next subset is the one of 64 random ones whose pairs have met least. Sizes are uniform.
    """
    rng = np.random.default_rng(seed)
    rows: dict[bytes, Membership] = {}
    met = np.zeros((n_tasks, n_tasks))
    for _ in range(100 * budget):
        if len(rows) == budget:
            break
        drawn = np.zeros((N_CANDIDATES, n_tasks), bool)
        size = int(rng.integers(2, largest + 1))
        drawn[np.arange(len(drawn))[:, None], rng.random(drawn.shape).argsort(axis=1)[:, :size]] = True
        cost = np.einsum("nj,jk,nk->n", drawn, met, drawn)
        best = drawn[int(np.argmin(cost))]
        if best.tobytes() not in rows:
            rows[best.tobytes()] = best
            met += np.outer(best, best)
    return np.array(list(rows.values())).reshape(-1, n_tasks)
