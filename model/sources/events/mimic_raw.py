"""The tables of MIMIC-IV, prepared for the converter and handed to it.

The converter takes the types of CSV from whole columns, and needed 20 GB for MIMIC-IV 3.1 by its own account. Here
DuckDB first writes the columns that it reads as Parquet, with the types of MIMIC's documentation, in little memory; the
converter takes such files as they are. What it would fetch from the network (maps of codes to other vocabularies) is
used where it lies in the folder, and left out where it does not.
"""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from model.sources.haim_tables import Tell
from model.sources.sql import identifier, literal
from model.sources.tables_text import refusals_told, small_engine
from tim_search.gates import yaml
from tim_search.gates.files import make_folder, replacing, write_durably
from tim_search.gates.texts import for_terminal
from tim_search.types import BadInput, some

_ENDINGS = (".csv.gz", ".csv")
_TABLES, _SPEC = "raw", "spec.yaml"
#: Lies in the folder of events when they are complete.
_DONE = "converted"
#: Of the converter's folders those that are MEDS, or say what was done; the others are steps in between.
_KEPT = ("data", "metadata", ".logs", ".meds_extract_run")

#: Types of columns, by name, as mimic.mit.edu and mimic-code's create.sql have them; all others are texts. drg_code is
#: a text there; the converter, which looks at the values, makes it a number, and its codes depend on that.
_WHOLE = {
    "subject_id", "hadm_id", "stay_id", "itemid", "icd_version", "pharmacy_id", "emar_seq", "orderid", "linkorderid",
    "anchor_age", "anchor_year", "drg_code", "drg_severity", "drg_mortality",
}  # fmt: skip
_NUMBERS = {"valuenum", "rate", "amount", "patientweight", "doses_per_24_hrs"}
#: The column `value` is a text in events of charts and the laboratory, and a number here.
_NUMBER_VALUES = {"icu/outputevents", "icu/procedureevents"}

# Two threads hold fewer pieces at once than all cores, and the streaming engine holds no whole column.
_SMALL = {"POLARS_MAX_THREADS": "2", "POLARS_ENGINE_AFFINITY": "streaming", "PYTHONSAFEPATH": "1"}


def sizes(mimic: Path) -> dict[str, int]:
    """Name and size in bytes of each file that is read; BadInput where one is missing."""
    return {str(path.relative_to(mimic)): path.stat().st_size for path in _all(mimic)}


def convert(mimic: Path, out: Path, target: Path, tell: Tell) -> Path:
    """The folder of MEDS events made from MIMIC-IV; what an earlier call has finished stays.

    Args:
        mimic: the folder with hosp/ and icu/.
        out: where the prepared tables and the specification go.
        target: the folder of events.

    Raises:
        BadInput: the extra is not installed, a table is missing or is none, or the converter fails.
    """
    if (target / _DONE).is_file():
        return target
    columns, metadata = _needed()
    raw = out / _TABLES
    for number, (prefix, names) in enumerate(columns.items()):
        tell(f"preparing {prefix}", number, len(columns))
        _prepare(_file(mimic, prefix), raw / f"{prefix}.parquet", prefix, names)
    there = {prefix: path for prefix in metadata if (path := _optional(mimic, prefix))}
    for prefix, path in there.items():
        link = raw / (prefix + "".join(path.suffixes[-2:] if path.name.endswith(".gz") else path.suffixes[-1:]))
        make_folder(link.parent)
        if not link.is_symlink():
            link.symlink_to(path.resolve())
    write_durably(out / _SPEC, yaml.dump(_without_missing(set(there))).encode())
    tell("converting to MEDS, which takes its time", 0, None)
    _run(out, target)
    for step in (raw, *(path for path in target.iterdir() if path.is_dir() and path.name not in _KEPT)):
        shutil.rmtree(step)
    write_durably(target / _DONE, b"")
    return target


def _spec() -> dict[str, Any]:
    """The specification of the package MIMIC-IV-MEDS."""
    try:
        path = Path(str(files("MIMIC_IV_MEDS") / "event_configs.yaml"))
    except ModuleNotFoundError as error:
        raise BadInput(
            "cohort mimic: expected the converter MIMIC-IV-MEDS, it is not installed. Install tim-search[mimic], or "
            "convert elsewhere and name the folder with --meds."
        ) from error
    content, _ = yaml.read(path)
    return dict(content)


@cache
def _needed() -> tuple[Mapping[str, list[str]], list[str]]:
    """Columns that the converter reads, by table (hosp/labevents), and the tables that describe codes."""
    spec = _spec()
    from MEDS_extract.config import MessyConfig

    logging.getLogger("MEDS_extract").setLevel(logging.ERROR)  # it warns of what the specification means to do
    parsed = MessyConfig.parse({key: value for key, value in spec.items() if key not in ("sources", "etl")})
    described = {prefix for _, event in _events(spec) for prefix in event.get("_metadata", {})} - {"_self"}
    return {str(prefix): sorted(names) for prefix, names in parsed.needed_source_columns().items()}, sorted(described)


