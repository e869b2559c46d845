"""A sampled search that grows round by round until its answer stands, as a plan that is asked and replayed.

Subsets come from one extendable design: 4 M of them first, then half as many again in each round. After a round the
scores are estimated and two questions are asked of them. Would another draw of subsets, seeds and patients name the
same best helpers? How often does a score have the wrong sign? The search stops when both answers are good at two checks
running, or when all its subsets are trained.

Everything is a pure function of the score table. A check reads the units of its own round alone, so a search driven
live, one taken up again and one replayed from its ledger stop at the same place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from tim_search.ledger.table import ScoreTable
from tim_search.plans.contract import MOST, Plan
from tim_search.plans.static import StaticPlan
from tim_search.tim import scores as tim
from tim_search.tim.estimators import Array
from tim_search.tim.result import TimResult
from tim_search.types import BadInput, Unit

#: Subsets of the first round, for each task, and how many times as many the next round ends with.
FIRST, GROWTH = 4, 1.5
#: Checks in a row that must hold.
IN_A_ROW = 2
#: Draws behind the expected overlap.
N_DRAWS = 400


@dataclass(frozen=True, slots=True)
class Rule:
    """When an answer is good enough.

    Attributes:
        top_k: best helpers of each source.
        overlap: how many of them another search would name again, at least; a share, averaged over the sources.
        false_sign: chance that a score has the other sign, at most; averaged over all cells.

    Raises BadInput for numbers that make no rule.
    """

    top_k: int = 3
    overlap: float = 0.9
    false_sign: float = 0.05

    def __post_init__(self) -> None:
        if not (1 <= self.top_k <= MOST and 0 < self.overlap <= 1 and 0 < self.false_sign <= 1):
            raise BadInput(
                f"stopping rule: expected top_k of 1 to {MOST:,}, and overlap and false_sign above 0 and up to 1; got "
                f"{self.top_k}, {self.overlap} and {self.false_sign}."
            )


@dataclass(frozen=True, slots=True)
class Check:
    """What one check found; `overlap` and `false_sign` are NaN where nothing could be estimated."""

    subsets: int
    overlap: float
    false_sign: float
    holds: bool


@dataclass(frozen=True)
class Sequential(Plan):
    """A sampled design with a stopping rule.

    Attributes:
        design: all subsets the search may train, in their order, and how blocks share them.
        rule: when to stop.
        control: the negative control, which takes no part in the rule.
    """

    design: StaticPlan
    rule: Rule
    control: str | None = None

    @property
    def sizes(self) -> list[int]:
        """Subsets trained after each round, all of them last."""
        return sizes(len(self.design.subsets), len({name for members in self.design.subsets for name in members}))

    def ask(self, table: ScoreTable) -> list[Unit]:
        """See `Plan.ask`."""
        return self._replay(table)[1]

    def most(self, blocks: Sequence[tuple[int, int]]) -> int:
        """See `Plan.most`."""
        return self.design.most(blocks)

    @property
    def sample(self) -> StaticPlan:
        """See `Plan.sample`."""
        return self.design

    def checks(self, table: ScoreTable) -> list[Check]:
        """The checks made so far, the first round's first."""
        return self._replay(table)[0]

    def stopping(self, table: ScoreTable) -> dict[str, Any]:
        """Plain values: rule, checks, `stopped` (or not yet), and the reason in words."""
        checks, missing = self._replay(table)
        return {
            "rule": asdict(self.rule),
            "max_subsets": len(self.design.subsets),
            "checks": [
                {**asdict(check), "overlap": _number(check.overlap), "false_sign": _number(check.false_sign)}
                for check in checks
            ],
            "stopped": not missing,
            "reason": self._reason(checks, missing),
        }

    def _replay(self, table: ScoreTable) -> tuple[list[Check], list[Unit]]:
        checks: list[Check] = []
        for size in self.sizes:
            units = self.design.first(size).units(table.blocks)
            missing = [unit for unit in units if unit not in table.answered]
            if missing:
                return checks, missing
            checks.append(check(tim.from_table(table.of(units), "blup"), size, self.rule, self.control))
            if _stood(checks):
                break
        return checks, []

    def _reason(self, checks: Sequence[Check], missing: Sequence[Unit]) -> str:
        rule = self.rule
        aims = f"wanted {rule.overlap:g} or more, and {rule.false_sign:g} or less"
        last = ""
        if checks:
            last = (
                f"expected overlap of the best {rule.top_k} helpers {checks[-1].overlap:.2f} and chance of a wrong "
                f"sign {checks[-1].false_sign:.3f} ({aims})"
            )
        if missing:
            state = f"after {checks[-1].subsets} subsets: {last}" if checks else "before its first check"
            return f"goes on, {state}"
        if _stood(checks):
            return f"stopped after {checks[-1].subsets} subsets, the rule held at two checks running: {last}"
        return f"stopped at the limit of {checks[-1].subsets} subsets, the rule did not hold at two checks: {last}"


def sizes(limit: int, n_tasks: int) -> list[int]:
    """Subsets trained after each round of a search that may train `limit`."""
    rounds = [min(FIRST * n_tasks, limit)]
    while rounds[-1] < limit:
        rounds.append(min(int(np.ceil(GROWTH * rounds[-1])), limit))
    return rounds


def check(result: TimResult, subsets: int, rule: Rule, control: str | None = None) -> Check:
    """Hold an estimate against the rule, the rows and columns of the control left out."""
    judged = [index for index, name in enumerate(result.tasks) if name != control]
    at = np.ix_(judged, judged)
    overlap = expected_overlap(result.estimate[at], result.se[at], rule.top_k)
    signs = result.false_sign_rate[at]
    off = ~np.eye(len(judged), dtype=bool)
    # A cell that nothing is known of may have either sign.
    false_sign = float(np.where(np.isfinite(signs), signs, 0.5)[off].mean()) if off.any() else float("nan")
    return Check(subsets, overlap, false_sign, bool(overlap >= rule.overlap and false_sign <= rule.false_sign))


def expected_overlap(estimate: Array, se: Array, k: int) -> float:
    """Share of the k largest estimates of a row that are among the k largest true scores, expected, mean over rows.

    True scores are drawn from independent normal distributions around the estimates (M, M), with a fixed seed. A cell
    without an estimate or an error counts as the worst. NaN without other tasks.
    """
    m = len(estimate)
    if m < 2:
        return float("nan")
    k = min(k, m - 1)
    rng = np.random.default_rng(0)
    shares = []
    for i in range(m):
        estimated = np.isfinite(estimate[i]) & np.isfinite(se[i])
        estimated[i] = False
        values, errors = estimate[i, estimated], se[i, estimated]
        if not len(values):
            shares.append(0.0)
            continue
        best = np.argsort(-values, kind="stable")[:k]
        draws = values + errors * rng.normal(size=(N_DRAWS, len(values)))
        named = np.argsort(-draws, axis=1, kind="stable")[:, :k]
        shares.append(float(np.isin(named, best).sum(axis=1).mean()) / k)
    return float(np.mean(shares))


def _stood(checks: Sequence[Check]) -> bool:
    return len(checks) >= IN_A_ROW and all(check.holds for check in checks[-IN_A_ROW:])


def _number(value: float) -> float | None:
    return value if np.isfinite(value) else None
