"""What is wrong with a cohort's content: labels a task cannot be learnt or scored from, features, twin targets.

Every function collects all of its findings. Errors are what no search could use; warnings are what a person should
look at. The form of the files is checked where they are read (`model/cohorts/folder.py`).
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.cohorts.cohort import Modality, Split, examples, text
from model.cohorts.fillers import fillers
from model.cohorts.stored import Stored, parts
from model.cohorts.values import Rule, rule_text
from tim_search.types import Finding, Task

#: Texts, in small letters, that as a class hardly mean anything but "not known"; "none" may be a class like others.
UNKNOWN_WORDS = {"na", "n/a", "#n/a", "n.a.", "<na>", "null", "nan", "#null!", "#value!", "?"}
#: More columns than this with the same fault are told in one line.
MOST_NAMED = 5
#: Values of a modality on disk that are looked through for numbers that may mean "not measured".
_LOOKED_AT = 1 << 24


def warning(place: str, problem: str, fix: str) -> Finding:
    """What a person should look at, and no search is stopped by."""
    return Finding(place, problem, fix, "warning")


def label_findings(
    tasks: Mapping[str, Task],
    labels: Mapping[str, NDArray[np.float64]],
    classes: Mapping[str, tuple[str, ...]],
    split: Split,
) -> list[Finding]:
    """Tasks that have nothing to learn or to score: one class, no labels, or neither in a fold or the test part."""
    findings: list[Finding] = []
    parts = [(f"fold {fold}", split.validation(fold)) for fold in range(split.n_folds)] + [
        ("the test part", split.test)
    ]
    for name, label in labels.items():
        task, place = tasks[name], f"tasks.{name}"
        columns = label.reshape(len(label), -1)
        problem = _poor(task, columns)
        if problem:
            fix = "Mend the label column or leave the task out."
            findings.append(Finding(place, f"over the whole cohort {problem}.", fix))
            continue
        fixed = _fixed(task, columns, classes.get(name, ()))
        for label_name, value in fixed.items():
            problem = f"label {label_name} is {value:g} wherever it is known."
            problem = problem if value == value else f"label {label_name} is known nowhere."
            fix = f"It teaches nothing and {task.metric} leaves it out; remove it if that is not wanted."
            if task.metric == "micro_auroc":
                fix = f"It still counts for {task.metric}, which pools all labels; remove it if that is not wanted."
            findings.append(warning(place, problem, fix))
        findings += _unknown_as_class(name, task, columns, classes.get(name, ()))
        never = _absent(task, columns, classes.get(name, ()), fixed)
        if never:
            left = len(classes[name]) - len(never)
            fix = "Take it out of `classes`" + (", and write `kind: binary`, the event last." if left == 2 else ".")
            findings.append(warning(place, f"no sample at all has {', '.join(never)}.", fix))
        poor: dict[str, list[str]] = {}
        lacking: dict[str, list[str]] = {}
        for part, rows in parts:
            problem = _poor(task, columns[rows])
            if problem:
                poor.setdefault(problem, []).append(part)
                continue
            absent = [it for it in _absent(task, columns[rows], classes.get(name, ()), fixed) if it not in never]
            if absent:
                lacking.setdefault(", ".join(absent), []).append(part)
        for absent_there, where in lacking.items():
            fix = "The mean over the classes leaves them out there; merge rare classes if that is not wanted."
            verb = "has" if len(where) == 1 else "have"
            findings.append(warning(place, f"{_listed(where)} {verb} no sample of {absent_there}.", fix))
        for problem, where in poor.items():
            fix = "Give it more labels, stratify the split on it (`stratify`), or leave the task out."
            findings.append(Finding(place, f"in {_listed(where)} {problem}, so it cannot be scored there.", fix))
    return findings


def _unknown_as_class(name: str, task: Task, columns: NDArray[np.float64], names: tuple[str, ...]) -> Iterator[Finding]:
    """A warning where a class is a word for "not known": it would be learnt and scored as one of them."""
    from tim_search.gates.yaml import quoted

    for code, word in enumerate(names if task.kind == "multiclass" else ()):
        if word.strip().lower() in UNKNOWN_WORDS and (count := int((columns == code).sum())):
            problem = f"{count:,} labels are the text {word!r}, which is learnt and scored as a class."
            listed = ", ".join(quoted(other) for other in names if other != word)
            fix = f"If it means not known, write `missing: [{quoted(word)}]` for the label column under `values` and "
            fix += f"`classes: [{listed}]`; in a frame of your own, empty these cells."
            yield warning(f"tasks.{name}", problem, fix)


def _listed(parts: list[str]) -> str:
    return " and ".join(filter(None, [", ".join(parts[:-1]), parts[-1]]))


def empty_samples(modalities: Mapping[str, Modality], ids: NDArray[Any]) -> list[Finding]:
    """An error where samples have no modality at all: no network could say anything of them."""
    nothing = ids[~np.any([modality.present for modality in modalities.values()], axis=0)] if modalities else ids[:0]
    if not len(nothing):
        return []
    count = "1 sample has" if len(nothing) == 1 else f"{len(nothing)} samples have"
    problem = f"{count} no modality at all (e.g. {examples(nothing)})."
    return [Finding("modalities", problem, "Leave such samples out, or add the modality that was measured of them.")]


def feature_warnings(modalities: Mapping[str, Modality], rules: Mapping[str, Rule]) -> list[Finding]:
    """Columns that can teach nothing, and numbers that may mean "not measured", with the rule that would say so."""
    findings = []
    for modality in modalities.values():
        if not modality.present.any():
            fix = "Remove the modality, or check that its ids are those of the samples."
            findings.append(warning(f"modalities.{modality.name}", "no sample has it.", fix))
            continue
        if modality.kind == "image":
            continue
        low, high = column_ranges(modality)
        never = [name for name, least in zip(modality.columns, low, strict=True) if np.isnan(least)]
        fixed = [
            (name, f"{least:g}") for name, least, most in zip(modality.columns, low, high, strict=True) if least == most
        ]
        findings += _named(modality.name, never, "never measured (all NaN)", "Remove it.")
        for value in dict.fromkeys(value for _, value in fixed):
            columns = [name for name, of in fixed if of == value]
            problem = f"the same ({value}) wherever measured"
            fix = "It is used only as whether it was measured; remove it if that is not wanted."
            findings += _named(modality.name, columns, problem, fix)
        findings += _fillers(modality, rules)
    return findings


def _fillers(modality: Modality, rules: Mapping[str, Rule]) -> list[Finding]:
    """Numbers that may stand for "not measured": one warning a column, or one for all that hold the same ones."""
    from tim_search.gates.yaml import quoted

    by_values: dict[tuple[str, ...], list[tuple[str, str]]] = {}
    values = modality.values
    if isinstance(values, Stored):  # some samples will do where all may be too many
        step = 1 + math.prod(values.shape) // _LOOKED_AT
        values = values[::step]
    for index, column in enumerate(modality.columns):
        if column not in modality.levels and (suspects := fillers(values[..., index].reshape(-1))):
            gone = tuple(text(suspect.value) for suspect in suspects)
            by_values.setdefault(gone, []).append((column, "; ".join(suspect.words for suspect in suspects)))
    findings = []
    for gone, columns in by_values.items():
        shown = columns if len(columns) <= MOST_NAMED else columns[:1]
        for column, words in shown:
            more = f" So it is in {len(columns) - 1} more columns." if len(columns) > MOST_NAMED else ""
            rule = rules.get(column, Rule())
            verb = "write" if rule == Rule() else "make the line of this column"
            line = f"{quoted(column)}: {rule_text(replace(rule, missing=(*rule.missing, *gone)))}"
            fix = f"If it means not measured, {verb} under `values`: `{line}`; in a frame of your own, empty the cells."
            findings.append(warning(f"modalities.{modality.name}.{column}", f"{words}.{more}", fix))
    return findings


def _named(modality: str, columns: list[str], problem: str, fix: str) -> list[Finding]:
    """One warning a column, or one for all of them where they are many."""
    if len(columns) > MOST_NAMED:
        listed = ", ".join(columns[:MOST_NAMED])
        whole = f"{len(columns)} columns are each {problem}: {listed}, ..."
        return [warning(f"modalities.{modality}", whole, fix)]
    return [warning(f"modalities.{modality}.{column}", f"is {problem}.", fix) for column in columns]


def column_ranges(modality: Modality) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Smallest and largest measured value of each column, float64 (p,); NaN where it is never measured."""
    low = high = np.full(modality.values.shape[-1], np.nan)
    for _, part in parts(modality.values):
        flat = part.reshape(-1, part.shape[-1])
        low = np.fmin(low, np.fmin.reduce(flat, axis=0, initial=np.nan))
        high = np.fmax(high, np.fmax.reduce(flat, axis=0, initial=np.nan))
    return low, high


