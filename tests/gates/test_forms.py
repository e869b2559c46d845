"""Plain values are checked against a form, and the first place that differs is named."""

from __future__ import annotations

from typing import Any

import pytest

from tim_search.gates.forms import conform

FORM = {"name": str, "shares": {str: float}, "rows": [{"n": int, "low": (float, type(None))}], "made?": str}
FITTING: dict[str, Any] = {"name": "a", "shares": {"x": 1, "y": 0.5}, "rows": [{"n": 3, "low": None}], "more": 1}


def test_a_value_of_the_form_passes_with_further_fields() -> None:
    conform(FITTING, FORM)
    conform(FITTING | {"made": "now", "rows": []}, FORM)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"name": 3}, "name: expected a text"),
        ({"name": None}, "name: expected a text"),
        ({"shares": [1]}, "shares: expected an object"),
        ({"shares": {"x": True}}, "shares.x: expected a number"),
        ({"shares": {"x": float("nan")}}, "shares.x: expected a number"),
        ({"rows": {"n": 1}}, "rows: expected a list"),
        ({"rows": [{"n": 1, "low": 0.1}, {"n": 1.0, "low": 1}]}, r"rows\[1\].n: expected a whole number"),
        ({"rows": [{"n": True, "low": 1}]}, r"rows\[0\].n: expected a whole number"),
        ({"rows": [{"n": 1, "low": "0"}]}, r"rows\[0\].low: expected a number or null"),
        ({"rows": [{"n": 1}]}, r"rows\[0\].low: expected a value"),
        ({"rows": ["x"]}, r"rows\[0\]: expected an object"),
        ({"made": 1}, "made: expected a text"),
    ],
)
def test_the_first_place_that_differs_is_named(change: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=f"^{problem}$"):
        conform(FITTING | change, FORM)


def test_no_object_at_all() -> None:
    with pytest.raises(ValueError, match=r"^it: expected an object$"):
        conform([1], FORM)
