"""A ledger that came from others: whatever lies among its parts, readers end, say what they left out, and go on."""

from __future__ import annotations

import base64
import hashlib
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.fake_trainer import CONTEXT
from tests.support.ledgers import result, units
from tests.support.limits import within
from tim_search.ledger import Ledger, LedgerError, LedgerWarning, storage
from tim_search.ledger.schema import FOOTER
from tim_search.types import BadInput

#: No reader takes more than 20 seconds or 2 GiB, whatever lies there.
limited = partial(within, 20, 2)


@contextmanager
def quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    """Three units in a part of their own, and three more in another one."""
    made = Ledger(tmp_path / "ledger")
    made.append(result(*units()[:3]), CONTEXT)
    made.append(result(*units()[3:6]), CONTEXT)
    return made


def put(ledger: Ledger, content: bytes, kind: str = "scores") -> str:
    """Add a file whose bytes fit its name; returns the name."""
    name = f"part-{hashlib.sha256(content).hexdigest()[:32]}.parquet"
    (ledger.path / kind / name).write_bytes(content)
    return name


def written(table: Any, footer: bytes | None) -> bytes:
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, table.schema) as writer:
        writer.write_table(table)
        if footer is not None:
            writer.add_key_value_metadata({FOOTER: footer})
    return sink.getvalue().to_pybytes()


def use(ledger: Ledger) -> None:
    """Everything that reads a ledger."""
    ledger.scores()
    ledger.sheet(replicates=True)
    ledger.attention()
    ledger.curves()
    ledger.done(CONTEXT.key)
    ledger.contexts()
    ledger.progress(CONTEXT.key, ("a", "b", "c", "d"), ((0, 0),))
    ledger.failures(CONTEXT.key)
    ledger.check()


def part(ledger: Ledger) -> tuple[Any, bytes]:
    """(table, footer) of the first part of the scores."""
    path = ledger.path / "scores" / ledger.storage.names("scores")[0]
    return pq.read_table(path), pq.read_metadata(path).metadata[FOOTER]


def column(name: str, value: Any) -> Callable[[Any, bytes], tuple[Any, bytes | None]]:
    """The part with another value in the first row of a column."""

    def change(table: Any, footer: bytes) -> tuple[Any, bytes]:
        place = table.column_names.index(name)
        kind = table.schema.field(name).type
        values = table[name].to_pylist()
        values[0] = value
        return table.set_column(place, pa.field(name, kind), pa.array(values, kind)), footer

    return change


def footer(change: Callable[[Any], Any], tasks: str | None = None) -> Callable[[Any, bytes], tuple[Any, bytes | None]]:
    """The part with another table of runs in its footer."""

    def changed(table: Any, content: bytes) -> tuple[Any, bytes]:
        runs = pa.ipc.open_stream(base64.b64decode(content)).read_all()
        names = runs.schema.metadata
        runs = change(runs).replace_schema_metadata(names if tasks is None else {b"tasks": tasks.encode()})
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, runs.schema) as stream:
            stream.write_table(runs)
        return table, base64.b64encode(sink.getvalue().to_pybytes())

    return changed


def with_run(name: str, values: Any) -> Callable[[Any], Any]:
    return lambda runs: runs.set_column(runs.column_names.index(name), name, values(runs))


