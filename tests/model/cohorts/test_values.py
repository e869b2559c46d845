"""How cells become values: rules applied, rules declared wrongly, and numbers that stand for "not measured"."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from model.cohorts.fillers import fillers
from model.cohorts.values import Rule, applied, yes_no
from model.sources.opening import check_cohort, open_cohort

NAN = float("nan")

CELLS: dict[str, tuple[dict[str, Any], list[Any], list[Any]]] = {
    "a comma": ({"decimal": ","}, ["70,5", "-1", None, " 3,0 "], [70.5, -1, NAN, 3]),
    "either mark": ({"decimal": ",."}, ["70,5", "70.5", "70"], [70.5, 70.5, 70]),
    "groups": ({"decimal": ",", "thousands": "."}, ["1.234,5", "12.345.678", "7,5"], [1234.5, 12345678, 7.5]),
    "English groups": ({"thousands": ","}, ["1,234.5", "1,234", "999"], [1234.5, 1234, 999]),
    "limits": ({"censored": "limit"}, ["> 89", "<0.1", "≥ 5", "42"], [89, 0.1, 5, 42]),
    "half of limits": ({"censored": "half"}, ["> 89", "<0.1", "<= 3", "< -4"], [89, 0.05, 1.5, -4]),
    "no limits": ({"censored": "missing"}, ["> 89", "<0.1", "42"], [NAN, NAN, 42]),
    "a limit with a comma": ({"censored": "limit", "decimal": ","}, ["< 0,5", "2,5"], [0.5, 2.5]),
    "words": ({"type": "number", "missing": ["NA", "n.b."]}, ["1.5", "NA", " n.b. ", "", "2"], [1.5, NAN, NAN, NAN, 2]),
    "codes as texts": ({"type": "number", "missing": ["-1"]}, ["-1", "-1.0", "1"], [NAN, NAN, 1]),
    "codes": ({"missing": ["-1", "9999"]}, [-1, 5, 9999], [NAN, 5, NAN]),
    "a real minus": ({"type": "number"}, ["\u22125", "5"], [-5, 5]),
    "texts of days": ({"unit": "hours"}, ["1 days 02:30:00", "0 days 00:30:00", "5"], [26.5, 0.5, 5]),
    "decimals": ({"missing": ["9.99"]}, [Decimal("1.015"), Decimal("9.99"), None], [1.015, NAN, NAN]),
}


@pytest.mark.parametrize("what", CELLS)
def test_cells_by_a_rule(what: str) -> None:
    plain, cells, wanted = CELLS[what]
    rule = Rule.of(plain)
    assert Rule.of(rule.plain()) == rule
    values = applied(pd.Series(cells, dtype=object), rule)
    np.testing.assert_array_equal(values.to_numpy(np.float64, na_value=NAN), wanted)
    again = applied(values, rule)  # what was read once may be read again
    np.testing.assert_array_equal(again.to_numpy(np.float64, na_value=NAN), wanted)


def test_durations_are_counted_in_the_unit() -> None:
    stays = pd.Series(pd.to_timedelta(["36h", None, "90min"]))
    np.testing.assert_array_equal(applied(stays, Rule(unit="hours")), [36, NAN, 1.5])
    np.testing.assert_array_equal(applied(stays, Rule(unit="days")), [1.5, NAN, 0.0625])


def test_levels_lose_the_missing_word_alone() -> None:
    values = applied(pd.Series(["NA", "None", "yes", None]), Rule(("NA",)))
    assert values.isna().tolist() == [True, False, False, True]
    assert values[1:3].tolist() == ["None", "yes"]


@pytest.mark.parametrize(
    ("plain", "cells"),
    [
        ({"decimal": ","}, ["70.5"]),
        ({"type": "number"}, ["70,5"]),
        ({"type": "number"}, ["> 89"]),
        ({"censored": "limit"}, ["> ninety"]),
        ({"thousands": ","}, ["1,23,4"]),
        ({"type": "number"}, ["inf"]),
        ({"type": "number"}, pd.to_datetime(["2024-01-01"])),
    ],
)
def test_cells_that_do_not_fit_are_named(plain: dict[str, Any], cells: Any) -> None:
    with pytest.raises(ValueError, match="expected numbers"):
        applied(pd.Series(cells), Rule.of(plain))


def test_words_for_no_and_yes() -> None:
    for no, yes in (("nein", "ja"), ("Non", "OUI"), ("N", "J"), ("no", "sí"), ("нет", "да"), ("いいえ", "はい")):
        assert yes_no((yes, no)) == yes_no((no, yes)) == (no, yes)
    assert yes_no(("home", "ward")) is None
    assert yes_no(("no", "yes", "maybe")) is None


def folder(root: Path, values: str, **columns: Any) -> Path:
    frame = pd.DataFrame({"id": range(120), "died": [0, 1] * 60, "a": np.arange(120.0), **columns})
    frame.to_parquet(root / "samples.parquet", index=False)
    inputs = ", ".join(["a", *columns])
    (root / "cohort.yaml").write_text(
        f"{{format: 1, name: x, sample_id: id, patient_id: id, values: {values}, modalities: "
        f"{{m: {{file: samples.parquet, columns: [{inputs}]}}}}, tasks: {{died: {{kind: binary}}}}}}"
    )
    return root


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ("{a: 5}", "values.a: expected keys and values"),
        ("{a: {decimal: x}}", "decimal: expected one of"),
        ("{a: {decimal: ',', thousands: ','}}", "thousands: expected another mark"),
        ("{a: {mising: [1]}}", "is not a known key. Did you mean missing?"),
        ("{a: {missing: [true]}}", "expected texts or numbers"),
        ("{ag: {missing: [1]}}", "no table of the folder has the column ag"),
        ("{b: {decimal: ','}}", "expected numbers by its rule, got 'x'"),
    ],
)
def test_rules_that_cannot_be_used(tmp_path: Path, values: str, words: str) -> None:
    findings = check_cohort(folder(tmp_path, values, b=["1,5", "x"] * 60))
    assert any(words in str(finding) and finding.severity == "error" for finding in findings), findings


def test_durations_and_texts_need_a_rule_to_be_numbers(tmp_path: Path) -> None:
    stay = pd.to_timedelta(np.arange(120), "h")
    price = [Decimal(k) / 8 for k in range(120)]
    findings = check_cohort(folder(tmp_path, "{}", stay=stay, price=price))
    (error,) = (finding for finding in findings if finding.severity == "error")
    assert "values: {stay: {unit: hours}}" in str(error)
    cohort = open_cohort(folder(tmp_path, "{stay: {unit: days}}", stay=stay, price=price))
    features = dict(zip(cohort.modalities["m"].columns, cohort.modalities["m"].values.T, strict=True))
    assert features["stay"][12] == 0.5
    assert features["price"][3] == 0.375


def ages(n: int = 1000) -> np.ndarray:
    return np.random.default_rng(0).integers(18, 100, n).astype(float)


@pytest.mark.parametrize(
    ("where", "value", "share"),
    [(ages(), 300, 0.02), (ages(), -1, 0.01), (ages(), 999, 0.01), (ages() / 10, 99, 0.3),
     (np.exp(np.random.default_rng(1).normal(0, 0.5, 1000)), 9999, 0.1), (ages() + 30, 0, 0.05),
     (np.random.default_rng(2).normal(7.4, 0.05, 1000).round(2), -9, 0.6)],
)  # fmt: skip
def test_fillers_are_told_with_how_often_they_stand(where: np.ndarray, value: float, share: float) -> None:
    values = where.copy()
    values[: int(share * len(values))] = value
    values[-5:] = NAN
    (filler,) = fillers(values)
    assert (filler.value, filler.held) == (value, int(share * len(values)))
    assert f"{value} stands in" in filler.words


def test_two_fillers_do_not_hide_each_other() -> None:
    values = np.concatenate([ages(), [-9] * 20, [9999] * 30, [999] * 10])
    assert {filler.value for filler in fillers(values)} == {-9, 9999, 999}


@pytest.mark.parametrize(
    "values",
    [
        ages(), np.zeros(50), np.array([]), np.array([0.0, 1.0] * 50), np.array([-1.0, 1.0] * 50),
        np.random.default_rng(0).normal(size=2000), np.random.default_rng(0).normal(size=2000).round(0),
        np.random.default_rng(0).exponential(3, 2000).round(0), np.random.default_rng(0).poisson(0.1, 2000) * 1.0,
        np.exp(np.random.default_rng(0).normal(0, 2, 2000)).round(1), np.array([0.0] * 900 + list(range(1, 101))),
    ],
)  # fmt: skip
def test_numbers_like_others_are_no_fillers(values: np.ndarray) -> None:
    assert fillers(values) == []


def test_check_tells_the_rule_to_paste(tmp_path: Path) -> None:
    sodium = np.where(np.arange(120) % 5 == 0, -999, 130 + np.arange(120) % 17)
    findings = check_cohort(folder(tmp_path, "{}", sodium=sodium))
    assert any("`sodium: {missing: [-999]}`" in str(finding) for finding in findings)
    assert not any(
        "-999" in str(f) for f in check_cohort(folder(tmp_path, "{sodium: {missing: [-999]}}", sodium=sodium))
    )
    comma = [f"{value},5" for value in sodium]  # -999,5 and the like
    told = str(check_cohort(folder(tmp_path, "{sodium: {decimal: ',', missing: [NA]}}", sodium=comma)))
    assert "make the line of this column under `values`" in told
    assert "missing: [NA, -999.5], decimal" in told
    many = {f"s{k}": sodium for k in range(9)}
    (told,) = (finding for finding in check_cohort(folder(tmp_path, "{}", **many)) if "-999" in str(finding))
    assert "in 8 more columns" in str(told)
