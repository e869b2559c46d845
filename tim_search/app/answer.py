"""What a search says of its tasks, as MLflow's run of the search shows it: a description, verdicts and scores."""

from __future__ import annotations

from typing import Any

import numpy as np

from tim_search.gates.plain import plain
from tim_search.results.opened import SearchResults
from tim_search.results.training_length import training_length
from tim_search.results.verdicts import verdicts
from tim_search.types import Subset, subset

#: Source tasks that the description names one by one.
_MOST = 50


def description(results: SearchResults) -> str:
    """The verdicts in words, as Markdown: what has not learnt first."""
    lines = []
    if results.not_learnt:
        have = "has" if len(results.not_learnt) == 1 else "have"
        lines.append(
            f"**{len(results.not_learnt)} of {len(results.learnt)} networks {have} not learnt** "
            f"({', '.join(results.not_learnt[:_MOST])}): nothing may be read from their rows."
        )
    sentences = [f"- {verdict.sentence}" for verdict in verdicts(results).values()]
    lines.append("\n".join(sentences[:_MOST]))
    if len(sentences) > _MOST:
        lines.append(f"{len(sentences) - _MOST} more are in verdicts.json.")
    lines.append(f"Length of each training: {training_length(results)}.")
    return "\n\n".join(filter(None, lines))


def values(results: SearchResults) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """(rows of the verdicts, scores by metric).

    Scores are means over the blocks on validation patients: alone.TASK, best.TASK (with what the verdict advises, which
    may be the task alone), reference.NAME.TASK. gain.TASK is the number of the verdict, where it speaks of a
    combination.
    """
    scores: dict[str, float] = {}
    by_source = verdicts(results)
    for name in results.tasks:
        scores[f"alone.{name}"] = _mean(results, (name,), name)
    for name, verdict in by_source.items():
        scores[f"best.{name}"] = _mean(results, verdict.advised, name)
        if verdict.combination != (name,):
            scores[f"gain.{name}"] = verdict.gain
    for name, judged in results.learnt.items():
        for reference, score in judged.references.items():
            scores[f"reference.{reference}.{name}"] = score
    return [plain(verdict.record()) for verdict in by_source.values()], scores


def _mean(results: SearchResults, members: Subset, task: str) -> float:
    """Mean score of a task in a subset over the blocks; NaN where it was not trained."""
    table = results.table
    row = table.rows.get(subset(members))
    if row is None:
        return float("nan")
    scores = table.scores[row, :, table.tasks.index(task)]
    return float(scores[np.isfinite(scores)].mean()) if np.isfinite(scores).any() else float("nan")
