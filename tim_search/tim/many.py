"""Least squares of very many subsets, for all sources at once, from sums of products.

Source i rests on the rows t that score it, x_t = (the row's block, codes z_tj of the other tasks), and needs of them

    the Gram matrix     sum_t x_t x_t'               counts of three tasks together, from bits: exact
    the level           sum_t x_t y_ti
    leverages           h_ti = x_t' P_i x_t          P_i the pseudo-inverse of the Gram matrix
    for HC3 errors      sum_t w_ti x_t x_t'          w_ti = (residual / (1 - h_ti))^2

The last two are sums over the products z_tj z_tk, which are the same for all sources: a chunk of rows is laid out once,
and one matrix product each gives leverages and errors of all of them. No rows are copied for a source, and nothing of
the size of the search is held beside its scores.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import DTypeLike, NDArray

from tim_search.tim.estimators import SPARE_ROWS, Array

Rows: TypeAlias = NDArray[np.int64]
Words: TypeAlias = NDArray[np.uint64]

#: Rows that are summed up together. A fixed number, so that no result depends on how many threads there are.
PART = 32_768
#: Products of codes that a thread lays out at a time.
PRODUCTS = 2**18
#: Coefficients of products that are held at a time: those of all sources, of hundreds of tasks those of some.
STATE = 2**23
#: Single precision gives leverages below this to nine digits of 1 - h; where one is higher all are computed again.
CLEAR = 0.05


class Apart(NamedTuple):
    """Scores of n subsets of M tasks, each subset trained in one of k blocks.

    Attributes:
        members: bool (n, M).
        block: int (n,), 0 to k - 1.
        scores: float64 (n, M); NaN where a task has no score.
        n_blocks: k.
        replicates: float (n, M, R) or None.
    """

    members: NDArray[np.bool_]
    block: Rows
    scores: Array
    n_blocks: int
    replicates: NDArray[np.floating] | None = None


class Summary(NamedTuple):
    """Least squares of a source with q other tasks and R replicates; NaN with too few rows.

    `n` rows score it, `n_with` (q,) of them hold each other task; `constant`: all its scores are equal. `estimate`,
    `se`, `df` are (q,), NaN where tasks cannot be told apart; `spread` (q,) times the variance of a block's effect on
    one code is the blocks' part of the squared error (see `estimators.shared_by_blocks`); `draws` (q, R) are the
    estimates from the replicates.
    """

    n: int
    n_with: Rows
    constant: bool
    estimate: Array
    se: Array
    df: Array
    spread: Array
    draws: Array


class _Sums(NamedTuple):
    """What one pass over the scores tells: all (k, ...) by block and (..., M) by source.

    `counts` (k, M) rows, `level` (k, M) mean scores, less `shift` (M,), one of the scores, which keeps digits;
    `products` (k, 1 + M, M): scores, less `shift`, times 1 and the codes; `draws` (k, 1 + M, M, R) the same of the
    replicates; `live` (M,): 0 for a source all of whose scores are equal within its blocks, else 1; `constant` (M,):
    all are equal; `members`, `scored_bits`, of each block (M, words), bits: which rows hold a task, which score it.
    """

    counts: Array
    level: Array
    shift: Array
    products: Array
    draws: Array
    live: Array
    constant: NDArray[np.bool_]
    members: Sequence[Words]
    scored_bits: Sequence[Words]


class _Fit(NamedTuple):
    """Least squares of one source with r blocks and q other tasks; `inverse` is all NaN with too few rows.

    `used` (r,), `others` (q,) are the numbers of its blocks and of these tasks; `scale` (r,) makes the columns of the
    blocks unit vectors; `gram`, `inverse` (r + q, r + q) and `beta` (r + q,) are in these columns.
    """

    n: int
    n_with: Rows
    constant: bool
    used: Rows
    others: Rows
    scale: Array
    gram: Array
    inverse: Array
    beta: Array
    spread: Array
    draws: Array


def least_squares(given: Apart) -> list[Summary]:
    """`model_free.least_squares` of every source."""
    m = given.members.shape[1]
    order = np.argsort(given.block, kind="stable")
    ends = np.searchsorted(given.block[order], np.arange(given.n_blocks + 1)).tolist()
    parts = [
        (b, order[start : min(start + PART, stop)])
        for b, (first, stop) in enumerate(pairwise(ends))
        for start in range(first, stop, PART)
    ]
    summaries: list[Summary] = []
    with ThreadPoolExecutor(max(1, min(8, _cores()))) as threads:
        sums = _sums(given, parts, threads)
        together = max(1, STATE // (m * m))
        for start in range(0, m, together):
            sources = range(start, min(start + together, m))
            fits = list(threads.map(lambda i: _fit(sums, i), sources))
            summaries += _errors(given, parts, sums, start, fits, threads)
    return summaries


def _cores() -> int:
    """Cores that this process may use; all of the machine's where the system does not tell."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _sums(given: Apart, parts: Sequence[tuple[int, Rows]], threads: ThreadPoolExecutor) -> _Sums:
    n, m = given.members.shape
    k = given.n_blocks
    width = 0 if given.replicates is None else given.replicates.shape[2]
    shift = np.zeros(m)
    missing = np.arange(m)
    for start in range(0, n, PART):  # the first score of each source; mostly all are in the first rows
        there = np.isfinite(given.scores[start : start + PART, missing])
        shift[missing] = np.where(there.any(axis=0), given.scores[start + there.argmax(axis=0), missing], 0.0)
        missing = missing[~there.any(axis=0)]
        if not len(missing):
            break

    def of(part: tuple[int, Rows]) -> tuple[int, Array, Array, Array, Array, Words, Words]:
        b, rows = part
        members, scores = given.members[rows], given.scores[rows]
        finite = np.isfinite(scores)
        y = np.where(finite, scores - shift, 0.0)
        codes = np.hstack([np.ones((len(rows), 1)), np.where(members, 1.0, -1.0)])
        extremes = np.stack([np.where(finite, y, np.inf).min(axis=0), np.where(finite, y, -np.inf).max(axis=0)])
        draws = np.zeros((1 + m, m, 0))
        if given.replicates is not None:
            values = np.where(finite[:, :, None], given.replicates[rows] - shift[:, None], 0.0)
            draws = (codes.T @ values.reshape(len(rows), -1)).reshape(1 + m, m, width)
        return b, finite.sum(axis=0), codes.T @ y, extremes, draws, _words(members), _words(finite)

    counts, products, draws = np.zeros((k, m)), np.zeros((k, 1 + m, m)), np.zeros((k, 1 + m, m, width))
    lowest, highest = np.full((k, m), np.inf), np.full((k, m), -np.inf)
    members: list[list[Words]] = [[] for _ in range(k)]
    scored: list[list[Words]] = [[] for _ in range(k)]
    for b, some, product, (low, high), draw, held, answered in threads.map(of, parts):
        counts[b] += some
        products[b] += product
        draws[b] += draw
        lowest[b], highest[b] = np.minimum(lowest[b], low), np.maximum(highest[b], high)
        members[b].append(held)
        scored[b].append(answered)
    level = products[:, 0] / np.maximum(counts, 1)
    used = counts > 0
    size = np.where(used, np.maximum(abs(lowest), abs(highest)), 0.0).max(axis=0)
    left = np.where(used, np.maximum(highest - level, level - lowest), 0.0).max(axis=0)
    nothing = np.zeros((m, 0), np.uint64)
    return _Sums(
        counts,
        level,
        shift,
        products,
        draws,
        (left > 1e-12 * size).astype(float),
        size == 0,
        [np.hstack([nothing, *each]) for each in members],
        [np.hstack([nothing, *each]) for each in scored],
    )


