"""What the test patients say of every source, computed from the record and the ledger."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from tim_search.results import readings
from tim_search.results.confirmation.asked import Asked, Comparison, read
from tim_search.results.confirmation.contrast import UNKNOWN, Array, Contrast, contrast
from tim_search.tim.result import discoveries
from tim_search.types import FINAL_FOLD, Subset, joined, subset

if TYPE_CHECKING:
    from tim_search.results.opened import SearchResults

#: Discoveries among all comparisons are controlled at this false discovery rate, as those of the heatmap.
FDR = 0.10


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

    @property
    def outcome(self) -> Literal["confirmed", "refuted", "open"]:
        """What the test patients decide; "open" where they do not, or have not been asked.

        A combination is confirmed where its interval lies above zero and it stands among all comparisons that were
        made, and refuted where its interval lies below zero.
        """
        if self.rejected and self.gain.low > 0:
            return "confirmed"
        return "refuted" if self.gain.high < 0 else "open"


def confirmed(results: SearchResults) -> tuple[Confirmed, ...]:
    """What the ledger's test scores say, for every source in the order of the search; () where nothing was confirmed.

    A source has its latest comparison (see `tested`). Sources for which no combination was chosen have NaN for scores.
    """
    return tuple(comparisons[0] for comparisons in tested(results).values())


def tested(results: SearchResults) -> dict[str, tuple[Confirmed, ...]]:
    """Every comparison of each source, the latest first, in the order of the search; {} where nothing was confirmed.

    Where the latest choice was to stay alone, that comes first, with NaN for scores. The false discovery rate is that
    of all comparisons which confirmations of this folder made. Those that a later choice has replaced, and those that
    only the log of test readings knows any more, count as tests that found nothing, which can only make discoveries
    fewer: were they discoveries that nobody sees, asking for one true gain again and again would make discoveries of
    others. Raises BadInput for a damaged record.
    """
    asked = read(results.folder)
    if asked is None:
        return {}
    every = (asked, *asked.earlier)
    frames = _frames(results, every)
    compared: dict[Comparison, Confirmed] = {}
    latest: dict[str, Comparison | None] = {}
    for confirmation in every:
        scores = _scores(frames, confirmation)
        for source, chosen in confirmation.chosen.items():
            comparison = confirmation.comparison(source)
            latest.setdefault(source, comparison)
            if comparison not in compared and source in results.tasks:
                validation = _validation_gain(results, source, chosen)
                metric = results.tasks[source].metric
                compared[comparison] = _confirmed(source, metric, chosen, confirmation, scores, validation)
        for source in confirmation.alone:
            latest.setdefault(source, None)
    forgotten = len(only_in_the_log(asked, readings.read(results.folder)))
    shown = set(latest.values())
    p_values = np.array([source.gain.p_value if key in shown else 1.0 for key, source in compared.items()])
    p_values = np.append(p_values, np.ones(forgotten))
    rejected = dict(zip(compared, discoveries(p_values, FDR).tolist(), strict=False))
    judged = {key: _judged(source, rejected[key]) for key, source in compared.items()}
    return {
        name: (
            *(() if latest[name] else (_judged(_confirmed(name, task.metric, (), asked, {}, math.nan), False),)),
            *(comparison for comparison in judged.values() if comparison.source == name),
        )
        for name, task in results.tasks.items()
        if name in latest
    }


def only_in_the_log(asked: Asked, log: Iterable[Mapping[str, object]]) -> set[tuple[str, Subset, tuple[int, ...]]]:
    """Comparisons that the log of test readings names and no record does: (source, combination, seeds)."""
    recorded = {comparison[:3] for each in (asked, *asked.earlier) for comparison in each.comparisons}
    logged = set()
    for line in log:
        combinations, seeds = line.get("combinations"), line.get("seeds")
        if line.get("command") == "confirm" and isinstance(combinations, dict) and isinstance(seeds, list):
            with contextlib.suppress(ValueError, TypeError):  # a line that nobody here wrote
                logged |= {(source, subset(members), tuple(seeds)) for source, members in combinations.items()}
    return logged - recorded


def rows(results: SearchResults) -> list[dict[str, Any]]:
    """`confirmed` as flat records for tables, JSON, MLflow and the report: the combination as "a + b"."""
    return [
        {
            "source": source.source,
            "metric": source.metric,
            "chosen": joined(source.chosen),
            "seeds": source.seeds,
            "single": source.single,
            "multi": source.multi,
            "difference": source.gain.value,
            "low": source.gain.low,
            "high": source.gain.high,
            "percent": source.percent,
            "p_value": source.gain.p_value,
            "rejected": source.rejected,
            "validation_gain": source.validation_gain,
            "single_sd": source.single_sd,
            "multi_sd": source.multi_sd,
            "together": source.together,
            "over_together": source.over_together.value,
            "over_together_low": source.over_together.low,
            "over_together_high": source.over_together.high,
            "ensemble": source.ensemble,
            "over_ensemble": source.over_ensemble.value,
            "over_ensemble_low": source.over_ensemble.low,
            "over_ensemble_high": source.over_ensemble.high,
            "verdict": source.verdict,
        }
        for source in confirmed(results)
    ]


# (subset, metric) -> seed -> the score and its draws, of one task
_Scores = Mapping[str, Mapping[tuple[Subset, str], Mapping[int, Array]]]


def _frames(results: SearchResults, every: Iterable[Asked]) -> dict[str, pd.DataFrame]:
    """By context key, the rows of test scores."""
    columns = ("context", "subset", "seed", "fold", "task", "metric", "score", "status", "replicates")
    frames = {}
    for key in sorted({context.key for asked in every for context in asked.contexts.values()}):
        frame: pd.DataFrame = results.ledger.scores(key, primary=False, part="test", columns=columns)
        frames[key] = frame[(frame["fold"] == FINAL_FOLD) & (frame["status"] == "ok")]
    return frames


def _scores(frames: Mapping[str, pd.DataFrame], asked: Asked) -> _Scores:
    """Test scores by task, then by (subset, metric), then by seed: float64 (1 + R,) each."""
    keys = {members: context.key for members, context in asked.contexts.items()}
    by_task: dict[str, dict[tuple[Subset, str], dict[int, Array]]] = {}
    for key in sorted(set(keys.values())):
        frame = frames[key][frames[key]["seed"].isin(asked.seeds)]
        names = ("subset", "seed", "task", "metric", "score", "replicates")
        for members, seed, task, metric, score, draws in zip(*(frame[name] for name in names), strict=True):
            if keys.get(tuple(members)) == key:
                by_seed = by_task.setdefault(task, {}).setdefault((tuple(members), metric), {})
                by_seed[seed] = np.concatenate([[score], [] if draws is None else np.asarray(draws, np.float64)])
    return by_task


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
        shape = len(seeds), shared
        sides = [np.array([side[seed][:shared] for seed in seeds]).reshape(shape) for side in (ours, theirs)]
        return contrast(sides[0], sides[1]), len(seeds)

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


def _judged(source: Confirmed, rejected: bool) -> Confirmed:
    judged = replace(source, rejected=rejected)
    return replace(judged, verdict=verdict(judged))


def verdict(source: Confirmed) -> str:
    """What the test patients say of a source, in words."""
    if not source.chosen:
        return "no combination was chosen: the task stays alone"
    if not math.isfinite(source.gain.value):
        return "not trained yet, or its trainings failed"
    if source.outcome == "confirmed":
        better = source.over_ensemble.value <= 0
        beside = ", but an ensemble of single-task models does as well or better" if better else ""
        return f"confirmed: the gain holds on untouched patients{beside}"
    if source.outcome == "refuted":
        return "refuted: the combination is worse on untouched patients"
    if source.gain.low > 0:
        return "not confirmed: above zero by itself, but not among so many comparisons"
    return "not confirmed: the difference may be chance"