def _poor(task: Task, columns: NDArray[np.float64]) -> str:
    """Why these labels cannot teach or score the task; empty where they can."""
    labelled = ~np.isnan(columns)
    if not labelled.any():
        return "it has no label"
    varied = [len(np.unique(column[rows])) > 1 for column, rows in zip(columns.T, labelled.T, strict=True)]
    if any(varied):
        return ""
    if task.kind == "multilabel":
        return "none of its label columns has both classes"
    only = columns[labelled][0]
    return f"all its labels are the same ({only:g})"


def _fixed(task: Task, columns: NDArray[np.float64], names: tuple[str, ...]) -> dict[str, float]:
    """The labels of a multilabel task that never vary, each with its only value (NaN: never known)."""
    if task.kind != "multilabel":
        return {}
    distinct = {name: np.unique(column[~np.isnan(column)]) for name, column in zip(names, columns.T, strict=True)}
    return {name: float(values[0]) if len(values) else np.nan for name, values in distinct.items() if len(values) < 2}


def _absent(task: Task, columns: NDArray[np.float64], names: tuple[str, ...], but: Container[str] = ()) -> list[str]:
    """What a part of the cohort has no sample of, labels in `but` left out."""
    if task.kind == "multiclass":
        present = set(np.unique(columns[~np.isnan(columns)]).astype(int).tolist())
        return [f"class {name}" for code, name in enumerate(names) if code not in present]
    if task.kind == "multilabel":
        positive = {name: (column == 1).any() for name, column in zip(names, columns.T, strict=True)}
        return [f"a positive {name}" for name, some in positive.items() if not some and name not in but]
    return []
