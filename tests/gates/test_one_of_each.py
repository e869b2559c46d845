"""The gates are the only ones: no second durable writer, no second redaction of URLs anywhere in the source."""

from __future__ import annotations

import ast
import re
from itertools import pairwise
from pathlib import Path

import pytest

from tests.support import ROOT

PRODUCT = sorted(path for folder in ("tim_search", "model") for path in (ROOT / folder).rglob("*.py"))
GATES = ROOT / "tim_search" / "gates"

#: Calls that make a file or a name durable: `os.<name>`, and `<path>.<name>` with the target as the one argument.
OF_OS = {"replace", "rename", "renames", "link", "fsync", "fdatasync"}


def durable_calls(path: Path) -> list[str]:
    """Where a module renames or syncs files itself."""
    calls = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            owner = node.func.value
            of_os = isinstance(owner, ast.Name) and owner.id in ("os", "shutil") and node.func.attr in {*OF_OS, "move"}
            # Tables are renamed by keyword, text is replaced with two arguments.
            of_path = node.func.attr in ("rename", "replace") and len(node.args) == 1 and not node.keywords
            if of_os or of_path:
                calls.append(f"{path.relative_to(ROOT)}:{node.lineno}: {ast.unparse(node.func)}")
    return calls


def whole_readings(path: Path) -> list[str]:
    """Where a module reads a path whole by itself."""
    return [
        f"{path.relative_to(ROOT)}:{node.lineno}: {ast.unparse(node.func)}"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
        if node.func.attr in ("read_text", "read_bytes")
    ]


def user_patterns(path: Path) -> list[str]:
    """Texts of a module that look like a pattern of what stands between `://` and `@`."""
    return [
        f"{path.relative_to(ROOT)}:{node.lineno}: {node.value}"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        if "://" in node.value and "@" in node.value.partition("://")[2] and any(sign in node.value for sign in "[*\\")
    ]


@pytest.mark.parametrize("path", PRODUCT, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_are_written_through_the_gate_alone(path: Path) -> None:
    if path != GATES / "files.py":
        assert durable_calls(path) == [], "use tim_search.gates.files"


@pytest.mark.parametrize("path", PRODUCT, ids=lambda path: str(path.relative_to(ROOT)))
def test_urls_are_redacted_by_the_gate_alone(path: Path) -> None:
    if path != GATES / "urls.py":
        assert user_patterns(path) == [], "use tim_search.gates.urls"


def quoted_by_hand(path: Path) -> list[str]:
    """Values that a module puts between quotes into SQL by itself; its own constants may stand there."""
    values = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.JoinedStr):
            continue
        words = "".join(part.value for part in node.values if isinstance(part, ast.Constant))
        if not re.search(r"\b(SELECT|COPY|WHERE|FROM|ATTACH)\b", words):
            continue
        for before, value in pairwise(node.values):
            if isinstance(before, ast.Constant) and isinstance(value, ast.FormattedValue):
                quotes = len(before.value) - len(before.value.rstrip("'\""))
                constant = isinstance(value.value, ast.Name) and value.value.id.isupper()
                if quotes % 2 and not constant:
                    values.append(f"{path.relative_to(ROOT)}:{node.lineno}: {ast.unparse(value)}")
    return values


@pytest.mark.parametrize("path", PRODUCT, ids=lambda path: str(path.relative_to(ROOT)))
def test_values_meet_sql_in_quotes_of_one_module(path: Path) -> None:
    """The name of a column that holds a quote would go on as a statement of its own."""
    assert quoted_by_hand(path) == [], "use model.sources.sql"


#: What reads files that no one else wrote: the machine's own.
OWN = {"ledger/drivers.py", "networks/registry.py", "training/cost.py"}


@pytest.mark.parametrize("path", PRODUCT, ids=lambda path: str(path.relative_to(ROOT)))
def test_received_files_are_opened_by_the_gate_alone(path: Path) -> None:
    """`read_text` of a pipe never ends, and of a device fills the memory."""
    if path.parent != GATES and "/".join(path.parts[-2:]) not in OWN:
        assert whole_readings(path) == [], "use tim_search.gates.files, plain or yaml"


def test_the_walk_finds_what_it_looks_for() -> None:
    assert durable_calls(GATES / "files.py")
    assert whole_readings(ROOT / "tim_search" / "ledger" / "drivers.py")
    assert processes_with_the_folder(ROOT / "tests" / "test_house.py")
    assert quoted_by_hand(ROOT / "tests" / "model" / "sources" / "test_tables.py")


def processes_with_the_folder(path: Path) -> list[str]:
    """Where a module starts a Python that would import from the current folder."""
    return [
        f"{path.relative_to(ROOT)}:{node.lineno}: {ast.unparse(node)}"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.List) and node.elts and ast.unparse(node.elts[0]) == "sys.executable"
        if not (len(node.elts) > 1 and ast.unparse(node.elts[1]) in ("'-P'", "'-I'"))
    ]


@pytest.mark.parametrize("path", PRODUCT, ids=lambda path: str(path.relative_to(ROOT)))
def test_processes_import_nothing_from_the_current_folder(path: Path) -> None:
    assert processes_with_the_folder(path) == [], "start it with -P, or -I"
