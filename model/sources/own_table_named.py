"""Roles of a table's columns as a caller names them in a few words: what `columns.csv` says, without a file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from model.sources.own_table_columns import Columned, faults
from model.sources.own_table_guess import guess_columns
from model.sources.own_table_roles import Edit, Raw
from tim_search.types import BadInput, near, some

#: The clustering that every cohort of a table has; it needs no column.
PHENOTYPE = "phenotype"


@dataclass(frozen=True)
class Named:
    """Which column is what; None leaves it to the guess.

    Attributes:
        patient, sample: the columns of the ids.
        tasks: columns of labels; or by name of the task its column, or {label: column, kind: ...}.
        modalities: by name what its columns begin with, or its columns. What is in none of them is no input.
    """

    patient: str | None = None
    sample: str | None = None
    tasks: Mapping[str, str | Mapping[str, str]] | Sequence[str] | None = None
    modalities: Mapping[str, str | Sequence[str]] | None = None

    def __post_init__(self) -> None:
        for place, given, fits, example in (
            ("patient", self.patient, _is_text, "'patient_id'"),
            ("sample", self.sample, _is_text, "'stay_id'"),
            ("tasks", self.tasks, _are_tasks, "['died', 'los'] or {'stay': 'los'}"),
            ("modalities", self.modalities, _are_modalities, "{'labs': 'labs__', 'vitals': ['pulse', 'sodium']}"),
        ):
            if given is not None and not fits(given):
                raise BadInput(f"{place}: expected names as in {example}, got {given!r:.200}. Write it so.")

    def edits(self, table: Raw) -> dict[str, Edit] | None:
        """What is named of each column, and what is guessed of the others; None where nothing is named.

        Raises:
            BadInput: with each name that is no column, and each column that cannot be what it is named as.
        """
        if self == Named():
            return None
        guess = guess_columns(table)
        guessed = Columned(guess, table)
        edits = {}
        for column in table.columns:
            role, group, used_as = guessed.role(column)
            edits[column] = Edit(role, used_as, group, guess.left_out.get(column, ""))
        named = [*self._ids(), *self._labels(), *self._inputs(table, edits)]
        problems = [
            f"{place}: no such column: {column!r}.{near(column, table.columns)}"
            for place, column, _ in named
            if column not in table
        ]
        for place, column, edit in named:
            if column in table:
                problems += [f"{place} ({column}): {fault}" for fault in faults(column, edit, table)]
        by_column: dict[str, str] = {}
        for place, column, _ in named:
            if column in by_column:
                problems.append(f"{place}: {column} is named as {by_column[column]} too; name it once")
            by_column[column] = place
        if problems:
            lines = "\n".join(f"  {problem}" for problem in problems)
            raise BadInput(f"The roles that were named do not fit the table:\n{lines}")
        self._forget(edits)
        return edits | {column: edit for _, column, edit in named}

    def _forget(self, edits: dict[str, Edit]) -> None:
        """Leave out what was guessed in the place of what is named."""
        instead = {
            "patient id": (self.patient, "another id is named as the patient's"),
            "sample id": (self.sample, "another id is named as the sample's"),
            "target": (self.tasks, "a target by its name, and none of the tasks that are named"),
            "input": (self.modalities, "in none of the modalities that are named"),
        }
        for column, edit in edits.items():
            named, why = instead.get(edit.role, (None, ""))
            if named is not None:
                edits[column] = Edit("left out", why=why)

    @property
    def labels(self) -> list[str]:
        """The columns of the tasks that are named."""
        return [column for _, column, _ in self._labels()]

    def _ids(self) -> Iterator[tuple[str, str, Edit]]:
        """(what it is named as, column, its role) of the ids that are named."""
        if self.patient is not None:
            yield "patient", self.patient, Edit("patient id")
        if self.sample is not None:
            yield "sample", self.sample, Edit("sample id")

    def _labels(self) -> Iterator[tuple[str, str, Edit]]:
        """The same of the tasks."""
        tasks: Any = self.tasks or ()
        listed = not isinstance(tasks, Mapping)
        for name in tasks:
            given = name if listed else tasks[name]
            about = {"label": given} if isinstance(given, str) else {"label": name, **given}
            if unknown := sorted(about.keys() - {"label", "kind"}):
                raise BadInput(
                    f"tasks.{name}: expected label and kind, got {some(unknown)} too. Make the cohort, then write more "
                    "into its cohort.yaml."
                )
            if not (listed and name == PHENOTYPE):
                yield f"tasks.{name}", about["label"], Edit("target", about.get("kind", ""), "" if listed else name)

    def _inputs(self, table: Raw, edits: Mapping[str, Edit]) -> Iterator[tuple[str, str, Edit]]:
        """The same of the inputs; a prefix takes in what can be an input and is nothing else by its name."""
        taken = {column for _, column, _ in (*self._ids(), *self._labels())}
        for name, given in (self.modalities or {}).items():
            columns = [given] if isinstance(given, str) and given in table else given
            if isinstance(columns, str):
                fits = [column for column in table.columns if column.startswith(columns) and column not in taken]
                columns = [column for column in fits if edits[column].role == "input"]
                if not columns:
                    raise BadInput(
                        f"modalities.{name}: expected columns that begin with {given!r} and can be inputs, the table "
                        f"has {some(fits) if fits else 'none'}. Its columns are: {some(list(table.columns), 20)}."
                    )
            for column in columns:
                usual = edits.get(column, Edit("input"))
                yield (
                    f"modalities.{name}",
                    column,
                    replace(usual, role="input", group=name) if (usual.role == "input") else Edit("input", "", name),
                )


def _is_text(given: Any) -> bool:
    return isinstance(given, str)


def _are_texts(given: Any) -> bool:
    return isinstance(given, list | tuple) and all(map(_is_text, given))


def _are_tasks(given: Any) -> bool:
    if isinstance(given, Mapping):
        return all(isinstance(each, str | Mapping) for each in given.values())
    return _are_texts(given)


def _are_modalities(given: Any) -> bool:
    return isinstance(given, Mapping) and all(_is_text(each) or _are_texts(each) for each in given.values())
