"""Recalibration and net benefit, against scikit-learn, a root search, counts by hand and planted truths."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.special import expit
from sklearn.linear_model import LinearRegression, LogisticRegression

from model.data.folds import patient_weights
from model.trained.calibration import net_benefit, of_risks, of_values

DICE = np.random.default_rng(3)
SCORE = DICE.normal(-1.0, 1.3, 3000)
RISK = expit(SCORE)
#: Outcomes of risks that are too low and too extreme: logit = 0.4 + 0.7 x the predicted one.
HIT = (DICE.random(3000) < expit(0.4 + 0.7 * SCORE)).astype(float)
WEIGHTS = patient_weights(np.arange(3000), 20, "test")


def test_recalibration_is_that_of_other_libraries_under_every_weighting() -> None:
    intercept, slope = of_risks(RISK, HIT, WEIGHTS)
    for weights, a, b in zip(WEIGHTS, intercept, slope, strict=True):
        fit = LogisticRegression(C=np.inf, tol=1e-10).fit(SCORE[:, None], HIT, sample_weight=weights)
        assert b == pytest.approx(float(fit.coef_[0, 0]), abs=1e-6)
        # With the slope held at 1, the risks that are expected add up to the outcomes.
        root = brentq(lambda at, by=weights: float((by * (HIT - expit(at + SCORE))).sum()), -5, 5)
        assert a == pytest.approx(root, abs=1e-6)
    assert slope[0] == pytest.approx(0.7, abs=0.1)
    value = 2.0 + 3.0 * SCORE + DICE.normal(size=3000)
    mean, line = of_values(SCORE, value, WEIGHTS)
    for weights, a, b in zip(WEIGHTS, mean, line, strict=True):
        fitted = LinearRegression().fit(SCORE[:, None], value, sample_weight=weights)
        assert b == pytest.approx(float(fitted.coef_[0]))
        assert a == pytest.approx(float(np.average(value - SCORE, weights=weights)))


def test_where_there_is_no_answer_there_is_none() -> None:
    parted = (SCORE > 0).astype(float)
    for risk, hit in ((RISK, np.zeros(3000)), (np.full(3000, 0.3), HIT), (RISK, parted)):
        assert np.isnan(of_risks(risk, hit, WEIGHTS[:3])[1]).all()
    assert np.isnan(of_risks(RISK, np.ones(3000), WEIGHTS[:3])[0]).all()
    assert np.isnan(of_values(np.ones(3000), SCORE, WEIGHTS[:3])[1]).all()
    extreme = np.r_[0.0, 1.0, RISK[2:]]  # a risk of 0 or 1 has no logit
    assert np.isfinite(of_risks(extreme, HIT, WEIGHTS[:3])).all()


def test_net_benefit_weighs_false_positives_by_the_odds_of_the_threshold() -> None:
    risk, hit = np.array([0.1, 0.2, 0.6, 0.9]), np.array([0.0, 1.0, 0.0, 1.0])
    model, everybody, counts = net_benefit(risk, hit, np.array([0.2, 0.5, 0.95]))
    assert model == pytest.approx([2 / 4 - 1 / 4 * 0.25, 1 / 4 - 1 / 4 * 1.0, 0.0])
    assert everybody == pytest.approx([0.5 - 0.5 * 0.25, 0.0, 0.5 - 0.5 * 19])
    assert counts.tolist() == [[2, 1, 0, 1], [1, 1, 1, 1], [0, 0, 2, 2]]
