"""Malformed commands: each ends with status 2, a message that says what to do, and nothing written.

Rules that read files of one kind have their cases beside those files' tests (test_cohort.py, test_spec.py,
test_haim.py, test_deploy.py ...); here are the commands' own, and those that no other file breaks. `rules.py` tells of
every rule in the source whether a run of the tests has broken it.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from model.sources.opening import open_cohort
from tests.support.cohort_folders import give_split, map_arrays, save, write_folder
from tests.support.searches import Call, write_search
from tim_search import config
from tim_search.types import BadInput

Spoil = Callable[[Path], Any]


@dataclass(frozen=True)
class Row:
    """A malformed command.

    Attributes:
        arguments: of the command line; {search} and {half} are a finished and an unfinished search folder, {copy} is a
            copy of the first in the working folder.
        words: what is told.
        spoil: makes the malformed thing in the working folder, where the command runs.
    """

    arguments: str
    words: Sequence[str]
    spoil: Spoil | None = None

    @property
    def id(self) -> str:
        return f"{self.arguments.replace('/', '-')}: {self.words[0]}"[:90]


def text(name: str, content: str, encoding: str = "utf-8") -> Spoil:
    """Write a file."""

    def spoil(here: Path) -> None:
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).write_bytes(content.encode(encoding))

    return spoil


def search_file(name: str = "s.yaml", **fields: Any) -> Spoil:
    return lambda here: write_search(here / name, **fields)


def manifest(*keys: str, value: Any) -> Spoil:
    """Change a value of the copied search's search.json; a context keeps its key true."""

    def spoil(here: Path) -> None:
        from tim_search.types import Context

        path = here / "copy" / "search.json"
        plain = json.loads(path.read_text())
        at = plain
        for key in keys[:-1]:
            at = at[key]
        at[keys[-1]] = value
        if keys[0] == "context":
            plain["context"].pop("key")
            plain["context"]["key"] = Context(**plain["context"]).key
        path.write_text(json.dumps(plain))

    return spoil


def ward(change: Callable[[Path, dict[str, Any]], Any]) -> Spoil:
    """A cohort folder `ward` of which something is wrong."""

    def spoil(here: Path) -> None:
        (here / "ward").mkdir()
        description = write_folder(here / "ward")
        change(here / "ward", description)
        save(here / "ward", description)

    return spoil


def table(name: str, change: Callable[[pd.DataFrame], pd.DataFrame]) -> Callable[[Path, dict[str, Any]], None]:
    """Rewrite a Parquet file of `ward`."""
    return lambda root, _: change(pd.read_parquet(root / name)).to_parquet(root / name, index=False)


def split_with(fold: Any) -> Callable[[Path, dict[str, Any]], None]:
    def change(root: Path, description: dict[str, Any]) -> None:
        save(root, description)
        cohort = open_cohort(root)
        part = np.where(cohort.split.test, "test", "train")
        give_split(root, pd.DataFrame({"visit": cohort.sample_ids, "part": part, "fold": fold}))
        description["split"] = {"file": "split.parquet"}

    return change


def pixels(values: Any) -> Callable[[Path, dict[str, Any]], None]:
    def change(root: Path, _: dict[str, Any]) -> None:
        names = pq.read_table(root / "images.parquet").column("visit")
        pq.write_table(pa.table({"visit": names, "pixels": pa.array(values(len(names)))}), root / "images.parquet")

    return change


def mapped(change: Callable[[Path, dict[str, Any]], Any]) -> Callable[[Path, dict[str, Any]], None]:
    def spoil(root: Path, description: dict[str, Any]) -> None:
        save(root, description)
        map_arrays(root)
        description |= yaml.safe_load((root / "cohort.yaml").read_text())
        change(root, description)

    return spoil


OTHER_SPLIT = manifest("context", "split", value="x")

