"""YAML, read and written: the only module that does either, so that its limits hold for every file that comes in.

Values mean what YAML 1.2 (core schema) says: 010 is ten; `1:30`, dates and yes, no, on, off are texts. Files are
bounded in size, depth and in what their aliases stand for; each key stands once.
"""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import yaml

from tim_search.gates.files import checked_path, open_regular
from tim_search.gates.texts import for_terminal

#: Path of a value in a file, such as ("design", "greedy", "beam") or ("tasks", 2).
Place: TypeAlias = tuple[int | str, ...]
#: Line number of each value, from 1.
Lines: TypeAlias = Mapping[Place, int]

#: Most bytes of a file; most levels of nesting; most values, those that aliases (*name) repeat counted each time.
LARGEST = 10 * 2**20
DEEPEST = 50
MOST_VALUES = 200_000
#: Most characters of a whole number: longer ones are no float, and no setting is one.
LONGEST_NUMBER = 300

_TAG = "tag:yaml.org,2002:"
#: Kind of a bare word -> (how it looks, its first characters), tried in this order; any other word is a text.
_BARE: Mapping[str, tuple[str, list[str]]] = {
    "bool": (r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    "null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    "int": (r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    "float": (
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
    "merge": (r"<<", ["<"]),
}
_EXPECTED = {"bool": "true or false", "null": "nothing", "int": "a whole number", "float": "a number", "merge": "<<"}


class NotYaml(ValueError):
    """A text that is no YAML, or more than is read.

    Attributes:
        problem: what is wrong.
        line: where, from 1; None where it is the whole file.
    """

    def __init__(self, problem: str, line: int | None = None) -> None:
        super().__init__(problem if line is None else f"line {line}: {problem}")
        self.problem, self.line = problem, line


def parse(text: str, *, aliases: bool = False) -> tuple[Any, Lines]:
    """The value of a YAML text, and the line of every key and list item.

    Args:
        aliases: whether values may be repeated with `&name` and `*name`.

    Raises:
        NotYaml: it is none, or breaks one of the limits above.
    """
    if len(text) > LARGEST:
        raise NotYaml(f"it has {len(text):,} characters; at most {LARGEST:,} are read")
    try:
        loader = _Loader(text)
        loader.aliases = aliases
        root = loader.get_single_node()
        if root is None:
            return None, {}
        loader.check(root, {})
        return loader.construct_document(root), dict(_lines(root, ()))
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise NotYaml(f"the character U+{error.character:04X} may not stand in it", line) from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise NotYaml(getattr(error, "problem", None) or str(error), mark and mark.line + 1) from None
    except RecursionError:
        raise NotYaml("it is nested too deeply") from None


def plain(text: str) -> Any:
    """The value of a YAML text; raises NotYaml."""
    return parse(text)[0]


def read(path: Path, *, aliases: bool = False) -> tuple[Any, Lines]:
    """The value of a YAML file, and the lines of its values.

    Raises:
        NotYaml: as `parse`.
        BadInput: it is a pipe or device, or larger than is read.
        OSError: it is not there, is a folder, or cannot be read.
        UnicodeDecodeError: it is no UTF-8.
    """
    if checked_path(path).is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    with open_regular(path, LARGEST) as file:
        return parse(file.read().decode("utf-8-sig"), aliases=aliases)


def dump(value: Any, width: int = 80) -> str:
    """YAML text of plain values, in their order; words that a reader could take for anything else are in quotes."""
    return str(yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=width))


def quoted(name: str) -> str:
    """A text as a YAML value within a line: bare where that is safe, else in quotes."""
    bare = re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.]*", name) and name.lower() not in _BENT
    return name if bare else comment(json.dumps(name, ensure_ascii=False))


def comment(text: str) -> str:
    """A text that stays within a YAML comment, and is shown as it is."""
    return re.sub("[\ufffe\uffff]", lambda match: f"\\u{ord(match[0]):04x}", for_terminal(text))


#: Words that YAML 1.1 or 1.2 takes for something other than a text.
_BENT = {"yes", "no", "on", "off", "true", "false", "null", "y", "n"}


