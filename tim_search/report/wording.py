"""What may and what may not be concluded from a search, in plain words for readers who were not there.

Every sentence is made from what this search holds: its label, blocks, discoveries, controls, overlaps, failures and
confirmations. A sentence that does not apply is left out, and none is there because it usually applies.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tim_search.plans.expansion import Expansion
from tim_search.tim.scores import TimResult
from tim_search.types import METRIC_WORDS, Task, some

#: Pairs of tasks, and combinations, that are named one by one.
_PAIRS = 6


def may(
    result: TimResult,
    tasks: Mapping[str, Task],
    overlaps: Sequence[tuple[str, str]],
    expansions: Sequence[Expansion],
    confirmation: Sequence[Mapping[str, Any]] = (),
) -> list[str]:
    """What may be concluded. `expansions` are those of the rule that asks for certainty."""
    m = len(result.tasks)
    cells = ~np.eye(m, dtype=bool) & np.isfinite(result.estimate)
    for one, other in overlaps:
        if one in result.tasks and other in result.tasks:
            i, j = result.tasks.index(one), result.tasks.index(other)
            cells[i, j] = cells[j, i] = False
    if result.control in result.tasks:
        c = result.tasks.index(str(result.control))
        cells[c, :] = cells[:, c] = False
    found = result.rejected & cells
    helps, harms = int((found & (result.estimate > 0)).sum()), int((found & (result.estimate < 0)).sum())
    lines = []
    tested = int((cells & np.isfinite(result.p_value)).sum())
    rate = f"{result.fdr:.0%}"
    if helps + harms:
        parts = [f"{helps} help"] * bool(helps) + [f"{harms} harm"] * bool(harms)
        lines.append(
            f"Of {tested} effects of one task on another that were tested, {helps + harms} stand at a false discovery "
            f"rate of {rate} ({' and '.join(parts)}): on average no more than one in "
            f"{round(1 / result.fdr)} of such findings is luck."
        )
        lines += [
            _largest(result, found, tasks, sign) for sign in (1, -1) if (found & (sign * result.estimate > 0)).any()
        ]
    elif tested and len({seed for seed, _ in result.blocks}) == 1:
        lines.append(
            f"None of {tested} effects of one task on another can be told from the luck of the one seed there is."
        )
    elif tested:
        typical = _typical_half_width(result, cells, tasks)
        lines.append(
            f"None of {tested} effects of one task on another stands at a false discovery rate of {rate}. That does "
            f"not mean that there are none{': ' + typical if typical else '.'}"
        )
    whole = _compared(expansions)
    better = [one for one in whole if one.holds]
    if better:
        names = "; ".join(
            f"{one.source} with {_joined([name for name in one.best if name != one.source])} "
            f"({_signed(one.gain)} {_metric(tasks, one.source)})"
            for one in better[:_PAIRS]
        )
        names += f"; and {len(better) - _PAIRS} more" if len(better) > _PAIRS else ""
        lines.append(
            f"For {len(better)} of {len(whole)} source tasks a small combination scores higher than the task alone, "
            f"with the whole interval above zero: {names}."
        )
    elif whole:
        lines.append(
            f"For none of the {len(whole)} source tasks whose combinations were trained is one shown to be better than "
            "the task alone: the plain single-task model is a sound choice for each of them."
        )
    if confirmation:
        judged = [row for row in confirmation if row["chosen"]]
        held = [row["source"] for row in judged if row["rejected"] and (row["difference"] or 0) > 0]
        over = {row["source"]: row.get("over_ensemble") for row in judged}
        matched = [name for name in held if (gain := over[name]) is not None and gain <= 0]
        lines.append(
            f"On the test patients, which no choice had seen, {len(held)} of {len(judged)} chosen combinations "
            f"were confirmed{': ' + _joined(held) if held else ''}."
            + (f" For {_joined(matched)} an ensemble of single-task models does as well or better." if matched else "")
        )
    return lines


def may_not(
    result: TimResult,
    tasks: Mapping[str, Task],
    overlaps: Sequence[tuple[str, str]],
    status: Mapping[str, Any],
    expansions: Sequence[Expansion] = (),
    dropped: Sequence[str] = (),
    confirmation: Sequence[Mapping[str, Any]] = (),
) -> list[str]:
    """What may not be concluded. `status` is that of the search, `dropped` the input columns left out for all tasks."""
    m, lines = len(result.tasks), []
    if not status["finished"]:
        lines.append(
            f"The search is not finished ({status['waiting']} trainings are waiting); everything here may still change."
        )
    if result.method == "restricted":
        lines.append(
            f"The scores average over models of at most {result.size} tasks. They say nothing about larger models; for "
            "those an effect can have another size and even another sign."
        )
    elif result.size is not None:
        lines.append(
            f"The scores are for models of at most {result.size} tasks, estimated by a model from larger ones too; "
            "they were not tested, so none of them is a discovery."
        )
    elif result.method == "exact" and m <= 2:
        pass  # there are no other tasks to average over
    elif result.method == "exact":
        lines.append(
            f"The scores average over all {2 ** (m - 2)} choices of the other tasks, so most of them speak of models "
            f"of about {round(m / 2)} tasks. An effect in one particular combination can differ; the combinations are "
            "listed by source."
        )
    else:
        lines.append(
            f"The scores are estimated from {result.n_subsets:,} of {_subsets(m)} subsets; for a single untrained "
            "subset they give an expectation, not a measurement."
        )
    seeds = {seed for seed, _ in result.blocks}
    if len(result.blocks) == 1:
        lines.append(
            "Everything was trained with one seed and judged on one fold, so how much of it is the luck of that seed "
            "is not known, and the intervals leave it out."
        )
    elif result.blocks and len(seeds) < len(result.blocks):
        lines.append(f"There are only {len(seeds)} different seeds, so the intervals hold too little of a seed's luck.")
    folds = {fold for _, fold in result.blocks}
    if len(folds) == 1 and len(result.blocks) > 1:
        lines.append(
            f"All {len(result.blocks)} trainings of a subset were judged on the same validation patients; other "
            "patients can give another answer, by as much as the patients' part of the intervals says."
        )
    if not confirmation and _compared(expansions):
        lines.append(
            "Combinations were chosen and measured on the same validation scores, so their gains are too large on "
            "average. The test patients were not used; nothing here is confirmed on them."
        )
    elif not confirmation:
        lines.append("The test patients were not used; nothing here is confirmed on them.")
    shown = [pair for pair in overlaps if set(pair) <= set(result.tasks)]
    if shown:
        names = "; ".join(" and ".join(pair) for pair in shown[:_PAIRS])
        names += f"; and {len(shown) - _PAIRS} more" if len(shown) > _PAIRS else ""
        pairs = "1 pair of tasks has" if len(shown) == 1 else f"{len(shown)} pairs of tasks have"
        lines.append(
            f"{pairs} nested or near-identical targets ({names}). Where they help each other, that is their "
            "definition and no transfer; their cells are hatched and no discoveries."
        )
    sampled = result.size is None and result.method not in ("exact", "restricted")
    if sampled and np.isfinite(result.estimate).any() and not np.isfinite(result.p_value).any():
        enough = f"about {2 * (m + 4):,} subsets" if 2 * (m + 4) < 2**m - 1 else "all subsets (design: exact)"
        lines.append(
            f"No effect was tested. Each task needs {m + 4} subsets (tasks + 4) that score it, and a subset of a "
            f"sample scores half of the tasks: train {enough}."
        )
    if result.control in result.tasks:
        c = result.tasks.index(str(result.control))
        column = np.delete(result.estimate[:, c], c)
        if np.isfinite(column).any():
            lines.append(
                f"The negative control {result.control}, from which nothing can be learnt, seems to change other tasks "
                f"by up to {np.nanmax(abs(column)):.3f}. Effects no larger than that are no findings."
            )
    if status["failed"]:
        lines.append(
            f"{status['failed']} of {status['trained']} trainings failed and are left out; where they have something "
            "in common, the rest is no fair sample."
        )
    if dropped:
        lines.append(
            f"All models do without {len(dropped)} input columns that some task excludes ({some(dropped)}), so scores "
            "can be lower than those of a model that needs not do without them."
        )
    if any(task.metric == "silhouette" for task in tasks.values()):
        names = _joined([task.name for task in tasks.values() if task.metric == "silhouette"])
        lines.append(
            f"A higher silhouette of {names} need not mean better groups: it also rises when the latent keeps fewer "
            "directions."
        )
    lines.append(
        f"The scores say how joint training changed this network ({status['network']}) on this cohort "
        f"({status['cohort']}), with these settings. They are no statement about causes, and none about "
        "other hospitals."
    )
    return lines


def _compared(expansions: Sequence[Expansion]) -> list[Expansion]:
    """The sources whose search has come to its end and looked at a combination; a task by itself has none."""
    return [one for one in expansions if one.complete and one.leader]


def _largest(result: TimResult, found: Any, tasks: Mapping[str, Task], sign: int) -> str:
    """The largest discovery of a sign. Sizes of different metrics do not compare, so it is that of most errors."""
    with np.errstate(divide="ignore", invalid="ignore"):
        strength = np.where(found & (sign * result.estimate > 0), abs(result.estimate) / result.se, -np.inf)
    i, j = np.unravel_index(int(np.nanargmax(strength)), strength.shape)
    source, task = result.tasks[i], result.tasks[j]
    verb = "raises" if sign > 0 else "lowers"
    low, high = result.low[i, j], result.high[i, j]
    span = f" ({result.confidence:.0%} interval {_signed(low)} to {_signed(high)})" if np.isfinite(low) else ""
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
    return f"the intervals typically reach {_joined(parts)} to either side." if parts else ""


def _subsets(m: int) -> str:
    """2^M - 1, in digits where they can be read."""
    return f"{2**m - 1:,}" if m <= 40 else f"2^{m} - 1"


def _metric(tasks: Mapping[str, Task], name: str) -> str:
    metric = tasks[name].metric if name in tasks else "score"
    return METRIC_WORDS.get(metric, metric)


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", "\N{MINUS SIGN}")


def _joined(names: Sequence[str], last: str = "and") -> str:
    return f" {last} ".join(filter(None, [", ".join(names[:-1]), names[-1]])) if names else ""
