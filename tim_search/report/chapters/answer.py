"""The answer: one verdict a source, and of the networks that have not learnt what may help them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from tim_search.gates.plain import number
from tim_search.results.advice import remedies
from tim_search.results.opened import SearchResults
from tim_search.results.training_length import training_length
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
        "advice": remedies(results) if results.not_learnt else [],
    }
