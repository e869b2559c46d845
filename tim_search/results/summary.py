"""What a finished run tells: of every source task its helpers and its best combination, and what to know beside."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from tim_search.gates.plain import number, plain
from tim_search.plans import expansion
from tim_search.results.advice import advice
from tim_search.results.learnt import rows
from tim_search.results.opened import SearchResults
from tim_search.results.verdicts import verdicts
from tim_search.tim import agreement
from tim_search.tim.result import TimResult
from tim_search.types import BadInput, Task, overlap_mask, parted

_SHOWN = 4  # combinations of settings that are named one by one


def helpers(result: TimResult, source: str, overlaps: Sequence[tuple[str, str]] = ()) -> list[dict[str, Any]]:
    """The other tasks by what they do to a source, best helper first; no control, no tasks without an estimate.

    Each is a dict: task, estimate, low, high (None where unknown), rejected (a discovery), overlaps (flagged pair).
    """
    i = result.tasks.index(source)
    overlapping = overlap_mask(result.tasks, overlaps)
    rows = [
        {
            "task": task,
            "estimate": float(result.estimate[i, j]),
            "low": number(result.low[i, j]),
            "high": number(result.high[i, j]),
            "rejected": bool(result.rejected[i, j]),
            "overlaps": bool(overlapping[i, j]),
        }
        for j, task in enumerate(result.tasks)
        if np.isfinite(result.estimate[i, j]) and task != result.control
    ]
    return sorted(rows, key=lambda row: -float(row["estimate"]))


def report(results: SearchResults, result: TimResult | None = None) -> dict[str, Any]:
    """What a finished run tells: for every source its helpers and its best combination by both rules.

    Keys: search, label; verdicts, one a source (`Verdict.record` with its `sentence`); not_learnt, which tasks have not
    learnt, why and what to change, in words; references, a row a task (`learnt.rows`); notes, stopping (None without a
    stopping rule); sources, a list of dicts: source, metric,
    single_score, helpers, and by rule (paper and lower_bound) a row of `expansion.rows` with `overlapping`, the
    partners whose targets overlap with the source's; sharing, the trainings of the shared expansion and of each source
    alone. `result` is what `results.tim()` gave, where it was asked already.
    """
    result = result or results.tim()
    by_rule = {rule: results.expand(rule) for rule in expansion.RULES}
    by_source = {rule: expansion.rows(expansions) for rule, (expansions, _) in by_rule.items()}
    design_rule = results.greedy().rule
    sharing = by_rule[design_rule][1]
    return {
        "search": results.manifest.name,
        "label": result.label,
        **answers(results),
        "notes": [
            *result.notes,
            *_about_pairs(results, result),
            *_about_tuning(results),
            *_about_silhouettes(results.tasks.values()),
        ],
        "stopping": results.stopping(),
        "sources": [
            {
                "source": paper["source"],
                "metric": results.tasks[paper["source"]].metric,
                "single_score": number(paper["single_score"]),
                "helpers": helpers(result, paper["source"], results.manifest.overlaps),
                "paper": _flagged(paper, results.manifest.overlaps),
                "lower_bound": _flagged(lower, results.manifest.overlaps),
            }
            for paper, lower in zip(by_source["paper"], by_source["lower_bound"], strict=True)
        ],
        "sharing": {"shared": sharing.shared, "alone": sharing.total_alone, "saved": sharing.saved},
    }


def answers(results: SearchResults) -> dict[str, Any]:
    """What every answer begins with: verdicts, not_learnt and references (see `report`)."""
    return {
        "verdicts": [
            {**plain(verdict.record()), "sentence": verdict.sentence} for verdict in verdicts(results).values()
        ],
        "not_learnt": advice(results),
        "references": plain(rows(results.learnt)),
    }


def _about_pairs(results: SearchResults, full: TimResult) -> list[str]:
    """How far the pairwise picture and the full scores part, where every pair was trained too."""
    if full.size is not None or full.method == "restricted" or len(full.tasks) < 3:
        return []
    try:
        pairs = results.tim("restricted", size=2)
    except BadInput:  # not all pairs were trained
        return []
    both = np.isfinite(full.estimate) & np.isfinite(pairs.estimate) & ~np.eye(len(full.tasks), dtype=bool)
    if not both.any():
        return []
    signs = float((np.sign(full.estimate) == np.sign(pairs.estimate))[both].mean())
    ranks = agreement.rank_agreement(full.estimate, pairs.estimate).mean
    order = f", and rank the tasks of a row alike with a correlation of {ranks:+.2f}" if math.isfinite(ranks) else ""
    return [
        f"Pairs alone are another quantity: their scores (|T| <= 2) agree with the full ones in {signs:.0%} of the "
        f"signs{order} (mean over the sources)."
    ]


def _about_tuning(results: SearchResults) -> list[str]:
    """Which settings were chosen, and how sure the choices are, where every subset has its own."""
    records = results.tuning()
    if not records:
        return []
    chosen = Counter(", ".join(f"{name} {value}" for name, value in record["choice"].items()) for record in records)
    same = sum(all(choice == record["choice"] for choice in record["by_block"]) for record in records)
    shares = "; ".join(f"{words} for {count}" for words, count in chosen.most_common(_SHOWN))
    more = f"; others for {sum(chosen.values()) - sum(count for _, count in chosen.most_common(_SHOWN))}"
    alike = (
        "for every one of them all folds chose alike"
        if same == len(records)
        else f"for {same} of them all folds chose alike, for the others several settings are about as good"
    )
    return [f"Best settings of the {len(records)} subsets: {shares}{more if len(chosen) > _SHOWN else ''}; {alike}."]


def _about_silhouettes(tasks: Iterable[Task]) -> list[str]:
    names = ", ".join(task.name for task in tasks if task.metric == "silhouette")
    if not names:
        return []
    return [
        f"A silhouette ({names}) also rises when the latent keeps fewer directions. Before a gain is read as better "
        "groups, compare effective_rank and reconstruction_r2 in the ledger."
    ]


def _flagged(row: Mapping[str, Any], overlaps: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """An expansion's row, with the tasks of its best combination whose targets overlap with the source's."""
    names = [other for pair in overlaps if row["source"] in pair for other in pair if other != row["source"]]
    return {**plain(row), "overlapping": sorted(set(names).intersection(parted(row["best"])))}
