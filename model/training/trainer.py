"""Train and score a pack: the one place where a subset of tasks becomes numbers.

`trainer` is what an executor's workers call. A pack of one is solo training; there is no second code path.
"""

from __future__ import annotations

import contextlib
import json
import math
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.cohorts.cohort import Cohort
from model.data.folds import Fold, Rows, load_fold
from model.networks import m3h
from model.networks import registry as networks
from model.networks.contract import Layout, Network, Parameters, layout, n_logits
from model.networks.settings import TrainingSettings
from model.scoring import clustering, metrics
from model.training import asynchronous, lockstep
from model.training.asynchronous import AfterTurn, Course
from model.training.lockstep import Block
from tim_search.types import (
    ALLOWED,
    MOST_ATTENDED,
    Attention,
    BadInput,
    Curve,
    OutOfMemory,
    Pack,
    PackResult,
    Score,
    Subset,
    Task,
    Trainer,
    Unit,
)

DTYPES = {"float32": torch.float32, "tf32": torch.float32, "float64": torch.float64}


@dataclass(frozen=True)
class TrainingPayload:
    """All a worker needs to train any pack of a search; picklable, its arrays shared by Ray's object store.

    Attributes:
        cohort: with the search's tasks and effective columns only (`Cohort.for_tasks`).
        network: its name, see `model.networks.registry.find`.
        settings: of the network and its training.
        device: "cpu", "cuda", "cuda:1", ... or "auto": the GPU where there is one.
        threads: of torch in this process; never more than the cores the worker holds.
    """

    cohort: Cohort
    network: str
    settings: TrainingSettings
    device: str = "auto"
    threads: int = 1


@dataclass(frozen=True)
class Fitted:
    """A trained pack.

    Attributes:
        values: parameters, each (K, ...).
        plan: which task sits where.
        history: float64 (epochs, K) mean total loss of each epoch.
        diverged: K entries, the first epoch (from 1) whose loss was not finite, 0 if none.
        network: what was trained.
        course: of a training in turns.
    """

    values: Parameters
    plan: Layout
    history: Tensor
    diverged: tuple[int, ...]
    network: Network = m3h
    course: Course | None = None


@dataclass(frozen=True)
class Predictions:
    """A pack's outputs over rows.

    Attributes:
        logits: (K, s, n, C) of the supervised slots.
        latents: (K, n, c, h) attended tokens of the clustering slots.
        attention: (K, k, k), mean over the rows; None of a network without cross-task attention.
        rebuild_r2: (K, c) share of the inputs' variance that the clustering slots' decoders rebuild.
    """

    logits: Tensor
    latents: Tensor
    attention: Tensor | None
    rebuild_r2: Tensor


def check_supported(cohort: Cohort, network: str, settings: TrainingSettings) -> None:
    """Raise BadInput where the network cannot learn a task, read a modality of the cohort or follow the settings."""
    found = networks.find(network, allow_code=True)
    wrong = found.unsupported(cohort, settings)
    if wrong:
        raise BadInput(
            f"network {network} takes {found.TAKES}, but "
            + "; ".join(wrong)
            + ". Leave such tasks out with `tasks:`, give such modalities as vectors, or choose another `network:`."
        )


def fit_pack(
    pack: Pack,
    tasks: Mapping[str, Task],
    fold: Fold,
    settings: TrainingSettings,
    network: Network = m3h,
    after_turn: AfterTurn | None = None,
    start: Sequence[Parameters] = (),
) -> Fitted:
    """Train the subsets of a pack together, Adam from the seed's starting point.

    Each member sees the minibatches it would see alone and its gradient reaches its own parameters only. M3H's result
    for a subset is the same in every bit whatever its pack mates are, on one thread of a CPU (benchmarks/NOTES.md). The
    last epoch is kept, except where `update: asynchronous` chooses one (`asynchronous`, also for `after_turn`).
    `start` names, for each member, parameters (1, ...) of another training that take the place of the seed's.
    """
    unit = pack.units[0]
    if settings.update != "asynchronous":
        members = [(one.subset, settings.learning_rate) for one in pack.units]
        return fit_blocks(members, {(unit.seed, unit.fold): fold}, tasks, settings, network, start)[0]
    plan, values = _begun([one.subset for one in pack.units], tasks, fold, unit.seed, settings, network)
    _take_over(values, start)
    turns_of = cast(asynchronous.AsynchronousSettings, settings)
    with _products(settings):
        kept, history, course = asynchronous.fit(values, plan, tasks, fold, unit.seed, turns_of, network, after_turn)
    return Fitted(kept, plan, history, _diverged(history), network, course)


