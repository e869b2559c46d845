"""The one verdict a source: every kind from small inputs, and the same in a search folder."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest

from tests.support.references import search_with_references
from tim_search.ledger import Ledger
from tim_search.plans.expansion import Candidate, Expansion
from tim_search.results import confirmation, opened
from tim_search.results.confirmation import UNKNOWN, Confirmed, Contrast
from tim_search.results.learnt import Behind, Learnt
from tim_search.results.verdicts import Verdict, verdict, verdicts
from tim_search.types import Subset

NAN = math.nan


def expanded(best: Subset = ("a",), *, low: float = 0.01, complete: bool = True, single: float = 0.7) -> Expansion:
    """The expansion of a: its best combination, or alone beside a pair whose interval begins at `low`."""
    leader = Candidate(("a", "b"), 0.73, 0.03, low, 0.06 - low)
    gain, bottom, top = (0.03, low, 0.06 - low) if best != ("a",) else (0.0, NAN, NAN)
    return Expansion(
        "a", best, single + gain, single, gain, bottom, top, bottom > 0, "blocks", leader, (), "waiting for 2 subsets",
        9, complete,
    )  # fmt: skip


def compared(members: Subset, value: float, half: float, rejected: bool = False) -> Confirmed:
    """A comparison on the test patients, in the words of the confirmation."""
    comparison = Confirmed(
        "a", "auroc", members, 5, 0.68, 0.68 + value, 0.01, 0.01, NAN, NAN,
        Contrast(value, value - half, value + half, 0.01), UNKNOWN, UNKNOWN, 1.0, 0.03, rejected, "",
    )  # fmt: skip
    return dataclasses.replace(comparison, verdict=confirmation.verdict(comparison))


def judged(learnt: str) -> Learnt:
    return Learnt("a", learnt, 0.55, {"linear": 0.75}, "linear", Behind(-0.2, -0.25, -0.15), "0.55, linear 0.75")  # type: ignore[arg-type]


PAIR, TRIPLE = ("a", "b"), ("a", "b", "c")


@pytest.mark.parametrize(
    ("expansion", "tests", "words", "advised"),
    [
        (expanded(low=-0.01), [], "keep alone", ("a",)),
        (expanded(PAIR), [], "promising with b (not confirmed)", PAIR),
        (expanded(PAIR), [compared(PAIR, 0.02, 0.01, True)], "confirmed with b", PAIR),
        (expanded(low=-0.01), [compared(TRIPLE, 0.02, 0.01, True)], "confirmed with b + c", TRIPLE),
        (expanded(PAIR), [compared(PAIR, -0.02, 0.01)], "refuted with b", ("a",)),
        (expanded(low=-0.01), [compared(PAIR, -0.02, 0.01)], "refuted with b", ("a",)),
        (expanded(PAIR), [compared(TRIPLE, -0.02, 0.01)], "promising with b (not confirmed)", PAIR),
        (expanded(PAIR), [compared(PAIR, 0.02, 0.03)], "unclear with b", ("a",)),
        # Above zero by itself, but not among so many comparisons.
        (expanded(PAIR), [compared(PAIR, 0.02, 0.01)], "promising with b (not confirmed)", PAIR),
        # The latest comparison of a combination counts.
        (expanded(PAIR), [compared(PAIR, 0.02, 0.03), compared(PAIR, -0.02, 0.01)], "unclear with b", ("a",)),
        (expanded(low=-0.01), [compared(PAIR, 0.02, 0.03)], "keep alone", ("a",)),
        (expanded(complete=False), [], "unclear", ("a",)),
        (expanded(low=NAN), [], "unclear", ("a",)),
        (expanded(low=-0.01, single=NAN), [], "unclear", ("a",)),
    ],
)
def test_every_kind(expansion: Expansion, tests: list[Confirmed], words: str, advised: Subset) -> None:
    answer = verdict(expansion, "auroc", tests)
    assert (answer.words, answer.advised) == (words, advised)
    assert answer.sentence.startswith(f"a: {words}")
    assert answer.sentence.endswith(".")


def test_numbers_are_those_of_the_patients_that_decided() -> None:
    promising, confirmed = verdict(expanded(PAIR), "auroc"), verdict(
        expanded(PAIR), "auroc", [compared(PAIR, 0.02, 0.01, True)]
    )  # fmt: skip
    assert (promising.gain, promising.low, promising.high) == pytest.approx((0.03, 0.01, 0.05))
    assert (promising.single_score, promising.patients) == (0.7, "validation")
    assert (confirmed.gain, confirmed.low, confirmed.high) == pytest.approx((0.02, 0.01, 0.03))
    assert (confirmed.single_score, confirmed.patients) == (0.68, "test")
    assert "+0.020 AUROC (+0.010 to +0.030) on test patients" in confirmed.sentence


def test_what_has_not_learnt_has_no_combination_whatever_else_is_known() -> None:
    tests = [compared(PAIR, 0.02, 0.01, True)]
    answer = verdict(expanded(PAIR), "auroc", tests, judged("has not learnt"))
    assert (answer.kind, answer.combination, answer.advised) == ("has not learnt", ("a",), ("a",))
    assert "linear 0.75" in answer.reason
    assert verdict(expanded(PAIR), "auroc", tests, judged("cannot be told")).kind == "confirmed"


def test_all_refuted_combinations_are_named() -> None:
    tests = [compared(TRIPLE, 0.02, 0.03), compared(PAIR, -0.02, 0.01), compared(("a", "c"), -0.02, 0.01)]
    answer = verdict(expanded(PAIR), "auroc", tests)
    assert answer.refuted == (PAIR, ("a", "c"))
    assert answer.record()["refuted"] == "a + b; a + c"
    assert answer.record()["train"] == "a"


def test_a_sample_says_how_to_go_on() -> None:
    answer = verdict(expanded(complete=False), "auroc", sampled=True)
    assert (answer.kind, "confirmed" in answer.reason) == ("unclear", True)


# ------------------------------------------------------------------------------------------------ in a search folder


def found(results: opened.SearchResults) -> Verdict:
    return verdicts(results)["a"]


def test_a_search_that_has_learnt_keeps_its_discovery(tmp_path: Path) -> None:
    results = search_with_references(tmp_path, 0.70)
    assert results.not_learnt == ()
    assert results.tim().rejected[0, 1]
    assert found(results).words == "promising with b (not confirmed)"
    assert found(results).advised == ("a", "b")
    assert list(verdicts(results)) == ["a", "b", "c"]


def test_a_source_that_has_not_learnt_has_no_discovery_and_no_combination(tmp_path: Path) -> None:
    results = search_with_references(tmp_path, 0.80)
    assert results.not_learnt == ("a",)
    result = results.tim()
    assert not result.rejected[0].any()
    assert any("Not learnt alone: a." in note for note in result.notes)
    for rule in ("paper", "lower_bound"):
        expansion = results.expand(rule)[0][0]  # type: ignore[arg-type]
        assert (expansion.best, expansion.leader, expansion.holds) == (("a",), None, False)
        assert expansion.single_score == pytest.approx(0.7, abs=0.01)
    assert found(results).kind == "has not learnt"
    assert results.expand("paper")[0][1].leader is not None, "the others keep theirs"


def test_a_search_without_references_has_verdicts_too(tmp_path: Path) -> None:
    results = search_with_references(tmp_path, None)
    assert results.learnt == {}
    assert found(results).kind == "promising"
    assert isinstance(results.ledger, Ledger)
