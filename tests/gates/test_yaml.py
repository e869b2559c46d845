"""The one reader of YAML: what words mean, where limits lie, and that what is written is read back."""

from __future__ import annotations

import contextlib
import math
import os
import re
import time
from pathlib import Path
from typing import Any

import pytest
import yaml as other
from hypothesis import given, settings
from hypothesis import strategies as st

from tim_search.gates import yaml
from tim_search.types import BadInput


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("010", 10),
        ("0o10", 8),
        ("0x1F", 31),
        ("-5", -5),
        ("+5", 5),
        ("3e-4", 3e-4),
        ("1.", 1.0),
        (".5", 0.5),
        ("-.inf", -math.inf),
        (".Inf", math.inf),
        ("1:30", "1:30"),
        ("1_000", "1_000"),
        ("0b11", "0b11"),
        ("2024-01-01", "2024-01-01"),
        ("2024-01-01 10:00:00", "2024-01-01 10:00:00"),
        ("yes", "yes"),
        ("No", "No"),
        ("on", "on"),
        ("off", "off"),
        ("y", "y"),
        ("true", True),
        ("FALSE", False),
        ("tRue", "tRue"),
        ("~", None),
        ("", None),
        ("null", None),
        ("None", "None"),
        ("NA", "NA"),
        ("=", "="),
        ("'010'", "010"),
        ("!!str 010", "010"),
        ("!!float 3", 3.0),
        ('"\\ud83d\\ude00"', "\U0001f600"),
        ("!!null ''", None),
    ],
)
def test_words_mean_what_yaml_1_2_says(word: str, value: Any) -> None:
    assert yaml.plain(f"key: {word}\n") == {"key": value}
    assert type(yaml.plain(f"key: {word}\n")["key"]) is type(value)


def test_not_a_number_is_one() -> None:
    assert math.isnan(yaml.plain(".nan"))


def test_every_value_has_its_line() -> None:
    value, lines = yaml.parse("a: 1\nb:\n  - x\n  - {c: 2}\n")
    assert value == {"a": 1, "b": ["x", {"c": 2}]}
    assert lines == {("a",): 1, ("b",): 2, ("b", 0): 3, ("b", 1): 4, ("b", 1, "c"): 4}


def test_aliases_are_read_where_they_are_allowed() -> None:
    text = "a: &a {x: 1, y: 2}\nb: {<<: *a, x: 3}\nc: *a\n"
    assert yaml.parse(text, aliases=True)[0] == {"a": {"x": 1, "y": 2}, "b": {"x": 3, "y": 2}, "c": {"x": 1, "y": 2}}
    with pytest.raises(yaml.NotYaml, match=re.escape("line 2: aliases (*name) are not used in search files")):
        yaml.parse(text)


ALIAS_BOMB = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 30))
MERGE_BOMB = "a0: &a0 {x: 1}\n" + "".join(
    f"a{i}: &a{i}\n  <<: [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 30)
)
CHAIN = "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}]\n" for i in range(1, 5000))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: 1\nb: 2\na: 3\n", "line 3: the key a stands twice"),
        ("{1: x, 01: y}", "line 1: the key 01 stands twice"),
        ('{a: x, "a": y}', "line 1: the key a stands twice"),
        ("? [a, b]\n: c\n", "line 1: a key must be a word"),
        ("a: [", "line 1"),
        ("a: 1\n  b: 2\n", "line 2"),
        ("a: 1\n---\nb: 2\n", "line 2: but found another document"),
        ("!!python/name:os.system", "could not determine a constructor for the tag"),
        ("!!timestamp 2001-01-01", "could not determine a constructor for the tag"),
        ("!!binary aaaa", "could not determine a constructor for the tag"),
        ("!!int abc", "expected a whole number, got 'abc'"),
        ("!!bool yes", "expected true or false, got 'yes'"),
        ("a: !!float many", "expected a number, got 'many'"),
        ("a: " + "9" * 400, "line 1: a number of 400 digits; at most 300"),
        ("a\n\0: 1", "line 2: the character U+0000 may not stand in it"),
        ("a: \ud800", "line 1: the character U+D800 may not stand in it"),
        ('a: 1\nb: "\\ud800"', "line 2: half of a character"),
        ('"a\\0b": 1', "line 1: the character NUL"),
        ("&a [*a]", "an alias may not repeat what it stands in"),
        ("&a {b: {<<: *a}}", "an alias may not repeat what it stands in"),
        ("[" * 100_000, "line 1: it is nested too deeply: over 50 levels"),
        ("- " * 10_000, "nested too deeply"),
        (ALIAS_BOMB, "its aliases stand for more than 200,000 values"),
        (MERGE_BOMB, "its aliases stand for more than 200,000 values"),
        (CHAIN, "its aliases stand for more than 200,000 values or 50 levels"),
        ("a: *b", "line 1: found undefined alias"),
        ("#" * (10 * 2**20 + 1), "at most 10,485,760 are read"),
    ],
    ids=lambda value: value[:20] if value.isascii() and value.isprintable() else "text",
)
def test_what_is_no_yaml_or_too_much_is_told_at_once(text: str, words: str) -> None:
    start = time.process_time()
    with pytest.raises(yaml.NotYaml) as raised:
        yaml.parse(text, aliases=True)
    assert words in str(raised.value)
    assert time.process_time() - start < 2


def test_many_values_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yaml, "MOST_VALUES", 100)
    assert yaml.plain("[" + "1, " * 90 + "]") == [1] * 90
    with pytest.raises(yaml.NotYaml, match="line 2: it has more than 100 values"):
        yaml.plain("[\n" + "1, " * 110 + "]")


def test_a_file_is_read_up_to_its_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes(b"a: 1\n")
    assert yaml.read(path)[0] == {"a": 1}
    monkeypatch.setattr(yaml, "LARGEST", 4)
    with pytest.raises(BadInput, match="at most 4 bytes"):
        yaml.read(path)


def test_a_pipe_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.yaml")
    with pytest.raises(BadInput, match="got a pipe"):
        yaml.read(tmp_path / "a.yaml")


TEXTS = [
    "010",
    "1:30",
    "yes",
    "no",
    "3e-4",
    "1e5",
    "0o17",
    "~",
    "true",
    "<<",
    "=",
    "1_000",
    "2024-01-01",
    "a\u2028b: c",
]
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
    | st.sampled_from(TEXTS),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc019-", max_size=4), inner, max_size=3),
    max_leaves=8,
)


@given(VALUES)
@settings(max_examples=300, deadline=None)
def test_what_is_written_is_read_back(value: Any) -> None:
    assert yaml.plain(yaml.dump(value)) == value


@given(st.sampled_from(TEXTS) | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")))
@settings(max_examples=300, deadline=None)
def test_a_quoted_text_and_a_comment_stay_in_their_line(name: str) -> None:
    text = f"{yaml.quoted(name)}: [{yaml.quoted(name)}]   # {yaml.comment(name)}\nlast: 1\n"
    assert yaml.plain(text) == {name: [name], "last": 1} or name == "last"
    assert other.safe_load(text)["last"] == 1 or name == "last"


@given(st.text(max_size=200) | st.text("[]{}&*!|>'\"%@`,:?-#\n\t ab01<~", max_size=60))
@settings(max_examples=300, deadline=None)
def test_no_text_makes_the_reader_fall_over(text: str) -> None:
    with contextlib.suppress(yaml.NotYaml):
        yaml.parse(text, aliases=True)
