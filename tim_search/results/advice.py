"""Networks that have not learnt: which they are, why it may be, and what to change."""

from __future__ import annotations

import json

from tim_search.results.opened import SearchResults
from tim_search.results.training_length import training_length
from tim_search.types import some


def advice(results: SearchResults) -> list[str]:
    """Which tasks have not learnt, why it may be and what to change, the likeliest first; [] where all have."""
    if not results.not_learnt:
        return []
    which = (
        f"Not learnt: {some(results.not_learnt)}. Trained alone the network stays behind a plain reference model, so "
        "nothing that other tasks change there is a finding."
    )
    return [which, *remedies(results)]


def remedies(results: SearchResults) -> list[str]:
    """What may help networks that have not learnt, the likeliest first."""
    length, settings = training_length(results), json.loads(results.manifest.context.settings)
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
    if settings.get("contrastive_weight"):
        lines.append(
            "With few rows and many inputs that say nothing, M3H's contrastive term learns the inputs by heart: try "
            "`contrastive_weight: 0`."
        )
    if length.rows is not None:
        lines.append(
            f"About {length.rows:,} rows train a network. Where a linear model learns from them and the network does "
            "not, fewer inputs help, or more rows."
        )
    lines += [
        "Inputs on odd scales, with many missing values or many levels stand in a network's way before they stand in "
        "that of trees: `tim-search check` names them.",
        "Changed settings are another search: name another output folder, and look at the references first, with "
        "`design: {sized: 1}`, which takes minutes.",
    ]
    return lines
