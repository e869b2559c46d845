"""What is made of events: each number against one computed by hand from the events of a sample."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from model.cohorts.cohort import Cohort
from model.sources.series import STATISTICS, statistics
from tests.model.sources.events.test_building import built, cohort, given

__all__ = ["built", "cohort", "given"]

HOUR = pd.Timedelta(hours=1)


def series_of(frame: pd.DataFrame, sample: str, code: str, hours: float) -> pd.DataFrame:
    """The events of a sample with a code, in the hours before its prediction."""
    subject, stamp = sample.split("-", 1)
    until = pd.Timestamp(stamp)
    rows = frame[(frame["subject_id"] == int(subject)) & (frame["code"] == code)]
    return rows[(rows["time"] > until - hours * HOUR) & (rows["time"] <= until)].assign(until=until)


@pytest.mark.parametrize("place", [0, 1, 40])
def test_statistics_of_a_window(cohort: Cohort, given: tuple[Path, pd.DataFrame], place: int) -> None:
    modality = cohort.modalities["codes"]
    row = dict(zip(modality.columns, modality.values[place].tolist(), strict=True))
    events = series_of(given[1], cohort.sample_ids[place], "CHART//211//bpm", 24)
    values = events["numeric_value"].to_numpy(float)
    name = "CHART//211//bpm 24h"
    assert row[f"{name} count"] == len(values) > 3
    hours = ((events["time"] - events["until"]) / HOUR).to_numpy()
    expected = {"last": values[-1], "mean": values.mean(), "min": values.min(), "max": values.max()}
    expected |= {"slope": np.polyfit(hours, values, 1)[0]}
    expected |= dict(zip((f"haim_{it}" for it in STATISTICS), statistics(values).tolist(), strict=True))
    for statistic, value in expected.items():
        assert row[f"{name} {statistic}"] == pytest.approx(value, rel=1e-4, abs=1e-5), statistic


def test_hours_of_a_sequence(
    cohort: Cohort, given: tuple[Path, pd.DataFrame], built: tuple[Path, dict[str, Any]]
) -> None:
    """A value lies in its hour and stands for the hours after it in which anything was measured."""
    modality = cohort.modalities["series"]
    assert modality.columns == (
        "heart rate", "heart rate seen", "eyes=open", "eyes=shut", "eyes seen", "creatinine in umol",
        "creatinine in umol seen",
    )  # fmt: skip
    hours = np.load(built[0] / "modalities" / "series.npy")
    for place in (0, 7):
        values = hours[place]
        events = series_of(given[1], cohort.sample_ids[place], "CHART//211//bpm", 48)
        step = 47 - ((events["until"] - events["time"]) // HOUR).to_numpy()
        np.testing.assert_allclose(values[step, 0], events["numeric_value"], rtol=1e-6)
        assert set(np.flatnonzero(values[:, 1] == 1)) == set(step)
        creatinine = series_of(given[1], cohort.sample_ids[place], "LAB//50912//mg/dL", 48)
        at = 47 - ((creatinine["until"] - creatinine["time"]) // HOUR).to_numpy()
        np.testing.assert_allclose(values[at, 5], creatinine["numeric_value"] * 88.4, rtol=1e-6)
        carried = (values[:, 6] == 0) & (np.arange(48) > at.min())
        assert not np.isnan(values[carried, 5]).any()
        assert np.isnan(values[values[:, 1] != 1]).all()  # this patient's other signals come with the heart rate


def test_eyes_are_levels(built: tuple[Path, dict[str, Any]]) -> None:
    values = np.load(built[0] / "modalities" / "series.npy")
    seen = values[:, :, 4] == 1
    assert seen.any()
    assert (values[seen][:, 2] + values[seen][:, 3] == 1).all()


def test_the_patient(cohort: Cohort) -> None:
    modality = cohort.modalities["patient"]
    assert modality.columns == ("age", "ETHNICITY", "GENDER")
    assert modality.levels["GENDER"] == ("F", "M")
    hidden = np.isin(cohort.patient_ids[cohort.patients] % 7, [0])
    np.testing.assert_array_equal(modality.values[hidden, 0], 90.0)
    assert (abs(modality.values[~hidden, 0] - 70.5) < 1).all()
    women = cohort.patient_ids[cohort.patients] % 2 == 0
    np.testing.assert_array_equal(modality.values[women, 2], 0)


def test_what_is_stamped_with_a_day_counts_from_its_end(cohort: Cohort, given: tuple[Path, pd.DataFrame]) -> None:
    modality = cohort.modalities["codes"]
    column = modality.columns.index("MEDICATION//Heparin stay count")
    frame = given[1]
    for place, sample in enumerate(cohort.sample_ids.tolist()):
        subject, stamp = sample.split("-", 1)
        drugs = frame[(frame["subject_id"] == int(subject)) & (frame["code"] == "MEDICATION//Heparin")]["time"]
        until = pd.Timestamp(stamp)
        known = ((drugs + 24 * HOUR > until - 100 * HOUR) & (drugs + 24 * HOUR <= until)).sum()
        assert modality.values[place, column] == known


def test_what_is_coded_at_the_discharge_is_no_input(cohort: Cohort) -> None:
    names = " ".join(cohort.modalities["codes"].columns)
    assert "DIAGNOSIS" not in names
    assert "PROCEDURE" not in names
    assert "HOSPITAL_DISCHARGE//HOME all count" in names
