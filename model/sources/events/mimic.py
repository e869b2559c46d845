"""Raw MIMIC-IV to cohorts in one go: conversion to MEDS, the papers' tasks, features. Every step can be taken up again.

The events are made by the package MIMIC-IV-MEDS (extra `mimic`), which is a specification, and by the programs that it
rests on, in a process of their own. `mimic_raw.py` prepares the tables for them, so that memory stays small.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from pathlib import Path
from typing import Any

from model.sources.events import building, chest, mimic_raw, stay_labels, stays
from model.sources.events.shards import Events, open_events
from model.sources.haim_tables import Tell
from tim_search.gates import yaml
from tim_search.gates.files import make_folder, write_durably
from tim_search.gates.plain import read_object
from tim_search.gates.texts import for_terminal
from tim_search.types import BadInput

#: The papers whose tasks are made, each into a cohort of its own: their predictions are made at different times.
PAPERS = ("flexcare", "m3h")

#: In the folder that is written: the events, the tasks, what was done, and what it was done with.
EVENTS, TASKS, MANIFEST, STARTED = "meds", "tasks", "manifest.json", "started.json"
_COUNTS = "counts.json"
_NO_REPORTS = "the tables of MIMIC-CXR-JPG, which label the images, lie neither beside hosp/ and icu/ nor in cxr/."


def build(mimic: Path | None, meds: Path | None, out: Path, *, tell: Tell = lambda *_: None) -> dict[str, Any]:
    """Write the papers' cohorts; what an earlier call with the same tables has finished stays.

    Args:
        mimic: the folder of MIMIC-IV with hosp/ and icu/, as PhysioNet gives it; or
        meds: a MEDS folder that the converter has made before, or with codes like its.
        out: the folder to write: meds/ (the events; only with `mimic`), tasks/, and a cohort folder for each paper.
        tell: is told what is being done.

    Returns:
        the manifest, also written as manifest.json: versions, stays (name and rows after each filter), and papers: by
        paper the cohort's folder and its tasks, each with its counts after each filter, its samples in the cohort, and
        the paper's own count beside them.

    Raises:
        BadInput: a table or a column is missing, the converter fails, the folder belongs to other tables, or no task
            can be scored.
    """
    if (mimic is None) == (meds is None):
        raise BadInput("cohort mimic: expected --mimic or --meds, got both or none. Name the folder that you have.")
    make_folder(out)
    _begin(out, _sizes(mimic) if mimic is not None else {"meds": str(Path(str(meds)).resolve())})
    data = meds if meds is not None else mimic_raw.convert(Path(str(mimic)), out, out / EVENTS, tell)
    papers: dict[str, Any] = {}
    for paper in PAPERS:
        tasks, cohort = out / TASKS / paper, out / paper
        if not (tasks / _COUNTS).is_file():
            with open_events(data) as events:
                _make_tasks(paper, events, mimic, tasks, tell)
        if not (cohort / "cohort.yaml").is_file():
            features = _configs() / "features" / f"{paper}.yaml"
            building.build(data, tasks, cohort, features_file=features, tell=tell)
        papers[paper] = _paper(tasks, cohort, out)
    with open_events(data) as events:
        manifest = {"versions": _versions(), "stays": _stays(events), "papers": papers}
    write_durably(out / MANIFEST, json.dumps(manifest, indent=1).encode())
    return manifest


def _configs() -> Path:
    """The folder of the papers' tasks and features, which ships with the product."""
    return Path(str(files("model") / "sources" / "events" / "configs"))


def _sizes(mimic: Path) -> dict[str, int]:
    """Size in bytes of each file of MIMIC that is read."""
    images = chest.tables(mimic) or ()
    return mimic_raw.sizes(mimic) | {str(path.relative_to(mimic)): path.stat().st_size for path in images}


def _begin(out: Path, given: dict[str, Any]) -> None:
    """Write down what the folder is made from; BadInput where it was made from something else."""
    started = out / STARTED
    if started.is_file():
        if read_object(started, "record of what was begun") != given:
            raise BadInput(
                f"{for_terminal(out)}: expected the tables that it was begun with, got others ({STARTED} lists their "
                "sizes). Name a new folder."
            )
        return
    if any(out.iterdir()):
        raise BadInput(
            f"{for_terminal(out)}: expected a new or empty folder, or one that this command has begun; it holds "
            "something else. Name another one."
        )
    write_durably(started, json.dumps(given, indent=1).encode())


def _make_tasks(paper: str, events: Events, mimic: Path | None, tasks: Path, tell: Tell) -> None:
    """Fill a paper's folder of tasks: label tables, ACES configs as they are, tasks.yaml, and at last the counts."""
    make_folder(tasks)
    entries: dict[str, Any] = {}
    counts: dict[str, Any] = {}
    for path in sorted((_configs() / paper).glob("*.yaml")):
        content, _ = yaml.read(path)
        labelled: list[stay_labels.StayTask] = []
        if stay_labels.KEY in content:
            labelled = stay_labels.extract(path, events, lambda words: tell(words, 0, None))
        elif chest.KEY not in content:
            shutil.copyfile(path, tasks / path.name)
            counts[path.stem] = {"filters": {}, "paper": content.get("metadata", {})}
        elif mimic is None or chest.tables(mimic) is None:
            counts[path.stem] = {"filters": {}, "paper": content.get("paper", {}), "left_out": _NO_REPORTS}
        else:
            with tempfile.TemporaryDirectory(prefix="tim-search-chest-") as scratch:
                labelled = [chest.extract(path.stem, content, mimic, Path(scratch))]
        entries |= stay_labels.write_tables(labelled, tasks)
        counts |= {task.name: {"filters": dict(task.counts), "paper": dict(task.paper)} for task in labelled}
    write_durably(tasks / "tasks.yaml", yaml.dump({"tasks": entries}).encode())
    write_durably(tasks / _COUNTS, json.dumps(counts, indent=1).encode())


def _paper(tasks: Path, cohort: Path, out: Path) -> dict[str, Any]:
    """What the manifest says of a paper: its tasks with the counts after each filter beside the paper's."""
    counts = read_object(tasks / _COUNTS, "list of counts")
    built = read_object(cohort / MANIFEST, "manifest of a cohort")
    rows = {}
    for name, entry in counts.items():
        rows[name] = {
            "filters": [[what, count] for what, count in entry["filters"].items()],
            "samples": built["tasks"].get(name, {}).get("labelled", 0),
            "paper": entry["paper"],
        }
        if why := built["left_out"].get(name, entry.get("left_out")):
            rows[name]["left_out"] = why
    return {"cohort": cohort.relative_to(out).as_posix(), "tasks": rows}


def _stays(events: Events) -> list[list[Any]]:
    """Name and rows after each of the filters of stays that the papers' code has, over all subjects."""
    stays.check_columns(events, "cohort mimic")
    total: dict[str, int] = {}
    for _ in events.pieces(events.subjects):
        part = stays.make_stays(events.engine, "icu stays", tuple(stays.FILTERS))
        total = {name: total.get(name, 0) + count for name, count in part.items()}
    return [[name, count] for name, count in total.items()]


def _versions() -> dict[str, str]:
    """Versions of what makes the events and the tasks, of those that are installed."""
    versions = {}
    for name in ("MIMIC-IV-MEDS", "MEDS-extract", "MEDS-transforms", "es-aces", "duckdb"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions
