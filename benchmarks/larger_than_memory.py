"""FlexCare on inputs larger than memory: generated data of the paper's shapes, trained on from disk.

    OMP_NUM_THREADS=1 python -m benchmarks.larger_than_memory FOLDER --samples 39317     # a tenth of the paper, 28 GB

Writes a cohort folder of notes (512 x 768), images (3 x 224 x 224) and series (512 x 76), present task by task as in
the paper's Table 2, and prints what it takes to open it, to fit a fold's preprocessing, to train and score a pack on
rows from all over it, and a step from disk against the same step from memory on rows that fit there. A folder that is
there is used.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from rich.console import Console

from model.cohorts.cohort import Cohort
from model.data.folds import Fold, Rows, load_fold
from model.networks import flexcare
from model.networks.settings import FlexCareSettings
from model.sources.opening import open_cohort
from model.training import in_turn
from model.training.fitting import fit_pack
from model.training.scores import score_pack
from tim_search.types import Pack, Unit

#: Task -> samples, and the shares that lack series, image and note (FlexCare paper, Table 2).
TABLE = {
    "ihm": (26318, 0.0, 0.7640, 0.0749), "los": (59495, 0.0, 0.8516, 0.0827), "dec": (59269, 0.0, 0.8515, 0.0824),
    "phe": (59798, 0.0, 0.8194, 0.0830), "rea": (55712, 0.0, 0.8238, 0.0806), "dia": (132576, 0.7634, 0.0, 0.3256),
}  # fmt: skip
SHAPES = {"series": (512, 76), "image": (3, 224, 224), "notes": (512, 768)}
LABELS = {"ihm": 1, "los": 1, "dec": 1, "phe": 25, "rea": 1, "dia": 14}
SUBSETS = (("dec", "ihm", "phe"), ("dia", "ihm", "los"))
_POOL = 1 << 23  # random numbers that rows are cut from

T = TypeVar("T")

console = Console(width=110)


def main() -> None:
    """Write, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--samples", type=int, default=39317)
    parser.add_argument("--minibatches", type=int, default=8, help="of a training, at least")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    if not options.folder.exists():
        _told("writing", lambda: write(options.folder, options.samples))
    size = sum(path.stat().st_size for path in options.folder.rglob("*.npy"))
    console.print(
        f"{size / 1e9:.1f} GB of arrays; in memory, as float32 of every sample, the paper's would take 916 GB"
    )
    forget(options.folder)
    cohort = _told("opening", lambda: open_cohort(options.folder))
    fold = _told("fitting a fold", lambda: _fold(cohort))
    paper = FlexCareSettings(epochs=1, batch_size=4, replicates=0)
    small = replace(paper, width=32, layers=1, hidden=64, experts=4, expert_hidden=32, batch_size=16)
    forget(options.folder)
    networks = (("one layer, width 32, batch 16", small), ("the paper's network, batch 4", paper))
    for name, settings in networks:
        part = some(fold, options.minibatches * settings.batch_size)
        seconds, steps = train(cohort, part, settings, score=True)
        console.print(f"{name}: a pack of 2, {steps} steps from all over the files, scored: {seconds:.1f} s{_peak()}")
    for name, settings in networks:
        compare(name, cohort, some(fold, options.minibatches * settings.batch_size), settings, options.rounds)