def _events(spec: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Table and description of each kind of event."""
    for table, events in spec.items():
        if "/" in table:
            for name, event in events.items():
                if not name.startswith("_"):
                    yield table, event


def _without_missing(there: set[str]) -> dict[str, Any]:
    """The specification without what describes codes from tables that are not there, and without anything to fetch."""
    spec = {key: value for key, value in _spec().items() if key != "sources"}
    for _, event in _events(spec):
        described = {prefix: what for prefix, what in event.pop("_metadata", {}).items() if prefix in {*there, "_self"}}
        if described:
            event["_metadata"] = described
    return spec


def _all(mimic: Path) -> list[Path]:
    columns, metadata = _needed()
    lacking = [prefix for prefix in columns if _optional(mimic, prefix) is None]
    if lacking:
        raise BadInput(
            f"{for_terminal(mimic)}: expected the tables of MIMIC-IV as PhysioNet gives them, hosp/NAME.csv.gz and "
            f"icu/NAME.csv.gz; {some(lacking)} are missing. Name the folder that has hosp/ and icu/."
        )
    return [_file(mimic, prefix) for prefix in columns] + [it for name in metadata if (it := _optional(mimic, name))]


def _file(mimic: Path, prefix: str) -> Path:
    path = _optional(mimic, prefix)
    assert path is not None, "`sizes` has looked"
    return path


def _optional(mimic: Path, prefix: str) -> Path | None:
    return next((path for ending in _ENDINGS if (path := mimic / f"{prefix}{ending}").is_file()), None)


def _prepare(source: Path, target: Path, prefix: str, names: list[str]) -> None:
    """Write the columns of a table as Parquet, with their types; a file that is there is whole."""
    if target.is_file():
        return
    numbers = _NUMBERS | ({"value"} if prefix in _NUMBER_VALUES else set())
    kinds = {name: "BIGINT" if name in _WHOLE else "DOUBLE" if name in numbers else "VARCHAR" for name in names}
    make_folder(target.parent)
    columns_to_parquet(source, target, kinds)


def columns_to_parquet(source: Path, target: Path, kinds: Mapping[str, str]) -> None:
    """Write some columns of a table of PhysioNet, .csv or .csv.gz, as Parquet.

    Args:
        kinds: by column the type in DuckDB's words.

    Raises:
        BadInput: it lacks a column, or a value is of another type.
    """
    shown = for_terminal(f"{source.parent.name}/{source.name}")
    packed = "gzip" if source.suffix == ".gz" else "none"
    form = f"header=true, all_varchar=true, delim=',', quote='\"', escape='\"', compression='{packed}'"
    with (
        replacing(target) as aside,
        tempfile.TemporaryDirectory(prefix="tim-search-mimic-") as scratch,
        small_engine(source, aside, Path(scratch)) as (engine, link),
        refusals_told(shown),
    ):
        given = [row[0] for row in engine.execute(f"DESCRIBE FROM read_csv({literal(link)}, {form})").fetchall()]
        if lacking := sorted(set(kinds) - set(given)):
            raise BadInput(
                f"{shown}: expected the columns {some(lacking)}, as PhysioNet gives them; they are not there."
            )
        columns = ", ".join(f"{identifier(name)}::{kind} AS {identifier(name)}" for name, kind in kinds.items())
        table = f"read_csv({literal(link)}, {form})"
        engine.execute(f"COPY (SELECT {columns} FROM {table}) TO {literal(aside)} (FORMAT parquet)")


def _run(out: Path, target: Path) -> None:
    """Run the converter in a process of its own, from the folder `out`, so that no path needs quotes."""
    run = "from MEDS_extract.run.cli import main; main()"
    options = [
        f"spec=./{_SPEC}", f"output_dir={target.name}", "do_download=false", f"input_dir={_TABLES}",
        "dataset_version=unknown",
    ]  # fmt: skip
    log = out / "converter.log"
    scripts = sysconfig.get_path("scripts")  # it starts its steps by the names of their programs
    with open(log, "wb") as written:
        done = subprocess.run(
            [sys.executable, "-P", "-c", run, *options],
            cwd=out,
            env={**os.environ, **_SMALL, "PATH": os.pathsep.join((scripts, os.environ.get("PATH", os.defpath)))},
            stdout=written,
            stderr=subprocess.STDOUT,
            check=False,
        )
    if done.returncode:
        raise BadInput(
            f"{for_terminal(out)}: the converter ended with status {done.returncode}; {log.name} there says why. Mend "
            "it and run the same command again: it goes on where it stopped."
        )
