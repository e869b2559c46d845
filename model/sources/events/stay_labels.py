"""Labels of stays that an ACES config cannot say: days, bins, every hour, groups of codes, the DRG.

A labels file is YAML beside the ACES configs. It says which stays (`of`, `filters`), when the prediction is made
(`at`) and what the label is (`label`); docs/mimic.md lists what may stand there. The papers' tasks are such files.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from model.sources.events import stays
from model.sources.events.shards import Events
from model.sources.events.stays import DAY, HOUR
from model.sources.haim_tasks import codes
from model.sources.sql import literal
from tim_search.gates import yaml
from tim_search.gates.files import replacing
from tim_search.gates.texts import for_terminal
from tim_search.types import BadInput

#: What tells a labels file from an ACES config: its first key, with the version of the form.
KEY, FORMAT = "stay_labels", 1

# Diagnoses and DRGs are stamped with the discharge. One second earlier (times have whole seconds) none can be an input.
_DISCHARGE = "discharged - 1000000"
_ENDS = {"stay": f"least(left_at, {_DISCHARGE})", "admission": _DISCHARGE}
#: Stands for the table of diagnoses of `cohort haim`, one task a disease.
HAIM = "haim"
#: Where the label schema of MEDS keeps a label: by kind of task, texts by themselves.
_VALUES = {
    "text": ("categorical_value", pa.string()),
    "binary": ("boolean_value", pa.bool_()),
    "multilabel": ("boolean_value", pa.bool_()),
    "multiclass": ("integer_value", pa.int64()),
    "regression": ("float_value", pa.float32()),
}
_NUMBERS = {"days in unit": "left_at", "days in hospital": "discharged"}


@dataclass(frozen=True, eq=False)
class StayTask:
    """What a labels file makes of a MEDS folder.

    Attributes:
        name: of the task.
        rows: subject (int64), moment (int64, microseconds since 1970), and label, or label_0, label_1 ... of a
            multilabel task: numbers, or texts of a multiclass one.
        entry: kind, and department or classes where there are any: as cohort.yaml has them.
        counts: stays and samples after each filter, in order.
        paper: what the paper counts, as the file has it; empty where it says nothing.
    """

    name: str
    rows: pd.DataFrame
    entry: Mapping[str, Any]
    counts: Mapping[str, int]
    paper: Mapping[str, Any]


def extract(path: Path, events: Events, tell: Callable[[str], None]) -> list[StayTask]:
    """The tasks of a labels file, whose name is the task's: one, or one a disease where it lists several.

    Raises:
        BadInput: the file, or a file of codes it names, is not as docs/mimic.md says; the events lack ids of stays.
    """
    shown = for_terminal(path.name)
    spec = _read(shown, path)
    stays.check_columns(events, shown)
    label = spec["label"]
    groups = _groups(shown, path, label) if "groups" in label else {}
    times, select, entry = _times(shown, spec["at"]), _label(shown, label, len(groups)), _entry(label, tuple(groups))
    counts: dict[str, int] = {}
    frames = []
    for subjects in events.pieces(events.subjects):
        tell(f"labelling {path.stem}, {len(subjects):,} subjects")
        part = stays.make_stays(events.engine, spec["of"], spec["filters"])
        counts = {name: counts.get(name, 0) + count for name, count in part.items()}
        events.engine.execute(f"CREATE OR REPLACE TEMP TABLE samples AS {times}")
        if groups:
            stays.make_groups(events.engine, list(groups.values()))
        frames.append(events.engine.execute(select).df())
    rows = pd.concat(frames, ignore_index=True)
    counts["samples"] = len(rows)
    paper = spec.get("paper", {})
    if label.get("groups") != HAIM:
        return [StayTask(path.stem, rows, entry, counts, paper)]
    departments = {code.task: code.department for code in codes()}
    return [
        StayTask(
            name,
            rows[["subject", "moment", f"label_{number}"]].rename(columns={f"label_{number}": "label"}),
            {"kind": "binary", "department": departments[name]},
            counts,
            paper,
        )
        for number, name in enumerate(groups)
    ]


def _read(shown: str, path: Path) -> dict[str, Any]:
    """A labels file with all its keys."""
    content = _content(shown, path)
    if content.get(KEY) != FORMAT:
        raise BadInput(f"{shown}: expected `{KEY}: {FORMAT}` in a labels file. Begin it so.")
    spec = {"of": "icu stays", "filters": [], **content}
    _allowed(shown, "key", spec, {KEY, "of", "filters", "at", "label", "paper"})
    _allowed(shown, "of", [spec["of"]], stays.OF)
    _allowed(shown, "filters", spec["filters"] if isinstance(spec["filters"], list) else ["no list"], stays.FILTERS)
    for key in ("at", "label"):
        if not isinstance(spec.get(key), dict):
            raise BadInput(f"{shown}: expected `{key}:` with keys and values, got none. docs/mimic.md shows them.")
    return spec


def _content(shown: str, path: Path) -> dict[str, Any]:
    try:
        content, _ = yaml.read(path)
    except (yaml.NotYaml, UnicodeDecodeError, OSError) as error:
        raise BadInput(
            f"{shown}: expected YAML in {for_terminal(path.name)}: {for_terminal(error)}. Mend it."
        ) from error
    if not isinstance(content, dict):
        raise BadInput(f"{shown}: expected keys and values in {for_terminal(path.name)}. docs/mimic.md shows them.")
    return content


def _allowed(shown: str, what: str, given: Iterable[Any], allowed: Iterable[str]) -> None:
    """Raise BadInput unless all that is given is allowed."""
    words = sorted(allowed)
    for word in given:
        if word not in words:
            raise BadInput(f"{shown}: {what}: expected one of {', '.join(words)}; got {for_terminal(word)}. Mend it.")


def _whole(shown: str, what: str, given: Any) -> int:
    if not isinstance(given, int) or isinstance(given, bool) or given < 0:
        raise BadInput(f"{shown}: {what}: expected a whole number of hours from 0, got {for_terminal(given)}. Mend it.")
    return given


def _times(shown: str, at: Mapping[str, Any]) -> str:
    """SQL of the samples: the rows of `stays`, each with the moment of its prediction."""
    _allowed(shown, "at", at, ("hour", "end", "every_hour_after", "keep"))
    alive = "least(left_at, CASE WHEN died THEN died_at ELSE left_at END)"
    if "hour" in at:
        hour = _whole(shown, "at: hour", at["hour"])
        return f"SELECT *, entered + {hour * HOUR} AS moment FROM stays WHERE entered + {hour * HOUR} <= {alive}"
    if "end" in at:
        _allowed(shown, "at: end", [at["end"]], _ENDS)
        return f"SELECT *, {_ENDS[at['end']]} AS moment FROM stays WHERE {_ENDS[at['end']]} >= entered"
    after = _whole(shown, "at: every_hour_after", at.get("every_hour_after"))
    _allowed(shown, "at: keep", [at.get("keep")], ("one", "all"))
    hours = (
        f"SELECT *, entered + hour * {HOUR} AS moment FROM (SELECT *, unnest(range({after + 1}, "
        f"(({alive}) - entered) // {HOUR} + 1)) AS hour FROM stays)"
    )
    if at["keep"] == "all":
        return hours
    # The same hour on any machine and in any order of rows: a hash stands in for chance.
    drawn = "ORDER BY md5(concat_ws(',', subject, icustay_id, hour))"
    return f"SELECT * FROM ({hours}) QUALIFY row_number() OVER (PARTITION BY subject, icustay_id {drawn}) = 1"


def _label(shown: str, label: Mapping[str, Any], n_groups: int) -> str:
    """SQL of subject, moment and the label of each sample."""
    _allowed(shown, "label", label, ("number", "bins", "death_within_hours", "groups", "names", "code"))
    if "number" in label:
        _allowed(shown, "label: number", [label["number"]], _NUMBERS)
        days = f"({_NUMBERS[label['number']]} - s.moment) / {DAY}.0"
        if "bins" not in label:
            return f"SELECT s.subject, s.moment, {days} AS label FROM samples s"
        edges = label["bins"]
        numbers = isinstance(edges, list) and all(type(edge) in (int, float) and math.isfinite(edge) for edge in edges)
        if not numbers or not edges or edges != sorted(set(edges)):
            given = for_terminal(str(edges)[:80])
            raise BadInput(f"{shown}: label: bins: expected days in rising order such as [3, 7], got {given}. Mend it.")
        steps = " + ".join(f"({days} >= {float(edge)})::INT" for edge in edges)
        return f"SELECT s.subject, s.moment, ({steps})::DOUBLE AS label FROM samples s"
    if "death_within_hours" in label:
        within = _whole(shown, "label: death_within_hours", label["death_within_hours"]) * HOUR
        return f"SELECT s.subject, s.moment, (died AND died_at - s.moment < {within})::DOUBLE AS label FROM samples s"
    if "groups" in label:
        flags = ", ".join(
            f"coalesce(list_contains(g.numbers, {number}), false)::DOUBLE AS label_{number}"
            for number in range(n_groups)
        )
        joined = "samples s LEFT JOIN groups_of_admission g USING (subject, hadm_id)"
        return f"SELECT s.subject, s.moment, {flags} FROM {joined}"
    if "code" in label:
        begin = str(label["code"])
        return (
            f"SELECT s.subject, s.moment, min(substr(e.code, {len(begin) + 1})) AS label FROM samples s "
            f"JOIN events e USING (subject, hadm_id) WHERE starts_with(e.code, {literal(begin)}) "
            "GROUP BY s.subject, s.moment"
        )
    raise BadInput(f"{shown}: label: expected number, death_within_hours, groups or code. docs/mimic.md shows them.")


def _entry(label: Mapping[str, Any], groups: tuple[str, ...]) -> dict[str, Any]:
    """The task's kind as cohort.yaml has it."""
    if groups:
        return {"kind": "multilabel", "classes": list(groups)}
    if "code" in label:
        return {"kind": "multiclass"}
    if "bins" in label:
        return {"kind": "multiclass", "classes": [str(number) for number in range(len(label["bins"]) + 1)]}
    return {"kind": "regression" if "number" in label else "binary"}


