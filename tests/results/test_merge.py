"""Ledgers of several sites into one: every score once, the sources untouched, and reasons where they do not fit."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.fake_trainer import CONTEXT, TASKS
from tests.support.ledgers import MANIFEST, PAIRS, SUBSETS, Crash, Mortal, result, site
from tim_search.ledger import Ledger, LedgerWarning, storage
from tim_search.loop.manifest import Manifest
from tim_search.results import opened
from tim_search.results.merge import differences, merge
from tim_search.types import BadInput, Context, Pack, Task, Unit, failed

OTHER = replace(CONTEXT, cohort="cohort1", settings='{"width":4}')


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_two_ledgers_become_one(tmp_path: Path, bucket: str) -> None:
    one = site(str(tmp_path / "one"), SUBSETS[:10])
    two = site(f"{bucket}/two", SUBSETS[6:20])
    two.compact()
    before = contents(tmp_path / "one")
    merged = merge([one.place, two.place], str(tmp_path / "both"))
    assert merged.ledger.done(CONTEXT.key) == {Unit(members, 0, 0) for members in SUBSETS[:20]}
    assert (merged.units, merged.total) == ({one.place: 10, two.place: 14}, 20)
    assert not merged.search
    assert len(merged.ledger.scores()) == sum(map(len, SUBSETS[:20]))
    assert len(merged.ledger.attention()) == sum(len(members) ** 2 for members in SUBSETS[:20])
    assert merged.ledger.files() == 1
    assert contents(tmp_path / "one") == before
    # Once more, with what the first site has trained since, and into a bucket.
    site(one.place, SUBSETS[20:22])
    again = merge([one.place, two.place], str(tmp_path / "both"))
    assert again.total == 22
    assert merge([one.place, two.place], f"{bucket}/both").total == 22


def test_the_first_answer_counts_wherever_it_was_given(tmp_path: Path) -> None:
    unit = Unit(("a", "b"), 0, 0)
    early, late = Ledger(tmp_path / "early"), Ledger(tmp_path / "late")
    early.append(failed(Pack((unit,)), "lost", TASKS), CONTEXT)
    late.append(result(unit), CONTEXT)
    merged = merge([late.place, early.place], str(tmp_path / "both"))
    assert merged.ledger.scores()["error"].tolist() == ["lost", "lost"]


@pytest.mark.parametrize("step", range(7))
def test_a_merge_that_was_killed_is_finished_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    one, two = site(str(tmp_path / "one"), SUBSETS[:8]), site(str(tmp_path / "two"), SUBSETS[8:12])
    target = Mortal(storage.at(tmp_path / "both"))
    target.left = step
    at = storage.at
    with monkeypatch.context() as patch:
        patch.setattr(storage, "at", lambda place: target if str(place).endswith("both") else at(place))
        with pytest.raises(Crash):
            merge([one.place, two.place], str(tmp_path / "both"))
    merged = merge([one.place, two.place], str(tmp_path / "both"))
    assert merged.total == 12
    assert len(merged.ledger.attention()) == sum(len(members) ** 2 for members in SUBSETS[:12])
    assert merged.ledger.check() == []


def test_files_that_cannot_be_used_are_left_behind(tmp_path: Path) -> None:
    one, two = site(str(tmp_path / "one"), SUBSETS[:8]), site(str(tmp_path / "two"), SUBSETS[8:12])
    (tmp_path / "one" / "scores" / "notes.txt").write_text("mine")
    with pytest.warns(LedgerWarning, match=r"one/scores/notes.txt: it is not a file of this ledger"):
        merged = merge([one.place, two.place], str(tmp_path / "both"))
    assert merged.total == 12
    assert merged.ledger.check() == []


def test_search_folders_become_a_search_folder(tmp_path: Path) -> None:
    places = []
    for seed in range(2):
        folder = tmp_path / f"site{seed}"
        site(str(folder / "ledger"), PAIRS, seed)
        replace(MANIFEST, blocks=((seed, 0),)).write(folder)
        places.append(str(folder))
    merged = merge(places, str(tmp_path / "both"))
    assert merged.search
    results = opened.open_search(tmp_path / "both")
    assert results.manifest.blocks == ((0, 0), (1, 0))
    assert results.manifest.planned_units == 2 * len(PAIRS)
    assert results.status()["finished"]
    assert results.tim().label.startswith("restricted")
    assert merge(places, str(tmp_path / "both")).total == merged.total == 2 * len(PAIRS)


def test_searches_that_share_a_ledger_become_one(tmp_path: Path) -> None:
    for seed in range(2):
        site(str(tmp_path / "shared"), PAIRS, seed)
        replace(MANIFEST, blocks=((seed, 0),), ledger=str(tmp_path / "shared")).write(tmp_path / f"site{seed}")
    merged = merge([str(tmp_path / "site0"), str(tmp_path / "site1")], str(tmp_path / "both"))
    assert merged.total == 2 * len(PAIRS)
    assert opened.open_search(tmp_path / "both").manifest.blocks == ((0, 0), (1, 0))


def test_ledgers_that_do_not_fit_are_refused_with_the_reasons(tmp_path: Path) -> None:
    one, two = site(str(tmp_path / "one"), SUBSETS[:4]), site(str(tmp_path / "two"), SUBSETS[:4], context=OTHER)
    with pytest.raises(BadInput, match=r"the cohort's content; .*settings \(width 3 and 4\)"):
        merge([one.place, two.place], str(tmp_path / "both"))
    site(two.place, SUBSETS[:4])  # now they share one of their contexts
    assert merge([one.place, two.place], str(tmp_path / "both")).total == 4


def test_other_merges_that_cannot_be(tmp_path: Path, bucket: str) -> None:
    one = site(str(tmp_path / "one"), SUBSETS[:4])
    two = site(str(tmp_path / "two" / "ledger"), PAIRS)
    MANIFEST.write(tmp_path / "two")
    three = replace(MANIFEST, tasks=MANIFEST.tasks[:5])
    site(str(tmp_path / "three" / "ledger"), PAIRS)
    three.write(tmp_path / "three")
    for sources, out, words in [
        ([one.place], "out", "at least two"),
        ([one.place, str(tmp_path / "nothing")], "out", "there is neither"),
        ([one.place, f"{bucket}/nothing"], "out", "there is neither"),
        ([one.place, two.place], "one", "is one of the sources"),
        ([one.place, two.place, f"{one.place}/"], "out", "named twice"),
        ([str(tmp_path / "two"), str(tmp_path / "three")], "out", r"search different tasks \(f\)"),
        ([str(tmp_path / "two"), one.place], "three", "holds another search"),
    ]:
        with pytest.raises(BadInput, match=words):
            merge(sources, str(tmp_path / out))
    with pytest.raises(BadInput, match="expected a folder for the merged search"):
        merge([str(tmp_path / "two"), one.place], f"{bucket}/out")
    assert not (tmp_path / "out").exists()


def test_differences_name_every_part() -> None:
    changed = Context("x", "x", "x", "x", json.dumps({"width": 3, "depth": 2}))
    assert differences(CONTEXT, CONTEXT) == []
    assert len(differences(CONTEXT, changed)) == 5
    assert differences(CONTEXT, changed)[-1].endswith("(depth null and 2)")
    assert differences(CONTEXT, replace(CONTEXT, settings="no JSON")) == ["the network's and the training's settings"]


@pytest.mark.parametrize("out", ["a", "a/ledger", "a/ledger/deeper", "link", "link/ledger"])
def test_no_merge_writes_into_a_source(tmp_path: Path, out: str) -> None:
    """Also not below a source, nor through a link: the sources stay as they are."""
    for seed, name in enumerate("ab"):
        site(str(tmp_path / name / "ledger"), PAIRS[:3], seed)
        replace(MANIFEST, blocks=((seed, 0),)).write(tmp_path / name)
    (tmp_path / "link").symlink_to(tmp_path / "a")
    before = sorted(str(path) for path in tmp_path.rglob("*"))
    with pytest.raises(BadInput, match="one of the sources, or lies inside of one"):
        merge([str(tmp_path / "a"), str(tmp_path / "b")], str(tmp_path / out))
    with pytest.raises(BadInput, match="one of the sources, or lies inside of one"):
        merge([str(tmp_path / "a" / "ledger"), str(tmp_path / "b" / "ledger")], str(tmp_path / "a" / "ledger" / "x"))
    assert sorted(str(path) for path in tmp_path.rglob("*")) == before


def test_a_ledger_without_a_score_is_not_merged(tmp_path: Path) -> None:
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
    for name in ("a", "b"):
        manifest.write(tmp_path / name)
    with pytest.raises(BadInput, match="holds no scores yet"):
        merge([str(tmp_path / "a"), str(tmp_path / "b")], str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()
