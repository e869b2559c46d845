"""The model card: what a trained combination is, for whom, how it was judged and what nobody checked. Facts only.

The text stands in card.md, a jinja2 template.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from tim_search.gates import small_cells
from tim_search.gates.texts import for_terminal

#: Counts below this are not told exactly: they would speak of single patients.
FEWEST = 5


def write(facts: Mapping[str, Any], scores: Sequence[Mapping[str, Any]], inputs: Sequence[Mapping[str, Any]]) -> str:
    """The card as Markdown.

    Args:
        facts: source, subset, reason, overlaps, search, network, settings, created, versions, readings; cohort (its
            name), fingerprint, split; seeds; training: rows, patients, labels by task, samples present by modality, and
            how many of the rows chose the epoch (`stopping`); `extended`: tasks that were added afterwards, if any;
            `elsewhere`: rows of `results.external.External` with the cohort's name, if any.
        scores: task, metric, value, sd, low, high, rows and why, by task.
        inputs: name, kind, shape of a row, columns, and levels by column, of each modality (`deployed.Inputs`).
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=False,  # Markdown, not HTML
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "cell": lambda text: for_terminal(text).replace("|", "\\|"),
        "count": _count,
        "grouped": small_cells.grouped,
        "named": _named,
        "score": lambda value: "unknown" if value is None else f"{value:.3f}",
    }
    return environment.get_template("card.md").render(
        {"extended": (), "verdict_words": "", "references": (), "elsewhere": (), **facts},
        scores=scores,
        inputs=inputs,
        stopping=facts["training"].get("stopping", 0),
        nested=any(modality["kind"] != "vector" for modality in inputs),
    )


def _named(names: Sequence[str]) -> str:
    quoted = [f"`{name}`" for name in names]
    return " and ".join(filter(None, [", ".join(quoted[:-1]), quoted[-1]]))


def _count(number: small_cells.Count) -> str:
    return f"fewer than {FEWEST}" if isinstance(number, int) and 0 < number < FEWEST else small_cells.grouped(number)
