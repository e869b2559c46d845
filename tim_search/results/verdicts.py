"""One verdict a source task: what to train it with, how sure that is, and why. Every page and table shows this value.

The kinds, in the order in which they are asked for:

    has not learnt  the network alone is surely behind its reference models (`results.learnt`). Whatever a combination
                    changes in it says nothing of the tasks, so none is named.
    confirmed       the test patients confirmed a combination: the interval of its gain lies above zero, and it stands
                    among all comparisons of the confirmations (`results.confirmation`).
    promising       the validation interval of a combination's gain lies above zero by the rule `lower_bound`, and no
                    test patient has contradicted it.
    refuted         the test patients showed a combination to be worse than the task alone.
    keep alone      combinations were compared, and none is shown to be better than the task alone.
    unclear         nothing can be said: not all is trained that it takes, there is no interval, or the test patients
                    leave open what the validation patients promised.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from tim_search.plans.expansion import Expansion
from tim_search.results.confirmation import Confirmed, tested
from tim_search.results.learnt import Learnt
from tim_search.types import METRIC_WORDS, Subset, joined

if TYPE_CHECKING:
    from tim_search.results.opened import SearchResults

Kind: TypeAlias = Literal["keep alone", "promising", "confirmed", "refuted", "unclear", "has not learnt"]

#: Of whom the number of a verdict is measured; "" where it has none.
Patients: TypeAlias = Literal["validation", "test", ""]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a search says of one source task. Numbers are in the source's metric, higher is better, NaN where unknown.

    Attributes:
        source, metric: the task and its metric.
        kind: see the module.
        combination: the subset that the verdict speaks of; (source,) where it speaks of none.
        gain, low, high: of the combination over the source alone, with a 95 % interval. Of "keep alone" those of the
            highest-scoring combination that was looked at.
        single_score: of the source alone, on the same patients as the gain.
        patients: on whom gain and score are measured.
        refuted: combinations that the test patients showed to be worse than the source alone.
        reason: why, in words.
    """

    source: str
    metric: str
    kind: Kind
    combination: Subset
    gain: float
    low: float
    high: float
    single_score: float
    patients: Patients
    refuted: tuple[Subset, ...]
    reason: str

    @property
    def advised(self) -> Subset:
        """The subset to train for the source: the combination where it is promising or confirmed, else it alone."""
        return self.combination if self.kind in ("promising", "confirmed") else (self.source,)

    @property
    def words(self) -> str:
        """The kind with its combination: "promising with b + c (not confirmed)"."""
        added = joined(name for name in self.combination if name != self.source)
        if not added or self.kind not in ("promising", "confirmed", "refuted", "unclear"):
            return self.kind
        return f"{self.kind} with {added}{' (not confirmed)' if self.kind == 'promising' else ''}"

    @property
    def sentence(self) -> str:
        """All of it in one sentence."""
        return f"{self.source}: {self.words}{self._numbers()}. {_capital(self.reason)}."

    def record(self) -> dict[str, Any]:
        """Flat, for tables and JSON: combinations as "a + b", `verdict` the words, `train` what is advised."""
        plain = {item.name: getattr(self, item.name) for item in fields(self)}
        return {
            "source": self.source,
            "verdict": self.words,
            **plain,
            "combination": joined(self.combination),
            "refuted": "; ".join(map(joined, self.refuted)),
            "train": joined(self.advised),
        }

    def _numbers(self) -> str:
        if not self.patients or self.combination == (self.source,) or math.isnan(self.gain):
            return ""
        span = "" if math.isnan(self.low) else f" ({self.low:+.3f} to {self.high:+.3f})"
        metric = METRIC_WORDS.get(self.metric, self.metric)
        return f", {self.gain:+.3f} {metric}{span} on {self.patients} patients"


