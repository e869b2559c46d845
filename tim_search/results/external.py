"""What other cohorts' patients said of the models that a search chose: a record each in the folder `external`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tim_search.gates.forms import conform
from tim_search.gates.plain import read_object, write_json
from tim_search.gates.texts import for_file_name
from tim_search.types import BadInput

FOLDER = "external"


@dataclass(frozen=True)
class External:
    """Models of a search, judged on another cohort.

    Attributes:
        cohort, fingerprint: which one.
        written_at: when, in UTC.
        rule: by which the combinations were chosen, or "given".
        chosen: source -> combination.
        seeds: of the trainings whose predictions are averaged.
        draws: patient-bootstrap draws behind every interval.
        rows: one a source, model, group and class (`flat`); a number is None where there is none.
        curves: plain `model.trained.external.Drawn`.
        notes: what did not fit, and how to read the rest.
    """

    cohort: str
    fingerprint: str
    written_at: str
    rule: str
    chosen: Mapping[str, Sequence[str]]
    seeds: Sequence[int]
    draws: int
    rows: Sequence[Mapping[str, Any]]
    curves: Sequence[Mapping[str, Any]]
    notes: Sequence[str]

    @property
    def name(self) -> str:
        """What its files are called: two cohorts of one name have names of their own."""
        return f"{for_file_name(self.cohort)}-{self.fingerprint[:8]}"

    @property
    def whole(self) -> list[Mapping[str, Any]]:
        """The rows of all patients and the task as it is, without subgroups and single classes."""
        return [row for row in self.rows if row["group"] == "all" and not row["of"]]

    def write(self, folder: Path) -> Path:
        """Write the record into a search's folder; an earlier one of the same cohort is replaced."""
        return write_json(folder / FOLDER / f"{self.name}.json", asdict(self))


_UNSURE = (float, type(None))
_INTERVALS = ("score", "gain", "slope", "intercept")
#: Columns of a row that are numbers.
NUMBERS = tuple(f"{name}{end}" for name in _INTERVALS for end in ("", "_low", "_high"))
_FORM = {
    "cohort": str,
    "fingerprint": str,
    "written_at": str,
    "rule": str,
    "chosen": {str: [str]},
    "seeds": [int],
    "draws": int,
    "rows": [
        {
            **dict.fromkeys(("source", "model", "group", "of", "metric"), str),
            **dict.fromkeys(NUMBERS, _UNSURE),
            "rows": (int, str),
            "positive": (int, str, type(None)),
        }
    ],
    "curves": [
        {**dict.fromkeys(("source", "model", "kind", "group"), str), **{name: [float] for name in ("x", "y", "n")}}
    ],
    "notes": [str],
}


def flat(judged: Mapping[str, Any]) -> dict[str, Any]:
    """A plain `model.trained.external.Judged` as one row: an interval becomes NAME, NAME_low and NAME_high."""
    row: dict[str, Any] = {}
    for name, value in judged.items():
        if name in _INTERVALS:
            row |= {name: value["value"], f"{name}_low": value["low"], f"{name}_high": value["high"]}
        else:
            row[name] = value
    return row


def read_all(folder: Path) -> list[External]:
    """Every record of a search's folder, by name; raises BadInput where one cannot be understood."""
    records = []
    for path in sorted((folder / FOLDER).glob("*.json")):
        fix = f"Move it away, or judge that cohort again: tim-search confirm {folder} --on COHORT."
        content = read_object(path, "record of another cohort", fix)
        try:
            conform(content, _FORM)
        except ValueError as error:
            raise BadInput(f"{path}: {error}. {fix}") from error
        records.append(External(**{name: content[name] for name in _FORM}))
    return records
