"""Ledgers of several sites into one: the files are copied as they are, so nothing is lost and nothing is counted twice.

Scores compare within one context only. Ledgers that share none are refused, with the parts in which they differ.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from tim_search.gates.files import write_durably
from tim_search.gates.plain import read_object
from tim_search.ledger import storage
from tim_search.ledger.ledger import Ledger
from tim_search.loop.manifest import Manifest
from tim_search.plans import from_design as plans
from tim_search.results.opened import small_cells_of
from tim_search.types import BadInput, Context, Unit, canonical, control

_WORDS: Mapping[str, str] = {
    "cohort": "the cohort's content",
    "columns": "the input columns (tasks exclude columns, so other tasks may mean other columns)",
    "split": "the split",
    "network": "the network",
    "settings": "the network's and the training's settings",
}


@dataclass(frozen=True)
class Merged:
    """What a merge did.

    Attributes:
        place: of the merged search folder, or of the ledger where the sources were ledgers alone.
        ledger: the merged ledger.
        units: by source, the units it holds in the contexts that all sources share.
        total: units that the merged ledger holds in these contexts.
        files: files that were copied; those that were there already are none of them.
        search: whether a search folder was written, which `tim-search tim` and the like read.
    """

    place: str
    ledger: Ledger
    units: Mapping[str, int]
    total: int
    files: int
    search: bool


def merge(sources: Sequence[str], out: str) -> Merged:
    """Merge search folders and ledgers (folders or URLs) into one.

    A unit that several sources answered keeps its first answer. A merge that was cut short is finished by the same
    call. Where sources are search folders, `out` becomes one too, with the blocks of all of them, and with the cohort's
    record of the one that hides most (`small_cells`).

    Raises:
        BadInput: for fewer than two sources, one named twice, a source that is no ledger, ledgers without a common
            context, searches of different tasks, and an `out` that is one of the sources or holds something else.
        LedgerError: when a ledger cannot be read or written.
    """
    if len(sources) < 2:
        raise BadInput(f"merge: expected at least two ledgers or search folders, got {len(sources)}. Name them all.")
    opened = [_open(source) for source in sources]
    ledgers = [ledger for ledger, _ in opened]
    manifests = {source: manifest for source, (_, manifest) in zip(sources, opened, strict=True) if manifest}
    manifest = _manifest(manifests)
    if manifest is not None and storage.is_url(out):
        raise BadInput(f"merge: expected a folder for the merged search, got {out}. Name one with --out.")
    target = Ledger(out if manifest is None else Path(out) / "ledger")
    _check_apart(out, target, [*sources, *(ledger.place for ledger in ledgers)])
    # Two searches may share a ledger: it is the sources themselves that have to differ.
    places = [source.rstrip("/") if storage.is_url(source) else str(Path(source).resolve()) for source in sources]
    if twice := [source for source, place in zip(sources, places, strict=True) if places.count(place) > 1]:
        raise BadInput(f"merge: expected different sources, got one named twice: {', '.join(twice)}. Name each once.")
    if manifest is not None:
        _check_free(Path(out), manifest)
    shared = _shared(sources, ledgers)
    units = {source: len(_units(ledger, shared)) for source, ledger in zip(sources, ledgers, strict=True)}
    with target.writer_lock():
        files = sum(target.absorb(ledger) for ledger in ledgers)
        target.compact()
    if manifest is not None:
        manifest.write(out)
        _keep_record([Path(source) for source in manifests], Path(out))
    return Merged(out, target, units, len(_units(target, shared)), files, manifest is not None)


def _check_apart(out: str, target: Ledger, sources: Iterable[str]) -> None:
    """Raise BadInput where the merge would write into a source, or hold one: sources stay as they are."""
    for written in {out, target.place}:
        for source in sources:
            inner, outer = _steps(written), _steps(source)
            if inner[: len(outer)] == outer:
                raise BadInput(
                    f"merge: {out} is one of the sources, or lies inside of one ({source}), and they stay as they are. "
                    "Name another place with --out."
                )


def _steps(place: str) -> tuple[str, ...]:
    """The folders on the way to a place, links followed."""
    return tuple(place.rstrip("/").split("/")) if storage.is_url(place) else Path(place).resolve().parts


def differences(
    ours: Context, theirs: Context, our_control: str | None = None, their_control: str | None = None
) -> list[str]:
    """In words, what differs between two contexts; of their settings, which.

    With the names of their searches' negative controls, a cohort that a control has joined is told as no other cohort.
    """
    words = []
    joined = control.joined_only_one(ours, theirs, our_control, their_control)
    for item in fields(Context):
        a, b = getattr(ours, item.name), getattr(theirs, item.name)
        if a == b:
            continue
        if item.name == "cohort" and joined:
            words.append(f"the negative control {our_control or their_control}, which only one of them has")
        elif item.name == "settings" and (named := _settings(a, b)):
            words.append(f"{_WORDS['settings']} ({named})")
        elif item.name == "network":
            words.append(f"the network ({a} and {b})")
        else:
            words.append(_WORDS[item.name])
    return words


def _settings(ours: str, theirs: str) -> str:
    try:
        a, b = json.loads(ours), json.loads(theirs)
        return ", ".join(
            f"{key} {json.dumps(a.get(key))} and {json.dumps(b.get(key))}"
            for key in sorted({*a, *b})
            if a.get(key) != b.get(key)
        )
    except (ValueError, TypeError, AttributeError):
        return ""


def _open(source: str) -> tuple[Ledger, Manifest | None]:
    if not storage.is_url(source) and (Path(source) / "search.json").exists():
        manifest = Manifest.read(source)
        return manifest.open_ledger(source), manifest
    ledger = Ledger(source)
    if not ledger.files():
        raise BadInput(
            f"{source}: expected a search folder (with search.json) or a ledger (with scores/), and there is neither. "
            "Name the folder that was given as --out, or the ledger's own place."
        )
    return ledger, None


def _shared(sources: Sequence[str], ledgers: Sequence[Ledger]) -> set[str]:
    """Keys of the contexts that all ledgers hold."""
    contexts = [ledger.contexts() for ledger in ledgers]
    for source, held in zip(sources, contexts, strict=True):
        if not held:
            raise BadInput(f"{source} holds no scores yet. Leave it out, or wait for its first packs.")
    shared = set.intersection(*map(set, contexts))
    if shared:
        return shared
    first = contexts[0]
    lines = []
    for source, held in zip(sources[1:], contexts[1:], strict=True):
        if set(held) & set(first):
            continue
        nearest = min((differences(a, b) for a in first.values() for b in held.values()), key=len)
        lines.append(f"  {sources[0]} and {source} differ in {'; '.join(nearest)}.")
    lines = lines or ["  No context is in all of them, though any one shares some with the first."]
    raise BadInput(
        "These ledgers have no context in common, and scores of two contexts do not compare:\n"
        + "\n".join(lines)
        + "\nMerge ledgers of one cohort, split, set of columns, network and settings."
    )


def _manifest(manifests: Mapping[str, Manifest]) -> Manifest | None:
    """The manifest of the merged search: the first one's, with the blocks of all."""
    if not manifests:
        return None
    (place, first), *others = manifests.items()
    for other_place, other in others:
        if other.context != first.context:
            reasons = "; ".join(differences(first.context, other.context, first.control, other.control))
            raise BadInput(f"{place} and {other_place} differ in {reasons}. Scores of two contexts do not compare.")
        if {task.name for task in other.tasks} != {task.name for task in first.tasks}:
            apart = {task.name for task in first.tasks} ^ {task.name for task in other.tasks}
            raise BadInput(
                f"{place} and {other_place} search different tasks ({', '.join(sorted(apart))}). Merge their ledgers "
                "instead of the search folders."
            )
    blocks = tuple(dict.fromkeys(block for manifest in manifests.values() for block in manifest.blocks))
    plan = plans.make(first.design, tuple(task.name for task in first.tasks))
    return replace(first, blocks=blocks, ledger="ledger", planned_units=plan.planned(blocks))


