"""The files of a model: one of version 0.1.0 predicts as it did, and what is damaged or invented is told in words."""

from __future__ import annotations

import copy
import io
import json
import os
import random
import resource
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from model.trained.deployed import DeployedModel
from tests.support import ROOT
from tim_search.types import BadInput

OLD = ROOT / "tests" / "data" / "from-0.1.0"
FILES = OLD / "model" / "artifacts" / "model"


def rows_and_predictions() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Made-up rows, and what version 0.1.0 predicted for them."""
    plain = json.loads((OLD / "predictions.json").read_text())
    return pd.DataFrame(plain["rows"]), pd.DataFrame(plain["predictions"])


def test_a_model_of_0_1_0_predicts_the_same(tmp_path: Path) -> None:
    rows, wanted = rows_and_predictions()
    model = DeployedModel.load(FILES)
    pd.testing.assert_frame_equal(model.predict(rows), wanted, rtol=1e-6)
    model.save(tmp_path)
    assert json.loads((tmp_path / "model.json").read_text()) == json.loads((FILES / "model.json").read_text())
    pd.testing.assert_frame_equal(DeployedModel.load(tmp_path).predict(rows), wanted, rtol=1e-6)


def test_the_old_place_offers_the_same_class() -> None:
    import model.deployed

    assert model.deployed.DeployedModel is DeployedModel


def test_mlflow_loads_a_model_of_0_1_0_with_the_code_beside_it() -> None:
    pyfunc = pytest.importorskip("mlflow.pyfunc")
    rows, wanted = rows_and_predictions()
    assert "from model.deployed import DeployedModel" in (OLD / "model" / "serving.py").read_text()
    pd.testing.assert_frame_equal(pyfunc.load_model(str(OLD / "model")).predict(rows), wanted, rtol=1e-6)


# Damage ---------------------------------------------------------------------------------------------------------------


@contextmanager
def little_memory(megabytes: int = 2048) -> Iterator[None]:
    """Within it, asking for much more memory than there is in use fails."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + megabytes * 2**20, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(FILES, tmp_path / "model"))


def test_a_flipped_or_cut_file_of_parameters_is_told_or_changes_nothing(folder: Path) -> None:
    rows, wanted = rows_and_predictions()
    whole = (folder / "parameters.npz").read_bytes()
    dice = random.Random(0)
    # Heads of entries, the directory at the end, and places anywhere.
    places = [*range(0, 140, 3), *range(len(whole) - 150, len(whole), 3), *dice.sample(range(len(whole)), 30)]
    contents = [whole[:at] + bytes([whole[at] ^ 1 << dice.randrange(8)]) + whole[at + 1 :] for at in places]
    contents += [whole[:at] for at in (0, 1, 22, 100, 5000, len(whole) - 30, len(whole) - 1)]
    told = 0
    with little_memory():
        for content in contents:
            (folder / "parameters.npz").write_bytes(content)
            try:
                predicted = DeployedModel.load(folder).predict(rows)
            except BadInput:
                told += 1
            else:  # a date of the archive, say
                pd.testing.assert_frame_equal(predicted, wanted, rtol=1e-6)
    assert told > len(contents) / 2


def entry(shape: str, content: bytes = b"") -> bytes:
    """An .npy file whose head promises a shape."""
    head = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".ljust(117).encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head + content


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (entry("(1000000, 1000000)"), "no array of as many numbers"),
        (entry("(99999999999999999999999,)"), "no array of as many numbers"),
        (entry("(-1,)"), "is not a whole model"),
        (b"torn", "is not a whole model"),
        (entry("(2,)", np.array([np.nan, 1], "<f4").tobytes()), "not finite"),
        (entry("(2,)", np.array([1, np.inf], "<f4").tobytes()), "not finite"),
    ],
)
def test_arrays_that_promise_more_or_hold_no_numbers_are_told(folder: Path, content: bytes, words: str) -> None:
    with zipfile.ZipFile(folder / "parameters.npz") as archive:
        entries = {info.filename: archive.read(info) for info in archive.infolist()}
    entries["0.values.head.bias.npy"] = content
    with zipfile.ZipFile(folder / "parameters.npz", "w") as archive:
        for name, part in entries.items():
            archive.writestr(name, part)
    with little_memory(), pytest.raises(BadInput, match=words):
        DeployedModel.load(folder)


def test_compressed_parameters_are_refused(folder: Path) -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("0.values.head.bias.npy", bytes(10_000_000))
    (folder / "parameters.npz").write_bytes(stream.getvalue())
    with pytest.raises(BadInput, match="compressed"):
        DeployedModel.load(folder)


def test_parameters_of_other_shapes_are_told(folder: Path) -> None:
    with np.load(folder / "parameters.npz") as arrays:
        values = {name: arrays[name] for name in arrays.files}
    for name in ("0.values.encoder.0.in.weight", "0.values.attention.query.weight", "0.values.head.bias"):
        np.savez(folder / "parameters.npz", **{**values, name: values[name][..., :-1]})
        with pytest.raises(BadInput, match="is not a whole model"):
            DeployedModel.load(folder)
        np.savez(folder / "parameters.npz", **{other: value for other, value in values.items() if other != name})
        with pytest.raises(BadInput, match="is not a whole model"):
            DeployedModel.load(folder)


def places_in(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value in JSON but of what stands in `about`, of a long list the first two."""
    yield place
    if isinstance(value, dict):
        for key, inner in value.items():
            if place or key != "about":
                yield from places_in(inner, (*place, key))
    elif isinstance(value, list):
        for number, inner in enumerate(value[:2]):
            yield from places_in(inner, (*place, number))


def changed(plain: Any, place: tuple[Any, ...], value: Any) -> Any:
    """A copy of JSON with another value at a place."""
    plain = copy.deepcopy(plain)
    parent = plain
    for key in place[:-1]:
        parent = parent[key]
    parent[place[-1]] = value
    return plain


WRONG: tuple[Any, ...] = (None, True, -1, 10**400, 2.5, float("nan"), "", "x", [], [[]], [None], {}, {"a": 1})


@pytest.mark.filterwarnings("ignore:column .* does not know")
def test_values_of_other_types_are_told_wherever_they_stand(folder: Path) -> None:
    plain = json.loads((folder / "model.json").read_text())
    rows, _ = rows_and_predictions()
    for number, place in enumerate(places_in(plain)):
        for wrong in WRONG[number % 3 :: 3] if place else WRONG:
            (folder / "model.json").write_text(json.dumps(changed(plain, place, wrong) if place else wrong))
            try:
                # What is still a model predicts: a department may be any text.
                DeployedModel.load(folder).predict(rows.iloc[:1])
            except BadInput:
                continue
    for name in plain:
        if name == "format":
            continue
        (folder / "model.json").write_text(json.dumps({key: value for key, value in plain.items() if key != name}))
        with pytest.raises(BadInput, match="is not a whole model"):
            DeployedModel.load(folder)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"[" * 100_000, b"1" * 10_000, b'{"format": 2'])
def test_what_is_no_json_is_told(folder: Path, content: bytes) -> None:
    (folder / "model.json").write_bytes(content)
    with pytest.raises(BadInput, match="is not a whole model"):
        DeployedModel.load(folder)


def test_a_pipe_is_not_waited_for(folder: Path) -> None:
    (folder / "model.json").unlink()
    os.mkfifo(folder / "model.json")
    with pytest.raises(BadInput, match="pipe"):
        DeployedModel.load(folder)
