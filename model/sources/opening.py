"""Cohorts by their reference: a built-in one by its name, or a folder."""

from __future__ import annotations

import warnings
from collections.abc import Container
from pathlib import Path

from model.cohorts.cohort import Cohort
from model.cohorts.folder import read
from model.cohorts.folder_reader import OUTSIDE
from model.cohorts.folder_writer import write
from model.cohorts.leaks import findings
from model.sources import diabetes130, support2
from tim_search.types import BadInput, Finding

#: The cohorts that ship with the product, by the name that opens them.
BUILT_IN = {support2.NAME: support2.load, diabetes130.NAME: diabetes130.load}


def open_cohort(reference: str | Path, tasks: Container[str] = ()) -> Cohort:
    """The cohort behind a reference: "support2" or "diabetes130" (built in), or a folder with a cohort.yaml.

    Args:
        tasks: those that will be used, default all. One that is not may have too few labels to be scored.

    Warns of each file that lies outside of the folder: cohort.yaml, or a link in it, names it.

    Raises:
        BadInput: the folder cannot be used; the message lists every error with its place and its fix.
    """
    cohort, findings = _read(reference, tasks=tasks)
    errors = [finding for finding in findings if finding.severity == "error"]
    if cohort is None or errors:
        lines = "\n".join(f"  {finding}" for finding in errors)
        count = f"{len(errors)} error{'s' if len(errors) > 1 else ''}"
        raise BadInput(f"cohort {reference} cannot be used ({count}):\n{lines}")
    for finding in findings:
        if OUTSIDE in finding.problem:
            warnings.warn(f"cohort {reference}: {finding}", stacklevel=2)
    return cohort


def check_cohort(reference: str | Path, tasks: Container[str] = ()) -> list[Finding]:
    """Every finding about a cohort, errors first: what `open_cohort` would refuse, and warnings beside it."""
    return inspect_cohort(reference, tasks)[1]


def inspect_cohort(reference: str | Path, tasks: Container[str] = ()) -> tuple[Cohort | None, list[Finding]]:
    """The cohort, None where it has errors, and every finding about it, errors first; `tasks` as in `open_cohort`."""
    cohort, findings = _read(reference, thorough=True, tasks=tasks)
    return cohort, sorted(findings, key=lambda finding: finding.severity)


def write_cohort(cohort: Cohort, path: str | Path) -> None:
    """Write a cohort as a folder; `open_cohort(path)` has the same fingerprint, columns and split.

    The folder appears whole or not at all. Raises BadInput where something already stands at `path`.
    """
    write(cohort, Path(path))


def _read(
    reference: str | Path, *, thorough: bool = False, tasks: Container[str] = ()
) -> tuple[Cohort | None, list[Finding]]:
    if load := BUILT_IN.get(str(reference)):
        return load(), findings(load()) if thorough else []
    return read(Path(reference), thorough=thorough, wanted=tasks)
