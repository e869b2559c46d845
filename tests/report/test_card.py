"""The model card: every part of it, for vectors and for nested inputs."""

from __future__ import annotations

from typing import Any

from tim_search.report import card

FACTS: dict[str, Any] = {
    "source": "mortality",
    "subset": ["mortality", "stay", "ward|type"],
    "reason": "lower bound",
    "overlaps": [["mortality", "stay"]],
    "search": "demo",
    "network": "m3h",
    "settings": {"width": 8, "alpha": 0.1},
    "created": "2026-01-01",
    "versions": {"tim-search": "0.1.0", "torch": "2.9"},
    "readings": 2,
    "cohort": "wards|north",
    "fingerprint": "abc",
    "split": "def",
    "seeds": [1000, 1001],
    "training": {
        "rows": 1200,
        "patients": "<11",
        "labels": {"mortality": {"rows": 1100, "positive": 3}, "stay": {"rows": "≈200"}},
        "present": {"vitals": 1200, "labs": 4},
        "stopping": 120,
    },
}
SCORES = [
    {"task": "mortality", "metric": "auroc", "value": 0.8123, "sd": 0.01, "low": None, "high": 0.9, "rows": 1234},
    {"task": "stay", "metric": "r2", "value": None, "sd": None, "low": None, "high": None, "rows": "<11"},
]
SCORES[0]["why"], SCORES[1]["why"] = "", "one class"
VECTOR = {"name": "vitals", "kind": "vector", "shape": [2], "columns": ["sex", "age"], "levels": {"sex": ["f", "m"]}}
NESTED = [
    {"name": "ecg", "kind": "sequence", "shape": [48, 2], "columns": ["i", "ii"], "levels": {}},
    {"name": "scan", "kind": "image", "shape": [1, 8, 9], "columns": ["scan"], "levels": {}},
]


def test_a_card_of_vectors() -> None:
    text = card.write(FACTS, SCORES, [VECTOR])
    assert text.startswith("# Model for mortality\n\nPredicts `mortality`, `stay` and `ward|type` for one sample")
    assert "| cohort | wards\\|north (fingerprint abc, split def) |" in text, "a bar in a name is no end of a cell"
    assert "| trained on | 1,200 samples of <11 patients: the whole training part, 120 samples of which chose" in text
    assert "| mortality | 1,100 | fewer than 5 |\n| stay | ≈200 |  |\n" in text
    assert "| vitals | 1,200 |\n| labs | fewer than 5 |\n" in text
    assert "| mortality | auroc | 0.812 | 0.010 | unknown to 0.900 | 1,234 |" in text
    assert "| stay | r2 | none: one class |  |  | <11 |" in text
    assert "- **vitals**: `sex` (f / m), `age`\n" in text
    assert "have been read twice in this" in text
    assert "| network | m3h, width 8, alpha 0.1 |\n| seeds | 1000, 1001 (predictions are averaged) |" in text
    assert "tim-search predict MODEL rows.csv\nmlflow models predict -m MODEL -i rows.csv -t csv" in text
    assert "nested list" not in text
    assert "--allow-code" not in text
    assert "\n\n\n" not in text
    assert text.endswith("how people act on one.\n")


def test_a_card_of_nested_inputs_of_an_own_network_with_a_task_added() -> None:
    facts = FACTS | {"network": "mine:Net", "extended": ["frailty"], "seeds": [7], "readings": 3}
    text = card.write(facts | {"training": {**FACTS["training"], "stopping": 0}}, SCORES, NESTED)
    assert "- **ecg**: one column of up to 48 steps of 2 channels each: `i`, `ii`\n- **scan**: one column of images, 1 x 8 x 9" in text  # fmt: skip  # noqa: E501
    assert "`frailty` was added to the trained model afterwards" in text
    assert "rows.json -t json --env-manager local   # {\"inputs\"" in text  # fmt: skip
    assert "`--allow-code`" in text
    assert "| seeds | 7 |" in text
    assert "3 times" in text
    assert "chose the epoch" not in text
