"""The estimators of one row of the TIM matrix that need no model: difference of means, least squares."""

from __future__ import annotations

import numpy as np

from tim_search.tim.estimators import SPARE_ROWS, CodedScores, Linear


def difference_of_means(game: CodedScores) -> Linear:
    """Mean score with a task minus mean score without it (the MSR estimator of Wang & Jia, 2023); Welch's error."""
    z, w = game.codes, game.nuisance
    n_with, n_without = (z > 0).sum(0), (z < 0).sum(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        weights = ((z > 0) / n_with - (z < 0) / n_without).T
        weights = weights - (weights @ w) @ w.T
        y = game.scores - w @ (w.T @ game.scores)
        parts = []
        for inside, count in ((z > 0, n_with), (z < 0, n_without)):
            mean = (inside * y[:, None]).sum(0) / count
            square = (inside * (y[:, None] - mean) ** 2).sum(0)
            parts.append((square / (count - 1) / count, count - 1))
        (a, df_a), (b, df_b) = parts
        df = np.where(a + b > 0, (a + b) ** 2 / (a**2 / df_a + b**2 / df_b), df_a + df_b)
    return Linear(weights, np.sqrt(a + b), df, y)


def least_squares(game: CodedScores) -> Linear | None:
    """Ordinary least squares on all main effects, twice the coefficients; HC3 errors (MacKinnon & White, 1985).

    None with fewer than q + 5 rows (for one nuisance column). Tasks that cannot be told apart are NaN.
    """
    x = np.hstack([game.nuisance, game.codes])
    n, r = len(x), game.nuisance.shape[1]
    if n < x.shape[1] + SPARE_ROWS:
        return None
    # From sufficient statistics: codes are +1 and -1, so that their products add up without rounding, and many rows
    # take one pass where a decomposition of them takes many.
    gram = x.T @ x
    information = np.linalg.pinv(gram, rcond=1e-12, hermitian=True)
    inverse = x @ information
    hat = np.einsum("nk,nk->n", x, inverse)
    df = n - round(float(hat.sum()))
    residual = game.scores - x @ (information @ (x.T @ game.scores))
    if hat.max() < 1 - 1e-8:
        variance = (inverse**2).T @ (residual / (1 - hat)) ** 2
    else:
        # A row that alone determines a coefficient has no residual; HC3 is undefined, the classical error is not.
        variance = (inverse**2).sum(axis=0) * (residual @ residual) / max(df, 1)
    identified = (np.einsum("kl,lk->k", information, gram) > 1 - 1e-6)[r:]
    weights = 2 * inverse[:, r:].T
    weights[~identified] = np.nan
    return Linear(weights, 2 * np.sqrt(variance[r:]), np.full(len(identified), float(df)), residual)
