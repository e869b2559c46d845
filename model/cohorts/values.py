"""How the cells of a column become values: which mean "not measured", how numbers are written, what "> 89" stands for.

A cohort declares such rules by column (`values` in cohort.yaml). They are part of the cohort, of its fingerprint and of
every model that learns from it, so that a table to predict is read as the table to train on was.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from tim_search.types import some

#: Nanoseconds of the units that durations may be counted in.
UNITS = {"seconds": 10**9, "minutes": 60 * 10**9, "hours": 3600 * 10**9, "days": 24 * 3600 * 10**9}
#: What the parts of a rule that have few values may be.
CHOICES: Mapping[str, tuple[str, ...]] = {
    "type": ("number",),
    "decimal": (",", ".", ",."),
    "thousands": (".", ",", " ", "'"),
    "censored": ("limit", "half", "missing"),
    "unit": tuple(UNITS),
}
NUMBER = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?")
#: A number of which only a limit is known, and its sign.
CENSORED = re.compile(r"(<=|>=|<|>|≤|≥)\s*(?=[-+.,0-9])")
#: Words for no and yes, by pairs, in the languages of those who write tables.
YES_NO = (
    ("no", "yes"), ("n", "y"), ("false", "true"), ("f", "t"), ("nein", "ja"), ("n", "j"), ("nee", "ja"), ("nej", "ja"),
    ("nei", "ja"), ("ei", "kyllä"), ("non", "oui"), ("n", "o"), ("no", "si"), ("no", "sí"), ("no", "sì"), ("n", "s"),
    ("não", "sim"), ("nao", "sim"), ("nie", "tak"), ("ne", "ano"), ("ne", "da"), ("nu", "da"), ("нет", "да"),
    ("nem", "igen"), ("hayır", "evet"), ("όχι", "ναι"), ("いいえ", "はい"), ("无", "有"), ("無", "有"),  # noqa: RUF001
    ("否", "是"), ("아니오", "예"), ("negative", "positive"), ("neg", "pos"), ("negativ", "positiv"),
    ("négatif", "positif"), ("negativo", "positivo"), ("absent", "present"), ("-", "+"), ("off", "on"),
    ("alive", "dead"), ("alive", "expired"), ("alive", "died"), ("alive", "deceased"),
)  # fmt: skip


@dataclass(frozen=True)
class Rule:
    """How the cells of a column are read; the rule without arguments leaves them as they are.

    Attributes:
        missing: cells that mean "not measured" beside the empty one; among numbers they are compared as numbers.
        type: "number" where texts are numbers, each of them, once the missing ones are taken out.
        decimal: the mark before the fraction: ".", ",", or ",." for either.
        thousands: the mark between groups of three digits; "" for none.
        censored: what "> 89" and "<0.1" stand for: "limit" (89, 0.1), "half" (89, 0.05: of a positive upper limit) or
            "missing"; "" where there are none.
        unit: what durations are counted in.
    """

    missing: tuple[str, ...] = ()
    type: str = ""
    decimal: str = "."
    thousands: str = ""
    censored: str = ""
    unit: str = ""

    @property
    def numeric(self) -> bool:
        """Whether the column is numbers by this rule, however it is stored."""
        return bool(self.type or self.decimal != "." or self.thousands or self.censored or self.unit)

    def plain(self) -> dict[str, Any]:
        """The rule as it stands in cohort.yaml: what differs from the rule without arguments."""
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        return {
            name: list(value) if name == "missing" else value
            for name, value in given.items()
            if value != getattr(Rule(), name)
        }

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> Rule:
        """The rule that `plain` wrote; raises ValueError where it is none."""
        rule = cls(**{**plain, "missing": tuple(plain.get("missing", ()))})
        for name, allowed in CHOICES.items():
            if getattr(rule, name) not in (*allowed, getattr(cls(), name)):
                raise ValueError(f"{name}: expected one of {', '.join(allowed)}, got {getattr(rule, name)!r}")
        if not all(isinstance(word, str) for word in rule.missing):
            raise ValueError("missing: expected texts")
        if rule.thousands and rule.thousands in rule.decimal:
            raise ValueError(f"thousands: expected another mark than that of decimals, got {rule.thousands!r} for both")
        return rule


def rule_text(rule: Rule) -> str:
    """A rule as YAML in one line."""
    from tim_search.gates.yaml import quoted

    parts = []
    for key, value in rule.plain().items():
        if key == "missing":
            words = (word if re.fullmatch(r"-?(0|[1-9]\d*)(\.\d+)?", word) else quoted(word) for word in value)
            parts.append(f"missing: [{', '.join(words)}]")
        else:
            parts.append(f"{key}: {quoted(value)}")
    return f"{{{', '.join(parts)}}}"


def applied(values: pd.Series[Any], rule: Rule) -> pd.Series[Any]:
    """A column as its rule reads it, as `apply`; raises ValueError."""
    try:
        stored = pa.array(values, from_pandas=True)
    except (pa.ArrowException, TypeError):  # objects of several kinds
        stored = pa.array(
            [None if missing else str(value) for value, missing in zip(values, values.isna(), strict=True)]
        )
    read: pd.Series[Any] = apply(pa.chunked_array([stored]), rule).to_pandas()
    read.index, read.name = values.index, values.name
    return read


def apply(array: pa.ChunkedArray, rule: Rule) -> pa.ChunkedArray:
    """A column as its rule reads it: float64 where the rule makes numbers of it, else of the type it has.

    Raises:
        ValueError: some cells are no numbers by the rule; the message names a few.
    """
    if pa.types.is_dictionary(array.type):
        array = array.cast(array.type.value_type)
    if pa.types.is_duration(array.type):
        return _in_unit(array, rule.unit) if rule.unit else array
    if pa.types.is_string(array.type) or pa.types.is_large_string(array.type) or pa.types.is_string_view(array.type):
        return _of_texts(array, rule)
    array = exact(array)
    if pa.types.is_integer(array.type) or pa.types.is_floating(array.type):
        gaps = [number for word in rule.missing if (number := as_number(word)) is not None]
        if gaps:
            hit = pc.is_in(array.cast(pa.float64(), safe=False), pa.array(gaps, pa.float64()))
            array = pc.if_else(hit, pa.scalar(None, array.type), array)
        return array.cast(pa.float64(), safe=False) if rule.numeric else array
    if rule.numeric and not pa.types.is_boolean(array.type) and not pa.types.is_null(array.type):
        raise ValueError(f"expected numbers, or texts of numbers, got {array.type}")
    return array


def exact(array: pa.ChunkedArray) -> pa.ChunkedArray:
    """Decimals as float64, others as they are."""
    # By way of texts: the direct cast is off by one in the last place.
    return array.cast(pa.string()).cast(pa.float64()) if pa.types.is_decimal(array.type) else array


def _in_unit(array: pa.ChunkedArray, unit: str) -> pa.ChunkedArray:
    whole = array.cast(pa.duration("ns")).cast(pa.int64()).cast(pa.float64(), safe=False)
    return pc.divide(whole, float(UNITS[unit]))


def _of_texts(array: pa.ChunkedArray, rule: Rule) -> pa.ChunkedArray:
    """Texts by the rule, each distinct one looked at once."""
    coded = array.combine_chunks().dictionary_encode()
    distinct = coded.dictionary.to_pylist()
    gone = set(rule.missing)
    if not rule.numeric:
        texts = [None if value.strip() in gone else value for value in distinct]
        return pa.chunked_array([pa.array(texts, array.type).take(coded.indices)])
    numbers: list[float | None] = []
    strange = []
    read = reader_of(rule)
    gaps = {as_number(word) for word in rule.missing} - {None}
    for value in distinct:
        number = None if value.strip() in gone | {""} else read(value)
        if number is None and value.strip() not in gone | {""}:
            strange.append(value)
        numbers.append(None if number is None or number != number or number in gaps else number)
    if strange:
        raise ValueError(
            f"expected numbers by its rule, got {some([repr(value[:40]) for value in strange], 4)} "
            f"({len(strange)} of {len(distinct)} different texts)"
        )
    return pa.chunked_array([pa.array(numbers, pa.float64()).take(coded.indices)])


def reader_of(rule: Rule) -> Callable[[str], float | None]:
    """A function from a text to its number by the rule: NaN for a limit that counts as missing, None for no number."""
    either = rule.decimal == ",."

    def read(value: str) -> float | None:
        value = re.sub(r"[\s\u00a0\u202f]", " ", value).strip().replace("\u2212", "-")
        if rule.unit:
            duration = pd.to_timedelta(value, errors="coerce") if re.search(r"[a-z:]", value, re.IGNORECASE) else None
            if duration is not None and not pd.isna(duration):
                return float(duration.value) / UNITS[rule.unit]
        limit = CENSORED.match(value) if rule.censored else None
        value = value[limit.end() :] if limit else value
        if rule.thousands and re.fullmatch(rf"[-+]?[0-9]{{1,3}}(\{rule.thousands}[0-9]{{3}})+(\D[0-9]*)?", value):
            value = value.replace(rule.thousands, "")
        if either or rule.decimal == ",":
            value = value.replace(",", ".") if either or "." not in value else "?"
        number = as_number(value)
        if limit is None or number is None:
            return number
        if rule.censored == "missing":
            return float("nan")
        # Half of a number below zero would lie above its limit.
        halved = rule.censored == "half" and limit[1] in ("<", "<=", "≤") and number > 0
        return number / 2 if halved else number

    return read


def as_number(value: str) -> float | None:
    """The finite number that a text is, with a point for its decimals; None for any other text."""
    if not NUMBER.fullmatch(value):
        return None
    number = float(value)
    return number if np.isfinite(number) else None


def yes_no(levels: Iterable[str]) -> tuple[str, str] | None:
    """Two levels as (no, yes), as they are written, where they are such words in one language; None for others."""
    names = list(levels)
    if len(names) != 2:
        return None
    low = [name.strip().lower() for name in names]
    for pair in YES_NO:
        if set(low) == set(pair):
            first = low.index(pair[0])
            return names[first], names[1 - first]
    return None
