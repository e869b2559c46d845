"""Settings as the ledger's contexts hold them: what 0.1.0 began keeps its key, and what differs has another."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any, get_args

import pytest

from model.networks.settings import Balance, FlexCareSettings, M3HSettings, OwnSettings, from_plain
from tim_search.types import Context

#: Keys that version 0.1.0 gave to the contexts ("a", "b", "c", network, settings).
KEYS_OF_0_1_0 = {
    "m3h": (M3HSettings(), "628ddb16ebb5f60e"),
    "flexcare": (FlexCareSettings(), "c10e01a1fc5ffc39"),
    "flexcare, weights as 0.1.0 read them": (
        FlexCareSettings(task_weights={"a": 0.2}, weighted="prediction"),
        "860f83740c535ca1",
    ),
}


def key(settings: Any, network: str) -> str:
    return Context("a", "b", "c", network, settings.text).key


@pytest.mark.parametrize("name", KEYS_OF_0_1_0)
def test_a_search_of_0_1_0_keeps_its_key(name: str) -> None:
    settings, before = KEYS_OF_0_1_0[name]
    assert key(settings, name.split(",")[0]) == before


def test_what_gives_other_scores_has_another_key() -> None:
    weights = {"a": 0.2}
    assert key(M3HSettings(attention_maximum="signed"), "m3h") != key(M3HSettings(), "m3h")
    assert key(M3HSettings(average=2), "m3h") != key(M3HSettings(), "m3h")
    balances = [M3HSettings(balance=balance) for balance in get_args(Balance)]
    assert len({key(settings, "m3h") for settings in [*balances, M3HSettings(task_weights={"a": 2.0})]}) == 7
    before = key(FlexCareSettings(task_weights=weights, weighted="prediction"), "flexcare")
    assert key(FlexCareSettings(task_weights=weights), "flexcare") != before
    # Where every weight is 1, what they multiply changes nothing.
    ones = FlexCareSettings(task_weights={"a": 1.0})
    assert key(dataclasses.replace(ones, weighted="prediction"), "flexcare") == key(ones, "flexcare")
    assert "weighted" not in json.loads(ones.text)


@dataclass(frozen=True)
class Further(OwnSettings):
    """Settings of a network of one's own."""

    depth: int = 2


@pytest.mark.parametrize(
    "settings",
    [
        M3HSettings(),
        M3HSettings(attention_maximum="signed"),
        M3HSettings(balance="upgrad"),
        M3HSettings(task_weights={"a": 0.2}),
        FlexCareSettings(order=("b", "a")),
        FlexCareSettings(task_weights={"a": 0.2}),
        FlexCareSettings(task_weights={"a": 0.2}, weighted="prediction"),
        Further(depth=3),
        Further(average=2),
    ],
)
def test_settings_are_read_back_from_their_text(settings: Any) -> None:
    assert from_plain(type(settings), json.loads(settings.text)) == settings


def test_weights_that_0_1_0_wrote_are_read_as_it_read_them() -> None:
    plain = json.loads(FlexCareSettings(task_weights={"a": 0.2}, weighted="prediction").text)
    assert "weighted" not in plain
    assert from_plain(FlexCareSettings, plain).weighted == "prediction"


@pytest.mark.parametrize(("settings", "field"), [(M3HSettings, "attention_maximum"), (FlexCareSettings, "weighted")])
def test_a_word_that_is_no_choice_is_told(settings: Any, field: str) -> None:
    with pytest.raises(ValueError, match=f"{field}: expected .* or .*, got 'largest'"):
        settings(**{field: "largest"})


@pytest.mark.parametrize(
    ("settings", "values", "allowed"),
    [
        (M3HSettings, {"average": 3}, "0 or an even number of epochs below 30"),
        (M3HSettings, {"average": -2}, "0 or an even number of epochs below 30"),
        (M3HSettings, {"average": 4, "epochs": 2}, "0 or an even number of epochs below 4"),
        (M3HSettings, {"average": 2, "update": "in_turn"}, "0 unless update is joint"),
        (FlexCareSettings, {"average": 2}, "0 unless update is joint"),
        (OwnSettings, {"average": 1}, "0 or an even number"),
    ],
)
def test_weights_that_cannot_be_averaged_are_told(settings: Any, values: dict[str, Any], allowed: str) -> None:
    with pytest.raises(ValueError, match=f"average: expected {allowed}"):
        settings(**values)
