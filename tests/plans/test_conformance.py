"""Every plan of the product holds to the contract of plans."""

from __future__ import annotations

import pytest

from tests.support.plan_conformance import TASKS, PlanConformance
from tim_search import designs
from tim_search.plans.contract import Plan
from tim_search.plans.greedy import Greedy
from tim_search.plans.sequential import Rule, Sequential
from tim_search.plans.static import StaticPlan
from tim_search.plans.surrogate import Surrogate

SAMPLE = designs.subsets(designs.hybrid(len(TASKS), 25, seed=0), TASKS)


class TestExact(PlanConformance):
    def plan(self) -> Plan:
        return StaticPlan(designs.subsets(designs.exact(len(TASKS)), TASKS))


class TestSizedAsTuples(PlanConformance):
    def plan(self) -> Plan:
        return StaticPlan(tuple(designs.subsets(designs.sized(len(TASKS), 2), TASKS)))


class TestSampled(PlanConformance):
    def plan(self) -> Plan:
        return StaticPlan(SAMPLE, sampled=True)


class TestSliced(PlanConformance):
    def plan(self) -> Plan:
        return StaticPlan(SAMPLE, sliced=True, sampled=True)


@pytest.mark.parametrize("rule", ["paper", "lower_bound"])
class TestGreedy(PlanConformance):
    @pytest.fixture(autouse=True)
    def _rule(self, rule: str) -> None:
        self.rule = rule

    def plan(self) -> Plan:
        return Greedy(TASKS[:3], TASKS, beam=2, max_size=4, rule=self.rule)  # type: ignore[arg-type]


class TestSurrogate(PlanConformance):
    def plan(self) -> Plan:
        return Surrogate(TASKS[:2], TASKS, rounds=2, batch=2)


class TestSurrogateOfSmallSubsets(PlanConformance):
    def plan(self) -> Plan:
        return Surrogate(TASKS, TASKS, rounds=1, max_size=3)


class TestSequentialThatStops(PlanConformance):
    def plan(self) -> Plan:
        return Sequential(StaticPlan(SAMPLE, sampled=True), Rule(top_k=2, overlap=0.1, false_sign=0.9))


class TestSequentialToItsLimit(PlanConformance):
    def plan(self) -> Plan:
        strict = Rule(top_k=2, overlap=1.0, false_sign=1e-9)
        return Sequential(StaticPlan(SAMPLE, sliced=True, sampled=True), strict, TASKS[-1])
