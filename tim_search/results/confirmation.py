"""The confirmation: does the combination a search chose do better on patients that no search has seen?

A combination is chosen by its validation scores, and the best of many noisy scores is partly luck. Here it meets its
source's single-task model anew: both are trained on the whole training part from fresh seeds, and judged on the
untouched test patients. Two baselines of no less compute stand beside them: all tasks of the search together, and an
ensemble of as many single-task models as the combination has tasks.

`Asked` says what was to be confirmed (`confirmation.json`), by this confirmation and by those before it in the same
folder; the scores are in the ledger, as those of every training, under the fold `FINAL_FOLD`. Everything else is
computed from these two, also while the confirmation runs. The false discovery rate is that of all comparisons together:
whoever confirms the sources one by one makes as many of them as who names all at once.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from tim_search.gates.plain import write_json
from tim_search.results import readings
from tim_search.results.summary import SearchResults
from tim_search.tim.scores import discoveries
from tim_search.types import FINAL_FOLD, BadInput, Context, Subset, subset

Array = NDArray[np.float64]

NAME = "confirmation.json"

#: Discoveries among all comparisons are controlled at this false discovery rate, as those of the heatmap.
FDR = 0.10

#: The first of the seeds of a confirmation; those a search has used are passed over.
FIRST_SEED = 1000


#: (source, combination, seeds, keys of the contexts of both sides).
_Comparison: TypeAlias = tuple[str, Subset, tuple[int, ...], tuple[str, ...]]


@dataclass(frozen=True)
class Asked:
    """What a confirmation trains.

    Attributes:
        rule: by which the combinations were chosen, or "given".
        chosen: source -> the combination to be confirmed; a source that was to stay alone is not in it.
        alone: sources for which no combination was chosen, and so nothing was read.
        together: all tasks of the search, the control left out.
        seeds: fresh ones.
        draws: patient-bootstrap draws behind every score.
        contexts: of every subset that is trained; they differ where subsets have settings of their own.
        groups: columns by which calibration is shown apart.
        earlier: confirmations before this one that compared something else, the latest first; each without its own.
    """

    rule: str
    chosen: Mapping[str, Subset]
    alone: tuple[str, ...]
    together: Subset
    seeds: tuple[int, ...]
    draws: int
    contexts: Mapping[Subset, Context]
    groups: tuple[str, ...] = ()
    earlier: tuple[Asked, ...] = ()

    @property
    def comparisons(self) -> frozenset[_Comparison]:
        """Each source's single-task model against its combination, without those of earlier confirmations."""
        return frozenset(self.comparison(source) for source in self.chosen)

    def comparison(self, source: str) -> _Comparison:
        """What is compared for a source with a combination."""
        sides = (self.contexts.get((source,)), self.contexts.get(self.chosen[source]))
        return source, self.chosen[source], self.seeds, tuple("" if one is None else one.key for one in sides)

    def after(self, before: Asked | None) -> Asked:
        """The same with the confirmations before it, as far as they compared, or left alone, something else."""
        if before is None:
            return self
        mine, named = self.comparisons, {*self.chosen, *self.alone}
        line = (replace(before, earlier=()), *before.earlier)
        kept = (one for one in line if not (one.comparisons <= mine and {*one.chosen, *one.alone} <= named))
        return replace(self, earlier=tuple(kept))

    @property
    def subsets(self) -> tuple[Subset, ...]:
        """Every subset that is trained, each once."""
        return needed(self.chosen, self.together)

    @property
    def ensemble(self) -> int:
        """The most single-task models an ensemble averages: as many as the largest combination has tasks.

        Three at least, as many as the paper's expansion combines, so that a later, larger choice finds its ensemble.
        """
        return max([3, *map(len, self.chosen.values())])

    def write(self, folder: Path) -> None:
        """Write `confirmation.json`, whole or not at all."""
        write_json(folder / NAME, _plain(self))


