"""Scores of many members at once, higher is better, under many weightings of the rows at once.

Row 0 of the weightings is usually all ones (the score itself) and the others are patient-bootstrap counts, so one sort
serves the score and all its replicates. Under every weighting the results equal scikit-learn's with `sample_weight`;
where scikit-learn has no answer, or one that says nothing (one class only), they are NaN.
`tim_search.types.ALLOWED` says which metrics a task of each problem class may be searched by.

All runs in float64 on the device of the outputs, and nothing comes back to the host. Weights that are counts have exact
sums, and no sum runs over members, so a member's score is the same in every bit whatever stands beside it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tim_search.types import ALLOWED, Kind

Array = NDArray[np.float64]

#: Bytes of the largest array that is made at once, by whether the device is a GPU: on a CPU it stays in a core's L2.
_BYTES = {False: 1 << 20, True: 128 << 20}


@dataclass(frozen=True)
class _Sides:
    """The cells of one comparison, int64 places in a member's outputs (n * C): those that are positive and the others;
    and the rows they lie in."""

    positive: Tensor
    negative: Tensor
    positive_rows: Tensor
    negative_rows: Tensor


@dataclass(frozen=True, eq=False)
class Truth:
    """What outputs for the same rows are scored by; made once for a task and a set of rows (`truth`).

    Attributes:
        kind: problem class; not clustering.
        width: C, outputs of a row.
        labels: float64 (n,) or, of a multilabel task, (n, C); 0 where there is none.
        rows: int64 (l,), the rows that carry a label.
        weights: float64 (n, R), the weightings of the rows.
        classes: a comparison for each class or label: one against the rest.
        pooled: the comparison over all cells of a multilabel task.
    """

    kind: Kind
    width: int
    labels: Tensor
    rows: Tensor
    weights: Tensor
    classes: tuple[_Sides, ...]
    pooled: _Sides | None

    def unweighted(self) -> Truth:
        """The same under the first weighting alone."""
        return replace(self, weights=self.weights[:, :1].contiguous())


def truth(kind: Kind, labels: Array, width: int, weights: Tensor) -> Truth:
    """What outputs are scored by.

    Args:
        labels: (n,) 0 or 1, class numbers, or values; (n, width) of 0 and 1 of a multilabel task. NaN: no label.
        width: outputs of a row, `model.networks.contract.n_logits`.
        weights: float64 (n, R), at least 0, on the device of the outputs.

    Raises:
        ValueError: a kind without labels.
    """
    if kind == "clustering":
        raise ValueError("a clustering task is not scored from labels")
    labelled = ~np.isnan(labels)
    if kind == "multilabel":
        positive, negative = labelled & (labels > 0.5), labelled & (labels <= 0.5)  # (n, width)
    elif kind == "multiclass":
        positive = labels[:, None] == np.arange(width)
        negative = labelled[:, None] & ~positive
    else:
        positive, negative = (labels > 0.5)[:, None], (labels <= 0.5)[:, None]

    def index(places: NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(places).to(weights.device)

    def comparison(columns: NDArray[np.bool_]) -> _Sides:
        one_side, other_side = (np.flatnonzero(side & columns).astype(np.int64) for side in (positive, negative))
        return _Sides(index(one_side), index(other_side), index(one_side // width), index(other_side // width))

    classes = tuple(comparison(np.arange(width) == c) for c in range(width)) if kind != "regression" else ()
    pooled = comparison(np.ones(width, bool)) if kind == "multilabel" else None
    rows = labelled.any(axis=1) if kind == "multilabel" else labelled
    return Truth(
        kind,
        width,
        torch.from_numpy(np.where(labelled, labels, 0.0)).to(weights.device),
        index(np.flatnonzero(rows).astype(np.int64)),
        weights,
        classes,
        pooled,
    )


def of_members(of: Truth, outputs: Tensor, names: Iterable[str] = ()) -> dict[str, Tensor]:
    """The metrics of m members' outputs for the same rows.

    Args:
        of: of the rows.
        outputs: finite (m, n, C): any increasing function of the probability in column 0 (binary), one logit a class
            (multiclass), the value in column 0, on the labels' scale (regression), one logit a label (multilabel), or
            any increasing function of its probability that is the same for all.
        names: which of `ALLOWED[of.kind]`; all of them where none is named.

    Returns:
        float64 (m, R) by name, in the order of `ALLOWED[of.kind]`; NaN where a weighting leaves nothing to tell apart.
        macro_auroc is the mean over the classes or labels (M3H paper, section 3.2) that the weighting leaves with both
        sides; micro_auroc takes all known cells as rows of one. For F1 a row is said to be of its likeliest class, of
        equally likely ones the first; macro_f1 is the mean over the classes that are true or said of some row the
        weighting leaves, and micro_f1 the share of rows rightly said.

    Raises:
        ValueError: a name that is no metric of the kind.
    """
    wanted = set(names) or set(ALLOWED[of.kind])
    if not wanted <= set(ALLOWED[of.kind]):
        raise ValueError(f"a {of.kind} task is not scored by {', '.join(sorted(wanted))} from labels")
    outputs = outputs[:, :, : of.width].double().contiguous()
    by_kind = {"binary": _binary, "multiclass": _multiclass, "multilabel": _multilabel, "regression": _regression}
    values = by_kind[of.kind](of, outputs, wanted)
    return {name: values[name] for name in ALLOWED[of.kind] if name in wanted}


def _binary(of: Truth, outputs: Tensor, wanted: set[str]) -> dict[str, Tensor]:
    values, (sides,) = {}, of.classes
    if "auroc" in wanted:
        values["auroc"] = _auroc(sides, outputs, of.weights)
    if "auprc" in wanted:
        values["auprc"] = _auprc(sides, outputs, of.weights)
    return values


def _multiclass(of: Truth, outputs: Tensor, wanted: set[str]) -> dict[str, Tensor]:
    values = {}
    if "macro_auroc" in wanted:
        chance = outputs.softmax(2)
        values["macro_auroc"] = _mean(torch.stack([_auroc(sides, chance, of.weights) for sides in of.classes], dim=2))
    if wanted & {"macro_f1", "micro_f1"}:
        values["macro_f1"], values["micro_f1"] = _f1(of, outputs)
    return values


def _multilabel(of: Truth, outputs: Tensor, wanted: set[str]) -> dict[str, Tensor]:
    values = {}
    if "macro_auroc" in wanted:
        values["macro_auroc"] = _mean(torch.stack([_auroc(sides, outputs, of.weights) for sides in of.classes], dim=2))
    if "micro_auroc" in wanted:
        assert of.pooled is not None
        values["micro_auroc"] = _auroc(of.pooled, outputs, of.weights)
    return values


def _regression(of: Truth, outputs: Tensor, wanted: set[str]) -> dict[str, Tensor]:
    """Weighted coefficient of determination; NaN where the labels do not vary."""
    labels, weights = of.labels.index_select(0, of.rows).unsqueeze(1), of.weights.index_select(0, of.rows)
    total = weights.sum(0)
    mean = (weights * labels).sum(0) / torch.where(total > 0, total, 1.0)
    spread = (weights * (labels - mean).square()).sum(0)
    error = (labels - outputs[:, :, :1].index_select(1, of.rows)).square()  # (m, l, 1)
    rest = torch.cat([(error[part] * weights).sum(1) for part in _parts(len(error), weights)])
    varied = spread > 1e-12 * total
    return {"r2": torch.where(varied, (spread - rest) / torch.where(varied, spread, 1.0), torch.nan)}


def _parts(members: int, *weights: Tensor) -> Iterator[slice]:
    """Members in chunks whose arrays, as large for each as all the weights, stay within `_BYTES`."""
    size = max(1, _BYTES[weights[0].is_cuda] // max(1, 8 * sum(weight.numel() for weight in weights)))
    yield from (slice(start, start + size) for start in range(0, members, size))


def _blocks(sides: _Sides, weights: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Weights of the positive and of the negative cells, (p, r) and (q, r), for some of the weightings in turn."""
    count = weights.shape[1]
    # Fewer than 16 at a time would gather single numbers instead of lines of the cache.
    size = max(16, _BYTES[weights.is_cuda] // (8 * max(1, len(sides.positive) + len(sides.negative))))
    for start in range(0, count, size):
        part = weights if size >= count else weights[:, start : start + size].contiguous()
        yield part.index_select(0, sides.positive_rows), part.index_select(0, sides.negative_rows)


def _upto(order: Tensor, places: Sequence[Tensor], weights: Tensor) -> list[Tensor]:
    """How much weight of sorted cells lies before places among them.

    Args:
        order: (m, q) cells in ascending order.
        places: each (m, p), from 0 to q.
        weights: (q, r) of the cells.

    Returns:
        each (m, p, r)
    """
    members, cells = order.shape
    sums = weights.new_zeros(members, cells + 1, weights.shape[1])  # nothing lies before the first place
    ordered = weights.index_select(0, order.flatten()).view(members, cells, weights.shape[1])
    torch.cumsum(ordered, 1, out=sums[:, 1:])
    first, rows = torch.arange(members, device=order.device).unsqueeze(1) * (cells + 1), sums.flatten(0, 1)
    return [rows.index_select(0, (at + first).flatten()).view(*at.shape, weights.shape[1]) for at in places]


def _auroc(sides: _Sides, outputs: Tensor, weights: Tensor) -> Tensor:
    """Area under the ROC curve (m, R), ties counted half, of outputs (m, n, C)."""
    cells, areas = outputs.flatten(1), []
    # The side with fewer cells is sorted, and the other one's cells are looked up in it.
    turned = len(sides.positive) < len(sides.negative)
    few, many = (sides.positive, sides.negative) if turned else (sides.negative, sides.positive)
    for positive, negative in _blocks(sides, weights):
        light, heavy = (positive, negative) if turned else (negative, positive)
        sums = []
        for part in _parts(len(cells), heavy):
            ranked, order = cells[part].index_select(1, few).sort(dim=1)
            sought = cells[part].index_select(1, many)
            # Those below a cell, and those at most as high: a tie is in the second alone, and so counts half.
            places = torch.searchsorted(ranked, sought), torch.searchsorted(ranked, sought, right=True)
            below, upto = _upto(order, places, light)
            sums.append(below.add_(upto).mul_(heavy).sum(1) / 2)
        pairs, wins = positive.sum(0) * negative.sum(0), torch.cat(sums)
        areas.append(_ratio(pairs - wins if turned else wins, pairs))
    return torch.cat(areas, dim=1)


def _auprc(sides: _Sides, outputs: Tensor, weights: Tensor) -> Tensor:
    """Average precision (m, R): the area under the precision-recall curve without interpolation, ties one step."""
    cells, areas = -outputs.flatten(1), []  # the likeliest first
    for positive, negative in _blocks(sides, weights):
        sums = []
        for part in _parts(len(cells), positive, negative):
            good, order = cells[part].index_select(1, sides.positive).sort(dim=1)
            ranked, others = cells[part].index_select(1, sides.negative).sort(dim=1)
            (right,) = _upto(order, [torch.searchsorted(good, good, right=True)], positive)
            (wrong,) = _upto(others, [torch.searchsorted(ranked, good, right=True)], negative)
            called = right + wrong
            precision = right / torch.where(called > 0, called, 1.0)
            weight = positive.index_select(0, order.flatten()).view_as(right)
            sums.append((precision * weight).sum(1))
        total = positive.sum(0)
        areas.append(_ratio(torch.cat(sums), torch.where(negative.sum(0) > 0, total, 0.0)))
    return torch.cat(areas, dim=1)


def _f1(of: Truth, outputs: Tensor) -> tuple[Tensor, Tensor]:
    """(macro, micro) F1, each (m, R)."""
    names = torch.arange(of.width, device=outputs.device)
    weights = of.weights.index_select(0, of.rows)
    true = (of.labels.index_select(0, of.rows).unsqueeze(1) == names).double()
    guessed = (outputs.index_select(1, of.rows).argmax(dim=2).unsqueeze(2) == names).double()  # (m, l, C)
    # Weights that are counts make these products exact, so that they may round as they like.
    hit, called = weights.t() @ (guessed * true), weights.t() @ guessed
    return (
        _mean(_ratio(2 * hit, called + weights.t() @ true)),
        _ratio(hit.sum(2), weights.sum(0)),
    )


def _ratio(above: Tensor, below: Tensor) -> Tensor:
    """`above / below`, NaN where `below` is not positive."""
    return torch.where(below > 0, above / torch.where(below > 0, below, 1.0), torch.nan)


def _mean(each: Tensor) -> Tensor:
    """Mean over the last axis, of the defined values; NaN where there is none."""
    usable = ~each.isnan()
    return _ratio(torch.where(usable, each, 0.0).sum(-1), usable.sum(-1).double())


# One model, in numpy --------------------------------------------------------------------------------------------------


def every(kind: Kind, labels: Array, logits: Array, weights: Array, names: Iterable[str] = ()) -> dict[str, Array]:
    """The metrics (R,) of one model, in numpy.

    Args:
        labels: as of `truth`.
        logits: (n, C), as `outputs` of `of_members`.
        weights: (R, n), at least 0.
        names: as of `of_members`; errors are its too.
    """
    wanted = tuple(names)
    if kind == "clustering":
        raise ValueError(f"a clustering task is not scored by {', '.join(wanted or ALLOWED[kind])} from labels")
    width = logits.shape[1] if kind in ("multiclass", "multilabel") else 1
    by_row = torch.from_numpy(np.ascontiguousarray(weights.T, dtype=np.float64))
    outputs = torch.from_numpy(np.ascontiguousarray(logits, dtype=np.float64))
    of_one = of_members(truth(kind, labels, width, by_row), outputs.unsqueeze(0), wanted)
    return {name: values[0].numpy() for name, values in of_one.items()}


def score(metric: str, kind: Kind, labels: Array, logits: Array, weights: Array) -> Array:
    """One metric (R,) of one model; arguments and errors as of `every`."""
    return every(kind, labels, logits, weights, (metric,))[metric]
