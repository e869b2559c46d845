"""Contrastive loss over modality pairs, for many members at once, with its gradient in closed form.

Symmetric InfoNCE on unit vectors (M3H paper, sections 3.1 and 3.5, name a contrastive loss between modalities and
leaves its form open). For a pair (a, b) with unit vectors n_a, n_b of the B rows that have both modalities,

    S = n_a n_b^T / T,   loss = mean_i [ (logsumexp_j S_ij + logsumexp_j S_ji) / 2 - S_ii ],

averaged over the pairs. With P = exp(S), row sums r and column sums c, dloss/dS = (P (1/r_i + 1/c_j) / 2 - I) / B.
Autograd would keep and revisit several (members, B, B) arrays a pair; here the gradient is made in the forward pass,
in place, and only dz (members, B, h) is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

_EPSILON = 1e-12
#: Bytes of similarities held at once: a core's L2 cache; what keeps a GPU's kernels few and its memory free.
_CORE, _GPU = 1 << 20, 512 << 20


class _InfoNCE(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, present: Tensor | None, temperature: float, *z: Tensor) -> Tensor:
        norms = [torch.linalg.vector_norm(x, dim=2, keepdim=True).clamp_min_(_EPSILON) for x in z]
        units = [x / norm for x, norm in zip(z, norms, strict=True)]
        work = by_rows if z[0].device.type == "cpu" else by_masks
        loss, slopes = work(units, present, 1.0 / temperature)
        for unit, norm, slope in zip(units, norms, slopes, strict=True):
            # Through the normalisation: only the part across the unit vector moves it.
            slope.sub_(unit * (unit * slope).sum(2, keepdim=True)).div_(norm)
        ctx.save_for_backward(*slopes)
        return loss

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        by_member = upstream[0].view(-1, 1, 1)
        return (None, None, *(slope * by_member for slope in ctx.saved_tensors))


def by_rows(units: Sequence[Tensor], present: Tensor | None, scale: float) -> tuple[Tensor, list[Tensor]]:
    """Loss and gradient, each pair's rows picked out: the fewest operations, which is what a CPU needs.

    Args:
        units: one (members, B, h) of unit vectors a modality.
        present: see `info_nce`.
        scale: 1/T.

    Returns:
        (members,) loss, and its gradient by each of `units`, of their shapes.
    """
    members, size = units[0].shape[:2]
    slopes = [torch.zeros_like(unit) for unit in units]
    loss = units[0].new_zeros(members)
    pairs = []
    for a, b in combinations(range(len(units)), 2):
        rows = None if present is None else (present[:, a] & present[:, b]).nonzero().squeeze(1)
        count = size if rows is None else len(rows)
        if count >= 2:  # a single row has nothing to be contrasted with
            pairs.append((a, b, rows, count))
    # Members go through in chunks whose similarities of one pair stay in the cache over all passes.
    single = units[0].dtype != torch.float32  # double precision rounds by its pack mates otherwise
    chunk = 1 if single else max(1, _CORE // (size * size * 4))
    for start in range(0, members, chunk):
        part = slice(start, start + chunk)
        for a, b, rows, count in pairs:
            left = units[a][part] if rows is None else units[a][part].index_select(1, rows)
            right = units[b][part] if rows is None else units[b][part].index_select(1, rows)
            similarity = torch.bmm(left * scale, right.transpose(1, 2))
            matched = similarity.diagonal(dim1=1, dim2=2).sum(1)
            # Unit vectors bound S by 1/T, and settings keep T at 0.05 or more: exp needs no maximum taken off.
            weight = similarity.exp_()
            row_sum, column_sum = weight.sum(2), weight.sum(1)
            loss[part] += ((row_sum.log().sum(1) + column_sum.log().sum(1)) / 2 - matched) / count
            row_sum.reciprocal_().mul_(0.5)
            column_sum.reciprocal_().mul_(0.5)
            weight *= row_sum.unsqueeze(2) + column_sum.unsqueeze(1)
            weight.diagonal(dim1=1, dim2=2).sub_(1.0)
            factor = scale / (count * len(pairs))
            if rows is None:
                slopes[a][part].baddbmm_(weight, right, alpha=factor)
                slopes[b][part].baddbmm_(weight.transpose(1, 2), left, alpha=factor)
            else:
                slopes[a][part].index_add_(1, rows, torch.bmm(weight, right), alpha=factor)
                slopes[b][part].index_add_(1, rows, torch.bmm(weight.transpose(1, 2), left), alpha=factor)
    return loss / max(len(pairs), 1), slopes


def by_masks(units: Sequence[Tensor], present: Tensor | None, scale: float) -> tuple[Tensor, list[Tensor]]:
    """The same for all pairs at once, with every row in each of them, where absent ones weigh nothing: for a GPU.

    It takes few kernels that pass seldom over the similarities, and the host has to wait for nothing. Arguments and
    result are those of `by_rows`. With r = 1/(2 row sums) and c = 1/(2 column sums),
    (P (r_i + c_j)) n_b = r (P n_b) + P (c n_b): one product of P with n_b and c n_b side by side, so that P need not be
    revisited.
    """
    members, size, h = units[0].shape
    stacked = torch.stack(tuple(units))  # (modalities, members, B, h)
    slopes = torch.zeros_like(stacked)
    loss = stacked.new_zeros(members)
    first, second = zip(*combinations(range(len(units)), 2), strict=True)
    there = stacked.new_ones(len(units), size) if present is None else present.T.to(stacked.dtype)
    absent = (1.0 - _of(there, first) * _of(there, second)).view(-1, 1, size, 1)  # (pairs, 1, B, 1)
    counts = (1.0 - absent).sum(dim=(1, 2, 3), keepdim=True)
    used = (counts >= 2).to(stacked.dtype)
    share = used / (counts.clamp_min(1.0) * used.sum().clamp_min(1.0))
    chunk = max(1, _GPU // (len(first) * size * size * stacked.element_size()))
    for start in range(0, members, chunk):
        part = slice(start, start + chunk)
        left, right = _of(stacked[:, part], first), _of(stacked[:, part], second)  # (pairs, chunk, B, h)
        bare = absent.expand(-1, left.shape[1], -1, -1)
        weight = _product(*_shut(left * scale, right, bare)) if present is not None else _product(left * scale, right)
        weight.exp_()
        # Where nothing is there the sum is set to one, so that it has a logarithm, which is zero.
        rows, columns = (weight.sum(axis).unsqueeze(-1) + absent for axis in (3, 2))
        matched = (left * right * (1.0 - absent)).sum(dim=(2, 3)) * scale
        by_pair = (rows * columns).log().sum(dim=(2, 3)) / 2 - matched  # (pairs, chunk)
        loss[part] = (share.view(-1, 1) * by_pair).sum(0)
        r, c = 0.5 / rows, 0.5 / columns
        for numbers, other, mine, others, turned in (
            (first, right, r, c, weight),
            (second, left, c, r, weight.transpose(2, 3)),
        ):
            plain, weighed = torch.matmul(turned, torch.cat([other, other * others], dim=3)).split(h, dim=3)
            change = (mine * plain + weighed - other * (1.0 - absent)) * (share * scale)
            for number, slope in zip(numbers, change, strict=True):  # one after another: atomic additions have no order
                slopes[number, part] += slope
    return loss, list(slopes)


def _of(x: Tensor, numbers: Sequence[int]) -> Tensor:
    """What belongs to some modalities, by pairs: x[numbers] without an index that would have to reach the device."""
    return torch.stack([x[number] for number in numbers])


def _product(left: Tensor, right: Tensor) -> Tensor:
    """(pairs, members, B, B)"""
    return torch.matmul(left, right.transpose(2, 3))


def _shut(left: Tensor, right: Tensor, absent: Tensor) -> tuple[Tensor, Tensor]:
    """Factors whose product is minus a thousand or less, so that its exponential is zero, where a row is absent."""
    whole, far = torch.ones_like(absent), -1000.0 * absent
    # Two columns more do it; four keep the rows at a boundary of 16 bytes, which fast products want.
    nothing = torch.zeros_like(absent).expand(-1, -1, -1, 2)
    return torch.cat([left, far, whole, nothing], dim=3), torch.cat([right, whole, far, nothing], dim=3)


def info_nce(z: Sequence[Tensor], present: Tensor | None, temperature: float) -> Tensor:
    """Contrastive loss of each member.

    Args:
        z: one (members, B, h) embedding a modality.
        present: bool (B, n_modalities), the same for all members because they share the minibatch; None: all present.
        temperature: T, at least 0.05 in float32.

    Returns:
        (members,): mean over the modality pairs that at least two rows of the batch have; 0 where there is none.
    """
    if len(z) < 2:
        return z[0].new_zeros(z[0].shape[0])
    return _InfoNCE.apply(present, temperature, *z)
