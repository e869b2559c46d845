"""What the reader of a confirmation must know, in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from tim_search.results import readings
from tim_search.results.confirmation.asked import Asked
from tim_search.results.confirmation.confirmed import FDR, Confirmed, only_in_the_log


def caveats(
    asked: Asked,
    sources: Sequence[Confirmed],
    log: Sequence[Mapping[str, object]],
    overlaps: Sequence[tuple[str, str]],
) -> list[str]:
    """What the reader of a confirmation must know, in words; `log` is that of the test readings."""
    return [*_about_comparisons(asked, log), *_about_readings(asked, log), *_about_targets(sources, overlaps)]


def _about_comparisons(asked: Asked, log: Sequence[Mapping[str, object]]) -> Iterator[str]:
    by = f"chosen on validation patients by the rule {asked.rule.replace('_', ' ')}"
    by = "named by the user" if asked.rule == "given" else by
    seeds = f"{len(asked.seeds)} fresh seed{'s' * (len(asked.seeds) != 1)}"
    count = len(asked.chosen)
    earlier = frozenset().union(*(before.comparisons for before in asked.earlier)) - asked.comparisons
    forgotten = only_in_the_log(asked, log)
    others = len(earlier) + len(forgotten)
    beside = f" and {others} comparison{'s' * (others != 1)} of earlier confirmations" if others else ""
    yield (
        f"{count} combination{'s' * (count != 1)} {by}; discoveries at a false discovery rate of {FDR:.0%} "
        f"over these sources{beside}. Intervals: 95 %, over test patients and {seeds}; each speaks of its one "
        "comparison."
    )
    if others:
        yield (
            "All comparisons on the same test patients are judged together: those of earlier confirmations are judged "
            "anew, and may read otherwise than before."
        )
    if forgotten:
        yield (
            f"{len(forgotten)} of the earlier comparisons {'is' if len(forgotten) == 1 else 'are'} known from "
            f"{readings.FILE} alone and count{'s' * (len(forgotten) == 1)} as nothing found."
        )


def _about_readings(asked: Asked, log: Sequence[Mapping[str, object]]) -> Iterator[str]:
    if len(asked.seeds) < 3:
        yield "With fewer than three seeds an interval says next to nothing of what a training owes to its seed."
    if len(log) > 1:
        yield (
            f"The test patients have been read {len(log)} times ({readings.FILE}). Whoever chooses after looking "
            "turns them into validation patients."
        )


def _about_targets(sources: Sequence[Confirmed], overlaps: Sequence[tuple[str, str]]) -> Iterator[str]:
    tested = [source for source in sources if source.chosen]
    if any(source.metric == "silhouette" for source in tested):
        yield (
            "A silhouette also rises when the latent keeps fewer directions: compare effective_rank and "
            "reconstruction_r2 in the ledger before a gain is read as better groups."
        )
    pairs = {*overlaps, *(pair[::-1] for pair in overlaps)}
    near = [
        f"{source.source} with {other}"
        for source in tested
        for other in source.chosen
        if (source.source, other) in pairs
    ]
    if near:
        yield f"Overlapping targets, whose gain is no transfer: {', '.join(near)}."
