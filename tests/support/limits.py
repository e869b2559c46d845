"""Limits of time and memory for what reads input that nobody promised anything of."""

from __future__ import annotations

import contextlib
import resource
import signal
from collections.abc import Iterator
from pathlib import Path
from types import FrameType


@contextlib.contextmanager
def within(seconds: float, gib: float) -> Iterator[None]:
    """Within it, work that takes longer raises TimeoutError, and more memory than that on top raises MemoryError."""

    def late(_: int, __: FrameType | None) -> None:
        raise TimeoutError(f"took longer than {seconds} s")

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limits = resource.getrlimit(resource.RLIMIT_AS)
    before = signal.signal(signal.SIGALRM, late)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + int(gib * 2**30), limits[1]))
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        resource.setrlimit(resource.RLIMIT_AS, limits)


def contents(root: Path) -> dict[str, bytes]:
    """What lies in a folder, by name: to see that nothing was written."""
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}
