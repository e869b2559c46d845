"""Quality of a clustering task's latents: k-means fitted on training rows, judged on held-out rows.

Silhouette alone is easily fooled: it has no scale, and a latent that collapses onto a few points scores well. The
diagnostics beside it tell such a latent apart, and a collapsed one counts as failed.

All members of a pack are judged at once on the device of their latents, in float64, and their results come to the host
together. On a CPU each member goes alone through products and sums, so that its bits do not depend on its pack mates;
on a GPU as many as a share of its memory holds. Random numbers depend on the seed alone and are drawn on the host.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.data.seeding import generator

Array = NDArray[np.float64]

#: Below this effective rank the latents lie on (nearly) one line: grouping patients by them is sorting by one number.
_LEAST_RANK = 1.5
#: k-means is started so many times for the grouping that counts, and once more for the one that is compared with it.
_STARTS = 3
#: Most sweeps of a start, and the movement of the centres, over the rows' variance, at which it ends before that.
_SWEEPS = 300
_TOLERANCE = 1e-4
#: After so many sweeps at a time clusters without rows get new places, and a GPU is asked whether it is done.
_LOOK = 8
#: Bytes of one array of a chunk of members on a GPU; of one block of distances on a CPU, that it stays in a core's L2.
_GPU_BYTES, _CPU_BYTES = 128 << 20, 1 << 20


@dataclass(frozen=True)
class Clustering:
    """What one member's held-out latents say.

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


def start(seed: int, task: str) -> int:
    """The seed of a clustering task's k-means in a training with a seed."""
    return int(torch.randint(2**31, (1,), generator=generator("k-means", seed, task)))


def judge(train: Tensor, held_out: Tensor, clusters: int, weights: Tensor, seeds: Sequence[int]) -> list[Clustering]:
    """Cluster each member's training latents and judge the held-out ones (M3H paper, section 3.3).

    Args:
        train: finite (m, n, h) latents k-means is fitted on.
        held_out: finite (m, v, h).
        clusters: number of groups (the paper: 15).
        weights: float64 (v, R) weightings of the held-out rows.
        seeds: of each member's k-means starts.
    """
    members, rows, count = len(train), held_out.shape[1], weights.shape[1]
    rank, distinct = torch.stack([effective_rank(train), distinct_rows(train).double()]).cpu().numpy()
    usable = [m for m in range(members) if rank[m] >= _LEAST_RANK and distinct[m] >= clusters and rows >= 3]
    nothing = (np.full(count, np.nan), 0, math.nan)
    by_member: dict[int, tuple[Array, int, float]] = dict.fromkeys(range(members), nothing)
    if usable:
        index, parts = torch.tensor(usable, device=train.device), []
        for part in _chunks(index, (_STARTS + 1) * clusters * train.shape[1]):
            learnt, new = (latents.index_select(0, index[part]).double() for latents in (train, held_out))
            starts, inertia = k_means(learnt, clusters, [seeds[m] for m in usable[part]])
            best = _best(starts[:, :_STARTS], inertia[:, :_STARTS])
            first, second = nearest(new, best), nearest(new, starts[:, _STARTS])
            table = _one_hot(first, clusters) @ _one_hot(second, clusters).transpose(1, 2)
            filled = (table.sum(2) > 0).sum(1).double()
            each = silhouettes(new, first, clusters).unsqueeze(2)
            means = (each * weights).sum(1) / weights.sum(0)
            parts.append(torch.cat([filled.unsqueeze(1), adjusted_rand(table).unsqueeze(1), means], dim=1))
        for m, row in zip(usable, torch.cat(parts).cpu().numpy(), strict=True):
            by_member[m] = row[2:], int(row[0]), float(row[1])
    judged = []
    for m, (silhouette, occupied, agreement) in by_member.items():
        why = ""
        if m not in usable:
            why = f"collapsed: effective rank {rank[m]:.2f} of the latents, {int(distinct[m])} distinct training rows"
        elif not 2 <= occupied < rows:
            why = f"collapsed: held-out rows fill {occupied} of {clusters} clusters"
            silhouette = np.full(count, np.nan)
        judged.append(Clustering(silhouette, occupied, float(rank[m]), agreement, why))
    return judged


