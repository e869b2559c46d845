"""One conformance suite over both places of a ledger, a folder and object storage; then what is each one's own.

The object store is a real S3 server on this machine, reached over HTTP as any other.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.parse
import uuid
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.support import ROOT
from tests.support.fake_trainer import CONTEXT, TASKS
from tests.support.ledgers import SUBSETS, Crash, Mortal, plain, result, units
from tim_search.ledger import Ledger, LedgerError, LedgerWarning, drivers, object_store, storage
from tim_search.ledger.object_store import ObjectStore
from tim_search.ledger.storage import Held, Storage
from tim_search.types import BadInput, Pack, Unit, failed


@pytest.fixture(params=["folder", "object store"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A place for a ledger of each kind; nothing is there yet."""
    if request.param == "folder":
        return str(tmp_path / "runs" / "ledger")
    return f"{request.getfixturevalue('bucket')}/runs/ledger"


@pytest.fixture
def store(place: str) -> Storage:
    return storage.at(place)


@pytest.fixture
def ledger(place: str) -> Ledger:
    return Ledger(place)


def content(store: Storage, key: str) -> bytes:
    with store.read(key) as (file, _):
        return file.read()


# -------------------------------------------------------------------- the contract


def test_what_was_put_is_listed_and_read(store: Storage) -> None:
    assert store.names("scores") == []
    assert store.sizes("scores") == {}
    for number, name in enumerate(["part-b", "part-a", "part-c"]):
        store.put(f"scores/{name}", bytes(10 * number))
    store.put("attention/part-a", b"another table")
    assert store.names("scores") == ["part-a", "part-b", "part-c"]
    assert store.sizes("scores") == {"part-a": 10, "part-b": 0, "part-c": 20}
    assert content(store, "scores/part-c") == bytes(20)
    store.put("scores/part-c", b"new")
    assert content(store, "scores/part-c") == b"new"
    again = storage.at(store.place)
    assert again.place == store.place
    assert content(again, "attention/part-a") == b"another table"


def test_equal_marks_mean_equal_bytes(store: Storage) -> None:
    marks = {}
    for text in (b"one", b"two", b"one more"):
        store.put("scores/part", text)
        for _ in range(2):
            with store.read("scores/part") as (file, mark):
                read = file.read()
            assert read == text
            assert mark is None or marks.setdefault(mark, read) == read


def test_removed_files_are_gone_and_may_be_removed_again(store: Storage) -> None:
    for name in "abc":
        store.put(f"scores/{name}", b"x")
    store.remove(["scores/a", "scores/c"])
    store.remove(["scores/a", "scores/never"])
    assert store.names("scores") == ["b"]
    with pytest.raises(FileNotFoundError), store.read("scores/a"):
        pass


def test_a_moved_file_has_its_new_name_alone(store: Storage) -> None:
    store.put("scores/a", b"mine")
    store.put("set-aside/b", b"old")
    store.move("scores/a", "set-aside/b")
    assert (store.names("scores"), store.names("set-aside")) == ([], ["b"])
    assert content(store, "set-aside/b") == b"mine"
    with pytest.raises(FileNotFoundError):
        store.move("scores/a", "set-aside/c")


def test_one_writer_at_a_time(store: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_store, "_RENEWED", 0.3)
    with store.writer():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", LedgerWarning)
            with pytest.raises(Held, match=f"process {os.getpid()} on .* since 20"), storage.at(store.place).writer():
                pass
        assert store.names("scores") == []  # reading goes on
    with storage.at(store.place).writer():
        pass


# -------------------------------------------------------------------- a ledger on it


def test_a_ledger_keeps_and_merges_and_finds_what_it_is_given(ledger: Ledger) -> None:
    assert (ledger.done(CONTEXT.key), ledger.check(), ledger.files()) == (set(), [], 0)
    for seed in range(4):
        ledger.append([result(*units(seed)[:6]), result(*units(seed)[6:9])], CONTEXT)
    before = plain(ledger.scores())
    ledger.compact()
    assert ledger.files() == 1
    pd.testing.assert_frame_equal(plain(Ledger(ledger.place).scores()), before, check_categorical=False)
    ledger.append(result(*units(9)[:2]), CONTEXT)
    assert len(ledger.done(CONTEXT.key)) == 4 * 9 + 2
    assert len(ledger.attention()) == len(before) + 2 + 4 * 3 * 2  # three of the nine subsets are pairs
    assert ledger.check() == []


