"""The records of a search folder that the page shows beside its scores, read with care: they may come from others."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from tim_search.gates import small_cells
from tim_search.gates.forms import conform
from tim_search.gates.plain import read_object
from tim_search.gates.texts import for_terminal
from tim_search.results import external
from tim_search.results.external import External
from tim_search.types import BadInput

#: The forms (`gates.forms`) of what the page reads beside search.json and the ledger.
_COUNT = (int, str)
_COHORT = {
    "format": int,
    "name": str,
    "fingerprint": str,
    "description": {str: str},
    "filters": [[str, _COUNT]],
    "samples": _COUNT,
    "patients": _COUNT,
    "parts": [{"part": str, "samples": _COUNT, "patients": _COUNT}],
    "modalities": [
        {
            "name": str,
            "kind": str,
            "columns": int,
            "categorical": int,
            "absent": _COUNT,
            "missing": (float, type(None)),
            "column_missing": {str: _COUNT},
        }
    ],
    "dropped": [{"modality": str, "column": str, "by": [str]}],
    "tasks": [
        {
            "name": str,
            "labelled?": _COUNT,
            "clusters?": int,
            "classes?": [[_COUNT, _COUNT]],
            "known?": [_COUNT],
            "mean?": float,
            "sd?": float,
            "parts?": [{"part": str, "labelled": _COUNT, "positive": (int, str, type(None))}],
        }
    ],
}
_UNSURE = (float, type(None))
_GROUP = {
    "budget": int,
    "max_size": int,
    "objective": str,
    "gain": str,
    "made": str,
    "total": float,
    "low": _UNSURE,
    "high": _UNSURE,
    "worst": float,
    "notes": [str],
    "models": [
        {
            "tasks": [str],
            "predicted": bool,
            "serves": [
                {"task": str, "alone": float, "score": float, "gain": float, "low": _UNSURE, "high": _UNSURE,
                 "predicted": bool}
            ],
        }
    ],
    "front": [
        {"models": int, "total": float, "low": _UNSURE, "high": _UNSURE, "worst": float, "predicted": bool,
         "subsets": [str]}
    ],
}  # fmt: skip


class RecordWarning(UserWarning):
    """A record of the search folder cannot be understood, and the page does without it."""


def _read(path: Path, form: Mapping[Any, Any], *keys: str) -> dict[str, Any] | None:
    """A JSON file of the folder that has these keys, or None: folders of earlier versions have fewer of them.

    One that has them, but not the form, is left out with a RecordWarning.
    """
    if not path.exists():
        return None
    try:
        content = read_object(path)
        if not content.keys() >= set(keys):
            return None
        conform(content, form)
    except (BadInput, ValueError, RecursionError) as error:
        problem = str(error) if isinstance(error, BadInput) else f"{for_terminal(path)}: {error}."
        warnings.warn(f"{problem} The page does without it.", RecordWarning, stacklevel=4)
        return None
    return content


def cohort(folder: Path) -> dict[str, Any] | None:
    """The cohort's record, or None."""
    return _read(folder / "cohort.json", _COHORT, "format", "samples", "parts", "modalities", "dropped", "tasks")


def group(folder: Path) -> dict[str, Any] | None:
    """The models to deploy as `tim-search group` chose them last, or None."""
    return _read(folder / "group.json", _GROUP, "budget", "models", "front", "notes", "made")


def versions(folder: Path) -> dict[str, str]:
    """Versions of the libraries that the search ran with."""
    return _read(folder / "versions.json", {str: str}) or {}


def elsewhere(folder: Path, small: int = 0) -> list[External]:
    """What was judged on other cohorts, with counts that may be told; [] with a RecordWarning where it is damaged."""
    try:
        records = external.read_all(folder)
    except BadInput as error:
        warnings.warn(f"{error} The page does without it.", RecordWarning, stacklevel=3)
        return []
    return [replace(record, rows=[_counts_told(row, small) for row in record.rows]) for record in records]


def _counts_told(row: Mapping[str, Any], small: int) -> dict[str, Any]:
    counts = {name: row[name] for name in ("rows", "positive") if row[name] is not None}
    return {**row, **{name: small_cells.near(value, small) for name, value in counts.items()}}
