"""A table of one's own as a cohort in a folder, and what is to be known of it before a search."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tim_search.app import cells, checking
from tim_search.app.checking import Checked, tables_of
from tim_search.gates.files import explained, make_folder, open_regular, take_name
from tim_search.report.panel import Panel, Rows, Shown
from tim_search.types import BadInput, Finding, counted, some

if TYPE_CHECKING:
    import pandas as pd

#: Column names of a table, what they begin with, and tasks: see `cohort`.
Tasks = Mapping[str, Any] | Sequence[str] | None
Modalities = Mapping[str, str | Sequence[str]] | None

#: The clustering that every cohort of a table has; it needs no column.
PHENOTYPE = "phenotype"
#: How files end that are no tables: search files, cohort.yaml.
_NO_TABLES = (".yaml", ".yml")
#: Bytes of a JSON file that tell a search file, which names its cohort, from a table.
_START = 1 << 16

_STOPPED = "Stopped: nothing was written. Run the same cell again."


@dataclass(frozen=True, repr=False)
class OwnCohort(Shown):
    """A cohort in its folder; a notebook shows its columns and what a check finds.

    Attributes:
        folder: with cohort.yaml, to be read and edited, and samples.parquet.
        tasks: names of the tasks that have labels.
        samples, patients: how many.
        findings: of the check, leaks among them; errors first.
        columns: a row a column of the table, as columns.csv has it: what it was read as and is used as, its role, and a
            doubt where there is one.
    """

    folder: Path
    tasks: tuple[str, ...]
    samples: int
    patients: int
    findings: tuple[Finding, ...]
    columns: pd.DataFrame

    def panel(self) -> Panel:
        """Columns with their roles, and findings."""
        names = [name for name in self.columns.columns if self.columns[name].ne("").any()]
        where = f"In {self.folder}. Name other roles in the call, or edit columns.csv or cohort.yaml there."
        if not self.folder.is_dir():
            where = "Not kept: tim_search.cohort writes it to a folder. Name other roles in the call."
        return Panel(
            f"Cohort of {counted(self.samples, 'sample')} of {counted(self.patients, 'patient')}, "
            f"{counted(len(self.tasks), 'task')}",
            lines=[where],
            tables=[*tables_of(self.findings), Rows("Columns", names, self.columns[names].values.tolist())],
        )


def cohort(
    data: pd.DataFrame | str | Path,
    out: str | Path | None = None,
    *,
    patient: str | None = None,
    sample: str | None = None,
    tasks: Tasks = None,
    modalities: Modalities = None,
) -> OwnCohort:
    """Make a cohort of a table, check it, and keep it in a folder; the same table again gives the same folder.

    Args:
        data: a frame, or a file that `tim-search cohort init` reads; one row a sample.
        out: the folder; default: cohorts/NAME under the current folder, NAME that of the file or "table"; it is told.
        patient, sample: columns of the ids; default: guessed by names and values.
        tasks: columns of labels, or by name of the task a column or what cohort.yaml has (label, kind, classes);
            default: guessed.
        modalities: by name what its columns begin with, or its columns: what is in none of them is no input; default:
            guessed.

    Raises:
        BadInput: a name is no column; no cohort can be made of the table; another one stands at `out`.
    """
    with cells.call(_STOPPED):
        name = "table" if not isinstance(data, str | Path) else Path(data).name.split(".")[0] or "table"
        home = Path(out or Path("cohorts") / name)
        return kept(data, home, patient=patient, sample=sample, tasks=tasks, modalities=modalities)


def check(
    data: pd.DataFrame | str | Path,
    *,
    patient: str | None = None,
    sample: str | None = None,
    tasks: Tasks = None,
    modalities: Modalities = None,
    allow_code: bool = False,
) -> Checked | OwnCohort:
    """Check a table, a search file, a cohort, a search folder or a ledger; a notebook shows what is found.

    A frame is checked as the cohort that `cohort` would make of it; nothing is kept. Else see `checking.check`.
    """
    with cells.call(_STOPPED):
        if isinstance(data, str | Path) and not is_table(data):
            return checking.check(data, allow_code=allow_code)
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "cohort"
            return kept(data, out, patient=patient, sample=sample, tasks=tasks, modalities=modalities)


def is_table(data: pd.DataFrame | str | Path) -> bool:
    """Whether this is a frame, or by its name the file of a table; of JSON one that begins like no search file."""
    if not isinstance(data, str | Path):
        return True
    path = Path(data)
    if not path.is_file() or path.suffix.lower() in _NO_TABLES:
        return False
    if path.suffix.lower() != ".json":
        return True
    with open_regular(path) as file:
        start = file.read(_START).lstrip()
    return not (start.startswith(b"{") and re.search(rb'"cohort"\s*:\s*"', start))


def kept(
    data: pd.DataFrame | str | Path,
    out: Path,
    *,
    patient: str | None = None,
    sample: str | None = None,
    tasks: Tasks = None,
    modalities: Modalities = None,
) -> OwnCohort:
    """The cohort of a table in its folder, which is left as it is where it holds this cohort already."""
    # Imported here: pandas, pyarrow.
    import pandas as pd

    from model.sources import own_table
    from model.sources.opening import inspect_cohort
    from model.sources.own_table_named import Named

    source = Path(data) if isinstance(data, str | Path) else data
    named = Named(patient, sample, tasks, modalities)
    out = out.absolute()
    with explained(out, "Name another folder with out=."):
        make_folder(out.parent)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as scratch:
        aside = Path(scratch) / out.name
        guess = own_table.init(source, aside, tell=cells.say, edits=named)
        if poor := [f"{name}: {guess.left_out[name]}" for name in named.labels if name in guess.left_out]:
            raise BadInput(f"tasks: {'; '.join(poor)}. Name others, or another column.")
        cells.say(f"Looking for leaks in {counted(len(guess.rows), 'column')}")
        new, findings = inspect_cohort(aside)
        if new is None:
            errors = "\n".join(f"  {finding}" for finding in findings if finding.severity == "error")
            raise BadInput(f"No cohort can be made of the table:\n{errors}")
        if out.exists():
            _check_same(out, new)
        else:
            take_name(aside, out)
    return OwnCohort(
        out, tuple(guess.tasks), len(new), len(set(new.patients.tolist())), tuple(findings), pd.DataFrame(guess.rows)
    )


def _check_same(out: Path, new: Any) -> None:
    """Raise BadInput where a folder holds another cohort than this one."""
    from model.sources.opening import open_cohort

    earlier = open_cohort(out)
    parts = {
        "patients, inputs or labels": earlier.fingerprint == new.fingerprint,
        "columns": earlier.columns_digest == new.columns_digest,
        "split": earlier.split.digest == new.split.digest,
    }
    if differ := [part for part, same in parts.items() if not same]:
        raise BadInput(
            f"{out} holds another cohort: {some(differ)} differ. Name another folder with out=; or name this folder "
            "in the place of the table, to take the cohort as it is."
        )
