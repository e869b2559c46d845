"""A cheap reference model that says how much a column inflates: points for the range of each input, added up."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.cohorts.checks import warning
from model.cohorts.column_names import SCORES, words
from model.cohorts.leaks_survey import BINS, Survey, Target, score
from model.cohorts.overlaps import FEWEST
from tim_search.types import Finding

#: Columns that the model is given, the strongest first, and folds that are held out in turn.
MOST_COLUMNS, MOST_FOLDS = 48, 3
#: ... and where all inputs together are asked.
MOST_TOGETHER = 96
#: A number that all inputs together predict this well, and no single one nearly as well, is computed from them ...
JOINT_R2, JOINT_AHEAD = 0.75, 0.2
#: ... and one with the name of a severity score is where they predict it this well.
SCORE_R2 = 0.5
_RANGES, _RIDGE = 8, 5.0


@dataclass(frozen=True)
class Suspicion:
    """Columns that may tell what nobody knows at the moment of prediction.

    Attributes:
        place, problem, fix: of the finding that it becomes.
        columns: indices in the survey.
        target: index of what they tell; None: what they tell most of.
        fact: a fact of care rather than a leak: the columns stay in the models that others are held against.
        least: what the columns must add to the score of the reference model to be worth a finding.
    """

    place: str
    problem: str
    fix: str
    columns: tuple[int, ...]
    target: int | None = None
    fact: bool = False
    least: float = -np.inf


def weighed(view: Survey, suspicions: Sequence[Suspicion]) -> Iterator[tuple[Suspicion, Finding]]:
    """The findings, each with what a reference model reaches with its columns and without any suspected one."""
    suspected = {column for item in suspicions if not item.fact for column in item.columns}
    for item in suspicions:
        target = view.most_told(item.columns) if item.target is None else item.target
        if target is None:
            yield item, warning(item.place, item.problem, item.fix)
            continue
        base = _strongest(view, target, MOST_COLUMNS, without={*suspected, *item.columns})
        # Of a hundred columns that share a fault the strongest say what it does.
        allowed = [column for column in item.columns if view.allowed[target, column]]
        ranked = sorted(allowed, key=lambda column: -view.alone[target, column])[: MOST_COLUMNS // 2]
        without, with_them = _scores(view, view.targets[target], [base, [*base, *ranked]])
        if with_them - without < item.least:
            continue
        gain = f"{with_them:.2f} with {'it' if len(item.columns) == 1 else 'them'}, {without:.2f} without."
        gain = f" A reference model's {view.targets[target].measure} of {view.targets[target].what}: {gain}"
        yield item, warning(item.place, item.problem + ("" if np.isnan(with_them) else gain), item.fix)


def _strongest(view: Survey, target: int, most: int, without: set[int]) -> list[int]:
    """The columns that tell most of a target by themselves, as far as its task allows them."""
    strength = np.where(view.allowed[target], np.maximum(view.alone[target], view.gaps[target]), -1.0)
    strength[sorted(without)] = -1.0
    order = np.argsort(-strength, kind="stable")[:most]
    return [column for column in order.tolist() if strength[column] >= 0]


def computed(view: Survey) -> Iterator[Finding]:
    """Numbers that the inputs determine together, as a severity score is computed from what was measured."""
    for index, target in enumerate(view.targets):
        if not target.task or not target.numeric or (~np.isnan(target.values)).sum() < 10 * FEWEST:
            continue
        columns = _strongest(view, index, MOST_TOGETHER, without=set())
        if not columns:
            continue
        (together,) = _scores(view, target, [columns], folds=1)
        most = float(view.alone[index, columns].max())
        if together >= JOINT_R2 and together - most >= JOINT_AHEAD:
            why = f"no single input explains more than {most:.2f}"
        elif together >= SCORE_R2 and any(SCORES.fullmatch(part) for part in words(target.task)):
            why = "it has the name of a score that is computed from such measurements"
        else:
            continue
        problem = f"the inputs together predict it with R2 {together:.2f}, and {why}: it looks computed from them."
        fix = "Use it as an auxiliary task only, or leave it out: learning it is learning a formula."
        yield warning(f"tasks.{target.task}", problem, fix)


def _scores(view: Survey, target: Target, groups: Sequence[Sequence[int]], folds: int = MOST_FOLDS) -> list[float]:
    """R2 or AUROC on held-out patients of a model of each group of columns; NaN where the rows are too few.

    Ridge regression on the inputs cut into eight ranges (a category: its levels) and "not measured", which is the form
    that severity scores have; the mean over the folds that are held out.
    """
    union = sorted({column for group in groups for column in group})
    labelled = ~np.isnan(target.values)
    values, fold = target.values[labelled], view.fold[labelled]
    points, of_column = _points(view, labelled, union)
    total = points.T @ points
    results: list[list[float]] = [[] for _ in groups]
    for held in range(min(folds, int(view.fold.max(initial=0)) + 1)):
        judge = fold == held
        if judge.sum() < FEWEST or (~judge).sum() < FEWEST or values[judge].std() == 0:
            continue
        mean = values[~judge].mean()
        square = (total - points[judge].T @ points[judge]).astype(np.float64)
        square[np.diag_indices_from(square)] += _RIDGE
        moment = (points[~judge].T @ (values[~judge] - mean)).astype(np.float64)
        for scores, group in zip(results, groups, strict=True):
            at = np.flatnonzero(np.isin(of_column, group))
            weights = np.linalg.solve(square[np.ix_(at, at)], moment[at])
            scores.append(score(mean + points[judge][:, at] @ weights, values[judge], target.numeric))
    return [float(np.mean(scores)) if scores else float("nan") for scores in results]


def _points(view: Survey, rows: NDArray[np.bool_], columns: Sequence[int]) -> tuple[NDArray[np.float32], NDArray[Any]]:
    """float32 (rows, points): which range of each column a row lies in; and int64 (points,), of which column."""
    parts, of_column = [], []
    for column in columns:
        codes = view.codes[rows, column].astype(np.int64)
        grouped = codes if view.nominal[column] else codes * _RANGES // BINS
        for value in np.unique(np.where(codes == BINS, -1, grouped)).tolist():
            parts.append((codes == BINS) if value < 0 else (grouped == value) & (codes < BINS))
            of_column.append(column)
    shape = (int(rows.sum()), len(parts))
    return np.array(parts, np.float32).T.reshape(shape), np.array(of_column, np.int64)
