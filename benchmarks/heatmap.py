"""The pairwise heatmap of a cohort on one device: what its sweep takes fused, and what it would take in a solo loop.

The sweep: every single task and every pair, one validation fold, all data on the device already. The solo loop is
measured on one subset of each shape (number of tasks, and of clustering tasks among them) and extrapolated by counts.
"""

from __future__ import annotations

import resource
import statistics
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations
from typing import Any, TypeAlias

import torch

from benchmarks import rates, solo
from benchmarks.differences import Scores, packed, scores_of, spread
from benchmarks.rates import timed
from benchmarks.sections import Sections, Skip
from model.cohorts.cohort import Cohort
from model.data.folds import load_fold
from model.networks import m3h
from model.networks.settings import M3HSettings
from model.training import replay
from model.training.cost import capacity
from model.training.fitting import fit_pack
from model.training.scores import score_pack
from tim_search.types import Pack, Subset, subset

#: Number of tasks, and of clustering tasks among them: what a subset costs.
Shape: TypeAlias = tuple[int, int]

SOLO, FUSED_ADAM, MASKED, GRAPH = "solo eager", "solo eager, fused Adam", "solo eager, fused Adam, masks", "solo graph"
VARIANTS: dict[str, dict[str, bool]] = {
    SOLO: {},
    FUSED_ADAM: {"fused_adam": True},
    MASKED: {"fused_adam": True, "masked": True},
    GRAPH: {"graph": True},
}
GRAPH_SHARED = "solo graph, one capture a shape"
TRAINING, EVALUATION, TOTAL = (f"fused float32, {what}" for what in ("training", "evaluation", "total"))
TF32, TF32_TOTAL = "fused TF32, training", "fused TF32, total"
REPLAYED = {
    "float32": ("fused float32, graphs, training", "fused float32, graphs, total"),
    "tf32": ("fused TF32, graphs, training", "fused TF32, graphs, total"),
}
SOLO_TRIPLES, TRIPLES = "solo eager, up to 3 tasks", "fused float32, up to 3 tasks, training"
FLOOR, FLOOR_TF32, FLOOR_TRIPLES = "floor, float32", "floor, TF32", "floor, float32, up to 3 tasks"
#: Precision of the products as torch names it, tasks of the largest subset, and the row that the ratio is to.
FLOORS = {FLOOR: ("highest", 2, SOLO), FLOOR_TF32: ("high", 2, SOLO), FLOOR_TRIPLES: ("highest", 3, SOLO_TRIPLES)}

_SHARE = 0.4  # of the time left that packs of one may take for the comparison of scores
_FEWEST = 3  # subsets of each shape in that comparison, where there are as many: one alone is no pack
_NO_GRAPH = "no graph on a CPU: its steps as they are"
_SAME_FALL = 0.05  # share of a loss's fall by which rounding may move it


@dataclass(frozen=True)
class Work:
    """What is trained.

    Attributes:
        name: in words.
        cohort: all its tasks take part.
        settings: float32, no replicates.
        solo_steps: the solo loop is timed over about so many.
        sample: subsets whose scores are compared, at most.
    """

    name: str
    cohort: Cohort
    settings: M3HSettings
    solo_steps: int = 200
    sample: int = 32


@contextmanager
def _step_by_step() -> Iterator[None]:
    """No pack is so small that its steps are replayed."""
    before, replay.MOST_MEMBERS = replay.MOST_MEMBERS, 0
    try:
        yield
    finally:
        replay.MOST_MEMBERS = before


