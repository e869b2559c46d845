"""The ledger: what goes in comes out, once, whatever happens to its files and its writers."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule
from numpy.testing import assert_array_equal

from tests.support import ROOT
from tests.support.fake_trainer import CONTEXT, TASKS, value
from tests.support.ledgers import KEY, SUBSETS, plain, result, score_table, units
from tim_search.ledger import Ledger, LedgerError, LedgerWarning, upkeep
from tim_search.ledger import ledger as ledger_module
from tim_search.ledger.table import lay_out
from tim_search.types import Pack, PackResult, Score, Unit, failed

OTHER = replace(CONTEXT, settings='{"width":4}')
OLD = ROOT / "tests" / "data" / "ledger-without-footer"
DOCUMENT = ROOT / "docs" / "ledger.md"


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "runs" / "ledger")


def files(ledger: Ledger, kind: str = "scores") -> list[Path]:
    return sorted((ledger.path / kind).iterdir())


# -------------------------------------------------------------------- rows


def test_rows_come_back_as_they_went_in(ledger: Ledger) -> None:
    sent = [result(*units()[:6]), result(*units(seed=5)[30:34], diverge=(SUBSETS[31],))]
    ledger.append(sent, CONTEXT)
    frame = ledger.scores()
    scores = [score for pack_result in sent for score in pack_result.scores]
    assert len(frame) == len(scores)
    by_key = {(tuple(row.subset), row.seed, row.fold, row.task): row for row in frame.itertuples()}
    for score in scores:
        row = by_key[score.unit.subset, score.unit.seed, score.unit.fold, score.task]
        assert row.size == len(score.unit.subset)
        assert (row.part, row.metric, row.primary, row.status) == (
            score.part,
            score.metric,
            score.primary,
            score.status,
        )
        assert (row.error, row.seconds) == (score.error, score.seconds)
        assert list(row.replicates) == pytest.approx(score.replicates)
        assert row.score == score.value or (math.isnan(row.score) and score.status == "failed")
        assert (row.context, row.cohort, row.columns, row.split, row.network, row.settings) == (
            CONTEXT.key,
            "cohort0",
            "columns0",
            "split0",
            "fake",
            '{"width":3}',
        )
    assert set(frame["pack"]) == {pack_result.pack.id for pack_result in sent}
    assert (pd.Timestamp.now("UTC") - frame["created"]).max() < pd.Timedelta(minutes=1)

    weights = ledger.attention(CONTEXT.key)
    assert len(weights) == sum(len(pack_result.attention) for pack_result in sent)
    sums = weights.assign(subset=weights["subset"].map(tuple)).groupby(["subset", "seed", "task"])["weight"].sum()
    assert sums.tolist() == pytest.approx([1.0] * len(sums))


def test_pandas_alone_reads_it(ledger: Ledger) -> None:
    for seed in range(3):
        ledger.append(result(*units(seed)[:4]), CONTEXT if seed else OTHER)
    alone = pd.read_parquet(ledger.path / "scores")
    pd.testing.assert_frame_equal(plain(alone), plain(ledger.scores()), check_categorical=False)
    assert len(pd.read_parquet(ledger.path / "attention")) == len(ledger.attention())


@pytest.mark.parametrize("table", ["scores", "attention"])
def test_every_column_is_documented(ledger: Ledger, table: str) -> None:
    section = DOCUMENT.read_text(encoding="utf-8").split(f"`{table}/`: ")[1].split("\n## ")[0]
    documented = [line.split("`")[1] for line in section.splitlines() if line.startswith("| `")]
    assert documented == list(getattr(ledger, table)().columns)


def test_an_empty_ledger_has_every_column(ledger: Ledger) -> None:
    nothing, no_weights = ledger.scores(), ledger.attention("no such context")
    assert (len(nothing), len(no_weights), ledger.done(CONTEXT.key), ledger.check()) == (0, 0, set(), [])
    assert not ledger.path.exists()  # reading makes no folder
    ledger.append([], CONTEXT)
    ledger.compact()
    ledger.append(result(*units()[:2]), CONTEXT)
    assert ledger.scores().dtypes.to_dict().keys() == nothing.dtypes.to_dict().keys()
    empty = ledger.scores("no such context")
    assert [str(kind) for kind in empty.dtypes] == [str(kind) for kind in nothing.dtypes]
    assert [str(kind) for kind in ledger.scores().dtypes] == [str(kind) for kind in nothing.dtypes]


def test_rows_are_chosen_by_context_part_and_metric(ledger: Ledger) -> None:
    unit = Unit(("a", "c"), 0, -1)
    rows = (
        Score(unit, "a", "auroc", "validation", 0.7),
        Score(unit, "c", "silhouette", "validation", 0.3),
        Score(unit, "c", "effective_rank", "validation", 2.0, primary=False),
        Score(unit, "a", "auroc", "test", 0.6),
    )
    ledger.append(PackResult(Pack((unit,)), rows), CONTEXT)
    ledger.append(result(unit), OTHER)
    assert sorted(ledger.scores(CONTEXT.key)["score"]) == [0.3, 0.7]
    assert sorted(ledger.scores(CONTEXT.key, primary=False)["score"]) == [0.3, 0.7, 2.0]
    assert ledger.scores(CONTEXT.key, part="test")["score"].tolist() == [0.6]
    assert sorted(ledger.scores(CONTEXT.key, primary=False, part=None)["score"]) == [0.3, 0.6, 0.7, 2.0]
    assert len(ledger.scores()) == 4
    assert list(ledger.scores(CONTEXT.key, columns=["task", "score"]).columns) == ["task", "score"]


def test_units_are_done_once_answered_also_when_they_failed(ledger: Ledger) -> None:
    ledger.append(result(*units()[:4]), CONTEXT)
    ledger.append(failed(Pack((Unit(("a", "f"), 3, 2),)), "out of luck", TASKS), CONTEXT)
    ledger.append(result(*units()[4:6]), OTHER)
    assert ledger.done(CONTEXT.key) == {*units()[:4], Unit(("a", "f"), 3, 2)}
    assert ledger.done(OTHER.key) == set(units()[4:6])
    row = ledger.scores(CONTEXT.key).query("seed == 3").iloc[0]
    assert (row["status"], row["error"], math.isnan(row["score"])) == ("failed", "out of luck", True)


def test_the_first_answer_of_a_unit_wins_whole(ledger: Ledger) -> None:
    unit, mate = Unit(("a", "b"), 0, 0), Unit(("a", "d"), 0, 0)
    ledger.append(failed(Pack((unit,)), "lost", TASKS), CONTEXT)
    second = result(unit, mate)
    diagnostic = Score(unit, "a", "brier", "validation", 0.1, primary=False)
    ledger.append(replace(second, scores=(*second.scores, diagnostic)), CONTEXT)
    for _ in range(2):
        frame = ledger.scores(primary=False)
        assert not plain(frame).duplicated(KEY).any()
        of_unit = frame[frame["subset"].map(tuple) == unit.subset]
        assert (of_unit["status"] == "failed").all()  # no score and no diagnostic of the second answer is mixed in
        assert len(of_unit) == 2
        assert set(frame[frame["subset"].map(tuple) == mate.subset]["score"]) == {value(mate, "a"), value(mate, "d")}
        assert [finding.severity for finding in ledger.check()] in (["warning"], [])
        ledger.compact()
    assert ledger.check() == []  # the compaction kept the first answer alone


def test_a_clock_that_goes_back_changes_no_first_answer(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    unit = Unit(("a",), 0, 0)
    ledger.append(failed(Pack((unit,)), "first", TASKS), CONTEXT)

    class Yesterday(ledger_module.datetime):
        @classmethod
        def now(cls, tz: object = None) -> ledger_module.datetime:
            return super().now(tz) - ledger_module.timedelta(days=1)  # type: ignore[arg-type]

    monkeypatch.setattr(ledger_module, "datetime", Yesterday)
    ledger.append(result(unit), CONTEXT)
    assert ledger.scores()["error"].tolist() == ["first"]


# -------------------------------------------------------------------- runs of rows


def test_a_ledger_of_a_version_without_footers_is_read_and_continued(tmp_path: Path) -> None:
    """Files written before there were footers: two contexts, a merged file, failures, a unit answered twice."""
    shutil.copytree(OLD, tmp_path / "ledger")
    ledger = Ledger(tmp_path / "ledger")
    alone = plain(pd.read_parquet(OLD / "scores"))
    # The only unit that was answered twice failed the second time.
    alone = alone[alone["error"] != "late"]
    for _ in range(2):
        frame = plain(ledger.scores(primary=False, part=None))
        pd.testing.assert_frame_equal(frame, alone.reset_index(drop=True), check_categorical=False)
        pd.testing.assert_frame_equal(
            plain(ledger.attention()), plain(pd.read_parquet(OLD / "attention")), check_categorical=False
        )
        assert ledger.curves()["kind"].tolist() == ["roc"]
        assert ledger.done(CONTEXT.key) == {*units()[:6], *units()[20:26], Unit(("a", "b"), 0, -1)}
        assert ledger.done(OTHER.key) == {*units(1)[6:9], *units(5)[30:34]}
        ledger.compact()  # old files become one with a footer
    assert ledger.files() == 1
    ledger.append(result(*units()[6:9]), CONTEXT)
    assert len(ledger.done(CONTEXT.key)) == 16
    assert ledger.check() == []
    assert len(pd.read_parquet(ledger.path / "scores")) == len(ledger.scores(primary=False, part=None))


def test_the_lists_of_names_are_not_read(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are what takes the time of a large ledger; the footers say the same."""
    for seed in range(2):
        ledger.append(result(*units(seed)), CONTEXT)
    asked: list[str] = []
    read = pq.ParquetFile.read

    def watched(self: pq.ParquetFile, columns: list[str], **options: object) -> object:
        asked.extend(columns)
        return read(self, columns=columns, **options)

    monkeypatch.setattr(pq.ParquetFile, "read", watched)
    assert len(ledger.done(CONTEXT.key)) == 2 * len(SUBSETS)
    assert asked == []
    assert set(ledger.scores()["subset"].map(tuple)) == set(SUBSETS)
    ledger.compact()
    assert "subset" not in asked
    assert "score" in asked