class _Loader(yaml.SafeLoader):
    """The values of YAML 1.2 alone; the composer counts levels and values while it reads."""

    aliases = False
    values = 0
    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
        if self.check_event(yaml.AliasEvent) and not self.aliases:
            raise _problem("aliases (*name) are not used in search files", mark)
        self.values += 1
        if self.values > MOST_VALUES:
            raise _problem(f"it has more than {MOST_VALUES:,} values", mark)
        self.depth += 1
        if self.depth > DEEPEST:
            raise _problem(f"it is nested too deeply: over {DEEPEST} levels", mark)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def scalar(self, node: Any) -> Any:
        """A bare word, or one with a tag such as !!int, as what it is."""
        word, kind = self.construct_scalar(node), node.tag.removeprefix(_TAG)
        if not re.fullmatch(_BARE[kind][0], word):
            raise _problem(f"expected {_EXPECTED[kind]}, got {word[:40]!r}", node.start_mark)
        if kind == "int" and len(word) > LONGEST_NUMBER:
            raise _problem(f"a number of {len(word)} digits; at most {LONGEST_NUMBER} are read", node.start_mark)
        match kind:
            case "bool":
                return word.lower() == "true"
            case "int":
                return int(word, {"0o": 8, "0x": 16}.get(word[:2], 10))
            case "float":
                return float(re.sub(r"\.(?=[inIN])", "", word))
        return None

    def text(self, node: Any) -> str:
        """A text without NUL and half characters, which no name, path or label may hold."""
        value: str = self.construct_scalar(node)
        try:
            value = value.encode("utf-16", "surrogatepass").decode("utf-16")  # "\ud83d\ude00", as JSON writes it
        except UnicodeDecodeError:
            raise _problem("half of a character (a lone surrogate) may not stand in it", node.start_mark) from None
        if "\0" in value:
            raise _problem("the character NUL may not stand in it", node.start_mark)
        return value

    def check(self, node: yaml.Node, sizes: dict[int, tuple[int, int]]) -> tuple[int, int]:
        """How many values a node stands for and how deep, aliases written out; raises where a key is odd or twice.

        Args:
            sizes: of nodes already seen, by identity; (0, 0) while one is being counted: no alias may lead back to it.
        """
        if id(node) in sizes:
            if sizes[id(node)] == (0, 0):
                raise _problem("an alias may not repeat what it stands in", node.start_mark)
            return sizes[id(node)]
        sizes[id(node)] = 0, 0
        values, levels = 1, 0
        for child in self._children(node):
            more, below = self.check(child, sizes)
            values, levels = values + more, max(levels, below + 1)
            if values > MOST_VALUES or levels > DEEPEST:
                problem = f"its aliases stand for more than {MOST_VALUES:,} values or {DEEPEST} levels"
                raise _problem(problem, child.start_mark)
        sizes[id(node)] = values, levels
        return values, levels

    def _children(self, node: yaml.Node) -> list[yaml.Node]:
        if not isinstance(node, yaml.MappingNode):
            return node.value if isinstance(node, yaml.SequenceNode) else []
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _problem("a key must be a word", key.start_mark)
            name = str(self.scalar(key)) if key.tag in (_TAG + "int", _TAG + "float") else key.value
            if name in seen:
                raise _problem(f"the key {key.value} stands twice", key.start_mark)
            seen.add(name)
        return [value for _, value in node.value]


class _Dumper(yaml.SafeDumper):
    """Knows the words of YAML 1.1, its own, and those of 1.2 too: a text like one of either gets quotes."""

    def text(self, value: str) -> yaml.Node:
        """In double quotes where another style would lose a line break that is not the usual one."""
        odd = for_terminal(value, lines=True) != value
        return self.represent_scalar(_TAG + "str", value, '"' if odd else None)


_Loader.yaml_implicit_resolvers = {}
for _kind, (_look, _first) in _BARE.items():
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(_TAG + _kind, re.compile(rf"^(?:{_look})$"), _first)
_Dumper.add_representer(str, _Dumper.text)
_Loader.yaml_constructors = {
    **{_TAG + kind: _Loader.scalar for kind in _BARE if kind != "merge"},
    _TAG + "str": _Loader.text,
    _TAG + "seq": yaml.SafeLoader.construct_yaml_seq,
    _TAG + "map": yaml.SafeLoader.construct_yaml_map,
    None: yaml.SafeLoader.construct_undefined,
}


def _problem(problem: str, mark: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=mark)


def _lines(node: yaml.Node, at: Place) -> Iterator[tuple[Place, int]]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield (*at, key.value), key.start_mark.line + 1
            yield from _lines(value, (*at, key.value))
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield (*at, index), value.start_mark.line + 1
            yield from _lines(value, (*at, index))
