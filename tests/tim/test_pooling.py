"""The mean effect over sites: against the formulas written out, and whether its intervals hold the truth."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import optimize, stats

from tim_search.tim.pooling import pool


def literal(y: list[float], se: list[float]) -> dict[str, float]:
    """One cell, a site at a time."""
    k = len(y)
    w = [1 / s**2 for s in se]
    fixed = sum(a * b for a, b in zip(w, y, strict=True)) / sum(w)
    q = sum(a * (b - fixed) ** 2 for a, b in zip(w, y, strict=True))
    tau2 = max(0.0, (q - (k - 1)) / (sum(w) - sum(a * a for a in w) / sum(w)))
    w = [1 / (s**2 + tau2) for s in se]
    mean = sum(a * b for a, b in zip(w, y, strict=True)) / sum(w)
    apart = sum(a * (b - mean) ** 2 for a, b in zip(w, y, strict=True)) / (k - 1)
    error = math.sqrt(max(1.0, apart) / sum(w))
    return {
        "estimate": mean,
        "se": error,
        "low": mean - stats.t.ppf(0.975, k - 1) * error,
        "p_value": 2 * stats.t.sf(abs(mean) / error, k - 1),
        "tau": math.sqrt(tau2),
        "i2": max(0.0, (q - (k - 1)) / q),
        "p_equal": stats.chi2.sf(q, k - 1),
    }


def test_cells_are_those_of_the_formulas_and_gaps_take_no_part() -> None:
    dice = np.random.default_rng(3)
    y, se = dice.normal(0, 0.05, (5, 4, 4)), dice.uniform(0.01, 0.04, (5, 4, 4))
    y[2, 0, 1], se[4, 0, 1], se[3, 2, 3] = np.nan, np.nan, 0.0
    pooled = pool(y, se)
    assert pooled.sites[0, 1] == 3
    assert pooled.sites[2, 3] == 4
    for i, j in np.ndindex(4, 4):
        use = np.isfinite(y[:, i, j]) & np.isfinite(se[:, i, j]) & (se[:, i, j] > 0)
        for name, value in literal(y[use, i, j].tolist(), se[use, i, j].tolist()).items():
            assert getattr(pooled, name)[i, j] == pytest.approx(value, rel=1e-12), name


def test_the_interval_of_a_further_site_is_that_of_drawn_sites() -> None:
    """Nagashima's steps with plain dice: draw Q, solve for the variance between sites, draw the mean and a site."""
    y, se = np.array([0.02, 0.11, 0.04, 0.15]), np.array([0.02, 0.03, 0.01, 0.04])
    dice, effects = np.random.default_rng(1), []
    for drawn in dice.chisquare(3, 1500):

        def cochran(between: float, drawn: float = drawn) -> float:
            w = 1 / (se**2 + between)
            return float((w * (y - (w * y).sum() / w.sum()) ** 2).sum() - drawn)

        between = optimize.brentq(cochran, 0, 1e4) if cochran(0) > 0 else 0.0
        w = 1 / (se**2 + between)
        mean = (w * y).sum() / w.sum()
        error = math.sqrt((w * (y - mean) ** 2).sum() / 3 / w.sum())
        effects.append(mean + math.sqrt(between) * dice.normal() + error * dice.standard_t(3))
    low, high = np.quantile(effects, [0.025, 0.975])
    pooled = pool(y[:, None], se[:, None])
    assert pooled.new_low[0] == pytest.approx(low, abs=0.08 * (high - low))
    assert pooled.new_high[0] == pytest.approx(high, abs=0.08 * (high - low))
    assert pooled.new_low[0] < pooled.low[0] < pooled.high[0] < pooled.new_high[0]


def test_two_sites_have_a_mean_but_tell_nothing_of_a_third_and_one_has_none() -> None:
    pooled = pool(np.array([[0.1, 0.1], [0.2, np.nan]]), np.full((2, 2), 0.02))
    assert pooled.estimate[0] == pytest.approx(0.15)
    assert np.isnan(pooled.new_low[0])
    assert np.isnan([pooled.estimate[1], pooled.se[1], pooled.p_value[1]]).all()
    assert pooled.sites.tolist() == [2, 1]


def test_sites_that_agree_by_luck_are_no_surer_than_their_errors() -> None:
    pooled = pool(np.array([[0.1], [0.1], [0.1]]), np.full((3, 1), 0.03))
    assert pooled.se[0] == pytest.approx(0.03 / math.sqrt(3))
    assert pooled.tau[0] == pooled.i2[0] == 0
    assert pooled.p_equal[0] == 1


@pytest.mark.parametrize("between", [0.0, 0.02, 0.06])
@pytest.mark.parametrize("sites", [3, 5, 10])
def test_intervals_hold_the_mean_and_a_further_site(sites: int, between: float) -> None:
    """Sites of unlike sizes: errors from .01 to .04."""
    dice = np.random.default_rng([sites, int(1000 * between)])
    cells = 1000
    se = np.tile(np.linspace(0.01, 0.04, sites)[:, None], (1, cells))
    true = dice.normal(0.05, between, (sites + 1, cells))
    pooled = pool(true[:-1] + dice.normal(0, se), se)
    mean = np.mean((pooled.low <= 0.05) & (pooled.high >= 0.05))
    new = np.mean((pooled.new_low <= true[-1]) & (pooled.new_high >= true[-1]))
    assert 0.92 < mean <= 1.0, f"coverage of the mean {mean:.3f}"
    assert 0.92 < new <= 1.0, f"coverage of a further site {new:.3f}"