def write(folder: Path, samples: int) -> None:
    """A cohort folder with the shapes and the shares of absent modalities of the paper."""
    dice = np.random.default_rng(0)
    folder.mkdir(parents=True)
    shares = np.array([count for count, *_ in TABLE.values()], float)
    task = dice.choice(len(TABLE), samples, p=shares / shares.sum())
    table: dict[str, pa.Array] = {"sample": pa.array(np.arange(samples)), "patient": pa.array(np.arange(samples) // 4)}
    tasks: dict[str, Mapping[str, object]] = {}
    for number, (name, count) in enumerate(LABELS.items()):
        columns = [f"{name}_{place}" for place in range(count)]
        for column in columns:
            label = dice.integers(0, 10 if name == "los" else 2, samples).astype(float)
            table[column] = pa.array(np.where(task == number, label, np.nan), from_pandas=True)
        kind = "multiclass" if name == "los" else "binary" if count == 1 else "multilabel"
        tasks[name] = {"kind": kind, "label": columns if count > 1 else columns[0]}
    pq.write_table(pa.table(table), folder / "samples.parquet")
    modalities: dict[str, Mapping[str, object]] = {}
    for place, (name, shape) in enumerate(SHAPES.items()):
        absent = np.array([lacking[place] for _, *lacking in TABLE.values()])[task]
        here = np.flatnonzero(dice.random(samples) >= absent)
        _array(folder / f"{name}.npy", (len(here), *shape), dice)
        pq.write_table(pa.table({"sample": here, "row": np.arange(len(here))}), folder / f"{name}.rows.parquet")
        named = {"shape": list(shape)} if name == "image" else {"prefix": f"{name}_"}
        kind = "image" if name == "image" else "sequence"
        modalities[name] = {"kind": kind, "file": f"{name}.npy", "index": f"{name}.rows.parquet", **named}
    description = {"format": 1, "name": "large", "sample_id": "sample", "patient_id": "patient"}
    content = json.dumps({**description, "modalities": modalities, "tasks": tasks})
    (folder / "cohort.yaml").write_text(content, encoding="utf-8")


def _array(path: Path, shape: tuple[int, ...], dice: np.random.Generator) -> None:
    """Half-precision sequences of 32 or more steps, NaN after their end; images of bytes."""
    image = len(shape) == 4
    kind = np.uint8 if image else np.float16
    numbers = dice.standard_normal(_POOL, np.float32)
    pool = np.clip(40 * numbers + 128, 0, 255).astype(kind) if image else numbers.astype(kind)
    size = int(np.prod(shape[1:]))
    with path.open("wb") as file:
        header = {"descr": np.dtype(kind).str, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        for start in dice.integers(0, _POOL - size, shape[0]).tolist():
            row = pool[start : start + size].reshape(shape[1:]).copy()
            if not image:
                row[int(dice.integers(32, shape[1] + 1)) :] = np.nan
            file.write(row.tobytes())


def forget(folder: Path) -> None:
    """Have the system drop what it holds of the files in memory."""
    os.sync()
    for path in folder.rglob("*.npy"):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def some(fold: Fold, rows: int) -> Fold:
    """A fold of training rows from all over it, with an eighth as many to choose the epoch and to be scored on."""
    order = torch.randperm(len(fold.train), generator=torch.Generator().manual_seed(0))
    few = max(24, rows // 8)
    stopping = None if fold.stopping is None else fold.stopping.take(torch.arange(few))
    return replace(
        fold,
        train=fold.train.take(order[:rows]),
        validation=fold.validation.take(torch.arange(few)),
        stopping=stopping,
        weights=fold.weights[:, :few],
    )


def train(cohort: Cohort, fold: Fold, settings: FlexCareSettings, *, score: bool = False) -> tuple[float, int]:
    """Seconds of a pack's training, and of its scores if asked for; and its steps."""
    pack = Pack(tuple(Unit(members, 0, 0) for members in SUBSETS))
    tasks = {name: cohort.tasks[name] for members in SUBSETS for name in members}
    steps = in_turn.steps_by_task(fold, tasks, settings.batch_size)
    started = time.perf_counter()
    fitted = fit_pack(pack, tasks, fold, settings, flexcare)
    if score:
        score_pack(pack, fitted, tasks, fold)
    return time.perf_counter() - started, sum(steps.values())


def compare(name: str, cohort: Cohort, fold: Fold, settings: FlexCareSettings, rounds: int) -> None:
    """Print a step from disk against one from memory, on the same rows, in rounds that take turns."""
    fold = replace(fold, stopping=None)
    here = replace(fold, train=in_memory(fold.train))
    ratios, times = [], []
    for _ in range(rounds):
        (stored, steps), (held, _) = train(cohort, fold, settings), train(cohort, here, settings)
        ratios.append(stored / held)
        times.append((stored / steps, held / steps))
    disk, memory = (1e3 * median(each) for each in zip(*times, strict=True))
    console.print(
        f"{name}: {disk:.0f} ms a step from disk, {memory:.0f} from memory; ratio {median(ratios):.2f} "
        f"({', '.join(f'{ratio:.2f}' for ratio in ratios)})"
    )


def in_memory(rows: Rows) -> Rows:
    """The same rows with their inputs in memory."""
    parts = list(rows.split(32))
    inputs = tuple(torch.cat(each) for each in zip(*(part.inputs for part in parts), strict=True))
    steps = tuple(
        None if each[0] is None else torch.cat([measured for measured in each if measured is not None])
        for each in zip(*(part.steps for part in parts), strict=True)
    )
    return replace(rows, inputs=inputs, steps=steps, unread=None)


def _fold(cohort: Cohort) -> Fold:
    return load_fold(
        cohort,
        0,
        dtype=torch.float32,
        device=torch.device("cpu"),
        replicates=0,
        stop_share=FlexCareSettings().stop_share,
    )


def _told(what: str, work: Callable[[], T]) -> T:
    """What the work gives; prints how long it took."""
    started = time.perf_counter()
    value = work()
    console.print(f"{what}: {time.perf_counter() - started:.1f} s{_peak()}")
    return value


def _peak() -> str:
    return f"; most memory so far {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB"


if __name__ == "__main__":
    main()
