"""A process that ends without a word has somebody to speak for it; one that ends in order has not."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

LEFT = "import os, signal, sys\nfrom tim_search.executors import last_words; [last_words.leave('it is there')] * 2; "


@pytest.mark.parametrize(
    ("end", "status", "said"),
    [
        ("pass", 0, False),
        ("sys.exit(2)", 2, False),
        ("raise ValueError('in order')", 1, False),
        ("os.abort()", -signal.SIGABRT, True),
        ("os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL, True),
        ("os.fork() or os._exit(0); os.wait()", 0, False),
    ],
)
def test_who_speaks_at_the_end(end: str, status: int, said: bool) -> None:
    found = subprocess.run([sys.executable, "-c", LEFT + end], capture_output=True, text=True, timeout=60)
    assert found.returncode == status
    assert found.stderr.count("it is there") == said
