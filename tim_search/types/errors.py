"""The errors that this product raises on purpose, and what a check of a file or folder says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


class TimSearchError(Exception):
    """Base of the errors this product raises on purpose; the command line prints them without a traceback."""

    exit_code = 1


class BadInput(TimSearchError):
    """The user's input cannot be used. The message says what was expected, what was given and what to do next."""

    exit_code = 2


class OutOfMemory(TimSearchError):
    """A pack did not fit the device's memory; the executor splits it in two and goes on."""


class Interrupted(TimSearchError):
    """A search was asked to stop (SIGINT, SIGTERM); what was trained is in the ledger."""

    exit_code = 130


@dataclass(frozen=True, slots=True)
class Finding:
    """One result of checking a search file or a cohort folder: where, what is wrong, how to mend it."""

    place: str
    problem: str
    fix: str
    severity: Literal["error", "warning"] = "error"

    def __str__(self) -> str:
        return f"{self.place}: {self.problem} {self.fix}".rstrip()