def fit_blocks(
    members: Sequence[tuple[Subset, float]],
    blocks: Mapping[tuple[int, int], Fold],
    tasks: Mapping[str, Task],
    settings: TrainingSettings,
    network: Network = m3h,
    start: Sequence[Parameters] = (),
) -> list[Fitted]:
    """Train the same members in every block, all of them in lockstep.

    Args:
        members: subset and learning rate of each member of a block.
        blocks: (seed, fold) -> its rows; several need a network that takes them `SIDE_BY_SIDE`, and as many minibatches
            an epoch in each.
        settings: of every member but for its learning rate.
        start: see `fit_pack`, of all members, those of the blocks in turn.

    Returns:
        the trained members of each block.
    """
    subsets, folds = [subset for subset, _ in members], list(blocks.values())
    begun = [_begun(subsets, tasks, fold, seed, settings, network) for (seed, _), fold in blocks.items()]
    parts = [Block(plan, fold, seed) for (plan, _), ((seed, _), fold) in zip(begun, blocks.items(), strict=True)]
    if len(blocks) == 1:
        ((plan, values),) = begun
    else:
        plan = layout(subsets * len(blocks), tasks, folds[0], folds[0].train.targets.device, len(blocks))
        names = begun[0][1]
        values = {name: torch.cat([own[name].detach() for _, own in begun]).requires_grad_() for name in names}
    del begun  # as much memory again
    _take_over(values, start)
    rates = [rate for _, rate in members] * len(blocks)
    with _products(settings):
        values, history = lockstep.fit(values, plan, parts, settings, rates, network)
    each = [slice(at, at + len(members)) for at in range(0, plan.members, len(members))]
    return [
        Fitted(
            {name: value[where] for name, value in values.items()},
            part.plan,
            history[:, where],
            _diverged(history[:, where]),
            network,
        )
        for part, where in zip(parts, each, strict=True)
    ]


def _begun(
    subsets: Sequence[Subset],
    tasks: Mapping[str, Task],
    fold: Fold,
    seed: int,
    settings: TrainingSettings,
    network: Network,
) -> tuple[Layout, Parameters]:
    plan = layout(subsets, tasks, fold, fold.train.targets.device)
    return plan, network.initialise(plan, tasks, fold, seed, settings)


@contextlib.contextmanager
def _products(settings: TrainingSettings) -> Iterator[None]:
    """Matrix products of float32 in full, which do not depend on the GPU's generation, unless the settings say tf32."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if settings.precision == "tf32" else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@torch.no_grad()
def _take_over(values: Parameters, start: Sequence[Parameters]) -> None:
    for member, given in enumerate(start):
        for name, value in given.items():
            values[name][member] = value[0]


def _diverged(history: Tensor) -> tuple[int, ...]:
    """First epoch (from 1) of each member whose loss is not finite, 0 if none; of (epochs, K) losses."""
    bad = ~torch.isfinite(history)
    return tuple(int(bad[:, m].int().argmax()) + 1 if bad[:, m].any() else 0 for m in range(bad.shape[1]))


@torch.no_grad()
def predict(fitted: Fitted, rows: Rows, settings: TrainingSettings) -> Predictions:
    """Outputs of a trained pack for rows in their order."""
    logits, latents, attention = [], [], []
    rebuilt = _Rebuilt(rows) if fitted.plan.clustering else None
    for part in rows.split(settings.evaluation_rows):
        # Of a part's outputs only these stay: reconstructions and embeddings of all rows would fill the memory.
        with _products(settings):
            output = fitted.network.forward(fitted.values, fitted.plan, part, settings)
        logits.append(output.logits)
        latents.append(output.latents)
        if output.attention is not None:
            attention.append(output.attention.sum(1))
        if rebuilt is not None:
            rebuilt.add(output.rebuilt)
        del output  # before the next part's is made
    return Predictions(
        torch.cat(logits, dim=2),
        torch.cat(latents, dim=1),
        torch.stack(attention).sum(0) / len(rows) if attention else None,
        logits[0].new_zeros(fitted.plan.members, 0) if rebuilt is None else rebuilt.r2(),
    )


class _Rebuilt:
    """Share of the inputs' variance that decoders rebuild, summed up part by part."""

    def __init__(self, rows: Rows) -> None:
        self._inputs, self._cells = torch.cat(rows.inputs, dim=1), m3h.seen_cells(rows)
        mean = (self._inputs * self._cells).sum(0) / self._cells.sum(0).clamp_min(1.0)
        self._spread = ((self._inputs - mean).square() * self._cells).sum().clamp_min(1e-12)
        self._error: Tensor | float = 0.0
        self._row = 0

    def add(self, rebuilt: Tensor) -> None:
        """(K, c, B, D) of the next B rows."""
        here = slice(self._row, self._row + rebuilt.shape[2])
        self._error = self._error + (rebuilt - self._inputs[here]).square_().mul_(self._cells[here]).sum(dim=(2, 3))
        self._row = here.stop

    def r2(self) -> Tensor:
        """(K, c)"""
        return 1.0 - self._error / self._spread