def test_answers_lie_side_by_side_whatever_order_a_trainer_gives_them_in(ledger: Ledger) -> None:
    sent = result(*units()[6:30])
    mixed = replace(sent, scores=tuple(sorted(sent.scores, key=lambda score: (score.task, score.unit.subset[::-1]))))
    assert mixed.scores != sent.scores
    ledger.append(mixed, CONTEXT)
    rows = pd.read_parquet(files(ledger)[0])["subset"].map(tuple)
    assert (rows != rows.shift()).sum() == 24
    assert {(tuple(row.subset), row.task, row.score) for row in ledger.scores().itertuples()} == {
        (score.unit.subset, score.task, score.value) for score in sent.scores
    }


def test_a_footer_that_does_not_fit_its_rows_makes_a_file_unusable(ledger: Ledger) -> None:
    """The hash of a file finds accidents; this is a program that writes footers of its own."""
    ledger.append(result(*units()[:3]), CONTEXT)
    (path,) = files(ledger)
    table, found = pq.read_table(path), pq.read_metadata(path)
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, table.schema) as writer:
        writer.write_table(table.slice(1))
        writer.add_key_value_metadata({b"tim_search.runs": found.metadata[b"tim_search.runs"]})
    content = sink.getvalue().to_pybytes()
    path.unlink()
    name = f"part-{hashlib.sha256(content).hexdigest()[:32]}.parquet"
    (path.parent / name).write_bytes(content)
    with pytest.warns(LedgerWarning, match="its footer does not fit its rows"):
        assert ledger.done(CONTEXT.key) == set()