ROWS = [
    # ---------------------------------------------------------------- what is named is not there, or is something else
    Row("run absent.yaml", ["absent.yaml: cannot be read: No such file"]),
    Row("run .", ["expected a search file (YAML), got a folder", "Name a search file"]),
    Row(
        "run s.yaml",
        ["line 3, seed: unknown key. Did you mean seeds?"],
        text("s.yaml", "cohort: support2\ntasks: all\nseed: [0]\n"),
    ),
    Row("run s.yaml", ["expected a mapping of settings"], text("s.yaml", "")),
    Row("run s.yaml", ["expected UTF-8 text"], text("s.yaml", "cohort: support2\n# \xe9\n", "latin-1")),
    Row("run s.yaml", ["no such task: 'hospdeath'. Did you mean hospdead?"], search_file(tasks=["hospdeath"])),
    Row("run s.yaml", ["nowhere"], search_file(cohort="nowhere")),
    Row(
        "run s.yaml",
        ["line 3, ledger", "expected a folder, or s3://bucket/prefix"],
        text("s.yaml", "cohort: support2\ntasks: [hospdead]\nledger: gs://bucket/x\n"),
    ),
    Row(
        "run s.yaml",
        ["line 3, resources.time_limit", "a number above 0"],
        text("s.yaml", "cohort: support2\ntasks: [hospdead]\nresources: {time_limit: 0}\n"),
    ),
    Row(
        "run s.yaml",
        ["tuning.space: 1000000 combinations are too many"],
        search_file(tuning={"space": {"epochs": list(range(1, 1001)), "width": list(range(1, 1001))}}),
    ),
    Row("run s.yaml --address 127.0.0.1:1", ["no Ray cluster answers at 127.0.0.1:1"], search_file()),
    Row("run s.yaml --address nonsense", ["address: expected host:port"], search_file()),
    Row("run s.yaml --out s.yaml", ["s.yaml", "the ledger cannot be used"], search_file()),
    Row("run s.yaml --out /proc/nothing", ["/proc/nothing/ledger: the ledger cannot be used"], search_file()),
    Row(
        "run s.yaml --out {search}",
        ["holds the search 'small' with another context"],
        search_file(training={"epochs": 3}),
    ),
    Row("run s.yaml", ["design.sized: the search has 3 tasks, got 4."], search_file(design={"sized": 4})),
    Row("plan s.yaml", ["unknown key"], search_file(seed=[0])),
    Row("plan s.yaml --pilot", ["--pilot: expected a sampled design, got exact"], search_file(design="exact")),
    Row("tune s.yaml", ["there is nothing to tune", "Add a line `tuning: {}`"], search_file()),
    Row(
        "tune s.yaml",
        ["with `scope: per_subset` every subset is tuned where it is trained"],
        search_file(tuning={"scope": "per_subset"}),
    ),
    Row("tune s.yaml --subset hospdead+nobody", ["no task is called 'nobody'", "The tasks are"], search_file()),
    Row("tune s.yaml --chosen", ["search.json: cannot be read"], search_file()),
    Row("status .", ["search.json: cannot be read", "--out"]),
    Row("status s.yaml", ["search.json: cannot be read"], search_file()),
    Row("status torn", ["is not a search's manifest"], text("torn/search.json", '{"name": ')),
    Row("status torn", ["is not a search's manifest"], text("torn/search.json", "[]")),
    Row(
        "status copy",
        ["design: expected exact, sized, sampled, greedy or surrogate, got 'all'"],
        manifest("design", value={"kind": "all"}),
    ),
    Row("status {search} --watch --every 0", ["--every"]),
    Row("status nowhere --watch", ["search.json: cannot be read"]),
    Row("tim .", ["search.json: cannot be read"]),
    Row("tim {search} --method best", ["method: got 'best'; allowed are"]),
    Row("tim {search} --size 99 --method restricted", ["got 99"]),
    Row("expand .", ["search.json: cannot be read"]),
    Row("expand {search} --rule best", ["--rule"]),
    Row("expand {search} --beam 0", ["beam must be 1 or more"]),
    Row("expand {search} --source nobody", ["nobody"]),
    Row("tim {search} --source hospdeath", ["--source: expected a task of the search", "Did you mean hospdead?"]),
    Row("heatmap --tracking-uri sqlite:////nowhere/mlflow.db --search x", ["/nowhere/mlflow.db"]),
    Row("heatmap --search x", ["--tracking-uri"]),
    Row("publish .", ["search.json: cannot be read"]),
    Row("report .", ["search.json: cannot be read"]),
    Row("report {search} --small-cells -1", ["--small-cells"]),
    Row("report copy --small-cells 3", ["--small-cells: expected 10 or more"], lambda here: hide(here, 10)),
    Row("report {search} --out /proc/page.html", ["/proc/page.html cannot be written"]),
    Row("report {search} --out .", ["--out: expected a file, got the folder ."]),
    Row("merge", ["Missing argument"]),
    Row("merge a b", ["Missing option", "--out"]),
    Row("merge {search} --out new", ["at least two", "got 1"]),
    Row("merge {search} nowhere --out new", ["nowhere", "there is neither"]),
    Row("merge {search} ftp://host/x --out new", ["expected a folder, or s3://bucket/prefix"]),
    Row("merge {search} {search} --out s3://bucket/x", ["expected a folder for the merged search"]),
    Row("merge {search} copy --out new", ["differ in the split", "do not compare"], OTHER_SPLIT),
    Row("group {search} --models 0", ["--models"]),
    Row("group {search} --objective best", ["--objective"]),
    Row("compare {search} .", ["search.json: cannot be read"]),
    Row("inspect {search} --subset nobody", ["--subset: expected tasks of the search, got nobody"]),
    Row("inspect {search} --seeds 0", ["--seeds"]),
    # ---------------------------------------------------------------- confirm
    Row("confirm .", ["search.json: cannot be read"]),
    Row("confirm {search} --source nobody", ["expected tasks of the search", "got nobody"]),
    Row("confirm {search} --subset hospdead", ["--subset: expected two tasks or more"]),
    Row("confirm {search} --subset hospdead+dzclass --source slos_log", ["--source: slos_log not in the combination"]),
    Row("confirm {search} --subset hospdead+dzclass --by shoes", ["--by: expected one input column of the search"]),
    Row("confirm {search} --draws 3", ["--draws"]),
    Row("confirm copy", ["holds the search 'small' with another context", "the split"], OTHER_SPLIT),
    # ---------------------------------------------------------------- train, predict, extend
    Row("train . --source hospdead", ["search.json: cannot be read"]),
    Row("train {search} --source nobody", ["--source: expected tasks of the search, got nobody"]),
    Row(
        "train {search} --source hospdead --subset dzclass+slos_log",
        ["--subset: expected a combination that holds the source"],
    ),
    Row("train {half} --source hospdead", ["has not trained all that the choice for hospdead rests on"]),
    Row(
        "train copy --source hospdead --subset hospdead+dzclass",
        ["are no longer those of the search"],
        OTHER_SPLIT,
    ),
    Row("predict nowhere rows.csv", ["nowhere"], text("rows.csv", "age\n3\n")),
    Row("predict models:/death/1 rows.csv", ["say where with --tracking-uri"], text("rows.csv", "age\n3\n")),
    Row("extend nowhere --task x", ["Name the cohort with --cohort"]),
    Row("extend nowhere --task x --cohort support2", ["nowhere"]),
    Row("extend nowhere --task x --cohort support2 --labels 0", ["--labels: expected shares above 0"]),
    Row("extend nowhere --task x --cohort support2 --labels nan", ["--labels: expected shares above 0"]),
    Row("extend nowhere --task x --cohort support2 --out .", ["--out: . is there already"]),
    Row("extend nowhere --task x --cohort support2 --test", ["without the log they may not be read"]),
    # ---------------------------------------------------------------- check and the ledger
    Row("check nowhere", ["nowhere"]),
    Row("check s3://key:secret@bucket/x", ["credentials come from the environment"]),
    Row("check s.yaml", ["no such task"], search_file(tasks=["hospdeath"])),
    Row("check copy", ["it cannot be read as Parquet"], lambda here: foreign(here, b"no table")),
    Row("check copy", ["it lacks the columns"], lambda here: foreign(here, None)),
    Row(
        "check copy",
        ["it is not a file of this ledger"],
        lambda here: (here / "copy/ledger/scores/mine.parquet").touch(),
    ),
    # ---------------------------------------------------------------- cohorts
    Row("cohort export nowhere copy2", ["nowhere"]),
    Row(
        "cohort export t.csv copy2",
        ["got the file t.csv", "`tim-search cohort init t.csv`"],
        text("t.csv", "a,b\n1,2\n"),
    ),
    Row("cohort export support2 s.yaml/deep", ["A file stands where a folder is expected"], search_file()),
    Row("cohort synthetic --samples 200 --patients 300 new", ["--patients: expected at most"]),
    Row("cohort synthetic --like haim --steps 3 new", ["--steps: expected nothing with --like haim"]),
    Row("cohort haim --embeddings none.csv --out new", ["there is no such file"]),
    Row("cohort haim --embeddings e.csv --out new", ["e.csv", "Download it again"], text("e.csv", "")),
    Row("cohort init none.csv", ["none.csv: expected a table (CSV, Excel", "there is none"]),
    Row("cohort init t.csv", ["t.csv", "expected rows of patients with columns"], text("t.csv", "a,b\n")),
    Row("cohort init t.csv", ["t.csv: expected 3 fields", "got 2 in line 3"], text("t.csv", "a;b;c\n1;2;3\n4;5\n")),
    Row("cohort init t.xlsx", ["t.xlsx: expected a table", "Write it again"], text("t.xlsx", "PK")),
    Row("cohort init t.ods", ["t.ods: expected a table", "Save it as .xlsx"], text("t.ods", "PK")),
    Row("cohort init . --out made", ["expected a table, got a folder without Parquet files"]),
    Row("cohort init", ["expected a TABLE, --sql or --from"]),
    Row("cohort init --sql select", ["--sql: expected the URL of a database in TIM_SEARCH_DATABASE_URL, got none"]),
    Row("check ward", ["samples.parquet: has no rows"], ward(table("samples.parquet", lambda frame: frame[:0]))),
    Row("check ward", ["column fold: expected whole numbers, given"], ward(split_with("first"))),
    Row(
        "check ward",
        ["1 rows repeat a sample and step"],
        ward(table("series.parquet", lambda f: pd.concat([f, f[:1]]))),
    ),
    Row("check ward", ["column pixels: expected a list of numbers in every row"], ward(pixels(lambda n: ["x"] * n))),
    Row("check ward", ["some pixels are infinite"], ward(pixels(lambda n: [[np.inf] * 12] * n))),
    Row(
        "check ward",
        ["tasks.symptoms.classes: 2 label columns, 3 names"],
        ward(lambda root, d: d["tasks"]["symptoms"].update(classes=["a", "b", "c"])),
    ),
    Row(
        "check ward",
        ["modalities.images.shape: given [1, 4, 3], the file has [1, 3, 4]"],
        ward(mapped(lambda root, d: d["modalities"]["images"].update(shape=[1, 4, 3]))),
    ),
    Row(
        "check ward",
        ["has no modality at all (e.g. v230)"],
        ward(table("labs.parquet", lambda f: f[f["visit"] != "v230"])),
    ),
    Row(
        "check ward --strict",
        ["the feature died has the name of a label column"],
        ward(table("labs.parquet", lambda f: f.assign(died=1.0))),
    ),
    Row(
        "check ward --strict",
        ["the feature died has the name of a label column"],
        ward(mapped(lambda root, d: d["modalities"]["labs"].update(columns=["died", "albumin"]))),
    ),
    Row(
        "check ward --strict",
        ["6 columns are each the same (1) wherever measured"],
        ward(table("labs.parquet", lambda f: f.assign(**{f"one{k}": 1.0 for k in range(6)}))),
    ),
    Row(
        "check ward --strict",
        ["modalities.series: no sample has it"],
        ward(table("series.parquet", lambda f: f.assign(pulse=np.nan, spo2=np.nan))),
    ),
    Row(
        "check ward --strict",
        ["tasks.symptoms: label fever is 1 wherever it is known"],
        ward(table("samples.parquet", lambda f: f.assign(fever=1))),
    ),
    Row("frobnicate", ["frobnicate"]),
]


