"""A trainer without torch: scores are a pure function of (subset, seed, fold, task), and it misbehaves on request.

Every training that is begun is noted in a file if one is named, so that tests can count what was trained how often,
over processes that died too.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

from tim_search.types import (
    Attention,
    BadInput,
    Context,
    OutOfMemory,
    Pack,
    PackResult,
    Score,
    Subset,
    Task,
    Unit,
    digest,
)

TASKS = {
    "a": Task("a", "binary"),
    "b": Task("b", "binary"),
    "c": Task("c", "clustering", 4),
    "d": Task("d", "multiclass", 3),
    "e": Task("e", "regression"),
    "f": Task("f", "regression"),
}
CONTEXT = Context("cohort0", "columns0", "split0", "fake", '{"width":3}')


@dataclass(frozen=True)
class Behaviour:
    """What the trainer does besides scoring.

    Attributes:
        log: file that notes every unit whose training begins.
        pids: file that notes the process of every training.
        threads: file that notes how many threads the process of every training is told to use.
        seconds: how long a pack takes.
        memory: units a pack that fit; 0 is no limit.
        crash: the process of a pack with one of these subsets dies.
        crash_once: the same, but only the first time; needs `log`.
        error: training a pack with one of these subsets raises RuntimeError.
        error_once: the same, but only the first time; needs `log`.
        hang: training a pack with one of these subsets never ends.
        hang_once: the same, but only the first time; needs `log`.
        blame_input: training a pack with one of these subsets raises BadInput.
        diverge: units of these subsets get failed rows, their pack mates scores.
        silent: units of these subsets get no row at all.
        build: what building the trainer does: "" builds it, "error", "bad input" and "crash" do not.
        attention: also give attention weights.
        replicates: bootstrap replicates a score.
    """

    log: str = ""
    pids: str = ""
    threads: str = ""
    seconds: float = 0.0
    memory: int = 0
    crash: tuple[Subset, ...] = ()
    crash_once: tuple[Subset, ...] = ()
    error: tuple[Subset, ...] = ()
    error_once: tuple[Subset, ...] = ()
    hang: tuple[Subset, ...] = ()
    hang_once: tuple[Subset, ...] = ()
    blame_input: tuple[Subset, ...] = ()
    diverge: tuple[Subset, ...] = ()
    silent: tuple[Subset, ...] = ()
    build: str = ""
    attention: bool = False
    replicates: int = 0

    def write(self, path: Path) -> None:
        """Write it to a file, from where a trainer takes it anew for every pack."""
        path.write_text(json.dumps(asdict(self)))

    @classmethod
    def read(cls, path: Path) -> Behaviour:
        plain = json.loads(path.read_text())
        subsets = {name: tuple(map(tuple, item)) for name, item in plain.items() if isinstance(item, list)}
        return cls(**{**plain, **subsets})


def value(unit: Unit, task: str) -> float:
    """The score of a task: between 0 and 1, the same for ever."""
    return int(digest([list(unit.subset), unit.seed, unit.fold, task]), 16) / 2.0**64


def trainer(payload: Behaviour | Path) -> FakeTrainer:
    """The factory that executors call, with a behaviour or a file that holds the present one."""
    if isinstance(payload, Path):
        return FakeTrainer(payload)
    behaviour = payload
    if behaviour.build == "crash":
        os._exit(1)
    if behaviour.build == "error":
        raise RuntimeError("no such network")
    if behaviour.build == "bad input":
        raise BadInput("the cohort is empty")
    return FakeTrainer(behaviour)


class FakeTrainer:
    """Its scores are the same under all settings; the log tells under which a unit was trained."""

    def __init__(self, source: Behaviour | Path, *settings: str) -> None:
        self.source = source
        self.settings = settings

    def with_settings(self, settings: str) -> FakeTrainer:
        return FakeTrainer(self.source, settings)

    def train(self, pack: Pack) -> PackResult:
        behaviour = Behaviour.read(self.source) if isinstance(self.source, Path) else self.source
        subsets = {unit.subset for unit in pack.units}
        # Looked at before this training is noted.
        once = behaviour.crash_once + behaviour.error_once + behaviour.hang_once
        before = begun(behaviour.log) if once else Counter[Unit]()
        first = {unit.subset for unit in pack.units if not before[unit]}
        note(
            behaviour.log,
            "".join(json.dumps([unit.subset, unit.seed, unit.fold, *self.settings]) + "\n" for unit in pack.units),
        )
        note(behaviour.pids, f"{os.getpid()}\n")
        note(behaviour.threads, f"{os.environ.get('OMP_NUM_THREADS')}\n")
        if behaviour.memory and len(pack.units) > behaviour.memory:
            raise OutOfMemory(f"{len(pack.units)} units do not fit")
        if len(pack.units) > int(os.environ.get("FAKE_DEVICE_UNITS", 10**9)):
            raise OutOfMemory(f"{len(pack.units)} units do not fit this device")
        if subsets & set(behaviour.hang) or first & set(behaviour.hang_once):
            time.sleep(3600)
        if subsets & set(behaviour.crash) or first & set(behaviour.crash_once):
            time.sleep(0.2)  # the answer to the pack before is on its way by then
            os._exit(1)
        if subsets & set(behaviour.error) or first & set(behaviour.error_once):
            raise RuntimeError("this cannot be trained")
        if subsets & set(behaviour.blame_input):
            raise BadInput("a label column is empty")
        time.sleep(behaviour.seconds)
        units = [unit for unit in pack.units if unit.subset not in behaviour.silent]
        return PackResult(
            pack,
            tuple(score(unit, task, behaviour) for unit in units for task in unit.subset),
            tuple(
                Attention(unit, task, other, 1 / len(unit.subset))
                for unit in units
                for task in unit.subset
                for other in unit.subset
                if behaviour.attention
            ),
            behaviour.seconds,
        )


def score(unit: Unit, task: str, behaviour: Behaviour = Behaviour()) -> Score:
    """The row of a unit and task."""
    if unit.subset in behaviour.diverge:
        return Score(unit, task, TASKS[task].metric, "validation", float("nan"), "failed", "diverged at epoch 3")
    reached = value(unit, task)
    replicates = tuple(reached + index / 100 for index in range(behaviour.replicates))
    return Score(unit, task, TASKS[task].metric, "validation", reached, replicates=replicates, seconds=0.5)


def note(path: str, lines: str) -> None:
    """Append lines to a file if one is named, in one write that processes cannot mix up."""
    if path:
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(handle, lines.encode())
        os.close(handle)


def begun(log: str | Path) -> Counter[Unit]:
    """How often the training of each unit was begun."""
    every = Counter[Unit]()
    for (unit, *_), times in begun_under(log).items():
        every[unit] += times
    return every


def begun_under(log: str | Path) -> Counter[tuple[Unit, str]]:
    """How often the training of each unit was begun under each choice of settings, "" those of the payload."""
    if not Path(log).exists():
        return Counter()
    rows = [json.loads(line) for line in Path(log).read_text().splitlines()]
    return Counter((Unit(tuple(members), seed, fold), "".join(settings)) for members, seed, fold, *settings in rows)
