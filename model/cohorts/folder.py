"""The cohort folder, read: cohort.yaml and Parquet files become a cohort, or every reason why they cannot.

docs/cohorts.md describes the format. Reading never stops at the first problem: each is a `Finding` with its place in
the file and what to do, and the parts that are sound are checked on.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from model.cohorts import checks, column_names, leaks, leaks_of_ids, overlaps
from model.cohorts.cohort import Cohort, Split, examples, make_cohort, make_split, patient_codes, split_of, text
from model.cohorts.folder_features import check_excludes, read_modalities
from model.cohorts.folder_labels import read_overlaps, read_tasks
from model.cohorts.folder_reader import (
    DESCRIPTION,
    SPLIT,
    Reader,
    Samples,
    column_of,
    fields_of,
    ids_of,
    is_number,
    load,
    numbers,
)
from model.cohorts.folder_values import read_rules, table_columns
from tim_search.types import Finding

#: Most values the column to stratify on may have.
MOST_STRATA = 200


def read(root: Path, *, thorough: bool = False, wanted: Container[str] = ()) -> tuple[Cohort | None, list[Finding]]:
    """Read a cohort folder.

    Args:
        thorough: also look for features that teach nothing, targets that overlap and leaks: a pass over the data.
        wanted: the tasks that will be used, default all: others may have labels that cannot be learnt or scored.

    Returns:
        the cohort, or None where there is any error; and every finding.
    """
    reader = Reader(root.parent if root.name == DESCRIPTION else root)
    spec = load(reader)
    if spec is None:
        return None, reader.findings
    reader.rules = read_rules(reader, spec)
    samples = _samples(reader, spec)
    tasks, labels, classes = read_tasks(reader, spec, samples)
    modalities = read_modalities(reader, spec, samples)
    if len(modalities) == len(spec.get("modalities", {})):
        check_excludes(reader, tasks, modalities)
        reader.findings += [] if samples is None else checks.empty_samples(modalities, samples.ids)
    declared = read_overlaps(reader, spec)
    columns = table_columns(reader, spec)
    if thorough:
        reader.findings += checks.feature_warnings(modalities, reader.rules)
        reader.findings += overlaps.overlap_warnings(tasks, labels, classes, declared)
    if samples is None:
        return None, reader.findings
    split = _split(reader, spec, samples)
    if split is not None:
        reader.findings += checks.label_findings(
            tasks, {name: label for name, label in labels.items() if not wanted or name in wanted}, classes, split
        )
    if split is None or any(finding.severity == "error" for finding in reader.findings):
        return None, reader.findings
    cohort = make_cohort(
        spec["name"],
        samples.ids,
        samples.patients,
        modalities.values(),
        tasks.values(),
        labels,
        classes=classes,
        split=split,
        overlaps=declared,
        info=spec.get("info") or {},
        rules=reader.rules,
        table_columns=columns,
    )
    if thorough:
        reader.findings += [
            *leaks.findings(cohort, _ends(reader, spec, samples, cohort)),
            *_persons(reader, samples, cohort),
        ]
    return cohort, reader.findings


def _ends(reader: Reader, spec: Mapping[str, Any], samples: Samples, cohort: Cohort) -> dict[str, NDArray[np.float64]]:
    """Columns of the samples' file that tell how long a stay was and are neither input nor target."""
    table = reader.table(samples.file, DESCRIPTION)
    assert table is not None  # the samples were read from it
    used = {column for modality in cohort.modalities.values() for column in modality.inputs}
    used |= {str(entry.get("label", name)) for name, entry in spec["tasks"].items() if isinstance(entry, dict)}
    lengths: dict[str, NDArray[np.float64]] = {}
    for name in table.schema_arrow.names:
        if column_names.timed(name) and name not in used:
            array = column_of(reader, table, samples.file, name, DESCRIPTION)
            if array is not None and is_number(array.type):
                lengths[name] = numbers(array).astype(np.float64)
    return lengths


def _persons(reader: Reader, samples: Samples, cohort: Cohort) -> Iterator[Finding]:
    """Whether another column of the samples' file is the better patient id, and whether persons have two of them."""
    table = reader.table(samples.file, DESCRIPTION)
    assert table is not None  # the samples were read from it
    inputs = {column for modality in cohort.modalities.values() for column in modality.inputs}
    personal: dict[str, list[Any]] = {}
    for field in table.schema_arrow:
        if field.name in (samples.id_column, samples.patient_column):
            continue
        is_personal = leaks_of_ids.personal(field.name)
        if not is_personal and not leaks_of_ids.may_be_key(field.name, field.type, field.name in inputs):
            continue
        array = column_of(reader, table, samples.file, field.name, DESCRIPTION)
        if array is not None and is_personal:
            personal[field.name] = array.to_pylist()
        elif array is not None:
            yield from leaks_of_ids.other_patients(field.name, array, cohort)
    yield from leaks_of_ids.same_persons(personal, cohort)


def _samples(reader: Reader, spec: Mapping[str, Any]) -> Samples | None:
    name = spec.get("samples", "samples.parquet")
    table = reader.table(name, f"{DESCRIPTION}: samples")
    id_column, patient_column = spec.get("sample_id"), spec.get("patient_id")
    if table is None or id_column is None or patient_column is None:
        return None
    ids = ids_of(reader, table, name, id_column, "sample_id")
    patients = ids if patient_column == id_column else ids_of(reader, table, name, patient_column, "patient_id")
    if ids is None or patients is None:
        return None
    if not len(ids):
        reader.error(name, "has no rows.", "A cohort needs samples.")
        return None
    index = pd.Index(ids)
    if not index.is_unique:
        twice = index[index.duplicated()].unique().to_numpy()
        problem = f"{len(twice)} sample ids occur more than once (e.g. {examples(twice)})."
        fix = "Give every sample its own id; repeated samples of a patient share the patient id only."
        reader.error(f"{name}: column {id_column}", problem, fix)
        return None
    return Samples(name, id_column, patient_column, ids, index, patients)


