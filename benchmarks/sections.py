"""A benchmark as sections, each of which may fail, be skipped or come too late without harm to the others.

Every section fills rows of one table. The figures so far are on disk after each section, so that a run that is cut
keeps them.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

_REASON = 200  # characters of a reason


class Skip(Exception):
    """Why a section measures nothing here; no failure."""


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Attributes:
        name: what was timed.
        time: in the unit of the table; None where it was not measured.
        base: the row of the solo loop that its ratio is to; "" where there is none.
        floor: the least possible time; None where no floor belongs to the row.
        extrapolated: the time was measured on a part and multiplied by counts.
        status: "ok", "failed" or "skipped".
        why: one line: why the row was not measured, or what else is to be known of it.
    """

    name: str
    time: float | None
    base: str = ""
    floor: float | None = None
    extrapolated: bool = False
    status: str = "ok"
    why: str = ""

    @property
    def share(self) -> float | None:
        """Of the floor: the least possible time over this one."""
        return None if self.floor is None or self.time is None else self.floor / self.time


class Sections:
    """The sections of one run.

    Args:
        about: what is said of the whole run; before `show` it has `description`, `unit` and `extrapolated` (from what).
        minutes: sections that would start later than this are skipped.
        out: the JSON file, written after every section; None writes none.
    """

    def __init__(self, about: Mapping[str, Any], minutes: float, out: Path | None) -> None:
        self.about = dict(about)
        self.rows: list[Row] = []
        self.details: dict[str, dict[str, Any]] = {}
        self.failed = False
        self._out = out
        self._started = time.monotonic()
        self._minutes = minutes
        self._write()

    @property
    def seconds_left(self) -> float:
        """Until sections are skipped."""
        return self._started + 60 * self._minutes - time.monotonic()

    def run(
        self, name: str, action: Callable[[], dict[str, Any]], rows: tuple[str, ...] = (), *, fused: bool = False
    ) -> None:
        """Run a section and keep what it returns.

        Args:
            name: of the section.
            action: measures, calls `add` for its rows, and returns further figures. It may raise.
            rows: that it adds; those that it did not get to are in the table with the reason.
            fused: it is about fused training; when it fails, `failed` becomes true.
        """
        started = time.monotonic()
        found: dict[str, Any] = {}
        status, why = "ok", ""
        if self.seconds_left <= 0:
            status, why = "skipped", f"the {self._minutes:g} minutes (--minutes) were over"
        else:
            try:
                found = action()
            except Skip as reason:
                status, why = "skipped", str(reason)
            except Exception as error:  # whatever it is: the other sections go on
                status, why = "failed", f"{type(error).__name__}: {error}"
                self.failed |= fused
        why = " ".join(why.split())[:_REASON]
        if status != "ok":
            there = {row.name for row in self.rows}
            self.rows += [Row(one, None, status=status, why=why) for one in rows if one not in there]
            if torch.cuda.is_available():
                with contextlib.suppress(RuntimeError):  # a broken GPU context raises here too
                    torch.cuda.empty_cache()
        took = time.monotonic() - started
        self.details[name] = {"status": status, "why": why, "took_seconds": took, **found}
        print(f"{name}: {status}{f' ({why})' if why else ''}, {took:.1f} s", file=sys.stderr, flush=True)
        self._write()

    def add(
        self,
        name: str,
        time: float,
        *,
        base: str = "",
        floor: float | None = None,
        extrapolated: bool = False,
        note: str = "",
    ) -> None:
        """Add a measured row; see `Row`."""
        self.rows.append(Row(name, time, base, floor, extrapolated, why=note))

    def time(self, name: str) -> float | None:
        """Of a row; None where it was not measured."""
        return next((row.time for row in self.rows if row.name == name), None)

    def ratio(self, row: Row) -> float | None:
        """Time of the solo loop over that of the row; None where one of the two was not measured."""
        solo = self.time(row.base)
        return None if solo is None or row.time is None else solo / row.time

    def show(self) -> None:
        """Print what is not in the table, one line each, then the table."""
        console = Console(width=180)  # a reason stays on one line; a table without any is narrow
        console.print(Text(self.about["description"]))
        for name, found in self.details.items():
            if found["status"] != "ok" and not any(row.why == found["why"] for row in self.rows):  # not in the table
                console.print(Text(f"{name}: {found['status']}, {found['why']}"))
            for what, gap in found.get("differences", {}).items():
                console.print(
                    Text(f"score difference, {what}: max {gap['max']:.2e}, sd {gap['sd']:.2e}, {gap['scores']} scores")
                )
            if "peak" in found:
                console.print(
                    Text(f"peak memory, {name}: " + ", ".join(f"{k} {v:.0f} MB" for k, v in found["peak"].items()))
                )
        unit = self.about["unit"]
        order = {"solo": 0, "floo": 2}
        table = Table(box=box.SIMPLE, caption_justify="left")
        table.add_column(no_wrap=True)
        for heading in (unit, "ratio to solo", "share of floor"):
            table.add_column(heading, justify="right")
        table.add_column(overflow="fold")
        for row in sorted(self.rows, key=lambda row: order.get(row.name[:4], 1)):
            ratio = self.ratio(row)
            cells = (
                row.name + (" *" if row.extrapolated else ""),
                row.status if row.time is None else f"{row.time:.2f}",
                "" if ratio is None else f"{ratio:.2f}",
                f"{row.share:.0%}" if row.share else "",
                row.why,
            )
            table.add_row(*map(Text, cells))
        if any(row.extrapolated for row in self.rows):
            table.caption = f"* extrapolated: {self.about['extrapolated']}"
        console.print(table)

    def _write(self) -> None:
        if self._out is None:
            return
        rows = [{**asdict(row), "ratio": self.ratio(row), "share": row.share} for row in self.rows]
        found = {**self.about, "rows": rows, "sections": self.details}
        aside = self._out.with_name(f".{self._out.name}.new")
        aside.write_text(json.dumps(found, indent=2), encoding="utf-8")
        aside.replace(self._out)


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def machine(device: torch.device) -> dict[str, Any]:
    """The machine and the versions, for the JSON."""
    about: dict[str, Any] = {
        "device": device.type,
        "processor": platform.processor() or platform.machine(),
        "cores": cores(),
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
        "torch": torch.__version__,
        "time": time.ctime(),
    }
    if device.type == "cuda":
        about |= {
            "gpu": torch.cuda.get_device_name(),
            "gpu_memory_mb": torch.cuda.get_device_properties(device).total_memory / 2**20,
            "cuda": torch.version.cuda,
            "driver": _driver(),
        }
    return about


def _driver() -> str:
    command = shutil.which("nvidia-smi")
    if not command:
        return "unknown"
    asked = [command, "--query-gpu=driver_version", "--format=csv,noheader"]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        said = subprocess.run(asked, capture_output=True, text=True, timeout=20, check=True).stdout.split()
        return said[0] if said else "unknown"
    return "unknown"