def _keep_record(folders: Iterable[Path], out: Path) -> None:
    """Copy the cohort's record of the search that hides the most counts; where one does not tell, none is there."""
    limits = {folder: small_cells_of(folder) for folder in folders}
    path = out / "cohort.json"
    if any(limit is None for limit in limits.values()):
        path.unlink(missing_ok=True)
        return
    strictest = max(limits, key=lambda folder: limits[folder] or 0)
    limit = limits[strictest] or 0
    try:
        content = read_object(strictest / "cohort.json")
    except BadInput:
        content = {}
    fits = content.get("small_cells", 0) == limit  # else it may tell what is to be hidden
    record = {**(content if fits else {}), "small_cells": limit}
    write_durably(path, (canonical(record) + "\n").encode())


def _check_free(out: Path, manifest: Manifest) -> None:
    if (out / "search.json").exists() and _identity(Manifest.read(out)) != _identity(manifest):
        raise BadInput(f"{out} holds another search. Name a new folder with --out.")


def _identity(manifest: Manifest) -> dict[str, Any]:
    plain = asdict(manifest)
    return {key: value for key, value in plain.items() if key not in ("version", "created")}


def _units(ledger: Ledger, contexts: Iterable[str]) -> set[tuple[str, Unit]]:
    return {(context, unit) for context in contexts for unit in ledger.done(context)}
