"""How many trainings the same certainty takes: five blocks and last weights, against more blocks and averaged weights.

    OMP_NUM_THREADS=1 python -m benchmarks.cheaper designs support2 FOLDER [--patients 2000] [--hours 2]
    OMP_NUM_THREADS=1 python -m benchmarks.cheaper reference support2 FOLDER [--patients 2000] [--hours 2]
    OMP_NUM_THREADS=1 python -m benchmarks.cheaper report support2 FOLDER [--patients 2000]

Twelve tasks: eleven and a negative control, or those of P12. Each training is read twice, after the last epoch and as
the mean of the weights over four epochs around it, so that both are of the same seed, fold and subset. `designs`
trains up to 320 subsets in five blocks, `reference` 1,200 in 75 blocks of other seeds: designs of blocks of 16 are
drawn out of these, and held against the blocks that were not drawn. Both go on where their ledgers stand, also side
by side; `report` reads whatever they hold. In place of `support2` a folder with `embed_ab_stays24.parquet` may stand:
P12, the table of hours 0 to 24 of the PhysioNet/CinC Challenge 2012 (docs/incomplete-data.md), which is not shipped.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.training_length import part_of
from model.cohorts.cohort import Cohort, Modality, make_cohort
from model.cohorts.control import with_control
from model.networks import m3h
from model.networks.registry import identity
from model.networks.settings import M3HSettings
from model.sources.opening import open_cohort
from model.training import lockstep
from model.training.fitting import fit_pack
from model.training.pack import Fitted
from model.training.scores import score_pack
from model.training.trainer import PackTrainer, TrainingPayload
from tim_search import designs
from tim_search.executors.packing import packs
from tim_search.ledger.ledger import Ledger
from tim_search.ledger.table import lay_out
from tim_search.plans.sequential import expected_overlap
from tim_search.tim import sampled
from tim_search.tim import scores as tim
from tim_search.tim.result import TimResult
from tim_search.tim.row import Method
from tim_search.types import Context, Pack, PackResult, Task, Unit, subset

Array = NDArray[np.float64]

AVERAGE = 4
#: Of 2,000 patients of SUPPORT2 15 epochs of it make 150 updates.
BATCH = 128
BUDGETS = (80, 160, 320)
REFERENCE, REFERENCE_BLOCKS, REFERENCE_SEED = 1_200, 75, 10_000
#: Seeds of one repetition begin so far behind those of the one before.
APART = 100
FOLDS = 5

#: Twelve outcomes of P12: of pairs that are one outcome only one, none that is computed from the inputs themselves.
P12 = {
    "binary": "mortality_hosp los_gt7d vent_next aki_next hypotension_next fever_next hyperglycemia_next "
    "thrombocytopenia_next",
    "multiclass": "icu_type gcs_class_next",
    "regression": "hr_mean_next urine_log_next",
}


class Design(NamedTuple):
    """A sampled search: subsets in blocks of these seeds, and which weights are read."""

    subsets: int
    blocks: int
    seed: int

    def units(self, names: Sequence[str]) -> list[Unit]:
        """Subset t in block t modulo the number of blocks; block b has seed b more than the first, fold b modulo 5."""
        rows = designs.subsets(designs.hybrid(len(names), self.subsets, self.seed), tuple(names))
        return [
            Unit(subset(members), self.seed + t % self.blocks, t % self.blocks % FOLDS)
            for t, members in enumerate(rows)
        ]


def cohort_of(place: str) -> Cohort:
    """SUPPORT2 with its eleven tasks that have labels and a negative control, or P12 with twelve tasks."""
    if place == "support2":
        cohort = open_cohort("support2")
        named = cohort.for_tasks([name for name, task in cohort.tasks.items() if task.kind != "clustering"])
        return with_control(named, "hospdead")
    table = pd.read_parquet(Path(place) / "embed_ab_stays24.parquet")
    tasks, labels, modalities = [], {}, []
    for kind, names in P12.items():
        for name in names.split():
            label = table[f"task__{name}"].to_numpy(np.float64)
            labels[name] = label - np.nanmin(label) if kind == "multiclass" else label
            outputs = int(np.nanmax(labels[name])) + 1 if kind == "multiclass" else 1
            excludes = ("demo.demo__ICUType",) if name == "icu_type" else ()
            tasks.append(Task(name, kind, outputs, excludes=excludes))  # type: ignore[arg-type]
    for group in ("demo", "vitals", "labs", "resp", "neuro", "fluid"):
        columns = [name for name in map(str, table) if name.startswith(f"{group}__")]
        values = table[columns].to_numpy(np.float32, copy=True)
        measured = ~np.isnan(table[[name for name in columns if not name.endswith("_n")]].to_numpy(np.float32))
        present = np.asarray(measured.any(axis=1), bool)
        values[~present] = np.nan
        modalities.append(Modality(group, "vector", tuple(columns), values, {}, present))
    ids = table["recordid"].to_numpy()
    whole = make_cohort("p12", ids, ids, modalities, tasks, labels, strata=labels["mortality_hosp"])
    return whole.for_tasks([task.name for task in tasks])


# Training -------------------------------------------------------------------------------------------------------------


class _Midway(lockstep._Average):
    """The average of a pack, which keeps the weights in its middle too: those of the last epoch without averaging."""

    last: list[Tensor]

    def __init__(self, values: Any) -> None:
        super().__init__(values)
        _Midway.half = _Midway.steps * AVERAGE // 2

    def add(self) -> None:
        super().add()
        if self._count == _Midway.half + 1:
            _Midway.last = [value.clone() for value in self._values]

    steps = half = 0


class Share(NamedTuple):
    """Which part of the trainings a process makes, by seeds; it has a ledger of its own."""

    number: int = 0
    of: int = 1
    backwards: bool = False


class Reader:
    """Trains packs of a cohort once and scores them twice."""

    def __init__(self, cohort: Cohort) -> None:
        self.cohort = cohort
        self.settings = M3HSettings(average=AVERAGE, epochs=15, batch_size=BATCH)
        self._trainer = PackTrainer(TrainingPayload(cohort, "m3h", self.settings, "cpu"))
        lockstep._Average = _Midway  # type: ignore[misc]

    def context(self, average: int) -> Context:
        """Of the scores of one of the two readings."""
        text = replace(self.settings, average=average).text
        return Context(
            self.cohort.fingerprint, self.cohort.columns_digest, self.cohort.split.digest, identity("m3h"), text
        )

    def train(self, pack: Pack) -> dict[int, PackResult]:
        """The results of a pack by `average`."""
        started = time.perf_counter()
        fold = self._trainer.fold(pack.units[0].fold)
        _Midway.steps = -(-len(fold.train) // self.settings.batch_size)
        averaged = fit_pack(pack, self.cohort.tasks, fold, self.settings, m3h)
        trained = time.perf_counter() - started
        last = dict(zip(averaged.values, _Midway.last, strict=True))
        shorter = self.settings.epochs / (self.settings.epochs + AVERAGE // 2)
        settings = replace(self.settings, average=0)
        fitted = Fitted(m3h, settings, averaged.layout, last, averaged.history[: settings.epochs])
        results = {}
        for average, read, seconds in ((0, fitted, trained * shorter), (AVERAGE, averaged, trained)):
            scores, _ = score_pack(pack, read, self.cohort.tasks, fold)
            rows = tuple(replace(score, seconds=seconds / len(pack.units)) for score in scores)
            results[average] = PackResult(pack, rows, (), seconds)
        return results


def train(cohort: Cohort, folder: Path, part: str, share: Share, hours: float, repetitions: int) -> None:
    """Train designs of five blocks, or the blocks of 16, piece by piece until the time is over."""
    torch.set_num_threads(1)
    reader, ledger = (
        Reader(cohort),
        Ledger(folder / f"{part}-{share.number}-{share.of}{'-backwards' * share.backwards}"),
    )
    contexts = {average: reader.context(average) for average in (0, AVERAGE)}
    end = time.monotonic() + 3600 * hours
    with ledger.writer_lock():
        every = list(pieces(part, tuple(cohort.tasks), repetitions))
        for piece, units in every[::-1] if share.backwards else every:
            # The reading that is written last says what is done.
            mine = [unit for unit in units if unit.seed % share.of == share.number]
            todo, _ = ledger.lacking(contexts[0].key, mine)
            done, started = 0, time.process_time()
            for pack in packs(todo, cohort.tasks, 16):
                if time.monotonic() > end:
                    return
                results = reader.train(pack)
                for average in (AVERAGE, 0):
                    ledger.append(results[average], contexts[average])
                done += len(pack.units)
                each = (time.process_time() - started) / done
                print(f"{piece}: {done} of {len(todo)}, {each:.2f} processor seconds each", flush=True)
            ledger.compact()


def pieces(part: str, names: Sequence[str], repetitions: int) -> Iterator[tuple[str, list[Unit]]]:
    """What is trained, in an order in which what is there at any time can be read."""
    if part == "reference":
        units = Design(REFERENCE, REFERENCE_BLOCKS, REFERENCE_SEED).units(names)
        for first in range(0, REFERENCE_BLOCKS, FOLDS):
            seeds = range(REFERENCE_SEED + first, REFERENCE_SEED + first + FOLDS)
            yield f"reference, block {first} to {first + FOLDS - 1}", [unit for unit in units if unit.seed in seeds]
        return
    for repetition in range(repetitions):
        for n in BUDGETS:
            yield f"repetition {repetition}, {n} subsets", Design(n, FOLDS, APART * repetition).units(names)


# Reading --------------------------------------------------------------------------------------------------------------


class Judged(NamedTuple):
    """An estimate (M, M) held against a reference of other trainings on the same patients; all in units of the row.

    `squared` error less that of the reference, `covered` by the 95 % interval, by the interval without the patients'
    part, equal `signs`, `top` three in common, `discoveries` and those of them that have the reference's sign, and the
    `expected` overlap, which needs no reference.
    """

    squared: float
    covered: float
    without_patients: float
    signs: float
    top: float
    discoveries: float
    right: float
    expected: float


class Pool:
    """All scores of a cohort's trainings by reading, and TIM scores of parts of them."""

    def __init__(self, cohort: Cohort, folder: Path) -> None:
        self.names = tuple(cohort.tasks)
        reader = Reader(cohort)
        with TemporaryDirectory() as together:
            ledger = Ledger(together)
            for one in sorted(folder.glob("*-*")):
                ledger.absorb(Ledger(one))
            self._sheets = {a: ledger.sheet(reader.context(a).key, replicates=True) for a in (0, AVERAGE)}
            self.done = ledger.done(reader.context(0).key)
        self._real = np.array([name != "hospdead_permuted" for name in self.names])

    @staticmethod
    def blocks(units: Collection[Unit]) -> list[tuple[int, int]]:
        """The blocks of some units, sorted."""
        return sorted({(unit.seed, unit.fold) for unit in units})

    def tim(self, units: Collection[Unit], average: int, method: Method = "blup", *, today: bool = False) -> TimResult:
        """TIM scores of some trainings; `today`: by the mixed model without means and variances of rows."""
        table = lay_out(self._sheets[average], self.names, self.blocks(units)).of(units)
        overlaps = open_cohort("support2").overlaps
        few = sampled.FEW_TASKS
        try:
            sampled.FEW_TASKS = len(self.names) if today else few
            return tim.from_table(table, method, overlaps=overlaps, control="hospdead_permuted")
        finally:
            sampled.FEW_TASKS = few

    def cells(self, values: NDArray[Any]) -> Array:
        """The rows and columns of real tasks; the diagonal is NaN."""
        part = np.asarray(values, float)[np.ix_(self._real, self._real)]
        return np.where(np.eye(len(part), dtype=bool), np.nan, part)

    def judge(self, result: TimResult, reference: TimResult) -> Judged:
        """Hold an estimate against the reference."""
        r = self.cells(reference.estimate)
        own2 = self.cells(reference.se_sampling) ** 2 + np.nan_to_num(self.cells(reference.se_seed)) ** 2
        unit = np.sqrt(np.maximum(np.nanmean(r**2 - own2, axis=1, keepdims=True), 1e-12))
        e = self.cells(result.estimate)
        off = np.isfinite(e) & np.isfinite(r)
        half = self.cells(result.high - result.low) / 2
        ours = self.cells(result.se_sampling) ** 2 + np.nan_to_num(self.cells(result.se_seed)) ** 2
        off_by = abs(e - r)
        top = [
            np.isin(np.argsort(-np.nan_to_num(x, nan=-9e9))[:3], np.argsort(-np.nan_to_num(y, nan=-9e9))[:3]).mean()
            for x, y in zip(e, r, strict=True)
        ]
        rejected = self.cells(result.rejected) > 0
        return Judged(
            float((((e - r) ** 2 - own2) / unit**2)[off].mean()),
            float((off_by <= np.sqrt(half**2 + 1.96**2 * own2))[off].mean()),
            float((off_by <= 1.96 * np.sqrt(ours + own2))[off].mean()),
            float((np.sign(e) == np.sign(r))[off].mean()),
            float(np.mean(top)),
            float(rejected.sum()),
            float((rejected & (np.sign(e) == np.sign(r))).sum()),
            expected_overlap(e, self.cells(result.se), 3),
        )


