"""The file that describes a search: it comes back as it was written, and whatever else stands in it is bad input."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.fake_trainer import CONTEXT, TASKS
from tim_search.loop.manifest import Manifest
from tim_search.plans import from_design
from tim_search.types import BadInput, Context, Task

MANIFEST = Manifest(
    name="demo",
    cohort="support2",
    context=CONTEXT,
    tasks=tuple(replace(task, department="cardiology", excludes=("x", "y")) for task in TASKS.values()),
    overlaps=(("a", "b"),),
    design={"kind": "exact"},
    blocks=((0, 0), (1, 0)),
    sources=("a", "e"),
    planned_units=82,
)


def test_a_manifest_comes_back_as_it_was_written(tmp_path: Path) -> None:
    path = MANIFEST.write(tmp_path / "new" / "folder")
    assert path == tmp_path / "new" / "folder" / "search.json"
    assert Manifest.read(tmp_path / "new" / "folder") == MANIFEST
    assert json.loads(path.read_text())["context"]["key"] == CONTEXT.key
    assert MANIFEST.open_ledger(tmp_path / "x").path == tmp_path / "x" / "ledger"
    assert replace(MANIFEST, ledger="/elsewhere/l").open_ledger(tmp_path).path == Path("/elsewhere/l")


def alter(plain: dict[str, Any]) -> None:
    plain["context"]["network"] = "another"


@pytest.mark.parametrize(
    "change",
    [
        lambda plain: plain.pop("tasks"),
        lambda plain: plain.update(tasks=[{"name": "a"}]),
        lambda plain: plain.update(blocks=[[0]]),
        lambda plain: plain.update(overlaps=7),
        lambda plain: plain["tasks"].append(plain["tasks"][0]),
        lambda plain: plain["tasks"][0].update(kind="ternary"),
        lambda plain: plain["tasks"][0].update(metric="r2"),
        lambda plain: plain.update(sources=["z"]),
        lambda plain: plain.update(blocks=[]),
        lambda plain: plain.update(blocks=[[0, 0], [0, 0]]),
        lambda plain: plain.update(blocks=[[seed, 0] for seed in range(10_001)]),
        lambda plain: plain.update(blocks=[[0, -1]]),
        lambda plain: plain.update(design={"kind": "sized", "k": "2"}),
        lambda plain: plain.update(design={"kind": "greedy", "beam": 3}),
        alter,
    ],
)
def test_a_manifest_that_is_not_one_is_bad_input(tmp_path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = MANIFEST.write(tmp_path)
    plain = json.loads(path.read_text())
    change(plain)
    path.write_text(json.dumps(plain))
    with pytest.raises(BadInput, match="is not a search's manifest"):
        Manifest.read(tmp_path)


def test_a_folder_without_a_manifest_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="Expected the output folder of a search"):
        Manifest.read(tmp_path)
    (tmp_path / "search.json").write_text("{")
    with pytest.raises(BadInput, match="is not a search's manifest"):
        Manifest.read(tmp_path)
    with pytest.raises(BadInput, match="cannot be written"):
        MANIFEST.write(tmp_path / "search.json")


# ---------------------------------------------------------------- whatever stands in it

DESIGNS: list[dict[str, Any]] = [
    {"kind": "exact"},
    {"kind": "sized", "k": 2},
    {
        "kind": "sampled",
        "n": 20,
        "seed": 0,
        "sliced": True,
        "control": "f",
        "stop": {"top_k": 3, "overlap": 0.9, "false_sign": 0.05},
    },
    {
        "kind": "greedy",
        "beam": 3,
        "max_size": 3,
        "rule": "lower_bound",
        "confidence": 0.95,
        "tolerance": 0.0,
        "sources": ["a", "b"],
    },
    {
        "kind": "surrogate",
        "rounds": 2,
        "batch": 1,
        "max_size": 0,
        "seed": 0,
        "rule": "paper",
        "confidence": 0.95,
        "tolerance": 0.0,
        "sources": ["a", "b"],
    },
]

#: JSON in place of a value.
ODD = ("null", "true", "-1", "0", "1.5", "NaN", "1e400", "1" + "0" * 30, '"x"', '""', "[]", "[[1]]", "{}", '{"a": 1}')
DEEP = "[" * 100_000


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where the values of a JSON value stand."""
    yield at
    inner = value.items() if isinstance(value, dict) else enumerate(value[:1]) if isinstance(value, list) else ()
    for key, item in inner:
        yield from places(item, (*at, key))


def with_odd(plain: Any, at: tuple[Any, ...], odd: str) -> str:
    """JSON text with another value in one place; a context keeps its key true."""
    if not at:
        return odd
    holder = plain
    for key in at[:-1]:
        holder = holder[key]
    holder[at[-1]] = "@odd@"
    if at[0] == "context" and len(at) == 2 and at[1] != "key" and odd.startswith('"'):
        fields = {**plain["context"], at[1]: json.loads(odd)}
        plain["context"]["key"] = Context(**{name: fields[name] for name in fields if name != "key"}).key
    return json.dumps(plain).replace('"@odd@"', odd)


@pytest.mark.parametrize("design", DESIGNS, ids=lambda design: str(design["kind"]))
def test_whatever_stands_in_any_place_is_read_or_is_bad_input(tmp_path: Path, design: dict[str, Any]) -> None:
    path = replace(MANIFEST, design=design, tasks=MANIFEST.tasks[:4], sources=("a", "b")).write(tmp_path)
    whole = path.read_text()
    refusals: list[str] = []
    for at in places(json.loads(whole)):
        for odd in (*ODD, DEEP):
            path.write_text(with_odd(json.loads(whole), at, odd))
            try:
                manifest = Manifest.read(tmp_path)
                plan = from_design.make(manifest.design, tuple(task.name for task in manifest.tasks))
                assert plan.most(manifest.blocks) > 0
                from_design.in_words(manifest.design)
            except BadInput as error:
                refusals.append(str(error))
    assert len(refusals) > 300
    assert max(map(len, refusals)) < 1000


def test_a_pipe_or_a_dangling_link_is_bad_input_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "search.json")
    with pytest.raises(BadInput, match="expected a file, got a pipe"):
        Manifest.read(tmp_path)
    (tmp_path / "search.json").unlink()
    (tmp_path / "search.json").symlink_to(tmp_path / "nowhere")
    with pytest.raises(BadInput, match="leads nowhere"):
        Manifest.read(tmp_path)


def test_no_text_of_the_file_reaches_the_terminal_raw(tmp_path: Path) -> None:
    path = MANIFEST.write(tmp_path)
    plain = json.loads(path.read_text())
    plain["tasks"][0] |= {"name": "\x1b[31m", "kind": "x"}
    path.write_text(json.dumps(plain))
    with pytest.raises(BadInput) as raised:
        Manifest.read(tmp_path)
    assert "\x1b" not in str(raised.value)


def test_a_manifest_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    manifest = Manifest(
        "s",
        "c",
        Context("c", "d", "s", "m3h", "{}"),
        (Task("a", "binary"), Task("b", "binary")),
        (),
        {"kind": "exact"},
        ((0, 0),),
        ("a",),
    )
    with pytest.raises(BadInput, match=r"cannot be written.*--out"):
        manifest.write(tmp_path / "file")
