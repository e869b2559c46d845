"""Predictions for a table of rows: some rows at a time, written whole."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from tim_search.app.outputs import check_output
from tim_search.gates.files import replacing
from tim_search.gates.texts import for_terminal
from tim_search.types import BadInput

if TYPE_CHECKING:
    from model.trained.deployed import DeployedModel

#: Rows, and numbers in them, that are predicted at once: a bound on memory.
_ROWS, _NUMBERS = 100_000, 50_000_000
#: Endings of names of tables.
_ENDINGS = (".csv", ".parquet", ".pq")


def check(model: DeployedModel, ids: Iterable[str], out: Path | None, inputs: Iterable[str | Path]) -> None:
    """Raise BadInput where predictions cannot be written as asked, before anything is predicted.

    Args:
        ids: the columns that name the rows; none may be called like a prediction.
        out: the table to write; None writes none.
        inputs: what is read.
    """
    for name in ids:
        if name in model.outputs:
            raise BadInput(
                f"--id: expected a column beside the predictions, got {for_terminal(name)}, which is one of them. "
                "Rename it in the table."
            )
    if out is not None:
        check_output(out, inputs, _ENDINGS)


def predict(
    model: DeployedModel, rows: pd.DataFrame, most_numbers: int = _NUMBERS, *, ignore_extra: bool = False
) -> pd.DataFrame:
    """`DeployedModel.predict`, some rows at a time; an index that has names becomes columns."""
    size = max(1, min(_ROWS, most_numbers // sum(math.prod(block.shape) for block in model.inputs)))
    starts = range(0, max(1, len(rows)), size)
    parts = [model.predict(rows.iloc[start : start + size], ignore_extra=ignore_extra) for start in starts]
    frame = pd.concat(parts)
    return frame if frame.index.names == [None] else frame.reset_index()


def write_table(frame: pd.DataFrame, path: Path) -> None:
    """Write predictions as CSV or, by the name's end, Parquet: whole or not at all; raises BadInput where it cannot."""
    with replacing(path, "Name another file with --out.") as aside:
        if path.suffix.lower() in (".parquet", ".pq"):
            frame.to_parquet(aside, index=False)
        else:
            frame.to_csv(aside, index=False)