def _groups(shown: str, path: Path, label: Mapping[str, Any]) -> dict[str, pa.Table]:
    """name -> the codes of a group: begin (how they begin, in MEDS), whole (whether that is the whole code)."""
    if label["groups"] == HAIM:
        return {
            task: _table([(f"icd{code.version}", code.prefix) for code in codes() if code.task == task])
            for task in dict.fromkeys(code.task for code in codes())
        }
    content = _content(shown, path.parent / str(label["groups"]))
    groups, names = content.get("groups", {}), label.get("names")
    if not isinstance(names, list) or not names:
        raise BadInput(f"{shown}: label: expected `names:`, the groups that are labelled, got none. List them.")
    _allowed(shown, "names", names, groups)
    return {
        name: _table([(it, code) for it in stays.DIAGNOSES for code in str(groups[name].get(it, "")).split()])
        for name in names
    }


def _table(listed: Iterable[tuple[str, str]]) -> pa.Table:
    """The codes (vocabulary, how a code begins or, with = after it, a whole code) as the events have them."""
    rows = [
        (front + code.removesuffix("="), code.endswith("=")) for it, code in listed for front in stays.DIAGNOSES[it]
    ]
    return pa.table({"begin": [begin for begin, _ in rows], "whole": [whole for _, whole in rows]})