def score_pack(
    pack: Pack, fitted: Fitted, tasks: Mapping[str, Task], fold: Fold, settings: TrainingSettings
) -> tuple[list[Score], list[Attention]]:
    """Scores of every unit and task on the held-out rows, and the attention of units of up to `MOST_ATTENDED` tasks.

    Each task is scored for all members that have it at once, where they were trained, and the numbers come to the host
    when all tasks are under way. A diverged member or a collapsed clustering is a failed row with its reason.
    """
    said = predict(fitted, fold.validation, settings)
    finite = said.logits.isfinite().flatten(1).all(1) & said.latents.isfinite().flatten(1).all(1)
    sound = [ok and not epoch for ok, epoch in zip(finite.tolist(), fitted.diverged, strict=True)]
    names = dict.fromkeys(name for member, held in enumerate(fitted.plan.names) if sound[member] for name in held)
    labelled = {
        name: _supervised(name, fitted, said, sound, tasks[name], fold)
        for name in names
        if tasks[name].kind != "clustering"
    }
    found = {}
    if len(labelled) < len(names):
        learned = predict(fitted, fold.train, settings).latents
        for name in names:
            if name not in labelled:
                found.update(_clustered(name, pack, fitted, said, learned, sound, tasks[name], fold))
    for name, (members, first, others) in labelled.items():
        rows = {metric: values.tolist() for metric, values in others.items()}
        for at, (member, values) in enumerate(zip(members, first.tolist(), strict=True)):
            unit = pack.units[member]
            found[member, name] = [_scored(unit, tasks[name], values, "")]
            if found[member, name][0].status == "ok":
                found[member, name] += [
                    Score(unit, name, metric, unit.part, row[at], primary=False) for metric, row in rows.items()
                ]
    kept = said.attention is not None and fitted.plan.tasks <= MOST_ATTENDED
    weights = cast(Tensor, said.attention).double().cpu().tolist() if kept else None
    scores: list[Score] = []
    attention: list[Attention] = []
    for member, unit in enumerate(pack.units):
        if not sound[member]:
            when = f"in epoch {fitted.diverged[member]}" if fitted.diverged[member] else "after training"
            why = f"diverged: loss or predictions are not finite {when}; try a smaller learning_rate"
            scores += [_failed(unit, tasks[name], why) for name in unit.subset]
            continue
        held = fitted.plan.names[member]
        attention += [
            Attention(unit, task, other, weights[member][i][j])
            for i, task in enumerate(held)
            for j, other in enumerate(held)
            if weights is not None
        ]
        scores += [row for name in held for row in found[member, name]]
        if fitted.course is not None:
            chosen = float(fitted.course.chosen[member])
            scores += [Score(unit, name, "chosen_epoch", unit.part, chosen, primary=False) for name in held]
    return scores, attention


def _holding(name: str, fitted: Fitted, sound: Sequence[bool]) -> tuple[list[int], list[int]]:
    """The sound members that have a task, and the slot it sits in."""
    kept = [(member, slot) for member, slot in zip(*fitted.plan.holding(name), strict=True) if sound[member]]
    return [member for member, _ in kept], [slot for _, slot in kept]


def _supervised(
    name: str, fitted: Fitted, said: Predictions, sound: Sequence[bool], task: Task, fold: Fold
) -> tuple[list[int], Tensor, dict[str, Tensor]]:
    """Members that have a task, their metric (m, R) that it is searched by, and the others (m,) that it has."""
    members, slots = _holding(name, fitted, sound)
    device = said.logits.device
    outputs = said.logits[torch.tensor(members, device=device), torch.tensor(slots, device=device)]
    of = truth_of(fold, task)
    first = metrics.of_members(of, outputs, (task.metric,))[task.metric]
    others = tuple(other for other in ALLOWED[task.kind] if other != task.metric)
    more = metrics.of_members(of.unweighted(), outputs, others) if others else {}
    return members, first, {metric: values[:, 0] for metric, values in more.items()}