def groups(train: Tensor, clusters: int, seeds: Sequence[int]) -> Tensor:
    """Centres (m, clusters, h) that `judge` groups the rows of each member by, of finite (m, n, h) training latents."""
    fitted = [
        _best(*k_means(train[part].double(), clusters, seeds[part], _STARTS))
        for part in _chunks(train, _STARTS * clusters * train.shape[1])
    ]
    return torch.cat(fitted)


def nearest(points: Tensor, centres: Tensor) -> Tensor:
    """int64 (m, n): which centre of (m, k, h) each point of (m, n, h) is nearest to; of equally near ones the first."""
    parts = []
    for part in _chunks(points, points.shape[1] * centres.shape[1]):
        # Copies begin where memory does: a product can round by where its matrices begin (`networks.rounding`).
        copies = (of[part].to(torch.float64, copy=True) for of in (points, centres))
        parts.append(_least(_half(*copies))[1])
    return torch.cat(parts).long()


def _chunks(of: Tensor, numbers: int) -> Iterator[slice]:
    """Members of (m, ...) that go through products together, where each needs an array of so many float64 numbers."""
    size = max(1, _GPU_BYTES // max(1, 8 * numbers)) if of.is_cuda else 1
    yield from (slice(start, start + size) for start in range(0, len(of), size))


def _one_hot(labels: Tensor, clusters: int) -> Tensor:
    """float64 (..., clusters, n) of labels (..., n)."""
    names = torch.arange(clusters, device=labels.device, dtype=labels.dtype).unsqueeze(1)
    return (labels.unsqueeze(-2) == names).double()


# What tells a collapsed latent ----------------------------------------------------------------------------------------


def effective_rank(latents: Tensor) -> Tensor:
    """exp of the entropy of the normalised variance spectrum of (m, n, h) latents; 0 when they do not vary; (m,).

    Source: Roy & Vetterli, "The effective rank", EUSIPCO 2007, applied to the covariance.
    """
    spread = []
    for part in _chunks(latents, latents[0].numel()):
        rows = latents[part].double()
        centred = rows - rows.mean(1, keepdim=True)
        spread.append(centred.transpose(1, 2) @ centred / max(latents.shape[1], 1))
    # Latents that are beyond all measure count as ones that do not vary: a decomposition would fail for all members.
    bounded = torch.cat(spread)
    bounded = torch.where(bounded.isfinite().all(2).all(1)[:, None, None], bounded, 0.0)
    spectrum = torch.linalg.eigvalsh(bounded).clamp_min_(0)
    total = spectrum.sum(1)
    share = spectrum / torch.where(total > 1e-12, total, 1.0).unsqueeze(1)
    return torch.where(total > 1e-12, torch.special.entr(share).sum(1).exp(), 0.0)


def distinct_rows(latents: Tensor) -> Tensor:
    """int64 (m,): how many rows of (m, n, h) differ in nine decimals.

    Rows are told apart by a hash of 64 bits; should two ever meet in it by chance, one less is counted.
    """
    dice = torch.Generator().manual_seed(0)
    factors = torch.randint(-(2**62), 2**62, (latents.shape[2],), generator=dice).mul_(2).add_(1).to(latents.device)
    counts = []
    for part in _chunks(latents, latents[0].numel()):
        bits = latents[part].double().round(decimals=9).add_(0.0).view(torch.int64)  # -0.0 + 0.0 is 0.0
        # Short numbers have no low bits, which alone would reach all bits of a product.
        keys = bits.bitwise_xor_(bits >> 32).mul_(factors).sum(2).sort(dim=1).values
        counts.append((keys.diff(dim=1) != 0).sum(1) + min(keys.shape[1], 1))
    return torch.cat(counts)


# k-means --------------------------------------------------------------------------------------------------------------


def k_means(rows: Tensor, clusters: int, seeds: Sequence[int], starts: int = _STARTS + 1) -> tuple[Tensor, Tensor]:
    """Lloyd's k-means from several starts, for several members at once.

    A start ends when no row changes its cluster, or when the squared movement of all centres together is at most 1e-4
    times the mean variance of the columns, or after 300 sweeps.

    Args:
        rows: float64 (m, n, h).
        clusters: at most as many as there are distinct rows.
        seeds: of each member; equal ones have equal random numbers.

    Returns:
        centres (m, starts, clusters, h), and inertia (m, starts), the sum of the squared distances to them.
    """
    middle = rows.mean(1, keepdim=True)
    rows = rows - middle  # distances by products lose fewer digits about the mean
    tolerance = _TOLERANCE * rows.square().mean(dim=(1, 2))
    tries = 2 + int(math.log(clusters))
    drawn = {
        seed: torch.rand(starts, clusters, tries, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        for seed in set(seeds)
    }
    centres = _spread_out(rows, torch.stack([drawn[seed] for seed in seeds]).to(rows.device))
    centres = _lloyd(rows, centres, tolerance) if rows.is_cuda else _lloyd_bounded(rows, centres, tolerance)
    half = _half(rows, centres.flatten(1, 2)).view(*centres.shape[:3], -1)
    inertia = (half.amin(2).mul_(2) + rows.square().sum(2).unsqueeze(1)).clamp_min_(0).sum(2)
    return centres + middle.unsqueeze(1), inertia


def _best(centres: Tensor, inertia: Tensor) -> Tensor:
    """(m, k, h): those of the start (m, S, k, h) with the least inertia (m, S)."""
    return _taken(centres, inertia.argmin(1, keepdim=True)).squeeze(1)


def _taken(of: Tensor, at: Tensor) -> Tensor:
    """(m, j, ...): of each of (m, n, ...) those at places (m, j)."""
    first = torch.arange(len(of), device=of.device).unsqueeze(1) * of.shape[1]
    return of.flatten(0, 1).index_select(0, (at + first).flatten()).view(*at.shape, *of.shape[2:])


def _half(points: Tensor, centres: Tensor) -> Tensor:
    """(m, k, n): half the squared distances of (m, n, h) to (m, k, h), less half the points' own squares."""
    return torch.baddbmm(centres.square().sum(2, keepdim=True) / 2, centres, points.transpose(1, 2), alpha=-1)


def _least(half: Tensor) -> tuple[Tensor, Tensor]:
    """The least of (..., k, n) over k, and int16 (..., n), the first place that has it."""
    least = half.amin(-2, keepdim=True)
    count = half.shape[-2]
    # The first of equal ones has the largest number; argmin over columns takes several times as long on a CPU.
    number = torch.arange(count, 0, -1, device=half.device, dtype=torch.int16).unsqueeze(1)
    return least.squeeze(-2), count - ((half == least) * number).amax(-2)


def _spread_out(rows: Tensor, drawn: Tensor) -> Tensor:
    """Starting centres (m, S, k, h) among the rows (m, n, h): greedy k-means++.

    Each further centre is the best of several candidates that are drawn with probabilities in proportion to the squared
    distance to the nearest centre so far. Source: Arthur & Vassilvitskii, "k-means++: the advantages of careful
    seeding", SODA 2007.

    Args:
        drawn: uniform (m, S, k, tries).
    """
    members, starts, clusters, tries = drawn.shape
    count, squares = rows.shape[1], rows.square().sum(2).unsqueeze(1)
    first = torch.arange(starts, device=rows.device) * tries

    def squared(centres: Tensor) -> Tensor:
        return _half(rows, centres).mul_(2).add_(squares).clamp_min_(0)

    chosen = [_taken(rows, (drawn[:, :, 0, 0] * count).long())]
    closest = squared(chosen[0])  # (m, S, n)
    for step in range(1, clusters):
        sums = closest.cumsum(2)
        at = torch.searchsorted(sums, drawn[:, :, step] * sums[:, :, -1:], right=True).clamp_max_(count - 1)
        candidates = _taken(rows, at.flatten(1))
        after = squared(candidates).view(members, starts, tries, count)
        after = torch.minimum(after, closest.unsqueeze(2), out=after)
        best = after.sum(3).argmin(2) + first  # (m, S) places among all candidates
        closest, taken = _taken(after.flatten(1, 2), best), _taken(candidates, best)
        chosen.append(taken)
    return torch.stack(chosen, dim=2)


def _lloyd(rows: Tensor, centres: Tensor, tolerance: Tensor) -> Tensor:
    """Centres (m, S, k, h) after Lloyd's sweeps from those given; all members and starts at once, for a GPU."""
    result, left = centres.clone(), torch.arange(len(rows), device=rows.device)
    starts, clusters = centres.shape[1:3]
    active = rows.new_ones(len(rows), starts, dtype=torch.bool)
    before = torch.full((len(rows), starts, rows.shape[1]), -1, dtype=torch.int16, device=rows.device)
    for sweep in range(1, _SWEEPS + 1):
        least, labels = _least(_half(rows, centres.flatten(1, 2)).view(-1, starts, clusters, rows.shape[1]))
        hot = _one_hot(labels, clusters)
        sizes = hot.sum(3)
        # Products, since sums of scattered rows would have another order every time.
        sums = torch.bmm(hot.flatten(1, 2), rows).view_as(centres)
        fresh = torch.where(sizes.unsqueeze(3) > 0, sums / sizes.clamp_min(1).unsqueeze(3), centres)
        moved = (fresh - centres).square().sum(dim=(2, 3))
        ended = ((labels == before).all(2) | (moved <= tolerance.unsqueeze(1))) & (sizes > 0).all(2)
        if sweep % _LOOK == 0:
            fresh = _settled(fresh, sizes, rows, least)
        centres = torch.where(active[:, :, None, None], fresh, centres)
        active, before = active & ~ended, labels
        if sweep % _LOOK == 0:
            result.index_copy_(0, left, centres)
            going = active.any(1).nonzero().squeeze(1)
            if not len(going):
                return result
            if len(going) < len(rows):
                rows, centres, active, before, tolerance, left = (
                    state.index_select(0, going) for state in (rows, centres, active, before, tolerance, left)
                )
    return result.index_copy_(0, left, centres)


def _lloyd_bounded(rows: Tensor, centres: Tensor, tolerance: Tensor) -> Tensor:
    """The same, for a CPU: one start after another, and without the distances that cannot change a row's cluster.

    By the triangle inequality a row stays where it is while an upper bound of the distance to its centre is below a
    lower one of the distance to all others; late sweeps move the centres little and look at few rows. Source: Hamerly,
    "Making k-means even faster", SDM 2010.
    """
    result, clusters = centres.clone(), centres.shape[2]
    for points, squares, around, end in zip(rows, rows.square().sum(2), result, tolerance.tolist(), strict=True):
        across, everything = points.t().contiguous(), torch.arange(len(points))
        counted = torch.cat([points, torch.ones_like(squares).unsqueeze(1)], dim=1)  # their sums tell sizes, too
        for at in around:  # (k, h), changed in place
            labels, upper, lower = torch.full((len(points),), -1), torch.zeros_like(squares), torch.zeros_like(squares)
            sums = at.new_zeros(clusters, counted.shape[1])
            for sweep in range(1, _SWEEPS + 1):
                due = everything if sweep == 1 else (upper >= lower).nonzero().squeeze(1)
                if 2 * len(due) > len(points):  # nearly all cost less than most
                    due, some, square = everything, across, squares
                else:
                    some, square = points.index_select(0, due).t(), squares.index_select(0, due)
                half = torch.addmm((at * at).sum(1, keepdim=True) / 2, at, some, alpha=-1)
                least, now = _least(half)
                now = now.long()
                next_one = half.scatter_(0, now.unsqueeze(0), torch.inf).amin(0)
                if due is everything:
                    old, labels = labels, now
                    upper, lower = (bound.mul_(2).add_(square).clamp_min_(0).sqrt_() for bound in (least, next_one))
                else:
                    old = labels.index_select(0, due)
                    labels.index_copy_(0, due, now)
                    for bound, value in ((upper, least), (lower, next_one)):
                        bound.index_copy_(0, due, value.mul_(2).add_(square).clamp_min_(0).sqrt_())
                other = (now != old).nonzero().squeeze(1)
                if sweep == 1:
                    sums.index_add_(0, now, counted)
                elif len(other):
                    changed = counted.index_select(0, due[other])
                    sums.index_add_(0, now[other], changed).index_add_(0, old[other], changed, alpha=-1)
                sizes, full = sums[:, -1:], float(sums[:, -1].min()) > 0
                moved = sums[:, :-1] / sizes
                if not full:
                    moved = torch.where(sizes > 0, moved, at)
                    if sweep % _LOOK == 0:
                        exact = (upper.square() - squares) / 2
                        moved = _settled(moved[None, None], sizes[None, None, :, 0], points[None], exact[None, None])[
                            0, 0
                        ]
                shift = torch.linalg.vector_norm(moved - at, dim=1)
                at.copy_(moved)
                if full and (not len(other) or float(shift.dot(shift)) <= end):
                    break
                first, second = (*shift.topk(min(2, clusters)).values.tolist(), 0.0)[:2]
                upper += shift.index_select(0, labels)
                lower -= torch.where(shift == first, second, first).index_select(0, labels)
    return result


def _settled(centres: Tensor, sizes: Tensor, rows: Tensor, least: Tensor) -> Tensor:
    """The centres (m, S, k, h), those of clusters without rows at the rows that lie farthest from their own centre.

    Args:
        sizes: (m, S, k) rows of each cluster.
        least: (m, S, n) of `_least`.
    """
    count = min(centres.shape[2], rows.shape[1])
    far = (least + rows.square().sum(2).unsqueeze(1) / 2).topk(count, dim=2).indices  # (m, S, count)
    empty = sizes == 0
    turn = (empty.cumsum(2) - 1).clamp(0, count - 1)
    places = _taken(rows, far.gather(2, turn).flatten(1)).view_as(centres)
    return torch.where(empty.unsqueeze(3), places, centres)


# Judging a grouping ---------------------------------------------------------------------------------------------------


def silhouettes(points: Tensor, labels: Tensor, clusters: int) -> Tensor:
    """Silhouette of each point: how much nearer its own cluster is than the next one; 0 where it is alone in its own.

    Source: Rousseeuw, "Silhouettes", J. Comput. Appl. Math. 20 (1987). Distances are Euclidean. They are made in blocks
    of rows, each pair once, and never all at the same time.

    Args:
        points: float64 (m, v, h).
        labels: int64 (m, v), 0 to clusters - 1.

    Returns:
        (m, v); of no meaning for a member whose points are all in one cluster.
    """
    return torch.cat([
        _silhouettes(points[part], labels[part], clusters)
        for part in _chunks(points, points.shape[1] * max(64, points.shape[2]))
    ])  # fmt: skip


def _silhouettes(points: Tensor, labels: Tensor, clusters: int) -> Tensor:
    points = points - points.mean(1, keepdim=True)
    members, count, _ = points.shape
    squares = points.square().sum(2)
    hot = _one_hot(labels, clusters)  # (m, k, v)
    columns = hot.transpose(1, 2).contiguous()
    # Sums of the distances of each point to the points of each cluster; those to earlier blocks the other way round.
    sums, earlier = points.new_zeros(members, count, clusters), torch.zeros_like(hot)
    room = (_GPU_BYTES if points.is_cuda else _CPU_BYTES) // (8 * members * max(1, count))
    size = max(16, room // 16 * 16)
    for start in range(0, count, size):
        block, rest = slice(start, min(start + size, count)), slice(start, count)
        length = block.stop - start
        apart = torch.baddbmm(
            squares[:, rest].unsqueeze(1), points[:, block], points[:, rest].transpose(1, 2), alpha=-2
        )
        apart = apart.add_(squares[:, block].unsqueeze(2)).clamp_min_(0).sqrt_()
        apart[:, :, :length].diagonal(dim1=1, dim2=2).zero_()
        torch.bmm(apart, columns[:, rest], out=sums[:, block])
        earlier[:, :, block.stop :].add_(torch.bmm(hot[:, :, block], apart[:, :, length:]))
    sums += earlier.transpose(1, 2)
    sizes = hot.sum(2)  # (m, k)
    own = columns.bool()
    size_of = (columns * sizes.unsqueeze(1)).sum(2)
    within = torch.where(own, sums, 0.0).sum(2) / (size_of - 1).clamp_min(1)
    others = torch.where(own | (sizes == 0).unsqueeze(1), torch.inf, sums / sizes.clamp_min(1).unsqueeze(1)).amin(2)
    wider = torch.maximum(within, others)
    return torch.where((size_of > 1) & (wider > 0), (others - within) / torch.where(wider > 0, wider, 1.0), 0.0)


def adjusted_rand(table: Tensor) -> Tensor:
    """Adjusted Rand index (m,) of two groupings from their table (m, k, k) of counts; 1 where they agree on all pairs.

    Source: Hubert & Arabie, "Comparing partitions", J. Classification 2 (1985), by pairs of rows.
    """
    rows = table.sum(dim=(1, 2))
    both = table.square().sum(dim=(1, 2))
    first, second = table.sum(2).square().sum(1), table.sum(1).square().sum(1)
    together, alone, other = both - rows, first - both, second - both
    neither = rows.square() - first - second + both
    below = (together + alone) * (alone + neither) + (together + other) * (other + neither)
    same = (alone == 0) & (other == 0)
    return torch.where(same, 1.0, 2 * (together * neither - alone * other) / torch.where(below != 0, below, 1.0))