def _plain(asked: Asked) -> dict[str, Any]:
    """As JSON can hold it."""
    return {
        **asdict(replace(asked, contexts={}, earlier=())),
        "contexts": [
            {"subset": list(members), "context": asdict(context)} for members, context in asked.contexts.items()
        ],
        "earlier": [_plain(one) for one in asked.earlier],
    }


def _asked(plain: Mapping[str, Any]) -> Asked:
    contexts = {
        tuple(one["subset"]): Context(**{item.name: one["context"][item.name] for item in fields(Context)})
        for one in plain["contexts"]
    }
    return Asked(
        plain["rule"],
        {source: tuple(members) for source, members in plain["chosen"].items()},
        tuple(plain["alone"]),
        tuple(plain["together"]),
        tuple(plain["seeds"]),
        plain["draws"],
        contexts,
        tuple(plain["groups"]),
        tuple(_asked(one) for one in plain.get("earlier", ())),
    )


def read(folder: Path) -> Asked | None:
    """The confirmation a search folder holds, or None; raises BadInput where its file cannot be understood."""
    path = folder / NAME
    if not path.exists():
        return None
    try:
        return _asked(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInput(
            f"{path}: is not the record of a confirmation ({type(error).__name__}: {error}). Run `tim-search confirm "
            f"{folder}` again; it trains nothing that the ledger holds."
        ) from error


def needed(chosen: Mapping[str, Subset], together: Subset) -> tuple[Subset, ...]:
    """The subsets that confirming these combinations takes: each with its single task, and all tasks together."""
    if not chosen:
        return ()
    singles = {(source,) for source in chosen}
    return tuple(sorted({*singles, *chosen.values(), together}, key=lambda members: (len(members), members)))


def fresh_seeds(count: int, used: Iterable[int]) -> tuple[int, ...]:
    """`count` seeds that no training of the search has started from."""
    taken = set(used)
    return tuple(seed for seed in range(FIRST_SEED, FIRST_SEED + count + len(taken)) if seed not in taken)[:count]


@dataclass(frozen=True)
class Contrast:
    """Mean difference of two models' test scores, with a 95 % interval and a two-sided p-value; NaN where unknown."""

    value: float
    low: float
    high: float
    p_value: float


UNKNOWN = Contrast(math.nan, math.nan, math.nan, math.nan)


@dataclass(frozen=True)
class Confirmed:
    """What the test patients say about one source. Scores are means over the seeds, in the source's metric.

    Attributes:
        source, metric: the task and its metric.
        chosen: the combination; () where none was chosen.
        seeds: seeds from which both models have a score.
        single, multi: of the single-task model and of the combination.
        single_sd, multi_sd: the paper's interval of each (see `model.trained.confirming.DRAWS`), mean over the seeds.
        together, ensemble: of the baselines; NaN where they have none.
        gain: multi against single; over_together, over_ensemble: multi against the baselines.
        percent: the gain as a percentage of the single-task score, as the paper tells it.
        validation_gain: what the search had measured, for comparison.
        rejected: whether "no difference" is rejected at the false discovery rate of `confirmed`.
        verdict: in words.
    """

    source: str
    metric: str
    chosen: Subset
    seeds: int
    single: float
    multi: float
    single_sd: float
    multi_sd: float
    together: float
    ensemble: float
    gain: Contrast
    over_together: Contrast
    over_ensemble: Contrast
    percent: float
    validation_gain: float
    rejected: bool
    verdict: str


def contrast(one: Array, other: Array, confidence: float = 0.95) -> Contrast:
    """Paired comparison of two models.

    A bootstrap over patients and seeds at once: draw r takes the r-th patient weighting, which both models share, and
    as many seeds as there are, with replacement. A handful of seeds drawn from itself varies too little: what the draw
    of seeds adds to draw r is therefore widened by sqrt(S / (S - 1)), the bias of a variance of S values, and by the
    ratio of Student's quantile with S - 1 degrees of freedom to the normal one. The interval is that of the
    percentiles; the p-value is twice the smaller share of draws on either side of zero, a draw counted extra on each
    side so that it is never 0. One seed shows the patients' part alone.

    Args:
        one, other: float64 (S, 1 + R), a row a seed: the score, then the score under each weighting. A weighting that
            leaves no score (NaN) in any row is passed over.
        confidence: of the interval.
    """
    if not len(one):
        return UNKNOWN
    difference = one - other
    draws = difference[:, 1:][:, np.isfinite(difference[:, 1:]).all(axis=0)]
    value = float(difference[:, 0].mean())
    n_seeds, n_draws = draws.shape
    if n_draws < 2:
        return Contrast(value, math.nan, math.nan, math.nan)
    dice = np.random.default_rng(n_draws)
    seeds = dice.integers(0, n_seeds, (n_seeds, n_draws))
    patients = draws.mean(axis=0)
    drawn = patients
    if n_seeds > 1:
        upper = (1 + confidence) / 2
        widened = math.sqrt(n_seeds / (n_seeds - 1)) * stats.t.ppf(upper, n_seeds - 1) / stats.norm.ppf(upper)
        drawn = patients + widened * (np.take_along_axis(draws, seeds, axis=0).mean(axis=0) - patients)
    low, high = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2])
    tail = min((drawn <= 0).sum(), (drawn >= 0).sum())
    return Contrast(value, float(low), float(high), min(1.0, 2.0 * (1 + tail) / (1 + n_draws)))


