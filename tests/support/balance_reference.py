"""Balanced losses of one subset, written with TorchJD: the oracle of `model.training.balance`.

A single model with ordinary parameters, a Jacobian of the tasks' losses row by row, TorchJD's weightings and
scalarizers. TorchJD solves CAGrad with a conic solver that is no dependency of the tests; here SciPy does.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import minimize, nnls
from torch import Tensor
from torchjd.aggregation import PCGradWeighting, UPGradWeighting
from torchjd.linalg import DualConeProjector, PSDMatrix
from torchjd.scalarization import DWA, UW

RADIUS = 0.4


class Nnls(DualConeProjector):
    """TorchJD's projection with SciPy's active-set solver, which is exact, in the place of quadprog."""

    def __call__(self, U: Tensor, G: PSDMatrix) -> Tensor:
        gram = (G / G.diagonal().sum()).numpy() + 1e-4 * np.eye(len(G))
        root = np.linalg.cholesky(gram).T  # min |root (u + x)| over x >= 0
        return torch.stack([u + torch.tensor(nnls(root, -root @ u.numpy())[0]) for u in U])


def pcgrad(gram: Tensor, order: Tensor) -> Tensor:
    """TorchJD's weights, with these permutations in the place of those that it draws."""
    rows = iter(order)
    drawn, torch.randperm = torch.randperm, lambda _: next(rows)
    try:
        return PCGradWeighting()(gram)
    finally:
        torch.randperm = drawn


def upgrad(gram: Tensor) -> Tensor:
    """TorchJD's weights, each task preferred by 1."""
    return UPGradWeighting(torch.ones(len(gram), dtype=gram.dtype), Nnls())(gram)


def cagrad(gram: Tensor) -> Tensor:
    """TorchJD's formula, so scaled that one task alone has the weight 1."""
    k = len(gram)
    scaled = (gram / gram.diagonal().sum()).numpy()
    mean = scaled.mean(1)
    radius = RADIUS * np.sqrt(mean.mean())

    def value(w: np.ndarray) -> tuple[float, np.ndarray]:
        length = np.sqrt(w @ scaled @ w)
        return mean @ w + radius * length, mean + radius * scaled @ w / length

    best = minimize(
        value,
        np.full(k, 1 / k),
        jac=True,
        method="SLSQP",
        bounds=[(0, 1)] * k,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1, "jac": lambda w: np.ones(k)},
        options={"ftol": 1e-16, "maxiter": 500},
    ).x
    length = np.sqrt(best @ scaled @ best)
    return torch.tensor(k * (1 / k + radius / length * best) / (1 + RADIUS))


class Reference:
    """The steps of one model: `descend` leaves the gradients, `parameters` are what else Adam moves."""

    def __init__(self, balance: str, tasks: int, shared: list[Tensor]) -> None:
        self._balance, self._shared = balance, shared
        self._uncertainty, self._dwa = UW(tasks).double(), DWA()
        self.parameters = list(self._uncertainty.parameters()) if balance == "uncertainty" else []

    def descend(self, losses: list[Tensor], beside: Tensor, order: Tensor) -> None:
        values = torch.stack(losses)
        if self._balance == "uncertainty":
            (beside + 2 * self._uncertainty(values)).backward()
        elif self._balance == "dwa":
            (beside + self._dwa(values)).backward()
        elif self._balance == "equal":
            (beside + values.sum()).backward()
        else:
            jacobian = torch.stack([self._gradient(loss) for loss in losses])
            gram = jacobian @ jacobian.T
            weights = {"pcgrad": lambda: pcgrad(gram, order), "cagrad": lambda: cagrad(gram)}.get(
                self._balance, lambda: upgrad(gram)
            )()
            aside = self._gradient(beside)
            (beside + values.sum()).backward()  # what is a task's own
            direction, at = aside + weights @ jacobian, 0
            for value in self._shared:
                value.grad = direction[at : at + value.numel()].view_as(value).clone()
                at += value.numel()

    def end_epoch(self) -> None:
        self._dwa.step()

    def _gradient(self, loss: Tensor) -> Tensor:
        if not loss.requires_grad:
            return torch.zeros(sum(value.numel() for value in self._shared), dtype=torch.float64)
        slopes = torch.autograd.grad(loss, self._shared, retain_graph=True, allow_unused=True, materialize_grads=True)
        return torch.cat([slope.flatten() for slope in slopes])