def _split(reader: Reader, spec: Mapping[str, Any], samples: Samples) -> Split | None:
    place = f"{DESCRIPTION}: split"
    fields = fields_of(reader, spec.get("split", {}), place, SPLIT)
    codes, patient_ids = patient_codes(samples.patients)
    n_folds, seed = fields.get("folds", 5), fields.get("seed", 0)
    if not 2 <= n_folds <= 100:
        reader.error(f"{place}.folds", f"expected 2 to 100, given {n_folds}.", "Name how many folds.")
        return None
    strata = _strata(reader, spec, samples)
    if "file" not in fields:
        if len(patient_ids) < 2 * n_folds:
            problem = f"{len(patient_ids)} patients are too few for {n_folds} folds and a test part."
            reader.error(place, problem, f"At least {2 * n_folds} are needed.")
            return None
        return make_split(codes, patient_ids, strata, seed, n_folds)
    return _given_split(reader, fields["file"], samples)


def _strata(reader: Reader, spec: Mapping[str, Any], samples: Samples) -> list[Any] | None:
    column, place = spec.get("stratify"), f"{DESCRIPTION}: stratify"
    table = reader.table(samples.file, place)
    if column is None or table is None:
        return None
    array = column_of(reader, table, samples.file, column, place)
    if array is None:
        return None
    values: list[Any] = array.to_pylist()
    count = len({text(value) for value in values})
    if count > MOST_STRATA:
        problem = f"{column} has {count} values; at most {MOST_STRATA} can be stratified on."
        reader.error(place, problem, "Name a column with few values, e.g. quartiles of this one.")
        return None
    return values


def _given_split(reader: Reader, file: str, samples: Samples) -> Split | None:
    """A split the user gives: a row a sample or a patient, `part` train or test, and `fold` for the training part."""
    table = reader.table(file, f"{DESCRIPTION}: split.file")
    if table is None:
        return None
    names = table.schema_arrow.names
    by_sample = samples.id_column in names
    key = samples.id_column if by_sample else samples.patient_column
    ids = ids_of(reader, table, file, key, "split.file")
    part = column_of(reader, table, file, "part", f"{DESCRIPTION}: split.file")
    fold = column_of(reader, table, file, "fold", f"{DESCRIPTION}: split.file")
    if ids is None or part is None or fold is None:
        return None
    parts = np.array([text(value) for value in part.to_pylist()], dtype=object)
    strange = np.setdiff1d(parts.astype(str), ["train", "test"])
    if len(strange):
        reader.error(f"{file}: column part", f"expected train or test, given {examples(strange)}.", "Mend the column.")
        return None
    if not is_number(fold.type):
        reader.error(f"{file}: column fold", f"expected whole numbers, given {fold.type}.", "Number folds from 0.")
        return None
    frame = pd.DataFrame({"id": ids, "test": parts == "test", "fold": numbers(fold)})
    frame.loc[frame["test"], "fold"] = -1
    learning = frame.loc[~frame["test"], "fold"]
    most = float(learning.max()) if learning.notna().all() and len(learning) else 0.0
    n_folds = int(most) + 1 if 1 <= most < 100 else 0
    if not n_folds or sorted(learning.unique().tolist()) != list(range(n_folds)):
        problem = f"expected every training row in a fold 0 to k - 1; given {examples(learning.unique())}."
        reader.error(f"{file}: column fold", problem, "Number two or more folds from 0 without a gap.")
        return None
    distinct = frame.drop_duplicates()
    position = pd.Index(samples.ids if by_sample else samples.patients)
    if not _one_side(reader, file, distinct, key):
        return None
    row = pd.Index(distinct["id"]).get_indexer(position)
    if (row < 0).any():
        lacking = position[row < 0].unique().to_numpy()
        what = "samples" if by_sample else "patients"
        problem = f"{len(lacking)} {what} are not in the split (e.g. {examples(lacking)})."
        reader.error(file, problem, "Put every one of them on a side.")
        return None
    test = distinct["test"].to_numpy(bool)[row]
    folds = distinct["fold"].to_numpy()[row].astype(np.int8)
    sides = pd.DataFrame({"id": samples.patients, "test": test, "fold": folds}).drop_duplicates()
    return split_of(test, folds, n_folds) if _one_side(reader, file, sides, samples.patient_column) else None


def _one_side(reader: Reader, file: str, rows: pd.DataFrame, key: str) -> bool:
    """Whether each id of distinct (id, test, fold) rows stands once; a finding where it does not."""
    sides = rows.groupby("id")["test"].nunique()
    both = sides.index[sides > 1].to_numpy()
    folds = rows.loc[~rows["id"].isin(both), "id"]
    several = folds[folds.duplicated()].unique()
    fix = "Split by patient: all samples of a patient on one side and in one fold."
    if len(both):
        problem = f"{len(both)} values of {key} are in the training and the test part (e.g. {examples(both)})."
        reader.error(file, problem, fix)
    if len(several):
        problem = f"{len(several)} values of {key} are in more than one fold (e.g. {examples(np.asarray(several))})."
        reader.error(file, problem, fix)
    return not len(both) and not len(several)
