"""The rules of bad input, read from the source, and which of them no test has broken.

A rule is a place in the code that refuses something or finds something wrong: it makes a `BadInput`, a `Finding` or one
of the errors that become one. As a plugin this file lists, after a run, the rules that kept silent and are not among
`EXCUSED`; with `--every-rule`, as `make test` has it, there may be none:

    python -m pytest -p tests.rules -m "not slow"
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent

#: What is called where something is refused.
SPEAKERS = {"BadInput", "LedgerError", "Finding", "Unfit", "_error"}
#: ... and what the reader of a cohort folder calls.
READER = {"error", "warn"}


#: (file, function) of rules that the fast tests do not break in their own process, and why.
EXCUSED: dict[tuple[str, str], str] = {
    ("tim_search/ledger/tables.py", "read"): "hands on what `load` found, which has its own tests",
    ("model/sources/events/mimic_raw.py", "_run"): "a slow test breaks it: the converter takes seconds to start",
}


@dataclass(frozen=True)
class Rule:
    file: str
    function: str
    first: int
    last: int
    words: str

    def __str__(self) -> str:
        return f"{self.file}:{self.first} in {self.function}: {self.words}"


#: Where a ValueError is a rule too, for its words become a part of a `BadInput`.
INNER = {"model/trained/cells.py"}


def _speaks(file: str, node: ast.AST) -> bool:
    if not isinstance(node, ast.Call):
        return False
    if isinstance(node.func, ast.Name):
        return node.func.id in SPEAKERS or (node.func.id == "ValueError" and file in INNER)
    of = node.func.value if isinstance(node.func, ast.Attribute) else None
    return isinstance(of, ast.Name) and of.id in ("reader", "self") and node.func.attr in READER  # type: ignore[union-attr]


def _rules(file: str, nodes: list[ast.AST], function: str) -> Iterator[Rule]:
    for node in nodes:
        inside = node.name if isinstance(node, ast.FunctionDef) else function
        if _speaks(file, node):
            yield Rule(file, function, node.lineno, node.end_lineno or node.lineno, ast.unparse(node)[:100])  # type: ignore[attr-defined]
        yield from _rules(file, list(ast.iter_child_nodes(node)), inside)


@cache
def rules() -> tuple[Rule, ...]:
    """Every rule of the product."""
    found: list[Rule] = []
    for folder in ("tim_search", "model"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            name = str(path.relative_to(ROOT))
            found += _rules(name, list(ast.parse(path.read_text(encoding="utf-8")).body), "module")
    return tuple(found)


class Recorder:
    """Notes from which lines of the product an error or a finding was made."""

    def __init__(self) -> None:
        self.spoken: dict[tuple[str, int], str] = {}

    def note(self, words: str) -> None:
        frame: Any = sys._getframe(2)
        for _ in range(2):  # a finding of the reader's is its caller's
            if frame is not None:
                self.spoken.setdefault((frame.f_code.co_filename, frame.f_lineno), words)
                frame = frame.f_back
        error = sys.exc_info()[1]
        trace = None if error is None else error.__traceback__
        while trace is not None:  # what it is told of
            if trace.tb_next is None:
                self.spoken.setdefault((trace.tb_frame.f_code.co_filename, trace.tb_lineno), words)
            trace = trace.tb_next

    def install(self) -> None:
        """Listen to the constructors, for as long as this process lives."""
        from tim_search.config import sections
        from tim_search.ledger.schema import Unfit
        from tim_search.tuning import space
        from tim_search.types import BadInput, Finding

        made = Finding.__init__

        def refusing(error: BadInput, *arguments: Any) -> None:
            self.note(str(arguments[0]))
            Exception.__init__(error, *arguments)

        def finding(one: Finding, *arguments: Any, **named: Any) -> None:
            made(one, *arguments, **named)
            self.note(str(one))

        def listening(make: Any) -> Any:
            def error(*arguments: Any) -> Any:
                self.note(str(arguments[0]))
                return make(*arguments)

            return error

        BadInput.__init__ = refusing  # type: ignore[method-assign]
        Unfit.__init__ = refusing  # type: ignore[method-assign, assignment]
        Finding.__init__ = finding  # type: ignore[method-assign]
        for module in (space, sections):
            module._error = listening(module._error)

    def silent(self) -> list[Rule]:
        """The rules that nothing has broken so far."""
        lines: dict[str, set[int]] = {}
        for file, line in self.spoken:
            lines.setdefault(file, set()).add(line)
        return [
            rule
            for rule in rules()
            if not lines.get(str(ROOT / rule.file), set()) & set(range(rule.first, rule.last + 1))
        ]


RECORDER = Recorder()


def unexcused() -> list[Rule]:
    """The rules that nothing has broken so far, and nothing excuses."""
    return [rule for rule in RECORDER.silent() if (rule.file, rule.function) not in EXCUSED]


def pytest_addoption(parser: Any) -> None:
    parser.addoption("--every-rule", action="store_true", help="fail where no test breaks a rule of bad input")


def pytest_configure() -> None:
    RECORDER.install()


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """What a process of pytest-xdist has heard."""
    for file, line in getattr(node, "workeroutput", {}).get("spoken", ()):
        RECORDER.spoken.setdefault((file, line), "")


def pytest_sessionfinish(session: Any) -> None:
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["spoken"] = list(RECORDER.spoken)
    elif session.config.getoption("every_rule") and session.exitstatus == 0 and unexcused():
        session.exitstatus = 1


def pytest_terminal_summary(terminalreporter: Any) -> None:
    silent = unexcused()
    terminalreporter.section(f"{len(silent)} of {len(rules())} rules were not broken")
    for rule in silent:
        terminalreporter.line(str(rule))
