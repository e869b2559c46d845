"""The answer: one verdict a source, and of the networks that have not learnt what may help them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from tim_search.gates.plain import number
from tim_search.results.opened import SearchResults
from tim_search.results.training_length import TrainingLength, training_length
from tim_search.results.verdicts import Verdict
from tim_search.types import METRIC_WORDS


def verdicts(by_source: Mapping[str, Verdict]) -> list[dict[str, Any]]:
    """One sentence a source, in the order of the search, with the kind of its verdict."""
    return [
        {
            "source": name,
            "kind": verdict.kind,
            "words": verdict.words,
            "sentence": verdict.sentence.removeprefix(f"{name}: "),
        }
        for name, verdict in by_source.items()
    ]


def references(results: SearchResults) -> dict[str, Any] | None:
    """Each task alone beside the reference models, and what to change where a network has not learnt.

    None for a search without references. Scores are means over the blocks, on the same patients.
    """
    learnt = results.learnt
    if not learnt:
        return None
    shown = dict.fromkeys(reference for judged in learnt.values() for reference in judged.references)
    length = training_length(results)
    return {
        "names": list(shown),
        "rows": [
            {
                "task": name,
                "metric": METRIC_WORDS.get(results.tasks[name].metric, results.tasks[name].metric),
                "verdict": judged.verdict,
                "alone": number(judged.alone),
                "scores": [number(judged.references.get(reference, math.nan)) for reference in shown],
                "behind": number(judged.behind.value),
                "low": number(judged.behind.low),
                "high": number(judged.behind.high),
                "reason": judged.reason,
            }
            for name, judged in learnt.items()
        ],
        "not_learnt": list(results.not_learnt),
        "length": str(length),
        "advice": _advice(results, length) if results.not_learnt else [],
    }


def _advice(results: SearchResults, length: TrainingLength) -> list[str]:
    """What may help networks that have not learnt, the likeliest first."""
    settings = json.loads(results.manifest.context.settings)
    lines = []
    more = []
    if length.batch_size is not None and length.batch_size > 16:
        more.append(f"batch_size: {max(16, length.batch_size // 4)}")
    if length.epochs is not None:
        more.append(f"epochs: {2 * length.epochs}")
    if more:
        lines.append(
            f"Too few steps are the usual reason; here each training made {length}. Leave `batch_size` "
            f"and `epochs` out of the search file, which chooses them by the rows there are, or try "
            f"`training: {{{', '.join(more)}}}`."
        )
    if isinstance(rate := settings.get("learning_rate"), float):
        lines.append(f"The learning rate is {rate:g}: try one three times as large, and one three times as small.")
    if length.rows is not None:
        lines.append(
            f"About {length.rows:,} rows train a network. Where a linear model learns from them and the network does "
            "not, a smaller network helps (`width`), or more rows."
        )
    lines += [
        "Inputs on odd scales, with many missing values or many levels stand in a network's way before they stand in "
        "that of trees: `tim-search check` names them.",
        "Changed settings are another search: name another output folder, and look at the references first, with "
        "`design: {sized: 1}`, which takes minutes.",
    ]
    return lines
