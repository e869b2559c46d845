"""TIM scores of several sites as one: a random-effects meta-analysis of every cell."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from tim_search.tim.estimators import Array

#: Draws of the effect at a further site; its bounds move by some 2 % of its width with more.
_DRAWS = 1000


@dataclass(frozen=True, eq=False)
class Pooled:
    """The mean effect over sites, cell by cell. Arrays have the shape of a site's scores, NaN where not estimable.

    Attributes:
        sites: int64, how many sites have the cell; fewer than two give no mean.
        estimate, se: the mean effect over all sites like these, and its standard error.
        low, high: its interval; Student's t with one degree of freedom fewer than there are sites.
        p_value: two-sided, of no effect on average.
        new_low, new_high: the interval of the effect at one more site like these; NaN for fewer than three sites.
        tau: standard deviation of the sites' true effects.
        i2: share of the variation between the sites' estimates that is not their own errors, 0 to 1.
        p_equal: p-value of the sites having one and the same true effect.
    """

    sites: NDArray[np.int64]
    estimate: Array = field(repr=False)
    se: Array = field(repr=False)
    low: Array = field(repr=False)
    high: Array = field(repr=False)
    p_value: Array = field(repr=False)
    new_low: Array = field(repr=False)
    new_high: Array = field(repr=False)
    tau: Array = field(repr=False)
    i2: Array = field(repr=False)
    p_equal: Array = field(repr=False)


def pool(estimates: Array, errors: Array, confidence: float = 0.95) -> Pooled:
    """The mean effect of each cell over S sites.

    The variance between sites is that of DerSimonian and Laird (1986); the error of the mean that of Hartung and Knapp
    (2001), which counts how far the sites lie apart and how few they are. It is never taken smaller than what the
    sites' own errors and the variance between them give: a few sites that agree by luck would seem too sure (Röver et
    al. 2015). The interval of a further site is that of Nagashima et al. (2019): it goes over all variances between
    sites that the estimates leave possible, since one estimate of it from a few sites is too often 0.

    Args:
        estimates: float64 (S, ...); NaN where a site lacks the cell.
        errors: float64 (S, ...), their standard errors. A cell without one, or with 0, is taken for one that lacks.
        confidence: coverage of the intervals.
    """
    usable = np.isfinite(estimates) & np.isfinite(errors) & (errors > 0)
    y, variance = np.where(usable, estimates, 0.0), np.where(usable, errors, 1.0) ** 2
    sites = usable.sum(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        weight = usable / variance
        total = weight.sum(0)
        q = (weight * (y - (weight * y).sum(0) / total) ** 2).sum(0)
        between = np.maximum(0.0, (q - (sites - 1)) / (total - (weight**2).sum(0) / total))
        weight = usable / (variance + between)
        total = weight.sum(0)
        mean = (weight * y).sum(0) / total
        apart = (weight * (y - mean) ** 2).sum(0) / (sites - 1)
        se = np.sqrt(np.maximum(1.0, apart) / total)
        reach = stats.t.ppf(0.5 + confidence / 2, np.maximum(sites - 1, 1))
        p_value = 2 * stats.t.sf(np.abs(mean) / se, np.maximum(sites - 1, 1))
        i2 = np.where(q > 0, np.maximum(0.0, (q - (sites - 1)) / q), 0.0)
        p_equal = stats.chi2.sf(q, np.maximum(sites - 1, 1))

    def of(values: Array) -> Array:
        return np.where(sites >= 2, values, np.nan)

    further = np.full((2, *sites.shape), np.nan)
    for cell in np.argwhere(sites >= 3):
        at = (slice(None), *cell)
        further[at] = _further_site(y[at][usable[at]], variance[at][usable[at]], confidence)
    return Pooled(
        sites=sites.astype(np.int64),
        estimate=of(mean),
        se=of(se),
        low=of(mean - reach * se),
        high=of(mean + reach * se),
        p_value=of(p_value),
        new_low=further[0],
        new_high=further[1],
        tau=of(np.sqrt(between)),
        i2=of(i2),
        p_equal=of(p_equal),
    )


@functools.cache
def _draws(sites: int) -> tuple[Array, Array, Array]:
    """Of Cochran's Q, of a site's own effect and of the mean's error: the same in every cell, so equal cells agree."""
    chances, dice = (np.arange(_DRAWS) + 0.5) / _DRAWS, np.random.default_rng(0)
    of_site, of_mean = stats.norm.ppf(dice.permutation(chances)), stats.t.ppf(dice.permutation(chances), sites - 1)
    return stats.chi2.ppf(chances, sites - 1), of_site, of_mean


def _further_site(y: Array, variance: Array, confidence: float) -> Array:
    """(2,) bounds of the effect at one more site, from (k,) estimates and squared errors of three sites or more."""
    of_q, of_site, of_mean = _draws(len(y))
    # Variances between sites, and Cochran's Q under each: it falls as they grow, and has k - 1 degrees of freedom under
    # the true one.
    scale = np.ptp(y) ** 2 + variance.max()
    between = np.concatenate([[0.0], np.geomspace(1e-6, 1e4, 200) * scale])
    weight = 1 / (variance + between[:, None])
    total = weight.sum(1)
    mean = (weight * y).sum(1) / total
    q = (weight * (y - mean[:, None]) ** 2).sum(1)
    drawn = np.interp(of_q, q[::-1], between[::-1], left=between[-1], right=0.0)
    error = np.sqrt(np.interp(drawn, between, q / (len(y) - 1) / total))
    effects = np.interp(drawn, between, mean) + np.sqrt(drawn) * of_site + error * of_mean
    bounds: Array = np.quantile(effects, [0.5 - confidence / 2, 0.5 + confidence / 2])
    return bounds