def report(cohort: Cohort, folder: Path, draws: int) -> None:
    """Print what the ledgers hold so far."""
    pool = Pool(cohort, folder)
    reference = [unit for unit in pool.done if unit.seed >= REFERENCE_SEED]
    by_block = {block: [u for u in reference if (u.seed, u.fold) == block] for block in pool.blocks(reference)}
    whole = {block: units for block, units in by_block.items() if len(units) == REFERENCE // REFERENCE_BLOCKS}
    print(f"{len(reference)} trainings in {len(whole)} whole blocks; {len(pool.done) - len(reference)} of designs")
    same_quantity(pool, whole)
    shown = ("RMSE", "covered", "without patients", "signs", "top three", "discoveries", "right", "expected overlap")
    print("|".join(("design", "trainings", *shown)))
    dice = np.random.default_rng(0)
    for n in BUDGETS:
        rows: dict[str, list[Judged]] = {}
        five = [u for u in Design(n, FOLDS, 0).units(pool.names) if u in pool.done]
        everything = [unit for units in whole.values() for unit in units]
        gls = pool.tim(everything, 0, "gls")
        if len(five) == n:
            for name, average, today in (
                ("five blocks, last weights, one variance (today)", 0, True),
                ("five blocks, last weights", 0, False),
                ("five blocks, averaged weights", AVERAGE, False),
            ):
                rows.setdefault(name, []).append(pool.judge(pool.tim(five, average, today=today), gls))
        for _ in range(draws):
            taken = [
                block
                for fold in range(FOLDS)
                for block in dice.permutation([b for b in whole if b[1] == fold])[: n // 80].tolist()
            ]
            own = [unit for block in taken for unit in whole[tuple(block)]]
            rest = [unit for block, units in whole.items() if list(block) not in taken for unit in units]
            gls = pool.tim(rest, 0, "gls")
            for name, average, today in (
                ("blocks of 16, last weights, one variance", 0, True),
                ("blocks of 16, last weights", 0, False),
                ("blocks of 16, averaged weights (new)", AVERAGE, False),
            ):
                rows.setdefault(name, []).append(pool.judge(pool.tim(own, average, today=today), gls))
        for name, found in rows.items():
            mean = np.mean(found, axis=0)
            print(
                "|".join((name, str(n), f"{np.sqrt(max(mean[0], 0)):.3f}", *(f"{value:.3f}" for value in mean[1:]))),
                flush=True,
            )


def same_quantity(pool: Pool, whole: Mapping[tuple[int, int], list[Unit]]) -> None:
    """Print whether averaged weights have the TIM scores of the last ones: slope and correlation free of noise.

    The blocks are halved. cov(last of A, averaged of B) / cov(last of A, last of B) is the slope: noise of A and of B
    have nothing in common but the patients.
    """
    dice, slopes, correlations, ratios = np.random.default_rng(1), [], [], []
    for _ in range(6):
        order = dice.permutation(len(whole))
        halves = [[u for i in part for u in list(whole.values())[i]] for part in np.array_split(order, 2)]
        (a0, b0), (a4, b4) = ([pool.tim(half, average, "gls") for half in halves] for average in (0, AVERAGE))
        unit = np.nanstd(pool.cells(a0.estimate), axis=1, keepdims=True)

        def product(x: TimResult, y: TimResult, unit: Array = unit) -> float:
            return float(np.nanmean(pool.cells(x.estimate) / unit * pool.cells(y.estimate) / unit))

        between = (product(a0, b4) + product(a4, b0)) / 2
        slopes.append(between / product(a0, b0))
        correlations.append(between / np.sqrt(max(product(a0, b0) * product(a4, b4), 1e-12)))
        noise = [pool.cells(x.se_sampling) ** 2 + np.nan_to_num(pool.cells(x.se_seed)) ** 2 for x in (a0, a4)]
        ratios.append(np.sqrt(np.nanmean(noise[1], axis=1) / np.nanmean(noise[0], axis=1)))
    print(f"averaged against last: slope {np.mean(slopes):.2f}, correlation {np.mean(correlations):.2f}")
    rows = np.array(pool.names)[pool._real]
    print(
        "SD of noise, averaged to last, by row: "
        + ", ".join(f"{name} {ratio:.2f}" for name, ratio in zip(rows, np.mean(ratios, axis=0), strict=True))
    )


def main() -> None:
    """Train, or print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("designs", "reference", "report"))
    parser.add_argument("cohort", help="support2, or the folder of P12's table")
    parser.add_argument("folder", type=Path, help="for the ledgers")
    parser.add_argument("--patients", type=int, default=0, help="so many of the cohort, drawn at random; 0: all")
    parser.add_argument("--share", type=int, nargs=2, default=(0, 1), help="the n-th of so many processes, from 0")
    parser.add_argument("--backwards", action="store_true", help="the last pieces first, beside a process that begins")
    parser.add_argument("--hours", type=float, default=2.0, help="no pack is begun later")
    parser.add_argument("--repetitions", type=int, default=1, help="of the compared designs")
    parser.add_argument("--draws", type=int, default=8, help="of blocks out of the reference's, in the report")
    options = parser.parse_args()
    cohort = cohort_of(options.cohort)
    if options.patients:
        cohort = part_of(cohort, options.patients)
    if options.what == "report":
        report(cohort, options.folder, options.draws)
    else:
        train(
            cohort,
            options.folder,
            options.what,
            Share(options.share[0], options.share[1], options.backwards),
            options.hours,
            options.repetitions,
        )


if __name__ == "__main__":
    main()
