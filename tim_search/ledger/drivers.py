"""Which process writes a ledger, in words, and whether it still runs."""

from __future__ import annotations

import json
import os
import socket
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from tim_search.gates.texts import for_terminal


def this_driver() -> dict[str, Any]:
    """What a driver writes down of itself: pid, host, since, machine."""
    return {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": datetime.now(UTC).isoformat("T", "seconds"),
        "machine": machine(),
    }


@cache
def machine() -> str:
    """Tells machines of one name apart, and a machine from itself before it was started again."""
    try:
        return f"{socket.gethostname()} {Path('/proc/sys/kernel/random/boot_id').read_text().strip()}"
    except OSError:
        return ""


def in_words(holder: str) -> str:
    """A driver, from the JSON it wrote down of itself."""
    try:
        driver = json.loads(holder)
        return for_terminal(f"process {driver['pid']} on {driver['host']} since {driver['since']}", most=200)
    except (ValueError, TypeError, KeyError, RecursionError):  # it has just taken the lock and not yet written its name
        return "another process"


def has_died(holder: str) -> bool:
    """Whether the process that is named ran on this machine and runs no more."""
    try:
        driver = json.loads(holder)
        if not machine() or driver["machine"] != machine():
            return False
        os.kill(int(driver["pid"]), 0)
    except ProcessLookupError:
        return True
    except (ValueError, TypeError, KeyError, OSError, OverflowError, RecursionError):
        return False
    return False
