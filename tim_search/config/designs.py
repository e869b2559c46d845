"""What a search file leaves open: design, number of subsets and blocks; and whether a design fits its tasks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tim_search.config.sections import (
    AllBut,
    Design,
    ExactDesign,
    GreedyDesign,
    SampledDesign,
    SearchFile,
    SizedDesign,
    SurrogateDesign,
)
from tim_search.gates import reading
from tim_search.loop.manifest import Manifest
from tim_search.types import BadInput, Finding

#: The exact design is the default up to this many tasks (1,023 subsets), and refused above EXACT_LIMIT (65,535).
EXACT_DEFAULT = 10
EXACT_LIMIT = 16
#: Subsets of the sampled design for each task of the search. In simulated games of 12 tasks with noise of 0.3 standard
#: deviations, 200 sampled subsets put the right three helpers on top in nine of ten cases.
SAMPLED_PER_TASK = 16
#: The most subsets for each task that a sampled design with a stopping rule trains, where the file names no limit.
LIMIT_PER_TASK = 64
#: Blocks of a sampled design where the file names none, at least: with as many folds, all training patients are
#: evaluated.
SAMPLED_BLOCKS = 5
#: ... subsets of each of them, about, where it is sliced: every block brings a seed of its own, and the luck of seeds
#: is the largest part of the error; blocks of eight have too few subsets to tell their level (docs/maths.md).
SLICE = 16
#: ... and at most: with so many, seeds are a small part of the error, and the mixed model grows with their number.
MOST_SAMPLED_BLOCKS = 60
#: ... of the other designs: the fewest that tell an effect from the luck of a seed.
USUAL_BLOCKS = 2


def choose_tasks(
    asked: tuple[str, ...] | AllBut | None, available: Sequence[str]
) -> tuple[tuple[str, ...], list[Finding]]:
    """The tasks of a search, of those that its cohort has, and what is wrong with what its file says of them."""
    if not isinstance(asked, AllBut):
        names = tuple(name for name in asked or available if name in available)
        return names, unknown_tasks("tasks", asked or (), available)
    names = tuple(name for name in available if name in asked)
    findings = unknown_tasks("tasks.all_but", asked.all_but, available)
    if not names:
        problem = f"expected to leave a task, got all {len(available)} tasks of the cohort."
        findings.append(Finding("tasks.all_but", problem, "Leave out fewer."))
    return names, findings


def default(m: int) -> Design:
    """The design of a file that names none, for `m` tasks."""
    return ExactDesign() if m <= EXACT_DEFAULT else SampledDesign()


def misfits(design: Design, names: Sequence[str], m: int) -> list[Finding]:
    """What of a design does not fit the names of the tasks and their number `m`, a control included."""
    match design:
        case ExactDesign() if m > EXACT_LIMIT:
            problem = f"exact trains all 2^{m} - 1 subsets and is meant for up to {EXACT_LIMIT} tasks."
            return [Finding("design", problem, f"Use `sampled: {SAMPLED_PER_TASK * m}`, `sized: 2` or fewer tasks.")]
        case SizedDesign(k=k) if k > m:
            return [Finding("design.sized", f"the search has {m} tasks, got {k}.", f"Use a number from 1 to {m}.")]
        case SampledDesign() if (n := _most(design)) is not None and n >= 2**m:
            with_control = ", the control among them," if m > len(names) else ""
            problem = f"{m} tasks{with_control} have {2**m - 1} subsets, got {n}."
            return [Finding("design.sampled", problem, "Use `exact`.")]
        case GreedyDesign(sources=sources) | SurrogateDesign(sources=sources):
            return unknown_tasks(f"design.{design.kind}.sources", sources or (), names)
    return []


def _sampled_blocks(design: SampledDesign, m: int, n_folds: int) -> int:
    """Blocks of a sampled design: one for every `SLICE` subsets, the same number in each fold."""
    blocks = SAMPLED_BLOCKS if design.sliced is False else min(_subsets(design, m) // SLICE, MOST_SAMPLED_BLOCKS)
    return max(SAMPLED_BLOCKS, blocks - blocks % n_folds)


def _subsets(design: SampledDesign, m: int) -> int:
    """The most subsets that a sampled design of `m` tasks trains."""
    usual = (SAMPLED_PER_TASK if design.stop is None else LIMIT_PER_TASK) * m
    return _most(design) or min(usual, 2**m - 1)


def _most(design: SampledDesign) -> int | None:
    """The number of subsets that a sampled design names; None where it leaves it open."""
    return design.n if design.stop is None else design.stop.max_subsets


def untunable(search: SearchFile, design: Design, n_folds: int) -> list[Finding]:
    """What of a search keeps its subsets from having settings of their own."""
    if not search.tunes_every_subset:
        return []
    findings = []
    if len({fold for _, fold in usual_blocks(search, design, 0, n_folds)}) < 2:
        problem = "with `scope: per_subset` settings are chosen on other folds than the one that scores; got one fold."
        findings.append(Finding("tuning.scope", problem, f"Take `blocks` out, or write `blocks: {n_folds}`."))
    if isinstance(design, SampledDesign) and design.sliced:
        problem = "with `tuning: {scope: per_subset}` every subset is trained in every block; got sliced: true."
        findings.append(Finding("design.sampled.sliced", problem, "Take it out."))
    return findings


def record(
    design: Design,
    names: tuple[str, ...],
    blocks: Sequence[tuple[int, int]],
    control: str | None,
    earlier: Manifest | None = None,
    *,
    sliced: bool = True,
) -> dict[str, Any]:
    """A design in full, as `plans.make` and `search.json` have it; `sliced` where it does not say so itself.

    A search that grows goes on dealing subsets to blocks as `earlier`, the one that its folder holds, began.
    """
    record, seed = design.model_dump(mode="json"), blocks[0][0]
    if isinstance(design, SampledDesign):
        n = _subsets(design, len(names))
        record = {"kind": "sampled", "n": n, "seed": seed, "sliced": sliced}
        if design.sliced is not None:
            record["sliced"] = design.sliced
        if control is not None:
            record["control"] = control
        if design.stop is not None:
            record["stop"] = design.stop.model_dump(mode="json", exclude={"max_subsets"})
        grows = design.stop is not None
        fill = earlier.design.get("fill", 0) if earlier is not None else max(1, n // len(blocks)) if grows else 0
        if record["sliced"] and fill:
            record["fill"] = fill
    if isinstance(design, SurrogateDesign):
        record |= {"max_size": design.max_size or 0, "seed": seed}
    if isinstance(design, GreedyDesign | SurrogateDesign):
        record["sources"] = list(design.sources or names)
    return record


def begun(design: Design, folder: Path) -> Manifest | None:
    """The search with this kind of design that the folder holds: what is left open was chosen otherwise once."""
    if not (folder / "search.json").exists():
        return None
    try:
        earlier = Manifest.read(folder)
    except BadInput:
        return None  # the run that follows writes it anew
    return earlier if earlier.design.get("kind") == design.kind else None


def usual_blocks(search: SearchFile, design: Design, m: int, n_folds: int) -> tuple[tuple[int, int], ...]:
    """(seed, fold) pairs of a search over `m` tasks, a control included."""
    blocks = search.blocks
    if search.leaves_blocks_open:
        if search.tunes_every_subset:
            blocks = n_folds
        else:
            blocks = _sampled_blocks(design, m, n_folds) if isinstance(design, SampledDesign) else USUAL_BLOCKS
    if blocks is not None:
        return tuple((block, block % n_folds) for block in range(blocks))
    return tuple(dict.fromkeys((seed, fold) for seed in search.seeds or (0,) for fold in search.folds or (0,)))


def unknown_tasks(place: str, names: Iterable[str], available: Sequence[str]) -> list[Finding]:
    """A finding for each name that no available task has."""
    return [
        Finding(place, f"no such task: {reading.short(name)}.", reading.hint(name, available))
        for name in names
        if name not in available
    ]
