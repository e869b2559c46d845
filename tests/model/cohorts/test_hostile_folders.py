"""Cohort folders that somebody else wrote: each ends with findings, soon, and reads nothing without a word."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from model.cohorts.cohort import Modality, matches
from model.sources.opening import check_cohort, open_cohort, write_cohort
from model.sources.synthetic import haim_like
from tests.support.cohort_folders import N, give_split, save, write_folder
from tim_search.types import BadInput, Finding

Change = Callable[[Path, dict[str, Any]], Any]


def findings_of(root: Path, change: Change) -> list[Finding]:
    description = write_folder(root)
    change(root, description)
    save(root, description)
    return check_cohort(root)


def value(*keys: str, to: Any) -> Change:
    """Replace a value of cohort.yaml."""

    def change(_: Path, description: dict[str, Any]) -> None:
        for key in keys[:-1]:
            description = description[key]
        description[keys[-1]] = to

    return change


def frame(name: str, change: Callable[[pd.DataFrame], Any]) -> Change:
    """Change a table of the folder."""

    def spoil(root: Path, _: dict[str, Any]) -> None:
        table = pd.read_parquet(root / name)
        changed = change(table)
        (table if changed is None else changed).to_parquet(root / name, index=False)

    return spoil


def folds(*folds_of_learning: float) -> Change:
    """A split of one's own with these folds in turn."""

    def change(root: Path, description: dict[str, Any]) -> None:
        save(root, description)
        cohort = open_cohort(root)
        fold = np.resize(folds_of_learning, len(cohort.patient_ids))[cohort.patients]
        part = np.where(cohort.split.test, "test", "train")
        give_split(root, pd.DataFrame({"visit": cohort.sample_ids, "part": part, "fold": fold}))
        description["split"] = {"file": "split.parquet"}

    return change