def hide(here: Path, small: int) -> None:
    path = here / "copy" / "cohort.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"small_cells": small}))


def foreign(here: Path, content: bytes | None) -> None:
    """A file with a fitting name in the ledger: bytes that are no table, or a table of something else."""
    import hashlib

    place = here / "copy" / "ledger" / "scores"
    if content is None:
        sink = pa.BufferOutputStream()
        pq.write_table(pa.table({"x": [1]}), sink)
        content = sink.getvalue().to_pybytes()
    name = next(place.glob("part-*")).name
    digest = hashlib.sha256(content).hexdigest()[:32]
    (place / (name[: name.index(".parquet") - 32] + digest + ".parquet")).write_bytes(content)


def contents(*places: Path) -> dict[str, bytes | None]:
    return {
        str(path): path.read_bytes() if path.is_file() else None
        for place in places
        for path in sorted(place.rglob("*"))
    }


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
def test_a_malformed_command_ends_with_2_says_what_to_do_and_writes_nothing(
    row: Row,
    call: Call,
    folder: Path,
    half: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import sys

    if "--address" in row.arguments and "ray" in sys.modules:
        sys.modules["ray"].shutdown()  # an executor that finds Ray running does not look at the address
    monkeypatch.chdir(tmp_path)
    if "copy" in row.arguments:
        shutil.copytree(folder, tmp_path / "copy")
    if row.spoil is not None:
        row.spoil(tmp_path)
    before = contents(tmp_path, folder, half)
    places = {"search": folder, "half": half}
    status, out, err = call(*(one.format(**places) for one in row.arguments.split()))
    assert status == 2, out + err
    told = " ".join((out + err if row.arguments.startswith("check") else err).replace("│", " ").split())
    for word in row.words:
        assert word in told, told
    shutil.rmtree(tmp_path / "runs", ignore_errors=True)  # a search that found no cluster has its folder
    after = contents(tmp_path, folder, half)
    assert {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)} == set()


# ------------------------------------------------------------------------------------------------ by function alone


def no_tasks(_: Path) -> None:
    from tim_search.ledger.table import ScoreTable
    from tim_search.tim import choice

    nothing = ScoreTable((), ((0, 0),), np.zeros((0, 0), bool), np.zeros((0, 1, 0)), np.zeros((0, 1), bool))
    choice.checked_options(nothing, "exact", None, 0.95, 0.1, False)


def no_group(_: Path) -> None:
    from tim_search.ledger.table import ScoreTable
    from tim_search.results import grouping

    nothing = ScoreTable((), ((0, 0),), np.zeros((0, 0), bool), np.zeros((0, 1, 0)), np.zeros((0, 1), bool))
    grouping.group(nothing, gain="certain")  # type: ignore[arg-type]


def nothing_tuned(here: Path) -> None:
    from tim_search import config
    from tim_search.tuning import choices

    found = config.resolve(config.SearchFile(cohort="support2", tasks=("hospdead",), tuning={}), here / "out")
    choices.write(here / "out", config.study(found), [])


def not_tuned(here: Path) -> None:
    from tim_search import config
    from tim_search.app import runner

    runner.run_search(
        config.resolve(config.SearchFile(cohort="support2", tasks=("hospdead",), tuning={}), here / "out")
    )


