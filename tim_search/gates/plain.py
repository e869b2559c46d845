"""JSON: values as it can hold them (NaN and infinity become null), the one writer, and the one bounded reader."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence, Set
from pathlib import Path, PurePath
from typing import Any

from tim_search.gates.files import MOST_TEXT, read_text, write_durably
from tim_search.gates.texts import for_terminal
from tim_search.types import BadInput


def number(value: Any) -> float | None:
    """A number as JSON can hold it: None for None, NaN and infinity."""
    if value is None:
        return None
    value = float(value)
    return value if math.isfinite(value) else None


def plain(value: Any) -> Any:
    """A value as JSON can hold it, with all that it holds.

    Mappings get names as keys, sequences, sets and arrays become lists, numpy's scalars Python's, paths texts; NaN and
    infinity become None. Raises TypeError for what JSON has no form for.
    """
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, str):
        return str(value)
    if isinstance(value, float):
        return number(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, bytes):
        return [plain(item) for item in value]
    if isinstance(value, Set):
        return sorted(map(plain, value))
    if isinstance(value, PurePath):
        return str(value)
    if hasattr(value, "tolist"):  # numpy's arrays and scalars
        return plain(value.tolist())
    raise TypeError(f"JSON has no form for {type(value).__name__}")


def json_text(content: Any, *, indent: int | None = 2) -> str:
    """`plain(content)` as JSON; one line where `indent` is None. Lone surrogates are written as escapes."""
    text = json.dumps(plain(content), indent=indent, ensure_ascii=False, allow_nan=False)
    return text.encode(errors="backslashreplace").decode()


def write_json(path: str | Path, content: Any, fix: str = "", *, indent: int | None = 2) -> Path:
    """Write `content` as a JSON file with a line break at its end (see `files.write_durably`); returns its path."""
    return write_durably(path, (json_text(content, indent=indent) + "\n").encode(), fix)


def read_json(path: str | Path, what: str = "JSON file", fix: str = "", *, most: int = MOST_TEXT) -> Any:
    """The content of a JSON file.

    Args:
        what: what is expected there, such as "search's manifest".
        fix: what to do where it cannot be used, as a sentence.
        most: bytes it may have.

    Raises:
        BadInput: there is none, it cannot be read, is too large or too deep, or is no JSON.
    """
    return parse_json(read_text(path, what, most, fix), for_terminal(path), what, fix)


def read_object(path: str | Path, what: str = "JSON file", fix: str = "", *, most: int = MOST_TEXT) -> dict[str, Any]:
    """`read_json` for a file that holds an object, as {name: value}; raises BadInput for anything else."""
    content = read_json(path, what, fix, most=most)
    if isinstance(content, dict):
        return content
    kind = {list: "a list", str: "a text", type(None): "null"}.get(type(content), "a number")
    advice = fix or "Bring the file back as it was written."
    raise BadInput(f"{for_terminal(path)}: expected a {what}, a JSON object, got {kind}. {advice}")


def parse_json(text: str | bytes, place: str, what: str = "JSON text", fix: str = "") -> Any:
    """The content of a JSON text; raises BadInput that names `place` where it is none or nests too deep."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError also for whole numbers of thousands of digits
        problem = "it nests too deep" if isinstance(error, RecursionError) else str(error)
        advice = fix or "Bring the file back as it was written."
        raise BadInput(f"{place}: expected a {what}, it is not whole JSON ({problem}). {advice}") from error
