"""Cohort folders and tables that a generator spoils: findings or BadInput, soon, and nothing written anywhere."""

from __future__ import annotations

import contextlib
import copy
import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from model.sources import own_table
from model.sources.opening import check_cohort, open_cohort
from tests.support.cohort_folders import N, map_arrays, write_folder
from tests.support.limits import contents, within
from tim_search.gates import yaml
from tim_search.types import BadInput

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

FUZZ = settings(
    max_examples=100,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
#: Values that broke a reader once, or might.
ODD = st.sampled_from(
    [
        *(None, True, 0, -1, 10**30, 2**63, 0.5, math.inf, math.nan, "", ".", "..", "/", "../x.parquet", "/dev/zero"),
        *(
            "/etc/passwd",
            "*" * 50,
            "a*" * 500,
            "x" * 300,
            "\ud800",
            "None",
            "NA",
            "--5",
            "\u2028",
            "\x1b[31m",
            "labs.npy",
        ),
        *("samples.parquet", "labs.parquet", "images.parquet", "visit", "patient", "died", "ward", "hour", "pixels"),
        *([], [[]], {}, {"a": {}}, [None], [1, 1, 1], [10**12] * 3, [True, 3, 4], ["died", "ward"], [["died"], 1]),
        *("vector", "sequence", "image", "binary", "multiclass", "multilabel", "regression", "clustering"),
    ]
)
PLAIN = st.recursive(
    ODD | st.text(max_size=8) | st.integers() | st.floats(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=5,
)
BYTES = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=12)


def read_bounded(root: Path) -> None:
    """Check and open a folder within limits; nothing below its parent may change."""
    before = contents(root.parent)
    with within(20, 2):
        check_cohort(root)
        with contextlib.suppress(BadInput):
            open_cohort(root)
    assert contents(root.parent) == before


def fresh(tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    root = tmp_path / "in" / "ward"
    root.mkdir(parents=True, exist_ok=True)
    return root, write_folder(root)


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths to every value of nested mappings and lists."""
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [at] * bool(at) + [path for key, child in children for path in places(child, (*at, key))]


@FUZZ
@given(st.data())
def test_values_of_the_description(tmp_path: Path, data: st.DataObject) -> None:
    root, described = fresh(tmp_path)
    description = copy.deepcopy(described)
    for _ in range(data.draw(st.integers(1, 3))):
        *path, last = data.draw(st.sampled_from(places(description) or [("name",)]))
        at = description
        for key in path:
            at = at[key]
        action = data.draw(st.sampled_from(["replace", "remove", "add"]))
        if action == "replace":
            at[last] = copy.deepcopy(data.draw(ODD | PLAIN))  # a later edit must not change what is drawn again
        elif action == "remove":
            del at[last]
        elif isinstance(at, dict):
            at[data.draw(st.sampled_from(["file", "levels", "shape", "excludes", "label", "prefix"]))] = copy.deepcopy(
                data.draw(ODD)
            )
    text = yaml.dump(description)
    (root / "cohort.yaml").write_bytes(text.encode(errors="surrogatepass"))
    read_bounded(root)


@FUZZ
@given(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 20), st.binary(max_size=6)), min_size=1, max_size=5))
def test_bytes_of_the_description(tmp_path: Path, edits: list[tuple[float, int, bytes]]) -> None:
    root, _ = fresh(tmp_path)
    content = (root / "cohort.yaml").read_bytes()
    for where, width, new in edits:
        at = int(where * len(content))
        content = content[:at] + new + content[at + width :]
    (root / "cohort.yaml").write_bytes(content)
    read_bounded(root)


def spoil(path: Path, edits: list[tuple[float, int]], cut: float) -> None:
    """Other bytes at places of a file, whose end may be gone."""
    content = bytearray(path.read_bytes())
    for where, byte in edits:
        content[int(where * len(content))] = byte
    path.write_bytes(bytes(content)[: max(1, int(cut * len(content)))])


@FUZZ
@given(st.sampled_from(["samples", "labs", "series", "images"]), BYTES, st.just(1.0) | st.floats(0, 1))
def test_bytes_of_a_table(tmp_path: Path, name: str, edits: list[tuple[float, int]], cut: float) -> None:
    root, _ = fresh(tmp_path)
    spoil(root / f"{name}.parquet", edits, cut)
    read_bounded(root)


@FUZZ
@given(st.data(), BYTES, st.just(1.0) | st.floats(0, 1))
def test_bytes_of_an_array(tmp_path: Path, data: st.DataObject, edits: list[tuple[float, int]], cut: float) -> None:
    root, _ = fresh(tmp_path)
    map_arrays(root)
    path = data.draw(st.sampled_from(sorted(root.rglob("*.npy"))))
    # Mostly its header, which says how much is to be mapped.
    spoil(path, [(where * min(1, 128 / path.stat().st_size), byte) for where, byte in edits], cut)
    read_bounded(root)


COLUMNS = st.sampled_from(
    [
        pa.nulls(N),
        pa.array([None] * N, pa.float64()),
        pa.array([math.inf] * N),
        pa.array([2**63] * N, pa.uint64()),
        pa.array([-(2**62)] * N),
        pa.array([[1.0]] * N),
        pa.array([[[1]]] * N),
        pa.array([{"a": 1}] * N),
        pa.array([b"\xff"] * N),
        pa.array(["9" * 5000] * N),
        pa.array(["\x1b[31m\u2028"] * N),
        pa.array([True] * N),
        pa.array(range(N), pa.timestamp("us")),
        pa.array(range(N), pa.duration("s")),
        pa.array([1] * N, pa.decimal128(5)),
        pa.array(range(N), pa.float16()) if hasattr(pa, "float16") else pa.nulls(N),
        pa.DictionaryArray.from_arrays(pa.array(np.arange(N) % 2), pa.array(["a", "b"])),
        pa.array([f"v{k:03}" for k in range(N)]),
    ]
)


@FUZZ
@given(st.data())
def test_columns_of_other_kinds(tmp_path: Path, data: st.DataObject) -> None:
    root, _ = fresh(tmp_path)
    path = root / f"{data.draw(st.sampled_from(['samples', 'labs', 'series', 'images']))}.parquet"
    table = pq.read_table(path)
    for _ in range(data.draw(st.integers(1, 3))):
        index = data.draw(st.integers(0, table.num_columns - 1))
        name = data.draw(st.sampled_from([table.column_names[index], "visit", "died", "patient_id", ""]))
        column = pa.chunked_array([data.draw(COLUMNS)] * (1 + table.num_rows // N)).slice(0, table.num_rows)
        table = table.set_column(index, name, column)
    pq.write_table(table, path)
    read_bounded(root)


TABLE = b"stay_id,patient_id,labs__a,labs__b,task__died\n" + b"".join(
    b"%d,p%d,%d.5,%s,%d\n" % (k, k // 2, k, [b"NA", b"x"][k % 2], k % 2) for k in range(60)
)


@FUZZ
@given(
    st.lists(st.tuples(st.floats(0, 1), st.integers(0, 20), st.binary(max_size=8)), min_size=1, max_size=8),
    st.sampled_from([".csv", ".parquet", ".csv.gz", ".csv.zip", ".txt"]),
)
def test_bytes_of_a_table_of_ones_own(tmp_path: Path, edits: list[tuple[float, int, bytes]], ending: str) -> None:
    content = TABLE
    if ending == ".parquet":
        buffer = io.BytesIO()
        pq.write_table(pa.table({"stay_id": range(60), "labs_a": range(60), "died": [0, 1] * 30}), buffer)
        content = buffer.getvalue()
    for where, width, new in edits:
        at = int(where * len(content))
        content = content[:at] + new + content[at + width :]
    folder = tmp_path / "in"
    folder.mkdir(exist_ok=True)
    (folder / f"t{ending}").write_bytes(content)
    before = contents(tmp_path)
    with within(20, 2):
        try:
            own_table.init(folder / f"t{ending}", tmp_path / "made")
        except BadInput:
            assert contents(tmp_path) == before
            return
        check_cohort(tmp_path / "made")
    for path in sorted((tmp_path / "made").iterdir()):
        assert path.name in ("cohort.yaml", "columns.csv", "samples.parquet")
        path.unlink()
    assert contents(tmp_path) == before
