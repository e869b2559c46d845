"""Weights of tasks from the Gram matrices of their gradients: PCGrad, CAGrad and UPGrad, for all members at once.

The direction that such a method takes is a weighted sum of the tasks' gradients, and the weights follow from their
inner products alone. So a pack needs one small matrix a member and no projection of long gradients. The formulas are
those of TorchJD 0.18 (`torchjd.aggregation`), scaled so that gradients which do not conflict are added up as
`balance: equal` adds them up.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

#: Radius of CAGrad's ball around the mean gradient, as a share of its length (c of Liu et al. 2021, who take 0.4 on
#: NYU-v2).
RADIUS = 0.4
#: What TorchJD adds to the diagonal of a Gram matrix of trace 1, so that UPGrad's programs have one solution.
_RIDGE = 1e-4
#: Length of CAGrad's combined gradient, of a Gram matrix of trace 1, below which there is no way down for all.
_STATIONARY = 1e-4

_MOST_STEPS, _GAP = 60, 1e-14  # of the interior-point method; it takes some fifteen


def pcgrad(gram: Tensor, order: Tensor) -> Tensor:
    """(K, k) weights of PCGrad (Yu et al. 2020, algorithm 1).

    Each task's gradient loses, task by task, what it has against the others'; the results are added up.

    Args:
        gram: float64 (K, k, k) inner products of each member's gradients.
        order: int64 (k, k), for each task a permutation of all tasks: the order in which it meets them.
    """
    members, k, _ = gram.shape
    tasks = torch.arange(k, device=gram.device)
    weights = torch.eye(k, dtype=gram.dtype, device=gram.device).repeat(members, 1, 1)  # of each task's own gradient
    lengths = gram.diagonal(dim1=1, dim2=2)
    for met in order.unbind(1):
        against = (gram[:, met] * weights).sum(2)  # (K, k)
        taken = torch.where((against < 0) & (met != tasks), against / lengths[:, met], 0.0)
        weights[:, tasks, met] -= taken
    return weights.sum(1)


def cagrad(gram: Tensor) -> Tensor:
    """(K, k) weights of CAGrad (Liu et al. 2021, algorithm 1), k / (1 + c) times those of TorchJD.

    The direction within c of the mean gradient that lowers most the task which it lowers least; no direction at all
    where the gradients cancel out. One task alone has the weight 1.

    Args:
        gram: as of `pcgrad`.
    """
    k = gram.shape[1]
    scaled = _of_trace_one(gram)
    mean = scaled.mean(2)  # inner products with the mean gradient
    radius = RADIUS * mean.mean(1, keepdim=True).clamp_min(0).sqrt()  # (K, 1)

    def derivatives(w: Tensor, gap: Tensor) -> tuple[Tensor, Tensor]:
        # A length has a corner at 0, which may be just where the solution lies; the gap rounds it off.
        combined = (scaled @ w.unsqueeze(2)).squeeze(2)
        length = ((w * combined).sum(1, keepdim=True).clamp_min(0) + gap).sqrt()
        curve = scaled / length.unsqueeze(2) - combined.unsqueeze(2) * combined.unsqueeze(1) / length.unsqueeze(2) ** 3
        return mean + radius * combined / length, radius.unsqueeze(2) * curve

    w = _least(derivatives, torch.full_like(mean, 1 / k), on_simplex=True)
    length = torch.einsum("mi,mij,mj->m", w, scaled, w).clamp_min(0).sqrt().unsqueeze(1)
    weights = (1 + k * radius / length.clamp_min(_STATIONARY) * w) / (1 + RADIUS)
    return torch.where(length >= _STATIONARY, weights, 0.0)


def upgrad(gram: Tensor) -> Tensor:
    """(K, k) weights of UPGrad (Quinton and Rey 2024), k times those of TorchJD: its preference is 1 for each task.

    Each task's gradient is moved to the nearest direction that harms no task, and the results are added up.

    Args:
        gram: as of `pcgrad`.
    """
    members, k, _ = gram.shape
    eye = torch.eye(k, dtype=gram.dtype, device=gram.device)
    ridged = (_of_trace_one(gram) + _RIDGE * eye).repeat_interleave(k, 0)  # (K * k, k, k), one program a task
    wanted = eye.repeat(members, 1)

    def derivatives(x: Tensor, gap: Tensor) -> tuple[Tensor, Tensor]:
        return (ridged @ (wanted + x).unsqueeze(2)).squeeze(2), ridged

    # min v' G v with v >= u is a program in x = v - u >= 0.
    x = _least(derivatives, torch.full_like(wanted, 1 / k), on_simplex=False)
    return (wanted + x).view(members, k, k).sum(1)


def _of_trace_one(gram: Tensor) -> Tensor:
    """Gram matrices divided by their traces; gradients that are all zero stay so."""
    trace = gram.diagonal(dim1=1, dim2=2).sum(1)[:, None, None]
    return torch.where(trace > 0, gram / trace, 0.0)


def _least(
    derivatives: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], start: Tensor, *, on_simplex: bool
) -> Tensor:
    """(P, k) where each of P convex functions of x >= 0 is least, by a primal-dual interior-point method.

    A program that is solved stands still while others go on, so that no result hangs on what is solved beside it.

    Args:
        derivatives: (P, k) slopes and (P, k, k) curvatures at (P, k), of functions that may be rounded off by as much
            as the second argument, (P, 1): the gap that is left to close, which goes to 0.
        start: (P, k) above 0, on the simplex where the x are to stay on it.
        on_simplex: whether the x of a program add up to 1.
    """
    programs, k = start.shape
    x, force, price = start.clone(), torch.full_like(start, 1 / k), start.new_zeros(programs, 1)
    system = start.new_zeros(programs, k + 1, k + 1)  # of the x and of the price of their sum
    if on_simplex:
        system[:, k, :k] = system[:, :k, k] = 1.0
    else:
        system[:, k, k] = 1.0
    for _ in range(_MOST_STEPS):
        gap = (x * force).mean(1, keepdim=True)
        slope, curve = derivatives(x, gap)
        slope = slope + price
        going = torch.maximum(gap, (slope - force).abs().amax(1, keepdim=True)) > _GAP
        if not going.any():
            break
        aim = 0.1 * gap
        system[:, :k, :k] = curve + torch.diag_embed(force / x)
        right = torch.cat([aim / x - slope, torch.zeros_like(price)], dim=1)
        way, _ = torch.linalg.solve_ex(system, right.unsqueeze(2))
        along, up = way[:, :k, 0], way[:, k:, 0]
        pushed = (aim - force * along) / x - force
        room = torch.cat([-along / x, -pushed / force], dim=1).amax(1, keepdim=True)
        share = torch.where(going, 0.995 / room.clamp_min(0.995), 0.0)
        x, force, price = x + share * along, force + share * pushed, price + share * up
    return x