def test_what_is_lacking_is_what_is_not_done(ledger: Ledger) -> None:
    stranger = Unit(("a", "no such task"), 0, 0)
    asked = [*units()[:9], stranger, units()[3], *units(1)[:2], stranger]
    lacking, held = ledger.lacking(CONTEXT.key, asked)
    assert (list(lacking), held) == ([*units()[:9], stranger, *units(1)[:2]], 0)
    lacking, held = ledger.lacking(CONTEXT.key, [])
    assert (list(lacking), held) == ([], 0)
    ledger.append(result(*units()[2:6]), CONTEXT)
    ledger.append([result(*units()[:1]), result(*units(1)[:1])], OTHER)
    lacking, held = ledger.lacking(CONTEXT.key, asked)
    assert list(lacking) == [*units()[:2], *units()[6:9], stranger, *units(1)[:2]]
    assert held == 4
    assert ledger.lacking(OTHER.key, asked)[1] == 2


def test_a_sheet_holds_what_the_frame_holds(ledger: Ledger) -> None:
    ledger.append([result(*units()), result(*units(1)[3:20], diverge=(SUBSETS[9],))], CONTEXT)
    unit = Unit(("b", "x"), 4, 1)
    rows = (
        Score(unit, "b", "auroc", "validation", 0.7, replicates=(0.5, 0.25)),
        Score(unit, "x", "auroc", "validation", 0.6),
    )
    ledger.append(PackResult(Pack((unit,)), rows), CONTEXT)
    for tasks in ("abcdef", "fbx", ("nothing",)):
        frame = score_table(ledger.scores(CONTEXT.key), tuple(tasks), replicates=True)
        sheet = lay_out(ledger.sheet(CONTEXT.key, replicates=True), tuple(tasks))
        assert sheet.blocks == frame.blocks
        for name in ("membership", "scores", "trained", "replicates"):
            assert_array_equal(getattr(sheet, name), getattr(frame, name))
    assert lay_out(ledger.sheet("no such context"), ("a",)).scores.shape == (0, 0, 1)