def spoilt_pages(root: Path, _: dict[str, Any]) -> None:
    """Bytes in the middle of a table are others."""
    path = root / "labs.parquet"
    content = bytearray(path.read_bytes())
    content[40 : len(content) // 2] = bytes(len(content) // 2 - 40)
    path.write_bytes(content)


def far_steps(root: Path, description: dict[str, Any]) -> None:
    del description["modalities"]["series"]["length"]
    frame("series.parquet", lambda table: table.assign(hour=table["hour"] + 2**60))(root, description)


def twice(root: Path, _: dict[str, Any]) -> None:
    table = pq.read_table(root / "labs.parquet")
    pq.write_table(table.append_column("age", table.column("age")), root / "labs.parquet")


def pipe(root: Path, _: dict[str, Any]) -> None:
    (root / "labs.parquet").unlink()
    os.mkfifo(root / "labs.parquet")


def dangling(root: Path, _: dict[str, Any]) -> None:
    (root / "labs.parquet").unlink()
    (root / "labs.parquet").symlink_to("nowhere")


def bad_text(root: Path, _: dict[str, Any]) -> None:
    """Levels whose bytes are no UTF-8."""
    names = pq.read_table(root / "labs.parquet").column("visit")
    raw = pa.array([b"\xff\xfe"] * len(names), pa.binary()).view(pa.string())
    pq.write_table(pa.table({"visit": names, "sex": raw, "age": pa.array([1.5] * len(names))}), root / "labs.parquet")


def bad_header(root: Path, description: dict[str, Any]) -> None:
    np.save(root / "labs.npy", np.zeros((N, 2), np.float32))
    content = (root / "labs.npy").read_bytes()
    (root / "labs.npy").write_bytes(content.replace(b"'shape': (", b"'shape': [(", 1))
    description["modalities"]["labs"] = {"file": "labs.npy", "columns": ["a", "b"]}


def empty_array(root: Path, description: dict[str, Any]) -> None:
    np.save(root / "labs.npy", np.zeros((N, 0), np.float32))
    description["modalities"]["labs"] = {"file": "labs.npy", "columns": []}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (value("overlaps", to=[[["died"], "ward"]]), "expected two different tasks"),
        (value("overlaps", to=[[{"died": 1}, {"ward": 1}]]), "expected two different tasks"),
        (value("overlaps", to=["died", None, 3]), "expected two different tasks"),
        (value("modalities", "images", "shape", to=[1, 10**12, 10**12]), "GiB as an array; this machine has"),
        (value("modalities", "images", "shape", to=[True, 3, 4]), "expected [channels, height, width]"),
        (value("modalities", "images", "shape", to=[None, None, None]), "expected [channels, height, width]"),
        (value("modalities", "images", "shape", to=None), "is required and missing"),
        (value("modalities", "series", "length", to=10**15), "GiB as an array; this machine has"),
        (value("modalities", "series", "length", to=0), "outside 0 to -1"),
        (far_steps, "GiB as an array"),
        (value("modalities", "labs", "kind", to=["vector"]), "expected one of vector, sequence, image"),
        (value("modalities", "labs", "levels", to={"sex": {"a": 1}}), "expected a list"),
        (value("tasks", "phenotype", "clusters", to=10**9), "expected 2 to 1000"),
        (value("tasks", "ward", "classes", to=[[1], 2]), "expected texts or numbers"),
        (
            value("tasks", "x" * 300, to={"kind": "regression", "label": "days"}),
            "a name of 300 characters; at most 120",
        ),
        (value("modalities", "labs", "file", to="x" * 300), "a name of 300 bytes, at most 255"),
        (value("modalities", "labs", "file", to="."), "expected a file, got a folder"),
        (value("samples", to="/dev/zero"), "expected a file, got a device"),
        (folds(0, np.inf), "expected every training row in a fold"),
        (folds(0, 1, 1e300), "expected every training row in a fold"),
        (folds(0.5, 1.5), "expected every training row in a fold"),
        (folds(np.nan), "expected every training row in a fold"),
        (spoilt_pages, "cannot be read as Parquet"),
        (bad_text, "cannot be read as Parquet"),
        (twice, "the columns age twice"),
        (pipe, "expected a file, got a pipe"),
        (dangling, "is a link that leads nowhere"),
        (bad_header, "cannot be mapped"),
        (empty_array, "expected (rows, columns)"),
    ],
)
def test_each_is_an_error_with_its_reason(tmp_path: Path, change: Change, words: str) -> None:
    start = time.monotonic()
    errors = [finding for finding in findings_of(tmp_path, change) if finding.severity == "error"]
    assert any(words in finding.problem for finding in errors), errors
    assert time.monotonic() - start < 20


@pytest.mark.parametrize("level", ["None", "NA", "nan", "--5", "\u00b2", "9" * 5000, ""])
def test_odd_levels_stay_levels(tmp_path: Path, level: str) -> None:
    def change(table: pd.DataFrame) -> None:
        table.loc[table["sex"] == "male", "sex"] = level

    assert not [f for f in findings_of(tmp_path, frame("labs.parquet", change)) if f.severity == "error"]
    labs = open_cohort(tmp_path).modalities["labs"]
    assert set(labs.levels["sex"]) == {"female", level}
    code = float(labs.levels["sex"].index(level))
    assert (labs.values[:, labs.columns.index("sex")] == code).sum() > N // 4


def elsewhere(root: Path) -> Path:
    """A cohort folder whose labs lie beside it; returns that file."""
    write_folder(root)
    return (root / "labs.parquet").rename(root.parent / "labs.parquet")


@pytest.mark.parametrize("how", ["relative", "absolute", "link"])
def test_a_file_outside_of_the_folder_is_read_with_a_warning(tmp_path: Path, how: str) -> None:
    root = tmp_path / "ward"
    root.mkdir()
    table = elsewhere(root)
    description = write_folder(root)
    (root / "labs.parquet").unlink()
    if how == "link":
        (root / "labs.parquet").symlink_to(table)
    else:
        description["modalities"]["labs"]["file"] = "../labs.parquet" if how == "relative" else str(table)
        save(root, description)
    warned = [finding for finding in check_cohort(root) if "outside of the cohort folder" in finding.problem]
    assert [(finding.severity, str(table) in finding.problem) for finding in warned] == [("warning", True)]
    with pytest.warns(UserWarning, match=r"outside of the cohort folder"):
        assert len(open_cohort(root)) == N


