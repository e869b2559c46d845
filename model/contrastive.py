"""Contrastive loss over modality pairs, for many members at once, with its gradient in closed form.

Symmetric InfoNCE on L2-normalised embeddings (M3H paper, section 3.2, names a contrastive loss between modalities and
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
#: Similarities held at once, by whether the device is a GPU: a core's L2 cache, half of a data-centre GPU's.
_CACHE_BYTES = {False: 1 << 20, True: 24 << 20}


class _InfoNCE(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, present: Tensor | None, temperature: float, *z: Tensor) -> Tensor:
        members, size = z[0].shape[:2]
        norms = [torch.linalg.vector_norm(x, dim=2, keepdim=True).clamp_min_(_EPSILON) for x in z]
        units = [x / norm for x, norm in zip(z, norms, strict=True)]
        slopes = [torch.zeros_like(unit) for unit in units]
        loss = z[0].new_zeros(members)
        scale = 1.0 / temperature
        pairs = []
        for a, b in combinations(range(len(z)), 2):
            rows = None if present is None else (present[:, a] & present[:, b]).nonzero().squeeze(1)
            count = size if rows is None else len(rows)
            if count >= 2:  # a single row has nothing to be contrasted with
                pairs.append((a, b, rows, count))
        # Members go through in chunks whose similarities of one pair stay in the cache over all passes.
        room = _CACHE_BYTES[z[0].device.type == "cuda"]
        chunk = max(1, room // (size * size * z[0].element_size())) if z[0].dtype == torch.float32 else 1
        for start in range(0, members, chunk):
            part = slice(start, start + chunk)
            for a, b, rows, count in pairs:
                left = units[a][part] if rows is None else units[a][part, rows]
                right = units[b][part] if rows is None else units[b][part, rows]
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
        for unit, norm, slope in zip(units, norms, slopes, strict=True):
            # Through the normalisation: only the part across the unit vector moves it.
            slope.sub_(unit * (unit * slope).sum(2, keepdim=True)).div_(norm)
        ctx.save_for_backward(*slopes)
        return loss / max(len(pairs), 1)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        by_member = upstream[0].view(-1, 1, 1)
        return (None, None, *(slope * by_member for slope in ctx.saved_tensors))


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
