"""Every rule that refuses an event folder, a task or a description, broken once; and what is odd but right."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from model.sources.events import building
from model.sources.events.description import read_description
from tests.support import meds_folders
from tim_search.types import BadInput

FRAME = meds_folders.events(20, seed=5)
LABELS = meds_folders.labels(FRAME)
NO_LABEL = meds_folders.MORTALITY.replace(", label: dead", "")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("right")
    meds_folders.write(root / "data", FRAME, shards=1)
    meds_folders.write_labels(root / "tasks" / "stays_on.parquet", LABELS)
    return root


def build(root: Path, **options: Any) -> dict[str, Any]:
    features = root / "features.yaml"
    options.setdefault("features_file", features if features.is_file() else None)
    return building.build(root / "data", root / "tasks", root / "out", **options)


def shard(root: Path, **columns: Any) -> None:
    """A shard with other columns than MEDS has."""
    plain = {"subject_id": [1], "time": pa.array([0], pa.timestamp("us")), "code": ["A"]} | columns
    table = pa.table({name: values for name, values in plain.items() if values is not None})
    pq.write_table(table, root / "data" / "data" / "more.parquet")


def tables(root: Path, **columns: Any) -> None:
    plain = {"subject_id": [1], "prediction_time": pa.array([0], pa.timestamp("us")), "boolean_value": [True]} | columns
    table = pa.table({name: values for name, values in plain.items() if values is not None})
    pq.write_table(table, root / "tasks" / "more.parquet")


def write(root: Path, name: str, content: str | bytes) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_bytes(content if isinstance(content, bytes) else content.encode())


def torn(root: Path) -> None:
    """A shard whose footer is whole and whose pages are not."""
    path = root / "data" / "data" / "train" / "0.parquet"
    content = bytearray(path.read_bytes())
    content[4 : len(content) // 2] = b"\xff" * (len(content) // 2 - 4)
    path.write_bytes(content)


def empty(root: Path) -> None:
    shutil.rmtree(root / "data" / "data")
    (root / "data" / "data").mkdir()
    shard(
        root, subject_id=pa.array([], pa.int64()), time=pa.array([], pa.timestamp("us")), code=pa.array([], pa.string())
    )


def labels(root: Path, frame: pd.DataFrame, name: str = "stays_on") -> None:
    meds_folders.write_labels(root / "tasks" / f"{name}.parquet", frame)


def splits(root: Path, **parts: str) -> None:
    path = root / "data" / "metadata" / "subject_splits.parquet"
    rows = pq.read_table(path).to_pandas()
    rows["split"] = rows["split"].replace(parts)
    rows[rows["split"] != "gone"].to_parquet(path, index=False)


ONE_SIDE = pd.concat([LABELS, LABELS.assign(boolean_value=~LABELS["boolean_value"])])
ZONED = pa.array([0], pa.timestamp("us", "UTC"))

BROKEN: dict[str, tuple[Callable[[Path], object], dict[str, Any], str]] = {
    "no shards": (lambda it: shutil.rmtree(it / "data" / "data"), {}, "expected a MEDS folder, got none"),
    "empty shards": (empty, {}, "the shards are empty"),
    "no parquet": (lambda it: write(it, "data/data/x.parquet", "abc"), {}, "expected a Parquet file, it cannot"),
    "torn": (torn, {}, "its rows cannot be read"),
    "no time": (lambda it: shard(it, time=None), {}, "expected the column time"),
    "time as text": (lambda it: shard(it, time=["2150"]), {}, "expected timestamps in the column time"),
    "two kinds of times": (lambda it: shard(it, time=ZONED), {}, "with a time zone in all shards or in none"),
    "no tasks": (lambda it: shutil.rmtree(it / "tasks"), {}, "expected a folder with tasks, got none"),
    "a task twice": (lambda it: write(it, "tasks/stays_on.yaml", "{}"), {}, "expected each task once"),
    "a config of another ending": (lambda it: write(it, "tasks/a.yml", "{}"), {}, "got a.yml, which would not be read"),
    "a bad name": (lambda it: write(it, "tasks/a b.yaml", "{}"), {}, "is no name of a task"),
    "a reserved name": (lambda it: labels(it, LABELS, "sample_id"), {}, "may not be called sample_id"),
    "a folder without tables": (lambda it: (it / "tasks" / "los").mkdir(), {}, "expected the shards of a label table"),
    "two value columns": (lambda it: tables(it, float_value=[0.5]), {}, "got values in boolean_value, float_value"),
    "a table that is none": (lambda it: write(it, "tasks/los.parquet", "abc"), {}, "expected a label table in Parquet"),
    "no prediction time": (lambda it: tables(it, prediction_time=None), {}, "expected the column prediction_time"),
    "labels of another type": (lambda it: tables(it, boolean_value=["yes"]), {}, "is of the type string"),
    "no labels": (lambda it: tables(it, boolean_value=None), {}, "expected a column with labels"),
    "a zone in the labels": (lambda it: tables(it, prediction_time=ZONED), {}, "without a time zone, as the events"),
    "two labels": (lambda it: labels(it, ONE_SIDE), {}, r"two that differ \(subject \d+ at 2"),
    "nobody": (lambda it: labels(it, LABELS.assign(subject_id=-1)), {}, "expected labels of its subjects, got none"),
    "few": (lambda it: labels(it, LABELS[LABELS["subject_id"] < 5]), {}, "subjects have labels, too few"),
    "all alike": (lambda it: labels(it, LABELS.assign(boolean_value=True)), {}, "No task can be learnt and scored"),
    "tasks.yaml": (lambda it: write(it, "tasks/tasks.yaml", "[1]"), {}, "expected `tasks` and `overlaps`"),
    "a kind": (lambda it: write(it, "tasks/tasks.yaml", "tasks: {stays_on: {kind: x}}"), {}, "tasks cannot be used"),
    "no such label": (lambda it: write(it, "tasks/tasks.yaml", "tasks: {a: {kind: binary}}"), {}, "tasks.a"),
    "no yaml": (lambda it: write(it, "tasks/mortality.yaml", "a: ["), {}, "expected YAML"),
    "a list": (lambda it: write(it, "tasks/mortality.yaml", "[1]"), {}, "as an ACES config has them"),
    "no config": (lambda it: write(it, "tasks/mortality.yaml", "a: 1"), {}, "expected an ACES config"),
    "no label": (lambda it: write(it, "tasks/mortality.yaml", NO_LABEL), {}, "expected `label` in one of the windows"),
    "an unknown column": (
        lambda it: write(it, "tasks/mortality.yaml", meds_folders.MORTALITY.replace('DEAD/EXPIRED"', 'DEAD", ward: X')),
        {},
        "The configs name the columns ward",
    ),
    "a pattern": (
        lambda it: write(it, "tasks/mortality.yaml", meds_folders.MORTALITY.replace('"^ICU_', '"^(ICU_')),
        {},
        "ACES cannot extract it",
    ),
    "no split": (lambda it: shutil.rmtree(it / "data" / "metadata"), {"meds_split": True}, "expected .*subject_splits"),
    "not all in it": (lambda it: splits(it, tuning="gone"), {"meds_split": True}, "are in no part of"),
    "no test part": (lambda it: splits(it, held_out="train"), {"meds_split": True}, "got only one of the two"),
    "a strange part": (lambda it: splits(it, tuning="dev"), {"meds_split": True}, "got also dev"),
    "no codes": (
        lambda it: write(it, "features.yaml", "modalities: {a: {kind: vector, codes: NONE}}"),
        {},
        "expected codes that the training subjects have",
    ),
    "two channels": (
        lambda it: write(
            it,
            "features.yaml",
            "modalities: {a: {kind: sequence, channels: {b: {codes: CHART//211//bpm}, c: {codes: {regex: CHART}}}}}",
        ),
        {},
        "is in the channels b and c, and may be in one",
    ),
    "no static": (
        lambda it: (
            write(it, "features.yaml", "modalities: {a: {kind: static, age: false}}"),
            labels(it, LABELS.assign(prediction_time=pd.Timestamp("1700-01-01"))[~LABELS["subject_id"].duplicated()]),
            shutil.rmtree(it / "data" / "data"),
            meds_folders.write(it / "more", FRAME[FRAME["time"].notna()], shards=1),
            (it / "more" / "data").rename(it / "data" / "data"),
        ),
        {},
        "expected codes without a time",
    ),
    "no path": (
        lambda it: write(it, "features.yaml", "modalities: {p: {kind: static}, a: {kind: image, codes: A, column: b}}"),
        {},
        "the events have no column b",
    ),
    "nothing known": (
        lambda it: (
            write(it, "features.yaml", "modalities: {a: {kind: vector, windows: [1h], statistics: [mean]}}"),
            labels(it, LABELS.assign(prediction_time=LABELS["prediction_time"] + pd.Timedelta(hours=2))),
        ),
        {},
        "have no input at all",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_what_cannot_be_is_told(name: str, folder: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    shutil.copytree(folder, root)
    spoil, options, words = BROKEN[name]
    spoil(root)
    with pytest.raises(BadInput, match=words):
        build(root, **options)
    assert not (root / "out").exists()


def test_without_the_library_configs_are_refused(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(folder, tmp_path / "root")
    write(tmp_path / "root", "tasks/mortality.yaml", meds_folders.MORTALITY)
    monkeypatch.setitem(sys.modules, "aces.config", None)
    with pytest.raises(BadInput, match=r"tim-search\[ehr\]"):
        build(tmp_path / "root")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [", "expected YAML"),
        ("moodalities: {}", "moodalities: is not a known key. Did you mean modalities"),
        ("[1]", "features.yaml: expected an object. docs"),
        ("modalities: {a: {kind: vector, statistics: [mena]}}", r"Did you mean mean\? docs"),
        ("modalities: {a b: {kind: static}}", "expected a name"),
        ("modalities: {a: {kind: tensor}}", "expected one of vector"),
        ("modalities: {a: {kind: vector, share: 2}}", "expected a share"),
        ("modalities: {a: {kind: vector, windows: [2w]}}", "expected hours"),
        ("modalities: {a: {kind: vector, windows: []}}", "at least one window"),
        ("modalities: {a: {kind: vector, statistics: [median]}}", "expected names of"),
        ("modalities: {a: {kind: vector, most: 0}}", "expected 1 or more"),
        ("modalities: {a: {kind: vector, codes: []}}", "got an empty list"),
        ("modalities: {a: {kind: vector, codes: {regx: a}}}", "expected a code"),
        ("modalities: {a: {kind: vector, codes: {regex: '('}}}", "no regular expression"),
        ("modalities: {a: {kind: text, codes: A}}", "at least one of the kinds"),
        ("modalities: {a: {kind: sequence, channels: {b: {codes: A, how: max}}}}", "expected one of last"),
        ("modalities: {a: {kind: sequence, channels: {b: {codes: A, low: 2, high: 1}}}}", "low below high"),
        ("modalities: {a: {kind: sequence, channels: {b: {codes: A, levels: {c: d}}}}}", "a list of values"),
        ("modalities: {a: {kind: sequence, channels: {b: {codes: A, levels: [c], low: 1}}}}", "has no low"),
    ],
)
def test_a_description_that_cannot_be(text: str, words: str, tmp_path: Path) -> None:
    write(tmp_path, "features.yaml", text)
    with pytest.raises(BadInput, match=words):
        read_description(tmp_path / "features.yaml")


def test_the_name_of_a_column_is_never_read_as_sql(tmp_path: Path) -> None:
    """Events and configs both come from others: what a config names may hold a statement of its own."""
    stolen = tmp_path / "stolen.parquet"
    name = f"ward\" FROM events) TO '{tmp_path / 'piece.parquet'}'; COPY (SELECT 1) TO '{stolen}' (FORMAT parquet); --"
    meds_folders.write(tmp_path / "data", FRAME.assign(**{name: "a"}), shards=1)
    (tmp_path / "tasks").mkdir()
    config = meds_folders.MORTALITY.replace(
        'dead: {code: "HOSPITAL_DISCHARGE//DEAD/EXPIRED"}',
        f'dead: {{code: "HOSPITAL_DISCHARGE//DEAD/EXPIRED", {json.dumps(name)}: a}}',
    )
    (tmp_path / "tasks" / "mortality.yaml").write_text(config)
    build(tmp_path)
    assert not stolen.exists()
    assert (tmp_path / "out" / "cohort.yaml").exists()