def _clustered(
    name: str,
    pack: Pack,
    fitted: Fitted,
    said: Predictions,
    learned: Tensor,
    sound: Sequence[bool],
    task: Task,
    fold: Fold,
) -> dict[tuple[int, str], list[Score]]:
    """Score rows of a clustering task, by member and task."""
    members, slots = _holding(name, fitted, sound)
    member, slot = (torch.tensor(at, device=learned.device) for at in (members, slots))
    slot = slot - fitted.plan.supervised
    seeds = [clustering.start(pack.units[m].seed, name) for m in members]
    judged = clustering.judge(
        learned[member, :, slot], said.latents[member, :, slot], task.n_outputs, fold.weights_by_row, seeds
    )
    rebuilt = said.rebuild_r2[member, slot].double().tolist()
    found = {}
    for m, one, share in zip(members, judged, rebuilt, strict=True):
        unit = pack.units[m]
        more = (
            ("occupied_clusters", one.occupied),
            ("effective_rank", one.effective_rank),
            ("label_agreement", one.label_agreement),
            ("reconstruction_r2", share),
        )
        found[m, name] = [_scored(unit, task, one.silhouette.tolist(), one.collapsed)] + [
            Score(unit, name, metric, unit.part, float(value), primary=False) for metric, value in more
        ]
    return found


def truth_of(fold: Fold, task: Task) -> metrics.Truth:
    """What outputs for a fold's held-out rows are scored by; made at the first call, and kept with the fold."""
    if task.name not in fold.truths:
        first = fold.first[task.name]
        labels = fold.labels[first : first + task.n_outputs].T if task.kind == "multilabel" else fold.labels[first]
        fold.truths[task.name] = metrics.truth(task.kind, labels, n_logits(task), fold.weights_by_row)
    return fold.truths[task.name]