def _words(rows: NDArray[np.bool_]) -> Words:
    """bool (n, M) as bits of (M, words)."""
    packed = np.packbits(rows.T, axis=1)
    return np.ascontiguousarray(np.pad(packed, ((0, 0), (0, -packed.shape[1] % 8)))).view(np.uint64)


def _fit(sums: _Sums, i: int) -> _Fit:
    """Coefficients of source i."""
    m = len(sums.shift)
    used = np.flatnonzero(sums.counts[:, i])
    others = np.delete(np.arange(m), i)
    r, q = len(used), len(others)
    n = int(sums.counts[:, i].sum())
    moments = np.zeros((r, r + q, r + q))
    level, draws, n_with = np.zeros(r + q), np.zeros((r + q, sums.draws.shape[3])), np.zeros(q)
    scale = 1 / np.sqrt(sums.counts[used, i])
    for at, b in enumerate(used.tolist()):
        rows, together = sums.counts[b, i], _together(sums.members[b][others] & sums.scored_bits[b][i])
        each = together.diagonal()
        n_with += each
        linear = 2 * each - rows
        moments[at, r:, r:] = 4 * together - 2 * each - 2 * each[:, None] + rows
        moments[at, at, r:] = moments[at, r:, at] = scale[at] * linear
        moments[at, at, at] = 1.0
        level[r:] += sums.products[b, 1 + others, i] - sums.level[b, i] * linear
        draws[at] = scale[at] * sums.draws[b, 0, i]
        draws[r:] += sums.draws[b, 1 + others, i]
    gram = moments.sum(axis=0)
    enough = n >= r + q + SPARE_ROWS
    inverse = np.linalg.pinv(gram, rcond=1e-12, hermitian=True) if enough else np.full_like(gram, np.nan)
    shared = 2 * (inverse @ moments)[:, r:, r:]
    beta = inverse @ (level * sums.live[i])
    spread, estimates = (shared**2).sum(axis=(0, 2)), 2 * (inverse @ draws)[r:]
    facts = n, n_with.astype(np.int64), bool(sums.constant[i])
    return _Fit(*facts, used, others, scale, gram, inverse, beta, spread, estimates)