def verdict(
    expansion: Expansion,
    metric: str,
    tests: Sequence[Confirmed] = (),
    learnt: Learnt | None = None,
    *,
    sampled: bool = False,
) -> Verdict:
    """The verdict on one source.

    Args:
        expansion: of the source by the rule "lower_bound".
        metric: of the source.
        tests: its comparisons on the test patients, the latest first (`confirmation.tested`).
        learnt: what the reference models say of it; None without references.
        sampled: whether the search trains a sample of subsets, among which no single ones compare.
    """
    source, alone = expansion.source, (expansion.source,)
    latest = _latest(tests)
    refuted = tuple(members for members, test in latest.items() if test.outcome == "refuted")

    def of(kind: Kind, reason: str, test: Confirmed | None = None, members: Subset = alone) -> Verdict:
        if test is not None:
            numbers = (test.gain.value, test.gain.low, test.gain.high, test.single)
            return Verdict(source, metric, kind, test.chosen, *numbers, "test", refuted, reason)
        looked = expansion if members == expansion.best and members != alone else expansion.leader
        gain, low, high = (looked.gain, looked.low, looked.high) if looked else (math.nan,) * 3
        patients: Patients = "" if math.isnan(expansion.single_score) else "validation"
        return Verdict(
            source, metric, kind, members, gain, low, high, expansion.single_score, patients, refuted, reason
        )

    if learnt is not None and learnt.verdict == "has not learnt":
        numbers = (math.nan, math.nan, math.nan, learnt.alone)
        return Verdict(source, metric, "has not learnt", alone, *numbers, "validation", refuted, learnt.reason)
    for test in latest.values():
        if test.outcome == "confirmed":
            return of("confirmed", _in_words(test), test)
    if expansion.best != alone and expansion.holds:
        best = latest.get(expansion.best)
        if best is None:
            return of("promising", "the gain holds on the validation patients that chose it", members=expansion.best)
        if best.outcome == "refuted":
            return of("refuted", _in_words(best), best)
        return of("promising" if best.gain.low > 0 else "unclear", _in_words(best), best)
    if refuted and next(iter(latest)) in refuted:
        return of("refuted", _in_words(latest[refuted[0]]), latest[refuted[0]])
    return of(*_untested(expansion, sampled))


def verdicts(results: SearchResults, sources: Sequence[str] = ()) -> dict[str, Verdict]:
    """The verdict on every source of a search, in their order; `sources` are other tasks to judge instead.

    Raises:
        BadInput: the record of a confirmation is damaged.
    """
    tests, sampled = tested(results), results.plan.sample is not None
    return {
        each.source: verdict(
            each,
            results.tasks[each.source].metric,
            tests.get(each.source, ()),
            results.learnt.get(each.source),
            sampled=sampled,
        )
        for each in results.expand("lower_bound", sources=tuple(sources))[0]
    }


def _untested(expansion: Expansion, sampled: bool) -> tuple[Kind, str]:
    """(kind, reason) of a source of which no combination is shown to be better on the validation patients."""
    leader = expansion.leader
    if not expansion.complete:
        advice = "a sample of subsets compares no single combination; the best that it predicts can be confirmed"
        return "unclear", advice if sampled else expansion.reason
    if math.isnan(expansion.single_score):
        return "unclear", "its training alone failed, so nothing can be compared with it"
    if leader is None:
        return "keep alone", "no combination has a score to compare"
    if math.isnan(leader.low):
        return "unclear", "one block without replicates: nothing says how sure a difference is"
    gain = f"{leader.gain:+.3f} ({leader.low:+.3f} to {leader.high:+.3f})"
    return "keep alone", f"no combination is shown to be better; the best, {joined(leader.subset)}, differs by {gain}"


def _latest(tests: Sequence[Confirmed]) -> dict[Subset, Confirmed]:
    """The latest comparison of each combination that has a result, the latest first."""
    latest: dict[Subset, Confirmed] = {}
    for test in tests:
        if test.chosen and math.isfinite(test.gain.value):
            latest.setdefault(test.chosen, test)
    return latest


def _in_words(test: Confirmed) -> str:
    """What the confirmation says, without its first word, which is the kind of the verdict."""
    return test.verdict.removeprefix("confirmed: ").removeprefix("refuted: ")


def _capital(text: str) -> str:
    """The text as the begin of a sentence; names of tasks and numbers at its begin stay as they are."""
    first = text.split(" ", 1)[0]
    return text[:1].upper() + text[1:] if first in ("the", "no", "its", "a", "one", "every", "waiting", "not") else text