CHANGES: dict[str, Callable[[Any, bytes], tuple[Any, bytes | None]]] = {
    "no base64": lambda table, _: (table, b"\xff{}"),
    "empty footer": lambda table, _: (table, b""),
    "no Arrow": lambda table, _: (table, base64.b64encode(b"no arrow")),
    "cut footer": lambda table, content: (table, content[:-40]),
    "tasks are no list": footer(lambda runs: runs, "{}"),
    "tasks are no JSON": footer(lambda runs: runs, "["),
    "tasks nest": footer(lambda runs: runs, "[" * 5000),
    "tasks are numbers": footer(lambda runs: runs, "[1, 2, 3]"),
    "a task too many": footer(lambda runs: runs, '["a", "b", "c", "d", "e", "f", "g", "h", "i"]'),
    "no tasks": footer(lambda runs: runs, "[]"),
    "negative rows": footer(with_run("rows", lambda runs: pa.array([-1] * len(runs), pa.int32()))),
    "rows are null": footer(with_run("rows", lambda runs: pa.nulls(len(runs), pa.int32()))),
    "rows are text": footer(with_run("rows", lambda runs: pa.array(["x"] * len(runs)))),
    "subset without tasks": footer(with_run("mask", lambda runs: pa.array([b"\0"] * len(runs), pa.binary(1)))),
    "subset with other tasks": footer(with_run("mask", lambda runs: pa.array([b"\xff"] * len(runs), pa.binary(1)))),
    "masks are null": footer(with_run("mask", lambda runs: pa.nulls(len(runs), pa.binary(1)))),
    "seed is null": footer(with_run("seed", lambda runs: pa.nulls(len(runs), pa.int64()))),
    "context is null": footer(with_run("context", lambda runs: pa.nulls(len(runs), pa.string()))),
    "a run too few": footer(lambda runs: runs.slice(1)),
    "another column": footer(lambda runs: runs.append_column("x", pa.array([1] * len(runs)))),
    "status is null": column("status", None),
    "status is unknown": column("status", "fine"),
    "unknown task": column("task", "zz"),
    "task of another subset": column("task", "c"),
    "task is null": column("task", None),
    "primary is null": column("primary", None),
    "seconds is null": column("seconds", None),
    "error is null": column("error", None),
    "no rows": lambda table, content: (table.slice(0, 0), content),
    "no footer, null subset": lambda table, _: (column("subset", None)(table, b"")[0], None),
    "no footer, empty subset": lambda table, _: (column("subset", [])(table, b"")[0], None),
    "no footer, a null task in a subset": lambda table, _: (column("subset", [None])(table, b"")[0], None),
    "no footer, part is unknown": lambda table, _: (column("part", "all")(table, b"")[0], None),
    "no footer, time before 1970": lambda table, _: (
        column("created", datetime(1900, 1, 1, tzinfo=UTC))(table, b"")[0],
        None,
    ),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_part_that_fits_in_no_respect_is_left_out_by_name(
    ledger: Ledger, change: Callable[[Any, bytes], tuple[Any, bytes | None]]
) -> None:
    before = ledger.scores()
    name = put(ledger, written(*change(*part(ledger))))
    with limited(), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        use(ledger)
        scores = ledger.scores()
    assert len(scores) == len(before)
    assert any(name in str(warning.message) and warning.category is LedgerWarning for warning in caught)
    assert [finding.place for finding in ledger.check() if finding.severity == "error"] == [
        f"{ledger.place}/scores/{name}"
    ]
    with limited(), quiet(), ledger.writer_lock():
        assert ledger.storage.names("set-aside") == [name]
        ledger.append(result(*units()[6:7]), CONTEXT)
        ledger.compact()
    assert len(ledger.done(CONTEXT.key)) == 7


@pytest.mark.parametrize("kind", ["scores", "attention", "curves"])
def test_what_is_no_file_among_the_parts_ends_no_reader(ledger: Ledger, kind: str) -> None:
    folder = ledger.path / kind
    before = len(ledger.done(CONTEXT.key))
    folder.mkdir(exist_ok=True)
    names = [f"part-{digit * 32}.parquet" for digit in "abcd"]
    os.mkfifo(folder / names[0])
    (folder / names[1]).symlink_to("nowhere")
    (folder / names[2]).mkdir()
    (folder / names[3]).symlink_to("/dev/zero")
    with limited(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        use(ledger)
        assert len(ledger.done(CONTEXT.key)) == before
        findings = [finding for finding in ledger.check() if finding.severity == "error"]
    assert [Path(finding.place).name for finding in findings] == names
    with limited(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with ledger.writer_lock():
            ledger.compact()
    assert set(ledger.storage.names("set-aside")) == set(names)
    assert ledger.storage.names(kind) == [] or kind != "curves"


def test_pages_that_are_corrupt_are_found_by_check(ledger: Ledger) -> None:
    table, content = part(ledger)
    whole = bytearray(written(table, content))
    start = pq.read_metadata(pa.BufferReader(bytes(whole))).row_group(0).column(table.column_names.index("score"))
    offset = start.data_page_offset
    whole[offset : offset + 60] = bytes(60)
    name = put(ledger, bytes(whole))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        places = [finding.place for finding in ledger.check() if finding.severity == "error"]
        assert ledger.scores(columns=["score"])["score"].notna().all()
    assert places == [f"{ledger.place}/scores/{name}"]


def test_a_lock_file_that_is_a_link_empties_no_other_file(ledger: Ledger, tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("mine")
    (ledger.path / "writer.lock").unlink(missing_ok=True)
    (ledger.path / "writer.lock").symlink_to(tmp_path / "precious")
    with pytest.raises(LedgerError), ledger.writer_lock():
        pass
    assert (tmp_path / "precious").read_text() == "mine"


def test_a_received_address_alone_sends_credentials_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    place = "s3://bucket/x?endpoint_override=minio:9000&scheme=http"
    for url in (place, "s3://bucket/x?endpoint_override=https://minio", "s3://bucket/x?scheme=http"):
        with pytest.raises(BadInput, match=r"search.json: names .*AWS credentials.*set AWS_ENDPOINT_URL=http"):
            storage.received("/got", url)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://minio:9000/")
    with pytest.warns(LedgerWarning, match="is read at http://minio:9000"):
        assert storage.received("/got", place) == place
    with pytest.raises(BadInput, match="http://minio:9000/ is set instead"):
        storage.received("/got", "s3://bucket/x?endpoint_override=other:9000&scheme=http")
    assert storage.received("/got", "s3://bucket/x") == "s3://bucket/x"
    assert storage.received("/got", "ledger") == Path("/got/ledger")
    with pytest.raises(BadInput, match="expected a region"):
        storage.received("/got", "s3://bucket/x?region=evil.example/%23")


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_parts_with_bytes_changed_at_random_kill_no_reader(ledger: Ledger, seed: int) -> None:
    rng = np.random.default_rng(seed)
    table, content = part(ledger)
    whole = written(table, content)
    for _ in range(30):
        mutated = bytearray(whole)
        for place in rng.integers(0, len(whole), rng.integers(1, 12)).tolist():
            mutated[place] = int(rng.integers(0, 256))
        if rng.random() < 0.2:
            del mutated[int(rng.integers(0, len(mutated))) :]
        name = put(ledger, bytes(mutated), ["scores", "attention"][int(rng.integers(0, 2))])
        with limited(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            use(ledger)
            assert set(units()[:6]) <= ledger.done(CONTEXT.key)
        for kind in ("scores", "attention"):
            (ledger.path / kind / name).unlink(missing_ok=True)