def _together(bits: Words) -> Array:
    """How many of the bits two rows of words share (q, q)."""
    q = len(bits)
    counts = np.zeros((q, q))
    for j in range(q):
        counts[j, j:] = np.bitwise_count(bits[j] & bits[j:]).sum(axis=1, dtype=np.uint32)
    return np.maximum(counts, counts.T)


def _coefficients(m: int, k: int, fits: Sequence[_Fit]) -> tuple[Array, Array, Array]:
    """(predictions, leverages as sums over codes, and over products of codes) of g sources with k blocks.

    (k, g, 1 + m), (k, g, 1 + m) and (g, m (m - 1) / 2), in the codes of all tasks and 0 at the source's own.
    """
    g = len(fits)
    first, second = np.triu_indices(m, 1)
    predicted, linear, products = np.zeros((k, g, 1 + m)), np.zeros((k, g, 1 + m)), np.zeros((g, len(first)))
    for at, fit in enumerate(fits):
        if np.isnan(fit.inverse).all():
            continue
        r = len(fit.used)
        full = np.zeros((m, m))
        full[np.ix_(fit.others, fit.others)] = fit.inverse[r:, r:]
        products[at] = 2 * full[first, second]
        predicted[fit.used, at, 0] = fit.scale * fit.beta[:r]
        predicted[fit.used[:, None], at, 1 + fit.others] = fit.beta[r:]
        linear[fit.used, at, 0] = fit.scale**2 * fit.inverse.diagonal()[:r] + np.trace(full)
        linear[fit.used[:, None], at, 1 + fit.others] = 2 * fit.scale[:, None] * fit.inverse[:r, r:]
    return predicted, linear, products


