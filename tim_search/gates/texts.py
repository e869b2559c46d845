"""Texts that come from data or from others' files, made safe for where they go: a terminal, a comment, a file name."""

from __future__ import annotations

import hashlib
import re
import unicodedata

# Controls (C0, DEL, C1, among them ESC and U+0085), line and paragraph separators, marks and overrides of the direction
# of writing, lone surrogates, and characters that are shown as nothing.
_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff"
    "\U000e0000-\U000e007f]"
)
_UNSAFE_BUT_LINES = re.compile(_UNSAFE.pattern.replace("\x00-\x1f", "\x00-\x08\x0b-\x1f", 1))
_NUMBER = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)(e[-+]?\d+)?", re.IGNORECASE)
_NAME_BYTES = 200  # of a file name without its end, so that `.parquet`, a number and a name aside still fit


def for_terminal(text: object, *, lines: bool = False, most: int | None = None) -> str:
    r"""The text on one line, with every character that could steer a terminal or hide text as an escape such as \x1b.

    Also what to write into a comment of YAML, where a line break would end the comment.

    Args:
        lines: line breaks (\n) and tabs stay.
        most: characters of the answer; of a longer text the beginning, and "...".
    """
    safe = (_UNSAFE_BUT_LINES if lines else _UNSAFE).sub(_escaped, str(text))
    return safe if most is None or len(safe) <= most else f"{safe[: max(0, most - 3)]}..."


def _escaped(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape", "surrogatepass").decode()


def for_spreadsheet(text: object) -> str:
    """The text as a cell of a CSV file: no control character, and nothing that a spreadsheet would run as a formula.

    What begins like a formula and is no number gets an apostrophe in front, as spreadsheets themselves write it.
    """
    safe = for_terminal(text)
    return (
        f"'{safe}" if re.match(r"\s*[=+\-@'\uff1d\uff0b\uff0d\uff20]", safe) and not _NUMBER.fullmatch(safe) else safe
    )


def for_file_name(text: str) -> str:
    """The text as part of a file name: no folders, no controls, no leading dot, at most 200 bytes of UTF-8.

    A text that had to be changed gets a digest of itself at its end, so that two texts never share a name.
    """
    plain = re.sub(r'[/\\:*?"<>|]', "_", _UNSAFE.sub("_", unicodedata.normalize("NFC", text)))
    plain = re.sub(r"^\.|[. ]$", "_", plain)
    content = plain.encode()
    if plain == text and plain and len(content) <= _NAME_BYTES:
        return plain
    mark = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:8]
    return f"{content[: _NAME_BYTES - 9].decode(errors='ignore') or '_'}-{mark}"
