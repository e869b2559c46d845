"""Hadamard matrices: +1 and -1 in square, every two columns orthogonal (Sylvester's and Paley's constructions)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def hadamard(order: int) -> NDArray[np.int8] | None:
    """A Hadamard matrix of this order by Sylvester's or Paley's constructions, or None where neither reaches it."""
    if order == 1:
        return np.ones((1, 1), np.int8)
    if order > 2 and order % 4:
        return None
    if _is_odd_prime(order - 1) and order % 4 == 0:
        # Paley I: q = order - 1 = 3 mod 4, the Jacobsthal matrix is skew-symmetric.
        core = np.ones((order, order), np.int8)
        core[1:, 1:] = _jacobsthal(order - 1) + np.eye(order - 1, dtype=np.int8)
        core[1:, 0] = -1
        return core
    half = order // 2
    if _is_odd_prime(half - 1) and (half - 1) % 4 == 1:
        # Paley II: q = order / 2 - 1 = 1 mod 4; the conference matrix C is symmetric, and C x [1 1; 1 -1] +
        # I x [1 -1; -1 -1] is Hadamard (x: Kronecker product).
        conference = np.ones((half, half), np.int8)
        conference[0, 0] = 0
        conference[1:, 1:] = _jacobsthal(half - 1)
        plus = np.array([[1, 1], [1, -1]], np.int8)
        minus = np.array([[1, -1], [-1, -1]], np.int8)
        return np.asarray(np.kron(conference, plus) + np.kron(np.eye(half, dtype=np.int8), minus), np.int8)
    smaller = hadamard(half)
    return None if smaller is None else np.block([[smaller, smaller], [smaller, -smaller]])


def _jacobsthal(prime: int) -> NDArray[np.int8]:
    """Q[a, b] = Legendre symbol of a - b modulo an odd prime."""
    legendre: NDArray[np.int8] = np.full(prime, -1, np.int8)
    legendre[np.arange(1, prime, dtype=np.int64) ** 2 % prime] = 1
    legendre[0] = 0
    index = np.arange(prime)
    return np.asarray(legendre[(index[:, None] - index[None, :]) % prime], np.int8)


def _is_odd_prime(number: int) -> bool:
    return number > 2 and all(number % divisor for divisor in range(2, int(number**0.5) + 1))