def test_a_folder_that_is_a_link_is_no_file_outside(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    write_folder(tmp_path / "real")
    (tmp_path / "link").symlink_to("real")
    assert not [finding for finding in check_cohort(tmp_path / "link") if "outside" in finding.problem]


def test_a_file_that_is_not_there_is_not_looked_for_everywhere(tmp_path: Path) -> None:
    (tmp_path / "deep" / "deeper").mkdir(parents=True)

    def change(root: Path, description: dict[str, Any]) -> None:
        (root / "labs.parquet").rename(root / "deep" / "labs.parquet")
        (root / "series.parquet").rename(root / "deep" / "deeper" / "series.parquet")

    problems = [finding.problem for finding in findings_of(tmp_path, change)]
    assert any("Did you mean deep/labs.parquet?" in problem for problem in problems)
    assert not any("deeper" in problem for problem in problems)


@pytest.mark.parametrize("name", ["a\0b", "\ud800", "x" * 300])
def test_no_cohort_can_have_such_a_name(name: str) -> None:
    with pytest.raises(BadInput, match="cannot be used"):
        open_cohort(name)


def columns(*names: str) -> dict[str, Modality]:
    return {"labs": Modality("labs", "vector", names, np.zeros((1, len(names))), {}, np.ones(1, bool))}


@pytest.mark.parametrize(
    ("pattern", "matched"),
    [
        ("*", ["ab", "aab", "b.c", "a"]),
        ("a*b", ["ab", "aab"]),
        ("a*a*b", ["aab"]),
        ("ab*ab", []),
        ("labs.*", ["ab", "aab", "b.c", "a"]),
        ("*.c", ["b.c"]),
        ("b?c", []),
        ("a**", ["ab", "aab", "a"]),
        ("*a*a*", ["ab", "aab", "b.c", "a"]),  # of labs.a... the first a is the modality's
        ("[ab]", []),
    ],
)
def test_a_star_stands_for_anything_and_nothing_else_does(pattern: str, matched: list[str]) -> None:
    there = [column for _, column in matches(columns("ab", "aab", "b.c", "a"), pattern)]
    assert there == [column for column in matched if column != "b.c" or pattern in ("*", "labs.*", "*.c")]


def test_many_stars_do_not_explode() -> None:
    start = time.monotonic()
    assert not matches(columns("a" * 5000), "a*" * 1000 + "b")
    assert matches(columns("a" * 5000), "*a" * 1000)
    assert time.monotonic() - start < 1


# ------------------------------------------------------------------------------------------------------- writing


@pytest.fixture(scope="module")
def cohort() -> Any:
    return haim_like(200, 100, widths=(2, 3, 3, 3), n_binary=2)[0]


def test_the_current_folder_is_no_new_one(cohort: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in (".", "", str(tmp_path)):
        with pytest.raises(BadInput, match="expected a new folder, got the one you are in"):
            write_cohort(cohort, name)
    assert not list(tmp_path.iterdir())


def test_a_link_is_no_new_folder(cohort: Any, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    for target in ("real", "nowhere"):
        link = tmp_path / f"to-{target}"
        link.symlink_to(target)
        with pytest.raises(BadInput, match="it is a link"):
            write_cohort(cohort, link)
    assert not list((tmp_path / "real").iterdir())


@pytest.mark.parametrize("name", ["x" * 300, "a\0b", "\ud800"])
def test_a_name_that_no_folder_can_have(cohort: Any, tmp_path: Path, name: str) -> None:
    with pytest.raises(BadInput, match="Choose another name"):
        write_cohort(cohort, tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_nothing(cohort: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(pq, "write_table", full)
    with pytest.raises(BadInput, match=r"cannot be written: No space left on device\. The disk is full"):
        write_cohort(cohort, tmp_path / "made")
    assert not list(tmp_path.iterdir())
