"""What may and what may not be concluded from a search, in plain words for readers who were not there.

Every sentence is made from what this search holds: its label, blocks, discoveries, controls, overlaps, failures and
confirmations. A sentence that does not apply is left out, and none is there because it usually applies.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from tim_search.results.verdicts import Verdict
from tim_search.tim.result import TimResult
from tim_search.types import METRIC_WORDS, Task, counted, overlap_mask, some

#: Pairs of tasks, and combinations, that are named one by one.
_NAMED = 6


def may(
    result: TimResult,
    tasks: Mapping[str, Task],
    overlaps: Sequence[tuple[str, str]],
    verdicts: Sequence[Verdict],
    confirmation: Sequence[Mapping[str, Any]] = (),
) -> list[str]:
    """What may be concluded."""
    return [
        *_about_discoveries(result, tasks, overlaps),
        *_about_combinations(verdicts, tasks),
        *(_about_confirmed(confirmation) if confirmation else ()),
    ]


def _about_discoveries(
    result: TimResult, tasks: Mapping[str, Task], overlaps: Sequence[tuple[str, str]]
) -> Iterator[str]:
    cells = np.isfinite(result.estimate) & ~np.eye(len(result.tasks), dtype=bool)
    cells &= ~overlap_mask(result.tasks, overlaps)
    if result.control in result.tasks:
        c = result.tasks.index(str(result.control))
        cells[c, :] = cells[:, c] = False
    discoveries = result.rejected & cells
    helps, harms = (int((discoveries & (sign * result.estimate > 0)).sum()) for sign in (1, -1))
    tested = int((cells & np.isfinite(result.p_value)).sum())
    rate = f"{result.fdr:.0%}"
    if helps + harms:
        parts = [f"{helps} help"] * bool(helps) + [f"{harms} harm"] * bool(harms)
        yield (
            f"Of {tested} effects of one task on another that were tested, {helps + harms} stand at a false discovery "
            f"rate of {rate} ({' and '.join(parts)}): on average no more than one in "
            f"{round(1 / result.fdr)} of such findings is luck."
        )
        yield from (_clearest(result, discoveries, tasks, sign) for sign, n in ((1, helps), (-1, harms)) if n)
    elif tested and len({seed for seed, _ in result.blocks}) == 1:
        yield f"None of {tested} effects of one task on another can be told from the luck of the one seed there is."
    elif tested:
        typical = _typical_half_width(result, cells, tasks)
        yield (
            f"None of {tested} effects of one task on another stands at a false discovery rate of {rate}. That does "
            f"not mean that there are none{': ' + typical if typical else '.'}"
        )


def _about_combinations(verdicts: Sequence[Verdict], tasks: Mapping[str, Task]) -> Iterator[str]:
    compared = _compared(verdicts)
    better = [verdict for verdict in compared if len(verdict.advised) > 1]
    if better:
        names = [
            f"{verdict.source} with {listed([name for name in verdict.advised if name != verdict.source])} "
            f"({signed(verdict.gain, 3)} {_metric(tasks, verdict.source)})"
            for verdict in better
        ]
        yield (
            f"For {len(better)} of {len(compared)} source tasks a small combination scores higher than the task alone, "
            f"with the whole interval above zero: {_first(names)}."
        )
    elif compared:
        yield (
            f"For none of the {len(compared)} source tasks whose combinations were compared is one shown to be better "
            "than the task alone: the plain single-task model is a sound choice for each of them."
        )


def _about_confirmed(confirmation: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    judged = [row for row in confirmation if row["chosen"]]
    confirmed = [row for row in judged if row["verdict"].startswith("confirmed")]
    matched = [row["source"] for row in confirmed if (gain := row.get("over_ensemble")) is not None and gain <= 0]
    yield (
        f"On the test patients, which no choice had seen, {len(confirmed)} of {len(judged)} chosen combinations "
        f"were confirmed{': ' + listed([row['source'] for row in confirmed]) if confirmed else ''}."
        + (f" For {listed(matched)} an ensemble of single-task models does as well or better." if matched else "")
    )


def may_not(
    result: TimResult,
    tasks: Mapping[str, Task],
    overlaps: Sequence[tuple[str, str]],
    status: Mapping[str, Any],
    verdicts: Sequence[Verdict] = (),
    dropped: Sequence[str] = (),
    confirmation: Sequence[Mapping[str, Any]] = (),
) -> list[str]:
    """What may not be concluded. `status` is that of the search, `dropped` the input columns left out for all tasks."""
    return [
        *_about_what_is_waiting(status),
        *_about_the_score(result),
        *_about_blocks(result),
        *(() if confirmation else _about_choosing(verdicts)),
        *_about_overlaps(result, overlaps),
        *_about_too_few_subsets(result),
        *_about_the_control(result),
        *_about_failures(status),
        *_about_dropped_columns(dropped),
        *_about_silhouettes(tasks.values()),
        f"The scores say how joint training changed this network ({status['network']}) on this cohort "
        f"({status['cohort']}), with these settings. They are no statement about causes, and none about "
        "other hospitals.",
    ]


def _about_what_is_waiting(status: Mapping[str, Any]) -> Iterator[str]:
    if not status["finished"]:
        yield (
            f"The search is not finished ({counted(status['waiting'], 'training')} waiting); "
            "everything here may still change."
        )


def _about_the_score(result: TimResult) -> Iterator[str]:
    m = len(result.tasks)
    if result.method == "restricted":
        yield (
            f"The scores average over models of at most {result.size} tasks. They say nothing about larger models; for "
            "those an effect can have another size and even another sign."
        )
    elif result.size is not None:
        yield (
            f"The scores are for models of at most {result.size} tasks, estimated by a model from larger ones too; "
            "they were not tested, so none of them is a discovery."
        )
    elif result.method != "exact":
        yield (
            f"The scores are estimated from {result.n_subsets:,} of {_subsets(m)} subsets; for a single untrained "
            "subset they give an expectation, not a measurement."
        )
    elif m > 2:  # else there are no other tasks to average over
        yield (
            f"The scores average over all {2 ** (m - 2)} choices of the other tasks, so most of them speak of models "
            f"of about {round(m / 2)} tasks. An effect in one particular combination can differ; the combinations are "
            "listed by source."
        )


def _about_blocks(result: TimResult) -> Iterator[str]:
    n = len(result.blocks)
    seeds, folds = ({block[place] for block in result.blocks} for place in (0, 1))
    if n == 1:
        yield (
            "Everything was trained with one seed and judged on one fold, so how much of it is the luck of that seed "
            "is not known, and the intervals leave it out."
        )
    elif n and len(seeds) < n:
        yield f"There are only {len(seeds)} different seeds, so the intervals hold too little of a seed's luck."
    if len(folds) == 1 and n > 1:
        yield (
            f"All {n} trainings of a subset were judged on the same validation patients; other "
            "patients can give another answer, by as much as the patients' part of the intervals says."
        )


def _about_choosing(verdicts: Sequence[Verdict]) -> Iterator[str]:
    if _compared(verdicts):
        yield (
            "Combinations were chosen and measured on the same validation scores, so their gains are too large on "
            "average. The test patients were not used; nothing here is confirmed on them."
        )
    else:
        yield "The test patients were not used; nothing here is confirmed on them."


def _about_overlaps(result: TimResult, overlaps: Sequence[tuple[str, str]]) -> Iterator[str]:
    shown = [pair for pair in overlaps if set(pair) <= set(result.tasks)]
    if shown:
        pairs = "1 pair of tasks has" if len(shown) == 1 else f"{len(shown)} pairs of tasks have"
        yield (
            f"{pairs} nested or near-identical targets ({_first([' and '.join(pair) for pair in shown])}). Where they "
            "help each other, that is their definition and no transfer; their cells are hatched and no discoveries."
        )


def _about_too_few_subsets(result: TimResult) -> Iterator[str]:
    m = len(result.tasks)
    sampled = result.size is None and result.method not in ("exact", "restricted")
    if sampled and np.isfinite(result.estimate).any() and not np.isfinite(result.p_value).any():
        enough = f"about {2 * (m + 4):,} subsets" if 2 * (m + 4) < 2**m - 1 else "all subsets (design: exact)"
        yield (
            f"No effect was tested. Each task needs {m + 4} subsets (tasks + 4) that score it, and a subset of a "
            f"sample scores half of the tasks: train {enough}."
        )


def _about_the_control(result: TimResult) -> Iterator[str]:
    if result.control in result.tasks:
        c = result.tasks.index(str(result.control))
        column = np.delete(result.estimate[:, c], c)
        if np.isfinite(column).any():
            yield (
                f"The negative control {result.control}, from which nothing can be learnt, seems to change other tasks "
                f"by up to {np.nanmax(abs(column)):.3f}. Effects no larger than that are no findings."
            )


def _about_failures(status: Mapping[str, Any]) -> Iterator[str]:
    if status["failed"]:
        yield (
            f"{status['failed']} of {status['trained']} trainings failed and are left out; where they have something "
            "in common, the rest is no fair sample."
        )


def _about_dropped_columns(dropped: Sequence[str]) -> Iterator[str]:
    if dropped:
        yield (
            f"All models do without {len(dropped)} input columns that some task excludes ({some(dropped)}), so scores "
            "can be lower than those of a model that needs not do without them."
        )


def _about_silhouettes(tasks: Iterable[Task]) -> Iterator[str]:
    names = [task.name for task in tasks if task.metric == "silhouette"]
    if names:
        yield (
            f"A higher silhouette of {listed(names)} need not mean better groups: it also rises when the latent keeps "
            "fewer directions."
        )


def _first(names: Sequence[str]) -> str:
    """The first of them, and how many more there are."""
    return "; ".join([*names[:_NAMED], *([f"and {len(names) - _NAMED} more"] if len(names) > _NAMED else [])])


def _compared(verdicts: Sequence[Verdict]) -> list[Verdict]:
    """The sources of which combinations were compared to the end, with an answer."""
    return [verdict for verdict in verdicts if verdict.kind != "unclear" and math.isfinite(verdict.gain)]


def _clearest(result: TimResult, discoveries: Any, tasks: Mapping[str, Task], sign: int) -> str:
    """The largest discovery of a sign. Sizes of different metrics do not compare, so it is that of most errors."""
    with np.errstate(divide="ignore", invalid="ignore"):
        strength = np.where(discoveries & (sign * result.estimate > 0), abs(result.estimate) / result.se, -np.inf)
    i, j = np.unravel_index(int(np.nanargmax(strength)), strength.shape)
    source, task = result.tasks[i], result.tasks[j]
    verb = "raises" if sign > 0 else "lowers"
    low, high = result.low[i, j], result.high[i, j]
    span = f" ({result.confidence:.0%} interval {signed(low, 3)} to {signed(high, 3)})" if np.isfinite(low) else ""
    where = "over all ways to choose the other tasks" if result.size is None else f"in models of at most {result.size}"
    kind = "help" if sign > 0 else "harm"
    return (
        f"The clearest {kind}: training with {task} {verb} the {_metric(tasks, source)} of {source} by "
        f"{abs(result.estimate[i, j]):.3f} on average {where}{span}."
    )


def _typical_half_width(result: TimResult, cells: Any, tasks: Mapping[str, Task]) -> str:
    half = np.where(cells, (result.high - result.low) / 2, np.nan)
    parts = []
    for metric in dict.fromkeys(tasks[name].metric for name in result.tasks if name in tasks):
        rows = [i for i, name in enumerate(result.tasks) if name in tasks and tasks[name].metric == metric]
        values = half[rows]
        if np.isfinite(values).any():
            parts.append(f"{np.nanmedian(values):.3f} {METRIC_WORDS.get(metric, metric)}")
    return f"the intervals typically reach {listed(parts)} to either side." if parts else ""


def _subsets(m: int) -> str:
    """2^M - 1, in digits where they can be read."""
    return f"{2**m - 1:,}" if m <= 40 else f"2^{m} - 1"


def _metric(tasks: Mapping[str, Task], name: str) -> str:
    metric = tasks[name].metric if name in tasks else "score"
    return METRIC_WORDS.get(metric, metric)


def signed(value: float | None, digits: int = 4) -> str:
    """With its sign and so many decimals; "" where it is unknown."""
    return "" if value is None or not math.isfinite(value) else f"{value:+.{digits}f}".replace("-", "\N{MINUS SIGN}")


def listed(names: Sequence[str], last: str = "and") -> str:
    """`a, b and c`."""
    return f" {last} ".join(filter(None, [", ".join(names[:-1]), names[-1]])) if names else ""
