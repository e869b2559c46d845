"""Safe YAML with line numbers, and pydantic's errors in words: where, what was expected, what was given, what to do.

Used by `spec.py`, and by `summary.py` for what a folder's `search.yaml` says; none of it knows what a search is.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from tim_search.types import Finding, near, some

#: Path of a value in a file, such as ("design", "greedy", "beam") or ("tasks", 2).
Place: TypeAlias = tuple[int | str, ...]
#: The name of a form that a value may have begins so, where no such name stands in the file: it is part of no place.
FORM = "\0"
#: Line number of each value.
Lines: TypeAlias = Mapping[Place, int]

_LONGEST = 80


class _Loader(yaml.SafeLoader):
    """Safe YAML without its traps: 3e-4 is a number, a key may stand once, dates stay text, aliases are refused."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.MarkedYAMLError(problem="aliases (*name) are not used in search files", problem_mark=mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(problem="a key must be a word", problem_mark=key.start_mark)
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"the key {key.value} stands twice", problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    start: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for start, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
# YAML 1.1 takes 3e-4 for text, because it wants a dot and a sign; whoever writes a learning rate wants a number.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def parse(text: str) -> tuple[Any, Lines]:
    """YAML text -> (value, line of every key and list item); raises yaml.YAMLError."""
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None, {}
        return loader.construct_document(node), dict(_lines(node, ()))
    except RecursionError:
        raise yaml.YAMLError("it is nested too deeply") from None
    except ValueError as error:  # a number that Python cannot hold
        raise yaml.YAMLError(str(error)) from None
    finally:
        loader.dispose()


def plain(text: str) -> Any:
    """YAML text as plain values; raises ValueError where it is none."""
    try:
        return parse(text)[0]
    except yaml.YAMLError as error:
        raise ValueError(yaml_problem(error)) from error


def _lines(node: yaml.Node, at: Place) -> Iterator[tuple[Place, int]]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield (*at, key.value), key.start_mark.line + 1
            yield from _lines(value, (*at, key.value))
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield (*at, index), value.start_mark.line + 1
            yield from _lines(value, (*at, index))


def yaml_problem(error: yaml.YAMLError) -> str:
    """What is wrong, and in which line."""
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error)
    return problem if mark is None else f"line {mark.line + 1}: {problem}"


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
        lines: see `parse`.
        inner: models of nested sections, by the name they have in a path.
        prefix: path of `section` in the file.
    """
    return [_finding(detail, section, lines, inner or {}, prefix) for detail in error.errors()]


def _finding(detail: ErrorDetails, section: Any, lines: Lines, inner: Mapping[str, Any], prefix: Place) -> Finding:
    inside = tuple(part for part in detail["loc"] if not str(part).startswith(FORM))
    at, kind, message = (*prefix, *inside), detail["type"], detail["msg"].rstrip(".")
    field, known = _field(section, inside, inner)
    if kind in ("extra_forbidden", "unexpected_keyword_argument"):
        return Finding(place(at, lines), "unknown key.", hint(at[-1], known))
    if kind == "value_error":
        # A settings dataclass says "field: expected ..., got ..."; the field belongs to the place.
        said = str(detail.get("ctx", {}).get("error", message))
        name, _, rest = said.partition(": ")
        if name in known:
            at, said = (*at, name), rest
        return Finding(place(at, lines), f"{said}.", "Change it, or leave it out for the default.")
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
