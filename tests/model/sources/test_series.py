"""HAIM's statistics of a series, against a transcription of their definitions and against figures made by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.signal import find_peaks

from model.sources.series import STATISTICS, series_features, statistics
from tests.support import ROOT
from tim_search.types import BadInput


def transcription(values: np.ndarray, zero_row: bool) -> list[float]:
    """The definitions as HAIM states them, in pandas: gaps dropped, a zero row appended, what is undefined filled."""
    series = pd.Series(values)
    if zero_row:
        series = pd.concat([series, pd.Series([0.0])], ignore_index=True)
    series = series.dropna()
    if not len(series):
        return [np.nan] * 11
    change = series.diff()
    with np.errstate(all="ignore"):
        trend = np.polyfit(np.arange(len(series)), series, 1)[0] if len(series) > 1 else 0
    found = [
        series.max(),
        series.min(),
        series.mean(),
        series.var(),
        change.mean(),
        change.abs().mean(),
        change.abs().max(),
        change.abs().sum(),
        series.iloc[-1] - series.iloc[0],
        len(find_peaks(series)[0]),
        trend,
    ]
    return list(pd.Series(found).fillna(0))


@pytest.mark.parametrize("zero_row", [True, False])
def test_equal_to_the_transcription_on_random_series_with_gaps(zero_row: bool) -> None:
    dice = np.random.default_rng(5)
    for n in [0, 1, 2, 3, *dice.integers(4, 60, 60)]:
        series = np.round(dice.normal(3, 2, n), int(dice.integers(0, 3)))  # rounding makes ties and plateaus
        series[dice.random(n) < dice.choice([0.0, 0.3, 1.0], p=[0.3, 0.6, 0.1])] = np.nan
        np.testing.assert_allclose(
            statistics(series, zero_row=zero_row), transcription(series, zero_row), rtol=1e-9, atol=1e-9
        )


def test_by_hand() -> None:
    # Measured: 1, 4, 2, 2. Differences: 3, -2, 0. One peak (4). Line over 0..3: (-1.5 - 2 + 1 + 3) / 5.
    found = dict(zip(STATISTICS, statistics([1, np.nan, 4, 2, 2]), strict=True))
    assert found == pytest.approx(
        {
            "max": 4,
            "min": 1,
            "mean": 2.25,
            "variance": 4.75 / 3,
            "meandiff": 1 / 3,
            "meanabsdiff": 5 / 3,
            "maxdiff": 3,
            "sumabsdiff": 5,
            "diff": 1,
            "npeaks": 1,
            "trend": 0.1,
        }
    )


def test_the_zero_row_makes_the_last_value_zero() -> None:
    with_zero = dict(zip(STATISTICS, statistics([70.0, 80.0], zero_row=True), strict=True))
    assert (with_zero["min"], with_zero["diff"], with_zero["npeaks"]) == (0, -70, 1)
    assert not statistics([], zero_row=True).any()
    assert np.isnan(statistics([np.nan])).all()


def test_a_table_of_series() -> None:
    table = pd.DataFrame(
        {
            "visit": ["b", "a", "b", "a", "b", "c"],
            "hour": [2, 0, 0, 1, 1, 0],
            "pulse": [90.0, 60, 70, 66, 95, np.nan],
            "spo2": [np.nan, 97, 99, 95, np.nan, 93],
        }
    )
    wide = series_features(table, "visit", "hour", ["pulse", "spo2"])
    assert list(wide.columns[:3]) == ["visit", "pulse_max", "pulse_min"]
    assert wide.shape == (3, 1 + 2 * 11)
    assert wide["visit"].tolist() == ["a", "b", "c"]
    np.testing.assert_allclose(wide.iloc[1, 1:12].to_numpy(float), statistics([70, 95, 90]))
    assert wide["pulse_mean"].isna().tolist() == [False, False, True]
    assert wide["spo2_diff"].tolist() == [-2, 0, 0]
    with pytest.raises(BadInput, match="expected the columns when"):
        series_features(table, "visit", "when", ["pulse"])


def test_the_example_of_the_docs_runs() -> None:
    page = (ROOT / "docs" / "your-own-data.md").read_text(encoding="utf-8")
    names: dict[str, Any] = {}
    exec(page.split("```python\n")[1].split("```")[0], names)
    assert names["vitals"]["pulse_mean"].tolist() == [88, 71]
