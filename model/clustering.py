"""Quality of a clustering task's latents: k-means fitted on training rows, judged on held-out rows.

Silhouette alone is easily fooled: it has no scale, and a latent that collapses onto a few points scores well. The
diagnostics beside it tell such a latent apart, and a collapsed one counts as failed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score, silhouette_samples

Array = NDArray[np.float64]

#: Below this effective rank the latents lie on (nearly) one line: grouping patients by them is sorting by one number.
_LEAST_RANK = 1.5


@dataclass(frozen=True)
class Clustering:
    """What held-out latents say.

    Attributes:
        silhouette: (R,) mean silhouette under each weighting of the held-out rows; each row's own silhouette is held
            fixed over the weightings.
        occupied: clusters that hold at least one held-out row.
        effective_rank: exp of the entropy of the training latents' variance spectrum, 1 to h.
        label_agreement: adjusted Rand index between the labels of two k-means fits from different starts.
        collapsed: why the latents count as collapsed, or empty.
    """

    silhouette: Array
    occupied: int
    effective_rank: float
    label_agreement: float
    collapsed: str


def effective_rank(latents: Array) -> float:
    """exp of the entropy of the normalised variance spectrum of (n, h) latents; 0 when they do not vary.

    Source: Roy & Vetterli, "The effective rank", EUSIPCO 2007, applied to the covariance.
    """
    centred = latents - latents.mean(0)
    spectrum = np.linalg.eigvalsh(centred.T @ centred / max(len(latents), 1)).clip(0)
    total = spectrum.sum()
    if total <= 1e-12:
        return 0.0
    share = spectrum[spectrum > 0] / total
    return float(np.exp(-(share * np.log(share)).sum()))


def groups(train: Array, clusters: int, seed: int, n_init: int = 3) -> KMeans:
    """k-means fitted on (n, h) training latents."""
    return KMeans(clusters, n_init=n_init, random_state=seed % 2**32).fit(train)


def judge(train: Array, held_out: Array, clusters: int, weights: Array, seed: int) -> Clustering:
    """Cluster the training latents and judge the held-out ones (M3H paper, section 3.3).

    Args:
        train: float64 (n, h) latents k-means is fitted on.
        held_out: float64 (v, h).
        clusters: number of groups (the paper: 15).
        weights: float64 (R, v) weightings of the held-out rows.
        seed: of the k-means starts.
    """
    blank = np.full(len(weights), np.nan)
    rank = effective_rank(train)
    distinct = len(np.unique(train.round(9), axis=0))
    if rank < _LEAST_RANK or distinct < clusters or len(held_out) < 3:
        why = f"collapsed: effective rank {rank:.2f} of the latents, {distinct} distinct training rows"
        return Clustering(blank, 0, rank, float("nan"), why)
    first, second = (
        groups(train, clusters, seed + shift, n_init).predict(held_out) for n_init, shift in ((3, 0), (1, 1))
    )
    occupied = len(np.unique(first))
    agreement = float(adjusted_rand_score(first, second))
    if not 2 <= occupied < len(held_out):
        return Clustering(
            blank, occupied, rank, agreement, f"collapsed: held-out rows fill {occupied} of {clusters} clusters"
        )
    each = silhouette_samples(held_out, first)
    return Clustering(weights @ each / weights.sum(1), occupied, rank, agreement, "")
