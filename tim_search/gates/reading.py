"""Pydantic's errors in words: where, what was expected, what was given, what to do."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from tim_search.gates.yaml import Lines, Place
from tim_search.types import Finding, near, some

#: The name of a form that a value may have begins so, where no such name stands in the file: it is part of no place.
FORM = "\0"

_LONGEST = 80


def short(value: Any) -> str:
    """The repr of a value, cut to a length that fits a message."""
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


def hint(given: Any, allowed: Iterable[str]) -> str:
    """`Did you mean ...? Allowed: ...`."""
    allowed = tuple(allowed)
    return f"{near(str(given), allowed)} Allowed: {some(allowed, 40)}.".lstrip()


def place(at: Place, lines: Lines) -> str:
    """`line 7, design.greedy.beam`: the path, after the nearest line that is known."""
    line = next((lines[at[:end]] for end in range(len(at), 0, -1) if at[:end] in lines), None)
    name = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in at).lstrip(".") or "search file"
    return name if line is None else f"line {line}, {name}"


def findings(
    error: ValidationError, section: Any, lines: Lines, inner: Mapping[str, Any] | None = None, prefix: Place = ()
) -> list[Finding]:
    """A pydantic error in this product's words.

    Args:
        error: what pydantic raised.
        section: the pydantic model or dataclass that was validated.
        lines: of the values, from `gates.yaml.parse`.
        inner: models of nested sections, by the name they have in a path.
        prefix: path of `section` in the file.
    """
    return [_finding(detail, section, lines, inner or {}, prefix) for detail in error.errors()]


def _finding(detail: ErrorDetails, section: Any, lines: Lines, inner: Mapping[str, Any], prefix: Place) -> Finding:
    inside = tuple(part for part in detail["loc"] if not str(part).startswith(FORM))
    at, kind, message = (*prefix, *inside), detail["type"], detail["msg"].rstrip(".")
    field, keys = _field(section, inside, inner)
    if kind in ("extra_forbidden", "unexpected_keyword_argument"):
        return Finding(place(at, lines), "unknown key.", hint(at[-1], keys))
    if kind == "value_error":
        # A settings dataclass says "field: expected ..., got ..."; the field belongs to the place.
        complaint = str(detail.get("ctx", {}).get("error", message))
        name, _, rest = complaint.partition(": ")
        if name in keys:
            at, complaint = (*at, name), rest
        return Finding(place(at, lines), f"{complaint}.", "Change it, or leave it out for the default.")
    if kind.startswith("search."):  # raised by the search file's own validators, complete as it is
        return Finding(place((*at, *detail.get("ctx", {}).get("at", ())), lines), f"{message}.", "")
    expected = f"expected {field.description}" if field is not None and field.description else message
    if kind == "missing":
        return Finding(place(at, lines), f"{expected}, got nothing.", f"Add a line `{at[-1]}: ...`.")
    advice = "Change it." if field is None or field.is_required() else "Change it, or leave it out for the default."
    return Finding(place(at, lines), f"{expected}, got {short(detail['input'])}.", advice)


def _field(section: Any, at: Sequence[int | str], inner: Mapping[str, Any]) -> tuple[Any, tuple[str, ...]]:
    """(the field that a path points into, or None; the keys that its section knows)."""
    if dataclasses.is_dataclass(section):
        return None, tuple(field.name for field in dataclasses.fields(section))
    field = None
    for part in at:
        field = section.model_fields.get(part, field)
        section = inner.get(str(part), section)
    return field, tuple(name for name in section.model_fields if name != "kind")
