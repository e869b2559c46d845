"""Everything there is to say about a search file, a cohort, a search folder or a ledger before it is used."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tim_search.gates.plain import plain
from tim_search.report.panel import Panel, Rows, Shown
from tim_search.types import Finding

if TYPE_CHECKING:
    import pandas as pd

#: Overlaps of two targets from here on are shown.
_MUCH = 0.5


@dataclass(frozen=True, repr=False)
class Checked(Shown):
    """What a check says; a notebook shows it.

    Attributes:
        place: what was checked.
        findings: errors first.
        overlap: of a cohort (names of its tasks, matrix of their overlaps from 0 to 1, None where too few samples have
            both labels).
    """

    place: str
    findings: tuple[Finding, ...]
    overlap: tuple[list[str], list[list[float | None]]] | None = None

    @property
    def errors(self) -> int:
        """How many findings stop a search."""
        return sum(finding.severity == "error" for finding in self.findings)

    def to_frame(self) -> pd.DataFrame:
        """The findings as a table: severity, place, problem, fix."""
        import pandas as pd

        names = ["severity", "place", "problem", "fix"]
        return pd.DataFrame([[getattr(each, name) for name in names] for each in self.findings], columns=names)

    @property
    def summary(self) -> str:
        """`ward/: 0 errors, 2 warnings`."""
        counts = ((self.errors, "error"), (len(self.findings) - self.errors, "warning"))
        return f"{self.place}: " + ", ".join(f"{count} {kind}{'' if count == 1 else 's'}" for count, kind in counts)

    def panel(self) -> Panel:
        """Each finding with its fix, and targets that overlap."""
        return Panel(self.summary, tables=[*tables_of(self.findings), *self._overlaps()])

    def _overlaps(self) -> list[Rows]:
        names, matrix = self.overlap or ([], [])
        rows = [
            (f"{value:.2f}", names[i], names[j])
            for i, row in enumerate(matrix)
            for j, value in enumerate(row[:i])
            if value is not None and value >= _MUCH
        ]
        return [Rows("Targets that overlap (0 to 1)", ("overlap", "task", "task"), sorted(rows)[::-1])] if rows else []


def tables_of(findings: Sequence[Finding]) -> list[Rows]:
    """The findings as a table that is shown; [] where there are none."""
    rows = [(each.severity, each.place, f"{each.problem} {each.fix}".strip()) for each in findings]
    return [Rows("Findings", ("", "place", "what, and what to do"), rows)] if rows else []


def check(place: str | Path, *, allow_code: bool = False, note: Callable[[str], None] = lambda text: None) -> Checked:
    """Check a search file, a cohort folder or built-in cohort, a search folder or a ledger.

    Args:
        place: its path; the name of a built-in cohort; the URL of a ledger.
        allow_code: whether a network of one's own, which a search file names, may be imported.
        note: takes a line before what takes long.
    """
    from tim_search import config
    from tim_search.ledger.ledger import Ledger
    from tim_search.results import opened

    path, name = Path(place), str(place)
    if path.is_dir() and (path / "search.json").exists():
        return Checked(name, tuple(opened.open_search(path).check()))
    if "://" in name or (path / "scores").is_dir():
        return Checked(name, tuple(Ledger(place).check()))
    # Imported here: pandas, pyarrow.
    from model.sources.opening import BUILT_IN

    if path.is_dir() or path.name == "cohort.yaml" or name in BUILT_IN:
        from model.cohorts.overlaps import overlap_matrix
        from model.sources.opening import inspect_cohort

        note(f"Reading {path} and looking for leaks")
        cohort, findings = inspect_cohort(name)
        if cohort is None:
            return Checked(name, tuple(findings))
        names, matrix = overlap_matrix(cohort.tasks, cohort.labels, cohort.classes)
        return Checked(name, tuple(findings), (list(names), plain(matrix.round(3))))
    return Checked(name, tuple(config.check(path, allow_code=allow_code)))
