"""Tables of rows in, predictions out: read as they are written, predicted some rows at a time, written whole."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from tim_search.gates.files import replacing

if TYPE_CHECKING:
    from model.trained.deployed import DeployedModel

#: Rows, and numbers in them, that are predicted at once: a bound on memory.
_ROWS, _NUMBERS = 100_000, 50_000_000


def predict(model: DeployedModel, rows: pd.DataFrame, most_numbers: int = _NUMBERS) -> pd.DataFrame:
    """`DeployedModel.predict`, some rows at a time; the row index becomes a column where it has a name."""
    size = max(1, min(_ROWS, most_numbers // sum(math.prod(block.shape) for block in model.inputs)))
    parts = [model.predict(rows.iloc[start : start + size]) for start in range(0, max(1, len(rows)), size)]
    frame = pd.concat(parts)
    return frame if frame.index.name is None else frame.reset_index()


def write_table(frame: pd.DataFrame, path: Path) -> None:
    """Write predictions as CSV or, by the name's end, Parquet: whole or not at all."""
    with replacing(path, "Name another file with --out.") as aside:
        if path.suffix in (".parquet", ".pq"):
            frame.to_parquet(aside, index=False)
        else:
            frame.to_csv(aside, index=False)
