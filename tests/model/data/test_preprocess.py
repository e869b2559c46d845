"""Preprocessing: fitted on the training rows alone, and safe for every odd column."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from model.cohorts.cohort import Cohort, Modality, make_cohort
from model.data.preprocess import CLIP, fit
from tim_search.types import Task

N = 400


def cohort(*modalities: Modality) -> Cohort:
    n = len(modalities[0].present)
    return make_cohort("c", np.arange(n), np.arange(n), modalities, [Task("y", "regression")], {"y": np.arange(n)})


def vector(values: np.ndarray, levels: dict[str, tuple[str, ...]] | None = None, name: str = "m") -> Modality:
    columns = tuple(f"x{index}" for index in range(values.shape[1]))
    return Modality(name, "vector", columns, values, levels or {}, ~np.isnan(values).all(axis=1))


@pytest.fixture
def rows() -> np.ndarray:
    return np.arange(N) < 300


def test_numbers_are_standardised_on_the_training_rows(rows: np.ndarray) -> None:
    values = np.random.default_rng(0).normal([5, -300], [2, 0.001], (N, 2))
    values[~rows] += 1000
    fitted = fit(cohort(vector(values)), rows)
    output = fitted.transform(cohort(vector(values)))["m"]
    assert output.dtype == np.float32
    np.testing.assert_allclose(output[rows].mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(output[rows].std(axis=0), 1, atol=1e-6)
    assert fitted.names == {"m": ("x0", "x1")}


def test_nothing_is_fitted_on_other_rows(rows: np.ndarray) -> None:
    dice = np.random.default_rng(1)
    values = dice.normal(size=(N, 4))
    values[dice.random((N, 4)) < 0.2] = np.nan
    values[:, 3] = dice.integers(0, 3, N)
    levels = {"x3": ("a", "b", "c")}
    changed = values.copy()
    changed[~rows] = np.random.default_rng(2).normal(50, 9, (int((~rows).sum()), 4))
    changed[~rows, 3] = 2
    before = fit(cohort(vector(values, levels)), rows).transform(cohort(vector(values, levels)))["m"]
    after = fit(cohort(vector(changed, levels)), rows).transform(cohort(vector(values, levels)))["m"]
    np.testing.assert_array_equal(before, after)


def test_missing_numbers_are_the_mean_with_an_indicator(rows: np.ndarray) -> None:
    values = np.random.default_rng(0).normal(7, 2, (N, 3))
    values[::4, 1] = np.nan
    values[350:, 2] = np.nan  # lacking in other rows only: nothing could be learnt about the gap
    fitted = fit(cohort(vector(values)), rows)
    output = fitted.transform(cohort(vector(values)))["m"]
    assert fitted.names["m"] == ("x0", "x1", "x2", "x1 measured")
    assert (output[::4, 1] == 0).all()
    np.testing.assert_array_equal(output[:, 3], ~np.isnan(values[:, 1]))
    assert (output[350:, 2] == 0).all()
    mean, std = np.nanmean(values[rows, 1]), np.nanstd(values[rows, 1])
    np.testing.assert_allclose(output[1, 1], (values[1, 1] - mean) / std, rtol=1e-5)


def test_a_gap_in_too_few_rows_gets_no_indicator(rows: np.ndarray) -> None:
    values = np.random.default_rng(0).normal(size=(N, 3))
    values[:2, 0] = np.nan  # 0.7 % of the training rows
    values[:3, 1] = np.nan  # 1 %
    assert fit(cohort(vector(values)), rows).names["m"] == ("x0", "x1", "x2", "x1 measured")


def test_categories_are_one_hot_and_unseen_levels_zero(rows: np.ndarray) -> None:
    code = np.arange(N) % 3.0
    code[390:] = 3  # a level of which the training rows have none
    code[:100] = np.nan
    output_of = cohort(vector(code[:, None], {"x0": ("a", "b", "c", "d")}), vector(np.arange(N)[:, None], name="k"))
    fitted = fit(output_of, rows)
    output = fitted.transform(output_of)["m"]
    # A row whose only column is missing lacks the modality, hence no indicator among the rows that have it.
    assert fitted.names["m"] == ("x0=a", "x0=b", "x0=c")
    assert (output[390:] == 0).all()
    assert (output[:100] == 0).all()
    np.testing.assert_array_equal(output[100:390].argmax(axis=1), code[100:390])
    assert (output[100:390].sum(axis=1) == 1).all()


def test_constant_and_never_measured_columns_are_left_out(rows: np.ndarray) -> None:
    values = np.random.default_rng(0).normal(size=(N, 5))
    values[:, 1] = 0.1
    values[:, 2] = np.nan
    values[:, 3] = np.where(np.arange(N) % 2, 1e6 / 3, np.nan)
    values[rows, 4] = -2.0  # constant where it counts
    fitted = fit(cohort(vector(values)), rows)
    output = fitted.transform(cohort(vector(values)))["m"]
    assert fitted.names["m"] == ("x0", "x3 measured")
    assert np.isfinite(output).all()


def test_a_modality_without_a_usable_column_is_one_column_of_zeros(rows: np.ndarray) -> None:
    both = cohort(vector(np.ones((N, 3))), vector(np.arange(N, dtype=float)[:, None], name="k"))
    output = fit(both, rows).transform(both)
    assert output["m"].shape == (N, 1)
    assert (output["m"] == 0).all()


def test_absent_rows_are_exactly_zero_and_not_fitted_on(rows: np.ndarray) -> None:
    values = np.random.default_rng(0).normal(100, 5, (N, 3))
    values[::2, 1] = np.nan
    values[::5] = np.nan
    given = cohort(vector(values))
    fitted = fit(given, rows)
    output = fitted.transform(given)["m"]
    assert (output[::5] == 0).all()
    assert fitted.names["m"] == ("x0", "x1", "x2", "x1 measured")
    present = rows & given.modalities["m"].present
    np.testing.assert_allclose(output[present, 0].mean(), 0, atol=1e-6)


def test_a_modality_absent_in_all_training_rows(rows: np.ndarray) -> None:
    values = np.random.default_rng(0).normal(size=(N, 2))
    values[rows] = np.nan
    given = cohort(vector(values), vector(np.arange(N, dtype=float)[:, None], name="k"))
    output = fit(given, rows).transform(given)["m"]
    assert output.shape == (N, 1)
    assert (output == 0).all()


def test_heavy_tails_are_clipped(rows: np.ndarray) -> None:
    values = np.random.default_rng(0).normal(size=(N, 1))
    values[7], values[350] = 1e12, -1e30
    output = fit(cohort(vector(values)), rows).transform(cohort(vector(values)))["m"]
    assert np.abs(output).max() <= CLIP
    assert output[7] == CLIP
    assert np.isfinite(output).all()


def test_wide_float32_tables_agree_with_float64(rows: np.ndarray) -> None:
    values = np.random.default_rng(0).normal(3, 2, (N, 600)).astype(np.float32)
    values[5, ::7] = np.nan
    small, large = cohort(vector(values)), cohort(vector(values.astype(np.float64)))
    np.testing.assert_array_equal(fit(small, rows).transform(small)["m"], fit(large, rows).transform(large)["m"])


def test_sequences_and_images_are_standardised_by_channel(rows: np.ndarray) -> None:
    dice = np.random.default_rng(0)
    steps = dice.normal([10, -4, 0], [3, 1, 0], (N, 6, 3))
    steps[dice.random((N, 6, 3)) < 0.5] = np.nan
    steps[9] = np.nan
    series = Modality("s", "sequence", ("a", "b", "event"), steps, {}, ~np.isnan(steps).all(axis=(1, 2)))
    pixels = dice.normal(128, 40, (N, 2, 3, 4)).astype(np.float32)
    pixels[3] = np.nan
    image = Modality("i", "image", (), pixels, {}, ~np.isnan(pixels).all(axis=(1, 2, 3)))
    given = cohort(series, image)
    output = fit(given, rows).transform(given)
    assert output["s"].shape == (N, 6, 3)
    assert output["i"].shape == (N, 2, 3, 4)
    for array in output.values():
        assert array.dtype == np.float32
        assert np.isfinite(array).all()
    gaps = np.isnan(steps)
    assert (output["s"][gaps] == 0).all()
    assert (output["s"][9] == 0).all()
    assert (output["i"][3] == 0).all()
    for channel in (0, 1):
        measured = output["s"][rows][..., channel][~gaps[rows][..., channel]]
        np.testing.assert_allclose([measured.mean(), measured.std()], [0, 1], atol=1e-5)
    # An event is written down only where it happens: it stays visible although it never varies.
    np.testing.assert_array_equal(output["s"][..., 2], ~gaps[..., 2])
    np.testing.assert_allclose(output["i"][rows].mean(axis=(0, 2, 3)), 0, atol=1e-2)


def test_a_preprocessor_refuses_other_columns_and_no_rows(rows: np.ndarray) -> None:
    given = cohort(vector(np.random.default_rng(0).normal(size=(N, 2))))
    fitted = fit(given, rows)
    with pytest.raises(ValueError, match="not those the preprocessor was fitted on"):
        fitted.transform(cohort(vector(np.ones((N, 3)))))
    with pytest.raises(ValueError, match="at least one training row"):
        fit(given, np.zeros(N, bool))


def test_a_preprocessor_can_be_sent_to_a_worker(rows: np.ndarray) -> None:
    given = cohort(vector(np.random.default_rng(0).normal(size=(N, 2))))
    fitted = fit(given, rows)
    again = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(again.transform(given)["m"], fitted.transform(given)["m"])