def no_gpu(_: Path) -> None:
    import torch

    from model.training.trainer import device_named

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: False)
        device_named("cuda")


def no_control(_: Path) -> None:
    from model.cohorts.control import with_control

    with_control(open_cohort("support2"), "phenotype")


def control_twice(_: Path) -> None:
    from model.cohorts.control import with_control

    with_control(with_control(open_cohort("support2"), "hospdead"), "hospdead")


def full_disk(_: Path) -> None:
    from tim_search.app import prediction

    prediction.write_table(pd.DataFrame({"a": [1]}), Path("/proc/said.csv"))


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (no_tasks, "at least one task; got none"),
        (no_group, "no task that could be served"),
        (nothing_tuned, "Tuning chose nothing"),
        (not_tuned, "its file asks for tuning"),
        (no_gpu, "torch sees no GPU here. Use cpu or auto"),
        (no_control, "control: expected a task with labels"),
        (control_twice, "has a task hospdead_permuted already"),
        (full_disk, "/proc/said.csv cannot be written"),
    ],
)
def test_a_malformed_call_is_told_and_writes_nothing(
    broken: Callable[[Path], None], words: str, tmp_path: Path
) -> None:
    with pytest.raises(BadInput) as raised:
        broken(tmp_path)
    assert words in str(raised.value)
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------------------------ files gone wrong

SEARCH = """cohort: support2
tasks: [hospdead, dnr_later]
network: m3h
training: {epochs: 2, learning_rate: 1e-4}
design: {sampled: {stop: {top_k: 2}}}
tuning: {space: {batch_size: [64, 128]}}
resources: {cpus: 1, workers: 2}
blocks: 2
"""


@st.composite
def damaged(draw: st.DrawFn, content: str) -> str:
    """A file of which lines were cut, doubled, exchanged or filled with something else."""
    lines = content.splitlines()
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(lines) - 1))
        other = draw(
            st.sampled_from(["- x", "{", "a: [", "\t: 1", "null", "&a x", "*a", "!!set x", "? y", ".inf", "1e999"])
        )
        place = draw(st.integers(0, len(lines[at])))
        lines[at] = draw(
            st.sampled_from(
                [lines[at][:place] + other + lines[at][place:], lines[at][:place], lines[at] * 2, " " + other]
            )
        )
    return draw(st.sampled_from(["", "\ufeff"])) + draw(st.sampled_from(["\n", "\r\n"])).join(lines)


@given(damaged(SEARCH))
@settings(max_examples=150, deadline=None)
def test_no_damage_to_a_search_file_makes_the_reader_fall_over(
    tmp_path_factory: pytest.TempPathFactory, content: str
) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged.yaml"
    path.write_bytes(content.encode())
    search, found = config.read(path)
    assert (search is None) == bool(found)
    assert all(one.place and one.problem for one in found)


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("described")
    save(root, write_folder(root))
    return root


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_no_damage_to_a_cohort_makes_the_reader_fall_over(described: Path, data: st.DataObject) -> None:
    whole = described / "whole.yaml"
    if not whole.exists():
        shutil.copy(described / "cohort.yaml", whole)
    (described / "cohort.yaml").write_bytes(data.draw(damaged(whole.read_text())).encode())
    with contextlib.suppress(BadInput):  # nothing else may come of it
        open_cohort(described)