def confirmed(results: SearchResults) -> tuple[Confirmed, ...]:
    """What the ledger's test scores say, for every source in the order of the search; () where nothing was confirmed.

    A source has its latest comparison. The false discovery rate is that of all comparisons which confirmations of
    this folder made. Those that a later choice has replaced, and those that only the log of test readings knows any
    more, count as tests that found nothing, which can only make discoveries fewer: were they discoveries that nobody
    sees, asking for one true gain again and again would make discoveries of others. Sources for which no combination
    was chosen have NaN for scores. Raises BadInput for a damaged record.
    """
    asked = read(results.folder)
    if asked is None:
        return ()
    every = (asked, *asked.earlier)
    frames = _frames(results, every)
    compared: dict[_Comparison, Confirmed] = {}
    latest: dict[str, _Comparison | None] = {}
    for one in every:
        scores = _scores(frames, one)
        for source in one.chosen:
            which = one.comparison(source)
            latest.setdefault(source, which)
            if which not in compared and source in results.tasks:
                validation = _validation_gain(results, source, one.chosen[source])
                metric = results.tasks[source].metric
                compared[which] = _confirmed(source, metric, one.chosen[source], one, scores, validation)
        for source in one.alone:
            latest.setdefault(source, None)
    forgotten = len(_from_the_log(asked, readings.read(results.folder)))
    shown = set(latest.values())
    p_values = np.array([one.gain.p_value if which in shown else 1.0 for which, one in compared.items()])
    p_values = np.append(p_values, np.ones(forgotten))
    rejected = dict(zip(compared, discoveries(p_values, FDR).tolist(), strict=False))
    found = []
    for name in (name for name in results.tasks if name in latest):
        if (last := latest[name]) is not None:
            found.append(_judged(compared[last], rejected[last]))
        else:
            found.append(_judged(_confirmed(name, results.tasks[name].metric, (), asked, {}, math.nan), False))
    return tuple(found)


def _from_the_log(asked: Asked, log: Iterable[Mapping[str, object]]) -> set[tuple[str, Subset, tuple[int, ...]]]:
    """Comparisons that the log of test readings names and no record does: (source, combination, seeds)."""
    known = {which[:3] for one in (asked, *asked.earlier) for which in one.comparisons}
    logged = set()
    for line in log:
        combinations, seeds = line.get("combinations"), line.get("seeds")
        if line.get("command") == "confirm" and isinstance(combinations, dict) and isinstance(seeds, list):
            with contextlib.suppress(ValueError, TypeError):  # a line that nobody here wrote
                logged |= {(source, subset(members), tuple(seeds)) for source, members in combinations.items()}
    return logged - known


