"""The commented cohort.yaml of a table of one's own: what was guessed, why, and what was left out."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from model.cohorts.cohort import text
from model.cohorts.column_names import named_patient, words
from model.cohorts.folder_reader import FORMAT
from model.sources.own_table_guess import FEW_VALUES, MANY_ROWS, Guess, GuessedTask
from model.sources.own_table_roles import Raw, Table, holds_texts
from model.sources.own_table_values import Ruled, value_lines


def describe(raw: Raw, guess: Guess, name: str) -> str:
    """The text of cohort.yaml, with comments; no name or value of the table ends a line of it."""
    from tim_search.gates.yaml import comment, quoted

    table = Ruled(raw, guess.rules)
    everything = list(table.columns)
    lines = [
        "# Written by `tim-search cohort init`: guesses, to be read and mended. docs/cohorts.md tells what each key",
        "# means; `tim-search check` on this folder tells what is still wrong.",
        *([f"# {guess.reading.line}"] if guess.reading else []),
        f"format: {FORMAT}",
        f"name: {quoted(name)}",
        "samples: samples.parquet",
        f"sample_id: {quoted(guess.sample_id)}" + ("   # no column tells the rows apart" if guess.numbered else ""),
        f"patient_id: {quoted(guess.patient_id)}",
    ]
    if guess.patient_id == guess.sample_id and named_patient(guess.patient_id):
        lines.append("# ^ one row a patient")
    elif guess.patient_id == guess.sample_id:
        lines += [
            "# ^ no column looks like a patient's id, so one row a patient is assumed. If a patient may have several,",
            "#   name the column here: otherwise he is in the training and in the test part.",
        ]
    else:
        n_patients = table[guess.patient_id].nunique()
        lines.append(f"# ^ {n_patients} patients, {len(table)} rows")
        if len(table) > MANY_ROWS * n_patients:
            lines += [
                "#   Are the rows times of one stay? Then make one row of them, or a modality of kind sequence:",
                "#   docs/your-own-data.md, step 1.",
            ]
    if guess.patient_id in guess.doubts:
        lines.append(f"#   {guess.doubts[guess.patient_id]}")
    if guess.stratify:
        lines.append(f"stratify: {quoted(guess.stratify)}   # the rarest outcome that every row has")
    else:
        lines.append("# stratify: COLUMN   # name a column with few values, so that every fold gets its share of them")
    lines += value_lines(guess.proposals)
    lines += ["", "modalities:"]
    for modality, (prefix, columns) in guess.modalities.items():
        lines += _modality_lines(modality, prefix, columns, everything, table, guess.categories)
    if not guess.modalities:
        lines.append("  # no column looks like an input: name some here")
    lines += ["", "tasks:"]
    lines += [_task_line(name, task, table) for name, task in guess.tasks.items()]
    lines.append("  phenotype: {kind: clustering, clusters: 15}   # groups of patients; needs no label")
    if not guess.tasks:
        lines.append("  # died: {kind: binary, label: COLUMN}   # no column has the name of an outcome: name them")
    if guess.overlaps:
        lines += ["", "# Targets that are one outcome read twice: a gain between them is no transfer.", "overlaps:"]
        lines += [f"  - [{quoted(a)}, {quoted(b)}]   # {why}" for (a, b), why in guess.overlaps.items()]
    if guess.left_out:
        lines += ["", "# Left out, and why; add what is an input to `columns` of a modality:"]
        lines += [f"#   {column}: {why}" for column, why in guess.left_out.items()]
    return "".join(f"{comment(line)}\n" for line in lines)


def _modality_lines(
    name: str, prefix: str, columns: Sequence[str], everything: Sequence[str], table: Table, categories: Sequence[str]
) -> list[str]:
    from tim_search.gates.yaml import quoted

    exact = prefix and [column for column in everything if column.startswith(prefix)] == list(columns)
    chosen = f"prefix: {quoted(prefix)}" if exact else f"columns: [{', '.join(map(quoted, columns))}]"
    lines = [f"  {quoted(name)}:   # {len(columns)} columns", "    file: samples.parquet", f"    {chosen}"]
    coded = [column for column in columns if column in categories and not holds_texts(table[column])]
    if coded:
        levels = {column: np.unique(table[column].dropna().to_numpy(np.float64)) for column in coded}
        each = (f"{quoted(column)}: [{', '.join(_value(text(v)) for v in of)}]" for column, of in levels.items())
        lines.append(f"    levels: {{{', '.join(each)}}}")
    few = {column: values for column in columns if column not in coded and (values := few_values(table[column]))}
    for column, values in list(few.items())[:FEW_VALUES]:
        shown = ", ".join(map(_value, values))
        lines.append(f"    # levels: {{{quoted(column)}: [{shown}]}}   # if these numbers are categories")
    return lines


def few_values(values: pd.Series[Any]) -> list[str]:
    """The values of a column of whole numbers that may be codes of categories."""
    counted = words(str(values.name))[-1] in ("n", "count", "num", "number")
    if holds_texts(values) or pd.api.types.is_bool_dtype(values) or counted:
        return []
    distinct = np.unique(values.dropna().to_numpy(np.float64))
    whole = 2 < len(distinct) <= FEW_VALUES and bool((distinct == np.round(distinct)).all())
    return [text(value) for value in distinct] if whole else []


def _task_line(name: str, task: GuessedTask, table: Table) -> str:
    from tim_search.gates.yaml import quoted

    parts = [f"kind: {task.kind}", f"label: {quoted(task.column)}"]
    if task.classes and (task.kind == "binary" or holds_texts(table[task.column])):
        parts.append(f"classes: [{', '.join(map(_value, task.classes))}]")
    if task.excludes:
        parts.append(f"excludes: [{', '.join(map(quoted, task.excludes))}]")
    values = table[task.column]
    labelled = values[values.notna()]
    remark = [f"{len(labelled)} labels"]
    if task.kind == "binary":
        positive = task.classes[1] if task.classes else "1"
        remark.append(f"{np.mean([text(value) == positive for value in labelled.tolist()]):.1%} positive")
    elif task.kind == "multiclass":
        remark.append(f"{labelled.nunique()} classes")
    remark += [task.why] if task.why else []
    remark += ["excluded: inputs of the same name"] if task.excludes else []
    return f"  {quoted(name)}: {{{', '.join(parts)}}}   # {'; '.join(remark)}"


def _value(name: str) -> str:
    """A level or a class, which may be a bare number."""
    from tim_search.gates.yaml import quoted

    return name if re.fullmatch(r"-?(0|[1-9]\d*)", name) else quoted(name)