def labels_of(fold: Fold, task: Task) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Labels of the held-out rows that carry any, and which rows those are.

    Returns:
        float64 (m,), or (m, L) of a multilabel task, NaN where a single label is missing; and bool (n,).
    """
    first = fold.first[task.name]
    targets = fold.labels[first : first + (task.n_outputs if task.kind == "multilabel" else 1)]
    known = np.asarray((~np.isnan(targets)).any(axis=0), bool)
    return (targets[:, known].T if task.kind == "multilabel" else targets[0, known]), known


def _scored(unit: Unit, task: Task, values: Sequence[float], why: str) -> Score:
    """Score row from a metric under every weighting: the first is the score, the others its replicates."""
    if why or not math.isfinite(values[0]):
        return _failed(unit, task, why or f"no {task.metric}: {_where(unit)} do not vary")
    return Score(unit, task.name, task.metric, unit.part, values[0], replicates=tuple(values[1:]))


def _where(unit: Unit) -> str:
    return "the labels of the test patients" if unit.part == "test" else f"the validation labels of fold {unit.fold}"


def _failed(unit: Unit, task: Task, why: str) -> Score:
    return Score(unit, task.name, task.metric, unit.part, float("nan"), "failed", why)


#: A further look at a trained pack: score rows and curves beside those every pack has.
Look: TypeAlias = Callable[[Pack, Fitted, Fold], tuple[list[Score], list[Curve]]]


class PackTrainer:
    """Trains packs of one search in one process; keeps the folds it has prepared.

    Args:
        payload: the search.
        look: what else is told of every pack.
    """

    def __init__(self, payload: TrainingPayload, look: Look = lambda pack, fitted, fold: ([], [])) -> None:
        check_supported(payload.cohort, payload.network, payload.settings)
        self._payload = payload
        self._look = look
        self._device = _device(payload.device)
        self._folds: dict[tuple[object, ...], Fold] = {}
        torch.set_num_threads(max(1, payload.threads))

    def fold(self, number: int, settings: TrainingSettings | None = None) -> Fold:
        """The prepared fold, as the search's settings or others want it; from memory after the first call."""
        how = settings or self._payload.settings
        key = (number, how.precision, how.replicates, how.stop_share)
        if key not in self._folds:
            self._folds[key] = load_fold(
                self._payload.cohort,
                number,
                dtype=DTYPES[how.precision],
                device=self._device,
                replicates=how.replicates,
                stop_share=how.stop_share,
            )
        return self._folds[key]

    def train(self, pack: Pack) -> PackResult:
        """Train and score a pack; see `tim_search.types.Trainer`."""
        started = time.perf_counter()
        tasks, scores, attention, curves = self._payload.cohort.tasks, list[Score](), list[Attention](), list[Curve]()
        with _memory_trouble(f"a pack of {len(pack.units)} subsets of {len(pack.units[0].subset)} tasks"):
            if self._device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(self._device)
            for part, fitted, fold, settings in self._trained(pack):
                scored, attended = score_pack(part, fitted, tasks, fold, settings)
                more, drawn = self._look(part, fitted, fold)
                scores += [*scored, *more]
                attention += attended
                curves += drawn
        seconds = time.perf_counter() - started
        share = seconds / len(pack.units)
        timed = tuple(replace(score, seconds=share) for score in scores)
        return PackResult(pack, timed, tuple(attention), seconds, self._peak_bytes(), curves=tuple(curves))

    def _trained(self, pack: Pack) -> Iterator[tuple[Pack, Fitted, Fold, TrainingSettings]]:
        """The units of each block and choice of settings, trained; as many in lockstep as can be."""
        tasks, network = self._payload.cohort.tasks, networks.find(self._payload.network, allow_code=True)
        for settings, blocks in self._programs(pack, network):
            folds = {(units[0].seed, units[0].fold): self.fold(units[0].fold, settings) for units in blocks}
            if settings.update == "asynchronous":
                (fold,) = folds.values()
                fitted = [fit_pack(Pack(blocks[0]), tasks, fold, settings, network)]
            else:
                members = [(unit.subset, self._settings(unit).learning_rate) for unit in blocks[0]]
                fitted = fit_blocks(members, folds, tasks, settings, network)
            for units, one, fold in zip(blocks, fitted, folds.values(), strict=True):
                yield Pack(units), one, fold, settings

    def _programs(self, pack: Pack, network: Network) -> list[tuple[TrainingSettings, list[tuple[Unit, ...]]]]:
        """What is trained in lockstep: settings, and the units of each block, the same members in all."""
        by_block: dict[tuple[str, int, int], list[Unit]] = {}
        for unit in pack.units:
            by_block.setdefault((self._settings(unit, in_lockstep=True).text, unit.seed, unit.fold), []).append(unit)
        programs: dict[object, list[tuple[Unit, ...]]] = {}
        for (how, *block), units in by_block.items():
            # Neighbours of one rate are stepped together.
            units.sort(key=lambda unit: self._settings(unit).learning_rate)
            settings = self._settings(units[0])
            same: tuple[object, ...] = (how, *block)
            if network.SIDE_BY_SIDE and settings.update != "asynchronous":
                rows = len(self.fold(units[0].fold, settings).train)
                members = tuple((unit.subset, unit.settings) for unit in units)
                same = (how, lockstep.steps_an_epoch(rows, settings), members)
            programs.setdefault(same, []).append(tuple(units))
        return [(self._settings(blocks[0][0]), blocks) for blocks in programs.values()]

    def _settings(self, unit: Unit, *, in_lockstep: bool = False) -> TrainingSettings:
        """A unit's settings; those of all units that may be trained with it, where these need not share their rate."""
        base = self._payload.settings
        settings: Any = replace(cast(Any, base), **json.loads(unit.settings)) if unit.settings else base
        if in_lockstep and unit.settings and settings.update != "asynchronous":
            settings = replace(settings, learning_rate=cast(Any, base).learning_rate)
        return cast(TrainingSettings, settings)

    def _peak_bytes(self) -> int:
        if self._device.type == "cuda":
            return int(torch.cuda.max_memory_allocated(self._device))
        # Linux counts in kilobytes, macOS in bytes (getrusage(2) of each).
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def trainer(payload: TrainingPayload) -> Trainer:
    """The `TrainerFactory` of this package."""
    return PackTrainer(payload)


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise BadInput(f"device: {name!r} was asked for, but torch sees no GPU here. Use cpu or auto.")
    return device


@contextlib.contextmanager
def _memory_trouble(what: str) -> Iterator[None]:
    """Turn every way in which memory runs out into OutOfMemory, and hand cached blocks back."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise OutOfMemory(f"{what} did not fit: {error}") from error
    except RuntimeError as error:  # torch's allocator on a CPU and libraries on a GPU have no class of their own
        if not any(words in str(error) for words in ("can't allocate memory", "out of memory", "ALLOC_FAILED")):
            raise
        raise OutOfMemory(f"{what} did not fit: {error}") from error
    finally:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
