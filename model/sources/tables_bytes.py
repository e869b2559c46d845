"""The bytes of a table's file: what is packed in them, and the encoding of a text."""

from __future__ import annotations

import bz2
import codecs
import gzip
import lzma
import re
import zipfile
from pathlib import Path
from typing import IO, Any

from model.sources.tables_pieces import check_unpacked
from tim_search.gates.files import open_regular
from tim_search.gates.texts import for_terminal
from tim_search.types import BadInput

#: Byte order marks and the encodings they stand for; the longer ones first.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"),
)  # fmt: skip
_BLOCK = 1 << 22


def unpacked(path: Path, scratch: Path) -> Path:
    """The file itself, or what is packed in it (gzip, bzip2, xz, zip of one file, by its first bytes) in `scratch`."""
    with open_regular(path) as file:
        start = file.read(6)
        file.seek(0)
        if start.startswith(b"PK\x03\x04") or path.suffix == ".zip":
            with zipfile.ZipFile(file) as archive:
                inside = [name for name in archive.namelist() if not re.match(r"__MACOSX/|.*/$", name, re.DOTALL)]
                if (count := len(inside)) != 1:
                    raise BadInput(f"{for_terminal(path)}: expected one file in it, got {count}. Unpack it first.")
                return _copied(archive.open(inside[0]), path, scratch)
        if start.startswith(b"\x1f\x8b"):
            return _copied(gzip.open(file), path, scratch)
        if start.startswith(b"BZh"):
            return _copied(bz2.open(file), path, scratch)
        if start.startswith(b"\xfd7zXZ"):
            return _copied(lzma.open(file), path, scratch)
        if start.startswith(b"\x28\xb5\x2f\xfd"):
            raise BadInput(f"{for_terminal(path)}: expected a table, got Zstandard. Unpack it first (zstd -d).")
    return path


def _copied(source: IO[bytes] | Any, packed: Path, scratch: Path) -> Path:
    target = scratch / "unpacked"
    with source, open(target, "wb") as file:
        while block := source.read(_BLOCK):
            file.write(block)
            check_unpacked(packed, file.tell())
    return target


def encoding_of(path: Path, shown: str) -> str:
    """The encoding of a text: by its mark, UTF-8 where all of it is, else Windows-1252 where it looks Western.

    Raises:
        BadInput: it is neither, or no text.
    """
    with open_regular(path) as file:
        start = file.read(4096)
        for mark, name in _MARKS:
            if start.startswith(mark):
                return name
        if b"\0" in start:
            for name, place in (("utf-16-le", 1), ("utf-16-be", 0)):
                if start[place::2].count(0) > 0.8 * (len(start) // 2):
                    return name
            raise BadInput(f"{shown}: expected a table, got binary data. Write it as CSV or Parquet.")
        decoder = codecs.getincrementaldecoder("utf-8")()
        file.seek(0)
        try:
            while block := file.read(_BLOCK):
                decoder.decode(block)
            decoder.decode(b"", final=True)
            return "utf-8"
        except UnicodeDecodeError:
            file.seek(0)
            return _single_byte(file, shown)


def _single_byte(file: IO[bytes], shown: str) -> str:
    """Windows-1252, where single letters among ASCII are beyond it, as in Western texts; raises BadInput."""
    runs = []
    for _ in range(16):
        block = file.read(_BLOCK)
        runs += [len(run) for run in re.findall(rb"[\x80-\xff]+", block)]
        undefined = re.search(rb"[\x81\x8d\x8f\x90\x9d]", block)
        if undefined or 2 * sum(run for run in runs if run > 2) > sum(runs):
            raise BadInput(
                f"{shown}: its text is neither UTF-8 nor of Western Europe. Name its encoding, e.g. --encoding cp932 "
                "(Japanese), gb18030 (Chinese), cp949 (Korean), cp1251 (Cyrillic), cp1253 (Greek)."
            )
    return "cp1252"


def recoded(path: Path, encoding: str, scratch: Path, shown: str) -> Path:
    """A copy in UTF-8; raises BadInput where the text is not of this encoding."""
    target = scratch / "utf-8"
    try:
        with (
            open_regular(path) as file,
            codecs.getreader(encoding)(file) as source,
            open(target, "w", encoding="utf-8", newline="") as copy,
        ):
            while block := source.read(_BLOCK):
                copy.write(block)
    except LookupError:
        raise BadInput(f"--encoding: expected an encoding such as cp1252, got {for_terminal(encoding)}.") from None
    except UnicodeError as error:
        raise BadInput(f"{shown}: is no text of the encoding {encoding} ({error}). Name another one.") from error
    return target
