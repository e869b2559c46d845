"""What a cohort is: samples of patients, their modalities, their tasks and labels, and a stored split.

A cohort is a value: arrays that nobody changes after they are read. It comes from a folder (`folder.py` reads,
checks and writes it, docs/cohorts.md describes it), from a raw table (`model/sources/support2.py`) or from a
generator (`model/sources/synthetic.py`). Torch is not needed here; `model.data` turns a cohort into network inputs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from model.cohorts.stored import Bools as Bools
from model.cohorts.stored import Floats as Floats
from model.cohorts.stored import Stored, Values, add_values
from model.cohorts.values import Rule
from tim_search.types import ALLOWED, METRICS, BadInput, Task, digest

ModalityKind: TypeAlias = Literal["vector", "sequence", "image"]

#: The name an image modality's only input goes by where columns are named (excludes, digests).
PIXELS = "pixels"

#: One patient in so many belongs to the test part.
TEST_EVERY = 5


@dataclass(frozen=True, eq=False)
class Modality:
    """One source of input features.

    Attributes:
        name: unique in its cohort.
        kind: "vector", "sequence" or "image".
        columns: p column names of a vector, c channel names of a sequence, () for an image.
        values: float32 or float64; vector (n, p), sequence (n, T, c), image (n, c, H, W). NaN = not measured.
            Categorical columns of a vector hold codes 0..L-1. Those of a sequence or an image may be left on disk.
        levels: categorical column -> its L level names, in code order; a column not in it is numeric.
        present: bool (n,); False where the modality is absent for the sample, and then its values are NaN.
    """

    name: str
    kind: ModalityKind
    columns: tuple[str, ...]
    values: Values
    levels: Mapping[str, tuple[str, ...]]
    present: Bools

    def __post_init__(self) -> None:
        axes = {"vector": 2, "sequence": 3, "image": 4}[self.kind]
        if self.values.ndim != axes or len(self.values) != len(self.present):
            raise ValueError(
                f"modality {self.name}: a {self.kind} needs values with {axes} axes and one `present` flag a sample; "
                f"given values {self.values.shape} and present {self.present.shape}"
            )
        if self.kind != "image" and self.values.shape[-1] != len(self.columns):
            raise ValueError(
                f"modality {self.name}: {len(self.columns)} columns named, values have {self.values.shape[-1]}"
            )
        if len(set(self.columns)) < len(self.columns):
            raise ValueError(f"modality {self.name}: two columns have one name")

    @property
    def inputs(self) -> tuple[str, ...]:
        """The names its inputs go by where columns are named: its columns, or ("pixels",) for an image."""
        return self.columns if self.kind != "image" else (PIXELS,)

    @property
    def table(self) -> Floats:
        """The values of a vector, (n, p)."""
        return cast(Floats, self.values)

    def take(self, rows: NDArray[Any]) -> Modality:
        """The modality of some samples, by a bool or int array."""
        values = self.values.take(rows) if isinstance(self.values, Stored) else self.values[rows]
        return replace(self, values=values, present=self.present[rows])

    def keep(self, columns: Sequence[str]) -> Modality:
        """The modality with these columns only. A sample left without any measured value lacks the modality."""
        if tuple(columns) == self.inputs:
            return self
        at = [self.columns.index(name) for name in columns]
        if isinstance(self.values, Stored):
            left = self.values.keep(np.array(at))
            return replace(self, columns=tuple(columns), values=left, levels={}, present=left.row >= 0)
        values = self.values[..., at]
        measured = ~np.isnan(values).reshape(len(values), -1).all(axis=1)
        levels = {name: self.levels[name] for name in columns if name in self.levels}
        return replace(self, columns=tuple(columns), values=values, levels=levels, present=self.present & measured)


@dataclass(frozen=True, eq=False)
class Split:
    """Who trains, who validates, who is left for the confirmation. All samples of a patient are on one side.

    Attributes:
        test: bool (n,); the samples of the test patients.
        fold: int8 (n,); the validation fold of a training sample, -1 for a test sample.
        n_folds: number of folds.
        digest: names the split; 16 hexadecimal digits.
    """

    test: Bools
    fold: NDArray[np.int8]
    n_folds: int
    digest: str

    def train(self, fold: int) -> Bools:
        """bool (n,): the samples to train on when `fold` is held out; fold -1 holds none out."""
        self._known(fold, least=-1)
        return ~self.test & (self.fold != fold)

    def validation(self, fold: int) -> Bools:
        """bool (n,): the held-out samples of the training part."""
        self._known(fold, least=0)
        return self.fold == fold

    def _known(self, fold: int, least: int) -> None:
        if not least <= fold < self.n_folds:
            raise ValueError(f"fold must be between {least} and {self.n_folds - 1}; given {fold}")


@dataclass(frozen=True, eq=False)
class Cohort:
    """Samples of patients with everything a search needs to know about them.

    Attributes:
        name: for people; not part of the fingerprint.
        sample_ids: (n,) unique; int64, or str as object.
        patients: int64 (n,); dense patient codes in order of first appearance.
        patient_ids: (n_patients,); the id behind each code.
        modalities: by name, in input order.
        tasks: by name.
        labels: by task name; float64 (n,), or (n, L) for a multilabel task. NaN = no label. Binary 0/1, multiclass
            codes 0..C-1. Clustering tasks have none.
        classes: class names of binary (negative, positive) and multiclass tasks, label names of multilabel tasks.
        split: the stored split.
        overlaps: pairs of tasks whose targets are nested or near-identical; names sorted within a pair, pairs sorted.
        fingerprint: 16 hexadecimal digits of the content: ids, patients, features, labels and metrics. It depends
            neither on names for people, descriptions or the split, nor on how the files were written.
        info: free description: origin, licence, counts at each filter.
        dropped: (modality, column) of the input columns that `for_tasks` took out, in input order.
        rules: how the cells of columns became values; part of the fingerprint where there are any.
        table_columns: all columns of the tables it was read from; those that are no input are known and unused.
    """

    name: str
    sample_ids: NDArray[Any]
    patients: NDArray[np.int64]
    patient_ids: NDArray[Any]
    modalities: Mapping[str, Modality]
    tasks: Mapping[str, Task]
    labels: Mapping[str, NDArray[np.float64]]
    classes: Mapping[str, tuple[str, ...]]
    split: Split
    overlaps: tuple[tuple[str, str], ...] = ()
    fingerprint: str = ""
    info: Mapping[str, Any] = field(default_factory=dict)
    dropped: tuple[tuple[str, str], ...] = ()
    rules: Mapping[str, Rule] = field(default_factory=dict)
    table_columns: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.sample_ids)

    def for_tasks(self, names: Sequence[str]) -> Cohort:
        """The cohort as a search over these tasks sees it.

        Keeps these tasks, and drops every input column that any of them excludes: otherwise adding a task to a
        subset would change the inputs too, and a gain could not be read as the task's doing. A modality left without
        columns is dropped. The fingerprint stays that of the whole cohort; `columns_digest` tells the inputs apart.

        Raises:
            BadInput: no names, unknown names, or no input column is left.
        """
        unknown = [name for name in dict.fromkeys(names) if name not in self.tasks]
        if unknown or not names:
            given = ", ".join(unknown) if unknown else "none"
            raise BadInput(
                f"cohort {self.name}: expected tasks of the cohort, given {given}. "
                f"Its tasks are: {', '.join(self.tasks)}. Name one or more of them."
            )
        wanted = {name: task for name, task in self.tasks.items() if name in set(names)}
        dropped = excluded(self.modalities, [pattern for task in wanted.values() for pattern in task.excludes])
        modalities: dict[str, Modality] = {}
        for name, modality in self.modalities.items():
            if columns := [column for column in modality.inputs if (name, column) not in dropped]:
                modalities[name] = modality.keep(columns)
        if not modalities:
            raise BadInput(
                f"cohort {self.name}: the tasks {', '.join(wanted)} together exclude every input column. "
                "Search fewer of them at a time, or mend their `excludes`."
            )
        return replace(
            self,
            tasks=wanted,
            modalities=modalities,
            labels={name: self.labels[name] for name in wanted if name in self.labels},
            classes={name: self.classes[name] for name in wanted if name in self.classes},
            overlaps=tuple(pair for pair in self.overlaps if pair[0] in wanted and pair[1] in wanted),
            dropped=self.dropped
            + tuple(
                (m.name, column) for m in self.modalities.values() for column in m.inputs if (m.name, column) in dropped
            ),
        )

    @property
    def columns_digest(self) -> str:
        """Digest of the input columns, in order: equal digests of one cohort mean equal inputs."""
        return digest([[m.name, m.kind, list(m.inputs)] for m in self.modalities.values()])


def make_cohort(
    name: str,
    sample_ids: Sequence[Any] | NDArray[Any],
    patient_of: Sequence[Any] | NDArray[Any],
    modalities: Iterable[Modality],
    tasks: Iterable[Task],
    labels: Mapping[str, NDArray[np.float64]],
    *,
    classes: Mapping[str, tuple[str, ...]] | None = None,
    split: Split | None = None,
    strata: Sequence[Any] | NDArray[Any] | None = None,
    seed: int = 0,
    n_folds: int = 5,
    overlaps: Iterable[tuple[str, str]] = (),
    info: Mapping[str, Any] | None = None,
    rules: Mapping[str, Rule] | None = None,
    table_columns: tuple[str, ...] = (),
) -> Cohort:
    """Assemble a cohort: dense patient codes, the split where none is given, the fingerprint.

    Args:
        patient_of: (n,) patient id of each sample.
        classes: class names; those left out are "0", "1", ... .
        strata: (n,) what to stratify the split on (see `make_split`); unused where `split` is given.

    Raises:
        ValueError: arrays of another length than the samples, labels of unknown tasks or outside their classes.
    """
    ids = np.asarray(sample_ids)
    ids = ids.astype(np.int64) if ids.dtype.kind in "iu" else ids.astype(object)
    codes, patient_ids = patient_codes(np.asarray(patient_of))
    by_name = {modality.name: modality for modality in modalities}
    task_by_name = {task.name: task for task in tasks}
    given = classes or {}
    class_names = {
        task.name: given.get(task.name, tuple(str(k) for k in range(max(task.n_outputs, 2))))
        for task in task_by_name.values()
        if task.kind in ("binary", "multiclass", "multilabel")
    }
    all_labels = {task: np.asarray(label, np.float64) for task, label in labels.items()}
    _check_parts(len(ids), by_name, task_by_name, all_labels)
    return Cohort(
        name=name,
        sample_ids=ids,
        patients=codes,
        patient_ids=patient_ids,
        modalities=by_name,
        tasks=task_by_name,
        labels=all_labels,
        classes=class_names,
        split=split or make_split(codes, patient_ids, strata, seed, n_folds),
        overlaps=tuple(sorted({(min(a, b), max(a, b)) for a, b in overlaps})),
        fingerprint=_fingerprint(ids, codes, by_name, task_by_name, all_labels, class_names, rules or {}),
        info=dict(info or {}),
        rules=dict(rules or {}),
        table_columns=table_columns,
    )


def _check_parts(
    n: int, modalities: Mapping[str, Modality], tasks: Mapping[str, Task], labels: Mapping[str, NDArray[np.float64]]
) -> None:
    for modality in modalities.values():
        if len(modality.values) != n:
            raise ValueError(f"modality {modality.name}: {n} samples, {len(modality.values)} rows")
    for task in tasks.values():
        if task.metric not in ALLOWED[task.kind]:
            allowed = " or ".join(ALLOWED[task.kind])
            raise ValueError(f"task {task.name}: a {task.kind} task is scored by {allowed}, given {task.metric}")
    with_labels = {task.name for task in tasks.values() if task.kind != "clustering"}
    if set(labels) != with_labels:
        raise ValueError(f"expected labels of {sorted(with_labels)}; given {sorted(labels)}")
    for name, label in labels.items():
        task = tasks[name]
        shape = (n, task.n_outputs) if task.kind == "multilabel" else (n,)
        if label.shape != shape:
            raise ValueError(f"labels of {name}: expected the shape {shape}, given {label.shape}")
        given = label[~np.isnan(label)]
        n_codes = task.n_outputs if task.kind == "multiclass" else 2
        if task.kind != "regression" and not np.isin(given, np.arange(n_codes)).all():
            raise ValueError(f"labels of {name}: expected codes 0 to {n_codes - 1} and NaN")
        if np.isinf(given).any():
            raise ValueError(f"labels of {name}: some are infinite")


def patient_codes(patient_of: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[Any]]:
    """Dense codes (n,) in order of first appearance, and the id behind each code."""
    seen: dict[Any, int] = {}
    codes = np.fromiter((seen.setdefault(key, len(seen)) for key in patient_of.tolist()), np.int64, len(patient_of))
    ids = np.array(list(seen)) if patient_of.dtype.kind in "iu" else np.array(list(seen), dtype=object)
    return codes, ids


def make_split(
    patients: NDArray[np.int64],
    patient_ids: NDArray[Any],
    strata: Sequence[Any] | NDArray[Any] | None,
    seed: int = 0,
    n_folds: int = 5,
    *,
    test: Bools | None = None,
) -> Split:
    """A patient-level, stratified, seeded 80/20 split with folds inside the 80 %.

    Patients are sorted by stratum, then by the SHA-256 of (seed, patient id), and dealt out in that order: every fifth
    goes to the test part, the others to the folds in turn. So every stratum is spread evenly, and the split depends
    on nothing but the ids, the strata and the seed: not on row order, library versions or the tasks of a search.

    Args:
        patients: (n,) dense patient codes.
        strata: (n,) any values, a sample's stratum; a patient with several samples takes his commonest one (on a tie
            the first in text order). None: one stratum.
        test: (n,) the samples of the test part, where that is given; the other patients are dealt to the folds alone.
    """
    counts: list[dict[str, int]] = [{} for _ in patient_ids]
    for code, value in zip(patients.tolist(), [""] * len(patients) if strata is None else strata, strict=True):
        key = text(value)
        counts[code][key] = counts[code].get(key, 0) + 1
    stratum = [min(strata_of, key=lambda key: (-strata_of[key], key)) for strata_of in counts]
    shuffled = [hashlib.sha256(f"{seed}:{text(key)}".encode()).hexdigest() for key in patient_ids.tolist()]
    order = sorted(range(len(patient_ids)), key=lambda code: (stratum[code], shuffled[code]))
    apart = np.zeros(len(patient_ids), bool)
    apart[order[TEST_EVERY - 1 :: TEST_EVERY] if test is None else patients[test]] = True
    fold = np.full(len(patient_ids), -1, np.int8)
    training = [code for code in order if not apart[code]]
    fold[training] = np.arange(len(training)) % n_folds
    return split_of(apart[patients], fold[patients], n_folds)


def split_of(test: Bools, fold: NDArray[np.int8], n_folds: int) -> Split:
    """A split with its digest, from the test flag and the fold of every sample."""
    content = hashlib.blake2b(digest_size=8)
    content.update(f"{n_folds};".encode())
    content.update(np.ascontiguousarray(test, np.uint8).tobytes())
    content.update(np.ascontiguousarray(fold, np.int8).tobytes())
    return Split(test, fold.astype(np.int8), n_folds, content.hexdigest())


def text(value: Any) -> str:
    """One spelling of an id, a level or a class: 3, 3.0 and "3" are "3"; missing is ""."""
    if value is None or value != value:
        return ""
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return str(int(value))
    if isinstance(value, bool | np.bool_):
        return str(int(value))
    return str(value)


def examples(values: NDArray[Any], most: int = 5) -> str:
    """The first few values, for a message."""
    shown = ", ".join(text(value) for value in values[:most].tolist())
    return f"{shown}, ..." if len(values) > most else shown


def excluded(modalities: Mapping[str, Modality], patterns: Iterable[str]) -> set[tuple[str, str]]:
    """The (modality, column) pairs that any of the patterns names (see `matches`)."""
    return {pair for pattern in set(patterns) for pair in matches(modalities, pattern)}


def matches(modalities: Mapping[str, Modality], pattern: str) -> list[tuple[str, str]]:
    """The (modality, column) pairs that one `excludes` entry names.

    An entry is a column (every modality that has a column of that name), `modality.column`, or either with `*` for
    any run of characters: `notes.*` is a whole modality. An image modality has one column, `pixels`.
    """
    parts = pattern.split("*")
    return [
        (name, column)
        for name, modality in modalities.items()
        for column in modality.inputs
        if _has_parts(column, parts) or _has_parts(f"{name}.{column}", parts)
    ]


def _has_parts(name: str, parts: Sequence[str]) -> bool:
    """Whether a name is these parts in this order with anything between them: in time linear in its length.

    A regular expression of many `*` would try their places in all combinations.
    """
    if len(parts) == 1:
        return name == parts[0]
    first, *between, last = parts
    at, end = len(first), len(name) - len(last)
    if at > end or not name.startswith(first) or not name.endswith(last):
        return False
    for part in between:
        place = name.find(part, at, end)
        if place < 0:
            return False
        at = place + len(part)
    return True


def _fingerprint(
    sample_ids: NDArray[Any],
    patients: NDArray[np.int64],
    modalities: Mapping[str, Modality],
    tasks: Mapping[str, Task],
    labels: Mapping[str, NDArray[np.float64]],
    classes: Mapping[str, tuple[str, ...]],
    rules: Mapping[str, Rule],
) -> str:
    content = hashlib.blake2b(digest_size=8)
    content.update("\n".join(text(key) for key in sample_ids.tolist()).encode())
    content.update(np.ascontiguousarray(patients, "<i8").tobytes())
    for modality in modalities.values():
        levels = {name: list(modality.levels[name]) for name in modality.columns if name in modality.levels}
        content.update(digest([modality.name, modality.kind, list(modality.columns), levels]).encode())
        add_values(content, modality.values)
        content.update(np.ascontiguousarray(modality.present, np.uint8).tobytes())
    for name in sorted(tasks):
        task = tasks[name]
        about = [name, task.kind, task.n_outputs, list(classes.get(name, ()))]
        # Scores by another metric are no answers to this search; the default is not named, as ever.
        about += [task.metric] if task.metric != METRICS[task.kind] else []
        content.update(digest(about).encode())
        if name in labels:
            add_values(content, labels[name])
    if rules:  # a cohort without any keeps the fingerprint that it had before there were rules
        content.update(digest([[name, rules[name].plain()] for name in sorted(rules)]).encode())
    return content.hexdigest()
