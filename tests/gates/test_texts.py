"""Texts from data on their way to a terminal, a comment, a file name."""

from __future__ import annotations

import pytest

from tim_search.gates.texts import for_file_name, for_terminal


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain Ünïcode 臨床 😀", "plain Ünïcode 臨床 😀"),
        ("\x1b[31mred\x1b]0;title\x07", "\\x1b[31mred\\x1b]0;title\\x07"),
        ("a\nb\tc\rd", "a\\nb\\tc\\rd"),
        ("a\x85b\u2028c\u2029d", "a\\x85b\\u2028c\\u2029d"),
        ("\u202eevil\u2066\u200f", "\\u202eevil\\u2066\\u200f"),
        ("\ud800", "\\ud800"),
        ("\x9b31m\x7f\0", "\\x9b31m\\x7f\\x00"),
        ("tag\U000e0041", "tag\\U000e0041"),
    ],
)
def test_a_text_cannot_steer_a_terminal(text: str, expected: str) -> None:
    assert for_terminal(text) == expected
    assert for_terminal(text).isprintable()
    assert len(for_terminal(text).splitlines()) <= 1


def test_lines_may_stay_and_long_texts_are_cut() -> None:
    assert for_terminal("a\nb\t\x1b", lines=True) == "a\nb\t\\x1b"
    assert for_terminal("x" * 100, most=10) == "xxxxxxx..."


@pytest.mark.parametrize(
    "text", ["", ".", "..", "../x", "/etc/passwd", "a\0b", ".hidden", "\ud800", "x" * 300, "臨" * 99]
)
def test_a_file_name_leads_nowhere_else(text: str) -> None:
    name = for_file_name(text)
    assert name
    assert "/" not in name
    assert "\0" not in name
    assert not name.startswith(".")
    assert len(name.encode()) <= 200
    assert name != for_file_name(text + "!")


def test_plain_names_stay() -> None:
    assert for_file_name("hospdead 30d+ü") == "hospdead 30d+ü"
    assert len({for_file_name(name) for name in ("a/b", "a_b", "a\\b", "a:b")}) == 4
