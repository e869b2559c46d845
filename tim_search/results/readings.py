"""The log of every reading of the test patients' labels: a line in the search's folder, on disk before they are read.

A test score means what it says only as long as one knows how often the test patients were looked at. Whatever reads
them calls `log` first; `read` gives the whole list.
"""

from __future__ import annotations

import json
import warnings
from datetime import UTC, datetime
from pathlib import Path

from tim_search.gates.files import MOST_TEXT, append_durably, open_regular
from tim_search.types import product_version

FILE = "test-readings.jsonl"
#: What names the other cohort in a reading of patients who are none of the search's.
ELSEWHERE = "on"


class ReadingsWarning(UserWarning):
    """A line of the log cannot be understood."""


def log(folder: Path, command: str, **what: object) -> None:
    """Write down that `command` is about to read the test patients' labels; on return the line survives a power loss.

    Args:
        folder: of the search; the line is appended to its test-readings.jsonl.
        command: who reads, such as "train".
        what: further values that JSON can hold, such as source, subset and seeds.

    Raises:
        BadInput: the log cannot be written; nothing may be read then.
        TypeError: a value that JSON cannot hold.
    """
    when = datetime.now(UTC).isoformat(timespec="seconds")
    line = {"when": when, "command": command, **what, "version": product_version()}
    text = json.dumps(line, ensure_ascii=False, allow_nan=False)
    path = Path(folder) / FILE
    append_durably(
        path,
        text,
        "Without that line the test patients may not be read: name the folder of a search that you may write to.",
    )


def read(folder: Path) -> list[dict[str, object]]:
    """Every reading in the log of a search's folder, oldest first; [] where the test patients were never read.

    Keys: when (ISO 8601, UTC), command, version, and what else the command told. A line that cannot be understood is
    left out with a ReadingsWarning: a reading whose line was cut short by a kill never took place.
    """
    path = Path(folder) / FILE
    try:
        with open_regular(path, MOST_TEXT) as file:
            lines = file.read().decode(errors="replace").removesuffix("\n").split("\n")
    except FileNotFoundError:
        return []
    entries: list[dict[str, object]] = []
    for number, line in enumerate(lines, 1):
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            entry = None
        if isinstance(entry, dict) and "command" in entry:
            entries.append(entry)
        else:
            warnings.warn(f"{path}, line {number}: is not whole and is left out.", ReadingsWarning, stacklevel=2)
    return entries


def of_test_patients(folder: Path) -> list[dict[str, object]]:
    """`read` without the readings of other cohorts' patients (`confirm --on`)."""
    return [entry for entry in read(folder) if ELSEWHERE not in entry]
