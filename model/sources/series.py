"""The statistics HAIM makes of a time series, for series of your own.

HAIM-MIMIC-MM describes each signal of a patient (a vital sign, a laboratory value, a procedure) by eleven numbers of
the values measured before the moment of prediction (Soenksen et al., npj Digit Med 2022;5:149). `statistics` computes
them for one series, `series_features` for a table of many.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.signal import find_peaks

from tim_search.types import BadInput

#: The statistics, in HAIM's order.
STATISTICS = (
    "max",
    "min",
    "mean",
    "variance",
    "meandiff",
    "meanabsdiff",
    "maxdiff",
    "sumabsdiff",
    "diff",
    "npeaks",
    "trend",
)


def statistics(values: ArrayLike, *, zero_row: bool = False) -> NDArray[np.float64]:
    """The eleven statistics of one series.

    Gaps (NaN) are taken out first, so that a difference is one between neighbours that were measured. In order:
    largest, smallest and mean value; variance (n - 1); mean and mean absolute difference of neighbours; largest and
    summed absolute difference; last minus first value; number of peaks (larger than both neighbours; a plateau counts
    once, the ends never); slope of the least-squares line over 0, 1, ..., n - 1.

    Args:
        values: (n,) in order of time; NaN = not measured.
        zero_row: append a zero to the series, as HAIM does with every one. The last value is then always 0, the
            smallest at most 0, and a series without a measurement is all zeros. For values comparable with
            HAIM-MIMIC-MM only: it makes the statistics of a constant series depend on its level.

    Returns:
        float64 (11,). What a single value does not have (variance, differences, slope) is 0, as in HAIM; without any
        measurement and without `zero_row` all are NaN.
    """
    series = np.asarray(values, np.float64)
    series = series[~np.isnan(series)]
    if zero_row:
        series = np.append(series, 0.0)
    if not len(series):
        return np.full(len(STATISTICS), np.nan)
    steps = np.diff(series)
    sizes = np.abs(steps)
    several = len(series) > 1
    place = np.arange(len(series)) - (len(series) - 1) / 2
    return np.array(
        [
            series.max(),
            series.min(),
            series.mean(),
            series.var(ddof=1) if several else 0.0,
            steps.mean() if several else 0.0,
            sizes.mean() if several else 0.0,
            sizes.max() if several else 0.0,
            sizes.sum(),
            series[-1] - series[0],
            len(find_peaks(series)[0]),
            place @ series / (place @ place) if several else 0.0,
        ]
    )


def series_features(
    table: pd.DataFrame, sample: str, time: str, signals: Sequence[str], *, zero_row: bool = False
) -> pd.DataFrame:
    """Statistics of the series in a long table, as a wide one: a vector modality from a sequence.

    Args:
        table: a row a sample and time, in any order; a column a signal, NaN = not measured. Leave out what was
            measured after the moment of prediction.
        sample: column with the sample's id.
        time: column to sort by within a sample.
        signals: columns with numbers.
        zero_row: see `statistics`.

    Returns:
        a row a sample that occurs in the table, sorted by id: the id, then `SIGNAL_STATISTIC` for each signal and
        each of `STATISTICS`.

    Raises:
        BadInput: the table lacks a column.
    """
    lacking = [name for name in (sample, time, *signals) if name not in table.columns]
    if lacking:
        raise BadInput(
            f"series: expected the columns {', '.join(lacking)}, which the table does not have. It has: "
            f"{', '.join(map(str, table.columns))}. Name columns of the table."
        )
    ordered = table.sort_values([sample, time], kind="stable")
    ids, starts = np.unique(ordered[sample].to_numpy(), return_index=True)
    values = ordered[list(signals)].to_numpy(np.float64)
    rows = np.array(
        [[statistics(column, zero_row=zero_row) for column in part.T] for part in np.split(values, starts[1:])]
    )
    names = [f"{signal}_{name}" for signal in signals for name in STATISTICS]
    wide = pd.DataFrame(rows.reshape(len(ids), len(names)), columns=names)
    wide.insert(0, sample, ids)
    return wide