def rows(results: SearchResults) -> list[dict[str, Any]]:
    """`confirmed` as flat records for tables, JSON, MLflow and the report: the combination as "a + b"."""
    return [
        {
            "source": one.source,
            "metric": one.metric,
            "chosen": " + ".join(one.chosen),
            "seeds": one.seeds,
            "single": one.single,
            "multi": one.multi,
            "difference": one.gain.value,
            "low": one.gain.low,
            "high": one.gain.high,
            "percent": one.percent,
            "p_value": one.gain.p_value,
            "rejected": one.rejected,
            "validation_gain": one.validation_gain,
            "single_sd": one.single_sd,
            "multi_sd": one.multi_sd,
            "together": one.together,
            "over_together": one.over_together.value,
            "over_together_low": one.over_together.low,
            "over_together_high": one.over_together.high,
            "ensemble": one.ensemble,
            "over_ensemble": one.over_ensemble.value,
            "over_ensemble_low": one.over_ensemble.low,
            "over_ensemble_high": one.over_ensemble.high,
            "verdict": one.verdict,
        }
        for one in confirmed(results)
    ]


# (subset, metric) -> seed -> the score and its draws, of one task
_Scores = Mapping[str, Mapping[tuple[Subset, str], Mapping[int, Array]]]


def _frames(results: SearchResults, every: Iterable[Asked]) -> dict[str, pd.DataFrame]:
    """By context key, the rows of test scores."""
    columns = ("context", "subset", "seed", "fold", "task", "metric", "score", "status", "replicates")
    found = {}
    for key in sorted({context.key for asked in every for context in asked.contexts.values()}):
        frame: pd.DataFrame = results.ledger.scores(key, primary=False, part="test", columns=columns)
        found[key] = frame[(frame["fold"] == FINAL_FOLD) & (frame["status"] == "ok")]
    return found


def _scores(frames: Mapping[str, pd.DataFrame], asked: Asked) -> _Scores:
    """Test scores by task, then by (subset, metric), then by seed: float64 (1 + R,) each."""
    keys = {members: context.key for members, context in asked.contexts.items()}
    found: dict[str, dict[tuple[Subset, str], dict[int, Array]]] = {}
    for key in sorted(set(keys.values())):
        frame = frames[key][frames[key]["seed"].isin(asked.seeds)]
        names = ("subset", "seed", "task", "metric", "score", "replicates")
        for members, seed, task, metric, score, draws in zip(*(frame[name] for name in names), strict=True):
            if keys.get(tuple(members)) == key:
                by_seed = found.setdefault(task, {}).setdefault((tuple(members), metric), {})
                by_seed[seed] = np.concatenate([[score], [] if draws is None else np.asarray(draws, np.float64)])
    return found


def _confirmed(
    source: str, metric: str, chosen: Subset, asked: Asked, scores: _Scores, validation_gain: float
) -> Confirmed:
    of = scores.get(source, {})

    def mean(members: Subset, name: str) -> float:
        values = [value[0] for value in of.get((members, name), {}).values()]
        return float(np.mean(values)) if values else math.nan

    def against(members: Subset, name: str) -> tuple[Contrast, int]:
        ours, theirs = of.get((chosen, metric), {}), of.get((members, name), {})
        seeds = [seed for seed in asked.seeds if seed in ours and seed in theirs]
        shared = min((len(side[seed]) for side in (ours, theirs) for seed in seeds), default=0)
        one, other = (
            np.array([side[seed][:shared] for seed in seeds]).reshape(len(seeds), shared) for side in (ours, theirs)
        )
        return contrast(one, other), len(seeds)

    single = (source,)
    ensemble = f"ensemble_{len(chosen)}_{metric}"
    gain, seeds = against(single, metric) if chosen else (UNKNOWN, 0)
    together = UNKNOWN if chosen in ((), asked.together) else against(asked.together, metric)[0]
    base = mean(single, metric)
    return Confirmed(
        source=source,
        metric=metric,
        chosen=chosen,
        seeds=seeds,
        single=base,
        multi=mean(chosen, metric),
        single_sd=mean(single, f"{metric}_paper_sd"),
        multi_sd=mean(chosen, f"{metric}_paper_sd"),
        together=mean(asked.together, metric) if chosen else math.nan,
        ensemble=mean(single, ensemble),
        gain=gain,
        over_together=together,
        over_ensemble=against(single, ensemble)[0] if chosen else UNKNOWN,
        percent=100 * gain.value / abs(base) if base else math.nan,
        validation_gain=validation_gain,
        rejected=False,
        verdict="",
    )