def write_tables(tasks: Iterable[StayTask], folder: Path) -> dict[str, Any]:
    """Write label tables of MEDS into a folder, NAME.parquet; returns what tasks.yaml has to say of them, by task.

    A multilabel task becomes one table a label, NAME-0.parquet and so on: the label schema of MEDS has no lists.
    """
    entries: dict[str, Any] = {}
    for task in tasks:
        parts = [column for column in task.rows.columns if column.startswith("label")]
        files = [task.name] if parts == ["label"] else [f"{task.name}-{number}" for number in range(len(parts))]
        for part, file in zip(parts, files, strict=True):
            label = pa.array(task.rows[part], from_pandas=True)  # not a number is no label
            name, kind = _VALUES[task.entry["kind"] if pa.types.is_floating(label.type) else "text"]
            table = {
                "subject_id": pa.array(task.rows["subject"], pa.int64()),
                "prediction_time": pa.array(task.rows["moment"], pa.int64()).cast(pa.timestamp("us")),
                name: label.cast(kind),
            }
            with replacing(folder / f"{file}.parquet") as aside:
                pq.write_table(pa.table(table), aside)
        entries[task.name] = dict(task.entry) | ({} if parts == ["label"] else {"label": files})
    return entries


@contextmanager
def expanded(tasks: Path, events: Events, tell: Callable[[str], None]) -> Iterator[Path]:
    """A folder of tasks whose labels files have become label tables; the folder itself where it has none.

    Raises:
        BadInput: a labels file cannot be used, or tasks.yaml cannot be read beside one.
    """
    paths = sorted(tasks.glob("*.yaml")) if tasks.is_dir() else []
    mine = [path for path in paths if _is_mine(path)]
    if not mine:
        yield tasks
        return
    with tempfile.TemporaryDirectory(prefix="tim-search-labels-") as scratch:
        folder = Path(scratch)
        entries = write_tables([task for path in mine for task in extract(path, events, tell)], folder)
        for path in tasks.iterdir():
            if path not in mine and path.name != "tasks.yaml":
                (folder / path.name).symlink_to(path.resolve())
        declared = _content("tasks.yaml", tasks / "tasks.yaml") if tasks / "tasks.yaml" in paths else {}
        merged = declared | {"tasks": entries | (declared.get("tasks") or {})}
        (folder / "tasks.yaml").write_text(yaml.dump(merged), encoding="utf-8")
        try:
            yield folder
        except BadInput as error:
            # Told of the folder that the user has, not of this one, which is gone by then.
            raise BadInput(str(error).replace(str(folder), for_terminal(tasks))) from error


def _is_mine(path: Path) -> bool:
    """Whether a file is a labels file; one that cannot be read is told of where it is used."""
    try:
        content, _ = yaml.read(path)
    except (yaml.NotYaml, UnicodeDecodeError, OSError):
        return False
    return isinstance(content, dict) and KEY in content