def _errors(
    given: Apart,
    parts: Sequence[tuple[int, Rows]],
    sums: _Sums,
    start: int,
    fits: Sequence[_Fit],
    threads: ThreadPoolExecutor,
) -> list[Summary]:
    """The fits of sources `start`, `start + 1`, ... with their errors."""
    m, g, k = given.members.shape[1], len(fits), given.n_blocks
    first, second = np.triu_indices(m, 1)
    predicted, linear, products = _coefficients(m, k, fits)
    mine = slice(start, start + g)
    live = sums.live[mine, None]

    def weighted(part: tuple[int, Rows], kind: DTypeLike) -> tuple[int, Array, Array, Array]:
        b, rows = part
        low, high = linear[b].astype(kind), products.astype(kind)
        total, rest, highest = np.zeros((g, 1 + m + len(first))), np.zeros(g), np.zeros(g)
        for some, codes in _chunks(given.members, rows):
            scores = given.scores[some, mine].T
            finite = np.isfinite(scores)
            y = live * (np.where(finite, scores, 0.0) - sums.shift[mine, None] - sums.level[b, mine, None])
            residual = np.where(finite, y - predicted[b] @ codes[: 1 + m], 0.0)
            plain = codes.astype(kind, copy=False)
            leverage = np.where(finite, low @ plain[: 1 + m] + high @ plain[1 + m :], 0.0)
            with np.errstate(divide="ignore", invalid="ignore"):
                weights = (residual / (1.0 - leverage.astype(float))) ** 2
            total += weights @ codes.T
            rest += (residual**2).sum(axis=1)
            np.maximum(highest, leverage.max(axis=1, initial=0.0), out=highest)
        return b, total, rest, highest

    for kind in (np.float32, np.float64):
        by_block, rest, highest = np.zeros((k, g, 1 + m)), np.zeros(g), np.zeros(g)
        pairs = np.zeros((g, len(first)))
        for b, total, some, high in threads.map(lambda part, kind=kind: weighted(part, kind), parts):
            by_block[b] += total[:, : 1 + m]
            pairs += total[:, 1 + m :]
            rest += some
            highest = np.maximum(highest, high)
        if highest.max(initial=0.0) < CLEAR:
            break

    summaries: list[Summary] = []
    for at, fit in enumerate(fits):
        r = len(fit.used)
        full = np.zeros((m, m))
        full[first, second] = pairs[at]
        meat = np.zeros_like(fit.gram)
        meat[r:, r:] = (full + full.T)[np.ix_(fit.others, fit.others)]
        meat[range(r, len(meat)), range(r, len(meat))] = by_block[:, at, 0].sum()
        meat[range(r), range(r)] = fit.scale**2 * by_block[fit.used, at, 0]
        meat[:r, r:] = fit.scale[:, None] * by_block[fit.used, at][:, 1 + fit.others]
        meat[r:, :r] = meat[:r, r:].T
        summaries.append(_summary(fit, meat, float(rest[at]), float(highest[at])))
    return summaries


def _chunks(members: NDArray[np.bool_], rows: Rows) -> Iterator[tuple[Rows, Array]]:
    """(some of the rows, (1 + M + M (M - 1) / 2, rows): ones, codes, and products of two codes as np.triu_indices)."""
    m = members.shape[1]
    size = 1 + m + m * (m - 1) // 2
    step = max(64, PRODUCTS // size)
    room = np.ones((size, min(step, len(rows))))
    for start in range(0, len(rows), step):
        some = rows[start : start + step]
        out = room[:, : len(some)]
        codes = out[1 : 1 + m]
        codes[...] = members[some].T
        codes *= 2
        codes -= 1
        at = 1 + m
        for j in range(m - 1):
            np.multiply(codes[j], codes[j + 1 :], out=out[at : at + m - 1 - j])
            at += m - 1 - j
        yield some, out


def _summary(fit: _Fit, meat: Array, rest: float, highest: float) -> Summary:
    r, q = len(fit.used), len(fit.others)
    if not q or np.isnan(fit.inverse).all():
        nothing = np.full(q, np.nan)
        return Summary(fit.n, fit.n_with, fit.constant, nothing, nothing, nothing, nothing, fit.draws)
    projection = fit.inverse @ fit.gram
    df = fit.n - round(float(projection.trace()))
    # A row that alone determines a coefficient has no residual; HC3 is undefined, the classical error is not.
    inner = meat if highest < 1 - 1e-8 else fit.gram * rest / max(df, 1)
    variance = np.einsum("jk,kl,jl->j", fit.inverse[r:], inner, fit.inverse[r:], optimize=True)
    nothing = np.where(projection.diagonal()[r:] > 1 - 1e-6, 0.0, np.nan)
    return Summary(
        fit.n,
        fit.n_with,
        fit.constant,
        2 * fit.beta[r:] + nothing,
        2 * np.sqrt(np.maximum(variance, 0.0)),
        np.full(q, float(df)),
        fit.spread + nothing,
        fit.draws + nothing[:, None],
    )
