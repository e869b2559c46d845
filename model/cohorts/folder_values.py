"""The rules of values in cohort.yaml, read and checked: how the cells of a column become values, by column."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from model.cohorts.folder_reader import DESCRIPTION, Reader, fields_of, kind_of, texts
from model.cohorts.values import CHOICES, Rule
from tim_search.types import near

_KEYS: Mapping[str, tuple[type, bool]] = {"missing": (list, False), **dict.fromkeys(CHOICES, (str, False))}


def read_rules(reader: Reader, spec: Mapping[str, Any]) -> dict[str, Rule]:
    """The rules by column; a finding for each that cannot be used."""
    rules = {}
    for column, entry in spec.get("values", {}).items():
        place = f"{DESCRIPTION}: values.{column}"
        if not isinstance(entry, dict):
            fix = f"Write `{column}: {{missing: [-1]}}` or another rule; docs/cohorts.md lists them."
            reader.error(place, f"expected keys and values, given {kind_of(entry)}.", fix)
            continue
        fields = fields_of(reader, entry, place, _KEYS)
        fields["missing"] = texts(reader, fields.get("missing", []), f"{place}.missing")
        try:
            rules[str(column)] = Rule.of(fields)
        except ValueError as error:
            reader.error(place, f"{error}.", "docs/cohorts.md lists what a rule may hold.")
    return rules


def table_columns(reader: Reader, spec: Mapping[str, Any]) -> tuple[str, ...]:
    """All columns of the folder's tables and those it names besides; a finding for each rule of none of them."""
    names: dict[str, None] = {str(name): None for name in spec.get("table_columns", [])}
    for table in reader.tables.values():
        names |= dict.fromkeys(table.schema_arrow.names if table is not None else ())
    for column in spec.get("values", {}):
        if str(column) not in names:
            problem = f"no table of the folder has the column {column}.{near(str(column), names)}"
            reader.error(f"{DESCRIPTION}: values.{column}", problem, "Mend the name, or remove the rule.")
    return tuple(names)