@pytest.mark.parametrize("kind", ["truncated", "foreign", "altered"])
def test_unusable_files_are_left_out_and_set_aside(ledger: Ledger, kind: str) -> None:
    for start in (0, 3):
        ledger.append(result(*units()[start : start + 3]), CONTEXT)
    name = ledger.storage.names("scores")[0]
    good = content(ledger.storage, f"scores/{name}")
    if kind == "foreign":
        ledger.storage.remove([f"scores/{name}"])
        name = "notes.txt"
    bad = {"truncated": good[:100], "foreign": b"mine", "altered": good[:300] + b"!" + good[301:]}[kind]
    ledger.storage.put(f"scores/{name}", bad)
    with pytest.warns(LedgerWarning, match=name):
        held = ledger.done(CONTEXT.key)
    assert len(held) == 3
    assert [(finding.place, finding.severity) for finding in ledger.check() if finding.severity == "error"] == [
        (f"{ledger.place}/scores/{name}", "error")
    ]
    with pytest.warns(LedgerWarning, match="set-aside"), ledger.writer_lock():
        ledger.append(result(*(set(units()[:6]) - held)), CONTEXT)
    assert ledger.storage.names("set-aside") == [name]
    assert ledger.done(CONTEXT.key) == set(units()[:6])


def test_attention_that_is_missing_is_found(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    for start in (0, 3):
        ledger.append(result(*units()[start : start + 3]), CONTEXT)
    ledger.storage.remove([f"attention/{ledger.storage.names('attention')[0]}"])
    (finding,) = ledger.check()
    assert finding.problem.startswith("3 units were scored, but their attention is missing")
    assert finding.severity == "warning"
    monkeypatch.setattr("tim_search.ledger.upkeep.MOST_ATTENDED", 0)
    assert ledger.check() == [], "of larger subsets no attention is kept"


WRITER = """
import sys
sys.path.insert(0, {tests!r})
from tests.support.fake_trainer import CONTEXT
from tests.support.ledgers import result, units
from tim_search.ledger import Ledger
ledger = Ledger({place!r})
with ledger.writer_lock():
    print("ready", flush=True)
    for seed in range(1_000_000):
        ledger.append(result(*units(seed)[:4]), CONTEXT)
        print(seed, flush=True)
        if seed % 9 == 8:
            ledger.compact()
"""


def start_writer(place: str) -> subprocess.Popen[str]:
    code = WRITER.format(tests=str(ROOT), place=place)
    writer = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    assert writer.stdout.readline() == "ready\n"
    return writer


def test_a_killed_writer_loses_nothing_that_it_told_and_its_place_is_free(ledger: Ledger) -> None:
    """A reader meanwhile never sees fewer rows, and half a commit never."""
    writer = start_writer(ledger.place)
    seen: set[Unit] = set()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            while len(seen) < 4 * 12:
                now = ledger.done(CONTEXT.key)
                assert seen <= now
                assert len(now) % 4 == 0
                seen = now
    finally:
        writer.send_signal(signal.SIGKILL)
        writer.wait()
    assert writer.stdout is not None
    told = [int(line) for line in writer.stdout if line.endswith("\n")]
    assert {Unit(members, seed, 0) for seed in range(max(told) + 1) for members in SUBSETS[:4]} <= ledger.done(
        CONTEXT.key
    )
    with ledger.writer_lock():  # at once: this machine knows that the process is gone
        ledger.compact()
    assert ledger.check() == []


def test_two_writers_past_the_lock_lose_nothing(ledger: Ledger) -> None:
    writers = [ledger, Ledger(ledger.place)]
    for seed in range(3):
        for number, writer in enumerate(writers):
            writer.append(result(*units(seed)[:5]), CONTEXT)
            writer.append(result(*units(seed + 10 * (number + 1))[:5]), CONTEXT)
        writers[seed % 2].compact()
    expected = {Unit(members, seed + shift, 0) for seed in range(3) for shift in (0, 10, 20) for members in SUBSETS[:5]}
    assert ledger.done(CONTEXT.key) == expected
    assert len(ledger.scores()) == len(expected)


# -------------------------------------------------------------------- crashes between any two steps


class Crashing(RuleBasedStateMachine):
    """Commits, compactions and starts of a search that die at any step leave what a dictionary would hold."""

    make: Callable[[], str]

    @initialize()
    def start(self) -> None:
        self.store = Mortal(storage.at(type(self).make()))
        self.ledger = Ledger(self.store)
        self.model: dict[Unit, str] = {}

    def _die(self, step: int | None, action: Callable[[], object]) -> bool:
        """Do something, dying at a step; returns whether it came to its end. Afterwards a new process goes on."""
        self.store.left = step
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", LedgerWarning)
                action()
        except Crash:
            self.store.left = None
            self.ledger = Ledger(self.store)
            return False
        self.store.left = None
        return True

    @rule(
        wanted=st.lists(st.sampled_from(SUBSETS[:9]), min_size=1, max_size=4, unique=True),
        fails=st.booleans(),
        step=st.one_of(st.none(), st.integers(0, 1)),
    )
    def append(self, wanted: list[tuple[str, ...]], fails: bool, step: int | None) -> None:
        pack = Pack(tuple(Unit(members, 0, 0) for members in wanted))
        sent = failed(pack, "no", TASKS) if fails else result(*pack.units)
        if self._die(step, lambda: self.ledger.append(sent, CONTEXT)):
            for unit in pack.units:
                self.model.setdefault(unit, "failed" if fails else "ok")

    @rule(step=st.one_of(st.none(), st.integers(0, 9)))
    def compact(self, step: int | None) -> None:
        self._die(step, self.ledger.compact)

    @rule(torn=st.binary(max_size=20), step=st.one_of(st.none(), st.integers(0, 2)))
    def tear_and_tidy(self, torn: bytes, step: int | None) -> None:
        self.store.inner.put(f"scores/part-{'f' * 32}.parquet", torn)

        def begin() -> None:
            with self.ledger.writer_lock():
                pass

        self._die(step, begin)

    @invariant()
    def holds_what_the_model_holds(self) -> None:
        if not hasattr(self, "ledger"):
            return
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", LedgerWarning)
            frame = self.ledger.scores()
        found = {Unit(tuple(row.subset), row.seed, row.fold): row.status for row in frame.itertuples()}
        assert found == self.model
        assert len(frame) == sum(len(unit.subset) for unit in self.model)


def test_crashes_between_any_two_steps(place: str, request: pytest.FixtureRequest) -> None:
    remote = storage.is_url(place)

    class Here(Crashing):
        make = staticmethod(lambda: f"{place}/{uuid.uuid4().hex}")

    Here.TestCase.settings = settings(
        max_examples=5 if remote else 10,
        stateful_step_count=10,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    Here.TestCase("runTest").runTest()


# -------------------------------------------------------------------- object storage alone


def test_a_pack_is_one_put_a_table(bucket: str, s3_requests: list[str]) -> None:
    ledger = Ledger(f"{bucket}/ledger")
    del s3_requests[:]
    ledger.append(result(*units()[:9]), CONTEXT)
    assert s3_requests == ["PUT", "PUT"]
    assert len(ledger.done(CONTEXT.key)) == 9


def test_an_address_may_name_its_endpoint(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    host = urllib.parse.urlsplit(os.environ["AWS_ENDPOINT_URL"]).netloc
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    for place in (f"{bucket}/a?endpoint_override={host}&scheme=http", f"{bucket}/b/?endpoint_override=http://{host}"):
        ledger = Ledger(place)
        ledger.append(result(*units()[:2]), CONTEXT)
        assert Ledger(ledger.place).done(CONTEXT.key) == set(units()[:2])


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("gs://bucket/ledger", "expected a folder, or s3://bucket/prefix"),
        ("s3:///ledger", "expected a folder, or s3://bucket/prefix"),
        ("s3://bucket/a/../b", "without . and .."),
        ("s3://bucket/a#b", "expected a folder"),
        ("s3://key:secret@bucket/ledger", "credentials come from the environment"),
        ("s3://bucket/ledger?secret_key=abc", "got the option secret_key"),
        ("s3://bucket/ledger?scheme=ftp", "expected scheme=http or scheme=https"),
    ],
)
def test_a_url_that_is_no_place_for_a_ledger(url: str, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        Ledger(url)


def test_what_is_wrong_with_a_store_is_said(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_store, "_ATTEMPTS", 2)
    with pytest.raises(LedgerError, match="There is no such bucket: make it, or correct the URL, then run"):
        Ledger("s3://no-such-bucket/x").append(result(*units()[:1]), CONTEXT)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    for use in (lambda ledger: ledger.append(result(*units()[:1]), CONTEXT), Ledger.scores, Ledger.check):
        with pytest.raises(LedgerError, match="The store cannot be reached") as raised:
            use(Ledger(f"{bucket}/x"))
        assert "not-a-secret" not in str(raised.value)


def lease(store: Storage, **changes: Any) -> None:
    """A lease as another driver would have put it just now."""
    holder = {"pid": 1, "host": "elsewhere", "since": "2026-01-01T00:00:00+00:00", "machine": "elsewhere 1", **changes}
    store.put(f"writers/{uuid.uuid4().hex[:16]}.json", json.dumps(holder).encode())


def test_a_lease_that_is_not_renewed_runs_out(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_store, "_EXPIRED", 2.0)
    store = storage.at(f"{bucket}/ledger")
    lease(store)
    with pytest.warns(LedgerWarning, match="process 1 on elsewhere.*Waiting for up to 2 seconds"), store.writer():
        assert len(store.names("writers")) == 1  # that of the dead driver was cleared away
    assert store.names("writers") == []


def test_a_lease_of_a_process_that_this_machine_no_longer_has_counts_for_nothing(bucket: str) -> None:
    child = subprocess.Popen(["true"])
    child.wait()
    store = storage.at(f"{bucket}/ledger")
    lease(store, pid=child.pid, machine=drivers.machine())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with store.writer():
            pass


def test_a_writer_that_is_cut_off_comes_back(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its signs of life fail for a while; nothing ends because of that, and the next one succeeds."""
    monkeypatch.setattr(object_store, "_RENEWED", 0.05)
    store = storage.at(f"{bucket}/ledger")
    assert isinstance(store, ObjectStore)
    put, failures = ObjectStore.put, 0

    def cut_off(self: ObjectStore, key: str, data: Any) -> None:
        nonlocal failures
        if 0 < failures < 4:
            failures += 1
            raise OSError("the network is away")
        put(self, key, data)

    monkeypatch.setattr(ObjectStore, "put", cut_off)
    with store.writer():
        (name,) = store.names("writers")
        failures = 1
        end = time.monotonic() + 30
        while failures < 4 and time.monotonic() < end:
            time.sleep(0.05)
        assert failures == 4
        assert store.names("writers") == [name]


# -------------------------------------------------------------------- a folder alone


def test_half_written_files_are_no_files(tmp_path: Path) -> None:
    store = storage.at(tmp_path / "ledger")
    store.put("scores/a", b"x")
    for name, age in ((".part-1.1-a.tmp", 7200), (".part-2.1-b.tmp", 0)):
        path = tmp_path / "ledger" / "scores" / name
        path.write_bytes(b"half")
        os.utime(path, (time.time() - age,) * 2)
    assert store.names("scores") == ["a"]
    assert store.leftovers("scores") == ["scores/.part-1.1-a.tmp"]


def test_brackets_that_hold_no_address_are_refused() -> None:
    with pytest.raises(BadInput, match="ledger: expected a folder"):
        object_store.address_of("s3://[bucket/prefix")