class Heatmap:
    """The sections of a work on a device; `run` goes through them."""

    def __init__(self, work: Work, device: torch.device, sections: Sections) -> None:
        self._work, self._device, self._sections = work, device, sections
        self._tasks, self._settings = work.cohort.tasks, work.settings
        self._tf32 = replace(work.settings, precision="tf32")
        self._loading, self._fold = timed(partial(self._load, torch.float32), device)
        self._shapes: dict[Shape, list[Subset]] = {}
        for size in (1, 2, 3):
            for names in combinations(sorted(self._tasks), size):
                clustering = sum(self._tasks[name].kind == "clustering" for name in names)
                self._shapes.setdefault((size, clustering), []).append(subset(names))
        steps = -(-len(self._fold.train) // self._settings.batch_size)
        self._solo_epochs = min(self._settings.epochs, -(-work.solo_steps // steps))
        self._floors: dict[str, float] = {}
        self._sample: list[Subset] = []
        self._fused_scores: Scores = {}
        sections.about |= {
            "description": f"{work.name}: {len(self._tasks)} tasks alone and in pairs, {len(self._of(1, 2))} subsets, "
            f"{len(self._fold.train)} training rows, {steps * self._settings.epochs} steps of up to "
            f"{self._settings.batch_size} rows, width {self._settings.width}",
            "unit": "s for the sweep",
            "extrapolated": f"solo rows by counts from {self._solo_epochs} of {self._settings.epochs} epochs of one "
            "subset of each shape; fused up to 3 tasks from one full pack of triples without and one with clustering",
            "loading_seconds": self._loading,
        }

    def run(self) -> None:
        """All sections, those of the goals first; solo graphs, which nothing falls back from, come last."""
        run = self._sections.run
        with _step_by_step():
            run("machine rates", self._rates, tuple(FLOORS))
            for name in (SOLO, FUSED_ADAM, MASKED):
                run(name, partial(self._solo, name), (name,))
            run("fused float32", self._fused, (TRAINING, EVALUATION, TOTAL), fused=True)
            run("fused TF32", self._fused_tf32, (TF32, TF32_TOTAL), fused=True)
        for settings in (self._settings, self._tf32):
            rows = REPLAYED[settings.precision]
            run(f"fused {settings.precision}, graphs", partial(self._replayed, settings, rows), rows, fused=True)
        with _step_by_step():
            run("up to 3 tasks", self._triples, (SOLO_TRIPLES, TRIPLES), fused=True)
            run("scores, fused against solo", self._against_solo)
        run("scores, graphs", self._replayed_scores)
        with _step_by_step():
            run("scores, other seed", self._other_seed)
            run("scores, reversed rows", self._reversed)
            run("scores, TF32", self._tf32_scores)
            run("scores, float64", self._float64_scores)
        run("solo graph", self._graph, (GRAPH, GRAPH_SHARED))

    def _load(self, dtype: torch.dtype) -> Any:
        return load_fold(self._work.cohort, 0, dtype=dtype, device=self._device, replicates=0)

    def _of(self, *sizes: int) -> list[Subset]:
        return [members for (size, _), group in self._shapes.items() if size in sizes for members in group]

    # Floors

    def _rates(self) -> dict[str, Any]:
        copy = rates.copy_rate(self._device)
        found: dict[str, Any] = {}
        for name, (precision, largest, base) in FLOORS.items():
            with rates.products(precision):
                rate = rates.product_rate(self._device)
            found[name] = rates.floor(
                {group[0]: len(group) for (size, _), group in self._shapes.items() if size <= largest},
                self._tasks,
                self._fold,
                self._settings,
                flops_a_second=rate,
                bytes_a_second=copy,
                streaming=self._device.type == "cuda",
            )
            self._floors[name] = found[name]["seconds"]
            self._sections.add(name, self._floors[name], base=base, floor=self._floors[name])
        return {"floors": found}

    # The solo loop

    def _solo(self, name: str) -> dict[str, Any]:
        found = self._timed_solo(VARIANTS[name], 1, 2)
        self._sections.add(name, self._total(found), base=SOLO, floor=self._floors.get(FLOOR), extrapolated=True)
        return {"shapes": found}

    def _graph(self) -> dict[str, Any]:
        found = self._timed_solo(VARIANTS[GRAPH], 1, 2)
        # A graph that replays the wrong thing would be fast too.
        for own, eager in zip(found, self._sections.details[MASKED].get("shapes", ()), strict=False):
            if not abs(own["loss"] - eager["loss"]) <= _SAME_FALL * abs(eager["loss"] - eager["loss_before"]):
                raise RuntimeError(f"the loss is {own['loss']:.4g} with replayed steps, {eager['loss']:.4g} without")
        on_gpu = self._device.type == "cuda"
        add = partial(
            self._sections.add,
            base=SOLO,
            floor=self._floors.get(FLOOR),
            extrapolated=True,
            note="" if on_gpu else _NO_GRAPH,
        )
        add(GRAPH, self._total(found))
        once = sum(shape["start_seconds"] * (1 - shape["count"]) for shape in found)
        add(GRAPH_SHARED, self._total(found) + once)
        return {"shapes": found, "captured": on_gpu}

    def _timed_solo(self, variant: dict[str, bool], *sizes: int) -> list[dict[str, Any]]:
        """Seconds until a training's first step, and of an epoch, for one subset of each shape."""
        found = []
        for (size, clustering), group in self._shapes.items():
            if size not in sizes:
                continue
            for epochs in (1, self._solo_epochs):  # the first time is not counted
                settings = replace(self._settings, epochs=epochs)
                run = solo.training(group[0], self._tasks, self._fold, settings, **variant)
                start, network = timed(partial(next, run), self._device)
                before = self._loss(network)
                each = [timed(partial(next, run), self._device)[0] for _ in range(epochs)]
            found.append(
                {
                    "tasks": size,
                    "clustering": clustering,
                    "count": len(group),
                    "start_seconds": start,
                    "epoch_seconds": statistics.median(each),
                    "epochs_timed": len(each),
                    "loss_before": before,
                    "loss": self._loss(network),
                }
            )
        return found

    @torch.no_grad()
    def _loss(self, network: solo.SoloM3H) -> float:
        """Of the first training rows."""
        some = torch.arange(min(len(self._fold.train), 256), device=self._device)
        return float(network.loss(self._fold.train.take(some), masked=True))

    def _total(self, shapes: list[dict[str, Any]]) -> float:
        epochs = self._settings.epochs
        return sum(one["count"] * (one["start_seconds"] + epochs * one["epoch_seconds"]) for one in shapes)

    # Fused training

    def _fused(self) -> dict[str, Any]:
        found = self._with_room(2, partial(self._sweep, self._settings))
        training, evaluation = found["training_seconds"], found["evaluation_seconds"]
        against = partial(self._sections.add, base=SOLO, floor=self._floors.get(FLOOR))
        against(TRAINING, training)
        self._sections.add(EVALUATION, evaluation)
        against(TOTAL, training + evaluation)
        return found

    def _fused_tf32(self) -> dict[str, Any]:
        found = self._with_room(2, partial(self._sweep, self._tf32))
        against = partial(self._sections.add, base=SOLO, floor=self._floors.get(FLOOR_TF32))
        against(TF32, found["training_seconds"])
        against(TF32_TOTAL, found["training_seconds"] + found["evaluation_seconds"])
        return found

    def _replayed(self, settings: M3HSettings, rows: tuple[str, str]) -> dict[str, Any]:
        """The same sweep as the product trains it, the steps of small packs replayed; only these are trained again."""
        before = self._sections.details["fused float32" if settings.precision == "float32" else "fused TF32"]
        if "packs" not in before:
            raise Skip("it needs the sweep without graphs")
        with self._graphs() as given_up:
            found = self._sweep(settings, before["capacity"], largest=replay.MOST_MEMBERS)
        for pack in before["packs"]:
            if pack["units"] > replay.MOST_MEMBERS:
                found["training_seconds"] += pack["training_seconds"]
                found["evaluation_seconds"] += pack["evaluation_seconds"]
        floor = self._floors.get(FLOOR if settings.precision == "float32" else FLOOR_TF32)
        against = partial(self._sections.add, base=SOLO, floor=floor, note="; ".join(given_up))
        against(rows[0], found["training_seconds"])
        against(rows[1], found["training_seconds"] + found["evaluation_seconds"])
        return {**found, "given_up": given_up}

    def _replayed_scores(self) -> dict[str, Any]:
        with self._graphs() as given_up:
            found = self._compared("float32, fused, graphs against step by step")
        return {**found, "given_up": given_up}

    @contextmanager
    def _graphs(self) -> Iterator[list[str]]:
        """What is said inside of steps that are not replayed."""
        given_up = [] if self._device.type == "cuda" else [_NO_GRAPH]
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            yield given_up
        given_up += sorted({text for one in said if (text := str(one.message)).startswith(replay.GIVEN_UP)})

    def _triples(self) -> dict[str, Any]:
        pairs = self._sections.time(TRAINING)
        groups = {shape: group for shape, group in self._shapes.items() if shape[0] == 3}
        if pairs is None or not groups:
            raise Skip("there are no triples" if not groups else f"it needs the row {TRAINING!r}")
        found = self._with_room(3, partial(self._full_packs, groups))
        seconds = pairs + sum(one["count"] * one["seconds"] / one["units"] for one in found["packs"])
        add = partial(self._sections.add, base=SOLO_TRIPLES, floor=self._floors.get(FLOOR_TRIPLES), extrapolated=True)
        add(TRIPLES, seconds)
        shapes = self._timed_solo(VARIANTS[SOLO], 3)
        alone = self._sections.time(SOLO)
        if alone is not None:
            add(SOLO_TRIPLES, alone + self._total(shapes))
        return {**found, "solo_shapes": shapes, "subsets": len(self._of(1, 2, 3))}

    def _full_packs(self, groups: dict[Shape, list[Subset]], size: int) -> dict[str, Any]:
        """Seconds of one full pack of each shape."""
        found = []
        for (_, clustering), group in groups.items():
            pack = packed(group, self._tasks, size)[0]
            self._warm_up([pack], self._settings, scored=False)
            seconds, _ = timed(partial(fit_pack, pack, self._tasks, self._fold, self._settings, m3h), self._device)
            found.append({"clustering": clustering, "count": len(group), "units": len(pack.units), "seconds": seconds})
        return {"packs": found}

    def _sweep(self, settings: M3HSettings, size: int, largest: int | None = None) -> dict[str, Any]:
        """Train the whole sweep, or its packs of at most `largest` members, and score it."""
        chosen = [
            pack for pack in packed(self._of(1, 2), self._tasks, size) if largest is None or len(pack.units) <= largest
        ]
        self._warm_up(chosen, settings)
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        found = []
        for pack in chosen:
            training, fitted = timed(partial(fit_pack, pack, self._tasks, self._fold, settings, m3h), self._device)
            score = partial(score_pack, pack, fitted, self._tasks, self._fold)
            evaluation, _ = timed(score, self._device)
            found.append(
                {
                    "units": len(pack.units),
                    "tasks": len(pack.units[0].subset),
                    "clustering": fitted.layout.clustering,
                    "training_seconds": training,
                    "evaluation_seconds": evaluation,
                }
            )
            del fitted, score  # before the next pack is trained
        return {
            "training_seconds": sum(one["training_seconds"] for one in found),
            "evaluation_seconds": sum(one["evaluation_seconds"] for one in found),
            "packs": found,
            "peak": self._peak(),
        }

    def _warm_up(self, chosen: list[Pack], settings: M3HSettings, *, scored: bool = True) -> None:
        """Train one pack of each shape for a full and a last minibatch, and score it: kernels load at first use."""
        rows, size = len(self._fold.train), settings.batch_size
        few = self._fold.train.take(torch.arange(min(rows, size + rows % size), device=self._device))
        one_of_each = {(len(pack.units), len(pack.units[0].subset)): pack for pack in chosen}
        for pack in one_of_each.values():
            fitted = fit_pack(pack, self._tasks, replace(self._fold, train=few), replace(settings, epochs=1), m3h)
            if scored:
                score_pack(pack, fitted, self._tasks, self._fold)

    def _with_room(self, largest: int, action: Callable[[int], dict[str, Any]]) -> dict[str, Any]:
        """An action with packs as large as memory is said to allow; with smaller ones where it does not after all."""
        on_gpu = self._device.type == "cuda"
        if on_gpu:
            torch.cuda.empty_cache()
        size = capacity(self._work.cohort, "m3h", largest, self._settings, gpus=float(on_gpu), workers=1)
        refused: list[int] = []
        while True:
            try:
                return {**action(size), "capacity": size, "did_not_fit": refused}
            except torch.OutOfMemoryError:
                if size == 1:
                    raise
            refused.append(size)
            size //= 2
            if on_gpu:
                torch.cuda.empty_cache()

    def _peak(self) -> dict[str, float]:
        """MB."""
        if self._device.type == "cuda":
            return {
                "allocated": torch.cuda.max_memory_allocated() / 2**20,
                "reserved": torch.cuda.max_memory_reserved() / 2**20,
            }
        return {"whole process": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}

    # Scores

    def _against_solo(self) -> dict[str, Any]:
        """Packs against packs of one, over as many subsets as the time allows."""
        (probe,) = packed(self._spaced(1)[:1], self._tasks, 1)
        scored = partial(scores_of, tasks=self._tasks, fold=self._fold, settings=self._settings)
        seconds, _ = timed(partial(scored, [probe]), self._device)
        room = int(_SHARE * self._sections.seconds_left / seconds)
        self._sample = self._spaced(min(self._work.sample, room))
        self._fused_scores = self._fused_run()
        alone = scored(packed(self._sample, self._tasks, 1))
        return self._differences({"float32, fused against solo": spread(self._fused_scores, alone)})

    def _other_seed(self) -> dict[str, Any]:
        return self._compared("float32, fused, seed 0 against seed 1", seed=1)

    def _reversed(self) -> dict[str, Any]:
        return self._compared("float32, fused, rows of every minibatch in reverse order", backwards=True)

    def _tf32_scores(self) -> dict[str, Any]:
        return self._compared("fused, TF32 against float32", settings=self._tf32)

    def _float64_scores(self) -> dict[str, Any]:
        settings, few = replace(self._settings, precision="float64"), self._spaced(1)
        scored = partial(scores_of, tasks=self._tasks, fold=self._load(torch.float64), settings=settings)
        together, alone = (scored(packed(few, self._tasks, size)) for size in (len(few), 1))
        return {"differences": {"float64, fused against solo": spread(together, alone)}, "subsets": len(few)}

    def _compared(self, what: str, **how: Any) -> dict[str, Any]:
        if not self._fused_scores:
            raise Skip("it needs the scores of the section 'scores, fused against solo'")
        return self._differences({what: spread(self._fused_scores, self._fused_run(**how))})

    def _fused_run(self, settings: M3HSettings | None = None, *, seed: int = 0, backwards: bool = False) -> Scores:
        packs = packed(self._sample, self._tasks, len(self._sample), seed)
        return scores_of(packs, self._tasks, self._fold, settings or self._settings, backwards=backwards)

    def _differences(self, found: dict[str, dict[str, float]]) -> dict[str, Any]:
        return {"differences": found, "subsets": len(self._sample)}

    def _spaced(self, count: int) -> list[Subset]:
        """About so many subsets of the sweep, evenly over each shape; enough of each to make a pack."""
        whole = len(self._of(1, 2))
        found: list[Subset] = []
        for (size, _), group in self._shapes.items():
            if size < 3:
                share = min(len(group), max(_FEWEST, round(count * len(group) / whole)))
                found += [group[index * len(group) // share] for index in range(share)]
        return found