def _validation_gain(results: SearchResults, source: str, chosen: Subset) -> float:
    """Gain of the combination on the validation folds, mean over the blocks; NaN where they do not hold both."""
    table = results.table
    if chosen not in table.rows or (source,) not in table.rows:
        return math.nan
    column = table.tasks.index(source)
    means = table.mean()
    return float(means[table.rows[chosen], column] - means[table.rows[(source,)], column])


def _judged(one: Confirmed, rejected: bool) -> Confirmed:
    return replace(one, rejected=rejected, verdict=_verdict(one, rejected))


def _verdict(one: Confirmed, rejected: bool) -> str:
    if not one.chosen:
        return "no combination was chosen: the task stays alone"
    if not math.isfinite(one.gain.value):
        return "not trained yet, or its trainings failed"
    if rejected and one.gain.value > 0:
        better = one.over_ensemble.value <= 0
        beside = ", but an ensemble of single-task models does as well or better" if better else ""
        return f"confirmed: the gain holds on untouched patients{beside}"
    if rejected:
        return "refuted: the combination is worse on untouched patients"
    if one.gain.low > 0:
        return "not confirmed: above zero by itself, but not among so many comparisons"
    return "not confirmed: the difference may be chance"


def caveats(
    asked: Asked,
    found: Sequence[Confirmed],
    log: Sequence[Mapping[str, object]],
    overlaps: Sequence[tuple[str, str]],
) -> list[str]:
    """What the reader of a confirmation must know, in words; `log` is that of the test readings."""
    tested = [one for one in found if one.chosen]
    by = f"chosen on validation patients by the rule {asked.rule.replace('_', ' ')}"
    by = "named by the user" if asked.rule == "given" else by
    seeds = f"{len(asked.seeds)} fresh seed{'s' * (len(asked.seeds) != 1)}"
    count = len(asked.chosen)
    earlier = frozenset().union(*(one.comparisons for one in asked.earlier)) - asked.comparisons
    forgotten = _from_the_log(asked, log)
    others = len(earlier) + len(forgotten)
    beside = f" and {others} comparison{'s' * (others != 1)} of earlier confirmations" if others else ""
    notes = [
        f"{count} combination{'s' * (count != 1)} {by}; discoveries at a false discovery rate of {FDR:.0%} "
        f"over these sources{beside}. Intervals: 95 %, over test patients and {seeds}; each speaks of its one "
        "comparison."
    ]
    if others:
        notes.append(
            "All comparisons on the same test patients are judged together: those of earlier confirmations are judged "
            "anew, and may read otherwise than before."
        )
    if forgotten:
        notes.append(
            f"{len(forgotten)} of the earlier comparisons {'is' if len(forgotten) == 1 else 'are'} known from "
            f"{readings.FILE} alone and count{'s' * (len(forgotten) == 1)} as nothing found."
        )
    if len(asked.seeds) < 3:
        notes.append(
            "With fewer than three seeds an interval says next to nothing of what a training owes to its seed."
        )
    if len(log) > 1:
        notes.append(
            f"The test patients have been read {len(log)} times (test-readings.jsonl). Whoever chooses after looking "
            "turns them into validation patients."
        )
    pairs = {frozenset(pair) for pair in overlaps}
    near = [
        f"{one.source} with {other}"
        for one in tested
        for other in one.chosen
        if frozenset((one.source, other)) in pairs
    ]
    if any(one.metric == "silhouette" for one in tested):
        notes.append(
            "A silhouette also rises when the latent keeps fewer directions: compare effective_rank and "
            "reconstruction_r2 in the ledger before a gain is read as better groups."
        )
    if near:
        notes.append(f"Overlapping targets, whose gain is no transfer: {', '.join(near)}.")
    return notes
