"""Predictions written as asked: checked before anything is predicted, whole or not at all."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from tim_search.app import prediction
from tim_search.types import BadInput

MODEL: Any = SimpleNamespace(outputs={"dead": "number", "group=a": "number"})


def test_an_id_may_not_be_called_like_a_prediction(tmp_path: Path) -> None:
    prediction.check(MODEL, ["patient"], None, ())
    with pytest.raises(BadInput, match=r"--id: expected a column beside the predictions, got dead.*Rename it"):
        prediction.check(MODEL, ["dead"], tmp_path / "said.csv", ())


def test_rows_are_not_overwritten_by_their_predictions(tmp_path: Path) -> None:
    rows = tmp_path / "rows.csv"
    rows.write_text("age\n1\n")
    with pytest.raises(BadInput, match="is what is read"):
        prediction.check(MODEL, [], rows, (rows, "models:/name/1"))


@pytest.mark.parametrize("name", ["said.csv", "said.PARQUET"])
def test_a_table_is_written_by_its_ending(tmp_path: Path, name: str) -> None:
    frame = pd.DataFrame({"id": ["007", "None"], "dead": [0.5, 0.25]})
    prediction.write_table(frame, tmp_path / name)
    read = (
        pd.read_parquet
        if name.endswith("PARQUET")
        else lambda path: pd.read_csv(path, dtype={"id": str}, na_values=[], keep_default_na=False)
    )
    pd.testing.assert_frame_equal(read(tmp_path / name), frame)
