"""What the cells of a column seem to say: rules that are declared, and questions that are asked."""

from __future__ import annotations

import pandas as pd
import pytest

from model.cohorts.values import Rule, rule_text
from model.sources.own_table_values import Proposal, propose, value_lines
from tim_search.gates import yaml

RULES = {
    "70,5|80|-1,25": Rule(decimal=","),
    "1.234,5|12,25|3": Rule(decimal=",", thousands="."),
    "1,234.5|12.25|1,234": Rule(thousands=","),
    "0,123|0,456": Rule(decimal=","),
    "70,5|70.5": Rule(decimal=",."),
    "> 89|45|60": Rule(censored="limit"),
    "<0,1|0,5|2": Rule(decimal=",", censored="limit"),
    "1|2.5|NA|N/A": Rule(("NA", "N/A"), type="number"),
    "1 days 02:00:00|0 days 00:30:00": Rule(unit="hours"),
    "f|m|NA": Rule(),
    "0004|12|13": Rule(),
    "12:30|13:45": Rule(),
    "home|ward": Rule(),
    "2024-01-01|2024-01-02": Rule(),
    "1,234|5,678": Rule(),
}


@pytest.mark.parametrize("cells", RULES)
def test_the_rule_that_makes_values_of_cells(cells: str) -> None:
    values = pd.Series(cells.split("|") * 10 + [None])
    assert propose(values).rule == RULES[cells]


def test_what_only_a_person_can_decide_is_asked() -> None:
    levels = propose(pd.Series(["NA"] * 40 + ["no", "yes"] * 30))
    assert levels == Proposal(doubts=('40 rows hold the text "NA": a level, or not known?',), paste=Rule(("NA",)))
    mostly = propose(pd.Series([f"{k}.5" for k in range(97)] + ["hemolysed", "hemolysed", "pending"]))
    assert mostly.rule == Rule()
    assert mostly.paste == Rule(("hemolysed", "pending"), type="number")
    assert '97% of its cells are numbers, the others "hemolysed" (2), "pending" (1)' in mostly.doubts[0]
    either = propose(pd.Series(["1,234", "5,678"] * 10))
    assert either.paste == Rule(decimal=",")
    assert "or of thousands" in either.doubts[-1]
    filled = propose(pd.Series(["70,5", "80", "92,5", "9999"] * 30 + [f"{k},5" for k in range(40, 99)]))
    assert (filled.rule, filled.paste) == (Rule(decimal=","), Rule(("9999",), decimal=","))
    assert propose(pd.Series([True, False])) == Proposal()
    assert propose(pd.Series(pd.to_datetime(["2024-01-01"]))) == Proposal()
    assert propose(pd.Series([None, None], dtype=object)) == Proposal()


def test_the_lines_of_cohort_yaml_are_read_as_the_rules(tmp_path) -> None:
    odd = Rule(("-1", "0.5", "NA", "null", "-", "a: b", "007", "é"), decimal=",", thousands=" ", censored="half")
    lines = value_lines({"a: b": Proposal(odd, ("why",)), "c": Proposal(doubts=("really?",), paste=Rule(("?",)))})
    assert lines[-1] == '  # c: {missing: ["?"]}   # really?'
    parsed = yaml.plain("\n".join(lines))["values"]["a: b"]
    parsed["missing"] = [str(word) for word in parsed["missing"]]
    assert Rule.of(parsed) == odd
    assert value_lines({}) == []
    assert value_lines({"c": Proposal(paste=Rule(("?",)))})[2] == "# values:"
    assert rule_text(Rule(("-1",))) == "{missing: [-1]}"
    answered = Proposal(Rule(("NA",)), ("a level?",), Rule(("NA",)))
    assert [line for line in value_lines({"c": answered}) if "missing" in line] == ["  c: {missing: [NA]}   # a level?"]


def test_levels_that_differ_in_capitals_only_are_doubted() -> None:
    proposal = propose(pd.Series(["m", "w", "W", "M ", "NA", "m", None, "x"]))
    assert proposal.paste == Rule(("NA",))
    assert "a level, or not known" in proposal.doubts[0]
    assert '"m" and "M"' in proposal.doubts[1]
    assert '"w" and "W"' in proposal.doubts[1]
    assert not propose(pd.Series(["m", "w", "x"])).speaks