# -------------------------------------------------------------------- files that are not right


def damage(kind: str, ledger: Ledger) -> Path:
    """Make one file of the scores unusable, in one way; returns the culprit."""
    part = files(ledger)[0]
    content = part.read_bytes()
    if kind == "truncated":
        part.write_bytes(content[: len(content) // 2])
    elif kind == "emptied":
        part.write_bytes(b"")
    elif kind == "altered":
        part.write_bytes(content[:200] + bytes([content[200] ^ 1]) + content[201:])
    elif kind == "renamed":
        part = part.rename(part.with_name(f"part-{'0' * 32}.parquet"))
    elif kind == "foreign text":
        part.unlink()
        part = part.with_name("notes.txt")
        part.write_text("mine")
    elif kind == "foreign table":
        part.unlink()
        part = part.with_name("mine.parquet")
        pd.DataFrame({"x": [1]}).to_parquet(part)
    elif kind == "foreign table under a good name":
        part.unlink()
        aside = part.with_name(".aside")
        pd.DataFrame({"x": [1]}).to_parquet(aside)
        name = hashlib.sha256(aside.read_bytes()).hexdigest()[:32]
        part = aside.rename(part.with_name(f"part-{name}.parquet"))
    elif kind == "folder":
        part.unlink()
        part.mkdir()
    return part


KINDS = [
    "truncated",
    "emptied",
    "altered",
    "renamed",
    "foreign text",
    "foreign table",
    "foreign table under a good name",
    "folder",
]


@pytest.mark.parametrize("kind", KINDS)
def test_unusable_files_are_left_out_by_readers_and_set_aside_by_the_writer(ledger: Ledger, kind: str) -> None:
    ledger.append(result(*units()[:3]), CONTEXT)
    ledger.append(result(*units()[3:6]), CONTEXT)
    lost = pd.read_parquet(files(ledger)[0])["subset"].map(tuple)
    culprit = damage(kind, ledger)
    left = {unit for unit in units()[:6] if unit.subset not in set(lost)}

    before = files(ledger)
    with pytest.warns(LedgerWarning, match=culprit.name):
        assert set(ledger.scores()["subset"].map(tuple)) == {unit.subset for unit in left}
    with pytest.warns(LedgerWarning, match=culprit.name):
        assert ledger.done(CONTEXT.key) == left
    assert files(ledger) == before
    assert [(finding.place, finding.severity) for finding in ledger.check()] == [(str(culprit), "error")]

    with pytest.warns(LedgerWarning, match="set-aside"), ledger.writer_lock():
        ledger.append(result(*(set(units()[:6]) - left)), CONTEXT)
    assert [path.name for path in (ledger.path / "set-aside").iterdir()] == [culprit.name]
    assert len(pd.read_parquet(ledger.path / "scores")) == len(ledger.scores())
    assert ledger.done(CONTEXT.key) == set(units()[:6])
    assert [finding.severity for finding in ledger.check()] == ["warning"]  # what was set aside is mentioned


def test_files_of_one_name_are_set_aside_side_by_side(ledger: Ledger) -> None:
    for _ in range(2):
        ledger.append(result(*units()[:3]), CONTEXT)
        (ledger.path / "scores" / "notes.txt").write_text("mine")
        with pytest.warns(LedgerWarning), ledger.writer_lock():
            pass
    assert len(list((ledger.path / "set-aside").iterdir())) == 2


@pytest.mark.parametrize("where", [0.1, 0.3, 0.52, 0.6, 0.9, 0.999])
def test_one_altered_byte_anywhere_is_found_also_in_a_file_that_was_read_before(ledger: Ledger, where: float) -> None:
    ledger.append(result(*units()), CONTEXT)
    assert len(ledger.scores()) == sum(map(len, SUBSETS))
    (part,) = files(ledger)
    content = bytearray(part.read_bytes())
    content[int(len(content) * where)] ^= 1
    part.write_bytes(bytes(content))
    with pytest.warns(LedgerWarning, match="its bytes do not match its name"):
        assert len(ledger.scores(columns=["task"])) == 0
    assert [finding.severity for finding in ledger.check()] == ["error"]


def test_what_a_dead_writer_left_is_not_read_and_is_cleared_away_later(ledger: Ledger) -> None:
    ledger.append(result(*units()[:3]), CONTEXT)
    left, fresh = (ledger.path / "scores" / name for name in (".part-1.parquet.1-a.tmp", ".part-2.parquet.2-b.tmp"))
    for path in (left, fresh):
        path.write_bytes(b"PAR1 half a file")
    os.utime(left, (time.time() - 7200,) * 2)
    assert ledger.done(CONTEXT.key) == set(units()[:3])
    assert len(pd.read_parquet(ledger.path / "scores")) == len(ledger.scores())
    assert [(finding.place, finding.severity) for finding in ledger.check()] == [(str(left), "warning")]
    with ledger.writer_lock():
        assert not left.exists()
        assert fresh.exists()  # another writer may be about to rename it


# -------------------------------------------------------------------- compaction


def test_compaction_keeps_every_row_and_later_ones_join(ledger: Ledger) -> None:
    for seed in range(6):
        ledger.append(result(*units(seed)[:9]), CONTEXT if seed % 2 else OTHER)
    before, weights = plain(ledger.scores()), plain(ledger.attention())
    ledger.compact()
    assert [path.name[:8] for path in files(ledger)] == ["compact-"]
    assert [path.name[:8] for path in files(ledger, "attention")] == ["compact-"]
    pd.testing.assert_frame_equal(plain(ledger.scores()), before, check_categorical=False)
    pd.testing.assert_frame_equal(plain(ledger.attention()), weights, check_categorical=False)
    assert len(pd.read_parquet(ledger.path / "scores")) == len(before)
    names = files(ledger)
    ledger.compact()
    assert files(ledger) == names  # nothing to merge
    ledger.append(result(*units(9)[:2]), CONTEXT)
    ledger.compact()
    assert set(names) < set(files(ledger))  # one small file is no reason to rewrite a large one
    for seed in range(10, 20):
        ledger.append(result(*units(seed)[:9]), CONTEXT)
    ledger.compact()
    assert ledger.files() == 1
    assert ledger.done(CONTEXT.key) | ledger.done(OTHER.key) == {
        Unit(members, seed, 0)
        for seed, count in [*((seed, 9) for seed in (*range(6), *range(10, 20))), (9, 2)]
        for members in SUBSETS[:count]
    }


def test_a_large_merged_file_is_left_as_it_is(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep, "FULL", 30)
    full: set[Path] = set()
    for seed in range(12):
        ledger.append(result(*units(seed)[:9]), CONTEXT)
        ledger.compact()
        kept = set(files(ledger))
        assert full <= kept
        full |= {path for path in kept if len(pd.read_parquet(path)) >= 30}
    assert len(full) > 1
    assert ledger.done(CONTEXT.key) == {Unit(members, seed, 0) for seed in range(12) for members in SUBSETS[:9]}


@pytest.mark.parametrize("back", [1, 3, 5])
def test_a_compaction_that_was_killed_is_finished_by_the_next(ledger: Ledger, back: int) -> None:
    for seed in range(5):
        ledger.append(result(*units(seed)[:5]), CONTEXT)
    parts = {path: path.read_bytes() for path in files(ledger)}
    before = plain(ledger.scores())
    ledger.compact()
    for path in list(parts)[:back]:  # as if it had been killed before it came to delete these
        path.write_bytes(parts[path])
    pd.testing.assert_frame_equal(plain(ledger.scores()), before, check_categorical=False)
    assert ledger.check() == []
    ledger.compact()
    ledger.append(result(*units(9)[:5]), CONTEXT)
    ledger.append(result(*units(10)[:50]), CONTEXT)
    ledger.compact()
    assert ledger.files() == 1
    assert len(ledger.done(CONTEXT.key)) == 5 * 5 + 5 + len(SUBSETS)


WRITER = """
import sys
sys.path.insert(0, {tests!r})
from tests.support.fake_trainer import CONTEXT
from tests.support.ledgers import KEY, SUBSETS, plain, result, units
from tests.support.ledgers import result, units
from tim_search.ledger import Ledger
ledger = Ledger({path!r})
with ledger.writer_lock():
    print("ready", flush=True)
    for seed in range(1_000_000):
        ledger.append(result(*units(seed)[:4]), CONTEXT)
        print(seed, flush=True)
        if seed % 9 == 8:
            ledger.compact()
"""


def start_writer(path: Path) -> subprocess.Popen[str]:
    code = WRITER.format(tests=str(ROOT), path=str(path))
    writer = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    assert writer.stdout.readline() == "ready\n"
    return writer


def test_a_reader_never_sees_fewer_rows_while_another_process_writes_and_compacts(ledger: Ledger) -> None:
    writer = start_writer(ledger.path)
    try:
        seen: set[Unit] = set()
        end = time.monotonic() + 1.5
        readings = 0
        while time.monotonic() < end:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                now = ledger.done(CONTEXT.key)
            assert seen <= now
            assert len(now) % 4 == 0  # a commit is seen whole
            seen = now
            readings += 1
        assert readings > 5
        assert len(seen) > 40
    finally:
        writer.kill()
        writer.wait()


@pytest.mark.parametrize("after", [0, 8, 23])
def test_what_was_appended_survives_a_kill_of_its_writer_at_once(ledger: Ledger, after: int) -> None:
    writer = start_writer(ledger.path)
    assert writer.stdout is not None
    for line in writer.stdout:
        if int(line) == after:
            break
    writer.send_signal(signal.SIGKILL)
    told = [after, *(int(line) for line in writer.stdout if line.endswith("\n"))]
    writer.wait()
    done = ledger.done(CONTEXT.key)
    assert {Unit(members, seed, 0) for seed in range(max(told) + 1) for members in SUBSETS[:4]} <= done
    assert len(done) <= (max(told) + 2) * 4
    with ledger.writer_lock():  # the dead writer's lock is free
        ledger.compact()
    assert ledger.done(CONTEXT.key) == done
    assert ledger.check() == []


# -------------------------------------------------------------------- one writer


def test_a_second_driver_is_told_who_holds_the_ledger(ledger: Ledger) -> None:
    writer = start_writer(ledger.path)
    try:
        with pytest.raises(LedgerError, match=f"process {writer.pid} on .* since 20.*one driver"), ledger.writer_lock():
            pass
        assert isinstance(ledger.done(CONTEXT.key), set)  # reading goes on
    finally:
        writer.kill()
        writer.wait()
    with ledger.writer_lock():
        assert json.loads((ledger.path / "writer.lock").read_text())["pid"] == os.getpid()
        with pytest.raises(LedgerError, match=f"process {os.getpid()} "), Ledger(ledger.path).writer_lock():
            pass
    with ledger.writer_lock():
        pass
    assert (ledger.path / "writer.lock").read_text() == ""


def test_two_writers_past_the_lock_lose_nothing(ledger: Ledger) -> None:
    writers = [Ledger(ledger.path), Ledger(ledger.path)]
    for seed in range(4):
        for writer in writers:
            writer.append(result(*units(seed)[:5]), CONTEXT)
            writer.append(result(*units(seed + (10 if writer is writers[0] else 20))[:5]), CONTEXT)
        writers[seed % 2].compact()
    expected = {
        Unit(members, seed, 0) for seed in (0, 1, 2, 3, 10, 11, 12, 13, 20, 21, 22, 23) for members in SUBSETS[:5]
    }
    assert ledger.done(CONTEXT.key) == expected
    assert len(ledger.scores()) == len(expected)  # the first five subsets are single tasks: one row each


# -------------------------------------------------------------------- folders that cannot be used


def test_a_file_in_the_folders_place_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "ledger").write_text("a file")
    ledger = Ledger(tmp_path / "ledger")
    for use in (lambda: ledger.append(result(*units()[:1]), CONTEXT), ledger.scores, ledger.writer_lock().__enter__):
        with pytest.raises(LedgerError, match="A file stands where a folder is expected"):
            use()


@pytest.fixture
def closed() -> Iterator[Path]:
    """A folder that may be read and not written, also where the tests run as root, whom no permission holds back."""
    folder = Path(tempfile.mkdtemp())
    root = os.geteuid() == 0
    try:
        Ledger(folder / "ledger").append(result(*units()[:5]), CONTEXT)
        for path in (folder / "ledger" / "scores", folder / "ledger" / "attention", folder / "ledger", folder):
            path.chmod(0o555)
        if root:
            os.seteuid(65534)
        yield folder
    finally:
        if root:
            os.seteuid(0)
        for path in (folder, *folder.rglob("*")):
            path.chmod(0o755)
        shutil.rmtree(folder)


def test_a_read_only_ledger_is_read_and_writing_it_says_what_to_do(closed: Path) -> None:
    ledger = Ledger(closed / "ledger")
    assert ledger.done(CONTEXT.key) == set(units()[:5])
    assert ledger.check() == []
    for use in (lambda: ledger.append(result(*units()[5:7]), CONTEXT), ledger.writer_lock().__enter__):
        with pytest.raises(LedgerError, match="Permission is denied: name a folder you may use"):
            use()
    with pytest.raises(LedgerError, match="Permission is denied"):
        Ledger(closed / "new" / "ledger").append(result(*units()[:1]), CONTEXT)
    assert ledger.done(CONTEXT.key) == set(units()[:5])


@pytest.mark.parametrize("use", ["append(result(*units(1)), CONTEXT)", "compact()", "absorb(Ledger(sys.argv[1]))"])
def test_no_room_on_the_disk_is_said_so_and_harms_nothing(ledger: Ledger, tmp_path: Path, use: str) -> None:
    """A limit of file size stands for a full disk: the kernel refuses a write half-way in either case."""
    for number in range(5):
        ledger.append(result(*units()[number : number + 1]), CONTEXT)
    other = Ledger(tmp_path / "other")
    other.append(result(*units(1)), CONTEXT)
    code = f"""
import resource, signal, sys
sys.path.insert(0, {str(ROOT)!r})
from tests.support.fake_trainer import CONTEXT
from tests.support.ledgers import KEY, SUBSETS, plain, result, units
from tests.support.ledgers import result, units
from tim_search.ledger import Ledger, LedgerError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
try:
    Ledger({str(ledger.path)!r}).{use}
except LedgerError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code, str(other.path)], capture_output=True, text=True)
    assert "the ledger cannot be used" in done.stdout, done.stderr
    assert "run the same command again" in done.stdout
    assert ledger.done(CONTEXT.key) == set(units()[:5])
    assert not list(ledger.path.rglob(".*"))  # nothing half-written is left behind
    assert ledger.check() == []


def test_a_unit_that_counts_as_done_has_its_attention(ledger: Ledger) -> None:
    ledger.append(result(*units()[:3]), CONTEXT)
    shutil.rmtree(ledger.path / "scores")
    (ledger.path / "scores").write_text("no room for scores")
    with pytest.raises(LedgerError):
        ledger.append(result(*units()[3:6]), CONTEXT)
    assert len(files(ledger, "attention")) == 2  # written before the scores were tried


# -------------------------------------------------------------------- against a model in memory


@settings(max_examples=15, stateful_step_count=12, deadline=None, suppress_health_check=list(HealthCheck))
class AgainstAModel(RuleBasedStateMachine):
    """Any order of commits, compactions, interrupted compactions and damage leaves what a dictionary would hold."""

    deleted = Bundle("deleted")

    @initialize(target=deleted)
    def start(self) -> dict[Path, bytes]:
        self.folder = Path(tempfile.mkdtemp())
        self.ledger = Ledger(self.folder / "ledger")
        self.model: dict[tuple[str, Unit], str] = {}
        return {}

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            shutil.rmtree(self.folder)

    @rule(
        wanted=st.lists(st.sampled_from(SUBSETS[:12]), min_size=1, max_size=5, unique=True),
        seed=st.integers(0, 1),
        fails=st.booleans(),
        other=st.booleans(),
    )
    def append(self, wanted: list[tuple[str, ...]], seed: int, fails: bool, other: bool) -> None:
        context = OTHER if other else CONTEXT
        pack = Pack(tuple(Unit(members, seed, 0) for members in wanted))
        sent = failed(pack, "no", TASKS) if fails else result(*pack.units)
        self.ledger.append(sent, context)
        for score in sent.scores:
            self.model.setdefault((context.key, score.unit), "failed" if fails else "ok")

    @rule(target=deleted)
    def compact(self) -> dict[Path, bytes]:
        before = {path: path.read_bytes() for path in self.ledger.path.glob("*/*.parquet")}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", LedgerWarning)
            self.ledger.compact()
        return {path: content for path, content in before.items() if not path.exists()}

    @rule(gone=deleted, keep=st.integers(0, 3))
    def kill_the_compaction_before_it_deleted_everything(self, gone: dict[Path, bytes], keep: int) -> None:
        for path in list(gone)[:keep]:
            path.write_bytes(gone[path])

    @rule(content=st.binary(max_size=30))
    def tear(self, content: bytes) -> None:
        if (self.ledger.path / "scores").is_dir():
            (self.ledger.path / "scores" / f"part-{'f' * 32}.parquet").write_bytes(content)

    @rule()
    def restart(self) -> None:
        self.ledger = Ledger(self.ledger.path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", LedgerWarning)
            with self.ledger.writer_lock():
                pass

    @invariant()
    def holds_what_the_model_holds(self) -> None:
        if not hasattr(self, "ledger"):
            return
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", LedgerWarning)
            frame = self.ledger.scores()
            for context in (CONTEXT, OTHER):
                assert self.ledger.done(context.key) == {unit for key, unit in self.model if key == context.key}
        assert not plain(frame).duplicated(KEY).any()
        assert len(frame) == sum(len(unit.subset) for _, unit in self.model)
        for row in frame.itertuples():
            unit = Unit(tuple(row.subset), row.seed, row.fold)
            assert row.status == self.model[row.context, unit]


TestAgainstAModel = AgainstAModel.TestCase


def test_progress_and_reasons_are_those_of_the_rows(ledger: Ledger) -> None:
    blocks = [(0, 0), (1, 0)]
    assert ledger.progress(CONTEXT.key, "abcdef", blocks) == (0, 0, 0.0, None)
    assert ledger.failures(CONTEXT.key) == {}
    ledger.append([result(*units()), result(*units(1)[3:20], diverge=(SUBSETS[9], SUBSETS[12]))], CONTEXT)
    ledger.append(result(*units(2)[:4]), CONTEXT)
    ledger.append(result(*units()[:5], diverge=(SUBSETS[1],)), OTHER)
    ledger.append(result(*units()[:2], diverge=(SUBSETS[1],)), CONTEXT)  # answered before: does not count
    rows = ledger.scores(CONTEXT.key)
    first = plain(rows).drop_duplicates(["subset", "seed", "fold"])
    held = ledger.progress(CONTEXT.key, "abcdef", blocks)
    assert held.trained == len(SUBSETS) + 17
    assert held.failed == 2
    assert held.seconds == pytest.approx(first["seconds"].sum())
    assert held.latest == rows["created"].max()
    few = ledger.progress(CONTEXT.key, "abc", blocks)
    assert few.trained == sum(set(members) <= set("abc") for members in SUBSETS + SUBSETS[3:20])
    assert sum(ledger.failures(CONTEXT.key).values()) == 2
    assert ledger.contexts() == {CONTEXT.key: CONTEXT, OTHER.key: OTHER}


def test_progress_of_a_ledger_without_footers(tmp_path: Path) -> None:
    shutil.copytree(OLD, tmp_path / "old")
    old = Ledger(tmp_path / "old")
    for context in old.contexts():
        rows = old.scores(context)
        pairs = set(zip(rows["seed"], rows["fold"], strict=True))
        held = old.progress(context, set(rows["task"]), pairs)
        units = ["subset", "seed", "fold"]
        assert held.trained == len(plain(rows).drop_duplicates(units))
        assert held.failed == len(plain(rows[rows["status"] == "failed"]).drop_duplicates(units))
